//! Many WebSockets on one thread: epoll, one read and one write per socket and round, nothing parsed that is not needed.
//!
//! [`Client::round`] waits, reads what has come and hands it to a [`Handler`]; what the handler sends is collected per
//! connection and written at the end of the round.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    os::fd::OwnedFd,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, epoll, poll},
    net::{AddressFamily, SocketFlags, SocketType},
};

use crate::{
    dialect::{Dialect, Incoming},
    frame::{self, Frame},
};

/// Read at once, from one socket.
const INPUT_BYTES: usize = 256 * 1024;
/// Sockets handled in one round.
const EVENTS_MAX: usize = 512;
/// Ports of each of the loopback's addresses that connections come from, and the addresses.
const SOURCE_PORT_FIRST: u16 = 10_000;
const SOURCE_PORTS: u32 = 50_000;
const SOURCE_HOSTS: u32 = 200;
/// The head of an answer to an upgrade.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Any 16 bytes in base64 do.
const UPGRADE_KEY: &str = "aGFnZ2xlLWJlbmNoLWtleQ==";

/// What happens to connections.
pub trait Handler {
    /// The upgrade is done.
    fn open(&mut self, io: &mut Io, conn: usize, now: Instant);
    /// The server says something.
    fn incoming(&mut self, io: &mut Io, conn: usize, incoming: Incoming<'_>, now: Instant);
    /// The connection is over, and we did not end it.
    fn closed(&mut self, io: &mut Io, conn: usize, why: &str);
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Closed,
    Upgrading,
    Open,
}

struct Conn {
    stage: Stage,
    stream: Option<TcpStream>,
    /// Part of a frame that is not complete.
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    /// In the list of those that have something to write.
    dirty: bool,
    /// Waits until the socket takes more.
    blocked: bool,
}

impl Conn {
    fn new() -> Conn {
        Conn {
            stage: Stage::Closed,
            stream: None,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
            dirty: false,
            blocked: false,
        }
    }
}

/// The connections, as a handler may use them.
pub struct Io {
    epoll: OwnedFd,
    conns: Vec<Conn>,
    dirty: Vec<usize>,
    /// Ended during this round by an error of ours; told at its end.
    failed: VecDeque<(usize, String)>,
    target: SocketAddr,
    host: String,
    dialect: Box<dyn Dialect>,
}

/// See the module.
pub struct Client {
    io: Io,
    input: Box<[u8]>,
    events: Vec<epoll::Event>,
}

/// Where a connection to this machine comes from: one address and port after the other, beginning elsewhere in each process. The
/// kernel would look for a free port among all, which with 15,000 connections is most of what the client does. Whoever finds its
/// source taken fails, and is opened again from the next one.
fn source(target: SocketAddr) -> Option<SocketAddrV4> {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id() % SOURCE_HOSTS * SOURCE_PORTS));
    if !matches!(target.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
        return None;
    }
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let (host, port) = (next / SOURCE_PORTS % SOURCE_HOSTS, next % SOURCE_PORTS);
    Some(SocketAddrV4::new(
        Ipv4Addr::new(127, 0, 1, 1 + host as u8),
        SOURCE_PORT_FIRST + port as u16,
    ))
}

impl Client {
    /// A client of `conns` connections, none of them open.
    pub fn new(conns: usize, target: SocketAddr, host: &str, dialect: Box<dyn Dialect>) -> Result<Client> {
        let io = Io {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?,
            conns: (0..conns).map(|_| Conn::new()).collect(),
            dirty: Vec::new(),
            failed: VecDeque::new(),
            target,
            host: host.to_owned(),
            dialect,
        };
        Ok(Client {
            io,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// The connections.
    pub fn io(&mut self) -> &mut Io {
        &mut self.io
    }

    /// Points the connections that are opened from now on to another address.
    pub fn retarget(&mut self, target: SocketAddr) {
        self.io.target = target;
    }

    /// Writes what waits, waits for input until `deadline` at most, handles it, and writes what that brought up.
    pub fn round(&mut self, handler: &mut dyn Handler, deadline: Instant) -> Result<()> {
        self.flush(handler);
        self.wait(deadline)?;
        for event in std::mem::take(&mut self.events).drain(..) {
            let (conn, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(epoll::EventFlags::OUT) {
                self.io.mark(conn);
            }
            if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                self.read(handler, conn);
            }
        }
        self.flush(handler);
        Ok(())
    }

    /// Epoll itself waits whole milliseconds, which is too coarse for a schedule.
    fn wait(&mut self, deadline: Instant) -> Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.reserve(EVENTS_MAX);
        let take = |client: &mut Client| match epoll::wait(&client.io.epoll, rustix::buffer::spare_capacity(&mut client.events), Some(&zero)) {
            Err(rustix::io::Errno::INTR) => Ok(0),
            taken => taken,
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if take(self).context("epoll")? == 0 && !left.is_zero() {
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.io.epoll, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => drop(take(self).context("epoll")?),
                Err(error) => return Err(error).context("poll"),
            }
        }
        Ok(())
    }

    fn read(&mut self, handler: &mut dyn Handler, conn: usize) {
        let state = &mut self.io.conns[conn];
        let Some(stream) = &mut state.stream else { return };
        let held = state.input.len();
        if held >= self.input.len() {
            return self.end(handler, conn, "a frame larger than the client reads");
        }
        self.input[..held].copy_from_slice(&state.input);
        let end = match stream.read(&mut self.input[held..]) {
            Ok(0) => return self.end(handler, conn, "closed by the server"),
            Ok(bytes) => held + bytes,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(error) => return self.end(handler, conn, &error.to_string()),
        };
        state.input.clear();
        let now = Instant::now();
        let mut at = 0;
        if state.stage == Stage::Upgrading {
            match upgraded(&self.input[..end]) {
                Ok(Some(head)) => at = head,
                Ok(None) => return state.input.extend_from_slice(&self.input[..end]),
                Err(why) => return self.end(handler, conn, &why),
            }
            state.stage = Stage::Open;
            handler.open(&mut self.io, conn, now);
        }
        if let Err(why) = self.io.frames(handler, conn, &self.input[..end], &mut at, now) {
            self.end(handler, conn, &why);
        } else if at < end && self.io.conns[conn].stage == Stage::Open {
            self.io.conns[conn].input.extend_from_slice(&self.input[at..end]);
        }
    }

    fn flush(&mut self, handler: &mut dyn Handler) {
        while let Some(conn) = self.io.dirty.pop() {
            self.io.conns[conn].dirty = false;
            if let Err(error) = self.io.write(conn) {
                self.end(handler, conn, &error.to_string());
            }
        }
        while let Some((conn, why)) = self.io.failed.pop_front() {
            handler.closed(&mut self.io, conn, &why);
        }
    }

    fn end(&mut self, handler: &mut dyn Handler, conn: usize, why: &str) {
        if self.io.is_open(conn) {
            self.io.close(conn);
            handler.closed(&mut self.io, conn, why);
        }
    }
}

/// How long the head of the answer is, when it is complete and agrees.
fn upgraded(input: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX {
            Err("an endless answer to the upgrade".into())
        } else {
            Ok(None)
        };
    };
    if input.starts_with(b"HTTP/1.1 101 ") {
        return Ok(Some(end + 4));
    }
    let first = input.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(format!("the upgrade was answered {:?}", String::from_utf8_lossy(first)))
}

impl Io {
    /// Begins to open a connection.
    pub fn connect(&mut self, conn: usize, token: &str) {
        let stream = match self.socket(conn) {
            Ok(stream) => stream,
            Err(error) => return self.failed.push_back((conn, error.to_string())),
        };
        let (path, headers) = self.dialect.upgrade(token);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {UPGRADE_KEY}\r\n{headers}\r\n",
            self.host
        );
        let fresh = Conn {
            stage: Stage::Upgrading,
            stream: Some(stream),
            output: request.into_bytes(),
            ..Conn::new()
        };
        let dirty = std::mem::replace(&mut self.conns[conn], fresh).dirty;
        self.conns[conn].dirty = dirty;
        self.mark(conn);
    }

    /// A socket whose connecting has begun.
    fn socket(&self, conn: usize) -> io::Result<TcpStream> {
        let family = if self.target.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(source) = source(self.target) {
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?; // from one that has ended as well
            rustix::net::bind(&socket, &source)?;
        }
        match rustix::net::connect(&socket, &self.target) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(conn as u64), epoll::EventFlags::IN)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Ends a connection without a word.
    pub fn close(&mut self, conn: usize) {
        let dirty = self.conns[conn].dirty;
        self.conns[conn] = Conn { dirty, ..Conn::new() };
    }

    /// Whether a connection is neither ended nor failed.
    pub fn is_open(&self, conn: usize) -> bool {
        self.conns[conn].stage != Stage::Closed
    }

    /// How many there are.
    pub fn conns(&self) -> usize {
        self.conns.len()
    }

    /// Where connections go.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// What is spoken.
    pub fn dialect(&self) -> &dyn Dialect {
        &*self.dialect
    }

    /// Adds one text to what is written at the end of the round.
    pub fn text(&mut self, conn: usize, write: impl FnOnce(&dyn Dialect, &mut Vec<u8>)) {
        let dialect = &*self.dialect;
        frame::text(&mut self.conns[conn].output, |out| write(dialect, out));
        self.mark(conn);
    }

    fn mark(&mut self, conn: usize) {
        if !std::mem::replace(&mut self.conns[conn].dirty, true) {
            self.dirty.push(conn);
        }
    }

    fn frames(&mut self, handler: &mut dyn Handler, conn: usize, input: &[u8], at: &mut usize, now: Instant) -> Result<(), String> {
        // A handler may close the connection meanwhile.
        while self.conns[conn].stage == Stage::Open {
            let taken = frame::next(input, at).map_err(|malformed| format!("the server sent {}", malformed.0))?;
            match taken {
                None => return Ok(()),
                Some(Frame::Data(payload)) => self.data(handler, conn, &input[payload], now),
                Some(Frame::Ping(payload)) => {
                    frame::pong(&mut self.conns[conn].output, &input[payload]);
                    self.mark(conn);
                }
                Some(Frame::Pong) => {}
                Some(Frame::Close(code)) => return Err(format!("closed by the server with code {}", code.unwrap_or(1005))),
            }
        }
        Ok(())
    }

    fn data(&mut self, handler: &mut dyn Handler, conn: usize, text: &[u8], now: Instant) {
        let Io { dialect, conns, .. } = self;
        match dialect.parse(text) {
            Incoming::Heartbeat => {
                frame::text(&mut conns[conn].output, |out| dialect.heartbeat(out));
                self.mark(conn);
            }
            Incoming::Other => {}
            incoming => handler.incoming(self, conn, incoming, now),
        }
    }

    fn write(&mut self, conn: usize) -> io::Result<()> {
        let state = &mut self.conns[conn];
        let Some(stream) = &mut state.stream else { return Ok(()) };
        while state.written < state.output.len() {
            match stream.write(&state.output[state.written..]) {
                Ok(bytes) => state.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not connected yet, or the server is slow to read.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                    return self.watch(conn, true);
                }
                Err(error) => return Err(error),
            }
        }
        state.output.clear();
        state.written = 0;
        self.watch(conn, false)
    }

    fn watch(&mut self, conn: usize, blocked: bool) -> io::Result<()> {
        let Io { epoll, conns, .. } = self;
        let Conn {
            stream: Some(stream),
            blocked: was,
            ..
        } = &mut conns[conn]
        else {
            return Ok(());
        };
        if std::mem::replace(was, blocked) != blocked {
            let flags = if blocked {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            epoll::modify(epoll, stream, epoll::EventData::new_u64(conn as u64), flags)?;
        }
        Ok(())
    }
}

/// The longest that a round waits where nothing is scheduled.
pub const TICK: Duration = Duration::from_millis(50);
