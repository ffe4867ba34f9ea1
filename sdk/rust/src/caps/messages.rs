//! Messages: write in the call's own conversation or elsewhere, change and read.

use super::host;
use crate::{
    Error,
    types::{Draft, Message, Reader},
};

/// A new message: in the call's own conversation part of this transaction, elsewhere delivered after the commit. An empty
/// `sender_id` is the plugin itself. Refused when its `op` is not `Send`, or with a target, a message it was forwarded from or a
/// client's id. Returns the message's reference; it has no id yet.
///
/// # Errors
///
/// See [`Error`].
pub fn send(draft: &Draft) -> Result<String, Error> {
    host!(Messages.message_send(draft))
}

/// Changes a message of the call's own conversation, whoever sent it: content and metadata (a JSON object as text) where given.
///
/// # Errors
///
/// [`Error::NotFound`] where the conversation has no such message; see [`Error`].
pub fn edit(id: &str, content: Option<&str>, metadata: Option<&str>) -> Result<(), Error> {
    host!(Messages.message_edit(id, content, metadata))
}

/// A message in its present state; none where there is none that this plugin may read. An id often comes from a client: one
/// that is malformed names nothing.
///
/// # Errors
///
/// See [`Error`].
pub fn get(id: &str) -> Result<Option<Message>, Error> {
    match host!(Messages.message_get(id)) {
        Err(Error::Invalid(_)) => Ok(None),
        other => other,
    }
}

/// Of each of these messages (at most 100, of one conversation) who has read it and when, ordered by user; its sender may be among
/// them. Known in conversations of at most 256 participants.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::serde_json::{Value, json};
///
/// /// `readBy` as an old system's clients know it, of a page of messages.
/// fn read_by(page: &[Message]) -> Result<Vec<Value>, Error> {
///     let ids: Vec<String> = page.iter().map(|message| message.id.clone()).collect();
///     let readers = messages::read_by(&ids)?;
///     let others = |(message, readers): (&Message, Vec<Reader>)| -> Value {
///         let others = readers.into_iter().filter(|reader| reader.user_id != message.sender_id);
///         others.map(|reader| json!({"user": reader.user_id, "readAt": time::iso_utc(reader.read_at_ms)})).collect()
///     };
///     Ok(page.iter().zip(readers).map(others).collect())
/// }
/// ```
///
/// # Errors
///
/// [`Error::Denied`] where this plugin may not read the conversation; see [`Error`].
pub fn read_by(ids: &[String]) -> Result<Vec<Vec<Reader>>, Error> {
    host!(Messages.message_read_by(ids))
}

/// Messages of a conversation below the seq `before`, newest first, at most `limit` (100).
///
/// # Errors
///
/// See [`Error`].
pub fn list(conversation_id: &str, before: Option<u32>, limit: u32) -> Result<Vec<Message>, Error> {
    host!(Messages.message_list(conversation_id, before, limit))
}
