//! Every shader variant is valid WGSL and is what the Rust side says: bindings, lanes, workgroup memory.
#![cfg(not(target_arch = "wasm32"))]
#![cfg(all(feature = "gpu", not(target_arch = "wasm32")))]

#[path = "common/shader_variants.rs"]
mod shader_variants;

use std::collections::HashMap;

use lamplight::backend::gpu::kernels::{Access, Kernel, Variant};
use lamplight::backend::gpu::shaders;
use lamplight::quant::FORMATS;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use shader_variants::variants;

#[test]
fn every_variant_is_valid_and_as_declared() {
    let variants = variants();
    for kernel in Kernel::ALL {
        assert!(
            variants.iter().any(|variant| variant.kernel == *kernel),
            "{kernel:?} is not in variants.toml"
        );
    }
    for variant in variants {
        check(&variant);
    }
}

fn check(variant: &Variant) {
    let label = variant.label();
    let text = variant.wgsl().expect("expands");
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|error| panic!("{label}: {}", error.emit_to_string(&text)));
    // unpack2x16float is core WGSL; naga counts it among the capabilities of old GPUs.
    let capabilities =
        Capabilities::SHADER_FLOAT16 | Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.validate(&module).unwrap_or_else(|error| panic!("{label}: {}", error.emit_to_string(&text)));

    let mut bindings = HashMap::new();
    let mut workgroup_bytes = 0;
    for (_, global) in module.global_variables.iter() {
        let access = match global.space {
            naga::AddressSpace::WorkGroup => {
                let size = module.types[global.ty].inner.size(module.to_ctx());
                workgroup_bytes += size.next_multiple_of(16);
                continue;
            }
            naga::AddressSpace::Private => continue,
            naga::AddressSpace::Uniform => Access::Uniform,
            naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                Access::ReadWrite
            }
            naga::AddressSpace::Storage { .. } => Access::Read,
            other => panic!("{label}: a variable in {other:?}"),
        };
        let binding = global.binding.expect("a binding");
        assert_eq!(binding.group, 0, "{label}");
        assert!(
            bindings.insert(binding.binding, access).is_none(),
            "{label}: binding {} twice",
            binding.binding
        );
    }
    let declared = variant.kernel.bindings();
    for (index, access) in declared.iter().enumerate() {
        assert_eq!(bindings.get(&(index as u32)), Some(access), "{label}: binding {index}");
    }
    assert_eq!(bindings.len(), declared.len(), "{label}");
    let storage = declared.iter().filter(|access| **access != Access::Uniform).count();
    assert!(storage <= 8, "{label}: {storage} storage buffers; every device has 8");

    assert_eq!(module.entry_points.len(), 1, "{label}");
    let size = module.entry_points[0].workgroup_size;
    assert_eq!(size, [variant.lanes(), 1, 1], "{label}");
    assert!(size[0] <= 256, "{label}: {} lanes; every device has 256", size[0]);
    assert!(workgroup_bytes <= 16384, "{label}: {workgroup_bytes} bytes of workgroup memory");
    if let Some(tile) = variant.tile {
        assert!(workgroup_bytes <= tile.workgroup_bytes(), "{label}: the tile promises less memory");
    }
}

#[test]
fn the_text_of_a_variant_is_the_same_every_time() {
    for variant in variants() {
        assert_eq!(variant.wgsl().expect("expands"), variant.wgsl().expect("expands"));
    }
}

/// Whether `stripped` is `text` but for its comments and spaces, line by line: no two words or operators have become one.
fn is_stripped(stripped: &str, text: &str) -> bool {
    fn runs(line: &str, is_part: impl Fn(char) -> bool) -> Vec<&str> {
        line.split(|c| !is_part(c)).filter(|run| !run.is_empty()).collect()
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_operator = |c: char| !is_word(c) && !c.is_whitespace() && !"(){}[],;:@.".contains(c);
    let is_same = |(stripped, line): (&str, &str)| {
        let code = line.split("//").next().expect("a first part");
        let dense = |line: &str| line.replace(char::is_whitespace, "");
        dense(stripped) == dense(code)
            && runs(stripped, is_word) == runs(code, is_word)
            && runs(stripped, is_operator) == runs(code, is_operator)
    };
    assert!(!text.contains("/*"), "block comments would be shipped");
    stripped.lines().count() == text.lines().count() && stripped.lines().zip(text.lines()).all(is_same)
}

#[test]
fn every_file_is_listed_and_every_fragment_has_a_format() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut n_files = 0;
    for entry in std::fs::read_dir(&folder).expect("shaders/").flatten().filter(|entry| entry.path().is_dir())
    {
        let group = entry.file_name().into_string().expect("a name");
        for file in std::fs::read_dir(entry.path()).expect("a folder").flatten() {
            let path = file.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let text = std::fs::read_to_string(&path).expect("text");
            n_files += 1;
            match group.as_str() {
                "quant" => {
                    let format = FORMATS.iter().find(|format| format.name == stem);
                    assert!(
                        format.is_some_and(|format| is_stripped(format.wgsl, &text)),
                        "{} is no format's",
                        path.display()
                    );
                }
                _ => {
                    let name = format!("{group}/{stem}");
                    let listed = shaders::FILES.iter().find(|(file, _)| *file == name);
                    assert!(
                        listed.is_some_and(|(_, listed)| is_stripped(listed, &text)),
                        "{name} is not in FILES"
                    );
                }
            }
        }
    }
    assert_eq!(n_files, shaders::FILES.len() + FORMATS.len());
}
