//! What an entry means for the views. A function of the entry and of the views before it, nothing else.

use std::sync::{Arc, LazyLock};

use haggle_model::{
    Content, ConversationCreated, ConversationId, ConversationKind, ConversationUpdate, Entry, Event, KvChange, MarkChange, Micros, Millis,
    Notification, Pos, Reservation, Role, Seq, TimerChange, UserId,
};
use rusqlite::{Connection, OptionalExtension, Params, Row, Statement, params};

use super::{
    hot::{Head, HotRows, Member},
    row::{self, MESSAGE_CREATED, event_number},
    schema::{LOG_FILE, VIEWS_FILE, key, sql_error},
};
use crate::{ADVANCES_PARTICIPANTS_MAX, StoreError, sender_of};

/// Some entries that are applied in one transaction. Rows that many entries change are [`HotRows`].
pub(super) struct Batch<'c> {
    conn: &'c Connection,
    hot: &'c mut HotRows,
    done: bool,
}

/// Rows of `entries` that one statement inserts, where there are so many: it begins and ends once for all of them, and looks for
/// the place of the next one beside that of the last.
const ROWS_AT_ONCE: usize = 16;

type Applied = Result<(), StoreError>;

impl<'c> Batch<'c> {
    /// Begins a transaction.
    pub(super) fn begin(conn: &'c Connection, hot: &'c mut HotRows) -> Result<Batch<'c>, StoreError> {
        // Deferred: an immediate one would lock the attached log as well.
        conn.execute_batch("BEGIN").map_err(views_error)?;
        Ok(Batch { conn, hot, done: false })
    }

    /// Applies the entries after `after`.
    pub(super) fn apply(&mut self, after: Pos, entries: &[Arc<Entry>]) -> Applied {
        let entries = || (after.0 + 1..).map(Pos).zip(entries).map(|(pos, entry)| (pos, &**entry));
        self.index(entries()).map_err(views_error)?;
        entries().try_for_each(|(pos, entry)| self.apply_one(pos, entry))
    }

    /// Inserts the rows of `entries` in the order in which they lie there, so that neighbours find their page at hand. The rest of
    /// a batch sees the rows of later entries as well, so it looks only at seqs that are not above that of its own entry.
    fn index<'e>(&self, entries: impl Iterator<Item = (Pos, &'e Entry)>) -> rusqlite::Result<()> {
        static ONE: LazyLock<String> = LazyLock::new(|| insert_entries(1));
        static MANY: LazyLock<String> = LazyLock::new(|| insert_entries(ROWS_AT_ONCE));
        let mut sequenced: Vec<_> = entries.filter(|(_, entry)| entry.seq > 0).collect();
        sequenced.sort_unstable_by_key(|(pos, entry)| (key(entry.conversation), entry.seq, *pos));
        let (many, rest) = sequenced.as_chunks::<ROWS_AT_ONCE>();
        let (mut insert_many, mut insert_one) = (self.conn.prepare_cached(&MANY)?, self.conn.prepare_cached(&ONE)?);
        for rows in many {
            if !insert(&mut insert_many, rows)? {
                self.tell_double(rows)?;
            }
        }
        for row in rest {
            let row = std::slice::from_ref(row);
            if !insert(&mut insert_one, row)? {
                self.tell_double(row)?;
            }
        }
        Ok(())
    }

    /// Names the entries whose seq was there already. Stopping at them would stop every view for ever.
    fn tell_double(&self, rows: &[(Pos, &Entry)]) -> rusqlite::Result<()> {
        let mut first = self.conn.prepare_cached("SELECT pos FROM entries WHERE conversation = ?1 AND seq = ?2")?;
        for (pos, entry) in rows {
            let first: i64 = first.query_row((key(entry.conversation), entry.seq), |row| row.get(0))?;
            if first != pos.0 as i64 {
                let (conversation, seq) = (entry.conversation, entry.seq);
                tracing::error!(%pos, first, %conversation, seq, "a seq stands twice in the log; the first one counts");
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, pos: Pos, entry: &Entry) -> Applied {
        if entry.seq > 0 {
            let head = self.head(entry)?;
            (head.head, head.head_n, head.updated_at) = (entry.seq, entry.n, entry.at);
        } else if let Some(command) = entry.command {
            let sql = "INSERT INTO unsequenced (pos, conversation, command) VALUES (?1, ?2, ?3)";
            self.execute(sql, (pos.0 as i64, key(entry.conversation), command_hash(&command.0)))?;
        }
        self.event(pos, entry)?;
        self.effects(entry)
    }

    /// Writes what was gathered and commits; the views now go up to `applied`.
    pub(super) fn commit(mut self, applied: Pos, ts: Micros) -> Applied {
        self.hot.write(self.conn)?;
        self.execute("UPDATE meta SET applied = ?1, applied_ts = ?2", (applied.0 as i64, ts as i64))?;
        self.conn.execute_batch("COMMIT").map_err(views_error)?;
        self.done = true;
        Ok(())
    }

    fn event(&mut self, pos: Pos, entry: &Entry) -> Applied {
        let id = entry.conversation;
        match &entry.event {
            Event::ConversationCreated(created) => self.conversation_created(entry, created),
            Event::ConversationUpdated(update) => self.conversation_updated(entry, update),
            Event::ConversationClosed(_) => self.set_closed(id, true),
            Event::ConversationReopened => self.set_closed(id, false),
            Event::ParticipantJoined { user, role } => self.participant_joined(entry, user, *role),
            Event::ParticipantLeft { user } => self.participant_left(entry, user),
            Event::ParticipantUpdated { user, role } => {
                if let Some(member) = self.member(id, user)? {
                    member.role = *role;
                }
                Ok(())
            }
            Event::MessageCreated(content) => self.message_created(entry, content),
            Event::MessageEdited { target, content } => self.message_edited(pos, entry, *target, content.silent),
            Event::MessageDeleted { target, sender, n } => self.message_deleted(entry, *target, sender, *n),
            Event::ReactionAdded { target, user, emoji } => self.reaction_added(entry, *target, user, emoji),
            Event::ReactionRemoved { target, user } => self.reaction_removed(entry, *target, user),
            Event::UserBlocked { by } => self
                .execute("INSERT OR IGNORE INTO conversation_blocks VALUES (?1, ?2)", (key(id), by.as_str()))
                .map(drop),
            Event::UserUnblocked { by } => self
                .execute(
                    "DELETE FROM conversation_blocks WHERE conversation = ?1 AND by = ?2",
                    (key(id), by.as_str()),
                )
                .map(drop),
            Event::Marked { user, mark } => self.marked(pos, entry, user, mark),
            Event::BroadcastMarked { conversation, mark } => self.broadcast_marked(id, *conversation, mark),
            Event::ConversationArchived { conversation, archived } => self.personal(id, *conversation, "archived_at", archived.then_some(entry.at)),
            Event::ConversationHidden { conversation, to_seq } => self.conversation_hidden(entry, *conversation, *to_seq),
            Event::MessageHidden(message) => {
                let sql = "INSERT OR IGNORE INTO hidden_messages VALUES (?1, ?2, ?3)";
                self.execute(sql, (key(id), key(message.conversation), message.seq)).map(drop)
            }
            Event::ConversationMuted { conversation, until } => self.personal(id, *conversation, "muted_until", *until),
            Event::ProfileUpdated(profile) => {
                let sql = "INSERT INTO profiles VALUES (?1, ?2, ?3, ?3)
                    ON CONFLICT DO UPDATE SET profile = excluded.profile, updated_at = excluded.updated_at";
                self.execute(sql, (key(id), cbor(profile), entry.at)).map(drop)
            }
            Event::Notified(notification) => self.notified(entry, notification),
            Event::NotificationsRead(seqs) => self.notifications_read(entry, seqs),
            Event::AllNotificationsRead(up_to) => {
                let sql = "UPDATE notifications INDEXED BY notifications_unread SET state = 1, updated_at = ?3
                    WHERE owner = ?1 AND seq <= ?2 AND state = 0";
                self.execute(sql, (key(id), *up_to, entry.at)).map(drop)
            }
            Event::BlockListed { user, blocked: true } => self
                .execute("INSERT OR IGNORE INTO blocks VALUES (?1, ?2)", (key(id), user.as_str()))
                .map(drop),
            Event::BlockListed { user, blocked: false } => self
                .execute("DELETE FROM blocks WHERE owner = ?1 AND user = ?2", (key(id), user.as_str()))
                .map(drop),
            Event::Noop
            | Event::Custom { .. }
            | Event::MembershipStarted(_)
            | Event::MembershipEnded(_)
            | Event::Effects
            | Event::Void(_)
            | Event::Owner(_) => Ok(()),
        }
    }

    fn effects(&mut self, entry: &Entry) -> Applied {
        let effects = &entry.effects;
        effects.kv.iter().try_for_each(|change| self.kv(entry.conversation, change))?;
        effects
            .reservations
            .iter()
            .try_for_each(|reservation| self.reservation(entry.conversation, reservation))?;
        effects.timers.iter().try_for_each(|timer| self.timer(entry.conversation, timer))?;
        if let (Some(actor), Some(mark)) = (&entry.actor, &effects.mark)
            && let Some(member) = self.member(entry.conversation, actor)?
        {
            merge(&mut member.mark, mark);
        }
        Ok(())
    }

    // Conversations.

    fn conversation_created(&mut self, entry: &Entry, created: &ConversationCreated) -> Applied {
        let ConversationCreated {
            address,
            creator,
            name,
            avatar,
            state,
        } = created;
        if address.kind() == ConversationKind::Broadcast {
            self.head(entry)?.broadcast = true;
        }
        self.execute(
            "INSERT OR IGNORE INTO conversations VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8)",
            params![
                key(entry.conversation),
                address.kind() as i64,
                cbor(address),
                creator.as_ref().map(UserId::as_str),
                name,
                avatar,
                state,
                entry.at
            ],
        )?;
        Ok(())
    }

    /// `None` leaves a field as it is, an empty text clears it.
    fn conversation_updated(&self, entry: &Entry, update: &ConversationUpdate) -> Applied {
        self.execute(
            "UPDATE conversations SET name = nullif(ifnull(?2, name), ''), avatar = nullif(ifnull(?3, avatar), ''), state = nullif(ifnull(?4, state), '')
                WHERE conversation = ?1",
            params![key(entry.conversation), update.name, update.avatar, update.state],
        )?;
        Ok(())
    }

    fn set_closed(&self, id: ConversationId, closed: bool) -> Applied {
        self.execute("UPDATE conversations SET closed = ?2 WHERE conversation = ?1", (key(id), closed))
            .map(drop)
    }

    // Members and marks.

    /// The row starts anew, also of one who was in before.
    fn participant_joined(&mut self, entry: &Entry, user: &UserId, role: Role) -> Applied {
        let was_in = self.member(entry.conversation, user)?.is_some_and(|member| member.left_seq.is_none());
        let mark = MarkChange {
            delivered_seq: entry.seq,
            read_seq: entry.seq,
            read_n: entry.n,
            own: 0,
        };
        let member = Member {
            role,
            joined_seq: entry.seq,
            joined_at: entry.at,
            left_seq: None,
            mark,
        };
        self.hot.put_member(entry.conversation, user, member)?;
        if !was_in {
            self.head(entry)?.participants += 1;
        }
        Ok(())
    }

    fn participant_left(&mut self, entry: &Entry, user: &UserId) -> Applied {
        if let Some(member) = self.member(entry.conversation, user)?
            && member.left_seq.is_none()
        {
            member.left_seq = Some(entry.seq);
            let head = self.head(entry)?;
            head.participants = head.participants.saturating_sub(1);
        }
        Ok(())
    }

    fn marked(&mut self, pos: Pos, entry: &Entry, user: &UserId, mark: &MarkChange) -> Applied {
        let Some(member) = self.member(entry.conversation, user)? else {
            return Ok(());
        };
        let advances = mark.read_seq > member.mark.read_seq;
        merge(&mut member.mark, mark);
        if advances && self.head(entry)?.participants as usize <= ADVANCES_PARTICIPANTS_MAX {
            let sql = "INSERT INTO advances (conversation, to_seq, pos, user, at) VALUES (?1, ?2, ?3, ?4, ?5)";
            self.execute(sql, (key(entry.conversation), mark.read_seq, pos.0 as i64, user.as_str(), entry.at))?;
        }
        Ok(())
    }

    /// What a reader has read of a broadcast, merged as a member's marks are.
    fn broadcast_marked(&self, owner: ConversationId, broadcast: ConversationId, mark: &MarkChange) -> Applied {
        self.execute(
            "INSERT INTO broadcast_marks VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT DO UPDATE SET delivered_seq = max(delivered_seq, excluded.delivered_seq),
                    read_n = iif(excluded.read_seq >= read_seq, excluded.read_n, read_n), read_seq = max(read_seq, excluded.read_seq)",
            (key(owner), key(broadcast), mark.delivered_seq, mark.read_seq, mark.read_n),
        )?;
        Ok(())
    }

    // Messages.

    fn message_created(&mut self, entry: &Entry, content: &Content) -> Applied {
        if !content.countable {
            return Ok(());
        }
        let head = self.head(entry)?;
        (head.last_message, head.last_message_at) = (entry.seq, entry.at);
        if head.broadcast {
            let sql = "INSERT OR IGNORE INTO broadcast_sent VALUES (?1, ?2, ?3)";
            self.execute(sql, (key(entry.conversation), sender_of(entry.actor.as_ref()).as_str(), entry.n))?;
        }
        Ok(())
    }

    /// Notes that something happened to the message; `false` when it is deleted, after which nothing does.
    fn touch(&self, entry: &Entry, target: Seq) -> Result<bool, StoreError> {
        let sql = "INSERT INTO changed (conversation, seq, rev, updated_at) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO UPDATE SET rev = excluded.rev, updated_at = excluded.updated_at WHERE deleted_at IS NULL";
        Ok(self.execute(sql, (key(entry.conversation), target, entry.seq, entry.at))? > 0)
    }

    fn message_edited(&self, pos: Pos, entry: &Entry, target: Seq, silent: bool) -> Applied {
        if self.touch(entry, target)? {
            let sql = "UPDATE changed SET edit_pos = ?3, edited_at = coalesce(?4, edited_at) WHERE conversation = ?1 AND seq = ?2";
            let edited_at = (!silent).then_some(entry.at);
            self.execute(sql, (key(entry.conversation), target, pos.0 as i64, edited_at))?;
        }
        Ok(())
    }

    fn message_deleted(&mut self, entry: &Entry, target: Seq, sender: &UserId, n: u32) -> Applied {
        let id = entry.conversation;
        if !self.touch(entry, target)? {
            return Ok(());
        }
        let erased = self.is_redacted(id, target)?; // when the views are made again
        let sql = "UPDATE changed SET deleted_at = ?3, erased = ?4 WHERE conversation = ?1 AND seq = ?2";
        self.execute(sql, (key(id), target, entry.at, erased))?;
        self.execute("DELETE FROM reactions WHERE conversation = ?1 AND seq = ?2", (key(id), target))?;
        if n > 0 {
            self.execute("INSERT OR IGNORE INTO deleted VALUES (?1, ?2, ?3)", (key(id), n, sender.as_str()))?;
        }
        if self.head(entry)?.last_message == target {
            let previous = self.message_before(id, target)?;
            let head = self.head(entry)?;
            (head.last_message, head.last_message_at) = previous.unwrap_or_default();
        }
        Ok(())
    }

    fn is_redacted(&self, id: ConversationId, seq: Seq) -> Result<bool, StoreError> {
        let flags = self.query(
            "SELECT flags FROM entries JOIN log USING (pos) WHERE entries.conversation = ?1 AND entries.seq = ?2",
            (key(id), seq),
            |row| row.get::<_, i64>(0),
        )?;
        Ok(flags.is_some_and(|flags| flags & row::REDACTED != 0))
    }

    /// The newest countable message below `seq` that is not deleted, and when it was created.
    fn message_before(&self, id: ConversationId, seq: Seq) -> Result<Option<(Seq, Millis)>, StoreError> {
        let sql = "SELECT e.seq, (SELECT at FROM log WHERE log.pos = e.pos) FROM entries e
            WHERE e.conversation = ?1 AND e.seq < ?2 AND e.event = ?3 AND e.countable
                AND NOT EXISTS (SELECT 1 FROM changed c WHERE c.conversation = e.conversation AND c.seq = e.seq AND c.deleted_at IS NOT NULL)
            ORDER BY e.seq DESC LIMIT 1";
        self.query(sql, (key(id), seq, MESSAGE_CREATED), |row| Ok((row.get(0)?, row.get(1)?)))
    }

    fn reaction_added(&self, entry: &Entry, target: Seq, user: &UserId, emoji: &str) -> Applied {
        if self.touch(entry, target)? {
            let sql = "INSERT INTO reactions VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET emoji = excluded.emoji";
            self.execute(sql, (key(entry.conversation), target, user.as_str(), emoji))?;
        }
        Ok(())
    }

    fn reaction_removed(&self, entry: &Entry, target: Seq, user: &UserId) -> Applied {
        if self.touch(entry, target)? {
            let sql = "DELETE FROM reactions WHERE conversation = ?1 AND seq = ?2 AND user = ?3";
            self.execute(sql, (key(entry.conversation), target, user.as_str()))?;
        }
        Ok(())
    }

    // Plugins.

    fn kv(&self, scope: ConversationId, change: &KvChange) -> Applied {
        let (plugin, name) = (change.plugin.as_str(), change.key.as_str());
        match &change.value {
            Some(value) => self.execute(
                "INSERT INTO kv VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at",
                (key(scope), plugin, name, value, change.expires_at),
            ),
            None => self.execute("DELETE FROM kv WHERE scope = ?1 AND plugin = ?2 AND key = ?3", (key(scope), plugin, name)),
        }
        .map(drop)
    }

    fn reservation(&self, scope: ConversationId, reservation: &Reservation) -> Applied {
        let (plugin, name) = (reservation.plugin.as_str(), reservation.key.as_str());
        match &reservation.state {
            Some(state) => self.execute(
                "INSERT INTO reservations VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET state = excluded.state",
                (key(scope), plugin, name, cbor(state)),
            ),
            None => self.execute(
                "DELETE FROM reservations WHERE scope = ?1 AND plugin = ?2 AND key = ?3",
                (key(scope), plugin, name),
            ),
        }
        .map(drop)
    }

    fn timer(&self, id: ConversationId, timer: &TimerChange) -> Applied {
        let (plugin, name) = (timer.plugin.as_str(), timer.name.as_str());
        match timer.due {
            Some(due) => self.execute(
                "INSERT INTO timers VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET due = excluded.due, payload = excluded.payload",
                (key(id), plugin, name, due, timer.payload.as_str()),
            ),
            None => self.execute(
                "DELETE FROM timers WHERE conversation = ?1 AND plugin = ?2 AND name = ?3",
                (key(id), plugin, name),
            ),
        }
        .map(drop)
    }

    // What a user keeps for itself.

    fn personal(&self, owner: ConversationId, conversation: ConversationId, column: &str, value: Option<Millis>) -> Applied {
        let sql = format!(
            "INSERT INTO personal (owner, conversation, {column}) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET {column} = excluded.{column}"
        );
        self.execute(&sql, (key(owner), key(conversation), value)).map(drop)
    }

    fn conversation_hidden(&self, entry: &Entry, conversation: ConversationId, to_seq: Seq) -> Applied {
        self.execute(
            "INSERT INTO personal (owner, conversation, hidden_at, hidden_to) VALUES (?1, ?2, ?3, ?4)
                ON CONFLICT DO UPDATE SET hidden_at = excluded.hidden_at, hidden_to = max(hidden_to, excluded.hidden_to)",
            (key(entry.conversation), key(conversation), entry.at, to_seq),
        )?;
        Ok(())
    }

    fn notified(&self, entry: &Entry, notification: &Notification) -> Applied {
        let owner = key(entry.conversation);
        if let Some(collapse) = &notification.collapse {
            let sql = "UPDATE notifications INDEXED BY notifications_collapsing SET state = 2, updated_at = ?3
                WHERE owner = ?1 AND collapse = ?2 AND state = 0";
            self.execute(sql, (owner, collapse, entry.at))?;
        }
        self.execute(
            "INSERT OR IGNORE INTO notifications VALUES (?1, ?2, 0, ?3, ?4)",
            (owner, entry.seq, entry.at, &notification.collapse),
        )?;
        Ok(())
    }

    fn notifications_read(&self, entry: &Entry, seqs: &[Seq]) -> Applied {
        let sql = "UPDATE notifications SET state = 1, updated_at = ?3 WHERE owner = ?1 AND seq = ?2 AND state = 0";
        seqs.iter()
            .try_for_each(|seq| self.execute(sql, (key(entry.conversation), *seq, entry.at)).map(drop))
    }

    fn head(&mut self, entry: &Entry) -> Result<&mut Head, StoreError> {
        self.hot.head(self.conn, entry.conversation, entry.seq)
    }

    fn member(&mut self, id: ConversationId, user: &UserId) -> Result<Option<&mut Member>, StoreError> {
        self.hot.member(self.conn, id, user)
    }

    fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        execute(self.conn, sql, params)
    }

    fn query<T>(&self, sql: &str, params: impl Params, read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>) -> Result<Option<T>, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(params, read).optional())
            .map_err(|error| sql_error(LOG_FILE, error))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.hot.clear(); // they have changes that are not in the file
            if !self.conn.is_autocommit() {
                let _ = self.conn.execute_batch("ROLLBACK"); // SQLite has done it already after some errors
            }
        }
    }
}

/// Columns of `entries`.
const COLUMNS: usize = 8;

fn insert_entries(rows: usize) -> String {
    let row = |row| {
        let parameters: Vec<_> = (1..=COLUMNS).map(|column| format!("?{}", row * COLUMNS + column)).collect();
        format!("({})", parameters.join(", "))
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    let columns = "conversation, seq, pos, n, event, countable, target, command";
    format!("INSERT OR IGNORE INTO entries ({columns}) VALUES {}", rows.join(", "))
}

/// Inserts rows of `entries`, as many as the statement has places for; `false` when some were there already.
fn insert(statement: &mut Statement<'_>, rows: &[(Pos, &Entry)]) -> rusqlite::Result<bool> {
    for (row, (pos, entry)) in rows.iter().enumerate() {
        let countable = matches!(&entry.event, Event::MessageCreated(content) if content.countable);
        let target = match &entry.event {
            Event::MessageEdited { target, .. } => Some(*target),
            _ => None,
        };
        let before = row * COLUMNS;
        statement.raw_bind_parameter(before + 1, key(entry.conversation))?;
        statement.raw_bind_parameter(before + 2, entry.seq)?;
        statement.raw_bind_parameter(before + 3, pos.0 as i64)?;
        statement.raw_bind_parameter(before + 4, entry.n)?;
        statement.raw_bind_parameter(before + 5, event_number(&entry.event))?;
        statement.raw_bind_parameter(before + 6, countable)?;
        statement.raw_bind_parameter(before + 7, target)?;
        statement.raw_bind_parameter(before + 8, entry.command.map(|command| command_hash(&command.0)))?;
    }
    Ok(statement.raw_execute()? == rows.len())
}

/// Runs a statement that is prepared once per connection.
pub(super) fn execute(conn: &Connection, sql: &str, params: impl Params) -> Result<usize, StoreError> {
    conn.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(params))
        .map_err(views_error)
}

/// Delivered moves up only; the read part is taken whole unless it is older.
fn merge(mark: &mut MarkChange, change: &MarkChange) {
    mark.delivered_seq = mark.delivered_seq.max(change.delivered_seq);
    if change.read_seq >= mark.read_seq {
        (mark.read_seq, mark.read_n, mark.own) = (change.read_seq, change.read_n, change.own);
    }
}

/// A role from its number in a column.
pub(super) fn role(number: i64) -> Role {
    if number == Role::Admin as i64 { Role::Admin } else { Role::Member }
}

/// What the index keeps of a command's id: the id is a hash already.
pub(super) fn command_hash(id: &[u8; 16]) -> i64 {
    i64::from_le_bytes(id[..8].try_into().expect("8 of 16 bytes"))
}

pub(super) fn cbor<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to memory does not fail")
}

fn views_error(error: rusqlite::Error) -> StoreError {
    sql_error(VIEWS_FILE, error)
}
