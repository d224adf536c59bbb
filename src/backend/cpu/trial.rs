//! A product by itself, to find out how fast it is here and now.
//!
//! Principal type: [`Trial`]. Must not know why.

use super::{CpuBackend, CpuMode};
use crate::backend::{Backend, ModelPlan, Outputs};
use crate::error::Result;
use crate::model::graph::{Graph, Op, Rows, ValueDecl, ValueId, WeightDecl, WeightId, WeightKind};
use crate::tensor::DType;

/// Columns of the matrix.
const N_COLS: usize = 512;

/// A matrix, and a vector to multiply it with.
pub struct Trial {
    backend: CpuBackend,
    n_rows: usize,
}

impl Trial {
    /// Of about so many multiplications.
    /// # Errors
    /// `OutOfMemory`.
    pub async fn new(products: f64) -> Result<Trial> {
        let n_rows = (products as usize / N_COLS).max(4);
        let weight = |name: &str, kind, n_rows| WeightDecl {
            name: name.to_owned(),
            n_cols: N_COLS,
            n_rows,
            kind,
            part_of: None,
        };
        let value = |width, rows| ValueDecl { name: String::new(), width, rows };
        let (token, x, out) = (ValueId(0), ValueId(1), ValueId(2));
        let product = Op::MatMul { x, weight: WeightId(1), bias: None, add: None, scale: 1.0, out };
        let graph = Graph {
            values: vec![
                value(N_COLS, Rows::Tokens),
                value(N_COLS, Rows::Outputs),
                value(n_rows, Rows::Outputs),
            ],
            weights: vec![weight("t", WeightKind::Embedding, 1), weight("w", WeightKind::Matrix, n_rows)],
            ops: vec![
                Op::Embed { table: WeightId(0), scale: 1.0, out: token },
                Op::TakeOutputs { x: token, out: x },
                product,
            ],
            logits: Some(out),
            ..Graph::default()
        };
        let plan = ModelPlan {
            graph,
            dtypes: vec![DType::Q4_0; 2],
            n_ctx: 1,
            n_batch: 1,
            n_sequences: 1,
            kv_cache: None,
        };
        let mut backend = CpuBackend::new(plan, CpuMode::Fast)?;
        let row = vec![0; N_COLS / 32 * 18];
        backend.upload(0, 0, &row)?;
        backend.upload(1, 0, &row.repeat(n_rows))?;
        backend.finish_upload().await?;
        Ok(Trial { backend, n_rows })
    }

    /// Multiplies once; gives the number of multiplications.
    /// # Errors
    /// None that a computation could have.
    pub async fn run(&mut self) -> Result<f64> {
        let logits = self.backend.forward(&[0], 0, Outputs::Last).await?;
        self.backend.reuse(logits);
        Ok((N_COLS * self.n_rows) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::exchange::at_once;

    #[test]
    fn a_trial_of_any_size_runs() {
        for products in [0.0, 1e5, 2.1e6] {
            let mut trial = at_once(Trial::new(products)).expect("a trial");
            for _ in 0..2 {
                let done = at_once(trial.run()).expect("a product");
                assert!((done - products).abs() <= 2048.0, "{done} of {products}");
            }
        }
    }
}
