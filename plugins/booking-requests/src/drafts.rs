//! Requests as they are sent, edited and deleted.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value};

use crate::{
    booking::{Booking, Change, Status},
    package::{self, Package},
    settings::Settings,
    when::Wish,
};

/// What clients can neither set nor change, once the request is sent.
const PROTECTED: [&str; 17] = [
    "servicePackageId",
    "serviceName",
    "price",
    "currency",
    "duration",
    "providerId",
    "requestedDate",
    "requestedTime",
    "timeZone",
    "startsAt",
    "endsAt",
    "status",
    "statusAt",
    "statusBy",
    "statusReason",
    "awaiting",
    "bookingConversationId",
];

/// How long a booking is taken to be where its package does not say it: one half hour.
const DURATION_UNKNOWN_M: u32 = 30;

/// Checks the wish, takes the half hours, fills in what the package says.
pub(crate) fn send(settings: &Settings, call: &Call, mut draft: Draft) -> Result<Decision, Stop> {
    let mut metadata = draft.metadata_map()?;
    let package_id = text(&metadata, "servicePackageId");
    if package_id.is_empty() {
        return Err(Stop::reject("invalid_booking", "metadata.servicePackageId is missing"));
    }
    let provider_id = provider(&draft, &text(&metadata, "providerId"))?;
    let attributes = attributes(&provider_id)?;
    let package = package::find(&attributes, &package_id)?;
    let wish = Wish::read(&text(&metadata, "requestedDate"), &text(&metadata, "requestedTime"))?;
    let zone = time_zone(settings, &attributes);
    if Booking::count_open()? >= settings.open_max {
        return Err(Stop::reject(
            "too_many_bookings",
            format!("at most {} bookings of a conversation may be open", settings.open_max),
        ));
    }
    let booking = booking(settings, call, &draft, provider_id, &package, wish.moment_ms(&zone)?)?;
    if !booking.open(settings)? {
        metrics::count("bookings_slot_taken");
        return Err(Stop::reject("slot_taken", "the provider is not free at that time"));
    }
    draft.content = settings.content.replace("{name}", &package.name);
    fill(&mut metadata, package_id, package, settings, &booking);
    show_time(&mut metadata, &wish, zone, &booking);
    draft.set_metadata_map(&metadata);
    Ok(Decision::Replace(draft))
}

/// A text or number of the metadata; empty where there is none.
fn text(metadata: &Map<String, Value>, key: &str) -> String {
    metadata
        .get(key)
        .filter(|value| value.is_string() || value.is_number())
        .map(json::plain)
        .unwrap_or_default()
}

/// Whose time is asked for: the other participant, or the one that is named.
fn provider(draft: &Draft, named: &str) -> Result<String, Stop> {
    let participants = participants::list(&draft.conversation_id)?;
    let mut others = participants
        .into_iter()
        .map(|participant| participant.user_id)
        .filter(|user_id| *user_id != draft.sender_id);
    if !named.is_empty() {
        return others
            .find(|user_id| user_id == named)
            .ok_or_else(|| Stop::reject("unknown_provider", format!("{named} is not in this conversation")));
    }
    match (others.next(), others.next()) {
        (Some(provider), None) => Ok(provider),
        (None, _) => Err(Stop::reject("unknown_provider", "there is nobody else in this conversation")),
        _ => Err(Stop::reject("unknown_provider", "name one of the participants in metadata.providerId")),
    }
}

/// The attributes of a provider's profile; empty where nobody has seen them.
pub(crate) fn attributes(provider_id: &str) -> Result<Map<String, Value>, Stop> {
    match users::get(provider_id)? {
        Some(user) => Ok(user.attributes_map()?),
        None => Ok(Map::new()),
    }
}

/// Where the provider lives.
pub(crate) fn time_zone(settings: &Settings, attributes: &Map<String, Value>) -> String {
    let own = attributes
        .get("timeZone")
        .and_then(Value::as_str)
        .map(str::trim)
        .filter(|zone| !zone.is_empty());
    own.unwrap_or(&settings.default_time_zone).to_string()
}

/// Whether a beginning may be asked for now.
///
/// # Errors
///
/// Rejects with `date_in_past` or `date_too_far`.
pub(crate) fn check_moment(settings: &Settings, now_ms: u64, starts_at_ms: u64) -> Result<(), Stop> {
    if starts_at_ms <= now_ms + u64::from(settings.notice_min_m) * time::MINUTE_MS {
        return Err(Stop::reject("date_in_past", "that time is over, or too near"));
    }
    if starts_at_ms > now_ms + u64::from(settings.advance_max_days) * time::DAY_MS {
        return Err(Stop::reject("date_too_far", format!("at most {} days ahead", settings.advance_max_days)));
    }
    Ok(())
}

/// When a request that begins then stops waiting for an answer.
pub(crate) fn expires_at_ms(settings: &Settings, now_ms: u64, starts_at_ms: u64) -> u64 {
    starts_at_ms.min(now_ms + settings.expire_after_ms())
}

fn booking(settings: &Settings, call: &Call, draft: &Draft, provider_id: String, package: &Package, starts_at_ms: u64) -> Result<Booking, Stop> {
    check_moment(settings, call.now_ms, starts_at_ms)?;
    let duration_m = package.duration.as_ref().and_then(package::minutes).unwrap_or(DURATION_UNKNOWN_M);
    if duration_m > settings.duration_max_m {
        return Err(Stop::reject(
            "duration_too_long",
            format!("at most {} minutes can be booked", settings.duration_max_m),
        ));
    }
    Ok(Booking {
        reference: call.reference.clone(),
        message_id: None,
        customer_id: draft.sender_id.clone(),
        awaiting: provider_id.clone(),
        provider_id,
        service_name: package.name.clone(),
        status: Status::Pending,
        starts_at_ms,
        duration_m,
        expires_at_ms: expires_at_ms(settings, call.now_ms, starts_at_ms),
    })
}

fn fill(metadata: &mut Map<String, Value>, package_id: String, package: Package, settings: &Settings, booking: &Booking) {
    for key in PROTECTED {
        metadata.remove(key);
    }
    metadata.insert("servicePackageId".into(), package_id.into());
    metadata.insert("serviceName".into(), package.name.into());
    if let Some(price) = package.price {
        metadata.insert("price".into(), price);
        metadata.insert(
            "currency".into(),
            package.currency.unwrap_or_else(|| settings.default_currency.clone()).into(),
        );
    }
    if let Some(duration) = package.duration {
        metadata.insert("duration".into(), duration);
    }
    metadata.insert("providerId".into(), booking.provider_id.as_str().into());
    metadata.insert("status".into(), Status::Pending.as_str().into());
    metadata.insert("awaiting".into(), booking.awaiting.as_str().into());
}

/// The time as it was wished and as the clocks of the world have it.
pub(crate) fn show_time(metadata: &mut Map<String, Value>, wish: &Wish, zone: String, booking: &Booking) {
    metadata.insert("requestedDate".into(), wish.date().into());
    metadata.insert("requestedTime".into(), wish.time().into());
    metadata.insert("timeZone".into(), zone.into());
    metadata.insert("startsAt".into(), time::iso_utc(booking.starts_at_ms).into());
    metadata.insert("endsAt".into(), time::iso_utc(booking.ends_at_ms()).into());
}

/// Lets a note change while the request is pending, and nothing that matters ever.
pub(crate) fn edit(mut draft: Draft) -> Result<Decision, Stop> {
    let present = present(&draft)?;
    let kept = present.metadata_map()?;
    if kept.get("status").and_then(Value::as_str) != Some(Status::Pending.as_str()) {
        return Err(Stop::reject("booking_closed", "only a pending request can be edited"));
    }
    let mut metadata = if draft.metadata.is_some() { draft.metadata_map()? } else { kept.clone() };
    for key in PROTECTED {
        match kept.get(key) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.remove(key),
        };
    }
    draft.content = present.content;
    draft.set_metadata_map(&metadata);
    Ok(Decision::Replace(draft))
}

/// Who deletes a request that is not over cancels it.
pub(crate) fn delete(settings: &Settings, call: &Call, draft: &Draft) -> Result<Decision, Stop> {
    let reference = present(draft)?.reference;
    if let Some(mut booking) = Booking::load(&reference)?.filter(|booking| booking.status.is_alive() && call.now_ms < booking.ends_at_ms()) {
        let change = Change {
            status: Status::Cancelled,
            by: Some(call.actor.clone()),
            reason: Some("deleted".into()),
            shown: false,
        };
        booking.change(settings, call, change)?;
    }
    Ok(Decision::Continue)
}

/// The message that an edit or delete is about.
fn present(draft: &Draft) -> Result<Message, Stop> {
    let id = draft
        .target
        .as_deref()
        .ok_or_else(|| Stop::Fail("an edit or delete without a target".into()))?;
    messages::get(id)?.ok_or_else(|| Stop::reject("not_found", "there is no such message"))
}
