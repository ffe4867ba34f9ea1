//! What belongs to one user: profile, blocks, notifications.

use haggle_model::{Address, ConversationId, Event, Pos, Seq, UserId};
use rusqlite::{Row, params};

use super::{Snapshot, conversations::user as user_id, from_cbor, sql_limit};
use crate::{
    NotificationRow, StoreError, UserRow,
    embedded::{
        apply::cbor,
        row,
        schema::{LOG_FILE, key},
    },
};

const UNREAD: i64 = 0;
const REPLACED: i64 = 2;

/// A notification's row in the views.
struct Place {
    seq: Seq,
    pos: Pos,
    state: i64,
    updated_at: i64,
}

impl Snapshot<'_> {
    /// The key of the user's personal conversation: the hash of its address, or the probe to which a collision moved it.
    pub(super) fn owner(&self, user: &UserId) -> Result<ConversationId, StoreError> {
        let address = Address::Personal(user.clone());
        let first = self.keys.key(&address);
        let written = cbor(&address);
        let mut attempt = 0;
        loop {
            let id = first.probe(attempt);
            let stands = self.one("SELECT address FROM conversations WHERE conversation = ?1", [key(id)], |row| {
                row.get::<_, Vec<u8>>(0)
            })?;
            let is_other = match stands {
                Some(bytes) => bytes != written && from_cbor::<Address>(&bytes)? != address,
                None => false,
            };
            if !is_other {
                return Ok(id);
            }
            attempt += 1;
        }
    }

    pub(super) fn user(&self, owner: ConversationId, user: &UserId) -> Result<Option<UserRow>, StoreError> {
        let sql = "SELECT profile, created_at, updated_at FROM profiles WHERE owner = ?1";
        let found = self.one(sql, [key(owner)], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?, row.get(2)?)))?;
        found
            .map(|(profile, created_at, updated_at)| {
                Ok(UserRow {
                    id: user.clone(),
                    profile: from_cbor(&profile)?,
                    created_at,
                    updated_at,
                })
            })
            .transpose()
    }

    pub(super) fn blocks(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        self.all(
            "SELECT user FROM blocks WHERE owner = ?1 ORDER BY user",
            [key(self.owner(user)?)],
            |row| user_id(row, 0),
        )
    }

    pub(super) fn notifications(
        &self,
        user: &UserId,
        before: Option<Seq>,
        unread_only: bool,
        limit: usize,
    ) -> Result<Vec<NotificationRow>, StoreError> {
        let owner = self.owner(user)?;
        let (index, condition) = if unread_only {
            ("INDEXED BY notifications_unread", "v.state = 0")
        } else {
            ("", "v.state <> 2")
        };
        let sql = format!(
            "SELECT v.seq, e.pos, v.state, v.updated_at FROM notifications v {index} JOIN entries e ON e.conversation = v.owner AND e.seq = v.seq
                WHERE v.owner = ?1 AND v.seq < ?2 AND {condition} ORDER BY v.seq DESC LIMIT ?3"
        );
        let before = before.map_or(i64::MAX, i64::from);
        let places = self.all(&sql, params![key(owner), before, sql_limit(limit)], place)?;
        places.into_iter().map(|place| self.notification_row(owner, place)).collect()
    }

    pub(super) fn notification(&self, owner: ConversationId, seq: Seq) -> Result<Option<NotificationRow>, StoreError> {
        let sql = "SELECT v.seq, e.pos, v.state, v.updated_at FROM notifications v JOIN entries e ON e.conversation = v.owner AND e.seq = v.seq
            WHERE v.owner = ?1 AND v.seq = ?2";
        self.one(sql, (key(owner), seq), place)?
            .map(|place| self.notification_row(owner, place))
            .transpose()
    }

    pub(super) fn notifications_unread(&self, owner: ConversationId) -> Result<u32, StoreError> {
        let sql = "SELECT count(*) FROM notifications INDEXED BY notifications_unread WHERE owner = ?1 AND state = 0";
        Ok(self.one(sql, [key(owner)], |row| row.get(0))?.unwrap_or_default())
    }

    fn notification_row(&self, owner: ConversationId, place: Place) -> Result<NotificationRow, StoreError> {
        let entry = row::read_one(self.conn, place.pos)?;
        let Event::Notified(notification) = entry.event else {
            return Err(StoreError::Corrupt(format!(
                "{LOG_FILE}: position {} is not the notification that the views say",
                place.pos
            )));
        };
        debug_assert!((UNREAD..=REPLACED).contains(&place.state));
        let id = owner.message(place.seq);
        Ok(NotificationRow {
            id,
            notification,
            read: place.state != UNREAD,
            created_at: entry.at,
            updated_at: place.updated_at,
        })
    }
}

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        seq: row.get(0)?,
        pos: Pos(row.get::<_, i64>(1)? as u64),
        state: row.get(2)?,
        updated_at: row.get(3)?,
    })
}
