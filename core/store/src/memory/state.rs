//! What the events of a log add up to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use haggle_model::{
    CommandId, Content, ConversationCreated, ConversationId, Entry, Event, MarkChange, MessageId, Millis, PluginId, Pos, Profile, Reservation,
    ReservationState, Role, Seq, TimerChange, UserId,
};

use crate::{ADVANCES_PARTICIPANTS_MAX, AdvanceRow, CommandRow, KvRow, MemberRow, MessageRow, MessageView, NotificationRow, PersonalRow};

/// Everything that the views answer from.
#[derive(Default)]
pub(super) struct State {
    pub(super) conversations: BTreeMap<ConversationId, Conversation>,
}

/// One conversation of any kind: also a user's personal one, and a part of global kv.
#[derive(Default)]
pub(super) struct Conversation {
    pub(super) created: Option<Created>,
    pub(super) closed: bool,
    pub(super) blocked_by: BTreeSet<UserId>,
    pub(super) events: BTreeMap<Seq, Arc<Entry>>,
    pub(super) messages: BTreeMap<Seq, MessageRow>,
    /// Created with `countable`; fixed there, whatever later edits say.
    pub(super) countable: BTreeSet<Seq>,
    /// `n` and sender of countable messages that are deleted.
    pub(super) deleted: BTreeMap<u32, UserId>,
    pub(super) members: BTreeMap<UserId, MemberRow>,
    pub(super) advances: Vec<AdvanceRow>,
    pub(super) commands: BTreeMap<CommandId, (Pos, CommandRow)>,
    pub(super) kv: BTreeMap<(PluginId, String), KvRow>,
    pub(super) reservations: BTreeMap<(PluginId, String), ReservationState>,
    pub(super) timers: BTreeMap<(PluginId, String), TimerChange>,
    // Of a personal conversation:
    pub(super) personal: BTreeMap<ConversationId, PersonalRow>,
    pub(super) broadcast_marks: BTreeMap<ConversationId, MarkChange>,
    pub(super) hidden: BTreeSet<MessageId>,
    pub(super) profile: Option<(Profile, Millis, Millis)>,
    pub(super) blocks: BTreeSet<UserId>,
    pub(super) notifications: BTreeMap<Seq, Stored>,
}

/// What a conversation says about itself.
pub(super) struct Created {
    pub(super) what: ConversationCreated,
    pub(super) at: Millis,
}

/// A notification, and whether a later one stands in its place.
pub(super) struct Stored {
    pub(super) row: NotificationRow,
    pub(super) replaced: bool,
}

impl State {
    /// Takes in the entry at `pos` of its shard.
    pub(super) fn apply(&mut self, pos: Pos, entry: &Arc<Entry>) {
        self.conversations.entry(entry.conversation).or_default().apply(pos, entry);
    }

    /// Messages deleted before then whose text is still in the log, the longest deleted first.
    pub(super) fn messages_to_erase(&self, deleted_before: Millis, limit: usize) -> Vec<MessageId> {
        let conversations = self.conversations.values();
        let candidates = conversations.flat_map(|conversation| {
            conversation
                .messages
                .values()
                .filter(|message| !conversation.events[&message.id.seq].redacted)
        });
        let mut messages: Vec<_> = candidates
            .filter_map(|message| Some((message.deleted_at?, message.id)))
            .filter(|(at, _)| *at < deleted_before)
            .collect();
        messages.sort();
        messages.into_iter().map(|(_, id)| id).take(limit).collect()
    }
}

impl Conversation {
    fn apply(&mut self, pos: Pos, entry: &Arc<Entry>) {
        if entry.seq > 0 {
            self.events.entry(entry.seq).or_insert_with(|| entry.clone());
        }
        if let Some(id) = entry.command {
            self.command(pos, id, entry);
        }
        self.event(entry);
        self.effects(entry);
    }

    /// Seq and countable messages of the last event.
    pub(super) fn head(&self) -> Option<(Seq, u32)> {
        self.events.last_key_value().map(|(seq, entry)| (*seq, entry.n))
    }

    /// The newest countable message that is not deleted.
    pub(super) fn last_message(&self) -> Option<&MessageRow> {
        self.countable
            .iter()
            .rev()
            .map(|seq| &self.messages[seq])
            .find(|message| message.deleted_at.is_none())
    }

    /// Who is in.
    pub(super) fn participants(&self) -> usize {
        self.members.values().filter(|member| member.left_seq.is_none()).count()
    }

    fn command(&mut self, pos: Pos, id: CommandId, entry: &Entry) {
        let new = CommandRow {
            id,
            digest: entry.digest,
            seq: 0,
            at: entry.at,
            answer: None,
        };
        let (_, row) = self.commands.entry(id).or_insert((pos, new));
        if row.seq == 0 {
            row.seq = entry.seq;
        }
        if row.answer.is_none() {
            row.answer = entry.effects.answer.clone();
        }
    }

    fn event(&mut self, entry: &Entry) {
        let at = entry.at;
        match &entry.event {
            Event::ConversationCreated(what) => {
                self.created.get_or_insert_with(|| Created { what: what.clone(), at });
            }
            Event::ConversationUpdated(update) => {
                if let Some(Created { what, .. }) = &mut self.created {
                    replace(&mut what.name, &update.name);
                    replace(&mut what.avatar, &update.avatar);
                    replace(&mut what.state, &update.state);
                }
            }
            Event::ConversationClosed(_) => self.closed = self.created.is_some(),
            Event::ConversationReopened => self.closed = false,
            Event::UserBlocked { by } => drop(self.blocked_by.insert(by.clone())),
            Event::UserUnblocked { by } => drop(self.blocked_by.remove(by)),

            Event::ParticipantJoined { user, role } => self.joined(entry, user, *role),
            Event::ParticipantLeft { user } => {
                if let Some(member) = self.members.get_mut(user) {
                    member.left_seq.get_or_insert(entry.seq);
                }
            }
            Event::ParticipantUpdated { user, role } => {
                if let Some(member) = self.members.get_mut(user) {
                    member.role = *role;
                }
            }
            Event::Marked { user, mark } => self.marked(entry, user, *mark),

            Event::MessageCreated(content) => self.created(entry, content),
            Event::MessageEdited { target, content } => self.change(entry, *target, |message| {
                let (countable, client_id) = (message.content.countable, message.content.client_id.take());
                message.content = Content {
                    countable,
                    client_id,
                    ..content.clone()
                };
                if !content.silent {
                    message.edited_at = Some(at);
                }
            }),
            Event::MessageDeleted { target, sender, n } => self.delete(entry, *target, sender, *n),
            Event::ReactionAdded { target, user, emoji } => self.change(entry, *target, |message| {
                message.reactions.retain(|(by, _)| by != user);
                message.reactions.push((user.clone(), emoji.clone()));
                message.reactions.sort();
            }),
            Event::ReactionRemoved { target, user } => self.change(entry, *target, |message| message.reactions.retain(|(by, _)| by != user)),

            Event::BroadcastMarked { conversation, mark } => merge(self.broadcast_marks.entry(*conversation).or_default(), *mark),
            Event::ConversationArchived { conversation, archived } => self.personal(*conversation).archived_at = archived.then_some(at),
            Event::ConversationMuted { conversation, until } => self.personal(*conversation).muted_until = *until,
            Event::ConversationHidden { conversation, to_seq } => {
                let row = self.personal(*conversation);
                row.hidden_at = Some(at);
                row.hidden_to = row.hidden_to.max(*to_seq);
            }
            Event::MessageHidden(id) => drop(self.hidden.insert(*id)),
            Event::ProfileUpdated(profile) => {
                let created_at = self.profile.as_ref().map_or(at, |(_, created_at, _)| *created_at);
                self.profile = Some((profile.clone(), created_at, at));
            }
            Event::BlockListed { user, blocked: true } => drop(self.blocks.insert(user.clone())),
            Event::BlockListed { user, blocked: false } => drop(self.blocks.remove(user)),
            Event::Notified(notification) => self.notified(entry, notification),
            Event::NotificationsRead(seqs) => self.read_notifications(at, |seq| seqs.contains(&seq)),
            Event::AllNotificationsRead(up_to) => self.read_notifications(at, |seq| seq <= *up_to),

            Event::Noop | Event::Custom { .. } | Event::MembershipStarted(_) | Event::MembershipEnded(_) => {}
            Event::Effects | Event::Void(_) | Event::Owner(_) => {}
        }
    }

    fn effects(&mut self, entry: &Entry) {
        for change in &entry.effects.kv {
            let place = (change.plugin.clone(), change.key.clone());
            match change.value.clone() {
                Some(value) => drop(self.kv.insert(
                    place,
                    KvRow {
                        key: change.key.clone(),
                        value,
                        expires_at: change.expires_at,
                    },
                )),
                None => drop(self.kv.remove(&place)),
            }
        }
        for Reservation { plugin, key, state } in &entry.effects.reservations {
            let place = (plugin.clone(), key.clone());
            match state.clone() {
                Some(state) => drop(self.reservations.insert(place, state)),
                None => drop(self.reservations.remove(&place)),
            }
        }
        for timer in &entry.effects.timers {
            let place = (timer.plugin.clone(), timer.name.clone());
            match timer.due {
                Some(_) => drop(self.timers.insert(place, timer.clone())),
                None => drop(self.timers.remove(&place)),
            }
        }
        if let (Some(actor), Some(mark)) = (&entry.actor, entry.effects.mark) {
            self.merge(actor, mark);
        }
    }

    fn joined(&mut self, entry: &Entry, user: &UserId, role: Role) {
        let mark = MarkChange {
            delivered_seq: entry.seq,
            read_seq: entry.seq,
            read_n: entry.n,
            own: 0,
        };
        let member = MemberRow {
            user: user.clone(),
            role,
            joined_seq: entry.seq,
            joined_at: entry.at,
            left_seq: None,
            mark,
        };
        self.members.insert(user.clone(), member);
    }

    fn marked(&mut self, entry: &Entry, user: &UserId, mark: MarkChange) {
        let advances = self.members.get(user).is_some_and(|member| mark.read_seq > member.mark.read_seq);
        if advances && self.participants() <= ADVANCES_PARTICIPANTS_MAX {
            self.advances.push(AdvanceRow {
                user: user.clone(),
                to_seq: mark.read_seq,
                at: entry.at,
            });
        }
        self.merge(user, mark);
    }

    fn merge(&mut self, user: &UserId, new: MarkChange) {
        if let Some(member) = self.members.get_mut(user) {
            merge(&mut member.mark, new);
        }
    }

    fn created(&mut self, entry: &Entry, content: &Content) {
        let message = MessageView::created(entry).map(MessageView::to_row);
        self.messages.extend(message.map(|message| (entry.seq, message)));
        if content.countable {
            self.countable.insert(entry.seq);
        }
    }

    /// Changes a message, unless it is deleted.
    fn change(&mut self, entry: &Entry, target: Seq, change: impl FnOnce(&mut MessageRow)) {
        if let Some(message) = self.messages.get_mut(&target).filter(|message| message.deleted_at.is_none()) {
            change(message);
            message.rev = entry.seq;
            message.updated_at = entry.at;
        }
    }

    fn delete(&mut self, entry: &Entry, target: Seq, sender: &UserId, n: u32) {
        let mut was_there = false;
        self.change(entry, target, |message| {
            message.content = Content {
                kind: std::mem::take(&mut message.content.kind),
                ..Content::default()
            };
            message.reactions.clear();
            message.deleted_at = Some(entry.at);
            was_there = true;
        });
        if was_there && n > 0 {
            self.deleted.insert(n, sender.clone());
        }
    }

    fn personal(&mut self, conversation: ConversationId) -> &mut PersonalRow {
        self.personal.entry(conversation).or_default()
    }

    fn notified(&mut self, entry: &Entry, notification: &haggle_model::Notification) {
        if notification.collapse.is_some() {
            let same = |stored: &&mut Stored| !stored.row.read && stored.row.notification.collapse == notification.collapse;
            for earlier in self.notifications.values_mut().filter(same) {
                (earlier.replaced, earlier.row.read, earlier.row.updated_at) = (true, true, entry.at);
            }
        }
        let id = entry.conversation.message(entry.seq);
        let row = NotificationRow {
            id,
            notification: notification.clone(),
            read: false,
            created_at: entry.at,
            updated_at: entry.at,
        };
        self.notifications.insert(entry.seq, Stored { row, replaced: false });
    }

    fn read_notifications(&mut self, at: Millis, which: impl Fn(Seq) -> bool) {
        for (_, stored) in self.notifications.iter_mut().filter(|(seq, stored)| which(**seq) && !stored.row.read) {
            (stored.row.read, stored.row.updated_at) = (true, at);
        }
    }
}

/// Delivered moves up only; the read part is taken whole unless it is older.
fn merge(mark: &mut MarkChange, new: MarkChange) {
    let delivered_seq = mark.delivered_seq.max(new.delivered_seq);
    let read = if new.read_seq >= mark.read_seq { new } else { *mark };
    *mark = MarkChange { delivered_seq, ..read };
}

/// `None` leaves it, an empty text clears it.
fn replace(field: &mut Option<String>, new: &Option<String>) {
    if let Some(new) = new {
        *field = Some(new.clone()).filter(|text| !text.is_empty());
    }
}
