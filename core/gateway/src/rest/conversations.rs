//! `/api/conversations`: the list, one conversation, and what a user keeps about it.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use haggle_engine::Command;
use haggle_model::{ConversationId, ConversationUpdate, Millis};
use haggle_store::InboxQuery;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    answer::{self, Answer, ConversationParts, json, no_content},
    cursor::Cursor,
    extract::{Caller, InConversation, JsonBytes, Params, WriteHeaders, page_size},
    problem::{Problem, Problems},
};
use crate::{
    Gateway,
    decode::{ConversationBody, DecodeError, check_text, check_url, object},
    resource::ConversationResource,
};

/// Which conversations.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// At most so many (20 when absent); more than 100 counts as 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// `true`: only archived ones; `false`: only those not archived; absent: all.
    archived: Option<bool>,
}

/// A page of conversations.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationList<'a> {
    /// By their last message, newest first.
    conversations: Vec<ConversationResource<'a>>,
    /// Hand it back as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<String>,
}

/// The caller's conversations.
#[utoipa::path(get, operation_id = "listConversations", path = "/api/conversations", tag = "conversations", params(ListParams),
    responses((status = 200, body = ConversationList<'static>), Problems))]
pub async fn list(State(gateway): State<Arc<Gateway>>, caller: Caller, Params(params): Params<ListParams>) -> Answer {
    let limit = page_size(
        params.limit,
        gateway.settings.rest.conversations_page_default,
        gateway.engine.limits().page_max,
    )?;
    let before = match params.cursor.as_deref().map(Cursor::decode).transpose()? {
        None => None,
        Some(Cursor::Conversations(at, id)) => Some((at, id)),
        Some(_) => return Err(Cursor::misplaced()),
    };
    let query = InboxQuery {
        archived: params.archived,
        before,
        limit: limit + 1,
    };
    let mut rows = gateway.engine.store().inbox(caller.user(), query).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows
        .last()
        .map(|row| Cursor::Conversations(row.conversation.last_message_at, row.conversation.id).encode());
    let mut parts = Vec::with_capacity(rows.len());
    for row in rows {
        parts.push(ConversationParts::of_inbox(&gateway, &caller, row).await?);
    }
    let conversations = parts.iter().map(|parts| parts.resource(caller.user())).collect();
    Ok(json(
        StatusCode::OK,
        &ConversationList {
            conversations,
            next_cursor: last.filter(|_| has_more),
        },
    ))
}

/// Get or create a conversation: 201 when it is new, 200 when it was there.
#[utoipa::path(post, operation_id = "createConversation", path = "/api/conversations", tag = "conversations", params(WriteHeaders), request_body = ConversationBody<'static>,
    responses((status = 201, body = ConversationResource<'static>), (status = 200, description = "It was there", body = ConversationResource<'static>), Problems))]
pub async fn create(State(gateway): State<Arc<Gateway>>, caller: Caller, body: JsonBytes) -> Answer {
    let wanted = body.parse::<ConversationBody<'_>>()?.into_new(caller.user())?;
    let outcome = caller.run(&gateway, Command::CreateConversation(wanted)).await?;
    let status = if outcome.existed { StatusCode::OK } else { StatusCode::CREATED };
    let response = shown(&gateway, &caller, status, outcome.conversation).await?;
    Ok(answer::located(
        answer::replayed(response, &outcome),
        &format!("/api/conversations/{}", outcome.conversation),
    ))
}

async fn shown(gateway: &Gateway, caller: &Caller, status: StatusCode, id: ConversationId) -> Answer {
    let parts = ConversationParts::load(gateway, caller, id).await?;
    Ok(json(status, &parts.resource(caller.user())))
}

/// One conversation.
#[utoipa::path(get, operation_id = "getConversation", path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path, description = "The conversation")),
    responses((status = 200, body = ConversationResource<'static>), Problems))]
pub async fn get(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    shown(&gateway, &caller, StatusCode::OK, id).await
}

/// A change of a conversation; absent parts stay, an empty text clears.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ConversationUpdate)]
pub struct UpdateBody<'a> {
    /// The new name.
    group_name: Option<String>,
    /// The new picture: `http(s):` or a path on this server.
    group_avatar: Option<String>,
    /// The whole new state: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    state: Option<&'a RawValue>,
    /// `false` closes it for messages by users, `true` opens it again; alone in its request.
    is_active: Option<bool>,
    /// Why it is closed, for people.
    reason: Option<String>,
}

impl UpdateBody<'_> {
    fn into_command(self, conversation: ConversationId) -> Result<Command, Problem> {
        check_text("/groupName", self.group_name.as_deref().unwrap_or_default())?;
        check_text("/reason", self.reason.as_deref().unwrap_or_default())?;
        check_url("/groupAvatar", self.group_avatar.as_deref())?;
        let update = ConversationUpdate {
            name: self.group_name,
            avatar: self.group_avatar,
            state: object("/state", self.state)?,
        };
        match (self.is_active, update == ConversationUpdate::default()) {
            (Some(active), true) => Ok(Command::CloseConversation {
                conversation,
                closed: !active,
                reason: self.reason,
            }),
            (None, false) => Ok(Command::UpdateConversation { conversation, update }),
            (Some(_), false) => Err(Problem::at("/isActive", "change it in a request of its own")),
            (None, true) => Err(DecodeError::new("", "nothing to change: give groupName, groupAvatar, state or isActive").into()),
        }
    }
}

/// Change a conversation; in groups for its admins.
#[utoipa::path(put, operation_id = "updateConversation", path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = UpdateBody<'static>, responses((status = 200, body = ConversationResource<'static>), Problems))]
pub async fn update(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let command = body.parse::<UpdateBody<'_>>()?.into_command(id)?;
    let outcome = caller.run(&gateway, command).await?;
    Ok(answer::replayed(shown(&gateway, &caller, StatusCode::OK, id).await?, &outcome))
}

/// Delete the conversation for the caller: it is hidden up to now, a later message brings it back.
#[utoipa::path(delete, operation_id = "deleteConversation", path = "/api/conversations/{id}", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn delete(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    let outcome = caller.run(&gateway, Command::Hide { conversation: id }).await?;
    Ok(answer::replayed(no_content(), &outcome))
}

async fn set_archived(gateway: &Gateway, caller: &Caller, id: ConversationId, archived: bool) -> Answer {
    let outcome = caller.run(gateway, Command::Archive { conversation: id, archived }).await?;
    Ok(answer::replayed(shown(gateway, caller, StatusCode::OK, id).await?, &outcome))
}

/// Archive it for the caller.
#[utoipa::path(put, operation_id = "archiveConversation", path = "/api/conversations/{id}/archive", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    responses((status = 200, body = ConversationResource<'static>), Problems))]
pub async fn archive(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    set_archived(&gateway, &caller, id, true).await
}

/// Take it out of the caller's archive.
#[utoipa::path(put, operation_id = "unarchiveConversation", path = "/api/conversations/{id}/unarchive", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    responses((status = 200, body = ConversationResource<'static>), Problems))]
pub async fn unarchive(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    set_archived(&gateway, &caller, id, false).await
}

/// Until when a conversation is muted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Mute)]
pub struct MuteBody {
    /// No notifications from it until then (RFC 3339); absent: until unmuted.
    #[schema(format = DateTime)]
    until: Option<String>,
}

/// No notifications from it, for the caller.
#[utoipa::path(put, operation_id = "muteConversation", path = "/api/conversations/{id}/mute", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = MuteBody, responses((status = 204), Problems))]
pub async fn mute(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let body: MuteBody = if body.0.is_empty() { MuteBody::default() } else { body.parse()? };
    let time = |text: &str| {
        text.parse::<jiff::Timestamp>()
            .map_err(|_| Problem::at("/until", "expected a time as in RFC 3339"))
    };
    let until = body
        .until
        .as_deref()
        .map(time)
        .transpose()?
        .map_or(Millis::MAX, jiff::Timestamp::as_millisecond);
    muted(&gateway, &caller, id, Some(until)).await
}

/// Notifications from it again, for the caller.
#[utoipa::path(delete, operation_id = "unmuteConversation", path = "/api/conversations/{id}/mute", tag = "conversations", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn unmute(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    muted(&gateway, &caller, id, None).await
}

async fn muted(gateway: &Gateway, caller: &Caller, id: ConversationId, until: Option<Millis>) -> Answer {
    let outcome = caller.run(gateway, Command::Mute { conversation: id, until }).await?;
    Ok(answer::replayed(no_content(), &outcome))
}

/// How many messages are unread.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreadCount {
    /// The caller's own.
    unread_count: u32,
}

/// The answer with a count of unread things.
pub fn unread_count(unread_count: u32) -> Response {
    json(StatusCode::OK, &UnreadCount { unread_count })
}

/// The caller's unread messages.
#[utoipa::path(get, operation_id = "getUnreadCount", path = "/api/conversations/{id}/unread-count", tag = "conversations", params(("id" = String, Path, description = "The conversation")),
    responses((status = 200, body = UnreadCount), Problems))]
pub async fn unread(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation) -> Answer {
    gateway.engine.authorize_read(&caller.actor, id).await?;
    Ok(unread_count(answer::unread(&gateway, &caller, id).await?))
}
