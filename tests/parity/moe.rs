//! Mixtures of experts: choice, products and sum on every backend, from equal router logits.

use lamplight::backend::ModelPlan;
use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use lamplight::model::spec::{Activation, Gating, Routing};
use lamplight::tensor::DType;

use crate::naive::Naive;
use crate::support::{DTYPES, Model, Rng, random_bytes};

/// f32 sums of some hundred terms; activations rounded to 16 bits in the fast kernels.
const F32_TOLERANCE: f32 = 2e-4;
const FAST_TOLERANCE: f32 = 1e-3;

/// A case: how experts are chosen and what they are like.
#[derive(Clone, Debug)]
struct Case {
    routing: Routing,
    choice_bias: bool,
    n_cols: usize,
    n_ff: usize,
    /// Whether one tensor holds gates and ups.
    fused: bool,
    activation: Activation,
    biases: bool,
    /// Whether the outputs are chosen before the experts.
    outputs: bool,
}

fn cases() -> Vec<Case> {
    let routing = Routing { n_experts: 5, n_used: 2, gating: Gating::Softmax, renormalize: true, scale: 1.0 };
    let plain = Case {
        routing,
        choice_bias: false,
        n_cols: 64,
        n_ff: 32,
        fused: false,
        activation: Activation::Silu,
        biases: false,
        outputs: false,
    };
    let swiglu = Activation::ClampedSwiglu { alpha: 1.702, limit: 0.7 };
    vec![
        plain.clone(),
        Case {
            routing: Routing { n_experts: 6, n_used: 3, gating: Gating::SoftmaxOfChosen, ..routing },
            fused: true,
            activation: swiglu,
            biases: true,
            ..plain.clone()
        },
        Case {
            routing: Routing { gating: Gating::SparseMixer { jitter: 0.3 }, renormalize: false, ..routing },
            fused: true,
            activation: Activation::GeluTanh,
            ..plain.clone()
        },
        Case {
            routing: Routing { n_experts: 256, n_used: 8, gating: Gating::Sigmoid, scale: 2.5, ..routing },
            choice_bias: true,
            n_cols: 32,
            activation: swiglu,
            ..plain.clone()
        },
        Case {
            routing: Routing {
                n_experts: 1,
                n_used: 1,
                gating: Gating::Sigmoid,
                renormalize: false,
                ..routing
            },
            biases: true,
            ..plain.clone()
        },
        Case {
            routing: Routing { n_experts: 4, n_used: 4, renormalize: false, scale: 0.5, ..routing },
            choice_bias: true,
            outputs: true,
            ..plain
        },
    ]
}

const N_VOCAB: usize = 90;

struct Parts {
    graph: Graph,
    dtypes: Vec<DType>,
    bytes: Vec<Vec<u8>>,
}

impl Parts {
    fn weight(&mut self, rng: &mut Rng, dtype: DType, n_cols: usize, n_rows: usize, size: f32) -> WeightId {
        let kind = match dtype {
            DType::F32 if n_rows == 1 => WeightKind::Vector,
            _ => WeightKind::Matrix,
        };
        let name = format!("weight {}", self.bytes.len());
        self.graph.weights.push(WeightDecl { name, part_of: None, n_cols, n_rows, kind });
        self.dtypes.push(dtype);
        self.bytes.push(random_bytes(rng, dtype, n_cols * n_rows, size));
        WeightId(self.bytes.len() - 1)
    }

    fn value(&mut self, width: usize, rows: Rows) -> ValueId {
        let name = format!("value {}", self.graph.values.len());
        self.graph.values.push(ValueDecl { name, width, rows });
        ValueId(self.graph.values.len() - 1)
    }

    fn table(&mut self, rng: &mut Rng, width: usize, size: f32) -> ValueId {
        let table = self.weight(rng, DType::F32, width, N_VOCAB, size);
        self.graph.weights[table.0].kind = WeightKind::Embedding;
        let out = self.value(width, Rows::Tokens);
        self.graph.ops.push(Op::Embed { table, scale: 1.0, out });
        out
    }
}

/// `x + experts(x)`, with `x` and the router logits taken from tables, so that they are equal bit for bit everywhere.
fn model(rng: &mut Rng, case: &Case, dtype: DType) -> Model {
    let Case { routing, n_cols, n_ff, .. } = *case;
    let Routing { n_experts, n_used, .. } = routing;
    let mut parts = Parts { graph: Graph::default(), dtypes: vec![], bytes: vec![] };
    let mut x = parts.table(rng, n_cols, 1.0);
    let mut logits = parts.table(rng, n_experts, 3.0);
    let mut rows = Rows::Tokens;
    if case.outputs {
        rows = Rows::Outputs;
        for value in [&mut x, &mut logits] {
            let out = parts.value(parts.graph.values[value.0].width, rows);
            parts.graph.ops.push(Op::TakeOutputs { x: *value, out });
            *value = out;
        }
    }
    let choice_bias = case.choice_bias.then(|| parts.weight(rng, DType::F32, n_experts, 1, 0.4));
    let selection = parts.value(2 * n_used, rows);
    parts.graph.ops.push(Op::Route { logits, routing, choice_bias, out: selection });
    let experts = |parts: &mut Parts, rng: &mut Rng, x: ValueId, n_cols: usize, n_out: usize| {
        let size = 1.0 / (n_cols as f32).sqrt();
        let weight = parts.weight(rng, dtype, n_cols, n_experts * n_out, size);
        let bias = case.biases.then(|| parts.weight(rng, DType::F32, n_experts * n_out, 1, 1.0));
        let out = parts.value(n_used * n_out, rows);
        parts.graph.ops.push(Op::ExpertMatMul { x, selection, weight, bias, n_experts, out });
        out
    };
    let activation = case.activation;
    let activated = match case.fused {
        true => {
            let both = experts(&mut parts, rng, x, n_cols, 2 * n_ff);
            let out = parts.value(n_used * n_ff, rows);
            parts.graph.ops.push(Op::FusedGatedActivation { x: both, n_ff, activation, out });
            out
        }
        false => {
            let gate = experts(&mut parts, rng, x, n_cols, n_ff);
            let up = experts(&mut parts, rng, x, n_cols, n_ff);
            parts.graph.ops.push(Op::GatedActivation { gate, up, activation, out: gate });
            gate
        }
    };
    let down = experts(&mut parts, rng, activated, n_ff, n_cols);
    let sum = parts.value(n_cols, rows);
    parts.graph.ops.push(Op::ExpertSum { x: down, selection, add: Some(x), out: sum });
    parts.graph.ops.push(Op::ExpertSum { x: down, selection, add: Some(sum), out: sum });
    parts.graph.logits = Some(sum);
    if !case.outputs {
        let out = parts.value(n_cols, Rows::Outputs);
        parts.graph.ops.push(Op::TakeOutputs { x: sum, out });
        parts.graph.logits = Some(out);
    }
    let Parts { graph, dtypes, bytes } = parts;
    Model {
        plan: ModelPlan { graph, dtypes, n_ctx: 400, n_batch: 90, n_sequences: 1, kv_cache: None },
        bytes,
    }
}

/// Rows of the experts are no multiples of four where the format's blocks let them be.
#[allow(clippy::print_stdout, reason = "a failing test says which model it was")]
fn models(rng: &mut Rng) -> Vec<Model> {
    let mut models = Vec::new();
    for (index, dtype) in DTYPES.into_iter().enumerate() {
        for (case_index, mut case) in cases().into_iter().enumerate() {
            // All cases for some formats, one for each of the others.
            if index % 3 != 0 && case_index != index % 6 {
                continue;
            }
            let block_len = lamplight::quant::format(dtype).block_len;
            match block_len {
                1 => (case.n_cols, case.n_ff) = (case.n_cols - 1, case.n_ff + 3),
                block_len => {
                    case.n_cols = case.n_cols.next_multiple_of(block_len);
                    case.n_ff = case.n_ff.next_multiple_of(block_len);
                }
            }
            println!("model {}: {dtype:?}, {case:?}", models.len());
            models.push(model(rng, &case, dtype));
        }
    }
    models
}

#[test]
fn experts_on_the_cpu_agree_with_the_definitions() {
    let mut rng = Rng(70);
    for (index, model) in models(&mut rng).into_iter().enumerate() {
        for (mode, tolerance) in [(CpuMode::Exact, F32_TOLERANCE), (CpuMode::Fast, FAST_TOLERANCE)] {
            let mut backend = CpuBackend::new(model.plan.clone(), mode).expect("backend");
            model.upload(&mut rng, &mut backend);
            let mut naive = Naive::new(&model);
            for n_tokens in [1, 2, 90, 7] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let trace = backend.forward_traced(&tokens, 0).expect("forward");
                let parting = trace.first_parting(&naive.forward(&tokens, 0), tolerance);
                assert_eq!(parting, None, "model {index}, {mode:?}, {n_tokens} tokens");
            }
        }
    }
}

#[cfg(feature = "gpu")]
mod on_the_gpu {
    use lamplight::backend::gpu::kernels::MatMulTile;
    use lamplight::backend::gpu::{GpuBackend, GpuOptions, Precision, Tuning};
    use lamplight::backend::{Backend, Outputs};
    use pollster::block_on;

    use super::*;
    use crate::gpu::device;

    #[test]
    fn experts_on_the_gpu_agree_with_the_definitions() {
        let Some(device) = device(GpuOptions { minimal: true, ..GpuOptions::default() }) else { return };
        let mut rng = Rng(71);
        for (index, model) in models(&mut rng).into_iter().enumerate() {
            let (plan, device) = (model.plan.clone(), device.clone());
            let mut backend = block_on(GpuBackend::new(plan, device, Precision::F32)).expect("backend");
            model.upload(&mut rng, &mut backend);
            let mut naive = Naive::new(&model);
            for n_tokens in [1, 2, 90, 7] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let trace = block_on(backend.forward_traced(&tokens, 0)).expect("forward");
                let parting = trace.first_parting(&naive.forward(&tokens, 0), F32_TOLERANCE);
                assert_eq!(parting, None, "model {index}, {n_tokens} tokens");
            }
        }
    }

    /// A token's best experts come after expert `first(token)`, whatever else the table of logits says.
    fn choosing(mut model: Model, n_experts: usize, first: impl Fn(usize) -> usize) -> Model {
        for token in 0..N_VOCAB {
            for expert in 0..n_experts {
                let behind = (expert + n_experts - first(token) % n_experts) % n_experts;
                let logit = 3.0 - 6.0 * behind as f32 / n_experts as f32;
                let at = (token * n_experts + expert) * 4;
                model.bytes[1][at..at + 4].copy_from_slice(&logit.to_le_bytes());
            }
        }
        model
    }

    /// Pairs grouped by expert: all of one, each token's of others, most experts without any; in both kinds of tiles, for
    /// tokens and for outputs in slices, with steps so short that only a wish groups them.
    #[test]
    fn experts_take_their_tokens_together() {
        let Some(device) = device(GpuOptions::default()) else { return };
        let mut rng = Rng(73);
        let all = cases();
        for (index, (n_experts, n_used)) in
            [(1, 1), (4, 1), (6, 2), (128, 8), (17, 8)].into_iter().enumerate()
        {
            let fused = index % 2 == 0;
            let plain = Case { n_cols: 96, n_ff: 160, fused, biases: fused, ..all[0].clone() };
            let case = Case {
                routing: Routing { n_experts, n_used, ..plain.routing },
                outputs: index % 2 == 1,
                ..plain
            };
            let firsts: [fn(usize) -> usize; 3] = [|_| 3, |token| token, |token| token / 40 * 5];
            for (at, first) in firsts.into_iter().enumerate() {
                let dtype = [DType::Q4_0, DType::Q8_0, DType::F16][(index + at) % 3];
                let model = choosing(model(&mut rng, &case, dtype), n_experts, first);
                for (tile, hand_on, few_rows) in
                    [(MatMulTile::USUAL, false, 0), (MatMulTile::ROWS, true, 0), (MatMulTile::ROWS, false, 1)]
                {
                    let slices = Tuning { logits_bytes: 41 * 96 * 4, ..Tuning::default() };
                    let tuning = Tuning {
                        tile: Some(tile),
                        hand_on: Some(hand_on),
                        few_rows: Some(few_rows),
                        ..slices
                    };
                    let made =
                        GpuBackend::with_tuning(model.plan.clone(), device.clone(), Precision::F32, tuning);
                    let mut backend = block_on(made).expect("backend");
                    model.upload(&mut rng, &mut backend);
                    for n_tokens in [90, 1, 9, 33] {
                        let tokens = model.random_tokens(&mut rng, n_tokens);
                        let found = block_on(backend.forward(&tokens, 0, Outputs::All)).expect("forward");
                        let expected = Naive::new(&model).forward(&tokens, 0).values.pop().expect("logits").1;
                        crate::gpu::close(&found, &expected, F32_TOLERANCE);
                    }
                }
            }
        }
    }

    /// Parts end in the middle of experts and of a workgroup's rows.
    #[test]
    fn experts_cut_into_small_parts_stay_the_same() {
        let Some(device) = device(GpuOptions::default()) else { return };
        let mut rng = Rng(72);
        for (case, dtype) in [(0, DType::Q4_0), (1, DType::Q8_0), (3, DType::F16), (4, DType::F32)] {
            let model = model(&mut rng, &cases()[case], dtype);
            // One by one, and grouped in either kind of tiles.
            for (few_rows, tile) in [(4, None), (0, Some(MatMulTile::USUAL)), (0, Some(MatMulTile::ROWS))] {
                let tuning = Tuning { max_part_bytes: 1100, fold_workgroups: 2, ..Tuning::default() };
                let tuning = Tuning { logits_bytes: 1 << 20, few_rows: Some(few_rows), tile, ..tuning };
                let backend =
                    GpuBackend::with_tuning(model.plan.clone(), device.clone(), Precision::F32, tuning);
                let mut backend = block_on(backend).expect("backend");
                model.upload(&mut rng, &mut backend);
                let tokens = model.random_tokens(&mut rng, 3);
                let found = block_on(backend.forward(&tokens, 0, Outputs::All)).expect("forward");
                let expected = Naive::new(&model).forward(&tokens, 0).values.pop().expect("logits").1;
                crate::gpu::close(&found, &expected, F32_TOLERANCE);
            }
        }
    }
}
