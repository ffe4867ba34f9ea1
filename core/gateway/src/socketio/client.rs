//! The namespaces of one session: joining, leaving, and which packets are allowed when.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use haggle_engine::{Refusal, Subscriber};
use haggle_model::ErrorCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    chat::{Authenticate, Chat},
    encode,
    engineio::{
        session::{By, Session},
        sessions::new_id,
    },
    metrics::{self, Reason},
    packet::{Assembler, Kind, Packet, Whole},
    recovery::{self, Asked},
};
use crate::{AuthError, Gateway, Identity, decode, metrics::AUTH_FAILURES, settings::SocketIoSettings, ws::bucket::Bucket};

/// Namespaces that one session may be in.
const SPACES_MAX: usize = 16;
/// Questions of an echo namespace that wait for the client's ack; older ones are forgotten.
const QUESTIONS_MAX: usize = 64;
/// A token's end is looked at again at least so often.
const EXPIRY_LOOKED_AT_MAX: Duration = Duration::from_secs(3600);

/// What reading packets of one session needs.
pub(crate) struct Input {
    assembler: Assembler,
    bucket: Bucket,
}

impl Input {
    pub fn new(settings: &SocketIoSettings, now: Instant) -> Input {
        Input {
            assembler: Assembler::default(),
            bucket: Bucket::full(settings.packets_burst, now),
        }
    }
}

/// The namespaces that were joined.
#[derive(Default)]
pub(crate) struct Spaces {
    list: Vec<Space>,
}

enum Space {
    Chat(Arc<Chat>),
    /// Joined without a token, which must come until then.
    Waiting {
        sid: Arc<str>,
        until: Instant,
    },
    Echo(Echo),
}

struct Echo {
    namespace: Box<str>,
    next_ack: u64,
    questions: VecDeque<u64>,
}

/// What a packet is for.
enum Found {
    Chat(Arc<Chat>),
    Waiting,
    Echo,
}

impl Spaces {
    fn position(&self, namespace: &str, chat: &str) -> Option<usize> {
        self.list.iter().position(|space| match space {
            Space::Chat(_) | Space::Waiting { .. } => namespace == chat,
            Space::Echo(echo) => *echo.namespace == *namespace,
        })
    }

    fn find(&self, namespace: &str, chat: &str) -> Option<Found> {
        self.position(namespace, chat).map(|at| match &self.list[at] {
            Space::Chat(chat) => Found::Chat(chat.clone()),
            Space::Waiting { .. } => Found::Waiting,
            Space::Echo(_) => Found::Echo,
        })
    }

    fn echo(&mut self, namespace: &str) -> Option<&mut Echo> {
        self.list.iter_mut().find_map(|space| match space {
            Space::Echo(echo) if *echo.namespace == *namespace => Some(echo),
            _ => None,
        })
    }
}

/// A text message of the session. An error ends it.
pub(crate) async fn message(session: &Arc<Session>, input: &mut Input, text: &str) -> Result<(), Reason> {
    let settings = session.settings();
    // Who is too fast is read later.
    while let Err(wait) = input.bucket.take(Instant::now(), settings.packets_per_second, settings.packets_burst) {
        tokio::time::sleep(wait).await;
    }
    session.has_room().await;
    if input.assembler.is_open() {
        return Err(Reason::ParseError);
    }
    let packet = decoded(session, text)?;
    if !matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck) {
        return handle(session, packet, &VecDeque::new()).await;
    }
    match input.assembler.begin(text, &packet).map_err(|_| Reason::ParseError)? {
        Some(whole) => handle_whole(session, &whole).await,
        None => Ok(()),
    }
}

fn decoded<'a>(session: &Session, text: &'a str) -> Result<Packet<'a>, Reason> {
    Packet::decode(text).map_err(|error| {
        tracing::debug!(%error, sid_key = session.key, "a Socket.IO session ends");
        Reason::ParseError
    })
}

/// A binary message of the session.
pub(crate) async fn binary(session: &Arc<Session>, input: &mut Input, bytes: Bytes) -> Result<(), Reason> {
    let bytes_max = session.settings().payload_bytes_max;
    match input.assembler.part(bytes, bytes_max).map_err(|_| Reason::ParseError)? {
        Some(whole) => handle_whole(session, &whole).await,
        None => Ok(()),
    }
}

async fn handle_whole(session: &Arc<Session>, whole: &Whole) -> Result<(), Reason> {
    handle(session, decoded(session, &whole.text)?, &whole.parts).await
}

async fn handle(session: &Arc<Session>, packet: Packet<'_>, parts: &VecDeque<Bytes>) -> Result<(), Reason> {
    let found = session.spaces.lock().find(packet.namespace, &session.settings().namespace);
    match (packet.kind, found) {
        (Kind::ConnectError, _) => Err(Reason::ParseError),
        (Kind::Connect, None) => {
            connect(session, packet).await;
            Ok(())
        }
        // Twice, or without having joined.
        (Kind::Connect, Some(_)) | (_, None) => Err(Reason::ForcedServerClose),
        (Kind::Disconnect, Some(_)) => {
            leave(session, packet.namespace, Reason::ClientNamespaceDisconnect);
            Ok(())
        }
        (Kind::Ack | Kind::BinaryAck, Some(found)) => {
            if matches!(found, Found::Echo) {
                answered(session, packet, parts);
            }
            Ok(())
        }
        (Kind::Event | Kind::BinaryEvent, Some(found)) => event(session, packet, parts, found).await,
    }
}

async fn event(session: &Arc<Session>, packet: Packet<'_>, parts: &VecDeque<Bytes>, found: Found) -> Result<(), Reason> {
    let (name, args) = packet.event().map_err(|_| Reason::ParseError)?;
    match found {
        Found::Chat(chat) => chat.event(&name, &args, packet.ack).await,
        Found::Waiting => early_event(session, &name, &args, packet.ack).await,
        Found::Echo => echo(session, packet, &name, &args, parts),
    }
    Ok(())
}

// Joining.

async fn connect(session: &Arc<Session>, packet: Packet<'_>) {
    let settings = session.settings();
    let namespace = packet.namespace;
    if session.spaces.lock().list.len() >= SPACES_MAX {
        return refuse(session, namespace, "too many namespaces", None, "refused");
    }
    if settings.echo_namespaces.iter().any(|echo| echo == namespace) {
        let echo = Echo {
            namespace: namespace.into(),
            next_ack: 0,
            questions: VecDeque::new(),
        };
        return joined(session, namespace, &new_id(&settings.node), None, Space::Echo(echo));
    }
    if namespace != settings.namespace {
        tracing::debug!(asked = namespace, have = %settings.namespace, "a Socket.IO client asked for a namespace that is not there (socketio.namespace)");
        return refuse(session, namespace, "Invalid namespace", None, "unknown");
    }
    let token = match token_in(packet.data) {
        Ok(token) => token.or_else(|| session.token.as_deref().map(str::to_owned)),
        Err(error) => return refuse_login(session, &error.into()),
    };
    match token {
        Some(token) => {
            if let Err(refusal) = admit(session, &Asked::of(packet.data), &token).await {
                refuse_login(session, &refusal);
            }
        }
        None if settings.auth_grace > Duration::ZERO => {
            let (sid, until): (Arc<str>, _) = (new_id(&settings.node).into(), Instant::now() + settings.auth_grace);
            joined(session, namespace, &sid.clone(), None, Space::Waiting { sid, until });
            session.call_spaces_at(Some(until));
        }
        None => refuse_login(session, &AuthError::Missing.into()),
    }
}

/// The token of the connect's data.
fn token_in(data: Option<&RawValue>) -> Result<Option<String>, AuthError> {
    #[derive(Deserialize)]
    struct Data {
        token: Option<serde_json::Value>,
    }
    let Some(data) = data else { return Ok(None) };
    let data: Data = serde_json::from_str(data.get()).map_err(|_| AuthError::Invalid)?;
    match data.token {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(token)) if token.is_empty() => Ok(None),
        Some(serde_json::Value::String(token)) => Ok(Some(token)),
        Some(_) => Err(AuthError::Invalid),
    }
}

fn count_connect(result: &'static str) {
    ::metrics::counter!(metrics::CONNECTS, "result" => result).increment(1);
}

fn refuse(session: &Arc<Session>, namespace: &str, message: &str, code: Option<ErrorCode>, result: &'static str) {
    count_connect(result);
    session.push(encode::connect_error(namespace, message, code));
}

fn refuse_login(session: &Arc<Session>, refusal: &Refusal) {
    // Clients of this protocol know two texts about tokens, and one of them says everything but "there is none".
    let message = if refusal.code == ErrorCode::TokenExpired {
        "Invalid token"
    } else {
        &*refusal.message
    };
    if matches!(refusal.code, ErrorCode::Unauthenticated | ErrorCode::TokenExpired) {
        tracing::debug!(
            code = %refusal.code,
            "a Socket.IO client was refused: its token comes in `auth.token`, in the header Authorization, in the query \
             (socketio.query_token) or by `authenticate` (socketio.auth_grace_ms), and must fit [auth]"
        );
    }
    refuse(session, &session.settings().namespace, message, Some(refusal.code), "refused");
}

fn joined(session: &Arc<Session>, namespace: &str, sid: &str, pid: Option<&str>, space: Space) {
    count_connect("joined");
    session.joined();
    session.spaces.lock().list.push(space);
    session.push(encode::connected(namespace, sid, pid));
}

/// A client of the chat is in its place again; the rest is [`super::recovery`]'s.
pub(super) fn rejoined(session: &Arc<Session>, chat: &Arc<Chat>) {
    count_connect("joined");
    session.joined();
    session.spaces.lock().list.push(Space::Chat(chat.clone()));
}

/// Lets a client into the chat: into the place it had, or a new one.
async fn admit(session: &Arc<Session>, asked: &Asked, token: &str) -> Result<(), Refusal> {
    let settings = session.settings();
    let identity = identity(&session.gateway, token).await?;
    if let Some(chat) = recovery::resume(session, asked, &identity)? {
        watch(session, &chat);
        return Ok(());
    }
    let pid = settings.recovers(&settings.namespace).then(|| new_id(&settings.node).into());
    let chat = login(session, new_id(&settings.node).into(), pid, identity).await?;
    joined(session, &settings.namespace, chat.id(), chat.pid(), Space::Chat(chat.clone()));
    entered(session, chat);
    Ok(())
}

/// Makes a chat of an identity. Counts its user.
async fn login(session: &Arc<Session>, sid: Arc<str>, pid: Option<Box<str>>, identity: Identity) -> Result<Arc<Chat>, Refusal> {
    let gateway = &session.gateway;
    gateway.engine.see_user(&identity.user).await?;
    let max = gateway.settings.ws.connections_per_user_max;
    if !gateway.connections.enter(&identity.user, max) {
        return Err(Refusal::new(ErrorCode::RateLimited, format!("at most {max} connections of one user")));
    }
    Ok(Chat::new(session.clone(), sid, pid, identity))
}

/// Who a token speaks for.
pub(super) async fn identity(gateway: &Gateway, token: &str) -> Result<Identity, Refusal> {
    gateway.auth.authenticate(token).await.map_err(|error| {
        ::metrics::counter!(AUTH_FAILURES, "reason" => error.as_str()).increment(1);
        error.into()
    })
}

/// From here on the engine's pushes come.
fn entered(session: &Arc<Session>, chat: Arc<Chat>) {
    session.gateway.socketio.recovery.enter(&chat);
    session.gateway.engine.connect(chat.clone());
    watch(session, &chat);
}

/// Watches the token's time.
fn watch(session: &Arc<Session>, chat: &Chat) {
    session.call_spaces_at(deadline_of(chat, Instant::now()));
    if session.is_over() {
        leave_all(session, Reason::TransportClose); // The end may have missed it.
    }
}

async fn early_event(session: &Arc<Session>, name: &str, args: &[&RawValue], ack: Option<u64>) {
    let namespace = &session.settings().namespace;
    let answer = |result: Result<String, Refusal>| {
        encode::answer(
            session,
            namespace,
            ack,
            result.map(|data| move |out: &mut Vec<u8>| out.extend_from_slice(data.as_bytes())),
        )
    };
    if name != "authenticate" {
        return answer(Err(Refusal::new(ErrorCode::Unauthenticated, AuthError::Missing.to_string())));
    }
    let sid = session.spaces.lock().list.iter().find_map(|space| match space {
        Space::Waiting { sid, .. } => Some(sid.clone()),
        _ => None,
    });
    let Some(sid) = sid else { return };
    let token = match decode::parse::<Authenticate>(args.first().map_or("{}", |arg| arg.get()).as_bytes()) {
        Ok(Authenticate { token }) => token,
        Err(error) => return answer(Err(error.into())),
    };
    let chat = match identity(&session.gateway, &token).await {
        Ok(identity) => login(session, sid, None, identity).await,
        Err(refusal) => Err(refusal),
    };
    match chat {
        Err(refusal) => answer(Err(refusal)),
        Ok(chat) => {
            let data = chat.authenticated_json();
            {
                let mut spaces = session.spaces.lock();
                let waiting = spaces.list.iter_mut().find(|space| matches!(space, Space::Waiting { .. }));
                match waiting {
                    Some(space) => *space = Space::Chat(chat.clone()),
                    // Its time ended meanwhile.
                    None => return session.gateway.connections.leave(chat.user()),
                }
            }
            answer(Ok(data));
            entered(session, chat);
        }
    }
}

// Leaving.

fn leave(session: &Arc<Session>, namespace: &str, reason: Reason) {
    let space = {
        let mut spaces = session.spaces.lock();
        spaces.position(namespace, &session.settings().namespace).map(|at| spaces.list.remove(at))
    };
    if let Some(space) = space {
        metrics::closed(reason);
        left(session, &space, reason);
    }
}

fn left(session: &Session, space: &Space, reason: Reason) {
    if let Space::Chat(chat) = space {
        recovery::left(chat, session, reason);
    }
}

/// The session is over.
pub(crate) fn leave_all(session: &Session, reason: Reason) {
    let spaces = std::mem::take(&mut session.spaces.lock().list);
    spaces.iter().for_each(|space| left(session, space, reason));
}

// Time.

/// Ends what has run out; when to call again.
pub(crate) fn on_time(session: &Arc<Session>, now: Instant) -> Option<Instant> {
    let (mut next, mut late, mut expired) = (None::<Instant>, false, false);
    for space in &session.spaces.lock().list {
        let at = match space {
            Space::Waiting { until, .. } => {
                late |= now >= *until;
                Some(*until)
            }
            Space::Chat(chat) => {
                let at = deadline_of(chat, now);
                expired |= at.is_none();
                at
            }
            Space::Echo(_) => None,
        };
        next = next.into_iter().chain(at).min();
    }
    let namespace = &session.settings().namespace;
    if late {
        session.push(encode::error(namespace, &AuthError::Missing.into()));
        session.push(encode::disconnected(namespace));
        leave(session, namespace, Reason::ServerNamespaceDisconnect);
        return None;
    }
    if expired {
        session.push(encode::error(namespace, &AuthError::Expired.into()));
        session.close(Reason::ForcedServerClose, By::Server);
        return None;
    }
    next
}

/// When to look at the token again; `None`: its time is over. The wall clock decides, and may have been set.
fn deadline_of(chat: &Chat, now: Instant) -> Option<Instant> {
    let left_ms = chat.expires_at_ms().saturating_sub(chat.now());
    (left_ms > 0).then(|| now + Duration::from_millis(left_ms as u64).min(EXPIRY_LOOKED_AT_MAX))
}

// Echo.

fn echo(session: &Arc<Session>, packet: Packet<'_>, name: &str, args: &[&RawValue], parts: &VecDeque<Bytes>) {
    let namespace = packet.namespace;
    if name == "ask" {
        let id = {
            let mut spaces = session.spaces.lock();
            let Some(echo) = spaces.echo(namespace) else { return };
            let id = echo.next_ack;
            echo.next_ack += 1;
            echo.questions.push_back(id);
            if echo.questions.len() > QUESTIONS_MAX {
                echo.questions.pop_front();
            }
            id
        };
        return session.push(encode::packet(Kind::Event, namespace, Some(id), parts, |out| {
            encode::array(out, Some("question"), args)
        }));
    }
    session.push(encode::packet(Kind::Event, namespace, None, parts, |out| {
        encode::array(out, Some(name), args)
    }));
    if let Some(id) = packet.ack {
        session.push(encode::packet(Kind::Ack, namespace, Some(id), parts, |out| {
            encode::array(out, None, args)
        }));
    }
}

/// The client's ack to a question; of anything else nothing is known.
fn answered(session: &Arc<Session>, packet: Packet<'_>, parts: &VecDeque<Bytes>) {
    let (Some(id), Ok(args)) = (packet.ack, packet.args()) else { return };
    let asked = {
        let mut spaces = session.spaces.lock();
        let Some(echo) = spaces.echo(packet.namespace) else { return };
        let at = echo.questions.iter().position(|question| *question == id);
        at.is_some_and(|at| echo.questions.remove(at).is_some())
    };
    if asked {
        session.push(encode::packet(Kind::Event, packet.namespace, None, parts, |out| {
            encode::array(out, Some("answered"), &args)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expect: Result<Option<&str>, AuthError>) {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        assert_eq!(token_in(Some(raw)), expect.map(|token| token.map(str::to_owned)), "{json}");
    }

    #[test]
    fn tokens_of_the_connect() {
        check("{}", Ok(None));
        check(r#"{"token":null}"#, Ok(None));
        check(r#"{"token":""}"#, Ok(None));
        check(r#"{"token":"a.b.c","other":[1]}"#, Ok(Some("a.b.c")));
        check(r#"{"token":5}"#, Err(AuthError::Invalid));
        assert_eq!(token_in(None), Ok(None));
    }
}
