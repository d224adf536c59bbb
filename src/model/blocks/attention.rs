//! The attention block. Must not know families.

use super::Builder;
use crate::model::graph::{KvDecl, Op, Rows, ValueId};
use crate::model::names;
use crate::model::spec::AttentionSpec;

impl Builder<'_> {
    /// Self-attention over `normed`, added to the residual stream `x`.
    pub(super) fn attention(&mut self, index: usize, spec: &AttentionSpec, normed: ValueId, x: ValueId) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        let (n_q, n_kv) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let q = self.linear(&value("q"), &tensor("attn_q"), normed, n_q);
        let k = self.linear(&value("k"), &tensor("attn_k"), normed, n_kv);
        let v = self.linear(&value("v"), &tensor("attn_v"), normed, n_kv);
        let rope = spec.rope.as_ref().map(|rope| self.rope(rope));
        let kv = self.graph.kv.len();
        self.graph.kv.push(KvDecl { n_kv_heads: spec.n_kv_heads, head_dim: spec.head_dim });
        let (n_heads, kv_rows) = (spec.n_heads, Some((k, v)));
        self.push(Op::RopeKvWrite { q, kv_rows, n_heads, rope, q_scale: spec.q_scale, kv });
        let out = self.value(&value("attn_out"), n_q, Rows::Tokens);
        self.push(Op::Attention {
            q,
            kv,
            n_heads,
            scale: spec.scale,
            window: spec.window,
            softcap: spec.softcap,
            causal: spec.causal,
            sinks: None,
            out,
        });
        self.linear_into(&tensor("attn_output"), out, Some(x), x);
    }
}
