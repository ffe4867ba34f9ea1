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
            Err(StoreError::Open(_) | StoreError::InUse(_)) => "failed",
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use haggle_model::Event;
    use metrics::{Counter, Gauge, Key, KeyName, Metadata, Recorder, SharedString, Unit};
    use parking_lot::Mutex;

    use super::*;
    use crate::{
        Log, MemoryStore,
        decorate::{Faulty, When},
        suite,
    };

    /// Keeps the gauge, and the labels of the histograms.
    #[derive(Default)]
    struct Seen {
        failed: Arc<AtomicU64>,
        timed: Mutex<Vec<String>>,
    }

    impl Recorder for Seen {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(self.failed.clone())
        }

        fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
            self.timed
                .lock()
                .push(key.labels().map(|label| label.value()).collect::<Vec<_>>().join(" "));
            Histogram::noop()
        }
    }

    #[test]
    fn a_failed_store_shows_until_it_has_recovered() {
        let seen = Seen::default();
        let failed = || f64::from_bits(seen.failed.load(Ordering::Relaxed));
        metrics::with_local_recorder(&seen, || {
            suite::run(async {
                let (faulty, faults) = Faulty::new(Arc::new(MemoryStore::new(1)));
                let store = Metered::new(Arc::new(faulty));
                let entries = || vec![suite::entry(1, ConversationId(1 << 16), 0, 0, Event::Noop)];
                assert_eq!(failed(), 0.0);
                faults.fail_append(1, AppendError::Failed("planned".to_string()), When::Before);
                store.append(Shard(0), Tail::default(), entries()).await.unwrap_err();
                assert_eq!(failed(), 1.0);
                store.recover(Shard(0)).await.unwrap();
                assert_eq!(failed(), 0.0);
                faults.fail_append(1, AppendError::Full("planned".to_string()), When::Before);
                store.append(Shard(0), Tail::default(), entries()).await.unwrap_err();
                assert_eq!(failed(), 1.0);
                store.append(Shard(0), Tail::default(), entries()).await.unwrap();
                assert_eq!(failed(), 0.0, "there is space again");
            })
        });
        assert_eq!(*seen.timed.lock(), ["append ok", "append failed", "recover ok", "append full"]);
    }
}
