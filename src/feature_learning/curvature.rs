//! Curvature of the two-layer model's square loss, as KFAC and the natural gradient take it.

use super::two_layer::TwoLayer;
use crate::error::Result;
use crate::plan::{Axpby, Coef, Gemm, KronFactor, Recorder, Value};
use crate::tensor::Shape;

/// Which curvature of `L = 1/(2n) sum ||y - F G x||^2` is meant.
///
/// Its functions record, into the plan that computes gradients, what an optimizer in another plan reads: copy the results into external tensors and hand those to
/// [`Parameter::factors`](crate::optim::Parameter::factors) or [`Parameter::per_sample_gradients`](crate::optim::Parameter::per_sample_gradients).
///
/// With residuals `r_i = F G x_i - y_i` and hidden layers `z_i = G x_i`, a layer's matrix is `left kron right` or `mean(j j^T)` over its rows `j`:
/// ```text
///                     G: left       right        F: left       right
/// GaussNewton         F^T F         mean(x x^T)  I             mean(z z^T)     rows: sqrt(dY) gradients of each output of each sample
/// EmpiricalFisher     mean(d d^T)   mean(x x^T)  mean(r r^T)   mean(z z^T)     rows: gradients of each sample's loss; d = F^T r
/// ```
/// In this model the Gauss-Newton factors are exact, so that KFAC inverts each layer's block of the Gauss-Newton matrix; for Gaussian noise of unit variance it is
/// the true Fisher, and needs no labels. The empirical Fisher's factors are KFAC's approximation, its rows are exact.
///
/// ```
/// use layerwise::feature_learning::{Curvature, TwoLayer};
/// use layerwise::{Recorder, Shape};
/// let mut r = Recorder::new();
/// let (f, g) = (r.external("F", Shape::new(4, 3, 2))?, r.external("G", Shape::new(4, 2, 5))?);
/// let (x, y) = (r.external("x", Shape::new(2, 7, 5))?, r.external("y", Shape::new(2, 7, 3))?);
/// let model = TwoLayer::new(f, g, 2)?; // two trials to a data item
/// let z = model.hidden(&mut r, g, x)?;
/// let residual = model.residual(&mut r, z, y)?;
/// let factors = Curvature::GaussNewton.factors_g(&mut r, &model, residual, x)?;
/// assert_eq!((factors.left.shape(), factors.right.shape()), (Shape::new(4, 2, 2), Shape::new(2, 5, 5)));
/// let rows = Curvature::EmpiricalFisher.rows_f(&mut r, &model, residual, z)?;
/// assert_eq!(rows.shape(), Shape::new(4, 7, 6));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curvature {
    /// From the residuals of the observed labels.
    EmpiricalFisher,
    /// The Gauss-Newton matrix, which is the true Fisher here.
    GaussNewton,
}

/// Kronecker factors of one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerFactors {
    /// `[trials, out, out]`.
    pub left: Value,
    /// `[trials, in, in]`, of `G` `[data, in, in]`: trials that share data share it.
    pub right: Value,
}

impl Curvature {
    /// Factors of the representation `G`. `residual` is `[trials, n, dY]`, `x` `[data, n, dX]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where the operands do not fit the model, here and below.
    pub fn factors_g(self, r: &mut Recorder, model: &TwoLayer, residual: Value, x: Value) -> Result<LayerFactors> {
        let left = match self {
            Curvature::EmpiricalFisher => {
                let back = r.matmul(residual, model.f)?;
                r.kron_factor(back)?
            }
            Curvature::GaussNewton => {
                let (d_y, k) = (model.f.rows(), model.f.cols());
                let gram = r.scratch("curvature.gram", Shape::new(model.trials(), k, k))?;
                #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
                r.record(KronFactor { scale: d_y as f32, ..KronFactor::new(model.f, gram) })?;
                gram
            }
        };
        Ok(LayerFactors { left, right: r.kron_factor(x)? })
    }

    /// Factors of the head `F`. `residual` is `[trials, n, dY]`, `hidden` `[trials, n, k]`.
    ///
    /// # Errors
    /// As [`factors_g`](Self::factors_g).
    pub fn factors_f(self, r: &mut Recorder, model: &TwoLayer, residual: Value, hidden: Value) -> Result<LayerFactors> {
        let left = match self {
            Curvature::EmpiricalFisher => r.kron_factor(residual)?,
            Curvature::GaussNewton => identity(r, model.trials(), model.f.rows())?,
        };
        Ok(LayerFactors { left, right: r.kron_factor(hidden)? })
    }

    /// Rows of the representation's Jacobian, `[trials, n, k dX]`, of the Gauss-Newton matrix `[trials, n dY, k dX]`, sample by sample.
    ///
    /// # Errors
    /// As [`factors_g`](Self::factors_g).
    pub fn rows_g(self, r: &mut Recorder, model: &TwoLayer, residual: Value, x: Value) -> Result<Value> {
        let (trials, n, k) = (model.trials(), x.rows(), model.f.cols());
        let inputs = per_trial(r, trials, model.shared(x)?)?;
        match self {
            Curvature::EmpiricalFisher => {
                let back = r.matmul(residual, model.f)?;
                products(r, back.unfold(n)?.t(), inputs, 1, k)
            }
            Curvature::GaussNewton => {
                let d_y = model.f.rows();
                products(r, model.f.reshaped(d_y * k, 1)?.repeat(n, trials)?, inputs, d_y, k)
            }
        }
    }

    /// Rows of the head's Jacobian, `[trials, n, dY k]`, of the Gauss-Newton matrix `[trials, n dY, dY k]`, sample by sample.
    ///
    /// # Errors
    /// As [`factors_g`](Self::factors_g).
    pub fn rows_f(self, r: &mut Recorder, model: &TwoLayer, residual: Value, hidden: Value) -> Result<Value> {
        let (trials, n, d_y) = (model.trials(), hidden.rows(), model.f.rows());
        let inputs = per_trial(r, trials, hidden)?;
        match self {
            Curvature::EmpiricalFisher => {
                let residual = per_trial(r, trials, residual)?;
                products(r, residual.unfold(n)?.t(), inputs, 1, d_y)
            }
            Curvature::GaussNewton => {
                let every_output = identity(r, 1, d_y)?.reshaped(d_y * d_y, 1)?.repeat(1, 1)?;
                products(r, every_output, inputs, d_y, d_y)
            }
        }
    }
}

/// `[items, n, n]` identities.
fn identity(r: &mut Recorder, items: usize, n: usize) -> Result<Value> {
    let out = r.scratch("curvature.identity", Shape::new(items, n, n))?;
    let blank = r.scratch("curvature.blank", Shape::new(items, n, n))?;
    // What a constant zero multiplies is not read.
    r.record(Axpby { alpha: Coef::Const(0.0), gamma: Coef::Const(1.0), ..Axpby::copy(blank, out) })?;
    Ok(out)
}

/// Samples of each trial for itself, dense.
fn per_trial(r: &mut Recorder, trials: usize, x: Value) -> Result<Value> {
    let out = r.scratch("curvature.samples", Shape::new(trials, x.rows(), x.cols()))?;
    r.copy(x, out)?;
    Ok(out)
}

/// Rows `sqrt(outputs) left kron x`, sample by sample and output by output: `left` is `[.., outputs * height, 1]` for each trial and sample.
fn products(r: &mut Recorder, left: Value, x: Value, outputs: usize, height: usize) -> Result<Value> {
    let (trials, n, width) = (x.items(), x.rows(), x.cols());
    let rows = r.scratch("curvature.rows", Shape::new(trials, n * outputs, height * width))?;
    let out = rows.unfold(n)?.reshaped(outputs * height, width)?;
    #[allow(clippy::cast_precision_loss, reason = "output counts are far below 2^24")]
    let alpha = Coef::Const((outputs as f32).sqrt());
    r.record(Gemm { alpha, ..Gemm::new(left, x.unfold(n)?, out) })?;
    Ok(rows)
}
