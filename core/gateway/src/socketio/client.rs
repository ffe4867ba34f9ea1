//! The namespaces of one session: joining, leaving, and which packets are allowed when.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use haggle_engine::{
    Refusal,
    sockets::{Handshake, NamespaceAnswer},
};
use haggle_model::{ErrorCode, Millis};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    chat::{Authenticate, Chat},
    dialects::Dialect,
    encode,
    engineio::{
        session::{By, Session},
        sessions::new_id,
    },
    failure,
    metrics::{self, Reason},
    opened::Opened,
    owned::{Arrival, Owned, args_of},
    packet::{Assembler, Kind, Packet, Whole},
    permit::Permit,
    place::{Place, Seated},
    recovery::{self, Asked},
};
use crate::{AuthError, Gateway, Identity, auth, decode, metrics::AUTH_FAILURES, resource::Time, settings::SocketIoSettings, ws::bucket::Bucket};

/// Namespaces that one session may be in.
const SPACES_MAX: usize = 16;
/// How long a connection whose first namespaces cannot be entered for now is kept for others that the client asks for.
const COMPANY_WAIT: Duration = Duration::from_secs(1);
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
    /// Set only while the list is empty. In a box, since idle connections have none.
    failures: Option<Box<Failures>>,
}

/// Namespaces that could not be entered for a reason that passes.
struct Failures {
    /// Then the connection is closed.
    until: Instant,
    /// What is told instead if the client is in another namespace by then.
    told: Vec<Bytes>,
}

/// A place in a namespace.
#[derive(Clone)]
pub(super) enum Space {
    Chat(Arc<Chat>),
    /// In a namespace of a plugin.
    Owned(Arc<Owned>),
    /// Joined without a token, which must come until then.
    Waiting {
        namespace: Box<str>,
        sid: Arc<str>,
        until: Instant,
        /// What came with the connect.
        auth: String,
    },
}

/// What a packet is for.
enum Found {
    Chat(Arc<Chat>),
    Owned(Arc<Owned>),
    Waiting,
}

impl Space {
    fn is_in(&self, namespace: &str, chat: &str) -> bool {
        match self {
            Space::Chat(_) => namespace == chat,
            Space::Owned(owned) => owned.namespace() == namespace,
            Space::Waiting { namespace: waits_in, .. } => **waits_in == *namespace,
        }
    }
}

impl Spaces {
    fn position(&self, namespace: &str, chat: &str) -> Option<usize> {
        self.list.iter().position(|space| space.is_in(namespace, chat))
    }

    fn find(&self, namespace: &str, chat: &str) -> Option<Found> {
        self.position(namespace, chat).map(|at| match &self.list[at] {
            Space::Chat(chat) => Found::Chat(chat.clone()),
            Space::Owned(owned) => Found::Owned(owned.clone()),
            Space::Waiting { .. } => Found::Waiting,
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
            // In boxes of their own, here and below: what is rare must not be room that every idle connection keeps.
            Box::pin(connect(session, packet)).await
        }
        // Twice, or without having joined.
        (Kind::Connect, Some(_)) | (_, None) => Err(Reason::ForcedServerClose),
        (Kind::Disconnect, Some(_)) => {
            leave(session, packet.namespace, Reason::ClientNamespaceDisconnect);
            Ok(())
        }
        (Kind::Ack | Kind::BinaryAck, Some(found)) => {
            if let (Found::Owned(owned), Some(id)) = (found, packet.ack) {
                let args = packet.args().map_err(|_| Reason::ParseError)?;
                owned.answered(id, args_of(&args, parts)).await;
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
        Found::Owned(owned) => match renewal(&name, &args) {
            Some(token) => Box::pin(renew(session, &owned, &token, packet.ack)).await,
            None => owned.event(&name, args_of(&args, parts), packet.ack).await,
        },
        Found::Waiting => Box::pin(early_event(session, packet.namespace, &name, &args, packet.ack)).await,
    }
    Ok(())
}

/// The token of an `authenticate` that brings one; without one the event is the plugin's, like any other.
fn renewal(name: &str, args: &[&RawValue]) -> Option<String> {
    let first = args.first().filter(|_| name == "authenticate")?;
    decode::parse::<Authenticate>(first.get()).ok().map(|Authenticate { token }| token)
}

async fn renew(session: &Arc<Session>, owned: &Arc<Owned>, token: &str, ack: Option<u64>) {
    let renewed = identity(&session.gateway, token).await.and_then(|identity| {
        let answer = authenticated_json(&identity);
        owned.place().renew(identity).map(|()| answer)
    });
    if renewed.is_ok() {
        session.call_spaces_at(Some(Instant::now())); // Which finds out when to look again.
    }
    answer(session, owned.namespace(), ack, renewed);
}

fn answer(session: &Arc<Session>, namespace: &str, ack: Option<u64>, result: Result<String, Refusal>) {
    let write = |data: String| move |out: &mut Vec<u8>| out.extend_from_slice(data.as_bytes());
    encode::answer(session, namespace, ack, result.map(write));
}

// Joining.

/// An error ends the session, so that its client comes back later.
async fn connect(session: &Arc<Session>, packet: Packet<'_>) -> Result<(), Reason> {
    let namespace = packet.namespace;
    if session.spaces.lock().list.len() >= SPACES_MAX {
        let message = format!("a connection may be in {SPACES_MAX} namespaces");
        return refuse(session, namespace, &Refusal::new(ErrorCode::TooLarge, message));
    }
    let entrance = Entrance::of(session, namespace);
    if entrance.is_none() {
        let have = &session.settings().namespace;
        tracing::debug!(asked = namespace, %have, "a Socket.IO client asked for a namespace that is not there (socketio.namespace, socketio.dialects)");
        return refuse_unknown(session, namespace);
    }
    let token = match token_in(packet.data) {
        Ok(token) => token.or_else(|| session.token.as_deref().map(str::to_owned)),
        Err(error) => return refuse(session, namespace, &error.into()),
    };
    let sid: Arc<str> = new_id(&session.settings().node).into();
    let auth = auth_without_token(packet.data);
    match token {
        Some(token) => match identity(&session.gateway, &token).await {
            Ok(identity) => enter(session, &packet, entrance, sid, auth, Some((token, identity))).await,
            Err(refusal) => refuse(session, namespace, &refusal),
        },
        None if entrance.is_anonymous => enter(session, &packet, entrance, sid, auth, None).await,
        None if entrance.grace > Duration::ZERO => {
            let until = Instant::now() + entrance.grace;
            let waiting = Space::Waiting {
                namespace: namespace.into(),
                sid: sid.clone(),
                until,
                auth,
            };
            joined(session, namespace, &sid, None, waiting);
            session.call_spaces_at(Some(until));
            Ok(())
        }
        None => refuse(session, namespace, &AuthError::Missing.into()),
    }
}

/// What a namespace asks of who comes in.
#[derive(Default)]
struct Entrance {
    is_chat: bool,
    dialects: Vec<Arc<Dialect>>,
    is_anonymous: bool,
    grace: Duration,
}

impl Entrance {
    fn of(session: &Session, namespace: &str) -> Entrance {
        let settings = session.settings();
        let dialects: Vec<_> = match &session.opened {
            Some(opened) => session.gateway.socketio.dialects.candidates(opened, namespace).cloned().collect(),
            None => Vec::new(),
        };
        let is_chat = namespace == settings.namespace;
        // Without a token only what asks for no claim of it can be meant.
        let first = dialects.iter().find(|dialect| dialect.settings.claim.is_none());
        Entrance {
            is_chat,
            is_anonymous: first.is_some_and(|dialect| dialect.settings.anonymous),
            grace: match first {
                Some(dialect) => dialect.settings.auth_grace,
                None if is_chat => settings.auth_grace,
                None => dialects.iter().map(|dialect| dialect.settings.auth_grace).max().unwrap_or_default(),
            },
            dialects,
        }
    }

    fn is_none(&self) -> bool {
        !self.is_chat && self.dialects.is_empty()
    }

    /// Whose namespace it is for the bearer of the token.
    fn dialect(&self, token: Option<&str>) -> Option<&Arc<Dialect>> {
        let says = |dialect: &&Arc<Dialect>| match &dialect.settings.claim {
            None => true,
            Some((name, value)) => token.is_some_and(|token| auth::has_claim(token, name, value)),
        };
        self.dialects.iter().find(says)
    }
}

/// Lets somebody in whose token is good, or who needs none.
async fn enter(
    session: &Arc<Session>,
    packet: &Packet<'_>,
    entrance: Entrance,
    sid: Arc<str>,
    auth: String,
    who: Option<(String, Identity)>,
) -> Result<(), Reason> {
    let namespace = packet.namespace;
    let token = who.as_ref().map(|(token, _)| token.as_str());
    let dialect = entrance.dialect(token).cloned();
    let identity = who.map(|(_, identity)| identity);
    match (dialect, identity) {
        (Some(dialect), identity) => enter_owned(session, &Asked::of(packet.data), sid, auth, dialect, identity).await,
        (None, Some(identity)) if entrance.is_chat => match enter_chat(session, &Asked::of(packet.data), sid, identity).await {
            Ok(()) => Ok(()),
            Err(refusal) => refuse(session, namespace, &refusal),
        },
        _ => refuse_unknown(session, namespace),
    }
}

/// Lets a client into a plugin's namespace: into the place it had, or a new one.
async fn enter_owned(
    session: &Arc<Session>,
    asked: &Asked,
    sid: Arc<str>,
    auth: String,
    dialect: Arc<Dialect>,
    identity: Option<Identity>,
) -> Result<(), Reason> {
    let namespace = &dialect.settings.namespace;
    match recovery::resume(session, Some(&dialect), asked, identity.as_ref()) {
        Ok(Some(seat)) => {
            watch(session, seat.place());
            return Ok(());
        }
        Ok(None) => {}
        Err(refusal) => return refuse(session, namespace, &refusal),
    }
    let recovers = session.settings().recovers(namespace);
    match own(session, dialect.clone(), sid, auth, recovers, identity).await {
        Ok(arrival) => {
            let place = arrival.owned().place();
            joined(session, namespace, &place.id, place.pid(), Space::Owned(arrival.owned().clone()));
            let owned = arrival.seated();
            owned.connected();
            entered(session, owned);
            Ok(())
        }
        Err(No::Refused { message, data }) => {
            count_connect("refused");
            session.push(encode::connect_refused(namespace, &message, data.as_deref()));
            Ok(())
        }
        Err(No::Failed(refusal)) => refuse(session, namespace, &refusal),
    }
}

/// Why a plugin's namespace is not entered.
enum No {
    Refused { message: String, data: Option<String> },
    Failed(Refusal),
}

impl No {
    /// For who is in already and hears of it late.
    fn refusal(self, plugin: &str) -> Refusal {
        match self {
            No::Refused { message, .. } => Refusal::new(ErrorCode::PluginRejected, message).by_plugin(plugin, "connect"),
            No::Failed(refusal) => refusal,
        }
    }
}

/// Counts the user and asks the plugin. Whoever stops waiting for it leaves nothing behind.
async fn own(
    session: &Arc<Session>,
    dialect: Arc<Dialect>,
    sid: Arc<str>,
    auth: String,
    recovers: bool,
    identity: Option<Identity>,
) -> Result<Arrival, No> {
    let namespace = &dialect.settings.namespace;
    if !session.gateway.engine.hooks().plan().offers_namespace(&dialect.plugin, namespace) {
        tracing::warn!(plugin = %dialect.plugin, %namespace, "socketio.dialects names a plugin that is not active, or does not offer the namespace");
        let text = "the plugin of this namespace is not active";
        return Err(No::Failed(Refusal::new(ErrorCode::NotFound, text)));
    }
    let who = match identity {
        Some(identity) => Some(admit(session, identity).await.map_err(No::Failed)?),
        None => None,
    };
    let place = Place::new(session.clone(), sid, recovers, who);
    let mut arrival = Arrival::of(Owned::new(place, dialect.clone()));
    match arrival.ask(handshake(session, namespace, auth)).await {
        Ok(NamespaceAnswer::Done) => Ok(arrival),
        Ok(NamespaceAnswer::Refused { message, data }) => Err(No::Refused { message, data }),
        Ok(_) => Err(No::Failed(Refusal::new(ErrorCode::Internal, "the plugin gave another answer"))),
        Err(refusal) => Err(No::Failed(refusal)),
    }
}

fn handshake(session: &Session, namespace: &str, auth: String) -> Handshake {
    let opened = session.opened.as_deref();
    let text = |of: fn(&Opened) -> &String| opened.map(of).cloned().unwrap_or_default();
    Handshake {
        namespace: namespace.to_owned(),
        auth,
        host: text(|opened| &opened.host),
        path: text(|opened| &opened.path),
        query: text(|opened| &opened.query),
        headers: opened.map(|opened| opened.headers.clone()).unwrap_or_default(),
    }
}

/// What plugins see of the connect's data.
fn auth_without_token(data: Option<&RawValue>) -> String {
    let parsed = data.and_then(|data| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(data.get()).ok());
    let mut auth = parsed.unwrap_or_default();
    auth.remove("token");
    serde_json::Value::Object(auth).to_string()
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

fn refuse_unknown(session: &Arc<Session>, namespace: &str) -> Result<(), Reason> {
    count_connect("unknown");
    session.push(encode::connect_error(namespace, "Invalid namespace", None));
    Ok(())
}

/// Does not let a client in. A decision is told, and the client asks no more by itself; of what passes it is not told, but loses
/// its connection, which makes it come back after a while. A connection that has another namespace is not taken from that one.
fn refuse(session: &Arc<Session>, namespace: &str, refusal: &Refusal) -> Result<(), Reason> {
    if failure::passes(refusal) {
        count_connect("failed");
        const WHAT: &str = "a Socket.IO client could not be let in now";
        match refusal.code {
            // The user's own doing, and each comes back every few seconds.
            ErrorCode::RateLimited => tracing::debug!(%namespace, %refusal, "{WHAT}"),
            _ => tracing::warn!(%namespace, %refusal, "{WHAT}"),
        }
        let told = encode::connect_error(namespace, encode::told(refusal), Some(refusal.code));
        return close_unless_elsewhere(session, told);
    }
    // Clients of this protocol know two texts about tokens, and one of them says everything but "there is none".
    let message = match refusal.code {
        ErrorCode::TokenExpired => "Invalid token",
        _ => encode::told(refusal),
    };
    if matches!(refusal.code, ErrorCode::Unauthenticated | ErrorCode::TokenExpired) {
        tracing::debug!(
            code = %refusal.code,
            "a Socket.IO client was refused: its token comes in `auth.token`, in the header Authorization, in the query \
             (socketio.query_token) or by `authenticate` (socketio.auth_grace_ms), and must fit [auth]"
        );
    }
    count_connect("refused");
    session.push(encode::connect_error(namespace, message, Some(refusal.code)));
    Ok(())
}

/// Tells a client that is in another namespace; otherwise closes its connection soon, unless it is in one by then.
fn close_unless_elsewhere(session: &Arc<Session>, told: Bytes) -> Result<(), Reason> {
    let mut spaces = session.spaces.lock();
    if !spaces.list.is_empty() {
        drop(spaces);
        session.push(told);
        return Ok(());
    }
    let failures = spaces.failures.get_or_insert_with(|| {
        Box::new(Failures {
            until: Instant::now() + COMPANY_WAIT,
            told: Vec::new(),
        })
    });
    if failures.told.len() >= SPACES_MAX {
        return Err(Reason::ForcedServerClose);
    }
    failures.told.push(told);
    let until = failures.until;
    drop(spaces);
    session.call_spaces_at(Some(until));
    Ok(())
}

fn joined(session: &Arc<Session>, namespace: &str, sid: &str, pid: Option<&str>, space: Space) {
    rejoined(session, space);
    session.push(encode::connected(namespace, sid, pid));
}

/// A client is in its place again; the rest is [`super::recovery`]'s.
pub(super) fn rejoined(session: &Arc<Session>, space: Space) {
    count_connect("joined");
    session.joined();
    let failures = {
        let mut spaces = session.spaces.lock();
        spaces.list.push(space);
        spaces.failures.take()
    };
    for told in failures.into_iter().flat_map(|failures| failures.told) {
        session.push(told);
    }
}

/// Lets a client into the chat: into the place it had, or a new one.
async fn enter_chat(session: &Arc<Session>, asked: &Asked, sid: Arc<str>, identity: Identity) -> Result<(), Refusal> {
    let settings = session.settings();
    if let Some(seat) = recovery::resume(session, None, asked, Some(&identity))? {
        watch(session, seat.place());
        return Ok(());
    }
    let chat = login(session, sid, settings.recovers(&settings.namespace), identity).await?;
    let place = chat.place();
    joined(session, &settings.namespace, &place.id, place.pid(), Space::Chat(chat.clone()));
    entered(session, chat);
    Ok(())
}

/// Makes a chat of an identity. Counts its user.
async fn login(session: &Arc<Session>, sid: Arc<str>, recovers: bool, identity: Identity) -> Result<Arc<Chat>, Refusal> {
    let who = admit(session, identity).await?;
    Ok(Chat::new(Place::new(session.clone(), sid, recovers, Some(who))))
}

/// Counts a connection of the user.
async fn admit(session: &Session, identity: Identity) -> Result<(Identity, Permit), Refusal> {
    let gateway = &session.gateway;
    gateway.engine.see_user(&identity.user).await?;
    let permit = Permit::of(gateway, &identity.user)?;
    Ok((identity, permit))
}

/// Who a token speaks for.
pub(super) async fn identity(gateway: &Gateway, token: &str) -> Result<Identity, Refusal> {
    gateway.auth.authenticate(token).await.map_err(|error| {
        ::metrics::counter!(AUTH_FAILURES, "reason" => error.as_str()).increment(1);
        error.into()
    })
}

/// A place that was not there before: from here on it is told what happens.
fn entered(session: &Arc<Session>, seat: Arc<dyn Seated>) {
    recovery::entered(seat.clone());
    watch(session, seat.place());
}

/// Watches the token's time.
fn watch(session: &Arc<Session>, place: &Place) {
    session.call_spaces_at(deadline_of(place.expires_at_ms(), session, Instant::now()));
    if let Some(reason) = session.ended() {
        leave_all(session, reason); // The end may have missed it.
    }
}

async fn early_event(session: &Arc<Session>, namespace: &str, name: &str, args: &[&RawValue], ack: Option<u64>) {
    if name != "authenticate" {
        let refusal = Refusal::new(ErrorCode::Unauthenticated, AuthError::Missing.to_string());
        return answer(session, namespace, ack, Err(refusal));
    }
    match authenticate(session, namespace, args).await {
        Ok(Some((data, space))) => {
            answer(session, namespace, ack, Ok(data));
            match space {
                Space::Chat(chat) => entered(session, chat),
                Space::Owned(owned) => {
                    owned.connected();
                    entered(session, owned);
                }
                Space::Waiting { .. } => {}
            }
        }
        Ok(None) => {}
        Err(refusal) => answer(session, namespace, ack, Err(refusal)),
    }
}

/// Puts somebody who waits in their place. `None`: their time ended meanwhile.
async fn authenticate(session: &Arc<Session>, namespace: &str, args: &[&RawValue]) -> Result<Option<(String, Space)>, Refusal> {
    let waiting = session.spaces.lock().list.iter().find_map(|space| match space {
        Space::Waiting {
            namespace: waits_in,
            sid,
            auth,
            ..
        } if **waits_in == *namespace => Some((sid.clone(), auth.clone())),
        _ => None,
    });
    let Some((sid, auth)) = waiting else { return Ok(None) };
    let Authenticate { token } = decode::parse(args.first().map_or("{}", |arg| arg.get()))?;
    let identity = identity(&session.gateway, &token).await?;
    let data = authenticated_json(&identity);
    let entrance = Entrance::of(session, namespace);
    let (space, arrival) = match entrance.dialect(Some(&token)) {
        Some(dialect) => {
            let arrival = own(session, dialect.clone(), sid, auth, false, Some(identity)).await;
            let arrival = arrival.map_err(|no| no.refusal(dialect.plugin.as_str()))?;
            (Space::Owned(arrival.owned().clone()), Some(arrival))
        }
        None if entrance.is_chat => (Space::Chat(login(session, sid, false, identity).await?), None),
        None => return Err(Refusal::forbidden("this token is for no namespace of this name")),
    };
    let mut spaces = session.spaces.lock();
    let place = spaces
        .list
        .iter_mut()
        .find(|space| matches!(space, Space::Waiting { namespace: waits_in, .. } if **waits_in == *namespace));
    match place {
        Some(place) => {
            *place = space.clone();
            arrival.map(Arrival::seated);
            Ok(Some((data, space)))
        }
        None => Ok(None),
    }
}

/// What a client is told that has authenticated late or again.
pub(super) fn authenticated_json(identity: &Identity) -> String {
    let user = serde_json::to_string(identity.user.as_str()).expect("a text is JSON");
    let expires_at = Time(identity.expires_at.saturating_mul(1000));
    format!(r#"{{"userId":{user},"expiresAt":"{expires_at}"}}"#)
}

// Leaving.

fn leave(session: &Arc<Session>, namespace: &str, reason: Reason) {
    let space = {
        let mut spaces = session.spaces.lock();
        spaces.position(namespace, &session.settings().namespace).map(|at| spaces.list.remove(at))
    };
    if let Some(space) = space {
        metrics::closed(reason);
        left(session, space, reason);
    }
}

fn left(session: &Session, space: Space, reason: Reason) {
    match space {
        Space::Chat(chat) => recovery::left(chat, session, reason),
        Space::Owned(owned) => recovery::left(owned, session, reason),
        Space::Waiting { .. } => {}
    }
}

/// The session is over.
pub(crate) fn leave_all(session: &Session, reason: Reason) {
    let spaces = std::mem::take(&mut session.spaces.lock().list);
    spaces.into_iter().for_each(|space| left(session, space, reason));
}

// Time.

/// Ends what has run out; when to call again.
pub(crate) fn on_time(session: &Arc<Session>, now: Instant) -> Option<Instant> {
    let chat_namespace = &session.settings().namespace;
    let (mut late, mut expired) = (None::<Box<str>>, None::<Box<str>>);
    let spaces = session.spaces.lock();
    let mut next = spaces.failures.as_ref().map(|failures| failures.until);
    let failed = next.is_some_and(|until| now >= until);
    for space in &spaces.list {
        let (namespace, expires_at_ms) = match space {
            Space::Waiting { until, namespace, .. } => {
                if now >= *until {
                    late = Some(namespace.clone());
                }
                next = next.into_iter().chain([*until]).min();
                continue;
            }
            Space::Chat(chat) => (&**chat_namespace, chat.place().expires_at_ms()),
            Space::Owned(owned) => (owned.namespace(), owned.place().expires_at_ms()),
        };
        let Some(expires_at_ms) = expires_at_ms else { continue };
        let at = deadline_of(Some(expires_at_ms), session, now);
        if at.is_none() {
            expired = Some(namespace.into());
        }
        next = next.into_iter().chain(at).min();
    }
    drop(spaces);
    if failed {
        session.close(Reason::ForcedServerClose, By::Server);
        return None;
    }
    if let Some(namespace) = late {
        session.push(encode::error(&namespace, &AuthError::Missing.into()));
        session.push(encode::disconnected(&namespace));
        leave(session, &namespace, Reason::ServerNamespaceDisconnect);
        return Some(now); // There may be others.
    }
    if let Some(namespace) = expired {
        session.push(encode::error(&namespace, &AuthError::Expired.into()));
        session.close(Reason::ForcedServerClose, By::Server);
        return None;
    }
    next
}

/// When to look at the token again; `None`: its time is over, or there is none. The wall clock decides, and may have been set.
fn deadline_of(expires_at_ms: Option<Millis>, session: &Session, now: Instant) -> Option<Instant> {
    let left_ms = expires_at_ms?.saturating_sub(session.gateway.engine.now());
    (left_ms > 0).then(|| now + Duration::from_millis(left_ms as u64).min(EXPIRY_LOOKED_AT_MAX))
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
