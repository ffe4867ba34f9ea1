//! Conversations, members, marks, and the inbox.

use haggle_model::{Address, ConversationId, ConversationKind, MarkChange, Marks, Millis, Seq, UserId, unread};
use rusqlite::{Row, types::ValueRef};

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

/// Conversations, and who else is there.
type Companions = Vec<(ConversationId, Vec<UserId>)>;

/// The columns of `conversations c` and `heads h` that [`Read::conversation`] reads.
macro_rules! conversation_columns {
    () => {
        "c.address, c.creator, c.name, c.avatar, c.state, c.closed, c.created_at, ifnull(h.head, 0), ifnull(h.head_n, 0),
        ifnull(h.updated_at, c.created_at), ifnull(h.last_message, 0), ifnull(h.last_message_at, 0), ifnull(h.participants, 0),
        EXISTS (SELECT 1 FROM conversation_blocks b WHERE b.conversation = c.conversation)"
    };
}

const CONVERSATION_COLUMNS: usize = 14;

/// The columns of `members m` that [`member_row`] reads.
macro_rules! member_columns {
    () => {
        "m.user, m.role, m.joined_seq, m.joined_at, m.left_seq, m.delivered_seq, m.read_seq, m.read_n, m.own"
    };
}

/// The columns of `personal p` that [`personal_row`] reads.
macro_rules! personal_columns {
    () => {
        "p.archived_at, p.hidden_at, ifnull(p.hidden_to, 0), p.muted_until"
    };
}
const PERSONAL_COLUMNS: usize = 4;

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
        let sql = concat!(
            "SELECT ",
            conversation_columns!(),
            " FROM conversations c LEFT JOIN heads h USING (conversation) WHERE c.conversation = ?1"
        );
        let read = self.one(sql, [key(id)], |row| Read::conversation(id, row))?;
        read.map(|read| self.whole(read)).transpose()
    }

    /// The conversation with what its columns do not hold as it is.
    fn whole(&self, read: Read) -> Result<ConversationRow, StoreError> {
        let Read {
            mut row,
            address,
            is_blocked,
        } = read;
        row.address = from_cbor(&address)?;
        if is_blocked {
            let sql = "SELECT by FROM conversation_blocks WHERE conversation = ?1 ORDER BY by";
            row.blocked_by = self.all(sql, [key(row.id)], |row| user(row, 0))?;
        }
        Ok(row)
    }

    pub(super) fn head(&self, id: ConversationId) -> Result<Option<(Seq, u32)>, StoreError> {
        self.one("SELECT head, head_n FROM heads WHERE conversation = ?1", [key(id)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
    }

    pub(super) fn member(&self, id: ConversationId, user: &UserId) -> Result<Option<MemberRow>, StoreError> {
        let sql = concat!("SELECT ", member_columns!(), " FROM members m WHERE m.conversation = ?1 AND m.user = ?2");
        self.one(sql, (key(id), user.as_str()), |row| member_row(row, 0))
    }

    pub(super) fn members(&self, id: ConversationId, after: Option<&UserId>, limit: usize) -> Result<Vec<MemberRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            member_columns!(),
            " FROM members m WHERE m.conversation = ?1 AND (?2 IS NULL OR m.user > ?2) ORDER BY m.user LIMIT ?3"
        );
        self.all(sql, (key(id), after.map(UserId::as_str), sql_limit(limit)), |row| member_row(row, 0))
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

    /// None where the user is in more than `few` conversations.
    pub(super) fn inbox(&self, user: &UserId, query: InboxQuery, few: Option<usize>) -> Result<Option<Vec<InboxRow>>, StoreError> {
        let owner = self.owner(user)?;
        let Some(listed) = self.listed(user, owner, query, few)? else {
            return Ok(None);
        };
        let rows = listed.into_iter().filter_map(|id| self.inbox_row(user, owner, id).transpose());
        rows.collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn companions(
        &self,
        user: &UserId,
        conversations_max: usize,
        members_max: usize,
        few: Option<usize>,
    ) -> Result<Option<Companions>, StoreError> {
        let newest = InboxQuery {
            limit: conversations_max,
            ..InboxQuery::default()
        };
        let Some(listed) = self.listed(user, self.owner(user)?, newest, few)? else {
            return Ok(None);
        };
        // 3 is a broadcast.
        let sql = concat!(
            "SELECT ",
            member_columns!(),
            " FROM members m WHERE m.conversation = ?1
                AND NOT EXISTS (SELECT 1 FROM conversations WHERE conversation = ?1 AND kind = 3)
                AND NOT EXISTS (SELECT 1 FROM conversation_blocks WHERE conversation = ?1)
            ORDER BY m.user LIMIT ?2"
        );
        let mut companions = Vec::new();
        for id in listed {
            let members = self.all(sql, (key(id), sql_limit(members_max)), |row| member_row(row, 0))?;
            if !members.is_empty() {
                companions.push((id, present_but(user, members)));
            }
        }
        Ok(Some(companions))
    }

    /// The keys of the conversations in the user's list; none where the user is in more than `few`, hidden ones and broadcasts
    /// among them.
    fn listed(&self, user: &UserId, owner: ConversationId, query: InboxQuery, few: Option<usize>) -> Result<Option<Vec<ConversationId>>, StoreError> {
        // 3 is a broadcast.
        let sql = "WITH own AS (
                SELECT m.conversation, c.created_at FROM members m JOIN conversations c USING (conversation)
                    WHERE m.user = ?1 AND m.left_seq IS NULL AND c.kind <= ?3
                UNION ALL SELECT conversation, created_at FROM conversations INDEXED BY broadcasts WHERE kind = 3
                LIMIT ?4
            )
            SELECT own.conversation, CASE WHEN ifnull(h.last_message, 0) > 0 THEN h.last_message_at ELSE own.created_at END, p.archived_at IS NOT NULL,
                p.hidden_at IS NULL OR ifnull(h.last_message, 0) > p.hidden_to
            FROM own LEFT JOIN heads h USING (conversation) LEFT JOIN personal p ON p.owner = ?2 AND p.conversation = own.conversation";
        let rows_max = few.map_or(-1, |few| sql_limit(few + 1));
        let own = self.all(sql, (user.as_str(), key(owner), ConversationKind::Context as i64, rows_max), |row| {
            let place: (Millis, ConversationId) = (row.get(1)?, conversation(row.get(0)?));
            Ok((place, row.get::<_, bool>(2)?, row.get::<_, bool>(3)?))
        })?;
        if few.is_some_and(|few| own.len() > few) {
            return Ok(None);
        }
        let mut places: Vec<(Millis, ConversationId)> = own
            .into_iter()
            .filter(|(_, archived, shown)| *shown && query.archived.is_none_or(|wanted| wanted == *archived))
            .map(|(place, ..)| place)
            .filter(|place| query.before.is_none_or(|before| *place < before))
            .collect();
        places.sort_unstable_by(|a, b| b.cmp(a));
        places.truncate(query.limit);
        Ok(Some(places.into_iter().map(|(_, id)| id).collect()))
    }

    pub(super) fn inbox_row(&self, user: &UserId, owner: ConversationId, id: ConversationId) -> Result<Option<InboxRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            conversation_columns!(),
            ", ",
            personal_columns!(),
            ", (SELECT count(*) FROM deleted d WHERE d.conversation = c.conversation AND d.n > m.read_n AND d.sender <> ?2), ",
            member_columns!(),
            " FROM conversations c LEFT JOIN heads h USING (conversation)
                LEFT JOIN personal p ON p.owner = ?3 AND p.conversation = c.conversation
                LEFT JOIN members m ON m.conversation = c.conversation AND m.user = ?2
            WHERE c.conversation = ?1"
        );
        let read = self.one(sql, (key(id), user.as_str(), key(owner)), |row| {
            let deleted_at = CONVERSATION_COLUMNS + PERSONAL_COLUMNS;
            let deleted: u32 = row.get(deleted_at)?;
            let is_member = row.get_ref(deleted_at + 1)? != ValueRef::Null;
            let member = is_member.then(|| member_row(row, deleted_at + 1)).transpose()?;
            Ok((Read::conversation(id, row)?, personal_row(row, CONVERSATION_COLUMNS)?, deleted, member))
        })?;
        let Some((conversation, personal, mut deleted, mut member)) = read else {
            return Ok(None);
        };
        let conversation = self.whole(conversation)?;
        if conversation.kind() == ConversationKind::Broadcast {
            let reader = MemberRow::of_reader(user, &conversation, self.broadcast_mark(user, owner, id)?);
            let sql = "SELECT count(*) FROM deleted WHERE conversation = ?1 AND n > ?2 AND sender <> ?3";
            let count = self.one(sql, (key(id), reader.mark.read_n, user.as_str()), |row| row.get(0))?;
            (deleted, member) = (count.unwrap_or_default(), Some(reader));
        }
        let Some(member) = member else { return Ok(None) };
        let marks = Marks {
            read_n: member.mark.read_n,
            own: member.mark.own,
            deleted,
        };
        let unread = unread(marks, conversation.head_n);
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
        let sql = concat!(
            "SELECT ",
            personal_columns!(),
            " FROM personal p WHERE p.owner = ?1 AND p.conversation = ?2"
        );
        let row = self.one(sql, (key(owner), key(id)), |row| personal_row(row, 0))?;
        Ok(row.unwrap_or_default())
    }
}

/// A conversation as its columns hold it.
struct Read {
    /// All but the address and who blocks whom.
    row: ConversationRow,
    address: Vec<u8>,
    is_blocked: bool,
}

impl Read {
    fn conversation(id: ConversationId, row: &Row<'_>) -> rusqlite::Result<Read> {
        let created_at = row.get(6)?;
        let last_message: Seq = row.get(10)?;
        Ok(Read {
            address: row.get(0)?,
            is_blocked: row.get(13)?,
            row: ConversationRow {
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
            },
        })
    }
}

/// A member, from column `first` on.
fn member_row(row: &Row<'_>, first: usize) -> rusqlite::Result<MemberRow> {
    Ok(MemberRow {
        user: user(row, first)?,
        role: role(row.get(first + 1)?),
        joined_seq: row.get(first + 2)?,
        joined_at: row.get(first + 3)?,
        left_seq: row.get(first + 4)?,
        mark: MarkChange {
            delivered_seq: row.get(first + 5)?,
            read_seq: row.get(first + 6)?,
            read_n: row.get(first + 7)?,
            own: row.get(first + 8)?,
        },
    })
}

/// What a user keeps of a conversation for itself, from column `first` on.
fn personal_row(row: &Row<'_>, first: usize) -> rusqlite::Result<PersonalRow> {
    Ok(PersonalRow {
        archived_at: row.get(first)?,
        hidden_at: row.get(first + 1)?,
        hidden_to: row.get(first + 2)?,
        muted_until: row.get(first + 3)?,
    })
}

/// A user id in a column.
pub(super) fn user(row: &Row<'_>, column: usize) -> rusqlite::Result<UserId> {
    row.get::<_, String>(column).map(UserId::from)
}
