//! Models of published shapes with random weights, to measure speed without downloading anything.

use lamplight::backend::{AnyBackend, Backend, ModelPlan};
use lamplight::error::{Error, ErrorCode, Result};
use lamplight::formats::{Metadata, Value};
use lamplight::generate::rng;
use lamplight::model::blocks::build_graph;
use lamplight::model::families;
use lamplight::model::graph::{Op, WeightKind};
use lamplight::quant;
use lamplight::tensor::DType;
use lamplight::weights::Recipe;

/// What decides the amount of work, as the models' config.json say.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    n_layers: u64,
    n_embd: u64,
    n_heads: u64,
    n_kv_heads: u64,
    head_dim: u64,
    rope_dims: u64,
    n_ff: u64,
    n_vocab: u64,
    /// Whether the head is the embedding table.
    tied: bool,
    /// Experts, those of them that a token uses, and the width of each.
    experts: Option<[u64; 3]>,
}

const LLAMA_1B: Shape = Shape {
    name: "llama-3.2-1b",
    architecture: "llama",
    n_layers: 16,
    n_embd: 2048,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 64,
    rope_dims: 64,
    n_ff: 8192,
    n_vocab: 128_256,
    tied: true,
    experts: None,
};

const SHAPES: &[Shape] = &[
    LLAMA_1B,
    Shape {
        name: "llama-3.2-3b",
        n_layers: 28,
        n_embd: 3072,
        n_heads: 24,
        head_dim: 128,
        rope_dims: 128,
        ..LLAMA_1B
    },
    Shape {
        name: "llama-3.1-8b",
        n_layers: 32,
        n_embd: 4096,
        head_dim: 128,
        rope_dims: 128,
        n_ff: 14_336,
        tied: false,
        ..LLAMA_1B
    },
    Shape {
        name: "qwen3-0.6b",
        architecture: "qwen3",
        n_layers: 28,
        n_embd: 1024,
        n_heads: 16,
        head_dim: 128,
        rope_dims: 128,
        n_ff: 3072,
        n_vocab: 151_936,
        ..LLAMA_1B
    },
    Shape {
        name: "phi-4-mini",
        architecture: "phi3",
        n_layers: 32,
        n_embd: 3072,
        n_heads: 24,
        head_dim: 128,
        rope_dims: 96,
        n_vocab: 200_064,
        ..LLAMA_1B
    },
    // Three layers of 48, as many as a small machine holds.
    Shape {
        name: "qwen3-30b-a3b-3-layers",
        architecture: "qwen3moe",
        n_layers: 3,
        n_heads: 32,
        n_kv_heads: 4,
        head_dim: 128,
        rope_dims: 128,
        n_ff: 6144,
        n_vocab: 151_936,
        experts: Some([128, 8, 768]),
        ..LLAMA_1B
    },
    // Small enough for tests.
    Shape {
        name: "tiny",
        architecture: "qwen3",
        n_layers: 2,
        n_embd: 256,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        rope_dims: 64,
        n_ff: 512,
        n_vocab: 500,
        ..LLAMA_1B
    },
];

/// Rows of random weights that are made; a matrix repeats them.
const N_ROWS: usize = 64;

/// The model called `name` with matrices in format `quantize` (q4_k if not given), and the bytes of weights that a
/// decoded token reads.
/// # Errors
/// `InvalidRequest` for an unknown name or format.
pub(crate) fn plan(
    name: &str,
    quantize: Option<&str>,
    n_ctx: usize,
    n_batch: usize,
) -> Result<(ModelPlan, u64)> {
    let Some(shape) = SHAPES.iter().find(|shape| shape.name == name) else {
        let names: Vec<_> = SHAPES.iter().map(|shape| shape.name).collect();
        let message = format!("there is no shape {name:?}; there are {}", names.join(", "));
        return Err(Error::new(ErrorCode::InvalidRequest, message).at("model"));
    };
    let dtype = Recipe::named(quantize.unwrap_or("q4_k"))?.to();
    let spec = families::spec(&metadata(shape)?)?;
    let absent = |tensor: &str| {
        tensor.ends_with(".bias")
            || tensor.ends_with(".perm")
            || ["attn_qkv", "rope_f", "gate_up_exps"].iter().any(|part| tensor.contains(part))
            || (shape.tied && tensor == "output.weight")
    };
    let graph = build_graph(&spec, |tensor| !absent(tensor));
    let dtypes: Vec<DType> = graph
        .weights
        .iter()
        .map(|decl| if decl.kind == WeightKind::Vector { DType::F32 } else { dtype })
        .collect();
    let read = graph.ops.iter().filter_map(|op| match op {
        Op::MatMul { weight, .. } => Some((&graph.weights[weight.0], 1, 1)),
        Op::ExpertMatMul { weight, selection, n_experts, .. } => {
            Some((&graph.weights[weight.0], graph.values[selection.0].width / 2, *n_experts))
        }
        _ => None,
    });
    let bytes = read.map(|(decl, n_used, n_experts)| {
        let row_bytes = quant::format(dtype).row_bytes(decl.n_cols as u64).unwrap_or(0);
        (decl.n_rows / n_experts * n_used) as u64 * row_bytes
    });
    let bytes = bytes.sum();
    Ok((ModelPlan { graph, dtypes, n_ctx, n_batch, n_sequences: 1, kv_cache: None }, bytes))
}

fn metadata(shape: &Shape) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Value| {
        let key =
            if key.contains("general.") { key.to_owned() } else { format!("{}.{key}", shape.architecture) };
        metadata
            .insert(key, value)
            .map_err(|key| Error::new(ErrorCode::Internal, format!("{key} is set twice")))
    };
    set("general.architecture", Value::String(shape.architecture.to_owned()))?;
    for (key, value) in [
        ("block_count", shape.n_layers),
        ("embedding_length", shape.n_embd),
        ("attention.head_count", shape.n_heads),
        ("attention.head_count_kv", shape.n_kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.rope_dims),
        ("feed_forward_length", shape.n_ff),
        ("context_length", 131_072),
        ("vocab_size", shape.n_vocab),
    ] {
        set(key, Value::Uint(value))?;
    }
    for (key, value) in ["expert_count", "expert_used_count", "expert_feed_forward_length"]
        .iter()
        .zip(shape.experts.iter().flatten())
    {
        set(key, Value::Uint(*value))?;
    }
    set("attention.layer_norm_rms_epsilon", Value::Float(1e-5))?;
    set("rope.freq_base", Value::Float(500_000.0))?;
    Ok(metadata)
}

/// Fills `backend`, made for `plan`, with random matrices, and vectors of ones.
/// # Errors
/// What the backend says; `InvalidRequest` for a format that is only read.
pub(crate) fn fill(plan: &ModelPlan, backend: &mut AnyBackend) -> Result<()> {
    for (weight, (decl, dtype)) in plan.graph.weights.iter().zip(&plan.dtypes).enumerate() {
        if decl.kind == WeightKind::Vector {
            backend.upload(weight, 0, &1.0_f32.to_le_bytes().repeat(decl.n_cols))?;
            continue;
        }
        let format = quant::format(*dtype);
        let (Some(encode), Some(row_bytes)) = (format.quantize, format.row_bytes(decl.n_cols as u64)) else {
            let message = format!("rows of {} cannot be made in {}", decl.n_cols, format.name);
            return Err(Error::new(ErrorCode::InvalidRequest, message).at("quantize"));
        };
        let row_bytes = row_bytes as usize;
        let mut rows = vec![0; N_ROWS * row_bytes];
        let size = 3.4 / (decl.n_cols as f32).sqrt();
        for (index, out) in rows.chunks_exact_mut(row_bytes).enumerate() {
            let seed = (weight * N_ROWS + index) as u64;
            let row: Vec<f32> =
                (0..decl.n_cols).map(|col| (rng::unit(seed, col as u32) - 0.5) * size).collect();
            encode(&row, None, out);
        }
        for first in (0..decl.n_rows).step_by(N_ROWS) {
            let n = N_ROWS.min(decl.n_rows - first);
            backend.upload(weight, (first * row_bytes) as u64, &rows[..n * row_bytes])?;
        }
    }
    pollster::block_on(backend.finish_upload())
}
