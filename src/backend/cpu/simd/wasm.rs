//! The vectors on WebAssembly's simd128. Principal type: [`F32x4`]. Same meaning as `generic`, bit for bit.
//!
//! The only `unsafe` code of the crate: loads and stores through references to arrays of exactly a vector's size.
#![allow(unsafe_code, reason = "vector loads and stores take raw pointers; see the module's comment")]

use core::arch::wasm32::*;
use std::ops::{Add, Div, Mul, Sub};

/// Four floats.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct F32x4(v128);

/// Four 32-bit integers.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct I32x4(v128);

/// Eight 16-bit integers, wrapping.
#[derive(Clone, Copy)]
pub(in crate::backend::cpu) struct I16x8(v128);

#[inline(always)]
fn load<T, const N: usize>(from: &[T; N]) -> v128 {
    const { assert!(size_of::<[T; N]>() == 16) };
    // SAFETY: the reference is valid for reads of its 16 bytes, which are plain integers or floats in all callers;
    // v128.load has no alignment requirement.
    unsafe { v128_load(from.as_ptr().cast()) }
}

#[inline(always)]
fn store<T, const N: usize>(vector: v128, to: &mut [T; N]) {
    const { assert!(size_of::<[T; N]>() == 16) };
    // SAFETY: the reference is valid for writes of its 16 bytes, for which any bits are a value (integers and
    // floats in all callers); v128.store has no alignment requirement.
    unsafe { v128_store(to.as_mut_ptr().cast(), vector) }
}

const MAGIC: f32 = 12_582_912.0;

#[rustfmt::skip]
impl F32x4 {
    pub(in crate::backend::cpu) const ZERO: Self = Self(f32x4(0.0, 0.0, 0.0, 0.0));
    #[inline(always)]
    pub(in crate::backend::cpu) fn load(from: &[f32; 4]) -> Self { Self(load(from)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [f32; 4]) { store(self.0, to); }
    #[inline(always)]
    pub(in crate::backend::cpu) fn to_array(self) -> [f32; 4] {
        let mut array = [0.0; 4];
        store(self.0, &mut array);
        array
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat(value: f32) -> Self { Self(f32x4_splat(value)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn from_i32(from: I32x4) -> Self { Self(f32x4_convert_i32x4(from.0)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_f16(from: &[u16; 4]) -> Self {
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        // SAFETY: the reference is valid for reads of its 8 bytes; the load has no alignment requirement.
        let wide = unsafe { i32x4_load_extend_i16x4(from.as_ptr().cast()) };
        let spread = v128_and(i32x4_shl(wide, 13), u32x4_splat(0x8fff_ffff));
        Self(f32x4_mul(spread, f32x4_splat(BIAS)))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_bf16(from: &[u16; 4]) -> Self {
        // SAFETY: the reference is valid for reads of its 8 bytes; the load has no alignment requirement.
        let wide = unsafe { i32x4_load_extend_u16x4(from.as_ptr().cast()) };
        Self(i32x4_shl(wide, 16))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn max(self, other: Self) -> Self { Self(f32x4_max(self.0, other.0)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn min(self, other: Self) -> Self { Self(f32x4_min(self.0, other.0)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn abs(self) -> Self { Self(f32x4_abs(self.0)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn with_sign(self, from: Self) -> Self {
        Self(v128_bitselect(from.0, self.0, u32x4_splat(0x8000_0000)))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn zero_where_below(self, test: Self, limit: Self) -> Self {
        Self(v128_andnot(self.0, f32x4_lt(test.0, limit.0)))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn exp2_of_integer(self) -> Self {
        Self(i32x4_shl(f32x4_add(self.0, f32x4_splat(MAGIC + 127.0)), 23))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn round(self) -> Self {
        Self(f32x4_sub(f32x4_add(self.0, f32x4_splat(MAGIC)), f32x4_splat(MAGIC)))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn sum(self) -> f32 {
        let halves = f32x4_add(self.0, i64x2_shuffle::<1, 0>(self.0, self.0));
        f32x4_extract_lane::<0>(halves) + f32x4_extract_lane::<1>(halves)
    }
}

#[rustfmt::skip]
impl I32x4 {
    pub(in crate::backend::cpu) const ZERO: Self = Self(i32x4(0, 0, 0, 0));
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [i32; 4]) { store(self.0, to); }
    #[inline(always)]
    pub(in crate::backend::cpu) fn low_halves(low: F32x4, high: F32x4) -> Self {
        Self(v128_bitselect(low.0, i32x4_shl(high.0, 16), i32x4_splat(0xffff)))
    }
    #[cfg(test)]
    pub(in crate::backend::cpu) fn to_array(self) -> [i32; 4] {
        let mut array = [0; 4];
        store(self.0, &mut array);
        array
    }
}

#[rustfmt::skip]
impl I16x8 {
    #[inline(always)]
    pub(in crate::backend::cpu) fn load(from: &[i16; 8]) -> Self { Self(load(from)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [i16; 8]) { store(self.0, to); }
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_bytes(from: &[u8; 16]) -> Self { Self(load(from)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat_pair(pair: i32) -> Self { Self(i32x4_splat(pair)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat(value: i16) -> Self { Self(i16x8_splat(value)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn and(self, mask: Self) -> Self { Self(v128_and(self.0, mask.0)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn shl<const N: u32>(self) -> Self { Self(i16x8_shl(self.0, N)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn sar<const N: u32>(self) -> Self { Self(i16x8_shr(self.0, N)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn shr<const N: u32>(self) -> Self { Self(u16x8_shr(self.0, N)) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn dot(self, other: Self) -> I32x4 { I32x4(i32x4_dot_i16x8(self.0, other.0)) }
}

macro_rules! lanewise {
    ($trait:ident, $name:ident, $type:ident, $op:ident) => {
        impl $trait for $type {
            type Output = $type;
            #[inline(always)]
            fn $name(self, other: $type) -> $type {
                $type($op(self.0, other.0))
            }
        }
    };
}

lanewise!(Add, add, F32x4, f32x4_add);
lanewise!(Sub, sub, F32x4, f32x4_sub);
lanewise!(Mul, mul, F32x4, f32x4_mul);
lanewise!(Div, div, F32x4, f32x4_div);
lanewise!(Add, add, I32x4, i32x4_add);
