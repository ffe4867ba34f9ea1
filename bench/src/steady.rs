//! How steady the machine is: whether a core does as much in one millisecond as in the next.
//!
//! A server's percentiles are no better than those of its core. A virtual core that shares a physical one with a stranger, or has
//! a quota, shows neither stolen time nor another process: it does less for a while, and whoever measures latencies takes that
//! for the server's.

use std::{
    fmt,
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{report::median, server};

/// What the work reads at random: more than the first cache holds, less than the second.
const BUFFER_BYTES: usize = 1024 * 1024;
/// Reads between two looks at the clock, less than a microsecond.
const READS: usize = 64;
/// Slow is a millisecond in which less than this part of the median was done, very slow one with less than that.
const SLOW: f64 = 0.6;
const VERY_SLOW: f64 = 0.2;

/// How evenly a core worked.
#[derive(Debug, PartialEq)]
pub struct Steadiness {
    /// Rounds of work in the median millisecond: for comparing hours, not machines.
    usual: f64,
    /// Parts of the milliseconds, 0 to 1; those that were very slow count as slow, too.
    slow: f64,
    very_slow: f64,
    /// Milliseconds one behind the other that were slow.
    longest_slow: usize,
}

impl fmt::Display for Steadiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds in the median millisecond; {:.1} % of all with less than {} % of that, {:.1} % with less than {} %; longest slow stretch {} ms",
            self.usual,
            self.slow * 100.0,
            SLOW * 100.0,
            self.very_slow * 100.0,
            VERY_SLOW * 100.0,
            self.longest_slow
        )
    }
}

/// Lets every core work for so long, all at the same time, and says of each how evenly it did.
pub fn measure(lasting: Duration) -> Result<Vec<(usize, Steadiness)>> {
    if lasting < Duration::from_millis(100) || lasting > Duration::from_secs(600) {
        bail!("--seconds is between 0.1 and 600");
    }
    let threads: Vec<_> = server::cores()
        .into_iter()
        .map(|core| {
            std::thread::spawn(move || {
                server::pin(&[core])?;
                Ok((core, judge(&work(lasting))))
            })
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().ok().context("a thread of the measurement panicked")?)
        .collect()
}

/// What was done in each millisecond.
fn work(lasting: Duration) -> Vec<u32> {
    let mut done = vec![0; lasting.as_millis() as usize];
    let buffer = vec![1u8; BUFFER_BYTES];
    let (mut at, mut sum) = (0x9e37_79b9_7f4a_7c15_u64, 0u64);
    let start = Instant::now();
    while let Some(count) = done.get_mut(start.elapsed().as_millis() as usize) {
        *count += 1;
        for _ in 0..READS {
            at ^= at << 13; // xorshift: the next place depends on nothing in memory
            at ^= at >> 7;
            at ^= at << 17;
            sum += u64::from(buffer[at as usize % BUFFER_BYTES]);
        }
    }
    black_box(sum);
    done
}

fn judge(done: &[u32]) -> Steadiness {
    let counts: Vec<f64> = done.iter().map(|count| f64::from(*count)).collect();
    let usual = median(&counts);
    let is_below = |part: f64| move |count: &f64| *count < usual * part;
    let part_below = |part| counts.iter().copied().filter(is_below(part)).count() as f64 / counts.len() as f64;
    let slow_stretches = counts
        .chunk_by(|a, b| is_below(SLOW)(a) == is_below(SLOW)(b))
        .filter(|stretch| is_below(SLOW)(&stretch[0]));
    Steadiness {
        usual,
        slow: part_below(SLOW),
        very_slow: part_below(VERY_SLOW),
        longest_slow: slow_stretches.map(<[f64]>::len).max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_milliseconds_are_counted() {
        let mut done = vec![1_000; 100];
        done[10..13].fill(500);
        done[50] = 100;
        let expected = Steadiness {
            usual: 1_000.0,
            slow: 0.04,
            very_slow: 0.01,
            longest_slow: 3,
        };
        assert_eq!(judge(&done), expected);
        assert_eq!(judge(&[7; 100]).longest_slow, 0);
    }

    #[test]
    fn every_core_is_judged() {
        let cores = measure(Duration::from_millis(100)).unwrap();
        assert_eq!(cores.len(), server::cores().len());
        assert!(measure(Duration::ZERO).is_err());
    }
}
