//! The views, read from the [`State`].

use async_trait::async_trait;
use haggle_model::{
    Address, CommandId, ConversationId, ConversationKind, MarkChange, Marks, MessageId, Millis, PluginId, ReservationState, Seq, Shard, UserId,
    unread,
};

use super::{
    MemoryStore,
    state::{Conversation, Created, State},
};
use crate::{
    AdvanceRow, CommandRow, ConversationRow, EventRow, InboxQuery, InboxRow, KvRow, MemberRow, MessageRow, NotificationRow, Page, PersonalRow,
    StoreError, TimerRow, UserRow, Views,
};

impl MemoryStore {
    /// What `answer` says of a conversation; the default of one that nothing is known of.
    fn of<T: Default>(&self, id: ConversationId, answer: impl FnOnce(&Conversation) -> T) -> Result<T, StoreError> {
        Ok(self.inner.read().state.conversations.get(&id).map(answer).unwrap_or_default())
    }

    /// What `answer` says of the user's personal conversation.
    fn of_user<T: Default>(&self, user: &UserId, answer: impl FnOnce(&Conversation) -> T) -> Result<T, StoreError> {
        let inner = self.inner.read();
        Ok(self.personal_conversation(&inner.state, user).map(answer).unwrap_or_default())
    }

    /// Where the user's address leads, past collisions.
    fn personal_conversation<'s>(&self, state: &'s State, user: &UserId) -> Option<&'s Conversation> {
        let address = Address::Personal(user.clone());
        let key = self.keys.key(&address);
        (0..).map(|attempt| state.conversations.get(&key.probe(attempt))).find(|found| {
            found
                .and_then(|conversation| conversation.created.as_ref())
                .is_none_or(|created| created.what.address == address)
        })?
    }

    fn personal_row(&self, state: &State, user: &UserId, id: ConversationId) -> PersonalRow {
        self.personal_conversation(state, user)
            .and_then(|own| own.personal.get(&id))
            .cloned()
            .unwrap_or_default()
    }

    /// A reader's marks in a broadcast, with what it has sent there above them.
    fn broadcast_mark(&self, state: &State, user: &UserId, id: ConversationId, broadcast: &Conversation) -> MarkChange {
        let own = self.personal_conversation(state, user);
        let mark = own.and_then(|own| own.broadcast_marks.get(&id)).copied().unwrap_or_default();
        MarkChange {
            own: broadcast.numbers_of(user, mark.read_n).count() as u32,
            ..mark
        }
    }

    fn inbox_row_in(&self, state: &State, user: &UserId, id: ConversationId) -> Option<InboxRow> {
        let conversation = state.conversations.get(&id)?;
        let row = conversation.row(id)?;
        let member = match row.kind() {
            ConversationKind::Broadcast => MemberRow::of_reader(user, &row, self.broadcast_mark(state, user, id, conversation)),
            _ => conversation.members.get(user)?.clone(),
        };
        let deleted = conversation
            .deleted
            .range(member.mark.read_n + 1..)
            .filter(|(_, sender)| *sender != user)
            .count() as u32;
        let unread = unread(
            Marks {
                read_n: member.mark.read_n,
                own: member.mark.own,
                deleted,
            },
            row.head_n,
        );
        Some(InboxRow {
            conversation: row,
            member,
            personal: self.personal_row(state, user, id),
            unread,
        })
    }
}

impl Conversation {
    /// `n` of the user's countable messages above `above_n`, ascending.
    fn numbers_of(&self, user: &UserId, above_n: u32) -> impl Iterator<Item = u32> {
        let countable = self.countable.iter().map(|seq| &self.messages[seq]);
        countable
            .filter(move |message| message.sender == *user && message.n > above_n)
            .map(|message| message.n)
    }

    fn row(&self, id: ConversationId) -> Option<ConversationRow> {
        let Created { what, at } = self.created.as_ref()?;
        let (head, head_n) = self.head().unwrap_or_default();
        let last = self.last_message();
        Some(ConversationRow {
            id,
            address: what.address.clone(),
            creator: what.creator.clone(),
            name: what.name.clone(),
            avatar: what.avatar.clone(),
            state: what.state.clone(),
            closed: self.closed,
            created_at: *at,
            updated_at: self.events.last_key_value().map_or(*at, |(_, entry)| entry.at),
            head,
            head_n,
            last_message: last.map_or(0, |message| message.id.seq),
            last_message_at: last.map_or(*at, |message| message.created_at),
            participants: self.participants() as u32,
            blocked_by: self.blocked_by.iter().cloned().collect(),
        })
    }
}

/// In a user's list: a present member of a conversation of people, or any reader of a broadcast, who has not hidden it or for
/// whom a message came since.
fn is_shown(row: &InboxRow) -> bool {
    let hidden = row.personal.hidden_at.is_some() && row.conversation.last_message <= row.personal.hidden_to;
    row.conversation.kind() != ConversationKind::Personal && row.member.left_seq.is_none() && !hidden
}

#[async_trait]
impl Views for MemoryStore {
    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, StoreError> {
        self.of(id, |conversation| conversation.row(id))
    }

    async fn head(&self, id: ConversationId) -> Result<Option<(Seq, u32)>, StoreError> {
        self.of(id, Conversation::head)
    }

    async fn member(&self, id: ConversationId, user: &UserId) -> Result<Option<MemberRow>, StoreError> {
        self.of(id, |conversation| conversation.members.get(user).cloned())
    }

    async fn members(&self, id: ConversationId, after: Option<&UserId>, limit: usize) -> Result<Vec<MemberRow>, StoreError> {
        let wanted = |member: &&MemberRow| after.is_none_or(|after| member.user > *after);
        self.of(id, |conversation| {
            conversation.members.values().filter(wanted).take(limit).cloned().collect()
        })
    }

    async fn commands(&self, id: ConversationId, since: Millis, limit: usize) -> Result<Vec<CommandRow>, StoreError> {
        self.of(id, |conversation| {
            let mut rows: Vec<_> = conversation.commands.values().filter(|(_, row)| row.at >= since).collect();
            rows.sort_by_key(|(pos, _)| std::cmp::Reverse(*pos));
            rows.into_iter().map(|(_, row)| row.clone()).take(limit).collect()
        })
    }

    async fn command(&self, id: ConversationId, command: CommandId) -> Result<Option<CommandRow>, StoreError> {
        self.of(id, |conversation| conversation.commands.get(&command).map(|(_, row)| row.clone()))
    }

    async fn own_numbers(&self, id: ConversationId, user: &UserId, above_n: u32) -> Result<Vec<u32>, StoreError> {
        self.of(id, |conversation| conversation.numbers_of(user, above_n).collect())
    }

    async fn deleted(&self, id: ConversationId, above_n: u32) -> Result<Vec<(u32, UserId)>, StoreError> {
        self.of(id, |conversation| {
            conversation
                .deleted
                .range(above_n.saturating_add(1)..)
                .map(|(n, sender)| (*n, sender.clone()))
                .collect()
        })
    }

    async fn events(&self, id: ConversationId, after: Seq, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        self.of(id, |conversation| {
            let present = conversation
                .events
                .range(after.saturating_add(1)..)
                .zip(after.saturating_add(1)..)
                .take(limit);
            let dense = present.take_while(|((seq, _), expected)| *seq == expected);
            dense
                .map(|((seq, entry), _)| EventRow {
                    seq: *seq,
                    n: entry.n,
                    at: entry.at,
                    actor: entry.actor.clone(),
                    origin: entry.origin.clone(),
                    command: entry.command,
                    event: entry.event.redacted(),
                    message: entry
                        .event
                        .message_seq(*seq)
                        .and_then(|target| conversation.messages.get(&target).cloned()),
                })
                .collect()
        })
    }

    async fn messages(&self, id: ConversationId, page: Page, limit: usize, viewer: Option<&UserId>) -> Result<Vec<MessageRow>, StoreError> {
        let inner = self.inner.read();
        let Some(conversation) = inner.state.conversations.get(&id) else {
            return Ok(Vec::new());
        };
        let own = viewer.and_then(|viewer| self.personal_conversation(&inner.state, viewer));
        let hidden_to = own.and_then(|own| own.personal.get(&id)).map_or(0, |personal| personal.hidden_to);
        let is_seen = |message: &&MessageRow| message.id.seq > hidden_to && own.is_none_or(|own| !own.hidden.contains(&message.id));
        let messages = conversation.messages.values().filter(is_seen).cloned();
        Ok(match page {
            Page::Newest => messages.rev().take(limit).collect(),
            Page::Before(seq) => messages.rev().filter(|message| message.id.seq < seq).take(limit).collect(),
            Page::After(seq) => messages.filter(|message| message.id.seq > seq).take(limit).collect(),
        })
    }

    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
        self.of(id.conversation, |conversation| conversation.messages.get(&id.seq).cloned())
    }

    async fn is_hidden(&self, user: &UserId, id: MessageId) -> Result<bool, StoreError> {
        self.of_user(user, |own| {
            own.hidden.contains(&id) || own.personal.get(&id.conversation).is_some_and(|personal| id.seq <= personal.hidden_to)
        })
    }

    async fn advances(&self, id: ConversationId, from_seq: Seq, limit: usize) -> Result<Vec<AdvanceRow>, StoreError> {
        self.of(id, |conversation| {
            conversation
                .advances
                .iter()
                .filter(|advance| advance.to_seq >= from_seq)
                .take(limit)
                .cloned()
                .collect()
        })
    }

    async fn personal(&self, user: &UserId, id: ConversationId) -> Result<PersonalRow, StoreError> {
        Ok(self.personal_row(&self.inner.read().state, user, id))
    }

    async fn broadcasts(&self, limit: usize) -> Result<Vec<ConversationId>, StoreError> {
        let inner = self.inner.read();
        let is_broadcast = |conversation: &Conversation| {
            let created = conversation.created.as_ref();
            created.is_some_and(|created| created.what.address.kind() == ConversationKind::Broadcast)
        };
        let found = inner.state.conversations.iter().filter(|(_, conversation)| is_broadcast(conversation));
        let mut ids: Vec<ConversationId> = found.map(|(id, _)| *id).collect();
        ids.truncate(limit);
        Ok(ids)
    }

    async fn inbox(&self, user: &UserId, query: InboxQuery) -> Result<Vec<InboxRow>, StoreError> {
        let inner = self.inner.read();
        let place = |row: &InboxRow| (row.conversation.last_message_at, row.conversation.id);
        let mut rows: Vec<_> = inner
            .state
            .conversations
            .keys()
            .filter_map(|id| self.inbox_row_in(&inner.state, user, *id))
            .filter(is_shown)
            .collect();
        rows.retain(|row| query.archived.is_none_or(|archived| row.personal.archived_at.is_some() == archived));
        rows.retain(|row| query.before.is_none_or(|before| place(row) < before));
        rows.sort_by_key(|row| std::cmp::Reverse(place(row)));
        rows.truncate(query.limit);
        Ok(rows)
    }

    async fn inbox_row(&self, user: &UserId, id: ConversationId) -> Result<Option<InboxRow>, StoreError> {
        Ok(self.inbox_row_in(&self.inner.read().state, user, id))
    }

    async fn kv_get(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<KvRow>, StoreError> {
        self.of(scope, |conversation| conversation.kv.get(&(plugin.clone(), key.to_string())).cloned())
    }

    async fn kv_list(
        &self,
        scope: ConversationId,
        plugin: &PluginId,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<KvRow>, StoreError> {
        let wanted = |((of, key), _): &(&(PluginId, String), &KvRow)| {
            of == plugin && key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after)
        };
        self.of(scope, |conversation| {
            conversation.kv.iter().filter(wanted).map(|(_, row)| row.clone()).take(limit).collect()
        })
    }

    async fn reservation(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Result<Option<ReservationState>, StoreError> {
        self.of(scope, |conversation| {
            conversation.reservations.get(&(plugin.clone(), key.to_string())).cloned()
        })
    }

    async fn timers_due(&self, shard: Shard, until: Millis, limit: usize) -> Result<Vec<TimerRow>, StoreError> {
        let inner = self.inner.read();
        let of_shard = inner.state.conversations.iter().filter(|(id, _)| id.shard(self.shards) == shard);
        let mut due: Vec<_> = of_shard
            .flat_map(|(id, conversation)| timers(*id, conversation))
            .filter(|timer| timer.due <= until)
            .collect();
        due.sort_by_key(|timer| timer.due);
        due.truncate(limit);
        Ok(due)
    }

    async fn timer(&self, id: ConversationId, plugin: &PluginId, name: &str) -> Result<Option<TimerRow>, StoreError> {
        self.of(id, |conversation| {
            timers(id, conversation).find(|timer| timer.plugin == *plugin && timer.name == name)
        })
    }

    async fn user(&self, user: &UserId) -> Result<Option<UserRow>, StoreError> {
        self.of_user(user, |own| {
            let (profile, created_at, updated_at) = own.profile.clone()?;
            Some(UserRow {
                id: user.clone(),
                profile,
                created_at,
                updated_at,
            })
        })
    }

    async fn blocks(&self, user: &UserId) -> Result<Vec<UserId>, StoreError> {
        self.of_user(user, |own| own.blocks.iter().cloned().collect())
    }

    async fn notifications(&self, user: &UserId, before: Option<Seq>, unread_only: bool, limit: usize) -> Result<Vec<NotificationRow>, StoreError> {
        self.of_user(user, |own| {
            let listed = own
                .notifications
                .values()
                .rev()
                .filter(|stored| !stored.replaced)
                .map(|stored| &stored.row);
            let wanted = listed.filter(|row| before.is_none_or(|before| row.id.seq < before) && !(unread_only && row.read));
            wanted.take(limit).cloned().collect()
        })
    }

    async fn notification(&self, user: &UserId, seq: Seq) -> Result<Option<NotificationRow>, StoreError> {
        self.of_user(user, |own| own.notifications.get(&seq).map(|stored| stored.row.clone()))
    }

    async fn notifications_unread(&self, user: &UserId) -> Result<u32, StoreError> {
        self.of_user(user, |own| own.notifications.values().filter(|stored| !stored.row.read).count() as u32)
    }

    async fn rebuild_views(&self) -> Result<(), StoreError> {
        let mut inner = self.inner.write();
        inner.state = inner.replayed();
        Ok(())
    }
}

fn timers(id: ConversationId, conversation: &Conversation) -> impl Iterator<Item = TimerRow> {
    conversation.timers.values().filter_map(move |timer| {
        let (plugin, name, payload) = (timer.plugin.clone(), timer.name.clone(), timer.payload.clone());
        Some(TimerRow {
            conversation: id,
            plugin,
            name,
            due: timer.due?,
            payload,
        })
    })
}
