//! LoRA adapters of a loaded model: loaded, weighted and removed while it runs.
//!
//! Principal type: [`AdapterFile`]. The model's own weights stay where they are: with adapters, the backend runs a
//! graph that has the low-rank products besides. Must not know the web.

use super::Engine;
use crate::backend::Backend;
use crate::error::{Error, ErrorCode, Result};
use crate::formats::Metadata;
use crate::formats::metadata::Container;
use crate::model::graph::Graph;
use crate::model::lora::{Adapter, Attachment, RowOrder, attach, from_gguf, from_peft};
use crate::model::names::HfName;
use crate::model::{families, hugging_face};
use crate::tensor::DType;

/// The whole content of an adapter's files.
#[derive(Clone, Copy, Debug)]
pub enum AdapterFile<'a> {
    /// A GGUF file of `general.type` `adapter`.
    Gguf(&'a [u8]),
    /// A folder of the PEFT library.
    Peft {
        /// `adapter_config.json`
        config: &'a [u8],
        /// `adapter_model.safetensors`
        tensors: &'a [u8],
    },
}

/// Names a loaded adapter.
pub type AdapterId = u32;

/// What adapters of a model need to know of it, and those that are loaded.
pub(super) struct Adapters {
    base: Graph,
    dtypes: Vec<DType>,
    architecture: String,
    container: Container,
    /// Whether GGUF and Hugging Face files of this family have the rows of q and k in different orders.
    permuted: bool,
    hf_names: &'static [HfName],
    loaded: Vec<Loaded>,
    next: AdapterId,
}

struct Loaded {
    id: AdapterId,
    adapter: Adapter,
    rows: RowOrder,
    scale: f32,
}

impl Loaded {
    fn attachment(&self) -> Attachment<'_> {
        Attachment { adapter: &self.adapter, scale: self.scale, rows: self.rows }
    }
}

impl Adapters {
    /// None yet, of the model with this metadata and graph.
    pub(super) fn new(metadata: &Metadata, base: Graph, dtypes: Vec<DType>) -> Result<Adapters> {
        let architecture = metadata.str("general.architecture")?.unwrap_or_default().to_owned();
        Ok(Adapters {
            permuted: families::permutes_rows(metadata)?,
            hf_names: families::hf_names(&architecture),
            container: metadata.container,
            base,
            dtypes,
            architecture,
            loaded: Vec::new(),
            next: 1,
        })
    }

    fn read(&self, file: AdapterFile) -> Result<Adapter> {
        let adapter = match file {
            AdapterFile::Gguf(file) => from_gguf(file)?,
            AdapterFile::Peft { config, tensors } => {
                from_peft(config, tensors, |name| hugging_face::canonical_name(self.hf_names, name))?
            }
        };
        match &adapter.architecture {
            Some(other) if *other != self.architecture => {
                let message = format!(
                    "the adapter was made for the architecture {other:?}, the model's is {:?}",
                    self.architecture
                );
                Err(Error::new(ErrorCode::InvalidValue, message).at("general.architecture"))
            }
            _ => Ok(adapter),
        }
    }

    fn row_order(&self, adapter: &Adapter) -> RowOrder {
        match (self.permuted && adapter.container != self.container, adapter.container) {
            (false, _) => RowOrder::Same,
            (true, Container::HuggingFace) => RowOrder::ToPairs,
            (true, Container::Gguf) => RowOrder::ToHalves,
        }
    }

    fn position(&self, id: AdapterId) -> Result<usize> {
        self.loaded.iter().position(|loaded| loaded.id == id).ok_or_else(|| {
            Error::new(ErrorCode::InvalidRequest, format!("no adapter {id} is loaded")).at("adapter")
        })
    }
}

impl<B: Backend> Engine<B> {
    /// Loads an adapter and adds it, times `scale`, to those in use. What the KV cache holds is forgotten.
    /// # Errors
    /// Of the file, naming the setting or tensor at fault; `MissingTensor` or `WrongShape` when it was made for another
    /// model; what the backend says. The adapters stay as they were.
    pub async fn load_adapter(&mut self, file: AdapterFile<'_>, scale: f32) -> Result<AdapterId> {
        check_scale(scale)?;
        let adapter = self.adapters.read(file)?;
        let rows = self.adapters.row_order(&adapter);
        let id = self.adapters.next;
        self.adapters.loaded.push(Loaded { id, adapter, rows, scale });
        if let Err(error) = self.apply_adapters().await {
            self.adapters.loaded.pop();
            return Err(error);
        }
        self.adapters.next += 1;
        Ok(id)
    }

    /// The next adapter's id is `id` at least: for an engine that repeats what another one did.
    pub fn number_adapters_from(&mut self, id: AdapterId) {
        self.adapters.next = self.adapters.next.max(id);
    }

    /// The loaded adapters and their factors.
    pub fn adapter_scales(&self) -> Vec<(AdapterId, f32)> {
        self.adapters.loaded.iter().map(|loaded| (loaded.id, loaded.scale)).collect()
    }

    /// Takes an adapter away and frees it: the model computes, bit for bit, as if it had never been there.
    /// # Errors
    /// `InvalidRequest` for an adapter that is not loaded, and what the backend says.
    pub async fn remove_adapter(&mut self, id: AdapterId) -> Result<()> {
        let index = self.adapters.position(id)?;
        self.adapters.loaded.remove(index);
        self.apply_adapters().await
    }

    /// Sets the factors of adapters; those not named are not used, but stay loaded.
    /// # Errors
    /// As [`Engine::remove_adapter`].
    pub async fn set_adapters(&mut self, scales: &[(AdapterId, f32)]) -> Result<()> {
        for (id, scale) in scales {
            self.adapters.position(*id)?;
            check_scale(*scale)?;
        }
        for loaded in &mut self.adapters.loaded {
            let named = scales.iter().find(|(id, _)| *id == loaded.id);
            loaded.scale = named.map_or(0.0, |(_, scale)| *scale);
        }
        self.apply_adapters().await
    }

    /// The loaded adapters and their factors, in the order of loading.
    pub fn adapters(&self) -> Vec<(AdapterId, f32)> {
        self.adapters.loaded.iter().map(|loaded| (loaded.id, loaded.scale)).collect()
    }

    /// Makes the backend compute with the adapters as they are now.
    async fn apply_adapters(&mut self) -> Result<()> {
        let Adapters { base, dtypes, loaded, .. } = &self.adapters;
        let attachments: Vec<Attachment> = loaded.iter().map(Loaded::attachment).collect();
        let attached = attach(base, &attachments)?;
        let n_base = base.weights.len();
        let mut dtypes = dtypes.clone();
        dtypes.extend(attached.added.iter().map(|factor| factor.dtype));
        let backend = self.session.backend_to_change();
        backend.replace_graph(attached.graph, dtypes, n_base).await?;
        for (index, factor) in attached.added.iter().enumerate() {
            backend.upload(n_base + index, 0, &factor.bytes)?;
        }
        backend.finish_upload().await
    }
}

fn check_scale(scale: f32) -> Result<()> {
    match scale.is_finite() {
        true => Ok(()),
        false => {
            let message = format!("an adapter's factor must be a finite number, not {scale}");
            Err(Error::new(ErrorCode::InvalidRequest, message).at("scale"))
        }
    }
}
