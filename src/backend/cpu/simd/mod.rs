//! Safe SIMD layer.
