//! Notifications for participants who are not looking: of messages, offers, bookings and new conversations.
//!
//! Nothing here keeps a message's text: a notification names its message, whose present text is joined on reading. Hooks run at
//! least once, so every step asks what it has already told: by seq for messages, by time of change for offers and bookings, by
//! user for new conversations.
//!
//! * [`topic`]: what there is to tell, and in which words.
//! * [`recipient`]: who is told: preferences, who is looking.
//! * [`batch`]: many messages, few notifications.
//! * [`deal`]: offers and bookings.
//! * [`chat`]: new conversations.

mod batch;
mod chat;
mod deal;
mod recipient;
mod settings;
#[cfg(test)]
mod tests;
mod topic;

use haggle_sdk::prelude::*;

use crate::{recipient::Told, settings::Settings, topic::Topic};

/// The plugin.
#[derive(Default)]
pub struct MarketplaceNotifications {
    settings: Settings,
}

impl Lifecycle for MarketplaceNotifications {
    fn init(&mut self, config: &str) -> Result<(), Failure> {
        self.settings = Settings::read(config)?;
        Ok(())
    }
}

impl AfterMessage for MarketplaceNotifications {
    fn after_message(&mut self, call: &Call, message: Message) -> Result<(), Failure> {
        let settings = &self.settings;
        if message.deleted_at_ms.is_some() || settings.kinds_ignored.contains(&message.kind) {
            return Ok(());
        }
        match (message.op, deal::is_one(&message)) {
            (Op::Send, true) => deal::sent(settings, &message)?,
            (Op::Edit, true) => deal::changed(settings, call, &message)?,
            (Op::Send, false) if is_by_admin(settings, call, &message) => by_admin(settings, &message)?,
            (Op::Send, false) => batch::sent(settings, call, &message)?,
            _ => {}
        }
        Ok(())
    }
}

/// By the token that the message was sent with: what a profile says about its owner is for display.
fn is_by_admin(settings: &Settings, call: &Call, message: &Message) -> bool {
    !settings.admin_role.is_empty() && call.actor == message.sender_id && call.has_role(&settings.admin_role)
}

/// Not batched: what an admin says is not one of many.
fn by_admin(settings: &Settings, message: &Message) -> Result<(), Error> {
    let title = settings.title(Topic::MessageAdmin, &recipient::name(&message.sender_id)?);
    for who in recipient::of(settings, message)? {
        let told = Told::of_message(Topic::MessageAdmin, title.clone(), message, format!("admin:{}", message.conversation_id));
        recipient::tell(&who.user_id, &message.conversation_id, told)?;
    }
    Ok(())
}

impl AfterConversation for MarketplaceNotifications {
    fn after_conversation(&mut self, _call: &Call, op: ConversationOp, conversation: Conversation) -> Result<(), Failure> {
        if op == ConversationOp::Create {
            chat::created(&self.settings, &conversation)?;
        }
        Ok(())
    }
}

impl AfterParticipant for MarketplaceNotifications {
    fn after_participant(&mut self, call: &Call, change: ParticipantChange) -> Result<(), Failure> {
        match change.op {
            ParticipantOp::Join => chat::joined(&self.settings, call, &change.user_id)?,
            ParticipantOp::Leave => chat::left(&change.user_id)?,
            ParticipantOp::Role => {}
        }
        Ok(())
    }
}

impl Timer for MarketplaceNotifications {
    fn timer(&mut self, call: &Call, name: &str, _due_ms: u64, _payload: &str) -> Result<(), Failure> {
        if name == batch::FLUSH {
            batch::flush(&self.settings, call)?;
        }
        Ok(())
    }
}

haggle_sdk::plugin! {
    MarketplaceNotifications,
    hooks: [after_message, after_conversation, after_participant, timer, lifecycle],
    caps: [log, metrics, kv, messages, conversations, participants, users, notifications, timers],
}
