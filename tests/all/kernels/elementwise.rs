//! `axpby`, `convert`.

use layerwise::plan::{Axpby, Convert, Role};
use layerwise::{Bindings, Coef, Context, ElementType, Recorder, Shape};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::{Tol, close};
use crate::oracle::{Mat, data, round_f16};

pub(super) const ROWS: &[Row] = &[
    ("axpby", "copy", copy),
    ("axpby", "views", views),
    ("axpby", "combination", combination),
    ("axpby", "one_operand", one_operand),
    ("axpby", "block_coefficients", block_coefficients),
    ("axpby", "gate", gate),
    ("axpby", "ignores_what_zero_multiplies", ignores),
    ("axpby", "many_elements", many_elements),
    ("convert", "there_and_back", there_and_back),
    ("convert", "rounds_to_even", rounds_to_even),
    ("convert", "blocks_of_whole_words", blocks_of_whole_words),
];

fn copy(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        let mut s = Stage::new(context, i);
        let x = s.operand("x", [batch(i), m, n], Layout::Dense)?;
        let out = s.output("out", [batch(i), m, n], Layout::Dense)?;
        s.recorder.copy(x.view, out.view)?;
        about(s.run(1)?.expect(&out, &x.items, Tol::EXACT), (m, n))?;
    }
    Ok(())
}

fn eye(m: usize, n: usize) -> Mat {
    Mat::from_fn(m, n, |r, c| f64::from(u8::from(r == c)))
}

/// `alpha x + beta y + gamma I` and the sum of its absolute terms.
fn sum(x: &Mat, y: &Mat, alpha: f64, beta: f64, gamma: f64) -> (Mat, Mat) {
    let part = |x: Mat, y: Mat, a: f64, b: f64, g: f64| x.map(|x| a * x).plus(b, &y).plus(g, &eye(x.rows, x.cols));
    (part(x.clone(), y.clone(), alpha, beta, gamma), part(x.map(f64::abs), y.map(f64::abs), alpha.abs(), beta.abs(), gamma.abs()))
}

fn combine(context: &Context, seed: usize, shape: [usize; 3], layouts: [Layout; 3], in_place: bool) -> Outcome {
    let mut s = Stage::new(context, seed);
    let x = s.operand("x", shape, layouts[0])?;
    let y = s.operand("y", shape, layouts[1])?;
    let out = if in_place { s.updated("out", &y.items, layouts[2])? } else { s.output("out", shape, layouts[2])? };
    s.recorder.record(Axpby {
        alpha: Coef::Const(-1.5),
        beta: Coef::Const(0.75),
        gamma: Coef::Const(2.0),
        ..Axpby::add(x.view, if in_place { out.view } else { y.view }, out.view)
    })?;
    let (want, size): (Vec<_>, Vec<_>) = x.items.iter().zip(&y.items).map(|(x, y)| sum(x, y, -1.5, 0.75, 2.0)).unzip();
    about(s.run(1)?.expect_within(&out, &want, &size, Tol::roundings(4)), (shape, layouts, in_place))
}

fn combination(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        combine(context, i, [batch(i), m, n], [Layout::Dense; 3], false)?;
        combine(context, i, [batch(i), m, n], [Layout::Dense; 3], true)?;
    }
    Ok(())
}

fn views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    for (m, n) in [(1, 1), (3, 5), (64, 31), (67, 130)] {
        for a in [Dense, Transposed, Inside, InsideTransposed, Repeat(2, 3), Repeat(1, 2), Repeat(1, 1)] {
            combine(context, n, [6, m, n], [a, Dense, Dense], false)?;
            combine(context, n, [6, m, n], [Transposed, a, Inside], false)?;
        }
        for out in [Transposed, Inside, InsideTransposed] {
            combine(context, n, [6, m, n], [Dense, Inside, out], false)?;
            combine(context, n, [6, m, n], [Inside, Dense, out], true)?;
        }
    }
    Ok(())
}

fn one_operand(context: &Context) -> Outcome {
    for (m, n) in [(1, 1), (5, 9), (65, 33)] {
        for second in [false, true] {
            let mut s = Stage::new(context, n);
            let x = s.operand("x", [3, m, n], Layout::Inside)?;
            let out = s.output("out", [3, m, n], Layout::Dense)?;
            let (first, other) = if second { (None, Some(x.view)) } else { (Some(x.view), None) };
            let two = Coef::Const(2.0);
            s.recorder.record(Axpby {
                x: first,
                y: other,
                alpha: two,
                beta: two,
                gamma: Coef::Const(-0.5),
                ..Axpby::copy(x.view, out.view)
            })?;
            let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| sum(x, &Mat::zeros(m, n), 2.0, 0.0, -0.5)).unzip();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::roundings(3)), (m, n, second))?;
        }
    }
    Ok(())
}

fn block_coefficients(context: &Context) -> Outcome {
    for layout in [Layout::Dense, Layout::Inside, Layout::Repeat(1, 2), Layout::Repeat(2, 2)] {
        let mut s = Stage::new(context, 3);
        let x = s.operand("x", [4, 6, 5], Layout::Dense)?;
        let y = s.operand("y", [4, 6, 5], Layout::Dense)?;
        let block = s.operand("block", [4, 1, 6], layout)?;
        let out = s.output("out", [4, 6, 5], Layout::Dense)?;
        s.recorder.record(Axpby {
            alpha: Coef::column(5),
            beta: Coef::Column { column: 1, scale: -3.0 },
            gamma: Coef::column(0),
            block: Some(block.view),
            ..Axpby::add(x.view, y.view, out.view)
        })?;
        let items = (0..4).map(|i| {
            let row = &block.items[i].data;
            sum(&x.items[i], &y.items[i], row[5], -3.0 * row[1], row[0])
        });
        let (want, size): (Vec<_>, Vec<_>) = items.unzip();
        about(s.run(1)?.expect_within(&out, &want, &size, Tol::roundings(5)), layout)?;
    }
    Ok(())
}

fn gate(context: &Context) -> Outcome {
    for in_place in [false, true] {
        let mut s = Stage::new(context, 2);
        let x = s.operand("x", [5, 7, 3], Layout::Dense)?;
        let old: Vec<Mat> = (0..5).map(|b| crate::oracle::random(b + 50, 7, 3)).collect();
        let out = s.updated("out", &old, Layout::Inside)?;
        let open = [0.0, 1.0, 1.0, 0.0, 1.0];
        let gate = s.scalars("gate", &open)?;
        let y = in_place.then_some(out.view);
        s.recorder.record(Axpby { y, gate: Some(gate.view), ..Axpby::copy(x.view, out.view) })?;
        let kept = |i: usize| open[i] == 0.0;
        let new = |i: usize| if in_place { x.items[i].plus(1.0, &old[i]) } else { x.items[i].clone() };
        let want: Vec<Mat> = (0..5).map(|i| if kept(i) { old[i].clone() } else { new(i) }).collect();
        about(s.run(1)?.expect_to_largest(&out, &want, Tol::roundings(2)), in_place)?;
    }
    Ok(())
}

/// A constant zero coefficient leaves its operand unread: NaN there does no harm.
fn ignores(context: &Context) -> Outcome {
    for (alpha, beta) in [(0.0, 1.0), (1.0, 0.0)] {
        let mut s = Stage::new(context, 2);
        let x = s.operand("x", [2, 4, 4], Layout::Dense)?;
        let poison = s.given("poison", 2, &vec![Mat::from_fn(4, 4, |_, _| f64::NAN); 2], Layout::Dense)?;
        let out = s.output("out", [2, 4, 4], Layout::Dense)?;
        let (first, second) = if alpha == 0.0 { (poison.view, x.view) } else { (x.view, poison.view) };
        s.recorder.record(Axpby { alpha: Coef::Const(alpha), beta: Coef::Const(beta), ..Axpby::add(first, second, out.view) })?;
        about(s.run(1)?.expect(&out, &x.items, Tol::EXACT), (alpha, beta))?;
    }
    Ok(())
}

/// More elements than 65535 workgroups of 256 invocations reach at once.
fn many_elements(context: &Context) -> Outcome {
    let shape = Shape::new(3, 5_700, 1_000);
    let values = data(1, shape.elements());
    let mut r = Recorder::new();
    let (x, out) = (r.external("x", shape)?, r.external("out", shape)?);
    r.record(Axpby { alpha: Coef::Const(-2.0), ..Axpby::copy(x, out) })?;
    let (source, target) = (context.upload(shape, &values)?, context.zeros(shape)?);
    let mut bindings = Bindings::new();
    bindings.bind(x, &source).bind(out, &target);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    let wrong = target.read()?.iter().zip(&values).position(|(got, x)| *got != -2.0 * x);
    wrong.map_or(Ok(()), |i| Err(format!("element {i} of {} is wrong", shape.elements()).into()))
}

/// Below this a device may flush a half to zero.
const SMALLEST_NORMAL: f64 = 1.0 / 16384.0;

fn there_and_back(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        let mut s = Stage::new(context, i);
        let shape = Shape::new(batch(i), m, n);
        let x = s.operand("x", [batch(i), m, n], Layout::Dense)?;
        let half = s.recorder.declare("half".into(), shape, ElementType::F16, Role::Scratch)?;
        let out = s.output("out", [batch(i), m, n], Layout::Dense)?;
        s.recorder.record(Convert { x: x.view, out: half })?;
        s.recorder.record(Convert { x: half, out: out.view })?;
        let want: Vec<Mat> = x.items.iter().map(|x| x.map(round_f16)).collect();
        let size: Vec<Mat> = want.iter().map(|w| w.map(|w| f64::from(u8::from(w.abs() < SMALLEST_NORMAL)))).collect();
        about(s.run(1)?.expect_within(&out, &want, &size, Tol::relative(SMALLEST_NORMAL)), (m, n))?;
    }
    Ok(())
}

/// Ties, the smallest and largest normal half, and what a host reads back from packed storage.
fn rounds_to_even(context: &Context) -> Outcome {
    let ulp = 2f32.powi(-11);
    let values = [1.0, 1.0 + ulp, 1.0 + 3.0 * ulp, 1.0 + ulp * 1.001, -1.0 - ulp, 65504.0, -65504.0, 2f32.powi(-14), 0.1, 0.0];
    let shape = Shape::new(1, 1, values.len());
    let mut r = Recorder::new();
    let x = r.external("x", shape)?;
    let out = r.declare("out".into(), shape, ElementType::F16, Role::External)?;
    r.record(Convert { x, out })?;
    let (source, target) = (context.upload(shape, &values)?, context.zeros_of(shape, ElementType::F16)?);
    let mut bindings = Bindings::new();
    bindings.bind(x, &source).bind(out, &target);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    let want: Vec<f64> = values.iter().map(|&x| round_f16(f64::from(x))).collect();
    close(&target.read()?, &want, Tol::EXACT)?;
    let uploaded = context.upload_of(shape, ElementType::F16, &values)?;
    close(&uploaded.read()?, &want, Tol::EXACT)?;
    Ok(())
}

/// Rows 2 and 3 of four, out of and into packed storage: nothing around them moves, though the items have an odd number of elements.
fn blocks_of_whole_words(context: &Context) -> Outcome {
    let (whole, part) = (Shape::new(2, 5, 3), Shape::new(2, 2, 3));
    let mut r = Recorder::new();
    let mut declare = |name: &str, shape, element| r.declare(name.into(), shape, element, Role::External);
    let (from, to) = (declare("from", whole, ElementType::F16)?, declare("to", whole, ElementType::F16)?);
    let (middle, doubled) = (declare("middle", part, ElementType::F32)?, declare("doubled", part, ElementType::F32)?);
    r.record(Convert { x: from.row_range(2..4)?, out: middle })?;
    r.record(Axpby { alpha: Coef::Const(2.0), ..Axpby::copy(middle, doubled) })?;
    r.record(Convert { x: doubled, out: to.row_range(2..4)? })?;
    let values: Vec<f32> = (0u8..30).map(f32::from).collect();
    let (source, target) = (context.upload_of(whole, ElementType::F16, &values)?, context.upload_of(whole, ElementType::F16, &values)?);
    let mut bindings = Bindings::new();
    bindings.bind(from, &source).bind(to, &target).bind(middle, &context.zeros(part)?).bind(doubled, &context.zeros(part)?);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    let inside = |i: usize| (6..12).contains(&(i % 15));
    let want: Vec<f64> = values.iter().enumerate().map(|(i, &x)| f64::from(x) * if inside(i) { 2.0 } else { 1.0 }).collect();
    close(&target.read()?, &want, Tol::EXACT)?;
    Ok(())
}
