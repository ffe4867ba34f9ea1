//! What the parts of the engine share.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use haggle_model::{Address, CommandId, ConversationId, ErrorCode, KeyRing, Limits, Profile, UserId};
use haggle_store::SharedStore;
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Actor, Command, ProfilePatch, Refusal, Reply, Request,
    clock::Clock,
    concurrent_map::ConcurrentMap,
    conversation::{Conversation, Phase, Turn, Work, unavailable},
    feeds::Feeds,
    hub::Hub,
    lanes::Lane,
    marks,
    metrics::Metrics,
    pipeline,
    ports::Hooks,
    presence::Presence,
    rates::Rates,
    typing::Typing,
    warm::{self, Warm},
};

/// How many other keys an address is tried under when strangers have its own.
pub(crate) const PROBES_MAX: u32 = 8;
/// Users who are known to have a profile; with more, all are looked up again.
const USERS_SEEN_MAX: usize = 100_000;

pub(crate) struct Inner {
    pub store: SharedStore,
    pub hooks: Arc<dyn Hooks>,
    pub limits: Limits,
    pub clock: Arc<dyn Clock>,
    pub keys: KeyRing,
    pub hub: Hub,
    pub lanes: Vec<Arc<Lane>>,
    pub warm: Warm,
    pub rates: Rates,
    pub typing: Typing,
    pub presence: Presence,
    pub feeds: Feeds,
    pub marks: marks::Waiting,
    pub metrics: Arc<Metrics>,
    pub runtime: tokio::runtime::Handle,
    pub erase_after: Duration,
    pub reject_unknown_users: bool,
    pub users_seen: ConcurrentMap<UserId, ()>,
    pub closing: CancellationToken,
    pub tasks: TaskTracker,
    /// What generated command ids are made of.
    pub id_seed: [u8; 16],
    pub id_next: AtomicU64,
}

impl Inner {
    /// The lane of a conversation.
    pub fn lane(&self, id: ConversationId) -> &Arc<Lane> {
        &self.lanes[usize::from(id.shard(self.lanes.len() as u16).0)]
    }

    /// An id that no other command has.
    pub fn fresh_command(&self) -> CommandId {
        let n = self.id_next.fetch_add(1, Ordering::Relaxed);
        // Distinct per process by the seed, within it by the number; no hash is needed for uniqueness.
        let mut id = self.id_seed;
        for (byte, add) in id[8..].iter_mut().zip(n.to_be_bytes()) {
            *byte = byte.wrapping_add(add);
        }
        CommandId(id)
    }

    /// Whether the actor may do something now.
    pub fn admit(&self, actor: &Actor) -> Result<(), Refusal> {
        if self.closing.is_cancelled() {
            return Err(unavailable());
        }
        if actor.is_limited() { self.rates.take(&actor.user) } else { Ok(()) }
    }

    /// Gives `work` its turn: at once when the turn is free, else a place in the queue.
    pub fn enter<W: Work>(self: &Arc<Self>, id: ConversationId, user: &UserId, work: W) {
        let conversation = loop {
            let conversation = self.warm.get(id, self.lane(id));
            let mut guarded = conversation.guarded.lock();
            if guarded.dead {
                drop(guarded);
                std::thread::yield_now(); // it is being removed from the map
                continue;
            }
            guarded.used = Instant::now();
            if guarded.phase == Phase::Warm && !guarded.busy {
                guarded.busy = true;
                drop(guarded);
                break conversation;
            }
            if guarded.phase == Phase::Cold {
                guarded.phase = Phase::Loading;
                guarded.busy = true;
                let (engine, conversation) = (self.clone(), conversation.clone());
                self.runtime.spawn(async move { engine.load(conversation).await });
            }
            let limits = &self.limits;
            let deadline = Instant::now() + limits.turn_wait_max;
            let queued = guarded
                .queue
                .push(user, Box::new(work), deadline, limits.turn_queue_max, limits.turn_queue_per_user_max);
            let watch = !std::mem::replace(&mut guarded.expiring, true);
            drop(guarded);
            if watch {
                self.runtime.spawn(expire(conversation.clone()));
            }
            if let Err(work) = queued {
                work.refuse(overloaded("too many commands wait for this conversation"));
            }
            return;
        };
        let turn = Turn {
            engine: self.clone(),
            conversation,
        };
        self.run_or_spawn(work.run(turn));
    }

    /// Runs the future as far as it gets without waiting; what waits becomes a task of its own.
    fn run_or_spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let mut future = Box::pin(future);
        let mut context = Context::from_waker(Waker::noop());
        if Pin::as_mut(&mut future).poll(&mut context) == Poll::Pending {
            // The task polls at once, so nothing that woke meanwhile is lost.
            self.runtime.spawn(future);
        }
    }

    async fn load(self: Arc<Self>, conversation: Arc<Conversation>) {
        let loaded = warm::load(&self.store, conversation.id, &self.limits, self.clock.now()).await;
        let refused = {
            let mut guarded = conversation.guarded.lock();
            match loaded {
                Ok(loaded) if !guarded.dead => {
                    let mut audience = conversation.audience.lock();
                    audience.kind = loaded.kind;
                    audience.users = loaded.users;
                    guarded.state = loaded.state;
                    guarded.phase = Phase::Warm;
                    None
                }
                Ok(_) => Some((unavailable(), guarded.queue.drain())),
                Err(error) => {
                    guarded.phase = Phase::Cold;
                    guarded.busy = false;
                    Some((Refusal::from(error), guarded.queue.drain()))
                }
            }
        };
        match refused {
            // Whoever came first has the turn now.
            None => drop(Turn { engine: self, conversation }),
            Some((refusal, waiting)) => waiting.into_iter().for_each(|work| work.refuse(refusal.clone())),
        }
    }

    /// The conversation with this key, loaded.
    pub async fn warmed_id(self: &Arc<Self>, id: ConversationId) -> Result<Arc<Conversation>, Refusal> {
        if let Some(conversation) = self.warm.peek(id) {
            let mut guarded = conversation.guarded.lock();
            if guarded.phase == Phase::Warm && !guarded.dead {
                guarded.used = Instant::now();
                drop(guarded);
                return Ok(conversation);
            }
        }
        let (done, warmed) = oneshot::channel();
        self.enter(id, &UserId::from(""), Warming(done));
        warmed.await.map_err(|_| unavailable())?
    }

    /// The conversation at the address, loaded; probed against collisions.
    pub async fn warmed(self: &Arc<Self>, address: &Address) -> Result<Arc<Conversation>, Refusal> {
        let key = self.keys.key(address);
        for attempt in 0..PROBES_MAX {
            let conversation = self.warmed_id(key.probe(attempt)).await?;
            if conversation.with_state(|state| state.address().is_none_or(|there| there == address)) {
                return Ok(conversation);
            }
        }
        Err(Refusal::new(ErrorCode::Internal, "no free key for the conversation"))
    }

    /// The user's profile with everything staged; `personal` is its personal conversation, whose turn the caller has.
    pub async fn profile(&self, personal: &Conversation, user: &UserId) -> Result<Option<Profile>, Refusal> {
        if let Some(profile) = personal.with_state(|state| state.staged_profile().cloned()) {
            return Ok(Some(profile));
        }
        Ok(self.store.user(user).await?.map(|row| row.profile))
    }

    /// Makes an empty profile of who was never seen. Cheap for users seen before by this process.
    pub async fn see_user(self: &Arc<Self>, user: &UserId) -> Result<(), Refusal> {
        if self.users_seen.pin().contains_key(user) {
            return Ok(());
        }
        if self.store.user(user).await?.is_none() {
            let command = Command::UpdateProfile {
                user: user.clone(),
                patch: ProfilePatch::default(),
            };
            let (done, answer) = oneshot::channel();
            let reply: Reply = Box::new(move |outcome| drop(done.send(outcome)));
            pipeline::submit(self, Request::new(Actor::server(), command), reply);
            answer.await.map_err(|_| unavailable())??;
        }
        let seen = self.users_seen.pin();
        if seen.len() >= USERS_SEEN_MAX {
            seen.clear();
        }
        seen.insert(user.clone(), ());
        Ok(())
    }

    /// Runs a task until the engine closes.
    pub fn spawn_until_closed(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn_on(
            async move {
                let mut task = pin!(task);
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = &mut task => {}
                }
            },
            &self.runtime,
        );
    }
}

/// The refusal of who finds a queue full or waits too long.
pub(crate) fn overloaded(message: &'static str) -> Refusal {
    Refusal::new(ErrorCode::Overloaded, message).after(Duration::from_secs(1))
}

/// Takes out of the queue what waits too long, as long as anybody waits.
async fn expire(conversation: Arc<Conversation>) {
    loop {
        let next = {
            let mut guarded = conversation.guarded.lock();
            let next = guarded.queue.next_deadline();
            guarded.expiring = next.is_some();
            next
        };
        let Some(deadline) = next else { return };
        tokio::time::sleep_until(deadline.into()).await;
        let expired = conversation.guarded.lock().queue.expire(Instant::now());
        expired
            .into_iter()
            .for_each(|work| work.refuse(overloaded("the conversation's turn did not come within limits.turn_wait_ms_max")));
    }
}

/// Work that only wants the conversation to be loaded.
struct Warming(oneshot::Sender<Result<Arc<Conversation>, Refusal>>);

impl Work for Warming {
    async fn run(self, turn: Turn) {
        // Nobody waits any more where the receiver is gone.
        let _ = self.0.send(Ok(turn.conversation.clone()));
    }

    fn refuse(self, refusal: Refusal) {
        let _ = self.0.send(Err(refusal));
    }
}
