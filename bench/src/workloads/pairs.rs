//! Two-party conversations in which both sides send: W1 to W4 and W10.

use std::path::Path;

use anyhow::{Result, ensure};

use super::together;
use crate::{
    join::{Roster, join},
    options::{Options, Under},
    procfs::{self, Sample},
    progress,
    report::{Row, median},
    traffic::{Mode, Traffic},
};

/// Handshakes on their way at the same time while a run is set up.
pub const JOINING: usize = 128;
/// Above this an open loop is over the server's capacity and higher rates say nothing.
const P99_MS_STOP: f64 = 1_000.0;
/// What counts as carrying a rate.
const P99_MS_CARRIED: f64 = 50.0;
/// Delivered of what was offered.
const CARRIED_SHARE: f64 = 0.98;
/// Rates of W3, messages a second.
const RATES: [f64; 9] = [500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 25_000.0, 40_000.0, 55_000.0, 70_000.0];

const WINDOW_1: Mode = Mode::Closed { window: 1, each: None };

/// One run of pairs.
pub struct Pairs<'a> {
    pub workload: &'a str,
    pub variant: String,
    pub conns: usize,
    pub mode: Mode,
    pub plugins: Option<&'a Path>,
}

/// W1.
pub fn closed(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for _ in 0..options.rounds {
        for conns in options.conns(&[100, 200, 500]) {
            report(run(
                options,
                &Pairs {
                    workload: "W1",
                    variant: "window 1".into(),
                    conns,
                    mode: WINDOW_1,
                    plugins: None,
                },
            )?);
        }
    }
    Ok(())
}

/// W2.
pub fn pipelined(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    let mode = Mode::Closed { window: 8, each: None };
    for _ in 0..options.rounds {
        for conns in options.conns(&[200]) {
            report(run(
                options,
                &Pairs {
                    workload: "W2",
                    variant: "window 8".into(),
                    conns,
                    mode,
                    plugins: None,
                },
            )?);
        }
    }
    Ok(())
}

/// W3.
pub fn open(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    for conns in options.conns(&[200]) {
        for _ in 0..options.rounds {
            sweep(options, conns, report)?;
        }
    }
    Ok(())
}

fn sweep(options: &Options, conns: usize, report: &mut dyn FnMut(Row)) -> Result<()> {
    let mut highest = 0.0;
    for per_second in options.rates(&RATES) {
        let mode = Mode::Open { per_second };
        let mut row = run(
            options,
            &Pairs {
                workload: "W3",
                variant: "open".into(),
                conns,
                mode,
                plugins: None,
            },
        )?;
        let carried = !row.is_void() && row.delivery.p99_ms < P99_MS_CARRIED && row.delivered_per_s > CARRIED_SHARE * per_second;
        if carried {
            highest = per_second;
        }
        let stop = row.is_void() || row.delivery.p99_ms > P99_MS_STOP;
        row.add("highest rate with p99 < 50 ms so far, /s", highest);
        report(row);
        if stop {
            break;
        }
    }
    Ok(())
}

/// W4.
pub fn hook(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    let plugins = folder(&options.hook, "cargo xtask plugins bench/hook-plugin")?;
    let rate = options.rates(&[1_000.0])[0];
    let conns = options.conns(&[200])[0];
    let modes = [("W1", WINDOW_1), ("W3", Mode::Open { per_second: rate })];
    let mut pairs: Vec<(usize, Row, Row)> = Vec::new();
    for round in 0..options.rounds {
        for (which, (name, mode)) in modes.into_iter().enumerate() {
            let one = |plugins: Option<&Path>| {
                let variant = format!("{name} hook {}", if plugins.is_some() { "on" } else { "off" });
                run(
                    options,
                    &Pairs {
                        workload: "W4",
                        variant,
                        conns,
                        mode,
                        plugins,
                    },
                )
            };
            // A B, then B A: a machine that warms up favours neither.
            let (off, on) = if options.together {
                together([None, Some(plugins)].map(|plugins| move || one(plugins)))?.into()
            } else if round % 2 == 0 {
                let off = one(None)?;
                (off, one(Some(plugins))?)
            } else {
                let on = one(Some(plugins))?;
                (one(None)?, on)
            };
            report(off.clone());
            report(on.clone());
            pairs.push((which, off, on));
        }
    }
    for (which, (name, _)) in modes.into_iter().enumerate() {
        report(difference(name, conns, pairs.iter().filter(|(of, _, _)| *of == which)));
    }
    Ok(())
}

/// What the hook costs: medians of the differences of runs side by side.
fn difference<'a>(name: &str, conns: usize, pairs: impl Iterator<Item = &'a (usize, Row, Row)>) -> Row {
    let mut row = Row::new("W4", format!("{name} on - off"), conns);
    let pairs: Vec<_> = pairs.filter(|(_, off, on)| !off.is_void() && !on.is_void()).collect();
    let mut add = |what: &str, of: &dyn Fn(&Row) -> f64| {
        let differences: Vec<f64> = pairs.iter().map(|(_, off, on)| of(on) - of(off)).collect();
        row.add(what, median(&differences));
    };
    add("acks/s", &|row| row.acks_per_s);
    add("CPU us/message", &|row| row.cpu_us_per_message);
    add("ack p99 ms", &|row| row.ack.p99_ms);
    if pairs.is_empty() {
        row.void.push("every run was void".into());
    }
    row
}

/// W10.
pub fn market(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    let plugins = folder(&options.market, "cargo xtask plugins")?;
    let rate = options.rates(&[5_000.0])[0];
    for _ in 0..options.rounds {
        for conns in options.conns(&[200]) {
            for (name, mode) in [("W1", WINDOW_1), ("W3", Mode::Open { per_second: rate })] {
                let variant = format!("{name} 3 plugins");
                report(run(
                    options,
                    &Pairs {
                        workload: "W10",
                        variant,
                        conns,
                        mode,
                        plugins: Some(plugins),
                    },
                )?);
            }
        }
    }
    Ok(())
}

fn folder<'a>(path: &'a Path, build: &str) -> Result<&'a Path> {
    ensure!(path.is_dir(), "{} is not there; build it: {build}", path.display());
    Ok(path)
}

/// Starts, joins, warms up, measures, drains and judges.
pub fn run(options: &Options, pairs: &Pairs<'_>) -> Result<Row> {
    let mut row = Row::new(pairs.workload, pairs.variant.clone(), pairs.conns);
    if let Mode::Open { per_second } = pairs.mode {
        row.offered_per_s = per_second;
    }
    let at_rate = if row.offered_per_s > 0.0 {
        format!(", {} messages/s", row.offered_per_s)
    } else {
        String::new()
    };
    progress::what(&format!("{} {}, {} connections{at_rate}", pairs.workload, pairs.variant, pairs.conns));
    let under = options.start(pairs.plugins)?;
    let mut roster = Roster::new(pairs.conns, 2, &options.launch.secret)?;
    let mut client = under.client(options, pairs.conns)?;
    let all: Vec<usize> = (0..pairs.conns).collect();
    join(&mut client, &mut roster, &all, JOINING, None)?;

    let dense = client.io().dialect().echoes();
    let mut traffic = Traffic::new(&roster, dense, all, options.text_bytes, pairs.mode);
    traffic.run(&mut client, options.warm(10))?;
    // The window of an open loop begins with nothing left over; a closed loop never has more than its window.
    let ready = !matches!(pairs.mode, Mode::Open { .. }) || traffic.drain(&mut client)?;
    if ready {
        let window = options.window(if row.offered_per_s > 0.0 { 20 } else { 15 });
        let before = Sample::take()?;
        traffic.count(window);
        traffic.run(&mut client, window)?;
        let usage = Sample::take()?.since(&before, under.pid());
        row.pss_kib = under.pid().map_or(Ok(0), procfs::pss_kib)?;
        finish(options, &under, &mut client, &mut traffic)?;
        row.measure(&traffic.counts, &usage);
        if options.speed {
            row.judge_speed();
        }
    } else {
        row.void.push("what the warm-up sent was not answered: over capacity".into());
    }
    row.refusals = traffic.refusals.clone();
    row.judge(traffic.checker.verdict(), &traffic.errors);
    conclude(under, &mut row)?;
    Ok(row)
}

fn finish(options: &Options, under: &Under, client: &mut crate::client::Client, traffic: &mut Traffic<'_>) -> Result<()> {
    traffic.drain(client)?;
    traffic.listen(client)?;
    if options.audit {
        traffic.audit(under.address)?;
    }
    Ok(())
}

/// Ends the server; of a void run, says what it said.
pub fn conclude(under: Under, row: &mut Row) -> Result<()> {
    if row.is_void()
        && let Some(server) = &under.server
        && !server.last_words().is_empty()
    {
        row.warnings.push(format!("the server said: {}", server.last_words()));
    }
    under.stop()
}
