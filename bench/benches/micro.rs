//! What the parts of the path of a message cost, each alone: `cargo bench -p haggle-bench`.
//!
//! Times move with the machine. Where that matters, count instructions:
//! `valgrind --tool=callgrind target/release/deps/micro-… --bench --profile-time 5 ws/read_and_decode`.

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use haggle_engine::{
    Actor, Command, Engine, EngineOptions, Hub, NewConversation, NewMessage, Outcome, Published, Push, Request, Subscriber, SystemClock, To,
    Transport, What, ports::Hooks,
};
use haggle_gateway::ws::micro;
use haggle_host::{HostOptions, PluginHost};
use haggle_model::{CommandId, Content, ConversationId, ConversationKind, Effects, Entry, Event, Limits, Shard, UserId};
use haggle_store::{EmbeddedStore, Log, MemoryStore, SharedStore, Tail};
use tokio::runtime::Runtime;

/// 200 bytes, as in the workloads.
const TEXT: &str = "the quick brown fox jumps over the lazy dog and sells it to the highest bidder who pays on delivery \
    the quick brown fox jumps over the lazy dog and sells it to the highest bidder who pays on delivery.";
/// Members of the group that one message goes to.
const MEMBERS: usize = 100;
/// Messages that are on their way at the same time in the engine's benchmarks.
const CONVERSATIONS: usize = 64;

fn codecs(c: &mut Criterion) {
    let mut group = c.benchmark_group("ws");
    let frame = client_frame(&format!(
        r#"{{"t":"send","id":17,"c":"0123456789abcdef00000000","k":"0badcafe-1","n":"text","d":{{"content":"{TEXT}"}}}}"#
    ));
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("read_and_decode", |b| {
        b.iter_batched_ref(
            || frame.clone(),
            |frame| assert_eq!(micro::commands(black_box(frame)), 1),
            BatchSize::SmallInput,
        );
    });
    let push = Push::new(What::Event(Published::new(Arc::new(entry(1, 1)), ConversationKind::Direct, None)));
    group.bench_function("encode_event", |b| b.iter(|| micro::push(black_box(&push))));
    group.finish();
}

/// As a client sends it, with a mask that is not zero.
fn client_frame(text: &str) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend((text.len() as u16).to_be_bytes());
    frame.extend(mask);
    frame.extend(text.bytes().zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn entry(ts: u64, seq: u32) -> Entry {
    let content = Content {
        kind: "text".into(),
        text: TEXT.into(),
        countable: true,
        client_id: Some("0badcafe-1".into()),
        ..Content::default()
    };
    Entry {
        ts,
        at: 1_750_000_000_000 + ts as i64,
        conversation: ConversationId(0x9e37_79b9_7f4a_0000),
        seq,
        n: seq,
        actor: Some(UserId::from("0123456789abcdef01234567")),
        command: Some(CommandId::hash(&[&ts.to_be_bytes()])),
        digest: ts,
        origin: Vec::new(),
        event: Event::MessageCreated(content),
        effects: Effects::default(),
        redacted: false,
    }
}

/// One durable commit of so many messages. What is shown is per commit.
fn append(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("store/append");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for size in [1u32, 64] {
        let store = EmbeddedStore::open_temporary().expect("a store");
        let (mut tail, mut next) = (Tail::default(), 1u32);
        group.throughput(Throughput::Elements(u64::from(size)));
        group.bench_function(size.to_string(), |b| {
            b.iter_custom(|commits| {
                let mut took = Duration::ZERO;
                for _ in 0..commits {
                    let entries: Vec<_> = (next..next + size).map(|seq| Arc::new(entry(u64::from(seq), seq))).collect();
                    next += size;
                    let start = Instant::now();
                    tail = runtime.block_on(store.append(Shard(0), tail, entries)).expect("appended");
                    took += start.elapsed();
                }
                took
            });
        });
    }
    group.finish();
}

/// A connection that encodes what it is offered and throws it away.
struct Sink {
    id: String,
    user: UserId,
    bytes: AtomicU64,
}

impl Subscriber for Sink {
    fn id(&self) -> &str {
        &self.id
    }
    fn user(&self) -> &UserId {
        &self.user
    }
    fn has_role(&self, _role: &str) -> bool {
        false
    }
    fn transport(&self) -> Transport {
        Transport::Ws
    }
    fn subscribed(&self, _conversation: ConversationId) -> bool {
        true
    }
    fn offer(&self, push: &Arc<Push>) {
        let frame = push.encoded(0, |_| micro::push(push));
        self.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
    }
    fn ended(&self, _conversation: ConversationId) {}
    fn close(&self, _reason: &'static str) {}
}

fn fan_out(c: &mut Criterion) {
    let hub = Hub::default();
    let users: Vec<UserId> = (0..MEMBERS).map(|i| UserId::from(format!("user-{i}").as_str())).collect();
    for user in &users {
        hub.connect(Arc::new(Sink {
            id: format!("connection of {user}"),
            user: user.clone(),
            bytes: AtomicU64::new(0),
        }));
    }
    let message = Arc::new(entry(1, 1));
    let mut group = c.benchmark_group("hub");
    group.throughput(Throughput::Elements(MEMBERS as u64));
    group.bench_function("fan_out_to_100", |b| {
        b.iter(|| {
            let push = Push::new(What::Event(Published::new(message.clone(), ConversationKind::Group, None)));
            users.iter().for_each(|user| hub.offer(user, &push));
        });
    });
    group.finish();
}

/// A message through turn, lane and store, with and without one hook; per message. The hook's price is the difference.
fn engine(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("engine/send");
    group.throughput(Throughput::Elements(CONVERSATIONS as u64)).sample_size(20);
    let empty = tempfile::tempdir().expect("a directory");
    let hook = hook_dir();
    if !hook.is_dir() {
        eprintln!("engine/send/memory_and_hook is left out: build the hook with `cargo xtask plugins bench/hook-plugin`");
    }
    let plugins = [("memory", empty.path()), ("memory_and_hook", &hook)];
    for (name, dir) in plugins.into_iter().filter(|(_, dir)| dir.is_dir()) {
        let (engine, rooms) = runtime.block_on(start(Arc::new(MemoryStore::new(1)), dir));
        group.bench_function(name, |b| b.iter(|| runtime.block_on(send_to_all(&engine, &rooms))));
        runtime.block_on(engine.shutdown());
    }
    group.finish();
}

fn hook_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-plugins")
}

async fn start(store: SharedStore, plugins: &Path) -> (Engine, Vec<ConversationId>) {
    let host = PluginHost::start(HostOptions::new(plugins)).await.expect("a host");
    assert!(host.list().iter().all(|plugin| plugin.error.is_none()), "{:?}", host.list());
    let options = EngineOptions {
        store,
        hooks: Arc::new(host) as Arc<dyn Hooks>,
        limits: Limits {
            rate_per_second: 100_000_000,
            rate_burst: 100_000_000,
            ..Limits::default()
        },
        clock: Arc::new(SystemClock),
        erase_after: Duration::from_secs(24 * 3600),
        reject_unknown_users: false,
        commit_interval: Duration::ZERO,
    };
    let engine = Engine::start(options).await.expect("an engine");
    let mut rooms = Vec::with_capacity(CONVERSATIONS);
    for number in 0..CONVERSATIONS {
        let create = Command::CreateConversation(NewConversation::Direct {
            with: UserId::from(format!("b{number}").as_str()),
        });
        let made = engine
            .execute(Request::new(Actor::user(format!("a{number}").as_str(), Transport::Ws), create))
            .await;
        rooms.push(made.expect("a conversation").conversation);
    }
    (engine, rooms)
}

async fn send_to_all(engine: &Engine, rooms: &[ConversationId]) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel::<Result<Outcome, haggle_engine::Refusal>>();
    for (number, room) in rooms.iter().enumerate() {
        let send = Command::Send {
            to: To::Conversation(*room),
            message: NewMessage::text(TEXT),
        };
        let key = format!("k{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let request = Request::new(Actor::user(format!("a{number}").as_str(), Transport::Ws), send).with_client_id(Some(key));
        let answered = answered.clone();
        engine.submit(request, Box::new(move |result| drop(answered.send(result))));
    }
    drop(answered);
    while let Some(answer) = answers.recv().await {
        answer.expect("sent");
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

criterion_group!(all, codecs, append, fan_out, engine);
criterion_main!(all);
