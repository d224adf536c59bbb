//! Parity of the backends: every op, format and odd shape against a naive f64 interpreter, and the fast kernels
//! against the exact ones. All inputs come from seeds that a failing test prints.
#![cfg(not(target_arch = "wasm32"))]

#[cfg(feature = "gpu")]
mod choose;
mod cpu_exact;
mod cpu_fast;
mod elementwise;
#[cfg(feature = "gpu")]
mod gpu;
mod kv_cache;
mod layers;
mod moe;
mod naive;
mod naive_moe;
mod naive_recurrent;
#[cfg(feature = "gpu")]
mod pages;
mod recurrent;
mod streams;
mod support;
mod windows;
