//! `standardise`, `standardise_gradient`, `softmax_cross_entropy`.

use layerwise::Context;
use layerwise::plan::{SoftmaxCrossEntropy, Standardise, StandardiseGradient};
use libtest_mimic::Failed;

use super::stage::{Done, Layout, Operand, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, random};

pub(super) const ROWS: &[Row] = &[
    ("standardise", "shapes", |context| {
        over_shapes(|batch, m, n, epsilon| standardise(context, [batch, m, n], [Layout::Dense; 2], epsilon))
    }),
    ("standardise", "views", |context| over_views(|layouts| standardise(context, [6, 67, 31], layouts, 1e-5))),
    ("standardise", "tall", |context| over_views(|layouts| standardise(context, [6, 1024, 19], layouts, 1e-5))),
    ("standardise", "many_items", |context| standardise(context, [70_000, 3, 2], [Layout::Dense; 2], 1e-5)),
    ("standardise", "constant_columns", constant_columns),
    ("standardise", "far_from_zero_and_of_any_size", far_from_zero),
    ("standardise", "item_alone_equals_item_in_batch", alone),
    ("standardise_gradient", "shapes", |context| over_shapes(|batch, m, n, _| gradient(context, [batch, m, n], [Layout::Dense; 2]))),
    ("standardise_gradient", "views", |context| over_views(|layouts| gradient(context, [6, 67, 31], layouts))),
    ("standardise_gradient", "tall", |context| over_views(|layouts| gradient(context, [6, 1024, 19], layouts))),
    ("standardise_gradient", "many_items", |context| gradient(context, [70_000, 3, 2], [Layout::Dense; 2])),
    ("softmax_cross_entropy", "shapes", |context| over_shapes(|batch, m, n, _| entropy(context, [batch, m, n], [Layout::Dense; 2], 3.0))),
    ("softmax_cross_entropy", "views", |context| over_views(|layouts| entropy(context, [6, 67, 31], layouts, 10.0))),
    ("softmax_cross_entropy", "many_classes", |context| entropy(context, [1, 67, 2003], [Layout::Dense; 2], 1.0)),
    ("softmax_cross_entropy", "many_items", |context| entropy(context, [70_000, 2, 3], [Layout::Dense; 2], 1.0)),
    ("softmax_cross_entropy", "large_logits", |context| {
        [30.0, 100.0, 1e4, 1e30].into_iter().try_for_each(|size| entropy(context, [2, 67, 10], [Layout::Transposed, Layout::Dense], size))
    }),
    ("softmax_cross_entropy", "by_hand", by_hand),
];

fn over_shapes(test: impl Fn(usize, usize, usize, f32) -> Outcome) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &(m, n))| test(batch(i), m, n, [1e-5, 0.5, 0.0][i % 3]))
}

/// Layouts of what is read and what is written. The first are the fast ones: samples contiguous, features contiguous.
fn over_views(test: impl Fn([Layout; 2]) -> Outcome) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    let layouts =
        [[Transposed, Transposed], [Dense, Dense], [Inside, InsideTransposed], [InsideTransposed, Inside], [Repeat(3, 2), Transposed]];
    layouts.into_iter().try_for_each(test)
}

/// `f` of each column, as a row.
fn by_column(x: &Mat, f: impl Fn(&[f64]) -> f64) -> Mat {
    Mat::from_fn(1, x.cols, |_, c| f(&(0..x.rows).map(|r| x[(r, c)]).collect::<Vec<_>>()))
}

fn mean(column: &[f64]) -> f64 {
    column.iter().sum::<f64>() / column.len() as f64
}

fn variance(column: &[f64]) -> f64 {
    let mean = mean(column);
    column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / column.len() as f64
}

/// (out, mean, variance, scale) of one item.
fn standardised(x: &Mat, epsilon: f32) -> [Mat; 4] {
    let scale = |column: &[f64]| {
        let below = variance(column) + f64::from(epsilon);
        if below > 0.0 { 1.0 / below.sqrt() } else { 0.0 }
    };
    let [means, variances, scales] = [by_column(x, mean), by_column(x, variance), by_column(x, scale)];
    [Mat::from_fn(x.rows, x.cols, |r, c| scales.data[c] * (x[(r, c)] - means.data[c])), means, variances, scales]
}

/// Records the operation on `x`; outputs in formula order.
fn record(s: &mut Stage<'_>, x: &Operand, items: usize, layout: Layout, epsilon: f32) -> Result<[Operand; 4], Failed> {
    let (n, q) = (x.view.rows(), x.view.cols());
    let out = s.output("out", [items, n, q], layout)?;
    let (mean, variance) = (s.output("mean", [items, 1, q], layout)?, s.output("variance", [items, 1, q], Layout::Inside)?);
    let scale = s.output("scale", [items, 1, q], Layout::Dense)?;
    s.recorder.record(Standardise { x: x.view, out: out.view, mean: mean.view, variance: variance.view, scale: scale.view, epsilon })?;
    Ok([out, mean, variance, scale])
}

/// Errors count against the spread of a column: differences are rounded relative to its range.
fn check(done: &Done, x: &Operand, outputs: &[Operand; 4], epsilon: f32) -> Outcome {
    let want: Vec<[Mat; 4]> = x.items.iter().map(|x| standardised(x, epsilon)).collect();
    let part = |i: usize| want.iter().map(|w| w[i].clone()).collect::<Vec<_>>();
    let largest: Vec<Mat> = want.iter().map(|w| by_column(&w[0], |c| c.iter().fold(0.0, |m: f64, x| m.max(x.abs())))).collect();
    let spread: Vec<Mat> = largest.iter().map(|m| Mat::from_fn(want[0][0].rows, m.cols, |_, c| m.data[c])).collect();
    let tol = Tol::gemm(x.view.rows());
    done.expect_within(&outputs[0], &part(0), &spread, tol)?;
    let size = |i: usize, c: usize| want[i][1].data[c].abs() + largest[i].data[c] / want[i][3].data[c].max(1e-30);
    let sizes: Vec<Mat> = (0..want.len()).map(|i| Mat::from_fn(1, x.view.cols(), |_, c| size(i, c))).collect();
    done.expect_within(&outputs[1], &part(1), &sizes, tol)?;
    done.expect(&outputs[2], &part(2), Tol { relative: 2.0 * tol.relative, absolute: 1e-37 })?;
    done.expect(&outputs[3], &part(3), Tol { relative: 2.0 * tol.relative, absolute: 1e-37 })
}

fn standardise(context: &Context, shape: [usize; 3], layouts: [Layout; 2], epsilon: f32) -> Outcome {
    let mut s = Stage::new(context, shape[2]);
    let x = s.operand("x", shape, layouts[0])?;
    let outputs = record(&mut s, &x, shape[0], layouts[1], epsilon)?;
    about(check(&s.run(1)?, &x, &outputs, epsilon), (shape, layouts))
}

/// Constants in awkward binary, one sample, and no epsilon: exact zeros, exact means.
fn constant_columns(context: &Context) -> Outcome {
    for (rows, epsilon, transposed) in [(1, 0.0, false), (300, 0.0, true), (300, 0.0, false), (1, 1e-5, true), (7, 1e-5, false)] {
        let item = Mat::from_fn(rows, 5, |_, c| f64::from([0.1f32, -3.3e7, 0.0, 1e-30, 7.7][c]));
        let mut s = Stage::new(context, 1);
        let x = s.given("x", 1, std::slice::from_ref(&item), if transposed { Layout::Transposed } else { Layout::Dense })?;
        let outputs = record(&mut s, &x, 1, Layout::Dense, epsilon)?;
        let done = s.run(1)?;
        let zeros = |rows: usize| [Mat::zeros(rows, 5)];
        about(done.expect(&outputs[0], &zeros(rows), Tol::EXACT), (rows, epsilon))?;
        about(done.expect(&outputs[1], &[by_column(&item, |c| c[0])], Tol::EXACT), (rows, epsilon))?;
        about(done.expect(&outputs[2], &zeros(1), Tol::EXACT), (rows, epsilon))?;
        let scale = if epsilon == 0.0 { 0.0 } else { 1.0 / f64::from(epsilon).sqrt() };
        about(done.expect(&outputs[3], &[Mat::from_fn(1, 5, |_, _| scale)], Tol::roundings(6)), (rows, epsilon))?;
    }
    Ok(())
}

/// A mean a million times the deviation, and columns of 1e-15 and 1e15: as accurate as any other.
fn far_from_zero(context: &Context) -> Outcome {
    for (offset, size) in [(1e6, 1.0), (-1e4, 1e-2), (0.0, 1e-15), (0.0, 1e15), (1e15, 1e15)] {
        for layout in [Layout::Transposed, Layout::Dense] {
            let items: Vec<Mat> = (0..3).map(|i| random(i + 5, 257, 19).map(|x| offset + size * x)).collect();
            let mut s = Stage::new(context, 1);
            let x = s.given("x", 3, &items, layout)?;
            let outputs = record(&mut s, &x, 3, layout, 0.0)?;
            about(check(&s.run(1)?, &x, &outputs, 0.0), (offset, size, layout))?;
        }
    }
    Ok(())
}

/// The order of summation depends on the item alone; on the CPU not even on how it lies.
fn alone(context: &Context) -> Outcome {
    let result = |items: usize, layout: Layout| -> Result<Vec<u32>, Failed> {
        let items: Vec<Mat> = (0..items).map(|i| random(i as u64 + 3, 300, 19)).collect();
        let mut s = Stage::new(context, 8);
        let x = s.given("x", items.len(), &items, layout)?;
        let outputs = record(&mut s, &x, items.len(), layout, 1e-5)?;
        let done = s.run(1)?;
        Ok(done
            .items(&outputs[0])?
            .into_iter()
            .take(300 * 19)
            .chain(done.items(&outputs[3])?.into_iter().take(19))
            .map(f32::to_bits)
            .collect())
    };
    let want = result(1, Layout::Dense)?;
    if want != result(7, Layout::Dense)? || (!context.is_gpu() && want != result(7, Layout::Transposed)?) {
        return Err("item 0 differs between batches or layouts".into());
    }
    Ok(())
}

/// With and without gamma; by-sample gradients and those of a mean.
fn gradient(context: &Context, shape: [usize; 3], layouts: [Layout; 2]) -> Outcome {
    let [items, n, q] = shape;
    for with_gamma in [true, false] {
        let mut s = Stage::new(context, q + usize::from(with_gamma));
        let (xhat, dy) = (s.operand("xhat", shape, layouts[0])?, s.operand("dy", shape, layouts[1])?);
        let scale = s.operand("scale", [items, 1, q], layouts[0])?;
        let gamma = s.operand("gamma", [items, 1, q], Layout::InsideTransposed)?;
        let (dx, sums) = (s.output("dx", shape, layouts[1])?, s.output("sums", [items, 2, q], layouts[1])?);
        let factor = -0.25;
        s.recorder.record(StandardiseGradient {
            xhat: xhat.view,
            dy: dy.view,
            scale: scale.view,
            gamma: with_gamma.then_some(gamma.view),
            dx: dx.view,
            sums: sums.view,
            factor,
        })?;
        let (mut wants, mut sizes) = ([vec![], vec![]], [vec![], vec![]]);
        for i in 0..items {
            let (x, y) = (&xhat.items[i], &dy.items[i]);
            let sum = |c: usize, f: &dyn Fn(f64) -> f64| {
                let terms = (0..n).map(|r| (f(x[(r, c)] * y[(r, c)]), f(y[(r, c)])));
                terms.fold((0.0, 0.0), |(a, b), (u, v)| (a + u, b + v))
            };
            let (exact, large): (Vec<_>, Vec<_>) = (0..q).map(|c| (sum(c, &|v| v), sum(c, &f64::abs))).unzip();
            let scale = |c: usize| scale.items[i].data[c] * if with_gamma { gamma.items[i].data[c] } else { 1.0 };
            let count = n as f64;
            wants[0].push(Mat::from_fn(n, q, |r, c| scale(c) * (y[(r, c)] - exact[c].1 / count - x[(r, c)] * exact[c].0 / count)));
            sizes[0].push(Mat::from_fn(n, q, |r, c| {
                scale(c).abs() * (y[(r, c)].abs() + large[c].1 / count + x[(r, c)].abs() * large[c].0 / count)
            }));
            let pick = |pair: &(f64, f64), r: usize| f64::from(factor) * if r == 0 { pair.0 } else { pair.1 };
            wants[1].push(Mat::from_fn(2, q, |r, c| pick(&exact[c], r)));
            sizes[1].push(Mat::from_fn(2, q, |r, c| pick(&large[c], r)));
        }
        let done = s.run(1)?;
        about(done.expect_within(&dx, &wants[0], &sizes[0], Tol::gemm(n)), (shape, layouts, with_gamma))?;
        about(done.expect_within(&sums, &wants[1], &sizes[1], Tol::gemm(n)), (shape, layouts, with_gamma))?;
    }
    Ok(())
}

/// (loss, delta, hit) of one sample among `n`.
fn sample(z: &[f64], label: f64, n: usize) -> (f64, Vec<f64>, f64) {
    if !(label >= 0.0 && label < z.len() as f64) {
        return (0.0, vec![0.0; z.len()], 0.0);
    }
    let is_label = |c: usize| label.floor() == c as f64;
    let largest = z.iter().fold(f64::NEG_INFINITY, |m, z| m.max(*z));
    let sum: f64 = z.iter().map(|z| (z - largest).exp()).sum();
    let own = z.iter().enumerate().find(|(c, _)| is_label(*c)).map_or(0.0, |(_, z)| *z);
    // What all others have: no difference of nearly equal numbers.
    let others: f64 = z.iter().enumerate().filter(|(c, _)| !is_label(*c)).map(|(_, z)| (z - own).exp()).sum();
    let loss = if others < 1.0 { others.ln_1p() } else { sum.ln() - (own - largest) };
    let rest: f64 = z.iter().enumerate().filter(|(c, _)| !is_label(*c)).map(|(_, z)| (z - largest).exp()).sum();
    let delta = z.iter().enumerate().map(|(c, z)| if is_label(c) { -rest / sum } else { (z - largest).exp() / sum } / n as f64).collect();
    let first = z.iter().position(|z| *z == largest).unwrap_or(usize::MAX);
    (loss, delta, f64::from(u8::from(is_label(first))))
}

/// Logits up to `size`; every seventh sample is left out; labels are shared by the items where the logits are.
fn entropy(context: &Context, shape: [usize; 3], layouts: [Layout; 2], size: f64) -> Outcome {
    let [items, n, classes] = shape;
    let mut s = Stage::new(context, n);
    let stored = if let Layout::Repeat(_, modulo) = layouts[0] { modulo } else { items };
    let logits: Vec<Mat> = (0..stored).map(|i| random(i as u64 * 7 + 1, n, classes).map(|z| size * z)).collect();
    let logits = s.given("logits", items, &logits, layouts[0])?;
    let label = |r: usize| if r % 7 == 3 { [-1.0, classes as f64, f64::NAN][r / 7 % 3] } else { ((r * 5) % classes) as f64 };
    let labels = s.given("labels", items, &vec![Mat::from_fn(n, 1, |r, _| label(r)); stored], layouts[0])?;
    let (loss, hits) = (s.output("loss", [items, n, 1], layouts[1])?, s.output("hits", [items, n, 1], Layout::Inside)?);
    let delta = s.output("delta", shape, layouts[1])?;
    s.recorder.record(SoftmaxCrossEntropy {
        logits: logits.view,
        labels: labels.view,
        loss: loss.view,
        delta: delta.view,
        hits: hits.view,
    })?;
    let (mut losses, mut deltas, mut right, mut sizes) = (vec![], vec![], vec![], [vec![], vec![]]);
    for z in &logits.items {
        let row = |r: usize| (0..classes).map(|c| z[(r, c)]).collect::<Vec<_>>();
        let all: Vec<_> = (0..n).map(|r| sample(&row(r), label(r), n)).collect();
        // A difference of logits is rounded relative to itself, which is an absolute error in an exponent; beyond 87 the exponential is 0.
        let extreme = |r: usize, sign: f64| row(r).iter().fold(f64::NEG_INFINITY, |m, z| m.max(sign * z));
        let ranges: Vec<f64> = (0..n).map(|r| (extreme(r, 1.0) + extreme(r, -1.0)).min(87.0)).collect();
        losses.push(Mat::from_fn(n, 1, |r, _| all[r].0));
        deltas.push(Mat::from_fn(n, classes, |r, c| all[r].1[c]));
        right.push(Mat::from_fn(n, 1, |r, _| all[r].2));
        sizes[0].push(Mat::from_fn(n, 1, |r, _| all[r].0 * (1.0 + ranges[r])));
        sizes[1].push(Mat::from_fn(n, classes, |r, c| all[r].1[c].abs() * (1.0 + ranges[r])));
    }
    let done = s.run(1)?;
    let tol = Tol { absolute: 1e-36, ..Tol::gemm(classes) };
    about(done.expect_within(&loss, &losses, &sizes[0], tol), ("loss", shape, layouts, size))?;
    about(done.expect_within(&delta, &deltas, &sizes[1], tol), ("delta", shape, layouts, size))?;
    about(done.expect(&hits, &right, Tol::EXACT), ("hits", shape, layouts, size))
}

/// Logits, label, loss, delta times n, hit.
type ByHand = ([f64; 2], f64, f64, [f64; 2], f64);

/// Ties go to the first class; a bad logit spoils its own sample alone; a left-out sample hides even that.
fn by_hand(context: &Context) -> Outcome {
    let (half, nan) = (2f64.ln(), f64::NAN);
    let rows: [ByHand; 10] = [
        ([1.0, 1.0], 0.0, half, [-0.5, 0.5], 1.0),
        ([1.0, 1.0], 1.0, half, [0.5, -0.5], 0.0),
        ([1e4, -1e4], 0.0, 0.0, [0.0, 0.0], 1.0),
        ([1e4, -1e4], 1.0, 2e4, [1.0, -1.0], 0.0),
        ([0.0, -20.0], 0.0, (-20f64).exp().ln_1p(), [-(-20f64).exp(), (-20f64).exp()], 1.0),
        ([1.0, 1.0], 1.9, half, [0.5, -0.5], 0.0),
        ([nan, 1.0], 0.0, nan, [nan, nan], 0.0),
        ([1.0, f64::INFINITY], 1.0, f64::INFINITY, [f64::INFINITY; 2], 0.0),
        ([f64::NEG_INFINITY, 1.0], 1.0, f64::INFINITY, [f64::INFINITY; 2], 0.0),
        ([nan, f64::INFINITY], 2.0, 0.0, [0.0, 0.0], 0.0),
    ];
    let n = rows.len();
    for layout in [Layout::Dense, Layout::Transposed] {
        let mut s = Stage::new(context, 1);
        let logits = s.given("logits", 1, &[Mat::from_fn(n, 2, |r, c| rows[r].0[c])], layout)?;
        let labels = s.given("labels", 1, &[Mat::from_fn(1, n, |_, r| rows[r].1)], Layout::Dense)?;
        let (loss, hits) = (s.output("loss", [1, n, 1], layout)?, s.output("hits", [1, n, 1], layout)?);
        let delta = s.output("delta", [1, n, 2], layout)?;
        let labels = labels.view.t();
        s.recorder.record(SoftmaxCrossEntropy { logits: logits.view, labels, loss: loss.view, delta: delta.view, hits: hits.view })?;
        let done = s.run(1)?;
        let tol = Tol { absolute: 1e-36, ..Tol::roundings(8) };
        about(done.expect(&loss, &[Mat::from_fn(n, 1, |r, _| rows[r].2)], tol), layout)?;
        about(done.expect(&delta, &[Mat::from_fn(n, 2, |r, c| rows[r].3[c] / n as f64)], tol), layout)?;
        about(done.expect(&hits, &[Mat::from_fn(n, 1, |r, _| rows[r].4)], Tol::EXACT), layout)?;
    }
    Ok(())
}
