//! Reservations of global keys: exactly one holder, whatever happens to it.

use std::{sync::Arc, time::Duration};

use haggle_engine::{Refusal, ports::HostError};
use haggle_model::ErrorCode;
use tokio::sync::watch;

use crate::support::{
    World, eventually,
    plugins::{Fake, FakePlugins, reject},
    send_kind,
};

fn unable(error: HostError) -> Refusal {
    reject(&error.to_string())
}

/// Where hooks hang until it ends.
struct Pause(watch::Sender<bool>);

impl Pause {
    fn new() -> Arc<Pause> {
        Arc::new(Pause(watch::Sender::new(true)))
    }

    fn end(&self) {
        self.0.send_replace(false);
    }

    async fn ended(&self) {
        self.0.subscribe().wait_for(|on| !on).await.expect("the sender is in this struct");
    }
}

/// A message of kind `booking` reserves the keys that its text names; with `hang` among them it then waits for the pause's end.
fn booker(pause: &Arc<Pause>) -> Fake {
    let pause = pause.clone();
    Fake::new("booker")
        .claims("booking")
        .before_message(move |host, _, draft| {
            let pause = pause.clone();
            async move {
                let keys: Vec<String> = draft.text.split(' ').filter(|key| *key != "hang").map(str::to_owned).collect();
                if !host.global_reserve(keys, draft.sender.as_str().into()).await.map_err(unable)? {
                    return Err(reject("slot_taken"));
                }
                if draft.text.contains("hang") {
                    pause.ended().await;
                }
                Ok(draft)
            }
        })
        .command("cancel", |host, _, payload| async move {
            host.global_release(payload.split(' ').map(str::to_owned).collect()).map_err(unable)?;
            Ok("{}".into())
        })
        .command("who", |host, _, key| async move {
            let holder = host.global_get(&key).await.map_err(unable)?;
            Ok(format!("{:?}", holder.map(|value| String::from_utf8(value).unwrap())))
        })
}

fn plugins() -> Arc<FakePlugins> {
    FakePlugins::of([booker(&Pause::new())])
}

fn is_taken(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::PluginRejected && &*refusal.message == "slot_taken"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_bookings_at_one_instant_exactly_one_wins() {
    let world = World::with_hooks(plugins()).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    let third = world.direct("cid", "pro").await;
    for n in 0..200 {
        // Both want the slot; each also wants one that the loser must get rid of again.
        let first = world.submit("ann", None, send_kind(one, "booking", &format!("slot{n} left{n}")));
        let second = world.submit("bob", None, send_kind(two, "booking", &format!("right{n} slot{n}")));
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        let free = match (&first, &second) {
            (Ok(_), Err(refusal)) if is_taken(refusal) => format!("right{n}"),
            (Err(refusal), Ok(_)) if is_taken(refusal) => format!("left{n}"),
            both => panic!("round {n}: not exactly one: {both:?}"),
        };
        world
            .run("cid", send_kind(third, "booking", &free))
            .await
            .expect("what the loser held beside is free again");
    }
    let booked = world.messages(one).await.len() + world.messages(two).await.len();
    assert_eq!(booked, 200);
}

#[tokio::test]
async fn a_released_slot_can_be_booked_again_and_a_release_counts_once() {
    let world = World::with_hooks(plugins()).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    world.run("ann", send_kind(one, "booking", "noon")).await.unwrap();
    eventually("the booking is kept", async || {
        world.call("ann", one, "who", "noon").await.unwrap().answer.as_deref() == Some("Some(\"ann\")")
    })
    .await;
    assert!(is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err()));
    let before = world.store.cursors(haggle_model::Shard(0)).await.unwrap();
    world.call("ann", one, "cancel", "noon").await.unwrap();
    eventually("the slot is free", async || {
        world.run("bob", send_kind(two, "booking", "noon")).await.is_ok()
    })
    .await;
    // The feed forgets that it carried the release, and carries it again.
    world.kill().await;
    world.store.save_cursors(haggle_model::Shard(0), before).await.unwrap();
    let world = world.restart(plugins()).await;
    world
        .run("cid", send_kind(world.direct("cid", "pro").await, "booking", "other"))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        world.call("bob", two, "who", "noon").await.unwrap().answer.as_deref(),
        Some("Some(\"bob\")")
    );
    let third = world.direct("dan", "pro").await;
    assert!(
        is_taken(&world.run("dan", send_kind(third, "booking", "noon")).await.unwrap_err()),
        "bob's booking still stands"
    );
}

#[tokio::test]
async fn a_holder_that_hangs_is_settled_and_can_write_no_more() {
    let pause = Pause::new();
    let world = World::with_hooks(FakePlugins::of([booker(&pause)])).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    let hanging = world.submit("ann", Some("a1"), send_kind(one, "booking", "noon hang"));
    eventually("ann's hook holds the slot", async || {
        is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err())
    })
    .await;
    world.clock.advance(10_001);
    world
        .run("bob", send_kind(two, "booking", "noon"))
        .await
        .expect("an old pending reservation is settled");
    pause.end();
    let late = hanging.await.unwrap().unwrap_err();
    assert_eq!(late.code, ErrorCode::Unavailable, "its transaction is refused: {late}");
    assert!(world.messages(one).await.is_empty());
    let again = world.run_with_id("ann", "a1", send_kind(one, "booking", "noon hang")).await.unwrap_err();
    assert!(is_taken(&again), "a retry is judged anew: {again}");
    assert_eq!(world.messages(two).await.len(), 1);
}

#[tokio::test]
async fn a_settled_command_that_is_sent_again_can_take_effect() {
    let pause = Pause::new();
    let world = World::with_hooks(FakePlugins::of([booker(&pause)])).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    let hanging = world.submit("ann", Some("a1"), send_kind(one, "booking", "noon hang"));
    eventually("ann's hook holds the slot", async || {
        is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err())
    })
    .await;
    world.clock.advance(10_001);
    world.run("bob", send_kind(two, "booking", "noon")).await.unwrap();
    pause.end();
    assert_eq!(hanging.await.unwrap().unwrap_err().code, ErrorCode::Unavailable);
    world.call("bob", two, "cancel", "noon").await.unwrap();
    eventually("the slot is free", async || {
        world.run_with_id("ann", "a1", send_kind(one, "booking", "noon hang")).await.is_ok()
    })
    .await;
    assert_eq!(world.messages(one).await.len(), 1);
    let third = world.direct("cid", "pro").await;
    world.clock.advance(10_001);
    assert!(
        is_taken(&world.run("cid", send_kind(third, "booking", "noon")).await.unwrap_err()),
        "and what it reserves is its own"
    );
}

#[tokio::test]
async fn a_holder_that_takes_long_but_is_not_met_keeps_its_slot() {
    let pause = Pause::new();
    let world = World::with_hooks(FakePlugins::of([booker(&pause)])).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    let slow = world.submit("ann", None, send_kind(one, "booking", "noon hang"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    world.clock.advance(60_000);
    pause.end();
    slow.await.unwrap().expect("no time alone takes a reservation away");
    world.clock.advance(60_000);
    assert!(is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err()));
}

#[tokio::test]
async fn a_dead_holders_slot_is_free_after_ten_seconds_and_a_committed_one_never() {
    let world = World::with_hooks(plugins()).await;
    let (one, two) = (world.direct("ann", "pro").await, world.direct("bob", "pro").await);
    drop(world.submit("ann", Some("a1"), send_kind(one, "booking", "noon hang")));
    eventually("ann's hook holds the slot", async || {
        is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err())
    })
    .await;
    world.run("bob", send_kind(two, "booking", "evening")).await.unwrap();
    let world = world.restart(plugins()).await;
    assert!(
        is_taken(&world.run("bob", send_kind(two, "booking", "noon")).await.unwrap_err()),
        "perhaps its holder still runs"
    );
    world.clock.advance(10_001);
    world
        .run("bob", send_kind(two, "booking", "noon"))
        .await
        .expect("its holder never committed");
    let third = world.direct("cid", "pro").await;
    assert!(
        is_taken(&world.run("cid", send_kind(third, "booking", "evening")).await.unwrap_err()),
        "booked before the crash"
    );
    let world = world.restart(plugins()).await;
    world.clock.advance(10_001);
    for slot in ["noon", "evening"] {
        assert!(
            is_taken(&world.run("cid", send_kind(third, "booking", slot)).await.unwrap_err()),
            "{slot} is booked"
        );
    }
}

#[tokio::test]
async fn the_holder_gets_true_again_and_a_failed_handler_gives_back() {
    let twice = Fake::new("twice").claims("booking").before_message(|host, _, draft| async move {
        for _ in 0..2 {
            assert!(
                host.global_reserve(vec![draft.text.clone()], Vec::new()).await.map_err(unable)?,
                "its own"
            );
        }
        if draft.metadata.is_some() {
            Err(reject("changed_its_mind"))
        } else {
            Ok(draft)
        }
    });
    let world = World::with_hooks(FakePlugins::of([twice])).await;
    let id = world.direct("ann", "pro").await;
    let booking = |metadata: Option<&str>| haggle_engine::Command::Send {
        to: haggle_engine::To::Conversation(id),
        message: haggle_engine::NewMessage {
            kind: "booking".into(),
            metadata: metadata.map(str::to_owned),
            ..haggle_engine::NewMessage::text("noon")
        },
    };
    assert_eq!(
        world.run_with_id("ann", "a1", booking(Some("{}"))).await.unwrap_err().code,
        ErrorCode::PluginRejected
    );
    world
        .run_with_id("ann", "a2", booking(None))
        .await
        .expect("the refused command held nothing any more");
}
