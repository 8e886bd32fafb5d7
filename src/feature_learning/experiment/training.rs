//! One chunk of trials with memory: steps, log points, and what was logged.

use super::LinearRepresentation;
use super::recorded::{Input, LOG, Recorded, SAMPLE, STALE_STEP, STEP};
use crate::context::{Context, Inner};
use crate::error::{Error, Result};
use crate::feature_learning::experiment::block_row;
use crate::feature_learning::metrics::COLUMNS;
use crate::feature_learning::scheme::Initial;
use crate::feature_learning::teacher::Teacher;
use crate::optim::Optimizer;
use crate::plan::Value;
use crate::prepared::{ALL, Bindings, Prepared};
use crate::tensor::{Shape, Tensor};

/// Submissions that the device may have in hand before the host waits for the oldest.
#[cfg(feature = "gpu")]
const AHEAD: usize = 4;

/// Trials that step together.
pub(super) struct Training {
    context: Context,
    prepared: Prepared,
    optimizer: Option<Optimizer>,
    log: Tensor,
    /// Every log point, one after another.
    history: Tensor,
    trials: usize,
    points: usize,
    steps_done: usize,
    precondition_every: usize,
    #[cfg(feature = "gpu")]
    in_flight: std::collections::VecDeque<wgpu::SubmissionIndex>,
}

impl Training {
    pub(super) fn new(context: &Context, config: &LinearRepresentation, recorded: &Recorded, rates: &[f64]) -> Result<Self> {
        let bound = Bound::new(context, config, recorded, rates)?;
        let trials = recorded.scheme.model.trials();
        let points = config.log_steps().len();
        let history = context.zeros(Shape::new(points * trials, 1, COLUMNS))?;
        let per_trial = rates.repeat(trials / rates.len());
        let schedule = config.schedule.over(config.steps);
        let optimizer = recorded.scheme.optimizer(context, &|value| bound.tensor(value).cloned(), &per_trial, schedule)?;
        let mut bindings = Bindings::new();
        bound.tensors.iter().for_each(|(value, tensor)| {
            bindings.bind(*value, tensor);
        });
        if let Some(optimizer) = &optimizer {
            for (&report, trained) in recorded.reports.iter().zip(recorded.scheme.trained()) {
                let block = optimizer.block(trained.name).ok_or_else(|| unbound(trained.name))?;
                bindings.bind(report, &block);
            }
        }
        let prepared = context.prepare(&recorded.plan, &bindings)?;
        let log = prepared.tensor(recorded.log).cloned().ok_or_else(|| unbound("log"))?;
        Ok(Training {
            context: context.clone(),
            prepared,
            optimizer,
            log,
            history,
            trials,
            points: 0,
            steps_done: 0,
            precondition_every: config.precondition_every,
            #[cfg(feature = "gpu")]
            in_flight: std::collections::VecDeque::new(),
        })
    }

    /// Draws the transfer samples.
    pub(super) fn start(&mut self) -> Result<()> {
        self.prepared.run(&[SAMPLE])
    }

    /// Steps, then fills a log point if asked to: one submission on a GPU, without a wait for it.
    pub(super) fn advance(&mut self, steps: usize, log: bool) -> Result<()> {
        let target = if log { Some(self.history.items(self.points * self.trials..(self.points + 1) * self.trials)?) } else { None };
        match &self.context.inner {
            Inner::Cpu(_) => self.advance_cpu(steps, target.as_ref())?,
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => {
                let device = device.clone();
                self.advance_gpu(&device, steps, target.as_ref())?;
            }
        }
        self.points += usize::from(log);
        Ok(())
    }

    /// The segment of the next step.
    fn next_step(&mut self) -> usize {
        let due = self.steps_done.is_multiple_of(self.precondition_every);
        self.steps_done += 1;
        if due { STEP } else { STALE_STEP }
    }

    fn advance_cpu(&mut self, steps: usize, target: Option<&Tensor>) -> Result<()> {
        for _ in 0..steps {
            let segment = self.next_step();
            self.prepared.run_parts(std::iter::once((segment, ALL)))?;
            if let Some(optimizer) = &mut self.optimizer {
                optimizer.step()?;
            }
        }
        if let Some(target) = target {
            self.prepared.run(&[LOG])?;
            target.write(&self.log.read()?)?;
        }
        Ok(())
    }

    #[cfg(feature = "gpu")]
    fn advance_gpu(&mut self, device: &crate::gpu::Device, steps: usize, target: Option<&Tensor>) -> Result<()> {
        let index = device.submit("training steps", |encoder| {
            for _ in 0..steps {
                let segment = self.next_step();
                self.prepared.record(encoder, &[segment])?;
                if let Some(optimizer) = &mut self.optimizer {
                    optimizer.record(encoder)?;
                }
            }
            let Some(target) = target else { return Ok(()) };
            self.prepared.record(encoder, &[LOG])?;
            if let (Some((from, from_offset)), Some((to, to_offset))) = (self.log.gpu_buffer(), target.gpu_buffer()) {
                encoder.copy_buffer_to_buffer(from, from_offset, to, to_offset, 4 * target.words() as u64);
            }
            Ok(())
        })?;
        self.in_flight.push_back(index);
        if self.in_flight.len() > AHEAD
            && let Some(oldest) = self.in_flight.pop_front()
        {
            device.wait_for(oldest)?;
        }
        Ok(())
    }

    /// Submissions that nobody waited for yet.
    pub(super) fn in_flight(&self) -> usize {
        #[cfg(feature = "gpu")]
        return self.in_flight.len();
        #[cfg(not(feature = "gpu"))]
        0
    }

    /// All log rows: by log point, then by trial.
    pub(super) fn history(&self) -> Result<Vec<f32>> {
        self.history.read()
    }
}

fn unbound(value: &str) -> Error {
    Error::Binding { value: value.into(), reason: "it was not bound".into() }
}

/// The tensors of a chunk.
struct Bound {
    tensors: Vec<(Value, Tensor)>,
}

impl Bound {
    fn tensor(&self, value: Value) -> Option<&Tensor> {
        self.tensors.iter().find(|(v, _)| v.id == value.id).map(|(_, tensor)| tensor)
    }

    fn new(context: &Context, config: &LinearRepresentation, recorded: &Recorded, rates: &[f64]) -> Result<Self> {
        let teachers: Vec<(u32, Teacher)> = (config.first_seed..)
            .take(config.seeds)
            .map(|seed| (seed, Teacher::draw(seed, config.d_x, config.d_y, config.k, config.head_condition)))
            .collect();
        let per_seed = |f: &dyn Fn(u32, &Teacher) -> Vec<f32>| teachers.iter().flat_map(|(seed, t)| f(*seed, t)).collect::<Vec<f32>>();
        let per_trial = |f: &dyn Fn(&Teacher) -> Vec<f32>| {
            config.kappas.iter().flat_map(|_| teachers.iter()).flat_map(|(_, t)| f(t).repeat(rates.len())).collect::<Vec<f32>>()
        };
        let shape = |value: Value| recorded.plan.info(value).map_or(value.shape(), |info| info.shape);
        let mut tensors = Vec::new();
        for &(value, input) in &recorded.inputs {
            let tensor = match input {
                Input::Zeros => context.zeros(shape(value))?,
                Input::Root(side) => {
                    let root = |kappa: f64| {
                        let eigenvalues = config.spectrum.eigenvalues(config.d_x, kappa);
                        per_seed(&|_, t| t.covariance_root_of(side, &eigenvalues, config.rotated))
                    };
                    context.upload(shape(value), &config.kappas.iter().flat_map(|&kappa| root(kappa)).collect::<Vec<f32>>())?
                }
                Input::Target(side) => context.upload(shape(value), &per_seed(&|_, t| t.target(side)))?,
                Input::Keys(task) => {
                    context.upload(shape(value), &per_seed(&|seed, _| vec![f32::from_bits(seed), f32::from_bits(task)]))?
                }
                Input::Reference => context.upload(shape(value), &per_seed(&|_, t| t.representation()))?,
            };
            tensors.push((value, tensor));
        }
        let rows: Vec<f32> = rates.iter().flat_map(|&rate| block_row(rate, config.schedule, config.steps)).collect();
        for &(value, initial) in &recorded.scheme.state {
            let shape = shape(value);
            let tensor = match initial {
                Initial::Zeros => context.zeros(shape)?,
                Initial::Ones => context.upload(shape, &vec![1.0; shape.elements()])?,
                Initial::Head => context.upload(shape, &per_trial(&Teacher::initial_head))?,
                Initial::Representation => context.upload(shape, &per_trial(&Teacher::initial_representation))?,
                Initial::Block => context.upload(shape, &rows.repeat(config.kappas.len() * config.seeds))?,
            };
            tensors.push((value, tensor));
        }
        Ok(Bound { tensors })
    }
}
