//! One Engine.IO session: what waits to be sent, which transport carries it, and when it ends.
//!
//! Packets wait as WebSocket frames, some holding several; polling takes them apart. Whoever carries packets (a GET or the
//! WebSocket's task) waits on one notice, and hands it on when it finds that it is no longer the carrier.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::Notify, time::Instant};

use super::packet::{self, Packet};
use crate::{
    Gateway,
    settings::SocketIoSettings,
    socketio::{
        client::{self, Input, Spaces},
        metrics::{self, Reason},
        opened::Opened,
    },
    ws::{frame, outbox::Batch},
};

/// A client that closed by a POST may have a GET on its way, which is still answered.
const TOMBSTONE: Duration = Duration::from_secs(1);
/// How long the last word of the server waits for a GET.
const FAREWELL: Duration = Duration::from_secs(30);
const PING: &[u8] = &[0x81, 1, b'2'];

/// Who ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The client said so.
    Client,
    /// The server; the client is to be told.
    Server,
    /// The connection is gone: there is nobody to tell.
    Nobody,
}

/// An end: why and by whom.
pub(crate) type End = (Reason, By);

/// What carries packets to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Polling,
    /// Polling, while a WebSocket is being tried: `probed` once the client has shown itself on it.
    Upgrading {
        probed: bool,
    },
    WebSocket,
}

/// See the module.
pub(crate) struct Session {
    pub sid: Box<str>,
    pub key: u64,
    pub gateway: Arc<Gateway>,
    /// Of the handshake's header or query.
    pub token: Option<Box<str>>,
    /// What the request said, where a dialect may want to know.
    pub opened: Option<Box<Opened>>,
    /// The namespaces that were joined.
    pub spaces: Mutex<Spaces>,
    /// What reading needs; held while packets are handled, so that they keep their order.
    pub input: tokio::sync::Mutex<Input>,
    state: Mutex<State>,
    in_flight: AtomicU32,
    wake: Notify,
    room: Notify,
    ended: Notify,
}

struct State {
    out: VecDeque<Bytes>,
    out_bytes: usize,
    carrier: Carrier,
    polling: bool,
    posting: bool,
    next_ping: Instant,
    pong_by: Option<Instant>,
    /// The last ping waits to be taken along.
    ping_waits: bool,
    /// The server does not read from the client now, so an answer to a ping may lie unread.
    reading_waits: bool,
    connect_by: Option<Instant>,
    /// Of the namespaces.
    spaces_at: Option<Instant>,
    armed: Option<Instant>,
    end: Option<End>,
    /// For one more GET after the end.
    farewell: Option<u8>,
    forget_at: Instant,
}

/// What a GET gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Payload(Vec<u8>),
    /// The session is over or never was.
    Unknown,
    /// The session does not poll, or another GET waits already.
    Bad,
}

/// What the WebSocket's task is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Write,
    Wait,
    End(End),
}

/// Why a POST is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoPost {
    /// The session is over.
    Unknown,
    /// The session does not poll, or another POST is on its way.
    Bad,
}

impl Session {
    pub(super) fn new(gateway: Arc<Gateway>, sid: Box<str>, key: u64, token: Option<Box<str>>, opened: Option<Box<Opened>>) -> Arc<Session> {
        let now = Instant::now();
        let settings = &gateway.settings.socketio;
        let state = State {
            out: VecDeque::new(),
            out_bytes: 0,
            carrier: Carrier::Polling,
            polling: false,
            posting: false,
            next_ping: now + settings.ping_interval,
            pong_by: None,
            ping_waits: false,
            reading_waits: false,
            connect_by: Some(now + settings.connect_within),
            spaces_at: None,
            armed: None,
            end: None,
            farewell: None,
            forget_at: now,
        };
        let input = Input::new(settings, now);
        Arc::new(Session {
            sid,
            key,
            gateway,
            token,
            opened,
            spaces: Mutex::default(),
            input: tokio::sync::Mutex::new(input),
            state: Mutex::new(state),
            in_flight: AtomicU32::new(0),
            wake: Notify::new(),
            room: Notify::new(),
            ended: Notify::new(),
        })
    }

    pub fn settings(&self) -> &SocketIoSettings {
        &self.gateway.settings.socketio
    }

    /// The open packet without its type.
    pub fn open_json(&self, upgrades: &str) -> String {
        let settings = self.settings();
        format!(
            r#"{{"sid":"{}","upgrades":[{upgrades}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
            self.sid,
            settings.ping_interval.as_millis(),
            settings.ping_timeout.as_millis(),
            settings.payload_bytes_max
        )
    }

    // Out.

    /// Queues frames of this module's form. Who falls too far behind is disconnected.
    pub fn push(self: &Arc<Self>, frames: Bytes) {
        let settings = self.settings();
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        let fits =
            state.out.is_empty() || (state.out.len() < settings.outbox_packets_max && state.out_bytes + frames.len() <= settings.outbox_bytes_max);
        if !fits {
            (state.out, state.out_bytes) = Default::default();
            drop(state);
            return self.close(Reason::ForcedServerClose, By::Server);
        }
        state.out_bytes += frames.len();
        state.out.push_back(frames);
        drop(state);
        self.wake.notify_one();
    }

    /// So much waits that no more packets should be read.
    pub fn is_crowded(&self) -> bool {
        let settings = self.settings();
        let state = self.state.lock();
        let full = state.out_bytes >= settings.outbox_bytes_max / 2 || state.out.len() >= settings.outbox_packets_max / 2;
        state.end.is_none() && (full || self.in_flight.load(Ordering::Relaxed) as usize >= self.gateway.settings.ws.requests_in_flight_max)
    }

    /// Waits until there is room for what reading more would cause.
    pub async fn has_room(&self) {
        loop {
            let room = self.room.notified();
            if !self.is_crowded() {
                return;
            }
            room.await;
        }
    }

    /// Counts a request that will be answered.
    pub fn begin_request(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It was answered.
    pub fn end_request(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// Moves what waits into a batch of the WebSocket.
    pub fn take(&self, batch: &mut Batch) -> Next {
        let mut state = self.state.lock();
        if state.out.is_empty() {
            return state.end.map_or(Next::Wait, Next::End);
        }
        while batch.has_room()
            && let Some(frames) = state.out.pop_front()
        {
            state.out_bytes -= frames.len();
            batch.push(frames);
        }
        if state.out.is_empty() {
            state.out = VecDeque::new();
            state.ping_waits = false;
        }
        drop(state);
        self.room.notify_waiters();
        Next::Write
    }

    /// Something may wait to be written.
    pub async fn something_waits(&self) {
        self.wake.notified().await;
    }

    /// Waits for the end.
    pub async fn has_ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.state.lock().end.is_some() {
                return;
            }
            ended.await;
        }
    }

    // Polling.

    /// A GET: waits until there is something to say.
    pub async fn poll(self: &Arc<Self>) -> Polled {
        if let Some(at_once) = self.begin_poll() {
            return at_once;
        }
        let mut waiting = WaitingGet {
            session: self,
            answered: false,
        };
        let payload = loop {
            if let Some(payload) = self.try_poll() {
                break payload;
            }
            self.wake.notified().await;
        };
        waiting.answered = true;
        Polled::Payload(payload)
    }

    fn begin_poll(self: &Arc<Self>) -> Option<Polled> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            let farewell = state.farewell.take().map(|last| with_last(take_payload(&mut state), last));
            drop(state);
            self.gateway.socketio.remove(&self.sid);
            return Some(farewell.map_or(Polled::Unknown, Polled::Payload));
        }
        if state.carrier == Carrier::WebSocket {
            return Some(Polled::Bad);
        }
        if state.polling {
            drop(state);
            self.close(Reason::TransportError, By::Server);
            return Some(Polled::Bad);
        }
        state.polling = true;
        None
    }

    fn try_poll(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock();
        if let Some((_, by)) = state.end {
            let last = state.farewell.take().unwrap_or(if by == By::Client { b'6' } else { b'1' });
            return Some(with_last(take_payload(&mut state), last));
        }
        if state.carrier == Carrier::WebSocket {
            drop(state);
            self.wake.notify_one(); // It was meant for the WebSocket.
            return Some(vec![b'6']);
        }
        let probed = matches!(state.carrier, Carrier::Upgrading { probed: true });
        match state.out.is_empty() {
            true => probed.then(|| vec![b'6']),
            false => {
                let payload = take_payload(&mut state);
                drop(state);
                self.room.notify_waiters();
                Some(payload)
            }
        }
    }

    /// A POST begins: one at a time.
    pub fn begin_post(self: &Arc<Self>) -> Result<Posting, NoPost> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return Err(NoPost::Unknown);
        }
        if state.carrier == Carrier::WebSocket {
            return Err(NoPost::Bad);
        }
        if state.posting {
            drop(state);
            self.close(Reason::TransportError, By::Server);
            return Err(NoPost::Bad);
        }
        state.posting = true;
        Ok(Posting {
            session: self.clone(),
            done: false,
        })
    }

    /// Packets of a POST, in order.
    pub async fn receive_payload(self: &Arc<Self>, payload: &str) -> Result<(), End> {
        let mut input = self.input.lock().await;
        for packet in packet::payload(payload) {
            let packet = packet.map_err(|_| (Reason::ParseError, By::Server))?;
            self.receive(&mut input, packet).await?;
        }
        Ok(())
    }

    /// One packet. An error ends the session.
    pub async fn receive(self: &Arc<Self>, input: &mut Input, packet: Packet<'_>) -> Result<(), End> {
        match packet {
            Packet::Message(text) => {
                let handled = self.wait_without_reading(client::message(self, input, text)).await;
                handled.map_err(|reason| (reason, By::Server))
            }
            Packet::Binary(bytes) => {
                let handled = self.wait_without_reading(client::binary(self, input, Bytes::from(bytes))).await;
                handled.map_err(|reason| (reason, By::Server))
            }
            Packet::Pong(_) => {
                self.pong();
                Ok(())
            }
            Packet::Close => Err((Reason::TransportClose, By::Client)),
            // In this version of the protocol only the server asks.
            Packet::Ping(_) => Err((Reason::ParseError, By::Server)),
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => Ok(()),
        }
    }

    /// Waits for what must be done before more is read of the client, which is not blamed for a pong that nobody reads meanwhile.
    pub async fn wait_without_reading<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Most of it is done at once.
        let begun = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
        if let Poll::Ready(done) = begun {
            return done;
        }
        let _waiting = ReadingWaits::begin(self);
        work.await
    }

    fn pong(&self) {
        let mut state = self.state.lock();
        state.pong_by = None;
        state.next_ping = Instant::now() + self.settings().ping_interval;
        self.arm(state);
    }

    // Transports.

    /// The session began with a WebSocket.
    pub fn starts_with_websocket(&self) {
        self.state.lock().carrier = Carrier::WebSocket;
    }

    /// A WebSocket wants to take over; `false`: one does already, or the session is over.
    pub fn begin_upgrade(&self) -> bool {
        let mut state = self.state.lock();
        let free = state.carrier == Carrier::Polling && state.end.is_none();
        if free {
            state.carrier = Carrier::Upgrading { probed: false };
        }
        free
    }

    /// The client has shown itself on the WebSocket: GETs are answered at once, so that it can stop polling.
    pub fn probed(&self) {
        let mut state = self.state.lock();
        if matches!(state.carrier, Carrier::Upgrading { .. }) {
            state.carrier = Carrier::Upgrading { probed: true };
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The WebSocket carries from now on, or (`false`) it came to nothing.
    pub fn end_upgrade(&self, done: bool) {
        let mut state = self.state.lock();
        if matches!(state.carrier, Carrier::Upgrading { .. }) {
            state.carrier = if done { Carrier::WebSocket } else { Carrier::Polling };
        }
        drop(state);
        self.wake.notify_one();
    }

    /// The session is over.
    pub fn is_over(&self) -> bool {
        self.ended().is_some()
    }

    /// Why it is over.
    pub fn ended(&self) -> Option<Reason> {
        self.state.lock().end.map(|(reason, _)| reason)
    }

    // Time.

    /// The first namespace was joined.
    pub fn joined(&self) {
        self.state.lock().connect_by = None;
    }

    /// The namespaces want to be called at `at`.
    pub fn call_spaces_at(&self, at: Option<Instant>) {
        let mut state = self.state.lock();
        state.spaces_at = match (state.spaces_at, at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.arm(state);
    }

    pub(super) fn arm_first(&self) {
        self.arm(self.state.lock());
    }

    fn arm(&self, mut state: MutexGuard<'_, State>) {
        let at = if state.end.is_some() {
            state.forget_at
        } else {
            let ping = state.pong_by.unwrap_or(state.next_ping);
            [state.connect_by, state.spaces_at].into_iter().flatten().fold(ping, Instant::min)
        };
        // An earlier call than needed does no harm, and is rarer than the many moves to a later one.
        if state.armed.is_none_or(|armed| at < armed) {
            let before = state.armed.replace(at);
            drop(state);
            self.gateway.socketio.arm(self, before, at);
        }
    }

    /// The call that was armed.
    pub(super) fn call(self: &Arc<Self>, now: Instant) {
        self.state.lock().armed = None;
        self.look_at_time(now);
    }

    /// Does what is due.
    pub fn look_at_time(self: &Arc<Self>, now: Instant) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            let forget = now >= state.forget_at;
            if !forget {
                return self.arm(state);
            }
            drop(state);
            return self.gateway.socketio.remove(&self.sid);
        }
        if state.pong_by.is_none() && now >= state.next_ping {
            state.pong_by = Some(state.next_ping + self.settings().ping_timeout);
            self.ping(&mut state);
        }
        if state.pong_by.is_some_and(|by| now >= by) && state.reading_waits && !state.ping_waits {
            // The client has the ping, and its answer may be there already. Another one, since the client watches the time too.
            state.pong_by = Some(now + self.settings().ping_timeout);
            self.ping(&mut state);
        }
        if state.pong_by.is_some_and(|by| now >= by) {
            drop(state);
            return self.close(Reason::PingTimeout, By::Nobody);
        }
        if state.connect_by.is_some_and(|by| now >= by) {
            drop(state);
            return self.close(Reason::ForcedClose, By::Server);
        }
        let spaces_due = state.spaces_at.is_some_and(|at| now >= at);
        if spaces_due {
            state.spaces_at = None;
        }
        self.arm(state);
        if spaces_due {
            self.call_spaces_at(client::on_time(self, now));
        }
    }

    fn ping(&self, state: &mut State) {
        state.out_bytes += PING.len();
        state.out.push_back(Bytes::from_static(PING));
        state.ping_waits = true;
        self.wake.notify_one();
    }

    // The end.

    /// Ends the session, once. May be called under locks of the engine: what follows is done elsewhere.
    pub fn close(self: &Arc<Self>, reason: Reason, by: By) {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return;
        }
        state.end = Some((reason, by));
        let now = Instant::now();
        if state.carrier == Carrier::WebSocket || by == By::Nobody {
            state.forget_at = now;
        } else {
            let (last, wait) = if by == By::Client { (b'6', TOMBSTONE) } else { (b'1', FAREWELL) };
            // A GET that waits takes it along.
            state.farewell = Some(last);
            state.forget_at = now + wait;
        }
        if by == By::Nobody {
            (state.out, state.out_bytes) = Default::default();
        }
        self.arm(state);
        metrics::closed(reason);
        self.wake.notify_one();
        self.room.notify_waiters();
        self.ended.notify_waiters();
        let session = self.clone();
        self.gateway.socketio.runtime().spawn(async move { client::leave_all(&session, reason) });
    }
}

fn take_payload(state: &mut State) -> Vec<u8> {
    let mut payload = Vec::with_capacity(state.out_bytes);
    for frames in std::mem::take(&mut state.out) {
        for (binary, place) in frame::encoded_messages(&frames) {
            if !payload.is_empty() {
                payload.push(packet::SEPARATOR);
            }
            if binary {
                packet::append_binary(&mut payload, &frames[place]);
            } else {
                payload.extend_from_slice(&frames[place]);
            }
        }
    }
    state.out_bytes = 0;
    state.ping_waits = false;
    payload
}

fn with_last(mut payload: Vec<u8>, last: u8) -> Vec<u8> {
    if !payload.is_empty() {
        payload.push(packet::SEPARATOR);
    }
    payload.push(last);
    payload
}

/// While it is there, nothing is read of the client.
struct ReadingWaits<'a>(&'a Session);

impl<'a> ReadingWaits<'a> {
    fn begin(session: &'a Session) -> ReadingWaits<'a> {
        session.state.lock().reading_waits = true;
        ReadingWaits(session)
    }
}

impl Drop for ReadingWaits<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.reading_waits = false;
        // From here on the client has as long as ever.
        let by = Instant::now() + self.0.settings().ping_timeout;
        state.pong_by = state.pong_by.map(|before| before.max(by));
    }
}

/// A GET that waits; a client that hangs up meanwhile is gone.
struct WaitingGet<'a> {
    session: &'a Arc<Session>,
    answered: bool,
}

impl Drop for WaitingGet<'_> {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        state.polling = false;
        let over = state.end.is_some();
        drop(state);
        if over {
            self.session.gateway.socketio.remove(&self.session.sid);
        } else if !self.answered {
            self.session.close(Reason::TransportError, By::Nobody);
        }
    }
}

/// A POST that is being read and handled; a client that hangs up meanwhile is gone.
pub(crate) struct Posting {
    session: Arc<Session>,
    done: bool,
}

impl Posting {
    /// It was handled, or refused without harm.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Posting {
    fn drop(&mut self) {
        self.session.state.lock().posting = false;
        if !self.done {
            self.session.close(Reason::TransportError, By::Nobody);
        }
    }
}
