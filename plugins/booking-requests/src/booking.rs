//! A booking's state and everything that follows from a change of it.

use haggle_sdk::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{settings::Settings, when};

/// Timers that let a request expire: `expire:<ref>`.
pub(crate) const EXPIRE: &str = "expire:";
/// Timers that remind: `remind:<ref>:<minutes before>`.
pub(crate) const REMIND: &str = "remind:";
/// Timers that give a booking's half hours back when it is over: `end:<ref>`.
pub(crate) const END: &str = "end:";
/// Keys of all bookings: `booking:<ref>`.
const BOOKING: &str = "booking:";
/// A key per booking that is not over: `open:<ref>`.
const OPEN: &str = "open:";
/// Messages looked through for one that has not yet told its id.
const RECENT_MAX: u32 = 100;
/// The type of the context conversation of a confirmed booking.
const CONTEXT: &str = "booking";

/// Where a booking stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Waits for one side's answer.
    Pending,
    Confirmed,
    Declined,
    Cancelled,
    Expired,
}

impl Status {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Confirmed => "confirmed",
            Status::Declined => "declined",
            Status::Cancelled => "cancelled",
            Status::Expired => "expired",
        }
    }

    /// Keeps its half hours.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Status::Pending | Status::Confirmed)
    }
}

/// One booking as kv keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Booking {
    /// The reference of its message.
    pub reference: String,
    /// Its message's id, once the after-hook has seen it.
    pub message_id: Option<String>,
    pub customer_id: String,
    pub provider_id: String,
    pub service_name: String,
    pub status: Status,
    /// Who has to answer while it is pending.
    pub awaiting: String,
    pub starts_at_ms: u64,
    pub duration_m: u32,
    pub expires_at_ms: u64,
}

/// What happens to a booking.
pub(crate) struct Change {
    pub status: Status,
    /// The acting user; none where time did it.
    pub by: Option<String>,
    pub reason: Option<String>,
    /// Whether the message shows it: not one that is just being deleted.
    pub shown: bool,
}

impl Booking {
    pub(crate) fn load(reference: &str) -> Result<Option<Booking>, Error> {
        kv::get_json(&format!("{BOOKING}{reference}"))
    }

    /// Keeps it: as long as it takes while it is alive, then for a while.
    pub(crate) fn save(&self, settings: &Settings) -> Result<(), Error> {
        let key = format!("{BOOKING}{}", self.reference);
        if self.status.is_alive() {
            return kv::set_json(&key, self);
        }
        kv::set_for(&key, json::text(self)?.as_bytes(), settings.keep_closed_s())
    }

    /// How many bookings of the call's conversation are not over.
    pub(crate) fn count_open() -> Result<usize, Error> {
        Ok(kv::list(OPEN, None)?.len())
    }

    pub(crate) fn ends_at_ms(&self) -> u64 {
        self.starts_at_ms + u64::from(self.duration_m) * time::MINUTE_MS
    }

    /// The other side of one of the two.
    pub(crate) fn other(&self, user_id: &str) -> &str {
        if user_id == self.provider_id {
            &self.customer_id
        } else {
            &self.provider_id
        }
    }

    fn cells(&self) -> Vec<String> {
        when::cells(&self.provider_id, self.starts_at_ms, self.ends_at_ms())
    }

    /// Takes the half hours of a new request and waits for the answer. False: somebody has one of them.
    pub(crate) fn open(&self, settings: &Settings) -> Result<bool, Error> {
        if !kv_global::reserve(&self.cells(), self.reference.as_bytes())? {
            return Ok(false);
        }
        kv::set(&format!("{OPEN}{}", self.reference), b"")?;
        self.wait(settings)?;
        Ok(true)
    }

    /// Takes the half hours of `later` that it has not, gives back those that it no longer needs, and waits for `later`'s answer.
    /// False: somebody has one of them; nothing has happened.
    pub(crate) fn move_to(&self, later: &Booking, settings: &Settings) -> Result<bool, Error> {
        let (old, new) = (self.cells(), later.cells());
        let without = |keys: &[String], known: &[String]| -> Vec<String> { keys.iter().filter(|key| !known.contains(key)).cloned().collect() };
        let (missing, needless) = (without(&new, &old), without(&old, &new));
        if !missing.is_empty() && !kv_global::reserve(&missing, self.reference.as_bytes())? {
            return Ok(false);
        }
        if !needless.is_empty() {
            kv_global::release(&needless)?;
        }
        self.cancel_timers(settings)?;
        later.wait(settings)?;
        Ok(true)
    }

    fn wait(&self, settings: &Settings) -> Result<(), Error> {
        self.save(settings)?;
        timers::set(&format!("{EXPIRE}{}", self.reference), self.expires_at_ms, "")
    }

    /// Changes its status, with all that follows: half hours, timers, message, event and metric in one transaction.
    pub(crate) fn change(&mut self, settings: &Settings, call: &Call, change: Change) -> Result<(), Error> {
        self.status = change.status;
        self.save(settings)?;
        self.cancel_timers(settings)?;
        let mut shown = Map::new();
        if change.status == Status::Confirmed {
            self.set_timers(settings, call.now_ms)?;
            shown.insert("bookingConversationId".into(), self.conversation()?.into());
        }
        if !change.status.is_alive() {
            self.let_go()?;
        }
        let event = format!("x.booking-requests.{}", change.status.as_str());
        metrics::count(&format!("bookings_{}", change.status.as_str()));
        self.tell(call, &event, &change, shown)
    }

    /// A booking whose time is over: nothing is left to decide.
    pub(crate) fn finish(&self, settings: &Settings) -> Result<(), Error> {
        self.let_go()?;
        kv::set_for(
            &format!("{BOOKING}{}", self.reference),
            json::text(self)?.as_bytes(),
            settings.keep_closed_s(),
        )
    }

    fn let_go(&self) -> Result<(), Error> {
        kv_global::release(&self.cells())?;
        kv::delete(&format!("{OPEN}{}", self.reference))
    }

    fn cancel_timers(&self, settings: &Settings) -> Result<(), Error> {
        timers::cancel(&format!("{EXPIRE}{}", self.reference))?;
        timers::cancel(&format!("{END}{}", self.reference))?;
        for lead_m in &settings.remind_before_m {
            timers::cancel(&self.reminder(*lead_m))?;
        }
        Ok(())
    }

    fn set_timers(&self, settings: &Settings, now_ms: u64) -> Result<(), Error> {
        timers::set(&format!("{END}{}", self.reference), self.ends_at_ms(), "")?;
        for lead_m in &settings.remind_before_m {
            let due_ms = self.starts_at_ms.saturating_sub(u64::from(*lead_m) * time::MINUTE_MS);
            if due_ms > now_ms {
                timers::set(&self.reminder(*lead_m), due_ms, "")?;
            }
        }
        Ok(())
    }

    fn reminder(&self, lead_m: u32) -> String {
        format!("{REMIND}{}:{lead_m}", self.reference)
    }

    /// The context conversation in which the two prepare what was booked.
    fn conversation(&self) -> Result<String, Error> {
        let state = json!({
            "ref": self.reference,
            "messageId": self.message_id,
            "startsAt": time::iso_utc(self.starts_at_ms),
            "endsAt": time::iso_utc(self.ends_at_ms()),
        });
        let participants = [self.customer_id.clone(), self.provider_id.clone()];
        conversations::get_or_create(
            CONTEXT,
            &self.reference,
            &participants,
            Some(&self.service_name),
            Some(&state.to_string()),
        )
    }

    /// Shows a change in the message (with what is `shown` beside it) and in the conversation's events.
    pub(crate) fn tell(&self, call: &Call, event: &str, change: &Change, mut shown: Map<String, Value>) -> Result<(), Error> {
        let at = time::iso_utc(call.now_ms);
        let message = self.message(call.conversation()?)?;
        let payload = json!({
            "messageId": message.as_ref().map(|message| &message.id),
            "ref": self.reference,
            "status": self.status.as_str(),
            "by": change.by,
            "reason": change.reason,
            "at": at,
            "startsAt": time::iso_utc(self.starts_at_ms),
            "endsAt": time::iso_utc(self.ends_at_ms()),
            "bookingConversationId": shown.get("bookingConversationId"),
        });
        if let Some(message) = message.filter(|_| change.shown) {
            shown.insert("status".into(), self.status.as_str().into());
            shown.insert("statusAt".into(), at.into());
            shown.insert("statusBy".into(), json!(change.by));
            shown.insert("statusReason".into(), json!(change.reason));
            shown.insert(
                "awaiting".into(),
                if self.status == Status::Pending {
                    json!(self.awaiting)
                } else {
                    Value::Null
                },
            );
            show(&message, shown)?;
        }
        events::emit(event, &payload)
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

    /// Tells both sides that it is soon.
    pub(crate) fn remind(&self, settings: &Settings, conversation_id: &str, lead_m: &str) -> Result<(), Error> {
        let data = json!({
            "conversationId": conversation_id,
            "ref": self.reference,
            "startsAt": time::iso_utc(self.starts_at_ms),
            "endsAt": time::iso_utc(self.ends_at_ms()),
        });
        let notification = Notification {
            topic: "BOOKING_REMINDER".into(),
            title: settings.reminder_title.replace("{name}", &self.service_name),
            body: String::new(),
            data: Some(data.to_string()),
            message_id: self.message_id.clone(),
            collapse: Some(format!("booking-reminder:{}", self.reference)),
        };
        for user_id in [&self.customer_id, &self.provider_id] {
            notifications::push(user_id, &notification)?;
        }
        metrics::count("bookings_reminded");
        events::emit(
            "x.booking-requests.reminder",
            &json!({ "messageId": self.message_id, "ref": self.reference, "minutesBefore": lead_m.parse::<u32>().ok(), "startsAt": time::iso_utc(self.starts_at_ms) }),
        )
    }
}

/// Puts these into the message's metadata; null takes one away.
fn show(message: &Message, shown: Map<String, Value>) -> Result<(), Error> {
    let mut metadata = message.metadata_map()?;
    for (key, value) in shown {
        if value.is_null() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
    messages::edit(&message.id, None, Some(&json::map_text(&metadata)))
}
