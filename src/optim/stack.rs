//! Layers of one shape that share dispatches.

use super::group::{Parameter, Taps, Wants};
use crate::error::Result;
use crate::plan::{Axpby, Recorder, Value, block};
use crate::prepared::Bindings;
use crate::tensor::{Shape, Tensor};

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
    /// The caller's gradient where it lies in the weight's buffer: `begin` copies it to `gradient`.
    staged: Option<Value>,
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
    pub(crate) fn declare(r: &mut Recorder, bindings: &mut Bindings, parameters: &[&Parameter], wants: Wants) -> Result<Stack> {
        let (first, layers) = (parameters[0], parameters.len());
        let name = match parameters {
            [one] => one.name.clone(),
            [first, .., last] => format!("{}..{}", first.name, last.name),
            [] => String::new(),
        };
        let mut external = |r: &mut Recorder, role: &str, tensor: &Tensor| {
            let all = joined(tensor, layers);
            let value = r.external(format!("{name}.{role}"), all.shape())?;
            bindings.bind(value, &all);
            Ok::<Value, crate::Error>(value)
        };
        let weight = external(r, "weight", &first.weight)?;
        let gradient = external(r, "gradient", &first.gradient)?;
        let trials = first.weight.shape().batch;
        // Taps with fewer items than trials are shared by neighbouring trials.
        let spread = |value: Value| {
            let stored = value.items() / layers;
            if stored == trials { Ok(value) } else { value.repeat(trials / stored, value.items()) }
        };
        let taps = match first.taps.as_ref().filter(|_| wants != Wants::Nothing) {
            None => None,
            Some(Taps::Samples { inputs, .. } | Taps::Inputs { inputs }) if wants == Wants::Right => {
                Some(TapValues::Inputs { inputs: spread(external(r, "inputs", inputs)?)? })
            }
            Some(Taps::Factors { right, .. }) if wants == Wants::Right => {
                Some(TapValues::Right { right: spread(external(r, "right", right)?)? })
            }
            Some(Taps::PerSampleGradients { gradients }) => {
                Some(TapValues::Rows { rows: spread(external(r, "per_sample_gradients", gradients)?)? })
            }
            // Refused before.
            Some(Taps::Inputs { .. }) => None,
            Some(Taps::Samples { inputs, output_gradients }) => Some(TapValues::Samples {
                inputs: spread(external(r, "inputs", inputs)?)?,
                output_gradients: spread(external(r, "output_gradients", output_gradients)?)?,
            }),
            Some(Taps::Factors { left, right }) => {
                Some(TapValues::Factors { left: spread(external(r, "left", left)?)?, right: spread(external(r, "right", right)?)? })
            }
        };
        let (gradient, staged) = if first.weight.shares_buffer(&first.gradient) {
            (r.scratch(format!("{name}.staged_gradient"), joined(&first.gradient, layers).shape())?, Some(gradient))
        } else {
            (gradient, None)
        };
        let block = r.state(format!("{name}.block"), Shape::new(layers * trials, 1, block::WIDTH))?;
        Ok(Stack { name, layers, trials, weight, gradient, taps, block, staged })
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
            r.record(crate::plan::CheckFinite { x, flag })?;
            if let Some(scale) = scale {
                // Above 1e38 the scaled sum is above 1e18.
                let trace = r.reduce(crate::plan::ReduceKind::SumSq, 1e-20 * scale.max(1.0), x)?;
                r.record(crate::plan::CheckFinite { x: trace, flag })?;
            }
        }
        Ok(())
    }

    pub(crate) fn begin(&self, r: &mut Recorder) -> Result<()> {
        if let Some(staged) = self.staged {
            r.record(Axpby::copy(staged, self.gradient))?;
        }
        r.record(crate::plan::CheckFinite { x: self.gradient, flag: self.column(block::FLAG)? })?;
        r.record(crate::plan::Advance { block: self.block, clock: crate::plan::Clock::Step })
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
