//! The contract at orders of hundreds. References come from a library's f64 decompositions, which are checked by their residuals before they count.

use faer::{Mat as Dense, Side};
use layerwise::Context;
use layerwise::linalg::{Method, PolarOptions, polar};
use libtest_mimic::Failed;

use super::roots::{Known, METHODS, RIDGES, eigenvalue, grade, within};
use super::{error, run, seen};
use crate::case::{Case, Outcome, case, case_cpu, case_host};
use crate::oracle::{Mat, random};

fn dense(m: &Mat) -> Dense<f64> {
    Dense::from_fn(m.rows, m.cols, |r, c| m[(r, c)])
}

fn plain(m: &Dense<f64>) -> Mat {
    Mat::from_fn(m.nrows(), m.ncols(), |r, c| m[(r, c)])
}

/// Columns of a random orthogonal matrix.
fn orthogonal(seed: u64, rows: usize, cols: usize) -> Dense<f64> {
    dense(&random(seed, rows, cols).plus(0.3, &Mat::from_fn(rows, cols, |r, c| f64::from(u8::from(r == c))))).qr().compute_thin_Q()
}

/// `left diag(values) right^T = a` with orthonormal columns, up to f64's rounding.
fn certify(a: &Dense<f64>, left: &Dense<f64>, values: &[f64], right: &Dense<f64>) -> Outcome {
    let scaled = Dense::from_fn(left.nrows(), values.len(), |r, c| left[(r, c)] * values[c]);
    let defect = |q: &Dense<f64>| (q.transpose() * q - Dense::<f64>::identity(q.ncols(), q.ncols())).norm_l2();
    let residual = (&scaled * right.transpose() - a).norm_l2() / a.norm_l2();
    let worst = residual.max(defect(left)).max(defect(right));
    if worst < 1e-11 { Ok(()) } else { Err(format!("the reference is no decomposition: {worst:e}").into()) }
}

fn known(n: usize, kind: &str) -> Result<Known, Failed> {
    let q = orthogonal(n as u64, n, n);
    let scaled = Dense::from_fn(n, n, |r, c| q[(r, c)] * eigenvalue(kind, n, c));
    let product = &scaled * q.transpose();
    let a = seen(&Mat::from_fn(n, n, |r, c| product[(r.max(c), r.min(c))] * grade(kind, n, r) * grade(kind, n, c)));
    let exact = dense(&a);
    let eigen = exact.self_adjoint_eigen(Side::Lower).map_err(|e| format!("{e:?}"))?;
    let (q, lambda) = (eigen.U().to_owned(), eigen.S().column_vector().iter().copied().collect::<Vec<f64>>());
    certify(&exact, &q, &lambda, &q)?;
    Ok(Known { name: format!("{n}_{kind}"), a, lambda, q: plain(&q) })
}

fn roots(ctx: &Context, n: usize, kinds: &[&str], exponents: &[u32], methods: &[Method]) -> Outcome {
    for kind in kinds {
        let item = [known(n, kind)?];
        for &method in methods {
            for ridge in RIDGES {
                exponents.iter().try_for_each(|&p| within(ctx, &item, p, ridge, method, 1.0))?;
            }
        }
    }
    Ok(())
}

/// Least singular value 1e-3 of the norm: on a logarithmic scale, and one small among equals.
fn polar_factors(ctx: &Context, shapes: &[(usize, usize)]) -> Outcome {
    for (i, &(m, n)) in shapes.iter().enumerate() {
        for spread in [true, false] {
            let k = m.min(n);
            let (left, right) = (orthogonal(3 + i as u64, m, k), orthogonal(7 + i as u64, n, k));
            let (mut least, mut values) = (1.0f64, vec![1.0; k]);
            // The least value decides the norm, which decides it: a fixed point, a little above the limit for the rounding to f32.
            for _ in 0..100 {
                let value = |i: usize| if spread { least.powf(i as f64 / (k - 1) as f64) } else { 1.0 };
                values = (0..k).map(|i| if i == k - 1 { least } else { value(i) }).collect();
                least = 1.002e-3 * values.iter().map(|x| x * x).sum::<f64>().sqrt();
            }
            let exact = Dense::from_fn(m, k, |r, c| left[(r, c)] * values[c]) * right.transpose();
            let x = seen(&plain(&exact));
            let (u, s, v) = {
                let svd = dense(&x).thin_svd().map_err(|e| format!("{e:?}"))?;
                (svd.U().to_owned(), svd.S().column_vector().iter().copied().collect::<Vec<f64>>(), svd.V().to_owned())
            };
            certify(&dense(&x), &u, &s, &v)?;
            let ratio = s[k - 1] / x.norm();
            if !(1e-3..1.01e-3).contains(&ratio) {
                return Err(format!("[{m}, {n}]: the least singular value is {ratio:e} of the norm").into());
            }
            let got = run(ctx, std::slice::from_ref(&x), |r, x| Ok(vec![polar(r, x, &PolarOptions::exact())?]))?;
            let e = error(&got[0][0], &plain(&(&u * v.transpose())));
            if e > 3e-5 {
                return Err(format!("[{m}, {n}], spread {spread}: error {e:.2e}").into());
            }
        }
    }
    Ok(())
}

/// A decomposition that is slightly wrong is refused.
fn certificate() -> Outcome {
    let mut item = known(40, "cond1e3")?;
    let check = |item: &Known| certify(&dense(&item.a), &dense(&item.q), &item.lambda, &dense(&item.q));
    check(&item)?;
    item.lambda[20] *= 1.0 + 1e-8;
    if check(&item).is_ok() {
        return Err("took a wrong eigenvalue".into());
    }
    item.lambda[20] /= 1.0 + 1e-8;
    item.q[(3, 4)] += 1e-9;
    if check(&item).is_ok() { Err("took a wrong vector".into()) } else { Ok(()) }
}

pub(super) fn cases() -> Vec<Case> {
    let (hard, all): (&[&str], &[u32]) = (&["rank_deficient", "clustered", "graded"], &[1, 2, 4]);
    vec![
        case_host("matrix_functions::certificate", certificate),
        case_cpu("matrix_functions::order_257", move |ctx: &Context| roots(ctx, 257, hard, &all[2..], &METHODS)),
        case_cpu("matrix_functions::order_512", move |ctx: &Context| roots(ctx, 512, hard, all, &METHODS)),
        case_cpu("matrix_functions::order_1024", move |ctx: &Context| roots(ctx, 1024, &hard[1..2], all, &METHODS)),
        case("polar::exact_hundreds", |ctx: &Context| polar_factors(ctx, &[(256, 100), (129, 257)])),
        case_cpu("polar::exact_512", |ctx: &Context| polar_factors(ctx, &[(512, 512), (300, 1024)])),
    ]
}
