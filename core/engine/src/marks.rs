//! Delivered and read marks: staged directly, without a turn; those nobody waits for are merged for a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use haggle_model::{ConversationId, Event, Seq, UserId};
use parking_lot::Mutex;

use crate::{
    Actor, Inner, Outcome, Refusal, Reply,
    conversation::Conversation,
    transaction::{Item, Stamp, Transaction},
};

/// How long a mark without an answer may wait.
const MERGE_FOR: Duration = Duration::from_secs(1);
/// Merged marks that are staged side by side.
const AT_ONCE_MAX: usize = 64;
/// Marks that wait; above it they are staged at once.
const WAITING_MAX: usize = 50_000;

#[derive(Clone, Copy, Default)]
struct Wish {
    delivered: Option<Seq>,
    read: Option<Seq>,
}

/// Marks that nobody waits for, merged.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<HashMap<(ConversationId, UserId), Wish>>);

pub(crate) fn mark(
    engine: &Arc<Inner>,
    actor: &Actor,
    conversation: ConversationId,
    delivered: Option<Seq>,
    read: Option<Seq>,
    reply: Option<Reply>,
) {
    if let Err(refusal) = engine.admit(actor) {
        if let Some(reply) = reply {
            reply(Err(refusal));
        }
        return;
    }
    let wish = Wish { delivered, read };
    if reply.is_none() {
        let mut waiting = engine.marks.0.lock();
        if waiting.len() < WAITING_MAX {
            let merged = waiting.entry((conversation, actor.user.clone())).or_default();
            merged.delivered = merged.delivered.max(wish.delivered);
            merged.read = merged.read.max(wish.read);
            return;
        }
    }
    spawn(engine, actor.user.clone(), conversation, wish, reply);
}

fn spawn(engine: &Arc<Inner>, user: UserId, conversation: ConversationId, wish: Wish, reply: Option<Reply>) {
    let inner = engine.clone();
    engine.runtime.spawn(async move { stage(&inner, user, conversation, wish, reply).await });
}

/// Stages merged marks once a second.
pub(crate) async fn flush(engine: Arc<Inner>) {
    let mut tick = tokio::time::interval(MERGE_FOR);
    loop {
        tick.tick().await;
        flush_now(&engine).await;
    }
}

/// Stages merged marks; returns when all are staged.
pub(crate) async fn flush_now(engine: &Arc<Inner>) {
    let waiting = std::mem::take(&mut *engine.marks.0.lock());
    let marks = waiting
        .into_iter()
        .map(|((conversation, user), wish)| stage(engine, user, conversation, wish, None));
    stream::iter(marks).buffer_unordered(AT_ONCE_MAX).collect::<()>().await;
}

async fn stage(engine: &Arc<Inner>, user: UserId, id: ConversationId, wish: Wish, reply: Option<Reply>) {
    match try_stage(engine, &user, id, wish, reply).await {
        Ok(()) => {}
        Err((refusal, Some(reply))) => reply(Err(refusal)),
        Err((refusal, None)) => tracing::debug!(%refusal, "a mark was dropped"),
    }
}

async fn try_stage(engine: &Arc<Inner>, user: &UserId, id: ConversationId, wish: Wish, reply: Option<Reply>) -> Result<(), (Refusal, Option<Reply>)> {
    let conversation = match engine.warmed_id(id).await {
        Ok(conversation) => conversation,
        Err(refusal) => return Err((refusal, reply)),
    };
    let mut reply = reply;
    loop {
        let (member, seen, head, head_n) =
            conversation.with_state(|state| (state.members.contains_key(user), state.last_ticket, state.head, state.head_n));
        if !member {
            return Err((Refusal::not_found(), reply));
        }
        let read = match wish.read.map(|seq| seq.min(head)) {
            None => None,
            Some(seq) if seq == head => Some((seq, head_n)),
            Some(seq) => match number_at(engine, &conversation, seq).await {
                Ok(n) => Some((seq, n)),
                Err(refusal) => return Err((refusal, reply)),
            },
        };
        let Some(mark) = conversation.with_state(|state| state.mark_moved(user, wish.delivered, read)) else {
            if let Some(reply) = reply {
                unchanged(engine, &conversation, reply);
            }
            return Ok(());
        };
        let transaction = Transaction::of(Item::new(user, Event::Marked { user: user.clone(), mark }));
        let stamp = Stamp {
            command: engine.fresh_command(),
            digest: 0,
            remember: false,
            at: engine.clock.now(),
        };
        // The mark was worked out on what was seen: a send in between may have moved it.
        let shared = Arc::new(Mutex::new(reply));
        let lent: Option<Reply> = shared.lock().is_some().then(|| {
            let shared = shared.clone();
            Box::new(move |answer| {
                if let Some(reply) = shared.lock().take() {
                    reply(answer);
                }
            }) as Reply
        });
        match conversation.stage_if(engine, transaction, stamp, lent, |state| state.last_ticket == seen) {
            Ok(true) => return Ok(()),
            Ok(false) => reply = shared.lock().take(),
            Err((refusal, _)) => return Err((refusal, shared.lock().take())),
        }
    }
}

fn unchanged(engine: &Inner, conversation: &Arc<Conversation>, reply: Reply) {
    let outcome = Outcome {
        conversation: conversation.id,
        seq: 0,
        at: engine.clock.now(),
        duplicate: false,
        existed: true,
        answer: None,
    };
    conversation.answer(reply, Ok(outcome));
}

/// Countable messages up to an event.
async fn number_at(engine: &Inner, conversation: &Conversation, seq: Seq) -> Result<u32, Refusal> {
    if seq == 0 {
        return Ok(0);
    }
    if let Some(n) = conversation.with_state(|state| state.number_at(seq)) {
        return Ok(n);
    }
    let events = engine.store.events(conversation.id, seq - 1, 1).await?;
    Ok(events.first().map_or(0, |event| event.n))
}
