//! Stops calling a hook that keeps failing, for its users' sake.
//!
//! Recovery of one fault is cheap; what costs is that every user waits for the deadline first. After
//! [`FAULTS_TO_OPEN`] faults in a row the breaker is open for [`OPEN_MIN`], then lets one call through: success closes it,
//! another fault doubles the time up to [`OPEN_MAX`].

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Faults in a row that open the breaker.
pub const FAULTS_TO_OPEN: u32 = 5;
/// How long it stays open the first time.
pub const OPEN_MIN: Duration = Duration::from_secs(1);
/// How long it stays open at most.
pub const OPEN_MAX: Duration = Duration::from_secs(60);
/// A probe that has not reported for so long does not count any more.
const PROBE_MAX: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(crate) struct Breaker {
    faults: AtomicU32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    until: Option<Instant>,
    period: Duration,
    probe: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be made; otherwise how long not.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        if self.faults.load(Relaxed) < FAULTS_TO_OPEN {
            return Ok(());
        }
        let mut open = self.open.lock();
        let Some(until) = open.until else { return Ok(()) };
        if now < until {
            return Err(until - now);
        }
        match open.probe {
            Some(since) if now < since + PROBE_MAX => Err(OPEN_MIN),
            _ => {
                open.probe = Some(now);
                Ok(())
            }
        }
    }

    /// A call gave an answer.
    pub(crate) fn succeeded(&self) {
        if self.faults.load(Relaxed) == 0 {
            return;
        }
        let mut open = self.open.lock();
        self.faults.store(0, Relaxed);
        *open = Open::default();
    }

    /// A call failed by the plugin's fault. True when this opens the breaker.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut open = self.open.lock();
        let faults = self.faults.load(Relaxed).saturating_add(1);
        self.faults.store(faults, Relaxed);
        let was_closed = open.until.is_none();
        let probed = open.probe.take().is_some();
        if faults < FAULTS_TO_OPEN || !(was_closed || probed) {
            return false; // a late fault of a call that began before it opened
        }
        open.period = if was_closed { OPEN_MIN } else { (open.period * 2).min(OPEN_MAX) };
        open.until = Some(now + open.period);
        true
    }

    /// A call ended without saying anything about the plugin.
    pub(crate) fn undecided(&self) {
        if self.faults.load(Relaxed) >= FAULTS_TO_OPEN {
            self.open.lock().probe = None;
        }
    }

    /// Calls are not made now.
    pub(crate) fn is_open(&self) -> bool {
        self.faults.load(Relaxed) >= FAULTS_TO_OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        for fault in 1..=FAULTS_TO_OPEN {
            assert!(breaker.admit(now).is_ok(), "closed before fault {fault}");
            assert_eq!(breaker.failed(now), fault == FAULTS_TO_OPEN);
        }
        breaker
    }

    #[test]
    fn five_faults_in_a_row_open_it() {
        let now = Instant::now();
        assert_eq!(opened(now).admit(now), Err(OPEN_MIN));
    }

    #[test]
    fn a_success_between_faults_starts_the_count_again() {
        let now = Instant::now();
        let breaker = Breaker::default();
        for _ in 0..4 * FAULTS_TO_OPEN {
            (1..FAULTS_TO_OPEN).for_each(|_| assert!(!breaker.failed(now)));
            breaker.succeeded();
        }
        assert!(breaker.admit(now).is_ok());
    }

    #[test]
    fn one_probe_decides() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + OPEN_MIN;
        assert!(breaker.admit(later).is_ok(), "the probe");
        assert!(breaker.admit(later).is_err(), "only one");
        breaker.succeeded();
        assert!(breaker.admit(later).is_ok() && !breaker.is_open());
    }

    #[test]
    fn failed_probes_double_the_time() {
        let mut now = Instant::now();
        let breaker = opened(now);
        for expect_s in [2, 4, 8, 16, 32, 60, 60] {
            now += OPEN_MAX;
            assert!(breaker.admit(now).is_ok());
            assert!(breaker.failed(now));
            assert_eq!(breaker.admit(now), Err(Duration::from_secs(expect_s)));
        }
    }

    #[test]
    fn a_probe_that_said_nothing_makes_room_for_another() {
        let now = Instant::now();
        let breaker = opened(now);
        let later = now + OPEN_MIN;
        assert!(breaker.admit(later).is_ok());
        breaker.undecided();
        assert!(breaker.admit(later).is_ok());
        assert!(breaker.admit(later + PROBE_MAX).is_ok(), "or never came back");
    }

    #[test]
    fn faults_of_calls_that_began_earlier_do_not_extend_it() {
        let now = Instant::now();
        let breaker = opened(now);
        assert!(!breaker.failed(now + OPEN_MIN / 2));
        assert!(breaker.admit(now + OPEN_MIN).is_ok());
    }
}
