//! The writing side of `views.db`.

use std::path::{Path, PathBuf};

use haggle_model::{MessageId, Pos};
use rusqlite::{Connection, OptionalExtension};

use super::{
    apply::Batch,
    checkpoint::wal_checkpoint,
    hot::HotRows,
    schema::{self, LOG_FILE, VIEWS_FILE, key, sql_error},
};
use crate::{StoreError, Tail};

/// The one connection that writes the views. It reads the log too, attached as `l`.
pub(super) struct ViewsFile {
    dir: PathBuf,
    /// Absent after an error on opening it; tried again with the next use.
    conn: Option<Connection>,
    hot: HotRows,
}

impl ViewsFile {
    /// Opens the views of the log in `dir`, which ends at `tail`, and says how far they go. What is missing, damaged, of another
    /// version or of another log is made anew, empty.
    pub(super) fn open(dir: &Path, tail: Tail) -> Result<(ViewsFile, Pos), StoreError> {
        let mut views = ViewsFile {
            dir: dir.to_path_buf(),
            conn: None,
            hot: HotRows::default(),
        };
        if dir.join(VIEWS_FILE).exists() {
            match views.applied_of(tail) {
                Ok(applied) => return Ok((views, applied)),
                Err(error) => tracing::warn!(%error, "the views are made again from the log"),
            }
        }
        views.start_over()?;
        Ok((views, Pos(0)))
    }

    /// The connection.
    pub(super) fn connection(&mut self) -> Result<&Connection, StoreError> {
        if self.conn.is_none() {
            self.conn = Some(attach(schema::open_views(&self.dir)?, &self.dir)?);
        }
        Ok(self.conn.as_ref().expect("just opened"))
    }

    /// Begins a transaction of entries.
    pub(super) fn batch(&mut self) -> Result<Batch<'_>, StoreError> {
        self.connection()?;
        Batch::begin(self.conn.as_ref().expect("just opened"), &mut self.hot)
    }

    /// Closes the file; the next use opens it again.
    pub(super) fn close(&mut self) {
        self.conn = None;
        self.hot.clear();
    }

    /// Puts empty views in the place of these. No reader has the file open.
    pub(super) fn start_over(&mut self) -> Result<(), StoreError> {
        self.close();
        self.conn = Some(attach(schema::create_views(&self.dir)?, &self.dir)?);
        Ok(())
    }

    /// Notes that nothing is left of the text of these messages, and leaves no trace of earlier rows.
    pub(super) fn erased(&mut self, messages: &[MessageId]) -> Result<bool, StoreError> {
        let conn = self.connection()?;
        mark_erased(conn, messages).map_err(|error| sql_error(VIEWS_FILE, error))?;
        wal_checkpoint(conn, VIEWS_FILE, "TRUNCATE")
    }

    /// How far the views go, if they belong to this log.
    fn applied_of(&mut self, tail: Tail) -> Result<Pos, StoreError> {
        let with_file = |error| sql_error(VIEWS_FILE, error);
        let conn = self.connection()?;
        let (applied, ts) = conn
            .query_row("SELECT applied, applied_ts FROM meta", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })
            .map_err(with_file)?;
        let at_applied: Option<i64> = conn
            .query_row("SELECT ts FROM log WHERE pos = ?1", [applied], |row| row.get(0))
            .optional()
            .map_err(with_file)?;
        let fits = applied as u64 <= tail.pos.0 && at_applied.unwrap_or(0) == ts;
        if fits {
            Ok(Pos(applied as u64))
        } else {
            Err(StoreError::Corrupt(format!("{VIEWS_FILE} belongs to another log")))
        }
    }
}

fn attach(conn: Connection, dir: &Path) -> Result<Connection, StoreError> {
    conn.execute("ATTACH ?1 AS l", [dir.join(LOG_FILE).to_string_lossy()])
        .map_err(|error| sql_error(LOG_FILE, error))?;
    Ok(conn)
}

fn mark_erased(conn: &Connection, messages: &[MessageId]) -> rusqlite::Result<()> {
    let transaction = conn.unchecked_transaction()?;
    let mut update = conn.prepare_cached("UPDATE changed SET erased = 1 WHERE conversation = ?1 AND seq = ?2")?;
    for message in messages {
        update.execute((key(message.conversation), message.seq))?;
    }
    drop(update);
    transaction.commit()
}
