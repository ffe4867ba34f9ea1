//! The engine's face.

use std::sync::Arc;

use haggle_model::{Address, ConversationId, Limits, Millis, PluginId, Seq, UserId};
use haggle_store::{ConversationRow, FailedDelivery, InboxRow, MemberRow, SharedStore};

use crate::{
    Actor, Outcome, Refusal, Reply, Request,
    clock::Clock,
    hub::{Hub, Subscriber},
    ports::{Hooks, HttpRequest, HttpResponse},
};

/// Everything an engine is made of.
pub struct EngineOptions {
    /// Where it keeps what it is told.
    pub store: SharedStore,
    /// The plugins.
    pub hooks: Arc<dyn Hooks>,
    /// What it refuses to exceed.
    pub limits: Limits,
    /// The wall clock; tests turn it by hand.
    pub clock: Arc<dyn Clock>,
    /// How long the text of deleted messages stays in the log.
    pub erase_after: std::time::Duration,
    /// Participants that were never seen are refused.
    pub reject_unknown_users: bool,
}

/// How firmly the engine serves now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes.
    Ready,
    /// The store takes no writes; they are answered `read_only` until it has recovered.
    ReadOnly,
}

/// What a user may know of a conversation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Seq of the last event.
    pub head: Seq,
    /// Countable messages.
    pub head_n: u32,
    /// The user's unread.
    pub unread: u32,
    /// When something last happened.
    pub at: Millis,
}

/// Durable conversations with plugins. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<crate::Inner>,
}

#[allow(unused_variables, clippy::unused_async)]
impl Engine {
    /// Opens the lanes, reads what is due and starts the feeds. Call inside a tokio runtime.
    pub async fn start(options: EngineOptions) -> Result<Engine, haggle_store::StoreError> {
        unimplemented!()
    }

    /// Takes the command's place in its conversation's queue at once, in the order of the calls, and answers through `reply`
    /// when the answer is durable. Never blocks; where nothing waits the command is staged before this returns.
    pub fn submit(&self, request: Request, reply: Reply) {
        unimplemented!()
    }

    /// The same for who can wait.
    pub async fn execute(&self, request: Request) -> Result<Outcome, Refusal> {
        unimplemented!()
    }

    /// Moves the actor's marks up to these seqs (never back; above the head counts as the head). Takes no turn.
    /// With a reply it is part of the next commit, without one it may wait up to a second and is merged.
    pub fn mark(&self, actor: &Actor, conversation: ConversationId, delivered: Option<Seq>, read: Option<Seq>, reply: Option<Reply>) {
        unimplemented!()
    }

    /// A sign of typing; expires by itself. Ignored from who is no participant or is blocked.
    pub fn typing(&self, actor: &Actor, conversation: ConversationId, on: bool) {
        unimplemented!()
    }

    /// Registers a connection: presence, and pushes from now on.
    pub fn connect(&self, connection: Arc<dyn Subscriber>) {
        unimplemented!()
    }

    /// Forgets it. `reason` is a short word for metrics and the after-connection hook.
    pub fn disconnect(&self, connection: &dyn Subscriber, reason: &str) {
        unimplemented!()
    }

    /// The connection has joined the conversation (after its membership was checked): it is shown who is online there.
    pub fn joined(&self, connection: &Arc<dyn Subscriber>, conversation: ConversationId) {
        unimplemented!()
    }

    /// A client's hint about its own presence (`user_online`).
    pub fn presence_hint(&self, actor: &Actor, online: bool) {
        unimplemented!()
    }

    /// Whether the user has a connection, and when it was last seen.
    pub async fn presence(&self, user: &UserId) -> Result<(bool, Option<Millis>), Refusal> {
        unimplemented!()
    }

    /// The present participant's row and the conversation; `not_found` for everybody else. Admins (token role) may read every
    /// conversation but personal ones: for them the member row may be absent.
    pub async fn authorize_read(&self, actor: &Actor, conversation: ConversationId) -> Result<(ConversationRow, Option<MemberRow>), Refusal> {
        unimplemented!()
    }

    /// The head for this user, if the conversation is warm (no read).
    pub fn head(&self, conversation: ConversationId, user: &UserId) -> Option<Head> {
        unimplemented!()
    }

    /// The key of the conversation at the address, probed against collisions.
    pub async fn locate(&self, address: &Address) -> Result<ConversationId, Refusal> {
        unimplemented!()
    }

    /// The key of the user's personal conversation (its seqs are the `me` stream).
    pub async fn personal(&self, user: &UserId) -> Result<ConversationId, Refusal> {
        unimplemented!()
    }

    /// The user's list of conversations.
    pub async fn inbox_row(&self, user: &UserId, conversation: ConversationId) -> Result<Option<InboxRow>, Refusal> {
        unimplemented!()
    }

    /// The first authenticated request of a user makes an empty profile. Cheap for users seen before by this process.
    pub async fn see_user(&self, user: &UserId) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// Runs a plugin's route, outside any turn; what it writes commits in the plugin's own conversation.
    pub async fn http(&self, actor: Actor, trace_id: String, plugin: &PluginId, request: HttpRequest) -> Result<HttpResponse, Refusal> {
        unimplemented!()
    }

    /// Failed deliveries above `after`.
    pub async fn failed_deliveries(&self, after: u64, limit: usize) -> Result<Vec<FailedDelivery>, Refusal> {
        unimplemented!()
    }

    /// Tries a failed delivery once more; it is forgotten when that works.
    pub async fn replay_delivery(&self, id: u64) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// Forgets a failed delivery.
    pub async fn drop_delivery(&self, id: u64) -> Result<bool, Refusal> {
        unimplemented!()
    }

    /// Answers every conversation's views directly; reads only.
    pub fn store(&self) -> &SharedStore {
        unimplemented!()
    }

    /// The connections.
    pub fn hub(&self) -> &Hub {
        unimplemented!()
    }

    /// The active plugins.
    pub fn hooks(&self) -> &Arc<dyn Hooks> {
        unimplemented!()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        unimplemented!()
    }

    /// The wall clock.
    pub fn now(&self) -> Millis {
        unimplemented!()
    }

    /// How firmly it serves.
    pub fn health(&self) -> Health {
        unimplemented!()
    }

    /// Finishes what is staged, stops feeds and lanes, saves cursors. Commands after it are `unavailable`.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
