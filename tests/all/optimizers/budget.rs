//! The frame budget: refreshes in parts give what refreshes in one piece give, later.

use layerwise::optim::{Group, Kfac, Optimizer, Shampoo, StatisticsStart};
use layerwise::{Context, linalg};
use libtest_mimic::Failed;

#[cfg(feature = "checkpoint")]
use super::checkpoint::content;
use super::rig::{Layer, ensure, same, state};
use crate::case::{Case, Outcome, case};

/// Every update preconditioned by roots that are due each fourth step.
fn kfac() -> Kfac {
    Kfac { learning_rate: 0.02, damping: 0.01, precondition_every: 4, statistics_start: StatisticsStart::BiasCorrected, ..Kfac::default() }
}

/// A layer of several Cholesky panels, one of 1 x 2, and a stack of three.
struct Rig {
    optimizer: Optimizer,
    layers: Vec<Layer>,
}

impl Rig {
    fn new(ctx: &Context, kfac: Kfac, budget: Option<u64>) -> Result<Rig, Failed> {
        let mut layers = vec![Layer::new(ctx, 1, 70, 36, 1)?, Layer::new(ctx, 1, 1, 1, 2)?];
        layers.extend(Layer::stack(ctx, 3, 1, 13, 20, 3)?);
        let group = layers.iter().enumerate().fold(Group::new(kfac), |g, (i, l)| g.parameter(l.parameter(&format!("w{i}"))));
        let builder = Optimizer::builder(ctx).group(group);
        let builder = if let Some(flops) = budget { builder.frame_budget(flops) } else { builder };
        let planned = builder.memory()?;
        let optimizer = builder.build()?;
        ensure(optimizer.memory() == planned, || format!("planned {planned:?}, built {:?}", optimizer.memory()))?;
        Ok(Rig { optimizer, layers })
    }

    fn feed(&self, step: u64) -> Outcome {
        self.layers.iter().enumerate().try_for_each(|(i, layer)| layer.feed(40 + 10 * i as u64, step))
    }

    fn step(&mut self) -> Outcome {
        self.feed(self.optimizer.steps())?;
        Ok(self.optimizer.step()?)
    }

    fn weights(&self) -> Result<Vec<f32>, Failed> {
        let all = self.layers.iter().map(|l| l.weight.read()).collect::<Result<Vec<_>, _>>()?;
        Ok(all.concat())
    }

    fn roots(&self) -> Result<Vec<Vec<f32>>, Failed> {
        ["w0", "w1", "w2..w4"].iter().map(|w| state(&self.optimizer, &format!("{w}.left_inverse"))).collect()
    }
}

/// Flops of the refresh segments, from the plan: without a budget nothing is copied.
fn refresh_flops(optimizer: &Optimizer) -> u64 {
    let plan = optimizer.plan();
    (0..plan.segments().len()).filter(|&s| plan.segments()[s].name.contains("refresh")).map(|s| plan.cost(Some(s)).flops).sum()
}

/// No step adds more, every layer is refreshed again and again, and nothing is left out.
fn holds(ctx: &Context) -> Outcome {
    // The largest single operation is a product of 70 x 70 matrices: 70^2 (2 70 + 2) flops.
    for budget in [700_000, 1_000_000, 1_300_000] {
        let mut rig = Rig::new(ctx, kfac(), Some(budget))?;
        let whole = refresh_flops(&rig.optimizer);
        ensure(whole > budget, || format!("{whole} flops fit {budget}: this test shows nothing"))?;
        let (mut changes, mut last, mut sum, mut busy) = ([0; 3], rig.roots()?, 0, 0);
        for step in 0..60 {
            let flops = rig.optimizer.next_refresh_flops();
            ensure(flops <= budget, || format!("step {step}: {flops} flops, the budget is {budget}"))?;
            let works = rig.optimizer.next_segments().iter().any(|s| s.contains("refresh"));
            ensure(works == (flops > 0), || format!("step {step}: {flops} flops in {:?}", rig.optimizer.next_segments()))?;
            rig.step()?;
            (sum, busy) = (sum + flops, busy + u64::from(flops > 0));
            let roots = rig.roots()?;
            (0..3).filter(|&i| roots[i] != last[i]).for_each(|i| changes[i] += 1);
            last = roots;
        }
        ensure(changes.iter().all(|&c| c >= 3), || format!("budget {budget}: roots changed {changes:?} times in 60 steps"))?;
        // Fifteen rounds are due; as many run as the budget of the busy steps holds.
        ensure(sum <= 16 * whole + 16 * whole / 4 && sum * 3 > busy * budget, || format!("{sum} flops in {busy} steps of {budget}"))?;
    }
    Ok(())
}

/// A budget that no dispatch fits: one piece a step, and the refresh is finished all the same.
fn tiny(ctx: &Context) -> Outcome {
    let mut rig = Rig::new(ctx, kfac(), Some(1))?;
    let start = rig.roots()?;
    let mut steps = 0;
    while rig.roots()?[0] == start[0] {
        rig.step()?;
        steps += 1;
        ensure(steps < 400, || "the first layer is never refreshed".into())?;
    }
    ensure(steps > 8, || format!("{steps} steps: not in single pieces"))
}

/// What fits is not cut, and what is not limited is what it was.
fn ample(ctx: &Context) -> Outcome {
    let mut plain = Rig::new(ctx, kfac(), None)?;
    let mut rich = Rig::new(ctx, kfac(), Some(u64::MAX))?;
    ensure(plain.optimizer.memory() == rich.optimizer.memory(), || "memory for a cut that is not made".into())?;
    ensure(plain.optimizer.plan() == rich.optimizer.plan(), || "another plan".into())?;
    for step in 0..9 {
        ensure(plain.optimizer.next_segments() == rich.optimizer.next_segments(), || format!("step {step}"))?;
        plain.step()?;
        rich.step()?;
    }
    same("weights", &rich.weights()?, &plain.weights()?)
}

/// Roots that come late are those of the statistics at the start, bit by bit, however many steps it took and whatever the statistics did meanwhile.
fn snapshot(ctx: &Context) -> Outcome {
    let rare = Kfac { precondition_every: 1000, ..kfac() };
    let layer = |budget: Option<u64>| -> Result<(Optimizer, Layer), Failed> {
        let layer = Layer::new(ctx, 2, 70, 36, 1)?;
        let builder = Optimizer::builder(ctx).group(Group::new(rare).parameter(layer.parameter("w")));
        Ok((if let Some(flops) = budget { builder.frame_budget(flops) } else { builder }.build()?, layer))
    };
    let (mut once, plain) = layer(None)?;
    plain.feed(7, 0)?;
    once.step()?;
    let want = [state(&once, "w.left_inverse")?, state(&once, "w.right_inverse")?];
    for budget in [1, 300_000, 1_500_000, 2_000_000] {
        let (mut optimizer, cut) = layer(Some(budget))?;
        let before = state(&optimizer, "w.right_inverse")?;
        let mut steps = 0;
        while optimizer.next_refresh_flops() > 0 || steps == 0 {
            same("roots before the last piece", &state(&optimizer, "w.right_inverse")?, &before)?;
            cut.feed(7, steps)?;
            optimizer.step()?;
            steps += 1;
        }
        ensure(steps > 1, || format!("budget {budget}: all at once"))?;
        same("left", &state(&optimizer, "w.left_inverse")?, &want[0])?;
        same("right", &state(&optimizer, "w.right_inverse")?, &want[1])?;
        ensure(optimizer.health_blocking()?.is_good(), || "a root failed".into())?;
    }
    Ok(())
}

/// Statistics that stand still: all layers end with the roots of an unlimited run.
fn all_layers(ctx: &Context) -> Outcome {
    let rare = Kfac { precondition_every: 1000, statistics_every: 1000, ..kfac() };
    let mut plain = Rig::new(ctx, rare, None)?;
    plain.step()?;
    for budget in [1, 250_000, 1_000_000] {
        let mut cut = Rig::new(ctx, rare, Some(budget))?;
        while cut.optimizer.next_refresh_flops() > 0 {
            cut.step()?;
        }
        for (got, want) in cut.roots()?.iter().zip(&plain.roots()?) {
            same(&format!("budget {budget}"), got, want)?;
        }
    }
    Ok(())
}

/// Another method's refresh, of eigendecompositions or Newton iterations in blocks, is cut by the same rule.
fn shampoo(ctx: &Context) -> Outcome {
    for root_method in [linalg::Method::Eigen, linalg::Method::Newton] {
        let rare =
            Shampoo { statistics_every: 1000, precondition_every: 1000, start_step: 0, block_size: 12, root_method, ..Shampoo::default() };
        let run = |budget: u64| -> Result<(Vec<Vec<f32>>, u64), Failed> {
            let layer = Layer::new(ctx, 2, 18, 6, 1)?;
            let group = Group::new(rare).parameter(layer.parameter("w"));
            let mut optimizer = Optimizer::builder(ctx).frame_budget(budget).group(group).build()?;
            let mut steps = 0;
            while optimizer.next_refresh_flops() > 0 {
                layer.feed(7, steps)?;
                optimizer.step()?;
                steps += 1;
            }
            let roots = optimizer.state().filter(|(name, _)| name.contains("_root") && !name.ends_with("_snapshot"));
            Ok((roots.map(|(_, t)| t.read()).collect::<Result<_, _>>()?, steps))
        };
        let (want, once) = run(u64::MAX)?;
        ensure(once == 1 && want.len() >= 3, || format!("{} roots in {once} steps", want.len()))?;
        for budget in [10_000, 20_000] {
            let (got, steps) = run(budget)?;
            ensure(steps > 2, || format!("{root_method:?}, budget {budget}: {steps} steps"))?;
            for (got, want) in got.iter().zip(&want) {
                same(&format!("{root_method:?}, budget {budget}"), got, want)?;
            }
        }
    }
    Ok(())
}

/// Statistics that are still empty at the snapshot give no roots, although they are not empty at the end.
fn empty_snapshot(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 5, 6, 1)?;
    let group = Group::new(Kfac { precondition_every: 1000, ..kfac() }).parameter(layer.parameter("w"));
    let mut optimizer = Optimizer::builder(ctx).group(group).frame_budget(1).build()?;
    let before = state(&optimizer, "w.left_inverse")?;
    let bad = vec![f32::NAN; layer.gradient.shape().elements()];
    let mut steps = 0;
    while optimizer.next_refresh_flops() > 0 {
        layer.feed(7, steps)?;
        if steps == 0 {
            layer.gradient.write(&bad)?;
        }
        optimizer.step()?;
        steps += 1;
    }
    let health = optimizer.health_blocking()?.parameters[0].trials[0];
    ensure(steps > 3 && health.skipped == 1 && health.steps == steps - 1, || format!("{steps} steps, {health:?}"))?;
    same("the root of empty statistics", &state(&optimizer, "w.left_inverse")?, &before)
}

/// A refresh that starts again gives the roots of the step where it did.
fn restart(ctx: &Context) -> Outcome {
    let rare = Kfac { precondition_every: 1000, ..kfac() };
    let mut plain = Rig::new(ctx, Kfac { start_step: 2, ..rare }, None)?;
    (0..3).try_for_each(|_| plain.step())?;
    let mut cut = Rig::new(ctx, rare, Some(300_000))?;
    let before = cut.roots()?;
    (0..2).try_for_each(|_| cut.step())?;
    ensure(cut.roots()? == before, || "a refresh was finished already".into())?;
    cut.optimizer.restart_refresh();
    while cut.optimizer.next_refresh_flops() > 0 {
        cut.step()?;
    }
    same("the first layer", &cut.roots()?[0], &plain.roots()?[0])
}

/// All state but snapshots, which mean nothing between two refreshes.
#[cfg(feature = "checkpoint")]
fn lasting(optimizer: &Optimizer) -> Result<Vec<Vec<f32>>, Failed> {
    Ok(optimizer.state().filter(|(name, _)| !name.ends_with("_snapshot")).map(|(_, t)| t.read()).collect::<Result<_, _>>()?)
}

/// Saved at every step of two rounds of refreshes and resumed: the run that was not interrupted.
#[cfg(feature = "checkpoint")]
fn resume(ctx: &Context) -> Outcome {
    let run = || Rig::new(ctx, kfac(), Some(400_000));
    let mut straight = run()?;
    let mut saved = Vec::new();
    for _ in 0..16 {
        saved.push((
            straight.optimizer.state_bytes_blocking()?,
            straight.layers.iter().map(|l| l.weight.read()).collect::<Result<Vec<_>, _>>()?,
        ));
        straight.step()?;
    }
    let (want, kept) = (straight.weights()?, lasting(&straight.optimizer)?);
    let mut half = 0;
    for (step, (bytes, weights)) in saved.iter().enumerate() {
        let mut other = run()?;
        // What was half done before is forgotten.
        other.step()?;
        other.layers.iter().zip(weights).try_for_each(|(layer, w)| layer.weight.write(w))?;
        other.optimizer.from_state_bytes_blocking(bytes)?;
        half += usize::from(safetensors::SafeTensors::deserialize(bytes)?.names().iter().any(|n| n.ends_with("_snapshot")));
        let again = other.optimizer.state_bytes_blocking()?;
        ensure(content(&again)? == content(bytes)?, || format!("step {step}: saved again it differs"))?;
        (step..16).try_for_each(|_| other.step())?;
        same(&format!("weights, saved at step {step}"), &other.weights()?, &want)?;
        for (got, want) in lasting(&other.optimizer)?.iter().zip(&kept) {
            same(&format!("state, saved at step {step}"), got, want)?;
        }
    }
    ensure(half > 4, || format!("only {half} of the states have a half-done refresh"))?;
    // Another division of the work: everything is due at once, and nothing is refused.
    let bytes = saved.iter().map(|s| &s.0).find(|b| b.windows(9).any(|w| w == b"_snapshot")).ok_or("no such state")?;
    for budget in [None, Some(2_000_000)] {
        let mut other = Rig::new(ctx, kfac(), budget)?;
        other.optimizer.from_state_bytes_blocking(bytes)?;
        let due = other.optimizer.next_segments().iter().filter(|s| s.contains("refresh")).count();
        ensure(due > 0 && budget.is_none_or(|b| other.optimizer.next_refresh_flops() <= b), || format!("{due} refreshes are due"))?;
        let before = other.roots()?;
        (0..12).try_for_each(|_| other.step())?;
        ensure(before.iter().zip(&other.roots()?).all(|(a, b)| a != b), || "a layer was not refreshed".into())?;
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::budget::holds", holds),
        case("optimizers::budget::tiny", tiny),
        case("optimizers::budget::ample", ample),
        case("optimizers::budget::snapshot", snapshot),
        case("optimizers::budget::all_layers", all_layers),
        case("optimizers::budget::shampoo", shampoo),
        case("optimizers::budget::empty_snapshot", empty_snapshot),
        case("optimizers::budget::restart", restart),
        #[cfg(feature = "checkpoint")]
        case("optimizers::budget::resume", resume),
    ]
}
