//! The scalar twin: arrays and loops, which compilers turn into whatever vectors the target has.
//! Principal type: [`F32x4`]. Defines what each operation means; `wasm` must give the same bits.

use std::ops::{Add, Div, Mul, Sub};

/// Four floats.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(in crate::backend::cpu) struct F32x4([f32; 4]);

/// Four 32-bit integers.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(in crate::backend::cpu) struct I32x4([i32; 4]);

/// Eight 16-bit integers, wrapping.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(in crate::backend::cpu) struct I16x8([i16; 8]);

fn zip<T: Copy, const N: usize>(a: [T; N], b: [T; N], op: impl Fn(T, T) -> T) -> [T; N] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

#[rustfmt::skip]
impl F32x4 {
    /// A constant, so that arrays of it need no loop.
    pub(in crate::backend::cpu) const ZERO: Self = Self([0.0; 4]);
    #[inline(always)]
    pub(in crate::backend::cpu) fn load(from: &[f32; 4]) -> Self { Self(*from) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [f32; 4]) { *to = self.0; }
    #[inline(always)]
    pub(in crate::backend::cpu) fn to_array(self) -> [f32; 4] { self.0 }
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat(value: f32) -> Self { Self([value; 4]) }
    /// Exact conversion, rounded to nearest where 24 bits do not suffice.
    #[inline(always)]
    pub(in crate::backend::cpu) fn from_i32(from: I32x4) -> Self { Self(from.0.map(|v| v as f32)) }
    /// Finite f16 values. An exponent of 31 decodes as if it were an ordinary one.
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_f16(from: &[u16; 4]) -> Self {
        // The f16's fields moved to their f32 places, and the exponent's bias put right by a multiplication, which
        // also normalises subnormals.
        const BIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        Self(from.map(|half| {
            let spread = (i32::from(half as i16) << 13) as u32 & 0x8fff_ffff;
            f32::from_bits(spread) * BIAS
        }))
    }
    /// bf16 values.
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_bf16(from: &[u16; 4]) -> Self {
        Self(from.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    /// The larger of each pair, 0 above -0; NaN if either is.
    #[inline(always)]
    pub(in crate::backend::cpu) fn max(self, other: Self) -> Self {
        Self(zip(self.0, other.0, |a, b| if a.is_nan() || a > b || a == b && a.is_sign_positive() { a } else { b }))
    }
    /// The smaller of each pair, -0 below 0; NaN if either is.
    #[inline(always)]
    pub(in crate::backend::cpu) fn min(self, other: Self) -> Self {
        Self(zip(self.0, other.0, |a, b| if a.is_nan() || a < b || a == b && a.is_sign_negative() { a } else { b }))
    }
    /// Without the signs.
    #[inline(always)]
    pub(in crate::backend::cpu) fn abs(self) -> Self { Self(self.0.map(f32::abs)) }
    /// With the signs of `from`.
    #[inline(always)]
    pub(in crate::backend::cpu) fn with_sign(self, from: Self) -> Self { Self(zip(self.0, from.0, f32::copysign)) }
    /// Zero in the lanes where `test < limit`.
    #[inline(always)]
    pub(in crate::backend::cpu) fn zero_where_below(self, test: Self, limit: Self) -> Self {
        Self(std::array::from_fn(|i| if test.0[i] < limit.0[i] { 0.0 } else { self.0[i] }))
    }
    /// `2^n` for integers `n` in -126..=127 given as floats.
    #[inline(always)]
    pub(in crate::backend::cpu) fn exp2_of_integer(self) -> Self {
        // Adding 1.5 * 2^23 leaves the integer in the low bits.
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|n| f32::from_bits((n + (MAGIC + 127.0)).to_bits() << 23)))
    }
    /// To the nearest integer, ties to even; values must be within ±2^22.
    #[inline(always)]
    pub(in crate::backend::cpu) fn round(self) -> Self {
        const MAGIC: f32 = 12_582_912.0;
        Self(self.0.map(|x| (x + MAGIC) - MAGIC))
    }
    /// `(v0 + v2) + (v1 + v3)`
    #[inline(always)]
    pub(in crate::backend::cpu) fn sum(self) -> f32 { (self.0[0] + self.0[2]) + (self.0[1] + self.0[3]) }
}

#[rustfmt::skip]
impl I32x4 {
    pub(in crate::backend::cpu) const ZERO: Self = Self([0; 4]);
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [i32; 4]) { *to = self.0; }
    /// Of each lane the low halves of both floats' bits, the first one's low.
    #[inline(always)]
    pub(in crate::backend::cpu) fn low_halves(low: F32x4, high: F32x4) -> Self {
        Self(std::array::from_fn(|i| (low.0[i].to_bits() & 0xffff | high.0[i].to_bits() << 16) as i32))
    }
    #[cfg(all(test, target_arch = "wasm32"))]
    pub(in crate::backend::cpu) fn to_array(self) -> [i32; 4] { self.0 }
}

#[rustfmt::skip]
impl I16x8 {
    #[inline(always)]
    pub(in crate::backend::cpu) fn load(from: &[i16; 8]) -> Self { Self(*from) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn store(self, to: &mut [i16; 8]) { *to = self.0; }
    /// Bytes in memory order, two to a lane, the first one low.
    #[inline(always)]
    pub(in crate::backend::cpu) fn load_bytes(from: &[u8; 16]) -> Self {
        Self(std::array::from_fn(|i| i16::from_le_bytes([from[2 * i], from[2 * i + 1]])))
    }
    /// Four times the same two values, the first one in the low half of `pair`.
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat_pair(pair: i32) -> Self {
        Self(std::array::from_fn(|i| (pair >> (16 * (i % 2))) as i16))
    }
    #[inline(always)]
    pub(in crate::backend::cpu) fn splat(value: i16) -> Self { Self([value; 8]) }
    #[inline(always)]
    pub(in crate::backend::cpu) fn and(self, mask: Self) -> Self { Self(zip(self.0, mask.0, |a, b| a & b)) }
    /// Shift left.
    #[inline(always)]
    pub(in crate::backend::cpu) fn shl<const N: u32>(self) -> Self { Self(self.0.map(|v| v << N)) }
    /// Shift right, filling with the sign.
    #[inline(always)]
    pub(in crate::backend::cpu) fn sar<const N: u32>(self) -> Self { Self(self.0.map(|v| v >> N)) }
    /// Shift right, filling with zeros.
    #[inline(always)]
    pub(in crate::backend::cpu) fn shr<const N: u32>(self) -> Self {
        Self(self.0.map(|v| ((v as u16) >> N) as i16))
    }
    /// Products of lanes, neighbours added: `a0 b0 + a1 b1, a2 b2 + a3 b3, …`.
    #[inline(always)]
    pub(in crate::backend::cpu) fn dot(self, other: Self) -> I32x4 {
        let product = |i: usize| i32::from(self.0[i]) * i32::from(other.0[i]);
        I32x4(std::array::from_fn(|i| product(2 * i).wrapping_add(product(2 * i + 1))))
    }
}

macro_rules! lanewise {
    ($trait:ident, $name:ident, $type:ident, $op:expr) => {
        impl $trait for $type {
            type Output = $type;
            #[inline(always)]
            fn $name(self, other: $type) -> $type {
                $type(zip(self.0, other.0, $op))
            }
        }
    };
}

lanewise!(Add, add, F32x4, |a, b| a + b);
lanewise!(Sub, sub, F32x4, |a, b| a - b);
lanewise!(Mul, mul, F32x4, |a, b| a * b);
lanewise!(Div, div, F32x4, |a, b| a / b);
lanewise!(Add, add, I32x4, i32::wrapping_add);
