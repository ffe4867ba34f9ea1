//! The ports: what the engine asks of plugins ([`Hooks`]), and what plugins may ask of the engine ([`HostCalls`]).
//!
//! A command pins one [`Plan`] (the registry of plugin versions) when it starts and uses it to its end. A chain of
//! before-hooks, a command, a timer or an after-hook runs in a [`Scope`]; each plugin in it gets its own [`HostCalls`], whose
//! writes join the scope's transaction only when the host says [`HostCalls::keep`].

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use haggle_model::{
    CommandId, ConversationId, ConversationKind, ConversationUpdate, Decider, ErrorCode, MarkChange, MessageId, Millis, Notification, PluginId, Role,
    Seq, UserId,
};
use haggle_store::{ConversationRow, MemberRow, MessageRow, UserRow};

use crate::{
    Actor, Command, NewConversation, NotificationView, Outcome, Readers, Refusal, Transport,
    sockets::{NamespaceAnswer, NamespaceCall, SocketEmit},
};

pub use crate::route::{Route, RouteAccess};

/// Who asks, and for what: handed to every handler.
#[derive(Clone, Debug)]
pub struct Call {
    /// The command's id; plugins see its 32 hex digits.
    pub command: CommandId,
    /// Who acts.
    pub actor: Actor,
    /// For logs.
    pub trace_id: String,
    /// Wall clock.
    pub now: Millis,
    /// The conversation whose turn or log this is.
    pub conversation: Option<ConversationId>,
    /// Plugins that led here, oldest first.
    pub origin: Vec<PluginId>,
}

/// What is being done to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A new message.
    Send,
    /// New content for an old one.
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

/// A message before it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What is being done.
    pub op: Op,
    /// Edits and deletes: which message.
    pub target: Option<MessageId>,
    /// Where.
    pub conversation: ConversationId,
    /// Whose message it is (of an edit or delete: of the target).
    pub sender: UserId,
    /// `text`, `image`, … or a kind that a plugin claims.
    pub kind: String,
    /// The text.
    pub text: String,
    /// One JSON object as text.
    pub metadata: Option<String>,
    /// The message this one answers.
    pub reply_to: Option<MessageId>,
    /// The message this one repeats.
    pub forwarded_from: Option<MessageId>,
    /// The sender's own id of it.
    pub client_id: Option<String>,
}

/// What is being done to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversationOp {
    /// It comes into being.
    Create,
    /// Its name, avatar or state changes.
    Update,
    /// It is closed.
    Close,
    /// It is opened again.
    Reopen,
}

/// A conversation that is about to be created or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationDraft {
    /// What is being done.
    pub op: ConversationOp,
    /// Its kind.
    pub kind: ConversationKind,
    /// Of a context conversation: `owner/type:id`.
    pub context: Option<String>,
    /// What it will say about itself; the only part that a plugin may rewrite.
    pub update: ConversationUpdate,
    /// On creation: who is in it.
    pub participants: Vec<UserId>,
}

/// What is being done to somebody's place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParticipantOp {
    /// They come in.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParticipantChange {
    /// What is being done.
    pub op: ParticipantOp,
    /// Whose place.
    pub user: UserId,
    /// The (new) role.
    pub role: Role,
}

/// A reaction that is set or (`emoji` none) taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReactionChange {
    /// On which message.
    pub message: MessageId,
    /// Whose.
    pub user: UserId,
    /// With what.
    pub emoji: Option<String>,
}

/// What an after-hook is told.
#[derive(Clone, Debug)]
pub enum After {
    /// A message was sent, edited or deleted; in its present state.
    Message {
        /// What happened.
        op: Op,
        /// Its present state.
        message: MessageRow,
    },
    /// A conversation was created or changed.
    Conversation {
        /// What happened.
        op: ConversationOp,
        /// Its present state.
        conversation: ConversationRow,
    },
    /// Somebody joined, left or has a new role.
    Participant(ParticipantChange),
    /// A reaction was set or taken away.
    Reaction(ReactionChange),
    /// A mark moved.
    Receipt {
        /// Whose.
        user: UserId,
        /// The marks now.
        mark: MarkChange,
    },
    /// A connection opened or closed (best effort).
    Connection {
        /// Its id.
        session: String,
        /// Whose.
        user: UserId,
        /// By which way it came.
        transport: Transport,
        /// Opened or closed.
        open: bool,
        /// Why it closed.
        reason: String,
    },
}

impl After {
    /// Which hook is told.
    pub fn hook(&self) -> Hook {
        match self {
            After::Message { .. } => Hook::AfterMessage,
            After::Conversation { .. } => Hook::AfterConversation,
            After::Participant(_) => Hook::AfterParticipant,
            After::Reaction(_) => Hook::AfterReaction,
            After::Receipt { .. } => Hook::AfterReceipt,
            After::Connection { .. } => Hook::AfterConnection,
        }
    }
}

/// A request for a plugin's route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// Upper case.
    pub method: String,
    /// As requested.
    pub path: String,
    /// What stands for the `{name}`s of the route's path, decoded.
    pub params: Vec<(String, String)>,
    /// Without `?`.
    pub query: String,
    /// Lower-case names; `authorization` and `cookie` are left out.
    pub headers: Vec<(String, String)>,
    /// At most what the host allows.
    pub body: Vec<u8>,
}

/// A plugin's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// 200 … 599.
    pub status: u16,
    /// Hop-by-hop headers are dropped.
    pub headers: Vec<(String, String)>,
    /// At most what the host allows.
    pub body: Vec<u8>,
}

/// The named points of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it; HOOKS.md has a row for each")]
pub enum Hook {
    BeforeMessage,
    AfterMessage,
    BeforeConversation,
    AfterConversation,
    BeforeParticipant,
    AfterParticipant,
    BeforeReaction,
    AfterReaction,
    AfterReceipt,
    AfterConnection,
    Command,
    Http,
    Timer,
    Namespace,
    Lifecycle,
}

impl Hook {
    /// Every hook, in the order of the docs.
    pub const ALL: [Hook; 15] = [
        Hook::BeforeMessage,
        Hook::AfterMessage,
        Hook::BeforeConversation,
        Hook::AfterConversation,
        Hook::BeforeParticipant,
        Hook::AfterParticipant,
        Hook::BeforeReaction,
        Hook::AfterReaction,
        Hook::AfterReceipt,
        Hook::AfterConnection,
        Hook::Command,
        Hook::Http,
        Hook::Timer,
        Hook::Namespace,
        Hook::Lifecycle,
    ];

    /// The name in manifests, WIT and metrics: `before-message`.
    pub fn as_str(self) -> &'static str {
        match self {
            Hook::BeforeMessage => "before-message",
            Hook::AfterMessage => "after-message",
            Hook::BeforeConversation => "before-conversation",
            Hook::AfterConversation => "after-conversation",
            Hook::BeforeParticipant => "before-participant",
            Hook::AfterParticipant => "after-participant",
            Hook::BeforeReaction => "before-reaction",
            Hook::AfterReaction => "after-reaction",
            Hook::AfterReceipt => "after-receipt",
            Hook::AfterConnection => "after-connection",
            Hook::Command => "command",
            Hook::Http => "http",
            Hook::Timer => "timer",
            Hook::Namespace => "namespace",
            Hook::Lifecycle => "lifecycle",
        }
    }
}

/// What filters look at before a plugin is entered.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The conversation's kind.
    pub conversation: ConversationKind,
    /// Of messages: their kind.
    pub message: Option<&'a str>,
    /// Of the caller.
    pub dialect: &'a str,
}

/// A plugin that wants after-hooks: it has a durable cursor per shard under `after:<plugin>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Which plugin.
    pub plugin: PluginId,
    /// Its manifest says that it wants the log from its beginning, not from now on.
    pub from_start: bool,
}

/// A handler did not do its work. Never the same as a rejection.
#[derive(Clone, Debug, thiserror::Error)]
#[error("plugin {plugin} {hook}: {kind}: {message}")]
pub struct HookError {
    /// Which plugin.
    pub plugin: PluginId,
    /// In which hook.
    pub hook: &'static str,
    /// `trap`, `timeout`, `cpu`, `memory`, `denied`, `output`, `host_calls`, `error`, `breaker`, `gone`, `overloaded`, `unavailable`.
    pub kind: &'static str,
    /// For the operator.
    pub message: String,
}

impl HookError {
    /// The plugin, or what it needs, is not there now: what was asked of it waits and does not count as tried.
    pub fn is_away(&self) -> bool {
        matches!(self.kind, "gone" | "breaker" | "overloaded" | "unavailable")
    }
}

/// The plugins that are active now.
pub trait Hooks: Send + Sync {
    /// Pins the present versions for one command.
    fn plan(&self) -> Arc<dyn Plan>;
}

/// One registry of plugin versions. Before-hooks run in the order of the manifests. What an implementation leaves out is as if no
/// plugin had it.
#[async_trait]
pub trait Plan: Send + Sync {
    /// Whether any plugin exports this hook with a filter that these facts pass. Cheap: asked for every command.
    fn wants(&self, _hook: Hook, _facts: &Facts<'_>) -> bool {
        false
    }

    /// The plugin that claims this kind of message.
    fn claims(&self, _kind: &str) -> Option<PluginId> {
        None
    }

    /// Runs the chain on a message, leaving out the plugins in `skip` (a plugin never decides its own message). The draft becomes
    /// what they make of it; returns who decided. After an error nothing can be said of the draft.
    async fn before_message(&self, _scope: &dyn Scope, _draft: &mut Draft, _skip: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
        Ok(Vec::new())
    }

    /// Runs the chain on a conversation. Returns what it will say about itself.
    async fn before_conversation(&self, _scope: &dyn Scope, draft: ConversationDraft) -> Result<ConversationUpdate, Refusal> {
        Ok(draft.update)
    }

    /// Runs the chain on a change of participants.
    async fn before_participant(&self, _scope: &dyn Scope, _change: ParticipantChange) -> Result<(), Refusal> {
        Ok(())
    }

    /// Runs the chain on a reaction.
    async fn before_reaction(&self, _scope: &dyn Scope, _change: ReactionChange) -> Result<(), Refusal> {
        Ok(())
    }

    /// The plugin whose manifest names this command.
    fn command_owner(&self, _name: &str) -> Option<PluginId> {
        None
    }

    /// Runs a client's command. JSON in, JSON out.
    async fn command(&self, _scope: &dyn Scope, _plugin: &PluginId, name: &str, _payload: &str) -> Result<String, Refusal> {
        Err(Refusal::new(ErrorCode::NotFound, format!("no active plugin has the command {name}")))
    }

    /// Runs a timer that is due. `Err` is tried again.
    async fn timer(&self, _scope: &dyn Scope, plugin: &PluginId, _name: &str, _due: Millis, _payload: &str) -> Result<(), HookError> {
        Err(gone(plugin, Hook::Timer))
    }

    /// Plugins that export an after-hook (but `after-connection` alone).
    fn consumers(&self) -> Vec<Consumer> {
        Vec::new()
    }

    /// Whether this plugin wants this after-event.
    fn wants_after(&self, _plugin: &PluginId, _hook: Hook, _facts: &Facts<'_>) -> bool {
        false
    }

    /// Tells one plugin what happened. `Err` is tried again.
    async fn after(&self, _scope: &dyn Scope, plugin: &PluginId, event: &After) -> Result<(), HookError> {
        Err(gone(plugin, event.hook()))
    }

    /// Plugins that want to know of connections.
    fn connection_watchers(&self) -> Vec<PluginId> {
        Vec::new()
    }

    /// Routes of all plugins.
    fn routes(&self) -> Vec<Route> {
        Vec::new()
    }

    /// Answers a request for a plugin's route.
    async fn http(&self, _scope: &dyn Scope, plugin: &PluginId, _request: HttpRequest) -> Result<HttpResponse, HookError> {
        Err(gone(plugin, Hook::Http))
    }

    /// Whether this plugin is active and its manifest offers the namespace.
    fn offers_namespace(&self, _plugin: &PluginId, _namespace: &str) -> bool {
        false
    }

    /// Asks the plugin that owns a namespace.
    async fn namespace(&self, _scope: &dyn Scope, plugin: &PluginId, _call: NamespaceCall) -> Result<NamespaceAnswer, HookError> {
        Err(gone(plugin, Hook::Namespace))
    }

    /// Cron lines of the manifests that fell due after `after` and not after `until`: (plugin, timer name, latest due time), once each.
    fn crons_due(&self, _after: Millis, _until: Millis) -> Vec<(PluginId, String, Millis)> {
        Vec::new()
    }
}

/// One handler's (or chain's) transaction in the making.
pub trait Scope: Send + Sync {
    /// Who asks, and for what.
    fn call(&self) -> &Call;

    /// When the handlers of this scope must have answered.
    fn deadline(&self) -> Instant;

    /// Kind of the conversation in [`Call::conversation`], for the filters of a chain. `None` passes every filter.
    fn conversation_kind(&self) -> Option<ConversationKind> {
        None
    }

    /// What `plugin` may ask. Each call opens a new buffer of writes.
    fn guest(&self, plugin: &PluginId) -> Arc<dyn HostCalls>;
}

/// Why a host call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Not yours to touch.
    #[error("denied")]
    Denied,
    /// A limit, named.
    #[error("quota: {0}")]
    Quota(String),
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// The arguments break a rule, named.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Not now.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

/// A message that a handler writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestMessage {
    /// Where.
    pub conversation: ConversationId,
    /// `None`: the plugin itself.
    pub sender: Option<UserId>,
    /// Its kind.
    pub kind: String,
    /// Its text.
    pub text: String,
    /// One JSON object as text.
    pub metadata: Option<String>,
    /// The message this one answers.
    pub reply_to: Option<MessageId>,
    /// Counts as unread.
    pub countable: bool,
}

/// To whom an event that is not kept goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All connections of a user.
    User(UserId),
    /// One connection.
    Connection(String),
    /// Every connection whose token has the role.
    Role(String),
}

/// What one plugin may ask during one call. Grants are checked before, by the host; ownership and limits here.
///
/// Reads see the scope's transaction so far. Writes are buffered and join it with [`HostCalls::keep`]; without it they are
/// as if never made (reservations are given back).
#[async_trait]
pub trait HostCalls: Send + Sync {
    /// The call's writes join the scope's transaction.
    fn keep(&self);

    /// Conversation-scope kv: the value, if it is there and not expired.
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// Sets a key, for `ttl_s` seconds or for ever.
    fn kv_set(&self, key: &str, value: Vec<u8>, ttl_s: Option<u32>) -> Result<(), HostError>;
    /// Deletes a key.
    fn kv_delete(&self, key: &str) -> Result<(), HostError>;
    /// Keys with a prefix after `after`, ascending, at most 100.
    async fn kv_list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, Vec<u8>)>, HostError>;

    /// Global kv: the value as it is committed.
    async fn global_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError>;
    /// Set-if-absent of all keys, all or none.
    async fn global_reserve(&self, keys: Vec<String>, value: Vec<u8>) -> Result<bool, HostError>;
    /// Sets a key after the commit.
    fn global_set(&self, key: &str, value: Vec<u8>, ttl_s: Option<u32>) -> Result<(), HostError>;
    /// Adds to the decimal number at a key after the commit, once.
    fn global_add(&self, key: &str, by: i64) -> Result<(), HostError>;
    /// Deletes a key after the commit.
    fn global_delete(&self, key: &str) -> Result<(), HostError>;
    /// Gives reserved keys back after the commit.
    fn global_release(&self, keys: Vec<String>) -> Result<(), HostError>;

    /// Writes a message; returns its ref.
    fn send(&self, message: GuestMessage) -> Result<CommandId, HostError>;
    /// Changes a message of the call's own conversation.
    async fn edit(&self, id: MessageId, text: Option<String>, metadata: Option<String>) -> Result<(), HostError>;
    /// One message, present state; `None` where the plugin's scope cannot read it.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>, HostError>;
    /// Messages below `before`, newest first, at most 100.
    async fn messages(&self, conversation: ConversationId, before: Option<Seq>, limit: usize) -> Result<Vec<MessageRow>, HostError>;

    /// Of each of these messages of one conversation, at most 100, who has read it.
    async fn read_by(&self, messages: Vec<MessageId>) -> Result<Vec<Readers>, HostError>;

    /// A conversation.
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, HostError>;
    /// The id of this plugin's context conversation.
    fn context_id(&self, context_type: &str, context_id: &str) -> Result<ConversationId, HostError>;
    /// Makes it after the commit, if it is not there.
    fn get_or_create(
        &self,
        context_type: &str,
        context_id: &str,
        participants: Vec<UserId>,
        name: Option<String>,
        state: Option<String>,
    ) -> Result<ConversationId, HostError>;
    /// Replaces the state of the call's own conversation.
    fn set_state(&self, state: String) -> Result<(), HostError>;
    /// Closes or reopens the call's own conversation.
    fn set_closed(&self, closed: bool) -> Result<(), HostError>;

    /// Present participants.
    async fn participants(&self, conversation: ConversationId) -> Result<Vec<MemberRow>, HostError>;
    /// Adds one to the call's own conversation.
    fn add_participant(&self, user: UserId, role: Role) -> Result<(), HostError>;
    /// Removes one from the call's own conversation.
    fn remove_participant(&self, user: UserId) -> Result<(), HostError>;

    /// A user's profile.
    async fn user(&self, id: &UserId) -> Result<Option<UserRow>, HostError>;
    /// Has a connection.
    fn online(&self, id: &UserId) -> bool;
    /// How many users have one.
    fn online_count(&self) -> u32;
    /// Unread messages of all (of very many: of the latest) conversations of a user.
    async fn unread(&self, id: &UserId) -> Result<u32, HostError>;
    /// Has a connection subscribed to the conversation.
    fn watching(&self, id: &UserId, conversation: ConversationId) -> bool;

    /// A durable event of the call's own conversation.
    fn emit(&self, name: &str, payload: String) -> Result<(), HostError>;
    /// An event that is not kept.
    fn emit_to(&self, audience: Audience, name: &str, payload: String) -> Result<(), HostError>;

    /// An event that is not kept, for connections in the plugin's own namespaces. Looks up whom it is for.
    async fn emit_to_sockets(&self, emit: SocketEmit) -> Result<(), HostError>;

    /// Stores and pushes a notification after the commit.
    fn notify(&self, user: UserId, notification: Notification) -> Result<(), HostError>;

    /// Sets a timer.
    fn timer_set(&self, name: &str, due: Millis, payload: String) -> Result<(), HostError>;
    /// Cancels it.
    fn timer_cancel(&self, name: &str) -> Result<(), HostError>;
    /// When it is due.
    async fn timer_get(&self, name: &str) -> Result<Option<Millis>, HostError>;

    /// The user's side: only for handlers that run outside every turn and because of a client.
    fn client(&self) -> Option<&dyn ClientCalls> {
        None
    }
}

/// A conversation as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// Its row.
    pub conversation: ConversationRow,
    /// Present participants, not all of a large one.
    pub participants: Vec<MemberRow>,
    /// The user's unread messages.
    pub unread: u32,
    /// The user has archived it.
    pub archived: bool,
    /// The newest message that the user may see.
    pub last_message: Option<MessageRow>,
}

/// What a plugin may do in the place of the user of its call: what the user's own client may. Every write is a command like
/// any other, and its future ends when it is durable; giving it up does not take it back.
#[async_trait]
pub trait ClientCalls: Send + Sync {
    /// A command. A client id makes a repetition known beyond this call.
    async fn write(&self, command: Command, client_id: Option<String>) -> Result<Outcome, Refusal>;
    /// A context conversation of the plugin, in the plugin's name and at the user's rate.
    async fn open_context(&self, new: NewConversation) -> Result<Outcome, Refusal>;
    /// Moves the user's read mark, `None`: to the end.
    async fn read(&self, conversation: ConversationId, up_to: Option<Seq>) -> Result<Outcome, Refusal>;
    /// A sign of typing.
    fn typing(&self, conversation: ConversationId, on: bool) -> Result<(), Refusal>;
    /// The user's word about being there.
    fn presence_hint(&self, online: bool) -> Result<(), Refusal>;

    /// The connection joins a conversation.
    async fn join(&self, conversation: ConversationId) -> Result<(), Refusal>;
    /// The connection leaves it.
    fn leave(&self, conversation: ConversationId) -> Result<(), Refusal>;
    /// The connection enters a room.
    fn enter_room(&self, room: &str) -> Result<(), Refusal>;
    /// The connection leaves it.
    fn leave_room(&self, room: &str) -> Result<(), Refusal>;

    /// The id of the direct conversation with another user, there or not.
    async fn direct_id(&self, user: &UserId) -> Result<ConversationId, Refusal>;
    /// Conversations, latest change first, after the one that ended the former page.
    async fn conversations(&self, archived: Option<bool>, after: Option<ConversationId>, limit: usize) -> Result<Vec<ClientView>, Refusal>;
    /// One conversation.
    async fn conversation(&self, id: ConversationId) -> Result<ClientView, Refusal>;
    /// Messages below `before`, newest first.
    async fn messages(&self, conversation: ConversationId, before: Option<Seq>, limit: usize) -> Result<Vec<MessageRow>, Refusal>;
    /// One message.
    async fn message(&self, id: MessageId) -> Result<MessageRow, Refusal>;
    /// Of each of these messages of one conversation, at most 100, who has read it.
    async fn read_by(&self, messages: &[MessageId]) -> Result<Vec<Readers>, Refusal>;
    /// The user's notifications, newest first, after the one that ended the former page.
    async fn notifications(&self, before: Option<MessageId>, unread_only: bool, limit: usize) -> Result<Vec<NotificationView>, Refusal>;
    /// Marks one of them read.
    async fn read_notification(&self, id: MessageId) -> Result<Outcome, Refusal>;
    /// How many of them are unread.
    async fn notifications_unread(&self) -> Result<u32, Refusal>;
    /// Unread messages of all (of very many: of the latest) conversations.
    async fn unread_total(&self) -> Result<u32, Refusal>;
    /// How many conversations there are in the user's list (of very many: 1,000).
    async fn conversations_total(&self, archived: Option<bool>) -> Result<u32, Refusal>;
    /// Who of these is online, and when the others were seen last.
    async fn presence_of(&self, users: &[UserId]) -> Result<Vec<(bool, Option<Millis>)>, Refusal>;
    /// Some users with a connection.
    fn online_users(&self, limit: usize) -> Result<Vec<UserId>, Refusal>;
}

/// A plan without plugins.
pub struct NoPlugins;

impl Hooks for NoPlugins {
    fn plan(&self) -> Arc<dyn Plan> {
        Arc::new(NoPlugins)
    }
}

impl Plan for NoPlugins {}

/// The error for a plugin that is not active (any more).
pub fn gone(plugin: &PluginId, hook: Hook) -> HookError {
    HookError {
        plugin: plugin.clone(),
        hook: hook.as_str(),
        kind: "gone",
        message: "the plugin is not active".into(),
    }
}
