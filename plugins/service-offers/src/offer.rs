//! An offer's state, and the one way to close it.

use haggle_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::settings::Settings;

/// Timers that let an offer expire: `expire:<ref>`.
pub(crate) const EXPIRE: &str = "expire:";
/// Keys of all offers: `offer:<ref>`.
const OFFER: &str = "offer:";
/// A key per open offer: `open:<ref>`, so that they are found without reading the closed ones.
const OPEN: &str = "open:";
/// Messages looked through for one that has not yet told its id.
const RECENT_MAX: u32 = 100;

/// Where an offer stands. Only `Open` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Open,
    Accepted,
    Declined,
    Withdrawn,
    Expired,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Status::Open => "open",
            Status::Accepted => "accepted",
            Status::Declined => "declined",
            Status::Withdrawn => "withdrawn",
            Status::Expired => "expired",
        }
    }

    fn event(self) -> String {
        format!("x.service-offers.{}", self.as_str())
    }

    fn metric(self) -> String {
        format!("offers_{}", self.as_str())
    }
}

/// One offer as kv keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The reference of its message.
    pub reference: String,
    /// Its message's id, once the after-hook has seen it.
    pub message_id: Option<String>,
    pub sender_id: String,
    pub status: Status,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
}

/// How an offer ends.
pub(crate) struct Close {
    pub status: Status,
    /// The acting user; none where time did it.
    pub by: Option<String>,
    pub reason: Option<String>,
    /// Whether the message shows it: not one that is just being deleted.
    pub shown: bool,
}

impl Offer {
    pub(crate) fn load(reference: &str) -> Result<Option<Offer>, Error> {
        kv::get_json(&format!("{OFFER}{reference}"))
    }

    /// Keeps it: an open one as long as it takes, a closed one for a while.
    pub(crate) fn save(&self, settings: &Settings) -> Result<(), Error> {
        let key = format!("{OFFER}{}", self.reference);
        if self.status == Status::Open {
            return kv::set_json(&key, self);
        }
        kv::set_for(&key, json::text(self)?.as_bytes(), settings.keep_closed_s())
    }

    /// Keeps a new one and starts its clock.
    pub(crate) fn open(&self, settings: &Settings) -> Result<(), Error> {
        self.save(settings)?;
        kv::set(&format!("{OPEN}{}", self.reference), self.sender_id.as_bytes())?;
        timers::set(&format!("{EXPIRE}{}", self.reference), self.expires_at_ms, "")
    }

    /// The open offers of the call's conversation: (reference, sender). References do not sort by time.
    pub(crate) fn list_open() -> Result<Vec<(String, String)>, Error> {
        let open = kv::list(OPEN, None)?;
        Ok(open
            .into_iter()
            .map(|(key, sender)| (key[OPEN.len()..].to_string(), String::from_utf8_lossy(&sender).into_owned()))
            .collect())
    }

    /// Ends it: state, clock, message, event and metric in one transaction.
    pub(crate) fn close(mut self, settings: &Settings, call: &Call, close: Close) -> Result<(), Error> {
        self.status = close.status;
        self.save(settings)?;
        kv::delete(&format!("{OPEN}{}", self.reference))?;
        timers::cancel(&format!("{EXPIRE}{}", self.reference))?;
        let at = time::iso_utc(call.now_ms);
        let message = self.message(call.conversation()?)?;
        if let Some(message) = message.as_ref().filter(|_| close.shown) {
            mark(message, &close, &at)?;
        }
        let payload = json!({
            "messageId": message.map(|message| message.id),
            "ref": self.reference,
            "status": close.status.as_str(),
            "by": close.by,
            "reason": close.reason,
            "at": at,
        });
        events::emit(&close.status.event(), &payload)?;
        metrics::count(&close.status.metric());
        Ok(())
    }

    /// Its message, unless it was deleted.
    fn message(&self, conversation_id: &str) -> Result<Option<Message>, Error> {
        let message = match &self.message_id {
            Some(id) => messages::get(id)?,
            // The after-hook has not come by yet, so the message is among the newest.
            None => messages::list(conversation_id, None, RECENT_MAX)?
                .into_iter()
                .find(|message| message.reference == self.reference),
        };
        Ok(message.filter(|message| message.deleted_at_ms.is_none()))
    }
}

/// Shows the end in the message that everybody sees.
fn mark(message: &Message, close: &Close, at: &str) -> Result<(), Error> {
    let mut metadata = message.metadata_map()?;
    metadata.insert("status".into(), close.status.as_str().into());
    metadata.insert("statusAt".into(), at.into());
    for (key, value) in [("statusBy", &close.by), ("statusReason", &close.reason)] {
        match value {
            Some(value) => metadata.insert(key.into(), value.as_str().into()),
            None => metadata.remove(key),
        };
    }
    messages::edit(&message.id, None, Some(&json::map_text(&metadata)))
}
