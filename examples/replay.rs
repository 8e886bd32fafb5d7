//! Replays a gradient trace that was recorded elsewhere, to compare trajectories with another implementation.
//!
//! ```sh
//! cargo run --release --features serde --example replay -- --config examples/replay/shampoo.json \
//!     --input tests/golden/inputs/64x32.safetensors --output target/params.safetensors
//! ```
//!
//! - `--config`: an optimizer with its fields, `{"optimizer": "shampoo", "beta1": 0.9}`; missing fields have their documented defaults.
//! - `--input`: safetensors with `param0` `[m, n]` and `grads` `[T, m, n]`; for FOOF also `inputs` `[T, N, n]` (or `n - 1`: the last column is the
//!   bias), for KFAC and the natural gradient these and `output_gradients` `[T, N, m]`; for SOAP, optionally, `basis_left` `[m, m]` and `basis_right` `[n, n]`, which replace its own bases after
//!   the first step. F32, F64, F16 or BF16, computed in f32.
//! - `--output`: safetensors with `params` `[T, m, n]`, F32: the weight after each step. All settings, defaults included, are in its metadata.
//!
//! Prints one line. Whatever does not fit is an error that names the field or tensor.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

#[path = "replay/trace.rs"]
mod trace;

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Parser;

/// Replays a gradient trace.
#[derive(Parser)]
struct Arguments {
    /// JSON: the optimizer and its fields.
    #[arg(long)]
    config: PathBuf,
    /// Safetensors: `param0` and `grads`.
    #[arg(long)]
    input: PathBuf,
    /// Safetensors to write: `params`.
    #[arg(long)]
    output: PathBuf,
    /// `cpu`, `gpu`, `auto` (a real GPU if there is one), or part of an adapter's name.
    #[arg(long, default_value = "auto")]
    device: String,
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let arguments = Arguments::parse();
    let context = layerwise::Context::named(&arguments.device)?;
    let config = String::from_utf8(read(&arguments.config)?)?;
    let method = trace::parse(&config).map_err(|error| format!("{}: {error}", arguments.config.display()))?;
    let input = read(&arguments.input)?;
    let replayed = trace::replay(&context, method, &input).map_err(|error| format!("{}: {error}", arguments.input.display()))?;
    if let Some(folder) = arguments.output.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&arguments.output, replayed.encode()?).map_err(|error| format!("{}: {error}", arguments.output.display()))?;
    println!("{}: {}", context.describe(), replayed.summary()?);
    Ok(())
}
