//! The check of a GPU before a model is loaded: it tries every kernel that the model runs, finds nothing wrong with right
//! ones, and replaces wrong ones.
#![cfg(all(feature = "gpu", not(target_arch = "wasm32")))]

use std::collections::HashSet;

use lamplight::backend::KV_FORMATS;
use lamplight::backend::gpu::kernels::{Kernel, MatMulTile, SUBGROUP_LANES, Variant};
use lamplight::backend::gpu::{Alter, GpuBackend, GpuDevice, GpuOptions, Precision, Tuning};
use lamplight::engine::{LoadOptions, Loading, check_gpu, native};
use lamplight::error::ErrorCode;
use lamplight::model::graph::WeightKind;
use lamplight::quant;
use pollster::block_on;

#[path = "common/golden.rs"]
#[allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses a part")]
mod golden;

#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn device() -> Option<GpuDevice> {
    match block_on(GpuDevice::request(GpuOptions::default())) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var_os("LAMPLIGHT_REQUIRE_GPU").is_some_and(|value| !value.is_empty());
            assert!(!required, "{error}");
            println!("SKIPPED: {error}");
            None
        }
    }
}

fn loading(set: &golden::Set) -> Loading {
    let (_, model) = block_on(native::open(&set.model())).expect("a golden set");
    Loading::new(model, LoadOptions { n_ctx: Some(128), ..LoadOptions::default() }).expect("a model")
}

/// What the large model runs, and the small one.
fn kernels(loading: &Loading, device: &GpuDevice, precision: Precision) -> [HashSet<Variant>; 2] {
    [loading.plan(), loading.miniature().clone()].map(|plan| {
        let backend = block_on(GpuBackend::new(plan, device.clone(), precision)).expect("a backend");
        backend.kernels().iter().copied().collect()
    })
}

#[test]
#[allow(clippy::print_stdout, reason = "how long it takes is worth knowing")]
fn every_family_passes_and_every_kernel_is_tried() {
    let Some(device) = device() else { return };
    let mut wrong = Vec::new();
    for set in golden::sampled(4) {
        let loading = loading(&set);
        for precision in [Precision::F32, Precision::F16] {
            if precision == Precision::F16 && !device.info().shader_f16 {
                continue;
            }
            let [large, small] = kernels(&loading, &device, precision);
            wrong.extend(
                large
                    .difference(&small)
                    .map(|variant| format!("{}: {} is not tried", set.name, variant.label())),
            );
            let found = block_on(check_gpu(&device, loading.miniature(), precision, Tuning::default()));
            match found {
                Ok((_, _, check)) => {
                    println!("{} {precision:?}: {check:?}", set.name);
                    if check.replaced.is_some() || check.kernels == 0 {
                        wrong.push(format!("{} in {precision:?}: {check:?}", set.name));
                    }
                }
                Err(error) => wrong.push(format!("{} in {precision:?}: {error}", set.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A set whose matrices are whole blocks of every format.
fn wide() -> Loading {
    let wide = |loading: &Loading| {
        let graph = &loading.miniature().graph;
        graph.weights.iter().all(|weight| weight.kind == WeightKind::Vector || weight.n_cols % 256 == 0)
            && graph.kv.len() == 1
    };
    golden::sets().iter().map(loading).find(wide).expect("a set of wide matrices")
}

/// A few formats by a seed that is told, all with LAMPLIGHT_LONG: a software adapter compiles slowly.
#[test]
fn every_format_passes() {
    let Some(device) = device() else { return };
    let mut plan = wide().miniature().clone();
    for format in golden::sample(quant::FORMATS.iter().collect(), 3) {
        for (dtype, decl) in plan.dtypes.iter_mut().zip(&plan.graph.weights) {
            if decl.kind != WeightKind::Vector {
                *dtype = format.dtype;
            }
        }
        let checked = block_on(check_gpu(&device, &plan, Precision::F32, Tuning::default()));
        let (_, _, check) = checked.unwrap_or_else(|error| panic!("{}: {error}", format.name));
        assert!(check.replaced.is_none() && check.kernels > 10, "{}: {check:?}", format.name);
    }
}

/// Codes of few bits are kept in the cache by the small model too, and right kernels are within their bounds.
#[test]
#[allow(clippy::print_stdout, reason = "how long it takes is worth knowing")]
fn every_cache_passes() {
    let Some(device) = device() else { return };
    let mut plan = wide().miniature().clone();
    for kv_cache in KV_FORMATS {
        plan.kv_cache = Some(kv_cache);
        for precision in [Precision::F32, Precision::F16] {
            if precision == Precision::F16 && !device.info().shader_f16 {
                continue;
            }
            let checked = block_on(check_gpu(&device, &plan, precision, Tuning::default()));
            let (_, _, check) =
                checked.unwrap_or_else(|error| panic!("{kv_cache:?} in {precision:?}: {error}"));
            println!("{kv_cache:?} in {precision:?}: {check:?}");
            assert!(check.replaced.is_none(), "{kv_cache:?} in {precision:?}: {check:?}");
        }
    }
}

/// What a wrong kernel is replaced by: a driver that compiles some variants wrongly is played by other texts for them.
#[test]
fn wrong_kernels_are_replaced() {
    let loading = wide();
    let cases: &[(&str, Alter)] = &[
        ("fused kernels", |variant, text| match variant.kernel {
            Kernel::Products => text.replace("sums*=params.scale;", "sums*=params.scale*1.25;"),
            _ => text,
        }),
        ("fused kernels", |variant, text| match variant.kernel {
            Kernel::GatedProduct => "what no compiler takes".to_owned(),
            _ => text,
        }),
        ("half floats", |variant, text| match (variant.kernel, variant.f16) {
            (Kernel::Attention, true) => text.replace("total[r]+=weight;", "total[r]+=weight*1.5;"),
            (Kernel::AttentionRows, true) => text.replace("first.high*keys.b", "first.high*keys.a"),
            _ => text,
        }),
        ("product of many rows", |variant, text| match variant.kernel {
            Kernel::MatMulRows => text.replace("let w0=near.lo*scales.x", "let w0=near.hi*scales.x"),
            Kernel::MatMul => text.replace("let part=first_part+lane%PARTS;", "let part=first_part;"),
            _ => text,
        }),
        ("subgroups", |variant, text| match variant.kernel {
            Kernel::MatMulRows => text.replace("subgroupBroadcast(own,1u)", "subgroupBroadcast(own,0u)"),
            _ => text,
        }),
        ("subgroups", |variant, text| match variant.kernel {
            Kernel::AttentionRows => text.replace("first.high*keys.b", "first.high*keys.a"),
            _ => text,
        }),
        ("choose tokens", |variant, text| match variant.kernel {
            Kernel::Choose => text.replace("lane_ids[0],lane_ids[0]", "lane_ids[0]+1u,lane_ids[0]+1u"),
            _ => text,
        }),
    ];
    let Some(device) = device() else { return };
    for (what, alter) in cases {
        let f16 = device.info().shader_f16;
        if !f16 && *what == "half floats" {
            continue;
        }
        // Only software runs the product whose lanes hand on what they load, where they are a subgroup.
        let software = device.info().fallback;
        let hands_on = software && device.info().subgroup_lanes == Some(SUBGROUP_LANES);
        if !hands_on && *what == "subgroups" {
            continue;
        }
        let wanted = if f16 { Precision::F16 } else { Precision::F32 };
        // The other product of many rows is as right as it was.
        let tile = if software { MatMulTile::ROWS } else { MatMulTile::USUAL };
        // Enough tokens of few for what is wrong with them to show.
        let tuning = Tuning { tile: Some(tile), few_rows: Some(4), ..Tuning::default() };
        device.alter_kernels(*alter);
        let result = block_on(check_gpu(&device, loading.miniature(), wanted, tuning));
        if *what == "product of many rows" {
            // Both are wrong: nothing helps.
            assert_eq!(result.err().map(|error| error.code()), Some(ErrorCode::GpuCheckFailed));
            continue;
        }
        let (precision, tuning, check) = result.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(check.replaced.is_some_and(|replaced| replaced.contains(what)), "{what}: {check:?}");
        assert_eq!(precision == wanted, *what != "half floats");
        assert_eq!(tuning.fuse, *what != "fused kernels");
        assert_eq!(tuning.choose, *what != "choose tokens");
        assert_eq!(tuning.hand_on, Some(hands_on && *what != "subgroups"));
    }
}
