//! How the next token is chosen and when to stop, as the caller says it.
//!
//! Principal type: [`SamplingParams`], in OpenAI's spelling. Must not know logits or tokenizers.

use serde::de::{Deserialize, Deserializer, MapAccess};

use super::fields::{self, Biases, Fields, Items, OneOrMany, field};
use crate::backend::Draw;
use crate::error::{Error, ErrorCode, Result};

/// Sampling settings and limits of one request. The defaults are OpenAI's: temperature 1 and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the most probable tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Keeps this many of the most probable tokens; 0 is off.
    pub top_k: u32,
    /// Keeps tokens at least this probable relative to the most probable one; 0 is off.
    pub min_p: f32,
    /// Divides positive (multiplies negative) logits of tokens seen among the last
    /// [`REPETITION_WINDOW`]; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token generated so far.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it was generated.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens before penalties, each a number from -100 to 100. A token stands here
    /// once; at most [`Draw::MAX_BIASES`].
    pub logit_bias: Vec<(u32, f32)>,
    /// The only tokens that may be drawn; `None`: all. Those that end the text only where they are among them, so
    /// without one it goes on to [`SamplingParams::max_tokens`] (vLLM's rule).
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Tells with each token its log-probability and those of so many of the most probable ones, at most
    /// [`Draw::MAX_TOP`]; `None`: nothing.
    pub top_logprobs: Option<u32>,
    /// Seed of the draws; `None` takes one from the clock.
    pub seed: Option<u64>,
    /// Strings that end the text; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the text besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Most tokens to generate; `None` goes on to the end of the context.
    pub max_tokens: Option<u32>,
}

/// Tokens that [`SamplingParams::repetition_penalty`] looks back at, prompt included (llama.cpp's default).
pub const REPETITION_WINDOW: usize = 64;

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            top_logprobs: None,
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            max_tokens: None,
        }
    }
}

impl SamplingParams {
    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Checks every value.
    /// # Errors
    /// `InvalidRequest` at the first field that is not a number or out of its range.
    pub fn validate(&self) -> Result<()> {
        let penalty_range = (-2.0, 2.0);
        for (name, value, (low, high)) in [
            ("temperature", self.temperature, (0.0, 100.0)),
            ("top_p", self.top_p, (0.0, 1.0)),
            ("min_p", self.min_p, (0.0, 1.0)),
            ("repetition_penalty", self.repetition_penalty, (0.01, 100.0)),
            ("presence_penalty", self.presence_penalty, penalty_range),
            ("frequency_penalty", self.frequency_penalty, penalty_range),
        ] {
            in_range(value, low, high, || name.to_owned())?;
        }
        if self.logit_bias.len() > Draw::MAX_BIASES {
            let message = format!("at most {} tokens may have a bias", Draw::MAX_BIASES);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("logit_bias"));
        }
        for (index, (id, bias)) in self.logit_bias.iter().enumerate() {
            in_range(*bias, -100.0, 100.0, || format!("logit_bias[{id}]"))?;
            if self.logit_bias[..index].iter().any(|(other, _)| other == id) {
                let message = "a token has one bias, not two";
                return Err(Error::new(ErrorCode::InvalidRequest, message).at(format!("logit_bias[{id}]")));
            }
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            let message = "no token may be drawn: list at least one, or leave it out to allow all";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("allowed_token_ids"));
        }
        if self.top_logprobs.is_some_and(|n| n as usize > Draw::MAX_TOP) {
            let message = format!("at most {} of the most probable tokens are told", Draw::MAX_TOP);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("top_logprobs"));
        }
        if let Some(index) = self.stop.iter().position(String::is_empty) {
            let message = "an empty stop string would end every text at once";
            return Err(Error::new(ErrorCode::InvalidRequest, message).at(format!("stop[{index}]")));
        }
        Ok(())
    }

    /// Checks the tokens that are named against a vocabulary of `n_vocab`.
    /// # Errors
    /// `InvalidRequest` at the first that it does not have.
    pub fn check_ids(&self, n_vocab: usize) -> Result<()> {
        let allowed = self.allowed_token_ids.iter().flatten().enumerate();
        let allowed = allowed.map(|(index, id)| (*id, "allowed_token_ids", index as u32));
        let biased = self.logit_bias.iter().map(|(id, _)| (*id, "logit_bias", *id));
        for (id, name, key) in biased.chain(allowed) {
            if id as usize >= n_vocab {
                let message = format!("{id} is no token: the vocabulary has {n_vocab}");
                return Err(Error::new(ErrorCode::InvalidRequest, message).at(format!("{name}[{key}]")));
            }
        }
        Ok(())
    }
}

fn in_range(value: f32, low: f32, high: f32, field: impl FnOnce() -> String) -> Result<()> {
    // A NaN is in no range.
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let message = format!("{value} is not a number from {low} to {high}");
    Err(Error::new(ErrorCode::InvalidRequest, message).at(field()))
}

impl Fields for SamplingParams {
    const WHAT: &'static str = "sampling settings";

    fn set<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<bool, A::Error> {
        match key {
            "temperature" => field(key, map, |v| self.temperature = v),
            "top_p" => field(key, map, |v| self.top_p = v),
            "top_k" => field(key, map, |v| self.top_k = v),
            "min_p" => field(key, map, |v| self.min_p = v),
            "repetition_penalty" => field(key, map, |v| self.repetition_penalty = v),
            "presence_penalty" => field(key, map, |v| self.presence_penalty = v),
            "frequency_penalty" => field(key, map, |v| self.frequency_penalty = v),
            "logit_bias" => field(key, map, |v: Biases| self.logit_bias = v.0),
            "allowed_token_ids" => field(key, map, |v: Items<u32>| self.allowed_token_ids = Some(v.0)),
            "top_logprobs" => field(key, map, |v| self.top_logprobs = Some(v)),
            "seed" => field(key, map, |v| self.seed = Some(v)),
            "stop" => field(key, map, |v: OneOrMany| self.stop = v.0),
            "stop_token_ids" => field(key, map, |v: Items<u32>| self.stop_token_ids = v.0),
            "max_tokens" => field(key, map, |v| self.max_tokens = Some(v)),
            _ => Ok(false),
        }
    }
}

impl<'de> Deserialize<'de> for SamplingParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        fields::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::invalid_request;
    use super::*;

    fn parse(json: &str) -> Result<SamplingParams> {
        serde_json::from_str(json).map_err(invalid_request)
    }

    #[test]
    fn unknown_fields_and_nulls_leave_the_defaults() {
        let params =
            parse(r#"{"temperature": null, "stop": null, "seed": null, "model": {"x": [1]}, "n": 1}"#);
        assert_eq!(params.unwrap(), SamplingParams::default());
    }

    #[test]
    fn values_are_read() {
        let params = parse(
            r#"{"temperature": 0, "top_p": 0.5, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1,
                "presence_penalty": -1, "frequency_penalty": 0.25, "seed": 18446744073709551615,
                "logit_bias": {"7": -100, "3": 0.5, "07": 2}, "allowed_token_ids": [3, 7, 9],
                "top_logprobs": 20,
                "stop": "x", "stop_token_ids": [1, 2], "max_tokens": 7}"#,
        )
        .unwrap();
        let expected = SamplingParams {
            temperature: 0.0,
            top_p: 0.5,
            top_k: 40,
            min_p: 0.1,
            repetition_penalty: 1.1,
            presence_penalty: -1.0,
            frequency_penalty: 0.25,
            logit_bias: vec![(3, 0.5), (7, 2.0)],
            allowed_token_ids: Some(vec![3, 7, 9]),
            top_logprobs: Some(20),
            seed: Some(u64::MAX),
            stop: vec!["x".into()],
            stop_token_ids: vec![1, 2],
            max_tokens: Some(7),
        };
        assert_eq!(params, expected);
        params.validate().unwrap();
        assert_eq!(parse(r#"{"stop": ["a", "b"]}"#).unwrap().stop, ["a", "b"]);
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (json, field) in [
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"max_tokens": 1.5}"#, "max_tokens"),
            (r#"{"seed": -3}"#, "seed"),
            (r#"{"stop": 3}"#, "stop"),
            (r#"{"stop": ["a", 3]}"#, "stop[1]"),
            (r#"{"stop_token_ids": [1, 70000000000]}"#, "stop_token_ids[1]"),
            (r#"{"logit_bias": [3]}"#, "logit_bias"),
            (r#"{"logit_bias": {"no": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"-1": 1}}"#, "logit_bias"),
            (r#"{"logit_bias": {"5": 1, "6": "much"}}"#, "logit_bias[6]"),
            (r#"{"allowed_token_ids": [1, "a"]}"#, "allowed_token_ids[1]"),
        ] {
            let error = parse(json).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{json}");
            assert_eq!(error.field(), Some(field), "{json}: {error}");
        }
        let error = parse("[1]").unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, None));
    }

    #[test]
    fn a_value_out_of_range_names_its_field() {
        type Change = fn(&mut SamplingParams);
        let cases: [(&str, Change); 16] = [
            ("temperature", |p| p.temperature = f32::NAN),
            ("temperature", |p| p.temperature = -0.1),
            ("temperature", |p| p.temperature = f32::INFINITY),
            ("top_p", |p| p.top_p = 1.01),
            ("min_p", |p| p.min_p = -0.5),
            ("repetition_penalty", |p| p.repetition_penalty = 0.0),
            ("presence_penalty", |p| p.presence_penalty = 2.5),
            ("frequency_penalty", |p| p.frequency_penalty = f32::NAN),
            ("logit_bias[5]", |p| p.logit_bias = vec![(4, 100.0), (5, 100.5)]),
            ("logit_bias[5]", |p| p.logit_bias = vec![(5, f32::NEG_INFINITY)]),
            ("logit_bias[0]", |p| p.logit_bias = vec![(0, f32::NAN)]),
            ("logit_bias[7]", |p| p.logit_bias = vec![(7, 1.0), (3, 1.0), (7, 2.0)]),
            ("logit_bias", |p| p.logit_bias = (0..1025).map(|id| (id, 1.0)).collect()),
            ("allowed_token_ids", |p| p.allowed_token_ids = Some(Vec::new())),
            ("top_logprobs", |p| p.top_logprobs = Some(21)),
            ("stop[1]", |p| p.stop = vec!["a".into(), String::new()]),
        ];
        for (field, change) in cases {
            let mut params = SamplingParams::default();
            change(&mut params);
            let error = params.validate().unwrap_err();
            assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some(field)));
        }
    }

    #[test]
    fn tokens_beyond_the_vocabulary_are_named() {
        let mut params =
            SamplingParams { logit_bias: vec![(4, 1.0), (50, 1.0)], ..SamplingParams::default() };
        params.check_ids(51).unwrap();
        let error = params.check_ids(50).unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("logit_bias[50]")));
        params = SamplingParams { allowed_token_ids: Some(vec![9, 8, 10]), ..SamplingParams::default() };
        params.check_ids(11).unwrap();
        let error = params.check_ids(10).unwrap_err();
        assert_eq!((error.code(), error.field()), (ErrorCode::InvalidRequest, Some("allowed_token_ids[2]")));
    }
}
