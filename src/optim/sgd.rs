//! Stochastic gradient descent.

use super::beats::{Beats, Keep};
use super::config::{Check, Row, put};
use super::stack::Stack;
use crate::error::Result;
use crate::plan::{DecayForm, Recorder, SgdUpdate, Value, block};

/// Stochastic gradient descent with momentum, dampening, Nesterov's form and L2 decay: PyTorch's `torch.optim.SGD`, step for step.
///
/// With the gradient `G` of a weight `W` at step `t = 1, 2, ...`:
/// ```text
/// G <- G + weight_decay W
/// B <- G                                      at t = 1 (dampening is not applied there)
/// B <- momentum B + (1 - dampening) G         at t > 1
/// W <- W - learning_rate (G + momentum B)     nesterov
/// W <- W - learning_rate B                    otherwise
/// ```
/// State: one tensor of the weight's size, none without momentum.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Sgd {
    /// Learning rate, at least 0. Default 1e-3 (PyTorch).
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0 (PyTorch).
    pub momentum: f64,
    /// Dampening in `[0, 1]`. Default 0 (PyTorch).
    pub dampening: f64,
    /// Nesterov's look-ahead form; needs momentum and no dampening, as in PyTorch. Default off (PyTorch).
    pub nesterov: bool,
    /// L2 decay, at least 0, added to the gradient. Default 0 (PyTorch).
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { learning_rate: 1e-3, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

impl Beats for Sgd {
    type State = Option<Value>;

    fn validate(&self) -> Result<()> {
        let check = Check("Sgd");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.fraction("dampening", self.dampening)?;
        check.non_negative("weight_decay", self.weight_decay)?;
        let plain = self.momentum > 0.0 && self.dampening == 0.0;
        let found = format!("true with momentum {} and dampening {}", self.momentum, self.dampening);
        check.that("nesterov", !self.nesterov || plain, found, "true only with momentum > 0 and dampening 0")
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::MOMENTUM, self.momentum);
        put(row, block::DAMPENING, self.dampening);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<Option<Value>> {
        if self.momentum == 0.0 { Ok(None) } else { keep.moment(stack, "momentum").map(Some) }
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, Option<Value>)], _preconditioned: bool) -> Result<()> {
        for (stack, momentum) in stacks {
            r.record(SgdUpdate {
                w: stack.weight,
                g: stack.gradient,
                m: *momentum,
                g_scale: None,
                nesterov: self.nesterov,
                decay: stack.decay(DecayForm::Gradient),
                block: stack.block,
            })?;
        }
        Ok(())
    }
}
