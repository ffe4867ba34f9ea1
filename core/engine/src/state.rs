//! A conversation's state in memory, including everything staged and not yet durable.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use haggle_model::{
    Address, ConversationId, Entry, Event, KvChange, MarkChange, Marks, Millis, PluginId, ReservationState, Role, Seq, TimerChange, UserId, unread,
};
use haggle_store::{ConversationRow, MemberRow, MessageRow, MessageView};

use crate::commands_seen::CommandsSeen;

/// Deleted messages kept for counting unread; an older mark counts a little too much until it moves.
const DELETED_MAX: usize = 1_000;

/// Void commands remembered; a command does not run longer than it takes to void so many others.
const VOIDS_MAX: usize = 256;

/// A present participant.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub role: Role,
    pub joined_seq: Seq,
    pub joined_at: Millis,
    pub mark: MarkChange,
    /// `n` of the own countable messages above the mark, ascending: `mark.own` of them.
    pub own: Vec<u32>,
}

/// What a conversation's turn decides on.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// `None`: never created.
    pub row: Option<Box<ConversationRow>>,
    pub head: Seq,
    pub head_n: u32,
    pub members: BTreeMap<UserId, Member>,
    pub commands: CommandsSeen,
    /// (n, sender) of deleted countable messages, ascending by n.
    pub deleted: VecDeque<(u32, UserId)>,
    /// What it will be created under, while a command that creates it runs.
    pub pending: Option<Address>,
    /// Commands that may never be staged any more.
    pub voids: Vec<haggle_model::CommandId>,
    /// Staged and not yet known to be durable, oldest first, with their tickets.
    uncommitted: VecDeque<(u64, Arc<Entry>)>,
    /// Of the last thing staged.
    pub last_ticket: u64,
}

impl State {
    /// The conversation's row with everything staged, if it was ever created.
    pub fn present_row(&self) -> Option<ConversationRow> {
        self.row.as_deref().map(|row| ConversationRow {
            head: self.head,
            head_n: self.head_n,
            participants: self.members.len() as u32,
            ..row.clone()
        })
    }

    /// From the store's rows.
    pub fn load(
        row: Option<ConversationRow>,
        head: (Seq, u32),
        members: Vec<(MemberRow, Vec<u32>)>,
        commands: CommandsSeen,
        deleted: Vec<(u32, UserId)>,
    ) -> State {
        let present = |(row, own): (MemberRow, Vec<u32>)| {
            let member = Member {
                role: row.role,
                joined_seq: row.joined_seq,
                joined_at: row.joined_at,
                mark: MarkChange {
                    own: own.len() as u32,
                    ..row.mark
                },
                own,
            };
            (row.user, member)
        };
        let skip = deleted.len().saturating_sub(DELETED_MAX);
        State {
            row: row.map(Box::new),
            head: head.0,
            head_n: head.1,
            members: members.into_iter().filter(|(row, _)| row.left_seq.is_none()).map(present).collect(),
            commands,
            deleted: deleted.into_iter().skip(skip).collect(),
            ..State::default()
        }
    }

    /// The address it was created under.
    pub fn address(&self) -> Option<&Address> {
        self.row.as_ref().map(|row| &row.address)
    }

    /// No more messages by users.
    pub fn is_closed(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.closed)
    }

    /// One of the two of a direct conversation blocks the other.
    pub fn is_blocked(&self) -> bool {
        self.row.as_ref().is_some_and(|row| !row.blocked_by.is_empty())
    }

    /// The user's unread messages.
    pub fn unread(&self, user: &UserId) -> u32 {
        self.members.get(user).map_or(0, |member| self.unread_at(user, member.mark, self.head_n))
    }

    fn unread_at(&self, user: &UserId, mark: MarkChange, head_n: u32) -> u32 {
        let deleted = self
            .deleted
            .iter()
            .rev()
            .take_while(|(n, _)| *n > mark.read_n)
            .filter(|(_, sender)| sender != user)
            .count();
        unread(
            Marks {
                read_n: mark.read_n,
                own: mark.own,
                deleted: deleted as u32,
            },
            head_n,
        )
    }

    /// The countable messages up to the event at `seq`, if that is the head or not yet known to be durable.
    pub fn number_at(&self, seq: Seq) -> Option<u32> {
        if seq == self.head {
            return Some(self.head_n);
        }
        self.newest(|entry| (entry.seq == seq && seq > 0).then_some(entry.n))
    }

    /// The marks after moving to these seqs, or `None` when nothing moves. `read_n` is `n` of the event at `read`.
    pub fn mark_moved(&self, user: &UserId, delivered: Option<Seq>, read: Option<(Seq, u32)>) -> Option<MarkChange> {
        let member = self.members.get(user)?;
        let read = read.map(|(seq, n)| (seq.min(self.head), n.min(self.head_n)));
        let delivered = delivered.map(|seq| seq.min(self.head));
        mark_moved(member.mark, &member.own, delivered, read)
    }

    /// The reader's marks in a broadcast, if something staged says what they are (in a personal conversation).
    pub fn staged_broadcast_mark(&self, broadcast: ConversationId) -> Option<MarkChange> {
        self.newest(|entry| match &entry.event {
            Event::BroadcastMarked { conversation, mark } if *conversation == broadcast => Some(*mark),
            _ => None,
        })
    }

    /// In a personal conversation: the last change of what is muted that is not yet durable.
    pub fn staged_mute(&self, conversation: ConversationId) -> Option<Option<Millis>> {
        self.newest(|entry| match &entry.event {
            Event::ConversationMuted { conversation: muted, until } if *muted == conversation => Some(*until),
            _ => None,
        })
    }

    /// Takes in an entry that has just been staged under `ticket`.
    pub fn apply(&mut self, ticket: u64, entry: &Arc<Entry>) {
        self.last_ticket = ticket;
        self.uncommitted.push_back((ticket, entry.clone()));
        if entry.seq > 0 {
            self.head = entry.seq;
            self.head_n = entry.n;
        }
        if let (Some(mark), Some(actor)) = (entry.effects.mark, &entry.actor) {
            self.set_mark(actor, mark, Some(entry.n));
        }
        self.apply_event(entry);
    }

    fn apply_event(&mut self, entry: &Entry) {
        match &entry.event {
            Event::ConversationCreated(created) => {
                self.row = Some(Box::new(ConversationRow {
                    id: entry.conversation,
                    address: created.address.clone(),
                    creator: created.creator.clone(),
                    name: created.name.clone(),
                    avatar: created.avatar.clone(),
                    state: created.state.clone(),
                    closed: false,
                    created_at: entry.at,
                    updated_at: entry.at,
                    head: entry.seq,
                    head_n: entry.n,
                    last_message: 0,
                    last_message_at: entry.at,
                    participants: 0,
                    blocked_by: Vec::new(),
                }));
            }
            Event::ConversationUpdated(update) => {
                if let Some(row) = &mut self.row {
                    let set = |field: &mut Option<String>, new: &Option<String>| {
                        if let Some(new) = new {
                            *field = (!new.is_empty()).then(|| new.clone());
                        }
                    };
                    set(&mut row.name, &update.name);
                    set(&mut row.avatar, &update.avatar);
                    set(&mut row.state, &update.state);
                }
            }
            Event::ConversationClosed(_) => self.with_row(|row| row.closed = true),
            Event::ConversationReopened => self.with_row(|row| row.closed = false),
            Event::ParticipantJoined { user, role } => {
                let mark = mark_of_joiner(entry.seq, entry.n);
                self.members.insert(
                    user.clone(),
                    Member {
                        role: *role,
                        joined_seq: entry.seq,
                        joined_at: entry.at,
                        mark,
                        own: Vec::new(),
                    },
                );
            }
            Event::ParticipantLeft { user } => {
                self.members.remove(user);
            }
            Event::ParticipantUpdated { user, role } => {
                if let Some(member) = self.members.get_mut(user) {
                    member.role = *role;
                }
            }
            Event::MessageDeleted { n, sender, .. } if *n > 0 => {
                let at = self.deleted.partition_point(|(other, _)| other < n);
                self.deleted.insert(at, (*n, sender.clone()));
                if self.deleted.len() > DELETED_MAX {
                    self.deleted.pop_front();
                }
            }
            Event::UserBlocked { by } => self.with_row(|row| {
                if !row.blocked_by.contains(by) {
                    row.blocked_by.push(by.clone());
                }
            }),
            Event::UserUnblocked { by } => self.with_row(|row| row.blocked_by.retain(|user| user != by)),
            Event::Marked { user, mark } => self.set_mark(user, *mark, None),
            Event::Void(command) => {
                if self.voids.len() == VOIDS_MAX {
                    self.voids.remove(0);
                }
                self.voids.push(*command);
            }
            _ => {}
        }
    }

    fn with_row(&mut self, change: impl FnOnce(&mut ConversationRow)) {
        if let Some(row) = &mut self.row {
            change(row);
        }
    }

    fn set_mark(&mut self, user: &UserId, mark: MarkChange, sent_n: Option<u32>) {
        if let Some(member) = self.members.get_mut(user) {
            // Who never reads what others write has many own messages above its mark: they are looked at when it moves.
            if mark.read_n != member.mark.read_n {
                let read = member.own.partition_point(|n| *n <= mark.read_n);
                member.own.drain(..read);
            }
            member.mark = mark;
            if let Some(n) = sent_n.filter(|n| *n > mark.read_n) {
                member.own.push(n);
            }
        }
    }

    /// Forgets what is durable now: the store answers for it.
    pub fn forget_committed(&mut self, committed: u64) {
        while self.uncommitted.front().is_some_and(|(ticket, _)| *ticket <= committed) {
            self.uncommitted.pop_front();
        }
    }

    /// Everything staged is durable.
    pub fn is_settled(&self, committed: u64) -> bool {
        self.last_ticket <= committed
    }

    /// A key of plugin kv, if something staged says what it is.
    pub fn staged_kv(&self, plugin: &PluginId, key: &str) -> Option<&KvChange> {
        self.newest(|entry| entry.effects.kv.iter().rev().find(|change| change.plugin == *plugin && change.key == key))
    }

    /// Keys of plugin kv with this prefix that staged entries change, the newest change of each.
    pub fn staged_kv_prefix(&self, plugin: &PluginId, prefix: &str) -> HashMap<&str, &KvChange> {
        let changes = self.uncommitted.iter().flat_map(|(_, entry)| &entry.effects.kv);
        changes
            .filter(|change| change.plugin == *plugin && change.key.starts_with(prefix))
            .map(|change| (change.key.as_str(), change))
            .collect()
    }

    /// A timer, if something staged says what it is.
    pub fn staged_timer(&self, plugin: &PluginId, name: &str) -> Option<&TimerChange> {
        self.newest(|entry| {
            entry
                .effects
                .timers
                .iter()
                .rev()
                .find(|timer| timer.plugin == *plugin && timer.name == name)
        })
    }

    /// A reservation, if something staged says what it is (`Some(None)`: nobody holds it).
    pub fn staged_reservation(&self, plugin: &PluginId, key: &str) -> Option<Option<&ReservationState>> {
        self.newest(|entry| {
            entry
                .effects
                .reservations
                .iter()
                .rev()
                .find(|held| held.plugin == *plugin && held.key == key)
                .map(|held| held.state.as_ref())
        })
    }

    /// The profile, if something staged says what it is (in a personal conversation).
    pub fn staged_profile(&self) -> Option<&haggle_model::Profile> {
        self.newest(|entry| {
            if let Event::ProfileUpdated(profile) = &entry.event {
                Some(profile)
            } else {
                None
            }
        })
    }

    fn newest<'a, T>(&'a self, find: impl FnMut(&'a Entry) -> Option<T>) -> Option<T> {
        self.uncommitted.iter().rev().map(|(_, entry)| &**entry).find_map(find)
    }

    /// The message if it was created by something not yet durable.
    pub fn staged_message(&self, seq: Seq) -> Option<MessageRow> {
        let created = self.newest(|entry| (entry.seq == seq).then_some(entry))?;
        let mut row = MessageView::created(created)?.to_row();
        self.refresh(&mut row);
        Some(row)
    }

    /// The messages that were created by something not yet durable, newest first.
    pub fn staged_messages(&self) -> Vec<MessageRow> {
        let mut rows: Vec<MessageRow> = Vec::new();
        for (_, entry) in &self.uncommitted {
            rows.iter_mut().for_each(|row| change_message(row, entry));
            rows.extend(MessageView::created(entry).map(MessageView::to_row));
        }
        rows.reverse();
        rows
    }

    /// Brings a message read from the store up to what is staged.
    pub fn refresh(&self, row: &mut MessageRow) {
        for (_, entry) in &self.uncommitted {
            change_message(row, entry);
        }
    }
}

/// Marks while the entries of one transaction get their seqs: what they do to marks is not in the state yet.
pub(crate) struct MarksAhead<'a> {
    state: &'a State,
    /// The newest last: few transactions move more than one.
    moved: Vec<(UserId, MarkChange)>,
}

impl<'a> MarksAhead<'a> {
    pub fn new(state: &'a State) -> MarksAhead<'a> {
        MarksAhead { state, moved: Vec::new() }
    }

    /// The user joins with the event at (`seq`, `n`).
    pub fn joined(&mut self, user: &UserId, seq: Seq, n: u32) {
        self.moved.push((user.clone(), mark_of_joiner(seq, n)));
    }

    /// What an own countable message at (`seq`, `n`) does to its sender's marks: moves them when nothing was unread before it.
    pub fn sent(&mut self, user: &UserId, seq: Seq, n: u32) -> Option<MarkChange> {
        let mark = self
            .moved
            .iter()
            .rev()
            .find(|(moved, _)| moved == user)
            .map(|(_, mark)| *mark)
            .or_else(|| self.state.members.get(user).map(|member| member.mark))?;
        let mark = if self.state.unread_at(user, mark, n - 1) == 0 {
            MarkChange {
                delivered_seq: seq,
                read_seq: seq,
                read_n: n,
                own: 0,
            }
        } else {
            MarkChange { own: mark.own + 1, ..mark }
        };
        self.moved.push((user.clone(), mark));
        Some(mark)
    }
}

/// The marks after moving to these seqs, none above the head, or `None` when nothing moves. `own`: numbers of own messages,
/// ascending.
pub(crate) fn mark_moved(before: MarkChange, own: &[u32], delivered: Option<Seq>, read: Option<(Seq, u32)>) -> Option<MarkChange> {
    let mut mark = before;
    if let Some((seq, n)) = read.filter(|(seq, _)| *seq > mark.read_seq) {
        mark.read_seq = seq;
        mark.read_n = mark.read_n.max(n);
        mark.own = (own.len() - own.partition_point(|own| *own <= mark.read_n)) as u32;
    }
    // What is read has been delivered.
    mark.delivered_seq = mark.delivered_seq.max(delivered.unwrap_or(0)).max(mark.read_seq);
    (mark != before).then_some(mark)
}

fn mark_of_joiner(seq: Seq, n: u32) -> MarkChange {
    MarkChange {
        delivered_seq: seq,
        read_seq: seq,
        read_n: n,
        own: 0,
    }
}

/// What an entry does to a message, if it is about it and newer than what the row includes.
pub(crate) fn change_message(row: &mut MessageRow, entry: &Entry) {
    if entry.seq <= row.rev || entry.event.message_seq(entry.seq) != Some(row.id.seq) {
        return;
    }
    match &entry.event {
        Event::MessageEdited { content, .. } => {
            let countable = row.content.countable;
            let client_id = row.content.client_id.take();
            row.content = haggle_model::Content {
                countable,
                client_id,
                ..content.clone()
            };
            if !content.silent {
                row.edited_at = Some(entry.at);
            }
        }
        Event::MessageDeleted { .. } => {
            row.content = haggle_model::Content {
                kind: row.content.kind.clone(),
                countable: row.content.countable,
                ..Default::default()
            };
            row.deleted_at = Some(entry.at);
            row.reactions.clear();
        }
        Event::ReactionAdded { user, emoji, .. } => {
            row.reactions.retain(|(other, _)| other != user);
            let at = row.reactions.partition_point(|(other, _)| other < user);
            row.reactions.insert(at, (user.clone(), emoji.clone()));
        }
        Event::ReactionRemoved { user, .. } => row.reactions.retain(|(other, _)| other != user),
        _ => return,
    }
    row.rev = entry.seq;
    row.updated_at = entry.at;
}
