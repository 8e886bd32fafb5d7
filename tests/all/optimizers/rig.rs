//! Layers with weights, gradients and taps, filled from seeds: what every test here steps.

use layerwise::optim::{
    Accumulation, Adam, AdamW, Graft, Group, Kfac, Method, Muon, MuonScale, Optimizer, Parameter, Sgd, Shampoo, WeightDecay,
};
use layerwise::{Context, Shape, Tensor};
use libtest_mimic::Failed;

use crate::case::Outcome;
use crate::oracle::data;

/// Samples in the taps.
pub(crate) const N: usize = 24;

/// One layer `y = W [x; 1]` of some trials.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) weight: Tensor,
    pub(crate) gradient: Tensor,
    pub(crate) inputs: Tensor,
    pub(crate) output_gradients: Tensor,
}

impl Layer {
    /// Weights from `seed + trial`; everything else zero. `out` rows, `inn` inputs and a bias column.
    pub(crate) fn new(ctx: &Context, trials: usize, out: usize, inn: usize, seed: u64) -> Result<Layer, Failed> {
        Layer::stack(ctx, 1, trials, out, inn, seed)?.pop().ok_or_else(|| "no layer".into())
    }

    /// Layers in arenas: each role in one buffer.
    pub(crate) fn stack(ctx: &Context, layers: usize, trials: usize, out: usize, inn: usize, seed: u64) -> Result<Vec<Layer>, Failed> {
        let arena = |shape| ctx.arena(&vec![shape; layers]);
        let (weights, gradients) = (arena(Shape::new(trials, out, inn + 1))?, arena(Shape::new(trials, out, inn + 1))?);
        let (inputs, output_gradients) = (arena(Shape::new(trials, N, inn))?, arena(Shape::new(trials, N, out))?);
        let mut result = Vec::new();
        for (i, weight) in weights.into_iter().enumerate() {
            let (gradient, inputs, output_gradients) = (gradients[i].clone(), inputs[i].clone(), output_gradients[i].clone());
            let layer = Layer { weight, gradient, inputs, output_gradients };
            fill(&layer.weight, seed + 100 * i as u64, 0)?;
            result.push(layer);
        }
        Ok(result)
    }

    pub(crate) fn parameter(&self, name: &str) -> Parameter {
        Parameter::new(name, &self.weight, &self.gradient).samples(&self.inputs, &self.output_gradients)
    }

    /// Gradients and taps of step `step`, from `seed + trial`: what a trial sees does not depend on how many there are.
    pub(crate) fn feed(&self, seed: u64, step: u64) -> Outcome {
        for (tensor, role) in [(&self.gradient, 1), (&self.inputs, 2), (&self.output_gradients, 3)] {
            fill(tensor, seed, 10 * step + role)?;
        }
        Ok(())
    }
}

/// Item `t` from the stream of (seed + t, salt).
pub(crate) fn fill(tensor: &Tensor, seed: u64, salt: u64) -> Outcome {
    let shape = tensor.shape();
    let item = |t: usize| data(1_000_003 * (seed + t as u64) + salt, shape.rows * shape.cols);
    Ok(tensor.write(&(0..shape.batch).flat_map(item).collect::<Vec<f32>>())?)
}

/// An optimizer of one group.
pub(crate) fn optimizer(ctx: &Context, group: Group) -> Result<Optimizer, Failed> {
    Ok(Optimizer::builder(ctx).group(group).build()?)
}

/// A group of one layer, named `w`.
pub(crate) fn single(method: impl Into<Method>, layer: &Layer) -> Group {
    Group::new(method).parameter(layer.parameter("w"))
}

/// Every method, with nothing left at a value that would hide it.
pub(crate) fn methods() -> Vec<Method> {
    let sgd = Sgd { learning_rate: 0.05, momentum: 0.9, dampening: 0.3, weight_decay: 0.02, ..Sgd::default() };
    let kfac = Kfac { learning_rate: 0.02, damping: 0.01, kl_clip: Some(0.01), weight_decay: 0.02, ..Kfac::default() };
    let muon = Muon { learning_rate: 0.08, weight_decay: 0.02, ..Muon::default() };
    vec![
        Sgd { learning_rate: 0.05, ..Sgd::default() }.into(),
        sgd.into(),
        Sgd { nesterov: true, dampening: 0.0, ..sgd }.into(),
        Adam { learning_rate: 0.01, weight_decay: 0.02, ..Adam::default() }.into(),
        AdamW { learning_rate: 0.01, ..AdamW::default() }.into(),
        Adam { learning_rate: 0.01, weight_decay: 0.02, amsgrad: true, ..Adam::default() }.into(),
        AdamW { learning_rate: 0.01, nesterov: true, ..AdamW::default() }.into(),
        kfac.into(),
        Shampoo { learning_rate: 0.1, momentum: 0.5, nesterov: true, weight_decay: WeightDecay::Decoupled(0.02), ..Shampoo::default() }
            .into(),
        Shampoo {
            accumulation: Accumulation::Ema,
            beta2: 0.9,
            graft: Graft::Adam { beta2: 0.99, epsilon: 1e-8 },
            weight_decay: WeightDecay::L2(0.02),
            block_size: 4,
            ..Shampoo::default()
        }
        .into(),
        muon.into(),
        Muon { nesterov: false, neuron_decay: Some(0.9), accumulation: Accumulation::Sum, scale: MuonScale::MatchRmsAdamW, ..muon }.into(),
    ]
}

/// The state tensor of this name.
pub(crate) fn state(optimizer: &Optimizer, name: &str) -> Result<Vec<f32>, Failed> {
    let (_, tensor) = optimizer.state().find(|(n, _)| *n == name).ok_or_else(|| format!("no state `{name}`"))?;
    Ok(tensor.read()?)
}

/// Every state tensor but the blocks.
pub(crate) fn states(optimizer: &Optimizer) -> Result<Vec<Vec<f32>>, Failed> {
    Ok(optimizer.state().filter(|(n, _)| !n.ends_with(".block")).map(|(_, t)| t.read()).collect::<Result<_, _>>()?)
}

/// Equal bit by bit (NaN equal to itself).
pub(crate) fn same(what: &str, got: &[f32], want: &[f32]) -> Outcome {
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    match got.iter().zip(want).position(differs) {
        None if got.len() == want.len() => Ok(()),
        None => Err(format!("{what}: {} elements, expected {}", got.len(), want.len()).into()),
        Some(i) => Err(format!("{what}: element {i} is {:e}, expected {:e}", got[i], want[i]).into()),
    }
}

/// Fails with a message.
pub(crate) fn ensure(good: bool, message: impl FnOnce() -> String) -> Outcome {
    if good { Ok(()) } else { Err(message().into()) }
}
