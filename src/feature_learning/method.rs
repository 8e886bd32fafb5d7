//! The training methods, their names and their learning-rate grids.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::optim::{self, Adam, AdamW, MuonScale, Sgd};

/// How a two-layer model is trained.
///
/// The methods of the first part alternate between `F` and `G` and are written for this model ([`scheme`](super::scheme)); those of the second compute one
/// gradient and hand it to an [`Optimizer`](crate::optim::Optimizer) of the library ([`optimizer`](Method::optimizer)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// `F <- F_LS(G)` on the batch, then `G <- qr_rows(G - eta dL/dG)`.
    Amgd,
    /// [`Amgd`](Method::Amgd) with the head fitted on the first half of the batch and the gradient taken on the second.
    AmgdSplit,
    /// [`AmgdSplit`](Method::AmgdSplit) with the gradient times the inverse input covariance of the second half ("de-bias and feature-whiten").
    Dfw,
    /// `G <- G - eta (F^T F + lambda_P I)^{-1} dL/dG (X^T X/n + lambda_G I)^{-1}`, then `F <- F - eta dL/dF (Z^T Z/n + lambda_P I)^{-1}` at the new `G`.
    Kfac,
    /// [`Kfac`](Method::Kfac) with the second moment of `F^T r_i`, `r_i` the residual of sample i, in the place of `F^T F`: the empirical Fisher's factor.
    KfacEmpirical,
    /// `F <- F_LS(G)`, then [`Kfac`](Method::Kfac)'s step of `G`, then `qr_rows`.
    KfacLs,
    /// [`Kfac`](Method::Kfac) with the left factor of `G` replaced by the identity ("gradient descent on neurons").
    Foof,
    /// Joint step `theta <- theta - eta (H + lambda I)^{-1} dL/dtheta` on `theta = (G, F)`, `H` the dense Gauss-Newton matrix with its cross block: the true
    /// Fisher of Gaussian noise of variance 1.
    NaturalGaussNewton,
    /// [`NaturalGaussNewton`](Method::NaturalGaussNewton) with the empirical Fisher matrix, the second moment of the samples' gradients.
    NaturalEmpirical,
    /// Joint gradient step on `(F, G)`.
    Sgd,
    /// Joint Adam step on `(F, G)`: betas (0.9, 0.999), epsilon 1e-8, no decay.
    Adam,
    /// [`Adam`](Method::Adam) with decoupled weight decay 0.01.
    AdamW,
    /// The sign of the gradient: Adam without memory, its first step.
    Sign,
    /// Shampoo with exponents -1/4, running averages of decay 0.999 (bias-corrected), ridge 1e-4 of the mean eigenvalue, no momentum, no graft.
    Shampoo,
    /// SOAP with the defaults of its reference, without weight decay.
    Soap,
    /// Muon with Nesterov momentum 0.95, the polar factor to rounding and scale 1.
    Muon,
    /// [`Sgd`](Method::Sgd) on inputs that are standardised coordinate by coordinate with the mean and the variance of the batch.
    BnInSgd,
    /// [`Adam`](Method::Adam) on standardised inputs.
    BnInAdam,
    /// [`Sgd`](Method::Sgd) with batch-norm on the hidden units, `f(x) = F (gamma * BN(G x))`, gamma from 1.
    BnHiddenSgd,
    /// [`Adam`](Method::Adam) on `F` and `G` with batch-norm on the hidden units; gamma takes plain gradient steps.
    BnHiddenAdam,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 20] = [
        Method::Sgd,
        Method::Amgd,
        Method::AmgdSplit,
        Method::Dfw,
        Method::Adam,
        Method::AdamW,
        Method::Sign,
        Method::BnInSgd,
        Method::BnInAdam,
        Method::BnHiddenSgd,
        Method::BnHiddenAdam,
        Method::Shampoo,
        Method::Soap,
        Method::Muon,
        Method::Kfac,
        Method::KfacEmpirical,
        Method::KfacLs,
        Method::Foof,
        Method::NaturalGaussNewton,
        Method::NaturalEmpirical,
    ];

    /// The name in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Method::Sgd => "sgd",
            Method::Amgd => "amgd",
            Method::AmgdSplit => "amgd_split",
            Method::Dfw => "dfw",
            Method::Adam => "adam",
            Method::AdamW => "adamw",
            Method::Sign => "sign",
            Method::BnInSgd => "bn_in",
            Method::BnInAdam => "bn_in_adam",
            Method::BnHiddenSgd => "bn_hid",
            Method::BnHiddenAdam => "bn_hid_adam",
            Method::Shampoo => "shampoo",
            Method::Soap => "soap",
            Method::Muon => "muon",
            Method::Kfac => "kfac",
            Method::KfacEmpirical => "kfac_emp",
            Method::KfacLs => "kfac_ls",
            Method::Foof => "foof",
            Method::NaturalGaussNewton => "ngd_gn",
            Method::NaturalEmpirical => "ngd_emp",
        }
    }

    /// The name in legends.
    pub fn label(self) -> &'static str {
        match self {
            Method::Sgd => "SGD",
            Method::Amgd => "AMGD",
            Method::AmgdSplit => "AMGD, split batch",
            Method::Dfw => "DFW",
            Method::Adam => "Adam",
            Method::AdamW => "AdamW",
            Method::Sign => "sign",
            Method::BnInSgd => "BN-input + SGD",
            Method::BnInAdam => "BN-input + Adam",
            Method::BnHiddenSgd => "BN-hidden + SGD",
            Method::BnHiddenAdam => "BN-hidden + Adam",
            Method::Shampoo => "Shampoo",
            Method::Soap => "SOAP",
            Method::Muon => "Muon",
            Method::Kfac => "KFAC",
            Method::KfacEmpirical => "KFAC, empirical",
            Method::KfacLs => "KFAC-LS",
            Method::Foof => "FOOF",
            Method::NaturalGaussNewton => "NGD, Gauss-Newton",
            Method::NaturalEmpirical => "NGD, empirical",
        }
    }

    /// The learning rates that a study tries: ours, each wide enough that the selected one lies inside at strong anisotropy.
    pub fn learning_rates(self) -> &'static [f64] {
        match self {
            Method::Sgd | Method::BnInSgd => &[3e-3, 1e-2, 2e-2, 4e-2, 8e-2],
            Method::Amgd | Method::AmgdSplit => &[1e-3, 3e-3, 1e-2, 2e-2, 4e-2],
            Method::Adam | Method::AdamW => &[3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
            Method::BnInAdam | Method::BnHiddenAdam => &[1e-2, 3e-2, 1e-1],
            Method::BnHiddenSgd | Method::Foof | Method::Muon | Method::Soap => &[3e-3, 1e-2, 3e-2, 1e-1],
            Method::Sign => &[3e-4, 1e-3, 3e-3, 1e-2],
            Method::Shampoo => &[1e-2, 3e-2, 1e-1],
            Method::Kfac | Method::KfacEmpirical | Method::KfacLs | Method::Dfw => &[1e-2, 3e-2, 1e-1, 3e-1],
            Method::NaturalGaussNewton | Method::NaturalEmpirical => &[1e-2, 3e-2, 1e-1, 3e-1],
        }
    }

    /// True where `G` has orthonormal rows after every step.
    pub fn is_normalised(self) -> bool {
        matches!(self, Method::Amgd | Method::AmgdSplit | Method::Dfw | Method::KfacLs)
    }

    /// True where the hidden units are batch-normalised.
    pub fn normalises_hidden(self) -> bool {
        matches!(self, Method::BnHiddenSgd | Method::BnHiddenAdam)
    }

    /// True where the inputs are batch-normalised.
    pub fn normalises_inputs(self) -> bool {
        matches!(self, Method::BnInSgd | Method::BnInAdam)
    }

    /// The library's optimizer of `F` and `G` that this is, with the settings of the study; none for methods with update rules of their own.
    pub fn optimizer(self) -> Option<optim::Method> {
        match self {
            Method::Sgd | Method::BnInSgd | Method::BnHiddenSgd => Some(Sgd::default().into()),
            Method::Adam | Method::BnInAdam | Method::BnHiddenAdam => Some(Adam::default().into()),
            Method::AdamW => Some(AdamW::default().into()),
            Method::Sign => Some(Adam { beta1: 0.0, beta2: 0.0, epsilon: 1e-30, ..Adam::default() }.into()),
            Method::Shampoo => Some(
                optim::Shampoo {
                    beta1: 0.0,
                    accumulation: optim::Accumulation::Ema,
                    epsilon: 1e-4,
                    epsilon_scale: optim::EpsilonScale::RelativeToMean,
                    ..optim::Shampoo::default()
                }
                .into(),
            ),
            Method::Soap => Some(optim::Soap { weight_decay: 0.0, ..optim::Soap::default() }.into()),
            Method::Muon => Some(
                optim::Muon {
                    newton_schulz: crate::linalg::NewtonSchulz::PolarExpress8,
                    scale: MuonScale::Original,
                    fan_out: Some(1),
                    fan_in: Some(1),
                    ..optim::Muon::default()
                }
                .into(),
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Method::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| Error::Config {
            method: "Method",
            field: "name",
            found: name.into(),
            allowed: "sgd, amgd, amgd_split, dfw, adam, adamw, sign, bn_in, bn_in_adam, bn_hid, bn_hid_adam, shampoo, soap, muon, kfac, kfac_emp, kfac_ls, \
                      foof, ngd_gn or ngd_emp",
        })
    }
}
