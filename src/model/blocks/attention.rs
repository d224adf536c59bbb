//! The attention block. Must not know families.

use super::{Branch, Builder};
use crate::model::graph::{Binary, KvDecl, Op, Operand, Rows, Unary, ValueDecl, ValueId};
use crate::model::names;
use crate::model::spec::{AttentionSpec, NormSpec, QkNormOver};

impl Builder<'_> {
    /// Self-attention over `normed`.
    pub(super) fn attention(&mut self, index: usize, spec: &AttentionSpec, normed: ValueId, branch: Branch) {
        let value = |name: &str| format!("layers.{index}.{name}");
        let (n_heads, n_kv_heads, head_dim) = (spec.n_heads, spec.n_kv_heads, spec.head_dim);
        let n_q = n_heads * head_dim;
        let q = self.heads(index, spec, "q", normed);
        let (q, gate) = match spec.gated {
            true => self.query_and_gate(index, spec, q),
            false => (q, None),
        };
        let q = self.normed_heads(index, spec, "q", q);
        let (kv, kv_rows) = match spec.kv_from {
            Some(layer) => (self.kv_of_layer[layer], None),
            None => {
                let k = self.heads(index, spec, "k", normed);
                let has_v = (self.has_tensor)(&names::layer(index, "attn_v.weight"));
                let v = match spec.keys_as_values && !has_v {
                    true => k,
                    false => self.heads(index, spec, "v", normed),
                };
                let [k, v] = [("k", k), ("v", v)].map(|(which, x)| self.normed_heads(index, spec, which, x));
                self.graph.kv.push(KvDecl { n_kv_heads, head_dim, window: Some(0) });
                (self.graph.kv.len() - 1, Some((k, v)))
            }
        };
        self.kv_of_layer.resize(index, usize::MAX);
        self.kv_of_layer.push(kv);
        let rope = spec.rope.as_ref().map(|rope| self.rope(rope));
        self.push(Op::RopeKvWrite { q, kv_rows, n_heads, rope, q_scale: spec.q_scale, kv });
        let sinks = spec.sinks.then(|| self.vector(&names::layer(index, "attn_sinks.weight"), n_heads));
        let out = self.value(&value("attn_out"), n_q, Rows::Tokens);
        let AttentionSpec { scale, window, softcap, causal, .. } = *spec;
        // As much as any of the layers that read a cache sees.
        let seen = &mut self.graph.kv[kv].window;
        *seen = seen.zip(window.filter(|_| causal)).map(|(a, b)| a.max(b));
        self.push(Op::Attention { q, kv, n_heads, scale, window, softcap, causal, sinks, out });
        if let Some(gate) = gate {
            self.push(Op::Combine { a: out, b: Operand::Value(gate), f: Binary::Mul, out });
        }
        self.project(&names::layer(index, "attn_output"), out, branch);
    }

    /// The queries, and the factors on the result, of heads that have a gate behind each query.
    fn query_and_gate(
        &mut self,
        index: usize,
        spec: &AttentionSpec,
        x: ValueId,
    ) -> (ValueId, Option<ValueId>) {
        let run = spec.head_dim;
        let [q, gate] = [("query", 0), ("query_gate", run)].map(|(name, first)| {
            let out = self.value(&format!("layers.{index}.{name}"), spec.n_heads * run, Rows::Tokens);
            self.push(Op::Columns { x, first, run, stride: 2 * run, out });
            out
        });
        self.push(Op::Map { x: gate, f: Unary::Sigmoid, out: gate });
        (q, Some(gate))
    }

    /// Queries (with their gates), keys or values (`which`); from the fused tensor `attn_qkv` where the file has that.
    fn heads(&mut self, index: usize, spec: &AttentionSpec, which: &str, normed: ValueId) -> ValueId {
        let value = format!("layers.{index}.{which}");
        let tensor = names::layer(index, &format!("attn_{which}"));
        let (n_q, n_kv) = (spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim);
        let n_q = if spec.gated { 2 * n_q } else { n_q };
        let (first_row, width) = match which {
            "q" => (0, n_q),
            "k" => (n_q, n_kv),
            _ => (n_q + n_kv, n_kv),
        };
        let fused = names::layer(index, "attn_qkv");
        match (self.has_tensor)(&format!("{fused}.weight")) {
            true => self.linear_part(&value, &tensor, (&fused, first_row), normed, width),
            false => self.linear(&value, &tensor, normed, width),
        }
    }

    /// Queries, keys or values, normalised where the model does that.
    fn normed_heads(&mut self, index: usize, spec: &AttentionSpec, which: &str, x: ValueId) -> ValueId {
        let width = self.graph.values[x.0].width;
        match (which, spec.qk_norm, spec.v_norm) {
            ("v", _, Some(norm)) => self.head_norm(norm, None, spec.head_dim, x),
            ("q" | "k", Some(qk), _) => {
                let tensor = names::layer(index, &format!("attn_{which}_norm"));
                let held = (self.has_tensor)(&format!("{tensor}.weight"));
                if qk.over == QkNormOver::EachHead && !held {
                    return x;
                }
                let (group, n_weights) = match qk.over {
                    QkNormOver::Head => (spec.head_dim, spec.head_dim),
                    QkNormOver::EachHead => (spec.head_dim, width),
                    QkNormOver::Row => (width, width),
                };
                self.head_norm(qk.norm, Some((&tensor, n_weights)), group, x)
            }
            _ => x,
        }
    }

    /// `x` with every run of `group` elements normalised, times the weights of a tensor if one is given.
    fn head_norm(
        &mut self,
        norm: NormSpec,
        tensor: Option<(&str, usize)>,
        group: usize,
        x: ValueId,
    ) -> ValueId {
        let ValueDecl { name, width, rows } = self.graph.values[x.0].clone();
        let weight = tensor.map(|(tensor, n)| self.vector(&format!("{tensor}.weight"), n));
        let bias = tensor.and_then(|(tensor, n)| self.bias(tensor, n));
        let out = self.value(&format!("{name}_norm"), width, rows);
        self.push(Op::Norm { x, norm, group, weight, bias, add: None, out });
        out
    }
}
