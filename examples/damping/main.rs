//! What damping, batch size, running averages and stale inverses do to KFAC. See `part.rs` for what is run.
//!
//! `cargo run --release --example damping` prints tables and writes data and plots; `--smoke` is a small form, `--check` holds the results against thresholds.

mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::DampingStudy>()
}
