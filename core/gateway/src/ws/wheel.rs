//! Deadlines of many connections, kept coarsely: one task ticks for all, an entry costs eight bytes.
//!
//! A deadline is met up to one [`TICK`] late. One that lies beyond the wheel fires early; who is called looks at its own
//! deadlines and arms again, so an entry that has become pointless does no harm.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How coarse deadlines are.
pub(super) const TICK: Duration = Duration::from_millis(250);
/// Slots of the wheel: 64 seconds.
const SLOTS: u64 = 256;

/// See the module.
pub(super) struct Wheel {
    start: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Ticks that have been done.
    done: u64,
    slots: Vec<Vec<u64>>,
}

impl Wheel {
    /// A wheel whose time begins now.
    pub fn new(now: Instant) -> Wheel {
        Wheel {
            start: now,
            inner: Mutex::new(Inner {
                done: 0,
                slots: (0..SLOTS).map(|_| Vec::new()).collect(),
            }),
        }
    }

    /// Calls `key` at the tick after `at`.
    pub fn arm(&self, key: u64, at: Instant) {
        let tick = self.ticks(at) + 1;
        let mut inner = self.inner.lock();
        let tick = tick.clamp(inner.done + 1, inner.done + SLOTS - 1);
        inner.slots[(tick % SLOTS) as usize].push(key);
    }

    /// The keys that are due by `now`.
    pub fn due(&self, now: Instant) -> Vec<u64> {
        let tick = self.ticks(now);
        let mut due = Vec::new();
        let mut inner = self.inner.lock();
        let first = (inner.done + 1).max(tick.saturating_sub(SLOTS - 1));
        for tick in first..=tick {
            due.append(&mut std::mem::take(&mut inner.slots[(tick % SLOTS) as usize]));
        }
        inner.done = inner.done.max(tick);
        due
    }

    fn ticks(&self, at: Instant) -> u64 {
        (at.saturating_duration_since(self.start).as_millis() / TICK.as_millis()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_met_within_a_tick() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let after = |ms: u64| start + Duration::from_millis(ms);
        for (key, ms) in [(1, 0), (2, 249), (3, 250), (4, 10_000), (5, 63_000)] {
            wheel.arm(key, after(ms));
        }
        let mut met = Vec::new();
        for ms in (0..70_000).step_by(250) {
            met.extend(wheel.due(after(ms)).into_iter().map(|key| (key, ms)));
        }
        assert_eq!(met, [(1, 250), (2, 250), (3, 500), (4, 10_250), (5, 63_250)]);
    }

    #[test]
    fn what_lies_beyond_fires_early_and_what_is_past_fires_next() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        wheel.arm(1, start + Duration::from_secs(1_000));
        assert!(wheel.due(start + Duration::from_secs(63)).is_empty());
        assert_eq!(wheel.due(start + Duration::from_secs(64)), [1]);
        wheel.arm(2, start);
        assert_eq!(wheel.due(start + Duration::from_millis(64_250)), [2]);
    }

    #[test]
    fn a_late_ticker_misses_nothing() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        (0..200).for_each(|key| wheel.arm(key, start + Duration::from_millis(300 * key)));
        let mut due = wheel.due(start + Duration::from_secs(300));
        due.sort();
        assert_eq!(due, (0..200).collect::<Vec<_>>());
        assert!(wheel.due(start + Duration::from_secs(300)).is_empty());
    }
}
