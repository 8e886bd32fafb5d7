//! Laws that hold for every method.

use layerwise::optim::{
    Adam, AdamW, EigenvalueCorrectedShampoo, Foof, Graft, Group, Kfac, KfacForm, LearningRateSchedule, Method, Muon, NaturalGradient,
    Optimizer, Parameter, Sgd, Shampoo, Soap, WeightDecay,
};
use layerwise::{Context, Shape};
use libtest_mimic::Failed;

use super::rig::{Layer, ensure, fill, methods, optimizer, same, single, state, states};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close};

/// Without a gradient weights only decay: not at all, by L2 decay `(1 - lr decay)^t`, or by the same factor decoupled.
fn zero_gradient(ctx: &Context) -> Outcome {
    let sgd = Sgd { learning_rate: 0.1, weight_decay: 0.2, ..Sgd::default() };
    let kfac = Kfac { learning_rate: 0.1, weight_decay: 0.2, momentum: 0.0, ..Kfac::default() };
    let adamw = AdamW { learning_rate: 0.1, weight_decay: 0.2, ..AdamW::default() };
    let shampoo = Shampoo { learning_rate: 0.1, weight_decay: WeightDecay::Decoupled(0.2), ..Shampoo::default() };
    let muon = Muon { learning_rate: 0.1, weight_decay: 0.2, ..Muon::default() };
    let still = methods().into_iter().map(|m| (without_decay(m), 1.0));
    let decaying = [Method::from(sgd), kfac.into(), adamw.into(), shampoo.into(), muon.into()].map(|m| (m, 1.0 - 0.1 * 0.2));
    for (method, factor) in still.chain(decaying) {
        let layer = Layer::new(ctx, 2, 5, 7, 3)?;
        let start = layer.weight.read()?;
        let mut optimizer = optimizer(ctx, single(method, &layer))?;
        (0..5).try_for_each(|_| optimizer.step())?;
        let want: Vec<f64> = start.iter().map(|&w| f64::from(w) * f64::powi(factor, 5)).collect();
        let tol = if factor == 1.0 { Tol::EXACT } else { Tol::roundings(20) };
        close(&layer.weight.read()?, &want, tol).map_err(|e| format!("{method:?}: {e}"))?;
    }
    Ok(())
}

/// Every method lowers a quadratic, `|W - T|^2 / 2` by samples of `y = W x` with whitened inputs.
fn lowers_a_quadratic(ctx: &Context) -> Outcome {
    for method in methods() {
        let layer = Layer::new(ctx, 2, 5, 7, 3)?;
        let target = ctx.zeros(layer.weight.shape())?;
        fill(&target, 77, 0)?;
        layer.feed(5, 0)?;
        let target = target.read()?;
        let mut optimizer = optimizer(ctx, single(without_decay(method), &layer))?;
        let loss = |w: &[f32]| w.iter().zip(&target).map(|(w, t)| f64::from(w - t).powi(2)).sum::<f64>();
        let before = loss(&layer.weight.read()?);
        for _ in 0..60 {
            let w = layer.weight.read()?;
            layer.gradient.write(&w.iter().zip(&target).map(|(w, t)| w - t).collect::<Vec<_>>())?;
            optimizer.step()?;
        }
        let after = loss(&layer.weight.read()?);
        ensure(after < 0.5 * before, || format!("{method:?}: {before} -> {after}"))?;
        let health = optimizer.health_blocking()?;
        let steps = 60 - u64::from(skips_first(method));
        ensure(health.is_good() && health.parameters[0].trials.iter().all(|t| t.steps == steps), || format!("{method:?}: {health}"))?;
    }
    Ok(())
}

/// The first gradient goes into the statistics alone.
fn skips_first(method: Method) -> bool {
    matches!(method, Method::Soap(_))
}

fn without_decay(method: Method) -> Method {
    match method {
        Method::Sgd(m) => Sgd { weight_decay: 0.0, ..m }.into(),
        Method::Adam(m) => Adam { weight_decay: 0.0, ..m }.into(),
        Method::AdamW(m) => AdamW { weight_decay: 0.0, ..m }.into(),
        Method::Kfac(m) => Kfac { weight_decay: 0.0, ..m }.into(),
        Method::Foof(m) => Foof { weight_decay: 0.0, ..m }.into(),
        Method::NaturalGradient(m) => NaturalGradient { weight_decay: 0.0, ..m }.into(),
        Method::Shampoo(m) => Shampoo { weight_decay: WeightDecay::Decoupled(0.0), ..m }.into(),
        Method::Muon(m) => Muon { weight_decay: 0.0, ..m }.into(),
        Method::Soap(m) => Soap { weight_decay: 0.0, ..m }.into(),
        Method::EigenvalueCorrectedShampoo(m) => EigenvalueCorrectedShampoo { weight_decay: 0.0, ..m }.into(),
    }
}

/// Steps layers with seeded data and returns weights and state.
fn trajectory(ctx: &Context, layers: &[Layer], group: Group, seed: u64, steps: u64) -> Result<(Vec<Vec<f32>>, Optimizer), Failed> {
    let mut optimizer = optimizer(ctx, group)?;
    for step in 0..steps {
        for (i, layer) in layers.iter().enumerate() {
            layer.feed(seed + 100 * i as u64, step)?;
        }
        optimizer.step()?;
    }
    Ok((layers.iter().map(|l| l.weight.read()).collect::<Result<_, _>>()?, optimizer))
}

/// A batched run of trials with settings of their own equals as many single runs, bit by bit, also with staggered refreshes over several layers.
fn trials_equal_single_runs(ctx: &Context) -> Outcome {
    let rates = [0.01, 0.02, 0.05];
    let dampings = [1e-3, 1e-2, 1e-1];
    let staggered = Kfac { precondition_every: 3, statistics_every: 2, ..Kfac::default() };
    let slow = Shampoo { precondition_every: 3, statistics_every: 2, block_size: 4, graft: Graft::Sgd, ..Shampoo::default() };
    let soap = Soap { precondition_every: 3, ..Soap::default() };
    let corrected = EigenvalueCorrectedShampoo { beta2: 0.9, precondition_every: 2, start_step: 1, ..Default::default() };
    for method in methods().into_iter().chain([staggered.into(), slow.into(), soap.into(), corrected.into()]) {
        let damped = matches!(method, Method::Kfac(_) | Method::Foof(_) | Method::NaturalGradient(_) | Method::Shampoo(_));
        let group = |layers: &[Layer], trials: std::ops::Range<usize>| {
            let group = Group::new(method).learning_rates(&rates[trials.clone()]);
            let group = if damped { group.dampings(&dampings[trials]) } else { group };
            layers.iter().enumerate().fold(group, |g, (i, l)| g.parameter(l.parameter(&format!("layer{i}"))))
        };
        let all = Layer::stack(ctx, 2, 3, 6, 9, 40)?;
        let (batched, _) = trajectory(ctx, &all, group(&all, 0..3), 7, 5)?;
        for trial in 0..3 {
            let alone = Layer::stack(ctx, 2, 1, 6, 9, 40 + trial as u64)?;
            let (single, _) = trajectory(ctx, &alone, group(&alone, trial..trial + 1), 7 + trial as u64, 5)?;
            for (i, (batched, single)) in batched.iter().zip(&single).enumerate() {
                let size = single.len();
                same(&format!("{method:?}: trial {trial}, layer {i}"), &batched[trial * size..(trial + 1) * size], single)?;
            }
        }
    }
    Ok(())
}

/// Layers that follow one another share dispatches, and that changes nothing.
fn stacks_equal_single_layers(ctx: &Context) -> Outcome {
    for method in methods() {
        let group = |layers: &[Layer]| layers.iter().zip(["a", "b", "c"]).fold(Group::new(method), |g, (l, n)| g.parameter(l.parameter(n)));
        let stack = Layer::stack(ctx, 3, 2, 4, 5, 11)?;
        let apart = (0..3).map(|i| Layer::new(ctx, 2, 4, 5, 11 + 100 * i)).collect::<Result<Vec<_>, _>>()?;
        let (together, one) = trajectory(ctx, &stack, group(&stack), 3, 4)?;
        let (separate, three) = trajectory(ctx, &apart, group(&apart), 3, 4)?;
        for (i, (a, b)) in together.iter().zip(&separate).enumerate() {
            same(&format!("{method:?}: layer {i}"), a, b)?;
        }
        let (one, three) = (one.plan().ops().len(), three.plan().ops().len());
        ensure(one < three, || format!("{method:?}: {one} operations for a stack, {three} for single layers"))?;
    }
    Ok(())
}

/// Same seed, same device: the same bits.
fn deterministic(ctx: &Context) -> Outcome {
    for method in methods() {
        let run = || -> Result<_, Failed> {
            let layer = Layer::new(ctx, 3, 20, 33, 9)?;
            let (weights, optimizer) = trajectory(ctx, std::slice::from_ref(&layer), single(method, &layer), 21, 6)?;
            Ok((weights, states(&optimizer)?))
        };
        let (first, second) = (run()?, run()?);
        same("weights", &first.0[0], &second.0[0])?;
        first.1.iter().zip(&second.1).try_for_each(|(a, b)| same("state", a, b))?;
    }
    Ok(())
}

/// A gradient that is not finite, or whose square is not: that trial keeps weight, state and counter, and is counted; others do not notice.
fn refused_gradients(ctx: &Context) -> Outcome {
    for method in methods() {
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2e18] {
            let run = |poisoned: bool| -> Result<_, Failed> {
                let layer = Layer::new(ctx, 2, 5, 7, 3)?;
                let mut optimizer = optimizer(ctx, single(method, &layer))?;
                layer.feed(5, 0)?;
                optimizer.step()?;
                let (weights, states) = (layer.weight.read()?, states(&optimizer)?);
                layer.feed(5, 1)?;
                let mut gradient = layer.gradient.read()?;
                if poisoned {
                    gradient[40 + 17] = poison;
                    layer.gradient.write(&gradient)?;
                }
                optimizer.step()?;
                let mut seen = weights[40..].to_vec();
                seen.extend(layer.weight.read()?);
                Ok((seen, states, optimizer))
            };
            let (good, ..) = run(false)?;
            let (bad, before, optimizer) = run(true)?;
            // seen: trial 1 before the step, then both trials after it.
            same(&format!("{method:?}, {poison}: the other trial"), &bad[40..80], &good[40..80])?;
            same(&format!("{method:?}, {poison}: weight"), &bad[80..], &bad[..40])?;
            for (state, before) in states(&optimizer)?.iter().zip(&before) {
                let half = state.len() / 2;
                same(&format!("{method:?}, {poison}: state"), &state[half..], &before[half..])?;
            }
            let health = optimizer.health_blocking()?;
            let trials = &health.parameters[0].trials;
            let first = u64::from(skips_first(method));
            let counted = (trials[0].steps, trials[0].skipped, trials[1].steps, trials[1].skipped) == (2 - first, 0, 1 - first, 1);
            ensure(counted && !health.is_good(), || format!("{method:?}, {poison}: {health}"))?;
        }
    }
    Ok(())
}

/// Factors near the end of f32's range make a direction that overflows: with and without a clip that trial stays, the other moves on.
fn overflowing_direction(ctx: &Context) -> Outcome {
    for kl_clip in [None, Some(1e-3)] {
        let shape = Shape::new(2, 2, 2);
        let (weight, gradient) = (ctx.upload(shape, &[1.0; 8])?, ctx.upload(shape, &[1.0; 8])?);
        let (good, tiny) = ([1.0, 0.0, 0.0, 1.0], [1e-30, 0.0, 0.0, 1e-30]);
        let factor = ctx.upload(shape, &[good, tiny].concat())?;
        let kfac = Kfac { damping: 0.0, decay: 0.0, kl_clip, momentum: 0.0, ..Kfac::default() };
        let mut optimizer = optimizer(ctx, Group::new(kfac).parameter(Parameter::new("w", &weight, &gradient).factors(&factor, &factor)))?;
        optimizer.step()?;
        let after = weight.read()?;
        let kept = after[4..] == [1.0; 4] && after[..4].iter().all(|w| w.is_finite() && *w < 1.0);
        ensure(kept, || format!("{kl_clip:?}: {after:?}"))?;
        let health = optimizer.health_blocking()?;
        let dropped: Vec<u64> = health.parameters[0].trials.iter().map(|t| t.failed_directions).collect();
        ensure(dropped == [0, 1] && !health.is_good(), || health.to_string())?;
        factor.write(&[good, good].concat())?;
        optimizer.step()?;
        let after = weight.read()?;
        ensure(after[4..].iter().all(|w| w.is_finite() && *w < 1.0), || format!("{kl_clip:?}, good factors again: {after:?}"))?;
    }
    Ok(())
}

/// After a refused first gradient the next one counts as the first: momentum starts from it, bias corrections too.
fn refused_first_gradient(ctx: &Context) -> Outcome {
    for method in methods() {
        let (late, plain) = (Layer::new(ctx, 1, 5, 7, 3)?, Layer::new(ctx, 1, 5, 7, 3)?);
        let mut first = optimizer(ctx, single(method, &late))?;
        late.gradient.write(&[f32::NAN; 40])?;
        first.step()?;
        let mut second = optimizer(ctx, single(method, &plain))?;
        for step in 0..3 {
            late.feed(5, step)?;
            plain.feed(5, step)?;
            first.step()?;
            second.step()?;
        }
        same(&format!("{method:?}"), &late.weight.read()?, &plain.weight.read()?)?;
    }
    Ok(())
}

/// The device's learning rate is the schedule's formula, for every kind, and moves only with applied steps.
fn schedules(ctx: &Context) -> Outcome {
    use LearningRateSchedule::{Constant, Cosine, Linear, Step};
    let schedules = [
        Constant,
        Linear { warm_up: 5, steps: 20, final_fraction: 0.1 },
        Linear { warm_up: 0, steps: 7, final_fraction: 0.0 },
        Cosine { warm_up: 3, steps: 25, final_fraction: 0.05 },
        Step { warm_up: 2, period: 6, factor: 0.3 },
        Step { warm_up: 0, period: 1, factor: 0.97 },
    ];
    for schedule in schedules {
        let layer = Layer::new(ctx, 2, 2, 2, 1)?;
        let group = single(Sgd::default(), &layer).schedule(schedule).learning_rates(&[0.3, 0.7]);
        let mut optimizer = optimizer(ctx, group)?;
        for step in 0..35 {
            optimizer.step()?;
            let health = optimizer.health_blocking()?;
            let got: Vec<f32> = health.parameters[0].trials.iter().map(|t| t.learning_rate).collect();
            let want = [0.3 * schedule.factor(step), 0.7 * schedule.factor(step)];
            let tol = Tol { relative: 2e-6, absolute: 1e-7 };
            close(&got, &want, tol).map_err(|e| format!("{schedule:?}, step {step}: {e}"))?;
        }
        layer.gradient.write(&[f32::NAN; 12])?;
        (0..3).try_for_each(|_| optimizer.step())?;
        let refused = optimizer.health_blocking()?;
        let want = 0.3 * schedule.factor(35);
        let moved = (f64::from(refused.parameters[0].trials[0].learning_rate) - want).abs() > 1e-6;
        ensure(!moved, || format!("{schedule:?}: moved on by refused steps: {refused}"))?;
    }
    Ok(())
}

/// A learning rate changed between steps acts from the next step on, as if it had been so from a build on.
fn changed_rate(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 3, 4, 8)?;
    let mut optimizer = optimizer(ctx, single(Sgd { learning_rate: 0.1, ..Sgd::default() }, &layer))?;
    let mut want: Vec<f64> = layer.weight.read()?.into_iter().map(f64::from).collect();
    let plan: [&[f64]; 5] = [&[], &[0.5], &[], &[0.25, 0.0], &[0.125, 0.75]];
    let mut rates = [0.1, 0.1];
    for (step, change) in plan.into_iter().enumerate() {
        if !change.is_empty() {
            optimizer.set_learning_rate(0, change)?;
            rates = [change[0], change[change.len() - 1]];
        }
        layer.feed(2, step as u64)?;
        let gradient = layer.gradient.read()?;
        want.iter_mut().zip(&gradient).enumerate().for_each(|(i, (w, &g))| *w -= rates[i / 15] * f64::from(g));
        optimizer.step()?;
        close(&layer.weight.read()?, &want, Tol { relative: 1e-6, absolute: 1e-6 }).map_err(|e| format!("step {step}: {e}"))?;
    }
    Ok(())
}

/// A gradient in its weight's own buffer is staged.
fn shared_buffer(ctx: &Context) -> Outcome {
    for method in [Method::from(Sgd { learning_rate: 0.1, ..Sgd::default() }), Adam::default().into()] {
        let parts = ctx.arena(&[Shape::new(2, 3, 4), Shape::new(2, 3, 4)])?;
        let apart = [ctx.zeros(Shape::new(2, 3, 4))?, ctx.zeros(Shape::new(2, 3, 4))?];
        for tensors in [&parts[..], &apart[..]] {
            let mut optimizer = optimizer(ctx, Group::new(method).parameter(Parameter::new("w", &tensors[0], &tensors[1])))?;
            fill(&tensors[0], 1, 0)?;
            for step in 0..3 {
                fill(&tensors[1], 2, step)?;
                optimizer.step()?;
            }
        }
        same(&format!("{method:?}"), &parts[0].read()?, &apart[0].read()?)?;
    }
    Ok(())
}

/// What is held is what the docs say.
fn state_size(ctx: &Context) -> Outcome {
    let (trials, out, inn) = (3, 6, 9);
    let weight = 4 * (trials * out * (inn + 1)) as u64;
    let right = 4 * (trials * (inn + 1) * (inn + 1)) as u64;
    let factors = 4 * (trials * (out * out + (inn + 1) * (inn + 1))) as u64;
    for method in methods() {
        let layer = Layer::new(ctx, trials, out, inn, 1)?;
        let planned = Optimizer::builder(ctx).group(single(method, &layer)).memory()?;
        let bytes = optimizer(ctx, single(method, &layer))?.memory();
        ensure(planned == bytes, || format!("{method:?}: planned {planned:?}, built {bytes:?}"))?;
        let want = match method {
            Method::Sgd(m) => (if m.momentum > 0.0 { weight } else { 0 }, 0, 0),
            Method::Adam(Adam { amsgrad, .. }) | Method::AdamW(AdamW { amsgrad, .. }) => ((2 + u64::from(amsgrad)) * weight, 0, 0),
            Method::EigenvalueCorrectedShampoo(_) => (2 * weight, factors, factors),
            Method::Soap(m) => {
                let sides = [out, inn + 1].into_iter().filter(|&n| n <= m.max_precondition_dim);
                let bases = 4 * (trials * sides.map(|n| n * n).sum::<usize>()) as u64;
                (2 * weight, bases, bases)
            }
            Method::Kfac(m) if m.form == KfacForm::Eigen => (weight, factors, factors + 4 * (trials * (out + inn + 1)) as u64),
            Method::Kfac(_) => (weight, factors, factors),
            Method::Foof(_) => (weight, right, right),
            Method::NaturalGradient(_) => (weight, 0, 0),
            Method::Shampoo(m) => {
                let second = matches!(m.graft, Graft::Adagrad { .. } | Graft::RmsProp { .. } | Graft::Adam { .. });
                let moments = [m.beta1 > 0.0, m.momentum > 0.0, second].map(u64::from).iter().sum::<u64>();
                // Each block has a matrix for each of its sides.
                let cut = |n: usize| (0..n).step_by(m.block_size).map(|i| m.block_size.min(n - i)).collect::<Vec<_>>();
                let (rows, cols) = (cut(out), cut(inn + 1));
                let square = |sides: &[usize]| sides.iter().map(|n| n * n).sum::<usize>();
                let blocks = 4 * (trials * (square(&rows) * cols.len() + square(&cols) * rows.len())) as u64;
                (moments * weight, blocks, blocks)
            }
            Method::Muon(m) => (weight + m.neuron_decay.map_or(0, |_| 4 * (trials * out) as u64), 0, 0),
        };
        ensure((bytes.moments, bytes.statistics, bytes.roots) == want, || format!("{method:?}: {bytes:?}, documented {want:?}"))?;
    }
    Ok(())
}

/// Two groups of different methods do not disturb each other.
fn groups_are_independent(ctx: &Context) -> Outcome {
    let pair = [Layer::new(ctx, 1, 5, 7, 3)?, Layer::new(ctx, 1, 4, 4, 4)?];
    let alone = [Layer::new(ctx, 1, 5, 7, 3)?, Layer::new(ctx, 1, 4, 4, 4)?];
    let (kfac, adam) = (Kfac { precondition_every: 2, ..Kfac::default() }, Adam::default());
    let named = |layer: &Layer, name: &str, method: Method| Group::new(method).parameter(layer.parameter(name));
    let mut both = Optimizer::builder(ctx).group(named(&pair[0], "a", kfac.into())).group(named(&pair[1], "b", adam.into())).build()?;
    let mut singles = [optimizer(ctx, named(&alone[0], "a", kfac.into()))?, optimizer(ctx, named(&alone[1], "b", adam.into()))?];
    for step in 0..5 {
        for layers in [&pair, &alone] {
            layers[0].feed(1, step)?;
            layers[1].feed(2, step)?;
        }
        both.step()?;
        singles.iter_mut().try_for_each(Optimizer::step)?;
    }
    same("kfac", &pair[0].weight.read()?, &alone[0].weight.read()?)?;
    same("adam", &pair[1].weight.read()?, &alone[1].weight.read()?)?;
    same("moment", &state(&both, "b.first_moment")?, &state(&singles[1], "b.first_moment")?)
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::zero_gradient", zero_gradient),
        case("optimizers::lowers_a_quadratic", lowers_a_quadratic),
        case("optimizers::trials_equal_single_runs", trials_equal_single_runs),
        case("optimizers::stacks_equal_single_layers", stacks_equal_single_layers),
        case("optimizers::deterministic", deterministic),
        case("optimizers::refused_gradients", refused_gradients),
        case("optimizers::overflowing_direction", overflowing_direction),
        case("optimizers::refused_first_gradient", refused_first_gradient),
        case("optimizers::schedules", schedules),
        case("optimizers::changed_rate", changed_rate),
        case("optimizers::shared_buffer", shared_buffer),
        case("optimizers::state_size", state_size),
        case("optimizers::groups_are_independent", groups_are_independent),
    ]
}
