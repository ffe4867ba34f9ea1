//! How often one user may ask, and how many messages it may send in an hour.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use haggle_model::{ErrorCode, Limits, UserId};
use parking_lot::Mutex;

use crate::Refusal;

/// Users of one part are forgotten together.
const PARTS: usize = 16;
/// Users of a part that are kept without a look at them.
const PART_USERS_MAX: usize = 10_000;

#[derive(Clone, Copy)]
struct Budget {
    tokens: f64,
    at: Instant,
    /// When the hour began, and the messages sent in it.
    hour: (Instant, u32),
}

/// What is left of one limit for one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The limit's name for clients.
    pub policy: &'static str,
    /// Requests that may come at once.
    pub quota: u32,
    /// The time in which a used-up quota is whole again.
    pub window: Duration,
    /// What is left of it.
    pub remaining: u32,
    /// Until it is whole again.
    pub reset: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

/// Token buckets, one per user.
pub(crate) struct Rates {
    per_second: f64,
    burst: f64,
    per_hour: u32,
    parts: [Mutex<Part>; PARTS],
}

struct Part {
    users: HashMap<UserId, Budget, RandomState>,
    /// With more users, those whose budget is whole are forgotten.
    looked_over_at: usize,
}

impl Default for Part {
    fn default() -> Part {
        Part {
            users: HashMap::default(),
            looked_over_at: PART_USERS_MAX,
        }
    }
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

    /// One of the messages that the user may send in an hour.
    pub fn take_of_hour(&self, user: &UserId) -> Result<(), Refusal> {
        self.take_of_hour_at(user, Instant::now())
    }

    /// What is left for the user now, of what [`Rates::take`] and [`Rates::take_of_hour`] take from.
    pub fn left(&self, user: &UserId) -> Vec<Quota> {
        self.left_at(user, Instant::now())
    }

    fn left_at(&self, user: &UserId, now: Instant) -> Vec<Quota> {
        let budget = self.parts[part_of(user)].lock().users.get(user).copied();
        let tokens = budget.map_or(self.burst, |budget| self.tokens_at(&budget, now));
        let refilled_in = |tokens: f64| Duration::from_secs_f64((tokens / self.per_second).max(0.0));
        let mut left = vec![Quota {
            policy: "user",
            quota: self.burst as u32,
            window: refilled_in(self.burst),
            remaining: tokens as u32,
            reset: refilled_in(self.burst - tokens),
        }];
        if self.per_hour > 0 {
            let begun = |(since, used): &(Instant, u32)| *used > 0 && now.duration_since(*since) < HOUR;
            let hour = budget.map(|budget| budget.hour).filter(begun);
            left.push(Quota {
                policy: "user-hour",
                quota: self.per_hour,
                window: HOUR,
                remaining: self.per_hour.saturating_sub(hour.map_or(0, |(_, used)| used)),
                reset: hour.map_or(Duration::ZERO, |(since, _)| HOUR.saturating_sub(now.duration_since(since))),
            });
        }
        left
    }

    /// A user with such a budget may be forgotten.
    fn is_whole(&self, budget: &Budget, now: Instant) -> bool {
        let (since, used) = budget.hour;
        self.tokens_at(budget, now) >= self.burst && (used == 0 || now.duration_since(since) >= HOUR)
    }

    fn tokens_at(&self, budget: &Budget, now: Instant) -> f64 {
        let gained = now.duration_since(budget.at).as_secs_f64() * self.per_second;
        (budget.tokens + gained).min(self.burst)
    }

    fn take_at(&self, user: &UserId, now: Instant) -> Result<(), Refusal> {
        self.with_budget(user, now, |budget| {
            budget.tokens = self.tokens_at(budget, now);
            budget.at = now;
            if budget.tokens < 1.0 {
                let wait = Duration::from_secs_f64((1.0 - budget.tokens) / self.per_second);
                return Err(limited("limits.rate_per_second", wait));
            }
            budget.tokens -= 1.0;
            Ok(())
        })
    }

    fn take_of_hour_at(&self, user: &UserId, now: Instant) -> Result<(), Refusal> {
        if self.per_hour == 0 {
            return Ok(());
        }
        self.with_budget(user, now, |Budget { hour: (since, used), .. }| {
            if now.duration_since(*since) >= HOUR {
                (*since, *used) = (now, 0);
            }
            if *used >= self.per_hour {
                let wait = HOUR.saturating_sub(now.duration_since(*since));
                return Err(limited("limits.rate_per_hour", wait));
            }
            *used += 1;
            Ok(())
        })
    }

    fn with_budget<T>(&self, user: &UserId, now: Instant, take: impl FnOnce(&mut Budget) -> T) -> T {
        let mut part = self.parts[part_of(user)].lock();
        // Only somebody new makes it larger; a look at everybody at every request would cost more than the request.
        if part.users.len() > part.looked_over_at && !part.users.contains_key(user) {
            part.users.retain(|_, budget| !self.is_whole(budget, now));
            part.looked_over_at = PART_USERS_MAX.max(2 * part.users.len());
        }
        if let Some(budget) = part.users.get_mut(user) {
            return take(budget);
        }
        let new = Budget {
            tokens: self.burst,
            at: now,
            hour: (now, 0),
        };
        take(part.users.entry(user.clone()).or_insert(new))
    }
}

fn limited(name: &str, wait: Duration) -> Refusal {
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
    fn what_is_left_is_what_take_takes_from() {
        let rates = Rates::new(&Limits {
            rate_per_second: 10,
            rate_burst: 40,
            rate_per_hour: 5,
            ..Limits::default()
        });
        let (user, now) = (UserId::from("ann"), Instant::now());
        let left = |after: Duration| -> Vec<(u32, u64, u32, u64)> {
            let quotas = rates.left_at(&user, now + after);
            let shown = |quota: &Quota| (quota.quota, quota.window.as_secs(), quota.remaining, quota.reset.as_millis() as u64);
            quotas.iter().map(shown).collect()
        };
        assert_eq!(left(Duration::ZERO), [(40, 4, 40, 0), (5, 3600, 5, 0)], "of who never asked");
        for _ in 0..5 {
            rates.take_at(&user, now).unwrap();
            rates.take_of_hour_at(&user, now).unwrap();
        }
        assert_eq!(left(Duration::ZERO), [(40, 4, 35, 500), (5, 3600, 0, 3_600_000)]);
        assert!(rates.take_of_hour_at(&user, now).is_err());
        assert_eq!(
            left(Duration::from_secs(1)),
            [(40, 4, 40, 0), (5, 3600, 0, 3_599_000)],
            "a refusal takes nothing"
        );
        assert_eq!(left(HOUR)[1], (5, 3600, 5, 0));
    }

    #[test]
    fn an_hours_budget() {
        let rates = Rates::new(&Limits {
            rate_per_hour: 2,
            ..Limits::default()
        });
        let (user, now) = (UserId::from("ann"), Instant::now());
        assert!(rates.take_of_hour_at(&user, now).is_ok() && rates.take_of_hour_at(&user, now).is_ok());
        assert!(rates.take_of_hour_at(&user, now).is_err());
        assert!(rates.take_at(&user, now).is_ok(), "what sends no message is not counted");
        assert!(rates.take_of_hour_at(&user, now + HOUR).is_ok());
    }

    #[test]
    fn users_with_a_whole_budget_are_forgotten() {
        let rates = Rates::new(&Limits {
            rate_per_hour: 2,
            ..Limits::default()
        });
        let now = Instant::now();
        let come = |from: usize, to: usize, sends: bool, at: Instant| {
            for i in from..to {
                let user = UserId::from(format!("user-{i}"));
                rates.take_at(&user, at).unwrap();
                if sends {
                    rates.take_of_hour_at(&user, at).unwrap();
                }
            }
        };
        let kept = || rates.parts.iter().map(|part| part.lock().users.len()).sum::<usize>();
        let full = PARTS * PART_USERS_MAX;
        come(0, full * 5 / 4, false, now);
        assert_eq!(kept(), full * 5 / 4, "nobody's budget is whole");
        let later = now + Duration::from_secs(60);
        come(full * 5 / 4, full * 3, true, later);
        assert!(kept() < full * 2, "those who only asked a minute ago are forgotten: {}", kept());
        assert!(kept() >= full * 7 / 4, "those who sent in this hour are not: {}", kept());
        come(full * 3, full * 7, false, later + HOUR);
        assert!(kept() < full * 5, "an hour later they are: {}", kept());
    }
}
