//! Counters and observations, exported as `haggle_plugin_custom_*` with the label `plugin`.

use super::host;

/// Adds 1 to a counter. Names end in `_total` and never contain input.
pub fn count(name: &str) {
    count_by(name, 1);
}

/// Adds to a counter.
pub fn count_by(name: &str, by: u64) {
    // A metric that cannot be written is no reason to refuse a message.
    let _ = host!(Metrics.metric_count(name, by));
}

/// Adds an observation to a histogram. Names carry the unit: `quote_seconds`.
pub fn observe(name: &str, value: f64) {
    let _ = host!(Metrics.metric_observe(name, value));
}
