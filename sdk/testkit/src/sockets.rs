//! Namespaces that a plugin owns: connections of a test, and what they would hear.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use haggle_engine::{
    Push, Refusal, What,
    sockets::{self, NamespaceAnswer, Recipients, Socket, SocketEmit, Sockets},
};
use haggle_model::{ConversationId, ConversationKind, Event, PluginId, UserId};
use haggle_sdk::{
    Error,
    sockets::{Args, Audience, CoreEvent, Emit, SocketEvent, Target},
    types,
};
use parking_lot::Mutex;

use crate::convert::{self, id, json};

/// Everything that was published or emitted, for tests that look.
#[derive(Default)]
pub(crate) struct Recorder {
    pub emits: Mutex<Vec<Emit>>,
    pub published: Mutex<Vec<(Arc<Push>, Vec<UserId>)>>,
}

impl Sockets for Recorder {
    /// As in the server, a mapping is told of users by name only where the core tells users, not all or those of a role.
    fn published(&self, push: &Arc<Push>, recipients: Recipients<'_>) {
        let users = match recipients {
            Recipients::Users(users, _) => users.to_vec(),
            Recipients::Everyone | Recipients::Role(_) | Recipients::Connection(_) => Vec::new(),
        };
        if is_mapped(&push.what) {
            self.published.lock().push((push.clone(), users));
        }
    }

    fn emit(&self, _: &PluginId, emit: SocketEmit) {
        self.emits.lock().push(emit_back(emit));
    }
}

/// Of personal conversations only notifications are anybody's business; a delivered mark is nobody's.
fn is_mapped(what: &What) -> bool {
    match what {
        What::Event(published) => published.kind != ConversationKind::Personal || matches!(published.entry.event, Event::Notified(_)),
        What::Mark { is_read, .. } => *is_read,
        What::Typing { .. } | What::Presence { .. } | What::Custom { .. } => true,
    }
}

/// A connection of a test in a namespace.
#[derive(Default)]
pub(crate) struct TestSocket {
    pub joined: Mutex<BTreeSet<ConversationId>>,
    pub rooms: Mutex<BTreeSet<String>>,
}

impl Socket for TestSocket {
    fn join(self: Arc<Self>, conversation: ConversationId) -> Result<(), Refusal> {
        self.joined.lock().insert(conversation);
        Ok(())
    }
    fn leave(&self, conversation: ConversationId) {
        self.joined.lock().remove(&conversation);
    }
    fn enter_room(self: Arc<Self>, room: &str) -> Result<(), Refusal> {
        self.rooms.lock().insert(room.to_owned());
        Ok(())
    }
    fn leave_room(&self, room: &str) {
        self.rooms.lock().remove(room);
    }
}

pub(crate) fn args_in(args: sockets::Args) -> Args {
    Args {
        json: args.json,
        binary: args.binary.iter().map(|part| part.to_vec()).collect(),
    }
}

pub(crate) fn args_out(args: Args) -> Result<sockets::Args, Error> {
    json("args", &args.json)?;
    if !args.json.trim_start().starts_with('[') {
        return Err(Error::Invalid("args is not a JSON array".into()));
    }
    Ok(sockets::Args {
        json: args.json,
        binary: args.binary.into_iter().map(Bytes::from).collect(),
    })
}

pub(crate) fn event_in(event: sockets::SocketEvent) -> SocketEvent {
    SocketEvent {
        namespace: event.namespace,
        name: event.name,
        args: args_in(event.args),
        wants_ack: event.wants_ack,
        answer_to: event.answer_to,
    }
}

pub(crate) fn emit_out(to: &Audience, name: &str, args: &Args, token: Option<&str>) -> Result<SocketEmit, Error> {
    Ok(SocketEmit {
        audience: sockets::SocketAudience {
            to: match &to.to {
                Target::Recipients => sockets::Target::Recipients,
                Target::Connection(id) => sockets::Target::Connection(id.clone()),
                Target::User(user) => sockets::Target::User(user.as_str().into()),
                Target::Conversation(conversation) => sockets::Target::Conversation(id("conversation", conversation)?),
                Target::Room(room) => sockets::Target::Room(room.clone()),
                Target::Role(role) => sockets::Target::Role(role.clone()),
                Target::Everyone => sockets::Target::Everyone,
            },
            joined: to.joined,
            except_user: to.except_user.as_deref().map(UserId::from),
            except_connection: to.except_connection.clone(),
            namespace: to.namespace.clone(),
        },
        participants: Arc::from([]),
        name: name.to_owned(),
        args: args_out(args.clone())?,
        token: token.map(str::to_owned),
    })
}

pub(crate) fn emit_back(emit: SocketEmit) -> Emit {
    let audience = emit.audience;
    Emit {
        to: Audience {
            to: match audience.to {
                sockets::Target::Recipients => Target::Recipients,
                sockets::Target::Connection(id) => Target::Connection(id),
                sockets::Target::User(user) => Target::User(user.to_string()),
                sockets::Target::Conversation(id) => Target::Conversation(id.to_string()),
                sockets::Target::Room(room) => Target::Room(room),
                sockets::Target::Role(role) => Target::Role(role),
                sockets::Target::Everyone => Target::Everyone,
            },
            joined: audience.joined,
            except_user: audience.except_user.map(|user| user.to_string()),
            except_connection: audience.except_connection,
            namespace: audience.namespace,
        },
        name: emit.name,
        args: args_in(emit.args),
    }
}

/// The answer of a mapping.
pub(crate) fn emits_out(emits: Vec<Emit>) -> Result<NamespaceAnswer, Error> {
    let emits = emits.iter().map(|emit| emit_out(&emit.to, &emit.name, &emit.args, None));
    Ok(NamespaceAnswer::Emits(emits.collect::<Result<_, _>>()?))
}

pub(crate) fn core_event(event: sockets::CoreEvent) -> CoreEvent {
    CoreEvent {
        receipt: event.mark.map(|mark| types::Receipt {
            user_id: event.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
            read_seq: mark.read_seq,
            delivered_seq: mark.delivered_seq,
        }),
        notification: event.notification.map(convert::stored_notification),
        payload: event.payload,
        kind: event.kind,
        seq: event.seq,
        at_ms: convert::millis(event.at),
        actor: event.actor.map(|user| user.to_string()),
        actor_name: event.actor_name,
        conversation: event.conversation.map(convert::conversation),
        recipients: event.recipients.iter().map(ToString::to_string).collect(),
        message: event.message.map(|(op, row)| convert::message(row, op)),
        reaction: event.reaction.as_ref().map(convert::reaction),
        participant: event.participant.as_ref().map(convert::participant_change),
        on: event.on,
        last_seen_ms: event.last_seen.map(convert::millis),
    }
}
