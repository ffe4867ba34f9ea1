//! Offers of a seller's service packages.
//!
//! A message of kind `service_offer` names one of its sender's packages; this plugin fills in what it costs and keeps its state:
//! *open*, then one of *accepted*, *declined*, *withdrawn*, *expired*. The state stands in `kv` (`offer:<ref>`), in the message's
//! `metadata.status` and in an event `x.service-offers.<state>`, all written by one transaction.
//!
//! * [`package`]: the sender's packages.
//! * [`offer`]: an offer's state, and the one way to close it.
//! * [`drafts`]: offers as they are sent, edited and deleted.
//! * [`commands`]: accept, decline, withdraw.

mod commands;
mod drafts;
mod offer;
mod package;
mod settings;
#[cfg(test)]
mod tests;

use haggle_sdk::prelude::*;

use crate::{
    offer::{Close, Offer, Status},
    settings::Settings,
};

/// The kind of message that this plugin claims.
pub const KIND: &str = "service_offer";

/// The plugin.
#[derive(Default)]
pub struct ServiceOffers {
    settings: Settings,
}

impl Lifecycle for ServiceOffers {
    fn init(&mut self, config: &str) -> Result<(), Failure> {
        self.settings = Settings::read(config)?;
        Ok(())
    }
}

impl BeforeMessage for ServiceOffers {
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

impl AfterMessage for ServiceOffers {
    /// A draft has no id yet: this is where the offer learns its message's.
    fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
        if message.kind != KIND || message.op != Op::Send {
            return Ok(());
        }
        let Some(mut offer) = Offer::load(&message.reference)? else {
            return Ok(());
        };
        if offer.message_id.is_none() {
            offer.message_id = Some(message.id);
            offer.save(&self.settings)?;
            metrics::count("offers_sent");
        }
        Ok(())
    }
}

impl Command for ServiceOffers {
    fn command(&mut self, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
        commands::run(&self.settings, call, name, payload)
    }
}

impl Timer for ServiceOffers {
    fn timer(&mut self, call: &Call, name: &str, _due_ms: u64, _payload: &str) -> Result<(), Failure> {
        let Some(reference) = name.strip_prefix(offer::EXPIRE) else {
            return Ok(());
        };
        match Offer::load(reference)? {
            Some(offer) if offer.status == Status::Open => {
                offer.close(
                    &self.settings,
                    call,
                    Close {
                        status: Status::Expired,
                        by: None,
                        reason: None,
                        shown: true,
                    },
                )?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

haggle_sdk::plugin! {
    ServiceOffers,
    hooks: [before_message, after_message, command, timer, lifecycle],
    caps: [log, metrics, kv, messages, participants, conversations, users, events, timers],
}
