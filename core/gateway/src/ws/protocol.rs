//! The client's frames: one JSON object, or an array of them, into [`Frame`]s with borrowed fields.
//!
//! A frame is decoded in one pass into a flat struct; the most frequent one has a reader of its own ([`plain`]). A frame that does
//! not fit is decoded once more, only to say which field is at fault and to find the id that the answer needs.

use std::{borrow::Cow, fmt};

use haggle_engine::{Command, NewConversation, NewMessage, Refusal, To};
use haggle_model::{ConversationId, ErrorCode, MessageId, Seq, UserId};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::plain::{self, PlainMessage};
use crate::decode::{self, ConversationBody, DecodeError, EditBody, MessageBody};

/// Bytes of a request's id.
pub(super) const ID_BYTES_MAX: usize = 64;
/// Bytes of an idempotency key.
pub(super) const KEY_BYTES_MAX: usize = 64;

/// A string that borrows from the frame unless it has escapes. (`Option<Cow<str>>` would always copy.)
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.into())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// The id of a request, echoed in its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Id {
    /// The client wants no answer.
    #[default]
    None,
    /// A number.
    Number(u64),
    /// A text.
    Text(Box<str>),
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdVisitor;
        impl Visitor<'_> for IdVisitor {
            type Value = Id;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a whole number or a string of at most {ID_BYTES_MAX} bytes")
            }
            fn visit_u64<E>(self, id: u64) -> Result<Id, E> {
                Ok(Id::Number(id))
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<Id, E> {
                if id.len() > ID_BYTES_MAX {
                    return Err(E::invalid_length(id.len(), &self));
                }
                Ok(Id::Text(id.into()))
            }
            fn visit_unit<E>(self) -> Result<Id, E> {
                Ok(Id::None)
            }
        }
        deserializer.deserialize_any(IdVisitor)
    }
}

/// `cur`: conversations and the last seq the client has of each, in the order of the frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Cursors(pub Vec<(ConversationId, Seq)>);

impl<'de> Deserialize<'de> for Cursors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CursorsVisitor;
        impl<'de> Visitor<'de> for CursorsVisitor {
            type Value = Cursors;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of conversation ids and seqs")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cursors, A::Error> {
                let mut cursors = Vec::new();
                while let Some((id, seq)) = map.next_entry::<Text<'de>, Seq>()? {
                    cursors.push((id.parse().map_err(de::Error::custom)?, seq));
                }
                Ok(Cursors(cursors))
            }
        }
        deserializer.deserialize_map(CursorsVisitor)
    }
}

/// Names the types of frames that a client sends: each one once, so that none is handled without standing in the list.
macro_rules! frame_types {
    ($($variant:ident = $name:literal,)*) => {
        /// The type of a client's frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum FrameType {
            $(#[doc = $name] $variant,)*
        }

        /// Every type of frame that a client sends.
        pub const FRAME_TYPES: &[&str] = &[$($name),*];

        impl FrameType {
            fn of(name: &str) -> Option<FrameType> {
                match name {
                    $($name => Some(FrameType::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

frame_types! {
    Auth = "auth",
    Ping = "ping",
    Sub = "sub",
    Unsub = "unsub",
    Read = "read",
    Delivered = "delivered",
    Typing = "typing",
    Send = "send",
    Edit = "edit",
    Delete = "delete",
    React = "react",
    Create = "create",
    Call = "call",
}

/// Every field that any frame has. Unknown fields are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(expecting = "a frame is a JSON object")]
pub(super) struct Frame<'a> {
    /// The type.
    #[serde(borrow, default)]
    pub t: Option<Text<'a>>,
    /// The request's id.
    #[serde(default)]
    pub id: Id,
    /// The conversation.
    #[serde(borrow, default)]
    pub c: Option<Text<'a>>,
    /// The message.
    #[serde(borrow, default)]
    pub m: Option<Text<'a>>,
    /// Kind of a message or conversation, name of a command.
    #[serde(borrow, default)]
    pub n: Option<Text<'a>>,
    /// The idempotency key.
    #[serde(borrow, default)]
    pub k: Option<Text<'a>>,
    /// A seq.
    #[serde(default)]
    pub s: Option<Seq>,
    /// The last seq the client has.
    #[serde(default)]
    pub since: Option<Seq>,
    /// The user a direct message goes to.
    #[serde(borrow, default)]
    pub to: Option<Text<'a>>,
    /// Typing or not.
    #[serde(default)]
    pub on: Option<bool>,
    /// A reaction.
    #[serde(borrow, default)]
    pub emoji: Option<Text<'a>>,
    /// Only if the message is still at this state.
    #[serde(default)]
    pub rev: Option<Seq>,
    /// What the frame is about.
    #[serde(borrow, default)]
    pub d: Option<&'a RawValue>,
    /// `d` of a plain `send`, read already; `d` itself is `None` then.
    #[serde(skip)]
    pub plain: Option<PlainMessage<'a>>,
    /// `auth`: the token.
    #[serde(borrow, default)]
    pub token: Option<Text<'a>>,
    /// `auth`: cursors of conversations.
    #[serde(default)]
    pub cur: Option<Cursors>,
    /// `auth`: the cursor of the own stream.
    #[serde(default)]
    pub me: Option<Seq>,
}

/// A frame that cannot be carried out; the answer carries its id.
#[derive(Debug)]
pub(super) struct BadFrame {
    /// As far as it could be read.
    pub id: Id,
    /// Why.
    pub refusal: Refusal,
}

impl<'a> Frame<'a> {
    /// Decodes one object.
    pub fn decode(json: &'a str) -> Result<Frame<'a>, BadFrame> {
        match plain::send(json) {
            Some(frame) => Ok(frame),
            None => Frame::decode_any(json),
        }
    }

    fn decode_any(json: &'a str) -> Result<Frame<'a>, BadFrame> {
        serde_json::from_str(json).map_err(|_| explain(json))
    }

    /// The type that the frame must name; `None`: one that the server does not know.
    pub fn frame_type(&self) -> Result<Option<FrameType>, Refusal> {
        Ok(FrameType::of(required("/t", self.t.as_ref())?))
    }

    /// The conversation that the frame must name.
    pub fn conversation(&self) -> Result<ConversationId, Refusal> {
        parse_id("/c", required("/c", self.c.as_ref())?)
    }

    /// The message that the frame must name.
    pub fn message(&self) -> Result<MessageId, Refusal> {
        parse_id("/m", required("/m", self.m.as_ref())?)
    }

    /// The seq that the frame must name; 0 is none.
    pub fn seq(&self) -> Result<Seq, Refusal> {
        self.s
            .filter(|seq| *seq > 0)
            .ok_or_else(|| Refusal::bad("/s", "/s: expected a seq above 0"))
    }

    /// The idempotency key, if there is one.
    pub fn key(&self) -> Result<Option<String>, Refusal> {
        let key = self.k.as_ref().map(|key| decode::client_id("/k", key, KEY_BYTES_MAX));
        Ok(key.transpose()?)
    }

    /// The durable command that the frame asks for from `caller`; `None` when its type is no durable command.
    pub fn command(&self, caller: &UserId) -> Result<Option<Command>, Refusal> {
        let command = match self.t.as_deref().and_then(FrameType::of) {
            Some(FrameType::Send) => Command::Send {
                to: self.target()?,
                message: self.new_message()?,
            },
            Some(FrameType::Edit) => self.edit()?,
            Some(FrameType::Delete) => Command::Delete {
                message: self.message()?,
                if_rev: self.rev,
            },
            Some(FrameType::React) => {
                decode::check_text("/emoji", self.emoji.as_deref().unwrap_or_default())?;
                Command::React {
                    message: self.message()?,
                    emoji: self.emoji.as_ref().map(|emoji| emoji.to_string()),
                }
            }
            Some(FrameType::Create) => Command::CreateConversation(self.new_conversation(caller)?),
            Some(FrameType::Call) => self.call()?,
            _ => return Ok(None),
        };
        Ok(Some(command))
    }

    fn target(&self) -> Result<To, Refusal> {
        match (&self.c, &self.to) {
            (Some(id), None) => Ok(To::Conversation(parse_id("/c", id)?)),
            (None, Some(user)) => Ok(To::User(decode::user_id("/to", user)?)),
            _ => Err(Refusal::bad("/c", "/c: expected either c (a conversation) or to (a user)")),
        }
    }

    fn new_message(&self) -> Result<NewMessage, Refusal> {
        let mut body = match self.plain {
            Some(message) => MessageBody::from(message),
            None => self.body()?,
        };
        body.kind = self.n.as_deref().map(str::to_string).or(body.kind);
        body.into_message().map(|(message, _)| message).map_err(in_d)
    }

    fn edit(&self) -> Result<Command, Refusal> {
        let body: EditBody = self.body()?;
        let (text, metadata, _) = body.into_parts().map_err(in_d)?;
        Ok(Command::Edit {
            message: self.message()?,
            text,
            metadata,
            if_rev: self.rev,
        })
    }

    fn call(&self) -> Result<Command, Refusal> {
        let payload = self.d.map_or("null", RawValue::get);
        decode::check_json("/d", payload)?;
        let name = required("/n", self.n.as_ref())?;
        decode::check_text("/n", name)?;
        Ok(Command::Call {
            name: name.to_string(),
            conversation: self.c.as_ref().map(|id| parse_id("/c", id)).transpose()?,
            payload: payload.to_string(),
        })
    }

    fn new_conversation(&self, caller: &UserId) -> Result<NewConversation, Refusal> {
        let Some(kind @ ("direct" | "group" | "context" | "broadcast")) = self.n.as_deref() else {
            return Err(Refusal::bad("/n", "/n: expected direct, group, context or broadcast"));
        };
        let mut body: ConversationBody = self.body()?;
        body.kind = Some(kind.to_owned());
        body.into_new(caller).map_err(in_d)
    }

    /// What stands in `d`; nothing there is the same as an empty object.
    fn body<T: Deserialize<'a>>(&self) -> Result<T, Refusal> {
        decode::parse(self.d.map_or("{}", RawValue::get)).map_err(in_d)
    }
}

impl From<PlainMessage<'_>> for MessageBody<'_> {
    fn from(message: PlainMessage<'_>) -> Self {
        MessageBody {
            content: message.content.map(str::to_owned),
            kind: message.kind.map(str::to_owned),
            reply_to_id: message.reply_to_id.map(str::to_owned),
            forwarded_from_id: message.forwarded_from_id.map(str::to_owned),
            ..MessageBody::default()
        }
    }
}

/// An error inside `d`.
fn in_d(error: DecodeError) -> Refusal {
    DecodeError {
        pointer: format!("/d{}", error.pointer),
        ..error
    }
    .into()
}

fn required<'t, 'a>(field: &'static str, value: Option<&'t Text<'a>>) -> Result<&'t Text<'a>, Refusal> {
    value.ok_or_else(|| Refusal::bad(field, format!("{field}: missing")))
}

fn parse_id<T: std::str::FromStr<Err: fmt::Display>>(field: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|error| Refusal::bad(field, format!("{field}: {error}")))
}

/// The elements of a batch.
pub(super) struct Batch<'a>(pub Vec<&'a RawValue>);

impl<'a> Batch<'a> {
    /// Takes an array apart; more than `frames_max` elements are refused without reading on.
    pub fn decode(json: &'a str, frames_max: usize) -> Result<Batch<'a>, Refusal> {
        struct BatchVisitor(usize);
        impl<'de> Visitor<'de> for BatchVisitor {
            type Value = Option<Vec<&'de RawValue>>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an array of frames")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
                let mut frames = Vec::new();
                while let Some(frame) = elements.next_element::<&RawValue>()? {
                    if frames.len() < self.0 {
                        frames.push(frame);
                    } else {
                        while elements.next_element::<de::IgnoredAny>()?.is_some() {}
                        return Ok(None);
                    }
                }
                Ok(Some(frames))
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let frames = deserializer
            .deserialize_seq(BatchVisitor(frames_max))
            .and_then(|frames| deserializer.end().map(|()| frames))
            .map_err(|error| Refusal::new(ErrorCode::BadRequest, format!("malformed JSON: {error}")))?;
        frames
            .map(Batch)
            .ok_or_else(|| Refusal::new(ErrorCode::TooLarge, format!("more than {frames_max} frames in a batch")))
    }
}

/// Why a frame does not fit, with the id if there is a readable one.
#[cold]
fn explain(json: &str) -> BadFrame {
    #[derive(Deserialize)]
    struct OnlyId {
        #[serde(default)]
        id: Id,
    }
    let id = serde_json::from_str(json).map(|OnlyId { id }| id).unwrap_or_default();
    let refusal = match decode::parse::<Frame>(json) {
        Err(error) => error.into(),
        Ok(_) => Refusal::new(ErrorCode::BadRequest, "malformed frame"),
    };
    BadFrame { id, refusal }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = "0123456789abcdef00000000";
    const M: &str = "0123456789abcdef00000007";

    fn conversation() -> ConversationId {
        C.parse().unwrap()
    }

    #[track_caller]
    fn command(json: &str) -> Result<Command, Refusal> {
        let frame = Frame::decode(json).map_err(|bad| bad.refusal)?;
        frame.command(&"ann".into()).map(|command| command.expect("a durable command"))
    }

    #[track_caller]
    fn check(json: &str, expect: &str) {
        assert_eq!(
            format!("{:?}", command(json).unwrap_or_else(|refusal| panic!("{json}: {refusal}"))),
            expect
        );
    }

    #[test]
    fn commands_as_documented() {
        let conversation = format!("{:?}", conversation());
        let message = format!("{:?}", M.parse::<MessageId>().unwrap());
        check(
            &format!(r#"{{"t":"send","id":4,"c":"{C}","k":"01J","n":"text","d":{{"content":"hé\n","metadata":{{"a":1.50}},"replyToId":"{M}"}}}}"#),
            &format!(
                r#"Send {{ to: Conversation({conversation}), message: NewMessage {{ kind: "text", text: "hé\n", metadata: Some("{{\"a\":1.50}}"), reply_to: Some({message}), forwarded_from: None }} }}"#
            ),
        );
        check(
            r#"{"t":"send","to":"bob","d":{"content":"hi"}}"#,
            r#"Send { to: User("bob"), message: NewMessage { kind: "text", text: "hi", metadata: None, reply_to: None, forwarded_from: None } }"#,
        );
        check(
            &format!(r#"{{"t":"edit","m":"{M}","rev":9,"d":{{"content":"x"}}}}"#),
            &format!(r#"Edit {{ message: {message}, text: Some("x"), metadata: None, if_rev: Some(9) }}"#),
        );
        check(
            &format!(r#"{{"t":"delete","m":"{M}"}}"#),
            &format!("Delete {{ message: {message}, if_rev: None }}"),
        );
        check(
            &format!(r#"{{"t":"react","m":"{M}","emoji":"👍"}}"#),
            &format!("React {{ message: {message}, emoji: Some(\"👍\") }}"),
        );
        check(
            &format!(r#"{{"t":"react","m":"{M}","emoji":null}}"#),
            &format!("React {{ message: {message}, emoji: None }}"),
        );
        check(
            r#"{"t":"call","n":"offers.create","d":[1, 2]}"#,
            r#"Call { name: "offers.create", conversation: None, payload: "[1, 2]" }"#,
        );
        check(
            r#"{"t":"create","n":"direct","d":{"participants":["bob"]}}"#,
            r#"CreateConversation(Direct { with: "bob" })"#,
        );
        check(
            r#"{"t":"create","n":"direct","d":{"participants":["ann","bob"]}}"#,
            r#"CreateConversation(Direct { with: "bob" })"#,
        );
        check(
            r#"{"t":"create","n":"group","d":{"participants":["bob"],"groupName":"G"}}"#,
            r#"CreateConversation(Group { participants: ["bob"], name: Some("G"), avatar: None })"#,
        );
        check(
            r#"{"t":"create","n":"context","d":{"participants":[],"context":{"owner":"o","type":"booking","id":"42"},"state":{}}}"#,
            r#"CreateConversation(Context { owner: "o", context_type: "booking", context_id: "42", participants: [], name: None, state: Some("{}") })"#,
        );
        check(
            r#"{"t":"create","n":"broadcast","d":{"groupName":"news"}}"#,
            r#"CreateConversation(Broadcast { name: "news" })"#,
        );
    }

    #[track_caller]
    fn check_bad(json: &str, id: Id, says: &str) {
        let (seen_id, refusal) = match Frame::decode(json) {
            Err(bad) => (bad.id, bad.refusal),
            Ok(frame) => {
                let refusal = frame.command(&"ann".into()).and_then(|_| frame.key()).expect_err(json);
                (frame.id, refusal)
            }
        };
        assert_eq!((refusal.code, seen_id), (ErrorCode::BadRequest, id), "{json}: {refusal}");
        assert!(refusal.message.contains(says), "{json}: {refusal} does not say {says:?}");
    }

    #[test]
    fn the_field_at_fault_is_named_and_the_id_is_kept() {
        let c = |rest: &str| format!(r#"{{"t":"send","id":1,"c":"{C}",{rest}}}"#);
        let long = "k".repeat(65);
        check_bad("", Id::None, "EOF");
        check_bad("{", Id::None, "EOF");
        check_bad(r#"{"t":"send"} x"#, Id::None, "trailing");
        check_bad("5", Id::None, "object");
        check_bad(r#"{"t":5,"id":1}"#, Id::Number(1), "/t: invalid type: integer `5`, expected a string");
        check_bad(r#"{"t":"send","id":"a","c":{}}"#, Id::Text("a".into()), "/c: invalid type");
        check_bad(r#"{"id":-1,"t":"send"}"#, Id::None, "/id: ");
        check_bad(r#"{"id":1.5,"t":"send"}"#, Id::None, "/id: ");
        check_bad(&format!(r#"{{"id":"{long}"}}"#), Id::None, "at most 64 bytes");
        check_bad(r#"{"id":1,"s":-1}"#, Id::Number(1), "/s: invalid value");
        check_bad(r#"{"id":1,"s":4294967296}"#, Id::Number(1), "/s: invalid value");
        check_bad(r#"{"id":1,"on":"yes"}"#, Id::Number(1), "/on: invalid type");
        check_bad(r#"{"id":1,"cur":{"nonsense":1}}"#, Id::Number(1), "24 lowercase hex");
        check_bad(r#"{"id":1,"cur":[]}"#, Id::Number(1), "object of conversation ids");
        check_bad(r#"{"id":1,"t":"a","t":"b"}"#, Id::Number(1), "duplicate field");
        check_bad(r#"{"id":1,"t":"\ud800"}"#, Id::Number(1), "/t: ");
        check_bad(r#"{"t":"send","id":1}"#, Id::Number(1), "/c: expected either");
        check_bad(&c(r#""to":"bob""#), Id::Number(1), "/c: expected either");
        check_bad(
            &format!(r#"{{"t":"send","id":1,"c":"{M}","d":{{"content":"x"}}}}"#),
            Id::Number(1),
            "/c: not an id",
        );
        check_bad(&c(r#""d":{"metadata":[]}"#), Id::Number(1), "/d/content: ");
        check_bad(
            &c(r#""d":{"content":"","metadata":[]}"#),
            Id::Number(1),
            "/d/metadata: expected an object",
        );
        check_bad(&c(r#""d":{"content":7}"#), Id::Number(1), "/d/content: invalid type");
        check_bad(&c(r#""d":"text""#), Id::Number(1), "/d: ");
        check_bad(r#"{"t":"send","id":1,"to":"","d":{"content":""}}"#, Id::Number(1), "/to: not a user id");
        check_bad(&format!(r#"{{"t":"edit","id":1,"m":"{M}"}}"#), Id::Number(1), "nothing to change");
        check_bad(r#"{"t":"delete","id":1}"#, Id::Number(1), "/m: missing");
        check_bad(&format!(r#"{{"t":"delete","id":1,"m":"{M}","k":""}}"#), Id::Number(1), "1 to 64 bytes");
        check_bad(
            &format!(r#"{{"t":"delete","id":1,"m":"{M}","k":"{long}"}}"#),
            Id::Number(1),
            "1 to 64 bytes",
        );
        check_bad(r#"{"t":"call","id":1}"#, Id::Number(1), "/n: missing");
        check_bad(r#"{"t":"create","id":1}"#, Id::Number(1), "direct, group");
        check_bad(r#"{"t":"create","id":1,"n":"direct"}"#, Id::Number(1), "exactly one");
        check_bad(r#"{"t":"create","id":1,"n":"context"}"#, Id::Number(1), "/d/context: a context");
        check_bad(
            r#"{"t":"create","id":1,"n":"broadcast","d":{"groupName":"a\u0000"}}"#,
            Id::Number(1),
            "/d/groupName: U+0000",
        );
        check_bad(&c(r#""k":"a\u0007","d":{"content":"x"}"#), Id::Number(1), "/k: ");
        check_bad(
            &format!(r#"{{"t":"react","id":1,"m":"{M}","emoji":"\u0000"}}"#),
            Id::Number(1),
            "/emoji: U+0000",
        );
        check_bad(r#"{"t":"call","id":1,"n":"a\u0000"}"#, Id::Number(1), "/n: U+0000");
        check_bad(
            r#"{"t":"create","id":1,"n":"group","d":{"groupAvatar":"javascript:1"}}"#,
            Id::Number(1),
            "/d/groupAvatar: ",
        );
    }

    #[test]
    fn what_is_no_durable_command_is_left_to_others() {
        for json in ["{}", r#"{"t":"typing"}"#, r#"{"t":"nonsense","unknown":[{}]}"#, r#"{"t":null}"#] {
            assert!(Frame::decode(json).unwrap().command(&"ann".into()).unwrap().is_none(), "{json}");
        }
    }

    #[test]
    fn texts_borrow_unless_they_have_escapes() {
        let frame = Frame::decode(r#"{"t":"send","n":"te\u0078t"}"#).unwrap();
        assert!(matches!(frame.t.unwrap().0, Cow::Borrowed("send")));
        assert_eq!(&*frame.n.unwrap(), "text");
    }

    #[test]
    fn cursors_keep_their_order() {
        let frame = Frame::decode(r#"{"t":"auth","cur":{"00000000000000020000000 0":1}}"#.replace(' ', "").leak()).unwrap();
        assert_eq!(frame.cur, Some(Cursors(vec![(ConversationId(2), 1)])));
    }

    #[test]
    fn batches_are_bounded() {
        assert_eq!(Batch::decode(r#"[{"t":"ping"}, {}, 5]"#, 3).unwrap().0.len(), 3);
        assert_eq!(Batch::decode("[1,2,3,4]", 3).err().unwrap().code, ErrorCode::TooLarge);
        assert_eq!(Batch::decode("[1,2,", 3).err().unwrap().code, ErrorCode::BadRequest);
        assert_eq!(Batch::decode("[1] [2]", 3).err().unwrap().code, ErrorCode::BadRequest);
    }

    #[test]
    fn deep_frames_are_refused_without_recursion() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = format!("{}1{}", open.repeat(20_000), close.repeat(20_000));
            let refusal = command(&format!(r#"{{"t":"call","n":"x","d":{deep}}}"#)).unwrap_err();
            assert!(refusal.message.contains("/d: nested deeper"), "{refusal}");
            assert!(
                Frame::decode(&format!(r#"{{"unknown":{deep}}}"#)).is_ok(),
                "what is ignored is only skipped"
            );
        }
        assert_eq!(Frame::decode(&"[".repeat(200_000)).unwrap_err().refusal.code, ErrorCode::BadRequest);
    }

    /// Mutations of good frames never panic, every refusal is coded, and the reader of plain messages means what serde does.
    #[test]
    fn mutated_frames_are_decoded_or_refused() {
        let mut plain = 0;
        let good = [
            format!(r#"{{"t":"send","id":17,"c":"{C}","k":"01J","n":"text","d":{{"content":"hé, come here","type":"x","replyToId":"{M}"}}}}"#),
            format!(r#"{{ "d": {{"content": "hello", "type": "x", "forwardedFromId": "{M}"}}, "id": "a7", "to": "bob", "t": "send" }}"#),
            format!(r#"{{"t":"send","id":4,"c":"{C}","k":"01J","n":"text","d":{{"content":"hé\n","metadata":{{"a":[1,{{}}]}},"replyToId":"{M}"}}}}"#),
            format!(r#"{{"t":"auth","id":"x","token":"a.b.c","cur":{{"{C}":5}},"me":9,"caps":["batch"]}}"#),
            r#"{"t":"create","id":1,"n":"context","d":{"participants":["a"],"context":{"owner":"o","type":"t","id":"1"},"state":{}}}"#.to_string(),
        ];
        for seed in 1..20_000u64 {
            let mut random = crate::ws::frame::tests::Random(seed);
            let mut bytes = good[random.below(good.len())].clone().into_bytes();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                match random.below(3) {
                    0 => bytes[at] = br#"{}[]",:0159nulltrue\e-"#[random.below(22)],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.below(128) as u8),
                }
            }
            let Ok(json) = String::from_utf8(bytes) else { continue };
            let meaning = |frame: &Frame| (frame.id.clone(), format!("{:?} {:?}", frame.command(&"ann".into()), frame.key()));
            if let Some(frame) = plain::send(&json) {
                plain += 1;
                let any = Frame::decode_any(&json).unwrap_or_else(|bad| panic!("{json}: {}", bad.refusal));
                assert_eq!(meaning(&frame), meaning(&any), "{json}");
            }
            let refusal = match Frame::decode(&json) {
                Ok(frame) => frame.command(&"ann".into()).and_then(|_| frame.key()).err(),
                Err(bad) => Some(bad.refusal),
            };
            assert!(refusal.is_none_or(|refusal| refusal.code == ErrorCode::BadRequest), "{json}");
        }
        assert!(plain > 500, "only {plain} frames were plain");
    }
}
