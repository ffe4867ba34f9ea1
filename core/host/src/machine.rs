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

/// The unit of CPU time: how often running code looks whether it may go on.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// The clock stops when nothing has run for so many ticks.
const IDLE_TICKS: u32 = 1_000;
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

/// Keeps the engine's epochs counted while plugins run, and only then: a thread that wakes a thousand times a second for
/// nothing would be most of what an idle server does.
#[derive(Clone)]
pub(crate) struct Clock {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Default)]
struct Shared {
    /// Guest code has run since the thread last looked.
    used: AtomicBool,
    asleep: AtomicBool,
}

impl Clock {
    /// Guest code runs, from now on: the epochs are counted for [`IDLE_TICKS`] at least. Said when a call begins, when it goes on
    /// after waiting for the engine, and at every tick that it runs.
    pub(crate) fn note_use(&self) {
        // In this order, the reverse of the thread's: one of the two sees what the other has said.
        self.shared.used.store(true, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.thread.unpark();
        }
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

/// Sleeps to absolute times, so that a late wake-up does not slow the clock down.
fn tick(engine: &EngineWeak, shared: &Shared) {
    let mut next = Instant::now() + TICK;
    let mut ticks_left = IDLE_TICKS;
    loop {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
        next = (next + TICK).max(Instant::now());
        if shared.used.swap(false, Ordering::SeqCst) {
            ticks_left = IDLE_TICKS;
        } else if ticks_left > 0 {
            ticks_left -= 1;
        } else {
            shared.asleep.store(true, Ordering::SeqCst);
            while !shared.used.load(Ordering::SeqCst) {
                thread::park_timeout(ENGINE_LOOKED_AT_EVERY);
                if engine.upgrade().is_none() {
                    return;
                }
            }
            shared.asleep.store(false, Ordering::SeqCst);
            ticks_left = IDLE_TICKS;
            next = Instant::now() + TICK;
        }
    }
}
