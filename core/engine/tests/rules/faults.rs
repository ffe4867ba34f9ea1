//! A store that fails: nothing that rested on a lost append is answered or pushed, and a retry gives one message.

use std::{sync::Arc, time::Duration};

use haggle_engine::{Command, Health};
use haggle_model::ErrorCode;
use haggle_store::{AppendError, MemoryStore, decorate::When};

use crate::support::{Setup, World, eventually, send};

fn broken() -> AppendError {
    AppendError::Failed("planned".into())
}

async fn recovered(world: &World) {
    eventually("the store recovers", async || world.engine.health() == Health::Ready).await;
}

async fn the_nth_append_fails(nth: u64, when: When, error: AppendError) {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let (ann, bob) = (world.connect("ann"), world.connect("bob"));
    world.faults.fail_append(nth, error, when);
    world.faults.fail_recoveries(1);
    let mut failed = None;
    for n in 1..=u64::max(nth, 4) {
        let answer = world.run_with_id("ann", &format!("k{n}"), send(id, &n.to_string())).await;
        match answer {
            Ok(_) => assert!(n < nth, "acked although the append failed"),
            Err(refusal) if failed.is_none() => {
                assert_eq!((n, refusal.code), (nth, ErrorCode::Unavailable), "nobody knows what became of it");
                assert_eq!(world.engine.health(), Health::ReadOnly);
                failed = Some(n);
            }
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::ReadOnly),
        }
    }
    assert_eq!(bob.texts(id).len() as u64, nth - 1, "nothing is pushed that was not acked");
    assert_eq!(
        world
            .run(
                "bob",
                Command::Delete {
                    message: id.message(9_999),
                    if_rev: None
                }
            )
            .await
            .unwrap_err()
            .code,
        ErrorCode::NotFound,
        "reads go on"
    );
    recovered(&world).await;
    for n in 1..=4 {
        let answer = world.run_with_id("ann", &format!("k{n}"), send(id, &n.to_string())).await.unwrap();
        assert_eq!(answer.duplicate, n < nth || (n == nth && when == When::After), "{n} of {nth}, {when:?}");
    }
    assert_eq!(world.texts(id).await, ["1", "2", "3", "4"]);
    let history = world.names(id).await;
    let heard: Vec<_> = history[3..].to_vec(); // connected after it was created and both had joined
    for listener in [&ann, &bob] {
        eventually("what was written is heard", async || listener.events(id).len() == heard.len()).await;
        assert_eq!(listener.events(id), heard, "what one hears is the history");
    }
    assert_eq!((world.unread("ann", id).await, world.unread("bob", id).await), (0, 4));
}

#[tokio::test]
async fn a_failed_append_is_not_acked_and_its_retry_gives_one_message() {
    let full = || AppendError::Full("no space".into());
    let unavailable = || AppendError::Unavailable("planned".into());
    tokio::join!(
        the_nth_append_fails(1, When::Before, broken()),
        the_nth_append_fails(1, When::After, broken()),
        the_nth_append_fails(3, When::Before, broken()),
        the_nth_append_fails(3, When::After, broken()),
        the_nth_append_fails(2, When::Before, full()),
        the_nth_append_fails(2, When::Before, unavailable()),
    );
}

async fn what_is_staged_on_top_fails_too(when: When) {
    let store = Arc::new(MemoryStore::new(1).with_log_pages_of(3)); // less than what was written although the append failed
    let world = World::with(Setup { store, ..Setup::default() }).await;
    let id = world.direct("ann", "bob").await;
    let bob = world.connect("bob");
    world.faults.delay_appends(Duration::from_millis(20));
    world.faults.fail_append(2, broken(), when);
    let appends = world.faults.appends();
    let submit = |n: u32| world.submit("ann", Some(&format!("k{n}")), send(id, &format!("{n:02}")));
    let mut answers = vec![submit(0)];
    eventually("the first append runs", async || world.faults.appends() > appends).await;
    answers.extend((1..60).map(submit));
    let mut acked = Vec::new();
    for (n, answer) in answers.into_iter().enumerate() {
        match answer.await.unwrap() {
            Ok(_) => acked.push(format!("{n:02}")),
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::Unavailable),
        }
    }
    assert!(acked.len() < 60, "the second append failed");
    assert_eq!(bob.texts(id), acked, "exactly what was acked has been pushed");
    world.faults.clear();
    recovered(&world).await;
    for n in 0..60 {
        world.run_with_id("ann", &format!("k{n}"), send(id, &format!("{n:02}"))).await.unwrap();
    }
    let texts = world.texts(id).await;
    assert_eq!(texts, (0..60).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    eventually("the last one is pushed", async || bob.texts(id).len() >= texts.len()).await;
    assert_eq!(bob.texts(id), texts, "each is pushed once");
}

#[tokio::test]
async fn what_was_staged_on_a_lost_append_is_lost_with_it() {
    tokio::join!(
        what_is_staged_on_top_fails_too(When::Before),
        what_is_staged_on_top_fails_too(When::After)
    );
}

#[tokio::test]
async fn a_refusal_that_rests_on_a_lost_append_is_not_given() {
    let world = World::new().await;
    let group = world.group("ann", &["bob"]).await;
    world.faults.delay_appends(Duration::from_millis(50));
    world.faults.fail_append(1, broken(), When::Before);
    let removal = world.submit(
        "ann",
        None,
        Command::RemoveParticipant {
            conversation: group,
            user: "bob".into(),
        },
    );
    let hello = world.submit("bob", Some("k"), send(group, "hello"));
    assert_eq!(removal.await.unwrap().unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(hello.await.unwrap().unwrap_err().code, ErrorCode::Unavailable, "bob was never removed");
    world.faults.clear();
    recovered(&world).await;
    world.run_with_id("bob", "k", send(group, "hello")).await.expect("bob is still in it");
}

#[tokio::test]
async fn a_conversation_that_gets_warm_while_the_store_is_away_is_read_again() {
    let world = World::new().await;
    let (id, other) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    world.faults.fail_append(1, broken(), When::After);
    world.faults.fail_recoveries(1);
    assert_eq!(
        world.run_with_id("ann", "k1", send(id, "1")).await.unwrap_err().code,
        ErrorCode::Unavailable
    );
    // Warm again, by commands that are refused.
    for conversation in [id, other] {
        assert_eq!(world.send("ann", conversation, "x").await.unwrap_err().code, ErrorCode::ReadOnly);
    }
    recovered(&world).await;
    world.run_with_id("ann", "k2", send(id, "2")).await.unwrap();
    assert!(world.run_with_id("ann", "k1", send(id, "1")).await.unwrap().duplicate);
    assert_eq!(world.texts(id).await, ["1", "2"]);
    let seqs: Vec<u32> = world.history(id).await.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u32).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_personal_log_hears_of_an_append_whose_outcome_was_unknown() {
    let world = World::new().await;
    let id = world.direct("ann", "bob").await;
    let ann = world.connect("ann");
    let me = world.engine.personal(&"ann".into()).await.unwrap();
    world.faults.fail_append(1, broken(), When::After);
    let archive = Command::Archive {
        conversation: id,
        archived: true,
    };
    assert_eq!(world.run_with_id("ann", "k", archive).await.unwrap_err().code, ErrorCode::Unavailable);
    recovered(&world).await;
    eventually("her other devices hear of it", async || {
        ann.events(me).iter().any(|(_, name)| name == "conversation.archived")
    })
    .await;
}
