//! The dense natural gradient on all parameters at once.

use super::{Damping, Keep, book, column};
use crate::error::Result;
use crate::feature_learning::curvature::Curvature;
use crate::feature_learning::method::Method;
use crate::feature_learning::two_layer::{Batch, TwoLayer, per_sample};
use crate::linalg::spd_solve;
use crate::plan::block::FLAG;
use crate::plan::{Advance, Axpby, CheckFinite, Clock, Coef, DecayForm, KronFactor, Recorder, SgdUpdate, Value};
use crate::tensor::Shape;

/// [`Method::NaturalGaussNewton`] and [`Method::NaturalEmpirical`]. Parameters are `theta = (G, F)`, each in row-major order.
#[derive(Clone, Debug)]
pub(super) struct Natural {
    pub(super) block: Value,
    empirical: bool,
    damping: f32,
}

impl Natural {
    pub(super) fn declare(keep: &mut Keep<'_>, method: Method, damping: Damping) -> Result<Self> {
        Ok(Natural { block: keep.block("block")?, empirical: method == Method::NaturalEmpirical, damping: damping.dense })
    }

    pub(super) fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch) -> Result<()> {
        let z = model.hidden(r, model.g, batch.x)?;
        let residual = model.residual(r, z, batch.y)?;
        let (trials, of_g, of_f) = (model.trials(), model.g.rows() * model.g.cols(), model.f.rows() * model.f.cols());
        let gradient = r.scratch("gradient", Shape::new(trials, of_g + of_f, 1))?;
        let part =
            |value: Value, of: Value, from: usize| value.row_range(from..from + of.rows() * of.cols())?.reshaped(of.rows(), of.cols());
        let g = model.gradient_g(r, residual, batch.x)?;
        r.copy(g, part(gradient, model.g, 0)?)?;
        model.gradient_f_into(r, residual, z, part(gradient, model.f, of_g)?)?;

        let matrix = if self.empirical { empirical(r, model, batch, residual, z)? } else { gauss_newton(r, model, batch, z)? };
        let (solution, ok) = spd_solve(r, matrix, gradient, self.damping, None)?;
        // Nothing moves where the factorization failed.
        let direction = r.scratch("direction", solution.shape())?;
        r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(gradient, direction) })?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(solution, direction) })?;
        r.record(CheckFinite { x: direction, flag: column(self.block, FLAG)? })?;
        r.record(Advance { block: self.block, clock: Clock::Step })?;
        for (w, from) in [(model.g, 0), (model.f, of_g)] {
            let g = part(direction, w, from)?;
            r.record(SgdUpdate { w, g, m: None, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block: self.block })?;
        }
        book(r, ok, ok, self.block)
    }
}

/// `1/n sum g_i g_i^T` of the samples' gradients `g_i = (vec(F^T r_i x_i^T), vec(r_i z_i^T))`.
fn empirical(r: &mut Recorder, model: &TwoLayer, batch: &Batch, residual: Value, z: Value) -> Result<Value> {
    let of_g = Curvature::EmpiricalFisher.rows_g(r, model, residual, batch.x)?;
    let of_f = Curvature::EmpiricalFisher.rows_f(r, model, residual, z)?;
    let (n, left) = (of_g.rows(), of_g.cols());
    let rows = r.scratch("rows", Shape::new(model.trials(), n, left + of_f.cols()))?;
    r.copy(of_g, rows.col_range(0..left)?)?;
    r.copy(of_f, rows.col_range(left..left + of_f.cols())?)?;
    r.kron_factor(rows)
}

/// The lower triangle of the Gauss-Newton matrix, from its blocks:
/// ```text
/// G(a, d), G(b, e):  (F^T F)_ab (X^T X/n)_de         F(y, a), G(b, d):  F_yb (Z^T X/n)_ad         F(y, a), F(y, b):  (Z^T Z/n)_ab
/// ```
fn gauss_newton(r: &mut Recorder, model: &TwoLayer, batch: &Batch, z: Value) -> Result<Value> {
    let (trials, d_y, k, d_x) = (model.trials(), model.f.rows(), model.f.cols(), model.g.cols());
    let (of_g, of_f) = (k * d_x, d_y * k);
    let inputs = r.kron_factor(batch.x)?;
    let gram = r.scratch("gram", Shape::new(trials, k, k))?;
    #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
    r.record(KronFactor { scale: d_y as f32, ..KronFactor::new(model.f, gram) })?;
    let hidden = r.kron_factor(z)?;
    let cross = model.times_shared(r, z.t(), batch.x, per_sample(batch.samples()))?;

    let matrix = r.scratch("gauss_newton", Shape::new(trials, of_g + of_f, of_g + of_f))?;
    r.record(Axpby { x: None, y: Some(matrix), beta: Coef::Const(0.0), ..Axpby::copy(matrix, matrix) })?;
    let block = |rows: std::ops::Range<usize>, cols: std::ops::Range<usize>| matrix.row_range(rows)?.col_range(cols);
    for a in 0..k {
        for b in 0..=a {
            let out = block(a * d_x..(a + 1) * d_x, b * d_x..(b + 1) * d_x)?;
            let row = gram.row_range(a..a + 1)?;
            let factor = Coef::Column { column: u32::try_from(b).unwrap_or(u32::MAX), scale: 1.0 };
            r.record(Axpby { alpha: factor, block: Some(row), ..Axpby::copy(model.shared(inputs)?, out) })?;
        }
    }
    for y in 0..d_y {
        let rows = of_g + y * k..of_g + (y + 1) * k;
        r.copy(hidden, block(rows.clone(), rows.clone())?)?;
        for b in 0..k {
            let factor = Coef::Column { column: u32::try_from(b).unwrap_or(u32::MAX), scale: 1.0 };
            let row = model.f.row_range(y..y + 1)?;
            r.record(Axpby { alpha: factor, block: Some(row), ..Axpby::copy(cross, block(rows.clone(), b * d_x..(b + 1) * d_x)?) })?;
        }
    }
    Ok(matrix)
}
