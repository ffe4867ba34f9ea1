//! Ids. Clients see opaque strings of 24 lowercase hex digits; inside they are integers.

use std::{fmt, str::FromStr, sync::Arc};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// Position of an event in its conversation: 1, 2, 3 … without gaps. 0 means "none".
pub type Seq = u32;

/// Position of an entry in its shard's log: 1, 2, 3 … without gaps. 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Pos(#[n(0)] pub u64);

impl Pos {
    /// The position after this one.
    pub fn next(self) -> Pos {
        Pos(self.0 + 1)
    }
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One part of the key space with one log and one writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Shard(#[n(0)] pub u16);

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A conversation's 64-bit key. Its low 16 bits choose the shard, so an id never moves between shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct ConversationId(#[n(0)] pub u64);

impl ConversationId {
    /// The 24 digits, the last eight of them 0.
    pub fn to_hex(self) -> Hex<24> {
        hex_of(self.0, 0)
    }

    /// The shard that holds this conversation when there are `shards` of them (at least 1).
    pub fn shard(self, shards: u16) -> Shard {
        Shard((self.0 as u16) % shards.max(1))
    }

    /// The `attempt`-th alternative of this key after a collision; it stays in the same shard. Attempt 0 is the key itself.
    pub fn probe(self, attempt: u32) -> ConversationId {
        let upper = (self.0 >> 16).wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a)) & 0xffff_ffff_ffff;
        ConversationId((upper << 16) | (self.0 & 0xffff))
    }

    /// The id of the message created at `seq` of this conversation.
    pub fn message(self, seq: Seq) -> MessageId {
        MessageId { conversation: self, seq }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex().fmt(f)
    }
}

impl FromStr for ConversationId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (key, seq) = parse_hex(text)?;
        if seq == 0 { Ok(ConversationId(key)) } else { Err(ParseIdError) }
    }
}

/// A message: its conversation and the seq of its creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct MessageId {
    /// Where it was written.
    #[n(0)]
    pub conversation: ConversationId,
    /// The seq of its `message.created` event; never 0.
    #[n(1)]
    pub seq: Seq,
}

impl MessageId {
    /// The 24 digits, without the detour over a formatter: ids stand several times in everything that clients get.
    pub fn to_hex(self) -> Hex<24> {
        hex_of(self.conversation.0, self.seq)
    }
}

fn hex_of(key: u64, seq: Seq) -> Hex<24> {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.to_be_bytes());
    bytes[8..].copy_from_slice(&seq.to_be_bytes());
    Hex::of(&bytes)
}

/// The two digits of each byte.
const HEX_PAIRS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Bytes as `N` lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    /// Of `N / 2` bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut digits = [b'0'; N];
        for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
            *pair = HEX_PAIRS[usize::from(*byte)];
        }
        Hex(digits)
    }

    /// The digits as ASCII.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_hex().fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let (key, seq) = parse_hex(text)?;
        if seq == 0 {
            Err(ParseIdError)
        } else {
            Ok(ConversationId(key).message(seq))
        }
    }
}

/// The text is not 24 lowercase hex digits of the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: expected 24 lowercase hex digits")]
pub struct ParseIdError;

fn parse_hex(text: &str) -> Result<(u64, Seq), ParseIdError> {
    let (key, rest) = text.as_bytes().split_first_chunk::<16>().ok_or(ParseIdError)?;
    let seq: &[u8; 8] = rest.try_into().map_err(|_| ParseIdError)?;
    Ok((number_of(key)?, number_of(seq)? as Seq))
}

/// At most 16 digits, which is what fits.
fn number_of(digits: &[u8]) -> Result<u64, ParseIdError> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return Err(ParseIdError),
        };
        Ok(number << 4 | u64::from(digit))
    })
}

/// What makes a retry recognisable: a hash of user, conversation and the client's own id, or a generated one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct CommandId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl CommandId {
    /// The id of a client's command: the same three parts always give the same id.
    pub fn of_client(user: &UserId, conversation: ConversationId, client_id: &str) -> CommandId {
        Self::hash(&[b"client", user.as_str().as_bytes(), &conversation.0.to_be_bytes(), client_id.as_bytes()])
    }

    /// The id of what a consumer writes for the entry at `pos`, item `index`: a second delivery has the same id.
    pub fn of_feed(consumer: &str, shard: Shard, pos: Pos, index: u32) -> CommandId {
        Self::hash(&[
            b"feed",
            consumer.as_bytes(),
            &shard.0.to_be_bytes(),
            &pos.0.to_be_bytes(),
            &index.to_be_bytes(),
        ])
    }

    /// The id made of any named parts.
    pub fn hash(parts: &[&[u8]]) -> CommandId {
        // Together, since the hasher that takes pieces costs more than the few bytes that they are.
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u32).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        let hash = blake3::hash(&bytes);
        let (id, _) = hash.as_bytes().split_first_chunk().expect("16 of 32 bytes");
        CommandId(*id)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex::<32>::of(&self.0).fmt(f)
    }
}

impl fmt::Debug for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CommandId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != 32 || !text.is_ascii() {
            return Err(ParseIdError);
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseIdError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseIdError)?;
        }
        Ok(CommandId(id))
    }
}

macro_rules! shared_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text; cloning is cheap afterwards.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
                e.str(&self.0)?;
                Ok(())
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
                Ok(Self::new(d.str()?))
            }
        }
    };
}

shared_text!(
    /// Who a token speaks for: the token's string, opaque to Haggle.
    UserId
);
shared_text!(
    /// A plugin's id from its manifest: also its kv namespace and its metrics label.
    PluginId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_24_hex_digits_and_come_back() {
        let id = ConversationId(0x0123_4567_89ab_cdef).message(7);
        assert_eq!(id.to_string(), "0123456789abcdef00000007");
        assert_eq!("0123456789abcdef00000007".parse(), Ok(id));
        assert_eq!(id.conversation.to_string().parse(), Ok(id.conversation));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "0",
            "0123456789ABCDEF00000007",
            "0123456789abcdef0000000g",
            "0123456789abcdef000000070",
            "+123456789abcdef00000007",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseIdError), "{text}");
        }
        assert!("0123456789abcdef00000000".parse::<MessageId>().is_err(), "seq 0 is the conversation");
        assert!("0123456789abcdef00000001".parse::<ConversationId>().is_err(), "seq 1 is a message");
    }

    #[test]
    fn probing_stays_in_the_shard() {
        let key = ConversationId(0xdead_beef_0000_1234);
        for attempt in 1..100 {
            assert_eq!(key.probe(attempt).shard(32), key.shard(32));
            assert_ne!(key.probe(attempt), key);
        }
    }

    #[test]
    fn a_client_id_of_another_user_is_another_command() {
        let conversation = ConversationId(5);
        let of = |user: &str, client: &str| CommandId::of_client(&user.into(), conversation, client);
        assert_eq!(of("a", "1"), of("a", "1"));
        assert_ne!(of("a", "1"), of("b", "1"));
        assert_ne!(of("ab", "1"), of("a", "b1"), "parts do not run into each other");
    }
}
