//! Population dynamics: how many steps AMGD and KFAC need when no sampling noise is in the way, against covariance and head, beside the closed forms.
//!
//! `cargo run --release --example population` starts every problem with all of its error on the weakest mode, at distance 0.5, and counts the steps to 1e-3.

#[path = "part.rs"]
mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::PopulationStudy>()
}
