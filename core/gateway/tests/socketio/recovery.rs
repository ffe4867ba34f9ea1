//! Clients that were cut off and come back.

use std::time::Duration;

use haggle_gateway::SocketIoSettings;
use haggle_model::ConversationId;
use serde_json::{Value, json};

use crate::{
    client::{Server, Socket, of_plugin, token, token_for},
    dialects::ask,
};

fn on(settings: &mut SocketIoSettings) {
    settings.recovery_namespaces = vec!["/chat".into()];
}

/// What a client of the library keeps between its connections.
#[derive(Clone, Debug)]
struct Kept {
    sid: String,
    pid: String,
    offset: Option<String>,
}

/// A connection, and what the client library would do with what comes over it.
struct Client {
    namespace: &'static str,
    socket: Socket,
    kept: Kept,
    recovered: bool,
    /// What came before the answer to the connect.
    early: Vec<Value>,
}

impl Client {
    /// In the chat. `before`: what an earlier connection left.
    async fn connect(server: &Server, token: String, before: Option<&Kept>) -> Client {
        Client::connect_to(server, "/chat", token, before).await
    }

    async fn connect_to(server: &Server, namespace: &'static str, token: String, before: Option<&Kept>) -> Client {
        let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        let mut data = json!({"token": token});
        if let Some(before) = before {
            (data["pid"], data["offset"]) = (json!(before.pid), json!(before.offset));
        }
        assert!(socket.text().await.starts_with('0'));
        socket.send(&format!("40{namespace},{data}")).await;
        let mut kept = Kept {
            sid: String::new(),
            pid: String::new(),
            offset: before.and_then(|before| before.offset.clone()),
        };
        let mut early = Vec::new();
        loop {
            let text = socket.text().await;
            if let Some(connected) = text.strip_prefix("40") {
                let connected = connected.strip_prefix(namespace).and_then(|rest| rest.strip_prefix(','));
                let connected: Value = serde_json::from_str(connected.expect("of this namespace")).expect("JSON");
                kept.sid = connected["sid"].as_str().expect("an id").into();
                kept.pid = connected["pid"].as_str().expect("a secret").into();
                let recovered = before.is_some_and(|before| before.pid == kept.pid);
                return Client {
                    namespace,
                    socket,
                    kept,
                    recovered,
                    early,
                };
            }
            early.push(event(namespace, &text, &mut kept).expect("an event"));
        }
    }

    async fn back(server: &Server, user: &str, before: &Kept) -> Client {
        Client::connect(server, token(user), Some(before)).await
    }

    /// The next event of this name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            let text = self.socket.text().await;
            if let Some(event) = event(self.namespace, &text, &mut self.kept)
                && event[0] == name
            {
                return event;
            }
        }
    }

    /// Up to the last event of a message.
    async fn message(&mut self) -> Value {
        let message = self.event("new_message").await;
        self.event("conversation_updated").await;
        message[1]["message"]["content"].clone()
    }

    /// The texts of the first messages, whether they came before the answer to the connect or, published meanwhile, behind it.
    async fn messages(&mut self, count: usize) -> Vec<Value> {
        let mut texts = contents(&self.early);
        while texts.len() < count {
            texts.push(self.message().await);
        }
        texts
    }

    /// The connection is lost without a word.
    fn cut(self) -> Kept {
        self.kept
    }
}

/// An event, and its offset kept as the client library does.
fn event(namespace: &str, text: &str, kept: &mut Kept) -> Option<Value> {
    let json = text.strip_prefix("42")?.strip_prefix(namespace)?.strip_prefix(',')?;
    let event: Value = serde_json::from_str(json).expect("JSON");
    if let Some(Value::String(last)) = event.as_array().and_then(|args| args.last()) {
        kept.offset = Some(last.clone());
    }
    Some(event)
}

fn contents(events: &[Value]) -> Vec<Value> {
    let messages = events.iter().filter(|event| event[0] == "new_message");
    messages.map(|event| event[1]["message"]["content"].clone()).collect()
}

async fn chat_of(server: &Server) -> (Client, ConversationId) {
    let conversation = server.direct("ann", "bob").await;
    let mut bob = Client::connect(server, token("bob"), None).await;
    server.say("ann", conversation, "first").await;
    assert_eq!(bob.message().await, "first");
    (bob, conversation)
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not so: {what}");
}

#[tokio::test]
async fn a_client_gets_its_place_and_what_it_missed() {
    let server = Server::with(on).await;
    let (mut bob, conversation) = chat_of(&server).await;
    let here = json!({"conversationId": conversation.to_string()});
    bob.socket.ask(0, "join_conversation", here.clone()).await;
    let before = bob.cut();
    let hub = server.gateway.engine.hub();
    eventually("who is away is not online", || !hub.online(&"bob".into())).await;
    for text in ["second", "third"] {
        server.say("ann", conversation, text).await;
    }
    let mut bob = Client::back(&server, "bob", &before).await;
    assert!(bob.recovered && bob.kept.sid == before.sid, "{:?}", bob.kept);
    assert_eq!(bob.messages(2).await, ["second", "third"]);
    assert!(hub.online(&"bob".into()));
    server.say("ann", conversation, "fourth").await;
    assert_eq!(bob.message().await, "fourth");
    let mut ann = server.chat("ann").await;
    ann.ask(0, "typing_start", here).await;
    assert_eq!(bob.event("user_typing").await[1]["isTyping"], true, "it is still in the conversation");

    let again = Client::back(&server, "bob", &bob.cut()).await;
    assert!(
        again.recovered && again.early.is_empty(),
        "what was seen does not come again: {:?}",
        again.early
    );
}

#[tokio::test]
async fn a_client_may_be_back_before_its_cut_is_noticed() {
    let server = Server::with(on).await;
    let (bob, conversation) = chat_of(&server).await;
    let mut back = Client::back(&server, "bob", &bob.kept).await;
    assert!(back.recovered);
    server.say("ann", conversation, "second").await;
    assert_eq!(back.message().await, "second");
    let Client { mut socket, .. } = bob;
    socket.is_closed().await;
    assert!(
        server.gateway.engine.hub().online(&"bob".into()),
        "the old connection's end takes nothing along"
    );
    server.say("ann", conversation, "third").await;
    assert_eq!(back.message().await, "third");
}

#[tokio::test]
async fn a_client_that_has_seen_no_event_misses_none() {
    let server = Server::with(on).await;
    let conversation = server.direct("ann", "bob").await;
    let before = Client::connect(&server, token("bob"), None).await.cut();
    assert_eq!(before.offset, None);
    server.say("ann", conversation, "first").await;
    let mut bob = Client::back(&server, "bob", &before).await;
    assert!(bob.recovered);
    assert_eq!(bob.messages(1).await, ["first"]);
}

#[tokio::test]
async fn events_end_with_an_offset_only_where_it_is_configured() {
    let server = Server::with(on).await;
    let (mut bob, conversation) = chat_of(&server).await;
    server.say("ann", conversation, "second").await;
    for name in ["new_message", "message_received", "conversation_updated"] {
        assert!(bob.event(name).await[2].is_string(), "{name}");
    }
    let server = Server::start().await;
    let conversation = server.direct("ann", "bob").await;
    let mut bob = server.chat("bob").await;
    server.say("ann", conversation, "first").await;
    loop {
        let text = bob.text().await;
        let event: Value = serde_json::from_str(text.strip_prefix("42/chat,").expect("an event")).expect("JSON");
        assert_eq!(event.as_array().map(Vec::len), Some(2), "{text}");
        if event[0] == "conversation_updated" {
            break;
        }
    }
}

#[tokio::test]
async fn who_left_or_is_not_who_it_was_is_new() {
    let server = Server::with(on).await;
    let (mut bob, conversation) = chat_of(&server).await;
    let anns = Client::back(&server, "ann", &bob.kept).await;
    assert!(!anns.recovered, "another user's secret");
    bob.socket.send("41/chat,").await;
    let left = bob.kept.clone();
    server.say("ann", conversation, "second").await;
    let back = Client::back(&server, "bob", &left).await;
    assert!(!back.recovered && back.early.is_empty(), "it left by itself");
    assert_ne!((&back.kept.pid, &back.kept.sid), (&left.pid, &left.sid));
    let unknown = Kept {
        pid: "n2.unknown".into(),
        ..left
    };
    assert!(!Client::back(&server, "bob", &unknown).await.recovered, "another node's");
}

#[tokio::test]
async fn the_token_is_checked_again() {
    let server = Server::with(on).await;
    let conversation = server.direct("ann", "bob").await;
    let mut bob = Client::connect(&server, token_for("bob", Duration::from_secs(2)), None).await;
    server.say("ann", conversation, "first").await;
    assert_eq!(bob.message().await, "first");
    assert_eq!(bob.event("error").await[1]["code"], "token_expired");
    bob.socket.is_closed().await;
    let before = bob.kept;
    let mut refused = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
    refused.text().await;
    let ask = json!({"pid": before.pid, "offset": before.offset, "token": "a.b.c"});
    refused.send(&format!("40/chat,{ask}")).await;
    assert!(refused.text().await.starts_with("44/chat,{\"message\":\"Invalid token\""));
    server.say("ann", conversation, "second").await;
    let mut bob = Client::back(&server, "bob", &before).await;
    assert!(bob.recovered);
    assert_eq!(bob.messages(1).await, ["second"]);
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let few = |settings: &mut SocketIoSettings| {
        on(settings);
        settings.recovery_packets_max = 3;
        settings.recovery_sessions_max = 2;
    };
    let server = Server::with(few).await;
    let (bob, conversation) = chat_of(&server).await;
    let before = bob.cut();
    for text in ["2", "3", "4", "5"] {
        server.say("ann", conversation, text).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await; // They are published after their acks.
    let bob = Client::back(&server, "bob", &before).await;
    assert!(!bob.recovered && bob.early.is_empty(), "more was missed than is kept");

    let hub = server.gateway.engine.hub();
    let mut gone = Vec::new();
    for user in ["u1", "u2", "u3"] {
        gone.push((user, Client::connect(&server, token(user), None).await.cut()));
        eventually("it is away", || !hub.online(&user.into())).await;
    }
    let mut back = Vec::new();
    for (user, before) in &gone {
        back.push(Client::back(&server, user, before).await);
    }
    let recovered: Vec<_> = back.iter().map(|client| client.recovered).collect();
    assert_eq!(recovered, [false, true, true], "the first that went lost its place");
}

#[tokio::test]
async fn a_place_is_not_kept_for_ever() {
    let short = |settings: &mut SocketIoSettings| {
        on(settings);
        settings.recovery_within = Duration::from_millis(500);
    };
    let server = Server::with(short).await;
    let (bob, _) = chat_of(&server).await;
    let before = bob.cut();
    let hub = server.gateway.engine.hub();
    let known = || {
        let mut known = false;
        hub.each(&"bob".into(), |connection| known |= connection.id() == before.sid);
        known
    };
    eventually("it is away", || !hub.online(&"bob".into())).await;
    assert!(known(), "its events are kept");
    eventually("it is forgotten", || !known()).await;
    assert!(!Client::back(&server, "bob", &before).await.recovered);
}

#[tokio::test]
async fn a_polling_client_gets_what_it_missed_in_front_of_its_connect() {
    let server = Server::with(on).await;
    let (bob, conversation) = chat_of(&server).await;
    let before = bob.cut();
    server.say("ann", conversation, "second").await;
    tokio::time::sleep(Duration::from_millis(200)).await; // It is published after its ack.
    let sid = server.open().await;
    let ask = json!({"pid": before.pid, "offset": before.offset, "token": token("bob")});
    assert_eq!(server.post(&sid, &format!("40/chat,{ask}")).await.body, "ok");
    let payload = server.poll(&sid).await.body;
    let packets: Vec<&str> = payload.split('\u{1e}').collect();
    let names: Vec<_> = packets.iter().map(|packet| packet.split(['{', ',']).nth(1).unwrap_or_default()).collect();
    assert_eq!(
        names,
        ["[\"new_message\"", "[\"message_received\"", "[\"conversation_updated\"", ""],
        "{payload}"
    );
    assert!(packets[3].contains(&before.pid) && packets[3].contains(&before.sid), "{payload}");
}

#[tokio::test]
async fn who_fell_too_far_behind_is_new() {
    let small = |settings: &mut SocketIoSettings| {
        on(settings);
        (settings.outbox_bytes_max, settings.recovery_bytes_max) = (256 * 1024, 128 * 1024);
    };
    let server = Server::with(small).await;
    let (bob, conversation) = chat_of(&server).await;
    let hub = server.gateway.engine.hub();
    let text = "x".repeat(1_000);
    let mut said = 0;
    // It reads nothing until the server gives it up.
    while hub.online(&"bob".into()) {
        server.say("ann", conversation, &text).await;
        said += 1;
        assert!(said < 5_000, "the server gives up who does not read");
    }
    let back = Client::back(&server, "bob", &bob.cut()).await;
    assert!(!back.recovered && back.early.is_empty(), "all of what was missed, or nothing");
}

// In a namespace of a plugin.

async fn shop(change: impl FnOnce(&mut SocketIoSettings)) -> Server {
    Server::with(|settings| {
        settings.dialects = vec![of_plugin("/shop")];
        settings.recovery_namespaces = vec!["/shop".into()];
        change(settings);
    })
    .await
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event[0].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_plugin_hears_nothing_of_a_cut_that_is_mended() {
    let server = shop(|_| {}).await;
    let conversation = server.direct("ann", "bob").await;
    let mut ann = Client::connect_to(&server, "/shop", token("ann"), None).await;
    let mut bob = Client::connect_to(&server, "/shop", token("bob"), None).await;
    assert_eq!(ask(&mut bob.socket, 0, json!(["room", "staff"])).await, json!([{"ok": true}]));
    server.say("ann", conversation, "first").await;
    let first = bob.event("message_notification").await;
    assert_eq!(first.as_array().map(Vec::len), Some(3), "an offset at the end: {first}");
    let before = bob.cut();
    let hub = server.gateway.engine.hub();
    eventually("who is away is not online", || !hub.online(&"bob".into())).await;
    let status = loop {
        let status = ann.event("status").await;
        if status[1] == json!(["bob", false]) {
            break status;
        }
    };
    assert_eq!(status[2], Value::Null, "no offset, and nothing that could be taken for one");

    server.say("ann", conversation, "second").await;
    assert_eq!(ann.event("message_sent").await[1], "second");
    assert_eq!(ask(&mut ann.socket, 0, json!(["emit", "staff"])).await, json!([{"ok": true}]));
    let mut bob = Client::connect_to(&server, "/shop", token("bob"), Some(&before)).await;
    assert!(bob.recovered && bob.kept.sid == before.sid, "{:?}", bob.kept);
    assert_eq!(names(&bob.early), ["message_notification", "said"], "what passes by is not sent again");
    assert_eq!(ask(&mut ann.socket, 1, json!(["emit", "staff"])).await, json!([{"ok": true}]));
    assert_eq!(bob.event("said").await[1], "in the room", "it is still in the room");
    assert!(hub.online(&"bob".into()));
    let heard = |what: &str| server.heard.lock().unwrap().iter().filter(|text| text.starts_with(what)).count();
    assert_eq!((heard("connect /shop as `bob`"), heard("disconnect")), (1, 0));

    bob.socket.send("41/shop,").await;
    eventually("the plugin hears of the end", || heard("disconnect: client namespace disconnect") == 1).await;
    let new = Client::connect_to(&server, "/shop", token("bob"), Some(&bob.kept)).await;
    assert!(!new.recovered, "who has left is new");
}

#[tokio::test]
async fn a_plugin_hears_of_a_client_that_does_not_come_back() {
    let server = shop(|settings| settings.recovery_within = Duration::from_millis(100)).await;
    let before = Client::connect_to(&server, "/shop", token("bob"), None).await.cut();
    let heard = |what: &str| server.heard.lock().unwrap().iter().any(|text| text == what);
    eventually("the plugin hears of the end", || heard("disconnect: transport close")).await;
    let new = Client::connect_to(&server, "/shop", token("bob"), Some(&before)).await;
    assert!(!new.recovered && new.kept.sid != before.sid);
}

#[tokio::test]
async fn a_place_belongs_to_its_user_and_its_namespace() {
    let server = shop(|settings| {
        settings.dialects.push(of_plugin("/other"));
        settings.recovery_namespaces.extend(["/other".into(), "/chat".into()]);
    })
    .await;
    let before = Client::connect_to(&server, "/shop", token("bob"), None).await.cut();
    let hub = server.gateway.engine.hub();
    eventually("bob is away", || !hub.online(&"bob".into())).await;
    for (namespace, user) in [("/other", "bob"), ("/chat", "bob"), ("/shop", "ann")] {
        let other = Client::connect_to(&server, namespace, token(user), Some(&before)).await;
        assert!(!other.recovered, "{user} in {namespace}");
    }
    assert!(Client::connect_to(&server, "/shop", token("bob"), Some(&before)).await.recovered);
}

#[tokio::test]
async fn clients_without_a_token_are_recovered_too() {
    let server = shop(|settings| settings.dialects[0].anonymous = true).await;
    let mut nobody = Client::connect_to(&server, "/shop", String::new(), None).await;
    assert_eq!(ask(&mut nobody.socket, 0, json!(["e", {"n": 1}])).await, json!([{"n": 1}]));
    let back = Client::connect_to(&server, "/shop", String::new(), Some(&nobody.cut())).await;
    assert!(back.recovered);
    assert_eq!(names(&back.early), ["e"], "whose echo had not been seen");
}
