//! The life of a command: its place in the queue, its turn, its transaction.
//!
//! Every transport ends in [`submit`]; every plugin hangs off [`decide`].

mod check;
mod context;
mod conversations;
mod messages;
mod personal;
mod target;

use std::{future::ready, sync::Arc};

use futures_util::future::{BoxFuture, Either};
use haggle_model::{CommandId, ConversationId, ConversationKind, ErrorCode, PluginId};
use haggle_store::CommandRow;

use self::{
    check::check_request,
    context::{Context, Decided},
    personal::personal_first,
    target::{Target, target},
};
pub(crate) use self::{
    check::{check_kind, check_text},
    conversations::created,
    personal::open_first,
};
use crate::{
    Command, Inner, Outcome, Refusal, Reply, Request,
    commands_seen::Seen,
    conversation::{Turn, Work},
    digest::digest,
    ports::Plan,
    scope::HandlerScope,
    transaction::{Stamp, Transaction},
};

/// Takes the command's place in its conversation's queue, at once; where nothing waits it is staged before this returns.
pub(crate) fn submit(engine: &Arc<Inner>, request: Request, reply: Reply) {
    submit_known(engine, request, None, reply);
}

/// The same for a command that, unless the client has named it, has this id: sent again, it gets the first answer.
pub(crate) fn submit_as(engine: &Arc<Inner>, request: Request, id: CommandId, reply: Reply) {
    submit_known(engine, request, Some(id), reply);
}

fn submit_known(engine: &Arc<Inner>, request: Request, id: Option<CommandId>, reply: Reply) {
    engine.metrics.commands.increment(1);
    if let Err(refusal) = engine.admit(&request.actor).and_then(|()| check_request(engine, &request)) {
        engine.metrics.refused(refusal.code);
        return reply(Err(refusal));
    }
    let at = target(engine, &request);
    let command = match &request.client_id {
        Some(client_id) => CommandId::of_client(&request.actor.user, at.id, client_id),
        None => id.unwrap_or_else(|| engine.fresh_command()),
    };
    let user = request.actor.user.clone();
    let digest = if request.client_id.is_some() { digest(&request.command) } else { 0 };
    let metrics = engine.metrics.clone();
    let reply: Reply = Box::new(move |answer| {
        if let Err(refusal) = &answer {
            metrics.refused(refusal.code);
        }
        reply(answer);
    });
    let remember = request.client_id.is_some() || id.is_some();
    let of_hour = request.actor.is_limited() && matches!(request.command, Command::Send { .. });
    engine.enter(
        at.id,
        &user,
        CommandWork {
            of_hour,
            plan: engine.hooks.plan(),
            request,
            reply,
            at,
            command,
            digest,
            remember,
            origin: Vec::new(),
            countable: true,
        },
    );
}

/// A command that the log asks for: not limited in rate, known by the id of its item.
/// `countable`: a message that it sends counts as unread.
pub(crate) fn submit_item(engine: &Arc<Inner>, request: Request, command: CommandId, origin: Vec<PluginId>, countable: bool, reply: Reply) {
    let at = target(engine, &request);
    let user = request.actor.user.clone();
    engine.enter(
        at.id,
        &user,
        CommandWork {
            of_hour: false,
            plan: engine.hooks.plan(),
            request,
            reply,
            at,
            command,
            digest: 0,
            remember: true,
            origin,
            countable,
        },
    );
}

/// A command on its way through its turn.
struct CommandWork {
    /// It takes one of the messages that its sender has in an hour.
    of_hour: bool,
    plan: Arc<dyn Plan>,
    request: Request,
    reply: Reply,
    at: Target,
    command: CommandId,
    digest: u64,
    /// A retry must be recognised.
    remember: bool,
    /// Plugins that led to it, oldest first.
    origin: Vec<PluginId>,
    /// A message that it sends counts as unread.
    countable: bool,
}

impl Work for CommandWork {
    #[expect(clippy::manual_async_fn, reason = "an async function keeps room for its arguments twice")]
    fn run(self, turn: Turn) -> impl Future<Output = ()> + Send + 'static {
        async move {
            let conversation = &turn.conversation;
            if let Some(next) = self.at.probe(&turn) {
                let engine = turn.engine.clone();
                drop(turn);
                let user = self.request.actor.user.clone();
                return engine.enter(next.id, &user, CommandWork { at: next, ..self });
            }
            if self.remember {
                match answered(&turn, self.command, self.digest).await {
                    Ok(None) => {}
                    Ok(Some(outcome)) => return conversation.answer(self.reply, Ok(outcome)),
                    Err(refusal) => return conversation.answer(self.reply, Err(refusal)),
                }
                conversation.attempt_begins(self.command);
            }
            // Here, since a retry of what was sent takes none.
            if self.of_hour
                && let Err(refusal) = turn.engine.rates.take_of_hour(&self.request.actor.user)
            {
                return conversation.answer(self.reply, Err(refusal));
            }
            let now = turn.engine.clock.now();
            let context = Context {
                turn: &turn,
                plan: &*self.plan,
                actor: &self.request.actor,
                client_id: self.request.client_id.as_deref(),
                trace_id: &self.request.trace_id,
                address: self.at.address.as_ref(),
                command: self.command,
                now,
                origin: self.origin,
                countable: self.countable,
                scope: Default::default(),
            };
            let decided = decide(&context, self.request.command).await;
            let scope = context.scope.into_inner();
            let holds = scope.as_ref().is_some_and(HandlerScope::holds);
            let stamp = Stamp {
                command: self.command,
                digest: self.digest,
                remember: self.remember || holds,
                at: now,
            };
            conversation.guarded.lock().state.pending = None;
            let Some((answer, reply)) = stage(&turn, decided, stamp, self.reply) else {
                return scope.iter().for_each(HandlerScope::kept);
            };
            if let Some(scope) = scope {
                scope.release().await;
            }
            if let Some(reply) = reply {
                conversation.answer(reply, answer);
            }
        }
    }

    fn refuse(self, refusal: Refusal) {
        (self.reply)(Err(refusal));
    }
}

/// Stages what was decided; `None` when the lane has it, which then answers. Else the answer to give, once the reservations of
/// the command are given back.
fn stage(turn: &Turn, decided: Result<Decided, Refusal>, stamp: Stamp, reply: Reply) -> Option<(Result<Outcome, Refusal>, Option<Reply>)> {
    match decided {
        Ok(Decided::Write(transaction)) => match turn.conversation.stage(&turn.engine, *transaction, stamp, Some(reply)) {
            Ok(()) => None,
            Err((refusal, reply)) => Some((Err(refusal), reply)),
        },
        Ok(Decided::Nothing { seq, existed, answer }) => {
            let outcome = Outcome {
                conversation: turn.conversation.id,
                seq,
                at: stamp.at,
                duplicate: false,
                existed,
                answer,
            };
            Some((Ok(outcome), Some(reply)))
        }
        Err(refusal) => Some((Err(refusal), Some(reply))),
    }
}

/// The stored answer of an earlier copy of the command.
pub(crate) async fn answered(turn: &Turn, command: CommandId, digest: u64) -> Result<Option<Outcome>, Refusal> {
    let row = match turn.conversation.with_state(|state| state.commands.get(command)) {
        Seen::No => None,
        Seen::Yes(row) => Some(row),
        Seen::Maybe => turn.engine.store.command(turn.conversation.id, command).await?,
    };
    row.map(|row| repeat(turn.conversation.id, row, digest)).transpose()
}

fn repeat(conversation: ConversationId, row: CommandRow, digest: u64) -> Result<Outcome, Refusal> {
    if row.digest != digest {
        return Err(Refusal::new(
            ErrorCode::IdempotencyKeyReused,
            "the same idempotency key came with other content",
        ));
    }
    Ok(Outcome {
        conversation,
        seq: row.seq,
        at: row.at,
        duplicate: true,
        existed: false,
        answer: row.answer,
    })
}

fn decide(context: &Context<'_>, asked: Command) -> impl Future<Output = Result<Decided, Refusal>> {
    let decision: BoxFuture<'_, Result<Decided, Refusal>> = match asked {
        // Most commands: the others are boxed, so that a message does not carry their futures along.
        Command::Send { message, .. } => return Either::Left(messages::send(context, message)),
        Command::Edit {
            message,
            text,
            metadata,
            if_rev,
        } => Box::pin(messages::edit(context, message, text, metadata, if_rev)),
        Command::Delete { message, if_rev } => Box::pin(messages::delete(context, message, if_rev)),
        Command::React { message, emoji } => Box::pin(messages::react(context, message, emoji)),
        Command::CreateConversation(new) => Box::pin(conversations::create(context, new)),
        Command::UpdateConversation { update, .. } => Box::pin(conversations::update_conversation(context, update)),
        Command::CloseConversation { closed, reason, .. } => Box::pin(conversations::close(context, closed, reason)),
        Command::AddParticipant { user, role, .. } => Box::pin(conversations::add(context, user, role)),
        Command::RemoveParticipant { user, .. } => Box::pin(conversations::remove(context, user)),
        Command::SetRole { user, role, .. } => Box::pin(conversations::set_role(context, user, role)),
        Command::Block { user, blocked } => Box::pin(ready(conversations::block(context, user, blocked))),
        Command::Call { name, conversation, payload } => Box::pin(call(context, conversation.is_some(), name, payload)),
        Command::Archive { conversation, archived } => Box::pin(personal::archive(context, conversation, archived)),
        Command::Hide { conversation } => Box::pin(personal::hide(context, conversation)),
        Command::Mute { conversation, until } => Box::pin(personal::mute(context, conversation, until)),
        Command::HideMessage { message } => Box::pin(personal::hide_message(context, message)),
        Command::UpdateProfile { user, patch } => Box::pin(personal::update_profile(context, user, patch)),
        Command::ReadNotification { seq } => Box::pin(personal::read_notification(context, seq)),
        Command::ReadAllNotifications => Box::pin(ready(personal::read_all_notifications(context))),
    };
    Either::Right(decision)
}

async fn call(context: &Context<'_>, in_conversation: bool, name: String, payload: String) -> Result<Decided, Refusal> {
    let actor = context.actor;
    if in_conversation {
        let may = context.state(|state| state.members.contains_key(&actor.user) || (state.row.is_some() && actor.is_admin()));
        if !may || context.kind() == ConversationKind::Personal {
            return Err(Refusal::not_found());
        }
    }
    let no_command = || Refusal {
        field: Some("/name"),
        ..Refusal::new(ErrorCode::NotFound, format!("no active plugin has the command {name:?}"))
    };
    let plugin = context.plan.command_owner(&name).ok_or_else(no_command)?;
    let answer = context.plan.command(context.scope(), &plugin, &name, &payload).await?;
    let mut transaction = context.scope().join(context.plan, Transaction::default()).await?;
    if transaction.is_empty() && transaction.emits.is_empty() && context.client_id.is_none() {
        return Ok(Decided::Nothing {
            seq: 0,
            existed: false,
            answer: Some(answer),
        });
    }
    transaction.effects.answer = Some(answer);
    personal_first(context, &mut transaction);
    Decided::write(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each command copies its future to the heap once; one that waits for nothing should not pay for those that do.
    #[test]
    fn a_message_carries_little_along() {
        fn size<F>(_: impl FnOnce(CommandWork, Turn) -> F) -> usize {
            size_of::<F>()
        }
        let (work, future) = (size_of::<CommandWork>(), size(CommandWork::run));
        assert!(future <= work + 768, "{future} bytes, {work} of them the command");
    }
}
