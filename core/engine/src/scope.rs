//! A handler's transaction in the making: what plugins read and write during one command, timer or after-hook.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use haggle_model::{
    Address, CommandId, Content, ConversationId, ConversationUpdate, Decider, Effects, ErrorCode, Event, KvChange, MessageId, Millis, Notification,
    Outgoing, OutgoingItem, PluginId, Role, Seq, TimerChange, UserId,
};
use haggle_store::{ConversationRow, MemberRow, MessageRow, Page, StoreError, UserRow};
use parking_lot::Mutex;

use crate::{
    Actor, Inner, Refusal,
    acting::Acting,
    conversation::{Conversation, sub_command},
    global_kv, pipeline,
    ports::{Audience, Call, ClientCalls, Draft, GuestMessage, HostCalls, HostError, Op, Plan, Scope},
    readers::{self, Readers},
    sockets::{SocketEmit, Target},
    state::State,
    totals,
    transaction::{Emit, Item, Transaction},
};

/// Keys, messages or participants that one list call returns at most.
const LIST_MAX: usize = 100;
/// Things one handler may write.
const WRITES_MAX: usize = 256;
/// Keys of one reservation.
const RESERVE_KEYS_MAX: usize = 64;

type Key = (PluginId, String);

#[derive(Debug)]
struct Edit {
    plugin: PluginId,
    before: MessageRow,
    text: Option<String>,
    metadata: Option<String>,
}

#[derive(Debug, Clone)]
struct Send {
    plugin: PluginId,
    origin: Vec<PluginId>,
    command: CommandId,
    message: GuestMessage,
}

/// Buffered writes, in normal form: one per key.
#[derive(Debug, Default)]
struct Writes {
    kv: BTreeMap<Key, KvChange>,
    timers: BTreeMap<Key, TimerChange>,
    outgoing: Vec<OutgoingItem>,
    sends: VecDeque<Send>,
    edits: BTreeMap<Seq, Edit>,
    events: Vec<(PluginId, Event)>,
    emits: Vec<Emit>,
    held: Vec<(PluginId, Vec<String>)>,
    count: usize,
    bytes: usize,
}

impl Writes {
    fn merge(&mut self, other: Writes) {
        self.kv.extend(other.kv);
        self.timers.extend(other.timers);
        self.outgoing.extend(other.outgoing);
        self.sends.extend(other.sends);
        self.edits.extend(other.edits);
        self.events.extend(other.events);
        self.emits.extend(other.emits);
        self.held.extend(other.held);
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

/// Something a handler outside the turn has read: its transaction is staged only if it still reads the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Kv {
        plugin: PluginId,
        key: String,
        value: Option<Vec<u8>>,
    },
    KvList {
        plugin: PluginId,
        prefix: String,
        after: Option<String>,
        found: BTreeMap<String, Vec<u8>>,
    },
    Message {
        id: MessageId,
        rev: Option<Seq>,
    },
    /// A page of messages, newest first. Newer messages than those do not count: in a busy conversation there always are some.
    Messages {
        found: Vec<(Seq, Seq)>,
    },
}

/// Where a scope's handlers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the conversation's turn: what they read cannot change under them.
    InTurn,
    /// Outside: what they read is checked when their transaction is staged.
    OutsideTurn,
    /// Outside, and nothing of theirs will be staged: they may only read.
    Reading,
}

pub(crate) struct Shared {
    engine: Arc<Inner>,
    conversation: Arc<Conversation>,
    place: Place,
    call: Call,
    deadline: Instant,
    /// The user's side, where the handler may take it.
    acting: Option<Acting>,
    writes: Mutex<Writes>,
    reads: Mutex<Vec<Read>>,
    /// Reservations of handlers whose writes were not kept.
    abandoned: Mutex<Vec<(PluginId, Vec<String>)>>,
    /// The transaction is staged or given up: no reservation can join it any more.
    ended: AtomicBool,
}

impl Shared {
    async fn give_back(&self, held: Vec<(PluginId, Vec<String>)>) {
        for (plugin, keys) in held {
            global_kv::give_back(&self.engine, &plugin, &keys, self.call.command).await;
        }
    }
}

/// The scope of one command, timer or after-hook.
#[derive(Clone)]
pub(crate) struct HandlerScope {
    shared: Arc<Shared>,
}

impl HandlerScope {
    pub fn new(engine: &Arc<Inner>, conversation: &Arc<Conversation>, place: Place, call: Call) -> HandlerScope {
        HandlerScope::with(engine, conversation, place, call, engine.limits.turn_hooks_max, None)
    }

    /// Outside every turn, for a handler that may act as the user and so may have to wait for the turns of others.
    pub fn acting(engine: &Arc<Inner>, conversation: &Arc<Conversation>, call: Call, acting: Acting) -> HandlerScope {
        let within = engine.limits.turn_wait_max + engine.limits.turn_hooks_max;
        HandlerScope::with(engine, conversation, Place::OutsideTurn, call, within, Some(acting))
    }

    fn with(
        engine: &Arc<Inner>,
        conversation: &Arc<Conversation>,
        place: Place,
        call: Call,
        within: Duration,
        acting: Option<Acting>,
    ) -> HandlerScope {
        let deadline = Instant::now() + within;
        let shared = Shared {
            engine: engine.clone(),
            conversation: conversation.clone(),
            place,
            call,
            deadline,
            acting,
            writes: Mutex::default(),
            reads: Mutex::default(),
            abandoned: Mutex::default(),
            ended: AtomicBool::new(false),
        };
        HandlerScope { shared: Arc::new(shared) }
    }

    /// What the handlers outside a turn have read.
    pub fn take_reads(&self) -> Vec<Read> {
        std::mem::take(&mut self.shared.reads.lock())
    }

    /// Whether any handler holds reservations: then the command must be found again by whoever settles them.
    pub fn holds(&self) -> bool {
        !self.shared.writes.lock().held.is_empty()
    }

    /// Whether the handlers wrote anything.
    pub fn has_writes(&self) -> bool {
        let writes = self.shared.writes.lock();
        writes.count > 0 || !writes.held.is_empty()
    }

    /// What the handlers emit, where that is all they did: it needs no turn.
    pub fn only_emits(&self) -> Option<Vec<Emit>> {
        let mut writes = self.shared.writes.lock();
        let only = writes.count == writes.emits.len() && writes.held.is_empty();
        only.then(|| std::mem::take(&mut writes.emits))
    }

    /// Gives every reservation back: the command ends without its transaction. Await it before the answer leaves, else a retry
    /// could lose what it reserves anew.
    pub async fn release(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let mut held = std::mem::take(&mut self.shared.writes.lock().held);
        held.append(&mut self.shared.abandoned.lock());
        self.shared.give_back(held).await;
    }

    /// Joins what the handlers wrote to a transaction: messages in their own conversation pass the before-hooks of the other plugins.
    pub async fn join(&self, plan: &dyn Plan, mut transaction: Transaction) -> Result<Transaction, Refusal> {
        self.join_messages(plan, &mut transaction).await?;
        let writes = std::mem::take(&mut *self.shared.writes.lock());
        for (plugin, event) in writes.events {
            let origin = origin_of(&self.shared.call, &plugin);
            transaction.items.push(Item::new(&Actor::plugin(&plugin).user, event).by(&origin));
        }
        transaction.effects.kv.extend(writes.kv.into_values());
        transaction.effects.timers.extend(writes.timers.into_values());
        transaction.effects.outgoing.extend(writes.outgoing);
        transaction.emits.extend(writes.emits);
        for (plugin, keys) in writes.held {
            let keep = global_kv::keep(&plugin, &keys, self.shared.call.command, &origin_of(&self.shared.call, &plugin));
            transaction.effects.outgoing.extend(keep);
            self.shared.writes.lock().held.push((plugin, keys)); // until it is staged they may have to be given back
        }
        Ok(transaction)
    }

    /// The transaction is staged: what it reserved is its own, but for what failed handlers had reserved.
    pub fn kept(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let held = std::mem::take(&mut self.shared.writes.lock().held);
        let mut abandoned = std::mem::take(&mut *self.shared.abandoned.lock());
        for (plugin, keys) in &mut abandoned {
            keys.retain(|key| !held.iter().any(|(other, kept)| other == plugin && kept.contains(key)));
        }
        if abandoned.iter().any(|(_, keys)| !keys.is_empty()) {
            let shared = self.shared.clone();
            self.shared.engine.runtime.spawn(async move { shared.give_back(abandoned).await });
        }
    }

    async fn join_messages(&self, plan: &dyn Plan, transaction: &mut Transaction) -> Result<(), Refusal> {
        // The before-hooks that these pass may write further ones.
        loop {
            let (send, edit) = {
                let mut writes = self.shared.writes.lock();
                let send = writes.sends.pop_front();
                let edit = if send.is_none() { writes.edits.pop_first() } else { None };
                (send, edit)
            };
            match (send, edit) {
                (Some(send), _) => transaction.items.push(self.own_message(plan, send).await?),
                (None, Some((target, edit))) => transaction.items.push(self.own_edit(plan, target, edit).await?),
                (None, None) => return Ok(()),
            }
        }
    }

    async fn own_message(&self, plan: &dyn Plan, send: Send) -> Result<Item, Refusal> {
        let message = send.message;
        let sender = message.sender.unwrap_or_else(|| Actor::plugin(&send.plugin).user);
        let draft = Draft {
            op: Op::Send,
            target: None,
            conversation: self.shared.conversation.id,
            sender: sender.clone(),
            kind: message.kind,
            text: message.text,
            metadata: message.metadata,
            reply_to: message.reply_to,
            forwarded_from: None,
            client_id: None,
        };
        let (draft, decided_by) = self.decide(plan, draft, &send.origin).await?;
        let content = content_of(draft, message.countable, decided_by);
        Ok(Item {
            command: Some(send.command),
            ..Item::new(&sender, Event::MessageCreated(content)).by(&send.origin)
        })
    }

    async fn own_edit(&self, plan: &dyn Plan, target: Seq, edit: Edit) -> Result<Item, Refusal> {
        let old = edit.before.content.clone();
        let draft = Draft {
            op: Op::Edit,
            target: Some(edit.before.id),
            conversation: self.shared.conversation.id,
            sender: edit.before.sender.clone(),
            kind: old.kind,
            text: edit.text.unwrap_or(old.text),
            metadata: edit.metadata.or(old.metadata),
            reply_to: old.reply_to,
            forwarded_from: old.forwarded_from,
            client_id: None,
        };
        let origin = origin_of(&self.shared.call, &edit.plugin);
        let (draft, decided) = self.decide(plan, draft, &origin).await?;
        // Who decided what the edit leaves as it was has decided it still.
        let mut decided_by = old.decided_by;
        decided_by.retain(|before| decided.iter().all(|now| now.plugin != before.plugin));
        decided_by.extend(decided);
        let silent = draft.text == edit.before.content.text;
        let content = Content {
            silent,
            ..content_of(draft, old.countable, decided_by)
        };
        let actor = Actor::plugin(&edit.plugin).user;
        Ok(Item::new(&actor, Event::MessageEdited { target, content })
            .by(&origin)
            .changing(edit.before))
    }

    async fn decide(&self, plan: &dyn Plan, draft: Draft, origin: &[PluginId]) -> Result<(Draft, Vec<Decider>), Refusal> {
        let kind = self
            .shared
            .conversation
            .with_state(|state| state.address().map_or(haggle_model::ConversationKind::Personal, Address::kind));
        let facts = crate::ports::Facts {
            conversation: kind,
            message: Some(&draft.kind),
            dialect: &self.shared.call.actor.dialect,
        };
        if !plan.wants(crate::ports::Hook::BeforeMessage, &facts) {
            return Ok((draft, Vec::new()));
        }
        let (draft, decided_by) = plan.before_message(self, draft, origin).await?;
        pipeline::check_text(&self.shared.engine, Some(&draft.text), draft.metadata.as_deref())?; // What plugins rewrite is input again.
        Ok((draft, decided_by))
    }
}

/// The chain of plugins behind what `plugin` writes: a plugin that answers itself makes it longer too, so that loops end.
fn origin_of(call: &Call, plugin: &PluginId) -> Vec<PluginId> {
    let mut origin = call.origin.clone();
    origin.push(plugin.clone());
    origin
}

/// A draft as it is stored.
pub(crate) fn content_of(draft: Draft, countable: bool, decided_by: Vec<Decider>) -> Content {
    Content {
        kind: draft.kind,
        text: draft.text,
        metadata: draft.metadata,
        reply_to: draft.reply_to,
        forwarded_from: draft.forwarded_from,
        client_id: draft.client_id,
        countable,
        decided_by,
        silent: false,
        sender_roles: Vec::new(),
    }
}

impl Scope for HandlerScope {
    fn call(&self) -> &Call {
        &self.shared.call
    }

    fn deadline(&self) -> Instant {
        self.shared.deadline
    }

    fn conversation_kind(&self) -> Option<haggle_model::ConversationKind> {
        self.shared
            .conversation
            .with_state(|state| state.address().or(state.pending.as_ref()).map(Address::kind))
    }

    fn guest(&self, plugin: &PluginId) -> Arc<dyn HostCalls> {
        Arc::new(Guest {
            shared: self.shared.clone(),
            plugin: plugin.clone(),
            writes: Mutex::default(),
        })
    }
}

/// One plugin during one call.
struct Guest {
    shared: Arc<Shared>,
    plugin: PluginId,
    writes: Mutex<Writes>,
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
        let value = present_kv(&self.shared.engine, &self.shared.conversation, &self.plugin, key, now)
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
        let found = present_kv_list(&self.shared.engine, &self.shared.conversation, &self.plugin, prefix, after, now)
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

    fn send(&self, message: GuestMessage) -> Result<String, HostError> {
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
        Ok(command.to_string())
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
        let row = present_message(&self.shared.engine, &self.shared.conversation, id)
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
        let rows = present_messages(&self.shared.engine, &self.shared.conversation, before, limit)
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

fn alive(expires_at: Option<Millis>, now: Millis) -> bool {
    expires_at.is_none_or(|expires_at| expires_at > now)
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

/// The value of a key with everything staged.
async fn present_kv(engine: &Inner, conversation: &Conversation, plugin: &PluginId, key: &str, now: Millis) -> Result<Option<Vec<u8>>, StoreError> {
    if let Some(change) = conversation.with_state(|state| state.staged_kv(plugin, key).cloned()) {
        return Ok(alive(change.expires_at, now).then_some(change.value).flatten());
    }
    let row = engine.store.kv_get(conversation.id, plugin, key).await?;
    Ok(row.filter(|row| alive(row.expires_at, now)).map(|row| row.value))
}

/// Keys with a prefix with everything staged: some more than a list shows, since what a handler has written may hide some.
async fn present_kv_list(
    engine: &Inner,
    conversation: &Conversation,
    plugin: &PluginId,
    prefix: &str,
    after: Option<&str>,
    now: Millis,
) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
    let rows = engine
        .store
        .kv_list(conversation.id, plugin, prefix, after, LIST_MAX + WRITES_MAX)
        .await?;
    let mut keys: BTreeMap<String, Vec<u8>> = rows
        .into_iter()
        .filter(|row| alive(row.expires_at, now))
        .map(|row| (row.key, row.value))
        .collect();
    conversation.with_state(|state| {
        for change in state
            .staged_kv_prefix(plugin, prefix)
            .into_values()
            .filter(|change| after.is_none_or(|after| change.key.as_str() > after))
        {
            set_or_remove(&mut keys, change, now);
        }
    });
    Ok(keys)
}

fn set_or_remove(keys: &mut BTreeMap<String, Vec<u8>>, change: &KvChange, now: Millis) {
    match change.value.clone().filter(|_| alive(change.expires_at, now)) {
        Some(value) => drop(keys.insert(change.key.clone(), value)),
        None => drop(keys.remove(&change.key)),
    }
}

/// A message with everything staged.
pub(crate) async fn present_message(engine: &Inner, conversation: &Conversation, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
    if let Some(row) = conversation.with_state(|state| state.staged_message(id.seq)) {
        return Ok(Some(row));
    }
    let mut row = engine.store.message(id).await?;
    if let Some(row) = &mut row {
        conversation.with_state(|state| state.refresh(row));
    }
    Ok(row)
}

/// A page of messages with everything staged, newest first.
pub(crate) async fn present_messages(
    engine: &Inner,
    conversation: &Conversation,
    before: Option<Seq>,
    limit: usize,
) -> Result<Vec<MessageRow>, StoreError> {
    // First what is staged: what becomes durable meanwhile is then found twice, not never.
    let mut rows = conversation.with_state(State::staged_messages);
    rows.retain(|row| before.is_none_or(|before| row.id.seq < before));
    let page = before.map_or(Page::Newest, Page::Before);
    let stored = engine.store.messages(conversation.id, page, limit, None).await?;
    rows.extend(stored);
    rows.sort_by_key(|row| Reverse(row.id.seq));
    rows.dedup_by_key(|row| row.id.seq);
    rows.truncate(limit);
    conversation.with_state(|state| rows.iter_mut().for_each(|row| state.refresh(row)));
    Ok(rows)
}

/// Seq and last change of each.
fn revs(rows: &[MessageRow]) -> Vec<(Seq, Seq)> {
    rows.iter().map(|row| (row.id.seq, row.rev)).collect()
}

/// Whether a handler outside the turn would read the same now.
pub(crate) async fn still_stands(engine: &Inner, conversation: &Conversation, reads: &[Read], now: Millis) -> Result<bool, Refusal> {
    for read in reads {
        let same = match read {
            Read::Kv { plugin, key, value } => present_kv(engine, conversation, plugin, key, now).await? == *value,
            Read::KvList {
                plugin,
                prefix,
                after,
                found,
            } => present_kv_list(engine, conversation, plugin, prefix, after.as_deref(), now).await? == *found,
            Read::Message { id, rev } => present_message(engine, conversation, *id).await?.map(|row| row.rev) == *rev,
            Read::Messages { found } => match found.first() {
                None => true, // What came since is newer.
                Some((newest, _)) => revs(&present_messages(engine, conversation, Some(newest + 1), found.len()).await?) == *found,
            },
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Effects that take a timer away and do nothing else: what a timer that fires begins with.
pub(crate) fn effects_with_timer_removed(plugin: &PluginId, name: &str) -> Effects {
    let removed = TimerChange {
        plugin: plugin.clone(),
        name: name.into(),
        due: None,
        payload: String::new(),
    };
    Effects {
        timers: vec![removed],
        ..Effects::default()
    }
}
