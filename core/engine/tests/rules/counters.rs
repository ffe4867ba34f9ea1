//! Counters in global kv: every add of a committed transaction counts, once.

use std::{sync::Arc, time::Duration};

use haggle_engine::{Refusal, ports::HostError};
use haggle_model::{ConversationId, Shard};
use haggle_store::MemoryStore;

use crate::support::{
    HOUR, Setup, World, eventually,
    plugins::{Fake, FakePlugins, reject},
};

fn unable(error: HostError) -> Refusal {
    reject(&error.to_string())
}

/// `add` adds the payload's number to `n`, `add-and-fail` does so and says no, `set` sets it, `get` reads it.
fn counter() -> Arc<FakePlugins> {
    let plugin = Fake::new("counter")
        .command("add", |host, _, by| async move {
            host.global_add("n", by.parse().expect("a number")).map_err(unable)?;
            Ok("null".into())
        })
        .command("add-and-fail", |host, _, by| async move {
            host.global_add("n", by.parse().expect("a number")).map_err(unable)?;
            Err(reject("no"))
        })
        .command("set", |host, _, value| async move {
            host.global_set("n", value.into(), Some(3600)).map_err(unable)?;
            Ok("null".into())
        })
        .command("get", |host, _, _| async move {
            let value = host.global_get("n").await.map_err(unable)?.unwrap_or_default();
            Ok(String::from_utf8(value).expect("text"))
        });
    FakePlugins::of([plugin])
}

async fn value(world: &World, id: ConversationId) -> String {
    world.call("ann", id, "get", "null").await.expect("answered").answer.expect("an answer")
}

async fn becomes(world: &World, id: ConversationId, expect: &str) {
    eventually(&format!("the counter is {expect}"), async || value(world, id).await == expect).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_adds_at_one_instant_all_count() {
    let setup = Setup {
        store: Arc::new(MemoryStore::new(4)),
        hooks: counter(),
        ..Setup::default()
    };
    let world = World::with(setup).await;
    let mut conversations = Vec::new();
    for other in ["bob", "cid", "dan", "eve", "fay"] {
        conversations.push(world.direct("ann", other).await);
    }
    let adds = (0..100).map(|n| {
        let (by, conversation) = (if n % 4 == 0 { "-3" } else { "7" }, conversations[n % conversations.len()]);
        let add = crate::support::call(conversation, "add", by);
        world.submit("ann", None, add)
    });
    let adds: Vec<_> = adds.collect();
    for add in adds {
        add.await.expect("answered").expect("committed");
    }
    let refused = world.call("ann", conversations[0], "add-and-fail", "1000").await;
    assert!(refused.is_err(), "what does not commit does not count");
    becomes(&world, conversations[0], &(75 * 7 - 25 * 3).to_string()).await;
    assert!(world.engine.settle(Duration::from_secs(10)).await);
    assert_eq!(value(&world, conversations[1]).await, "450", "and it stays");
    assert_eq!(world.store.failed_count().await.unwrap(), 0);
}

#[tokio::test]
async fn an_add_that_is_carried_again_counts_once() {
    let world = World::with_hooks(counter()).await;
    let id = world.direct("ann", "bob").await;
    let before = world.store.cursors(Shard(0)).await.unwrap();
    world.call("ann", id, "add", "5").await.unwrap();
    becomes(&world, id, "5").await;
    // The feed forgets that it carried the add, and carries it again.
    world.kill().await;
    world.store.save_cursors(Shard(0), before).await.unwrap();
    let world = world.restart(counter()).await;
    world.call("ann", id, "add", "1").await.unwrap();
    becomes(&world, id, "6").await;
    assert!(world.engine.settle(Duration::from_secs(10)).await);
    assert_eq!(value(&world, id).await, "6");
}

#[tokio::test]
async fn a_counter_stays_within_its_bounds_and_ends_when_it_was_to() {
    let world = World::with_hooks(counter()).await;
    let id = world.direct("ann", "bob").await;
    world.call("ann", id, "set", &(i64::MAX - 1).to_string()).await.unwrap();
    world.call("ann", id, "add", "5").await.unwrap();
    becomes(&world, id, &i64::MAX.to_string()).await;
    world.clock.advance(HOUR);
    assert_eq!(value(&world, id).await, "", "an add does not prolong a key");
    world.call("ann", id, "add", &i64::MIN.to_string()).await.unwrap();
    world.call("ann", id, "add", "-1").await.unwrap();
    becomes(&world, id, &i64::MIN.to_string()).await;
    assert!(world.engine.settle(Duration::from_secs(10)).await);
    assert_eq!(value(&world, id).await, i64::MIN.to_string());

    world.call("ann", id, "set", "many").await.unwrap();
    world.call("ann", id, "add", "1").await.unwrap();
    eventually("the operator hears of it", async || world.store.failed_count().await.unwrap() == 1).await;
    assert_eq!(value(&world, id).await, "many", "what is no number stays what it is");
}
