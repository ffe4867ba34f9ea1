//! What happened: the closed set of events of a conversation's log.

use minicbor::{Decode, Encode};

use crate::{Address, CommandId, ConversationId, MessageId, Millis, Notification, PluginId, Seq, UserId};

/// How a conversation came to be and who may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ConversationKind {
    /// Two users.
    #[n(0)]
    Direct,
    /// A named set of users with admins.
    #[n(1)]
    Group,
    /// Bound to something outside: a booking, a contract, an order.
    #[n(2)]
    Context,
    /// One log that every user reads.
    #[n(3)]
    Broadcast,
    /// The log of one user (or plugin) alone.
    #[n(4)]
    Personal,
}

impl ConversationKind {
    /// The word that clients, manifests and metrics see.
    pub fn as_str(self) -> &'static str {
        match self {
            ConversationKind::Direct => "direct",
            ConversationKind::Group => "group",
            ConversationKind::Context => "context",
            ConversationKind::Broadcast => "broadcast",
            ConversationKind::Personal => "personal",
        }
    }
}

/// A participant's role in one conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// Reads and writes.
    #[default]
    #[n(0)]
    Member,
    /// Also updates, adds, removes, sets roles and deletes any message.
    #[n(1)]
    Admin,
}

impl Role {
    /// `member` or `admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Member => "member",
            Role::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Role, ()> {
        match text {
            "member" => Ok(Role::Member),
            "admin" => Ok(Role::Admin),
            _ => Err(()),
        }
    }
}

/// The plugin version that decided a message in its before-hook.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Decider {
    /// The plugin.
    #[n(0)]
    pub plugin: PluginId,
    /// Its manifest's version.
    #[n(1)]
    pub version: String,
    /// The first 8 bytes of the SHA-256 of its code.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub digest: [u8; 8],
}

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Content {
    /// `text`, `image`, `service_offer` … A kind that is not built in must be claimed by an active plugin.
    #[n(0)]
    pub kind: String,
    /// The text, byte-exact as sent. Escaping for HTML is the display's job.
    #[n(1)]
    pub text: String,
    /// One JSON object as text, numbers as sent.
    #[n(2)]
    pub metadata: Option<String>,
    /// The message this one answers.
    #[n(3)]
    pub reply_to: Option<MessageId>,
    /// The message this one repeats; the sender could read it.
    #[n(4)]
    pub forwarded_from: Option<MessageId>,
    /// The sender's own id of it.
    #[n(5)]
    pub client_id: Option<String>,
    /// Counts as unread. Fixed at creation.
    #[n(6)]
    pub countable: bool,
    /// Who decided it, in the order of the hooks.
    #[n(7)]
    pub decided_by: Vec<Decider>,
    /// Of an edit: the text is as it was, so the message does not count as edited.
    #[n(8)]
    #[cbor(default)]
    pub silent: bool,
    /// Roles of the token it was sent with, for after-hooks, which run without one; at most [`SENDER_ROLES_MAX`]. Clients are
    /// not shown them.
    #[n(9)]
    #[cbor(default)]
    pub sender_roles: Vec<String>,
}

/// Roles of a sender that are kept with a message.
pub const SENDER_ROLES_MAX: usize = 8;
/// Bytes of one of them; longer ones are not kept.
pub const SENDER_ROLE_BYTES_MAX: usize = 64;

/// The first entry of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ConversationCreated {
    /// What its key was hashed from.
    #[n(0)]
    pub address: Address,
    /// Who made it.
    #[n(1)]
    pub creator: Option<UserId>,
    /// A group's name or a context's title.
    #[n(2)]
    pub name: Option<String>,
    /// `http(s):` or a path on this server.
    #[n(3)]
    pub avatar: Option<String>,
    /// State that its owner keeps for clients: one JSON object as text.
    #[n(4)]
    pub state: Option<String>,
}

/// A change of what a conversation says about itself; `None` leaves a field as it is, `Some("")` clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct ConversationUpdate {
    /// The new name.
    #[n(0)]
    pub name: Option<String>,
    /// The new avatar.
    #[n(1)]
    pub avatar: Option<String>,
    /// The new state: one JSON object as text.
    #[n(2)]
    pub state: Option<String>,
}

/// What is known of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Profile {
    /// The display name.
    #[n(0)]
    pub name: Option<String>,
    /// `http(s):` or a path on this server.
    #[n(1)]
    pub avatar: Option<String>,
    /// Roles kept for display and plugins. The roles of a request come from its token only.
    #[n(2)]
    pub roles: Vec<String>,
    /// One JSON object as text: `servicePackages`, `timeZone`, …
    #[n(3)]
    pub attributes: Option<String>,
    /// One JSON object as text, the user's own settings.
    #[n(4)]
    pub preferences: Option<String>,
}

/// One thing that happened in a conversation.
///
/// Events with a place in the order have a [`Seq`](crate::Seq) in their entry; [`Event::Marked`],
/// [`Event::BroadcastMarked`], [`Event::Effects`], [`Event::Void`], [`Event::Owner`] and [`Event::Noop`] have none.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Event {
    /// Fills a position; nothing happened.
    #[n(0)]
    Noop,
    /// The first event of every conversation.
    #[n(1)]
    ConversationCreated(#[n(0)] ConversationCreated),
    /// Name, avatar or state changed.
    #[n(2)]
    ConversationUpdated(#[n(0)] ConversationUpdate),
    /// No more messages by users.
    #[n(3)]
    ConversationClosed(#[n(0)] Option<String>),
    /// Open again.
    #[n(4)]
    ConversationReopened,
    /// `user` is in from this seq on; its read mark starts at this entry's `n`.
    #[n(5)]
    ParticipantJoined {
        /// Who joined.
        #[n(0)]
        user: UserId,
        /// With which role.
        #[n(1)]
        role: Role,
    },
    /// The last event that `user` gets.
    #[n(6)]
    ParticipantLeft {
        /// Who left; the actor of the entry is who did it.
        #[n(0)]
        user: UserId,
    },
    /// A new role.
    #[n(7)]
    ParticipantUpdated {
        /// Whose.
        #[n(0)]
        user: UserId,
        /// The new role.
        #[n(1)]
        role: Role,
    },
    /// A message; its id is (conversation, seq of this entry), its sender the entry's actor.
    #[n(8)]
    MessageCreated(#[n(0)] Content),
    /// The message's new content, whole (`countable` and `client_id` stay those of the creation).
    #[n(9)]
    MessageEdited {
        /// Seq of the creation.
        #[n(0)]
        target: Seq,
        /// The new content.
        #[n(1)]
        content: Content,
    },
    /// Deleted for all.
    #[n(10)]
    MessageDeleted {
        /// Seq of the creation.
        #[n(0)]
        target: Seq,
        /// Who had sent it.
        #[n(1)]
        sender: UserId,
        /// Its `n`; 0 when it was not countable.
        #[n(2)]
        n: u32,
    },
    /// `user`'s reaction to a message; replaces an earlier one of that user.
    #[n(11)]
    ReactionAdded {
        /// Seq of the message.
        #[n(0)]
        target: Seq,
        /// Who reacts.
        #[n(1)]
        user: UserId,
        /// At most 32 bytes.
        #[n(2)]
        emoji: String,
    },
    /// `user`'s reaction is gone.
    #[n(12)]
    ReactionRemoved {
        /// Seq of the message.
        #[n(0)]
        target: Seq,
        /// Whose.
        #[n(1)]
        user: UserId,
    },
    /// In a direct conversation: `by` blocks the other user.
    #[n(13)]
    UserBlocked {
        /// Who blocks.
        #[n(0)]
        by: UserId,
    },
    /// The block by `by` ends.
    #[n(14)]
    UserUnblocked {
        /// Who had blocked.
        #[n(0)]
        by: UserId,
    },
    /// Defined by a plugin; seen by all participants.
    #[n(15)]
    Custom {
        /// `x.` and a name that starts with the plugin's id.
        #[n(0)]
        name: String,
        /// Any JSON value as text.
        #[n(1)]
        payload: String,
    },
    /// `user`'s marks, absolute; merged by maximum. No seq.
    #[n(16)]
    Marked {
        /// Whose marks.
        #[n(0)]
        user: UserId,
        /// The new marks.
        #[n(1)]
        mark: crate::MarkChange,
    },

    /// Personal: the user joined a conversation (or it was made with them).
    #[n(20)]
    MembershipStarted(#[n(0)] ConversationId),
    /// Personal: the user left it or was removed.
    #[n(21)]
    MembershipEnded(#[n(0)] ConversationId),
    /// Personal: archived or not.
    #[n(22)]
    ConversationArchived {
        /// Which.
        #[n(0)]
        conversation: ConversationId,
        /// `false` ends it.
        #[n(1)]
        archived: bool,
    },
    /// Personal: hidden up to this seq; a later message brings it back.
    #[n(23)]
    ConversationHidden {
        /// Which.
        #[n(0)]
        conversation: ConversationId,
        /// Nothing up to here is shown again.
        #[n(1)]
        to_seq: Seq,
    },
    /// Personal: deleted for me.
    #[n(24)]
    MessageHidden(#[n(0)] MessageId),
    /// Personal: no notifications from it until then (`None`: again from now).
    #[n(25)]
    ConversationMuted {
        /// Which.
        #[n(0)]
        conversation: ConversationId,
        /// Until when; `Millis::MAX` is for ever.
        #[n(1)]
        until: Option<Millis>,
    },
    /// Personal: the whole new profile.
    #[n(26)]
    ProfileUpdated(#[n(0)] Profile),
    /// Personal: a notification; its id is (personal conversation, seq).
    #[n(27)]
    Notified(#[n(0)] Notification),
    /// Personal: these notifications (seqs of the personal conversation) are read.
    #[n(28)]
    NotificationsRead(#[n(0)] Vec<Seq>),
    /// Personal: every notification up to this seq is read.
    #[n(29)]
    AllNotificationsRead(#[n(0)] Seq),
    /// Personal: `user` is (no longer) blocked by me; mirrors [`Event::UserBlocked`] for the list of blocks.
    #[n(30)]
    BlockListed {
        /// The other one.
        #[n(0)]
        user: UserId,
        /// `false` ends it.
        #[n(1)]
        blocked: bool,
    },

    /// Personal: the reader's marks in a broadcast, absolute; merged by maximum. No seq. `own` is not kept here (0): what the
    /// reader has sent there is counted from the broadcast itself.
    #[n(31)]
    BroadcastMarked {
        /// The broadcast.
        #[n(0)]
        conversation: ConversationId,
        /// The new marks.
        #[n(1)]
        mark: crate::MarkChange,
    },

    /// Only effects. No seq.
    #[n(40)]
    Effects,
    /// The command with this id can never be staged any more. No seq.
    #[n(41)]
    Void(#[n(0)] CommandId),
    /// A node took over the shard. No seq.
    #[n(42)]
    Owner(#[n(0)] String),
}

impl Event {
    /// The event's name on every interface, `message.created` for example.
    pub fn name(&self) -> &str {
        match self {
            Event::Noop => "noop",
            Event::ConversationCreated(_) => "conversation.created",
            Event::ConversationUpdated(_) => "conversation.updated",
            Event::ConversationClosed(_) => "conversation.closed",
            Event::ConversationReopened => "conversation.reopened",
            Event::ParticipantJoined { .. } => "participant.joined",
            Event::ParticipantLeft { .. } => "participant.left",
            Event::ParticipantUpdated { .. } => "participant.updated",
            Event::MessageCreated(_) => "message.created",
            Event::MessageEdited { .. } => "message.edited",
            Event::MessageDeleted { .. } => "message.deleted",
            Event::ReactionAdded { .. } => "reaction.added",
            Event::ReactionRemoved { .. } => "reaction.removed",
            Event::UserBlocked { .. } => "user.blocked",
            Event::UserUnblocked { .. } => "user.unblocked",
            Event::Custom { name, .. } => name,
            Event::Marked { .. } | Event::BroadcastMarked { .. } => "marked",
            Event::MembershipStarted(_) => "membership.started",
            Event::MembershipEnded(_) => "membership.ended",
            Event::ConversationArchived { archived: true, .. } => "conversation.archived",
            Event::ConversationArchived { archived: false, .. } => "conversation.unarchived",
            Event::ConversationHidden { .. } => "conversation.hidden",
            Event::MessageHidden(_) => "message.hidden",
            Event::ConversationMuted { .. } => "conversation.muted",
            Event::ProfileUpdated(_) => "profile.updated",
            Event::Notified(_) => "notification.created",
            Event::NotificationsRead(_) => "notification.read",
            Event::AllNotificationsRead(_) => "notification.all_read",
            Event::BlockListed { .. } => "block.listed",
            Event::Effects => "effects",
            Event::Void(_) => "void",
            Event::Owner(_) => "owner",
        }
    }

    /// Whether the event takes a place in its conversation's order.
    pub fn is_sequenced(&self) -> bool {
        !matches!(
            self,
            Event::Noop | Event::Marked { .. } | Event::BroadcastMarked { .. } | Event::Effects | Event::Void(_) | Event::Owner(_)
        )
    }

    /// The seq of the message this event is about, given the seq of the event itself.
    pub fn message_seq(&self, seq: Seq) -> Option<Seq> {
        match self {
            Event::MessageCreated(_) => Some(seq),
            Event::MessageEdited { target, .. }
            | Event::MessageDeleted { target, .. }
            | Event::ReactionAdded { target, .. }
            | Event::ReactionRemoved { target, .. } => Some(*target),
            _ => None,
        }
    }

    /// The same event without any text of a message, as it stands in the log after erasing.
    pub fn redacted(&self) -> Event {
        let blank = |content: &Content| Content {
            kind: content.kind.clone(),
            countable: content.countable,
            decided_by: content.decided_by.clone(),
            client_id: content.client_id.clone(),
            silent: content.silent,
            ..Content::default()
        };
        match self {
            Event::MessageCreated(content) => Event::MessageCreated(blank(content)),
            Event::MessageEdited { target, content } => Event::MessageEdited {
                target: *target,
                content: blank(content),
            },
            other => other.clone(),
        }
    }
}
