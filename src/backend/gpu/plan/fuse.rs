//! Which ops of a graph one launch computes in steps of few tokens.
//!
//! Principal type: [`Fusions`], found by looking at ops and at who reads what they write: a pattern that is not quite the
//! expected one stays as it is. Must not know kernels' texts or wgpu.

use std::collections::HashMap;

use super::super::kernels::CHUNK;
use crate::backend::ModelPlan;
use crate::model::graph::{Graph, Op, Rows, ValueId, WeightId, WeightKind};
use crate::model::spec::NormKind;

/// Products that one launch computes at most: queries, keys and values.
pub(super) const MAX_PRODUCTS: usize = 3;

/// What one launch does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Products of one value with weights of one format, by op, and where each goes.
    Products { products: Vec<usize>, outs: Vec<ValueId> },
    /// `activation(W₁·x) * (W₂·x)`: the two products and the activation.
    Gated { gate: usize, up: usize, activation: usize },
    /// The choice of outputs, and the norm that reads nothing else.
    Outputs { take: usize, norm: usize },
    /// Norms of the heads of queries, keys and values, then their rotation and their way into the cache.
    Heads { norms: [Option<usize>; 3], rope: usize },
}

/// Ops that one launch computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fusion {
    pub(super) pattern: Pattern,
    /// The RMS norm before products.
    pub(super) norm: Option<usize>,
    /// The op in whose place the launch stands.
    pub(super) at: usize,
}

impl Fusion {
    /// All ops that the launch stands for.
    pub(super) fn ops(&self) -> Vec<usize> {
        let mut ops: Vec<usize> = match &self.pattern {
            Pattern::Products { products, .. } => products.clone(),
            Pattern::Gated { gate, up, activation } => vec![*gate, *up, *activation],
            Pattern::Outputs { take, norm } => vec![*take, *norm],
            Pattern::Heads { norms, rope } => norms.iter().flatten().copied().chain([*rope]).collect(),
        };
        ops.extend(self.norm);
        ops
    }

    /// Where products go; not always where their ops say.
    pub(super) fn outs(&self) -> Vec<ValueId> {
        match &self.pattern {
            Pattern::Products { outs, .. } => outs.clone(),
            _ => Vec::new(),
        }
    }
}

/// Weights that stand in one buffer, so that one launch can bind them, in the order of their ids.
pub(super) type Bundle = Vec<WeightId>;

/// All fusions of a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fusions {
    pub(super) list: Vec<Fusion>,
    pub(super) bundles: Vec<Bundle>,
    /// For each op, whether a fusion computes it.
    pub(super) covered: Vec<bool>,
}

impl Fusions {
    /// Nothing is fused; `bundles` are kept, because the weights are there already.
    pub(super) fn none(graph: &Graph, bundles: Vec<Bundle>) -> Fusions {
        Fusions { list: Vec::new(), bundles, covered: vec![false; graph.ops.len()] }
    }

    /// Finds what can be fused. Weights may be bundled where `fits`; where `bundles` are given, only as they say.
    pub(super) fn find(
        model: &ModelPlan,
        fits: &dyn Fn(&[WeightId]) -> bool,
        bundles: Option<Vec<Bundle>>,
    ) -> Fusions {
        let mut finder = Finder::new(model, fits, bundles);
        for find in [Finder::gated, Finder::products, Finder::norm, Finder::heads, Finder::outputs] {
            for index in 0..model.graph.ops.len() {
                find(&mut finder, index);
            }
        }
        finder.finish()
    }
}

struct Finder<'a> {
    model: &'a ModelPlan,
    fits: &'a dyn Fn(&[WeightId]) -> bool,
    /// No bundle may be added.
    fixed: bool,
    bundles: Vec<Bundle>,
    /// Ops that read and that write each value.
    readers: Vec<Vec<usize>>,
    writers: Vec<Vec<usize>>,
    list: Vec<Fusion>,
    /// The fusion of each op, norms before products aside.
    fusion_of: HashMap<usize, usize>,
}

/// A product that may be fused.
#[derive(Clone, Copy)]
struct Product {
    x: ValueId,
    weight: WeightId,
    bias: Option<WeightId>,
    scale: f32,
    out: ValueId,
}

impl<'a> Finder<'a> {
    fn new(
        model: &'a ModelPlan,
        fits: &'a dyn Fn(&[WeightId]) -> bool,
        bundles: Option<Vec<Bundle>>,
    ) -> Finder<'a> {
        let n_values = model.graph.values.len();
        let (mut readers, mut writers) = (vec![Vec::new(); n_values], vec![Vec::new(); n_values]);
        for (index, op) in model.graph.ops.iter().enumerate() {
            op.reads().iter().for_each(|value| readers[value.0].push(index));
            writers[op.writes().0].push(index);
        }
        let (fixed, bundles) = (bundles.is_some(), bundles.unwrap_or_default());
        Finder { model, fits, fixed, bundles, readers, writers, list: Vec::new(), fusion_of: HashMap::new() }
    }

    fn op(&self, index: usize) -> &'a Op {
        &self.model.graph.ops[index]
    }

    fn width(&self, value: ValueId) -> usize {
        self.model.graph.values[value.0].width
    }

    /// The product at `index`, if it is a plain one of whole chunks, and the first op that writes its result.
    fn product(&self, index: usize) -> Option<Product> {
        let Op::MatMul { x, weight, bias, add: None, scale, out } = *self.op(index) else { return None };
        let whole = self.width(x).is_multiple_of(CHUNK as usize);
        let matrix = self.model.graph.weights[weight.0].kind != WeightKind::Vector;
        let first = self.writers[out.0].first() == Some(&index) && !self.fusion_of.contains_key(&index);
        (whole && matrix && first && (self.fits)(&[weight])).then_some(Product {
            x,
            weight,
            bias,
            scale,
            out,
        })
    }

    /// Whether no op between `from` and `to` (both excluded) writes `value`.
    fn untouched(&self, value: ValueId, from: usize, to: usize) -> bool {
        !self.writers[value.0].iter().any(|writer| (from + 1..to).contains(writer))
    }

    /// Puts `weights` into one buffer, if they can be.
    fn bundle(&mut self, weights: &[WeightId]) -> bool {
        let mut bundle: Vec<WeightId> = Vec::new();
        for weight in weights {
            match bundle.binary_search_by_key(&weight.0, |other| other.0) {
                Ok(_) => return false,
                Err(place) => bundle.insert(place, *weight),
            }
        }
        if bundle.len() < 2 || self.bundles.contains(&bundle) {
            return true;
        }
        let taken = bundle.iter().any(|weight| self.bundles.iter().any(|other| other.contains(weight)));
        if self.fixed || taken || !(self.fits)(&bundle) {
            return false;
        }
        self.bundles.push(bundle);
        true
    }

    /// Puts the matrices, and the biases, of products into one buffer each.
    fn bundle_products(&mut self, products: &[Product]) -> bool {
        let weights: Vec<WeightId> = products.iter().map(|product| product.weight).collect();
        let biases: Vec<WeightId> = products.iter().filter_map(|product| product.bias).collect();
        let dtype = |weight: &WeightId| self.model.dtypes[weight.0];
        weights.iter().all(|weight| dtype(weight) == dtype(&weights[0]))
            && self.bundle(&weights)
            && self.bundle(&biases)
    }

    fn add(&mut self, pattern: Pattern, at: usize) {
        let fusion = Fusion { pattern, norm: None, at };
        for op in fusion.ops() {
            self.fusion_of.insert(op, self.list.len());
        }
        self.list.push(fusion);
    }

    /// Two products of one value that meet in a gated activation.
    fn gated(&mut self, index: usize) {
        let Op::GatedActivation { gate, up, out, .. } = *self.op(index) else { return };
        let only = |value: ValueId| match (self.writers[value.0].as_slice(), self.readers[value.0].as_slice())
        {
            (&[writer], &[reader]) if reader == index => Some(writer),
            _ => None,
        };
        let (Some(gate_op), Some(up_op)) = (only(gate), only(up)) else { return };
        let (Some(a), Some(b)) = (self.product(gate_op), self.product(up_op)) else { return };
        let first = gate_op.min(up_op);
        let same = a.x == b.x && a.scale == 1.0 && b.scale == 1.0 && out != gate && out != up;
        if same && self.untouched(a.x, first, index) && self.bundle_products(&[a, b]) {
            self.add(Pattern::Gated { gate: gate_op, up: up_op, activation: index }, index);
        }
    }

    /// The product at `index` with those behind it that read the same value.
    fn products(&mut self, index: usize) {
        let Some(first) = self.product(index) else { return };
        let mut found = vec![(index, first)];
        for reader in self.readers[first.x.0].iter().copied().filter(|reader| *reader > index) {
            let Some(other) = self.product(reader) else { continue };
            let rows = |product: Product| self.model.graph.values[product.out.0].rows;
            let dtype = |product: Product| self.model.dtypes[product.weight.0];
            let alike =
                other.scale == first.scale && rows(other) == rows(first) && dtype(other) == dtype(first);
            // It moves to the place of the first, so what it reads must be the same there.
            if found.len() < MAX_PRODUCTS && alike && self.untouched(first.x, index, reader) {
                found.push((reader, other));
            }
        }
        while found.len() > 1 {
            let products: Vec<Product> = found.iter().map(|(_, product)| *product).collect();
            if self.bundle_products(&products) {
                break;
            }
            found.pop();
        }
        let products = found.iter().map(|(op, _)| *op).collect();
        let outs = found.iter().map(|(_, product)| product.out).collect();
        self.add(Pattern::Products { products, outs }, index);
    }

    /// An RMS norm whose result only fused products read moves into them; not that before the head, whose many rows would
    /// cost more than the launch that is saved.
    fn norm(&mut self, index: usize) {
        let Op::Norm { x, norm, group, weight: Some(weight), bias: None, add: None, out } = *self.op(index)
        else {
            return;
        };
        let row = self.width(x);
        let plain = norm.kind == NormKind::Rms && group == row && out != x;
        let tokens = self.model.graph.values[x.0].rows == Rows::Tokens;
        if !tokens
            || !plain
            || self.model.graph.weights[weight.0].n_cols != row
            || self.writers[out.0] != [index]
        {
            return;
        }
        let mut fusions = Vec::new();
        for reader in &self.readers[out.0] {
            let fusion = self
                .fusion_of
                .get(reader)
                .copied()
                .filter(|fusion| *reader > index && self.untouched(x, index, self.list[*fusion].at));
            match fusion {
                Some(fusion) => fusions.push(fusion),
                None => return,
            }
        }
        for fusion in fusions {
            self.list[fusion].norm = Some(index);
        }
    }

    /// A norm that is all that reads the chosen outputs takes them from where they are chosen.
    fn outputs(&mut self, index: usize) {
        let Op::TakeOutputs { x, out } = *self.op(index) else { return };
        let &[norm] = self.readers[out.0].as_slice() else { return };
        let Op::Norm { x: read, add: None, .. } = *self.op(norm) else { return };
        if read == out && self.writers[out.0].first() == Some(&index) && self.untouched(x, index, norm) {
            self.add(Pattern::Outputs { take: index, norm }, norm);
        }
    }

    /// Norms of heads before a rotation.
    fn heads(&mut self, index: usize) {
        let Op::RopeKvWrite { q, kv_rows, kv, .. } = *self.op(index) else { return };
        let head_dim = self.model.graph.kv[kv].head_dim;
        let values = [Some(q), kv_rows.map(|(k, _)| k), kv_rows.map(|(_, v)| v)];
        let norms = values.map(|value| self.head_norm(value?, head_dim, index, value == Some(q)));
        let weights: Vec<WeightId> = norms.iter().flatten().filter_map(|(_, weight)| *weight).collect();
        let norms = norms.map(|norm| norm.map(|(op, _)| op));
        if norms == [None; 3] || !self.bundle(&weights) {
            return;
        }
        if let Some(norm) = norms[0] {
            self.redirect(norm, q);
        }
        self.add(Pattern::Heads { norms, rope: index }, index);
    }

    /// The norm of each head that writes `value`, and its weight; `in_place` where the rotation writes the value again.
    fn head_norm(
        &self,
        value: ValueId,
        head_dim: usize,
        rope: usize,
        in_place: bool,
    ) -> Option<(usize, Option<WeightId>)> {
        let index = *self.writers[value.0].first()?;
        let Op::Norm { x, norm, group, weight, bias: None, add: None, .. } = *self.op(index) else {
            return None;
        };
        let writers: &[usize] = if in_place { &[index, rope] } else { &[index] };
        let late = self.readers[value.0].iter().all(|reader| *reader >= rope);
        let alone = self.writers[value.0] == writers && late && self.readers[x.0] == [index];
        let plain = norm.kind == NormKind::Rms && group == head_dim && x != value && index < rope;
        if !alone || !plain || !self.untouched(x, index, rope) {
            return None;
        }
        // Queries are normalised and rotated where they stand: what computes them must be able to put them there.
        let movable = match self.writers[x.0].as_slice() {
            [writer] => self
                .fusion_of
                .get(writer)
                .is_some_and(|fusion| matches!(self.list[*fusion].pattern, Pattern::Products { .. })),
            _ => false,
        };
        (!in_place || movable).then_some((index, weight))
    }

    /// Lets the product that `norm` reads write to `value` instead.
    fn redirect(&mut self, norm: usize, value: ValueId) {
        let Op::Norm { x, .. } = *self.op(norm) else { return };
        let fusion = self.writers[x.0].first().and_then(|writer| self.fusion_of.get(writer)).copied();
        if let Some(Pattern::Products { outs, .. }) = fusion.map(|fusion| &mut self.list[fusion].pattern) {
            outs.iter_mut().filter(|out| **out == x).for_each(|out| *out = value);
        }
    }

    /// Leaves out single products that gained nothing.
    fn finish(self) -> Fusions {
        let graph = &self.model.graph;
        let gains = |fusion: &Fusion| match &fusion.pattern {
            Pattern::Products { products, outs } => {
                let redirected = products.iter().zip(outs).any(|(op, out)| graph.ops[*op].writes() != *out);
                products.len() > 1 || fusion.norm.is_some() || redirected
            }
            _ => true,
        };
        let list: Vec<Fusion> = self.list.into_iter().filter(|fusion| gains(fusion)).collect();
        let mut covered = vec![false; graph.ops.len()];
        list.iter().flat_map(Fusion::ops).for_each(|op| covered[op] = true);
        Fusions { list, bundles: self.bundles, covered }
    }
}
