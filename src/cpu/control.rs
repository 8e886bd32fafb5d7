//! Clocks, schedules, damping and clipping: a few numbers per item.

use super::memory::Memory;
use crate::plan::block::{
    AVERAGE, AVERAGE_DECAY, BETA1, BETA2, CURRENT_RATE, DAMPING, DECAY, DECAY_STEPS, FAILED_ROOTS, FINAL_FRACTION, FLAG, GATE, KL_CLIP,
    LEARNING_RATE, ONE_MINUS_BETA1, ONE_MINUS_BETA2, RIDGE, SCHEDULE, SKIPPED, STATISTICS_DECAY, STATISTICS_WEIGHT, STEP, STEP_FACTOR,
    STEP_PERIOD, WARMUP_STEPS, WEIGHT1, WEIGHT2,
};
use crate::plan::{Advance, Clock, FactorDamping, KlClip, NormClip, NormRatio, RootOutcome};

/// The learning-rate factor before step `t` (0-based), from a block row. Mirrors `advance.wgsl`.
fn rate_factor(row: &[f32], t: f32) -> f32 {
    let at = |column: u32| row[column as usize];
    let warmup = at(WARMUP_STEPS);
    if t < warmup {
        return (t + 1.0) / warmup;
    }
    let t = t - warmup;
    let progress = if at(DECAY_STEPS) > 0.0 { (t / at(DECAY_STEPS)).min(1.0) } else { 0.0 };
    let end = at(FINAL_FRACTION);
    if at(SCHEDULE) == 1.0 {
        1.0 - (1.0 - end) * progress
    } else if at(SCHEDULE) == 2.0 {
        end + (1.0 - end) * 0.5 * (1.0 + (std::f32::consts::PI * progress).cos())
    } else if at(SCHEDULE) == 3.0 {
        let drops = (t / at(STEP_PERIOD).max(1.0)).floor();
        at(STEP_FACTOR).powf(drops)
    } else {
        1.0
    }
}

/// Moves one clock of every item.
pub(super) fn advance(op: &Advance, memory: &mut Memory<'_>) {
    let mut block = memory.take(op.block);
    let clock = op.clock;
    block.for_each(16, |_, row| {
        let at = |column: u32| column as usize;
        match clock {
            Clock::Step => {
                let bad = row[at(FLAG)] != 0.0;
                row[at(FLAG)] = 0.0;
                row[at(GATE)] = if bad { 0.0 } else { 1.0 };
                // Also of a refused step: KFAC's clip takes the rate of the first layer, refused or not.
                row[at(CURRENT_RATE)] = row[at(LEARNING_RATE)] * rate_factor(row, row[at(STEP)]);
                if bad {
                    row[at(SKIPPED)] += 1.0;
                    return;
                }
                // The first weights are their own average.
                row[at(AVERAGE)] = if row[at(STEP)] == 0.0 { 0.0 } else { row[at(AVERAGE_DECAY)] };
                row[at(STEP)] += 1.0;
                row[at(WEIGHT1)] = row[at(BETA1)] * row[at(WEIGHT1)] + row[at(ONE_MINUS_BETA1)];
                row[at(WEIGHT2)] = row[at(BETA2)] * row[at(WEIGHT2)] + row[at(ONE_MINUS_BETA2)];
            }
            Clock::StatisticsFromIdentity => row[at(STATISTICS_DECAY)] = row[at(DECAY)],
            Clock::StatisticsFromFirst => {
                if row[at(GATE)] != 0.0 {
                    row[at(STATISTICS_DECAY)] = if row[at(STATISTICS_WEIGHT)] == 0.0 { 0.0 } else { row[at(DECAY)] };
                    row[at(STATISTICS_WEIGHT)] = 1.0;
                }
            }
            Clock::StatisticsBiasCorrected => {
                if row[at(GATE)] != 0.0 {
                    row[at(STATISTICS_WEIGHT)] = row[at(DECAY)] * row[at(STATISTICS_WEIGHT)] + 1.0;
                    row[at(STATISTICS_DECAY)] = 1.0 - 1.0 / row[at(STATISTICS_WEIGHT)];
                }
            }
        }
    });
    memory.put(block);
}

/// The damping of both factors.
pub(super) fn factor_damping(op: &FactorDamping, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let block = memory.input(op.block);
    let means = op.left_mean.zip(op.right_mean).map(|(l, r)| (memory.input(l), memory.input(r)));
    out.for_each(8, |i, item| {
        let damping = block.scalar(i, DAMPING as usize) * block.scalar(i, RIDGE as usize);
        let (left, right) = match means {
            None => (damping, damping),
            Some((left, right)) => {
                let (left, right) = (left.scalar(i, 0), right.scalar(i, 0));
                // A factor without trace has no scale to balance against.
                let pi = if left > 0.0 && right > 0.0 { (right / left).sqrt() } else { 1.0 };
                (damping.sqrt() / pi, damping.sqrt() * pi)
            }
        };
        item[0] = left;
        item[op.out.col_stride] = right;
    });
    memory.put(out);
}

/// Books the outcome of a refresh.
pub(super) fn root_outcome(op: &RootOutcome, memory: &mut Memory<'_>) {
    let (mut ok, mut block) = (memory.take(op.ok), memory.take(op.block));
    let (left, right) = (memory.input(op.left_ok), memory.input(op.right_ok));
    for (i, (ok, row)) in ok.items_seq().zip(block.items_seq()).enumerate() {
        let good = left.scalar(i, 0) * right.scalar(i, 0) != 0.0;
        if row[STATISTICS_WEIGHT as usize] == 0.0 {
            ok[0] = 0.0;
            continue;
        }
        ok[0] = if good { 1.0 } else { 0.0 };
        let ridge = &mut row[RIDGE as usize];
        if good {
            *ridge = (*ridge * 0.1).max(1.0);
        } else {
            *ridge = (*ridge * 10.0).min(1e8);
            row[FAILED_ROOTS as usize] += 1.0;
        }
    }
    memory.put(ok);
    memory.put(block);
}

/// One clip factor per trial over all layers.
pub(super) fn kl_clip(op: &KlClip, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (dots, block) = (memory.input(op.dots), memory.input(op.block));
    let trials = op.out.items;
    let layers = op.dots.items / trials;
    out.for_each(layers, |t, item| {
        let sum: f32 = (0..layers).map(|l| dots.scalar(l * trials + t, 0)).sum();
        let (rate, clip) = (block.scalar(t, CURRENT_RATE as usize), block.scalar(t, KL_CLIP as usize));
        let quadratic = (rate * rate * sum).abs();
        item[0] = if !quadratic.is_finite() {
            0.0
        } else if clip == 0.0 || quadratic == 0.0 {
            1.0
        } else {
            (clip / quadratic).sqrt().min(1.0)
        };
    });
    memory.put(out);
}

/// The factor that brings a joint norm down.
pub(super) fn norm_clip(op: &NormClip, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let squares = memory.input(op.squares);
    let trials = op.out.items;
    let layers = op.squares.items / trials;
    out.for_each(layers, |t, item| {
        let sum: f32 = (0..layers).map(|l| squares.scalar(l * trials + t, 0)).sum();
        item[0] = if !sum.is_finite() {
            sum
        } else if sum == 0.0 {
            1.0
        } else {
            (op.max / sum.sqrt()).min(1.0)
        };
    });
    memory.put(out);
}

/// What takes one tensor to the norm of another; 0 where there is no such number.
pub(super) fn norm_ratio(op: &NormRatio, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (donor, own) = (op.donor.map(|d| memory.input(d)), memory.input(op.own));
    out.for_each(4, |i, item| {
        let own = own.scalar(i, 0);
        let ratio = donor.map_or(1.0, |d| d.scalar(i, 0).sqrt() / (own.sqrt() + 1e-16));
        item[0] = if own.is_finite() && ratio.is_finite() { ratio } else { 0.0 };
    });
    memory.put(out);
}
