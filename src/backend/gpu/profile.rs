//! How long each launch of a step takes, by the GPU's own clock where it has time stamps.
//!
//! Native only: in browsers `kernel-clock.ts` does the same from outside of the core. A launch has a pass of its own here,
//! because time stamps are taken at the ends of passes.

use web_time::Instant;

use super::device::GpuDevice;
use super::engine::GpuBackend;
use super::resources::{MAPPED, make_buffer};
use crate::backend::Outputs;
use crate::error::Result;

/// Launches whose time stamps one query set holds.
const RUN: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// Bytes of each of the two buffers that are copied to measure memory: more than caches hold.
const COPIED: u64 = 256 << 20;

impl GpuBackend {
    /// Runs a step, the last token's logits at most, and gives of each launch its kernel, the seconds it took and the
    /// bytes of the weights that it reads.
    /// # Errors
    /// As `forward`.
    pub async fn profile_step(
        &mut self,
        tokens: &[u32],
        pos: usize,
        outputs: Outputs,
    ) -> Result<Vec<(String, f64, u64)>> {
        self.check_step(tokens, pos)?;
        self.make_room(pos + tokens.len()).await?;
        self.order.begin(pos, pos + tokens.len())?;
        let n_tokens = tokens.len();
        let rows = (pos, n_tokens, outputs.n_rows(n_tokens).min(1));
        self.write_step(tokens, pos, &(n_tokens - rows.2..n_tokens));
        self.device.finished().await?;
        let launches = self.plan.sequence(n_tokens, self.few_rows()).launches.clone();
        let mut times = Vec::with_capacity(launches.len());
        if self.device.has_clock() {
            for run in launches.chunks(RUN) {
                times.extend(self.stamped(run, rows).await?);
            }
        } else {
            for launch in &launches {
                let start = Instant::now();
                let mut encoder = self.encoder();
                self.launch_alone(&mut encoder, *launch, rows, None);
                self.device.queue.submit([encoder.finish()]);
                self.device.finished().await?;
                times.push(start.elapsed().as_secs_f64());
            }
        }
        self.order.finish(pos + n_tokens);
        let told = launches.iter().zip(times).filter_map(|(launch, seconds)| {
            let (name, bytes) = self.describe(*launch, rows)?;
            Some((name, seconds, bytes))
        });
        Ok(told.collect())
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    fn launch_alone(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        launch: usize,
        rows: (usize, usize, usize),
        stamps: Option<wgpu::ComputePassTimestampWrites<'_>>,
    ) {
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes: stamps };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        let mut no_pipeline = usize::MAX;
        self.counters.dispatches += self.dispatch(&mut pass, &mut no_pipeline, launch, rows);
    }

    /// Seconds of each of `launches`.
    async fn stamped(&mut self, launches: &[usize], rows: (usize, usize, usize)) -> Result<Vec<f64>> {
        let (device, count) = (self.device.device.clone(), 2 * launches.len() as u32);
        let (label, ty) = (Some("profile"), wgpu::QueryType::Timestamp);
        let stamps = device.create_query_set(&wgpu::QuerySetDescriptor { label, ty, count });
        let n_bytes = u64::from(count) * 8;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = make_buffer(&self.device, "stamps", n_bytes, usage);
        let staging = make_buffer(&self.device, "stamps", n_bytes, MAPPED);
        let mut encoder = self.encoder();
        for (at, launch) in launches.iter().enumerate() {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &stamps,
                beginning_of_pass_write_index: Some(2 * at as u32),
                end_of_pass_write_index: Some(2 * at as u32 + 1),
            };
            self.launch_alone(&mut encoder, *launch, rows, Some(writes));
        }
        encoder.resolve_query_set(&stamps, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, n_bytes);
        self.device.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> =
            self.device.mapped(&staging, n_bytes, GpuDevice::map(&staging, n_bytes), None).await?;
        let period = f64::from(self.device.queue.get_timestamp_period()) * 1e-9;
        Ok(ticks.chunks(2).map(|ends| ends[1].saturating_sub(ends[0]) as f64 * period).collect())
    }

    /// The kernel of a launch, and the bytes of weights that all of it reads, where no row is chosen twice; `None` for one that this step leaves out.
    fn describe(&self, launch: usize, rows: (usize, usize, usize)) -> Option<(String, u64)> {
        let launch = &self.plan.launches[launch];
        let (variant, [_, y, z]) = launch.at(rows);
        if y * z == 0 {
            return None;
        }
        let variant = self.plan.variants[variant];
        let whole = if variant.format.is_some() { self.plan.buffers[launch.buffers[1]].bytes } else { 0 };
        let (shares, y) = (u64::from(launch.shares), u64::from(y));
        let bytes = if shares > y { whole * y / shares } else { whole };
        Some((variant.label(), bytes))
    }
}

impl GpuDevice {
    /// Whether kernels can be timed by the GPU itself.
    pub fn has_clock(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Bytes a second that copies between buffers move, read and written ones together.
    /// # Errors
    /// `OutOfMemory`, `GpuLost`.
    pub async fn copy_bandwidth(&self) -> Result<f64> {
        let bytes = COPIED.min(self.info().max_buffer_bytes);
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let code = crate::error::ErrorCode::Internal;
        let make = || [0; 2].map(|_| make_buffer(self, "copy", bytes, usage));
        let [from, to] = self.guarded("measuring memory", code, make).await?;
        let (mut copies, mut best) = (1u32, 0.0f64);
        for _ in 0..12 {
            let start = Instant::now();
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for _ in 0..copies {
                encoder.copy_buffer_to_buffer(&from, 0, &to, 0, bytes);
            }
            self.queue.submit([encoder.finish()]);
            self.finished().await?;
            let seconds = start.elapsed().as_secs_f64();
            best = best.max(f64::from(copies) * 2.0 * bytes as f64 / seconds);
            // Long enough that submitting does not count.
            if seconds < 0.05 {
                copies *= 2;
            }
        }
        Ok(best)
    }
}
