//! The `[config]` of the manifest, overridden by the operator.
//!
//! A plugin with more than one or two settings reads them once, in [`Lifecycle::init`](crate::hooks::Lifecycle::init).

use std::str::FromStr;

use super::host;
use crate::Error;

/// The value as text; none where the manifest has no such key.
pub fn get(key: &str) -> Option<String> {
    host!(Config.config_get(key)).ok().flatten()
}

/// The value as a number, a bool, …; `default` where the manifest has no such key.
///
/// # Errors
///
/// [`Error::Invalid`] where it cannot be read as a `T`.
pub fn get_or<T: FromStr>(key: &str, default: T) -> Result<T, Error> {
    match get(key) {
        None => Ok(default),
        Some(text) => text
            .trim()
            .parse()
            .map_err(|_| Error::Invalid(format!("config {key}: cannot read {text:?}"))),
    }
}
