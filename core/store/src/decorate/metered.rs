//! Counts and times every operation.

use std::{sync::Arc, time::Instant};

use haggle_model::{CommandId, ConversationId, Entry, MessageId, Millis, PluginId, Pos, ReservationState, Seq, Shard, UserId};
use metrics::{Histogram, describe_gauge, describe_histogram, gauge, histogram};

use super::decorate;
use crate::{AppendError, SharedStore, StoreError, Tail};

const OP_SECONDS: &str = "haggle_store_op_seconds";
const FAILED: &str = "haggle_store_failed";

/// What this module measures: name and meaning.
pub const METRICS: [(&str, &str); 2] = [
    (
        OP_SECONDS,
        "Time of an operation of the store, by `op` and `outcome` (ok, fenced, full, unavailable, failed, corrupt)",
    ),
    (
        FAILED,
        "1 while the store takes no writes because the last one failed or found no space, else 0",
    ),
];

/// A store whose operations are timed in `haggle_store_op_seconds{op,outcome}` and whose failure shows in `haggle_store_failed`.
pub struct Metered {
    inner: SharedStore,
    /// Made once: an append is measured without a look-up of labels.
    appended: Histogram,
}

impl Metered {
    /// Measures `inner`, and registers the metrics.
    pub fn new(inner: SharedStore) -> Metered {
        describe_histogram!(OP_SECONDS, metrics::Unit::Seconds, METRICS[0].1);
        describe_gauge!(FAILED, METRICS[1].1);
        gauge!(FAILED).set(0.0);
        Metered {
            inner,
            appended: histogram!(OP_SECONDS, "op" => "append", "outcome" => "ok"),
        }
    }

    async fn around<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let start = Instant::now();
        let answer = call.await;
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(StoreError::Unavailable(_)) => "unavailable",
            Err(StoreError::Corrupt(_)) => "corrupt",
            Err(StoreError::Open(_)) => "failed",
        };
        histogram!(OP_SECONDS, "op" => operation, "outcome" => outcome).record(start.elapsed());
        answer
    }

    async fn append_around(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        let start = Instant::now();
        let appended = self.inner.append(shard, tail, entries).await;
        match &appended {
            Ok(_) => self.appended.record(start.elapsed()),
            Err(error) => append_failed(error, start),
        }
        if appended.is_ok() {
            gauge!(FAILED).set(0.0);
        }
        appended
    }

    async fn recover_around(&self, shard: Shard) -> Result<Tail, StoreError> {
        let recovered = self.around("recover", self.inner.recover(shard)).await;
        if recovered.is_ok() {
            gauge!(FAILED).set(0.0);
        }
        recovered
    }
}

fn append_failed(error: &AppendError, start: Instant) {
    let outcome = match error {
        AppendError::Fenced => "fenced",
        AppendError::Full(_) => "full",
        AppendError::Unavailable(_) => "unavailable",
        AppendError::Failed(_) => "failed",
    };
    histogram!(OP_SECONDS, "op" => "append", "outcome" => outcome).record(start.elapsed());
    if matches!(error, AppendError::Full(_) | AppendError::Failed(_)) {
        gauge!(FAILED).set(1.0);
    }
}

decorate!(Metered);
