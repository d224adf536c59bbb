//! The engine inside a dedicated worker: messages, storage, download and the actor that serves requests.
//!
//! The page side is the TypeScript in `pkg/`. Only this module and `backend/gpu` may name wasm-bindgen.

pub mod fetch;
pub mod protocol;
pub mod store;
pub mod task;
