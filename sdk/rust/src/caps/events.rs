//! Events of this plugin. A name must start with `x.<plugin id>.`; payloads are anything that serializes. To connections in its
//! own namespaces it says what it likes.

use serde::Serialize;

use super::host;
use crate::{
    Error, json,
    sockets::{Args, Audience},
};

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

/// To connections in this plugin's own namespaces, under any name, after the commit; not kept.
///
/// # Errors
///
/// [`Error::Invalid`] for a name or arguments that cannot be sent; see [`Error`].
pub fn emit_to_sockets(to: &Audience, name: &str, args: &Args) -> Result<(), Error> {
    host!(Events.event_emit_to_sockets(to, name, args))
}

/// The same to one connection, which is asked for an ack. It comes as an event of the same name whose
/// [`answer_to`](crate::sockets::SocketEvent::answer_to) is `token`, if it comes within 30 seconds.
///
/// # Errors
///
/// As [`emit_to_sockets`].
pub fn ask_socket(connection: &str, name: &str, args: &Args, token: &str) -> Result<(), Error> {
    host!(Events.event_ask_socket(connection, name, args, token))
}
