//! Levenberg-Marquardt adaptation of the damping, on the device.

use super::State;
use super::clip::Slots;
use crate::error::Result;
use crate::optim::config::{Check, narrow};
use crate::optim::stack::Stack;
use crate::plan::block::CURRENT_RATE;
use crate::plan::{Axpby, Coef, ControlStage, DampingControl, Recorder, Reduce, ReduceKind, Value};

/// Levenberg-Marquardt damping (Martens, Grosse 2015, section 6.5) by kfac-jax's rule, on the device, without a readback.
///
/// A step `D = W_new - W_old` is held against a quadratic model of the loss:
/// ```text
/// predicted = sum over layers of <G, D> + <L D R, D> / 2        L, R: the undamped running averages that the step was made with
/// rho = (loss after the step - loss before it) / predicted
/// rho < 1/4: damping <- damping / omega;   rho > 3/4: damping <- damping omega;   least <= damping <= 1e10
/// ```
/// A loss that is not finite raises the damping. Each trial has its own losses and damping; layers of a trial share them. Momentum and decay are in `D`.
///
/// **What to call**: [`Optimizer::observe_loss`](crate::optim::Optimizer::observe_loss) with the loss on the *same* batch before and after a step.
/// At a step without a due adaptation (all but every `every`-th) both calls may be left out. On the full batch, one call between any two steps is enough,
/// since the loss after a step is that before the next. Two losses count as a pair if exactly one step lies between them, so that calls left out do no harm.
///
/// The model is that of the mean loss, so the factors have to be the curvature's: [`OutputGradients::PerSample`](super::OutputGradients::PerSample), or
/// exact factors as [`Taps::Factors`](crate::optim::Taps::Factors). Factors that are too small make the model optimistic and the damping grow.
///
/// Deviations from kfac-jax: its model uses the exact curvature on the batch, this one the Kronecker-factored running averages, which are there already (they
/// agree where the Kronecker product is exact and the averages have settled); the damping is bounded by 1e10; a prediction of 0 (no gradient, or one that was
/// refused) adapts nothing, where kfac-jax counts 0 / 0 as -100 and raises the damping.
///
/// Cost: two products of the update's size and four reductions a step; a dispatch an observation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct LevenbergMarquardt {
    /// Factor, in `(0, 1)`. Default `0.9^5` (kfac-jax: 0.9 a step).
    pub omega: f64,
    /// Steps between two adaptations, at least 1. Default 5 (kfac-jax).
    pub every: u32,
    /// Smallest damping, positive. Default 1e-8 (kfac-jax).
    pub least: f64,
}

impl Default for LevenbergMarquardt {
    fn default() -> Self {
        LevenbergMarquardt { omega: 0.59049, every: 5, least: 1e-8 }
    }
}

impl LevenbergMarquardt {
    pub(super) fn validate(&self, damping: f64) -> Result<()> {
        let check = Check("LevenbergMarquardt");
        check.positive("omega", self.omega)?;
        check.decay("omega", self.omega)?;
        check.that("every", (1..=1 << 24).contains(&self.every), self.every, "1 to 2^24")?;
        check.positive("least", self.least)?;
        Check("Kfac").positive("damping", damping)
    }

    /// Keeps what the model says about the step just made.
    pub(super) fn predict(&self, r: &mut Recorder, stacks: &[(Stack, State)]) -> Result<()> {
        let items: usize = stacks.iter().map(|(stack, _)| stack.items()).sum();
        let terms = Slots::new(r, "model", 2 * items)?;
        let mut first = 0;
        for (stack, state) in stacks {
            let Some(momentum) = state.momentum else { continue };
            // The opposite of the step.
            let step = r.scratch(format!("{}.step", stack.name), momentum.shape())?;
            r.record(Axpby { alpha: Coef::column(CURRENT_RATE), block: Some(stack.block), ..Axpby::copy(momentum, step) })?;
            let half = r.matmul(state.left_statistics, step)?;
            let curved = r.matmul(half, state.right_statistics)?;
            let dot = |y: Value, scale: f32| Reduce { kind: ReduceKind::Dot, x: step, y: Some(y), out: terms.raw, scale };
            terms.fill(r, stack, first, dot(stack.gradient, -1.0))?;
            terms.fill(r, stack, first + items, dot(curved, 0.5))?;
            first += stack.items();
        }
        control(r, stacks, ControlStage::Predict { interval: self.every }, terms.sums)
    }

    /// Compares an observed loss with the prediction.
    pub(super) fn observe(&self, r: &mut Recorder, stacks: &[(Stack, State)], loss: Value) -> Result<()> {
        control(r, stacks, ControlStage::Observe { omega: narrow(self.omega), least: narrow(self.least) }, loss)
    }
}

fn control(r: &mut Recorder, stacks: &[(Stack, State)], stage: ControlStage, x: Value) -> Result<()> {
    stacks.iter().try_for_each(|(stack, _)| r.record(DampingControl { stage, x, trials: stack.trials, block: stack.block }))
}
