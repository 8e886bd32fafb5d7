//! The error of inverse roots against f64, by method, exponent, ridge and condition number, on the chosen device.
//!
//! ```sh
//! cargo run --release --example root_accuracy -- --device cpu
//! cargo run --release --example root_accuracy -- --folder tests/golden/matrix_functions --json table.json
//! ```
//!
//! Without `--folder` the matrices are a built-in family of spectra, `Q diag(lambda) Q^T` with a random orthogonal Q, rounded to f32. The reference is the
//! f64 eigendecomposition of the rounded matrix, eigenvalues clamped at 0. The contract is a relative Frobenius error of at most `4 u kappa / p`, and no less
//! than a few roundings.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use faer::{Mat, Side};
use layerwise::linalg::{InverseRootOptions, Method, Ridge, inverse_root};
use layerwise::{Bindings, Coef, Context, Recorder, Shape};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Measures the accuracy of inverse roots.
#[derive(Parser)]
struct Arguments {
    /// `cpu`, `gpu`, or part of an adapter's name.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// A folder of safetensors files with a symmetric f32 tensor `A` each; without it, a built-in family.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Orders of the built-in family.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 8, 17, 33, 64, 128])]
    orders: Vec<usize>,
    /// `eigen`, `newton`.
    #[arg(long, value_delimiter = ',', default_values_t = ["eigen".to_owned(), "newton".to_owned()])]
    methods: Vec<String>,
    /// Exponents p of `A^(-1/p)`.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    exponents: Vec<u32>,
    /// Ridges relative to the largest eigenvalue.
    #[arg(long, value_delimiter = ',', default_values_t = [1e-3, 1e-6])]
    ridges: Vec<f32>,
    /// Write the table here as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

struct Case {
    name: String,
    n: usize,
    a: Vec<f32>,
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn rounded(x: f64) -> f32 {
    x as f32
}

/// Spectra that hurt: conditions, a rank deficit, clusters, one dominant eigenvalue, and rows graded by 1e3.
fn family(orders: &[usize]) -> Vec<Case> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut cases = Vec::new();
    for &n in orders {
        let gauss = Mat::from_fn(n, n, |_, _| (0..6).map(|_| rng.random_range(-1.0..1.0)).sum::<f64>());
        let q = gauss.qr().compute_Q();
        for kind in ["cond1", "cond1e3", "cond1e6", "rank_deficient", "clustered", "spiked", "graded"] {
            let lambda = |i: usize| {
                let position = i as f64 / (n.max(2) - 1) as f64;
                match kind {
                    "cond1" => 1.0,
                    "cond1e3" => 1e-3f64.powf(position),
                    "cond1e6" => 1e-6f64.powf(position),
                    "rank_deficient" => {
                        if 2 * i < n {
                            1.0 / (1.0 + i as f64)
                        } else {
                            0.0
                        }
                    }
                    "clustered" => {
                        if 2 * i < n {
                            1.0 + 1e-4 * position
                        } else {
                            1e-6
                        }
                    }
                    "spiked" => {
                        if i == 0 {
                            1.0
                        } else {
                            1e-4
                        }
                    }
                    _ => 1.0 + position,
                }
            };
            let scaled = Mat::from_fn(n, n, |r, c| q[(r, c)] * lambda(c));
            let product = &scaled * q.transpose();
            let grade = |i: usize| if kind == "graded" { 1e-3f64.powf(i as f64 / n as f64) } else { 1.0 };
            let a = (0..n * n).map(|i| rounded(0.5 * (product[(i / n, i % n)] + product[(i % n, i / n)]) * grade(i / n) * grade(i % n)));
            cases.push(Case { name: format!("{n}_{kind}"), n, a: a.collect() });
        }
    }
    cases
}

fn load(folder: &PathBuf) -> Result<Vec<Case>, Box<dyn Error>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path)?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
        let Ok(tensor) = tensors.tensor("A") else { continue };
        if tensor.dtype() != safetensors::Dtype::F32 || tensor.shape().len() != 2 || tensor.shape()[0] != tensor.shape()[1] {
            continue;
        }
        let a = tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        cases.push(Case { name, n: tensor.shape()[0], a });
    }
    cases.sort_by(|a, b| (a.n, &a.name).cmp(&(b.n, &b.name)));
    Ok(cases)
}

/// Root and `ok` on the device.
fn root(context: &Context, case: &Case, p: u32, ridge: f32, method: Method) -> layerwise::Result<(Vec<f32>, f32)> {
    let mut r = Recorder::new();
    let shape = Shape::matrix(case.n, case.n);
    let a = r.external("a", shape)?;
    let options = InverseRootOptions { ridge: Ridge::Relative(Coef::Const(ridge)), method, ..InverseRootOptions::default() };
    let (root, ok) = inverse_root(&mut r, a, p, &options)?;
    let mut bindings = Bindings::new();
    bindings.bind(a, &context.upload(shape, &case.a)?);
    let mut prepared = context.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    let read = |value| prepared.tensor(value).map_or(Ok(Vec::new()), |t| t.read());
    Ok((read(root)?, read(ok)?.first().copied().unwrap_or(0.0)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let context = match arguments.device.as_str() {
        "cpu" => Context::cpu(),
        #[cfg(feature = "gpu")]
        "gpu" => Context::gpu()?,
        #[cfg(feature = "gpu")]
        name => Context::gpu_named(name)?,
        #[cfg(not(feature = "gpu"))]
        name => return Err(format!("device {name} needs feature `gpu`").into()),
    };
    let cases = match &arguments.folder {
        Some(folder) => load(folder)?,
        None => family(&arguments.orders),
    };
    let mut rows = Vec::new();
    let mut lines = vec![format!("{}\n{:<24} p ridge   kappa    method  error     4 u kappa/p  ok", context.describe(), "matrix")];
    for case in &cases {
        let n = case.n;
        let exact = Mat::from_fn(n, n, |r, c| f64::from(case.a[r * n + c]));
        let eigen = exact.self_adjoint_eigen(Side::Lower).map_err(|e| format!("{}: {e:?}", case.name))?;
        let lambda: Vec<f64> = eigen.S().column_vector().iter().map(|&x| x.max(0.0)).collect();
        let top = lambda.iter().copied().fold(0.0, f64::max);
        for (&p, &ridge) in arguments.exponents.iter().flat_map(|p| arguments.ridges.iter().map(move |ridge| (p, ridge))) {
            let damped = |i: usize| lambda[i] + f64::from(ridge) * top;
            let kappa = damped(n - 1) / damped(0);
            let u = eigen.U();
            let scaled = Mat::from_fn(n, n, |r, c| u[(r, c)] * damped(c).powf(-1.0 / f64::from(p)));
            let want = &scaled * u.transpose();
            for name in &arguments.methods {
                let method = match name.as_str() {
                    "eigen" => Method::Eigen,
                    "newton" => Method::Newton,
                    other => return Err(format!("--methods {other}: eigen or newton").into()),
                };
                let (got, ok) = root(&context, case, p, ridge, method)?;
                let error = (0..n * n).map(|i| (f64::from(got[i]) - want[(i / n, i % n)]).powi(2)).sum::<f64>().sqrt() / want.norm_l2();
                let bound = 4.0 * 0.5f64.powi(24) * kappa / f64::from(p);
                lines.push(format!("{:<24} {p} {ridge:<7e} {kappa:<8.2e} {name:<7} {error:<9.2e} {bound:<12.2e} {ok}", case.name));
                rows.push(serde_json::json!({
                    "matrix": case.name, "n": n, "p": p, "ridge": ridge, "kappa": kappa, "method": name,
                    "error": error, "contract": bound, "ok": ok != 0.0,
                }));
            }
        }
    }
    println!("{}", lines.join("\n"));
    if let Some(path) = &arguments.json {
        let table = serde_json::json!({ "device": context.describe(), "rows": rows });
        std::fs::write(path, serde_json::to_vec_pretty(&table)?)?;
    }
    Ok(())
}
