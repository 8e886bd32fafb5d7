//! What KFAC makes of its factors: inverses, or eigenpairs.

use std::ops::Range;

use super::{DampingSplit, KfacForm};
use crate::error::Result;
use crate::linalg::{eigh, spd_inverse};
use crate::optim::beats::{Keep, Kind};
use crate::optim::stack::Stack;
use crate::plan::{Axpby, Coef, FactorDamping, Order, Recorder, ReduceKind, RootOutcome, SpectralDivide, Value};
use crate::tensor::Shape;

/// Kept between refreshes; left before right.
pub(super) enum Roots {
    Inverse([Value; 2]),
    Eigen { bases: [Value; 2], spectra: [Value; 2] },
}

impl Roots {
    pub(super) fn declare(form: KfacForm, stack: &Stack, keep: &mut Keep<'_>) -> Result<Roots> {
        let (out, inn) = (stack.weight.rows(), stack.weight.cols());
        let mut squares = |names: [&str; 2]| {
            Ok::<_, crate::Error>([
                keep.square(stack, names[0], out, Kind::Root, true)?,
                keep.square(stack, names[1], inn, Kind::Root, true)?,
            ])
        };
        match form {
            KfacForm::Inverse => Ok(Roots::Inverse(squares(["left_inverse", "right_inverse"])?)),
            KfacForm::Eigen => {
                let bases = squares(["left_basis", "right_basis"])?;
                let spectra = [keep.spectrum(stack, "left_eigenvalues", out)?, keep.spectrum(stack, "right_eigenvalues", inn)?];
                Ok(Roots::Eigen { bases, spectra })
            }
        }
    }

    /// Makes new roots of these items' statistics; an item where that fails keeps its own.
    pub(super) fn refresh(
        &self,
        r: &mut Recorder,
        name: &str,
        block: Value,
        statistics: [Value; 2],
        split: DampingSplit,
        items: Range<usize>,
    ) -> Result<()> {
        let ok = r.scratch(format!("{name}.ok"), Shape::new(items.len(), 1, 1))?;
        let keep = |r: &mut Recorder, new: Value, kept: Value| {
            r.record(Axpby { gate: Some(ok), ..Axpby::copy(new, kept.item_range(items.clone())?) })
        };
        match *self {
            Roots::Inverse(kept) => {
                let damping = damping(r, name, block, statistics, split)?;
                let (left, left_ok) = spd_inverse(r, statistics[0], Coef::column(0), Some(damping))?;
                let (right, right_ok) = spd_inverse(r, statistics[1], Coef::column(1), Some(damping))?;
                r.record(RootOutcome { left_ok, right_ok, ok, block })?;
                keep(r, left, kept[0])?;
                keep(r, right, kept[1])
            }
            Roots::Eigen { bases, spectra } => {
                let (left, left_ok) = eigenpairs(r, statistics[0])?;
                let (right, right_ok) = eigenpairs(r, statistics[1])?;
                r.record(RootOutcome { left_ok, right_ok, ok, block })?;
                for (i, (values, vectors)) in [left, right].into_iter().enumerate() {
                    keep(r, values, spectra[i])?;
                    keep(r, vectors, bases[i])?;
                }
                Ok(())
            }
        }
    }

    /// The preconditioned gradient.
    pub(super) fn direction(&self, r: &mut Recorder, stack: &Stack) -> Result<Value> {
        match *self {
            Roots::Inverse([left, right]) => {
                let half = r.matmul(left, stack.gradient)?;
                r.matmul(half, right)
            }
            Roots::Eigen { bases: [left, right], spectra } => {
                let half = r.matmul(left.t(), stack.gradient)?;
                let x = r.matmul(half, right)?;
                let out = r.scratch(format!("{}.divided", stack.name), x.shape())?;
                r.record(SpectralDivide { x, left: spectra[0], right: spectra[1], block: stack.block, out })?;
                let half = r.matmul(left, out)?;
                r.matmul(half, right.t())
            }
        }
    }
}

/// Both factors' damping, `[items, 1, 2]`.
fn damping(r: &mut Recorder, name: &str, block: Value, [left, right]: [Value; 2], split: DampingSplit) -> Result<Value> {
    let (left_mean, right_mean) = match split {
        DampingSplit::Plain => (None, None),
        DampingSplit::Pi => (
            Some(r.reduce(ReduceKind::Trace, 1.0 / left.rows() as f32, left)?),
            Some(r.reduce(ReduceKind::Trace, 1.0 / right.rows() as f32, right)?),
        ),
    };
    let out = r.scratch(format!("{name}.factor_damping"), Shape::new(block.items(), 1, 2))?;
    r.record(FactorDamping { left_mean, right_mean, block, out })?;
    Ok(out)
}

/// (eigenvalues, eigenvectors) of a factor, and 1 where all of it is finite: unlike for a root, a factor of zeros is as good as any.
fn eigenpairs(r: &mut Recorder, factor: Value) -> Result<((Value, Value), Value)> {
    let (values, vectors, _) = eigh(r, factor, Order::Ascending)?;
    // Jacobi's rotations pass over what is not finite, so that it need not show in the result.
    let (given, found) = (r.reduce(ReduceKind::MaxAbs, 1.0, factor)?, r.reduce(ReduceKind::MaxAbs, 1.0, values)?);
    let above = r.scratch("eigenpairs.above", given.shape())?;
    r.record(Axpby { gamma: Coef::Const(1.0), ..Axpby::add(given, found, above) })?;
    let finite = r.quotient(1.0, Some(above), above, false)?;
    let largest = r.reduce(ReduceKind::MaxAbs, 1.0, vectors)?;
    let whole = r.quotient(1.0, Some(largest), largest, false)?;
    let ok = r.matmul(finite, whole)?;
    Ok(((values, vectors), ok))
}
