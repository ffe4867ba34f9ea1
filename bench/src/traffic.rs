//! The load: who sends when, what is counted, and the checker beside it.

use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

use crate::{
    check::Checker,
    client::{Client, Handler, Io, TICK},
    dialect::{Event, Incoming, Outgoing},
    http,
    join::{Roster, latencies},
    progress,
};

/// How long the last answers and deliveries may take when nothing is sent any more.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long doubled events may still come after that.
const AFTERMATH: Duration = Duration::from_millis(100);
/// What follows the stamp of a text; the hook of W4 finds its word in it.
const FILLER: &str = "the quick brown fox jumps over the lazy dog and sells it to the highest bidder who pays on delivery ";
/// Errors that are kept; more are only counted by their number.
const ERRORS_MAX: usize = 10;

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Each sender keeps so many unanswered; `each`: it stops after so many.
    Closed { window: u32, each: Option<u32> },
    /// So many a second over all, evenly, whatever the answers do.
    Open { per_second: f64 },
}

/// What is counted of one window of time.
pub struct Counts {
    /// From here …
    from: Duration,
    /// … to there, since the beginning of the traffic.
    to: Duration,
    /// Answers that say stored.
    pub acked: u64,
    /// Deliveries to members that are not the sender.
    pub delivered: u64,
    /// Microseconds until the ack: from sending in a closed loop, from the scheduled time in an open one.
    pub ack: Histogram<u64>,
    /// Microseconds until a member that is not the sender has it, from the same moments.
    pub delivery: Histogram<u64>,
}

impl Counts {
    fn new(from: Duration, to: Duration) -> Counts {
        Counts {
            from,
            to,
            acked: 0,
            delivered: 0,
            ack: latencies(),
            delivery: latencies(),
        }
    }

    fn holds(&self, at: Duration) -> bool {
        (self.from..self.to).contains(&at)
    }
}

/// See the module.
pub struct Traffic<'r> {
    roster: &'r Roster,
    mode: Mode,
    senders: Vec<usize>,
    text_bytes: usize,
    /// What must agree.
    pub checker: Checker,
    start: Instant,
    /// By sender and number: when it was due, in microseconds since `start`.
    due: Vec<Vec<u32>>,
    /// New messages are sent.
    sending: bool,
    /// What is counted now.
    pub counts: Counts,
    /// Connections that were lost and answers that make no sense.
    pub errors: Vec<String>,
    /// Refusals by code.
    pub refusals: BTreeMap<String, u64>,
    text: String,
}

impl<'r> Traffic<'r> {
    /// Traffic of `senders`, whose texts are `text_bytes` long; nothing is sent yet.
    pub fn new(roster: &'r Roster, dense: bool, senders: Vec<usize>, text_bytes: usize, mode: Mode) -> Traffic<'r> {
        Traffic {
            mode,
            senders,
            text_bytes,
            checker: Checker::new(roster.members(), &roster.heads, dense),
            start: Instant::now(),
            due: vec![Vec::new(); roster.users.len()],
            sending: false,
            counts: Counts::new(Duration::ZERO, Duration::ZERO),
            errors: Vec::new(),
            refusals: BTreeMap::new(),
            text: String::with_capacity(text_bytes + FILLER.len()),
            roster,
        }
    }

    /// Counts from now on, for this long.
    pub fn count(&mut self, lasting: Duration) {
        let now = self.start.elapsed();
        self.counts = Counts::new(now, now + lasting);
    }

    /// Lets the traffic run for this long.
    pub fn run(&mut self, client: &mut Client, lasting: Duration) -> Result<()> {
        let until = Instant::now() + lasting;
        match self.mode {
            Mode::Closed { window, .. } => self.run_closed(client, window, until),
            Mode::Open { per_second } => self.run_open(client, per_second, until),
        }
    }

    fn run_closed(&mut self, client: &mut Client, window: u32, until: Instant) -> Result<()> {
        if !self.sending {
            self.sending = true;
            for sender in self.senders.clone() {
                for _ in 0..window {
                    self.send(client.io(), sender, self.start.elapsed());
                }
            }
        }
        while Instant::now() < until && self.errors.is_empty() {
            client.round(self, until.min(Instant::now() + TICK))?;
            self.show(until);
        }
        Ok(())
    }

    fn run_open(&mut self, client: &mut Client, per_second: f64, until: Instant) -> Result<()> {
        self.sending = true;
        let (start, mut next) = (Instant::now(), 0u64);
        let due = |n: u64| start + Duration::from_secs_f64(n as f64 / per_second);
        while due(next) < until && self.errors.is_empty() {
            let now = Instant::now();
            while due(next) <= now && due(next) < until {
                let sender = self.senders[self.turn(next)];
                self.send(client.io(), sender, due(next).duration_since(self.start));
                next += 1;
            }
            client.round(self, due(next).min(until))?;
            self.show(until);
        }
        Ok(())
    }

    /// Whose turn it is: everybody once before anybody twice, partners not one after the other.
    fn turn(&self, n: u64) -> usize {
        let senders = self.senders.len() as u64;
        let stride = [61, 59, 53, 1].into_iter().find(|stride| !senders.is_multiple_of(*stride)).unwrap_or(1);
        ((n % senders) * stride % senders) as usize
    }

    /// Sends nothing new and waits for all answers and deliveries. False: they did not come.
    pub fn drain(&mut self, client: &mut Client) -> Result<bool> {
        self.sending = false;
        let deadline = Instant::now() + DRAIN_MAX;
        while self.outstanding() > 0 {
            if Instant::now() > deadline || !self.errors.is_empty() {
                return Ok(false);
            }
            client.round(self, Instant::now() + TICK)?;
            self.show(deadline);
        }
        Ok(true)
    }

    /// Lets a closed loop with a number for each go on until everybody has sent and heard all.
    pub fn finish(&mut self, client: &mut Client) -> Result<()> {
        let (Mode::Closed { each: Some(each), .. }, senders) = (self.mode, self.senders.len()) else {
            bail!("this traffic has no end of its own");
        };
        while self.checker.sent() < senders as u64 * u64::from(each) && self.errors.is_empty() {
            client.round(self, Instant::now() + TICK)?;
            self.show(Instant::now());
        }
        Ok(())
    }

    /// Listens a moment longer: a doubled event may come late.
    pub fn listen(&mut self, client: &mut Client) -> Result<()> {
        let until = Instant::now() + AFTERMATH;
        while Instant::now() < until {
            client.round(self, until)?;
        }
        Ok(())
    }

    /// Reads every history and compares it with what was acknowledged.
    pub fn audit(&mut self, address: SocketAddr) -> Result<()> {
        for (number, room) in self.roster.rooms.iter().enumerate() {
            let history = http::history(address, &room.id, &self.roster.tokens[room.members[0]], 0)?;
            self.checker.audit(number, &history);
            progress::line(|| format!("reading histories: {number}"));
        }
        Ok(())
    }

    /// Answers and deliveries that are due.
    pub fn outstanding(&self) -> u64 {
        self.checker.unanswered() + self.checker.undelivered()
    }

    fn send(&mut self, io: &mut Io, sender: usize, due: Duration) {
        let n = self.checker.send(sender);
        self.due[sender].push(due.as_micros() as u32);
        self.write_text(sender, n);
        let outgoing = Outgoing {
            conversation: &self.roster.room(sender).id,
            n,
            text: &self.text,
        };
        io.text(sender, |dialect, out| dialect.send(out, outgoing));
    }

    fn write_text(&mut self, sender: usize, n: u32) {
        let mut text = std::mem::take(&mut self.text).into_bytes();
        text.clear();
        write!(text, "hb1:{sender}:{n}: ").expect("writing to memory does not fail");
        while text.len() < self.text_bytes {
            let more = FILLER.len().min(self.text_bytes - text.len());
            text.extend_from_slice(&FILLER.as_bytes()[..more]);
        }
        self.text = String::from_utf8(text).expect("it is ASCII");
    }

    /// The next message of a closed loop.
    fn answered(&mut self, io: &mut Io, sender: usize) {
        let Mode::Closed { each, .. } = self.mode else { return };
        if self.sending && each.is_none_or(|each| (self.due[sender].len() as u32) < each) {
            self.send(io, sender, self.start.elapsed());
        }
    }

    fn latency(&self, sender: usize, n: u32, now: Duration) -> Option<(Duration, u64)> {
        let due = Duration::from_micros(u64::from(*self.due.get(sender)?.get(n as usize)?));
        Some((due, now.saturating_sub(due).as_micros() as u64))
    }

    /// Whether a latency belongs to the window: by the answer in a closed loop, by the schedule in an open one.
    fn counted(&self, due: Duration, now: Duration) -> bool {
        self.counts.holds(if matches!(self.mode, Mode::Open { .. }) { due } else { now })
    }

    fn acked(&mut self, sender: usize, n: u32, seq: u32, now: Duration) {
        self.checker.acked(sender, n, seq);
        self.counts.acked += u64::from(self.counts.holds(now));
        if let Some((due, micros)) = self.latency(sender, n, now)
            && self.counted(due, now)
        {
            self.counts.ack.saturating_record(micros);
        }
    }

    fn event(&mut self, conn: usize, event: Event<'_>, now: Duration) {
        if event.conversation != self.roster.room(conn).id || !self.checker.seen(conn, event.seq, event.stamp) {
            return;
        }
        self.counts.delivered += u64::from(self.counts.holds(now));
        let Some(stamp) = event.stamp else { return };
        if let Some((due, micros)) = self.latency(stamp.sender as usize, stamp.n, now)
            && self.counted(due, now)
        {
            self.counts.delivery.saturating_record(micros);
        }
    }

    /// Notes something that must not happen.
    pub fn error(&mut self, what: String) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(what);
        }
    }

    fn show(&self, until: Instant) {
        progress::line(|| {
            let left = until.saturating_duration_since(Instant::now()).as_secs();
            format!("{} sent, {} outstanding, {left} s to go", self.checker.sent(), self.outstanding())
        });
    }
}

impl Handler for Traffic<'_> {
    fn open(&mut self, _io: &mut Io, conn: usize, _now: Instant) {
        self.error(format!("connection {conn} opened again"));
    }

    fn incoming(&mut self, io: &mut Io, conn: usize, incoming: Incoming<'_>, at: Instant) {
        let now = at.duration_since(self.start);
        match incoming {
            Incoming::Event(event) => self.event(conn, event, now),
            Incoming::Ack { n, seq } => {
                self.acked(conn, n, seq, now);
                self.answered(io, conn);
            }
            Incoming::Refused { n, code } => {
                self.checker.refused(conn, n);
                *self.refusals.entry(code.to_owned()).or_default() += 1;
                self.answered(io, conn);
            }
            Incoming::Gap { conversation, head } if conversation == self.roster.room(conn).id => self.checker.gap(conn, head),
            Incoming::Failed(code) => self.error(format!("connection {conn} was answered {code}")),
            _ => {}
        }
    }

    fn closed(&mut self, _io: &mut Io, conn: usize, why: &str) {
        self.error(format!("connection {conn}: {why}"));
    }
}
