//! One dispatch of a step, and how it depends on the step.
//!
//! Principal type: [`Launch`]. Must not know ops or wgpu.

use super::PARAM_WORDS;
use crate::model::graph::Rows;

/// Grid of a launch: `x` and `z` are fixed, `y` is `ceil(rows * mul / div) + more`; without workgroups it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::gpu) struct Grid {
    pub(in crate::backend::gpu) x: u32,
    pub(in crate::backend::gpu) z: u32,
    pub(in crate::backend::gpu) mul: u32,
    pub(in crate::backend::gpu) div: u32,
    pub(in crate::backend::gpu) more: u32,
}

/// One way to run a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::gpu) struct Stage {
    /// Index into [`super::Plan::variants`].
    pub(in crate::backend::gpu) variant: usize,
    pub(in crate::backend::gpu) grid: Grid,
}

/// How the keys that a step of few tokens sees are cut into runs, a workgroup each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::gpu) struct KeyRuns {
    /// Keys of a run, and of the tile that the first run begins with.
    pub(in crate::backend::gpu) run: usize,
    pub(in crate::backend::gpu) tile: usize,
    /// Positions a token sees.
    pub(in crate::backend::gpu) window: Option<usize>,
    /// Whether the launch puts the runs together, and is left out where there is but one.
    pub(in crate::backend::gpu) merge: bool,
}

impl KeyRuns {
    /// Workgroups in z of a step of `n_tokens` from `pos` on; runs are as shaders/attention/runs.wgsl counts them.
    pub(in crate::backend::gpu) fn depth(self, few: bool, pos: usize, n_tokens: usize) -> u32 {
        let first = self.window.map_or(0, |window| (pos + 1).saturating_sub(window) / self.tile * self.tile);
        let count = if few { (pos + n_tokens - first).div_ceil(self.run) as u32 } else { 1 };
        if self.merge { u32::from(count > 1) } else { count }
    }
}

/// One dispatch of a step.
#[derive(Clone, Debug)]
pub(in crate::backend::gpu) struct Launch {
    /// Ops whose results are there when it is done: one, but for fused launches.
    pub(in crate::backend::gpu) ops: Vec<usize>,
    /// Rows it is run for.
    pub(in crate::backend::gpu) rows: Rows,
    /// For one row, for few and for many, and how many are few.
    pub(in crate::backend::gpu) few_rows: usize,
    pub(in crate::backend::gpu) one: Stage,
    pub(in crate::backend::gpu) few: Stage,
    pub(in crate::backend::gpu) many: Stage,
    pub(in crate::backend::gpu) params: [u32; PARAM_WORDS],
    /// Buffers of the bindings from 1 on.
    pub(in crate::backend::gpu) buffers: Vec<usize>,
    /// Of steps of few tokens: the number of workgroups in z.
    pub(in crate::backend::gpu) runs: Option<KeyRuns>,
    /// Of how many equal parts of its weight a row of workgroups reads one: rows of a table, experts. 0: it reads all.
    pub(in crate::backend::gpu) shares: u32,
}

impl Launch {
    /// How it runs in a step of `n_tokens` from `pos` on with `n_outputs` wanted rows: its variant and its workgroups, of
    /// which there may be none.
    pub(in crate::backend::gpu) fn at(
        &self,
        (pos, n_tokens, n_outputs): (usize, usize, usize),
    ) -> (usize, [u32; 3]) {
        let rows = match self.rows {
            Rows::Tokens => n_tokens,
            Rows::Outputs => n_outputs,
        };
        let few = rows <= self.few_rows;
        let Stage { variant, grid } = match rows {
            0 | 1 if few => self.one,
            _ if few => self.few,
            _ => self.many,
        };
        let z = self.runs.map_or(grid.z, |runs| runs.depth(few, pos, n_tokens));
        (variant, [grid.x, (rows as u32 * grid.mul).div_ceil(grid.div) + grid.more, z])
    }
}

/// The launches of a step, in order.
#[derive(Clone, Debug, Default)]
pub(in crate::backend::gpu) struct Sequence {
    /// Indices into [`super::Plan::launches`].
    pub(in crate::backend::gpu) launches: Vec<usize>,
    /// Those before this one run for the step's tokens, the others for the wanted outputs.
    pub(in crate::backend::gpu) n_body: usize,
}
