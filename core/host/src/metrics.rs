//! What operators see of plugins in Prometheus. Labels are plugin ids, hooks and fixed words, never user input.

use std::collections::HashMap;

use haggle_engine::ports::Hook;
use haggle_model::PluginId;
use metrics::{Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use parking_lot::Mutex;

use crate::{capabilities::HostFn, fault::Kind, grants::Capability};

/// One metric: its kind (`counter`, `gauge`, `histogram`), name, labels and meaning.
pub type Described = (&'static str, &'static str, &'static str, &'static str);

/// Every metric of this crate, for the docs.
pub const DESCRIBED: [Described; 18] = [
    (
        "counter",
        "haggle_plugin_calls_total",
        "plugin, hook, outcome",
        "Calls of handlers and how they ended.",
    ),
    (
        "histogram",
        "haggle_plugin_call_seconds",
        "plugin, hook",
        "Time of one call in the plugin, a start of its instance included.",
    ),
    (
        "counter",
        "haggle_plugin_host_calls_total",
        "plugin, fn, outcome",
        "Host functions called by plugins.",
    ),
    (
        "gauge",
        "haggle_plugin_instances",
        "plugin, state",
        "Live instances, sampled once a second.",
    ),
    (
        "counter",
        "haggle_plugin_instantiations_total",
        "plugin, reason",
        "New instances: cold, recycle or fault.",
    ),
    (
        "histogram",
        "haggle_plugin_pool_wait_seconds",
        "plugin",
        "Wait for a free instance, where one had to be waited for.",
    ),
    (
        "gauge",
        "haggle_plugin_memory_bytes",
        "plugin",
        "Linear memory of the instance that was given back last.",
    ),
    (
        "gauge",
        "haggle_plugin_breaker_open",
        "plugin, hook",
        "1 while a failing hook is not called.",
    ),
    (
        "counter",
        "haggle_plugin_loads_total",
        "plugin, outcome",
        "Loads of plugin versions: ok or failed.",
    ),
    ("histogram", "haggle_plugin_load_seconds", "stage", "Time of each step of a load."),
    (
        "counter",
        "haggle_plugin_compiles_total",
        "source",
        "Code made ready: compiled or from the cache.",
    ),
    ("gauge", "haggle_plugin_info", "plugin, version, abi, sha", "1 for the active version."),
    ("gauge", "haggle_plugins_active", "", "Active plugins."),
    ("gauge", "haggle_plugins_failed", "", "Plugins whose newest version could not be loaded."),
    (
        "counter",
        "haggle_plugin_log_dropped_total",
        "plugin",
        "Log lines dropped by the rate limit.",
    ),
    ("counter", "haggle_plugin_custom_total", "plugin, name", "Counters of plugins."),
    ("histogram", "haggle_plugin_custom_observed", "plugin, name", "Observations of plugins."),
    (
        "counter",
        "haggle_plugin_custom_dropped_total",
        "plugin",
        "Custom metrics dropped: a bad name or too many names.",
    ),
];

/// Describes every metric and registers those without a plugin at 0.
pub(crate) fn describe() {
    for (kind, name, _, meaning) in DESCRIBED {
        match kind {
            "counter" => describe_counter!(name, meaning),
            "gauge" => describe_gauge!(name, meaning),
            _ if name.ends_with("_seconds") => describe_histogram!(name, Unit::Seconds, meaning),
            _ => describe_histogram!(name, meaning),
        }
    }
    for source in ["compiled", "cache"] {
        counter!("haggle_plugin_compiles_total", "source" => source).increment(0);
    }
    gauge!("haggle_plugins_active").set(0.0);
    gauge!("haggle_plugins_failed").set(0.0);
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Continue,
    Replace,
    Reject,
    Ok,
    Fault(Kind),
}

const OUTCOMES: [Outcome; 13] = [
    Outcome::Continue,
    Outcome::Replace,
    Outcome::Reject,
    Outcome::Ok,
    Outcome::Fault(Kind::Trap),
    Outcome::Fault(Kind::Timeout),
    Outcome::Fault(Kind::Cpu),
    Outcome::Fault(Kind::Memory),
    Outcome::Fault(Kind::Output),
    Outcome::Fault(Kind::HostCalls),
    Outcome::Fault(Kind::Error),
    Outcome::Fault(Kind::Breaker),
    Outcome::Fault(Kind::Overloaded),
];

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Outcome::Continue => "continue",
            Outcome::Replace => "replace",
            Outcome::Reject => "reject",
            Outcome::Ok => "ok",
            Outcome::Fault(kind) => kind.as_str(),
        }
    }

    /// Outcomes that a hook can have, so that no impossible series is registered.
    fn fits(self, hook: Hook) -> bool {
        let decides = hook.as_str().starts_with("before-");
        match self {
            Outcome::Continue => decides,
            Outcome::Replace => matches!(hook, Hook::BeforeMessage | Hook::BeforeConversation),
            Outcome::Reject => decides || hook == Hook::Command,
            Outcome::Ok => !decides,
            Outcome::Fault(_) => true,
        }
    }
}

/// The metrics of one hook of one plugin.
pub(crate) struct HookMeters {
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
    breaker_open: Gauge,
}

impl HookMeters {
    fn new(plugin: &PluginId, hook: Hook) -> HookMeters {
        let plugin = plugin.to_string();
        let outcomes = OUTCOMES.map(|outcome| {
            if !outcome.fits(hook) {
                return Counter::noop();
            }
            let counter = counter!("haggle_plugin_calls_total", "plugin" => plugin.clone(), "hook" => hook.as_str(), "outcome" => outcome.as_str());
            counter.increment(0);
            counter
        });
        let breaker_open = gauge!("haggle_plugin_breaker_open", "plugin" => plugin.clone(), "hook" => hook.as_str());
        breaker_open.set(0.0);
        HookMeters {
            outcomes,
            seconds: histogram!("haggle_plugin_call_seconds", "plugin" => plugin, "hook" => hook.as_str()),
            breaker_open,
        }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        let index = OUTCOMES.iter().position(|known| *known == outcome);
        if let Some(index) = index {
            self.outcomes[index].increment(1);
        }
    }

    pub(crate) fn time(&self, seconds: f64) {
        self.seconds.record(seconds);
    }

    pub(crate) fn breaker(&self, open: bool) {
        self.breaker_open.set(if open { 1.0 } else { 0.0 });
    }
}

/// Why an instance was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Cold,
    Recycle,
    Fault,
}

/// The metrics of one plugin. Registered when it is loaded, at 0.
pub(crate) struct Meters {
    hooks: [Option<HookMeters>; Hook::ALL.len()],
    host_calls: HashMap<HostFn, [Counter; 2]>,
    instantiations: [Counter; 3],
    pub(crate) pool_wait: Histogram,
    pub(crate) memory: Gauge,
    pub(crate) idle: Gauge,
    pub(crate) busy: Gauge,
    pub(crate) log_dropped: Counter,
    custom_dropped: Counter,
    custom: Mutex<HashMap<String, Custom>>,
    custom_max: usize,
    plugin: String,
}

enum Custom {
    Count(Counter),
    Observe(Histogram),
}

/// Longest name of a custom metric, in bytes.
const CUSTOM_NAME_BYTES_MAX: usize = 64;

impl Meters {
    pub(crate) fn new(plugin: &PluginId, hooks: &[Hook], imports: impl Iterator<Item = Capability>, custom_max: usize) -> Meters {
        let label = plugin.to_string();
        let zero = |counter: Counter| {
            counter.increment(0);
            counter
        };
        let instance = |state: &'static str| gauge!("haggle_plugin_instances", "plugin" => label.clone(), "state" => state);
        let started = |reason: &'static str| zero(counter!("haggle_plugin_instantiations_total", "plugin" => label.clone(), "reason" => reason));
        let host_call = |function: HostFn| {
            let counted = |outcome: &'static str| {
                zero(counter!("haggle_plugin_host_calls_total", "plugin" => label.clone(), "fn" => function.as_str(), "outcome" => outcome))
            };
            (function, [counted("ok"), counted("error")])
        };
        Meters {
            hooks: Hook::ALL.map(|hook| hooks.contains(&hook).then(|| HookMeters::new(plugin, hook))),
            host_calls: imports.flat_map(HostFn::of).map(host_call).collect(),
            instantiations: [started("cold"), started("recycle"), started("fault")],
            pool_wait: histogram!("haggle_plugin_pool_wait_seconds", "plugin" => label.clone()),
            memory: gauge!("haggle_plugin_memory_bytes", "plugin" => label.clone()),
            idle: instance("idle"),
            busy: instance("busy"),
            log_dropped: zero(counter!("haggle_plugin_log_dropped_total", "plugin" => label.clone())),
            custom_dropped: zero(counter!("haggle_plugin_custom_dropped_total", "plugin" => label.clone())),
            custom: Mutex::default(),
            custom_max,
            plugin: label,
        }
    }

    /// The metrics of a hook that the plugin exports.
    pub(crate) fn hook(&self, hook: Hook) -> &HookMeters {
        self.hooks[hook as usize]
            .as_ref()
            .expect("meters exist for every exported hook, and no other is called")
    }

    pub(crate) fn host_call(&self, function: HostFn, ok: bool) {
        if let Some(counters) = self.host_calls.get(&function) {
            counters[usize::from(!ok)].increment(1);
        }
    }

    pub(crate) fn instantiated(&self, reason: Reason) {
        self.instantiations[reason as usize].increment(1);
    }

    /// A counter of the plugin's own.
    pub(crate) fn custom_count(&self, name: &str, by: u64) {
        let make = |plugin: String, name: String| Custom::Count(counter!("haggle_plugin_custom_total", "plugin" => plugin, "name" => name));
        self.with_custom(name, make, |custom| match custom {
            Custom::Count(counter) => {
                counter.increment(by);
                true
            }
            Custom::Observe(_) => false,
        });
    }

    /// An observation of the plugin's own.
    pub(crate) fn custom_observe(&self, name: &str, value: f64) {
        let make = |plugin: String, name: String| Custom::Observe(histogram!("haggle_plugin_custom_observed", "plugin" => plugin, "name" => name));
        self.with_custom(name, make, |custom| match custom {
            Custom::Observe(histogram) if value.is_finite() => {
                histogram.record(value);
                true
            }
            _ => false,
        });
    }

    /// Names are bounded in form and number: a series once made is never freed.
    fn with_custom(&self, name: &str, make: impl FnOnce(String, String) -> Custom, apply: impl FnOnce(&Custom) -> bool) {
        let is_plain = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let mut custom = self.custom.lock();
        let may_be_made = custom.len() < self.custom_max && is_plain && (1..=CUSTOM_NAME_BYTES_MAX).contains(&name.len());
        if !custom.contains_key(name) && may_be_made {
            custom.insert(name.to_owned(), make(self.plugin.clone(), name.to_owned()));
        }
        if !custom.get(name).is_some_and(apply) {
            self.custom_dropped.increment(1);
        }
    }
}

/// Records a step of a load.
pub(crate) fn load_stage(stage: &'static str, seconds: f64) {
    histogram!("haggle_plugin_load_seconds", "stage" => stage).record(seconds);
}

/// Counts a load.
pub(crate) fn loaded(plugin: &str, ok: bool) {
    for (outcome, fits) in [("ok", ok), ("failed", !ok)] {
        counter!("haggle_plugin_loads_total", "plugin" => plugin.to_owned(), "outcome" => outcome).increment(u64::from(fits));
    }
}

/// Counts code made ready.
pub(crate) fn compiled(from_cache: bool) {
    counter!("haggle_plugin_compiles_total", "source" => if from_cache { "cache" } else { "compiled" }).increment(1);
}

/// Marks a version as active or not.
pub(crate) fn info(plugin: &PluginId, version: &str, abi: &str, sha: &str, active: bool) {
    let gauge = gauge!(
        "haggle_plugin_info",
        "plugin" => plugin.to_string(), "version" => version.to_owned(), "abi" => abi.to_owned(), "sha" => sha.to_owned()
    );
    gauge.set(if active { 1.0 } else { 0.0 });
}

/// Counts plugins by state.
pub(crate) fn plugins(active: usize, failed: usize) {
    gauge!("haggle_plugins_active").set(active as f64);
    gauge!("haggle_plugins_failed").set(failed as f64);
}
