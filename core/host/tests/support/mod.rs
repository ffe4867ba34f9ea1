//! A host with plugins of [`guests`], and an engine that is only a map.

#![allow(dead_code, reason = "every test binary uses its own part")]

mod guests;

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
    Actor, Refusal, Transport,
    ports::{Audience, Call, Draft, GuestMessage, Hooks, HostCalls, HostError, Op, Scope},
    sockets::SocketEmit,
};
use haggle_host::{HostLimits, HostOptions, PluginHost};
use haggle_model::{CommandId, ConversationId, ConversationKind, Decider, MessageId, Millis, Notification, PluginId, Role, Seq, UserId};
use haggle_store::{ConversationRow, MemberRow, MessageRow, UserRow};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

pub use guests::*;

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
    let mut draft = draft(text);
    let deciders = host.plan().before_message(scope, &mut draft, &[]).await?;
    Ok((draft, deciders))
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
            actor: Actor::user("ann", Transport::Ws),
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
    fn global_add(&self, _: &str, _: i64) -> Result<(), HostError> {
        not_here()
    }
    fn global_delete(&self, _: &str) -> Result<(), HostError> {
        not_here()
    }
    fn global_release(&self, _: Vec<String>) -> Result<(), HostError> {
        not_here()
    }
    fn send(&self, _: GuestMessage) -> Result<CommandId, HostError> {
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
    async fn read_by(&self, _: Vec<MessageId>) -> Result<Vec<haggle_engine::Readers>, HostError> {
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
    fn online_count(&self) -> u32 {
        0
    }
    async fn unread(&self, _: &UserId) -> Result<u32, HostError> {
        not_here()
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
