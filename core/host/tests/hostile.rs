//! Plugins that mean harm, or lie about the contract: every call ends in time with a typed error, and nobody else notices.

mod support;

use std::time::{Duration, Instant};

use haggle_engine::ports::{HookError, Hooks, HttpRequest};
use haggle_host::{LoadError, PluginHost};
use haggle_model::ErrorCode;
use support::*;

/// What a call may take beyond its deadline. The best of some runs is held to it; all of them to [`NOISE`].
const SLACK: Duration = Duration::from_millis(5);
/// What a busy machine may add.
const NOISE: Duration = Duration::from_millis(500);
/// Deadline of the hostile hooks.
const DEADLINE: Duration = Duration::from_millis(30);
/// Where another bound must be met first, also on a busy machine.
const AMPLE: Duration = Duration::from_secs(2);
/// Fewer than open the breaker.
const RUNS: u32 = 4;
/// Times the runs are made again where the machine was too busy to tell.
const ROUNDS: u32 = 10;

/// Loads the guest beside a well-behaved one and calls it: each call must end in time with this kind.
async fn check(id: &str, rest: &str, wasm: &[u8], kind: &str) {
    check_within(DEADLINE, id, rest, wasm, kind).await;
}

async fn check_within(deadline: Duration, id: &str, rest: &str, wasm: &[u8], kind: &str) {
    // One at a time: these tests measure, and some of them spin.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let (_bench, host) = hostile(deadline, id, rest, wasm).await;
    let (mut best, mut runs) = (Duration::MAX, 0);
    while best > deadline + SLACK && runs < ROUNDS * RUNS {
        for _ in 0..RUNS {
            best = best.min(abuse(&host, deadline, id, kind).await);
            runs += 1;
        }
        host.reload(id).await.expect("it loads again, with a fresh breaker");
    }
    assert!(best <= deadline + SLACK, "{id} took {best:?} at best");
    assert_eq!(
        metric("haggle_plugin_calls_total", &[("plugin", id), ("outcome", kind)]),
        Some(f64::from(runs))
    );
    let status = host.list().into_iter().find(|plugin| plugin.id == id).unwrap().running.unwrap();
    assert_eq!(status.instances_busy, 0, "{id} holds an instance");
}

/// One call that must fail in this way; how long it took.
async fn abuse(host: &PluginHost, deadline: Duration, id: &str, kind: &str) -> Duration {
    let since = Instant::now();
    let refusal = send(host, &FakeScope::new(), "bad").await.unwrap_err();
    let took = since.elapsed();
    assert!(took <= deadline + NOISE, "{id} took {took:?}");
    assert_eq!(refusal.code, ErrorCode::PluginError, "{refusal}");
    assert_eq!(*refusal.plugin.unwrap(), (id.to_owned(), kind.to_owned()));
    assert_unharmed(host).await;
    took
}

/// A host with the hostile guest and with `canary`, which is asked for other kinds of message only.
async fn hostile(deadline: Duration, id: &str, rest: &str, wasm: &[u8]) -> (Bench, PluginHost) {
    let bench = Bench::new();
    let deadline_ms = deadline.as_millis();
    let hook = format!("[hooks]\nbefore-message = {{ kinds = [\"text\"], deadline_ms = {deadline_ms} }}\n");
    bench.put(id, &format!("{hook}{rest}"), wasm);
    bench.put("canary", "[hooks]\nbefore-message = { kinds = [\"image\"] }", &canary());
    let host = bench.start().await;
    let status = host.list();
    assert!(status.iter().all(|plugin| plugin.active), "{status:?}");
    (bench, host)
}

/// Fills a page of its memory at its start, and rejects when a byte of it ever changes.
fn canary() -> Vec<u8> {
    let functions = r#"
        (global $filled (mut i32) (i32.const 0))
        (func $sum (result i32) (local $at i32) (local $sum i32)
            (local.set $at (i32.const 4096))
            (loop $next
                (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (i32.load (local.get $at))))
                (local.set $at (i32.add (local.get $at) (i32.const 4)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 65536))))
            (local.get $sum))
    "#;
    let decide = r#"
        (if (i32.eqz (global.get $filled)) (then
            (memory.fill (i32.const 4096) (i32.const 0x5a) (i32.const 61440))
            (global.set $filled (call $sum))))
        (if (i32.ne (global.get $filled) (call $sum)) (then (i32.store8 (i32.const 512) (i32.const 2))))
        (i32.const 512)
    "#;
    decides("", functions, decide)
}

async fn assert_unharmed(host: &PluginHost) {
    let mut image = draft("other");
    image.kind = "image".into();
    let since = Instant::now();
    let mut after = image.clone();
    let deciders = host
        .plan()
        .before_message(&FakeScope::new(), &mut after, &[])
        .await
        .expect("the canary lets it through");
    assert!(since.elapsed() < NOISE);
    assert_eq!((after, deciders.len()), (image, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_loop_ends_by_cpu_time() {
    check_within(
        AMPLE,
        "loops",
        "[limits]\ncpu_ms = 500", // were each tick as late as the first may be, the deadline came before
        &decides("", "", "(loop $l (br $l)) unreachable"),
        "cpu",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_loop_with_cpu_to_spare_ends_by_the_deadline() {
    check(
        "loops-long",
        "[limits]\ncpu_ms = 1000",
        &decides("", "", "(loop $l (br $l)) unreachable"),
        "timeout",
    )
    .await;
}

#[tokio::test]
async fn endless_loop_lets_others_run_on_the_same_thread() {
    let (_bench, host) = hostile(
        DEADLINE,
        "loops-alone",
        "[limits]\ncpu_ms = 1000",
        &decides("", "", "(loop $l (br $l)) unreachable"),
    )
    .await;
    let ticking = tokio::spawn(async {
        let mut ticks = 0;
        let since = Instant::now();
        while since.elapsed() < DEADLINE {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticks += 1;
        }
        ticks
    });
    assert!(send(&host, &FakeScope::new(), "bad").await.is_err());
    assert!(ticking.await.unwrap() >= 3, "one thread serves both");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_after_the_deadline_is_no_answer() {
    // About 60 ms of counting, then a perfectly good answer.
    let count = "(local $i i64) (loop $l (local.set $i (i64.add (local.get $i) (i64.const 1)))
        (br_if $l (i64.lt_u (local.get $i) (i64.const 4000000000))))";
    check(
        "late",
        "[limits]\ncpu_ms = 1000",
        &decides("", "", &format!("{count} {CONTINUE}")),
        "timeout",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loop_in_host_calls_ends_by_their_number() {
    let body = "(loop $l (call $kv_get (i32.const 16) (i32.const 1) (i32.const 256)) (br $l)) unreachable";
    check(
        "calls",
        "[grants]\nkv = true",
        &decides(KV_GET, "(data (i32.const 16) \"k\")", body),
        "host_calls",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kv_flood_ends_by_its_bytes() {
    let set = "(call $kv_set (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 0) (i32.const 0) (i32.const 256))";
    let body = format!("(loop $l {set} (br $l)) unreachable");
    check(
        "floods-kv",
        "[grants]\nkv = true",
        &decides(KV_SET, "(data (i32.const 16) \"k\")", &body),
        "host_calls",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_flood_is_cut() {
    let body = "(loop $l (call $log (i32.const 1) (i32.const 16) (i32.const 4)) (br $l)) unreachable";
    check(
        "floods-log",
        "[grants]\nlog = true",
        &decides(LOG, "(data (i32.const 16) \"spam\")", body),
        "host_calls",
    )
    .await;
    let dropped = metric("haggle_plugin_log_dropped_total", &[("plugin", "floods-log")]).unwrap();
    assert!(dropped >= 500.0, "of 1,024 lines {dropped} were dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metric_flood_makes_a_bounded_number_of_series() {
    // The name is a counter in letters: aaaa, baaa, caaa …
    let next = r#"(func $next_name (local $at i32)
        (local.set $at (i32.const 16))
        (loop $carry
            (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
            (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 122)) (then
                (i32.store8 (local.get $at) (i32.const 97))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $carry)))))
        (data (i32.const 16) "aaaa")"#;
    let body = "(loop $l (call $next_name) (call $count (i32.const 16) (i32.const 4) (i64.const 1)) (br $l)) unreachable";
    check("floods-metrics", "[grants]\nmetrics = true", &decides(COUNT, next, body), "host_calls").await;
    let text = recorder().render();
    let series = text
        .lines()
        .filter(|line| line.starts_with("haggle_plugin_custom_total") && line.contains("floods-metrics"))
        .count();
    assert_eq!(series, 100);
    assert!(metric("haggle_plugin_custom_dropped_total", &[("plugin", "floods-metrics")]).unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_bomb_ends_by_its_memory() {
    let body = "(loop $l (drop (memory.grow (i32.const 16))) (br $l)) unreachable";
    check("eats-memory", "[limits]\nmemory_mb = 16", &decides("", "", body), "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_bomb_ends_by_its_memory() {
    let body = "(loop $l (drop (table.grow $t (ref.null func) (i32.const 1000))) (br $l)) unreachable";
    check("eats-tables", "", &decides("", "(table $t 1 funcref)", body), "memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_recursion_is_a_trap() {
    check(
        "recurses",
        "",
        &decides("", "(func $down (call $down) (call $down))", "(call $down) unreachable"),
        "trap",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_trap_that_says_what_the_guest_said() {
    let panic = "(call $log (i32.const 3) (i32.const 16) (i32.const 21)) unreachable";
    let wasm = guest(LOG, &["after-message"], &told("(data (i32.const 16) \"panicked at lib.rs:12:\")", panic));
    let (_bench, host) = Bench::with("panics", "[grants]\nlog = true", &wasm).await;
    let error = tell(&host, "panics").await.unwrap_err();
    assert_eq!((error.kind, error.hook), ("trap", "after-message"));
    assert!(
        error.message.contains("panicked at lib.rs:12") && error.message.contains("unreachable"),
        "{}",
        error.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn division_by_zero_and_bad_access_are_traps() {
    check("divides", "", &decides("", "", "(i32.div_u (i32.const 1) (i32.const 0))"), "trap").await;
    check("reaches", "", &decides("", "", "(i32.load (i32.const 0x7ffffff0))"), "trap").await;
}

/// `after-message` (one pointer in, one out) with this body.
fn told(functions: &str, body: &str) -> String {
    format!(r#"{functions} (func (export "haggle:plugin/after-message@0.1.0#handle") (param $args i32) (result i32) {body})"#)
}

async fn tell(host: &PluginHost, plugin: &str) -> Result<(), HookError> {
    host.plan().after(&FakeScope::new(), &plugin.into(), &support_message()).await
}

fn support_message() -> haggle_engine::ports::After {
    let content = haggle_model::Content {
        kind: "text".into(),
        text: "hello".into(),
        ..Default::default()
    };
    let message = haggle_store::MessageRow {
        id: "0123456789abcdef00000007".parse().unwrap(),
        sender: "ann".into(),
        content,
        n: 1,
        created_at: 1,
        rev: 7,
        edited_at: None,
        deleted_at: None,
        reactions: Vec::new(),
        updated_at: 1,
        command: None,
    };
    haggle_engine::ports::After::Message {
        op: haggle_engine::ports::Op::Send,
        message,
    }
}

#[tokio::test]
async fn an_after_hook_that_says_error_is_told_again_and_is_no_fault() {
    // result<_, string>: 1, then pointer and length.
    let body = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const 16)) (i32.store (i32.const 520) (i32.const 4)) (i32.const 512)";
    let wasm = guest("", &["after-message"], &told("(data (i32.const 16) \"busy\")", body));
    let (_bench, host) = Bench::with("errs", "", &wasm).await;
    for _ in 0..10 {
        let error = tell(&host, "errs").await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), ("error", "busy"), "never `breaker`: it answers");
    }
    assert_eq!(tell(&host, "nobody").await.unwrap_err().kind, "gone");
}

// ---- loading -------------------------------------------------------------------------------------------------------

/// The plugin is refused with these words, and the others run.
async fn check_refused(id: &str, rest: &str, wasm: &[u8], words: &str) {
    let bench = Bench::new();
    bench.put(id, rest, wasm);
    bench.put("canary", "[hooks]\nbefore-message = { kinds = [\"image\"] }", &canary());
    let since = Instant::now();
    let host = bench.start().await;
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let status = host.list().into_iter().find(|plugin| plugin.id == id).unwrap();
    let error = status.error.expect("it is refused");
    assert!(!status.active && error.contains(words), "{error} does not say {words}");
    assert_unharmed(&host).await;
    assert_eq!(metric("haggle_plugin_loads_total", &[("plugin", id), ("outcome", "failed")]), Some(1.0));
}

fn with_init(init: &str) -> Vec<u8> {
    let body = format!(
        r#"(func (export "haggle:plugin/lifecycle@0.1.0#init") (param i32 i32) (result i32) {init})
        (func (export "haggle:plugin/before-message@0.1.0#handle") (param i32) (result i32) {CONTINUE})"#
    );
    guest("", &["lifecycle", "before-message"], &body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trap_in_init_refuses_the_version() {
    check_refused("init-traps", "", &with_init("unreachable"), "trial start failed: trap: init:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_init_is_ended() {
    let bench = Bench::new();
    bench.put("init-loops", "", &with_init("(loop $l (br $l)) unreachable"));
    let mut options = bench.options.clone();
    options.limits.init_ms_max = 100;
    let since = Instant::now();
    let host = PluginHost::start(options).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(5));
    let error = host.list()[0].error.clone().unwrap();
    assert!(
        error.contains("trial start failed: timeout") || error.contains("trial start failed: cpu"),
        "{error}"
    );
}

#[tokio::test]
async fn an_error_of_init_is_shown() {
    let init = "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) (i32.const 512)) (i32.store (i32.const 520) (i32.const 0)) (i32.const 512)";
    check_refused("init-errs", "", &with_init(init), "trial start failed: error: init:").await;
}

#[tokio::test]
async fn a_trap_in_the_start_function_refuses_the_version() {
    let body = "(func $s unreachable) (start $s)";
    check_refused("start-traps", "", &decides("", body, CONTINUE), "trial start failed: trap").await;
}

#[tokio::test]
async fn another_contract_version_is_named() {
    let contract = contract().replace("haggle:plugin@0.1.0", "haggle:plugin@0.3.0");
    let body = r#"(func (export "haggle:plugin/before-message@0.3.0#handle") (param i32) (result i32) (i32.const 512))"#;
    let wasm = guest_of(&contract, "0.3.0", "", &["before-message"], body);
    check_refused("from-the-future", "", &wasm, "built for haggle:plugin 0.3, this host speaks 0.1").await;
}

#[tokio::test]
async fn another_shape_of_the_same_version_is_refused() {
    let contract = contract().replace("variant decision { continue,", "variant decision { later, continue,");
    let body = r#"(func (export "haggle:plugin/before-message@0.1.0#handle") (param i32) (result i32) (i32.const 512))"#;
    check_refused(
        "other-shape",
        "",
        &guest_of(&contract, "0.1.0", "", &["before-message"], body),
        "build it again with the SDK of this release (expected variant of 3 cases",
    )
    .await;
}

#[tokio::test]
async fn missing_exports_and_unknown_imports_are_refused() {
    check_refused("no-hooks", "", &guest("", &[], ""), "exports no hook").await;
    let wasi = wat::parse_str("(module (import \"wasi_snapshot_preview1\" \"proc_exit\" (func (param i32))))").unwrap();
    check_refused("wants-wasi", "", &wasi, "run without WASI").await;
    let other = wat::parse_str("(component (import \"haggle:plugin/files@0.1.0\" (instance)))").unwrap();
    check_refused("wants-files", "", &other, "there is no capability `files`").await;
}

#[tokio::test]
async fn imports_without_grants_are_refused() {
    let wasm = decides(KV_GET, "", CONTINUE);
    check_refused(
        "not-asked",
        "",
        &wasm,
        "imports kv without asking: add to [grants] in plugin.toml: kv = true",
    )
    .await;

    let bench = Bench::new();
    bench.put("not-allowed", "[grants]\nkv = true", &wasm);
    let mut options = bench.options.clone();
    options.policy.plugins.insert("not-allowed".into(), [].into());
    let host = PluginHost::start(options).await.unwrap();
    assert!(host.list()[0].error.as_ref().unwrap().contains("the operator's policy does not allow kv"));
}

#[tokio::test]
async fn settings_for_what_is_not_there_are_refused() {
    check_refused(
        "no-command",
        "[hooks]\ncommand = { names = [\"x\"] }",
        &allows(),
        "settings for the hook command",
    )
    .await;
    check_refused(
        "no-http",
        "[[routes]]\nmethod = \"GET\"\npath = \"x\"\naccess = \"user\"",
        &allows(),
        "names routes",
    )
    .await;
}

#[tokio::test]
async fn code_beyond_the_cap_is_not_even_read() {
    let mut wasm = allows();
    wasm.resize(20 * 1024 * 1024 + 1, 0);
    check_refused("huge", "", &wasm, "more than 20971520 bytes").await;
    check_refused("no-wasm", "", b"hello", "not WebAssembly").await;
    check_refused(
        "too-much-memory",
        "[limits]\nmemory_mb = 1",
        &decides(
            "",
            "(func (export \"x\") (drop (memory.grow (i32.const 64))))  (func $s (drop (memory.grow (i32.const 64)))) (start $s)",
            CONTINUE,
        ),
        "wants",
    )
    .await;
}

#[tokio::test]
async fn two_plugins_cannot_claim_one_kind() {
    let bench = Bench::new();
    bench.put("a-first", "claims = [\"offer\"]", &allows());
    bench.put("b-second", "claims = [\"offer\"]", &allows());
    let host = bench.start().await;
    assert_eq!(host.plan().claims("offer").unwrap().as_str(), "a-first");
    let second = &host.list()[1];
    assert!(
        second.error.as_ref().unwrap().contains("`offer` belongs to the plugin a-first already"),
        "{second:?}"
    );
    assert_eq!(host.reload("nobody").await.unwrap_err(), LoadError::NotFound("nobody".into()));
}

// ---- lies about the contract ---------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_out_of_bounds_are_refused() {
    check("points-outside", "", &decides("", "", "(i32.const 0x7ffffff0)"), "output").await;
    check("points-crooked", "", &decides("", "", "(i32.const 513)"), "output").await;
    check(
        "unknown-case",
        "",
        &decides("", "", "(i32.store8 (i32.const 512) (i32.const 77)) (i32.const 512)"),
        "output",
    )
    .await;
    let reject = |pointer: u32, len: u32| {
        format!(
            "(i32.store8 (i32.const 512) (i32.const 2)) (i32.store (i32.const 516) (i32.const {pointer})) (i32.store (i32.const 520) (i32.const {len})) (i32.const 512)"
        )
    };
    check("string-outside", "", &decides("", "", &reject(16, 0x7fff_ffff)), "output").await;
    check("string-at-the-end", "", &decides("", "", &reject(0xffff_fff0, 16)), "output").await;
    check(
        "no-utf8",
        "",
        &decides("", "(data (i32.const 16) \"\\ff\\fe\")", &reject(16, 2)),
        "output",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_break_the_rules_are_refused() {
    // The rewrite's `reply-to`, from its flag on.
    let reply = "(i32.store8 (i32.const 544) (i32.const 1)) (i32.store (i32.const 548) (i32.const 16)) (i32.store (i32.const 552) (i32.const 4))";
    let no_id = format!("(drop {}) {reply} (i32.const 512)", replace(4));
    check("answers-nothing", "", &decides("", "(data (i32.const 16) \"text\")", &no_id), "output").await;
    let big = format!(
        "(drop (memory.grow (i32.const 32))) (memory.fill (i32.const 131072) (i32.const 65) (i32.const 1048576)) {}",
        replace(1_048_576).replace(
            "(i32.store (i32.const 524) (i32.const 16))",
            "(i32.store (i32.const 524) (i32.const 131072))"
        )
    );
    check("says-too-much", "", &decides("", "", &big), "output").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn allocators_that_lie_are_ended() {
    let log = "[grants]\nlog = true";
    check("alloc-outside", log, &allocates(LOG, "(i32.const 0x7ffffff0)"), "output").await;
    check("alloc-crooked", log, &allocates(LOG, "(i32.const 65537)"), "output").await;
    check("alloc-traps", log, &allocates(LOG, "unreachable"), "trap").await;
    check_within(
        AMPLE,
        "alloc-loops",
        &format!("{log}\n[limits]\ncpu_ms = 10"),
        &allocates(LOG, "(loop $l (br $l)) unreachable"),
        "cpu",
    )
    .await;
    check(
        "alloc-calls-back",
        log,
        &allocates(LOG, "(call $log (i32.const 1) (i32.const 0) (i32.const 0)) (i32.const 65536)"),
        "trap",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_strings_do_not_multiply() {
    // 65,536 headers whose names and values are all the same 64 KiB: 8 GiB if they were believed.
    let http = r#"
        (func (export "haggle:plugin/http@0.1.0#handle") (param $args i32) (result i32) (local $at i32)
            (drop (memory.grow (i32.const 17)))
            (local.set $at (i32.const 131072))
            (loop $next
                (i32.store (local.get $at) (i32.const 0)) (i32.store offset=4 (local.get $at) (i32.const 65536))
                (i32.store offset=8 (local.get $at) (i32.const 0)) (i32.store offset=12 (local.get $at) (i32.const 65536))
                (local.set $at (i32.add (local.get $at) (i32.const 16)))
                (br_if $next (i32.lt_u (local.get $at) (i32.const 1179648))))
            (i32.store16 (i32.const 512) (i32.const 200))
            (i32.store (i32.const 516) (i32.const 131072)) (i32.store (i32.const 520) (i32.const 65536))
            (i32.const 512))
    "#;
    let (_bench, host) = Bench::with("multiplies", "", &guest("", &["http"], http)).await;
    let request = HttpRequest {
        method: "GET".into(),
        path: "/x".into(),
        params: Vec::new(),
        query: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    let before = resident_bytes();
    let error = host.plan().http(&FakeScope::new(), &"multiplies".into(), request).await.unwrap_err();
    assert_eq!(error.kind, "output", "{error}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 * 1024 * 1024, "the host grew by {grown} bytes");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// A guest that hands back whatever bytes it reads from kv: as the answer's address, or as the answer itself.
fn parrot() -> Vec<u8> {
    let decide = r#"
        (call $kv_get (i32.const 16) (i32.const 1) (i32.const 256))
        (memory.fill (i32.const 1024) (i32.const 0) (i32.const 1024))
        (memory.copy (i32.const 1024) (i32.load (i32.const 264)) (i32.load (i32.const 268)))
        (if (result i32) (i32.load8_u (i32.const 1024)) (then (i32.load (i32.const 1028))) (else (i32.const 1032)))
    "#;
    decides(KV_GET, "(data (i32.const 16) \"k\")", decide)
}

/// What the host may hold more after any number of lies: instances of a guest come and go.
const GROWTH_MAX: u64 = 256 * 1024 * 1024;

/// xorshift: the same cases in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Numbers that are often small, near the memory's end, or near the end of all addresses.
    fn number(&mut self) -> u32 {
        let any = self.next() as u32;
        match self.next() % 4 {
            0 => any % 64,
            1 => 131_072_u32.wrapping_sub(any % 64),
            2 => any % 131_072,
            _ => any,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_answers_never_harm_the_host() {
    // A run of a million takes minutes: CI runs some, whoever touches the boundary all of them (CONTRIBUTING).
    let cases: u32 = std::env::var("HAGGLE_FUZZ_CASES").map_or(5_000, |cases| cases.parse().expect("HAGGLE_FUZZ_CASES is a number"));
    let resident = resident_bytes();
    let (_bench, host) = hostile(AMPLE, "parrot", "[grants]\nkv = true\n[limits]\nwall_ms = 200", &parrot()).await;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut good, mut bad) = (0, 0);
    for case in 0..cases {
        let mut bytes = vec![u8::from(case % 4 == 0), 0, 0, 0];
        bytes.extend(random.number().to_le_bytes());
        bytes.push((random.next() % 4) as u8); // the case of the variant, once in four an unknown one
        bytes.extend([0; 3]);
        (0..30).for_each(|_| bytes.extend(random.number().to_le_bytes()));
        let scope = FakeScope::new();
        scope.world.kv.lock().insert(("parrot".into(), "k".into()), bytes);
        match send(&host, &scope, "x").await {
            Ok(_) => good += 1,
            Err(refusal) => {
                let kind = refusal.plugin.as_ref().unwrap().1.clone();
                let is_typed = refusal.code == ErrorCode::PluginRejected || ["output", "trap", "breaker"].contains(&kind.as_str());
                assert!(is_typed, "case {case}: {refusal}");
                bad += 1;
                if kind == "breaker" {
                    host.reload("parrot").await.unwrap(); // a fresh breaker: the fuzz goes on
                }
            }
        }
    }
    assert!(good > 100 && bad > 100, "{good} good and {bad} bad answers");
    let grown = resident_bytes().saturating_sub(resident);
    assert!(grown < GROWTH_MAX, "{cases} answers left {grown} bytes behind");
    println!("{good} good and {bad} bad answers, {grown} bytes more");
    assert_unharmed(&host).await;
}
