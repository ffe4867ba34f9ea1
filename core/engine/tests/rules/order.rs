//! One order per conversation, whoever looks and however slow the hooks are.

use std::{sync::Arc, time::Duration};

use haggle_model::ConversationId;
use haggle_store::MemoryStore;

use crate::support::{
    Setup, World, eventually,
    plugins::{Fake, FakePlugins},
    send,
};

const MEMBERS: [&str; 3] = ["ann", "bob", "cid"];
const CONVERSATIONS: usize = 6;
const SENT_BY_EACH: usize = 40;

/// A hook that takes 0 to 3 ms, by the text.
fn slow_by_chance() -> Fake {
    Fake::new("slow").before_message(|_, _, draft| async move {
        let hash = draft
            .text
            .bytes()
            .fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        tokio::time::sleep(Duration::from_micros(hash % 3_000)).await;
        Ok(draft)
    })
}

async fn everybody_sees_one_dense_order(shards: u16) {
    let world = World::with(Setup {
        store: Arc::new(MemoryStore::new(shards)),
        hooks: FakePlugins::of([slow_by_chance()]),
        ..Setup::default()
    })
    .await;
    let mut groups = Vec::new();
    for _ in 0..CONVERSATIONS {
        groups.push(world.group("ann", &["bob", "cid"]).await);
    }
    let listeners: Vec<_> = MEMBERS.iter().map(|user| world.connect(user)).collect();
    let mut answers = Vec::new();
    for n in 0..SENT_BY_EACH {
        for group in &groups {
            for user in MEMBERS {
                let text = format!("{user} {n:03}");
                answers.push((*group, text.clone(), world.submit(user, None, send(*group, &text))));
            }
        }
    }
    let mut acked = Vec::new();
    for (group, text, answer) in answers {
        acked.push((group, answer.await.unwrap().unwrap().seq, text));
    }
    for group in groups {
        let history = check_history(&world, group, &acked).await;
        for listener in &listeners {
            eventually("the last event is heard", async || listener.texts(group).len() == history.len()).await;
            assert_eq!(listener.texts(group), history, "a listener hears the order of the log");
        }
    }
    world.engine.shutdown().await;
}

/// Texts in the order of the log, after checking that it is dense, keeps each sender's order and is what the answers said.
async fn check_history(world: &World, group: ConversationId, acked: &[(ConversationId, u32, String)]) -> Vec<String> {
    let events = world.history(group).await;
    let seqs: Vec<u32> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u32).collect::<Vec<_>>(), "no gap, no duplicate");
    let messages: Vec<(u32, String)> = events
        .into_iter()
        .filter_map(|event| event.message.map(|message| (event.seq, message.content.text)))
        .collect();
    assert_eq!(messages.len(), MEMBERS.len() * SENT_BY_EACH);
    for user in MEMBERS {
        let own: Vec<&String> = messages.iter().map(|(_, text)| text).filter(|text| text.starts_with(user)).collect();
        assert!(own.is_sorted(), "{user} sent in this order: {own:?}");
    }
    for (_, seq, text) in acked.iter().filter(|(conversation, ..)| *conversation == group) {
        assert!(messages.contains(&(*seq, text.clone())), "{text} was answered with {seq}");
    }
    messages.into_iter().map(|(_, text)| text).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_sees_one_dense_order_behind_slow_hooks() {
    everybody_sees_one_dense_order(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_sees_one_dense_order_on_four_shards() {
    everybody_sees_one_dense_order(4).await;
}
