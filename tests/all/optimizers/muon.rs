//! Muon: against its equations in f64, and its laws.

use layerwise::linalg::{NewtonSchulz, Precision};
use layerwise::optim::{Accumulation, Group, Muon, MuonScale, Optimizer, Parameter};
use layerwise::{Context, Error, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{ensure, fill, optimizer, same, state};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close};
use crate::oracle::{Mat, matmul, orthonormal_rows, random};

/// Wide, tall, square, one row, two columns.
const SHAPES: [(usize, usize); 6] = [(6, 17), (33, 8), (12, 12), (1, 17), (40, 2), (64, 48)];

/// `out` from the Newton-Schulz iteration on the smaller side.
fn newton_schulz(x: &Mat, muon: &Muon) -> Mat {
    if x.rows > x.cols {
        return newton_schulz(&x.t(), muon).t();
    }
    let (triples, margin) = muon.newton_schulz.triples();
    let mut x = x.map(|e| e / (margin * (x.norm() + muon.epsilon)));
    for i in 0..muon.steps.unwrap_or(triples.len()) {
        let [a, b, c] = triples[i.min(triples.len() - 1)];
        let gram = matmul(&x, &x.t());
        let polynomial = gram.map(|e| b * e).plus(c, &matmul(&gram, &gram));
        x = x.map(|e| a * e).plus(1.0, &matmul(&polynomial, &x));
    }
    x
}

fn rows(x: &Mat, first: usize, count: usize) -> Mat {
    Mat::from_fn(count, x.cols, |r, c| x[(first + r, c)])
}

/// One weight in f64.
struct Oracle {
    w: Mat,
    m: Mat,
    v: Vec<f64>,
}

impl Oracle {
    fn new(w: Mat) -> Self {
        Oracle { m: Mat::zeros(w.rows, w.cols), v: vec![0.0; w.rows], w }
    }

    fn step(&mut self, muon: &Muon, rate: f64, g: &Mat) {
        let new = if muon.accumulation == Accumulation::Ema { 1.0 - muon.momentum } else { 1.0 };
        let mix = |m: &Mat| m.map(|x| muon.momentum * x).plus(new, g);
        self.m = mix(&self.m);
        let u = if muon.nesterov { mix(&self.m) } else { self.m.clone() };
        let height = self.w.rows / muon.heads;
        let mut direction = Mat::zeros(self.w.rows, self.w.cols);
        for head in 0..muon.heads {
            let mut o = newton_schulz(&rows(&u, head * height, height), muon);
            if let Some(decay) = muon.neuron_decay {
                let norm = o.norm();
                let v = &mut self.v[head * height..][..height];
                for (r, v) in v.iter_mut().enumerate() {
                    let square = (0..o.cols).map(|c| o[(r, c)].powi(2)).sum::<f64>() / o.cols as f64;
                    *v = decay * *v + (1.0 - decay) * square;
                }
                o = Mat::from_fn(o.rows, o.cols, |r, c| o[(r, c)] / (v[r] + 1e-16).sqrt());
                o = o.map(|x| x * norm / o.norm());
            }
            let (out, inn) = (muon.fan_out.unwrap_or(height) as f64, muon.fan_in.unwrap_or(o.cols) as f64);
            let scale = match muon.scale {
                MuonScale::Original => 1f64.max(out / inn).sqrt(),
                MuonScale::MatchRmsAdamW => 0.2 * out.max(inn).sqrt(),
                MuonScale::Spectral => (out / inn).sqrt(),
            };
            for r in 0..height {
                for c in 0..o.cols {
                    direction[(head * height + r, c)] = scale * o[(r, c)];
                }
            }
        }
        self.w = self.w.map(|w| (1.0 - rate * muon.weight_decay) * w).plus(-rate, &direction);
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(x: &Mat) -> Vec<f32> {
    x.data.iter().map(|&x| x as f32).collect()
}

fn wide(x: &[f32], rows: usize, cols: usize) -> Mat {
    Mat { rows, cols, data: x.iter().map(|&x| f64::from(x)).collect() }
}

/// A weight of some trials with its gradient.
fn weight(ctx: &Context, trials: usize, rows: usize, cols: usize) -> Result<(Tensor, Tensor), Failed> {
    let shape = Shape::new(trials, rows, cols);
    let weight = ctx.zeros(shape)?;
    fill(&weight, 3, 0)?;
    Ok((weight, ctx.zeros(shape)?))
}

fn group(muon: Muon, tensors: &(Tensor, Tensor)) -> Group {
    Group::new(muon).parameter(Parameter::new("w", &tensors.0, &tensors.1))
}

/// Every setting at a value of its own, against f64, two trials with rates of their own.
fn follows_its_equations(ctx: &Context) -> Outcome {
    let plain = Muon { weight_decay: 0.3, ..Muon::default() };
    let ten = [[2.0, -1.5, 0.5]];
    let forms = [
        plain,
        Muon { accumulation: Accumulation::Sum, momentum: 0.8, ..plain },
        Muon { nesterov: false, newton_schulz: NewtonSchulz::You, scale: MuonScale::MatchRmsAdamW, ..plain },
        Muon { nesterov: false, accumulation: Accumulation::Sum, scale: MuonScale::Spectral, ..plain },
        Muon { momentum: 0.0, newton_schulz: NewtonSchulz::You, steps: Some(3), ..plain },
        Muon { newton_schulz: NewtonSchulz::PolarExpress8, fan_out: Some(9), fan_in: Some(2), ..plain },
        Muon { newton_schulz: NewtonSchulz::Custom(ten.to_vec().leak()), steps: Some(10), epsilon: 0.5, ..plain },
        Muon { neuron_decay: Some(0.9), ..plain },
    ];
    let split = |heads, neuron_decay| Muon { heads, neuron_decay, scale: MuonScale::Spectral, ..plain };
    let with_heads =
        [((12, 12), split(3, None)), ((40, 2), split(4, Some(0.5))), ((64, 48), split(2, Some(0.9))), ((6, 17), split(6, None))];
    let all = SHAPES.into_iter().flat_map(|shape| forms.map(|form| (shape, form)));
    for ((rows, cols), muon) in all.chain(with_heads) {
        let tensors = weight(ctx, 2, rows, cols)?;
        let (rates, area) = ([0.02, 0.05], rows * cols);
        let start = tensors.0.read()?;
        let mut oracles = [0, 1].map(|t| Oracle::new(wide(&start[t * area..(t + 1) * area], rows, cols)));
        let mut optimizer = optimizer(ctx, group(muon, &tensors).learning_rates(&rates))?;
        for step in 0..4 {
            fill(&tensors.1, 9, step)?;
            optimizer.step()?;
            let gradient = tensors.1.read()?;
            for (t, oracle) in oracles.iter_mut().enumerate() {
                oracle.step(&muon, rates[t], &wide(&gradient[t * area..(t + 1) * area], rows, cols));
            }
        }
        let want: Vec<f64> = oracles.iter().flat_map(|o| o.w.data.clone()).collect();
        close(&tensors.0.read()?, &want, Tol::absolute(1e-5)).map_err(|e| format!("[{rows}, {cols}], {muon:?}: {e}"))?;
    }
    Ok(())
}

/// Operands rounded to f16: directions within what the precision states, and not those of f32.
fn half(ctx: &Context) -> Outcome {
    for (rows, cols) in [(1, 17), (12, 12), (33, 8), (64, 48), (65, 130), (128, 128)] {
        let muon = Muon { precision: Precision::F16, ..Muon::default() };
        let tensors = weight(ctx, 2, rows, cols)?;
        fill(&tensors.1, 9, 1)?;
        let (start, gradient, area) = (tensors.0.read()?, tensors.1.read()?, rows * cols);
        optimizer(ctx, group(muon, &tensors).learning_rates(&[1.0, 1.0]))?.step()?;
        let end = tensors.0.read()?;
        for t in [0, 1] {
            let part = |x: &[f32]| wide(&x[t * area..(t + 1) * area], rows, cols);
            let mut oracle = Oracle::new(part(&start));
            oracle.step(&muon, 1.0, &part(&gradient));
            let direction = oracle.w.plus(-1.0, &part(&start));
            let error = part(&end).plus(-1.0, &oracle.w).norm() / direction.norm();
            ensure(error < 3.5e-2 && error > 1e-6, || format!("[{rows}, {cols}]: {error:e}"))?;
        }
    }
    Ok(())
}

/// Rotating the spaces of inputs and outputs rotates the trajectory.
fn commutes_with_rotations(ctx: &Context) -> Outcome {
    for (rows, cols) in SHAPES {
        // The identity keeps the rows far from dependent.
        let rotation = |seed, n| orthonormal_rows(&random(seed, n, n).plus(2.0, &Mat::from_fn(n, n, |r, c| f64::from(u8::from(r == c)))));
        let (p, q) = (rotation(1, rows), rotation(2, cols));
        let turn = |x: &Mat| matmul(&matmul(&p, x), &q);
        let muon = Muon { newton_schulz: NewtonSchulz::PolarExpress5, weight_decay: 0.1, ..Muon::default() };
        let (plain, turned) = (weight(ctx, 1, rows, cols)?, weight(ctx, 1, rows, cols)?);
        turned.0.write(&narrow(&turn(&wide(&plain.0.read()?, rows, cols))))?;
        let (mut one, mut two) = (optimizer(ctx, group(muon, &plain))?, optimizer(ctx, group(muon, &turned))?);
        for step in 0..3 {
            fill(&plain.1, 4, step)?;
            turned.1.write(&narrow(&turn(&wide(&plain.1.read()?, rows, cols))))?;
            one.step()?;
            two.step()?;
        }
        let want = turn(&wide(&plain.0.read()?, rows, cols));
        close(&turned.0.read()?, &want.data, Tol::absolute(2e-5)).map_err(|e| format!("[{rows}, {cols}]: {e}"))?;
    }
    Ok(())
}

/// The update does not know the gradient's unit, from the smallest to the largest that is accepted.
fn gradients_have_no_unit(ctx: &Context) -> Outcome {
    let run = |factor: f32| -> Result<Vec<f32>, Failed> {
        let tensors = weight(ctx, 1, 9, 14)?;
        let mut optimizer = optimizer(ctx, group(Muon { epsilon: 0.0, ..Muon::default() }, &tensors))?;
        for step in 0..3 {
            let gradient = random(70 + step, 9, 14);
            tensors.1.write(&narrow(&gradient).iter().map(|g| factor * g).collect::<Vec<_>>())?;
            optimizer.step()?;
        }
        Ok(tensors.0.read()?)
    };
    let want: Vec<f64> = run(1.0)?.into_iter().map(f64::from).collect();
    for factor in [9e17, 1e9, 1e-12, 1e-27] {
        close(&run(factor)?, &want, Tol::absolute(1e-5)).map_err(|e| format!("{factor:e}: {e}"))?;
    }
    Ok(())
}

/// Below `epsilon` the update fades instead of turning noise into full steps.
fn epsilon_silences_noise(ctx: &Context) -> Outcome {
    let tensors = weight(ctx, 1, 6, 10)?;
    let start: Vec<f64> = tensors.0.read()?.into_iter().map(f64::from).collect();
    let mut optimizer = optimizer(ctx, group(Muon::default(), &tensors))?;
    tensors.1.write(&narrow(&random(5, 6, 10).map(|g| 1e-14 * g)))?;
    optimizer.step()?;
    close(&tensors.0.read()?, &start, Tol::absolute(1e-4))?;
    Ok(())
}

/// Blocks of rows are as weights of their own, bit by bit.
fn heads_equal_separate_weights(ctx: &Context) -> Outcome {
    for (heads, height, cols, neuron_decay) in [(3, 4, 10, None), (2, 20, 6, None), (4, 9, 5, Some(0.9)), (2, 5, 5, Some(0.9))] {
        let muon = Muon { weight_decay: 0.1, neuron_decay, ..Muon::default() };
        let joint = weight(ctx, 2, heads * height, cols)?;
        let apart = (0..heads).map(|_| weight(ctx, 2, height, cols)).collect::<Result<Vec<_>, _>>()?;
        let area = height * cols;
        let part = |all: &[f32], head: usize| {
            let of = |t: usize| all[(t * heads + head) * area..][..area].to_vec();
            [of(0), of(1)].concat()
        };
        let start = joint.0.read()?;
        apart.iter().enumerate().try_for_each(|(h, a)| a.0.write(&part(&start, h)))?;
        let mut together = optimizer(ctx, group(Muon { heads, ..muon }, &joint))?;
        let names: Vec<String> = (0..heads).map(|h| format!("head{h}")).collect();
        let separate = apart.iter().zip(&names).fold(Group::new(muon), |g, (a, n)| g.parameter(Parameter::new(n, &a.0, &a.1)));
        let mut separate = optimizer(ctx, separate)?;
        for step in 0..3 {
            fill(&joint.1, 8, step)?;
            let gradient = joint.1.read()?;
            apart.iter().enumerate().try_for_each(|(h, a)| a.1.write(&part(&gradient, h)))?;
            together.step()?;
            separate.step()?;
        }
        let joint = joint.0.read()?;
        for (h, a) in apart.iter().enumerate() {
            same(&format!("head {h} of {heads} of [{height}, {cols}]"), &part(&joint, h), &a.0.read()?)?;
        }
    }
    Ok(())
}

/// A direction that overflows is left out, of its head alone; decay and momentum go on; it is counted, and refused gradients are not.
fn overflowing_directions(ctx: &Context) -> Outcome {
    let divergent = NewtonSchulz::Custom(&[[30.0, 20.0, 10.0]]);
    for neuron_decay in [None, Some(0.9)] {
        let muon = Muon { newton_schulz: divergent, steps: Some(40), weight_decay: 0.5, heads: 2, neuron_decay, ..Muon::default() };
        let tensors = weight(ctx, 2, 8, 6)?;
        let start = tensors.0.read()?;
        let mut optimizer = optimizer(ctx, group(muon, &tensors))?;
        fill(&tensors.1, 6, 0)?;
        let mut gradient = tensors.1.read()?;
        // The second head of the first trial has a zero direction, which nothing diverges from.
        gradient[24..48].fill(0.0);
        tensors.1.write(&gradient)?;
        optimizer.step()?;
        let want: Vec<f64> = start.iter().map(|&w| f64::from(w) * (1.0 - 0.02 * 0.5)).collect();
        close(&tensors.0.read()?, &want, Tol::roundings(4)).map_err(|e| format!("{neuron_decay:?}: {e}"))?;
        let momentum: Vec<f64> = gradient.iter().map(|&g| 0.05 * f64::from(g)).collect();
        close(&state(&optimizer, "w.momentum")?, &momentum, Tol::roundings(4))?;
        if neuron_decay.is_some() {
            same("neurons", &state(&optimizer, "w.neurons")?, &[0.0; 16])?;
        }
        gradient[..48].fill(f32::NAN);
        tensors.1.write(&gradient)?;
        optimizer.step()?;
        let health = optimizer.health_blocking()?;
        let seen: Vec<_> = health.parameters[0].trials.iter().map(|t| (t.steps, t.skipped, t.failed_roots)).collect();
        ensure(seen == [(1, 1, 1), (2, 0, 2)], || health.to_string())?;
        ensure(tensors.0.read()?.iter().all(|w| w.is_finite()), || "a weight is not finite".into())?;
    }
    Ok(())
}

/// Shapes that Muon is not for, and settings that only a shape can refuse.
fn refuses_shapes(ctx: &Context) -> Outcome {
    let refused = |muon: Muon, rows, cols, wanted: &str, says: &str| -> Outcome {
        let tensors = weight(ctx, 2, rows, cols)?;
        match Optimizer::builder(ctx).group(group(muon, &tensors)).build() {
            Err(error @ Error::Config { field, .. }) if field == wanted && error.to_string().contains(says) => Ok(()),
            other => Err(format!("[{rows}, {cols}]: {other:?}").into()),
        }
    };
    refused(Muon::default(), 7, 1, "parameter", "AdamW")?;
    refused(Muon::default(), 1, 1, "parameter", "`w`")?;
    refused(Muon { heads: 3, ..Muon::default() }, 8, 5, "heads", "`w`")?;
    let empty = Muon { newton_schulz: NewtonSchulz::Custom(&[]), ..Muon::default() };
    refused(empty, 4, 5, "coefficients", "triple")
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::muon::follows_its_equations", follows_its_equations),
        case("optimizers::muon::half", half),
        case("optimizers::muon::commutes_with_rotations", commutes_with_rotations),
        case("optimizers::muon::gradients_have_no_unit", gradients_have_no_unit),
        case("optimizers::muon::epsilon_silences_noise", epsilon_silences_noise),
        case("optimizers::muon::heads_equal_separate_weights", heads_equal_separate_weights),
        case("optimizers::muon::overflowing_directions", overflowing_directions),
        case("optimizers::muon::refuses_shapes", refuses_shapes),
    ]
}
