//! A hundred new versions of a plugin under load: nobody notices, and each message was decided by exactly one of them.

#[path = "../../host/tests/support/guests.rs"]
mod guests;
mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use haggle_example_client::{Rest, Server, Socket};
use serde_json::{Value, json};
use support::{World, direct, rest, socket};
use tokio::time::{Instant, sleep_until};

const SWAPS: usize = 100;
const SENDERS: usize = 20;
/// Of each: together a thousand messages a second.
const SEND_EVERY: Duration = Duration::from_millis(20);
const SWAP_EVERY: Duration = Duration::from_millis(60);
/// How long the load runs before the first swap, to compare with.
const CALM: Duration = Duration::from_secs(4);
/// What a busy machine may add to a percentile: two slices of its scheduler.
const NOISE: Duration = Duration::from_millis(10);
/// (version, the text that it writes)
const VERSIONS: [(&str, &str); 2] = [("1.0.0", "even"), ("2.0.0", "odd")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_versions_under_load_are_noticed_by_nobody() {
    let world = World {
        args: vec!["--config", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/unlimited.toml")],
        ..World::new()
    };
    let server = world.start().await;
    let admin = Rest::new(&server.operators, Some(&server.token("root", &["--role", "admin"]).await.unwrap()));
    install(&admin, 0).await;

    let (stop, swapping) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut senders = Vec::new();
    for n in 0..SENDERS {
        let user = format!("sender-{n}");
        let conversation = direct(&rest(&server, &user).await, "reader").await;
        let socket = socket(&server, &user).await;
        senders.push(tokio::spawn(send(socket, conversation, n, stop.clone(), swapping.clone())));
    }
    tokio::time::sleep(CALM).await;
    swapping.store(true, Relaxed);
    for swap in 1..=SWAPS {
        let next = Instant::now() + SWAP_EVERY;
        install(&admin, swap % 2).await;
        sleep_until(next).await;
    }
    stop.store(true, Relaxed);

    let (mut calm, mut swapped, mut sent) = (Vec::new(), Vec::new(), 0);
    let mut conversations = Vec::new();
    for sender in senders {
        let done = sender.await.unwrap();
        sent += done.calm.len() + done.swapped.len();
        calm.extend(done.calm);
        swapped.extend(done.swapped);
        conversations.push(done.conversation);
    }
    let (decided, changes) = decided(&server, &conversations).await;
    assert_eq!(decided, sent, "every message that was sent stands there, decided");
    assert!(
        changes > SWAPS / 4,
        "{changes} changes of version: the swaps took place under the messages"
    );
    let (before, during) = (p99(calm), p99(swapped));
    println!("{sent} messages, {changes} changes of version; p99 {before:?} before, {during:?} during the swaps");
    assert!(during < 2 * before + NOISE, "p99 {before:?} before, {during:?} during the swaps");
}

/// Puts a version into service.
async fn install(admin: &Rest, version: usize) {
    let (version, text) = VERSIONS[version];
    let manifest = format!("id = \"swapped\"\nversion = \"{version}\"\napi = \"0.1\"\n[hooks]\nbefore-message = {{ on_failure = \"reject\" }}\n");
    let package = json!({"manifest": manifest, "wasm": STANDARD.encode(guests::replaces(text))});
    let answer = admin.put("/admin/plugins/swapped", package).await.unwrap();
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// What one sender did.
struct Done {
    conversation: String,
    calm: Vec<Duration>,
    swapped: Vec<Duration>,
}

/// Sends on time; a late answer counts from when its message was due.
async fn send(mut socket: Socket, conversation: String, n: usize, stop: Arc<AtomicBool>, swapping: Arc<AtomicBool>) -> Done {
    let mut done = Done {
        conversation,
        calm: Vec::new(),
        swapped: Vec::new(),
    };
    let mut due = Instant::now() + SEND_EVERY * n as u32 / SENDERS as u32;
    while !stop.load(Relaxed) {
        sleep_until(due).await;
        let times = if swapping.load(Relaxed) { &mut done.swapped } else { &mut done.calm };
        let frame = json!({"t": "send", "c": done.conversation, "d": {"content": "hello"}});
        socket.request(frame).await.expect("no message is refused while a version changes");
        times.push(due.elapsed());
        due += SEND_EVERY;
    }
    done
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// How many messages stand in these conversations, each decided by one version, whose text it has; and how often the version
/// changed from one message to the next.
async fn decided(server: &Server, conversations: &[String]) -> (usize, usize) {
    let reader = rest(server, "reader").await;
    let (mut count, mut changes) = (0, 0);
    for conversation in conversations {
        let mut before = Value::Null;
        for event in support::events(&reader, conversation).await {
            if event["name"] != "message.created" {
                continue;
            }
            let deciders = event["data"]["decidedBy"].as_array().unwrap();
            assert_eq!(deciders.len(), 1, "{event}");
            let said = (deciders[0]["version"].as_str().unwrap(), event["data"]["content"].as_str().unwrap());
            assert!(VERSIONS.contains(&said), "{event}");
            changes += usize::from(!before.is_null() && before != deciders[0]["version"]);
            before = deciders[0]["version"].clone();
            count += 1;
        }
    }
    (count, changes)
}
