//! What clients ask: one closed set for every transport.

use std::fmt;

use haggle_model::{Address, ConversationId, ConversationUpdate, MessageId, Millis, Profile, Role, Seq, UserId};

use crate::{Actor, Refusal};

/// A durable request of somebody.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub actor: Actor,
    /// The client's own id of the request: a retry with the same one gets the first answer. `None`: never recognised as a retry.
    pub client_id: Option<String>,
    /// For logs and plugins.
    pub trace_id: String,
    /// What is asked.
    pub command: Command,
}

impl Request {
    /// A request without a client id.
    pub fn new(actor: Actor, command: Command) -> Request {
        Request {
            actor,
            client_id: None,
            trace_id: String::new(),
            command,
        }
    }

    /// The same with the client's id (`None` leaves it without).
    pub fn with_client_id(mut self, client_id: Option<impl Into<String>>) -> Request {
        self.client_id = client_id.map(Into::into);
        self
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Into this conversation.
    Conversation(ConversationId),
    /// Into the direct conversation with this user, which the first message creates.
    User(UserId),
}

/// A message as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// `text`, `image`, `file`, `video`, `audio`, `location`, or a kind that a plugin claims.
    pub kind: String,
    /// The text, stored byte-exact.
    pub text: String,
    /// One JSON object as text.
    pub metadata: Option<String>,
    /// The message this one answers; of the same conversation.
    pub reply_to: Option<MessageId>,
    /// The message this one repeats; the sender must be able to read it.
    pub forwarded_from: Option<MessageId>,
}

impl NewMessage {
    /// A plain text.
    pub fn text(text: impl Into<String>) -> NewMessage {
        NewMessage {
            kind: "text".into(),
            text: text.into(),
            metadata: None,
            reply_to: None,
            forwarded_from: None,
        }
    }
}

/// Kinds of messages that need no plugin. `system` is never accepted from users.
pub const BUILT_IN_KINDS: [&str; 6] = ["text", "image", "file", "video", "audio", "location"];

/// A conversation as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewConversation {
    /// With one other user; an existing one is returned.
    Direct {
        /// The other one.
        with: UserId,
    },
    /// A new group; the caller is its admin.
    Group {
        /// Who is in it besides the caller.
        participants: Vec<UserId>,
        /// Its name.
        name: Option<String>,
        /// Its avatar.
        avatar: Option<String>,
    },
    /// Get or create by context; only for the owner, an admin or a service token.
    Context {
        /// A plugin or dialect.
        owner: String,
        /// What it is about: `booking`.
        context_type: String,
        /// Which one: `42`.
        context_id: String,
        /// Who is in it.
        participants: Vec<UserId>,
        /// Its title.
        name: Option<String>,
        /// One JSON object as text.
        state: Option<String>,
    },
    /// One log that everybody reads; only for an admin or a service token.
    Broadcast {
        /// Its name, which is its address.
        name: String,
    },
}

/// A change of a profile; `None` leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfilePatch {
    /// The display name.
    pub name: Option<String>,
    /// The avatar.
    pub avatar: Option<String>,
    /// Roles for display; admin only.
    pub roles: Option<Vec<String>>,
    /// The whole new attributes: one JSON object as text.
    pub attributes: Option<String>,
    /// Changes of single attributes, after those.
    pub attribute_changes: Option<AttributeChanges>,
    /// The whole new preferences: one JSON object as text.
    pub preferences: Option<String>,
}

impl ProfilePatch {
    /// The profile after the patch.
    pub fn apply(self, old: Profile) -> Profile {
        let attributes = self.attributes.or(old.attributes);
        Profile {
            name: self.name.or(old.name),
            avatar: self.avatar.or(old.avatar),
            roles: self.roles.unwrap_or(old.roles),
            attributes: match self.attribute_changes {
                Some(changes) => Some((changes.apply)(attributes.as_deref(), &changes.sent)),
                None => attributes,
            },
            preferences: self.preferences.or(old.preferences),
        }
    }
}

/// Changes of single attributes. They are JSON, which the engine does not read: who sends them says how they are applied.
#[derive(Clone)]
pub struct AttributeChanges {
    /// What was sent: by this a retry is known.
    pub sent: String,
    /// The whole attributes after what was sent, one JSON object as text; from those before, if there were any.
    pub apply: fn(before: Option<&str>, sent: &str) -> String,
}

impl PartialEq for AttributeChanges {
    fn eq(&self, other: &AttributeChanges) -> bool {
        self.sent == other.sent
    }
}

impl Eq for AttributeChanges {}

impl fmt::Debug for AttributeChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sent.fmt(f)
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// A new message.
    Send {
        /// Where.
        to: To,
        /// What.
        message: NewMessage,
    },
    /// New content of an own message; `None` leaves a part as it is.
    Edit {
        /// Which.
        message: MessageId,
        /// The new text.
        text: Option<String>,
        /// The new metadata: one JSON object as text.
        metadata: Option<String>,
        /// Only if the message is still at this `rev`.
        if_rev: Option<Seq>,
    },
    /// Delete an own message (admins: any) for all.
    Delete {
        /// Which.
        message: MessageId,
        /// Only if the message is still at this `rev`.
        if_rev: Option<Seq>,
    },
    /// Set (`Some`) or take away (`None`) the caller's reaction.
    React {
        /// On which message.
        message: MessageId,
        /// With what.
        emoji: Option<String>,
    },
    /// Get or create a conversation.
    CreateConversation(NewConversation),
    /// Name, avatar or state of a group or context.
    UpdateConversation {
        /// Which.
        conversation: ConversationId,
        /// What changes.
        update: ConversationUpdate,
    },
    /// Close or reopen a conversation.
    CloseConversation {
        /// Which.
        conversation: ConversationId,
        /// `false` reopens.
        closed: bool,
        /// Why, for people.
        reason: Option<String>,
    },
    /// Add a participant.
    AddParticipant {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        user: UserId,
        /// With which role.
        role: Role,
    },
    /// Remove a participant; oneself: leave.
    RemoveParticipant {
        /// Where.
        conversation: ConversationId,
        /// Whom.
        user: UserId,
    },
    /// Change a participant's role.
    SetRole {
        /// Where.
        conversation: ConversationId,
        /// Whose.
        user: UserId,
        /// The new role.
        role: Role,
    },
    /// Block or unblock a user.
    Block {
        /// Whom.
        user: UserId,
        /// `false` unblocks.
        blocked: bool,
    },
    /// A plugin's command.
    Call {
        /// Its name, as a manifest declares it.
        name: String,
        /// The conversation it is about; none: the caller's personal one.
        conversation: Option<ConversationId>,
        /// Any JSON value as text.
        payload: String,
    },
    /// Archive or unarchive for the caller.
    Archive {
        /// Which.
        conversation: ConversationId,
        /// `false` unarchives.
        archived: bool,
    },
    /// Hide the conversation up to its present head, for the caller.
    Hide {
        /// Which.
        conversation: ConversationId,
    },
    /// Delete a message for the caller.
    HideMessage {
        /// Which.
        message: MessageId,
    },
    /// No notifications from it until then.
    Mute {
        /// Which.
        conversation: ConversationId,
        /// `None` unmutes.
        until: Option<Millis>,
    },
    /// Change a profile.
    UpdateProfile {
        /// Whose; another's only for an admin.
        user: UserId,
        /// What changes.
        patch: ProfilePatch,
    },
    /// One notification is read.
    ReadNotification {
        /// Its seq in the personal conversation.
        seq: Seq,
    },
    /// All notifications are read.
    ReadAllNotifications,
}

/// A command that took effect, now or before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The conversation in whose log it stands.
    pub conversation: ConversationId,
    /// Seq of its first event with one; 0 when it made none (nothing had to change).
    pub seq: Seq,
    /// When it took effect.
    pub at: Millis,
    /// This is the stored answer of an earlier copy.
    pub duplicate: bool,
    /// Get-or-create: it was there before.
    pub existed: bool,
    /// The answer of a plugin's command: JSON text.
    pub answer: Option<String>,
}

impl Outcome {
    /// Of what had to change nothing.
    pub(crate) fn nothing(conversation: ConversationId, at: Millis) -> Outcome {
        Outcome {
            conversation,
            seq: 0,
            at,
            duplicate: false,
            existed: true,
            answer: None,
        }
    }
}

/// What becomes of a command: called once, after it is durable. Runs on the lane's thread, so it must be short and never block.
pub type Reply = Box<dyn FnOnce(Result<Outcome, Refusal>) + Send>;

/// A conversation's address as a client may name it.
pub fn context_address(owner: &str, context_type: &str, context_id: &str) -> Address {
    Address::Context(owner.into(), context_type.into(), context_id.into())
}
