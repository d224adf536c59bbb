//! Blocks put into planes once they are on the device: bytes go there as they stand in the file, which costs no memory of
//! the page's, and kernels read vectors of 16 bytes.
//!
//! Principal function: [`GpuBackend::repack`]. What the planes are, the formats say. Must not know models.

use super::engine::GpuBackend;
use super::kernels::{Kernel, Variant};
use super::pipelines::Compiled;
use super::plan::{Home, MAX_WORKGROUPS, PARAM_STRIDE};
use super::resources::{UNIFORM, make_buffer};
use crate::error::{ErrorCode, Result};
use crate::quant::{self, Format};

/// Words that a workgroup has room for; see shaders/repack/repack.wgsl.
const MOST_WORDS: u32 = 512;

/// Bytes of the kernel's parameters.
const PARAM_BYTES: u64 = 48;

/// What the kernel is told of blocks in `format`, and how many workgroups it takes.
fn params(format: &Format, n_blocks: u64) -> ([u32; 12], u32) {
    let odd = format.planes.iter().any(|(at, n)| (at | n) & 1 != 0);
    let unit_bytes = if odd { 1 } else { 2 };
    let group_blocks = format.group_blocks() as u32;
    let group_words = group_blocks * format.block_bytes as u32 / 4;
    let n_groups = n_blocks.div_ceil(u64::from(group_blocks)) as u32;
    let block_units = format.block_bytes as u32 / unit_bytes;
    let mut words = [n_groups, group_words, group_blocks, block_units, unit_bytes * 8, 0, 0, 0, 0, 0, 0, 0];
    for (word, (at, n)) in words[8..].iter_mut().zip(format.planes) {
        *word = (u32::from(*at) / unit_bytes) | ((u32::from(*n) / unit_bytes) << 16);
    }
    (words, n_groups.div_ceil(MOST_WORDS / group_words))
}

impl GpuBackend {
    /// Puts the weights that came since the last time into planes, before all that is submitted later.
    /// # Errors
    /// `GpuCheckFailed` for a kernel that does not compile, `OutOfMemory`, `GpuLost`.
    pub(super) async fn repack(&mut self) -> Result<()> {
        let (mut slots, mut work) = (Vec::new(), Vec::new());
        for weight in self.uploads.unpacked() {
            let format = quant::format(self.model.dtypes[weight]);
            let Home::Matrix { row_blocks, parts } = &self.plan.homes[weight] else { continue };
            for (part, buffer) in parts.iter().filter(|_| !format.planes.is_empty()) {
                let (words, n) = params(format, part.n_rows * u64::from(*row_blocks));
                slots.extend_from_slice(bytemuck::cast_slice(&words));
                slots.resize((work.len() + 1) * PARAM_STRIDE, 0);
                work.push((*buffer, n));
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        let compiled = self.device.compile(&[Variant::plain(Kernel::Repack)]).await?;
        let Compiled { pipeline, group } = &compiled[0];
        let device = &self.device.device;
        let made = self.device.guarded("what puts weights into planes", ErrorCode::Internal, || {
            let params = make_buffer(&self.device, "repack", slots.len() as u64, UNIFORM);
            self.device.queue.write_buffer(&params, 0, &slots);
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(pipeline);
            for (index, (buffer, n)) in work.iter().enumerate() {
                let binding = |binding, buffer, offset, bytes| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset,
                        size: std::num::NonZeroU64::new(bytes),
                    }),
                };
                let (at, bytes) = (self.plan.byte_of(*buffer), self.plan.buffers[*buffer].bytes);
                let entries = [
                    binding(0, &params, (index * PARAM_STRIDE) as u64, PARAM_BYTES),
                    binding(1, &self.buffers[*buffer], at, bytes),
                ];
                let descriptor = wgpu::BindGroupDescriptor { label: None, layout: group, entries: &entries };
                pass.set_bind_group(0, &device.create_bind_group(&descriptor), &[]);
                let y = n.div_ceil(MAX_WORKGROUPS);
                pass.dispatch_workgroups(n.div_ceil(y), y, 1);
            }
            drop(pass);
            self.device.queue.submit([encoder.finish()]);
            params
        });
        // The queue keeps it until it is done.
        made.await?.destroy();
        self.counters.submits += 1;
        self.counters.queue_writes += 1;
        Ok(())
    }
}
