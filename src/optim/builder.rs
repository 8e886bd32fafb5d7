//! From groups to an optimizer: checks, stacks, state, one plan.

use super::beats::{Beats, Kept, Kind, Segments, record};
use super::config::{Check, Method, Row};
use super::group::{Group, Parameter};
use super::optimizer::{GroupState, MemoryReport, Optimizer, StateTensor};
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
}

impl Builder {
    pub(crate) fn new(context: &Context) -> Self {
        Builder { context: context.clone(), groups: Vec::new() }
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
        self
    }

    /// Checks every setting, shape and name, allocates state, records the plan and prepares it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming a field outside its range, no group, an empty group, two parameters of one name, two that share
    /// weights, or a `Kfac` parameter without taps; [`Error::Shape`](crate::Error::Shape) for a gradient or taps that do not fit;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext); [`Error::Limit`](crate::Error::Limit) where the state does not fit the device.
    pub fn build(self) -> Result<Optimizer> {
        let mut draft = Draft::new(&self.groups)?;
        let groups = draft.allocate(&self.context)?;
        let prepared = self.context.prepare(&draft.plan, &draft.bindings)?;
        Ok(Optimizer::new(&self.context, prepared, groups, draft.memory))
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
        Ok(Draft::new(&self.groups)?.memory)
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
    /// What each of a stack's blocks starts with, stack by stack.
    blocks: Vec<Vec<f32>>,
    /// (name, stack, layer) of each parameter.
    pub(super) parameters: Vec<(String, usize, usize)>,
    #[cfg(feature = "checkpoint")]
    method: Method,
}

impl Draft {
    pub(super) fn new(groups: &[Group]) -> Result<Draft> {
        Check("Optimizer").that("groups", !groups.is_empty(), "none", "at least one group")?;
        let trials = groups.iter().map(Group::check).collect::<Result<Vec<_>>>()?;
        check_distinct(groups)?;
        let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
        let mut drafts = Vec::with_capacity(groups.len());
        for (i, group) in groups.iter().enumerate() {
            let prefix = if groups.len() == 1 { String::new() } else { format!("group {i} ") };
            drafts.push(add_group(&mut r, &mut bindings, group, trials[i], &prefix)?);
        }
        let plan = r.finish();
        let mut memory = MemoryReport { scratch: plan.scratch_bytes(), ..MemoryReport::default() };
        for group in &drafts {
            memory.add(Kind::Block, group.rates.shape());
            group.kept.iter().for_each(|k| memory.add(k.kind, k.value.shape()));
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
            states.push(GroupState {
                segments: group.segments.clone(),
                trials: group.trials,
                rates,
                changed: false,
                upload: None,
                blocks: kept.iter().take(group.blocks.len()).map(|k| k.tensor.clone()).collect(),
                parameters: group.parameters.clone(),
                kept,
                #[cfg(feature = "checkpoint")]
                method: group.method,
            });
        }
        Ok(states)
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
