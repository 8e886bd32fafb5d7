//! The student `f(x) = f^T sigma(G x) / sqrt(dh)`, its residual and its first-layer gradient, for a batch of trials.

use crate::error::{Error, Result};
use crate::feature_learning::link::Link;
use crate::plan::{Activation, Coef, Gemm, Recorder, Value};
use crate::tensor::Shape;

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "rounding to the device's element type is the purpose")]
pub(in crate::feature_learning) fn reciprocal(x: f64) -> f32 {
    (1.0 / x) as f32
}

/// A two-layer student. What has one value per sample is stored features first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Student {
    /// `sigma`.
    pub link: Link,
    /// First layer `G`, `[items, dh, dX]`.
    pub g: Value,
    /// Second layer `f`, `[items, 1, dh]`.
    pub f: Value,
}

/// One forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward {
    /// `G X^T`, `[items, dh, n]`.
    pub pre: Value,
    /// `sigma(G X^T)`, `[items, dh, n]`. The gradient overwrites it.
    pub hidden: Value,
    /// `f(X) - y`, `[items, 1, n]`.
    pub residual: Value,
}

impl Student {
    /// A student whose layers fit each other.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not.
    pub fn new(link: Link, g: Value, f: Value) -> Result<Self> {
        if f.rows() != 1 || f.cols() != g.rows() || f.items() != g.items() {
            let expected = format!("[{}, 1, {}]", g.items(), g.rows());
            return Err(Error::Shape { op: "Student::new", tensor: "f".into(), expected, found: f.shape().to_string() });
        }
        Ok(Student { link, g, f })
    }

    fn width(&self) -> f64 {
        let width = self.g.rows();
        #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
        let width = width as f64;
        width.sqrt()
    }

    /// Forward pass on `x` `[items, n, dX]` against labels `y` `[items, 1, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the samples do not fit.
    pub fn forward(&self, r: &mut Recorder, x: Value, y: Value) -> Result<Forward> {
        let pre = r.matmul(self.g, x.t())?;
        let hidden = r.activation(self.link, pre)?;
        let residual = r.scratch("residual", Shape::new(self.g.items(), 1, x.rows()))?;
        let alpha = Coef::Const(reciprocal(self.width()));
        r.record(Gemm { d: Some(y), alpha, beta: Coef::Const(-1.0), ..Gemm::new(self.f, hidden, residual) })?;
        Ok(Forward { pre, hidden, residual })
    }

    /// `dL/dG = ((r f^T) * sigma'(X G^T))^T X / (n sqrt(dh))` of `L = 1/(2n) sum (f(x) - y)^2`, `[items, dh, dX]`.
    ///
    /// Uses up [`Forward::hidden`] as space for the back-propagated errors.
    ///
    /// # Errors
    /// [`Error::Shape`] where the operands do not fit.
    pub fn gradient_g(&self, r: &mut Recorder, forward: &Forward, x: Value) -> Result<Value> {
        let (back, n) = (forward.hidden, x.rows());
        r.record(Gemm::new(self.f.t(), forward.residual, back))?;
        r.record(Activation::derivative(self.link, forward.pre, back, back))?;
        let gradient = r.scratch("gradient_g", self.g.shape())?;
        #[allow(clippy::cast_precision_loss, reason = "sample counts are far below 2^52")]
        let alpha = Coef::Const(reciprocal(n as f64 * self.width()));
        r.record(Gemm { alpha, ..Gemm::new(back, x, gradient) })?;
        Ok(gradient)
    }
}
