//! Opaque cursors: where a list goes on. Clients hand them back unread.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use haggle_model::{ConversationId, Millis, Seq, UserId};

use super::problem::Problem;

/// A place in a list. The first byte names the kind, so that a cursor of one list is refused by another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Below this conversation in the user's list.
    Conversations(Millis, ConversationId),
    /// Older than this seq.
    Before(Seq),
    /// Newer than this seq.
    After(Seq),
    /// After this user.
    User(UserId),
}

impl Cursor {
    /// The text for clients.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(24);
        match self {
            Cursor::Conversations(at, id) => {
                bytes.push(b'c');
                bytes.extend(at.to_be_bytes());
                bytes.extend(id.0.to_be_bytes());
            }
            Cursor::Before(seq) => {
                bytes.push(b'b');
                bytes.extend(seq.to_be_bytes());
            }
            Cursor::After(seq) => {
                bytes.push(b'a');
                bytes.extend(seq.to_be_bytes());
            }
            Cursor::User(user) => {
                bytes.push(b'u');
                bytes.extend(user.as_str().as_bytes());
            }
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What [`Cursor::encode`] made.
    pub fn decode(text: &str) -> Result<Cursor, Problem> {
        let wrong = || Problem::at("cursor", "not a cursor of this list: hand back nextCursor as it came");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let (kind, rest) = bytes.split_first().ok_or_else(wrong)?;
        let seq = || rest.try_into().map(Seq::from_be_bytes).map_err(|_| wrong());
        match kind {
            b'c' if rest.len() == 16 => {
                let (at, id) = rest.split_at(8);
                let at = Millis::from_be_bytes(at.try_into().expect("8 bytes"));
                let id = u64::from_be_bytes(id.try_into().expect("8 bytes"));
                Ok(Cursor::Conversations(at, ConversationId(id)))
            }
            b'b' => seq().map(Cursor::Before),
            b'a' => seq().map(Cursor::After),
            b'u' => std::str::from_utf8(rest).map(|user| Cursor::User(user.into())).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// The refusal of a cursor that belongs to another list.
    pub fn misplaced() -> Problem {
        Problem::at("cursor", "a cursor of another list")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_come_back() {
        let all = [
            Cursor::Conversations(1_700_000_000_000, ConversationId(7)),
            Cursor::Before(9),
            Cursor::After(0),
            Cursor::User("ann".into()),
        ];
        for cursor in all {
            assert_eq!(Cursor::decode(&cursor.encode()).expect("own cursor"), cursor);
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "!", "YQ", "Y2E", "eHh4", "////", &"A".repeat(10_000)] {
            assert!(Cursor::decode(text).is_err(), "{text:.20}");
        }
    }
}
