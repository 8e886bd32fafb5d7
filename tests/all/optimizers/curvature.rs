//! KFAC's eigen form, FOOF, the natural gradient: directions against dense f64 systems, and what happens where those fail.

use layerwise::optim::{
    DampingSplit, Foof, Group, Kfac, KfacForm, NaturalGradient, Optimizer, OutputGradients, Parameter, StatisticsStart,
};
use layerwise::{Context, Error, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{Layer, N, ensure, fill, optimizer, same, single, state};
use crate::case::{Case, Outcome, case, case_cpu};
use crate::compare::{Tol, close_to_largest};
use crate::oracle::{Mat, eigh, gram, inverse, matmul};

/// The eigen form without anything that would hide the direction.
const EIGEN: Kfac = Kfac {
    learning_rate: 1.0,
    momentum: 0.0,
    form: KfacForm::Eigen,
    damping: 0.1,
    damping_split: DampingSplit::Plain,
    decay: 0.0,
    statistics_start: StatisticsStart::FirstBatch,
    output_gradients: OutputGradients::PerSample,
    kl_clip: None,
    norm_constraint: None,
    adaptation: None,
    statistics_every: 1,
    precondition_every: 1,
    start_step: 0,
    weight_decay: 0.0,
};

const FOOF: Foof = Foof {
    learning_rate: 1.0,
    momentum: 0.0,
    damping: 0.1,
    decay: 0.0,
    statistics_start: StatisticsStart::FirstBatch,
    statistics_every: 1,
    precondition_every: 1,
    start_step: 0,
    weight_decay: 0.0,
};

const NATURAL: NaturalGradient =
    NaturalGradient { learning_rate: 1.0, momentum: 0.0, damping: 0.1, output_gradients: OutputGradients::PerSample, weight_decay: 0.0 };

pub(super) fn mat(tensor: &Tensor, item: usize) -> Result<Mat, Failed> {
    let shape = tensor.shape();
    let size = shape.rows * shape.cols;
    let data = tensor.read()?[item * size..(item + 1) * size].iter().map(|&x| f64::from(x)).collect();
    Ok(Mat { rows: shape.rows, cols: shape.cols, data })
}

/// What one step took off the weights of an item.
fn moved(before: &[f32], layer: &Layer, item: usize) -> Result<Vec<f32>, Failed> {
    let size = layer.weight.shape().rows * layer.weight.shape().cols;
    let range = item * size..(item + 1) * size;
    Ok(before[range.clone()].iter().zip(&layer.weight.read()?[range]).map(|(b, a)| b - a).collect())
}

fn trace(m: &Mat) -> f64 {
    (0..m.rows).map(|i| m[(i, i)]).sum()
}

/// Weights start at 0, so that their differences are exact.
fn fed(ctx: &Context, trials: usize, out: usize, inn: usize) -> Result<(Layer, Vec<f32>), Failed> {
    let layer = Layer::new(ctx, trials, out, inn, 3)?;
    layer.weight.write(&vec![0.0; layer.weight.shape().elements()])?;
    layer.feed(9, 0)?;
    let start = layer.weight.read()?;
    Ok((layer, start))
}

/// `(L kron R + lambda I)^{-1} vec(G)`: dense where that is small, in the oracle's eigenbases beyond.
fn eigen_direction(ctx: &Context) -> Outcome {
    for (out, inn) in [(1, 1), (1, 6), (5, 1), (5, 7), (17, 13), (101, 67)] {
        let (layer, start) = fed(ctx, 2, out, inn)?;
        let dampings = [0.05, 2.0];
        optimizer(ctx, single(EIGEN, &layer).dampings(&dampings))?.step()?;
        for (item, damping) in dampings.into_iter().enumerate() {
            let left = gram(&mat(&layer.output_gradients, item)?, false).map(|x| (N * N) as f64 * x);
            let (right, g) = (gram(&mat(&layer.inputs, item)?, true), mat(&layer.gradient, item)?);
            let (q, p) = (right.rows, out * right.rows);
            let want = if p <= 64 {
                let dense = Mat::from_fn(p, p, |i, j| left[(i / q, j / q)] * right[(i % q, j % q)] + if i == j { damping } else { 0.0 });
                matmul(&inverse(&dense), &Mat { rows: p, cols: 1, data: g.data.clone() })
            } else {
                let ((dl, u), (dr, v)) = (eigh(&left), eigh(&right));
                let x = matmul(&matmul(&u.t(), &g), &v);
                let divided = Mat::from_fn(out, q, |a, b| x[(a, b)] / (dl[a].max(0.0) * dr[b].max(0.0) + damping));
                matmul(&matmul(&u, &divided), &v.t())
            };
            // Null spaces, divided by the damping alone, are as accurate as the bases are.
            let condition = 1.0 + trace(&left) * trace(&right) / damping;
            let tol = Tol::relative((30.0 * condition * f64::from(f32::EPSILON)).min(2e-3));
            close_to_largest(&moved(&start, &layer, item)?, &want.data, tol).map_err(|e| format!("{out} x {inn}, item {item}: {e}"))?;
        }
    }
    Ok(())
}

/// A factor of zeros has eigenvalues like any other; one that is not finite keeps the previous basis and raises the ridge, for its own trial.
fn eigen_failures(ctx: &Context) -> Outcome {
    let (layer, start) = fed(ctx, 2, 3, 4)?;
    layer.output_gradients.write(&vec![0.0; 2 * N * 3])?;
    let mut zero = optimizer(ctx, single(EIGEN, &layer))?;
    zero.step()?;
    let want: Vec<f64> = layer.gradient.read()?[..15].iter().map(|&g| f64::from(g) / 0.1).collect();
    close_to_largest(&moved(&start, &layer, 0)?, &want, Tol::roundings(20)).map_err(|e| format!("zero factor: {e}"))?;
    ensure(zero.health_blocking()?.is_good(), || "a factor of zeros counts as a failure".into())?;

    layer.feed(9, 0)?;
    let mut optimizer = optimizer(ctx, single(Kfac { decay: 0.5, ..EIGEN }, &layer))?;
    optimizer.step()?;
    let names = ["w.left_basis", "w.right_basis", "w.left_eigenvalues", "w.right_eigenvalues"];
    let before = names.iter().map(|name| state(&optimizer, name)).collect::<Result<Vec<_>, _>>()?;
    let (_, statistics) = optimizer.state().find(|(name, _)| *name == "w.left_statistics").ok_or("no statistics")?;
    let mut values = statistics.read()?;
    // Off the diagonal, where Jacobi's rotations pass over it; accumulation mirrors the lower triangle.
    (values[1], values[3]) = (f32::NAN, f32::NAN);
    statistics.write(&values)?;
    layer.feed(9, 1)?;
    optimizer.step()?;
    for (name, before) in names.iter().zip(&before) {
        let after = state(&optimizer, name)?;
        let half = after.len() / 2;
        same(name, &after[..half], &before[..half])?;
        ensure(after[half..] != before[half..], || format!("{name}: the other trial has not moved on"))?;
    }
    let health = optimizer.health_blocking()?;
    let trials = &health.parameters[0].trials;
    let booked = (trials[0].failed_roots, trials[0].ridge, trials[1].failed_roots, trials[1].ridge) == (1, 10.0, 0, 1.0);
    ensure(booked && (trials[0].damping - 1.0).abs() < 1e-6, || health.to_string())?;
    ensure(layer.weight.read()?.iter().all(|w| w.is_finite()), || "a weight is not finite".into())
}

/// The norm constraint is the KL clip wherever the preconditioner is positive; without either steps are longer.
fn norm_constraint(ctx: &Context) -> Outcome {
    let run = |kl_clip, norm_constraint| -> Result<Vec<f32>, Failed> {
        let layer = Layer::new(ctx, 2, 5, 7, 3)?;
        let kfac = Kfac { learning_rate: 0.1, momentum: 0.9, kl_clip, norm_constraint, ..EIGEN };
        let mut optimizer = optimizer(ctx, single(kfac, &layer))?;
        for step in 0..3 {
            layer.feed(2, step)?;
            optimizer.step()?;
        }
        Ok(layer.weight.read()?)
    };
    let constrained = run(None, Some(1e-3))?;
    same("norm constraint", &constrained, &run(Some(1e-3), None)?)?;
    ensure(constrained != run(None, None)?, || "nothing was constrained".into())
}

/// `G (R + lambda I)^{-1}` with running averages of three batches, from inputs, from KFAC's taps and from given factors.
fn foof_direction(ctx: &Context) -> Outcome {
    for (out, inn) in [(1, 1), (1, 6), (5, 7), (13, 29), (101, 150)] {
        let dampings = [0.05, 0.5];
        let foof = Foof { decay: 0.7, ..FOOF };
        let forms = ["samples", "inputs", "factors"];
        let mut results = Vec::new();
        for form in forms {
            let (layer, _) = fed(ctx, 2, out, inn)?;
            let (left, right) = (ctx.zeros(Shape::new(2, out, out))?, ctx.zeros(Shape::new(2, inn + 1, inn + 1))?);
            let bare = Parameter::new("w", &layer.weight, &layer.gradient);
            let parameter = match form {
                "samples" => layer.parameter("w"),
                "inputs" => bare.inputs(&layer.inputs),
                _ => bare.factors(&left, &right),
            };
            let mut optimizer = optimizer(ctx, Group::new(foof).parameter(parameter).dampings(&dampings))?;
            let mut averages: Vec<Mat> = Vec::new();
            for step in 0..3 {
                layer.feed(9, step)?;
                let batch = (0..2).map(|i| Ok(gram(&mat(&layer.inputs, i)?, true))).collect::<Result<Vec<Mat>, Failed>>()?;
                #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
                right.write(&batch.iter().flat_map(|m| m.data.iter().map(|&x| x as f32)).collect::<Vec<_>>())?;
                averages = if averages.is_empty() {
                    batch
                } else {
                    averages.iter().zip(&batch).map(|(a, b)| a.map(|x| 0.7 * x).plus(0.3, b)).collect()
                };
                layer.weight.write(&vec![0.0; layer.weight.shape().elements()])?;
                optimizer.step()?;
            }
            let start = vec![0.0; layer.weight.shape().elements()];
            for (item, damping) in dampings.into_iter().enumerate() {
                let damped = averages[item].plus(damping, &Mat::identity(inn + 1));
                let want = matmul(&mat(&layer.gradient, item)?, &inverse(&damped));
                let tol = Tol::triangular(inn + 1, 1.0 + trace(&averages[item]) / damping);
                close_to_largest(&moved(&start, &layer, item)?, &want.data, Tol::relative(4.0 * tol.relative))
                    .map_err(|e| format!("{form} {out} x {inn}, item {item}: {e}"))?;
            }
            results.push(layer.weight.read()?);
            ensure(optimizer.health_blocking()?.is_good(), || form.into())?;
        }
        same("inputs", &results[1], &results[0])?;
    }
    Ok(())
}

/// `(J^T J / n + lambda I)^{-1} vec(G)` with more rows than parameters and fewer, from samples and from rows.
fn natural_gradient_direction(ctx: &Context) -> Outcome {
    // Samples: N rows, out (inn + 1) parameters.
    for (out, inn) in [(1, 1), (1, 6), (3, 7), (4, 5), (5, 7), (13, 20)] {
        for output_gradients in [OutputGradients::MeanLoss, OutputGradients::PerSample] {
            let (layer, start) = fed(ctx, 2, out, inn)?;
            let dampings = [0.05, 0.5];
            optimizer(ctx, single(NaturalGradient { output_gradients, ..NATURAL }, &layer).dampings(&dampings))?.step()?;
            for (item, damping) in dampings.into_iter().enumerate() {
                let (x, g) = (mat(&layer.inputs, item)?, mat(&layer.output_gradients, item)?);
                let factor = if output_gradients == OutputGradients::PerSample { N as f64 } else { 1.0 };
                let input = |s: usize, c: usize| if c < inn { x[(s, c)] } else { 1.0 };
                let rows = Mat::from_fn(N, out * (inn + 1), |s, p| factor * g[(s, p / (inn + 1))] * input(s, p % (inn + 1)));
                dense(&rows, damping, &mat(&layer.gradient, item)?, &moved(&start, &layer, item)?)
                    .map_err(|e| format!("{out} x {inn}, {output_gradients:?}, item {item}: {e}"))?;
            }
        }
    }
    for (out, inn, n) in [(1, 1, 1), (1, 1, 9), (1, 5, 5), (3, 4, 1), (7, 11, 30), (10, 20, 333), (10, 30, 67)] {
        let (weight, gradient) = (ctx.zeros(Shape::new(2, out, inn))?, ctx.zeros(Shape::new(2, out, inn))?);
        let rows = ctx.zeros(Shape::new(2, n, out * inn))?;
        fill(&gradient, 1, 0)?;
        fill(&rows, 2, 0)?;
        let parameter = Parameter::new("w", &weight, &gradient).per_sample_gradients(&rows);
        let mut natural = optimizer(ctx, Group::new(NATURAL).parameter(parameter))?;
        natural.step()?;
        let size = out * inn;
        for item in 0..2 {
            let got: Vec<f32> = weight.read()?[item * size..(item + 1) * size].iter().map(|w| -w).collect();
            dense(&mat(&rows, item)?, 0.1, &mat(&gradient, item)?, &got)
                .map_err(|e| format!("{out} x {inn}, {n} rows, item {item}: {e}"))?;
        }
    }
    Ok(())
}

fn dense(rows: &Mat, damping: f64, gradient: &Mat, got: &[f32]) -> Result<(), String> {
    let curvature = gram(rows, false);
    let p = curvature.rows;
    let want = matmul(&inverse(&curvature.plus(damping, &Mat::identity(p))), &Mat { rows: p, cols: 1, data: gradient.data.clone() });
    let condition = 1.0 + trace(&curvature) / damping;
    let tol = Tol::triangular(p.min(rows.rows) + 1, condition);
    close_to_largest(got, &want.data, Tol::relative(4.0 * tol.relative)).map(|_| ())
}

/// Trials that share taps equal trials with copies of them.
fn natural_gradient_shared_taps(ctx: &Context) -> Outcome {
    let (shared, copied) = (Layer::new(ctx, 4, 5, 7, 3)?, Layer::new(ctx, 4, 5, 7, 3)?);
    let (inputs, output_gradients) = (ctx.zeros(Shape::new(2, N, 7))?, ctx.zeros(Shape::new(1, N, 5))?);
    let parameter = Parameter::new("w", &shared.weight, &shared.gradient).samples(&inputs, &output_gradients);
    let mut first = optimizer(ctx, Group::new(NATURAL).parameter(parameter))?;
    let mut second = optimizer(ctx, single(NATURAL, &copied))?;
    for step in 0..2 {
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
    same("weights", &shared.weight.read()?, &copied.weight.read()?)
}

/// A singular matrix without damping moves nothing, is counted and raises the ridge of its own trial; the next step succeeds.
fn natural_gradient_failure(ctx: &Context) -> Outcome {
    let (weight, gradient) = (ctx.zeros(Shape::new(2, 1, 3))?, ctx.upload(Shape::new(2, 1, 3), &[1.0; 6])?);
    let rows = ctx.zeros(Shape::new(2, 4, 3))?;
    fill(&rows, 2, 0)?;
    let good = rows.read()?;
    rows.write(&[&[0.0; 12][..], &good[12..]].concat())?;
    let parameter = Parameter::new("w", &weight, &gradient).per_sample_gradients(&rows);
    let mut optimizer = optimizer(ctx, Group::new(NaturalGradient { damping: 0.0, ..NATURAL }).parameter(parameter))?;
    optimizer.step()?;
    let after = weight.read()?;
    ensure(after[..3] == [0.0; 3] && after[3..].iter().all(|w| w.is_finite() && *w != 0.0), || format!("{after:?}"))?;
    let health = optimizer.health_blocking()?;
    let trials = &health.parameters[0].trials;
    ensure((trials[0].failed_roots, trials[0].ridge, trials[1].failed_roots) == (1, 10.0, 0), || health.to_string())?;
    rows.write(&good)?;
    optimizer.step()?;
    let (after, health) = (weight.read()?, optimizer.health_blocking()?);
    ensure(after[..3].iter().all(|w| w.is_finite() && *w != 0.0) && health.parameters[0].trials[0].ridge == 1.0, || {
        format!("{after:?} {health}")
    })
}

/// Matrices too large, or singular by their shape; taps of another method.
fn refusals(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 5, 7, 3)?;
    let build = |group: Group| Optimizer::builder(ctx).group(group).build();
    let config = |group: Group, wanted: &str, says: &str| match build(group) {
        Err(error @ Error::Config { field, .. }) if field == wanted && error.to_string().contains(says) => Ok(()),
        other => Err(format!("{wanted}: {other:?}")),
    };
    config(single(NaturalGradient { damping: 0.0, ..NATURAL }, &layer), "damping", "24 rows")?;
    config(single(NATURAL, &layer).dampings(&[0.0]), "damping", "24 rows")?;
    let (wide, rows) = (ctx.zeros(Shape::matrix(1, 4097))?, ctx.zeros(Shape::matrix(4097, 4097))?);
    config(Group::new(NATURAL).parameter(Parameter::new("w", &wide, &wide.clone()).per_sample_gradients(&rows)), "parameter", "4097")?;
    let bare = || Parameter::new("w", &layer.weight, &layer.gradient);
    config(Group::new(Kfac::default()).parameter(bare().inputs(&layer.inputs)), "parameter", "other taps")?;
    config(Group::new(NATURAL).parameter(bare().inputs(&layer.inputs)), "parameter", "per_sample_gradients")?;
    config(Group::new(FOOF).parameter(bare()), "parameter", "no taps")?;
    let short = ctx.zeros(Shape::matrix(3, 39))?;
    match build(Group::new(NATURAL).parameter(bare().per_sample_gradients(&short))) {
        Err(Error::Shape { tensor, .. }) if tensor == "w.per_sample_gradients" => Ok(()),
        other => Err(format!("{other:?}").into()),
    }
}

/// Taps whose squares fit f32 but whose sums do not: refused, so that no running average is lost for good.
fn overflowing_statistics(ctx: &Context) -> Outcome {
    let plain = Kfac { damping: 0.1, form: KfacForm::Inverse, decay: 0.95, ..EIGEN };
    let methods: [(layerwise::optim::Method, f32, f32); 4] = [
        (plain.into(), 9e17, 1.0),
        (Kfac { form: KfacForm::Eigen, ..plain }.into(), 1.0, 5e17),
        (plain.into(), 1.0, 5e17),
        (Foof { decay: 0.95, ..FOOF }.into(), 9e17, 1.0),
    ];
    for (method, input, output) in methods {
        let layer = Layer::new(ctx, 2, 5, 7, 3)?;
        let mut optimizer = optimizer(ctx, single(method, &layer))?;
        layer.feed(4, 0)?;
        optimizer.step()?;
        let (weight, statistics) = (layer.weight.read()?, state(&optimizer, "w.right_statistics")?);
        let (x, g) = (layer.inputs.read()?, layer.output_gradients.read()?);
        let huge = |values: &[f32], to: f32| {
            values.iter().enumerate().map(|(i, v)| if 2 * i < values.len() { to } else { *v }).collect::<Vec<_>>()
        };
        layer.inputs.write(&huge(&x, input))?;
        layer.output_gradients.write(&huge(&g, output))?;
        optimizer.step()?;
        same("weight", &layer.weight.read()?[..40], &weight[..40])?;
        same("statistics", &state(&optimizer, "w.right_statistics")?[..64], &statistics[..64])?;
        ensure(layer.weight.read()?[40..] != weight[40..], || "the other trial stands still".into())?;
        layer.feed(4, 1)?;
        optimizer.step()?;
        let after = layer.weight.read()?;
        ensure(after[..40] != weight[..40] && after.iter().all(|w| w.is_finite()), || format!("{method:?}: {after:?}"))?;
        let health = optimizer.health_blocking()?;
        let counts: Vec<(u64, u64)> = health.parameters[0].trials.iter().map(|t| (t.steps, t.skipped)).collect();
        ensure(counts == [(2, 1), (3, 0)], || format!("{method:?}: {health}"))?;
    }
    // As gradients of the mean loss the same output gradients have a finite factor, and are taken.
    let layer = Layer::new(ctx, 1, 5, 7, 3)?;
    let mut optimizer = optimizer(ctx, single(Kfac { output_gradients: OutputGradients::MeanLoss, ..plain }, &layer))?;
    layer.feed(4, 0)?;
    layer.output_gradients.write(&[5e17; 5 * N])?;
    optimizer.step()?;
    let health = optimizer.health_blocking()?;
    ensure(health.parameters[0].trials[0].skipped == 0, || health.to_string())?;
    ensure(state(&optimizer, "w.left_statistics")?.iter().all(|x| x.is_finite() && *x > 1e35), || "statistics".into())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::curvature::eigen_direction", eigen_direction),
        case("optimizers::curvature::eigen_failures", eigen_failures),
        case("optimizers::curvature::norm_constraint", norm_constraint),
        case("optimizers::curvature::foof_direction", foof_direction),
        case("optimizers::curvature::natural_gradient_direction", natural_gradient_direction),
        case("optimizers::curvature::natural_gradient_shared_taps", natural_gradient_shared_taps),
        case("optimizers::curvature::natural_gradient_failure", natural_gradient_failure),
        case_cpu("optimizers::curvature::refusals", refusals),
        case("optimizers::curvature::overflowing_statistics", overflowing_statistics),
    ]
}
