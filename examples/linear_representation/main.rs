//! Linear representation learning: `y = F_* G_* x + noise` with anisotropic inputs, trained by SGD, AMGD, Adam, KFAC and FOOF.
//!
//! `cargo run --release --example linear_representation` trains every learning rate, seed and anisotropy of each method as one batched run, prints a table
//! and writes a CSV file and SVG plots. The settings are ours: those of arXiv 2502.01763 were not available.

#[path = "part.rs"]
mod part;

fn main() -> std::process::ExitCode {
    kit::main::<part::LinearStudy>()
}
