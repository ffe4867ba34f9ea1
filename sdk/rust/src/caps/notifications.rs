//! What a user is told of what they did not see happen.

use super::host;
use crate::{Error, types::Notification};

/// Stored and pushed after the commit.
///
/// # Errors
///
/// See [`Error`].
pub fn push(user_id: &str, notification: &Notification) -> Result<(), Error> {
    host!(Notifications.notification_push(user_id, notification))
}
