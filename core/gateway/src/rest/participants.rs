//! Participants of a conversation, and its log of events.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use haggle_engine::Command;
use haggle_model::{ConversationId, Role, UserId};
use haggle_store::MemberRow;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    answer::{self, Answer, json, no_content, raw_json},
    cursor::Cursor,
    extract::{Caller, CommandName, InConversation, JsonBytes, OfUser, PageParams, Params, WriteHeaders, page_size},
    problem::{Problem, Problems},
};
use crate::{
    Gateway, decode,
    resource::{EventResource, EventView, ParticipantResource},
};

/// A page of participants.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParticipantList<'a> {
    /// Present participants, ordered by user.
    participants: Vec<ParticipantResource<'a>>,
    /// Hand it back as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<String>,
}

/// Who is in the conversation.
#[utoipa::path(get, operation_id = "listParticipants", path = "/api/conversations/{id}/participants", tag = "participants", params(("id" = String, Path, description = "The conversation"), PageParams),
    responses((status = 200, body = ParticipantList<'static>), Problems))]
pub async fn list(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    InConversation(id): InConversation,
    Params(params): Params<PageParams>,
) -> Answer {
    let limit = page_size(params.limit, gateway.settings.rest.page_default, gateway.engine.limits().page_max)?;
    let after = match params.cursor.as_deref().map(Cursor::decode).transpose()? {
        None => None,
        Some(Cursor::User(user)) => Some(user),
        Some(_) => return Err(Cursor::misplaced()),
    };
    let (conversation, _) = gateway.engine.authorize_read(&caller.actor, id).await?;
    let (rows, has_more) = present_members(&gateway, id, after, limit).await?;
    let marks_are_shared = conversation.participants as usize <= gateway.engine.limits().shared_marks_participants_max;
    let participants = rows.iter().map(|row| ParticipantResource::new(row, marks_are_shared)).collect();
    let next_cursor = rows.last().filter(|_| has_more).map(|last| Cursor::User(last.user.clone()).encode());
    Ok(json(StatusCode::OK, &ParticipantList { participants, next_cursor }))
}

/// Up to `limit` members who have not left, and whether there may be more.
async fn present_members(gateway: &Gateway, id: ConversationId, mut after: Option<UserId>, limit: usize) -> Result<(Vec<MemberRow>, bool), Problem> {
    let mut present: Vec<MemberRow> = Vec::new();
    loop {
        let page = gateway.engine.store().members(id, after.as_ref(), limit + 1).await?;
        let is_last = page.len() <= limit;
        after = page.last().map(|member| member.user.clone());
        present.extend(page.into_iter().filter(|member| member.left_seq.is_none()));
        if present.len() > limit || is_last {
            let has_more = present.len() > limit;
            present.truncate(limit);
            return Ok((present, has_more));
        }
    }
}

/// Somebody to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewParticipant)]
pub struct AddBody {
    /// Whom.
    #[schema(min_length = 1, max_length = 128)]
    user_id: String,
    /// `member` (when absent) or `admin`.
    role: Option<String>,
}

/// A role to give.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewRole)]
pub struct RoleBody {
    /// `member` or `admin`.
    role: String,
}

fn role(text: &str) -> Result<Role, Problem> {
    text.parse().map_err(|()| Problem::at("/role", "expected member or admin"))
}

async fn participant(gateway: &Gateway, status: StatusCode, id: ConversationId, user: &UserId) -> Answer {
    let store = gateway.engine.store();
    let row = store
        .member(id, user)
        .await?
        .filter(|member| member.left_seq.is_none())
        .ok_or_else(Problem::not_found)?;
    let count = store.conversation(id).await?.map_or(0, |conversation| conversation.participants as usize);
    let marks_are_shared = count <= gateway.engine.limits().shared_marks_participants_max;
    Ok(json(status, &ParticipantResource::new(&row, marks_are_shared)))
}

/// Add a participant; in groups for its admins.
#[utoipa::path(post, operation_id = "addParticipant", path = "/api/conversations/{id}/participants", tag = "participants", params(("id" = String, Path, description = "The conversation"), WriteHeaders),
    request_body = AddBody, responses((status = 201, body = ParticipantResource<'static>), Problems))]
pub async fn add(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, body: JsonBytes) -> Answer {
    let body: AddBody = body.parse()?;
    let user = decode::user_id("/userId", &body.user_id)?;
    let role = body.role.as_deref().map(role).transpose()?.unwrap_or_default();
    let outcome = caller
        .run(
            &gateway,
            Command::AddParticipant {
                conversation: id,
                user: user.clone(),
                role,
            },
        )
        .await?;
    Ok(answer::replayed(participant(&gateway, StatusCode::CREATED, id, &user).await?, &outcome))
}

/// Remove a participant; oneself: leave.
#[utoipa::path(delete, operation_id = "removeParticipant", path = "/api/conversations/{id}/participants/{userId}", tag = "participants",
    params(("id" = String, Path, description = "The conversation"), ("userId" = String, Path, description = "The user", min_length = 1, max_length = 128), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn remove(State(gateway): State<Arc<Gateway>>, caller: Caller, InConversation(id): InConversation, OfUser(user): OfUser) -> Answer {
    let outcome = caller.run(&gateway, Command::RemoveParticipant { conversation: id, user }).await?;
    Ok(answer::replayed(no_content(), &outcome))
}

/// Give a participant another role.
#[utoipa::path(put, operation_id = "setParticipantRole", path = "/api/conversations/{id}/participants/{userId}", tag = "participants",
    params(("id" = String, Path, description = "The conversation"), ("userId" = String, Path, description = "The user", min_length = 1, max_length = 128), WriteHeaders),
    request_body = RoleBody, responses((status = 200, body = ParticipantResource<'static>), Problems))]
pub async fn set_role(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    InConversation(id): InConversation,
    OfUser(user): OfUser,
    body: JsonBytes,
) -> Answer {
    let role = role(&body.parse::<RoleBody>()?.role)?;
    let outcome = caller
        .run(
            &gateway,
            Command::SetRole {
                conversation: id,
                user: user.clone(),
                role,
            },
        )
        .await?;
    Ok(answer::replayed(participant(&gateway, StatusCode::OK, id, &user).await?, &outcome))
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventParams {
    /// Events above this seq; absent: from the first.
    after: Option<u32>,
    /// At most so many (100 when absent); more than 500 counts as 500.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `nextCursor` of the page before, instead of `after`.
    cursor: Option<String>,
}

/// A page of events.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventList<'a> {
    /// Ascending, without gaps; messages in their present state.
    events: Vec<EventResource<'a>>,
    /// Hand it back as `cursor` for the next page; `null` when nothing is known to follow.
    next_cursor: Option<String>,
}

/// The log of a conversation (or of the caller's own stream), for catching up.
#[utoipa::path(get, operation_id = "listEvents", path = "/api/conversations/{id}/events", tag = "events", params(("id" = String, Path, description = "The conversation"), EventParams),
    responses((status = 200, body = EventList<'static>), Problems))]
pub async fn events(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    InConversation(id): InConversation,
    Params(params): Params<EventParams>,
) -> Answer {
    let limit = page_size(params.limit, gateway.engine.limits().page_max, gateway.settings.rest.events_page_max)?;
    let after = match params.cursor.as_deref().map(Cursor::decode).transpose()? {
        None => params.after.unwrap_or(0),
        Some(Cursor::After(seq)) => seq,
        Some(_) => return Err(Cursor::misplaced()),
    };
    let (conversation, _) = gateway.engine.authorize_read(&caller.actor, id).await?;
    let rows = gateway.engine.store().events(id, after, limit).await?;
    let events = rows.iter().map(|row| EventResource::new(EventView::of_row(id, row))).collect();
    let next_cursor = rows
        .last()
        .filter(|last| last.seq < conversation.head)
        .map(|last| Cursor::After(last.seq).encode());
    Ok(json(StatusCode::OK, &EventList { events, next_cursor }))
}

/// Run a plugin's command in the conversation. The answer is whatever the plugin answers.
#[utoipa::path(post, operation_id = "runCommand", path = "/api/conversations/{id}/commands/{name}", tag = "commands",
    params(("id" = String, Path, description = "The conversation"), ("name" = String, Path, description = "The command, as a plugin's manifest names it"), WriteHeaders),
    request_body(content = Object, description = "Any JSON; absent: null"), responses((status = 200, body = Object), Problems))]
pub async fn command(
    State(gateway): State<Arc<Gateway>>,
    caller: Caller,
    InConversation(id): InConversation,
    CommandName(name): CommandName,
    body: JsonBytes,
) -> Answer {
    let payload = body.text()?.trim();
    let payload = if payload.is_empty() { "null" } else { payload };
    decode::check_json("", payload)?;
    let command = Command::Call {
        name,
        conversation: Some(id),
        payload: payload.to_owned(),
    };
    let outcome = caller.run(&gateway, command).await?;
    let text = outcome.answer.clone().unwrap_or_else(|| "null".into());
    Ok(answer::replayed(raw_json(StatusCode::OK, text), &outcome))
}
