//! The namespace of conversations and messages.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use haggle_engine::Command;
use haggle_model::{ConversationUpdate, Role};
use serde_json::json;

use crate::client::{Server, token, token_for};

#[tokio::test]
async fn tokens_are_asked_for_by_the_known_texts() {
    let server = Server::start().await;
    for (connect, expect) in [
        ("40/chat,", r#"44/chat,{"message":"No token provided","data":{"code":"unauthenticated"}}"#),
        (
            r#"40/chat,{"token":"a.b.c"}"#,
            r#"44/chat,{"message":"Invalid token","data":{"code":"unauthenticated"}}"#,
        ),
        (
            r#"40/chat,{"token":5}"#,
            r#"44/chat,{"message":"Invalid token","data":{"code":"unauthenticated"}}"#,
        ),
        ("40/random,", r#"44/random,{"message":"Invalid namespace"}"#),
    ] {
        let sid = server.open().await;
        assert_eq!(server.post(&sid, connect).await.body, "ok");
        assert_eq!(server.poll(&sid).await.body, expect);
        assert_eq!(server.post(&sid, "40/echo,").await.body, "ok", "the connection stays");
    }
}

#[tokio::test]
async fn both_hear_of_a_message_whoever_has_joined() {
    let server = Server::start().await;
    let (mut ann, mut bob) = (server.chat("ann").await, server.chat("bob").await);
    let conversation = server.direct("ann", "bob").await;
    for socket in [&mut ann, &mut bob] {
        let seen = socket.event("new_conversation").await;
        assert_eq!(seen["conversation"]["_id"], conversation.to_string());
        assert_eq!(seen["conversation"]["participants"].as_array().map(Vec::len), Some(2));
    }
    let message = json!({"conversationId": conversation.to_string(), "message": {"content": "hi", "type": "text"}, "clientMessageId": "m1"});
    let answer = ann.ask(0, "send_message", message.clone()).await;
    assert_eq!((&answer["success"], &answer["data"]["duplicate"]), (&json!(true), &json!(false)));
    let created = bob.event("new_message").await;
    assert_eq!(
        (&created["message"]["_id"], &created["message"]["content"]),
        (&answer["data"]["_id"], &json!("hi"))
    );
    assert_eq!(created["seq"], answer["data"]["seq"]);
    assert_eq!(bob.event("message_received").await["message"], created["message"]);
    assert_eq!(bob.event("conversation_updated").await["lastMessage"], "hi");
    let again = ann.ask(1, "send_message", message).await;
    assert_eq!(
        (&again["data"]["_id"], &again["data"]["duplicate"]),
        (&answer["data"]["_id"], &json!(true))
    );

    let read = json!({"conversationId": conversation.to_string(), "messageId": answer["data"]["_id"]});
    assert_eq!(bob.ask(0, "mark_read", read).await["success"], true);
    let told = loop {
        let told = ann.event("message_read").await;
        if told["readBy"] == "bob" {
            break told;
        }
    };
    assert_eq!(told["messageId"], answer["data"]["_id"]);
}

#[tokio::test]
async fn typing_and_presence_go_to_who_has_joined() {
    let server = Server::start().await;
    let conversation = server.direct("ann", "bob").await;
    let here = json!({"conversationId": conversation.to_string()});
    let (mut ann, mut bob) = (server.chat("ann").await, server.chat("bob").await);
    let joined = bob.ask(0, "join_conversation", here.clone()).await;
    assert!(joined["success"] == true && joined["data"]["seq"].is_u64(), "{joined}");
    let online = bob.event("user_online_status").await;
    assert_eq!((&online["userId"], &online["isOnline"]), (&json!("ann"), &json!(true)));
    ann.ask(0, "typing_start", here.clone()).await;
    let typing = bob.event("user_typing").await;
    assert_eq!((&typing["isTyping"], &typing["user"]["name"]), (&json!(true), &json!("ann")));
    ann.ask(1, "typing_stop", here).await;
    assert_eq!(bob.event("user_typing").await["isTyping"], false);
    ann.ask(2, "user_online", json!({"isOnline": false})).await;
    assert_eq!(bob.event("user_online_status").await["isOnline"], false);
}

#[tokio::test]
async fn refusals_are_acks_or_error_events() {
    let server = Server::start().await;
    let conversation = server.direct("ann", "bob").await.to_string();
    let mut eve = server.chat("eve").await;
    let message = json!({"conversationId": conversation, "message": {"content": "hi"}});
    for (id, name, payload, code) in [
        (0, "join_conversation", json!({"conversationId": conversation}), "not_found"),
        (1, "send_message", message.clone(), "not_found"),
        (
            2,
            "send_message",
            json!({"conversationId": conversation, "message": {"content": 5}}),
            "bad_request",
        ),
        (3, "send_message", json!([]), "bad_request"),
        (4, "mark_read", json!({"messageId": "x"}), "bad_request"),
        (5, "no_such_event", json!({}), "unknown_type"),
        (6, "authenticate", json!({"token": "x"}), "unauthenticated"),
        (7, "authenticate", json!({"token": token("ann")}), "forbidden"),
    ] {
        let answer = eve.ask(id, name, payload).await;
        assert_eq!((&answer["success"], &answer["code"]), (&json!(false), &json!(code)), "{name}");
        assert!(answer["error"].is_string());
    }
    eve.send(&format!("42/chat,{}", json!(["send_message", message]))).await;
    assert_eq!(eve.event("error").await["code"], "not_found");
}

#[tokio::test]
async fn a_token_ends_and_may_be_renewed() {
    let server = Server::start().await;
    let connect = |ttl| format!(r#"40/chat,{{"token":"{}"}}"#, token_for("ann", Duration::from_secs(ttl)));
    let (mut short, mut renewed) = (
        server.upgrade("EIO=4&transport=websocket").await.expect("upgraded"),
        server.upgrade("EIO=4&transport=websocket").await.expect("upgraded"),
    );
    short.send(&connect(2)).await;
    renewed.send(&connect(2)).await;
    assert!(renewed.text().await.starts_with('0') && renewed.text().await.starts_with("40/chat,"));
    assert_eq!(
        renewed.ask(0, "authenticate", json!({"token": token("ann")})).await["data"]["userId"],
        "ann"
    );
    assert_eq!(short.event("error").await["code"], "token_expired");
    short.is_closed().await;
    assert_eq!(renewed.ask(1, "user_online", json!({"isOnline": true})).await["success"], true);
}

#[tokio::test]
async fn with_grace_the_token_may_come_later() {
    let server = Server::with(|settings| settings.auth_grace = Duration::from_millis(500)).await;
    let open = async || {
        let mut socket = server.upgrade("EIO=4&transport=websocket").await.expect("upgraded");
        socket.send("40/chat,").await;
        assert!(socket.text().await.starts_with('0') && socket.text().await.starts_with("40/chat,{\"sid\""));
        socket
    };
    let (mut good, mut late) = (open().await, open().await);
    assert_eq!(good.ask(0, "user_online", json!({"isOnline": true})).await["code"], "unauthenticated");
    assert_eq!(good.ask(1, "authenticate", json!({"token": "x"})).await["code"], "unauthenticated");
    assert_eq!(good.ask(2, "authenticate", json!({"token": token("ann")})).await["data"]["userId"], "ann");
    assert_eq!(late.event("error").await["error"], "No token provided");
    assert_eq!(late.text().await, "41/chat,");
    let conversation = server.direct("ann", "bob").await;
    server.say("bob", conversation, "hi").await;
    assert_eq!(good.event("new_message").await["message"]["content"], "hi");
}

#[tokio::test]
async fn a_plugins_command_is_answered_and_told_by_its_events() {
    let server = Server::start().await;
    let conversation = server.direct("ann", "bob").await;
    let (mut ann, mut bob) = (server.chat("ann").await, server.chat("bob").await);
    for (id, data, expect) in [
        (0, json!({"loud": true}), json!({"loud": true})),
        (1, json!([1, 2]), json!({"data": [1, 2]})),
    ] {
        let call = json!({"conversationId": conversation.to_string(), "name": "dialect.ring", "data": data});
        let answer = ann.ask(id, "command", call).await;
        assert_eq!(
            (&answer["success"], &answer["data"]["answer"]),
            (&json!(true), &json!({"rang": true})),
            "{answer}"
        );
        let mut expect = expect;
        expect["conversationId"] = json!(conversation.to_string());
        expect["seq"] = answer["data"]["seq"].clone();
        assert_eq!(bob.event("x.dialect.rung").await, expect);
    }
    let mut ann = server.chat("ann").await;
    let call = json!({"conversationId": conversation.to_string(), "name": "dialect.ring"});
    ann.send(&format!("42/chat,{}", json!(["command", call]))).await;
    let notification = ann.event("notification").await;
    assert_eq!(
        (&notification["title"], &notification["type"], &notification["read"]),
        (&json!("It rang"), &json!("RUNG"), &json!(false))
    );
}

#[tokio::test]
async fn who_leaves_a_conversation_hears_of_its_messages_and_not_who_types() {
    let server = Server::start().await;
    let conversation = server.direct("ann", "bob").await;
    let here = json!({"conversationId": conversation.to_string()});
    let (mut ann, mut bob) = (server.chat("ann").await, server.chat("bob").await);
    bob.ask(0, "join_conversation", here.clone()).await;
    ann.ask(0, "typing_start", here.clone()).await;
    assert_eq!(bob.event("user_typing").await["isTyping"], true);
    assert_eq!(bob.ask(1, "leave_conversation", here.clone()).await["success"], true);
    ann.ask(1, "typing_stop", here).await;
    server.say("ann", conversation, "hi").await;
    let (name, _) = loop {
        let event = bob.next_event().await;
        if matches!(&*event.0, "user_typing" | "new_message") {
            break event;
        }
    };
    assert_eq!(name, "new_message");
}

#[tokio::test]
async fn who_is_added_later_is_shown_the_conversation() {
    let server = Server::start().await;
    let conversation = server.group("ann", &["bob"]).await;
    let (mut bob, mut carl) = (server.chat("bob").await, server.chat("carl").await);
    let add = Command::AddParticipant {
        conversation,
        user: "carl".into(),
        role: Role::Member,
    };
    let seq = server.run("ann", add).await.seq;
    let shown = carl.event("new_conversation").await;
    assert_eq!(shown["conversation"]["_id"], conversation.to_string());
    let participants = shown["conversation"]["participants"].as_array().expect("a list");
    assert!(participants.contains(&json!("carl")) && participants.len() == 3, "{shown}");
    // The others are told of it, and by nothing that looks like a message.
    let told = loop {
        let (name, told) = bob.next_event().await;
        assert!(name != "conversation_updated", "{told}");
        if told["data"]["userId"] == "carl" {
            break told;
        }
    };
    assert_eq!((&told["event"], &told["seq"]), (&json!("participant.joined"), &json!(seq)));
    server.say("ann", conversation, "hi").await;
    for socket in [&mut bob, &mut carl] {
        let updated = socket.event("conversation_updated").await;
        assert!(updated["lastMessage"] == "hi" && updated["lastMessageAt"].is_string(), "{updated}");
        assert_eq!(updated.get("event"), None);
    }
    let update = ConversationUpdate {
        name: Some("Four".into()),
        ..ConversationUpdate::default()
    };
    let seq = server.run("ann", Command::UpdateConversation { conversation, update }).await.seq;
    let updated = bob.event("conversation_updated").await;
    assert!(
        updated["lastMessage"] == "hi" && updated["lastMessageAt"].is_string(),
        "its list goes on showing it: {updated}"
    );
    assert_eq!(
        (&updated["event"], &updated["data"]["groupName"], &updated["seq"]),
        (&json!("conversation.updated"), &json!("Four"), &json!(seq))
    );
}

#[tokio::test]
async fn who_sends_too_fast_is_read_later() {
    let server = Server::with(|settings| (settings.packets_per_second, settings.packets_burst) = (10, 1)).await;
    let mut socket = server.echo().await;
    let start = std::time::Instant::now();
    for number in 0..6 {
        socket.send(&format!("42[\"{number}\"]")).await;
    }
    for number in 0..6 {
        assert_eq!(socket.text().await, format!("42[\"{number}\"]"), "nothing is lost");
    }
    assert!(start.elapsed() > Duration::from_millis(400), "{:?}", start.elapsed());
}

/// Everything that is logged by this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        let mut log = self.0.lock().expect("nobody panics with it");
        log.push_str(&format!("{field}={value:?} "));
    }
}

#[tokio::test]
async fn the_log_names_the_setting_of_a_refused_connect() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    // Where there is but one, what another thread's test logs first is taken for something that nobody listens to.
    let _second = tracing::Dispatch::new(Log::default());
    let server = Server::start().await;
    let sid = server.open().await;
    for (connect, settings) in [
        ("40/chat,", ["socketio.query_token", "socketio.auth_grace_ms"]),
        ("40/chats,", ["socketio.namespace", "/chats"]),
    ] {
        log.0.lock().expect("nobody panics with it").clear();
        server.post(&sid, connect).await;
        assert!(server.poll(&sid).await.body.starts_with("44/chat"));
        let logged = log.0.lock().expect("nobody panics with it").clone();
        for setting in settings {
            assert!(logged.contains(setting), "{connect} {setting}: {logged}");
        }
    }
}
