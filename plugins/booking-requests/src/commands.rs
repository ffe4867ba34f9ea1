//! What the two sides do with a booking.

use haggle_sdk::prelude::*;
use serde::Deserialize;
use serde_json::{Map, json};

use crate::{
    KIND,
    booking::{Booking, Change, Status},
    drafts,
    settings::Settings,
    when::Wish,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    message_id: String,
    reason: Option<String>,
    requested_date: Option<String>,
    requested_time: Option<String>,
}

/// A reason is a line, not a letter.
const REASON_CHARS_MAX: usize = 500;

/// Runs one command; the answer is `{messageId, status}`.
pub(crate) fn run(settings: &Settings, call: &Call, name: &str, payload: &str) -> Result<String, Rejection> {
    let payload: Payload = json::payload(payload)?;
    if payload.reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        return Err(Rejection::new(
            "invalid_payload",
            format!("reason is longer than {REASON_CHARS_MAX} characters"),
        ));
    }
    let mut booking = booking_of(call, &payload.message_id)?;
    let message_id = payload.message_id.clone();
    let done = match name {
        "booking.confirm" => answer(settings, call, &mut booking, Status::Confirmed, payload),
        "booking.decline" => answer(settings, call, &mut booking, Status::Declined, payload),
        "booking.cancel" => cancel(settings, call, &mut booking, payload),
        "booking.reschedule" => reschedule(settings, call, &mut booking, payload),
        _ => Err(Stop::reject("unknown_command", format!("there is no command {name}"))),
    };
    done.map_err(answerable)?;
    Ok(json::text(&json!({ "messageId": message_id, "status": booking.status.as_str() }))?)
}

/// A command has a caller who can be told that the host could not.
fn answerable(stop: Stop) -> Rejection {
    match stop {
        Stop::Reject(rejection) => rejection,
        Stop::Fail(why) => Rejection::new("unavailable", why),
    }
}

fn booking_of(call: &Call, message_id: &str) -> Result<Booking, Rejection> {
    let not_found = || Rejection::new("not_found", "there is no such booking in this conversation");
    let message = messages::get(message_id)?.ok_or_else(not_found)?;
    if message.kind != KIND || message.conversation_id != call.conversation()? || message.deleted_at_ms.is_some() {
        return Err(not_found());
    }
    let mut booking = Booking::load(&message.reference)?.ok_or_else(|| Rejection::new("booking_closed", "this booking was closed long ago"))?;
    booking.message_id = Some(message.id);
    Ok(booking)
}

/// Confirms or declines: only the side that is waited for.
fn answer(settings: &Settings, call: &Call, booking: &mut Booking, status: Status, payload: Payload) -> Result<(), Stop> {
    must_be_a_side(call, booking)?;
    if booking.status != Status::Pending {
        return Err(Stop::reject(
            "booking_not_pending",
            format!("this booking is {}", booking.status.as_str()),
        ));
    }
    if call.actor != booking.awaiting {
        return Err(Stop::reject("not_addressee", "the other side has to answer"));
    }
    // Also where the timer has not yet said so.
    if call.now_ms >= booking.expires_at_ms {
        return Err(Stop::reject("booking_expired", "this request has expired"));
    }
    booking.change(
        settings,
        call,
        Change {
            status,
            by: Some(call.actor.clone()),
            reason: payload.reason,
            shown: true,
        },
    )?;
    Ok(())
}

/// Cancels: either side, as long as it is not over.
fn cancel(settings: &Settings, call: &Call, booking: &mut Booking, payload: Payload) -> Result<(), Stop> {
    must_be_a_side(call, booking)?;
    must_be_ahead(call, booking)?;
    let change = Change {
        status: Status::Cancelled,
        by: Some(call.actor.clone()),
        reason: payload.reason,
        shown: true,
    };
    booking.change(settings, call, change)?;
    Ok(())
}

/// Moves: either side, and the other one has to answer (again).
fn reschedule(settings: &Settings, call: &Call, booking: &mut Booking, payload: Payload) -> Result<(), Stop> {
    must_be_a_side(call, booking)?;
    must_be_ahead(call, booking)?;
    let wish = Wish::read(&payload.requested_date.unwrap_or_default(), &payload.requested_time.unwrap_or_default())?;
    let zone = drafts::time_zone(settings, &drafts::attributes(&booking.provider_id)?);
    let starts_at_ms = wish.moment_ms(&zone)?;
    drafts::check_moment(settings, call.now_ms, starts_at_ms)?;
    let later = Booking {
        status: Status::Pending,
        awaiting: booking.other(&call.actor).to_string(),
        starts_at_ms,
        expires_at_ms: drafts::expires_at_ms(settings, call.now_ms, starts_at_ms),
        ..booking.clone()
    };
    if !booking.move_to(&later, settings)? {
        metrics::count("bookings_slot_taken");
        return Err(Stop::reject("slot_taken", "the provider is not free at that time"));
    }
    *booking = later;
    metrics::count("bookings_rescheduled");
    let mut shown = Map::new();
    drafts::show_time(&mut shown, &wish, zone, booking);
    let change = Change {
        status: Status::Pending,
        by: Some(call.actor.clone()),
        reason: payload.reason,
        shown: true,
    };
    booking.tell(call, "x.booking-requests.rescheduled", &change, shown)?;
    Ok(())
}

fn must_be_a_side(call: &Call, booking: &Booking) -> Result<(), Stop> {
    if call.actor == booking.customer_id || call.actor == booking.provider_id {
        return Ok(());
    }
    Err(Stop::reject(
        "not_addressee",
        "only the customer and the provider of a booking can do that",
    ))
}

fn must_be_ahead(call: &Call, booking: &Booking) -> Result<(), Stop> {
    if !booking.status.is_alive() {
        return Err(Stop::reject("booking_closed", format!("this booking is {}", booking.status.as_str())));
    }
    if call.now_ms >= booking.ends_at_ms() {
        return Err(Stop::reject("booking_closed", "this booking is over"));
    }
    Ok(())
}
