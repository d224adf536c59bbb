//! Which of several ways to compute a product is the fastest on a device, found by running them.
//!
//! Principal function: [`GpuDevice::tune`]. Products of matrices of zeros, as no bandwidth and no unit cares what it moves.
//! Must not know models.

use std::fmt::Write;

use web_time::Instant;

use super::device::GpuDevice;
use super::engine::{GpuBackend, Precision};
use super::kernels::{MatMulTile, MatVecShape};
use super::plan::Tuning;
use crate::backend::{Backend, ModelPlan, Outputs};
use crate::error::Result;
use crate::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use crate::tensor::DType;

/// No further way is tried after this many milliseconds: all in all it must not take more than a second.
const BUDGET_MS: u128 = 600;
/// Times each way is measured; the shortest counts.
const RUNS: usize = 4;
/// A run that takes so long is measured once.
const LONG_MS: f64 = 20.0;
/// Rows and columns of matrices for a slow device and for others, and what a product of a small one takes on a slow one.
const SMALL: usize = 512;
const LARGE: usize = 2048;
const SLOW_MICROSECONDS: f64 = 60.0;
/// A way that is not this much faster than the one that is usual is not worth leaving it for.
const WORTH: f64 = 0.95;
/// The same of one that rounds activations to 8 bits.
const PACKED_WORTH: f64 = 0.8;
/// Matrices that take turns, so that small caches do not hold them.
const MATRICES: usize = 6;

impl Tuning {
    /// The ways that `found` by [`GpuDevice::tune`] begins with, if it does: what a browser kept may be anything.
    pub fn found(found: &str) -> Option<Tuning> {
        let code: usize = found.split(':').next()?.parse().ok()?;
        let mat_vec = Some(*MatVecShape::ALL.get(code / 2 / MatMulTile::ALL.len())?);
        let tile = MatMulTile::ALL.get(code / 2 % MatMulTile::ALL.len()).copied();
        Some(Tuning { mat_vec, tile, subgroups: Some(code & 1 != 0), ..Tuning::default() })
    }

    /// Its place among the ways that may be measured, for [`Tuning::found`].
    fn code(&self) -> usize {
        let shape = MatVecShape::ALL.iter().position(|shape| Some(*shape) == self.mat_vec).unwrap_or(0);
        let tile = MatMulTile::ALL.iter().position(|tile| Some(*tile) == self.tile).unwrap_or(0);
        (shape * MatMulTile::ALL.len() + tile) * 2 + usize::from(self.subgroups == Some(true))
    }
}

impl GpuDevice {
    /// Measures products with weights in the format `dtype`. Gives one line of text for [`Tuning::found`] and for people:
    /// the fastest ways, their number first, and of each way that was measured the microseconds of a product. Without
    /// `packed` none is taken that rounds activations to 8 bits.
    /// # Errors
    /// What a backend says; no kernel that does not compile is an error.
    pub async fn tune(&self, dtype: DType, precision: Precision, packed: bool) -> Result<String> {
        let start = Instant::now();
        let usual = Tuning { fuse: false, ..Tuning::default() }.on(self.info());
        // The usual way comes first: the others are compared with it.
        let mut ways = vec![usual];
        for shape in MatVecShape::ALL {
            for subgroups in [true, false] {
                let way = Tuning { mat_vec: Some(shape), subgroups: Some(subgroups), ..usual };
                if way != usual && way == way.on(self.info()) {
                    ways.push(way);
                }
            }
        }
        // Matrices as large as real ones, where a small one does not say already that the device is slow.
        let small = self.time(dtype, precision, usual, (1, SMALL)).await;
        let width = match small {
            Ok(microseconds) if microseconds < SLOW_MICROSECONDS => LARGE,
            _ => SMALL,
        };
        let mut best = usual;
        let mut table = String::new();
        for n_tokens in [1, 64] {
            let mut shortest = f64::INFINITY;
            for way in ways {
                if shortest.is_finite() && start.elapsed().as_millis() > BUDGET_MS {
                    break;
                }
                let Ok(microseconds) = self.time(dtype, precision, way, (n_tokens, width)).await else {
                    self.check()?;
                    continue;
                };
                // Whole microseconds are too few of a small matrix on a fast device.
                let tenths = (microseconds * 10.0) as u64;
                let _ = write!(table, "; {} {}.{} us", name(&way, n_tokens), tenths / 10, tenths % 10);
                let worth = if way.tile.is_some_and(|tile| tile.packed) { PACKED_WORTH } else { WORTH };
                if microseconds < shortest * worth {
                    (shortest, best) = (microseconds, way);
                }
            }
            ways = vec![best];
            let others = MatMulTile::ALL.into_iter().filter(|tile| {
                Some(*tile) != best.tile && (packed || !tile.packed) && tile.of_weights(dtype, 32).0 == *tile
            });
            ways.extend(others.map(|tile| Tuning { tile: Some(tile), ..best }));
        }
        let (few, many) = (name(&best, 1), name(&best, 64));
        Ok(format!("{}: {few}, {many}; measured in {} ms{table}", best.code(), start.elapsed().as_millis()))
    }

    /// Microseconds of a product of `n_tokens` rows with a matrix of `width` rows and columns.
    async fn time(
        &self,
        dtype: DType,
        precision: Precision,
        way: Tuning,
        (n_tokens, width): (usize, usize),
    ) -> Result<f64> {
        let n_products = match (n_tokens, width) {
            (1, _) => 96,
            (_, SMALL) => 2,
            _ => 6,
        };
        let graph = products(width, n_products);
        let dtypes = graph.weights.iter().map(|weight| match weight.kind {
            WeightKind::Embedding => DType::F32,
            _ => dtype,
        });
        let dtypes = dtypes.collect();
        let plan =
            ModelPlan { dtypes, graph, n_ctx: n_tokens, n_batch: n_tokens, n_sequences: 1, kv_cache: None };
        let mut backend = GpuBackend::with_tuning(plan, self.clone(), precision, way).await?;
        backend.leave_empty();
        let tokens = vec![0; n_tokens];
        let mut shortest = f64::INFINITY;
        for run in 0..=RUNS {
            let start = Instant::now();
            backend.forward(&tokens, 0, Outputs::Last).await?;
            let milliseconds = start.elapsed().as_secs_f64() * 1e3;
            // The first run warms up, and may compile.
            if run > 0 {
                shortest = shortest.min(milliseconds * 1e3);
                if milliseconds > LONG_MS {
                    break;
                }
            }
        }
        Ok(shortest / n_products as f64)
    }
}

/// What a way is called in a table.
fn name(way: &Tuning, n_tokens: usize) -> String {
    match (n_tokens, way.mat_vec, way.tile) {
        (1, Some(MatVecShape { k_lanes, lanes_n, rows }), _) => {
            let how = if way.subgroups == Some(true) { " with subgroups" } else { "" };
            format!("mat-vec {k_lanes} x {lanes_n} lanes, {rows} rows{how}")
        }
        (_, _, tile) => {
            let MatMulTile { w, x, packed } = tile.unwrap_or(MatMulTile::USUAL);
            format!("mat-mul {w} x {x}{}", if packed { " packed" } else { "" })
        }
    }
}

/// `n` products, one behind the other, of square matrices.
fn products(width: usize, n: usize) -> Graph {
    let weight = |name: &str, n_rows, kind| WeightDecl {
        part_of: None,
        name: name.to_owned(),
        n_cols: width,
        n_rows,
        kind,
    };
    let value = |name: &str, rows| ValueDecl { name: name.to_owned(), width, rows };
    let mut weights = vec![weight("rows", 1, WeightKind::Embedding)];
    weights.extend((0..MATRICES).map(|_| weight("matrix", width, WeightKind::Matrix)));
    let mut ops = vec![Op::Embed { table: WeightId(0), scale: 1.0, out: ValueId(0) }];
    ops.extend((0..n).map(|index| Op::MatMul {
        x: ValueId(index % 2),
        weight: WeightId(1 + index % MATRICES),
        bias: None,
        add: None,
        scale: 1.0,
        out: ValueId(1 - index % 2),
    }));
    ops.push(Op::TakeOutputs { x: ValueId(n % 2), out: ValueId(2) });
    Graph {
        weights,
        values: vec![value("a", Rows::Tokens), value("b", Rows::Tokens), value("last", Rows::Outputs)],
        ops,
        logits: Some(ValueId(2)),
        ..Graph::default()
    }
}
