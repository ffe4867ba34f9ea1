//! Loading, replacing, removing: on disk, in memory, under load.

mod support;

use std::{
    collections::HashSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use haggle_engine::ports::{Consumer, Hook, Hooks};
use haggle_host::{LoadError, PluginHost, check};
use support::*;

/// Waits for what the watcher does.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(20), "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn said(host: &PluginHost) -> String {
    send(host, &FakeScope::new(), "hello")
        .await
        .map_or_else(|refusal| refusal.to_string(), |(draft, _)| draft.text)
}

#[tokio::test]
async fn a_second_start_compiles_nothing() {
    let bench = Bench::new();
    bench.put("cached", "", &allows());
    let from_cache = |host: &PluginHost| host.list()[0].running.as_ref().unwrap().from_cache;
    assert!(!from_cache(&bench.start().await));
    let host = bench.start().await;
    assert!(from_cache(&host));
    assert!(send(&host, &FakeScope::new(), "hello").await.is_ok(), "what came from the cache runs");

    for entry in fs::read_dir(bench.options.cache_dir.as_ref().unwrap()).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        if entry.path().extension().is_some_and(|extension| extension == "cwasm") {
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(entry.path(), bytes).unwrap();
        }
    }
    assert!(!from_cache(&bench.start().await), "changed machine code is never run");
}

#[tokio::test]
async fn reload_takes_the_new_version_and_keeps_the_last_good_one() {
    let (bench, host) = Bench::with("versions", "", &replaces("one")).await;
    assert_eq!(said(&host).await, "one");

    bench.put("versions", "", &replaces("two"));
    let status = host.reload("versions").await.unwrap();
    assert!(status.active && status.error.is_none());
    assert_eq!(said(&host).await, "two");

    let bad: [(&str, Vec<u8>); 3] = [
        ("", b"no code".to_vec()),
        ("colour = 1", replaces("three")),
        ("", decides("", "(func $s unreachable) (start $s)", CONTINUE)),
    ];
    for (rest, wasm) in bad {
        bench.put("versions", rest, &wasm);
        assert!(host.reload("versions").await.is_err());
        assert_eq!(said(&host).await, "two", "the last good version goes on");
        let status = &host.list()[0];
        assert!(status.active && status.error.is_some());
    }

    bench.put("versions", "", &replaces("three"));
    host.reload("versions").await.unwrap();
    assert_eq!(said(&host).await, "three");
    assert!(host.list()[0].error.is_none());
}

#[tokio::test]
async fn a_command_that_has_begun_keeps_its_versions() {
    let (bench, host) = Bench::with("pinned", "", &replaces("old")).await;
    let plan = host.plan();
    bench.put("pinned", "", &replaces("new"));
    host.reload("pinned").await.unwrap();
    let mut message = draft("hello");
    plan.before_message(&FakeScope::new(), &mut message, &[]).await.unwrap();
    assert_eq!(message.text, "old");
    assert_eq!(said(&host).await, "new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_load_lose_and_double_nothing() {
    let versions = [replaces("even"), replaces("odd")];
    let (bench, host) = Bench::with("swapped", "", &versions[0]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (host, stop) = (host.clone(), stop.clone());
            tokio::spawn(async move {
                let mut seen = HashSet::new();
                let mut count = 0_u32;
                while !stop.load(SeqCst) {
                    let (draft, deciders) = send(&host, &FakeScope::new(), "hello").await.expect("every message is decided");
                    assert_eq!(deciders.len(), 1, "by exactly one version");
                    seen.insert((draft.text, deciders[0].digest));
                    count += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                (seen, count)
            })
        })
        .collect();
    for swap in 1..=100 {
        bench.put("swapped", "", &versions[swap % 2]);
        host.reload("swapped").await.unwrap();
    }
    stop.store(true, SeqCst);
    for sender in senders {
        let (seen, count) = sender.await.unwrap();
        assert_eq!(seen.len(), 2, "the digest always names the version that decided: {seen:?}");
        assert!(count > 50);
    }
}

#[tokio::test]
async fn the_watcher_loads_what_changes() {
    let mut bench = Bench::new();
    bench.options.watch_interval = Duration::from_millis(20);
    bench.put("watched", "", &replaces("one"));
    let host = bench.start().await;
    let watching = host.watch();
    assert_eq!(said(&host).await, "one");

    tokio::time::sleep(Duration::from_millis(50)).await;
    bench.put("watched", "description = \"longer\"", &replaces("two two"));
    eventually("the change", async || said(&host).await == "two two").await;

    bench.put("watched", "", b"broken");
    eventually("the failure", async || host.list()[0].error.is_some()).await;
    assert_eq!(said(&host).await, "two two", "the last good version goes on");

    fs::write(
        bench.options.plugins_dir.join("flat.toml"),
        "id = \"flat\"\nversion = \"2\"\napi = \"0.1\"\n[hooks]\nbefore-message = { priority = 200 }",
    )
    .unwrap();
    fs::write(bench.options.plugins_dir.join("flat.wasm"), replaces("flat")).unwrap();
    eventually("the flat one", async || said(&host).await == "flat").await;

    fs::remove_dir_all(bench.options.plugins_dir.join("watched")).unwrap();
    eventually("the removal", async || host.list().len() == 1).await;
    watching.abort();
}

#[tokio::test]
async fn installing_copies_tries_and_rolls_back() {
    let bench = Bench::new();
    let host = bench.start().await;
    let from = bench.dir.path().join("built");
    write_plugin(&from, "brought", "1.0.0", "", &replaces("one"));
    let status = host.install(&from).await.unwrap();
    assert_eq!(status.running.unwrap().version, "1.0.0");
    assert_eq!(said(&host).await, "one");

    write_plugin(&from, "brought", "1.1.0", "", &replaces("two"));
    host.install(&from.join("plugin.toml")).await.unwrap();
    assert_eq!(said(&host).await, "two");
    let previous = fs::read_to_string(bench.options.plugins_dir.join(".previous/brought/plugin.toml")).unwrap();
    assert!(previous.contains("1.0.0"), "the version before is kept");

    write_plugin(&from, "brought", "1.2.0", "", b"broken");
    assert_eq!(host.install(&from.join("brought.wasm")).await.unwrap_err().code(), "code");
    assert_eq!(said(&host).await, "two");
    let on_disk = fs::read_to_string(bench.options.plugins_dir.join("brought/plugin.toml")).unwrap();
    assert!(on_disk.contains("1.1.0"), "nothing that works was touched");
    assert_eq!(
        bench.start().await.list()[0].running.as_ref().unwrap().version,
        "1.1.0",
        "and a restart finds it"
    );

    host.remove("brought").await.unwrap();
    assert!(host.list().is_empty() && said(&host).await == "hello");
    assert_eq!(host.remove("brought").await.unwrap_err(), LoadError::NotFound("brought".into()));
    assert!(bench.start().await.list().is_empty());
}

#[tokio::test]
async fn checking_says_everything_and_loads_nothing() {
    let bench = Bench::new();
    let path = bench.dir.path().join("built");
    let wasm = decides(&format!("{KV_GET} {LOG}"), "", CONTINUE);
    write_plugin(&path, "checked", "1.0.0", "claims = [\"offer\"]\n[grants]\nlog = true", &wasm);
    let report = check(&path, bench.options.clone()).unwrap();
    assert_eq!((report.format, report.api.as_str()), ("core module", "0.1"));
    assert_eq!(
        (report.hooks.as_slice(), report.imports.as_slice(), report.missing_grants.as_slice()),
        (&["before-message"][..], &["log", "kv"][..], &["kv"][..])
    );
    assert!(!report.is_ok() && report.to_string().contains("kv = true"), "{report}");

    write_plugin(&path, "checked", "1.0.0", "[grants]\nlog = true\nkv = true", &wasm);
    let host = bench.start().await;
    let report = host.check(&path.join("checked.wasm")).await.unwrap();
    assert!(report.is_ok() && report.to_string().ends_with("ok"), "{report}");
    assert!(host.list().is_empty());
    assert!(matches!(host.check(&bench.dir.path().join("nowhere")).await, Err(LoadError::Io { .. })));
}

#[tokio::test]
async fn a_check_and_a_load_refuse_the_types_of_another_release() {
    let bench = Bench::new();
    let (ours, before) = (contract(), "kind: option<string>,");
    let theirs = ours.replacen(before, "kind: string,", 1);
    assert_ne!(ours, theirs, "the contract has `{before}`");
    let handle = r#"(func (export "haggle:plugin/before-message@0.1.0#handle") (param i32) (result i32) (i32.const 512))"#;
    let wasm = guest_of(&theirs, "0.1.0", "", &["before-message"], handle);
    let path = bench.dir.path().join("built");
    write_plugin(&path, "older", "1.0.0", "", &wasm);
    let report = check(&path, bench.options.clone()).unwrap();
    let advice = "build it again with the SDK of this release";
    assert!(!report.is_ok() && report.to_string().contains(advice), "{report}");
    let refused = bench.start().await.install(&path).await.unwrap_err();
    assert!(refused.code() == "start" && refused.to_string().contains(advice), "{refused}");
}

#[tokio::test]
async fn a_check_ends_although_the_code_does_not() {
    let bench = Bench::new();
    let path = bench.dir.path().join("built");
    let spins = "(func $spin (loop (br 0))) (start $spin)";
    write_plugin(&path, "spins", "1.0.0", "", &decides("", spins, CONTINUE));
    let report = check(&path, bench.options.clone()).unwrap();
    assert!(!report.is_ok() && report.to_string().contains("no instance can be made"), "{report}");
    let report = bench.start().await.check(&path).await.unwrap();
    assert!(!report.is_ok(), "{report}");
}

#[tokio::test]
async fn digests_in_manifests_are_kept() {
    let bench = Bench::new();
    bench.put("pinned-code", &format!("sha256 = \"{}\"", "0".repeat(64)), &allows());
    let error = bench.start().await.list()[0].error.clone().unwrap();
    assert!(error.contains("the manifest says otherwise"), "{error}");
}

#[tokio::test]
async fn configuration_reaches_the_plugin() {
    // Replaces the text by the value of `text`.
    let imports = r#"(import "haggle:plugin/config@0.1.0" "get" (func $config (param i32 i32 i32)))"#;
    let replace = replace_by("(i32.load (i32.const 260))", "(i32.load (i32.const 264))");
    let decide = format!("(call $config (i32.const 16) (i32.const 4) (i32.const 256)) {replace}");
    let wasm = decides(imports, "(data (i32.const 16) \"text\")", &decide);
    let rest = "[grants]\nconfig = true\n[config]\ntext = \"from the manifest\"";
    let (bench, host) = Bench::with("configured", rest, &wasm).await;
    assert_eq!(said(&host).await, "from the manifest");
    let mut options = bench.options.clone();
    options
        .config
        .insert("configured".into(), serde_json::from_str(r#"{"text": "from the operator"}"#).unwrap());
    assert_eq!(said(&PluginHost::start(options).await.unwrap()).await, "from the operator");
}

#[tokio::test]
async fn what_a_plan_says_of_its_plugins() {
    let after = r#"(func (export "haggle:plugin/after-message@0.1.0#handle") (param i32) (result i32) (i32.const 512))"#;
    let rest = "[hooks]\nafter-message = { from_start = true, kinds = [\"image\"] }";
    let (_bench, host) = Bench::with("listens", rest, &guest("", &["after-message"], after)).await;
    let plan = host.plan();
    assert_eq!(
        plan.consumers(),
        [Consumer {
            plugin: "listens".into(),
            from_start: true
        }]
    );
    let facts = |message| haggle_engine::ports::Facts {
        conversation: haggle_model::ConversationKind::Direct,
        message: Some(message),
        dialect: "native",
    };
    assert!(plan.wants_after(&"listens".into(), Hook::AfterMessage, &facts("image")));
    assert!(!plan.wants_after(&"listens".into(), Hook::AfterMessage, &facts("text")));
    assert!(!plan.wants_after(&"listens".into(), Hook::AfterReceipt, &facts("image")));
    assert!(plan.connection_watchers().is_empty() && plan.routes().is_empty() && plan.command_owner("x").is_none());
}

#[tokio::test]
async fn every_metric_is_registered_at_zero() {
    let (_bench, _host) = Bench::with("counted", "[grants]\nkv = true", &decides(KV_GET, "", CONTINUE)).await;
    for outcome in [
        "continue",
        "replace",
        "reject",
        "trap",
        "timeout",
        "cpu",
        "memory",
        "output",
        "host_calls",
        "error",
        "breaker",
        "overloaded",
    ] {
        let labels = [("plugin", "counted"), ("hook", "before-message"), ("outcome", outcome)];
        assert_eq!(metric("haggle_plugin_calls_total", &labels), Some(0.0), "{outcome}");
    }
    assert_eq!(
        metric(
            "haggle_plugin_host_calls_total",
            &[("plugin", "counted"), ("fn", "kv.get"), ("outcome", "ok")]
        ),
        Some(0.0)
    );
    assert_eq!(metric("haggle_plugin_info", &[("plugin", "counted")]), Some(1.0));
    let text = recorder().render();
    let unknown: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE haggle_plugin"))
        .filter(|line| {
            let name = format!("haggle_plugin{}", line.split(' ').next().unwrap());
            haggle_host::metrics::DESCRIBED.iter().all(|(_, known, ..)| *known != name)
        })
        .collect();
    assert!(unknown.is_empty(), "not described: {unknown:?}");
}
