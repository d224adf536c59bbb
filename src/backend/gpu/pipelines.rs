//! Kernels compiled for a device, each once however many models use it.
//!
//! Principal type: [`Compiled`]. The self-check's kernels are the ones that the model then runs. Must not know plans.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::PoisonError;

use super::device::GpuDevice;
use super::kernels::{Access, Variant};
use crate::error::{ErrorCode, Result};

/// A compiled variant and the layout of its bind groups, which kernels with equal lists of bindings share.
#[derive(Clone)]
pub(super) struct Compiled {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) group: wgpu::BindGroupLayout,
}

/// Has what is asked of the device meanwhile compiled, all at once; what it gives meanwhile is of no use.
pub type Ahead = fn(&mut dyn FnMut()) -> Pin<Box<dyn Future<Output = ()>>>;

/// Another text for a variant.
#[cfg(not(target_arch = "wasm32"))]
pub type Alter = fn(&Variant, String) -> String;

/// What a device has compiled so far.
#[derive(Default)]
pub(super) struct Cache {
    #[cfg(not(target_arch = "wasm32"))]
    alter: Option<Alter>,
    layouts: HashMap<&'static [Access], (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    compiled: HashMap<Variant, Compiled>,
}

impl GpuDevice {
    /// Has kernels compiled from other texts from now on: as a driver that compiles them wrongly would, for tests.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn alter_kernels(&self, alter: Alter) {
        let mut cache = self.cache();
        let before = cache.alter.replace(alter);
        cache.compiled.retain(|variant, _| {
            let text = variant.wgsl().unwrap_or_default();
            let was = before.map_or_else(|| text.clone(), |before| before(variant, text.clone()));
            was == alter(variant, text)
        });
    }

    /// Tries whether `variants` compile on this device.
    /// # Errors
    /// `GpuCheckFailed` names the first kernel that does not.
    pub async fn check_kernels(&self, variants: &[Variant]) -> Result<()> {
        self.compile(variants).await.map(|_| ())
    }

    /// Compiles `variants`, all at once, and gives them in the same order.
    /// # Errors
    /// `GpuCheckFailed` names the kernel that does not compile.
    pub(super) async fn compile(&self, variants: &[Variant]) -> Result<Vec<Compiled>> {
        let is_new = |variant: &&Variant| !self.cache().compiled.contains_key(variant);
        let wanted: Vec<&Variant> = variants.iter().filter(is_new).collect();
        if let Some(ahead) = self.ahead {
            let mut make_all = || wanted.iter().for_each(|variant| drop(self.make(variant)));
            // What is wrong is told when they are made.
            let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
            let done = ahead(&mut make_all);
            drop(scope.pop());
            done.await;
        }
        let mut pending = Vec::new();
        for variant in wanted {
            let (made, errors) = self.watched(|| self.make(variant));
            pending.push((*variant, made?, errors));
        }
        for (variant, (label, compiled), errors) in pending {
            self.settle(&format!("kernel {label}"), ErrorCode::GpuCheckFailed, errors).await?;
            self.cache().compiled.insert(variant, compiled);
        }
        let cache = self.cache();
        Ok(variants.iter().filter_map(|variant| cache.compiled.get(variant).cloned()).collect())
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A variant's name, and what becomes of it.
    fn make(&self, variant: &Variant) -> Result<(String, Compiled)> {
        let (label, text) = (variant.label(), variant.wgsl()?);
        #[cfg(not(target_arch = "wasm32"))]
        let text = match self.cache().alter {
            Some(alter) => alter(variant, text),
            None => text,
        };
        let (group, layout) = self.layout(variant.kernel.bindings());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Ok((label, Compiled { pipeline, group }))
    }

    fn layout(&self, list: &'static [Access]) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        let mut cache = self.cache();
        cache.layouts.entry(list).or_insert_with(|| make_layout(&self.device, list)).clone()
    }
}

/// An explicit layout: automatic ones belong to one pipeline each.
fn make_layout(device: &wgpu::Device, list: &[Access]) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
    let entry = |(binding, access): (usize, &Access)| wgpu::BindGroupLayoutEntry {
        binding: binding as u32,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: match access {
                Access::Uniform => wgpu::BufferBindingType::Uniform,
                Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
            },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let entries: Vec<_> = list.iter().enumerate().map(entry).collect();
    let group =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    (group, pipeline)
}
