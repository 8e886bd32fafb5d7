//! Collects what an optimizer is made of, and checks it.

use super::config::Check;
use super::draft::Draft;
use super::group::Group;
use super::memory::MemoryReport;
use super::optimizer::{GroupState, Optimizer};
use super::parameter::Parameter;
use super::routing::route;
use crate::context::Context;
use crate::error::Result;

/// Collects groups; [`build`](Self::build) makes the optimizer.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) context: Context,
    pub(super) groups: Vec<Group>,
    /// To be taken by groups.
    pool: Vec<Parameter>,
    pub(super) clip: Option<f64>,
    pub(super) gather: u64,
    pub(super) loss_scale: Option<f64>,
    pub(super) frame_budget: Option<u64>,
}

impl Builder {
    pub(crate) fn new(context: &Context) -> Self {
        Builder {
            context: context.clone(),
            groups: Vec::new(),
            pool: Vec::new(),
            clip: None,
            gather: 1,
            loss_scale: None,
            frame_budget: None,
        }
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Adds parameters that groups take by [`Group::takes`]. Every one has to be taken by exactly one group: that of its name if there is one, else that of
    /// its shape.
    #[must_use]
    pub fn parameters(mut self, parameters: impl IntoIterator<Item = Parameter>) -> Self {
        self.pool.extend(parameters);
        self
    }

    /// Clips gradients by their joint norm over all groups, in each trial by itself, before anything else sees them: `G <- G min(1, max_norm / |G|)`
    /// (optax's `clip_by_global_norm`; PyTorch's `clip_grad_norm_` adds 1e-6 to the norm). Default: no clip.
    ///
    /// Refused gradients count for nothing in the norm. A norm above 1.8e19, whose square is not finite, refuses all gradients of its trial. One reduction
    /// and one pass more over the gradients in each step.
    #[must_use]
    pub fn clip_global_norm(self, max_norm: f64) -> Self {
        Builder { clip: Some(max_norm), ..self }
    }

    /// Makes one step of every `count` calls of [`Optimizer::step`] or [`Optimizer::record`]: the first `count - 1` only take the gradient in, the last one
    /// steps with the mean of all (optax's `MultiSteps`). Default 1.
    ///
    /// A gradient that is not finite refuses the whole step of its layer and trial. Taps are those of the last call. State: one tensor of each weight's size.
    #[must_use]
    pub fn accumulate_gradients(self, count: u64) -> Self {
        Builder { gather: count, ..self }
    }

    /// Divides gradients by `scale`, which the loss was multiplied by, before anything else. Default: gradients as they are.
    ///
    /// [`Optimizer::set_loss_scale`] changes it. A gradient that overflowed is refused, as always, and counted in
    /// [`TrialHealth::skipped`](super::TrialHealth::skipped): what a dynamic scale goes by.
    #[must_use]
    pub fn loss_scale(self, scale: f64) -> Self {
        Builder { loss_scale: Some(scale), ..self }
    }

    /// No step adds more than `flops` of refresh work: what is above is spread over the steps that follow. Default: no limit.
    ///
    /// Refreshes that are due wait in a queue, first come first served over all groups, and each step takes as much of it as the budget holds. A bucket of
    /// layers whose refresh fits the budget runs in one piece. A larger one starts with a *snapshot* of its inputs, since statistics go on changing, goes on
    /// from the snapshot for as many steps as it takes, and changes roots, ridges and counters in its last piece alone; until then the previous roots
    /// hold (the initial ones before the first). Roots are then those of the step of the snapshot, bit by bit. A bucket that is due again while it
    /// waits is refreshed once, and while it is half done once more at the end of the queue: with a budget below the refresh work of
    /// `precondition_every` steps the effective period grows.
    ///
    /// Work is divided at dispatches on a GPU, so that the many of one large factorization may be spread, and at operations on the CPU path; the two devices
    /// therefore finish at different steps. Flops are those of [`Cost`](crate::plan::Cost), a GPU's eigendecompositions by their rounds. What can't
    /// be divided (a dispatch, a snapshot, a last piece) and is above the budget is the only refresh work of its step; `log::warn` tells at build time.
    /// Calls that only take a gradient in ([`accumulate_gradients`](Self::accumulate_gradients)) add none.
    /// [`Optimizer::next_refresh_flops`] tells what the next step adds. Memory: a copy of the inputs, counted among the statistics.
    ///
    /// A host that drops a recorded step instead of submitting it has to call [`Optimizer::restart_refresh`], for the dropped piece is missing.
    ///
    /// State that is saved while a refresh is half done has its snapshot and position; loading does the half again and goes on bit by bit as if
    /// nothing had happened, where device kind, groups and budget are the same. Otherwise all refreshes are due at once.
    #[must_use]
    pub fn frame_budget(self, flops: u64) -> Self {
        Builder { frame_budget: Some(flops), ..self }
    }

    /// Checks every setting, shape and name, allocates state, records the plan and prepares it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming a field outside its range, no group, an empty group, a parameter that no group takes or two take, two of one name, two that share
    /// weights, or a parameter without the taps that its method needs; [`Error::Shape`](crate::Error::Shape) for a gradient or taps that do not fit;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext); [`Error::Limit`](crate::Error::Limit) where the state does not fit the device.
    pub fn build(self) -> Result<Optimizer> {
        let this = self.routed()?;
        let mut draft = Draft::new(&this)?;
        let mut groups = draft.allocate(&this.context)?;
        let prepared = this.context.prepare(&draft.plan, &draft.bindings)?;
        groups.iter_mut().flat_map(|g| &mut g.refreshes).for_each(|r| r.measure(&prepared));
        warn(&groups, this.frame_budget);
        Ok(Optimizer::new(this, prepared, groups, draft.memory, draft.gathering))
    }

    /// As [`build`](Self::build), without blocking this thread: on another one, with missing pipelines compiled on all processors. See
    /// [`Context::prepare_async`](crate::Context::prepare_async).
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub async fn build_async(self) -> Result<Optimizer> {
        crate::context::elsewhere(move || self.build()).await
    }

    /// What [`Optimizer::memory`] will say once this is built: checks and records everything, allocates nothing on the device.
    ///
    /// ```
    /// use layerwise::optim::{Adam, Group, Optimizer, Parameter};
    /// use layerwise::{Context, Shape};
    /// let ctx = Context::cpu();
    /// let (weight, gradient) = (ctx.zeros(Shape::matrix(64, 128))?, ctx.zeros(Shape::matrix(64, 128))?);
    /// let builder = Optimizer::builder(&ctx).group(Group::new(Adam::default()).parameter(Parameter::new("w", &weight, &gradient)));
    /// let planned = builder.memory()?;
    /// assert_eq!(planned.moments, 2 * 4 * 64 * 128);
    /// assert_eq!(builder.build()?.memory(), planned);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`build`](Self::build), but for what only the device can refuse.
    pub fn memory(&self) -> Result<MemoryReport> {
        Ok(Draft::new(&self.clone().routed()?)?.memory)
    }

    /// With the pool's parameters in their groups.
    fn routed(self) -> Result<Self> {
        Ok(Builder { groups: route(&self.groups, &self.pool)?, pool: Vec::new(), ..self })
    }

    /// Checks everything; returns the trials of each group.
    pub(super) fn check(&self) -> Result<Vec<usize>> {
        Check("Optimizer").that("groups", !self.groups.is_empty(), "none", "at least one group")?;
        let trials = self.groups.iter().map(Group::check).collect::<Result<Vec<_>>>()?;
        self.check_gradients(&trials)?;
        check_distinct(&self.groups)?;
        Ok(trials)
    }

    fn check_gradients(&self, trials: &[usize]) -> Result<()> {
        let check = Check("Optimizer");
        check.at_least_one("accumulate_gradients", self.gather)?;
        check.that("accumulate_gradients", self.gather <= 1 << 24, self.gather, "at most 2^24")?;
        self.loss_scale.map_or(Ok(()), check_loss_scale)?;
        let Some(max) = self.clip else { return Ok(()) };
        check.positive("clip_global_norm", max)?;
        let same = trials.iter().all(|&t| t == trials[0]);
        check.that(
            "clip_global_norm",
            same,
            format!("groups of {trials:?} trials"),
            "the same number of trials in all groups: a trial has one norm",
        )
    }
}

/// Tells of work that a budget can't divide.
fn warn(groups: &[GroupState], budget: Option<u64>) {
    let Some(budget) = budget else { return };
    for (g, group) in groups.iter().enumerate() {
        for (b, refresh) in group.refreshes.iter().enumerate() {
            let above = refresh.units.iter().filter(|&&flops| flops > budget).count();
            if above > 0 {
                let largest = refresh.units.iter().max().copied().unwrap_or(0);
                log::warn!(
                    "frame budget of {budget} flops: refresh {} of group {g} has {above} indivisible parts above it, the largest of {largest} flops; each of \
                     them is the only refresh work of its step",
                    b + 1
                );
            }
        }
    }
}

/// Checks a loss scale: also its inverse is what the device computes with.
pub(super) fn check_loss_scale(scale: f64) -> Result<()> {
    let check = Check("Optimizer");
    check.positive("loss_scale", scale)?;
    check.positive("loss_scale", 1.0 / scale)
}

/// Refuses two parameters of one name and two that share weights: a step would update those twice.
fn check_distinct(groups: &[Group]) -> Result<()> {
    let all: Vec<&Parameter> = groups.iter().flat_map(|g| &g.parameters).collect();
    let check = Check("Optimizer");
    let mut names: Vec<&str> = all.iter().map(|p| p.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|w| w[0] == w[1]).map_or(String::new(), |w| format!("`{}` twice", w[0]));
    check.that("parameter", twice.is_empty(), twice, "a name of its own for every parameter")?;
    for (i, a) in all.iter().enumerate() {
        for b in &all[i + 1..] {
            let (first, second) = (&a.weight, &b.weight);
            let apart = first.offset + first.words() <= second.offset || second.offset + second.words() <= first.offset;
            let found = || format!("`{}` and `{}` with common elements", a.name, b.name);
            if !apart && first.shares_buffer(second) {
                check.that("weight", false, found(), "every weight in one group, once")?;
            }
        }
    }
    Ok(())
}
