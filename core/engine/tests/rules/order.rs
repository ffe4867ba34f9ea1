//! One order per conversation, whoever looks and however slow the hooks are.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use haggle_model::ConversationId;
use haggle_store::MemoryStore;

use crate::support::{
    Answer, Setup, World, eventually,
    plugins::{Fake, FakePlugins},
    send,
};

const MEMBERS: [&str; 2] = ["ann", "bob"];
const CONVERSATIONS: usize = 20;
/// By each member to each conversation.
const SENT: usize = 256;
/// Of these unanswered at any time: as many as a queue holds of one user.
const PIPELINED: usize = 64;

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
        groups.push(world.group("ann", &["bob"]).await);
    }
    let listeners: Vec<_> = MEMBERS.iter().map(|user| world.connect(user)).collect();
    let senders = groups.iter().flat_map(|group| MEMBERS.map(|user| pipeline(&world, *group, user)));
    let acked: Vec<(ConversationId, u32, String)> = futures_util::future::join_all(senders).await.into_iter().flatten().collect();
    for group in groups {
        let history = check_history(&world, group, &acked).await;
        for listener in &listeners {
            eventually("the last event is heard", async || listener.texts(group).len() == history.len()).await;
            assert_eq!(listener.texts(group), history, "a listener hears the order of the log");
        }
    }
    world.engine.shutdown().await;
}

/// Sends one message after the other, [`PIPELINED`] of them unanswered at a time; what was answered.
async fn pipeline(world: &World, group: ConversationId, user: &str) -> Vec<(ConversationId, u32, String)> {
    let (mut waiting, mut acked) = (VecDeque::new(), Vec::new());
    for n in 0..SENT {
        if waiting.len() == PIPELINED {
            acked.push(answered(&mut waiting, group).await);
        }
        let text = format!("{user} {n:03}");
        waiting.push_back((world.submit(user, None, send(group, &text)), text));
    }
    while !waiting.is_empty() {
        acked.push(answered(&mut waiting, group).await);
    }
    acked
}

async fn answered(waiting: &mut VecDeque<(Answer, String)>, group: ConversationId) -> (ConversationId, u32, String) {
    let (answer, text) = waiting.pop_front().expect("something waits");
    (group, answer.await.unwrap().unwrap().seq, text)
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
    assert_eq!(messages.len(), MEMBERS.len() * SENT);
    for user in MEMBERS {
        let own: Vec<&String> = messages.iter().map(|(_, text)| text).filter(|text| text.starts_with(user)).collect();
        assert!(own.is_sorted(), "{user} sent in this order: {own:?}");
    }
    let said: HashMap<u32, &str> = messages.iter().map(|(seq, text)| (*seq, text.as_str())).collect();
    for (_, seq, text) in acked.iter().filter(|(conversation, ..)| *conversation == group) {
        assert_eq!(said.get(seq), Some(&text.as_str()), "{text} was answered with {seq}");
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
