//! Copies the log's write-ahead log into the file, beside the lane's commits.
//!
//! SQLite would do it inside a commit: simple, but that commit's acks wait for two more syncs and thousands of pages, and a
//! checkpoint that only ever runs on a second connection never catches up with a busy writer, so that the write-ahead log grows
//! without end. Here the bulk is copied on a connection of its own while the lane goes on; what was appended meanwhile, a few
//! pages, is copied with the lane held, and then the write-ahead log starts from its beginning.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::{
    Shared,
    schema::{self, LOG_FILE, sql_error},
};
use crate::StoreError;

/// About how many pages (4 KiB) of write-ahead log are worth a checkpoint.
pub(super) const CHECKPOINT_PAGES: usize = 1_000;

/// How long the second step waits for readers; the lane waits with it, so it is short. It is tried again at the next turn.
const READERS_WAIT: Duration = Duration::from_millis(20);

/// How the writer calls its checkpointer.
#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    rung: Condvar,
}

#[derive(Default)]
struct State {
    due: bool,
    stopping: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.state.lock().due = true;
        self.rung.notify_one();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.rung.notify_one();
    }

    /// `false` when it is time to stop.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.due && !state.stopping {
            self.rung.wait(&mut state);
        }
        state.due = false;
        !state.stopping
    }
}

/// The checkpointer's thread.
pub(super) fn run(shared: &Arc<Shared>) {
    while shared.bell.wait() {
        if let Err(error) = checkpoint(shared) {
            tracing::warn!(%error, "checkpoint failed; it is tried again");
        }
    }
}

fn checkpoint(shared: &Shared) -> Result<(), StoreError> {
    let _open = shared.readers.keep_open();
    let _moving = shared.readers.moving(); // one who stays in an old moment would keep the write-ahead log from its beginning
    let conn = schema::open_checkpointer(&shared.dir)?;
    wal_checkpoint(&conn, LOG_FILE, "PASSIVE")?;
    conn.busy_timeout(READERS_WAIT).map_err(|error| sql_error(LOG_FILE, error))?;
    let _lane = shared.writer.lock();
    wal_checkpoint(&conn, LOG_FILE, "RESTART")?;
    Ok(())
}

/// Runs one checkpoint; `true` when all of the write-ahead log is in the file.
pub(super) fn wal_checkpoint(conn: &Connection, file: &str, mode: &str) -> Result<bool, StoreError> {
    let busy = conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get::<_, i64>(0));
    busy.map(|busy| busy == 0).map_err(|error| sql_error(file, error))
}
