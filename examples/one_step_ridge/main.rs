//! One step, then a ridge head: does the aligned spike help where it should, in test error?
//!
//! `cargo run --release --example one_step_ridge` fits ridge heads on the features before and after one step of SGD and of KFAC, sizes and dampings chosen on
//! validation samples, and compares their test errors with the floor of linear models. The settings are ours: those of arXiv 2502.01763 were not available.

#[path = "part.rs"]
mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::RidgeStudy>()
}
