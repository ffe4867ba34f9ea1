//! What a store carries: the plugin it belongs to, the call it is in, and the bounds of both.

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use haggle_engine::ports::{Hook, HostCalls};
use haggle_model::PluginId;
use parking_lot::Mutex;
use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};

use crate::{
    bindings::wit,
    capabilities::HostFn,
    fault::{Kind, throw, truncate},
    grants::Capability,
    machine::Clock,
    manifest::{Grant, PluginLimits},
    metrics::Meters,
    options::HostLimits,
};

/// What all instances of one loaded plugin have in common.
pub(crate) struct Profile {
    pub(crate) id: PluginId,
    pub(crate) limits: PluginLimits,
    pub(crate) host: HostLimits,
    pub(crate) grants: BTreeMap<Capability, Grant>,
    /// `config.get` answers: text as it is, everything else as JSON.
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) meters: Meters,
    pub(crate) log_budget: LogBudget,
    pub(crate) clock: Clock,
}

/// The data of a store.
pub(crate) struct State {
    pub(crate) profile: Arc<Profile>,
    pub(crate) memory: Memory,
    pub(crate) running: Running,
}

impl State {
    pub(crate) fn new(profile: Arc<Profile>) -> State {
        let memory = Memory {
            bytes: 0,
            bytes_max: profile.limits.memory_mb as usize * 1024 * 1024,
            table_elements: 0,
            table_elements_max: profile.host.table_elements_max,
        };
        State {
            profile,
            memory,
            running: Running::idle(),
        }
    }
}

/// The call that a store is in.
pub(crate) struct Running {
    pub(crate) hook: Hook,
    /// `None` while the plugin starts: then nothing may be asked of the engine.
    pub(crate) guest: Option<Arc<dyn HostCalls>>,
    /// For logs.
    pub(crate) call: Option<Arc<wit::Call>>,
    pub(crate) deadline: Instant,
    /// CPU time left, in ticks.
    pub(crate) ticks: u32,
    pub(crate) host_calls: u32,
    pub(crate) host_call_bytes: u32,
    /// The last error line that the plugin logged: with a trap, usually its panic message.
    pub(crate) said: Option<String>,
}

impl Running {
    /// No call. Nothing runs in it, so nothing is left of any budget.
    pub(crate) fn idle() -> Running {
        Running {
            hook: Hook::Lifecycle,
            guest: None,
            call: None,
            deadline: Instant::now(),
            ticks: 0,
            host_calls: 0,
            host_call_bytes: 0,
            said: None,
        }
    }

    /// The call is over: nothing of it stays. The last error line that it logged.
    pub(crate) fn end(&mut self) -> Option<String> {
        (self.ticks, self.host_calls, self.host_call_bytes) = (0, 0, 0);
        self.guest = None;
        self.call = None;
        self.said.take()
    }
}

/// Called by running code at every tick: goes on (after letting other tasks run), or ends the call.
pub(crate) fn on_tick(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    store.data().profile.clock.note_tick();
    let running = &mut store.data_mut().running;
    if Instant::now() >= running.deadline {
        return Err(throw(Kind::Timeout, "the deadline is over"));
    }
    match running.ticks.checked_sub(1) {
        Some(left) => {
            running.ticks = left;
            // tokio's own yield, which lets timers and sockets of this thread have their turn too.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        }
        None => Err(throw(Kind::Cpu, "the CPU time of the call is used up")),
    }
}

/// Counts linear memory and table elements of all of an instance's memories and tables.
pub(crate) struct Memory {
    pub(crate) bytes: usize,
    bytes_max: usize,
    table_elements: usize,
    table_elements_max: usize,
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.bytes.saturating_sub(current).saturating_add(desired);
        if total > self.bytes_max {
            // Ending the call here names the cause; a refused growth would show as some panic of the allocator.
            return Err(throw(Kind::Memory, format!("wants {total} bytes of memory, may have {}", self.bytes_max)));
        }
        self.bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_sub(current).saturating_add(desired);
        if total > self.table_elements_max {
            return Err(throw(
                Kind::Memory,
                format!("wants {total} table elements, may have {}", self.table_elements_max),
            ));
        }
        self.table_elements = total;
        Ok(true)
    }
}

impl State {
    /// Every host call begins here: budgets, deadline. `None` while the plugin starts.
    pub(crate) fn enter(&mut self, bytes: usize) -> wasmtime::Result<Option<Arc<dyn HostCalls>>> {
        let limits = &self.profile.limits;
        let Some(left) = self.running.host_calls.checked_sub(1) else {
            return Err(throw(Kind::HostCalls, format!("more than {} host calls in one call", limits.host_calls)));
        };
        self.running.host_calls = left;
        self.carry(bytes)?;
        if Instant::now() >= self.running.deadline {
            return Err(throw(Kind::Timeout, "the deadline is over"));
        }
        Ok(self.running.guest.clone())
    }

    /// Bytes that a host call carries in or out.
    pub(crate) fn carry(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.running.host_call_bytes.checked_sub(bytes));
        let Some(left) = left else {
            let max = self.profile.limits.host_call_bytes;
            return Err(throw(Kind::HostCalls, format!("host calls carried more than {max} bytes in one call")));
        };
        self.running.host_call_bytes = left;
        Ok(())
    }

    /// Waits for the engine, at most to the call's deadline. What is ready at once costs no timer.
    pub(crate) async fn wait<T: Send>(&self, answer: impl Future<Output = T> + Send) -> wasmtime::Result<T> {
        let mut answer = pin!(answer);
        if let Poll::Ready(answer) = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
            return Ok(answer);
        }
        let deadline = self.running.deadline.into();
        let answer = tokio::time::timeout_at(deadline, answer).await;
        self.profile.clock.note_use(); // which may have stopped meanwhile
        answer.map_err(|_| throw(Kind::Timeout, "the deadline was over while it waited for the host"))
    }

    /// Counts a host call and hands its answer on.
    pub(crate) fn answered<T, E>(&self, function: HostFn, answer: Result<T, E>) -> Result<T, wit::Error>
    where
        wit::Error: From<E>,
    {
        self.profile.meters.host_call(function, answer.is_ok());
        answer.map_err(wit::Error::from)
    }

    /// A line of the plugin's, with what an operator needs to find its cause.
    pub(crate) fn write_log(&mut self, level: crate::bindings::log::Level, mut text: String) {
        use crate::bindings::log::Level;
        truncate(&mut text, self.profile.host.log_line_bytes_max);
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if !self.profile.log_budget.take(self.profile.host.log_lines_per_second_max) {
            self.profile.meters.log_dropped.increment(1);
        } else {
            let (plugin, hook) = (self.profile.id.as_str(), self.running.hook.as_str());
            let trace_id = self.running.call.as_ref().and_then(|call| call.trace_id.as_deref()).unwrap_or_default();
            match level {
                Level::Debug => tracing::debug!(target: "haggle_plugin", plugin, hook, trace_id, "{text}"),
                Level::Info => tracing::info!(target: "haggle_plugin", plugin, hook, trace_id, "{text}"),
                Level::Warn => tracing::warn!(target: "haggle_plugin", plugin, hook, trace_id, "{text}"),
                Level::Error => tracing::error!(target: "haggle_plugin", plugin, hook, trace_id, "{text}"),
            }
        }
        if matches!(level, Level::Error) {
            self.running.said = Some(text);
        }
    }
}

/// Lines that a plugin may still log: so many a second, twice as many at once.
#[derive(Default)]
pub(crate) struct LogBudget(Mutex<Option<(f64, Instant)>>);

impl LogBudget {
    fn take(&self, per_second: u32) -> bool {
        let now = Instant::now();
        let per_second = f64::from(per_second);
        let mut budget = self.0.lock();
        let (left, since) = budget.unwrap_or((2.0 * per_second, now));
        let left = (left + per_second * now.saturating_duration_since(since).as_secs_f64()).min(2.0 * per_second);
        let has_one = left >= 1.0;
        *budget = Some((if has_one { left - 1.0 } else { left }, now));
        has_one
    }
}

/// How many ticks a CPU budget is.
pub(crate) fn ticks(cpu: Duration) -> u32 {
    u32::try_from(cpu.as_millis() / crate::machine::TICK.as_millis())
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_flood_is_cut_to_its_rate() {
        let budget = LogBudget::default();
        let written = (0..10_000).filter(|_| budget.take(10)).count();
        assert!((20..30).contains(&written), "a burst of twice the rate, then the rate: {written}");
    }

    #[test]
    fn memory_is_counted_over_all_memories() {
        let mut memory = Memory {
            bytes: 0,
            bytes_max: 100,
            table_elements: 0,
            table_elements_max: 10,
        };
        assert!(memory.memory_growing(0, 60, None).unwrap());
        assert!(memory.memory_growing(0, 40, None).unwrap());
        assert!(memory.memory_growing(40, 41, None).is_err());
        assert!(memory.table_growing(0, 11, None).is_err());
    }
}
