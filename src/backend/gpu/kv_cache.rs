//! The KV cache of a text: buffers that grow in pages as it does, and the bind groups that bind them.
//!
//! Principal type: [`KvCache`]. A row keeps its place as positions are added, so growing is a copy. Must not know what is
//! cached.

use std::rc::Rc;

use super::device::GpuDevice;
use super::plan::Plan;
use super::resources::{Binder, STORAGE, make_buffer};
use crate::backend::Counters;
use crate::error::{ErrorCode, Result};

/// So many bytes are there twice while the cache grows, or a layer's.
const COPIED_AT_ONCE: u64 = 64 << 20;

/// Keys and values of every layer.
pub(super) struct KvCache {
    /// Those of a model may go on in another graph's.
    layers: Vec<Rc<Pair>>,
    /// Of launches that bind a cache.
    groups: Vec<Option<wgpu::BindGroup>>,
    /// There is room for these, or for all that a layer keeps.
    n_positions: usize,
}

/// Keys and values of a layer.
pub(super) struct Pair {
    device: GpuDevice,
    pub(super) buffers: [wgpu::Buffer; 2],
}

impl Pair {
    fn new(device: &GpuDevice, bytes: u64) -> Pair {
        device.hold(2 * bytes);
        let buffers = ["k cache", "v cache"].map(|label| make_buffer(device, label, bytes, STORAGE));
        Pair { device: device.clone(), buffers }
    }

    /// Of each of the two.
    fn bytes(&self) -> u64 {
        self.buffers[0].size()
    }
}

/// In a browser dropping a handle leaves the memory to the garbage collector, which does not feel GPU memory.
impl Drop for Pair {
    fn drop(&mut self) {
        self.device.let_go(2 * self.bytes());
        for buffer in &self.buffers {
            buffer.destroy();
        }
    }
}

impl KvCache {
    /// With its first page; or with what `old` has, as large as that has become.
    /// # Errors
    /// As [`KvCache::reserve`].
    pub(super) async fn new(
        binder: &Binder<'_>,
        old: Option<&KvCache>,
        counters: &mut Counters,
    ) -> Result<KvCache> {
        let mut cache = KvCache::empty(binder.plan);
        match old {
            Some(old) => {
                cache.layers.clone_from(&old.layers);
                cache.n_positions = old.n_positions;
                let all: Vec<usize> = (0..old.layers.len()).collect();
                cache.bind(&all, binder, counters);
            }
            None => cache.reserve(1, binder, counters).await?,
        }
        Ok(cache)
    }

    /// Without a page, until room is made for a step.
    pub(super) fn empty(plan: &Plan) -> KvCache {
        let mut groups = Vec::new();
        groups.resize_with(plan.launches.len(), || None);
        KvCache { layers: Vec::new(), groups, n_positions: 0 }
    }

    /// The bind group of a launch that binds a cache.
    pub(super) fn group(&self, launch: usize) -> Option<&wgpu::BindGroup> {
        self.groups[launch].as_ref()
    }

    /// Positions that steps may write to.
    pub(super) fn n_positions(&self) -> usize {
        self.n_positions
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> &[wgpu::Buffer; 2] {
        &self.layers[layer].buffers
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|layer| 2 * layer.bytes()).sum()
    }

    /// Makes room for the first `end` positions, so many layers at a time that little is there twice.
    /// # Errors
    /// `OutOfMemory`, `GpuLost`. What is cached stays as it is, and there is room for as much as before.
    pub(super) async fn reserve(
        &mut self,
        end: usize,
        binder: &Binder<'_>,
        counters: &mut Counters,
    ) -> Result<()> {
        if end <= self.n_positions {
            return Ok(());
        }
        let (plan, device) = (binder.plan, binder.device);
        let n = plan.grown(self.n_positions, end);
        let what = format!("{n} positions of the KV cache");
        let bytes = |layer: usize| plan.cache_bytes(layer, n);
        let held = |layer: &usize| self.layers.get(*layer).map_or(0, |held| held.bytes());
        let small: Vec<usize> = (0..plan.caches.len()).filter(|layer| held(layer) < bytes(*layer)).collect();
        let mut rest = small.as_slice();
        while !rest.is_empty() {
            if rest.len() < small.len() {
                // What the last copies were made of is gone then.
                device.finished().await?;
            }
            let mut sum = 0;
            let fits = |layer: &&usize| {
                sum += 2 * bytes(**layer);
                sum <= COPIED_AT_ONCE
            };
            let (run, others) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            let make = || run.iter().map(|layer| Rc::new(Pair::new(device, bytes(*layer)))).collect();
            let layers = device.guarded(&what, ErrorCode::Internal, make).await?;
            self.replace(run, layers, binder, counters);
            rest = others;
        }
        self.n_positions = n;
        Ok(())
    }

    /// Puts larger caches in the place of those of some layers, with what these hold, or makes the first.
    fn replace(
        &mut self,
        run: &[usize],
        mut layers: Vec<Rc<Pair>>,
        binder: &Binder<'_>,
        counters: &mut Counters,
    ) {
        let GpuDevice { device, queue, .. } = binder.device;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (layer, new) in run.iter().zip(&mut layers) {
            match self.layers.get_mut(*layer) {
                None => self.layers.push(new.clone()),
                Some(held) => {
                    for (from, to) in held.buffers.iter().zip(&new.buffers) {
                        encoder.copy_buffer_to_buffer(from, 0, to, 0, from.size());
                    }
                    std::mem::swap(held, new);
                }
            }
            counters.buffers += 2;
        }
        queue.submit([encoder.finish()]);
        counters.submits += 1;
        self.bind(run, binder, counters);
    }

    /// Makes the bind groups of the launches that bind one of these layers.
    fn bind(&mut self, layers: &[usize], binder: &Binder<'_>, counters: &mut Counters) {
        for (index, launch) in binder.plan.launches.iter().enumerate() {
            let layer = launch.buffers.iter().find_map(|buffer| binder.plan.layer_of(*buffer));
            if layer.is_some_and(|layer| layers.contains(&layer)) {
                self.groups[index] = Some(binder.group(index, &self.layers));
                counters.bind_groups += 1;
            }
        }
    }
}
