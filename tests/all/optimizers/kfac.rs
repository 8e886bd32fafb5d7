//! KFAC's own laws: statistics, damping, clip, exactness, failures.

use layerwise::optim::{DampingSplit, Group, Kfac, KfacForm, Optimizer, OutputGradients, Parameter, Sgd, StatisticsStart};
use layerwise::{Context, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{Layer, N, ensure, fill, optimizer, same, single, state};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close_to_largest};
use crate::oracle::{Mat, gram, inverse, matmul, random};

/// KFAC without anything that would hide the direction.
const BARE: Kfac = Kfac {
    learning_rate: 1.0,
    momentum: 0.0,
    form: KfacForm::Inverse,
    damping: 0.0,
    damping_split: DampingSplit::Plain,
    decay: 0.0,
    statistics_start: StatisticsStart::FirstBatch,
    output_gradients: OutputGradients::MeanLoss,
    kl_clip: None,
    norm_constraint: None,
    adaptation: None,
    statistics_every: 1,
    precondition_every: 1,
    start_step: 0,
    weight_decay: 0.0,
};

fn mat(tensor: &Tensor, item: usize) -> Result<Mat, Failed> {
    let shape = tensor.shape();
    let size = shape.rows * shape.cols;
    let data = tensor.read()?[item * size..(item + 1) * size].iter().map(|&x| f64::from(x)).collect();
    Ok(Mat { rows: shape.rows, cols: shape.cols, data })
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(m: &Mat) -> Vec<f32> {
    m.data.iter().map(|&x| x as f32).collect()
}

/// On a deep linear network with square loss KFAC is the exact block Gauss-Newton step (paper: the Hessian block of `G` in `y = F G x` is
/// `F^T F (x) E[x x^T]`): against the dense `(k d)^2` system, solved in f64.
fn equals_gauss_newton(ctx: &Context) -> Outcome {
    let (m, k, d, n) = (6, 3, 5, 40);
    let (f, x) = (random(1, m, k).plus(1.0, &random(2, m, k)), random(3, n, d).plus(1.0, &random(4, n, d)));
    let g = random(5, k, d);
    let residual = matmul(&x, &matmul(&f, &g).t()).plus(-1.0, &random(6, n, m));
    let gradient = matmul(&matmul(&residual, &f).t(), &x).map(|v| v / n as f64);
    let (left, right) = (matmul(&f.t(), &f), gram(&x, false));
    let hessian = Mat::from_fn(k * d, k * d, |i, j| {
        // d^2 / dG_ab dG_cd of |F G x - y|^2 / 2n, sample by sample.
        let ((a, b), (c, e)) = ((i / d, i % d), (j / d, j % d));
        let outer: f64 = (0..m).map(|o| f[(o, a)] * f[(o, c)]).sum();
        (0..n).map(|s| outer * x[(s, b)] * x[(s, e)]).sum::<f64>() / n as f64
    });
    let vector = Mat { rows: k * d, cols: 1, data: gradient.data.clone() };
    let newton = matmul(&inverse(&hessian), &vector);

    let upload = |m: &Mat| ctx.upload(Shape::matrix(m.rows, m.cols), &narrow(m));
    let (weight, grad) = (upload(&g)?, upload(&gradient)?);
    let parameter = Parameter::new("g", &weight, &grad).factors(&upload(&left)?, &upload(&right)?);
    for split in [DampingSplit::Plain, DampingSplit::Pi] {
        weight.write(&narrow(&g))?;
        let group = Group::new(Kfac { damping_split: split, ..BARE }).parameter(parameter.clone());
        optimizer(ctx, group)?.step()?;
        let step: Vec<f32> = weight.read()?.iter().zip(narrow(&g)).map(|(after, before)| before - after).collect();
        let condition = left.norm() * inverse(&left).norm() * right.norm() * inverse(&right).norm();
        let tol = Tol::triangular(k * d, condition);
        close_to_largest(&step, &newton.data, tol).map_err(|e| format!("{split:?}, condition {condition}: {e}"))?;
        ensure(tol.relative < 0.05, || format!("condition {condition} says nothing"))?;
    }
    Ok(())
}

/// The direction with damping, from samples with a bias column: `(L + a I)^{-1} G (R + b I)^{-1}` for both splits and both gradient conventions.
fn damped_direction(ctx: &Context) -> Outcome {
    for split in [DampingSplit::Plain, DampingSplit::Pi] {
        for convention in [OutputGradients::MeanLoss, OutputGradients::BatchSum, OutputGradients::PerSample] {
            let layer = Layer::new(ctx, 2, 5, 7, 3)?;
            layer.feed(9, 0)?;
            let start = layer.weight.read()?;
            let kfac = Kfac { damping_split: split, output_gradients: convention, ..BARE };
            let dampings = [0.05, 0.2];
            optimizer(ctx, single(kfac, &layer).dampings(&dampings))?.step()?;
            for (trial, damping) in dampings.into_iter().enumerate() {
                let scale = match convention {
                    OutputGradients::MeanLoss => 1.0,
                    OutputGradients::BatchSum => N as f64,
                    OutputGradients::PerSample => (N * N) as f64,
                };
                let left = gram(&mat(&layer.output_gradients, trial)?, false).map(|x| scale * x);
                let right = gram(&mat(&layer.inputs, trial)?, true);
                let mean = |m: &Mat| (0..m.rows).map(|i| m[(i, i)]).sum::<f64>() / m.rows as f64;
                let (a, b) = match split {
                    DampingSplit::Plain => (damping, damping),
                    DampingSplit::Pi => {
                        let pi = (mean(&right) / mean(&left)).sqrt();
                        (damping.sqrt() / pi, damping.sqrt() * pi)
                    }
                };
                let damped = |m: &Mat, lambda: f64| inverse(&m.plus(lambda, &Mat::identity(m.rows)));
                let want = matmul(&matmul(&damped(&left, a), &mat(&layer.gradient, trial)?), &damped(&right, b));
                let range = trial * 40..(trial + 1) * 40;
                let after = layer.weight.read()?;
                let got: Vec<f32> = start[range.clone()].iter().zip(&after[range]).map(|(b, a)| b - a).collect();
                let tol =
                    Tol::triangular(8, 1.0 + mean(&left) * 5.0 / a).relative + Tol::triangular(8, 1.0 + mean(&right) * 8.0 / b).relative;
                close_to_largest(&got, &want.data, Tol::relative(2.0 * tol))
                    .map_err(|e| format!("{split:?} {convention:?} {trial}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Statistics after five batches equal the closed form of their running average, for each start and for given factors too.
fn running_averages(ctx: &Context) -> Outcome {
    for start in [StatisticsStart::Identity, StatisticsStart::FirstBatch, StatisticsStart::BiasCorrected] {
        for decay in [0.0, 0.8] {
            let layer = Layer::new(ctx, 1, 5, 7, 3)?;
            let kfac = Kfac { decay, statistics_start: start, damping: 0.1, ..BARE };
            let (left, right) = (ctx.zeros(Shape::matrix(5, 5))?, ctx.zeros(Shape::matrix(8, 8))?);
            let given = Parameter::new("w", &ctx.zeros(Shape::matrix(5, 8))?, &layer.gradient).factors(&left, &right);
            let mut samples = optimizer(ctx, single(kfac, &layer))?;
            let mut factors = optimizer(ctx, Group::new(kfac).parameter(given))?;
            let mut batches = Vec::new();
            for step in 0..5 {
                layer.feed(9, step)?;
                let batch = [gram(&mat(&layer.output_gradients, 0)?, false), gram(&mat(&layer.inputs, 0)?, true)];
                left.write(&narrow(&batch[0]))?;
                right.write(&narrow(&batch[1]))?;
                batches.push(batch);
                samples.step()?;
                factors.step()?;
            }
            for (i, name) in ["w.left_statistics", "w.right_statistics"].into_iter().enumerate() {
                let n = batches[0][i].rows;
                let weights: Vec<f64> = match start {
                    StatisticsStart::BiasCorrected => (0..5).map(|t| decay.powi(4 - t)).collect(),
                    _ => (0..5).map(|t| (1.0 - decay) * decay.powi(4 - t)).collect(),
                };
                let sum: f64 = weights.iter().sum();
                let mut want = match start {
                    StatisticsStart::Identity => Mat::identity(n).map(|x| x * decay.powi(5)),
                    StatisticsStart::FirstBatch => batches[0][i].map(|x| x * decay.powi(5)),
                    StatisticsStart::BiasCorrected => Mat::zeros(n, n),
                };
                let scale = if start == StatisticsStart::BiasCorrected { 1.0 / sum } else { 1.0 };
                for (weight, batch) in weights.iter().zip(&batches) {
                    want = want.plus(weight * scale, &batch[i]);
                }
                for optimizer in [&samples, &factors] {
                    let got = state(optimizer, name)?;
                    close_to_largest(&got, &want.data, Tol::gemm(N)).map_err(|e| format!("{start:?}, decay {decay}, {name}: {e}"))?;
                }
            }
        }
    }
    Ok(())
}

/// `statistics_every = k` sees every k-th batch and no other, not even a non-finite one.
fn statistics_every(ctx: &Context) -> Outcome {
    let kfac = Kfac { statistics_start: StatisticsStart::BiasCorrected, ..Kfac::default() };
    let (every, third) = (Layer::new(ctx, 1, 5, 7, 3)?, Layer::new(ctx, 1, 5, 7, 3)?);
    let mut dense = optimizer(ctx, single(kfac, &every))?;
    let mut sparse = optimizer(ctx, single(Kfac { statistics_every: 3, ..kfac }, &third))?;
    for step in 0..9 {
        third.feed(4, step)?;
        if step % 3 == 0 {
            every.feed(4, step)?;
            dense.step()?;
        } else {
            third.inputs.write(&vec![f32::NAN; N * 7])?;
        }
        sparse.step()?;
    }
    for name in ["w.left_statistics", "w.right_statistics"] {
        same(name, &state(&sparse, name)?, &state(&dense, name)?)?;
    }
    let health = sparse.health_blocking()?;
    ensure(health.is_good() && health.parameters[0].trials[0].steps == 9, || health.to_string())
}

/// Taps that are not finite, at a step that uses them, are refused like a gradient.
fn refused_taps(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 5, 7, 3)?;
    let mut optimizer = optimizer(ctx, single(Kfac::default(), &layer))?;
    layer.feed(4, 0)?;
    optimizer.step()?;
    let (weight, statistics) = (layer.weight.read()?, state(&optimizer, "w.right_statistics")?);
    layer.feed(4, 1)?;
    let mut inputs = layer.inputs.read()?;
    inputs[5] = f32::INFINITY;
    layer.inputs.write(&inputs)?;
    optimizer.step()?;
    same("weight", &layer.weight.read()?[..40], &weight[..40])?;
    same("statistics", &state(&optimizer, "w.right_statistics")?[..64], &statistics[..64])?;
    let health = optimizer.health_blocking()?;
    let counts: Vec<(u64, u64)> = health.parameters[0].trials.iter().map(|t| (t.steps, t.skipped)).collect();
    ensure(counts == [(1, 1), (2, 0)], || health.to_string())
}

/// A singular factor keeps the previous inverse and raises the ridge until the factorization succeeds; other trials do not notice.
fn singular_factor(ctx: &Context) -> Outcome {
    let (weight, gradient) = (ctx.zeros(Shape::new(2, 4, 4))?, ctx.zeros(Shape::new(2, 4, 4))?);
    let (left, right) = (ctx.zeros(Shape::new(2, 4, 4))?, ctx.zeros(Shape::new(2, 4, 4))?);
    let identity: Vec<f32> = (0..16u8).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
    let both = |first: &[f32]| [first, &identity[..]].concat();
    left.write(&both(&identity))?;
    fill(&gradient, 1, 0)?;
    let parameter = Parameter::new("w", &weight, &gradient).factors(&left, &right);
    // In f32 1 + 1e-9 is 1: the matrix of ones stays singular until the ridge has grown a hundredfold.
    let mut optimizer = optimizer(ctx, Group::new(Kfac { damping: 1e-9, ..BARE }).parameter(parameter))?;
    let diagonal: Vec<f32> = identity.iter().map(|x| 2.0 * x).collect();
    right.write(&both(&diagonal))?;
    optimizer.step()?;
    let good = state(&optimizer, "w.right_inverse")?;
    ensure(optimizer.health_blocking()?.is_good() && (good[0] - 0.5).abs() < 1e-6, || format!("{good:?}"))?;
    right.write(&both(&[1.0; 16]))?;
    for failure in 1..=2u64 {
        optimizer.step()?;
        let health = optimizer.health_blocking()?;
        let trial = health.parameters[0].trials[0];
        let booked = trial.failed_roots == failure && (trial.ridge - 10f32.powi(i32::try_from(failure)?)).abs() < 1e-3;
        ensure(booked, || health.to_string())?;
        for name in ["w.left_inverse", "w.right_inverse"] {
            ensure(state(&optimizer, name)?.iter().all(|x| x.is_finite()), || name.into())?;
        }
        same("previous inverse", &state(&optimizer, "w.right_inverse")?[..16], &good[..16])?;
    }
    for _ in 0..4 {
        optimizer.step()?;
    }
    let after = state(&optimizer, "w.right_inverse")?;
    ensure(after[..16] != good[..16] && after.iter().all(|x| x.is_finite()), || format!("never recovered: {after:?}"))?;
    let other = optimizer.health_blocking()?.parameters[0].trials[1];
    ensure((other.failed_roots, other.ridge, other.steps) == (0, 1.0, 7), || format!("{other:?}"))
}

/// A layer that has no statistics yet, because its first gradient was refused, is stepped along its plain gradient, not along one divided by the
/// damping squared.
fn no_statistics_no_root(ctx: &Context) -> Outcome {
    for start in [StatisticsStart::FirstBatch, StatisticsStart::BiasCorrected] {
        let layer = Layer::new(ctx, 1, 5, 7, 3)?;
        let kfac = Kfac { damping: 1e-3, precondition_every: 10, statistics_every: 10, statistics_start: start, ..BARE };
        let mut optimizer = optimizer(ctx, single(kfac, &layer))?;
        layer.gradient.write(&[f32::NAN; 40])?;
        optimizer.step()?;
        layer.feed(4, 1)?;
        let (weight, gradient) = (layer.weight.read()?, layer.gradient.read()?);
        optimizer.step()?;
        let want: Vec<f64> = weight.iter().zip(&gradient).map(|(w, g)| f64::from(w - g)).collect();
        close_to_largest(&layer.weight.read()?, &want, Tol::roundings(4)).map_err(|e| format!("{start:?}: {e}"))?;
        let health = optimizer.health_blocking()?;
        ensure(health.parameters[0].trials[0].failed_roots == 0, || health.to_string())?;
    }
    Ok(())
}

/// Two layers, identity factors: the direction is the gradient, so the clip is known in closed form. It spans the layers, not the trials, and leaves out
/// a layer whose gradient was refused.
fn kl_clip(ctx: &Context) -> Outcome {
    let clip = 1e-3;
    let rate = 0.1;
    let kfac = Kfac { learning_rate: rate, kl_clip: Some(clip), ..BARE };
    let build = |layers: &[(Tensor, Tensor, &str)]| -> Result<Optimizer, Failed> {
        let mut group = Group::new(kfac);
        for (weight, gradient, name) in layers {
            let n = weight.shape().cols;
            let identity: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect();
            let factor = ctx.upload(Shape::matrix(n, n), &identity)?;
            group = group.parameter(Parameter::new(*name, weight, gradient).factors(&factor, &factor));
        }
        optimizer(ctx, group)
    };
    let square = |n: usize| ctx.zeros(Shape::new(2, n, n));
    let layers = [(square(3)?, square(3)?, "a"), (square(5)?, square(5)?, "b")];
    fill(&layers[0].1, 1, 0)?;
    fill(&layers[1].1, 2, 0)?;
    // Trial 1 has gradients so small that nothing is clipped.
    for (_, gradient, _) in &layers {
        let mut values = gradient.read()?;
        let half = values.len() / 2;
        values[half..].iter_mut().for_each(|x| *x *= 1e-4);
        gradient.write(&values)?;
    }
    let gradients = [layers[0].1.read()?, layers[1].1.read()?];
    let half = |i: usize, trial: usize| &gradients[i][trial * gradients[i].len() / 2..(trial + 1) * gradients[i].len() / 2];
    let dot = |i: usize, trial: usize| half(i, trial).iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    let factor = |sum: f64| (clip / (rate * rate * sum)).sqrt().min(1.0);
    let expect = |what: &str, i: usize, trial: usize, nu: f64, rate: f64| -> Outcome {
        let got = layers[i].0.read()?;
        let got = &got[trial * got.len() / 2..(trial + 1) * got.len() / 2];
        let want: Vec<f64> = half(i, trial).iter().map(|&g| -rate * nu * f64::from(g)).collect();
        Ok(close_to_largest(got, &want, Tol::relative(1e-5)).map(|_| ()).map_err(|e| format!("{what}: layer {i}, trial {trial}: {e}"))?)
    };
    let nu = factor(dot(0, 0) + dot(1, 0));
    ensure(nu < 0.5, || format!("nothing is clipped: {nu}"))?;
    build(&layers)?.step()?;
    for i in 0..2 {
        expect("both", i, 0, nu, rate)?;
        expect("both", i, 1, 1.0, rate)?;
    }
    let reset = || layers.iter().try_for_each(|(w, ..)| w.write(&vec![0.0; w.shape().elements()]));
    for poison in [f32::NAN, f32::INFINITY] {
        reset()?;
        let mut values = gradients[0].clone();
        values[4] = poison;
        layers[0].1.write(&values)?;
        build(&layers)?.step()?;
        expect("refused", 0, 0, 0.0, rate)?;
        expect("refused", 1, 0, factor(dot(1, 0)), rate)?;
        expect("refused", 0, 1, 1.0, rate)?;
    }
    Ok(())
}

/// The sum in the clip is 0 without gradients: no division by it.
fn clip_of_nothing(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 5, 7, 3)?;
    let start = layer.weight.read()?;
    let mut optimizer = optimizer(ctx, single(Kfac::default(), &layer))?;
    (0..3).try_for_each(|_| optimizer.step())?;
    same("weights", &layer.weight.read()?, &start)
}

/// Before `start_step` KFAC is SGD, to the bit.
fn starts_as_sgd(ctx: &Context) -> Outcome {
    let (a, b) = (Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?);
    let mut kfac = optimizer(ctx, single(Kfac { start_step: 3, weight_decay: 0.1, ..Kfac::default() }, &a))?;
    let mut sgd = optimizer(ctx, single(Sgd { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.1, ..Sgd::default() }, &b))?;
    for step in 0..4 {
        a.feed(1, step)?;
        b.feed(1, step)?;
        kfac.step()?;
        sgd.step()?;
        let equal = a.weight.read()? == b.weight.read()?;
        ensure(equal == (step < 3), || format!("step {step}: equal to SGD: {equal}"))?;
    }
    Ok(())
}

/// Trials that share taps equal trials with copies of them.
fn shared_taps(ctx: &Context) -> Outcome {
    let (shared, copied) = (Layer::new(ctx, 4, 5, 7, 3)?, Layer::new(ctx, 4, 5, 7, 3)?);
    let (inputs, output_gradients) = (ctx.zeros(Shape::new(2, N, 7))?, ctx.zeros(Shape::new(1, N, 5))?);
    let parameter = Parameter::new("w", &shared.weight, &shared.gradient).samples(&inputs, &output_gradients);
    let mut first = optimizer(ctx, Group::new(Kfac::default()).parameter(parameter))?;
    let mut second = optimizer(ctx, single(Kfac::default(), &copied))?;
    for step in 0..3 {
        fill(&shared.gradient, 1, step)?;
        fill(&copied.gradient, 1, step)?;
        fill(&inputs, 2, step)?;
        fill(&output_gradients, 3, step)?;
        let (x, g) = (inputs.read()?, output_gradients.read()?);
        let (one, two) = x.split_at(N * 7);
        copied.inputs.write(&[one, one, two, two].concat())?;
        copied.output_gradients.write(&g.repeat(4))?;
        first.step()?;
        second.step()?;
    }
    same("weights", &shared.weight.read()?, &copied.weight.read()?)?;
    // A fault in a shared item stops the trials that share it.
    let mut x = inputs.read()?;
    x[0] = f32::NAN;
    inputs.write(&x)?;
    first.step()?;
    let health = first.health_blocking()?;
    let skipped: Vec<u64> = health.parameters[0].trials.iter().map(|t| t.skipped).collect();
    ensure(skipped == [1, 1, 0, 0], || health.to_string())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::kfac::equals_gauss_newton", equals_gauss_newton),
        case("optimizers::kfac::damped_direction", damped_direction),
        case("optimizers::kfac::running_averages", running_averages),
        case("optimizers::kfac::statistics_every", statistics_every),
        case("optimizers::kfac::refused_taps", refused_taps),
        case("optimizers::kfac::singular_factor", singular_factor),
        case("optimizers::kfac::no_statistics_no_root", no_statistics_no_root),
        case("optimizers::kfac::kl_clip", kl_clip),
        case("optimizers::kfac::clip_of_nothing", clip_of_nothing),
        case("optimizers::kfac::starts_as_sgd", starts_as_sgd),
        case("optimizers::kfac::shared_taps", shared_taps),
    ]
}
