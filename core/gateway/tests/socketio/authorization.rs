//! Role × event: what each kind of caller gets for every event that a client of the chat sends. An event that is missing here, or
//! a row without an event, fails.

use std::{collections::BTreeSet, time::Duration};

use haggle_gateway::socketio::chat_events;
use serde_json::{Value, json};

use crate::{
    client::{Server, Socket},
    roles::{name, scene, short, token_of},
};

/// The columns. All but the last look at a group of `creator` (admin), `sender` (whose message it is), `member` and `ex` (who
/// has left); `blocked` at a direct conversation in which the other one blocks it, and at its own message there. `none` has not
/// authenticated yet, which a grace allows.
const ROLES: [&str; 9] = ["none", "stranger", "ex", "member", "sender", "creator", "operator", "service", "blocked"];

type Row = (&'static str, &'static str, [&'static str; 9]);

/// `{c}` is the role's conversation, `{m}` the message there.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    //                                                                                              none    strang  ex      member    sender    creator   oper      service   blocked
    ("authenticate",       r#"{"token":"{token}"}"#,                                              ["ok",   "ok",   "ok",   "ok",     "ok",     "ok",     "ok",     "ok",     "ok"]),
    // An admin reads every conversation by REST; live events are for participants.
    ("join_conversation",  r#"{"conversationId":"{c}"}"#,                                         ["auth", "404",  "404",  "ok",     "ok",     "ok",     "403",    "403",    "ok"]),
    ("leave_conversation", r#"{"conversationId":"{c}"}"#,                                         ["auth", "ok",   "ok",   "ok",     "ok",     "ok",     "ok",     "ok",     "ok"]),
    ("send_message",       r#"{"conversationId":"{c}","message":{"content":"x","type":"text"}}"#, ["auth", "404",  "404",  "ok",     "ok",     "ok",     "404",    "404",    "block"]),
    ("mark_read",          r#"{"conversationId":"{c}","messageId":"{m}"}"#,                       ["auth", "404",  "404",  "ok",     "ok",     "ok",     "404",    "404",    "ok"]),
    // Hints: taken from everybody and shown only of participants (the test below).
    ("typing_start",       r#"{"conversationId":"{c}"}"#,                                         ["auth", "ok",   "ok",   "ok",     "ok",     "ok",     "ok",     "ok",     "ok"]),
    ("typing_stop",        r#"{"conversationId":"{c}"}"#,                                         ["auth", "ok",   "ok",   "ok",     "ok",     "ok",     "ok",     "ok",     "ok"]),
    ("user_online",        r#"{"isOnline":true}"#,                                                ["auth", "ok",   "ok",   "ok",     "ok",     "ok",     "ok",     "ok",     "ok"]),
    ("command",            r#"{"conversationId":"{c}","name":"shop.open","data":{}}"#,            ["auth", "404",  "404",  "no cmd", "no cmd", "no cmd", "no cmd", "no cmd", "no cmd"]),
    ("nonsense",           r#"{"conversationId":"{c}"}"#,                                         ["auth", "type", "type", "type",   "type",   "type",   "type",   "type",   "type"]),
];

#[test]
fn every_event_has_a_row() {
    let known: BTreeSet<_> = chat_events().collect();
    let listed: BTreeSet<_> = TABLE.iter().map(|(name, ..)| *name).filter(|name| *name != "nonsense").collect();
    assert_eq!(known, listed);
}

/// With time for those that authenticate late.
async fn start() -> Server {
    Server::with(|settings| settings.auth_grace = Duration::from_secs(300)).await
}

async fn connect(server: &Server, role: &str, cell: usize) -> Socket {
    match role {
        "none" => server.chat_with("").await,
        _ => server.chat_with(&token_of(role, cell)).await,
    }
}

/// `ok` or the code of the refusal.
fn outcome(answer: &Value) -> &'static str {
    let text = |field: &str| answer[field].as_str().unwrap_or_default();
    if answer["success"] == true {
        "ok"
    } else {
        short(text("code"), text("error"))
    }
}

#[tokio::test]
async fn every_cell_is_as_the_table_says() {
    let server = start().await;
    let mut cells = Vec::new();
    for (row, (event, payload, expected)) in TABLE.iter().enumerate() {
        for (column, (role, expected)) in ROLES.iter().zip(expected).enumerate() {
            let cell = row * ROLES.len() + column;
            let server = &server;
            cells.push(async move {
                let (conversation, seq) = scene(server, role, cell).await;
                let mut socket = connect(server, role, cell).await;
                let payload = payload
                    .replace("{c}", &conversation.to_string())
                    .replace("{m}", &conversation.message(seq).to_string())
                    .replace("{token}", &token_of(role, cell));
                let answer = socket.ask(7, event, serde_json::from_str(&payload).expect("JSON")).await;
                (outcome(&answer) != *expected).then(|| format!("{event} as {role}: expected {expected}, got {answer}"))
            });
        }
    }
    let count = cells.len();
    let wrong: Vec<String> = futures_util::future::join_all(cells).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// What `typing_start` answers says nothing; who is shown does.
#[tokio::test]
async fn typing_is_shown_of_participants_only() {
    let server = start().await;
    for (cell, role) in ROLES.iter().enumerate() {
        let (conversation, _) = scene(&server, role, cell).await;
        let here = json!({"conversationId": conversation.to_string()});
        // Another participant watches, and is told something else after what the role would be shown with.
        let watcher = if *role == "blocked" { "blocker" } else { "creator" };
        let mut watching = server.chat_with(&token_of(watcher, cell)).await;
        watching.ask(1, "join_conversation", here.clone()).await;
        let mut socket = connect(&server, role, cell).await;
        socket.ask(1, "typing_start", here.clone()).await;
        let elsewhere = server.direct(&name("friend", cell), &name(watcher, cell)).await;
        server.say(&name("friend", cell), elsewhere, "done").await;
        let mut typed = BTreeSet::new();
        loop {
            let (event, payload) = watching.next_event().await;
            match &*event {
                "user_typing" => drop(typed.insert(payload["userId"].as_str().expect("a user").to_owned())),
                "new_message" if payload["message"]["content"] == "done" => break,
                _ => {}
            }
        }
        let shown = typed.contains(&name(role, cell));
        assert_eq!(shown, matches!(*role, "member" | "sender"), "{role}: {typed:?}");
    }
}

#[tokio::test]
async fn users_do_not_log_in_as_plugins() {
    let server = start().await;
    let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    assert!(socket.text().await.starts_with('0'));
    socket.send(&format!(r#"40/chat,{{"token":"{}"}}"#, token_of("plugin", 0))).await;
    let refused = r#"44/chat,{"message":"Invalid token","data":{"code":"unauthenticated"}}"#;
    assert_eq!(socket.text().await, refused);
}
