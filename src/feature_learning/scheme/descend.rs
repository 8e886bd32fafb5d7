//! Alternating minimisation and descent: the head by least squares, `G` by one normalised step.

use super::precondition::Factor;
use super::{Damping, Keep, book, least_squares_head};
use crate::error::Result;
use crate::feature_learning::method::Method;
use crate::feature_learning::two_layer::{Batch, TwoLayer};
use crate::linalg::orthonormalise;
use crate::plan::block::CURRENT_RATE;
use crate::plan::{Advance, Axpby, Clock, Coef, Recorder, Value};
use crate::tensor::Shape;

/// [`Method::Amgd`], [`Method::AmgdSplit`], [`Method::Dfw`] and [`Method::KfacLs`].
#[derive(Clone, Debug)]
pub(super) struct Descend {
    pub(super) block: Value,
    /// Head and gradient see different halves of the batch.
    split: bool,
    left: Option<Factor>,
    right: Option<Factor>,
}

impl Descend {
    pub(super) fn declare(keep: &mut Keep<'_>, method: Method, damping: Damping) -> Result<Self> {
        let (sizes, block) = (keep.sizes, keep.block("block")?);
        let mut factor = |wanted: bool, name: &str, shape: Shape, damping: f32, decay: f32| {
            if wanted { Factor::declare(keep, name, shape, damping, decay).map(Some) } else { Ok(None) }
        };
        Ok(Descend {
            block,
            split: matches!(method, Method::AmgdSplit | Method::Dfw),
            left: factor(method == Method::KfacLs, "left", Shape::new(sizes.trials(), sizes.k, sizes.k), damping.hidden, 0.0)?,
            right: factor(
                matches!(method, Method::KfacLs | Method::Dfw),
                "right",
                Shape::new(sizes.data, sizes.d_x, sizes.d_x),
                damping.inputs,
                damping.decay,
            )?,
        })
    }

    pub(super) fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch, refresh: bool) -> Result<()> {
        let half = batch.samples() / 2;
        if self.split {
            let (fit, descend) = (batch.rows(0, half)?, batch.rows(half, batch.samples())?);
            return self.halves(r, model, &fit, &descend, refresh);
        }
        self.halves(r, model, batch, batch, refresh)
    }

    /// Head on one batch, `G` on the other.
    fn halves(&self, r: &mut Recorder, model: &TwoLayer, fit: &Batch, descend: &Batch, refresh: bool) -> Result<()> {
        let z = model.hidden(r, model.g, fit.x)?;
        let (head, head_ok) = least_squares_head(r, model, z, fit.y)?;
        r.record(Axpby { gate: Some(head_ok), ..Axpby::copy(head, model.f) })?;
        let z = if fit == descend { z } else { model.hidden(r, model.g, descend.x)? };
        let residual = model.residual(r, z, descend.y)?;
        let mut direction = model.gradient_g(r, residual, descend.x)?;
        let mut factors_ok = [None, None];
        if let Some(right) = &self.right {
            factors_ok[0] = right.update(r, descend.x, 1.0, refresh)?.map(|ok| model.shared(ok)).transpose()?;
            direction = model.times_shared(r, direction, right.root, Coef::Const(1.0))?;
        }
        if let Some(left) = &self.left {
            #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
            let outputs = model.f.rows() as f32;
            factors_ok[1] = left.update(r, model.f, outputs, refresh)?;
            direction = r.matmul(left.root, direction)?;
        }
        r.record(Advance { block: self.block, clock: Clock::Step })?;
        let moved = r.scratch("moved", model.g.shape())?;
        let rate = Coef::Column { column: CURRENT_RATE, scale: -1.0 };
        r.record(Axpby { alpha: rate, block: Some(self.block), ..Axpby::add(direction, model.g, moved) })?;
        let (normalised, ok) = orthonormalise(r, moved)?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(normalised, model.g) })?;
        for factor_ok in factors_ok.into_iter().flatten() {
            book(r, factor_ok, factor_ok, self.block)?;
        }
        book(r, head_ok, ok, self.block)
    }
}
