//! What a native plugin does as the user of its call, passed on to the engine.

use haggle_engine::{
    Command, NewConversation, Outcome, Refusal, To,
    ports::{ClientCalls, ClientView, Op},
};
use haggle_model::{ConversationUpdate, ErrorCode, UserId};
use haggle_sdk::{
    Error,
    client::{self, Sign, Write},
    types::{Message, Reader, StoredNotification},
};
use haggle_store::MessageRow;

use crate::{
    asking::Asking,
    convert::{self, id, json, json_object},
};

type Told<T> = Result<T, client::Refusal>;

pub(crate) fn refusal(refusal: Refusal) -> client::Refusal {
    client::Refusal {
        code: refusal.code.as_str().into(),
        message: refusal.message.to_string(),
        retry_after_ms: refusal.retry_after.map(|after| after.as_millis() as u32),
        plugin: refusal.plugin.as_deref().cloned(),
    }
}

/// An argument that is none.
fn bad(error: Error) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, error.to_string())
}

fn outcome(outcome: Outcome) -> client::Outcome {
    client::Outcome {
        conversation_id: outcome.conversation.to_string(),
        seq: outcome.seq,
        message_id: outcome.conversation.message(outcome.seq).to_string(),
        at_ms: convert::millis(outcome.at),
        duplicate: outcome.duplicate,
        existed: outcome.existed,
    }
}

pub(crate) fn view(view: ClientView) -> client::View {
    client::View {
        participants: view.participants.into_iter().map(convert::participant).collect(),
        unread: view.unread,
        archived: view.archived,
        blocked: !view.conversation.blocked_by.is_empty(),
        last_message: view.last_message.map(message),
        conversation: convert::conversation(view.conversation),
    }
}

pub(crate) fn message(row: MessageRow) -> Message {
    convert::message(row, Op::Send)
}

/// A write as a command of the user; those that are more than that are told apart before.
fn command(write: Write) -> Result<(Command, Option<String>), Error> {
    let command = match write {
        Write::Send(message) => {
            json_object("metadata", message.metadata.as_deref())?;
            let to = match message.to {
                client::To::Conversation(conversation) => To::Conversation(id("conversation-id", &conversation)?),
                client::To::User(user) => To::User(user.into()),
            };
            let new = haggle_engine::NewMessage {
                kind: message.kind,
                text: message.content,
                metadata: message.metadata,
                reply_to: message.reply_to.map(|text| id("reply-to", &text)).transpose()?,
                forwarded_from: message.forwarded_from.map(|text| id("forwarded-from", &text)).transpose()?,
            };
            return Ok((Command::Send { to, message: new }, message.client_message_id));
        }
        Write::Edit {
            message_id,
            content,
            metadata,
        } => {
            json_object("metadata", metadata.as_deref())?;
            Command::Edit {
                message: id("message-id", &message_id)?,
                text: content,
                metadata,
                if_rev: None,
            }
        }
        Write::Delete(message) => Command::Delete {
            message: id("message-id", &message)?,
            if_rev: None,
        },
        Write::HideMessage(message) => Command::HideMessage {
            message: id("message-id", &message)?,
        },
        Write::React { message_id, emoji } => Command::React {
            message: id("message-id", &message_id)?,
            emoji,
        },
        Write::OpenDirect(user) => Command::CreateConversation(NewConversation::Direct { with: user.into() }),
        Write::OpenBroadcast(name) => Command::CreateConversation(NewConversation::Broadcast { name }),
        Write::Update {
            conversation_id,
            name,
            avatar,
            state,
        } => {
            json_object("state", state.as_deref())?;
            Command::UpdateConversation {
                conversation: id("conversation-id", &conversation_id)?,
                update: ConversationUpdate { name, avatar, state },
            }
        }
        Write::Close { conversation_id, closed } => Command::CloseConversation {
            conversation: id("conversation-id", &conversation_id)?,
            closed,
            reason: None,
        },
        Write::Archive { conversation_id, archived } => Command::Archive {
            conversation: id("conversation-id", &conversation_id)?,
            archived,
        },
        Write::Hide(conversation) => Command::Hide {
            conversation: id("conversation-id", &conversation)?,
        },
        Write::AddParticipant {
            conversation_id,
            user_id,
            role,
        } => Command::AddParticipant {
            conversation: id("conversation-id", &conversation_id)?,
            user: user_id.into(),
            role: convert::role(&role)?,
        },
        Write::RemoveParticipant { conversation_id, user_id } => Command::RemoveParticipant {
            conversation: id("conversation-id", &conversation_id)?,
            user: user_id.into(),
        },
        Write::Block { user_id, blocked } => Command::Block {
            user: user_id.into(),
            blocked,
        },
        Write::ReadAllNotifications => Command::ReadAllNotifications,
        Write::Read { .. } | Write::OpenContext { .. } | Write::ReadNotification(_) => unreachable!("these are told apart before"),
    };
    Ok((command, None))
}

impl Asking {
    fn side(&self) -> Result<&dyn ClientCalls, Refusal> {
        let outside = "the capability client is for the handlers namespace and http";
        self.calls.client().ok_or_else(|| Refusal::forbidden(outside))
    }

    /// Asks the user's side of the call.
    pub(crate) fn as_user<T>(&self, ask: impl AsyncFnOnce(&dyn ClientCalls) -> Result<T, Refusal>) -> Told<T> {
        let side = self.side().map_err(refusal)?;
        self.runtime.block_on(ask(side)).map_err(refusal)
    }

    pub(crate) fn write(&self, write: Write) -> Told<client::Outcome> {
        let done = self.as_user(async |side| match write {
            Write::Read { conversation_id, up_to } => side.read(id("conversation-id", &conversation_id).map_err(bad)?, up_to).await,
            Write::OpenContext {
                context_type,
                context_id,
                participants,
                name,
                state,
            } => {
                json_object("state", state.as_deref()).map_err(bad)?;
                let owner = self.manifest.id().to_string();
                let participants = participants.into_iter().map(UserId::from).collect();
                side.open_context(NewConversation::Context {
                    owner,
                    context_type,
                    context_id,
                    participants,
                    name,
                    state,
                })
                .await
            }
            Write::ReadNotification(notification) => side.read_notification(id("id", &notification).map_err(bad)?).await,
            other => {
                let (command, client_id) = command(other).map_err(bad)?;
                side.write(command, client_id).await
            }
        });
        done.map(outcome)
    }

    pub(crate) fn call_command(&self, name: &str, conversation: Option<&str>, payload: &str) -> Told<String> {
        let done = self.as_user(async |side| {
            json("payload", payload).map_err(bad)?;
            let conversation = conversation.map(|text| id("conversation-id", text)).transpose().map_err(bad)?;
            let call = Command::Call {
                name: name.into(),
                conversation,
                payload: payload.into(),
            };
            side.write(call, None).await
        });
        done.map(|done| done.answer.unwrap_or_else(|| "null".into()))
    }

    pub(crate) fn sign(&self, sign: Sign) -> Told<()> {
        self.as_user(async |side| match sign {
            Sign::Typing { conversation_id, on } => side.typing(id("conversation-id", &conversation_id).map_err(bad)?, on),
            Sign::PresenceHint(online) => side.presence_hint(online),
            Sign::Join(conversation) => side.join(id("conversation-id", &conversation).map_err(bad)?).await,
            Sign::Leave(conversation) => side.leave(id("conversation-id", &conversation).map_err(bad)?),
            Sign::EnterRoom(room) => side.enter_room(&room),
            Sign::LeaveRoom(room) => side.leave_room(&room),
        })
    }

    pub(crate) fn user_conversations(&self, archived: Option<bool>, after: Option<&str>, limit: u32) -> Told<Vec<client::View>> {
        let views = self.as_user(async |side| {
            let after = after.map(|text| id("after", text)).transpose().map_err(bad)?;
            side.conversations(archived, after, limit as usize).await
        });
        views.map(|views| views.into_iter().map(view).collect())
    }

    pub(crate) fn user_conversation(&self, conversation: &str) -> Told<client::View> {
        self.as_user(async |side| side.conversation(id("id", conversation).map_err(bad)?).await)
            .map(view)
    }

    pub(crate) fn user_messages(&self, conversation: &str, before: Option<u32>, limit: u32) -> Told<Vec<Message>> {
        let rows = self.as_user(async |side| {
            side.messages(id("conversation-id", conversation).map_err(bad)?, before, limit as usize)
                .await
        });
        rows.map(|rows| rows.into_iter().map(message).collect())
    }

    pub(crate) fn user_message(&self, wanted: &str) -> Told<Message> {
        self.as_user(async |side| side.message(id("id", wanted).map_err(bad)?).await).map(message)
    }

    pub(crate) fn user_read_by(&self, ids: &[String]) -> Told<Vec<Vec<Reader>>> {
        let found = self.as_user(async |side| side.read_by(&convert::message_ids(ids).map_err(bad)?).await);
        found.map(convert::read_by)
    }

    pub(crate) fn user_notifications(&self, before: Option<&str>, unread_only: bool, limit: u32) -> Told<Vec<StoredNotification>> {
        let views = self.as_user(async |side| {
            let before = before.map(|text| id("before", text)).transpose().map_err(bad)?;
            side.notifications(before, unread_only, limit as usize).await
        });
        views.map(|views| views.into_iter().map(convert::stored_notification).collect())
    }

    pub(crate) fn user_presence(&self, users: &[String]) -> Told<Vec<client::Presence>> {
        let ids: Vec<UserId> = users.iter().map(|user| user.as_str().into()).collect();
        let found = self.as_user(async |side| side.presence_of(&ids).await)?;
        let presence = |(user, (online, seen)): (&String, (bool, Option<i64>))| client::Presence {
            user_id: user.clone(),
            online,
            last_seen_ms: seen.map(convert::millis),
        };
        Ok(users.iter().zip(found).map(presence).collect())
    }
}
