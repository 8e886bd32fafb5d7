//! Whether batch-norm repairs what anisotropy does to SGD and Adam. See `part.rs` for what is run.
//!
//! `cargo run --release --example batch_norm` prints tables and writes data and plots; `--smoke` is a small form, `--check` holds the results against thresholds.

mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::BatchNorm>()
}
