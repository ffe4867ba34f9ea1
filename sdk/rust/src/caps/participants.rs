//! Who is in a conversation.

use super::host;
use crate::{Error, types::Participant};

/// Present participants.
///
/// # Errors
///
/// See [`Error`].
pub fn list(conversation_id: &str) -> Result<Vec<Participant>, Error> {
    host!(Participants.participant_list(conversation_id))
}

/// Adds one to the call's own conversation (not a direct one), as `member` or `admin`.
///
/// # Errors
///
/// See [`Error`].
pub fn add(user_id: &str, role: &str) -> Result<(), Error> {
    host!(Participants.participant_add(user_id, role))
}

/// Removes one from the call's own conversation (not a direct one).
///
/// # Errors
///
/// See [`Error`].
pub fn remove(user_id: &str) -> Result<(), Error> {
    host!(Participants.participant_remove(user_id))
}
