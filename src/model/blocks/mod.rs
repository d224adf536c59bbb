//! From specification to graph: the blocks that layers are made of.
//!
//! Principal function: [`build_graph`]. A new family needs nothing here as long as its blocks exist; a new block is a
//! file beside this one and a variant of [`super::spec::MixerSpec`] or [`super::spec::FfnSpec`].

mod altup;
mod attention;
mod delta_net;
mod ffn;
mod moe;
mod short_conv;
mod time_mix;

use std::collections::HashMap;

use super::graph::{
    Binary, Graph, Op, Operand, RopeDecl, RopeId, Rows, Unary, ValueDecl, ValueId, WeightDecl, WeightId,
    WeightKind,
};
use super::names;
use super::spec::{
    FfnSpec, HeadSpec, LayerSpec, MixerSpec, ModelSpec, NormSpec, PostNorms, RopeScaling, RopeSpec,
};

/// Builds the graph of `spec`. `has_tensor` tells which optional tensors the file holds (a separate output head,
/// biases, rope frequency factors); required ones are declared whether there or not, and missed by the loader by name.
pub fn build_graph(spec: &ModelSpec, has_tensor: impl Fn(&str) -> bool) -> Graph {
    build(spec, &has_tensor)
}

fn build(spec: &ModelSpec, has_tensor: &dyn Fn(&str) -> bool) -> Graph {
    let mut b = Builder {
        graph: Graph::default(),
        by_name: HashMap::new(),
        has_tensor,
        kv_of_layer: Vec::new(),
        first_values: None,
    };
    let n_embd = spec.n_embd;
    let table = b.weight(names::TOKEN_EMBD, n_embd, spec.n_vocab, WeightKind::Embedding);
    let x = b.value("embd", n_embd, Rows::Tokens);
    b.push(Op::Embed { table, scale: spec.embed_scale, out: x });
    b.add_to_embeddings(spec, x);
    let mut x = match spec.embed_norm {
        Some(norm) => b.norm("embd_norm", norm, "token_embd_norm", x),
        None => x,
    };
    if let Some(half) = spec.embed_rounding {
        b.push(Op::Map { x, f: Unary::Round(half), out: x });
    }
    match &spec.altup {
        Some(altup) => x = b.altup_layers(spec, altup, x),
        None => {
            let per_layer = spec.per_layer.map(|per_layer| b.per_layer_embeddings(spec, per_layer, x));
            for (index, layer) in spec.layers.iter().enumerate() {
                x = b.layer(index, layer, x);
                if let Some((own, norm)) = per_layer.zip(layer.attn_norm) {
                    b.add_own_embedding(index, norm, own, x);
                }
                b.scale_layer(index, x);
            }
        }
    }
    let last = b.value("output_rows", n_embd, Rows::Outputs);
    b.push(Op::TakeOutputs { x, out: last });
    let hidden = match spec.output_norm {
        Some(norm) => {
            // LFM2's files have it under the name of the norm behind the embedding.
            let other = !has_tensor("output_norm.weight") && has_tensor("token_embd_norm.weight");
            let tensor = if other && spec.embed_norm.is_none() { "token_embd_norm" } else { "output_norm" };
            b.norm("output_norm", norm, tensor, last)
        }
        None => last,
    };
    b.graph.logits = Some(match spec.head {
        HeadSpec::Embedding { .. } => b.embedding(spec, hidden),
        HeadSpec::Logits => b.logits(spec, hidden, table),
    });
    b.graph
}

/// Where the last op of a branch (attention, feed-forward) leaves its result: on the residual stream, or in a value
/// that is normalised before it is added.
#[derive(Clone, Copy)]
struct Branch {
    add: Option<ValueId>,
    /// Factor on the branch.
    scale: f32,
    out: ValueId,
}

/// The operands of [`Op::MatMul`].
struct Product {
    x: ValueId,
    weight: WeightId,
    bias: Option<WeightId>,
    add: Option<ValueId>,
    scale: f32,
    out: ValueId,
}

struct Builder<'a> {
    graph: Graph,
    by_name: HashMap<String, WeightId>,
    has_tensor: &'a dyn Fn(&str) -> bool,
    /// The cache that each layer so far reads.
    kv_of_layer: Vec<usize>,
    /// The first RWKV 7 layer's values, of which later ones take a share.
    first_values: Option<ValueId>,
}

impl Builder<'_> {
    fn push(&mut self, op: Op) {
        self.graph.ops.push(op);
    }

    fn weight(&mut self, name: &str, n_cols: usize, n_rows: usize, kind: WeightKind) -> WeightId {
        self.weight_part(name, None, n_cols, n_rows, kind)
    }

    /// A weight that may be a run of rows of a fused tensor (of elements, for a vector).
    fn weight_part(
        &mut self,
        name: &str,
        part_of: Option<(String, usize)>,
        n_cols: usize,
        n_rows: usize,
        kind: WeightKind,
    ) -> WeightId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = WeightId(self.graph.weights.len());
        self.graph.weights.push(WeightDecl { name: name.to_owned(), part_of, n_cols, n_rows, kind });
        self.by_name.insert(name.to_owned(), id);
        id
    }

    fn vector(&mut self, name: &str, width: usize) -> WeightId {
        self.weight(name, width, 1, WeightKind::Vector)
    }

    fn value(&mut self, name: &str, width: usize, rows: Rows) -> ValueId {
        let id = ValueId(self.graph.values.len());
        self.graph.values.push(ValueDecl { name: name.to_owned(), width, rows });
        id
    }

    /// `x` normalised by the tensors `{tensor}.weight` and, where the file holds one, `{tensor}.bias`.
    fn norm(&mut self, value: &str, norm: NormSpec, tensor: &str, x: ValueId) -> ValueId {
        let ValueDecl { width, rows, .. } = self.graph.values[x.0];
        let out = self.value(value, width, rows);
        self.norm_into(norm, tensor, width, x, None, out);
        out
    }

    /// As [`Self::norm`], in runs of `group` elements that share their weights, into `out`, with an optional residual.
    fn norm_into(
        &mut self,
        norm: NormSpec,
        tensor: &str,
        group: usize,
        x: ValueId,
        add: Option<ValueId>,
        out: ValueId,
    ) {
        let weight = Some(self.vector(&format!("{tensor}.weight"), group));
        let bias = self.bias(tensor, group);
        self.push(Op::Norm { x, norm, group, weight, bias, add, out });
    }

    /// `{tensor}.weight · x (+ {tensor}.bias)` into a new value.
    fn linear(&mut self, value: &str, tensor: &str, x: ValueId, n_out: usize) -> ValueId {
        let out = self.value(value, n_out, Rows::Tokens);
        self.linear_into(tensor, x, None, out);
        out
    }

    /// As [`Self::linear`], into `out`, with an optional residual. A bias is added where the file holds one: no family
    /// has a key for it, and files of one architecture differ.
    fn linear_into(&mut self, tensor: &str, x: ValueId, add: Option<ValueId>, out: ValueId) {
        let x = self.ordered(tensor, x);
        let n_in = self.graph.values[x.0].width;
        let n_out = self.graph.values[out.0].width;
        let weight = self.weight(&format!("{tensor}.weight"), n_in, n_out, WeightKind::Matrix);
        let bias = self.bias(tensor, n_out);
        self.product(tensor, Product { x, weight, bias, add, scale: 1.0, out });
    }

    /// `x` in the order of the columns of `{tensor}.weight`, where that is another than its own (`{tensor}.perm`: GPTQ with
    /// act-order).
    fn ordered(&mut self, tensor: &str, x: ValueId) -> ValueId {
        let order = format!("{tensor}.perm");
        if !(self.has_tensor)(&order) {
            return x;
        }
        let ValueDecl { width, rows, .. } = self.graph.values[x.0];
        let index = self.vector(&order, width);
        let out = self.value(&format!("{tensor}.ordered"), width, rows);
        self.push(Op::Permute { x, index, out });
        out
    }

    /// `{tensor}.bias`, where the file holds one.
    fn bias(&mut self, tensor: &str, width: usize) -> Option<WeightId> {
        let bias = format!("{tensor}.bias");
        (self.has_tensor)(&bias).then(|| self.vector(&bias, width))
    }

    /// As [`Self::linear`], with rows `first_row..` of the fused tensor `fused` and of its bias.
    fn linear_part(
        &mut self,
        value: &str,
        tensor: &str,
        (fused, first_row): (&str, usize),
        x: ValueId,
        n_out: usize,
    ) -> ValueId {
        let x = self.ordered(fused, x);
        let n_in = self.graph.values[x.0].width;
        let part = |kind: &str| Some((format!("{fused}.{kind}"), first_row));
        let weight = format!("{tensor}.weight");
        let weight = self.weight_part(&weight, part("weight"), n_in, n_out, WeightKind::Matrix);
        let bias = (self.has_tensor)(&format!("{fused}.bias"))
            .then(|| self.weight_part(&format!("{tensor}.bias"), part("bias"), n_out, 1, WeightKind::Vector));
        let out = self.value(value, n_out, Rows::Tokens);
        self.product(fused, Product { x, weight, bias, add: None, scale: 1.0, out });
        out
    }

    /// A product with `{tensor}.weight`, times the one number of `{tensor}.scale` where the file holds that (NVFP4).
    fn product(&mut self, tensor: &str, product: Product) {
        let Product { x, weight, bias, add, scale, out } = product;
        let factor = format!("{tensor}.scale");
        if !(self.has_tensor)(&factor) {
            return self.push(Op::MatMul { x, weight, bias, add, scale, out });
        }
        let ValueDecl { name, width, rows } = self.graph.values[out.0].clone();
        let factor = Operand::Vector(self.vector(&factor, 1));
        let sum = if add.is_some() { self.value(&format!("{name}_product"), width, rows) } else { out };
        self.push(Op::MatMul { x, weight, bias: None, add: None, scale: 1.0, out: sum });
        self.push(Op::Combine { a: sum, b: factor, f: Binary::Mul, out: sum });
        if let Some(bias) = bias {
            self.push(Op::Combine { a: sum, b: Operand::Vector(bias), f: Binary::Add, out: sum });
        }
        if scale != 1.0 {
            self.push(Op::Map { x: sum, f: Unary::Scale(scale), out: sum });
        }
        if let Some(add) = add {
            self.push(Op::Combine { a: add, b: Operand::Value(sum), f: Binary::Add, out });
        }
    }

    /// Begins a branch off the residual stream `x`, whose norm, if any, is `post` of kind `post_norms`.
    fn branch(&mut self, value: &str, post: Option<NormSpec>, layer: &LayerSpec, x: ValueId) -> Branch {
        let scale = layer.residual_scale;
        match (post, layer.post_norms) {
            (Some(_), PostNorms::Branch) => {
                let ValueDecl { width, rows, .. } = self.graph.values[x.0];
                Branch { add: None, scale, out: self.value(value, width, rows) }
            }
            _ => Branch { add: Some(x), scale, out: x },
        }
    }

    /// The last projection of a branch.
    fn project(&mut self, tensor: &str, y: ValueId, branch: Branch) {
        let Branch { add, scale, out } = branch;
        let y = self.ordered(tensor, y);
        let (n_in, n_out) = (self.graph.values[y.0].width, self.graph.values[out.0].width);
        let weight = self.weight(&format!("{tensor}.weight"), n_in, n_out, WeightKind::Matrix);
        let bias = self.bias(tensor, n_out);
        self.product(tensor, Product { x: y, weight, bias, add, scale, out });
    }

    /// Ends a branch: the residual stream behind it.
    fn merge(
        &mut self,
        value: &str,
        post: Option<(NormSpec, String)>,
        branch: Branch,
        x: ValueId,
    ) -> ValueId {
        let Some((norm, tensor)) = post else { return x };
        let width = self.graph.values[x.0].width;
        match branch.add {
            None => {
                self.norm_into(norm, &tensor, width, branch.out, Some(x), x);
                x
            }
            Some(_) => self.norm(value, norm, &tensor, x),
        }
    }

    /// Token types and learned positions, where the model has them.
    fn add_to_embeddings(&mut self, spec: &ModelSpec, x: ValueId) {
        if spec.token_types && (self.has_tensor)(names::TOKEN_TYPES) {
            let first_row = Some((names::TOKEN_TYPES.to_owned(), 0));
            let row = self.weight_part("token_types.0", first_row, spec.n_embd, 1, WeightKind::Vector);
            self.push(Op::Combine { a: x, b: Operand::Vector(row), f: Binary::Add, out: x });
        }
        if let Some(n_positions) = spec.n_positions {
            let table = self.weight(names::POSITION_EMBD, spec.n_embd, n_positions, WeightKind::Embedding);
            self.push(Op::AddPosition { x, table, out: x });
        }
    }

    /// The residual stream times the one number that files of Gemma 4 hold for a layer.
    fn scale_layer(&mut self, index: usize, x: ValueId) {
        let factor = names::layer(index, "layer_output_scale.weight");
        if (self.has_tensor)(&factor) {
            let b = Operand::Vector(self.vector(&factor, 1));
            self.push(Op::Combine { a: x, b, f: Binary::Mul, out: x });
        }
    }

    /// One layer on the residual stream `x`; gives the stream behind it.
    fn layer(&mut self, index: usize, layer: &LayerSpec, x: ValueId) -> ValueId {
        let value = |name: &str| format!("layers.{index}.{name}");
        let tensor = |role: &str| names::layer(index, role);
        let [post_attn, post_ffn] = match layer.post_norms {
            PostNorms::Branch => ["post_attention_norm", "post_ffw_norm"],
            PostNorms::Sum => ["attn_output_norm", "layer_output_norm"],
        };
        let attn_input = match layer.attn_norm {
            Some(norm) => self.norm(&value("attn_norm"), norm, &tensor("attn_norm"), x),
            None => x,
        };
        let branch = self.branch(&value("attn_proj"), layer.post_attn_norm, layer, x);
        match &layer.mixer {
            MixerSpec::Attention(attention) => self.attention(index, attention, attn_input, branch),
            MixerSpec::ShortConv(spec) => self.short_conv(index, *spec, attn_input, branch),
            MixerSpec::DeltaNet(spec) => self.delta_net(index, *spec, layer.attn_norm, attn_input, branch),
            MixerSpec::TimeMix(time_mix) => self.time_mix(index, time_mix, attn_input, branch),
        }
        let post = layer.post_attn_norm.map(|norm| (norm, tensor(post_attn)));
        let x = self.merge(&value("attn_residual"), post, branch, x);
        let ffn_input = match layer.ffn_norm {
            _ if layer.parallel => attn_input,
            Some(norm) => {
                let name = self.ffn_norm_name(index, layer);
                self.norm(&value("ffn_norm"), norm, &name, x)
            }
            None => x,
        };
        let branch = self.branch(&value("ffn_proj"), layer.post_ffn_norm, layer, x);
        self.ffn(index, &layer.ffn, ffn_input, branch);
        let post = layer.post_ffn_norm.map(|norm| (norm, tensor(post_ffn)));
        self.merge(&value("ffn_residual"), post, branch, x)
    }

    /// The norm before the feed-forward block; gpt-oss files name it after where it stands.
    fn ffn_norm_name(&self, index: usize, layer: &LayerSpec) -> String {
        if matches!(layer.ffn, FfnSpec::ChannelMix(_)) {
            return names::layer(index, "attn_norm_2");
        }
        let [usual, other] = ["ffn_norm", "post_attention_norm"].map(|role| names::layer(index, role));
        let has = |tensor: &str| (self.has_tensor)(&format!("{tensor}.weight"));
        if layer.post_attn_norm.is_none() && !has(&usual) && has(&other) { other } else { usual }
    }

    /// The layers behind the pooling (`dense_2`, `dense_3`; EmbeddingGemma), here before it: neither a mean nor the choice
    /// of a token sees a difference.
    fn embedding(&mut self, spec: &ModelSpec, mut hidden: ValueId) -> ValueId {
        for (index, n_out) in spec.dense.iter().enumerate() {
            let tensor = format!("dense_{}", index + 2);
            let out = self.value(&tensor, *n_out, Rows::Outputs);
            self.linear_into(&tensor, hidden, None, out);
            hidden = out;
        }
        hidden
    }

    /// Logits of the final hidden states; the head is the embedding table where the file has no other.
    fn logits(&mut self, spec: &ModelSpec, hidden: ValueId, table: WeightId) -> ValueId {
        let hidden = self.ordered("output", hidden);
        let weight = match (self.has_tensor)(names::OUTPUT) {
            true => self.weight(names::OUTPUT, spec.n_embd, spec.n_vocab, WeightKind::Matrix),
            false => table,
        };
        let bias =
            (self.has_tensor)(names::OUTPUT_BIAS).then(|| self.vector(names::OUTPUT_BIAS, spec.n_vocab));
        let logits = self.value("logits", spec.n_vocab, Rows::Outputs);
        let product = Product { x: hidden, weight, bias, add: None, scale: spec.logit_scale, out: logits };
        self.product("output", product);
        if let Some(cap) = spec.logit_softcap {
            self.push(Op::Map { x: logits, f: Unary::Softcap(cap), out: logits });
        }
        logits
    }

    /// The table for `rope`, shared by the layers that rotate alike.
    fn rope(&mut self, rope: &RopeSpec) -> RopeId {
        if let Some(found) = self.graph.ropes.iter().position(|other| other.spec == *rope) {
            return RopeId(found);
        }
        let names = match rope.scaling {
            _ if !rope.freq_factors => [None, None],
            RopeScaling::Long { .. } => [Some(names::ROPE_FACTORS_SHORT), Some(names::ROPE_FACTORS_LONG)],
            _ => [Some(names::ROPE_FREQS), None],
        };
        let present = names.map(|name| name.filter(|name| (self.has_tensor)(name)));
        let [factors, long_factors] = present.map(|name| name.map(|name| self.vector(name, rope.n_dims / 2)));
        self.graph.ropes.push(RopeDecl { spec: rope.clone(), factors, long_factors });
        RopeId(self.graph.ropes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::graph::KvDecl;
    use crate::model::spec::{Activation, AttentionSpec, FfnSpec, NormKind, RopeLayout};

    /// Two layers of width 8 with 2 query heads and 1 key/value head of 4, over a vocabulary of 16.
    fn spec() -> ModelSpec {
        let norm = NormSpec { kind: NormKind::Rms, eps: 1e-5 };
        let rope = RopeSpec {
            layout: RopeLayout::Norm,
            n_dims: 4,
            theta: 10_000.0,
            scaling: RopeScaling::None,
            freq_factors: true,
        };
        let attention = AttentionSpec {
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 4,
            rope: Some(rope),
            scale: 0.5,
            window: None,
            softcap: None,
            causal: true,
            qk_norm: None,
            v_norm: None,
            sinks: false,
            q_scale: None,
            gated: false,
            keys_as_values: false,
            kv_from: None,
        };
        let ffn = FfnSpec::Gated { n_ff: 12, activation: Activation::Silu };
        let layer = LayerSpec {
            attn_norm: Some(norm),
            mixer: MixerSpec::Attention(attention),
            post_attn_norm: None,
            ffn_norm: Some(norm),
            ffn,
            post_ffn_norm: None,
            post_norms: PostNorms::Branch,
            parallel: false,
            residual_scale: 1.0,
        };
        ModelSpec {
            family: "test",
            n_vocab: 16,
            n_embd: 8,
            n_ctx_train: 32,
            layers: vec![layer.clone(), layer],
            output_norm: Some(norm),
            embed_norm: None,
            n_positions: None,
            token_types: false,
            dense: Vec::new(),
            embed_rounding: None,
            altup: None,
            per_layer: None,
            embed_scale: 1.0,
            logit_scale: 1.0,
            logit_softcap: None,
            head: HeadSpec::Logits,
        }
    }

    /// A file that holds every optional tensor and no fused one.
    fn plain(name: &str) -> bool {
        !name.contains("attn_qkv")
    }

    fn shape(graph: &Graph, name: &str) -> Option<(usize, usize, WeightKind)> {
        let weight = graph.weights.iter().find(|weight| weight.name == name)?;
        Some((weight.n_cols, weight.n_rows, weight.kind))
    }

    #[test]
    fn weights_are_declared_once_with_their_shapes() {
        let graph = build_graph(&spec(), |_| false);
        let matrix = |n_cols, n_rows| Some((n_cols, n_rows, WeightKind::Matrix));
        assert_eq!(shape(&graph, "token_embd.weight"), Some((8, 16, WeightKind::Embedding)));
        assert_eq!(shape(&graph, "blk.1.attn_q.weight"), matrix(8, 8));
        assert_eq!(shape(&graph, "blk.1.attn_k.weight"), matrix(8, 4));
        assert_eq!(shape(&graph, "blk.1.attn_output.weight"), matrix(8, 8));
        assert_eq!(shape(&graph, "blk.0.ffn_down.weight"), matrix(12, 8));
        assert_eq!(shape(&graph, "output_norm.weight"), Some((8, 1, WeightKind::Vector)));
        // Nine tensors a layer, the table and the last norm; the head is tied and there are no biases.
        assert_eq!(graph.weights.len(), 2 * 9 + 2);
        let names: std::collections::HashSet<_> = graph.weights.iter().map(|weight| &weight.name).collect();
        assert_eq!(names.len(), graph.weights.len());
    }

    #[test]
    fn optional_tensors_are_used_where_the_file_holds_them() {
        let optional = ["output.weight", "rope_freqs.weight", "blk.0.attn_q.bias"];
        let graph = build_graph(&spec(), |name| optional.contains(&name));
        assert_eq!(shape(&graph, "output.weight"), Some((8, 16, WeightKind::Matrix)));
        assert_eq!(shape(&graph, "rope_freqs.weight"), Some((2, 1, WeightKind::Vector)));
        assert_eq!(shape(&graph, "blk.0.attn_q.bias"), Some((8, 1, WeightKind::Vector)));
        assert_eq!(shape(&graph, "blk.1.attn_q.bias"), None);
        let biased = graph.ops.iter().filter(|op| matches!(op, Op::MatMul { bias: Some(_), .. }));
        assert_eq!(biased.count(), 1);
    }

    #[test]
    fn layers_that_rotate_alike_share_a_table() {
        let mut spec = spec();
        assert_eq!(build_graph(&spec, plain).ropes.len(), 1);
        let MixerSpec::Attention(attention) = &mut spec.layers[1].mixer else { unreachable!() };
        attention.rope.as_mut().unwrap().theta = 500_000.0;
        assert_eq!(build_graph(&spec, plain).ropes.len(), 2);
        let MixerSpec::Attention(attention) = &mut spec.layers[1].mixer else { unreachable!() };
        attention.rope = None;
        let graph = build_graph(&spec, plain);
        assert_eq!(graph.ropes.len(), 1);
        assert!(graph.ops.iter().any(|op| matches!(op, Op::RopeKvWrite { rope: None, .. })));
    }

    /// What every backend relies on: values are written before they are read, and no op writes what it only reads.
    #[test]
    fn every_value_is_written_before_it_is_read() {
        let graph = build_graph(&spec(), plain);
        let mut written = std::collections::HashSet::new();
        for op in &graph.ops {
            for read in op.reads() {
                assert!(written.contains(&read), "{op:?} reads {} too early", graph.values[read.0].name);
            }
            let in_place = match op {
                Op::MatMul { add, out, .. } => *add == Some(*out),
                Op::Combine { a, out, .. } => a == out,
                Op::RopeKvWrite { .. } => true,
                _ => false,
            };
            assert!(in_place || !op.reads().contains(&op.writes()), "{op:?} overwrites its source");
            written.insert(op.writes());
        }
        let logits = graph.logits.unwrap();
        assert!(written.contains(&logits));
        assert_eq!((graph.values[logits.0].width, graph.values[logits.0].rows), (16, Rows::Outputs));
        assert_eq!(graph.kv, [KvDecl { n_kv_heads: 1, head_dim: 4, window: None }; 2]);
    }
}
