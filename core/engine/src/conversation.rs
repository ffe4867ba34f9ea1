//! A conversation in memory: its turn, its state, and who is to be told of what has committed.

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use haggle_model::{CommandId, ConversationId, ConversationKind, Entry, ErrorCode, Event, UserId};
use haggle_store::CommandRow;
use parking_lot::Mutex;

use crate::{
    Inner, Outcome, Refusal, Reply,
    lanes::{Lane, Staged},
    state::{MarksAhead, State},
    transaction::{StagedEntry, Stamp, Transaction, Unsent},
    turns::TurnQueue,
};

/// Something that runs in a turn.
pub(crate) trait Work: Send + Sized + 'static {
    /// Runs in its turn.
    fn run(self, turn: Turn) -> impl Future<Output = ()> + Send + 'static;
    /// Never gets its turn.
    fn refuse(self, refusal: Refusal);
}

/// [`Work`] that waits.
pub(crate) trait WaitingWork: Send {
    fn run(self: Box<Self>, turn: Turn) -> BoxFuture<'static, ()>;
    fn refuse(self: Box<Self>, refusal: Refusal);
}

impl<W: Work> WaitingWork for W {
    fn run(self: Box<Self>, turn: Turn) -> BoxFuture<'static, ()> {
        Box::pin(Work::run(*self, turn))
    }

    fn refuse(self: Box<Self>, refusal: Refusal) {
        Work::refuse(*self, refusal);
    }
}

/// Where a conversation's state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Cold,
    Loading,
    Warm,
}

/// What the turn's lock protects.
pub(crate) struct Guarded {
    pub phase: Phase,
    /// Somebody has the turn.
    pub busy: bool,
    /// An append of its shard failed: nothing may be staged on this memory.
    pub dead: bool,
    pub queue: TurnQueue<Box<dyn WaitingWork>>,
    /// A task watches for work that waits too long.
    pub expiring: bool,
    pub state: State,
    pub used: Instant,
}

/// Who gets what is published: kept by the lane, in the order of the log.
#[derive(Debug)]
pub(crate) struct Audience {
    pub kind: ConversationKind,
    pub users: Vec<UserId>,
}

/// A conversation that somebody uses.
pub(crate) struct Conversation {
    pub id: ConversationId,
    pub lane: Arc<Lane>,
    pub guarded: Mutex<Guarded>,
    pub audience: Mutex<Audience>,
}

impl Conversation {
    pub fn new(id: ConversationId, lane: Arc<Lane>) -> Arc<Conversation> {
        let guarded = Guarded {
            phase: Phase::Cold,
            busy: false,
            dead: false,
            queue: TurnQueue::default(),
            expiring: false,
            state: State::default(),
            used: Instant::now(),
        };
        let audience = Audience {
            kind: ConversationKind::Personal,
            users: Vec::new(),
        };
        Arc::new(Conversation {
            id,
            lane,
            guarded: Mutex::new(guarded),
            audience: Mutex::new(audience),
        })
    }

    /// Reads the state with everything staged.
    pub fn with_state<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.guarded.lock().state)
    }

    /// A new attempt at the command begins, so the former one is over: what was void was that one. What it had reserved and did
    /// not give back the new attempt must reserve again.
    pub fn attempt_begins(&self, command: CommandId) {
        self.guarded.lock().state.voids.retain(|void| *void != command);
    }

    /// Gives an answer that writes nothing: at once, or when what it has seen is durable.
    pub fn answer(self: &Arc<Self>, reply: Reply, answer: Result<Outcome, Refusal>) {
        let seen = {
            let guarded = self.guarded.lock();
            (!guarded.dead).then_some(guarded.state.last_ticket)
        };
        match seen {
            Some(ticket) if ticket > self.lane.committed() => self.lane.answer(self.clone(), reply, answer),
            Some(_) => reply(answer),
            // What it saw may never have been written.
            None => reply(Err(unavailable())),
        }
    }

    /// Stages a transaction: it gets its seqs now, its time and place from the lane, and its answer when it is durable.
    pub fn stage(
        self: &Arc<Self>,
        engine: &Inner,
        transaction: Transaction,
        stamp: Stamp,
        reply: Option<Reply>,
    ) -> Result<(), (Refusal, Option<Reply>)> {
        self.stage_if(engine, transaction, stamp, reply, |_| true).map(drop)
    }

    /// The same, if the state still is what the caller has seen: `false` when it is not.
    pub fn stage_if(
        self: &Arc<Self>,
        engine: &Inner,
        transaction: Transaction,
        stamp: Stamp,
        reply: Option<Reply>,
        stands: impl FnOnce(&State) -> bool,
    ) -> Result<bool, (Refusal, Option<Reply>)> {
        let mut guarded = self.guarded.lock();
        if !stands(&guarded.state) {
            return Ok(false);
        }
        if let Err(refusal) = may_stage(&guarded, &transaction, &stamp, engine) {
            return Err((refusal, reply));
        }
        let entries = sequence(&guarded.state, self.id, transaction.items, transaction.main, transaction.effects, &stamp);
        let main = entries.iter().find(|(entry, _)| entry.command == Some(stamp.command));
        let main = main.or(entries.first()).map(|(entry, _)| entry);
        let outcome = Outcome {
            conversation: self.id,
            seq: main.map_or(0, |entry| entry.seq),
            at: stamp.at,
            duplicate: false,
            existed: transaction.existed,
            answer: main.and_then(|entry| entry.effects.answer.clone()),
        };
        let bytes = transaction_bytes(&entries);
        let seen = CommandRow {
            id: stamp.command,
            digest: stamp.digest,
            seq: outcome.seq,
            at: stamp.at,
            answer: outcome.answer.clone(),
        };
        let reply = reply.map(|reply| (reply, Ok(outcome)));
        let staged = self.lane.push(entries, |ticket, entries| Staged {
            ticket,
            conversation: self.clone(),
            entries,
            emits: transaction.emits,
            reply,
            bytes,
        });
        let (ticket, entries) = match staged {
            Ok(staged) => staged,
            Err((refusal, reply)) => return Err((refusal, reply.and_then(|staged| staged.reply.map(|(reply, _)| reply)))),
        };
        let committed = self.lane.committed();
        guarded.state.forget_committed(committed);
        for entry in &entries {
            guarded.state.apply(ticket, entry);
        }
        if stamp.remember {
            let forget_before = stamp.at - engine.limits.idempotency.as_millis() as i64;
            guarded.state.commands.insert(seen, engine.limits.command_ids_max, forget_before);
        }
        Ok(true)
    }
}

fn may_stage(guarded: &Guarded, transaction: &Transaction, stamp: &Stamp, engine: &Inner) -> Result<(), Refusal> {
    if guarded.dead {
        return Err(unavailable());
    }
    if guarded.state.voids.contains(&stamp.command) {
        return Err(Refusal::new(
            ErrorCode::Unavailable,
            "the command took too long and its reservations were given to another; send it again",
        ));
    }
    let (bytes, bytes_max) = (transaction.bytes(), engine.limits.transaction_bytes_max);
    if bytes > bytes_max {
        return Err(Refusal::new(
            ErrorCode::TooLarge,
            format!("the transaction has {bytes} bytes, limits.transaction_bytes_max is {bytes_max}"),
        ));
    }
    Ok(())
}

/// Gives the items their seqs and counts; the effects go with the main item.
fn sequence(
    state: &State,
    conversation: ConversationId,
    items: Vec<crate::transaction::Item>,
    main: usize,
    effects: haggle_model::Effects,
    stamp: &Stamp,
) -> Vec<Unsent> {
    let (mut seq, mut n) = (state.head, state.head_n);
    let mut marks = MarksAhead::new(state);
    let mut effects = Some(effects);
    let mut items = items;
    if items.is_empty() {
        items.push(crate::transaction::Item::new(&UserId::from(""), Event::Effects));
    }
    let mut entries = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let sequenced = item.event.is_sequenced();
        seq += u32::from(sequenced);
        let countable = matches!(&item.event, Event::MessageCreated(content) if content.countable);
        n += u32::from(countable);
        let is_main = index == main;
        let mut effects = if is_main {
            effects.take().unwrap_or_default()
        } else {
            haggle_model::Effects::default()
        };
        if let Event::ParticipantJoined { user, .. } = &item.event {
            marks.joined(user, seq, n);
        }
        if countable && let Some(actor) = &item.actor {
            effects.mark = marks.sent(actor, seq, n);
        }
        let entry = Entry {
            ts: 0,
            at: stamp.at,
            conversation,
            seq: if sequenced { seq } else { 0 },
            n,
            actor: item.actor,
            command: if is_main { Some(stamp.command) } else { item.command },
            digest: if is_main { stamp.digest } else { 0 },
            origin: item.origin,
            event: item.event,
            effects,
            redacted: false,
        };
        entries.push((Arc::new(entry), item.before));
    }
    entries
}

fn transaction_bytes(entries: &[Unsent]) -> usize {
    entries
        .iter()
        .map(|(entry, _)| match &entry.event {
            Event::MessageCreated(content) => 160 + content.text.len() + content.metadata.as_ref().map_or(0, String::len),
            _ => 512,
        })
        .sum()
}

/// The answer when nobody knows whether something was written, or the shard is not there.
pub(crate) fn unavailable() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the store did not answer; send it again with the same id").after(std::time::Duration::from_secs(1))
}

/// The right to decide on a conversation. The next one's turn begins when it is dropped.
pub(crate) struct Turn {
    pub engine: Arc<Inner>,
    pub conversation: Arc<Conversation>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut guarded = self.conversation.guarded.lock();
            let next = guarded.queue.pop();
            guarded.busy = next.is_some();
            next
        };
        if let Some(work) = next {
            let turn = Turn {
                engine: self.engine.clone(),
                conversation: self.conversation.clone(),
            };
            self.engine.runtime.spawn(async move { work.run(turn).await });
        }
    }
}

/// What was staged, as the lane keeps it.
pub(crate) fn staged_entries(entries: Vec<Unsent>, ts: &mut u64, now: u64) -> Vec<StagedEntry> {
    entries
        .into_iter()
        .map(|(mut entry, before)| {
            *ts = now.max(*ts + 1);
            Arc::make_mut(&mut entry).ts = *ts; // in place: nobody else has it yet
            StagedEntry::new(entry, before)
        })
        .collect()
}

/// The id of a plugin's own message in a command's transaction.
pub(crate) fn sub_command(command: CommandId, index: usize) -> CommandId {
    CommandId::hash(&[b"sub", &command.0, &(index as u32).to_be_bytes()])
}
