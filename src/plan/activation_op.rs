//! The element-wise non-linearity of a two-layer model.

use super::value::Value;

/// `E max(z, 0) = 1 / sqrt(2 pi)` for a standard normal `z`.
const RELU_MEAN: f64 = 0.398_942_280_401_432_7;

/// A scalar non-linearity `sigma`. Values, Hermite coefficients and moments in f64 are in [`feature_learning::link`](crate::feature_learning::link).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Link {
    /// `tanh x`.
    Tanh,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
    /// `max(x, 0) - 1/sqrt(2 pi)`: mean zero under a standard normal.
    CentredRelu,
    /// `erf(x / sqrt 2)`, which is `2 Phi(x) - 1`: derivative `sqrt(2/pi) exp(-x^2/2)`.
    Erf,
    /// `a_1 h_1(x) + a_2 h_2(x) + a_3 h_3(x)` in the normalised probabilists' Hermite polynomials `h_k = He_k / sqrt(k!)`:
    /// `x`, `(x^2 - 1)/sqrt 2`, `(x^3 - 3x)/sqrt 6`. They are orthonormal under a standard normal, so its Hermite coefficients are the `a_k`.
    Hermite([f32; 3]),
}

impl Link {
    /// `h_1(x) = x`.
    pub const H1: Link = Link::Hermite([1.0, 0.0, 0.0]);
    /// `h_2(x) = (x^2 - 1)/sqrt 2`.
    pub const H2: Link = Link::Hermite([0.0, 1.0, 0.0]);
    /// `h_3(x) = (x^3 - 3x)/sqrt 6`.
    pub const H3: Link = Link::Hermite([0.0, 0.0, 1.0]);

    /// The form that engines evaluate.
    pub(crate) fn form(self) -> LinkForm {
        match self {
            Link::Tanh => LinkForm::Tanh,
            Link::Relu => LinkForm::Relu { offset: 0.0 },
            Link::CentredRelu => LinkForm::Relu { offset: narrow(RELU_MEAN) },
            Link::Erf => LinkForm::Erf,
            Link::Hermite(a) => {
                let [a1, a2, a3] = a.map(f64::from);
                let (a2, a3) = (a2 / 2f64.sqrt(), a3 / 6f64.sqrt());
                LinkForm::Cubic([-a2, a1 - 3.0 * a3, a2, a3].map(narrow))
            }
        }
    }

    /// A non-finite Hermite coefficient, if there is one.
    pub(crate) fn unusable(self) -> Option<f32> {
        match self {
            Link::Hermite(a) => a.into_iter().find(|a| !a.is_finite()),
            _ => None,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// What a [`Link`] is to an engine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LinkForm {
    Tanh,
    /// `max(x, 0) - offset`.
    Relu {
        offset: f32,
    },
    Erf,
    /// `c_0 + c_1 x + c_2 x^2 + c_3 x^3`.
    Cubic([f32; 4]),
}

/// `out = sigma(x)`, or `out = times * sigma'(x)` element by element where `times` is given.
///
/// Both engines evaluate the same polynomials, after range reductions of our own: absolute errors of values and derivatives of tanh and erf are below 3e-7,
/// relative ones of their values below 1e-6, at every finite or infinite `x`. NaN stays NaN.
/// In-place forms: `x == out` of the first form, `times == Some(out)` of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Activation {
    /// The non-linearity.
    pub link: Link,
    /// Pre-activations, same shape as `out`.
    pub x: Value,
    /// What the derivative multiplies, same shape as `out`.
    pub times: Option<Value>,
    /// Result.
    pub out: Value,
}

impl Activation {
    /// `out = sigma(x)`.
    pub fn new(link: Link, x: Value, out: Value) -> Self {
        Activation { link, x, times: None, out }
    }

    /// `out = times * sigma'(x)`.
    pub fn derivative(link: Link, x: Value, times: Value, out: Value) -> Self {
        Activation { link, x, times: Some(times), out }
    }

    /// True where the result overwrites an operand.
    pub(crate) fn in_place(&self) -> bool {
        self.times.unwrap_or(self.x) == self.out
    }
}
