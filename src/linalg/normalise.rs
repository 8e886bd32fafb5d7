//! What matrix functions share: scaling by a power of two, the largest eigenvalue, and the health flag.

use crate::error::{Error, Result};
use crate::plan::control::{self, ACTIVE, NORMAL, OK, SCALE};
use crate::plan::{Axpby, Coef, Gemm, IterationControl, KronFactor, OPERATOR_NORM_MAX, Recorder, Reduce, ReduceKind, Stage, Value};
use crate::tensor::Shape;

/// Squarings that bound the search for the largest eigenvalue: the power `2^20` separates eigenvalues down to f32's rounding.
const SQUARINGS: usize = 20;

/// A ridge as the control operations take it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ridge {
    pub(super) coef: Coef,
    pub(super) relative: bool,
    pub(super) block: Option<Value>,
}

impl Ridge {
    pub(super) fn control(&self, stage: Stage, p: u32, x: Value, control: Value) -> IterationControl {
        IterationControl { stage, p, x, ridge: self.coef, relative: self.relative, block: self.block, control }
    }
}

/// The gate view of a control column.
pub(super) fn column(control: Value, column: u32) -> Result<Value> {
    control.col_range(column as usize..column as usize + 1)
}

/// The symmetric part of `a` times a power of two that brings it near 1, and its row of control scalars.
pub(super) fn normalise(r: &mut Recorder, a: Value, p: u32, ridge: &Ridge) -> Result<(Value, Value)> {
    if a.rows() != a.cols() {
        let found = format!("[{}, {}] items", a.rows(), a.cols());
        return Err(Error::Shape { op: "matrix function", tensor: "a".into(), expected: "square items".into(), found });
    }
    let batch = Recorder::batch_of(&[a]);
    let control = r.scratch("control", Shape::new(batch, 1, control::WIDTH))?;
    let size = r.reduce(ReduceKind::MaxAbs, 1.0, a)?;
    r.record(ridge.control(Stage::Normalise, p, size, control))?;
    let scaled = r.scratch("normalised", Shape::new(batch, a.rows(), a.cols()))?;
    let half = Coef::Column { column: NORMAL, scale: 0.5 };
    r.record(Axpby { alpha: half, beta: half, block: Some(control), ..Axpby::add(a, a.t(), scaled) })?;
    Ok((scaled, control))
}

/// Largest eigenvalue of positive semidefinite items with elements near 1, `[batch, 1, 1]`. Leaves the control row's `ACTIVE`, `MEASURE` and `SCALE` used.
pub(super) fn largest_eigenvalue(r: &mut Recorder, a: Value, control: Value) -> Result<Value> {
    if a.rows() <= OPERATOR_NORM_MAX {
        return r.operator_norm(a);
    }
    let none = Ridge { coef: Coef::Const(0.0), relative: true, block: None };
    let trace = r.reduce(ReduceKind::Trace, 1.0, a)?;
    let scale = r.quotient(1.0, None, trace, false)?;
    let shape = Shape::new(a.items(), a.rows(), a.cols());
    let [power, square, change] = ["power", "square", "change"].map(|name| r.scratch(name, shape));
    let (power, square, change) = (power?, square?, change?);
    r.record(Axpby { alpha: Coef::column(0), block: Some(scale), ..Axpby::copy(a, power) })?;
    let sum = r.scratch("sum", Shape::new(a.items(), 1, 1))?;
    let sum_of = |x: Value| Reduce { kind: ReduceKind::SumSq, x, y: None, out: sum, scale: 1.0 };
    let gate = Some(column(control, ACTIVE)?);
    for _ in 0..SQUARINGS {
        r.reduce_into(sum_of(power))?;
        r.record(none.control(Stage::Square, 1, sum, control))?;
        r.record(Gemm { alpha: Coef::column(SCALE), block: Some(control), gate: Some(ACTIVE), ..Gemm::new(power, power, square) })?;
        r.record(Axpby { beta: Coef::Const(-1.0), gate, ..Axpby::add(square, power, change) })?;
        r.reduce_into(sum_of(change))?;
        r.record(none.control(Stage::Settle, 1, sum, control))?;
        r.record(Axpby { gate, ..Axpby::copy(square, power) })?;
    }
    // Rayleigh's quotient of the dominant subspace: exact to second order in what other eigenvectors are left.
    let (top, weight) = (r.dot(power, a)?, r.reduce(ReduceKind::Trace, 1.0, power)?);
    r.quotient(1.0, Some(top), weight, false)
}

/// Columns nearer to orthonormal by one Newton-Schulz step, which squares their defect: rotations in f32 leave 1e-6, this leaves a few roundings.
pub(super) fn reorthogonalise(r: &mut Recorder, v: Value) -> Result<Value> {
    let n = v.rows();
    let shape = Shape::new(v.items(), n, n);
    let [gram, step, out] = ["gram", "step", "vectors"].map(|name| r.scratch(name, shape));
    let (gram, step, out) = (gram?, step?, out?);
    r.record(KronFactor { scale: n as f32, ..KronFactor::new(v, gram) })?;
    r.record(Axpby { alpha: Coef::Const(-0.5), gamma: Coef::Const(1.5), ..Axpby::copy(gram, step) })?;
    r.record(Gemm::new(v, step, out))?;
    Ok(out)
}

/// Closes an iteration: 1 where all went well, `[batch, 1, 1]`.
pub(super) fn finish(r: &mut Recorder, control: Value, result: Value, limit: f32) -> Result<Value> {
    let none = Ridge { coef: Coef::Const(0.0), relative: true, block: None };
    let size = r.reduce(ReduceKind::MaxAbs, 1.0, result)?;
    r.record(none.control(Stage::Finish { limit }, 1, size, control))?;
    let ok = r.scratch("ok", Shape::new(control.items(), 1, 1))?;
    r.copy(column(control, OK)?, ok)?;
    Ok(ok)
}
