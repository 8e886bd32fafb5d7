//! From groups to an optimizer: checks, stacks, state, one plan.

use super::beats::{Beats, Kept, Kind, Segments, Start, record};
use super::config::{Check, Method, Row};
use super::group::{Group, Parameter};
use super::optimizer::{GroupState, MemoryReport, Optimizer, StateTensor};
use super::stack::{Stack, form_stacks};
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Recorder, block};
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
    /// weights, or a parameter without the taps that its method needs; [`Error::Shape`](crate::Error::Shape) for a gradient or taps that do not fit;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext); [`Error::Limit`](crate::Error::Limit) where the state does not fit the device.
    pub fn build(self) -> Result<Optimizer> {
        Check("Optimizer").that("groups", !self.groups.is_empty(), "none", "at least one group")?;
        let trials = self.groups.iter().map(Group::check).collect::<Result<Vec<_>>>()?;
        check_distinct(&self.groups)?;
        let (mut r, mut bindings, mut state) = (Recorder::new(), Bindings::new(), State::new(&self.context));
        let mut groups = Vec::with_capacity(self.groups.len());
        for (i, group) in self.groups.iter().enumerate() {
            let prefix = if self.groups.len() == 1 { String::new() } else { format!("group {i} ") };
            groups.push(add_group(&mut r, &mut bindings, &mut state, group, trials[i], &prefix)?);
        }
        let plan = r.finish();
        state.memory.scratch = plan.scratch_bytes();
        let prepared = self.context.prepare(&plan, &bindings)?;
        Ok(Optimizer::new(&self.context, prepared, groups, state.memory))
    }
}

/// Counts what the optimizer owns.
struct State<'a> {
    context: &'a Context,
    memory: MemoryReport,
}

impl<'a> State<'a> {
    fn new(context: &'a Context) -> Self {
        State { context, memory: MemoryReport::default() }
    }

    fn add(&mut self, kind: Kind, tensor: &Tensor) {
        let bytes = match kind {
            Kind::Block => &mut self.memory.blocks,
            Kind::Moment => &mut self.memory.moments,
            Kind::Statistics => &mut self.memory.statistics,
            Kind::Root => &mut self.memory.roots,
        };
        *bytes += 4 * tensor.words() as u64;
    }
}

fn add_group(
    r: &mut Recorder,
    bindings: &mut Bindings,
    state: &mut State<'_>,
    group: &Group,
    trials: usize,
    prefix: &str,
) -> Result<GroupState> {
    let members = form_stacks(&group.parameters, group.needs_taps());
    let rows: Vec<f32> = (0..trials).flat_map(|trial| block_row(group, trial)).collect();
    let (mut stacks, mut blocks, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for member in &members {
        let parameters: Vec<&Parameter> = member.iter().map(|&i| &group.parameters[i]).collect();
        let stack = Stack::declare(r, bindings, &parameters, group.wants())?;
        let tensor = state.context.upload(Shape::new(stack.items(), 1, block::WIDTH), &rows.repeat(stack.layers))?;
        bindings.bind(stack.block, &tensor);
        state.add(Kind::Block, &tensor);
        tensors.push(state_tensor(format!("{}.block", stack.name), stacks.len(), &tensor));
        blocks.push(tensor);
        stacks.push(stack);
    }
    let items = stacks.iter().map(Stack::items).sum();
    let shape = Shape::new(items, 1, 1);
    let (rates, rates_tensor) = (r.state(format!("{prefix}learning_rates"), shape)?, state.context.zeros(shape)?);
    bindings.bind(rates, &rates_tensor);
    state.memory.blocks += 4 * items as u64;
    let mut kept: Vec<Kept> = Vec::new();
    let segments: Segments = match &group.method {
        Method::Sgd(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Adam(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::AdamW(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Shampoo(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Foof(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::NaturalGradient(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Kfac(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
        Method::Muon(m) => record(m, r, &mut kept, stacks, rates, prefix)?,
    };
    for k in kept {
        let shape = k.value.shape();
        let tensor = match k.start {
            Start::Zeros => state.context.zeros(shape)?,
            Start::Identity => state.context.upload(shape, &identities(shape))?,
            Start::Ones => state.context.upload(shape, &vec![1.0; shape.elements()])?,
        };
        bindings.bind(k.value, &tensor);
        state.add(k.kind, &tensor);
        tensors.push(state_tensor(k.name, k.stack, &tensor));
    }
    if let Some((_, loss)) = segments.observe {
        // Until the first loss is observed.
        bindings.bind(loss, &state.context.zeros(loss.shape())?);
    }
    let mut places = vec![(0, 0); group.parameters.len()];
    for (s, member) in members.iter().enumerate() {
        for (layer, &parameter) in member.iter().enumerate() {
            places[parameter] = (s, layer);
        }
    }
    let parameters = group.parameters.iter().zip(places).map(|(p, (stack, layer))| (p.name.clone(), stack, layer)).collect();
    Ok(GroupState {
        segments,
        trials,
        rates: rates_tensor,
        changed: false,
        upload: None,
        blocks,
        parameters,
        kept: tensors,
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
    row[block::DAMPING_SCALE as usize] = 1.0;
    group.schedule.fill(&mut row);
    match group.method_of(trial) {
        Method::Sgd(m) => m.fill(&mut row),
        Method::Adam(m) => m.fill(&mut row),
        Method::AdamW(m) => m.fill(&mut row),
        Method::Kfac(m) => m.fill(&mut row),
        Method::Foof(m) => m.fill(&mut row),
        Method::NaturalGradient(m) => m.fill(&mut row),
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
