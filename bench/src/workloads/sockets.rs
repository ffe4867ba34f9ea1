//! Many sockets: W5 idle, W6 storm, W9 fan-out.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pairs::{JOINING, conclude};
use crate::{
    client::{Client, TICK},
    join::{Joined, Roster, join},
    options::{Options, Under},
    procfs::{self, Sample},
    progress,
    report::{Quantiles, Row},
    traffic::{Mode, Traffic},
};

/// How long allocations and views may settle before memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a server may take to verify its log after a start.
const VERIFIED_WITHIN: Duration = Duration::from_secs(300);

/// Connections that are open before W5 weighs and counts: what the first ones touch (code, caches of the store) is no connection's.
const FIRST: usize = 1_000;

const SILENT: Mode = Mode::Closed { window: 0, each: None };

/// W5: the memory of a connection, the rate of handshakes, and what doing nothing costs.
pub fn idle(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[2_000, 10_000]) {
            report(idle_once(options, conns)?);
        }
    }
    Ok(())
}

fn idle_once(options: &Options, conns: usize) -> Result<Row> {
    progress::what(&format!("W5 idle, {conns} connections"));
    let mut row = Row::new("W5", "idle", conns);
    let mut under = options.start(None)?;
    under.own()?;
    let mut roster = Roster::new(conns, 2, &options.launch.secret)?;
    let mut client = under.client(options, conns)?;
    let all: Vec<usize> = (0..conns).collect();
    join(&mut client, &mut roster, &all, JOINING, None)?;
    // The conversations exist now; a server that has just started is weighed.
    drop(client);
    let server = under.own()?;
    server.stop()?;
    server.restart()?;
    row.add("start to serving, s", server.ready_after.as_secs_f64());
    under.address = under.own()?.listen;
    let mut client = under.client(options, conns)?;
    let (first, rest) = all.split_at(FIRST.min(conns / 2));
    join(&mut client, &mut roster, first, JOINING, None)?;
    settle(&mut client, &roster, &mut under)?;

    let pid = under.own()?.pid();
    let (pss, slab, before) = (procfs::pss_kib(pid)?, procfs::slab_kib()?, Sample::take()?);
    let joined = join(&mut client, &mut roster, rest, JOINING, None)?;
    let handshakes = Sample::take()?.since(&before, Some(pid));
    row.add("handshakes/s", rest.len() as f64 / joined.seconds);
    row.add("CPU us/handshake", handshakes.server_cpu_s * 1e6 / rest.len() as f64);
    row.add("client % while connecting", handshakes.percent(handshakes.client_cpu_s));
    row.add("join errors", joined.errors as f64);

    let mut silence = Traffic::new(&roster, true, Vec::new(), 0, SILENT);
    silence.run(&mut client, SETTLE)?;
    let per_socket = |now: u64, then: u64, sockets: usize| (now as f64 - then as f64) / sockets as f64;
    row.add("KiB Pss/connection", per_socket(procfs::pss_kib(pid)?, pss, rest.len()));
    // Both ends of every socket are on this machine.
    row.add("KiB slab/socket", per_socket(procfs::slab_kib()?, slab, 2 * rest.len()));
    let before = Sample::take()?;
    silence.run(&mut client, options.window(30))?;
    let usage = Sample::take()?.since(&before, Some(pid));
    row.add("idle CPU %", usage.percent(usage.server_cpu_s));
    row.usage(&usage);
    row.judge_speed();
    row.pss_kib = procfs::pss_kib(pid)?;
    row.add("Pss MiB", row.pss_kib as f64 / 1024.0);
    row.judge(silence.checker.verdict(), &silence.errors);
    conclude(under, &mut row)?;
    Ok(row)
}

/// W6: everybody drops and comes back at once.
pub fn storm(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[2_000]) {
            progress::what(&format!("W6 storm, {conns} connections"));
            let mut row = Row::new("W6", "storm", conns);
            let under = options.start(None)?;
            let mut roster = Roster::new(conns, 2, &options.launch.secret)?;
            let mut client = under.client(options, conns)?;
            let all: Vec<usize> = (0..conns).collect();
            join(&mut client, &mut roster, &all, JOINING, None)?;
            linger(&mut client, &roster, SETTLE)?;
            let before = Sample::take()?;
            all.iter().for_each(|&conn| client.io().close(conn));
            let joined = join(&mut client, &mut roster, &all, conns, None)?;
            let usage = Sample::take()?.since(&before, under.pid());
            storm_row(&mut row, conns, &joined);
            row.add("CPU us/handshake", usage.server_cpu_s * 1e6 / conns as f64);
            conclude(under, &mut row)?;
            report(row);
        }
    }
    Ok(())
}

fn storm_row(row: &mut Row, conns: usize, joined: &Joined) {
    let join = Quantiles::of(&joined.latency);
    row.add("seconds until all have joined", joined.seconds);
    row.add("handshakes/s", conns as f64 / joined.seconds);
    row.add("join p50 ms", join.p50_ms);
    row.add("join p99 ms", join.p99_ms);
    row.add("join errors", joined.errors as f64);
}

fn linger(client: &mut Client, roster: &Roster, lasting: Duration) -> Result<()> {
    let mut silence = Traffic::new(roster, true, Vec::new(), 0, SILENT);
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        client.round(&mut silence, Instant::now() + TICK)?;
    }
    Ok(())
}

/// Waits until the server has done what it does after its start: to verify its log is no connection's.
fn settle(client: &mut Client, roster: &Roster, under: &mut Under) -> Result<()> {
    let until = Instant::now() + VERIFIED_WITHIN;
    loop {
        linger(client, roster, SETTLE)?;
        if under.own()?.is_verified()? {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("the server has not verified its log within {} s", VERIFIED_WITHIN.as_secs());
        }
    }
}

/// W9: one sender, many members.
pub fn fan_out(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[101]) {
            for rate in options.rates(&[50.0]) {
                report(fan_out_once(options, conns, rate)?);
            }
        }
    }
    Ok(())
}

fn fan_out_once(options: &Options, conns: usize, rate: f64) -> Result<Row> {
    progress::what(&format!("W9 fanout, {conns} connections, {rate} messages/s"));
    let mut row = Row::new("W9", "fanout", conns);
    row.offered_per_s = rate;
    let under = options.start(None)?;
    let mut roster = Roster::new(conns, conns, &options.launch.secret)?;
    let mut client = under.client(options, conns)?;
    join(&mut client, &mut roster, &(0..conns).collect::<Vec<_>>(), JOINING, None)?;
    let dense = client.io().dialect().echoes();
    let mut traffic = Traffic::new(&roster, dense, vec![0], options.text_bytes, Mode::Open { per_second: rate });
    traffic.run(&mut client, options.warm(5))?;
    let ready = traffic.drain(&mut client)?;
    let window = options.window(10);
    let before = Sample::take()?;
    traffic.count(window);
    if ready {
        traffic.run(&mut client, window)?;
    } else {
        row.void.push("what the warm-up sent was not delivered: over capacity".into());
    }
    let usage = Sample::take()?.since(&before, under.pid());
    row.pss_kib = under.pid().map_or(Ok(0), procfs::pss_kib)?;
    traffic.drain(&mut client)?;
    traffic.listen(&mut client)?;
    row.measure(&traffic.counts, &usage);
    row.judge_speed();
    row.add("CPU us/delivery", usage.server_cpu_s * 1e6 / traffic.counts.delivered.max(1) as f64);
    row.refusals = traffic.refusals.clone();
    row.judge(traffic.checker.verdict(), &traffic.errors);
    conclude(under, &mut row)?;
    Ok(row)
}
