//! SOAP: Adam in the eigenbasis of Shampoo's statistics.

use std::ops::Range;

use super::beats::{Beats, Keep, Kind};
use super::config::{Check, Row, narrow, put};
use super::stack::Stack;
use crate::error::Result;
use crate::linalg;
use crate::plan::{
    Axpby, Coef, DecayForm, GraftDirection, KronFactor, Order, Recorder, ReduceKind, RootOutcome, SgdUpdate, StepScale, Value, block,
};
use crate::tensor::Shape;

/// SOAP (Vyas and others 2024): nikhilvyas/SOAP, step for step.
///
/// With the gradient `G` of a weight `W` `[out, in]`; `L`, `R`, `m` and `v` start at 0:
/// ```text
/// first step:  L <- (1 - s) G G^T,  R <- (1 - s) G^T G,  U, V <- their eigenvectors, largest eigenvalue first; W stays, t = 0
/// later ones:  t <- t + 1
/// g = U^T G V
/// m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g * g
/// N = U (m / (sqrt(v) + epsilon)) V^T                    N <- N / rms(N) with normalise
/// W <- W - learning_rate sqrt(1 - beta2^t) / (1 - beta1^t) N
/// W <- W - learning_rate weight_decay W
/// L <- s L + (1 - s) G G^T,  R <- s R + (1 - s) G^T G
/// every precondition_every steps, for U and L as for V and R:
///     order U's columns (and v's rows) by descending diag(U^T L U),  U' = the orthonormal factor of L U
///     m <- U'^T (U m V^T) V'
/// ```
/// With `precondition_every: 1` it is `M <- beta1 M + (1 - beta1) G` that is kept (`NAME.unrotated_moment` instead of `NAME.first_moment`), and each step
/// makes `m = beta1 U^T M V + (1 - beta1) g` of the old `M`: the same but for rounding, by two products where the last line takes four.
///
/// So a gradient never meets a basis made of it, and a basis change rotates `m` but only reorders `v`. The bases follow by one step of orthogonal
/// iteration ([`linalg::qr`], signs fixed by a positive diagonal) at each refresh.
///
/// **Sides without a basis** keep `U = I` and have no state: those above `max_precondition_dim`, those of length 1 (whose basis would be a sign, which
/// drops out), and, unless `precondition_1d`, both sides of a `[1, n]` or `[n, 1]` weight, which is then stepped by the first-moment, second-moment
/// formulas above in its own coordinates. (The reference tells vectors from matrices by their rank: a `[1, n]` *matrix* is rotated there, as here with
/// `precondition_1d`.)
///
/// **Trouble.** A gradient that is not finite, above 1e18 in magnitude, or whose squared norm exceeds 1e37, is refused. The first step is the first good
/// gradient of each item. Where that is not the optimizer's first step, the basis is the identity until the layer's first refresh, which then takes
/// eigenvectors (after it: until orthogonal iteration has found them). Statistics that are still zero leave the basis as it is. A basis that comes out
/// not finite is dropped, the old one kept, and the event counted as a failed root.
///
/// **Null space.** Where a statistics matrix is singular, the directions of its null space are noise, which rotates from refresh to refresh while `v` stays.
/// [`null_space_floor`](Self::null_space_floor) (`HeavyBall`'s repair) keeps them: `L U + f lambda_max U` is what is orthonormalised,
/// `f = max(null_space_floor, min(64 n 2^-23, 1/8))`. It is off by default: the reference has none, no refresh here can fail for want of it, and it slows
/// the iteration for eigenvalues below `f lambda_max`.
///
/// With the default epsilon an update may still move along them, by the step size times the sign of rounding noise: 1e-8 is below the rounding of a
/// gradient near 1. An epsilon above it (1e-6 of the gradients' size) holds them still.
///
/// With several layers and `precondition_every > 1` the refreshes are spread over the steps ([`Schedule`](super::Schedule)); all bases are made at the first.
///
/// Deviations: the two last, refusals, the floor; dimensions are never merged, tensors of higher rank are the caller's to flatten.
///
/// State for each layer and trial: two tensors of the weight's shape, two `[out, out]` and two `[in, in]` matrices. Statistics cost `out in (out + in)`
/// flops, an update `4 out in (out + in)`, a refresh about `5 (out^3 + in^3)` and, for the moment, `4 out in (out + in)`, half of that where there is one at
/// every step; the first step an eigendecomposition of each matrix.
///
/// **To start from given bases** (a replay, a comparison with another implementation): run the first step, then write `NAME.left_basis` (`U`) and
/// `NAME.right_basis` (`V`) through [`Optimizer::state`](super::Optimizer::state) and [`Tensor::write`](crate::Tensor::write). Both moments are zero there,
/// so nothing else depends on the bases.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Soap {
    /// Learning rate, at least 0. Default 3e-3 (nikhilvyas/SOAP).
    pub learning_rate: f64,
    /// Decay of the first moment in `[0, 1)`. Default 0.95 (nikhilvyas/SOAP).
    pub beta1: f64,
    /// Decay of the second moment in `[0, 1)`. Default 0.95 (nikhilvyas/SOAP).
    pub beta2: f64,
    /// Decay `s` of the statistics in `[0, 1)`; none: `beta2`. Default none (nikhilvyas/SOAP's `shampoo_beta = -1`).
    pub statistics_decay: Option<f64>,
    /// Added to `sqrt(v)`, positive. Default 1e-8 (nikhilvyas/SOAP).
    pub epsilon: f64,
    /// Decoupled decay, at least 0. Default 0.01 (nikhilvyas/SOAP).
    pub weight_decay: f64,
    /// Steps between two refreshes of a layer's bases, at least 1. Default 10 (nikhilvyas/SOAP's `precondition_frequency`).
    pub precondition_every: u64,
    /// Largest side with a basis; 0: none has one. Default 10000 (nikhilvyas/SOAP).
    pub max_precondition_dim: usize,
    /// Weights with one row or one column get a basis for the other side. Default off (nikhilvyas/SOAP).
    pub precondition_1d: bool,
    /// Both factors of `t`; else 1. Default on (nikhilvyas/SOAP's `correct_bias`).
    pub bias_correction: bool,
    /// Divide `N` by the root of its mean square. Default off (nikhilvyas/SOAP's `normalize_grads`).
    pub normalise: bool,
    /// See above; in `[0, 0.125]`, or none. Default none (nikhilvyas/SOAP).
    pub null_space_floor: Option<f64>,
}

impl Default for Soap {
    fn default() -> Self {
        Soap {
            learning_rate: 3e-3,
            beta1: 0.95,
            beta2: 0.95,
            statistics_decay: None,
            epsilon: 1e-8,
            weight_decay: 0.01,
            precondition_every: 10,
            max_precondition_dim: 10_000,
            precondition_1d: false,
            bias_correction: true,
            normalise: false,
            null_space_floor: None,
        }
    }
}

/// Statistics of one side and their eigenvectors.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) statistics: Value,
    pub(super) basis: Value,
}

impl Side {
    /// (left, right), each where its side is longer than 1 and no longer than `longest`.
    pub(super) fn declare(stack: &Stack, keep: &mut Keep<'_>, longest: usize) -> Result<(Option<Side>, Option<Side>)> {
        let mut side = |name: &str, n: usize| {
            if n == 1 || n > longest {
                return Ok(None);
            }
            let statistics = keep.square(stack, &format!("{name}_statistics"), n, Kind::Statistics, false)?;
            let basis = keep.square(stack, &format!("{name}_basis"), n, Kind::Root, true)?;
            Ok::<_, crate::Error>(Some(Side { statistics, basis }))
        };
        Ok((side("left", stack.weight.rows())?, side("right", stack.weight.cols())?))
    }

    fn items(self, items: &Range<usize>) -> Result<Side> {
        Ok(Side { statistics: self.statistics.item_range(items.clone())?, basis: self.basis.item_range(items.clone())? })
    }
}

/// What is kept of a stack.
pub(crate) struct State {
    pub(super) first: Value,
    pub(super) second: Value,
    pub(super) left: Option<Side>,
    pub(super) right: Option<Side>,
}

impl State {
    /// The part of some layers.
    fn items(&self, items: &Range<usize>) -> Result<State> {
        let side = |side: Option<Side>| side.map(|s| s.items(items)).transpose();
        Ok(State {
            first: self.first.item_range(items.clone())?,
            second: self.second.item_range(items.clone())?,
            left: side(self.left)?,
            right: side(self.right)?,
        })
    }

    pub(super) fn sides(&self) -> impl Iterator<Item = &Side> {
        self.left.iter().chain(&self.right)
    }

    /// `U^T x V`.
    pub(super) fn project(&self, r: &mut Recorder, x: Value) -> Result<Value> {
        let half = if let Some(left) = self.left { r.matmul(left.basis.t(), x)? } else { x };
        if let Some(right) = self.right { r.matmul(half, right.basis) } else { Ok(half) }
    }

    /// `U x V^T`.
    pub(super) fn restore(&self, r: &mut Recorder, x: Value) -> Result<Value> {
        let half = if let Some(left) = self.left { r.matmul(left.basis, x)? } else { x };
        if let Some(right) = self.right { r.matmul(half, right.basis.t()) } else { Ok(half) }
    }

    /// Takes the gradient into the statistics, with the effective decay of this accumulation, where `gate` is open.
    pub(super) fn accumulate(&self, r: &mut Recorder, stack: &Stack, gate: Value) -> Result<()> {
        let g = stack.gradient;
        for (side, samples) in self.left.iter().map(|s| (s, g.t())).chain(self.right.iter().map(|s| (s, g))) {
            r.record(KronFactor {
                decay: Coef::column(block::STATISTICS_DECAY),
                scale: samples.rows() as f32,
                block: Some(stack.block),
                gate: Some(gate),
                ..KronFactor::new(samples, side.statistics)
            })?;
        }
        Ok(())
    }

    /// `m <- beta1 m + (1 - beta1) x`.
    fn average(r: &mut Recorder, stack: &Stack, x: Value, m: Value) -> Result<()> {
        r.record(Axpby {
            alpha: Coef::column(block::ONE_MINUS_BETA1),
            beta: Coef::column(block::BETA1),
            block: Some(stack.block),
            gate: Some(stack.column(block::GATE)?),
            ..Axpby::add(x, m, m)
        })
    }

    /// Takes over new bases, and turns a first moment that is `rotated` into them, where `gate` is open.
    fn change(&self, r: &mut Recorder, bases: &[Value], rotated: bool, gate: Value) -> Result<()> {
        let moment = if rotated { Some(self.restore(r, self.first)?) } else { None };
        for (side, &basis) in self.sides().zip(bases) {
            r.record(Axpby { gate: Some(gate), ..Axpby::copy(basis, side.basis) })?;
        }
        let Some(moment) = moment else { return Ok(()) };
        let moment = self.project(r, moment)?;
        r.record(Axpby { gate: Some(gate), ..Axpby::copy(moment, self.first) })
    }
}

impl Beats for Soap {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Soap");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("beta1", self.beta1)?;
        check.decay("beta2", self.beta2)?;
        self.statistics_decay.map_or(Ok(()), |decay| check.decay("statistics_decay", decay))?;
        check.positive("epsilon", self.epsilon)?;
        check.non_negative("weight_decay", self.weight_decay)?;
        check.at_least_one("precondition_every", self.precondition_every)?;
        let floor = self.null_space_floor.unwrap_or(0.0);
        check.that("null_space_floor", (0.0..=0.125).contains(&floor), floor, "0 <= x <= 0.125")
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::BETA1, self.beta1);
        put(row, block::ONE_MINUS_BETA1, 1.0 - self.beta1);
        put(row, block::BETA2, self.beta2);
        put(row, block::ONE_MINUS_BETA2, 1.0 - self.beta2);
        put(row, block::EPSILON, self.epsilon);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
        put(row, block::DECAY, self.statistics_decay.unwrap_or(self.beta2));
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((1, self.precondition_every, 0))
    }

    fn update_first(&self) -> bool {
        true
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let matrix = self.precondition_1d || (stack.weight.rows() > 1 && stack.weight.cols() > 1);
        let (left, right) = Side::declare(stack, keep, if matrix { self.max_precondition_dim } else { 0 })?;
        // By another name where it lies in other coordinates: a checkpoint of the one is no state of the other.
        let first = if self.rotates(left.iter().chain(&right)) { "first_moment" } else { "unrotated_moment" };
        Ok(State { first: keep.moment(stack, first)?, second: keep.moment(stack, "second_moment")?, left, right })
    }

    fn accumulate(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        if state.sides().next().is_none() {
            return Ok(());
        }
        // The clock's decay is 1 where the gradient is refused: 1 - decay opens the gate.
        let taken = r.scratch(format!("{}.taken", stack.name), Shape::new(stack.items(), 1, 1))?;
        let decay = stack.column(block::STATISTICS_DECAY)?;
        r.record(Axpby { alpha: Coef::Const(-1.0), gamma: Coef::Const(1.0), ..Axpby::copy(decay, taken) })?;
        state.accumulate(r, stack, taken)
    }

    fn start(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let (items, row, state) = part(stack, state, layers)?;
        let fresh = column(row, block::FRESH)?;
        let (mut bases, mut all_ok) = (Vec::new(), None);
        for side in state.sides() {
            // What has a basis is masked out, and done at once. The diagonal keeps zero statistics from counting as a failure.
            let masked = r.scratch(format!("{}.masked", stack.name), side.statistics.shape())?;
            let (alpha, gamma) = (Coef::column(block::FRESH), Coef::Const(1e-30));
            r.record(Axpby { alpha, gamma, block: Some(row), ..Axpby::copy(side.statistics, masked) })?;
            let (_, vectors, ok) = linalg::eigh(r, masked, Order::Descending)?;
            bases.push(vectors);
            all_ok = Some(both(r, all_ok, ok)?);
        }
        let Some(gate) = outcome(r, stack, &state, row, items, all_ok, fresh)? else { return Ok(()) };
        state.change(r, &bases, self.rotates(state.sides()), gate)?;
        r.record(Axpby { alpha: Coef::Const(0.0), gate: Some(gate), ..Axpby::copy(gate, fresh) })
    }

    fn refresh(&self, r: &mut Recorder, stack: &Stack, state: &State, layers: Range<usize>) -> Result<()> {
        let (items, row, state) = part(stack, state, layers)?;
        let (mut bases, mut all_ok, mut second) = (Vec::new(), None, state.second);
        for (left, side) in state.left.iter().map(|s| (true, s)).chain(state.right.iter().map(|s| (false, s))) {
            let turned = r.matmul(side.statistics, side.basis)?;
            // diag(U^T L U) over the side, which orders alike.
            let estimates = r.column_dots(side.basis, turned)?;
            let turned = self.lifted(r, turned, side.basis, estimates)?;
            let sorted = r.sort_columns(estimates, turned)?;
            let (basis, ok) = linalg::qr(r, sorted)?;
            bases.push(basis);
            all_ok = Some(both(r, all_ok, ok)?);
            second = if left { r.sort_columns(estimates, second.t())?.t() } else { r.sort_columns(estimates, second)? };
        }
        let Some(gate) = outcome(r, stack, &state, row, items, all_ok, column(row, block::GATE)?)? else { return Ok(()) };
        state.change(r, &bases, self.rotates(state.sides()), gate)?;
        r.record(Axpby { gate: Some(gate), ..Axpby::copy(second, state.second) })
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], _preconditioned: bool) -> Result<()> {
        for (stack, state) in stacks {
            let g = state.project(r, stack.gradient)?;
            let m = if self.rotates(state.sides()) { state.first } else { state.project(r, state.first)? };
            // From the same g as v, also where g is rounding noise.
            State::average(r, stack, g, m)?;
            if m != state.first {
                State::average(r, stack, stack.gradient, state.first)?;
            }
            let out = r.scratch(format!("{}.rotated_direction", stack.name), stack.weight.shape())?;
            r.record(GraftDirection { g, m, v: state.second, corrected: false, out, block: stack.block })?;
            let direction = state.restore(r, out)?;
            // A decoupled decay after the update: (1 - a) (W - s N) = W - a W - (1 - a) s N.
            let decay = if stack.decay(DecayForm::Decoupled) == DecayForm::Cautious { DecayForm::Cautious } else { DecayForm::Gradient };
            let scale = self.scale(r, stack, direction, decay)?;
            let (w, g_scale, block) = (stack.weight, Some(scale), stack.block);
            r.record(SgdUpdate { w, g: direction, m: None, g_scale, nesterov: false, decay, block })?;
        }
        Ok(())
    }
}

impl Soap {
    /// Whether the first moment is kept in the bases. With bases that change at every step it is not: turning it takes four products, projecting it two.
    fn rotates<'a>(&self, mut sides: impl Iterator<Item = &'a Side>) -> bool {
        self.precondition_every > 1 || sides.next().is_none()
    }

    /// `x + f lambda_max basis` with the null-space floor; estimates are eigenvalues over the side.
    fn lifted(&self, r: &mut Recorder, x: Value, basis: Value, estimates: Value) -> Result<Value> {
        let Some(floor) = self.null_space_floor else { return Ok(x) };
        let n = x.rows() as f64;
        let factor = floor.max((64.0 * n * f64::from(f32::EPSILON)).min(0.125));
        let lift = r.reduce(ReduceKind::MaxAbs, narrow(factor * n), estimates)?;
        let out = r.scratch("soap.lifted", x.shape())?;
        r.record(Axpby { alpha: Coef::column(0), block: Some(lift), ..Axpby::add(basis, x, out) })?;
        Ok(out)
    }

    /// `1 - learning_rate weight_decay` (1 for a cautious decay, which the tail does itself), times the bias corrections and `1 / rms`.
    fn scale(&self, r: &mut Recorder, stack: &Stack, direction: Value, decay: DecayForm) -> Result<Value> {
        let scale = r.scratch(format!("{}.step_scale", stack.name), Shape::new(stack.items(), 1, 1))?;
        r.record(StepScale { decayed: decay != DecayForm::Cautious, corrected: self.bias_correction, out: scale, block: stack.block })?;
        if self.normalise {
            let square = r.reduce(ReduceKind::SumSq, 1.0, direction)?;
            let size = narrow(((direction.rows() * direction.cols()) as f64).sqrt());
            return r.quotient(size, Some(scale), square, true);
        }
        Ok(scale)
    }
}

/// Items, block rows and state of some layers.
pub(super) fn part(stack: &Stack, state: &State, layers: Range<usize>) -> Result<(usize, Value, State)> {
    let items = layers.start * stack.trials..layers.end * stack.trials;
    Ok((items.len(), stack.block.item_range(items.clone())?, state.items(&items)?))
}

fn column(row: Value, column: u32) -> Result<Value> {
    row.col_range(column as usize..column as usize + 1)
}

/// The product of two outcomes.
pub(super) fn both(r: &mut Recorder, before: Option<Value>, ok: Value) -> Result<Value> {
    before.map_or(Ok(ok), |before| r.matmul(before, ok))
}

/// Books the outcome. The gate: not 0 where all went well, `due` is not 0, and there are statistics at all. None where no side has a basis.
pub(super) fn outcome(
    r: &mut Recorder,
    stack: &Stack,
    state: &State,
    row: Value,
    items: usize,
    all_ok: Option<Value>,
    due: Value,
) -> Result<Option<Value>> {
    let (Some(good), Some(side)) = (all_ok, state.sides().next()) else { return Ok(None) };
    let ok = r.scratch(format!("{}.ok", stack.name), Shape::new(items, 1, 1))?;
    r.record(RootOutcome { left_ok: good, right_ok: good, ok, block: row })?;
    let trace = r.reduce(ReduceKind::Trace, 1.0, side.statistics)?;
    let open = r.matmul(ok, due)?;
    Ok(Some(r.quotient(1.0, Some(open), trace, false)?))
}
