//! Readers of the log with durable cursors: outgoing items and after-hooks.
//!
//! A cursor is saved once a second, so what a feed does may happen again after a crash: everything it writes carries an id made
//! of consumer, shard and position, and a second time changes nothing.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use haggle_model::{Address, CommandId, ConversationId, ConversationKind, Entry, ErrorCode, Event, Outgoing, PluginId, Pos, Shard};
use haggle_store::{Cursor, FailedDelivery, HELD_MAX, Held, StoreError};
use parking_lot::Mutex;
use tokio::sync::futures::Notified;

use crate::{
    Actor, Inner, Refusal, deliver,
    lanes::Lane,
    ports::{After, ConversationOp, Facts, HookError, Op, ParticipantChange, ParticipantOp, ReactionChange},
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
pub(crate) async fn start(engine: &Arc<Inner>) -> Result<(), StoreError> {
    for lane in &engine.lanes {
        for (consumer, cursor) in engine.store.cursors(lane.shard).await? {
            engine.feeds.cursors.lock().insert((lane.shard, consumer), (cursor, false));
        }
        let cursor = engine.feeds.get(lane.shard, OUTGOING).unwrap_or_default();
        engine.spawn_until_closed(feed(engine.clone(), lane.clone(), Arc::new(Carrier), cursor));
    }
    // Before anything is written, so that a plugin that is there from the start misses nothing.
    for consumer in engine.hooks.plan().consumers() {
        let name = consumer_of(&consumer.plugin);
        for lane in &engine.lanes {
            if engine.feeds.get(lane.shard, &name).is_none() {
                let cursor = beginning(engine, lane.shard, consumer.from_start).await?;
                engine.feeds.set(lane.shard, &name, cursor);
            }
        }
    }
    save(engine).await;
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

/// Whether every feed has done the log up to `pos` and holds nothing.
pub(crate) fn are_at(engine: &Inner, shard: Shard, pos: Pos) -> bool {
    let is_at = |consumer: &str| {
        let cursor = engine.feeds.get(shard, consumer).unwrap_or_default();
        cursor.pos >= pos && cursor.held.is_empty()
    };
    is_at(OUTGOING)
        && engine
            .hooks
            .plan()
            .consumers()
            .iter()
            .all(|consumer| is_at(&consumer_of(&consumer.plugin)))
}

/// The next entries, without a read of the store where they have just been written.
async fn read(engine: &Inner, lane: &Lane, after: Pos) -> Vec<(Pos, Arc<Entry>)> {
    if let Some(entries) = lane.recent(after, BATCH) {
        return entries;
    }
    loop {
        match engine.store.read(lane.shard, after, BATCH).await {
            Ok(entries) => return entries,
            Err(error) => {
                tracing::error!(shard = %lane.shard, %after, %error, "a feed cannot read the log");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

// ---- a feed ---------------------------------------------------------------------------------------------------------

/// What a feed does with the entries of a shard's log.
trait Consumer: Send + Sync + 'static {
    /// Under which its cursor is saved.
    fn name(&self) -> String;

    /// When there may be something new.
    fn news<'a>(&self, lane: &'a Lane) -> Notified<'a>;

    /// Up to where there is nothing for this consumer after `pos`, if that is known without reading.
    fn nothing_until(&self, lane: &Lane, pos: Pos) -> Option<Pos>;

    /// What an entry asks for: the conversation that waits when it cannot be done, and which part of the entry it is.
    fn jobs(&self, engine: &Inner, entry: &Entry) -> Vec<(ConversationId, u32)>;

    /// Does one of them. It may have been done before.
    fn run(&self, engine: &Arc<Inner>, place: Place, entry: &Arc<Entry>) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Stops for good when too many conversations wait for it; otherwise it reads no further until there are fewer.
    fn parks(&self) -> bool;
}

/// Where in the log something stands.
#[derive(Clone, Copy)]
struct Place {
    shard: Shard,
    pos: Pos,
    /// Which part of the entry.
    index: u32,
}

/// Why a job was not done.
enum Trouble {
    /// What it needs is away: it is tried until that is back.
    Away(String),
    /// It failed: it is tried a few times.
    Failed(String),
    /// It was refused: another try would be refused too.
    Refused(String),
}

impl Trouble {
    fn of_refusal(refusal: &Refusal) -> Trouble {
        match refusal.code {
            ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::Overloaded | ErrorCode::RateLimited => Trouble::Away(refusal.to_string()),
            ErrorCode::PluginError => Trouble::Failed(refusal.to_string()),
            _ => Trouble::Refused(refusal.to_string()),
        }
    }

    fn of_hook(error: &HookError) -> Trouble {
        if error.is_away() {
            Trouble::Away(error.to_string())
        } else {
            Trouble::Failed(error.to_string())
        }
    }
}

/// A conversation that a feed has passed: it takes up again at part `index` of the entry at `from`.
#[derive(Clone, Copy)]
struct Holding {
    from: Pos,
    index: u32,
    attempts: u32,
    next: Instant,
}

impl Holding {
    fn new(from: Pos) -> Holding {
        Holding {
            from,
            index: 0,
            attempts: 0,
            next: Instant::now(),
        }
    }
}

type Holdings = HashMap<ConversationId, Holding>;
type Job = (Place, Arc<Entry>);

/// How long after the nth failure a job is tried again.
pub(crate) fn pause_after(attempts: u32) -> Duration {
    (RETRY_FIRST * 4_u32.pow(attempts.clamp(1, 6) - 1)).min(RETRY_LONGEST)
}

/// Reads one shard's log for one consumer, from its cursor on.
async fn feed(engine: Arc<Inner>, lane: Arc<Lane>, consumer: Arc<impl Consumer>, mut cursor: Cursor) {
    let (shard, name) = (lane.shard, consumer.name());
    let mut held: Holdings = cursor.held.iter().map(|held| (held.conversation, Holding::new(held.from))).collect();
    loop {
        catch_up(&engine, &consumer, &lane, cursor.pos, &mut held).await;
        let news = consumer.news(&lane);
        let entries = if held.len() > HELD_MAX {
            Vec::new()
        } else if let Some(end) = consumer.nothing_until(&lane, cursor.pos) {
            cursor.pos = end;
            Vec::new()
        } else {
            read(&engine, &lane, cursor.pos).await
        };
        match entries.last().map(|(last, _)| *last) {
            Some(last) => {
                let jobs = jobs_by_conversation(&engine, &*consumer, shard, &entries, |conversation, _| !held.contains_key(&conversation));
                held.extend(run_all(&engine, &consumer, jobs, &Holdings::new()).await);
                cursor.pos = last;
            }
            None => {
                let soonest = held.values().map(|holding| holding.next).min();
                let until = soonest.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now()).min(LOOK_EVERY));
                // Either there is news, or it is time to look.
                let _ = tokio::time::timeout(until, news).await;
            }
        }
        cursor.held = held
            .iter()
            .take(HELD_MAX)
            .map(|(conversation, holding)| Held {
                conversation: *conversation,
                from: holding.from,
            })
            .collect();
        cursor.held.sort_by_key(|held| (held.from, held.conversation));
        if held.len() <= HELD_MAX && engine.feeds.get(shard, &name).as_ref() != Some(&cursor) {
            engine.feeds.set(shard, &name, cursor.clone());
        }
        if held.len() > HELD_MAX && consumer.parks() {
            tracing::error!(consumer = name, %shard, "too many conversations wait for a plugin: its after-hooks stop until the server starts again");
            engine.metrics.consumers_parked.increment(1.0);
            return;
        }
    }
}

/// The jobs of some entries: in order per conversation.
fn jobs_by_conversation(
    engine: &Inner,
    consumer: &impl Consumer,
    shard: Shard,
    entries: &[(Pos, Arc<Entry>)],
    wanted: impl Fn(ConversationId, Place) -> bool,
) -> HashMap<ConversationId, Vec<Job>> {
    let mut jobs: HashMap<ConversationId, Vec<Job>> = HashMap::new();
    for (pos, entry) in entries {
        for (conversation, index) in consumer.jobs(engine, entry) {
            let place = Place { shard, pos: *pos, index };
            if wanted(conversation, place) {
                jobs.entry(conversation).or_default().push((place, entry.clone()));
            }
        }
    }
    jobs
}

/// Does the jobs, conversations side by side. Returns those that must wait, and where.
async fn run_all<C: Consumer>(engine: &Arc<Inner>, consumer: &Arc<C>, jobs: HashMap<ConversationId, Vec<Job>>, held: &Holdings) -> Holdings {
    let running: Vec<_> = jobs
        .into_iter()
        .map(|(conversation, jobs)| {
            let (engine, consumer) = (engine.clone(), consumer.clone());
            let attempts = held.get(&conversation).map_or(0, |holding| holding.attempts);
            async move {
                run_in_order(&engine, &*consumer, conversation, jobs, attempts)
                    .await
                    .map(|holding| (conversation, holding))
            }
        })
        .collect();
    let stopped: Vec<_> = stream::iter(running).buffer_unordered(CONCURRENCY).collect().await;
    stopped.into_iter().flatten().collect()
}

/// Does one conversation's jobs; `attempts` is how often the first of them has failed before. Where one fails, the rest waits.
async fn run_in_order(
    engine: &Arc<Inner>,
    consumer: &impl Consumer,
    conversation: ConversationId,
    jobs: Vec<Job>,
    mut attempts: u32,
) -> Option<Holding> {
    for (place, entry) in jobs {
        let Err(trouble) = consumer.run(engine, place, &entry).await else {
            attempts = 0;
            continue;
        };
        engine.metrics.delivery_failures.increment(1);
        attempts += 1;
        let (error, over) = match trouble {
            Trouble::Away(error) => {
                attempts = attempts.min(ATTEMPTS_MAX - 1);
                (error, false)
            }
            Trouble::Failed(error) => (error, attempts >= ATTEMPTS_MAX),
            Trouble::Refused(error) => (error, true),
        };
        if !over {
            tracing::debug!(consumer = consumer.name(), shard = %place.shard, pos = %place.pos, error, "a delivery failed; it is tried again");
            return Some(Holding {
                from: place.pos,
                index: place.index,
                attempts,
                next: Instant::now() + pause_after(attempts),
            });
        }
        let Place { shard, pos, index } = place;
        give_up(
            engine,
            Failure {
                consumer: consumer.name(),
                shard,
                pos,
                index,
                conversation,
                attempts,
                payload: Vec::new(),
            },
            &error,
        )
        .await;
        attempts = 0;
    }
    None
}

/// Tries held conversations whose time has come; each catches up to where the feed is.
async fn catch_up<C: Consumer>(engine: &Arc<Inner>, consumer: &Arc<C>, lane: &Lane, upto: Pos, held: &mut Holdings) {
    let now = Instant::now();
    let mut due: Holdings = held
        .iter()
        .filter(|(_, holding)| holding.next <= now)
        .map(|(conversation, holding)| (*conversation, *holding))
        .collect();
    let Some(first) = due.values().map(|holding| holding.from).min() else {
        return;
    };
    let mut after = Pos(first.0.saturating_sub(1));
    while after < upto && !due.is_empty() {
        let mut entries = read(engine, lane, after).await;
        let Some((last, _)) = entries.last() else { break };
        after = *last;
        entries.retain(|(pos, _)| *pos <= upto);
        let wanted = |conversation, place: Place| {
            due.get(&conversation)
                .is_some_and(|holding| (place.pos, place.index) >= (holding.from, holding.index))
        };
        let jobs = jobs_by_conversation(engine, &**consumer, lane.shard, &entries, wanted);
        let tried: Vec<ConversationId> = jobs.keys().copied().collect();
        let stopped = run_all(engine, consumer, jobs, &due).await;
        for conversation in tried {
            if let Some(holding) = stopped.get(&conversation) {
                due.remove(&conversation);
                held.insert(conversation, *holding);
            } else if let Some(holding) = due.get_mut(&conversation) {
                holding.attempts = 0; // Its next job has not failed yet.
            }
        }
    }
    held.retain(|conversation, _| !due.contains_key(conversation));
}

// ---- outgoing items -------------------------------------------------------------------------------------------------

/// Carries items to other conversations: in order per target, and a target that is away holds up only what is for it.
struct Carrier;

impl Consumer for Carrier {
    fn name(&self) -> String {
        OUTGOING.to_owned()
    }

    fn news<'a>(&self, lane: &'a Lane) -> Notified<'a> {
        lane.news.outgoing.notified()
    }

    fn nothing_until(&self, lane: &Lane, pos: Pos) -> Option<Pos> {
        lane.nothing_outgoing_after(pos)
    }

    fn jobs(&self, engine: &Inner, entry: &Entry) -> Vec<(ConversationId, u32)> {
        (0..)
            .zip(&entry.effects.outgoing)
            .map(|(index, item)| (home_of(engine, &item.to), index))
            .collect()
    }

    async fn run(&self, engine: &Arc<Inner>, place: Place, entry: &Arc<Entry>) -> Result<(), Trouble> {
        deliver_item(engine, place.shard, place.pos, place.index, entry)
            .await
            .map_err(|refusal| Trouble::of_refusal(&refusal))?;
        engine.metrics.deliveries.increment(1);
        Ok(())
    }

    fn parks(&self) -> bool {
        false
    }
}

/// One key for all ways to name a target.
fn home_of(engine: &Inner, address: &Address) -> ConversationId {
    match address {
        Address::Existing(id) => *id,
        address => engine.keys.key(address),
    }
}

async fn deliver_item(engine: &Arc<Inner>, shard: Shard, pos: Pos, index: u32, entry: &Arc<Entry>) -> Result<(), Refusal> {
    let Some(item) = entry.effects.outgoing.get(index as usize) else {
        return Err(Refusal::new(ErrorCode::Internal, "the entry has no such outgoing item"));
    };
    let id = CommandId::of_feed(OUTGOING, shard, pos, index);
    match &item.what {
        Outgoing::Kv(_) | Outgoing::Add { .. } | Outgoing::Keep { .. } | Outgoing::Release { .. } => {
            crate::global_kv::deliver(engine, &item.to, &item.what, id).await
        }
        Outgoing::Personal(event) => deliver::personal(engine, &item.to, event.clone(), entry.conversation, id).await,
        Outgoing::Message { sender, content, command } => deliver::message(engine, &item.to, sender, content, *command, item.origin.clone()).await,
        Outgoing::Conversation { participants, name, state } => {
            deliver::conversation(
                engine,
                &item.to,
                participants.clone(),
                name.clone(),
                state.clone(),
                id,
                item.origin.clone(),
            )
            .await
        }
    }
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
    let Failure {
        consumer,
        shard,
        pos,
        index,
        conversation,
        attempts,
        payload,
    } = failure;
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
            let told = tell(engine, &PluginId::from(plugin), failed.shard, pos, &entry, &Mutex::default()).await;
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
                let (stop, feed) = (
                    stop.clone(),
                    after(engine.clone(), lane.clone(), consumer.plugin.clone(), consumer.from_start),
                );
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

/// Tells one plugin what happened, in order per conversation.
struct Teller {
    plugin: PluginId,
    kinds: Mutex<Kinds>,
}

impl Consumer for Teller {
    fn name(&self) -> String {
        consumer_of(&self.plugin)
    }

    fn news<'a>(&self, lane: &'a Lane) -> Notified<'a> {
        lane.news.after.notified()
    }

    fn nothing_until(&self, _: &Lane, _: Pos) -> Option<Pos> {
        None
    }

    fn jobs(&self, _: &Inner, entry: &Entry) -> Vec<(ConversationId, u32)> {
        if may_concern(entry) { vec![(entry.conversation, 0)] } else { Vec::new() }
    }

    async fn run(&self, engine: &Arc<Inner>, place: Place, entry: &Arc<Entry>) -> Result<(), Trouble> {
        tell(engine, &self.plugin, place.shard, place.pos, entry, &self.kinds)
            .await
            .map_err(|error| Trouble::of_hook(&error))
    }

    fn parks(&self) -> bool {
        true
    }
}

/// One plugin's after-hooks in one shard.
async fn after(engine: Arc<Inner>, lane: Arc<Lane>, plugin: PluginId, from_start: bool) {
    let (shard, consumer) = (lane.shard, consumer_of(&plugin));
    let cursor = match engine.feeds.get(shard, &consumer) {
        Some(cursor) => cursor,
        None => first_cursor(&engine, shard, &consumer, from_start).await,
    };
    feed(
        engine,
        lane,
        Arc::new(Teller {
            plugin,
            kinds: Mutex::default(),
        }),
        cursor,
    )
    .await;
}

/// Where a consumer begins that was never here before: at the end of the log, unless its manifest wants all of it.
async fn first_cursor(engine: &Inner, shard: Shard, consumer: &str, from_start: bool) -> Cursor {
    let cursor = loop {
        match beginning(engine, shard, from_start).await {
            Ok(cursor) => break cursor,
            Err(error) => tracing::error!(%shard, %error, "cannot read the end of the log"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    engine.feeds.set(shard, consumer, cursor.clone());
    // A crash right now must not move a new consumer's beginning.
    save(engine).await;
    cursor
}

async fn beginning(engine: &Inner, shard: Shard, from_start: bool) -> Result<Cursor, StoreError> {
    let pos = if from_start {
        Pos::default()
    } else {
        engine.store.tail(shard).await?.pos
    };
    Ok(Cursor { pos, held: Vec::new() })
}

/// Kinds of the conversations that a feed has met lately.
#[derive(Default)]
struct Kinds(HashMap<ConversationId, ConversationKind>);

const KINDS_MAX: usize = 10_000;

impl Kinds {
    async fn of(kinds: &Mutex<Kinds>, engine: &Inner, id: ConversationId) -> Result<ConversationKind, StoreError> {
        if let Some(kind) = kinds.lock().0.get(&id) {
            return Ok(*kind);
        }
        let kind = match engine
            .warm
            .peek(id)
            .and_then(|there| there.with_state(|state| state.address().map(Address::kind)))
        {
            Some(kind) => kind,
            None => engine.store.conversation(id).await?.map_or(ConversationKind::Personal, |row| row.kind()),
        };
        let mut kinds = kinds.lock();
        if kinds.0.len() >= KINDS_MAX {
            kinds.0.clear();
        }
        kinds.0.insert(id, kind);
        Ok(kind)
    }
}

/// Whether an after-hook could ever be told of it.
fn may_concern(entry: &Entry) -> bool {
    entry.seq > 0 || matches!(entry.event, Event::Marked { .. })
}

/// Tells one plugin of one entry, if it wants to know.
async fn tell(engine: &Arc<Inner>, plugin: &PluginId, shard: Shard, pos: Pos, entry: &Arc<Entry>, kinds: &Mutex<Kinds>) -> Result<(), HookError> {
    if entry.origin.len() >= engine.limits.origin_depth_max {
        return Ok(()); // Plugins answer each other: the chain is cut here.
    }
    let store_failed = |error: StoreError| HookError {
        plugin: plugin.clone(),
        hook: "after",
        kind: "unavailable",
        message: error.to_string(),
    };
    let kind = Kinds::of(kinds, engine, entry.conversation).await.map_err(store_failed)?;
    if kind == ConversationKind::Personal {
        return Ok(());
    }
    let plan = engine.hooks.plan();
    let Some(event) = after_event(engine, entry, |hook, message| {
        plan.wants_after(
            plugin,
            hook,
            &Facts {
                conversation: kind,
                message,
                dialect: Actor::NATIVE,
            },
        )
    })
    .await
    .map_err(store_failed)?
    else {
        return Ok(());
    };
    let message = if let After::Message { message, .. } = &event {
        Some(message.content.kind.clone())
    } else {
        None
    };
    if !plan.wants_after(
        plugin,
        event.hook(),
        &Facts {
            conversation: kind,
            message: message.as_deref(),
            dialect: Actor::NATIVE,
        },
    ) {
        return Ok(());
    }
    let id = CommandId::of_feed(&consumer_of(plugin), shard, pos, 0);
    deliver::after(engine, &plan, plugin, entry, &event, id).await?;
    engine.metrics.deliveries.increment(1);
    Ok(())
}

/// What an entry means to an after-hook, in its present state; `None` when it means nothing or nobody wants it.
async fn after_event(engine: &Inner, entry: &Entry, wants: impl Fn(crate::ports::Hook, Option<&str>) -> bool) -> Result<Option<After>, StoreError> {
    use crate::ports::Hook;
    let op = match &entry.event {
        Event::MessageCreated(_) => Some(Op::Send),
        Event::MessageEdited { .. } => Some(Op::Edit),
        Event::MessageDeleted { .. } => Some(Op::Delete),
        _ => None,
    };
    if let (Some(op), Some(seq)) = (op, entry.event.message_seq(entry.seq)) {
        let kind = if let Event::MessageCreated(content) | Event::MessageEdited { content, .. } = &entry.event {
            Some(content.kind.as_str())
        } else {
            None
        };
        if kind.is_some() && !wants(Hook::AfterMessage, kind) {
            return Ok(None);
        }
        return Ok(engine
            .store
            .message(entry.conversation.message(seq))
            .await?
            .map(|message| After::Message { op, message }));
    }
    let op = match &entry.event {
        Event::ConversationCreated(_) => Some(ConversationOp::Create),
        Event::ConversationUpdated(_) => Some(ConversationOp::Update),
        Event::ConversationClosed(_) => Some(ConversationOp::Close),
        Event::ConversationReopened => Some(ConversationOp::Reopen),
        _ => None,
    };
    if let Some(op) = op {
        if !wants(Hook::AfterConversation, None) {
            return Ok(None);
        }
        return Ok(engine
            .store
            .conversation(entry.conversation)
            .await?
            .map(|conversation| After::Conversation { op, conversation }));
    }
    let change = |op, user: &haggle_model::UserId, role| {
        Some(After::Participant(ParticipantChange {
            op,
            user: user.clone(),
            role,
        }))
    };
    let reaction = |target, user: &haggle_model::UserId, emoji: Option<String>| {
        Some(After::Reaction(ReactionChange {
            message: entry.conversation.message(target),
            user: user.clone(),
            emoji,
        }))
    };
    Ok(match &entry.event {
        Event::ParticipantJoined { user, role } => change(ParticipantOp::Join, user, *role),
        Event::ParticipantLeft { user } => change(ParticipantOp::Leave, user, Default::default()),
        Event::ParticipantUpdated { user, role } => change(ParticipantOp::Role, user, *role),
        Event::ReactionAdded { target, user, emoji } => reaction(*target, user, Some(emoji.clone())),
        Event::ReactionRemoved { target, user } => reaction(*target, user, None),
        Event::Marked { user, mark } => Some(After::Receipt {
            user: user.clone(),
            mark: *mark,
        }),
        _ => None,
    })
}
