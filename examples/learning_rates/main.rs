//! How sensitive each method is to its learning rate and schedule. See `part.rs` for what is run.
//!
//! `cargo run --release --example learning_rates` prints tables and writes data and plots; `--smoke` is a small form, `--check` holds the results against thresholds.

mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::LearningRates>()
}
