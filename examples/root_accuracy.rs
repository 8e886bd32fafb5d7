//! The errors of matrix functions against f64: inverse roots, the exact polar factor, eigendecompositions, on the chosen device.
//!
//! ```sh
//! cargo run --release --example root_accuracy -- --device cpu
//! cargo run --release --example root_accuracy -- --folder tests/golden/matrix_functions --json table.json
//! cargo run --release --example root_accuracy -- --orders 64,256 --markdown    # the tables of docs/accuracy.md
//! ```
//!
//! Without `--folder` the matrices are a built-in family of spectra, `Q diag(lambda) Q^T` with a random orthogonal Q, rounded to f32. The reference is the
//! f64 eigendecomposition (for polar: singular value decomposition) of the rounded matrix, eigenvalues clamped at 0. What is allowed is the contract in
//! docs/accuracy.md. Polar factors are always of the built-in family.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use faer::{Mat, Side};
use layerwise::linalg::{InverseRootOptions, Method, PolarOptions, Ridge, eigh, inverse_root, polar};
use layerwise::plan::Order;
use layerwise::{Bindings, Coef, Context, Recorder, Shape, Value};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Measures the accuracy of matrix functions.
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
    /// `root`, `polar`, `eigh`.
    #[arg(long, value_delimiter = ',', default_values_t = ["root".to_owned(), "polar".to_owned(), "eigh".to_owned()])]
    functions: Vec<String>,
    /// Exponents p of `A^(-1/p)`.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    exponents: Vec<u32>,
    /// Ridges relative to the largest eigenvalue.
    #[arg(long, value_delimiter = ',', default_values_t = [1e-3, 1e-6])]
    ridges: Vec<f32>,
    /// Write the table here as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print the worst of each order as Markdown tables instead of every matrix.
    #[arg(long)]
    markdown: bool,
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

/// Results of a composite on the device.
fn run(
    context: &Context,
    shape: Shape,
    words: &[f32],
    record: impl FnOnce(&mut Recorder, Value) -> layerwise::Result<Vec<Value>>,
) -> layerwise::Result<Vec<Vec<f32>>> {
    let mut r = Recorder::new();
    let x = r.external("x", shape)?;
    let mut results = record(&mut r, x)?;
    for value in &mut results {
        // Views are made dense, to be read.
        *value = r.scale(1.0, *value)?;
    }
    let mut bindings = Bindings::new();
    bindings.bind(x, &context.upload(shape, words)?);
    let mut prepared = context.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    results.into_iter().map(|value| prepared.tensor(value).map_or(Ok(Vec::new()), |t| t.read())).collect()
}

fn matrix(rows: usize, cols: usize, words: &[f32]) -> Mat<f64> {
    Mat::from_fn(rows, cols, |r, c| f64::from(words[r * cols + c]))
}

/// One measured error.
struct Row {
    /// Function and settings: what shares a row of the Markdown table.
    class: String,
    matrix: String,
    n: usize,
    /// Condition; for polar factors the norm over the least singular value.
    kappa: f64,
    error: f64,
    allowed: f64,
    ok: bool,
}

/// Unit roundoff of f32.
const U: f64 = 1.0 / 16_777_216.0;

/// The contract of inverse roots.
fn allowed(method: Method, n: usize, p: u32, ridge: f32, kappa: f64) -> f64 {
    let general = (4.0 * U * kappa / f64::from(p)).max(16.0 * U);
    match (method, p, n) {
        (Method::Newton, 4, ..=256) if ridge >= 1e-3 => general.min(2e-5),
        (Method::Newton, 4, ..=256) if ridge >= 1e-6 => general.min(2e-2),
        _ => general,
    }
}

fn roots(context: &Context, arguments: &Arguments, case: &Case, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let n = case.n;
    let eigen = matrix(n, n, &case.a).self_adjoint_eigen(Side::Lower).map_err(|e| format!("{}: {e:?}", case.name))?;
    let lambda: Vec<f64> = eigen.S().column_vector().iter().map(|&x| x.max(0.0)).collect();
    let top = lambda.iter().copied().fold(0.0, f64::max);
    for (&p, &ridge) in arguments.exponents.iter().flat_map(|p| arguments.ridges.iter().map(move |ridge| (p, ridge))) {
        let damped = |i: usize| lambda[i] + f64::from(ridge) * top;
        let kappa = damped(n - 1) / damped(0);
        let scaled = Mat::from_fn(n, n, |r, c| eigen.U()[(r, c)] * damped(c).powf(-1.0 / f64::from(p)));
        let want = &scaled * eigen.U().transpose();
        for name in &arguments.methods {
            let method = match name.as_str() {
                "eigen" => Method::Eigen,
                "newton" => Method::Newton,
                other => return Err(format!("--methods {other}: eigen or newton").into()),
            };
            let options = InverseRootOptions { ridge: Ridge::Relative(Coef::Const(ridge)), method, ..InverseRootOptions::default() };
            let record = |r: &mut Recorder, a| inverse_root(r, a, p, &options).map(|(root, ok)| vec![root, ok]);
            let got = run(context, Shape::matrix(n, n), &case.a, record)?;
            let error = (matrix(n, n, &got[0]) - &want).norm_l2() / want.norm_l2();
            let (class, matrix) = (format!("root {name}, p {p}, ridge {ridge:e}"), case.name.clone());
            rows.push(Row { class, matrix, n, kappa, error, allowed: allowed(method, n, p, ridge, kappa), ok: got[1] == [1.0] });
        }
    }
    Ok(())
}

/// Errors of the values, the residual and the orthonormality, each relative to the matrix.
fn spectra(context: &Context, case: &Case, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let n = case.n;
    let a = matrix(n, n, &case.a);
    let want = a.self_adjoint_eigenvalues(Side::Lower).map_err(|e| format!("{}: {e:?}", case.name))?;
    let got = run(context, Shape::matrix(n, n), &case.a, |r, a| eigh(r, a, Order::Ascending).map(|(l, v, ok)| vec![l, v, ok]))?;
    let v = matrix(n, n, &got[1]);
    let scaled = Mat::from_fn(n, n, |r, c| v[(r, c)] * f64::from(got[0][c]));
    let top = want.iter().fold(0.0f64, |top, x| top.max(x.abs()));
    let off = got[0].iter().zip(&want).fold(0.0f64, |off, (x, y)| off.max((f64::from(*x) - y).abs())) / top;
    let residual = (&scaled * v.transpose() - &a).norm_l2() / a.norm_l2();
    let defect = (v.transpose() * &v - Mat::<f64>::identity(n, n)).norm_l2() / (n as f64).sqrt();
    let least = want.first().copied().unwrap_or(1.0);
    let kappa = if least > 0.0 { top / least } else { f64::INFINITY };
    for (class, error) in [("eigh values", off), ("eigh residual", residual), ("eigh orthonormality", defect)] {
        rows.push(Row { class: class.into(), matrix: case.name.clone(), n, kappa, error, allowed: f64::INFINITY, ok: got[2] == [1.0] });
    }
    Ok(())
}

/// `[2 n, n]` and `[n, n]` with `sigma_min / ||x||_F` of 1e-2 and 1e-3 (1 where there is one singular value): values on a logarithmic scale, and all but one equal.
fn polars(context: &Context, n: usize, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let mut rng = StdRng::seed_from_u64(11);
    for (m, ratio, spread) in [(n, 1e-2, true), (n, 1e-3, true), (2 * n, 1e-3, true), (n, 1e-3, false)] {
        let mut factor = |rows: usize| {
            let gauss = Mat::from_fn(rows, n, |_, _| (0..6).map(|_| rng.random_range(-1.0..1.0)).sum::<f64>());
            gauss.qr().compute_thin_Q()
        };
        let (left, right) = (factor(m), factor(n));
        // The least value decides the norm, which decides it: a fixed point.
        let (mut least, mut values) = (1.0f64, vec![1.0; n]);
        for _ in 0..100 {
            let value = |i: usize| if spread { least.powf(i as f64 / (n.max(2) - 1) as f64) } else { 1.0 };
            values = (0..n).map(|i| if n > 1 && i == n - 1 { least } else { value(i) }).collect::<Vec<f64>>();
            // A little above, since the matrix is rounded.
            least = (1.002 * ratio * values.iter().map(|x| x * x).sum::<f64>().sqrt()).min(1.0);
        }
        let exact = Mat::from_fn(m, n, |r, c| left[(r, c)] * values[c]) * right.transpose();
        let words: Vec<f32> = (0..m * n).map(|i| rounded(exact[(i / n, i % n)])).collect();
        let x = matrix(m, n, &words);
        let svd = x.thin_svd().map_err(|e| format!("[{m}, {n}]: {e:?}"))?;
        let want = svd.U() * svd.V().transpose();
        let got = run(context, Shape::matrix(m, n), &words, |r, x| Ok(vec![polar(r, x, &PolarOptions::exact())?]))?;
        let error = (matrix(m, n, &got[0]) - &want).norm_l2() / want.norm_l2();
        let kappa = x.norm_l2() / svd.S().column_vector()[n - 1];
        let class = format!("polar exact, least singular value {ratio:e}");
        let matrix = format!("{m}x{n}_{}", if spread { "log" } else { "one_small" });
        rows.push(Row { class, matrix, n, kappa, error, allowed: 3e-5, ok: true });
    }
    Ok(())
}

/// Classes down, orders across: the worst error, and its part of what is allowed.
fn markdown(rows: &[Row]) -> String {
    let mut orders: Vec<usize> = rows.iter().map(|r| r.n).collect();
    orders.sort_unstable();
    orders.dedup();
    let mut classes: Vec<&str> = Vec::new();
    rows.iter().for_each(|r| {
        if !classes.contains(&r.class.as_str()) {
            classes.push(&r.class)
        }
    });
    let mut text = format!("| n |{}\n|---|{}\n", orders.iter().map(|n| format!(" {n} |")).collect::<String>(), "---|".repeat(orders.len()));
    for class in classes {
        text += &format!("| {class} |");
        for &n in &orders {
            let of = rows.iter().filter(|r| r.class == class && r.n == n);
            let (error, part) = of.fold((0.0f64, 0.0f64), |(e, q), r| (e.max(r.error), q.max(r.error / r.allowed)));
            let part = if part > 0.0 { format!(" ({part:.2})") } else { String::new() };
            text += &format!(" {error:.1e}{part} |");
        }
        text.push('\n');
    }
    text
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let context = Context::named(&arguments.device)?;
    let cases = match &arguments.folder {
        Some(folder) => load(folder)?,
        None => family(&arguments.orders),
    };
    let mut rows = Vec::new();
    for function in &arguments.functions {
        match function.as_str() {
            "root" => cases.iter().try_for_each(|case| roots(&context, &arguments, case, &mut rows))?,
            "eigh" => cases.iter().try_for_each(|case| spectra(&context, case, &mut rows))?,
            "polar" => arguments.orders.iter().try_for_each(|&n| polars(&context, n, &mut rows))?,
            other => return Err(format!("--functions {other}: root, polar or eigh").into()),
        }
    }
    println!("{}", context.describe());
    if arguments.markdown {
        print!("{}", markdown(&rows));
    } else {
        println!("{:<24} {:<36} kappa    error     allowed   ok", "matrix", "function");
        for r in &rows {
            println!("{:<24} {:<36} {:<8.2e} {:<9.2e} {:<9.2e} {}", r.matrix, r.class, r.kappa, r.error, r.allowed, r.ok);
        }
    }
    if let Some(path) = &arguments.json {
        let row = |r: &Row| {
            serde_json::json!({
                "function": r.class, "matrix": r.matrix, "n": r.n, "kappa": r.kappa, "error": r.error, "allowed": r.allowed, "ok": r.ok,
            })
        };
        let table = serde_json::json!({ "device": context.describe(), "rows": rows.iter().map(row).collect::<Vec<_>>() });
        std::fs::write(path, serde_json::to_vec_pretty(&table)?)?;
    }
    let broken: Vec<&Row> = rows.iter().filter(|r| !(r.ok && r.error <= r.allowed)).collect();
    match broken.first() {
        Some(r) => {
            Err(format!("{} of {} outside the contract, {} {} first: {:e}", broken.len(), rows.len(), r.matrix, r.class, r.error).into())
        }
        None => Ok(()),
    }
}
