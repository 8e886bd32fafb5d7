//! Shampoo with corrected eigenvalues.

use std::ops::Range;

use super::beats::{Beats, Keep};
use super::config::{Check, Row, put};
use super::soap::{Side, State, both, outcome, part};
use super::stack::Stack;
use crate::error::Result;
use crate::linalg;
use crate::plan::{
    Advance, Axpby, Clock, Coef, DecayForm, GraftDirection, Momentum, MomentumForm, Order, Recorder, SgdUpdate, Value, block,
};

/// Shampoo whose eigenvalues are second moments of the rotated gradient: facebookresearch/optimizers' `DistributedShampoo` with
/// `EigenvalueCorrectedShampooPreconditionerConfig` on one device, step for step.
///
/// With the gradient `G` of a weight `W` `[out, in]`, at step `t = 1, 2, ...`:
/// ```text
/// L <- beta2 L + (1 - beta2) G G^T, R likewise from G^T G     beta2 = 1: L <- L + G G^T
/// U, V <- eigenvectors of L, R, least eigenvalue first        every precondition_every steps from start_step on; the identity before
/// M <- beta1 M + (1 - beta1) G                                in W's own coordinates
/// D <- beta2 D + (1 - beta2) (U^T G V)^2                      beta2 = 1: D <- D + (..)^2; stays as it is when U, V change
/// P = U [(U^T M V / (1 - beta1^t)) / (sqrt(D / (1 - beta2^t)) + epsilon)] V^T
/// W <- W - learning_rate (P + weight_decay W)
/// ```
/// `1 - beta1^t` and `1 - beta2^t` are 1 without `bias_correction`, the second also for `beta2 = 1`. Against [`Soap`](super::Soap): eigenvectors anew at each
/// refresh, this step's gradient in this step's basis, `M` never rotated, `D` never reordered.
///
/// A first gradient in its own eigenbasis is diagonal there: with `start_step: 0` what stands beside the diagonal is rounding noise, and a small epsilon makes
/// steps of full size of it. Start later (the reference's `start_preconditioning_step`), or take a larger epsilon.
///
/// `M` is not rotated and `D` not reordered, so a new basis can set a large entry of `M` against an entry of `D` that has seen nothing yet: a step far above
/// the learning rate, in the reference as here. Refreshes at each step at high rates were seen to raise the loss of a quadratic for it; epsilon bounds it.
///
/// Deviations: a side above `max_precondition_dim` keeps the identity instead of being cut into blocks; no grafting, no outer momentum; steps are counted
/// from 0 (its `start_preconditioning_step` is `start_step + 1`); the default epsilon. Sides of length 1 have no basis, there as here. A layer whose
/// eigenvectors are not finite keeps its previous ones, which counts as a failed root. A gradient whose squared norm exceeds 1e37 is refused.
///
/// State for each layer and trial: two tensors of the weight's shape, two `[out, out]` and two `[in, in]` matrices. Statistics cost `out in (out + in)`
/// flops, an update `6 out in (out + in)`, a refresh an eigendecomposition of each side.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct EigenvalueCorrectedShampoo {
    /// Learning rate, at least 0. Default 1e-2 (facebookresearch/optimizers).
    pub learning_rate: f64,
    /// Decay of the filtered gradient in `[0, 1)`. Default 0.9 (facebookresearch/optimizers).
    pub beta1: f64,
    /// Decay of statistics and second moment in `[0, 1]`, 1: sums. Default 1 (facebookresearch/optimizers).
    pub beta2: f64,
    /// Divides the moments by the sum of their weights. Default on (facebookresearch/optimizers).
    pub bias_correction: bool,
    /// Added to the root, positive. Default 1e-8 (facebookresearch/optimizers has 1e-12, below the rounding of f32 gradients).
    pub epsilon: f64,
    /// Decoupled decay, at least 0. Default 0 (facebookresearch/optimizers).
    pub weight_decay: f64,
    /// Steps between two refreshes of a layer's eigenvectors, at least 1. Default 1 (facebookresearch/optimizers).
    pub precondition_every: u64,
    /// First step (counted from 0) with eigenvectors. Default 0 (facebookresearch/optimizers' `start_preconditioning_step` of 1).
    pub start_step: u64,
    /// Largest side with a basis; 0: none has one. Default 1024 (facebookresearch/optimizers' `max_preconditioner_dim`).
    pub max_precondition_dim: usize,
}

impl Default for EigenvalueCorrectedShampoo {
    fn default() -> Self {
        EigenvalueCorrectedShampoo {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 1.0,
            bias_correction: true,
            epsilon: 1e-8,
            weight_decay: 0.0,
            precondition_every: 1,
            start_step: 0,
            max_precondition_dim: 1024,
        }
    }
}

impl Beats for EigenvalueCorrectedShampoo {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("EigenvalueCorrectedShampoo");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("beta1", self.beta1)?;
        check.fraction("beta2", self.beta2)?;
        check.positive("epsilon", self.epsilon)?;
        check.non_negative("weight_decay", self.weight_decay)?;
        check.at_least_one("precondition_every", self.precondition_every)
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::BETA1, self.beta1);
        put(row, block::ONE_MINUS_BETA1, 1.0 - self.beta1);
        put(row, block::BETA2, self.beta2);
        put(row, block::ONE_MINUS_BETA2, if self.beta2 == 1.0 { 1.0 } else { 1.0 - self.beta2 });
        put(row, block::EPSILON, self.epsilon);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
        // The mean is kept, of a sum too: eigenvectors know no scale.
        put(row, block::DECAY, self.beta2);
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((1, self.precondition_every, self.start_step))
    }

    fn refuses_large_norms(&self) -> bool {
        true
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let (left, right) = Side::declare(stack, keep, self.max_precondition_dim)?;
        Ok(State { first: keep.moment(stack, "first_moment")?, second: keep.moment(stack, "second_moment")?, left, right })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        r.record(Advance { block: stack.block, clock: Clock::StatisticsBiasCorrected })?;
        state.accumulate(r, stack, stack.column(block::GATE)?)
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let (items, row, state) = part(stack, state, layers)?;
        let one = row.col_range(block::STATISTICS_WEIGHT as usize..block::STATISTICS_WEIGHT as usize + 1)?;
        let (mut bases, mut all_ok) = (Vec::new(), None);
        for side in state.sides() {
            // Zero statistics are no failure, and change nothing: the outcome's gate is shut for them.
            let damped = r.scratch(format!("{}.damped", stack.name), side.statistics.shape())?;
            r.record(Axpby { gamma: Coef::Const(1e-30), ..Axpby::copy(side.statistics, damped) })?;
            let (_, vectors, ok) = linalg::eigh(r, damped, Order::Ascending)?;
            bases.push(vectors);
            all_ok = Some(both(r, all_ok, ok)?);
        }
        let Some(gate) = outcome(r, stack, &state, row, items, all_ok, one)? else { return Ok(()) };
        for (side, basis) in state.sides().zip(bases) {
            r.record(Axpby { gate: Some(gate), ..Axpby::copy(basis, side.basis) })?;
        }
        Ok(())
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], _preconditioned: bool) -> Result<()> {
        for (stack, state) in stacks {
            let m = self.filtered(r, stack, state)?;
            let (g, m) = (state.project(r, stack.gradient)?, state.project(r, m)?);
            let out = r.scratch(format!("{}.rotated_direction", stack.name), stack.weight.shape())?;
            let corrected = self.bias_correction && self.beta2 < 1.0;
            r.record(GraftDirection { g, m, v: state.second, corrected, out, block: stack.block })?;
            let g = state.restore(r, out)?;
            let decay = stack.decay(DecayForm::Decoupled);
            r.record(SgdUpdate { w: stack.weight, g, m: None, g_scale: None, nesterov: false, decay, block: stack.block })?;
        }
        Ok(())
    }
}

impl EigenvalueCorrectedShampoo {
    /// The running average of the gradient.
    fn filtered(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<Value> {
        let out = if self.bias_correction { Some(r.scratch(format!("{}.filtered", stack.name), stack.weight.shape())?) } else { None };
        let (decay, fresh) = (Coef::column(block::BETA1), Coef::column(block::ONE_MINUS_BETA1));
        let form = MomentumForm::Corrected;
        r.record(Momentum { g: stack.gradient, m: state.first, out, form, decay, fresh, block: stack.block })?;
        Ok(out.unwrap_or(state.first))
    }
}
