//! Plugins that act as the user of their call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use haggle_engine::{
    Actor, Command, NewMessage, Refusal, To, Transport,
    ports::{HttpRequest, HttpResponse},
};
use haggle_model::ErrorCode;
use parking_lot::Mutex;

use crate::support::{
    Setup, World, call,
    plugins::{Fake, FakePlugins, Host, reject},
    unlimited,
};

/// What the handler said last, as its client would hear it.
type Said = Arc<Mutex<Option<Refusal>>>;

fn request(key: Option<&str>) -> HttpRequest {
    HttpRequest {
        method: "POST".into(),
        path: "/plugins/shop/send".into(),
        params: Vec::new(),
        query: String::new(),
        headers: key.map(|key| ("idempotency-key".to_owned(), key.to_owned())).into_iter().collect(),
        body: Vec::new(),
    }
}

fn ok() -> HttpResponse {
    HttpResponse {
        status: 200,
        headers: Vec::new(),
        body: Vec::new(),
    }
}

async fn send_to_bob(host: &Host, text: &str) -> Result<haggle_engine::Outcome, Refusal> {
    let message = NewMessage::text(text);
    let client = host.client().expect("an http handler may act as its user");
    client
        .write(
            Command::Send {
                to: To::User("bob".into()),
                message,
            },
            None,
        )
        .await
}

/// A route that sends one message as its user, and notes how that ended.
fn sender(said: Said) -> Fake {
    Fake::new("shop").http(move |host, _, _| {
        let said = said.clone();
        async move {
            *said.lock() = send_to_bob(&host, "hello").await.err();
            Ok(ok())
        }
    })
}

async fn ask(world: &World, user: &str, key: Option<&str>) {
    let actor = Actor::user(user, Transport::Rest);
    let response = world.engine.http(actor, String::new(), &"shop".into(), request(key)).await;
    assert_eq!(response.expect("answered").status, 200);
}

#[tokio::test]
async fn what_a_plugin_does_as_its_user_meets_the_users_rules() {
    let said = Said::default();
    let gate = Fake::new("gate").before_message(|_, call, draft| async move {
        assert_eq!((call.actor.user.as_str(), draft.sender.as_str()), ("ann", "ann"));
        if draft.text == "hello" { Err(reject("too_plain")) } else { Ok(draft) }
    });
    let world = World::with_hooks(FakePlugins::of([sender(said.clone()), gate])).await;
    ask(&world, "ann", None).await;
    let refused = said.lock().clone().expect("the gate says no");
    assert_eq!(refused.plugin.as_deref().map(|plugin| plugin.1.as_str()), Some("too_plain"));

    let said = Said::default();
    let world = World::with_hooks(FakePlugins::of([sender(said.clone())])).await;
    let block = Command::Block {
        user: "ann".into(),
        blocked: true,
    };
    world.run("bob", block).await.expect("blocked");
    ask(&world, "ann", None).await;
    assert_eq!(said.lock().as_ref().map(|refusal| refusal.code), Some(ErrorCode::Blocked));

    let said = Said::default();
    let limits = haggle_model::Limits {
        rate_per_second: 1,
        rate_burst: 2,
        ..unlimited()
    };
    let setup = Setup {
        hooks: FakePlugins::of([sender(said.clone())]),
        limits,
        ..Setup::default()
    };
    let world = World::with(setup).await;
    for _ in 0..3 {
        ask(&world, "ann", None).await;
    }
    assert_eq!(said.lock().as_ref().map(|refusal| refusal.code), Some(ErrorCode::RateLimited));
}

#[tokio::test]
async fn nobody_acts_as_a_user_without_being_one() {
    let said = Said::default();
    let world = World::with_hooks(FakePlugins::of([sender(said.clone())])).await;
    for nobody in ["", "plugin:shop"] {
        *said.lock() = None;
        ask(&world, nobody, None).await;
        assert_eq!(said.lock().as_ref().map(|refusal| refusal.code), Some(ErrorCode::Unauthenticated));
    }
}

#[tokio::test]
async fn handlers_of_turns_have_no_user_side() {
    let plugin = Fake::new("shop")
        .command("shop.try", |host, _, _| async move { Ok(host.client().is_some().to_string()) })
        .before_message(|host, _, draft| async move {
            assert!(host.client().is_none());
            Ok(draft)
        });
    let world = World::with_hooks(FakePlugins::of([plugin])).await;
    let id = world.direct("ann", "bob").await;
    let answer = world.run("ann", call(id, "shop.try", "null")).await.expect("answered").answer;
    assert_eq!(answer.as_deref(), Some("false"));
    world.send("ann", id, "hi").await.expect("sent");
}

#[tokio::test]
async fn a_handler_that_runs_again_sends_once() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    let plugin = Fake::new("shop").http(move |host, _, _| {
        let runs = counted.clone();
        async move {
            let seen = host.kv_get("count").await.map_err(|error| error.to_string())?;
            let first = send_to_bob(&host, "one").await.map_err(|error| error.to_string())?;
            let second = send_to_bob(&host, "two").await.map_err(|error| error.to_string())?;
            let run = runs.fetch_add(1, SeqCst);
            assert_eq!((first.duplicate, second.duplicate), (run > 0, run > 0), "run {run}");
            // The two requests overlap here: what the later one has read will have changed.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let count = seen.map_or(0, |count| count[0]) + 1;
            host.kv_set("count", vec![count], None).map_err(|error| error.to_string())?;
            Ok(ok())
        }
    });
    let other = Arc::new(AtomicU32::new(0));
    let world = Arc::new(World::with_hooks(FakePlugins::of([plugin])).await);
    // The same request twice at once: one of them finds that its key has changed, and runs again.
    let at_once: Vec<_> = (0..2)
        .map(|_| {
            let (world, other) = (world.clone(), other.clone());
            tokio::spawn(async move {
                ask(&world, "ann", Some("order 7")).await;
                other.fetch_add(1, SeqCst);
            })
        })
        .collect();
    for task in at_once {
        task.await.expect("answered");
    }
    assert_eq!(other.load(SeqCst), 2);
    let id = world.direct("ann", "bob").await;
    assert_eq!(world.texts(id).await, ["one", "two"], "each stands there once");
}

#[tokio::test]
async fn reads_are_the_users_own() {
    let plugin = Fake::new("shop").http(|host, call, _| async move {
        let client = host.client().expect("an http handler may act as its user");
        let views = client.conversations(None, None, 10).await.map_err(|error| error.to_string())?;
        let unread: u32 = client.unread_total().await.map_err(|error| error.to_string())?;
        let expect = match call.actor.user.as_str() {
            "ann" => (1, 0),
            "bob" => (1, 2),
            _ => (0, 0),
        };
        assert_eq!((views.len(), unread), expect, "{}", call.actor.user);
        if let Some(view) = views.first() {
            assert_eq!(view.participants.len(), 2);
            assert_eq!(view.last_message.as_ref().map(|message| message.content.text.as_str()), Some("two"));
            let direct = client.direct_id(&"bob".into()).await.map_err(|error| error.to_string())?;
            assert_eq!(direct == view.conversation.id, call.actor.user.as_str() == "ann");
        }
        let id = host.context_id("order", "7").map_err(|error| error.to_string())?;
        assert_eq!(
            client.messages(id, None, 10).await.err().map(|refusal| refusal.code),
            Some(ErrorCode::NotFound)
        );
        Ok(ok())
    });
    let world = World::with_hooks(FakePlugins::of([plugin])).await;
    let id = world.direct("ann", "bob").await;
    for text in ["one", "two"] {
        world.send("ann", id, text).await.expect("sent");
    }
    for user in ["ann", "bob", "eve"] {
        ask(&world, user, None).await;
    }
}
