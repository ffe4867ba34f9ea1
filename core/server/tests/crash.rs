//! What is acknowledged survives, and what follows from it is done once: kill -9 under load, twenty times over one data directory.

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use haggle_example_client::{Rest, Server, Socket};
use serde_json::json;
use support::{World, direct, rest};

const ROUNDS: usize = 20;
const WRITERS: usize = 16;
/// How long a start may take until it serves.
const SERVING_MAX: Duration = Duration::from_secs(2);

/// How long the after-hooks may take to catch up after the last start.
const HOOKS_DONE_MAX: Duration = Duration::from_secs(120);

/// What writers know: acknowledged client id -> (message id, seq), per conversation.
type Acked = Arc<Mutex<HashMap<String, HashMap<String, (String, u64)>>>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_twenty_kills() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/crash.toml")],
        ..World::new()
    };
    // Its after-hook notifies the reader of every message: the effect that must be there once.
    support::copy_plugin("marketplace-notifications", &world.plugins);
    let acked = Acked::default();
    let mut starts = Vec::new();
    for round in 0..ROUNDS {
        let started = Instant::now();
        let server = world.start().await;
        starts.push(started.elapsed());
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let (server_at, token) = (server.clients.clone(), server.token(&format!("writer-{writer}"), &[]).await.unwrap());
            writers.push(tokio::spawn(write(server_at, token, round, writer, acked.clone())));
        }
        // Different moments in each round; the load runs meanwhile.
        tokio::time::sleep(Duration::from_millis(120 + 37 * round as u64)).await;
        server.kill().await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
    }
    starts.sort_unstable();
    println!("serving again after {:?} to {:?}", starts[0], starts[ROUNDS - 1]);
    assert!(starts[ROUNDS - 1] < SERVING_MAX, "serving again after {starts:?}");
    let server = world.start().await;
    let acked = acked.lock().unwrap().clone();
    let stored = check(&server, &acked).await;
    let total: usize = acked.values().map(HashMap::len).sum();
    assert!(total > ROUNDS * WRITERS, "there was load: {total} messages acknowledged");
    for (writer, messages) in stored {
        let reader = format!("reader-{writer}");
        told_once(&server, &reader, &messages).await;
    }
}

/// The after-hooks of all these messages are complete in the end, each with one effect: one notification in the reader's log.
async fn told_once(server: &Server, reader: &str, messages: &[String]) {
    let client = rest(server, reader).await;
    let personal = support::personal(server, reader).await;
    let started = Instant::now();
    loop {
        let mut told: HashMap<String, usize> = HashMap::new();
        for event in support::events(&client, &personal).await {
            if event["name"] == "notification.created" && event["data"]["type"] == "MESSAGE_RECEIVED" {
                *told.entry(event["data"]["messageId"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        let twice: Vec<_> = told.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "{reader} was told of {} messages more than once", twice.len());
        let missing = messages.iter().filter(|id| !told.contains_key(*id)).count();
        if missing == 0 {
            return assert_eq!(told.len(), messages.len(), "{reader} is told of what was never stored");
        }
        assert!(
            started.elapsed() < HOOKS_DONE_MAX,
            "{reader} is not told of {missing} of {} messages",
            messages.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Sends one message after the other until the server is gone, and repeats the one whose answer never came in the next round.
async fn write(address: String, token: String, round: usize, writer: usize, acked: Acked) {
    let rest = Rest::new(&address, Some(&token));
    let Ok(answer) = rest
        .post(
            "/api/conversations",
            json!({"participants": [format!("reader-{writer}")], "type": "direct"}),
        )
        .await
    else {
        return;
    };
    let conversation = answer.body["id"].as_str().unwrap_or_default().to_owned();
    let Ok(mut socket) = Socket::connect(&address, &token, json!({})).await else {
        return;
    };
    for n in 0.. {
        // The first id of a round is one of the round before: most likely acknowledged, perhaps not.
        let key = if n == 0 && round > 0 {
            format!("{writer}-{}-1", round - 1)
        } else {
            format!("{writer}-{round}-{n}")
        };
        let send = json!({"t": "send", "c": conversation, "k": key, "n": "text", "d": {"content": format!("message {key}")}});
        let Ok(ack) = socket.request(send).await else { return };
        let said = (ack["mid"].as_str().unwrap().to_owned(), ack["s"].as_u64().unwrap());
        let mut acked = acked.lock().unwrap();
        let before = acked.entry(conversation.clone()).or_default().insert(key.clone(), said.clone());
        assert!(before.is_none_or(|before| before == said), "{key}: a retry got another answer");
    }
}

/// Compares the history with what was acknowledged; the ids of all stored messages, acknowledged or not, by writer.
async fn check(server: &Server, acked: &HashMap<String, HashMap<String, (String, u64)>>) -> HashMap<String, Vec<String>> {
    let mut stored = HashMap::new();
    for (conversation, messages) in acked {
        let writer = messages.keys().next().unwrap().split('-').next().unwrap().to_owned();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut ids = Vec::new();
        let history = support::events(&rest(server, &format!("writer-{writer}")).await, conversation).await;
        for (index, event) in history.iter().enumerate() {
            assert_eq!(event["seq"], index as u64 + 1, "dense");
            if event["name"] == "message.created" {
                let text = |name: &str| event["data"][name].as_str().unwrap().to_owned();
                let (id, key) = (text("id"), text("content").trim_start_matches("message ").to_owned());
                let here = (id.clone(), index as u64 + 1);
                assert!(messages.get(&key).is_none_or(|acked| *acked == here), "{key} moved");
                *seen.entry(key).or_default() += 1;
                ids.push(id);
            }
        }
        for key in messages.keys() {
            assert_eq!(seen.get(key), Some(&1), "{key} is there exactly once");
        }
        stored.insert(writer, ids);
    }
    stored
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused() {
    let world = World::new();
    let server = world.start().await;
    let second = Server::start(support::binary(), &world.data.path().join("data"), &world.plugins, &[]).await;
    let error = second.err().expect("one process only").to_string();
    assert!(error.contains("data_dir"), "names the setting: {error}");
    assert!(server.stop().await.unwrap().success());
}

#[tokio::test]
async fn a_drain_acknowledges_what_is_in_flight_and_ends_well() {
    let world = World::new();
    let server = world.start().await;
    let ann = rest(&server, "ann").await;
    let conversation = direct(&ann, "bob").await;
    let mut socket = support::socket(&server, "ann").await;
    let mut sent = Vec::new();
    for n in 0..50 {
        let frame = json!({"t": "send", "c": conversation, "k": format!("k{n}"), "n": "text", "d": {"content": n.to_string()}});
        sent.push(socket.send(frame).await.unwrap());
    }
    let started = Instant::now();
    let stopping = tokio::spawn(server.stop());
    let (mut acked, mut bye) = (0, false);
    while let Ok(frame) = socket.next().await {
        acked += usize::from(frame["t"] == "ok");
        bye |= frame["t"] == "bye";
    }
    assert!(stopping.await.unwrap().unwrap().success());
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(bye, "clients are told to come back");
    let server = world.start().await;
    let page = rest(&server, "ann")
        .await
        .get(&format!("/api/conversations/{conversation}/messages?limit=100"))
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(page["messages"].as_array().unwrap().len() >= acked, "{acked} acknowledged");
}

#[tokio::test]
async fn deleted_text_is_in_no_file_after_erasing() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/erase-at-once.toml")],
        ..World::new()
    };
    let server = world.start().await;
    let ann = rest(&server, "ann").await;
    let conversation = direct(&ann, "bob").await;
    let secret = "correct-horse-battery-staple";
    let sent = ann
        .post(
            &format!("/api/conversations/{conversation}/messages"),
            json!({"content": secret, "type": "text"}),
        )
        .await
        .unwrap()
        .ok()
        .unwrap();
    let message = sent["id"].as_str().unwrap();
    let edited = format!("{secret}, edited");
    ann.put(&format!("/api/messages/{message}"), json!({"content": edited}))
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(found(world.data.path(), secret), "the search can find it");
    assert_eq!(ann.delete(&format!("/api/messages/{message}")).await.unwrap().status, 204);
    for path in ["messages", "events?after=0"] {
        let page = ann.get(&format!("/api/conversations/{conversation}/{path}")).await.unwrap();
        assert!(!page.body.to_string().contains(secret), "{path} shows it at once no more");
    }
    for _ in 0..100 {
        if !found(world.data.path(), secret) {
            return assert!(server.stop().await.unwrap().success());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the text still stands in a file");
}

fn found(dir: &std::path::Path, text: &str) -> bool {
    std::fs::read_dir(dir).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return found(&path, text);
        }
        // A file may go between the listing and the reading.
        std::fs::read(&path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    })
}
