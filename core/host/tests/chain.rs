//! The chain of before-hooks: order, filters, answers, failure policy, writes.

mod support;

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use haggle_engine::ports::{Facts, Hook, Hooks, HttpRequest};
use haggle_model::{ConversationKind, ErrorCode};
use support::*;

#[tokio::test]
async fn plugins_decide_in_the_order_of_their_priorities() {
    let bench = Bench::new();
    bench.put("last", "[hooks]\nbefore-message = { priority = 90 }", &replaces("third"));
    bench.put("first", "[hooks]\nbefore-message = { priority = 10 }", &replaces("first"));
    bench.put("middle", "[hooks]\nbefore-message = { priority = 50 }", &allows());
    let host = bench.start().await;
    let (draft, deciders) = send(&host, &FakeScope::new(), "hello").await.unwrap();
    assert_eq!(draft.text, "third");
    let names: Vec<_> = deciders.iter().map(|decider| decider.plugin.as_str()).collect();
    assert_eq!(names, ["first", "middle", "last"]);
    let digest = host
        .list()
        .into_iter()
        .find(|plugin| plugin.id == "first")
        .unwrap()
        .running
        .unwrap()
        .sha256;
    let short: String = deciders[0].digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(digest.starts_with(&short), "the message names the code that decided it");
    assert_eq!(deciders[0].version, "1.0.0");
}

#[tokio::test]
async fn what_is_replaced_keeps_everything_else() {
    let (_bench, host) = Bench::with("keeps", "", &replaces("other words")).await;
    let (after, _) = send(&host, &FakeScope::new(), "hello").await.unwrap();
    assert_eq!(
        after,
        haggle_engine::ports::Draft {
            text: "other words".into(),
            ..draft("")
        }
    );
}

#[tokio::test]
async fn a_rejection_names_plugin_and_code_and_ends_the_chain() {
    let bench = Bench::new();
    bench.put("refuses", "[hooks]\nbefore-message = { priority = 1 }", &rejects("slot_taken"));
    bench.put("never-asked", "", &replaces("x"));
    let host = bench.start().await;
    let refusal = send(&host, &FakeScope::new(), "hello").await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PluginRejected);
    assert_eq!(*refusal.plugin.unwrap(), ("refuses".to_owned(), "slot_taken".to_owned()));
    assert_eq!(&*refusal.message, "slot_taken");
    assert_eq!(
        metric("haggle_plugin_calls_total", &[("plugin", "refuses"), ("outcome", "reject")]),
        Some(1.0)
    );
    assert_eq!(
        metric("haggle_plugin_calls_total", &[("plugin", "never-asked"), ("outcome", "replace")]),
        Some(0.0),
        "registered, not called"
    );
}

#[tokio::test]
async fn skipped_and_filtered_plugins_are_not_entered() {
    let bench = Bench::new();
    bench.put("skipped", "", &rejects("no"));
    bench.put("other-kind", "[hooks]\nbefore-message = { kinds = [\"image\"] }", &rejects("no"));
    bench.put(
        "other-conversation",
        "[hooks]\nbefore-message = { conversations = [\"group\"] }",
        &rejects("no"),
    );
    bench.put("other-dialect", "[hooks]\nbefore-message = { dialects = [\"shop\"] }", &rejects("no"));
    let host = bench.start().await;
    let plan = host.plan();
    let mut hello = draft("hello");
    let deciders = plan.before_message(&FakeScope::new(), &mut hello, &["skipped".into()]).await.unwrap();
    assert!(deciders.is_empty());
    let facts = |conversation, message, dialect| Facts {
        conversation,
        message: Some(message),
        dialect,
    };
    assert!(plan.wants(Hook::BeforeMessage, &facts(ConversationKind::Direct, "text", "native")));
    assert!(!plan.wants(Hook::BeforeReaction, &facts(ConversationKind::Direct, "text", "native")));
}

#[tokio::test]
async fn a_failure_is_judged_by_the_policy_of_the_hook() {
    let bench = Bench::new();
    bench.put(
        "fails-open",
        "[hooks]\nbefore-message = { on_failure = \"allow\", priority = 1 }",
        &decides("", "", "unreachable"),
    );
    let host = bench.start().await;
    let (after, deciders) = send(&host, &FakeScope::new(), "hello").await.unwrap();
    assert_eq!(after.text, "hello");
    assert!(deciders.is_empty(), "who failed did not decide");

    bench.put("fails-closed", "", &decides("", "", "unreachable"));
    host.reload("fails-closed").await.unwrap();
    let refusal = send(&host, &FakeScope::new(), "hello").await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PluginError);
    assert_eq!(*refusal.plugin.unwrap(), ("fails-closed".to_owned(), "trap".to_owned()));
}

/// Sets the key `k` to `v`, then runs `then`.
fn writes(then: &str) -> Vec<u8> {
    let set = "(call $kv_set (i32.const 16) (i32.const 1) (i32.const 17) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 256))";
    decides(KV_SET, "(data (i32.const 16) \"kv\")", &format!("{set} {then}"))
}

#[tokio::test]
async fn writes_count_only_with_a_good_answer() {
    let kv = "[grants]\nkv = true\n[hooks]\nbefore-message = { on_failure = \"allow\" }";
    let (_bench, host) = Bench::with("writes-ok", kv, &writes(CONTINUE)).await;
    let scope = FakeScope::new();
    send(&host, &scope, "hello").await.unwrap();
    assert_eq!((scope.kept(), scope.value("writes-ok", "k")), (1, Some(b"v".to_vec())));
    assert_eq!(
        metric(
            "haggle_plugin_host_calls_total",
            &[("plugin", "writes-ok"), ("fn", "kv.set"), ("outcome", "ok")]
        ),
        Some(1.0)
    );

    let (_bench, host) = Bench::with("writes-trap", kv, &writes("unreachable")).await;
    let scope = FakeScope::new();
    send(&host, &scope, "hello").await.unwrap();
    assert_eq!((scope.kept(), scope.value("writes-trap", "k")), (0, None));

    let reject = "(i32.store8 (i32.const 512) (i32.const 2)) (i32.const 512)";
    let (_bench, host) = Bench::with("writes-reject", kv, &writes(reject)).await;
    let scope = FakeScope::new();
    let refusal = send(&host, &scope, "hello").await.unwrap_err();
    assert_eq!(refusal.plugin.unwrap().1, "rejected", "an empty code gets a name");
    assert_eq!(scope.kept(), 0);
}

#[tokio::test]
async fn grants_bound_values() {
    let (_bench, host) = Bench::with("small", "[grants]\nkv = { value_bytes_max = 0 }", &writes(CONTINUE)).await;
    let scope = FakeScope::new();
    send(&host, &scope, "hello").await.unwrap();
    assert_eq!(scope.value("small", "k"), None);
    assert_eq!(
        metric(
            "haggle_plugin_host_calls_total",
            &[("plugin", "small"), ("fn", "kv.set"), ("outcome", "error")]
        ),
        Some(1.0)
    );
}

/// Reads the key `k`, then continues.
fn reads() -> Vec<u8> {
    let get = "(call $kv_get (i32.const 16) (i32.const 1) (i32.const 256))";
    decides(KV_GET, "(data (i32.const 16) \"k\")", &format!("{get} {CONTINUE}"))
}

#[tokio::test]
async fn waiting_for_the_engine_is_not_charged_as_cpu() {
    let (_bench, host) = Bench::with("waits", "[grants]\nkv = true\n[limits]\ncpu_ms = 1\nwall_ms = 500", &reads()).await;
    let scope = FakeScope::new();
    *scope.world.read_takes.lock() = Duration::from_millis(60);
    send(&host, &scope, "hello").await.unwrap();
    assert_eq!(scope.world.reads.load(SeqCst), 1);
}

#[tokio::test]
async fn a_caller_who_leaves_leaves_the_call_running_to_its_end() {
    let (_bench, host) = Bench::with("left", "[grants]\nkv = true\n[limits]\nmax_instances = 2\nwall_ms = 500", &reads()).await;
    for _ in 0..1000 {
        let scope = FakeScope::new();
        *scope.world.read_takes.lock() = Duration::from_millis(1);
        let left = tokio::time::timeout(Duration::from_micros(100), send(&host, &scope, "hello")).await;
        assert!(left.is_err() || left.unwrap().is_ok());
        assert!(scope.kept() <= 1);
    }
    let since = Instant::now();
    send(&host, &FakeScope::new(), "hello").await.unwrap();
    assert!(since.elapsed() < Duration::from_millis(100), "the pool is whole again");
    assert_eq!(
        metric("haggle_plugin_instantiations_total", &[("plugin", "left"), ("reason", "fault")]),
        Some(0.0),
        "no instance was lost"
    );
}

#[tokio::test]
async fn busy_instances_are_waited_for_until_the_deadline_only() {
    let (_bench, host) = Bench::with("busy", "[grants]\nkv = true\n[limits]\nmax_instances = 1\nwall_ms = 400", &reads()).await;
    let slow = FakeScope::new();
    *slow.world.read_takes.lock() = Duration::from_millis(200);
    let running = tokio::spawn({
        let host = host.clone();
        async move { send(&host, &slow, "hello").await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let since = Instant::now();
    let refusal = send(&host, &FakeScope::within(Duration::from_millis(50)), "hello").await.unwrap_err();
    assert_eq!(refusal.plugin.unwrap().1, "overloaded");
    assert!(since.elapsed() < Duration::from_millis(150));
    assert!(send(&host, &FakeScope::new(), "hello").await.is_ok(), "who may wait longer is served");
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn instances_are_replaced_after_their_time() {
    let (_bench, host) = Bench::with("recycled", "[limits]\nrecycle_after = 10", &allows()).await;
    for _ in 0..100 {
        send(&host, &FakeScope::new(), "hello").await.unwrap();
    }
    let recycled = metric("haggle_plugin_instantiations_total", &[("plugin", "recycled"), ("reason", "recycle")]).unwrap();
    assert!((6.0..=14.0).contains(&recycled), "{recycled} times in 100 calls");
}

#[tokio::test]
async fn five_faults_in_a_row_open_the_breaker() {
    let (_bench, host) = Bench::with("breaks", "", &decides("", "", "unreachable")).await;
    let mut kinds = Vec::new();
    for _ in 0..8 {
        let refusal = send(&host, &FakeScope::new(), "hello").await.unwrap_err();
        kinds.push(refusal.plugin.unwrap().1.clone());
    }
    assert_eq!(kinds, ["trap", "trap", "trap", "trap", "trap", "breaker", "breaker", "breaker"]);
    assert_eq!(host.list()[0].running.as_ref().unwrap().breakers_open, ["before-message"]);
    assert_eq!(metric("haggle_plugin_breaker_open", &[("plugin", "breaks")]), Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_left_too_little_time_is_not_blamed() {
    let (_bench, host) = Bench::with(
        "hurried",
        "[limits]\nwall_ms = 1000\ncpu_ms = 1000",
        &decides("", "", "(loop $l (br $l)) unreachable"),
    )
    .await;
    for _ in 0..8 {
        let refusal = send(&host, &FakeScope::within(Duration::from_millis(5)), "hello").await.unwrap_err();
        assert_eq!(refusal.plugin.unwrap().1, "timeout", "never `breaker`");
    }
}

/// A guest with a route that reads a key first, and a before-hook that lets everything through.
fn serves() -> Vec<u8> {
    let body = r#"(data (i32.const 16) "k")
        (func (export "haggle:plugin/http@0.1.0#handle") (param $args i32) (result i32)
            (call $kv_get (i32.const 16) (i32.const 1) (i32.const 256))
            (i32.store16 (i32.const 512) (i32.const 200))
            (i32.store (i32.const 516) (i32.const 16)) (i32.store (i32.const 520) (i32.const 0))
            (i32.store (i32.const 524) (i32.const 16)) (i32.store (i32.const 528) (i32.const 0))
            (i32.const 512))
        (func (export "cabi_post_haggle:plugin/http@0.1.0#handle") (param i32) (call $fresh))
        (func (export "haggle:plugin/before-message@0.1.0#handle") (param $args i32) (result i32) (i32.const 1024))
        (func (export "cabi_post_haggle:plugin/before-message@0.1.0#handle") (param i32) (call $fresh))"#;
    guest(KV_GET, &["http", "before-message"], body)
}

/// The deadlock that must not be: handlers that wait for turns, and turns that wait for the same plugin.
#[tokio::test]
async fn handlers_that_wait_leave_instances_to_the_turns() {
    let limits = "[grants]\nkv = true\n[limits]\nmax_instances = 4\nwall_ms = 2000";
    let (_bench, host) = Bench::with("serves", limits, &serves()).await;
    let serve = |takes: u64, within: u64| {
        let (host, scope) = (host.clone(), FakeScope::within(Duration::from_millis(within)));
        *scope.world.read_takes.lock() = Duration::from_millis(takes);
        let request = HttpRequest {
            method: "GET".into(),
            path: "/x".into(),
            params: Vec::new(),
            query: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
        };
        tokio::spawn(async move { host.plan().http(&scope, &"serves".into(), request).await })
    };
    let waiting: Vec<_> = (0..3).map(|_| serve(800, 2000)).collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let fourth = serve(0, 200).await.unwrap().unwrap_err();
    assert_eq!(fourth.kind, "overloaded", "three quarters may wait: {}", fourth.message);
    for _ in 0..20 {
        let since = Instant::now();
        send(&host, &FakeScope::within(Duration::from_millis(200)), "hello")
            .await
            .expect("a turn finds an instance");
        assert!(since.elapsed() < Duration::from_millis(200));
    }
    for handler in waiting {
        assert_eq!(handler.await.unwrap().expect("it ends").status, 200);
    }
    assert_eq!(serve(0, 2000).await.unwrap().expect("there is room again").status, 200);
}
