//! The natural gradient with a dense curvature matrix.

use super::beats::{Beats, Keep};
use super::config::{Check, Row, put};
use super::kfac::{OutputGradients, clip, update};
use super::parameter::{Parameter, Taps};
use super::stack::{Stack, TapValues};
use crate::error::{Error, Result};
use crate::linalg::spd_solve;
use crate::plan::{Axpby, Coef, FactorDamping, Gemm, KronFactor, Recorder, RootOutcome, Value, block};
use crate::tensor::Shape;

/// Largest order of the matrix that is factored: `min(n, P)`.
const LARGEST: usize = 4096;

/// Natural gradient with the dense curvature of each parameter by itself: Gauss-Newton or empirical Fisher, whichever the taps are.
///
/// With the rows `j_1 .. j_n` of `J` `[n, P]`, `P = out in`, a weight's elements in row-major order:
/// ```text
/// D = (J^T J / n + lambda I)^{-1} G
/// B <- momentum B + D + weight_decay W
/// W <- W - learning_rate B
/// ```
/// - *Empirical Fisher* (Amari 1998 with observed labels): rows are the gradients of each sample's own loss. From [`Taps::Samples`] they are made as
///   `g_i kron [x_i; 1]`, exact for a layer `y = W x` whose every sample is one row of the taps.
/// - *Gauss-Newton* (for square loss and softmax the Fisher): give [`Taps::PerSampleGradients`] with `n` = samples times outputs rows, each the gradient of one
///   output, times the square root of the loss's curvature there and of the number of outputs (the mean is over rows). `feature_learning::Curvature` makes
///   those of the two-layer model.
///
/// Other parameters' blocks are independent; for one matrix over all parameters flatten them into one `[1, P]` weight. There is no running average: each step's
/// curvature is that of its own taps.
///
/// Where `n >= P` the `P x P` matrix is factored (Cholesky). Where `n < P`, which needs a positive damping, it is the `n x n` one:
/// `D = (G - J^T (J J^T / n + lambda I)^{-1} J G / n) / lambda` (Woodbury). The shapes alone decide. The smaller of both is at most 4096. In f32 the relative
/// error is about `1e-7` times the condition of the damped matrix.
///
/// A step whose matrix can't be factored leaves the weight to momentum and decay, is counted, and takes ten times the damping at the next step; there is no
/// earlier root to fall back to. A direction that overflows is dropped and counted, with those of the trial's other layers.
///
/// State: one tensor of the weight's shape with momentum. Scratch, for each layer and trial: `n P` (with [`Taps::Samples`]) and twice `min(n, P)^2`. A step costs
/// about `n P m + m^3 / 3` flops, `m = min(n, P)`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct NaturalGradient {
    /// Learning rate, at least 0. Default 0.1. All defaults are ours.
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0.
    pub momentum: f64,
    /// Damping lambda, absolute, at least 0, positive where rows are fewer than parameters. Default 1e-3.
    pub damping: f64,
    /// What output gradients of [`Taps::Samples`] count as. Default [`OutputGradients::PerSample`]: the empirical Fisher.
    pub output_gradients: OutputGradients,
    /// L2 decay, at least 0, added behind the preconditioner. Default 0.
    pub weight_decay: f64,
}

impl Default for NaturalGradient {
    fn default() -> Self {
        NaturalGradient {
            learning_rate: 0.1,
            momentum: 0.0,
            damping: 1e-3,
            output_gradients: OutputGradients::PerSample,
            weight_decay: 0.0,
        }
    }
}

impl NaturalGradient {
    /// Refuses taps whose matrix is too large or singular without damping.
    pub(crate) fn check_taps(&self, parameter: &Parameter) -> Result<()> {
        let rows = match &parameter.taps {
            Some(Taps::PerSampleGradients { gradients: x } | Taps::Samples { inputs: x, .. }) => x.shape().rows,
            _ => return Ok(()),
        };
        let weight = parameter.weight.shape();
        let order = rows.min(weight.rows * weight.cols);
        let refuse = |field, found, allowed| Err(Error::Config { method: "NaturalGradient", field, found, allowed });
        if order > LARGEST {
            let found = format!("`{}` with a curvature matrix of order {order}, the smaller of {rows} rows and {weight}", parameter.name);
            return refuse("parameter", found, "an order of at most 4096: fewer rows, or a method with Kronecker factors");
        }
        if rows < weight.rows * weight.cols && self.damping == 0.0 {
            let found = format!("0 for `{}` with {rows} rows for a weight {weight}", parameter.name);
            return refuse("damping", found, "a positive damping where rows are fewer than parameters");
        }
        Ok(())
    }

    /// Direction of a stack, and whether its matrix was factored.
    fn direction(&self, r: &mut Recorder, stack: &Stack) -> Result<Value> {
        let rows = match stack.taps {
            Some(TapValues::Rows { rows }) => rows,
            Some(TapValues::Samples { inputs, output_gradients }) => self.rows(r, stack, inputs, output_gradients)?,
            _ => return Ok(stack.gradient),
        };
        let (items, n, p) = (stack.items(), rows.rows(), rows.cols());
        let damping = r.scratch(format!("{}.damping", stack.name), Shape::new(items, 1, 2))?;
        r.record(FactorDamping { left_mean: None, right_mean: None, block: stack.block, out: damping })?;
        let lambda = damping.col_range(0..1)?;
        let order = n.min(p);
        let matrix = r.scratch(format!("{}.curvature", stack.name), Shape::new(items, order, order))?;
        let gradient = stack.gradient.reshaped(p, 1)?;
        let (solution, good) = if n >= p {
            r.record(KronFactor::new(rows, matrix))?;
            spd_solve(r, matrix, gradient, Coef::column(0), Some(damping))?
        } else {
            let mean = 1.0 / n as f32;
            r.record(KronFactor { scale: p as f32 * mean, ..KronFactor::new(rows.t(), matrix) })?;
            let seen = r.scratch(format!("{}.seen", stack.name), Shape::new(items, n, 1))?;
            r.record(Gemm { alpha: Coef::Const(mean), ..Gemm::new(rows, gradient, seen) })?;
            let (y, good) = spd_solve(r, matrix, seen, Coef::column(0), Some(damping))?;
            let rest = r.scratch(format!("{}.rest", stack.name), Shape::new(items, p, 1))?;
            r.record(Gemm { d: Some(gradient), alpha: Coef::Const(-1.0), ..Gemm::new(rows.t(), y, rest) })?;
            let inverse = r.quotient(1.0, None, lambda, false)?;
            let solution = r.scratch(format!("{}.solution", stack.name), Shape::new(items, p, 1))?;
            r.record(Axpby { alpha: Coef::column(0), block: Some(inverse), ..Axpby::copy(rest, solution) })?;
            (solution, good)
        };
        let ok = r.scratch(format!("{}.ok", stack.name), Shape::new(items, 1, 1))?;
        r.record(RootOutcome { left_ok: good, right_ok: good, ok, block: stack.block })?;
        // What was solved with a failed factor has no meaning, not even as a factor of 0.
        let direction = r.scratch(format!("{}.direction", stack.name), stack.gradient.shape())?;
        r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(stack.gradient, direction) })?;
        r.record(Axpby { gate: Some(ok), ..Axpby::copy(solution, direction.reshaped(p, 1)?) })?;
        Ok(direction)
    }

    /// `J`, `[items, n, out in]`, from a layer's taps: item by item and sample by sample an outer product.
    fn rows(&self, r: &mut Recorder, stack: &Stack, inputs: Value, output_gradients: Value) -> Result<Value> {
        let (items, n) = (stack.items(), inputs.rows());
        let (out, inn) = (stack.weight.rows(), stack.weight.cols());
        let rows = r.scratch(format!("{}.rows", stack.name), Shape::new(items, n, out * inn))?;
        let (x, g) = (own(r, inputs, items)?.unfold(n)?, own(r, output_gradients, items)?.unfold(n)?);
        let products = rows.unfold(n)?.reshaped(out, inn)?;
        let alpha = Coef::Const(self.output_gradients.scale(n).sqrt());
        r.record(Gemm { alpha, ..Gemm::new(g.t(), x, products.col_range(0..x.cols())?) })?;
        if x.cols() < inn {
            r.record(Axpby { alpha, ..Axpby::copy(g.t(), products.col_range(inn - 1..inn)?) })?;
        }
        Ok(rows)
    }
}

/// One stored item for each of `items`.
fn own(r: &mut Recorder, x: Value, items: usize) -> Result<Value> {
    if x.items() == items {
        return x.item_range(0..items);
    }
    let copy = r.scratch("natural_gradient.taps", Shape::new(items, x.rows(), x.cols()))?;
    r.copy(x, copy)?;
    Ok(copy)
}

impl Beats for NaturalGradient {
    /// Momentum.
    type State = Option<Value>;

    fn validate(&self) -> Result<()> {
        let check = Check("NaturalGradient");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.non_negative("damping", self.damping)?;
        check.non_negative("weight_decay", self.weight_decay)
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::MOMENTUM, self.momentum);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
        put(row, block::DAMPING, self.damping);
        // Each step has statistics: its own.
        put(row, block::STATISTICS_WEIGHT, 1.0);
    }

    fn cadence(&self) -> Option<(u64, u64, u64)> {
        Some((1, 1, 0))
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<Option<Value>> {
        if self.momentum == 0.0 { Ok(None) } else { keep.moment(stack, "momentum").map(Some) }
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, Option<Value>)], _preconditioned: bool) -> Result<()> {
        let directions = stacks.iter().map(|(stack, _)| self.direction(r, stack)).collect::<Result<Vec<_>>>()?;
        let factors = clip::factors(r, stacks, &directions, false)?;
        for (((stack, momentum), direction), factor) in stacks.iter().zip(directions).zip(factors) {
            update(r, stack, *momentum, direction, Some(factor))?;
        }
        Ok(())
    }
}
