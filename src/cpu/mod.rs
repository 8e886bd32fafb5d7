//! The CPU path: the same plan, the same operations, on faer and rayon.
//!
//! Parallel over items; within an item an operation is sequential unless its size alone (never the batch) makes it worth splitting, and only where
//! that changes no bit. File names mirror `shaders/`.

mod cholesky;
mod control;
mod curvature;
mod elementwise;
pub(crate) mod engine;
mod gemm;
mod memory;
mod network;
mod qr;
mod random_fill;
mod reduce;
mod spectral;
mod thin;
mod update;
