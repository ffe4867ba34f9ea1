//! Profiles, presence, blocks and notifications: what belongs to a user rather than to a conversation.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use haggle_engine::{AttributeChanges, Command, ProfilePatch};
use haggle_model::{ErrorCode, MessageId, Millis, UserId};
use haggle_store::{NotificationRow, UserRow};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{
    answer::{self, Answer, Previews, json, no_content},
    conversations::{UnreadCount, unread_count},
    cursor::Cursor,
    extract::{Caller, JsonBytes, OfUser, Params, WriteHeaders, page_size},
    problem::{Problem, Problems},
};
use crate::{
    Gateway,
    decode::{check_json, check_text, check_url, object},
    resource::{NotificationResource, PresenceResource, Time, User, UserResource},
};

/// Roles of one profile.
const ROLES_MAX: usize = 64;

/// Whether the user is online, as far as the caller may know: a block between the two hides it.
async fn visible_presence(gateway: &Gateway, caller: &Caller, user: &UserId) -> Result<(bool, Option<Millis>), Problem> {
    if caller.user() != user && !caller.actor.is_admin() {
        let store = gateway.engine.store();
        if store.blocks(user).await?.contains(caller.user()) || store.blocks(caller.user()).await?.contains(user) {
            return Ok((false, None));
        }
    }
    Ok(gateway.engine.presence(user).await?)
}

async fn user_row(gateway: &Gateway, user: &UserId) -> Result<UserRow, Problem> {
    gateway.engine.store().user(user).await?.ok_or_else(Problem::not_found)
}

async fn whole(gateway: &Gateway, user: &UserId) -> Answer {
    let row = user_row(gateway, user).await?;
    let presence = gateway.engine.presence(user).await?;
    Ok(json(StatusCode::OK, &UserResource::whole(&row, presence)))
}

/// The caller's own profile.
#[utoipa::path(get, operation_id = "getMe", path = "/api/users/me", tag = "users", responses((status = 200, body = UserResource<'static>), Problems))]
pub async fn me(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Answer {
    whole(&gateway, caller.user()).await
}

/// A user: oneself and administrators see everything, others name, avatar, presence and public attributes.
#[utoipa::path(get, operation_id = "getUser", path = "/api/users/{id}", tag = "users", params(("id" = String, Path, description = "The user", min_length = 1, max_length = 128)),
    responses((status = 200, body = UserResource<'static>), Problems))]
pub async fn get(State(gateway): State<Arc<Gateway>>, caller: Caller, OfUser(user): OfUser) -> Answer {
    if caller.user() == &user || caller.actor.is_admin() {
        return whole(&gateway, &user).await;
    }
    let row = user_row(&gateway, &user).await?;
    let presence = visible_presence(&gateway, &caller, &user).await?;
    Ok(json(
        StatusCode::OK,
        &UserResource::public(&row, presence, &gateway.settings.users.public_attributes),
    ))
}

/// A change of the own profile; absent parts stay.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ProfileChange)]
pub struct PatchBody<'a> {
    /// The display name; an empty one clears it.
    name: Option<String>,
    /// The picture: `http(s):` or a path on this server; an empty one clears it.
    avatar: Option<String>,
    /// The whole new preferences: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    preferences: Option<&'a RawValue>,
    /// Attributes to set, or with `null` to remove: by default `servicePackages` and `timeZone` may be changed by oneself.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<BTreeMap<String, &'a RawValue>>,
}

/// Change the own profile.
#[utoipa::path(patch, operation_id = "updateMe", path = "/api/users/me", tag = "users", params(WriteHeaders), request_body = PatchBody<'static>,
    responses((status = 200, body = UserResource<'static>), Problems))]
pub async fn patch_me(State(gateway): State<Arc<Gateway>>, caller: Caller, body: JsonBytes) -> Answer {
    let body: PatchBody<'_> = body.parse()?;
    check_profile(body.name.as_deref(), body.avatar.as_deref())?;
    let attribute_changes = body.attributes.map(|changes| attribute_changes(&gateway, &changes)).transpose()?;
    let preferences = object("/preferences", body.preferences)?;
    let patch = ProfilePatch {
        name: body.name,
        avatar: body.avatar,
        roles: None,
        attributes: None,
        attribute_changes,
        preferences,
    };
    if patch == ProfilePatch::default() {
        return Err(Problem::new(
            ErrorCode::BadRequest,
            "nothing to change: give name, avatar, preferences or attributes",
        ));
    }
    let outcome = caller
        .run(
            &gateway,
            Command::UpdateProfile {
                user: caller.user().clone(),
                patch,
            },
        )
        .await?;
    Ok(answer::replayed(whole(&gateway, caller.user()).await?, &outcome))
}

fn check_profile(name: Option<&str>, avatar: Option<&str>) -> Result<(), Problem> {
    check_text("/name", name.unwrap_or_default())?;
    Ok(check_url("/avatar", avatar)?)
}

/// Changes of the own attributes, every one of which must be the user's own to make.
fn attribute_changes(gateway: &Gateway, changes: &BTreeMap<String, &RawValue>) -> Result<AttributeChanges, Problem> {
    let editable = &gateway.settings.users.self_editable;
    for (name, value) in changes {
        if !editable.contains(name) {
            return Err(Problem::new(
                ErrorCode::Forbidden,
                format!("the attribute {name:?} is not in users.self_editable"),
            ));
        }
        check_json(&format!("/attributes/{name}"), value.get())?;
    }
    Ok(AttributeChanges {
        sent: serde_json::to_string(changes).expect("text keys"),
        apply: changed,
    })
}

/// Attributes after changes: `null` removes one. What is no object counts as an empty one.
fn changed(before: Option<&str>, changes: &str) -> String {
    let members = |object| serde_json::from_str::<BTreeMap<String, &RawValue>>(object).unwrap_or_default();
    let mut all = members(before.unwrap_or_default());
    for (name, value) in members(changes) {
        match value.get() {
            "null" => drop(all.remove(&name)),
            _ => drop(all.insert(name, value)),
        }
    }
    serde_json::to_string(&all).expect("text keys")
}

/// A whole profile, for administrators and services.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = Profile)]
pub struct PutBody<'a> {
    /// The display name.
    name: Option<String>,
    /// The picture: `http(s):` or a path on this server.
    avatar: Option<String>,
    /// Roles for display and plugins; what a request may do, its token says.
    roles: Option<Vec<String>>,
    /// Everything else that is known: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    attributes: Option<&'a RawValue>,
    /// The user's own settings: an object; absent: they stay.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    preferences: Option<&'a RawValue>,
}

impl PutBody<'_> {
    fn into_patch(self) -> Result<ProfilePatch, Problem> {
        check_profile(self.name.as_deref(), self.avatar.as_deref())?;
        let roles = self.roles.unwrap_or_default();
        if roles.len() > ROLES_MAX {
            return Err(Problem::at("/roles", format!("at most {ROLES_MAX} roles")));
        }
        for (i, role) in roles.iter().enumerate() {
            check_text(&format!("/roles/{i}"), role)?;
        }
        Ok(ProfilePatch {
            name: Some(self.name.unwrap_or_default()),
            avatar: Some(self.avatar.unwrap_or_default()),
            roles: Some(roles),
            attributes: Some(object("/attributes", self.attributes)?.unwrap_or_else(|| "{}".into())),
            attribute_changes: None,
            preferences: object("/preferences", self.preferences)?,
        })
    }
}

/// Create or replace a user's profile; for administrators and services.
#[utoipa::path(put, operation_id = "putUser", path = "/api/users/{id}", tag = "users", params(("id" = String, Path, description = "The user", min_length = 1, max_length = 128), WriteHeaders),
    request_body = PutBody<'static>, responses((status = 200, body = UserResource<'static>), Problems))]
pub async fn put(State(gateway): State<Arc<Gateway>>, caller: Caller, OfUser(user): OfUser, body: JsonBytes) -> Answer {
    if !caller.actor.is_admin() {
        return Err(Problem::new(
            ErrorCode::Forbidden,
            "whole profiles are written with a token of role admin or service; for the own one use PATCH /api/users/me",
        ));
    }
    let patch = body.parse::<PutBody<'_>>()?.into_patch()?;
    let outcome = caller.run(&gateway, Command::UpdateProfile { user: user.clone(), patch }).await?;
    Ok(answer::replayed(whole(&gateway, &user).await?, &outcome))
}

/// Whether a user is online.
#[utoipa::path(get, operation_id = "getPresence", path = "/api/users/{id}/presence", tag = "users", params(("id" = String, Path, description = "The user", min_length = 1, max_length = 128)),
    responses((status = 200, body = PresenceResource<'static>), Problems))]
pub async fn presence(State(gateway): State<Arc<Gateway>>, caller: Caller, OfUser(user): OfUser) -> Answer {
    let (is_online, last_seen) = visible_presence(&gateway, &caller, &user).await?;
    Ok(json(
        StatusCode::OK,
        &PresenceResource {
            user_id: User(&user),
            is_online,
            last_seen: last_seen.map(Time),
        },
    ))
}

async fn set_blocked(gateway: &Gateway, caller: &Caller, user: UserId, blocked: bool) -> Answer {
    let outcome = caller.run(gateway, Command::Block { user, blocked }).await?;
    Ok(answer::replayed(no_content(), &outcome))
}

/// Block a user: no direct messages, typing or presence between the two.
#[utoipa::path(put, operation_id = "blockUser", path = "/api/users/{id}/block", tag = "users", params(("id" = String, Path, description = "The user", min_length = 1, max_length = 128), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn block(State(gateway): State<Arc<Gateway>>, caller: Caller, OfUser(user): OfUser) -> Answer {
    set_blocked(&gateway, &caller, user, true).await
}

/// End the caller's block of a user.
#[utoipa::path(delete, operation_id = "unblockUser", path = "/api/users/{id}/block", tag = "users", params(("id" = String, Path, description = "The user", min_length = 1, max_length = 128), WriteHeaders),
    responses((status = 204), Problems))]
pub async fn unblock(State(gateway): State<Arc<Gateway>>, caller: Caller, OfUser(user): OfUser) -> Answer {
    set_blocked(&gateway, &caller, user, false).await
}

/// Users whom the caller blocks.
#[derive(Serialize, ToSchema)]
pub struct BlockList<'a> {
    /// Ordered by user.
    blocks: Vec<Block<'a>>,
}

/// One of them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Block<'a> {
    /// Who.
    #[schema(value_type = String)]
    user_id: User<'a>,
}

/// Users whom the caller blocks.
#[utoipa::path(get, operation_id = "listBlocks", path = "/api/users/me/blocks", tag = "users", responses((status = 200, body = BlockList<'static>), Problems))]
pub async fn blocks(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Answer {
    let users = gateway.engine.store().blocks(caller.user()).await?;
    Ok(json(
        StatusCode::OK,
        &BlockList {
            blocks: users.iter().map(|user| Block { user_id: User(user) }).collect(),
        },
    ))
}

/// Which notifications.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NotificationParams {
    /// At most so many (50 when absent); more than 100 counts as 100.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<usize>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
    /// `true`: only unread ones.
    #[serde(default)]
    unread: bool,
}

/// A page of notifications.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationList<'a> {
    /// Newest first.
    notifications: Vec<NotificationResource<'a>>,
    /// Hand it back as `cursor` for the next page; `null` on the last one.
    next_cursor: Option<String>,
}

/// The caller's notifications.
#[utoipa::path(get, operation_id = "listNotifications", path = "/api/notifications", tag = "notifications", params(NotificationParams),
    responses((status = 200, body = NotificationList<'static>), Problems))]
pub async fn notifications(State(gateway): State<Arc<Gateway>>, caller: Caller, Params(params): Params<NotificationParams>) -> Answer {
    let limit = page_size(params.limit, gateway.settings.rest.page_default, gateway.engine.limits().page_max)?;
    let before = match params.cursor.as_deref().map(Cursor::decode).transpose()? {
        None => None,
        Some(Cursor::Before(seq)) => Some(seq),
        Some(_) => return Err(Cursor::misplaced()),
    };
    let mut rows = gateway
        .engine
        .store()
        .notifications(caller.user(), before, params.unread, limit + 1)
        .await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let mut previews = Previews::default();
    let mut texts = Vec::with_capacity(rows.len());
    for row in &rows {
        texts.push(about(&gateway, &caller, &mut previews, row).await?);
    }
    let notifications = rows
        .iter()
        .zip(&texts)
        .map(|(row, text)| NotificationResource::new(caller.user(), row, text.as_deref()))
        .collect();
    let next_cursor = rows.last().filter(|_| has_more).map(|last| Cursor::Before(last.id.seq).encode());
    Ok(json(StatusCode::OK, &NotificationList { notifications, next_cursor }))
}

/// The text that stands in for an empty body.
async fn about(gateway: &Gateway, caller: &Caller, previews: &mut Previews, row: &NotificationRow) -> Result<Option<String>, Problem> {
    match row.notification.message {
        Some(id) if row.notification.body.is_empty() => previews.text(gateway, caller, id).await,
        _ => Ok(None),
    }
}

/// Mark one notification read.
#[utoipa::path(post, operation_id = "markNotificationRead", path = "/api/notifications/{id}/read", tag = "notifications", params(("id" = String, Path, description = "The notification"), WriteHeaders),
    responses((status = 200, body = NotificationResource<'static>), Problems))]
pub async fn read_notification(State(gateway): State<Arc<Gateway>>, caller: Caller, Path(id): Path<String>) -> Answer {
    let id: MessageId = id.parse().map_err(|_| Problem::not_found())?;
    if gateway.engine.personal(caller.user()).await? != id.conversation {
        return Err(Problem::not_found());
    }
    let store = gateway.engine.store();
    store.notification(caller.user(), id.seq).await?.ok_or_else(Problem::not_found)?;
    let outcome = caller.run(&gateway, Command::ReadNotification { seq: id.seq }).await?;
    let row = store.notification(caller.user(), id.seq).await?.ok_or_else(Problem::not_found)?;
    let text = about(&gateway, &caller, &mut Previews::default(), &row).await?;
    Ok(answer::replayed(
        json(StatusCode::OK, &NotificationResource::new(caller.user(), &row, text.as_deref())),
        &outcome,
    ))
}

/// Mark all notifications read.
#[utoipa::path(post, operation_id = "markAllNotificationsRead", path = "/api/notifications/read-all", tag = "notifications", params(WriteHeaders),
    responses((status = 200, body = UnreadCount), Problems))]
pub async fn read_all_notifications(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Answer {
    let outcome = caller.run(&gateway, Command::ReadAllNotifications).await?;
    let unread = gateway.engine.store().notifications_unread(caller.user()).await?;
    Ok(answer::replayed(unread_count(unread), &outcome))
}

/// How many notifications are unread.
#[utoipa::path(get, operation_id = "getUnreadNotificationCount", path = "/api/notifications/unread-count", tag = "notifications", responses((status = 200, body = UnreadCount), Problems))]
pub async fn unread_notifications(State(gateway): State<Arc<Gateway>>, caller: Caller) -> Answer {
    Ok(unread_count(gateway.engine.store().notifications_unread(caller.user()).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_attributes_change_and_others_stay_as_they_were_written() {
        for (before, changes, expect) in [
            (None, r#"{"a":1}"#, r#"{"a":1}"#),
            (
                Some(r#"{"b": {"x": 1.50}, "a": "t"}"#),
                r#"{"c":[],"a":null}"#,
                r#"{"b":{"x": 1.50},"c":[]}"#,
            ),
            (Some(r#"{"a":1}"#), r#"{"a":2,"none":null}"#, r#"{"a":2}"#),
            (Some("no object"), r#"{"\"":true}"#, r#"{"\"":true}"#),
        ] {
            assert_eq!(changed(before, changes), expect);
        }
    }
}
