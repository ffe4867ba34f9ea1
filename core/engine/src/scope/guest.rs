//! What one plugin reads and writes during one call.

use std::sync::{Arc, atomic::Ordering};

use async_trait::async_trait;
use haggle_model::{
    Address, CommandId, Content, ConversationId, ConversationUpdate, ErrorCode, Event, KvChange, MessageId, Millis, Notification, Outgoing,
    OutgoingItem, PluginId, Role, Seq, TimerChange, UserId,
};
use haggle_store::{ConversationRow, MemberRow, MessageRow, Page, StoreError, UserRow};
use parking_lot::Mutex;

use super::{
    Edit, LIST_MAX, Place, RESERVE_KEYS_MAX, Send, Shared, WRITES_MAX, Writes, origin_of,
    present::{self, Read, alive, revs, set_or_remove},
};
use crate::{
    Actor, Inner, Refusal,
    conversation::sub_command,
    global_kv, pipeline,
    ports::{Audience, ClientCalls, GuestMessage, HostCalls, HostError},
    readers::{self, Readers},
    sockets::{SocketEmit, Target},
    state::State,
    totals,
    transaction::Emit,
};

/// One plugin during one call.
pub(super) struct Guest {
    shared: Arc<Shared>,
    plugin: PluginId,
    writes: Mutex<Writes>,
}

impl Guest {
    pub fn new(shared: Arc<Shared>, plugin: PluginId) -> Guest {
        Guest {
            shared,
            plugin,
            writes: Mutex::default(),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.writes.get_mut().held);
        if held.is_empty() {
            return;
        }
        // Not kept: somebody else may have the keys, at the latest when the command ends.
        let shared = self.shared.clone();
        if shared.ended.load(Ordering::SeqCst) {
            self.shared.engine.runtime.spawn(async move { shared.give_back(held).await });
        } else {
            shared.abandoned.lock().extend(held);
        }
    }
}

impl Guest {
    fn write<T>(&self, bytes: usize, change: impl FnOnce(&mut Writes) -> T) -> Result<T, HostError> {
        if self.shared.place == Place::Reading {
            return Err(HostError::Denied);
        }
        let limits = &self.shared.engine.limits;
        let mut writes = self.writes.lock();
        if writes.count >= WRITES_MAX {
            return Err(HostError::Quota(format!("{WRITES_MAX} writes of one handler")));
        }
        if writes.bytes + bytes > limits.transaction_bytes_max {
            return Err(HostError::Quota(format!(
                "limits.transaction_bytes_max = {}",
                limits.transaction_bytes_max
            )));
        }
        writes.count += 1;
        writes.bytes += bytes;
        Ok(change(&mut writes))
    }

    fn check_key(&self, key: &str) -> Result<(), HostError> {
        let max = self.shared.engine.limits.kv_key_bytes_max;
        match key.len() {
            0 => Err(HostError::Invalid("the key is empty".into())),
            n if n > max => Err(HostError::Quota(format!("limits.kv_key_bytes_max = {max}"))),
            _ => Ok(()),
        }
    }

    fn check_value(&self, value: &[u8]) -> Result<(), HostError> {
        let max = self.shared.engine.limits.kv_value_bytes_max;
        if value.len() > max {
            Err(HostError::Quota(format!("limits.kv_value_bytes_max = {max}")))
        } else {
            Ok(())
        }
    }

    fn change(&self, key: &str, value: Option<Vec<u8>>, ttl_s: Option<u32>) -> KvChange {
        let expires_at = ttl_s.map(|ttl| self.shared.call.now + i64::from(ttl) * 1000);
        KvChange {
            plugin: self.plugin.clone(),
            key: key.into(),
            value,
            expires_at,
        }
    }

    /// What the handler itself, or one before it in the scope, has written.
    fn buffered_kv(&self, key: &str) -> Option<KvChange> {
        let full = (self.plugin.clone(), key.to_owned());
        if let Some(change) = self.writes.lock().kv.get(&full) {
            return Some(change.clone());
        }
        self.shared.writes.lock().kv.get(&full).cloned()
    }

    fn outgoing(&self, to: Address, what: Outgoing, bytes: usize) -> Result<(), HostError> {
        let origin = origin_of(&self.shared.call, &self.plugin);
        self.write(bytes + 64, |writes| writes.outgoing.push(OutgoingItem { to, what, origin }))
    }

    fn check_payload(&self, text: &str) -> Result<(), HostError> {
        let max = self.shared.engine.limits.attributes_bytes_max;
        if text.len() > max {
            Err(HostError::Quota(format!("limits.attributes_bytes_max = {max}")))
        } else {
            Ok(())
        }
    }

    fn check_event_name(&self, name: &str) -> Result<(), HostError> {
        let own = name
            .strip_prefix("x.")
            .and_then(|rest| rest.strip_prefix(self.plugin.as_str()))
            .is_some_and(|rest| rest.starts_with('.'));
        if own && name.len() <= 128 {
            Ok(())
        } else {
            Err(HostError::Invalid(format!("an event of this plugin is named x.{}.<name>", self.plugin)))
        }
    }

    fn address(&self) -> Option<Address> {
        self.shared.conversation.with_state(|state| state.address().cloned())
    }

    fn note(&self, read: Read) {
        if self.shared.place == Place::OutsideTurn {
            self.shared.reads.lock().push(read);
        }
    }

    /// Whether this call may look into a conversation: its own one, one of its contexts, and any that it reached through an event.
    async fn may_read(&self, id: ConversationId) -> Result<bool, HostError> {
        if id == self.shared.conversation.id {
            return Ok(true);
        }
        let row = self.shared.engine.store.conversation(id).await.map_err(store_error)?;
        Ok(row.is_some_and(|row| matches!(&row.address, Address::Context(owner, ..) if *owner == self.plugin)))
    }
}

fn store_error(error: StoreError) -> HostError {
    HostError::Unavailable(error.to_string())
}

/// What a plugin writes breaks a rule for everybody's messages.
fn broken(refusal: Refusal) -> HostError {
    match refusal.code {
        ErrorCode::TooLarge => HostError::Quota(refusal.message.to_string()),
        _ => HostError::Invalid(refusal.message.to_string()),
    }
}

fn refused(refusal: Refusal) -> HostError {
    HostError::Unavailable(refusal.message.to_string())
}

#[async_trait]
impl HostCalls for Guest {
    fn keep(&self) {
        let writes = std::mem::take(&mut *self.writes.lock());
        self.shared.writes.lock().merge(writes);
    }

    async fn kv_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.check_key(key)?;
        let now = self.shared.call.now;
        if let Some(change) = self.buffered_kv(key) {
            return Ok(alive(change.expires_at, now).then_some(change.value).flatten());
        }
        let value = present::kv(&self.shared.engine, &self.shared.conversation, &self.plugin, key, now)
            .await
            .map_err(store_error)?;
        self.note(Read::Kv {
            plugin: self.plugin.clone(),
            key: key.into(),
            value: value.clone(),
        });
        Ok(value)
    }

    fn kv_set(&self, key: &str, value: Vec<u8>, ttl_s: Option<u32>) -> Result<(), HostError> {
        self.check_key(key)?;
        self.check_value(&value)?;
        let change = self.change(key, Some(value), ttl_s);
        let bytes = key.len() + change.value.as_ref().map_or(0, Vec::len);
        self.write(bytes, |writes| writes.kv.insert((self.plugin.clone(), key.into()), change))
            .map(drop)
    }

    fn kv_delete(&self, key: &str) -> Result<(), HostError> {
        self.check_key(key)?;
        let change = self.change(key, None, None);
        self.write(key.len(), |writes| writes.kv.insert((self.plugin.clone(), key.into()), change))
            .map(drop)
    }

    async fn kv_list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<(String, Vec<u8>)>, HostError> {
        let now = self.shared.call.now;
        let found = present::kv_list(&self.shared.engine, &self.shared.conversation, &self.plugin, prefix, after, now)
            .await
            .map_err(store_error)?;
        let mut keys = found.clone();
        let overlay = |change: &KvChange| {
            if change.plugin == self.plugin && change.key.starts_with(prefix) && after.is_none_or(|after| change.key.as_str() > after) {
                set_or_remove(&mut keys, change, now);
            }
        };
        let buffered: Vec<KvChange> = self
            .shared
            .writes
            .lock()
            .kv
            .values()
            .chain(self.writes.lock().kv.values())
            .cloned()
            .collect();
        buffered.iter().for_each(overlay);
        self.note(Read::KvList {
            plugin: self.plugin.clone(),
            prefix: prefix.into(),
            after: after.map(str::to_owned),
            found,
        });
        Ok(keys.into_iter().take(LIST_MAX).collect())
    }

    async fn global_get(&self, key: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.check_key(key)?;
        global_kv::get(&self.shared.engine, &self.plugin, key, self.shared.call.command)
            .await
            .map_err(refused)
    }

    async fn global_reserve(&self, keys: Vec<String>, value: Vec<u8>) -> Result<bool, HostError> {
        if self.shared.place == Place::Reading {
            return Err(HostError::Denied);
        }
        if keys.is_empty() || keys.len() > RESERVE_KEYS_MAX {
            return Err(HostError::Invalid(format!("1 to {RESERVE_KEYS_MAX} keys can be reserved at once")));
        }
        if self.shared.ended.load(Ordering::SeqCst) {
            return Err(HostError::Unavailable("the call is over".into()));
        }
        keys.iter().try_for_each(|key| self.check_key(key))?;
        self.check_value(&value)?;
        let (engine, call) = (&self.shared.engine, &self.shared.call);
        let got = global_kv::reserve(engine, &self.plugin, &keys, &value, call.command, self.shared.conversation.id)
            .await
            .map_err(refused)?;
        if got {
            self.writes.lock().held.push((self.plugin.clone(), keys));
        }
        Ok(got)
    }

    fn global_set(&self, key: &str, value: Vec<u8>, ttl_s: Option<u32>) -> Result<(), HostError> {
        self.check_key(key)?;
        self.check_value(&value)?;
        let bytes = key.len() + value.len();
        let change = self.change(key, Some(value), ttl_s);
        self.outgoing(Address::kv(&self.plugin, key), Outgoing::Kv(vec![change]), bytes)
    }

    fn global_add(&self, key: &str, by: i64) -> Result<(), HostError> {
        self.check_key(key)?;
        let add = Outgoing::Add {
            plugin: self.plugin.clone(),
            key: key.into(),
            by,
        };
        self.outgoing(Address::kv(&self.plugin, key), add, key.len())
    }

    fn global_delete(&self, key: &str) -> Result<(), HostError> {
        self.check_key(key)?;
        let change = self.change(key, None, None);
        self.outgoing(Address::kv(&self.plugin, key), Outgoing::Kv(vec![change]), key.len())
    }

    fn global_release(&self, keys: Vec<String>) -> Result<(), HostError> {
        keys.iter().try_for_each(|key| self.check_key(key))?;
        for (to, keys) in global_kv::by_part(&self.plugin, &keys) {
            let bytes = keys.iter().map(String::len).sum();
            self.outgoing(
                to,
                Outgoing::Release {
                    plugin: self.plugin.clone(),
                    keys,
                    holder: None,
                },
                bytes,
            )?;
        }
        Ok(())
    }

    fn send(&self, message: GuestMessage) -> Result<CommandId, HostError> {
        let limits = &self.shared.engine.limits;
        pipeline::check_kind(&message.kind).map_err(broken)?;
        pipeline::check_text(&self.shared.engine, Some(&message.text), message.metadata.as_deref()).map_err(broken)?;
        if message.reply_to.is_some_and(|id| id.conversation != message.conversation) {
            return Err(HostError::Invalid("reply-to is a message of another conversation".into()));
        }
        let origin = origin_of(&self.shared.call, &self.plugin);
        if origin.len() > limits.origin_depth_max {
            return Err(HostError::Quota(format!(
                "limits.origin_depth_max = {}: plugins answer each other",
                limits.origin_depth_max
            )));
        }
        let bytes = message.text.len() + message.metadata.as_ref().map_or(0, String::len) + 128;
        let own = message.conversation == self.shared.conversation.id;
        let index = self.shared.writes.lock().count + self.writes.lock().count;
        let command = sub_command(self.shared.call.command, index);
        if own {
            let send = Send {
                plugin: self.plugin.clone(),
                origin,
                command,
                message,
            };
            self.write(bytes, |writes| writes.sends.push_back(send))?;
        } else {
            let sender = message.sender.unwrap_or_else(|| Actor::plugin(&self.plugin).user);
            let content = Content {
                kind: message.kind,
                text: message.text,
                metadata: message.metadata,
                reply_to: message.reply_to,
                countable: message.countable,
                ..Content::default()
            };
            self.outgoing(
                Address::Existing(message.conversation),
                Outgoing::Message { sender, content, command },
                bytes,
            )?;
        }
        Ok(command)
    }

    async fn edit(&self, id: MessageId, text: Option<String>, metadata: Option<String>) -> Result<(), HostError> {
        if id.conversation != self.shared.conversation.id {
            return Err(HostError::Denied);
        }
        pipeline::check_text(&self.shared.engine, text.as_deref(), metadata.as_deref()).map_err(broken)?;
        let before = self.message(id).await?.ok_or(HostError::NotFound)?;
        if before.deleted_at.is_some() {
            return Err(HostError::NotFound);
        }
        let bytes = text.as_ref().map_or(before.content.text.len(), String::len) + metadata.as_ref().map_or(0, String::len) + 128;
        let plugin = self.plugin.clone();
        self.write(bytes, |writes| match writes.edits.get_mut(&id.seq) {
            Some(edit) => {
                edit.text = text.or(edit.text.take());
                edit.metadata = metadata.or(edit.metadata.take());
            }
            None => drop(writes.edits.insert(
                id.seq,
                Edit {
                    plugin,
                    before,
                    text,
                    metadata,
                },
            )),
        })
    }

    async fn message(&self, id: MessageId) -> Result<Option<MessageRow>, HostError> {
        if !self.may_read(id.conversation).await? {
            return Ok(None);
        }
        let own = id.conversation == self.shared.conversation.id;
        if !own {
            return self.shared.engine.store.message(id).await.map_err(store_error);
        }
        let row = present::message(&self.shared.engine, &self.shared.conversation, id)
            .await
            .map_err(store_error)?;
        self.note(Read::Message {
            id,
            rev: row.as_ref().map(|row| row.rev),
        });
        Ok(row)
    }

    async fn messages(&self, conversation: ConversationId, before: Option<Seq>, limit: usize) -> Result<Vec<MessageRow>, HostError> {
        if !self.may_read(conversation).await? {
            return Err(HostError::Denied);
        }
        let limit = limit.clamp(1, LIST_MAX);
        if conversation != self.shared.conversation.id {
            let page = before.map_or(Page::Newest, Page::Before);
            let rows = self.shared.engine.store.messages(conversation, page, limit, None).await;
            return rows.map_err(store_error);
        }
        let rows = present::messages(&self.shared.engine, &self.shared.conversation, before, limit)
            .await
            .map_err(store_error)?;
        self.note(Read::Messages { found: revs(&rows) });
        Ok(rows)
    }

    async fn read_by(&self, messages: Vec<MessageId>) -> Result<Vec<Readers>, HostError> {
        if messages.len() > LIST_MAX {
            return Err(HostError::Quota(format!("{LIST_MAX} messages at once")));
        }
        let Some(conversation) = readers::one_conversation(&messages) else {
            return match messages.is_empty() {
                true => Ok(Vec::new()),
                false => Err(HostError::Invalid("the messages are of several conversations".into())),
            };
        };
        if !self.may_read(conversation).await? {
            return Err(HostError::Denied);
        }
        readers::of(&self.shared.engine.store, conversation, &messages).await.map_err(store_error)
    }

    async fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRow>, HostError> {
        if id == self.shared.conversation.id {
            let row = self.shared.conversation.with_state(State::present_row);
            if row.is_some() {
                return Ok(row);
            }
        }
        if !self.may_read(id).await? {
            return Ok(None);
        }
        self.shared.engine.store.conversation(id).await.map_err(store_error)
    }

    fn context_id(&self, context_type: &str, context_id: &str) -> Result<ConversationId, HostError> {
        check_context(context_type, context_id)?;
        Ok(self
            .shared
            .engine
            .keys
            .key(&Address::Context(self.plugin.clone(), context_type.into(), context_id.into())))
    }

    fn get_or_create(
        &self,
        context_type: &str,
        context_id: &str,
        participants: Vec<UserId>,
        name: Option<String>,
        state: Option<String>,
    ) -> Result<ConversationId, HostError> {
        let id = self.context_id(context_type, context_id)?;
        let max = self.shared.engine.limits.participants_max;
        if participants.len() > max {
            return Err(HostError::Quota(format!("limits.participants_max = {max}")));
        }
        let bytes = participants.iter().map(|user| user.as_str().len()).sum::<usize>() + state.as_ref().map_or(0, String::len);
        let to = Address::Context(self.plugin.clone(), context_type.into(), context_id.into());
        self.outgoing(to, Outgoing::Conversation { participants, name, state }, bytes)?;
        Ok(id)
    }

    fn set_state(&self, state: String) -> Result<(), HostError> {
        self.check_payload(&state)?;
        // The state of a context is its owner's; of other conversations nobody owns it.
        match self.address() {
            Some(Address::Context(owner, ..)) if owner == self.plugin => {}
            _ => return Err(HostError::Denied),
        }
        let event = Event::ConversationUpdated(ConversationUpdate {
            state: Some(state.clone()),
            ..Default::default()
        });
        self.write(state.len(), |writes| writes.events.push((self.plugin.clone(), event)))
    }

    fn set_closed(&self, closed: bool) -> Result<(), HostError> {
        match self.address() {
            Some(Address::Context(owner, ..)) if owner == self.plugin => {}
            _ => return Err(HostError::Denied),
        }
        let event = if closed {
            Event::ConversationClosed(None)
        } else {
            Event::ConversationReopened
        };
        self.write(16, |writes| writes.events.push((self.plugin.clone(), event)))
    }

    async fn participants(&self, conversation: ConversationId) -> Result<Vec<MemberRow>, HostError> {
        if !self.may_read(conversation).await? {
            return Err(HostError::Denied);
        }
        if conversation == self.shared.conversation.id {
            let rows = self.shared.conversation.with_state(|state| {
                let row = |(user, member): (&UserId, &crate::state::Member)| MemberRow {
                    user: user.clone(),
                    role: member.role,
                    joined_seq: member.joined_seq,
                    joined_at: member.joined_at,
                    left_seq: None,
                    mark: member.mark,
                };
                state.members.iter().map(row).collect::<Vec<_>>()
            });
            if !rows.is_empty() {
                return Ok(rows);
            }
            // A direct conversation that this very message creates: its two users are known by its address.
            if let Some(Address::Direct(a, b)) = self.pending_address() {
                let row = |user: UserId| MemberRow {
                    user,
                    role: Role::Member,
                    joined_seq: 0,
                    joined_at: self.shared.call.now,
                    left_seq: None,
                    mark: Default::default(),
                };
                return Ok(vec![row(a), row(b)]);
            }
        }
        let max = self.shared.engine.limits.participants_max;
        let rows = self.shared.engine.store.members(conversation, None, max).await.map_err(store_error)?;
        Ok(rows.into_iter().filter(|row| row.left_seq.is_none()).collect())
    }

    fn add_participant(&self, user: UserId, role: Role) -> Result<(), HostError> {
        if matches!(self.address(), None | Some(Address::Direct(..) | Address::Personal(_))) {
            return Err(HostError::Denied);
        }
        let (joined, count) = self
            .shared
            .conversation
            .with_state(|state| (state.members.contains_key(&user), state.members.len()));
        let max = self.shared.engine.limits.participants_max;
        if joined {
            return Ok(());
        }
        if count >= max {
            return Err(HostError::Quota(format!("limits.participants_max = {max}")));
        }
        let started = Outgoing::Personal(Event::MembershipStarted(self.shared.conversation.id));
        self.outgoing(Address::Personal(user.clone()), started, 16)?;
        self.write(64, |writes| {
            writes.events.push((self.plugin.clone(), Event::ParticipantJoined { user, role }))
        })
    }

    fn remove_participant(&self, user: UserId) -> Result<(), HostError> {
        if matches!(self.address(), None | Some(Address::Direct(..) | Address::Personal(_))) {
            return Err(HostError::Denied);
        }
        if !self.shared.conversation.with_state(|state| state.members.contains_key(&user)) {
            return Err(HostError::NotFound);
        }
        let ended = Outgoing::Personal(Event::MembershipEnded(self.shared.conversation.id));
        self.outgoing(Address::Personal(user.clone()), ended, 16)?;
        self.write(64, |writes| writes.events.push((self.plugin.clone(), Event::ParticipantLeft { user })))
    }

    async fn user(&self, id: &UserId) -> Result<Option<UserRow>, HostError> {
        self.shared.engine.store.user(id).await.map_err(store_error)
    }

    fn online(&self, id: &UserId) -> bool {
        self.shared.engine.hub.online(id)
    }

    fn online_count(&self) -> u32 {
        u32::try_from(self.shared.engine.hub.users_online()).unwrap_or(u32::MAX)
    }

    async fn unread(&self, id: &UserId) -> Result<u32, HostError> {
        let totals = totals::of(&self.shared.engine.store, id, None).await.map_err(store_error)?;
        Ok(totals.unread)
    }

    fn watching(&self, id: &UserId, conversation: ConversationId) -> bool {
        self.shared.engine.hub.watching(id, conversation)
    }

    fn emit(&self, name: &str, payload: String) -> Result<(), HostError> {
        self.check_event_name(name)?;
        self.check_payload(&payload)?;
        let event = Event::Custom {
            name: name.into(),
            payload: payload.clone(),
        };
        self.write(payload.len(), |writes| writes.events.push((self.plugin.clone(), event)))
    }

    fn emit_to(&self, audience: Audience, name: &str, payload: String) -> Result<(), HostError> {
        self.check_event_name(name)?;
        self.check_payload(&payload)?;
        let bytes = payload.len();
        let emit = Emit::Custom {
            audience,
            plugin: self.plugin.clone(),
            name: name.into(),
            payload,
        };
        self.write(bytes, |writes| writes.emits.push(emit))
    }

    async fn emit_to_sockets(&self, mut emit: SocketEmit) -> Result<(), HostError> {
        match emit.audience.to {
            Target::Recipients => return Err(HostError::Invalid("recipients are those of a mapped event".into())),
            Target::Conversation(id) => emit.participants = told_of(&self.shared.engine, id).await?.into(),
            _ if emit.audience.joined.is_some() => return Err(HostError::Invalid("joined needs a conversation as target".into())),
            _ => {}
        }
        let (bytes, plugin) = (emit.name.len() + emit.args.bytes(), self.plugin.clone());
        self.write(bytes, |writes| writes.emits.push(Emit::Sockets { plugin, emit }))
    }

    fn notify(&self, user: UserId, notification: Notification) -> Result<(), HostError> {
        let bytes = notification.title.len() + notification.body.len() + notification.data.as_ref().map_or(0, String::len);
        let notification = Notification {
            plugin: Some(self.plugin.clone()),
            ..notification
        };
        self.outgoing(Address::Personal(user), Outgoing::Personal(Event::Notified(notification)), bytes)
    }

    fn timer_set(&self, name: &str, due: Millis, payload: String) -> Result<(), HostError> {
        self.check_key(name)?;
        self.check_payload(&payload)?;
        let timer = TimerChange {
            plugin: self.plugin.clone(),
            name: name.into(),
            due: Some(due),
            payload,
        };
        self.write(timer.payload.len() + name.len(), |writes| {
            writes.timers.insert((self.plugin.clone(), name.into()), timer)
        })
        .map(drop)
    }

    fn timer_cancel(&self, name: &str) -> Result<(), HostError> {
        self.check_key(name)?;
        let timer = TimerChange {
            plugin: self.plugin.clone(),
            name: name.into(),
            due: None,
            payload: String::new(),
        };
        self.write(name.len(), |writes| writes.timers.insert((self.plugin.clone(), name.into()), timer))
            .map(drop)
    }

    async fn timer_get(&self, name: &str) -> Result<Option<Millis>, HostError> {
        let full = (self.plugin.clone(), name.to_owned());
        if let Some(timer) = self.writes.lock().timers.get(&full) {
            return Ok(timer.due);
        }
        if let Some(timer) = self.shared.writes.lock().timers.get(&full) {
            return Ok(timer.due);
        }
        let conversation = &self.shared.conversation;
        if let Some(timer) = conversation.with_state(|state| state.staged_timer(&self.plugin, name).cloned()) {
            return Ok(timer.due);
        }
        let row = self
            .shared
            .engine
            .store
            .timer(conversation.id, &self.plugin, name)
            .await
            .map_err(store_error)?;
        Ok(row.map(|row| row.due))
    }

    fn client(&self) -> Option<&dyn ClientCalls> {
        self.shared.acting.as_ref().map(|acting| acting as &dyn ClientCalls)
    }
}

/// Participants of a conversation as its events are told.
async fn told_of(engine: &Arc<Inner>, id: ConversationId) -> Result<Vec<UserId>, HostError> {
    let conversation = engine.warmed_id(id).await.map_err(refused)?;
    let users = conversation.audience.lock().users.clone();
    Ok(users)
}

impl Guest {
    /// The address of the call's conversation, also while it is being created.
    fn pending_address(&self) -> Option<Address> {
        self.address()
            .or_else(|| self.shared.conversation.with_state(|state| state.pending.clone()))
    }
}

fn check_context(context_type: &str, context_id: &str) -> Result<(), HostError> {
    let valid = |text: &str, max: usize| !text.is_empty() && text.len() <= max && !text.contains(['/', ':', '\0']);
    if valid(context_type, 64) && !context_id.is_empty() && context_id.len() <= 128 {
        Ok(())
    } else {
        Err(HostError::Invalid(
            "a context is named type:id, the type without / and :, at most 64 and 128 bytes".into(),
        ))
    }
}
