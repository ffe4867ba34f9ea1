//! Takes the text of deleted messages out of the log, and every trace of it out of the files.
//!
//! `secure_delete` overwrites what leaves a page with zeros; a truncating checkpoint leaves no older page behind in the
//! write-ahead log. The views hold no text. A message counts as erased in the views only when all that is done, so a crash on
//! the way means that it is done again.

use haggle_model::{Entry, MessageId, Millis, Pos};
use rusqlite::Connection;

use super::{
    Shared,
    applier::About,
    checkpoint::wal_checkpoint,
    readers::Sees,
    row,
    schema::{LOG_FILE, VIEWS_FILE, conversation, key, sql_error},
};
use crate::StoreError;

/// Rows that one transaction rewrites; the lane waits meanwhile.
const ROWS_AT_ONCE: usize = 256;

pub(super) fn erase_deleted(shared: &Shared, deleted_before: Millis, limit: usize) -> Result<usize, StoreError> {
    shared.backlog.wait_applied(About::All)?;
    let (messages, rows) = {
        let reader = shared.readers.open(Sees::Log)?;
        let messages = deleted_messages(reader.connection(), deleted_before, limit)?;
        let rows = redacted_rows(reader.connection(), &messages)?;
        (messages, rows)
    };
    if messages.is_empty() {
        return Ok(0);
    }
    for rows in rows.chunks(ROWS_AT_ONCE) {
        shared.writer.lock().rewrite(rows)?;
    }
    truncate(shared, &messages)?;
    Ok(messages.len())
}

fn deleted_messages(conn: &Connection, deleted_before: Millis, limit: usize) -> Result<Vec<MessageId>, StoreError> {
    let select = "SELECT conversation, seq FROM changed WHERE deleted_at IS NOT NULL AND deleted_at < ?1 AND erased = 0 ORDER BY deleted_at LIMIT ?2";
    let messages = conn.prepare_cached(select).and_then(|mut select| {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        select
            .query_map((deleted_before, limit), |row| Ok(conversation(row.get(0)?).message(row.get(1)?)))?
            .collect()
    });
    messages.map_err(|error| sql_error(VIEWS_FILE, error))
}

/// The created and edited entries of the messages, without their text.
fn redacted_rows(conn: &Connection, messages: &[MessageId]) -> Result<Vec<(Pos, Entry)>, StoreError> {
    let mut rows = Vec::new();
    for message in messages {
        for pos in positions(conn, *message).map_err(|error| sql_error(VIEWS_FILE, error))? {
            let entry = row::read_one(conn, pos)?;
            let event = entry.event.redacted();
            rows.push((
                pos,
                Entry {
                    event,
                    redacted: true,
                    ..entry
                },
            ));
        }
    }
    Ok(rows)
}

fn positions(conn: &Connection, message: MessageId) -> rusqlite::Result<Vec<Pos>> {
    let mut select = conn.prepare_cached(
        "SELECT pos FROM entries WHERE conversation = ?1 AND seq = ?2 UNION ALL SELECT pos FROM entries INDEXED BY edits WHERE conversation = ?1 AND target = ?2",
    )?;
    select
        .query_map((key(message.conversation), message.seq), |row| Ok(Pos(row.get::<_, i64>(0)? as u64)))?
        .collect()
}

/// Empties the write-ahead logs, whose old pages still have the text.
fn truncate(shared: &Shared, messages: &[MessageId]) -> Result<(), StoreError> {
    let _closed = shared.readers.close();
    let writer = shared.writer.lock();
    let mut views = shared.views.lock();
    let log_is_clean = wal_checkpoint(writer.connection()?, LOG_FILE, "TRUNCATE")?;
    if log_is_clean && views.erased(messages)? {
        Ok(())
    } else {
        Err(StoreError::Unavailable(
            "a write-ahead log is in use; erasing is to be tried again".to_string(),
        ))
    }
}
