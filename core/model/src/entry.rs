//! One row of the log and what commits with it.

use minicbor::{Decode, Encode};

use crate::{Address, CommandId, Content, ConversationId, Event, MessageId, Micros, Millis, PluginId, Seq, UserId};

/// One row of a shard's log. Views are a function of it alone; its position is its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Strictly increasing per shard.
    pub ts: Micros,
    /// The wall clock that people see; equal for all entries of one transaction.
    pub at: Millis,
    /// Whose log it belongs to.
    pub conversation: ConversationId,
    /// Its place in the conversation, 0 for events without one.
    pub seq: Seq,
    /// Number of countable messages of the conversation up to and with this entry.
    pub n: u32,
    /// Who did it; `None` is the server itself. A plugin acts as `plugin:<id>`.
    pub actor: Option<UserId>,
    /// The command it came from, when a retry must be recognised.
    pub command: Option<CommandId>,
    /// Digest of what the client sent with `command`: the same id with another digest is a misuse.
    pub digest: u64,
    /// The plugins that led to it, oldest first; empty for a client's own.
    pub origin: Vec<PluginId>,
    /// What happened.
    pub event: Event,
    /// What commits with it.
    pub effects: Effects,
    /// Message text has been erased from it.
    pub redacted: bool,
}

/// What an entry changes besides saying what happened: absolute values, at most one per key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Effects {
    /// Changes of plugin kv. Conversation scope unless the entry's conversation is an [`Address::Kv`] part.
    #[n(0)]
    pub kv: Vec<KvChange>,
    /// Timers set or cancelled.
    #[n(1)]
    pub timers: Vec<TimerChange>,
    /// What is for other conversations; delivered after the commit, in order per target.
    #[n(2)]
    pub outgoing: Vec<OutgoingItem>,
    /// What an own send did to the actor's marks.
    #[n(3)]
    pub mark: Option<MarkChange>,
    /// Global kv reservations, in [`Address::Kv`] parts only.
    #[n(4)]
    pub reservations: Vec<Reservation>,
    /// The answer of a plugin command, JSON text: a retry gets it again.
    #[n(5)]
    pub answer: Option<String>,
}

impl Effects {
    /// Nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.kv.is_empty()
            && self.timers.is_empty()
            && self.outgoing.is_empty()
            && self.mark.is_none()
            && self.reservations.is_empty()
            && self.answer.is_none()
    }
}

/// A user's marks in one conversation, absolute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct MarkChange {
    /// Delivered up to here.
    #[n(0)]
    pub delivered_seq: Seq,
    /// Read up to here.
    #[n(1)]
    pub read_seq: Seq,
    /// `n` of the entry at `read_seq`.
    #[n(2)]
    pub read_n: u32,
    /// The user's own countable messages above `read_n`.
    #[n(3)]
    pub own: u32,
}

/// One key of plugin kv.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KvChange {
    /// Whose key.
    #[n(0)]
    pub plugin: PluginId,
    /// At most `limits.kv_key_bytes_max`.
    #[n(1)]
    pub key: String,
    /// `None` deletes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub value: Option<Vec<u8>>,
    /// From then on the key reads as absent.
    #[n(3)]
    pub expires_at: Option<Millis>,
}

/// A timer of a plugin in the entry's conversation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct TimerChange {
    /// Whose timer.
    #[n(0)]
    pub plugin: PluginId,
    /// Setting the same name again replaces it.
    #[n(1)]
    pub name: String,
    /// When it is due; `None` removes it (cancelled or fired).
    #[n(2)]
    pub due: Option<Millis>,
    /// Handed to the handler; JSON by convention.
    #[n(3)]
    pub payload: String,
}

/// An [`Outgoing`] with where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct OutgoingItem {
    /// Whose turn it enters.
    #[n(0)]
    pub to: Address,
    /// What it does there.
    #[n(1)]
    pub what: Outgoing,
    /// The plugins that led to it, oldest first: with the one that asked for it, if a plugin did.
    #[n(2)]
    pub origin: Vec<PluginId>,
}

/// What an entry of one conversation asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Outgoing {
    /// A message by `sender`; before-hooks run.
    #[n(0)]
    Message {
        /// The plugin's own user (`plugin:<id>`) or the user it speaks for.
        #[n(0)]
        sender: UserId,
        /// What it says.
        #[n(1)]
        content: Content,
        /// The id that it is stored under, which the plugin has been told.
        #[n(2)]
        command: CommandId,
    },
    /// An event of a personal conversation: membership, notification, block list.
    #[n(1)]
    Personal(#[n(0)] Event),
    /// Changes of global kv.
    #[n(2)]
    Kv(#[n(0)] Vec<KvChange>),
    /// The reservation of `keys` by `holder` becomes permanent.
    #[n(3)]
    Keep {
        /// Whose keys.
        #[n(0)]
        plugin: PluginId,
        /// Which keys, all in one part of the kv.
        #[n(1)]
        keys: Vec<String>,
        /// The command that reserved them.
        #[n(2)]
        holder: CommandId,
    },
    /// The keys are free again, if `holder` (or, when `None`, anybody of the plugin) has them.
    #[n(4)]
    Release {
        /// Whose keys.
        #[n(0)]
        plugin: PluginId,
        /// Which keys, all in one part of the kv.
        #[n(1)]
        keys: Vec<String>,
        /// Only what this command holds.
        #[n(2)]
        holder: Option<CommandId>,
    },
    /// Get or create the conversation at the address with these participants and state.
    #[n(5)]
    Conversation {
        /// Its first participants.
        #[n(0)]
        participants: Vec<UserId>,
        /// Its name or title.
        #[n(1)]
        name: Option<String>,
        /// Its state, one JSON object as text.
        #[n(2)]
        state: Option<String>,
    },
    /// Adds to the number at a key of global kv.
    #[n(6)]
    Add {
        /// Whose key.
        #[n(0)]
        plugin: PluginId,
        /// Which key.
        #[n(1)]
        key: String,
        /// How much.
        #[n(2)]
        by: i64,
    },
}

/// One key of global kv that a command holds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Reservation {
    /// Whose key.
    #[n(0)]
    pub plugin: PluginId,
    /// Which key.
    #[n(1)]
    pub key: String,
    /// What it is now; `None`: nobody holds it.
    #[n(2)]
    pub state: Option<ReservationState>,
}

/// Who holds a key of global kv, and how firmly.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ReservationState {
    /// The command that reserved it.
    #[n(0)]
    pub holder: CommandId,
    /// The conversation in whose turn the holder runs: its shard can settle the outcome.
    #[n(1)]
    pub conversation: ConversationId,
    /// The value given with `reserve`.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub value: Vec<u8>,
    /// When it was reserved.
    #[n(3)]
    pub since: Millis,
    /// The holder's transaction has committed.
    #[n(4)]
    pub kept: bool,
}

/// What reaches a participant who is not looking. Holds no text of a message: a preview is joined when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Notification {
    /// `MESSAGE_RECEIVED`, `CHAT_CREATED`, …
    #[n(0)]
    pub topic: String,
    /// A line for people.
    #[n(1)]
    pub title: String,
    /// The text; when empty, the present text of `message` stands here on reading.
    #[n(2)]
    pub body: String,
    /// Any JSON value as text.
    #[n(3)]
    pub data: Option<String>,
    /// The message it is about.
    #[n(4)]
    pub message: Option<MessageId>,
    /// The plugin that made it.
    #[n(5)]
    pub plugin: Option<PluginId>,
    /// A later notification with the same key replaces an unread earlier one (batching).
    #[n(6)]
    pub collapse: Option<String>,
}
