//! Operations of orthogonalised momentum: what goes into a polar factor, and what becomes of it.

use super::access::{Access, Operand};
use super::block;
use super::value::{Coef, Value};

/// What [`Momentum`] gives out beside the momentum itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MomentumForm {
    /// Nesterov's look-ahead: `decay m + fresh g` from the new `m`.
    LookAhead,
    /// The average with its bias corrected: `m / (1 - beta1^t)`, 0 where that is not finite.
    Corrected,
}

/// `m <- decay m + fresh g`, and with `out` what is made of the new `m`, in one pass.
///
/// Reads gate and carried weight from the block. Items behind a closed gate are left alone, `out` too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Momentum {
    /// Gradient, `[m, n]`.
    pub g: Value,
    /// Momentum buffer, `[m, n]`, updated in place.
    pub m: Value,
    /// By `form`, `[m, n]`.
    pub out: Option<Value>,
    /// What `out` is.
    pub form: MomentumForm,
    /// Factor of the momentum.
    pub decay: Coef,
    /// Factor of the gradient.
    pub fresh: Coef,
    /// The stack's block.
    pub block: Value,
}

/// `out = x / (margin (|x| + epsilon))` with the Frobenius norm: what a Newton-Schulz iteration starts from.
///
/// The norm is that of `x` divided by its largest element, so that no square over- or underflows. Zero where `x` is zero. Of an item that is not finite no
/// element is finite and positive: NaN and infinite ones become NaN, the others 0. On a GPU one workgroup reads an item three times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// `[m, n]`.
    pub x: Value,
    /// `[m, n]`.
    pub out: Value,
    /// Factor of the norm, positive.
    pub margin: f32,
    /// Added to the norm, at least 0.
    pub epsilon: f32,
}

/// Whether a direction is to be taken: `scale = factor`, 0 where `size` (the largest magnitude in it) is not finite or above 1e18.
///
/// A row of the block may have several directions, one a head, neighbours in `size`; where one of them fails and the gate is open, the row's count of failed
/// roots goes up by 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolarOutcome {
    /// Largest magnitude, `[batch * heads, 1, 1]`.
    pub size: Value,
    /// Factor of the direction, `[batch * heads, 1, 1]`.
    pub scale: Value,
    /// 1 where the direction is taken and the gate is open, otherwise 0; `[batch * heads, 1, 1]`.
    pub ok: Value,
    /// Factor of directions that are taken.
    pub factor: f32,
    /// The stack's block, updated in place.
    pub block: Value,
}

/// The wanted (rows, cols) of operands, by name.
type Wanted = Vec<(&'static str, usize, usize)>;
/// A refusal: (operand, expected, found).
type Refused = Result<(), (&'static str, String, String)>;

impl Momentum {
    pub(super) fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Update, Write};
        let mut list = vec![("g", self.g, Read), ("block", self.block, Read), ("m", self.m, Update)];
        list.extend(self.out.map(|out| ("out", out, Write)));
        list
    }

    pub(super) fn wanted(&self) -> Wanted {
        let (m, n) = (self.m.rows, self.m.cols);
        vec![("g", m, n), ("out", m, n), ("block", 1, block::WIDTH)]
    }
}

impl Normalise {
    pub(super) fn operands(&self) -> Vec<Operand> {
        vec![("x", self.x, Access::Read), ("out", self.out, Access::Write)]
    }

    pub(super) fn wanted(&self) -> Wanted {
        vec![("x", self.out.rows, self.out.cols)]
    }

    pub(super) fn check(&self) -> Refused {
        if !(self.margin > 0.0 && self.margin.is_finite()) {
            return Err(("margin", "a positive number".into(), self.margin.to_string()));
        }
        if !(self.epsilon >= 0.0 && self.epsilon.is_finite()) {
            return Err(("epsilon", "a number of at least 0".into(), self.epsilon.to_string()));
        }
        Ok(())
    }
}

impl PolarOutcome {
    pub(super) fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Update, Write};
        vec![("size", self.size, Read), ("scale", self.scale, Write), ("ok", self.ok, Write), ("block", self.block, Update)]
    }

    pub(super) fn wanted(&self) -> Wanted {
        vec![("size", 1, 1), ("scale", 1, 1), ("ok", 1, 1), ("block", 1, block::WIDTH)]
    }

    /// True if an operand holds whole rows of heads, the same number in all of them.
    pub(super) fn fits(&self, value: Value) -> bool {
        value.items.is_multiple_of(self.block.items) && value.items == self.size.items && !value.repeated
    }

    pub(super) fn check(&self) -> Refused {
        if self.factor.is_finite() { Ok(()) } else { Err(("factor", "a finite number".into(), self.factor.to_string())) }
    }
}
