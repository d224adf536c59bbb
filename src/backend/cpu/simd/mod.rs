//! Vectors of 128 bits with a safe interface: [`F32x4`], [`I32x4`] and [`I16x8`].
//!
//! `wasm` is built on simd128 and holds the crate's only `unsafe` code; `generic` is its scalar twin, which runs
//! everywhere else and which `wasm` is tested against, operation by operation. Kernels are written once, on these
//! types, and must not know which of the two they run on.

/// Repeats its body with the name bound to each of the numbers. The core is compiled for size, which leaves loops as they
/// are, and an array that a loop indexes is memory: what shall stay in registers is unrolled by this.
macro_rules! unrolled {
    ($name:ident in [$($index:literal),*] $body:block) => {
        $({
            let $name: usize = $index;
            $body
        })*
    };
}
pub(super) use unrolled;

#[cfg_attr(
    all(target_arch = "wasm32", target_feature = "simd128", not(test)),
    expect(dead_code, reason = "always compiled, so that no change to the vectors leaves the twin behind")
)]
mod generic;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub(super) use generic::{F32x4, I16x8, I32x4};
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) use wasm::{F32x4, I16x8, I32x4};

#[cfg(all(test, target_arch = "wasm32", target_feature = "simd128"))]
mod tests;
