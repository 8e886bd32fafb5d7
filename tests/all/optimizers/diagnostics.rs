//! What a health report says about roots and updates.

use layerwise::Context;
use layerwise::linalg::Method as Root;
use layerwise::optim::{Group, Shampoo};

use super::rig::{Layer, ensure, methods, optimizer, single};
use crate::case::{Case, Outcome, case};
use crate::oracle::{Mat, singular_values};

/// Largest eigenvalue, residual and iterations of the roots in force, by both routes, whole and in blocks.
fn roots(ctx: &Context) -> Outcome {
    for (route, blocks) in [(Root::Newton, 1024), (Root::Newton, 3), (Root::Eigen, 1024)] {
        let layer = Layer::new(ctx, 2, 6, 8, 3)?;
        let shampoo = Shampoo { root_method: route, block_size: blocks, epsilon: 1e-3, ..Shampoo::default() };
        let mut optimizer = optimizer(ctx, single(shampoo, &layer))?;
        layer.feed(5, 0)?;
        optimizer.step()?;
        let (gradient, area) = (layer.gradient.read()?, 6 * 9);
        let health = optimizer.health_blocking()?;
        for (trial, seen) in health.parameters[0].trials.iter().enumerate() {
            let g = &gradient[trial * area..(trial + 1) * area];
            let block =
                |r0: usize, c0: usize| Mat::from_fn(blocks.min(6 - r0), blocks.min(9 - c0), |r, c| f64::from(g[(r0 + r) * 9 + c0 + c]));
            let starts = (0..6).step_by(blocks).flat_map(|r| (0..9).step_by(blocks).map(move |c| (r, c)));
            let largest = starts.map(|(r, c)| singular_values(&block(r, c))[0].powi(2)).fold(0.0, f64::max);
            let error = (f64::from(seen.largest_eigenvalue) / largest - 1.0).abs();
            ensure(error < 1e-4, || format!("{route:?}, {blocks}: {seen:?}, expected {largest}"))?;
            let newton = route == Root::Newton;
            let plausible = if newton {
                seen.root_residual > 0.0 && seen.root_residual < 1e-3 && (3..=26).contains(&seen.root_iterations)
            } else {
                (seen.root_residual, seen.root_iterations) == (0.0, 0)
            };
            ensure(plausible, || format!("{route:?}, {blocks}: {seen:?}"))?;
        }
    }
    Ok(())
}

/// The ratio of update to weight, of layers and trials by themselves; 0 for a refused step; nobody who does not ask has it.
fn updates(ctx: &Context) -> Outcome {
    let norm = |x: &[f32]| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    for method in methods() {
        let layers = Layer::stack(ctx, 2, 2, 5, 7, 3)?;
        let group = |group: Group| group.parameter(layers[0].parameter("a")).parameter(layers[1].parameter("b"));
        let mut optimizer = optimizer(ctx, group(Group::new(method).track_updates()))?;
        for step in 0..4 {
            layers.iter().try_for_each(|layer| layer.feed(9, step))?;
            if step == 2 {
                let mut gradient = layers[0].gradient.read()?;
                gradient[0] = f32::NAN;
                layers[0].gradient.write(&gradient)?;
            }
            let before = layers.iter().map(|l| l.weight.read()).collect::<Result<Vec<_>, _>>()?;
            optimizer.step()?;
            let health = optimizer.health_blocking()?;
            for (l, layer) in layers.iter().enumerate() {
                let (after, area) = (layer.weight.read()?, 5 * 8);
                for trial in 0..2 {
                    let range = trial * area..(trial + 1) * area;
                    let (old, new) = (&before[l][range.clone()], &after[range]);
                    let change: Vec<f32> = old.iter().zip(new).map(|(a, b)| b - a).collect();
                    let want = norm(&change) / norm(old);
                    ensure((want == 0.0) == (change.iter().all(|x| *x == 0.0)), || "a vanishing norm".into())?;
                    let got = f64::from(health.parameters[l].trials[trial].update_ratio);
                    let close = (got - want).abs() <= 1e-5 * want;
                    ensure(close, || format!("{method:?}, step {step}, layer {l}, trial {trial}: {got}, expected {want}"))?;
                }
            }
        }
    }
    let layer = Layer::new(ctx, 1, 2, 2, 1)?;
    let mut silent = optimizer(ctx, single(Shampoo::default(), &layer))?;
    layer.feed(1, 0)?;
    silent.step()?;
    ensure(silent.health_blocking()?.parameters[0].trials[0].update_ratio == 0.0, || "measured unasked".into())?;
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case("optimizers::diagnostics::roots", roots), case("optimizers::diagnostics::updates", updates)]
}
