//! LFM2's gated short convolution. Must not know families.

use super::{Branch, Builder};
use crate::model::graph::{Binary, Op, Operand, Rows, ValueId};
use crate::model::names;
use crate::model::spec::ShortConvSpec;

impl Builder<'_> {
    /// `out_proj(c * conv(b * x))` over `normed`; the file fuses the projections to b, c and x in this order.
    pub(super) fn short_conv(&mut self, index: usize, spec: ShortConvSpec, normed: ValueId, branch: Branch) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        let (width, kernel) = (self.graph.values[normed.0].width, spec.kernel);
        let fused = tensor("shortconv.in_proj");
        let [b, c, x] = [("b", 0), ("c", 1), ("x", 2)].map(|(part, at)| {
            let (name, part) = (value(&format!("conv_{part}")), tensor(&format!("shortconv.in_proj_{part}")));
            self.linear_part(&name, &part, (&fused, at * width), normed, width)
        });
        self.push(Op::Combine { a: b, b: Operand::Value(x), f: Binary::Mul, out: b });
        let weight = self.vector(&tensor("shortconv.conv.weight"), width * kernel);
        let bias = self.bias(&tensor("shortconv.conv"), width);
        let state = self.state((kernel - 1) * width, 0.0);
        let out = self.value(&value("conv"), width, Rows::Tokens);
        self.push(Op::ShortConv { x: b, weight, bias, kernel, state, out });
        self.push(Op::Combine { a: out, b: Operand::Value(c), f: Binary::Mul, out });
        self.project(&tensor("shortconv.out_proj"), out, branch);
    }
}
