//! The workloads W1 to W10: what each starts, lets run and reports.

mod durable;
mod pairs;
mod sockets;

use std::thread;

use anyhow::{Result, bail};

use crate::{options::Options, report::Row};

/// A workload.
pub struct Workload {
    /// `W1`
    pub name: &'static str,
    /// What it does and reports.
    pub about: &'static str,
    run: fn(&Options, &mut dyn FnMut(Row)) -> Result<()>,
}

impl Workload {
    /// Runs it; every row is handed over as soon as it is there.
    pub fn run(&self, options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
        (self.run)(options, report)
    }
}

/// All of them.
pub const ALL: [Workload; 10] = [
    Workload {
        name: "W1",
        about: "pair-closed: window 1, 100/200/500 connections; durable acks/s",
        run: pairs::closed,
    },
    Workload {
        name: "W2",
        about: "pair-pipelined: window 8, 200 connections; the ceiling of group commit",
        run: pairs::pipelined,
    },
    Workload {
        name: "W3",
        about: "pair-open: 200 connections, 500 to 70,000 messages/s; the highest rate with p99 < 50 ms",
        run: pairs::open,
    },
    Workload {
        name: "W4",
        about: "pair-hook: W1 and W3 at 1,000/s with one hook and without; what the hook costs",
        run: pairs::hook,
    },
    Workload {
        name: "W5",
        about: "idle: 2,000 and 10,000 joined connections; memory of each, handshakes/s, idle CPU",
        run: sockets::idle,
    },
    Workload {
        name: "W6",
        about: "storm: 2,000 connections drop and come back at once; time until all have joined",
        run: sockets::storm,
    },
    Workload {
        name: "W7",
        about: "catch-up: receivers miss 1,000 messages each and come back; missing, doubled, time",
        run: durable::catch_up,
    },
    Workload {
        name: "W8",
        about: "kill: SIGKILL during W1, restart; acknowledged messages missing, time to serve",
        run: durable::kill,
    },
    Workload {
        name: "W9",
        about: "fanout: one sender, 100 members, 50 messages/s; CPU per delivery",
        run: sockets::fan_out,
    },
    Workload {
        name: "W10",
        about: "pair-market: W1 and W3 at 5,000/s with the first-party plugins; reported, no target",
        run: pairs::market,
    },
];

/// The workload of this name.
pub fn by_name(name: &str) -> Result<&'static Workload> {
    match ALL.iter().find(|workload| workload.name.eq_ignore_ascii_case(name)) {
        Some(workload) => Ok(workload),
        None => bail!("there is no workload `{name}`; `haggle-bench list` names all"),
    }
}

/// Runs both at the same time. They share the server's cores, so what the machine does to one it does to the other: ratios of
/// their CPU times hold where those of runs in turns scatter. Rates and latencies are those of a shared core.
pub fn together<T: Send>(sides: [impl FnOnce() -> Result<T> + Send; 2]) -> Result<[T; 2]> {
    let [a, b] = thread::scope(|scope| {
        let threads = sides.map(|side| scope.spawn(side));
        threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    Ok([a?, b?])
}

/// A short run of W1 and W3 that proves the checks, not the speed: their rows.
pub fn smoke(options: &Options, report: &mut dyn FnMut(Row)) -> Result<()> {
    pairs::closed(options, report)?;
    pairs::open(options, report)
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn both_run_at_the_same_time() {
        let meeting = std::sync::Barrier::new(2); // alone nobody gets past it
        let meet = |side: usize| {
            meeting.wait();
            ensure!(side < 2, "no third one");
            Ok(side)
        };
        assert_eq!(together([0, 1].map(|side| move || meet(side))).unwrap(), [0, 1]);
        assert!(together([1, 2].map(|side| move || meet(side))).is_err());
    }
}
