//! Seeded random models: specifications, and weight bytes of every format.

use lamplight::backend::{Backend, ModelPlan};
use lamplight::model::blocks::build_graph;
use lamplight::model::graph::{Graph, WeightDecl, WeightKind};
use lamplight::model::spec::{
    Activation, AttentionSpec, FfnSpec, HeadSpec, LayerSpec, MixerSpec, ModelSpec, NormKind, NormSpec,
    PostNorms, RopeLayout, RopeScaling, RopeSpec,
};
use lamplight::quant::{self, Format};
use lamplight::tensor::DType;

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in -1..1.
    pub(crate) fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// All formats.
pub(crate) const DTYPES: [DType; 33] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8_E4M3,
    DType::F8_E5M2,
    DType::Q1_0,
    DType::Q2_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ1_S,
    DType::IQ1_M,
    DType::IQ2_XXS,
    DType::IQ2_XS,
    DType::IQ2_S,
    DType::IQ3_XXS,
    DType::IQ3_S,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::TQ1_0,
    DType::TQ2_0,
    DType::MXFP4,
    DType::NVFP4,
    DType::A4,
    DType::A8,
];

/// Where the f16 scales of a block stand, and how large its elements are at scale 1; formats with other scales are
/// not here.
fn scales(dtype: DType) -> (&'static [usize], f32) {
    match dtype {
        DType::Q1_0 | DType::Q2_0 => (&[0], 2.0),
        DType::A4 | DType::A8 => (&[0], 256.0),
        DType::Q4_0 => (&[0], 8.0),
        DType::Q4_1 => (&[0, 2], 16.0),
        DType::Q5_0 => (&[0], 16.0),
        DType::Q5_1 => (&[0, 2], 32.0),
        DType::Q8_0 | DType::IQ4_NL => (&[0], 128.0),
        DType::Q2_K => (&[80, 82], 4.0 * 16.0),
        DType::Q3_K => (&[108], 4.0 * 32.0),
        DType::Q4_K => (&[0, 2], 16.0 * 64.0),
        DType::Q5_K => (&[0, 2], 32.0 * 64.0),
        DType::Q6_K => (&[208], 32.0 * 128.0),
        DType::IQ1_S => (&[0], 1.125 * 15.0),
        DType::IQ2_XXS | DType::IQ2_XS | DType::IQ2_S => (&[0], 43.0 * 4.0),
        DType::IQ3_XXS => (&[0], 62.0 * 8.0),
        DType::IQ3_S => (&[0], 15.0 * 31.0),
        DType::IQ4_XS => (&[0], 127.0 * 32.0),
        DType::TQ1_0 => (&[52], 2.0),
        DType::TQ2_0 => (&[64], 2.0),
        _ => (&[], 1.0),
    }
}

/// Random bytes of `n_elements` in `dtype`: quants of full range, and scales that make the elements about `size`.
pub(crate) fn random_bytes(rng: &mut Rng, dtype: DType, n_elements: usize, size: f32) -> Vec<u8> {
    let Format { block_len, block_bytes, dequant, .. } = quant::format(dtype);
    let mut bytes = Vec::with_capacity(n_elements / block_len * block_bytes);
    let (scales, largest) = scales(dtype);
    for _ in 0..n_elements / block_len {
        let mut block: Vec<u8> = (0..*block_bytes).map(|_| rng.next() as u8).collect();
        let scale = half::f16::from_f32(rng.unit() * 2.0 * size / largest).to_le_bytes();
        match dtype {
            DType::F64 => block.copy_from_slice(&f64::from(rng.unit() * size).to_le_bytes()),
            DType::F32 => block.copy_from_slice(&(rng.unit() * size).to_le_bytes()),
            DType::F16 => block.copy_from_slice(&half::f16::from_f32(rng.unit() * size).to_le_bytes()),
            DType::BF16 => block.copy_from_slice(&half::bf16::from_f32(rng.unit() * size).to_le_bytes()),
            DType::F8_E4M3 | DType::F8_E5M2 => loop {
                let mut value = [0.0];
                dequant(&block, &mut value);
                if value[0].abs() <= size {
                    break;
                }
                block[0] = rng.next() as u8;
            },
            // A power of two near a sixth of the size.
            DType::MXFP4 => block[0] = (127 + (size / 6.0).log2() as i32 - rng.below(3) as i32) as u8,
            DType::NVFP4 => {
                let exponent = (7 + (size / 6.0).log2() as i32).max(0) as u8;
                block[..4].iter_mut().for_each(|byte| *byte = exponent << 3 | *byte & 7);
            }
            // An f16 in the top nibbles of four words.
            DType::IQ1_M => {
                let scale = half::f16::from_f32(rng.unit() * 2.0 * size / (1.125 * 15.0)).to_bits();
                for (index, byte) in [49, 51, 53, 55].into_iter().enumerate() {
                    block[byte] = block[byte] & 15 | ((scale >> (4 * index)) as u8) << 4;
                }
            }
            _ => {}
        }
        for (index, at) in scales.iter().enumerate() {
            let scale = match index {
                0 => scale,
                _ => half::f16::from_f32(rng.unit() * 2.0 * size / largest).to_le_bytes(),
            };
            block[*at..at + 2].copy_from_slice(&scale);
        }
        bytes.extend(block);
    }
    bytes
}

/// The elements that `bytes` decode to.
pub(crate) fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let format = quant::format(dtype);
    let mut out = vec![0.0; bytes.len() / format.block_bytes * format.block_len];
    (format.dequant)(bytes, &mut out);
    out
}

/// A plan with the bytes of its weights.
pub(crate) struct Model {
    pub(crate) plan: ModelPlan,
    pub(crate) bytes: Vec<Vec<u8>>,
}

impl Model {
    /// Random weights for `graph`: matrices in `dtype`, vectors in f32.
    pub(crate) fn random(rng: &mut Rng, graph: Graph, dtype: DType, n_ctx: usize, n_batch: usize) -> Model {
        let dtype_of = |decl: &WeightDecl| match decl.kind {
            WeightKind::Vector => DType::F32,
            _ => dtype,
        };
        let dtypes: Vec<DType> = graph.weights.iter().map(dtype_of).collect();
        let mut bytes = Vec::new();
        for (decl, dtype) in graph.weights.iter().zip(&dtypes) {
            let n_elements = decl.n_cols * decl.n_rows;
            bytes.push(match decl.kind {
                // Norm weights, biases and rope factors about 1, as real ones.
                WeightKind::Vector => {
                    (0..n_elements).flat_map(|_| (1.0 + 0.5 * rng.unit()).to_le_bytes()).collect()
                }
                _ => random_bytes(rng, *dtype, n_elements, 1.0 / (decl.n_cols as f32).sqrt()),
            });
        }
        Model { plan: ModelPlan { graph, dtypes, n_ctx, n_batch, n_sequences: 1, kv_cache: None }, bytes }
    }

    /// Uploads everything in pieces of random length (multiples of 4 but for the last of a tensor).
    pub(crate) fn upload(&self, rng: &mut Rng, backend: &mut impl Backend) {
        for (weight, bytes) in self.bytes.iter().enumerate() {
            let mut offset = 0;
            while offset < bytes.len() {
                let len = (4 * (1 + rng.below(300))).min(bytes.len() - offset);
                backend.upload(weight, offset as u64, &bytes[offset..offset + len]).expect("upload");
                offset += len;
            }
        }
        pollster::block_on(backend.finish_upload()).expect("finish_upload");
    }

    pub(crate) fn random_tokens(&self, rng: &mut Rng, n_tokens: usize) -> Vec<u32> {
        let n_vocab = self.plan.graph.weights[0].n_rows;
        (0..n_tokens).map(|_| rng.below(n_vocab) as u32).collect()
    }
}

/// Shape and peculiarities of a two-layer model.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) n_embd: usize,
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) n_ff: usize,
    pub(crate) n_vocab: usize,
    pub(crate) norm: NormKind,
    pub(crate) rope: Option<(RopeLayout, usize)>,
    pub(crate) window: Option<usize>,
    pub(crate) softcap: Option<f32>,
    pub(crate) activation: Activation,
    pub(crate) biases: bool,
    pub(crate) tied: bool,
}

/// Shapes for formats whose blocks have up to 32 elements, peculiarities spread over them.
pub(crate) fn shapes() -> Vec<Shape> {
    let plain = Shape {
        n_embd: 64,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        n_ff: 96,
        n_vocab: 101,
        norm: NormKind::Rms,
        rope: Some((RopeLayout::Norm, 16)),
        window: None,
        softcap: None,
        activation: Activation::Silu,
        biases: false,
        tied: true,
    };
    vec![
        plain.clone(),
        Shape {
            n_heads: 3,
            n_kv_heads: 1,
            head_dim: 64,
            rope: Some((RopeLayout::Neox, 64)),
            ..plain.clone()
        },
        Shape { window: Some(5), softcap: Some(3.0), activation: Activation::GeluTanh, ..plain.clone() },
        Shape {
            norm: NormKind::Layer,
            biases: true,
            tied: false,
            activation: Activation::Gelu,
            ..plain.clone()
        },
        Shape {
            n_heads: 16,
            n_kv_heads: 1,
            head_dim: 10,
            rope: Some((RopeLayout::Neox, 6)),
            ..plain.clone()
        },
        Shape { rope: None, n_heads: 8, n_kv_heads: 8, head_dim: 4, n_vocab: 3, ..plain },
    ]
}

/// The shapes to try with format number `index`. Shapes matter to the ops around the products: a few formats have all
/// of `n_shapes`, the others one each in turn.
pub(crate) fn shapes_for(index: usize, dtype: DType, n_shapes: usize) -> impl Iterator<Item = usize> {
    let all = matches!(dtype, DType::F32 | DType::F16 | DType::Q4_1 | DType::Q6_K);
    (0..n_shapes).filter(move |shape| all || *shape == index % n_shapes)
}

/// Whether blocks are longer than the narrowest shapes' rows.
pub(crate) fn is_wide(dtype: DType) -> bool {
    quant::format(dtype).block_len > 32
}

/// The shape with every width a multiple of 256, for the formats of long blocks.
pub(crate) fn widened(shape: Shape) -> Shape {
    let head_dim = 256 / shape.n_heads.next_power_of_two().max(2);
    let n_heads = 256 / head_dim;
    let n_kv_heads = if n_heads.is_multiple_of(shape.n_kv_heads) { shape.n_kv_heads } else { 1 };
    let rope = shape.rope.map(|(layout, _)| (layout, head_dim));
    Shape { n_embd: 256, n_heads, n_kv_heads, head_dim, n_ff: 512, rope, ..shape }
}

/// The graph of two layers of `shape`.
pub(crate) fn graph(shape: &Shape) -> Graph {
    graph_with(shape, |_| ())
}

/// As [`graph`], of a changed specification.
pub(crate) fn graph_with(shape: &Shape, change: impl Fn(&mut ModelSpec)) -> Graph {
    let norm = NormSpec { kind: shape.norm, eps: 1e-5 };
    let rope = shape.rope.map(|(layout, n_dims)| RopeSpec {
        layout,
        n_dims,
        theta: 10_000.0,
        scaling: RopeScaling::None,
        freq_factors: true,
    });
    let layer = LayerSpec {
        attn_norm: Some(norm),
        mixer: MixerSpec::Attention(AttentionSpec {
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            head_dim: shape.head_dim,
            rope,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            window: shape.window,
            softcap: shape.softcap,
            causal: true,
            qk_norm: None,
            v_norm: None,
            sinks: false,
            q_scale: None,
            gated: false,
            keys_as_values: false,
            kv_from: None,
        }),
        post_attn_norm: None,
        ffn_norm: Some(norm),
        ffn: FfnSpec::Gated { n_ff: shape.n_ff, activation: shape.activation },
        post_ffn_norm: None,
        post_norms: PostNorms::Branch,
        parallel: false,
        residual_scale: 1.0,
    };
    let mut spec = ModelSpec {
        family: "test",
        n_vocab: shape.n_vocab,
        n_embd: shape.n_embd,
        n_ctx_train: 64,
        layers: vec![layer.clone(), layer],
        output_norm: Some(norm),
        embed_norm: None,
        n_positions: None,
        token_types: false,
        dense: Vec::new(),
        embed_rounding: None,
        altup: None,
        per_layer: None,
        embed_scale: 1.5,
        logit_scale: 0.5,
        logit_softcap: None,
        head: HeadSpec::Logits,
    };
    change(&mut spec);
    let (biases, tied) = (shape.biases, shape.tied);
    build_graph(&spec, |name| match name {
        "output.weight" => !tied,
        name if name.ends_with(".bias") => biases,
        // Of a few formats and families only; with them, fewer ops could be one launch.
        name if name.ends_with(".perm") || name.ends_with(".scale") => false,
        name if name.contains("layer_output_scale") || name.contains("attn_qkv") => false,
        _ => true,
    })
}
