//! The recorder behind `/metrics`, and what the process says of itself.
//!
//! Every crate describes and registers its own metrics at 0; buckets are chosen here, once per family, since a dashboard's
//! histograms must not change shape with a configuration.

use std::{fs, time::Duration};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{failure::Failure, version};

/// How often histograms are folded together and the process is looked at. Without it they would grow until somebody scrapes.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// From a socket's to a disk's times: 0.5 ms to 10 s.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One commit of the log: a disk without a cache to a broken one.
const COMMIT_SECONDS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// A call of a plugin: a reused instance to its deadline.
const PLUGIN_SECONDS: [f64; 13] = [
    0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.02, 0.05, 0.25, 1.0,
];

/// How many at once.
const COUNTS: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 5_000.0];

/// Sizes, 64 B to 4 MiB.
const BYTES: [f64; 9] = [64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0];

/// Whatever a plugin observes.
const CUSTOM: [f64; 10] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0];

/// Installs the process's recorder.
pub fn install() -> Result<PrometheusHandle, Failure> {
    builder().install_recorder().map_err(|error| Failure::failed(format!("metrics: {error}")))
}

fn builder() -> PrometheusBuilder {
    let full = |name: &str| Matcher::Full(name.into());
    let families: [(Matcher, &[f64]); 8] = [
        (full("haggle_lane_commit_seconds"), &COMMIT_SECONDS),
        (full("haggle_store_op_seconds"), &COMMIT_SECONDS),
        (full("haggle_plugin_call_seconds"), &PLUGIN_SECONDS),
        (full("haggle_plugin_pool_wait_seconds"), &PLUGIN_SECONDS),
        (full("haggle_lane_commit_entries"), &COUNTS),
        (full("haggle_plugin_custom_observed"), &CUSTOM),
        (Matcher::Suffix("_bytes".into()), &BYTES),
        (Matcher::Suffix("_seconds".into()), &SECONDS),
    ];
    let builder = PrometheusBuilder::new().with_recommended_naming(true);
    families.into_iter().fold(builder, |builder, (matcher, buckets)| {
        builder
            .set_buckets_for_metric(matcher, buckets)
            .expect("every list of buckets has entries")
    })
}

/// Describes and registers what the process says of itself.
pub fn describe() {
    describe_gauge!("haggle_build_info", "1; version and commit of this build");
    describe_gauge!("haggle_ready", "1 while /readyz says 200");
    describe_gauge!("haggle_runtime_workers", "Worker threads");
    describe_gauge!("haggle_runtime_tasks", "Tasks that are alive");
    describe_gauge!("haggle_runtime_queue_depth", "Tasks that wait for any worker");
    describe_gauge!("process_resident_memory_bytes", Unit::Bytes, "Memory that the process holds");
    describe_gauge!("process_open_fds", "Open files and sockets");
    describe_gauge!("process_max_fds", "How many it may open");
    describe_gauge!("process_start_time_seconds", Unit::Seconds, "When it started, since the Unix epoch");
    describe_counter!("process_cpu_seconds_total", Unit::Seconds, "Time on the CPU");
    gauge!("haggle_build_info", "version" => version::VERSION, "commit" => version::COMMIT).set(1.0);
    gauge!("haggle_ready").set(0.0);
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    gauge!("process_start_time_seconds").set(started.as_secs_f64());
}

/// Looks at the process and the runtime. Call inside the runtime.
pub fn sample() {
    let runtime = tokio::runtime::Handle::current().metrics();
    gauge!("haggle_runtime_workers").set(runtime.num_workers() as f64);
    gauge!("haggle_runtime_tasks").set(runtime.num_alive_tasks() as f64);
    gauge!("haggle_runtime_queue_depth").set(runtime.global_queue_depth() as f64);
    gauge!("process_resident_memory_bytes").set(resident_bytes());
    gauge!("process_open_fds").set(open_files() as f64);
    gauge!("process_max_fds").set(open_files_max().map_or(0.0, |max| max as f64));
    // Whole seconds: the counter has no finer steps.
    counter!("process_cpu_seconds_total").absolute(cpu_seconds());
}

fn resident_bytes() -> f64 {
    let pages = fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split_whitespace().nth(1)?.parse::<u64>().ok());
    (pages.unwrap_or(0) * rustix::param::page_size() as u64) as f64
}

fn open_files() -> u64 {
    // From Linux 6.2 on the size of the folder is their number. Before, it is 0, and each is listed, the folder itself too.
    match fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len()) {
        0 => fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1) as u64),
        count => count,
    }
}

/// How many files the process may open; `None`: as many as it likes.
pub fn open_files_max() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

fn cpu_seconds() -> u64 {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(usage.tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_says_is_there_from_the_start() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        metrics::with_local_recorder(&recorder, || {
            describe();
            runtime.block_on(async { sample() });
        });
        let page = handle.render();
        for name in [
            "haggle_build_info{",
            "process_open_fds ",
            "process_cpu_seconds_total ",
            "haggle_runtime_workers 1",
        ] {
            assert!(page.contains(name), "{name} is missing in\n{page}");
        }
        let resident = page
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "))
            .expect("resident memory");
        assert!(resident.parse::<f64>().expect("a number") > 100_000.0);
    }

    #[test]
    fn histograms_have_buckets_of_their_family() {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("haggle_plugin_call_seconds").record(0.000_003);
            metrics::histogram!("haggle_anything_seconds").record(0.003);
        });
        let page = handle.render();
        assert!(page.contains("haggle_plugin_call_seconds_bucket{le=\"0.000005\"} 1"), "{page}");
        assert!(page.contains("haggle_anything_seconds_bucket{le=\"0.0025\"} 0"), "{page}");
    }
}
