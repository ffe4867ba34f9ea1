//! Instances of one plugin: reused while they behave, replaced after a while, dropped with their store after any fault.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use haggle_engine::ports::Hook;
use parking_lot::Mutex;
use wasmtime::{Engine, Store, component::InstancePre};

use crate::{
    bindings::{Guests, Indices},
    fault::{CallError, Kind, classify},
    metrics::Reason,
    shares::{Share, Shares, Taken},
    state::{Profile, Running, State, on_tick, ticks},
};

/// Room for the records around the bytes that a guest hands over.
const FUEL_SLACK: usize = 64 * 1024;

pub(crate) struct Pool {
    pub(crate) profile: Arc<Profile>,
    pub(crate) indices: Indices,
    pre: InstancePre<State>,
    /// Handed to `lifecycle.init`.
    config: String,
    /// Last in, first out: the warmest caches.
    #[allow(
        clippy::vec_box,
        reason = "an instance moves twice per call; half a kilobyte of handles stays where it is"
    )]
    idle: Mutex<Vec<Box<Warm>>>,
    shares: Shares,
    /// Instances dropped and not yet made again, by reason.
    recycled: AtomicU32,
    faulted: AtomicU32,
}

/// A live instance between or in calls.
pub(crate) struct Warm {
    pub(crate) store: Store<State>,
    pub(crate) guests: Guests,
    uses: u32,
    uses_max: u32,
}

impl Pool {
    pub(crate) fn new(profile: Arc<Profile>, pre: InstancePre<State>, indices: Indices, config: String) -> Pool {
        let shares = Shares::new(profile.limits.max_instances);
        Pool {
            profile,
            indices,
            pre,
            config,
            idle: Mutex::default(),
            shares,
            recycled: AtomicU32::new(0),
            faulted: AtomicU32::new(0),
        }
    }

    /// The right to run one call, with a warm instance if there is one. Waits for it to the deadline at most; the caller `asked` just now.
    pub(crate) async fn lease(self: &Arc<Self>, share: Share, asked: Instant, deadline: Instant) -> Result<Lease, CallError> {
        let (taken, since) = match self.shares.take_free(share) {
            Some(taken) => (taken, asked),
            // Rare; every call would carry its future along.
            None => Box::pin(self.wait_for(share, asked, deadline)).await?,
        };
        let warm = self.idle.lock().pop();
        Ok(Lease {
            pool: self.clone(),
            warm,
            since,
            _taken: taken,
        })
    }

    async fn wait_for(&self, share: Share, asked: Instant, deadline: Instant) -> Result<(Taken, Instant), CallError> {
        let taken = tokio::time::timeout_at(deadline.into(), self.shares.take(share)).await;
        let now = Instant::now();
        self.profile.meters.pool_wait.record((now - asked).as_secs_f64());
        taken.map(|taken| (taken, now)).map_err(|_| {
            let count = self.shares.count(share);
            let text = format!("all {count} instances for it were busy until the deadline (limits.max_instances)");
            CallError::new(Kind::Overloaded, text)
        })
    }

    /// A new instance, started: `lifecycle.init` has run. `cpu` and `deadline` bound the start.
    pub(crate) async fn instantiate(&self, deadline: Instant, cpu: Duration) -> Result<Box<Warm>, CallError> {
        self.profile.meters.instantiated(self.reason());
        let mut store = self.store(deadline, cpu);
        let started = self.start(&mut store).await;
        let said = store.data_mut().running.end();
        match started {
            Ok(Ok(guests)) => Ok(Box::new(Warm {
                store,
                guests,
                uses: 0,
                uses_max: spread(self.profile.limits.recycle_after),
            })),
            Ok(Err(text)) => Err(CallError::new(Kind::Error, format!("init: {text}"))),
            Err(error) => {
                let mut error = classify(&error, said.as_deref());
                error.message.insert_str(0, "init: ");
                Err(error)
            }
        }
    }

    /// Whether an instance can be made and its types are this server's. It is not started: `lifecycle.init` does not run.
    pub(crate) async fn try_types(&self, deadline: Instant, cpu: Duration) -> Result<(), CallError> {
        let mut store = self.store(deadline, cpu);
        let made = self.guests(&mut store).await;
        let said = store.data_mut().running.end();
        made.map(drop).map_err(|error| classify(&error, said.as_deref()))
    }

    fn store(&self, deadline: Instant, cpu: Duration) -> Store<State> {
        let mut store = Store::new(self.engine(), State::new(self.profile.clone()));
        store.limiter(|state| &mut state.memory);
        store.epoch_deadline_callback(on_tick);
        let limits = &self.profile.limits;
        store.set_hostcall_fuel(limits.output_bytes.max(limits.host_call_bytes) as usize + FUEL_SLACK);
        begin(
            &mut store,
            Running {
                deadline,
                ticks: ticks(cpu),
                host_calls: limits.host_calls,
                host_call_bytes: limits.host_call_bytes,
                ..Running::idle()
            },
        );
        store
    }

    async fn guests(&self, store: &mut Store<State>) -> wasmtime::Result<Guests> {
        let instance = self.pre.instantiate_async(&mut *store).await?;
        self.indices.load(&mut *store, &instance).map_err(|error| {
            let cause = error.root_cause();
            wasmtime::Error::msg(format!(
                "its types are not this server's: build it again with the SDK of this release ({cause})"
            ))
        })
    }

    async fn start(&self, store: &mut Store<State>) -> wasmtime::Result<Result<Guests, String>> {
        let guests = self.guests(&mut *store).await?;
        let init = match &guests.lifecycle {
            Some(lifecycle) => lifecycle.call_init(&mut *store, &self.config).await?,
            None => Ok(()),
        };
        Ok(init.map(|()| guests))
    }

    fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    fn reason(&self) -> Reason {
        let take = |owed: &AtomicU32| owed.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok();
        if take(&self.faulted) {
            Reason::Fault
        } else if take(&self.recycled) {
            Reason::Recycle
        } else {
            Reason::Cold
        }
    }

    /// Idle and busy instances now.
    pub(crate) fn instances(&self) -> (usize, usize) {
        (self.idle.lock().len(), self.shares.busy())
    }

    /// Puts an instance in that was made outside a lease.
    pub(crate) fn adopt(&self, warm: Box<Warm>) {
        self.idle.lock().push(warm);
    }
}

/// The right to run one call. Dropped, it drops its instance and makes room for the next.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    warm: Option<Box<Warm>>,
    since: Instant,
    /// Given back last: the instance is gone before the next caller asks for memory.
    _taken: Taken,
}

impl Lease {
    /// From when its call is timed: when it was asked for, or, after a wait, when it was had.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// The instance, made if there is none.
    pub(crate) async fn instance(&mut self, deadline: Instant) -> Result<&mut Warm, CallError> {
        if self.warm.is_none() {
            let cpu = Duration::from_millis(u64::from(self.pool.profile.host.init_ms_max));
            self.warm = Some(Box::pin(self.pool.instantiate(deadline, cpu)).await?); // rare, as above
        }
        Ok(self.warm.as_mut().expect("there is one now"))
    }

    /// The call ended well: the instance may serve again.
    pub(crate) fn give_back(mut self) {
        let Some(mut warm) = self.warm.take() else { return };
        let memory = warm.store.data().memory.bytes;
        let profile = &self.pool.profile;
        profile.meters.memory.set(memory as f64);
        warm.uses += 1;
        let memory_mark = profile.limits.memory_mb as usize * 1024 * 1024 / 4 * 3;
        if warm.uses >= warm.uses_max || memory > memory_mark {
            self.pool.recycled.fetch_add(1, Relaxed);
            return;
        }
        self.pool.idle.lock().push(warm);
    }

    /// The call failed inside the store, which nothing can enter again.
    pub(crate) fn spoil(mut self) {
        if self.warm.take().is_some() {
            self.pool.faulted.fetch_add(1, Relaxed);
        }
    }
}

/// Starts a call's budgets.
pub(crate) fn begin(store: &mut Store<State>, running: Running) {
    store.data_mut().running = running;
    store.data().profile.clock.note_use();
    store.set_epoch_deadline(1);
}

impl Warm {
    /// Starts a call's budgets from the plugin's limits.
    pub(crate) fn begin(&mut self, hook: Hook, session: &crate::calls::Session) {
        let limits = &self.store.data().profile.limits;
        let running = Running {
            hook,
            guest: session.guest.clone(),
            call: Some(session.call.clone()),
            deadline: session.deadline,
            ticks: ticks(Duration::from_millis(u64::from(limits.cpu_ms))),
            host_calls: limits.host_calls,
            host_call_bytes: limits.host_call_bytes,
            said: None,
        };
        begin(&mut self.store, running);
    }

    /// Ends it; says what [`Running::end`] says.
    pub(crate) fn end(&mut self) -> Option<String> {
        self.store.data_mut().running.end()
    }
}

/// A number within a quarter of `middle`, so that instances made together do not end together.
fn spread(middle: u32) -> u32 {
    let random = RandomState::new().hash_one(0_u8);
    let span = u64::from(middle / 2).max(1);
    let offset = u32::try_from(random % span).expect("smaller than half a u32");
    (middle - middle / 4).saturating_add(offset).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_spread_around_the_middle() {
        let all: Vec<_> = (0..1000).map(|_| spread(1000)).collect();
        assert!(all.iter().all(|uses| (750..=1250).contains(uses)));
        assert!(
            all.iter().any(|uses| *uses < 850) && all.iter().any(|uses| *uses > 1150),
            "not all the same"
        );
        assert_eq!(spread(1), 1);
    }
}
