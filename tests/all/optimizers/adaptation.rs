//! KFAC's Levenberg-Marquardt damping against the rule in f64, with losses handed over as a program would.

use layerwise::optim::{Group, Kfac, KfacForm, LevenbergMarquardt, Optimizer, OutputGradients, StatisticsStart};
#[cfg(feature = "gpu")]
use layerwise::wgpu;
use layerwise::{Context, Error, Shape, Tensor};
use libtest_mimic::Failed;

use super::curvature::mat;
#[cfg(any(feature = "checkpoint", feature = "gpu"))]
use super::rig::same;
use super::rig::{Layer, N, ensure, fill, optimizer, single};
use crate::case::{Case, Outcome, case};
use crate::oracle::{Mat, gram, matmul};

const TRIALS: usize = 2;
const RATES: [f64; TRIALS] = [0.3, 1.0];
const DAMPINGS: [f64; TRIALS] = [0.2, 5.0];

const RULE: LevenbergMarquardt = LevenbergMarquardt { omega: 0.5, every: 2, least: 0.04 };

fn adapting(form: KfacForm, momentum: f64, adaptation: LevenbergMarquardt) -> Kfac {
    Kfac {
        form,
        momentum,
        output_gradients: OutputGradients::PerSample,
        statistics_start: StatisticsStart::BiasCorrected,
        decay: 0.8,
        kl_clip: None,
        weight_decay: 0.01,
        adaptation: Some(adaptation),
        ..Kfac::default()
    }
}

/// Two linear layers, each fitted to targets of its own; the loss is the sum.
struct Problem {
    layers: [Layer; 2],
    targets: [Tensor; 2],
    loss: Tensor,
    optimizer: Optimizer,
}

/// One layer of one trial, as the oracle sees it.
#[derive(Clone)]
struct Seen {
    weight: Mat,
    gradient: Mat,
    statistics: [Mat; 2],
}

impl Problem {
    fn new(ctx: &Context, kfac: Kfac) -> Result<Problem, Failed> {
        let layers = [Layer::new(ctx, TRIALS, 3, 4, 3)?, Layer::new(ctx, TRIALS, 5, 2, 8)?];
        let targets = [ctx.zeros(Shape::new(TRIALS, N, 3))?, ctx.zeros(Shape::new(TRIALS, N, 5))?];
        let group = layers.iter().enumerate().fold(Group::new(kfac), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
        let optimizer = optimizer(ctx, group.learning_rates(&RATES).dampings(&DAMPINGS))?;
        Ok(Problem { layers, targets, loss: ctx.zeros(Shape::new(TRIALS, 1, 1))?, optimizer })
    }

    /// New inputs and targets, trial 1's five times as large.
    fn draw(&self, step: u64) -> Outcome {
        for (i, layer) in self.layers.iter().enumerate() {
            fill(&layer.inputs, 5 + 100 * i as u64, 10 * step)?;
            fill(&self.targets[i], 6 + 100 * i as u64, 10 * step)?;
            let mut values = self.targets[i].read()?;
            let half = values.len() / 2;
            values[half..].iter_mut().for_each(|v| *v *= 5.0);
            self.targets[i].write(&values)?;
        }
        Ok(())
    }

    /// Losses and residuals of every trial at the current weights.
    fn evaluate(&self) -> Result<(Vec<f64>, Vec<[Mat; 2]>), Failed> {
        let mut losses = vec![0.0; TRIALS];
        let mut residuals = Vec::new();
        for (trial, loss) in losses.iter_mut().enumerate() {
            let mut both = Vec::new();
            for (layer, target) in self.layers.iter().zip(&self.targets) {
                let x = mat(&layer.inputs, trial)?;
                let x = Mat::from_fn(N, x.cols + 1, |r, c| if c < x.cols { x[(r, c)] } else { 1.0 });
                let residual = matmul(&x, &mat(&layer.weight, trial)?.t()).plus(-1.0, &mat(target, trial)?);
                *loss += residual.norm().powi(2) / (2 * N) as f64;
                both.push(residual);
            }
            residuals.push(<[Mat; 2]>::try_from(both).map_err(|_| "two layers")?);
        }
        Ok((losses, residuals))
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
    fn observe(&mut self, losses: &[f64]) -> Outcome {
        self.loss.write(&losses.iter().map(|&l| l as f32).collect::<Vec<_>>())?;
        Ok(self.optimizer.observe_loss(&self.loss)?)
    }

    /// Feeds gradients and taps, steps; what each trial's layers looked like before.
    #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
    fn step(&mut self, statistics: &mut [Vec<[Mat; 2]>], weight: &mut f64) -> Result<Vec<Vec<Seen>>, Failed> {
        let (_, residuals) = self.evaluate()?;
        *weight = 0.8 * *weight + 1.0;
        let mut seen = vec![Vec::new(); TRIALS];
        for (i, layer) in self.layers.iter().enumerate() {
            let (mut gradients, mut taps) = (Vec::new(), Vec::new());
            for trial in 0..TRIALS {
                let residual = &residuals[trial][i];
                let x = mat(&layer.inputs, trial)?;
                let ones = Mat::from_fn(N, x.cols + 1, |r, c| if c < x.cols { x[(r, c)] } else { 1.0 });
                let gradient = matmul(&residual.t(), &ones).map(|v| v / N as f64);
                gradients.extend(gradient.data.iter().map(|&v| v as f32));
                taps.extend(residual.data.iter().map(|&v| (v / N as f64) as f32));
                let new = [gram(residual, false), gram(&x, true)];
                let kept = &mut statistics[trial];
                if kept.len() <= i {
                    kept.push(new);
                } else {
                    kept[i] = [0, 1].map(|j| kept[i][j].map(|v| v * (1.0 - 1.0 / *weight)).plus(1.0 / *weight, &new[j]));
                }
                seen[trial].push(Seen { weight: mat(&layer.weight, trial)?, gradient, statistics: kept[i].clone() });
            }
            layer.gradient.write(&gradients)?;
            layer.output_gradients.write(&taps)?;
        }
        self.optimizer.step()?;
        Ok(seen)
    }

    /// What the model predicts for the step that was just made.
    fn predicted(&self, seen: &[Vec<Seen>], trial: usize) -> Result<f64, Failed> {
        let mut sum = 0.0;
        for (layer, before) in self.layers.iter().zip(&seen[trial]) {
            let d = mat(&layer.weight, trial)?.plus(-1.0, &before.weight);
            let curved = matmul(&matmul(&before.statistics[0], &d), &before.statistics[1]);
            sum += d.data.iter().zip(&before.gradient.data).map(|(d, g)| d * g).sum::<f64>();
            sum += 0.5 * d.data.iter().zip(&curved.data).map(|(d, c)| d * c).sum::<f64>();
        }
        Ok(sum)
    }

    fn dampings(&self) -> Result<Vec<[f32; TRIALS]>, Failed> {
        let health = self.optimizer.health_blocking()?;
        ensure(health.is_good(), || health.to_string())?;
        Ok(health.parameters.iter().map(|p| [p.trials[0].damping, p.trials[1].damping]).collect())
    }
}

/// The rule, in f64: the dampings that are right, with -1, 0, 1 for lower, equal, higher. More than one where the ratio is nearer to a threshold than the step,
/// a difference of rounded weights, is known.
fn rule(damping: f64, before: f64, after: f64, predicted: f64) -> Vec<(f64, i32)> {
    let rho = if after.is_finite() { (after - before) / predicted } else { -100.0 };
    let mut all = Vec::new();
    for r in [rho - 2e-3, rho + 2e-3] {
        let (new, change) = match r {
            r if r < 0.25 => (damping / RULE.omega, 1),
            r if r > 0.75 => (damping * RULE.omega, -1),
            _ => (damping, 0),
        };
        all.push((new.clamp(RULE.least, 1e10), change));
    }
    all.dedup();
    all
}

/// As the device sees it.
#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn rounded(loss: f64) -> f64 {
    f64::from(loss as f32)
}

fn expect(problem: &Problem, want: &[f64], what: &dyn std::fmt::Display) -> Outcome {
    for (layer, got) in problem.dampings()?.iter().enumerate() {
        for (trial, (got, want)) in got.iter().zip(want).enumerate() {
            ensure((f64::from(*got) - want).abs() < 1e-5 * want, || {
                format!("{what}: layer {layer}, trial {trial}: {got}, expected {want}")
            })?;
        }
    }
    Ok(())
}

/// One batch for good, a loss between any two steps; then batches that change, a loss before and after each step. A loss that is not finite in between.
fn follows_the_rule(ctx: &Context) -> Outcome {
    for (form, momentum) in [(KfacForm::Inverse, 0.0), (KfacForm::Eigen, 0.9)] {
        for full_batch in [true, false] {
            let mut problem = Problem::new(ctx, adapting(form, momentum, RULE))?;
            problem.draw(0)?;
            let (mut want, mut statistics, mut weight) = (DAMPINGS.to_vec(), vec![Vec::new(); TRIALS], 0.0);
            let (mut seen_changes, mut doubtful) = ([0; 3], 0);
            for step in 0..40u64 {
                if !full_batch {
                    problem.draw(step)?;
                }
                let (before, _) = problem.evaluate()?;
                if step == 0 || !full_batch {
                    problem.observe(&before)?;
                }
                expect(&problem, &want, &format!("{form:?} before step {step}"))?;
                let seen = problem.step(&mut statistics, &mut weight)?;
                let (mut after, _) = problem.evaluate()?;
                if step == 21 {
                    after[1] = f64::NAN;
                }
                problem.observe(&after)?;
                for trial in 0..TRIALS {
                    let predicted = problem.predicted(&seen, trial)?;
                    // With the full batch, the loss before step 22 is the one that was lost.
                    let pair = !(full_batch && step == 22 && trial == 1);
                    if step % 2 == 1 && pair {
                        let right = rule(want[trial], rounded(before[trial]), rounded(after[trial]), predicted);
                        let got = f64::from(problem.dampings()?[0][trial]);
                        let (new, change) = *right.iter().find(|(new, _)| (got - new).abs() < 1e-5 * new).unwrap_or(&right[0]);
                        doubtful += right.len() - 1;
                        want[trial] = new;
                        seen_changes[usize::try_from(change + 1)?] += 1;
                    }
                }
                expect(&problem, &want, &format!("{form:?}, momentum {momentum}, full batch {full_batch}, step {step}"))?;
            }
            ensure(seen_changes[0] > 0 && seen_changes[2] > 0 && doubtful < 4, || {
                format!("{form:?}, {full_batch}: changes down, none, up: {seen_changes:?}")
            })?;
        }
    }
    Ok(())
}

/// Losses without exactly one step between them, or at steps that are not due, change nothing.
fn no_pair_no_change(ctx: &Context) -> Outcome {
    let every = LevenbergMarquardt { every: 1, ..RULE };
    let mut problem = Problem::new(ctx, adapting(KfacForm::Inverse, 0.9, every))?;
    problem.draw(0)?;
    let (mut statistics, mut weight) = (vec![Vec::new(); TRIALS], 0.0);
    let mut step = |problem: &mut Problem| problem.step(&mut statistics, &mut weight).map(|_| ());
    // No loss before; two losses without a step; two steps between two losses.
    step(&mut problem)?;
    problem.observe(&[1.0, 1.0])?;
    problem.observe(&[9.0, 9.0])?;
    step(&mut problem)?;
    step(&mut problem)?;
    problem.observe(&[2e3, 2e3])?;
    expect(&problem, &DAMPINGS, &"no pair")?;
    // A rise of the loss over one step: raised. A refused step in between: the prediction is 0.
    step(&mut problem)?;
    problem.observe(&[1e6, 2e6])?;
    expect(&problem, &DAMPINGS.map(|d| d / RULE.omega), &"a pair")?;
    for layer in &problem.layers {
        let mut gradient = layer.gradient.read()?;
        gradient[0] = f32::NAN;
        layer.gradient.write(&gradient)?;
    }
    problem.optimizer.step()?;
    problem.observe(&[2e6, 4e6])?;
    let health = problem.optimizer.health_blocking()?;
    let got: Vec<f32> = health.parameters[0].trials.iter().map(|t| t.damping).collect();
    let fine = (f64::from(got[0]) - DAMPINGS[0] / 0.5).abs() < 1e-5 && (f64::from(got[1]) - DAMPINGS[1] / 0.25).abs() < 1e-4;
    ensure(fine, || format!("after a refused step: {got:?}"))
}

/// Who may be told, and what.
fn refusals(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 3, 4, 1)?;
    let loss = ctx.zeros(Shape::new(2, 1, 1))?;
    let mut plain = optimizer(ctx, single(Kfac::default(), &layer))?;
    ensure(matches!(plain.observe_loss(&loss), Err(Error::Config { field: "observe_loss", .. })), || "no group adapts".into())?;
    let mut mine = optimizer(ctx, single(adapting(KfacForm::Inverse, 0.9, RULE), &layer))?;
    mine.observe_loss(&loss)?;
    ensure(matches!(mine.observe_loss(&ctx.zeros(Shape::new(3, 1, 1))?), Err(Error::Binding { .. })), || "another shape".into())?;
    let elsewhere = Context::cpu().zeros(Shape::new(2, 1, 1))?;
    ensure(matches!(mine.observe_loss(&elsewhere), Err(Error::ForeignContext { .. })), || "another context".into())?;
    // Another tensor, and a view of one, are read in place.
    let both = ctx.arena(&[Shape::new(2, 1, 1), Shape::new(2, 1, 1)])?;
    both.iter().try_for_each(|loss| mine.observe_loss(loss))?;
    mine.step().map_err(Into::into)
}

/// Saved between a loss and its step, the run goes on bit by bit.
#[cfg(feature = "checkpoint")]
fn resume(ctx: &Context) -> Outcome {
    let kfac = adapting(KfacForm::Eigen, 0.9, LevenbergMarquardt { every: 3, ..RULE });
    let advance = |problem: &mut Problem, steps: std::ops::Range<u64>| -> Outcome {
        for step in steps {
            for (i, layer) in problem.layers.iter().enumerate() {
                layer.feed(7 + 10 * i as u64, step)?;
            }
            problem.optimizer.step()?;
            problem.observe(&[(step as f64).sin(), 3.0 - step as f64])?;
        }
        Ok(())
    };
    let mut first = Problem::new(ctx, kfac)?;
    advance(&mut first, 0..7)?;
    let (bytes, weights) = (first.optimizer.state_bytes_blocking()?, [first.layers[0].weight.read()?, first.layers[1].weight.read()?]);
    advance(&mut first, 7..14)?;
    let mut second = Problem::new(ctx, kfac)?;
    second.layers.iter().zip(&weights).try_for_each(|(layer, weight)| layer.weight.write(weight))?;
    second.optimizer.from_state_bytes_blocking(&bytes)?;
    advance(&mut second, 7..14)?;
    for (a, b) in first.layers.iter().zip(&second.layers) {
        same("weights", &b.weight.read()?, &a.weight.read()?)?;
    }
    let (a, b) = (first.optimizer.health_blocking()?, second.optimizer.health_blocking()?);
    let adapted = a.parameters[0].trials.iter().zip(DAMPINGS).any(|(t, d)| (f64::from(t.damping) - d).abs() > 1e-3);
    ensure(a == b && adapted, || format!("{a}\n{b}"))
}

/// Steps and losses recorded into one encoder equal those submitted one by one.
#[cfg(feature = "gpu")]
fn recorded(ctx: &Context) -> Outcome {
    let run = |together: bool| -> Result<(Vec<f32>, Vec<[f32; TRIALS]>), Failed> {
        let mut problem = Problem::new(ctx, adapting(KfacForm::Inverse, 0.9, LevenbergMarquardt { every: 1, ..RULE }))?;
        problem.layers.iter().try_for_each(|layer| layer.feed(3, 0))?;
        let losses = [ctx.upload(Shape::new(TRIALS, 1, 1), &[4.0, 3.0])?, ctx.upload(Shape::new(TRIALS, 1, 1), &[1.0, 9.0])?];
        let (device, queue) = ctx.wgpu().ok_or("not a GPU context")?;
        if together {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            for step in 0..4 {
                problem.optimizer.record_loss(&mut encoder, &losses[step % 2])?;
                problem.optimizer.record(&mut encoder)?;
            }
            queue.submit([encoder.finish()]);
        } else {
            for step in 0..4 {
                problem.optimizer.observe_loss(&losses[step % 2])?;
                problem.optimizer.step()?;
            }
        }
        Ok((problem.layers[0].weight.read()?, problem.dampings()?))
    };
    let (one, many) = (run(true)?, run(false)?);
    same("weights", &one.0, &many.0)?;
    ensure(one.1 == many.1 && f64::from(one.1[0][1]) != DAMPINGS[1], || format!("{:?} {:?}", one.1, many.1))
}

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "features add cases")]
    let mut cases = vec![
        case("optimizers::adaptation::follows_the_rule", follows_the_rule),
        case("optimizers::adaptation::no_pair_no_change", no_pair_no_change),
        case("optimizers::adaptation::refusals", refusals),
    ];
    #[cfg(feature = "checkpoint")]
    cases.push(case("optimizers::adaptation::resume", resume));
    #[cfg(feature = "gpu")]
    cases.push(crate::case::case_gpu("optimizers::adaptation::recorded", recorded));
    cases
}
