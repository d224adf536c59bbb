//! The engine inside a dedicated worker: messages, storage, download and the actor that serves requests.
//!
//! Principal type: [`actor::EngineActor`]. The page side is the TypeScript in `pkg/`. Only this module and
//! `backend/gpu` may name wasm-bindgen.

pub mod actor;
pub mod answer;
pub mod blobs;
pub mod bundle;
mod crew;
mod database;
mod device;
pub mod fetch;
pub mod file;
pub mod files;
pub mod load;
mod measure;
pub mod origin;
mod patience;
mod pipeline;
pub mod pool;
pub mod protocol;
pub mod report;
pub mod request;
mod resolve;
mod serve;
pub mod shard;
pub mod store;
mod stored;
pub mod task;
mod upload;
mod watch;
