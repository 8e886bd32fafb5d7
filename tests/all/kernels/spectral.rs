//! `eigh`, `spectrum_scale`, `quotient`, `iteration_control`.

use layerwise::plan::{EIGH_SINGLE_MAX, Eigh, IterationControl, Order, Quotient, SpectrumScale, Stage as Decision, control};
use layerwise::{Coef, Context};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, eigh, matmul, orthonormal_rows, random};

pub(super) const ROWS: &[Row] = &[
    ("eigh", "one_workgroup", |context| {
        [1, 2, 3, 8, 17, 32, 43, EIGH_SINGLE_MAX].iter().try_for_each(|&n| pairs(context, n, 3, Layout::Dense))
    }),
    ("eigh", "blocks", |context| [EIGH_SINGLE_MAX + 1, 64, 65, 100].iter().try_for_each(|&n| pairs(context, n, 2, Layout::Dense))),
    ("eigh", "views", |context| {
        [9, 50].iter().try_for_each(|&n| [Layout::Inside, Layout::InsideTransposed].iter().try_for_each(|&l| pairs(context, n, 2, l)))
    }),
    ("eigh", "many_items", |context| pairs(context, 2, 70_000, Layout::Dense)),
    ("eigh", "ill_conditioned", |context| {
        [3, EIGH_SINGLE_MAX, 64, 65].iter().try_for_each(|&n| SPECTRA.iter().try_for_each(|f| decompose(context, n, 2, Layout::Dense, *f)))
    }),
    ("spectrum_scale", "roots", roots),
    ("quotient", "forms", quotients),
    ("iteration_control", "normalise", normalise),
    ("iteration_control", "square_and_settle", square),
    ("iteration_control", "start", start),
    ("iteration_control", "newton_and_finish", newton),
];

/// Eigenvalue `i` of `n`.
type Spectrum = fn(usize, usize) -> f64;

/// Indefinite, with an eigenvalue of multiplicity two where there is room.
const MIXED: Spectrum = |i, n| if i == 1 { 1.0 } else { 1.0 - 1.7 * i as f64 / n as f64 };

/// Down to 1e-6 and 1e-12 of the largest evenly in the exponent, one or two large ones above many small equal ones, a null space, all alike.
const SPECTRA: [Spectrum; 6] = [
    |i, n| 1e-6f64.powf(i as f64 / n as f64),
    |i, n| 1e-12f64.powf(i as f64 / n as f64),
    |i, _| if i == 0 { 1.0 } else { 1e-7 },
    |i, n| if i < 2 { 1.0 } else { 1e-6 * (1.0 + i as f64 / n as f64) },
    |i, n| if 3 * i < n { 1.0 / (1.0 + i as f64) } else { 0.0 },
    |_, _| 1.0,
];

fn symmetric(seed: usize, n: usize, spectrum: Spectrum) -> Mat {
    let q = orthonormal_rows(&random(seed as u64 + 1, n, n).plus(0.5, &Mat::identity(n)));
    let scaled = Mat::from_fn(n, n, |r, c| q[(r, c)] * spectrum(r, n));
    let a = matmul(&q.t(), &scaled);
    #[allow(clippy::cast_possible_truncation, reason = "rounding is the point")]
    Mat::from_fn(n, n, |r, c| f64::from(a[(r.max(c), r.min(c))] as f32))
}

fn pairs(context: &Context, n: usize, count: usize, layout: Layout) -> Outcome {
    decompose(context, n, count, layout, MIXED)
}

/// Values against the oracle; vectors by orthonormality and by `V diag V^T`.
fn decompose(context: &Context, n: usize, count: usize, layout: Layout, spectrum: Spectrum) -> Outcome {
    let distinct: Vec<Mat> = (0..count.min(5)).map(|b| symmetric(10 * n + b, n, spectrum)).collect();
    let items: Vec<Mat> = (0..count).map(|b| distinct[b % distinct.len()].clone()).collect();
    let exact: Vec<Vec<f64>> = distinct.iter().map(|a| eigh(a).0).collect();
    for order in [Order::Ascending, Order::Descending] {
        let mut s = Stage::new(context, n);
        let a = s.given("a", count, &items, layout)?;
        let values = s.output("values", [count, 1, n], layout)?;
        let vectors = s.output("vectors", [count, n, n], layout)?;
        let shape = Eigh::work_shape(count, n);
        let work = s.recorder.scratch("work", shape)?;
        let spare = (n > EIGH_SINGLE_MAX).then(|| s.recorder.scratch("spare", layerwise::Shape::new(count, shape.cols, shape.cols)));
        s.recorder.record(Eigh { a: a.view, order, values: values.view, vectors: vectors.view, work, spare: spare.transpose()? })?;
        let done = s.run(1)?;
        let want = items.iter().enumerate().map(|(b, _)| {
            let list = &exact[b % exact.len()];
            Mat::from_fn(1, n, |_, c| if order == Order::Ascending { list[c] } else { list[n - 1 - c] })
        });
        let tol = Tol::relative(2e-6);
        about(done.expect_to_largest(&values, &want.collect::<Vec<_>>(), tol), (n, order, layout, "values"))?;
        let (found, v) = (done.items(&values)?, done.items(&vectors)?);
        for (b, a) in items.iter().enumerate().take(20) {
            let v = Mat { rows: n, cols: n, data: v[b * n * n..(b + 1) * n * n].iter().map(|&x| f64::from(x)).collect() };
            let defect = matmul(&v.t(), &v).plus(-1.0, &Mat::identity(n)).norm() / (n as f64).sqrt();
            let scaled = Mat::from_fn(n, n, |r, c| v[(r, c)] * f64::from(found[b * n + c]));
            let residual = matmul(&scaled, &v.t()).plus(-1.0, a).norm() / a.norm();
            if !(defect <= 5e-6 && residual <= 5e-6) {
                return Err(format!("{n} {order:?} {layout:?} item {b}: defect {defect:e}, residual {residual:e}").into());
            }
        }
    }
    Ok(())
}

fn roots(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        for exponent in [1, 2, 4, 8, 16] {
            let mut s = Stage::new(context, i);
            let layout = [Layout::Dense, Layout::InsideTransposed][i % 2];
            let x = s.operand("x", [2, m, n], layout)?;
            let values = s.operand("values", [2, 1, n], Layout::Dense)?;
            let block =
                s.given("block", 2, &[0.5, 1e-3].map(|r| Mat::from_fn(1, 3, |_, c| if c == 1 { r } else { f64::NAN })), Layout::Dense)?;
            let out = s.output("out", [2, m, n], layout)?;
            let shift = Coef::Column { column: 1, scale: 2.0 };
            s.recorder.record(SpectrumScale { x: x.view, values: values.view, shift, exponent, out: out.view, block: Some(block.view) })?;
            let want: Vec<Mat> = (0..2)
                .map(|b| {
                    let damped = |c: usize| values.items[b].data[c].max(0.0) + 2.0 * block.items[b].data[1];
                    Mat::from_fn(m, n, |r, c| x.items[b][(r, c)] * damped(c).powf(-1.0 / f64::from(exponent)))
                })
                .collect();
            about(s.run(1)?.expect(&out, &want, Tol::roundings(8)), (m, n, exponent))?;
        }
    }
    // Nothing to take a root of.
    let mut s = Stage::new(context, 3);
    let x = s.given("x", 1, &[Mat::from_fn(1, 4, |_, _| 1.0)], Layout::Dense)?;
    let values = s.given("values", 1, &[Mat { rows: 1, cols: 4, data: vec![-1.0, 0.0, f64::INFINITY, 4.0] }], Layout::Dense)?;
    let out = s.output("out", [1, 1, 4], Layout::Dense)?;
    let shift = Coef::Const(0.0);
    s.recorder.record(SpectrumScale { x: x.view, values: values.view, shift, exponent: 2, out: out.view, block: None })?;
    s.run(1)?.expect(&out, &[Mat { rows: 1, cols: 4, data: vec![0.0, 0.0, 0.0, 0.5] }], Tol::roundings(2))
}

fn quotients(context: &Context) -> Outcome {
    let (x, y) = ([3.0, -1.0, 5.0, 1.0, 1e30], [4.0, 0.0, f64::INFINITY, f64::NAN, 1e-30]);
    for (with_x, root) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut s = Stage::new(context, 1);
        let (a, b) = (s.scalars("x", &x)?, s.scalars("y", &y)?);
        let out = s.output("out", [5, 1, 1], Layout::Dense)?;
        s.recorder.record(Quotient { x: with_x.then_some(a.view), y: b.view, out: out.view, scale: -0.5, root })?;
        let want = (0..5).map(|i| {
            let quotient = -0.5 * if with_x { a.items[i].data[0] } else { 1.0 } / if root { y[i].sqrt() } else { b.items[i].data[0] };
            let good = y[i] > 0.0 && y[i].is_finite() && quotient.abs() < f64::from(f32::MAX);
            Mat::from_fn(1, 1, |_, _| if good { quotient } else { 0.0 })
        });
        about(s.run(1)?.expect(&out, &want.collect::<Vec<_>>(), Tol::roundings(4)), (with_x, root))?;
    }
    Ok(())
}

/// Runs one decision on rows with these columns set, and returns the rows.
fn decide(
    context: &Context,
    stage: Decision,
    p: u32,
    ridge: (f32, bool),
    items: &[(f64, Vec<(u32, f64)>)],
) -> Result<Vec<Vec<f32>>, libtest_mimic::Failed> {
    let mut s = Stage::new(context, 1);
    let x = s.scalars("x", &items.iter().map(|i| i.0).collect::<Vec<_>>())?;
    let rows: Vec<Mat> = items
        .iter()
        .map(|(_, columns)| {
            let mut row = Mat::from_fn(1, control::WIDTH, |_, c| 100.0 + c as f64);
            columns.iter().for_each(|&(c, value)| row.data[c as usize] = value);
            row
        })
        .collect();
    let row = s.updated("control", &rows, Layout::Inside)?;
    let (ridge, relative) = (Coef::Const(ridge.0), ridge.1);
    s.recorder.record(IterationControl { stage, p, x: x.view, ridge, relative, block: None, control: row.view })?;
    let done = s.run(1)?;
    Ok(done.items(&row)?.chunks(control::WIDTH).map(<[f32]>::to_vec).collect())
}

fn expect(what: &str, row: &[f32], columns: &[(u32, f32)]) -> Outcome {
    for &(column, want) in columns {
        let got = row[column as usize];
        if (got - want).abs() > 1e-6 * want.abs() {
            return Err(format!("{what}: column {column} is {got:e}, expected {want:e}").into());
        }
    }
    Ok(())
}

fn normalise(context: &Context) -> Outcome {
    use control::{ACTIVE, NORMAL, OK, UNSCALE};
    let items = [3.0, 1e30, 1e-30, 0.0, f64::NAN, f64::INFINITY].map(|x| (x, vec![]));
    for p in 1..=8 {
        let rows = decide(context, Decision::Normalise, p, (0.0, true), &items)?;
        for (row, (x, _)) in rows.iter().zip(&items) {
            let ok = if *x > 0.0 && x.is_finite() { 1.0 } else { 0.0 };
            expect(&format!("p {p}, x {x}"), row, &[(OK, ok), (ACTIVE, ok)])?;
            let (normal, unscale) = (f64::from(row[NORMAL as usize]), f64::from(row[UNSCALE as usize]));
            let size = if ok == 1.0 { x * normal } else { 1.0 };
            if normal.log2().fract() != 0.0 || normal != unscale.powi(p.cast_signed()) || !(0.003..=512.0).contains(&size) {
                return Err(format!("p {p}, x {x}: normal {normal:e}, unscale {unscale:e}").into());
            }
        }
    }
    let rows = decide(context, Decision::Normalise, 2, (0.5, false), &[(0.0, vec![])])?;
    expect("zero with an absolute ridge", &rows[0], &[(OK, 1.0)])
}

fn square(context: &Context) -> Outcome {
    use control::{ACTIVE, MEASURE, SCALE};
    let before = |active: f64, measure: f64| vec![(ACTIVE, active), (MEASURE, measure)];
    let items = [(0.5, before(1.0, 0.0)), (0.5, before(0.0, 0.0)), (0.0, before(1.0, 0.0)), (f64::NAN, before(1.0, 0.0))];
    let rows = decide(context, Decision::Square, 1, (0.0, true), &items)?;
    for (row, (active, scale)) in rows.iter().zip([(1.0, 2.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)]) {
        expect("square", row, &[(ACTIVE, active), (SCALE, scale)])?;
    }
    expect("square", &rows[0], &[(MEASURE, 0.5)])?;
    let items = [(1e-10, before(1.0, 0.5)), (1e-12, before(1.0, 0.5)), (1e-10, before(0.0, 0.5)), (f64::NAN, before(1.0, 0.5))];
    let rows = decide(context, Decision::Settle, 1, (0.0, true), &items)?;
    rows.iter().zip([1.0, 0.0, 0.0, 0.0]).try_for_each(|(row, active)| expect("settle", row, &[(ACTIVE, active), (MEASURE, 0.5)]))
}

fn start(context: &Context) -> Outcome {
    use control::{ACTIVE, LAMBDA, MEASURE, NORMAL, OK, ROOT, SCALE, SHIFT, UNSCALE};
    let before = |ok: f64| vec![(OK, ok), (NORMAL, 0.25), (UNSCALE, 0.5)];
    let items = [(3.0, before(1.0)), (3.0, before(0.0)), (f64::NAN, before(1.0)), (-1.0, before(1.0)), (0.0, before(1.0))];
    for p in 1..=8 {
        for relative in [true, false] {
            let rows = decide(context, Decision::Start, p, (1e-2, relative), &items)?;
            let what = format!("p {p}, relative {relative}");
            let lambda = if relative { 3e-2 } else { 2.5e-3 };
            let (scale, root) = (rows[0][SCALE as usize], rows[0][ROOT as usize]);
            // s^p is exact, and at most a factor of two (p bits of a short s) below its target.
            let s = f64::from(root) / 0.5;
            let target = f64::from(p + 1) / (2.0 * (3.0 + f64::from(lambda)));
            if f64::from(scale) != s.powi(p.cast_signed()) || !(0.2..=1.001).contains(&(f64::from(scale) / target)) {
                return Err(format!("{what}: scale {scale}, root {root}, target {target}").into());
            }
            let measure = (0.5 * (p as f32 - 1.0)).max(1.0);
            expect(&what, &rows[0], &[(LAMBDA, lambda), (SHIFT, scale * lambda), (OK, 1.0), (ACTIVE, 1.0), (MEASURE, measure)])?;
            // Zero is good with an absolute ridge alone.
            let zero = if relative { 0.0 } else { 1.0 };
            for (row, ok) in rows[1..].iter().zip([0.0, 0.0, 0.0, zero]) {
                expect(&what, row, &[(OK, ok), (ACTIVE, ok)])?;
            }
        }
    }
    Ok(())
}

fn newton(context: &Context) -> Outcome {
    use control::{ACTIVE, COMMIT, MEASURE, OK, STEPS};
    let before = |active: f64, measure: f64| vec![(ACTIVE, active), (MEASURE, measure), (STEPS, 4.0)];
    // (gap, row before) -> (commit, active, measure)
    let table = [
        ((0.5, before(1.0, 0.9)), (1.0, 1.0, 0.5)),
        ((1.0, before(1.0, 0.9)), (1.0, 1.0, 1.0)),
        ((1.5, before(1.0, 0.9)), (0.0, 0.0, 0.9)),
        ((f64::NAN, before(1.0, 0.9)), (0.0, 0.0, 0.9)),
        ((0.5, before(0.0, 0.9)), (0.0, 0.0, 0.9)),
        ((1e-7, before(1.0, 1e-3)), (1.0, 0.0, 1e-7)),
        ((8e-4, before(1.0, 1e-3)), (1.0, 0.0, 8e-4)),
    ];
    let items: Vec<_> = table.iter().map(|t| t.0.clone()).collect();
    let rows = decide(context, Decision::Newton, 4, (0.0, true), &items)?;
    for (i, (row, (_, (commit, active, measure)))) in rows.iter().zip(&table).enumerate() {
        expect(&format!("step {i}"), row, &[(COMMIT, *commit), (ACTIVE, *active), (MEASURE, *measure), (STEPS, 4.0 + commit)])?;
    }
    let before = |ok: f64, measure: f64| vec![(OK, ok), (MEASURE, measure)];
    let items = [(9.0, before(1.0, 0.05)), (9.0, before(1.0, 0.2)), (f64::INFINITY, before(1.0, 0.05)), (9.0, before(0.0, 0.05))];
    let rows = decide(context, Decision::Finish { limit: 0.1 }, 4, (0.0, true), &items)?;
    rows.iter().zip([1.0, 0.0, 0.0, 0.0]).try_for_each(|(row, ok)| expect("finish", row, &[(OK, ok), (ACTIVE, 0.0)]))
}
