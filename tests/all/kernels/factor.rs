//! `cholesky`, `solve_triangular`, `operator_norm`.

use layerwise::plan::{Cholesky, OPERATOR_NORM_MAX, OperatorNorm, SolveTriangular};
use layerwise::{Coef, Context};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::{Tol, close_to};
use crate::oracle::{Mat, cholesky, gram, matmul, orthonormal_rows, random, singular_values, solve_triangular};

pub(super) const ROWS: &[Row] = &[
    ("cholesky", "well_conditioned", well_conditioned),
    ("cholesky", "ill_conditioned", ill_conditioned),
    ("cholesky", "damping", damping),
    ("cholesky", "failed_pivot", failed_pivot),
    ("cholesky", "views", cholesky_views),
    ("cholesky", "many_items", many_factors),
    ("solve_triangular", "identity", |context| solves(context, None)),
    ("solve_triangular", "right_hand_sides", |context| SIDES.iter().try_for_each(|&m| solves(context, Some(m)))),
    ("solve_triangular", "views", solve_views),
    ("solve_triangular", "many_items", many_solves),
    ("operator_norm", "shapes", norms),
    ("operator_norm", "special", special_norms),
    ("operator_norm", "many_items", many_norms),
];

/// Orders: single elements, primes, block sizes and their neighbours.
const ORDERS: [usize; 14] = [1, 2, 5, 16, 31, 32, 33, 63, 64, 65, 67, 127, 129, 300];
const SIDES: [usize; 4] = [1, 3, 65, 130];

/// Symmetric positive definite, eigenvalues about 0.5 to 2; the part above the diagonal is for the reader to ignore.
fn definite(seed: usize, n: usize) -> Mat {
    gram(&random(seed as u64, 3 * n, n), false).plus(0.5, &Mat::identity(n))
}

fn poison_above(a: &Mat) -> Mat {
    Mat::from_fn(a.rows, a.cols, |r, c| if c > r { f64::NAN } else { a[(r, c)] })
}

fn lower(a: &Mat) -> Result<Mat, String> {
    cholesky(a).ok_or_else(|| "the oracle found the matrix indefinite".into())
}

fn oks(values: &[f64]) -> Vec<Mat> {
    values.iter().map(|&ok| Mat::from_fn(1, 1, |_, _| ok)).collect()
}

fn factor(context: &Context, seed: usize, items: &[Mat], tol: Tol, layouts: [Layout; 2]) -> Outcome {
    let mut s = Stage::new(context, seed);
    let (count, n) = (items.len(), items[0].rows);
    let poisoned: Vec<Mat> = items.iter().map(poison_above).collect();
    let a = s.given("a", count, &poisoned, layouts[0])?;
    let out = s.output("out", [count, n, n], layouts[1])?;
    let ok = s.output("ok", [count, 1, 1], Layout::Dense)?;
    s.recorder.record(Cholesky { a: a.view, out: out.view, damping: Coef::Const(0.0), block: None, ok: ok.view })?;
    let done = s.run(1)?;
    let want = items.iter().map(lower).collect::<Result<Vec<_>, _>>()?;
    about(done.expect_to_largest(&out, &want, tol), (count, n, layouts))?;
    about(done.expect(&ok, &oks(&vec![1.0; count]), Tol::EXACT), (count, n, "ok"))
}

/// As an f32 buffer will hold it.
fn rounded(m: &Mat) -> Mat {
    #[allow(clippy::cast_possible_truncation, reason = "rounding is the point")]
    m.map(|x| f64::from(x as f32))
}

fn well_conditioned(context: &Context) -> Outcome {
    ORDERS.iter().enumerate().try_for_each(|(i, &n)| {
        let items: Vec<Mat> = (0..batch(i)).map(|b| rounded(&definite(10 * i + b, n))).collect();
        factor(context, i, &items, Tol::triangular(n, 4.0), [Layout::Dense; 2])
    })
}

/// Condition 1e6 by grading: the factor is no longer close to the exact one, but its product still is to the matrix.
fn ill_conditioned(context: &Context) -> Outcome {
    for n in [8, 33, 64, 129] {
        let scale = |i: usize| 10f64.powf(-3.0 * i as f64 / n as f64);
        let base = definite(n, n);
        let a = rounded(&Mat::from_fn(n, n, |r, c| scale(r) * scale(c) * base[(r, c)]));
        let mut s = Stage::new(context, n);
        let input = s.given("a", 1, std::slice::from_ref(&a), Layout::Dense)?;
        let out = s.output("out", [1, n, n], Layout::Dense)?;
        let ok = s.output("ok", [1, 1, 1], Layout::Dense)?;
        s.recorder.record(Cholesky { a: input.view, out: out.view, damping: Coef::Const(0.0), block: None, ok: ok.view })?;
        let done = s.run(1)?;
        done.expect(&ok, &oks(&[1.0]), Tol::EXACT)?;
        let l = Mat { rows: n, cols: n, data: done.items(&out)?.into_iter().map(f64::from).collect() };
        // Higham, theorem 10.3: |a - l l^T| <= gamma_(n+1) |l| |l^T|.
        let (product, size) = (matmul(&l, &l.t()), matmul(&l.map(f64::abs), &l.map(f64::abs).t()));
        let residual = product.plus(-1.0, &a);
        about(close_to(&vec![0.0; n * n], &residual.data, &size.data, Tol::gemm(n)).map(|_| ()).map_err(Into::into), n)?;
    }
    Ok(())
}

fn damping(context: &Context) -> Outcome {
    for n in [3, 65] {
        for column in [false, true] {
            let mut s = Stage::new(context, n);
            // Indefinite without the damping.
            let items: Vec<Mat> = (0..3).map(|b| rounded(&definite(b, n).plus(-1.5, &Mat::identity(n)))).collect();
            let a = s.given("a", 3, &items, Layout::Dense)?;
            let block =
                s.given("block", 3, &[1.0, 2.0, 4.0].map(|d| Mat::from_fn(1, 3, |_, c| if c == 1 { d } else { f64::NAN })), Layout::Dense)?;
            let out = s.output("out", [3, n, n], Layout::Dense)?;
            let ok = s.output("ok", [3, 1, 1], Layout::Dense)?;
            let (damping, block_view) =
                if column { (Coef::Column { column: 1, scale: 1.5 }, Some(block.view)) } else { (Coef::Const(2.5), None) };
            s.recorder.record(Cholesky { a: a.view, out: out.view, damping, block: block_view, ok: ok.view })?;
            let added = |b: usize| if column { 1.5 * block.items[b].data[1] } else { 2.5 };
            let want = (0..3).map(|b| lower(&items[b].plus(added(b), &Mat::identity(n)))).collect::<Result<Vec<_>, _>>()?;
            let done = s.run(1)?;
            about(done.expect_to_largest(&out, &want, Tol::triangular(n, 8.0)), (n, column))?;
            done.expect(&ok, &oks(&[1.0; 3]), Tol::EXACT)?;
        }
    }
    Ok(())
}

/// A bad item says so and harms no other: an indefinite one (early and late pivot), zero, NaN, infinity.
fn failed_pivot(context: &Context) -> Outcome {
    for n in [1, 5, 33, 64, 100] {
        let good = rounded(&definite(n, n));
        let with = |r: usize, value: f64| Mat::from_fn(n, n, |i, j| if (i, j) == (r, r) { value } else { good[(i, j)] });
        let items = [
            good.clone(),
            with(0, -1.0),
            good.clone(),
            with(n - 1, -1.0),
            Mat::zeros(n, n),
            with(n / 2, f64::NAN),
            with(n - 1, f64::INFINITY),
            good.clone(),
            // Subnormal: a device may take it for zero.
            with(0, 1e-39),
        ];
        let mut s = Stage::new(context, n);
        let a = s.given("a", 9, &items, Layout::Dense)?;
        let out = s.output("out", [9, n, n], Layout::Dense)?;
        let ok = s.output("ok", [9, 1, 1], Layout::Dense)?;
        s.recorder.record(Cholesky { a: a.view, out: out.view, damping: Coef::Const(0.0), block: None, ok: ok.view })?;
        let done = s.run(1)?;
        about(done.expect(&ok, &oks(&[1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), Tol::EXACT), n)?;
        let (got, want) = (done.items(&out)?, lower(&good)?);
        for b in [0, 2, 7] {
            let largest = vec![want.data.iter().fold(0.0, |m: f64, x| m.max(x.abs())); n * n];
            about(
                close_to(&got[b * n * n..][..n * n], &want.data, &largest, Tol::triangular(n, 4.0)).map(|_| ()).map_err(Into::into),
                (n, b),
            )?;
        }
    }
    Ok(())
}

fn cholesky_views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Transposed};
    for n in [1, 7, 33, 70] {
        let items: Vec<Mat> = (0..2).map(|b| rounded(&definite(b, n))).collect();
        for layouts in [[Inside, Dense], [Dense, Inside], [Transposed, InsideTransposed], [InsideTransposed, Transposed]] {
            factor(context, n, &items, Tol::triangular(n, 4.0), layouts)?;
        }
    }
    Ok(())
}

fn many_factors(context: &Context) -> Outcome {
    let items: Vec<Mat> = (0..66_000).map(|b| rounded(&definite(b, 2))).collect();
    factor(context, 1, &items, Tol::triangular(2, 4.0), [Layout::Dense; 2])
}

fn solve(context: &Context, items: usize, n: usize, m: Option<usize>, transpose: bool, layouts: [Layout; 3]) -> Outcome {
    let mut s = Stage::new(context, n);
    let stored = if let Layout::Repeat(_, modulo) = layouts[0] { modulo } else { items };
    let factors = (0..stored).map(|b| lower(&definite(b, n))).collect::<Result<Vec<_>, _>>()?;
    let l = s.given("l", items, &factors.iter().map(poison_above).collect::<Vec<_>>(), layouts[0])?;
    let cols = m.unwrap_or(n);
    let b = s.operand("b", [items, n, cols], layouts[1])?;
    let out = s.output("out", [items, n, cols], layouts[2])?;
    s.recorder.record(SolveTriangular { l: l.view, b: m.map(|_| b.view), out: out.view, transpose })?;
    let right = |i: usize| if m.is_some() { b.items[i].clone() } else { Mat::identity(n) };
    let want: Vec<Mat> = (0..items).map(|i| solve_triangular(&l.items[i], &right(i), transpose)).collect();
    about(s.run(1)?.expect_to_largest(&out, &want, Tol::triangular(n, 4.0)), (items, n, m, transpose, layouts))
}

fn solves(context: &Context, m: Option<usize>) -> Outcome {
    ORDERS.iter().enumerate().try_for_each(|(i, &n)| {
        [false, true].into_iter().try_for_each(|transpose| solve(context, batch(i), n, m, transpose, [Layout::Dense; 3]))
    })
}

fn solve_views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    for (n, m) in [(1, 1), (5, 67), (33, 3), (65, 64)] {
        for transpose in [false, true] {
            let layouts = [
                [Dense, Transposed, Transposed],
                [Inside, Inside, Inside],
                [Transposed, Dense, InsideTransposed],
                [Repeat(2, 2), Repeat(1, 2), Dense],
            ];
            layouts.into_iter().try_for_each(|layouts| solve(context, 4, n, Some(m), transpose, layouts))?;
        }
        solve(context, 4, n, None, true, [Repeat(1, 1), Dense, InsideTransposed])?;
    }
    Ok(())
}

fn many_solves(context: &Context) -> Outcome {
    solve(context, 66_000, 2, Some(1), false, [Layout::Repeat(1, 1), Layout::Dense, Layout::Dense])
}

fn norm(context: &Context, items: &[Mat], layout: Layout, tol: Tol) -> Outcome {
    let mut s = Stage::new(context, 1);
    let x = s.given("x", items.len(), items, layout)?;
    let out = s.output("out", [items.len(), 1, 1], Layout::Dense)?;
    s.recorder.record(OperatorNorm { x: x.view, out: out.view })?;
    let want: Vec<Mat> = x.items.iter().map(|x| Mat::from_fn(1, 1, |_, _| singular_values(x)[0])).collect();
    about(s.run(1)?.expect(&out, &want, tol), (items.len(), items[0].rows, items[0].cols, layout))
}

fn norms(context: &Context) -> Outcome {
    let limit = OPERATOR_NORM_MAX;
    let edges = [(limit, limit), (limit, 300), (300, limit), (limit - 1, 65), (8, 1000)];
    for (i, &(m, n)) in SHAPES.iter().chain(&edges).filter(|(m, n)| *m.min(n) <= limit).enumerate() {
        let items: Vec<Mat> = (0..batch(i)).map(|b| random((31 * i + b) as u64, m, n)).collect();
        for layout in [Layout::Dense, Layout::InsideTransposed] {
            norm(context, &items, layout, Tol::relative(1e-6))?;
        }
    }
    Ok(())
}

/// Zero, rank one, orthonormal rows, two equal leading values, and sizes near the ends of what f32 squares.
fn special_norms(context: &Context) -> Outcome {
    let q = orthonormal_rows(&random(1, 8, 20));
    let rank_one = matmul(&random(2, 8, 1), &random(3, 1, 20));
    let doubled = Mat::from_fn(8, 20, |r, c| [3.0, 3.0, 2.999, 1.0, 0.5, 0.1, 0.0, 0.0][r] * q[(r, c)]);
    let g = random(4, 8, 20);
    let items = [rank_one, q, doubled, g.map(|x| 1e-12 * x), g.map(|x| 1e12 * x), g];
    norm(context, &items, Layout::Dense, Tol::relative(1e-6))?;
    norm(context, &[Mat::zeros(8, 20), Mat::zeros(8, 20)], Layout::Dense, Tol::EXACT)
}

fn many_norms(context: &Context) -> Outcome {
    let items: Vec<Mat> = (0..66_000).map(|b| random(b, 1, 2)).collect();
    norm(context, &items, Layout::Dense, Tol::relative(1e-6))
}
