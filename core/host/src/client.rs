//! The capability `client`: what a plugin does in the place of the user of its call.

use std::sync::Arc;

use haggle_engine::{
    Command, NewConversation, NewMessage, Outcome, Refusal, To,
    ports::{ClientCalls, ClientView, HostCalls, HostError},
};
use haggle_model::{ConversationId, ConversationUpdate, ErrorCode, MessageId, UserId};
use haggle_store::MessageRow;

use crate::{
    bindings::{client, wit},
    capabilities::HostFn,
    convert::{self, id, json, json_object, message_bytes},
    state::State,
};

/// An error that ends the call, where no other is named.
type Result<T, E = wasmtime::Error> = std::result::Result<T, E>;

/// An import's answer: the inner refusal goes to the guest, the outer error ends the call.
type Answer<T> = Result<Result<T, client::Refusal>>;

/// A client's own id of a message, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 128;

fn refusal(refusal: Refusal) -> client::Refusal {
    client::Refusal {
        code: refusal.code.as_str().to_owned(),
        message: refusal.message.to_string(),
        retry_after_ms: refusal.retry_after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
        plugin: refusal.plugin.as_deref().cloned(),
    }
}

/// An argument that is none.
fn bad(error: HostError) -> Refusal {
    Refusal::new(ErrorCode::BadRequest, error.to_string())
}

fn outcome(outcome: &Outcome) -> client::Outcome {
    client::Outcome {
        conversation_id: outcome.conversation.to_string(),
        seq: outcome.seq,
        message_id: outcome.conversation.message(outcome.seq).to_string(),
        at_ms: convert::millis(outcome.at),
        duplicate: outcome.duplicate,
        existed: outcome.existed,
    }
}

fn message(row: MessageRow) -> wit::Message {
    convert::message(row)
}

fn view(view: ClientView) -> client::View {
    client::View {
        participants: view.participants.into_iter().map(convert::participant).collect(),
        unread: view.unread,
        archived: view.archived,
        blocked: !view.conversation.blocked_by.is_empty(),
        last_message: view.last_message.map(message),
        conversation: convert::conversation(view.conversation),
    }
}

fn view_bytes(view: &client::View) -> usize {
    let texts = [
        &view.conversation.name,
        &view.conversation.avatar,
        &view.conversation.state,
        &view.conversation.context,
    ];
    let participants: usize = view.participants.iter().map(|one| one.user_id.len() + one.role.len()).sum();
    texts.into_iter().flatten().map(String::len).sum::<usize>() + participants + view.last_message.as_ref().map_or(0, message_bytes)
}

fn notification_bytes(told: &wit::StoredNotification) -> usize {
    told.user_id.len() + told.topic.len() + told.title.len() + told.body.len() + length(told.data.as_ref())
}

fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

fn new_message(message: client::NewMessage) -> Result<(Command, Option<String>), HostError> {
    if let Some(metadata) = &message.metadata {
        json_object("metadata", metadata)?;
    }
    if let Some(client_id) = &message.client_message_id
        && !(1..=CLIENT_ID_BYTES_MAX).contains(&client_id.len())
    {
        return Err(convert::invalid(format!("client-message-id has not 1 to {CLIENT_ID_BYTES_MAX} bytes")));
    }
    let to = match message.to {
        client::Destination::Conversation(conversation) => To::Conversation(id("conversation-id", &conversation)?),
        client::Destination::User(user) => To::User(user.into()),
    };
    let message_id = |what: &str, text: Option<String>| text.map(|text| id(what, &text)).transpose();
    let new = NewMessage {
        kind: message.kind,
        text: message.content,
        metadata: message.metadata,
        reply_to: message_id("reply-to", message.reply_to)?,
        forwarded_from: message_id("forwarded-from", message.forwarded_from)?,
    };
    Ok((Command::Send { to, message: new }, message.client_message_id))
}

/// The engine's side of the call, with the right to act as its user.
struct Side(Arc<dyn HostCalls>);

impl Side {
    fn calls(&self) -> Result<&dyn ClientCalls, Refusal> {
        let outside = "the capability client is for the handlers namespace and http";
        self.0.client().ok_or_else(|| Refusal::forbidden(outside))
    }
}

impl State {
    /// Enters a call of this capability. `None` while the plugin starts.
    fn client(&mut self, bytes: usize) -> Result<Option<Side>> {
        Ok(self.enter(bytes)?.map(Side))
    }

    fn client_answer<T>(&self, function: HostFn, answer: Result<T, Refusal>) -> Result<T, client::Refusal> {
        self.profile.meters.host_call(function, answer.is_ok());
        answer.map_err(refusal)
    }

    /// A command of the user, waited for.
    async fn write(&mut self, function: HostFn, bytes: usize, command: Result<(Command, Option<String>), HostError>) -> Answer<client::Outcome> {
        let Some(side) = self.client(bytes)? else { return Ok(Err(starting())) };
        let answer = match (command.map_err(bad), side.calls()) {
            (Ok((command, client_id)), Ok(calls)) => self.wait(calls.write(command, client_id)).await?,
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        };
        Ok(self.client_answer(function, answer.map(|done| outcome(&done))))
    }
}

/// The commonest shape: a command without a client id.
fn plain(command: Result<Command, HostError>) -> Result<(Command, Option<String>), HostError> {
    command.map(|command| (command, None))
}

fn starting() -> client::Refusal {
    refusal(Refusal::forbidden("there is no user while the plugin starts"))
}

/// A call that is answered by one function of the engine: `ask!(self, Function, bytes, |calls| …, arguments, answer bytes)`.
macro_rules! ask {
    ($state:ident, $function:ident, $bytes:expr, $argument:expr, |$calls:ident, $checked:ident| $call:expr, |$said:ident| $out:expr, $carried:expr) => {{
        let Some(side) = $state.client($bytes)? else {
            return Ok(Err(starting()));
        };
        let checked: Result<_, HostError> = $argument;
        let answer = match (checked.map_err(bad), side.calls()) {
            (Ok($checked), Ok($calls)) => $state.wait(async { $call }).await?,
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        };
        let answer = answer.map(|$said| $out);
        if let Ok(answer) = &answer {
            $state.carry($carried(answer))?;
        }
        Ok($state.client_answer(HostFn::$function, answer))
    }};
}

/// The same without waiting and without anything to carry out.
macro_rules! tell {
    ($state:ident, $function:ident, $bytes:expr, $argument:expr, |$calls:ident, $checked:ident| $call:expr) => {{
        let Some(side) = $state.client($bytes)? else {
            return Ok(Err(starting()));
        };
        let checked: Result<_, HostError> = $argument;
        let answer = match (checked.map_err(bad), side.calls()) {
            (Ok($checked), Ok($calls)) => $call,
            (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
        };
        Ok($state.client_answer(HostFn::$function, answer))
    }};
}

fn nothing<T>(_: &T) -> usize {
    0
}

impl client::Host for State {
    async fn send(&mut self, message: client::NewMessage) -> Answer<client::Outcome> {
        let bytes = message.content.len() + length(message.metadata.as_ref());
        self.write(HostFn::ClientSend, bytes, new_message(message)).await
    }

    async fn edit(&mut self, message: String, content: Option<String>, metadata: Option<String>) -> Answer<client::Outcome> {
        let bytes = length(content.as_ref()) + length(metadata.as_ref());
        let checked = metadata.as_deref().map_or(Ok(()), |text| json_object("metadata", text));
        let command = checked.and_then(|()| {
            Ok(Command::Edit {
                message: id("message-id", &message)?,
                text: content,
                metadata,
                if_rev: None,
            })
        });
        self.write(HostFn::ClientEdit, bytes, plain(command)).await
    }

    async fn delete(&mut self, message: String) -> Answer<client::Outcome> {
        let command = id("message-id", &message).map(|message| Command::Delete { message, if_rev: None });
        self.write(HostFn::ClientDelete, message.len(), plain(command)).await
    }

    async fn hide_message(&mut self, message: String) -> Answer<client::Outcome> {
        let command = id("message-id", &message).map(|message| Command::HideMessage { message });
        self.write(HostFn::ClientHideMessage, message.len(), plain(command)).await
    }

    async fn react(&mut self, message: String, emoji: Option<String>) -> Answer<client::Outcome> {
        let bytes = message.len() + length(emoji.as_ref());
        let command = id("message-id", &message).map(|message| Command::React { message, emoji });
        self.write(HostFn::ClientReact, bytes, plain(command)).await
    }

    async fn read(&mut self, conversation: String, up_to: Option<u32>) -> Answer<client::Outcome> {
        let checked = id::<ConversationId>("conversation-id", &conversation);
        ask!(
            self,
            ClientRead,
            conversation.len(),
            checked,
            |calls, id| calls.read(id, up_to).await,
            |done| outcome(&done),
            nothing
        )
    }

    async fn open_direct(&mut self, user: String) -> Answer<client::Outcome> {
        let bytes = user.len();
        let command = Command::CreateConversation(NewConversation::Direct { with: user.into() });
        self.write(HostFn::ClientOpenDirect, bytes, Ok((command, None))).await
    }

    async fn open_context(
        &mut self,
        context_type: String,
        context_id: String,
        participants: Vec<String>,
        name: Option<String>,
        state: Option<String>,
    ) -> Answer<client::Outcome> {
        let users: usize = participants.iter().map(String::len).sum();
        let bytes = context_type.len() + context_id.len() + users + length(name.as_ref()) + length(state.as_ref());
        let owner = self.profile.id.to_string();
        let checked = state
            .as_deref()
            .map_or(Ok(()), |state| json_object("state", state))
            .map(|()| NewConversation::Context {
                owner,
                context_type,
                context_id,
                participants: participants.into_iter().map(UserId::from).collect(),
                name,
                state,
            });
        ask!(
            self,
            ClientOpenContext,
            bytes,
            checked,
            |calls, new| calls.open_context(new).await,
            |done| outcome(&done),
            nothing
        )
    }

    async fn open_broadcast(&mut self, name: String) -> Answer<client::Outcome> {
        let bytes = name.len();
        let command = Command::CreateConversation(NewConversation::Broadcast { name });
        self.write(HostFn::ClientOpenBroadcast, bytes, Ok((command, None))).await
    }

    async fn update(&mut self, conversation: String, name: Option<String>, avatar: Option<String>, state: Option<String>) -> Answer<client::Outcome> {
        let bytes = length(name.as_ref()) + length(avatar.as_ref()) + length(state.as_ref());
        let checked = state.as_deref().map_or(Ok(()), |state| json_object("state", state));
        let command = checked.and_then(|()| {
            Ok(Command::UpdateConversation {
                conversation: id("conversation-id", &conversation)?,
                update: ConversationUpdate { name, avatar, state },
            })
        });
        self.write(HostFn::ClientUpdate, bytes, plain(command)).await
    }

    async fn close(&mut self, conversation: String, closed: bool) -> Answer<client::Outcome> {
        let command = id("conversation-id", &conversation).map(|conversation| Command::CloseConversation {
            conversation,
            closed,
            reason: None,
        });
        self.write(HostFn::ClientClose, conversation.len(), plain(command)).await
    }

    async fn archive(&mut self, conversation: String, archived: bool) -> Answer<client::Outcome> {
        let command = id("conversation-id", &conversation).map(|conversation| Command::Archive { conversation, archived });
        self.write(HostFn::ClientArchive, conversation.len(), plain(command)).await
    }

    async fn hide(&mut self, conversation: String) -> Answer<client::Outcome> {
        let command = id("conversation-id", &conversation).map(|conversation| Command::Hide { conversation });
        self.write(HostFn::ClientHide, conversation.len(), plain(command)).await
    }

    async fn add_participant(&mut self, conversation: String, user: String, role: String) -> Answer<client::Outcome> {
        let bytes = user.len() + role.len();
        let command = id("conversation-id", &conversation).and_then(|conversation| {
            Ok(Command::AddParticipant {
                conversation,
                role: convert::role(&role)?,
                user: user.into(),
            })
        });
        self.write(HostFn::ClientAddParticipant, bytes, plain(command)).await
    }

    async fn remove_participant(&mut self, conversation: String, user: String) -> Answer<client::Outcome> {
        let bytes = user.len();
        let command = id("conversation-id", &conversation).map(|conversation| Command::RemoveParticipant {
            conversation,
            user: user.into(),
        });
        self.write(HostFn::ClientRemoveParticipant, bytes, plain(command)).await
    }

    async fn block(&mut self, user: String, blocked: bool) -> Answer<client::Outcome> {
        let bytes = user.len();
        let command = Command::Block { user: user.into(), blocked };
        self.write(HostFn::ClientBlock, bytes, Ok((command, None))).await
    }

    async fn call(&mut self, name: String, conversation: Option<String>, payload: String) -> Answer<String> {
        let bytes = name.len() + payload.len();
        let checked = json("payload", &payload).and_then(|()| {
            Ok(Command::Call {
                name,
                conversation: conversation.map(|text| id("conversation-id", &text)).transpose()?,
                payload,
            })
        });
        let answer = |done: Outcome| done.answer.unwrap_or_else(|| "null".to_owned());
        ask!(
            self,
            ClientCall,
            bytes,
            checked,
            |calls, command| calls.write(command, None).await,
            |done| answer(done),
            String::len
        )
    }

    fn typing(&mut self, conversation: String, on: bool) -> Answer<()> {
        tell!(
            self,
            ClientTyping,
            conversation.len(),
            id("conversation-id", &conversation),
            |calls, id| calls.typing(id, on)
        )
    }

    fn presence_hint(&mut self, online: bool) -> Answer<()> {
        tell!(self, ClientPresenceHint, 0, Ok(online), |calls, online| calls.presence_hint(online))
    }

    async fn join(&mut self, conversation: String) -> Answer<()> {
        let checked = id::<ConversationId>("conversation-id", &conversation);
        ask!(
            self,
            ClientJoin,
            conversation.len(),
            checked,
            |calls, id| calls.join(id).await,
            |done| done,
            nothing
        )
    }

    fn leave(&mut self, conversation: String) -> Answer<()> {
        tell!(
            self,
            ClientLeave,
            conversation.len(),
            id("conversation-id", &conversation),
            |calls, id| calls.leave(id)
        )
    }

    fn enter_room(&mut self, room: String) -> Answer<()> {
        tell!(self, ClientEnterRoom, room.len(), Ok(&room), |calls, room| calls.enter_room(room))
    }

    fn leave_room(&mut self, room: String) -> Answer<()> {
        tell!(self, ClientLeaveRoom, room.len(), Ok(&room), |calls, room| calls.leave_room(room))
    }

    async fn direct_id(&mut self, user: String) -> Answer<String> {
        let checked = Ok(UserId::from(user.as_str()));
        ask!(
            self,
            ClientDirectId,
            user.len(),
            checked,
            |calls, user| calls.direct_id(&user).await,
            |found| found.to_string(),
            String::len
        )
    }

    async fn conversations(&mut self, archived: Option<bool>, after: Option<String>, limit: u32) -> Answer<Vec<client::View>> {
        let checked = after.as_deref().map(|text| id::<ConversationId>("after", text)).transpose();
        let bytes = |views: &Vec<client::View>| views.iter().map(view_bytes).sum();
        ask!(
            self,
            ClientConversations,
            0,
            checked,
            |calls, after| calls.conversations(archived, after, limit as usize).await,
            |found| found.into_iter().map(view).collect::<Vec<_>>(),
            bytes
        )
    }

    async fn conversations_total(&mut self, archived: Option<bool>) -> Answer<u32> {
        ask!(
            self,
            ClientConversationsTotal,
            0,
            Ok(archived),
            |calls, archived| calls.conversations_total(archived).await,
            |found| found,
            nothing
        )
    }

    async fn get_conversation(&mut self, conversation: String) -> Answer<client::View> {
        let checked = id::<ConversationId>("id", &conversation);
        ask!(
            self,
            ClientConversation,
            conversation.len(),
            checked,
            |calls, id| calls.conversation(id).await,
            |found| view(found),
            view_bytes
        )
    }

    async fn messages(&mut self, conversation: String, before: Option<u32>, limit: u32) -> Answer<Vec<wit::Message>> {
        let checked = id::<ConversationId>("conversation-id", &conversation);
        let bytes = |messages: &Vec<wit::Message>| messages.iter().map(message_bytes).sum();
        ask!(
            self,
            ClientMessages,
            conversation.len(),
            checked,
            |calls, id| calls.messages(id, before, limit as usize).await,
            |found| found.into_iter().map(message).collect::<Vec<_>>(),
            bytes
        )
    }

    async fn get_message(&mut self, message_id: String) -> Answer<wit::Message> {
        let checked = id::<MessageId>("id", &message_id);
        ask!(
            self,
            ClientMessage,
            message_id.len(),
            checked,
            |calls, id| calls.message(id).await,
            |found| message(found),
            message_bytes
        )
    }

    async fn read_by(&mut self, ids: Vec<String>) -> Answer<Vec<Vec<wit::Reader>>> {
        let bytes = ids.iter().map(String::len).sum();
        ask!(
            self,
            ClientReadBy,
            bytes,
            convert::message_ids(&ids),
            |calls, ids| calls.read_by(&ids).await,
            |found| convert::read_by(found),
            convert::read_by_bytes
        )
    }

    async fn read_notification(&mut self, notification: String) -> Answer<client::Outcome> {
        let checked = id::<MessageId>("id", &notification);
        ask!(
            self,
            ClientReadNotification,
            notification.len(),
            checked,
            |calls, id| calls.read_notification(id).await,
            |done| outcome(&done),
            nothing
        )
    }

    async fn read_all_notifications(&mut self) -> Answer<client::Outcome> {
        let command = Command::ReadAllNotifications;
        self.write(HostFn::ClientReadAllNotifications, 0, Ok((command, None))).await
    }

    async fn notifications(&mut self, before: Option<String>, unread_only: bool, limit: u32) -> Answer<Vec<wit::StoredNotification>> {
        let checked = before.as_deref().map(|text| id::<MessageId>("before", text)).transpose();
        let bytes = |found: &Vec<wit::StoredNotification>| found.iter().map(notification_bytes).sum();
        ask!(
            self,
            ClientNotifications,
            length(before.as_ref()),
            checked,
            |calls, before| calls.notifications(before, unread_only, limit as usize).await,
            |found| found.into_iter().map(convert::stored_notification).collect::<Vec<_>>(),
            bytes
        )
    }

    async fn unread_notifications(&mut self) -> Answer<u32> {
        ask!(
            self,
            ClientUnreadNotifications,
            0,
            Ok(()),
            |calls, _all| calls.notifications_unread().await,
            |found| found,
            nothing
        )
    }

    async fn unread_total(&mut self) -> Answer<u32> {
        ask!(
            self,
            ClientUnreadTotal,
            0,
            Ok(()),
            |calls, _all| calls.unread_total().await,
            |found| found,
            nothing
        )
    }

    async fn presence_of(&mut self, users: Vec<String>) -> Answer<Vec<client::Presence>> {
        let bytes = users.iter().map(String::len).sum();
        let users: Vec<UserId> = users.into_iter().map(UserId::from).collect();
        let shown = |found: Vec<(bool, Option<i64>)>| -> Vec<client::Presence> {
            let presence = |(user, (online, seen)): (&UserId, (bool, Option<i64>))| client::Presence {
                user_id: user.to_string(),
                online,
                last_seen_ms: seen.map(convert::millis),
            };
            users.iter().zip(found).map(presence).collect()
        };
        ask!(
            self,
            ClientPresenceOf,
            bytes,
            Ok(&users),
            |calls, users| calls.presence_of(users).await,
            |found| shown(found),
            nothing
        )
    }

    fn online_users(&mut self, limit: u32) -> Answer<Vec<String>> {
        let Some(side) = self.client(0)? else { return Ok(Err(starting())) };
        let answer = side.calls().and_then(|calls| calls.online_users(limit as usize));
        let users: Result<Vec<String>, Refusal> = answer.map(|users| users.iter().map(ToString::to_string).collect());
        if let Ok(users) = &users {
            self.carry(users.iter().map(String::len).sum())?;
        }
        Ok(self.client_answer(HostFn::ClientOnlineUsers, users))
    }
}
