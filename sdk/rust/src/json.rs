//! Metadata, payloads and configuration are JSON texts at the border; here they become serde types.

use std::str::FromStr;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Error, Rejection};

/// Reads a command's payload. An empty one counts as `{}`.
///
/// # Errors
///
/// A rejection with the code `invalid_payload` that says what is wrong.
pub fn payload<T: DeserializeOwned>(text: &str) -> Result<T, Rejection> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).map_err(|error| Rejection::new("invalid_payload", error.to_string()))
}

/// Writes a command's answer.
///
/// # Errors
///
/// [`Error::Invalid`] where the value has no JSON form (a map with keys that are no strings).
pub fn text(value: &impl Serialize) -> Result<String, Error> {
    Ok(serde_json::to_string(value)?)
}

/// Reads any JSON text.
///
/// # Errors
///
/// [`Error::Invalid`] that says what is wrong.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    Ok(serde_json::from_str(text)?)
}

/// Reads one JSON object; none and the empty text are the empty object.
///
/// # Errors
///
/// [`Error::Invalid`] where the text is something else.
pub fn object(text: Option<&str>) -> Result<Map<String, Value>, Error> {
    match text {
        None | Some("") => Ok(Map::new()),
        Some(text) => parse(text),
    }
}

/// Writes a value that must be a JSON object.
///
/// # Errors
///
/// [`Error::Invalid`] where it is none.
pub fn object_text(value: &impl Serialize) -> Result<String, Error> {
    let text = text(value)?;
    if text.starts_with('{') {
        Ok(text)
    } else {
        Err(Error::Invalid("not a JSON object".into()))
    }
}

/// Writes a JSON object.
pub fn map_text(map: &Map<String, Value>) -> String {
    serde_json::to_string(map).expect("a JSON value always has a text")
}

/// One setting out of the configuration that [`init`](crate::hooks::Lifecycle::init) is given; `default` where it is not there.
/// Strings, numbers and booleans are read alike, so `hours = 48` and `hours = "48"` mean the same.
///
/// # Errors
///
/// [`Error::Invalid`] that names the key where the value cannot be read as a `T`.
pub fn setting<T: FromStr>(config: &Map<String, Value>, key: &str, default: T) -> Result<T, Error> {
    match config.get(key) {
        None => Ok(default),
        Some(value) => plain(value)
            .trim()
            .parse()
            .map_err(|_| Error::Invalid(format!("config {key}: cannot read {value}"))),
    }
}

/// A value of the manifest's `[config]` as text, whether it was written as a string, a number or a boolean there.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_absent_object_is_empty() {
        assert_eq!(object(None), Ok(Map::new()));
        assert_eq!(object(Some("")), Ok(Map::new()));
        assert!(object(Some("[]")).is_err());
    }

    #[test]
    fn only_objects_are_metadata() {
        assert_eq!(object_text(&json!({"a": 1})), Ok(r#"{"a":1}"#.into()));
        assert!(object_text(&json!([1])).is_err());
    }

    #[test]
    fn a_bad_payload_is_a_rejection_with_a_code() {
        assert_eq!(payload::<Value>("").unwrap(), json!({}));
        assert_eq!(payload::<Value>("{").unwrap_err().code, "invalid_payload");
    }

    #[test]
    fn a_setting_is_read_however_it_is_written() {
        let config = object(Some(r#"{"a": 48, "b": "48", "c": "soon"}"#)).unwrap();
        assert_eq!(setting(&config, "a", 1_u64), Ok(48));
        assert_eq!(setting(&config, "b", 1_u64), Ok(48));
        assert_eq!(setting(&config, "absent", 1_u64), Ok(1));
        assert!(setting(&config, "c", 1_u64).is_err());
    }

    #[test]
    fn plain_has_no_quotes() {
        assert_eq!(
            (plain(&json!("48")), plain(&json!(48)), plain(&json!(true))),
            ("48".into(), "48".into(), "true".into())
        );
    }
}
