//! Links of single-index models: values, derivatives and Gaussian moments in f64, on the host.
//!
//! With `z` standard normal and `h_k` the normalised probabilists' Hermite polynomials, `sigma = sum c_k h_k`, `c_k = E h_k(z) sigma(z)`:
//! `c_0` is the mean, `c_1` what a linear model sees, and `c_{>1}^2 = E sigma^2 - c_0^2 - c_1^2` the error of the best linear model.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::error::{Error, Result};

pub use crate::plan::Link;

/// Gaussian moments of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// `c_0 = E sigma(z)`.
    pub mean: f64,
    /// `c_1 = E z sigma(z) = E sigma'(z)`.
    pub linear: f64,
    /// `E sigma(z)^2`.
    pub second: f64,
}

impl Moments {
    /// `c_{>1}^2`.
    pub fn nonlinear(&self) -> f64 {
        (self.second - self.mean * self.mean - self.linear * self.linear).max(0.0)
    }
}

/// `erf(x / sqrt 2) = sqrt(2/pi) exp(-x^2/2) sum x^(2k+1) / (2k+1)!!`: terms of one sign, to rounding.
fn erf(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut k) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        k += 2.0;
        term *= x * x / k;
        sum += term;
    }
    (2.0 / PI).sqrt() * (-0.5 * x * x).exp() * sum
}

impl Link {
    /// The name in tables and files.
    pub fn name(self) -> String {
        match self {
            Link::Tanh => "tanh".into(),
            Link::Relu => "relu".into(),
            Link::CentredRelu => "centred_relu".into(),
            Link::Erf => "erf".into(),
            Link::Hermite([a, b, c]) => format!("hermite_{a}_{b}_{c}"),
        }
    }

    /// The link of a [`name`](Self::name).
    ///
    /// # Errors
    /// [`Error::Config`] for any other text.
    pub fn from_name(name: &str) -> Result<Self> {
        let known = [Link::Tanh, Link::Relu, Link::CentredRelu, Link::Erf].into_iter().find(|link| link.name() == name);
        let hermite = || {
            let numbers: Vec<f32> =
                name.strip_prefix("hermite_")?.split('_').map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
            numbers.try_into().ok().map(Link::Hermite).filter(|link| link.unusable().is_none())
        };
        known.or_else(hermite).ok_or_else(|| Error::Config {
            method: "Link",
            field: "name",
            found: name.into(),
            allowed: "tanh, relu, centred_relu, erf, or hermite_A_B_C with finite coefficients",
        })
    }

    /// `sigma(x)`.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Link::Tanh => x.tanh(),
            Link::Relu => x.max(0.0),
            Link::CentredRelu => x.max(0.0) - 1.0 / (2.0 * PI).sqrt(),
            Link::Erf => erf(x),
            Link::Hermite(a) => {
                let [a1, a2, a3] = a.map(f64::from);
                a1 * x + a2 * FRAC_1_SQRT_2 * (x * x - 1.0) + a3 / 6f64.sqrt() * x * (x * x - 3.0)
            }
        }
    }

    /// `sigma'(x)`; 0 at the corner of a ReLU.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Link::Tanh => 1.0 / x.cosh().powi(2),
            Link::Relu | Link::CentredRelu => f64::from(u8::from(x > 0.0)),
            Link::Erf => (2.0 / PI).sqrt() * (-0.5 * x * x).exp(),
            Link::Hermite(a) => {
                let [a1, a2, a3] = a.map(f64::from);
                a1 + 2.0 * a2 * FRAC_1_SQRT_2 * x + a3 / 6f64.sqrt() * 3.0 * (x * x - 1.0)
            }
        }
    }

    /// Moments under a standard normal: closed forms, for tanh the trapezoidal rule, whose error falls exponentially in the inverse step for a function analytic
    /// in a strip (step 1/32: below rounding).
    pub fn moments(self) -> Moments {
        let relu = Moments { mean: 1.0 / (2.0 * PI).sqrt(), linear: 0.5, second: 0.5 };
        match self {
            Link::Tanh => {
                let expect = |f: &dyn Fn(f64) -> f64| {
                    let sum: f64 = (-384..=384).map(|i| f64::from(i) / 32.0).map(|z| (-0.5 * z * z).exp() * f(z)).sum();
                    sum / 32.0 / (2.0 * PI).sqrt()
                };
                Moments { mean: 0.0, linear: expect(&|z| z * z.tanh()), second: expect(&|z| z.tanh().powi(2)) }
            }
            Link::Relu => relu,
            Link::CentredRelu => Moments { mean: 0.0, second: relu.second - relu.mean * relu.mean, ..relu },
            Link::Erf => Moments { mean: 0.0, linear: 1.0 / PI.sqrt(), second: 1.0 / 3.0 },
            Link::Hermite(a) => {
                let a = a.map(f64::from);
                Moments { mean: 0.0, linear: a[0], second: a.iter().map(|a| a * a).sum() }
            }
        }
    }

    /// Checks that the link can teach: `c_0 = 0` and `c_1 != 0`, finite coefficients.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn validate_teacher(self) -> Result<()> {
        let moments = self.moments();
        if moments.mean.abs() > 1e-12 {
            return Err(self.refused("teacher", "a centred link: E sigma(z) = 0"));
        }
        self.validate("teacher")
    }

    /// Checks that the link can learn a direction in one step: `c_1 != 0`, finite coefficients.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise.
    pub fn validate_student(self) -> Result<()> {
        self.validate("student")
    }

    fn validate(self, field: &'static str) -> Result<()> {
        if self.unusable().is_some() || self.moments().linear.abs() < 1e-6 {
            return Err(self.refused(field, "a link with finite coefficients and E z sigma(z) != 0"));
        }
        Ok(())
    }

    fn refused(self, field: &'static str, allowed: &'static str) -> Error {
        Error::Config { method: "Link", field, found: self.name(), allowed }
    }
}
