//! Connections that read. Each one sees one moment of the views, and the log behind it.

use std::{path::PathBuf, sync::Arc};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::schema::{self, VIEWS_FILE, sql_error};
use crate::StoreError;

pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
    /// Read-locked while a connection is in use; locked for writing, none is.
    gate: RwLock<()>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// A pool of at most `readers_max` connections for callers with a [permit](Self::permit).
    pub(super) fn new(dir: PathBuf, readers_max: usize) -> Readers {
        Readers {
            dir,
            idle: Mutex::default(),
            gate: RwLock::new(()),
            permits: Arc::new(Semaphore::new(readers_max.max(1))),
        }
    }

    /// Waits until one of the connections may be used.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        self.permits.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A connection at one moment of the views.
    pub(super) fn open(&self) -> Result<Reader<'_>, StoreError> {
        let gate = self.gate.read();
        let idle = self.idle.lock().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_reader(&self.dir)?,
        };
        self.begin(conn, gate)
    }

    /// The same, if one is idle now.
    pub(super) fn try_open(&self) -> Option<Reader<'_>> {
        let gate = self.gate.try_read()?;
        let conn = self.idle.lock().pop()?;
        self.begin(conn, gate).ok()
    }

    fn begin<'a>(&'a self, conn: Connection, gate: RwLockReadGuard<'a, ()>) -> Result<Reader<'a>, StoreError> {
        conn.prepare_cached("BEGIN")
            .and_then(|mut begin| begin.raw_execute().map(drop))
            .map_err(|error| sql_error(VIEWS_FILE, error))?;
        Ok(Reader {
            conn: Some(conn),
            readers: self,
            _gate: gate,
        })
    }

    /// Keeps the files open: [`Readers::close`] waits until the guard is gone.
    pub(super) fn keep_open(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    /// Closes every connection. None is opened while the guard lives.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        let gate = self.gate.write();
        self.idle.lock().clear();
        gate
    }
}

/// A connection in a read transaction; goes back to the pool when dropped.
pub(super) struct Reader<'a> {
    conn: Option<Connection>,
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
        let ended = conn.prepare_cached("COMMIT").and_then(|mut commit| commit.raw_execute().map(drop));
        if ended.is_ok() {
            self.readers.idle.lock().push(conn); // one that cannot even end a read is not kept
        }
    }
}
