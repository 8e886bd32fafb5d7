//! `inverse_root`: every stored file and generated ones, both ridges, both routes.

use layerwise::linalg::{InverseRootOptions, Method, Ridge, inverse_root};
use layerwise::{Coef, Context, Error, Recorder, Shape};

use super::{error, files, named, narrow, run, seen, tensors};
use crate::case::{Case, Outcome, case, case_host};
use crate::oracle::{Mat, eigh, matmul, orthonormal_rows, random};

pub(super) const METHODS: [Method; 2] = [Method::Eigen, Method::Newton];
pub(super) const RIDGES: [f32; 2] = [1e-3, 1e-6];
/// Unit roundoff.
const U: f64 = 1.0 / 16_777_216.0;

/// The contract: `4 u kappa / p`, and no less than 16 u, the roundings of the last products. For p = 4 that is below 6e-5 and 6e-2 at these ridges;
/// products alone reach 2e-5 and 2e-2 up to n = 256.
pub(super) fn contract(kappa: f64, p: u32) -> f64 {
    (4.0 * U * kappa / f64::from(p)).max(16.0 * U)
}

/// The bounds for p = 4 that do not depend on the condition.
fn fourth_root(method: Method, n: usize, p: u32, ridge: f32) -> f64 {
    match (p, method == Method::Newton && n <= 256, ridge > 1e-4) {
        (4, true, true) => 2e-5,
        (4, true, false) => 2e-2,
        (4, false, true) => 6e-5,
        (4, false, false) => 6e-2,
        _ => f64::INFINITY,
    }
}

fn options(method: Method, ridge: Ridge) -> InverseRootOptions {
    InverseRootOptions { method, ridge, ..InverseRootOptions::default() }
}

/// `Q diag((max(lambda, 0) + ridge)^(-1/p)) Q^T`.
pub(super) fn reference(lambda: &[f64], q: &Mat, ridge: f64, p: u32) -> Mat {
    let scaled = Mat::from_fn(q.rows, q.rows, |r, c| q[(r, c)] * (lambda[c].max(0.0) + ridge).powf(-1.0 / f64::from(p)));
    matmul(&scaled, &q.t())
}

/// A matrix with its f64 eigendecomposition.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) a: Mat,
    pub(super) lambda: Vec<f64>,
    pub(super) q: Mat,
}

impl Known {
    fn top(&self) -> f64 {
        self.lambda.iter().copied().fold(0.0, f64::max)
    }

    fn kappa(&self, ridge: f64) -> f64 {
        let bottom = self.lambda.iter().copied().fold(f64::INFINITY, f64::min).max(0.0);
        (self.top() + ridge) / (bottom + ridge)
    }
}

/// Roots of a batch of one order within the contract; `times` scales the matrices, by a power of two.
pub(super) fn within(ctx: &Context, items: &[Known], p: u32, ridge: f32, method: Method, times: f64) -> Outcome {
    let a: Vec<Mat> = items.iter().map(|k| k.a.map(|x| x * times)).collect();
    let relative = Ridge::Relative(Coef::Const(ridge));
    let results = run(ctx, &a, |r, a| inverse_root(r, a, p, &options(method, relative)).map(|(root, ok)| vec![root, ok]))?;
    for (known, (root, ok)) in items.iter().zip(results[0].iter().zip(&results[1])) {
        let absolute = f64::from(ridge) * known.top();
        let want = reference(&known.lambda, &known.q, absolute, p).map(|x| x * times.powf(-1.0 / f64::from(p)));
        let (e, bound) = (error(root, &want), contract(known.kappa(absolute), p).min(fourth_root(method, known.a.rows, p, ridge)));
        if e > bound || ok.data[0] != 1.0 {
            return Err(
                format!("{} p {p} ridge {ridge:e} {method:?}: error {e:.2e}, allowed {bound:.2e}, ok {}", known.name, ok.data[0]).into()
            );
        }
    }
    Ok(())
}

fn stored(prefix: &str) -> Result<Vec<Known>, libtest_mimic::Failed> {
    files(prefix)?
        .into_iter()
        .map(|name| {
            let list = tensors(&name)?;
            let (a, lambda, q) = (named(&list, "A")?.clone(), named(&list, "lambda")?.data.clone(), named(&list, "Q")?.clone());
            let known = Known { name, a, lambda, q };
            // The stored roots are those of the stored eigenpairs: the reference above is the file's.
            for (key, p) in [("inv", 1), ("invsqrt", 2), ("invquarter", 4)] {
                for (suffix, ridge) in [("r0.001", 1e-3), ("r1e-06", 1e-6)] {
                    let want = named(&list, &format!("{key}_{suffix}"))?;
                    let e = error(&reference(&known.lambda, &known.q, ridge * known.top(), p), want);
                    if e > 1e-9 {
                        return Err(format!("{}: {key}_{suffix} differs from its eigenpairs by {e:e}", known.name).into());
                    }
                }
            }
            Ok(known)
        })
        .collect()
}

fn golden(ctx: &Context, method: Method) -> Outcome {
    for n in [1, 2, 3, 8, 17] {
        let items = stored(&format!("spd_{n}_"))?;
        for ridge in RIDGES {
            for p in if n == 17 { 1..=8 } else { 1..=4 } {
                within(ctx, &items, p, ridge, method, 1.0)?;
            }
        }
    }
    Ok(())
}

/// Scaling by a power of two changes nothing but the scale.
fn scales(ctx: &Context) -> Outcome {
    let items = stored("spd_8_")?;
    for method in METHODS {
        for (p, exponent) in [(1, 100), (2, -100), (4, 96), (4, -96), (3, 60)] {
            within(ctx, &items, p, 1e-3, method, 2f64.powi(exponent))?;
        }
    }
    Ok(())
}

/// The absolute ridge, from a constant and from a block's column.
fn absolute(ctx: &Context) -> Outcome {
    let items = stored("spd_17_")?;
    for method in METHODS {
        for column in [false, true] {
            let a: Vec<Mat> = items.iter().map(|k| k.a.clone()).collect();
            let results = run(ctx, &a, |r, a| {
                let (coef, block) = if column {
                    // Each item's trace: a ridge that differs from item to item.
                    let trace = r.reduce(layerwise::plan::ReduceKind::Trace, 1.0, a)?;
                    (Coef::Column { column: 0, scale: 1e-3 }, Some(trace))
                } else {
                    (Coef::Const(2e-3), None)
                };
                let options = InverseRootOptions { block, ..options(method, Ridge::Absolute(coef)) };
                inverse_root(r, a, 4, &options).map(|(root, ok)| vec![root, ok])
            })?;
            for (known, (root, ok)) in items.iter().zip(results[0].iter().zip(&results[1])) {
                let trace: f64 = (0..17).map(|i| known.a[(i, i)]).sum();
                let ridge = if column { 1e-3 * trace } else { f64::from(2e-3f32) };
                let (e, bound) = (error(root, &reference(&known.lambda, &known.q, ridge, 4)), contract(known.kappa(ridge), 4));
                if e > bound || ok.data[0] != 1.0 {
                    return Err(format!(
                        "{} {method:?}, column {column}: error {e:.2e}, allowed {bound:.2e}, ok {:?}",
                        known.name, ok.data
                    )
                    .into());
                }
            }
        }
    }
    Ok(())
}

/// Eigenvalue i of n of a spectrum that hurts.
pub(super) fn eigenvalue(kind: &str, n: usize, i: usize) -> f64 {
    let first_half = 2 * i < n;
    match kind {
        "cond1e3" => 1e-3f64.powf(i as f64 / (n - 1) as f64),
        "cond1e8" => 1e-8f64.powf(i as f64 / (n - 1) as f64),
        "rank_deficient" => f64::from(u8::from(first_half)) / (1.0 + i as f64),
        "clustered" if first_half => 1.0 + 1e-4 * i as f64 / n as f64,
        "clustered" => 1e-6,
        "repeated" => [1.0, 0.5, 0.25][i % 3],
        _ => 1.0 + i as f64 / n as f64,
    }
}

/// Factor of row and column i.
pub(super) fn grade(kind: &str, n: usize, i: usize) -> f64 {
    if kind == "graded" { 1e-3f64.powf(i as f64 / n as f64) } else { 1.0 }
}

/// At orders beyond one workgroup.
fn generated(n: usize, kinds: &[&str]) -> Vec<Known> {
    let q = orthonormal_rows(&random(n as u64, n, n).plus(0.3, &Mat::identity(n)));
    let make = |kind: &&str| {
        let scaled = Mat::from_fn(n, n, |r, c| q[(r, c)] * eigenvalue(kind, n, r));
        let product = matmul(&q.t(), &scaled);
        let a = seen(&Mat::from_fn(n, n, |r, c| product[(r.max(c), r.min(c))] * grade(kind, n, r) * grade(kind, n, c)));
        let (lambda, q) = eigh(&a);
        Known { name: format!("{n}_{kind}"), a, lambda, q }
    };
    kinds.iter().map(make).collect()
}

fn larger(ctx: &Context, n: usize, kinds: &[&str], methods: &[Method]) -> Outcome {
    let items = generated(n, kinds);
    for &method in methods {
        for ridge in RIDGES {
            for p in [1, 2, 4] {
                within(ctx, &items, p, ridge, method, 1.0)?;
            }
        }
    }
    Ok(())
}

const KINDS: [&str; 6] = ["cond1e3", "cond1e8", "rank_deficient", "clustered", "repeated", "graded"];

/// Refused or finite, never more; what is clearly bad is refused.
fn bad_inputs(ctx: &Context) -> Outcome {
    for (name, a) in tensors("bad_inputs_8x8.safetensors")? {
        for method in METHODS {
            for p in [1, 2, 4] {
                for ridge in [Ridge::Relative(Coef::Const(1e-6)), Ridge::Absolute(Coef::Const(1e-3)), Ridge::Relative(Coef::Const(0.0))] {
                    let results = run(ctx, std::slice::from_ref(&a), |r, a| {
                        inverse_root(r, a, p, &options(method, ridge)).map(|(x, ok)| vec![x, ok])
                    })?;
                    let (ok, finite) = (results[1][0].data[0], results[0][0].data.iter().all(|x| x.is_finite()));
                    let what = format!("{name} {method:?} p {p} {ridge:?}: ok {ok}, finite {finite}");
                    if ok != 0.0 && (ok != 1.0 || !finite) {
                        return Err(what.into());
                    }
                    let relative = matches!(ridge, Ridge::Relative(_));
                    let hopeless = match name.as_str() {
                        "nan" | "inf" => true,
                        "zeros" => relative,
                        "indefinite" => method == Method::Newton,
                        _ => false,
                    };
                    let sound = matches!(name.as_str(), "huge_1e30" | "tiny_1e-30") && matches!(ridge, Ridge::Relative(Coef::Const(1e-6)));
                    if (hopeless && ok != 0.0) || (sound && ok != 1.0) {
                        return Err(what.into());
                    }
                }
            }
        }
    }
    // A bad item does not disturb its neighbours.
    let good = named(&tensors("spd_8_cond1e3.safetensors")?, "A")?.clone();
    let bad = good.map(|_| f64::NAN);
    let root = |items: &[Mat]| run(ctx, items, |r, a| inverse_root(r, a, 4, &options(Method::Newton, RELATIVE)).map(|(x, ok)| vec![x, ok]));
    let (mixed, alone) = (root(&[bad, good.clone()])?, root(&[good])?);
    if mixed[0][1] != alone[0][0] || mixed[1][0].data != [0.0] || mixed[1][1].data != [1.0] {
        return Err("a bad item changes its neighbour".into());
    }
    Ok(())
}

const RELATIVE: Ridge = Ridge::Relative(Coef::Const(1e-6));

/// Items that leave early change no bit of the others, and get none of theirs.
fn alone_equals_batch(ctx: &Context) -> Outcome {
    for (n, methods) in [(17, &METHODS[..]), (64, &METHODS[1..])] {
        let items: Vec<Mat> = if n == 17 {
            stored("spd_17_")?.into_iter().map(|k| k.a).collect()
        } else {
            generated(n, &["graded", "repeated"]).into_iter().map(|k| k.a).chain([Mat::identity(n)]).collect()
        };
        for &method in methods {
            let root = |items: &[Mat]| run(ctx, items, |r, a| inverse_root(r, a, 2, &options(method, RELATIVE)).map(|(x, _)| vec![x]));
            let batch = root(&items)?;
            for (i, item) in items.iter().enumerate() {
                if root(std::slice::from_ref(item))?[0][0] != batch[0][i] {
                    return Err(format!("n {n}, {method:?}: item {i} differs alone").into());
                }
            }
        }
    }
    Ok(())
}

/// The comparison fails where it should: a corrupted matrix, a wrong exponent, a wrong ridge.
fn catches_faults(ctx: &Context) -> Outcome {
    type Fault = fn(&mut Known);
    let faults: [(&str, Fault); 3] = [
        ("one element", |k| {
            k.a[(3, 4)] += 0.05;
            k.a[(4, 3)] += 0.05;
        }),
        ("one eigenvalue", |k| k.lambda[2] *= 1.5),
        ("one vector", |k| k.q[(2, 5)] += 1e-2),
    ];
    for (what, fault) in faults {
        let mut items = stored("spd_17_cond1e3")?;
        fault(&mut items[0]);
        for method in METHODS {
            if within(ctx, &items, 4, 1e-3, method, 1.0).is_ok() {
                return Err(format!("accepted {what} changed ({method:?})").into());
            }
        }
    }
    let items = stored("spd_17_cond1e3")?;
    let a = [items[0].a.clone()];
    let root = run(ctx, &a, |r, a| inverse_root(r, a, 2, &options(Method::Auto, RELATIVE)).map(|(x, _)| vec![x]))?;
    let ridge = 1e-6 * items[0].top();
    if error(&root[0][0], &reference(&items[0].lambda, &items[0].q, ridge, 4)) < contract(items[0].kappa(ridge), 4) {
        return Err("accepted -1/2 for -1/4".into());
    }
    Ok(())
}

fn configuration() -> Outcome {
    let record = |p: u32, cols: usize, options: &InverseRootOptions| {
        let mut r = Recorder::new();
        let a = r.external("a", Shape::new(2, 4, cols))?;
        inverse_root(&mut r, a, p, options)
    };
    let default = InverseRootOptions::default();
    let negative = InverseRootOptions { ridge: Ridge::Absolute(Coef::Const(-1.0)), ..default };
    let none = InverseRootOptions { iterations: 0, ..default };
    for (p, options, field) in [(0, &default, "p"), (9, &default, "p"), (2, &negative, "ridge"), (2, &none, "iterations")] {
        match record(p, 4, options) {
            Err(Error::Config { field: found, .. }) if found == field => {}
            other => return Err(format!("p {p}, {field}: {other:?}").into()),
        }
    }
    if !matches!(record(2, 5, &default), Err(Error::Shape { .. })) {
        return Err("took a rectangle".into());
    }
    if narrow(1e-6) != 1e-6f32 || !matches!(default.ridge, Ridge::Relative(Coef::Const(1e-6))) {
        return Err("the default ridge is not what the documentation says".into());
    }
    record(4, 4, &default)?;
    Ok(())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case("matrix_functions::golden_eigen", |ctx: &Context| golden(ctx, Method::Eigen)),
        case("matrix_functions::golden_newton", |ctx: &Context| golden(ctx, Method::Newton)),
        case("matrix_functions::scales", scales),
        case("matrix_functions::absolute_ridge", absolute),
        case("matrix_functions::order_64", |ctx: &Context| larger(ctx, 64, &KINDS, &METHODS)),
        case("matrix_functions::order_130", |ctx: &Context| larger(ctx, 130, &["rank_deficient", "clustered", "graded"], &METHODS)),
        case("matrix_functions::order_256_newton", |ctx: &Context| larger(ctx, 256, &KINDS[3..4], &METHODS[1..])),
        case("matrix_functions::bad_inputs", bad_inputs),
        case("matrix_functions::alone_equals_batch", alone_equals_batch),
        case("matrix_functions::catches_faults", catches_faults),
        case_host("matrix_functions::configuration", configuration),
    ]
}
