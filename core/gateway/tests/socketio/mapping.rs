//! Every kind of core event in a namespace of a plugin, and every audience: who hears of it, and who does not.

use std::time::Duration;

use haggle_engine::{Actor, Command, NewConversation, Request, Transport};
use haggle_model::{ConversationId, ConversationUpdate, Role};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    client::{Server, Socket, of_plugin},
    server::{plugin::EVERY, token_with},
};

/// Whatever is expected comes within this time; the end of a presence is told after 2 s.
const SOON: Duration = Duration::from_secs(10);
/// Another namespace of the same plugin.
const OTHER: &str = "/every/other";

/// A connection in a namespace, and what came over it that nobody has looked at.
struct Listener {
    name: &'static str,
    namespace: &'static str,
    id: String,
    socket: Socket,
    heard: Vec<Value>,
}

impl Listener {
    async fn join(server: &Server, name: &'static str, namespace: &'static str, user: &str, roles: &[&str]) -> Listener {
        let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        assert!(socket.text().await.starts_with('0'));
        let connect = format!("40{namespace},{}", json!({"token": token_with(user, roles)}));
        socket.send(&connect).await;
        let answer = socket.text().await;
        let joined = answer
            .strip_prefix("40")
            .and_then(|rest| rest.strip_prefix(namespace))
            .and_then(|rest| rest.strip_prefix(','));
        let joined: Value = serde_json::from_str(joined.unwrap_or_else(|| panic!("not let in: {answer}"))).expect("JSON");
        Listener {
            name,
            namespace,
            id: joined["sid"].as_str().expect("an id").into(),
            socket,
            heard: Vec::new(),
        }
    }

    async fn next(&mut self) -> Value {
        let head = format!("42{},", self.namespace);
        loop {
            let text = self.socket.text().await;
            if let Some(event) = text.strip_prefix(&head) {
                return serde_json::from_str(event).expect("JSON");
            }
        }
    }

    /// Asks the plugin, whose first argument of the ack is the answer.
    async fn ask(&mut self, event: Value) -> Value {
        self.socket.send(&format!("42{},7{event}", self.namespace)).await;
        let (event_head, ack_head) = (format!("42{},", self.namespace), format!("43{},7", self.namespace));
        loop {
            let text = self.socket.text().await;
            if let Some(answer) = text.strip_prefix(&ack_head) {
                let mut answer: Value = serde_json::from_str(answer).expect("JSON");
                return answer[0].take();
            }
            let event = text.strip_prefix(&event_head).map(|event| serde_json::from_str(event).expect("JSON"));
            self.heard.extend(event);
        }
    }

    /// Waits for so many events, and for all that has come with them.
    async fn take(&mut self, count: usize) -> Vec<Value> {
        while self.heard.len() < count
            && let Ok(event) = timeout(SOON, self.next()).await
        {
            self.heard.push(event);
        }
        self.ask(json!(["flush", 0])).await;
        self.heard.retain(|event| event[0] != "flush");
        std::mem::take(&mut self.heard)
    }
}

/// Who hears of what: names, the event, what it brings.
type Heard<'a> = (&'a str, &'a str, Value);

/// What happens reaches these, in this order, and none of the others.
async fn check(listeners: &mut [Listener], what: &str, expect: &[Heard<'_>]) {
    for listener in listeners {
        let own = expect.iter().filter(|(names, ..)| names.split(' ').any(|name| name == listener.name));
        let own: Vec<Value> = own.map(|(_, kind, brought)| json!([kind, brought])).collect();
        assert_eq!(listener.take(own.len()).await, own, "{}: {what}", listener.name);
    }
}

impl Server {
    async fn run_as_admin(&self, user: &str, command: Command) -> ConversationId {
        let actor = Actor {
            roles: ["admin".to_owned()].into(),
            ..Actor::user(user, Transport::Rest)
        };
        let outcome = self.gateway.engine.execute(Request::new(actor, command)).await;
        outcome.expect("the command takes effect").conversation
    }

    async fn mark(&self, user: &str, conversation: ConversationId, delivered: Option<u32>, read: Option<u32>) {
        let (done, answer) = tokio::sync::oneshot::channel();
        let reply = Box::new(move |outcome| drop(done.send(outcome)));
        let actor = Actor::user(user, Transport::Rest);
        self.gateway.engine.mark(&actor, conversation, delivered, read, Some(reply));
        answer.await.expect("answered").expect("the marks move");
    }

    /// Waits until the plugin was asked this so often.
    async fn hears_times(&self, text: &str, times: usize) {
        loop {
            let heard = self.heard.lock().unwrap().iter().filter(|heard| *heard == text).count();
            if heard == times {
                return;
            }
            assert!(heard < times, "{text}: {heard} times");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn close(conversation: ConversationId, closed: bool) -> Command {
    Command::CloseConversation {
        conversation,
        closed,
        reason: None,
    }
}

fn tell(whom: Value) -> Command {
    Command::Call {
        name: "dialect.tell".into(),
        conversation: None,
        payload: whom.to_string(),
    }
}

#[tokio::test]
async fn every_kind_of_core_event_is_told_to_whom_it_concerns_and_to_nobody_else() {
    let server = Server::with(|settings| settings.dialects = vec![of_plugin(EVERY)]).await;
    let mut all = Vec::new();
    for (user, roles) in [("ann", &[][..]), ("bob", &[]), ("eve", &["staff"])] {
        all.push(Listener::join(&server, user, EVERY, user, roles).await);
    }
    server.hears_times("map presence", 3).await; // Nobody shares a conversation yet.

    let group = server.group("ann", &["bob", "carl"]).await;
    let joined = |seq: u32, users: &str, user: &str, role: &str| json!({"seq": seq, "actor": "ann", "in": "group", "for": users, "participant": ["join", user, role]});
    let made = [
        (
            "ann bob",
            "conversation.created",
            json!({"seq": 1, "actor": "ann", "in": "group", "for": "ann bob carl"}),
        ),
        ("ann", "participant.joined", joined(2, "ann", "ann", "admin")),
        ("ann bob", "participant.joined", joined(3, "ann bob", "bob", "member")),
        ("ann bob", "participant.joined", joined(4, "ann bob carl", "carl", "member")),
    ];
    check(&mut all, "a group", &made).await;
    let of_group = |seq: u32, actor: &str, more: Value| {
        let mut brought = json!({"seq": seq, "actor": actor, "in": "group", "for": "ann bob carl"});
        brought.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        brought
    };

    // Of the log.
    let seq = server.say("ann", group, "one").await;
    let message = group.message(seq);
    let edit = Command::Edit {
        message,
        text: Some("two".into()),
        metadata: None,
        if_rev: None,
    };
    let react = |emoji: Option<&str>| Command::React {
        message,
        emoji: emoji.map(Into::into),
    };
    let update = Command::UpdateConversation {
        conversation: group,
        update: ConversationUpdate {
            name: Some("The group".into()),
            ..ConversationUpdate::default()
        },
    };
    let set_role = Command::SetRole {
        conversation: group,
        user: "bob".into(),
        role: Role::Admin,
    };
    check(
        &mut all,
        "a message",
        &[("ann bob", "message.created", of_group(5, "ann", json!({"message": ["send", 5, "one"]})))],
    )
    .await;
    for (user, command, kind, brings) in [
        ("ann", edit, "message.edited", json!({"message": ["edit", 5, "two"]})),
        (
            "bob",
            react(Some("+1")),
            "reaction.added",
            json!({"message": ["send", 5, "two"], "reaction": [5, "bob", "+1"]}),
        ),
        (
            "bob",
            react(None),
            "reaction.removed",
            json!({"message": ["send", 5, "two"], "reaction": [5, "bob", null]}),
        ),
        (
            "ann",
            Command::Delete { message, if_rev: None },
            "message.deleted",
            json!({"message": ["delete", 5, ""]}),
        ),
        ("ann", update, "conversation.updated", json!({})),
        ("ann", close(group, true), "conversation.closed", json!({})),
        ("ann", close(group, false), "conversation.reopened", json!({})),
        ("ann", set_role, "participant.updated", json!({"participant": ["role", "bob", "admin"]})),
    ] {
        let seq = server.run(user, command).await.seq;
        check(&mut all, kind, &[("ann bob", kind, of_group(seq, user, brings))]).await;
    }
    let ring = Command::Call {
        name: "dialect.ring".into(),
        conversation: Some(group),
        payload: r#"{"n":1}"#.into(),
    };
    let seq = server.run("ann", ring).await.seq;
    let rung = of_group(seq, "plugin:dialect", json!({"payload": "{\"n\":1}"}));
    let notified = json!({"seq": 4, "for": "ann", "notification": ["ann", "It rang"]});
    // Conversations have an order each: which of two comes first is not said.
    let ann = &mut all[0];
    let mut both = ann.take(2).await;
    both.sort_by_key(|event| event[0].to_string());
    assert_eq!(both, [json!(["notification", notified]), json!(["x.dialect.rung", rung])]);
    check(&mut all, "a plugin's own event", &[("bob", "x.dialect.rung", rung)]).await;

    let leave = |user: &str| Command::RemoveParticipant {
        conversation: group,
        user: user.into(),
    };
    let seq = server.run("bob", leave("bob")).await.seq;
    let left = of_group(seq, "bob", json!({"participant": ["leave", "bob", "member"]}));
    check(&mut all, "who leaves hears of it", &[("ann bob", "participant.left", left)]).await;
    server.say("carl", group, "without bob").await;
    let said = json!({"seq": seq + 1, "actor": "carl", "in": "group", "for": "ann carl", "message": ["send", seq + 1, "without bob"]});
    check(&mut all, "and of nothing more", &[("ann", "message.created", said)]).await;

    // Marks and signs of life.
    let engine = &server.gateway.engine;
    let by = |user: &str| Actor::user(user, Transport::Rest);
    server.mark("ann", group, Some(seq + 1), None).await;
    server.mark("ann", group, None, Some(seq + 1)).await;
    let read = json!({"actor": "ann", "in": "group", "for": "ann carl", "read": seq + 1});
    check(&mut all, "read, not delivered", &[("ann", "read", read)]).await;
    for on in [true, false] {
        engine.typing(&by("carl"), group, on);
        let typing = json!({"actor": "carl", "actorName": "carl", "in": "group", "for": "ann", "on": on});
        check(&mut all, "typing", &[("ann", "typing", typing)]).await;
    }
    let carl = server.chat("carl").await;
    let online = json!({"actor": "carl", "for": "ann", "on": true});
    check(&mut all, "presence", &[("ann", "presence", online)]).await;

    // Of direct conversations.
    let direct = server.direct("ann", "bob").await;
    for listener in &mut all[..2] {
        while listener.next().await[1]["participant"][1] != "bob" {}
    }
    for (blocked, kind) in [(true, "user.blocked"), (false, "user.unblocked")] {
        let block = Command::Block { user: "bob".into(), blocked };
        let seq = server.run("ann", block).await.seq;
        let brought = json!({"seq": seq, "actor": "ann", "in": "direct", "for": "ann bob"});
        check(&mut all, kind, &[("ann bob", kind, brought)]).await;
    }

    server.run("ann", Command::Hide { conversation: direct }).await;
    let read = json!({"actor": "ann", "in": "direct", "for": "ann bob", "read": 5});
    check(&mut all, "what is hidden is read", &[("ann bob", "read", read)]).await;

    // Of all.
    let create = Command::CreateConversation(NewConversation::Broadcast { name: "news".into() });
    let news = server.run_as_admin("root", create).await;
    let created = json!({"seq": 1, "actor": "root", "in": "broadcast", "for": ""});
    check(&mut all, "a broadcast", &[("ann bob eve", "conversation.created", created)]).await;
    server.mark("bob", news, Some(1), None).await;
    server.mark("bob", news, None, Some(1)).await;
    let read = json!({"actor": "bob", "in": "broadcast", "for": "bob", "read": 1});
    check(&mut all, "a broadcast is read by oneself", &[("bob", "read", read)]).await;

    // What a plugin emits without keeping it.
    let connection = all[2].id.clone();
    for (whom, who, recipients) in [
        (json!({"user": "bob"}), "bob", "bob"),
        (json!({"role": "staff"}), "eve", ""),
        (json!({"connection": connection}), "eve", ""),
    ] {
        server.run("ann", tell(whom.clone())).await;
        let kind = whom.as_object().unwrap().keys().next().unwrap();
        let told = json!({"for": recipients, "payload": json!(kind).to_string()});
        check(&mut all, &whom.to_string(), &[(who, "x.dialect.told", told)]).await;
    }

    // What is a user's own is nobody's event.
    for command in [
        Command::Archive {
            conversation: direct,
            archived: true,
        },
        Command::Mute {
            conversation: direct,
            until: None,
        },
        Command::HideMessage { message },
        Command::ReadAllNotifications,
    ] {
        server.run("ann", command).await;
    }
    drop(carl);
    let offline = json!({"actor": "carl", "for": "ann", "on": false, "gone": true});
    check(&mut all, "presence ends, and nothing else has come", &[("ann", "presence", offline)]).await;
}

/// An audience, who is reached where an event of the conversation is mapped, and who where a handler emits.
type Row<'a> = (Value, &'a str, &'a str);

#[tokio::test]
async fn every_audience_reaches_whom_it_names_and_nobody_else() {
    let server = Server::with(|settings| settings.dialects = vec![of_plugin(EVERY), of_plugin(OTHER)]).await;
    let mut all = Vec::new();
    for (name, namespace, user, roles) in [
        ("a1", EVERY, "ann", &[][..]),
        ("a2", EVERY, "ann", &["staff"]),
        ("b1", EVERY, "bob", &[]),
        ("b2", EVERY, "bob", &[]),
        ("e", EVERY, "eve", &["staff"]),
        ("o", OTHER, "bob", &[]),
    ] {
        all.push(Listener::join(&server, name, namespace, user, roles).await);
    }
    server.hears_times("map presence", 3).await;
    let conversation = server.direct("ann", "bob").await;
    let here = conversation.to_string();
    for listener in &mut all {
        if ["a1", "b1"].contains(&listener.name) {
            assert_eq!(listener.ask(json!(["join", here])).await, json!({"ok": true}));
        }
        if ["b2", "e"].contains(&listener.name) {
            assert_eq!(listener.ask(json!(["room", "desk"])).await, json!({"ok": true}));
        }
    }
    let of = |target: &str, id: &str| json!([target, id]);
    let id_of = |name: &str| all.iter().find(|listener| listener.name == name).expect("it is there").id.clone();
    let (a1, b2) = (id_of("a1"), id_of("b2"));
    const NO_RECIPIENTS: &str = "invalid: recipients are those of a mapped event";
    const NO_CONVERSATION: &str = "invalid: joined needs a conversation as target";
    // The host makes recipients of the conversation that a mapping names.
    const BY_THE_HOST: &str = "?";
    let rows: Vec<Row<'_>> = vec![
        (json!({"to": of("recipients", "")}), "a1 a2 b1 b2 o", NO_RECIPIENTS),
        (json!({"to": of("recipients", ""), "joined": true}), "a1 b1", NO_RECIPIENTS),
        (json!({"to": of("recipients", ""), "joined": false}), "a2 b2 o", NO_RECIPIENTS),
        (json!({"to": of("recipients", ""), "exceptUser": "ann"}), "b1 b2 o", NO_RECIPIENTS),
        (json!({"to": of("conversation", &here)}), BY_THE_HOST, "a1 a2 b1 b2 o"),
        (json!({"to": of("conversation", &here), "joined": true}), BY_THE_HOST, "a1 b1"),
        (json!({"to": of("conversation", &here), "joined": false}), BY_THE_HOST, "a2 b2 o"),
        (
            json!({"to": of("conversation", &here), "exceptConnection": a1}),
            BY_THE_HOST,
            "a2 b1 b2 o",
        ),
        (json!({"to": of("conversation", "0123456789abcdef00000000")}), BY_THE_HOST, ""),
        (json!({"to": of("user", "bob")}), "b1 b2 o", "b1 b2 o"),
        (json!({"to": of("user", "bob"), "joined": true}), "b1", NO_CONVERSATION),
        (json!({"to": of("user", "bob"), "joined": false}), "b2 o", NO_CONVERSATION),
        (json!({"to": of("user", "bob"), "exceptConnection": b2}), "b1 o", "b1 o"),
        (json!({"to": of("user", "nobody")}), "", ""),
        (json!({"to": of("connection", &b2)}), "b2", "b2"),
        (json!({"to": of("connection", &b2), "joined": true}), "", NO_CONVERSATION),
        (json!({"to": of("connection", &b2), "exceptUser": "bob"}), "", ""),
        (json!({"to": of("connection", "gone")}), "", ""),
        (json!({"to": of("room", "desk")}), "b2 e", "b2 e"),
        (json!({"to": of("room", "desk"), "exceptUser": "eve"}), "b2", "b2"),
        (json!({"to": of("room", "empty")}), "", ""),
        (json!({"to": of("role", "staff")}), "a2 e", "a2 e"),
        (json!({"to": of("role", "staff"), "exceptUser": "ann"}), "e", "e"),
        (json!({"to": of("role", "admin")}), "", ""),
        (json!({"to": of("everyone", "")}), "a1 a2 b1 b2 e o", "a1 a2 b1 b2 e o"),
        (json!({"to": of("everyone", ""), "joined": true}), "a1 b1", NO_CONVERSATION),
        (json!({"to": of("everyone", ""), "joined": false}), "a2 b2 e o", NO_CONVERSATION),
        (
            json!({"to": of("everyone", ""), "exceptUser": "bob", "exceptConnection": a1}),
            "a2 e",
            "a2 e",
        ),
        (json!({"to": of("everyone", ""), "namespace": OTHER}), "o", "o"),
        (json!({"to": of("everyone", ""), "namespace": EVERY}), "a1 a2 b1 b2 e", "a1 a2 b1 b2 e"),
        (json!({"to": of("everyone", ""), "namespace": "/none"}), "", ""),
    ];
    for (audience, mapped, emitted) in rows {
        let end = json!({"to": ["everyone"], "name": "end"});
        if mapped != BY_THE_HOST {
            server.say("ann", conversation, &audience.to_string()).await;
            server.say("ann", conversation, &end.to_string()).await;
            assert_eq!(reached(&mut all).await, mapped, "mapped: {audience}");
        }
        match all[4].ask(json!(["tell", audience])).await["error"].as_str() {
            Some(error) => assert_eq!(error, emitted, "{audience}"),
            None => {
                assert_eq!(all[4].ask(json!(["tell", end])).await, json!({"ok": true}));
                assert_eq!(reached(&mut all).await, emitted, "emitted: {audience}");
            }
        }
    }
}

/// Those who were told once before the end.
async fn reached(all: &mut [Listener]) -> String {
    let mut reached = Vec::new();
    for listener in all {
        let mut told = 0;
        loop {
            let event = match listener.heard.is_empty() {
                true => listener.next().await,
                false => listener.heard.remove(0),
            };
            match event[0].as_str() {
                Some("end") => break,
                Some("told") => told += 1,
                _ => {}
            }
        }
        assert!(told <= 1, "{} was told {told} times", listener.name);
        reached.extend((told == 1).then_some(listener.name));
    }
    reached.join(" ")
}
