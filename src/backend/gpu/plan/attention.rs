//! Launches of the ops around the KV cache. Must not know wgpu.

use super::super::kernels::{AttentionTile, MatMulTile, Variant};
use super::{CacheSpec, Grid, KeyRuns, Planner, Table, flat, internal};
use crate::backend::ModelPlan;
use crate::error::{Error, ErrorCode, Result};
use crate::model::graph::{Op, Rows};
use crate::model::spec::RopeLayout;

/// Runs of keys that decode attention is cut into at most: beyond, putting them together costs more than it gains.
const MAX_RUNS: usize = 128;

impl Planner<'_> {
    pub(super) fn rope_kv_write(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::RopeKvWrite { q, kv_rows, n_heads, kv, .. } = op else {
            return Err(internal("not a rope"));
        };
        let decl = self.model.graph.kv[kv];
        if !decl.head_dim.is_multiple_of(2) {
            return Err(bad_head(decl.head_dim));
        }
        let (params, table) = rope_params(self.model, op, &self.plan.tables)?;
        let (k, v, n_kv_heads) = match kv_rows {
            Some((k, v)) => (self.value(k), self.value(v), decl.n_kv_heads),
            None => (self.none, self.none, 0),
        };
        let CacheSpec { k: k_cache, v: v_cache, .. } = self.plan.caches[kv];
        let buffers = [k, v, table.unwrap_or(self.none), self.value(q), k_cache, v_cache];
        // Cached heads are filled up to whole vectors of four, or blocks.
        let kv_lanes = self.kv.write_lanes(decl.head_dim);
        let lanes = n_heads * (decl.head_dim.next_multiple_of(4) / 2) + 2 * n_kv_heads * kv_lanes;
        let grid = flat((lanes as u32).div_ceil(64));
        let stage = self.stage(Variant::rope_kv_write(decl.head_dim as u32, self.kv), grid);
        self.launch(index, Rows::Tokens, [stage; 2], &params, &buffers)
    }

    pub(super) fn attention(&mut self, index: usize, op: &Op) -> Result<()> {
        let &Op::Attention { q, kv, n_heads, scale, window, softcap, causal, sinks, out } = op else {
            return Err(internal("not an attention"));
        };
        let decl = self.model.graph.kv[kv];
        let group = (n_heads / decl.n_kv_heads.max(1)) as u32;
        let head_dim = decl.head_dim as u32;
        // Of adapters of software whose subgroups have eight lanes.
        let by_rows = self.tuning.tile == Some(MatMulTile::ROWS) && self.tuning.hand_on == Some(true);
        // Heads are refused alike on all adapters.
        let tile = |few| {
            let tile = AttentionTile::new(head_dim, group, few).ok_or_else(|| bad_head(decl.head_dim))?;
            Ok(if by_rows { AttentionTile::rows(head_dim) } else { tile })
        };
        let (few, many) = (tile(true)?, tile(false)?);
        let stages = [few, many].map(|tile| {
            let variant = match by_rows {
                true => Variant::attention_rows(head_dim, self.kv),
                false => Variant::attention(tile, self.kv),
            };
            self.stage(variant, Grid { mul: group, div: tile.q_rows, ..flat(decl.n_kv_heads as u32) })
        });
        let (runs, max_runs) = self.key_runs(few.keys as usize, window);
        let params = [
            n_heads as u32,
            group,
            self.model.n_kept(&decl) as u32,
            window.unwrap_or(0) as u32,
            scale.to_bits(),
            softcap.unwrap_or(0.0).to_bits(),
            u32::from(causal),
            u32::from(sinks.is_some()),
            runs.run as u32,
            max_runs as u32,
        ];
        let CacheSpec { k: k_cache, v: v_cache, .. } = self.plan.caches[kv];
        let (sinks_buffer, partials, out) = (self.vector(sinks)?, self.plan.partials, self.value(out));
        let buffers = [self.value(q), k_cache, v_cache, sinks_buffer, out, partials];
        self.launch(index, Rows::Tokens, stages, &params, &buffers)?;
        if max_runs == 1 {
            return Ok(());
        }
        self.run_launch(runs);
        let n_fours = n_heads * decl.head_dim.div_ceil(4);
        let rows = self.tuning.few_rows().min(self.model.n_batch) * max_runs;
        let bytes = (rows * (n_fours + n_heads)) as u64 * 16;
        let spec = &mut self.plan.buffers[partials];
        spec.bytes = spec.bytes.max(bytes);
        let stage = self.stage(Variant::attention_merge(few), flat((n_fours as u32).div_ceil(64)));
        let params = [n_heads as u32, params[3], params[8], params[9], params[7]];
        self.launch(index, Rows::Tokens, [stage; 2], &params, &[partials, sinks_buffer, out])?;
        self.run_launch(KeyRuns { merge: true, ..runs });
        Ok(())
    }

    /// How a layer's keys are cut for steps of few tokens, and the most runs of such a step.
    fn key_runs(&self, tile: usize, window: Option<usize>) -> (KeyRuns, usize) {
        let fewest = self.tuning.run_keys.max(self.model.n_ctx.div_ceil(MAX_RUNS));
        let runs = KeyRuns { run: fewest.next_multiple_of(tile), tile, window, merge: false };
        // A window reaches from a whole tile to the last of the few tokens.
        let seen = window.map_or(usize::MAX, |window| window + self.tuning.few_rows() + tile);
        (runs, self.model.n_ctx.min(seen).div_ceil(runs.run))
    }

    /// The last launch runs by `runs`.
    fn run_launch(&mut self, runs: KeyRuns) {
        self.last_launch().runs = Some(runs);
    }
}

/// Parameters of the kernels that rotate, and the table of a layer that does.
pub(super) fn rope_params(model: &ModelPlan, op: &Op, tables: &[Table]) -> Result<(Vec<u32>, Option<usize>)> {
    let &Op::RopeKvWrite { kv_rows, n_heads, rope, q_scale, kv, .. } = op else {
        return Err(internal("not a rope"));
    };
    let (table, n_pairs, neox) = match rope {
        None => (None, 0, 0),
        Some(id) => {
            let spec = &model.graph.ropes[id.0].spec;
            (Some(tables[id.0].buffer), spec.n_dims / 2, u32::from(spec.layout == RopeLayout::Neox))
        }
    };
    let params = vec![
        n_heads as u32,
        kv_rows.map_or(0, |_| model.graph.kv[kv].n_kv_heads as u32),
        model.n_kept(&model.graph.kv[kv]) as u32,
        n_pairs as u32,
        neox,
        q_scale.map_or(0.0, |scale| scale.beta).to_bits(),
        q_scale.map_or(1, |scale| scale.original_context.max(1) as u32),
    ];
    Ok((params, table))
}

pub(super) fn bad_head(head_dim: usize) -> Error {
    let message = format!(
        "heads of {head_dim} elements are not supported on the GPU; use the CPU backend for this model"
    );
    Error::new(ErrorCode::InvalidValue, message)
}
