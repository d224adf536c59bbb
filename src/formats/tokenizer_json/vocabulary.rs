//! Vocabulary and merges of a `tokenizer.json`, read as they stream by: a file of 30 MB becomes a few flat arrays and
//! never a tree of values.
//!
//! Principal types: [`Vocabulary`], [`Merges`]. Must not know what the tokens are for.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::formats::metadata::StringArray;

/// More tokens than any model has.
pub(super) const MAX_TOKENS: usize = 1 << 20;

/// Marks the errors that are about size.
pub(super) const TOO_LARGE: &str = "more than Lamplight accepts";

/// The model's tokens.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// The texts, in the file's order.
    pub texts: StringArray,
    /// Id of each text.
    pub ids: Vec<u32>,
    /// Score of each text, for Unigram.
    pub scores: Option<Vec<f64>>,
}

/// Left and right sides, alternating.
#[derive(Debug, Default)]
pub(super) struct Merges {
    pub(super) pairs: StringArray,
}

/// Appends a string to an array.
struct Push<'a>(&'a mut StringArray);

impl<'de> DeserializeSeed<'de> for Push<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Push<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if self.0.push(text.as_bytes()) {
            Ok(())
        } else {
            Err(E::custom(format!("4 GiB of tokens, {TOO_LARGE}")))
        }
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocabulary, D::Error> {
        deserializer.deserialize_any(VocabularyVisitor)
    }
}

struct VocabularyVisitor;

impl<'de> Visitor<'de> for VocabularyVisitor {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tokens to ids, or a list of tokens and scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
        let mut vocabulary = Vocabulary::default();
        while map.next_key_seed(Push(&mut vocabulary.texts))?.is_some() {
            check_size::<A::Error>(vocabulary.texts.len())?;
            vocabulary.ids.push(map.next_value()?);
        }
        Ok(vocabulary)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vocabulary, A::Error> {
        let mut vocabulary = Vocabulary::default();
        let mut scores = Vec::new();
        while let Some(score) = list.next_element_seed(Scored(&mut vocabulary.texts))? {
            check_size::<A::Error>(vocabulary.texts.len())?;
            vocabulary.ids.push(scores.len() as u32);
            scores.push(score);
        }
        vocabulary.scores = Some(scores);
        Ok(vocabulary)
    }
}

fn check_size<E: serde::de::Error>(n_tokens: usize) -> Result<(), E> {
    if n_tokens <= MAX_TOKENS {
        return Ok(());
    }
    Err(E::custom(format!("a vocabulary of over {MAX_TOKENS} tokens, {TOO_LARGE}")))
}

/// A token and its score.
struct Scored<'a>(&'a mut StringArray);

impl<'de> DeserializeSeed<'de> for Scored<'_> {
    type Value = f64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<f64, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Scored<'_> {
    type Value = f64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token and its score")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<f64, A::Error> {
        let missing = || A::Error::custom("a token of the vocabulary is not a text and a score");
        list.next_element_seed(Push(self.0))?.ok_or_else(missing)?;
        list.next_element()?.ok_or_else(missing)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merges, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while list.next_element_seed(Merge(&mut merges.pairs))?.is_some() {}
                Ok(merges)
            }
        }
        deserializer.deserialize_seq(All)
    }
}

/// `"left right"` or `["left", "right"]`.
struct Merge<'a>(&'a mut StringArray);

impl<'de> DeserializeSeed<'de> for Merge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge: two tokens")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<(), E> {
        match line.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() => {
                Push(self.0).visit_str(left)?;
                Push(self.0).visit_str(right)
            }
            _ => Err(E::custom(format!("merge \"{line}\" is not two tokens parted by a space"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        for _ in 0..2 {
            let side = list.next_element_seed(Push(self.0))?;
            side.ok_or_else(|| A::Error::custom("a merge is not two tokens"))?;
        }
        match list.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("a merge is more than two tokens")),
        }
    }
}
