//! Keys of this plugin in the call's conversation, read and written in its turn: get-then-set is safe. Writes are part of the
//! handler's transaction.

use serde::{Serialize, de::DeserializeOwned};

use super::host;
use crate::{Error, json};

/// The value, if it is there and has not expired.
///
/// # Errors
///
/// See [`Error`]; [`Error::Invalid`] in a call without a conversation.
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host!(Kv.kv_get(key))
}

/// The value read as JSON.
///
/// # Errors
///
/// As [`get`]; [`Error::Invalid`] where the value is no such JSON.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    get(key)?.map(|bytes| serde_json::from_slice(&bytes).map_err(Error::from)).transpose()
}

/// Sets a key for ever.
///
/// # Errors
///
/// See [`Error`]; [`Error::Quota`] where key or value is too large.
pub fn set(key: &str, value: &[u8]) -> Result<(), Error> {
    host!(Kv.kv_set(key, value, None))
}

/// Sets a key for `ttl_s` seconds.
///
/// # Errors
///
/// As [`set`].
pub fn set_for(key: &str, value: &[u8], ttl_s: u32) -> Result<(), Error> {
    host!(Kv.kv_set(key, value, Some(ttl_s)))
}

/// Sets a key to a value's JSON.
///
/// # Errors
///
/// As [`set`]; [`Error::Invalid`] where the value has no JSON form.
pub fn set_json(key: &str, value: &impl Serialize) -> Result<(), Error> {
    set(key, json::text(value)?.as_bytes())
}

/// Deletes a key; it need not be there.
///
/// # Errors
///
/// See [`Error`].
pub fn delete(key: &str) -> Result<(), Error> {
    host!(Kv.kv_delete(key))
}

/// Keys with this prefix after `after`, ascending, at most 100.
///
/// # Errors
///
/// See [`Error`].
pub fn list(prefix: &str, after: Option<&str>) -> Result<Vec<(String, Vec<u8>)>, Error> {
    host!(Kv.kv_list(prefix, after))
}
