//! SOAP's own laws: its equations in f64, orthonormal bases, the first step, failures.

use std::sync::Arc;

use layerwise::optim::{Group, Method, Optimizer, Parameter, Soap};
use layerwise::{Context, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{Layer, ensure, fill, optimizer, same, single, state};
use crate::case::{Case, Outcome, case, case_cpu};
use crate::compare::{Tol, close};
use crate::oracle::{Mat, eigh, matmul, orthonormal_rows, random};

fn plain(ctx: &Context, trials: usize, rows: usize, cols: usize, method: impl Into<Method>) -> Result<(Tensor, Tensor, Optimizer), Failed> {
    let shape = Shape::new(trials, rows, cols);
    let (weight, gradient) = (ctx.zeros(shape)?, ctx.zeros(shape)?);
    fill(&weight, 11, 0)?;
    let optimizer = optimizer(ctx, Group::new(method).parameter(Parameter::new("w", &weight, &gradient)))?;
    Ok((weight, gradient, optimizer))
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(m: &Mat) -> Vec<f32> {
    m.data.iter().map(|&x| x as f32).collect()
}

fn wide(values: &[f32], rows: usize, cols: usize) -> Mat {
    Mat { rows, cols, data: values.iter().map(|&x| f64::from(x)).collect() }
}

/// The algorithm as published, in f64, from given bases.
struct Oracle {
    soap: Soap,
    w: Mat,
    /// In the rotated basis.
    m: Mat,
    v: Mat,
    /// (statistics, basis) of the left and of the right side.
    sides: [Option<(Mat, Mat)>; 2],
    t: i32,
}

impl Oracle {
    fn new(soap: Soap, w: &Mat, bases: [Option<Mat>; 2]) -> Oracle {
        let zero = Mat::zeros(w.rows, w.cols);
        let sides = bases.map(|q| q.map(|q| (Mat::zeros(q.rows, q.rows), q)));
        Oracle { soap, w: w.clone(), m: zero.clone(), v: zero, sides, t: -1 }
    }

    fn turn(&self, x: &Mat, back: bool) -> Mat {
        let x = self.sides[0].as_ref().map_or(x.clone(), |(_, q)| matmul(&if back { q.clone() } else { q.t() }, x));
        self.sides[1].as_ref().map_or(x.clone(), |(_, q)| matmul(&x, &if back { q.t() } else { q.clone() }))
    }

    fn step(&mut self, g: &Mat) {
        let s = self.soap;
        self.t += 1;
        if self.t > 0 {
            let rotated = self.turn(g, false);
            self.m = self.m.map(|m| s.beta1 * m).plus(1.0 - s.beta1, &rotated);
            self.v = self.v.map(|v| s.beta2 * v).plus(1.0 - s.beta2, &rotated.map(|g| g * g));
            let mut n = self.turn(&Mat::from_fn(g.rows, g.cols, |r, c| self.m[(r, c)] / (self.v[(r, c)].sqrt() + s.epsilon)), true);
            if s.normalise {
                let rms = n.norm() / ((g.rows * g.cols) as f64).sqrt();
                n = n.map(|n| n / (rms + 1e-30));
            }
            let correction = if s.bias_correction { (1.0 - s.beta2.powi(self.t)).sqrt() / (1.0 - s.beta1.powi(self.t)) } else { 1.0 };
            self.w = self.w.plus(-s.learning_rate * correction, &n);
            self.w = self.w.map(|w| w - s.learning_rate * s.weight_decay * w);
        }
        let moment = self.turn(&self.m, true);
        let decay = s.statistics_decay.unwrap_or(s.beta2);
        for (side, outer) in self.sides.iter_mut().zip([matmul(g, &g.t()), matmul(&g.t(), g)]) {
            if let Some((statistics, _)) = side {
                *statistics = statistics.map(|x| decay * x).plus(1.0 - decay, &outer);
            }
        }
        let every = i32::try_from(s.precondition_every).unwrap_or(1);
        if self.t > 0 && self.t % every == 0 {
            for i in 0..2 {
                let Some((statistics, q)) = &self.sides[i] else { continue };
                let n = q.rows;
                let estimates = matmul(&q.t(), &matmul(statistics, q));
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&a, &b| estimates[(b, b)].total_cmp(&estimates[(a, a)]));
                let lift = s.null_space_floor.map_or(0.0, |f| f.max((64.0 * n as f64 * f64::from(f32::EPSILON)).min(0.125)));
                let lifted = matmul(statistics, q).plus(lift * estimates[(order[0], order[0])], q);
                let sorted = Mat::from_fn(n, n, |r, c| lifted[(r, order[c])]);
                let q = orthonormal_rows(&sorted.t()).t();
                let v = &self.v;
                self.v = Mat::from_fn(v.rows, v.cols, |r, c| if i == 0 { v[(order[r], c)] } else { v[(r, order[c])] });
                self.sides[i] = Some((statistics.clone(), q));
            }
        }
        self.m = self.turn(&moment, false);
    }
}

/// Trajectories against the oracle, over shapes, cadences and options, from random orthonormal bases (so that nothing hides behind a diagonal).
fn trajectories(ctx: &Context) -> Outcome {
    let base = Soap { learning_rate: 0.01, weight_decay: 0.1, precondition_1d: true, ..Soap::default() };
    let methods = [
        base,
        Soap { precondition_every: 1, beta1: 0.8, statistics_decay: Some(0.7), ..base },
        Soap { precondition_every: 3, normalise: true, epsilon: 1e-4, ..base },
        Soap { precondition_every: 2, bias_correction: false, null_space_floor: Some(0.01), ..base },
        Soap { precondition_every: 2, max_precondition_dim: 6, ..base },
        Soap { precondition_every: 2, precondition_1d: false, ..base },
    ];
    let mut compared = 0;
    for (rows, cols) in [(1, 1), (1, 6), (5, 1), (3, 2), (4, 7), (7, 7), (12, 9), (33, 20), (16, 70)] {
        for (i, soap) in methods.into_iter().enumerate() {
            let expected = |n: usize| n > 1 && n <= soap.max_precondition_dim && (soap.precondition_1d || rows.min(cols) > 1);
            // Until there are more gradients than a side is long, its statistics have a null space, whose basis is anyone's choice.
            let seen = usize::try_from(soap.precondition_every + 1)? * rows.min(cols);
            if [rows, cols].into_iter().any(|n| expected(n) && 2 * seen < 3 * n) {
                continue;
            }
            compared += 1;
            let (weight, gradient, mut optimizer) = plain(ctx, 1, rows, cols, soap)?;
            let mut bases = [None, None];
            for (basis, (name, n)) in bases.iter_mut().zip([("w.left_basis", rows), ("w.right_basis", cols)]) {
                if optimizer.state().any(|(found, _)| found == name) {
                    let q = orthonormal_rows(&random(n as u64 + 7, n, n).plus(0.5, &Mat::identity(n)));
                    *basis = Some(wide(&narrow(&q), n, n));
                }
            }
            let have = [bases[0].is_some(), bases[1].is_some()];
            ensure(have == [expected(rows), expected(cols)], || format!("{rows} x {cols}, {soap:?}: bases {have:?}"))?;
            let mut oracle = Oracle::new(soap, &wide(&weight.read()?, rows, cols), bases.clone());
            for step in 0..12 {
                // A scale for each row and column: statistics whose eigenvalues lie apart.
                let scale = |r: usize, c: usize| 0.8f64.powi(i32::try_from(r + c).unwrap_or(0) % 17);
                let g = random(100 * step + 3, rows, cols);
                let g = Mat::from_fn(rows, cols, |r, c| scale(r, c) * (g[(r, c)] + 0.05));
                gradient.write(&narrow(&g))?;
                optimizer.step()?;
                oracle.step(&wide(&narrow(&g), rows, cols));
                let tol = Tol::absolute(2e-5);
                close(&weight.read()?, &oracle.w.data, tol).map_err(|e| format!("{rows} x {cols}, method {i}, step {step}: {e}"))?;
                if step == 0 {
                    for (basis, name) in bases.iter().zip(["w.left_basis", "w.right_basis"]) {
                        let found = optimizer.state().find(|(found, _)| *found == name);
                        basis.iter().zip(found).try_for_each(|(q, (_, tensor))| tensor.write(&narrow(q)))?;
                    }
                }
            }
        }
    }
    ensure(compared >= 36, || format!("{compared} of 54 compared"))
}

/// `max |Q^T Q - I|` of a `[n, n]` item.
fn defect(q: &[f32]) -> f64 {
    let n = (0..=q.len()).find(|n| n * n == q.len()).unwrap_or(0);
    let q = wide(q, n, n);
    matmul(&q.t(), &q).plus(-1.0, &Mat::identity(n)).data.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// Bases stay orthonormal through refreshes, also where statistics are singular: tall and wide, one gradient again and again, dead rows and columns.
fn orthonormal(ctx: &Context) -> Outcome {
    for (rows, cols, kind) in [(40, 9, 0), (9, 40, 0), (70, 70, 0), (20, 12, 1), (30, 50, 2), (5, 64, 1)] {
        for null_space_floor in [None, Some(0.0)] {
            let (weight, gradient, mut optimizer) =
                plain(ctx, 1, rows, cols, Soap { precondition_every: 1, null_space_floor, ..Soap::default() })?;
            for step in 0..12 {
                fill(&gradient, 5, if kind == 1 { 0 } else { step })?;
                let mut g = gradient.read()?;
                g.iter_mut().enumerate().for_each(|(i, g)| {
                    if kind == 2 && (i / cols % 3 == 1 || i % cols % 4 == 2) {
                        *g = 0.0
                    }
                });
                gradient.write(&g)?;
                optimizer.step()?;
                for name in ["w.left_basis", "w.right_basis"] {
                    let defect = defect(&state(&optimizer, name)?);
                    ensure(defect < 5e-6, || format!("{rows} x {cols}, kind {kind}, step {step}, {name}: {defect:e}"))?;
                }
            }
            let health = optimizer.health_blocking()?;
            ensure(health.is_good() && weight.read()?.iter().all(|w| w.is_finite()), || health.to_string())?;
        }
    }
    Ok(())
}

/// The first step makes eigenvectors in descending order and touches nothing else; `L U = U diag`.
fn first_step(ctx: &Context) -> Outcome {
    for (rows, cols) in [(6, 6), (5, 9), (50, 60)] {
        let (weight, gradient, mut optimizer) = plain(ctx, 1, rows, cols, Soap::default())?;
        let before = weight.read()?;
        fill(&gradient, 3, 1)?;
        let g = wide(&gradient.read()?, rows, cols);
        optimizer.step()?;
        same("weight", &weight.read()?, &before)?;
        for name in ["w.first_moment", "w.second_moment"] {
            ensure(state(&optimizer, name)?.iter().all(|&x| x == 0.0), || format!("{name} is not zero"))?;
        }
        for (side, outer) in [("left", matmul(&g, &g.t())), ("right", matmul(&g.t(), &g))] {
            let want = outer.map(|x| 0.05 * x);
            let statistics = state(&optimizer, &format!("w.{side}_statistics"))?;
            close(&statistics, &want.data, Tol::absolute(1e-5))?;
            let q = wide(&state(&optimizer, &format!("w.{side}_basis"))?, want.rows, want.rows);
            let found = matmul(&q.t(), &matmul(&want, &q));
            let values = eigh(&want).0;
            let exact = Mat::from_fn(want.rows, want.rows, |r, c| if r == c { values[want.rows - 1 - r] } else { 0.0 });
            let error = found.plus(-1.0, &exact).norm() / exact.norm();
            ensure(error < 1e-5, || format!("{rows} x {cols} {side}: {error:e}"))?;
        }
        let health = optimizer.health_blocking()?;
        ensure(health.is_good() && health.parameters[0].trials[0].steps == 0, || health.to_string())?;
    }
    Ok(())
}

/// Zero gradients from the first step on: nothing moves, nothing fails, the basis is the identity; then it follows the first real ones.
fn zero_at_first(ctx: &Context) -> Outcome {
    let (weight, gradient, mut optimizer) = plain(ctx, 1, 5, 8, Soap { precondition_every: 2, weight_decay: 0.0, ..Soap::default() })?;
    let (before, identity) = (weight.read()?, narrow(&Mat::identity(8)));
    (0..7).try_for_each(|_| optimizer.step())?;
    same("weight", &weight.read()?, &before)?;
    same("basis", &state(&optimizer, "w.right_basis")?, &identity)?;
    for step in 0..6 {
        fill(&gradient, 3, step)?;
        optimizer.step()?;
    }
    let health = optimizer.health_blocking()?;
    ensure(health.is_good() && state(&optimizer, "w.right_basis")? != identity, || health.to_string())?;
    // And zero again: what is there decays, and stays.
    gradient.write(&[0.0; 40])?;
    (0..20).try_for_each(|_| optimizer.step())?;
    ensure(weight.read()?.iter().all(|w| w.is_finite()) && optimizer.health_blocking()?.is_good(), || "after zeros".into())
}

/// An item whose first gradient is refused starts later: statistics, then steps in its own coordinates, eigenvectors at its first refresh.
fn late_start(ctx: &Context) -> Outcome {
    let (weight, gradient, mut optimizer) = plain(ctx, 2, 6, 4, Soap { precondition_every: 4, ..Soap::default() })?;
    let start = weight.read()?;
    let identity = narrow(&Mat::identity(6));
    for step in 0..6 {
        fill(&gradient, 3, step)?;
        let mut g = gradient.read()?;
        if step < 2 {
            g[24] = f32::INFINITY;
        }
        gradient.write(&g)?;
        optimizer.step()?;
        let basis = state(&optimizer, "w.left_basis")?;
        ensure(basis[..36] != identity[..] && (basis[36..] == identity[..]) == (step < 4), || format!("step {step}: {basis:?}"))?;
        ensure(defect(&basis[36..]) < 5e-6, || format!("step {step}"))?;
        ensure((weight.read()?[24..] == start[24..]) == (step < 3), || format!("step {step}: the weight"))?;
    }
    let health = optimizer.health_blocking()?;
    let [first, late] = [0, 1].map(|t| health.parameters[0].trials[t]);
    ensure((first.steps, first.skipped, late.steps, late.skipped, late.failed_roots) == (5, 0, 3, 2, 0), || health.to_string())
}

/// Statistics that are not finite (nothing here makes them so) keep the old bases and moments of that item, and are counted.
fn failed_basis(ctx: &Context) -> Outcome {
    let (weight, gradient, mut optimizer) = plain(ctx, 2, 5, 7, Soap { precondition_every: 2, ..Soap::default() })?;
    let run = |optimizer: &mut Optimizer, steps: std::ops::Range<u64>| -> Outcome {
        for step in steps {
            fill(&gradient, 3, step)?;
            optimizer.step()?;
        }
        Ok(())
    };
    run(&mut optimizer, 0..4)?;
    let before = [state(&optimizer, "w.left_basis")?, state(&optimizer, "w.right_basis")?];
    let (_, statistics) = optimizer.state().find(|(n, _)| *n == "w.left_statistics").ok_or("no statistics")?;
    let mut poisoned = statistics.read()?;
    (poisoned[3], poisoned[15]) = (f32::NAN, f32::NAN);
    statistics.write(&poisoned)?;
    run(&mut optimizer, 4..8)?;
    for (name, before) in ["w.left_basis", "w.right_basis"].into_iter().zip(&before) {
        let (after, half) = (state(&optimizer, name)?, before.len() / 2);
        same(name, &after[..half], &before[..half])?;
        ensure(after[half..] != before[half..], || format!("{name}: the other item's stayed"))?;
    }
    let health = optimizer.health_blocking()?;
    let [bad, good] = [0, 1].map(|t| health.parameters[0].trials[t]);
    ensure((bad.failed_roots, bad.steps, good.failed_roots, good.steps) == (2, 7, 0, 7), || health.to_string())?;
    ensure(weight.read()?.iter().all(|w| w.is_finite()), || "not finite".into())
}

/// All bases at the first step, then one bucket after another.
fn staggered(ctx: &Context) -> Outcome {
    let layers = Layer::stack(ctx, 2, 2, 3, 3, 1)?;
    let soap = Soap { precondition_every: 4, ..Soap::default() };
    let group = layers.iter().enumerate().fold(Group::new(soap), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
    let mut optimizer = optimizer(ctx, group)?;
    let mut before = state(&optimizer, "w0..w1.right_basis")?;
    for step in 0..9u64 {
        for (i, layer) in layers.iter().enumerate() {
            layer.feed(7 + 100 * i as u64, step)?;
        }
        if step == 1 {
            let segments = optimizer.next_segments();
            ensure(segments == ["begin", "apply", "accumulate"], || format!("{segments:?}"))?;
        }
        optimizer.step()?;
        let after = state(&optimizer, "w0..w1.right_basis")?;
        let half = after.len() / 2;
        let changed = [after[..half] != before[..half], after[half..] != before[half..]];
        let want = [step.is_multiple_of(4), step == 0 || step % 4 == 2];
        ensure(changed == want, || format!("step {step}: changed {changed:?}, expected {want:?}"))?;
        before = after;
    }
    Ok(())
}

/// From denormal to the largest accepted gradients, in both orders: weights and state stay finite; a larger squared norm is refused.
fn any_scale(ctx: &Context) -> Outcome {
    let scales = [1e-40f32, 1e-20, 1e17, 0.0, 1.0, 1e17, 1e-30, 1e10];
    let floor = Soap { null_space_floor: Some(0.0), normalise: true, precondition_every: 2, ..Soap::default() };
    for soap in [Soap { precondition_every: 1, ..Soap::default() }, floor, Soap { max_precondition_dim: 0, ..Soap::default() }] {
        let (weight, gradient, mut optimizer) = plain(ctx, 1, 6, 9, soap)?;
        for (step, scale) in scales.iter().chain(scales.iter().rev()).enumerate() {
            fill(&gradient, 8, step as u64)?;
            gradient.write(&gradient.read()?.iter().map(|g| g * scale).collect::<Vec<_>>())?;
            optimizer.step()?;
            let kept: Vec<Vec<f32>> = optimizer.state().map(|(_, t)| t.read()).collect::<Result<_, _>>()?;
            let finite = kept.iter().chain([&weight.read()?]).all(|x| x.iter().all(|x| x.is_finite()));
            ensure(finite, || format!("{soap:?}: step {step}, scale {scale:e}"))?;
        }
        gradient.write(&[9e17; 54])?;
        let before = weight.read()?;
        optimizer.step()?;
        same("refused", &weight.read()?, &before)?;
        let trial = optimizer.health_blocking()?.parameters[0].trials[0];
        ensure((trial.steps, trial.skipped, trial.failed_roots) == (15, 1, 0), || format!("{soap:?}: {trial:?}"))?;
    }
    Ok(())
}

/// With every gradient along one direction the update has the step size's norm, given an epsilon above the gradient's rounding.
fn rank_one(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 8, 11, 4)?;
    let mut optimizer = optimizer(ctx, single(Soap { weight_decay: 0.0, epsilon: 1e-4, ..Soap::default() }, &layer))?;
    let (u, v) = (random(1, 8, 1), random(2, 1, 12));
    layer.gradient.write(&narrow(&matmul(&u, &v)))?;
    let start = wide(&layer.weight.read()?, 8, 12);
    (0..3).try_for_each(|_| optimizer.step())?;
    let moved = wide(&layer.weight.read()?, 8, 12).plus(-1.0, &start);
    // Two steps of 3e-3 along u v^T, which is one element of the rotated weight.
    let want = matmul(&u, &v).map(|x| -2.0 * 3e-3 * x / (u.norm() * v.norm()));
    let error = moved.plus(-1.0, &want).norm() / want.norm();
    ensure(error < 0.02, || format!("{error}"))
}

/// Products, reflections and copies that are divided among threads: the same bits on any number, with fewer items than threads and with more.
fn threads_change_nothing(_: &Context) -> Outcome {
    let run = |threads: usize, trials: usize, every: u64| -> Result<Vec<f32>, Failed> {
        let ctx = Context::cpu_with_pool(Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?));
        let (weight, gradient, mut optimizer) = plain(&ctx, trials, 331, 190, Soap { precondition_every: every, ..Soap::default() })?;
        for step in 0..4 {
            fill(&gradient, 3, step)?;
            optimizer.step()?;
        }
        Ok(weight.read()?)
    };
    for (trials, every) in [(1, 1), (3, 2)] {
        let want = run(1, trials, every)?;
        for threads in [2, 3, 8] {
            same(&format!("{trials} trials on {threads} threads"), &run(threads, trials, every)?, &want)?;
        }
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::soap::trajectories", trajectories),
        case("optimizers::soap::orthonormal", orthonormal),
        case("optimizers::soap::first_step", first_step),
        case("optimizers::soap::zero_at_first", zero_at_first),
        case("optimizers::soap::late_start", late_start),
        case("optimizers::soap::failed_basis", failed_basis),
        case("optimizers::soap::staggered", staggered),
        case("optimizers::soap::any_scale", any_scale),
        case("optimizers::soap::rank_one", rank_one),
        case_cpu("optimizers::soap::threads_change_nothing", threads_change_nothing),
    ]
}
