//! Grafting: one method's direction, another's step length.

use super::beats::Keep;
use super::config::{Check, Row, put};
use super::stack::Stack;
use crate::error::Result;
use crate::plan::{GraftDirection, GraftScale, NormRatio, Recorder, ReduceKind, Value, block};
use crate::tensor::Shape;

/// Whose step length a [`Shampoo`](super::Shampoo) update takes, by block: `P <- P |D| / (|P| + 1e-16)`, with `D` from the filtered gradient `F` and the
/// gradient `G`. Norms below 1e-19 count as 0: such a block does not move.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Graft {
    /// Its own.
    None,
    /// `D = F`.
    Sgd,
    /// `V <- V + G^2`, `D = F / (sqrt(V) + epsilon)`.
    Adagrad {
        /// Positive; 1e-10 in facebookresearch/optimizers.
        epsilon: f64,
    },
    /// `V <- beta2 V + (1 - beta2) G^2`, `D = F / (sqrt(V) + epsilon)`.
    RmsProp {
        /// In `[0, 1)`; 0.99 in facebookresearch/optimizers.
        beta2: f64,
        /// Positive; 1e-8 in facebookresearch/optimizers.
        epsilon: f64,
    },
    /// `V <- beta2 V + (1 - beta2) G^2`, `D = F / (sqrt(V / (1 - beta2^t)) + epsilon)`.
    Adam {
        /// In `[0, 1)`; 0.999 in facebookresearch/optimizers.
        beta2: f64,
        /// Positive; 1e-8 in facebookresearch/optimizers.
        epsilon: f64,
    },
}

/// Elements of a tensor that one workgroup reads for both norms at once; larger ones are reduced by many.
const WHOLE: usize = 1 << 16;

impl Graft {
    /// (beta2, the new term's weight, epsilon) of the second moment.
    fn moment(self) -> Option<(f64, f64, f64)> {
        match self {
            Graft::None | Graft::Sgd => None,
            Graft::Adagrad { epsilon } => Some((1.0, 1.0, epsilon)),
            Graft::RmsProp { beta2, epsilon } | Graft::Adam { beta2, epsilon } => Some((beta2, 1.0 - beta2, epsilon)),
        }
    }

    pub(super) fn validate(self, check: &Check) -> Result<()> {
        if let Graft::RmsProp { beta2, .. } | Graft::Adam { beta2, .. } = self {
            check.decay("graft.beta2", beta2)?;
        }
        self.moment().map_or(Ok(()), |(.., epsilon)| check.positive("graft.epsilon", epsilon))
    }

    pub(super) fn fill(self, row: &mut Row) {
        if let Some((beta2, new, epsilon)) = self.moment() {
            put(row, block::BETA2, beta2);
            put(row, block::ONE_MINUS_BETA2, new);
            put(row, block::EPSILON, epsilon);
        }
    }

    pub(super) fn declare(self, stack: &Stack, keep: &mut Keep<'_>) -> Result<Option<Value>> {
        self.moment().map(|_| keep.moment(stack, "second_moment")).transpose()
    }

    /// The direction `D`; without a second moment the filtered gradient itself.
    pub(super) fn direction(self, r: &mut Recorder, stack: &Stack, g: Value, m: Value, second: Option<Value>) -> Result<Value> {
        let Some(v) = second else { return Ok(m) };
        let out = r.scratch(format!("{}.graft", stack.name), stack.weight.shape())?;
        r.record(GraftDirection { g, m, v, corrected: matches!(self, Graft::Adam { .. }), out, block: stack.block })?;
        Ok(out)
    }

    /// What `direction` is multiplied by, `[items, 1, 1]`: takes it to the norm of `donor`; 0 refuses a direction that overflowed.
    pub(super) fn scale(self, r: &mut Recorder, direction: Value, donor: Value) -> Result<Value> {
        let donor = if self == Graft::None { None } else { Some(donor) };
        let out = r.scratch("norm_ratio", Shape::new(direction.items(), 1, 1))?;
        if direction.rows() * direction.cols() <= WHOLE {
            r.record(GraftScale { x: direction, donor, out })?;
            return Ok(out);
        }
        let own = r.reduce(ReduceKind::SumSq, 1.0, direction)?;
        let donor = donor.map(|donor| r.reduce(ReduceKind::SumSq, 1.0, donor)).transpose()?;
        r.record(NormRatio { donor, own, out })?;
        Ok(out)
    }
}
