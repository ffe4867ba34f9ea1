//! Decisions about what a user keeps for itself.

use haggle_model::{Address, ConversationId, ConversationKind, Event, MessageId, Millis, Seq, UserId};
use haggle_store::ConversationRow;

use super::{
    check::check_json_of_profile,
    context::{Context, Decided},
    conversations::created,
};
use crate::{
    ProfilePatch, Refusal, marks,
    transaction::{Item, Transaction},
};

/// The actor is a present participant, or a reader of a broadcast.
pub(super) async fn is_in(context: &Context<'_>, row: &ConversationRow) -> Result<bool, Refusal> {
    if row.kind() == ConversationKind::Broadcast {
        return Ok(true);
    }
    let member = context.engine().store.member(row.id, &context.actor.user).await?;
    Ok(member.is_some_and(|member| member.left_seq.is_none()))
}

/// The head of a conversation that the actor is in.
async fn must_be_in(context: &Context<'_>, conversation: ConversationId) -> Result<Seq, Refusal> {
    let row = context.engine().store.conversation(conversation).await?.ok_or_else(Refusal::not_found)?;
    if is_in(context, &row).await? {
        Ok(row.head)
    } else {
        Err(Refusal::not_found())
    }
}

pub(super) fn personal(context: &Context<'_>, event: Event) -> Result<Decided, Refusal> {
    let mut transaction = Transaction::of(Item::new(&context.actor.user, event));
    personal_first(context, &mut transaction);
    Decided::write(transaction)
}

/// A personal conversation is created by the first thing in it.
pub(super) fn personal_first(context: &Context<'_>, transaction: &mut Transaction) {
    if let Some(address @ Address::Personal(_)) = context.address
        && context.state(|state| state.row.is_none())
    {
        open_first(address, transaction);
    }
}

/// Puts the creation of the conversation before everything else.
pub(crate) fn open_first(address: &Address, transaction: &mut Transaction) {
    transaction.items.insert(0, Item::new(&UserId::from(""), created(address, None)));
    if transaction.items.len() > 1 {
        transaction.main += 1;
    }
}

pub(super) async fn update_profile(context: &Context<'_>, user: UserId, patch: ProfilePatch) -> Result<Decided, Refusal> {
    let old = context.engine().profile(&context.turn.conversation, &user).await?;
    let created = old.is_none();
    let old = old.unwrap_or_default();
    let new = patch.apply(old.clone());
    if !created && new == old {
        return Ok(Decided::UNCHANGED);
    }
    if new.attributes != old.attributes || new.preferences != old.preferences {
        check_json_of_profile(context.engine(), &new)?;
    }
    personal(context, Event::ProfileUpdated(new))
}

pub(super) async fn archive(context: &Context<'_>, conversation: ConversationId, archived: bool) -> Result<Decided, Refusal> {
    must_be_in(context, conversation).await?;
    personal(context, Event::ConversationArchived { conversation, archived })
}

pub(super) async fn hide(context: &Context<'_>, conversation: ConversationId) -> Result<Decided, Refusal> {
    let to_seq = must_be_in(context, conversation).await?;
    // What is never shown again is not unread.
    marks::move_to(context.engine(), context.actor, conversation, None, Some(to_seq), Some(Box::new(drop)));
    personal(context, Event::ConversationHidden { conversation, to_seq })
}

pub(super) async fn mute(context: &Context<'_>, conversation: ConversationId, until: Option<Millis>) -> Result<Decided, Refusal> {
    must_be_in(context, conversation).await?;
    personal(context, Event::ConversationMuted { conversation, until })
}

pub(super) async fn hide_message(context: &Context<'_>, message: MessageId) -> Result<Decided, Refusal> {
    must_be_in(context, message.conversation).await?;
    context.engine().store.message(message).await?.ok_or_else(Refusal::not_found)?;
    personal(context, Event::MessageHidden(message))
}

pub(super) async fn read_notification(context: &Context<'_>, seq: Seq) -> Result<Decided, Refusal> {
    let stored = context.engine().store.notification(&context.actor.user, seq).await?;
    let row = stored.ok_or_else(Refusal::not_found)?;
    if row.read {
        Ok(Decided::UNCHANGED)
    } else {
        personal(context, Event::NotificationsRead(vec![seq]))
    }
}

pub(super) fn read_all_notifications(context: &Context<'_>) -> Result<Decided, Refusal> {
    personal(context, Event::AllNotificationsRead(context.state(|state| state.head)))
}
