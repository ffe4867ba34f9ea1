//! Profiles and presence.

use super::host;
use crate::{Error, types::User};

/// A user's profile; none where nobody of this id was ever seen.
///
/// # Errors
///
/// See [`Error`].
pub fn get(id: &str) -> Result<Option<User>, Error> {
    host!(Users.user_get(id))
}

/// Has at least one connection.
///
/// # Errors
///
/// See [`Error`].
pub fn online(id: &str) -> Result<bool, Error> {
    host!(Users.user_online(id))
}

/// How many users have at least one connection.
///
/// # Errors
///
/// See [`Error`].
pub fn online_count() -> Result<u32, Error> {
    host!(Users.user_online_count())
}

/// Unread messages of a user's 1,000 latest conversations. Who may know that is yours to decide.
///
/// ```
/// use haggle_sdk::prelude::*;
///
/// /// `GET /message/unread-count/{userId}`: for oneself and for admins.
/// fn unread_count(call: &Call, request: &HttpRequest) -> Result<HttpResponse, Error> {
///     let user = request.param("userId");
///     if call.user() != Some(user) && !call.has_role("admin") {
///         return Ok(HttpResponse::text(403, "not yours"));
///     }
///     Ok(HttpResponse::json(200, &users::unread(user)?))
/// }
/// ```
///
/// # Errors
///
/// See [`Error`].
pub fn unread(id: &str) -> Result<u32, Error> {
    host!(Users.user_unread(id))
}

/// Has a connection that is subscribed to the conversation.
///
/// # Errors
///
/// See [`Error`].
pub fn watching(id: &str, conversation_id: &str) -> Result<bool, Error> {
    host!(Users.user_watching(id, conversation_id))
}
