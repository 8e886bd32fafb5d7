//! The alternating preconditioned scheme: `G` with the old `F`, then `F` with the new `G`.

use super::precondition::Factor;
use super::{Damping, Keep, book, step};
use crate::error::Result;
use crate::feature_learning::method::Method;
use crate::feature_learning::two_layer::{Batch, TwoLayer};
use crate::plan::{Coef, Recorder, Value};
use crate::tensor::Shape;

/// [`Method::Kfac`], [`Method::KfacEmpirical`] and [`Method::Foof`].
#[derive(Clone, Debug)]
pub(super) struct Alternate {
    /// Of `G`.
    pub(super) block: Value,
    /// Of `F`.
    pub(super) head_block: Value,
    left: Option<Factor>,
    /// The left factor is that of the residuals.
    empirical: bool,
    right: Factor,
    head: Factor,
}

impl Alternate {
    pub(super) fn declare(keep: &mut Keep<'_>, method: Method, damping: Damping) -> Result<Self> {
        let sizes = keep.sizes;
        let (block, head_block) = (keep.block("block")?, keep.block("head_block")?);
        let square = Shape::new(sizes.trials(), sizes.k, sizes.k);
        let empirical = method == Method::KfacEmpirical;
        // F^T F is of the weights alone and needs no average.
        let decay = if empirical { damping.decay } else { 0.0 };
        let left = if method == Method::Foof { None } else { Some(Factor::declare(keep, "left", square, damping.hidden, decay)?) };
        let right = Factor::declare(keep, "right", Shape::new(sizes.data, sizes.d_x, sizes.d_x), damping.inputs, damping.decay)?;
        let head = Factor::declare(keep, "head", square, damping.hidden, damping.decay)?;
        Ok(Alternate { block, head_block, left, empirical, right, head })
    }

    pub(super) fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch, refresh: bool) -> Result<()> {
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let gradient = model.gradient_g(r, residual, batch.x)?;
        // Of the data alone: one inverse serves all learning rates.
        let right_ok = self.right.update(r, batch.x, 1.0, refresh)?;
        let mut left_ok = None;
        let mut direction = model.times_shared(r, gradient, self.right.root, Coef::Const(1.0))?;
        if let Some(left) = &self.left {
            if self.empirical {
                let back = r.matmul(residual, model.f)?;
                left_ok = left.update(r, back, 1.0, refresh)?;
            } else {
                #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
                let outputs = model.f.rows() as f32;
                left_ok = left.update(r, model.f, outputs, refresh)?;
            }
            direction = r.matmul(left.root, direction)?;
        }
        step(r, model.g, direction, self.block)?;
        if let Some(right_ok) = right_ok {
            let right_ok = model.shared(right_ok)?;
            book(r, left_ok.unwrap_or(right_ok), right_ok, self.block)?;
        }

        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let gradient = model.gradient_f(r, residual, z)?;
        let ok = self.head.update(r, z, 1.0, refresh)?;
        let direction = r.matmul(gradient, self.head.root)?;
        step(r, model.f, direction, self.head_block)?;
        ok.map_or(Ok(()), |ok| book(r, ok, ok, self.head_block))
    }
}
