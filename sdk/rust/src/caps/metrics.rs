//! Counters and observations of this plugin, exported as `haggle_plugin_custom_total` and `haggle_plugin_custom_observed` with
//! the labels `plugin` and `name`. Names are lower-case words with underscores, few, and never made of input.

use super::host;

/// Adds 1 to a counter.
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
