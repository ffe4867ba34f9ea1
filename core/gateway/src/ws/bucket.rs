//! A token bucket without a lock: its owner has one per connection.

use std::time::Duration;

use tokio::time::Instant;

/// How much of a rate is left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f32,
    last: Instant,
}

impl Bucket {
    /// A full one.
    pub fn full(burst: u32, now: Instant) -> Bucket {
        Bucket {
            tokens: burst as f32,
            last: now,
        }
    }

    /// Takes one token, or says how long until there is one. A rate of 0 is no limit.
    pub fn take(&mut self, now: Instant, per_second: u32, burst: u32) -> Result<(), Duration> {
        if per_second == 0 {
            return Ok(());
        }
        let gained = now.saturating_duration_since(self.last).as_secs_f32() * per_second as f32;
        self.tokens = (self.tokens + gained).min(burst.max(1) as f32);
        self.last = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f32((1.0 - self.tokens) / per_second as f32).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(3, start);
        let mut take = |ms| bucket.take(start + Duration::from_millis(ms), 10, 3).is_ok();
        assert_eq!(
            [0, 0, 0, 0, 50, 101, 101, 1_000, 1_000, 1_000, 1_000].map(&mut take),
            [true, true, true, false, false, true, false, true, true, true, false]
        );
    }

    #[test]
    fn the_wait_is_told() {
        let now = Instant::now();
        let mut bucket = Bucket::full(1, now);
        assert_eq!(bucket.take(now, 10, 1), Ok(()));
        let wait = bucket.take(now, 10, 1).unwrap_err();
        assert!((99..=101).contains(&wait.as_millis()), "{wait:?}");
        assert_eq!(bucket.take(now, 0, 1), Ok(()), "0 is no limit");
    }
}
