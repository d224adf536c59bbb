//! A step taken apart: every op's result read back, to be compared with the CPU's.
//!
//! Slow and wasteful on purpose; nothing here runs in production. Must not change what kernels compute.

use std::ops::Range;

use super::engine::GpuBackend;
use super::kernels::{KvFormat, MOST_KEYS};
use super::resources::{MAPPED, make_buffer};
use crate::backend::{Trace, trace_name};
use crate::bail;
use crate::error::Result;

impl GpuBackend {
    /// Runs a step with all outputs, launch by launch, and returns what every op wrote, but for results that fused launches
    /// keep to themselves. Before it all values, and the KV cache
    /// from `pos` on, are filled with NaN, so that reading what was never written shows.
    /// # Errors
    /// As `forward`; `InvalidRequest` for more tokens than rows of logits fit at once.
    pub async fn forward_traced(&mut self, tokens: &[u32], pos: usize) -> Result<Trace> {
        self.check_step(tokens, pos)?;
        let n_tokens = tokens.len();
        self.make_room(pos + n_tokens).await?;
        self.order.begin(pos, pos + n_tokens)?;
        if n_tokens > self.plan.n_outputs {
            bail!(InvalidRequest, "{n_tokens} tokens cannot be traced at once; {} can", self.plan.n_outputs);
        }
        self.poison(pos);
        self.write_step(tokens, pos, &(0..n_tokens));
        let widest = self.model.graph.values.iter().map(|value| value.width).max().unwrap_or(0);
        let staging = make_buffer(&self.device, "trace", (n_tokens * widest * 4) as u64, MAPPED);
        self.counters.buffers += 1;
        let mut trace = Trace::default();
        let sequence = self.plan.sequence(n_tokens, self.few_rows()).launches.clone();
        let mut first = 0;
        while first < sequence.len() {
            // An op may take several launches, and a launch may do several ops.
            let ops = self.plan.launches[sequence[first]].ops.clone();
            let same = sequence[first..].iter().take_while(|launch| self.plan.launches[**launch].ops == ops);
            let end = first + same.count();
            self.run(first..end, (pos, n_tokens), n_tokens);
            for op in ops {
                let values = self.result(op, n_tokens, &staging).await?;
                trace.values.push((trace_name(&self.model.graph, op), values));
            }
            first = end;
        }
        self.order.finish(pos + n_tokens);
        Ok(trace)
    }

    fn run(&mut self, launches: Range<usize>, rows: (usize, usize), n_outputs: usize) {
        let mut encoder =
            self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.record(&mut encoder, launches, rows, n_outputs);
        self.device.queue.submit([encoder.finish()]);
        self.counters.submits += 1;
    }

    /// What op `op` wrote.
    async fn result(&mut self, op: usize, n_tokens: usize, staging: &wgpu::Buffer) -> Result<Vec<f32>> {
        let out = self.model.graph.ops[op].writes().0;
        let n_bytes = (n_tokens * self.model.graph.values[out].width * 4) as u64;
        let mut encoder =
            self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if let Some(buffer) = self.plan.values[out] {
            encoder.copy_buffer_to_buffer(&self.buffers[buffer], 0, staging, 0, n_bytes);
        }
        self.device.queue.submit([encoder.finish()]);
        self.counters.submits += 1;
        self.counters.readback_bytes += n_bytes;
        self.device.read(staging, n_bytes).await
    }

    /// Fills every value, attention's partial sums, groups of pairs, the caches from `pos` on, and states that a step at 0
    /// does not read, with NaN.
    fn poison(&self, pos: usize) {
        let mut values: Vec<usize> = self.plan.values.iter().flatten().copied().collect();
        values.extend([self.plan.partials, self.plan.groups]);
        values.sort_unstable();
        values.dedup();
        for buffer in values {
            let bytes = self.plan.buffers[buffer].bytes;
            self.fill(&self.buffers[buffer], 0..bytes, f32::NAN.to_bits());
        }
        for state in self.plan.states.iter().filter(|_| pos == 0) {
            self.fill(&self.buffers[*state], 0..self.plan.buffers[*state].bytes, f32::NAN.to_bits());
        }
        let kv = KvFormat::of(self.model.kv_cache, self.f16);
        // Two half-float NaNs, or one of f32, which scales are too.
        let word = match kv {
            KvFormat::F16 | KvFormat::Half => 0x7e00_7e00,
            _ => f32::NAN.to_bits(),
        };
        for (layer, decl) in self.model.graph.kv.iter().enumerate() {
            let row = self.plan.caches[layer].position_bytes as u64;
            let n_kept = self.model.n_kept(decl);
            // What a window shows before `pos` stays, from a whole tile of keys on.
            let shown = decl.window.map_or(pos, |window| pos.min(window + MOST_KEYS as usize));
            let first = pos % n_kept;
            let end = first + n_kept.saturating_sub(shown);
            for run in [first..end.min(n_kept), 0..end.saturating_sub(n_kept)] {
                for buffer in self.kv.layer(layer) {
                    // As far as it has grown.
                    let end = buffer.size().min(run.end as u64 * row);
                    self.fill(buffer, run.start as u64 * row..end, word);
                }
            }
        }
    }

    fn fill(&self, buffer: &wgpu::Buffer, bytes: Range<u64>, word: u32) {
        let words = vec![word; (bytes.end.saturating_sub(bytes.start) / 4) as usize];
        self.device.queue.write_buffer(buffer, bytes.start, bytemuck::cast_slice(&words));
    }
}
