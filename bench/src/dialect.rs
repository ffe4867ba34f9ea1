//! What a system under load speaks. One small trait, so that every system is driven and checked by the same client.
//!
//! A dialect knows bytes, nothing of time, sockets or statistics. A new one implements [`Dialect`] in a module of its own and is
//! named in [`by_name`].

mod native;
mod socketio;

use std::path::Path;

use anyhow::{Result, bail};

/// What a client can be told.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The login is done.
    LoggedIn,
    /// The conversation asked for exists; its id.
    Created(&'a str),
    /// Events of the conversation arrive from now on; the seq of its newest.
    Joined { head: u32 },
    /// Message `n` of this connection is stored for good, at this seq.
    Ack { n: u32, seq: u32 },
    /// Message `n` of this connection was refused and is not stored.
    Refused { n: u32, code: &'a str },
    /// Something else that we asked for was refused.
    Failed(&'a str),
    /// An event of a conversation.
    Event(Event<'a>),
    /// Events up to `head` are not sent here.
    Gap { conversation: &'a str, head: u32 },
    /// To be answered by [`Dialect::heartbeat`].
    Heartbeat,
    /// Nothing that concerns us.
    Other,
}

/// An event of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Of which.
    pub conversation: &'a str,
    /// Its place there.
    pub seq: u32,
    /// The stamp of the message that it creates; `None`: an event of another kind, or somebody else's message.
    pub stamp: Option<Stamp>,
}

/// Who sent a message and which of that sender's messages it is. Stands at the beginning of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The connection that sent it.
    pub sender: u32,
    /// The sender's messages are numbered 0, 1, 2 …
    pub n: u32,
}

/// What comes before a stamp.
pub const STAMP: &[u8] = b"hb1:";

impl Stamp {
    /// Takes the stamp off the beginning of a text.
    pub fn parse(text: &[u8]) -> Option<Stamp> {
        let rest = text.strip_prefix(STAMP)?;
        let (sender, rest) = number(rest)?;
        let (n, rest) = number(rest.strip_prefix(b":")?)?;
        rest.starts_with(b":").then_some(Stamp { sender, n })
    }
}

/// The digits that `bytes` begin with, and what follows them.
pub fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = bytes[..digits]
        .iter()
        .try_fold(0u32, |value, byte| value.checked_mul(10)?.checked_add(u32::from(byte - b'0')))?;
    (digits > 0).then_some((value, &bytes[digits..]))
}

/// A message that is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub conversation: &'a str,
    /// The sender's messages are numbered 0, 1, 2 …; the answer must lead back to this number.
    pub n: u32,
    /// The text, which begins with its stamp and needs no escapes.
    pub text: &'a str,
}

/// A POST that creates a conversation where the socket cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The path.
    pub path: String,
    /// The JSON body.
    pub body: String,
    /// Where the answer has the new conversation's id: a JSON pointer.
    pub id: String,
}

/// What a system under load speaks over one WebSocket per user.
pub trait Dialect: Send + Sync {
    /// Path and headers of the upgrade that are particular to it: the path, then lines that end with CRLF.
    fn upgrade(&self, token: &str) -> (String, String);
    /// The text that logs in, sent right after the upgrade.
    fn login(&self, out: &mut Vec<u8>, token: &str);
    /// The text that asks for a conversation with these users, to be answered by [`Incoming::Created`].
    fn create(&self, out: &mut Vec<u8>, members: &[&str]);
    /// How a conversation is created instead, where the socket has no word for it.
    fn create_by_rest(&self, _members: &[&str]) -> Option<Rest> {
        None
    }
    /// The text that asks for the events of a conversation: those after `since`, or those that come.
    fn join(&self, out: &mut Vec<u8>, conversation: &str, since: Option<u32>);
    /// The text that sends a message.
    fn send(&self, out: &mut Vec<u8>, message: Outgoing<'_>);
    /// The text that answers a heartbeat.
    fn heartbeat(&self, out: &mut Vec<u8>);
    /// What one text says.
    fn parse<'a>(&self, text: &'a [u8]) -> Incoming<'a>;
    /// Whether senders see their own messages as events. Where they do not, seqs have holes that are no losses.
    fn echoes(&self) -> bool;
}

/// The dialects there are, besides files with the names of another system that speaks Socket.IO.
pub const NAMES: [&str; 2] = ["native", "socketio"];

/// The dialect of this name, or of this file.
pub fn by_name(name: &str) -> Result<Box<dyn Dialect>> {
    match name {
        "native" => Ok(Box::new(native::Native::new())),
        "socketio" => Ok(Box::new(socketio::SocketIo::chat())),
        file if file.ends_with(".toml") => Ok(Box::new(socketio::SocketIo::of_file(Path::new(file))?)),
        _ => bail!(
            "there is no dialect `{name}`; known: {}, or a .toml file like bench/socketio.toml",
            NAMES.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps() {
        assert_eq!(Stamp::parse(b"hb1:7:42: lorem"), Some(Stamp { sender: 7, n: 42 }));
        for text in ["", "hb1:", "hb1:7", "hb1:7:", "hb1:7:42", "hb1::42:", "hb1:99999999999:1:", "HB1:7:42:"] {
            assert_eq!(Stamp::parse(text.as_bytes()), None, "{text}");
        }
    }
}
