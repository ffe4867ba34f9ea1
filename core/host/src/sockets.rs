//! Namespaces that plugins own: the calls, and the engine's words for them in the contract's.

use std::sync::Arc;

use bytes::Bytes;
use haggle_engine::{
    ports::{Hook, HostError},
    sockets::{ATTACHMENTS_MAX, Args, CoreEvent, NamespaceAnswer, NamespaceCall, RESERVED_EVENTS, SocketAudience, SocketEmit, Target, check_places},
};
use haggle_model::UserId;
use wasmtime::Store;

use crate::{
    bindings::{Guests, exports::namespace, wit},
    calls::{Handler, rejection},
    convert::{self, JSON_DEPTH_MAX, id, invalid, json},
    fault::truncate,
    metrics::Outcome,
    shares::Share,
    state::State,
};

/// Events that one mapping gives.
const EMITS_MAX: usize = 64;
/// Name of an event, of a room, or a token, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Recipients that a mapping is told by name.
const RECIPIENTS_MAX: usize = 256;
/// Sentence of a refused connect, in bytes.
const REFUSAL_BYTES_MAX: usize = 1024;

pub(crate) fn args_bytes(args: &wit::Args) -> usize {
    args.json.len() + args.binary.iter().map(Vec::len).sum::<usize>()
}

fn args_in(args: &Args) -> wit::Args {
    wit::Args {
        json: args.json.clone(),
        binary: args.binary.iter().map(|part| part.to_vec()).collect(),
    }
}

/// Arguments as a plugin gives them, fit to be sent.
fn args_out(args: wit::Args) -> Result<Args, HostError> {
    json("args", &args.json)?;
    if !args.json.trim_ascii_start().starts_with('[') {
        return Err(invalid("args is not a JSON array"));
    }
    if args.binary.len() > ATTACHMENTS_MAX {
        return Err(invalid(format!("args has {} binary parts; at most {ATTACHMENTS_MAX}", args.binary.len())));
    }
    if !args.binary.is_empty() {
        let mut text = serde_json::Deserializer::from_str(&args.json);
        check_places(&mut text, args.binary.len(), JSON_DEPTH_MAX)
            .map_err(|_| invalid("args has a placeholder of a binary part that is not there"))?;
    }
    Ok(Args {
        json: args.json,
        binary: args.binary.into_iter().map(Bytes::from).collect(),
    })
}

pub(crate) fn check_token(token: &str) -> Result<(), HostError> {
    check_name("token", token)
}

fn check_name(what: &str, name: &str) -> Result<(), HostError> {
    match name.len() {
        0 => Err(invalid(format!("{what} is empty"))),
        1..=NAME_BYTES_MAX => Ok(()),
        bytes => Err(invalid(format!("{what} has {bytes} bytes; at most {NAME_BYTES_MAX}"))),
    }
}

pub(crate) fn to_connection(connection: String) -> wit::Audience {
    wit::Audience {
        to: wit::Target::Connection(connection),
        joined: None,
        except_user: None,
        except_connection: None,
        namespace: None,
    }
}

/// An event of a plugin.
pub(crate) fn emit(to: wit::Audience, name: String, args: wit::Args, token: Option<String>) -> Result<SocketEmit, HostError> {
    check_name("name", &name)?;
    if RESERVED_EVENTS.contains(&name.as_str()) {
        return Err(invalid(format!("name: `{name}` belongs to the protocol")));
    }
    Ok(SocketEmit {
        audience: audience(to)?,
        participants: Arc::from([]),
        name,
        args: args_out(args)?,
        token,
    })
}

fn audience(to: wit::Audience) -> Result<SocketAudience, HostError> {
    Ok(SocketAudience {
        to: match to.to {
            wit::Target::Recipients => Target::Recipients,
            wit::Target::Connection(connection) => Target::Connection(connection),
            wit::Target::User(user) => Target::User(user.into()),
            wit::Target::Conversation(conversation) => Target::Conversation(id("conversation", &conversation)?),
            wit::Target::Room(room) => Target::Room(room),
            wit::Target::Role(role) => Target::Role(role),
            wit::Target::Everyone => Target::Everyone,
        },
        joined: to.joined,
        except_user: to.except_user.map(UserId::from),
        except_connection: to.except_connection,
        namespace: to.namespace,
    })
}

/// What a namespace is asked, in the contract's words.
pub(crate) enum Namespace {
    Connect(namespace::Handshake),
    Event(namespace::SocketEvent),
    Disconnect { namespace: String, reason: String },
    Map { namespace: String, event: Box<namespace::CoreEvent> },
}

pub(crate) enum Raw {
    Connect(Result<(), namespace::Refusal>),
    Event(Result<Option<wit::Args>, wit::Rejection>),
    Disconnect,
    Map(Vec<namespace::Emit>),
}

impl Namespace {
    pub(crate) fn new(call: NamespaceCall) -> Namespace {
        match call {
            NamespaceCall::Connect(handshake) => Namespace::Connect(namespace::Handshake {
                namespace: handshake.namespace,
                auth: handshake.auth,
                host: handshake.host,
                path: handshake.path,
                query: handshake.query,
                headers: handshake.headers,
            }),
            NamespaceCall::Event(event) => Namespace::Event(namespace::SocketEvent {
                args: args_in(&event.args),
                namespace: event.namespace,
                name: event.name,
                wants_ack: event.wants_ack,
                answer_to: event.answer_to,
            }),
            NamespaceCall::Disconnect { namespace, reason } => Namespace::Disconnect { namespace, reason },
            NamespaceCall::Map { namespace, event } => Namespace::Map {
                namespace,
                event: Box::new(core_event(*event)),
            },
        }
    }
}

impl Handler for Namespace {
    type Raw = Raw;
    type Answer = NamespaceAnswer;

    fn hook(&self) -> Hook {
        Hook::Namespace
    }

    fn share(&self) -> Share {
        match self {
            Namespace::Map { .. } => Share::Mapping,
            _ => Share::Waiting,
        }
    }

    async fn run(&self, guests: &Guests, store: &mut Store<State>, call: &wit::Call) -> wasmtime::Result<Raw> {
        let guest = guests.namespace.as_ref().expect("only exported hooks are called");
        Ok(match self {
            Namespace::Connect(handshake) => Raw::Connect(guest.call_connect(store, call, handshake).await?),
            Namespace::Event(event) => Raw::Event(guest.call_event(store, call, event).await?),
            Namespace::Disconnect { namespace, reason } => {
                guest.call_disconnect(store, call, namespace, reason).await?;
                Raw::Disconnect
            }
            Namespace::Map { namespace, event } => Raw::Map(guest.call_map(store, call, namespace, event).await?),
        })
    }

    fn bytes(raw: &Raw) -> usize {
        match raw {
            Raw::Connect(Ok(())) | Raw::Disconnect | Raw::Event(Ok(None)) => 0,
            Raw::Connect(Err(refusal)) => refusal.message.len() + refusal.data.as_ref().map_or(0, String::len),
            Raw::Event(Ok(Some(args))) => args_bytes(args),
            Raw::Event(Err(rejection)) => rejection.code.len() + rejection.message.len(),
            Raw::Map(emits) => emits.iter().map(|emit| emit.name.len() + args_bytes(&emit.args)).sum(),
        }
    }

    fn judge(&self, raw: Raw) -> Result<(Outcome, NamespaceAnswer), String> {
        let answer = match raw {
            Raw::Connect(Ok(())) | Raw::Disconnect => NamespaceAnswer::Done,
            Raw::Connect(Err(refusal)) => return Ok((Outcome::Reject, refused(refusal)?)),
            Raw::Event(Ok(args)) => NamespaceAnswer::Ack(args.map(args_out).transpose().map_err(said)?),
            Raw::Event(Err(why)) => {
                let why = rejection(why);
                let (code, message) = (why.code, why.message);
                return Ok((Outcome::Reject, NamespaceAnswer::Rejected { code, message }));
            }
            Raw::Map(emits) => NamespaceAnswer::Emits(self.emits(emits)?),
        };
        Ok((Outcome::Ok, answer))
    }
}

impl Namespace {
    fn emits(&self, emits: Vec<namespace::Emit>) -> Result<Vec<SocketEmit>, String> {
        if emits.len() > EMITS_MAX {
            return Err(format!("the mapping gives {} events; at most {EMITS_MAX}", emits.len()));
        }
        let own = match self {
            Namespace::Map { event, .. } => event.conversation.as_ref().map(|conversation| conversation.id.as_str()),
            _ => None,
        };
        emits.into_iter().map(|one| mapped(one, own)).collect()
    }
}

/// Who is in another conversation than the event's is looked up for `events.emit-to-sockets` only.
fn mapped(one: namespace::Emit, own: Option<&str>) -> Result<SocketEmit, String> {
    let mut to = one.to;
    if let wit::Target::Conversation(id) = &to.to {
        if Some(id.as_str()) != own {
            return Err("a mapping is for the event's own conversation".into());
        }
        to.to = wit::Target::Recipients;
    }
    emit(to, one.name, one.args, None).map_err(said)
}

fn said(error: HostError) -> String {
    error.to_string()
}

fn refused(mut refusal: namespace::Refusal) -> Result<NamespaceAnswer, String> {
    truncate(&mut refusal.message, REFUSAL_BYTES_MAX);
    if let Some(data) = &refusal.data {
        json("data", data).map_err(said)?;
    }
    Ok(NamespaceAnswer::Refused {
        message: refusal.message,
        data: refusal.data,
    })
}

fn core_event(event: CoreEvent) -> namespace::CoreEvent {
    namespace::CoreEvent {
        receipt: event.mark.map(|mark| wit::Receipt {
            user_id: event.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
            read_seq: mark.read_seq,
            delivered_seq: mark.delivered_seq,
        }),
        kind: event.kind,
        seq: event.seq,
        at_ms: convert::millis(event.at),
        actor: event.actor.map(|user| user.to_string()),
        actor_name: event.actor_name,
        conversation: event.conversation.map(convert::conversation),
        recipients: event.recipients.iter().take(RECIPIENTS_MAX).map(ToString::to_string).collect(),
        message: event.message.map(|(op, row)| convert::message_after(row, op, None)),
        reaction: event.reaction.as_ref().map(convert::reaction),
        participant: event.participant.as_ref().map(convert::participant_change),
        on: event.on,
        last_seen_ms: event.last_seen.map(convert::millis),
        notification: event.notification.map(convert::stored_notification),
        payload: event.payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(json: &str, parts: usize) -> wit::Args {
        wit::Args {
            json: json.into(),
            binary: vec![vec![1]; parts],
        }
    }

    #[test]
    fn arguments_are_arrays_whose_binary_parts_are_there() {
        for (json, parts) in [
            ("[]", 0),
            (" [1,{\"a\":null}]", 0),
            ("[{\"_placeholder\":true,\"num\":0}]", 1),
            ("[{\"x\":[{\"_placeholder\":true,\"num\":1}]}]", 2),
        ] {
            assert!(args_out(args(json, parts)).is_ok(), "{json}");
        }
        for (json, parts) in [
            ("{}", 0),
            ("1", 0),
            ("[", 0),
            ("[] []", 0),
            ("[{\"_placeholder\":true,\"num\":1}]", 1),
            ("[{\"_placeholder\":true}]", 1),
            ("[{\"_placeholder\":true,\"num\":-1}]", 1),
            ("[[{\"a\":{\"num\":2,\"_placeholder\":true}}]]", 2),
            ("[]", 11),
        ] {
            assert!(args_out(args(json, parts)).is_err(), "{json}");
        }
    }

    #[test]
    fn names_of_the_protocol_are_its_own() {
        let named = |name: &str| emit(to_connection("c".into()), name.into(), args("[]", 0), None);
        assert!(named("new_message").is_ok() && named("é").is_ok());
        for name in ["", "connect", "disconnect", &"x".repeat(129)] {
            assert!(named(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_mapping_stays_with_its_event() {
        let map = |conversation: &str| {
            let to = wit::Target::Conversation(conversation.into());
            let to = wit::Audience {
                to,
                ..to_connection(String::new())
            };
            let one = namespace::Emit {
                to,
                name: "a".into(),
                args: args("[]", 0),
            };
            mapped(one, Some("0123456789abcdef00000000"))
        };
        assert_eq!(map("0123456789abcdef00000000").unwrap().audience.to, Target::Recipients);
        assert!(map("0123456789abcdee00000000").is_err());
    }
}
