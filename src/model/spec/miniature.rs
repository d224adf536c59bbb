//! A small model of the kind of a large one, as plain data: what a backend tries itself on before it runs the large one.
//!
//! Principal function: [`ModelSpec::miniature`]. Must not know tensor names, ops or backends.

use std::mem::take;

use super::{AttentionSpec, FfnSpec, LayerSpec, MixerSpec, ModelSpec, TimeMixKind};

/// Most rows of tables, and positions that a window shows.
const FEW: usize = 48;

impl ModelSpec {
    /// The same kind of model with as little of everything as needs the same kernels: one layer of each kind, two heads
    /// of keys, narrow matrices of as whole blocks of weights; heads keep their width, and chosen experts their number.
    /// `alike` says whether the weights of two layers are of the same formats. Gives with it the layer that each of its
    /// layers is made from.
    pub fn miniature(mut self, alike: impl Fn(usize, usize) -> bool) -> (ModelSpec, Vec<usize>) {
        let mut kept: Vec<usize> = Vec::new();
        let mut caches = Vec::new();
        let mut representative = Vec::with_capacity(self.layers.len());
        for (index, mut layer) in take(&mut self.layers).into_iter().enumerate() {
            // Which other layer's cache a layer reads makes no other kind of it.
            let cache = match &mut layer.mixer {
                MixerSpec::Attention(AttentionSpec { kv_from: Some(from), .. }) => Some(take(from)),
                _ => None,
            };
            // RWKV's layers take from the first one what that computes.
            let first = index == 1 && matches!(layer.mixer, MixerSpec::TimeMix(_));
            let same = |other: &usize| self.layers[*other] == layer && alike(index, kept[*other]) && !first;
            let found = (0..kept.len()).find(same);
            representative.push(found.unwrap_or(kept.len()));
            if found.is_none() {
                kept.push(index);
                caches.push(cache);
                self.layers.push(layer);
            }
        }
        for (layer, cache) in self.layers.iter_mut().zip(caches) {
            if let (MixerSpec::Attention(spec), Some(from)) = (&mut layer.mixer, cache) {
                spec.kv_from = Some(representative[from]);
            }
            shrink(layer);
        }
        narrow(&mut self.n_embd);
        self.n_vocab = self.n_vocab.min(2 * FEW);
        self.n_positions = self.n_positions.map(|n| n.min(2 * FEW));
        self.dense.iter_mut().for_each(narrow);
        if let Some(altup) = &mut self.altup {
            narrow(&mut altup.laurel_rank);
            altup.gate_cutoff = kept.iter().map(|index| altup.gate_cutoff[*index]).collect();
        }
        let of_altup = self.altup.as_mut().map(|altup| &mut altup.per_layer);
        for per_layer in self.per_layer.iter_mut().chain(of_altup) {
            narrow(&mut per_layer.n_embd);
            per_layer.n_vocab = per_layer.n_vocab.min(FEW);
        }
        (self, kept)
    }
}

/// Narrows a layer.
fn shrink(layer: &mut LayerSpec) {
    match &mut layer.mixer {
        MixerSpec::Attention(spec) => {
            few_heads(&mut spec.n_heads, &mut spec.n_kv_heads, spec.head_dim);
            spec.window = spec.window.map(|window| window.min(FEW));
        }
        MixerSpec::DeltaNet(spec) => few_heads(&mut spec.n_v_heads, &mut spec.n_k_heads, spec.head_dim),
        MixerSpec::TimeMix(spec) => {
            few_heads(&mut spec.n_heads, &mut spec.n_kv_heads, spec.head_dim);
            match &mut spec.kind {
                TimeMixKind::V4 | TimeMixKind::V5 => {}
                TimeMixKind::V6 { shift_rank, decay_rank, .. } => {
                    [shift_rank, decay_rank].into_iter().for_each(narrow);
                }
                TimeMixKind::V7 { decay_rank, rate_rank, value_rank, gate_rank } => {
                    [decay_rank, rate_rank, value_rank].into_iter().chain(gate_rank).for_each(narrow);
                }
            }
        }
        MixerSpec::ShortConv(_) => {}
    }
    match &mut layer.ffn {
        FfnSpec::Gated { n_ff, .. } | FfnSpec::Plain { n_ff, .. } => narrow(n_ff),
        FfnSpec::ChannelMix(spec) => narrow(&mut spec.n_ff),
        FfnSpec::Moe(spec) => {
            narrow(&mut spec.n_ff);
            spec.routing.n_experts = spec.routing.n_experts.min(2 * spec.routing.n_used.max(2));
            if let Some(shared) = &mut spec.shared {
                narrow(&mut shared.n_ff);
            }
        }
    }
}

/// The longest run of elements, of those that formats have blocks of, that `n` elements are a whole number of; 1: of none.
fn block(n: usize) -> usize {
    [256, 128, 64, 32].into_iter().find(|block| n.is_multiple_of(*block)).unwrap_or(1)
}

/// Makes a width a narrow one, in as whole blocks as it is.
fn narrow(n: &mut usize) {
    *n = match block(*n) {
        1 => (*n).min(FEW / 32 * 32 + *n % 32),
        block => (*n).min(block.max(64)),
    };
}

/// Makes heads, of which each of `n_shared` serves several of `n`, few in the same proportion and together of as whole
/// blocks.
fn few_heads(n: &mut usize, n_shared: &mut usize, head_dim: usize) {
    let group = (*n / (*n_shared).max(1)).max(1);
    let wanted = block(*n * head_dim);
    let whole = |count: &usize| block(group * count * head_dim) >= wanted && group * count * head_dim >= 64;
    let count = (2.min(*n_shared)..*n_shared).find(whole).unwrap_or(*n_shared);
    (*n, *n_shared) = (group * count, count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_stay_of_whole_blocks() {
        for (n, expected) in [(4096, 256), (576, 64), (1536, 256), (96, 64), (100, 36), (20, 20), (32, 32)] {
            let mut width = n;
            narrow(&mut width);
            assert_eq!(width, expected, "{n}");
        }
        for (n, n_shared, head_dim, expected) in [
            (32, 8, 64, (8, 2)),
            (9, 3, 64, (6, 2)),
            (64, 64, 64, (4, 4)),
            (768, 768, 1, (256, 256)),
            (8, 1, 256, (8, 1)),
        ] {
            let mut heads = (n, n_shared);
            few_heads(&mut heads.0, &mut heads.1, head_dim);
            assert_eq!(heads, expected, "{n} heads");
        }
    }
}
