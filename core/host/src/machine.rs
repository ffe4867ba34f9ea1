//! The one wasmtime engine of the process and the thread that gives it its time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use wasmtime::{Config, Engine, EngineWeak, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::options::HostLimits;

/// The unit of CPU time: how often code that has run for a while looks whether it may go on.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How long code may run before it looks for the first time. Hardly any call takes so long: waking for each of their ticks would
/// cost more than many of them do.
const FIRST_TICK: Duration = Duration::from_millis(5);
/// The clock stops when nothing has run for so long.
const IDLE: Duration = Duration::from_secs(1);
/// How often a sleeping clock looks whether its engine is gone.
const ENGINE_LOOKED_AT_EVERY: Duration = Duration::from_secs(10);
/// Stack of one call in the guest's own code.
const WASM_STACK_BYTES: usize = 512 * 1024;
/// What an idle slot keeps resident; above the guest's first pages resetting costs more than it saves.
const KEEP_RESIDENT_BYTES: usize = 64 * 1024;
/// Where address space is short: reserved per memory, in bytes.
const SMALL_RESERVATION_BYTES: u64 = 64 * 1024 * 1024;

/// Builds the engine and starts its clock; the clock ends when the engine is gone.
pub(crate) fn start(limits: &HostLimits, dev: bool) -> wasmtime::Result<(Engine, Clock)> {
    let engine = match Engine::new(&config(limits, dev, limits.pooling)) {
        Ok(engine) => engine,
        Err(error) if limits.pooling => {
            tracing::warn!(%error, "no address space for the pool of plugin memories; each instance maps its own");
            Engine::new(&config(limits, dev, false))?
        }
        Err(error) => return Err(error),
    };
    let shared = Arc::<Shared>::default();
    let (weak, ticker) = (engine.weak(), shared.clone());
    let thread = thread::Builder::new().name("plugin-clock".into()).spawn(move || tick(&weak, &ticker))?;
    Ok((
        engine,
        Clock {
            shared,
            thread: thread.thread().clone(),
        },
    ))
}

/// Keeps the engine's epochs counted while plugins run, and only then: a thread that wakes for nothing would be most of what an
/// idle server does.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Guest code has run since the thread last looked.
    used: AtomicBool,
    /// A call has met a tick and runs on.
    met: AtomicBool,
    asleep: AtomicBool,
}

impl Clock {
    /// Guest code runs, from now on: the epochs are counted for [`IDLE`] at least. Said when a call begins, and when it goes on
    /// after waiting for the engine.
    pub(crate) fn note_use(&self) {
        // In this order, the reverse of the thread's: one of the two sees what the other has said.
        self.shared.used.store(true, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
    }

    /// A call has met a tick and goes on: the next comes after [`TICK`].
    pub(crate) fn note_tick(&self) {
        self.shared.met.store(true, Ordering::SeqCst);
        self.note_use();
        self.thread.unpark();
    }
}

fn config(limits: &HostLimits, dev: bool, pooling: bool) -> Config {
    let mut config = Config::new();
    config.cranelift_opt_level(OptLevel::Speed);
    config.epoch_interruption(true);
    config.concurrency_support(false);
    config.max_wasm_stack(WASM_STACK_BYTES);
    config.wasm_memory64(false);
    config.wasm_multi_memory(false);
    config.wasm_backtrace_details(if dev {
        WasmBacktraceDetails::Enable
    } else {
        WasmBacktraceDetails::Disable
    });
    if pooling {
        config.allocation_strategy(pool(limits));
    } else {
        config.memory_reservation(SMALL_RESERVATION_BYTES);
        config.memory_guard_size(64 * 1024);
    }
    config
}

fn pool(limits: &HostLimits) -> PoolingAllocationConfig {
    let instances = limits.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(8)) // a component is its module, shims and fix-ups
        .max_core_instances_per_component(24)
        .total_memories(instances)
        .max_memories_per_component(2)
        .total_tables(instances.saturating_mul(4))
        .max_tables_per_component(8)
        .table_elements(limits.table_elements_max)
        .total_stacks(instances)
        .max_memory_size(limits.memory_mb_max as usize * 1024 * 1024)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    pool
}

/// Counts epochs: after [`FIRST_TICK`] again and again, after [`TICK`] when a call has met the last one. A tick counts from when
/// the one before was due, so that late wake-ups do not slow the clock down.
fn tick(engine: &EngineWeak, shared: &Shared) {
    let mut last = Instant::now();
    let (mut next, mut used) = (last + FIRST_TICK, last);
    loop {
        thread::park_timeout(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        if shared.met.swap(false, Ordering::SeqCst) {
            next = next.min((last + TICK).max(now));
        }
        if now < next {
            continue;
        }
        {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
        last = next.max(now - TICK); // after a longer stop nobody is charged for what nobody has used
        next = now + FIRST_TICK;
        if shared.used.swap(false, Ordering::SeqCst) {
            used = now;
        } else if now - used > IDLE {
            shared.asleep.store(true, Ordering::SeqCst);
            while !shared.used.load(Ordering::SeqCst) {
                thread::park_timeout(ENGINE_LOOKED_AT_EVERY);
                if engine.upgrade().is_none() {
                    return;
                }
            }
            shared.asleep.store(false, Ordering::SeqCst);
            last = Instant::now();
            (next, used) = (last + FIRST_TICK, last);
        }
    }
}
