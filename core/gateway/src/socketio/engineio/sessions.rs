//! All sessions of this node: found by their id, bounded in number, called at their deadlines.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use haggle_engine::Hub;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify, time::Instant};

use super::session::{By, Session};
use crate::{
    Gateway,
    settings::SocketIoSettings,
    socketio::{
        dialects::Dialects,
        metrics::{Handles, Reason},
        opened::Opened,
        recovery::Recovery,
    },
};

/// Random bytes of an id: whoever knows it may speak in the session's name.
const ID_BYTES: usize = 18;

/// The Socket.IO sessions of a [`Gateway`].
pub struct Sessions {
    open: Mutex<HashMap<Box<str>, Arc<Session>>>,
    /// When whom to call; by key, since two deadlines may be the same.
    calls: Mutex<BTreeSet<(Instant, u64, Box<str>)>>,
    pub(in crate::socketio) dialects: Arc<Dialects>,
    sooner: Notify,
    empty: Notify,
    next_key: AtomicU64,
    draining: AtomicBool,
    ticking: AtomicBool,
    runtime: OnceLock<Handle>,
    handles: OnceLock<Handles>,
    /// Places of clients that may come back.
    pub(in crate::socketio) recovery: Recovery,
}

impl Sessions {
    /// None yet.
    pub fn new(settings: &SocketIoSettings) -> Sessions {
        let recovery = Recovery::default();
        Sessions {
            dialects: Arc::new(Dialects::new(settings, recovery.offsets())),
            open: Mutex::default(),
            calls: Mutex::default(),
            sooner: Notify::new(),
            empty: Notify::new(),
            next_key: AtomicU64::new(1),
            draining: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            runtime: OnceLock::new(),
            handles: OnceLock::new(),
            recovery,
        }
    }

    /// Namespaces of plugins hear of what is published, where there are any.
    pub(crate) fn listen_to(&self, hub: &Hub) {
        if !self.dialects.is_empty() {
            hub.set_sockets(self.dialects.clone());
        }
    }

    /// How many are open, or about to end.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends every session in a way that makes its client come back, and refuses new ones.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        open.iter().for_each(|session| session.close(Reason::ServerShuttingDown, By::Server));
        self.recovery.clear();
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

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn metrics(&self) -> &Handles {
        self.handles.get_or_init(Handles::new)
    }

    /// Where work goes that a lane's thread must not do.
    pub(crate) fn runtime(&self) -> &Handle {
        self.runtime.get_or_init(Handle::current)
    }

    /// A new session, unless there are too many. Call inside a runtime.
    pub(crate) fn open(&self, gateway: &Arc<Gateway>, token: Option<Box<str>>, opened: Option<Box<Opened>>) -> Option<Arc<Session>> {
        self.start(gateway);
        let settings = &gateway.settings.socketio;
        if self.is_draining() || self.len() >= settings.sessions_max {
            return None;
        }
        let sid = new_id(&settings.node).into_boxed_str();
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let session = Session::new(gateway.clone(), sid.clone(), key, token, opened);
        self.open.lock().insert(sid, session.clone());
        self.metrics().open.increment(1.0);
        self.metrics().opened.increment(1);
        session.arm_first();
        if self.is_draining() {
            session.close(Reason::ServerShuttingDown, By::Server); // The drain may have missed it.
        }
        Some(session)
    }

    pub(crate) fn find(&self, sid: &str) -> Option<Arc<Session>> {
        self.open.lock().get(sid).cloned()
    }

    pub(crate) fn remove(&self, sid: &str) {
        let (removed, empty) = {
            let mut open = self.open.lock();
            (open.remove(sid).is_some(), open.is_empty())
        };
        if removed {
            self.metrics().open.decrement(1.0);
        }
        if empty {
            self.empty.notify_waiters();
        }
    }

    /// Calls the session at `at` instead of at `before`.
    pub(crate) fn arm(&self, session: &Session, before: Option<Instant>, at: Instant) {
        let mut calls = self.calls.lock();
        if let Some(before) = before {
            calls.remove(&(before, session.key, session.sid.clone()));
        }
        let sooner = calls.first().is_none_or(|(first, ..)| at < *first);
        calls.insert((at, session.key, session.sid.clone()));
        drop(calls);
        if sooner {
            self.sooner.notify_one();
        }
    }

    fn start(&self, gateway: &Arc<Gateway>) {
        let _ = self.runtime();
        self.dialects.start(gateway);
        if !self.ticking.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_time(Arc::downgrade(gateway)));
        }
    }

    /// Takes the sessions that are due, and says when the next one is.
    fn due(&self, now: Instant) -> (Vec<Arc<Session>>, Option<Instant>) {
        let (mut due, mut calls) = (Vec::new(), self.calls.lock());
        while calls.first().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, _, sid)) = calls.pop_first() else { break };
            due.push(sid);
        }
        let next = calls.first().map(|(at, ..)| *at);
        drop(calls);
        let open = self.open.lock();
        (due.iter().filter_map(|sid| open.get(sid).cloned()).collect(), next)
    }
}

/// Looks at the gateway so often whether it is still there.
const IDLE: Duration = Duration::from_secs(1);

async fn keep_time(gateway: Weak<Gateway>) {
    loop {
        let Some(strong) = gateway.upgrade() else { return };
        let now = Instant::now();
        let (due, next) = strong.socketio.due(now);
        due.iter().for_each(|session| session.call(now));
        strong.socketio.recovery.tick(&strong.settings.socketio, now);
        let until = next.map_or(now + IDLE, |next| next.min(now + IDLE));
        if due.is_empty() {
            let _ = tokio::time::timeout_at(until, strong.socketio.sooner.notified()).await;
        }
    }
}

/// The node's name and 144 random bits.
pub(crate) fn new_id(node: &str) -> String {
    let mut bytes = [0; ID_BYTES];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    let mut id = String::with_capacity(node.len() + 1 + ID_BYTES * 4 / 3);
    id.push_str(node);
    id.push('.');
    URL_SAFE_NO_PAD.encode_string(bytes, &mut id);
    id
}

/// The id was given out by another node.
pub(crate) fn is_of_another_node(sid: &str, node: &str) -> bool {
    sid.split_once('.').is_some_and(|(of, _)| of != node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_node_and_differ() {
        let (a, b) = (new_id("n1"), new_id("n1"));
        assert_ne!(a, b);
        assert_eq!(a.len(), "n1.".len() + 24);
        assert!(!is_of_another_node(&a, "n1"));
        assert!(is_of_another_node(&a, "n2"));
        assert!(!is_of_another_node("nonsense", "n1"));
    }
}
