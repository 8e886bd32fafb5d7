//! `momentum`, `normalise`, `polar_outcome`: what goes into a polar factor, and what becomes of it.

use layerwise::Context;
use layerwise::plan::{Coef, Momentum, MomentumForm, Normalise, PolarOutcome, block};

use super::control::row;
use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, random};

pub(super) const ROWS: &[Row] = &[
    ("momentum", "plain", |context| momenta(context, None)),
    ("momentum", "look_ahead", |context| momenta(context, AHEAD)),
    ("momentum", "corrected", |context| momenta(context, Some(MomentumForm::Corrected))),
    ("momentum", "views", |context| {
        momentum(context, 6, (7, 67), [Layout::InsideTransposed, Layout::Inside, Layout::Transposed], AHEAD, true)?;
        momentum(
            context,
            3,
            (67, 7),
            [Layout::Transposed, Layout::Transposed, Layout::InsideTransposed],
            Some(MomentumForm::Corrected),
            false,
        )
    }),
    ("momentum", "long", |context| momentum(context, 2, (130, 257), [Layout::Dense; 3], AHEAD, true)),
    ("normalise", "shapes", |context| {
        SHAPES.iter().enumerate().try_for_each(|(i, &shape)| normalise(context, batch(i), shape, [Layout::Dense; 2], 1.0, [1.0, 0.0]))
    }),
    ("normalise", "views", |context| {
        normalise(context, 5, (7, 67), [Layout::InsideTransposed, Layout::Inside], 1.0, [1.02, 1e-7])?;
        normalise(context, 4, (31, 5), [Layout::Repeat(2, 2), Layout::Transposed], 1.0, [1.0, 0.5])
    }),
    ("normalise", "scales", |context| {
        [1e-30, 1e-18, 1e18, 1e30].iter().try_for_each(|&scale| normalise(context, 3, (17, 33), [Layout::Dense; 2], scale, [1.0, 0.0]))?;
        // Half of the norm is epsilon's, and nearly all of it.
        normalise(context, 3, (4, 4), [Layout::Dense; 2], 1e-7, [1.0, 1e-7])?;
        normalise(context, 3, (4, 4), [Layout::Dense; 2], 1e-20, [1.0, 1e-7])
    }),
    ("normalise", "long", |context| normalise(context, 1, (250, 259), [Layout::Dense; 2], 1.0, [1.01, 1e-7])),
    ("normalise", "zero_and_poison", poison),
    ("polar_outcome", "heads", |context| [1, 3].iter().try_for_each(|&heads| outcomes(context, heads, 1))),
    ("polar_outcome", "many_items", |context| outcomes(context, 1, 2_000)),
];

const AHEAD: Option<MomentumForm> = Some(MomentumForm::LookAhead);

fn momenta(context: &Context, form: Option<MomentumForm>) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| momentum(context, batch(i), shape, [Layout::Dense; 3], form, i % 2 == 0))
}

/// Three steps; the gates of every fourth item from the third on are closed.
fn momentum(
    context: &Context,
    items: usize,
    (m, n): (usize, usize),
    layouts: [Layout; 3],
    form: Option<MomentumForm>,
    from_block: bool,
) -> Outcome {
    let mut s = Stage::new(context, n);
    let before: Vec<Mat> = (0..items).map(|i| random(70 + i as u64, m, n)).collect();
    let buffer = s.updated("m", &before, layouts[0])?;
    let g = s.operand("g", [items, m, n], layouts[1])?;
    let untouched: Vec<Mat> = vec![Mat::from_fn(m, n, |_, _| 3.0); items];
    let out = s.updated("out", &untouched, layouts[2])?;
    let item = |i: usize| {
        let gate = f64::from(u8::from(i % 4 != 2));
        // Nothing divides the fifth item of a kind: its average is taken for 0.
        let weight = if i % 5 == 4 { 0.0 } else { 0.25 };
        let columns = [(block::GATE, gate), (block::MOMENTUM, [0.875, 0.5, 0.0][i % 3]), (block::WEIGHT1, weight)];
        row(&[columns.as_slice(), &[(block::ONE_MINUS_BETA1, 0.25 * (1 + i % 2) as f64)]].concat())
    };
    let rows: Vec<Mat> = (0..items).map(item).collect();
    let block = s.given("block", items, &rows, Layout::Dense)?;
    let fresh = if from_block { Coef::Column { column: block::ONE_MINUS_BETA1, scale: 0.5 } } else { Coef::Const(1.0) };
    let (view, decay) = (form.map(|_| out.view), Coef::column(block::MOMENTUM));
    let kind = form.unwrap_or(MomentumForm::LookAhead);
    s.recorder.record(Momentum { g: g.view, m: buffer.view, out: view, form: kind, decay, fresh, block: block.view })?;
    let (mut want, mut ahead) = (before, untouched);
    for i in (0..items).filter(|i| i % 4 != 2) {
        let get = |column: u32| rows[i].data[column as usize];
        let fresh = if from_block { 0.5 * get(block::ONE_MINUS_BETA1) } else { 1.0 };
        let mix = |x: &Mat| x.map(|x| get(block::MOMENTUM) * x).plus(fresh, &g.items[i]);
        (0..3).for_each(|_| want[i] = mix(&want[i]));
        match form {
            None => {}
            Some(MomentumForm::LookAhead) => ahead[i] = mix(&want[i]),
            Some(MomentumForm::Corrected) if get(block::WEIGHT1) == 0.0 => ahead[i] = want[i].map(|_| 0.0),
            Some(MomentumForm::Corrected) => ahead[i] = want[i].map(|x| x / get(block::WEIGHT1)),
        }
    }
    let done = s.run(3)?;
    let ones: Vec<Mat> = want.iter().map(|x| x.map(|_| 4.0)).collect();
    about(done.expect_within(&buffer, &want, &ones, Tol::roundings(24)), (items, m, n, "m"))?;
    about(done.expect_within(&out, &ahead, &ones, Tol::roundings(24)), (items, m, n, "out"))
}

fn normalise(
    context: &Context,
    items: usize,
    (m, n): (usize, usize),
    layouts: [Layout; 2],
    scale: f64,
    [margin, epsilon]: [f32; 2],
) -> Outcome {
    let mut s = Stage::new(context, n);
    let values: Vec<Mat> = (0..items).map(|i| random(40 + i as u64, m, n).map(|x| x * scale)).collect();
    let x = s.given("x", items, &values, layouts[0])?;
    let out = s.output("out", [items, m, n], layouts[1])?;
    s.recorder.record(Normalise { x: x.view, out: out.view, margin, epsilon })?;
    let want = x.items.iter().map(|x| x.map(|e| e / (f64::from(margin) * (x.norm() + f64::from(epsilon)))));
    about(s.run(1)?.expect_to_largest(&out, &want.collect::<Vec<_>>(), Tol::roundings(24)), (items, m, n, scale, epsilon))
}

/// Zero stays zero; what is not finite leaves nothing finite but zeros, and its neighbours alone.
fn poison(context: &Context) -> Outcome {
    for epsilon in [0.0, 1e-7] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut s = Stage::new(context, 1);
            let good = random(5, 9, 11);
            let mut broken = good.clone();
            broken[(4, 5)] = bad;
            let x = s.given("x", 4, &[good.map(|_| 0.0), good.clone(), broken, good], Layout::Dense)?;
            let out = s.output("out", [4, 9, 11], Layout::Dense)?;
            s.recorder.record(Normalise { x: x.view, out: out.view, margin: 1.0, epsilon })?;
            let got = s.run(1)?.items(&out)?;
            let item = |i: usize| &got[i * 99..(i + 1) * 99];
            let alike = item(1).iter().zip(item(3)).all(|(a, b)| a == b && a.is_finite());
            let spoiled = item(2).iter().enumerate().all(|(i, x)| if i == 4 * 11 + 5 { x.is_nan() } else { *x == 0.0 });
            if !(alike && spoiled && item(0).iter().all(|x| *x == 0.0)) {
                return Err(format!("{bad} with epsilon {epsilon}: {:?}", &got[2 * 99..2 * 99 + 60]).into());
            }
        }
    }
    Ok(())
}

/// Sizes at the border, behind open and closed gates.
fn outcomes(context: &Context, heads: usize, times: usize) -> Outcome {
    let sizes = [0.0, 1.0, 1e18, 1.1e18, f64::INFINITY, f64::NAN, 3.0, 1e-30, f64::NAN];
    let gates = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0];
    let items = sizes.len() / heads * times;
    let size = |i: usize| sizes[i % sizes.len()];
    let gate = |item: usize| gates[item % gates.len()];
    let mut s = Stage::new(context, heads);
    let input = s.scalars("size", &(0..items * heads).map(size).collect::<Vec<_>>())?;
    let scale = s.output("scale", [items * heads, 1, 1], Layout::Dense)?;
    let ok = s.output("ok", [items * heads, 1, 1], Layout::Dense)?;
    let counted = |item: usize, count| row(&[(block::GATE, gate(item)), (block::FAILED_ROOTS, count)]);
    let before: Vec<Mat> = (0..items).map(|i| counted(i, 4.0)).collect();
    let block = s.updated("block", &before, Layout::Dense)?;
    s.recorder.record(PolarOutcome { size: input.view, scale: scale.view, ok: ok.view, factor: 0.75, block: block.view })?;
    // As f32 1e18 is the largest accepted magnitude.
    let good = |i: usize| size(i) <= 1.0001e18;
    let number = |x: f64| Mat::from_fn(1, 1, |_, _| x);
    let scales: Vec<Mat> = (0..items * heads).map(|i| number(if good(i) { 0.75 } else { 0.0 })).collect();
    let oks: Vec<Mat> = (0..items * heads).map(|i| number(if good(i) && gate(i / heads) != 0.0 { 1.0 } else { 0.0 })).collect();
    let failed = |item: usize| gate(item) != 0.0 && (item * heads..(item + 1) * heads).any(|i| !good(i));
    let after: Vec<Mat> = (0..items).map(|i| counted(i, if failed(i) { 5.0 } else { 4.0 })).collect();
    let done = s.run(1)?;
    about(done.expect(&scale, &scales, Tol::EXACT), ("scale", heads))?;
    about(done.expect(&ok, &oks, Tol::EXACT), ("ok", heads))?;
    about(done.expect(&block, &after, Tol::EXACT), ("block", heads))
}
