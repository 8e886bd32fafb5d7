//! Composites against f64 oracles, over the shapes and conditions that hurt.

use layerwise::{Bindings, Context, Recorder, Shape, Value, linalg};
use libtest_mimic::Failed;

use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close_to_largest};
use crate::oracle::{Mat, data, inverse, matmul, orthonormal_rows, random};

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(items: &[Mat]) -> Vec<f32> {
    items.iter().flat_map(|m| m.data.iter().map(|&x| x as f32)).collect()
}

/// The items as the device sees them: rounded to f32.
fn seen(items: &[Mat]) -> Vec<Mat> {
    let values: Vec<f64> = narrow(items).into_iter().map(f64::from).collect();
    let size = items[0].data.len();
    values.chunks(size).map(|data| Mat { data: data.to_vec(), ..items[0] }).collect()
}

fn flat(items: &[Mat]) -> Vec<f64> {
    items.iter().flat_map(|m| m.data.clone()).collect()
}

/// Runs a composite on inputs and returns its value and `ok`.
fn run(
    ctx: &Context,
    inputs: &[&[Mat]],
    record: impl FnOnce(&mut Recorder, &[Value]) -> layerwise::Result<(Value, Value)>,
) -> Result<(Vec<f32>, Vec<f32>), Failed> {
    let (mut r, mut bindings, mut values) = (Recorder::new(), Bindings::new(), Vec::new());
    for (i, items) in inputs.iter().enumerate() {
        let shape = Shape::new(items.len(), items[0].rows, items[0].cols);
        let value = r.external(format!("input{i}"), shape)?;
        bindings.bind(value, &ctx.upload(shape, &narrow(items))?);
        values.push(value);
    }
    let (out, ok) = record(&mut r, &values)?;
    let plan = r.finish();
    let mut prepared = ctx.prepare(&plan, &bindings)?;
    prepared.run(&[0])?;
    let read = |v| prepared.tensor(v).ok_or("no tensor").map(|t| t.read());
    Ok((read(out)??, read(ok)??))
}

/// `u diag(d) u^T` with `d` log-spaced from 1 to 1 / condition.
fn spd(seed: u64, n: usize, condition: f64) -> Mat {
    let u = orthonormal_rows(&Mat { rows: n, cols: n, data: normal_like(seed, n * n) });
    let d = Mat::from_fn(n, n, |r, c| if r == c { condition.powf(-(r as f64) / (n.max(2) - 1) as f64) } else { 0.0 });
    matmul(&matmul(&u.t(), &d), &u)
}

/// Generic values: shifted sums of the test data, whose own exact zeros lie in a pattern.
fn normal_like(seed: u64, count: usize) -> Vec<f64> {
    let mut sum = vec![0.0; count];
    for shift in 0..6u8 {
        let values = data(1000 * u64::from(shift) + seed, count + usize::from(shift));
        sum.iter_mut().zip(&values[usize::from(shift)..]).for_each(|(s, &x)| *s += f64::from(x));
    }
    sum
}

const SIZES: [usize; 7] = [1, 2, 8, 31, 33, 67, 130];

fn spd_inverse(ctx: &Context) -> Outcome {
    for n in SIZES {
        for (condition, damping) in [(10.0, 0.0f32), (1e6, 1e-2)] {
            let a = [spd(1, n, condition), spd(2, n, condition)];
            let (got, ok) = run(ctx, &[&a], |r, v| linalg::spd_inverse(r, v[0], damping, None))?;
            let damped = |a: &Mat| inverse(&a.plus(f64::from(damping), &Mat::identity(n)));
            let want: Vec<Mat> = seen(&a).iter().map(damped).collect();
            let effective = if damping > 0.0 { 1.0 / f64::from(damping) } else { condition };
            let tol = Tol::relative(2.0 * Tol::triangular(n, effective).relative);
            close_to_largest(&got, &flat(&want), tol).map_err(|e| format!("n {n}, condition {condition}: {e}"))?;
            if ok != [1.0, 1.0] {
                return Err(format!("n {n}, condition {condition}: ok {ok:?}").into());
            }
        }
    }
    Ok(())
}

fn spd_solve(ctx: &Context) -> Outcome {
    for n in SIZES {
        for m in [1, 5, 70] {
            let (a, b) = ([spd(3, n, 100.0), spd(4, n, 100.0)], [random(5, m, n), random(6, m, n)]);
            // From the right: b (a + 0.01 I)^{-1}, through transposed views.
            let (got, ok) = run(ctx, &[&a, &b], |r, v| {
                let (x, ok) = linalg::spd_solve(r, v[0], v[1].t(), 0.01, None)?;
                let out = r.transpose(x)?;
                Ok((out, ok))
            })?;
            let solve = |(a, b): (&Mat, &Mat)| matmul(b, &inverse(&a.plus(f64::from(0.01f32), &Mat::identity(n))));
            let want: Vec<Mat> = seen(&a).iter().zip(&seen(&b)).map(solve).collect();
            let tol = Tol::relative(2.0 * Tol::triangular(n, 50.0).relative);
            close_to_largest(&got, &flat(&want), tol).map_err(|e| format!("n {n}, m {m}: {e}"))?;
            if ok != [1.0, 1.0] {
                return Err(format!("n {n}, m {m}: ok {ok:?}").into());
            }
        }
    }
    Ok(())
}

fn failed_pivot(ctx: &Context) -> Outcome {
    let n = 20;
    let mut indefinite = spd(7, n, 10.0);
    indefinite[(n - 1, n - 1)] = -1.0;
    let mut poisoned = spd(7, n, 10.0);
    poisoned[(3, 2)] = f64::NAN;
    poisoned[(2, 3)] = f64::NAN;
    let items = [indefinite, spd(8, n, 10.0), Mat::zeros(n, n), poisoned];
    let (got, ok) = run(ctx, &[&items], |r, v| linalg::spd_inverse(r, v[0], 0.0, None))?;
    if ok != [0.0, 1.0, 0.0, 0.0] {
        return Err(format!("ok {ok:?}").into());
    }
    let want = inverse(&seen(&items)[1]);
    close_to_largest(&got[n * n..2 * n * n], &want.data, Tol::relative(2.0 * Tol::triangular(n, 10.0).relative))?;
    Ok(())
}

/// Rows with singular values from 1 to 1 / condition.
fn rows(seed: u64, k: usize, d: usize, condition: f64) -> Mat {
    let v = orthonormal_rows(&Mat { rows: k, cols: d, data: normal_like(seed + 50, k * d) });
    let scaled = Mat::from_fn(k, d, |r, c| v[(r, c)] * condition.powf(-(r as f64) / (k.max(2) - 1) as f64));
    matmul(&orthonormal_rows(&Mat { rows: k, cols: k, data: normal_like(seed, k * k) }), &scaled)
}

fn orthonormalise(ctx: &Context) -> Outcome {
    for (k, d) in [(1, 1), (1, 9), (3, 3), (8, 100), (31, 67), (64, 300)] {
        for condition in [1.0, 1e2, 1e5] {
            let x = [rows(11, k, d, condition), rows(12, k, d, condition).map(|x| 1e3 * x)];
            let (got, ok) = run(ctx, &[&x], |r, v| linalg::orthonormalise(r, v[0]))?;
            if ok != [1.0, 1.0] {
                return Err(format!("[{k}, {d}], condition {condition}: ok {ok:?}").into());
            }
            let items = got.chunks(k * d).map(|q| Mat { rows: k, cols: d, data: q.iter().map(|&q| f64::from(q)).collect() });
            for (i, (q, x)) in items.zip(seen(&x)).enumerate() {
                let error = matmul(&q, &q.t()).plus(-1.0, &Mat::identity(k)).norm();
                if error > 1e-6 * (k as f64).sqrt() {
                    return Err(format!("[{k}, {d}], condition {condition}, item {i}: |q q^T - I| = {error:e}").into());
                }
                // The first row of q is the first row of x, normalised; all of q depends on x as its condition allows.
                let tol = Tol::relative(Tol::gemm(d).relative * condition * 4.0);
                let q: Vec<f32> = got[i * k * d..(i + 1) * k * d].to_vec();
                close_to_largest(&q, &orthonormal_rows(&x).data, tol).map_err(|e| format!("[{k}, {d}], condition {condition}: {e}"))?;
            }
        }
    }
    Ok(())
}

fn dependent_rows(ctx: &Context) -> Outcome {
    let good = rows(21, 4, 30, 3.0);
    let mut zero_row = good.clone();
    zero_row.data[30..60].fill(0.0);
    let mut poisoned = good.clone();
    poisoned.data[7] = f64::NAN;
    let (_, ok) = run(ctx, &[&[zero_row, good, poisoned]], |r, v| linalg::orthonormalise(r, v[0]))?;
    if ok == [0.0, 1.0, 0.0] { Ok(()) } else { Err(format!("ok {ok:?}").into()) }
}

/// `linalg::qr` at any scale, up to n = 1024: orthonormal columns, an upper triangular `q^T a`; nothing for what is not finite.
fn any_qr(ctx: &Context) -> Outcome {
    for (n, scale) in [(1, 1e-30), (7, 1e30), (33, 1e-36), (64, 1e20), (129, 1.0), (1024, 1e-10)] {
        // A device may take subnormal elements for zero.
        let normal = |x: f64| if x.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { x };
        let items = seen(&[random(n as u64, n, n).plus(0.1, &Mat::identity(n)).map(|x| normal(scale * x))]);
        let (q, ok) = run(ctx, &[&items], |r, v| linalg::qr(r, v[0]))?;
        close_to_largest(&ok, &[1.0], Tol::EXACT)?;
        let q = Mat { rows: n, cols: n, data: q.into_iter().map(f64::from).collect() };
        let defect = matmul(&q.t(), &q).plus(-1.0, &Mat::identity(n)).data.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let r = matmul(&q.t(), &items[0]);
        let below = Mat::from_fn(n, n, |i, j| if j < i { r[(i, j)] } else { 0.0 }).norm() / r.norm();
        if !(defect < 3e-6 && below < 2e-6 && (0..n).all(|i| r[(i, i)] > 0.0)) {
            return Err(format!("{n}, {scale:e}: defect {defect:e}, below the diagonal {below:e}").into());
        }
    }
    let bad =
        [f64::NAN, f64::INFINITY, 0.0].map(|x| Mat::from_fn(5, 5, |r, c| if (r, c) == (3, 1) { x } else { f64::from(u8::from(r == c)) }));
    let (_, ok) = run(ctx, &[&bad], |r, v| linalg::qr(r, v[0]))?;
    close_to_largest(&ok, &[0.0, 0.0, 1.0], Tol::EXACT)?;
    let (q, ok) = run(ctx, &[&[Mat::zeros(4, 4)]], |r, v| linalg::qr(r, v[0]))?;
    close_to_largest(&ok, &[1.0], Tol::EXACT)?;
    close_to_largest(&q, &Mat::identity(4).data, Tol::EXACT)?;
    Ok(())
}

/// Against the normal equations in f64, with right-hand sides inside and outside the range of `a`; a dependent column is told.
fn least_squares(ctx: &Context) -> Outcome {
    for (m, n, k) in [(1, 1, 1), (7, 1, 2), (8, 8, 1), (33, 17, 5), (200, 67, 3)] {
        for condition in [1.0, 1e3] {
            let make = |seed: u64| {
                let columns = Mat { rows: n, cols: m, data: normal_like(seed, m * n) };
                matmul(&orthonormal_rows(&columns).t(), &spd(seed + 7, n, condition))
            };
            let a = [make(3), make(4)];
            let b: Vec<Mat> =
                a.iter().map(|a| matmul(a, &Mat { rows: n, cols: k, data: normal_like(5, n * k) }).plus(0.01, &random(6, m, k))).collect();
            let (got, ok) = run(ctx, &[&a, &b], |r, v| linalg::least_squares(r, v[0], v[1]))?;
            let exact = |(a, b): (&Mat, &Mat)| matmul(&inverse(&matmul(&a.t(), a)), &matmul(&a.t(), b));
            let want: Vec<Mat> = seen(&a).iter().zip(&seen(&b)).map(exact).collect();
            let tol = Tol::relative(2e-6 * (n as f64).sqrt() * condition);
            close_to_largest(&got, &flat(&want), tol).map_err(|e| format!("[{m}, {n}], condition {condition}: {e}"))?;
            if ok != [1.0; 2] {
                return Err(format!("[{m}, {n}], condition {condition}: ok {ok:?}").into());
            }
        }
    }
    let mut dependent = random(8, 20, 4);
    (0..20).for_each(|r| dependent[(r, 2)] = 0.0);
    let (_, ok) = run(ctx, &[&[dependent], &[random(9, 20, 1)]], |r, v| linalg::least_squares(r, v[0], v[1]))?;
    if ok == [0.0] { Ok(()) } else { Err(format!("a zero column: ok {ok:?}").into()) }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("linalg::spd_inverse", spd_inverse),
        case("linalg::spd_solve", spd_solve),
        case("linalg::failed_pivot", failed_pivot),
        case("linalg::orthonormalise", orthonormalise),
        case("linalg::dependent_rows", dependent_rows),
        case("linalg::qr", any_qr),
        case("linalg::least_squares", least_squares),
    ]
}
