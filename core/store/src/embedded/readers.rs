//! Connections that read. Each one sees one moment of the views, and the log behind it.
//!
//! To begin and to end a read costs as much as a small answer: a lock of each file, taken and given back. So a connection that
//! goes back to the pool stays in its moment as long as the views do, and the next read of the views goes on there. Whoever
//! changes the views or needs the write-ahead logs for itself holds a [`Moving`]; meanwhile, and of what was begun before, nothing
//! stays.

use std::{path::PathBuf, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::schema::{self, VIEWS_FILE, sql_error};
use crate::StoreError;

pub(super) struct Readers {
    dir: PathBuf,
    pool: Mutex<Pool>,
    /// Read-locked while a connection is in use; locked for writing, none is.
    gate: RwLock<()>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct Pool {
    /// The last one is the next to be used.
    idle: Vec<Idle>,
    /// How often a [`Moving`] has begun, and how many are there.
    moves: u64,
    moving: u32,
}

struct Idle {
    conn: Connection,
    /// In a read transaction, whose moment is the present one.
    in_moment: bool,
}

impl Pool {
    /// The moment in which a read begins; none while it is about to pass.
    fn moment(&self) -> Option<u64> {
        (self.moving == 0).then_some(self.moves)
    }
}

/// What a read must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sees {
    /// Everything that was in the views when it began, and what else changes only while a [`Moving`] is held.
    Views,
    /// Everything that was in the log and beside it, too.
    Log,
}

impl Readers {
    /// A pool of at most `readers_max` connections for callers with a [permit](Self::permit).
    pub(super) fn new(dir: PathBuf, readers_max: usize) -> Readers {
        Readers {
            dir,
            pool: Mutex::default(),
            gate: RwLock::new(()),
            permits: Arc::new(Semaphore::new(readers_max.max(1))),
        }
    }

    /// Waits until one of the connections may be used.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A connection at one moment of the views.
    pub(super) fn open(&self, sees: Sees) -> Result<Reader<'_>, StoreError> {
        let gate = self.gate.read();
        let (idle, moment) = self.take();
        let idle = match idle {
            Some(idle) => idle,
            None => Idle {
                conn: schema::open_reader(&self.dir)?,
                in_moment: false,
            },
        };
        self.begin(idle, moment, sees, gate)
    }

    /// The same, if one is idle now.
    pub(super) fn try_open(&self, sees: Sees) -> Option<Reader<'_>> {
        let gate = self.gate.try_read()?;
        let (idle, moment) = self.take();
        self.begin(idle?, moment, sees, gate).ok()
    }

    fn take(&self) -> (Option<Idle>, Option<u64>) {
        let mut pool = self.pool.lock();
        (pool.idle.pop(), pool.moment())
    }

    fn begin<'a>(&'a self, idle: Idle, moment: Option<u64>, sees: Sees, gate: RwLockReadGuard<'a, ()>) -> Result<Reader<'a>, StoreError> {
        let Idle { conn, mut in_moment } = idle;
        if in_moment && sees == Sees::Log {
            end(&conn).map_err(views_error)?;
            in_moment = false;
        }
        if !in_moment {
            conn.prepare_cached("BEGIN")
                .and_then(|mut begin| begin.raw_execute().map(drop))
                .map_err(views_error)?;
        }
        Ok(Reader {
            conn: Some(conn),
            moment,
            readers: self,
            _gate: gate,
        })
    }

    /// The present moment is about to pass, or the files are needed without readers: none that is idle stays in a read.
    pub(super) fn moving(&self) -> Moving<'_> {
        let mut pool = self.pool.lock();
        pool.moves += 1;
        pool.moving += 1;
        pool.idle
            .retain_mut(|idle| !std::mem::take(&mut idle.in_moment) || end(&idle.conn).is_ok());
        drop(pool);
        Moving(self)
    }

    /// Keeps the files open: [`Readers::close`] waits until the guard is gone.
    pub(super) fn keep_open(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// The next read goes on in the moment of an earlier one.
    #[cfg(test)]
    pub(super) fn stays_in_its_moment(&self) -> bool {
        self.pool.lock().idle.last().is_some_and(|idle| idle.in_moment)
    }

    /// Closes every connection. None is opened while the guard lives.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = self.gate.write();
        self.pool.lock().idle.clear();
        gate
    }
}

/// See [`Readers::moving`].
pub(super) struct Moving<'a>(&'a Readers);

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.pool.lock().moving -= 1;
    }
}

/// A connection in a read transaction; goes back to the pool when dropped.
pub(super) struct Reader<'a> {
    conn: Option<Connection>,
    /// In which it began; none when that was about to pass.
    moment: Option<u64>,
    readers: &'a Readers,
    _gate: RwLockReadGuard<'a, ()>,
}

impl Reader<'_> {
    pub(super) fn connection(&self) -> &Connection {
        self.conn.as_ref().expect("there until dropped")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let mut pool = self.readers.pool.lock();
        if self.moment.is_some() && self.moment == pool.moment() {
            return pool.idle.push(Idle { conn, in_moment: true });
        }
        drop(pool);
        // One that cannot even end a read is not kept.
        if end(&conn).is_ok() {
            self.readers.pool.lock().idle.push(Idle { conn, in_moment: false });
        }
    }
}

fn end(conn: &Connection) -> rusqlite::Result<()> {
    conn.prepare_cached("COMMIT")?.raw_execute().map(drop)
}

fn views_error(error: rusqlite::Error) -> StoreError {
    sql_error(VIEWS_FILE, error)
}
