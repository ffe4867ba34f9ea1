//! Decisions about messages.

use std::future::ready;

use futures_util::future::Either;
use haggle_model::{Address, Content, ConversationKind, Decider, ErrorCode, Event, MessageId, Role, SENDER_ROLE_BYTES_MAX, SENDER_ROLES_MAX, Seq};
use haggle_store::MessageRow;

use super::{
    check::check_text,
    context::{Context, Decided},
    conversations::{opened, opening},
    personal::is_in,
};
use crate::{
    Actor, BUILT_IN_KINDS, NewMessage, Refusal,
    ports::{Draft, Hook, Op, ReactionChange},
    scope::{self, content_of},
    state::State,
    transaction::{Item, Transaction},
};

// Most commands are this one: what only some messages wait for is boxed, so that the others do not carry it along.
pub(super) async fn send(context: &Context<'_>, message: NewMessage) -> Result<Decided, Refusal> {
    let opening = match opened(context) {
        Some(new) => Some(Box::new(Box::pin(opening(context, new)).await?)),
        None => None,
    };
    context.state(|state| may_send(state, context.actor, opening.is_some()))?;
    if let Some(reply_to) = message.reply_to {
        let answered = if reply_to.conversation == context.id() {
            Box::pin(load_message(context, reply_to)).await?
        } else {
            None
        };
        answered.ok_or_else(|| Refusal::bad("/replyToId", "a reply answers a message of the same conversation"))?;
    }
    if let Some(forwarded) = message.forwarded_from {
        Box::pin(may_forward(context, forwarded)).await?;
    }
    let by_plugin = !context.origin.is_empty();
    if !by_plugin && !BUILT_IN_KINDS.contains(&message.kind.as_str()) && context.plan.claims(&message.kind).is_none() {
        return Err(Refusal::bad(
            "/type",
            format!("no active plugin handles messages of type {:?}", message.kind),
        ));
    }
    let draft = Draft {
        op: Op::Send,
        target: None,
        conversation: context.id(),
        sender: context.actor.user.clone(),
        kind: message.kind,
        text: message.text,
        metadata: message.metadata,
        reply_to: message.reply_to,
        forwarded_from: message.forwarded_from,
        client_id: context.client_id.map(str::to_owned),
    };
    let (draft, decided_by) = before_message(context, draft).await?;
    let mut transaction = opening.map_or_else(Transaction::default, |opening| *opening);
    transaction.main = transaction.items.len();
    transaction.items.push(Item::new(
        &context.actor.user,
        Event::MessageCreated(Content {
            sender_roles: kept_roles(context.actor),
            ..content_of(draft, context.countable, decided_by)
        }),
    ));
    context.join(transaction).await
}

/// What after-hooks are told of the sender's token.
fn kept_roles(actor: &Actor) -> Vec<String> {
    let short = actor.roles.iter().filter(|role| role.len() <= SENDER_ROLE_BYTES_MAX);
    short.take(SENDER_ROLES_MAX).cloned().collect()
}

fn may_send(state: &State, actor: &Actor, opening: bool) -> Result<(), Refusal> {
    if state.is_blocked() {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    if opening {
        return Ok(());
    }
    let kind = state.address().map(Address::kind);
    let speaks = match kind {
        None => false,
        Some(ConversationKind::Broadcast) => actor.is_admin(),
        Some(_) => state.members.contains_key(&actor.user) || owns(state, actor),
    };
    if !speaks {
        // Whoever may read a broadcast knows that it is there.
        return Err(if kind == Some(ConversationKind::Broadcast) {
            only_admins_write()
        } else {
            Refusal::not_found()
        });
    }
    if state.is_closed() {
        return Err(Refusal::new(ErrorCode::Conflict, "the conversation is closed"));
    }
    Ok(())
}

fn only_admins_write() -> Refusal {
    Refusal::forbidden("only admins write here")
}

/// A plugin speaks in its own contexts without being a participant.
fn owns(state: &State, actor: &Actor) -> bool {
    let plugin = actor.user.as_str().strip_prefix("plugin:");
    matches!((state.address(), plugin), (Some(Address::Context(owner, ..)), Some(plugin)) if owner.as_str() == plugin)
}

async fn may_forward(context: &Context<'_>, message: MessageId) -> Result<(), Refusal> {
    let refused = || Refusal::bad("/forwardedFromId", "there is no such message that you can read");
    let user = &context.actor.user;
    let readable = if message.conversation == context.id() {
        context.state(|state| state.members.contains_key(user))
    } else {
        match context.engine().store.conversation(message.conversation).await? {
            Some(row) => is_in(context, &row).await?,
            None => false,
        }
    };
    if !readable {
        return Err(refused());
    }
    let row = load_message(context, message).await?.ok_or_else(refused)?;
    let hidden = context.engine().store.is_hidden(user, message).await?;
    if row.deleted_at.is_some() || hidden { Err(refused()) } else { Ok(()) }
}

/// Runs the before-hooks, if there are any; what they rewrite is input again.
fn before_message(context: &Context<'_>, draft: Draft) -> impl Future<Output = Result<(Draft, Vec<Decider>), Refusal>> {
    if !context.plan.wants(Hook::BeforeMessage, &context.facts(context.kind(), Some(&draft.kind))) {
        return Either::Left(ready(Ok((draft, Vec::new()))));
    }
    Either::Right(Box::pin(async move {
        let mut draft = draft;
        let decided_by = context.plan.before_message(context.scope(), &mut draft, &context.origin).await?;
        check_text(context.engine(), Some(&draft.text), draft.metadata.as_deref())?;
        Ok((draft, decided_by))
    }))
}

/// A message, of the turn's own conversation with everything staged. `None` when it never was.
async fn load_message(context: &Context<'_>, id: MessageId) -> Result<Option<MessageRow>, Refusal> {
    if id.conversation == context.id() {
        return Ok(scope::present::message(context.engine(), &context.turn.conversation, id).await?);
    }
    Ok(context.engine().store.message(id).await?)
}

/// A message of this conversation that is there and not deleted, for a participant; of a broadcast for who writes there.
async fn present_message(context: &Context<'_>, id: MessageId, if_rev: Option<Seq>) -> Result<MessageRow, Refusal> {
    let actor = context.actor;
    match context.kind() {
        ConversationKind::Broadcast if actor.is_admin() => {}
        ConversationKind::Broadcast => return Err(only_admins_write()),
        _ if context.state(|state| state.members.contains_key(&actor.user)) => {}
        _ => return Err(Refusal::not_found()),
    }
    let row = load_message(context, id).await?.ok_or_else(Refusal::not_found)?;
    let hidden = context.engine().store.is_hidden(&context.actor.user, id).await?;
    if row.deleted_at.is_some() || hidden {
        return Err(Refusal::not_found());
    }
    match if_rev {
        Some(rev) if rev != row.rev => Err(Refusal::new(
            ErrorCode::PreconditionFailed,
            format!("the message is at {}, not at {rev}", row.rev),
        )),
        _ => Ok(row),
    }
}

pub(super) async fn edit(
    context: &Context<'_>,
    id: MessageId,
    text: Option<String>,
    metadata: Option<String>,
    if_rev: Option<Seq>,
) -> Result<Decided, Refusal> {
    let before = present_message(context, id, if_rev).await?;
    if before.sender != context.actor.user {
        return Err(Refusal::forbidden("only its sender edits a message"));
    }
    if context.state(State::is_blocked) {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    let old = &before.content;
    if !BUILT_IN_KINDS.contains(&old.kind.as_str()) && context.plan.claims(&old.kind).is_none() {
        return Err(Refusal::bad("/type", format!("no active plugin handles messages of type {:?}", old.kind)));
    }
    let draft = Draft {
        op: Op::Edit,
        target: Some(id),
        conversation: id.conversation,
        sender: before.sender.clone(),
        kind: old.kind.clone(),
        text: text.unwrap_or_else(|| old.text.clone()),
        metadata: metadata.or_else(|| old.metadata.clone()),
        reply_to: old.reply_to,
        forwarded_from: old.forwarded_from,
        client_id: old.client_id.clone(),
    };
    let (draft, decided_by) = before_message(context, draft).await?;
    let content = Content {
        kind: old.kind.clone(),
        silent: draft.text == old.text,
        sender_roles: kept_roles(context.actor),
        ..content_of(draft, old.countable, decided_by)
    };
    let item = Item::new(&context.actor.user, Event::MessageEdited { target: id.seq, content }).changing(before);
    context.join(Transaction::of(item)).await
}

pub(super) async fn delete(context: &Context<'_>, id: MessageId, if_rev: Option<Seq>) -> Result<Decided, Refusal> {
    let before = present_message(context, id, if_rev).await?;
    let own = before.sender == context.actor.user;
    let admin = match context.kind() {
        ConversationKind::Broadcast => context.actor.is_admin(),
        _ => context.state(|state| state.members.get(&context.actor.user).is_some_and(|member| member.role == Role::Admin)),
    };
    if !own && !admin {
        return Err(Refusal::forbidden("only its sender or an admin of the conversation deletes a message"));
    }
    let draft = Draft {
        op: Op::Delete,
        target: Some(id),
        conversation: id.conversation,
        sender: before.sender.clone(),
        kind: before.content.kind.clone(),
        text: before.content.text.clone(),
        metadata: before.content.metadata.clone(),
        reply_to: before.content.reply_to,
        forwarded_from: before.content.forwarded_from,
        client_id: None,
    };
    before_message(context, draft).await?;
    let n = if before.content.countable { before.n } else { 0 };
    let event = Event::MessageDeleted {
        target: id.seq,
        sender: before.sender.clone(),
        n,
    };
    context
        .join(Transaction::of(Item::new(&context.actor.user, event).changing(before)))
        .await
}

pub(super) async fn react(context: &Context<'_>, id: MessageId, emoji: Option<String>) -> Result<Decided, Refusal> {
    let before = present_message(context, id, None).await?;
    let user = &context.actor.user;
    let present = before.reactions.iter().find(|(other, _)| other == user).map(|(_, emoji)| emoji);
    if present == emoji.as_ref() {
        return Ok(Decided::UNCHANGED);
    }
    // Taking one away says nothing to the other.
    if emoji.is_some() && context.state(State::is_blocked) {
        return Err(Refusal::new(ErrorCode::Blocked, "one of you blocks the other"));
    }
    let change = ReactionChange {
        message: id,
        user: user.clone(),
        emoji: emoji.clone(),
    };
    if context
        .plan
        .wants(Hook::BeforeReaction, &context.facts(context.kind(), Some(&before.content.kind)))
    {
        context.plan.before_reaction(context.scope(), change).await?;
    }
    let event = match emoji {
        Some(emoji) => Event::ReactionAdded {
            target: id.seq,
            user: user.clone(),
            emoji,
        },
        None => Event::ReactionRemoved {
            target: id.seq,
            user: user.clone(),
        },
    };
    context.join(Transaction::of(Item::new(user, event).changing(before))).await
}
