//! Launches of the ops on parallel residual streams and on whole rows. Must not know wgpu.

use super::super::kernels::{ELEMENTWISE_LANES, Kernel, Variant};
use super::{Planner, flat, internal, outputs};
use crate::error::Result;
use crate::model::graph::Op;

/// Streams that the kernel has bindings for.
const MAX_STREAMS: usize = 4;

impl Planner<'_> {
    pub(super) fn streams(&mut self, index: usize, op: &Op) -> Result<()> {
        match *op {
            Op::StreamMix { ref streams, coefs, first, offset, add, out } => {
                if streams.is_empty() || streams.len() > MAX_STREAMS {
                    return Err(internal("more streams than a kernel has bindings"));
                }
                let rows = self.rows(out);
                let mut buffers: Vec<usize> = streams.iter().map(|stream| self.value(*stream)).collect();
                buffers.resize(MAX_STREAMS, self.none);
                buffers.extend([self.value(coefs), self.value(add), self.value(out)]);
                let params = [
                    self.width(out),
                    outputs(rows),
                    streams.len() as u32,
                    self.width(coefs),
                    first as u32,
                    offset.to_bits(),
                ];
                let grid = flat(self.width(out).div_ceil(ELEMENTWISE_LANES));
                let stage = self.stage(Variant::plain(Kernel::StreamMix), grid);
                self.launch(index, rows, [stage; 2], &params, &buffers)
            }
            Op::MatchMagnitude { x, like, out } => {
                let buffers = [self.value(x), self.value(like), self.value(out)];
                self.row_statistics(index, (0, 0.0), buffers, op)
            }
            Op::GaussianTopK { x, factor, out } => {
                let buffers = [self.value(x), self.none, self.value(out)];
                self.row_statistics(index, (1, factor), buffers, op)
            }
            _ => self.recurrent(index, op),
        }
    }

    fn row_statistics(
        &mut self,
        index: usize,
        (top_k, factor): (u32, f32),
        buffers: [usize; 3],
        op: &Op,
    ) -> Result<()> {
        let rows = self.rows(op.writes());
        let params = [self.width(op.writes()), outputs(rows), top_k, factor.to_bits()];
        let stage = self.stage(Variant::plain(Kernel::RowStatistics), flat(1));
        self.launch(index, rows, [stage; 2], &params, &buffers)
    }
}
