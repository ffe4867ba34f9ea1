//! From JSON to what the engine takes: shapes, types and what no core rule can see (URLs in metadata). Used by every transport.
//!
//! Fields the server does not know are ignored, so a client cannot set `senderId`, `seq` or `createdAt`. A field that the
//! server reads must not stand twice. Depth is limited to [`JSON_DEPTH_MAX`]; U+0000 is refused in every string.

use std::fmt;

use haggle_engine::{NewConversation, NewMessage, Refusal};
use haggle_model::{ErrorCode, MessageId, UserId};
use hyper::Uri;
use serde::{
    Deserialize,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::auth::{USER_ID_BYTES_MAX, is_user_id};

/// How deep objects and arrays may nest in JSON that is kept or handed to plugins.
pub const JSON_DEPTH_MAX: usize = 64;
/// Characters of an error's text; the rest is cut since it may repeat what the client sent.
const MESSAGE_CHARS_MAX: usize = 300;

/// A request that cannot be understood, with the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {message}")]
pub struct DecodeError {
    /// The field at fault, as a JSON pointer; empty for the whole.
    pub pointer: String,
    /// What is wrong with it.
    pub message: String,
}

impl DecodeError {
    /// `message` says what is wrong at `pointer`.
    pub fn new(pointer: impl Into<String>, message: impl Into<String>) -> DecodeError {
        DecodeError {
            pointer: pointer.into(),
            message: message.into(),
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Refusal {
        let message = if error.pointer.is_empty() { error.message } else { error.to_string() };
        Refusal::new(ErrorCode::BadRequest, message)
    }
}

/// Reads one JSON object; an error names the field.
pub fn parse<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T, DecodeError> {
    // A derived reader would also take a list, field by field.
    if json.trim_ascii_start().bytes().next().is_some_and(|first| first != b'{') {
        return Err(DecodeError::new("", "expected a JSON object"));
    }
    // Only the second try keeps track of where it is: most requests are fine.
    serde_json::from_str(json).map_err(|_| locate::<T>(json))
}

fn locate<'de, T: Deserialize<'de>>(json: &'de str) -> DecodeError {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let (mut pointer, error) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => (pointer_of(error.path()), error.into_inner()),
        Ok(_) => match deserializer.end() {
            Err(error) => (String::new(), error),
            Ok(()) => return DecodeError::new("", "not JSON"),
        },
    };
    let message = error.to_string();
    if let Some(field) = message
        .strip_prefix("missing field `")
        .or_else(|| message.strip_prefix("duplicate field `"))
    {
        let field = field.split('`').next().unwrap_or_default();
        if !pointer.ends_with(&format!("/{field}")) {
            pointer.push('/');
            pointer.push_str(field);
        }
    }
    DecodeError {
        pointer,
        message: message.chars().take(MESSAGE_CHARS_MAX).collect(),
    }
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        pointer.push('/');
        match segment {
            Segment::Map { key } => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => pointer.push('?'),
        }
    }
    if pointer == "/?" { String::new() } else { pointer }
}

/// A new message as clients write it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewMessage)]
pub struct MessageBody<'a> {
    /// The text, kept byte-exact.
    #[schema(example = "Is it still available?")]
    pub content: Option<String>,
    /// `text` (when absent), `image`, `file`, `video`, `audio`, `location`, or a kind that a plugin claims.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What belongs to the type: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
    /// The message this one answers; of the same conversation.
    pub reply_to_id: Option<String>,
    /// The message this one repeats; the sender must be able to read it.
    pub forwarded_from_id: Option<String>,
    /// The client's own id of the message: a retry with the same one stores nothing and gets the first answer.
    #[schema(min_length = 1, max_length = 128)]
    pub client_message_id: Option<String>,
}

impl MessageBody<'_> {
    /// The message for the engine, with the client's own id.
    pub fn into_message(self) -> Result<(NewMessage, Option<String>), DecodeError> {
        let kind = self.kind.unwrap_or_else(|| "text".into());
        let text = match self.content {
            Some(text) => text,
            None if kind == "text" => return Err(DecodeError::new("/content", "a text needs content")),
            None => String::new(),
        };
        check_text("/content", &text)?;
        check_text("/type", &kind)?;
        let message = NewMessage {
            text,
            metadata: object("/metadata", self.metadata)?,
            reply_to: message_id("/replyToId", self.reply_to_id.as_deref())?,
            forwarded_from: message_id("/forwardedFromId", self.forwarded_from_id.as_deref())?,
            kind,
        };
        check_metadata(&message.kind, message.metadata.as_deref())?;
        Ok((message, self.client_message_id))
    }
}

/// New content for a message; absent parts stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EditMessage)]
pub struct EditBody<'a> {
    /// The new text.
    pub content: Option<String>,
    /// The whole new metadata: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<&'a RawValue>,
    /// The client's own id of the request.
    #[schema(min_length = 1, max_length = 128)]
    pub client_message_id: Option<String>,
}

/// New text, new metadata, the client's own id of the request.
pub type EditParts = (Option<String>, Option<String>, Option<String>);

impl EditBody<'_> {
    /// New text and metadata, at least one of them.
    pub fn into_parts(self) -> Result<EditParts, DecodeError> {
        if self.content.is_none() && self.metadata.is_none() {
            return Err(DecodeError::new("/content", "nothing to change: give content or metadata"));
        }
        check_text("/content", self.content.as_deref().unwrap_or_default())?;
        let metadata = object("/metadata", self.metadata)?;
        check_metadata("", metadata.as_deref())?;
        Ok((self.content, metadata, self.client_message_id))
    }
}

/// A conversation as clients ask for it.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", expecting = "an object")]
#[schema(as = NewConversation)]
pub struct ConversationBody<'a> {
    /// Who is in it; the caller is added if missing. A direct conversation has exactly one other user.
    #[serde(default, deserialize_with = "none_for_null")]
    pub participants: Vec<String>,
    /// `direct` (when absent), `group`; for administrators and services also `context` and `broadcast`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Name of the group, title of the context, or the broadcast's own name.
    pub group_name: Option<String>,
    /// Picture of the group: `http(s):` or a path on this server.
    pub group_avatar: Option<String>,
    /// What a context conversation is about.
    pub context: Option<ContextBody>,
    /// State of a context conversation: an object.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    pub state: Option<&'a RawValue>,
}

/// A list that clients may leave out, or set to null.
fn none_for_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// What a context conversation is about.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", expecting = "an object with owner, type and id")]
#[schema(as = ConversationContext)]
pub struct ContextBody {
    /// The plugin or dialect it belongs to.
    owner: String,
    /// The kind of thing: `booking`.
    #[serde(rename = "type")]
    kind: String,
    /// Which one: `42`.
    id: String,
}

impl ConversationBody<'_> {
    /// The conversation for the engine.
    pub fn into_new(self, caller: &UserId) -> Result<NewConversation, DecodeError> {
        check_text("/groupName", self.group_name.as_deref().unwrap_or_default())?;
        check_url("/groupAvatar", self.group_avatar.as_deref())?;
        let state = object("/state", self.state)?;
        let named = self
            .participants
            .iter()
            .enumerate()
            .map(|(i, user)| user_id(&format!("/participants/{i}"), user));
        let mut participants = named.collect::<Result<Vec<_>, _>>()?;
        participants.sort();
        participants.dedup();
        match self.kind.as_deref().unwrap_or("direct") {
            "direct" => direct(participants, caller),
            "group" => Ok(NewConversation::Group {
                participants: without(participants, caller),
                name: self.group_name,
                avatar: self.group_avatar,
            }),
            "context" => {
                let context = self
                    .context
                    .ok_or_else(|| DecodeError::new("/context", "a context conversation needs owner, type and id"))?;
                context.check()?;
                Ok(NewConversation::Context {
                    owner: context.owner,
                    context_type: context.kind,
                    context_id: context.id,
                    participants,
                    name: self.group_name,
                    state,
                })
            }
            "broadcast" => {
                let name = self.group_name.filter(|name| !name.is_empty());
                Ok(NewConversation::Broadcast {
                    name: name.ok_or_else(|| DecodeError::new("/groupName", "a broadcast needs a name"))?,
                })
            }
            _ => Err(DecodeError::new("/type", "expected direct, group, context or broadcast")),
        }
    }
}

impl ContextBody {
    fn check(&self) -> Result<(), DecodeError> {
        for (pointer, text) in [("/context/owner", &self.owner), ("/context/type", &self.kind), ("/context/id", &self.id)] {
            check_text(pointer, text)?;
            if text.is_empty() {
                return Err(DecodeError::new(pointer, "must not be empty"));
            }
        }
        Ok(())
    }
}

fn without(mut participants: Vec<UserId>, caller: &UserId) -> Vec<UserId> {
    participants.retain(|user| user != caller);
    participants
}

fn direct(participants: Vec<UserId>, caller: &UserId) -> Result<NewConversation, DecodeError> {
    match <[UserId; 1]>::try_from(without(participants, caller)) {
        Ok([with]) => Ok(NewConversation::Direct { with }),
        Err(_) => Err(DecodeError::new("/participants", "a direct conversation has exactly one other user")),
    }
}

/// A user's id in a body.
pub fn user_id(pointer: &str, text: &str) -> Result<UserId, DecodeError> {
    if is_user_id(text) {
        Ok(text.into())
    } else {
        Err(DecodeError::new(
            pointer,
            format!("not a user id: 1 to {USER_ID_BYTES_MAX} bytes, no control characters"),
        ))
    }
}

/// A client's own id of a request: 1 to `bytes_max` bytes without control characters.
pub fn client_id(pointer: &str, text: &str, bytes_max: usize) -> Result<String, DecodeError> {
    if text.is_empty() || text.len() > bytes_max || text.contains(char::is_control) {
        let message = format!("expected 1 to {bytes_max} bytes without control characters, got {} bytes", text.len());
        return Err(DecodeError::new(pointer, message));
    }
    Ok(text.to_owned())
}

/// A message's id from its text.
pub fn message_id(pointer: &str, text: Option<&str>) -> Result<Option<MessageId>, DecodeError> {
    text.map(|text| {
        text.parse()
            .map_err(|_| DecodeError::new(pointer, "not a message id: expected 24 lowercase hex digits"))
    })
    .transpose()
}

/// Text that is kept holds no U+0000.
pub fn check_text(pointer: &str, text: &str) -> Result<(), DecodeError> {
    if text.contains('\0') {
        Err(DecodeError::new(pointer, "U+0000 is not allowed"))
    } else {
        Ok(())
    }
}

/// A JSON object that is kept as text, checked to its depth.
pub fn object(pointer: &str, raw: Option<&RawValue>) -> Result<Option<String>, DecodeError> {
    let Some(raw) = raw else { return Ok(None) };
    if !raw.get().starts_with('{') {
        return Err(DecodeError::new(pointer, "expected an object"));
    }
    check_json(pointer, raw.get())?;
    Ok(Some(raw.get().to_owned()))
}

/// Any JSON value that is kept or handed on as text: whole, not too deep, its strings decodable.
///
/// Text skipped by the first parse was not looked into: lone surrogates and depth show only here.
pub fn check_json(pointer: &str, text: &str) -> Result<(), DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let wrong = |error: serde_json::Error| DecodeError::new(pointer, error.to_string().chars().take(MESSAGE_CHARS_MAX).collect::<String>());
    Walk { depth: 0 }.deserialize(&mut deserializer).map_err(wrong)?;
    deserializer.end().map_err(wrong)
}

/// Visits everything and keeps nothing.
#[derive(Clone, Copy)]
struct Walk {
    depth: usize,
}

impl Walk {
    fn deeper<E: de::Error>(self) -> Result<Walk, E> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX}")));
        }
        Ok(Walk { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') {
            Err(E::custom("U+0000 is not allowed"))
        } else {
            Ok(())
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let walk = self.deeper()?;
        while seq.next_element_seed(walk)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let walk = self.deeper()?;
        while map.next_key_seed(walk)?.is_some() {
            map.next_value_seed(walk)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KnownMetadata {
    file_url: Option<String>,
    thumbnail_url: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
}

/// What the core knows of metadata: links lead to the web or to this server, a place is on the earth.
///
/// `metadata` is an object by now. A `location` must have both coordinates.
pub fn check_metadata(kind: &str, metadata: Option<&str>) -> Result<(), DecodeError> {
    let Some(metadata) = metadata else {
        return if kind == "location" {
            Err(DecodeError::new("/metadata", "a location needs latitude and longitude"))
        } else {
            Ok(())
        };
    };
    let known: KnownMetadata = parse(metadata).map_err(|error| DecodeError {
        pointer: format!("/metadata{}", error.pointer),
        ..error
    })?;
    check_url("/metadata/fileUrl", known.file_url.as_deref())?;
    check_url("/metadata/thumbnailUrl", known.thumbnail_url.as_deref())?;
    if kind == "location" {
        check_place("/metadata", known.latitude, known.longitude)?;
    }
    Ok(())
}

/// Latitude and longitude are there and on the earth.
pub fn check_place(pointer: &str, latitude: Option<f64>, longitude: Option<f64>) -> Result<(), DecodeError> {
    for (name, value, max) in [("latitude", latitude, 90.0), ("longitude", longitude, 180.0)] {
        if !value.is_some_and(|value| (-max..=max).contains(&value)) {
            return Err(DecodeError::new(
                format!("{pointer}/{name}"),
                format!("expected a number from -{max} to {max}"),
            ));
        }
    }
    Ok(())
}

/// A link is `http:`, `https:` or a path on this server; an empty one clears.
pub fn check_url(pointer: &str, url: Option<&str>) -> Result<(), DecodeError> {
    let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(()) };
    let plain = !url.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
    let on_this_server = url.starts_with('/') && !url.starts_with("//");
    if plain && (on_this_server || is_web(url)) {
        Ok(())
    } else {
        Err(DecodeError::new(pointer, "expected an http(s) URL or a path on this server"))
    }
}

fn is_web(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    known
        && format!("http://{host}/")
            .parse::<Uri>()
            .is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(body: &str, pointer: &str) {
        let error = parse::<MessageBody<'_>>(body)
            .and_then(|body| body.into_message().map(|_| ()))
            .expect_err(body.get(..80).unwrap_or(body));
        assert_eq!(error.pointer, pointer, "{}", error.message);
        assert!(error.message.chars().count() <= MESSAGE_CHARS_MAX);
    }

    #[test]
    fn wrong_types_are_refused_by_name() {
        refused(r#"{"content":1}"#, "/content");
        refused(r#"{"content":["a"]}"#, "/content");
        refused(r#"{"content":"a","type":{}}"#, "/type");
        refused(r#"{"content":"a","metadata":[]}"#, "/metadata");
        refused(r#"{"content":"a","metadata":"x"}"#, "/metadata");
        refused(r#"{"content":"a","replyToId":7}"#, "/replyToId");
        refused(r#"{"content":"a","replyToId":"7"}"#, "/replyToId");
        refused(r#"{"content":"a","clientMessageId":false}"#, "/clientMessageId");
        refused(r#"{}"#, "/content");
    }

    #[test]
    fn hostile_json_is_refused_quickly() {
        let start = std::time::Instant::now();
        let deep = format!(r#"{{"content":"a","metadata":{}1{}}}"#, r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
        refused(&deep, "/metadata");
        refused(
            &format!(r#"{{"content":"a","metadata":{{"a":{}}}}}"#, "[".repeat(65) + &"]".repeat(65)),
            "/metadata",
        );
        refused(&format!(r#"{{"content":{}}}"#, "9".repeat(1_000_000)), "/content");
        refused(r#"{"content":"a","content":"b"}"#, "/content");
        refused(r#"{"content":"\ud800"}"#, "/content");
        refused(r#"{"content":"a","metadata":{"x":"\udc00"}}"#, "/metadata");
        refused(r#"{"content":"a\u0000b"}"#, "/content");
        refused(r#"{"content":"a","metadata":{"\u0000":1}}"#, "/metadata");
        refused("[1,2]", "");
        refused("", "");
        refused(r#"{"content":"a"} x"#, "");
        assert!(start.elapsed() < std::time::Duration::from_millis(500), "{:?}", start.elapsed());
    }

    #[test]
    fn unknown_fields_are_ignored_and_known_ones_kept_as_they_are() {
        let body =
            "{\"content\":\"<b>\u{202e}\u{200b}\\u001b[31m\u{1f600}\",\"senderId\":\"eve\",\"seq\":7,\"readBy\":{},\"metadata\":{\"a\": 1.50}}";
        let (message, client_id) = parse::<MessageBody<'_>>(body).and_then(MessageBody::into_message).expect("valid");
        assert_eq!(message.text, "<b>\u{202e}\u{200b}\u{1b}[31m\u{1f600}");
        assert_eq!(message.metadata.as_deref(), Some("{\"a\": 1.50}"), "numbers stay as sent");
        assert_eq!((message.kind.as_str(), client_id), ("text", None));
    }

    #[test]
    fn links_lead_to_the_web_or_to_this_server() {
        for good in [
            "https://cdn.example/a.png?x=1#y",
            "http://a.example:8080/ä",
            "HTTPS://A.example",
            "/upload/1",
            "",
        ] {
            assert_eq!(check_url("/u", Some(good)), Ok(()), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "//evil.example/x",
            "/\\evil.example",
            "http://",
            "https:///x",
            "ftp://a/b",
            "http://a b/",
            " https://a",
        ] {
            assert!(check_url("/u", Some(bad)).is_err(), "{bad}");
        }
        refused(
            r#"{"content":"","type":"image","metadata":{"fileUrl":"javascript:1"}}"#,
            "/metadata/fileUrl",
        );
        refused(r#"{"content":"","type":"image","metadata":{"thumbnailUrl":5}}"#, "/metadata/thumbnailUrl");
    }

    #[test]
    fn a_location_is_on_the_earth() {
        refused(r#"{"type":"location"}"#, "/metadata");
        refused(r#"{"type":"location","metadata":{"latitude":1}}"#, "/metadata/longitude");
        refused(r#"{"type":"location","metadata":{"latitude":91,"longitude":0}}"#, "/metadata/latitude");
        refused(r#"{"type":"location","metadata":{"latitude":"1","longitude":0}}"#, "/metadata/latitude");
        let fine = r#"{"type":"location","metadata":{"latitude":-90,"longitude":180}}"#;
        assert!(parse::<MessageBody<'_>>(fine).and_then(MessageBody::into_message).is_ok());
    }
}
