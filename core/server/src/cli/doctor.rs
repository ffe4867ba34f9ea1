//! `haggle doctor`: looks for what would keep a server from running well, and says how to mend it.

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use haggle_model::{Pos, Shard};
use haggle_store::{Log, StoreError, embedded::EmbeddedStore};

use super::{ConfigFrom, block_on, print};
use crate::{config::Settings, dev_key, failure::Failure, metrics, plugins};

/// Syncs that are timed.
const SYNCS: usize = 20;
/// A disk that takes longer for a sync makes every ack slow.
const SYNC_GOOD: Duration = Duration::from_millis(20);
/// Less free space than this is a warning.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Files besides connections: the store, the plugins, the log.
const FILES_OWN: u64 = 256;
/// Entries read at a time when the log is verified.
const PAGE: usize = 1_000;

/// Look for what would keep a server from running well
///
/// Checks the configuration, the data directory, the speed of the disk, every entry of the log, the plugins, the addresses and
/// the limits of the system. Prints one line each, with what to do about it; exit code 1 when something would not work. Run it
/// with the server stopped to have the log verified; a running server is noticed and left alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  haggle doctor --data ./data
  haggle doctor --config /etc/haggle/haggle.toml")]
pub struct DoctorArgs {
    #[command(flatten)]
    from: ConfigFrom,
}

/// How a check ended.
enum Finding {
    Good(String),
    /// It works, but somebody should look: what, and what to do.
    Odd(String, String),
    /// It does not work: what, and what to do.
    Bad(String, String),
}

pub fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let settings = match args.from.load() {
        Ok(loaded) => loaded.settings,
        Err(failure) => {
            let hint = failure.hint.clone().unwrap_or_default();
            report("configuration", Finding::Bad(failure.message, hint));
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut healthy = true;
    for (name, check) in CHECKS {
        healthy &= report(name, check(&settings));
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Check = fn(&Settings) -> Finding;

const CHECKS: [(&str, Check); 11] = [
    ("configuration", configuration),
    ("data directory", data_directory),
    ("free space", free_space),
    ("disk sync", disk_sync),
    ("log", log),
    ("plugins", plugin_files),
    ("namespaces", namespaces),
    ("bound routes", bound_routes),
    ("server.listen", |settings| address(settings.server.listen, "server.listen")),
    ("server.admin", |settings| address(settings.server.admin, "server.admin")),
    ("open files", open_files),
];

/// Prints one check; `false` when it is bad.
fn report(name: &str, finding: Finding) -> bool {
    let (word, text, hint, good) = match finding {
        Finding::Good(text) => ("good", text, None, true),
        Finding::Odd(text, hint) => ("look", text, Some(hint), true),
        Finding::Bad(text, hint) => ("BAD ", text, Some(hint), false),
    };
    print(&format!("{word}  {name:15} {}", text.replace('\n', "\n                      ")));
    if let Some(hint) = hint.filter(|hint| !hint.is_empty()) {
        print(&format!("                      try: {hint}"));
    }
    good
}

fn configuration(settings: &Settings) -> Finding {
    let only_dev = !settings.auth.has_key() && matches!(dev_key::read(&settings.server.data_dir), Ok(Some(_)));
    match settings.check() {
        Err(failure) if only_dev => Finding::Odd(
            format!("only `haggle serve --dev` can run: {}", failure.message),
            "set auth.secret in production".into(),
        ),
        Err(failure) => Finding::Bad(failure.message, failure.hint.unwrap_or_default()),
        Ok(()) if settings.auth.dev => Finding::Odd(
            "valid, for development: auth.dev is on".into(),
            "set auth.secret and auth.dev = false in production".into(),
        ),
        Ok(()) if (1..32).contains(&settings.auth.secret.len()) => Finding::Odd(
            format!("valid, but auth.secret has only {} bytes", settings.auth.secret.len()),
            "auth.secret = 32 random bytes: openssl rand -hex 32".into(),
        ),
        Ok(()) => Finding::Good("valid".into()),
    }
}

fn data_directory(settings: &Settings) -> Finding {
    let dir = &settings.server.data_dir;
    let probe = dir.join(".doctor");
    let tried = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, b"x"))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => Finding::Good(format!("{} can be written", dir.display())),
        Err(error) => Finding::Bad(
            format!("{}: {error}", dir.display()),
            "make server.data_dir (--data) a directory that this user may write".into(),
        ),
    }
}

fn free_space(settings: &Settings) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(&settings.server.data_dir) else {
        return Finding::Odd("unknown".into(), String::new());
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let text = format!("{:.1} GiB", free as f64 / (1_u64 << 30) as f64);
    if free >= FREE_BYTES_MIN {
        Finding::Good(text)
    } else {
        Finding::Odd(text, "the server turns read-only when the disk is full: give it more space".into())
    }
}

fn disk_sync(settings: &Settings) -> Finding {
    match time_syncs(&settings.server.data_dir) {
        Ok(median) if median <= SYNC_GOOD => Finding::Good(format!("{:.2} ms (median of {SYNCS})", median.as_secs_f64() * 1e3)),
        Ok(median) => Finding::Odd(
            format!("{:.1} ms (median of {SYNCS}): every ack waits for one", median.as_secs_f64() * 1e3),
            "put server.data_dir on a local SSD".into(),
        ),
        Err(error) => Finding::Bad(
            error.to_string(),
            "make server.data_dir (--data) a directory that this user may write".into(),
        ),
    }
}

fn time_syncs(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(".doctor-sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort();
    Ok(times[SYNCS / 2])
}

fn log(settings: &Settings) -> Finding {
    let store = match EmbeddedStore::open(&settings.server.data_dir, settings.store.options()) {
        Ok(store) => store,
        Err(error @ StoreError::InUse(_)) => {
            return Finding::Odd(
                format!("not verified: {error}"),
                "a running server verifies it itself (/readyz?verbose says how far); stop it to have it done here".into(),
            );
        }
        Err(error) => {
            return Finding::Bad(
                error.to_string(),
                "see \"The data directory\" in docs/OPERATIONS.md; keep a copy before anything else".into(),
            );
        }
    };
    match block_on(verify(&store)) {
        Ok(entries) => Finding::Good(format!("{entries} entries, every checksum right")),
        Err(failure) => Finding::Bad(failure.message, "restore the last backup; keep this copy".into()),
    }
}

/// Reads everything; the store verifies each row that it reads.
async fn verify(store: &impl Log) -> Result<u64, Failure> {
    let mut entries = 0;
    for shard in 0..store.shards() {
        let mut after = Pos(0);
        loop {
            let page = store
                .read(Shard(shard), after, PAGE)
                .await
                .map_err(|error| Failure::failed(error.to_string()))?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            entries += page.len() as u64;
        }
    }
    Ok(entries)
}

fn is_running(admin: SocketAddr) -> bool {
    std::net::TcpStream::connect_timeout(&admin, Duration::from_secs(1)).is_ok()
}

fn plugin_files(settings: &Settings) -> Finding {
    let dir = settings.plugins_dir();
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Finding::Good(format!("none: {} does not exist", dir.display()));
    };
    let folders: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("plugin.toml").is_file())
        .collect();
    let broken: Vec<_> = folders
        .iter()
        .filter_map(|folder| plugins::check(folder, settings).err())
        .map(|failure| failure.message)
        .collect();
    if broken.is_empty() {
        return Finding::Good(format!("{} in {}", folders.len(), dir.display()));
    }
    Finding::Bad(broken.join("\n"), "haggle plugin check FOLDER says more about one".into())
}

fn namespaces(settings: &Settings) -> Finding {
    match plugins::check_dialects(settings) {
        Ok(()) => Finding::Good(format!("{} of plugins", settings.socketio.dialects.len())),
        Err(failure) => Finding::Bad(failure.message, failure.hint.unwrap_or_default()),
    }
}

fn bound_routes(settings: &Settings) -> Finding {
    match plugins::check_routes(settings) {
        Ok(()) => Finding::Good(format!("of {} plugins", settings.http.routes.len())),
        Err(failure) => Finding::Bad(failure.message, failure.hint.unwrap_or_default()),
    }
}

fn address(address: SocketAddr, key: &str) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::Good(format!("{address} is free")),
        Err(error) if is_running(address) => Finding::Odd(
            format!("{address}: {error}"),
            format!("somebody listens there already; if that is not Haggle, set {key}"),
        ),
        Err(error) => Finding::Bad(format!("{address}: {error}"), format!("set {key} to an address of this machine")),
    }
}

fn open_files(settings: &Settings) -> Finding {
    let needed = settings.http.connections_max as u64 + FILES_OWN;
    match metrics::open_files_max() {
        Some(max) if max < needed => Finding::Odd(
            format!(
                "{max} at most, {needed} are needed for http.connections_max = {}",
                settings.http.connections_max
            ),
            "ulimit -n, or LimitNOFILE= in systemd".into(),
        ),
        Some(max) => Finding::Good(format!("{max} at most")),
        None => Finding::Good("no limit".into()),
    }
}
