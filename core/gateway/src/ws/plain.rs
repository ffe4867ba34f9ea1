//! Messages as most clients write them, read in one pass.
//!
//! [`send`] takes the frames that every reader of JSON understands alike and whose form cannot be wrong: a `send` whose members
//! are texts without escapes, a whole number as `id`, and a body of such texts. Every other frame is left to serde, which also
//! says what is wrong with it. What is taken here is what serde would make of it.

use std::borrow::Cow;

use super::protocol::{Frame, ID_BYTES_MAX, Id, Text};
use crate::json::is_escaped;

/// Digits of a number that surely fits into 64 bits.
const DIGITS_MAX: usize = 19;

/// What stands in `d`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PlainMessage<'a> {
    pub content: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub reply_to_id: Option<&'a str>,
    pub forwarded_from_id: Option<&'a str>,
}

/// Reads such a frame; `None` for all others.
pub(super) fn send(json: &str) -> Option<Frame<'_>> {
    let mut reader = Reader { json, at: 0 };
    let mut frame = Frame::default();
    reader.object(|reader, name| match name {
        "t" => once(&mut frame.t, reader.text().filter(|name| *name == "send").map(text)),
        "id" if frame.id == Id::None => {
            frame.id = reader.id()?;
            Some(())
        }
        "c" => once(&mut frame.c, reader.text().map(text)),
        "to" => once(&mut frame.to, reader.text().map(text)),
        "n" => once(&mut frame.n, reader.text().map(text)),
        "k" => once(&mut frame.k, reader.text().map(text)),
        "d" => once(&mut frame.plain, reader.message()),
        _ => None,
    })?;
    (reader.at == json.len() && frame.t.is_some()).then_some(frame)
}

fn text(text: &str) -> Text<'_> {
    Text(Cow::Borrowed(text))
}

/// Sets what is not set yet.
fn once<T>(field: &mut Option<T>, value: Option<T>) -> Option<()> {
    if field.is_some() || value.is_none() {
        return None;
    }
    *field = value;
    Some(())
}

/// What is read next may have spaces before it; `None` ends the whole attempt.
struct Reader<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn object(&mut self, mut member: impl FnMut(&mut Self, &'a str) -> Option<()>) -> Option<()> {
        if self.next()? != b'{' {
            return None;
        }
        loop {
            let name = self.text()?;
            if self.next()? != b':' {
                return None;
            }
            member(self, name)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn message(&mut self) -> Option<PlainMessage<'a>> {
        let mut message = PlainMessage::default();
        self.object(|reader, name| match name {
            "content" => once(&mut message.content, reader.text()),
            "type" => once(&mut message.kind, reader.text()),
            "replyToId" => once(&mut message.reply_to_id, reader.text()),
            "forwardedFromId" => once(&mut message.forwarded_from_id, reader.text()),
            _ => None,
        })?;
        Some(message)
    }

    fn id(&mut self) -> Option<Id> {
        match self.next()? {
            b'"' => {
                let id = self.text_after_quote().filter(|id| id.len() <= ID_BYTES_MAX)?;
                Some(Id::Text(id.into()))
            }
            first @ b'1'..=b'9' => {
                let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit());
                let (number, more) = digits.fold((u64::from(first - b'0'), 0), |(number, more), digit| {
                    (number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')), more + 1)
                });
                self.at += more;
                (more < DIGITS_MAX).then_some(Id::Number(number))
            }
            _ => None,
        }
    }

    fn text(&mut self) -> Option<&'a str> {
        if self.next()? == b'"' { self.text_after_quote() } else { None }
    }

    fn text_after_quote(&mut self) -> Option<&'a str> {
        let (start, end) = (self.at, self.at + plain_bytes(self.rest()));
        self.at = end + 1;
        if self.json.as_bytes().get(end) == Some(&b'"') {
            self.json.get(start..end)
        } else {
            None
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        loop {
            let byte = *self.json.as_bytes().get(self.at)?;
            self.at += 1;
            if byte != b' ' {
                return Some(byte);
            }
        }
    }

    fn rest(&self) -> &'a [u8] {
        self.json.as_bytes().get(self.at..).unwrap_or_default()
    }
}

/// How many bytes stand before the first that [`is_escaped`], which the end of a text is as well; eight are looked at at once.
fn plain_bytes(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH: u64 = 0x80 * ONES;
    let (words, _) = text.as_chunks();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte that is below `n`; above the first such byte it may be set without a reason.
        let below = |word: u64, n: u64| word.wrapping_sub(n * ONES) & !word & HIGH;
        let equal = |byte: u8| below(word ^ (u64::from(byte) * ONES), 1);
        let found = below(word, 0x20) | equal(b'"') | equal(b'\\');
        if found != 0 {
            return 8 * index + found.trailing_zeros() as usize / 8;
        }
    }
    let whole = 8 * words.len();
    whole + text[whole..].iter().position(|byte| is_escaped(*byte)).unwrap_or(text.len() - whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_and_left() {
        let taken = [
            r#"{"t":"send","id":1,"c":"0123","d":{"content":"hi"}}"#,
            r#"{ "d": {"type": "x", "content": "a 'b' é \u007f", "replyToId": "", "forwardedFromId": "1"}, "id": "x", "to":"bob", "k": "1", "n": "t", "t": "send" }"#,
            r#"{"t":"send"}"#,
            r#"{"t":"send","id":9999999999999999999}"#,
        ];
        for json in taken {
            let json = json.replace(r"\u007f", "\u{7f}");
            assert!(send(&json).is_some(), "{json}");
        }
        let left = [
            "",
            "{",
            "{}",
            "[]",
            r#"{"t":"read"}"#,
            r#"{"id":1}"#,
            r#"{"t":"send","t":"send"}"#,
            r#"{"t":"send","id":1,"id":2}"#,
            r#"{"t":"send","id":0}"#,
            r#"{"t":"send","id":01}"#,
            r#"{"t":"send","id":-1}"#,
            r#"{"t":"send","id":1.5}"#,
            r#"{"t":"send","id":1e5}"#,
            r#"{"t":"send","id":10000000000000000000}"#,
            r#"{"t":"send","id":null}"#,
            r#"{"t":"send","k":"a\n"}"#,
            "{\"t\":\"send\",\"k\":\"a\n\"}",
            r#"{"t":"send","k":"a}"#,
            r#"{"t":"send","k":"a" }x"#,
            r#"{"t":"send","k":"a",}"#,
            r#"{"t":"send" "k":"a"}"#,
            r#"{"t":"send","unknown":"a"}"#,
            r#"{"t":"send","d":{}}"#,
            r#"{"t":"send","d":"text"}"#,
            r#"{"t":"send","d":{"content":"a","metadata":{}}}"#,
            r#"{"t":"send","d":{"content":"a","content":"b"}}"#,
            r#"{"t":"send","d":{"content":null}}"#,
        ];
        for json in left {
            assert!(send(json).is_none(), "{json}");
        }
        let long = "i".repeat(ID_BYTES_MAX + 1);
        assert!(send(&format!(r#"{{"t":"send","id":"{long}"}}"#)).is_none());
    }

    /// Wherever the byte stands, and whatever stands beside it.
    #[test]
    fn the_first_byte_that_ends_a_text_is_found() {
        for len in 0..40 {
            for around in [b'a', 0x21, 0x23, 0x5b, 0x5d, 0x7f, 0x80, 0xff] {
                let mut text = vec![around; len];
                assert_eq!(plain_bytes(&text), len);
                for at in (0..len).rev() {
                    for end in [0, 0x1f, b'"', b'\\'] {
                        text[at] = end;
                        assert_eq!(plain_bytes(&text), at, "{text:?}");
                    }
                }
            }
        }
    }
}
