//! The log and its views.
//!
//! A [`Store`] keeps, per shard, one append-only log of [`Entry`]s: appending a batch of whole transactions is one atomic,
//! durable step, and that step decides. Everything the [`Views`] answer is a function of the log's entries; the
//! [`Cursors`] are state beside it. Back ends: [`embedded`] (SQLite, one machine) and [`memory`] (tests, testkit). One
//! conformance suite, `suite` (a feature), is their contract; [`decorate`] wraps any of them.
//!
//! Reading your writes: an entry is in every answer of the views from the moment its `append` has returned.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use async_trait::async_trait;
use haggle_model::{
    Address, CommandId, Content, ConversationId, ConversationKind, Entry, Event, MarkChange, MessageId, Micros, Millis, Notification, PluginId, Pos,
    Profile, ReservationState, Role, Seq, Shard, UserId,
};

pub mod decorate;
pub mod embedded;
mod error;
pub mod memory;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::{AppendError, StoreError};
pub use memory::MemoryStore;

/// A store that can be shared.
pub type SharedStore = Arc<dyn Store>;

/// Everything the engine needs of a back end.
pub trait Store: Log + Views + Cursors {}
impl<T: Log + Views + Cursors> Store for T {}

/// Where a shard's log ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Position of the last entry; 0 when there is none.
    pub pos: Pos,
    /// Its `ts`.
    pub ts: Micros,
}

/// How firmly an ack holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `fdatasync` has returned.
    Synced,
    /// A quorum has it in its synced commit log.
    Quorum,
    /// A quorum has it in memory.
    QuorumInMemory,
    /// Only this process has it (tests).
    Memory,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Synced => "synced",
            Durability::Quorum => "quorum",
            Durability::QuorumInMemory => "quorum in memory",
            Durability::Memory => "memory",
        })
    }
}

/// The durable log of one shard after another. The turn finds duplicates, the lane gives positions and seqs; the store keeps.
#[async_trait]
pub trait Log: Send + Sync {
    /// How many shards there are; chosen when the store was made.
    fn shards(&self) -> u16;

    /// What an ack of this store means.
    fn durability(&self) -> Durability;

    /// The secret from which conversation keys are derived; made once, with the store.
    async fn installation_secret(&self) -> Result<[u8; 32], StoreError>;

    /// Where the shard's log ends.
    async fn tail(&self, shard: Shard) -> Result<Tail, StoreError>;

    /// Appends `entries` after `tail` at the positions `tail.pos + 1 …`, all or nothing; durable on return.
    ///
    /// `ts` must increase strictly from `tail.ts`. Waits while too much is appended and not yet applied to the views.
    async fn append(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError>;

    /// A page of the entries after `after`, ascending: at most `limit`, and fewer where a store bounds a page by its bytes. Only an
    /// empty one says that the log ends there. Checksums are verified: a damaged row is [`StoreError::Corrupt`].
    async fn read(&self, shard: Shard, after: Pos, limit: usize) -> Result<Vec<(Pos, Arc<Entry>)>, StoreError>;

    /// Makes the log writable again after a failed append: reopens it and re-reads its end.
    async fn recover(&self, shard: Shard) -> Result<Tail, StoreError>;

    /// Blanks the text of messages that were deleted for all before `deleted_before` (wall clock): every created and edited
    /// entry of each, in the log itself, at most `limit` messages. Returns how many were erased; ends with no trace of them
    /// in any file of the store.
    async fn erase_deleted(&self, deleted_before: Millis, limit: usize) -> Result<usize, StoreError>;
}

/// A conversation as the log left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationRow {
    /// Its key.
    pub id: ConversationId,
    /// What the key was hashed from.
    pub address: Address,
    /// Who made it.
    pub creator: Option<UserId>,
    /// Name or title.
    pub name: Option<String>,
    /// Picture.
    pub avatar: Option<String>,
    /// State its owner keeps for clients: one JSON object as text.
    pub state: Option<String>,
    /// No more messages by users.
    pub closed: bool,
    /// When it was created.
    pub created_at: Millis,
    /// When something with a seq last happened.
    pub updated_at: Millis,
    /// Seq of the last event.
    pub head: Seq,
    /// Countable messages so far.
    pub head_n: u32,
    /// Seq of the newest countable message that is not deleted; 0 when there is none.
    pub last_message: Seq,
    /// When that message was created; `created_at` when there is none.
    pub last_message_at: Millis,
    /// Present participants.
    pub participants: u32,
    /// In a direct conversation: who blocks the other one.
    pub blocked_by: Vec<UserId>,
}

impl ConversationRow {
    /// The kind, given by the address.
    pub fn kind(&self) -> ConversationKind {
        self.address.kind()
    }
}

/// A user's place in a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// Who.
    pub user: UserId,
    /// The role.
    pub role: Role,
    /// Seq of the (last) joined event.
    pub joined_seq: Seq,
    /// When that was.
    pub joined_at: Millis,
    /// Seq of the left event, when the user is not in any more.
    pub left_seq: Option<Seq>,
    /// The marks; merged by maximum from the entries.
    pub mark: MarkChange,
}

impl MemberRow {
    /// The place of a reader in a broadcast, of which nobody is a member: the marks come from the reader's personal conversation
    /// ([`Event::BroadcastMarked`]), `own` is counted from what it has sent there.
    pub fn of_reader(user: &UserId, broadcast: &ConversationRow, mark: MarkChange) -> MemberRow {
        MemberRow {
            user: user.clone(),
            role: Role::Member,
            joined_seq: 0,
            joined_at: broadcast.created_at,
            left_seq: None,
            mark,
        }
    }
}

/// Broadcasts that an installation has at most: every list reads them all. A constant, not a setting, so that no list grows
/// beyond what was tried.
pub const BROADCASTS_MAX: usize = 200;

/// A message in its present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// Who sent it.
    pub sender: UserId,
    /// The present content; of a deleted message only the kind is left.
    pub content: Content,
    /// `n` of its creation.
    pub n: u32,
    /// When it was created.
    pub created_at: Millis,
    /// Seq of the last change that this state includes.
    pub rev: Seq,
    /// When its text last changed.
    pub edited_at: Option<Millis>,
    /// When it was deleted for all.
    pub deleted_at: Option<Millis>,
    /// Reactions, one per user, ordered by user.
    pub reactions: Vec<(UserId, String)>,
    /// When it last changed in any way.
    pub updated_at: Millis,
    /// The id of the command that created it.
    pub command: Option<CommandId>,
}

/// A [`MessageRow`] that is lent: by a row, or by the event that created the message.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'a> {
    /// Its id.
    pub id: MessageId,
    /// Who sent it.
    pub sender: &'a UserId,
    /// The present content; of a deleted message only the kind is left.
    pub content: &'a Content,
    /// `n` of its creation.
    pub n: u32,
    /// When it was created.
    pub created_at: Millis,
    /// Seq of the last change that this state includes.
    pub rev: Seq,
    /// When its text last changed.
    pub edited_at: Option<Millis>,
    /// When it was deleted for all.
    pub deleted_at: Option<Millis>,
    /// Reactions, one per user, ordered by user.
    pub reactions: &'a [(UserId, String)],
    /// When it last changed in any way.
    pub updated_at: Millis,
    /// The id of the command that created it.
    pub command: Option<CommandId>,
}

impl<'a> MessageView<'a> {
    /// The message that a `message.created` entry makes.
    pub fn created(entry: &'a Entry) -> Option<MessageView<'a>> {
        let Event::MessageCreated(content) = &entry.event else { return None };
        Some(MessageView {
            id: entry.conversation.message(entry.seq),
            sender: sender_of(entry.actor.as_ref()),
            content,
            n: entry.n,
            created_at: entry.at,
            rev: entry.seq,
            edited_at: None,
            deleted_at: None,
            reactions: &[],
            updated_at: entry.at,
            command: entry.command,
        })
    }

    /// A row of its own.
    pub fn to_row(self) -> MessageRow {
        MessageRow {
            id: self.id,
            sender: self.sender.clone(),
            content: self.content.clone(),
            n: self.n,
            created_at: self.created_at,
            rev: self.rev,
            edited_at: self.edited_at,
            deleted_at: self.deleted_at,
            reactions: self.reactions.to_vec(),
            updated_at: self.updated_at,
            command: self.command,
        }
    }
}

impl MessageRow {
    /// The row, lent.
    pub fn view(&self) -> MessageView<'_> {
        MessageView {
            id: self.id,
            sender: &self.sender,
            content: &self.content,
            n: self.n,
            created_at: self.created_at,
            rev: self.rev,
            edited_at: self.edited_at,
            deleted_at: self.deleted_at,
            reactions: &self.reactions,
            updated_at: self.updated_at,
            command: self.command,
        }
    }
}

/// One event for replay. Created and edited events carry the message's present state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// Its place.
    pub seq: Seq,
    /// Countable messages up to it.
    pub n: u32,
    /// When it happened.
    pub at: Millis,
    /// Who did it.
    pub actor: Option<UserId>,
    /// The plugins that led to it.
    pub origin: Vec<PluginId>,
    /// The command it came from.
    pub command: Option<CommandId>,
    /// What happened; message content here is not authoritative, `message` is.
    pub event: Event,
    /// For events about a message: its present state.
    pub message: Option<MessageRow>,
}

/// A conversation in a user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxRow {
    /// The conversation.
    pub conversation: ConversationRow,
    /// The user's own place in it.
    pub member: MemberRow,
    /// What the user keeps about it.
    pub personal: PersonalRow,
    /// The user's unread messages.
    pub unread: u32,
}

/// What a user keeps about a conversation, seen by nobody else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersonalRow {
    /// When it was archived.
    pub archived_at: Option<Millis>,
    /// When it was last hidden ("deleted" by this user).
    pub hidden_at: Option<Millis>,
    /// Nothing up to this seq is shown.
    pub hidden_to: Seq,
    /// No notifications until then.
    pub muted_until: Option<Millis>,
}

/// Up to so many participants the steps of read marks are kept. A constant, not a setting: views depend on the log alone.
pub const ADVANCES_PARTICIPANTS_MAX: usize = 256;

/// Who stands as the sender of a message that the server itself wrote.
pub const SERVER_SENDER: &str = "system";

/// The sender of a message: the actor of its entry.
fn sender_of(actor: Option<&UserId>) -> &UserId {
    static SERVER: LazyLock<UserId> = LazyLock::new(|| UserId::from(SERVER_SENDER));
    actor.unwrap_or(&SERVER)
}

/// One step of a user's read mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvanceRow {
    /// Who read.
    pub user: UserId,
    /// Up to which seq.
    pub to_seq: Seq,
    /// When.
    pub at: Millis,
}

/// An answered command, as a retry finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRow {
    /// Its id.
    pub id: CommandId,
    /// Digest of what came in with it.
    pub digest: u64,
    /// Seq of the first sequenced entry it made; 0 when it made none.
    pub seq: Seq,
    /// When it took effect.
    pub at: Millis,
    /// The answer of a plugin command ([`haggle_model::Effects::answer`]).
    pub answer: Option<String>,
}

/// A key of plugin kv.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRow {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// When it ends; judged by who reads.
    pub expires_at: Option<Millis>,
}

/// A timer that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimerRow {
    /// Where it lives.
    pub conversation: ConversationId,
    /// Whose it is.
    pub plugin: PluginId,
    /// Its name.
    pub name: String,
    /// When it is due.
    pub due: Millis,
    /// For the handler.
    pub payload: String,
}

/// What is known of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRow {
    /// The id.
    pub id: UserId,
    /// The profile.
    pub profile: Profile,
    /// First seen.
    pub created_at: Millis,
    /// Last change of the profile.
    pub updated_at: Millis,
}

/// A stored notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotificationRow {
    /// (personal conversation, seq).
    pub id: MessageId,
    /// What it says.
    pub notification: Notification,
    /// Read by its user.
    pub read: bool,
    /// When it was made.
    pub created_at: Millis,
    /// When it was read or replaced.
    pub updated_at: Millis,
}

/// The present ones among them, without the user.
fn present_but(user: &UserId, members: Vec<MemberRow>) -> Vec<UserId> {
    let others = members.into_iter().filter(|member| member.left_seq.is_none() && member.user != *user);
    others.map(|member| member.user).collect()
}

/// Members that one read brings when a conversation is loaded.
const MEMBERS_LOADED_AT_ONCE: usize = 500;

/// Which messages of a conversation a page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The newest, descending.
    Newest,
    /// Below this seq, descending.
    Before(Seq),
    /// Above this seq, ascending.
    After(Seq),
}

/// Which conversations a list of a user holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InboxQuery {
    /// `Some(true)`: only archived ones; `Some(false)`: only those not archived; `None`: all.
    pub archived: Option<bool>,
    /// Continue below this (`last_message_at`, id).
    pub before: Option<(Millis, ConversationId)>,
    /// At most so many.
    pub limit: usize,
}

/// What the state of a conversation in memory is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// The conversation, if it was ever created. Where it was not, only `head` is filled.
    pub conversation: Option<ConversationRow>,
    /// Seq of the last event and countable messages so far.
    pub head: (Seq, u32),
    /// Commands answered lately, newest first.
    pub commands: Vec<CommandRow>,
    /// Members present and past, with the numbers of their own messages above their mark.
    pub members: Vec<(MemberRow, Vec<u32>)>,
    /// Deleted countable messages above the lowest mark: (n, sender), ascending.
    pub deleted: Vec<(u32, UserId)>,
}

/// What the log's entries add up to. Pages end before the first missing seq.
#[async_trait]
pub trait Views: Send + Sync {
    /// Everything that a conversation's state in memory is made of; commands answered at or after `since`, at most `commands_max`.
    ///
    /// A store that answers several questions at once cheaper than one after the other has its own way.
    async fn load(&self, id: ConversationId, since: Millis, commands_max: usize) -> Result<Loaded, StoreError> {
        let Some(row) = self.conversation(id).await? else {
            let head = self.head(id).await?.unwrap_or_default();
            return Ok(Loaded { head, ..Loaded::default() });
        };
        let commands = self.commands(id, since, commands_max).await?;
        let mut members: Vec<(MemberRow, Vec<u32>)> = Vec::new();
        loop {
            let page = self
                .members(id, members.last().map(|(last, _)| &last.user), MEMBERS_LOADED_AT_ONCE)
                .await?;
            let full = page.len() == MEMBERS_LOADED_AT_ONCE;
            for member in page {
                let own = match member.mark.own {
                    0 => Vec::new(),
                    _ => self.own_numbers(id, &member.user, member.mark.read_n).await?,
                };
                members.push((member, own));
            }
            if !full {
                break;
            }
        }
        let lowest = members.iter().map(|(member, _)| member.mark.read_n).min().unwrap_or(row.head_n);
        let deleted = self.deleted(id, lowest).await?;
        let head = (row.head, row.head_n);
        Ok(Loaded {
            conversation: Some(row),
            head,
            commands,
            members,
            deleted,
        })
    }

    /// The conversation, if it was ever created.
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, StoreError>;

    /// Seq of the last event and countable messages so far, of any conversation with events: also of those that were never
    /// created explicitly (personal, plugin).
    async fn head(&self, id: ConversationId) -> Result<Option<(Seq, u32)>, StoreError>;

    /// The user's place, present or past.
    async fn member(&self, id: ConversationId, user: &UserId) -> Result<Option<MemberRow>, StoreError>;

    /// Members present and past, ordered by user id, after `after`.
    async fn members(&self, id: ConversationId, after: Option<&UserId>, limit: usize) -> Result<Vec<MemberRow>, StoreError>;

    /// Commands answered at or after `since`, newest first.
    async fn commands(&self, id: ConversationId, since: Millis, limit: usize) -> Result<Vec<CommandRow>, StoreError>;

    /// One command, however old, as long as the store knows it (7 days at least).
    async fn command(&self, id: ConversationId, command: CommandId) -> Result<Option<CommandRow>, StoreError>;

    /// `n` of the user's own countable messages above `above_n`, ascending: of all of them, deleted ones too.
    async fn own_numbers(&self, id: ConversationId, user: &UserId, above_n: u32) -> Result<Vec<u32>, StoreError>;

    /// Deleted countable messages with `n` above `above_n`: (n, sender), ascending.
    async fn deleted(&self, id: ConversationId, above_n: u32) -> Result<Vec<(u32, UserId)>, StoreError>;

    /// Events after `after`, ascending, at most `limit`, messages in their present state.
    async fn events(&self, id: ConversationId, after: Seq, limit: usize) -> Result<Vec<EventRow>, StoreError>;

    /// A page of messages. With a viewer, without those the viewer has deleted for itself or hidden.
    async fn messages(&self, id: ConversationId, page: Page, limit: usize, viewer: Option<&UserId>) -> Result<Vec<MessageRow>, StoreError>;

    /// One message in its present state.
    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>, StoreError>;

    /// Whether the user has deleted the message for itself (or hidden the conversation up to it).
    async fn is_hidden(&self, user: &UserId, id: MessageId) -> Result<bool, StoreError>;

    /// Steps of read marks that reach `from_seq` or further, oldest first.
    async fn advances(&self, id: ConversationId, from_seq: Seq, limit: usize) -> Result<Vec<AdvanceRow>, StoreError>;

    /// What the user keeps about the conversation.
    async fn personal(&self, user: &UserId, id: ConversationId) -> Result<PersonalRow, StoreError>;

    /// Keys of broadcasts, at most `limit`, in no order: an index of its own, never a search among all conversations.
    async fn broadcasts(&self, limit: usize) -> Result<Vec<ConversationId>, StoreError>;

    /// The user's conversations (direct, group, context where it is a present member; every broadcast; shown), by last message,
    /// newest first.
    async fn inbox(&self, user: &UserId, query: InboxQuery) -> Result<Vec<InboxRow>, StoreError>;

    /// One row of that list, hidden or not, present member or not. In a broadcast everybody has a place
    /// ([`MemberRow::of_reader`]).
    async fn inbox_row(&self, user: &UserId, id: ConversationId) -> Result<Option<InboxRow>, StoreError>;

    /// Who is told that the user came or went: of the `conversations_max` newest in the user's list, the present members among the
    /// first `members_max`, without the user. Broadcasts have no members, and where somebody blocks the other nobody is told.
    async fn companions(
        &self,
        user: &UserId,
        conversations_max: usize,
        members_max: usize,
    ) -> Result<Vec<(ConversationId, Vec<UserId>)>, StoreError> {
        let newest = InboxQuery {
            limit: conversations_max,
            ..InboxQuery::default()
        };
        let mut companions = Vec::new();
        for row in self.inbox(user, newest).await? {
            let InboxRow { conversation, .. } = row;
            if conversation.kind() != ConversationKind::Broadcast && conversation.blocked_by.is_empty() {
                let members = self.members(conversation.id, None, members_max).await?;
                companions.push((conversation.id, present_but(user, members)));
            }
        }
        Ok(companions)
    }

    /// A key of plugin kv; the scope is the conversation (an [`Address::Kv`] part for global kv). Expired keys are returned too.
    async fn kv_get(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<KvRow>, StoreError>;

    /// Keys with a prefix, ascending, after `after`.
    async fn kv_list(
        &self,
        scope: ConversationId,
        plugin: &PluginId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KvRow>, StoreError>;

    /// Who holds a key of global kv.
    async fn reservation(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<ReservationState>, StoreError>;

    /// Timers due at or before `until`, earliest first.
    async fn timers_due(&self, shard: Shard, until: Millis, limit: usize) -> Result<Vec<TimerRow>, StoreError>;

    /// A timer that is set.
    async fn timer(&self, id: ConversationId, plugin: &PluginId, name: &str) -> Result<Option<TimerRow>, StoreError>;

    /// The user, if it ever had a profile.
    async fn user(&self, user: &UserId) -> Result<Option<UserRow>, StoreError>;

    /// Users that this one blocks, ordered.
    async fn blocks(&self, user: &UserId) -> Result<Vec<UserId>, StoreError>;

    /// Notifications below `before` (a seq of the personal conversation), newest first.
    async fn notifications(&self, user: &UserId, before: Option<Seq>, unread_only: bool, limit: usize) -> Result<Vec<NotificationRow>, StoreError>;

    /// One notification of the user.
    async fn notification(&self, user: &UserId, seq: Seq) -> Result<Option<NotificationRow>, StoreError>;

    /// How many notifications are unread.
    async fn notifications_unread(&self, user: &UserId) -> Result<u32, StoreError>;

    /// Throws every view away and makes it again from the log.
    async fn rebuild_views(&self) -> Result<(), StoreError>;
}

/// A conversation that a consumer has passed and must catch up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub conversation: ConversationId,
    /// Position of the first entry not done.
    pub from: Pos,
}

/// How far a consumer has read a shard's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Everything up to here is done, but for what is held.
    pub pos: Pos,
    /// At most `HELD_MAX`.
    pub held: Vec<Held>,
}

/// Conversations a cursor may hold; a consumer with more is parked.
pub const HELD_MAX: usize = 1_000;

/// Something a feed could not deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedDelivery {
    /// Given by the store; 0 when it is new.
    pub id: u64,
    /// The consumer: `after:<plugin>`, `outgoing`, `timer`.
    pub consumer: String,
    /// Where the entry stands.
    pub shard: Shard,
    /// Where the entry stands.
    pub pos: Pos,
    /// Which outgoing item of the entry.
    pub index: u32,
    /// The conversation of the entry.
    pub conversation: ConversationId,
    /// How often it was tried.
    pub attempts: u32,
    /// The last error; no contents.
    pub error: String,
    /// When it was given up.
    pub at: Millis,
    /// What the consumer needs to try again when the entry alone does not say it (timers).
    pub payload: Vec<u8>,
}

/// State beside the log: cursors of consumers, failed deliveries, when users were last seen.
#[async_trait]
pub trait Cursors: Send + Sync {
    /// Every consumer's cursor in the shard.
    async fn cursors(&self, shard: Shard) -> Result<Vec<(String, Cursor)>, StoreError>;

    /// Saves cursors; durable on return.
    async fn save_cursors(&self, shard: Shard, cursors: Vec<(String, Cursor)>) -> Result<(), StoreError>;

    /// Keeps a failed delivery and gives it an id. The same (consumer, shard, pos, index) again replaces it.
    async fn add_failed(&self, failed: FailedDelivery) -> Result<u64, StoreError>;

    /// Failed deliveries above `after`, ascending by id.
    async fn failed(&self, after: u64, limit: usize) -> Result<Vec<FailedDelivery>, StoreError>;

    /// How many there are.
    async fn failed_count(&self) -> Result<u64, StoreError>;

    /// Forgets one; `false` when there was none.
    async fn remove_failed(&self, id: u64) -> Result<bool, StoreError>;

    /// Remembers when users were last seen; later wins.
    async fn save_last_seen(&self, seen: Vec<(UserId, Millis)>) -> Result<(), StoreError>;

    /// When the user was last seen.
    async fn last_seen(&self, user: &UserId) -> Result<Option<Millis>, StoreError>;
}
