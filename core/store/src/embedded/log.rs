//! The one writer of `log.db`.
//!
//! [`Writer::append`] is the hot path of the whole server: one transaction per group, one cached statement, no allocation per
//! row, one sync. It never checkpoints; see `checkpoint.rs`.

use std::{path::Path, sync::Arc};

use haggle_model::{Entry, Pos};
use rusqlite::{Connection, ErrorCode};

use super::{
    acked::Acked,
    row,
    schema::{self, LOG_FILE, sql_error},
};
use crate::{AppendError, StoreError, Tail};

/// Rows at the end of the log whose checksums are verified before it is written again.
const TAIL_ROWS_VERIFIED: u64 = 1_000;

/// What a page of SQLite holds; the write-ahead log grows by whole pages.
const PAGE_BYTES: usize = 4096;

pub(super) struct Writer {
    conn: Connection,
    tail: Tail,
    /// Why nothing may be written until [`Writer::reopen`].
    failure: Option<String>,
    encoder: row::Encoder,
    acked: Acked,
    /// About how many pages the write-ahead log has grown by since the last checkpoint.
    wal_pages: usize,
}

impl Writer {
    /// Opens or makes the log in `dir` and verifies its end.
    pub(super) fn open(dir: &Path, log_bytes_max: Option<u64>) -> Result<Writer, StoreError> {
        let (acked, acked_pos) = Acked::open(dir).map_err(|error| StoreError::Open(format!("{}: {error}", dir.display())))?;
        let (conn, tail) = open_verified(dir, acked_pos, log_bytes_max)?;
        let mut writer = Writer {
            conn,
            tail,
            failure: None,
            encoder: row::Encoder::default(),
            acked,
            wal_pages: 0,
        };
        writer.acked.set(tail.pos);
        Ok(writer)
    }

    /// Where the log ends.
    pub(super) fn tail(&self) -> Tail {
        self.tail
    }

    /// The connection, for what stands beside the log. Refused like an append after a failed write.
    pub(super) fn connection(&self) -> Result<&Connection, StoreError> {
        match &self.failure {
            Some(failure) => Err(StoreError::Unavailable(failure.clone())),
            None => Ok(&self.conn),
        }
    }

    /// Appends after `tail` in one durable transaction; returns the new tail and the bytes written.
    pub(super) fn append(&mut self, tail: Tail, entries: &[Arc<Entry>]) -> Result<(Tail, usize), AppendError> {
        if let Some(failure) = &self.failure {
            return Err(AppendError::Failed(failure.clone()));
        }
        if tail != self.tail {
            return Err(AppendError::Fenced);
        }
        if !entries.iter().map(|entry| entry.ts).is_sorted_by(|a, b| a < b) || entries.first().is_some_and(|entry| entry.ts <= tail.ts) {
            return Err(AppendError::Unavailable("refused: ts must increase strictly".to_string()));
        }
        let Some(last) = entries.last() else { return Ok((tail, 0)) };
        let bytes = match commit(&self.conn, &mut self.encoder, tail, entries) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.rolled_back(error)),
        };
        self.tail = Tail {
            pos: Pos(tail.pos.0 + entries.len() as u64),
            ts: last.ts,
        };
        self.acked.set(self.tail.pos);
        self.wal_pages += bytes / PAGE_BYTES + 2; // the last page of the table and the one before are written again
        Ok((self.tail, bytes))
    }

    /// After an error in a transaction: nothing was written and all is well, or nobody knows and nothing more is written.
    fn rolled_back(&mut self, error: rusqlite::Error) -> AppendError {
        let clean = self.conn.is_autocommit() || self.conn.execute_batch("ROLLBACK").is_ok();
        let text = format!("{LOG_FILE}: {error}");
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) if clean => AppendError::Full(text),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if clean => AppendError::Unavailable(text),
            _ => {
                tracing::error!(file = LOG_FILE, %error, "the log failed; nothing is written until it has been reopened");
                self.failure = Some(text.clone());
                AppendError::Failed(text)
            }
        }
    }

    /// Opens the file anew, so that SQLite reads what the disk really holds, and verifies its end. The caller has closed every
    /// other connection.
    pub(super) fn reopen(&mut self, dir: &Path, log_bytes_max: Option<u64>) -> Result<Tail, StoreError> {
        let placeholder = Connection::open_in_memory().map_err(|error| sql_error(LOG_FILE, error))?;
        drop(std::mem::replace(&mut self.conn, placeholder));
        self.failure = Some("the log could not be reopened".to_string());
        let (conn, tail) = open_verified(dir, self.tail.pos, log_bytes_max)?;
        self.conn = conn;
        self.tail = tail;
        self.acked.set(tail.pos);
        self.failure = None;
        Ok(tail)
    }

    /// Rewrites rows in place, in one transaction.
    pub(super) fn rewrite(&mut self, rows: &[(Pos, Entry)]) -> Result<(), StoreError> {
        self.connection()?;
        rewrite(&self.conn, &mut self.encoder, rows).map_err(|error| self.refused(error))
    }

    /// What an error in a transaction means that is no append: after a failed sync nothing is written either.
    pub(super) fn refused(&mut self, error: rusqlite::Error) -> StoreError {
        StoreError::Unavailable(self.rolled_back(error).to_string())
    }

    /// Whether it is time for a checkpoint of more than `pages`; says so once.
    pub(super) fn take_wal_pages(&mut self, pages: usize) -> bool {
        let due = self.wal_pages >= pages;
        if due {
            self.wal_pages = 0;
        }
        due
    }
}

fn commit(conn: &Connection, encoder: &mut row::Encoder, tail: Tail, entries: &[Arc<Entry>]) -> rusqlite::Result<usize> {
    let mut insert = row::insert(conn)?;
    let mut pos = tail.pos;
    let mut bytes = 0;
    conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    for entry in entries {
        pos = pos.next();
        bytes += encoder.write(&mut insert, pos, entry)?;
    }
    conn.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(bytes)
}

fn rewrite(conn: &Connection, encoder: &mut row::Encoder, rows: &[(Pos, Entry)]) -> rusqlite::Result<()> {
    let mut replace = row::replace(conn)?;
    conn.prepare_cached("BEGIN IMMEDIATE")?.raw_execute()?;
    for (pos, entry) in rows {
        encoder.write(&mut replace, *pos, entry)?;
    }
    conn.prepare_cached("COMMIT")?.raw_execute()?;
    Ok(())
}

/// Opens the log, which must reach up to `acked` and end in rows that are what was once written.
fn open_verified(dir: &Path, acked: Pos, log_bytes_max: Option<u64>) -> Result<(Connection, Tail), StoreError> {
    let conn = schema::open_log(dir)?;
    if let Some(bytes) = log_bytes_max {
        let pages = i64::try_from(bytes / PAGE_BYTES as u64).unwrap_or(i64::MAX);
        conn.pragma_update(None, "max_page_count", pages)
            .map_err(|error| sql_error(LOG_FILE, error))?;
    }
    let tail = row::tail(&conn)?;
    if tail.pos < acked {
        return Err(StoreError::Corrupt(format!(
            "{}: entries up to position {acked} were acknowledged, but the file and its write-ahead log end at {}; restore both (remove the file `acked` only to accept the loss)",
            dir.join(LOG_FILE).display(),
            tail.pos
        )));
    }
    let from = Pos(tail.pos.0.saturating_sub(TAIL_ROWS_VERIFIED));
    verify_rows(&conn, from, tail.pos)?;
    Ok((conn, tail))
}

/// Checks every row after `from` up to `to`.
pub(super) fn verify_rows(conn: &Connection, mut from: Pos, to: Pos) -> Result<(), StoreError> {
    while from < to {
        let rows = row::read_after(conn, from, (to.0 - from.0) as usize)?;
        let Some((last, _)) = rows.last() else {
            return Err(StoreError::Corrupt(format!("{LOG_FILE}: position {} is missing", from.next())));
        };
        from = *last;
    }
    Ok(())
}
