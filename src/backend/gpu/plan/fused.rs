//! Launches that compute several ops, for steps of few tokens. Must not know wgpu.

use super::super::kernels::{Kernel, Variant};
use super::attention::rope_params;
use super::elementwise::activation_params;
use super::fuse::{Fusion, Fusions, MAX_PRODUCTS, Pattern};
use super::{CacheSpec, Home, Planner, internal, outputs};
use crate::error::Result;
use crate::model::graph::{Op, ValueId, WeightId};
use crate::quant;

/// Stands for a vector that is not there.
const ABSENT: u32 = u32::MAX;

impl Planner<'_> {
    /// The sequence for steps of few tokens: the plain launches, but for what `fusions` cover.
    pub(super) fn fused(&mut self, fusions: &Fusions) -> Result<()> {
        let n_plain = self.plan.launches.len();
        let spare = [self.buffer("spare output 1", 16), self.buffer("spare output 2", 16)];
        let mut order = Vec::new();
        let mut plain = 0;
        for index in 0..self.model.graph.ops.len() {
            for fusion in fusions.list.iter().filter(|fusion| fusion.at == index) {
                let first = self.plan.launches.len();
                match &fusion.pattern {
                    Pattern::Products { products, outs } => self.products(fusion, products, outs, spare)?,
                    Pattern::Gated { .. } => self.gated_product(fusion)?,
                    Pattern::Heads { norms, rope } => self.norm_rope_kv_write(norms, *rope)?,
                    Pattern::Outputs { take, norm } => self.norm_of_outputs(*take, *norm)?,
                }
                order.extend(first..self.plan.launches.len());
            }
            while plain < n_plain && self.plan.launches[plain].ops[0] == index {
                if !fusions.covered[index] {
                    order.push(plain);
                }
                plain += 1;
            }
        }
        self.plan.fused.launches = order;
        Ok(())
    }

    /// Source, norm weight's buffer and epsilon of a fusion whose products read `x`.
    fn normed(&self, fusion: &Fusion, x: ValueId) -> Result<(usize, usize, u32)> {
        match fusion.norm.map(|norm| &self.model.graph.ops[norm]) {
            Some(Op::Norm { x, norm, weight, .. }) => {
                Ok((self.value(*x), self.vector(*weight)?, norm.eps.to_bits()))
            }
            _ => Ok((self.value(x), self.none, 0)),
        }
    }

    /// The buffer that holds all of `weights`, and the byte of each in it.
    fn together(&self, weights: &[WeightId]) -> Result<(usize, Vec<u32>)> {
        let mut found = None;
        let mut places = Vec::with_capacity(weights.len());
        for weight in weights {
            let run = match &self.plan.homes[weight.0] {
                Home::Vector { buffer } => *buffer,
                Home::Matrix { parts, .. } if parts.len() == 1 => parts[0].1,
                Home::Matrix { .. } => return Err(internal("a fused weight is cut into parts")),
            };
            let (buffer, at) = match self.plan.within(run) {
                Some(place) if weights.len() > 1 => place,
                _ => (run, 0),
            };
            if *found.get_or_insert(buffer) != buffer {
                return Err(internal("fused weights are in several buffers"));
            }
            places.push(at as u32);
        }
        Ok((found.unwrap_or(self.none), places))
    }

    /// The buffer that holds those of `biases` that are there, and the element of each in it.
    fn biases(&self, biases: &[Option<WeightId>]) -> Result<(usize, Vec<u32>)> {
        let present: Vec<WeightId> = biases.iter().flatten().copied().collect();
        let (buffer, places) = self.together(&present)?;
        let mut places = places.into_iter().map(|byte| byte / 4);
        let at = |bias: &Option<WeightId>| bias.and_then(|_| places.next()).unwrap_or(ABSENT);
        Ok((buffer, biases.iter().map(at).collect()))
    }

    /// What a fused launch needs to know of product `op`: source, weight, bias and scale.
    fn product(&self, op: usize) -> Result<(ValueId, WeightId, Option<WeightId>, f32)> {
        match self.model.graph.ops[op] {
            Op::MatMul { x, weight, bias, scale, .. } => Ok((x, weight, bias, scale)),
            _ => Err(internal("a fused op is no product")),
        }
    }

    fn row_blocks(&self, weight: WeightId) -> u32 {
        match &self.plan.homes[weight.0] {
            Home::Matrix { row_blocks, .. } => *row_blocks,
            Home::Vector { .. } => 0,
        }
    }

    /// The buffer that holds all of `matrices`, which are of one format, and the first block of each in it.
    fn blocks_together(&self, matrices: &[WeightId]) -> Result<(usize, Vec<u32>)> {
        let (buffer, mut places) = self.together(matrices)?;
        for (place, weight) in places.iter_mut().zip(matrices) {
            *place /= quant::format(self.model.dtypes[weight.0]).block_bytes as u32;
        }
        Ok((buffer, places))
    }

    fn products(
        &mut self,
        fusion: &Fusion,
        products: &[usize],
        outs: &[ValueId],
        spare: [usize; 2],
    ) -> Result<()> {
        let all = products.iter().map(|op| self.product(*op)).collect::<Result<Vec<_>>>()?;
        let (x, first, _, scale) = *all.first().ok_or_else(|| internal("nothing to multiply"))?;
        let weights: Vec<WeightId> = all.iter().map(|product| product.1).collect();
        let biases: Vec<Option<WeightId>> = all.iter().map(|product| product.2).collect();
        let (source, norm, eps) = self.normed(fusion, x)?;
        let (weights_buffer, mut blocks) = self.blocks_together(&weights)?;
        let (bias_buffer, mut bias_at) = self.biases(&biases)?;
        let mut n_rows: Vec<u32> = outs.iter().map(|out| self.width(*out)).collect();
        let n_blocks: u32 = n_rows.iter().map(|n| n.div_ceil(self.group_rows())).sum();
        let mut buffers = vec![weights_buffer, source, norm, bias_buffer];
        buffers.extend(outs.iter().map(|out| self.value(*out)));
        buffers.extend(spare.iter().skip(outs.len() - 1));
        blocks.resize(MAX_PRODUCTS, 0);
        n_rows.resize(MAX_PRODUCTS, 0);
        bias_at.resize(MAX_PRODUCTS, ABSENT);
        let rows = self.rows(outs[0]);
        let mut params = vec![self.width(x), self.row_blocks(first), outputs(rows), eps, scale.to_bits()];
        params.extend([n_rows, blocks, bias_at].concat());
        let variant =
            Variant::fused_product(Kernel::Products, self.model.dtypes[first.0], fusion.norm.is_some());
        let stage = self.stage(variant, self.folded(n_blocks));
        self.launch(fusion.at, rows, [stage; 2], &params, &buffers)?;
        // Results that went elsewhere than their ops say are nobody's.
        let there =
            |(op, out): (&usize, &ValueId)| (self.model.graph.ops[*op].writes() == *out).then_some(*op);
        self.wrote(products.iter().zip(outs).filter_map(there).collect());
        Ok(())
    }

    fn norm_of_outputs(&mut self, take: usize, norm: usize) -> Result<()> {
        let Op::TakeOutputs { x, .. } = self.model.graph.ops[take] else {
            return Err(internal("not a choice of outputs"));
        };
        self.norm_from(norm, &self.model.graph.ops[norm], Some(x))
    }

    fn gated_product(&mut self, fusion: &Fusion) -> Result<()> {
        let Pattern::Gated { gate, up, activation: op } = fusion.pattern else {
            return Err(internal("not a gated product"));
        };
        let Op::GatedActivation { activation, out, .. } = self.model.graph.ops[op] else {
            return Err(internal("not an activation"));
        };
        let (x, gate_weight, gate_bias, _) = self.product(gate)?;
        let (_, up_weight, up_bias, _) = self.product(up)?;
        let (source, norm, eps) = self.normed(fusion, x)?;
        let (weights, blocks) = self.blocks_together(&[gate_weight, up_weight])?;
        let (bias, bias_at) = self.biases(&[gate_bias, up_bias])?;
        let [number, alpha, limit] = activation_params(activation);
        let (rows, n_rows) = (self.rows(out), self.width(out));
        let params = [
            self.width(x),
            self.row_blocks(gate_weight),
            outputs(rows),
            eps,
            n_rows,
            blocks[0],
            blocks[1],
            bias_at[0],
            bias_at[1],
            number,
            alpha,
            limit,
        ];
        let dtype = self.model.dtypes[gate_weight.0];
        let variant = Variant::fused_product(Kernel::GatedProduct, dtype, fusion.norm.is_some());
        let stage = self.stage(variant, self.folded(n_rows.div_ceil(self.group_rows() / 2)));
        let buffers = [weights, source, norm, bias, self.value(out)];
        self.launch(op, rows, [stage; 2], &params, &buffers)
    }

    fn norm_rope_kv_write(&mut self, norms: &[Option<usize>; 3], rope: usize) -> Result<()> {
        let rope_op = &self.model.graph.ops[rope];
        let &Op::RopeKvWrite { q, kv_rows, n_heads, kv, .. } = rope_op else {
            return Err(internal("not a rope"));
        };
        let decl = self.model.graph.kv[kv];
        let (mut params, table) = rope_params(self.model, rope_op, &self.plan.tables)?;
        // A bit for each of q, k and v that is normalised; epsilons; weights of q and k.
        let (mut flags, mut epsilons, mut vectors) = (0, [0; 3], [None; 3]);
        // Queries already stand where they are rotated; keys and values are read before their norms.
        let mut sources = kv_rows.map_or([None; 2], |(k, v)| [Some(k), Some(v)]);
        for (index, norm) in norms.iter().enumerate() {
            if let Some(Op::Norm { x, norm, weight, .. }) = norm.map(|norm| &self.model.graph.ops[norm]) {
                flags |= 1 << index;
                (epsilons[index], vectors[index]) = (norm.eps.to_bits(), *weight);
                if index > 0 {
                    sources[index - 1] = Some(*x);
                }
            }
        }
        let widths =
            vectors.map(|vector| vector.map_or(0, |id| self.model.graph.weights[id.0].n_cols as u32));
        let (weights, at) = self.biases(&vectors)?;
        params.push(flags);
        params.extend(epsilons);
        params.extend([widths[0], widths[1], at[0], at[1]]);
        let [k, v] = sources.map(|source| source.map_or(self.none, |value| self.value(value)));
        let CacheSpec { k: k_cache, v: v_cache, .. } = self.plan.caches[kv];
        let buffers = [k, v, table.unwrap_or(self.none), weights, self.value(q), k_cache, v_cache];
        let n_cached = if kv_rows.is_some() { 2 * decl.n_kv_heads } else { 0 };
        let variant = Variant::norm_rope_kv_write(decl.head_dim as u32, self.kv);
        let stage = self.stage(variant, super::flat((n_heads + n_cached) as u32));
        self.launch(rope, self.rows(q), [stage; 2], &params, &buffers)
    }

    /// The last launch leaves the results of `ops`.
    fn wrote(&mut self, ops: Vec<usize>) {
        self.last_launch().ops = ops;
    }
}
