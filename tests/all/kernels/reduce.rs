//! `reduce`, `column_mean`, `check_finite`.

use layerwise::plan::{CheckFinite, ColumnMean, Reduce, ReduceKind};
use layerwise::{Context, Shape};
use libtest_mimic::Failed;

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::{Tol, close};
use crate::oracle::Mat;

pub(super) const ROWS: &[Row] = &[
    ("reduce", "sum_sq", |context| shapes(context, ReduceKind::SumSq)),
    ("reduce", "dot", |context| shapes(context, ReduceKind::Dot)),
    ("reduce", "max_abs", |context| shapes(context, ReduceKind::MaxAbs)),
    ("reduce", "trace", |context| {
        [1, 2, 31, 64, 65, 127, 300].iter().try_for_each(|&n| reduce(context, n, [3, n, n], ReduceKind::Trace, LAYOUTS[0]))
    }),
    ("reduce", "identity_gap", |context| {
        [1, 2, 31, 64, 65, 127].iter().try_for_each(|&n| reduce(context, n, [3, n, n], ReduceKind::IdentityGap, LAYOUTS[n % 2]))
    }),
    ("reduce", "sum", |context| shapes(context, ReduceKind::Sum)),
    ("reduce", "runs", runs),
    ("reduce", "two_stages", two_stages),
    ("reduce", "views", views),
    ("reduce", "large", large),
    ("reduce", "many_items", |context| reduce(context, 1, [70_000, 2, 3], ReduceKind::SumSq, LAYOUTS[0])),
    ("reduce", "max_abs_keeps_nan", max_abs_keeps_nan),
    ("reduce", "item_alone_equals_item_in_batch", alone),
    ("column_mean", "shapes", means),
    ("column_mean", "views", mean_views),
    ("column_mean", "broadcast_row", mean_of_a_broadcast_row),
    ("column_mean", "many_items", |context| mean(context, [70_000, 3, 2], [Layout::Dense; 2], None)),
    ("column_mean", "dots", dots),
    ("column_mean", "item_alone_equals_item_in_batch", mean_alone),
    ("check_finite", "flags", flags),
    ("check_finite", "shapes", flag_shapes),
    ("check_finite", "broadcast_row", flag_of_a_broadcast_row),
    ("check_finite", "many_items", |context| flagged(context, [70_000, 1, 2], Layout::Dense)),
];

const LAYOUTS: [[Layout; 2]; 4] = [
    [Layout::Dense, Layout::Dense],
    [Layout::Transposed, Layout::Inside],
    [Layout::InsideTransposed, Layout::Repeat(2, 3)],
    [Layout::Repeat(1, 2), Layout::Transposed],
];

fn scalar(x: f64) -> Mat {
    Mat::from_fn(1, 1, |_, _| x)
}

fn reduce(context: &Context, seed: usize, shape: [usize; 3], kind: ReduceKind, layouts: [Layout; 2]) -> Outcome {
    let mut s = Stage::new(context, seed);
    let x = s.operand("x", shape, layouts[0])?;
    let y = s.operand("y", shape, layouts[1])?;
    let out = s.output("out", [shape[0], 1, 1], Layout::Dense)?;
    s.recorder.record(Reduce { kind, x: x.view, y: (kind == ReduceKind::Dot).then_some(y.view), out: out.view, scale: -0.25 })?;
    let terms = |b: usize| -> Vec<f64> {
        let (x, y) = (&x.items[b], &y.items[b]);
        match kind {
            ReduceKind::SumSq => x.data.iter().map(|x| x * x).collect(),
            ReduceKind::Sum => x.data.clone(),
            ReduceKind::Dot => x.data.iter().zip(&y.data).map(|(x, y)| x * y).collect(),
            ReduceKind::Trace => (0..x.rows).map(|i| x[(i, i)]).collect(),
            ReduceKind::MaxAbs => vec![x.data.iter().fold(0.0, |m: f64, x| m.max(x.abs()))],
            ReduceKind::IdentityGap => vec![x.plus(-1.0, &Mat::identity(x.rows)).data.iter().fold(0.0, |m: f64, x| m.max(x.abs()))],
        }
    };
    let want: Vec<Mat> = (0..shape[0]).map(|b| scalar(-0.25 * terms(b).iter().sum::<f64>())).collect();
    let size: Vec<Mat> = (0..shape[0]).map(|b| scalar(0.25 * terms(b).iter().map(|t| t.abs()).sum::<f64>())).collect();
    let tol = if kind == ReduceKind::MaxAbs { Tol::EXACT } else { Tol::gemm(shape[1] * shape[2]) };
    about(s.run(1)?.expect_within(&out, &want, &size, tol), (shape, kind, layouts))
}

/// Each run of an item by itself; the last ones may be short or empty.
fn runs(context: &Context) -> Outcome {
    let kinds = [ReduceKind::SumSq, ReduceKind::Dot, ReduceKind::MaxAbs, ReduceKind::Sum];
    for (shape, count) in [([3, 7, 67], 4), ([6, 1, 300], 7), ([6, 300, 1], 299), ([6, 2, 3], 5), ([6, 67, 5], 2)] {
        for (kind, layouts) in kinds.iter().flat_map(|kind| LAYOUTS.map(|layouts| (*kind, layouts))) {
            if shape[0] % 6 != 0 && layouts != LAYOUTS[0] {
                continue;
            }
            let mut s = Stage::new(context, count);
            let x = s.operand("x", shape, layouts[0])?;
            let y = s.operand("y", shape, layouts[1])?;
            let out = s.output("out", [shape[0], 1, count], Layout::Inside)?;
            s.recorder.record(Reduce { kind, x: x.view, y: (kind == ReduceKind::Dot).then_some(y.view), out: out.view, scale: 0.5 })?;
            let length = (shape[1] * shape[2]).div_ceil(count);
            let term = |b: usize, e: usize| match kind {
                ReduceKind::SumSq => x.items[b].data[e].powi(2),
                ReduceKind::Dot => x.items[b].data[e] * y.items[b].data[e],
                _ => x.items[b].data[e],
            };
            let terms = |b: usize, run: usize| (run * length..((run + 1) * length).min(shape[1] * shape[2])).map(move |e| term(b, e));
            let largest = |b: usize, run: usize| terms(b, run).fold(0.0, |m: f64, x| m.max(x.abs()));
            let value = |b: usize, run: usize| if kind == ReduceKind::MaxAbs { largest(b, run) } else { terms(b, run).sum() };
            let row = |f: &dyn Fn(usize) -> f64| Mat::from_fn(1, count, |_, run| 0.5 * f(run));
            let want: Vec<Mat> = (0..shape[0]).map(|b| row(&|run| value(b, run))).collect();
            let size: Vec<Mat> = (0..shape[0]).map(|b| row(&|run| terms(b, run).map(f64::abs).sum())).collect();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(length)), (kind, shape, count, layouts))?;
        }
    }
    Ok(())
}

/// What the recorder does with large items: one poisoned element is found in any run.
fn two_stages(context: &Context) -> Outcome {
    let (m, n) = (310, 300);
    for kind in [ReduceKind::SumSq, ReduceKind::Dot, ReduceKind::MaxAbs, ReduceKind::IdentityGap] {
        let (m, n) = if kind == ReduceKind::IdentityGap { (n, n) } else { (m, n) };
        let mut s = Stage::new(context, 3);
        let x = s.operand("x", [2, m, n], Layout::Dense)?;
        let out = s.output("out", [2, 1, 1], Layout::Dense)?;
        s.recorder.reduce_into(Reduce { kind, x: x.view, y: (kind == ReduceKind::Dot).then_some(x.view), out: out.view, scale: 2.0 })?;
        let squares = |x: &Mat| 2.0 * x.data.iter().map(|x| x * x).sum::<f64>();
        let largest = |x: &Mat| 2.0 * x.data.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let want = x.items.iter().map(|x| match kind {
            ReduceKind::MaxAbs => largest(x),
            ReduceKind::IdentityGap => largest(&x.plus(-1.0, &Mat::identity(n))),
            _ => squares(x),
        });
        about(s.run(1)?.expect(&out, &want.map(scalar).collect::<Vec<_>>(), Tol::gemm(m * n)), kind)?;
    }
    for at in [0, 16_384, 92_999] {
        let poisoned = Mat::from_fn(m, n, |r, c| if r * n + c == at { f64::NAN } else { 1.0 });
        let mut s = Stage::new(context, 4);
        let x = s.given("x", 1, &[poisoned], Layout::Dense)?;
        let out = s.output("out", [1, 1, 1], Layout::Dense)?;
        s.recorder.reduce_into(Reduce { kind: ReduceKind::MaxAbs, x: x.view, y: None, out: out.view, scale: 1.0 })?;
        let got = s.run(1)?.items(&out)?;
        if !got[0].is_nan() {
            return Err(format!("NaN at {at}: {got:?}").into());
        }
    }
    Ok(())
}

fn shapes(context: &Context, kind: ReduceKind) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &(m, n))| reduce(context, i, [batch(i), m, n], kind, LAYOUTS[0]))
}

fn views(context: &Context) -> Outcome {
    for layouts in LAYOUTS {
        for kind in [ReduceKind::SumSq, ReduceKind::Dot, ReduceKind::MaxAbs] {
            reduce(context, 1, [6, 7, 67], kind, layouts)?;
        }
        reduce(context, 2, [6, 67, 67], ReduceKind::Trace, layouts)?;
    }
    Ok(())
}

fn large(context: &Context) -> Outcome {
    [ReduceKind::SumSq, ReduceKind::Dot, ReduceKind::MaxAbs]
        .into_iter()
        .try_for_each(|kind| reduce(context, 3, [2, 700, 301], kind, LAYOUTS[0]))
}

/// NaN wins wherever it stands; infinity wins over numbers.
fn max_abs_keeps_nan(context: &Context) -> Outcome {
    for at in [0, 1, 63, 64, 255, 256, 299] {
        let with = |value: f64| Mat::from_fn(1, 300, |_, c| if c == at { value } else { f64::from(u8::try_from(c % 7).unwrap_or(0)) });
        let items = [with(f64::NAN), with(-9.0), with(f64::NEG_INFINITY), with(0.0)];
        let mut s = Stage::new(context, 1);
        let x = s.given("x", 4, &items, Layout::Dense)?;
        let out = s.output("out", [4, 1, 1], Layout::Dense)?;
        s.recorder.record(Reduce { kind: ReduceKind::MaxAbs, x: x.view, y: None, out: out.view, scale: 1.0 })?;
        about(s.run(1)?.expect(&out, &[f64::NAN, 9.0, f64::INFINITY, 6.0].map(scalar), Tol::EXACT), at)?;
    }
    Ok(())
}

/// The order of summation depends on the item's shape alone.
fn alone(context: &Context) -> Outcome {
    for (m, n) in [(7, 31), (300, 300)] {
        let result = |items: usize| -> Result<Vec<f32>, Failed> {
            let mut s = Stage::new(context, 8);
            let x = s.operand("x", [7, m, n], Layout::Dense)?;
            let out = s.output("out", [items, 1, 1], Layout::Dense)?;
            s.recorder.record(Reduce { kind: ReduceKind::SumSq, x: x.view.item_range(0..items)?, y: None, out: out.view, scale: 1.0 })?;
            s.run(1)?.items(&out)
        };
        if result(1)?[0].to_bits() != result(7)?[0].to_bits() {
            return Err(format!("{m} x {n}: item 0 differs between a batch of 1 and of 7").into());
        }
    }
    Ok(())
}

/// Column means of `x`, or of `x y` where `y` has a layout.
fn mean(context: &Context, shape: [usize; 3], layouts: [Layout; 2], second: Option<Layout>) -> Outcome {
    let mut s = Stage::new(context, shape[1]);
    let x = s.operand("x", shape, layouts[0])?;
    let y = second.map(|layout| s.operand("y", shape, layout)).transpose()?;
    let out = s.output("out", [shape[0], 1, shape[2]], layouts[1])?;
    s.recorder.record(ColumnMean { x: x.view, y: y.as_ref().map(|y| y.view), out: out.view })?;
    let term = |b: usize, r: usize, c: usize| x.items[b][(r, c)] * y.as_ref().map_or(1.0, |y| y.items[b][(r, c)]);
    let part = |b: usize, f: &dyn Fn(f64) -> f64| {
        Mat::from_fn(1, shape[2], |_, c| (0..shape[1]).map(|r| f(term(b, r, c))).sum::<f64>() / shape[1] as f64)
    };
    let want: Vec<Mat> = (0..shape[0]).map(|b| part(b, &|t| t)).collect();
    let size: Vec<Mat> = (0..shape[0]).map(|b| part(b, &f64::abs)).collect();
    about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(shape[1])), (shape, layouts, second))
}

fn means(context: &Context) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &(m, n))| mean(context, [batch(i), m, n], [Layout::Dense; 2], None))?;
    mean(context, [2, 5000, 70], [Layout::Dense; 2], None)
}

fn mean_views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    let layouts = [[Transposed, Dense], [Inside, Inside], [InsideTransposed, Transposed], [Repeat(3, 2), InsideTransposed]];
    for layouts in layouts {
        for second in [None, Some(Dense), Some(Transposed), Some(InsideTransposed), Some(Repeat(2, 3))] {
            mean(context, [6, 67, 31], layouts, second)?;
        }
    }
    Ok(())
}

/// Inner products of columns.
fn dots(context: &Context) -> Outcome {
    use Layout::Dense;
    SHAPES.iter().enumerate().try_for_each(|(i, &(m, n))| mean(context, [batch(i), m, n], [Dense; 2], Some(Dense)))?;
    mean(context, [2, 700, 600], [Dense; 2], Some(Dense))?;
    mean(context, [70_000, 3, 2], [Dense; 2], Some(Dense))
}

/// The order of summation depends on the item's shape alone.
fn mean_alone(context: &Context) -> Outcome {
    for (m, n) in [(7, 31), (300, 300)] {
        let result = |items: usize| -> Result<Vec<f32>, Failed> {
            let mut s = Stage::new(context, 8);
            let x = s.operand("x", [7, m, n], Layout::Dense)?;
            let out = s.output("out", [items, 1, n], Layout::Dense)?;
            let x = x.view.item_range(0..items)?;
            s.recorder.record(ColumnMean { x, y: Some(x), out: out.view })?;
            Ok(s.run(1)?.items(&out)?[..n].to_vec())
        };
        if result(1)?.iter().map(|x| x.to_bits()).ne(result(7)?.iter().map(|x| x.to_bits())) {
            return Err(format!("{m} x {n}: item 0 differs between a batch of 1 and of 7").into());
        }
    }
    Ok(())
}

/// One stored row, upright and lying: strides of 0 in either place.
fn mean_of_a_broadcast_row(context: &Context) -> Outcome {
    for lying in [false, true] {
        let mut s = Stage::new(context, 3);
        let x = s.operand("x", [2, 1, 5], Layout::Dense)?;
        let view = x.view.broadcast_row(4)?;
        let view = if lying { view.t() } else { view };
        let out = s.output("out", [2, 1, view.cols()], Layout::Dense)?;
        s.recorder.record(ColumnMean { x: view, y: None, out: out.view })?;
        let mean = |x: &Mat, c: usize| if lying { x.data.iter().sum::<f64>() / 5.0 } else { x.data[c] };
        let want: Vec<Mat> = x.items.iter().map(|x| Mat::from_fn(1, view.cols(), |_, c| mean(x, c))).collect();
        let size: Vec<Mat> = x.items.iter().map(|x| Mat::from_fn(1, view.cols(), |_, _| x.data.iter().map(|x| x.abs()).sum())).collect();
        about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(5)), lying)?;
    }
    Ok(())
}

fn flag_of_a_broadcast_row(context: &Context) -> Outcome {
    for lying in [false, true] {
        let mut s = Stage::new(context, 3);
        let x = s.given(
            "x",
            2,
            &[Mat::from_fn(1, 5, |_, _| 1.0), Mat::from_fn(1, 5, |_, c| if c == 4 { f64::NAN } else { 1.0 })],
            Layout::Dense,
        )?;
        let view = x.view.broadcast_row(4)?;
        let flag = s.updated("flag", &[scalar(0.0), scalar(0.0)], Layout::Dense)?;
        s.recorder.record(CheckFinite { x: if lying { view.t() } else { view }, flag: flag.view })?;
        about(s.run(1)?.expect(&flag, &[scalar(0.0), scalar(1.0)], Tol::EXACT), lying)?;
    }
    Ok(())
}

/// The limit is 1e18 in magnitude; a flag is raised, never lowered; one bad item marks no other.
fn flags(context: &Context) -> Outcome {
    let with = |value: f64| Mat::from_fn(3, 100, |r, c| if (r, c) == (2, 57) { value } else { 1e17 });
    let cases = [
        (0.0, f64::NAN, 1.0),
        (0.0, 0.0, 0.0),
        (0.0, f64::INFINITY, 1.0),
        (1.0, 0.0, 1.0),
        (0.0, f64::NEG_INFINITY, 1.0),
        (0.0, -9e17, 0.0),
        (0.0, 1.1e18, 1.0),
        (0.0, -1.1e18, 1.0),
        (0.0, f64::from(f32::MIN_POSITIVE), 0.0),
        (0.0, -3e38, 1.0),
    ];
    for layout in [Layout::Dense, Layout::InsideTransposed] {
        let mut s = Stage::new(context, 1);
        let x = s.given("x", cases.len(), &cases.map(|c| with(c.1)), layout)?;
        let flag = s.updated("flag", &cases.map(|c| scalar(c.0)), Layout::Dense)?;
        s.recorder.record(CheckFinite { x: x.view, flag: flag.view })?;
        about(s.run(2)?.expect(&flag, &cases.map(|c| scalar(c.2)), Tol::EXACT), layout)?;
    }
    Ok(())
}

/// Every third item has one NaN, at a place that moves; flags are columns of a block.
fn flagged(context: &Context, [items, m, n]: [usize; 3], layout: Layout) -> Outcome {
    let mut s = Stage::new(context, n);
    let bad = |b: usize| b % 3 == 1;
    let item = |b: usize| Mat::from_fn(m, n, |r, c| if bad(b) && r * n + c == (b * 37) % (m * n) { f64::NAN } else { 1.0 });
    let x = s.given("x", items, &(0..items).map(item).collect::<Vec<_>>(), layout)?;
    let block = s.updated("block", &vec![Mat::from_fn(1, 5, |_, c| if c == 3 { 0.0 } else { 8.0 }); items], Layout::Dense)?;
    s.recorder.record(CheckFinite { x: x.view, flag: block.view.col_range(3..4)? })?;
    let want: Vec<Mat> = (0..items).map(|b| Mat::from_fn(1, 5, |_, c| if c == 3 { f64::from(u8::from(bad(b))) } else { 8.0 })).collect();
    about(s.run(1)?.expect(&block, &want, Tol::EXACT), (Shape::new(items, m, n), layout))
}

fn flag_shapes(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        flagged(context, [batch(i), m, n], Layout::Dense)?;
        flagged(context, [batch(i), m, n], Layout::InsideTransposed)?;
    }
    // Larger than a workgroup reaches in one turn.
    let mut s = Stage::new(context, 1);
    let mut values = vec![0.5f32; 200_000];
    values[199_999] = f32::NAN;
    let item = Mat { rows: 400, cols: 500, data: values.into_iter().map(f64::from).collect() };
    let x = s.given("x", 1, &[item], Layout::Dense)?;
    let flag = s.updated("flag", &[scalar(0.0)], Layout::Dense)?;
    s.recorder.record(CheckFinite { x: x.view, flag: flag.view })?;
    close(&s.run(1)?.items(&flag)?, &[1.0], Tol::EXACT)?;
    Ok(())
}
