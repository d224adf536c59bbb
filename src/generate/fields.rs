//! Request objects as callers send them: unknown fields are ignored, `null` means "not given", and a value of the
//! wrong type is an error that names its field.
//!
//! Principal trait: [`Fields`]; [`field`] reads one value. Written over serde's own traits instead of derived,
//! because a derived error does not say which field it was, and buffering (`flatten`) would lose NaN and typed
//! arrays on the way from JavaScript. Must not know any particular request.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::backend::Draw;
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
    let Some((name, message)) = text.split_once(SEPARATOR).filter(|(name, _)| is_name(name)) else {
        return Error::new(ErrorCode::InvalidRequest, text);
    };
    match message.split_once(SEPARATOR).filter(|(index, _)| index.starts_with('[')) {
        Some((index, message)) => Error::new(ErrorCode::InvalidRequest, message).at(format!("{name}{index}")),
        None => Error::new(ErrorCode::InvalidRequest, message).at(name),
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

/// A list whose errors say which item is wrong.
#[derive(Debug)]
pub struct Items<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seq<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Seq<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Items<T>, A::Error> {
                items(seq).map(Items)
            }
        }
        deserializer.deserialize_seq(Seq(PhantomData))
    }
}

/// Numbers by token id, as OpenAI's `logit_bias`: each token once, the last number given for it, in the order of ids.
#[derive(Debug)]
pub struct Biases(pub Vec<(u32, f32)>);

impl<'de> Deserialize<'de> for Biases {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByToken;
        impl<'de> Visitor<'de> for ByToken {
            type Value = Biases;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers by token id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Biases, A::Error> {
                let mut biases: Vec<(u32, f32)> = Vec::new();
                // Keys of objects are strings, whatever they were written as.
                while let Some(key) = map.next_key::<String>()? {
                    let Ok(id) = key.parse() else {
                        return Err(serde::de::Error::custom(format_args!("{key:?} is no token id")));
                    };
                    let bias = map.next_value().map_err(|error: A::Error| {
                        serde::de::Error::custom(format_args!("[{id}]{SEPARATOR}{error}"))
                    })?;
                    match biases.binary_search_by_key(&id, |(id, _)| *id) {
                        Ok(at) => biases[at].1 = bias,
                        // One too many is kept, to be found and refused.
                        Err(_) if biases.len() > Draw::MAX_BIASES => {}
                        Err(at) => biases.insert(at, (id, bias)),
                    }
                }
                Ok(Biases(biases))
            }
        }
        deserializer.deserialize_map(ByToken)
    }
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

            fn visit_str<E>(self, value: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany, A::Error> {
                items(seq).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(StringOrSeq)
    }
}

/// All items of `seq`; an error names the item's index, where [`invalid_request`] finds it.
pub fn items<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(mut seq: A) -> Result<Vec<T>, A::Error> {
    let mut items = Vec::new();
    loop {
        let item = seq.next_element();
        let item = item
            .map_err(|error| serde::de::Error::custom(format_args!("[{}]{SEPARATOR}{error}", items.len())))?;
        match item {
            Some(item) => items.push(item),
            None => return Ok(items),
        }
    }
}
