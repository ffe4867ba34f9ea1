//! The one wasmtime engine of the process and the thread that gives it its time.

use std::{
    thread,
    time::{Duration, Instant},
};

use wasmtime::{Config, Engine, EngineWeak, OptLevel, PoolingAllocationConfig, WasmBacktraceDetails};

use crate::options::HostLimits;

/// The unit of CPU time: how often running code looks whether it may go on.
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// Stack of one call in the guest's own code.
const WASM_STACK_BYTES: usize = 512 * 1024;
/// What an idle slot keeps resident; above the guest's first pages resetting costs more than it saves.
const KEEP_RESIDENT_BYTES: usize = 64 * 1024;
/// Where address space is short: reserved per memory, in bytes.
const SMALL_RESERVATION_BYTES: u64 = 64 * 1024 * 1024;

/// Builds the engine and starts its clock; the clock stops when the engine is gone.
pub(crate) fn start(limits: &HostLimits, dev: bool) -> wasmtime::Result<Engine> {
    let engine = match Engine::new(&config(limits, dev, limits.pooling)) {
        Ok(engine) => engine,
        Err(error) if limits.pooling => {
            tracing::warn!(%error, "no address space for the pool of plugin memories; each instance maps its own");
            Engine::new(&config(limits, dev, false))?
        }
        Err(error) => return Err(error),
    };
    let weak = engine.weak();
    thread::Builder::new().name("plugin-clock".into()).spawn(move || tick(&weak))?;
    Ok(engine)
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
fn tick(engine: &EngineWeak) {
    let mut next = Instant::now() + TICK;
    loop {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        next = (next + TICK).max(Instant::now());
    }
}
