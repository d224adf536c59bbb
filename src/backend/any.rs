//! Either backend behind one type, for programs that choose at run time.
//!
//! Principal type: [`AnyBackend`]. Adds nothing of its own.

use super::cpu::CpuBackend;
#[cfg(not(target_arch = "wasm32"))]
use super::cpu::CpuPool;
#[cfg(target_arch = "wasm32")]
use super::cpu::CpuShard;
#[cfg(feature = "gpu")]
use super::gpu::GpuBackend;
use super::{Backend, Counters, Draw, Logprobs, Outputs, Profile};
use crate::error::Result;
use crate::model::graph::Graph;
use crate::tensor::DType;

/// The CPU or the GPU backend.
#[allow(clippy::large_enum_variant, reason = "there is one of it per model")]
pub enum AnyBackend {
    /// SIMD or reference kernels on the CPU.
    Cpu(CpuBackend),
    /// The same on several threads.
    #[cfg(not(target_arch = "wasm32"))]
    CpuPool(CpuPool),
    /// A shard of it, with the others in workers of their own.
    #[cfg(target_arch = "wasm32")]
    CpuShard(CpuShard),
    /// WebGPU.
    #[cfg(feature = "gpu")]
    Gpu(GpuBackend),
}

/// Calls the same method of whichever backend it is.
macro_rules! either {
    ($any:expr, $backend:ident => $call:expr) => {
        match $any {
            AnyBackend::Cpu($backend) => $call,
            #[cfg(not(target_arch = "wasm32"))]
            AnyBackend::CpuPool($backend) => $call,
            #[cfg(target_arch = "wasm32")]
            AnyBackend::CpuShard($backend) => $call,
            #[cfg(feature = "gpu")]
            AnyBackend::Gpu($backend) => $call,
        }
    };
}

impl AnyBackend {
    /// `cpu` or `gpu`.
    pub fn name(&self) -> &'static str {
        match self {
            AnyBackend::Cpu(_) => "cpu",
            #[cfg(not(target_arch = "wasm32"))]
            AnyBackend::CpuPool(_) => "cpu",
            #[cfg(target_arch = "wasm32")]
            AnyBackend::CpuShard(_) => "cpu",
            #[cfg(feature = "gpu")]
            AnyBackend::Gpu(_) => "gpu",
        }
    }
}

impl Backend for AnyBackend {
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        either!(self, backend => backend.upload(weight, offset, bytes))
    }

    async fn finish_upload(&mut self) -> Result<()> {
        either!(self, backend => backend.finish_upload().await)
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        either!(self, backend => backend.forward(tokens, pos, outputs).await)
    }

    fn reuse(&mut self, logits: Vec<f32>) {
        either!(self, backend => backend.reuse(logits))
    }

    fn select(&mut self, sequence: usize) {
        either!(self, backend => backend.select(sequence))
    }

    fn earliest(&self) -> usize {
        either!(self, backend => backend.earliest())
    }

    fn tile(&self) -> usize {
        either!(self, backend => backend.tile())
    }

    fn chooses(&self, draw: &Draw) -> usize {
        either!(self, backend => backend.chooses(draw))
    }

    fn choose(&mut self, start: Option<(u32, usize, &Draw)>, n: usize) -> Result<()> {
        either!(self, backend => backend.choose(start, n))
    }

    async fn chosen(&mut self) -> Result<Vec<u32>> {
        either!(self, backend => backend.chosen().await)
    }

    fn take_logprobs(&mut self) -> Vec<Logprobs> {
        either!(self, backend => backend.take_logprobs())
    }

    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()> {
        either!(self, backend => backend.replace_graph(graph, dtypes, n_kept).await)
    }

    fn use_long_rope(&mut self, long: bool) {
        either!(self, backend => backend.use_long_rope(long))
    }

    fn profile(&mut self, begin: bool) -> Option<Profile> {
        either!(self, backend => Backend::profile(backend, begin))
    }

    fn counters(&self) -> Counters {
        either!(self, backend => backend.counters())
    }

    fn memory_bytes(&self) -> u64 {
        either!(self, backend => backend.memory_bytes())
    }
}
