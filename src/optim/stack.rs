//! Layers of one shape that share dispatches.

use super::beats::{Keep, Kind};
use super::intake::{Gradient, Intake, Master, external};
use super::parameter::{Parameter, Taps, Wants};
use crate::error::Result;
use crate::plan::{Advance, Axpby, CheckFinite, Clock, Coef, DecayForm, Recorder, ReduceKind, Value, block};
use crate::prepared::Bindings;
use crate::tensor::{ElementType, Shape, Tensor};

/// The plan's view of a stack. Item `layer * trials + trial`: data index outer, trial index inner.
pub(crate) struct Stack {
    /// Names of the layers, joined: the prefix of its values' names.
    pub(crate) name: String,
    pub(crate) layers: usize,
    pub(crate) trials: usize,
    pub(crate) weight: Value,
    pub(crate) gradient: Value,
    pub(crate) taps: Option<TapValues>,
    pub(crate) block: Value,
    /// Where the decay enters, if not where the method has it.
    decay: Option<DecayForm>,
    /// The gradient's way to `gradient`.
    pub(crate) intake: Gradient,
    /// Of weights in f16; `weight` is its f32 side.
    pub(crate) master: Option<Master>,
    /// Running average of the weight.
    average: Option<Value>,
    /// The weight before the step, where updates are measured.
    before: Option<Value>,
}

/// How a group wants its stacks.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) taps: Wants,
    pub(crate) decay: Option<DecayForm>,
    pub(crate) intake: Intake,
    pub(crate) average: bool,
    pub(crate) tracks: bool,
    /// Of this stack's scratch, and the number after it.
    pub(crate) arena: u32,
}

/// The plan's view of a stack's taps, already repeated over the trials that share them.
#[derive(Clone, Copy)]
pub(crate) enum TapValues {
    Samples { inputs: Value, output_gradients: Value },
    Factors { left: Value, right: Value },
    Inputs { inputs: Value },
    Right { right: Value },
    Rows { rows: Value },
}

impl TapValues {
    /// All of them, with the factor of their squares in what is made of them; `None`: they are taken as they are.
    fn all(self, largest_scale: impl Fn(usize) -> f32) -> Vec<(Value, Option<f32>)> {
        match self {
            TapValues::Samples { inputs, output_gradients } => {
                vec![(inputs, Some(1.0)), (output_gradients, Some(largest_scale(output_gradients.rows()) / output_gradients.rows() as f32))]
            }
            TapValues::Factors { left, right } => vec![(left, None), (right, None)],
            TapValues::Inputs { inputs } => vec![(inputs, Some(1.0))],
            TapValues::Right { right } => vec![(right, None)],
            TapValues::Rows { rows } => vec![(rows, Some(1.0))],
        }
    }
}

impl Stack {
    /// Declares and binds weights, gradients, and the taps that a method wants.
    pub(crate) fn declare(keep: &mut Keep<'_>, bindings: &mut Bindings, parameters: &[&Parameter], wishes: Wishes) -> Result<Stack> {
        let (first, layers) = (parameters[0], parameters.len());
        let name = name(&parameters.iter().map(|p| p.name.as_str()).collect::<Vec<_>>());
        let mut bound = |r: &mut Recorder, role: &str, tensor: &Tensor| {
            let all = joined(tensor, layers);
            let value = external(r, format!("{name}.{role}"), all.shape(), tensor.element())?;
            bindings.bind(value, &all);
            Ok::<Value, crate::Error>(value)
        };
        let weight = bound(keep.r, "weight", &first.weight)?;
        let source = bound(keep.r, "gradient", &first.gradient)?;
        let trials = first.weight.shape().batch;
        // Taps with fewer items than trials are shared by neighbouring trials.
        let spread = |value: Value| {
            let stored = value.items() / layers;
            if stored == trials { Ok(value) } else { value.repeat(trials / stored, value.items()) }
        };
        let wants = wishes.taps;
        let taps = match first.taps.as_ref().filter(|_| wants != Wants::Nothing) {
            None => None,
            Some(Taps::Samples { inputs, .. } | Taps::Inputs { inputs }) if wants == Wants::Right => {
                Some(TapValues::Inputs { inputs: spread(bound(keep.r, "inputs", inputs)?)? })
            }
            Some(Taps::Factors { right, .. }) if wants == Wants::Right => {
                Some(TapValues::Right { right: spread(bound(keep.r, "right", right)?)? })
            }
            Some(Taps::PerSampleGradients { gradients }) => {
                Some(TapValues::Rows { rows: spread(bound(keep.r, "per_sample_gradients", gradients)?)? })
            }
            // Refused before.
            Some(Taps::Inputs { .. }) => None,
            Some(Taps::Samples { inputs, output_gradients }) => Some(TapValues::Samples {
                inputs: spread(bound(keep.r, "inputs", inputs)?)?,
                output_gradients: spread(bound(keep.r, "output_gradients", output_gradients)?)?,
            }),
            Some(Taps::Factors { left, right }) => {
                Some(TapValues::Factors { left: spread(bound(keep.r, "left", left)?)?, right: spread(bound(keep.r, "right", right)?)? })
            }
        };
        let staged = first.weight.shares_buffer(&first.gradient);
        let intake = Gradient::declare(keep, &name, source, staged, wishes.intake, wishes.arena)?;
        let shape = weight.shape();
        let master = match weight.element {
            ElementType::F32 => None,
            ElementType::F16 => Some(Master { half: weight, value: keep.named(format!("{name}.master"), shape, Kind::Copy)? }),
        };
        let average = if wishes.average { Some(keep.named(format!("{name}.average"), shape, Kind::Copy)?) } else { None };
        let block = keep.r.state(format!("{name}.block"), Shape::new(layers * trials, 1, block::WIDTH))?;
        let before = if wishes.tracks { Some(keep.r.scratch(format!("{name}.before"), shape)?) } else { None };
        let (weight, gradient) = (master.map_or(weight, |m| m.value), intake.value);
        Ok(Stack { name, layers, trials, weight, gradient, taps, block, decay: wishes.decay, intake, master, average, before })
    }

    /// Where the decay enters, for a method that has it at `own`.
    pub(crate) fn decay(&self, own: DecayForm) -> DecayForm {
        self.decay.unwrap_or(own)
    }

    pub(crate) fn items(&self) -> usize {
        self.layers * self.trials
    }

    /// One column of the block.
    pub(crate) fn column(&self, column: u32) -> Result<Value> {
        self.block.col_range(column as usize..column as usize + 1)
    }

    /// Refuses taps that are not finite, and those whose factor would overflow: in a running average that would stay for good.
    ///
    /// No element of a factor is larger than its trace, and no partial sum either.
    pub(crate) fn check_taps(&self, r: &mut Recorder, largest_scale: impl Fn(usize) -> f32) -> Result<()> {
        let flag = self.column(block::FLAG)?;
        for (x, scale) in self.taps.map(|taps| taps.all(largest_scale)).into_iter().flatten() {
            r.record(CheckFinite { x, flag })?;
            if let Some(scale) = scale {
                // Above 1e38 the scaled sum is above 1e18.
                let trace = r.reduce(ReduceKind::SumSq, 1e-20 * scale.max(1.0), x)?;
                r.record(CheckFinite { x: trace, flag })?;
            }
        }
        Ok(())
    }

    pub(crate) fn begin(&self, r: &mut Recorder, update_first: bool, refuses_large_norms: bool) -> Result<()> {
        if let Some(before) = self.before {
            r.copy(self.weight, before)?;
        }
        self.intake.shape(r, self.block, self.weight)?;
        if refuses_large_norms {
            // The check refuses what is above 1e18: a square above 1e37 here.
            let x = r.reduce(ReduceKind::SumSq, 1e-19, self.gradient)?;
            r.record(CheckFinite { x, flag: self.column(block::FLAG)? })?;
        }
        r.record(Advance { block: self.block, clock: if update_first { Clock::StepAfterFirst } else { Clock::Step } })
    }

    /// What follows an update: the running average of the weight, and the caller's f16.
    pub(crate) fn finish(&self, r: &mut Recorder) -> Result<()> {
        if let Some(before) = self.before {
            let change = r.axpby(1.0, self.weight, -1.0, before)?;
            let [change, size] = [change, before].map(|x| r.reduce(ReduceKind::SumSq, 1.0, x));
            let (change, size) = (change?, size?);
            let norm = r.quotient(1.0, Some(change), change, true)?;
            let ratio = r.quotient(1.0, Some(norm), size, true)?;
            r.copy(ratio, self.column(block::UPDATE_RATIO)?)?;
        }
        if let Some(average) = self.average {
            // As w + decay (average - w): a decay of 0 gives w exactly.
            let change = r.axpby(1.0, average, -1.0, self.weight)?;
            r.record(Axpby {
                beta: Coef::column(block::AVERAGE),
                block: Some(self.block),
                gate: Some(self.column(block::GATE)?),
                ..Axpby::add(self.weight, change, average)
            })?;
        }
        self.master.map_or(Ok(()), |master| master.store(r))
    }
}

/// The name of a stack of these parameters.
pub(super) fn name(parameters: &[&str]) -> String {
    match parameters {
        [one] => (*one).into(),
        [first, .., last] => format!("{first}..{last}"),
        [] => String::new(),
    }
}

/// The view of `layers` tensors that follow one another, from the first one on.
fn joined(first: &Tensor, layers: usize) -> Tensor {
    let shape = first.shape();
    Tensor { shape: Shape { batch: layers * shape.batch, ..shape }, ..first.clone() }
}

/// Groups parameters (by index) into stacks: equal shapes, every tensor right behind its predecessor.
pub(crate) fn form_stacks(parameters: &[Parameter], with_taps: bool) -> Vec<Vec<usize>> {
    let mut stacks: Vec<Vec<usize>> = Vec::new();
    for (i, parameter) in parameters.iter().enumerate() {
        let fits = |stack: &&mut Vec<usize>| stack.last().is_some_and(|&last| parameter.follows(&parameters[last], with_taps));
        match stacks.iter_mut().find(fits) {
            Some(stack) => stack.push(i),
            None => stacks.push(vec![i]),
        }
    }
    stacks
}
