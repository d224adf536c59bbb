//! The kernels: which file, which bindings, which defines, how many lanes.
//!
//! Principal type: [`Variant`], a small `Copy` key that names a pipeline; never a string. `tests/shaders.rs` holds these
//! declarations equal to what the WGSL says. Must not know graphs or buffers.

mod attention;
mod mat_mul;
mod mat_vec;

pub use attention::AttentionTile;
pub use mat_mul::MatMulTile;
pub use mat_vec::{MatVecShape, X_ROWS};

use super::shaders::{self, Define, F16, SUBGROUPS};
use crate::error::Result;
use crate::quant;
use crate::tensor::DType;

/// A kernel file under shaders/.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is described at the head of its WGSL file")]
pub enum Kernel {
    Embed,
    Norm,
    MatVec,
    MatMul,
    MatMulRows,
    Products,
    GatedProduct,
    RopeKvWrite,
    NormRopeKvWrite,
    Attention,
    AttentionRows,
    AttentionMerge,
    GatedActivation,
    Elementwise,
    Columns,
    Permute,
    TakeOutputs,
    TokenShift,
    Wkv4,
    Wkv6,
    Wkv7Keys,
    Wkv7,
    Wkv7Bonus,
    ShortConv,
    GatedDelta,
    StreamMix,
    RowStatistics,
    ExpertMatVec,
    Route,
    GroupPairs,
    ExpertSum,
    FusedGatedActivation,
    ArgMax,
    Choose,
    Penalise,
    Tally,
    Collect,
    Draw,
    TopOfRun,
    Top,
    Repack,
}

/// How a kernel uses a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<uniform>`
    Uniform,
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

use Access::{Read, ReadWrite, Uniform};

impl Kernel {
    /// All kernels.
    pub const ALL: &'static [Kernel] = &[
        Kernel::Embed,
        Kernel::Norm,
        Kernel::MatVec,
        Kernel::MatMul,
        Kernel::MatMulRows,
        Kernel::Products,
        Kernel::GatedProduct,
        Kernel::RopeKvWrite,
        Kernel::NormRopeKvWrite,
        Kernel::Attention,
        Kernel::AttentionRows,
        Kernel::AttentionMerge,
        Kernel::GatedActivation,
        Kernel::Elementwise,
        Kernel::Columns,
        Kernel::Permute,
        Kernel::TakeOutputs,
        Kernel::TokenShift,
        Kernel::Wkv4,
        Kernel::Wkv6,
        Kernel::Wkv7Keys,
        Kernel::Wkv7,
        Kernel::Wkv7Bonus,
        Kernel::ShortConv,
        Kernel::GatedDelta,
        Kernel::StreamMix,
        Kernel::RowStatistics,
        Kernel::ExpertMatVec,
        Kernel::Route,
        Kernel::GroupPairs,
        Kernel::ExpertSum,
        Kernel::FusedGatedActivation,
        Kernel::ArgMax,
        Kernel::Choose,
        Kernel::Penalise,
        Kernel::Tally,
        Kernel::Collect,
        Kernel::Draw,
        Kernel::TopOfRun,
        Kernel::Top,
        Kernel::Repack,
    ];

    /// Its file, as in [`shaders::FILES`].
    pub const fn file(self) -> &'static str {
        match self {
            Kernel::Embed => "embed/embed",
            Kernel::Norm => "norm/norm",
            Kernel::MatVec => "matmul/mat_vec",
            Kernel::MatMul => "matmul/mat_mul",
            Kernel::MatMulRows => "matmul/mat_mul_rows",
            Kernel::Products => "matmul/products",
            Kernel::GatedProduct => "matmul/gated_product",
            Kernel::RopeKvWrite => "attention/rope_kv_write",
            Kernel::NormRopeKvWrite => "attention/norm_rope_kv_write",
            Kernel::Attention => "attention/attention",
            Kernel::AttentionRows => "attention/attention_rows",
            Kernel::AttentionMerge => "attention/attention_merge",
            Kernel::GatedActivation => "elementwise/gated_activation",
            Kernel::Elementwise => "elementwise/elementwise",
            Kernel::Columns => "elementwise/columns",
            Kernel::Permute => "elementwise/permute",
            Kernel::TakeOutputs => "elementwise/take_outputs",
            Kernel::TokenShift => "recurrent/token_shift",
            Kernel::Wkv4 => "recurrent/wkv4",
            Kernel::Wkv6 => "recurrent/wkv6",
            Kernel::Wkv7Keys => "recurrent/wkv7_keys",
            Kernel::Wkv7 => "recurrent/wkv7",
            Kernel::Wkv7Bonus => "recurrent/wkv7_bonus",
            Kernel::ShortConv => "recurrent/short_conv",
            Kernel::GatedDelta => "recurrent/gated_delta",
            Kernel::StreamMix => "streams/stream_mix",
            Kernel::RowStatistics => "streams/row_statistics",
            Kernel::ExpertMatVec => "matmul/expert_mat_vec",
            Kernel::Route => "moe/route",
            Kernel::GroupPairs => "moe/group_pairs",
            Kernel::ExpertSum => "moe/expert_sum",
            Kernel::FusedGatedActivation => "moe/fused_gated_activation",
            Kernel::ArgMax => "sample/arg_max",
            Kernel::Choose => "sample/choose",
            Kernel::Penalise => "sample/penalise",
            Kernel::Tally => "sample/tally",
            Kernel::Collect => "sample/collect",
            Kernel::Draw => "sample/draw",
            Kernel::TopOfRun => "sample/top_of_run",
            Kernel::Top => "sample/top",
            Kernel::Repack => "repack/repack",
        }
    }

    /// Its bindings in group 0, from 0 on: parameters, step, inputs, outputs. Kernels with equal lists share a layout,
    /// so one bind group serves the mat-vec and the mat-mul of an op.
    pub const fn bindings(self) -> &'static [Access] {
        match self {
            Kernel::Embed => &[Uniform, Read, Read, Read, ReadWrite],
            Kernel::MatVec
            | Kernel::MatMul
            | Kernel::MatMulRows
            | Kernel::ExpertMatVec
            | Kernel::Norm
            | Kernel::GatedProduct => &[Uniform, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::Products => &[Uniform, Read, Read, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite],
            Kernel::NormRopeKvWrite => {
                &[Uniform, Read, Read, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite]
            }
            Kernel::RopeKvWrite => &[Uniform, Read, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite],
            Kernel::Attention | Kernel::AttentionRows => {
                &[Uniform, Read, Read, Read, Read, Read, ReadWrite, ReadWrite]
            }
            Kernel::GatedActivation | Kernel::Permute | Kernel::AttentionMerge => {
                &[Uniform, Read, Read, Read, ReadWrite]
            }
            Kernel::Elementwise | Kernel::ExpertSum => &[Uniform, Read, Read, Read, Read, ReadWrite],
            Kernel::Columns
            | Kernel::TakeOutputs
            | Kernel::FusedGatedActivation
            | Kernel::GroupPairs
            | Kernel::ArgMax => &[Uniform, Read, Read, ReadWrite],
            Kernel::Choose => &[Uniform, ReadWrite, Read, ReadWrite],
            Kernel::Penalise => &[Uniform, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite, ReadWrite],
            Kernel::Tally => &[Uniform, Read, Read, Read, Read, ReadWrite],
            Kernel::Collect => &[Uniform, Read, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::Repack => &[Uniform, ReadWrite],
            Kernel::TopOfRun => &[Uniform, Read, Read, Read, ReadWrite, ReadWrite],
            Kernel::Top => &[Uniform, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::Draw => &[Uniform, ReadWrite, ReadWrite, Read, Read, Read, ReadWrite, ReadWrite],
            Kernel::Route => &[Uniform, Read, Read, Read, ReadWrite],
            Kernel::TokenShift => &[Uniform, Read, Read, ReadWrite, ReadWrite],
            Kernel::Wkv4 => &[Uniform, Read, Read, Read, Read, Read, ReadWrite, ReadWrite, ReadWrite],
            Kernel::Wkv6 | Kernel::GatedDelta => {
                &[Uniform, Read, Read, Read, Read, Read, Read, ReadWrite, ReadWrite]
            }
            Kernel::StreamMix => &[Uniform, Read, Read, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::RowStatistics => &[Uniform, Read, Read, Read, ReadWrite],
            Kernel::Wkv7Keys => &[Uniform, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::Wkv7 => &[Uniform, Read, Read, Read, Read, Read, ReadWrite, ReadWrite],
            Kernel::Wkv7Bonus => &[Uniform, Read, Read, Read, Read, Read, Read, ReadWrite],
            Kernel::ShortConv => &[Uniform, Read, Read, Read, Read, ReadWrite, ReadWrite],
        }
    }
}

/// Elements of a weight row that a lane takes at a time.
pub const CHUNK: u32 = 32;

/// Lanes of workgroups of the kernels without workgroup memory, each a subgroup.
pub const SUBGROUP_LANES: u32 = 8;
/// Keys of a tile of attention at most.
pub const MOST_KEYS: u32 = 128;
/// Experts that the routing kernel has lanes for.
pub const MAX_EXPERTS: u32 = 256;
/// Logits that a workgroup looks through for the largest.
pub const ARG_MAX_RUN: u32 = 4096;
/// Classes by their distance from the largest that logits are counted in; see shaders/sample/bucket.wgsl.
pub const N_BUCKETS: u32 = 256;
/// Lanes of the elementwise kernels.
pub const ELEMENTWISE_LANES: u32 = 128;

/// The define of [`Variant::experts`].
const EXPERTS: &str = "EXPERTS";
/// Decides the branches for integers of 8 bits.
const PACKED: &str = "PACKED";

/// How keys and values are kept; see shaders/lib/kv.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// Single floats.
    F32,
    /// Half floats, where the device has them.
    F16,
    /// Half floats, two a word.
    Half,
    /// Codes of 8 bits in blocks of 32, with a scale.
    Q8,
    /// Codes of 4 bits.
    Q4,
}

impl KvFormat {
    /// All of them.
    pub const ALL: [KvFormat; 5] = [KvFormat::F32, KvFormat::F16, KvFormat::Half, KvFormat::Q8, KvFormat::Q4];

    /// The one for a cache of `dtype`, with and without half floats in kernels.
    pub fn of(dtype: Option<DType>, f16: bool) -> KvFormat {
        match (dtype, f16) {
            (None | Some(DType::F16), true) => KvFormat::F16,
            (Some(DType::F16), false) => KvFormat::Half,
            (Some(DType::Q8_0), _) => KvFormat::Q8,
            (Some(DType::Q4_0), _) => KvFormat::Q4,
            _ => KvFormat::F32,
        }
    }

    /// Bits of an element of a block; 0 where there are no blocks.
    const fn bits(self) -> u32 {
        match self {
            KvFormat::F32 | KvFormat::F16 => 0,
            KvFormat::Half => 16,
            KvFormat::Q8 => 8,
            KvFormat::Q4 => 4,
        }
    }

    /// Bytes of a head's keys, or values, of a position.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        let n_blocks = head_dim.div_ceil(32);
        match self {
            KvFormat::F32 => head_dim.next_multiple_of(4) * 4,
            KvFormat::F16 => head_dim.next_multiple_of(4) * 2,
            KvFormat::Half => n_blocks * 32 * 2,
            KvFormat::Q8 | KvFormat::Q4 => n_blocks * 4 * (self.bits() as usize + 1),
        }
    }

    /// Lanes that a head takes on its way into the cache: one for a pair, or for a block.
    pub const fn write_lanes(self, head_dim: usize) -> usize {
        if self.bits() == 0 { head_dim.next_multiple_of(4) / 2 } else { head_dim.div_ceil(32) }
    }
}

/// A kernel with everything that decides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Which kernel.
    pub kernel: Kernel,
    /// The weight format of the kernels that read weights.
    pub format: Option<DType>,
    /// Half floats: in the KV cache, and in the weights' tile of the mat-mul.
    pub f16: bool,
    /// Of the kernels that touch the cache.
    pub kv: KvFormat,
    /// Whether weight rows are whole chunks of 32, as all but odd float matrices are.
    pub whole_chunks: bool,
    /// Whether the mat-mul is one of experts with the rows that chose them.
    pub experts: bool,
    /// Whether products are of normalised rows, of the kernels that fuse that.
    pub normed: bool,
    /// Whether a workgroup of a mat-vec kernel takes [`X_ROWS`] rows of activations.
    pub several: bool,
    /// Activation rows of a tile of the mat-mul that has tiles.
    pub tile_x: u32,
    /// Whether it multiplies integers of 8 bits, four at a time.
    pub packed: bool,
    /// Of the mat-vec kernels.
    pub shape: Option<MatVecShape>,
    /// Whether lanes of a subgroup add up what they have, or hand it on, of the kernels that can.
    pub subgroups: bool,
    /// Width of a head, of the kernels that touch the cache.
    pub head_dim: u32,
    /// Of the attention kernel.
    pub tile: Option<AttentionTile>,
}

impl Variant {
    /// A kernel that has but one text.
    pub const fn plain(kernel: Kernel) -> Variant {
        Variant {
            kernel,
            format: None,
            f16: false,
            kv: KvFormat::F32,
            whole_chunks: false,
            experts: false,
            normed: false,
            several: false,
            tile_x: 0,
            packed: false,
            shape: None,
            subgroups: false,
            head_dim: 0,
            tile: None,
        }
    }

    /// The same of this shape, if it is a mat-vec kernel, and with subgroups if it can have them.
    pub fn tuned(self, shape: MatVecShape, subgroups: bool) -> Variant {
        use Kernel::{ArgMax, Choose, Collect, Draw, ExpertMatVec, GatedProduct, MatMulRows, MatVec, Norm};
        use Kernel::{Penalise, Products, Tally, Top, TopOfRun};
        let mat_vec = matches!(self.kernel, MatVec | ExpertMatVec | Products | GatedProduct);
        let sums = mat_vec
            || matches!(
                self.kernel,
                MatMulRows | Norm | ArgMax | Penalise | Tally | Collect | Draw | Choose | Top | TopOfRun
            );
        Variant { shape: mat_vec.then_some(shape), subgroups: self.subgroups || subgroups && sums, ..self }
    }

    /// A kernel that reads weights. Only the mat-mul has half floats to gain from.
    pub fn weights(kernel: Kernel, format: DType, n_cols: usize, f16: bool) -> Variant {
        let whole_chunks = n_cols.is_multiple_of(CHUNK as usize);
        let f16 = f16 && kernel == Kernel::MatMul;
        Variant { format: Some(format), f16, whole_chunks, ..Variant::plain(kernel) }
    }

    /// The same for experts.
    pub const fn of_experts(self) -> Variant {
        Variant { experts: true, ..self }
    }

    /// The mat-mul of this kernel and tile.
    pub fn mat_mul((tile, kernel): (MatMulTile, Kernel), format: DType, n_cols: usize, f16: bool) -> Variant {
        let tile_x = if kernel == Kernel::MatMul { tile.x } else { 0 };
        let packed = tile.packed;
        Variant { tile_x, packed, ..Variant::weights(kernel, format, n_cols, f16 && !packed) }
    }

    /// The same for several rows of activations, if it is one that can take them at once.
    pub fn of_several(self) -> Option<Variant> {
        let can = matches!(self.kernel, Kernel::MatVec | Kernel::Products | Kernel::GatedProduct);
        can.then_some(Variant { several: true, ..self })
    }

    /// A kernel that fuses products of whole chunks.
    pub const fn fused_product(kernel: Kernel, format: DType, normed: bool) -> Variant {
        Variant { format: Some(format), whole_chunks: true, normed, ..Variant::plain(kernel) }
    }

    /// The kernel that normalises heads on their way into the cache.
    pub const fn norm_rope_kv_write(head_dim: u32, kv: KvFormat) -> Variant {
        Variant::plain(Kernel::NormRopeKvWrite).of_cache(head_dim, kv)
    }

    /// The kernel that fills the cache.
    pub const fn rope_kv_write(head_dim: u32, kv: KvFormat) -> Variant {
        Variant::plain(Kernel::RopeKvWrite).of_cache(head_dim, kv)
    }

    const fn of_cache(self, head_dim: u32, kv: KvFormat) -> Variant {
        Variant { f16: matches!(kv, KvFormat::F16), kv, head_dim, ..self }
    }

    /// A recurrence that has a workgroup for a head and a lane for an element of it.
    pub const fn by_head(kernel: Kernel, head_dim: u32) -> Variant {
        Variant { head_dim, ..Variant::plain(kernel) }
    }

    /// The attention kernel.
    pub const fn attention(tile: AttentionTile, kv: KvFormat) -> Variant {
        Variant { tile: Some(tile), ..Variant::plain(Kernel::Attention).of_cache(tile.head_dim, kv) }
    }

    /// The same without workgroup memory, for subgroups of eight lanes.
    pub const fn attention_rows(head_dim: u32, kv: KvFormat) -> Variant {
        let variant = Variant::attention(AttentionTile::rows(head_dim), kv);
        Variant { kernel: Kernel::AttentionRows, subgroups: true, ..variant }
    }

    /// The kernel that puts together what attention computed in runs of keys.
    pub const fn attention_merge(tile: AttentionTile) -> Variant {
        Variant { kernel: Kernel::AttentionMerge, ..Variant::attention(tile, KvFormat::F32) }
    }

    /// What the text of the variant is made from.
    pub fn defines(&self) -> Vec<Define> {
        let mut defines = vec![(F16, u32::from(self.f16))];
        if self.format.is_some() {
            defines.push(("WHOLE_CHUNKS", u32::from(self.whole_chunks)));
        }
        if self.experts {
            defines.push((EXPERTS, 1));
        }
        if self.normed {
            defines.push(("NORMED", 1));
        }
        if self.tile_x != 0 {
            defines.push(("TILE_X", self.tile_x));
        }
        if self.packed {
            defines.push((PACKED, 1));
        }
        if self.several {
            defines.push(("X_ROWS", X_ROWS));
        }
        if self.subgroups {
            defines.push((SUBGROUPS, 1));
        }
        if let Some(shape) = self.shape {
            defines.extend([("K_LANES", shape.k_lanes), ("LANES_N", shape.lanes_n), ("ROWS", shape.rows)]);
        }
        if self.head_dim != 0 {
            defines.push(("HEAD_DIM", self.head_dim));
        }
        if self.kv.bits() != 0 {
            let row_words = self.kv.row_bytes(self.head_dim as usize) / 4;
            defines.extend([
                ("KV_BITS", self.kv.bits()),
                ("KV_ROW", row_words as u32),
                ("KV_HALF", u32::from(self.kv == KvFormat::Half)),
            ]);
        }
        if let Some(tile) = self.tile {
            defines.extend([
                ("WHOLE_HEADS", u32::from(tile.head_dim.is_multiple_of(4))),
                ("Q_ROWS", tile.q_rows),
                ("KEYS", tile.keys),
                ("LANE_KEYS", tile.lane_keys),
                ("ROW_GROUPS", tile.row_groups),
                ("ROW_SLOTS", tile.row_slots),
                ("KEY_SLOTS", tile.key_slots),
            ]);
        }
        defines
    }

    /// The WGSL text.
    /// # Errors
    /// `Internal` for a mistake in a shader file.
    pub fn wgsl(&self) -> Result<String> {
        shaders::expand(self.kernel.file(), self.format.map(quant::format), &self.defines())
    }

    /// Lanes of a workgroup.
    pub fn lanes(&self) -> u32 {
        match self.kernel {
            Kernel::Embed | Kernel::RopeKvWrite | Kernel::NormRopeKvWrite | Kernel::AttentionMerge => 64,
            Kernel::Route | Kernel::GroupPairs => MAX_EXPERTS,
            Kernel::ArgMax
            | Kernel::Choose
            | Kernel::Penalise
            | Kernel::Tally
            | Kernel::Collect
            | Kernel::Draw
            | Kernel::TopOfRun
            | Kernel::Top => 256,
            Kernel::MatVec | Kernel::ExpertMatVec | Kernel::Products | Kernel::GatedProduct => {
                self.shape.map_or(0, MatVecShape::lanes)
            }
            Kernel::Norm | Kernel::MatMul | Kernel::Repack => 128,
            Kernel::MatMulRows => SUBGROUP_LANES,
            Kernel::GatedActivation
            | Kernel::Elementwise
            | Kernel::Columns
            | Kernel::Permute
            | Kernel::TakeOutputs
            | Kernel::ExpertSum
            | Kernel::FusedGatedActivation
            | Kernel::TokenShift
            | Kernel::Wkv4
            | Kernel::StreamMix
            | Kernel::RowStatistics
            | Kernel::ShortConv => ELEMENTWISE_LANES,
            Kernel::Wkv6 | Kernel::Wkv7Keys | Kernel::Wkv7 | Kernel::Wkv7Bonus | Kernel::GatedDelta => {
                self.head_dim
            }
            Kernel::Attention | Kernel::AttentionRows => self.tile.map_or(0, AttentionTile::lanes),
        }
    }

    /// A name for people, such as `matmul/mat_vec q4_1`.
    pub fn label(&self) -> String {
        let mut label = self.kernel.file().to_owned();
        if let Some(format) = self.format {
            label.push(' ');
            label.push_str(quant::format(format).name);
        }
        for (name, value) in self.defines() {
            if matches!(
                name,
                F16 | SUBGROUPS | EXPERTS | PACKED | "X_ROWS" | "TILE_X" | "HEAD_DIM" | "KV_BITS"
            ) && value != 0
            {
                label.push_str(&format!(" {name}={value}"));
            }
        }
        label
    }
}
