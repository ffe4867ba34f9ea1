//! Conversations: read, keep the context conversations of this plugin, set the state of the call's own.

use super::host;
use crate::{Error, types::Conversation};

/// A conversation; none where there is none that this plugin may read.
///
/// # Errors
///
/// See [`Error`].
pub fn get(id: &str) -> Result<Option<Conversation>, Error> {
    host!(Conversations.conversation_get(id))
}

/// The id that this plugin's context conversation `type:id` has or will have.
///
/// # Errors
///
/// See [`Error`].
pub fn id_of(context_type: &str, context_id: &str) -> Result<String, Error> {
    host!(Conversations.conversation_id_of(context_type, context_id))
}

/// Makes this plugin's context conversation `type:id` if it is not there, after the commit. Returns its id.
///
/// # Errors
///
/// See [`Error`].
pub fn get_or_create(
    context_type: &str,
    context_id: &str,
    participants: &[String],
    name: Option<&str>,
    state: Option<&str>,
) -> Result<String, Error> {
    host!(Conversations.conversation_get_or_create(context_type, context_id, participants, name, state))
}

/// Replaces the state (one JSON object as text) of the call's own conversation.
///
/// # Errors
///
/// See [`Error`].
pub fn set_state(state: &str) -> Result<(), Error> {
    host!(Conversations.conversation_set_state(state))
}

/// Closes or reopens the call's own conversation.
///
/// # Errors
///
/// See [`Error`].
pub fn set_closed(closed: bool) -> Result<(), Error> {
    host!(Conversations.conversation_set_closed(closed))
}
