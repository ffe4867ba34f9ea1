//! An end to waiting.

use std::{sync::Arc, time::Duration};

use haggle_model::{CommandId, ConversationId, Entry, MessageId, Millis, PluginId, Pos, ReservationState, Seq, Shard, UserId};

use super::decorate;
use crate::{AppendError, SharedStore, StoreError, Tail};

/// Operations that may take as long as the store is big.
const UNTIMED: [&str; 2] = ["rebuild_views", "erase_deleted"];

/// A store whose reads and small writes end after a time with [`StoreError::Unavailable`].
///
/// Not so `append` and `recover`: to stop waiting for an append would only make its outcome unknown; a store ends it itself.
/// Needs a tokio runtime with time; without one the wrapper lets everything through.
pub struct Timeout {
    inner: SharedStore,
    after: Duration,
}

impl Timeout {
    /// Lets no operation of `inner` take longer than `after`.
    pub fn new(inner: SharedStore, after: Duration) -> Timeout {
        Timeout { inner, after }
    }

    async fn around<T>(&self, operation: &'static str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if UNTIMED.contains(&operation) || tokio::runtime::Handle::try_current().is_err() {
            return call.await;
        }
        match tokio::time::timeout(self.after, call).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::Unavailable(format!(
                "{operation} took longer than {} ms",
                self.after.as_millis()
            ))),
        }
    }

    async fn append_around(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        self.inner.append(shard, tail, entries).await
    }

    async fn recover_around(&self, shard: Shard) -> Result<Tail, StoreError> {
        self.inner.recover(shard).await
    }
}

decorate!(Timeout);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cursors, MemoryStore, Views, decorate::Faulty, suite};

    #[test]
    fn what_takes_too_long_is_unavailable() {
        suite::run(async {
            let (slow, faults) = Faulty::new(Arc::new(MemoryStore::new(1)));
            let store = Timeout::new(Arc::new(slow), Duration::from_millis(20));
            store.failed_count().await.unwrap();
            faults.delay_others(Duration::from_secs(60));
            let error = store.failed_count().await.unwrap_err();
            assert!(
                matches!(&error, StoreError::Unavailable(text) if text.contains("failed_count")),
                "{error}"
            );
            faults.delay_others(Duration::from_millis(60));
            store.rebuild_views().await.expect("takes as long as it takes");
        });
    }
}
