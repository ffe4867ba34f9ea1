//! WebSocket framing of a client, as little of it as a load generator needs.
//!
//! Frames are masked with the key 0, which is legal and leaves the payload as it is.

use std::ops::Range;

/// First byte, length of a short frame, mask.
const HEADER_BYTES: usize = 2 + 4;
/// What a length above 125 takes on top.
const LENGTH16_BYTES: usize = 2;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Text or binary; where its payload is.
    Data(Range<usize>),
    /// To be answered with the same payload.
    Ping(Range<usize>),
    /// Nothing to do.
    Pong,
    /// The server ends the connection, with this code.
    Close(Option<u16>),
}

/// Bytes that no server of ours sends.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Appends one text frame whose payload `write` appends.
pub fn text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    frame(out, TEXT, write);
}

/// Appends the answer to a ping.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    frame(out, PONG, |out| out.extend_from_slice(payload));
}

fn frame(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    // Most frames are longer than 125 bytes; of the others the payload moves two bytes down.
    out.resize(start + HEADER_BYTES + LENGTH16_BYTES, 0);
    let body = out.len();
    write(out);
    let bytes = out.len() - body;
    out[start] = 0x80 | opcode;
    if bytes < 126 {
        out[start + 1] = 0x80 | bytes as u8;
        out.copy_within(body.., body - LENGTH16_BYTES);
        out.truncate(body - LENGTH16_BYTES + bytes);
        out[start + 2..start + 6].fill(0);
    } else {
        let bytes = u16::try_from(bytes).expect("a load generator sends no message above 64 KiB");
        out[start + 1] = 0x80 | 126;
        out[start + 2..start + 4].copy_from_slice(&bytes.to_be_bytes());
    }
}

/// Takes the frame that begins at `at`, which moves behind it; `None` when it is not complete.
pub fn next(input: &[u8], at: &mut usize) -> Result<Option<Frame>, Malformed> {
    let rest = &input[*at..];
    let [first, second, ..] = *rest else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err(Malformed("a masked frame"));
    }
    let (header, bytes) = match second {
        126 if rest.len() >= 4 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
        127 if rest.len() >= 10 => (10, u64::from_be_bytes(rest[2..10].try_into().expect("eight bytes")) as usize),
        126 | 127 => return Ok(None),
        bytes => (2, usize::from(bytes)),
    };
    if rest.len() - header < bytes {
        return Ok(None);
    }
    let payload = *at + header..*at + header + bytes;
    let code = || (bytes >= 2).then(|| u16::from_be_bytes([input[payload.start], input[payload.start + 1]]));
    let frame = match first {
        _ if first == 0x80 | TEXT || first == 0x80 | BINARY => Frame::Data(payload.clone()),
        _ if first == 0x80 | PING => Frame::Ping(payload.clone()),
        _ if first == 0x80 | PONG => Frame::Pong,
        _ if first == 0x80 | CLOSE => Frame::Close(code()),
        _ if first & 0x80 == 0 || first & 0x0f == 0 => return Err(Malformed("a fragmented message")),
        _ => return Err(Malformed("an unknown opcode")),
    };
    *at = payload.end;
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_sent(payload: &str, header: &[u8]) {
        let mut out = b"before".to_vec();
        text(&mut out, |out| out.extend_from_slice(payload.as_bytes()));
        assert_eq!(&out[6..6 + header.len()], header);
        assert_eq!(&out[6 + header.len()..], payload.as_bytes());
    }

    #[test]
    fn frames_are_masked_with_zero_and_as_short_as_they_can_be() {
        check_sent("", &[0x81, 0x80, 0, 0, 0, 0]);
        check_sent("{}", &[0x81, 0x82, 0, 0, 0, 0]);
        check_sent(&"x".repeat(125), &[0x81, 0xfd, 0, 0, 0, 0]);
        check_sent(&"x".repeat(126), &[0x81, 0xfe, 0, 126, 0, 0, 0, 0]);
        check_sent(&"x".repeat(60_000), &[0x81, 0xfe, 0xea, 0x60, 0, 0, 0, 0]);
    }

    #[test]
    fn frames_of_a_server_are_taken_one_by_one() {
        let mut input = vec![0x81, 2, b'{', b'}', 0x81, 126, 0, 200];
        input.extend([b'x'; 200]);
        input.extend([0x89, 1, b'p', 0x8a, 0, 0x88, 2, 0x0f, 0xa1, 0x81]);
        let mut at = 0;
        let mut take = || next(&input, &mut at).unwrap();
        assert_eq!(take(), Some(Frame::Data(2..4)));
        assert_eq!(take(), Some(Frame::Data(8..208)));
        assert_eq!(take(), Some(Frame::Ping(210..211)));
        assert_eq!(take(), Some(Frame::Pong));
        assert_eq!(take(), Some(Frame::Close(Some(4001))));
        assert_eq!(take(), None, "the last one is not complete");
        assert_eq!(at, 217);
    }

    #[test]
    fn what_is_cut_short_waits() {
        let mut whole = vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70];
        whole.extend([b'x'; 70_000]);
        for cut in [0, 1, 2, 9, 10, 70_009] {
            let mut at = 0;
            assert_eq!(next(&whole[..cut], &mut at), Ok(None), "{cut}");
            assert_eq!(at, 0);
        }
        assert_eq!(next(&whole, &mut 0), Ok(Some(Frame::Data(10..70_010))));
    }

    #[test]
    fn what_we_cannot_read_is_an_error() {
        assert!(next(&[0x81, 0x82, 0, 0, 0, 0], &mut 0).is_err());
        assert!(next(&[0x01, 0], &mut 0).is_err());
        assert!(next(&[0x80, 0], &mut 0).is_err());
        assert!(next(&[0x83, 0], &mut 0).is_err());
    }
}
