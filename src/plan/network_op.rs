//! Operations of layers that see a whole batch: standardisation with its backward pass, and softmax with cross-entropy.

use super::access::{Access, Operand};
use super::value::Value;

/// Batch standardisation, by column (feature) over the rows (samples) of each item:
/// ```text
/// mean = 1/n sum_r x[r]    variance = 1/n sum_r (x[r] - mean)^2    scale = 1 / sqrt(variance + epsilon)    out = scale (x - mean)
/// ```
/// The variance is the biased one, summed from deviations. A scale of `1 / 0` is 0, so that a constant column with `epsilon = 0` gives zeros; with one sample
/// `out` is 0. `scale` and `out` are what [`StandardiseGradient`] wants, mean and variance what running statistics are made of.
/// Fast where rows or columns of `x` are contiguous; `out` is best laid out as `x` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standardise {
    /// `[n, q]`.
    pub x: Value,
    /// `[n, q]`.
    pub out: Value,
    /// `[1, q]`.
    pub mean: Value,
    /// Biased, `[1, q]`.
    pub variance: Value,
    /// `1 / sqrt(variance + epsilon)`, `[1, q]`.
    pub scale: Value,
    /// Added to the variance, at least 0.
    pub epsilon: f32,
}

/// Backward pass of a layer `gamma xhat + b`, `xhat` from [`Standardise`], through the statistics of the batch:
/// ```text
/// dx = scale gamma (dy - mean_r(dy) - xhat mean_r(dy xhat))
/// sums[0] = factor sum_r dy[r] xhat[r]  (of gamma)    sums[1] = factor sum_r dy[r]  (of b)
/// ```
/// `dy` may hold gradients of the mean loss (which have `1/n` in them; then `factor` is 1) or of each sample's own (`factor` is `1/n`): `sums` is the gradient of the mean
/// loss either way, and `dx` is in the units of `dy`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StandardiseGradient {
    /// Standardised inputs, `[n, q]`.
    pub xhat: Value,
    /// Gradients with respect to the layer's outputs, `[n, q]`.
    pub dy: Value,
    /// As [`Standardise`] wrote it, `[1, q]`.
    pub scale: Value,
    /// `[1, q]`; `None` is 1.
    pub gamma: Option<Value>,
    /// Gradients with respect to what was standardised, `[n, q]`.
    pub dx: Value,
    /// Gradients of gamma and b, `[2, q]`.
    pub sums: Value,
    /// Factor of `sums`.
    pub factor: f32,
}

/// Cross-entropy of a softmax, sample by sample, with its gradient:
/// ```text
/// p = exp(z - max z) / sum exp(z - max z)    loss = -log p[label]    delta = (p - onehot(label)) / n    hit = 1 where the first largest logit is the label's
/// ```
/// `delta` is the gradient of the mean loss. Exponential and logarithm are polynomials of our own: losses are exact to a few roundings for logits of any size, and small
/// ones keep their relative accuracy.
///
/// A sample whose label is no class (below 0, at least `c`, or NaN) is left out: loss, delta and hit are 0, and the mean is still over `n`. A label between two
/// classes is rounded down. A logit that is not finite makes the loss and the row of delta not finite, so that [`CheckFinite`](super::CheckFinite) sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftmaxCrossEntropy {
    /// `[n, c]`.
    pub logits: Value,
    /// Classes as numbers, `[n, 1]`.
    pub labels: Value,
    /// `[n, 1]`.
    pub loss: Value,
    /// `[n, c]`.
    pub delta: Value,
    /// `[n, 1]`.
    pub hits: Value,
}

/// The wanted (rows, cols) of operands, by name.
type Wanted = Vec<(&'static str, usize, usize)>;

impl Standardise {
    pub(super) fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Write};
        vec![
            ("x", self.x, Read),
            ("out", self.out, Write),
            ("mean", self.mean, Write),
            ("variance", self.variance, Write),
            ("scale", self.scale, Write),
        ]
    }

    pub(super) fn wanted(&self) -> Wanted {
        let (n, q) = (self.x.rows, self.x.cols);
        vec![("out", n, q), ("mean", 1, q), ("variance", 1, q), ("scale", 1, q)]
    }
}

impl StandardiseGradient {
    pub(super) fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Write};
        let mut list = vec![("xhat", self.xhat, Read), ("dy", self.dy, Read), ("scale", self.scale, Read)];
        list.extend(self.gamma.map(|gamma| ("gamma", gamma, Read)));
        list.extend([("dx", self.dx, Write), ("sums", self.sums, Write)]);
        list
    }

    pub(super) fn wanted(&self) -> Wanted {
        let (n, q) = (self.dx.rows, self.dx.cols);
        vec![("xhat", n, q), ("dy", n, q), ("scale", 1, q), ("gamma", 1, q), ("sums", 2, q)]
    }
}

impl SoftmaxCrossEntropy {
    pub(super) fn operands(&self) -> Vec<Operand> {
        use Access::{Read, Write};
        vec![
            ("logits", self.logits, Read),
            ("labels", self.labels, Read),
            ("loss", self.loss, Write),
            ("delta", self.delta, Write),
            ("hits", self.hits, Write),
        ]
    }

    pub(super) fn wanted(&self) -> Wanted {
        let n = self.delta.rows;
        vec![("logits", n, self.delta.cols), ("labels", n, 1), ("loss", n, 1), ("hits", n, 1)]
    }
}
