//! Shampoo's own laws: exactness, grafting, blocks, accumulation, failures.

use layerwise::optim::{Accumulation, Adam, AdamW, EpsilonScale, Graft, Group, Method, Optimizer, Parameter, Sgd, Shampoo, WeightDecay};
use layerwise::{Context, Shape, Tensor, linalg};
use libtest_mimic::Failed;

use super::rig::{Layer, ensure, fill, optimizer, same, single, state};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close, close_to_largest};
use crate::oracle::{Mat, data, matmul, orthonormal_rows, random};

/// Shampoo without anything that would hide the direction.
fn bare() -> Shampoo {
    Shampoo { learning_rate: 1.0, beta1: 0.0, ..Shampoo::default() }
}

fn plain(ctx: &Context, trials: usize, rows: usize, cols: usize, method: impl Into<Method>) -> Result<(Tensor, Tensor, Optimizer), Failed> {
    let shape = Shape::new(trials, rows, cols);
    let (weight, gradient) = (ctx.zeros(shape)?, ctx.zeros(shape)?);
    let optimizer = optimizer(ctx, Group::new(method).parameter(Parameter::new("w", &weight, &gradient)))?;
    Ok((weight, gradient, optimizer))
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(m: &Mat) -> Vec<f32> {
    m.data.iter().map(|&x| x as f32).collect()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// `u diag(values)`, then times the rows of `v`: a matrix with these singular values.
fn with_singular_values(u: &Mat, values: &[f64], v: &Mat) -> Mat {
    matmul(&Mat::from_fn(values.len(), values.len(), |r, c| u[(r, c)] * values[c]), v)
}

/// One gradient of full rank and a sum with almost no ridge: `(G G^T)^(-1/4) G (G^T G)^(-1/4)` is the polar factor of `G`, and with exponents `-1/p` each
/// `U S^(1 - 4/p) V^T`. A vector goes to unit length.
fn first_step(ctx: &Context) -> Outcome {
    let (n, values) = (6, [3.0, 2.0, 1.5, 1.0, 0.7, 0.5]);
    let (u, v) = (orthonormal_rows(&random(1, n, n)), orthonormal_rows(&random(2, n, n)));
    let g = with_singular_values(&u, &values, &v);
    for scale in [EpsilonScale::Absolute, EpsilonScale::Relative] {
        for root_method in [linalg::Method::Eigen, linalg::Method::Newton] {
            for p in [4, 2, 3, 8] {
                let shampoo = Shampoo { epsilon: 1e-9, epsilon_scale: scale, matrix_root: p, root_method, ..bare() };
                let (weight, gradient, mut optimizer) = plain(ctx, 1, n, n, shampoo)?;
                gradient.write(&narrow(&g))?;
                optimizer.step()?;
                let powers = values.map(|s: f64| -s.powf(1.0 - 4.0 / f64::from(p)));
                let want = with_singular_values(&u, &powers, &v);
                // The condition of either matrix is 36; the error of a root grows with it.
                close_to_largest(&weight.read()?, &want.data, Tol::relative(4e-5))
                    .map_err(|e| format!("{scale:?} {root_method:?} {p}: {e}"))?;
            }
        }
    }
    for (rows, cols) in [(1, 9), (9, 1), (1, 1)] {
        let (weight, gradient, mut optimizer) = plain(ctx, 1, rows, cols, Shampoo { epsilon: 1e-4, ..bare() })?;
        fill(&gradient, 3, 0)?;
        optimizer.step()?;
        let g = gradient.read()?;
        let want: Vec<f64> = g.iter().map(|&x| -f64::from(x) / norm(&g) / 1.0001f64.sqrt()).collect();
        close_to_largest(&weight.read()?, &want, Tol::relative(2e-5)).map_err(|e| format!("{rows}x{cols}: {e}"))?;
    }
    Ok(())
}

/// A large epsilon shows its unit: each singular value becomes `s / sqrt(s^2 + epsilon c)`, c being 1, the largest or the mean squared one.
fn units_of_epsilon(ctx: &Context) -> Outcome {
    let (n, values) = (6, [3.0, 2.0, 1.5, 1.0, 0.7, 0.5]);
    let (u, v) = (orthonormal_rows(&random(1, n, n)), orthonormal_rows(&random(2, n, n)));
    let g = with_singular_values(&u, &values, &v);
    let mean = values.iter().map(|s| s * s).sum::<f64>() / n as f64;
    for (epsilon_scale, unit) in [(EpsilonScale::Absolute, 1.0), (EpsilonScale::Relative, 9.0), (EpsilonScale::RelativeToMean, mean)] {
        for root_method in [linalg::Method::Eigen, linalg::Method::Newton] {
            let (weight, gradient, mut optimizer) = plain(ctx, 1, n, n, Shampoo { epsilon: 0.2, epsilon_scale, root_method, ..bare() })?;
            gradient.write(&narrow(&g))?;
            optimizer.step()?;
            let want = with_singular_values(&u, &values.map(|s: f64| -s / (s * s + 0.2 * unit).sqrt()), &v);
            let equal = close_to_largest(&weight.read()?, &want.data, Tol::relative(4e-6));
            equal.map_err(|e| format!("{epsilon_scale:?} {root_method:?}: {e}"))?;
        }
    }
    Ok(())
}

/// Before `start_step` every graft is its base optimizer, step for step; the reference's own property.
fn starts_as_its_graft(ctx: &Context) -> Outcome {
    let rate = 0.01;
    let base = Shampoo { learning_rate: rate, start_step: 6, ..bare() };
    let adam = Graft::Adam { beta2: 0.99, epsilon: 1e-8 };
    let decay = 0.05;
    let (l2, decoupled) = (WeightDecay::L2(decay), WeightDecay::Decoupled(decay));
    let sgd = Sgd { learning_rate: rate, weight_decay: decay, ..Sgd::default() };
    let adam_base = Adam { learning_rate: rate, beta2: 0.99, weight_decay: decay, ..Adam::default() };
    let adamw = AdamW { learning_rate: rate, beta2: 0.99, weight_decay: decay, ..AdamW::default() };
    let momentum = Sgd { momentum: 0.9, ..sgd };
    // RMSprop is Adam without first moment and correction; without a correction of its own it is checked in `grafted_moments`.
    let pairs: [(Shampoo, Method); 6] = [
        (Shampoo { graft: Graft::Sgd, weight_decay: l2, ..base }, sgd.into()),
        (Shampoo { graft: Graft::None, weight_decay: decoupled, ..base }, sgd.into()),
        (Shampoo { graft: Graft::Sgd, weight_decay: l2, momentum: 0.9, ..base }, momentum.into()),
        (
            Shampoo { graft: Graft::Sgd, momentum: 0.9, nesterov: true, weight_decay: decoupled, ..base },
            Sgd { nesterov: true, ..momentum }.into(),
        ),
        (Shampoo { graft: adam, beta1: 0.9, weight_decay: l2, ..base }, adam_base.into()),
        (Shampoo { graft: adam, beta1: 0.9, weight_decay: decoupled, block_size: 3, ..base }, adamw.into()),
    ];
    for (shampoo, method) in pairs {
        let (a, b) = (Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?);
        let (mut ours, mut theirs) = (optimizer(ctx, single(shampoo, &a))?, optimizer(ctx, single(method, &b))?);
        for step in 0..8 {
            a.feed(1, step)?;
            b.feed(1, step)?;
            ours.step()?;
            theirs.step()?;
            let want: Vec<f64> = b.weight.read()?.into_iter().map(f64::from).collect();
            let equal = close(&a.weight.read()?, &want, Tol { relative: 2e-6, absolute: 2e-7 });
            ensure(equal.is_ok() == (step < 6), || format!("{method:?}, step {step}: {equal:?}"))?;
        }
    }
    Ok(())
}

/// The second moments of Adagrad, `RMSprop` and Adam in closed form, and that a preconditioned step has the norm of the graft's and its own direction.
fn grafted_moments(ctx: &Context) -> Outcome {
    let epsilon = 1e-3;
    for graft in [Graft::Sgd, Graft::Adagrad { epsilon }, Graft::RmsProp { beta2: 0.75, epsilon }, Graft::Adam { beta2: 0.75, epsilon }] {
        for block_size in [100, 4] {
            let shampoo = Shampoo { graft, block_size, ..bare() };
            let free = Shampoo { graft: Graft::None, ..shampoo };
            let (weight, gradient, mut grafted) = plain(ctx, 2, 7, 5, shampoo)?;
            let (other, same_gradient, mut own) = plain(ctx, 2, 7, 5, free)?;
            let mut v = vec![0.0f64; 70];
            for step in 0..4u32 {
                fill(&gradient, 9, u64::from(step))?;
                fill(&same_gradient, 9, u64::from(step))?;
                let g: Vec<f64> = gradient.read()?.into_iter().map(f64::from).collect();
                let (old, new, correction) = match graft {
                    Graft::Adagrad { .. } => (1.0, 1.0, 1.0),
                    Graft::Adam { .. } => (0.75, 0.25, 1.0 - 0.75f64.powf(f64::from(step + 1))),
                    _ => (0.75, 0.25, 1.0),
                };
                v.iter_mut().zip(&g).for_each(|(v, g)| *v = old * *v + new * g * g);
                let plain_step = |i: usize| if graft == Graft::Sgd { g[i] } else { g[i] / ((v[i] / correction).sqrt() + epsilon) };
                let (before, before_own) = (weight.read()?, other.read()?);
                grafted.step()?;
                own.step()?;
                let change =
                    |after: Vec<f32>, before: &[f32]| -> Vec<f64> { after.iter().zip(before).map(|(a, b)| f64::from(a - b)).collect() };
                let (change, own_change) = (change(weight.read()?, &before), change(other.read()?, &before_own));
                let cells = |item: usize, first_row: usize, first_col: usize| -> Vec<usize> {
                    let (rows, cols) = (first_row..7.min(first_row + block_size), first_col..5.min(first_col + block_size));
                    rows.flat_map(|r| cols.clone().map(move |c| item * 35 + r * 5 + c)).collect()
                };
                for item in 0..2 {
                    for (r, c) in (0..7).step_by(block_size).flat_map(|r| (0..5).step_by(block_size).map(move |c| (r, c))) {
                        let cells = cells(item, r, c);
                        let length = |x: &dyn Fn(usize) -> f64| cells.iter().map(|&i| x(i).powi(2)).sum::<f64>().sqrt();
                        let ratio = length(&plain_step) / length(&|i| own_change[i]);
                        let got: Vec<f32> = cells.iter().map(|&i| rounded(change[i])).collect();
                        let want: Vec<f64> = cells.iter().map(|&i| ratio * own_change[i]).collect();
                        close_to_largest(&got, &want, Tol::relative(1e-5))
                            .map_err(|e| format!("{graft:?}, step {step}, item {item}, block ({r}, {c}): {e}"))?;
                    }
                }
            }
        }
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn rounded(x: f64) -> f32 {
    x as f32
}

/// Statistics after five gradients are what the formulas say, with each accumulation and correction; seen through the roots of a diagonal case.
fn accumulations(ctx: &Context) -> Outcome {
    let beta2 = 0.75f64;
    let n = 4;
    for (accumulation, bias_correction) in
        [(Accumulation::Sum, true), (Accumulation::Sum, false), (Accumulation::Ema, true), (Accumulation::Ema, false)]
    {
        let shampoo = Shampoo { accumulation, beta2, bias_correction, epsilon: 1e-3, epsilon_scale: EpsilonScale::Absolute, ..bare() };
        let (_, gradient, mut optimizer) = plain(ctx, 1, n, n, shampoo)?;
        let mut want = vec![0.0f64; n];
        for step in 0..5u32 {
            let d: Vec<f32> = data(u64::from(step), n).iter().map(|x| x + 0.125).collect();
            gradient.write(&(0..n * n).map(|i| if i % (n + 1) == 0 { d[i / n] } else { 0.0 }).collect::<Vec<_>>())?;
            optimizer.step()?;
            let (old, new) = if accumulation == Accumulation::Sum { (1.0, 1.0) } else { (beta2, 1.0 - beta2) };
            want.iter_mut().zip(&d).for_each(|(w, &d)| *w = old * *w + new * f64::from(d).powi(2));
            let correction = match accumulation {
                Accumulation::Ema if bias_correction => 1.0 - beta2.powf(f64::from(step + 1)),
                _ => 1.0,
            };
            for name in ["w.left_root", "w.right_root"] {
                let got = state(&optimizer, name)?;
                let full: Vec<f64> =
                    (0..n * n).map(|i| if i % (n + 1) == 0 { (want[i / n] / correction + 1e-3).powf(-0.25) } else { 0.0 }).collect();
                close_to_largest(&got, &full, Tol::relative(2e-6))
                    .map_err(|e| format!("{accumulation:?} {bias_correction}, step {step}, {name}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// `statistics_every = k` sees every k-th gradient and no other.
fn statistics_every(ctx: &Context) -> Outcome {
    for accumulation in [Accumulation::Sum, Accumulation::Ema] {
        let shampoo = Shampoo { accumulation, beta2: 0.9, ..Shampoo::default() };
        let (every, third) = (Layer::new(ctx, 1, 5, 7, 3)?, Layer::new(ctx, 1, 5, 7, 3)?);
        let mut dense = optimizer(ctx, single(shampoo, &every))?;
        let mut sparse = optimizer(ctx, single(Shampoo { statistics_every: 3, ..shampoo }, &third))?;
        for step in 0..9 {
            third.feed(4, step)?;
            if step % 3 == 0 {
                every.feed(4, step)?;
                dense.step()?;
            }
            sparse.step()?;
        }
        for name in ["w.left_statistics", "w.right_statistics", "w.left_root", "w.right_root"] {
            same(name, &state(&sparse, name)?, &state(&dense, name)?)?;
        }
    }
    Ok(())
}

/// The blocks of a weight are updated as weights of their own.
fn blocks_are_independent(ctx: &Context) -> Outcome {
    let shampoo = Shampoo { graft: Graft::Adam { beta2: 0.9, epsilon: 1e-8 }, momentum: 0.5, block_size: 4, ..Shampoo::default() };
    let (rows, cols) = (7, 10);
    let (weight, gradient, mut whole) = plain(ctx, 1, rows, cols, shampoo)?;
    let corners: Vec<(usize, usize)> = [0, 4].into_iter().flat_map(|r| [0, 4, 8].map(|c| (r, c))).collect();
    let size = |(r, c): (usize, usize)| (4.min(rows - r), 4.min(cols - c));
    let mut parts = corners.iter().map(|&at| plain(ctx, 1, size(at).0, size(at).1, shampoo)).collect::<Result<Vec<_>, _>>()?;
    let cut = |x: &[f32], at: (usize, usize)| -> Vec<f32> {
        let (height, width) = size(at);
        (0..height * width).map(|i| x[(at.0 + i / width) * cols + at.1 + i % width]).collect()
    };
    for step in 0..5 {
        fill(&gradient, 6, step)?;
        whole.step()?;
        let (g, w) = (gradient.read()?, weight.read()?);
        for (&at, (weight, gradient, optimizer)) in corners.iter().zip(&mut parts) {
            gradient.write(&cut(&g, at))?;
            optimizer.step()?;
            let want: Vec<f64> = weight.read()?.into_iter().map(f64::from).collect();
            close_to_largest(&cut(&w, at), &want, Tol::relative(1e-5)).map_err(|e| format!("step {step}, block {at:?}: {e}"))?;
        }
    }
    Ok(())
}

/// Statistics whose root Newton's iteration does not find keep the previous roots and raise the ridge until it does; other trials do not notice.
fn failed_root(ctx: &Context) -> Outcome {
    let (accumulation, beta2) = (Accumulation::Ema, 0.0);
    let (epsilon_scale, root_method) = (EpsilonScale::Absolute, linalg::Method::Newton);
    let shampoo = Shampoo { accumulation, beta2, epsilon: 1e-12, epsilon_scale, root_method, ..bare() };
    let (weight, gradient, mut optimizer) = plain(ctx, 2, 4, 4, shampoo)?;
    let identity: Vec<f32> = (0..16u8).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
    gradient.write(&identity.repeat(2))?;
    optimizer.step()?;
    ensure(optimizer.health_blocking()?.is_good(), || "the first step failed".into())?;
    let roots = |optimizer: &Optimizer| -> Result<Vec<f32>, Failed> {
        Ok([&state(optimizer, "w.left_root")?[..16], &state(optimizer, "w.right_root")?[..16]].concat())
    };
    // Rank 1: a condition of 1e12 until the ridge has grown.
    gradient.write(&[&[0.25; 16], &identity[..]].concat())?;
    let (before, mut failures) = (roots(&optimizer)?, 0);
    loop {
        optimizer.step()?;
        let health = optimizer.health_blocking()?;
        let trial = health.parameters[0].trials[0];
        if trial.failed_roots == failures {
            break;
        }
        failures += 1;
        let booked = trial.failed_roots == failures && (trial.ridge / 10f32.powi(i32::try_from(failures)?) - 1.0).abs() < 1e-5;
        ensure(booked && failures <= 8, || health.to_string())?;
        same("roots", &roots(&optimizer)?, &before)?;
    }
    ensure(failures >= 2, || format!("{failures} failures"))?;
    ensure(roots(&optimizer)? != before, || "never recovered".into())?;
    ensure(weight.read()?.iter().chain(&roots(&optimizer)?).all(|w| w.is_finite()), || "not finite".into())?;
    let other = optimizer.health_blocking()?.parameters[0].trials[1];
    ensure((other.failed_roots, other.ridge, other.steps) == (0, 1.0, failures + 2), || format!("{other:?}"))
}

/// A gradient that is accepted but whose squares' sum is infinite does not spoil the statistics for good.
fn overflowing_norm(ctx: &Context) -> Outcome {
    for accumulation in [Accumulation::Sum, Accumulation::Ema] {
        let (weight, gradient, mut optimizer) = plain(ctx, 1, 4, 400, Shampoo { accumulation, beta2: 0.5, ..bare() })?;
        for step in 0..4 {
            fill(&gradient, 1, step)?;
            if step == 1 {
                gradient.write(&[9.9e17; 1600])?;
            }
            let before = weight.read()?;
            optimizer.step()?;
            let after = weight.read()?;
            ensure((before == after) == (step == 1), || format!("{accumulation:?}, step {step}: moved: {}", before != after))?;
            for name in ["w.left_statistics", "w.right_statistics", "w.left_root", "w.right_root"] {
                ensure(state(&optimizer, name)?.iter().all(|x| x.is_finite()), || format!("{accumulation:?}, step {step}: {name}"))?;
            }
        }
        let health = optimizer.health_blocking()?;
        ensure(health.is_good(), || health.to_string())?;
    }
    Ok(())
}

/// A layer without any gradient yet has no root and no failure; the first gradient after it counts in full.
fn zero_at_first(ctx: &Context) -> Outcome {
    for epsilon_scale in [EpsilonScale::Absolute, EpsilonScale::Relative, EpsilonScale::RelativeToMean] {
        let shampoo = Shampoo { epsilon_scale, precondition_every: 4, ..bare() };
        let (weight, gradient, mut optimizer) = plain(ctx, 1, 5, 3, shampoo)?;
        optimizer.step()?;
        same("weight", &weight.read()?, &[0.0; 15])?;
        fill(&gradient, 2, 0)?;
        let g = gradient.read()?;
        optimizer.step()?;
        // The root is still the identity: a plain step, not one along `epsilon^(-1/2)` times the gradient.
        let want: Vec<f64> = g.iter().map(|&g| -f64::from(g)).collect();
        close_to_largest(&weight.read()?, &want, Tol::roundings(8)).map_err(|e| format!("{epsilon_scale:?}: {e}"))?;
        let health = optimizer.health_blocking()?;
        ensure(health.is_good() && health.parameters[0].trials[0].steps == 2, || health.to_string())?;
        (0..3).try_for_each(|_| optimizer.step())?;
        let root = state(&optimizer, "w.left_root")?;
        ensure(root.iter().enumerate().any(|(i, &x)| x != f32::from(u8::from(i % 6 == 0))), || format!("still the identity: {root:?}"))?;
    }
    Ok(())
}

/// From denormal to the largest accepted gradients, in both orders: weights and state stay finite.
fn any_scale(ctx: &Context) -> Outcome {
    let grafts = [Graft::None, Graft::Sgd, Graft::Adagrad { epsilon: 1e-10 }, Graft::Adam { beta2: 0.99, epsilon: 1e-8 }];
    let scales = [1e-40f32, 1e-20, 1e18, 0.0, 1.0, 1e18, 1e-30, 1e10];
    for graft in grafts {
        for (accumulation, beta2, epsilon_scale, matrix_root) in [
            (Accumulation::Sum, 0.5, EpsilonScale::Relative, 4),
            (Accumulation::Ema, 0.5, EpsilonScale::Absolute, 1),
            (Accumulation::Ema, 0.0, EpsilonScale::Relative, 1),
        ] {
            let shampoo = Shampoo {
                graft,
                accumulation,
                beta2,
                epsilon_scale,
                matrix_root,
                precondition_every: 2,
                momentum: 0.9,
                ..Shampoo::default()
            };
            let (weight, gradient, mut optimizer) = plain(ctx, 1, 6, 9, shampoo)?;
            for (step, scale) in scales.iter().chain(scales.iter().rev()).enumerate() {
                fill(&gradient, 8, step as u64)?;
                gradient.write(&gradient.read()?.iter().map(|g| 0.1 * g * scale).collect::<Vec<_>>())?;
                optimizer.step()?;
                let kept: Vec<Vec<f32>> = optimizer.state().map(|(_, t)| t.read()).collect::<Result<_, _>>()?;
                let finite = kept.iter().chain([&weight.read()?]).all(|x| x.iter().all(|x| x.is_finite()));
                ensure(finite, || format!("{shampoo:?}: step {step}, scale {scale:e}"))?;
            }
            let steps = optimizer.health_blocking()?.parameters[0].trials[0].steps;
            ensure(steps == 16, || format!("{graft:?}: {steps} steps"))?;
        }
    }
    Ok(())
}

/// Two momenta: the base optimizer's steps before the start, then those of a run that was preconditioned all along, with that run's momentum.
fn two_momenta(ctx: &Context) -> Outcome {
    for (start_step, nesterov, block_size) in [(3, false, 1024), (4, true, 4)] {
        let steady = Shampoo {
            learning_rate: 0.05,
            beta1: 0.0,
            graft: Graft::Sgd,
            momentum: 0.8,
            nesterov,
            block_size,
            precondition_every: 2,
            ..Shampoo::default()
        };
        let late = Shampoo { graft_momentum: true, start_step, ..steady };
        let base = Sgd { learning_rate: 0.05, momentum: 0.8, nesterov, ..Sgd::default() };
        let (a, b, c) = (Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?);
        let (mut one, mut two, mut plain) =
            (optimizer(ctx, single(late, &a))?, optimizer(ctx, single(steady, &b))?, optimizer(ctx, single(base, &c))?);
        for step in 0..8 {
            let before = (a.weight.read()?, b.weight.read()?);
            for layer in [&a, &b, &c] {
                layer.feed(6, step)?;
            }
            one.step()?;
            two.step()?;
            plain.step()?;
            let after = (a.weight.read()?, b.weight.read()?);
            same(&format!("step {step}, momentum"), &state(&one, "w.momentum")?, &state(&two, "w.momentum")?)?;
            if step < start_step {
                same(&format!("step {step}, base"), &after.0, &c.weight.read()?)?;
                ensure(after.0 != after.1, || "the base optimizer's steps are not told from the preconditioned ones".into())?;
                continue;
            }
            let change = |old: &[f32], new: &[f32]| new.iter().zip(old).map(|(n, o)| n - o).collect::<Vec<f32>>();
            let want: Vec<f64> = change(&before.1, &after.1).into_iter().map(f64::from).collect();
            close(&change(&before.0, &after.0), &want, Tol::absolute(1e-6)).map_err(|e| format!("step {step}: {e}"))?;
        }
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::shampoo::two_momenta", two_momenta),
        case("optimizers::shampoo::first_step", first_step),
        case("optimizers::shampoo::units_of_epsilon", units_of_epsilon),
        case("optimizers::shampoo::starts_as_its_graft", starts_as_its_graft),
        case("optimizers::shampoo::grafted_moments", grafted_moments),
        case("optimizers::shampoo::accumulations", accumulations),
        case("optimizers::shampoo::statistics_every", statistics_every),
        case("optimizers::shampoo::blocks_are_independent", blocks_are_independent),
        case("optimizers::shampoo::failed_root", failed_root),
        case("optimizers::shampoo::overflowing_norm", overflowing_norm),
        case("optimizers::shampoo::zero_at_first", zero_at_first),
        case("optimizers::shampoo::any_scale", any_scale),
    ]
}
