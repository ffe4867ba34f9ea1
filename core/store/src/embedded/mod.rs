//! The store of one machine: SQLite, used as a log with views.
//!
//! `log.db` holds the log and what is state beside it (cursors, failed deliveries). It is the truth: an ack means that its
//! write-ahead log has been synced. `views.db` holds everything that can be made again from the log, follows it some
//! milliseconds behind and is thrown away when it does not fit. Reads wait for it (`docs/adr/0001-reads-wait-for-the-applier.md`).
//!
//! Start with [`EmbeddedStore::open`]. Then: an entry's way in is `log` (the writer), `applier` (the thread) and `apply`
//! (what an entry means); the way out is `readers` and `views`.
//!
//! Locks are taken in this order: the readers' gate, the writer, the views, the backlog. That of the readers' pool comes last.

mod acked;
mod applier;
mod apply;
mod checkpoint;
mod cursors;
mod erase;
mod hot;
mod log;
mod readers;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod views;
mod views_file;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use haggle_model::{Entry, KeyRing, Millis, Pos, Shard};
use parking_lot::Mutex;
use tempfile::TempDir;

use self::{
    applier::{About, Backlog},
    checkpoint::{Bell, CHECKPOINT_PAGES},
    log::Writer,
    readers::{Readers, Sees},
    views_file::ViewsFile,
};
use crate::{AppendError, Durability, Log, StoreError, Tail};

/// Entries that are committed and not yet in the views, in bytes; beyond it `append` waits.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long an append waits for room in that backlog before it gives up, having written nothing.
pub const BACKLOG_WAIT_MAX: Duration = Duration::from_secs(5);
/// Reads that run at the same time, each with a connection of its own; more wait.
pub const READERS_MAX: usize = 8;
/// How long entries gather before they are put into the views, unless a read wants them.
pub const APPLY_INTERVAL: Duration = Duration::from_millis(250);

/// The file whose lock says that a process has the directory open.
const LOCK_FILE: &str = "lock";

/// What may be chosen when a store is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// See [`BACKLOG_BYTES_MAX`].
    pub backlog_bytes_max: usize,
    /// See [`BACKLOG_WAIT_MAX`].
    pub backlog_wait_max: Duration,
    /// See [`READERS_MAX`].
    pub readers_max: usize,
    /// See [`APPLY_INTERVAL`].
    pub apply_interval: Duration,
    /// `log.db` does not grow beyond this; then appends are answered [`AppendError::Full`]. `None`: as far as the disk goes.
    pub log_bytes_max: Option<u64>,
}

impl Default for EmbeddedOptions {
    fn default() -> EmbeddedOptions {
        EmbeddedOptions {
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            backlog_wait_max: BACKLOG_WAIT_MAX,
            readers_max: READERS_MAX,
            apply_interval: APPLY_INTERVAL,
            log_bytes_max: None,
        }
    }
}

/// A [`Store`](crate::Store) in a directory of this machine; one process at a time, one shard.
///
/// `append` works on the calling thread and needs no runtime: it is called from the lane's own thread. Everything else moves
/// to tokio's blocking threads when there is a runtime.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the store's threads share.
struct Shared {
    dir: PathBuf,
    options: EmbeddedOptions,
    secret: [u8; 32],
    keys: KeyRing,
    readers: Readers,
    writer: Mutex<Writer>,
    views: Mutex<ViewsFile>,
    backlog: Backlog,
    bell: Bell,
    // The last two go last: the lock ends, and a temporary directory vanishes, when every file is closed.
    _lock: File,
    _temporary: Option<TempDir>,
}

impl EmbeddedStore {
    /// Opens the store in `dir`, which is made when it is not there.
    ///
    /// Verifies the end of the log and, where an earlier process did not come to it, lets the views catch up in the background.
    /// Errors: [`StoreError::Open`] when another process has it open or a newer version made it, [`StoreError::Corrupt`] when
    /// the end of the log is damaged or acknowledged entries are missing.
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<EmbeddedStore, StoreError> {
        Self::open_in(dir, options, None)
    }

    /// A store in a directory of its own that vanishes with it.
    pub fn open_temporary() -> Result<EmbeddedStore, StoreError> {
        let dir = TempDir::with_prefix("haggle-").map_err(|error| StoreError::Open(format!("temporary directory: {error}")))?;
        let path = dir.path().to_path_buf();
        Self::open_in(&path, EmbeddedOptions::default(), Some(dir))
    }

    fn open_in(dir: &Path, options: EmbeddedOptions, temporary: Option<TempDir>) -> Result<EmbeddedStore, StoreError> {
        std::fs::create_dir_all(dir).map_err(|error| StoreError::Open(format!("{}: {error}", dir.display())))?;
        let lock = lock(dir)?;
        let writer = Writer::open(dir, options.log_bytes_max)?;
        let tail = writer.tail();
        let secret = schema::installation_secret(writer.connection()?)?;
        let (views, applied) = ViewsFile::open(dir, tail)?;
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            secret,
            keys: KeyRing::new(secret),
            readers: Readers::new(dir.to_path_buf(), options.readers_max),
            writer: Mutex::new(writer),
            views: Mutex::new(views),
            backlog: Backlog::new(applied, tail.pos, options.backlog_bytes_max, options.backlog_wait_max),
            bell: Bell::default(),
            _lock: lock,
            _temporary: temporary,
            options,
        });
        let threads = vec![
            spawn("haggle-applier", &shared, |shared| applier::run(shared, shared.options.apply_interval))?,
            spawn("haggle-checkpoint", &shared, checkpoint::run)?,
        ];
        Ok(EmbeddedStore { shared, threads })
    }

    /// Reads the whole log and compares every row with its checksum; returns up to which position. The error names the file and
    /// the position. Takes about 2 s per million rows and holds nobody up.
    pub async fn verify(&self) -> Result<Pos, StoreError> {
        let (mut from, end) = (Pos(0), self.end());
        while from < end {
            from = self.verify_some(from, end).await?;
        }
        Ok(end)
    }

    /// The same for some rows after `from` up to `end`; returns up to which position. For who has better things to do in between.
    pub async fn verify_some(&self, from: Pos, end: Pos) -> Result<Pos, StoreError> {
        let shared = self.shared.clone();
        blocking(move || shared.verify_some(from, end)).await
    }

    /// Where the log ends now.
    pub fn end(&self) -> Pos {
        self.shared.writer.lock().tail().pos
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.backlog.stop();
        self.shared.bell.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Shared {
    /// Rows that [`EmbeddedStore::verify_some`] reads in one transaction: a longer one would keep checkpoints waiting, and what they
    /// take in memory stays with the allocator, once for every thread that has read some.
    const VERIFIED_AT_ONCE: u64 = 1_000;

    fn verify_some(&self, from: Pos, end: Pos) -> Result<Pos, StoreError> {
        let to = Pos(end.0.min(from.0 + Self::VERIFIED_AT_ONCE)).max(from);
        let reader = self.readers.open(Sees::Log)?;
        log::verify_rows(reader.connection(), from, to)?;
        Ok(to)
    }

    fn append(&self, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        self.backlog.wait_for_room()?;
        let mut writer = self.writer.lock();
        let (new_tail, bytes) = writer.append(tail, &entries)?;
        self.backlog.push(tail.pos, entries, bytes); // still under the lock: the backlog is in the order of the log
        if writer.take_wal_pages(CHECKPOINT_PAGES) {
            self.bell.ring();
        }
        Ok(new_tail)
    }

    fn read(&self, after: Pos, limit: usize) -> Result<Vec<(Pos, Arc<Entry>)>, StoreError> {
        let reader = self.readers.open(Sees::Log)?;
        row::read_after(reader.connection(), after, limit)
    }

    fn recover(&self) -> Result<Tail, StoreError> {
        let _closed = self.readers.close();
        let mut writer = self.writer.lock();
        self.views.lock().close(); // it reads the log too
        let tail = writer.reopen(&self.dir, self.options.log_bytes_max)?;
        self.backlog.committed_up_to(tail.pos);
        Ok(tail)
    }

    fn rebuild_views(&self) -> Result<(), StoreError> {
        {
            let _closed = self.readers.close();
            let mut views = self.views.lock();
            views.start_over()?;
            self.backlog.start_over();
        }
        self.backlog.wait_applied(About::All)
    }
}

#[async_trait]
impl Log for EmbeddedStore {
    fn shards(&self) -> u16 {
        1
    }

    fn durability(&self) -> Durability {
        Durability::Synced
    }

    async fn installation_secret(&self) -> Result<[u8; 32], StoreError> {
        Ok(self.shared.secret)
    }

    async fn tail(&self, shard: Shard) -> Result<Tail, StoreError> {
        only(shard)?;
        Ok(self.shared.writer.lock().tail())
    }

    async fn append(&self, shard: Shard, tail: Tail, entries: Vec<Arc<Entry>>) -> Result<Tail, AppendError> {
        only(shard).map_err(|error| AppendError::Unavailable(error.to_string()))?;
        self.shared.append(tail, entries)
    }

    async fn read(&self, shard: Shard, after: Pos, limit: usize) -> Result<Vec<(Pos, Arc<Entry>)>, StoreError> {
        only(shard)?;
        let _permit = self.shared.readers.permit().await;
        let shared = self.shared.clone();
        blocking(move || shared.read(after, limit)).await
    }

    async fn recover(&self, shard: Shard) -> Result<Tail, StoreError> {
        only(shard)?;
        let shared = self.shared.clone();
        blocking(move || shared.recover()).await
    }

    async fn erase_deleted(&self, deleted_before: Millis, limit: usize) -> Result<usize, StoreError> {
        let shared = self.shared.clone();
        blocking(move || erase::erase_deleted(&shared, deleted_before, limit)).await
    }
}

fn only(shard: Shard) -> Result<(), StoreError> {
    if shard == Shard(0) {
        Ok(())
    } else {
        Err(StoreError::Unavailable(format!("the embedded store has one shard, not {shard}")))
    }
}

/// Runs what blocks away from the runtime's own threads, or right here when there is no runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => match runtime.spawn_blocking(work).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => std::future::pending().await, // the runtime is shutting down, and this future with it
        },
        Err(_) => work(),
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let open = |error| StoreError::Open(format!("{}: {error}", path.display()));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(open)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.display().to_string())),
        Err(TryLockError::Error(error)) => Err(open(error)),
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: impl FnOnce(&Arc<Shared>) + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let shared = shared.clone();
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || run(&shared));
    thread.map_err(|error| StoreError::Open(format!("thread {name}: {error}")))
}
