//! Gradients and taps that move, and batches that shrink.

use layerwise::optim::{Group, Kfac, Method, Optimizer, OutputGradients, Parameter, StatisticsStart};
use layerwise::{Context, Error, Shape, Tensor};

use super::rig::{Layer, N, ensure, fill, methods, optimizer, same, single, state, states};
use crate::case::{Case, Outcome, case};
use crate::compare::{Tol, close_to_largest};

/// Two sets of buffers in turn are one set that is overwritten.
fn double_buffered(ctx: &Context) -> Outcome {
    let kfac = Kfac { precondition_every: 3, damping: 0.01, learning_rate: 0.02, ..Kfac::default() };
    let mut runs: Vec<(Method, u64)> = methods().into_iter().map(|m| (m, u64::MAX)).collect();
    runs.push((kfac.into(), 1500));
    for (method, budget) in runs {
        let (one, two) = (Layer::new(ctx, 2, 9, 7, 3)?, Layer::new(ctx, 2, 9, 7, 3)?);
        let spare = Layer { weight: two.weight.clone(), ..Layer::new(ctx, 2, 9, 7, 3)? };
        let build = |layer: &Layer| Optimizer::builder(ctx).frame_budget(budget).group(single(method, layer)).build();
        let (mut plain, mut moving) = (build(&one)?, build(&two)?);
        for step in 0..7 {
            one.feed(5, step)?;
            plain.step()?;
            let now = if step % 2 == 0 { &two } else { &spare };
            now.feed(5, step)?;
            moving.rebind(&[now.parameter("w")])?;
            moving.step()?;
        }
        let what = format!("{method:?}, budget {budget}");
        same(&what, &two.weight.read()?, &one.weight.read()?)?;
        for (got, want) in states(&moving)?.iter().zip(&states(&plain)?) {
            same(&what, got, want)?;
        }
        ensure(moving.memory() == plain.memory() && moving.steps() == 7, || what)?;
    }
    Ok(())
}

/// Statistics of a smaller batch are means over that batch.
fn smaller_batch(ctx: &Context) -> Outcome {
    let kfac =
        Kfac { decay: 0.0, statistics_start: StatisticsStart::FirstBatch, output_gradients: OutputGradients::PerSample, ..Kfac::default() };
    let layer = Layer::new(ctx, 1, 5, 6, 3)?;
    let mut optimizer = optimizer(ctx, single(kfac, &layer))?;
    for (step, n) in (0..).zip([N, 7, 1, 11, N]) {
        layer.feed(5, step)?;
        let (x, g) = (layer.inputs.rows(0..n)?, layer.output_gradients.rows(0..n)?);
        optimizer.rebind(&[Parameter::new("w", &layer.weight, &layer.gradient).samples(&x, &g)])?;
        optimizer.step()?;
        let (x, g) = (layer.inputs.read()?, layer.output_gradients.read()?);
        let mean = |rows: &[f32], q: usize, ones: bool, scale: f64| -> Vec<f64> {
            let side = q + usize::from(ones);
            let at = |row: usize, i: usize| if i == q { 1.0 } else { f64::from(rows[row * q + i]) };
            let sum = |i: usize, j: usize| (0..n).map(|r| at(r, i) * at(r, j)).sum::<f64>() * scale / n as f64;
            (0..side * side).map(|e| sum(e / side, e % side)).collect()
        };
        let what = format!("{n} samples");
        close_to_largest(&state(&optimizer, "w.right_statistics")?, &mean(&x, 6, true, 1.0), Tol::gemm(n))
            .map_err(|e| format!("{what}: {e}"))?;
        let scale = (n * n) as f64;
        close_to_largest(&state(&optimizer, "w.left_statistics")?, &mean(&g, 5, false, scale), Tol::gemm(n))
            .map_err(|e| format!("{what}: {e}"))?;
    }
    for bad in [layer.inputs.rows(0..0), layer.inputs.rows(3..N + 1), ctx.zeros(Shape::new(2, 3, 3))?.rows(0..1)] {
        ensure(matches!(bad, Err(Error::Shape { .. })), || format!("{bad:?}"))?;
    }
    Ok(())
}

/// What is refused, with what the message says, and that the old tensors stay.
fn refused(ctx: &Context) -> Outcome {
    let layers = Layer::stack(ctx, 3, 1, 4, 5, 2)?;
    let others = Layer::stack(ctx, 3, 1, 4, 5, 2)?;
    let alone = Layer::new(ctx, 1, 4, 5, 9)?;
    let names = ["a", "b", "c"];
    let group = |m: Kfac| layers.iter().zip(names).fold(Group::new(m), |g, (l, n)| g.parameter(l.parameter(n)));
    let mut optimizer = Optimizer::builder(ctx).group(group(Kfac::default())).build()?;
    let moved = |i: usize, from: &Layer| Layer { weight: layers[i].weight.clone(), ..from.clone() }.parameter(names[i]);
    let wide = ctx.zeros(Shape::matrix(4, 7))?;
    let few: Tensor = ctx.zeros(Shape::matrix(3, 5))?;
    let cases: [(&str, Vec<Parameter>, &[&str]); 6] = [
        ("unknown", vec![alone.parameter("d")], &["`d`"]),
        ("another weight", vec![alone.parameter("b")], &["`b`", "weight"]),
        ("another shape", vec![Parameter { gradient: wide, ..moved(1, &others[1]) }], &["b.gradient"]),
        ("unlike taps", vec![moved(1, &Layer { inputs: few, ..others[1].clone() })], &["b.output_gradients"]),
        ("one of a stack", vec![moved(1, &others[1])], &["`a`, `b`, `c`", "whole stack"]),
        ("in another order", vec![moved(0, &others[1]), moved(1, &others[0]), moved(2, &others[2])], &["`a`, `b`, `c`"]),
    ];
    for (what, parameters, wanted) in cases {
        match optimizer.rebind(&parameters) {
            Err(error) if wanted.iter().all(|w| error.to_string().contains(w)) => {}
            other => return Err(format!("{what}: {other:?}").into()),
        }
    }
    // The old gradients are still those that count; all of the stack together may move.
    let before: Vec<Vec<f32>> = layers.iter().map(|l| l.weight.read()).collect::<Result<_, _>>()?;
    layers.iter().try_for_each(|l| l.feed(3, 0))?;
    optimizer.step()?;
    let after: Vec<Vec<f32>> = layers.iter().map(|l| l.weight.read()).collect::<Result<_, _>>()?;
    ensure(before.iter().zip(&after).all(|(a, b)| a != b), || "a step after refusals moved nothing".into())?;
    let all: Vec<Parameter> = (0..3).map(|i| moved(i, &others[i])).collect();
    optimizer.rebind(&all)?;
    fill(&others[1].gradient, 3, 5)?;
    optimizer.step()?;
    ensure(optimizer.health_blocking()?.is_good() && layers[1].weight.read()? != after[1], || "the new gradient is not read".into())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::rebind::double_buffered", double_buffered),
        case("optimizers::rebind::smaller_batch", smaller_batch),
        case("optimizers::rebind::refused", refused),
    ]
}
