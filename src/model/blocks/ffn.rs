//! Feed-forward blocks. Must not know families.

use super::Builder;
use crate::model::graph::{Op, Rows, ValueId};
use crate::model::names;
use crate::model::spec::FfnSpec;

impl Builder<'_> {
    /// The feed-forward block over `normed`, added to the residual stream `x`.
    pub(super) fn ffn(&mut self, index: usize, spec: &FfnSpec, normed: ValueId, x: ValueId) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        match *spec {
            FfnSpec::Gated { n_ff, activation } => {
                let gate = self.linear(&value("ffn_gate"), &tensor("ffn_gate"), normed, n_ff);
                let up = self.linear(&value("ffn_up"), &tensor("ffn_up"), normed, n_ff);
                let out = self.value(&value("ffn_act"), n_ff, Rows::Tokens);
                self.push(Op::GatedActivation { gate, up, activation, out });
                self.linear_into(&tensor("ffn_down"), out, Some(x), x);
            }
        }
    }
}
