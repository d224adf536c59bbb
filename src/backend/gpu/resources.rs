//! What a plan asks the device for: buffers, and the bind groups of its launches.
//!
//! Principal type: [`Binder`]. Must not know steps.

use super::device::{AdapterInfo, GpuDevice};
use super::kv_cache::Pair;
use super::pipelines::Compiled;
use super::plan::{PARAM_STRIDE, PARAM_WORDS, Place, Plan};
use crate::error::{Error, ErrorCode, Result};

pub(super) const MAPPED: wgpu::BufferUsages =
    wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);
pub(super) const UNIFORM: wgpu::BufferUsages =
    wgpu::BufferUsages::UNIFORM.union(wgpu::BufferUsages::COPY_DST);
/// COPY_SRC: any value can be read back for debugging, and caches are copied as they grow.
pub(super) const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_DST).union(wgpu::BufferUsages::COPY_SRC);

pub(super) fn make_buffer(
    device: &GpuDevice,
    label: &str,
    bytes: u64,
    usage: wgpu::BufferUsages,
) -> wgpu::Buffer {
    let descriptor =
        wgpu::BufferDescriptor { label: Some(label), size: bytes.max(16), usage, mapped_at_creation: false };
    device.device.create_buffer(&descriptor)
}

/// Everything but weights must fit as it is; caches as large as they may grow.
pub(super) fn check_fit(plan: &Plan, info: &AdapterInfo) -> Result<()> {
    let limit = info.most_bound_bytes();
    match plan.buffers.iter().find(|buffer| buffer.bytes > limit) {
        None => Ok(()),
        Some(buffer) => {
            let message = format!(
                "{} takes {} bytes, and this GPU binds at most {limit} at once; use a smaller context or batch",
                buffer.label, buffer.bytes
            );
            Err(Error::new(ErrorCode::OutOfMemory, message))
        }
    }
}

/// All buffers of a plan but the caches, and but those that `kept` gives.
pub(super) async fn allocate(
    device: &GpuDevice,
    plan: &Plan,
    kept: &impl Fn(usize) -> Option<wgpu::Buffer>,
) -> Result<Vec<wgpu::Buffer>> {
    let total: u64 = plan.own_buffers().map(|buffer| buffer.bytes).sum();
    let what = format!("{} buffers of {total} bytes in all", plan.own_buffers().count());
    device
        .guarded(&what, ErrorCode::Internal, || {
            let mut buffers: Vec<wgpu::Buffer> = Vec::with_capacity(plan.buffers.len());
            for (index, spec) in plan.buffers.iter().enumerate() {
                let buffer = match spec.place {
                    Place::Run(parent, _) => buffers[parent].clone(),
                    // Never used: the first buffer stands in the place of what stands elsewhere.
                    Place::Cache(..) => buffers[0].clone(),
                    Place::Own => {
                        kept(index).unwrap_or_else(|| make_buffer(device, &spec.label, spec.bytes, STORAGE))
                    }
                };
                buffers.push(buffer);
            }
            buffers
        })
        .await
}

pub(super) fn param_bytes(plan: &Plan) -> Vec<u8> {
    let mut bytes = vec![0; plan.launches.len() * PARAM_STRIDE];
    for (launch, slot) in plan.launches.iter().zip(bytes.chunks_exact_mut(PARAM_STRIDE)) {
        slot[..PARAM_WORDS * 4].copy_from_slice(bytemuck::cast_slice(&launch.params));
    }
    bytes
}

/// What bind groups are made of.
pub(super) struct Binder<'a> {
    pub(super) device: &'a GpuDevice,
    pub(super) plan: &'a Plan,
    pub(super) compiled: &'a [Compiled],
    pub(super) buffers: &'a [wgpu::Buffer],
    pub(super) params: &'a wgpu::Buffer,
}

impl Binder<'_> {
    /// The bind groups of the launches that bind no cache.
    pub(super) fn groups(&self) -> Vec<Option<wgpu::BindGroup>> {
        let launches = self.plan.launches.iter().enumerate();
        launches
            .map(|(index, launch)| {
                let cached = launch.buffers.iter().any(|buffer| self.plan.layer_of(*buffer).is_some());
                (!cached).then(|| self.group(index, &[]))
            })
            .collect()
    }

    /// The bind group of a launch, with the caches of `layers`.
    pub(super) fn group(&self, index: usize, layers: &[std::rc::Rc<Pair>]) -> wgpu::BindGroup {
        let launch = &self.plan.launches[index];
        let params = wgpu::BufferBinding {
            buffer: self.params,
            offset: (index * PARAM_STRIDE) as u64,
            size: std::num::NonZeroU64::new((PARAM_WORDS * 4) as u64),
        };
        let bound = launch.buffers.iter().map(|buffer| {
            let spec = &self.plan.buffers[*buffer];
            match spec.place {
                Place::Own => self.buffers[*buffer].as_entire_buffer_binding(),
                Place::Cache(layer, side) => layers[layer].buffers[side].as_entire_buffer_binding(),
                Place::Run(_, offset) => wgpu::BufferBinding {
                    buffer: &self.buffers[*buffer],
                    offset,
                    size: std::num::NonZeroU64::new(spec.bytes),
                },
            }
        });
        let entries: Vec<wgpu::BindGroupEntry<'_>> = std::iter::once(params)
            .chain(bound)
            .enumerate()
            .map(|(binding, bound)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(bound),
            })
            .collect();
        // Read by `kernel-clock.ts`.
        let shares = (launch.shares > 0).then(|| launch.shares.to_string());
        self.device.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: shares.as_deref(),
            layout: &self.compiled[launch.few.variant].group,
            entries: &entries,
        })
    }
}
