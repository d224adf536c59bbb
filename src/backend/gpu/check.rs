//! The start-up check: does this device compute what the CPU computes?
//!
//! Drivers miscompile; a wrong kernel is worse than a slow one. For each weight format a model of one tied matrix runs
//! through the real backend, so its embedding, mat-vec and mat-mul kernels are all tried. Must not know real models.

use super::device::GpuDevice;
use super::engine::{GpuBackend, Precision};
use crate::backend::{Backend, ModelPlan, Outputs};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use crate::quant::{self, Format};
use crate::tensor::DType;

const N_COLS: usize = 512;
const N_ROWS: usize = 24;

/// Errors beyond this part of the sum of magnitudes mean a wrong kernel. Half floats in the mat-mul's tile round to
/// one part in 2048.
const TOLERANCE: f64 = 1e-3;

impl GpuDevice {
    /// Runs small products in each of `formats` and compares them with the CPU's.
    /// # Errors
    /// `GpuCheckFailed` names the format whose values are wrong or the kernel that does not compile.
    pub async fn self_check(&self, formats: &[DType]) -> Result<()> {
        let precision = if self.info().shader_f16 { Precision::F16 } else { Precision::F32 };
        for dtype in formats {
            check_format(self, quant::format(*dtype), precision).await?;
        }
        Ok(())
    }
}

async fn check_format(device: &GpuDevice, format: &'static Format, precision: Precision) -> Result<()> {
    let (bytes, values) = sample(format)?;
    let plan = ModelPlan {
        graph: tied_matrix(),
        dtypes: vec![format.dtype],
        n_ctx: N_ROWS,
        n_batch: N_ROWS,
        kv_cache: None,
    };
    let mut backend = GpuBackend::new(plan, device.clone(), precision).await?;
    backend.upload(0, 0, &bytes)?;
    backend.finish_upload().await?;
    let tokens: Vec<u32> = (0..N_ROWS as u32).rev().collect();
    // One token goes through the mat-vec kernel, all of them through the mat-mul.
    for tokens in [&tokens[..1], &tokens[..]] {
        let products = backend.forward(tokens, 0, Outputs::All).await?;
        if let Some(wrong) = first_wrong(&products, &values, tokens) {
            let message = format!(
                "this GPU computes {} weights wrongly ({wrong}); use the CPU backend, and please report the GPU",
                format.name
            );
            return Err(Error::new(ErrorCode::GpuCheckFailed, message));
        }
    }
    Ok(())
}

/// `logits[t] = W · W[token t]`.
fn tied_matrix() -> Graph {
    let value = |name: &str, width, rows| ValueDecl { name: name.to_owned(), width, rows };
    Graph {
        weights: vec![WeightDecl {
            part_of: None,
            name: "self-check".to_owned(),
            n_cols: N_COLS,
            n_rows: N_ROWS,
            kind: WeightKind::Embedding,
        }],
        values: vec![
            value("row", N_COLS, Rows::Tokens),
            value("output_row", N_COLS, Rows::Outputs),
            value("product", N_ROWS, Rows::Outputs),
        ],
        ops: vec![
            Op::Embed { table: WeightId(0), scale: 1.0, out: ValueId(0) },
            Op::TakeOutputs { x: ValueId(0), out: ValueId(1) },
            Op::MatMul {
                x: ValueId(1),
                weight: WeightId(0),
                bias: None,
                add: None,
                scale: 1.0,
                out: ValueId(2),
            },
        ],
        logits: Some(ValueId(2)),
        ..Graph::default()
    }
}

/// Blocks of arbitrary bits that decode to values of an ordinary size, and those values: every field of a format is
/// exercised without this function knowing any.
fn sample(format: &Format) -> Result<(Vec<u8>, Vec<f32>)> {
    let n_blocks = N_ROWS * N_COLS / format.block_len;
    let mut bytes = Vec::with_capacity(n_blocks * format.block_bytes);
    let mut values = Vec::with_capacity(N_ROWS * N_COLS);
    let mut block = vec![0; format.block_bytes];
    let mut decoded = vec![0.0; format.block_len];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..n_blocks {
        // About one arbitrary block in ten has scales within bounds, for the least likely format.
        for attempt in 0.. {
            for byte in &mut block {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
            (format.dequant)(&block, &mut decoded);
            let largest = decoded.iter().fold(0.0_f32, |largest, value| match value.is_finite() {
                true => largest.max(value.abs()),
                false => f32::INFINITY,
            });
            if (1e-3..16.0).contains(&largest) {
                break;
            }
            if attempt == 100_000 {
                return Err(Error::new(
                    ErrorCode::Internal,
                    format!("no sample of {} was found", format.name),
                ));
            }
        }
        bytes.extend_from_slice(&block);
        values.extend_from_slice(&decoded);
    }
    Ok((bytes, values))
}

/// Describes the first product that is not what f64 says.
fn first_wrong(products: &[f32], values: &[f32], tokens: &[u32]) -> Option<String> {
    for (index, product) in products.iter().enumerate() {
        let (token, row) = (tokens[index / N_ROWS] as usize, index % N_ROWS);
        let x = &values[token * N_COLS..][..N_COLS];
        let weights = &values[row * N_COLS..][..N_COLS];
        let terms = x.iter().zip(weights).map(|(x, w)| f64::from(*x) * f64::from(*w));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
        let error = (f64::from(*product) - sum).abs();
        if error.is_nan() || error > TOLERANCE * size {
            return Some(format!("{product} where {sum} was expected, with {} rows", tokens.len()));
        }
    }
    (products.len() != tokens.len() * N_ROWS).then(|| "too few values".to_owned())
}
