//! A plugin that owns namespaces, as the engine sees one: it echoes, asks, refuses, is slow, acts as its user and names what
//! happens, just as the events of a test tell it to.
#![allow(dead_code, reason = "only the tests of namespaces look at what it heard")]

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use haggle_engine::{
    Command, NewMessage, Refusal, To,
    ports::{Audience, HookError, Hooks, HostCalls, Plan, Scope},
    sockets::{Args, CoreEvent, NamespaceAnswer, NamespaceCall, SocketAudience, SocketEmit, SocketEvent, Target},
};
use haggle_model::{Notification, PluginId, UserId};
use serde_json::{Value, json};

pub const PLUGIN: &str = "dialect";

/// What it was asked, for tests that look.
pub type Heard = Arc<Mutex<Vec<String>>>;
/// Whoever writes to it holds mappings, the event `slow` and whoever connects as `slow` up.
pub type Gate = Arc<tokio::sync::RwLock<()>>;

/// How its next mappings of messages fail.
pub type Failing = Arc<Mutex<VecDeque<&'static str>>>;

/// A namespace, as are those below it, in which every core event comes under its own name, but a message whose text is an
/// [`audience`] is told to that.
pub const EVERY: &str = "/every";

/// What it was asked about which connection, each once when it began and once when it ended.
pub type Calls = Arc<Mutex<Vec<(String, &'static str)>>>;

#[derive(Clone, Default)]
pub struct Dialect {
    pub heard: Heard,
    pub gate: Gate,
    pub failing: Failing,
    pub calls: Calls,
    pub pauses: Arc<Pauses>,
}

/// Numbers that look random, the same for the same seed (splitmix64).
#[derive(Default)]
pub struct Random(AtomicU64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(AtomicU64::new(seed))
    }

    pub fn below(&self, end: u64) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub async fn pause(&self, below: Duration) {
        tokio::time::sleep(Duration::from_micros(self.below(below.as_micros() as u64))).await;
    }
}

/// How long it thinks about everything.
#[derive(Default)]
pub struct Pauses {
    pub max: OnceLock<Duration>,
    random: Random,
}

impl Pauses {
    async fn pause(&self) {
        if let Some(max) = self.max.get() {
            self.random.pause(*max).await;
        }
    }
}

/// A call that goes on, and how it ends.
struct Answering {
    calls: Calls,
    session: String,
    end: &'static str,
}

impl Answering {
    fn begin(dialect: &Dialect, session: &str, call: &NamespaceCall) -> Answering {
        let answering = Answering {
            calls: dialect.calls.clone(),
            session: session.to_owned(),
            end: "broken off",
        };
        answering.note(match call {
            NamespaceCall::Connect(_) => "connect",
            NamespaceCall::Event(_) => "event",
            NamespaceCall::Disconnect { .. } => "disconnect",
            NamespaceCall::Map { .. } => "map",
        });
        answering
    }

    fn note(&self, what: &'static str) {
        self.calls.lock().expect("no test panics here").push((self.session.clone(), what));
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.note(self.end);
    }
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

/// Something without arguments, `told` or of another name, to `{"to": ["room", "desk"], "joined": true, "exceptUser": "ann", …}`.
fn told_to(said: &Value) -> SocketEmit {
    emit(audience(said), said["name"].as_str().unwrap_or("told"), args(&json!([])))
}

fn audience(said: &Value) -> SocketAudience {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let of = text(&said["to"][1]).unwrap_or_default();
    SocketAudience {
        to: match said["to"][0].as_str().expect("a target") {
            "recipients" => Target::Recipients,
            "connection" => Target::Connection(of),
            "user" => Target::User(of.into()),
            "conversation" => Target::Conversation(of.parse().expect("an id")),
            "room" => Target::Room(of),
            "role" => Target::Role(of),
            "everyone" => Target::Everyone,
            other => panic!("no target: {other}"),
        },
        joined: said["joined"].as_bool(),
        except_user: text(&said["exceptUser"]).map(UserId::from),
        except_connection: text(&said["exceptConnection"]),
        namespace: text(&said["namespace"]),
    }
}

/// What a core event brings besides its kind.
fn brought(event: &CoreEvent) -> Value {
    let mut recipients: Vec<_> = event.recipients.iter().map(UserId::as_str).collect();
    recipients.sort_unstable();
    let mut brought = json!({"for": recipients.join(" ")});
    let mut bring = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            brought[name] = value;
        }
    };
    bring("seq", (event.seq > 0).then(|| json!(event.seq)));
    bring("actor", event.actor.as_ref().map(|user| json!(user.as_str())));
    bring("actorName", event.actor_name.as_ref().map(|name| json!(name)));
    bring("in", event.conversation.as_ref().map(|row| json!(row.kind().as_str())));
    bring(
        "message",
        event.message.as_ref().map(|(op, row)| json!([op.as_str(), row.id.seq, row.content.text])),
    );
    let reaction = event.reaction.as_ref();
    bring(
        "reaction",
        reaction.map(|change| json!([change.message.seq, change.user.as_str(), change.emoji])),
    );
    let participant = event.participant.as_ref();
    bring(
        "participant",
        participant.map(|change| json!([change.op.as_str(), change.user.as_str(), change.role.as_str()])),
    );
    bring("read", event.mark.as_ref().map(|mark| json!(mark.read_seq)));
    bring("on", event.on.map(Value::from));
    bring("gone", event.last_seen.map(|_| json!(true)));
    bring(
        "notification",
        event
            .notification
            .as_ref()
            .map(|told| json!([told.user.as_str(), told.row.notification.title])),
    );
    bring("payload", event.payload.as_ref().map(|payload| json!(payload)));
    brought
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
                self.note("slow");
                drop(self.gate.read().await);
                return Ok(NamespaceAnswer::Ack(Some(event.args)));
            }
            "send" | "join" | "room" | "emit" | "unread" => {
                let answer = match self.act(guest, session, &event.name, &text).await {
                    Ok(answer) => answer,
                    Err(refusal) => said(Err(refusal)),
                };
                return Ok(NamespaceAnswer::Ack(Some(args(&json!([answer])))));
            }
            "tell" => {
                let told = guest.emit_to_sockets(told_to(&first)).await;
                let answer = told.map_or_else(|error| json!({"error": error.to_string()}), |()| json!({"ok": true}));
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

    fn map_every(&self, event: &CoreEvent) -> SocketEmit {
        self.note(format!("map {}", event.kind));
        let text = event.message.as_ref().map(|(_, row)| row.content.text.as_str());
        match text.filter(|text| text.starts_with('{')) {
            Some(said) => told_to(&serde_json::from_str(said).expect("JSON")),
            None => emit(to(Target::Recipients), &event.kind, args(&json!([brought(event)]))),
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
        name.starts_with("dialect.").then(|| PluginId::from(PLUGIN))
    }

    /// Rings in the conversation, and notifies who has asked for it; or tells `{"user": …}`, `{"role": …}` or `{"connection": …}`.
    async fn command(&self, scope: &dyn Scope, plugin: &PluginId, name: &str, payload: &str) -> Result<String, Refusal> {
        let guest = scope.guest(plugin);
        if name == "dialect.tell" {
            let whom: HashMap<String, String> = serde_json::from_str(payload).expect("JSON");
            for (what, id) in whom {
                let audience = match what.as_str() {
                    "user" => Audience::User(id.into()),
                    "role" => Audience::Role(id),
                    _ => Audience::Connection(id),
                };
                guest.emit_to(audience, "x.dialect.told", json!(what).to_string()).expect("allowed");
            }
            guest.keep();
            return Ok("{}".into());
        }
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
        let mut answering = Answering::begin(self, &scope.call().actor.session, &call);
        self.pauses.pause().await;
        let answer = self.answer(scope, plugin, call).await;
        self.pauses.pause().await;
        answering.end = match answer {
            Ok(NamespaceAnswer::Refused { .. }) | Err(_) => "no",
            Ok(_) => "yes",
        };
        answer
    }
}

impl Dialect {
    async fn answer(&self, scope: &dyn Scope, plugin: &PluginId, call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
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
                let auth: Value = serde_json::from_str(&handshake.auth).expect("JSON");
                for number in 0..auth["greetings"].as_u64().unwrap_or_default() {
                    let own = to(Target::Connection(actor.session.to_string()));
                    guest
                        .emit_to_sockets(emit(own, "greeting", args(&json!([number]))))
                        .await
                        .expect("allowed");
                }
                if let Some(conversation) = auth["enters"].as_str() {
                    let client = guest.client().expect("a namespace may act as its user");
                    client.enter_room("desk").expect("there is room");
                    client.join(conversation.parse().expect("an id")).await.expect("it is the user's");
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
            NamespaceCall::Map { namespace, event } if namespace.starts_with(EVERY) => NamespaceAnswer::Emits(vec![self.map_every(&event)]),
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
