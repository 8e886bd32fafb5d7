//! `activation`: values and derivatives against f64, in every layout, at the ends of f32's range.

use std::f64::consts::PI;

use layerwise::plan::{Activation, Link};
use layerwise::{Bindings, Context, Recorder, Shape};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, data, random};

pub(super) const ROWS: &[Row] = &[
    ("activation", "shapes", shapes),
    ("activation", "views", views),
    ("activation", "extremes", extremes),
    ("activation", "dense_sweep", dense_sweep),
    ("activation", "small_inputs_keep_their_digits", small_inputs),
    ("activation", "nan_stays_infinity_ends", special),
    ("activation", "many_elements", many_elements),
];

const MIXED: Link = Link::Hermite([0.75, -0.5, 0.25]);
const LINKS: [Link; 8] = [Link::Tanh, Link::Relu, Link::CentredRelu, Link::Erf, Link::H1, Link::H2, Link::H3, MIXED];

/// `erf(x / sqrt 2)` by the series `sqrt(2/pi) exp(-x^2/2) sum x^(2k+1)/(2k+1)!!`, whose terms have one sign.
pub(crate) fn erf(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, 0.0);
    for k in 1..400 {
        sum += term;
        term *= x * x / f64::from(2 * k + 1);
    }
    (2.0 / PI).sqrt() * (-0.5 * x * x).exp() * sum
}

/// Value and derivative, each with the size that its rounding is relative to.
fn oracle(link: Link, x: f64) -> [(f64, f64); 2] {
    match link {
        Link::Tanh => [(x.tanh(), x.tanh().abs()), (1.0 / x.cosh().powi(2), 1.0)],
        Link::Relu | Link::CentredRelu => {
            let offset = if link == Link::Relu { 0.0 } else { 1.0 / (2.0 * PI).sqrt() };
            [(x.max(0.0) - offset, x.max(offset)), (f64::from(u8::from(x > 0.0)), 1.0)]
        }
        Link::Erf => [(erf(x), erf(x).abs()), ((2.0 / PI).sqrt() * (-0.5 * x * x).exp(), 1.0)],
        Link::Hermite(a) => {
            let [a1, a2, a3] = a.map(f64::from);
            let (a2, a3) = (a2 / 2f64.sqrt(), a3 / 6f64.sqrt());
            let (s, b) = (x.abs(), [a1.abs(), a2.abs(), a3.abs()]);
            [
                (a1 * x + a2 * (x * x - 1.0) + a3 * (x.powi(3) - 3.0 * x), b[0] * s + b[1] * (s * s + 1.0) + b[2] * (s.powi(3) + 3.0 * s)),
                (a1 + 2.0 * a2 * x + a3 * (3.0 * x * x - 3.0), b[0] + 2.0 * b[1] * s + b[2] * (3.0 * s * s + 3.0)),
            ]
        }
    }
}

/// Which result, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Value,
    ValueInPlace,
    Derivative,
    DerivativeInPlace,
}

const FORMS: [Form; 4] = [Form::Value, Form::ValueInPlace, Form::Derivative, Form::DerivativeInPlace];

/// Values within 6e-7 of themselves (the documented 1e-6 with a margin), derivatives within the documented 3e-7 of their factor.
fn tolerance(form: Form) -> Tol {
    let relative = if matches!(form, Form::Value | Form::ValueInPlace) { 6e-7 } else { 3e-7 };
    Tol { relative, absolute: 1e-37 }
}

fn check(context: &Context, link: Link, form: Form, items: &[Mat], layouts: [Layout; 3]) -> Outcome {
    let (rows, cols, count) = (items[0].rows, items[0].cols, items.len());
    let factors: Vec<Mat> = (0..count).map(|b| random(b as u64 + 7, rows, cols).map(|t| 3.0 * t)).collect();
    let mut s = Stage::new(context, cols);
    let stored = |layout: Layout, items: &[Mat]| if let Layout::Repeat(_, m) = layout { items[..m].to_vec() } else { items.to_vec() };
    let slope = matches!(form, Form::Derivative | Form::DerivativeInPlace);
    let (x, times, out) = match form {
        Form::ValueInPlace => {
            let out = s.updated("out", items, layouts[2])?;
            (out.clone(), None, out)
        }
        Form::DerivativeInPlace => {
            let x = s.given("x", count, &stored(layouts[0], items), layouts[0])?;
            let out = s.updated("out", &factors, layouts[2])?;
            (x, Some(out.clone()), out)
        }
        Form::Value | Form::Derivative => {
            let x = s.given("x", count, &stored(layouts[0], items), layouts[0])?;
            let times = if slope { Some(s.given("times", count, &stored(layouts[1], &factors), layouts[1])?) } else { None };
            (x, times, s.output("out", [count, rows, cols], layouts[2])?)
        }
    };
    s.recorder.record(Activation { link, x: x.view, times: times.as_ref().map(|t| t.view), out: out.view })?;
    let pair = |b: usize| {
        let part = |pick: fn((f64, f64)) -> f64| {
            Mat::from_fn(rows, cols, |r, c| {
                let factor = times.as_ref().map_or(1.0, |t| t.items[b][(r, c)]);
                let (value, size) = oracle(link, x.items[b][(r, c)])[usize::from(slope)];
                pick((factor * value, factor.abs() * size))
            })
        };
        (part(|p| p.0), part(|p| p.1))
    };
    let (want, size): (Vec<Mat>, Vec<Mat>) = (0..count).map(pair).unzip();
    about(s.run(1)?.expect_within(&out, &want, &size, tolerance(form)), (link, form, rows, cols, layouts))
}

fn spread(seed: usize, count: usize, rows: usize, cols: usize) -> Vec<Mat> {
    (0..count).map(|b| random((seed + b) as u64, rows, cols).map(|x| 4.0 * x)).collect()
}

fn shapes(context: &Context) -> Outcome {
    for (i, &(m, n)) in SHAPES.iter().enumerate() {
        for form in FORMS {
            check(context, LINKS[(i + 3) % LINKS.len()], form, &spread(i, batch(i), m, n), [Layout::Dense; 3])?;
            check(context, LINKS[i % 4], form, &spread(i, batch(i), m, n), [Layout::Dense; 3])?;
        }
    }
    Ok(())
}

fn views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    for link in [Link::Tanh, MIXED] {
        for (m, n) in [(1, 1), (3, 5), (67, 130)] {
            let items = spread(n, 6, m, n);
            for a in [Dense, Transposed, Inside, InsideTransposed, Repeat(2, 3), Repeat(1, 2)] {
                check(context, link, Form::Value, &items, [a, Dense, Dense])?;
                check(context, link, Form::Value, &items, [a, Dense, Transposed])?;
                check(context, link, Form::Derivative, &items, [Dense, a, Inside])?;
                check(context, link, Form::Derivative, &items, [a, Transposed, Transposed])?;
                check(context, link, Form::DerivativeInPlace, &items, [a, Dense, InsideTransposed])?;
            }
            for out in [Transposed, Inside, InsideTransposed] {
                check(context, link, Form::ValueInPlace, &items, [Dense, Dense, out])?;
            }
        }
    }
    Ok(())
}

/// Zero of either sign, subnormal and tiny numbers, the seams of the approximations, and far beyond saturation.
fn extremes(context: &Context) -> Outcome {
    let ends =
        [0.0, 1e-40, 1e-30, 1e-8, 1e-4, 0.17, 0.3465, 0.35, 0.999_999_9, 1.0, 1.000_000_1, 5.0, 12.9, 13.1, 20.0, 39.9, 40.1, 88.0, 1e4];
    let item = Mat::from_fn(2, ends.len(), |r, c| if r == 0 { ends[c] } else { -ends[c] });
    for link in LINKS {
        for form in FORMS {
            check(context, link, form, std::slice::from_ref(&item), [Layout::Dense; 3])?;
        }
    }
    for link in [Link::Tanh, Link::Relu, Link::Erf] {
        check(context, link, Form::Value, &[Mat::from_fn(1, 2, |_, c| if c == 0 { 3e38 } else { -3e38 })], [Layout::Dense; 3])?;
    }
    Ok(())
}

/// 20 000 points on [-10, 10].
fn dense_sweep(context: &Context) -> Outcome {
    let item = Mat::from_fn(100, 200, |r, c| -10.0 + 20.0 * (r * 200 + c) as f64 / 20_000.0);
    [Link::Tanh, Link::Erf].into_iter().try_for_each(|link| {
        let both = [Form::Value, Form::Derivative];
        both.into_iter().try_for_each(|form| check(context, link, form, std::slice::from_ref(&item), [Layout::Dense; 3]))
    })
}

/// Relative accuracy over 36 decades: no cancellation near 0.
fn small_inputs(context: &Context) -> Outcome {
    let item = Mat::from_fn(1, 720, |_, c| 10f64.powf(-36.0 + c as f64 / 20.0) * if c % 2 == 0 { 1.0 } else { -1.0 });
    [Link::Tanh, Link::Erf]
        .into_iter()
        .try_for_each(|link| check(context, link, Form::Value, std::slice::from_ref(&item), [Layout::Dense; 3]))
}

/// NaN goes through every form; infinities saturate.
fn special(context: &Context) -> Outcome {
    let scalar = |x: f64| Mat::from_fn(1, 1, |_, _| x);
    for link in LINKS {
        for slope in [false, true] {
            let mut s = Stage::new(context, 1);
            let x = s.given("x", 3, &[scalar(f64::NAN), scalar(1.0), scalar(-f64::NAN)], Layout::Dense)?;
            let times = s.given("times", 3, &vec![scalar(2.0); 3], Layout::Dense)?;
            let out = s.output("out", [3, 1, 1], Layout::Dense)?;
            s.recorder.record(Activation { link, x: x.view, times: slope.then_some(times.view), out: out.view })?;
            let got = s.run(1)?.items(&out)?;
            if !(got[0].is_nan() && got[1].is_finite() && got[2].is_nan()) {
                return Err(format!("{link:?}, derivative {slope}: {got:?}").into());
            }
        }
    }
    for (link, want) in [(Link::Tanh, [1.0, -1.0]), (Link::Erf, [1.0, -1.0]), (Link::Relu, [f64::INFINITY, 0.0])] {
        let mut s = Stage::new(context, 1);
        let x = s.given("x", 2, &[scalar(f64::INFINITY), scalar(f64::NEG_INFINITY)], Layout::Dense)?;
        let out = s.output("out", [2, 1, 1], Layout::Dense)?;
        s.recorder.record(Activation::new(link, x.view, out.view))?;
        about(s.run(1)?.expect(&out, &want.map(scalar), Tol::EXACT), link)?;
    }
    Ok(())
}

/// More elements than 65535 workgroups of 256 invocations reach at once.
fn many_elements(context: &Context) -> Outcome {
    let shape = Shape::new(3, 5_700, 1_000);
    let values = data(1, shape.elements());
    let mut r = Recorder::new();
    let (x, out) = (r.external("x", shape)?, r.external("out", shape)?);
    r.record(Activation::new(Link::Relu, x, out))?;
    let (source, target) = (context.upload(shape, &values)?, context.zeros(shape)?);
    let mut bindings = Bindings::new();
    bindings.bind(x, &source).bind(out, &target);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    let wrong = target.read()?.iter().zip(&values).position(|(got, x)| *got != x.max(0.0));
    wrong.map_or(Ok(()), |i| Err(format!("element {i} of {} is wrong", shape.elements()).into()))
}
