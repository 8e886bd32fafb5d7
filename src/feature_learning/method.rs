//! The training methods, their names and their learning-rate grids.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// How a two-layer model is trained. All but SGD and Adam alternate between `F` and `G`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// Joint gradient step on `(F, G)`.
    Sgd,
    /// `F <- F_LS(G)` on the batch, then `G <- qr_rows(G - eta dL/dG)`.
    Amgd,
    /// [`Amgd`](Method::Amgd) with the head fitted on the first half of the batch and the gradient taken on the second.
    AmgdSplit,
    /// [`AmgdSplit`](Method::AmgdSplit) with the gradient times the inverse input covariance of the second half ("de-bias and feature-whiten").
    Dfw,
    /// Joint Adam step on `(F, G)`: betas (0.9, 0.999), epsilon 1e-8, no decay.
    Adam,
    /// `G <- G - eta (F^T F + lambda_P I)^{-1} dL/dG (X^T X/n + lambda_G I)^{-1}`, then `F <- F - eta dL/dF (Z^T Z/n + lambda_P I)^{-1}` at the new `G`.
    Kfac,
    /// `F <- F_LS(G)`, then [`Kfac`](Method::Kfac)'s step of `G`, then `qr_rows`.
    KfacLs,
    /// [`Kfac`](Method::Kfac) with the left factor of `G` replaced by the identity ("gradient descent on neurons").
    Foof,
    /// [`Sgd`](Method::Sgd) on inputs that are standardised coordinate by coordinate with the mean and the variance of the batch.
    BnInSgd,
}

impl Method {
    /// Every method.
    pub const ALL: [Method; 9] = [
        Method::Sgd,
        Method::Amgd,
        Method::AmgdSplit,
        Method::Dfw,
        Method::Adam,
        Method::Kfac,
        Method::KfacLs,
        Method::Foof,
        Method::BnInSgd,
    ];

    /// The name in tables, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Method::Sgd => "sgd",
            Method::Amgd => "amgd",
            Method::AmgdSplit => "amgd_split",
            Method::Dfw => "dfw",
            Method::Adam => "adam",
            Method::Kfac => "kfac",
            Method::KfacLs => "kfac_ls",
            Method::Foof => "foof",
            Method::BnInSgd => "bn_in",
        }
    }

    /// The learning rates that a study tries: ours, each wide enough that the selected one lies inside at strong anisotropy.
    pub fn learning_rates(self) -> &'static [f64] {
        match self {
            Method::Sgd | Method::BnInSgd => &[3e-3, 1e-2, 2e-2, 4e-2, 8e-2],
            Method::Amgd | Method::AmgdSplit => &[1e-3, 3e-3, 1e-2, 2e-2, 4e-2],
            Method::Adam => &[3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
            Method::Kfac | Method::KfacLs | Method::Dfw => &[1e-2, 3e-2, 1e-1, 3e-1],
            Method::Foof => &[3e-3, 1e-2, 3e-2, 1e-1],
        }
    }

    /// True where `F` and `G` are updated from the same gradient.
    pub fn is_joint(self) -> bool {
        matches!(self, Method::Sgd | Method::Adam | Method::BnInSgd)
    }

    /// True where `G` has orthonormal rows after every step.
    pub fn is_normalised(self) -> bool {
        matches!(self, Method::Amgd | Method::AmgdSplit | Method::Dfw | Method::KfacLs)
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
            allowed: "sgd, amgd, amgd_split, dfw, adam, kfac, kfac_ls, foof or bn_in",
        })
    }
}
