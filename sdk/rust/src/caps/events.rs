//! Events of this plugin. A name must start with `x.<plugin id>.`; payloads are anything that serializes.

use serde::Serialize;

use super::host;
use crate::{Error, json};

/// A durable event of the call's own conversation, with a seq.
///
/// # Errors
///
/// [`Error::Denied`] for a name that is not this plugin's; see [`Error`].
pub fn emit(name: &str, payload: &impl Serialize) -> Result<(), Error> {
    let payload = json::text(payload)?;
    host!(Events.event_emit(name, &payload))
}

/// To the user's connections only, after the commit; not kept.
///
/// # Errors
///
/// As [`emit`].
pub fn emit_to_user(user_id: &str, name: &str, payload: &impl Serialize) -> Result<(), Error> {
    let payload = json::text(payload)?;
    host!(Events.event_emit_to_user(user_id, name, &payload))
}

/// To one connection, after the commit; not kept.
///
/// # Errors
///
/// As [`emit`].
pub fn emit_to_connection(session: &str, name: &str, payload: &impl Serialize) -> Result<(), Error> {
    let payload = json::text(payload)?;
    host!(Events.event_emit_to_connection(session, name, &payload))
}

/// To every connection whose token has the role, after the commit; not kept.
///
/// # Errors
///
/// As [`emit`].
pub fn emit_to_role(role: &str, name: &str, payload: &impl Serialize) -> Result<(), Error> {
    let payload = json::text(payload)?;
    host!(Events.event_emit_to_role(role, name, &payload))
}
