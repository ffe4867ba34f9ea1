//! Who is there and who is typing: hints that end by themselves.

use std::time::Duration;

use haggle_engine::{Actor, Command, Transport, What};
use haggle_model::{ConversationId, Limits, Millis};

use crate::support::{Listener, START, Setup, World, eventually, unlimited};

/// (user, online, last seen) as it was told.
fn presence(listener: &Listener) -> Vec<(String, bool, Option<Millis>)> {
    let heard = listener.heard.lock().unwrap();
    let told = heard.iter().filter_map(|push| match &push.what {
        What::Presence { user, online, last_seen } => Some((user.to_string(), *online, *last_seen)),
        _ => None,
    });
    told.collect()
}

/// Whether bob was said to be typing or not, in order.
fn typing(listener: &Listener, id: ConversationId) -> Vec<bool> {
    let heard = listener.heard.lock().unwrap();
    let told = heard.iter().filter_map(|push| match &push.what {
        What::Typing { conversation, user, on, .. } if *conversation == id && user.as_str() == "bob" => Some(*on),
        _ => None,
    });
    told.collect()
}

#[tokio::test]
async fn who_leaves_was_last_seen_then_also_after_a_restart() {
    let world = World::new().await;
    world.direct("ann", "bob").await;
    let ann = world.connect("ann");
    let bob = world.connect("bob");
    eventually("ann hears that bob is there", async || presence(&ann) == [("bob".into(), true, None)]).await;
    assert_eq!(world.engine.presence(&"bob".into()).await.unwrap(), (true, None));
    world.clock.advance(60_000);
    world.engine.disconnect(&*bob, "closed");
    let left = START + 60_000;
    assert_eq!(world.engine.presence(&"bob".into()).await.unwrap(), (false, Some(left)));
    world.clock.advance(60_000);
    eventually("ann hears that bob is gone", async || {
        presence(&ann).last() == Some(&("bob".into(), false, Some(left)))
    })
    .await;
    world.engine.shutdown().await;
    let again = World::with(Setup {
        store: world.store.clone(),
        ..Setup::default()
    })
    .await;
    assert_eq!(again.engine.presence(&"bob".into()).await.unwrap(), (false, Some(left)));
    assert_eq!(again.engine.presence(&"cid".into()).await.unwrap(), (false, None), "never seen");
}

#[tokio::test]
async fn who_comes_back_is_shown_everybody_present_once() {
    let world = World::new().await;
    let group = world.group("ann", &["bob", "cid"]).await;
    let leave = Command::RemoveParticipant {
        conversation: group,
        user: "bob".into(),
    };
    world.run("bob", leave).await.unwrap();
    let both = [world.direct("ann", "bob").await, world.direct("ann", "cid").await];
    let ann = world.connect("ann");
    world.engine.show_presence_again(&*ann, &[group, both[0], both[1]]).await;
    let mut shown: Vec<String> = presence(&ann).into_iter().map(|(user, ..)| user).collect();
    shown.sort();
    assert_eq!(shown, ["bob", "cid"], "bob has left the group only, and cid is in two");
}

#[tokio::test]
async fn who_comes_back_at_once_was_never_away() {
    let world = World::new().await;
    world.direct("ann", "bob").await;
    let ann = world.connect("ann");
    let bob = world.connect("bob");
    eventually("ann hears that bob is there", async || presence(&ann).len() == 1).await;
    world.engine.disconnect(&*bob, "closed");
    let _again = world.connect("bob");
    tokio::time::sleep(Duration::from_millis(2_300)).await; // longer than the grace
    assert!(presence(&ann).iter().all(|(_, online, _)| *online), "{:?}", presence(&ann));
}

#[tokio::test]
async fn typing_ends_by_itself_unless_it_goes_on() {
    let world = World::with(Setup {
        limits: Limits {
            typing_ttl: Duration::from_millis(300),
            ..unlimited()
        },
        ..Setup::default()
    })
    .await;
    let id = world.direct("ann", "bob").await;
    let ann = world.connect("ann");
    let bob = Actor::user("bob", Transport::Ws);
    world.engine.typing(&bob, id, true);
    eventually("ann sees bob typing", async || typing(&ann, id).first() == Some(&true)).await;
    eventually("it ends without another sign", async || typing(&ann, id) == [true, false]).await;
    world.engine.typing(&bob, id, true);
    eventually("bob types again", async || typing(&ann, id).get(2) == Some(&true)).await;
    world.engine.typing(&bob, id, false);
    eventually("and stops", async || typing(&ann, id) == [true, false, true, false]).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(typing(&ann, id).len(), 4, "what has ended does not end again");
}
