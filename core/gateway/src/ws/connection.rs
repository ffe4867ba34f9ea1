//! One task per connection: reads, hands frames to the [`Session`], writes what the outbox holds.
//!
//! The task is a hand-written future, so that all it keeps while idle is the struct below. Input goes through a buffer of the
//! thread; only the bytes of an unfinished frame are kept. Everything due is written by one call.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use super::{
    encode,
    frame::Reader,
    metrics,
    outbox::{Batch, Due},
    resume,
    session::{self, End, Session, close, end_for},
    socket::{NewHead, Signals, Socket},
};
use crate::{Gateway, Identity, http::Slot};

/// The thread's buffer for input.
const READ_BYTES: usize = 32 * 1024;
/// Rounds of reading and writing before other tasks get their turn.
const ROUNDS_MAX: usize = 16;
/// A client may be silent for two heartbeats and this part of one.
const SILENCE_GRACE_DIVISOR: u32 = 5;
/// How long the peer may take to take our close frame and to answer it.
const LINGER: Duration = Duration::from_secs(1);
/// How long requests in flight may take to be answered when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Heads of conversations that are not subscribed are told at most so often.
const HEADS_PERIOD: Duration = Duration::from_millis(200);

thread_local! {
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// `bye` is said; requests in flight are still answered.
    Draining {
        until: Instant,
    },
    /// The close frame is queued; `flushed` once it is written.
    Closing {
        until: Instant,
        by_peer: bool,
        flushed: bool,
    },
}

/// The task of one connection.
pub(super) struct Connection {
    stream: TcpStream,
    socket: Arc<Socket>,
    session: Session,
    reader: Reader,
    /// The reader holds bytes that were not looked at, since a login is on its way.
    unread: bool,
    batch: Batch,
    phase: Phase,
    /// Of the first login.
    auth_by: Instant,
    last_heard: Instant,
    next_beat: Instant,
    heads_after: Instant,
    /// Heads wait for that moment.
    heads_wait: bool,
    /// Since when the peer takes nothing although something waits.
    stalled: Option<Instant>,
    /// The earliest call by the wheel that is still to come.
    armed: Option<Instant>,
    /// For metrics and the after-connection hook.
    word: &'static str,
    /// The listener's permit, held as long as the connection lives.
    _slot: Option<Slot>,
}

/// Whether reading made any progress.
#[derive(PartialEq, Eq)]
enum Progress {
    Some,
    None,
}

impl Connection {
    /// A connection right after its handshake; `early` came behind the head of the request.
    pub fn new(gateway: Arc<Gateway>, stream: TcpStream, early: &[u8], identity: Option<Identity>, slot: Option<Slot>) -> Connection {
        let now = Instant::now();
        let settings = &gateway.settings.ws;
        let (auth_by, next_beat) = (now + settings.auth_within, now + settings.heartbeat);
        let mut reader = Reader::new(settings.message_bytes_before_auth_max, settings.fragments_max);
        reader.hold(early);
        let socket = Socket::new(gateway.clone());
        let session = Session::new(socket.clone(), identity, now);
        gateway.connections.add(&socket);
        Connection {
            stream,
            socket,
            session,
            reader,
            unread: !early.is_empty(),
            batch: Batch::default(),
            phase: Phase::Open,
            auth_by,
            last_heard: now,
            next_beat,
            heads_after: now,
            heads_wait: false,
            stalled: None,
            armed: None,
            word: "lost",
            _slot: slot,
        }
    }

    /// One round of everything; `Ready` when the connection is over.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        let signals = self.socket.signals(cx.waker());
        let crowded = signals.crowded;
        if let Err(end) = self.obey(signals).and_then(|()| self.poll_login(cx)) {
            self.close(end);
        }
        let mut progress = match self.poll_input(cx, crowded) {
            Ok(progress) => progress,
            Err(Some(end)) => {
                self.close(end);
                Progress::Some
            }
            Err(None) => return Poll::Ready(Progress::None),
        };
        let blocked = match self.poll_output(cx) {
            Poll::Ready(Ok(())) => {
                if crowded {
                    progress = Progress::Some; // There is room again: read what was left unread.
                }
                false
            }
            Poll::Pending => true,
            Poll::Ready(Err(_)) => return Poll::Ready(Progress::None),
        };
        if self.is_over(cx, blocked) {
            return Poll::Ready(Progress::None);
        }
        self.arm();
        if progress == Progress::None && self.socket.may_sleep(blocked) {
            Poll::Pending
        } else {
            Poll::Ready(Progress::Some)
        }
    }

    /// Does what others have asked for, and what time asks for.
    fn obey(&mut self, signals: Signals) -> Result<(), End> {
        if let Some(reason) = signals.close
            && self.phase == Phase::Open
        {
            if reason != "drain" {
                return Err(end_for(reason));
            }
            self.socket.control(|out| encode::bye(out, close::DRAIN, reason));
            self.phase = Phase::Draining {
                until: Instant::now() + DRAIN_MAX,
            };
        }
        if signals.ticked {
            let now = Instant::now();
            self.armed = self.armed.filter(|at| *at > now);
            self.on_time(now)?;
        }
        match self.phase {
            Phase::Draining { .. } if self.socket.requests_in_flight() == 0 => Err(end_for("drain")),
            _ => Ok(()),
        }
    }

    fn on_time(&mut self, now: Instant) -> Result<(), End> {
        let settings = &self.socket.gateway.settings.ws;
        match self.phase {
            Phase::Closing { .. } => return Ok(()),
            Phase::Draining { until } if now >= until => return Err(end_for("drain")),
            _ => {}
        }
        if self.stalled.is_some_and(|since| now >= since + settings.stall_max) {
            return Err(End::server(close::SLOW, "slow consumer", "slow"));
        }
        if !self.session.is_open() {
            let late = now >= self.auth_by;
            return if late {
                Err(End::server(close::UNAUTHENTICATED, "not authenticated in time", "auth"))
            } else {
                Ok(())
            };
        }
        if now >= self.silent_at() {
            return Err(End::server(close::SILENT, "heartbeat lost", "silent"));
        }
        if now >= self.next_beat {
            self.next_beat = now + settings.heartbeat;
            self.socket.control(encode::heartbeat);
        }
        self.session.check_expiry(now)
    }

    /// When the peer counts as gone. Only whole frames count as heard, so one byte now and then keeps nothing alive.
    fn silent_at(&self) -> Instant {
        let heartbeat = self.socket.gateway.settings.ws.heartbeat;
        self.last_heard + 2 * heartbeat + heartbeat / SILENCE_GRACE_DIVISOR
    }

    /// Carries the login on its way further.
    fn poll_login(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(pending) = &mut self.session.pending else { return Ok(()) };
        let Poll::Ready(result) = pending.future.as_mut().poll(cx) else {
            return Ok(());
        };
        let pending = self.session.pending.take().expect("it was polled just now");
        if self.phase != Phase::Open {
            return Ok(());
        }
        self.session.finish_login(*pending, result)
    }

    /// Reads once. `Err(None)`: the peer is gone.
    fn poll_input(&mut self, cx: &mut Context<'_>, crowded: bool) -> Result<Progress, Option<End>> {
        match self.phase {
            Phase::Open if self.session.pending.is_some() || crowded => return Ok(Progress::None),
            // A request that was not read is not begun: the client sends it again to where it comes back.
            Phase::Draining { .. } => return Ok(Progress::None),
            _ => {}
        }
        let closing = matches!(self.phase, Phase::Closing { .. });
        if std::mem::take(&mut self.unread) && !closing {
            return self.consume(&mut []).map(|()| Progress::Some).map_err(Some);
        }
        INPUT.with_borrow_mut(|buffer| {
            let mut input = ReadBuf::new(buffer);
            match Pin::new(&mut self.stream).poll_read(cx, &mut input) {
                Poll::Pending => return Ok(Progress::None),
                Poll::Ready(Err(_)) => return Err(None),
                Poll::Ready(Ok(())) => {}
            }
            match input.filled_mut() {
                [] => Err(None),
                _ if closing => Ok(Progress::Some), // Read only so that the close frame is not lost with a reset.
                bytes => self.consume(bytes).map(|()| Progress::Some).map_err(Some),
            }
        })
    }

    /// Hands whole messages to the session, as long as no login is on its way.
    fn consume(&mut self, input: &mut [u8]) -> Result<(), End> {
        let now = Instant::now();
        let mut used = 0;
        while self.session.pending.is_none() {
            let Some(message) = self.reader.next(input, &mut used)? else {
                return Ok(());
            };
            self.last_heard = now;
            self.session.handle(message, now)?;
            self.reader.set_limit(self.session.message_bytes_max());
        }
        self.reader.hold(&input[used..]);
        self.unread = true;
        Ok(())
    }

    /// Writes until nothing waits or the socket takes no more.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.batch.is_empty() && self.socket.take(&mut self.batch) {
                self.refresh();
                self.socket.take(&mut self.batch);
            }
            if self.batch.is_empty() {
                self.stalled = None;
                return Poll::Ready(Ok(()));
            }
            let stream = Pin::new(&mut self.stream);
            let Poll::Ready(written) = self.batch.lend(|due| match due {
                Due::One(bytes) => stream.poll_write(cx, bytes),
                Due::Many(slices) => stream.poll_write_vectored(cx, slices),
            }) else {
                self.stalled.get_or_insert_with(Instant::now);
                return Poll::Pending;
            };
            match written? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.batch.advance(bytes),
            }
            self.stalled = None;
        }
    }

    /// The outbox is empty: tells what was left out of it, and new heads.
    fn refresh(&mut self) {
        let Some(actor) = self.session.actor() else { return };
        let now = Instant::now();
        let with_heads = now >= self.heads_after;
        let refresh = self.socket.refresh(with_heads);
        self.heads_wait = refresh.heads_wait;
        if !refresh.marks.is_empty() {
            tokio::spawn(resume::resend_marks(self.socket.clone(), actor.clone(), refresh.marks));
        }
        if refresh.all_heads || !refresh.heads.is_empty() {
            self.heads_after = now + HEADS_PERIOD;
        }
        let mut of_broadcasts = Vec::new();
        for new in refresh.heads {
            let NewHead { conversation, seq, at } = new;
            // Asked without any lock of ours, since the engine's locks come before the socket's.
            let known = self.socket.gateway.engine.head(conversation, &actor.user);
            if known.is_none() && self.socket.gateway.engine.is_broadcast(conversation) {
                of_broadcasts.push(new);
            } else {
                self.socket.head(conversation, encode::head(conversation, seq, at, known));
            }
        }
        if !of_broadcasts.is_empty() {
            tokio::spawn(resume::broadcast_heads(self.socket.clone(), of_broadcasts));
        }
        if refresh.all_heads {
            let socket = self.socket.clone();
            tokio::spawn(async move { resume::heads(&socket).await });
        }
    }

    /// Begins to close: takes nothing more, and queues the close frame behind the answers that wait.
    fn close(&mut self, end: End) {
        if matches!(self.phase, Phase::Closing { .. }) {
            return;
        }
        let (code, reason, word) = end.parts();
        let slow = code == Some(close::SLOW) && word != session::PEER;
        if slow {
            self.batch.keep_started();
        }
        if let End::Server { code, .. } = end {
            metrics::closed(code);
        }
        self.socket.seal(code, reason, slow);
        self.word = word;
        self.session.leave(word);
        self.phase = Phase::Closing {
            until: Instant::now() + LINGER,
            by_peer: matches!(end, End::Peer(_)),
            flushed: false,
        };
    }

    /// Whether a closing connection has done what it had to.
    fn is_over(&mut self, cx: &mut Context<'_>, blocked: bool) -> bool {
        let Phase::Closing { until, by_peer, flushed } = &mut self.phase else {
            return false;
        };
        if !blocked && !*flushed {
            *flushed = true;
            // A socket's shutdown never waits.
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        (*flushed && *by_peer) || Instant::now() >= *until
    }

    /// Asks the wheel for a call at the next deadline, unless it calls before anyway.
    fn arm(&mut self) {
        let next = self.next_deadline();
        if self.armed.is_none_or(|at| next < at) {
            self.armed = Some(next);
            self.socket.gateway.connections.wheel.arm(self.socket.key, next);
        }
    }

    fn next_deadline(&self) -> Instant {
        let settings = &self.socket.gateway.settings.ws;
        let mut next = match self.phase {
            Phase::Closing { until, .. } => return until,
            Phase::Draining { until } => until,
            Phase::Open if !self.session.is_open() => self.auth_by,
            Phase::Open => self.next_beat.min(self.silent_at()),
        };
        if let Some(since) = self.stalled {
            next = next.min(since + settings.stall_max);
        }
        if let Some(at) = self.session.expires() {
            next = next.min(at);
        }
        if self.heads_wait {
            next = next.min(self.heads_after);
        }
        next
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..ROUNDS_MAX {
            match this.round(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Progress::Some) => {}
                Poll::Ready(Progress::None) => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.socket.end();
        self.session.leave(self.word);
        self.socket.gateway.connections.remove(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The budget of an idle connection is 4 KiB with everything that the system's socket, the hub and the allocator add.
    #[test]
    fn an_idle_connection_is_small() {
        assert!(size_of::<Connection>() <= 768, "task: {}", size_of::<Connection>());
        assert!(size_of::<Socket>() <= 512, "shared: {}", size_of::<Socket>());
    }
}
