//! Running averages of Kronecker factors.

use super::StatisticsStart;
use crate::error::Result;
use crate::optim::stack::Stack;
use crate::plan::{Advance, Axpby, Clock, Coef, KronFactor, Recorder, Value, block};

/// Moves the clock of a stack's statistics.
pub(in crate::optim) fn advance(r: &mut Recorder, stack: &Stack, start: StatisticsStart) -> Result<()> {
    let clock = match start {
        StatisticsStart::Identity => Clock::StatisticsFromIdentity,
        StatisticsStart::FirstBatch => Clock::StatisticsFromFirst,
        StatisticsStart::BiasCorrected => Clock::StatisticsBiasCorrected,
    };
    r.record(Advance { block: stack.block, clock })
}

/// Running average of `x^T x / n` with the effective decay of this accumulation.
pub(in crate::optim) fn sample_average(r: &mut Recorder, stack: &Stack, x: Value, scale: f32, out: Value) -> Result<()> {
    r.record(KronFactor {
        ones: out.rows() != x.cols(),
        decay: Coef::column(block::STATISTICS_DECAY),
        scale,
        block: Some(stack.block),
        gate: Some(stack.column(block::GATE)?),
        ..KronFactor::new(x, out)
    })
}

/// Running average of a given factor, as `x + decay (out - x)`: a decay of 0 gives `x` exactly.
pub(in crate::optim) fn factor_average(r: &mut Recorder, stack: &Stack, x: Value, out: Value) -> Result<()> {
    let change = r.axpby(1.0, out, -1.0, x)?;
    r.record(Axpby {
        beta: Coef::column(block::STATISTICS_DECAY),
        block: Some(stack.block),
        gate: Some(stack.column(block::GATE)?),
        ..Axpby::add(x, change, out)
    })
}
