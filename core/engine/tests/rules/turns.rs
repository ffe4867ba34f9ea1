//! Turns: one member's flood of slow commands holds up nobody else for long, and no other conversation at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use haggle_engine::{Outcome, Refusal};
use haggle_model::{ErrorCode, Limits};

use crate::support::{
    Answer, Setup, World, call,
    plugins::{Fake, FakePlugins},
    send, unlimited,
};

/// A command that takes 50 ms and counts how often it ran.
fn slow(ran: &Arc<AtomicUsize>) -> Arc<FakePlugins> {
    let ran = ran.clone();
    let slow = Fake::new("slow").command("slow", move |_, _, _| {
        let ran = ran.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            ran.fetch_add(1, Ordering::SeqCst);
            Ok("{}".into())
        }
    });
    FakePlugins::of([slow])
}

async fn outcomes(answers: Vec<Answer>) -> Vec<Result<Outcome, Refusal>> {
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(answer.await.expect("everything is answered"));
    }
    outcomes
}

fn overloaded(outcomes: &[Result<Outcome, Refusal>]) -> usize {
    outcomes
        .iter()
        .filter(|outcome| {
            outcome
                .as_ref()
                .is_err_and(|refusal| refusal.code == ErrorCode::Overloaded && refusal.retry_after.is_some())
        })
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_member_lets_others_through() {
    let ran = Arc::new(AtomicUsize::new(0));
    let world = World::with_hooks(slow(&ran)).await;
    let group = world.group("mal", &["ann", "bob"]).await;
    let elsewhere = world.direct("ann", "bob").await;
    let flood: Vec<Answer> = (0..200).map(|_| world.submit("mal", None, call(group, "slow", "{}"))).collect();
    for round in 0..3 {
        let before = ran.load(Ordering::SeqCst);
        world.send("ann", elsewhere, "undisturbed").await.unwrap();
        assert!(ran.load(Ordering::SeqCst) - before <= 1, "another conversation waits for nobody");
        let before = ran.load(Ordering::SeqCst);
        world.send("ann", group, "let me through").await.unwrap();
        let waited = ran.load(Ordering::SeqCst) - before;
        assert!(waited <= 2, "round {round}: ann's send waited for {waited} of mal's commands");
    }
    let flood = outcomes(flood).await;
    // One runs, 64 wait; while they were being submitted one more may have ended.
    assert!(
        (65..=67).contains(&(flood.len() - overloaded(&flood))),
        "{} of 200 found room",
        flood.len() - overloaded(&flood)
    );
}

#[tokio::test]
async fn a_full_queue_is_overloaded_for_everybody() {
    let ran = Arc::new(AtomicUsize::new(0));
    let world = World::with_hooks(slow(&ran)).await;
    let users: Vec<String> = (0..6).map(|n| format!("user{n}")).collect();
    let others: Vec<&str> = users.iter().map(String::as_str).collect();
    let group = world.group("admin", &others).await;
    let mut flood = Vec::new();
    for user in &users {
        flood.extend((0..64).map(|_| world.submit(user, None, call(group, "slow", "{}"))));
    }
    let refused = world.send("admin", group, "no room").await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after.is_some()), (ErrorCode::Overloaded, true));
    assert_eq!(flood.len(), 384);
    let refused_at_once = flood
        .iter_mut()
        .filter_map(|answer| answer.try_recv().ok())
        .filter(Result::is_err)
        .count();
    assert_eq!(refused_at_once, 384 - 1 - 256, "one runs, 256 wait");
    world.engine.shutdown().await;
}

#[tokio::test]
async fn who_waits_too_long_is_overloaded_and_nothing_was_written() {
    let ran = Arc::new(AtomicUsize::new(0));
    let limits = Limits {
        turn_wait_max: Duration::from_millis(300),
        ..unlimited()
    };
    let world = World::with(Setup {
        hooks: slow(&ran),
        limits,
        ..Setup::default()
    })
    .await;
    let group = world.group("mal", &["ann"]).await;
    let mut flood: Vec<Answer> = (0..20).map(|_| world.submit("mal", None, call(group, "slow", "{}"))).collect();
    flood.push(world.submit("mal", None, send(group, "too late")));
    let flood = outcomes(flood).await;
    let refused = overloaded(&flood);
    assert!(
        (10..=20).contains(&refused),
        "about 6 of 50 ms each fit into 300 ms: {refused} were refused"
    );
    assert_eq!(flood.last().unwrap().as_ref().unwrap_err().code, ErrorCode::Overloaded);
    assert!(world.messages(group).await.is_empty());
    assert_eq!(ran.load(Ordering::SeqCst), flood.len() - refused, "what was refused never ran");
    world.send("mal", group, "in time").await.unwrap();
}

#[tokio::test]
async fn a_removed_member_cannot_slip_a_message_in_behind_a_slow_hook() {
    let slow = Fake::new("slow").before_message(|_, _, draft| async move {
        tokio::time::sleep(Duration::from_millis(30)).await;
        Ok(draft)
    });
    let world = World::with_hooks(FakePlugins::of([slow])).await;
    let group = world.group("ann", &["bob"]).await;
    let first = world.submit("bob", None, send(group, "first"));
    let removal = world.submit(
        "ann",
        None,
        haggle_engine::Command::RemoveParticipant {
            conversation: group,
            user: "bob".into(),
        },
    );
    let second = world.submit("bob", None, send(group, "second"));
    assert!(first.await.unwrap().is_ok());
    assert!(removal.await.unwrap().is_ok());
    assert_eq!(second.await.unwrap().unwrap_err().code, ErrorCode::NotFound);
    let names: Vec<String> = world.names(group).await.into_iter().map(|(_, name)| name).collect();
    assert_eq!(names.last().unwrap(), "participant.left");
}

#[tokio::test]
async fn a_client_that_leaves_takes_nothing_back() {
    let slow = Fake::new("slow").before_message(|_, _, draft| async move {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(draft)
    });
    let world = World::with_hooks(FakePlugins::of([slow])).await;
    let id = world.direct("ann", "bob").await;
    for n in 0..20 {
        drop(world.submit("ann", None, send(id, &n.to_string())));
    }
    world.send("ann", id, "last").await.unwrap();
    assert_eq!(world.messages(id).await.len(), 21);
}
