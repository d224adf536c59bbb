//! Which bytes of which file feed which weight. Principal type: [`WeightMap`]. Must not know what the weights are for.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::Recipe;
use super::checkpoint::{Checkpoint, Extent, StoredTensor};
use crate::error::{Error, ErrorCode, Result};
use crate::quant;
use crate::tensor::DType;

/// Size of the parts in which a file is fetched and stored: 16 MiB. Large enough that per-part costs vanish, small
/// enough that a failed one is cheap to repeat and a few in flight fit in any memory.
pub const PART_BYTES: u64 = 16 << 20;

/// The matrix that gives the logits, and the one that does where there is none of that name.
const OUTPUT: &str = "output.weight";
const TOKEN_EMBD: &str = "token_embd.weight";

/// A tensor that a model wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Canonical (GGUF) name; of a run of rows, the name it would have by itself.
    pub name: String,
    /// The fused tensor that holds the rows (of a vector, the elements), and the first of them.
    pub part_of: Option<(String, u64)>,
    /// Contiguous elements per row; all elements of a vector.
    pub n_cols: u64,
    /// Rows; 1 for vectors.
    pub n_rows: u64,
    /// Whether it is a vector rather than a matrix.
    pub vector: bool,
}

/// A part of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Which file.
    pub file: usize,
    /// Its number within the file.
    pub index: u32,
    /// Its bytes within the file.
    pub range: Range<u64>,
}

/// Bytes of a weight, or of what a weight is made of, found in a part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the weight, in the order of the needs.
    pub weight: usize,
    /// Which of its units.
    pub unit: usize,
    /// Which of the unit's inputs.
    pub input: usize,
    /// Where in that input the piece starts.
    pub offset: u64,
    /// Where the piece stands in the part.
    pub range: Range<usize>,
}

impl Piece {
    /// The piece without its first `n` bytes.
    pub fn skip(&self, n: usize) -> Piece {
        Piece { offset: self.offset + n as u64, range: self.range.start + n..self.range.end, ..self.clone() }
    }
}

/// Somewhere in a file, an input of a weight's unit.
#[derive(Clone, Copy, Debug)]
struct Use {
    extent: Extent,
    weight: usize,
    unit: usize,
    input: usize,
    /// Where the last of this and all earlier uses of the file ends: inputs may be used by several weights.
    max_end: u64,
}

/// What feeds the weights of a model, in the order of the weights.
#[derive(Clone, Debug)]
pub struct WeightMap {
    weights: Vec<StoredTensor>,
    /// The formats that the weights are given in: their files', unless a recipe says otherwise.
    dtypes: Vec<DType>,
    recipe: Option<Recipe>,
    /// By file and place.
    uses: Vec<Use>,
    /// Of each file, where its last tensor ends, needed or not.
    data_ends: Vec<u64>,
}

impl WeightMap {
    /// Finds every one of `needs` in a model. Names must not repeat: weights that share a tensor are one weight.
    ///
    /// A matrix has the dimensions `[n_cols, n_rows]`, or more that multiply to `n_rows`; a vector has `n_cols` elements
    /// in all. A fused tensor has at least as many rows (elements) as the need reaches to.
    /// # Errors
    /// `MissingTensor` and `WrongShape` with the tensor's name, `Internal` for a repeated name.
    pub fn resolve(needs: &[Need], model: &Checkpoint) -> Result<Self> {
        let by_name: HashMap<&str, &StoredTensor> =
            model.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let mut seen = HashSet::new();
        let mut weights = Vec::with_capacity(needs.len());
        for need in needs {
            if !seen.insert(need.name.as_str()) {
                let message = "the tensor is needed by two weights";
                return Err(Error::new(ErrorCode::Internal, message).at(&need.name));
            }
            let found = need.part_of.as_ref().map_or(need.name.as_str(), |(fused, _)| fused);
            let Some(tensor) = by_name.get(found) else {
                let message = "the model needs this tensor, and the file lacks it: the file is incomplete, or of a \
                               variant of the architecture that is not supported";
                return Err(Error::new(ErrorCode::MissingTensor, message).at(found));
            };
            let stem = found.strip_suffix(".weight").unwrap_or(found);
            let scale = format!("{stem}.scale");
            let unread = by_name.contains_key(scale.as_str()) && !needs.iter().any(|need| need.name == scale);
            if tensor.dtype == DType::NVFP4 && unread {
                // Computing without it would be wrong by a factor, silently.
                let message = "an NVFP4 tensor that is no plain matrix has a scale of its own beside it, which is not \
                               supported: use a file of another format";
                return Err(Error::new(ErrorCode::UnsupportedType, message).at(scale));
            }
            weights.push(weight(need, tensor)?);
        }
        let dtypes = weights.iter().map(|weight| weight.dtype).collect();
        let data_ends = model.data_ends.clone();
        Ok(Self { uses: uses(&weights), weights, dtypes, recipe: None, data_ends })
    }

    /// Gives the weights in the formats that `recipe` chooses; rows are changed as they arrive.
    /// # Errors
    /// `WrongShape` when the recipe's importance has another number of columns than a weight.
    pub fn requantize(&mut self, recipe: Recipe) -> Result<()> {
        let has_output = self.weights.iter().any(|weight| weight.name == OUTPUT);
        for (weight, dtype) in self.weights.iter().zip(&mut self.dtypes) {
            let name = weight.name.as_str();
            let is_head = name == OUTPUT || (!has_output && name == TOKEN_EMBD);
            *dtype = recipe.target(name, &weight.dims, weight.dtype, is_head);
            let columns = recipe.importance.as_ref().and_then(|importance| importance.columns(name));
            let n_cols = weight.dims.first().copied().unwrap_or(1);
            if let Some(columns) = columns.map(|columns| columns.len() as u64)
                && !(columns.is_multiple_of(n_cols) && weight.n_elements().is_multiple_of(columns.max(1)))
            {
                let message = format!(
                    "the importance matrix has {columns} columns, the tensor's rows {n_cols}: it belongs to another model"
                );
                return Err(Error::new(ErrorCode::WrongShape, message).at(name));
            }
        }
        self.recipe = Some(recipe);
        Ok(())
    }

    /// The format that weight `weight` is given in.
    /// # Panics
    /// When there is no such weight.
    pub fn dtype(&self, weight: usize) -> DType {
        self.dtypes[weight]
    }

    /// Bytes of weight `weight` in the format it is given in.
    pub fn given_bytes(&self, weight: usize) -> u64 {
        let stored = &self.weights[weight];
        match stored.dtype == self.dtypes[weight] {
            true => stored.n_bytes(),
            false => quant::format(self.dtypes[weight]).row_bytes(stored.n_elements()).unwrap_or(u64::MAX),
        }
    }

    /// How much the columns of row `row` of a weight matter, if that is known.
    pub(super) fn importance(&self, weight: usize, row: u64) -> Option<&[f32]> {
        let stored = &self.weights[weight];
        let columns = self.recipe.as_ref()?.importance.as_ref()?.columns(&stored.name)?;
        let n_cols = stored.dims.first().copied().unwrap_or(1);
        // Stacked matrices have columns of their own each.
        let n_matrices = columns.len() as u64 / n_cols;
        let rows_each = stored.n_elements() / n_cols / n_matrices.max(1);
        let first = row / rows_each.max(1) * n_cols;
        columns.get(first as usize..(first + n_cols) as usize)
    }

    /// Weight `weight`: its format in the file, dimensions and what it is made of.
    /// # Panics
    /// When there is no such weight.
    pub fn weight(&self, weight: usize) -> &StoredTensor {
        &self.weights[weight]
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// The formats that the weights are given in, in their order.
    pub fn dtypes(&self) -> Vec<DType> {
        self.dtypes.clone()
    }

    /// Bytes of all weights in the formats they are given in.
    pub fn total_bytes(&self) -> u64 {
        (0..self.len()).map(|weight| self.given_bytes(weight)).sum()
    }

    /// Of each file, where its last tensor ends.
    pub fn data_ends(&self) -> &[u64] {
        &self.data_ends
    }

    /// Every file from its first byte to the end of its last tensor, cut at multiples of `part_bytes`
    /// ([`PART_BYTES`] but in tests). The headers are in the first parts.
    pub fn parts(&self, part_bytes: u64) -> Vec<FilePart> {
        let parts = self.data_ends.iter().enumerate().flat_map(|(file, data_end)| {
            let n_parts = data_end.div_ceil(part_bytes);
            (0..n_parts).map(move |index| FilePart {
                file,
                index: index as u32,
                range: index * part_bytes..(*data_end).min((index + 1).saturating_mul(part_bytes)),
            })
        });
        parts.collect()
    }

    /// What bytes `range` of file `file` hold of the weights, in the order of the file. Over ranges that follow each
    /// other, the pieces of each input follow each other.
    pub fn pieces(&self, file: usize, range: Range<u64>) -> impl Iterator<Item = Piece> {
        let first = self.uses.partition_point(|used| (used.extent.file, used.max_end) <= (file, range.start));
        self.uses[first..]
            .iter()
            .take_while({
                let end = range.end;
                move |used| used.extent.file == file && used.extent.offset < end
            })
            .filter_map(move |used| {
                let from = used.extent.offset.max(range.start);
                let to = end(&used.extent).min(range.end);
                let within = |at: u64| {
                    usize::try_from(at - range.start).expect("invariant: the range's bytes are in memory")
                };
                (from < to).then(|| Piece {
                    weight: used.weight,
                    unit: used.unit,
                    input: used.input,
                    offset: from - used.extent.offset,
                    range: within(from)..within(to),
                })
            })
    }

    /// Checks the scales in bytes of weight `weight` that start at `offset` within it: NaN and infinity there turn whole
    /// rows of the model into NaN, and mean that the file is damaged.
    ///
    /// The policy is to look at every whole block of a piece where the bytes pass through Rust anyway (the CPU
    /// path); it reads only the scales. Blocks cut by the ends of a piece are passed over, and bytes that go straight
    /// from JavaScript to the GPU are not looked at: there, a logit that is not finite is the sign of it.
    /// # Errors
    /// `InvalidValue` with the tensor's name and the block's number.
    pub fn check_scales(&self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let tensor = self.weight(weight);
        let format = quant::format(self.dtype(weight));
        let block_bytes = format.block_bytes as u64;
        let first_block = offset.div_ceil(block_bytes);
        let skipped = (first_block * block_bytes - offset) as usize;
        match bytes.get(skipped..).and_then(|bytes| format.first_non_finite(bytes)) {
            None => Ok(()),
            Some(index) => {
                let message = format!(
                    "block {} has a scale that is not a finite number: the file is damaged, download it again",
                    first_block + index as u64
                );
                Err(Error::new(ErrorCode::InvalidValue, message).at(&tensor.name))
            }
        }
    }
}

/// Where an extent ends; containers are checked to end within 2^64.
fn end(extent: &Extent) -> u64 {
    extent.offset + extent.n_bytes
}

/// All inputs of all weights, by file and place.
fn uses(weights: &[StoredTensor]) -> Vec<Use> {
    let mut uses = Vec::new();
    for (weight, tensor) in weights.iter().enumerate() {
        for (unit, made) in tensor.units.iter().enumerate() {
            for (input, extent) in made.inputs.iter().enumerate() {
                uses.push(Use { extent: *extent, weight, unit, input, max_end: 0 });
            }
        }
    }
    uses.sort_unstable_by_key(|used| {
        (used.extent.file, used.extent.offset, used.weight, used.unit, used.input)
    });
    let mut last = (0, 0);
    for used in &mut uses {
        let before = if last.0 == used.extent.file { last.1 } else { 0 };
        used.max_end = before.max(end(&used.extent));
        last = (used.extent.file, used.max_end);
    }
    uses
}

/// The weight that `need` asks for, out of the tensor that holds it.
fn weight(need: &Need, tensor: &StoredTensor) -> Result<StoredTensor> {
    check_shape(need, tensor)?;
    let dims = if need.vector { vec![need.n_cols] } else { vec![need.n_cols, need.n_rows] };
    let units = match &need.part_of {
        None => tensor.units.clone(),
        Some((_, first)) => {
            let row = if need.vector { 1 } else { need.n_cols };
            tensor.elements(first * row, need.n_rows * need.n_cols)?
        }
    };
    Ok(StoredTensor { name: need.name.clone(), dtype: tensor.dtype, dims, units })
}

fn check_shape(need: &Need, tensor: &StoredTensor) -> Result<()> {
    // Writers differ in whether they keep dimensions of 1.
    let first = tensor.dims.first().copied().unwrap_or(1);
    let squeezed = tensor.dims.iter().copied().find(|dim| *dim != 1).unwrap_or(1);
    let n_elements = tensor.n_elements();
    let rows = |n_cols: u64| (n_cols == need.n_cols && n_cols > 0).then(|| n_elements / n_cols);
    let found = match need.vector {
        true => Some(n_elements),
        false => rows(first).or_else(|| rows(squeezed)),
    };
    let wanted = if need.vector { need.n_cols } else { need.n_rows };
    let fits = match &need.part_of {
        None => found == Some(wanted),
        Some((_, start)) => found.zip(start.checked_add(wanted)).is_some_and(|(found, end)| end <= found),
    };
    if fits {
        return Ok(());
    }
    let kind = if need.vector { "a vector" } else { "a matrix" };
    let shape: &[u64] = if need.vector { &[need.n_cols] } else { &[need.n_cols, need.n_rows] };
    let place = need.part_of.as_ref().map_or(String::new(), |(_, first)| format!(" at {first}"));
    let message = format!(
        "has the dimensions {:?}, the model's metadata asks for {kind} of {shape:?}{place}",
        tensor.dims
    );
    Err(Error::new(ErrorCode::WrongShape, message).at(&tensor.name))
}
