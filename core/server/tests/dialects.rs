//! Namespaces of plugins on the real binary: which ones a connection gets, by host, port, path and claim, with two listeners; and
//! what a component makes of every kind of core event.

mod common;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use common::{Server, request, stdout};
use serde_json::{Value, json};

/// Each is bound by the condition of its name, the last one by all of them.
const NAMESPACES: [&str; 5] = ["/host", "/port", "/path", "/claim", "/all"];
const HOST: &str = "shop.example";
const PATH: &str = "/shop/socket.io/";

fn dialects(port: u16) -> String {
    let conditions = [
        format!("host = \"{HOST}\""),
        format!("port = {port}"),
        format!("path = \"{PATH}\""),
        "claim = { name = \"sub\", value = \"ann\" }".to_owned(),
    ];
    let all = conditions.join("\n");
    let tables = NAMESPACES
        .iter()
        .zip(conditions.iter().chain([&all]))
        .map(|(namespace, conditions)| format!("[[socketio.dialects]]\nnamespace = \"{namespace}\"\nplugin = \"nobody\"\n{conditions}\n"));
    tables.collect()
}

/// How a client connects.
#[derive(Clone, Copy)]
struct Client<'a> {
    to: SocketAddr,
    path: &'a str,
    host: &'a str,
    token: &'a str,
}

impl Client<'_> {
    fn ask(&self, method: &str, query: &str, body: &str) -> String {
        let path = format!("{}?EIO=4&transport=polling{query}", self.path);
        let head = [("host", self.host), ("content-type", "text/plain;charset=UTF-8")];
        let answer = request(self.to, method, &path, &head, body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// The namespaces that are a plugin's for this client. There is no such plugin, which only they say.
    fn bound(&self) -> BTreeSet<&'static str> {
        let open = self.ask("GET", "", "");
        let open: serde_json::Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        let sid = format!("&sid={}", open["sid"].as_str().expect("an id"));
        let connects = NAMESPACES.map(|namespace| format!("40{namespace},{{\"token\":\"{}\"}}", self.token));
        self.ask("POST", &sid, &connects.join("\u{1e}"));
        let mut answers = Vec::new();
        while answers.len() < NAMESPACES.len() {
            let payload = self.ask("GET", &sid, "");
            answers.extend(payload.split('\u{1e}').filter(|packet| packet.starts_with("44")).map(str::to_owned));
        }
        let is_bound = |namespace: &&str| {
            let head = format!("44{namespace},");
            let answer = answers.iter().find(|answer| answer.starts_with(&head)).expect("an answer for each");
            let none = answer.contains("Invalid namespace");
            assert_ne!(none, answer.contains("the plugin of this namespace is not active"), "{answer}");
            !none
        };
        NAMESPACES.into_iter().filter(is_bound).collect()
    }
}

/// A server that listens at a second address too, with a configuration made of that one's port.
fn start(dir: &Path, configuration: impl FnOnce(u16) -> String) -> (Server, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let also = free.local_addr().expect("it is bound");
    drop(free);
    let file = dir.join("haggle.toml");
    let text = format!("[server]\nlisten_also = [\"{also}\"]\n{}", configuration(also.port()));
    std::fs::write(&file, text).expect("a file");
    let server = Server::start(&dir.join("data"), &[("HAGGLE_CONFIG", file.to_str().expect("a plain path"))]);
    (server, also)
}

fn token(dir: &Path, user: &str) -> String {
    stdout(&["token", user, "--data", dir.join("data").to_str().expect("a plain path")])
}

#[test]
fn a_dialect_is_bound_by_host_port_path_and_claim() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (server, also) = start(dir.path(), dialects);
    let (ann, bob) = (token(dir.path(), "ann"), token(dir.path(), "bob"));
    let plain = Client {
        to: server.clients,
        path: "/socket.io/",
        host: "localhost",
        token: &bob,
    };
    let check = |client: &Client<'_>, expect: &[&str]| assert_eq!(client.bound(), expect.iter().copied().collect());
    check(&plain, &[]);
    check(&Client { host: HOST, ..plain }, &["/host"]);
    check(
        &Client {
            host: "shop.example:443",
            ..plain
        },
        &["/host"],
    );
    check(&Client { to: also, ..plain }, &["/port"]);
    check(&Client { path: PATH, ..plain }, &["/path"]);
    check(&Client { token: &ann, ..plain }, &["/claim"]);
    let all = Client {
        to: also,
        path: PATH,
        host: HOST,
        token: &ann,
    };
    check(&all, &NAMESPACES);
    check(&Client { token: &bob, ..all }, &["/host", "/port", "/path"]);
}

#[test]
fn every_listener_serves_the_same() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut server, also) = start(dir.path(), |_| String::new());
    let token = token(dir.path(), "ann");
    let head = [("authorization", &*format!("Bearer {token}")), ("content-type", "application/json")];
    let body = r#"{"participants":["bob"],"type":"direct"}"#;
    let created = request(server.clients, "POST", "/api/conversations", &head, body);
    assert_eq!(created.status, 201, "{}", created.body);
    let listed = [server.clients, also].map(|to| request(to, "GET", "/api/conversations", &head, "").body);
    assert!(listed[0].contains("bob") && listed[0] == listed[1], "{listed:?}");
    server.signal("TERM");
    assert!(server.ended().success());
    assert!(TcpStream::connect(also).is_err(), "both listeners have ended");
}

/// The plugin of `examples/socketio-echo` as wasm.
fn echo_plugin() -> PathBuf {
    let built = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/plugins").into();
    let plugins = PathBuf::from(std::env::var_os("HAGGLE_PLUGINS").unwrap_or_else(built)).with_file_name("example-plugins");
    assert!(
        plugins.join("socketio-echo/plugin.toml").is_file(),
        "{} is not built: run `cargo xtask test`",
        plugins.display()
    );
    plugins
}

/// A user's session of long polling in one namespace.
struct Session<'a> {
    client: Client<'a>,
    namespace: &'static str,
    sid: String,
    /// Packets that nobody has looked at.
    packets: VecDeque<String>,
}

impl<'a> Session<'a> {
    fn join(client: Client<'a>, namespace: &'static str) -> Session<'a> {
        let open = client.ask("GET", "", "");
        let open: Value = serde_json::from_str(open.strip_prefix('0').expect("an open packet")).expect("JSON");
        let mut session = Session {
            client,
            namespace,
            sid: format!("&sid={}", open["sid"].as_str().expect("an id")),
            packets: VecDeque::new(),
        };
        session.send("40", &json!({"token": client.token}));
        let answer = session.next();
        assert!(answer.starts_with(&format!("40{namespace},")), "{answer}");
        session
    }

    fn send(&self, kind: &str, data: &Value) {
        self.client.ask("POST", &self.sid, &format!("{kind}{},{data}", self.namespace));
    }

    fn next(&mut self) -> String {
        while self.packets.is_empty() {
            let payload = self.client.ask("GET", &self.sid, "");
            self.packets.extend(payload.split('\u{1e}').map(str::to_owned));
        }
        self.packets.pop_front().expect("there is one")
    }

    /// What the next event of this name brings.
    fn event(&mut self, name: &str) -> Value {
        let head = format!("42{},[\"{name}\",", self.namespace);
        loop {
            if let Some(rest) = self.next().strip_prefix(&head) {
                return serde_json::from_str(rest.strip_suffix(']').expect("an array")).expect("JSON");
            }
        }
    }

    /// A request by REST; its answer.
    fn rest(&self, method: &str, path: &str, body: Value) -> Value {
        let token = format!("Bearer {}", self.client.token);
        let head = [("authorization", &*token), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = request(self.client.to, method, &format!("/api{path}"), &head, &body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap_or_default()
    }
}

#[test]
fn every_kind_of_core_event_reaches_clients_through_a_component() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plugins = echo_plugin();
    let (server, _) = start(dir.path(), |_| {
        let plugins = plugins.to_str().expect("a plain path");
        format!("plugins_dir = \"{plugins}\"\n[[socketio.dialects]]\nnamespace = \"/echo\"\nplugin = \"socketio-echo\"\n")
    });
    let tokens = ["ann", "bob", "carl"].map(|user| token(dir.path(), user));
    let [ann, bob, carl] = [0, 1, 2].map(|user: usize| Client {
        to: server.clients,
        path: "/socket.io/",
        host: "localhost",
        token: &tokens[user],
    });
    let (mut ann, mut bob) = (Session::join(ann, "/echo"), Session::join(bob, "/echo"));

    let made = ann.rest(
        "POST",
        "/conversations",
        json!({"participants": ["bob", "carl"], "type": "group", "groupName": "Three"}),
    );
    let group = made["id"].as_str().expect("an id").to_owned();
    let of_group = format!("/conversations/{group}");
    let bring = |more: Value| {
        let mut brought = json!({
            "actor": "ann", "actorName": null, "conversation": {"id": group, "kind": "group"}, "message": null, "reaction": null,
            "participant": null, "read": null, "on": null, "lastSeenMs": null, "notification": null, "payload": null,
        });
        brought
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        brought
    };
    let hear = |session: &mut Session<'_>, kind: &str, expect: Value| {
        let mut brought = session.event(kind);
        while brought["actor"] != expect["actor"] {
            brought = session.event(kind); // Those of ann and bob may have been told late.
        }
        let fields = brought.as_object_mut().expect("an object");
        let mut recipients = fields.remove("recipients").expect("a list").as_array().expect("a list").clone();
        recipients.sort_by_key(Value::to_string);
        let is_kept = fields.remove("seq").expect("a number") != 0;
        if fields["lastSeenMs"].is_number() {
            fields["lastSeenMs"] = json!("a time");
        }
        assert_eq!(brought, expect, "{kind}");
        (recipients, is_kept)
    };
    let all = vec![json!("ann"), json!("bob"), json!("carl")];

    assert_eq!(hear(&mut bob, "conversation.created", bring(json!({}))), (all.clone(), true));
    let joined = bring(json!({"participant": ["join", "carl", "member"]}));
    bob.event("participant.joined");
    assert_eq!(hear(&mut bob, "participant.joined", joined), (all.clone(), true));

    let sent = ann.rest("POST", &format!("{of_group}/messages"), json!({"content": "one", "type": "text"}));
    let id = sent["id"].as_str().expect("an id").to_owned();
    assert_eq!(bob.event("said"), json!({"conversationId": group, "from": "ann", "text": "one"}));
    let message = format!("/messages/{id}");
    for (by, method, path, body, kind, brings) in [
        (
            "ann",
            "PUT",
            message.clone(),
            json!({"content": "two"}),
            "message.edited",
            json!({"message": {"id": id, "content": "two"}}),
        ),
        (
            "bob",
            "POST",
            format!("{message}/reaction"),
            json!({"reaction": "+1"}),
            "reaction.added",
            json!({"actor": "bob", "message": {"id": id, "content": "two"}, "reaction": ["bob", "+1"]}),
        ),
        (
            "bob",
            "DELETE",
            format!("{message}/reaction"),
            Value::Null,
            "reaction.removed",
            json!({"actor": "bob", "message": {"id": id, "content": "two"}, "reaction": ["bob", null]}),
        ),
        (
            "bob",
            "POST",
            format!("{message}/read"),
            Value::Null,
            "read",
            json!({"actor": "bob", "read": ["bob", 5]}),
        ),
        (
            "ann",
            "DELETE",
            message.clone(),
            Value::Null,
            "message.deleted",
            json!({"message": {"id": id, "content": ""}}),
        ),
        (
            "ann",
            "PUT",
            of_group.clone(),
            json!({"groupName": "We"}),
            "conversation.updated",
            json!({}),
        ),
        (
            "ann",
            "PUT",
            of_group.clone(),
            json!({"isActive": false}),
            "conversation.closed",
            json!({}),
        ),
        (
            "ann",
            "PUT",
            of_group.clone(),
            json!({"isActive": true}),
            "conversation.reopened",
            json!({}),
        ),
        (
            "ann",
            "PUT",
            format!("{of_group}/participants/bob"),
            json!({"role": "admin"}),
            "participant.updated",
            json!({"participant": ["role", "bob", "admin"]}),
        ),
    ] {
        let by = if by == "ann" { &ann } else { &bob };
        by.rest(method, &path, body);
        assert_eq!(hear(&mut bob, kind, bring(brings)), (all.clone(), kind != "read"), "{kind}");
    }

    // Events of the plugin itself: kept, not kept, and for one user alone.
    bob.rest("POST", &format!("{of_group}/commands/socketio-echo.ring"), json!({"n": 1}));
    let payload = "{\"n\":1}";
    let rung = bring(json!({"actor": "plugin:socketio-echo", "payload": payload}));
    assert_eq!(hear(&mut ann, "x.socketio-echo.rung", rung), (all.clone(), true));
    let nowhere = |more: Value| {
        let mut brought = bring(json!({"actor": null, "conversation": null}));
        brought
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        brought
    };
    let bob_alone = vec![json!("bob")];
    // Two lanes, so two sessions look: which of both comes first is not said.
    let mut bob_too = Session::join(bob.client, "/echo");
    bob.rest("POST", &format!("{of_group}/commands/socketio-echo.ring"), json!({"n": 1}));
    let notified = nowhere(json!({"notification": ["bob", "It rang", "socketio-echo"]}));
    assert_eq!(hear(&mut bob, "notification", notified), (bob_alone.clone(), true));
    assert_eq!(
        hear(&mut bob_too, "x.socketio-echo.heard", nowhere(json!({"payload": payload}))),
        (bob_alone, false)
    );

    // Signs of life, from the server's own chat.
    let carl = Session::join(carl, "/chat");
    let ann_and_bob = all[..2].to_vec();
    let online = nowhere(json!({"actor": "carl", "on": true}));
    assert_eq!(hear(&mut ann, "presence", online), (ann_and_bob.clone(), false));
    carl.send("42", &json!(["typing_start", {"conversationId": group}]));
    let typing = bring(json!({"actor": "carl", "actorName": "carl", "on": true}));
    assert_eq!(hear(&mut ann, "typing", typing), (ann_and_bob.clone(), false));
    carl.client.ask("POST", &carl.sid, "1");
    let offline = nowhere(json!({"actor": "carl", "on": false, "lastSeenMs": "a time"}));
    assert_eq!(hear(&mut ann, "presence", offline), (ann_and_bob, false));

    bob.rest("DELETE", &format!("{of_group}/participants/bob"), Value::Null);
    let left = bring(json!({"actor": "bob", "participant": ["leave", "bob", "member"]}));
    assert_eq!(hear(&mut bob, "participant.left", left), (all, true));
    let direct = ann.rest("POST", "/conversations", json!({"participants": ["bob"], "type": "direct"}));
    let both = vec![json!("ann"), json!("bob")];
    for (method, kind) in [("PUT", "user.blocked"), ("DELETE", "user.unblocked")] {
        ann.rest(method, "/users/bob/block", Value::Null);
        let brought = bring(json!({"conversation": {"id": direct["id"], "kind": "direct"}}));
        assert_eq!(hear(&mut bob, kind, brought), (both.clone(), true));
    }
}
