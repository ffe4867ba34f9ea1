//! Engine.IO v4 packets: their text, and payloads of several of them for polling. No I/O.

use base64::{
    Engine as _,
    alphabet::STANDARD as ALPHABET,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

/// Stands between two packets of a payload.
pub const SEPARATOR: u8 = 0x1e;

/// Padding is sent, and not asked for.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One packet of a client, or one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The server's first one.
    Open(&'a str),
    /// The session is over.
    Close,
    /// Are you there?
    Ping(&'a str),
    /// Yes.
    Pong(&'a str),
    /// Text of the layer above.
    Message(&'a str),
    /// Bytes of the layer above.
    Binary(Vec<u8>),
    /// The session goes on over the transport this came by.
    Upgrade,
    /// Nothing; ends a poll.
    Noop,
}

/// Bytes that are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Engine.IO packet")]
pub struct Malformed;

impl<'a> Packet<'a> {
    /// A packet as it stands in a text frame or, with `b` and base64 for bytes, in a payload.
    pub fn decode(text: &'a str) -> Result<Packet<'a>, Malformed> {
        let kind = *text.as_bytes().first().ok_or(Malformed)?;
        if !kind.is_ascii() {
            return Err(Malformed);
        }
        let rest = &text[1..];
        match (kind, rest) {
            (b'0', _) => Ok(Packet::Open(rest)),
            (b'1', _) => Ok(Packet::Close),
            (b'2', _) => Ok(Packet::Ping(rest)),
            (b'3', _) => Ok(Packet::Pong(rest)),
            (b'4', _) => Ok(Packet::Message(rest)),
            (b'5', _) => Ok(Packet::Upgrade),
            (b'6', _) => Ok(Packet::Noop),
            (b'b', _) => LENIENT.decode(rest).map(Packet::Binary).map_err(|_| Malformed),
            _ => Err(Malformed),
        }
    }

    /// Appends the packet as it stands in a payload.
    pub fn append(&self, out: &mut Vec<u8>) {
        let (kind, text) = match self {
            Packet::Open(text) => (b'0', *text),
            Packet::Close => (b'1', ""),
            Packet::Ping(text) => (b'2', *text),
            Packet::Pong(text) => (b'3', *text),
            Packet::Message(text) => (b'4', *text),
            Packet::Binary(bytes) => return append_binary(out, bytes),
            Packet::Upgrade => (b'5', ""),
            Packet::Noop => (b'6', ""),
        };
        out.push(kind);
        out.extend_from_slice(text.as_bytes());
    }
}

/// The packets of a polling payload. An empty payload is malformed, as every packet needs its type.
pub fn payload(text: &str) -> impl Iterator<Item = Result<Packet<'_>, Malformed>> {
    text.split(char::from(SEPARATOR)).map(Packet::decode)
}

/// Appends bytes as they stand in a payload.
pub fn append_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'b');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    STANDARD
        .encode_slice(bytes, &mut out[start..])
        .expect("the room is that of the encoding, padding included");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::frame::tests::Random;

    #[track_caller]
    fn check(text: &str, expect: &[Packet<'_>]) {
        let packets: Result<Vec<_>, _> = payload(text).collect();
        assert_eq!(packets.as_deref(), Ok(expect), "{text:?}");
    }

    #[test]
    fn payloads_as_the_protocol_has_them() {
        check("4hello", &[Packet::Message("hello")]);
        check("4", &[Packet::Message("")]);
        check("1", &[Packet::Close]);
        check("2probe", &[Packet::Ping("probe")]);
        check(
            "4hello\u{1e}2\u{1e}4world",
            &[Packet::Message("hello"), Packet::Ping(""), Packet::Message("world")],
        );
        check("4€\u{1e}bAQIDBA==", &[Packet::Message("€"), Packet::Binary(vec![1, 2, 3, 4])]);
        check("bAQIDBA", &[Packet::Binary(vec![1, 2, 3, 4])]);
        check("b", &[Packet::Binary(vec![])]);
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for text in ["", "abc", "7", "4a\u{1e}", "\u{1e}4a", "é4", "bAQ=ID", "b!!", "4a\u{1e}x"] {
            assert!(payload(text).any(|packet| packet.is_err()), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for seed in 1..2_000u64 {
            let mut random = Random(seed);
            let texts: Vec<String> = (0..6)
                .map(|_| {
                    (0..random.below(20))
                        .map(|_| ['a', '"', 'é', '€', '\\', '😀', '0', 'b'][random.below(8)])
                        .collect()
                })
                .collect();
            let packets: Vec<Packet<'_>> = (0..1 + random.below(5))
                .map(|n| match random.below(7) {
                    0 => Packet::Open(&texts[n]),
                    1 => Packet::Close,
                    2 => Packet::Ping(&texts[n]),
                    3 => Packet::Pong(&texts[n]),
                    4 => Packet::Binary((0..random.below(40)).map(|_| random.below(256) as u8).collect()),
                    5 => Packet::Upgrade,
                    _ => Packet::Message(&texts[n]),
                })
                .collect();
            let mut out = Vec::new();
            for (n, packet) in packets.iter().enumerate() {
                if n > 0 {
                    out.push(SEPARATOR);
                }
                packet.append(&mut out);
            }
            let text = String::from_utf8(out).unwrap();
            check(&text, &packets);
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        for seed in 1..5_000u64 {
            let mut random = Random(seed);
            let text: String = (0..random.below(30))
                .map(|_| char::from_u32(random.below(0x250) as u32).unwrap_or('b'))
                .collect();
            let count = payload(&text).count();
            assert_eq!(count, text.matches('\u{1e}').count() + 1, "seed {seed}");
        }
    }
}
