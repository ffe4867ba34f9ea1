//! Offers as they are sent, edited and deleted.

use haggle_sdk::prelude::*;
use serde_json::{Map, Value};

use crate::{
    KIND,
    offer::{Close, Offer, Status},
    package::{self, Package},
    settings::Settings,
};

/// What clients can neither set nor change.
const PROTECTED: [&str; 10] = [
    "servicePackageId",
    "serviceName",
    "price",
    "currency",
    "duration",
    "status",
    "statusAt",
    "statusBy",
    "statusReason",
    "expiresAt",
];

/// Fills in what the package says and opens the offer.
pub(crate) fn send(settings: &Settings, call: &Call, mut draft: Draft) -> Result<Decision, Stop> {
    let mut metadata = draft.metadata_map()?;
    let package_id = package_id(&metadata)?;
    let package = package::find(&draft.sender_id, &package_id)?;
    let open = Offer::list_open()?;
    let countered = countered(&metadata, &draft, &open)?;
    if open.len() - usize::from(countered.is_some()) >= settings.open_max {
        return Err(Stop::reject(
            "too_many_open_offers",
            format!("at most {} offers may be open in a conversation", settings.open_max),
        ));
    }
    if let Some(offer) = countered {
        counter(settings, call, offer, &draft.sender_id)?;
    }
    let offer = Offer {
        reference: call.reference.clone(),
        message_id: None,
        sender_id: draft.sender_id.clone(),
        status: Status::Open,
        created_at_ms: call.now_ms,
        expires_at_ms: call.now_ms + settings.expire_after_ms(),
    };
    offer.open(settings)?;
    draft.content = settings.content.replace("{name}", &package.name);
    fill(&mut metadata, package_id, package, settings, &offer);
    draft.set_metadata_map(&metadata);
    Ok(Decision::Replace(draft))
}

fn package_id(metadata: &Map<String, Value>) -> Result<String, Stop> {
    let id = metadata
        .get("servicePackageId")
        .filter(|id| id.is_string() || id.is_number())
        .map(json::plain)
        .unwrap_or_default();
    if id.is_empty() {
        Err(Stop::reject("invalid_offer", "metadata.servicePackageId is missing"))
    } else {
        Ok(id)
    }
}

fn fill(metadata: &mut Map<String, Value>, package_id: String, package: Package, settings: &Settings, offer: &Offer) {
    for key in PROTECTED {
        metadata.remove(key);
    }
    metadata.insert("servicePackageId".into(), package_id.into());
    metadata.insert("serviceName".into(), package.name.into());
    metadata.insert("price".into(), package.price);
    metadata.insert(
        "currency".into(),
        package.currency.unwrap_or_else(|| settings.default_currency.clone()).into(),
    );
    if let Some(duration) = package.duration {
        metadata.insert("duration".into(), duration);
    }
    metadata.insert("status".into(), Status::Open.as_str().into());
    metadata.insert("expiresAt".into(), time::iso_utc(offer.expires_at_ms).into());
}

/// The open offer that this one answers: the one that `counterOf` names, else (in a direct conversation, where there is no doubt
/// whose it is) the newest open one of the other side.
fn countered(metadata: &Map<String, Value>, draft: &Draft, open: &[(String, String)]) -> Result<Option<Offer>, Stop> {
    if let Some(id) = metadata.get("counterOf") {
        let offer = named(id, draft)?.filter(|offer| offer.status == Status::Open && offer.sender_id != draft.sender_id);
        return offer
            .map(Some)
            .ok_or_else(|| Stop::reject("counter_not_open", "metadata.counterOf names no open offer to you"));
    }
    let others: Vec<_> = open.iter().filter(|(_, sender)| *sender != draft.sender_id).collect();
    if others.is_empty() || !is_direct(&draft.conversation_id)? {
        return Ok(None);
    }
    let mut newest: Option<Offer> = None;
    for (reference, _) in others {
        if let Some(offer) = Offer::load(reference)?
            && newest.as_ref().is_none_or(|newest| offer.created_at_ms >= newest.created_at_ms)
        {
            newest = Some(offer);
        }
    }
    Ok(newest)
}

fn named(id: &Value, draft: &Draft) -> Result<Option<Offer>, Stop> {
    let Some(id) = id.as_str() else { return Ok(None) };
    match messages::get(id)? {
        Some(message) if message.conversation_id == draft.conversation_id && message.kind == KIND => Ok(Offer::load(&message.reference)?),
        _ => Ok(None),
    }
}

fn is_direct(conversation_id: &str) -> Result<bool, Stop> {
    Ok(conversations::get(conversation_id)?.is_some_and(|conversation| conversation.kind == "direct"))
}

fn counter(settings: &Settings, call: &Call, offer: Offer, by: &str) -> Result<(), Stop> {
    let close = Close {
        status: Status::Declined,
        by: Some(by.into()),
        reason: Some("countered".into()),
        shown: true,
    };
    offer.close(settings, call, close)?;
    metrics::count("offers_countered");
    Ok(())
}

/// Lets a note change while the offer is open, and nothing that matters ever.
pub(crate) fn edit(mut draft: Draft) -> Result<Decision, Stop> {
    let present = present(&draft)?;
    let kept = present.metadata_map()?;
    if kept.get("status").and_then(Value::as_str) != Some(Status::Open.as_str()) {
        return Err(Stop::reject("offer_closed", "an offer that is closed does not change"));
    }
    let mut metadata = if draft.metadata.is_some() { draft.metadata_map()? } else { kept.clone() };
    for key in PROTECTED.iter().chain(&["counterOf"]) {
        match kept.get(*key) {
            Some(value) => metadata.insert((*key).into(), value.clone()),
            None => metadata.remove(*key),
        };
    }
    draft.content = present.content;
    draft.set_metadata_map(&metadata);
    Ok(Decision::Replace(draft))
}

/// Who deletes an open offer withdraws it.
pub(crate) fn delete(settings: &Settings, call: &Call, draft: &Draft) -> Result<Decision, Stop> {
    let reference = present(draft)?.reference;
    if let Some(offer) = Offer::load(&reference)?.filter(|offer| offer.status == Status::Open) {
        let close = Close {
            status: Status::Withdrawn,
            by: Some(call.actor.clone()),
            reason: Some("deleted".into()),
            shown: false,
        };
        offer.close(settings, call, close)?;
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
