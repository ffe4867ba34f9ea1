//! Rows of the views that change with nearly every message: a conversation's head and its members' marks.
//!
//! They are read once, kept while they are in use, and written once per batch.

use std::{
    collections::{HashMap, hash_map},
    hash::Hash,
};

use foldhash::fast::RandomState;
use haggle_model::{ConversationId, MarkChange, Millis, Role, Seq, UserId};
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    apply::{execute, role},
    schema::{VIEWS_FILE, key, sql_error},
};
use crate::StoreError;

/// Rows of each kind that are kept from one batch to the next; with more, all of that kind are forgotten.
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
    heads: Rows<ConversationId, Head>,
    /// `None`: it is known that there is no such row.
    members: Rows<(ConversationId, UserId), Option<Member>>,
}

/// Rows of one kind.
struct Rows<K, R> {
    kept: HashMap<K, Kept<R>, RandomState>,
    /// Those that were handed out since the last write.
    touched: Vec<K>,
}

struct Kept<R> {
    row: R,
    touched: bool,
}

impl<K, R> Default for Rows<K, R> {
    fn default() -> Rows<K, R> {
        Rows {
            kept: HashMap::default(),
            touched: Vec::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord, R> Rows<K, R> {
    /// A row, to be changed.
    fn touch(&mut self, key: K, load: impl FnOnce() -> rusqlite::Result<R>) -> Result<&mut R, StoreError> {
        let kept = match self.kept.entry(key) {
            hash_map::Entry::Occupied(place) => {
                if !place.get().touched {
                    self.touched.push(place.key().clone());
                }
                place.into_mut()
            }
            hash_map::Entry::Vacant(place) => {
                let row = load().map_err(views_error)?;
                self.touched.push(place.key().clone());
                place.insert(Kept { row, touched: true })
            }
        };
        kept.touched = true;
        Ok(&mut kept.row)
    }

    /// Has every row that was handed out written.
    fn write(&mut self, mut write: impl FnMut(&K, &R) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.touched.sort_unstable(); // neighbours one behind the other
        for key in self.touched.drain(..) {
            if let Some(kept) = self.kept.get_mut(&key) {
                write(&key, &kept.row)?;
                kept.touched = false;
            }
        }
        if self.kept.len() > KEPT_MAX {
            self.kept.clear();
        }
        Ok(())
    }
}

impl HotRows {
    /// The head, to be changed. `seq` is that of the entry that changes it: the first one finds no row.
    pub(super) fn head(&mut self, conn: &Connection, id: ConversationId, seq: Seq) -> Result<&mut Head, StoreError> {
        self.heads.touch(id, || match seq {
            1 => Ok(Head::default()),
            _ => Ok(load_head(conn, id)?.unwrap_or_default()),
        })
    }

    /// The member's row, to be changed.
    pub(super) fn member(&mut self, conn: &Connection, id: ConversationId, user: &UserId) -> Result<Option<&mut Member>, StoreError> {
        let member = self.members.touch((id, user.clone()), || load_member(conn, id, user))?;
        Ok(member.as_mut())
    }

    /// Puts a new row in the place of what was there.
    pub(super) fn put_member(&mut self, id: ConversationId, user: &UserId, member: Member) -> Result<(), StoreError> {
        *self.members.touch((id, user.clone()), || Ok(None))? = Some(member);
        Ok(())
    }

    /// Writes every row that was handed out. After an error nothing that is kept counts: see [`HotRows::clear`].
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), StoreError> {
        self.heads.write(|id, head| write_head(conn, *id, head))?;
        self.members.write(|place, member| match member {
            Some(member) => write_member(conn, place, member),
            None => Ok(()),
        })
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
