//! Shampoo: inverse roots of the gradient's second-moment matrices.

use std::ops::Range;

use super::beats::{Beats, Keep, Kind};
use super::config::{Accumulation, Check, Row, WeightDecay, put};
use super::graft::Graft;
use super::stack::Stack;
use crate::error::Result;
use crate::linalg::{self, InverseRootOptions, Ridge, inverse_root_reported};
use crate::plan::{
    Advance, Axpby, Clock, Coef, DecayForm, FactorDamping, Gemm, KronFactor, Momentum, MomentumForm, Recorder, ReduceKind, RootOutcome,
    SgdUpdate, Value, block,
};
use crate::tensor::Shape;

/// In which units [`Shampoo::epsilon`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum EpsilonScale {
    /// As it is (facebookresearch/optimizers).
    Absolute,
    /// Times the largest eigenvalue of each statistics matrix (google-research/precondition).
    Relative,
    /// Times the mean eigenvalue of each statistics matrix, its trace over its order.
    RelativeToMean,
}

/// Shampoo (Gupta, Koren, Singer 2018) with grafting: facebookresearch/optimizers' `DistributedShampoo` on one device, step for step.
///
/// With the gradient `G` of a weight `W` `[out, in]`, at step `t = 1, 2, ...`:
/// ```text
/// G <- G + lambda W                                     WeightDecay::L2, in the statistics, too
/// L <- L + G G^T,  R <- R + G^T G                       Accumulation::Sum, every statistics_every steps
/// L <- beta2 L + (1 - beta2) G G^T, R likewise          Accumulation::Ema
/// A = (L / (1 - beta2^t) + epsilon I)^(-1/4)            every precondition_every steps; B from R likewise
/// M <- beta1 M + (1 - beta1) G, F = M / (1 - beta1^t)   F = G with beta1 = 0
/// P = A F B
/// P <- P |D| / (|P| + 1e-16)                            D from Graft, by block; P = D before start_step
/// P <- P + lambda W                                     WeightDecay::Decoupled
/// V <- momentum V + P;  P <- V, or P + momentum V       with momentum; nesterov
/// W <- W - learning_rate P                              WeightDecay::Cautious: W shrinks here, as documented there
/// ```
/// `1 - beta2^t` and `1 - beta1^t` are 1 without `bias_correction`. A vector (`[1, n]` or `[n, 1]`) has one matrix, with exponent `-1/2`. A weight with a
/// side above `block_size` is cut into blocks, each with its own matrices and its own grafted norm. With several layers and `precondition_every > 1` the
/// refreshes are spread over the steps ([`Schedule`](super::Schedule)).
///
/// Deviations from `DistributedShampoo`: the default epsilon is relative, because f32 does not resolve an absolute 1e-12. Eigenvalues are clamped at 0
/// before epsilon is added, where the reference shifts the whole spectrum up if the least is below epsilon. With `statistics_every > 1` the bias correction
/// counts accumulations. Statistics that are still zero leave the root as it is (the identity at first) instead of making `epsilon^(-1/4) I`. Steps are
/// counted from 0: its `start_preconditioning_step` is `start_step + 1` here. A layer whose roots failed, in any block, keeps all of its previous ones and
/// takes ten times the epsilon at its next refresh. Statistics leave out a gradient whose squared norm overflows f32; a direction of which that is true is
/// dropped (decay and momentum go on). Dimensions are
/// merged only when asked: `Parameter::flattened(&[out * in])` makes a vector of a matrix.
///
/// State for each layer and trial: two `[out, out]` and two `[in, in]` matrices (by block), and one tensor of the weight's shape each for `beta1`,
/// `momentum`, and a second moment to graft from. Statistics cost `out in (out + in)` flops, an update `2 out in (out + in)`, a refresh about
/// `9 (out^3 + in^3)` by eigenvalues or `100 (out^3 + in^3)` by Newton.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Shampoo {
    /// Learning rate, at least 0. Default 1e-2 (facebookresearch/optimizers).
    pub learning_rate: f64,
    /// Decay of the filtered gradient in `[0, 1)`, 0: no filter. Default 0.9 (facebookresearch/optimizers).
    pub beta1: f64,
    /// Default [`Accumulation::Sum`] (the paper; facebookresearch/optimizers' `betas[1] = 1`).
    pub accumulation: Accumulation,
    /// Decay of [`Accumulation::Ema`]'s statistics in `[0, 1)`; a sum ignores it. Default 0.999 (google-research/precondition).
    pub beta2: f64,
    /// Divides both running averages by the sum of their weights. Default on (facebookresearch/optimizers).
    pub bias_correction: bool,
    /// Ridge on the (bias-corrected) statistics, positive. Default 1e-6 (google-research/precondition's `matrix_epsilon`).
    pub epsilon: f64,
    /// Default [`EpsilonScale::Relative`] (google-research/precondition).
    pub epsilon_scale: EpsilonScale,
    /// p of the exponent `-1/p` of both matrices of a matrix, 1 to 8. Default 4 (the paper).
    pub matrix_root: u32,
    /// p of the exponent `-1/p` of a vector's matrix, 1 to 8. Default 2 (the paper: full-matrix Adagrad).
    pub vector_root: u32,
    /// How roots are found. Default [`linalg::Method::Auto`].
    pub root_method: linalg::Method,
    /// Steps between two accumulations, at least 1. Default 1 (facebookresearch/optimizers has no other).
    pub statistics_every: u64,
    /// Steps between two refreshes of a layer's roots, at least 1. Default 1 (facebookresearch/optimizers' `precondition_frequency`).
    pub precondition_every: u64,
    /// First step (counted from 0) with a preconditioned update. Default 0 (facebookresearch/optimizers' `start_preconditioning_step` of 1).
    pub start_step: u64,
    /// Default [`Graft::None`] (facebookresearch/optimizers).
    pub graft: Graft,
    /// Default `Decoupled(0.0)` (facebookresearch/optimizers).
    pub weight_decay: WeightDecay,
    /// Momentum in `[0, 1)`. Default 0 (facebookresearch/optimizers has none unless asked).
    pub momentum: f64,
    /// Nesterov's look-ahead form; needs momentum. Default off.
    pub nesterov: bool,
    /// Before `start_step`, updates by a momentum of the graft's own directions `D`, while that of the preconditioned ones builds up beside it and takes over
    /// at `start_step`; refreshes begin at step 0 then (google-research/precondition's two chains, there with `beta1` 0 and `momentum` its `beta1`).
    /// Needs momentum and a graft. Costs one more tensor of the weight's shape. Default off (facebookresearch/optimizers has one momentum).
    pub graft_momentum: bool,
    /// Largest side of a block, at least 1. Default 1024 (facebookresearch/optimizers' `max_preconditioner_dim`).
    pub block_size: usize,
}

impl Default for Shampoo {
    fn default() -> Self {
        Shampoo {
            learning_rate: 1e-2,
            beta1: 0.9,
            accumulation: Accumulation::Sum,
            beta2: 0.999,
            bias_correction: true,
            epsilon: 1e-6,
            epsilon_scale: EpsilonScale::Relative,
            matrix_root: 4,
            vector_root: 2,
            root_method: linalg::Method::Auto,
            statistics_every: 1,
            precondition_every: 1,
            start_step: 0,
            graft: Graft::None,
            weight_decay: WeightDecay::Decoupled(0.0),
            momentum: 0.0,
            nesterov: false,
            graft_momentum: false,
            block_size: 1024,
        }
    }
}

/// Column 0 of `block` times the mean eigenvalue of `a`, `[items, 1, 1]`.
fn times_mean_eigenvalue(r: &mut Recorder, block: Value, a: Value) -> Result<Value> {
    #[allow(clippy::cast_precision_loss, reason = "orders are far below 2^24")]
    let mean = r.reduce(ReduceKind::Trace, 1.0 / a.rows() as f32, a)?;
    let out = r.scratch("shampoo.ridge", mean.shape())?;
    // The least positive number, so that statistics which are still zero have a root (of which no use is made) and count as no failure.
    let gamma = Coef::Const(f32::MIN_POSITIVE);
    r.record(Axpby { alpha: Coef::column(0), gamma, block: Some(block), ..Axpby::copy(mean, out) })?;
    Ok(out)
}

/// Statistics of one side of a block, and their root.
struct Factor {
    statistics: Value,
    root: Value,
    p: u32,
}

/// A block of the weight with the matrices of its sides.
struct Part {
    rows: Range<usize>,
    cols: Range<usize>,
    left: Option<Factor>,
    right: Option<Factor>,
}

impl Part {
    fn of(&self, x: Value) -> Result<Value> {
        x.row_range(self.rows.clone())?.col_range(self.cols.clone())
    }

    fn factors(&self) -> impl Iterator<Item = &Factor> {
        self.left.iter().chain(&self.right)
    }
}

/// What Shampoo keeps of a stack.
pub(crate) struct State {
    filter: Option<Value>,
    second: Option<Value>,
    momentum: Option<Value>,
    graft_momentum: Option<Value>,
    parts: Vec<Part>,
}

impl Beats for Shampoo {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Shampoo");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("beta1", self.beta1)?;
        check.decay("beta2", self.beta2)?;
        check.positive("epsilon", self.epsilon)?;
        for (field, p) in [("matrix_root", self.matrix_root), ("vector_root", self.vector_root)] {
            check.that(field, (1..=8).contains(&p), p, "1 to 8")?;
        }
        check.at_least_one("statistics_every", self.statistics_every)?;
        check.at_least_one("precondition_every", self.precondition_every)?;
        self.graft.validate(&check)?;
        check.non_negative("weight_decay", self.weight_decay.amount())?;
        check.decay("momentum", self.momentum)?;
        check.that("nesterov", !self.nesterov || self.momentum > 0.0, "true with momentum 0", "true only with momentum > 0")?;
        let chained = self.momentum > 0.0 && self.graft != Graft::None;
        let found = format!("true with momentum {} and graft {:?}", self.momentum, self.graft);
        check.that("graft_momentum", !self.graft_momentum || chained, found, "true only with momentum > 0 and a graft")?;
        check.that("block_size", self.block_size >= 1, self.block_size, "at least 1")
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::BETA1, self.beta1);
        put(row, block::ONE_MINUS_BETA1, 1.0 - self.beta1);
        put(row, block::DAMPING, self.epsilon);
        // Of a sum the mean is kept, and its weight is the number of terms.
        let decay = if self.accumulation == Accumulation::Ema { self.beta2 } else { 1.0 };
        put(row, block::DECAY, decay);
        put(row, block::WEIGHT_DECAY, self.weight_decay.amount());
        put(row, block::MOMENTUM, self.momentum);
        self.graft.fill(row);
    }

    fn refreshes_early(&self) -> bool {
        self.two_momenta()
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((self.statistics_every, self.precondition_every, self.start_step))
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let (out, inn) = (stack.weight.rows(), stack.weight.cols());
        let vector = out == 1 || inn == 1;
        let p = if vector { self.vector_root } else { self.matrix_root };
        let cut = |n: usize| (0..n).step_by(self.block_size).map(move |first| first..n.min(first + self.block_size));
        let ranges: Vec<_> = cut(out).flat_map(|rows| cut(inn).map(move |cols| (rows.clone(), cols))).collect();
        let whole = ranges.len() == 1;
        let mut parts = Vec::with_capacity(ranges.len());
        for (i, (rows, cols)) in ranges.into_iter().enumerate() {
            let mut factor = |side: &str, n: usize| {
                let name = |what: &str| if whole { format!("{side}_{what}") } else { format!("{side}_{what}_{i}") };
                Ok::<Factor, crate::Error>(Factor {
                    statistics: keep.square(stack, &name("statistics"), n, Kind::Statistics, false)?,
                    root: keep.square(stack, &name("root"), n, Kind::Root, true)?,
                    p,
                })
            };
            // A side of length 1 counts for nothing; a scalar has its left one.
            let left = if out > 1 || inn == 1 { Some(factor("left", rows.len())?) } else { None };
            let right = if inn > 1 { Some(factor("right", cols.len())?) } else { None };
            parts.push(Part { rows, cols, left, right });
        }
        Ok(State {
            filter: if self.beta1 == 0.0 { None } else { Some(keep.moment(stack, "first_moment")?) },
            second: self.graft.declare(stack, keep)?,
            momentum: if self.momentum == 0.0 { None } else { Some(keep.moment(stack, "momentum")?) },
            graft_momentum: if self.two_momenta() { Some(keep.moment(stack, "graft_momentum")?) } else { None },
            parts,
        })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        r.record(Advance { block: stack.block, clock: Clock::StatisticsBiasCorrected })?;
        for part in &state.parts {
            let g = part.of(stack.gradient)?;
            // Statistics would never again be finite after a gradient whose squared norm is not: those are left out.
            let finite = Graft::None.scale(r, g, g)?;
            let gate = Some(r.matmul(finite, stack.column(block::GATE)?)?);
            for (factor, samples) in part.left.iter().map(|f| (f, g.t())).chain(part.right.iter().map(|f| (f, g))) {
                r.record(KronFactor {
                    decay: Coef::column(block::STATISTICS_DECAY),
                    scale: samples.rows() as f32,
                    block: Some(stack.block),
                    gate,
                    ..KronFactor::new(samples, factor.statistics)
                })?;
            }
        }
        Ok(())
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let items = layers.start * stack.trials..layers.end * stack.trials;
        let scalar = Shape::new(items.len(), 1, 1);
        let row = stack.block.item_range(items.clone())?;
        let damping = r.scratch(format!("{}.damping", stack.name), Shape::new(items.len(), 1, 2))?;
        r.record(FactorDamping { left_mean: None, right_mean: None, block: row, out: damping })?;
        let options = InverseRootOptions {
            ridge: match self.epsilon_scale {
                EpsilonScale::Absolute | EpsilonScale::RelativeToMean => Ridge::Absolute(Coef::column(0)),
                EpsilonScale::Relative => Ridge::Relative(Coef::column(0)),
            },
            block: Some(damping),
            method: self.root_method,
            ..InverseRootOptions::default()
        };
        let (mut roots, mut reports, mut all_ok) = (Vec::new(), Vec::new(), None);
        for part in &state.parts {
            let mut trace = None;
            for factor in part.factors() {
                let statistics = factor.statistics.item_range(items.clone())?;
                let corrected = self.corrected(r, stack, statistics, row)?;
                if trace.is_none() {
                    trace = Some(r.reduce(ReduceKind::Trace, 1.0, statistics)?);
                }
                let mut options = options;
                if self.epsilon_scale == EpsilonScale::RelativeToMean {
                    options.block = Some(times_mean_eigenvalue(r, damping, corrected)?);
                }
                let (root, ok, report) = inverse_root_reported(r, corrected, factor.p, &options)?;
                all_ok = Some(match all_ok {
                    None => ok,
                    Some(before) => r.matmul(before, ok)?,
                });
                reports.push(report);
                roots.extend(trace.map(|trace| (root, trace, factor)));
            }
        }
        let Some(good) = all_ok else { return Ok(()) };
        let ok = r.scratch(format!("{}.ok", stack.name), scalar)?;
        r.record(RootOutcome { left_ok: good, right_ok: good, ok, block: row })?;
        report_worst(r, &reports, row, ok)?;
        for (root, trace, factor) in roots {
            // 0 where the outcome is, and where the statistics are still zero.
            let gate = Some(r.quotient(1.0, Some(ok), trace, false)?);
            r.record(Axpby { gate, ..Axpby::copy(root, factor.root.item_range(items.clone())?) })?;
        }
        Ok(())
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], preconditioned: bool) -> Result<()> {
        for (stack, state) in stacks {
            let gradient = stack.gradient;
            let filtered = self.filtered(r, stack, state, gradient)?;
            let donor = self.graft.direction(r, stack, gradient, filtered, state.second)?;
            let mut weight = stack.weight;
            if !preconditioned {
                let Some(chain) = state.graft_momentum else {
                    self.update(r, stack, weight, state.momentum, donor, None, None)?;
                    continue;
                };
                // The preconditioned momentum moves along with a weight that nobody keeps.
                weight = r.scratch(format!("{}.shadow", stack.name), stack.weight.shape())?;
                r.copy(stack.weight, weight)?;
                self.update(r, stack, stack.weight, Some(chain), donor, None, None)?;
            }
            let direction = r.scratch(format!("{}.direction", stack.name), stack.weight.shape())?;
            for part in &state.parts {
                let (x, out) = (part.of(filtered)?, part.of(direction)?);
                match (&part.left, &part.right) {
                    (Some(left), Some(right)) => {
                        let half = r.matmul(left.root, x)?;
                        r.record(Gemm::new(half, right.root, out))?;
                    }
                    (Some(left), None) => r.record(Gemm::new(left.root, x, out))?,
                    (None, Some(right)) => r.record(Gemm::new(x, right.root, out))?,
                    (None, None) => r.copy(x, out)?,
                }
                let scale = self.graft.scale(r, out, part.of(donor)?)?;
                self.update(r, stack, weight, state.momentum, direction, Some(scale), Some(part))?;
            }
        }
        Ok(())
    }
}

/// Books the worst of the roots' reports, where all are accepted.
fn report_worst(r: &mut Recorder, reports: &[Value], row: Value, ok: Value) -> Result<()> {
    let all = r.scratch("reports", Shape::new(row.items(), reports.len(), 3))?;
    for (i, report) in reports.iter().enumerate() {
        r.copy(*report, all.row_range(i..i + 1)?)?;
    }
    for (i, column) in [block::RESIDUAL, block::ITERATIONS, block::LARGEST_EIGENVALUE].into_iter().enumerate() {
        let worst = r.reduce(ReduceKind::MaxAbs, 1.0, all.col_range(i..i + 1)?)?;
        let column = row.col_range(column as usize..column as usize + 1)?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(worst, column) })?;
    }
    Ok(())
}

impl Shampoo {
    /// True if a second momentum counts: before the first preconditioned update.
    fn two_momenta(&self) -> bool {
        self.graft_momentum && self.start_step > 0
    }

    /// The running average of the gradient.
    fn filtered(&self, r: &mut Recorder, stack: &Stack, state: &State, gradient: Value) -> Result<Value> {
        let Some(filter) = state.filter else { return Ok(gradient) };
        let out = if self.bias_correction { Some(r.scratch(format!("{}.filtered", stack.name), stack.weight.shape())?) } else { None };
        let (decay, fresh) = (Coef::column(block::BETA1), Coef::column(block::ONE_MINUS_BETA1));
        r.record(Momentum { g: gradient, m: filter, out, form: MomentumForm::Corrected, decay, fresh, block: stack.block })?;
        Ok(out.unwrap_or(filter))
    }

    /// What is kept is the average with its bias corrected; without correction, and for a sum, it is scaled by its weight.
    fn corrected(&self, r: &mut Recorder, stack: &Stack, statistics: Value, row: Value) -> Result<Value> {
        let weight = |scale: f32| Coef::Column { column: block::STATISTICS_WEIGHT, scale };
        let alpha = match self.accumulation {
            Accumulation::Sum => weight(1.0),
            Accumulation::Ema if self.bias_correction => Coef::Const(1.0),
            Accumulation::Ema => weight(super::config::narrow(1.0 - self.beta2)),
        };
        // Zero statistics have no largest eigenvalue: this keeps their root from counting as a failure.
        let gamma = Coef::Const(if self.epsilon_scale == EpsilonScale::Relative { 1e-36 } else { 0.0 });
        let out = r.scratch(format!("{}.statistics", stack.name), statistics.shape())?;
        r.record(Axpby { alpha, gamma, block: Some(row), ..Axpby::copy(statistics, out) })?;
        Ok(out)
    }

    /// The tail: decoupled decay, momentum, update; of one block or of all.
    #[allow(clippy::too_many_arguments, reason = "a weight, its momentum, a direction, its factor, and which part of all")]
    fn update(
        &self,
        r: &mut Recorder,
        stack: &Stack,
        weight: Value,
        momentum: Option<Value>,
        g: Value,
        g_scale: Option<Value>,
        part: Option<&Part>,
    ) -> Result<()> {
        let of = |x: Value| part.map_or(Ok(x), |part| part.of(x));
        r.record(SgdUpdate {
            w: of(weight)?,
            g: of(g)?,
            m: momentum.map(of).transpose()?,
            g_scale,
            nesterov: self.nesterov,
            decay: stack.decay(DecayForm::Gradient),
            block: stack.block,
        })
    }
}
