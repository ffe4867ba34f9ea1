//! Many messages, few notifications: the first is told at once, what follows within the interval in one, and an unread one is
//! replaced by the next (`collapse`). The state of each user is a key `batch:<user>` of the conversation.

use haggle_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    recipient::{self, Told},
    settings::Settings,
    topic::Topic,
};

/// The timer that tells what has waited.
pub(crate) const FLUSH: &str = "flush";
const BATCH: &str = "batch:";
/// A user who was told of nothing for so long starts anew.
const KEEP_S: u32 = 30 * 86_400;
/// Pages of users that a flush looks through: as many as can be recipients, and some who have left.
const PAGES_MAX: usize = 10;

/// What one user was told and is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Batch {
    /// When they were last told.
    told_at_ms: u64,
    /// Messages since they last read.
    count: u32,
    /// The newest of these.
    seq: u32,
    message_id: String,
    sender_id: String,
    /// It is not told yet.
    waiting: bool,
}

impl Batch {
    fn key(user_id: &str) -> String {
        format!("{BATCH}{user_id}")
    }

    fn save(&self, user_id: &str) -> Result<(), Error> {
        kv::set_for(&Batch::key(user_id), json::text(self)?.as_bytes(), KEEP_S)
    }

    /// One message more; false if it was counted before.
    fn add(&mut self, message: &Message, read_seq: u32) -> bool {
        if message.seq <= self.seq {
            return false;
        }
        if read_seq >= self.seq {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.seq = message.seq;
        self.message_id.clone_from(&message.id);
        self.sender_id.clone_from(&message.sender_id);
        true
    }

    fn told(&self, settings: &Settings, conversation_id: &str) -> Result<Told, Error> {
        let title = if self.count > 1 {
            settings.title_many.replace("{count}", &self.count.to_string())
        } else {
            settings.title(Topic::MessageReceived, &recipient::name(&self.sender_id)?)
        };
        let data = json!({
            "conversationId": conversation_id,
            "messageId": self.message_id,
            "senderId": self.sender_id,
            "count": self.count,
        });
        Ok(Told::new(
            Topic::MessageReceived,
            title,
            data,
            Some(self.message_id.clone()),
            format!("conversation:{conversation_id}"),
        ))
    }
}

/// A message was sent.
pub(crate) fn sent(settings: &Settings, call: &Call, message: &Message) -> Result<(), Error> {
    for who in recipient::of(settings, message)? {
        let mut batch: Batch = kv::get_json(&Batch::key(&who.user_id))?.unwrap_or_default();
        if !batch.add(message, who.read_seq) {
            continue;
        }
        let due_ms = batch.told_at_ms + settings.interval_ms();
        batch.waiting = call.now_ms < due_ms && recipient::wants(&who.user_id, &message.conversation_id, Topic::MessageReceived)?;
        if batch.waiting {
            metrics::count("batched");
            wait_until(due_ms)?;
        } else if call.now_ms >= due_ms && recipient::tell(&who.user_id, &message.conversation_id, batch.told(settings, &message.conversation_id)?)? {
            batch.told_at_ms = call.now_ms;
        }
        batch.save(&who.user_id)?;
    }
    Ok(())
}

/// Sets the timer, unless it comes earlier anyway.
fn wait_until(due_ms: u64) -> Result<(), Error> {
    if timers::get(FLUSH)?.is_none_or(|set_ms| set_ms > due_ms) {
        timers::set(FLUSH, due_ms, "")?;
    }
    Ok(())
}

/// The interval of some is over.
pub(crate) fn flush(settings: &Settings, call: &Call) -> Result<(), Error> {
    let conversation_id = call.conversation()?;
    let participants = participants::list(conversation_id)?;
    let mut next_ms: Option<u64> = None;
    for (user_id, mut batch) in waiting()? {
        let due_ms = batch.told_at_ms + settings.interval_ms();
        if due_ms > call.now_ms {
            next_ms = Some(next_ms.map_or(due_ms, |next_ms| next_ms.min(due_ms)));
            continue;
        }
        batch.waiting = false;
        // Who has left or has read it by now need not be told.
        let unread = participants
            .iter()
            .any(|participant| participant.user_id == user_id && participant.read_seq < batch.seq);
        if unread && is_there(&batch.message_id)? && recipient::tell(&user_id, conversation_id, batch.told(settings, conversation_id)?)? {
            batch.told_at_ms = call.now_ms;
        }
        batch.save(&user_id)?;
    }
    match next_ms {
        Some(next_ms) => timers::set(FLUSH, next_ms, ""),
        None => Ok(()),
    }
}

fn is_there(message_id: &str) -> Result<bool, Error> {
    Ok(messages::get(message_id)?.is_some_and(|message| message.deleted_at_ms.is_none()))
}

fn waiting() -> Result<Vec<(String, Batch)>, Error> {
    let (mut waiting, mut after) = (Vec::new(), None);
    for _ in 0..PAGES_MAX {
        let page = kv::list(BATCH, after.as_deref())?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, value) in page {
            let batch: Batch = serde_json::from_slice(&value)?;
            if batch.waiting {
                waiting.push((key[BATCH.len()..].to_string(), batch));
            }
        }
    }
    Ok(waiting)
}
