//! Places of binary parts in the arguments of an event: `{"_placeholder":true,"num":0}` stands for the first one.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
};

/// Whether every place in these arguments is that of a part that comes; `parts` come. Nothing is kept of what is read: a value's
/// tree would be many times as large as its text. What is nested deeper than `depth_max` is refused.
pub fn check_places<'de, D: Deserializer<'de>>(args: D, parts: usize, depth_max: usize) -> Result<(), D::Error> {
    let places = Places {
        parts: parts as u64,
        depth_left: depth_max,
    };
    places.deserialize(args).map(drop)
}

#[derive(Clone, Copy)]
struct Places {
    parts: u64,
    depth_left: usize,
}

/// What a place is made of.
#[derive(PartialEq)]
enum Found {
    True,
    Number(u64),
    Other,
}

/// The names that a place has.
#[derive(Deserialize)]
enum Key {
    #[serde(rename = "_placeholder")]
    Placeholder,
    #[serde(rename = "num")]
    Num,
    #[serde(other)]
    Other,
}

impl Places {
    fn deeper<E: de::Error>(self) -> Result<Places, E> {
        let depth_left = self.depth_left.checked_sub(1).ok_or_else(|| E::custom("nested too deep"))?;
        Ok(Places { depth_left, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Places {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Places {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Found, E> {
        Ok(if value { Found::True } else { Found::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Found, E> {
        Ok(Found::Number(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Found, A::Error> {
        let deeper = self.deeper()?;
        while seq.next_element_seed(deeper)?.is_some() {}
        Ok(Found::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let deeper = self.deeper()?;
        let (mut is_place, mut num) = (false, None);
        while let Some(key) = map.next_key::<Key>()? {
            let found = map.next_value_seed(deeper)?;
            match (key, found) {
                (Key::Placeholder, found) => is_place = found == Found::True,
                (Key::Num, Found::Number(of)) => num = Some(of),
                (Key::Num, _) => num = None,
                (Key::Other, _) => {}
            }
        }
        if is_place && num.is_none_or(|num| num >= self.parts) {
            return Err(de::Error::custom("no such part"));
        }
        Ok(Found::Other)
    }
}
