//! Experts from the keys `{arch}.expert_*`, which all families share.

use super::Decoder;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Value;
use crate::model::spec::{Activation, FfnSpec, Gating, MoeSpec, Routing};

/// Experts of a layer beyond this are a broken file, not a model.
const MAX_EXPERTS: usize = 1024;

/// Most rows that all experts of a layer have together: safe to multiply on a 32-bit machine.
const MAX_ROWS: usize = 1 << 28;

impl Decoder<'_> {
    /// Whether the model has experts at all: files of one architecture may or may not.
    /// # Errors
    /// `WrongType`.
    pub(in super::super) fn has_experts(&self) -> Result<bool> {
        Ok(self.meta.u64(&self.key("expert_count"))?.is_some_and(|n| n > 0))
    }

    /// The experts of a layer; `renormalize` is what holds where the file has no `expert_weights_norm`.
    /// # Errors
    /// Of the key that is missing, of a wrong type or out of bounds.
    pub(in super::super) fn moe(&self, layer: usize, gating: Gating, renormalize: bool) -> Result<MoeSpec> {
        let (count, used) = (self.key("expert_count"), self.key("expert_used_count"));
        let (n_experts, n_used) = (self.meta.count(&count)?, self.meta.count(&used)?);
        if n_experts > MAX_EXPERTS {
            let message = format!("{n_experts} experts; at most {MAX_EXPERTS} are supported");
            return Err(Error::new(ErrorCode::LimitExceeded, message).at(count));
        }
        if n_used > n_experts {
            let message = format!("{n_used} of {n_experts} experts cannot be used");
            return Err(Error::new(ErrorCode::InvalidValue, message).at(used));
        }
        let width = self.key("expert_feed_forward_length");
        let n_ff = self.meta.count_or(&width, self.n_ff[layer])?;
        if n_ff.saturating_mul(2).max(self.n_embd).saturating_mul(n_experts) > MAX_ROWS {
            let message = format!("{n_experts} experts of width {n_ff} are more than any model has");
            return Err(Error::new(ErrorCode::LimitExceeded, message).at(width));
        }
        let renormalize = self.meta.bool(&self.key("expert_weights_norm"))?.unwrap_or(renormalize);
        let scale = self.f32("expert_weights_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
        let activation = super::super::activation(self.meta, self.arch, Activation::Silu)?;
        let routing = Routing { n_experts, n_used, gating, renormalize, scale };
        Ok(MoeSpec { routing, n_ff, activation, shared: None })
    }

    /// A layer's experts, or its one gated block in files without.
    /// # Errors
    /// As [`Self::moe`].
    pub(in super::super) fn gated_or_moe(&self, layer: usize, gating: Gating) -> Result<FfnSpec> {
        match self.has_experts()? {
            true => Ok(FfnSpec::Moe(self.moe(layer, gating, true)?)),
            false => self.gated(layer, Activation::Silu),
        }
    }

    /// Which layers have experts, where config.json says that some have not (`mlp_only_layers`,
    /// `decoder_sparse_step`).
    /// # Errors
    /// `WrongType`.
    pub(in super::super) fn sparse_layers(&self) -> Result<Vec<bool>> {
        let dense: &[u64] = match self.meta.get("config.mlp_only_layers") {
            Some(Value::Uints(layers)) => layers,
            _ => &[],
        };
        let step = self.meta.count_or("config.decoder_sparse_step", 1)?;
        let sparse = |layer: usize| !dense.contains(&(layer as u64)) && (layer + 1).is_multiple_of(step);
        Ok((0..self.n_layers).map(sparse).collect())
    }
}
