//! From a header to a plan: everything that is known before the first weight arrives.
//!
//! Principal type: [`Loading`]. Must not know where the file comes from or where the weights go.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::adapters::Adapters;
use super::{Engine, text_files};
use crate::backend::{Backend, ModelPlan, kv_format};
use crate::bail;
use crate::error::{Error, ErrorCode, Result};
use crate::generate::{Session, SessionShape};
use crate::model::blocks::build_graph;
use crate::model::families;
use crate::model::graph::{Graph, Op, WeightDecl, WeightKind};
#[cfg(feature = "gpu")]
use crate::model::names;
use crate::model::spec::{HeadSpec, ModelSpec, RopeScaling};
use crate::quant;
use crate::tensor::DType;
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::{Assembler, ByteSource, Checkpoint, Need, PART_BYTES, Recipe, StoredTensor, WeightMap};

/// How much room a model gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Positions of the KV cache; by default what the model was trained for, at most [`DEFAULT_N_CTX`] where a
    /// position takes room.
    pub n_ctx: Option<usize>,
    /// Most tokens of one step; [`DEFAULT_N_BATCH`] by default.
    pub n_batch: Option<usize>,
    /// Texts that are kept, from 1 to [`MAX_SEQUENCES`], each in a KV cache of its own; one by default.
    pub n_sequences: Option<usize>,
    /// The format that F32, F16 and BF16 matrices are turned into as they arrive; their own by default.
    pub quantize: Option<DType>,
    /// Whether the engine only computes, for another one that reads and writes the text.
    pub without_text: bool,
    /// The format that keys and values are kept in, one of [`crate::backend::KV_FORMATS`]; by default half floats, or
    /// single ones where a GPU has no half floats.
    pub kv_cache: Option<DType>,
}

impl LoadOptions {
    /// Of formats by their names.
    /// # Errors
    /// `InvalidRequest` names the format.
    pub fn named(n_ctx: Option<usize>, quantize: Option<&str>, kv_cache: Option<&str>) -> Result<Self> {
        let quantize = quantize.map(Recipe::named).transpose()?.map(|recipe| recipe.to());
        let kv_cache = kv_cache.map(kv_format).transpose()?;
        Ok(Self { n_ctx, quantize, kv_cache, ..Self::default() })
    }
}

/// Largest context by default: enough for a chat, and a KV cache that fits everywhere.
pub const DEFAULT_N_CTX: usize = 4096;
/// Most texts that are kept.
pub const MAX_SEQUENCES: usize = 16;
/// Larger contexts and steps than this are a slip of the pen: no supported model was trained for them.
const MAX_POSITIONS: usize = 1 << 20;
/// Tokens of a prefill step by default: enough for the tiled kernels, and workspace that fits everywhere.
pub const DEFAULT_N_BATCH: usize = 128;

/// A model whose header is read and whose weights are on their way.
pub struct Loading {
    graph: Graph,
    weights: WeightMap,
    tokenizer: Tokenizer,
    template: Result<ChatTemplate, String>,
    summary: ModelSummary,
    head: HeadSpec,
    shape: SessionShape,
    kv_cache: Option<DType>,
    adapters: Adapters,
    #[cfg(feature = "gpu")]
    miniature: ModelPlan,
}

/// Facts of a model, as `EngineInfo.model` of the TypeScript API.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelSummary {
    /// `general.name`, or the architecture.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Elements of all tensors.
    pub n_params: u64,
    /// Layers.
    pub n_layers: usize,
    /// Tokens of the vocabulary.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Size of the files, up to the end of the last tensor of each.
    pub file_bytes: u64,
    /// Bytes of the weights in use, by storage format.
    pub formats: BTreeMap<&'static str, u64>,
    /// Whether it gives embeddings instead of text.
    pub is_embedder: bool,
    /// Context the model was trained for.
    pub context_length_trained: usize,
    /// Whether the model says how a conversation becomes a prompt.
    pub has_chat_template: bool,
    /// `general.license`: the licence the file states, as it states it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// `general.license.link`: where its text is. Unchecked: the file's author wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_link: Option<String>,
}

impl Loading {
    /// Reads everything out of `model` (a GGUF header, or what a folder holds) that is needed before the weights.
    /// # Errors
    /// The typed error of the part at fault: architecture, metadata key, tensor, tokenizer, chat template; or
    /// `InvalidRequest` for impossible options.
    pub fn new(model: impl Into<Checkpoint>, options: LoadOptions) -> Result<Self> {
        let mut model: Checkpoint = model.into();
        families::add_ranks(&mut model.metadata, &model.tensors);
        let spec = families::spec(&model.metadata)?;
        let names: HashSet<&str> = model.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let graph = build_graph(&spec, |name| names.contains(name));
        check_orders(&model, &graph)?;
        let needs: Vec<Need> = graph.weights.iter().map(need).collect();
        let mut weights = WeightMap::resolve(&needs, &model)?;
        if let Some(dtype) = options.quantize {
            weights.requantize(Recipe::new(dtype)?)?;
        }
        let (tokenizer, template) = match options.without_text {
            // No text comes here: a tokenizer of no tokens, which takes no memory.
            true => (Tokenizer::from_rwkv_vocab("")?, Err(String::new())),
            false => {
                let tokenizer = text_files::tokenizer(&model)?;
                let template = text_files::chat_template(&model, &tokenizer);
                (tokenizer, template)
            }
        };
        let summary = summarise(&spec, &model, &weights, template.is_ok())?;
        let shape = session_shape(&spec, &graph, options)?;
        let adapters = Adapters::new(&model.metadata, graph.clone(), weights.dtypes())?;
        let head = spec.head;
        #[cfg(feature = "gpu")]
        let miniature = ModelPlan {
            kv_cache: options.kv_cache,
            ..miniature(spec, &graph, &weights.dtypes(), &|name| names.contains(name))
        };
        Ok(Self {
            graph,
            weights,
            tokenizer,
            template,
            summary,
            head,
            shape,
            kv_cache: options.kv_cache,
            adapters,
            #[cfg(feature = "gpu")]
            miniature,
        })
    }

    /// A small model that runs the same kernels, for [`super::check_gpu`].
    #[cfg(feature = "gpu")]
    pub fn miniature(&self) -> &ModelPlan {
        &self.miniature
    }

    /// What a backend needs to allocate and plan.
    pub fn plan(&self) -> ModelPlan {
        ModelPlan {
            graph: self.graph.clone(),
            dtypes: self.weights.dtypes(),
            n_ctx: self.shape.n_ctx,
            n_batch: self.shape.n_batch,
            n_sequences: self.shape.n_sequences,
            kv_cache: self.kv_cache,
        }
    }

    /// Which bytes of the file go where.
    pub fn weights(&self) -> &WeightMap {
        &self.weights
    }

    /// Facts of the model.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Positions of the KV cache.
    pub fn n_ctx(&self) -> usize {
        self.shape.n_ctx
    }

    /// The engine over a backend that was made from [`Loading::plan`] and holds all weights.
    pub fn into_engine<B: Backend>(self, backend: B) -> Engine<B> {
        let session = Session::new(backend, self.shape);
        let Loading { tokenizer, template, summary, head, adapters, .. } = self;
        Engine { session, tokenizer, template, summary, head, adapters }
    }
}

/// Streams the weights from the model's files into `backend`, part by part; never a whole file in memory.
/// # Errors
/// What the sources and the backend say.
pub async fn fill(backend: &mut impl Backend, loading: &Loading, sources: &[impl ByteSource]) -> Result<()> {
    let weights = loading.weights();
    let mut assembler = Assembler::new(weights);
    let mut upload = |weight, offset, bytes: &[u8]| {
        weights.check_scales(weight, offset, bytes)?;
        backend.upload(weight, offset, bytes)
    };
    for part in weights.parts(PART_BYTES) {
        let Some(source) = sources.get(part.file) else {
            bail!(Internal, "file {} of {}", part.file, sources.len());
        };
        let bytes = source.read(part.range.clone()).await?;
        for piece in weights.pieces(part.file, part.range) {
            assembler.take(&piece, &bytes[piece.range.clone()], &mut upload)?;
        }
    }
    assembler.finish(&mut upload)?;
    backend.finish_upload().await
}

/// The small model of the kind of `spec`, with its weights in the formats of the weights of the same names.
#[cfg(feature = "gpu")]
fn miniature(
    spec: ModelSpec,
    graph: &Graph,
    dtypes: &[DType],
    has_tensor: &dyn Fn(&str) -> bool,
) -> ModelPlan {
    use super::check::{N_BATCH, N_CTX};
    let of_layer = |layer: usize| {
        let prefix = names::layer(layer, "");
        let named = graph.weights.iter().zip(dtypes);
        named.filter_map(move |(weight, dtype)| Some((weight.name.strip_prefix(&prefix)?, *dtype)))
    };
    let (small, layers) = spec.miniature(|a, b| of_layer(a).eq(of_layer(b)));
    // What a tensor of the small model is called in the large one.
    let original = |name: &str| {
        let place = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        match place.and_then(|(index, role)| Some((layers.get(index.parse::<usize>().ok()?)?, role))) {
            Some((layer, role)) => names::layer(*layer, role),
            None => name.to_owned(),
        }
    };
    let small = build_graph(&small, |name| has_tensor(&original(name)));
    let dtype = |weight: &WeightDecl| {
        let name = original(&weight.name);
        let found = graph.weights.iter().position(|other| other.name == name);
        found.map_or(DType::F32, |index| dtypes[index])
    };
    let dtypes = small.weights.iter().map(dtype).collect();
    ModelPlan { graph: small, dtypes, n_ctx: N_CTX, n_batch: N_BATCH, n_sequences: 1, kv_cache: None }
}

/// Columns in another order than the model's (GPTQ with act-order) must meet activations in that order.
fn check_orders(model: &Checkpoint, graph: &Graph) -> Result<()> {
    let orders = model.tensors.iter().map(|tensor| &tensor.name).filter(|name| name.ends_with(".perm"));
    for name in orders {
        if !graph.weights.iter().any(|weight| weight.name == *name) {
            let message = "act-order (desc_act) is not supported for this kind of layer";
            return Err(Error::new(ErrorCode::UnsupportedType, message).at(name));
        }
    }
    Ok(())
}

/// What the loader must find for a weight of the graph.
fn need(weight: &WeightDecl) -> Need {
    Need {
        name: weight.name.clone(),
        part_of: weight.part_of.as_ref().map(|(fused, first)| (fused.clone(), *first as u64)),
        n_cols: weight.n_cols as u64,
        n_rows: weight.n_rows as u64,
        vector: weight.kind == WeightKind::Vector,
    }
}

/// How much room there is, and what a step may hold.
/// # Errors
/// `InvalidRequest` for impossible options, or a context beyond a model's table of positions.
fn session_shape(spec: &ModelSpec, graph: &Graph, options: LoadOptions) -> Result<SessionShape> {
    let positions = graph.ops.iter().filter_map(|op| match op {
        Op::AddPosition { table, .. } => Some(graph.weights[table.0].n_rows),
        _ => None,
    });
    let contexts = graph.ropes.iter().filter_map(|rope| match rope.spec.scaling {
        RopeScaling::Dynamic { original_context } => Some(original_context),
        _ => None,
    });
    let n_positions = positions.chain(contexts).min().unwrap_or(MAX_POSITIONS);
    let n_ctx = sensible("n_ctx", options.n_ctx, MAX_POSITIONS)?;
    if n_ctx.is_some_and(|n_ctx| n_ctx > n_positions) {
        let message = format!("the model has learned {n_positions} positions and no more");
        return Err(Error::new(ErrorCode::InvalidRequest, message).at("n_ctx"));
    }
    // A state takes the same room however long the text is.
    let roomy = if graph.kv.is_empty() && !graph.states.is_empty() { MAX_POSITIONS } else { DEFAULT_N_CTX };
    let n_ctx = n_ctx.unwrap_or(spec.n_ctx_train.min(roomy)).min(n_positions);
    let n_batch = sensible("n_batch", options.n_batch, MAX_POSITIONS)?.unwrap_or(DEFAULT_N_BATCH).min(n_ctx);
    let n_sequences = sensible("sequences", options.n_sequences, MAX_SEQUENCES)?.unwrap_or(1);
    let causal = !graph.ops.iter().any(|op| matches!(op, Op::Attention { causal: false, .. }));
    let logits = graph.logits.expect("invariant: every graph has a result");
    Ok(SessionShape {
        n_ctx,
        // Tokens that see later ones cannot be computed before those are there.
        n_batch: if causal { n_batch } else { n_ctx },
        // Nothing goes on with a text that is embedded.
        n_sequences: if spec.head == HeadSpec::Logits { n_sequences } else { 1 },
        n_vocab: spec.n_vocab,
        width: graph.values[logits.0].width,
        causal,
        rewinds: graph.states.is_empty(),
        long_rope_beyond: graph.long_rope_beyond(),
    })
}

/// A number that can be meant, up to `most`.
fn sensible(name: &str, value: Option<usize>, most: usize) -> Result<Option<usize>> {
    match value {
        Some(value) if !(1..=most).contains(&value) => {
            let message = format!("must be from 1 to {most}");
            Err(Error::new(ErrorCode::InvalidRequest, message).at(name))
        }
        other => Ok(other),
    }
}

fn summarise(
    spec: &ModelSpec,
    model: &Checkpoint,
    weights: &WeightMap,
    has_chat_template: bool,
) -> Result<ModelSummary> {
    let text = |key: &str| Ok(model.metadata.str(key)?.map(str::to_owned));
    let architecture = text("general.architecture")?.unwrap_or_default();
    let name = text("general.name")?.filter(|name| !name.trim().is_empty());
    // A note for people: one of another type is no reason to refuse the model.
    let stated = |key: &str| {
        model
            .metadata
            .str(key)
            .ok()
            .flatten()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let mut formats = BTreeMap::new();
    for (index, dtype) in weights.dtypes().into_iter().enumerate() {
        *formats.entry(quant::format(dtype).name).or_default() += weights.given_bytes(index);
    }
    Ok(ModelSummary {
        name: name.unwrap_or_else(|| architecture.clone()),
        architecture,
        n_params: model.tensors.iter().map(StoredTensor::n_elements).sum(),
        n_layers: spec.layers.len(),
        n_vocab: spec.n_vocab,
        n_embd: spec.n_embd,
        file_bytes: model.data_ends.iter().sum(),
        formats,
        is_embedder: spec.head != HeadSpec::Logits,
        context_length_trained: spec.n_ctx_train,
        has_chat_template,
        license: stated("general.license"),
        license_link: stated("general.license.link"),
    })
}
