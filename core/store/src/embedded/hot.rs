//! Rows of the views that change with nearly every message: a conversation's head and its members' marks.
//!
//! They are read once, kept while they are in use, and written once per batch.

use std::collections::{HashMap, hash_map};

use haggle_model::{ConversationId, MarkChange, Millis, Role, Seq, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    apply::{execute, role},
    schema::{VIEWS_FILE, key, sql_error},
};
use crate::StoreError;

/// Rows of each kind that are kept from one batch to the next; with more, all are forgotten.
const KEPT_MAX: usize = 65_536;

const WRITE_HEAD: &str = "INSERT INTO heads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO UPDATE SET head = excluded.head,
    head_n = excluded.head_n, updated_at = excluded.updated_at, last_message = excluded.last_message,
    last_message_at = excluded.last_message_at, participants = excluded.participants,
    broadcast = excluded.broadcast";
const WRITE_MEMBER: &str = "INSERT INTO members VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO UPDATE SET role = excluded.role,
    joined_seq = excluded.joined_seq, joined_at = excluded.joined_at, left_seq = excluded.left_seq, delivered_seq = excluded.delivered_seq,
    read_seq = excluded.read_seq, read_n = excluded.read_n, own = excluded.own";

/// A row of `heads`.
#[derive(Default)]
pub(super) struct Head {
    pub(super) head: Seq,
    pub(super) head_n: u32,
    pub(super) updated_at: Millis,
    pub(super) last_message: Seq,
    pub(super) last_message_at: Millis,
    pub(super) participants: u32,
    pub(super) broadcast: bool,
}

/// A row of `members`.
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) joined_seq: Seq,
    pub(super) joined_at: Millis,
    pub(super) left_seq: Option<Seq>,
    pub(super) mark: MarkChange,
}

#[derive(Default)]
pub(super) struct HotRows {
    heads: HashMap<ConversationId, Head>,
    /// `None`: it is known that there is no such row.
    members: HashMap<(ConversationId, UserId), Option<Member>>,
    /// What was handed out since the last write, once or more.
    touched_heads: Vec<ConversationId>,
    touched_members: Vec<(ConversationId, UserId)>,
}

impl HotRows {
    /// The head, to be changed. `seq` is that of the entry that changes it: the first one finds no row.
    pub(super) fn head(&mut self, conn: &Connection, id: ConversationId, seq: Seq) -> Result<&mut Head, StoreError> {
        self.touched_heads.push(id);
        match self.heads.entry(id) {
            hash_map::Entry::Occupied(head) => Ok(head.into_mut()),
            hash_map::Entry::Vacant(place) if seq == 1 => Ok(place.insert(Head::default())),
            hash_map::Entry::Vacant(place) => Ok(place.insert(load_head(conn, id).map_err(views_error)?.unwrap_or_default())),
        }
    }

    /// The member's row, to be changed.
    pub(super) fn member(&mut self, conn: &Connection, id: ConversationId, user: &UserId) -> Result<Option<&mut Member>, StoreError> {
        let place = (id, user.clone());
        self.touched_members.push(place.clone());
        match self.members.entry(place) {
            hash_map::Entry::Occupied(member) => Ok(member.into_mut().as_mut()),
            hash_map::Entry::Vacant(place) => Ok(place.insert(load_member(conn, id, user).map_err(views_error)?).as_mut()),
        }
    }

    /// Puts a new row in the place of what was there.
    pub(super) fn put_member(&mut self, id: ConversationId, user: &UserId, member: Member) {
        let place = (id, user.clone());
        self.touched_members.push(place.clone());
        self.members.insert(place, Some(member));
    }

    /// Writes every row that was handed out.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), StoreError> {
        self.touched_heads.sort_unstable();
        self.touched_heads.dedup();
        for id in &self.touched_heads {
            write_head(conn, *id, &self.heads[id])?;
        }
        self.touched_members.sort_unstable();
        self.touched_members.dedup();
        for place in &self.touched_members {
            if let Some(member) = &self.members[place] {
                write_member(conn, place, member)?;
            }
        }
        self.touched_heads.clear();
        self.touched_members.clear();
        if self.heads.len().max(self.members.len()) > KEPT_MAX {
            self.clear();
        }
        Ok(())
    }

    /// Forgets everything: the rows in the file are what counts.
    pub(super) fn clear(&mut self) {
        *self = HotRows::default();
    }
}

fn write_head(conn: &Connection, id: ConversationId, row: &Head) -> Result<(), StoreError> {
    if row.head > 0 {
        let Head {
            head,
            head_n,
            updated_at,
            last_message,
            last_message_at,
            participants,
            broadcast,
        } = row;
        execute(
            conn,
            WRITE_HEAD,
            params![key(id), head, head_n, updated_at, last_message, last_message_at, participants, broadcast],
        )?;
    }
    Ok(())
}

fn write_member(conn: &Connection, (id, user): &(ConversationId, UserId), row: &Member) -> Result<(), StoreError> {
    let Member {
        role,
        joined_seq,
        joined_at,
        left_seq,
        mark,
    } = row;
    let MarkChange {
        delivered_seq,
        read_seq,
        read_n,
        own,
    } = mark;
    let (id, user, role) = (key(*id), user.as_str(), *role as i64);
    execute(
        conn,
        WRITE_MEMBER,
        params![id, user, role, joined_seq, joined_at, left_seq, delivered_seq, read_seq, read_n, own],
    )?;
    Ok(())
}

fn load_head(conn: &Connection, id: ConversationId) -> rusqlite::Result<Option<Head>> {
    let mut select = conn.prepare_cached(
        "SELECT head, head_n, updated_at, last_message, last_message_at, participants, broadcast FROM heads WHERE conversation = ?1",
    )?;
    let head = select.query_row([key(id)], |row| {
        Ok(Head {
            head: row.get(0)?,
            head_n: row.get(1)?,
            updated_at: row.get(2)?,
            last_message: row.get(3)?,
            last_message_at: row.get(4)?,
            participants: row.get(5)?,
            broadcast: row.get(6)?,
        })
    });
    head.optional()
}

fn load_member(conn: &Connection, id: ConversationId, user: &UserId) -> rusqlite::Result<Option<Member>> {
    let mut select = conn.prepare_cached(
        "SELECT role, joined_seq, joined_at, left_seq, delivered_seq, read_seq, read_n, own FROM members WHERE conversation = ?1 AND user = ?2",
    )?;
    let member = select.query_row((key(id), user.as_str()), |row| {
        Ok(Member {
            role: role(row.get(0)?),
            joined_seq: row.get(1)?,
            joined_at: row.get(2)?,
            left_seq: row.get(3)?,
            mark: MarkChange {
                delivered_seq: row.get(4)?,
                read_seq: row.get(5)?,
                read_n: row.get(6)?,
                own: row.get(7)?,
            },
        })
    });
    member.optional()
}

fn views_error(error: rusqlite::Error) -> StoreError {
    sql_error(VIEWS_FILE, error)
}
