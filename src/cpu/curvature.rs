//! Directions in an eigenbasis, dropped directions, damping that adapts.

use super::memory::Memory;
use crate::plan::block::{DAMPING, DAMPING_SCALE, FAILED_DIRECTIONS, GATE, LAST_LOSS, LOSS_AGE, PREDICTED, RIDGE, TICKS};
use crate::plan::{ControlStage, DampingControl, DirectionOutcome, SpectralDivide};

/// `out = x / (left right^T + damping)`.
pub(super) fn spectral_divide(op: &SpectralDivide, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, left, right, block) = (memory.input(op.x), memory.input(op.left), memory.input(op.right), memory.input(op.block));
    let v = op.out;
    out.for_each(3 * v.rows * v.cols, |i, item| {
        let column = |column: u32| block.scalar(i, column as usize);
        let damping = column(DAMPING) * column(RIDGE) * column(DAMPING_SCALE);
        let words = x.item(i);
        for r in 0..v.rows {
            let weight = left.scalar(i, r).max(0.0);
            for c in 0..v.cols {
                let below = weight * right.scalar(i, c).max(0.0) + damping;
                let good = below > 0.0 && below.is_finite();
                let element = words[r * op.x.row_stride + c * op.x.col_stride];
                item[r * v.row_stride + c * v.col_stride] = if good { element / below } else { 0.0 };
            }
        }
    });
    memory.put(out);
}

/// Counts dropped directions.
pub(super) fn direction_outcome(op: &DirectionOutcome, memory: &mut Memory<'_>) {
    let mut block = memory.take(op.block);
    let factor = memory.input(op.factor);
    block.for_each(2, |i, row| {
        if row[GATE as usize] != 0.0 && factor.scalar(i, 0) == 0.0 {
            row[FAILED_DIRECTIONS as usize] += 1.0;
        }
    });
    memory.put(block);
}

/// Levenberg-Marquardt damping.
pub(super) fn damping_control(op: &DampingControl, memory: &mut Memory<'_>) {
    let mut block = memory.take(op.block);
    let x = memory.input(op.x);
    let terms = op.x.items / op.trials;
    block.for_each(16, |i, row| {
        let (trial, at) = (i % op.trials, |column: u32| column as usize);
        match op.stage {
            ControlStage::Predict { interval } => {
                let sum: f32 = (0..terms).map(|t| x.scalar(t * op.trials + trial, 0)).sum();
                row[at(PREDICTED)] = if sum.is_finite() { sum } else { 0.0 };
                let ticks = row[at(TICKS)] + 1.0;
                row[at(TICKS)] = if ticks >= interval as f32 { 0.0 } else { ticks };
                if row[at(LOSS_AGE)] > 0.0 {
                    row[at(LOSS_AGE)] = (row[at(LOSS_AGE)] + 1.0).min(3.0);
                }
            }
            ControlStage::Observe { omega, least } => {
                let loss = x.scalar(trial, 0);
                let good = loss.is_finite();
                let predicted = row[at(PREDICTED)];
                if row[at(LOSS_AGE)] == 2.0 && row[at(TICKS)] == 0.0 && predicted != 0.0 {
                    let rho = if good { (loss - row[at(LAST_LOSS)]) / predicted } else { -100.0 };
                    let scale = row[at(DAMPING_SCALE)];
                    let scale = if rho < 0.25 {
                        scale / omega
                    } else if rho > 0.75 {
                        scale * omega
                    } else {
                        scale
                    };
                    row[at(DAMPING_SCALE)] = scale.min(1e10 / row[at(DAMPING)]).max(least / row[at(DAMPING)]);
                }
                row[at(LAST_LOSS)] = if good { loss } else { 0.0 };
                row[at(LOSS_AGE)] = if good { 1.0 } else { 0.0 };
            }
        }
    });
    memory.put(block);
}
