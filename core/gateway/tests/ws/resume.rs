//! Cursors: what a client missed is replayed whole or told as a gap.

use std::collections::BTreeMap;

use haggle_model::ConversationId;
use serde_json::{Value, json};

use crate::{
    client::Client,
    server::{Server, token},
};

/// Follows the rules of a client: applies events in order, drops what it has, takes gaps as told.
#[derive(Default)]
struct Follower {
    last: BTreeMap<String, u64>,
    gaps: Vec<(u64, u64)>,
}

impl Follower {
    #[track_caller]
    fn take(&mut self, frame: &Value) {
        let Some(c) = frame["c"].as_str() else { return };
        let last = self.last.entry(c.into()).or_default();
        match frame["t"].as_str() {
            Some("ev") => {
                let seq = frame["s"].as_u64().unwrap();
                assert_eq!(seq, *last + 1, "in order and without a hole: {frame}");
                *last = seq;
            }
            Some("gap") => {
                let (from, head) = (frame["from"].as_u64().unwrap(), frame["head"].as_u64().unwrap());
                assert_eq!(from, *last + 1, "{frame}");
                self.gaps.push((from, head));
                *last = head;
            }
            _ => {}
        }
    }
}

async fn login_with(server: &Server, user: &str, cursors: Value, me: Option<u64>) -> Client {
    let mut client = Client::connect(server.address).await;
    client
        .send(json!({"t": "auth", "id": 0, "token": token(user), "cur": cursors, "me": me}))
        .await;
    client
}

async fn say(server: &Server, conversation: ConversationId, count: usize) {
    for n in 0..count {
        server.say("ann", conversation, &n.to_string()).await;
    }
}

#[tokio::test]
async fn missed_events_are_replayed() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    say(&server, c, 250).await;
    let mut follower = Follower::default();
    follower.last.insert(c.to_string(), 10);
    let mut bob = login_with(&server, "bob", json!({c.to_string(): 10}), None).await;
    let ok = bob.until(|frame| frame["id"] == 0).await;
    assert_eq!(ok["d"]["user"], "bob");
    let heads = bob.until(|frame| frame["t"] == "heads").await;
    assert_eq!(
        (&heads["d"][0]["c"], &heads["d"][0]["head"], &heads["d"][0]["unread"]),
        (&json!(c.to_string()), &json!(253), &json!(250))
    );
    for frame in bob.until_all(|frame| frame["s"] == 253).await {
        follower.take(&frame);
    }
    server.say("ann", c, "live").await;
    follower.take(&bob.until(|frame| frame["t"] == "ev").await);
    assert_eq!((follower.last[&c.to_string()], follower.gaps.len()), (254, 0));
}

#[tokio::test]
async fn too_much_is_a_gap_and_then_live() {
    let server = Server::with(|ws| ws.replay_events_max = 50).await;
    let c = server.direct("ann", "bob").await;
    say(&server, c, 100).await;
    let mut bob = login_with(&server, "bob", json!({c.to_string(): 3}), None).await;
    let gap = bob.until(|frame| frame["t"] == "gap").await;
    assert_eq!(gap, json!({"t": "gap", "c": c.to_string(), "from": 4, "head": 103}));
    server.say("ann", c, "live").await;
    assert_eq!(bob.until(|frame| frame["t"] == "ev").await["s"], 104);
    bob.request(json!({"t": "sub", "c": c.to_string(), "since": 60})).await;
    assert_eq!(bob.until(|frame| frame["t"] == "ev").await["s"], 61, "a later sub replays again");
    bob.until(|frame| frame["s"] == 104).await;
}

#[tokio::test]
async fn a_cursor_of_another_history_is_reset() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    bob.send(json!({"t": "sub", "c": c.to_string(), "since": 99})).await;
    let gap = bob.until(|frame| frame["t"] == "gap").await;
    assert_eq!(gap, json!({"t": "gap", "c": c.to_string(), "from": 1, "head": 3, "reset": true}));
    server.say("ann", c, "live").await;
    assert_eq!(bob.until(|frame| frame["t"] == "ev").await["s"], 4);
}

#[tokio::test]
async fn a_cursor_that_is_not_served_is_told() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    let mut eve = login_with(&server, "eve", json!({c.to_string(): 1}), None).await;
    let err = eve.until(|frame| frame["t"] == "err").await;
    assert_eq!(
        (&err["c"], &err["e"]["code"], err.get("id")),
        (&json!(c.to_string()), &json!("not_found"), None)
    );
    let many: serde_json::Map<_, _> = (0..201u64).map(|n| (ConversationId(n << 16).to_string(), json!(1))).collect();
    let mut eve = login_with(&server, "eve", Value::Object(many), None).await;
    assert_eq!(eve.until(|frame| frame["id"] == 0).await["e"]["code"], "too_large");
}

#[tokio::test]
async fn the_own_stream_is_replayed_from_its_cursor() {
    let server = Server::start().await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    let first = server.group("ann", &["bob"]).await;
    let seen = bob.until(|frame| frame["t"] == "me" && frame["n"] == "membership.started").await["s"]
        .as_u64()
        .unwrap();
    drop(bob);
    let second = server.group("ann", &["bob"]).await;
    let mut bob = login_with(&server, "bob", json!({}), Some(seen)).await;
    let own = bob.until(|frame| frame["t"] == "me").await;
    assert_eq!((&own["s"], &own["d"]["conversationId"]), (&json!(seen + 1), &json!(second.to_string())));
    let mut bob = login_with(&server, "bob", json!({}), Some(seen - 1)).await;
    assert_eq!(bob.until(|frame| frame["t"] == "me").await["d"]["conversationId"], first.to_string());
}

/// Somebody writes all the time while a member comes, goes and subscribes again: it misses nothing and gets nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_between_replay_and_live() {
    const MESSAGES: u64 = 600;
    let server = std::sync::Arc::new(Server::start().await);
    let c = server.direct("ann", "bob").await;
    let writer = {
        let server = server.clone();
        tokio::spawn(async move {
            for n in 0..MESSAGES {
                server.say("ann", c, &n.to_string()).await;
                tokio::time::sleep(std::time::Duration::from_micros(n * 7 % 1_500)).await;
            }
        })
    };
    let mut follower = Follower::default();
    follower.last.insert(c.to_string(), 3);
    let mut round = 0;
    while follower.last[&c.to_string()] < MESSAGES + 3 {
        round += 1;
        let mut bob = login_with(&server, "bob", json!({c.to_string(): follower.last[&c.to_string()]}), None).await;
        for n in 0..3 + round % 40 {
            if n == 20 {
                // Subscribing again at the present place changes nothing, whatever is on its way.
                bob.send(json!({"t": "sub", "c": c.to_string(), "since": follower.last[&c.to_string()]}))
                    .await;
                let before = follower.last[&c.to_string()];
                let late = bob
                    .until_all(|frame| frame["t"] == "ev" && frame["s"].as_u64() == Some(before + 1) || before == MESSAGES + 3)
                    .await;
                late.iter().for_each(|frame| follower.take(frame));
                break;
            }
            if follower.last[&c.to_string()] == MESSAGES + 3 {
                break;
            }
            follower.take(&bob.json().await);
        }
    }
    writer.await.expect("the writer ends");
    assert_eq!(follower.gaps, [], "few enough for a replay each time");
    assert!(round > 5, "{round} rounds");
}
