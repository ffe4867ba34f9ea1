//! One row of the log: an entry as columns and back, under a checksum.

use std::{ops::Range, sync::Arc};

use haggle_model::{CommandId, Effects, Entry, Event, PluginId, Pos, UserId};
use minicbor::{Decode, Encode};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, Statement, types::ValueRef};
use twox_hash::XxHash3_64;

use super::schema::{LOG_FILE, conversation, key, sql_error};
use crate::{StoreError, Tail};

/// Bit of the column `flags`.
pub(super) const REDACTED: i64 = 1;

const INSERT: &str = "INSERT INTO log (pos, ts, at, conversation, seq, n, event, flags, digest, checksum, actor, command_id, origin, effects, body)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)";
const REPLACE: &str = "UPDATE log SET ts = ?2, at = ?3, conversation = ?4, seq = ?5, n = ?6, event = ?7, flags = ?8, digest = ?9, checksum = ?10,
    actor = ?11, command_id = ?12, origin = ?13, effects = ?14, body = ?15 WHERE pos = ?1";

// The columns in the order `decode` expects them.
const SELECT_ONE: &str = "SELECT pos, ts, at, conversation, seq, n, event, flags, digest, checksum, actor, command_id, origin, effects, body
    FROM log WHERE pos = ?1";
const SELECT_AFTER: &str = "SELECT pos, ts, at, conversation, seq, n, event, flags, digest, checksum, actor, command_id, origin, effects, body
    FROM log WHERE pos > ?1 ORDER BY pos LIMIT ?2";

/// A page of the log stops after so many bytes of bodies and effects, however many rows were asked for.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The statement that [`Encoder::write`] expects for new rows.
pub(super) fn insert(log: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    log.prepare_cached(INSERT)
}

/// The statement that [`Encoder::write`] expects for rows that change in place.
pub(super) fn replace(log: &Connection) -> rusqlite::Result<CachedStatement<'_>> {
    log.prepare_cached(REPLACE)
}

/// Turns entries into rows. Keeps its buffer, so that a row costs no allocation.
#[derive(Default)]
pub(super) struct Encoder {
    /// All columns but the checksum, one after another: what the checksum is of.
    buffer: Vec<u8>,
}

impl Encoder {
    /// Runs `statement` with the columns of `entry`; returns the size of the row in bytes.
    pub(super) fn write(&mut self, statement: &mut Statement<'_>, pos: Pos, entry: &Entry) -> rusqlite::Result<usize> {
        let buffer = &mut self.buffer;
        buffer.clear();
        let flags = if entry.redacted { REDACTED } else { 0 };
        let event = event_number(&entry.event);
        head(
            buffer,
            [
                pos.0 as i64,
                entry.ts as i64,
                entry.at,
                key(entry.conversation),
                entry.seq.into(),
                entry.n.into(),
                event,
                flags,
                entry.digest as i64,
            ],
        );
        let actor = part(buffer, |buffer| {
            buffer.extend_from_slice(entry.actor.as_ref().map_or(b"", |actor| actor.as_str().as_bytes()))
        });
        let command = part(buffer, |buffer| {
            buffer.extend_from_slice(entry.command.as_ref().map_or(&[], |command| &command.0))
        });
        let origin = part(buffer, |buffer| encode_unless(entry.origin.is_empty(), &entry.origin, buffer));
        let effects = part(buffer, |buffer| encode_unless(entry.effects.is_empty(), &entry.effects, buffer));
        let body = part(buffer, |buffer| encode_unless(false, &entry.event, buffer));

        statement.raw_bind_parameter(1, pos.0 as i64)?;
        statement.raw_bind_parameter(2, entry.ts as i64)?;
        statement.raw_bind_parameter(3, entry.at)?;
        statement.raw_bind_parameter(4, key(entry.conversation))?;
        statement.raw_bind_parameter(5, entry.seq)?;
        statement.raw_bind_parameter(6, entry.n)?;
        statement.raw_bind_parameter(7, event)?;
        statement.raw_bind_parameter(8, flags)?;
        statement.raw_bind_parameter(9, entry.digest as i64)?;
        statement.raw_bind_parameter(10, checksum(buffer))?;
        statement.raw_bind_parameter(11, entry.actor.as_ref().map(|_| text(&buffer[actor])))?;
        statement.raw_bind_parameter(12, filled(&buffer[command]))?;
        statement.raw_bind_parameter(13, filled(&buffer[origin]))?;
        statement.raw_bind_parameter(14, filled(&buffer[effects]))?;
        statement.raw_bind_parameter(15, &buffer[body])?;
        statement.raw_execute()?;
        Ok(buffer.len())
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("copied from a str")
}

fn filled(bytes: &[u8]) -> Option<&[u8]> {
    if bytes.is_empty() { None } else { Some(bytes) }
}

fn head(buffer: &mut Vec<u8>, columns: [i64; 9]) {
    columns.iter().for_each(|column| buffer.extend_from_slice(&column.to_le_bytes()));
}

/// Appends what `write` writes, then its length, so that no two rows have the same bytes.
fn part(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    let start = buffer.len();
    write(buffer);
    let end = buffer.len();
    buffer.extend_from_slice(&((end - start) as u32).to_le_bytes());
    start..end
}

fn encode_unless<T: Encode<()>>(absent: bool, value: &T, buffer: &mut Vec<u8>) {
    if !absent {
        minicbor::encode(value, buffer).expect("writing to memory does not fail");
    }
}

/// Against damage, not against forgers: who can write the file can write its checksums.
fn checksum(bytes: &[u8]) -> i64 {
    XxHash3_64::oneshot(bytes) as i64
}

/// The entry at `pos`. Readers and the writer name the log's table alike.
pub(super) fn read_one(conn: &Connection, pos: Pos) -> Result<Entry, StoreError> {
    let mut statement = conn.prepare_cached(SELECT_ONE).map_err(log_error)?;
    let mut rows = statement.query([pos.0 as i64]).map_err(log_error)?;
    let row = rows.next().map_err(log_error)?.ok_or_else(|| missing(pos))?;
    decode(row, &mut Vec::new()).map(|(_, entry)| entry)
}

/// Entries after `after`, ascending and without a hole, at most `limit`.
pub(super) fn read_after(conn: &Connection, after: Pos, limit: usize) -> Result<Vec<(Pos, Arc<Entry>)>, StoreError> {
    let mut statement = conn.prepare_cached(SELECT_AFTER).map_err(log_error)?;
    let mut rows = statement
        .query([after.0 as i64, i64::try_from(limit).unwrap_or(i64::MAX)])
        .map_err(log_error)?;
    let mut buffer = Vec::new();
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut expected = after.next();
    while let Some(row) = rows.next().map_err(log_error)? {
        let (pos, entry) = decode(row, &mut buffer)?;
        if pos != expected {
            return Err(missing(expected));
        }
        entries.push((pos, Arc::new(entry)));
        expected = pos.next();
        bytes += buffer.len();
        if bytes >= READ_BYTES_MAX {
            break;
        }
    }
    Ok(entries)
}

/// Position and `ts` of the last row.
pub(super) fn tail(log: &Connection) -> Result<Tail, StoreError> {
    let last = log.query_row("SELECT pos, ts FROM log ORDER BY pos DESC LIMIT 1", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    });
    let last = last.optional().map_err(log_error)?;
    Ok(last.map_or(Tail::default(), |(pos, ts)| Tail {
        pos: Pos(pos as u64),
        ts: ts as u64,
    }))
}

/// The row as an entry, if it is what was once written.
fn decode(row: &Row<'_>, buffer: &mut Vec<u8>) -> Result<(Pos, Entry), StoreError> {
    let pos = row.get::<_, i64>(0).map_err(log_error)?;
    decode_columns(row, buffer)
        .map(|entry| (Pos(pos as u64), entry))
        .map_err(|reason| StoreError::Corrupt(format!("{LOG_FILE}: position {pos}: {reason}")))
}

fn decode_columns(row: &Row<'_>, buffer: &mut Vec<u8>) -> Result<Entry, String> {
    let mut integers = [0; 9];
    for (index, integer) in integers.iter_mut().enumerate() {
        *integer = row.get(index).map_err(|error| error.to_string())?;
    }
    let actor = bytes(row, 10)?;
    let (command, origin, effects, body) = (bytes(row, 11)?, bytes(row, 12)?, bytes(row, 13)?, bytes(row, 14)?);

    buffer.clear();
    head(buffer, integers);
    for column in [actor, command, origin, effects, body] {
        part(buffer, |buffer| buffer.extend_from_slice(column.unwrap_or_default()));
    }
    let expected: i64 = row.get(9).map_err(|error| error.to_string())?;
    if checksum(buffer) != expected {
        return Err("the row does not match its checksum".to_string());
    }

    let [_, ts, at, conversation_key, seq, n, _, flags, digest] = integers;
    Ok(Entry {
        ts: ts as u64,
        at,
        conversation: conversation(conversation_key),
        seq: seq as u32,
        n: n as u32,
        actor: actor
            .map(|actor| std::str::from_utf8(actor).map(UserId::from))
            .transpose()
            .map_err(|error| error.to_string())?,
        command: command
            .map(|command| command.try_into().map(CommandId))
            .transpose()
            .map_err(|_| "a command id has 16 bytes".to_string())?,
        digest: digest as u64,
        origin: decoded::<Vec<PluginId>>(origin)?.unwrap_or_default(),
        event: decoded::<Event>(body)?.ok_or("no body")?,
        effects: decoded::<Effects>(effects)?.unwrap_or_default(),
        redacted: flags & REDACTED != 0,
    })
}

fn bytes<'r>(row: &'r Row<'_>, index: usize) -> Result<Option<&'r [u8]>, String> {
    match row.get_ref(index).map_err(|error| error.to_string())? {
        ValueRef::Null => Ok(None),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes)),
        other => Err(format!("column {index} is {}", other.data_type())),
    }
}

fn decoded<'b, T: Decode<'b, ()>>(bytes: Option<&'b [u8]>) -> Result<Option<T>, String> {
    bytes.map(minicbor::decode).transpose().map_err(|error| error.to_string())
}

fn log_error(error: rusqlite::Error) -> StoreError {
    sql_error(LOG_FILE, error)
}

fn missing(pos: Pos) -> StoreError {
    StoreError::Corrupt(format!("{LOG_FILE}: position {pos} is missing"))
}

/// The number under which an event's kind stands in columns; the same as in its encoding.
pub(super) fn event_number(event: &Event) -> i64 {
    match event {
        Event::Noop => 0,
        Event::ConversationCreated(_) => 1,
        Event::ConversationUpdated(_) => 2,
        Event::ConversationClosed(_) => 3,
        Event::ConversationReopened => 4,
        Event::ParticipantJoined { .. } => 5,
        Event::ParticipantLeft { .. } => 6,
        Event::ParticipantUpdated { .. } => 7,
        Event::MessageCreated(_) => MESSAGE_CREATED,
        Event::MessageEdited { .. } => 9,
        Event::MessageDeleted { .. } => 10,
        Event::ReactionAdded { .. } => 11,
        Event::ReactionRemoved { .. } => 12,
        Event::UserBlocked { .. } => 13,
        Event::UserUnblocked { .. } => 14,
        Event::Custom { .. } => 15,
        Event::Marked { .. } => 16,
        Event::MembershipStarted(_) => 20,
        Event::MembershipEnded(_) => 21,
        Event::ConversationArchived { .. } => 22,
        Event::ConversationHidden { .. } => 23,
        Event::MessageHidden(_) => 24,
        Event::ConversationMuted { .. } => 25,
        Event::ProfileUpdated(_) => 26,
        Event::Notified(_) => 27,
        Event::NotificationsRead(_) => 28,
        Event::AllNotificationsRead(_) => 29,
        Event::BlockListed { .. } => 30,
        Event::BroadcastMarked { .. } => 31,
        Event::Effects => 40,
        Event::Void(_) => 41,
        Event::Owner(_) => 42,
    }
}

/// [`event_number`] of [`Event::MessageCreated`].
pub(super) const MESSAGE_CREATED: i64 = 8;

#[cfg(test)]
mod tests {
    use haggle_model::{Content, ConversationId};

    use super::*;
    use crate::embedded::schema::{LOG_MIGRATIONS, migrate};

    fn entry() -> Entry {
        let content = Content {
            kind: "text".to_string(),
            text: "hello".to_string(),
            countable: true,
            ..Content::default()
        };
        Entry {
            ts: 5,
            at: 7,
            conversation: ConversationId(u64::MAX - 3),
            seq: 3,
            n: 2,
            actor: Some(UserId::from("ann")),
            command: Some(CommandId([9; 16])),
            digest: u64::MAX,
            origin: vec![PluginId::from("p")],
            event: Event::MessageCreated(content),
            effects: Effects {
                answer: Some("{}".to_string()),
                ..Effects::default()
            },
            redacted: false,
        }
    }

    fn log_with(entry: &Entry) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        migrate(&conn, LOG_MIGRATIONS).unwrap();
        Encoder::default().write(&mut insert(&conn).unwrap(), Pos(1), entry).unwrap();
        conn
    }

    #[test]
    fn a_row_comes_back_as_it_was() {
        let bare = Entry {
            actor: None,
            command: None,
            origin: Vec::new(),
            effects: Effects::default(),
            event: Event::Noop,
            redacted: true,
            ..entry()
        };
        for entry in [entry(), bare] {
            assert_eq!(read_one(&log_with(&entry), Pos(1)).unwrap(), entry);
        }
    }

    #[test]
    fn a_change_of_any_column_is_noticed() {
        for change in [
            "ts = ts + 1",
            "at = 8",
            "conversation = 1",
            "seq = 4",
            "n = 3",
            "event = 9",
            "flags = 1",
            "digest = 1",
            "checksum = 1",
            "actor = 'bob'",
            "actor = NULL",
            "command_id = NULL",
            "command_id = x'01'",
            "origin = NULL",
            "effects = NULL",
            "body = x'00'",
            "seq = 'x'",
        ] {
            let conn = log_with(&entry());
            conn.execute_batch(&format!("UPDATE log SET {change}")).unwrap();
            let error = read_one(&conn, Pos(1)).unwrap_err();
            assert!(
                matches!(&error, StoreError::Corrupt(text) if text.contains("log.db: position 1")),
                "{change}: {error}"
            );
        }
    }

    #[test]
    fn a_hole_is_noticed() {
        let conn = log_with(&entry());
        Encoder::default().write(&mut insert(&conn).unwrap(), Pos(3), &entry()).unwrap();
        assert!(matches!(read_after(&conn, Pos(0), 10), Err(StoreError::Corrupt(text)) if text.contains("position 2 is missing")));
    }

    #[test]
    fn event_numbers_are_those_of_the_encoding() {
        for event in [
            Event::Noop,
            Event::ConversationReopened,
            entry().event,
            Event::Effects,
            Event::Owner(String::new()),
        ] {
            let bytes = minicbor::to_vec(&event).unwrap();
            let mut decoder = minicbor::Decoder::new(&bytes);
            decoder.array().unwrap();
            assert_eq!(decoder.i64().unwrap(), event_number(&event));
        }
    }
}
