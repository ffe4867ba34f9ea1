//! Two binaries or two configurations, run in turns (A B, B A, …) or at the same time, and their ratios.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::{
    options::Options,
    report::{Row, median},
    workloads::{Workload, together},
};

/// One measure of one kind of run, of A and of B.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// Workload, variant, connections and rate.
    pub run: String,
    pub metric: String,
    /// Medians.
    pub a: f64,
    pub b: f64,
    /// Median, least and greatest of b/a of runs side by side.
    pub ratio: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    /// How many runs side by side.
    pub pairs: usize,
}

/// A side is a configuration if its name ends with `.toml`, else a binary.
pub fn is_configuration(side: &Path) -> bool {
    side.extension().is_some_and(|ending| ending == "toml")
}

/// The options with one side put in.
pub fn side(options: &Options, path: &Path) -> Result<Options> {
    ensure!(
        path.is_file(),
        "{} is no file; name a server binary or a configuration (.toml)",
        path.display()
    );
    let mut options = Options {
        rounds: 1,
        together: false, // the two sides are; W4 within one of them is not
        ..options.clone()
    };
    let path = PathBuf::from(path);
    match is_configuration(&path) {
        true => options.launch.config = path,
        false => options.launch.binary = path,
    }
    Ok(options)
}

/// Runs both sides as often as `base` says: in turns, or at the same time.
pub fn run(base: &Options, sides: [&Options; 2], workloads: &[&Workload], report: &mut dyn FnMut(usize, Row)) -> Result<()> {
    for round in 0..base.rounds.max(1) {
        for workload in workloads {
            if base.together {
                let rows = |side: usize| {
                    let mut rows = Vec::new();
                    workload.run(sides[side], &mut |row| rows.push((side, row)))?;
                    Ok(rows)
                };
                let rows = together([0, 1].map(|side| move || rows(side)))?;
                rows.into_iter().flatten().for_each(|(side, row)| report(side, row));
                continue;
            }
            // A B, B A: a machine that gets slower or faster favours neither.
            for turn in 0..2 {
                let side = (round + turn) % 2;
                workload.run(sides[side], &mut |row| report(side, row))?;
            }
        }
    }
    Ok(())
}

/// Ratios of what both sides have measured; `rows` in the order of the runs of each side.
pub fn ratios(rows: [&[Row]; 2]) -> Vec<Ratio> {
    let [a, b] = rows.map(by_metric);
    let common = a.into_iter().filter_map(|(key, a)| b.get(&key).map(|b| (key, a, b.clone())));
    common.map(|((run, metric), a, b)| ratio(run, metric, &a, &b)).collect()
}

fn ratio(run: String, metric: String, a: &[f64], b: &[f64]) -> Ratio {
    let ratios: Vec<f64> = a.iter().zip(b).filter(|(a, _)| **a != 0.0).map(|(a, b)| b / a).collect();
    let fold = |start: f64, pick: fn(f64, f64) -> f64| ratios.iter().copied().fold(start, pick);
    Ratio {
        run,
        metric,
        a: median(a),
        b: median(b),
        ratio: median(&ratios),
        ratio_min: fold(f64::INFINITY, f64::min),
        ratio_max: fold(f64::NEG_INFINITY, f64::max),
        pairs: ratios.len(),
    }
}

fn by_metric(rows: &[Row]) -> BTreeMap<(String, String), Vec<f64>> {
    let mut values: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.is_void()) {
        let mut run = format!("{} {}, {} conns", row.workload, row.variant, row.conns);
        if row.offered_per_s > 0.0 {
            run += &format!(", {}/s", row.offered_per_s);
        }
        for (metric, value) in row.metrics() {
            values.entry((run.clone(), metric)).or_default().push(value);
        }
    }
    values
}

/// The table of ratios.
pub fn table(ratios: &[Ratio]) -> String {
    let mut table = format!(
        "{:<34} {:<28} {:>12} {:>12} {:>7} {:>17} {:>5}\n",
        "run", "metric", "A", "B", "B/A", "least - greatest", "pairs"
    );
    for ratio in ratios {
        let Ratio {
            run,
            metric,
            a,
            b,
            ratio: middle,
            ratio_min,
            ratio_max,
            pairs,
        } = ratio;
        table += &format!("{run:<34} {metric:<28} {a:>12.2} {b:>12.2} {middle:>7.3} {ratio_min:>8.3} - {ratio_max:<6.3} {pairs:>5}\n");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(acks_per_s: f64) -> Row {
        Row {
            acks_per_s,
            ..Row::new("W1", "", 200)
        }
    }

    #[test]
    fn ratios_are_of_runs_side_by_side() {
        let (a, b) = ([row(10.0), row(20.0), row(40.0)], [row(11.0), row(20.0), row(36.0)]);
        let ratios = ratios([&a, &b]);
        assert_eq!(ratios.len(), 1);
        let Ratio {
            a,
            b,
            ratio,
            ratio_min,
            ratio_max,
            pairs,
            ..
        } = &ratios[0];
        assert_eq!((*a, *b, *ratio, *pairs), (20.0, 20.0, 1.0, 3));
        assert!((ratio_min - 0.9).abs() < 1e-9 && (ratio_max - 1.1).abs() < 1e-9);
    }

    #[test]
    fn void_rows_take_no_part() {
        let mut void = row(1.0);
        void.void.push("lost".into());
        assert!(ratios([&[void], &[row(1.0)]]).is_empty());
    }
}
