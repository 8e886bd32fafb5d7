//! The GPU engine: plans on wgpu.
//!
//! [`kernels`] is the table of shaders, `lowering` turns operations into dispatches (a pure function), `engine` gives them buffers and encodes them.

pub mod choice;
mod cooperative;
mod cost;
mod device;
mod engine;
mod facts;
mod joint;
pub mod kernels;
mod ladder;
mod lowering;
mod params;
mod quads;
mod split;
mod table;
mod tune;

pub use choice::{GemmTable, ShapeClass, variants};
pub use device::adapters;
pub(crate) use device::{Device, Wanted};
pub use engine::DispatchCount;
pub(crate) use engine::{Prepared, units};
pub use engine::{count, dispatches, scratch_bytes};
pub use facts::{Facts, experimental_features, required_features, required_limits};
pub use joint::Job;
pub use ladder::{GemmShape, GemmVariant, Rung};
pub use params::{NONE, Params, ViewParams};
pub use tune::disagreement;
