//! What is acknowledged survives, and what follows from it is done once: kill -9 under load, twenty times over one data directory.

mod support;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use haggle_example_client::{Rest, Server, Socket};
use serde_json::json;
use support::{World, direct, rest};
use tokio::sync::Barrier;

const ROUNDS: usize = 20;
/// Connections, each with a conversation of its own and one message under way.
const WRITERS: usize = 200;
/// How long a start may take until it serves.
const SERVING_MAX: Duration = Duration::from_secs(2);
/// How long the writers of a round may take to connect.
const CONNECTED_MAX: Duration = Duration::from_secs(60);

/// How long the after-hooks may take to catch up after the last start.
const HOOKS_DONE_MAX: Duration = Duration::from_secs(120);

/// What a writer knows: acknowledged client id -> (message id, seq).
type Acked = HashMap<String, (String, u64)>;

/// A client that sends one message after the other, and what it was told.
#[derive(Clone)]
struct Writer {
    name: String,
    token: String,
    conversation: String,
    acked: Acked,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_twenty_kills() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/crash.toml")],
        ..World::new()
    };
    // Its after-hook notifies the reader of every message: the effect that must be there once.
    support::copy_plugin("marketplace-notifications", &world.plugins);
    let mut writers = begin(&world).await;
    let mut starts = Vec::new();
    for round in 0..ROUNDS {
        let started = Instant::now();
        let server = world.start().await;
        starts.push(started.elapsed());
        let connected = Arc::new(Barrier::new(WRITERS + 1));
        let load: Vec<_> = writers
            .into_iter()
            .map(|writer| tokio::spawn(writer.write(server.clients.clone(), round, connected.clone())))
            .collect();
        tokio::time::timeout(CONNECTED_MAX, connected.wait()).await.expect("all connect");
        // Different moments in each round, the first ones before anything can be acknowledged.
        tokio::time::sleep(Duration::from_millis(23 * round as u64)).await;
        server.kill().await.unwrap();
        writers = Vec::new();
        for writer in load {
            writers.push(writer.await.unwrap());
        }
    }
    starts.sort_unstable();
    let total: usize = writers.iter().map(|writer| writer.acked.len()).sum();
    println!(
        "{total} messages acknowledged; serving again after {:?} to {:?}",
        starts[0],
        starts[ROUNDS - 1]
    );
    assert!(starts[ROUNDS - 1] < SERVING_MAX, "serving again after {starts:?}");
    assert!(total > ROUNDS * WRITERS, "there was load: {total} messages acknowledged");
    let server = world.start().await;
    for writer in &writers {
        let stored = writer.check(&server).await;
        told_once(&server, &writer.reader(), &stored).await;
    }
}

/// Makes the writers and their conversations. The kill that follows is the first one.
async fn begin(world: &World) -> Vec<Writer> {
    let server = world.start().await;
    let mut writers = Vec::new();
    for index in 0..WRITERS {
        let mut writer = Writer {
            name: format!("writer-{index}"),
            token: server.token(&format!("writer-{index}"), &[]).await.unwrap(),
            conversation: String::new(),
            acked: Acked::new(),
        };
        writer.conversation = direct(&Rest::new(&server.clients, Some(&writer.token)), &writer.reader()).await;
        writers.push(writer);
    }
    server.kill().await.unwrap();
    writers
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

impl Writer {
    fn reader(&self) -> String {
        self.name.replace("writer", "reader")
    }

    /// Sends one message after the other until the server is gone, and repeats in the next round what may not have been answered.
    async fn write(mut self, server: String, round: usize, connected: Arc<Barrier>) -> Writer {
        let mut socket = Socket::connect(&server, &self.token, json!({})).await.expect("the server serves");
        connected.wait().await;
        for n in 0.. {
            // The first id of a round is one of the round before: most likely acknowledged, perhaps not.
            let key = if n == 0 && round > 0 {
                format!("{}-1", round - 1)
            } else {
                format!("{round}-{n}")
            };
            let send = json!({"t": "send", "c": self.conversation, "k": key, "n": "text", "d": {"content": format!("message {key}")}});
            let Ok(ack) = socket.request(send).await else { break };
            let said = (ack["mid"].as_str().unwrap().to_owned(), ack["s"].as_u64().unwrap());
            let before = self.acked.insert(key.clone(), said.clone());
            assert!(before.is_none_or(|before| before == said), "{key}: a retry got another answer");
        }
        self
    }

    /// Compares the history with what was acknowledged; the ids of all stored messages, acknowledged or not.
    async fn check(&self, server: &Server) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut ids = Vec::new();
        let client = Rest::new(&server.clients, Some(&self.token));
        let history = support::events(&client, &self.conversation).await;
        for (index, event) in history.iter().enumerate() {
            assert_eq!(event["seq"], index as u64 + 1, "dense");
            if event["name"] == "message.created" {
                let text = |name: &str| event["data"][name].as_str().unwrap().to_owned();
                let (id, key) = (text("id"), text("content").trim_start_matches("message ").to_owned());
                let here = (id.clone(), index as u64 + 1);
                assert!(self.acked.get(&key).is_none_or(|acked| *acked == here), "{key} moved");
                *seen.entry(key).or_default() += 1;
                ids.push(id);
            }
        }
        for key in self.acked.keys() {
            assert_eq!(seen.get(key), Some(&1), "{}: {key} is there exactly once", self.name);
        }
        ids
    }
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
