//! Answered commands, found without an index of their ids.
//!
//! Ids are hashes: an index of them would cost every message a write to a random page. Retries come soon, so the newest rows of
//! the conversation are scanned for 8 bytes of the id, back to where nobody retries any more.

use haggle_model::{CommandId, ConversationId, Entry, Millis, Pos, Seq};
use rusqlite::params;

use super::{Snapshot, sql_limit};
use crate::{
    CommandRow, StoreError,
    embedded::{
        apply::command_hash,
        row,
        schema::{LOG_FILE, key, sql_error},
    },
};

const DAY: Millis = 24 * 3600 * 1000;
/// How far back [`Snapshot::command`] looks from the end of the log: the 7 days that are promised and one for clocks.
const COMMAND_AGE_MAX: Millis = 8 * DAY;
/// How far the wall clock may have been set back between two entries without an old command being missed.
const CLOCK_STEP_MAX: Millis = DAY;

/// Entries of the conversation with a command, newest first: the indexed ones and the few without a seq.
const WITH_COMMAND: &str = "SELECT pos FROM (
        SELECT pos FROM (SELECT pos, command FROM entries WHERE conversation = ?1 AND seq > ?4 AND command IS NOT NULL AND (?2 IS NULL OR command = ?2)
            ORDER BY seq DESC LIMIT ?5)
        UNION ALL
        SELECT pos FROM (SELECT pos FROM unsequenced WHERE conversation = ?1 AND pos >= ?3 AND (?2 IS NULL OR command = ?2) ORDER BY pos DESC LIMIT ?5)
    ) ORDER BY pos DESC LIMIT ?5";

impl Snapshot<'_> {
    pub(super) fn commands(&self, id: ConversationId, since: Millis, limit: usize) -> Result<Vec<CommandRow>, StoreError> {
        let floor = self.position_at(since.saturating_sub(CLOCK_STEP_MAX))?;
        let mut rows: Vec<CommandRow> = Vec::new();
        // One command may have several entries; they stand together, so a few more rows than asked for are enough most times.
        let mut asked = limit.saturating_add(16);
        loop {
            let positions = self.positions(id, None, floor, asked)?;
            let complete = positions.len() < asked;
            rows.clear();
            for pos in positions {
                gather(&mut rows, row::read_one(self.conn, pos)?);
            }
            if complete || rows.len() > limit {
                break; // a row too many says that the last one wanted is whole
            }
            asked = asked.saturating_mul(4);
        }
        rows.retain(|row| row.at >= since);
        rows.truncate(limit);
        Ok(rows)
    }

    pub(super) fn command(&self, id: ConversationId, command: CommandId) -> Result<Option<CommandRow>, StoreError> {
        let newest = self.one("SELECT at FROM log ORDER BY pos DESC LIMIT 1", [], |row| row.get::<_, Millis>(0))?;
        let floor = self.position_at(newest.unwrap_or_default() - COMMAND_AGE_MAX)?;
        let mut rows = Vec::new();
        for pos in self.positions(id, Some(command_hash(&command.0)), floor, usize::MAX)? {
            let entry = row::read_one(self.conn, pos)?;
            if entry.command == Some(command) {
                gather(&mut rows, entry);
            }
        }
        Ok(rows.pop())
    }

    fn positions(&self, id: ConversationId, hash: Option<i64>, floor: Pos, limit: usize) -> Result<Vec<Pos>, StoreError> {
        let below = self.seq_below(id, floor)?;
        self.all(WITH_COMMAND, params![key(id), hash, floor.0 as i64, below, sql_limit(limit)], |row| {
            Ok(Pos(row.get::<_, i64>(0)? as u64))
        })
    }

    /// The last seq of the conversation that stands below `floor` in the log.
    fn seq_below(&self, id: ConversationId, floor: Pos) -> Result<Seq, StoreError> {
        let Some((head, _)) = self.head(id)? else { return Ok(0) };
        let position = |seq| {
            self.one("SELECT pos FROM entries WHERE conversation = ?1 AND seq = ?2", (key(id), seq), |row| {
                row.get::<_, i64>(0)
            })
        };
        let (mut low, mut high) = (0, head);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if position(middle)?.is_some_and(|pos| (pos as u64) < floor.0) {
                low = middle
            } else {
                high = middle - 1
            }
        }
        Ok(low)
    }

    /// The first position that was written at `at` or later, by bisection: the log is nearly sorted by time.
    fn position_at(&self, at: Millis) -> Result<Pos, StoreError> {
        let end = row::tail(self.conn)?.pos;
        let (mut low, mut high) = (Pos(1), end.next());
        while low < high {
            let middle = Pos(low.0 + (high.0 - low.0) / 2);
            let written: rusqlite::Result<Millis> = self
                .conn
                .prepare_cached("SELECT at FROM log WHERE pos = ?1")
                .and_then(|mut select| select.query_row([middle.0 as i64], |row| row.get(0)));
            if written.map_err(|error| sql_error(LOG_FILE, error))? >= at {
                high = middle
            } else {
                low = middle.next()
            }
        }
        Ok(low)
    }
}

/// Adds an entry's command, or completes the row of a later entry of the same command.
fn gather(rows: &mut Vec<CommandRow>, entry: Entry) {
    let Some(id) = entry.command else { return };
    let index = rows.iter().rposition(|row| row.id == id).unwrap_or_else(|| {
        rows.push(CommandRow {
            id,
            digest: 0,
            seq: 0,
            at: 0,
            answer: None,
        });
        rows.len() - 1
    });
    let row = &mut rows[index];
    (row.digest, row.at) = (entry.digest, entry.at);
    if entry.seq > 0 {
        row.seq = entry.seq;
    }
    row.answer = entry.effects.answer.or(row.answer.take());
}
