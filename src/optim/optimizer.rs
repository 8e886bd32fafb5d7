//! The optimizer: one prepared plan and the cadence of its segments.

use super::beats::Segments;
use super::builder::Builder;
use super::config::{Check, narrow};
use super::health::{Health, ParameterHealth, TrialHealth};
use super::memory::MemoryReport;
use super::refresh::{Refresh, Waiting};
use super::schedule::Schedule;
use super::work::Work;
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Plan, block};
use crate::prepared::Prepared;
use crate::tensor::Tensor;

/// All groups, ready to step.
///
/// A step reads gradients (and taps) and updates weights where they lie. It allocates nothing, reads nothing back and does not wait. Every recorded step
/// is meant to be submitted, in order: counters advance on the device where the work runs, and dropping a recorded step only skips its place in the
/// cadence of statistics and refreshes.
#[derive(Debug)]
pub struct Optimizer {
    pub(super) context: Context,
    /// What it was built from, with the tensors in force.
    pub(super) sources: Builder,
    pub(super) prepared: Prepared,
    pub(super) groups: Vec<GroupState>,
    pub(super) memory: MemoryReport,
    pub(super) step: u64,
    pub(super) gathering: Gathering,
    /// The next step starts from the caller's f16 weights.
    pub(super) load: bool,
    /// Refreshes that are due or half done before the next step.
    pub(super) waiting: Waiting,
    /// Kept from step to step for their memory.
    pub(super) work: Work,
    #[cfg(feature = "gpu")]
    belt: Option<wgpu::util::StagingBelt>,
}

/// How many calls make a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gathering {
    /// Gradients of a step.
    pub(crate) every: u64,
    /// Those taken in so far.
    pub(crate) taken: u64,
    /// The segment that clips by the global norm.
    pub(crate) clip: Option<usize>,
    /// Gradients are unscaled.
    pub(crate) scaled: bool,
}

/// What the host knows of a group.
#[derive(Debug)]
pub(crate) struct GroupState {
    pub(crate) segments: Segments,
    /// One a bucket.
    pub(crate) refreshes: Vec<Refresh>,
    pub(crate) trials: usize,
    /// `[items, 1, 2]`: base learning rates and factors of gradients, to be copied into the blocks.
    pub(crate) rates: Tensor,
    /// What is in it, or will be.
    pub(crate) settings: Vec<f32>,
    /// `rates` was written and not yet copied.
    pub(crate) changed: bool,
    /// New rates that wait for an encoder (GPU).
    pub(crate) upload: Option<Vec<f32>>,
    /// One a stack.
    pub(crate) blocks: Vec<Tensor>,
    /// (name, stack, layer) of each parameter.
    pub(crate) parameters: Vec<(String, usize, usize)>,
    /// What is kept between steps: the blocks first, then what the method keeps.
    pub(crate) kept: Vec<StateTensor>,
    /// Copies of inputs of refreshes that a frame budget cuts: they matter while one is half done.
    pub(crate) snapshots: Vec<StateTensor>,
    #[cfg(feature = "checkpoint")]
    pub(crate) method: super::config::Method,
}

/// A tensor that is kept between steps.
#[derive(Debug)]
pub(crate) struct StateTensor {
    /// `STACK.role`; a role has no dots.
    pub(crate) name: String,
    #[cfg(feature = "checkpoint")]
    pub(crate) stack: usize,
    /// Layer by layer, trial by trial.
    pub(crate) tensor: Tensor,
}

impl Optimizer {
    /// An optimizer without groups yet.
    pub fn builder(context: &Context) -> Builder {
        Builder::new(context)
    }

    pub(crate) fn new(sources: Builder, prepared: Prepared, groups: Vec<GroupState>, memory: MemoryReport, gathering: Gathering) -> Self {
        Optimizer {
            context: sources.context.clone(),
            sources,
            prepared,
            groups,
            memory,
            step: 0,
            gathering,
            load: true,
            waiting: Waiting::default(),
            work: Work::default(),
            #[cfg(feature = "gpu")]
            belt: None,
        }
    }

    /// Runs one step. On a GPU: one submit, no wait.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) or [`Error::Gpu`](crate::Error::Gpu); the step does not count then.
    pub fn step(&mut self) -> Result<()> {
        #[cfg(feature = "gpu")]
        if self.groups.iter().any(|g| g.upload.is_some()) {
            return self.step_with_change();
        }
        self.with_work(|prepared, work| prepared.run_parts(work.iter().cloned()))
    }

    /// A step whose encoder also holds the copy of changed learning rates.
    #[cfg(feature = "gpu")]
    fn step_with_change(&mut self) -> Result<()> {
        let gpu = self.context.gpu_device("step")?.clone();
        let before = (self.step, self.gathering, self.load, self.waiting.clone());
        let uploads = self.groups.iter().map(|g| g.upload.clone()).collect::<Vec<_>>();
        gpu.notice();
        let outcome = gpu.scoped("submit", || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("layerwise step") });
            self.record(&mut encoder)?;
            gpu.queue.submit([encoder.finish()]);
            Ok(())
        });
        if let Err(error) | Ok(Err(error)) = outcome {
            (self.step, self.gathering, self.load, self.waiting) = before;
            self.groups.iter_mut().zip(uploads).for_each(|(g, w)| g.upload = w);
            return Err(error);
        }
        Ok(())
    }

    /// Records one step into the caller's encoder, in one compute pass (and one copy before it after [`set_learning_rate`](Self::set_learning_rate)).
    /// Submits nothing.
    ///
    /// # Errors
    /// [`Error::WrongContext`](crate::Error::WrongContext) on the CPU path.
    #[cfg(feature = "gpu")]
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.flush(encoder)?;
        self.with_work(|prepared, work| {
            let descriptor = wgpu::ComputePassDescriptor { label: Some("layerwise"), timestamp_writes: None };
            prepared.record_parts(&mut encoder.begin_compute_pass(&descriptor), work.iter().cloned())
        })
    }

    /// Records one step into an open compute pass.
    ///
    /// # Errors
    /// [`Error::WrongContext`](crate::Error::WrongContext) on the CPU path; [`Error::Config`](crate::Error::Config) after
    /// [`set_learning_rate`](Self::set_learning_rate) without [`flush`](Self::flush), since a pass can't hold the copy.
    #[cfg(feature = "gpu")]
    pub fn record_into_pass(&mut self, pass: &mut wgpu::ComputePass<'_>) -> Result<()> {
        let waiting = self.groups.iter().position(|g| g.upload.is_some());
        let found = || format!("new learning rates of group {} in waiting", waiting.unwrap_or(0));
        let allowed = "no waiting change: call `flush(&mut encoder)` before you open the pass";
        Check("Optimizer").that("record_into_pass", waiting.is_none(), found(), allowed)?;
        self.with_work(|prepared, work| prepared.record_parts(pass, work.iter().cloned()))
    }

    /// Records the copy of changed learning rates into `encoder`; only needed before [`record_into_pass`](Self::record_into_pass).
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) where the staging memory can't be mapped; the change is kept for the next try.
    #[cfg(feature = "gpu")]
    pub fn flush(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        if self.groups.iter().all(|g| g.upload.is_none()) {
            return Ok(());
        }
        let gpu = self.context.gpu_device("flush")?.clone();
        let largest = self.groups.iter().map(|g| 4 * g.rates.words() as u64).max().unwrap_or(4);
        let (belt, groups) = (&mut self.belt, &mut self.groups);
        gpu.scoped("staging new learning rates", || {
            let belt = belt.get_or_insert_with(|| wgpu::util::StagingBelt::new(gpu.device.clone(), (largest + 64).max(1024)));
            let outcome = groups.iter_mut().try_for_each(|group| group.stage(belt, encoder));
            belt.finish_and_recall_on_submit(encoder);
            outcome
        })?
    }

    /// Changes the base learning rates of group `group` (in order of addition) from the next step on: one value, or one a trial. No rebuild.
    ///
    /// On a GPU the change travels in the next recorded step's encoder: steps recorded before keep the old rate, and where that encoder is dropped the
    /// change is lost with it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a group that does not exist, another number of values, or a value that is negative or not finite.
    pub fn set_learning_rate(&mut self, group: usize, rates: &[f64]) -> Result<()> {
        let check = Check("Optimizer");
        let known = self.groups.len();
        check.that("group", group < known, format!("{group} of {known}"), "an index in order of addition")?;
        let group = &mut self.groups[group];
        let good = rates.len() == 1 || rates.len() == group.trials;
        check.that("learning_rate", good, format!("{} values for {} trials", rates.len(), group.trials), "one value, or one a trial")?;
        rates.iter().try_for_each(|&rate| check.non_negative("learning_rate", rate))?;
        group.settings.chunks_mut(2).zip(rates.iter().cycle()).for_each(|(settings, &rate)| settings[0] = narrow(rate));
        group.publish(self.context.is_gpu())
    }

    /// Changes the loss scale from the next step on, as [`set_learning_rate`](Self::set_learning_rate) changes a rate.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a scale that is not positive and finite, or without [`Builder::loss_scale`].
    pub fn set_loss_scale(&mut self, scale: f64) -> Result<()> {
        let scaled = self.gathering.scaled;
        Check("Optimizer").that("loss_scale", scaled, "a change", "only of an optimizer built with `Builder::loss_scale`")?;
        super::builder::check_loss_scale(scale)?;
        for group in &mut self.groups {
            group.settings.chunks_mut(2).for_each(|settings| settings[1] = narrow(1.0 / scale));
            group.publish(self.context.is_gpu())?;
        }
        Ok(())
    }

    /// Tells the optimizer a loss, for groups with [`Kfac::adaptation`](super::Kfac::adaptation): `[trials, 1, 1]`, on the device, read in place. On a GPU: one
    /// small submit, no wait, no readback. [`LevenbergMarquardt`](super::LevenbergMarquardt) says which losses to give when.
    ///
    /// Give the same tensor each time: another one means new bind groups.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) where no group adapts its damping; [`Error::Binding`](crate::Error::Binding) for another shape;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext), [`Error::DeviceLost`](crate::Error::DeviceLost), [`Error::Gpu`](crate::Error::Gpu).
    pub fn observe_loss(&mut self, loss: &Tensor) -> Result<()> {
        let segments = self.bind_loss(loss)?;
        self.prepared.run(&segments)
    }

    /// As [`observe_loss`](Self::observe_loss), recorded into the caller's encoder.
    ///
    /// # Errors
    /// As [`observe_loss`](Self::observe_loss), and [`Error::WrongContext`](crate::Error::WrongContext) on the CPU path.
    #[cfg(feature = "gpu")]
    pub fn record_loss(&mut self, encoder: &mut wgpu::CommandEncoder, loss: &Tensor) -> Result<()> {
        let segments = self.bind_loss(loss)?;
        self.prepared.record(encoder, &segments)
    }

    /// Makes `loss` what the observing segments read.
    fn bind_loss(&mut self, loss: &Tensor) -> Result<Vec<usize>> {
        let observers: Vec<_> = self.groups.iter().filter_map(|g| g.segments.observe).collect();
        let allowed = "a group with `Kfac` and `adaptation`";
        Check("Optimizer").that("observe_loss", !observers.is_empty(), "no group that adapts its damping", allowed)?;
        for &(_, value) in &observers {
            let bound = self.prepared.tensor(value);
            if !bound.is_some_and(|t| t.shares_buffer(loss) && t.offset == loss.offset && t.shape() == loss.shape()) {
                self.prepared.rebind(value, loss)?;
            }
        }
        Ok(observers.into_iter().map(|(segment, _)| segment).collect())
    }

    /// Makes the next step start from the caller's f16 weights, after they were changed by other means than steps. Otherwise the f32 masters count, which
    /// were made from them at the first step.
    pub fn reload_weights(&mut self) {
        self.load = true;
    }

    /// The running average of a parameter's weight, if its group keeps one ([`Group::average`](super::Group::average)).
    pub fn average(&self, parameter: &str) -> Option<Tensor> {
        let find = |group: &GroupState| {
            let (_, stack, layer) = group.parameters.iter().find(|p| p.0 == parameter)?;
            let layers = group.parameters.iter().filter(|p| p.1 == *stack).count();
            let name = &group.blocks_name(*stack);
            let kept = group.kept.iter().find(|kept| kept.name.strip_suffix(".average") == Some(name))?;
            let trials = kept.tensor.shape().batch / layers;
            kept.tensor.items(layer * trials..(layer + 1) * trials).ok()
        };
        self.groups.iter().find_map(find)
    }

    /// Steps run or recorded so far; with [`Builder::accumulate_gradients`] those that updated weights.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The plan: print it to see what a step does.
    pub fn plan(&self) -> &Plan {
        self.prepared.plan()
    }

    /// The cadence of a group; `None` for methods without statistics.
    pub fn schedule(&self, group: usize) -> Option<Schedule> {
        self.groups.get(group)?.segments.schedule
    }

    /// Every tensor that is kept between steps, by name: `PARAMETER.momentum`, `PARAMETER.left_statistics`, ... (a stack's name is `FIRST..LAST`).
    pub fn state(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.groups.iter().flat_map(|g| g.kept.iter().chain(&g.snapshots)).map(|kept| (kept.name.as_str(), &kept.tensor))
    }

    /// The hyper-parameter rows of a parameter, one a trial.
    pub(crate) fn block(&self, parameter: &str) -> Option<Tensor> {
        let find = |group: &GroupState| {
            let (_, stack, layer) = group.parameters.iter().find(|p| p.0 == parameter)?;
            group.blocks.get(*stack)?.items(layer * group.trials..(layer + 1) * group.trials).ok()
        };
        self.groups.iter().find_map(find)
    }

    /// Memory held, by purpose.
    pub fn memory(&self) -> MemoryReport {
        self.memory
    }

    /// Reads what became of each layer and trial, without blocking this thread.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) or [`Error::Gpu`](crate::Error::Gpu).
    pub async fn health(&self) -> Result<Health> {
        let mut parameters = Vec::new();
        for group in &self.groups {
            let mut blocks = Vec::with_capacity(group.blocks.len());
            for tensor in &group.blocks {
                blocks.push(tensor.read_async().await?);
            }
            parameters.extend(group.report(&blocks));
        }
        Ok(Health { parameters })
    }

    /// As [`health`](Self::health), blocking until the numbers are there.
    ///
    /// # Errors
    /// As [`health`](Self::health).
    pub fn health_blocking(&self) -> Result<Health> {
        let mut parameters = Vec::new();
        for group in &self.groups {
            let blocks = group.blocks.iter().map(Tensor::read).collect::<Result<Vec<_>>>()?;
            parameters.extend(group.report(&blocks));
        }
        Ok(Health { parameters })
    }
}

impl GroupState {
    /// The name of a stack.
    fn blocks_name(&self, stack: usize) -> String {
        let members: Vec<&str> = self.parameters.iter().filter(|p| p.1 == stack).map(|p| p.0.as_str()).collect();
        super::stack::name(&members)
    }

    /// Makes `settings` known to the next step.
    fn publish(&mut self, gpu: bool) -> Result<()> {
        if gpu {
            self.upload = Some(self.settings.clone());
        } else {
            self.rates.write(&self.settings)?;
            self.changed = true;
        }
        Ok(())
    }

    /// Copies waiting learning rates through the staging belt.
    #[cfg(feature = "gpu")]
    fn stage(&mut self, belt: &mut wgpu::util::StagingBelt, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let (Some(values), Some((target, offset))) = (&self.upload, self.rates.gpu_buffer()) else { return Ok(()) };
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else { return Ok(()) };
        let slice = belt.allocate(size, wgpu::BufferSize::MIN);
        let mut view =
            slice.get_mapped_range_mut().map_err(|e| crate::Error::Gpu { during: "staging new learning rates", message: e.to_string() })?;
        view.copy_from_slice(bytes);
        encoder.copy_buffer_to_buffer(slice.buffer(), slice.offset(), target, offset, size.get());
        (self.upload, self.changed) = (None, true);
        Ok(())
    }

    fn report<'a>(&'a self, blocks: &'a [Vec<f32>]) -> impl Iterator<Item = ParameterHealth> + 'a {
        self.parameters.iter().map(move |(name, stack, layer)| {
            let items = layer * self.trials..(layer + 1) * self.trials;
            let rows = &blocks[*stack][items.start * block::WIDTH..items.end * block::WIDTH];
            ParameterHealth { name: name.clone(), trials: rows.chunks(block::WIDTH).map(TrialHealth::of).collect() }
        })
    }
}
