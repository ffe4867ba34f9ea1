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

/// Has a connection that is subscribed to the conversation.
///
/// # Errors
///
/// See [`Error`].
pub fn watching(id: &str, conversation_id: &str) -> Result<bool, Error> {
    host!(Users.user_watching(id, conversation_id))
}
