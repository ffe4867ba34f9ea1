//! Clients that send everything three times, on two connections and through reconnects: each message is stored and told once.

mod support;

use std::collections::{HashMap, VecDeque};

use haggle_example_client::{Server, Socket};
use serde_json::{Value, json};
use support::{World, direct, rest, socket};

const MESSAGES: usize = 10_000;
/// Unanswered at a time on one connection.
const PIPELINED: usize = 32;
/// A connection is replaced by a new one after so many messages, answered or not.
const RECONNECT_EVERY: usize = 1_000;

/// Client message id -> (id, seq) of every answer that came.
type Answers = HashMap<String, Vec<(String, u64)>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_three_times_is_stored_and_told_once() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/unlimited.toml")],
        ..World::new()
    };
    let server = world.start().await;
    let ann = rest(&server, "ann").await;
    let conversation = direct(&ann, "bob").await;
    let mut bob = socket(&server, "bob").await;
    bob.request(json!({"t": "sub", "c": conversation})).await.unwrap();
    let hearing = tokio::spawn(async move {
        let mut heard = Vec::with_capacity(MESSAGES);
        while heard.len() < MESSAGES {
            let event = bob.event("message.created").await.unwrap();
            heard.push((event["d"]["content"].as_str().unwrap().to_owned(), event["s"].as_u64().unwrap()));
        }
        heard
    });

    let (one, two) = tokio::join!(storm(&server, &conversation, 2), storm(&server, &conversation, 1));
    let mut answers = one;
    for (key, more) in two {
        answers.entry(key).or_default().extend(more);
    }
    assert_eq!(answers.len(), MESSAGES, "every message was answered");
    for (key, same) in &answers {
        assert!(same.iter().all(|answer| *answer == same[0]), "{key}: {same:?}");
    }
    let history = support::events(&ann, &conversation).await;
    let stored: Vec<(String, u64)> = history
        .iter()
        .filter(|event| event["name"] == "message.created")
        .map(|event| (event["data"]["content"].as_str().unwrap().to_owned(), event["seq"].as_u64().unwrap()))
        .collect();
    assert_eq!(stored.len(), MESSAGES, "stored once each");
    for (text, seq) in &stored {
        assert_eq!(answers[text][0].1, *seq, "{text}");
    }
    assert_eq!(hearing.await.unwrap(), stored, "told once each, in the order of the log");
}

/// Sends every message `times` times from one connection after the other, not waiting for what a closed one was still owed.
async fn storm(server: &Server, conversation: &str, times: usize) -> Answers {
    let mut answers = Answers::new();
    let mut again: VecDeque<String> = (0..MESSAGES).flat_map(|n| std::iter::repeat_n(format!("message {n}"), times)).collect();
    while !again.is_empty() {
        let mut socket = socket(server, "ann").await;
        let mut owed: HashMap<u64, String> = HashMap::new();
        for _ in 0..RECONNECT_EVERY {
            let Some(key) = again.pop_front() else { break };
            let frame = json!({"t": "send", "c": conversation, "k": key, "d": {"content": key}});
            owed.insert(socket.send(frame).await.unwrap(), key);
            if owed.len() == PIPELINED {
                take(&mut socket, &mut owed, &mut answers).await;
            }
        }
        if again.is_empty() {
            while !owed.is_empty() {
                take(&mut socket, &mut owed, &mut answers).await;
            }
        }
        // What was not answered is sent again on the next connection.
        again.extend(owed.into_values());
    }
    answers
}

async fn take(socket: &mut Socket, owed: &mut HashMap<u64, String>, answers: &mut Answers) {
    let frame = socket
        .next_where(|frame: &Value| frame["t"] == "ok" || frame["t"] == "err")
        .await
        .unwrap();
    let key = owed.remove(&frame["id"].as_u64().unwrap()).expect("an answer to something that was sent");
    assert_eq!(frame["t"], "ok", "{key}: {frame}");
    let said = (frame["d"]["mid"].as_str().unwrap().to_owned(), frame["d"]["s"].as_u64().unwrap());
    answers.entry(key).or_default().push(said);
}
