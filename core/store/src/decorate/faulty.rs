//! Fails on demand.

use std::{sync::Arc, time::Duration};

use haggle_model::{CommandId, ConversationId, Entry, MessageId, Millis, PluginId, Pos, ReservationState, Seq, Shard, UserId};
use parking_lot::Mutex;

use super::decorate;
use crate::{AppendError, SharedStore, StoreError, Tail};

/// Whether a failing append has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing is written.
    Before,
    /// All is written and durable, and yet the answer is an error.
    After,
}

/// A store that fails as its [`Faults`] say. After [`AppendError::Failed`] it takes no append until `recover`, as every store.
pub struct Faulty {
    inner: SharedStore,
    faults: Faults,
}

/// The hand on a [`Faulty`] store; all clones steer the same one.
#[derive(Clone, Default)]
pub struct Faults {
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    appends: u64,
    append: Option<(u64, AppendError, When)>,
    append_delay: Duration,
    recoveries_to_fail: u32,
    others: Option<StoreError>,
    others_delay: Duration,
    failed: bool,
}

impl Faults {
    /// Fails the `nth` append from now on (1 is the next one), once.
    pub fn fail_append(&self, nth: u64, error: AppendError, when: When) {
        let mut plan = self.plan.lock();
        let number = plan.appends + nth;
        plan.append = Some((number, error, when));
    }

    /// Every append takes so much longer. The calling thread sleeps where there is no runtime.
    pub fn delay_appends(&self, delay: Duration) {
        self.plan.lock().append_delay = delay;
    }

    /// The next `times` recoveries fail.
    pub fn fail_recoveries(&self, times: u32) {
        self.plan.lock().recoveries_to_fail = times;
    }

    /// Everything but append and recover fails with `error`; `None` ends it.
    pub fn fail_others(&self, error: Option<StoreError>) {
        self.plan.lock().others = error;
    }

    /// Everything but append and recover takes so much longer.
    pub fn delay_others(&self, delay: Duration) {
        self.plan.lock().others_delay = delay;
    }

    /// Ends every fault that is planned. A store that has failed still wants to be recovered.
    pub fn clear(&self) {
        let mut plan = self.plan.lock();
        *plan = Plan {
            appends: plan.appends,
            failed: plan.failed,
            ..Plan::default()
        };
    }

    /// How many appends were asked for so far.
    pub fn appends(&self) -> u64 {
        self.plan.lock().appends
    }

    /// Counts an append; what shall become of it, and how much later.
    fn next_append(&self) -> Result<(Option<(AppendError, When)>, Duration), AppendError> {
        let mut plan = self.plan.lock();
        plan.appends += 1;
        if plan.failed {
            return Err(AppendError::Failed("not recovered since the last failure".to_string()));
        }
        let number = plan.appends;
        let fault = plan.append.take_if(|(at, ..)| *at <= number).map(|(_, error, when)| (error, when));
        plan.failed = matches!(fault, Some((AppendError::Failed(_), _)));
        Ok((fault, plan.append_delay))
    }
}

impl Faulty {
    /// Wraps `inner`; no fault is planned.
    pub fn new(inner: SharedStore) -> (Faulty, Faults) {
        let faults = Faults::default();
        (
            Faulty {
                inner,
                faults: faults.clone(),
            },
            faults,
        )
    }

    async fn around<T>(&self, _operation: &'static str, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let (fault, delay) = {
            let plan = self.faults.plan.lock();
            (plan.others.clone(), plan.others_delay)
        };
        sleep(delay).await;
        match fault {
            Some(error) => Err(error),
            None => call.await,
        }
    }

    async fn append_around(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        let (fault, delay) = self.faults.next_append()?;
        sleep(delay).await;
        match fault {
            None => self.inner.append(shard, tail, entries).await,
            Some((error, When::Before)) => Err(error),
            Some((error, When::After)) => {
                self.inner.append(shard, tail, entries).await?;
                Err(error)
            }
        }
    }

    async fn recover_around(&self, shard: Shard) -> Result<Tail, StoreError> {
        {
            let mut plan = self.faults.plan.lock();
            if plan.recoveries_to_fail > 0 {
                plan.recoveries_to_fail -= 1;
                return Err(StoreError::Unavailable("planned".to_string()));
            }
        }
        let tail = self.inner.recover(shard).await?;
        self.faults.plan.lock().failed = false;
        Ok(tail)
    }
}

async fn sleep(delay: Duration) {
    if delay.is_zero() {
        return;
    }
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio::time::sleep(delay).await,
        Err(_) => std::thread::sleep(delay),
    }
}

decorate!(Faulty);

#[cfg(test)]
mod tests {
    use haggle_model::Event;

    use super::*;
    use crate::{Log, MemoryStore, suite};

    fn entries(ts: u64) -> Vec<Arc<Entry>> {
        vec![suite::entry(ts, ConversationId(1 << 20), 0, 0, Event::Noop)]
    }

    #[test]
    fn the_nth_append_fails_once_before_or_after_writing() {
        suite::run(async {
            for (when, written) in [(When::Before, 1), (When::After, 2)] {
                let (store, faults) = Faulty::new(Arc::new(MemoryStore::new(1)));
                faults.fail_append(2, AppendError::Failed("planned".to_string()), when);
                let tail = store.append(Shard(0), Tail::default(), entries(1)).await.unwrap();
                assert!(matches!(store.append(Shard(0), tail, entries(2)).await, Err(AppendError::Failed(_))));
                assert!(
                    matches!(store.append(Shard(0), tail, entries(2)).await, Err(AppendError::Failed(_))),
                    "not recovered yet"
                );
                faults.fail_recoveries(1);
                assert!(store.recover(Shard(0)).await.is_err());
                let tail = store.recover(Shard(0)).await.unwrap();
                assert_eq!(tail.pos, Pos(written));
                store.append(Shard(0), tail, entries(3)).await.unwrap();
                assert_eq!(faults.appends(), 4);
            }
        });
    }

    #[test]
    fn other_operations_fail_until_they_are_let_through() {
        suite::run(async {
            let (store, faults) = Faulty::new(Arc::new(MemoryStore::new(1)));
            faults.fail_others(Some(StoreError::Unavailable("planned".to_string())));
            assert!(store.tail(Shard(0)).await.is_err());
            faults.clear();
            assert!(store.tail(Shard(0)).await.is_ok());
        });
    }
}
