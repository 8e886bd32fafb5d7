//! `spectral_divide`, `direction_outcome`, `damping_control`.

use layerwise::Context;
use layerwise::plan::{ControlStage, DampingControl, DirectionOutcome, SpectralDivide, block};

use super::control::row;
use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::Mat;

pub(super) const ROWS: &[Row] = &[
    ("spectral_divide", "shapes", |context| {
        SHAPES.iter().enumerate().try_for_each(|(i, &shape)| divide(context, batch(i), shape, [Layout::Dense; 2]))
    }),
    ("spectral_divide", "views", |context| divide(context, 5, (7, 67), [Layout::InsideTransposed, Layout::Inside])),
    ("spectral_divide", "zero_denominators", zero_denominators),
    ("direction_outcome", "counts", directions),
    ("damping_control", "predict", predict),
    ("damping_control", "observe", observe),
    ("damping_control", "many_items", many),
];

fn damping(i: usize) -> Mat {
    let scale = [1.0, 0.25, 8.0][i % 3];
    row(&[(block::DAMPING, 0.125), (block::RIDGE, [1.0, 10.0][i % 2]), (block::DAMPING_SCALE, scale)])
}

/// Eigenvalues of either sign: negative ones count as 0.
fn divide(context: &Context, items: usize, (m, n): (usize, usize), layouts: [Layout; 2]) -> Outcome {
    let mut s = Stage::new(context, n);
    let x = s.operand("x", [items, m, n], layouts[0])?;
    let left = s.operand("left", [items, 1, m], layouts[1])?;
    let right = s.operand("right", [items, 1, n], Layout::Dense)?;
    let rows: Vec<Mat> = (0..items).map(damping).collect();
    let block = s.given("block", items, &rows, Layout::Dense)?;
    let out = s.output("out", [items, m, n], layouts[1])?;
    s.recorder.record(SpectralDivide { x: x.view, left: left.view, right: right.view, block: block.view, out: out.view })?;
    let want: Vec<Mat> = (0..items)
        .map(|i| {
            let get = |column: u32| block.items[i].data[column as usize];
            let lambda = get(block::DAMPING) * get(block::RIDGE) * get(block::DAMPING_SCALE);
            let (l, r) = (&left.items[i].data, &right.items[i].data);
            Mat::from_fn(m, n, |a, b| x.items[i][(a, b)] / (l[a].max(0.0) * r[b].max(0.0) + lambda))
        })
        .collect();
    about(s.run(1)?.expect(&out, &want, Tol::roundings(16)), (items, m, n, layouts))
}

/// Nothing to divide by gives 0, not infinity.
fn zero_denominators(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 1);
    let one = |data: Vec<f64>| [Mat { rows: 1, cols: data.len(), data }];
    let x = s.given("x", 1, &one(vec![2.0; 4]), Layout::Dense)?;
    let left = s.given("left", 1, &one(vec![1e20]), Layout::Dense)?;
    let right = s.given("right", 1, &one(vec![0.0, -1.0, 1e20, 1e-20]), Layout::Dense)?;
    let rows = [row(&[(block::DAMPING, 0.0), (block::RIDGE, 1.0), (block::DAMPING_SCALE, 1.0)])];
    let block = s.given("block", 1, &rows, Layout::Dense)?;
    let out = s.output("out", [1, 1, 4], Layout::Dense)?;
    s.recorder.record(SpectralDivide { x: x.view, left: left.view, right: right.view, block: block.view, out: out.view })?;
    s.run(1)?.expect(&out, &one(vec![0.0, 0.0, 0.0, 2.0]), Tol::roundings(8))
}

/// Open or closed gate, factor 0 or not.
fn directions(context: &Context) -> Outcome {
    let items = [(1.0, 0.0, 4.0), (1.0, 0.5, 3.0), (0.0, 0.0, 3.0), (0.0, 1.0, 3.0)];
    let mut s = Stage::new(context, 1);
    let factor = s.scalars("factor", &items.map(|i| i.1))?;
    let item = |gate, count| row(&[(block::GATE, gate), (block::FAILED_DIRECTIONS, count)]);
    let block = s.updated("block", &items.map(|i| item(i.0, 3.0)), Layout::Dense)?;
    s.recorder.record(DirectionOutcome { factor: factor.view, block: block.view })?;
    s.run(1)?.expect(&block, &items.map(|i| item(i.0, i.2)), Tol::EXACT)
}

/// Columns of a block that the control knows, in this order.
const COLUMNS: [u32; 5] = [block::DAMPING_SCALE, block::LAST_LOSS, block::LOSS_AGE, block::PREDICTED, block::TICKS];

fn rows_of(items: &[[f64; 5]]) -> Vec<Mat> {
    items
        .iter()
        .map(|item| {
            let columns: Vec<_> = COLUMNS.into_iter().zip(*item).chain([(block::DAMPING, 0.5)]).collect();
            row(&columns)
        })
        .collect()
}

/// Runs one stage on items of two trials and compares all columns.
fn control(context: &Context, stage: ControlStage, x: &[f64], before: &[[f64; 5]], after: &[[f64; 5]]) -> Outcome {
    let mut s = Stage::new(context, 1);
    let x = s.scalars("x", x)?;
    let block = s.updated("block", &rows_of(before), Layout::Dense)?;
    s.recorder.record(DampingControl { stage, x: x.view, trials: 2, block: block.view })?;
    about(s.run(1)?.expect(&block, &rows_of(after), Tol::roundings(4)), stage)
}

/// Three terms of two trials, four items: two layers.
fn predict(context: &Context) -> Outcome {
    let terms = [1.0, 10.0, -3.5, 20.0, 0.5, 30.0];
    let before = [[2.0, 7.0, 0.0, 9.0, 0.0], [2.0, 7.0, 1.0, 9.0, 3.0], [2.0, 7.0, 2.0, 9.0, 4.0], [2.0, 7.0, 3.0, 9.0, 1.0]];
    let after = [[2.0, 7.0, 0.0, -2.0, 1.0], [2.0, 7.0, 2.0, 60.0, 4.0], [2.0, 7.0, 3.0, -2.0, 0.0], [2.0, 7.0, 3.0, 60.0, 2.0]];
    control(context, ControlStage::Predict { interval: 5 }, &terms, &before, &after)?;
    let after = [[2.0, 7.0, 0.0, 0.0, 0.0], [2.0, 7.0, 2.0, 0.0, 0.0]];
    for poison in [f64::NAN, f64::INFINITY] {
        control(context, ControlStage::Predict { interval: 1 }, &[poison, 1.0, 1.0, poison], &before[..2], &after)?;
    }
    Ok(())
}

/// Damping 0.5: every outcome of the comparison, and everything that is not one.
fn observe(context: &Context) -> Outcome {
    let stage = ControlStage::Observe { omega: 0.5, least: 0.1 };
    // (loss, before, scale after): due, a pair, predicted -2 from 10.
    let table = [
        (8.0, [2.0, 10.0, 2.0, -2.0, 0.0], 1.0),
        (9.0, [2.0, 10.0, 2.0, -2.0, 0.0], 2.0),
        (9.75, [2.0, 10.0, 2.0, -2.0, 0.0], 4.0),
        (12.0, [2.0, 10.0, 2.0, -2.0, 0.0], 4.0),
        // Not due; no pair; nothing predicted; two steps between; none.
        (8.0, [2.0, 10.0, 2.0, -2.0, 1.0], 2.0),
        (8.0, [2.0, 10.0, 0.0, -2.0, 0.0], 2.0),
        (8.0, [2.0, 10.0, 2.0, 0.0, 0.0], 2.0),
        (8.0, [2.0, 10.0, 3.0, -2.0, 0.0], 2.0),
        (8.0, [2.0, 10.0, 1.0, -2.0, 0.0], 2.0),
        // Bounds: 0.1 and 1e10 for the damping itself.
        (8.0, [0.3, 10.0, 2.0, -2.0, 0.0], 0.2),
        (12.0, [1.5e10, 10.0, 2.0, -2.0, 0.0], 2e10),
        // A negative loss, and a predicted increase.
        (-12.0, [2.0, -10.0, 2.0, -2.0, 0.0], 1.0),
        (12.0, [2.0, 10.0, 2.0, 2.0, 0.0], 1.0),
    ];
    for (loss, before, scale) in table {
        let after = [scale, loss, 1.0, before[3], before[4]];
        control(context, stage, &[loss, loss], &[before; 4], &[after; 4])?;
    }
    for poison in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        // The trial with the good loss does not notice.
        let before = [2.0, 10.0, 2.0, -2.0, 0.0];
        let after = [[1.0, 8.0, 1.0, -2.0, 0.0], [4.0, 0.0, 0.0, -2.0, 0.0]];
        control(context, stage, &[8.0, poison], &[before; 2], &after)?;
    }
    Ok(())
}

fn many(context: &Context) -> Outcome {
    let stage = ControlStage::Observe { omega: 0.5, least: 0.1 };
    control(context, stage, &[8.0, 8.0], &vec![[2.0, 10.0, 2.0, -2.0, 0.0]; 70_000], &vec![[1.0, 8.0, 1.0, -2.0, 0.0]; 70_000])
}
