//! One view over what a model says about itself, whatever the file it came in.
//!
//! Principal type: [`Metadata`], a map from GGUF key names to [`Value`]s. GGUF headers fill it directly; Hugging Face
//! folders will be mapped to the same keys. Accessors check type and presence and name the key in their errors.
//! Must not know any model family.

use std::collections::{BTreeMap, TryReserveError};

use crate::error::{Error, ErrorCode, Result};

/// Largest count that a model may have of anything (layers, width, context): larger than any published, and small
/// enough that sums of a few do not overflow anywhere.
pub const MAX_COUNT: u64 = 1 << 24;

/// Many strings in one allocation: a vocabulary of 150 000 tokens is two `Vec`s, not 150 000 `String`s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    bytes: Vec<u8>,
    /// End of string `i` in `bytes`; its start is the end of string `i - 1`.
    ends: Vec<u32>,
}

impl StringArray {
    /// Appends one string (raw bytes; GGUF does not promise UTF-8 within arrays). False when 4 GiB are exceeded.
    pub fn push(&mut self, string: &[u8]) -> bool {
        let Ok(end) = u32::try_from(self.bytes.len() + string.len()) else {
            return false;
        };
        self.bytes.extend_from_slice(string);
        self.ends.push(end);
        true
    }

    /// Makes room for `n_strings` more, without their bytes.
    pub fn try_reserve(&mut self, n_strings: usize) -> std::result::Result<(), TryReserveError> {
        self.ends.try_reserve_exact(n_strings)
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no strings.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `index` as raw bytes.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        Some(&self.bytes[start..end])
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).expect("invariant: index is below len"))
    }
}

/// A metadata value. Integers of every width are widened to 64 bits, arrays keep one element type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are their own description")]
pub enum Value {
    Uint(u64),
    Int(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Uints(Vec<u64>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
    Strings(StringArray),
}

impl Value {
    /// The type's name, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Uint(_) => "unsigned integer",
            Value::Int(_) => "integer",
            Value::Float(_) => "float",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Uints(_) => "array of unsigned integers",
            Value::Ints(_) => "array of integers",
            Value::Floats(_) => "array of floats",
            Value::Bools(_) => "array of bools",
            Value::Strings(_) => "array of strings",
        }
    }
}

/// What kind of files a model came in. The same model differs between them: its GGUF file may hold rows of q and k in
/// another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Container {
    /// A GGUF file, or a split one.
    #[default]
    Gguf,
    /// `config.json` and safetensors files.
    HuggingFace,
}

/// All metadata of a model, keyed by GGUF key names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// What it was read from.
    pub container: Container,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// Adds a value; gives back the key when it was there already.
    pub fn insert(&mut self, key: String, value: Value) -> std::result::Result<(), String> {
        if self.values.contains_key(&key) {
            return Err(key);
        }
        self.values.insert(key, value);
        Ok(())
    }

    /// Whether the model came as a Hugging Face folder.
    pub fn is_hugging_face(&self) -> bool {
        self.container == Container::HuggingFace
    }

    /// Removes a value, to free it or to take it out by move (vocabularies are large).
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.values.remove(key)
    }

    /// The raw value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// All keys and values in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// An optional non-negative integer.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Uint(value)) => Ok(Some(*value)),
            Some(Value::Int(value)) => u64::try_from(*value).map(Some).map_err(|_| {
                Error::new(ErrorCode::InvalidValue, format!("{value} is negative, a count is needed")).at(key)
            }),
            Some(other) => Err(wrong_type(key, "an integer", other)),
        }
    }

    /// A required count, 1 to [`MAX_COUNT`].
    pub fn count(&self, key: &str) -> Result<usize> {
        let value = self.u64(key)?.ok_or_else(|| missing(key))?;
        positive(key, value)
    }

    /// An optional count (at least 1 when present).
    pub fn count_or(&self, key: &str, default: usize) -> Result<usize> {
        self.u64(key)?.map_or(Ok(default), |value| positive(key, value))
    }

    /// An optional finite float (integers are accepted).
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let value = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Float(value)) => *value as f32,
            Some(Value::Uint(value)) => *value as f32,
            Some(Value::Int(value)) => *value as f32,
            Some(other) => return Err(wrong_type(key, "a number", other)),
        };
        if !value.is_finite() {
            return Err(
                Error::new(ErrorCode::InvalidValue, format!("{value} is not a finite number")).at(key)
            );
        }
        Ok(Some(value))
    }

    /// An optional bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_type(key, "a bool", other)),
        }
    }

    /// An optional string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "a string", other)),
        }
    }

    /// An optional array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Strings(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_type(key, "an array of strings", other)),
        }
    }

    /// A count that GGUF writes as a scalar or as one value per layer; always `n_layers` values here.
    /// Zero is allowed within arrays (layers without attention), the length is not negotiable.
    pub fn per_layer(&self, key: &str, n_layers: usize, default: Option<usize>) -> Result<Vec<usize>> {
        let values = match self.values.get(key) {
            None => {
                let default = default.ok_or_else(|| missing(key))?;
                return Ok(vec![default; n_layers]);
            }
            Some(Value::Uints(values)) => {
                values.iter().map(|v| bounded(key, *v)).collect::<Result<Vec<_>>>()?
            }
            Some(Value::Ints(values)) => values
                .iter()
                .map(|v| bounded(key, u64::try_from(*v).unwrap_or(u64::MAX)))
                .collect::<Result<Vec<_>>>()?,
            Some(_) => return Ok(vec![self.count(key)?; n_layers]),
        };
        if values.len() != n_layers {
            let message = format!("has {} values, the model has {n_layers} layers", values.len());
            return Err(Error::new(ErrorCode::InvalidValue, message).at(key));
        }
        Ok(values)
    }
}

fn positive(key: &str, value: u64) -> Result<usize> {
    if value == 0 {
        return Err(Error::new(ErrorCode::InvalidValue, "0 is not a usable count").at(key));
    }
    bounded(key, value)
}

fn bounded(key: &str, value: u64) -> Result<usize> {
    match usize::try_from(value) {
        Ok(count) if value <= MAX_COUNT => Ok(count),
        _ => Err(Error::new(ErrorCode::LimitExceeded, format!("{value}; at most {MAX_COUNT} are accepted"))
            .at(key)),
    }
}

/// The error for a key that must be there.
pub fn missing(key: &str) -> Error {
    Error::new(ErrorCode::MissingKey, "the model needs this metadata key, and the file lacks it").at(key)
}

fn wrong_type(key: &str, wanted: &str, found: &Value) -> Error {
    Error::new(ErrorCode::WrongType, format!("needs {wanted}, the file has {}", found.type_name())).at(key)
}
