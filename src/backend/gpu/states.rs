//! Where the states of a sequence are while another one is selected.
//!
//! Principal type: [`States`]. Kernels find the selected sequence's in the plan's own buffers, so that no bind group is
//! made for another. Must not know what layers remember.

use super::device::GpuDevice;
use super::plan::Plan;
use super::resources::{STORAGE, make_buffer};

/// The recurrent states of a sequence, one after the other.
pub(super) struct States {
    device: GpuDevice,
    buffer: wgpu::Buffer,
}

impl States {
    /// Room for those of `plan`.
    pub(super) fn new(device: &GpuDevice, plan: &Plan) -> States {
        let buffer = make_buffer(device, "states", plan.state_bytes(), STORAGE);
        device.hold(buffer.size());
        States { device: device.clone(), buffer }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.buffer.size()
    }

    /// Copies them here from the plan's `buffers`, or `back`.
    pub(super) fn copy(&self, plan: &Plan, buffers: &[wgpu::Buffer], back: bool) {
        let mut encoder =
            self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut at = 0;
        for state in &plan.states {
            let (own, bytes) = (&buffers[*state], plan.buffers[*state].bytes);
            match back {
                true => encoder.copy_buffer_to_buffer(&self.buffer, at, own, 0, bytes),
                false => encoder.copy_buffer_to_buffer(own, 0, &self.buffer, at, bytes),
            }
            at += bytes;
        }
        self.device.queue.submit([encoder.finish()]);
    }
}

/// In a browser dropping a handle leaves the memory to the garbage collector, which does not feel GPU memory.
impl Drop for States {
    fn drop(&mut self) {
        self.device.let_go(self.buffer.size());
        self.buffer.destroy();
    }
}
