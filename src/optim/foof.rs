//! Fast first-order optimization: the input factor alone.

use std::ops::Range;

use super::beats::{Beats, Keep, Kind};
use super::config::{Check, Row, put};
use super::kfac::{StatisticsStart, clip, statistics, update};
use super::stack::{Stack, TapValues};
use crate::error::Result;
use crate::linalg::spd_inverse;
use crate::plan::{Axpby, Coef, FactorDamping, Recorder, RootOutcome, Value, block};
use crate::tensor::Shape;

/// FOOF (Benzing 2022, "Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization", arXiv 2201.12250): [`Kfac`](super::Kfac) without
/// its left factor, a damped least-squares step on each layer's outputs.
///
/// For a layer `y = W x` with inputs `x` (a trailing 1 where the weight has a bias column) over a batch of `n`:
/// ```text
/// R <- decay R + (1 - decay) mean(x x^T)      every statistics_every steps
/// P = G (R + lambda I)^{-1}                   inverse every precondition_every steps
/// B <- momentum B + P + weight_decay W
/// W <- W - learning_rate B
/// ```
/// No output gradients are needed: taps may be [`Taps::Inputs`](super::Taps::Inputs), or KFAC's, whose left half is not read. Scaling the loss scales the step, as
/// in SGD.
///
/// The equations are the paper's; momentum, decay and all defaults are ours, and no other implementation was compared. A layer whose factor could
/// not be inverted keeps its previous inverse, the identity if there is none, and takes ten times the damping at its next refresh. A direction that overflows
/// is dropped and counted, with those of the trial's other layers. Refreshes of several layers are spread over the steps ([`Schedule`](super::Schedule)).
///
/// State for each layer and trial: two `[in, in]` matrices, and one of the weight's shape with momentum. A refresh costs about `3 in^3` flops, an update
/// `2 out in^2`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Foof {
    /// Learning rate, at least 0. Default 0.1.
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0.9.
    pub momentum: f64,
    /// Damping lambda, absolute, at least 0. Default 1e-2.
    pub damping: f64,
    /// Decay of the running average in `[0, 1)`; 0 keeps the last batch alone. Default 0.95.
    pub decay: f64,
    /// Default [`StatisticsStart::BiasCorrected`].
    pub statistics_start: StatisticsStart,
    /// Steps between two accumulations, at least 1. Default 1.
    pub statistics_every: u64,
    /// Steps between two refreshes of a layer's inverse, at least 1. Default 1.
    pub precondition_every: u64,
    /// First step (counted from 0) with a preconditioned update; before it the direction is the gradient. Default 0.
    pub start_step: u64,
    /// L2 decay, at least 0, added behind the preconditioner. Default 0.
    pub weight_decay: f64,
}

impl Default for Foof {
    fn default() -> Self {
        Foof {
            learning_rate: 0.1,
            momentum: 0.9,
            damping: 1e-2,
            decay: 0.95,
            statistics_start: StatisticsStart::BiasCorrected,
            statistics_every: 1,
            precondition_every: 1,
            start_step: 0,
            weight_decay: 0.0,
        }
    }
}

/// What FOOF keeps of a stack.
pub(crate) struct State {
    momentum: Option<Value>,
    statistics: Value,
    inverse: Value,
}

impl Beats for Foof {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Foof");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.non_negative("damping", self.damping)?;
        check.decay("decay", self.decay)?;
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
        if self.statistics_start == StatisticsStart::Identity {
            put(row, block::STATISTICS_WEIGHT, 1.0);
        }
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((self.statistics_every, self.precondition_every, self.start_step))
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let inn = stack.weight.cols();
        let identity = self.statistics_start == StatisticsStart::Identity;
        Ok(State {
            momentum: if self.momentum == 0.0 { None } else { Some(keep.moment(stack, "momentum")?) },
            statistics: keep.square(stack, "right_statistics", inn, Kind::Statistics, identity)?,
            inverse: keep.square(stack, "right_inverse", inn, Kind::Root, true)?,
        })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        statistics::advance(r, stack, self.statistics_start)?;
        match stack.taps {
            Some(TapValues::Inputs { inputs }) => statistics::sample_average(r, stack, inputs, 1.0, state.statistics),
            Some(TapValues::Right { right }) => statistics::factor_average(r, stack, right, state.statistics),
            _ => Ok(()),
        }
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let items = layers.start * stack.trials..layers.end * stack.trials;
        let block = stack.block.item_range(items.clone())?;
        let damping = r.scratch(format!("{}.factor_damping", stack.name), Shape::new(items.len(), 1, 2))?;
        r.record(FactorDamping { left_mean: None, right_mean: None, block, out: damping })?;
        let (inverse, good) = spd_inverse(r, state.statistics.item_range(items.clone())?, Coef::column(1), Some(damping))?;
        let ok = r.scratch(format!("{}.ok", stack.name), Shape::new(items.len(), 1, 1))?;
        r.record(RootOutcome { left_ok: good, right_ok: good, ok, block })?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(inverse, state.inverse.item_range(items)?) })
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], preconditioned: bool) -> Result<()> {
        if !preconditioned {
            return stacks.iter().try_for_each(|(stack, state)| update(r, stack, state.momentum, stack.gradient, None));
        }
        let directions = stacks.iter().map(|(stack, state)| r.matmul(stack.gradient, state.inverse)).collect::<Result<Vec<_>>>()?;
        let factors = clip::factors(r, stacks, &directions, false)?;
        for (((stack, state), direction), factor) in stacks.iter().zip(directions).zip(factors) {
            update(r, stack, state.momentum, direction, Some(factor))?;
        }
        Ok(())
    }
}
