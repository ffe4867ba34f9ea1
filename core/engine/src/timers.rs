//! Durable timers of plugins: due by the wall clock, fired in their conversation's turn, removed by what they write.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use haggle_model::{CommandId, ConversationId, ErrorCode, Millis, PluginId, Shard, UserId};
use haggle_store::{FailedDelivery, TimerRow};
use tokio::sync::oneshot;

use crate::{
    Actor, Inner, Refusal,
    conversation::{Turn, Work, unavailable},
    deliver::kind_of,
    feeds::{self, ATTEMPTS_MAX, Failure},
    lanes::Lane,
    ports::{Call, HookError, Plan},
    scope::{HandlerScope, Place, effects_with_timer_removed},
    transaction::{Stamp, Transaction},
};

/// The consumer's name among failed deliveries.
pub(crate) const CONSUMER: &str = "timer";
/// Timers that run at once, after a downtime for example.
const AT_ONCE_MAX: usize = 64;
/// How often the shard's timers are looked at, unless one was just set.
const LOOK_EVERY: Duration = Duration::from_millis(250);

type Key = (ConversationId, PluginId, String, Millis);
type Running = BoxFuture<'static, (TimerRow, Result<(), HookError>)>;

/// Fires the timers of one shard.
pub(crate) async fn run(engine: Arc<Inner>, lane: Arc<Lane>) {
    let mut firing = Firing::default();
    loop {
        tokio::select! {
            Some((timer, fired)) = firing.running.next(), if !firing.running.is_empty() => firing.ended(&engine, &lane, timer, fired),
            // Either a timer was set, or it is time to look.
            _ = tokio::time::timeout(LOOK_EVERY, lane.news.timers.notified()) => {}
        }
        while let Some(Some((timer, fired))) = firing.running.next().now_or_never() {
            firing.ended(&engine, &lane, timer, fired);
        }
        let look_at = AT_ONCE_MAX + firing.failing.len() + firing.keys.len();
        match engine.store.timers_due(lane.shard, engine.clock.now(), look_at).await {
            Ok(due) => firing.start(&engine, due),
            Err(error) => {
                tracing::error!(shard = %lane.shard, %error, "cannot read the timers that are due");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The timers that run now, and those that failed and will again.
#[derive(Default)]
struct Firing {
    running: FuturesUnordered<Running>,
    keys: HashSet<Key>,
    failing: HashMap<Key, (u32, Instant)>,
}

impl Firing {
    /// Fires what is due and neither running nor waiting for another try, as far as there is room.
    fn start(&mut self, engine: &Arc<Inner>, due: Vec<TimerRow>) {
        let now = Instant::now();
        let known: HashSet<Key> = due.iter().map(key_of).collect();
        self.failing.retain(|key, _| known.contains(key) || self.keys.contains(key));
        for timer in due {
            let key = key_of(&timer);
            let waits = self.failing.get(&key).is_some_and(|(_, next)| *next > now);
            if self.keys.len() >= AT_ONCE_MAX || waits || !self.keys.insert(key) {
                continue;
            }
            let fired = in_turn(engine, &timer, true); // takes its place in the queue at once: timers of one conversation keep their order
            self.running.push(Box::pin(async move {
                let fired = fired.await;
                (timer, fired)
            }));
        }
    }

    fn ended(&mut self, engine: &Arc<Inner>, lane: &Lane, timer: TimerRow, fired: Result<(), HookError>) {
        let key = key_of(&timer);
        let Err(error) = fired else {
            self.keys.remove(&key);
            self.failing.remove(&key);
            return;
        };
        engine.metrics.delivery_failures.increment(1);
        let attempts = self.failing.get(&key).map_or(0, |(attempts, _)| *attempts) + 1;
        if attempts < ATTEMPTS_MAX || error.is_away() {
            // A plugin that is away now may come back: its timers wait.
            let attempts = attempts.min(ATTEMPTS_MAX - 1);
            self.failing
                .insert(key.clone(), (attempts, Instant::now() + feeds::pause_after(attempts)));
            self.keys.remove(&key);
            return;
        }
        let (engine, shard) = (engine.clone(), lane.shard);
        self.running.push(Box::pin(async move {
            give_up(&engine, shard, &timer, attempts, &error).await;
            (timer, Ok(()))
        }));
    }
}

fn key_of(timer: &TimerRow) -> Key {
    (timer.conversation, timer.plugin.clone(), timer.name.clone(), timer.due)
}

/// Keeps a timer that failed for the operator, and removes it.
async fn give_up(engine: &Arc<Inner>, shard: Shard, timer: &TimerRow, attempts: u32, error: &HookError) {
    let payload = minicbor::to_vec((timer.plugin.as_str(), timer.name.as_str(), timer.due, timer.payload.as_str())).unwrap_or_default();
    // Timers have no position: what tells them apart is a hash of what they are.
    let index = CommandId::hash(&[timer.plugin.as_str().as_bytes(), timer.name.as_bytes(), &timer.due.to_be_bytes()]);
    let index = u32::from_be_bytes(index.0[..4].try_into().expect("4 of 16 bytes"));
    let pos = haggle_model::Pos(timer.conversation.0 >> 1);
    let failure = Failure {
        consumer: CONSUMER.into(),
        shard,
        pos,
        index,
        conversation: timer.conversation,
        attempts,
        payload,
    };
    feeds::give_up(engine, failure, &error.to_string()).await;
    if let Err(error) = in_turn(engine, timer, false).await {
        tracing::warn!(%error, "a timer that failed could not be removed; it is tried again");
    }
}

/// Runs a timer in its conversation's turn, or only removes it. The place in the queue is taken before this returns.
fn in_turn(engine: &Arc<Inner>, timer: &TimerRow, run: bool) -> impl Future<Output = Result<(), HookError>> + Send + 'static {
    let (done, fired) = oneshot::channel();
    let work = TimerWork {
        plan: engine.hooks.plan(),
        timer: timer.clone(),
        must_be_set: true,
        run,
        done,
    };
    engine.enter(timer.conversation, &UserId::from(format!("timer:{}", timer.plugin)), work);
    let plugin = timer.plugin.clone();
    async move {
        fired
            .await
            .unwrap_or_else(|_| Err(hook_error(&plugin, "unavailable", unavailable().to_string())))
    }
}

/// Runs a timer that had failed once more; it is no longer set, so nothing is removed.
pub(crate) async fn replay(engine: &Arc<Inner>, failed: &FailedDelivery) -> Result<(), Refusal> {
    let decoded: Result<(&str, &str, Millis, &str), _> = minicbor::decode(&failed.payload);
    let (plugin, name, due, payload) = decoded.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    let timer = TimerRow {
        conversation: failed.conversation,
        plugin: plugin.into(),
        name: name.into(),
        due,
        payload: payload.into(),
    };
    let (done, fired) = oneshot::channel();
    let user = UserId::from(format!("timer:{plugin}"));
    let work = TimerWork {
        plan: engine.hooks.plan(),
        timer,
        must_be_set: false,
        run: true,
        done,
    };
    engine.enter(failed.conversation, &user, work);
    let fired = fired.await.map_err(|_| unavailable())?;
    fired.map_err(|error| Refusal::new(ErrorCode::PluginError, error.to_string()))
}

fn hook_error(plugin: &PluginId, kind: &'static str, message: String) -> HookError {
    HookError {
        plugin: plugin.clone(),
        hook: "timer",
        kind,
        message,
    }
}

struct TimerWork {
    plan: Arc<dyn Plan>,
    timer: TimerRow,
    must_be_set: bool,
    run: bool,
    done: oneshot::Sender<Result<(), HookError>>,
}

impl Work for TimerWork {
    async fn run(self, turn: Turn) {
        let TimerWork {
            plan,
            timer,
            must_be_set,
            run,
            done,
        } = self;
        let fired = fire_in_turn(&turn, &*plan, &timer, must_be_set, run).await;
        match fired {
            Ok(Some(transaction)) => commit(&turn, transaction, &timer, done),
            Ok(None) => drop(done.send(Ok(()))),
            Err(error) => drop(done.send(Err(error))),
        }
    }

    fn refuse(self, refusal: Refusal) {
        let _ = self.done.send(Err(hook_error(&self.timer.plugin, "overloaded", refusal.to_string())));
    }
}

/// The id under which a firing is found again: of the timer as it was set.
fn firing_id(timer: &TimerRow) -> CommandId {
    let conversation = timer.conversation.0.to_be_bytes();
    CommandId::hash(&[
        b"timer",
        &conversation,
        timer.plugin.as_str().as_bytes(),
        timer.name.as_bytes(),
        &timer.due.to_be_bytes(),
    ])
}

async fn fire_in_turn(
    turn: &Turn,
    plan: &dyn Plan,
    timer: &TimerRow,
    must_be_set: bool,
    run: bool,
) -> Result<Option<(Transaction, Option<HandlerScope>)>, HookError> {
    let failed = |refusal: Refusal| hook_error(&timer.plugin, kind_of(&refusal), refusal.to_string());
    if must_be_set && !still_set(turn, timer).await.map_err(failed)? {
        return Ok(None);
    }
    let removed = Transaction {
        effects: effects_with_timer_removed(&timer.plugin, &timer.name),
        ..Transaction::default()
    };
    if !run {
        return Ok(Some((removed, None)));
    }
    let conversation = &turn.conversation;
    conversation.attempt_begins(firing_id(timer));
    // A timer of the plugin's own conversation belongs to no conversation that the plugin could name.
    let own = conversation.with_state(|state| matches!(state.address(), Some(haggle_model::Address::Plugin(_))));
    let call = Call {
        command: firing_id(timer),
        actor: Actor::plugin(&timer.plugin),
        trace_id: String::new(),
        now: turn.engine.clock.now(),
        conversation: (!own).then_some(conversation.id),
        origin: Vec::new(),
    };
    let scope = HandlerScope::new(&turn.engine, conversation, Place::InTurn, call);
    if let Err(error) = plan.timer(&scope, &timer.plugin, &timer.name, timer.due, &timer.payload).await {
        scope.release().await;
        return Err(error);
    }
    // What the handler wrote comes after the removal: it may set the same timer again.
    match scope.join(plan, removed).await {
        Ok(mut transaction) => {
            normalize(&mut transaction);
            Ok(Some((transaction, Some(scope))))
        }
        Err(refusal) => {
            scope.release().await;
            Err(failed(refusal))
        }
    }
}

/// One change per timer: the last one.
fn normalize(transaction: &mut Transaction) {
    let timers = std::mem::take(&mut transaction.effects.timers);
    for timer in timers {
        transaction
            .effects
            .timers
            .retain(|other| other.plugin != timer.plugin || other.name != timer.name);
        transaction.effects.timers.push(timer);
    }
}

async fn still_set(turn: &Turn, timer: &TimerRow) -> Result<bool, Refusal> {
    if let Some(staged) = turn
        .conversation
        .with_state(|state| state.staged_timer(&timer.plugin, &timer.name).map(|timer| timer.due))
    {
        return Ok(staged == Some(timer.due));
    }
    let row = turn.engine.store.timer(timer.conversation, &timer.plugin, &timer.name).await?;
    Ok(row.is_some_and(|row| row.due == timer.due))
}

fn commit(turn: &Turn, (transaction, scope): (Transaction, Option<HandlerScope>), timer: &TimerRow, done: oneshot::Sender<Result<(), HookError>>) {
    let plugin = timer.plugin.clone();
    let (metrics, ran) = (turn.engine.metrics.clone(), scope.is_some());
    let reply = Box::new(move |answer: Result<crate::Outcome, Refusal>| {
        if ran && answer.is_ok() {
            metrics.timers_fired.increment(1);
        }
        let _ = done.send(
            answer
                .map(drop)
                .map_err(|refusal| hook_error(&plugin, kind_of(&refusal), refusal.to_string())),
        );
    });
    let stamp = Stamp {
        command: firing_id(timer),
        digest: 0,
        remember: ran,
        at: turn.engine.clock.now(),
    };
    match turn.conversation.stage(&turn.engine, transaction, stamp, Some(reply)) {
        Ok(()) => {
            if let Some(scope) = scope {
                scope.kept();
            }
        }
        Err((refusal, reply)) => {
            if let Some(scope) = scope {
                let runtime = turn.engine.runtime.clone();
                runtime.spawn(async move { scope.release().await });
            }
            if let Some(reply) = reply {
                reply(Err(refusal));
            }
        }
    }
}
