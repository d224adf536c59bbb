//! What a model will take on a device, before anything is allocated on it.
//!
//! Principal function: [`GpuBackend::footprint`]. Plans as a load does, and compiles nothing.

use std::collections::HashSet;

use super::device::GpuDevice;
use super::engine::{GpuBackend, Precision};
use super::plan::{Home, Planner, Tuning};
use super::resources::check_fit;
use crate::backend::{Footprint, ModelPlan};
use crate::error::Result;

impl GpuBackend {
    /// What a backend of `model` on `device` will take.
    /// # Errors
    /// `OutOfMemory` for what the device cannot bind at once.
    pub fn footprint(model: &ModelPlan, device: &GpuDevice, precision: Precision) -> Result<Footprint> {
        let tuning = Tuning::default().on(device.info());
        let plan = Planner::plan(model, precision == Precision::F16, tuning, None)?;
        check_fit(&plan, device.info())?;
        let homes = plan.homes.iter().flat_map(|home| match home {
            Home::Matrix { parts, .. } => parts.iter().map(|(_, buffer)| *buffer).collect(),
            Home::Vector { buffer } => vec![*buffer],
        });
        // Weights that share a buffer are in it once.
        let own = |buffer: usize| plan.within(buffer).map_or(buffer, |(parent, _)| parent);
        let homes: HashSet<usize> = homes.map(own).collect();
        let bytes = |buffer: &usize| plan.buffers[*buffer].bytes;
        let weight_bytes = homes.iter().map(bytes).sum();
        let n_sequences = model.n_sequences as u64;
        let kv_bytes: u64 = plan.caches.iter().map(|cache| bytes(&cache.k) + bytes(&cache.v)).sum();
        // Those of the selected sequence are there twice.
        let states = if n_sequences > 1 { n_sequences * plan.state_bytes() } else { 0 };
        let own: u64 = plan.own_buffers().map(|buffer| buffer.bytes).sum();
        let staging = (plan.n_outputs * plan.n_vocab * 4) as u64;
        let workspace_bytes = own - weight_bytes + staging + states;
        Ok(Footprint { weight_bytes, kv_bytes: n_sequences * kv_bytes, workspace_bytes })
    }
}
