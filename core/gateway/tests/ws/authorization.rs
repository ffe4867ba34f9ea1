//! Role × frame: what each kind of caller gets for every type of frame that a client sends. A type that is missing here, or a row
//! without a type, fails.

use std::{collections::BTreeSet, time::Duration};

use haggle_gateway::ws::FRAME_TYPES;
use serde_json::{Value, json};

use crate::{
    client::Client,
    roles::{name, scene, short, token_of},
    server::{Server, token, token_for},
};

/// The columns. All but the last look at a group of `creator` (admin), `sender` (whose message it is), `member` and `ex` (who
/// has left); `blocked` at a direct conversation in which the other one blocks it, and at its own message there. `none` has not
/// logged in, the token of `expired` ended while it was connected, `plugin` pretends to be one.
const ROLES: [&str; 11] = [
    "none", "expired", "plugin", "stranger", "ex", "member", "sender", "creator", "operator", "service", "blocked",
];

type Row = (&'static str, &'static str, [&'static str; 11]);

/// `{c}` is the role's conversation, `{m}` the message there, `{s}` its seq.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    //                                                              none    exp    plugin  strang ex     member    sender    creator   oper   service blocked
    ("auth",      r#""token":"{token}""#,                          ["ok",   "ok",  "auth", "ok",  "ok",  "ok",     "ok",     "ok",     "ok",  "ok",   "ok"]),
    ("ping",      r#""x":1"#,                                      ["ok",   "ok",  "ok",   "ok",  "ok",  "ok",     "ok",     "ok",     "ok",  "ok",   "ok"]),
    // An admin reads every conversation by REST; live events are for participants.
    ("sub",       r#""c":"{c}","since":0"#,                        ["auth", "exp", "auth", "404", "404", "ok",     "ok",     "ok",     "403", "403",  "ok"]),
    ("unsub",     r#""c":"{c}""#,                                  ["auth", "exp", "auth", "ok",  "ok",  "ok",     "ok",     "ok",     "ok",  "ok",   "ok"]),
    ("read",      r#""c":"{c}","s":{s}"#,                          ["auth", "exp", "auth", "404", "404", "ok",     "ok",     "ok",     "404", "404",  "ok"]),
    ("delivered", r#""c":"{c}","s":{s}"#,                          ["auth", "exp", "auth", "404", "404", "ok",     "ok",     "ok",     "404", "404",  "ok"]),
    // A hint: taken from everybody and shown only of participants (the test below).
    ("typing",    r#""c":"{c}","on":true"#,                        ["auth", "exp", "auth", "ok",  "ok",  "ok",     "ok",     "ok",     "ok",  "ok",   "ok"]),
    ("send",      r#""c":"{c}","d":{"content":"x"}"#,              ["auth", "exp", "auth", "404", "404", "ok",     "ok",     "ok",     "404", "404",  "block"]),
    ("edit",      r#""m":"{m}","d":{"content":"y"}"#,              ["auth", "exp", "auth", "404", "404", "403",    "ok",     "403",    "404", "404",  "block"]),
    ("delete",    r#""m":"{m}""#,                                  ["auth", "exp", "auth", "404", "404", "403",    "ok",     "ok",     "404", "404",  "ok"]),
    ("react",     r#""m":"{m}","emoji":"x""#,                      ["auth", "exp", "auth", "404", "404", "ok",     "ok",     "ok",     "404", "404",  "block"]),
    ("create",    r#""n":"group","d":{"participants":["zoe"]}"#,   ["auth", "exp", "auth", "ok",  "ok",  "ok",     "ok",     "ok",     "ok",  "ok",   "ok"]),
    ("create",    r#""n":"broadcast","d":{"groupName":"{c}"}"#,    ["auth", "exp", "auth", "403", "403", "403",    "403",    "403",    "ok",  "ok",   "403"]),
    ("create",    r#""n":"context","d":{"participants":[],"context":{"owner":"shop","type":"order","id":"{c}"}}"#,
                                                                   ["auth", "exp", "auth", "403", "403", "403",    "403",    "403",    "ok",  "ok",   "403"]),
    ("call",      r#""c":"{c}","n":"shop.open","d":{}"#,           ["auth", "exp", "auth", "404", "404", "no cmd", "no cmd", "no cmd", "no cmd", "no cmd", "no cmd"]),
    ("nonsense",  r#""c":"{c}""#,                                  ["auth", "exp", "auth", "type", "type", "type", "type",   "type",   "type", "type", "type"]),
];

#[test]
fn every_type_of_frame_has_a_row() {
    let known: BTreeSet<_> = FRAME_TYPES.iter().copied().collect();
    let listed: BTreeSet<_> = TABLE.iter().map(|(name, ..)| *name).filter(|name| *name != "nonsense").collect();
    assert_eq!(known.difference(&listed).collect::<Vec<_>>(), [&""; 0], "types without a row");
    assert_eq!(listed.difference(&known).collect::<Vec<_>>(), [&""; 0], "rows without a type");
}

/// A connection of the role, as far as it comes.
async fn connect(server: &Server, role: &str, cell: usize) -> Client {
    match role {
        "none" => Client::connect(server.address).await,
        "plugin" => {
            let mut client = Client::connect(server.address).await;
            let refused = client.request(json!({"t": "auth", "token": token_of(role, cell)})).await;
            assert_eq!(outcome(&refused), "auth", "users do not log in as plugins");
            client
        }
        "expired" => {
            let mut client = Client::login(server.address, &token_for(&name("expired", cell), Duration::from_secs(2))).await;
            client.until(|frame| frame["e"]["code"] == "token_expired").await;
            client
        }
        _ => Client::login(server.address, &token_of(role, cell)).await,
    }
}

/// `ok` or the code of the refusal.
fn outcome(answer: &Value) -> &'static str {
    let text = |field: &str| answer["e"][field].as_str().unwrap_or_default();
    if answer["t"] == "ok" { "ok" } else { short(text("code"), text("msg")) }
}

#[tokio::test]
async fn every_cell_is_as_the_table_says() {
    let server = Server::start().await;
    let mut cells = Vec::new();
    for (row, (frame, fields, expected)) in TABLE.iter().enumerate() {
        for (column, (role, expected)) in ROLES.iter().zip(expected).enumerate() {
            let cell = row * ROLES.len() + column;
            let server = &server;
            // Side by side, since a token takes its two seconds to expire.
            cells.push(async move {
                let (conversation, seq) = scene(server, role, cell).await;
                let mut client = connect(server, role, cell).await;
                let fields = fields
                    .replace("{c}", &conversation.to_string())
                    .replace("{m}", &conversation.message(seq).to_string())
                    .replace("{s}", &seq.to_string())
                    .replace("{token}", &token_of(role, cell));
                let answer = client
                    .request(serde_json::from_str(&format!(r#"{{"t":"{frame}",{fields}}}"#)).expect("JSON"))
                    .await;
                (outcome(&answer) != *expected).then(|| format!("{frame} as {role}: expected {expected}, got {answer}"))
            });
        }
    }
    let count = cells.len();
    let wrong: Vec<String> = futures_util::future::join_all(cells).await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// What `typing` answers says nothing; who is shown does.
#[tokio::test]
async fn typing_is_shown_of_participants_only() {
    let server = Server::start().await;
    for (cell, role) in ROLES.iter().enumerate().skip(3) {
        let (conversation, _) = scene(&server, role, cell).await;
        let watcher = if *role == "blocked" { "blocker" } else { "creator" };
        let mut watching = Client::login(server.address, &token(&name(watcher, cell))).await;
        watching.request(json!({"t": "sub", "c": conversation.to_string()})).await;
        let mut client = connect(&server, role, cell).await;
        client.request(json!({"t": "typing", "c": conversation.to_string(), "on": true})).await;
        // A later event of the same conversation comes after the hint, if there is one.
        let member = if *role == "blocked" { None } else { Some(name("member", cell)) };
        if let Some(member) = member {
            tokio::time::sleep(Duration::from_millis(50)).await;
            server.say(&member, conversation, "done").await;
            let seen = watching.until_all(|frame| frame["t"] == "ev").await;
            let shown = seen.iter().any(|frame| frame["n"] == "typing");
            assert_eq!(shown, matches!(*role, "member" | "sender"), "{role}");
        } else {
            let seen = tokio::time::timeout(Duration::from_millis(200), watching.until(|frame| frame["n"] == "typing")).await;
            assert!(seen.is_err(), "{role}: {seen:?}");
        }
    }
}
