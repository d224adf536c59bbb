//! Reads shaders/variants.toml: shared by the native validation and by the browser's.

use std::collections::HashMap;

use lamplight::backend::gpu::kernels::{AttentionTile, Kernel, KvFormat, MatMulTile, MatVecShape, Variant};
use lamplight::quant::FORMATS;

const VARIANTS: &str = include_str!("../../shaders/variants.toml");

/// A row of variants.toml: the strings of each key's list.
type Row = HashMap<String, Vec<String>>;

/// The subset of TOML that variants.toml is written in.
fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for line in VARIANTS.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line == "[[variant]]" {
            rows.push(Row::new());
            continue;
        }
        let (key, value) = line.split_once('=').expect("key = value");
        let list = value.trim().trim_start_matches('[').trim_end_matches(']');
        let list = list.split(',').map(|item| item.trim().trim_matches('"').to_owned()).collect();
        rows.last_mut().expect("[[variant]] comes first").insert(key.trim().to_owned(), list);
    }
    rows
}

fn numbers(row: &Row, key: &str, default: u32) -> Vec<u32> {
    let parse = |item: &String| item.parse().expect("a number");
    row.get(key).map_or(vec![default], |list| list.iter().map(parse).collect())
}

fn flags(row: &Row, key: &str) -> Vec<bool> {
    let parse = |item: &String| item.parse().expect("true or false");
    row.get(key).map_or(vec![false], |list| list.iter().map(parse).collect())
}

/// All variants of the file.
pub(crate) fn variants() -> Vec<Variant> {
    let mut variants = Vec::new();
    for row in rows() {
        let file = &row["kernel"][0];
        let kernel = Kernel::ALL.iter().find(|kernel| kernel.file() == file);
        let kernel = *kernel.unwrap_or_else(|| panic!("{file} is no kernel"));
        let kvs = numbers(&row, "kv", 0).into_iter().map(|kv| KvFormat::ALL[kv as usize]);
        let formats: Vec<_> =
            flags(&row, "f16").into_iter().flat_map(|f16| kvs.clone().map(move |kv| (f16, kv))).collect();
        for (f16, kv) in formats {
            match kernel {
                Kernel::Embed
                | Kernel::MatVec
                | Kernel::MatMul
                | Kernel::MatMulRows
                | Kernel::ExpertMatVec => {
                    for n_cols in numbers(&row, "n_cols", 32) {
                        let fitting = FORMATS.iter().filter(|format| n_cols == 32 || format.block_len == 1);
                        for format in fitting {
                            let n_cols = n_cols as usize;
                            if !row.contains_key("experts") {
                                let variant = Variant::weights(kernel, format.dtype, n_cols, f16);
                                variants.extend([Some(variant), variant.of_several()].into_iter().flatten());
                                continue;
                            }
                            let mine =
                                |tile: &MatMulTile| (kernel == Kernel::MatMul) != (*tile == MatMulTile::ROWS);
                            for tile in MatMulTile::ALL.into_iter().filter(mine) {
                                if tile.of_weights(format.dtype, n_cols as u32).0 != tile {
                                    continue;
                                }
                                let variant = Variant::mat_mul((tile, kernel), format.dtype, n_cols, f16);
                                let of = |experts| if experts { variant.of_experts() } else { variant };
                                variants.extend(flags(&row, "experts").into_iter().map(of));
                            }
                        }
                    }
                }
                Kernel::Products | Kernel::GatedProduct => {
                    for normed in flags(&row, "normed") {
                        for format in FORMATS {
                            let variant = Variant::fused_product(kernel, format.dtype, normed);
                            variants.extend([Some(variant), variant.of_several()].into_iter().flatten());
                        }
                    }
                }
                Kernel::NormRopeKvWrite => variants.extend(
                    numbers(&row, "head_dim", 64)
                        .into_iter()
                        .map(|head_dim| Variant::norm_rope_kv_write(head_dim, kv)),
                ),
                Kernel::RopeKvWrite => variants.extend(
                    numbers(&row, "head_dim", 64)
                        .into_iter()
                        .map(|head_dim| Variant::rope_kv_write(head_dim, kv)),
                ),
                Kernel::AttentionRows => variants.extend(
                    numbers(&row, "head_dim", 64)
                        .into_iter()
                        .map(|head_dim| Variant::attention_rows(head_dim, kv)),
                ),
                Kernel::Attention | Kernel::AttentionMerge => {
                    for head_dim in numbers(&row, "head_dim", 64) {
                        for group in numbers(&row, "group", 1) {
                            for few in flags(&row, "few") {
                                let tile = AttentionTile::new(head_dim, group, few).expect("a tile");
                                variants.push(match kernel {
                                    Kernel::Attention => Variant::attention(tile, kv),
                                    _ => Variant::attention_merge(tile),
                                });
                            }
                        }
                    }
                }
                Kernel::Wkv6 | Kernel::Wkv7Keys | Kernel::Wkv7 | Kernel::Wkv7Bonus | Kernel::GatedDelta => {
                    let head_dims = numbers(&row, "head_dim", 64).into_iter();
                    variants.extend(head_dims.map(|head_dim| Variant::by_head(kernel, head_dim)));
                }
                Kernel::Norm
                | Kernel::GatedActivation
                | Kernel::Elementwise
                | Kernel::Columns
                | Kernel::Permute
                | Kernel::TakeOutputs
                | Kernel::Route
                | Kernel::GroupPairs
                | Kernel::ExpertSum
                | Kernel::FusedGatedActivation
                | Kernel::TokenShift
                | Kernel::Wkv4
                | Kernel::StreamMix
                | Kernel::RowStatistics
                | Kernel::ArgMax
                | Kernel::Choose
                | Kernel::Penalise
                | Kernel::Tally
                | Kernel::Collect
                | Kernel::Draw
                | Kernel::TopOfRun
                | Kernel::Top
                | Kernel::ShortConv
                | Kernel::Repack => variants.push(Variant::plain(kernel)),
            }
        }
    }
    // Each with and without subgroups, and the mat-vec kernels in all shapes: the usual ones for all formats, the others
    // for some.
    let mut tuned: Vec<Variant> = Vec::new();
    for (index, variant) in variants.into_iter().enumerate() {
        for (at, shape) in MatVecShape::ALL.into_iter().enumerate() {
            for subgroups in [false, true] {
                let variant = variant.tuned(shape, subgroups);
                let left_out = at > 1 && index % 8 != at;
                if tuned.last() != Some(&variant) && !(left_out && variant.shape.is_some()) {
                    tuned.push(variant);
                }
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    tuned.retain(|variant| seen.insert(*variant));
    tuned
}
