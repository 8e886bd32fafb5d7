//! `qr`, `sort_columns`.

use layerwise::plan::{Qr, SortColumns};
use layerwise::{Context, Shape};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, matmul, orthonormal_rows, random};

pub(super) const ROWS: &[Row] = &[
    ("qr", "well_conditioned", well_conditioned),
    ("qr", "deficient", deficient),
    ("qr", "graded", graded),
    ("qr", "views", |context| {
        [9, 70].iter().try_for_each(|&n| {
            [Layout::Inside, Layout::InsideTransposed].iter().try_for_each(|&l| factor(context, &distinct(n, 2), l, 1e-6))
        })
    }),
    ("qr", "many_items", |context| factor(context, &vec![random(3, 2, 2).plus(1.0, &Mat::identity(2)); 70_000], Layout::Dense, 1e-6)),
    ("qr", "large", |context| factor(context, &distinct(300, 1), Layout::Dense, 1e-6)),
    ("sort_columns", "shapes", sorted),
    ("sort_columns", "odd_keys", odd_keys),
    ("sort_columns", "views", |context| {
        [Layout::Inside, Layout::InsideTransposed, Layout::Transposed].iter().try_for_each(|&l| sort(context, 4, (67, 31), l))
    }),
];

fn distinct(n: usize, count: usize) -> Vec<Mat> {
    (0..count).map(|b| random((10 * n + b) as u64, n, n).plus(0.5, &Mat::identity(n))).collect()
}

fn well_conditioned(context: &Context) -> Outcome {
    for n in [1, 2, 3, 8, 17, 31, 32, 33, 63, 64, 65, 100, 127] {
        // Upper triangular to begin with, and far from it.
        let items = [Mat::identity(n).map(|x| -x), Mat::from_fn(n, n, |r, c| f64::from(u8::from(r + c == n - 1)))];
        factor(context, &[distinct(n, 2), items.to_vec()].concat(), Layout::Dense, 1e-6)?;
    }
    Ok(())
}

/// Zero, zero columns in front and amid, one direction alone, repeated columns: still an orthonormal basis that spans the columns.
fn deficient(context: &Context) -> Outcome {
    for n in [1, 2, 5, 32, 40, 70] {
        let full = random(n as u64, n, n).plus(0.5, &Mat::identity(n));
        let one = matmul(&random(1, n, 1), &random(2, 1, n));
        let first = Mat::from_fn(n, n, |r, c| if c < n / 2 { 0.0 } else { full[(r, c)] });
        let amid = Mat::from_fn(n, n, |r, c| if c % 3 == 1 { 0.0 } else { full[(r, c)] });
        let twice = Mat::from_fn(n, n, |r, c| full[(r, c / 2)]);
        factor(context, &[Mat::zeros(n, n), one, first, amid, twice], Layout::Dense, 2e-6)?;
    }
    Ok(())
}

/// Columns and rows of sizes from 1 down to 1e-30: what the basis of singular statistics is made of.
fn graded(context: &Context) -> Outcome {
    for n in [4, 33, 96] {
        let size = |i: usize| 10f64.powf(-30.0 * i as f64 / n as f64);
        let full = random(n as u64, n, n).plus(0.5, &Mat::identity(n));
        let columns = Mat::from_fn(n, n, |r, c| full[(r, c)] * size(c));
        let rows = Mat::from_fn(n, n, |r, c| full[(r, c)] * size(r));
        factor(context, &[columns.clone(), rows, columns.t(), full], Layout::Dense, 2e-6)?;
    }
    Ok(())
}

/// `q` is orthonormal; `q^T a` is upper triangular with a diagonal that is not negative; where that fixes `q`, it is the oracle's.
fn factor(context: &Context, items: &[Mat], layout: Layout, limit: f64) -> Outcome {
    let (count, n) = (items.len(), items[0].rows);
    let mut s = Stage::new(context, n);
    let a = s.given("a", count, items, layout)?;
    let q = s.output("q", [count, n, n], layout)?;
    let mut scratch = |rows: usize| s.recorder.scratch("scratch", Shape::new(count, rows, n));
    let (work, reflectors, product) = (scratch(n)?, scratch(2 * n)?, scratch(Qr::PANEL)?);
    s.recorder.record(Qr { a: a.view, q: q.view, work, reflectors, product })?;
    let done = s.run(1)?;
    let found = done.items(&q)?;
    for (b, a) in a.items.iter().enumerate().take(20) {
        let q = Mat { rows: n, cols: n, data: found[b * n * n..(b + 1) * n * n].iter().map(|&x| f64::from(x)).collect() };
        let gap = matmul(&q.t(), &q).plus(-1.0, &Mat::identity(n));
        let defect = gap.data.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let r = matmul(&q.t(), a);
        let size = a.norm().max(f64::MIN_POSITIVE);
        let below = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|at| r[at].abs() / size).fold(0.0, f64::max);
        let diagonal = (0..n).map(|i| r[(i, i)] / size).fold(f64::INFINITY, f64::min);
        if !(defect <= limit && below <= limit && diagonal >= -limit) {
            return Err(format!("{n} {layout:?} item {b}: defect {defect:e}, below the diagonal {below:e}, diagonal {diagonal:e}").into());
        }
        // Without a small pivot there is one answer.
        if (0..n).all(|i| r[(i, i)].abs() > 1e-2 * size / n as f64) {
            let error = orthonormal_rows(&a.t()).t().plus(-1.0, &q).norm() / (n as f64).sqrt();
            if error > 100.0 * n as f64 * limit {
                return Err(format!("{n} {layout:?} item {b}: {error:e} from the oracle").into());
            }
        }
    }
    done.expect_to_largest(&q, &a.items.iter().map(|_| Mat::zeros(n, n)).collect::<Vec<_>>(), Tol::absolute(1.001))
}

fn sorted(context: &Context) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| sort(context, batch(i), shape, Layout::Dense))
}

fn by_keys(keys: &Mat, x: &Mat) -> Mat {
    let mut order: Vec<usize> = (0..x.cols).collect();
    order.sort_by(|&a, &b| keys.data[b].partial_cmp(&keys.data[a]).unwrap_or(std::cmp::Ordering::Equal));
    Mat::from_fn(x.rows, x.cols, |r, c| x[(r, order[c])])
}

/// Keys with ties (there are zeros among them), from a diagonal and from a row.
fn sort(context: &Context, count: usize, (m, n): (usize, usize), layout: Layout) -> Outcome {
    for diagonal in [false, true] {
        let mut s = Stage::new(context, m + n);
        let keys = s.operand("keys", if diagonal { [count, n, n] } else { [count, 1, n] }, layout)?;
        let x = s.operand("x", [count, m, n], layout)?;
        let out = s.output("out", [count, m, n], layout)?;
        let view = if diagonal { keys.view.diagonal()? } else { keys.view };
        s.recorder.record(SortColumns { keys: view, x: x.view, out: out.view })?;
        let row = |k: &Mat| Mat::from_fn(1, n, |_, c| k[(if diagonal { c } else { 0 }, c)]);
        let want: Vec<Mat> = keys.items.iter().zip(&x.items).map(|(k, x)| by_keys(&row(k), x)).collect();
        about(s.run(1)?.expect(&out, &want, Tol::EXACT), (m, n, layout, diagonal))?;
    }
    Ok(())
}

/// NaN of either sign above infinity; both zeros are one; the result is a permutation whatever the keys.
fn odd_keys(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 1);
    let data = vec![0.0, f64::NAN, -0.0, f64::INFINITY, -1.0, f64::NEG_INFINITY, -f64::NAN, 2.0, 0.0];
    let keys = s.given("keys", 1, &[Mat { rows: 1, cols: 9, data }], Layout::Dense)?;
    let x = s.given("x", 1, &[Mat::from_fn(2, 9, |r, c| (10 * r + c) as f64)], Layout::Dense)?;
    let out = s.output("out", [1, 2, 9], Layout::Dense)?;
    s.recorder.record(SortColumns { keys: keys.view, x: x.view, out: out.view })?;
    let order = [1.0, 6.0, 3.0, 7.0, 0.0, 2.0, 8.0, 4.0, 5.0];
    s.run(1)?.expect(&out, &[Mat::from_fn(2, 9, |r, c| 10.0 * r as f64 + order[c])], Tol::EXACT)
}
