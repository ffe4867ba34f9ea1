//! A user in the namespace of conversations: its events become engine commands, and the engine's pushes its events.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use haggle_engine::{Actor, Command, Published, Push, Refusal, Reply, Request, Subscriber, To, What};
use haggle_model::{ConversationId, ConversationKind, ErrorCode, Event, MessageId, Millis, Seq, UserId};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    client, encode,
    engineio::session::{By, Session},
    metrics::Reason,
    recovery::{self, AwaySince, Ring},
};
use crate::{
    Gateway, Identity,
    decode::{self, DecodeError, MessageBody},
    resource::{ConversationContext, ConversationResource},
};

/// Participants that a conversation is shown with.
const PARTICIPANTS_SHOWN: usize = 256;
/// A client's own id of a command, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 128;

/// See the module.
pub(crate) struct Chat {
    /// The id of the namespace's socket, as the client knows it.
    id: Arc<str>,
    me: Weak<Chat>,
    gateway: Arc<Gateway>,
    user: UserId,
    /// The secret by which the client is known again after a cut.
    pid: Option<Box<str>>,
    pub(super) place: Mutex<Place>,
    /// What `place` says, for the hub.
    away: AtomicBool,
    state: Mutex<State>,
}

/// Where the client is.
pub(super) struct Place {
    /// That carries what is said to the client; over, when the client is away.
    pub session: Arc<Session>,
    pub away: Option<AwaySince>,
    /// What the client gets after a cut.
    pub ring: Option<Box<Ring>>,
}

struct State {
    roles: Arc<[String]>,
    expires_at: i64,
    joined: BTreeSet<ConversationId>,
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
    /// `pid`: of a client that may be recovered.
    pub fn new(session: Arc<Session>, id: Arc<str>, pid: Option<Box<str>>, identity: Identity) -> Arc<Chat> {
        let ring = pid.is_some().then(|| session.gateway.socketio.recovery.ring());
        let gateway = session.gateway.clone();
        let place = Place { session, away: None, ring };
        Arc::new_cyclic(|me| Chat {
            id,
            me: me.clone(),
            gateway,
            user: identity.user,
            pid,
            place: Mutex::new(place),
            away: AtomicBool::new(false),
            state: Mutex::new(State {
                roles: identity.roles,
                expires_at: identity.expires_at,
                joined: BTreeSet::new(),
            }),
        })
    }

    /// The secret by which the client is known again.
    pub fn pid(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    fn session(&self) -> Arc<Session> {
        self.place.lock().session.clone()
    }

    /// Takes on what another token of the same user says.
    pub fn authenticated(&self, identity: Identity) {
        let mut state = self.state.lock();
        (state.roles, state.expires_at) = (identity.roles, identity.expires_at);
    }

    /// Tells the hub's side what the place says. Called by [`haggle_engine::hub::Hub::change`] alone.
    pub fn note_away(&self) {
        self.away.store(self.place.lock().away.is_some(), Ordering::Release);
    }

    /// The client did not come back.
    pub fn forget(&self) {
        self.gateway.engine.disconnect(self, "not recovered");
    }

    /// Asks who is there in the conversations that were joined.
    pub fn see_presence(self: &Arc<Self>) {
        let joined = self.state.lock().joined.clone();
        for conversation in joined {
            self.gateway.engine.joined(&(self.clone() as Arc<dyn Subscriber>), conversation);
        }
    }

    /// When the token ends.
    pub fn expires_at_ms(&self) -> Millis {
        self.state.lock().expires_at.saturating_mul(1000)
    }

    fn now(&self) -> Millis {
        self.gateway.engine.now()
    }

    fn namespace(&self) -> &str {
        &self.gateway.settings.socketio.namespace
    }

    fn actor(&self) -> Actor {
        Actor {
            user: self.user.clone(),
            roles: self.state.lock().roles.clone(),
            session: self.id.clone(),
            transport: "socketio",
            dialect: Arc::from("s1"),
        }
    }

    /// One event of the client.
    pub async fn event(self: &Arc<Self>, name: &str, args: &[&RawValue], ack: Option<u64>) {
        let json = args.first().map_or("{}", |arg| arg.get());
        let begun = match name {
            "join_conversation" => match Box::pin(self.join(json)).await {
                Ok(head) => return self.answer(ack, Ok(format!(r#"{{"seq":{head}}}"#))),
                Err(refusal) => Err(refusal),
            },
            "leave_conversation" => self.leave(json),
            "send_message" => self.send(json, ack),
            "mark_read" => self.mark_read(json, ack),
            "typing_start" => self.typing(json, true),
            "typing_stop" => self.typing(json, false),
            "user_online" => self.online(json),
            "command" => self.command(json, ack),
            "authenticate" => return Box::pin(self.authenticate(json, ack)).await,
            _ => Err(Refusal::new(ErrorCode::UnknownType, "the server does not know this event")),
        };
        match begun {
            Ok(Begun::Later) => {}
            Ok(Begun::Done) => self.answer(ack, Ok("{}".to_owned())),
            Err(refusal) => self.answer(ack, Err(refusal)),
        }
    }

    fn answer(&self, ack: Option<u64>, result: Result<String, Refusal>) {
        let write = |data: String| move |out: &mut Vec<u8>| out.extend_from_slice(data.as_bytes());
        encode::answer(&self.session(), self.namespace(), ack, result.map(write));
    }

    /// Returns the seq of the last event: what comes after it is pushed.
    async fn join(self: &Arc<Self>, json: &str) -> Result<Seq, Refusal> {
        let conversation = conversation_of(json)?;
        let engine = &self.gateway.engine;
        let (row, member) = engine.authorize_read(&self.actor(), conversation).await?;
        if member.is_none() {
            return Err(Refusal::forbidden("only participants can join"));
        }
        let max = self.gateway.settings.ws.subscriptions_max;
        {
            let joined = &mut self.state.lock().joined;
            if joined.len() >= max && !joined.contains(&conversation) {
                return Err(Refusal::new(ErrorCode::TooLarge, format!("at most {max} conversations can be joined")));
            }
            joined.insert(conversation);
        }
        engine.joined(&(self.clone() as Arc<dyn Subscriber>), conversation);
        Ok(row.head)
    }

    fn leave(&self, json: &str) -> Result<Begun, Refusal> {
        let conversation = conversation_of(json)?;
        self.state.lock().joined.remove(&conversation);
        Ok(Begun::Done)
    }

    fn send(self: &Arc<Self>, json: &str, ack: Option<u64>) -> Result<Begun, Refusal> {
        let body: Send<'_> = decode::parse(json.as_bytes())?;
        let in_message = |error: DecodeError| DecodeError {
            pointer: format!("/message{}", error.pointer),
            ..error
        };
        let message = decode::parse::<MessageBody<'_>>(body.message.get().as_bytes()).map_err(in_message)?;
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
        let body: Call<'_> = decode::parse(json.as_bytes())?;
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
        self.gateway.engine.submit(request, self.reply(ack, write));
        Ok(Begun::Later)
    }

    /// Counts a request and says how it is answered, from whichever thread.
    fn reply(self: &Arc<Self>, ack: Option<u64>, write: fn(&mut Vec<u8>, &haggle_engine::Outcome)) -> Reply {
        let (chat, session) = (self.clone(), self.session());
        session.begin_request();
        Box::new(move |result| {
            let result = result.map(|outcome| move |out: &mut Vec<u8>| write(out, &outcome));
            encode::answer(&session, chat.namespace(), ack, result);
            session.end_request();
        })
    }

    fn mark_read(self: &Arc<Self>, json: &str, ack: Option<u64>) -> Result<Begun, Refusal> {
        let body: MarkRead = decode::parse(json.as_bytes())?;
        let message: MessageId = parsed("/messageId", &body.message_id)?;
        let conversation = body.conversation_id.as_deref().map(|id| parsed("/conversationId", id)).transpose()?;
        if conversation.is_some_and(|conversation: ConversationId| conversation != message.conversation) {
            return Err(Refusal::bad("/messageId", "/messageId: of another conversation"));
        }
        let reply = self.reply(ack, |out, _| out.extend_from_slice(b"{}"));
        let engine = &self.gateway.engine;
        engine.mark(&self.actor(), message.conversation, None, Some(message.seq), Some(reply));
        Ok(Begun::Later)
    }

    fn typing(&self, json: &str, on: bool) -> Result<Begun, Refusal> {
        let conversation = conversation_of(json)?;
        self.gateway.engine.typing(&self.actor(), conversation, on);
        Ok(Begun::Done)
    }

    fn online(&self, json: &str) -> Result<Begun, Refusal> {
        let body: Online = decode::parse(json.as_bytes())?;
        self.gateway.engine.presence_hint(&self.actor(), body.is_online);
        Ok(Begun::Done)
    }

    /// A new token of the same user.
    async fn authenticate(&self, json: &str, ack: Option<u64>) {
        let identity = match decode::parse::<Authenticate>(json.as_bytes()) {
            Ok(Authenticate { token }) => client::identity(&self.gateway, &token).await,
            Err(error) => Err(error.into()),
        };
        let renewed = identity.and_then(|identity| {
            if identity.user != self.user {
                return Err(Refusal::forbidden("this connection is another user's"));
            }
            let answer = client::authenticated_json(&identity);
            self.authenticated(identity);
            Ok(answer)
        });
        if renewed.is_ok() {
            self.session().call_spaces_at(Some(tokio::time::Instant::now())); // Which finds out when to look again.
        }
        self.answer(ack, renewed);
    }

    // Out.

    fn to(&self) -> encode::To<'_> {
        let offsets = self.pid.is_some().then(|| self.gateway.socketio.recovery.offsets());
        encode::To {
            namespace: self.namespace(),
            offsets,
        }
    }

    fn push(&self, push: &Arc<Push>) {
        let frames = push.encoded(encode::SLOT, |what| encode::push(self.to(), self.now(), what));
        if frames.is_empty() {
            return;
        }
        let mut place = self.place.lock();
        if encode::is_volatile(&push.what) {
            place.session.push(frames);
        } else {
            recovery::push(&mut place, frames);
        }
    }

    fn offer_event(&self, push: &Arc<Push>, published: &Published) {
        if let Event::ParticipantJoined { user, .. } = &published.entry.event
            && *user == self.user
            && published.kind != ConversationKind::Personal
            && let Some(chat) = self.me.upgrade()
        {
            let conversation = published.entry.conversation;
            let runtime = self.gateway.socketio.runtime();
            runtime.spawn(async move { tell_new_conversation(&chat, conversation).await });
        }
        self.push(push);
    }
}

/// Shows a conversation to somebody who has just come into it.
async fn tell_new_conversation(chat: &Chat, conversation: ConversationId) {
    let (engine, user) = (&chat.gateway.engine, &chat.user);
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
    recovery::push(&mut chat.place.lock(), frames);
}

fn conversation_of(json: &str) -> Result<ConversationId, Refusal> {
    let body: InConversation = decode::parse(json.as_bytes())?;
    parsed("/conversationId", &body.conversation_id)
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| Refusal::bad(field, format!("{field}: {error}")))
}

impl Subscriber for Chat {
    fn id(&self) -> &str {
        &self.id
    }

    fn user(&self) -> &UserId {
        &self.user
    }

    fn has_role(&self, role: &str) -> bool {
        self.state.lock().roles.iter().any(|r| r == role)
    }

    fn transport(&self) -> &'static str {
        "socketio"
    }

    fn subscribed(&self, conversation: ConversationId) -> bool {
        !self.is_away() && self.state.lock().joined.contains(&conversation)
    }

    fn offer(&self, push: &Arc<Push>) {
        match &push.what {
            What::Event(published) => self.offer_event(push, published),
            // The engine asks who has joined; the typist is not told.
            What::Typing { user, .. } if *user == self.user => {}
            _ => self.push(push),
        }
    }

    fn ended(&self, conversation: ConversationId) {
        self.state.lock().joined.remove(&conversation);
    }

    fn close(&self, reason: &'static str) {
        self.session().close(Reason::of_close(reason), By::Server);
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }
}
