//! How often one user may ask.

use std::{collections::HashMap, time::Instant};

use foldhash::fast::RandomState;
use haggle_model::{ErrorCode, Limits, UserId};
use parking_lot::Mutex;

use crate::Refusal;

/// Users of one part are forgotten together.
const PARTS: usize = 16;
/// Above this many users in a part, those with a full budget are forgotten.
const PART_USERS_MAX: usize = 10_000;

#[derive(Clone, Copy)]
struct Budget {
    tokens: f64,
    at: Instant,
    hour: (Instant, u32),
}

/// Token buckets, one per user.
pub(crate) struct Rates {
    per_second: f64,
    burst: f64,
    per_hour: u32,
    parts: [Mutex<HashMap<UserId, Budget, RandomState>>; PARTS],
}

impl Rates {
    pub fn new(limits: &Limits) -> Rates {
        Rates {
            per_second: f64::from(limits.rate_per_second.max(1)),
            burst: f64::from(limits.rate_burst.max(1)),
            per_hour: limits.rate_per_hour,
            parts: Default::default(),
        }
    }

    /// One request of the user, if it may make one now.
    pub fn take(&self, user: &UserId) -> Result<(), Refusal> {
        self.take_at(user, Instant::now())
    }

    fn take_at(&self, user: &UserId, now: Instant) -> Result<(), Refusal> {
        let mut part = self.parts[part_of(user)].lock();
        if part.len() > PART_USERS_MAX {
            let (per_second, burst) = (self.per_second, self.burst);
            part.retain(|_, budget| budget.tokens + now.duration_since(budget.at).as_secs_f64() * per_second < burst || self.per_hour > 0);
        }
        let new = Budget {
            tokens: self.burst,
            at: now,
            hour: (now, 0),
        };
        let budget = match part.get_mut(user) {
            Some(budget) => budget,
            None => part.entry(user.clone()).or_insert(new),
        };
        let gained = now.duration_since(budget.at).as_secs_f64() * self.per_second;
        budget.tokens = (budget.tokens + gained).min(self.burst);
        budget.at = now;
        if budget.tokens < 1.0 {
            let wait = std::time::Duration::from_secs_f64((1.0 - budget.tokens) / self.per_second);
            return Err(limited("limits.rate_per_second", wait));
        }
        if self.per_hour > 0 {
            if now.duration_since(budget.hour.0).as_secs() >= 3600 {
                budget.hour = (now, 0);
            }
            if budget.hour.1 >= self.per_hour {
                let wait = std::time::Duration::from_secs(3600).saturating_sub(now.duration_since(budget.hour.0));
                return Err(limited("limits.rate_per_hour", wait));
            }
            budget.hour.1 += 1;
        }
        budget.tokens -= 1.0;
        Ok(())
    }
}

fn limited(name: &str, wait: std::time::Duration) -> Refusal {
    Refusal::new(ErrorCode::RateLimited, format!("more requests than {name} allows")).after(wait)
}

fn part_of(user: &UserId) -> usize {
    let hash = user.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash >> 32) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let rates = Rates::new(&Limits {
            rate_per_second: 10,
            rate_burst: 3,
            ..Limits::default()
        });
        let (user, now) = (UserId::from("ann"), Instant::now());
        assert!((0..3).all(|_| rates.take_at(&user, now).is_ok()));
        let refused = rates.take_at(&user, now).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        assert!(refused.retry_after.unwrap() <= Duration::from_millis(100));
        assert!(rates.take_at(&user, now + Duration::from_millis(101)).is_ok());
        assert!(rates.take_at(&UserId::from("bob"), now).is_ok(), "others have their own budget");
    }

    #[test]
    fn an_hours_budget() {
        let rates = Rates::new(&Limits {
            rate_per_hour: 2,
            ..Limits::default()
        });
        let (user, now) = (UserId::from("ann"), Instant::now());
        assert!(rates.take_at(&user, now).is_ok() && rates.take_at(&user, now).is_ok());
        assert!(rates.take_at(&user, now).is_err());
        assert!(rates.take_at(&user, now + Duration::from_secs(3600)).is_ok());
    }
}
