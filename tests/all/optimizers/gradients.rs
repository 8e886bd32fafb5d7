//! What happens to gradients and weights whatever the method: clip, accumulation, loss scale, decay forms, averages, f16.

use layerwise::optim::{AdamW, Group, Method, Optimizer, Parameter, Sgd, WeightDecay};
use layerwise::{Context, ElementType, Error, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{Layer, ensure, fill, methods, optimizer, same, single, state};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close};
use crate::oracle::data;

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn norm(x: &[f32]) -> f64 {
    wide(x).iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn needs_taps(method: &Method) -> bool {
    matches!(method, Method::Kfac(_) | Method::Foof(_) | Method::NaturalGradient(_))
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// Two groups of different methods are clipped by their joint norm, each trial by its own; a refused layer counts for nothing.
fn clips_by_the_joint_norm(ctx: &Context) -> Outcome {
    let build = |clip: Option<f64>| -> Result<(Vec<Layer>, Optimizer), Failed> {
        let mut layers = Layer::stack(ctx, 2, 2, 5, 7, 3)?;
        layers.push(Layer::new(ctx, 2, 9, 2, 4)?);
        let sgd = Group::new(Sgd { learning_rate: 0.5, momentum: 0.5, ..Sgd::default() });
        let sgd = sgd.parameter(layers[0].parameter("a")).parameter(layers[1].parameter("b"));
        let adam = Group::new(AdamW { epsilon: 1.0, ..AdamW::default() }).parameter(layers[2].parameter("c"));
        let builder = Optimizer::builder(ctx).group(sgd).group(adam);
        let builder = clip.map_or(builder.clone(), |max| builder.clip_global_norm(max));
        Ok((layers, builder.build()?))
    };
    let max = 2.0;
    let ((clipped, mut one), (plain, mut two)) = (build(Some(max))?, build(None)?);
    for step in 0..6 {
        let mut gradients = Vec::new();
        for (i, layer) in clipped.iter().enumerate() {
            layer.feed(40 + i as u64, step)?;
            // Below the norm in the first step, far above it later.
            let factor = if step == 0 { 0.01 } else { 3.0f32.powi(i32::try_from(step)?) };
            let mut gradient: Vec<f32> = layer.gradient.read()?.iter().map(|g| factor * g).collect();
            if step == 3 && i == 1 {
                gradient[0] = f32::NAN;
            }
            layer.gradient.write(&gradient)?;
            gradients.push(gradient);
        }
        for trial in 0..2 {
            let part = |g: &[f32]| trial * g.len() / 2..(trial + 1) * g.len() / 2;
            let accepted = gradients.iter().map(|g| &g[part(g)]).filter(|g| g.iter().all(|g| g.is_finite()));
            let joint = accepted.map(|g| norm(g).powi(2)).sum::<f64>().sqrt();
            let factor = (max / joint).min(1.0);
            ensure((factor < 1.0) == (step > 0), || format!("step {step}: the test's norm is {joint}"))?;
            for gradient in &mut gradients {
                let range = part(gradient);
                gradient[range].iter_mut().for_each(|g| *g = narrow(f64::from(*g) * factor));
            }
        }
        plain.iter().zip(&gradients).try_for_each(|(layer, g)| layer.gradient.write(g))?;
        one.step()?;
        two.step()?;
        for (i, (got, want)) in clipped.iter().zip(&plain).enumerate() {
            let (got, want) = (got.weight.read()?, wide(&want.weight.read()?));
            close(&got, &want, Tol { relative: 1e-5, absolute: 2e-6 }).map_err(|e| format!("step {step}, layer {i}: {e}"))?;
        }
    }
    Ok(())
}

/// A norm whose square is not finite refuses the trial's step, and no other's.
fn refuses_an_infinite_norm(ctx: &Context) -> Outcome {
    let layers = Layer::stack(ctx, 2, 2, 20, 30, 3)?;
    let group = Group::new(Sgd::default()).parameter(layers[0].parameter("a")).parameter(layers[1].parameter("b"));
    let mut optimizer = Optimizer::builder(ctx).group(group).clip_global_norm(1.0).build()?;
    layers.iter().try_for_each(|layer| layer.feed(5, 1))?;
    let mut gradient = layers[0].gradient.read()?;
    gradient[..620].fill(9e17);
    layers[0].gradient.write(&gradient)?;
    optimizer.step()?;
    let health = optimizer.health_blocking()?;
    for parameter in &health.parameters {
        let seen: Vec<_> = parameter.trials.iter().map(|t| (t.steps, t.skipped)).collect();
        ensure(seen == [(0, 1), (1, 0)], || health.to_string())?;
    }
    Ok(())
}

/// `k` gradients make one step with their mean; weights rest in between; one that is not finite refuses the step of its trial.
fn accumulates(ctx: &Context) -> Outcome {
    for method in moved_by_the_first() {
        for every in [2u64, 3] {
            let (gathered, meant) = (Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?);
            let mut one = Optimizer::builder(ctx).group(single(method, &gathered)).accumulate_gradients(every).build()?;
            let mut two = optimizer(ctx, single(method, &meant))?;
            for step in 0..4 {
                let mut mean = vec![0.0; gathered.gradient.shape().elements()];
                for micro in 0..every {
                    let before = gathered.weight.read()?;
                    gathered.feed(60, 50 * step + micro)?;
                    let mut gradient = gathered.gradient.read()?;
                    if step == 2 && micro == 0 {
                        gradient[0] = f32::INFINITY;
                        gathered.gradient.write(&gradient)?;
                    }
                    mean.iter_mut().zip(wide(&gradient)).for_each(|(m, g)| *m += g / every as f64);
                    one.step()?;
                    ensure(one.steps() == step + u64::from(micro + 1 == every), || format!("{} steps", one.steps()))?;
                    let rests = gathered.weight.read()? == before;
                    ensure(rests == (micro + 1 < every), || format!("{method:?}, step {step}, {micro} of {every}: rests {rests}"))?;
                }
                meant.feed(60, 50 * step + every - 1)?;
                meant.gradient.write(&mean.iter().map(|&m| narrow(m)).collect::<Vec<_>>())?;
                two.step()?;
            }
            let (got, want) = (gathered.weight.read()?, wide(&meant.weight.read()?));
            close(&got, &want, Tol { relative: 1e-4, absolute: 1e-4 }).map_err(|e| format!("{method:?}, {every}: {e}"))?;
            let counts = |o: &Optimizer| -> Result<Vec<(u64, u64)>, Failed> {
                Ok(o.health_blocking()?.parameters[0].trials.iter().map(|t| (t.steps, t.skipped)).collect())
            };
            let want = [(3, 1), (4, 0)];
            ensure(counts(&one)? == want && counts(&two)? == want, || format!("{method:?}: {:?}", counts(&one)))?;
        }
    }
    Ok(())
}

/// A power of two in the loss changes no bit; a change of the scale holds from the next step on; an overflow is refused.
fn unscales(ctx: &Context) -> Outcome {
    for method in methods().into_iter().filter(|m| !needs_taps(m)) {
        let (scaled, plain) = (Layer::new(ctx, 2, 5, 7, 3)?, Layer::new(ctx, 2, 5, 7, 3)?);
        let mut one = Optimizer::builder(ctx).group(single(method, &scaled)).loss_scale(1024.0).build()?;
        let mut two = optimizer(ctx, single(method, &plain))?;
        for step in 0..5 {
            if step == 2 {
                one.set_loss_scale(0.25)?;
            }
            let scale = if step < 2 { 1024.0 } else { 0.25 };
            scaled.feed(7, step)?;
            plain.feed(7, step)?;
            scaled.gradient.write(&plain.gradient.read()?.iter().map(|g| scale * g).collect::<Vec<_>>())?;
            one.step()?;
            two.step()?;
            same(&format!("{method:?}, step {step}"), &scaled.weight.read()?, &plain.weight.read()?)?;
        }
        let mut gradient = plain.gradient.read()?;
        gradient[0] = f32::INFINITY;
        scaled.gradient.write(&gradient)?;
        one.step()?;
        let skipped: Vec<u64> = one.health_blocking()?.parameters[0].trials.iter().map(|t| t.skipped).collect();
        ensure(skipped == [1, 0], || format!("{method:?}: {skipped:?}"))?;
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e39] {
            ensure(matches!(one.set_loss_scale(bad), Err(Error::Config { field: "loss_scale", .. })), || format!("accepted {bad}"))?;
        }
        ensure(two.set_loss_scale(2.0).is_err(), || "a scale for gradients that are taken as they are".into())?;
    }
    Ok(())
}

fn named(method: Method, layer: &Layer, decay: WeightDecay) -> Group {
    single(method, layer).weight_decay(decay)
}

/// L2 is a gradient with the decay in it; the others shrink weights beside the update, everywhere or where it shrinks them too.
fn decays(ctx: &Context) -> Outcome {
    let (rate, lambda) = (0.05, 0.3);
    for method in moved_by_the_first() {
        let run = |decay: WeightDecay, by_hand: f64| -> Result<(Vec<f32>, Vec<f32>), Failed> {
            let layer = Layer::new(ctx, 2, 5, 7, 3)?;
            let mut optimizer = optimizer(ctx, named(method, &layer, decay).learning_rates(&[rate, rate]))?;
            let mut before = Vec::new();
            for step in 0..if by_hand == 0.0 { 1 } else { 3 } {
                layer.feed(11, step)?;
                before = layer.weight.read()?;
                let decayed =
                    before.iter().zip(layer.gradient.read()?).map(|(&w, g)| narrow(f64::from(g) + by_hand.max(0.0) * f64::from(w)));
                layer.gradient.write(&decayed.collect::<Vec<_>>())?;
                optimizer.step()?;
            }
            Ok((before, layer.weight.read()?))
        };
        // The same decay through the gradient and by hand, three steps.
        let ((_, got), (_, want)) = (run(WeightDecay::L2(lambda), -1.0)?, run(WeightDecay::L2(0.0), lambda)?);
        close(&got, &wide(&want), Tol { relative: 2e-4, absolute: 2e-4 }).map_err(|e| format!("{method:?}, L2: {e}"))?;
        // One step without decay tells the direction.
        let (start, free) = run(WeightDecay::L2(0.0), 0.0)?;
        let expect = |cautious: bool| -> Vec<f64> {
            let pairs = wide(&start).into_iter().zip(wide(&free));
            pairs.map(|(w, free)| free - if cautious && (w - free) * w < 0.0 { 0.0 } else { rate * lambda * w }).collect()
        };
        for (decay, cautious) in [(WeightDecay::Decoupled(lambda), false), (WeightDecay::Cautious(lambda), true)] {
            let (_, got) = run(decay, 0.0)?;
            // Shampoo with Nesterov's momentum adds its decay to both terms, as its reference does.
            let own_place = matches!((method, decay), (Method::Shampoo(m), WeightDecay::Decoupled(_)) if m.momentum > 0.0);
            if !own_place {
                close(&got, &expect(cautious), Tol::absolute(1e-6)).map_err(|e| format!("{method:?}, {decay:?}: {e}"))?;
            }
        }
        ensure(expect(false) != expect(true), || "all weights shrink: caution is not tested".into())?;
    }
    let layer = Layer::new(ctx, 1, 2, 2, 3)?;
    for bad in [-1.0, f64::NAN] {
        let refused = Optimizer::builder(ctx).group(named(Sgd::default().into(), &layer, WeightDecay::Cautious(bad))).build();
        ensure(matches!(refused, Err(Error::Config { field: "weight_decay", .. })), || format!("accepted {bad}"))?;
    }
    Ok(())
}

/// The running average of each layer's weights, from the weights as they were read.
fn averages(ctx: &Context) -> Outcome {
    let decay = 0.75;
    for method in moved_by_the_first() {
        let layers = Layer::stack(ctx, 2, 2, 5, 7, 3)?;
        let group = Group::new(method).parameter(layers[0].parameter("a")).parameter(layers[1].parameter("b")).average(decay);
        let mut optimizer = optimizer(ctx, group)?;
        let mut want: Vec<Vec<f64>> = vec![Vec::new(); 2];
        for step in 0..5 {
            for (layer, want) in layers.iter().zip(&mut want) {
                layer.feed(9, step)?;
                // A refused step leaves weight and average of its trial.
                if step == 0 || step == 3 {
                    let mut gradient = layer.gradient.read()?;
                    gradient[0] = f32::NAN;
                    layer.gradient.write(&gradient)?;
                }
                if want.is_empty() {
                    *want = vec![0.0; layer.weight.shape().elements()];
                }
            }
            optimizer.step()?;
            for ((name, layer), want) in ["a", "b"].into_iter().zip(&layers).zip(&mut want) {
                let area = want.len() / 2;
                for (i, (average, w)) in want.iter_mut().zip(wide(&layer.weight.read()?)).enumerate() {
                    let refused = i < area && (step == 0 || step == 3);
                    let first = step == u64::from(i < area);
                    *average = if refused {
                        *average
                    } else if first {
                        w
                    } else {
                        decay * *average + (1.0 - decay) * w
                    };
                }
                let got = optimizer.average(name).ok_or("no average")?.read()?;
                close(&got, want, Tol::absolute(1e-6)).map_err(|e| format!("{method:?}, step {step}, {name}: {e}"))?;
            }
        }
        ensure(optimizer.average("c").is_none(), || "an average of nothing".into())?;
    }
    Ok(())
}

/// Weights and gradients in f16 follow an f32 run that rounds a copy of its weights after each step; updates below f16's resolution add up.
fn f16_weights(ctx: &Context) -> Outcome {
    let shape = Shape::new(2, 5, 7);
    let half = |seed: u64| -> Result<Tensor, Failed> {
        let tensor = ctx.zeros_of(shape, ElementType::F16)?;
        fill(&tensor, seed, 0)?;
        Ok(tensor)
    };
    for method in methods().into_iter().filter(|m| !needs_taps(m)) {
        for half_gradient in [false, true] {
            let (weight, gradient) = (half(3)?, if half_gradient { half(4)? } else { ctx.zeros(shape)? });
            // The same numbers in f32.
            let (master, wide_gradient) = (ctx.upload(shape, &weight.read()?)?, ctx.zeros(shape)?);
            let mut one = optimizer(ctx, Group::new(method).parameter(Parameter::new("w", &weight, &gradient)))?;
            let mut two = optimizer(ctx, Group::new(method).parameter(Parameter::new("w", &master, &wide_gradient)))?;
            let rounded = ctx.zeros_of(shape, ElementType::F16)?;
            for step in 0..6 {
                let small: Vec<f32> = data(step + 20, shape.elements()).iter().map(|g| 0.25 * g).collect();
                gradient.write(&small)?;
                wide_gradient.write(&gradient.read()?)?;
                if step == 4 {
                    // By hand, and the master follows when told.
                    let reset = weight.read()?.iter().map(|w| 0.5 * w).collect::<Vec<_>>();
                    weight.write(&reset)?;
                    master.write(&weight.read()?)?;
                    one.reload_weights();
                }
                one.step()?;
                two.step()?;
                same(&format!("{method:?}, step {step}: master"), &state(&one, "w.master")?, &master.read()?)?;
                rounded.write(&master.read()?)?;
                same(&format!("{method:?}, step {step}: weight"), &weight.read()?, &rounded.read()?)?;
            }
        }
    }
    Ok(())
}

/// What gathers, averages and widens resumes bit by bit, also between two gradients of one step.
#[cfg(feature = "checkpoint")]
fn resumes(ctx: &Context) -> Outcome {
    for method in methods().into_iter().filter(|m| !needs_taps(m)) {
        let shape = Shape::new(2, 5, 7);
        let build = || -> Result<(Tensor, Tensor, Optimizer), Failed> {
            let (weight, gradient) = (ctx.zeros_of(shape, ElementType::F16)?, ctx.zeros(shape)?);
            fill(&weight, 3, 0)?;
            let group = Group::new(method).parameter(Parameter::new("w", &weight, &gradient)).average(0.5);
            let optimizer = Optimizer::builder(ctx).group(group).accumulate_gradients(3).clip_global_norm(0.5).build()?;
            Ok((weight, gradient, optimizer))
        };
        let (weight, gradient, mut whole) = build()?;
        let mut resumed = None;
        for call in 0..12u64 {
            if call == 5 {
                let (bytes, (other, gradient, mut optimizer)) = (whole.state_bytes_blocking()?, build()?);
                other.write(&weight.read()?)?;
                optimizer.from_state_bytes_blocking(&bytes)?;
                resumed = Some((other, gradient, optimizer));
            }
            fill(&gradient, 8, call)?;
            whole.step()?;
            if let Some((_, gradient, optimizer)) = &mut resumed {
                fill(gradient, 8, call)?;
                optimizer.step()?;
            }
        }
        let Some((other, _, optimizer)) = resumed else { return Err("nothing was resumed".into()) };
        ensure(whole.steps() == 4 && optimizer.steps() == 4, || format!("{} and {} steps", whole.steps(), optimizer.steps()))?;
        same(&format!("{method:?}"), &other.read()?, &weight.read()?)?;
        for ((name, a), (_, b)) in whole.state().zip(optimizer.state()) {
            same(&format!("{method:?}, {name}"), &b.read()?, &a.read()?)?;
        }
    }
    Ok(())
}

fn refusals(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 5, 7, 3)?;
    let other = Layer::new(ctx, 3, 5, 7, 3)?;
    let builder = || Optimizer::builder(ctx).group(single(Sgd::default(), &layer));
    let trials = builder().group(Group::new(Sgd::default()).parameter(other.parameter("other")));
    let attempts = [
        ("clip_global_norm", builder().clip_global_norm(0.0)),
        ("clip_global_norm", builder().clip_global_norm(f64::NAN)),
        ("clip_global_norm", trials.clip_global_norm(1.0)),
        ("accumulate_gradients", builder().accumulate_gradients(0)),
        ("loss_scale", builder().loss_scale(0.0)),
        ("loss_scale", builder().loss_scale(1e-39)),
        ("average", Optimizer::builder(ctx).group(single(Sgd::default(), &layer).average(1.0))),
    ];
    for (name, attempt) in attempts {
        match attempt.build() {
            Err(Error::Config { field, .. }) if field == name => {}
            Err(error) => return Err(format!("{name}: {error}").into()),
            Ok(_) => return Err(format!("{name}: built").into()),
        }
    }
    Ok(())
}

/// All but SOAP, whose first gradient moves no weight, and whose null spaces tell gradients apart that differ by a rounding.
fn moved_by_the_first() -> Vec<Method> {
    methods().into_iter().filter(|m| !matches!(m, Method::Soap(_))).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "feature checkpoint adds a case")]
    let mut cases = vec![
        case("optimizers::gradients::clips_by_the_joint_norm", clips_by_the_joint_norm),
        case("optimizers::gradients::refuses_an_infinite_norm", refuses_an_infinite_norm),
        case("optimizers::gradients::accumulates", accumulates),
        case("optimizers::gradients::unscales", unscales),
        case("optimizers::gradients::decays", decays),
        case("optimizers::gradients::averages", averages),
        case("optimizers::gradients::f16_weights", f16_weights),
        case("optimizers::gradients::refusals", refusals),
    ];
    #[cfg(feature = "checkpoint")]
    cases.push(case("optimizers::gradients::resumes", resumes));
    cases
}
