//! Single-index learning: how well one step aligns the first layer with the target, against closed-form predictions.
//!
//! `cargo run --release --example single_index` takes the first step of SGD, KFAC and others on every anisotropy, damping and seed as batched runs, and prints and
//! plots the alignment beside theory. The settings are ours: those of arXiv 2502.01763 were not available.

#[path = "part.rs"]
mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::SingleIndexStudy>()
}
