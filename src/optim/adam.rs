//! Adam and `AdamW`.

use super::beats::{Beats, Keep};
use super::config::{Check, Row, put};
use super::stack::Stack;
use crate::error::Result;
use crate::plan::{AdamUpdate, DecayForm, Recorder, Value, block};

/// Adam (Kingma, Ba 2015) with L2 decay: PyTorch's `torch.optim.Adam`, step for step.
///
/// ```text
/// G <- G + weight_decay W
/// m <- beta1 m + (1 - beta1) G
/// v <- beta2 v + (1 - beta2) G * G
/// W <- W - learning_rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// ```
/// With `amsgrad`, `v` in the last line is the largest `v` so far. With `nesterov`, the last line's `m / (1 - beta1^t)` is
/// `beta1 m / (1 - beta1^(t+1)) + (1 - beta1) G / (1 - beta1^t)`: optax's `nadam`.
///
/// `1 - beta` is formed in f64, `1 - beta^t` by the recurrence `w <- beta w + (1 - beta)`. State: two tensors of the weight's size, three with `amsgrad`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Adam {
    /// Learning rate, at least 0. Default 1e-3 (the paper, PyTorch).
    pub learning_rate: f64,
    /// Decay of the first moment in `[0, 1)`. Default 0.9 (the paper, PyTorch).
    pub beta1: f64,
    /// Decay of the second moment in `[0, 1)`. Default 0.999 (the paper, PyTorch).
    pub beta2: f64,
    /// Added to the bias-corrected root, positive. Default 1e-8 (the paper, PyTorch).
    pub epsilon: f64,
    /// L2 decay, at least 0, added to the gradient. Default 0 (PyTorch).
    pub weight_decay: f64,
    /// `AMSGrad` (Reddi, Kale, Kumar 2018): divides by the running maximum of `v`, corrected afterwards, as PyTorch does. Default off (PyTorch).
    pub amsgrad: bool,
    /// `NAdam`'s look-ahead (Dozat 2016) in optax's form. Default off (PyTorch).
    pub nesterov: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, amsgrad: false, nesterov: false }
    }
}

/// Adam with decoupled decay (Loshchilov, Hutter 2019): PyTorch's `torch.optim.AdamW`, step for step.
///
/// `W <- (1 - learning_rate weight_decay) W`, with the scheduled rate, then [`Adam`] without L2 decay.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct AdamW {
    /// Learning rate, at least 0. Default 1e-3 (PyTorch).
    pub learning_rate: f64,
    /// Decay of the first moment in `[0, 1)`. Default 0.9 (PyTorch).
    pub beta1: f64,
    /// Decay of the second moment in `[0, 1)`. Default 0.999 (PyTorch).
    pub beta2: f64,
    /// Added to the bias-corrected root, positive. Default 1e-8 (PyTorch).
    pub epsilon: f64,
    /// Decoupled decay, at least 0. Default 0.01 (PyTorch).
    pub weight_decay: f64,
    /// `AMSGrad`, as in [`Adam`]. Default off (PyTorch).
    pub amsgrad: bool,
    /// `NAdam`'s look-ahead, as in [`Adam`]: optax's `nadamw`. Default off (PyTorch).
    pub nesterov: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, amsgrad: false, nesterov: false }
    }
}

/// First moment, second moment, its maximum.
type Moments = (Value, Value, Option<Value>);

macro_rules! beats {
    ($name:ident, $form:ident) => {
        impl Beats for $name {
            type State = Moments;

            fn validate(&self) -> Result<()> {
                let check = Check(stringify!($name));
                check.non_negative("learning_rate", self.learning_rate)?;
                check.decay("beta1", self.beta1)?;
                check.decay("beta2", self.beta2)?;
                check.positive("epsilon", self.epsilon)?;
                check.non_negative("weight_decay", self.weight_decay)
            }

            fn fill(&self, row: &mut Row) {
                put(row, block::LEARNING_RATE, self.learning_rate);
                put(row, block::BETA1, self.beta1);
                put(row, block::ONE_MINUS_BETA1, 1.0 - self.beta1);
                put(row, block::BETA2, self.beta2);
                put(row, block::ONE_MINUS_BETA2, 1.0 - self.beta2);
                put(row, block::EPSILON, self.epsilon);
                put(row, block::WEIGHT_DECAY, self.weight_decay);
            }

            fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<Moments> {
                let largest = if self.amsgrad { Some(keep.moment(stack, "second_moment_maximum")?) } else { None };
                Ok((keep.moment(stack, "first_moment")?, keep.moment(stack, "second_moment")?, largest))
            }

            fn apply(&self, r: &mut Recorder, stacks: &[(Stack, Moments)], _preconditioned: bool) -> Result<()> {
                for (stack, (m, v, v_max)) in stacks {
                    r.record(AdamUpdate {
                        w: stack.weight,
                        g: stack.gradient,
                        m: *m,
                        v: *v,
                        v_max: *v_max,
                        nesterov: self.nesterov,
                        decay: stack.decay(DecayForm::$form),
                        block: stack.block,
                    })?;
                }
                Ok(())
            }
        }
    };
}
beats!(Adam, Gradient);
beats!(AdamW, Decoupled);
