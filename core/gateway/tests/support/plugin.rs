//! A plugin that owns namespaces, as the engine sees one: it echoes, asks, refuses, is slow, acts as its user and names what
//! happens, just as the events of a test tell it to.
#![allow(dead_code, reason = "only the tests of namespaces look at what it heard")]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use haggle_engine::{
    Command, NewMessage, Refusal, To,
    ports::{HookError, Hooks, HostCalls, Plan, Scope},
    sockets::{Args, CoreEvent, NamespaceAnswer, NamespaceCall, SocketAudience, SocketEmit, SocketEvent, Target},
};
use haggle_model::{Notification, PluginId};
use serde_json::{Value, json};

pub const PLUGIN: &str = "dialect";

/// What it was asked, for tests that look.
pub type Heard = Arc<Mutex<Vec<String>>>;
/// Whoever writes to it holds mappings, the event `slow` and whoever connects as `slow` up.
pub type Gate = Arc<tokio::sync::RwLock<()>>;

/// How its next mappings of messages fail.
pub type Failing = Arc<Mutex<VecDeque<&'static str>>>;

#[derive(Clone, Default)]
pub struct Dialect {
    pub heard: Heard,
    pub gate: Gate,
    pub failing: Failing,
}

impl Hooks for Dialect {
    fn plan(&self) -> Arc<dyn Plan> {
        Arc::new(self.clone())
    }
}

pub fn args(value: &Value) -> Args {
    Args {
        json: value.to_string(),
        binary: Vec::new(),
    }
}

pub fn to(target: Target) -> SocketAudience {
    SocketAudience {
        to: target,
        joined: None,
        except_user: None,
        except_connection: None,
        namespace: None,
    }
}

pub fn emit(audience: SocketAudience, name: &str, args: Args) -> SocketEmit {
    SocketEmit {
        audience,
        participants: Arc::from([]),
        name: name.into(),
        args,
        token: None,
    }
}

fn failed(plugin: &PluginId, kind: &'static str) -> HookError {
    HookError {
        plugin: plugin.clone(),
        hook: "namespace",
        kind,
        message: "it was told to".into(),
    }
}

fn said(result: Result<Value, Refusal>) -> Value {
    match result {
        Ok(value) => json!({"ok": value}),
        Err(refusal) => json!({"code": refusal.code.as_str()}),
    }
}

impl Dialect {
    fn note(&self, text: impl Into<String>) {
        self.heard.lock().expect("no test panics here").push(text.into());
    }

    async fn event(&self, guest: &dyn HostCalls, session: &str, plugin: &PluginId, event: SocketEvent) -> Result<NamespaceAnswer, HookError> {
        let first: Value = serde_json::from_str::<Vec<Value>>(&event.args.json)
            .ok()
            .and_then(|mut all| (!all.is_empty()).then(|| all.remove(0)))
            .unwrap_or_default();
        let text = first.as_str().unwrap_or_default().to_owned();
        if let Some(token) = &event.answer_to {
            let answer = emit(to(Target::Connection(session.into())), "answered", event.args.clone());
            assert_eq!(token, "question", "the token comes back");
            guest.emit_to_sockets(answer).await.expect("allowed");
            return Ok(NamespaceAnswer::Ack(None));
        }
        match event.name.as_str() {
            "ask" => {
                let question = SocketEmit {
                    token: Some("question".into()),
                    ..emit(to(Target::Connection(session.into())), "question", event.args.clone())
                };
                guest.emit_to_sockets(question).await.expect("allowed");
                return Ok(NamespaceAnswer::Ack(None));
            }
            "fail" => return Err(failed(plugin, "trap")),
            "reject" => {
                return Ok(NamespaceAnswer::Rejected {
                    code: "not_today".into(),
                    message: "try tomorrow".into(),
                });
            }
            "slow" => {
                drop(self.gate.read().await);
                self.note("slow");
                return Ok(NamespaceAnswer::Ack(Some(event.args)));
            }
            "send" | "join" | "room" | "emit" | "unread" => {
                let answer = match self.act(guest, session, &event.name, &text).await {
                    Ok(answer) => answer,
                    Err(refusal) => said(Err(refusal)),
                };
                return Ok(NamespaceAnswer::Ack(Some(args(&json!([answer])))));
            }
            _ => {}
        }
        let echo = emit(to(Target::Connection(session.into())), &event.name, event.args.clone());
        guest.emit_to_sockets(echo).await.expect("allowed");
        Ok(NamespaceAnswer::Ack(Some(event.args)))
    }

    async fn act(&self, guest: &dyn HostCalls, session: &str, name: &str, text: &str) -> Result<Value, Refusal> {
        let client = guest.client().expect("a namespace may act as its user");
        match name {
            "send" => {
                let message = NewMessage::text("hello");
                let command = Command::Send {
                    to: To::User(text.into()),
                    message,
                };
                let sent = client.write(command, None).await?;
                Ok(json!({"ok": sent.conversation.to_string()}))
            }
            "join" => client.join(text.parse().expect("an id")).await.map(|()| json!({"ok": true})),
            "room" => client.enter_room(text).map(|()| json!({"ok": true})),
            "unread" => Ok(json!({"ok": client.unread_total().await?})),
            _ => {
                let audience = SocketAudience {
                    except_connection: Some(session.into()),
                    ..to(Target::Room(text.into()))
                };
                guest
                    .emit_to_sockets(emit(audience, "said", args(&json!(["in the room"]))))
                    .await
                    .expect("allowed");
                Ok(json!({"ok": true}))
            }
        }
    }

    fn map(&self, event: &CoreEvent) -> Vec<SocketEmit> {
        let told = |audience, name: &str, value: Value| emit(audience, name, args(&json!([value])));
        let actor = event.actor.as_ref().map(|user| user.as_str());
        match event.kind.as_str() {
            "message.created" => {
                let (_, message) = event.message.as_ref().expect("a message");
                let (sender, text) = (message.sender.clone(), message.content.text.clone());
                self.note(format!("map {text}"));
                let others = SocketAudience {
                    except_user: Some(sender.clone()),
                    ..to(Target::Recipients)
                };
                let joined = SocketAudience {
                    joined: Some(true),
                    ..to(Target::Recipients)
                };
                vec![
                    told(to(Target::User(sender)), "message_sent", json!(text)),
                    told(others, "message_notification", json!(text)),
                    told(joined, "new_message", json!(text)),
                ]
            }
            "typing" => vec![told(to(Target::Recipients), "user_typing", json!([actor, event.on]))],
            "read" => vec![told(to(Target::Recipients), "messages_read", json!(actor))],
            "presence" => vec![told(to(Target::Everyone), "status", json!([actor, event.on]))],
            _ => Vec::new(),
        }
    }
}

#[async_trait]
impl Plan for Dialect {
    fn offers_namespace(&self, plugin: &PluginId, _: &str) -> bool {
        plugin.as_str() == PLUGIN
    }

    fn command_owner(&self, name: &str) -> Option<PluginId> {
        (name == "dialect.ring").then(|| PluginId::from(PLUGIN))
    }

    /// Rings in the conversation, and notifies who has asked for it.
    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, _: &str, payload: &str) -> Result<String, Refusal> {
        let guest = scope.guest(plugin);
        guest.emit("x.dialect.rung", payload.to_owned()).expect("allowed");
        let notification = Notification {
            topic: "RUNG".into(),
            title: "It rang".into(),
            ..Notification::default()
        };
        guest.notify(scope.call().actor.user.clone(), notification).expect("allowed");
        guest.keep();
        Ok(r#"{"rang":true}"#.into())
    }

    async fn namespace(&self, scope: &dyn Scope, plugin: &PluginId, call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
        let guest = scope.guest(plugin);
        let actor = &scope.call().actor;
        let answer = match call {
            NamespaceCall::Connect(handshake) => {
                self.note(format!("connect {} as `{}` with {}", handshake.namespace, actor.user, handshake.auth));
                if handshake.auth.contains("unwelcome") {
                    return Ok(NamespaceAnswer::Refused {
                        message: "not you".into(),
                        data: Some(r#"{"code":"unwelcome"}"#.into()),
                    });
                }
                if handshake.auth.contains("slow") {
                    drop(self.gate.read().await);
                }
                if handshake.auth.contains("\"odd\"") {
                    return Ok(NamespaceAnswer::Ack(None));
                }
                if handshake.auth.contains("broken") {
                    return Err(failed(plugin, "trap"));
                }
                if let Some(kind) = ["overloaded", "timeout", "breaker"]
                    .into_iter()
                    .find(|kind| handshake.auth.contains(kind))
                {
                    return Err(failed(plugin, kind));
                }
                if let Some((_, count)) = handshake.auth.split_once("greetings\":") {
                    let count: u32 = count.trim_end_matches('}').parse().expect("a number");
                    for number in 0..count {
                        let own = to(Target::Connection(actor.session.to_string()));
                        guest
                            .emit_to_sockets(emit(own, "greeting", args(&json!([number]))))
                            .await
                            .expect("allowed");
                    }
                }
                if handshake.auth.contains("\"greet\"") {
                    let greeting = emit(
                        to(Target::Connection(actor.session.to_string())),
                        "connected",
                        args(&json!([actor.user.as_str()])),
                    );
                    guest.emit_to_sockets(greeting).await.expect("allowed");
                }
                NamespaceAnswer::Done
            }
            NamespaceCall::Event(event) => self.event(&*guest, &actor.session, plugin, event).await?,
            NamespaceCall::Disconnect { reason, .. } => {
                self.note(format!("disconnect: {reason}"));
                NamespaceAnswer::Done
            }
            NamespaceCall::Map { event, .. } => {
                let is_message = event.kind == "message.created";
                if let Some(kind) = is_message
                    .then(|| self.failing.lock().expect("no test panics here").pop_front())
                    .flatten()
                {
                    return Err(failed(plugin, kind));
                }
                let emits = self.map(&event);
                drop(self.gate.read().await);
                NamespaceAnswer::Emits(emits)
            }
        };
        guest.keep();
        Ok(answer)
    }
}
