//! Namespaces that plugins own: the words between a transport, the engine and a plugin, and the port to the connections.
//!
//! A transport asks with [`Engine::namespace`](crate::Engine::namespace) what a plugin says to a connect, an event or a
//! disconnect. The other way, whatever is published is told to the transport's [`Sockets`] once, which has it mapped once by
//! [`Engine::map`](crate::Engine::map) and spreads the answer itself.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use haggle_model::{Address, ConversationId, Event, MarkChange, Millis, PluginId, Role, Seq, UserId};
use haggle_store::{ConversationRow, MessageRow, NotificationRow};

use crate::{
    NotificationView, Refusal,
    hub::{Published, Push, What},
    ports::{Op, ParticipantChange, ParticipantOp, ReactionChange},
};

pub use crate::places::check_places;

/// Binary parts of one packet; clients refuse more.
pub const ATTACHMENTS_MAX: usize = 10;
/// Names of events that the protocol keeps for itself.
pub const RESERVED_EVENTS: [&str; 6] = ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Arguments of an event or ack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// One JSON array as text; binary parts stand in it as numbered placeholders.
    pub json: String,
    /// The binary parts.
    pub binary: Vec<Bytes>,
}

impl Args {
    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.json.len() + self.binary.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Whom an event of a plugin is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Whom the core tells of the event that is being mapped.
    Recipients,
    /// One connection.
    Connection(String),
    /// All connections of a user.
    User(UserId),
    /// All connections of the participants.
    Conversation(ConversationId),
    /// Connections that have entered the room.
    Room(String),
    /// Connections whose token has the role.
    Role(String),
    /// All connections.
    Everyone,
}

/// Those of a target for which all of this is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketAudience {
    /// The target.
    pub to: Target,
    /// Have (not) joined the conversation of the target or of the mapped event.
    pub joined: Option<bool>,
    /// Are not this user's.
    pub except_user: Option<UserId>,
    /// Are not this one.
    pub except_connection: Option<String>,
    /// Are in this namespace; `None`: in any of the plugin's.
    pub namespace: Option<String>,
}

/// An event of a plugin for connections in its namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketEmit {
    /// For whom.
    pub audience: SocketAudience,
    /// Of a conversation: its participants, looked up when the plugin emits.
    pub participants: Arc<[UserId]>,
    /// Any name.
    pub name: String,
    /// The arguments.
    pub args: Args,
    /// An ack is asked for, which comes back with this token.
    pub token: Option<String>,
}

/// Somebody wants to connect to a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handshake {
    /// Which one.
    pub namespace: String,
    /// The connect's object without its token, as JSON text.
    pub auth: String,
    /// The host that was asked.
    pub host: String,
    /// The path that was asked.
    pub path: String,
    /// What of the query is not the transport's.
    pub query: String,
    /// Some of the headers.
    pub headers: Vec<(String, String)>,
}

/// An event of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketEvent {
    /// Where.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub args: Args,
    /// The client waits for an ack.
    pub wants_ack: bool,
    /// It is the ack to what the plugin asked with this token.
    pub answer_to: Option<String>,
}

/// Something that happened, to be named by a plugin. `kind` says what, and so which of the options are there.
#[derive(Clone, Debug, Default)]
pub struct CoreEvent {
    /// The event's name; `read`, `typing`, `presence`, `notification`; a plugin's own name.
    pub kind: String,
    /// 0 for what is not kept.
    pub seq: Seq,
    /// When; 0 for signs of life.
    pub at: Millis,
    /// Who did it, or whose it is.
    pub actor: Option<UserId>,
    /// Of typing: the name to show.
    pub actor_name: Option<String>,
    /// Where, if anywhere.
    pub conversation: Option<ConversationRow>,
    /// Whom the core tells.
    pub recipients: Vec<UserId>,
    /// Of messages and reactions: what happened to the message, and its state after it.
    pub message: Option<(Op, MessageRow)>,
    /// Of reactions.
    pub reaction: Option<ReactionChange>,
    /// Of participants.
    pub participant: Option<ParticipantChange>,
    /// Of marks.
    pub mark: Option<MarkChange>,
    /// Of typing and presence: begins or ends.
    pub on: Option<bool>,
    /// Of who is gone: since when.
    pub last_seen: Option<Millis>,
    /// Of plugins' events: JSON text.
    pub payload: Option<String>,
    /// Of notifications.
    pub notification: Option<NotificationView>,
}

impl CoreEvent {
    /// What a push says, in the words of a mapping.
    pub fn of(what: &What, conversation: Option<ConversationRow>, recipients: Vec<UserId>) -> CoreEvent {
        let told = CoreEvent {
            actor: what.actor().cloned(),
            conversation,
            recipients,
            ..CoreEvent::default()
        };
        match what {
            What::Event(published) => told.with_event(published),
            What::Mark { mark, at, .. } => CoreEvent {
                kind: "read".into(),
                at: *at,
                mark: Some(*mark),
                ..told
            },
            What::Typing { name, on, .. } => CoreEvent {
                kind: "typing".into(),
                actor_name: Some(name.clone()),
                on: Some(*on),
                ..told
            },
            What::Presence { online, last_seen, .. } => CoreEvent {
                kind: "presence".into(),
                on: Some(*online),
                last_seen: *last_seen,
                ..told
            },
            What::Custom { name, payload, .. } => CoreEvent {
                kind: name.clone(),
                payload: Some(payload.clone()),
                ..told
            },
        }
    }

    fn with_event(self, published: &Published) -> CoreEvent {
        let entry = &published.entry;
        let op = match &entry.event {
            Event::MessageEdited { .. } => Op::Edit,
            Event::MessageDeleted { .. } => Op::Delete,
            _ => Op::Send,
        };
        let mut told = CoreEvent {
            kind: entry.event.name().to_owned(),
            seq: entry.seq,
            at: entry.at,
            message: published
                .message()
                .filter(|message| entry.event.message_seq(entry.seq) == Some(message.id.seq))
                .map(|message| (op, message.to_row())),
            ..self
        };
        let reaction = |target: Seq, user: &UserId, emoji: Option<&String>| ReactionChange {
            message: entry.conversation.message(target),
            user: user.clone(),
            emoji: emoji.cloned(),
        };
        let change = |op, user: &UserId, role: Role| ParticipantChange {
            op,
            user: user.clone(),
            role,
        };
        match &entry.event {
            Event::ReactionAdded { target, user, emoji } => told.reaction = Some(reaction(*target, user, Some(emoji))),
            Event::ReactionRemoved { target, user } => told.reaction = Some(reaction(*target, user, None)),
            Event::ParticipantJoined { user, role } => told.participant = Some(change(ParticipantOp::Join, user, *role)),
            Event::ParticipantUpdated { user, role } => told.participant = Some(change(ParticipantOp::Role, user, *role)),
            Event::ParticipantLeft { user } => told.participant = Some(change(ParticipantOp::Leave, user, Role::default())),
            Event::Custom { payload, .. } => told.payload = Some(payload.clone()),
            Event::Notified(notification) => {
                told.kind = "notification".into();
                // It stands in the user's own log, which is no conversation to anybody.
                if let Some(Address::Personal(user)) = told.conversation.take().map(|own| own.address) {
                    let row = NotificationRow {
                        id: entry.conversation.message(entry.seq),
                        notification: notification.clone(),
                        read: false,
                        created_at: entry.at,
                        updated_at: entry.at,
                    };
                    told.notification = Some(NotificationView { user, row });
                }
            }
            _ => {}
        }
        told
    }
}

/// What a plugin that owns a namespace is asked.
#[derive(Clone, Debug)]
pub enum NamespaceCall {
    /// May they come in?
    Connect(Handshake),
    /// What is the answer?
    Event(SocketEvent),
    /// They have gone.
    Disconnect {
        /// From where.
        namespace: String,
        /// Why.
        reason: String,
    },
    /// What is this called here?
    Map {
        /// Where.
        namespace: String,
        /// What.
        event: Box<CoreEvent>,
    },
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamespaceAnswer {
    /// To a connect: yes. To a disconnect: heard.
    Done,
    /// To a connect: no.
    Refused {
        /// For people.
        message: String,
        /// Any JSON value as text.
        data: Option<String>,
    },
    /// To an event: the ack's arguments.
    Ack(Option<Args>),
    /// To an event: no.
    Rejected {
        /// The plugin's own code.
        code: String,
        /// For people.
        message: String,
    },
    /// To a core event: who hears what.
    Emits(Vec<SocketEmit>),
}

/// The connection that a handler runs for.
#[async_trait]
pub trait Socket: Send + Sync {
    /// Joins a conversation that its user may read.
    fn join(self: Arc<Self>, conversation: ConversationId) -> Result<(), Refusal>;
    /// Leaves it.
    fn leave(&self, conversation: ConversationId);
    /// Enters a room.
    fn enter_room(self: Arc<Self>, room: &str) -> Result<(), Refusal>;
    /// Leaves it.
    fn leave_room(&self, room: &str);
}

/// Whom the core tells of something.
#[derive(Clone, Copy, Debug)]
pub enum Recipients<'a> {
    /// These users, because of these conversations.
    Users(&'a [UserId], &'a [ConversationId]),
    /// All.
    Everyone,
    /// Who has the role.
    Role(&'a str),
    /// One connection.
    Connection(&'a str),
}

/// All connections in namespaces that plugins own. Neither function may wait.
pub trait Sockets: Send + Sync {
    /// Something was published: called once, in the order of the log.
    fn published(&self, push: &Arc<Push>, recipients: Recipients<'_>);
    /// A plugin emits.
    fn emit(&self, plugin: &PluginId, emit: SocketEmit);
}
