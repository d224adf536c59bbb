//! One model on a device.
//!
//! Principal type: [`GpuBackend`]. Made from a [`Plan`]: every buffer, bind group and pipeline once, but for the KV cache,
//! which grows; a step writes one small buffer, records the launches and submits them together. Must not know ops beyond
//! their launches.

use std::collections::HashMap;
use std::ops::Range;

use web_time::Instant;

use super::choose::Choosing;
use super::device::GpuDevice;
use super::kernels::{MatMulTile, Variant};
use super::kv_cache::KvCache;
use super::pipelines::Compiled;
use super::plan::{MAX_CHOSEN, PARAM_STRIDE, Plan, Planner, STEP_WORDS, Tuning};
use super::resources::{Binder, MAPPED, UNIFORM, allocate, check_fit, make_buffer, param_bytes};
use super::states::States;
use super::upload::Uploads;
use crate::backend::{
    Backend, Counters, Draw, Logprobs, MOST_BEGUN, ModelPlan, Outputs, Sequences, StepOrder,
};
use crate::bail;
#[cfg(target_arch = "wasm32")]
use crate::error::Error;
use crate::error::{ErrorCode, Result};
use crate::model::graph::Graph;
use crate::tensor::DType;

/// What kernels compute with and what the KV cache holds. Sums, norms, softmax and the residual stream are f32 in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32 throughout.
    F32,
    /// The KV cache and the weights' tiles in half floats; needs [`super::AdapterInfo::shader_f16`].
    F16,
}

/// Positions of a rope table that are written at once.
const TABLE_RUN: usize = 512;

/// A model on the GPU.
pub struct GpuBackend {
    pub(super) device: GpuDevice,
    pub(super) model: ModelPlan,
    pub(super) plan: Plan,
    pub(super) buffers: Vec<wgpu::Buffer>,
    /// But for those of launches that bind a cache.
    bind_groups: Vec<Option<wgpu::BindGroup>>,
    compiled: Vec<Compiled>,
    pub(super) kv: Sequences<KvCache>,
    /// Where the others' states are, and room for those of the selected sequence, which kernels find in [`Plan::states`].
    states: Sequences<Option<States>>,
    staging: wgpu::Buffer,
    pub(super) choosing: Choosing,
    params: wgpu::Buffer,
    pub(super) uploads: Uploads,
    tuning: Tuning,
    pub(super) f16: bool,
    pub(super) order: Sequences<StepOrder>,
    /// All weights are there.
    ready: bool,
    pub(super) counters: Counters,
    /// Of everything but the KV cache.
    memory_bytes: u64,
    /// The words of the step buffer, kept so that a step allocates nothing.
    step: Vec<u32>,
}

impl GpuBackend {
    /// Plans `plan` and allocates and compiles everything it needs.
    /// # Errors
    /// `OutOfMemory` with the sizes, `GpuCheckFailed` naming a kernel that does not compile, `InvalidRequest` for F16
    /// on a device without it, `GpuLost`.
    pub async fn new(plan: ModelPlan, device: GpuDevice, precision: Precision) -> Result<GpuBackend> {
        Self::with_tuning(plan, device, precision, Tuning::default()).await
    }

    /// As [`Self::new`], with other sizes than the defaults.
    /// # Errors
    /// As [`Self::new`].
    pub async fn with_tuning(
        model: ModelPlan,
        device: GpuDevice,
        precision: Precision,
        tuning: Tuning,
    ) -> Result<GpuBackend> {
        Self::build(model, device, precision, tuning, None).await
    }

    /// As [`Self::with_tuning`]; with the first so many weights, the caches and the tables of another backend.
    async fn build(
        model: ModelPlan,
        device: GpuDevice,
        precision: Precision,
        tuning: Tuning,
        old: Option<(&GpuBackend, usize)>,
    ) -> Result<GpuBackend> {
        if model.dtypes.len() != model.graph.weights.len() || model.n_batch == 0 {
            bail!(Internal, "the model plan has no format for every weight, or no room for a token");
        }
        if precision == Precision::F16 && !device.info().shader_f16 {
            bail!(InvalidRequest, "this GPU has no half floats (shader-f16); use the f32 variant");
        }
        let tuning = tuning.on(device.info());
        let bundles = old.map(|(old, _)| old.plan.bundles.clone());
        let plan = Planner::plan(&model, precision == Precision::F16, tuning, bundles)?;
        check_fit(&plan, device.info())?;
        let mut counters = Counters::default();
        let kept = old.map_or(HashMap::new(), |(old, n_kept)| plan.kept_buffers(&old.plan, n_kept));
        let kept = |index: usize| Some(old?.0.buffers[*kept.get(&index)?].clone());
        let buffers = allocate(&device, &plan, &kept).await?;
        let staging_bytes = (plan.n_outputs * plan.n_vocab * 4) as u64;
        let (staging, choosing) = device
            .guarded("the read-back buffers", ErrorCode::Internal, || {
                (make_buffer(&device, "staging", staging_bytes, MAPPED), Choosing::new(&device))
            })
            .await?;
        let params_bytes = (plan.launches.len() * PARAM_STRIDE).max(PARAM_STRIDE) as u64;
        let params = make_buffer(&device, "params", params_bytes, UNIFORM);
        device.queue.write_buffer(&params, 0, &param_bytes(&plan));
        counters.queue_writes += 1;
        counters.buffers = plan.own_buffers().count() as u64 + 4;
        let compiled = device.compile(&plan.variants).await?;
        let binder =
            Binder { device: &device, plan: &plan, compiled: &compiled, buffers: &buffers, params: &params };
        let bind_groups = device.guarded("bind groups", ErrorCode::Internal, || binder.groups()).await?;
        counters.bind_groups = bind_groups.iter().flatten().count() as u64;
        let kv = KvCache::new(&binder, old.map(|(old, _)| &*old.kv), &mut counters).await?;
        let uploads = Uploads::new(&model, &plan, old.map(|(old, n_kept)| (&old.uploads, n_kept)));
        let memory_bytes = plan.own_buffers().map(|buffer| buffer.bytes).sum::<u64>()
            + staging_bytes
            + choosing.buffers().1
            + params_bytes;
        device.hold(memory_bytes);
        let step = Vec::with_capacity(STEP_WORDS + model.n_batch);
        let order = Sequences::new(vec![StepOrder::of(&model)]);
        Ok(GpuBackend {
            device,
            model,
            plan,
            buffers,
            bind_groups,
            compiled,
            kv: Sequences::new(vec![kv]),
            states: Sequences::new(vec![None]),
            staging,
            choosing,
            params,
            uploads,
            tuning,
            f16: precision == Precision::F16,
            order,
            ready: false,
            counters,
            memory_bytes,
            step,
        })
    }

    /// Does without its weights: they are zero then.
    pub(super) fn leave_empty(&mut self) {
        self.ready = true;
    }

    /// Rows of activations up to which a step is one of few tokens.
    pub(super) fn few_rows(&self) -> usize {
        self.tuning.few_rows()
    }

    /// Kernel variants that it runs.
    pub fn kernels(&self) -> &[Variant] {
        &self.plan.variants
    }

    /// The device it runs on.
    pub fn device(&self) -> &GpuDevice {
        &self.device
    }

    /// Stores a piece of a tensor straight from JavaScript memory, never touching the wasm heap (but for vectors,
    /// which are a few kilobytes and are decoded here). Otherwise as [`Backend::upload`].
    /// # Errors
    /// As [`Backend::upload`].
    #[cfg(target_arch = "wasm32")]
    pub fn upload_js(&mut self, weight: usize, offset: u64, bytes: &js_sys::Uint8Array) -> Result<()> {
        if self.uploads.is_vector(weight) {
            return self.upload(weight, offset, &bytes.to_vec());
        }
        let failed = || Error::new(ErrorCode::Internal, "this is no browser's GPU queue");
        for write in self.uploads.place(weight, offset, bytes.length() as usize)? {
            let queue = self.device.queue.as_webgpu().ok_or_else(failed)?;
            let buffer = self.buffers[write.buffer].as_webgpu().ok_or_else(failed)?;
            let at = self.plan.byte_of(write.buffer) + write.at;
            let whole = write.bytes.len() & !3;
            let (start, middle) = (write.bytes.start as u32, (write.bytes.start + whole) as u32);
            let run = bytes.subarray(start, middle);
            queue.write_buffer_with_f64_and_u8_array(buffer, at as f64, &run).map_err(|error| {
                Error::new(ErrorCode::OutOfMemory, format!("writing weights to the GPU failed: {error:?}"))
            })?;
            self.counters.queue_writes += 1;
            if whole < write.bytes.len() {
                let tail = bytes.subarray(middle, write.bytes.end as u32).to_vec();
                self.write_tail(write.buffer, write.at + whole as u64, &tail);
            }
        }
        self.device.check()
    }

    /// Writes fewer than 4 bytes, padded to 4: a queue write has no smaller unit.
    fn write_tail(&mut self, buffer: usize, at: u64, tail: &[u8]) {
        let mut word = [0; 4];
        word[..tail.len()].copy_from_slice(tail);
        self.write(buffer, at, &word);
    }

    /// Writes into a buffer of the plan, or a run of one.
    pub(super) fn write(&mut self, buffer: usize, at: u64, bytes: &[u8]) {
        self.device.queue.write_buffer(&self.buffers[buffer], self.plan.byte_of(buffer) + at, bytes);
        self.counters.queue_writes += 1;
    }

    /// Fills the tables of cosines and sines, from f64: all of them, or those that differ for long texts.
    fn write_tables(&mut self, long: bool, all: bool) {
        for table in &self.plan.tables {
            let rope = &self.model.graph.ropes[table.rope.0];
            if !all && rope.long_factors.is_none() {
                continue;
            }
            let factors = rope.factors_for(long).and_then(|weight| self.uploads.vector(weight.0));
            let frequencies = rope.spec.frequencies(factors, long);
            let magnitude = f64::from(frequencies.magnitude);
            let row = frequencies.radians_per_pos.len() * 2;
            // In runs of positions: a table of a long context is too large to hold twice, a write each too slow.
            let mut run = Vec::with_capacity(row * TABLE_RUN);
            for first in (0..self.model.n_ctx).step_by(TABLE_RUN) {
                run.clear();
                for pos in first..self.model.n_ctx.min(first + TABLE_RUN) {
                    for radians in &frequencies.radians_per_pos {
                        let (sin, cos) = (radians * pos as f64).sin_cos();
                        run.extend([(cos * magnitude) as f32, (sin * magnitude) as f32]);
                    }
                }
                let at = (first * row * 4) as u64;
                self.device.queue.write_buffer(&self.buffers[table.buffer], at, bytemuck::cast_slice(&run));
                self.counters.queue_writes += 1;
            }
        }
    }

    /// # Errors
    /// `InvalidRequest` for tokens or positions out of range, `Internal` before the weights are there.
    pub(super) fn check_step(&self, tokens: &[u32], pos: usize) -> Result<()> {
        self.device.check()?;
        let (n, n_batch, n_ctx) = (tokens.len(), self.model.n_batch, self.model.n_ctx);
        if !self.ready {
            bail!(Internal, "a step before finish_upload; upload the weights first");
        }
        if n == 0 || n > n_batch {
            bail!(InvalidRequest, "a step of {n} tokens; it takes 1 to {n_batch}");
        }
        if pos.checked_add(n).is_none_or(|end| end > n_ctx) {
            bail!(InvalidRequest, "{n} tokens at position {pos} pass the context of {n_ctx}");
        }
        let n_vocab = self.plan.n_embeddings;
        match tokens.iter().find(|token| **token as usize >= n_vocab) {
            Some(token) => bail!(InvalidRequest, "token id {token} is not in the vocabulary of {n_vocab}"),
            None => Ok(()),
        }
    }

    /// Makes room in the caches for the first `end` positions, and for the steps that may begin behind them before
    /// anything is waited for.
    /// # Errors
    /// As [`KvCache::reserve`].
    pub(super) async fn make_room(&mut self, end: usize) -> Result<()> {
        if self.states.is_none() && self.model.n_sequences > 1 && !self.plan.states.is_empty() {
            let make = || States::new(&self.device, &self.plan);
            let made = self.device.guarded("recurrent states", ErrorCode::Internal, make).await?;
            *self.states = Some(made);
            self.counters.buffers += 1;
        }
        let end = self.model.n_ctx.min(end + MOST_BEGUN * MAX_CHOSEN);
        let Self { device, plan, compiled, buffers, params, kv, counters, .. } = self;
        kv.reserve(end, &Binder { device, plan, compiled, buffers, params }, counters).await
    }

    /// Tells the kernels what the next submit is about; `outputs` are rows of the step.
    pub(super) fn write_step(&mut self, tokens: &[u32], pos: usize, outputs: &Range<usize>) {
        self.step.clear();
        self.step.extend([tokens.len() as u32, pos as u32, outputs.start as u32, outputs.len() as u32, 0]);
        self.step.extend_from_slice(tokens);
        let bytes = bytemuck::cast_slice(&self.step);
        self.device.queue.write_buffer(&self.buffers[self.plan.step], 0, bytes);
        self.counters.queue_writes += 1;
    }

    /// Records launches `range` of the sequence for a step of `n_tokens` from `pos` on with `n_outputs` wanted rows.
    pub(super) fn record(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        range: Range<usize>,
        (pos, n_tokens): (usize, usize),
        n_outputs: usize,
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.counters.passes += 1;
        let mut current = usize::MAX;
        let sequence = self.plan.sequence(n_tokens, self.tuning.few_rows());
        let rows = (pos, n_tokens, n_outputs);
        for index in &sequence.launches[range] {
            self.counters.dispatches += self.dispatch(&mut pass, &mut current, *index, rows);
        }
    }

    /// Records steps of one token from `pos` on, behind each of which `choosers` choose the next one's.
    pub(super) fn record_choices(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        positions: Range<usize>,
        choosers: &[usize],
    ) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.counters.passes += 1;
        let mut current = usize::MAX;
        for pos in positions {
            for index in self.plan.sequence(1, self.tuning.few_rows()).launches.iter().chain(choosers) {
                self.counters.dispatches += self.dispatch(&mut pass, &mut current, *index, (pos, 1, 1));
            }
        }
    }

    /// Records a launch in a pass whose pipeline is `current`, for a position and numbers of tokens and of outputs; gives
    /// the number of dispatches.
    pub(super) fn dispatch(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        current: &mut usize,
        index: usize,
        rows: (usize, usize, usize),
    ) -> u64 {
        let (variant, [x, y, z]) = self.plan.launches[index].at(rows);
        if y * z == 0 {
            return 0;
        }
        if *current != variant {
            *current = variant;
            pass.set_pipeline(&self.compiled[variant].pipeline);
        }
        pass.set_bind_group(0, self.kv.group(index).or(self.bind_groups[index].as_ref()), &[]);
        pass.dispatch_workgroups(x, y, z);
        1
    }

    /// Records, submits and, where rows are wanted, reads one slice of a step: its body too when it is the first.
    async fn run_slice(
        &mut self,
        tokens: &[u32],
        pos: usize,
        rows: Range<usize>,
        first: bool,
    ) -> Result<Vec<f32>> {
        let start = Instant::now();
        self.write_step(tokens, pos, &rows);
        let mut encoder =
            self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let sequence = self.plan.sequence(tokens.len(), self.tuning.few_rows());
        let from = if first { 0 } else { sequence.n_body };
        let to = if rows.is_empty() { sequence.n_body } else { sequence.launches.len() };
        self.record(&mut encoder, from..to, (pos, tokens.len()), rows.len());
        let n_bytes = (rows.len() * self.plan.n_vocab * 4) as u64;
        if n_bytes > 0 {
            encoder.copy_buffer_to_buffer(&self.buffers[self.plan.logits], 0, &self.staging, 0, n_bytes);
        }
        self.device.queue.submit([encoder.finish()]);
        self.counters.submits += 1;
        self.counters.encode_us += start.elapsed().as_micros() as u64;
        if n_bytes == 0 {
            self.device.finished().await?;
            return Ok(Vec::new());
        }
        self.counters.readback_bytes += n_bytes;
        self.device.read(&self.staging, n_bytes).await
    }
}

impl Backend for GpuBackend {
    fn upload(&mut self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let writes = self.uploads.place(weight, offset, bytes.len())?;
        self.uploads.collect(weight, bytes);
        for write in writes {
            let run = &bytes[write.bytes];
            let (whole, tail) = run.split_at(run.len() & !3);
            self.write(write.buffer, write.at, whole);
            if !tail.is_empty() {
                self.write_tail(write.buffer, write.at + whole.len() as u64, tail);
            }
        }
        self.uploads.flush(&self.device, &mut self.counters);
        self.device.check()
    }

    async fn finish_upload(&mut self) -> Result<()> {
        let mut n_writes = 0;
        let mut write = |buffer: usize, bytes: &[u8]| {
            self.device.queue.write_buffer(&self.buffers[buffer], self.plan.byte_of(buffer), bytes);
            n_writes += 1;
        };
        for (buffer, values) in self.uploads.finish(&self.model)? {
            write(buffer, bytemuck::cast_slice(values));
        }
        for (buffer, table) in self.uploads.tables() {
            write(buffer, bytemuck::cast_slice(table));
        }
        self.counters.queue_writes += n_writes;
        self.write_tables(false, true);
        self.repack().await?;
        self.device.queue.submit([]);
        self.counters.submits += 1;
        self.device.finished().await?;
        self.ready = true;
        Ok(())
    }

    async fn forward(&mut self, tokens: &[u32], pos: usize, outputs: Outputs) -> Result<Vec<f32>> {
        self.check_step(tokens, pos)?;
        self.make_room(pos + tokens.len()).await?;
        self.choosing.abandon();
        self.order.begin(pos, pos + tokens.len())?;
        let n_rows = outputs.n_rows(tokens.len());
        let mut next = tokens.len() - n_rows;
        let mut logits = Vec::new();
        let mut first = true;
        while first || next < tokens.len() {
            let end = (next + self.plan.n_outputs).min(tokens.len());
            let slice = self.run_slice(tokens, pos, next..end, first).await?;
            match logits.is_empty() {
                true => logits = slice,
                false => logits.extend(slice),
            }
            (next, first) = (end, false);
        }
        self.counters.steps += 1;
        self.order.finish(pos + tokens.len());
        Ok(logits)
    }

    fn select(&mut self, sequence: usize) {
        if sequence != self.kv.selected() {
            let copy = |states: &Option<States>, back| {
                if let Some(states) = states {
                    states.copy(&self.plan, &self.buffers, back);
                }
            };
            copy(&self.states, false);
            self.kv.select(sequence, || KvCache::empty(&self.plan));
            self.order.select(sequence, || StepOrder::of(&self.model));
            self.states.select(sequence, || None);
            copy(&self.states, true);
        }
    }

    fn earliest(&self) -> usize {
        self.order.earliest()
    }

    fn tile(&self) -> usize {
        // What a lane takes on software adapters; on hardware, whose tiles are longer, as much as a slow device can take.
        MatMulTile::ROWS.x as usize
    }

    fn chooses(&self, draw: &Draw) -> usize {
        // What a recurrent model has gone through cannot be taken back: it must not run ahead of the text, nor run a step
        // again whose token the GPU could not tell.
        match (self.model.graph.states.is_empty(), draw.is_best()) {
            _ if !self.tuning.choose => 0,
            (true, _) if !self.plan.choosers.can(draw, self.plan.n_vocab) => 0,
            (true, _) => MAX_CHOSEN,
            (false, best) => usize::from(best),
        }
    }

    fn choose(&mut self, start: Option<(u32, usize, &Draw)>, n: usize) -> Result<()> {
        self.begin_choosing(start, n)
    }

    async fn chosen(&mut self) -> Result<Vec<u32>> {
        self.finish_choosing().await
    }

    fn take_logprobs(&mut self) -> Vec<Logprobs> {
        self.choosing.take_logprobs()
    }

    async fn replace_graph(&mut self, graph: Graph, dtypes: Vec<DType>, n_kept: usize) -> Result<()> {
        self.device.check()?;
        let kept = self.model.graph.weights.get(..n_kept);
        if kept.is_none() || kept != graph.weights.get(..n_kept) || graph.kv != self.model.graph.kv {
            bail!(Internal, "a graph in the place of another does not begin with its weights");
        }
        let model = ModelPlan { graph, dtypes, ..self.model };
        let precision = if self.f16 { Precision::F16 } else { Precision::F32 };
        let old = Some((&*self, n_kept));
        let mut new = Self::build(model, self.device.clone(), precision, self.tuning, old).await?;
        new.counters = Counters {
            buffers: self.counters.buffers + new.counters.buffers,
            bind_groups: self.counters.bind_groups + new.counters.bind_groups,
            queue_writes: self.counters.queue_writes + new.counters.queue_writes,
            ..self.counters
        };
        std::mem::swap(self, &mut new);
        // What both have must outlive the old one, which frees its buffers.
        new.buffers.retain(|buffer| !self.buffers.contains(buffer));
        Ok(())
    }

    fn use_long_rope(&mut self, long: bool) {
        self.write_tables(long, false);
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn memory_bytes(&self) -> u64 {
        let caches = self.kv.all().iter().map(KvCache::bytes);
        let states = self.states.all().iter().flatten().map(States::bytes);
        self.memory_bytes + caches.chain(states).sum::<u64>()
    }
}

/// In a browser dropping a handle leaves the memory to the garbage collector, which does not feel GPU memory.
impl Drop for GpuBackend {
    fn drop(&mut self) {
        self.device.let_go(self.memory_bytes);
        for buffer in
            self.buffers.iter().chain(self.choosing.buffers().0).chain([&self.staging, &self.params])
        {
            buffer.destroy();
        }
    }
}
