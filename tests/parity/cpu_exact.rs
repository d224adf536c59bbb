//! The exact CPU kernels against the naive interpreter.

use lamplight::backend::cpu::{CpuBackend, CpuMode};
use lamplight::backend::{Backend, Outputs};
use lamplight::error::ErrorCode;
use lamplight::tensor::DType;
use pollster::block_on;

use crate::naive::Naive;
use crate::support::{DTYPES, Model, Rng, graph, is_wide, shapes, shapes_for, widened};

/// Both compute the same sums, one in f32: the roundings of a few hundred terms, carried through two layers.
const TOLERANCE: f32 = 1e-4;

fn model(rng: &mut Rng, dtype: DType, shape: usize) -> Model {
    let shape = shapes().swap_remove(shape);
    let shape = if is_wide(dtype) { widened(shape) } else { shape };
    Model::random(rng, graph(&shape), dtype, 40, 17)
}

#[test]
fn exact_agrees_with_the_definitions_op_by_op() {
    for (dtype_index, dtype) in DTYPES.into_iter().enumerate() {
        for shape in shapes_for(dtype_index, dtype, shapes().len()) {
            let seed = (dtype_index * 100 + shape) as u64;
            println!("seed {seed}: {dtype:?}, shape {shape}");
            let mut rng = Rng(seed);
            let model = model(&mut rng, dtype, shape);
            let mut backend = CpuBackend::new(model.plan.clone(), CpuMode::Exact).expect("backend");
            model.upload(&mut rng, &mut backend);
            let mut naive = Naive::new(&model);
            let mut pos = 0;
            for n_tokens in [1, 2, 3, 5, 17, 1] {
                let tokens = model.random_tokens(&mut rng, n_tokens);
                let trace = backend.forward_traced(&tokens, pos).expect("forward");
                let parting = trace.first_parting(&naive.forward(&tokens, pos), TOLERANCE);
                assert_eq!(parting, None, "{n_tokens} tokens at {pos}");
                pos += n_tokens;
            }
        }
    }
}

#[test]
fn wrong_calls_are_typed_errors() {
    let mut rng = Rng(7);
    let model = model(&mut rng, DType::Q4_1, 0);
    for mode in [CpuMode::Exact, CpuMode::Fast] {
        let mut backend = CpuBackend::new(model.plan.clone(), mode).expect("backend");
        let code =
            |result: Result<Vec<f32>, lamplight::error::Error>| result.map_err(|error| error.code()).err();
        let early = block_on(backend.forward(&[1], 0, Outputs::Last));
        assert_eq!(code(early), Some(ErrorCode::Internal));
        let incomplete = block_on(backend.finish_upload()).expect_err("weights are missing");
        assert_eq!(incomplete.code(), ErrorCode::Truncated);
        assert_eq!(incomplete.field(), Some("token_embd.weight"));
        for (weight, offset, n_bytes) in [(0, 4, 4), (0, 0, 1 << 20), (999, 0, 4)] {
            let error = backend.upload(weight, offset, &vec![0; n_bytes]).expect_err("no such piece");
            assert_eq!(error.code(), ErrorCode::Internal);
        }
        model.upload(&mut rng, &mut backend);
        let calls: [(&[u32], usize); 6] =
            [(&[], 0), (&[101], 0), (&[u32::MAX], 0), (&[1; 18], 0), (&[1], 40), (&[1, 1], usize::MAX)];
        for (tokens, pos) in calls {
            let result = block_on(backend.forward(tokens, pos, Outputs::Last));
            assert_eq!(code(result), Some(ErrorCode::InvalidRequest), "{tokens:?} at {pos}");
        }
        let logits = block_on(backend.forward(&[100], 39, Outputs::Last)).expect("the last position");
        assert_eq!(logits.len(), 101);
    }
}

#[test]
fn plans_that_do_not_fit_are_typed_errors() {
    let model = model(&mut Rng(8), DType::Q4_1, 0);
    let refused = |change: &dyn Fn(&mut lamplight::backend::ModelPlan)| {
        let mut plan = model.plan.clone();
        change(&mut plan);
        CpuBackend::new(plan, CpuMode::Exact).err().map(|error| error.code())
    };
    assert_eq!(refused(&|_| {}), None);
    assert_eq!(refused(&|plan| plan.n_ctx = 0), Some(ErrorCode::InvalidRequest));
    assert_eq!(refused(&|plan| plan.n_ctx = usize::MAX / 4096), Some(ErrorCode::OutOfMemory));
    assert_eq!(refused(&|plan| plan.dtypes[0] = DType::Q4_K), Some(ErrorCode::WrongShape));
    assert_eq!(refused(&|plan| plan.dtypes.truncate(1)), Some(ErrorCode::Internal));
    assert_eq!(refused(&|plan| plan.graph.logits = None), Some(ErrorCode::Internal));
    assert_eq!(refused(&|plan| plan.graph.ops.swap(0, 1)), Some(ErrorCode::Internal));
    for value in 0..model.plan.graph.values.len() {
        let code = refused(&|plan| plan.graph.values[value].width += 1);
        assert_eq!(code, Some(ErrorCode::Internal), "value {value} widened");
    }
}
