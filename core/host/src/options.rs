//! What an operator sets.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{grants::Policy, manifest::PluginLimits};

/// How the host runs.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// One folder per plugin, or flat pairs `<id>.toml` and its code. Made where it is missing.
    pub plugins_dir: PathBuf,
    /// Where compiled code is kept between starts; `None` compiles every time. Made with mode 0700 where it is missing.
    pub cache_dir: Option<PathBuf>,
    /// What plugins may be granted.
    pub policy: Policy,
    /// Maxima over all plugins.
    pub limits: HostLimits,
    /// Per plugin id: values over its `[config]`.
    pub config: BTreeMap<String, serde_json::Map<String, serde_json::Value>>,
    /// How often [`PluginHost::watch`](crate::PluginHost::watch) looks for changed files.
    pub watch_interval: Duration,
    /// Traps show source files and lines where the code carries them; that costs memory.
    pub dev: bool,
}

impl HostOptions {
    /// Plugins from `plugins_dir`, everything else by default, no cache.
    pub fn new(plugins_dir: impl Into<PathBuf>) -> HostOptions {
        HostOptions {
            plugins_dir: plugins_dir.into(),
            cache_dir: None,
            policy: Policy::default(),
            limits: HostLimits::default(),
            config: BTreeMap::new(),
            watch_interval: Duration::from_secs(1),
            dev: false,
        }
    }
}

/// Maxima of the operator. A manifest that wants more gets these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// Code of one plugin, in bytes.
    pub code_bytes_max: usize,
    /// Instances of all plugins together.
    pub instances_max: u32,
    /// Linear memory of one instance, in MiB.
    pub memory_mb_max: u32,
    /// CPU time of one call, in milliseconds.
    pub cpu_ms_max: u32,
    /// Wall-clock time of one call, in milliseconds.
    pub wall_ms_max: u32,
    /// CPU and wall-clock time of the first start of a plugin (`lifecycle.init` included), in milliseconds.
    pub init_ms_max: u32,
    /// Elements of all tables of one instance.
    pub table_elements_max: usize,
    /// Names of custom metrics per plugin.
    pub custom_metrics_max: usize,
    /// Log lines per plugin and second; twice as many in a burst.
    pub log_lines_per_second_max: u32,
    /// One log line, in bytes; what is longer is cut.
    pub log_line_bytes_max: usize,
    /// Reserve memory for all instances at the start. Without it (or where address space is short) instances map their own.
    pub pooling: bool,
}

impl Default for HostLimits {
    fn default() -> HostLimits {
        HostLimits {
            code_bytes_max: 20 * 1024 * 1024,
            instances_max: 256,
            memory_mb_max: 256,
            cpu_ms_max: 1_000,
            wall_ms_max: 10_000,
            init_ms_max: 5_000,
            table_elements_max: 20_000,
            custom_metrics_max: 100,
            log_lines_per_second_max: 100,
            log_line_bytes_max: 1_024,
            pooling: true,
        }
    }
}

impl HostLimits {
    /// A manifest's limits, none above the operator's.
    pub(crate) fn cap(&self, limits: &PluginLimits) -> PluginLimits {
        PluginLimits {
            memory_mb: limits.memory_mb.min(self.memory_mb_max),
            cpu_ms: limits.cpu_ms.min(self.cpu_ms_max),
            wall_ms: limits.wall_ms.min(self.wall_ms_max),
            max_instances: limits.max_instances.min(self.instances_max).max(1),
            ..limits.clone()
        }
    }
}
