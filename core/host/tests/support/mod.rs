//! Guests written by hand, so that no wasm toolchain is needed, and an engine that is only a map.

#![allow(dead_code, reason = "every test binary uses its own part")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use haggle_engine::{
    Actor, Refusal,
    ports::{Audience, Call, Draft, GuestMessage, Hooks, HostCalls, HostError, Op, Scope},
    sockets::SocketEmit,
};
use haggle_host::{HostLimits, HostOptions, PluginHost};
use haggle_model::{CommandId, ConversationId, ConversationKind, Decider, MessageId, Millis, Notification, PluginId, Role, Seq, UserId};
use haggle_store::{ConversationRow, MemberRow, MessageRow, UserRow};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

// ---- guests --------------------------------------------------------------------------------------------------------

/// Every guest has these: memory, an allocator that starts afresh with each call, and helpers.
///
/// Layout of the arguments of `before-message`, which is handed one pointer: `call` is 88 bytes, then `draft`.
/// A decision is a byte (0 continue, 1 replace, 2 reject) and, from offset 4, the draft or the rejection.
const PRELUDE: &str = r#"
    (memory (export "memory") 2)
    (global $next (mut i32) (i32.const 65536))
    (func $fresh (global.set $next (i32.const 65536)))
"#;

/// An allocator that only goes up, from the second page on.
const ALLOC: &str = r#"
    (local $at i32)
    (global.set $next (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (local.set $at (global.get $next))
    (global.set $next (i32.add (global.get $next) (local.get $size)))
    (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1))))))
    (local.get $at)
"#;

/// A guest with `before-message`, whose `$decide` is the given code: it gets `$args` and leaves a pointer to a decision.
pub fn decides(imports: &str, functions: &str, decide: &str) -> Vec<u8> {
    let body = format!(
        r#"{functions}
        (func (export "haggle:plugin/before-message@0.1.0#handle") (param $args i32) (result i32) {decide})
        (func (export "cabi_post_haggle:plugin/before-message@0.1.0#handle") (param i32) (call $fresh))"#
    );
    guest(imports, &["before-message"], &body)
}

/// A pointer to memory that is 0 from the start: `continue`.
pub const CONTINUE: &str = "(i32.const 512)";

/// A guest that lets everything through.
pub fn allows() -> Vec<u8> {
    decides("", "", CONTINUE)
}

/// A guest that says no with this code.
pub fn rejects(code: &str) -> Vec<u8> {
    let functions = format!("(data (i32.const 16) \"{code}\")");
    let len = code.len();
    let decide = format!(
        "(i32.store8 (i32.const 512) (i32.const 2))
         (i32.store (i32.const 516) (i32.const 16)) (i32.store (i32.const 520) (i32.const {len}))
         (i32.store (i32.const 524) (i32.const 16)) (i32.store (i32.const 528) (i32.const {len}))
         (i32.const 512)"
    );
    decides("", &functions, &decide)
}

/// A guest that replaces the text.
pub fn replaces(text: &str) -> Vec<u8> {
    decides("", &format!("(data (i32.const 16) \"{text}\")"), &replace(text.len()))
}

/// Copies the draft behind the answer and puts the text at 16 into it.
pub fn replace(len: usize) -> String {
    format!(
        "(i32.store8 (i32.const 512) (i32.const 1))
         (memory.copy (i32.const 516) (i32.add (local.get $args) (i32.const 88)) (i32.const 100))
         (i32.store (i32.const 560) (i32.const 16)) (i32.store (i32.const 564) (i32.const {len}))
         (i32.const 512)"
    )
}

/// A core module as the SDK leaves it: with its world in a custom section. `imports` are core imports; their interfaces and
/// the hooks make the world.
pub fn guest(imports: &str, hooks: &[&str], body: &str) -> Vec<u8> {
    guest_of(&contract(), "0.1.0", imports, hooks, body)
}

/// A guest that lets everything through and has this allocator (`$size` in, a pointer out).
pub fn allocates(imports: &str, alloc: &str) -> Vec<u8> {
    let body = format!(r#"(func (export "haggle:plugin/before-message@0.1.0#handle") (param $args i32) (result i32) {CONTINUE})"#);
    assemble(&contract(), "0.1.0", imports, &["before-message"], &body, alloc)
}

/// The same for another contract.
pub fn guest_of(contract: &str, version: &str, imports: &str, hooks: &[&str], body: &str) -> Vec<u8> {
    assemble(contract, version, imports, hooks, body, ALLOC)
}

fn assemble(contract: &str, version: &str, imports: &str, hooks: &[&str], body: &str, alloc: &str) -> Vec<u8> {
    let alloc =
        format!(r#"(func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32) {alloc})"#);
    let text = format!("(module {imports} {PRELUDE} {alloc} {body})");
    let mut wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    resolve.push_source("haggle.wit", contract).unwrap();
    let interfaces: std::collections::BTreeSet<_> = imports.split('"').filter(|part| part.starts_with("haggle:plugin/")).collect();
    let mut world = String::from("package test:guest;\nworld guest {\n");
    interfaces.iter().for_each(|interface| world.push_str(&format!("import {interface};\n")));
    hooks
        .iter()
        .for_each(|hook| world.push_str(&format!("export haggle:plugin/{hook}@{version};\n")));
    world.push('}');
    let package = resolve.push_source("guest.wit", &world).unwrap();
    let world = resolve.select_world(&[package], Some("guest")).unwrap();
    embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8, false).unwrap();
    wasm
}

pub fn contract() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/wit/haggle.wit")).unwrap()
}

pub const KV_GET: &str = r#"(import "haggle:plugin/kv@0.1.0" "get" (func $kv_get (param i32 i32 i32)))"#;
pub const KV_SET: &str = r#"(import "haggle:plugin/kv@0.1.0" "set" (func $kv_set (param i32 i32 i32 i32 i32 i32 i32)))"#;
pub const LOG: &str = r#"(import "haggle:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))"#;
pub const COUNT: &str = r#"(import "haggle:plugin/metrics@0.1.0" "count" (func $count (param i32 i32 i64)))"#;

// ---- the host under test -------------------------------------------------------------------------------------------

/// A plugins' folder, a cache and a host on them.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub options: HostOptions,
}

impl Bench {
    pub fn new() -> Bench {
        recorder();
        let dir = tempfile::tempdir().unwrap();
        let mut options = HostOptions::new(dir.path().join("plugins"));
        options.cache_dir = Some(dir.path().join("cache"));
        options.limits = HostLimits {
            instances_max: 32,
            ..HostLimits::default()
        };
        fs::create_dir_all(&options.plugins_dir).unwrap();
        Bench { dir, options }
    }

    /// Writes a plugin: the manifest's head is given, `rest` follows.
    pub fn put(&self, id: &str, rest: &str, wasm: &[u8]) -> PathBuf {
        write_plugin(&self.options.plugins_dir.join(id), id, "1.0.0", rest, wasm)
    }

    pub async fn start(&self) -> PluginHost {
        PluginHost::start(self.options.clone()).await.unwrap()
    }

    /// A host with this one plugin, which must have loaded.
    pub async fn with(id: &str, rest: &str, wasm: &[u8]) -> (Bench, PluginHost) {
        let bench = Bench::new();
        bench.put(id, rest, wasm);
        let host = bench.start().await;
        let status = host.list();
        assert!(status.iter().all(|plugin| plugin.error.is_none()), "{status:?}");
        (bench, host)
    }
}

/// Writes the code first: the manifest makes it a plugin.
pub fn write_plugin(dir: &Path, id: &str, version: &str, rest: &str, wasm: &[u8]) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(format!("{id}.wasm")), wasm).unwrap();
    let manifest = dir.join("plugin.toml");
    fs::write(&manifest, format!("id = \"{id}\"\nversion = \"{version}\"\napi = \"0.1\"\n{rest}")).unwrap();
    manifest
}

/// The metrics of this process.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).expect("one recorder per process");
        handle
    })
}

/// The value of the one series whose name and labels contain all of these; `None` when there is none.
pub fn metric(name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let text = recorder().render();
    let wanted: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    let fits = |line: &&str| {
        let is_named = line.split(['{', ' ']).next() == Some(name);
        is_named && wanted.iter().all(|label| line.contains(label.as_str()))
    };
    let found: Vec<_> = text.lines().filter(fits).collect();
    assert!(found.len() <= 1, "{name} {labels:?} is not one series: {found:?}");
    found.first().and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

/// Sends `text` through the chain.
pub async fn send(host: &PluginHost, scope: &FakeScope, text: &str) -> Result<(Draft, Vec<Decider>), Refusal> {
    host.plan().before_message(scope, draft(text), &[]).await
}

pub fn draft(text: &str) -> Draft {
    Draft {
        op: Op::Send,
        target: None,
        conversation: ConversationId(0x0123_4567_89ab_cdef),
        sender: "ann".into(),
        kind: "text".into(),
        text: text.into(),
        metadata: Some("{\"a\":1}".into()),
        reply_to: None,
        forwarded_from: None,
        client_id: Some("c-1".into()),
    }
}

// ---- the engine, faked ---------------------------------------------------------------------------------------------

/// A scope whose kv is one map for all plugins.
pub struct FakeScope {
    call: Call,
    pub deadline: Instant,
    pub world: Arc<World>,
}

#[derive(Default)]
pub struct World {
    pub kv: Mutex<BTreeMap<(PluginId, String), Vec<u8>>>,
    /// How long a read takes.
    pub read_takes: Mutex<Duration>,
    /// Calls of `keep`.
    pub kept: AtomicU32,
    pub reads: AtomicU32,
}

impl FakeScope {
    pub fn new() -> FakeScope {
        FakeScope::within(Duration::from_secs(2))
    }

    pub fn within(time: Duration) -> FakeScope {
        let call = Call {
            command: CommandId([7; 16]),
            actor: Actor::user("ann", "ws"),
            trace_id: "trace-1".into(),
            now: 1_700_000_000_000,
            conversation: Some(ConversationId(0x0123_4567_89ab_cdef)),
            origin: Vec::new(),
        };
        FakeScope {
            call,
            deadline: Instant::now() + time,
            world: Arc::default(),
        }
    }

    pub fn kept(&self) -> u32 {
        self.world.kept.load(SeqCst)
    }

    pub fn value(&self, plugin: &str, key: &str) -> Option<Vec<u8>> {
        self.world.kv.lock().get(&(plugin.into(), key.to_owned())).cloned()
    }
}

impl Scope for FakeScope {
    fn call(&self) -> &Call {
        &self.call
    }
    fn deadline(&self) -> Instant {
        self.deadline
    }
    fn conversation_kind(&self) -> Option<ConversationKind> {
        Some(ConversationKind::Direct)
    }
    fn guest(&self, plugin: &PluginId) -> Arc<dyn HostCalls> {
        Arc::new(FakeGuest {
            plugin: plugin.clone(),
            world: self.world.clone(),
            writes: Mutex::default(),
        })
    }
}

struct FakeGuest {
    plugin: PluginId,
    world: Arc<World>,
    writes: Mutex<Vec<(String, Vec<u8>)>>,
}

fn not_here<T>() -> Result<T, HostError> {
    Err(HostError::Unavailable("not in this test".into()))
}

#[async_trait]
impl HostCalls for FakeGuest {
    fn keep(&self) {
        self.world.kept.fetch_add(1, SeqCst);
        let mut kv = self.world.kv.lock();
        for (key, value) in self.writes.lock().drain(..) {
            kv.insert((self.plugin.clone(), key), value);
        }
    }
    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        let takes = *self.world.read_takes.lock();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.world.reads.fetch_add(1, SeqCst);
        Ok(self.world.kv.lock().get(&(self.plugin.clone(), key.to_owned())).cloned())
    }
    fn kv_set(&self, key: &str, value: Vec<u8>, _: Option<u32>) -> Result<(), HostError> {
        self.writes.lock().push((key.to_owned(), value));
        Ok(())
    }
    fn kv_delete(&self, _: &str) -> Result<(), HostError> {
        not_here()
    }
    async fn kv_list(&self, _: &str, _: Option<&str>) -> Result<Vec<(String, Vec<u8>)>, HostError> {
        not_here()
    }
    async fn global_get(&self, _: &str) -> Result<Option<Vec<u8>>, HostError> {
        not_here()
    }
    async fn global_reserve(&self, _: Vec<String>, _: Vec<u8>) -> Result<bool, HostError> {
        not_here()
    }
    fn global_set(&self, _: &str, _: Vec<u8>, _: Option<u32>) -> Result<(), HostError> {
        not_here()
    }
    fn global_delete(&self, _: &str) -> Result<(), HostError> {
        not_here()
    }
    fn global_release(&self, _: Vec<String>) -> Result<(), HostError> {
        not_here()
    }
    fn send(&self, _: GuestMessage) -> Result<String, HostError> {
        not_here()
    }
    async fn edit(&self, _: MessageId, _: Option<String>, _: Option<String>) -> Result<(), HostError> {
        not_here()
    }
    async fn message(&self, _: MessageId) -> Result<Option<MessageRow>, HostError> {
        not_here()
    }
    async fn messages(&self, _: ConversationId, _: Option<Seq>, _: usize) -> Result<Vec<MessageRow>, HostError> {
        not_here()
    }
    async fn conversation(&self, _: ConversationId) -> Result<Option<ConversationRow>, HostError> {
        not_here()
    }
    fn context_id(&self, _: &str, _: &str) -> Result<ConversationId, HostError> {
        not_here()
    }
    fn get_or_create(&self, _: &str, _: &str, _: Vec<UserId>, _: Option<String>, _: Option<String>) -> Result<ConversationId, HostError> {
        not_here()
    }
    fn set_state(&self, _: String) -> Result<(), HostError> {
        not_here()
    }
    fn set_closed(&self, _: bool) -> Result<(), HostError> {
        not_here()
    }
    async fn participants(&self, _: ConversationId) -> Result<Vec<MemberRow>, HostError> {
        not_here()
    }
    fn add_participant(&self, _: UserId, _: Role) -> Result<(), HostError> {
        not_here()
    }
    fn remove_participant(&self, _: UserId) -> Result<(), HostError> {
        not_here()
    }
    async fn user(&self, _: &UserId) -> Result<Option<UserRow>, HostError> {
        not_here()
    }
    fn online(&self, _: &UserId) -> bool {
        false
    }
    fn watching(&self, _: &UserId, _: ConversationId) -> bool {
        false
    }
    fn emit(&self, _: &str, _: String) -> Result<(), HostError> {
        not_here()
    }
    fn emit_to(&self, _: Audience, _: &str, _: String) -> Result<(), HostError> {
        not_here()
    }
    async fn emit_to_sockets(&self, _: SocketEmit) -> Result<(), HostError> {
        not_here()
    }
    fn notify(&self, _: UserId, _: Notification) -> Result<(), HostError> {
        not_here()
    }
    fn timer_set(&self, _: &str, _: Millis, _: String) -> Result<(), HostError> {
        not_here()
    }
    fn timer_cancel(&self, _: &str) -> Result<(), HostError> {
        not_here()
    }
    async fn timer_get(&self, _: &str) -> Result<Option<Millis>, HostError> {
        not_here()
    }
}
