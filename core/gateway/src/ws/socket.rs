//! What lanes, replays and the connection's own task share of one connection.
//!
//! Everything that may be pushed goes through one short lock; nothing here waits or calls the engine. The task is woken only
//! when it is not going to look again anyway.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    task::Waker,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use haggle_engine::{Published, Push, Subscriber, Transport, What};
use haggle_model::{ConversationId, Millis, Seq, UserId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{
    encode::{self, NATIVE},
    frame,
    metrics::OUTBOX_BYTES_RECORDED_MIN,
    outbox::{Batch, Bounds, Offer, Outbox, Topic},
    subscription::{Reached, Subscriptions, Verdict},
};
use crate::Gateway;

/// Conversations whose heads wait to be told; above it the whole list is sent again.
const HEADS_WAITING_MAX: usize = 256;

/// One connection, as everything but its own task sees it.
pub(super) struct Socket {
    /// Its key in [`super::Connections`].
    pub key: u64,
    /// Its id for clients, plugins and logs.
    pub id: Arc<str>,
    pub gateway: Arc<Gateway>,
    /// The user and its personal conversation, from the login on.
    identity: OnceLock<(UserId, ConversationId)>,
    waker: AtomicWaker,
    /// Told when the outbox has become half empty.
    room: Notify,
    /// Requests without an answer.
    in_flight: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    outbox: Outbox,
    subscriptions: Subscriptions,
    /// Ordered; conversations that are not subscribed and have a new head.
    heads: Vec<NewHead>,
    heads_missed: bool,
    roles: Option<Arc<[String]>>,
    /// Durable events are not queued until the outbox is empty and the gaps are told.
    lagging: bool,
    /// Marks were dropped; they are sent again when the outbox is empty.
    marks_missed: bool,
    /// The task is going to look at all this again.
    awake: bool,
    ticked: bool,
    closed: bool,
    close: Option<&'static str>,
}

/// A conversation that is not subscribed, the seq of its newest event and when that happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewHead {
    pub conversation: ConversationId,
    pub seq: Seq,
    pub at: Option<Millis>,
}

/// What the task is asked to do besides writing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// A deadline may have come.
    pub ticked: bool,
    /// Somebody wants the connection closed.
    pub close: Option<&'static str>,
    /// So much waits that no more requests are to be read.
    pub crowded: bool,
}

/// What the task is to find out when the outbox has been emptied.
#[derive(Debug, Default)]
pub(super) struct Refresh {
    /// Conversations whose marks are to be sent again.
    pub marks: Vec<ConversationId>,
    /// Conversations with a new head.
    pub heads: Vec<NewHead>,
    /// Too many heads changed: send the list again.
    pub all_heads: bool,
    /// There are heads that were not handed out.
    pub heads_wait: bool,
}

/// What became of a replayed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replayed {
    Queued,
    Full,
    Ended,
}

/// The subscription or the connection is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

impl State {
    fn has_heads(&self) -> bool {
        !self.heads.is_empty() || self.heads_missed
    }
}

impl Socket {
    /// A connection before its login.
    pub fn new(gateway: Arc<Gateway>) -> Arc<Socket> {
        let (key, id) = gateway.connections.name();
        Arc::new(Socket {
            key,
            id,
            gateway,
            identity: OnceLock::new(),
            waker: AtomicWaker::new(),
            room: Notify::new(),
            in_flight: AtomicU32::new(0),
            state: Mutex::default(),
        })
    }

    /// Makes it known whose it is; later calls only change the roles.
    pub fn identify(&self, user: UserId, personal: ConversationId, roles: Arc<[String]>) {
        self.state.lock().roles = Some(roles);
        // A second login of the same user finds the same identity here.
        let _ = self.identity.set((user, personal));
    }

    /// Whose it is, from the login on.
    pub fn known_user(&self) -> Option<&UserId> {
        self.identity.get().map(|(user, _)| user)
    }

    /// The personal conversation, from the login on.
    pub fn personal(&self) -> Option<ConversationId> {
        self.identity.get().map(|(_, personal)| *personal)
    }

    fn bounds(&self) -> Bounds {
        let settings = &self.gateway.settings.ws;
        Bounds {
            bytes_max: settings.outbox_bytes_max,
            frames_max: settings.outbox_frames_max,
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = !std::mem::replace(&mut state.awake, true);
        drop(state);
        if asleep {
            self.waker.wake();
        }
    }

    /// Queues a control frame whose JSON `write` appends.
    pub fn control(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state.lock();
        if !state.closed {
            state.outbox.control(write);
            self.wake(state);
        }
    }

    /// Answers a ping.
    pub fn pong(&self, payload: &[u8]) {
        let mut state = self.state.lock();
        if !state.closed {
            state.outbox.pong(payload);
            self.wake(state);
        }
    }

    // Requests in flight.

    /// Counts a request, unless too many wait for their answer.
    pub fn begin_request(&self) -> bool {
        let max = u32::try_from(self.gateway.settings.ws.requests_in_flight_max).unwrap_or(u32::MAX);
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
            .is_ok()
    }

    /// Ends a request, with its answer if it wants one.
    pub fn end_request(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.control(write);
    }

    /// Ends a request that was answered before.
    pub fn end_answered_request(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.wake(self.state.lock());
    }

    /// Requests that wait for their answer.
    pub fn requests_in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    // Subscriptions.

    /// Registers a subscription before anything is checked; its generation, or `None` when there are too many.
    pub fn register(&self, conversation: ConversationId) -> Option<u32> {
        let mut state = self.state.lock();
        let subscriptions = &mut state.subscriptions;
        let own_stream = usize::from(self.personal().is_some_and(|personal| subscriptions.contains(personal)));
        if !subscriptions.contains(conversation) && subscriptions.len() - own_stream >= self.gateway.settings.ws.subscriptions_max {
            return None;
        }
        Some(subscriptions.register(conversation))
    }

    /// Ends a subscription; the own stream stays.
    pub fn unsubscribe(&self, conversation: ConversationId) {
        if self.personal() != Some(conversation) {
            self.state.lock().subscriptions.remove(conversation);
        }
    }

    /// The generation of a subscription.
    pub fn generation(&self, conversation: ConversationId) -> Option<u32> {
        self.state.lock().subscriptions.generation(conversation)
    }

    /// Ends a subscription that was refused.
    pub fn abandon(&self, conversation: ConversationId, generation: u32) {
        self.state.lock().subscriptions.remove_generation(conversation, generation);
    }

    /// Queues a frame of a replay when there is room for it, which leaves half of the outbox to live events.
    pub async fn replay(&self, conversation: ConversationId, generation: u32, frame: Bytes) -> Result<(), Ended> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable(); // Before the look at the outbox, so that no notice is missed in between.
            match self.try_replay(conversation, generation, &frame) {
                Replayed::Queued => return Ok(()),
                Replayed::Ended => return Err(Ended),
                Replayed::Full => room.await,
            }
        }
    }

    fn try_replay(&self, conversation: ConversationId, generation: u32, frame: &Bytes) -> Replayed {
        let mut state = self.state.lock();
        if state.closed || !state.subscriptions.is_current(conversation, generation) {
            return Replayed::Ended;
        }
        if state.lagging || !state.outbox.is_half_empty(self.bounds()) {
            return Replayed::Full;
        }
        state.outbox.notice(frame.clone());
        self.wake(state);
        Replayed::Queued
    }

    /// The replay has queued everything up to `seq`.
    pub fn reach(&self, conversation: ConversationId, generation: u32, seq: Seq) -> Reached {
        self.state.lock().subscriptions.reach(conversation, generation, seq)
    }

    /// The replay gives up: a notice made of the seq from which the subscription is live tells what is left out.
    pub fn skip_to(&self, conversation: ConversationId, generation: u32, head: Seq, notice: impl FnOnce(Seq) -> Bytes) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        if let Some(last) = state.subscriptions.skip_to(conversation, generation, head) {
            state.outbox.notice(notice(last));
            self.gateway.connections.metrics().gaps.increment(1);
            self.wake(state);
        }
    }

    // The task's side.

    /// Calls the task at a deadline.
    pub fn tick(&self) {
        let mut state = self.state.lock();
        state.ticked = true;
        drop(state);
        self.waker.wake(); // Also when it waits for the socket to take more.
    }

    /// What the task is asked to do; from here on pushes do not wake it.
    pub fn signals(&self, waker: &Waker) -> Signals {
        self.waker.register(waker);
        let mut state = self.state.lock();
        state.awake = true;
        Signals {
            ticked: std::mem::take(&mut state.ticked),
            close: state.close.take(),
            crowded: !state.outbox.is_half_empty(self.bounds()),
        }
    }

    /// Moves what is to be written next into the batch. `true`: nothing is, and [`Socket::refresh`] has something to tell.
    pub fn take(&self, batch: &mut Batch) -> bool {
        let mut state = self.state.lock();
        if state.outbox.is_empty() {
            return !state.closed && (state.lagging || state.marks_missed || state.has_heads());
        }
        let waiting = state.outbox.bytes();
        state.outbox.take(batch);
        let half_empty = state.outbox.is_half_empty(self.bounds());
        drop(state);
        if waiting >= OUTBOX_BYTES_RECORDED_MIN {
            self.gateway.connections.metrics().outbox_bytes.record(waiting as f64);
        }
        if half_empty {
            self.room.notify_waiters();
        }
        false
    }

    /// Tells gaps if the outbox is empty, and hands out what the task has to look up. Heads only if `with_heads`.
    pub fn refresh(&self, with_heads: bool) -> Refresh {
        let mut state = self.state.lock();
        let mut refresh = Refresh::default();
        if state.closed || !state.outbox.is_empty() {
            return refresh;
        }
        if state.lagging || state.marks_missed {
            let told = state.subscriptions.catch_up();
            let metrics = self.gateway.connections.metrics();
            metrics.gaps.increment(told.gaps.len() as u64);
            metrics.lagging.decrement(f64::from(u8::from(state.lagging)));
            told.gaps
                .into_iter()
                .for_each(|(conversation, from, head)| state.outbox.notice(encode::gap(conversation, from, head)));
            refresh.marks = told.marks;
            state.lagging = false;
            state.marks_missed = false;
        }
        if with_heads {
            refresh.heads = std::mem::take(&mut state.heads);
            refresh.all_heads = std::mem::take(&mut state.heads_missed);
        }
        refresh.heads_wait = state.has_heads();
        drop(state);
        self.room.notify_waiters();
        refresh
    }

    /// Queues the head of a conversation that is not subscribed.
    pub fn head(&self, conversation: ConversationId, frame: Bytes) {
        let mut state = self.state.lock();
        if !state.closed && state.outbox.ephemeral(Topic::Head(conversation), frame, self.bounds()) == Offer::Full {
            state.heads_missed = true;
        }
        self.wake(state);
    }

    /// Lets the task sleep: pushes wake it again, unless it waits for the socket anyway. `false`: there is something to do.
    pub fn may_sleep(&self, write_blocked: bool) -> bool {
        let mut state = self.state.lock();
        let idle = !state.ticked && state.close.is_none() && (write_blocked || state.outbox.is_empty());
        state.awake = write_blocked;
        idle
    }

    /// Takes nothing more and queues the close frame behind the answers that wait. With `discard` they are dropped as well.
    pub fn seal(&self, code: Option<u16>, reason: &str, discard: bool) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        state.outbox.seal(discard, |out| frame::append_close(out, code, reason));
        if std::mem::take(&mut state.lagging) {
            self.gateway.connections.metrics().lagging.decrement(1.0);
        }
        state.heads = Vec::new();
        drop(state);
        self.room.notify_waiters();
    }

    /// The task is gone: nothing is taken any more, and replays end.
    pub fn end(&self) {
        self.seal(None, "", true);
    }

    // Pushes.

    /// Returns whether the task has something to do.
    fn offer_event(&self, state: &mut State, push: &Arc<Push>, published: &Published) -> bool {
        let (conversation, seq) = (published.entry.conversation, published.entry.seq);
        let metrics = self.gateway.connections.metrics();
        match state.subscriptions.offer(conversation, seq, !state.lagging) {
            Verdict::Stranger => {
                return note_head(
                    state,
                    NewHead {
                        conversation,
                        seq,
                        at: Some(published.entry.at),
                    },
                );
            }
            Verdict::Skip if state.lagging => {
                metrics.dropped_durable.increment(1);
                return false;
            }
            Verdict::Skip => return false,
            Verdict::Gap { from } => {
                state.outbox.notice(encode::gap(conversation, from, seq));
                metrics.gaps.increment(1);
                return true;
            }
            Verdict::Push => {}
        }
        if state.outbox.durable(push.encoded(NATIVE, encode::push), self.bounds()) == Offer::Full {
            state.subscriptions.refused(conversation, seq - 1, seq);
            state.lagging = true;
            metrics.lagging.increment(1.0);
            metrics.dropped_durable.increment(1);
        }
        true
    }

    fn offer_mark(&self, state: &mut State, push: &Arc<Push>, conversation: ConversationId, user: &UserId) -> bool {
        if state.subscriptions.contains(conversation) {
            let queued = self.offer_ephemeral(state, push, Topic::Mark(conversation, user.clone()));
            if !queued {
                state.subscriptions.miss_mark(conversation);
                state.marks_missed = true;
            }
            return queued;
        }
        self.known_user() == Some(user)
            && note_head(
                state,
                NewHead {
                    conversation,
                    seq: 0,
                    at: None,
                },
            )
    }

    fn offer_ephemeral(&self, state: &mut State, push: &Arc<Push>, topic: Topic) -> bool {
        let offer = state.outbox.ephemeral(topic, push.encoded(NATIVE, encode::push), self.bounds());
        if offer == Offer::Full {
            self.gateway.connections.metrics().dropped_ephemeral.increment(1);
        }
        offer != Offer::Full
    }
}

/// Remembers a head to tell; wakes the task for the first one only, since it sends them together.
fn note_head(state: &mut State, new: NewHead) -> bool {
    let first = !state.has_heads();
    match state.heads.binary_search_by_key(&new.conversation, |head| head.conversation) {
        Ok(at) => {
            let head = &mut state.heads[at];
            *head = NewHead {
                seq: head.seq.max(new.seq),
                at: new.at.or(head.at),
                ..new
            };
        }
        Err(_) if state.heads.len() >= HEADS_WAITING_MAX => state.heads_missed = true,
        Err(at) => state.heads.insert(at, new),
    }
    first
}

impl Subscriber for Socket {
    fn id(&self) -> &str {
        &self.id
    }

    fn user(&self) -> &UserId {
        self.known_user().expect("a connection is registered after its login")
    }

    fn has_role(&self, role: &str) -> bool {
        self.state.lock().roles.as_ref().is_some_and(|roles| roles.iter().any(|r| r == role))
    }

    fn transport(&self) -> Transport {
        Transport::Ws
    }

    fn subscribed(&self, conversation: ConversationId) -> bool {
        self.state.lock().subscriptions.contains(conversation)
    }

    fn offer(&self, push: &Arc<Push>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let to_do = match &push.what {
            What::Event(published) => self.offer_event(&mut state, push, published),
            What::Mark { conversation, user, .. } => self.offer_mark(&mut state, push, *conversation, user),
            What::Typing { conversation, user, .. } => {
                let wanted = self.known_user() != Some(user) && state.subscriptions.contains(*conversation);
                wanted && self.offer_ephemeral(&mut state, push, Topic::Typing(*conversation, user.clone()))
            }
            What::Presence { user, .. } => self.offer_ephemeral(&mut state, push, Topic::Presence(user.clone())),
            What::Custom { .. } => self.offer_ephemeral(&mut state, push, Topic::Alone),
        };
        if to_do {
            self.wake(state);
        }
    }

    fn ended(&self, conversation: ConversationId) {
        self.state.lock().subscriptions.remove(conversation);
    }

    fn close(&self, reason: &'static str) {
        self.state.lock().close = Some(reason);
        self.waker.wake(); // Also when it waits for the socket to take more.
    }
}
