//! What a connection's frames mean: login, requests, subscriptions. Knows no socket and never waits.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use haggle_engine::{Actor, Refusal, Reply, Request, Subscriber, Transport};
use haggle_model::{ConversationId, ErrorCode, Seq};
use tokio::time::Instant;

use super::{
    bucket::Bucket,
    encode::{self, Answer},
    frame::{self, Message, Violation},
    protocol::{BadFrame, Batch, Cursors, Frame, FrameType, Id},
    resume::{self, Login, LoginError, Registered},
    socket::Socket,
};
use crate::{AuthError, Gateway, Identity, eager, metrics::AUTH_FAILURES, settings::WsSettings};

/// Failed logins of one connection.
const LOGIN_ATTEMPTS_MAX: u8 = 3;
/// How long a client whose token has ended may take to bring a new one.
const EXPIRED_GRACE: Duration = Duration::from_secs(3);
/// A token's end is looked at again at least so often.
const EXPIRY_LOOKED_AT_MAX: Duration = Duration::from_secs(3600);
/// Frames beyond the rate that are refused one by one before the connection is closed, in bursts.
const EXCESS_BURSTS_MAX: u32 = 2;

/// Close codes of this protocol.
pub(super) mod close {
    /// The server stops; come back.
    pub const DRAIN: u16 = 4001;
    /// The client does not take what is sent to it.
    pub const SLOW: u16 = 4008;
    /// Nothing was heard for too long.
    pub const SILENT: u16 = 4009;
    /// Too many frames or connections.
    pub const RATE: u16 = 4029;
    /// No valid token in time.
    pub const UNAUTHENTICATED: u16 = 4501;
    /// Not allowed to be here.
    pub const FORBIDDEN: u16 = 4503;
    /// Another session took its place.
    pub const REPLACED: u16 = 4509;
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer closed, with this code.
    Peer(Option<u16>),
    /// The server closes.
    Server {
        /// The close code.
        code: u16,
        /// For the close frame.
        reason: &'static str,
        /// For metrics and the after-connection hook.
        word: &'static str,
    },
}

impl End {
    pub fn server(code: u16, reason: &'static str, word: &'static str) -> End {
        End::Server { code, reason, word }
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> End {
        End::server(violation.code, violation.reason, "violation")
    }
}

type LoginFuture = Pin<Box<dyn Future<Output = Result<Login, LoginError>> + Send>>;

/// A login on its way, with what its frame asked for.
pub(super) struct Pending {
    pub future: LoginFuture,
    id: Id,
    cursors: Cursors,
    me: Option<Seq>,
    /// The answer counts as one to a request.
    is_request: bool,
}

/// See the module.
pub(super) struct Session {
    socket: Arc<Socket>,
    /// Who it is, from the login on.
    actor: Option<Actor>,
    /// While one is on its way no frame is read.
    pub pending: Option<Box<Pending>>,
    /// When the token ends, in seconds since the Unix epoch.
    expires_at: i64,
    /// The same by the monotonic clock, as it looked at the login.
    expires: Instant,
    expired: Option<Instant>,
    attempts: u8,
    bucket: Bucket,
    excess: u32,
}

impl Session {
    /// A session that has to log in; with an identity it does so at once.
    pub fn new(socket: Arc<Socket>, identity: Option<Identity>, now: Instant) -> Session {
        let settings = &socket.gateway.settings.ws;
        let bucket = Bucket::full(settings.frames_burst, now);
        socket.control(|out| encode::hello(out, settings));
        let pending = identity.map(|identity| {
            let future = Box::pin(resume::login_as(socket.gateway.clone(), identity));
            Box::new(Pending {
                future,
                id: Id::None,
                cursors: Cursors::default(),
                me: None,
                is_request: false,
            })
        });
        Session {
            socket,
            actor: None,
            pending,
            expires_at: 0,
            expires: now,
            expired: None,
            attempts: 0,
            bucket,
            excess: 0,
        }
    }

    fn gateway(&self) -> &Arc<Gateway> {
        &self.socket.gateway
    }

    fn settings(&self) -> &WsSettings {
        &self.socket.gateway.settings.ws
    }

    /// Somebody is logged in.
    pub fn is_open(&self) -> bool {
        self.actor.is_some()
    }

    /// Who it is.
    pub fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// How large a message may be now.
    pub fn message_bytes_max(&self) -> usize {
        let settings = self.settings();
        if self.is_open() {
            settings.message_bytes_max
        } else {
            settings.message_bytes_before_auth_max
        }
    }

    /// Takes one message from the peer.
    pub fn handle(&mut self, message: Message<'_>, now: Instant) -> Result<(), End> {
        match message {
            Message::Text(text) => self.text(text, now),
            Message::Ping(payload) => {
                if self.admit(now)?.is_ok() {
                    self.socket.pong(payload);
                }
                Ok(())
            }
            Message::Pong => self.admit(now).map(drop),
            // The reader of this protocol does not take them.
            Message::Binary(_) => Err(End::server(frame::code::UNSUPPORTED, "binary messages are not supported", "violation")),
            Message::Close(code) => Err(End::Peer(code)),
        }
    }

    fn text(&mut self, text: &str, now: Instant) -> Result<(), End> {
        let text = text.trim_ascii();
        if !text.starts_with('[') {
            return self.frame(text, false, now);
        }
        match Batch::decode(text, self.settings().batch_max) {
            Ok(Batch(frames)) => frames.into_iter().try_for_each(|frame| self.frame(frame.get(), true, now)),
            Err(refusal) => {
                self.refuse(&Id::None, &refusal);
                self.admit(now).map(drop)
            }
        }
    }

    fn frame(&mut self, json: &str, in_batch: bool, now: Instant) -> Result<(), End> {
        self.gateway().connections.metrics().received.increment(1);
        let admitted = self.admit(now)?;
        if is_sign_of_life(json) {
            return Ok(());
        }
        let frame = match Frame::decode(json) {
            Ok(frame) => frame,
            Err(BadFrame { id, refusal }) => {
                self.refuse(&id, &refusal);
                return Ok(());
            }
        };
        let id = frame.id.clone();
        let done = match admitted {
            Err(wait) => Err(Refusal::new(ErrorCode::RateLimited, "too many frames on this connection").after(wait)),
            Ok(()) if in_batch && frame.t.as_deref() == Some("auth") => Err(Refusal::bad("/t", "/t: auth must stand alone")),
            Ok(()) => self.request(frame),
        };
        done.unwrap_or_else(|refusal| self.refuse(&id, &refusal));
        Ok(())
    }

    /// Counts a frame against the rate. Who goes far beyond it is closed.
    fn admit(&mut self, now: Instant) -> Result<Result<(), Duration>, End> {
        let (rate, burst) = (self.settings().frames_per_second, self.settings().frames_burst);
        let admitted = self.bucket.take(now, rate, burst);
        self.excess = if admitted.is_ok() {
            self.excess.saturating_sub(1)
        } else {
            self.excess + 1
        };
        if self.excess > burst.saturating_mul(EXCESS_BURSTS_MAX) {
            return Err(End::server(close::RATE, "too many frames", "rate"));
        }
        Ok(admitted)
    }

    fn refuse(&self, id: &Id, refusal: &Refusal) {
        metrics::counter!(crate::metrics::REFUSED, "code" => refusal.code.as_str()).increment(1);
        self.socket.control(|out| encode::err(out, id, None, refusal));
    }

    fn ok(&self, id: &Id) {
        if *id != Id::None {
            self.socket.control(|out| encode::ok(out, id));
        }
    }

    fn request(&mut self, frame: Frame<'_>) -> Result<(), Refusal> {
        match frame.frame_type()? {
            Some(FrameType::Auth) => self.auth(frame),
            Some(FrameType::Ping) => {
                self.ok(&frame.id);
                Ok(())
            }
            Some(FrameType::Sub) => self.subscribe(self.admitted()?, &frame),
            Some(FrameType::Unsub) => {
                self.admitted()?;
                self.socket.unsubscribe(frame.conversation()?);
                self.ok(&frame.id);
                Ok(())
            }
            Some(FrameType::Read) => self.mark(self.admitted()?, &frame, true),
            Some(FrameType::Delivered) => self.mark(self.admitted()?, &frame, false),
            Some(FrameType::Typing) => {
                let actor = self.admitted()?;
                let on = frame.on.ok_or_else(|| Refusal::bad("/on", "/on: expected true or false"))?;
                self.gateway().engine.typing(actor, frame.conversation()?, on);
                self.ok(&frame.id);
                Ok(())
            }
            Some(FrameType::Send) => self.command(&frame, Answer::Message),
            Some(FrameType::Create) => self.command(&frame, Answer::Conversation),
            Some(FrameType::Call) => self.command(&frame, Answer::Call),
            Some(FrameType::Edit | FrameType::Delete | FrameType::React) => self.command(&frame, Answer::Change),
            None => {
                self.admitted()?;
                Err(unknown_type())
            }
        }
    }

    /// Who it is; refused before the login and after the token's end.
    fn admitted(&self) -> Result<&Actor, Refusal> {
        let Some(actor) = &self.actor else {
            return Err(Refusal::new(ErrorCode::Unauthenticated, "auth first"));
        };
        if self.expired.is_some() {
            return Err(Refusal::new(ErrorCode::TokenExpired, "Token expired"));
        }
        Ok(actor)
    }

    fn command(&self, frame: &Frame<'_>, kind: Answer) -> Result<(), Refusal> {
        let actor = self.admitted()?;
        let command = frame.command(&actor.user)?.ok_or_else(unknown_type)?;
        let client_id = frame.key()?;
        let reply = self.reply(&frame.id, kind)?;
        let request = Request {
            actor: actor.clone(),
            client_id,
            trace_id: String::new(),
            command,
        };
        self.gateway().engine.submit(request, reply);
        Ok(())
    }

    fn mark(&self, actor: &Actor, frame: &Frame<'_>, read: bool) -> Result<(), Refusal> {
        let (conversation, seq) = (frame.conversation()?, frame.seq()?);
        let (delivered, read) = if read { (None, Some(seq)) } else { (Some(seq), None) };
        let reply = if frame.id == Id::None {
            None
        } else {
            Some(self.reply(&frame.id, Answer::Change)?)
        };
        self.gateway().engine.mark(actor, conversation, delivered, read, reply);
        Ok(())
    }

    /// Counts a request and says how it is answered: straight into the outbox, from whichever thread.
    fn reply(&self, id: &Id, kind: Answer) -> Result<Reply, Refusal> {
        self.begin()?;
        let (socket, id) = (self.socket.clone(), id.clone());
        Ok(Box::new(move |result| match result {
            Ok(_) if id == Id::None => socket.end_answered_request(),
            Ok(outcome) => socket.end_request(|out| encode::outcome(out, &id, kind, &outcome)),
            Err(refusal) => socket.end_request(|out| encode::err(out, &id, None, &refusal)),
        }))
    }

    fn begin(&self) -> Result<(), Refusal> {
        if self.socket.begin_request() {
            return Ok(());
        }
        let max = self.settings().requests_in_flight_max;
        Err(Refusal::new(ErrorCode::Overloaded, format!("{max} requests of this connection wait for their answer")).after(Duration::from_millis(100)))
    }

    fn subscribe(&self, actor: &Actor, frame: &Frame<'_>) -> Result<(), Refusal> {
        let conversation = frame.conversation()?;
        self.begin()?;
        let Some(generation) = self.socket.register(conversation) else {
            self.socket.end_answered_request();
            return Err(too_many_subscriptions(self.settings()));
        };
        let subscription = Registered {
            conversation,
            generation,
            since: frame.since,
        };
        eager::spawn(resume::answer_subscribe(
            self.socket.clone(),
            actor.clone(),
            subscription,
            frame.id.clone(),
        ));
        Ok(())
    }

    // Logging in.

    fn auth(&mut self, frame: Frame<'_>) -> Result<(), Refusal> {
        let Some(token) = frame.token.filter(|token| !token.is_empty()) else {
            return Err(Refusal::new(ErrorCode::Unauthenticated, AuthError::Missing.to_string()));
        };
        let cursors = frame.cur.unwrap_or_default();
        let max = self.settings().cursors_max;
        if cursors.0.len() > max {
            return Err(Refusal::new(
                ErrorCode::TooLarge,
                format!("/cur: {} cursors, at most {max}", cursors.0.len()),
            ));
        }
        let future = Box::pin(resume::login(self.gateway().clone(), token.to_string()));
        self.pending = Some(Box::new(Pending {
            future,
            id: frame.id,
            cursors,
            me: frame.me,
            is_request: true,
        }));
        Ok(())
    }

    /// The login on its way has ended.
    pub fn finish_login(&mut self, pending: Pending, result: Result<Login, LoginError>) -> Result<(), End> {
        let refusal = match result {
            Ok(login) => return self.enter(pending, login),
            Err(LoginError::Token(error)) => {
                metrics::counter!(AUTH_FAILURES, "reason" => error.as_str()).increment(1);
                error.into()
            }
            Err(LoginError::Refused(refusal)) => refusal,
        };
        self.refuse(&pending.id, &refusal);
        self.attempts += 1;
        if self.attempts >= LOGIN_ATTEMPTS_MAX || !pending.is_request {
            return Err(End::server(close::UNAUTHENTICATED, "not authenticated", "auth"));
        }
        Ok(())
    }

    fn enter(&mut self, pending: Pending, login: Login) -> Result<(), End> {
        let Login { identity, personal } = login;
        let first = match self.socket.known_user() {
            None => {
                let (connections, max) = (&self.gateway().connections, self.settings().connections_per_user_max);
                if !connections.enter(&identity.user, max) {
                    self.refuse(
                        &pending.id,
                        &Refusal::new(ErrorCode::RateLimited, format!("at most {max} connections of one user")),
                    );
                    return Err(End::server(close::RATE, "too many connections of this user", "rate"));
                }
                true
            }
            Some(user) if *user != identity.user => {
                self.refuse(&pending.id, &Refusal::forbidden("this connection is another user's"));
                return Err(End::server(close::FORBIDDEN, "another user's token", "auth"));
            }
            Some(_) => false,
        };
        self.expires_at = identity.expires_at;
        self.watch_expiry(Instant::now());
        (self.expired, self.attempts) = (None, 0);
        self.socket.identify(identity.user.clone(), personal.0, identity.roles.clone());
        let actor = Actor {
            user: identity.user,
            roles: identity.roles,
            session: self.socket.id.clone(),
            transport: Transport::Ws,
            dialect: Arc::from(Actor::NATIVE),
        };
        self.actor = Some(actor.clone());
        let own = (first || pending.me.is_some()).then(|| self.socket.register(personal.0)).flatten();
        if first {
            self.gateway().engine.connect(self.socket.clone());
        }
        // A login by the head of the handshake is told as well, although nobody asked by a frame.
        if pending.id != Id::None || !pending.is_request {
            let login = encode::LoggedIn {
                user: &actor.user,
                connection: &self.socket.id,
                expires_at: self.expires_at,
                me: personal,
            };
            self.socket.control(|out| encode::logged_in(out, &pending.id, &login));
        }
        self.resume(actor, own.map(|generation| (generation, personal)), pending);
        Ok(())
    }

    /// Registers every cursor at once, so that no live event is lost, and replays them one after the other.
    fn resume(&self, actor: Actor, own: Option<(u32, (ConversationId, Seq))>, pending: Pending) {
        let mut cursors = Vec::with_capacity(pending.cursors.0.len());
        for (conversation, since) in pending.cursors.0 {
            match self.socket.register(conversation) {
                Some(generation) => cursors.push(Registered {
                    conversation,
                    generation,
                    since: Some(since),
                }),
                None => self
                    .socket
                    .control(|out| encode::err(out, &Id::None, Some(conversation), &too_many_subscriptions(self.settings()))),
            }
        }
        let own = own.map(|(generation, (conversation, head))| {
            (
                Registered {
                    conversation,
                    generation,
                    since: pending.me,
                },
                head,
            )
        });
        if own.is_some() || !cursors.is_empty() {
            eager::spawn(resume::start(self.socket.clone(), actor, own, cursors));
        }
    }

    // Time.

    /// When the token ends, or its grace.
    pub fn expires(&self) -> Option<Instant> {
        self.actor
            .as_ref()
            .map(|_| self.expired.map_or(self.expires, |since| since + EXPIRED_GRACE))
    }

    /// Warns a client whose token has ended, and closes some seconds later unless it has brought a new one.
    pub fn check_expiry(&mut self, now: Instant) -> Result<(), End> {
        if !self.is_open() {
            return Ok(());
        }
        if let Some(since) = self.expired {
            let over = now >= since + EXPIRED_GRACE;
            return if over {
                Err(End::server(close::UNAUTHENTICATED, "token expired", "auth"))
            } else {
                Ok(())
            };
        }
        if !self.watch_expiry(now) {
            self.expired = Some(now);
            self.refuse(&Id::None, &AuthError::Expired.into());
        }
        Ok(())
    }

    /// Sets when to look at the token again; `false` when its time is over. The wall clock decides, and may have been set.
    fn watch_expiry(&mut self, now: Instant) -> bool {
        let left_ms = self.expires_at.saturating_mul(1000).saturating_sub(self.gateway().engine.now());
        self.expires = now + Duration::from_millis(left_ms.max(0) as u64).min(EXPIRY_LOOKED_AT_MAX);
        left_ms > 0
    }

    /// Leaves the engine, once.
    pub fn leave(&mut self, word: &str) {
        self.pending = None;
        if let Some(actor) = self.actor.take() {
            self.gateway().engine.disconnect(&*self.socket as &dyn Subscriber, word);
            self.gateway().connections.leave(&actor.user);
        }
    }
}

fn unknown_type() -> Refusal {
    Refusal::new(ErrorCode::UnknownType, "the server does not know this type of frame")
}

/// An empty object.
fn is_sign_of_life(json: &str) -> bool {
    let inside = json.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inside.is_some_and(|inside| inside.trim_ascii().is_empty())
}

fn too_many_subscriptions(settings: &WsSettings) -> Refusal {
    Refusal::new(
        ErrorCode::TooLarge,
        format!("at most {} subscriptions of one connection", settings.subscriptions_max),
    )
}

/// How a reason of [`Subscriber::close`] ends the connection.
pub(super) fn end_for(reason: &'static str) -> End {
    match reason {
        "drain" => End::server(close::DRAIN, "drain", "drain"),
        "revoked" => End::server(close::UNAUTHENTICATED, "revoked", "revoked"),
        "replaced" => End::server(close::REPLACED, "replaced", "replaced"),
        reason => End::server(close::FORBIDDEN, reason, reason),
    }
}

/// The reason word of an end by the peer.
pub(super) const PEER: &str = "closed";

impl End {
    /// The code and reason to close with, and the word for metrics; a peer's code is echoed.
    pub fn parts(self) -> (Option<u16>, &'static str, &'static str) {
        match self {
            End::Peer(code) => (code, "", PEER),
            End::Server { code, reason, word } => (Some(code), reason, word),
        }
    }
}
