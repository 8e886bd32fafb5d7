//! Kronecker-factored approximate curvature.

use std::ops::Range;

use super::beats::{Beats, Keep, Kind};
use super::config::{Check, Row, put};
use super::stack::{Stack, TapValues};
use crate::error::Result;
use crate::linalg::spd_inverse;
use crate::plan::{
    Advance, Axpby, Clock, Coef, FactorDamping, KlClip, KronFactor, Recorder, Reduce, ReduceKind, RootOutcome, SgdUpdate, Value, block,
};
use crate::tensor::Shape;

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
    /// Times `n`, the gradients of each sample's own loss: the left factor of the (empirical) Fisher.
    PerSample,
}

/// KFAC (Martens, Grosse 2015) with exact inverses of damped factors, momentum and KL clip: kfac-pytorch's `inverse` method followed by PyTorch's SGD,
/// step for step, with the defaults.
///
/// For a layer `y = W x` with inputs `x` (a trailing 1 where the weight has a bias column) and output gradients `g`, over a batch of `n`:
/// ```text
/// R <- decay R + (1 - decay) mean(x x^T)                every statistics_every steps
/// L <- decay L + (1 - decay) mean(g g^T)
/// P = (L + lambda_L I)^{-1} G (R + lambda_R I)^{-1}     inverses every precondition_every steps
/// nu = min(1, sqrt(kl_clip / |learning_rate^2 sum over layers of <P, G>|)), 1 where the sum is 0
/// D = nu P + weight_decay W
/// B <- momentum B + D                                   B = D at the first step
/// W <- W - learning_rate B
/// ```
/// A sum that is not finite makes `nu` 0, also without a clip: a direction that overflowed moves nothing.
///
/// The clip's sum runs over all layers of the group, for each trial by itself, and leaves out layers whose gradient was refused. With momentum, `W`'s
/// update equals kfac-jax's `delta <- momentum delta - learning_rate P` as long as the learning rate is constant.
///
/// Before `start_step` the direction is the plain gradient, unclipped. A layer whose factors could not be inverted keeps its previous inverses, the
/// identity if there are none, and multiplies its damping by 10 for its next refresh. With several layers and `precondition_every > 1` the refreshes
/// are spread over the steps ([`Schedule`](super::Schedule)).
///
/// State for each layer and trial: two `[out, out]` and two `[in, in]` matrices, and one of the weight's shape with momentum. A refresh costs about
/// `3 (out^3 + in^3)` flops, an update `2 out in (out + in)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Kfac {
    /// Learning rate, at least 0. Default 0.1 (kfac-pytorch).
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0.9 (kfac-pytorch's examples).
    pub momentum: f64,
    /// Damping lambda, absolute, at least 0. Default 1e-3 (kfac-pytorch).
    pub damping: f64,
    /// Default [`DampingSplit::Plain`] (kfac-pytorch).
    pub damping_split: DampingSplit,
    /// Decay of the running averages in `[0, 1)`; 0 keeps the last batch alone. Default 0.95 (kfac-pytorch).
    pub decay: f64,
    /// Default [`StatisticsStart::Identity`] (kfac-pytorch).
    pub statistics_start: StatisticsStart,
    /// Default [`OutputGradients::MeanLoss`] (kfac-pytorch).
    pub output_gradients: OutputGradients,
    /// KL clip kappa, positive, or none. Default 1e-3 (kfac-pytorch).
    pub kl_clip: Option<f64>,
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
            damping: 1e-3,
            damping_split: DampingSplit::Plain,
            decay: 0.95,
            statistics_start: StatisticsStart::Identity,
            output_gradients: OutputGradients::MeanLoss,
            kl_clip: Some(1e-3),
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
    left_inverse: Value,
    right_inverse: Value,
}

impl Beats for Kfac {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Kfac");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.non_negative("damping", self.damping)?;
        check.decay("decay", self.decay)?;
        self.kl_clip.map_or(Ok(()), |clip| check.positive("kl_clip", clip))?;
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
        put(row, block::KL_CLIP, self.kl_clip.unwrap_or(0.0));
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
        Ok(State {
            momentum: if self.momentum == 0.0 { None } else { Some(keep.moment(stack, "momentum")?) },
            left_statistics: keep.square(stack, "left_statistics", out, Kind::Statistics, identity)?,
            right_statistics: keep.square(stack, "right_statistics", inn, Kind::Statistics, identity)?,
            left_inverse: keep.square(stack, "left_inverse", out, Kind::Root, true)?,
            right_inverse: keep.square(stack, "right_inverse", inn, Kind::Root, true)?,
        })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        let clock = match self.statistics_start {
            StatisticsStart::Identity => Clock::StatisticsFromIdentity,
            StatisticsStart::FirstBatch => Clock::StatisticsFromFirst,
            StatisticsStart::BiasCorrected => Clock::StatisticsBiasCorrected,
        };
        r.record(Advance { block: stack.block, clock })?;
        match stack.taps {
            None => Ok(()),
            Some(TapValues::Samples { inputs, output_gradients }) => {
                let n = output_gradients.rows() as f32;
                let scale = if self.output_gradients == OutputGradients::PerSample { n * n } else { 1.0 };
                sample_average(r, stack, inputs, 1.0, state.right_statistics)?;
                sample_average(r, stack, output_gradients, scale, state.left_statistics)
            }
            Some(TapValues::Factors { left, right }) => {
                factor_average(r, stack, right, state.right_statistics)?;
                factor_average(r, stack, left, state.left_statistics)
            }
        }
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let items = layers.start * stack.trials..layers.end * stack.trials;
        let part = |value: Value| value.item_range(items.clone());
        let (left, right, block) = (part(state.left_statistics)?, part(state.right_statistics)?, part(stack.block)?);
        let (left_mean, right_mean) = match self.damping_split {
            DampingSplit::Plain => (None, None),
            DampingSplit::Pi => (
                Some(r.reduce(ReduceKind::Trace, 1.0 / left.rows() as f32, left)?),
                Some(r.reduce(ReduceKind::Trace, 1.0 / right.rows() as f32, right)?),
            ),
        };
        let damping = r.scratch(format!("{}.factor_damping", stack.name), Shape::new(items.len(), 1, 2))?;
        r.record(FactorDamping { left_mean, right_mean, block, out: damping })?;
        let (left, left_ok) = spd_inverse(r, left, Coef::column(0), Some(damping))?;
        let (right, right_ok) = spd_inverse(r, right, Coef::column(1), Some(damping))?;
        let ok = r.scratch(format!("{}.ok", stack.name), Shape::new(items.len(), 1, 1))?;
        r.record(RootOutcome { left_ok, right_ok, ok, block })?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(left, part(state.left_inverse)?) })?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(right, part(state.right_inverse)?) })
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], preconditioned: bool) -> Result<()> {
        if !preconditioned {
            return stacks.iter().try_for_each(|(stack, state)| update(r, stack, state, stack.gradient, None));
        }
        let mut directions = Vec::with_capacity(stacks.len());
        for (stack, state) in stacks {
            let half = r.matmul(state.left_inverse, stack.gradient)?;
            directions.push(r.matmul(half, state.right_inverse)?);
        }
        // Also without a clip, where the factor is 1: it is 0 for a direction that overflowed.
        let clip = clip_factor(r, stacks, &directions)?;
        for ((stack, state), direction) in stacks.iter().zip(directions) {
            update(r, stack, state, direction, Some(clip.repeat(1, stack.trials)?))?;
        }
        Ok(())
    }
}

fn update(r: &mut Recorder, stack: &Stack, state: &State, direction: Value, g_scale: Option<Value>) -> Result<()> {
    r.record(SgdUpdate { w: stack.weight, g: direction, m: state.momentum, g_scale, nesterov: false, decoupled: false, block: stack.block })
}

/// Running average of `x^T x / n` with the effective decay of this accumulation.
fn sample_average(r: &mut Recorder, stack: &Stack, x: Value, scale: f32, out: Value) -> Result<()> {
    r.record(KronFactor {
        ones: out.rows() != x.cols(),
        decay: Coef::column(block::STATISTICS_DECAY),
        scale,
        block: Some(stack.block),
        gate: Some(stack.column(block::GATE)?),
        ..KronFactor::new(x, out)
    })
}

/// Running average of a given factor, as `x + decay (out - x)`: a decay of 0 gives `x` exactly.
fn factor_average(r: &mut Recorder, stack: &Stack, x: Value, out: Value) -> Result<()> {
    let change = r.axpby(1.0, out, -1.0, x)?;
    r.record(Axpby {
        beta: Coef::column(block::STATISTICS_DECAY),
        block: Some(stack.block),
        gate: Some(stack.column(block::GATE)?),
        ..Axpby::add(x, change, out)
    })
}

/// The KL clip of each trial, `[trials, 1, 1]`.
fn clip_factor(r: &mut Recorder, stacks: &[(Stack, State)], directions: &[Value]) -> Result<Value> {
    let items = stacks.iter().map(|(stack, _)| stack.items()).sum();
    let raw = r.scratch("dots.raw", Shape::new(items, 1, 1))?;
    let dots = r.scratch("dots", Shape::new(items, 1, 1))?;
    // Layers whose gradient was refused have a meaningless product: they stay at 0.
    r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(raw, dots) })?;
    let mut first = 0;
    for ((stack, _), direction) in stacks.iter().zip(directions) {
        let range = first..first + stack.items();
        first = range.end;
        let product = raw.item_range(range.clone())?;
        r.record(Reduce { kind: ReduceKind::Dot, x: *direction, y: Some(stack.gradient), out: product, scale: 1.0 })?;
        r.record(Axpby { gate: Some(stack.column(block::GATE)?), ..Axpby::copy(product, dots.item_range(range)?) })?;
    }
    // The learning rate and the clip are those of the first layer; all layers of a trial share them.
    let first = &stacks[0].0;
    let clip = r.scratch("kl_clip", Shape::new(first.trials, 1, 1))?;
    r.record(KlClip { dots, block: first.block.item_range(0..first.trials)?, out: clip })?;
    Ok(clip)
}
