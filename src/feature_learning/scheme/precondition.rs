//! Inverses of second moments, kept from refresh to refresh.

use super::{Initial, Keep};
use crate::error::Result;
use crate::linalg::spd_inverse;
use crate::plan::{Axpby, Coef, KronFactor, Recorder, Value};
use crate::tensor::Shape;

/// One factor: `(second moment + damping I)^{-1}`, of the batch or of a running average over batches.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    /// Zero until the first factorization succeeds: a trial makes no step before.
    pub(super) root: Value,
    damping: f32,
    memory: Option<Memory>,
}

/// A running average with the weight of what it holds.
#[derive(Clone, Debug)]
struct Memory {
    average: Value,
    /// `[items, 1, 1]`: 0 before the first batch, `decay` after it.
    weight: Value,
    decay: f32,
}

impl Factor {
    pub(super) fn declare(keep: &mut Keep<'_>, name: &str, shape: Shape, damping: f32, decay: f32) -> Result<Self> {
        let root = keep.declare(&format!("{name}_root"), shape, Initial::Zeros)?;
        let memory = if decay == 0.0 {
            None
        } else {
            let average = keep.declare(&format!("{name}_average"), shape, Initial::Zeros)?;
            let weight = keep.declare(&format!("{name}_weight"), Shape::new(shape.batch, 1, 1), Initial::Zeros)?;
            Some(Memory { average, weight, decay })
        };
        Ok(Factor { root, damping, memory })
    }

    /// Takes `scale / n samples^T samples` in and, with `refresh`, makes the inverse anew; an item whose factorization fails keeps its old one. Returns whether
    /// it succeeded, where it was tried.
    pub(super) fn update(&self, r: &mut Recorder, samples: Value, scale: f32, refresh: bool) -> Result<Option<Value>> {
        let moment = match &self.memory {
            None if !refresh => return Ok(None),
            None => {
                let out = r.scratch("moment", self.root.shape())?;
                r.record(KronFactor { scale, ..KronFactor::new(samples, out) })?;
                out
            }
            Some(memory) => {
                let (out, decay) = (memory.average, Coef::column(0));
                r.record(KronFactor { scale, decay, block: Some(memory.weight), ..KronFactor::new(samples, out) })?;
                let (beta, gamma) = (Coef::Const(0.0), Coef::Const(memory.decay));
                r.record(Axpby { x: None, y: Some(memory.weight), beta, gamma, ..Axpby::copy(memory.weight, memory.weight) })?;
                if !refresh {
                    return Ok(None);
                }
                out
            }
        };
        let (inverse, ok) = spd_inverse(r, moment, self.damping, None)?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(inverse, self.root) })?;
        Ok(Some(ok))
    }
}
