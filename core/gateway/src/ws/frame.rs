//! RFC 6455 frames: a reader that may be stopped and continued at any byte, and the encoding of what a server sends.
//!
//! The [`Reader`] owns no socket. It is handed what has arrived and lends out whole messages; between two calls it keeps only
//! the bytes of an unfinished message, so an idle connection holds nothing.

use std::cell::RefCell;

use bytes::Bytes;

/// Payload of a control frame, as the RFC fixes it.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;
/// Longest header of a frame from a client: 2 bytes, 8 of length, 4 of mask.
#[cfg(test)]
const HEADER_BYTES_MAX: usize = 14;
/// What a thread keeps to encode frames in.
const SCRATCH_BYTES_KEPT: usize = 16 * 1024;
/// The first growth of the buffer for an unfinished frame.
const HELD_BYTES_MIN: usize = 512;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// Close codes of the RFC that this module itself sends.
pub(crate) mod code {
    /// The frame breaks the RFC.
    pub const PROTOCOL: u16 = 1002;
    /// A kind of data that this endpoint does not take.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID: u16 = 1007;
    /// Larger than allowed.
    pub const TOO_BIG: u16 = 1009;
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// A whole text message, checked to be UTF-8.
    Text(&'a str),
    /// A whole binary message; only from a reader that takes them.
    Binary(&'a [u8]),
    /// To be answered by a pong with the same bytes.
    Ping(&'a [u8]),
    /// Nothing to do.
    Pong,
    /// The peer is done; its code is to be echoed.
    Close(Option<u16>),
}

/// Why a connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The close code.
    pub code: u16,
    /// One line for the close frame.
    pub reason: &'static str,
}

const fn protocol(reason: &'static str) -> Violation {
    Violation {
        code: code::PROTOCOL,
        reason,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A header that stands whole at the start of some bytes.
struct Header {
    fin: bool,
    opcode: Opcode,
    mask: [u8; 4],
    bytes: usize,
    payload: usize,
}

enum Parsed {
    Whole(Header),
    /// So many bytes, counted from the frame's first, are needed to know more.
    Needs(usize),
}

/// Where a whole frame lies.
enum Place {
    Held,
    Input,
}

/// Takes bytes apart into messages; see the module.
#[derive(Default)]
pub(crate) struct Reader {
    /// Bytes that arrived but are not yet delivered; `start` is the first of them.
    held: Vec<u8>,
    start: usize,
    /// The fragments so far of an open message, or the whole message that was lent out last.
    message: Vec<u8>,
    fragments: u32,
    message_is_lent: bool,
    /// The open message is binary.
    message_is_binary: bool,
    takes_binary: bool,
    bytes_max: usize,
    fragments_max: u32,
}

impl Reader {
    /// A reader that refuses messages above `bytes_max` or of more than `fragments_max` fragments.
    pub fn new(bytes_max: usize, fragments_max: usize) -> Reader {
        Reader {
            bytes_max,
            fragments_max: u32::try_from(fragments_max).unwrap_or(u32::MAX),
            ..Reader::default()
        }
    }

    /// The same reader, which also takes binary messages.
    pub fn with_binary(self) -> Reader {
        Reader { takes_binary: true, ..self }
    }

    /// Changes the limit for the frames to come.
    pub fn set_limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Keeps bytes for a later call of [`Reader::next`].
    pub fn hold(&mut self, bytes: &[u8]) {
        self.compact();
        self.held.extend_from_slice(bytes);
    }

    /// The next message out of what is held and `input`, of which `used` bytes are consumed already and more are by this call.
    /// `None`: everything is consumed and no message is whole. After an error the connection is to be closed.
    pub fn next<'a>(&'a mut self, input: &'a mut [u8], used: &mut usize) -> Result<Option<Message<'a>>, Violation> {
        self.release_lent();
        loop {
            let Some((place, header)) = self.whole_frame(input, used)? else {
                return Ok(None);
            };
            let frame = header.bytes + header.payload;
            let (bytes, at) = match place {
                Place::Held => (&mut self.held, &mut self.start),
                // A reborrow that ends with this turn of the loop, unless it is what is returned below.
                Place::Input if matches!(header.opcode, Opcode::Text | Opcode::Binary) && header.fin => {
                    let payload = &mut input[*used + header.bytes..*used + frame];
                    *used += frame;
                    fastwebsockets::unmask(payload, header.mask);
                    return message(payload, header.opcode == Opcode::Binary).map(Some);
                }
                Place::Input => {
                    // Rare frames (control, fragments) take the way through `held`, which keeps the code below single.
                    self.held.extend_from_slice(&input[*used..*used + frame]);
                    *used += frame;
                    (&mut self.held, &mut self.start)
                }
            };
            let range = *at + header.bytes..*at + frame;
            *at += frame;
            fastwebsockets::unmask(&mut bytes[range.clone()], header.mask);
            match header.opcode {
                Opcode::Ping => return Ok(Some(Message::Ping(&self.held[range]))),
                Opcode::Pong => return Ok(Some(Message::Pong)),
                Opcode::Close => return close_of(&self.held[range]).map(|code| Some(Message::Close(code))),
                Opcode::Text | Opcode::Binary if header.fin => {
                    return message(&self.held[range], header.opcode == Opcode::Binary).map(Some);
                }
                Opcode::Text | Opcode::Binary | Opcode::Continuation => {
                    if self.fragments >= self.fragments_max {
                        return Err(Violation {
                            code: code::TOO_BIG,
                            reason: "too many fragments",
                        });
                    }
                    if self.fragments == 0 {
                        self.message_is_binary = header.opcode == Opcode::Binary;
                    }
                    self.fragments += 1;
                    self.message.extend_from_slice(&self.held[range]);
                    if header.fin {
                        self.fragments = 0;
                        self.message_is_lent = true;
                        return message(&self.message, self.message_is_binary).map(Some);
                    }
                    self.compact();
                }
            }
        }
    }

    /// Finds a whole frame at the front, moving input behind what is held where that is needed to complete one.
    fn whole_frame(&mut self, input: &[u8], used: &mut usize) -> Result<Option<(Place, Header)>, Violation> {
        if self.start == self.held.len() {
            let rest = &input[*used..];
            if let Parsed::Whole(header) = self.parse(rest)?
                && rest.len() >= header.bytes + header.payload
            {
                return Ok(Some((Place::Input, header)));
            }
        }
        loop {
            let have = self.held.len() - self.start;
            let needs = match self.parse(&self.held[self.start..])? {
                Parsed::Whole(header) if have >= header.bytes + header.payload => return Ok(Some((Place::Held, header))),
                Parsed::Whole(header) => header.bytes + header.payload,
                Parsed::Needs(needs) => needs,
            };
            let more = (needs - have).min(input.len() - *used);
            if more == 0 {
                return Ok(None);
            }
            self.compact();
            self.grow(more, needs);
            self.held.extend_from_slice(&input[*used..*used + more]);
            *used += more;
        }
    }

    /// Makes room for `more` bytes of a frame of `needs` bytes: by doubling, so that memory follows what has really arrived and
    /// not what a header claims.
    fn grow(&mut self, more: usize, needs: usize) {
        let len = self.held.len();
        if self.held.capacity() - len < more {
            let wish = needs.min((2 * len).max(HELD_BYTES_MIN));
            self.held.reserve_exact(wish.saturating_sub(len).max(more));
        }
    }

    /// Forgets what is delivered.
    fn compact(&mut self) {
        if self.start == self.held.len() {
            self.held.clear();
        } else {
            self.held.drain(..self.start);
        }
        self.start = 0;
    }

    /// Gives back the memory of what was lent out by the last call.
    fn release_lent(&mut self) {
        if self.message_is_lent {
            self.message = Vec::new();
            self.message_is_lent = false;
        }
        if self.start == self.held.len() && self.held.capacity() > 0 {
            self.held = Vec::new();
            self.start = 0;
        }
    }

    /// Reads the header at the start of `bytes`, refusing it as early as possible.
    fn parse(&self, bytes: &[u8]) -> Result<Parsed, Violation> {
        let Some(&first) = bytes.first() else { return Ok(Parsed::Needs(2)) };
        let fin = first & FIN != 0;
        let opcode = self.opcode(first, fin)?;
        let Some(&second) = bytes.get(1) else { return Ok(Parsed::Needs(2)) };
        if second & MASKED == 0 {
            return Err(protocol("client frames must be masked"));
        }
        let short = usize::from(second & !MASKED);
        if opcode.is_control() && short > CONTROL_BYTES_MAX {
            return Err(protocol("control frame above 125 bytes"));
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some(length) = bytes.get(2..2 + extended) else {
            return Ok(Parsed::Needs(2 + extended + 4));
        };
        let payload = payload_length(short, length)?;
        if !opcode.is_control() && payload.saturating_add(self.message.len() as u64) > self.bytes_max as u64 {
            return Err(Violation {
                code: code::TOO_BIG,
                reason: "message too big",
            });
        }
        let bytes_of_header = 2 + extended + 4;
        let Some(mask) = bytes.get(2 + extended..bytes_of_header) else {
            return Ok(Parsed::Needs(bytes_of_header));
        };
        let mask = mask.try_into().expect("a slice of four bytes");
        Ok(Parsed::Whole(Header {
            fin,
            opcode,
            mask,
            bytes: bytes_of_header,
            payload: payload as usize,
        }))
    }

    fn opcode(&self, first: u8, fin: bool) -> Result<Opcode, Violation> {
        if first & RESERVED != 0 {
            return Err(protocol("reserved bits are set"));
        }
        let open = self.fragments > 0;
        match first & 0x0f {
            0x0 if open => Ok(Opcode::Continuation),
            0x0 => Err(protocol("continuation of nothing")),
            0x1 | 0x2 if open => Err(protocol("new message inside a fragmented one")),
            0x1 => Ok(Opcode::Text),
            0x2 if self.takes_binary => Ok(Opcode::Binary),
            0x2 => Err(Violation {
                code: code::UNSUPPORTED,
                reason: "binary messages are not supported",
            }),
            0x8..=0xa if !fin => Err(protocol("fragmented control frame")),
            0x8 => Ok(Opcode::Close),
            0x9 => Ok(Opcode::Ping),
            0xa => Ok(Opcode::Pong),
            _ => Err(protocol("unknown opcode")),
        }
    }
}

/// The payload's length, which must use the shortest form and leave the top bit clear.
fn payload_length(short: usize, extended: &[u8]) -> Result<u64, Violation> {
    let length = extended.iter().fold(0, |length, &byte| length << 8 | u64::from(byte));
    match short {
        126 if length < 126 => Err(protocol("length is not in its shortest form")),
        127 if length >> 63 != 0 => Err(protocol("length above 2^63")),
        127 if length <= 0xffff => Err(protocol("length is not in its shortest form")),
        126 | 127 => Ok(length),
        short => Ok(short as u64),
    }
}

fn message(bytes: &[u8], is_binary: bool) -> Result<Message<'_>, Violation> {
    if is_binary { Ok(Message::Binary(bytes)) } else { text(bytes) }
}

fn text(bytes: &[u8]) -> Result<Message<'_>, Violation> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Message::Text(text)),
        Err(_) => Err(Violation {
            code: code::INVALID,
            reason: "text is not UTF-8",
        }),
    }
}

/// The code of a close frame's payload.
fn close_of(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(protocol("close payload of one byte")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(protocol("close code is not allowed"));
    }
    text(reason).map(|_| Some(code))
}

/// Appends a text frame whose payload `write` appends.
pub(crate) fn append_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    append_message(out, 0x1, write);
}

/// Appends a binary frame.
pub(crate) fn append_binary(out: &mut Vec<u8>, payload: &[u8]) {
    append_message(out, 0x2, |out| out.extend_from_slice(payload));
}

fn append_message(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) {
    const ROOM: usize = 4; // The usual header of a JSON frame; shorter and longer ones move the payload.
    let start = out.len();
    out.extend_from_slice(&[0; ROOM]);
    write(out);
    let payload = out.len() - start - ROOM;
    let (header, bytes) = message_header(opcode, payload);
    let header = &header[..bytes];
    if bytes < ROOM {
        out.copy_within(start + ROOM.., start + bytes);
        out.truncate(start + bytes + payload);
    } else if bytes > ROOM {
        out.splice(start..start, std::iter::repeat_n(0, bytes - ROOM));
    }
    out[start..start + bytes].copy_from_slice(header);
}

/// The messages in frames that this module has encoded: whether one is binary, and its payload's place.
pub(crate) fn encoded_messages(frames: &[u8]) -> impl Iterator<Item = (bool, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = frames.get(at..)?;
        let (bytes, payload) = match header.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)).ok()?),
            short => (2, usize::from(*short)),
        };
        let start = at + bytes;
        at = start + payload;
        Some((header[0] & 0x0f == 0x2, start..at))
    })
}

/// A text frame of its own, to be shared by many connections.
pub(crate) fn text_frame(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.shrink_to(SCRATCH_BYTES_KEPT);
        append_text(scratch, write);
        Bytes::copy_from_slice(scratch) // No larger than it must be: it may live as long as the slowest reader.
    })
}

/// Appends a pong.
pub(crate) fn append_pong(out: &mut Vec<u8>, payload: &[u8]) {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    out.extend_from_slice(&[FIN | 0xa, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// Appends a close frame; a code of `None` has no payload.
pub(crate) fn append_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return out.extend_from_slice(&[FIN | 0x8, 0]);
    };
    let reason = &reason.as_bytes()[..reason.len().min(CONTROL_BYTES_MAX - 2)];
    out.extend_from_slice(&[FIN | 0x8, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
}

fn message_header(opcode: u8, payload: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | opcode;
    let bytes = match payload {
        0..126 => {
            header[1] = payload as u8;
            2
        }
        126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    (header, bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    const LIMIT: usize = 70_000;
    const FRAGMENTS_MAX: usize = 1_024;

    /// A client's frame: first byte as given, masked, with the shortest length.
    pub(in crate::ws) fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let (header, bytes) = message_header(0x1, payload.len());
        let mut frame = header[..bytes].to_vec();
        frame[0] = first;
        frame[1] |= MASKED;
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// What came out, owned.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Seen {
        Text(String),
        Ping(Vec<u8>),
        Pong,
        Close(Option<u16>),
        Violation(u16),
    }

    fn read_pieces<'a>(limit: usize, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Seen>, Reader) {
        let mut reader = Reader::new(limit, FRAGMENTS_MAX);
        let mut seen = Vec::new();
        'pieces: for piece in pieces {
            let mut piece = piece.to_vec();
            let mut used = 0;
            loop {
                let next = match reader.next(&mut piece, &mut used) {
                    Ok(None) => break,
                    Ok(Some(Message::Text(text))) => Seen::Text(text.into()),
                    Ok(Some(Message::Binary(_))) => panic!("this reader does not take binary messages"),
                    Ok(Some(Message::Ping(bytes))) => Seen::Ping(bytes.into()),
                    Ok(Some(Message::Pong)) => Seen::Pong,
                    Ok(Some(Message::Close(code))) => Seen::Close(code),
                    Err(violation) => {
                        seen.push(Seen::Violation(violation.code));
                        break 'pieces;
                    }
                };
                seen.push(next);
            }
            assert_eq!(used, piece.len(), "all input is consumed");
        }
        (seen, reader)
    }

    /// Reads whole, and cut in two at every byte, and byte by byte: always the same.
    #[track_caller]
    fn check(bytes: &[u8], expect: &[Seen]) {
        assert_eq!(read_pieces(LIMIT, [bytes].into_iter()).0, expect, "in one piece");
        assert_eq!(read_pieces(LIMIT, bytes.chunks(1)).0, expect, "byte by byte");
        let cuts: Box<dyn Iterator<Item = usize>> = if bytes.len() < 2_000 {
            Box::new(0..bytes.len())
        } else {
            Box::new((0..bytes.len()).step_by(997))
        };
        for cut in cuts {
            let (a, b) = bytes.split_at(cut);
            assert_eq!(read_pieces(LIMIT, [a, b].into_iter()).0, expect, "cut at {cut}");
        }
    }

    fn text_seen(text: &str) -> Seen {
        Seen::Text(text.into())
    }

    #[test]
    fn whole_messages_of_every_length_form() {
        for length in [0, 1, 5, 125, 126, 127, 65_535, 65_536, LIMIT] {
            let text = "x".repeat(length);
            check(&client_frame(0x81, text.as_bytes()), &[text_seen(&text)]);
        }
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let mut bytes = client_frame(0x01, "grü".as_bytes());
        bytes.extend(client_frame(0x89, b"p"));
        bytes.extend(client_frame(0x00, b""));
        bytes.extend(client_frame(0x8a, b""));
        bytes.extend(client_frame(0x80, "ße".as_bytes()));
        bytes.extend(client_frame(0x81, b"next"));
        bytes.extend(client_frame(0x88, &[0x03, 0xe8, b'o', b'k']));
        check(
            &bytes,
            &[
                Seen::Ping(b"p".to_vec()),
                Seen::Pong,
                text_seen("grüße"),
                text_seen("next"),
                Seen::Close(Some(1000)),
            ],
        );
    }

    #[test]
    fn a_character_may_be_split_over_fragments() {
        let snowman = "☃".as_bytes();
        let mut bytes = client_frame(0x01, &snowman[..1]);
        bytes.extend(client_frame(0x80, &snowman[1..]));
        check(&bytes, &[text_seen("☃")]);
    }

    fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first, payload.len() as u8];
        frame.extend_from_slice(payload);
        frame
    }

    fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
        frames.concat()
    }

    #[test]
    fn violations_have_their_code() {
        let long = vec![b'x'; LIMIT];
        let table: Vec<(&str, u16, Vec<u8>)> = vec![
            ("unmasked text", 1002, unmasked(0x81, b"hi")),
            ("unmasked close", 1002, unmasked(0x88, b"")),
            ("RSV1", 1002, client_frame(0xc1, b"hi")),
            ("RSV2", 1002, client_frame(0xa1, b"hi")),
            ("RSV3", 1002, client_frame(0x91, b"hi")),
            ("opcode 3", 1002, client_frame(0x83, b"hi")),
            ("opcode 7", 1002, client_frame(0x87, b"")),
            ("opcode 11", 1002, client_frame(0x8b, b"")),
            ("opcode 15", 1002, client_frame(0x8f, b"")),
            ("binary", 1003, client_frame(0x82, b"hi")),
            ("first fragment of binary", 1003, client_frame(0x02, b"hi")),
            ("ping of 126", 1002, client_frame(0x89, &[0; 126])),
            ("pong of 126", 1002, client_frame(0x8a, &[0; 126])),
            ("close of 126", 1002, client_frame(0x88, &[0; 126])),
            ("ping of 64 KiB", 1002, client_frame(0x89, &[0; 65_536])),
            ("fragmented ping", 1002, client_frame(0x09, b"")),
            ("fragmented close", 1002, client_frame(0x08, b"")),
            ("continuation of nothing", 1002, client_frame(0x80, b"hi")),
            (
                "text inside a fragmented message",
                1002,
                joined(&[client_frame(0x01, b"a"), client_frame(0x81, b"b")]),
            ),
            (
                "binary inside a fragmented message",
                1002,
                joined(&[client_frame(0x01, b"a"), client_frame(0x82, b"b")]),
            ),
            (
                "64-bit length with the top bit",
                1002,
                vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
            ),
            (
                "64-bit length of 2^63-1",
                1009,
                vec![0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4],
            ),
            (
                "64-bit length of 65,535",
                1002,
                vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1, 2, 3, 4],
            ),
            ("16-bit length of 125", 1002, vec![0x81, 0xfe, 0, 125, 1, 2, 3, 4]),
            ("above the limit", 1009, client_frame(0x81, &[b'x'; LIMIT + 1])),
            (
                "fragments above the limit",
                1009,
                joined(&[client_frame(0x01, &long), client_frame(0x80, b"x")]),
            ),
            ("text that is not UTF-8", 1007, client_frame(0x81, &[0xff])),
            ("a surrogate", 1007, client_frame(0x81, &[0xed, 0xa0, 0x80])),
            ("an overlong form", 1007, client_frame(0x81, &[0xc0, 0xaf])),
            ("text that ends inside a character", 1007, client_frame(0x81, &"☃".as_bytes()[..2])),
            (
                "fragments that end inside a character",
                1007,
                joined(&[client_frame(0x01, b"a"), client_frame(0x80, &"☃".as_bytes()[..2])]),
            ),
            ("close of one byte", 1002, client_frame(0x88, &[3])),
            ("close with code 999", 1002, client_frame(0x88, &999u16.to_be_bytes())),
            ("close with code 1004", 1002, client_frame(0x88, &1004u16.to_be_bytes())),
            ("close with code 1005", 1002, client_frame(0x88, &1005u16.to_be_bytes())),
            ("close with code 1006", 1002, client_frame(0x88, &1006u16.to_be_bytes())),
            ("close with code 1015", 1002, client_frame(0x88, &1015u16.to_be_bytes())),
            ("close with code 2999", 1002, client_frame(0x88, &2999u16.to_be_bytes())),
            ("close with code 5000", 1002, client_frame(0x88, &5000u16.to_be_bytes())),
            ("close with a reason that is not UTF-8", 1007, client_frame(0x88, &[0x03, 0xe8, 0xff])),
        ];
        for (name, code, bytes) in table {
            let (seen, _) = read_pieces(LIMIT, [&*bytes].into_iter());
            assert_eq!(seen, [Seen::Violation(code)], "{name}");
            check(&bytes, &[Seen::Violation(code)]);
        }
    }

    #[test]
    fn endless_fragments_end() {
        let mut bytes = client_frame(0x01, b"");
        (0..FRAGMENTS_MAX - 1).for_each(|_| bytes.extend(client_frame(0x00, b"")));
        assert_eq!(read_pieces(LIMIT, bytes.chunks(100)).0, []);
        bytes.extend(client_frame(0x00, b""));
        assert_eq!(read_pieces(LIMIT, bytes.chunks(100)).0, [Seen::Violation(code::TOO_BIG)]);
    }

    #[test]
    fn a_claimed_length_reserves_no_memory() {
        let header = &client_frame(0x81, &[b'x'; LIMIT])[..HEADER_BYTES_MAX];
        let (seen, reader) = read_pieces(LIMIT, [header].into_iter());
        assert_eq!(seen, []);
        assert!(reader.held.capacity() <= HELD_BYTES_MIN, "{}", reader.held.capacity());
    }

    #[test]
    fn an_idle_reader_holds_nothing() {
        let mut bytes = client_frame(0x01, &[b'x'; 40_000]);
        bytes.extend(client_frame(0x80, b"y"));
        bytes.extend(client_frame(0x89, b"ping"));
        for size in [1, 7, 50_000] {
            let (_, reader) = read_pieces(LIMIT, bytes.chunks(size));
            assert_eq!((reader.held.capacity(), reader.message.capacity()), (0, 0), "pieces of {size}");
        }
    }

    #[test]
    fn what_is_held_comes_before_new_input() {
        let mut reader = Reader::new(LIMIT, FRAGMENTS_MAX);
        let bytes = joined(&[client_frame(0x81, b"1"), client_frame(0x81, b"2"), client_frame(0x81, b"3")]);
        reader.hold(&bytes[..10]);
        let mut rest = bytes[10..].to_vec();
        let mut used = 0;
        let mut seen = String::new();
        while let Some(Message::Text(text)) = reader.next(&mut rest, &mut used).unwrap() {
            seen.push_str(text);
        }
        assert_eq!((seen.as_str(), reader.held.len()), ("123", reader.start));
    }

    #[test]
    fn the_limit_may_change_between_messages() {
        let mut reader = Reader::new(4, FRAGMENTS_MAX);
        let mut bytes = joined(&[client_frame(0x81, b"auth"), client_frame(0x81, b"a longer one")]);
        let mut used = 0;
        assert_eq!(reader.next(&mut bytes, &mut used), Ok(Some(Message::Text("auth"))));
        reader.set_limit(100);
        assert_eq!(reader.next(&mut bytes, &mut used), Ok(Some(Message::Text("a longer one"))));
    }

    #[test]
    fn written_frames_have_the_right_header() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let mut out = b"before".to_vec();
            append_text(&mut out, |out| out.extend(std::iter::repeat_n(b'j', length)));
            let (header, bytes) = message_header(0x1, length);
            assert_eq!(&out[..6], b"before");
            assert_eq!(&out[6..6 + bytes], &header[..bytes], "{length}");
            assert_eq!(out.len(), 6 + bytes + length);
            assert!(out[6 + bytes..].iter().all(|byte| *byte == b'j'), "{length}");
        }
    }

    #[test]
    fn close_frames_stay_control_frames() {
        let mut out = Vec::new();
        append_close(&mut out, Some(4008), &"r".repeat(300));
        assert_eq!((out[0], usize::from(out[1]), out.len()), (0x88, CONTROL_BYTES_MAX, 2 + CONTROL_BYTES_MAX));
        out.clear();
        append_close(&mut out, None, "");
        assert_eq!(out, [0x88, 0]);
    }

    /// Random messages, cut into random fragments with control frames between them, arriving in random pieces.
    #[test]
    fn random_fragments_in_random_pieces_come_back_whole() {
        for seed in 1..400u64 {
            let mut random = Random(seed);
            let mut bytes = Vec::new();
            let mut expect = Vec::new();
            for _ in 0..1 + random.below(5) {
                let text: String = (0..random.below(300)).map(|_| ['a', 'ß', '☃', '😀'][random.below(4)]).collect();
                let mut rest = text.as_bytes();
                let mut first = 0x01;
                while random.below(4) > 0 && first != 0xff {
                    let (piece, after) = rest.split_at(random.below(rest.len() + 1));
                    bytes.extend(client_frame(first, piece));
                    (rest, first) = (after, 0x00);
                    if random.below(3) == 0 {
                        bytes.extend(client_frame(0x89, piece.get(..2).unwrap_or_default()));
                        expect.push(Seen::Ping(piece.get(..2).unwrap_or_default().to_vec()));
                    }
                }
                bytes.extend(client_frame(0x80 | first, rest));
                expect.push(Seen::Text(text));
            }
            let mut pieces = Vec::new();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(1 + random.below(rest.len().min(200)));
                pieces.push(piece);
                rest = after;
            }
            assert_eq!(read_pieces(LIMIT, pieces.into_iter()).0, expect, "seed {seed}");
        }
    }

    /// Random bytes never panic and never make it keep more than the limit.
    #[test]
    fn noise_is_refused_or_held_within_the_limit() {
        for seed in 1..2_000u64 {
            let mut random = Random(seed);
            let mut noise: Vec<u8> = (0..random.below(400)).map(|_| random.below(256) as u8).collect();
            if let [first, second, ..] = &mut *noise {
                (*first, *second) = (0x81 & *first | 0x01, *second | MASKED);
            }
            let (_, reader) = read_pieces(300, noise.chunks(1 + random.below(50)));
            assert!(reader.held.len() <= 300 + HEADER_BYTES_MAX && reader.message.len() <= 300, "seed {seed}");
        }
    }

    #[test]
    fn binary_messages_are_taken_by_who_asks_for_them() {
        let mut reader = Reader::new(LIMIT, FRAGMENTS_MAX).with_binary();
        reader.hold(&client_frame(0x82, &[0, 159, 146]));
        reader.hold(&client_frame(0x02, b"a\xff"));
        reader.hold(&client_frame(0x80, b"b"));
        reader.hold(&client_frame(0x81, b"t"));
        assert_eq!(reader.next(&mut [], &mut 0), Ok(Some(Message::Binary(&[0, 159, 146]))));
        assert_eq!(reader.next(&mut [], &mut 0), Ok(Some(Message::Binary(b"a\xffb"))));
        assert_eq!(reader.next(&mut [], &mut 0), Ok(Some(Message::Text("t"))));
    }

    #[test]
    fn what_was_encoded_is_found_again() {
        let mut out = Vec::new();
        let sizes = [0, 1, 125, 126, 65_535, 65_536];
        for size in sizes {
            append_text(&mut out, |out| out.extend(std::iter::repeat_n(b'x', size)));
            append_binary(&mut out, &vec![7; size]);
        }
        let found: Vec<_> = encoded_messages(&out).map(|(binary, place)| (binary, out[place].to_vec())).collect();
        let expect: Vec<_> = sizes
            .iter()
            .flat_map(|&size| [(false, vec![b'x'; size]), (true, vec![7; size])])
            .collect();
        assert!(found == expect);
    }

    /// A small generator, so that a failing seed can be run again.
    pub(crate) struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % n.max(1)
        }
    }
}
