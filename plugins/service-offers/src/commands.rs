//! What the people in the conversation do with an offer.

use haggle_sdk::prelude::*;
use serde::Deserialize;
use serde_json::json;

use crate::{
    KIND,
    offer::{Close, Offer, Status},
    settings::Settings,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    message_id: String,
    reason: Option<String>,
}

/// Whether this caller may do it to this offer.
type MayAct = fn(&Call, &Offer) -> Result<(), Rejection>;

/// A reason is a line, not a letter.
const REASON_CHARS_MAX: usize = 500;

/// Runs one command; the answer is `{messageId, status}`.
pub(crate) fn run(settings: &Settings, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
    let (status, who): (_, MayAct) = match name {
        "offer.accept" => (Status::Accepted, must_be_addressee),
        "offer.decline" => (Status::Declined, must_be_addressee),
        "offer.withdraw" => (Status::Withdrawn, must_be_sender),
        _ => return Err(Rejection::new("unknown_command", format!("there is no command {name}"))),
    };
    let payload: Payload = json::payload(payload)?;
    if payload.reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        return Err(Rejection::new(
            "invalid_payload",
            format!("reason is longer than {REASON_CHARS_MAX} characters"),
        ));
    }
    let offer = offer_of(call, &payload.message_id)?;
    who(call, &offer)?;
    must_be_open(call, &offer)?;
    offer.close(
        settings,
        call,
        Close {
            status,
            by: Some(call.actor.clone()),
            reason: payload.reason,
            shown: true,
        },
    )?;
    Ok(json::text(&json!({ "messageId": payload.message_id, "status": status.as_str() }))?)
}

fn offer_of(call: &Call, message_id: &str) -> Result<Offer, Rejection> {
    let not_found = || Rejection::new("not_found", "there is no such offer in this conversation");
    let message = messages::get(message_id)?.ok_or_else(not_found)?;
    if message.kind != KIND || message.conversation_id != call.conversation()? || message.deleted_at_ms.is_some() {
        return Err(not_found());
    }
    let mut offer = Offer::load(&message.reference)?.ok_or_else(|| Rejection::new("offer_not_open", "this offer was closed long ago"))?;
    offer.message_id = Some(message.id);
    Ok(offer)
}

/// Everybody in the conversation but the sender: in a direct one that is the other side.
fn must_be_addressee(call: &Call, offer: &Offer) -> Result<(), Rejection> {
    if call.actor == offer.sender_id {
        return Err(Rejection::new("not_addressee", "only who was offered something can answer"));
    }
    let participants = participants::list(call.conversation()?)?;
    if participants.iter().any(|participant| participant.user_id == call.actor) {
        return Ok(());
    }
    Err(Rejection::new("not_addressee", "only participants can answer"))
}

fn must_be_sender(call: &Call, offer: &Offer) -> Result<(), Rejection> {
    if call.actor == offer.sender_id {
        Ok(())
    } else {
        Err(Rejection::new("not_sender", "only who offered can withdraw"))
    }
}

/// An offer whose time has come is over, also where the timer has not yet said so.
fn must_be_open(call: &Call, offer: &Offer) -> Result<(), Rejection> {
    if offer.status != Status::Open {
        return Err(Rejection::new("offer_not_open", format!("this offer is {}", offer.status.as_str())));
    }
    if call.now_ms >= offer.expires_at_ms {
        return Err(Rejection::new("offer_expired", "this offer has expired"));
    }
    Ok(())
}
