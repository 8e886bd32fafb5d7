//! `sgd_update`, `adam_update`: the fused tails, several steps against PyTorch's equations in f64.

use layerwise::Context;
use layerwise::plan::block;
use layerwise::plan::{AdamUpdate, Advance, Clock, DecayForm, GraftDirection, GraftScale, SgdUpdate, StepScale};

use super::control::row;
use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, random};

pub(super) const ROWS: &[Row] = &[
    ("sgd_update", "plain", |context| {
        sgd_forms(context, Form { momentum: false, nesterov: false, scaled: false, decay: DecayForm::Gradient })
    }),
    ("sgd_update", "momentum", |context| {
        sgd_forms(context, Form { momentum: true, nesterov: false, scaled: false, decay: DecayForm::Gradient })
    }),
    ("sgd_update", "nesterov", |context| {
        sgd_forms(context, Form { momentum: true, nesterov: true, scaled: false, decay: DecayForm::Gradient })
    }),
    ("sgd_update", "scaled", |context| {
        sgd_forms(context, Form { momentum: true, nesterov: false, scaled: true, decay: DecayForm::Gradient })
    }),
    ("sgd_update", "decoupled", |context| {
        sgd_forms(context, Form { momentum: false, nesterov: false, scaled: true, decay: DecayForm::Decoupled })
    }),
    ("sgd_update", "cautious", |context| {
        sgd_forms(context, Form { momentum: true, nesterov: true, scaled: true, decay: DecayForm::Cautious })
    }),
    ("sgd_update", "decoupled_nesterov", |context| {
        sgd_forms(context, Form { momentum: true, nesterov: true, scaled: true, decay: DecayForm::Decoupled })
    }),
    ("sgd_update", "views", sgd_views),
    ("sgd_update", "gate", sgd_gate),
    ("sgd_update", "zero_scale_refuses", zero_scale),
    ("adam_update", "coupled", |context| adam_forms(context, ADAM)),
    ("adam_update", "amsgrad", |context| adam_forms(context, AdamForm { amsgrad: true, ..ADAM })),
    ("adam_update", "nesterov", |context| adam_forms(context, AdamForm { nesterov: true, ..ADAM })),
    ("adam_update", "cautious", |context| adam_forms(context, AdamForm { decay: DecayForm::Cautious, nesterov: true, amsgrad: true })),
    ("adam_update", "decoupled", |context| adam_forms(context, DECOUPLED)),
    ("adam_update", "views", |context| {
        adam(
            context,
            6,
            (7, 67),
            [Layout::InsideTransposed, Layout::Inside, Layout::Transposed],
            AdamForm { amsgrad: true, ..DECOUPLED },
            &[],
        )
    }),
    ("adam_update", "long", |context| adam(context, 1, (130, 257), [Layout::Dense; 3], DECOUPLED, &[])),
    ("adam_update", "gate", |context| adam(context, 4, (5, 31), [Layout::Dense; 3], AdamForm { amsgrad: true, ..ADAM }, &[1, 2])),
    ("graft_scale", "grafted", |context| scales(context, true)),
    ("graft_scale", "own", |context| scales(context, false)),
    ("graft_scale", "views", |context| {
        scale(context, 6, (7, 67), [Layout::InsideTransposed, Layout::Repeat(1, 2)], true, 1.0)?;
        scale(context, 3, (33, 9), [Layout::Transposed, Layout::Inside], true, 1.0)
    }),
    ("graft_scale", "edges", scale_edges),
    ("step_scale", "forms", step_scales),
    ("graft_direction", "plain", |context| graft_forms(context, false)),
    ("graft_direction", "corrected", |context| graft_forms(context, true)),
    ("graft_direction", "views", |context| {
        graft(context, 6, (7, 67), [Layout::InsideTransposed, Layout::Inside, Layout::Transposed], true, &[])
    }),
    ("graft_direction", "gate", |context| graft(context, 4, (5, 31), [Layout::Dense; 3], true, &[1, 2])),
];

const STEPS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct AdamForm {
    decay: DecayForm,
    amsgrad: bool,
    nesterov: bool,
}

const ADAM: AdamForm = AdamForm { decay: DecayForm::Gradient, amsgrad: false, nesterov: false };
const DECOUPLED: AdamForm = AdamForm { decay: DecayForm::Decoupled, ..ADAM };

#[derive(Clone, Copy, Debug)]
struct Form {
    momentum: bool,
    nesterov: bool,
    scaled: bool,
    decay: DecayForm,
}

fn stored(x: f32) -> f64 {
    f64::from(x)
}

/// Hyper-parameters that differ from item to item; items in `refused` have their gradient refused at the first step.
fn rows(items: usize, refused: &[usize]) -> Vec<Mat> {
    let item = |i: usize| {
        let (beta1, beta2) = ([stored(0.9), 0.0][i % 2], stored(0.99));
        row(&[
            (block::LEARNING_RATE, 0.0625 * (1 + i % 3) as f64),
            (block::SCHEDULE, 0.0),
            (block::WARMUP_STEPS, 0.0),
            (block::BETA1, beta1),
            (block::ONE_MINUS_BETA1, 1.0 - beta1),
            (block::BETA2, beta2),
            (block::ONE_MINUS_BETA2, 1.0 - beta2),
            (block::EPSILON, stored(1e-6)),
            (block::WEIGHT_DECAY, [0.0, 0.125][i % 2]),
            (block::MOMENTUM, [0.875, 0.5, 0.0][i % 3]),
            (block::DAMPENING, [0.0, 0.25][i / 2 % 2]),
            (block::STEP, 0.0),
            (block::WEIGHT1, 0.0),
            (block::WEIGHT2, 0.0),
            (block::FLAG, f64::from(u8::from(refused.contains(&i)))),
            (block::SKIPPED, 0.0),
        ])
    };
    (0..items).map(item).collect()
}

/// The steps that an item takes.
fn taken(item: usize, refused: &[usize]) -> usize {
    STEPS - usize::from(refused.contains(&item))
}

/// Weights after a decay beside an update along `direction`.
fn shrunk(w: &Mat, direction: &Mat, shrink: f64, decay: DecayForm) -> Mat {
    let factor = |w: f64, d: f64| match decay {
        DecayForm::Gradient => 1.0,
        DecayForm::Cautious if w * d < 0.0 => 1.0,
        _ => 1.0 - shrink,
    };
    Mat { data: w.data.iter().zip(&direction.data).map(|(&w, &d)| factor(w, d) * w).collect(), ..w.clone() }
}

fn sgd(context: &Context, items: usize, (m, n): (usize, usize), form: Form, layouts: [Layout; 3], refused: &[usize]) -> Outcome {
    let mut s = Stage::new(context, n);
    let weights: Vec<Mat> = (0..items).map(|i| random(90 + i as u64, m, n)).collect();
    let w = s.updated("w", &weights, layouts[0])?;
    let g = s.operand("g", [items, m, n], layouts[1])?;
    // The first step must not read it.
    let buffer = s.updated("m", &vec![Mat::from_fn(m, n, |_, _| f64::NAN); items], layouts[2])?;
    let scales: Vec<f64> = (0..items).map(|i| 0.25 * (1 + i % 4) as f64).collect();
    let g_scale = s.scalars("g_scale", &scales)?;
    let block = s.updated("block", &rows(items, refused), Layout::Dense)?;
    s.recorder.record(Advance { block: block.view, clock: Clock::Step })?;
    s.recorder.record(SgdUpdate {
        w: w.view,
        g: g.view,
        m: form.momentum.then_some(buffer.view),
        g_scale: form.scaled.then_some(g_scale.view),
        nesterov: form.nesterov,
        decay: form.decay,
        block: block.view,
    })?;
    let want: Vec<(Mat, Mat)> = (0..items)
        .map(|i| {
            let get = |column: u32| block.items[i].data[column as usize];
            let (rate, momentum) = (get(block::LEARNING_RATE), get(block::MOMENTUM));
            let (mut w, mut b) = (w.items[i].clone(), Mat::zeros(m, n));
            for t in 0..taken(i, refused) {
                let mut g = g.items[i].map(|g| if form.scaled { scales[i] * g } else { g });
                if form.decay == DecayForm::Gradient {
                    g = g.plus(get(block::WEIGHT_DECAY), &w);
                }
                b = if t == 0 { g.clone() } else { b.map(|b| momentum * b).plus(1.0 - get(block::DAMPENING), &g) };
                let direction = match (form.momentum, form.nesterov) {
                    (false, _) => g,
                    (true, false) => b.clone(),
                    (true, true) => g.plus(momentum, &b),
                };
                w = shrunk(&w, &direction, rate * get(block::WEIGHT_DECAY), form.decay).plus(-rate, &direction);
            }
            (w, b)
        })
        .collect();
    let done = s.run(STEPS)?;
    let (weights, buffers): (Vec<_>, Vec<_>) = want.into_iter().unzip();
    let tol = Tol::roundings(12 * STEPS);
    about(done.expect_to_largest(&w, &weights, tol), (items, m, n, form, layouts, "w"))?;
    if form.momentum {
        about(done.expect_to_largest(&buffer, &buffers, tol), (items, m, n, form, layouts, "m"))?;
    }
    Ok(())
}

fn sgd_forms(context: &Context, form: Form) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| sgd(context, batch(i), shape, form, [Layout::Dense; 3], &[]))
}

fn sgd_views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Transposed};
    let form = Form { momentum: true, nesterov: true, scaled: true, decay: DecayForm::Gradient };
    for layouts in [[Inside, Transposed, Dense], [Transposed, Inside, InsideTransposed], [InsideTransposed, Dense, Inside]] {
        sgd(context, 6, (31, 65), form, layouts, &[])?;
    }
    sgd(context, 6, (31, 65), form, [Transposed; 3], &[])?;
    // Longer than what one thread takes at once.
    sgd(context, 1, (130, 257), form, [Dense; 3], &[])?;
    sgd(context, 1, (130, 257), Form { momentum: false, nesterov: false, scaled: false, decay: DecayForm::Gradient }, [Dense; 3], &[])
}

fn sgd_gate(context: &Context) -> Outcome {
    let form = Form { momentum: true, nesterov: false, scaled: false, decay: DecayForm::Gradient };
    sgd(context, 5, (7, 9), form, [Layout::Dense; 3], &[0, 3])
}

/// A scale of 0 refuses a direction, also one that overflowed: decay and momentum go on, NaN does not enter.
fn zero_scale(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 1);
    let w = s.updated("w", &[random(1, 3, 4), random(2, 3, 4)], Layout::Dense)?;
    let g = s.given("g", 2, &vec![Mat::from_fn(3, 4, |r, _| [f64::NAN, f64::INFINITY, 1.0][r]); 2], Layout::Dense)?;
    let scale = s.scalars("g_scale", &[0.0, 0.0])?;
    let block = s.updated("block", &rows(2, &[]), Layout::Dense)?;
    s.recorder.record(Advance { block: block.view, clock: Clock::Step })?;
    s.recorder.record(SgdUpdate {
        w: w.view,
        g: g.view,
        m: None,
        g_scale: Some(scale.view),
        nesterov: false,
        decay: DecayForm::Gradient,
        block: block.view,
    })?;
    let kept = |i: usize| {
        let get = |column: u32| block.items[i].data[column as usize];
        w.items[i].map(|w| w * (1.0 - get(block::LEARNING_RATE) * get(block::WEIGHT_DECAY)))
    };
    let want = [kept(0), kept(1)];
    s.run(1)?.expect(&w, &want, Tol::roundings(4))
}

fn adam(context: &Context, items: usize, (m, n): (usize, usize), layouts: [Layout; 3], form: AdamForm, refused: &[usize]) -> Outcome {
    let mut s = Stage::new(context, n);
    let weights: Vec<Mat> = (0..items).map(|i| random(70 + i as u64, m, n)).collect();
    let zeros = vec![Mat::zeros(m, n); items];
    let w = s.updated("w", &weights, layouts[0])?;
    let g = s.operand("g", [items, m, n], layouts[1])?;
    let first = s.updated("m", &zeros, layouts[2])?;
    let second = s.updated("v", &zeros, layouts[1])?;
    let largest = s.updated("v_max", &zeros, layouts[0])?;
    let block = s.updated("block", &rows(items, refused), Layout::Dense)?;
    s.recorder.record(Advance { block: block.view, clock: Clock::Step })?;
    s.recorder.record(AdamUpdate {
        w: w.view,
        g: g.view,
        m: first.view,
        v: second.view,
        v_max: form.amsgrad.then_some(largest.view),
        nesterov: form.nesterov,
        decay: form.decay,
        block: block.view,
    })?;
    let mut want = [vec![], vec![], vec![], vec![]];
    for (i, zero) in zeros.iter().enumerate() {
        let get = |column: u32| block.items[i].data[column as usize];
        let (rate, decay, epsilon) = (get(block::LEARNING_RATE), get(block::WEIGHT_DECAY), get(block::EPSILON));
        let (beta1, beta2) = (get(block::BETA1), get(block::BETA2));
        let (mut w, mut m, mut v, mut x) = (w.items[i].clone(), zero.clone(), zero.clone(), zero.clone());
        for t in 1..=taken(i, refused) {
            let mut gradient = g.items[i].clone();
            if form.decay == DecayForm::Gradient {
                gradient = gradient.plus(decay, &w);
            }
            m = m.map(|m| beta1 * m).plus(1.0 - beta1, &gradient);
            v = v.map(|v| beta2 * v).plus(1.0 - beta2, &gradient.map(|g| g * g));
            let power = f64::from(u32::try_from(t)?);
            let (c1, c2) = (1.0 - beta1.powf(power), 1.0 - beta2.powf(power));
            if form.amsgrad {
                x.data.iter_mut().zip(&v.data).for_each(|(x, &v)| *x = x.max(v));
            }
            let divisor = if form.amsgrad { &x } else { &v };
            let numerator = if form.nesterov {
                m.map(|m| beta1 * m / (1.0 - beta1.powf(power + 1.0))).plus((1.0 - beta1) / c1, &gradient)
            } else {
                m.map(|m| m / c1)
            };
            let quotients = numerator.data.iter().zip(&divisor.data).map(|(n, v)| n / ((v / c2).sqrt() + epsilon));
            let direction = Mat { data: quotients.collect(), ..w.clone() };
            w = shrunk(&w, &direction, rate * decay, form.decay).plus(-rate, &direction);
        }
        for (list, result) in want.iter_mut().zip([w, m, v, x]) {
            list.push(result);
        }
    }
    let done = s.run(STEPS)?;
    // About a dozen roundings a step; a device may divide and take roots with errors of a few units in the last place.
    let tol = Tol::roundings(20 * STEPS);
    for ((operand, want), name) in [w, first, second, largest].iter().zip(&want).zip(["w", "m", "v", "v_max"]) {
        about(done.expect_to_largest(operand, want, tol), (items, m, n, layouts, form, name))?;
    }
    Ok(())
}

fn adam_forms(context: &Context, form: AdamForm) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| adam(context, batch(i), shape, [Layout::Dense; 3], form, &[]))
}

fn graft(context: &Context, items: usize, (m, n): (usize, usize), layouts: [Layout; 3], corrected: bool, refused: &[usize]) -> Outcome {
    let mut s = Stage::new(context, n);
    let g = s.operand("g", [items, m, n], layouts[0])?;
    let filtered = s.operand("m", [items, m, n], layouts[1])?;
    let v = s.updated("v", &vec![Mat::zeros(m, n); items], layouts[2])?;
    let kept: Vec<Mat> = (0..items).map(|i| random(50 + i as u64, m, n)).collect();
    let out = s.updated("out", &kept, layouts[0])?;
    let block = s.updated("block", &rows(items, refused), Layout::Dense)?;
    s.recorder.record(Advance { block: block.view, clock: Clock::Step })?;
    s.recorder.record(GraftDirection { g: g.view, m: filtered.view, v: v.view, corrected, out: out.view, block: block.view })?;
    let mut want = [vec![], vec![]];
    for i in 0..items {
        let get = |column: u32| block.items[i].data[column as usize];
        let (beta2, epsilon) = (get(block::BETA2), get(block::EPSILON));
        let mut second = Mat::zeros(m, n);
        for _ in 0..taken(i, refused) {
            second = second.map(|v| beta2 * v).plus(1.0 - beta2, &g.items[i].map(|g| g * g));
        }
        let correction = if corrected { 1.0 - beta2.powf(f64::from(u32::try_from(taken(i, refused))?)) } else { 1.0 };
        let data = filtered.items[i].data.iter().zip(&second.data).map(|(m, v)| m / ((v / correction).sqrt() + epsilon)).collect();
        want[1].push(Mat { data, ..second.clone() });
        want[0].push(second);
    }
    let done = s.run(STEPS)?;
    let tol = Tol { relative: 40.0 * STEPS as f64 * f64::from(f32::EPSILON), absolute: 1e-37 };
    about(done.expect_to_largest(&v, &want[0], tol), (items, m, n, layouts, corrected, "v"))?;
    about(done.expect_to_largest(&out, &want[1], tol), (items, m, n, layouts, corrected, "out"))
}

fn graft_forms(context: &Context, corrected: bool) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| graft(context, batch(i), shape, [Layout::Dense; 3], corrected, &[]))
}

fn number(x: f64) -> Mat {
    Mat::from_fn(1, 1, |_, _| x)
}

fn scales(context: &Context, grafted: bool) -> Outcome {
    SHAPES.iter().enumerate().try_for_each(|(i, &shape)| scale(context, batch(i), shape, [Layout::Dense; 2], grafted, 1.0))?;
    // Squares at both ends of f32's range.
    [1e-17, 1e15].iter().try_for_each(|&size| scale(context, 3, (5, 31), [Layout::Dense; 2], grafted, size))
}

fn scale(context: &Context, items: usize, (m, n): (usize, usize), layouts: [Layout; 2], grafted: bool, size: f64) -> Outcome {
    let mut s = Stage::new(context, n);
    let values: Vec<Mat> = (0..items).map(|i| random(20 + i as u64, m, n).map(|x| x * size)).collect();
    let x = s.given("x", items, &values, layouts[0])?;
    let donor = s.operand("donor", [items, m, n], layouts[1])?;
    let out = s.output("out", [items, 1, 1], Layout::Dense)?;
    s.recorder.record(GraftScale { x: x.view, donor: grafted.then_some(donor.view), out: out.view })?;
    let want = (0..items).map(|i| if grafted { donor.items[i].norm() / (x.items[i].norm() + 1e-16) } else { 1.0 });
    about(s.run(1)?.expect(&out, &want.map(number).collect::<Vec<_>>(), Tol::roundings(24)), (items, m, n, size))
}

/// What overflows, alone or as a ratio, is refused; the zero tensor takes on any norm as 1e16 of it.
fn scale_edges(context: &Context) -> Outcome {
    let table = [
        (2.0, 0.0, 2e16),
        (0.0, 0.0, 0.0),
        (0.0, 3.0, 0.0),
        (1.0, 1e30, 0.0),
        (1e30, 1.0, 0.0),
        (1.0, f64::NAN, 0.0),
        (f64::NAN, 1.0, 0.0),
        (1.0, f64::INFINITY, 0.0),
        (6.0, 3.0, 2.0),
    ];
    let mut s = Stage::new(context, 1);
    let columns = |f: fn(&(f64, f64, f64)) -> f64| {
        let column = |t: &(f64, f64, f64)| Mat::from_fn(3, 1, |r, _| if r == 1 { f(t) } else { 0.0 });
        table.iter().map(column).collect::<Vec<_>>()
    };
    let donor = s.given("donor", table.len(), &columns(|t| t.0), Layout::Dense)?;
    let x = s.given("x", table.len(), &columns(|t| t.1), Layout::Dense)?;
    let out = s.output("out", [table.len(), 1, 1], Layout::Dense)?;
    s.recorder.record(GraftScale { x: x.view, donor: Some(donor.view), out: out.view })?;
    s.run(1)?.expect(&out, &table.map(|t| number(t.2)), Tol::roundings(8))
}

fn step_scales(context: &Context) -> Outcome {
    for (decayed, corrected) in [(false, false), (true, false), (false, true), (true, true)] {
        let item = |i: usize| {
            let (weight1, weight2) = ([0.25, 0.5, 0.0][i % 3], [0.0625, 1.0][i % 2]);
            let weights = [(block::WEIGHT1, weight1), (block::WEIGHT2, weight2)];
            row(&[weights.as_slice(), &[(block::CURRENT_RATE, 0.125 * (i % 5) as f64), (block::WEIGHT_DECAY, 0.5)]].concat())
        };
        let rows: Vec<Mat> = (0..300).map(item).collect();
        let mut s = Stage::new(context, 1);
        let block = s.given("block", rows.len(), &rows, Layout::Dense)?;
        let out = s.output("out", [rows.len(), 1, 1], Layout::Dense)?;
        s.recorder.record(StepScale { decayed, corrected, out: out.view, block: block.view })?;
        let want = rows.iter().map(|row| {
            let get = |column: u32| row.data[column as usize];
            let correction = if get(block::WEIGHT1) == 0.0 { 0.0 } else { get(block::WEIGHT2).sqrt() / get(block::WEIGHT1) };
            let shrink = if decayed { 1.0 - get(block::CURRENT_RATE) * get(block::WEIGHT_DECAY) } else { 1.0 };
            number(shrink * if corrected { correction } else { 1.0 })
        });
        about(s.run(1)?.expect(&out, &want.collect::<Vec<_>>(), Tol::roundings(8)), (decayed, corrected))?;
    }
    Ok(())
}
