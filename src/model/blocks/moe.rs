//! Mixture of experts. Must not know families.

use super::{Branch, Builder};
use crate::model::graph::{Op, Rows, ValueId, WeightId, WeightKind};
use crate::model::names;
use crate::model::spec::{Activation, Gating, MoeSpec, Routing, SharedExpert};

impl Builder<'_> {
    /// The chosen experts' outputs over `normed`, and the shared expert's. The branch's factor is one of the weights.
    pub(super) fn moe(&mut self, index: usize, spec: &MoeSpec, normed: ValueId, branch: Branch) {
        let n_experts = spec.routing.n_experts;
        let choice_bias = names::layer(index, "exp_probs_b.bias");
        let choice_bias = (self.has_tensor)(&choice_bias).then(|| self.vector(&choice_bias, n_experts));
        let routing = Routing { scale: spec.routing.scale * branch.scale, ..spec.routing };
        let selection = self.route(index, "ffn_gate_inp", routing, choice_bias, normed);
        let activated = self.expert_gates(index, spec, normed, selection);
        let n_embd = self.graph.values[branch.out.0].width;
        let down = self.experts(index, "ffn_down_exps", (activated, selection), n_experts, n_embd);
        self.push(Op::ExpertSum { x: down, selection, add: branch.add, out: branch.out });
        if let Some(shared) = spec.shared {
            let branch = Branch { add: Some(branch.out), ..branch };
            self.shared_expert(index, shared, spec.activation, normed, branch);
        }
    }

    /// Experts and weights by the logits `{role}.weight · normed (+ {role}.bias)`.
    fn route(
        &mut self,
        index: usize,
        role: &str,
        routing: Routing,
        choice_bias: Option<WeightId>,
        normed: ValueId,
    ) -> ValueId {
        let value = format!("layers.{index}.{role}");
        let logits = self.linear(&value, &names::layer(index, role), normed, routing.n_experts);
        let out = self.value(&format!("{value}_chosen"), 2 * routing.n_used, Rows::Tokens);
        self.push(Op::Route { logits, routing, choice_bias, out });
        out
    }

    /// `act(gate(x)) * up(x)` of each chosen expert, `[n_used, n_ff]`; from one tensor where the file fuses the two.
    fn expert_gates(&mut self, index: usize, spec: &MoeSpec, x: ValueId, selection: ValueId) -> ValueId {
        let MoeSpec { routing: Routing { n_experts, n_used, .. }, n_ff, activation, .. } = *spec;
        const FUSED: &str = "ffn_gate_up_exps";
        if (self.has_tensor)(&names::layer(index, &format!("{FUSED}.weight"))) {
            let both = self.experts(index, FUSED, (x, selection), n_experts, 2 * n_ff);
            let out = self.value(&format!("layers.{index}.ffn_moe_act"), n_used * n_ff, Rows::Tokens);
            self.push(Op::FusedGatedActivation { x: both, n_ff, activation, out });
            return out;
        }
        let gate = self.experts(index, "ffn_gate_exps", (x, selection), n_experts, n_ff);
        let up = self.experts(index, "ffn_up_exps", (x, selection), n_experts, n_ff);
        self.push(Op::GatedActivation { gate, up, activation, out: gate });
        gate
    }

    /// The products of the chosen experts of `{role}.weight (+ {role}.bias)`, `[n_used, n_out]`.
    fn experts(
        &mut self,
        index: usize,
        role: &str,
        (x, selection): (ValueId, ValueId),
        n_experts: usize,
        n_out: usize,
    ) -> ValueId {
        let n_used = self.graph.values[selection.0].width / 2;
        let width = self.graph.values[x.0].width;
        // The source of the last product has a row for each chosen expert, the others share the token's.
        let n_cols = if role == "ffn_down_exps" { width / n_used } else { width };
        let tensor = names::layer(index, role);
        let n_rows = n_experts * n_out;
        let weight = self.weight(&format!("{tensor}.weight"), n_cols, n_rows, WeightKind::Matrix);
        let bias = format!("{tensor}.bias");
        let bias = (self.has_tensor)(&bias).then(|| self.vector(&bias, n_rows));
        let out = self.value(&format!("layers.{index}.{role}"), n_used * n_out, Rows::Tokens);
        self.push(Op::ExpertMatMul { x, selection, weight, bias, n_experts, out });
        out
    }

    /// The expert that all tokens use. Where it is gated it counts as a choice of one of one, weighted by a sigmoid.
    fn shared_expert(
        &mut self,
        index: usize,
        shared: SharedExpert,
        activation: Activation,
        normed: ValueId,
        branch: Branch,
    ) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        let gate = self.linear(&value("ffn_gate_shexp"), &tensor("ffn_gate_shexp"), normed, shared.n_ff);
        let up = self.linear(&value("ffn_up_shexp"), &tensor("ffn_up_shexp"), normed, shared.n_ff);
        self.push(Op::GatedActivation { gate, up, activation, out: gate });
        if !shared.gated {
            return self.project(&tensor("ffn_down_shexp"), gate, branch);
        }
        let routing = Routing {
            n_experts: 1,
            n_used: 1,
            gating: Gating::Sigmoid,
            renormalize: false,
            scale: branch.scale,
        };
        let selection = self.route(index, "ffn_gate_inp_shexp", routing, None, normed);
        let n_embd = self.graph.values[branch.out.0].width;
        let down = self.linear(&value("ffn_down_shexp"), &tensor("ffn_down_shexp"), gate, n_embd);
        self.push(Op::ExpertSum { x: down, selection, add: branch.add, out: branch.out });
    }
}
