//! A user in the namespace of conversations: its events become engine commands, and the engine's pushes its events.

use std::sync::{Arc, Weak};

use haggle_engine::{Actor, Command, Published, Push, Refusal, Reply, Request, Subscriber, To, Transport, What};
use haggle_model::{ConversationId, ConversationKind, ErrorCode, Event, MessageId, Millis, UserId};
use haggle_store::ConversationRow;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    client::{self, Space},
    dialects::Dialect,
    encode,
    metrics::Reason,
    place::{Place, Seated},
};
use crate::{
    decode::{self, DecodeError, MessageBody},
    eager,
    resource::{ConversationContext, ConversationResource},
};

/// Participants that a conversation is shown with.
const PARTICIPANTS_SHOWN: usize = 256;
/// A client's own id of a command, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 128;

/// See the module.
pub(super) struct Chat {
    place: Place,
    me: Weak<Chat>,
}

/// What a client can say.
#[derive(Clone, Copy, Debug)]
enum ClientEvent {
    Join,
    Leave,
    Send,
    MarkRead,
    TypingStart,
    TypingStop,
    UserOnline,
    Command,
    Authenticate,
}

const CLIENT_EVENTS: &[(&str, ClientEvent)] = &[
    ("send_message", ClientEvent::Send),
    ("mark_read", ClientEvent::MarkRead),
    ("typing_start", ClientEvent::TypingStart),
    ("typing_stop", ClientEvent::TypingStop),
    ("join_conversation", ClientEvent::Join),
    ("leave_conversation", ClientEvent::Leave),
    ("command", ClientEvent::Command),
    ("user_online", ClientEvent::UserOnline),
    ("authenticate", ClientEvent::Authenticate),
];

/// Every event that a client of the chat sends.
pub fn chat_events() -> impl Iterator<Item = &'static str> {
    CLIENT_EVENTS.iter().map(|(name, _)| *name)
}

/// `authenticate`.
#[derive(Deserialize)]
pub(crate) struct Authenticate {
    pub token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InConversation {
    conversation_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Send<'a> {
    conversation_id: String,
    #[serde(borrow)]
    message: &'a RawValue,
    client_message_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MarkRead {
    message_id: String,
    conversation_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Online {
    is_online: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    conversation_id: Option<String>,
    name: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    client_message_id: Option<String>,
}

/// What an event asked for has begun, or is done already.
enum Begun {
    Done,
    /// The answer comes later.
    Later,
}

impl Chat {
    pub fn new(place: Place) -> Arc<Chat> {
        Arc::new_cyclic(|me| Chat { place, me: me.clone() })
    }

    fn now(&self) -> Millis {
        self.place.gateway.engine.now()
    }

    fn namespace(&self) -> &str {
        &self.place.gateway.settings.socketio.namespace
    }

    fn actor(&self) -> Actor {
        self.place.actor("s1")
    }

    /// One event of the client.
    pub async fn event(self: &Arc<Self>, name: &str, args: &[&RawValue], ack: Option<u64>) {
        let json = args.first().map_or("{}", |arg| arg.get());
        let event = CLIENT_EVENTS.iter().find(|(known, _)| *known == name);
        let begun = match event.map(|(_, event)| *event) {
            Some(ClientEvent::Join) => match Box::pin(self.join(json)).await {
                Ok(row) => {
                    self.answer(ack, Ok(format!(r#"{{"seq":{}}}"#, row.head)));
                    return self.show_presence(row);
                }
                Err(refusal) => Err(refusal),
            },
            Some(ClientEvent::Leave) => self.leave(json),
            Some(ClientEvent::Send) => self.send(json, ack),
            Some(ClientEvent::MarkRead) => self.mark_read(json, ack),
            Some(ClientEvent::TypingStart) => self.typing(json, true),
            Some(ClientEvent::TypingStop) => self.typing(json, false),
            Some(ClientEvent::UserOnline) => self.online(json),
            Some(ClientEvent::Command) => self.command(json, ack),
            Some(ClientEvent::Authenticate) => return Box::pin(self.authenticate(json, ack)).await,
            None => Err(Refusal::new(ErrorCode::UnknownType, "the server does not know this event")),
        };
        match begun {
            Ok(Begun::Later) => {}
            Ok(Begun::Done) => self.answer(ack, Ok("{}".to_owned())),
            Err(refusal) => self.answer(ack, Err(refusal)),
        }
    }

    fn answer(&self, ack: Option<u64>, result: Result<String, Refusal>) {
        let write = |data: String| move |out: &mut Vec<u8>| out.extend_from_slice(data.as_bytes());
        encode::answer(&self.place.session(), self.namespace(), ack, result.map(write));
    }

    /// What comes after the conversation's head is pushed.
    async fn join(&self, json: &str) -> Result<ConversationRow, Refusal> {
        let conversation = conversation_of(json)?;
        let engine = &self.place.gateway.engine;
        let (row, member) = engine.authorize_read(&self.actor(), conversation).await?;
        if member.is_none() {
            return Err(Refusal::forbidden("only participants can join"));
        }
        self.place.join(conversation)?;
        Ok(row)
    }

    /// Shows who of the others is there.
    fn show_presence(self: &Arc<Self>, row: ConversationRow) {
        let chat = self.clone();
        eager::spawn(async move {
            let engine = &chat.place.gateway.engine;
            if let Ok(members) = engine.store().members(row.id, None, PARTICIPANTS_SHOWN).await {
                engine.show_presence(&*chat, &row, &members).await;
            }
        });
    }

    fn leave(&self, json: &str) -> Result<Begun, Refusal> {
        let conversation = conversation_of(json)?;
        self.place.leave(conversation);
        Ok(Begun::Done)
    }

    fn send(self: &Arc<Self>, json: &str, ack: Option<u64>) -> Result<Begun, Refusal> {
        let body: Send<'_> = decode::parse(json)?;
        let in_message = |error: DecodeError| DecodeError {
            pointer: format!("/message{}", error.pointer),
            ..error
        };
        let message = decode::parse::<MessageBody<'_>>(body.message.get()).map_err(in_message)?;
        let (message, inner_id) = message.into_message().map_err(in_message)?;
        let to = To::Conversation(parsed("/conversationId", &body.conversation_id)?);
        self.submit(
            Command::Send { to, message },
            inner_id.or(body.client_message_id),
            ack,
            encode::message_answer,
        )
    }

    fn command(self: &Arc<Self>, json: &str, ack: Option<u64>) -> Result<Begun, Refusal> {
        let body: Call<'_> = decode::parse(json)?;
        let payload = body.data.map_or("null", RawValue::get);
        decode::check_json("/data", payload)?;
        let conversation = body.conversation_id.as_deref().map(|id| parsed("/conversationId", id)).transpose()?;
        let command = Command::Call {
            name: body.name,
            conversation,
            payload: payload.to_owned(),
        };
        self.submit(command, body.client_message_id, ack, encode::command_answer)
    }

    fn submit(
        self: &Arc<Self>,
        command: Command,
        client_id: Option<String>,
        ack: Option<u64>,
        write: fn(&mut Vec<u8>, &haggle_engine::Outcome),
    ) -> Result<Begun, Refusal> {
        if client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX) {
            let message = format!("/clientMessageId: expected 1 to {CLIENT_ID_BYTES_MAX} bytes");
            return Err(Refusal::bad("/clientMessageId", message));
        }
        let request = Request::new(self.actor(), command).with_client_id(client_id);
        self.place.gateway.engine.submit(request, self.reply(ack, write));
        Ok(Begun::Later)
    }

    /// Counts a request and says how it is answered, from whichever thread.
    fn reply(self: &Arc<Self>, ack: Option<u64>, write: fn(&mut Vec<u8>, &haggle_engine::Outcome)) -> Reply {
        let (chat, session) = (self.clone(), self.place.session());
        session.begin_request();
        Box::new(move |result| {
            let result = result.map(|outcome| move |out: &mut Vec<u8>| write(out, &outcome));
            encode::answer(&session, chat.namespace(), ack, result);
            session.end_request();
        })
    }

    fn mark_read(self: &Arc<Self>, json: &str, ack: Option<u64>) -> Result<Begun, Refusal> {
        let body: MarkRead = decode::parse(json)?;
        let message: MessageId = parsed("/messageId", &body.message_id)?;
        let conversation = body.conversation_id.as_deref().map(|id| parsed("/conversationId", id)).transpose()?;
        if conversation.is_some_and(|conversation: ConversationId| conversation != message.conversation) {
            return Err(Refusal::bad("/messageId", "/messageId: of another conversation"));
        }
        let reply = self.reply(ack, |out, _| out.extend_from_slice(b"{}"));
        let engine = &self.place.gateway.engine;
        engine.mark(&self.actor(), message.conversation, None, Some(message.seq), Some(reply));
        Ok(Begun::Later)
    }

    fn typing(&self, json: &str, on: bool) -> Result<Begun, Refusal> {
        let conversation = conversation_of(json)?;
        self.place.gateway.engine.typing(&self.actor(), conversation, on);
        Ok(Begun::Done)
    }

    fn online(&self, json: &str) -> Result<Begun, Refusal> {
        let body: Online = decode::parse(json)?;
        self.place.gateway.engine.presence_hint(&self.actor(), body.is_online);
        Ok(Begun::Done)
    }

    /// A new token of the same user.
    async fn authenticate(&self, json: &str, ack: Option<u64>) {
        let identity = match decode::parse::<Authenticate>(json) {
            Ok(Authenticate { token }) => client::identity(&self.place.gateway, &token).await,
            Err(error) => Err(error.into()),
        };
        let renewed = identity.and_then(|identity| {
            let answer = client::authenticated_json(&identity);
            self.place.renew(identity).map(|()| answer)
        });
        if renewed.is_ok() {
            self.place.session().call_spaces_at(Some(tokio::time::Instant::now())); // Which finds out when to look again.
        }
        self.answer(ack, renewed);
    }

    // Out.

    fn to(&self) -> encode::To<'_> {
        let recovers = self.place.gateway.settings.socketio.recovers(self.namespace());
        encode::To {
            namespace: self.namespace(),
            offsets: recovers.then(|| &**self.place.gateway.socketio.recovery.offsets()),
        }
    }

    fn push(&self, push: &Arc<Push>) {
        let frames = push.encoded(encode::SLOT, |what| encode::push(self.to(), self.now(), what));
        if frames.is_empty() {
            return;
        }
        if encode::is_volatile(&push.what) {
            self.place.push_once(frames);
        } else {
            self.place.push(frames);
        }
    }

    fn offer_event(&self, push: &Arc<Push>, published: &Published) {
        if let Event::ParticipantJoined { user, .. } = &published.entry.event
            && *user == self.place.user
            && published.kind != ConversationKind::Personal
            && let Some(chat) = self.me.upgrade()
        {
            let conversation = published.entry.conversation;
            let runtime = self.place.gateway.socketio.runtime();
            runtime.spawn(async move { tell_new_conversation(&chat, conversation).await });
        }
        self.push(push);
    }
}

/// Shows a conversation to somebody who has just come into it.
async fn tell_new_conversation(chat: &Chat, conversation: ConversationId) {
    let (engine, user) = (&chat.place.gateway.engine, &chat.place.user);
    let row = match engine.inbox_row(user, conversation).await {
        Ok(Some(row)) => row,
        Ok(None) => return, // Gone again.
        Err(error) => return tracing::warn!(%error, "a new conversation is not told since the store cannot be read"),
    };
    let members = match engine.store().members(conversation, None, PARTICIPANTS_SHOWN).await {
        Ok(members) => members,
        Err(error) => return tracing::warn!(%error, "a new conversation is not told since the store cannot be read"),
    };
    let participants: Vec<UserId> = members
        .into_iter()
        .filter(|member| member.left_seq.is_none())
        .map(|member| member.user)
        .collect();
    let context = ConversationContext {
        viewer: Some(user),
        participants: &participants,
        last_message: None,
    };
    let resource = ConversationResource::new(&row, context);
    let frames = encode::new_conversation(chat.to(), &resource, row.conversation.head);
    chat.place.push(frames);
}

fn conversation_of(json: &str) -> Result<ConversationId, Refusal> {
    let body: InConversation = decode::parse(json)?;
    parsed("/conversationId", &body.conversation_id)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| Refusal::bad(field, format!("{field}: {error}")))
}

impl Seated for Chat {
    fn place(&self) -> &Place {
        &self.place
    }

    fn dialect(&self) -> Option<&Arc<Dialect>> {
        None
    }

    fn into_space(self: Arc<Self>) -> Space {
        Space::Chat(self)
    }

    /// Asks who is there in the conversations that were joined.
    fn is_back(self: Arc<Self>) {
        let joined: Vec<ConversationId> = self.place.joined().into_iter().collect();
        eager::spawn(async move { self.place.gateway.engine.show_presence_again(&*self, &joined).await });
    }

    fn is_over(self: Arc<Self>, reason: Reason) {
        self.place.gateway.engine.disconnect(&*self, reason.as_str());
    }
}

impl Subscriber for Chat {
    fn id(&self) -> &str {
        &self.place.id
    }

    fn user(&self) -> &UserId {
        &self.place.user
    }

    fn has_role(&self, role: &str) -> bool {
        self.place.has_role(role)
    }

    fn transport(&self) -> Transport {
        Transport::SocketIo
    }

    fn subscribed(&self, conversation: ConversationId) -> bool {
        !self.is_away() && self.place.has_joined(&[conversation])
    }

    fn offer(&self, push: &Arc<Push>) {
        match &push.what {
            What::Event(published) => self.offer_event(push, published),
            // The engine asks who has joined; the typist is not told.
            What::Typing { user, .. } if *user == self.place.user => {}
            _ => self.push(push),
        }
    }

    fn ended(&self, conversation: ConversationId) {
        self.place.leave(conversation);
    }

    fn close(&self, reason: &'static str) {
        self.place.close(Reason::of_close(reason));
    }

    fn is_away(&self) -> bool {
        self.place.is_away()
    }
}
