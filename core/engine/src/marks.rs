//! Delivered and read marks: staged directly, without a turn; those nobody waits for are merged for a second.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use haggle_model::{Address, ConversationId, ConversationKind, Event, MarkChange, Seq, UserId};
use parking_lot::Mutex;

use crate::{
    Actor, Inner, Outcome, Refusal, Reply,
    conversation::Conversation,
    state::mark_moved,
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
        engine.metrics.refused(refusal.code);
        if let Some(reply) = reply {
            reply(Err(refusal));
        }
        return;
    }
    move_to(engine, actor, conversation, delivered, read, reply);
}

/// The same for what was admitted already.
pub(crate) fn move_to(
    engine: &Arc<Inner>,
    actor: &Actor,
    conversation: ConversationId,
    delivered: Option<Seq>,
    read: Option<Seq>,
    reply: Option<Reply>,
) {
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

/// What is given back when nothing was staged: why, and who waits for the answer.
type Unstaged = (Refusal, Option<Reply>);

async fn try_stage(engine: &Arc<Inner>, user: &UserId, id: ConversationId, wish: Wish, reply: Option<Reply>) -> Result<(), Unstaged> {
    let conversation = match engine.warmed_id(id).await {
        Ok(conversation) => conversation,
        Err(refusal) => return Err((refusal, reply)),
    };
    let kind = conversation.with_state(|state| state.address().map(Address::kind));
    if kind == Some(ConversationKind::Broadcast) {
        return stage_reader(engine, user, &conversation, wish, reply).await;
    }
    let mut reply = reply;
    loop {
        let (member, seen, head, head_n) =
            conversation.with_state(|state| (state.members.contains_key(user), state.last_ticket, state.head, state.head_n));
        if !member {
            return Err((Refusal::not_found(), reply));
        }
        let read = match read_number(engine, &conversation, wish.read, (head, head_n)).await {
            Ok(read) => read,
            Err(refusal) => return Err((refusal, reply)),
        };
        let moved = conversation.with_state(|state| Some((state.members.get(user)?.mark, state.mark_moved(user, wish.delivered, read)?)));
        let Some((before, mark)) = moved else {
            unchanged(engine, &conversation, reply);
            return Ok(());
        };
        let item = Item::new(user, Event::Marked { user: user.clone(), mark }).moving(before);
        match offer(engine, &conversation, item, seen, reply)? {
            Offered::Staged => return Ok(()),
            Offered::Stale(back) => reply = back,
        }
    }
}

/// In a broadcast nobody is a member: a mark is an entry of the reader's personal conversation.
async fn stage_reader(engine: &Arc<Inner>, user: &UserId, broadcast: &Arc<Conversation>, wish: Wish, reply: Option<Reply>) -> Result<(), Unstaged> {
    let id = broadcast.id;
    let mut reply = reply.map(|reply| -> Reply { Box::new(move |answer| reply(answer.map(|outcome| Outcome { conversation: id, ..outcome }))) });
    let (own, head) = match reader(engine, user, id).await {
        Ok(reader) => reader,
        Err(refusal) => return Err((refusal, reply)),
    };
    loop {
        let (seen, staged) = own.with_state(|state| (state.last_ticket, state.staged_broadcast_mark(id)));
        let before = match staged {
            Some(mark) => Ok(mark),
            None => engine
                .store
                .inbox_row(user, id)
                .await
                .map(|row| row.map_or_else(Default::default, |row| row.member.mark)),
        };
        let before = match before {
            Ok(mark) => MarkChange { own: 0, ..mark },
            Err(error) => return Err((error.into(), reply)),
        };
        let read = match read_number(engine, broadcast, wish.read, head).await {
            Ok(read) => read,
            Err(refusal) => return Err((refusal, reply)),
        };
        let Some(mark) = mark_moved(before, &[], wish.delivered.map(|seq| seq.min(head.0)), read) else {
            unchanged(engine, &own, reply);
            return Ok(());
        };
        let item = Item::new(user, Event::BroadcastMarked { conversation: id, mark }).moving(before);
        match offer(engine, &own, item, seen, reply)? {
            Offered::Staged => return Ok(()),
            Offered::Stale(back) => reply = back,
        }
    }
}

/// The reader's personal conversation, and the broadcast's head. Only what is durable there can be marked here: the two may be
/// in different shards.
async fn reader(engine: &Arc<Inner>, user: &UserId, broadcast: ConversationId) -> Result<(Arc<Conversation>, (Seq, u32)), Refusal> {
    let address = Address::Personal(user.clone());
    let mut own = engine.warmed(&address).await?;
    if own.with_state(|state| state.row.is_none()) {
        // The first thing in a personal conversation is its creation, which a turn decides.
        engine.see_user(user).await?;
        own = engine.warmed(&address).await?;
    }
    let head = engine.store.head(broadcast).await?.unwrap_or_default();
    Ok((own, head))
}

enum Offered {
    Staged,
    /// The state is not what the mark was worked out on: a send in between may have moved it.
    Stale(Option<Reply>),
}

/// Stages a mark unless something was staged since `seen`.
fn offer(engine: &Inner, conversation: &Arc<Conversation>, item: Item, seen: u64, reply: Option<Reply>) -> Result<Offered, Unstaged> {
    let transaction = Transaction::of(item);
    let stamp = Stamp {
        command: engine.fresh_command(),
        digest: 0,
        remember: false,
        at: engine.clock.now(),
    };
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
        Ok(true) => Ok(Offered::Staged),
        Ok(false) => Ok(Offered::Stale(shared.lock().take())),
        Err((refusal, _)) => Err((refusal, shared.lock().take())),
    }
}

/// The seq to read up to, at most the head, and the countable messages up to it.
async fn read_number(
    engine: &Inner,
    conversation: &Conversation,
    read: Option<Seq>,
    (head, head_n): (Seq, u32),
) -> Result<Option<(Seq, u32)>, Refusal> {
    match read.map(|seq| seq.min(head)) {
        None => Ok(None),
        Some(seq) if seq == head => Ok(Some((seq, head_n))),
        Some(seq) => Ok(Some((seq, number_at(engine, conversation, seq).await?))),
    }
}

fn unchanged(engine: &Inner, conversation: &Arc<Conversation>, reply: Option<Reply>) {
    let Some(reply) = reply else { return };
    let outcome = Outcome::nothing(conversation.id, engine.clock.now());
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
