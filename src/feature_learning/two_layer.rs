//! The model `f(x) = F G x`, its residual and its gradients, for many trials that share data.

use crate::error::{Error, Result};
use crate::plan::{Coef, Gemm, Recorder, Value};
use crate::tensor::Shape;

/// Samples of one step: rows are samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch {
    /// Inputs, `[data, n, dX]`.
    pub x: Value,
    /// Targets, `[data, n, dY]`, in any strides (the data stream stores them transposed).
    pub y: Value,
}

impl Batch {
    /// Samples per data item.
    pub fn samples(&self) -> usize {
        self.x.rows()
    }

    /// The samples of rows `from..to`, of inputs and targets alike.
    ///
    /// # Errors
    /// [`Error::Shape`] where the range is empty or leaves the batch.
    pub fn rows(&self, from: usize, to: usize) -> Result<Batch> {
        Ok(Batch { x: self.x.row_range(from..to)?, y: self.y.row_range(from..to)? })
    }
}

/// `f(x) = F G x` with loss `L = 1/(2n) sum ||y - f(x)||^2`.
///
/// `F` is `[trials, dY, k]`, `G` `[trials, k, dX]`. Data item `d` serves the `trials / data` consecutive trials from `d * trials / data` on. Products with
/// shared data are folded: all hidden layers of one data item are one `[trials/data * k, dX] x [dX, n]` product. What has one value per sample is therefore
/// stored features first, and handed out as a transposed view. Small products are not folded, since the CPU path sums those in an order that depends on
/// the height: so a trial has the same bits whichever others share its data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoLayer {
    /// The head `F`, `[trials, dY, k]`.
    pub f: Value,
    /// The representation `G`, `[trials, k, dX]`.
    pub g: Value,
    sharing: usize,
}

/// Fewest results of a trial's product with shared data that make it worth folding. On the CPU path products of fewer have kernels of their own, chosen by
/// the number of rows, among them one for up to 256 results.
const FOLDED_RESULTS: usize = 512;

#[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^24")]
pub(crate) fn per_sample(n: usize) -> Coef {
    Coef::Const(1.0 / n as f32)
}

impl TwoLayer {
    /// A model whose every `sharing` consecutive trials see the same data item.
    ///
    /// # Errors
    /// [`Error::Shape`] where `F` and `G` do not fit each other or `sharing` does not divide the trials.
    pub fn new(f: Value, g: Value, sharing: usize) -> Result<Self> {
        if f.cols() != g.rows() || f.items() != g.items() || sharing == 0 || !g.items().is_multiple_of(sharing) {
            return Err(Error::Shape {
                op: "TwoLayer::new",
                tensor: "F".into(),
                expected: format!("[{}, dY, {}] and a sharing that divides {}", g.items(), g.rows(), g.items()),
                found: format!("{} and sharing {sharing}", f.shape()),
            });
        }
        Ok(TwoLayer { f, g, sharing })
    }

    /// Trials.
    pub fn trials(&self) -> usize {
        self.g.items()
    }

    /// Data items.
    pub fn data_items(&self) -> usize {
        self.g.items() / self.sharing
    }

    /// Consecutive trials that share one data item.
    pub fn sharing(&self) -> usize {
        self.sharing
    }

    /// A value with one item per data item, read by all trials that share it.
    ///
    /// # Errors
    /// [`Error::Shape`] where it has fewer items than there are data items.
    pub fn shared(&self, value: Value) -> Result<Value> {
        value.repeat(self.sharing, self.data_items())
    }

    /// `left right` where `left` is `[trials, m, q]` with evenly spaced rows and `right` is `[data, q, p]`: scratch `[trials, m, p]`, times `alpha`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn times_shared(&self, r: &mut Recorder, left: Value, right: Value, alpha: Coef) -> Result<Value> {
        let out = r.scratch("shared_product", Shape::new(self.trials(), left.rows(), right.cols()))?;
        self.times_shared_into(r, left, right, alpha, out)?;
        Ok(out)
    }

    /// As [`times_shared`](Self::times_shared), into `out`, whose items have to follow one another.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn times_shared_into(&self, r: &mut Recorder, left: Value, right: Value, alpha: Coef, out: Value) -> Result<()> {
        // By the item's shape alone.
        if left.rows() < 2 || left.rows() * right.cols() < FOLDED_RESULTS {
            return r.record(Gemm { alpha, ..Gemm::new(left, self.shared(right)?, out) });
        }
        r.record(Gemm { alpha, ..Gemm::new(left.fold(self.sharing)?, right, out.fold(self.sharing)?) })
    }

    /// `Z = X G^T`, `[trials, n, k]`, with `representation` in the place of `G`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the inputs do not fit.
    pub fn hidden(&self, r: &mut Recorder, representation: Value, x: Value) -> Result<Value> {
        Ok(self.times_shared(r, representation, x.t(), Coef::Const(1.0))?.t())
    }

    /// `R = Z F^T - Y`, `[trials, n, dY]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where hidden layer and targets do not fit.
    pub fn residual(&self, r: &mut Recorder, hidden: Value, y: Value) -> Result<Value> {
        let out = r.scratch("residual", Shape::new(self.trials(), self.f.rows(), hidden.rows()))?;
        r.record(Gemm { d: Some(self.shared(y.t())?), beta: Coef::Const(-1.0), ..Gemm::new(self.f, hidden.t(), out) })?;
        Ok(out.t())
    }

    /// `dL/dG = 1/n (R F)^T X`, `[trials, k, dX]`: `R F` first, so that the long sum over samples has only k rows per trial.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn gradient_g(&self, r: &mut Recorder, residual: Value, x: Value) -> Result<Value> {
        let out = r.scratch("gradient_g", self.g.shape())?;
        self.gradient_g_into(r, residual, x, out)?;
        Ok(out)
    }

    /// As [`gradient_g`](Self::gradient_g), into `out`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn gradient_g_into(&self, r: &mut Recorder, residual: Value, x: Value, out: Value) -> Result<()> {
        let back = r.matmul(self.f.t(), residual.t())?;
        self.times_shared_into(r, back, x, per_sample(x.rows()), out)
    }

    /// `dL/dF = 1/n R^T Z`, `[trials, dY, k]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn gradient_f(&self, r: &mut Recorder, residual: Value, hidden: Value) -> Result<Value> {
        let out = r.scratch("gradient_f", Shape::new(self.trials(), residual.cols(), hidden.cols()))?;
        self.gradient_f_into(r, residual, hidden, out)?;
        Ok(out)
    }

    /// As [`gradient_f`](Self::gradient_f), into `out`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn gradient_f_into(&self, r: &mut Recorder, residual: Value, hidden: Value, out: Value) -> Result<()> {
        r.record(Gemm { alpha: per_sample(hidden.rows()), ..Gemm::new(residual.t(), hidden, out) })
    }
}
