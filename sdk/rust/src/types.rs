//! What handlers are given and give back.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{Error, Rejection, Stop, json};

/// By which way somebody asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Requests over HTTP.
    Rest,
    /// The native WebSocket.
    Ws,
    /// Socket.IO.
    SocketIo,
    /// None: it is the server itself, or a plugin for itself.
    #[default]
    Internal,
}

impl Transport {
    /// `rest`, `ws`, `socketio` or `internal`.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Rest => "rest",
            Transport::Ws => "ws",
            Transport::SocketIo => "socketio",
            Transport::Internal => "internal",
        }
    }
}

/// Who asks, and for what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The command's id (`ref` in the contract): stable over retries, stored with what the command writes. In a before-hook the
    /// message has no id yet, so key by this.
    pub reference: String,
    /// The acting user; `plugin:<id>` for a plugin; empty for the server itself.
    pub actor: String,
    /// Roles of the actor's token.
    pub roles: Vec<String>,
    /// Id of the connection; empty for REST and for the server.
    pub session: String,
    /// By which way they ask.
    pub transport: Transport,
    /// The dialect's name; none: the native one.
    pub dialect: Option<String>,
    /// For logs; empty where the request has none.
    pub trace_id: String,
    /// Wall clock in milliseconds since 1970; the only clock a plugin has.
    pub now_ms: u64,
    /// The conversation whose turn or log this is; none for http handlers and plugin-wide timers.
    pub conversation_id: Option<String>,
    /// Plugins that led to this call, oldest first.
    pub origin: Vec<String>,
}

impl Call {
    /// The user who acts, or nobody: a plugin or the server does, or an http request came without a token.
    pub fn user(&self) -> Option<&str> {
        Some(self.actor.as_str()).filter(|actor| !actor.is_empty() && !actor.starts_with("plugin:"))
    }

    /// Whether the actor's token has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }

    /// The call's conversation.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where the call has none.
    pub fn conversation(&self) -> Result<&str, Error> {
        self.conversation_id
            .as_deref()
            .ok_or_else(|| Error::Invalid("this call names no conversation".into()))
    }
}

/// What is being done, or has just been done, to a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Op {
    /// A new message.
    #[default]
    Send,
    /// New content or metadata for an old one.
    Edit,
    /// Deleted for all.
    Delete,
}

impl Op {
    /// `send`, `edit` or `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Send => "send",
            Op::Edit => "edit",
            Op::Delete => "delete",
        }
    }
}

/// The kind of most messages, which the contract leaves out.
pub(crate) const KIND_TEXT: &str = "text";

/// A message before it is stored. Edits and deletes name their `target`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// What is being done.
    pub op: Op,
    /// Edits and deletes: the id of the message.
    pub target: Option<String>,
    /// Where.
    pub conversation_id: String,
    /// Whose message it is. Sending with an empty one: the plugin itself.
    pub sender_id: String,
    /// `text`, `image`, … or a kind that a plugin claims.
    pub kind: String,
    /// The text.
    pub content: String,
    /// One JSON object as text, numbers as sent. [`Draft::metadata_map`] reads it.
    pub metadata: Option<String>,
    /// The message this one answers.
    pub reply_to: Option<String>,
    /// The message this one repeats.
    pub forwarded_from: Option<String>,
    /// The sender's own id of it.
    pub client_message_id: Option<String>,
}

impl Draft {
    /// A new message of any kind.
    pub fn new(conversation_id: impl Into<String>, kind: impl Into<String>, content: impl Into<String>) -> Draft {
        Draft {
            conversation_id: conversation_id.into(),
            kind: kind.into(),
            content: content.into(),
            ..Draft::default()
        }
    }

    /// A new message of kind `text`.
    pub fn text(conversation_id: impl Into<String>, content: impl Into<String>) -> Draft {
        Draft::new(conversation_id, KIND_TEXT, content)
    }

    /// The same draft with this metadata, which must serialize to a JSON object.
    ///
    /// # Panics
    ///
    /// If it does not; that is a mistake in the plugin, not in its input.
    pub fn with_metadata(mut self, metadata: &impl Serialize) -> Draft {
        self.metadata = Some(json::object_text(metadata).expect("metadata is a JSON object"));
        self
    }

    /// The metadata; empty where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where it is no JSON object (the server lets none such through).
    pub fn metadata_map(&self) -> Result<Map<String, Value>, Error> {
        json::object(self.metadata.as_deref())
    }

    /// Replaces the metadata.
    pub fn set_metadata_map(&mut self, metadata: &Map<String, Value>) {
        self.metadata = Some(json::map_text(metadata));
    }
}

/// A stored message in its present state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// 24 hex digits.
    pub id: String,
    /// Its position in the conversation.
    pub seq: u32,
    /// Seq of the last change included here.
    pub rev: u32,
    /// Countable messages up to it.
    pub n: u32,
    /// [`Call::reference`] of the command that created it.
    pub reference: String,
    /// When it was created.
    pub created_at_ms: u64,
    /// When it was last edited.
    pub edited_at_ms: Option<u64>,
    /// When it was deleted for all; content and metadata are gone then.
    pub deleted_at_ms: Option<u64>,
    /// (user, emoji), one per user, ordered by user.
    pub reactions: Vec<(String, String)>,
    /// In hooks: what has just happened to it.
    pub op: Op,
    /// Where.
    pub conversation_id: String,
    /// Whose.
    pub sender_id: String,
    /// `text`, `image`, … or a kind that a plugin claims.
    pub kind: String,
    /// The text.
    pub content: String,
    /// One JSON object as text.
    pub metadata: Option<String>,
    /// The message this one answers.
    pub reply_to: Option<String>,
    /// The message this one repeats.
    pub forwarded_from: Option<String>,
    /// The sender's own id of it.
    pub client_message_id: Option<String>,
}

impl Message {
    /// The metadata; empty where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where it is no JSON object.
    pub fn metadata_map(&self) -> Result<Map<String, Value>, Error> {
        json::object(self.metadata.as_deref())
    }
}

/// Somebody who has read a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub user_id: String,
    /// When.
    pub read_at_ms: u64,
}

/// What a before-hook on messages decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on with the message as it is.
    Continue,
    /// Go on with what this one says of kind, content, metadata, `reply_to` and `forwarded_from`. All else stays what it was.
    Replace(Draft),
    /// Do not.
    Reject(Rejection),
}

impl Decision {
    /// Refuses with the plugin's own code and a sentence for people.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Decision {
        Decision::Reject(Rejection::new(code, message))
    }

    /// Ends a before-hook whose helpers use `?`.
    ///
    /// # Panics
    ///
    /// On [`Stop::Fail`], on purpose: then the policy in the manifest decides.
    pub fn of(result: Result<Decision, Stop>) -> Decision {
        result.unwrap_or_else(|stop| Decision::Reject(stop.into_rejection()))
    }
}

/// What a before-hook decides where nothing can be rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Do not.
    Reject(Rejection),
}

impl Verdict {
    /// Refuses with the plugin's own code and a sentence for people.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Verdict {
        Verdict::Reject(Rejection::new(code, message))
    }

    /// Ends a before-hook whose helpers use `?`.
    ///
    /// # Panics
    ///
    /// On [`Stop::Fail`], on purpose: then the policy in the manifest decides.
    pub fn of(result: Result<(), Stop>) -> Verdict {
        match result {
            Ok(()) => Verdict::Continue,
            Err(stop) => Verdict::Reject(stop.into_rejection()),
        }
    }
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// 24 hex digits.
    pub id: String,
    /// `direct`, `group`, `context`, `broadcast` or `personal`.
    pub kind: String,
    /// Of a context conversation: `owner/type:id`.
    pub context: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its picture.
    pub avatar: Option<String>,
    /// One JSON object as text, kept by the owner for clients.
    pub state: Option<String>,
    /// Nobody may write.
    pub closed: bool,
    /// Who made it.
    pub creator: Option<String>,
    /// When.
    pub created_at_ms: u64,
    /// Seq of its last event.
    pub head: u32,
}

/// What happens to a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConversationOp {
    /// It comes into being.
    #[default]
    Create,
    /// Its name, avatar or state changes.
    Update,
    /// It is closed.
    Close,
    /// It is opened again.
    Reopen,
}

impl ConversationOp {
    /// `create`, `update`, `close` or `reopen`.
    pub fn as_str(self) -> &'static str {
        match self {
            ConversationOp::Create => "create",
            ConversationOp::Update => "update",
            ConversationOp::Close => "close",
            ConversationOp::Reopen => "reopen",
        }
    }
}

/// A conversation that is about to be created or changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConversationDraft {
    /// What is being done.
    pub op: ConversationOp,
    /// `direct`, `group`, `context` or `broadcast`.
    pub kind: String,
    /// Of a context conversation: `owner/type:id`.
    pub context: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its picture.
    pub avatar: Option<String>,
    /// One JSON object as text.
    pub state: Option<String>,
    /// On creation: who is in it.
    pub participants: Vec<String>,
}

/// What a before-hook on conversations decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConversationDecision {
    /// Go on with it as it is.
    Continue,
    /// Go on with what this one says of name, avatar and state. All else stays what it was.
    Replace(ConversationDraft),
    /// Do not.
    Reject(Rejection),
}

impl ConversationDecision {
    /// Refuses with the plugin's own code and a sentence for people.
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> ConversationDecision {
        ConversationDecision::Reject(Rejection::new(code, message))
    }
}

/// Somebody's place in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Participant {
    /// Who.
    pub user_id: String,
    /// `member` or `admin`.
    pub role: String,
    /// Since when.
    pub joined_at_ms: u64,
    /// Read up to this seq.
    pub read_seq: u32,
    /// Delivered up to this seq.
    pub delivered_seq: u32,
}

/// What is being done, or has just been done, to somebody's place in a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParticipantOp {
    /// They come in.
    #[default]
    Join,
    /// They leave, or are removed.
    Leave,
    /// They get another role.
    Role,
}

impl ParticipantOp {
    /// `join`, `leave` or `role`.
    pub fn as_str(self) -> &'static str {
        match self {
            ParticipantOp::Join => "join",
            ParticipantOp::Leave => "leave",
            ParticipantOp::Role => "role",
        }
    }
}

/// A change of who is in a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParticipantChange {
    /// What is being done.
    pub op: ParticipantOp,
    /// Whose place.
    pub user_id: String,
    /// The (new) role.
    pub role: String,
}

/// A reaction that is set (`emoji`) or taken away (none).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reaction {
    /// On which message.
    pub message_id: String,
    /// Whose.
    pub user_id: String,
    /// With what.
    pub emoji: Option<String>,
}

/// A read or delivered mark that moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Whose.
    pub user_id: String,
    /// Read up to this seq.
    pub read_seq: u32,
    /// Delivered up to this seq.
    pub delivered_seq: u32,
}

/// A connection that opened or closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// By which way it came.
    pub transport: Transport,
    /// Opened, not closed.
    pub open: bool,
    /// Why it closed.
    pub reason: String,
}

/// A user's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The token's subject.
    pub id: String,
    /// Name for display.
    pub name: Option<String>,
    /// Picture.
    pub avatar: Option<String>,
    /// Roles kept with the profile (a request's roles are in [`Call::roles`]).
    pub roles: Vec<String>,
    /// One JSON object as text.
    pub attributes: Option<String>,
    /// One JSON object as text.
    pub preferences: Option<String>,
}

impl User {
    /// The attributes; empty where there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where they are no JSON object.
    pub fn attributes_map(&self) -> Result<Map<String, Value>, Error> {
        json::object(self.attributes.as_deref())
    }

    /// The preferences; empty where there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] where they are no JSON object.
    pub fn preferences_map(&self) -> Result<Map<String, Value>, Error> {
        json::object(self.preferences.as_deref())
    }
}

/// What a user is told of what they did not see happen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// `MESSAGE_RECEIVED`, `CHAT_CREATED`, …
    pub topic: String,
    /// A line for people.
    pub title: String,
    /// Empty: the present text of `message_id` is shown instead, which therefore is never stored twice.
    pub body: String,
    /// Any JSON value as text.
    pub data: Option<String>,
    /// The message it is about.
    pub message_id: Option<String>,
    /// Replaces an unread earlier notification with the same key.
    pub collapse: Option<String>,
}

/// Something that a user was told of, as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredNotification {
    /// 24 hex digits.
    pub id: String,
    /// Whose.
    pub user_id: String,
    /// `MESSAGE_RECEIVED`, `CHAT_CREATED`, …
    pub topic: String,
    /// A line for people.
    pub title: String,
    /// The text; where the notification has none, the present text of its message, as far as the user may still see that.
    pub body: String,
    /// Any JSON value as text.
    pub data: Option<String>,
    /// The message it is about.
    pub message_id: Option<String>,
    /// The plugin that made it.
    pub plugin: Option<String>,
    /// Read by its user.
    pub read: bool,
    /// When it was made.
    pub created_at_ms: u64,
    /// When it was read or replaced.
    pub updated_at_ms: u64,
}

/// A request for one of the plugin's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// Upper case.
    pub method: String,
    /// As requested.
    pub path: String,
    /// What stands for the `{name}`s of the route's path, decoded. [`HttpRequest::param`] finds one.
    pub params: Vec<(String, String)>,
    /// Without `?`.
    pub query: String,
    /// Lower-case names; `authorization` and `cookie` are left out.
    pub headers: Vec<(String, String)>,
    /// At most what the server allows.
    pub body: Vec<u8>,
}

impl HttpRequest {
    /// What stands for `{name}` in the route's path; empty where it has no such parameter.
    ///
    /// ```
    /// use haggle_sdk::prelude::*;
    ///
    /// // GET /messaging/conversations/booking/b-17, of the route /messaging/conversations/booking/{booking}
    /// let request = HttpRequest { params: vec![("booking".into(), "b-17".into())], ..HttpRequest::default() };
    /// assert_eq!(request.param("booking"), "b-17");
    /// assert_eq!(request.param("other"), "");
    /// ```
    pub fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str())
    }

    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// 200 … 599.
    pub status: u16,
    /// Hop-by-hop headers are dropped.
    pub headers: Vec<(String, String)>,
    /// At most what the server allows.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// A plain text.
    pub fn text(status: u16, body: impl Into<String>) -> HttpResponse {
        HttpResponse {
            status,
            headers: vec![("content-type".into(), "text/plain; charset=utf-8".into())],
            body: body.into().into_bytes(),
        }
    }

    /// A JSON document; 500 where the value has no JSON form.
    pub fn json(status: u16, body: &impl Serialize) -> HttpResponse {
        match serde_json::to_vec(body) {
            Ok(body) => HttpResponse {
                status,
                headers: vec![("content-type".into(), "application/json".into())],
                body,
            },
            Err(error) => HttpResponse::text(500, error.to_string()),
        }
    }
}
