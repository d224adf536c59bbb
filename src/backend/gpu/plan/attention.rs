//! Launches of the ops around the KV cache. Must not know wgpu.

use super::super::kernels::{AttentionTile, Variant};
use super::{Grid, Planner, flat, internal};
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, Rows};
use crate::model::spec::RopeLayout;

impl Planner<'_> {
    pub(super) fn rope_kv_write(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::RopeKvWrite { q, kv_rows, n_heads, rope, q_scale, kv } = op else {
            return Err(internal("not a rope"));
        };
        let decl = self.model.graph.kv[kv];
        if !decl.head_dim.is_multiple_of(2) {
            return Err(bad_head(decl.head_dim));
        }
        let (table, n_pairs, neox) = match rope {
            None => (self.none, 0, 0),
            Some(id) => {
                let spec = &self.model.graph.ropes[id.0].spec;
                (self.plan.tables[id.0].buffer, spec.n_dims / 2, u32::from(spec.layout == RopeLayout::Neox))
            }
        };
        let (k, v, n_kv_heads) = match kv_rows {
            Some((k, v)) => (self.value(k), self.value(v), decl.n_kv_heads),
            None => (self.none, self.none, 0),
        };
        let params = [
            n_heads as u32,
            n_kv_heads as u32,
            self.model.n_ctx as u32,
            n_pairs as u32,
            neox,
            q_scale.map_or(0.0, |scale| scale.beta).to_bits(),
            q_scale.map_or(1, |scale| scale.original_context.max(1) as u32),
        ];
        let (k_cache, v_cache) = self.plan.caches[kv];
        let buffers = [k, v, table, self.value(q), k_cache, v_cache];
        // Cached heads are filled up to whole vectors of four.
        let pairs = (n_heads + 2 * n_kv_heads) * decl.head_dim.next_multiple_of(4) / 2;
        let grid = flat((pairs as u32).div_ceil(64));
        let stage = self.stage(Variant::rope_kv_write(decl.head_dim as u32, self.f16), grid);
        self.launch(index, Rows::Tokens, [stage; 2], &params, &buffers)
    }

    pub(super) fn attention(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Attention { q, kv, n_heads, scale, window, softcap, causal, sinks, out } = op else {
            return Err(internal("not an attention"));
        };
        let decl = self.model.graph.kv[kv];
        let group = (n_heads / decl.n_kv_heads.max(1)) as u32;
        let mut stages = Vec::with_capacity(2);
        for few in [true, false] {
            let tile = AttentionTile::new(decl.head_dim as u32, group, few)
                .ok_or_else(|| bad_head(decl.head_dim))?;
            let grid = Grid { mul: group, div: tile.q_rows, ..flat(decl.n_kv_heads as u32) };
            stages.push(self.stage(Variant::attention(tile, self.f16), grid));
        }
        let params = [
            n_heads as u32,
            group,
            self.model.n_ctx as u32,
            window.unwrap_or(0) as u32,
            scale.to_bits(),
            softcap.unwrap_or(0.0).to_bits(),
            u32::from(causal),
            u32::from(sinks.is_some()),
        ];
        let (k_cache, v_cache) = self.plan.caches[kv];
        let buffers = [self.value(q), k_cache, v_cache, self.vector(sinks)?, self.value(out)];
        self.launch(index, Rows::Tokens, [stages[0], stages[1]], &params, &buffers)
    }
}

pub(super) fn bad_head(head_dim: usize) -> Error {
    let message = format!(
        "heads of {head_dim} elements are not supported on the GPU; use the CPU backend for this model"
    );
    Error::new(ErrorCode::InvalidValue, message)
}
