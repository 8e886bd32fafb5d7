//! All learning rates and seeds of one optimizer as one run.

use std::time::Instant;

use kit::{Progress, Result};
use layerwise::Context;
use layerwise::optim::{Group, Optimizer, Parameter};

use super::contenders::Contender;
use super::network::{COLUMNS, Network, Sizes};

/// Steps that a device may have in hand before the host waits.
const AHEAD: usize = 16;

/// What came of one optimizer.
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    pub(crate) rates: Vec<f64>,
    pub(crate) seeds: usize,
    /// By seed, rate and log point.
    rows: Vec<[f64; COLUMNS]>,
    points: usize,
    /// What training added to `W1` of every trial.
    change: Vec<f32>,
    /// Seconds of the steps alone up to each log point, of all trials together; empty unless asked for.
    pub(crate) seconds: Vec<f64>,
}

impl Outcome {
    /// Trains. `log_steps` are increasing, from 0 to the last step.
    pub(crate) fn train(
        context: &Context,
        sizes: Sizes,
        contender: Contender,
        log_steps: &[usize],
        timed: bool,
        progress: &Progress,
    ) -> Result<Outcome> {
        let mut network = Network::new(context, sizes)?;
        let rates = contender.rates(sizes.rates);
        let mut group = Group::new(contender.method).learning_rates(&rates.repeat(sizes.seeds));
        for (name, layer) in ["W1", "W2"].into_iter().zip(&network.layers) {
            let parameter = Parameter::new(name, &layer.weight, &layer.gradient);
            group = group.parameter(if contender.taps { parameter.samples(&layer.inputs, &layer.output_gradients) } else { parameter });
        }
        let mut optimizer = Optimizer::builder(context).group(group).build()?;
        let initial = network.layers[0].weight.read()?;
        let (mut step, mut spent, mut seconds) = (0, 0.0, Vec::new());
        for (point, &target) in log_steps.iter().enumerate() {
            let start = Instant::now();
            while step < target {
                network.gradient(step)?;
                optimizer.step()?;
                step += 1;
                if step % AHEAD == 0 {
                    context.wait()?;
                }
            }
            if timed {
                context.wait()?;
                spent += start.elapsed().as_secs_f64();
                seconds.push(spent);
            }
            network.log(point)?;
            progress.add((target - log_steps[point.saturating_sub(1)]) * sizes.trials());
        }
        let rows = network.logged()?;
        let change = network.layers[0].weight.read()?.iter().zip(&initial).map(|(after, before)| after - before).collect();
        Ok(Outcome { contender, rates, seeds: sizes.seeds, rows, points: log_steps.len(), change, seconds })
    }

    /// One quantity of one trial at one log point.
    pub(crate) fn at(&self, seed: usize, rate: usize, point: usize, column: usize) -> f64 {
        self.rows[(seed * self.rates.len() + rate) * self.points + point][column]
    }

    /// The same of every seed.
    pub(crate) fn over_seeds(&self, rate: usize, point: usize, column: usize) -> Vec<f64> {
        (0..self.seeds).map(|seed| self.at(seed, rate, point, column)).collect()
    }

    /// The rate with the least mean validation loss at the end; a rate with a loss that is not finite is out.
    pub(crate) fn selected(&self) -> Option<usize> {
        let loss = |rate: usize| mean(&self.over_seeds(rate, self.points - 1, 2));
        (0..self.rates.len()).filter(|&rate| loss(rate).is_finite()).min_by(|&a, &b| loss(a).total_cmp(&loss(b)))
    }

    /// What training added to `W1` of a trial of the first seed, unit by unit, without the bias.
    pub(crate) fn change(&self, rate: usize, inputs: usize) -> Vec<&[f32]> {
        let size = self.change.len() / (self.seeds * self.rates.len());
        self.change[rate * size..(rate + 1) * size].chunks(inputs).map(|unit| &unit[..inputs - 1]).collect()
    }
}

/// Arithmetic mean.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
