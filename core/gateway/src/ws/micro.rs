//! Doors for micro-benchmarks into what is private; no part of the interface.

use bytes::Bytes;
use haggle_engine::Push;

use super::{
    encode,
    frame::{Message, Reader},
    protocol::Frame,
};

/// Takes all frames out of `input`, which are unmasked in place, decodes each into a command, and counts those that are one.
pub fn commands(input: &mut [u8]) -> usize {
    let mut reader = Reader::new(usize::MAX, 1);
    let (mut used, mut count, caller) = (0, 0, "ann".into());
    while let Ok(Some(message)) = reader.next(input, &mut used) {
        if let Message::Text(text) = message {
            count += usize::from(Frame::decode(text).is_ok_and(|frame| matches!(frame.command(&caller), Ok(Some(_)))));
        }
    }
    count
}

/// The whole frame of a push.
pub fn push(push: &Push) -> Bytes {
    encode::push(&push.what)
}
