//! Offers and bookings: messages of a kind of their own, whose `metadata.status` says how they stand. Told at once, and one
//! notification per deal: a later state replaces an unread earlier one.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value};

use crate::{
    recipient::{self, Told},
    settings::Settings,
    topic::Topic,
};

const OFFER: &str = "service_offer";
const BOOKING: &str = "booking_request";
/// Keys of what was told of a deal: `deal:<ref>`.
const TOLD: &str = "deal:";
/// Deals end within that time, or begin anew.
const KEEP_S: u32 = 400 * 86_400;

/// Whether a message is an offer or a booking.
pub(crate) fn is_one(message: &Message) -> bool {
    message.kind == OFFER || message.kind == BOOKING
}

/// A new offer or request.
pub(crate) fn sent(settings: &Settings, message: &Message) -> Result<(), Error> {
    let topic = if message.kind == OFFER {
        Topic::OfferReceived
    } else {
        Topic::BookingRequested
    };
    let title = settings.title(topic, &recipient::name(&message.sender_id)?);
    let metadata = message.metadata_map()?;
    for who in recipient::of(settings, message)?
        .into_iter()
        .filter(|who| concerns(message, &metadata, &who.user_id))
    {
        recipient::tell(&who.user_id, &message.conversation_id, told(topic, title.clone(), message))?;
    }
    Ok(())
}

/// An offer or request was edited: perhaps it stands differently now.
pub(crate) fn changed(settings: &Settings, call: &Call, message: &Message) -> Result<(), Error> {
    let metadata = message.metadata_map()?;
    let (status, at) = (text(&metadata, "status"), text(&metadata, "statusAt"));
    let Some(topic) = topic_of(&message.kind, status).filter(|_| !at.is_empty()) else {
        return Ok(());
    };
    let (key, now) = (format!("{TOLD}{}", message.reference), format!("{status} {at}"));
    if kv::get(&key)?.as_deref() == Some(now.as_bytes()) {
        return Ok(());
    }
    kv::set_for(&key, now.as_bytes(), KEEP_S)?;
    let by = text(&metadata, "statusBy");
    let title = settings.title(topic, &if by.is_empty() { String::new() } else { recipient::name(by)? });
    for who in participants::list(call.conversation()?)?.into_iter().take(settings.recipients_max) {
        if who.user_id != by && concerns(message, &metadata, &who.user_id) {
            recipient::tell(&who.user_id, &message.conversation_id, told(topic, title.clone(), message))?;
        }
    }
    Ok(())
}

/// A booking is between two, an offer is everybody's who may accept it.
fn concerns(message: &Message, metadata: &Map<String, Value>, user_id: &str) -> bool {
    let provider = text(metadata, "providerId");
    message.kind == OFFER || provider.is_empty() || user_id == provider || user_id == message.sender_id
}

fn topic_of(kind: &str, status: &str) -> Option<Topic> {
    match (kind, status) {
        (OFFER, "accepted") => Some(Topic::OfferAccepted),
        (OFFER, "declined") => Some(Topic::OfferDeclined),
        (OFFER, "withdrawn") => Some(Topic::OfferWithdrawn),
        (OFFER, "expired") => Some(Topic::OfferExpired),
        (BOOKING, "confirmed") => Some(Topic::BookingConfirmed),
        (BOOKING, "declined") => Some(Topic::BookingDeclined),
        (BOOKING, "cancelled") => Some(Topic::BookingCancelled),
        (BOOKING, "expired") => Some(Topic::BookingExpired),
        // Pending with a time of change: it was moved.
        (BOOKING, "pending") => Some(Topic::BookingRescheduled),
        _ => None,
    }
}

fn told(topic: Topic, title: String, message: &Message) -> Told {
    Told::of_message(topic, title, message, format!("deal:{}", message.id))
}

fn text<'a>(metadata: &'a Map<String, Value>, key: &str) -> &'a str {
    metadata.get(key).and_then(Value::as_str).unwrap_or_default()
}
