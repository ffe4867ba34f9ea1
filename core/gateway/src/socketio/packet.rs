//! Socket.IO v5 packets: `<type>[<n>-][<nsp>,][<ack>][json]`. No I/O; what events carry stays JSON text.

use std::{borrow::Cow, collections::VecDeque, fmt};

use bytes::Bytes;
use haggle_engine::sockets::{self, ATTACHMENTS_MAX, RESERVED_EVENTS};
use serde::{
    Deserialize, Deserializer as _,
    de::{self, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Arguments of one event or ack; so many that no client has more, and few enough that a list of them stays small.
pub const ARGS_MAX: usize = 256;
/// The name of an event as it is written, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Nesting of a packet with binary parts, which is searched for their places.
const DEPTH_MAX: usize = 64;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a client: wants to join a namespace. Of the server: has joined.
    Connect,
    /// Leaves a namespace.
    Disconnect,
    /// A name and arguments.
    Event,
    /// The answer to an event.
    Ack,
    /// Has not joined.
    ConnectError,
    /// An event with binary parts.
    BinaryEvent,
    /// An answer with binary parts.
    BinaryAck,
}

impl Kind {
    fn of(digit: u8) -> Option<Kind> {
        Some(match digit {
            b'0' => Kind::Connect,
            b'1' => Kind::Disconnect,
            b'2' => Kind::Event,
            b'3' => Kind::Ack,
            b'4' => Kind::ConnectError,
            b'5' => Kind::BinaryEvent,
            b'6' => Kind::BinaryAck,
            _ => return None,
        })
    }

    fn digit(self) -> char {
        match self {
            Kind::Connect => '0',
            Kind::Disconnect => '1',
            Kind::Event => '2',
            Kind::Ack => '3',
            Kind::ConnectError => '4',
            Kind::BinaryEvent => '5',
            Kind::BinaryAck => '6',
        }
    }

    fn is_binary(self) -> bool {
        matches!(self, Kind::BinaryEvent | Kind::BinaryAck)
    }
}

/// One packet without its binary parts.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// What it is.
    pub kind: Kind,
    /// `/` when it is not named.
    pub namespace: &'a str,
    /// An ack is wanted under this id, or this is the ack.
    pub ack: Option<u64>,
    /// Checked to be JSON of the shape that the kind asks for.
    pub data: Option<&'a RawValue>,
    /// How many binary parts follow.
    pub attachments: usize,
}

/// Text that is no packet, or one that this protocol does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a Socket.IO packet: {0}")]
pub struct Malformed(pub &'static str);

impl<'a> Packet<'a> {
    /// Takes the text apart and holds it to the rules of its kind.
    pub fn decode(text: &'a str) -> Result<Packet<'a>, Malformed> {
        let digit = *text.as_bytes().first().ok_or(Malformed("empty"))?;
        let kind = Kind::of(digit).ok_or(Malformed("unknown type"))?;
        let mut rest = &text[1..];
        let mut attachments = 0;
        if kind.is_binary() {
            let (count, after) = rest.split_once('-').ok_or(Malformed("no number of attachments"))?;
            attachments = number(count).ok_or(Malformed("no number of attachments"))? as usize;
            if attachments > ATTACHMENTS_MAX {
                return Err(Malformed("too many attachments"));
            }
            rest = after;
        }
        let mut namespace = "/";
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        // Digits alone may be an ack id; in front of JSON that is no array they would be part of a number, which no kind takes.
        let ack = match digits {
            0 => None,
            _ => Some(number(&rest[..digits]).ok_or(Malformed("ack id out of range"))?),
        };
        let data = match &rest[digits..] {
            "" => None,
            json => Some(serde_json::from_str(json).map_err(|_| Malformed("malformed JSON"))?),
        };
        let packet = Packet {
            kind,
            namespace,
            ack,
            data,
            attachments,
        };
        packet.check()?;
        Ok(packet)
    }

    fn check(&self) -> Result<(), Malformed> {
        let starts = |with: char| self.data.is_some_and(|data| data.get().starts_with(with));
        let fits = match self.kind {
            Kind::Connect => self.data.is_none() || starts('{'),
            Kind::Disconnect => self.data.is_none(),
            Kind::ConnectError => self.data.is_none() || starts('{') || starts('"'),
            Kind::Ack | Kind::BinaryAck => starts('[') && self.ack.is_some(),
            Kind::Event | Kind::BinaryEvent => starts('['),
        };
        if !fits {
            return Err(Malformed("data does not fit the type"));
        }
        if matches!(self.kind, Kind::Event | Kind::BinaryEvent) {
            self.event()?;
        }
        Ok(())
    }

    /// The array of an event or ack.
    pub fn args(&self) -> Result<Vec<&'a RawValue>, Malformed> {
        let data = self.data.ok_or(Malformed("no data"))?;
        let mut args = serde_json::Deserializer::from_str(data.get());
        let args = args
            .deserialize_seq(Args)
            .map_err(|_| Malformed("malformed array, or too many arguments"))?;
        Ok(args)
    }

    /// Name and arguments of an event.
    pub fn event(&self) -> Result<(Cow<'a, str>, Vec<&'a RawValue>), Malformed> {
        #[derive(Deserialize)]
        struct Text<'t>(#[serde(borrow)] Cow<'t, str>);
        let mut args = self.args()?;
        if args.is_empty() {
            return Err(Malformed("an event without a name"));
        }
        let first = args.remove(0).get();
        let name = match first.as_bytes().first() {
            _ if first.len() > NAME_BYTES_MAX => return Err(Malformed("the name of the event is too long")),
            Some(b'"') => serde_json::from_str::<Text<'a>>(first).map_err(|_| Malformed("malformed name"))?.0,
            Some(b'-' | b'0'..=b'9') => Cow::Borrowed(first),
            _ => return Err(Malformed("the name of an event is a text or a number")),
        };
        if RESERVED_EVENTS.contains(&&*name) {
            return Err(Malformed("the name of the event is reserved"));
        }
        Ok((name, args))
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// A packet with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The packet's text, checked.
    pub text: String,
    /// Its binary parts, in the order of their numbers.
    pub parts: VecDeque<Bytes>,
}

/// Puts packets and the binary parts that follow them together.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    whole: Whole,
    missing: usize,
    bytes: usize,
}

impl Assembler {
    /// A binary packet waits for its parts.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// A packet that announces binary parts. Must not be called while one [`Assembler::is_open`].
    pub fn begin(&mut self, text: &str, packet: &Packet<'_>) -> Result<Option<Whole>, Malformed> {
        check_places(packet)?;
        let whole = Whole {
            text: text.to_owned(),
            parts: VecDeque::new(),
        };
        if packet.attachments == 0 {
            return Ok(Some(whole));
        }
        self.open = Some(Box::new(Open {
            whole,
            missing: packet.attachments,
            bytes: 0,
        }));
        Ok(None)
    }

    /// A binary part; the whole packet with the last one. All parts together must not exceed `bytes_max`.
    pub fn part(&mut self, bytes: Bytes, bytes_max: usize) -> Result<Option<Whole>, Malformed> {
        let open = self.open.as_mut().ok_or(Malformed("unexpected binary"))?;
        open.bytes += bytes.len();
        if open.bytes > bytes_max {
            return Err(Malformed("too much binary"));
        }
        open.whole.parts.push_back(bytes);
        open.missing -= 1;
        if open.missing > 0 {
            return Ok(None);
        }
        Ok(self.open.take().map(|open| open.whole))
    }
}

/// The raw elements of an array, up to [`ARGS_MAX`].
struct Args;

impl<'de> Visitor<'de> for Args {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {ARGS_MAX} arguments")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut args = Vec::new();
        while let Some(arg) = seq.next_element()? {
            if args.len() > ARGS_MAX {
                return Err(de::Error::invalid_length(args.len(), &self));
            }
            args.push(arg);
        }
        Ok(args)
    }
}

/// Every placeholder names a part that comes.
fn check_places(packet: &Packet<'_>) -> Result<(), Malformed> {
    let Some(data) = packet.data else { return Ok(()) };
    let mut args = serde_json::Deserializer::from_str(data.get());
    sockets::check_places(&mut args, packet.attachments, DEPTH_MAX).map_err(|_| Malformed("illegal attachments"))
}

/// Appends everything of a packet in front of its JSON.
pub fn append_head(out: &mut Vec<u8>, kind: Kind, attachments: usize, namespace: &str, ack: Option<u64>) {
    use std::io::Write;
    let written = (|| {
        write!(out, "{}", kind.digit())?;
        if kind.is_binary() {
            write!(out, "{attachments}-")?;
        }
        if namespace != "/" {
            write!(out, "{namespace},")?;
        }
        match ack {
            Some(id) => write!(out, "{id}"),
            None => Ok(()),
        }
    })();
    written.expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame::tests::Random;

    #[track_caller]
    fn check(text: &str, kind: Kind, namespace: &str, ack: Option<u64>, data: Option<&str>) {
        let packet = Packet::decode(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(
            (packet.kind, packet.namespace, packet.ack, packet.data.map(RawValue::get)),
            (kind, namespace, ack, data),
            "{text}"
        );
    }

    #[test]
    fn packets_as_the_protocol_has_them() {
        check("0", Kind::Connect, "/", None, None);
        check("0{\"token\":\"123\"}", Kind::Connect, "/", None, Some("{\"token\":\"123\"}"));
        check("0/admin,{\"a\":1}", Kind::Connect, "/admin", None, Some("{\"a\":1}"));
        check("0/random", Kind::Connect, "/random", None, None);
        check("0/random,", Kind::Connect, "/random", None, None);
        check("1/admin,", Kind::Disconnect, "/admin", None, None);
        check("2[\"hey\",\"Jude\"]", Kind::Event, "/", None, Some("[\"hey\",\"Jude\"]"));
        check("2/admin,456[\"delete\",123]", Kind::Event, "/admin", Some(456), Some("[\"delete\",123]"));
        check("212[\"foo\"]", Kind::Event, "/", Some(12), Some("[\"foo\"]"));
        check("2[5,1]", Kind::Event, "/", None, Some("[5,1]"));
        check("3/admin,456[]", Kind::Ack, "/admin", Some(456), Some("[]"));
        check(
            "51-/c,7[\"a\",{\"_placeholder\":true,\"num\":0}]",
            Kind::BinaryEvent,
            "/c",
            Some(7),
            Some("[\"a\",{\"_placeholder\":true,\"num\":0}]"),
        );
    }

    #[test]
    fn what_the_protocol_forbids() {
        for text in [
            "",
            "7",
            "x",
            "abc",
            "2",
            "2{}",
            "2[]",
            "2[{}]",
            "2[null]",
            "2[\"connect\"]",
            "2[\"disconnect\"]",
            "2[\"newListener\",1]",
            "2\"foo\"",
            "2[\"a\"",
            "2[\"a\"] ]",
            "0\"x\"",
            "0[]",
            "1\"x\"",
            "1/admin,{}",
            "3[]",
            "312{}",
            "312",
            "5[\"a\"]",
            "5-[\"a\"]",
            "5x-[\"a\"]",
            "511-[\"a\"]",
            "5-1-[\"a\"]",
            "51",
            "2/admin,99999999999999999999[\"a\"]",
            "é",
        ] {
            assert!(Packet::decode(text).is_err(), "{text}");
        }
    }

    fn begin(text: &str) -> (Assembler, Result<Option<Whole>, Malformed>) {
        let mut assembler = Assembler::default();
        let packet = Packet::decode(text).expect("a packet");
        let begun = assembler.begin(text, &packet);
        (assembler, begun)
    }

    #[test]
    fn binary_parts_follow_their_packet() {
        let (mut assembler, begun) = begin("52-[\"a\",{\"_placeholder\":true,\"num\":1},[{\"x\":{\"_placeholder\":true,\"num\":0}}]]");
        assert_eq!((begun, assembler.is_open()), (Ok(None), true));
        assert_eq!(assembler.part(Bytes::from_static(b"x"), 10), Ok(None));
        let whole = assembler.part(Bytes::from_static(b"y"), 10).expect("the second").expect("whole");
        assert_eq!(whole.parts, [Bytes::from_static(b"x"), Bytes::from_static(b"y")]);
        assert!(!assembler.is_open());
        assert!(assembler.part(Bytes::new(), 10).is_err(), "binary without a packet");
    }

    #[test]
    fn events_have_bounded_names_and_arguments() {
        let args = |count| format!("2[\"a\"{}]", ",1".repeat(count));
        assert_eq!(Packet::decode(&args(ARGS_MAX)).unwrap().event().unwrap().1.len(), ARGS_MAX);
        assert!(Packet::decode(&args(ARGS_MAX + 1)).is_err());
        assert!(Packet::decode(&format!("2[\"{}\"]", "a".repeat(NAME_BYTES_MAX - 2))).is_ok());
        assert!(Packet::decode(&format!("2[\"{}\"]", "a".repeat(NAME_BYTES_MAX))).is_err());
    }

    #[test]
    fn placeholders_name_parts_that_come() {
        for num in ["1", "-1", "0.5", "\"0\"", "null", "1e9"] {
            let text = format!("51-[\"a\",{{\"_placeholder\":true,\"num\":{num}}}]");
            assert!(begin(&text).1.is_err(), "{num}");
        }
        for (data, fits) in [
            (r#"{"_placeholder":true,"num":0,"more":1}"#, true),
            (r#"{"num":0,"_placeholder":true}"#, true),
            (r#"{"num":7,"_placeholder":false}"#, true),
            (r#"{"_placeholder":true}"#, false),
            (r#"{"_placeholder":{"_placeholder":true,"num":3}}"#, false),
            (r#"[[{"x":{"_placeholder":true,"num":2}}]]"#, false),
        ] {
            assert_eq!(begin(&format!("51-[\"a\",{data}]")).1.is_ok(), fits, "{data}");
        }
        let deep = |depth: usize| format!("51-[\"a\",{}{}]", "[".repeat(depth), "]".repeat(depth));
        assert!(begin(&deep(DEPTH_MAX - 1)).1.is_ok() && begin(&deep(DEPTH_MAX)).1.is_err());
        assert!(begin("50-[\"a\"]").1.expect("no parts").is_some());
        let (mut assembler, _) = begin("51-[\"a\"]");
        assert!(assembler.part(Bytes::from(vec![0; 11]), 10).is_err(), "too large");
    }

    #[test]
    fn heads_are_read_again() {
        for seed in 1..2_000u64 {
            let mut random = Random(seed);
            let kind = [Kind::Event, Kind::Ack, Kind::BinaryEvent, Kind::BinaryAck][random.below(4)];
            let namespace = ["/", "/chat", "/a-b/c", "/é"][random.below(4)];
            let acked = matches!(kind, Kind::Ack | Kind::BinaryAck) || random.below(2) == 0;
            let ack = acked.then(|| random.below(100_000) as u64);
            let attachments = random.below(ATTACHMENTS_MAX + 1);
            let mut out = Vec::new();
            append_head(&mut out, kind, attachments, namespace, ack);
            out.extend_from_slice(b"[\"x\"]");
            let text = String::from_utf8(out).unwrap();
            check(&text, kind, namespace, ack, Some("[\"x\"]"));
        }
    }

    /// Mutations of good packets never panic.
    #[test]
    fn mutated_packets_are_read_or_refused() {
        let good = [
            "52-/chat,12[\"a\",{\"_placeholder\":true,\"num\":1},1.5]",
            "2/chat,3[\"send\",{\"é\":\"\\u00e9\"}]",
            "0/chat,{\"token\":\"x\"}",
            "3/c,1[]",
        ];
        for seed in 1..20_000u64 {
            let mut random = Random(seed);
            let mut bytes = good[random.below(good.len())].as_bytes().to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                match random.below(3) {
                    0 => bytes[at] = br#"{}[]",:0159-/num_"#[random.below(17)],
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.below(128) as u8),
                }
            }
            let Ok(text) = String::from_utf8(bytes) else { continue };
            if let Ok(packet) = Packet::decode(&text) {
                assert!(packet.attachments <= ATTACHMENTS_MAX, "{text}");
                let _ = Assembler::default().begin(&text, &packet);
            }
        }
    }
}
