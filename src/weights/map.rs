//! Which bytes of a file feed which weight. Principal type: [`WeightMap`]. Must not know what the weights are for.

use std::collections::HashMap;
use std::ops::Range;

use crate::error::{Error, ErrorCode, Result};
use crate::formats::gguf::GgufHeader;
use crate::quant;
use crate::tensor::{DType, TensorDesc};

/// Size of the parts in which a file is fetched and stored: 16 MiB. Large enough that per-part costs vanish, small
/// enough that a failed one is cheap to repeat and a few in flight fit in any memory.
pub const PART_BYTES: u64 = 16 << 20;

/// Weights are written to the GPU in whole 32-bit words, so pieces of them have to start at multiples of this.
const PIECE_ALIGNMENT: u64 = 4;

/// A tensor that a model wants to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Canonical (GGUF) name.
    pub name: String,
    /// Contiguous elements per row; all elements of a vector.
    pub n_cols: u64,
    /// Rows; 1 for vectors.
    pub n_rows: u64,
    /// Whether it is a vector (one dimension) rather than a matrix (two).
    pub vector: bool,
}

/// Part of a weight, found in a range of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the weight, in the order of the needs.
    pub weight: usize,
    /// Where in the tensor's bytes the piece starts.
    pub offset: u64,
    /// Where the piece stands in the range that was given.
    pub range: Range<usize>,
}

/// The tensors of a file that feed the weights of a model, in the order of the weights.
#[derive(Clone, Debug)]
pub struct WeightMap {
    tensors: Vec<TensorDesc>,
    /// Indices into `tensors` by their place in the file.
    by_offset: Vec<usize>,
    /// Where the last tensor of the file ends, needed or not.
    data_end: u64,
}

impl WeightMap {
    /// Finds every one of `needs` in a file. Names must not repeat: weights that share a tensor are one weight.
    ///
    /// A matrix has the dimensions `[n_cols, n_rows]`, a vector `[n_cols]`; further dimensions of 1 are allowed.
    /// # Errors
    /// `MissingTensor` and `WrongShape` with the tensor's name, `InvalidValue` when the file aligns its tensors to
    /// less than 4 bytes, `Internal` for a repeated name.
    pub fn resolve(needs: &[Need], header: &GgufHeader) -> Result<Self> {
        let mut by_name: HashMap<&str, Option<&TensorDesc>> =
            header.tensors.iter().map(|tensor| (tensor.name.as_str(), Some(tensor))).collect();
        let mut tensors = Vec::new();
        for need in needs {
            let name = need.name.as_str();
            let tensor = match by_name.get_mut(name).map(Option::take) {
                Some(Some(tensor)) => tensor,
                Some(None) => {
                    return Err(
                        Error::new(ErrorCode::Internal, "the tensor is needed by two weights").at(name)
                    );
                }
                None => {
                    let message = "the model needs this tensor, and the file lacks it: the file is incomplete, or of \
                                   a variant of the architecture that is not supported";
                    return Err(Error::new(ErrorCode::MissingTensor, message).at(name));
                }
            };
            check_shape(need, tensor)?;
            if !tensor.offset.is_multiple_of(PIECE_ALIGNMENT) {
                let message = format!("{name} starts at byte {}, not at a multiple of 4", tensor.offset);
                return Err(Error::new(ErrorCode::InvalidValue, message).at("general.alignment"));
            }
            tensors.push(tensor.clone());
        }
        let mut by_offset: Vec<usize> = (0..tensors.len()).collect();
        by_offset.sort_by_key(|index| tensors[*index].offset);
        let data_end = header.tensors.iter().map(end).max().unwrap_or(header.data_offset);
        Ok(Self { tensors, by_offset, data_end })
    }

    /// The tensor of weight `weight`.
    /// # Panics
    /// When there is no such weight.
    pub fn tensor(&self, weight: usize) -> &TensorDesc {
        &self.tensors[weight]
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Storage formats, in the order of the weights.
    pub fn dtypes(&self) -> Vec<DType> {
        self.tensors.iter().map(|tensor| tensor.dtype).collect()
    }

    /// Bytes of all weights.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.n_bytes).sum()
    }

    /// The smallest range of the file that holds all weights; empty when there are none.
    pub fn file_range(&self) -> Range<u64> {
        let start = self.tensors.iter().map(|tensor| tensor.offset).min().unwrap_or(0);
        start..self.tensors.iter().map(end).max().unwrap_or(0)
    }

    /// The file from its first byte to the end of its last tensor, cut at multiples of `part_bytes`
    /// ([`PART_BYTES`] but in tests; itself a multiple of 4, so that pieces are). The header is in the first parts.
    pub fn parts(&self, part_bytes: u64) -> Vec<Range<u64>> {
        let n_parts = self.data_end.div_ceil(part_bytes);
        (0..n_parts)
            .map(|index| index * part_bytes..self.data_end.min((index + 1).saturating_mul(part_bytes)))
            .collect()
    }

    /// What bytes `range` of the file hold of the weights, in the order of the file. Over ranges that follow each
    /// other, the pieces of each weight follow each other; over ranges cut at multiples of 4, each starts at one.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Piece> {
        // Tensors do not overlap, so their ends are in the order of their offsets.
        let first = self.by_offset.partition_point(|index| end(&self.tensors[*index]) <= range.start);
        self.by_offset[first..]
            .iter()
            .map(|index| (*index, &self.tensors[*index]))
            .take_while({
                let range_end = range.end;
                move |(_, tensor)| tensor.offset < range_end
            })
            .map(move |(weight, tensor)| {
                let from = tensor.offset.max(range.start);
                let to = end(tensor).min(range.end);
                let within = |at: u64| {
                    usize::try_from(at - range.start).expect("invariant: the range's bytes are in memory")
                };
                Piece { weight, offset: from - tensor.offset, range: within(from)..within(to) }
            })
    }

    /// Checks the scales in bytes of weight `weight` that start at `offset` within the tensor: NaN and infinity there
    /// turn whole rows of the model into NaN, and mean that the file is damaged.
    ///
    /// The policy is to look at every whole block of a piece where the bytes pass through Rust anyway (the CPU
    /// path); it reads only the scales. Blocks cut by the ends of a piece are passed over, and bytes that go straight
    /// from JavaScript to the GPU are not looked at: there, a logit that is not finite is the sign of it.
    /// # Errors
    /// `InvalidValue` with the tensor's name and the block's number.
    pub fn check_scales(&self, weight: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let tensor = self.tensor(weight);
        let format = quant::format(tensor.dtype);
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

/// Where a tensor ends in the file; `gguf::parse` has checked that it does within 2^64.
fn end(tensor: &TensorDesc) -> u64 {
    tensor.offset + tensor.n_bytes
}

fn check_shape(need: &Need, tensor: &TensorDesc) -> Result<()> {
    let wanted: &[u64] = if need.vector { &[need.n_cols] } else { &[need.n_cols, need.n_rows] };
    let kind = if need.vector { "a vector" } else { "a matrix" };
    // Writers differ in whether they keep dimensions of 1 at the end.
    let given = &tensor.dims;
    let dim = |dims: &[u64], index: usize| dims.get(index).copied().unwrap_or(1);
    if (0..given.len().max(wanted.len())).all(|index| dim(given, index) == dim(wanted, index)) {
        return Ok(());
    }
    let message = format!("has the dimensions {given:?}, the model's metadata asks for {kind} of {wanted:?}");
    Err(Error::new(ErrorCode::WrongShape, message).at(&tensor.name))
}
