//! `haggle serve`: the parts become a server, and end in order.
//!
//! Listeners first, so that a wrong address fails at once and clients wait in the system's queue while the store opens; then
//! store, plugins, engine, transports. The end goes the other way.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use haggle_engine::{Engine, EngineOptions, SystemClock};
use haggle_gateway::{Authenticator, Gateway, http};
use haggle_store::{Log, SharedStore, StoreError, decorate::Metered, embedded::EmbeddedStore};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{self, Admin},
    auth,
    config::{Settings, UnknownUsers},
    failure::{Failure, Kind},
    logs, metrics,
    plugins::Plugins,
    status::{Parts, Status},
    verify::{self, Verification},
    version,
};

/// Connections that wait to be accepted (the system may allow fewer). A client that finds no room tries again only after a
/// second, so a herd that comes back at once should find some.
const WAITING_CONNECTIONS_MAX: u32 = 4_096;
/// Threads for what blocks: reads of the store (at most eight at a time), files, looking up names. What finds none free waits;
/// a thread keeps memory of its own, so a burst must not start hundreds.
const BLOCKING_THREADS_MAX: usize = 32;
/// What is left of `drain.within_ms` for the engine at least, however long clients took.
const ENGINE_STOP_MIN: Duration = Duration::from_secs(2);

/// Runs until a signal ends it.
pub fn run(settings: Settings) -> Result<(), Failure> {
    logs::install(&settings.log);
    raise_file_limit();
    keep_small_pages();
    let runtime = runtime(settings.server.threads)?;
    let result = runtime.block_on(serve(settings));
    // Whatever still blocks has nothing to say any more.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder
        .thread_name("haggle")
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()?)
}

/// Sockets are files: takes all that the system gives.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Failing changes nothing; `haggle doctor` and the metrics show the limit.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// The allocator asks for huge pages, and the first byte in one takes its 2 MiB: with many idle connections a third of the
/// memory for nothing, and no speed (docs/PERFORMANCE.md, "Where the time goes").
fn keep_small_pages() {
    // A kernel without huge pages has none to disable.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let recorder = metrics::install()?;
    metrics::describe();
    haggle_gateway::metrics::describe();
    verify::describe();
    let clients = listen(settings.server.listen, "server.listen", "--listen")?;
    let mut listeners = vec![];
    for address in &settings.server.listen_also {
        listeners.push(listen(*address, "server.listen_also", "--listen")?);
    }
    let operators = listen(settings.server.admin, "server.admin", "--admin")?;
    let addresses = (clients.local_addr()?, operators.local_addr()?);

    let embedded = open_store(&settings).await?;
    let (durability, verification) = (embedded.durability(), Arc::new(Verification::default()));
    let status = Arc::new(Status::default());
    let auth_config = auth::config(&settings)?;
    let authenticator = || Authenticator::new(auth_config.clone()).map_err(|error| Failure::usage(error.to_string()));
    let admin = Arc::new(Admin {
        metrics: recorder.clone(),
        status: status.clone(),
        auth: authenticator()?,
        hosts: settings.server.admin_hosts.clone(),
        // The code in base64, and the manifest.
        install_bytes_max: settings.plugins.code_bytes_max / 3 * 4 + 1024 * 1024,
    });
    let probes = tokio::spawn(admin::serve(operators, admin::router(admin)));
    let upkeep = tokio::spawn(keep_up(recorder, status.clone()));

    let plugins = Plugins::start(&settings).await?;
    let store: SharedStore = Arc::new(Metered::new(embedded.clone()));
    let written = embedded.end();
    let engine = start_engine(&settings, store, &plugins).await?;
    let gateway = Gateway::new(engine.clone(), authenticator()?, auth::origins(&settings.auth)?, settings.gateway());
    let stop = CancellationToken::new();
    let app = http::App::new(gateway.clone());
    listeners.push(clients);
    let serving: JoinSet<()> = listeners
        .into_iter()
        .map(|listener| http::serve(listener, app.clone(), stop.clone()))
        .collect();
    let serving = tokio::spawn(async move { drop(serving.join_all().await) });
    status.started(Parts {
        engine: engine.clone(),
        plugins,
        durability,
        verification: verification.clone(),
    });
    let verifying = tokio::spawn(verify::run(embedded, written, verification));
    tracing::info!(clients = %addresses.0, operators = %addresses.1, %durability, data_dir = %settings.server.data_dir.display(), version = version::VERSION, commit = version::COMMIT, "serving");

    signals.first().await;
    verifying.abort();
    let end = tokio::spawn(drain(settings, status, gateway, engine, serving, stop));
    tokio::select! {
        () = signals.next() => {
            tracing::warn!("second signal: ending at once");
            std::process::exit(1);
        }
        _ = end => {}
    }
    upkeep.abort();
    probes.abort();
    Ok(())
}

fn listen(address: SocketAddr, key: &str, flag: &str) -> Result<TcpListener, Failure> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?; // A server that starts again need not wait for connections of the one before.
        socket.bind(address)?;
        socket.listen(WAITING_CONNECTIONS_MAX)
    };
    open().map_err(|error| {
        Failure::new(Kind::Listen, format!("{key} = \"{address}\": {error}"))
            .hint(format!("set {key} ({flag} ADDR) to a free address of this machine, or stop who uses it"))
    })
}

async fn open_store(settings: &Settings) -> Result<Arc<EmbeddedStore>, Failure> {
    let (dir, options) = (settings.server.data_dir.clone(), settings.store.options());
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&dir, options)).await;
    let opened = opened.unwrap_or_else(|panicked| Err(StoreError::Open(panicked.to_string())));
    opened.map(Arc::new).map_err(|error| unopened(settings, &error))
}

fn unopened(settings: &Settings, error: &StoreError) -> Failure {
    let dir = settings.server.data_dir.display();
    let hint = match error {
        StoreError::Corrupt(_) => format!("haggle doctor --data {dir}; keep a copy, then restore a backup"),
        _ => "stop the other server, or give server.data_dir (--data DIR) another directory that this user may write".to_owned(),
    };
    Failure::new(Kind::DataDir, format!("server.data_dir = \"{dir}\": {error}")).hint(hint)
}

async fn start_engine(settings: &Settings, store: SharedStore, plugins: &Plugins) -> Result<Engine, Failure> {
    let options = EngineOptions {
        store,
        hooks: plugins.hooks(),
        limits: settings.limits.limits(),
        clock: Arc::new(SystemClock),
        erase_after: Duration::from_secs(settings.retention.erase_after_hours * 3600),
        reject_unknown_users: settings.users.unknown == UnknownUsers::Reject,
        commit_interval: Duration::from_micros(settings.store.commit_interval_us),
    };
    Engine::start(options).await.map_err(|error| unopened(settings, &error))
}

/// Without it histograms would grow until somebody scrapes.
async fn keep_up(recorder: metrics_exporter_prometheus::PrometheusHandle, status: Arc<Status>) {
    let mut ticks = tokio::time::interval(metrics::UPKEEP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
        metrics::sample();
        status.show();
    }
}

/// The end, in order and in time.
async fn drain(settings: Settings, status: Arc<Status>, gateway: Arc<Gateway>, engine: Engine, serving: JoinHandle<()>, stop: CancellationToken) {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(settings.drain.within_ms);
    tracing::info!("draining");
    status.drain();
    tokio::time::sleep(Duration::from_millis(settings.drain.delay_ms)).await;
    stop.cancel();
    gateway.connections.drain();
    gateway.socketio.drain();
    // Acks in flight still reach their clients.
    let clients_gone = async {
        let left = deadline
            .saturating_duration_since(tokio::time::Instant::now())
            .saturating_sub(ENGINE_STOP_MIN);
        gateway.connections.drained(left).await;
        let _ = serving.await;
    };
    let _ = tokio::time::timeout_at(deadline - ENGINE_STOP_MIN, clients_gone).await;
    if tokio::time::timeout_at(deadline, engine.shutdown()).await.is_err() {
        tracing::warn!("the engine did not stop in time; nothing acknowledged is lost");
    }
    tracing::info!("drained");
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn first(&mut self) {
        self.next().await;
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
