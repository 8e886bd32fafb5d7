//! Handwritten digits: a two-layer network trained by every optimizer of the library, each with the same tuning budget.
//!
//! `cargo run --release --example digits` trains all learning rates and seeds of one optimizer as one batched run, selects a rate by validation loss, and writes
//! tables, CSV, learning curves and the learned first-layer features.

#[path = "part.rs"]
mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::Digits>()
}
