//! What feeds do in the turns of others, each with an id under which a second time changes nothing.

use std::sync::Arc;

use haggle_model::{Address, CommandId, Content, ConversationId, Entry, ErrorCode, Event, PluginId, UserId};
use tokio::sync::oneshot;

use crate::{
    Actor, Command, Inner, NewConversation, NewMessage, Outcome, Refusal, Reply, Request, To, Transport,
    conversation::{Turn, Work, unavailable},
    pipeline::{self, answered, open_first},
    ports::{After, Call, HookError, Plan},
    scope::{self, HandlerScope, Place},
    transaction::{Item, Stamp, Transaction},
};

/// How often a handler outside the turn runs again because what it read has changed.
pub(crate) const RUNS_MAX: u32 = 3;

fn channel() -> (Reply, oneshot::Receiver<Result<Outcome, Refusal>>) {
    let (done, answer) = oneshot::channel();
    (Box::new(move |outcome| drop(done.send(outcome))), answer)
}

async fn wait(answer: oneshot::Receiver<Result<Outcome, Refusal>>) -> Result<Outcome, Refusal> {
    answer.await.map_err(|_| unavailable())?
}

/// An event of a personal conversation, because of something in the conversation `from`.
pub(crate) async fn personal(engine: &Arc<Inner>, to: &Address, event: Event, from: ConversationId, id: CommandId) -> Result<(), Refusal> {
    let (reply, answer) = channel();
    let conversation = engine.warmed(to).await?;
    engine.enter(
        conversation.id,
        &UserId::from(""),
        PersonalWork {
            to: to.clone(),
            event,
            from,
            id,
            reply,
        },
    );
    wait(answer).await.map(drop)
}

struct PersonalWork {
    to: Address,
    event: Event,
    from: ConversationId,
    id: CommandId,
    reply: Reply,
}

impl Work for PersonalWork {
    async fn run(self, turn: Turn) {
        let PersonalWork { to, event, from, id, reply } = self;
        match answered(&turn, id, 0).await {
            Ok(None) => {}
            Ok(Some(outcome)) => return turn.conversation.answer(reply, Ok(outcome)),
            Err(refusal) => return turn.conversation.answer(reply, Err(refusal)),
        }
        match is_muted(&turn, &to, &event, from).await {
            Ok(false) => {}
            Ok(true) => {
                return turn
                    .conversation
                    .answer(reply, Ok(Outcome::nothing(turn.conversation.id, turn.engine.clock.now())));
            }
            Err(refusal) => return turn.conversation.answer(reply, Err(refusal)),
        }
        let mut transaction = Transaction::of(Item::new(&UserId::from(""), event));
        if turn.conversation.with_state(|state| state.row.is_none()) {
            open_first(&to, &mut transaction);
        }
        stage(&turn, transaction, id, reply);
    }

    fn refuse(self, refusal: Refusal) {
        (self.reply)(Err(refusal));
    }
}

/// A notification from a conversation from which its user wants none now: the one of its message, or where it was made.
async fn is_muted(turn: &Turn, to: &Address, event: &Event, from: ConversationId) -> Result<bool, Refusal> {
    let (Address::Personal(user), Event::Notified(notification)) = (to, event) else {
        return Ok(false);
    };
    let conversation = notification.message.map_or(from, |message| message.conversation);
    let until = match turn.conversation.with_state(|state| state.staged_mute(conversation)) {
        Some(until) => until,
        None => turn.engine.store.personal(user, conversation).await?.muted_until,
    };
    Ok(until.is_some_and(|until| until > turn.engine.clock.now()))
}

fn stage(turn: &Turn, transaction: Transaction, id: CommandId, reply: Reply) -> bool {
    let stamp = Stamp {
        command: id,
        digest: 0,
        remember: true,
        at: turn.engine.clock.now(),
    };
    match turn.conversation.stage(&turn.engine, transaction, stamp, Some(reply)) {
        Ok(()) => true,
        Err((refusal, Some(reply))) => {
            turn.conversation.answer(reply, Err(refusal));
            false
        }
        Err((_, None)) => false,
    }
}

/// A message of a plugin for another conversation; the before-hooks of the other plugins run.
pub(crate) async fn message(
    engine: &Arc<Inner>,
    to: &Address,
    sender: &UserId,
    content: &Content,
    id: CommandId,
    origin: Vec<PluginId>,
) -> Result<(), Refusal> {
    let conversation = match to {
        Address::Existing(id) => *id,
        address => engine.warmed(address).await?.id,
    };
    let message = NewMessage {
        kind: content.kind.clone(),
        text: content.text.clone(),
        metadata: content.metadata.clone(),
        reply_to: content.reply_to,
        forwarded_from: content.forwarded_from,
    };
    let actor = Actor::user(sender.clone(), Transport::Internal);
    let (reply, answer) = channel();
    let request = Request::new(
        actor,
        Command::Send {
            to: To::Conversation(conversation),
            message,
        },
    );
    pipeline::submit_item(engine, request, id, origin, content.countable, reply);
    wait(answer).await.map(drop)
}

/// A context conversation of a plugin.
pub(crate) async fn conversation(
    engine: &Arc<Inner>,
    to: &Address,
    participants: Vec<UserId>,
    name: Option<String>,
    state: Option<String>,
    id: CommandId,
    origin: Vec<PluginId>,
) -> Result<(), Refusal> {
    let Address::Context(owner, context_type, context_id) = to else {
        return Err(Refusal::new(ErrorCode::Internal, "only contexts are made by plugins"));
    };
    let new = NewConversation::Context {
        owner: owner.to_string(),
        context_type: context_type.clone(),
        context_id: context_id.clone(),
        participants,
        name,
        state,
    };
    let (reply, answer) = channel();
    pipeline::submit_item(
        engine,
        Request::new(Actor::plugin(owner), Command::CreateConversation(new)),
        id,
        origin,
        true,
        reply,
    );
    wait(answer).await.map(drop)
}

/// Tells a plugin what happened, outside the turn, and stages what it writes in a short one.
pub(crate) async fn after(
    engine: &Arc<Inner>,
    plan: &Arc<dyn Plan>,
    plugin: &PluginId,
    entry: &Entry,
    event: &After,
    id: CommandId,
) -> Result<(), HookError> {
    let hook = event.hook().as_str();
    let failed = |refusal: Refusal| HookError {
        plugin: plugin.clone(),
        hook,
        kind: kind_of(&refusal),
        message: refusal.to_string(),
    };
    let actor = actor_of(entry);
    let conversation = engine.warmed_id(entry.conversation).await.map_err(failed)?;
    for _ in 0..RUNS_MAX {
        conversation.attempt_begins(id);
        let call = Call {
            command: id,
            actor: actor.clone(),
            trace_id: String::new(),
            now: engine.clock.now(),
            conversation: Some(entry.conversation),
            origin: entry.origin.clone(),
        };
        let scope = HandlerScope::new(engine, &conversation, Place::OutsideTurn, call);
        if let Err(error) = plan.after(&scope, plugin, event).await {
            scope.release().await;
            return Err(error);
        }
        match commit(engine, plan, plugin, scope, entry.conversation, None, id).await {
            Ok(true) => return Ok(()),
            Ok(false) => continue,
            Err(refusal) => return Err(failed(refusal)),
        }
    }
    Err(HookError {
        plugin: plugin.clone(),
        hook,
        kind: "error",
        message: "what the handler read kept changing under it".into(),
    })
}

/// Who did it, with the roles of the token where the entry keeps them.
fn actor_of(entry: &Entry) -> Actor {
    let Some(user) = entry.actor.clone() else { return Actor::server() };
    let roles = match &entry.event {
        Event::MessageCreated(content) | Event::MessageEdited { content, .. } => content.sender_roles.as_slice().into(),
        _ => [].into(),
    };
    Actor {
        roles,
        ..Actor::user(user, Transport::Internal)
    }
}

/// Whether a handler's transaction failed, or what it needs is away.
pub(crate) fn kind_of(refusal: &Refusal) -> &'static str {
    match refusal.code {
        ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::Overloaded => "unavailable",
        _ => "error",
    }
}

/// Stages what a handler outside the turn wrote; `false` when what it read does not stand any more.
pub(crate) async fn commit(
    engine: &Arc<Inner>,
    plan: &Arc<dyn Plan>,
    plugin: &PluginId,
    scope: HandlerScope,
    conversation: ConversationId,
    address: Option<Address>,
    id: CommandId,
) -> Result<bool, Refusal> {
    if !scope.has_writes() {
        return Ok(true);
    }
    let (reply, answer) = channel();
    let (stale, is_stale) = oneshot::channel();
    engine.enter(
        conversation,
        &UserId::from(""),
        StageWork {
            plan: plan.clone(),
            writer: Actor::plugin(plugin).user,
            scope,
            address,
            id,
            reply,
            stale,
        },
    );
    match wait(answer).await {
        Ok(_) => Ok(true),
        Err(_) if is_stale.await.is_ok() => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// The short turn in which a handler's writes are staged.
struct StageWork {
    plan: Arc<dyn Plan>,
    /// The plugin, as who did it in the log.
    writer: UserId,
    scope: HandlerScope,
    address: Option<Address>,
    id: CommandId,
    reply: Reply,
    /// Told when what the handler read has changed.
    stale: oneshot::Sender<()>,
}

impl Work for StageWork {
    async fn run(self, turn: Turn) {
        let StageWork {
            plan,
            writer,
            scope,
            address,
            id,
            reply,
            stale,
        } = self;
        match answered(&turn, id, 0).await {
            Ok(None) => {}
            answer => {
                scope.release().await;
                return turn
                    .conversation
                    .answer(reply, answer.map(|outcome| outcome.expect("None was matched above")));
            }
        }
        let reads = scope.take_reads();
        let now = turn.engine.clock.now();
        match scope::present::still_stands(&turn.engine, &turn.conversation, &reads, now).await {
            Ok(true) => {}
            Ok(false) => {
                scope.release().await;
                let _ = stale.send(());
                return reply(Err(Refusal::new(ErrorCode::Conflict, "what the handler read has changed")));
            }
            Err(refusal) => {
                scope.release().await;
                return turn.conversation.answer(reply, Err(refusal));
            }
        }
        let mut transaction = match scope.join(&*plan, Transaction::default()).await {
            Ok(transaction) => transaction,
            Err(refusal) => {
                scope.release().await;
                return turn.conversation.answer(reply, Err(refusal));
            }
        };
        if transaction.items.is_empty() {
            transaction.items.push(Item::new(&writer, Event::Effects));
        }
        if let Some(address) = &address
            && turn.conversation.with_state(|state| state.row.is_none())
        {
            open_first(address, &mut transaction);
        }
        if stage(&turn, transaction, id, reply) {
            scope.kept();
        } else {
            scope.release().await;
        }
    }

    fn refuse(self, refusal: Refusal) {
        // Reservations of a handler that never gets its turn are pending until somebody settles them.
        (self.reply)(Err(refusal));
    }
}
