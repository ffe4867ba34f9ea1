//! The queue for a conversation's turn: users in rotation, each user's commands in order.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use haggle_model::UserId;

/// Waiting work of one conversation.
#[derive(Debug)]
pub(crate) struct TurnQueue<J> {
    users: HashMap<UserId, VecDeque<(Instant, J)>>,
    rotation: VecDeque<UserId>,
    len: usize,
}

impl<J> Default for TurnQueue<J> {
    fn default() -> Self {
        TurnQueue {
            users: HashMap::new(),
            rotation: VecDeque::new(),
            len: 0,
        }
    }
}

impl<J> TurnQueue<J> {
    /// Takes a place behind the user's other work; gives the job back when the queue is full, for all or for this user.
    pub fn push(&mut self, user: &UserId, job: J, deadline: Instant, max: usize, per_user_max: usize) -> Result<(), J> {
        if self.len >= max || self.users.get(user).is_some_and(|jobs| jobs.len() >= per_user_max) {
            return Err(job);
        }
        if !self.users.contains_key(user) {
            self.rotation.push_back(user.clone());
        }
        self.users.entry(user.clone()).or_default().push_back((deadline, job));
        self.len += 1;
        Ok(())
    }

    /// The next user's oldest job.
    pub fn pop(&mut self) -> Option<J> {
        let user = self.rotation.pop_front()?;
        let jobs = self.users.get_mut(&user).expect("a user in rotation has jobs");
        let (_, job) = jobs.pop_front().expect("a user in rotation has jobs");
        if jobs.is_empty() {
            self.users.remove(&user);
        } else {
            self.rotation.push_back(user);
        }
        self.len -= 1;
        Some(job)
    }

    /// Takes out every job whose time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<J> {
        let mut expired = Vec::new();
        for jobs in self.users.values_mut() {
            while jobs.front().is_some_and(|(deadline, _)| *deadline <= now) {
                expired.extend(jobs.pop_front().map(|(_, job)| job));
            }
        }
        self.len -= expired.len();
        self.users.retain(|_, jobs| !jobs.is_empty());
        self.rotation.retain(|user| self.users.contains_key(user));
        expired
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> Vec<J> {
        std::iter::from_fn(|| self.pop()).collect()
    }

    /// When the first job's time is over.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.users.values().filter_map(|jobs| jobs.front()).map(|(deadline, _)| *deadline).min()
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue_of(jobs: &[(&str, u32)]) -> TurnQueue<u32> {
        let mut queue = TurnQueue::default();
        for (user, job) in jobs {
            queue.push(&UserId::from(*user), *job, Instant::now(), 256, 64).unwrap();
        }
        queue
    }

    #[test]
    fn users_take_turns_and_each_keeps_its_order() {
        let mut queue = queue_of(&[("flood", 1), ("flood", 2), ("flood", 3), ("ann", 10), ("bob", 20), ("ann", 11)]);
        assert_eq!(queue.drain(), [1, 10, 20, 2, 11, 3]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let mut queue = TurnQueue::default();
        let (ann, bob, later) = (UserId::from("ann"), UserId::from("bob"), Instant::now());
        assert!((0..3).all(|n| queue.push(&ann, n, later, 5, 3).is_ok()));
        assert_eq!(queue.push(&ann, 9, later, 5, 3), Err(9), "one user's share");
        assert!((0..2).all(|n| queue.push(&bob, n, later, 5, 3).is_ok()));
        assert_eq!(queue.push(&bob, 9, later, 5, 3), Err(9), "the whole queue");
    }

    #[test]
    fn who_waits_too_long_is_taken_out() {
        let mut queue = TurnQueue::default();
        let now = Instant::now();
        queue.push(&UserId::from("ann"), 1, now, 9, 9).unwrap();
        queue.push(&UserId::from("ann"), 2, now + Duration::from_secs(1), 9, 9).unwrap();
        queue.push(&UserId::from("bob"), 3, now, 9, 9).unwrap();
        let mut expired = queue.expire(now);
        expired.sort_unstable();
        assert_eq!(expired, [1, 3]);
        assert_eq!(queue.drain(), [2]);
    }
}
