//! Exactly once for who asks.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use haggle_engine::{Command, NewConversation, Outcome, ports::HostCalls};
use haggle_model::ErrorCode;

use crate::support::{
    Answer, World, eventually,
    plugins::{Fake, FakePlugins, Host, reject},
    send, send_kind,
};

/// Sends each of `texts` three times at once; all three answers name one message that stands there once.
async fn storm(world: &World, kind: &str, texts: &[String]) {
    let id = world.direct("ann", "bob").await;
    let bob = world.connect("bob");
    // As many at a time as one user may have waiting.
    for wave in texts.chunks(20) {
        let copies: Vec<(usize, Answer)> = (0..3)
            .flat_map(|_| {
                (0..wave.len())
                    .map(|n| (n, world.submit("ann", Some(&format!("id of {}", wave[n])), send_kind(id, kind, &wave[n]))))
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut answers: Vec<Vec<Outcome>> = vec![Vec::new(); wave.len()];
        for (n, answer) in copies {
            answers[n].push(answer.await.unwrap().unwrap());
        }
        for outcomes in answers {
            let seqs: BTreeSet<_> = outcomes.iter().map(|outcome| (outcome.seq, outcome.at)).collect();
            assert_eq!(seqs.len(), 1, "three copies, one answer: {outcomes:?}");
            assert_eq!(outcomes.iter().filter(|outcome| !outcome.duplicate).count(), 1);
        }
    }
    assert_eq!(world.texts(id).await, texts);
    eventually("bob hears all", async || bob.texts(id).len() >= texts.len()).await;
    assert_eq!(bob.texts(id), texts, "pushed once each");
}

fn texts(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{name} {n:04}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_copies_at_once_are_stored_once() {
    storm(&World::new().await, "text", &texts("plain", 10_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_for_the_copy_in_flight_behind_a_slow_hook() {
    let slow = Fake::new("slow").before_message(|_, _, draft| async move {
        tokio::time::sleep(Duration::from_millis(3)).await;
        Ok(draft)
    });
    storm(&World::with_hooks(FakePlugins::of([slow])).await, "text", &texts("slow", 100)).await;
}

async fn book(host: Host, slot: &str) -> Result<(), haggle_engine::Refusal> {
    let reserved = host
        .global_reserve(vec![slot.to_owned()], b"taken".to_vec())
        .await
        .map_err(|error| reject(&error.to_string()))?;
    if reserved { Ok(()) } else { Err(reject("slot_taken")) }
}

fn booker() -> Fake {
    Fake::new("booker").claims("booking").before_message(|host, _, draft| async move {
        if draft.kind == "booking" {
            book(host, &draft.text).await?;
        }
        Ok(draft)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_booking_books_its_slot_once_and_keeps_it() {
    let world = World::with_hooks(FakePlugins::of([booker()])).await;
    let slots = texts("slot", 10_000);
    storm(&world, "booking", &slots).await;
    let other = world.direct("cid", "dan").await;
    for slot in slots.iter().step_by(7) {
        assert_eq!(
            world.run("cid", send_kind(other, "booking", slot)).await.unwrap_err().code,
            ErrorCode::PluginRejected,
            "{slot} is taken"
        );
    }
}

#[tokio::test]
async fn a_refusal_is_judged_anew() {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let gate = open.clone();
    let gatekeeper = Fake::new("gate").before_message(move |_, _, draft| {
        let open = gate.load(std::sync::atomic::Ordering::SeqCst);
        async move { if open { Ok(draft) } else { Err(reject("closed")) } }
    });
    let world = World::with_hooks(FakePlugins::of([gatekeeper])).await;
    let id = world.direct("ann", "bob").await;
    assert_eq!(
        world.run_with_id("ann", "k", send(id, "hi")).await.unwrap_err().code,
        ErrorCode::PluginRejected
    );
    open.store(true, std::sync::atomic::Ordering::SeqCst);
    let done = world.run_with_id("ann", "k", send(id, "hi")).await.unwrap();
    assert!(!done.duplicate, "the refusal was not remembered");
    assert!(world.run_with_id("ann", "k", send(id, "hi")).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_retry_is_recognised_after_a_restart() {
    let plugins = || FakePlugins::of([Fake::new("counter").command("count", |host, _, _| async move { count(&*host).await })]);
    let world = World::with_hooks(plugins()).await;
    let group = world.group("ann", &["bob"]).await;
    let counting = || crate::support::call(group, "count", "{}");
    let new = || {
        Command::CreateConversation(NewConversation::Group {
            participants: vec!["bob".into()],
            name: Some("again".into()),
            avatar: None,
        })
    };
    let first = world.run_with_id("ann", "c1", counting()).await.unwrap();
    let made = world.run_with_id("ann", "g1", new()).await.unwrap();
    let world = world.restart(plugins()).await;
    let again = world.run_with_id("ann", "c1", counting()).await.unwrap();
    assert_eq!(
        (again.answer.as_deref(), again.duplicate),
        (Some("1"), true),
        "the answer of a plugin's command too"
    );
    assert_eq!(world.run_with_id("ann", "c2", counting()).await.unwrap().answer.as_deref(), Some("2"));
    assert_eq!(
        world.run_with_id("ann", "g1", new()).await.unwrap().conversation,
        made.conversation,
        "a group is made once"
    );
    assert_eq!(first.conversation, group);
}

async fn count(host: &dyn HostCalls) -> Result<String, haggle_engine::Refusal> {
    let old = host.kv_get("count").await.expect("a valid key").map_or(0, |value| value[0]);
    host.kv_set("count", vec![old + 1], None).expect("room for one write");
    Ok((old + 1).to_string())
}

#[tokio::test]
async fn ids_of_other_users_and_conversations_do_not_collide() {
    let world = World::new().await;
    let (one, two) = (world.direct("ann", "bob").await, world.direct("ann", "cid").await);
    for (user, id) in [("ann", one), ("bob", one), ("ann", two), ("cid", two)] {
        assert!(!world.run_with_id(user, "same", send(id, "hi")).await.unwrap().duplicate);
    }
}
