//! Kronecker-factored approximate curvature.

mod adaptation;
pub(super) mod clip;
mod roots;
pub(super) mod statistics;

use std::ops::Range;

pub use adaptation::LevenbergMarquardt;
use roots::Roots;

use super::beats::{Beats, Keep, Kind};
use super::config::{Check, Row, put};
use super::stack::{Stack, TapValues};
use crate::error::Result;
use crate::plan::{DecayForm, Recorder, SgdUpdate, Value, block};

/// How the damping enters the two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum DampingSplit {
    /// `damping` is added to both factors (kfac-pytorch).
    Plain,
    /// `pi sqrt(damping)` to the right and `sqrt(damping) / pi` to the left factor, `pi^2 = (tr R / in) / (tr L / out)` (Martens, Grosse 2015, section 6.3).
    /// kfac-jax's pi-adjusted factors give the same direction.
    Pi,
}

/// How the damped product of the two factors is inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum KfacForm {
    /// `(L + lambda_L I)^{-1} G (R + lambda_R I)^{-1}` (kfac-pytorch's `inverse` method).
    Inverse,
    /// `(L kron R + lambda I)^{-1}`, exactly, in the eigenbases of both factors (kfac-pytorch's `eigen` method; kfac-jax's exact inverse of its
    /// Kronecker-factored blocks).
    Eigen,
}

/// How the statistics' running averages start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum StatisticsStart {
    /// From the identity (kfac-pytorch).
    Identity,
    /// From the first batch's factors.
    FirstBatch,
    /// From zero with bias correction by a carried weight (kfac-jax): all batches so far, with weights that decay into the past.
    BiasCorrected,
}

/// What the output gradients of [`Taps::Samples`](super::Taps::Samples), which are gradients of the mean loss, count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum OutputGradients {
    /// As they are (kfac-pytorch): the left factor is smaller by `n^2` than the Fisher's.
    MeanLoss,
    /// Times `sqrt(n)`: the left factor is the sum over the batch (kfac-jax's `fisher_empirical`).
    BatchSum,
    /// Times `n`, the gradients of each sample's own loss: the left factor of the (empirical) Fisher.
    PerSample,
}

impl OutputGradients {
    /// What the mean of `g g^T` over `n` samples is multiplied by.
    pub(super) fn scale(self, n: usize) -> f32 {
        let n = n as f32;
        match self {
            OutputGradients::MeanLoss => 1.0,
            OutputGradients::BatchSum => n,
            OutputGradients::PerSample => n * n,
        }
    }
}

/// KFAC (Martens, Grosse 2015) with exact inverses of damped factors, momentum and KL clip: kfac-pytorch's `inverse` method followed by PyTorch's SGD,
/// step for step, with the defaults; its `eigen` method with [`KfacForm::Eigen`].
///
/// For a layer `y = W x` with inputs `x` (a trailing 1 where the weight has a bias column) and output gradients `g`, over a batch of `n`:
/// ```text
/// R <- decay R + (1 - decay) mean(x x^T)                every statistics_every steps
/// L <- decay L + (1 - decay) mean(g g^T)
/// P = (L + lambda_L I)^{-1} G (R + lambda_R I)^{-1}     KfacForm::Inverse; inverses every precondition_every steps
/// P = U ((U^T G V) / (l r^T + lambda)) V^T              KfacForm::Eigen; L = U diag(l) U^T, R = V diag(r) V^T every precondition_every steps, l, r >= 0
/// nu = min(1, sqrt(kl_clip / |learning_rate^2 sum over layers of <P, G>|)), 1 where the sum is 0
/// D = nu P + weight_decay W
/// B <- momentum B + D                                   B = D at the first step
/// W <- W - learning_rate B
/// ```
/// A sum that is not finite makes `nu` 0, also without a clip: a direction that overflowed moves nothing, and is counted
/// ([`TrialHealth::failed_directions`](super::TrialHealth::failed_directions)). With `norm_constraint` instead of `kl_clip` the sum counts as it is, not by its
/// magnitude, and a negative one gives 1 (kfac-jax).
///
/// The clip's sum runs over all layers of the group, for each trial by itself, and leaves out layers whose gradient was refused. With momentum, `W`'s
/// update equals kfac-jax's `delta <- momentum delta - learning_rate P` as long as the learning rate is constant. With [`KfacForm::Eigen`],
/// [`OutputGradients::BatchSum`], [`StatisticsStart::BiasCorrected`] and no clip a run equals kfac-jax's with `estimation_mode="fisher_empirical"`, fixed
/// learning rate, momentum and damping, and exact inverses.
///
/// In the eigen form the current damping enters at every step; in the inverse form at every refresh.
///
/// Before `start_step` the direction is the plain gradient, unclipped. A layer whose factors could not be inverted keeps its previous inverses, the
/// identity if there are none (in the eigen form factors count as the identity: the direction is `G / (1 + lambda)`), and multiplies its damping by 10 for
/// its next refresh, in the eigen form at once. Taps whose factor would overflow are refused like taps that are not finite. With several layers and `precondition_every > 1` the refreshes
/// are spread over the steps ([`Schedule`](super::Schedule)).
///
/// State for each layer and trial: two `[out, out]` and two `[in, in]` matrices, one of the weight's shape with momentum or adaptation, and `out + in`
/// eigenvalues in the eigen form. A refresh costs about `3 (out^3 + in^3)` flops, an update `2 out in (out + in)`; in the eigen form `9 (out^3 + in^3)` (several
/// times that on a GPU) and `4 out in (out + in)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Kfac {
    /// Learning rate, at least 0. Default 0.1 (kfac-pytorch).
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0.9 (kfac-pytorch's examples).
    pub momentum: f64,
    /// Default [`KfacForm::Inverse`] (kfac-pytorch's default is `eigen`; ours needs no eigenvalues, which are slow on a GPU).
    pub form: KfacForm,
    /// Damping lambda, absolute, at least 0. Default 1e-3 (kfac-pytorch).
    pub damping: f64,
    /// Of [`KfacForm::Inverse`]; with the eigen form, which has one damping, [`DampingSplit::Plain`] alone is accepted. Default [`DampingSplit::Plain`]
    /// (kfac-pytorch).
    pub damping_split: DampingSplit,
    /// Decay of the running averages in `[0, 1)`; 0 keeps the last batch alone. Default 0.95 (kfac-pytorch).
    pub decay: f64,
    /// Default [`StatisticsStart::Identity`] (kfac-pytorch).
    pub statistics_start: StatisticsStart,
    /// Default [`OutputGradients::MeanLoss`] (kfac-pytorch).
    pub output_gradients: OutputGradients,
    /// KL clip kappa, positive, or none. Default 1e-3 (kfac-pytorch).
    pub kl_clip: Option<f64>,
    /// Norm constraint kappa, positive, or none: `P <- P min(1, sqrt(kappa / (learning_rate^2 <P, G>)))`. Not both this and `kl_clip`. Default none (kfac-jax's
    /// `norm_constraint`).
    pub norm_constraint: Option<f64>,
    /// Adapts the damping to how well the quadratic model predicts observed losses. Needs a positive damping. Default none.
    pub adaptation: Option<LevenbergMarquardt>,
    /// Steps between two accumulations, at least 1. Default 1 (kfac-pytorch's `factor_update_steps`).
    pub statistics_every: u64,
    /// Steps between two refreshes of a layer's inverses, at least 1. Default 1 (kfac-pytorch's `inv_update_steps`).
    pub precondition_every: u64,
    /// First step (counted from 0) with a preconditioned update. Default 0.
    pub start_step: u64,
    /// L2 decay, at least 0, added behind the preconditioner, as SGD does after kfac-pytorch. Default 0 (PyTorch).
    pub weight_decay: f64,
}

impl Default for Kfac {
    fn default() -> Self {
        Kfac {
            learning_rate: 0.1,
            momentum: 0.9,
            form: KfacForm::Inverse,
            damping: 1e-3,
            damping_split: DampingSplit::Plain,
            decay: 0.95,
            statistics_start: StatisticsStart::Identity,
            output_gradients: OutputGradients::MeanLoss,
            kl_clip: Some(1e-3),
            norm_constraint: None,
            adaptation: None,
            statistics_every: 1,
            precondition_every: 1,
            start_step: 0,
            weight_decay: 0.0,
        }
    }
}

/// What KFAC keeps of a stack.
pub(crate) struct State {
    momentum: Option<Value>,
    left_statistics: Value,
    right_statistics: Value,
    roots: Roots,
}

impl Beats for Kfac {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Kfac");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.non_negative("damping", self.damping)?;
        let plain = self.form == KfacForm::Inverse || self.damping_split == DampingSplit::Plain;
        check.that("damping_split", plain, "Pi with KfacForm::Eigen", "`Plain`: the eigen form has one damping")?;
        check.decay("decay", self.decay)?;
        self.kl_clip.map_or(Ok(()), |clip| check.positive("kl_clip", clip))?;
        self.norm_constraint.map_or(Ok(()), |clip| check.positive("norm_constraint", clip))?;
        let both = self.kl_clip.is_some() && self.norm_constraint.is_some();
        check.that("norm_constraint", !both, "given beside `kl_clip`", "one of the two: set `kl_clip` to None")?;
        self.adaptation.map_or(Ok(()), |adaptation| adaptation.validate(self.damping))?;
        check.at_least_one("statistics_every", self.statistics_every)?;
        check.at_least_one("precondition_every", self.precondition_every)?;
        check.non_negative("weight_decay", self.weight_decay)
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::MOMENTUM, self.momentum);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
        put(row, block::DAMPING, self.damping);
        put(row, block::DECAY, self.decay);
        put(row, block::KL_CLIP, self.kl_clip.or(self.norm_constraint).unwrap_or(0.0));
        if self.statistics_start == StatisticsStart::Identity {
            put(row, block::STATISTICS_WEIGHT, 1.0);
        }
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((self.statistics_every, self.precondition_every, self.start_step))
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let (out, inn) = (stack.weight.rows(), stack.weight.cols());
        let identity = self.statistics_start == StatisticsStart::Identity;
        // The adaptation reads the last step from the momentum, which without momentum holds nothing else.
        let still = self.momentum == 0.0 && self.adaptation.is_none();
        Ok(State {
            momentum: if still { None } else { Some(keep.moment(stack, "momentum")?) },
            left_statistics: keep.square(stack, "left_statistics", out, Kind::Statistics, identity)?,
            right_statistics: keep.square(stack, "right_statistics", inn, Kind::Statistics, identity)?,
            roots: Roots::declare(self.form, stack, keep)?,
        })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        statistics::advance(r, stack, self.statistics_start)?;
        match stack.taps {
            Some(TapValues::Samples { inputs, output_gradients }) => {
                let scale = self.output_gradients.scale(output_gradients.rows());
                statistics::sample_average(r, stack, inputs, 1.0, state.right_statistics)?;
                statistics::sample_average(r, stack, output_gradients, scale, state.left_statistics)
            }
            Some(TapValues::Factors { left, right }) => {
                statistics::factor_average(r, stack, right, state.right_statistics)?;
                statistics::factor_average(r, stack, left, state.left_statistics)
            }
            _ => Ok(()),
        }
    }

    fn largest_scale(&self, samples: usize) -> f32 {
        self.output_gradients.scale(samples)
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let items = layers.start * stack.trials..layers.end * stack.trials;
        let statistics = [state.left_statistics.item_range(items.clone())?, state.right_statistics.item_range(items.clone())?];
        state.roots.refresh(r, &stack.name, stack.block.item_range(items.clone())?, statistics, self.damping_split, items)
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], preconditioned: bool) -> Result<()> {
        if preconditioned {
            let mut directions = Vec::with_capacity(stacks.len());
            for (stack, state) in stacks {
                directions.push(state.roots.direction(r, stack)?);
            }
            // Also without a clip, where the factor is 1: it is 0 for a direction that overflowed.
            let factors = clip::factors(r, stacks, &directions, self.norm_constraint.is_some())?;
            for (((stack, state), direction), factor) in stacks.iter().zip(directions).zip(factors) {
                update(r, stack, state.momentum, direction, Some(factor))?;
            }
        } else {
            stacks.iter().try_for_each(|(stack, state)| update(r, stack, state.momentum, stack.gradient, None))?;
        }
        self.adaptation.map_or(Ok(()), |adaptation| adaptation.predict(r, stacks))
    }

    fn observes(&self) -> bool {
        self.adaptation.is_some()
    }

    fn observe(&self, r: &mut Recorder, stacks: &[(Stack, State)], loss: Value) -> Result<()> {
        self.adaptation.map_or(Ok(()), |adaptation| adaptation.observe(r, stacks, loss))
    }
}

/// `SGD`'s tail on a direction.
pub(super) fn update(r: &mut Recorder, stack: &Stack, momentum: Option<Value>, direction: Value, g_scale: Option<Value>) -> Result<()> {
    let decay = stack.decay(DecayForm::Gradient);
    r.record(SgdUpdate { w: stack.weight, g: direction, m: momentum, g_scale, nesterov: false, decay, block: stack.block })
}
