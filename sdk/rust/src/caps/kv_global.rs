//! Keys of this plugin shared by all conversations. No turn protects them: [`get`] may be stale when you act on it, and [`set`],
//! [`add`], [`delete`] and [`release`] take effect after the commit. Use [`reserve`] to decide between conversations and [`add`] to
//! count in all of them.

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

/// Adds to the number at a key, after the commit. A key that is not there counts as 0; `get_json::<i64>` reads the number.
///
/// Every add of a transaction that commits counts, once, whoever adds at the same time: a [`get`] and a [`set`] would lose some.
/// The number stays within `i64`; where something else stands, the add becomes a failed delivery.
///
/// ```
/// use haggle_sdk::prelude::*;
/// use haggle_sdk::test::Harness;
///
/// #[derive(Default)]
/// struct Totals;
///
/// impl AfterMessage for Totals {
///     fn after_message(&mut self, _call: &Call, message: Message) -> Result<(), Failure> {
///         match message.op {
///             Op::Send => kv_global::add("messages", 1)?,
///             Op::Delete => kv_global::add("messages", -1)?,
///             Op::Edit => {}
///         }
///         Ok(())
///     }
/// }
/// haggle_sdk::plugin! { Totals, hooks: [after_message], caps: [kv_global] }
///
/// let mut app = Harness::<Totals>::new();
/// let conversation = app.direct("alice", "bob");
/// app.send("alice", Draft::text(&conversation, "one")).unwrap();
/// app.send("bob", Draft::text(&conversation, "two")).unwrap();
/// assert_eq!(app.global("messages"), Some(b"2".to_vec()));
/// ```
///
/// # Errors
///
/// See [`Error`].
pub fn add(key: &str, by: i64) -> Result<(), Error> {
    host!(KvGlobal.global_add(key, by))
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
