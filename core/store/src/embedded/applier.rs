//! From the log to the views: the queue between them, and the thread that empties it.
//!
//! A read of one conversation waits until everything of that conversation that was committed when it began is in the views, any
//! other read until everything is. That wait wakes the applier at once; without readers the applier takes what has gathered in
//! an interval, since larger batches write fewer pages. A plugin's key and a single message are read past the queue
//! ([`Backlog::kv`], [`Backlog::message`]): hooks ask for them in the middle of a conversation, which always has something waiting.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use haggle_model::{ConversationId, Entry, KvChange, MessageId, PluginId, Pos};
use parking_lot::{Condvar, Mutex};

use super::{Shared, row};
use crate::{AppendError, StoreError};

/// Entries of one transaction of the views.
const BATCH_ROWS_MAX: usize = 8_192;
/// How long the applier waits before it tries again what failed.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// Entries of a conversation that are looked through for one message; a question about an older one waits for the views.
pub(super) const LOOKED_THROUGH_MAX: usize = 256;
/// What an entry in the queue takes besides its bytes in the log.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Entries that are committed and not yet in the views.
pub(super) struct Backlog {
    state: Mutex<State>,
    /// The applier has something to do.
    work: Condvar,
    /// `applied` has grown, or the applier has failed.
    progress: Condvar,
    bytes_max: usize,
    wait_max: Duration,
    /// How often the views have been started over.
    rebuilds: AtomicU64,
}

struct State {
    /// The entries after `applied`, but for the first ones while catching up.
    queue: VecDeque<Queued>,
    bytes: usize,
    /// What each conversation has in the queue.
    pending: HashMap<ConversationId, Pending, RandomState>,
    committed: Pos,
    applied: Pos,
    /// A reader waits for this position.
    wanted: Pos,
    /// The applier reads from the log itself until it has reached `committed`; nothing is queued meanwhile.
    catching_up: bool,
    failure: Option<StoreError>,
    stopping: bool,
}

/// What one conversation has in the queue.
#[derive(Default)]
struct Pending {
    last: Pos,
    /// The entries among them that change keys of plugins.
    kv: Vec<(Pos, Arc<Entry>)>,
}

/// The conversations whose entries alone decide an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    /// Any of them.
    All,
    /// This one.
    Of(ConversationId),
    /// These two.
    OfBoth(ConversationId, ConversationId),
}

/// What the queue says of a plugin's key.
pub(super) enum QueuedKv {
    /// Its last change is not in the views yet.
    Changed(KvChange),
    /// Nothing that the views miss changes it.
    Unchanged,
}

/// What the queue says of a message.
pub(super) enum QueuedMessage {
    /// This entry made it, and nothing that the views miss has changed it since.
    Created(Arc<Entry>),
    /// Nothing that the views miss is about it.
    Unchanged,
}

struct Queued {
    pos: Pos,
    /// The entry of the same conversation before this one, if there was one in the queue.
    before: Pos,
    entry: Arc<Entry>,
    bytes: usize,
}

impl Backlog {
    /// With views that go up to `applied` of a log that goes up to `committed`.
    pub(super) fn new(applied: Pos, committed: Pos, bytes_max: usize, wait_max: Duration) -> Backlog {
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            pending: HashMap::default(),
            committed,
            applied,
            wanted: Pos(0),
            catching_up: applied < committed,
            failure: None,
            stopping: false,
        };
        Backlog {
            state: Mutex::new(state),
            work: Condvar::new(),
            progress: Condvar::new(),
            bytes_max,
            wait_max,
            rebuilds: AtomicU64::new(0),
        }
    }

    /// Waits while the queue is full; an error means that nothing may be appended now.
    pub(super) fn wait_for_room(&self) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if state.bytes < self.bytes_max {
            return Ok(());
        }
        let deadline = Instant::now() + self.wait_max;
        while state.bytes >= self.bytes_max {
            self.work.notify_one();
            if self.progress.wait_until(&mut state, deadline).timed_out() {
                let reason = state
                    .failure
                    .as_ref()
                    .map_or_else(|| "the applier is too slow".to_string(), StoreError::to_string);
                return Err(AppendError::Unavailable(format!("too much is not yet in the views: {reason}")));
            }
        }
        Ok(())
    }

    /// Takes what was just committed after `base`; it took `bytes` in the log.
    pub(super) fn push(&self, base: Pos, entries: Vec<Arc<Entry>>, bytes: usize) {
        let mut state = self.state.lock();
        let each = bytes / entries.len().max(1) + ENTRY_OVERHEAD_BYTES;
        state.committed = Pos(base.0 + entries.len() as u64);
        if state.catching_up {
            return;
        }
        let idle = state.queue.is_empty();
        let mut pos = base;
        for entry in entries {
            pos = pos.next();
            state.bytes += each;
            let pending = state.pending.entry(entry.conversation).or_default();
            let before = std::mem::replace(&mut pending.last, pos);
            if !entry.effects.kv.is_empty() {
                pending.kv.push((pos, entry.clone()));
            }
            state.queue.push_back(Queued {
                pos,
                before,
                entry,
                bytes: each,
            });
        }
        if idle {
            self.work.notify_one();
        }
    }

    /// The log was found to go up to `committed`, perhaps further than what was pushed.
    pub(super) fn committed_up_to(&self, committed: Pos) {
        let mut state = self.state.lock();
        if committed != state.committed {
            state.committed = committed;
            state.catch_up();
        }
        self.work.notify_one();
    }

    /// Starts over with empty views.
    pub(super) fn start_over(&self) {
        let mut state = self.state.lock();
        state.applied = Pos(0);
        state.failure = None;
        state.catch_up();
        self.rebuilds.fetch_add(1, Ordering::Release);
        self.work.notify_one();
    }

    /// How often the views have been started over: what was waited for before the last time is no longer in them. Does not
    /// change while a reader is open.
    pub(super) fn rebuilds(&self) -> u64 {
        self.rebuilds.load(Ordering::Acquire)
    }

    /// Waits until what was committed by now, of one conversation or of all, is in the views.
    pub(super) fn wait_applied(&self, of: About) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let target = state.needed(of);
        while state.applied < target {
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.stopping {
                return Err(StoreError::Unavailable("the store is closing".to_string()));
            }
            if state.wanted < target {
                state.wanted = target;
                self.work.notify_one();
            }
            self.progress.wait(&mut state);
        }
        Ok(())
    }

    /// There is nothing to wait for.
    pub(super) fn is_applied(&self, of: About) -> bool {
        let state = self.state.lock();
        state.applied >= state.needed(of)
    }

    /// What is known of a key without any wait; `None` while the queue does not hold all that the views miss.
    pub(super) fn kv(&self, scope: ConversationId, plugin: &PluginId, key: &str) -> Option<QueuedKv> {
        let state = self.state.lock();
        if state.catching_up {
            return None;
        }
        let queued = state.pending.get(&scope).map_or(&[][..], |pending| &pending.kv);
        let mut changes = queued.iter().rev().flat_map(|(_, entry)| entry.effects.kv.iter().rev());
        let last = changes.find(|change| change.plugin == *plugin && change.key == key);
        Some(last.map_or(QueuedKv::Unchanged, |change| QueuedKv::Changed(change.clone())))
    }

    /// What is known of a message without any wait; `None` while the queue does not hold all that the views miss, or holds a
    /// change of it, or too much else.
    pub(super) fn message(&self, id: MessageId) -> Option<QueuedMessage> {
        let state = self.state.lock();
        if state.catching_up {
            return None;
        }
        let mut next = state.pending.get(&id.conversation).and_then(|pending| state.queued(pending.last));
        for _ in 0..LOOKED_THROUGH_MAX {
            let Some(Queued { entry, before, .. }) = next else {
                return Some(QueuedMessage::Unchanged);
            };
            let is_about_it = entry.event.message_seq(entry.seq) == Some(id.seq);
            next = state.queued(*before);
            if is_about_it {
                // Of a seq that stands twice the first one counts, which the views see to.
                let is_in_order = next.is_none_or(|before| before.entry.seq < entry.seq);
                return (entry.seq == id.seq && is_in_order).then(|| QueuedMessage::Created(entry.clone()));
            }
        }
        None
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.work.notify_all();
        self.progress.notify_all();
    }

    /// Waits until there is something to apply and somebody wants it or `interval` has passed; `false` when it is time to stop.
    fn wait_for_work(&self, interval: Duration) -> bool {
        let mut state = self.state.lock();
        while state.committed == state.applied && !state.stopping {
            self.work.wait(&mut state);
        }
        let deadline = Instant::now() + interval;
        while state.is_patient(self.bytes_max) {
            if self.work.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        !state.stopping
    }

    /// What comes next; where it is not queued, up to which position to read it from the log.
    fn next(&self) -> (Pos, Pos, Vec<Arc<Entry>>) {
        let state = self.state.lock();
        let queued = state.queue.front().is_some_and(|first| first.pos == state.applied.next());
        let batch = if queued {
            state.queue.iter().take(BATCH_ROWS_MAX).map(|queued| queued.entry.clone()).collect()
        } else {
            Vec::new()
        };
        (state.applied, state.committed, batch)
    }

    fn applied(&self, applied: Pos) {
        let mut state = self.state.lock();
        state.applied = applied;
        state.failure = None;
        state.catching_up &= applied < state.committed;
        while state.queue.front().is_some_and(|first| first.pos <= applied) {
            let gone = state.queue.pop_front().expect("seen above");
            state.bytes -= gone.bytes;
        }
        if state.queue.is_empty() {
            state.pending.clear();
        } else {
            state.pending.retain(|_, pending| pending.last > applied);
            state
                .pending
                .values_mut()
                .for_each(|pending| pending.kv.retain(|(pos, _)| *pos > applied));
        }
        self.progress.notify_all();
    }

    fn failed(&self, error: StoreError) {
        let mut state = self.state.lock();
        state.failure = Some(error);
        self.progress.notify_all();
        if !state.stopping {
            self.work.wait_for(&mut state, RETRY_AFTER);
        }
    }
}

impl State {
    /// How far the views must go for a read. Where nothing is missing that is where they are: a rebuild that begins now makes
    /// them fall back.
    fn needed(&self, of: About) -> Pos {
        if self.catching_up {
            return self.committed;
        }
        let last = |id| self.pending.get(&id).map_or(self.applied, |pending| pending.last);
        match of {
            About::All => self.committed,
            About::Of(id) => last(id),
            About::OfBoth(one, other) => last(one).max(last(other)),
        }
    }

    /// The entry at `pos`, if it is in the queue.
    fn queued(&self, pos: Pos) -> Option<&Queued> {
        let first = self.queue.front()?.pos;
        self.queue.get(usize::try_from(pos.0.checked_sub(first.0)?).ok()?)
    }

    fn catch_up(&mut self) {
        self.pending.clear();
        self.queue.clear();
        self.bytes = 0;
        self.catching_up = self.applied < self.committed;
    }

    /// Nobody waits: gather more.
    fn is_patient(&self, bytes_max: usize) -> bool {
        self.wanted <= self.applied && !self.stopping && !self.catching_up && self.bytes < bytes_max / 2
    }
}

/// The applier's thread.
pub(super) fn run(shared: &Arc<Shared>, interval: Duration) {
    while shared.backlog.wait_for_work(interval) {
        if let Err(error) = apply_some(shared) {
            tracing::error!(%error, "the views cannot follow the log; it is tried again");
            shared.backlog.failed(error);
        }
    }
}

/// Applies one batch. The order of the locks (files, views, backlog) is the same wherever they are taken.
fn apply_some(shared: &Shared) -> Result<(), StoreError> {
    let _open = shared.readers.keep_open();
    let moving = shared.readers.moving();
    let mut views = shared.views.lock();
    let (applied, committed, mut entries) = shared.backlog.next();
    if applied == committed {
        return Ok(());
    }
    if entries.is_empty() {
        let rows = row::read_after(views.connection()?, applied, BATCH_ROWS_MAX.min((committed.0 - applied.0) as usize))?;
        entries = rows.into_iter().map(|(_, entry)| entry).collect();
    }
    let Some(last) = entries.last() else {
        return Err(StoreError::Corrupt(format!("log.db: position {} is missing", applied.next())));
    };
    let last_ts = last.ts;
    let mut batch = views.batch()?;
    batch.apply(applied, &entries)?;
    let pos = Pos(applied.0 + entries.len() as u64);
    batch.commit(pos, last_ts)?;
    drop(views);
    drop(moving); // before those who wait for it are told: they begin to read
    shared.backlog.applied(pos);
    Ok(())
}
