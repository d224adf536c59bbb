//! Weights in another format than their file's: which format each takes, and the change while they stream.
//!
//! Principal types: [`Recipe`], what was asked for, and [`Requantizer`], which sits behind the [`super::Assembler`]'s
//! conversions. Works row by row, so it holds no more than a row of each weight; the same rows give the same bytes
//! whether they go into a backend or into a file. Must not know backends.

use super::map::WeightMap;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Imatrix;
use crate::quant::{self, FORMATS, Format, Packing};
use crate::tensor::DType;

/// Weights reach the GPU in whole 32-bit words.
const WORD: usize = 4;

/// How a model's weights are to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    to: DType,
    /// The output matrix and, where it serves as one, the embedding table take the format of all others too; else at
    /// least Q6_K, for they matter most.
    pub pure: bool,
    /// Weights that are quantised already are quantised again; else only floats are.
    pub requantize: bool,
    /// What does not take the format becomes F32 (vectors), or else F16 where GGUF does not have its format. For files
    /// that others read.
    pub for_gguf: bool,
    /// How much each column matters.
    pub importance: Option<Imatrix>,
}

/// Tensors that stay as they are, though they have rows: routers, convolutions, tables of positions, and the small
/// matrices of recurrent and of Gemma 3n's layers. As llama.cpp leaves them.
const KEPT: [&str; 24] = [
    "_norm.",
    "ffn_gate_inp.",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd.",
    "token_types.",
    "ssm_conv1d.",
    "shortconv.conv.",
    "time_mix_first.",
    "time_mix_w0.",
    "time_mix_w1.",
    "time_mix_w2.",
    "time_mix_v0.",
    "time_mix_v1.",
    "time_mix_v2.",
    "time_mix_a0.",
    "time_mix_a1.",
    "time_mix_a2.",
    "time_mix_g1.",
    "time_mix_g2.",
    "time_mix_decay_w",
    "time_mix_lerp_",
    "attn_rel_b.",
];

impl Recipe {
    /// Floats to `to`, and nothing special.
    /// # Errors
    /// `InvalidRequest` for a format that cannot be quantised to.
    pub fn new(to: DType) -> Result<Recipe> {
        if quant::format(to).quantize.is_none() {
            let able: Vec<_> =
                FORMATS.iter().filter(|format| format.quantize.is_some()).map(|format| format.name).collect();
            let message = format!(
                "weights cannot be quantised to {}; possible are {}",
                quant::format(to).name,
                able.join(", ")
            );
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("quantize"));
        }
        Ok(Recipe { to, pure: false, requantize: false, for_gguf: false, importance: None })
    }

    /// As [`Recipe::new`], by name.
    /// # Errors
    /// As [`Recipe::new`], and for a name that no format has.
    pub fn named(name: &str) -> Result<Recipe> {
        let Some(format) = quant::format_by_name(name) else {
            let message = format!("{name:?} is no weight format");
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("quantize"));
        };
        Recipe::new(format.dtype)
    }

    /// The format asked for.
    pub fn to(&self) -> DType {
        self.to
    }

    /// The format that a tensor takes; `is_head` for the matrix that gives the logits.
    pub fn target(&self, name: &str, dims: &[u64], from: DType, is_head: bool) -> DType {
        let n_cols = dims.first().copied().unwrap_or(1);
        let is_matrix = dims.iter().skip(1).product::<u64>() > 1;
        let is_float = quant::format(from).packing == Packing::Float;
        let taken = is_matrix && name.ends_with(".weight") && !KEPT.iter().any(|part| name.contains(part));
        let wanted = match is_head && !self.pure && bits_per_weight(self.to) < 6.0 {
            true => DType::Q6_K,
            false => self.to,
        };
        match fitting(wanted, n_cols) {
            Some(target) if taken && (is_float || self.requantize) => target,
            _ if self.for_gguf && is_float && !is_matrix => DType::F32,
            _ if self.for_gguf && quant::format(from).ggml_id.is_none() => DType::F16,
            _ => from,
        }
    }
}

fn bits_per_weight(dtype: DType) -> f64 {
    let format = quant::format(dtype);
    format.block_bytes as f64 * 8.0 / format.block_len as f64
}

/// `wanted`, or the format that takes its place where rows of `n_cols` are no whole blocks, as llama.cpp chooses it.
fn fitting(wanted: DType, n_cols: u64) -> Option<DType> {
    let instead = match wanted {
        DType::Q2_K | DType::Q3_K => DType::IQ4_NL,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        other => other,
    };
    [wanted, instead].into_iter().find(|dtype| quant::format(*dtype).row_bytes(n_cols).is_some())
}

/// Changes the format of weights while they stream.
#[derive(Default)]
pub(super) struct Requantizer {
    rows: Vec<Rows>,
    values: Vec<f32>,
}

/// How far a weight is.
#[derive(Default)]
struct Rows {
    /// Bytes of the row under way.
    pending: Vec<u8>,
    /// Rows that are through.
    n_done: u64,
    /// Bytes that have gone out.
    sent: u64,
    /// Bytes that wait for the rest of their word.
    out: Vec<u8>,
}

impl Requantizer {
    /// Takes the next bytes of a weight as they come out of the file, and hands on what they become.
    /// # Errors
    /// `InvalidValue` for numbers that are not finite or too large for the format, and what `sink` says.
    pub(super) fn take(
        &mut self,
        map: &WeightMap,
        weight: usize,
        offset: u64,
        mut bytes: &[u8],
        sink: &mut impl super::Sink,
    ) -> Result<()> {
        let (stored, to) = (map.weight(weight), map.dtype(weight));
        if stored.dtype == to {
            return sink(weight, offset, bytes);
        }
        let (from, to) = (quant::format(stored.dtype), quant::format(to));
        let n_cols = stored.dims.first().copied().unwrap_or(1);
        let n_rows = stored.dims.iter().skip(1).product::<u64>();
        let (Some(row_in), Some(row_out)) = (from.row_bytes(n_cols), to.row_bytes(n_cols)) else {
            let message = format!("rows of {n_cols} elements are no whole blocks of {}", to.name);
            return Err(Error::new(ErrorCode::Internal, message).at(&stored.name));
        };
        self.rows.resize_with(map.len(), Rows::default);
        let rows = &mut self.rows[weight];
        while !bytes.is_empty() {
            let missing = (row_in as usize - rows.pending.len()).min(bytes.len());
            let (now, rest) = bytes.split_at(missing);
            bytes = rest;
            rows.pending.extend_from_slice(now);
            if rows.pending.len() < row_in as usize {
                break;
            }
            let importance = map.importance(weight, rows.n_done);
            let at = rows.out.len();
            rows.out.resize(at + row_out as usize, 0);
            self.values.resize(n_cols as usize, 0.0);
            requantize((from, &rows.pending), (to, &mut rows.out[at..]), &mut self.values, importance)
                .map_err(|what| {
                    let message = format!("row {} {what}", rows.n_done);
                    Error::new(ErrorCode::InvalidValue, message).at(&stored.name)
                })?;
            rows.pending.clear();
            rows.n_done += 1;
        }
        let whole =
            if rows.n_done == n_rows { rows.out.len() } else { rows.out.len() - rows.out.len() % WORD };
        if whole > 0 {
            sink(weight, rows.sent, &rows.out[..whole])?;
            rows.sent += whole as u64;
            rows.out.drain(..whole);
        }
        Ok(())
    }
}

/// One row from one format into another; an error says what is wrong with it.
fn requantize(
    (from, bytes): (&Format, &[u8]),
    (to, out): (&Format, &mut [u8]),
    values: &mut [f32],
    importance: Option<&[f32]>,
) -> std::result::Result<(), &'static str> {
    (from.dequant)(bytes, values);
    if !values.iter().all(|value| value.is_finite()) {
        return Err("holds a number that is not finite: the file is damaged, download it again");
    }
    let quantize = to.quantize.expect("invariant: a recipe's formats can be quantised to");
    quantize(values, importance, out);
    match to.first_non_finite(out) {
        None => Ok(()),
        Some(_) => Err("holds numbers too large for the format that was asked for; choose another"),
    }
}
