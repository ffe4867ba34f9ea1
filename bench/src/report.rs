//! What a run has shown: a row of a table and of a JSON file, or why there is none.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{check::Verdict, procfs::Usage, traffic::Counts};

/// Above this the client, not the server, may be what is measured.
const CLIENT_CPU_PCT_MAX: f64 = 85.0;
/// Above this somebody else has taken part.
const OTHER_CPU_PCT_MAX: f64 = 5.0;

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Quantiles {
    /// Of a histogram of microseconds.
    pub fn of(micros: &Histogram<u64>) -> Quantiles {
        let at = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        Quantiles {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: micros.max() as f64 / 1e3,
        }
    }
}

/// One run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// `W1`
    pub workload: String,
    /// What is particular to this run: `hook on`.
    pub variant: String,
    pub conns: usize,
    /// Messages a second that were offered; 0: as many as the answers allow.
    pub offered_per_s: f64,
    /// Length of the window.
    pub seconds: f64,
    pub acks_per_s: f64,
    pub delivered_per_s: f64,
    /// utime + stime of the server's processes per acknowledged message.
    pub cpu_us_per_message: f64,
    pub ack: Quantiles,
    pub delivery: Quantiles,
    /// Per cent of one core.
    pub server_cpu_pct: f64,
    pub client_cpu_pct: f64,
    pub other_cpu_pct: f64,
    pub steal_pct: f64,
    /// Of the server's processes, at the end of the window.
    pub pss_kib: u64,
    /// What only this workload measures, with the unit in its name.
    pub more: BTreeMap<String, f64>,
    /// What the checker says.
    pub check: Verdict,
    /// Refusals by code.
    pub refusals: BTreeMap<String, u64>,
    /// Why the row has no numbers; empty: it has.
    pub void: Vec<String>,
    /// Why the numbers may mislead.
    pub warnings: Vec<String>,
}

impl Row {
    /// A row without numbers yet.
    pub fn new(workload: &str, variant: impl Into<String>, conns: usize) -> Row {
        Row {
            workload: workload.into(),
            variant: variant.into(),
            conns,
            ..Row::default()
        }
    }

    /// Takes over what was counted in the window. Without a server of our own there is no CPU time of it.
    pub fn measure(&mut self, counts: &Counts, usage: &Usage) {
        self.seconds = usage.seconds;
        self.acks_per_s = counts.acked as f64 / usage.seconds;
        self.delivered_per_s = counts.delivered as f64 / usage.seconds;
        self.cpu_us_per_message = usage.server_cpu_s * 1e6 / (counts.acked.max(1)) as f64;
        (self.ack, self.delivery) = (Quantiles::of(&counts.ack), Quantiles::of(&counts.delivery));
        self.usage(usage);
        if counts.acked == 0 {
            self.void.push("nothing was acknowledged in the window".into());
        }
    }

    /// Takes over who used the CPU.
    pub fn usage(&mut self, usage: &Usage) {
        self.server_cpu_pct = usage.percent(usage.server_cpu_s);
        self.client_cpu_pct = usage.percent(usage.client_cpu_s);
        self.other_cpu_pct = usage.percent(usage.other_cpu_s);
        self.steal_pct = usage.percent(usage.steal_s);
    }

    /// Whether the numbers are the server's own.
    pub fn judge_speed(&mut self) {
        if self.client_cpu_pct > CLIENT_CPU_PCT_MAX {
            self.void
                .push(format!("the client used {:.0} % of its core: it was the bottleneck", self.client_cpu_pct));
        }
        for (percent, what) in [(self.other_cpu_pct, "other processes"), (self.steal_pct, "the hypervisor")] {
            if percent > OTHER_CPU_PCT_MAX {
                self.warnings.push(format!("{what} took {percent:.0} % of a core"));
            }
        }
    }

    /// Takes over what the checker says, and judges it.
    pub fn judge(&mut self, verdict: Verdict, errors: &[String]) {
        self.void.extend(verdict.faults());
        self.void.extend(errors.iter().cloned());
        self.check = verdict;
    }

    /// Adds a number of this workload's own.
    pub fn add(&mut self, name: &str, value: f64) {
        self.more.insert(name.into(), value);
    }

    /// Whether there are no numbers.
    pub fn is_void(&self) -> bool {
        !self.void.is_empty()
    }

    /// What one compares: names and values; smaller ones are better except for rates.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let mut metrics = vec![
            ("acks/s".to_owned(), self.acks_per_s),
            ("CPU us/message".to_owned(), self.cpu_us_per_message),
            ("ack p50 ms".to_owned(), self.ack.p50_ms),
            ("ack p99 ms".to_owned(), self.ack.p99_ms),
            ("delivery p50 ms".to_owned(), self.delivery.p50_ms),
            ("delivery p99 ms".to_owned(), self.delivery.p99_ms),
        ];
        metrics.retain(|(_, value)| *value > 0.0);
        metrics.extend(self.more.iter().map(|(name, value)| (name.clone(), *value)));
        metrics
    }
}

/// The head of the table.
pub fn header() -> String {
    format!(
        "{:<4} {:<16} {:>6} {:>8} {:>8} {:>8} {:>7}  {:>24}  {:>24}  {:>6} {:>6} {:>6} {:>6} {:>8}",
        "",
        "variant",
        "conns",
        "offered",
        "acks/s",
        "deliv/s",
        "us/msg",
        "ack p50/p99/p99.9 ms",
        "deliv p50/p99/p99.9 ms",
        "srv %",
        "cli %",
        "oth %",
        "stl %",
        "Pss MiB"
    )
}

/// A row of the table; of a void run only why.
pub fn line(row: &Row) -> String {
    let head = format!("{:<4} {:<16} {:>6}", row.workload, row.variant, row.conns);
    if row.is_void() {
        return format!("{head} VOID: {}", row.void.join("; "));
    }
    let mut line = head;
    if row.acks_per_s > 0.0 {
        let offered = if row.offered_per_s > 0.0 {
            format!("{:.0}", row.offered_per_s)
        } else {
            "-".into()
        };
        line += &format!(
            " {:>8} {:>8.0} {:>8.0} {:>7.1}  {:>24}  {:>24}",
            offered,
            row.acks_per_s,
            row.delivered_per_s,
            row.cpu_us_per_message,
            quantiles(&row.ack),
            quantiles(&row.delivery)
        );
        line += &format!(
            "  {:>6.1} {:>6.1} {:>6.1} {:>6.1} {:>8.1}",
            row.server_cpu_pct,
            row.client_cpu_pct,
            row.other_cpu_pct,
            row.steal_pct,
            row.pss_kib as f64 / 1024.0
        );
    }
    for (name, value) in &row.more {
        line += &format!("\n       {name}: {value:.3}");
    }
    for (code, count) in &row.refusals {
        line += &format!("\n       refused {code}: {count}");
    }
    for warning in &row.warnings {
        line += &format!("\n       warning: {warning}");
    }
    line
}

fn quantiles(of: &Quantiles) -> String {
    format!("{:.2}/{:.2}/{:.2}", of.p50_ms, of.p99_ms, of.p999_ms)
}

/// The middle one; of an even number the lower middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_busy_client_makes_a_row_void_and_a_busy_machine_makes_it_doubtful() {
        let mut row = Row::new("W1", "", 2);
        row.usage(&Usage {
            seconds: 10.0,
            server_cpu_s: 9.0,
            client_cpu_s: 8.6,
            other_cpu_s: 0.6,
            steal_s: 0.0,
        });
        assert!(!row.is_void());
        row.judge_speed();
        assert_eq!((row.void.len(), row.warnings.len()), (1, 1));
        assert!(line(&row).contains("VOID: the client used 86 %"), "{}", line(&row));
    }
}
