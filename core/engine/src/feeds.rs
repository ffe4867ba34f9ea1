//! Readers of the log with durable cursors: outgoing items and after-hooks.
//!
//! A cursor is saved once a second, so what a feed does may happen again after a crash: everything it writes carries an id made
//! of consumer, shard and position, and a second time changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use haggle_model::{Address, CommandId, ConversationId, ConversationKind, Entry, ErrorCode, Event, Outgoing, PluginId, Pos, Shard};
use haggle_store::{Cursor, FailedDelivery, HELD_MAX, Held};
use parking_lot::Mutex;

use crate::{
    Inner, Refusal, deliver,
    lanes::Lane,
    ports::{After, Facts, HookError, Op, ParticipantChange, ReactionChange},
};

/// The consumer that carries items from one conversation to others.
pub(crate) const OUTGOING: &str = "outgoing";
/// Entries of one read.
const BATCH: usize = 256;
/// Targets or conversations that one feed works on at the same time.
const CONCURRENCY: usize = 32;
/// How often an after-hook is tried before its delivery has failed.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// A feed looks at least this often, so that a missed word of news costs a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Cursors of this node's feeds.
#[derive(Default)]
pub(crate) struct Feeds {
    cursors: Mutex<HashMap<(Shard, String), (Cursor, bool)>>,
}

impl Feeds {
    fn set(&self, shard: Shard, consumer: &str, cursor: Cursor) {
        self.cursors.lock().insert((shard, consumer.to_owned()), (cursor, true));
    }

    fn get(&self, shard: Shard, consumer: &str) -> Option<Cursor> {
        self.cursors.lock().get(&(shard, consumer.to_owned())).map(|(cursor, _)| cursor.clone())
    }

    fn take_changed(&self) -> BTreeMap<Shard, Vec<(String, Cursor)>> {
        let mut changed: BTreeMap<Shard, Vec<(String, Cursor)>> = BTreeMap::new();
        for ((shard, consumer), (cursor, dirty)) in self.cursors.lock().iter_mut() {
            if std::mem::take(dirty) {
                changed.entry(*shard).or_default().push((consumer.clone(), cursor.clone()));
            }
        }
        changed
    }
}

/// Reads the cursors and starts the feeds of every shard.
pub(crate) async fn start(engine: &Arc<Inner>) -> Result<(), haggle_store::StoreError> {
    for lane in &engine.lanes {
        for (consumer, cursor) in engine.store.cursors(lane.shard).await? {
            engine.feeds.cursors.lock().insert((lane.shard, consumer), (cursor, false));
        }
        engine.spawn_until_closed(outgoing(engine.clone(), lane.clone()));
    }
    engine.spawn_until_closed(follow_plugins(engine.clone()));
    Ok(())
}

/// Saves the cursors that moved; durable on return.
pub(crate) async fn save(engine: &Inner) {
    for (shard, cursors) in engine.feeds.take_changed() {
        if let Err(error) = engine.store.save_cursors(shard, cursors.clone()).await {
            tracing::warn!(%shard, %error, "cannot save cursors; it is tried again");
            let mut all = engine.feeds.cursors.lock();
            for (consumer, _) in cursors {
                if let Some((_, dirty)) = all.get_mut(&(shard, consumer)) {
                    *dirty = true;
                }
            }
        }
    }
}

async fn read(engine: &Inner, shard: Shard, after: Pos) -> Vec<(Pos, Arc<Entry>)> {
    loop {
        match engine.store.read(shard, after, BATCH).await {
            Ok(entries) => return entries,
            Err(error) => {
                tracing::error!(%shard, %after, %error, "a feed cannot read the log");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

// ---- outgoing items -------------------------------------------------------------------------------------------------

async fn outgoing(engine: Arc<Inner>, lane: Arc<Lane>) {
    let shard = lane.shard;
    let mut cursor = engine.feeds.get(shard, OUTGOING).unwrap_or_default();
    loop {
        let entries = read(&engine, shard, cursor.pos).await;
        let Some((last, _)) = entries.last() else {
            let news = tokio::time::timeout(LOOK_EVERY, lane.news.outgoing.notified());
            // Either there is news, or it is time to look.
            let _ = news.await;
            continue;
        };
        let last = *last;
        carry(&engine, shard, &entries).await;
        cursor.pos = last;
        engine.feeds.set(shard, OUTGOING, cursor.clone());
    }
}

/// Carries the items of some entries: in order per target, targets side by side.
async fn carry(engine: &Arc<Inner>, shard: Shard, entries: &[(Pos, Arc<Entry>)]) {
    let mut targets: HashMap<&Address, Vec<(Pos, u32, Arc<Entry>)>> = HashMap::new();
    for (pos, entry) in entries {
        for (index, item) in entry.effects.outgoing.iter().enumerate() {
            targets.entry(&item.to).or_default().push((*pos, index as u32, entry.clone()));
        }
    }
    let targets: Vec<_> = targets.into_values().map(|items| carry_to_one(engine.clone(), shard, items)).collect();
    stream::iter(targets).buffer_unordered(CONCURRENCY).collect::<Vec<()>>().await;
}

async fn carry_to_one(engine: Arc<Inner>, shard: Shard, items: Vec<(Pos, u32, Arc<Entry>)>) {
    for (pos, index, entry) in items {
        carry_one(&engine, shard, pos, index, &entry).await;
    }
}

async fn carry_one(engine: &Arc<Inner>, shard: Shard, pos: Pos, index: u32, entry: &Arc<Entry>) {
    let mut pause = RETRY_FIRST;
    loop {
        match deliver_item(engine, shard, pos, index, entry).await {
            Ok(()) => return engine.metrics.deliveries.increment(1),
            Err(refusal) if refusal.code.is_retryable() => {
                engine.metrics.delivery_failures.increment(1);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_LONGEST);
            }
            Err(refusal) => {
                engine.metrics.delivery_failures.increment(1);
                let failed = Failure { consumer: OUTGOING.into(), shard, pos, index, conversation: entry.conversation, attempts: 1, payload: Vec::new() };
                return give_up(engine, failed, &refusal.to_string()).await;
            }
        }
    }
}

async fn deliver_item(engine: &Arc<Inner>, shard: Shard, pos: Pos, index: u32, entry: &Arc<Entry>) -> Result<(), Refusal> {
    let Some(item) = entry.effects.outgoing.get(index as usize) else {
        return Err(Refusal::new(ErrorCode::Internal, "the entry has no such outgoing item"));
    };
    let id = CommandId::of_feed(OUTGOING, shard, pos, index);
    match &item.what {
        Outgoing::Kv(_) | Outgoing::Keep { .. } | Outgoing::Release { .. } => crate::global_kv::deliver(engine, &item.to, &item.what).await,
        Outgoing::Personal(event) => deliver::personal(engine, &item.to, event.clone(), id).await,
        Outgoing::Message { sender, content } => deliver::message(engine, &item.to, sender, content, id, writer(entry, item)).await,
        Outgoing::Conversation { participants, name, state } => {
            deliver::conversation(engine, &item.to, participants.clone(), name.clone(), state.clone(), id, writer(entry, item)).await
        }
    }
}

/// The plugins that led to what the item does.
fn writer(entry: &Entry, item: &haggle_model::OutgoingItem) -> Vec<PluginId> {
    let mut origin = entry.origin.clone();
    origin.extend(item.by.clone().filter(|plugin| entry.origin.last() != Some(plugin)));
    origin
}

// ---- failed deliveries ----------------------------------------------------------------------------------------------

pub(crate) struct Failure {
    pub consumer: String,
    pub shard: Shard,
    pub pos: Pos,
    pub index: u32,
    pub conversation: ConversationId,
    pub attempts: u32,
    pub payload: Vec<u8>,
}

/// Keeps what could not be delivered, for the operator.
pub(crate) async fn give_up(engine: &Inner, failure: Failure, error: &str) {
    let Failure { consumer, shard, pos, index, conversation, attempts, payload } = failure;
    tracing::warn!(consumer, %shard, %pos, error, "a delivery has failed");
    let failed = FailedDelivery {
        id: 0,
        consumer,
        shard,
        pos,
        index,
        conversation,
        attempts,
        error: error.chars().take(500).collect(),
        at: engine.clock.now(),
        payload,
    };
    let mut pause = RETRY_FIRST;
    while let Err(error) = engine.store.add_failed(failed.clone()).await {
        tracing::error!(%error, "cannot keep a failed delivery; it is tried again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
    engine.metrics.failed_deliveries.increment(1.0);
}

/// Tries a failed delivery once more.
pub(crate) async fn replay(engine: &Arc<Inner>, failed: &FailedDelivery) -> Result<(), Refusal> {
    if failed.consumer == crate::timers::CONSUMER {
        return crate::timers::replay(engine, failed).await;
    }
    let before = Pos(failed.pos.0.saturating_sub(1));
    let entries = engine.store.read(failed.shard, before, 1).await?;
    let (pos, entry) = entries.into_iter().find(|(pos, _)| *pos == failed.pos).ok_or_else(Refusal::not_found)?;
    match failed.consumer.strip_prefix("after:") {
        None => deliver_item(engine, failed.shard, pos, failed.index, &entry).await,
        Some(plugin) => {
            let mut kinds = Kinds::default();
            let told = tell(engine, &PluginId::from(plugin), failed.shard, pos, &entry, &mut kinds).await;
            told.map_err(|error| Refusal::new(ErrorCode::PluginError, error.to_string()))
        }
    }
}

// ---- after-hooks ----------------------------------------------------------------------------------------------------

fn consumer_of(plugin: &PluginId) -> String {
    format!("after:{plugin}")
}

/// Starts a feed for each plugin with after-hooks, and ends those of plugins that are gone.
async fn follow_plugins(engine: Arc<Inner>) {
    let mut running: HashMap<PluginId, tokio_util::sync::CancellationToken> = HashMap::new();
    loop {
        let consumers = engine.hooks.plan().consumers();
        running.retain(|plugin, stop| {
            let wanted = consumers.iter().any(|consumer| consumer.plugin == *plugin);
            if !wanted {
                stop.cancel();
            }
            wanted
        });
        for consumer in consumers {
            if running.contains_key(&consumer.plugin) {
                continue;
            }
            let stop = engine.closing.child_token();
            for lane in &engine.lanes {
                let (stop, feed) = (stop.clone(), after(engine.clone(), lane.clone(), consumer.plugin.clone(), consumer.from_start));
                engine.spawn_until_closed(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = feed => {}
                    }
                });
            }
            running.insert(consumer.plugin, stop);
        }
        for lane in &engine.lanes {
            lane.news.has_consumers.store(!running.is_empty(), std::sync::atomic::Ordering::Relaxed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One plugin's after-hooks in one shard.
async fn after(engine: Arc<Inner>, lane: Arc<Lane>, plugin: PluginId, from_start: bool) {
    let (shard, consumer) = (lane.shard, consumer_of(&plugin));
    let mut cursor = match engine.feeds.get(shard, &consumer) {
        Some(cursor) => cursor,
        None => first_cursor(&engine, shard, &consumer, from_start).await,
    };
    let mut held: HashMap<ConversationId, Holding> =
        cursor.held.iter().map(|held| (held.conversation, Holding { from: held.from, attempts: 0, next: Instant::now() })).collect();
    let mut kinds = Kinds::default();
    loop {
        catch_up(&engine, &plugin, shard, cursor.pos, &mut held, &mut kinds).await;
        let news = lane.news.after.notified();
        let entries = read(&engine, shard, cursor.pos).await;
        if let Some((last, _)) = entries.last() {
            let last = *last;
            for (conversation, from) in tell_batch(&engine, &plugin, shard, entries, &held).await {
                held.insert(conversation, Holding { from, attempts: 1, next: Instant::now() + RETRY_FIRST });
            }
            cursor.pos = last;
        } else {
            let soonest = held.values().map(|holding| holding.next).min();
            let until = soonest.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now()).min(LOOK_EVERY));
            // Either there is news, or it is time to look.
            let _ = tokio::time::timeout(until, news).await;
        }
        cursor.held = held.iter().map(|(conversation, holding)| Held { conversation: *conversation, from: holding.from }).collect();
        if engine.feeds.get(shard, &consumer).as_ref() != Some(&cursor) {
            engine.feeds.set(shard, &consumer, cursor.clone());
        }
        if held.len() > HELD_MAX {
            tracing::error!(%plugin, %shard, "a plugin holds too many conversations: its after-hooks stop until it is reloaded");
            engine.metrics.consumers_parked.increment(1.0);
            return;
        }
    }
}

async fn first_cursor(engine: &Inner, shard: Shard, consumer: &str, from_start: bool) -> Cursor {
    let mut cursor = Cursor::default();
    while !from_start {
        match engine.store.tail(shard).await {
            Ok(tail) => {
                cursor.pos = tail.pos;
                break;
            }
            Err(error) => tracing::error!(%shard, %error, "cannot read the end of the log"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    engine.feeds.set(shard, consumer, cursor.clone());
    // A crash right now must not move a new consumer's beginning.
    save(engine).await;
    cursor
}

/// A conversation that the feed has passed.
#[derive(Clone, Copy)]
struct Holding {
    from: Pos,
    attempts: u32,
    next: Instant,
}

/// Tells the plugin of some entries: in order per conversation, conversations side by side. Returns those that failed, and where.
async fn tell_batch(
    engine: &Arc<Inner>,
    plugin: &PluginId,
    shard: Shard,
    entries: Vec<(Pos, Arc<Entry>)>,
    held: &HashMap<ConversationId, Holding>,
) -> Vec<(ConversationId, Pos)> {
    let mut conversations: HashMap<ConversationId, Vec<(Pos, Arc<Entry>)>> = HashMap::new();
    for (pos, entry) in entries {
        if !held.contains_key(&entry.conversation) && may_concern(&entry) {
            conversations.entry(entry.conversation).or_default().push((pos, entry));
        }
    }
    let told: Vec<_> = conversations.into_iter().map(|(id, entries)| tell_one(engine.clone(), plugin.clone(), shard, id, entries)).collect();
    let failed: Vec<Option<(ConversationId, Pos)>> = stream::iter(told).buffer_unordered(CONCURRENCY).collect().await;
    failed.into_iter().flatten().collect()
}

/// Tells the plugin of one conversation's entries; where it fails, the rest waits.
async fn tell_one(
    engine: Arc<Inner>,
    plugin: PluginId,
    shard: Shard,
    conversation: ConversationId,
    entries: Vec<(Pos, Arc<Entry>)>,
) -> Option<(ConversationId, Pos)> {
    let mut kinds = Kinds::default();
    for (pos, entry) in entries {
        if let Err(error) = tell(&engine, &plugin, shard, pos, &entry, &mut kinds).await {
            engine.metrics.delivery_failures.increment(1);
            tracing::debug!(%plugin, %shard, %pos, %error, "an after-hook failed; it is tried again");
            return Some((conversation, pos));
        }
    }
    None
}

/// Tries held conversations whose time has come; each catches up to where the feed is.
async fn catch_up(
    engine: &Arc<Inner>,
    plugin: &PluginId,
    shard: Shard,
    upto: Pos,
    held: &mut HashMap<ConversationId, Holding>,
    kinds: &mut Kinds,
) {
    let due: Vec<ConversationId> = held.iter().filter(|(_, holding)| holding.next <= Instant::now()).map(|(id, _)| *id).collect();
    for conversation in due {
        let mut holding = held[&conversation];
        if catch_up_one(engine, plugin, shard, upto, conversation, &mut holding, kinds).await {
            held.remove(&conversation);
        } else {
            held.insert(conversation, holding);
        }
    }
}

/// Whether the conversation has caught up; otherwise `holding` says where it stands and when to try again.
async fn catch_up_one(
    engine: &Arc<Inner>,
    plugin: &PluginId,
    shard: Shard,
    upto: Pos,
    conversation: ConversationId,
    holding: &mut Holding,
    kinds: &mut Kinds,
) -> bool {
    let mut after = Pos(holding.from.0.saturating_sub(1));
    while after < upto {
        let entries = read(engine, shard, after).await;
        let Some((last, _)) = entries.last() else { return true };
        after = *last;
        for (pos, entry) in entries.iter().filter(|(pos, entry)| *pos <= upto && entry.conversation == conversation && may_concern(entry)) {
            let Err(error) = tell(engine, plugin, shard, *pos, entry, kinds).await else {
                *holding = Holding { from: pos.next(), attempts: 0, next: Instant::now() };
                continue;
            };
            engine.metrics.delivery_failures.increment(1);
            let attempts = if holding.from == *pos { holding.attempts + 1 } else { 1 };
            if attempts < ATTEMPTS_MAX {
                let pause = RETRY_FIRST * 4_u32.pow(attempts.min(4));
                *holding = Holding { from: *pos, attempts, next: Instant::now() + pause };
                return false;
            }
            let failure = Failure { consumer: consumer_of(plugin), shard, pos: *pos, index: 0, conversation, attempts, payload: Vec::new() };
            give_up(engine, failure, &error.to_string()).await;
            *holding = Holding { from: pos.next(), attempts: 0, next: Instant::now() };
        }
    }
    true
}

/// Kinds of the conversations that a feed has met lately.
#[derive(Default)]
struct Kinds(HashMap<ConversationId, ConversationKind>);

const KINDS_MAX: usize = 10_000;

impl Kinds {
    async fn of(&mut self, engine: &Inner, id: ConversationId) -> Result<ConversationKind, haggle_store::StoreError> {
        if let Some(kind) = self.0.get(&id) {
            return Ok(*kind);
        }
        let kind = match engine.warm.peek(id).and_then(|there| there.with_state(|state| state.address().map(Address::kind))) {
            Some(kind) => kind,
            None => engine.store.conversation(id).await?.map_or(ConversationKind::Personal, |row| row.kind()),
        };
        if self.0.len() >= KINDS_MAX {
            self.0.clear();
        }
        self.0.insert(id, kind);
        Ok(kind)
    }
}

/// Whether an after-hook could ever be told of it.
fn may_concern(entry: &Entry) -> bool {
    entry.seq > 0 || matches!(entry.event, Event::Marked { .. })
}

/// Tells one plugin of one entry, if it wants to know.
async fn tell(engine: &Arc<Inner>, plugin: &PluginId, shard: Shard, pos: Pos, entry: &Arc<Entry>, kinds: &mut Kinds) -> Result<(), HookError> {
    if entry.origin.len() >= engine.limits.origin_depth_max {
        return Ok(()); // Plugins answer each other: the chain is cut here.
    }
    let store_failed = |error: haggle_store::StoreError| HookError { plugin: plugin.clone(), hook: "after", kind: "error", message: error.to_string() };
    let kind = kinds.of(engine, entry.conversation).await.map_err(store_failed)?;
    if kind == ConversationKind::Personal {
        return Ok(());
    }
    let plan = engine.hooks.plan();
    let Some(event) = after_event(engine, entry, |hook, message| plan.wants_after(plugin, hook, &Facts { conversation: kind, message, dialect: "native" })).await.map_err(store_failed)?
    else {
        return Ok(());
    };
    let message = if let After::Message { message, .. } = &event { Some(message.content.kind.clone()) } else { None };
    if !plan.wants_after(plugin, event.hook(), &Facts { conversation: kind, message: message.as_deref(), dialect: "native" }) {
        return Ok(());
    }
    let id = CommandId::of_feed(&consumer_of(plugin), shard, pos, 0);
    deliver::after(engine, &plan, plugin, entry, &event, id).await?;
    engine.metrics.deliveries.increment(1);
    Ok(())
}

/// What an entry means to an after-hook, in its present state; `None` when it means nothing or nobody wants it.
async fn after_event(
    engine: &Inner,
    entry: &Entry,
    wants: impl Fn(crate::ports::Hook, Option<&str>) -> bool,
) -> Result<Option<After>, haggle_store::StoreError> {
    use crate::ports::Hook;
    let op = match &entry.event {
        Event::MessageCreated(_) => Some(Op::Send),
        Event::MessageEdited { .. } => Some(Op::Edit),
        Event::MessageDeleted { .. } => Some(Op::Delete),
        _ => None,
    };
    if let (Some(op), Some(seq)) = (op, entry.event.message_seq(entry.seq)) {
        let kind = if let Event::MessageCreated(content) | Event::MessageEdited { content, .. } = &entry.event { Some(content.kind.as_str()) } else { None };
        if kind.is_some() && !wants(Hook::AfterMessage, kind) {
            return Ok(None);
        }
        return Ok(engine.store.message(entry.conversation.message(seq)).await?.map(|message| After::Message { op, message }));
    }
    let op = match &entry.event {
        Event::ConversationCreated(_) => "create",
        Event::ConversationUpdated(_) => "update",
        Event::ConversationClosed(_) => "close",
        Event::ConversationReopened => "reopen",
        _ => "",
    };
    if !op.is_empty() {
        if !wants(Hook::AfterConversation, None) {
            return Ok(None);
        }
        return Ok(engine.store.conversation(entry.conversation).await?.map(|conversation| After::Conversation { op, conversation }));
    }
    let change = |op, user: &haggle_model::UserId, role| Some(After::Participant(ParticipantChange { op, user: user.clone(), role }));
    let reaction = |target, user: &haggle_model::UserId, emoji: Option<String>| {
        Some(After::Reaction(ReactionChange { message: entry.conversation.message(target), user: user.clone(), emoji }))
    };
    Ok(match &entry.event {
        Event::ParticipantJoined { user, role } => change("join", user, *role),
        Event::ParticipantLeft { user } => change("leave", user, Default::default()),
        Event::ParticipantUpdated { user, role } => change("role", user, *role),
        Event::ReactionAdded { target, user, emoji } => reaction(*target, user, Some(emoji.clone())),
        Event::ReactionRemoved { target, user } => reaction(*target, user, None),
        Event::Marked { user, mark } => Some(After::Receipt { user: user.clone(), mark: *mark }),
        _ => None,
    })
}
