//! What survives: W7 catch-up of those who were away, W8 the death of the server.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::pairs::{JOINING, conclude};
use crate::{
    check::Checker,
    client::{Handler, Io},
    dialect::Incoming,
    http,
    join::{Roster, join},
    options::Options,
    progress,
    report::Row,
    traffic::{Mode, Traffic},
};

/// Messages that each receiver misses.
const MISSED: u32 = 1_000;
/// Unanswered messages of one sender meanwhile.
const WINDOW: u32 = 8;
/// How long the replay may make no progress.
const REPLAY_MAX: Duration = Duration::from_secs(30);

/// W7.
pub fn catch_up(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[200]) {
            report(catch_up_once(options, conns)?);
        }
    }
    Ok(())
}

fn catch_up_once(options: &Options, conns: usize) -> Result<Row> {
    progress::what(&format!("W7 catch-up, {conns} connections"));
    let mut row = Row::new("W7", "catch-up", conns);
    let under = options.start(None)?;
    let mut roster = Roster::new(conns, 2, &options.launch.secret)?;
    let mut client = under.client(options, conns)?;
    join(&mut client, &mut roster, &(0..conns).collect::<Vec<_>>(), JOINING, None)?;
    let (senders, receivers): (Vec<usize>, Vec<usize>) = (0..conns).partition(|conn| conn.is_multiple_of(2));
    receivers.iter().for_each(|&conn| client.io().close(conn));

    let dense = client.io().dialect().echoes();
    let mode = Mode::Closed {
        window: WINDOW,
        each: Some(MISSED),
    };
    let snapshot = Roster {
        users: roster.users.clone(),
        tokens: roster.tokens.clone(),
        room_of: roster.room_of.clone(),
        rooms: roster.rooms.clone(),
        heads: roster.heads.clone(),
    };
    let mut traffic = Traffic::new(&snapshot, dense, senders, options.text_bytes, mode);
    traffic.run(&mut client, Duration::ZERO)?;
    traffic.finish(&mut client)?;
    while traffic.checker.unanswered() > 0 && traffic.errors.is_empty() {
        client.round(&mut traffic, std::time::Instant::now() + crate::client::TICK)?;
    }

    let start = std::time::Instant::now();
    let mut returning = Returning { traffic, gaps: Vec::new() };
    join(&mut client, &mut roster, &receivers, receivers.len(), Some(&mut returning))?;
    let joined_s = start.elapsed().as_secs_f64();
    let mut moved = (start, u64::MAX);
    while returning.traffic.checker.undelivered() > 0 && returning.traffic.errors.is_empty() && moved.0.elapsed() < REPLAY_MAX {
        for (conn, after) in std::mem::take(&mut returning.gaps) {
            let id = &snapshot.room(conn).id;
            for (seq, stamp) in http::history(under.address, id, &snapshot.tokens[conn], after)? {
                returning.traffic.checker.seen(conn, seq, stamp);
            }
        }
        client.round(&mut returning, std::time::Instant::now() + Duration::from_millis(5))?;
        let left = returning.traffic.checker.undelivered();
        if left != moved.1 {
            moved = (std::time::Instant::now(), left);
        }
    }
    row.add("seconds until all have joined", joined_s);
    row.add("seconds until all is complete", start.elapsed().as_secs_f64());
    row.add("messages caught up", f64::from(MISSED) * receivers.len() as f64);
    returning.traffic.listen(&mut client)?;
    row.judge(returning.traffic.checker.verdict(), &returning.traffic.errors);
    conclude(under, &mut row)?;
    Ok(row)
}

/// Receivers that come back: what is not replayed is read by REST, as the protocol says.
struct Returning<'r> {
    traffic: Traffic<'r>,
    /// Connection, and the last seq that it has.
    gaps: Vec<(usize, u32)>,
}

impl Handler for Returning<'_> {
    fn open(&mut self, io: &mut Io, conn: usize, now: std::time::Instant) {
        self.traffic.open(io, conn, now);
    }

    fn incoming(&mut self, io: &mut Io, conn: usize, incoming: Incoming<'_>, now: std::time::Instant) {
        match incoming {
            Incoming::Gap { .. } => self.gaps.push((conn, self.traffic.checker.cursor(conn))),
            other => self.traffic.incoming(io, conn, other, now),
        }
    }

    fn closed(&mut self, io: &mut Io, conn: usize, why: &str) {
        self.traffic.closed(io, conn, why);
    }
}

/// W8.
pub fn kill(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[200]) {
            report(kill_once(options, conns)?);
        }
    }
    Ok(())
}

fn kill_once(options: &Options, conns: usize) -> Result<Row> {
    progress::what(&format!("W8 kill, {conns} connections"));
    let mut row = Row::new("W8", "kill -9", conns);
    let mut under = options.start(None)?;
    under.own()?;
    let mut roster = Roster::new(conns, 2, &options.launch.secret)?;
    let mut client = under.client(options, conns)?;
    let all: Vec<usize> = (0..conns).collect();
    join(&mut client, &mut roster, &all, JOINING, None)?;
    let dense = client.io().dialect().echoes();
    let mode = Mode::Closed { window: 1, each: None };
    let mut traffic = Traffic::new(&roster, dense, all, options.text_bytes, mode);
    traffic.run(&mut client, options.window(5))?;
    ensure!(
        traffic.errors.is_empty(),
        "the server failed before it was killed: {}",
        traffic.errors.join("; ")
    );
    under.own()?.kill()?;
    // What the server had written before it died is still read: it was acknowledged.
    traffic.listen(&mut client)?;
    let acked = traffic.checker.verdict().acked;

    let server = under.own()?;
    server.restart()?;
    row.add("start to serving, s", server.ready_after.as_secs_f64());
    let address = server.listen;
    traffic.audit(address)?;
    serves(&under, &mut row, options, &traffic.checker)?;
    row.add("acknowledged before the kill", acked as f64);
    let verdict = traffic.checker.verdict_after_kill();
    row.add("acknowledged and missing", verdict.lost as f64);
    row.judge(verdict, &[]);
    if acked == 0 {
        row.void.push("nothing was acknowledged before the kill".into());
    }
    conclude(under, &mut row)?;
    Ok(row)
}

/// A fresh pair can talk.
fn serves(under: &crate::options::Under, row: &mut Row, options: &Options, before: &Checker) -> Result<()> {
    let address = under.server.as_ref().map_or(under.address, |server| server.listen);
    let mut roster = Roster::new(2, 2, &options.launch.secret)?;
    let mut client = under.client(options, 2)?;
    client.retarget(address);
    join(&mut client, &mut roster, &[0, 1], 2, None)?;
    let mut traffic = Traffic::new(&roster, true, vec![0, 1], options.text_bytes, Mode::Closed { window: 1, each: Some(10) });
    traffic.run(&mut client, Duration::ZERO)?;
    traffic.finish(&mut client)?;
    if !traffic.drain(&mut client)? {
        row.void.push("the restarted server does not carry messages".into());
    }
    row.add("messages in flight at the kill", before.unanswered() as f64);
    row.void.extend(traffic.checker.verdict().faults());
    Ok(())
}
