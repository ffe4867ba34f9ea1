//! All native connections of this process: for limits, deadlines, draining and metrics.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use haggle_engine::Subscriber;
use haggle_model::UserId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{
    bucket::Bucket,
    metrics::Handles,
    socket::Socket,
    wheel::{TICK, Wheel},
};
use crate::Gateway;

/// The native connections of a [`Gateway`].
pub struct Connections {
    open: Mutex<HashMap<u64, Arc<Socket>>>,
    per_user: Mutex<HashMap<UserId, usize>>,
    handshakes: Mutex<Bucket>,
    pub(super) wheel: Wheel,
    next_key: AtomicU64,
    /// Tells ids of this process from those of the one before.
    boot: u32,
    draining: AtomicBool,
    ticking: AtomicBool,
    empty: Notify,
    handles: OnceLock<Handles>,
}

impl Default for Connections {
    fn default() -> Connections {
        Connections::new()
    }
}

impl Connections {
    /// None yet.
    pub fn new() -> Connections {
        let now = Instant::now();
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Connections {
            open: Mutex::default(),
            per_user: Mutex::default(),
            handshakes: Mutex::new(Bucket::full(u32::MAX, now)),
            wheel: Wheel::new(now),
            next_key: AtomicU64::new(1),
            boot: (since_epoch.as_millis() as u32) ^ std::process::id(),
            draining: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            empty: Notify::new(),
            handles: OnceLock::new(),
        }
    }

    /// How many are open, those that have not authenticated included.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells every client to come back later and refuses new ones. Acks in flight are still delivered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        open.iter().for_each(|socket| socket.close("drain"));
    }

    /// Waits until none is open, at most so long; `true` when none is.
    pub async fn drained(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        loop {
            let emptied = self.empty.notified();
            if self.is_empty() {
                return true;
            }
            if tokio::time::timeout_at(deadline, emptied).await.is_err() {
                return self.is_empty();
            }
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(super) fn metrics(&self) -> &Handles {
        self.handles.get_or_init(Handles::new)
    }

    /// Takes one handshake from the budget of the process, or says how long until there is one.
    pub(super) fn admit_handshake(&self, per_second: u32) -> Result<(), Duration> {
        self.handshakes.lock().take(Instant::now(), per_second, per_second)
    }

    /// A key and an id for a new connection.
    pub(super) fn name(&self) -> (u64, Arc<str>) {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        (key, format!("ws-{:08x}-{key:x}", self.boot).into())
    }

    pub(super) fn add(&self, socket: &Arc<Socket>) {
        self.open.lock().insert(socket.key, socket.clone());
        self.metrics().open.increment(1.0);
        self.metrics().opened.increment(1);
        if self.is_draining() {
            socket.close("drain"); // The drain may have missed it.
        }
    }

    pub(super) fn remove(&self, socket: &Socket) {
        let (removed, empty) = {
            let mut open = self.open.lock();
            (open.remove(&socket.key).is_some(), open.is_empty())
        };
        if removed {
            self.metrics().open.decrement(1.0);
        }
        if empty {
            self.empty.notify_waiters();
        }
    }

    /// Counts a connection of the user unless it has too many.
    pub(crate) fn enter(&self, user: &UserId, connections_max: usize) -> bool {
        let mut per_user = self.per_user.lock();
        let count = per_user.entry(user.clone()).or_default();
        let admitted = *count < connections_max;
        *count += usize::from(admitted);
        admitted
    }

    /// Gives back what [`Connections::enter`] has counted.
    pub(crate) fn leave(&self, user: &UserId) {
        let mut per_user = self.per_user.lock();
        if let Some(count) = per_user.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                per_user.remove(user);
            }
        }
    }

    /// Starts the task that calls connections at their deadlines, once.
    pub(super) fn start_ticking(&self, gateway: &Arc<Gateway>) {
        if !self.ticking.swap(true, Ordering::Relaxed) {
            tokio::spawn(tick(Arc::downgrade(gateway)));
        }
    }

    fn call_due(&self) {
        let due = self.wheel.due(Instant::now());
        if due.is_empty() {
            return;
        }
        let sockets: Vec<_> = {
            let open = self.open.lock();
            due.iter().filter_map(|key| open.get(key).cloned()).collect()
        };
        sockets.iter().for_each(|socket| socket.tick());
    }
}

async fn tick(gateway: Weak<Gateway>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let Some(gateway) = gateway.upgrade() else { return };
        gateway.connections.call_due();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_a_number_of_connections() {
        let connections = Connections::new();
        let ann = UserId::from("ann");
        assert!(connections.enter(&ann, 2) && connections.enter(&ann, 2));
        assert!(!connections.enter(&ann, 2), "the third is refused and not counted");
        assert!(connections.enter(&"bob".into(), 2));
        connections.leave(&ann);
        assert!(connections.enter(&ann, 2));
        connections.leave(&ann);
        connections.leave(&ann);
        assert!(!connections.per_user.lock().contains_key(&ann), "nothing is kept of who is gone");
    }

    #[test]
    fn names_differ() {
        let connections = Connections::new();
        assert_ne!(connections.name(), connections.name());
    }

    #[test]
    fn handshakes_are_limited_only_when_told() {
        let connections = Connections::new();
        assert!((0..1_000).all(|_| connections.admit_handshake(0).is_ok()));
        assert!((0..10).filter(|_| connections.admit_handshake(5).is_ok()).count() <= 6);
    }
}
