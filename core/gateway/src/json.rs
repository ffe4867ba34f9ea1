//! JSON for clients, written to the end of a buffer.
//!
//! Most of it is text that needs no escaping: ids, times, names, what people write. serde_json looks at each of its bytes alone;
//! here they are looked at many at a time, and what does need escaping is left to serde_json, as are floats.

use std::{
    fmt::{self, Display},
    io::Write,
};

use serde::{
    Serialize, Serializer,
    ser::{self, Error as _},
};
use serde_json::Error;

/// By this name `serde_json::value::RawValue` asks for its text to be taken as it is.
const RAW_VALUE: &str = "$serde_json::private::RawValue";

/// Appends a value.
///
/// # Panics
///
/// On what cannot be JSON of ours: maps whose keys are no text, and what fails to serialize by itself. Nothing that clients get is
/// like that.
pub fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    value
        .serialize(Json { out })
        .expect("maps have text keys, and writing to memory does not fail");
}

/// A value in a buffer of its own.
///
/// # Panics
///
/// As [`write`].
pub fn to_vec(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    write(&mut out, value);
    out
}

/// Appends text in quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing text to memory does not fail");
    }
}

/// Appends a whole number.
pub fn number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A text cannot hold the byte as it is.
pub(crate) fn is_escaped(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// No byte needs escaping.
fn is_plain(text: &[u8]) -> bool {
    const LANES: usize = 16;
    let Some(end) = text.last_chunk::<LANES>() else {
        return !text.iter().any(|byte| is_escaped(*byte));
    };
    // All are looked at, each lane by itself, since then the compiler looks at sixteen at once. The end overlaps what is before it.
    let mut found = [false; LANES];
    for chunk in text.as_chunks::<LANES>().0.iter().chain([end]) {
        for (found, byte) in found.iter_mut().zip(chunk) {
            *found |= is_escaped(*byte);
        }
    }
    !found.contains(&true)
}

/// Writes one value.
struct Json<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Json<'a> {
    fn begin(self, open: &str, close: &'static str) -> Members<'a> {
        self.out.extend_from_slice(open.as_bytes());
        Members {
            out: self.out,
            first: true,
            close,
        }
    }

    fn variant(self, name: &str, open: &str, close: &'static str) -> Members<'a> {
        self.out.push(b'{');
        string(self.out, name);
        self.out.push(b':');
        self.begin(open, close)
    }
}

/// Writes the members of a list or an object, then its end.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
    close: &'static str,
}

impl Members<'_> {
    fn next(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        self.next();
        value.serialize(Json { out: self.out })
    }

    /// A member of a struct: its name stands in our code and needs no escaping. Inlined, it is written like a constant.
    #[inline]
    fn field(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) -> Result<(), Error> {
        debug_assert!(is_plain(name.as_bytes()));
        self.next();
        self.out.reserve(name.len() + 3);
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        value.serialize(Json { out: self.out })
    }

    fn finish(self) -> Result<(), Error> {
        self.out.extend_from_slice(self.close.as_bytes());
        Ok(())
    }
}

macro_rules! whole_numbers {
    ($($method:ident: $number:ty,)*) => {
        $(fn $method(self, value: $number) -> Result<(), Error> {
            number(self.out, value);
            Ok(())
        })*
    };
}

impl<'a> Serializer for Json<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Members<'a>;
    type SerializeTuple = Members<'a>;
    type SerializeTupleStruct = Members<'a>;
    type SerializeTupleVariant = Members<'a>;
    type SerializeMap = Members<'a>;
    type SerializeStruct = Struct<'a>;
    type SerializeStructVariant = Members<'a>;

    whole_numbers! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
        serialize_i128: i128,
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
        serialize_u128: u128,
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        serde_json::to_writer(self.out, &value)
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        serde_json::to_writer(self.out, &value)
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        string(self.out, text);
        Ok(())
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        let start = self.out.len();
        write!(self.out, "\"{value}").map_err(Error::io)?;
        if is_plain(&self.out[start + 1..]) {
            self.out.push(b'"');
        } else {
            self.out.truncate(start);
            string(self.out, &value.to_string());
        }
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        self.collect_seq(bytes)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, variant: &'static str, value: &T) -> Result<(), Error> {
        let members = self.variant(variant, "", "}");
        value.serialize(Json { out: members.out })?;
        members.finish()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Members<'a>, Error> {
        Ok(self.begin("[", "]"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Members<'a>, Error> {
        Ok(self.begin("[", "]"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Members<'a>, Error> {
        Ok(self.begin("[", "]"))
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Members<'a>, Error> {
        Ok(self.variant(variant, "[", "]}"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members<'a>, Error> {
        Ok(self.begin("{", "}"))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Struct<'a>, Error> {
        Ok(if name == RAW_VALUE {
            Struct::Raw(self.out)
        } else {
            Struct::Members(self.begin("{", "}"))
        })
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Members<'a>, Error> {
        Ok(self.variant(variant, "{", "}}"))
    }
}

/// An object, or JSON text that stands in its place.
enum Struct<'a> {
    Members(Members<'a>),
    Raw(&'a mut Vec<u8>),
}

impl ser::SerializeStruct for Struct<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        match self {
            Struct::Members(members) => members.field(name, value),
            // serde's formatter shows text as it is.
            Struct::Raw(out) => write!(out, "{}", fmt::from_fn(|f| value.serialize(f))).map_err(Error::io),
        }
    }

    fn end(self) -> Result<(), Error> {
        match self {
            Struct::Members(members) => members.finish(),
            Struct::Raw(_) => Ok(()),
        }
    }
}

macro_rules! elements {
    ($($kind:ident::$method:ident,)*) => {
        $(impl ser::$kind for Members<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.element(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

elements! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

impl ser::SerializeMap for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.next();
        let start = self.out.len();
        key.serialize(Json { out: self.out })?;
        if self.out.get(start) == Some(&b'"') {
            Ok(())
        } else {
            Err(Error::custom("a key that is no text"))
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.push(b':');
        value.serialize(Json { out: self.out })
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl ser::SerializeStructVariant for Members<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error> {
        self.field(name, value)
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Serialize)]
    enum Variant {
        Unit,
        Newtype(u8),
        Tuple(u8, &'static str),
        Struct { a: Option<u8>, b: () },
    }

    #[derive(Serialize)]
    struct Everything<'a> {
        text: &'a str,
        character: char,
        numbers: (i8, i16, i32, i64, i128, u8, u16, u32, u64, u128),
        floats: [f64; 3],
        single: f32,
        yes: bool,
        none: Option<u8>,
        some: Option<&'a str>,
        list: Vec<Unit>,
        empty: [u8; 0],
        map: BTreeMap<&'a str, Tuple>,
        variants: [Variant; 4],
        raw: &'a RawValue,
        shown: Shown<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
        #[serde(flatten)]
        flattened: Flattened<'a>,
    }

    #[derive(Serialize)]
    struct Flattened<'a> {
        by_name: BTreeMap<&'a str, &'a RawValue>,
        inner: &'a RawValue,
        tagged: Tagged<'a>,
    }

    #[derive(Serialize)]
    #[serde(tag = "is")]
    enum Tagged<'a> {
        Text { text: &'a str },
    }

    #[derive(Clone, Serialize)]
    struct Unit;

    #[derive(Serialize)]
    struct Tuple(u8, bool);

    struct Shown<'a>(&'a str);

    impl Serialize for Shown<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(self.0)
        }
    }

    #[track_caller]
    fn same(value: &impl Serialize) {
        assert_eq!(
            String::from_utf8(to_vec(value)).expect("UTF-8"),
            serde_json::to_string(value).expect("it serializes")
        );
    }

    fn check(text: &str) {
        let raw = RawValue::from_string(r#"{"a": [1, "\u0000\""]}"#.into()).expect("JSON");
        same(&Everything {
            text,
            character: '"',
            numbers: (
                i8::MIN,
                i16::MIN,
                i32::MIN,
                i64::MIN,
                i128::MIN,
                u8::MAX,
                u16::MAX,
                u32::MAX,
                u64::MAX,
                u128::MAX,
            ),
            floats: [0.1, 1e300, f64::NAN],
            single: 0.1,
            yes: true,
            none: None,
            some: Some(text),
            list: vec![Unit; 2],
            empty: [],
            map: [(text, Tuple(1, false)), ("b", Tuple(2, true))].into(),
            variants: [
                Variant::Unit,
                Variant::Newtype(1),
                Variant::Tuple(2, "\\"),
                Variant::Struct { a: None, b: () },
            ],
            raw: &raw,
            shown: Shown(text),
            absent: None,
            flattened: Flattened {
                by_name: [(text, &*raw)].into(),
                inner: &raw,
                tagged: Tagged::Text { text },
            },
        });
    }

    #[test]
    fn every_byte_that_needs_escaping_is_found_wherever_it_stands() {
        for length in [1, 2, 15, 16, 17, 31, 32, 33, 48] {
            for at in 0..length {
                for odd in (0..0x20).chain([b'"', b'\\', 0x7f]) {
                    let mut text = vec![b'x'; length];
                    text[at] = odd;
                    same(&std::str::from_utf8(&text).expect("ASCII"));
                }
            }
        }
    }

    #[test]
    fn keys_are_text() {
        let mut out = Vec::new();
        let numbers: BTreeMap<u8, u8> = [(1, 2)].into();
        assert!(numbers.serialize(Json { out: &mut out }).is_err());
    }

    proptest! {
        #[test]
        fn it_writes_what_serde_json_writes(text in any::<String>(), plain in "[ -~]{0,80}") {
            check(&text);
            check(&plain);
        }
    }
}
