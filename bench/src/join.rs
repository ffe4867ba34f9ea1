//! From nothing to connections that follow their conversations: connect, log in, create, join.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::{
    client::{Client, Handler, Io, TICK},
    dialect::Incoming,
    http, progress, token,
};

/// Nobody joins for so long: give up.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// What took longer counts as this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Tries of one connection.
const TRIES_MAX: u8 = 5;

/// A conversation of the load.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// Empty until it exists.
    pub id: String,
    /// Connections; the first one creates it.
    pub members: Vec<usize>,
}

/// Who takes part: connection `i` is user `i`, in exactly one conversation.
pub struct Roster {
    /// Ids of users.
    pub users: Vec<String>,
    /// Their tokens.
    pub tokens: Vec<String>,
    /// The conversation of each.
    pub room_of: Vec<usize>,
    /// The conversations.
    pub rooms: Vec<Room>,
    /// What each has seen of it.
    pub heads: Vec<u32>,
}

impl Roster {
    /// Conversations of `size` users each.
    pub fn new(conns: usize, size: usize, secret: &str) -> Result<Roster> {
        if conns == 0 || !conns.is_multiple_of(size) {
            bail!("{conns} connections do not make conversations of {size}");
        }
        let run = token::random_hex()?;
        let users: Vec<String> = (0..conns).map(|i| format!("b{}-{i}", &run[..8])).collect();
        let tokens = users.iter().map(|user| token::sign(user, secret)).collect::<Result<_>>()?;
        let rooms = (0..conns / size).map(|room| Room {
            id: String::new(),
            members: (room * size..(room + 1) * size).collect(),
        });
        Ok(Roster {
            users,
            tokens,
            room_of: (0..conns).map(|i| i / size).collect(),
            rooms: rooms.collect(),
            heads: vec![0; conns],
        })
    }

    /// The conversation of a connection.
    pub fn room(&self, conn: usize) -> &Room {
        &self.rooms[self.room_of[conn]]
    }

    /// Members by conversation.
    pub fn members(&self) -> Vec<Vec<usize>> {
        self.rooms.iter().map(|room| room.members.clone()).collect()
    }
}

/// How joining went.
pub struct Joined {
    /// From the first connect to the last join, in seconds.
    pub seconds: f64,
    /// From the beginning of all to a connection's join, in microseconds.
    pub latency: Histogram<u64>,
    /// Connections that failed and were opened again.
    pub errors: u64,
}

/// Opens `which` and lets each join its conversation; at most `in_flight` are on their way at the same time.
/// With `resume` they ask for what came after [`Roster::heads`], and what they get is handed to `rest` from the moment they ask.
pub fn join<'a>(
    client: &mut Client,
    roster: &'a mut Roster,
    which: &[usize],
    in_flight: usize,
    resume: Option<&'a mut (dyn Handler + 'a)>,
) -> Result<Joined> {
    let start = Instant::now();
    let mut joiner = Joiner {
        done: vec![false; client.io().conns()],
        tries: vec![0; client.io().conns()],
        waiting: creators_first(roster, which),
        in_flight: 0,
        left: which.len(),
        roster,
        resume,
        start,
        report: Joined {
            seconds: 0.0,
            latency: latencies(),
            errors: 0,
        },
        fatal: None,
    };
    let (mut left, mut moved) = (joiner.left, start);
    while joiner.left > 0 {
        while joiner.in_flight < in_flight
            && let Some(conn) = joiner.waiting.pop_front()
        {
            joiner.in_flight += 1;
            client.io().connect(conn, &joiner.roster.tokens[conn]);
        }
        client.round(&mut joiner, Instant::now() + TICK)?;
        if let Some(why) = joiner.fatal {
            bail!("joining failed: {why}");
        }
        if joiner.left != left {
            (left, moved) = (joiner.left, Instant::now());
        }
        if moved.elapsed() > STUCK_AFTER {
            bail!("{left} of {} connections did not join", which.len());
        }
        progress::line(|| format!("joining: {left} to go"));
    }
    joiner.report.seconds = start.elapsed().as_secs_f64();
    Ok(joiner.report)
}

/// Who logs in before its conversation exists would have to come again.
fn creators_first(roster: &Roster, which: &[usize]) -> VecDeque<usize> {
    let creates = |conn: usize| roster.room(conn).id.is_empty() && roster.room(conn).members[0] == conn;
    let (first, then): (Vec<usize>, Vec<usize>) = which.iter().partition(|conn| creates(**conn));
    first.into_iter().chain(then).collect()
}

/// A histogram of microseconds.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order and three digits are allowed")
}

struct Joiner<'a> {
    roster: &'a mut Roster,
    done: Vec<bool>,
    tries: Vec<u8>,
    waiting: VecDeque<usize>,
    in_flight: usize,
    left: usize,
    resume: Option<&'a mut (dyn Handler + 'a)>,
    start: Instant,
    report: Joined,
    fatal: Option<String>,
}

impl Joiner<'_> {
    fn ask(&mut self, io: &mut Io, conn: usize) {
        let since = self.resume.is_some().then(|| self.roster.heads[conn]);
        let id = &self.roster.rooms[self.roster.room_of[conn]].id;
        io.text(conn, |dialect, out| dialect.join(out, id, since));
    }

    /// The creator creates; the others wait for it, and give their place to somebody else.
    fn logged_in(&mut self, io: &mut Io, conn: usize) {
        let room = self.roster.room(conn);
        if !room.id.is_empty() {
            self.ask(io, conn);
        } else if room.members[0] == conn {
            let others: Vec<&str> = room.members[1..].iter().map(|&member| self.roster.users[member].as_str()).collect();
            match io.dialect().create_by_rest(&others) {
                None => io.text(conn, |dialect, out| dialect.create(out, &others)),
                Some(rest) => match http::create(io.target(), &rest, &self.roster.tokens[conn]) {
                    Ok(id) => self.created(io, conn, id),
                    Err(error) => self.fatal = Some(format!("creating a conversation: {error:#}")),
                },
            }
        } else {
            self.in_flight -= 1;
            io.close(conn);
            self.waiting.push_back(conn);
        }
    }

    fn created(&mut self, io: &mut Io, conn: usize, id: String) {
        let room = self.roster.room_of[conn];
        self.roster.rooms[room].id = id;
        self.ask(io, conn);
    }

    fn joined(&mut self, conn: usize, head: u32, now: Instant) {
        if self.resume.is_none() {
            self.roster.heads[conn] = head;
        }
        self.done[conn] = true;
        self.left -= 1;
        self.in_flight -= 1;
        self.report.latency.saturating_record(now.duration_since(self.start).as_micros() as u64);
    }
}

impl Handler for Joiner<'_> {
    fn open(&mut self, io: &mut Io, conn: usize, _now: Instant) {
        let token = &self.roster.tokens[conn];
        io.text(conn, |dialect, out| dialect.login(out, token));
    }

    fn incoming(&mut self, io: &mut Io, conn: usize, incoming: Incoming<'_>, now: Instant) {
        match incoming {
            Incoming::LoggedIn => self.logged_in(io, conn),
            Incoming::Created(id) => self.created(io, conn, id.to_owned()),
            Incoming::Joined { head } if !self.done[conn] => self.joined(conn, head, now),
            Incoming::Failed(code) => self.fatal = Some(format!("user {}: {code}", self.roster.users[conn])),
            other => {
                if let Some(rest) = &mut self.resume {
                    rest.incoming(io, conn, other, now);
                }
            }
        }
    }

    fn closed(&mut self, _io: &mut Io, conn: usize, why: &str) {
        self.report.errors += 1;
        if std::mem::take(&mut self.done[conn]) {
            self.left += 1;
        } else {
            self.in_flight -= 1;
        }
        self.tries[conn] += 1;
        if self.tries[conn] < TRIES_MAX {
            self.waiting.push_back(conn);
        } else {
            self.fatal = Some(format!("connection {conn} failed {TRIES_MAX} times, at last: {why}"));
        }
    }
}
