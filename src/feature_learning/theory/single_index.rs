//! Alignment of the first gradient step on a single-index model, in the limit `dX, n, dh -> infinity` with `phi = dX/n`.
//!
//! With `-grad_G` close to the rank-one matrix `c_1/sqrt(dh) f beta_hat^T`, the step's right singular direction is `beta_hat = X^T y/n` for SGD and the
//! ridge estimate `(S + lambda I)^{-1} X^T y/n` for KFAC, `S` the sample covariance. Write `X^T y/n = c_{*1} S beta + X^T e/n`, where `e` (what is not linear in
//! `beta^T x`, and noise) is uncorrelated with `x` and has variance `v = c_{*>1}^2 + sigma_eps^2`. Quadratic forms of `S` concentrate on its Stieltjes transform,
//! which gives [`SingleIndexTheory::sgd`] and [`SingleIndexTheory::kfac`].
//!
//! The law of the covariance has mean 1 and `beta^T Sigma beta = 1`. The forms need a bounded spectrum in which no few directions dominate: with eigenvalues
//! `1/i` the form for SGD is off, as the simulation shows.

use crate::error::{Error, Result};
use crate::feature_learning::link::Link;
use crate::feature_learning::teacher::log_spaced_spectrum;

/// A family of covariance spectra, scaled to mean 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spectrum {
    /// All 1.
    Identity,
    /// Half (rounded up) `1 + eps`, half `1 - eps`, `0 <= eps < 1`.
    TwoLevel(f64),
    /// Log-spaced, largest over smallest this.
    LogSpaced(f64),
    /// The i-th proportional to `i^-exponent`.
    PowerLaw(f64),
}

impl Spectrum {
    /// The `d` eigenvalues, descending, with sum `d`.
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    pub fn eigenvalues(self, d: usize) -> Vec<f64> {
        let scaled = |raw: Vec<f64>| {
            let scale = d as f64 / raw.iter().sum::<f64>();
            raw.into_iter().map(|x| scale * x).collect()
        };
        match self {
            Spectrum::Identity => vec![1.0; d],
            Spectrum::TwoLevel(eps) => scaled((0..d).map(|i| if 2 * i < d { 1.0 + eps } else { 1.0 - eps }).collect()),
            Spectrum::LogSpaced(ratio) => log_spaced_spectrum(d, ratio),
            Spectrum::PowerLaw(exponent) => scaled((0..d).map(|i| (i as f64 + 1.0).powf(-exponent)).collect()),
        }
    }

    /// The name in tables and files.
    pub fn name(self) -> String {
        match self {
            Spectrum::Identity => "identity".into(),
            Spectrum::TwoLevel(eps) => format!("two_level_{eps}"),
            Spectrum::LogSpaced(ratio) => format!("log_spaced_{ratio}"),
            Spectrum::PowerLaw(exponent) => format!("power_law_{exponent}"),
        }
    }

    /// Checks the parameter.
    ///
    /// # Errors
    /// [`Error::Config`] where the spectrum would not be positive and finite.
    pub fn validate(self) -> Result<()> {
        let ok = match self {
            Spectrum::Identity => true,
            Spectrum::TwoLevel(eps) => (0.0..1.0).contains(&eps),
            Spectrum::LogSpaced(ratio) => (1.0..=1e8).contains(&ratio),
            Spectrum::PowerLaw(exponent) => (0.0..=4.0).contains(&exponent),
        };
        if ok {
            return Ok(());
        }
        let allowed = "eps in [0, 1), a ratio from 1 to 1e8, an exponent from 0 to 4";
        Err(Error::Config { method: "Spectrum", field: "parameter", found: self.name(), allowed })
    }
}

/// The law `H` of a covariance's eigenvalues: atoms with weights that sum to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Law {
    atoms: Vec<(f64, f64)>,
}

impl Law {
    /// Equal weights, equal eigenvalues joined. Positive eigenvalues are the caller's business, as [`Spectrum`] gives them.
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    pub fn of(eigenvalues: &[f64]) -> Self {
        let weight = 1.0 / eigenvalues.len() as f64;
        let mut atoms: Vec<(f64, f64)> = Vec::new();
        for &tau in eigenvalues {
            match atoms.last_mut() {
                Some(last) if last.0 == tau => last.1 += weight,
                _ => atoms.push((tau, weight)),
            }
        }
        Law { atoms }
    }

    fn mean(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.atoms.iter().map(|&(tau, weight)| weight * f(tau)).sum()
    }

    /// `m_j = int tau^j dH`.
    pub fn moment(&self, j: i32) -> f64 {
        self.mean(|tau| tau.powi(j))
    }

    /// `(m, m')` at `-lambda`: the Stieltjes transform of the limiting sample covariance at aspect ratio `phi = dX/n`, and its derivative, for `lambda > 0`.
    ///
    /// `m` solves `m = int dH / (tau (1 - phi + phi lambda m) + lambda)`. The right side less the left falls from `max(0, 1 - 1/phi)/lambda` to `1/lambda` and
    /// changes sign between them: bisection that takes Newton's step wherever it stays within the bracket. With `D` the denominator, `a = int tau/D^2`,
    /// `b = int 1/D^2`: `m' = (b + phi m a)/(1 + phi lambda a)`.
    pub fn stieltjes(&self, phi: f64, lambda: f64) -> (f64, f64) {
        let (mut low, mut high) = ((1.0 - 1.0 / phi).max(0.0) / lambda, 1.0 / lambda);
        let parts = |m: f64| {
            let d = |tau: f64| tau * (1.0 - phi + phi * lambda * m) + lambda;
            (self.mean(|tau| 1.0 / d(tau)), self.mean(|tau| tau / d(tau).powi(2)), self.mean(|tau| 1.0 / d(tau).powi(2)))
        };
        let mut m = 0.5 * (low + high);
        for _ in 0..200 {
            let (value, a, _) = parts(m);
            if value > m {
                low = m
            } else {
                high = m
            }
            let newton = m + (value - m) / (1.0 + phi * lambda * a);
            let next = if newton > low && newton < high { newton } else { 0.5 * (low + high) };
            let settled = (next - m).abs() <= 1e-15 * m;
            m = next;
            if settled {
                break;
            }
        }
        let (_, a, b) = parts(m);
        (m, (b + phi * m * a) / (1.0 + phi * lambda * a))
    }
}

/// What the alignment depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct SingleIndexTheory {
    law: Law,
    phi: f64,
    linear: f64,
    second: f64,
    noise: f64,
}

impl SingleIndexTheory {
    /// Predictions for eigenvalues of mean 1, `phi = dX/n`, a centred teacher and label noise of standard deviation `noise`.
    ///
    /// # Errors
    /// [`Error::Config`] where the teacher is not centred or has no linear part, or `phi` or an eigenvalue is not positive and finite.
    pub fn new(eigenvalues: &[f64], phi: f64, teacher: Link, noise: f64) -> Result<Self> {
        teacher.validate_teacher()?;
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if eigenvalues.is_empty() || !eigenvalues.iter().all(|x| positive(*x)) || !positive(phi) || !(noise >= 0.0 && noise.is_finite()) {
            let found = format!("{} eigenvalues, phi {phi}, noise {noise}", eigenvalues.len());
            let allowed = "positive eigenvalues, phi > 0, noise >= 0";
            return Err(Error::Config { method: "SingleIndexTheory", field: "eigenvalues", found, allowed });
        }
        let moments = teacher.moments();
        Ok(SingleIndexTheory { law: Law::of(eigenvalues), phi, linear: moments.linear, second: moments.second, noise })
    }

    /// `E y^2 = E sigma_*^2 + sigma_eps^2`.
    fn label(&self) -> f64 {
        self.second + self.noise * self.noise
    }

    /// Cosine between `X^T y/n` and the target: `c m_1 / sqrt(c^2 m_2 + phi m_1 E y^2)`.
    pub fn sgd(&self) -> f64 {
        let (m1, m2, c2) = (self.law.moment(1), self.law.moment(2), self.linear * self.linear);
        self.linear.abs() * m1 / (c2 * m2 + self.phi * m1 * self.label()).sqrt()
    }

    /// [`sgd`](Self::sgd) with infinite data, `m_1/sqrt(m_2)`: biased towards strong directions wherever the covariance is not isotropic.
    pub fn sgd_infinite_data(&self) -> f64 {
        self.law.moment(1) / self.law.moment(2).sqrt()
    }

    /// Cosine between `(S + lambda I)^{-1} X^T y/n` and the target, `lambda > 0`:
    /// `c (1 - lambda m) / sqrt(c^2 (1 - 2 lambda m + lambda^2 m') + phi v (m - lambda m'))`.
    ///
    /// Evaluated without its cancellations, which leave no digit at strong damping: with `k = 1 - phi + phi lambda m`, `D = tau k + lambda`, `a = int tau/D^2`,
    /// `t = 1 + phi lambda a`: `1 - lambda m = k int tau/D`, `m - lambda m' = k a/t`, and the squared norm is `k^2 int tau^2/D^2 + k phi (lambda a)^2/t`.
    pub fn kfac(&self, lambda: f64) -> f64 {
        let (law, phi) = (&self.law, self.phi);
        let k = 1.0 - phi + phi * lambda * law.stieltjes(phi, lambda).0;
        let d = |tau: f64| tau * k + lambda;
        let a = law.mean(|tau| tau / d(tau).powi(2));
        let t = 1.0 + phi * lambda * a;
        let overlap = k * law.mean(|tau| tau / d(tau));
        let signal = k * k * law.mean(|tau| (tau / d(tau)).powi(2)) + k * phi * (lambda * a).powi(2) / t;
        let (c2, v) = (self.linear * self.linear, self.label() - self.linear * self.linear);
        self.linear.abs() * overlap / (c2 * signal + phi * v * k * a / t).sqrt()
    }

    /// [`kfac`](Self::kfac) without damping, for `phi < 1`: `c / sqrt(c^2 + phi v m_{-1}/(1 - phi))`; 0 for `phi >= 1`, where noise takes over.
    pub fn kfac_undamped(&self) -> f64 {
        if self.phi >= 1.0 {
            return 0.0;
        }
        let (c2, v) = (self.linear * self.linear, self.label() - self.linear * self.linear);
        self.linear.abs() / (c2 + self.phi * v * self.law.moment(-1) / (1.0 - self.phi)).sqrt()
    }

    /// Whitening by the true covariance instead of the batch's: `c / sqrt(c^2 + phi m_{-1} E y^2)`.
    pub fn true_whitening(&self) -> f64 {
        let c2 = self.linear * self.linear;
        self.linear.abs() / (c2 + self.phi * self.law.moment(-1) * self.label()).sqrt()
    }

    /// `(lambda, cosine)` at the best damping between 1e-6 and 1e4: a scan of ten points a decade, refined by golden sections.
    pub fn best_damping(&self) -> (f64, f64) {
        let at = |exponent: f64| self.kfac(10f64.powf(exponent));
        let best = (-60..=40).map(|i| f64::from(i) / 10.0).fold((-6.0, -1.0), |best, e| if at(e) > best.1 { (e, at(e)) } else { best });
        let (mut low, mut high) = (best.0 - 0.1, best.0 + 0.1);
        let golden = 0.5 * (5f64.sqrt() - 1.0);
        while high - low > 1e-7 {
            let (left, right) = (high - golden * (high - low), low + golden * (high - low));
            if at(left) > at(right) { high = right } else { low = left }
        }
        let exponent = 0.5 * (low + high);
        (10f64.powf(exponent), at(exponent))
    }
}
