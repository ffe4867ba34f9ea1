//! Durable timers of the call's conversation (of the plugin, where the call has none). They come back through the
//! [`Timer`](crate::hooks::Timer) hook.

use super::host;
use crate::Error;

/// Sets a timer that is due at `due_ms` (wall clock); replaces one of the same name.
///
/// # Errors
///
/// See [`Error`].
pub fn set(name: &str, due_ms: u64, payload: &str) -> Result<(), Error> {
    host!(Timers.timer_set(name, due_ms, payload))
}

/// Cancels a timer; it need not be set.
///
/// # Errors
///
/// See [`Error`].
pub fn cancel(name: &str) -> Result<(), Error> {
    host!(Timers.timer_cancel(name))
}

/// When it is due (wall clock, milliseconds), if it is set.
///
/// # Errors
///
/// See [`Error`].
pub fn get(name: &str) -> Result<Option<u64>, Error> {
    host!(Timers.timer_get(name))
}
