//! Messages: pages, sending, and everything under `/api/messages/{id}`.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use haggle_engine::{Command, NewMessage, To};
use haggle_model::{ConversationId, MessageId, Seq};
use haggle_store::{MessageRow, Page};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    answer::{self, Answer, json, no_content},
    conversations::{UnreadCount, unread_count},
    cursor::Cursor,
    extract::{Caller, IfMatch, InConversation, JsonBytes, OfMessage, Params, WriteHeaders, if_rev, page_size},
    problem::{Problem, Problems},
};
use crate::{
    Gateway,
    decode::{EditBody, MessageBody, check_place, check_text},
    resource::{MessageContext, MessageResource, Time, User},
};

/// Messages that one bulk request may name.
const BULK_MAX: usize = 500;

/// Which messages.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct MessageParams {
    /// At most so many (50 when absent); more than 100 counts as 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// Messages above this seq, oldest first, instead of the newest.
    after: Option<u32>,
}

/// A page of messages.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageList<'a> {
    /// Newest first; with `after` oldest first.
    messages: Vec<MessageResource<'a>>,
    /// Hand it back as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<String>,
}

impl MessageParams {
    fn page(&self) -> Result<Page, Problem> {
        match (self.cursor.as_deref().map(Cursor::decode).transpose()?, self.after) {
            (Some(Cursor::Before(seq)), _) => Ok(Page::Before(seq)),
            (Some(Cursor::After(seq)), _) => Ok(Page::After(seq)),
            (Some(_), _) => Err(Cursor::misplaced()),
            (None, Some(seq)) => Ok(Page::After(seq)),
            (None, None) => Ok(Page::Newest),
        }
    }
}

/// Messages of a conversation in their present state.
#[utoipa::path(get, operation_id = "listMessages", path = "/api/conversations/{id}/messages", tag = "messages", params(("id" = String, Path, description = "The conversation"), MessageParams),
    responses((status = 200, body = MessageList<'static>), Problems))]
pub async fn list(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    InConversation(id): InConversation,
    Params(params): Params<MessageParams>,
) -> Answer {
    let limit = page_size(params.limit, gateway.settings.rest.page_default, gateway.engine.limits().page_max)?;
    let page = params.page()?;
    gateway.engine.authorize_read(&caller.actor, id).await?;
    let mut rows = gateway.engine.store().messages(id, page, limit + 1, Some(caller.user())).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let oldest = rows.iter().map(|row| row.id.seq).min().unwrap_or(Seq::MAX);
    let steps = gateway.engine.read_steps(id, oldest).await?;
    let read_by: Vec<_> = rows.iter().map(|row| answer::readers(&steps, row)).collect();
    let messages = rows.iter().zip(&read_by).map(|(row, read_by)| {
        let context = MessageContext {
            read_by: Some(read_by),
            deleted_for: Some(&[]),
        };
        MessageResource::new(row.view(), context)
    });
    let messages = messages.collect();
    let next_cursor = rows.last().filter(|_| has_more).map(|last| next(page, last));
    Ok(json(StatusCode::OK, &MessageList { messages, next_cursor }))
}

fn next(page: Page, last: &MessageRow) -> String {
    match page {
        Page::After(_) => Cursor::After(last.id.seq).encode(),
        Page::Newest | Page::Before(_) => Cursor::Before(last.id.seq).encode(),
    }
}

/// Send a message. A retry with the same `Idempotency-Key` or `clientMessageId` gets the message of the first try.
#[utoipa::path(post, operation_id = "sendMessage", path = "/api/conversations/{id}/messages", tag = "messages", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = MessageBody<'static>, responses((status = 201, body = MessageResource<'static>), Problems))]
pub async fn send(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let (message, key) = body.parse::<MessageBody<'_>>()?.into_message()?;
    sent(&gateway, &caller, id, message, key).await
}

async fn sent(gateway: &Gateway, caller: &Caller, id: ConversationId, message: NewMessage, key: Option<String>) -> Answer {
    let outcome = caller
        .run_as(
            gateway,
            key,
            Command::Send {
                to: To::Conversation(id),
                message,
            },
        )
        .await?;
    let row = answer::written_message(gateway, outcome.conversation.message(outcome.seq)).await?;
    let response = if outcome.duplicate {
        answer::message(gateway, StatusCode::CREATED, &row).await?
    } else {
        answer::fresh_message(&row)
    };
    Ok(answer::located(
        answer::replayed(response, &outcome),
        &format!("/api/messages/{}", row.id),
    ))
}

/// An offer of a service package of the sender.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ServiceOffer)]
pub struct OfferBody {
    /// A package of the sender's profile; price, currency and duration are filled in from it.
    service_package_id: String,
    /// A note for the other side.
    message: Option<String>,
    /// The client's own id of the message.
    #[schema(min_length = 1, max_length = 128)]
    client_message_id: Option<String>,
}

/// Metadata that a request of a marketplace starts with; the plugin that claims the kind fills in the rest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestMetadata<'a> {
    service_package_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_date: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requested_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

fn claimed(kind: &str, metadata: &impl Serialize) -> NewMessage {
    let metadata = serde_json::to_string(metadata).expect("plain fields");
    NewMessage {
        kind: kind.into(),
        text: String::new(),
        metadata: Some(metadata),
        reply_to: None,
        forwarded_from: None,
    }
}

/// Offer a service: a message of kind `service_offer`, completed and judged by the plugin that claims it.
#[utoipa::path(post, operation_id = "sendServiceOffer", path = "/api/conversations/{id}/messages/service-offer", tag = "messages", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = OfferBody, responses((status = 201, body = MessageResource<'static>), Problems))]
pub async fn service_offer(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let body: OfferBody = body.parse()?;
    check_text("/servicePackageId", &body.service_package_id)?;
    check_text("/message", body.message.as_deref().unwrap_or_default())?;
    let metadata = RequestMetadata {
        service_package_id: &body.service_package_id,
        requested_date: None,
        requested_time: None,
        note: body.message.as_deref(),
    };
    sent(&gateway, &caller, id, claimed("service_offer", &metadata), body.client_message_id).await
}

/// A request for a booking with the addressee.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BookingRequest)]
pub struct BookingBody {
    /// A package of the addressee's profile.
    service_package_id: String,
    /// The day, local to the provider: `2030-02-15`, or the start of a day in RFC 3339.
    requested_date: String,
    /// The time of day, local to the provider: `14:30`.
    requested_time: String,
    /// A note for the other side.
    message: Option<String>,
    /// The client's own id of the message.
    #[schema(min_length = 1, max_length = 128)]
    client_message_id: Option<String>,
}

/// Ask for a booking: a message of kind `booking_request`, completed and judged by the plugin that claims it.
#[utoipa::path(post, operation_id = "sendBookingRequest", path = "/api/conversations/{id}/messages/booking-request", tag = "messages", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = BookingBody, responses((status = 201, body = MessageResource<'static>), Problems))]
pub async fn booking_request(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let body: BookingBody = body.parse()?;
    let texts = [
        ("/servicePackageId", &body.service_package_id),
        ("/requestedDate", &body.requested_date),
        ("/requestedTime", &body.requested_time),
    ];
    for (pointer, text) in texts {
        check_text(pointer, text)?;
    }
    check_text("/message", body.message.as_deref().unwrap_or_default())?;
    let metadata = RequestMetadata {
        service_package_id: &body.service_package_id,
        requested_date: Some(&body.requested_date),
        requested_time: Some(&body.requested_time),
        note: body.message.as_deref(),
    };
    sent(&gateway, &caller, id, claimed("booking_request", &metadata), body.client_message_id).await
}

/// A place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Location)]
pub struct LocationBody {
    /// Degrees, from -90 to 90.
    #[schema(minimum = -90, maximum = 90)]
    latitude: f64,
    /// Degrees, from -180 to 180.
    #[schema(minimum = -180, maximum = 180)]
    longitude: f64,
    /// For people.
    address: Option<String>,
    /// The client's own id of the message.
    #[schema(min_length = 1, max_length = 128)]
    client_message_id: Option<String>,
}

#[derive(Serialize)]
struct Place<'a> {
    latitude: f64,
    longitude: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

/// Send a place: a message of kind `location`.
#[utoipa::path(post, operation_id = "sendLocation", path = "/api/conversations/{id}/messages/location", tag = "messages", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = LocationBody, responses((status = 201, body = MessageResource<'static>), Problems))]
pub async fn location(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let body: LocationBody = body.parse()?;
    check_place("", Some(body.latitude), Some(body.longitude))?;
    check_text("/address", body.address.as_deref().unwrap_or_default())?;
    let place = Place {
        latitude: body.latitude,
        longitude: body.longitude,
        address: body.address.as_deref(),
    };
    let message = NewMessage {
        text: body.address.clone().unwrap_or_default(),
        ..claimed("location", &place)
    };
    sent(&gateway, &caller, id, message, body.client_message_id).await
}

/// Messages that were read.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkMarkRead)]
pub struct BulkReadBody {
    /// Messages of this conversation, at most 500: everything up to the newest of them is read.
    message_ids: Vec<String>,
}

impl BulkReadBody {
    fn newest(&self, conversation: ConversationId) -> Result<Seq, Problem> {
        if self.message_ids.is_empty() || self.message_ids.len() > BULK_MAX {
            return Err(Problem::at("/messageIds", format!("expected 1 to {BULK_MAX} ids")));
        }
        let mut newest = 0;
        for (i, text) in self.message_ids.iter().enumerate() {
            let id: Option<MessageId> = text.parse().ok();
            let id = id.filter(|id| id.conversation == conversation);
            newest = newest.max(
                id.ok_or_else(|| Problem::at(format!("/messageIds/{i}"), "not a message of this conversation"))?
                    .seq,
            );
        }
        Ok(newest)
    }
}

/// Mark messages read: the caller's mark moves to the newest of them.
#[utoipa::path(post, operation_id = "markMessagesRead", path = "/api/conversations/{id}/messages/bulk-mark-read", tag = "messages", params(("id" = String, Path, description = "The conversation")),
    request_body = BulkReadBody, responses((status = 200, body = UnreadCount), Problems))]
pub async fn bulk_mark_read(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let newest = body.parse::<BulkReadBody>()?.newest(id)?;
    gateway.engine.authorize_read(&caller.actor, id).await?;
    answer::mark_read(&gateway, &caller, id, newest).await?;
    Ok(unread_count(answer::unread(&gateway, &caller, id).await?))
}

/// One message in its present state.
#[utoipa::path(get, operation_id = "getMessage", path = "/api/messages/{id}", tag = "messages", params(("id" = String, Path, description = "The message")),
    responses((status = 200, body = MessageResource<'static>), Problems))]
pub async fn get(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage) -> Answer {
    let row = answer::readable_message(&gateway, &caller, id).await?;
    answer::message(&gateway, StatusCode::OK, &row).await
}

/// Edit an own message.
#[utoipa::path(put, operation_id = "editMessage", path = "/api/messages/{id}", tag = "messages", params(("id" = String, Path, description = "The message"), WriteHeaders, IfMatch),
    request_body = EditBody<'static>, responses((status = 200, body = MessageResource<'static>), Problems))]
pub async fn edit(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage, headers: HeaderMap, body: JsonBytes) -> Answer {
    let (text, metadata, key) = body.parse::<EditBody<'_>>()?.into_parts()?;
    let command = Command::Edit {
        message: id,
        text,
        metadata,
        if_rev: if_rev(&headers)?,
    };
    let outcome = caller.run_as(&gateway, key, command).await?;
    let row = answer::written_message(&gateway, id).await?;
    Ok(answer::replayed(answer::message(&gateway, StatusCode::OK, &row).await?, &outcome))
}

/// Delete an own message for all; admins of the conversation any message.
#[utoipa::path(delete, operation_id = "deleteMessage", path = "/api/messages/{id}", tag = "messages", params(("id" = String, Path, description = "The message"), WriteHeaders, IfMatch),
    responses((status = 204), Problems))]
pub async fn delete(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage, headers: HeaderMap) -> Answer {
    let outcome = caller
        .run(
            &gateway,
            Command::Delete {
                message: id,
                if_rev: if_rev(&headers)?,
            },
        )
        .await?;
    Ok(answer::replayed(no_content(), &outcome))
}

/// Delete a message for the caller alone.
#[utoipa::path(delete, operation_id = "deleteMessageForMe", path = "/api/messages/{id}/for-me", tag = "messages", params(("id" = String, Path, description = "The message"), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn delete_for_me(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage) -> Answer {
    let outcome = caller.run(&gateway, Command::HideMessage { message: id }).await?;
    Ok(answer::replayed(no_content(), &outcome))
}

/// Mark everything up to this message read.
#[utoipa::path(post, operation_id = "markMessageRead", path = "/api/messages/{id}/read", tag = "messages", params(("id" = String, Path, description = "The message")),
    responses((status = 200, body = MessageResource<'static>), Problems))]
pub async fn read(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage) -> Answer {
    let row = answer::readable_message(&gateway, &caller, id).await?;
    answer::mark_read(&gateway, &caller, id.conversation, id.seq).await?;
    answer::message(&gateway, StatusCode::OK, &row).await
}

/// A reaction.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewReaction)]
pub struct ReactionBody {
    /// An emoji, at most 32 bytes; it replaces an earlier one of the caller.
    #[schema(min_length = 1, max_length = 32)]
    reaction: String,
}

/// React to a message; one reaction per user, a new one replaces the old.
#[utoipa::path(post, operation_id = "addReaction", path = "/api/messages/{id}/reaction", tag = "messages", params(("id" = String, Path, description = "The message"), WriteHeaders),
    request_body = ReactionBody, responses((status = 200, body = MessageResource<'static>), Problems))]
pub async fn react(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage, body: JsonBytes) -> Answer {
    let ReactionBody { reaction } = body.parse()?;
    check_text("/reaction", &reaction)?;
    if reaction.is_empty() {
        return Err(Problem::at("/reaction", "must not be empty"));
    }
    reacted(&gateway, &caller, id, Some(reaction)).await
}

/// Take the caller's reaction away.
#[utoipa::path(delete, operation_id = "removeReaction", path = "/api/messages/{id}/reaction", tag = "messages", params(("id" = String, Path, description = "The message"), WriteHeaders),
    responses((status = 200, body = MessageResource<'static>), Problems))]
pub async fn unreact(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage) -> Answer {
    reacted(&gateway, &caller, id, None).await
}

async fn reacted(gateway: &Gateway, caller: &Caller, id: MessageId, emoji: Option<String>) -> Answer {
    let outcome = caller.run(gateway, Command::React { message: id, emoji }).await?;
    let row = answer::written_message(gateway, id).await?;
    Ok(answer::replayed(answer::message(gateway, StatusCode::OK, &row).await?, &outcome))
}

/// Who has read a message.
#[derive(Serialize, ToSchema)]
pub struct Reads<'a> {
    /// Everybody but the sender, ordered by user.
    reads: Vec<Read<'a>>,
}

/// One reader.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Read<'a> {
    /// Who.
    #[schema(value_type = String)]
    user_id: User<'a>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    read_at: Time,
}

/// Who has read the message, and when; known in conversations of at most 256 participants.
#[utoipa::path(get, operation_id = "listReads", path = "/api/messages/{id}/reads", tag = "messages", params(("id" = String, Path, description = "The message")),
    responses((status = 200, body = Reads<'static>), Problems))]
pub async fn reads(State(gateway): State<Arc<Gateway>>, caller: Caller, OfMessage(id): OfMessage) -> Answer {
    let row = answer::readable_message(&gateway, &caller, id).await?;
    let steps = gateway.engine.read_steps(id.conversation, id.seq).await?;
    let readers = answer::readers(&steps, &row);
    let reads = readers
        .iter()
        .map(|(user, at)| Read {
            user_id: User(user),
            read_at: Time(*at),
        })
        .collect();
    Ok(json(StatusCode::OK, &Reads { reads }))
}
