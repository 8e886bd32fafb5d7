//! How much anisotropy of inputs and targets costs each method. See `part.rs` for what is run.
//!
//! `cargo run --release --example anisotropy` prints tables and writes data and plots; `--smoke` is a small form, `--check` holds the results against thresholds.

mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::Anisotropy>()
}
