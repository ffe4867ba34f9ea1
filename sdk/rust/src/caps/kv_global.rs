//! Keys of this plugin shared by all conversations. No turn protects them: [`get`] may be stale when you act on it, and [`set`],
//! [`delete`] and [`release`] take effect after the commit. Use [`reserve`] to decide between conversations.

use serde::{Serialize, de::DeserializeOwned};

use super::host;
use crate::{Error, json};

/// The committed value.
///
/// # Errors
///
/// See [`Error`].
pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
    host!(KvGlobal.global_get(key))
}

/// The committed value read as JSON.
///
/// # Errors
///
/// As [`get`]; [`Error::Invalid`] where the value is no such JSON.
pub fn get_json<T: DeserializeOwned>(key: &str) -> Result<Option<T>, Error> {
    get(key)?.map(|bytes| serde_json::from_slice(&bytes).map_err(Error::from)).transpose()
}

/// Sets all of these keys if none of them is held: true, or nothing happens: false.
///
/// They belong to this command: kept when its transaction commits, given back in every other case. Asking again within the same
/// command gives true again. Of two commands that want one key, exactly one gets it.
///
/// # Errors
///
/// See [`Error`]; [`Error::Quota`] where there are too many keys.
pub fn reserve(keys: &[String], value: &[u8]) -> Result<bool, Error> {
    host!(KvGlobal.global_reserve(keys, value))
}

/// Sets a key for ever, after the commit.
///
/// # Errors
///
/// See [`Error`].
pub fn set(key: &str, value: &[u8]) -> Result<(), Error> {
    host!(KvGlobal.global_set(key, value, None))
}

/// Sets a key for `ttl_s` seconds, after the commit.
///
/// # Errors
///
/// See [`Error`].
pub fn set_for(key: &str, value: &[u8], ttl_s: u32) -> Result<(), Error> {
    host!(KvGlobal.global_set(key, value, Some(ttl_s)))
}

/// Sets a key to a value's JSON, after the commit.
///
/// # Errors
///
/// As [`set`]; [`Error::Invalid`] where the value has no JSON form.
pub fn set_json(key: &str, value: &impl Serialize) -> Result<(), Error> {
    set(key, json::text(value)?.as_bytes())
}

/// Deletes a key, after the commit.
///
/// # Errors
///
/// See [`Error`].
pub fn delete(key: &str) -> Result<(), Error> {
    host!(KvGlobal.global_delete(key))
}

/// Gives reserved keys back, after the commit.
///
/// # Errors
///
/// See [`Error`].
pub fn release(keys: &[String]) -> Result<(), Error> {
    host!(KvGlobal.global_release(keys))
}
