//! AWQ and GPTQ tensors as blocks with scales and zero points: same values, rows of outputs instead of columns.
//!
//! Principal type: [`Packed`]. Knows only the layouts of these two schemes.

use half::{bf16, f16};

use crate::error::{Error, ErrorCode, Result};
use crate::quant::{BlockA4, BlockA8};
use crate::tensor::DType;

/// Elements of a block, which has one scale and zero point.
const BLOCK: usize = 32;
/// Outputs whose rows are written together: a cache line of the packed words.
const TILE: usize = 16;
/// Where AWQ keeps output `i` of each eight, in nibbles from the lowest.
const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Which way the numbers are packed into 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `qweight [n_in * bits / 32, n_out]`, bits of consecutive inputs in a row; `qzeros [n_groups, n_out * bits / 32]`.
    Gptq,
    /// `qweight [n_in, n_out / 8]`, eight interleaved outputs a word; `qzeros [n_groups, n_out / 8]`.
    Awq,
}

/// The shape of a packed linear layer. Inputs of its conversion: qweight, qzeros, scales `[n_groups, n_out]` and, where
/// `has_g_idx`, `g_idx [n_in]`, the group of each input.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// Layout.
    pub packing: Packing,
    /// Bits of a weight: 2, 3, 4 or 8.
    pub bits: usize,
    /// Inputs, a multiple of 32.
    pub n_in: usize,
    /// Outputs, a multiple of 32 (of 8 for AWQ).
    pub n_out: usize,
    /// Groups of inputs, each with a scale and a zero point for every output.
    pub n_groups: usize,
    /// Inputs of a group.
    pub group_size: usize,
    /// What is added to stored zero points: 1 for the first version of GPTQ's format.
    pub zero_offset: u32,
    /// Whether inputs are ordered by their groups, and the rows' columns with them (`desc_act`).
    pub act_order: bool,
    /// Whether there is an input `g_idx`.
    pub has_g_idx: bool,
    /// Format of the scales: F16, BF16 or F32.
    pub scales: DType,
}

impl Packed {
    /// Format of the result.
    pub fn dtype(&self) -> DType {
        if self.bits == 8 { DType::A8 } else { DType::A4 }
    }

    /// Bytes of the result.
    pub fn n_bytes(&self) -> u64 {
        let block = if self.bits == 8 { size_of::<BlockA8>() } else { size_of::<BlockA4>() };
        (self.n_in / BLOCK * block) as u64 * self.n_out as u64
    }

    /// The rows.
    /// # Errors
    /// `InvalidValue` when groups are not whole blocks.
    pub fn run(&self, inputs: &[Vec<u8>]) -> Result<Vec<u8>> {
        let [qweight, qzeros, scales, rest @ ..] = inputs else {
            return Err(Error::new(ErrorCode::Internal, "a packed layer lacks an input"));
        };
        let groups = self.groups(rest.first().map(Vec::as_slice))?;
        let source = Source { packed: self, qweight, qzeros, scales };
        let mut out = vec![0; self.n_bytes() as usize];
        let row_bytes = out.len() / self.n_out;
        for (tile, rows) in out.chunks_mut(TILE * row_bytes).enumerate() {
            for (block, columns) in groups.columns.chunks_exact(BLOCK).enumerate() {
                for (row, bytes) in rows.chunks_exact_mut(row_bytes).enumerate() {
                    let n_bytes = row_bytes / groups.of_block.len();
                    let bytes = &mut bytes[block * n_bytes..][..n_bytes];
                    source.write_block(tile * TILE + row, groups.of_block[block], columns, bytes);
                }
            }
        }
        Ok(out)
    }

    /// The order of the inputs in the rows, as f32 numbers.
    /// # Errors
    /// As [`Packed::run`].
    pub fn order(&self, g_idx: &[u8]) -> Result<Vec<u8>> {
        let columns = self.groups(Some(g_idx))?.columns;
        Ok(columns.iter().flat_map(|column| (*column as f32).to_le_bytes()).collect())
    }

    /// Which input each column stands for, and the group of each block.
    fn groups(&self, g_idx: Option<&[u8]>) -> Result<Groups> {
        let invalid = |message: String| Err(Error::new(ErrorCode::InvalidValue, message).at("g_idx"));
        let of_input: Vec<usize> = match g_idx {
            Some(bytes) => bytes.as_chunks::<4>().0.iter().map(|x| u32::from_le_bytes(*x) as usize).collect(),
            None => (0..self.n_in).map(|input| input / self.group_size).collect(),
        };
        if of_input.len() != self.n_in || of_input.iter().any(|group| *group >= self.n_groups) {
            return invalid(format!(
                "must name one of {} groups for each of {} inputs",
                self.n_groups, self.n_in
            ));
        }
        let mut columns: Vec<usize> = (0..self.n_in).collect();
        if self.act_order {
            columns.sort_unstable_by_key(|input| (of_input[*input], *input));
        }
        let mut of_block = Vec::with_capacity(self.n_in / BLOCK);
        for block in columns.chunks_exact(BLOCK) {
            let group = of_input[block[0]];
            if block.iter().any(|input| of_input[*input] != group) {
                return invalid(format!("groups are not runs of {BLOCK} inputs; only such are supported"));
            }
            of_block.push(group);
        }
        Ok(Groups { columns, of_block })
    }
}

struct Groups {
    columns: Vec<usize>,
    of_block: Vec<usize>,
}

struct Source<'a> {
    packed: &'a Packed,
    qweight: &'a [u8],
    qzeros: &'a [u8],
    scales: &'a [u8],
}

impl Source<'_> {
    /// One block of output `row`: the inputs `columns`, which are of `group`.
    fn write_block(&self, row: usize, group: usize, columns: &[usize], bytes: &mut [u8]) {
        let quants: [u8; BLOCK] = std::array::from_fn(|i| self.quant(columns[i], row));
        let d = self.scale(group, row).to_le_bytes();
        let zero = self.zero(group, row);
        if self.packed.bits == 8 {
            let z = zero.min(255) as u8;
            let block = BlockA8 { d, z, carry: (zero - u32::from(z)) as u8, qs: quants };
            bytes.copy_from_slice(bytemuck::bytes_of(&block));
        } else {
            let qs = std::array::from_fn(|i| quants[i] | quants[i + 16] << 4);
            let block = BlockA4 { d, z: zero as u8, pad: 0, qs };
            bytes.copy_from_slice(bytemuck::bytes_of(&block));
        }
    }

    fn scale(&self, group: usize, row: usize) -> f16 {
        let index = group * self.packed.n_out + row;
        match self.packed.scales {
            DType::F32 => f16::from_f32(f32::from_le_bytes(array(self.scales, 4 * index))),
            DType::BF16 => f16::from_f32(bf16::from_le_bytes(array(self.scales, 2 * index)).to_f32()),
            _ => f16::from_le_bytes(array(self.scales, 2 * index)),
        }
    }

    fn quant(&self, input: usize, row: usize) -> u8 {
        let Packed { packing, bits, n_out, .. } = *self.packed;
        match packing {
            Packing::Awq => nibble(self.qweight, input * n_out / 8, row),
            Packing::Gptq => {
                let bit = input * bits;
                let word = |index: usize| word(self.qweight, index * n_out + row);
                bits_at(bits, bit % 32, word(bit / 32), || word(bit / 32 + 1))
            }
        }
    }

    fn zero(&self, group: usize, row: usize) -> u32 {
        let Packed { packing, bits, n_out, zero_offset, .. } = *self.packed;
        let stored = match packing {
            Packing::Awq => nibble(self.qzeros, group * n_out / 8, row),
            Packing::Gptq => {
                let first = group * (n_out * bits / 32);
                let bit = row * bits;
                let word = |index: usize| word(self.qzeros, first + index);
                bits_at(bits, bit % 32, word(bit / 32), || word(bit / 32 + 1))
            }
        };
        u32::from(stored) + zero_offset
    }
}

/// `bits` bits from bit `shift` of a word on, and of the next one where they reach into it.
fn bits_at(bits: usize, shift: usize, low: u32, high: impl FnOnce() -> u32) -> u8 {
    let both = match shift + bits > 32 {
        true => u64::from(low) | u64::from(high()) << 32,
        false => u64::from(low),
    };
    (both >> shift) as u8 & ((1u16 << bits) - 1) as u8
}

/// AWQ's number of output `row`, in the row of words that begins at word `first`.
fn nibble(bytes: &[u8], first: usize, row: usize) -> u8 {
    (word(bytes, first + row / 8) >> (4 * AWQ_NIBBLE[row % 8]) & 15) as u8
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_le_bytes(array(bytes, 4 * index))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..].first_chunk().expect("invariant: the shapes were checked")
}
