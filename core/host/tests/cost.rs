//! What a call costs. Prints figures; asserts only what no machine may exceed.

mod support;

use std::{fs, path::Path, time::Instant};

use haggle_engine::ports::Hooks;
use support::*;

/// A before-hook on a reused instance may cost so much even on a busy machine in a debug build, in nanoseconds.
const CALL_NS_MAX: u128 = 100_000;

/// Nanoseconds per call: the median of some rounds.
async fn measure(host: &haggle_host::PluginHost, what: &str) -> u128 {
    const CALLS: u32 = 2_000;
    let scope = FakeScope::within(std::time::Duration::from_secs(600));
    let plan = host.plan();
    let mut rounds = Vec::new();
    for _ in 0..15 {
        let since = Instant::now();
        for _ in 0..CALLS {
            plan.before_message(&scope, &mut draft(&"x".repeat(188)), &[]).await.unwrap();
        }
        rounds.push(since.elapsed().as_nanos() / u128::from(CALLS));
    }
    rounds.sort_unstable();
    let median = rounds[rounds.len() / 2];
    println!("{what}: {median} ns per call");
    median
}

#[tokio::test]
async fn a_call_costs_microseconds() {
    let limits = "[limits]\nrecycle_after = 1000000";
    let (_bench, none) = Bench::with("cost-none", "[hooks]\nbefore-message = { kinds = [\"image\"] }", &allows()).await;
    let base = measure(&none, "nobody is asked").await;
    let (_bench, host) = Bench::with("cost-allow", limits, &allows()).await;
    let allow = measure(&host, "continue").await;
    let (_bench, host) = Bench::with("cost-replace", limits, &replaces("other words")).await;
    measure(&host, "replace").await;
    let get = format!("(call $kv_get (i32.const 16) (i32.const 1) (i32.const 256)) {CONTINUE}");
    let reads = decides(KV_GET, "(data (i32.const 16) \"k\")", &get);
    let (_bench, host) = Bench::with("cost-read", &format!("[grants]\nkv = true\n{limits}"), &reads).await;
    measure(&host, "continue after one read of kv").await;
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench-plugins/bench-hook/bench-hook.wasm");
    let bench = Bench::new();
    bench.put(
        "cost-hook",
        &format!("[grants]\nlog = true\n{limits}"),
        &fs::read(built).unwrap_or_default(),
    );
    let host = bench.start().await;
    if host.list().iter().all(|plugin| plugin.active) {
        measure(&host, "the hook of workload W4").await;
    } else {
        println!("the hook of workload W4 is left out: build it with `cargo xtask plugins bench/hook-plugin`");
    }
    assert!(allow - base < CALL_NS_MAX);
}
