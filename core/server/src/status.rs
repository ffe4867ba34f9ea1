//! What `/readyz` says: whether the server is starting, serving, read-only or draining.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use haggle_engine::{Engine, Health};
use haggle_store::Durability;
use metrics::gauge;
use serde_json::{Value, json};

use crate::{plugins::Plugins, verify::Verification};

/// The parts of a server that has started.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The plugins.
    pub plugins: Plugins,
    /// What an ack means.
    pub durability: Durability,
    /// How far the log's checksums were looked at.
    pub verification: Arc<Verification>,
}

/// How firmly the process serves. Shared by the listeners.
#[derive(Default)]
pub struct Status {
    parts: OnceLock<Parts>,
    draining: AtomicBool,
}

/// The short answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet.
    Starting,
    /// Reads and writes.
    Ready,
    /// The store takes no writes.
    ReadOnly,
    /// It is about to end.
    Draining,
}

impl Readiness {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Readiness::Starting => "starting",
            Readiness::Ready => "ready",
            Readiness::ReadOnly => "read-only",
            Readiness::Draining => "draining",
        }
    }
}

impl Status {
    /// Everything has started.
    pub fn started(&self, parts: Parts) {
        // Called once, by who starts the parts.
        let _ = self.parts.set(parts);
        self.show();
    }

    /// The end has begun.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.show();
    }

    /// The parts, once they have started.
    pub fn parts(&self) -> Option<&Parts> {
        self.parts.get()
    }

    /// The short answer.
    pub fn readiness(&self) -> Readiness {
        if self.draining.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        match self.parts.get().map(|parts| parts.engine.health()) {
            None => Readiness::Starting,
            Some(Health::Ready) => Readiness::Ready,
            Some(Health::ReadOnly) => Readiness::ReadOnly,
        }
    }

    /// Sets `haggle_ready`.
    pub fn show(&self) {
        gauge!("haggle_ready").set(if self.readiness() == Readiness::Ready { 1.0 } else { 0.0 });
    }

    /// Every check, for people.
    pub fn verbose(&self) -> Value {
        let readiness = self.readiness();
        let mut answer = json!({ "status": readiness.as_str(), "checks": { "draining": readiness == Readiness::Draining } });
        let Some(parts) = self.parts.get() else { return answer };
        let writable = parts.engine.health() == Health::Ready;
        answer["checks"]["store"] = json!({ "durability": parts.durability.to_string(), "state": if writable { "ready" } else { "read-only" }, "checksums": parts.verification.describe() });
        answer["checks"]["plugins"] = parts.plugins.summary();
        answer["checks"]["users_online"] = json!(parts.engine.hub().users_online());
        answer
    }
}
