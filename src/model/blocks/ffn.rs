//! Feed-forward blocks. Must not know families.

use super::{Branch, Builder};
use crate::model::graph::{Op, Rows, Unary, ValueId};
use crate::model::names;
use crate::model::spec::FfnSpec;

impl Builder<'_> {
    /// The feed-forward block over `normed`.
    pub(super) fn ffn(&mut self, index: usize, spec: &FfnSpec, normed: ValueId, branch: Branch) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        let out = match *spec {
            FfnSpec::Gated { n_ff, activation } => {
                let (gate, up) = self.gate_and_up(index, n_ff, normed);
                let out = self.value(&value("ffn_act"), n_ff, Rows::Tokens);
                self.push(Op::GatedActivation { gate, up, activation, out });
                out
            }
            FfnSpec::Plain { n_ff, activation } => {
                let up = self.linear(&value("ffn_up"), &tensor("ffn_up"), normed, n_ff);
                self.push(Op::Map { x: up, f: Unary::Activation(activation), out: up });
                up
            }
            FfnSpec::Moe(moe) => return self.moe(index, &moe, normed, branch),
            FfnSpec::ChannelMix(ref spec) => return self.channel_mix(index, spec, normed, branch),
        };
        self.project(&tensor("ffn_down"), out, branch);
    }

    /// Gate and multiplier; a file without `ffn_gate` holds both in `ffn_up`, the gate first (Phi-3).
    pub(super) fn gate_and_up(&mut self, index: usize, n_ff: usize, normed: ValueId) -> (ValueId, ValueId) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let (gate, up) = (names::layer(index, "ffn_gate"), names::layer(index, "ffn_up"));
        let has = |tensor: &str| (self.has_tensor)(&format!("{tensor}.weight"));
        if has(&gate) || !has(&up) {
            let gate = self.linear(&value("ffn_gate"), &gate, normed, n_ff);
            return (gate, self.linear(&value("ffn_up"), &up, normed, n_ff));
        }
        let fused = names::layer(index, "ffn_up");
        let gate = self.linear_part(&value("ffn_gate"), &gate, (&fused, 0), normed, n_ff);
        (gate, self.linear_part(&value("ffn_up"), &up, (&fused, n_ff), normed, n_ff))
    }
}
