//! The GPU engine: plans on wgpu.
//!
//! [`kernels`] is the table of shaders, `lowering` turns operations into dispatches (a pure function), `engine` gives them buffers and encodes them.

pub mod choice;
mod cost;
mod device;
mod engine;
mod facts;
mod joint;
pub mod kernels;
mod lowering;
mod params;

pub use choice::variants;
pub use device::adapters;
pub(crate) use device::{Device, Wanted};
pub use engine::DispatchCount;
pub(crate) use engine::{Prepared, units};
pub use engine::{count, dispatches};
pub use facts::{Facts, required_features, required_limits};
pub use joint::Job;
pub use params::{NONE, Params, ViewParams};
