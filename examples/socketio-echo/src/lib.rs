//! A plugin that owns Socket.IO namespaces, as small as one can be that shows it all.
//!
//! Every event comes back with its own arguments, binary ones included: as an event, and as the ack where the client waits for
//! one. Three names mean more: `ask` makes the server ask the client, whose ack comes back as `answered`; `say {to, text}` sends
//! a message as the user; `join {conversationId}` joins a conversation. And a message that somebody sends, whatever way, is
//! `said` to all who may hear it and `said_here` to the connections that have joined; whatever else happens is told under the
//! name that the core gives it. The command `socketio-echo.ring` lets a plugin's own events and a notification happen.

use haggle_sdk::{
    prelude::*,
    serde_json::{Value, json},
};

/// How the ack to a question is known when it comes.
const QUESTION: &str = "question";

/// The plugin. It remembers nothing: instances come and go.
#[derive(Default)]
pub struct Echo;

impl Namespace for Echo {
    fn connect(&mut self, call: &Call, handshake: Handshake) -> Result<(), ConnectRefused> {
        if handshake.auth("refuse") == true {
            return Err(ConnectRefused::new("not you").with_data(&json!({"code": "unwelcome"})));
        }
        let hello = Emit::new(
            Audience::connection(&call.session),
            "connected",
            &json!({"userId": call.actor, "socketId": call.session}),
        );
        events::emit_to_sockets(&hello.to, &hello.name, &hello.args).map_err(|error| ConnectRefused::new(error.to_string()))
    }

    fn event(&mut self, call: &Call, event: SocketEvent) -> Result<Option<Args>, Rejection> {
        let me = Audience::connection(&call.session);
        if event.answer_to.as_deref() == Some(QUESTION) {
            events::emit_to_sockets(&me, "answered", &event.args)?;
            return Ok(None);
        }
        match event.name.as_str() {
            "ask" => {
                events::ask_socket(&call.session, "question", &event.args, QUESTION)?;
                Ok(None)
            }
            "say" => {
                let payload = event.args.get(0);
                let to = client::To::User(json::plain(&payload["to"]));
                let sent = client::send(client::NewMessage::text(to, json::plain(&payload["text"])))?;
                Ok(Some(Args::one(
                    &json!({"success": true, "id": sent.message_id, "conversationId": sent.conversation_id}),
                )?))
            }
            "join" => {
                client::join(&json::plain(&event.args.get(0)["conversationId"]))?;
                Ok(Some(Args::one(&json!({"success": true}))?))
            }
            _ => {
                events::emit_to_sockets(&me, &event.name, &event.args)?;
                Ok(Some(event.args))
            }
        }
    }

    fn map(&mut self, _call: &Call, _namespace: &str, event: CoreEvent) -> Vec<Emit> {
        let Some(message) = event.message.as_ref().filter(|_| event.kind == "message.created") else {
            return vec![Emit::new(Audience::recipients(), &event.kind, &brought(&event))];
        };
        let payload = json!({"conversationId": message.conversation_id, "from": message.sender_id, "text": message.content});
        vec![
            Emit::new(Audience::recipients(), "said", &payload),
            Emit::new(Audience::recipients().joined(), "said_here", &payload),
        ]
    }
}

impl Command for Echo {
    fn command(&mut self, call: &Call, _name: &str, payload: &str) -> Result<String, Rejection> {
        let payload: Value = json::parse(payload)?;
        events::emit("x.socketio-echo.rung", &payload)?;
        events::emit_to_user(&call.actor, "x.socketio-echo.heard", &payload)?;
        let notification = Notification {
            topic: "RUNG".into(),
            title: "It rang".into(),
            ..Notification::default()
        };
        notifications::push(&call.actor, &notification)?;
        Ok("{}".into())
    }
}

/// What an event brings; null is what its kind has not.
fn brought(event: &CoreEvent) -> Value {
    json!({
        "seq": event.seq,
        "actor": event.actor,
        "actorName": event.actor_name,
        "conversation": event.conversation.as_ref().map(|conversation| json!({"id": conversation.id, "kind": conversation.kind})),
        "recipients": event.recipients,
        "message": event.message.as_ref().map(|message| json!({"id": message.id, "content": message.content})),
        "reaction": event.reaction.as_ref().map(|reaction| json!([reaction.user_id, reaction.emoji])),
        "participant": event.participant.as_ref().map(|change| json!([change.op.as_str(), change.user_id, change.role])),
        "read": event.receipt.as_ref().map(|receipt| json!([receipt.user_id, receipt.read_seq])),
        "on": event.on,
        "lastSeenMs": event.last_seen_ms,
        "notification": event.notification.as_ref().map(|told| json!([told.user_id, told.title, told.plugin])),
        "payload": event.payload,
    })
}

haggle_sdk::plugin! { Echo, hooks: [command, namespace], caps: [client, events, notifications] }

#[cfg(test)]
mod tests {
    use haggle_sdk::test::Harness;

    use super::*;

    #[test]
    fn events_come_back_as_event_and_ack() {
        let mut app = Harness::<Echo>::new();
        app.socket("alice", "s1", &json!({})).expect("let in");
        let event = SocketEvent {
            name: "hello".into(),
            args: Args::one(&json!({"n": 1.5})).expect("JSON").and_binary(vec![0, 255]),
            wants_ack: true,
            ..SocketEvent::default()
        };
        let ack = app.socket_event_as("alice", "s1", event.clone()).expect("answered").expect("an ack");
        assert_eq!(ack, event.args);
        let emits = app.socket_emits();
        assert_eq!((emits[0].name.as_str(), emits[1].name.as_str()), ("connected", "hello"));
        assert_eq!(emits[1].args.binary_at(1), Some(&[0, 255][..]));
    }

    #[test]
    fn who_is_refused_hears_why() {
        let mut app = Harness::<Echo>::new();
        let refused = app.socket("alice", "s1", &json!({"refuse": true})).expect_err("refused");
        assert_eq!(refused.data.as_deref(), Some(r#"{"code":"unwelcome"}"#));
        assert!(app.socket_emits().is_empty());
    }

    #[test]
    fn a_message_of_the_user_is_said_to_all() {
        let mut app = Harness::<Echo>::new();
        let ack = app
            .socket_event("alice", "s1", "say", &json!([{"to": "bob", "text": "hi"}]))
            .expect("sent");
        let ack = ack.expect("an ack").get(0);
        let told = app.map_message(&json::plain(&ack["id"]));
        assert_eq!(told[0].to, Audience::recipients());
        assert_eq!(told[1].to, Audience::recipients().joined());
        assert_eq!(told[0].args.get(0)["text"], "hi");
        let unknown = app
            .socket_event("alice", "s1", "join", &json!([{"conversationId": "nowhere"}]))
            .expect_err("refused");
        assert_eq!(unknown.code, "not_found");
    }

    #[test]
    fn whatever_else_happens_is_told_under_its_own_name() {
        let event = CoreEvent {
            kind: "typing".into(),
            actor: Some("bob".into()),
            on: Some(true),
            ..CoreEvent::default()
        };
        let told = Echo.map(&Call::default(), "/", event);
        assert_eq!((told[0].name.as_str(), &told[0].to), ("typing", &Audience::recipients()));
        let brought = told[0].args.get(0);
        assert_eq!(
            (&brought["actor"], &brought["on"], &brought["message"]),
            (&json!("bob"), &json!(true), &Value::Null)
        );
    }
}
