//! The methods as one type, and the checks that their fields share.

use super::adam::{Adam, AdamW};
use super::beats::Beats;
use super::eigenvalue_corrected::EigenvalueCorrectedShampoo;
use super::foof::Foof;
use super::kfac::Kfac;
use super::muon::Muon;
use super::natural_gradient::NaturalGradient;
use super::sgd::Sgd;
use super::shampoo::Shampoo;
use super::soap::Soap;
use crate::error::{Error, Result};
use crate::plan::block;

/// One row of the hyper-parameter block.
pub(crate) type Row = [f32; block::WIDTH];

/// An optimizer's published method with its settings. Each config struct converts into it.
///
/// With feature `serde` it is an object whose `optimizer` names the method (`sgd`, `adam`, `adamw`, `kfac`, `foof`,
/// `natural_gradient`, `shampoo`, `eigenvalue_corrected_shampoo`, `soap`, `muon`) beside the fields of its
/// struct: what is missing has the documented default, what is unknown is an error. Enums are in snake case, fields of a variant below its name and
/// all required. [`validate`](Self::validate) checks ranges.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use layerwise::optim::{Graft, Method, Shampoo};
/// let text = r#"{"optimizer": "shampoo", "graft": {"adam": {"beta2": 0.99, "epsilon": 1e-8}}}"#;
/// let method: Method = serde_json::from_str(text)?;
/// assert_eq!(method, Shampoo { graft: Graft::Adam { beta2: 0.99, epsilon: 1e-8 }, ..Shampoo::default() }.into());
/// assert!(serde_json::from_str::<Method>(r#"{"optimizer": "sgd", "momentun": 0.9}"#).is_err());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(tag = "optimizer", rename_all = "snake_case"))]
pub enum Method {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam with L2 decay.
    Adam(Adam),
    /// Adam with decoupled decay.
    #[cfg_attr(feature = "serde", serde(rename = "adamw"))]
    AdamW(AdamW),
    /// Kronecker-factored curvature.
    Kfac(Kfac),
    /// The input factor of Kronecker-factored curvature alone.
    Foof(Foof),
    /// Dense curvature.
    NaturalGradient(NaturalGradient),
    /// Inverse roots of the gradient's second-moment matrices.
    Shampoo(Shampoo),
    /// Orthogonalised momentum.
    Muon(Muon),
    /// Adam in the eigenbasis of those matrices.
    Soap(Soap),
    /// Shampoo whose eigenvalues are second moments of the rotated gradient.
    EigenvalueCorrectedShampoo(EigenvalueCorrectedShampoo),
}

macro_rules! from {
    ($($name:ident),*) => {
        $(impl From<$name> for Method {
            fn from(method: $name) -> Method {
                Method::$name(method)
            }
        })*
    };
}
from!(Sgd, Adam, AdamW, Kfac, Foof, NaturalGradient, Shampoo, Muon, Soap, EigenvalueCorrectedShampoo);

impl Method {
    /// The config struct's name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Method::Sgd(_) => "Sgd",
            Method::Adam(_) => "Adam",
            Method::AdamW(_) => "AdamW",
            Method::Kfac(_) => "Kfac",
            Method::Foof(_) => "Foof",
            Method::NaturalGradient(_) => "NaturalGradient",
            Method::Shampoo(_) => "Shampoo",
            Method::Muon(_) => "Muon",
            Method::Soap(_) => "Soap",
            Method::EigenvalueCorrectedShampoo(_) => "EigenvalueCorrectedShampoo",
        }
    }
}

impl Method {
    /// Checks every field, as [`Builder::build`](super::Builder::build) does.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field outside its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Method::Sgd(m) => m.validate(),
            Method::Adam(m) => m.validate(),
            Method::AdamW(m) => m.validate(),
            Method::Kfac(m) => m.validate(),
            Method::Foof(m) => m.validate(),
            Method::NaturalGradient(m) => m.validate(),
            Method::Shampoo(m) => m.validate(),
            Method::Muon(m) => m.validate(),
            Method::Soap(m) => m.validate(),
            Method::EigenvalueCorrectedShampoo(m) => m.validate(),
        }
    }
}

/// How past and new terms add up, in [`Muon`]'s momentum and in [`Shampoo`]'s statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Accumulation {
    /// `s <- decay s + (1 - decay) x`.
    #[default]
    Ema,
    /// [`Muon`]: `s <- decay s + x`; [`Shampoo`]: `s <- s + x`.
    Sum,
}

/// How much and where weights decay, by `lambda` a step (times the learning rate).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum WeightDecay {
    /// `G <- G + lambda W`, before everything else: in statistics, momentum and moments.
    L2(f64),
    /// `W <- (1 - learning_rate lambda) W` beside the update (Loshchilov, Hutter 2019). [`Shampoo`] adds `lambda W` to its direction before momentum
    /// instead, as its reference does.
    Decoupled(f64),
    /// As `Decoupled`, only where the update moves the weight towards zero too (Chen and others 2025, "Cautious weight decay": where direction and weight
    /// have one sign).
    Cautious(f64),
}

impl WeightDecay {
    /// `lambda`.
    pub fn amount(self) -> f64 {
        let (WeightDecay::L2(x) | WeightDecay::Decoupled(x) | WeightDecay::Cautious(x)) = self;
        x
    }
}

/// Rounds a setting to what the device computes with.
#[allow(clippy::cast_possible_truncation, reason = "settings are f64 for the user's sake; the device has f32")]
pub(crate) fn narrow(x: f64) -> f32 {
    x as f32
}

/// Sets one column.
pub(crate) fn put(row: &mut Row, column: u32, x: f64) {
    row[column as usize] = narrow(x);
}

/// Checks fields of one config struct. Every check is of the value that the device will see, so 1e-40 is not positive and 1e60 is not finite.
pub(crate) struct Check(pub(crate) &'static str);

impl Check {
    pub(crate) fn that(&self, field: &'static str, good: bool, found: impl std::fmt::Display, allowed: &'static str) -> Result<()> {
        if good {
            return Ok(());
        }
        Err(Error::Config { method: self.0, field, found: found.to_string(), allowed })
    }

    pub(crate) fn non_negative(&self, field: &'static str, x: f64) -> Result<()> {
        self.that(field, x >= 0.0 && narrow(x).is_finite(), x, "a finite number >= 0")
    }

    pub(crate) fn positive(&self, field: &'static str, x: f64) -> Result<()> {
        // A GPU may flush smaller ones to zero.
        self.that(field, narrow(x) >= f32::MIN_POSITIVE && narrow(x).is_finite(), x, "a finite f32 >= 1.18e-38")
    }

    /// Decays: `[0, 1)`.
    pub(crate) fn decay(&self, field: &'static str, x: f64) -> Result<()> {
        self.that(field, x >= 0.0 && narrow(x) < 1.0, x, "0 <= x < 1")
    }

    /// `[0, 1]`.
    pub(crate) fn fraction(&self, field: &'static str, x: f64) -> Result<()> {
        self.that(field, (0.0..=1.0).contains(&x), x, "0 <= x <= 1")
    }

    pub(crate) fn at_least_one(&self, field: &'static str, x: u64) -> Result<()> {
        self.that(field, x >= 1, x, "at least 1")
    }
}
