//! From groups to an optimizer: checks, stacks, state, one plan.

use super::beats::{Beats, Kept, Kind, Segments, record};
use super::config::{Check, Method, Row};
use super::group::{Group, Parameter};
use super::optimizer::{GroupState, MemoryReport, Optimizer, StateTensor};
use super::refresh::Refresh;
use super::stack::{Stack, form_stacks};
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Plan, Recorder, Value, block};
use crate::prepared::Bindings;
use crate::tensor::{Shape, Tensor};

/// Collects groups; [`build`](Self::build) makes the optimizer.
#[derive(Debug)]
pub struct Builder {
    context: Context,
    groups: Vec<Group>,
    frame_budget: Option<u64>,
}

impl Builder {
    pub(crate) fn new(context: &Context) -> Self {
        Builder { context: context.clone(), groups: Vec::new(), frame_budget: None }
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
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
    /// [`Error::Config`](crate::Error::Config) naming a field outside its range, no group, an empty group, two parameters of one name, two that share
    /// weights, or a `Kfac` parameter without taps; [`Error::Shape`](crate::Error::Shape) for a gradient or taps that do not fit;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext); [`Error::Limit`](crate::Error::Limit) where the state does not fit the device.
    pub fn build(self) -> Result<Optimizer> {
        let mut draft = Draft::new(&self.context, &self.groups, self.frame_budget)?;
        let mut groups = draft.allocate(&self.context)?;
        let prepared = self.context.prepare(&draft.plan, &draft.bindings)?;
        groups.iter_mut().flat_map(|g| &mut g.refreshes).for_each(|r| r.measure(&prepared));
        warn(&groups, self.frame_budget);
        Ok(Optimizer::new(&self.context, self.groups, prepared, groups, draft.memory, self.frame_budget))
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
        Ok(Draft::new(&self.context, &self.groups, self.frame_budget)?.memory)
    }
}

/// An optimizer without its memory.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// The caller's tensors; after [`allocate`](Self::allocate) also ours.
    pub(super) bindings: Bindings,
    pub(super) groups: Vec<GroupDraft>,
    pub(super) memory: MemoryReport,
}

/// A group without its memory.
pub(super) struct GroupDraft {
    pub(super) segments: Segments,
    pub(super) trials: usize,
    pub(super) rates: Value,
    /// The blocks first, then what the method keeps.
    pub(super) kept: Vec<Kept>,
    /// One a bucket.
    pub(super) refreshes: Vec<Refresh>,
    /// Copies of inputs of refreshes that a budget cuts.
    pub(super) snapshots: Vec<Kept>,
    /// What each of a stack's blocks starts with, stack by stack.
    blocks: Vec<Vec<f32>>,
    /// (name, stack, layer) of each parameter.
    pub(super) parameters: Vec<(String, usize, usize)>,
    #[cfg(feature = "checkpoint")]
    method: Method,
}

impl Draft {
    pub(super) fn new(context: &Context, groups: &[Group], frame_budget: Option<u64>) -> Result<Draft> {
        Check("Optimizer").that("groups", !groups.is_empty(), "none", "at least one group")?;
        let trials = groups.iter().map(Group::check).collect::<Result<Vec<_>>>()?;
        check_distinct(groups)?;
        let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
        let mut drafts = Vec::with_capacity(groups.len());
        for (i, group) in groups.iter().enumerate() {
            let prefix = if groups.len() == 1 { String::new() } else { format!("group {i} ") };
            drafts.push(add_group(&mut r, &mut bindings, group, trials[i], &prefix)?);
        }
        let mut plan = r.finish();
        if let Some(budget) = frame_budget {
            drafts.iter_mut().for_each(|group| group.cut(context, &mut plan, budget));
        }
        let mut memory = MemoryReport { scratch: plan.scratch_bytes(), ..MemoryReport::default() };
        for group in &drafts {
            memory.add(Kind::Block, group.rates.shape());
            group.kept.iter().chain(&group.snapshots).for_each(|k| memory.add(k.kind, k.value.shape()));
        }
        Ok(Draft { plan, bindings, groups: drafts, memory })
    }

    /// Makes and binds what the optimizer owns.
    fn allocate(&mut self, context: &Context) -> Result<Vec<GroupState>> {
        let mut states = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let rates = context.zeros(group.rates.shape())?;
            self.bindings.bind(group.rates, &rates);
            let mut kept = Vec::with_capacity(group.kept.len());
            for (i, k) in group.kept.iter().enumerate() {
                let shape = k.value.shape();
                let tensor = match group.blocks.get(i) {
                    Some(rows) => context.upload(shape, rows)?,
                    None if k.identity => context.upload(shape, &identities(shape))?,
                    None => context.zeros(shape)?,
                };
                self.bindings.bind(k.value, &tensor);
                kept.push(state_tensor(k.name.clone(), k.stack, &tensor));
            }
            let mut snapshots = Vec::with_capacity(group.snapshots.len());
            for k in &group.snapshots {
                let tensor = context.zeros(k.value.shape())?;
                self.bindings.bind(k.value, &tensor);
                snapshots.push(state_tensor(k.name.clone(), k.stack, &tensor));
            }
            states.push(GroupState {
                segments: group.segments.clone(),
                refreshes: group.refreshes.clone(),
                trials: group.trials,
                rates,
                changed: false,
                upload: None,
                blocks: kept.iter().take(group.blocks.len()).map(|k| k.tensor.clone()).collect(),
                parameters: group.parameters.clone(),
                kept,
                snapshots,
                #[cfg(feature = "checkpoint")]
                method: group.method,
            });
        }
        Ok(states)
    }
}

impl GroupDraft {
    /// Cuts refreshes that the budget does not hold.
    fn cut(&mut self, context: &Context, plan: &mut Plan, budget: u64) {
        let flops = |segment: &usize| {
            let ops = plan.segments[*segment].ops.clone();
            context.units(&plan.ops[ops]).into_iter().fold(0, u64::saturating_add)
        };
        let large: Vec<usize> = self.segments.refresh.iter().copied().filter(|segment| flops(segment) > budget).collect();
        // What belongs to a stack by its name can be saved with it.
        let stacks: Vec<(String, usize)> =
            self.kept.iter().filter_map(|k| Some((k.name.strip_suffix(".block")?.to_owned(), k.stack))).collect();
        let stack_of = |name: &str| {
            let (stack, _) = name.rsplit_once('.')?;
            stacks.iter().find(|s| s.0 == stack).map(|s| s.1)
        };
        let (cuts, copies) = plan.cut(&large, |info| stack_of(&info.name).is_some());
        self.refreshes = self.segments.refresh.iter().map(|&s| Refresh::new(s, cuts.iter().copied().find(|c| c.compute == s))).collect();
        let mut copies: Vec<Value> = copies.into_values().collect();
        copies.sort_unstable_by_key(|value| value.id);
        for value in copies {
            let name = plan.values[value.id as usize].name.clone();
            let stack = stack_of(&name).unwrap_or(0);
            self.snapshots.push(Kept { name, stack, value, kind: Kind::Statistics, identity: false });
        }
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

fn add_group(r: &mut Recorder, bindings: &mut Bindings, group: &Group, trials: usize, prefix: &str) -> Result<GroupDraft> {
    let members = form_stacks(&group.parameters, group.needs_taps());
    let rows: Vec<f32> = (0..trials).flat_map(|trial| block_row(group, trial)).collect();
    let (mut stacks, mut blocks, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for member in &members {
        let parameters: Vec<&Parameter> = member.iter().map(|&i| &group.parameters[i]).collect();
        let stack = Stack::declare(r, bindings, &parameters, group.needs_taps())?;
        let name = format!("{}.block", stack.name);
        kept.push(Kept { name, stack: stacks.len(), value: stack.block, kind: Kind::Block, identity: false });
        blocks.push(rows.repeat(stack.layers));
        stacks.push(stack);
    }
    let items = stacks.iter().map(Stack::items).sum();
    let rates = r.state(format!("{prefix}learning_rates"), Shape::new(items, 1, 1))?;
    let segments: Segments = match &group.method {
        Method::Sgd(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Adam(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::AdamW(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Shampoo(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Kfac(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Muon(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
    };
    let mut places = vec![(0, 0); group.parameters.len()];
    for (s, member) in members.iter().enumerate() {
        for (layer, &parameter) in member.iter().enumerate() {
            places[parameter] = (s, layer);
        }
    }
    let parameters = group.parameters.iter().zip(places).map(|(p, (stack, layer))| (p.name.clone(), stack, layer)).collect();
    Ok(GroupDraft {
        refreshes: segments.refresh.iter().map(|&segment| Refresh::new(segment, None)).collect(),
        snapshots: Vec::new(),
        segments,
        trials,
        rates,
        kept,
        blocks,
        parameters,
        #[cfg(feature = "checkpoint")]
        method: group.method,
    })
}

#[cfg_attr(not(feature = "checkpoint"), allow(unused_variables, reason = "only a checkpoint cuts stacks"))]
fn state_tensor(name: String, stack: usize, tensor: &Tensor) -> StateTensor {
    StateTensor {
        name,
        #[cfg(feature = "checkpoint")]
        stack,
        tensor: tensor.clone(),
    }
}

fn block_row(group: &Group, trial: usize) -> Row {
    let mut row = [0.0; block::WIDTH];
    row[block::RIDGE as usize] = 1.0;
    group.schedule.fill(&mut row);
    match group.method_of(trial) {
        Method::Sgd(m) => m.fill(&mut row),
        Method::Adam(m) => m.fill(&mut row),
        Method::AdamW(m) => m.fill(&mut row),
        Method::Kfac(m) => m.fill(&mut row),
        Method::Shampoo(m) => m.fill(&mut row),
        Method::Muon(m) => m.fill(&mut row),
    }
    row
}

fn identities(shape: Shape) -> Vec<f32> {
    let mut values = vec![0.0; shape.elements()];
    for item in values.chunks_mut(shape.rows * shape.cols) {
        item.iter_mut().step_by(shape.cols + 1).for_each(|x| *x = 1.0);
    }
    values
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
