//! Steps whose tokens the GPU chooses, several a submit, the next submit recorded before the last is awaited.
//!
//! Principal type: [`Choosing`]. Must not know how tokens are chosen beyond the plan's launches.

use std::collections::VecDeque;

use web_time::Instant;

use super::device::GpuDevice;
use super::engine::GpuBackend;
use super::oneshot::Receiver;
use super::plan::{MAX_CHOSEN, STEP_WORDS, TOP_WORDS, limit_words, sampling_words};
use super::resources::{MAPPED, make_buffer};
use crate::backend::{Backend, Draw, Logprobs, MOST_BEGUN};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};

/// Bytes that a step leaves: bits of the largest logit, and the token.
const CHOICE_BYTES: u64 = 8;

/// Bytes that it leaves besides, where log-probabilities are wanted.
const TOP_BYTES: u64 = TOP_WORDS as u64 * 4;

/// What is under way.
pub(super) struct Choosing {
    /// A buffer to read back for each submit under way.
    ring: [wgpu::Buffer; MOST_BEGUN],
    /// The next to use.
    slot: usize,
    submits: VecDeque<Submit>,
    /// Position of the next step, and the launches that choose.
    pos: usize,
    launches: Vec<usize>,
    /// Whether it is always the token of the largest logit.
    best: bool,
    /// [`Draw::top`], and what was found for the tokens given last.
    top: Option<usize>,
    logprobs: Vec<Logprobs>,
}

struct Submit {
    n: usize,
    slot: usize,
    index: wgpu::SubmissionIndex,
    mapped: Receiver<bool>,
}

impl Choosing {
    pub(super) fn new(device: &GpuDevice) -> Choosing {
        let buffer =
            || make_buffer(device, "choices", MAX_CHOSEN as u64 * (CHOICE_BYTES + TOP_BYTES), MAPPED);
        Choosing {
            ring: [buffer(), buffer()],
            slot: 0,
            submits: VecDeque::new(),
            pos: 0,
            launches: Vec::new(),
            best: true,
            top: None,
            logprobs: Vec::new(),
        }
    }

    /// The buffers, and their bytes.
    pub(super) fn buffers(&self) -> (&[wgpu::Buffer], u64) {
        (&self.ring, (MOST_BEGUN * MAX_CHOSEN) as u64 * (CHOICE_BYTES + TOP_BYTES))
    }

    /// As [`Backend::take_logprobs`].
    pub(super) fn take_logprobs(&mut self) -> Vec<Logprobs> {
        std::mem::take(&mut self.logprobs)
    }

    /// Forgets what is under way.
    pub(super) fn abandon(&mut self) {
        for submit in self.submits.drain(..) {
            self.ring[submit.slot].unmap();
        }
    }
}

impl GpuBackend {
    /// As [`Backend::choose`].
    pub(super) fn begin_choosing(&mut self, start: Option<(u32, usize, &Draw)>, n: usize) -> Result<()> {
        let began = Instant::now();
        let most = self.chooses(start.map_or(&Draw::BEST, |(_, _, draw)| draw));
        let pos = start.map_or(self.choosing.pos, |(_, pos, _)| pos);
        if n == 0 || n > most || pos + n > self.model.n_ctx {
            bail!(InvalidRequest, "{n} steps at once from position {pos}; {most} are possible");
        }
        if pos + n > self.kv.n_positions() {
            bail!(Internal, "{n} steps from position {pos}, far behind all others");
        }
        match start {
            Some((token, pos, draw)) => self.start_choosing(token, pos, draw)?,
            None if (1..MOST_BEGUN).contains(&self.choosing.submits.len()) => self.device.check()?,
            None => bail!(Internal, "steps behind {} submits of others", self.choosing.submits.len()),
        }
        let mut encoder =
            self.device.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        if start.is_none() {
            // The number of choices in the submit: the word before the tokens.
            let at = (STEP_WORDS - 1) as u64 * 4;
            encoder.clear_buffer(&self.buffers[self.plan.step], at, Some(4));
        }
        let pos = self.choosing.pos;
        let launches = std::mem::take(&mut self.choosing.launches);
        self.record_choices(&mut encoder, pos..pos + n, &launches);
        self.choosing.launches = launches;
        let (slot, n_bytes) = (self.choosing.slot, n_bytes(n, self.choosing.top));
        let staging = &self.choosing.ring[slot];
        let (choosers, of_choices) = (&self.plan.choosers, n as u64 * CHOICE_BYTES);
        encoder.copy_buffer_to_buffer(&self.buffers[choosers.chosen], 0, staging, 0, of_choices);
        if n_bytes > of_choices {
            let found = &self.buffers[choosers.found];
            encoder.copy_buffer_to_buffer(found, 0, staging, of_choices, n_bytes - of_choices);
        }
        let index = self.device.queue.submit([encoder.finish()]);
        let mapped = GpuDevice::map(staging, n_bytes);
        self.counters.submits += 1;
        self.counters.steps += n as u64;
        self.counters.readback_bytes += n_bytes;
        self.counters.encode_us += began.elapsed().as_micros() as u64;
        self.choosing.submits.push_back(Submit { n, slot, index, mapped });
        self.choosing.slot = (slot + 1) % MOST_BEGUN;
        self.choosing.pos += n;
        self.order.go_on(self.choosing.pos);
        Ok(())
    }

    fn start_choosing(&mut self, token: u32, pos: usize, draw: &Draw) -> Result<()> {
        self.check_step(&[token], pos)?;
        self.choosing.abandon();
        self.order.begin(pos, pos)?;
        self.write_step(&[token], pos, &(0..1));
        let n_vocab = self.plan.n_vocab;
        self.choosing.best = draw.is_best();
        self.choosing.top = draw.top;
        if !self.choosing.best || draw.top.is_some() {
            let words = sampling_words(draw, n_vocab);
            self.write(self.plan.choosers.sampling, 0, bytemuck::cast_slice(&words));
        }
        if draw.allowed.is_some() || !draw.bias.is_empty() {
            let (words, first) = limit_words(draw, n_vocab);
            self.write(self.plan.choosers.limits, first as u64 * 4, bytemuck::cast_slice(&words));
        }
        self.choosing.launches = self.plan.choosers.for_draw(draw, n_vocab);
        self.choosing.pos = pos;
        Ok(())
    }

    /// As [`Backend::chosen`].
    pub(super) async fn finish_choosing(&mut self) -> Result<Vec<u32>> {
        // For the steps that begin next, while these run.
        self.make_room(self.choosing.pos).await?;
        // It stays in the list, to be given up with the others, should nobody wait to the end.
        let Some(submit) = self.choosing.submits.front_mut() else {
            bail!(Internal, "no steps are under way");
        };
        let (n, until) = (submit.n, Some(submit.index.clone()));
        let n_top = self.choosing.top;
        let n_bytes = n_bytes(n, n_top);
        let buffer = &self.choosing.ring[submit.slot];
        let read = self.device.mapped(buffer, n_bytes, &mut submit.mapped, until);
        let words: Vec<u32> = read.await?;
        let (choices, tops) = words.split_at(2 * n);
        self.choosing.submits.pop_front();
        let under_way: usize = self.choosing.submits.iter().map(|submit| submit.n).sum();
        self.order.finish(self.choosing.pos - under_way);
        let mut ids = Vec::with_capacity(n);
        for choice in choices.chunks_exact(2) {
            let (largest, id) = (f32::from_bits(choice[0]), choice[1]);
            let known = (id as usize) < self.plan.n_vocab;
            match (known && largest.is_finite(), self.choosing.best) {
                (true, _) => ids.push(id),
                (false, true) => {
                    return Err(Error::new(ErrorCode::Internal, "no finite number among the logits"));
                }
                // What was run behind an uncertain token is of no use.
                (false, false) => {
                    self.choosing.abandon();
                    break;
                }
            }
        }
        let tops = tops.chunks_exact(TOP_WORDS).take(ids.len());
        self.choosing.logprobs = tops.map(|words| logprobs(words, n_top.unwrap_or(0))).collect();
        Ok(ids)
    }
}

/// Bytes of `n` steps that are read back.
fn n_bytes(n: usize, top: Option<usize>) -> u64 {
    n as u64 * (CHOICE_BYTES + if top.is_some() { TOP_BYTES } else { 0 })
}

/// What shaders/sample/top.wgsl leaves of a step.
fn logprobs(words: &[u32], n: usize) -> Logprobs {
    let pairs = words[2..].chunks_exact(2).take(n).filter(|pair| pair[1] != u32::MAX);
    let top = pairs.map(|pair| (pair[1], f32::from_bits(pair[0]))).collect();
    Logprobs::from_sum(f32::from_bits(words[1]), top, f32::from_bits(words[0]))
}
