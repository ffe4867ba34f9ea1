//! Conversations, members, marks, and the inbox.

use haggle_model::{Address, ConversationId, ConversationKind, MarkChange, Marks, Millis, Seq, UserId, unread};
use rusqlite::Row;

use super::{Snapshot, from_cbor, sql_limit};
use crate::{
    AdvanceRow, ConversationRow, InboxQuery, InboxRow, Loaded, MemberRow, PersonalRow, StoreError,
    embedded::{
        apply::role,
        row::MESSAGE_CREATED,
        schema::{conversation, key},
    },
    present_but,
};

const MEMBER: &str = "user, role, joined_seq, joined_at, left_seq, delivered_seq, read_seq, read_n, own";

impl Snapshot<'_> {
    pub(super) fn load(&self, id: ConversationId, since: Millis, commands_max: usize) -> Result<Loaded, StoreError> {
        let Some(row) = self.conversation(id)? else {
            let head = self.head(id)?.unwrap_or_default();
            return Ok(Loaded { head, ..Loaded::default() });
        };
        let with_own = |member: MemberRow| {
            let own = match member.mark.own {
                0 => Vec::new(),
                _ => self.own_numbers(id, &member.user, member.mark.read_n)?,
            };
            Ok((member, own))
        };
        let members = self
            .members(id, None, usize::MAX)?
            .into_iter()
            .map(with_own)
            .collect::<Result<Vec<_>, StoreError>>()?;
        let lowest = members.iter().map(|(member, _)| member.mark.read_n).min().unwrap_or(row.head_n);
        Ok(Loaded {
            head: (row.head, row.head_n),
            commands: self.commands(id, since, commands_max)?,
            members,
            deleted: self.deleted(id, lowest)?,
            conversation: Some(row),
        })
    }

    pub(super) fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, StoreError> {
        let sql =
            "SELECT address, creator, name, avatar, state, closed, created_at, ifnull(head, 0), ifnull(head_n, 0), ifnull(updated_at, created_at),
                ifnull(last_message, 0), ifnull(last_message_at, 0), ifnull(participants, 0)
            FROM conversations LEFT JOIN heads USING (conversation) WHERE conversation = ?1";
        let row = self.one(sql, [key(id)], |row| Ok((row.get::<_, Vec<u8>>(0)?, conversation_row(id, row)?)))?;
        let Some((address, mut row)) = row else { return Ok(None) };
        row.address = from_cbor(&address)?;
        row.blocked_by = self.all(
            "SELECT by FROM conversation_blocks WHERE conversation = ?1 ORDER BY by",
            [key(id)],
            |row| user(row, 0),
        )?;
        Ok(Some(row))
    }

    pub(super) fn head(&self, id: ConversationId) -> Result<Option<(Seq, u32)>, StoreError> {
        self.one("SELECT head, head_n FROM heads WHERE conversation = ?1", [key(id)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    pub(super) fn member(&self, id: ConversationId, user: &UserId) -> Result<Option<MemberRow>, StoreError> {
        let sql = format!("SELECT {MEMBER} FROM members WHERE conversation = ?1 AND user = ?2");
        self.one(&sql, (key(id), user.as_str()), member_row)
    }

    pub(super) fn members(&self, id: ConversationId, after: Option<&UserId>, limit: usize) -> Result<Vec<MemberRow>, StoreError> {
        let sql = format!("SELECT {MEMBER} FROM members WHERE conversation = ?1 AND (?2 IS NULL OR user > ?2) ORDER BY user LIMIT ?3");
        self.all(&sql, (key(id), after.map(UserId::as_str), sql_limit(limit)), member_row)
    }

    pub(super) fn own_numbers(&self, id: ConversationId, user: &UserId, above_n: u32) -> Result<Vec<u32>, StoreError> {
        let from = self.last_seq_with(id, above_n)?;
        let sql = "SELECT e.n FROM entries e JOIN log ON log.pos = e.pos
            WHERE e.conversation = ?1 AND e.seq > ?2 AND e.event = ?3 AND e.countable AND log.actor = ?4 ORDER BY e.seq";
        self.all(sql, (key(id), from, MESSAGE_CREATED, user.as_str()), |row| row.get(0))
    }

    /// The last seq up to which the conversation has at most `n` countable messages, by bisection: `n` never falls.
    fn last_seq_with(&self, id: ConversationId, n: u32) -> Result<Seq, StoreError> {
        let Some((head, _)) = self.head(id)? else { return Ok(0) };
        let number = |seq| {
            self.one("SELECT n FROM entries WHERE conversation = ?1 AND seq = ?2", (key(id), seq), |row| {
                row.get::<_, u32>(0)
            })
        };
        let (mut low, mut high) = (0, head);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if number(middle)?.is_some_and(|found| found <= n) {
                low = middle
            } else {
                high = middle - 1
            }
        }
        Ok(low)
    }

    pub(super) fn deleted(&self, id: ConversationId, above_n: u32) -> Result<Vec<(u32, UserId)>, StoreError> {
        let sql = "SELECT n, sender FROM deleted WHERE conversation = ?1 AND n > ?2 ORDER BY n";
        self.all(sql, (key(id), above_n), |row| Ok((row.get(0)?, user(row, 1)?)))
    }

    pub(super) fn advances(&self, id: ConversationId, from_seq: Seq, limit: usize) -> Result<Vec<AdvanceRow>, StoreError> {
        let sql = "SELECT user, to_seq, at FROM advances WHERE conversation = ?1 AND to_seq >= ?2 ORDER BY pos LIMIT ?3";
        self.all(sql, (key(id), from_seq, sql_limit(limit)), |row| {
            Ok(AdvanceRow {
                user: user(row, 0)?,
                to_seq: row.get(1)?,
                at: row.get(2)?,
            })
        })
    }

    /// Whether at most so many conversations stand in the user's list, broadcasts among them.
    pub(super) fn is_in_few(&self, user: &UserId, max: u32) -> Result<bool, StoreError> {
        let sql = "SELECT count(*) FROM (
            SELECT 1 FROM members INDEXED BY members_by_user WHERE user = ?1 AND left_seq IS NULL
            UNION ALL SELECT 1 FROM conversations INDEXED BY broadcasts WHERE kind = 3
            LIMIT ?2)";
        let count = self.one(sql, (user.as_str(), max + 1), |row| row.get::<_, u32>(0))?;
        Ok(count.unwrap_or_default() <= max)
    }

    pub(super) fn inbox(&self, user: &UserId, query: InboxQuery) -> Result<Vec<InboxRow>, StoreError> {
        let owner = self.owner(user)?;
        let listed = self.listed(user, owner, query)?;
        listed.into_iter().filter_map(|id| self.inbox_row(user, owner, id).transpose()).collect()
    }

    pub(super) fn companions(
        &self,
        user: &UserId,
        conversations_max: usize,
        members_max: usize,
    ) -> Result<Vec<(ConversationId, Vec<UserId>)>, StoreError> {
        let newest = InboxQuery {
            limit: conversations_max,
            ..InboxQuery::default()
        };
        let quiet = "SELECT EXISTS (SELECT 1 FROM conversations WHERE conversation = ?1 AND kind = 3)
            OR EXISTS (SELECT 1 FROM conversation_blocks WHERE conversation = ?1)";
        let mut companions = Vec::new();
        for id in self.listed(user, self.owner(user)?, newest)? {
            if !self.one(quiet, [key(id)], |row| row.get(0))?.unwrap_or(true) {
                companions.push((id, present_but(user, self.members(id, None, members_max)?)));
            }
        }
        Ok(companions)
    }

    /// The keys of the conversations in the user's list.
    fn listed(&self, user: &UserId, owner: ConversationId, query: InboxQuery) -> Result<Vec<ConversationId>, StoreError> {
        // 3 is a broadcast.
        let sql = "WITH own AS (
                SELECT m.conversation, c.created_at FROM members m JOIN conversations c USING (conversation)
                    WHERE m.user = ?1 AND m.left_seq IS NULL AND c.kind <= ?3
                UNION ALL SELECT conversation, created_at FROM conversations INDEXED BY broadcasts WHERE kind = 3
            )
            SELECT own.conversation, CASE WHEN ifnull(h.last_message, 0) > 0 THEN h.last_message_at ELSE own.created_at END, p.archived_at IS NOT NULL
            FROM own LEFT JOIN heads h USING (conversation) LEFT JOIN personal p ON p.owner = ?2 AND p.conversation = own.conversation
            WHERE p.hidden_at IS NULL OR ifnull(h.last_message, 0) > p.hidden_to";
        let shown = self.all(sql, (user.as_str(), key(owner), ConversationKind::Context as i64), |row| {
            Ok((row.get::<_, Millis>(1)?, conversation(row.get(0)?), row.get::<_, bool>(2)?))
        })?;
        let mut places: Vec<(Millis, ConversationId)> = shown
            .into_iter()
            .filter(|(_, _, archived)| query.archived.is_none_or(|wanted| wanted == *archived))
            .map(|(at, id, _)| (at, id))
            .filter(|place| query.before.is_none_or(|before| *place < before))
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        places.truncate(query.limit);
        Ok(places.into_iter().map(|(_, id)| id).collect())
    }

    pub(super) fn inbox_row(&self, user: &UserId, owner: ConversationId, id: ConversationId) -> Result<Option<InboxRow>, StoreError> {
        let Some(conversation) = self.conversation(id)? else { return Ok(None) };
        let member = match conversation.kind() {
            ConversationKind::Broadcast => Some(MemberRow::of_reader(user, &conversation, self.broadcast_mark(user, owner, id)?)),
            _ => self.member(id, user)?,
        };
        let Some(member) = member else { return Ok(None) };
        let sql = "SELECT count(*) FROM deleted WHERE conversation = ?1 AND n > ?2 AND sender <> ?3";
        let deleted = self
            .one(sql, (key(id), member.mark.read_n, user.as_str()), |row| row.get(0))?
            .unwrap_or_default();
        let marks = Marks {
            read_n: member.mark.read_n,
            own: member.mark.own,
            deleted,
        };
        let unread = unread(marks, conversation.head_n);
        let personal = self.personal(owner, id)?;
        Ok(Some(InboxRow {
            conversation,
            member,
            personal,
            unread,
        }))
    }

    /// A reader's marks in a broadcast, with what it has sent there above them.
    fn broadcast_mark(&self, user: &UserId, owner: ConversationId, id: ConversationId) -> Result<MarkChange, StoreError> {
        let sql = "SELECT delivered_seq, read_seq, read_n FROM broadcast_marks WHERE owner = ?1 AND conversation = ?2";
        let mark = self.one(sql, (key(owner), key(id)), |row| {
            Ok(MarkChange {
                delivered_seq: row.get(0)?,
                read_seq: row.get(1)?,
                read_n: row.get(2)?,
                own: 0,
            })
        })?;
        let mark = mark.unwrap_or_default();
        let sql = "SELECT count(*) FROM broadcast_sent WHERE conversation = ?1 AND sender = ?2 AND n > ?3";
        let own = self.one(sql, (key(id), user.as_str(), mark.read_n), |row| row.get(0))?;
        Ok(MarkChange {
            own: own.unwrap_or_default(),
            ..mark
        })
    }

    pub(super) fn broadcasts(&self, limit: usize) -> Result<Vec<ConversationId>, StoreError> {
        let sql = "SELECT conversation FROM conversations INDEXED BY broadcasts WHERE kind = 3 LIMIT ?1";
        self.all(sql, [sql_limit(limit)], |row| Ok(conversation(row.get(0)?)))
    }

    pub(super) fn personal(&self, owner: ConversationId, id: ConversationId) -> Result<PersonalRow, StoreError> {
        let sql = "SELECT archived_at, hidden_at, hidden_to, muted_until FROM personal WHERE owner = ?1 AND conversation = ?2";
        let row = self.one(sql, (key(owner), key(id)), |row| {
            Ok(PersonalRow {
                archived_at: row.get(0)?,
                hidden_at: row.get(1)?,
                hidden_to: row.get(2)?,
                muted_until: row.get(3)?,
            })
        })?;
        Ok(row.unwrap_or_default())
    }
}

/// All but the address and the blocks.
fn conversation_row(id: ConversationId, row: &Row<'_>) -> rusqlite::Result<ConversationRow> {
    let created_at = row.get(6)?;
    let last_message: Seq = row.get(10)?;
    Ok(ConversationRow {
        id,
        address: Address::Broadcast(String::new()),
        creator: row.get::<_, Option<String>>(1)?.map(UserId::from),
        name: row.get(2)?,
        avatar: row.get(3)?,
        state: row.get(4)?,
        closed: row.get(5)?,
        created_at,
        updated_at: row.get(9)?,
        head: row.get(7)?,
        head_n: row.get(8)?,
        last_message,
        last_message_at: if last_message > 0 { row.get(11)? } else { created_at },
        participants: row.get(12)?,
        blocked_by: Vec::new(),
    })
}

fn member_row(row: &Row<'_>) -> rusqlite::Result<MemberRow> {
    Ok(MemberRow {
        user: user(row, 0)?,
        role: role(row.get(1)?),
        joined_seq: row.get(2)?,
        joined_at: row.get(3)?,
        left_seq: row.get(4)?,
        mark: MarkChange {
            delivered_seq: row.get(5)?,
            read_seq: row.get(6)?,
            read_n: row.get(7)?,
            own: row.get(8)?,
        },
    })
}

/// A user id in a column.
pub(super) fn user(row: &Row<'_>, column: usize) -> rusqlite::Result<UserId> {
    row.get::<_, String>(column).map(UserId::from)
}
