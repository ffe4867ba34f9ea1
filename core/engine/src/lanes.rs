//! The single writer of a shard: takes what is staged, appends it in one durable step; then its publisher answers and publishes.
//!
//! A lane is a thread of its own. The next commit starts when the last one ends, but not within [`EngineOptions::commit_interval`] of its
//! beginning, with whatever has been staged meanwhile. The thread sleeps when nothing is staged; the first thing staged after that
//! wakes it once the tasks that are ready have run, so that what they stage is in the same commit.
//!
//! What is committed goes to the publisher, one task on the runtime: the thread crosses over once per commit, and connections
//! are woken from where they run.
//!
//! [`EngineOptions::commit_interval`]: crate::EngineOptions::commit_interval

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use haggle_model::{Address, Entry, ErrorCode, Event, Micros, Pos, Shard};
use haggle_store::{AppendError, Tail};
use parking_lot::{Condvar, Mutex};
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, yield_now},
};

use crate::{
    Inner, Outcome, Refusal, Reply,
    conversation::{Conversation, staged_entries, unavailable},
    metrics::Metrics,
    publish,
    transaction::{Emit, StagedEntry, Unsent},
};

/// Entries of one group commit. More wait for the next.
const GROUP_ENTRIES_MAX: usize = 4_096;
/// Commits that wait to be published; while more would, the lane waits.
const UNPUBLISHED_MAX: usize = 4;
/// Commands that are answered and published before other tasks get their turn.
const PUBLISHED_AT_ONCE: usize = 256;
/// Entries that feeds find in memory, and their bytes.
const RECENT_ENTRIES_MAX: usize = 4_096;
const RECENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the lane waits before it tries a failed store again.
const RECOVERY_PAUSE: Duration = Duration::from_millis(500);

/// A transaction (or, without entries, an answer) on its way to disk.
pub(crate) struct Staged {
    pub ticket: u64,
    pub conversation: Arc<Conversation>,
    pub entries: Vec<StagedEntry>,
    pub emits: Vec<Emit>,
    pub reply: Option<(Reply, Result<Outcome, Refusal>)>,
    pub bytes: usize,
}

#[derive(Default)]
struct Queue {
    staged: Vec<Staged>,
    bytes: usize,
    /// Of the last thing staged.
    ticket: u64,
    ts: Micros,
    /// The thread sleeps.
    parked: bool,
    closing: bool,
    failed: bool,
}

/// Who is told of a commit. A feed that nobody needs costs the lane nothing.
#[derive(Default)]
pub(crate) struct News {
    /// Something is for another conversation.
    pub outgoing: Notify,
    /// Something was written, and there are plugins with after-hooks.
    pub after: Notify,
    /// A timer was set or removed.
    pub timers: Notify,
    pub has_consumers: AtomicBool,
}

/// The end of the log as feeds need it, so that they read only what may concern them.
#[derive(Default)]
struct Recent {
    /// Everything up to here is durable.
    end: Pos,
    /// The last entry with an item for another conversation stands here or before.
    outgoing: Pos,
    /// The entries up to `end`, where there are plugins with after-hooks.
    entries: VecDeque<(Arc<Entry>, usize)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, entry: &Arc<Entry>, bytes: usize, keep: bool) {
        self.end = self.end.next();
        if !entry.effects.outgoing.is_empty() {
            self.outgoing = self.end;
        }
        if !keep {
            return self.forget();
        }
        self.entries.push_back((entry.clone(), bytes));
        self.bytes += bytes;
        while self.entries.len() > RECENT_ENTRIES_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some((_, bytes)) = self.entries.pop_front() else { return };
            self.bytes -= bytes;
        }
    }

    fn forget(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Entries after `after`, if all of them are here.
    fn after(&self, after: Pos, limit: usize) -> Option<Vec<(Pos, Arc<Entry>)>> {
        let first = self.end.0 + 1 - self.entries.len() as u64;
        let skip = (after.0 + 1).checked_sub(first)?;
        let entries = self.entries.iter().skip(skip as usize).take(limit);
        Some((after.0 + 1..).map(Pos).zip(entries.map(|(entry, _)| entry.clone())).collect())
    }
}

/// What the publisher does next.
enum Committed {
    /// Answers and publishes what is durable now; `ticket` is that of its last.
    Group { staged: Vec<Staged>, ticket: u64 },
    /// Publishes what an append wrote although it failed: the entries after `after` up to `end`.
    Found { after: Pos, end: Pos, ticket: u64 },
}

/// One shard's writer.
pub(crate) struct Lane {
    pub shard: Shard,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Something was staged while the thread sleeps.
    first: Notify,
    committed: AtomicU64,
    published: AtomicU64,
    failed: AtomicBool,
    bytes_max: usize,
    /// From the beginning of a commit to that of the next, at least.
    commit_interval: Duration,
    /// What is new for feeds: told after commits that matter to them.
    pub news: News,
    recent: Mutex<Recent>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    publisher: Mutex<Option<JoinHandle<()>>>,
}

impl Lane {
    /// A lane that continues after `tail`; [`Lane::start`] makes it run.
    pub fn new(shard: Shard, tail: Tail, bytes_max: usize, commit_interval: Duration) -> Arc<Lane> {
        Arc::new(Lane {
            shard,
            queue: Mutex::new(Queue {
                ts: tail.ts,
                ..Queue::default()
            }),
            wake: Condvar::new(),
            first: Notify::new(),
            committed: AtomicU64::new(0),
            published: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            bytes_max,
            commit_interval,
            news: News::default(),
            // What stands in the log already may be for other conversations.
            recent: Mutex::new(Recent {
                end: tail.pos,
                outgoing: tail.pos,
                ..Recent::default()
            }),
            thread: Mutex::new(None),
            publisher: Mutex::new(None),
        })
    }

    /// Starts the writer thread and its publisher.
    pub fn start(self: &Arc<Self>, engine: &Arc<Inner>, tail: Tail) {
        let (to_publish, committed) = mpsc::channel(UNPUBLISHED_MAX);
        engine.spawn_until_closed(wake_when_ready_tasks_ran(self.clone()));
        *self.publisher.lock() = Some(engine.runtime.spawn(publish_all(self.clone(), Arc::downgrade(engine), committed)));
        let writer = Writer {
            lane: self.clone(),
            engine: Arc::downgrade(engine),
            runtime: engine.runtime.clone(),
            metrics: engine.metrics.clone(),
            to_publish,
            tail,
        };
        let thread = std::thread::Builder::new()
            .name(format!("lane-{}", self.shard))
            .spawn(move || writer.run());
        *self.thread.lock() = thread.map_err(|error| tracing::error!(%error, "cannot start a lane's thread")).ok();
    }

    /// The last ticket that is durable (or has been refused for ever).
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Everything staged has been written, answered and published.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.staged.is_empty() && self.published.load(Ordering::Acquire) >= queue.ticket
    }

    /// Makes everybody who reads the log look now.
    pub fn hurry(&self) {
        self.news.timers.notify_one();
        self.news.outgoing.notify_one();
        self.news.after.notify_waiters();
    }

    /// The store takes no writes now.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Stages entries: gives them their time and a ticket. Call under the conversation's lock, so that the order here is that of the seqs.
    #[allow(
        clippy::type_complexity,
        clippy::result_large_err,
        reason = "the refused transaction goes back with its reply"
    )]
    pub fn push(
        &self,
        entries: Vec<Unsent>,
        build: impl FnOnce(u64, Vec<StagedEntry>) -> Staged,
    ) -> Result<(u64, Vec<Arc<Entry>>), (Refusal, Option<Staged>)> {
        let mut queue = self.queue.lock();
        if let Some(refusal) = self.refuses(&queue) {
            return Err((refusal, Some(build(0, Vec::new()))));
        }
        queue.ticket += 1;
        let ticket = queue.ticket;
        let staged = staged_entries(entries, &mut queue.ts, now_micros());
        let entries = staged.iter().map(|staged| staged.entry.clone()).collect();
        let staged = build(ticket, staged);
        queue.bytes += staged.bytes;
        self.put(&mut queue, staged);
        Ok((ticket, entries))
    }

    /// An answer that writes nothing and leaves after everything staged before it.
    pub fn answer(&self, conversation: Arc<Conversation>, reply: Reply, answer: Result<Outcome, Refusal>) {
        let mut queue = self.queue.lock();
        if queue.failed || queue.closing {
            drop(queue);
            return reply(Err(unavailable()));
        }
        let ticket = queue.ticket;
        self.put(
            &mut queue,
            Staged {
                ticket,
                conversation,
                entries: Vec::new(),
                emits: Vec::new(),
                reply: Some((reply, answer)),
                bytes: 0,
            },
        );
    }

    fn put(&self, queue: &mut Queue, staged: Staged) {
        queue.staged.push(staged);
        if std::mem::take(&mut queue.parked) {
            self.first.notify_one();
        }
    }

    /// Up to where the log is durable, if nothing after `pos` up to there is for another conversation.
    pub fn nothing_outgoing_after(&self, pos: Pos) -> Option<Pos> {
        let recent = self.recent.lock();
        (recent.outgoing <= pos && pos < recent.end).then_some(recent.end)
    }

    /// Entries after `after`, at most `limit`, if all of them are in memory.
    pub fn recent(&self, after: Pos, limit: usize) -> Option<Vec<(Pos, Arc<Entry>)>> {
        self.recent.lock().after(after, limit)
    }

    fn refuses(&self, queue: &Queue) -> Option<Refusal> {
        if queue.failed {
            Some(read_only())
        } else if queue.closing {
            Some(unavailable())
        } else if queue.bytes > self.bytes_max {
            let message = format!("{} bytes wait for the disk, limits.lane_bytes_max is {}", queue.bytes, self.bytes_max);
            Some(Refusal::new(ErrorCode::Overloaded, message).after(Duration::from_secs(1)))
        } else {
            None
        }
    }

    /// Waits until everything that the thread has committed is answered and published; after [`Lane::close`].
    pub async fn publisher_ended(&self) {
        let publisher = self.publisher.lock().take();
        if let Some(publisher) = publisher
            && let Err(error) = publisher.await
        {
            tracing::error!(%error, "a lane's publisher ended early");
        }
    }

    /// Writes what is staged, then ends the thread. Blocks.
    pub fn close(&self) {
        {
            let mut queue = self.queue.lock();
            queue.closing = true;
            queue.parked = false;
            self.wake.notify_one();
        }
        if let Some(thread) = self.thread.lock().take() {
            // The thread catches its own errors; a panic there has been printed already.
            let _ = thread.join();
        }
    }

    /// What is staged, not before `earliest` and as soon as there is something. Nothing after `idle`; `None` when the lane is closed.
    fn take(&self, earliest: Instant, idle: Duration) -> Option<Vec<Staged>> {
        let mut queue = self.queue.lock();
        while !queue.closing && Instant::now() < earliest {
            self.wake.wait_until(&mut queue, earliest);
        }
        while queue.staged.is_empty() {
            if queue.closing {
                return None;
            }
            queue.parked = true;
            if self.wake.wait_for(&mut queue, idle).timed_out() {
                queue.parked = false;
                return Some(Vec::new());
            }
        }
        queue.parked = false;
        let mut entries = 0;
        let fits = queue.staged.iter().position(|staged| {
            entries += staged.entries.len();
            entries > GROUP_ENTRIES_MAX
        });
        let take = fits.unwrap_or(queue.staged.len()).max(1);
        let rest = queue.staged.split_off(take);
        let group = std::mem::replace(&mut queue.staged, rest);
        queue.bytes -= group.iter().map(|staged| staged.bytes).sum::<usize>();
        Some(group)
    }
}

/// The refusal while the store takes no writes.
pub(crate) fn read_only() -> Refusal {
    Refusal::new(ErrorCode::ReadOnly, "the store takes no writes; the operator has been told").after(Duration::from_secs(5))
}

fn now_micros() -> Micros {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_micros() as Micros)
}

/// Lets the thread begin when the tasks that are ready have run: what they stage is in the same commit.
async fn wake_when_ready_tasks_ran(lane: Arc<Lane>) {
    loop {
        lane.first.notified().await;
        yield_now().await;
        lane.wake.notify_one();
    }
}

struct Writer {
    lane: Arc<Lane>,
    engine: Weak<Inner>,
    runtime: tokio::runtime::Handle,
    metrics: Arc<Metrics>,
    to_publish: mpsc::Sender<Committed>,
    tail: Tail,
}

impl Writer {
    fn run(mut self) {
        let mut earliest = Instant::now();
        // The idle time only bounds how long a forgotten engine keeps its thread.
        while let Some(group) = self.lane.take(earliest, Duration::from_secs(5)) {
            let Some(engine) = self.engine.upgrade() else { return };
            if !group.is_empty() {
                earliest = Instant::now() + self.lane.commit_interval;
                self.commit(&engine, group);
            }
        }
    }

    fn commit(&mut self, engine: &Arc<Inner>, group: Vec<Staged>) {
        let entries: Vec<Arc<Entry>> = group
            .iter()
            .flat_map(|staged| &staged.entries)
            .map(|staged| staged.entry.clone())
            .collect();
        if !entries.is_empty() {
            let (started, count) = (Instant::now(), entries.len());
            match self.runtime.block_on(engine.store.append(self.lane.shard, self.tail, entries)) {
                Ok(tail) => self.tail = tail,
                Err(error) => return self.fail(engine, group, &error),
            }
            self.metrics.commit_seconds.record(started.elapsed().as_secs_f64());
            self.metrics.commit_entries.record(count as f64);
            self.remember(&group);
        }
        let ticket = group.last().map_or(0, |staged| staged.ticket);
        self.lane.committed.store(ticket, Ordering::Release);
        self.publish(Committed::Group { staged: group, ticket });
    }

    fn remember(&self, group: &[Staged]) {
        let keep = self.lane.news.has_consumers.load(Ordering::Relaxed);
        let mut recent = self.lane.recent.lock();
        for staged in group {
            let bytes = staged.bytes / staged.entries.len().max(1);
            staged.entries.iter().for_each(|staged| recent.push(&staged.entry, bytes, keep));
        }
    }

    fn publish(&self, committed: Committed) {
        if self.to_publish.blocking_send(committed).is_err() {
            // It ends before this thread only with its runtime or by a mistake of ours: whoever is still there is not left waiting.
            tracing::error!(shard = %self.lane.shard, "the publisher of a lane is gone; no writes until the server starts again");
            self.lane.queue.lock().failed = true;
            self.lane.failed.store(true, Ordering::Relaxed);
            self.metrics.store_failed.set(1.0);
        }
    }

    /// Nothing of the group, and nothing staged on top of it, may be acknowledged; memory is reloaded from what is durable.
    fn fail(&mut self, engine: &Arc<Inner>, group: Vec<Staged>, error: &AppendError) {
        tracing::error!(shard = %self.lane.shard, %error, "the store refused an append; no writes until it has recovered");
        self.lane.failed.store(true, Ordering::Relaxed);
        self.metrics.store_failed.set(1.0);
        let rest = {
            let mut queue = self.lane.queue.lock();
            queue.failed = true;
            queue.bytes = 0;
            std::mem::take(&mut queue.staged)
        };
        engine.warm.kill(self.lane.shard);
        for staged in group.into_iter().chain(rest) {
            if let Some((reply, _)) = staged.reply {
                reply(Err(unavailable()));
            }
        }
        self.recover(engine);
    }

    fn recover(&mut self, engine: &Arc<Inner>) {
        let was = self.tail.pos;
        loop {
            std::thread::sleep(RECOVERY_PAUSE);
            if self.lane.queue.lock().closing {
                return;
            }
            match self.runtime.block_on(self.prove(engine)) {
                Ok(tail) => {
                    self.tail = tail;
                    break;
                }
                Err(error) => tracing::warn!(shard = %self.lane.shard, %error, "the store has not recovered yet"),
            }
        }
        // What got warm meanwhile may have been read before the store knew what it holds.
        engine.warm.kill(self.lane.shard);
        {
            let mut queue = self.lane.queue.lock();
            queue.failed = false;
            queue.ts = queue.ts.max(self.tail.ts);
            self.lane.committed.store(queue.ticket, Ordering::Release);
        }
        self.lane.failed.store(false, Ordering::Relaxed);
        self.metrics.store_failed.set(0.0);
        tracing::info!(shard = %self.lane.shard, "the store takes writes again");
        {
            // What the failed append wrote after all, a feed reads from the log.
            let mut recent = self.lane.recent.lock();
            recent.forget();
            (recent.end, recent.outgoing) = (self.tail.pos, self.tail.pos);
        }
        let ticket = self.lane.committed();
        let end = self.tail.pos;
        self.publish(Committed::Found { after: was, end, ticket });
    }

    /// Reopens the log and writes one entry that says nothing.
    async fn prove(&self, engine: &Inner) -> Result<Tail, String> {
        let tail = engine.store.recover(self.lane.shard).await.map_err(|error| error.to_string())?;
        let noop = Entry {
            ts: now_micros().max(tail.ts + 1),
            at: engine.clock.now(),
            conversation: Default::default(),
            seq: 0,
            n: 0,
            actor: None,
            command: None,
            digest: 0,
            origin: Vec::new(),
            event: Event::Noop,
            effects: Default::default(),
            redacted: false,
        };
        engine
            .store
            .append(self.lane.shard, tail, vec![Arc::new(noop)])
            .await
            .map_err(|error| error.to_string())
    }
}

/// The publisher: answers every command of a commit, then publishes what it wrote, commit after commit.
async fn publish_all(lane: Arc<Lane>, engine: Weak<Inner>, mut committed: mpsc::Receiver<Committed>) {
    while let Some(next) = committed.recv().await {
        let Some(engine) = engine.upgrade() else { return };
        let ticket = match next {
            Committed::Group { staged, ticket } => {
                answer_and_publish(&lane, &engine, staged).await;
                ticket
            }
            Committed::Found { after, end, ticket } => {
                republish(&engine, lane.shard, after, end).await;
                lane.news.outgoing.notify_one();
                lane.news.after.notify_waiters();
                ticket
            }
        };
        lane.published.store(ticket, Ordering::Release);
    }
}

async fn answer_and_publish(lane: &Lane, engine: &Inner, mut group: Vec<Staged>) {
    let (mut outgoing, mut timers, mut wrote) = (false, false, false);
    for (index, chunk) in group.chunks_mut(PUBLISHED_AT_ONCE).enumerate() {
        if index > 0 {
            yield_now().await;
        }
        for staged in chunk.iter_mut() {
            if let Some((reply, answer)) = staged.reply.take() {
                reply(answer);
            }
        }
        for staged in chunk {
            let founders = publish::founders(&staged.entries);
            for entry in staged.entries.drain(..) {
                wrote = true;
                outgoing |= !entry.entry.effects.outgoing.is_empty();
                timers |= !entry.entry.effects.timers.is_empty();
                engine.metrics.committed(&entry.entry.event);
                let shared_marks_max = engine.limits.shared_marks_participants_max;
                publish::entry(&engine.hub, &staged.conversation, entry, &founders, shared_marks_max);
            }
            for emit in staged.emits.drain(..) {
                publish::emit(&engine.hub, emit);
            }
        }
    }
    if outgoing {
        lane.news.outgoing.notify_one();
    }
    if timers {
        lane.news.timers.notify_one();
    }
    if wrote && lane.news.has_consumers.load(Ordering::Relaxed) {
        lane.news.after.notify_waiters();
    }
}

/// What was appended although the append failed was never published: clients would learn of it only with the next event.
async fn republish(engine: &Arc<Inner>, shard: Shard, mut after: Pos, end: Pos) {
    while after < end {
        let page = match engine.store.read(shard, after, (end.0 - after.0) as usize).await {
            Ok(page) => page,
            Err(error) => {
                return tracing::warn!(%shard, %error, "cannot publish what a failed append wrote; clients learn of it by their next resume");
            }
        };
        let Some((last, _)) = page.last() else { return };
        after = *last;
        for (pos, entry) in page {
            if entry.seq > 0
                && let Err(error) = republish_one(engine, entry).await
            {
                tracing::warn!(%shard, %pos, %error, "cannot publish an entry of a failed append");
            }
        }
    }
}

async fn republish_one(engine: &Arc<Inner>, entry: Arc<Entry>) -> Result<(), haggle_store::StoreError> {
    let Some(row) = engine.store.conversation(entry.conversation).await? else {
        return Ok(());
    };
    let message = match entry.event.message_seq(entry.seq) {
        Some(seq) => engine.store.message(entry.conversation.message(seq)).await?.map(Arc::new),
        None => None,
    };
    let (users, founders) = match &row.address {
        Address::Personal(user) => (vec![user.clone()], Vec::new()),
        _ => {
            let mut members = engine.store.members(entry.conversation, None, engine.limits.participants_max).await?;
            members.retain(|member| member.left_seq.is_none_or(|left| left >= entry.seq));
            let is_new = matches!(entry.event, Event::ConversationCreated(_));
            let (there, later): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.joined_seq <= entry.seq);
            let names = |members: Vec<haggle_store::MemberRow>| members.into_iter().map(|member| member.user).collect();
            (names(there), if is_new { names(later) } else { Vec::new() })
        }
    };
    publish::event(
        &engine.hub,
        row.kind(),
        &users,
        &founders,
        StagedEntry {
            entry: entry.clone(),
            message,
            is_read: true,
        },
    );
    if let Event::ParticipantLeft { user } = &entry.event {
        engine.hub.each(user, |connection| connection.ended(entry.conversation));
    }
    Ok(())
}
