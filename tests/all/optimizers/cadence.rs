//! Which segments run when, and that staggered refreshes do what they say.

use layerwise::Context;
use layerwise::optim::{Group, Kfac};

use super::rig::{Layer, ensure, optimizer, single, state};
use crate::case::{Case, Outcome, case, case_cpu};

/// The segments of the first steps, by name.
fn segments(ctx: &Context) -> Outcome {
    let layers = Layer::stack(ctx, 4, 2, 3, 3, 1)?;
    let kfac = Kfac { statistics_every: 2, precondition_every: 4, start_step: 2, ..Kfac::default() };
    let group = layers.iter().enumerate().fold(Group::new(kfac), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
    let mut optimizer = optimizer(ctx, group)?;
    let wanted: [&[&str]; 8] = [
        &["check taps", "begin", "accumulate", "apply plain"],
        &["begin", "apply plain"],
        &["check taps", "begin", "accumulate", "refresh 1/4", "refresh 2/4", "refresh 3/4", "refresh 4/4", "apply"],
        &["begin", "refresh 2/4", "apply"],
        &["check taps", "begin", "accumulate", "refresh 3/4", "apply"],
        &["begin", "refresh 4/4", "apply"],
        &["check taps", "begin", "accumulate", "refresh 1/4", "apply"],
        &["begin", "refresh 2/4", "apply"],
    ];
    for (step, want) in wanted.into_iter().enumerate() {
        let got = optimizer.next_segments();
        ensure(got == want, || format!("step {step}: {got:?}"))?;
        optimizer.step()?;
    }
    optimizer.set_learning_rate(0, &[0.2])?;
    ensure(optimizer.next_segments()[0] == "learning rates", || format!("{:?}", optimizer.next_segments()))?;
    optimizer.step()?;
    ensure(optimizer.next_segments()[0] == "begin", || format!("{:?}", optimizer.next_segments()))
}

/// A bucket's inverses change at its own steps alone.
fn staggered(ctx: &Context) -> Outcome {
    let layers = Layer::stack(ctx, 2, 2, 3, 3, 1)?;
    let kfac = Kfac { precondition_every: 4, ..Kfac::default() };
    let group = layers.iter().enumerate().fold(Group::new(kfac), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
    let mut optimizer = optimizer(ctx, group)?;
    let mut before = state(&optimizer, "w0..w1.right_inverse")?;
    for step in 0..9u64 {
        for (i, layer) in layers.iter().enumerate() {
            layer.feed(7 + 100 * i as u64, step)?;
        }
        optimizer.step()?;
        let after = state(&optimizer, "w0..w1.right_inverse")?;
        let half = after.len() / 2;
        let changed = [after[..half] != before[..half], after[half..] != before[half..]];
        let want = [step.is_multiple_of(4), step == 0 || step % 4 == 2];
        ensure(changed == want, || format!("step {step}: changed {changed:?}, expected {want:?}"))?;
        before = after;
    }
    Ok(())
}

/// Layers of different shapes get different buckets: no step does all the work.
fn unlike_layers(ctx: &Context) -> Outcome {
    let layers = [Layer::new(ctx, 1, 6, 5, 1)?, Layer::new(ctx, 1, 5, 6, 2)?, Layer::new(ctx, 1, 6, 6, 3)?];
    let kfac = Kfac { precondition_every: 3, ..Kfac::default() };
    let group = layers.iter().enumerate().fold(Group::new(kfac), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
    let mut optimizer = optimizer(ctx, group)?;
    let schedule = optimizer.schedule(0).ok_or("KFAC has a schedule")?;
    ensure(schedule.buckets == 3, || format!("{schedule:?}"))?;
    optimizer.step()?;
    for step in 1..7 {
        let refreshes = optimizer.next_segments().iter().filter(|s| s.starts_with("refresh")).count();
        ensure(refreshes == 1, || format!("step {step}: {refreshes} refreshes"))?;
        optimizer.step()?;
    }
    Ok(())
}

/// The printed plan says what happens.
fn printed(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 3, 4, 1)?;
    let text = optimizer(ctx, single(Kfac::default(), &layer))?.plan().to_string();
    for part in ["begin:", "check_finite", "accumulate:", "kron_factor", "refresh 1/1:", "cholesky", "apply:", "kl_clip", "sgd_update"] {
        ensure(text.contains(part), || format!("no `{part}` in\n{text}"))?;
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::cadence::segments", segments),
        case("optimizers::cadence::staggered", staggered),
        case("optimizers::cadence::unlike_layers", unlike_layers),
        case_cpu("optimizers::cadence::printed", printed),
    ]
}
