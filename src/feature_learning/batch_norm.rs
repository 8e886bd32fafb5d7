//! Batch-norm of the two-layer model, on its inputs or on its hidden units. Everything here only records.
//!
//! Batch-norm is diagonal whitening (Ioffe and Szegedy, ICML 2015): on the inputs it mends the conditioning of an axis-aligned covariance and not that of a rotated
//! one, on the hidden units it fixes the scales of `G`'s rows. The placement in the paper of [`feature_learning`](super) is not known, so both are here. Products with
//! shared data fold as in [`TwoLayer`], and what has one value per sample lies features first.

use super::two_layer::{Batch, TwoLayer, per_sample};
use crate::error::{Error, Result};
use crate::plan::{Axpby, Coef, Gemm, Recorder, SpectrumScale, Standardise, Value};
use crate::tensor::Shape;

/// What is added to variances; PyTorch's default.
pub const EPSILON: f32 = 1e-5;

/// Weight of a batch in the running statistics; PyTorch's default.
pub const MOMENTUM: f32 = 0.1;

/// Inputs standardised coordinate by coordinate: `f(x) = F G diag(1/sd) (x - mean)` with `sd = sqrt(variance + epsilon)` and the moments of the batch.
///
/// Nothing is trained here and no running statistics are kept: `mean` and `variance` are those of the last batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputNorm {
    /// Of the last batch, `[data, 1, dX]`; written by [`forward`](Self::forward). Start it with zeros.
    pub mean: Value,
    /// Biased, of the last batch, `[data, 1, dX]`. Start it with ones.
    pub variance: Value,
    /// Added to the variance; [`EPSILON`], or 0 for plain standardisation, under which a constant coordinate gives zeros.
    pub epsilon: f32,
}

impl InputNorm {
    /// The standardised batch `[data, n, dX]`, to be used as `x` in every product of a training step.
    ///
    /// # Errors
    /// [`Error::Shape`] where the moments do not fit `x`.
    pub fn forward(&self, r: &mut Recorder, x: Value) -> Result<Value> {
        let out = r.scratch("standardised", Shape::new(x.items(), x.rows(), x.cols()))?;
        let scale = r.scratch("input_scale", Shape::new(x.items(), 1, x.cols()))?;
        r.record(Standardise { x, out, mean: self.mean, variance: self.variance, scale, epsilon: self.epsilon })?;
        Ok(out)
    }

    /// `G_eff = G diag(1/sd)`, `[trials, k, dX]`, which acts on raw inputs; `representation` is `G`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn effective(&self, r: &mut Recorder, model: &TwoLayer, representation: Value) -> Result<Value> {
        divided(r, representation, model.shared(self.variance)?, self.epsilon)
    }

    /// `F G_eff mean`, `[trials, dY, 1]`: what `f(x) = F G_eff x - offset` takes off.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn offset(&self, r: &mut Recorder, model: &TwoLayer, effective: Value) -> Result<Value> {
        let hidden = r.matmul(effective, model.shared(self.mean.t())?)?;
        r.matmul(model.f, hidden)
    }
}

/// Batch-norm on the hidden units: `f(x) = F (gamma * BN(G x) + b)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HiddenNorm {
    /// Gains, `[trials, 1, k]`; they start at 1.
    pub gamma: Value,
    /// Shifts `b`, `[trials, 1, k]`; they start at 0. `None` leaves them out.
    pub bias: Option<Value>,
    /// Running mean of `G x`, `[trials, 1, k]`; starts at 0.
    pub mean: Value,
    /// Running variance of `G x`, unbiased, `[trials, 1, k]`; starts at 1.
    pub variance: Value,
    /// Added to variances; [`EPSILON`].
    pub epsilon: f32,
    /// Weight of a batch in the running statistics; [`MOMENTUM`].
    pub momentum: f32,
}

/// What the forward pass of a batch leaves for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalised {
    /// `BN(G x)`, `[trials, n, k]`, with the statistics of the batch.
    pub hidden: Standardise,
    /// `diag(gamma)`, `[trials, k, k]`.
    gains: Value,
    /// `F diag(gamma)`, `[trials, dY, k]`: the head on `BN(G x)`.
    pub head: Value,
}

/// Where the gradients of the mean loss go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormGradients {
    /// `[trials, dY, k]`.
    pub f: Value,
    /// `[trials, k, dX]`, in dense items that follow one another.
    pub g: Value,
    /// `[trials, 1, k]`.
    pub gamma: Value,
    /// `[trials, 1, k]`, exactly where there is a `b`.
    pub bias: Option<Value>,
}

impl HiddenNorm {
    /// Hidden layer and head on the batch `x`, `[data, n, dX]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn forward(&self, r: &mut Recorder, model: &TwoLayer, x: Value) -> Result<Normalised> {
        let raw = model.hidden(r, model.g, x)?;
        let hidden = r.standardise(raw, self.epsilon)?;
        let gains = diagonal(r, self.gamma)?;
        let head = r.matmul(model.f, gains)?;
        Ok(Normalised { hidden, gains, head })
    }

    /// `R = f(X) - Y`, `[trials, n, dY]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn residual(&self, r: &mut Recorder, model: &TwoLayer, forward: &Normalised, y: Value) -> Result<Value> {
        let gained = TwoLayer::new(forward.head, model.g, model.sharing())?;
        let residual = gained.residual(r, forward.hidden.out, y)?;
        if let Some(bias) = self.bias {
            let shift = r.matmul(bias, model.f.t())?;
            r.record(Axpby::add(shift.broadcast_row(residual.rows())?, residual, residual))?;
        }
        Ok(residual)
    }

    /// Gradients of the mean loss `1/(2n) sum |r|^2` through the statistics of the batch:
    /// ```text
    /// dF = 1/n R^T H     H = gamma * BN(G x) + b     D = R F     dgamma = 1/n sum D * BN(G x)     db = 1/n sum D
    /// dG = 1/n (gamma/sd (D - mean(D) - BN mean(D * BN)))^T X
    /// ```
    /// `R` may come from any loss whose gradient with respect to sample i's outputs, times n, it holds.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit or a gradient of `b` is asked for without one, or the other way round.
    pub fn gradients_into(
        &self,
        r: &mut Recorder,
        model: &TwoLayer,
        forward: &Normalised,
        residual: Value,
        x: Value,
        of: &NormGradients,
    ) -> Result<()> {
        if self.bias.is_some() != of.bias.is_some() {
            let said = |is: bool| if is { "one" } else { "none" }.to_owned();
            let (expected, found) = (said(self.bias.is_some()), said(of.bias.is_some()));
            return Err(Error::Shape { op: "gradients_into", tensor: "bias".into(), expected, found });
        }
        let per_sample = per_sample(x.rows());
        let Coef::Const(factor) = per_sample else { return Ok(()) };
        let on_hidden = r.scratch("gradient_on_hidden", model.f.shape())?;
        r.record(Gemm { alpha: per_sample, ..Gemm::new(residual.t(), forward.hidden.out, on_hidden) })?;
        r.record(Gemm::new(on_hidden, forward.gains, of.f))?;
        let back = r.matmul(model.f.t(), residual.t())?;
        let (raw, sums) = r.standardise_gradient(&forward.hidden, Some(self.gamma), back.t(), factor)?;
        r.copy(sums.row_range(0..1)?, of.gamma)?;
        if let (Some(bias), Some(of_bias)) = (self.bias, of.bias) {
            let mean = r.column_mean(residual)?;
            r.record(Gemm { d: Some(of.f), ..Gemm::new(mean.t(), bias, of.f) })?;
            r.copy(sums.row_range(1..2)?, of_bias)?;
        }
        model.times_shared_into(r, raw.t(), x, per_sample, of.g)
    }

    /// One step of the running statistics: `s <- (1 - momentum) s + momentum s_batch`, the variance of the batch in its unbiased form, as PyTorch has it (of one
    /// sample: as it is, 0).
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn update_running(&self, r: &mut Recorder, forward: &Normalised) -> Result<()> {
        let n = forward.hidden.out.rows();
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
        let unbiased = if n > 1 { n as f32 / (n - 1) as f32 } else { 1.0 };
        let parts = [(forward.hidden.mean, self.mean, 1.0), (forward.hidden.variance, self.variance, unbiased)];
        for (batch, running, scale) in parts {
            let (alpha, beta) = (Coef::Const(self.momentum * scale), Coef::Const(1.0 - self.momentum));
            r.record(Axpby { alpha, beta, ..Axpby::add(batch, running, running) })?;
        }
        Ok(())
    }

    /// A training step's gradients and running statistics in one: [`forward`](Self::forward), [`residual`](Self::residual),
    /// [`gradients_into`](Self::gradients_into), [`update_running`](Self::update_running). Returns the residual.
    ///
    /// # Errors
    /// As those.
    pub fn record(&self, r: &mut Recorder, model: &TwoLayer, batch: &Batch, of: &NormGradients) -> Result<Value> {
        let forward = self.forward(r, model, batch.x)?;
        let residual = self.residual(r, model, &forward, batch.y)?;
        self.gradients_into(r, model, &forward, residual, batch.x, of)?;
        self.update_running(r, &forward)?;
        Ok(residual)
    }

    /// The model under running statistics, `f(x) = head G x - offset`: head `F diag(gamma / sd)`, `[trials, dY, k]`, and offset
    /// `head mean - F b`, `[trials, dY, 1]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn evaluated(&self, r: &mut Recorder, model: &TwoLayer) -> Result<(Value, Value)> {
        let gains = diagonal(r, self.gamma)?;
        let gained = r.matmul(model.f, gains)?;
        let head = divided(r, gained, self.variance, self.epsilon)?;
        let offset = r.matmul(head, self.mean.t())?;
        if let Some(bias) = self.bias {
            r.record(Gemm { d: Some(offset), alpha: Coef::Const(-1.0), ..Gemm::new(model.f, bias.t(), offset) })?;
        }
        Ok((head, offset))
    }
}

/// `x diag(1 / sqrt(variance + epsilon))`.
fn divided(r: &mut Recorder, x: Value, variance: Value, epsilon: f32) -> Result<Value> {
    let out = r.scratch("divided", x.shape())?;
    r.record(SpectrumScale { x, values: variance, shift: Coef::Const(epsilon), exponent: 2, out, block: None })?;
    Ok(out)
}

/// `diag(row)`, `[items, k, k]` of `[items, 1, k]`.
fn diagonal(r: &mut Recorder, row: Value) -> Result<Value> {
    let shape = Shape::new(row.items(), row.cols(), row.cols());
    let (blank, out) = (r.scratch("blank", shape)?, r.scratch("diagonal", shape)?);
    // What a constant zero multiplies is not read.
    r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(blank, out) })?;
    r.copy(row, out.diagonal()?)?;
    Ok(out)
}
