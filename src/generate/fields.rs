//! Request objects as callers send them: unknown fields are ignored, `null` means "not given", and a value of the
//! wrong type is an error that names its field.
//!
//! Principal trait: [`Fields`]; [`field`] reads one value. Written over serde's own traits instead of derived,
//! because a derived error does not say which field it was, and buffering (`flatten`) would lose NaN and typed
//! arrays on the way from JavaScript. Must not know any particular request.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, ErrorCode};

/// A request that is filled field by field.
pub trait Fields: Default {
    /// What the whole is called in an error message.
    const WHAT: &'static str;

    /// Takes the value of `key` out of `map`, or returns false (leaving it there) when the request has no such field.
    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error>;
}

/// Reads the value of the field `key` and hands it to `set`, unless it is `null` or `undefined`.
pub fn field<'de, A, T>(key: &str, map: &mut A, set: impl FnOnce(T)) -> Result<bool, A::Error>
where
    A: MapAccess<'de>,
    T: Deserialize<'de>,
{
    let value = map.next_value::<Option<T>>();
    // The one place where serde's error knows its field: put it in front, where `invalid_request` finds it.
    let value = value.map_err(|error| serde::de::Error::custom(format_args!("{key}{SEPARATOR}{error}")))?;
    if let Some(value) = value {
        set(value);
    }
    Ok(true)
}

const SEPARATOR: &str = ": ";

/// An `invalid-request` error out of what a deserializer said; the field named by [`field`] becomes its path.
pub fn invalid_request(error: impl fmt::Display) -> Error {
    let text = error.to_string();
    // Some deserializers (serde-wasm-bindgen) put "Error: " in front of custom messages.
    let text = text.strip_prefix("Error: ").unwrap_or(&text);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    match text.split_once(SEPARATOR) {
        Some((name, message)) if is_name(name) => Error::new(ErrorCode::InvalidRequest, message).at(name),
        _ => Error::new(ErrorCode::InvalidRequest, text),
    }
}

/// Reads a request from a map.
pub fn deserialize<'de, D: Deserializer<'de>, T: Fields>(deserializer: D) -> Result<T, D::Error> {
    struct MapVisitor<T>(PhantomData<T>);
    impl<'de, T: Fields> Visitor<'de> for MapVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} as an object", T::WHAT)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
            let mut request = T::default();
            while let Some(key) = map.next_key::<String>()? {
                if !request.set(&key, &mut map)? {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(request)
        }
    }
    deserializer.deserialize_map(MapVisitor(PhantomData))
}

/// A field that may be one string or a list of them, such as OpenAI's `stop`.
#[derive(Debug)]
pub struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrSeq;
        impl<'de> Visitor<'de> for StringOrSeq {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany(vec![value.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }
        }
        deserializer.deserialize_any(StringOrSeq)
    }
}
