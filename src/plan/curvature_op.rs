//! Operations of curvature-based methods: directions in an eigenbasis, dropped directions, damping that adapts.

use super::value::Value;

/// `out[r, c] = x[r, c] / (max(left[r], 0) max(right[c], 0) + damping)`, 0 where the denominator is not positive and finite.
///
/// `x` is a gradient in the eigenbases of two Kronecker factors with these eigenvalues, so this is the damped inverse of their Kronecker product. The damping is
/// the block's, times its ridge multiplier and its adaptation factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpectralDivide {
    /// `[m, n]`.
    pub x: Value,
    /// Eigenvalues of the left factor, `[1, m]`.
    pub left: Value,
    /// Eigenvalues of the right factor, `[1, n]`.
    pub right: Value,
    /// The stack's block (damping, ridge and adaptation columns).
    pub block: Value,
    /// `[m, n]`.
    pub out: Value,
}

/// Counts dropped directions: the block's count goes up by 1 where the gate is open and the direction's factor is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DirectionOutcome {
    /// What the direction was multiplied by, `[batch, 1, 1]`.
    pub factor: Value,
    /// The stack's block, updated in place.
    pub block: Value,
}

/// What [`DampingControl`] does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ControlStage {
    /// After a step: `x` holds the terms of the change that the quadratic model predicts, `[terms * trials, 1, 1]`, term outer; their sum is kept, 0 where it is
    /// not finite. Moves the clock of the adaptation, which strikes every `interval` steps.
    Predict {
        /// Steps between two adaptations.
        interval: u32,
    },
    /// A loss was observed, `x` is `[trials, 1, 1]`: where the last one was taken exactly one step ago, and the clock has struck,
    /// `rho = (loss - last) / predicted`; the damping is divided by `omega` where `rho < 1/4` or the loss is not finite, multiplied where `rho > 3/4`, and stays
    /// between `least` and 1e10. A prediction of 0 adapts nothing.
    Observe {
        /// Factor in `(0, 1)`.
        omega: f32,
        /// Smallest damping.
        least: f32,
    },
}

/// Levenberg-Marquardt damping on the device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DampingControl {
    /// What to do.
    pub stage: ControlStage,
    /// What was measured; item `b` of the block reads trial `b % trials`.
    pub x: Value,
    /// Trials, a divisor of the items.
    pub trials: usize,
    /// The stack's block, updated in place.
    pub block: Value,
}

impl DampingControl {
    /// True if `x` holds whole rows of trials: one for a loss.
    pub(crate) fn fits(&self, x: Value) -> bool {
        let rows = match self.stage {
            ControlStage::Predict { .. } => x.items.is_multiple_of(self.trials.max(1)),
            ControlStage::Observe { .. } => x.items == self.trials,
        };
        rows && !x.repeated
    }
}
