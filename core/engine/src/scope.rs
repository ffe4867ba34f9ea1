//! A handler's transaction in the making: what plugins read and write during one command, timer or after-hook.

mod guest;
pub(crate) mod present;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use haggle_model::{Address, CommandId, Content, Decider, Effects, Event, KvChange, OutgoingItem, PluginId, Seq, TimerChange};
use haggle_store::MessageRow;
use parking_lot::Mutex;

use self::{guest::Guest, present::Read};
use crate::{
    Actor, Inner, Refusal,
    acting::Acting,
    conversation::Conversation,
    global_kv, pipeline,
    ports::{Call, Draft, GuestMessage, HostCalls, Op, Plan, Scope},
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
        // Nearly always there is nothing, and every command would carry the future along.
        if !held.is_empty() {
            Box::pin(self.shared.give_back(held)).await;
        }
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
                (Some(send), _) => transaction.items.push(Box::pin(self.own_message(plan, send)).await?),
                (None, Some((target, edit))) => transaction.items.push(Box::pin(self.own_edit(plan, target, edit)).await?),
                (None, None) => return Ok(()),
            }
        }
    }

    async fn own_message(&self, plan: &dyn Plan, send: Send) -> Result<Item, Refusal> {
        let message = send.message;
        let sender = message.sender.unwrap_or_else(|| Actor::plugin(&send.plugin).user);
        let mut draft = Draft {
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
        let decided_by = self.decide(plan, &mut draft, &send.origin).await?;
        let content = content_of(draft, message.countable, decided_by);
        Ok(Item {
            command: Some(send.command),
            ..Item::new(&sender, Event::MessageCreated(content)).by(&send.origin)
        })
    }

    async fn own_edit(&self, plan: &dyn Plan, target: Seq, edit: Edit) -> Result<Item, Refusal> {
        let old = edit.before.content.clone();
        let mut draft = Draft {
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
        let decided = self.decide(plan, &mut draft, &origin).await?;
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

    async fn decide(&self, plan: &dyn Plan, draft: &mut Draft, origin: &[PluginId]) -> Result<Vec<Decider>, Refusal> {
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
            return Ok(Vec::new());
        }
        let decided_by = plan.before_message(self, draft, origin).await?;
        pipeline::check_text(&self.shared.engine, Some(&draft.text), draft.metadata.as_deref())?; // What plugins rewrite is input again.
        Ok(decided_by)
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
        Arc::new(Guest::new(self.shared.clone(), plugin.clone()))
    }
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
