//! Act as the user of the call, exactly as the user's own client would: same rules, same limits, same hooks.
//!
//! Only in [`Namespace`](crate::hooks::Namespace) and [`Http`](crate::hooks::Http) handlers, which run because of a client and
//! outside every turn; elsewhere every function is refused. A write waits until it is durable. A handler that runs again
//! changes nothing twice.

use super::host;
use crate::{
    Error, Rejection,
    types::{Conversation, Message, Participant, Reader, StoredNotification},
};

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The server's word: `not_found`, `blocked`, `rate_limited`, `plugin_rejected`, …
    pub code: String,
    /// For people.
    pub message: String,
    /// When trying again makes sense.
    pub retry_after_ms: Option<u32>,
    /// Of a plugin that said no: its id and its own code.
    pub plugin: Option<(String, String)>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal {
            code: error.code().into(),
            message: error.to_string(),
            retry_after_ms: None,
            plugin: None,
        }
    }
}

/// The client hears the plugin's own code where a plugin said no, else the server's.
impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        let code = refusal.plugin.map_or(refusal.code, |(_, code)| code);
        Rejection::new(code, refusal.message)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Into this conversation.
    Conversation(String),
    /// Into the direct conversation with this user, which the first message creates.
    User(String),
}

/// A message as a client sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// Where.
    pub to: To,
    /// `text`, or what else there is.
    pub kind: String,
    /// The text.
    pub content: String,
    /// One JSON object as text.
    pub metadata: Option<String>,
    /// The message this one answers.
    pub reply_to: Option<String>,
    /// The message this one repeats.
    pub forwarded_from: Option<String>,
    /// The client's own id of it: a repetition, also by another call, gets the first answer.
    pub client_message_id: Option<String>,
}

impl NewMessage {
    /// A plain text.
    pub fn text(to: To, content: impl Into<String>) -> NewMessage {
        NewMessage {
            to,
            kind: "text".into(),
            content: content.into(),
            metadata: None,
            reply_to: None,
            forwarded_from: None,
            client_message_id: None,
        }
    }
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Where.
    pub conversation_id: String,
    /// Seq of the first event that was written; 0 when nothing had to change.
    pub seq: u32,
    /// The id of a message with that seq.
    pub message_id: String,
    /// When.
    pub at_ms: u64,
    /// The answer of an earlier copy.
    pub duplicate: bool,
    /// Get-or-create: it was there before.
    pub existed: bool,
}

/// A conversation as the user sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The conversation.
    pub conversation: Conversation,
    /// Present ones, at most 256.
    pub participants: Vec<Participant>,
    /// Messages that the user has not read.
    pub unread: u32,
    /// The user has archived it.
    pub archived: bool,
    /// One of the two has blocked the other.
    pub blocked: bool,
    /// The newest message that the user may see.
    pub last_message: Option<Message>,
}

/// Whether somebody is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub user_id: String,
    /// Has a connection.
    pub online: bool,
    /// Of who has none: until when.
    pub last_seen_ms: Option<u64>,
}

/// A write, for the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the function of its name")]
pub enum Write {
    Send(NewMessage),
    Edit {
        message_id: String,
        content: Option<String>,
        metadata: Option<String>,
    },
    Delete(String),
    HideMessage(String),
    React {
        message_id: String,
        emoji: Option<String>,
    },
    Read {
        conversation_id: String,
        up_to: Option<u32>,
    },
    OpenDirect(String),
    OpenContext {
        context_type: String,
        context_id: String,
        participants: Vec<String>,
        name: Option<String>,
        state: Option<String>,
    },
    OpenBroadcast(String),
    Update {
        conversation_id: String,
        name: Option<String>,
        avatar: Option<String>,
        state: Option<String>,
    },
    Close {
        conversation_id: String,
        closed: bool,
    },
    Archive {
        conversation_id: String,
        archived: bool,
    },
    Hide(String),
    AddParticipant {
        conversation_id: String,
        user_id: String,
        role: String,
    },
    RemoveParticipant {
        conversation_id: String,
        user_id: String,
    },
    Block {
        user_id: String,
        blocked: bool,
    },
    ReadNotification(String),
    ReadAllNotifications,
}

/// What is not kept, for the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the function of its name")]
pub enum Sign {
    Typing { conversation_id: String, on: bool },
    PresenceHint(bool),
    Join(String),
    Leave(String),
    EnterRoom(String),
    LeaveRoom(String),
}

type Answer<T> = Result<T, Refusal>;

fn write(write: Write) -> Answer<Outcome> {
    host!(Client.client_write(write))?
}

fn sign(sign: Sign) -> Answer<()> {
    host!(Client.client_sign(sign))?
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) -> $answer:ty = $body:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        ///
        /// What the server, or a plugin, has against it.
        pub fn $name($($argument: $type),*) -> Result<$answer, Refusal> {
            $body
        }
    )*};
}

functions! {
    /// Sends a message.
    send(message: NewMessage) -> Outcome = write(Write::Send(message));
    /// Changes an own message: content and metadata where given.
    edit(message_id: &str, content: Option<&str>, metadata: Option<&str>) -> Outcome = write(Write::Edit {
        message_id: message_id.into(),
        content: content.map(Into::into),
        metadata: metadata.map(Into::into),
    });
    /// Deletes a message for all.
    delete(message_id: &str) -> Outcome = write(Write::Delete(message_id.into()));
    /// Deletes a message for the user alone.
    hide_message(message_id: &str) -> Outcome = write(Write::HideMessage(message_id.into()));
    /// Sets the user's reaction, or takes it away.
    react(message_id: &str, emoji: Option<&str>) -> Outcome = write(Write::React {
        message_id: message_id.into(),
        emoji: emoji.map(Into::into),
    });
    /// Reads everything up to this seq, or to the end.
    read(conversation_id: &str, up_to: Option<u32>) -> Outcome = write(Write::Read {
        conversation_id: conversation_id.into(),
        up_to,
    });
    /// The direct conversation with a user, made where it is not there.
    open_direct(user_id: &str) -> Outcome = write(Write::OpenDirect(user_id.into()));
    /// This plugin's context conversation `type:id`, made where it is not there, in the plugin's name.
    open_context(context_type: &str, context_id: &str, participants: &[String], name: Option<&str>, state: Option<&str>) -> Outcome =
        write(Write::OpenContext {
            context_type: context_type.into(),
            context_id: context_id.into(),
            participants: participants.to_vec(),
            name: name.map(Into::into),
            state: state.map(Into::into),
        });
    /// One log that everybody reads; for admins.
    open_broadcast(name: &str) -> Outcome = write(Write::OpenBroadcast(name.into()));
    /// Changes what a conversation says about itself, where given.
    update(conversation_id: &str, name: Option<&str>, avatar: Option<&str>, state: Option<&str>) -> Outcome = write(Write::Update {
        conversation_id: conversation_id.into(),
        name: name.map(Into::into),
        avatar: avatar.map(Into::into),
        state: state.map(Into::into),
    });
    /// Closes or reopens a conversation.
    close(conversation_id: &str, closed: bool) -> Outcome = write(Write::Close {
        conversation_id: conversation_id.into(),
        closed,
    });
    /// Archives or unarchives a conversation for the user.
    archive(conversation_id: &str, archived: bool) -> Outcome = write(Write::Archive {
        conversation_id: conversation_id.into(),
        archived,
    });
    /// Hides a conversation from the user, up to its present end.
    hide(conversation_id: &str) -> Outcome = write(Write::Hide(conversation_id.into()));
    /// Adds a participant with the role `member` or `admin`.
    add_participant(conversation_id: &str, user_id: &str, role: &str) -> Outcome = write(Write::AddParticipant {
        conversation_id: conversation_id.into(),
        user_id: user_id.into(),
        role: role.into(),
    });
    /// Removes a participant; oneself: leaves.
    remove_participant(conversation_id: &str, user_id: &str) -> Outcome = write(Write::RemoveParticipant {
        conversation_id: conversation_id.into(),
        user_id: user_id.into(),
    });
    /// Blocks or unblocks a user.
    block(user_id: &str, blocked: bool) -> Outcome = write(Write::Block {
        user_id: user_id.into(),
        blocked,
    });
    /// Marks one of the user's notifications read.
    read_notification(id: &str) -> Outcome = write(Write::ReadNotification(id.into()));
    /// Marks all of the user's notifications read.
    read_all_notifications() -> Outcome = write(Write::ReadAllNotifications);
    /// Calls a plugin's command. Payload and answer are JSON texts.
    call(name: &str, conversation_id: Option<&str>, payload: &str) -> String = host!(Client.client_call(name, conversation_id, payload))?;

    /// A sign of typing.
    typing(conversation_id: &str, on: bool) -> () = sign(Sign::Typing {
        conversation_id: conversation_id.into(),
        on,
    });
    /// The user's own word about being there.
    presence_hint(online: bool) -> () = sign(Sign::PresenceHint(online));
    /// The connection joins a conversation of its user.
    join(conversation_id: &str) -> () = sign(Sign::Join(conversation_id.into()));
    /// The connection leaves it.
    leave(conversation_id: &str) -> () = sign(Sign::Leave(conversation_id.into()));
    /// The connection enters a room of the namespace.
    enter_room(room: &str) -> () = sign(Sign::EnterRoom(room.into()));
    /// The connection leaves it.
    leave_room(room: &str) -> () = sign(Sign::LeaveRoom(room.into()));

    /// The id that the direct conversation with a user has or will have.
    direct_id(user_id: &str) -> String = host!(Client.client_direct_id(user_id))?;
    /// The user's conversations, latest change first, after the one that ended the former page; at most 100.
    conversations(archived: Option<bool>, after: Option<&str>, limit: u32) -> Vec<View> =
        host!(Client.client_conversations(archived, after, limit))?;
    /// How many there are, for the `total` of a page: at most 1,000 are counted.
    conversations_total(archived: Option<bool>) -> u32 = host!(Client.client_conversations_total(archived))?;
    /// One of them.
    conversation(id: &str) -> View = host!(Client.client_conversation(id))?;
    /// Messages below `before`, newest first, at most 100.
    messages(conversation_id: &str, before: Option<u32>, limit: u32) -> Vec<Message> =
        host!(Client.client_messages(conversation_id, before, limit))?;
    /// One message.
    message(id: &str) -> Message = host!(Client.client_message(id))?;
    /// Of each of these messages (at most 100, of one conversation) who has read it; its sender may be among them.
    read_by(ids: &[String]) -> Vec<Vec<Reader>> = host!(Client.client_read_by(ids))?;
    /// The user's notifications, newest first, after the one that ended the former page; at most 100.
    ///
    /// ```
    /// use haggle_sdk::prelude::*;
    /// use haggle_sdk::serde_json::{Value, json};
    ///
    /// /// What an old client's `GET /notifications?before=…` is answered.
    /// fn page(before: Option<&str>) -> Result<Vec<Value>, client::Refusal> {
    ///     let shown = |told: StoredNotification| json!({"_id": told.id, "type": told.topic, "message": told.body, "read": told.read});
    ///     Ok(client::notifications(before, false, 20)?.into_iter().map(shown).collect())
    /// }
    /// ```
    notifications(before: Option<&str>, unread_only: bool, limit: u32) -> Vec<StoredNotification> =
        host!(Client.client_notifications(before, unread_only, limit))?;
    /// How many of them are unread.
    unread_notifications() -> u32 = host!(Client.client_unread_notifications())?;
    /// Unread messages of the user's 1,000 latest conversations.
    unread_total() -> u32 = host!(Client.client_unread_total())?;
    /// Whether users are there; at most 100.
    presence_of(users: &[String]) -> Vec<Presence> = host!(Client.client_presence_of(users))?;
    /// Users with a connection, in no order, at most 1,000.
    online_users(limit: u32) -> Vec<String> = host!(Client.client_online_users(limit))?;
}
