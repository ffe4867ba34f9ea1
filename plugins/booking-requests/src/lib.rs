//! Requests for a provider's time.
//!
//! A message of kind `booking_request` names one of the addressee's packages, a date and a time of day there. Every half hour
//! that it covers is reserved in global kv, all or none, so two requests for the same time cannot both exist. A request is
//! *pending* until the other side confirms or declines it, or it expires; a confirmed one may be moved or cancelled.
//!
//! * [`package`]: the provider's packages, and how long they take.
//! * [`when`]: from a date and a time of day to a moment, and to half hours.
//! * [`booking`]: a booking's state and everything that follows from a change of it.
//! * [`drafts`]: requests as they are sent, edited and deleted.
//! * [`commands`]: confirm, decline, reschedule, cancel.

mod booking;
mod commands;
mod drafts;
mod package;
mod settings;
#[cfg(test)]
mod tests;
mod when;

use haggle_sdk::prelude::*;

use crate::{
    booking::{Booking, Change, Status},
    settings::Settings,
};

/// The kind of message that this plugin claims.
pub const KIND: &str = "booking_request";

/// The plugin.
#[derive(Default)]
pub struct BookingRequests {
    settings: Settings,
}

impl Lifecycle for BookingRequests {
    fn init(&mut self, config: &str) -> Result<(), Failure> {
        self.settings = Settings::read(config)?;
        Ok(())
    }
}

impl BeforeMessage for BookingRequests {
    fn before_message(&mut self, call: &Call, draft: Draft) -> Decision {
        if draft.kind != KIND {
            return Decision::Continue;
        }
        Decision::of(match draft.op {
            Op::Send => drafts::send(&self.settings, call, draft),
            Op::Edit => drafts::edit(draft),
            Op::Delete => drafts::delete(&self.settings, call, &draft),
        })
    }
}

impl AfterMessage for BookingRequests {
    /// A draft has no id yet: this is where the booking learns its message's.
    fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
        if message.kind != KIND || message.op != Op::Send {
            return Ok(());
        }
        let Some(mut booking) = Booking::load(&message.reference)? else {
            return Ok(());
        };
        if booking.message_id.is_none() {
            booking.message_id = Some(message.id);
            booking.save(&self.settings)?;
            metrics::count("bookings_requested");
        }
        Ok(())
    }
}

impl Command for BookingRequests {
    fn command(&mut self, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
        commands::run(&self.settings, call, name, payload)
    }
}

impl Timer for BookingRequests {
    fn timer(&mut self, call: &Call, name: &str, _due_ms: u64, _payload: &str) -> Result<(), Failure> {
        if let Some(reference) = name.strip_prefix(booking::EXPIRE) {
            self.expire(call, reference)?;
        } else if let Some(reference) = name.strip_prefix(booking::END) {
            self.end(reference)?;
        } else if let Some((reference, lead_m)) = name.strip_prefix(booking::REMIND).and_then(|rest| rest.rsplit_once(':')) {
            self.remind(call, reference, lead_m)?;
        }
        Ok(())
    }
}

impl BookingRequests {
    fn expire(&self, call: &Call, reference: &str) -> Result<(), Error> {
        match Booking::load(reference)? {
            Some(mut booking) if booking.status == Status::Pending => booking.change(
                &self.settings,
                call,
                Change {
                    status: Status::Expired,
                    by: None,
                    reason: None,
                    shown: true,
                },
            ),
            _ => Ok(()),
        }
    }

    /// The time is over: its half hours need not be kept.
    fn end(&self, reference: &str) -> Result<(), Error> {
        match Booking::load(reference)? {
            Some(booking) if booking.status == Status::Confirmed => booking.finish(&self.settings),
            _ => Ok(()),
        }
    }

    fn remind(&self, call: &Call, reference: &str, lead_m: &str) -> Result<(), Error> {
        match Booking::load(reference)? {
            // A reminder that comes after the beginning (the server was down) would only confuse.
            Some(booking) if booking.status == Status::Confirmed && call.now_ms < booking.starts_at_ms => {
                booking.remind(&self.settings, call.conversation()?, lead_m)
            }
            _ => Ok(()),
        }
    }
}

haggle_sdk::plugin! {
    BookingRequests,
    hooks: [before_message, after_message, command, timer, lifecycle],
    caps: [log, metrics, kv, kv_global, messages, participants, conversations, users, events, notifications, timers],
}
