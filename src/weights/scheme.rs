//! Quantisation schemes of Hugging Face folders: which tensors make a layer, and how they are read.
//!
//! Principal type: [`Scheme`], from `quantization_config`. Must not know families.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::checkpoint::{Extent, StoredTensor, Unit};
use super::packed::{Packed, Packing};
use super::{Conversion, ShardHeader};
use crate::error::{Error, ErrorCode, Result};
use crate::formats::safetensors::{Dtype, TensorInfo};
use crate::tensor::DType;

/// Where the file is from which a tensor's record is.
type Placed<'a> = (usize, &'a TensorInfo);

/// How quantised layers are stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// As plain floats.
    None,
    /// 32-bit words of AWQ or GPTQ.
    Packed {
        /// Which of the two.
        packing: Packing,
        /// Bits of a weight.
        bits: usize,
        /// Inputs of a group; `None` for one group.
        group_size: Option<usize>,
        /// Whether columns are grouped by `g_idx`.
        act_order: bool,
        /// What is added to stored zero points.
        zero_offset: u32,
    },
    /// `_blocks` and `_scales` of gpt-oss.
    Mxfp4,
}

impl Scheme {
    /// The scheme that a `quantization_config` (or `quantize_config.json`) states.
    /// # Errors
    /// `UnsupportedType` names a scheme, or a variant of one, that is not read; `InvalidValue`.
    pub fn of_config(config: Option<&Json>) -> Result<Scheme> {
        let Some(config) = config.filter(|config| config.is_object()) else { return Ok(Scheme::None) };
        let text = |name: &str| config[name].as_str().map(str::to_lowercase);
        let unsupported = |what: String| {
            let message = format!(
                "the weights are quantised by {what}, which is not supported; supported are awq (gemm, 4 bits), gptq (2, 3, 4, 8 \
                 bits) and mxfp4"
            );
            Err(Error::new(ErrorCode::UnsupportedType, message).at("quantization_config.quant_method"))
        };
        // quantize_config.json of AutoGPTQ names no method.
        let method = text("quant_method").unwrap_or_else(|| "gptq".to_owned());
        let number = |names: [&str; 2]| names.iter().find_map(|name| config[*name].as_i64());
        let bits = number(["bits", "w_bit"]).unwrap_or(4);
        let group_size =
            number(["group_size", "q_group_size"]).filter(|size| *size > 0).map(|size| size as usize);
        match method.as_str() {
            "mxfp4" => Ok(Scheme::Mxfp4),
            "awq" => match text("version").as_deref() {
                None | Some("gemm") if bits == 4 => Ok(Scheme::Packed {
                    packing: Packing::Awq,
                    bits: 4,
                    group_size,
                    act_order: false,
                    zero_offset: 0,
                }),
                version => unsupported(format!("awq (version {}, {bits} bits)", version.unwrap_or("gemm"))),
            },
            "gptq" => match (text("checkpoint_format").as_deref(), bits) {
                (format @ (None | Some("gptq" | "gptq_v2")), 2 | 3 | 4 | 8) => Ok(Scheme::Packed {
                    packing: Packing::Gptq,
                    bits: bits as usize,
                    group_size,
                    act_order: config["desc_act"].as_bool().unwrap_or(false),
                    zero_offset: u32::from(format != Some("gptq_v2")),
                }),
                (format, bits) => {
                    unsupported(format!("gptq (checkpoint format {}, {bits} bits)", format.unwrap_or("gptq")))
                }
            },
            other => unsupported(other.to_owned()),
        }
    }

    /// The tensors that are made of several of the files', under the name that one of its own would have; with the
    /// names of those that they are made of.
    /// # Errors
    /// `MissingTensor`, `WrongShape` and `UnsupportedType` with the name of a tensor of the layer.
    pub fn tensors(&self, shards: &[ShardHeader]) -> Result<(Vec<StoredTensor>, Vec<String>)> {
        let placed =
            shards.iter().flat_map(|shard| shard.header.tensors.iter().map(|tensor| (shard.file, tensor)));
        // Not collected: that would sort first, which takes a page code for each kind of map.
        let mut by_name: BTreeMap<&str, Placed<'_>> = BTreeMap::new();
        by_name.extend(placed.map(|placed| (placed.1.name.as_str(), placed)));
        let mut made = Vec::new();
        let mut used = Vec::new();
        for name in by_name.keys() {
            if let Some(module) = name.strip_suffix(".qweight") {
                let Scheme::Packed { .. } = self else {
                    let message = "packed weights, but config.json has no quantization_config that says how";
                    return Err(Error::new(ErrorCode::UnsupportedType, message).at(*name));
                };
                made.extend(self.packed(module, &by_name)?);
                used.extend(["qweight", "qzeros", "scales", "g_idx"].map(|part| format!("{module}.{part}")));
            } else if let Some(stem) = name.strip_suffix("_blocks").filter(|_| *self == Scheme::Mxfp4) {
                made.push(mxfp4(stem, &by_name)?);
                used.extend(["blocks", "scales"].map(|part| format!("{stem}_{part}")));
            }
        }
        Ok((made, used))
    }

    /// A linear layer of AWQ or GPTQ, and with act-order the order of its columns.
    fn packed(&self, module: &str, by_name: &BTreeMap<&str, Placed<'_>>) -> Result<Vec<StoredTensor>> {
        let Scheme::Packed { packing, bits, group_size, act_order, zero_offset } = *self else {
            return Ok(Vec::new());
        };
        let part = |part: &str| part_of(&format!("{module}.{part}"), by_name);
        let (qweight, qzeros, scales) = (part("qweight")?, part("qzeros")?, part("scales")?);
        let g_idx = by_name.get(format!("{module}.g_idx").as_str()).copied();
        let scale_type = match scales.1.dtype {
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F32 => DType::F32,
            other => {
                let message = format!("scales of type {} are not supported", other.name());
                return Err(Error::new(ErrorCode::UnsupportedType, message).at(&scales.1.name));
            }
        };
        let shape = |tensor: &TensorInfo| match tensor.shape.as_slice() {
            [rows, columns] => Ok((*rows, *columns)),
            _ => Err(wrong_shape(tensor)),
        };
        let ((n_groups, n_out), (rows, columns)) = (shape(scales.1)?, shape(qweight.1)?);
        let bits64 = bits as u64;
        let n_in = match packing {
            Packing::Gptq => rows.checked_mul(32).map_or(0, |n| n / bits64),
            Packing::Awq => rows,
        };
        let (expected_weight, expected_zeros) = match packing {
            Packing::Gptq => ([n_in * bits64 / 32, n_out], [n_groups, n_out * bits64 / 32]),
            Packing::Awq => ([n_in, n_out / 8], [n_groups, n_out / 8]),
        };
        let size = group_size.map_or(n_in, |size| size as u64);
        let sound = n_in > 0
            && n_in.is_multiple_of(32)
            && n_out.is_multiple_of(if packing == Packing::Awq { 8 } else { 32 })
            && n_in.div_ceil(size.max(1)) == n_groups
            && [rows, columns] == expected_weight;
        if !sound || qweight.1.dtype != Dtype::I32 {
            return Err(wrong_shape(qweight.1));
        }
        if qzeros.1.shape != expected_zeros || qzeros.1.dtype != Dtype::I32 {
            return Err(wrong_shape(qzeros.1));
        }
        if let Some((_, tensor)) = g_idx.filter(|(_, g)| g.shape != [n_in] || g.dtype != Dtype::I32) {
            return Err(wrong_shape(tensor));
        }
        let packed = Packed {
            packing,
            bits,
            n_in: n_in as usize,
            n_out: n_out as usize,
            n_groups: n_groups as usize,
            group_size: size as usize,
            zero_offset,
            act_order: act_order && g_idx.is_some(),
            has_g_idx: g_idx.is_some(),
            scales: scale_type,
        };
        let (dtype, n_bytes, ordered) = (packed.dtype(), packed.n_bytes(), packed.act_order);
        let inputs =
            [Some(qweight), Some(qzeros), Some(scales), g_idx].into_iter().flatten().map(extent).collect();
        let mut tensors = Vec::new();
        if let Some(g_idx) = g_idx.filter(|_| ordered) {
            let order = Conversion::PackedOrder(packed.clone());
            let units = vec![Unit::convert(vec![extent(g_idx)], order, 4 * n_in)];
            let name = format!("{module}.perm");
            tensors.push(StoredTensor { name, dtype: DType::F32, dims: vec![n_in], units });
        }
        let units = vec![Unit::convert(inputs, Conversion::Packed(packed), n_bytes)];
        tensors.push(StoredTensor {
            name: format!("{module}.weight"),
            dtype,
            dims: vec![n_in, n_out],
            units,
        });
        Ok(tensors)
    }
}

/// Blocks `[n_experts, n_rows, n_blocks, 16]` and scales `[n_experts, n_rows, n_blocks]`, a unit for each expert.
fn mxfp4(stem: &str, by_name: &BTreeMap<&str, Placed<'_>>) -> Result<StoredTensor> {
    let (blocks, scales) =
        (part_of(&format!("{stem}_blocks"), by_name)?, part_of(&format!("{stem}_scales"), by_name)?);
    let [n_experts, n_rows, n_blocks, 16] = blocks.1.shape[..] else { return Err(wrong_shape(blocks.1)) };
    if blocks.1.dtype != Dtype::U8 || blocks.1.n_bytes == 0 {
        return Err(wrong_shape(blocks.1));
    }
    if scales.1.shape != [n_experts, n_rows, n_blocks] || scales.1.dtype != Dtype::U8 {
        return Err(wrong_shape(scales.1));
    }
    let expert = |(file, tensor): Placed<'_>, index: u64| {
        let n_bytes = tensor.n_bytes / n_experts;
        Extent { file, offset: tensor.offset + index * n_bytes, n_bytes }
    };
    let conversion = Conversion::Mxfp4 { n_blocks: n_blocks as usize, first: 0, step: 1 };
    let unit = |index| {
        let inputs = vec![expert(blocks, index), expert(scales, index)];
        Unit::convert(inputs, conversion.clone(), n_rows * n_blocks * 17)
    };
    let dims = vec![32 * n_blocks, n_rows, n_experts];
    let units = (0..n_experts).map(unit).collect();
    Ok(StoredTensor { name: format!("{stem}_blocks"), dtype: DType::MXFP4, dims, units })
}

fn extent((file, tensor): Placed<'_>) -> Extent {
    Extent { file, offset: tensor.offset, n_bytes: tensor.n_bytes }
}

fn part_of<'a>(name: &str, by_name: &BTreeMap<&str, Placed<'a>>) -> Result<Placed<'a>> {
    by_name.get(name).copied().ok_or_else(|| {
        Error::new(ErrorCode::MissingTensor, "a quantised layer needs this tensor, and the file lacks it")
            .at(name)
    })
}

fn wrong_shape(tensor: &TensorInfo) -> Error {
    let message = format!(
        "has the shape {:?} of {}, which does not go with the layer's other tensors and the quantization_config (widths must \
         be multiples of 32)",
        tensor.shape,
        tensor.dtype.name()
    );
    Error::new(ErrorCode::WrongShape, message).at(&tensor.name)
}
