//! Every operation of `wasm` against its scalar twin, bit for bit, on ordinary and extreme values.

use super::{generic, wasm};
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_dedicated_worker);

const FLOATS: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    2.5,
    3.5,
    1e-40,
    -1e-38,
    65504.0,
    1e30,
    -3.4e38,
    88.0,
    -87.4,
    4_194_303.5,
    f32::INFINITY,
    f32::NEG_INFINITY,
];

/// All pairs of quadruples made of rotations of `values`.
fn quads<T: Copy>(values: &[T], visit: impl Fn([T; 4], [T; 4])) {
    for i in 0..values.len() {
        for j in 0..values.len() {
            let quad = |at: usize| std::array::from_fn(|k| values[(at + 3 * k) % values.len()]);
            visit(quad(i), quad(j));
        }
    }
}

/// The bits, all NaNs alike: engines may give any of them.
fn bits(values: [f32; 4]) -> [u32; 4] {
    values.map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() })
}

macro_rules! same_floats {
    ($a:ident, $b:ident, $op:expr) => {{
        let ours = {
            use wasm::F32x4;
            let (a, b) = (F32x4::load(&$a), F32x4::load(&$b));
            let op: fn(F32x4, F32x4) -> F32x4 = $op;
            op(a, b).to_array()
        };
        let twin = {
            use generic::F32x4;
            let (a, b) = (F32x4::load(&$a), F32x4::load(&$b));
            let op: fn(F32x4, F32x4) -> F32x4 = $op;
            op(a, b).to_array()
        };
        assert_eq!(bits(ours), bits(twin), "{} of {:?}, {:?}", stringify!($op), $a, $b);
    }};
}

#[wasm_bindgen_test]
fn float_operations_equal_their_twins() {
    quads(&FLOATS, |a, b| {
        same_floats!(a, b, |a, b| a + b);
        same_floats!(a, b, |a, b| a - b);
        same_floats!(a, b, |a, b| a * b);
        same_floats!(a, b, |a, b| a / b);
        same_floats!(a, b, |a, b| a.max(b));
        same_floats!(a, b, |a, b| a.min(b));
        same_floats!(a, b, |a, _| a.abs());
        same_floats!(a, b, |a, b| a.with_sign(b));
        same_floats!(a, b, |a, b| a.zero_where_below(b, a));
        same_floats!(a, b, |a, _| a.round());
        same_floats!(a, b, |a, _| F32x4::splat(a.sum()));
    });
    for n in -126..=127 {
        let n = [n as f32; 4];
        same_floats!(n, n, |n, _| n.exp2_of_integer());
    }
}

#[wasm_bindgen_test]
fn low_halves_equal_their_twins() {
    quads(&FLOATS, |a, b| {
        let (mut ours, mut twin) = ([0; 4], [0; 4]);
        wasm::I32x4::low_halves(wasm::F32x4::load(&a), wasm::F32x4::load(&b)).store(&mut ours);
        generic::I32x4::low_halves(generic::F32x4::load(&a), generic::F32x4::load(&b)).store(&mut twin);
        assert_eq!(ours, twin, "{a:?}, {b:?}");
    });
}

#[wasm_bindgen_test]
fn half_floats_equal_their_twins_and_the_half_crate() {
    for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
        let four = [bits, bits ^ 0x8000, 0, bits];
        let f16 = wasm::F32x4::load_f16(&four).to_array();
        assert_eq!(f16.map(f32::to_bits), generic::F32x4::load_f16(&four).to_array().map(f32::to_bits));
        assert_eq!(f16[0].to_bits(), half::f16::from_bits(bits).to_f32().to_bits());
        let bf16 = wasm::F32x4::load_bf16(&four).to_array();
        assert_eq!(bf16.map(f32::to_bits), generic::F32x4::load_bf16(&four).to_array().map(f32::to_bits));
    }
}

#[wasm_bindgen_test]
fn integer_operations_equal_their_twins() {
    let values: [i32; 9] =
        [0, 1, -1, 0x7fff_7fff, i32::MIN, 0x8000_8000_u32 as i32, 0x1234_5678, -0x1234_5678, 0x00ff_ff00];
    quads(&values, |a, b| {
        let (a_bytes, b_bytes): ([u8; 16], [u8; 16]) = (bytemuck::cast(a), bytemuck::cast(b));
        macro_rules! dots {
            ($op:expr) => {{
                let ours = {
                    use wasm::{I16x8, I32x4};
                    let op: fn(I16x8, I16x8) -> I32x4 = $op;
                    op(I16x8::load_bytes(&a_bytes), I16x8::load_bytes(&b_bytes))
                };
                let twin = {
                    use generic::{I16x8, I32x4};
                    let op: fn(I16x8, I16x8) -> I32x4 = $op;
                    op(I16x8::load_bytes(&a_bytes), I16x8::load_bytes(&b_bytes))
                };
                assert_eq!(ours.to_array(), twin.to_array(), "{} of {a:x?}, {b:x?}", stringify!($op));
                let floats = (wasm::F32x4::from_i32(ours), generic::F32x4::from_i32(twin));
                assert_eq!(floats.0.to_array(), floats.1.to_array());
            }};
        }
        dots!(|a, b| a.dot(b));
        dots!(|a, b| a.dot(b) + b.dot(b));
        dots!(|a, b| I32x4::ZERO + a.and(I16x8::splat(15)).dot(b));
        dots!(|a, b| a.shl::<8>().dot(b.sar::<8>()));
        dots!(|a, b| a.shr::<4>().dot(b.shr::<12>()));
        dots!(|a, _| a.dot(I16x8::splat_pair(0x7fff_8001_u32 as i32)));
    });
}

#[wasm_bindgen_test]
fn stores_write_what_was_loaded() {
    let (floats, integers) = ([1.5, -0.0, f32::MAX, -3.0], [1, -2, i16::MAX, i16::MIN, 5, -6, 7, -8]);
    let (mut float_copies, mut integer_copies) = ([[0.0; 4]; 2], [[0; 8]; 2]);
    wasm::F32x4::load(&floats).store(&mut float_copies[0]);
    generic::F32x4::load(&floats).store(&mut float_copies[1]);
    wasm::I16x8::load(&integers).store(&mut integer_copies[0]);
    generic::I16x8::load(&integers).store(&mut integer_copies[1]);
    assert_eq!((float_copies, integer_copies), ([floats; 2], [integers; 2]));
}

#[wasm_bindgen_test]
fn zero_is_positive_zero() {
    assert_eq!(wasm::F32x4::ZERO.to_array().map(f32::to_bits), [0; 4]);
    assert_eq!(generic::F32x4::ZERO.to_array().map(f32::to_bits), [0; 4]);
    assert_eq!((wasm::I32x4::ZERO.to_array(), generic::I32x4::ZERO.to_array()), ([0; 4], [0; 4]));
}
