//! Durable timers of plugins: due by the wall clock, fired in their conversation's turn, removed by what they write.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use haggle_model::{CommandId, ConversationId, ErrorCode, Millis, PluginId, UserId};
use haggle_store::{FailedDelivery, TimerRow};
use tokio::sync::oneshot;

use crate::{
    Actor, Inner, Refusal,
    conversation::{Turn, Work, unavailable},
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

/// Fires the timers of one shard.
pub(crate) async fn run(engine: Arc<Inner>, lane: Arc<Lane>) {
    let mut failing: HashMap<Key, (u32, Instant)> = HashMap::new();
    loop {
        // Either a timer was set, or it is time to look.
        let _ = tokio::time::timeout(LOOK_EVERY, lane.news.timers.notified()).await;
        let now = engine.clock.now();
        let due = match engine.store.timers_due(lane.shard, now, AT_ONCE_MAX + failing.len()).await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(shard = %lane.shard, %error, "cannot read the timers that are due");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        failing.retain(|key, _| due.iter().any(|timer| key_of(timer) == *key));
        let ready = due.into_iter().filter(|timer| failing.get(&key_of(timer)).is_none_or(|(_, next)| *next <= Instant::now())).take(AT_ONCE_MAX);
        let fired = ready.map(|timer| {
            let engine = engine.clone();
            async move {
                let fired = fire(&engine, &timer).await;
                (timer, fired)
            }
        });
        let fired: Vec<_> = stream::iter(fired).buffer_unordered(AT_ONCE_MAX).collect().await;
        for (timer, fired) in fired {
            if let Err(error) = fired {
                failed(&engine, &lane, &mut failing, timer, &error).await;
            }
        }
    }
}

fn key_of(timer: &TimerRow) -> Key {
    (timer.conversation, timer.plugin.clone(), timer.name.clone(), timer.due)
}

async fn failed(engine: &Arc<Inner>, lane: &Lane, failing: &mut HashMap<Key, (u32, Instant)>, timer: TimerRow, error: &HookError) {
    engine.metrics.delivery_failures.increment(1);
    let attempts = failing.get(&key_of(&timer)).map_or(1, |(attempts, _)| attempts + 1);
    // A plugin that is away now may come back: its timers wait.
    let waits = matches!(error.kind, "gone" | "breaker" | "overloaded");
    if attempts < ATTEMPTS_MAX || waits {
        let pause = Duration::from_millis(200) * 4_u32.pow(attempts.min(4));
        failing.insert(key_of(&timer), (if waits { attempts.min(4) } else { attempts }, Instant::now() + pause));
        return;
    }
    failing.remove(&key_of(&timer));
    let payload = minicbor::to_vec((timer.plugin.as_str(), timer.name.as_str(), timer.due, timer.payload.as_str())).unwrap_or_default();
    // Timers have no position: what tells them apart is a hash of what they are.
    let index = CommandId::hash(&[timer.plugin.as_str().as_bytes(), timer.name.as_bytes(), &timer.due.to_be_bytes()]);
    let index = u32::from_be_bytes(index.0[..4].try_into().expect("4 of 16 bytes"));
    let pos = haggle_model::Pos(timer.conversation.0 >> 1);
    let failure = Failure { consumer: CONSUMER.into(), shard: lane.shard, pos, index, conversation: timer.conversation, attempts, payload };
    feeds::give_up(engine, failure, &error.to_string()).await;
    if let Err(refusal) = remove(engine, &timer).await {
        tracing::warn!(%refusal, "a timer that failed could not be removed; it is tried again");
    }
}

/// Runs a timer in its conversation's turn.
async fn fire(engine: &Arc<Inner>, timer: &TimerRow) -> Result<(), HookError> {
    turn_of(engine, timer, true).await
}

/// Removes a timer without running it.
async fn remove(engine: &Arc<Inner>, timer: &TimerRow) -> Result<(), Refusal> {
    turn_of(engine, timer, false).await.map_err(|error| Refusal::new(ErrorCode::Unavailable, error.to_string()))
}

async fn turn_of(engine: &Arc<Inner>, timer: &TimerRow, run: bool) -> Result<(), HookError> {
    let (done, fired) = oneshot::channel();
    let work = TimerWork { plan: engine.hooks.plan(), timer: timer.clone(), must_be_set: true, run, done };
    engine.enter(timer.conversation, &UserId::from(format!("timer:{}", timer.plugin)), work);
    fired.await.unwrap_or_else(|_| Err(hook_error(&timer.plugin, "overloaded", unavailable().to_string())))
}

/// Runs a timer that had failed once more; it is no longer set, so nothing is removed.
pub(crate) async fn replay(engine: &Arc<Inner>, failed: &FailedDelivery) -> Result<(), Refusal> {
    let decoded: Result<(&str, &str, Millis, &str), _> = minicbor::decode(&failed.payload);
    let (plugin, name, due, payload) = decoded.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    let timer = TimerRow { conversation: failed.conversation, plugin: plugin.into(), name: name.into(), due, payload: payload.into() };
    let (done, fired) = oneshot::channel();
    let user = UserId::from(format!("timer:{plugin}"));
    let work = TimerWork { plan: engine.hooks.plan(), timer, must_be_set: false, run: true, done };
    engine.enter(failed.conversation, &user, work);
    let fired = fired.await.map_err(|_| unavailable())?;
    fired.map_err(|error| Refusal::new(ErrorCode::PluginError, error.to_string()))
}

fn hook_error(plugin: &PluginId, kind: &'static str, message: String) -> HookError {
    HookError { plugin: plugin.clone(), hook: "timer", kind, message }
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
        let TimerWork { plan, timer, must_be_set, run, done } = self;
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
    CommandId::hash(&[b"timer", &conversation, timer.plugin.as_str().as_bytes(), timer.name.as_bytes(), &timer.due.to_be_bytes()])
}

async fn fire_in_turn(
    turn: &Turn,
    plan: &dyn Plan,
    timer: &TimerRow,
    must_be_set: bool,
    run: bool,
) -> Result<Option<(Transaction, Option<HandlerScope>)>, HookError> {
    let failed = |refusal: Refusal| hook_error(&timer.plugin, "error", refusal.to_string());
    if must_be_set && !still_set(turn, timer).await.map_err(failed)? {
        return Ok(None);
    }
    let removed = Transaction { effects: effects_with_timer_removed(&timer.plugin, &timer.name), ..Transaction::default() };
    if !run {
        return Ok(Some((removed, None)));
    }
    let conversation = &turn.conversation;
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
        transaction.effects.timers.retain(|other| other.plugin != timer.plugin || other.name != timer.name);
        transaction.effects.timers.push(timer);
    }
}

async fn still_set(turn: &Turn, timer: &TimerRow) -> Result<bool, Refusal> {
    if let Some(staged) = turn.conversation.with_state(|state| state.staged_timer(&timer.plugin, &timer.name).map(|timer| timer.due)) {
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
        let _ = done.send(answer.map(drop).map_err(|refusal| hook_error(&plugin, "overloaded", refusal.to_string())));
    });
    let stamp = Stamp { command: firing_id(timer), digest: 0, remember: ran, at: turn.engine.clock.now() };
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
