//! The checksums of the whole log, looked at in the background after the start: damage is noticed before somebody reads it.
//!
//! Opening verifies the log's tail, every read what it reads; this is the rest. It takes a tenth of one core and no lock.

use std::{sync::Arc, time::Duration};

use haggle_model::Pos;
use haggle_store::{EmbeddedStore, StoreError};
use metrics::{describe_gauge, gauge};
use parking_lot::Mutex;
use tokio::time::Instant;

/// First things first: a start has better to do.
const START_AFTER: Duration = Duration::from_secs(3);
/// For each second of reading so many of rest.
const REST_FACTOR: u32 = 9;
/// A store that cannot be read now is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(60);

const VERIFIED: &str = "haggle_store_verified_entries";
const DAMAGED: &str = "haggle_store_damaged";

/// How far it is, for `/readyz?verbose`.
#[derive(Debug, Default)]
pub struct Verification(Mutex<Found>);

#[derive(Clone, Debug, Default)]
enum Found {
    #[default]
    Nothing,
    Right(Pos),
    Damage(String),
    Done(Pos),
}

impl Verification {
    /// For people.
    pub fn describe(&self) -> String {
        match &*self.0.lock() {
            Found::Nothing => "not yet verified".into(),
            Found::Right(to) => format!("right up to {to}, verifying"),
            Found::Done(to) => format!("right up to {to}"),
            Found::Damage(error) => error.clone(),
        }
    }

    fn is(&self, found: Found) {
        *self.0.lock() = found;
    }
}

/// Registers the metrics at 0.
pub fn describe() {
    describe_gauge!(VERIFIED, "Entries of the log whose checksums were found right since the start");
    describe_gauge!(DAMAGED, "1 when a checksum of the log was found wrong");
    gauge!(VERIFIED).set(0.0);
    gauge!(DAMAGED).set(0.0);
}

/// Looks once at every row up to `end`, where the log ended at the start: later ones have just been written. Ends there, or at
/// the first damage.
pub async fn run(store: Arc<EmbeddedStore>, end: Pos, verification: Arc<Verification>) {
    tokio::time::sleep(START_AFTER).await;
    let mut from = Pos(0);
    loop {
        let begun = Instant::now();
        match store.verify_some(from, end).await {
            Ok(to) => {
                gauge!(VERIFIED).set(to.0 as f64);
                if to >= end {
                    tracing::info!(entries = to.0, "every checksum of the log is right");
                    return verification.is(Found::Done(to));
                }
                from = to;
                verification.is(Found::Right(to));
                tokio::time::sleep(begun.elapsed() * REST_FACTOR).await;
            }
            Err(StoreError::Corrupt(error)) => {
                gauge!(DAMAGED).set(1.0);
                tracing::error!(
                    error,
                    "the log is damaged; stop the server, keep a copy, run `haggle doctor` and restore a backup"
                );
                return verification.is(Found::Damage(error));
            }
            Err(error) => {
                tracing::warn!(%error, "the log cannot be verified now; it is tried again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}
