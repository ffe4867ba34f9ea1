//! What a client can ask, and what it is told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client::Client,
    server::{Server, token},
};

fn code(answer: &Value) -> &str {
    answer["e"]["code"].as_str().unwrap_or("not an err")
}

#[tokio::test]
async fn two_users_talk() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await.to_string();
    let mut ann = Client::login(server.address, &token("ann")).await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.request(json!({"t": "sub", "c": c})).await["d"]["head"], 3, "created, joined twice");
    }

    let sent = ann
        .request(json!({"t": "send", "c": c, "k": "k1", "n": "text", "d": {"content": "hé \"b\"\u{0001}"}}))
        .await["d"]
        .clone();
    assert_eq!((&sent["s"], &sent["dup"], &sent["c"]), (&json!(4), &json!(false), &json!(c)));
    for client in [&mut ann, &mut bob] {
        let event = client.until(|frame| frame["t"] == "ev").await;
        assert_eq!(
            (&event["s"], &event["n"], &event["by"]),
            (&json!(4), &json!("message.created"), &json!("ann"))
        );
        assert_eq!((&event["d"]["content"], &event["d"]["id"]), (&json!("hé \"b\"\u{0001}"), &sent["mid"]));
    }

    let again = ann
        .request(json!({"t": "send", "c": c, "k": "k1", "n": "text", "d": {"content": "hé \"b\"\u{0001}"}}))
        .await["d"]
        .clone();
    assert_eq!((&again["mid"], &again["s"], &again["dup"]), (&sent["mid"], &json!(4), &json!(true)));
    let other = ann.request(json!({"t": "send", "c": c, "k": "k1", "d": {"content": "other"}})).await;
    assert_eq!(code(&other), "idempotency_key_reused");

    let edit = ann.request(json!({"t": "edit", "m": sent["mid"], "d": {"content": "better"}})).await;
    assert_eq!(edit["d"]["s"], 5);
    assert_eq!(
        code(&bob.request(json!({"t": "edit", "m": sent["mid"], "d": {"content": "mine"}})).await),
        "forbidden"
    );
    assert_eq!(bob.request(json!({"t": "react", "m": sent["mid"], "emoji": "👍"})).await["d"]["s"], 6);
    assert_eq!(ann.request(json!({"t": "delete", "m": sent["mid"]})).await["d"]["s"], 7);
    let mut again = Client::login(server.address, &token("ann")).await;
    again.send(json!({"t": "sub", "c": c, "since": 4})).await;
    let events = again.until_all(|frame| frame["s"] == 7).await;
    let names: Vec<_> = events.iter().filter(|frame| frame["t"] == "ev").map(|frame| frame["n"].clone()).collect();
    assert_eq!(names, ["message.edited", "reaction.added", "message.deleted"]);
}

#[tokio::test]
async fn the_first_message_makes_a_direct_conversation() {
    let server = Server::start().await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    let mut ann = Client::login(server.address, &token("ann")).await;
    let sent = ann.request(json!({"t": "send", "to": "bob", "d": {"content": "hello"}})).await["d"].clone();
    let (mut own, mut head) = (json!(null), json!(null));
    while own.is_null() || head.is_null() {
        let frame = bob.json().await;
        match frame["t"].as_str() {
            Some("me") if frame["n"] == "membership.started" => own = frame,
            Some("head") if frame["head"] == sent["s"] => head = frame,
            _ => {}
        }
    }
    assert_eq!((&own["d"]["conversationId"], own.get("c")), (&sent["c"], None));
    assert_eq!((&head["c"], &head["unread"]), (&sent["c"], &json!(1)));
    let made = ann.request(json!({"t": "create", "n": "direct", "d": {"participants": ["bob"]}})).await["d"].clone();
    assert_eq!((&made["c"], &made["existed"]), (&sent["c"], &json!(true)));
    let group = ann
        .request(json!({"t": "create", "n": "group", "k": "g", "d": {"participants": ["bob"], "groupName": "G"}}))
        .await["d"]
        .clone();
    assert_eq!((&group["existed"], &group["dup"]), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn marks_typing_and_presence_reach_who_subscribed() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await;
    let seq = server.say("ann", c, "one").await;
    let c = c.to_string();
    let mut ann = Client::login(server.address, &token("ann")).await;
    ann.request(json!({"t": "sub", "c": c})).await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    bob.request(json!({"t": "sub", "c": c})).await;
    assert_eq!(
        ann.until(|frame| frame["n"] == "presence" && frame["d"]["online"] == true).await["d"]["userId"],
        "bob"
    );

    bob.send(json!({"t": "typing", "c": c, "on": true})).await;
    let typing = ann.until(|frame| frame["n"] == "typing").await;
    assert_eq!(
        (&typing["d"]["userId"], &typing["d"]["on"], &typing["c"]),
        (&json!("bob"), &json!(true), &json!(c))
    );

    assert_eq!(bob.request(json!({"t": "read", "c": c, "s": seq})).await["t"], "ok");
    let mark = ann.until(|frame| frame["t"] == "mark" && frame["user"] == "bob").await;
    assert_eq!((&mark["read"], &mark["delivered"]), (&json!(seq), &json!(seq)));

    let mut again = Client::login(server.address, &token("ann")).await;
    again.send(json!({"t": "sub", "c": c})).await;
    let snapshot = again.until(|frame| frame["t"] == "mark" && frame["user"] == "bob").await;
    assert_eq!(snapshot["read"], seq, "who subscribes is shown the marks");
}

#[tokio::test]
async fn refusals() {
    let server = Server::with(|ws| (ws.subscriptions_max, ws.batch_max) = (2, 4)).await;
    let c = server.direct("ann", "bob").await.to_string();
    let mut eve = Client::login(server.address, &token("eve")).await;
    assert_eq!(code(&eve.request(json!({"t": "sub", "c": c})).await), "not_found");
    assert_eq!(code(&eve.request(json!({"t": "send", "c": c, "d": {"content": "x"}})).await), "not_found");
    assert_eq!(code(&eve.request(json!({"t": "dance"})).await), "unknown_type");
    assert_eq!(code(&eve.request(json!({"x": 1})).await), "bad_request");
    assert_eq!(code(&eve.request(json!({"t": "sub", "c": "nonsense"})).await), "bad_request");
    assert_eq!(
        code(
            &eve.request(json!({"t": "send", "to": "bob", "k": "k".repeat(65), "d": {"content": "x"}}))
                .await
        ),
        "bad_request"
    );
    assert_eq!(
        code(&eve.request(json!({"t": "send", "to": "bob", "n": "system", "d": {"content": "x"}})).await),
        "bad_request"
    );
    assert_eq!(code(&eve.request(json!({"t": "read", "c": c, "s": 0})).await), "bad_request");
    assert_eq!(code(&eve.request(json!({"t": "read", "c": c, "s": 1})).await), "not_found");

    eve.text("[{},{},{},{},{}]").await;
    assert_eq!(code(&eve.until(|frame| frame["t"] == "err").await), "too_large");
    eve.text("not JSON").await;
    assert_eq!(code(&eve.until(|frame| frame["t"] == "err").await), "bad_request");

    let mut ann = Client::login(server.address, &token("ann")).await;
    for (n, expect) in [(1, "ok"), (2, "ok"), (3, "err")] {
        let c = server.group("ann", &["bob"]).await.to_string();
        let answer = ann.request(json!({"t": "sub", "c": c})).await;
        assert_eq!(answer["t"], expect, "{n}: {answer}");
    }
}

#[tokio::test]
async fn a_batch_is_executed_in_order() {
    let server = Server::start().await;
    let c = server.direct("ann", "bob").await.to_string();
    let mut ann = Client::login(server.address, &token("ann")).await;
    ann.send(json!([{}, {"t": "sub", "id": "s", "c": c}])).await;
    ann.until(|frame| frame["id"] == "s").await;
    let batch: Vec<_> = (0..32)
        .map(|n| json!({"t": "send", "id": n, "c": c, "d": {"content": n.to_string()}}))
        .collect();
    ann.send(json!(batch)).await;
    let mut texts = Vec::new();
    while texts.len() < 32 {
        let event = ann.until(|frame| frame["t"] == "ev").await;
        texts.push(event["d"]["content"].as_str().unwrap().to_string());
    }
    assert_eq!(texts, (0..32).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_in_flight_and_frames_are_limited() {
    let server = Server::with(|ws| (ws.frames_per_second, ws.frames_burst) = (1, 5)).await;
    let mut ann = Client::login(server.address, &token("ann")).await;
    let mut codes = Vec::new();
    for _ in 0..8 {
        let answer = ann.request(json!({"t": "ping"})).await;
        codes.push(answer["t"].as_str().unwrap().to_string());
        if answer["t"] == "err" {
            assert_eq!((code(&answer), &answer["e"]["retry"]), ("rate_limited", &json!(true)));
            assert!(answer["e"]["after"].as_u64().unwrap() > 0);
        }
    }
    assert_eq!(codes, ["ok", "ok", "ok", "ok", "err", "err", "err", "err"], "auth was the first of five");
    for _ in 0..20 {
        ann.send(json!({"t": "ping"})).await;
    }
    assert_eq!(ann.closed().await.0, Some(4029), "who goes on is closed");

    let server = Server::with(|ws| ws.requests_in_flight_max = 0).await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    assert_eq!(
        code(&bob.request(json!({"t": "send", "to": "ann", "d": {"content": "x"}})).await),
        "overloaded"
    );
}

#[tokio::test]
async fn who_leaves_gets_that_event_and_nothing_after_it() {
    let server = Server::start().await;
    let group = server.group("ann", &["bob", "cid"]).await;
    let mut bob = Client::login(server.address, &token("bob")).await;
    bob.request(json!({"t": "sub", "c": group.to_string()})).await;
    server
        .run(
            "ann",
            haggle_engine::Command::RemoveParticipant {
                conversation: group,
                user: "bob".into(),
            },
        )
        .await;
    server.say("ann", group, "about bob").await;
    let left = bob.until(|frame| frame["t"] == "ev").await;
    assert_eq!((&left["n"], &left["d"]["userId"]), (&json!("participant.left"), &json!("bob")));
    assert_eq!(bob.until(|frame| frame["t"] == "me").await["n"], "membership.ended");
    assert!(bob.is_quiet(Duration::from_millis(300)).await);
    assert_eq!(
        code(&bob.request(json!({"t": "sub", "c": group.to_string(), "since": 1})).await),
        "not_found"
    );
}
