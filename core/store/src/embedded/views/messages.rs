//! Messages in their present state, and events for replay.

use std::collections::HashMap;

use haggle_model::{Content, ConversationId, Entry, Event, MessageId, Millis, Pos, Seq, UserId};
use rusqlite::{Row, params};

use super::{Snapshot, conversations::user, sql_limit, views_error};
use crate::{
    EventRow, MessageRow, MessageView, Page, StoreError,
    embedded::{
        row::{self, MESSAGE_CREATED},
        schema::{LOG_FILE, key},
    },
};

/// What the views know of a message: where its texts stand, and what happened since.
struct Place {
    seq: Seq,
    created: Pos,
    change: Option<Change>,
}

struct Change {
    rev: Seq,
    updated_at: Millis,
    edited: Option<Pos>,
    edited_at: Option<Millis>,
    deleted_at: Option<Millis>,
}

/// A place, to be followed by the condition on `e`.
const PLACES: &str = "SELECT e.seq, e.pos, c.rev, c.updated_at, c.edit_pos, c.edited_at, c.deleted_at
    FROM entries e LEFT JOIN changed c ON c.conversation = e.conversation AND c.seq = e.seq
    WHERE e.conversation = ?1 AND e.event = ?2";

impl Snapshot<'_> {
    pub(super) fn message(&self, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
        let sql = format!("{PLACES} AND e.seq = ?3");
        let place = self.one(&sql, (key(id.conversation), MESSAGE_CREATED, id.seq), place)?;
        place.map(|place| self.present(id.conversation, place)).transpose()
    }

    pub(super) fn messages(&self, id: ConversationId, page: Page, limit: usize, viewer: Option<&UserId>) -> Result<Vec<MessageRow>, StoreError> {
        let (above, below, order) = match page {
            Page::Newest => (0, None, "DESC"),
            Page::Before(seq) => (0, Some(seq), "DESC"),
            Page::After(seq) => (seq, None, "ASC"),
        };
        let owner = viewer.map(|viewer| self.owner(viewer)).transpose()?;
        let hidden_to = owner
            .map(|owner| self.personal(owner, id))
            .transpose()?
            .map_or(0, |personal| personal.hidden_to);
        let sql = format!(
            "{PLACES} AND e.seq > ?3 AND e.seq < ?4
                AND NOT EXISTS (SELECT 1 FROM hidden_messages h WHERE h.owner = ?5 AND h.conversation = e.conversation AND h.seq = e.seq)
            ORDER BY e.seq {order} LIMIT ?6"
        );
        let below = below.map_or(i64::MAX, i64::from);
        let places = self.all(
            &sql,
            params![key(id), MESSAGE_CREATED, above.max(hidden_to), below, owner.map(key), sql_limit(limit)],
            place,
        )?;
        places.into_iter().map(|place| self.present(id, place)).collect()
    }

    pub(super) fn events(&self, id: ConversationId, after: Seq, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        let sql = "SELECT seq, pos FROM entries WHERE conversation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        let places = self.all(sql, (key(id), after, sql_limit(limit)), |row| {
            Ok((row.get::<_, Seq>(0)?, Pos(row.get::<_, i64>(1)? as u64)))
        })?;
        let mut seen: HashMap<Seq, Option<MessageRow>> = HashMap::new(); // many events may be about one message
        let mut events = Vec::with_capacity(places.len());
        for (seq, pos) in places {
            if seq != after + 1 + events.len() as Seq {
                break;
            }
            let entry = row::read_one(self.conn, pos)?;
            let message = match entry.event.message_seq(seq) {
                None => None,
                Some(target) => match seen.get(&target) {
                    Some(message) => message.clone(),
                    None => seen.entry(target).or_insert(self.message(id.message(target))?).clone(),
                },
            };
            events.push(event_row(entry, message));
        }
        Ok(events)
    }

    fn present(&self, id: ConversationId, place: Place) -> Result<MessageRow, StoreError> {
        let created = row::read_one(self.conn, place.created)?;
        let view = MessageView::created(&created).filter(|view| view.id == id.message(place.seq));
        let mut message = view.ok_or_else(|| unexpected(place.created))?.to_row();
        if let Some(change) = place.change {
            self.change(&mut message, change)?;
        }
        Ok(message)
    }

    fn change(&self, message: &mut MessageRow, change: Change) -> Result<(), StoreError> {
        message.rev = change.rev;
        message.updated_at = change.updated_at;
        message.edited_at = change.edited_at;
        message.deleted_at = change.deleted_at;
        if let Some(pos) = change.edited {
            let Event::MessageEdited { content, .. } = row::read_one(self.conn, pos)?.event else {
                return Err(unexpected(pos));
            };
            let created = std::mem::take(&mut message.content);
            message.content = Content {
                countable: created.countable,
                client_id: created.client_id,
                ..content
            };
        }
        if message.deleted_at.is_some() {
            message.content = Content {
                kind: std::mem::take(&mut message.content.kind),
                ..Content::default()
            };
        } else {
            let sql = "SELECT user, emoji FROM reactions WHERE conversation = ?1 AND seq = ?2 ORDER BY user";
            message.reactions = self.all(sql, (key(message.id.conversation), message.id.seq), |row| {
                Ok((user(row, 0)?, row.get(1)?))
            })?;
        }
        Ok(())
    }

    pub(super) fn is_hidden(&self, user: &UserId, id: MessageId) -> Result<bool, StoreError> {
        let owner = self.owner(user)?;
        let sql = "SELECT 1 FROM hidden_messages WHERE owner = ?1 AND conversation = ?2 AND seq = ?3";
        let hidden = self
            .conn
            .prepare_cached(sql)
            .and_then(|mut select| select.exists((key(owner), key(id.conversation), id.seq)))
            .map_err(views_error)?;
        Ok(hidden || id.seq <= self.personal(owner, id.conversation)?.hidden_to)
    }
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    let change = match row.get::<_, Option<Seq>>(2)? {
        Some(rev) => Some(Change {
            rev,
            updated_at: row.get(3)?,
            edited: position(row, 4)?,
            edited_at: row.get(5)?,
            deleted_at: row.get(6)?,
        }),
        None => None,
    };
    Ok(Place {
        seq: row.get(0)?,
        created: Pos(row.get::<_, i64>(1)? as u64),
        change,
    })
}

fn position(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Pos>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(|pos| Pos(pos as u64)))
}

fn event_row(entry: Entry, message: Option<MessageRow>) -> EventRow {
    EventRow {
        seq: entry.seq,
        n: entry.n,
        at: entry.at,
        actor: entry.actor,
        origin: entry.origin,
        command: entry.command,
        event: entry.event.redacted(), // an older text must not leave; the present one is in `message`
        message,
    }
}

fn unexpected(pos: Pos) -> StoreError {
    StoreError::Corrupt(format!("{LOG_FILE}: position {} is not the event that the views say", pos.0))
}
