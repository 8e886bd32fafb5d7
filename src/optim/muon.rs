//! Muon: orthogonalised momentum.

use super::beats::{Beats, Keep};
use super::config::{Accumulation, Check, Row, narrow, put};
use super::stack::Stack;
use crate::error::{Error, Result};
use crate::linalg::{NewtonSchulz, PolarOptions, Precision, polar};
use crate::plan::{
    Axpby, Coef, DecayForm, Momentum, MomentumForm, PolarOutcome, Recorder, Reduce, ReduceKind, SgdUpdate, SpectrumScale, Value, block,
};
use crate::tensor::Shape;

/// Factor of [`Muon`]'s orthogonalised direction, from the fan-out (rows) and fan-in (columns) of what is orthogonalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum MuonScale {
    /// `sqrt(max(1, out / in))` (KellerJordan/Muon, `torch.optim.Muon`).
    #[default]
    Original,
    /// `0.2 sqrt(max(out, in))`: elements as large as `AdamW`'s, so that its learning rates carry over (Liu and others 2025).
    #[cfg_attr(feature = "serde", serde(rename = "match_rms_adamw"))]
    MatchRmsAdamW,
    /// `sqrt(out / in)`: root-mean-square outputs change as much as root-mean-square inputs allow, at every width (microsoft/dion's `spectral_norm`).
    Spectral,
}

/// Muon (Jordan and others 2024): each update is the momentum with its singular values brought near 1. With the defaults KellerJordan/Muon's; with
/// `learning_rate: 1e-3, weight_decay: 0.1` `torch.optim.Muon`'s; both in f32 where those round to bf16.
///
/// ```text
/// M <- momentum M + (1 - momentum) G                            Ema; Sum: M <- momentum M + G
/// U = (1 - momentum) G + momentum M                             nesterov (Sum: G + momentum M); M otherwise
/// O = polar(U), nearly U (U^T U)^(-1/2)                         Newton-Schulz on U / (||U||_F + epsilon)
/// W <- (1 - learning_rate weight_decay) W - learning_rate s O   s by MuonScale
/// ```
/// The learning rate's unit is the spectral norm of an update (times `s`), not that of the gradient: multiplying all gradients by a constant changes
/// nothing. The decay is decoupled and takes the unscaled rate.
///
/// For matrices: hidden layers' weights, convolution kernels as `out x rest`. Biases, gains and other vectors, and (by custom) embeddings and output
/// heads belong into an [`AdamW`](super::AdamW) group; a weight with a single column is refused. A weight with a single row is a layer with one output,
/// whose update is the normalised momentum.
///
/// With `neuron_decay` it is `NorMuon` (Li and others 2025): the rows of `O` are divided by the root of the running average of their mean squares, `O` then
/// gets its norm back:
/// ```text
/// V <- neuron_decay V + (1 - neuron_decay) rowmean(O * O)
/// N = O / sqrt(V + 1e-16),  O <- N ||O|| / ||N||
/// ```
/// (`sqrt(V) + 1e-8` there.)
///
/// A direction that is not finite, or above 1e18, is left out (the decay is not) and counted in [`TrialHealth::failed_roots`](super::TrialHealth::failed_roots):
/// only divergent custom coefficients make one.
///
/// State: one tensor of the weight's size, and one number a row with `neuron_decay`. Cost: that of [`polar`](crate::linalg::polar), `20 m^3`
/// flops for square weights, `38 m^3` where one side is four times the other.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default, deny_unknown_fields))]
pub struct Muon {
    /// Learning rate, at least 0, in units of the update's spectral norm. Default 0.02 (KellerJordan/Muon).
    pub learning_rate: f64,
    /// Momentum in `[0, 1)`. Default 0.95 (all references).
    pub momentum: f64,
    /// Default [`Accumulation::Ema`] (KellerJordan/Muon).
    pub accumulation: Accumulation,
    /// Look-ahead form. Default on (KellerJordan/Muon; off in microsoft/dion).
    pub nesterov: bool,
    /// Decoupled decay, at least 0. Default 0 (KellerJordan/Muon).
    pub weight_decay: f64,
    /// Coefficients of the iteration. Default [`NewtonSchulz::Keller`] (KellerJordan/Muon).
    pub newton_schulz: NewtonSchulz,
    /// Steps of the iteration, 1 to 100. Default: as many as there are triples, 5 (KellerJordan/Muon).
    pub steps: Option<usize>,
    /// Added to the norm that divides the direction, at least 0: a direction far below it vanishes. Default 1e-7 (KellerJordan/Muon).
    pub epsilon: f64,
    /// What the products of the iteration take. Default [`Precision::F32`]; the references round to bf16.
    pub precision: Precision,
    /// Default [`MuonScale::Original`] (KellerJordan/Muon).
    pub scale: MuonScale,
    /// Fan-out in the scale, where it is not the rows: of a transposed weight, of a head of another size. Default: the rows (of a head).
    pub fan_out: Option<usize>,
    /// Fan-in in the scale, where it is not the columns. Default: the columns.
    pub fan_in: Option<usize>,
    /// Blocks of rows that are orthogonalised each by itself, with the scale of the block: attention heads, or 3 for a joint query-key-value weight. Must
    /// divide the rows of every weight of the group. Default 1.
    pub heads: usize,
    /// `NorMuon`'s second decay in `[0, 1)`, 0.95 there, or none. Default none.
    pub neuron_decay: Option<f64>,
}

impl Default for Muon {
    fn default() -> Self {
        Muon {
            learning_rate: 0.02,
            momentum: 0.95,
            accumulation: Accumulation::Ema,
            nesterov: true,
            weight_decay: 0.0,
            newton_schulz: NewtonSchulz::Keller,
            steps: None,
            epsilon: 1e-7,
            precision: Precision::F32,
            scale: MuonScale::Original,
            fan_out: None,
            fan_in: None,
            heads: 1,
            neuron_decay: None,
        }
    }
}

/// Under the root of `NorMuon`'s row averages.
const NEURON_FLOOR: f32 = 1e-16;

/// What Muon keeps of a stack.
pub(crate) struct State {
    momentum: Value,
    neurons: Option<Value>,
}

impl Muon {
    /// Checks a weight's shape.
    pub(crate) fn check_weight(&self, name: &str, shape: Shape) -> Result<()> {
        let refuse = |field, found, allowed| Err(Error::Config { method: "Muon", field, found, allowed });
        if shape.cols == 1 {
            let found = format!("`{name}`, a vector ({shape})");
            return refuse("parameter", found, "matrices: put vectors and scalars in an AdamW group");
        }
        if !shape.rows.is_multiple_of(self.heads) {
            return refuse("heads", format!("{} for `{name}` ({shape})", self.heads), "a divisor of the rows of every weight");
        }
        Ok(())
    }

    /// `s` for blocks of this shape.
    fn factor(&self, rows: usize, cols: usize) -> f32 {
        let (out, inn) = (self.fan_out.unwrap_or(rows) as f64, self.fan_in.unwrap_or(cols) as f64);
        narrow(match self.scale {
            MuonScale::Original => (out / inn).max(1.0).sqrt(),
            MuonScale::MatchRmsAdamW => 0.2 * out.max(inn).sqrt(),
            MuonScale::Spectral => (out / inn).sqrt(),
        })
    }

    fn update(&self, r: &mut Recorder, stack: &Stack, state: &State) -> Result<()> {
        let heads = self.heads;
        let [w, g, m] = [stack.weight, stack.gradient, state.momentum].map(|value| value.unfold(heads));
        let (w, g, m) = (w?, g?, m?);
        let shape = w.shape();
        let block = if heads == 1 { stack.block } else { stack.block.repeat(heads, stack.items())? };
        let scalar = |r: &mut Recorder, name: &str| r.scratch(format!("{}.{name}", stack.name), Shape::new(shape.batch, 1, 1));

        let fresh = if self.accumulation == Accumulation::Ema { Coef::column(block::ONE_MINUS_BETA1) } else { Coef::Const(1.0) };
        let look_ahead = if self.nesterov { Some(r.scratch(format!("{}.look_ahead", stack.name), shape)?) } else { None };
        let (decay, form) = (Coef::column(block::MOMENTUM), MomentumForm::LookAhead);
        r.record(Momentum { g, m, out: look_ahead, form, decay, fresh, block })?;
        let options = PolarOptions {
            coefficients: self.newton_schulz,
            steps: self.steps,
            epsilon: self.epsilon,
            precision: self.precision,
            ..PolarOptions::default()
        };
        let mut direction = polar(r, look_ahead.unwrap_or(m), &options)?;

        let size = r.reduce(ReduceKind::MaxAbs, 1.0, direction)?;
        let (mut scale, ok) = (scalar(r, "scale")?, scalar(r, "ok")?);
        let factor = self.factor(shape.rows, shape.cols);
        r.record(PolarOutcome { size, scale, ok, factor, block: stack.block })?;
        if let Some(neurons) = state.neurons {
            let (balanced, restore) = self.balance(r, stack, direction, neurons, ok)?;
            direction = balanced;
            scale = scalar(r, "balanced_scale")?;
            r.record(Axpby { alpha: Coef::Column { column: 0, scale: factor }, block: Some(ok), ..Axpby::copy(restore, scale) })?;
        }
        r.record(SgdUpdate {
            w,
            g: direction,
            m: None,
            g_scale: Some(scale),
            nesterov: false,
            decay: stack.decay(DecayForm::Decoupled),
            block,
        })
    }

    /// `NorMuon`: rows over the roots of their averages, and the factor that restores the norm.
    fn balance(&self, r: &mut Recorder, stack: &Stack, x: Value, neurons: Value, ok: Value) -> Result<(Value, Value)> {
        let (items, rows, cols) = (ok.items(), x.rows(), x.cols());
        // Rows of the orthogonalised transposed view are not evenly spaced from item to item.
        let dense = if rows > cols { r.scale(1.0, x)? } else { x };
        let squares = r.scratch(format!("{}.row_squares", stack.name), Shape::new(items * rows, 1, 1))?;
        r.record(Reduce { kind: ReduceKind::SumSq, x: dense.unfold(rows)?, y: None, out: squares, scale: 1.0 / cols as f32 })?;
        let average = neurons.unfold(neurons.rows())?;
        r.record(Axpby {
            alpha: Coef::column(block::ONE_MINUS_BETA2),
            beta: Coef::column(block::BETA2),
            block: Some(stack.block.repeat(neurons.rows(), stack.items())?),
            gate: Some(ok.repeat(rows, items)?),
            ..Axpby::add(squares, average, average)
        })?;
        let balanced = r.scratch(format!("{}.balanced", stack.name), Shape::new(items, rows, cols))?;
        r.record(SpectrumScale {
            x: x.t(),
            values: neurons.unfold(self.heads)?.t(),
            shift: Coef::Const(NEURON_FLOOR),
            exponent: 2,
            out: balanced.t(),
            block: None,
        })?;
        let before = r.reduce(ReduceKind::SumSq, 1.0, x)?;
        let after = r.reduce(ReduceKind::SumSq, 1.0, balanced)?;
        let norm = r.quotient(1.0, Some(before), before, true)?;
        Ok((balanced, r.quotient(1.0, Some(norm), after, true)?))
    }
}

impl Beats for Muon {
    type State = State;

    fn validate(&self) -> Result<()> {
        let check = Check("Muon");
        check.non_negative("learning_rate", self.learning_rate)?;
        check.decay("momentum", self.momentum)?;
        check.non_negative("weight_decay", self.weight_decay)?;
        check.non_negative("epsilon", self.epsilon)?;
        let steps = self.steps.unwrap_or(1);
        check.that("steps", (1..=100).contains(&steps), steps, "1 to 100")?;
        for (field, value) in [("fan_out", self.fan_out), ("fan_in", self.fan_in), ("heads", Some(self.heads))] {
            check.at_least_one(field, value.unwrap_or(1) as u64)?;
        }
        check.decay("neuron_decay", self.neuron_decay.unwrap_or(0.0))
    }

    fn fill(&self, row: &mut Row) {
        put(row, block::LEARNING_RATE, self.learning_rate);
        put(row, block::MOMENTUM, self.momentum);
        put(row, block::BETA1, self.momentum);
        put(row, block::ONE_MINUS_BETA1, 1.0 - self.momentum);
        put(row, block::WEIGHT_DECAY, self.weight_decay);
        if let Some(decay) = self.neuron_decay {
            put(row, block::BETA2, decay);
            put(row, block::ONE_MINUS_BETA2, 1.0 - decay);
        }
    }

    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<State> {
        let momentum = keep.moment(stack, "momentum")?;
        let neurons = self.neuron_decay.map(|_| keep.rows(stack, "neurons")).transpose()?;
        Ok(State { momentum, neurons })
    }

    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, State)], _preconditioned: bool) -> Result<()> {
        stacks.iter().try_for_each(|(stack, state)| self.update(r, stack, state))
    }
}
