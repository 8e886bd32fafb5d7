//! How KFAC compares with the full natural gradient. See `part.rs` for what is run.
//!
//! `cargo run --release --example second_order` prints tables and writes data and plots; `--smoke` is a small form, `--check` holds the results against thresholds.

mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::SecondOrder>()
}
