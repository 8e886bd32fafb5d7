//! From groups to an optimizer: checks, stacks, state, one plan.

use super::beats::{Beats, Keep, Kept, Kind, Segments, Start, record};
use super::config::{Check, Method, Row, narrow, put};
use super::group::{Group, Parameter};
use super::intake::{self, Intake};
use super::optimizer::{Gathering, GroupState, MemoryReport, Optimizer, StateTensor};
use super::stack::{Stack, Wishes, form_stacks};
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Recorder, Value, block};
use crate::prepared::Bindings;
use crate::tensor::{Shape, Tensor};

/// Collects groups; [`build`](Self::build) makes the optimizer.
#[derive(Clone, Debug)]
pub struct Builder {
    context: Context,
    groups: Vec<Group>,
    clip: Option<f64>,
    gather: u64,
    loss_scale: Option<f64>,
}

impl Builder {
    pub(crate) fn new(context: &Context) -> Self {
        Builder { context: context.clone(), groups: Vec::new(), clip: None, gather: 1, loss_scale: None }
    }

    /// Adds a group.
    #[must_use]
    pub fn group(mut self, group: Group) -> Self {
        self.groups.push(group);
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

    /// Checks every setting, shape and name, allocates state, records the plan and prepares it.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming a field outside its range, no group, an empty group, two parameters of one name, two that share
    /// weights, or a parameter without the taps that its method needs; [`Error::Shape`](crate::Error::Shape) for a gradient or taps that do not fit;
    /// [`Error::ForeignContext`](crate::Error::ForeignContext); [`Error::Limit`](crate::Error::Limit) where the state does not fit the device.
    pub fn build(self) -> Result<Optimizer> {
        let check = Check("Optimizer");
        check.that("groups", !self.groups.is_empty(), "none", "at least one group")?;
        let trials = self.groups.iter().map(Group::check).collect::<Result<Vec<_>>>()?;
        self.check_gradients(&trials)?;
        check_distinct(&self.groups)?;
        let (mut r, mut bindings, mut state) = (Recorder::new(), Bindings::new(), State::new(&self.context));
        let mut groups = Vec::with_capacity(self.groups.len());
        let clip = if self.clip.is_some() { Some(r.scratch("global_clip", Shape::new(trials[0], 1, 1))?) } else { None };
        let (scale, mut gradients) = (self.loss_scale.unwrap_or(1.0), Vec::new());
        let intake = Intake { scaled: self.loss_scale.is_some(), every: self.gather, clip, l2: false };
        for (i, group) in self.groups.iter().enumerate() {
            let prefix = if self.groups.len() == 1 { String::new() } else { format!("group {i} ") };
            groups.push(add_group(
                &mut r,
                &mut bindings,
                &mut state,
                group,
                Common { trials: trials[i], intake, scale },
                &prefix,
                &mut gradients,
            )?);
        }
        let clip = match (clip, self.clip) {
            (Some(out), Some(max)) => {
                let segment = r.segment("clip by global norm");
                intake::clip(&mut r, &gradients, narrow(max), out)?;
                Some(segment)
            }
            _ => None,
        };
        let plan = r.finish();
        state.memory.scratch = plan.scratch_bytes();
        let prepared = self.context.prepare(&plan, &bindings)?;
        Ok(Optimizer::new(
            &self.context,
            prepared,
            groups,
            state.memory,
            Gathering { every: self.gather, taken: 0, clip, scaled: intake.scaled },
        ))
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

/// What groups have in common.
struct Common {
    trials: usize,
    intake: Intake,
    scale: f64,
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
            Kind::Copy => &mut self.memory.copies,
        };
        *bytes += 4 * tensor.words() as u64;
    }
}

fn add_group(
    r: &mut Recorder,
    bindings: &mut Bindings,
    state: &mut State<'_>,
    group: &Group,
    common: Common,
    prefix: &str,
    gradients: &mut Vec<(Value, Value)>,
) -> Result<GroupState> {
    let Common { trials, mut intake, scale } = common;
    let members = form_stacks(&group.parameters, group.needs_taps());
    let rows: Vec<f32> = (0..trials).flat_map(|trial| block_row(group, trial, scale)).collect();
    let (decay, l2) = group.decay_form();
    intake.l2 = l2;
    let wishes = Wishes { taps: group.wants(), decay, intake, average: group.average.is_some() };
    let mut kept: Vec<Kept> = Vec::new();
    let (mut stacks, mut blocks, mut tensors) = (Vec::new(), Vec::new(), Vec::new());
    for member in &members {
        let parameters: Vec<&Parameter> = member.iter().map(|&i| &group.parameters[i]).collect();
        let stack = Stack::declare(&mut Keep { stack: stacks.len(), r, kept: &mut kept }, bindings, &parameters, wishes)?;
        gradients.push((stack.intake.raw, stack.block));
        let tensor = state.context.upload(Shape::new(stack.items(), 1, block::WIDTH), &rows.repeat(stack.layers))?;
        bindings.bind(stack.block, &tensor);
        state.add(Kind::Block, &tensor);
        tensors.push(state_tensor(format!("{}.block", stack.name), stacks.len(), &tensor));
        blocks.push(tensor);
        stacks.push(stack);
    }
    let items = stacks.iter().map(Stack::items).sum();
    let shape = Shape::new(items, 1, 2);
    let column = |row: &[f32], column: u32| row[column as usize];
    let settings = |row: &[f32]| [column(row, block::LEARNING_RATE), column(row, block::GRADIENT_SCALE)];
    let settings: Vec<f32> = stacks
        .iter()
        .flat_map(|stack: &Stack| rows.repeat(stack.layers))
        .collect::<Vec<_>>()
        .chunks(block::WIDTH)
        .flat_map(settings)
        .collect();
    let (rates, rates_tensor) = (r.state(format!("{prefix}learning_rates"), shape)?, state.context.upload(shape, &settings)?);
    bindings.bind(rates, &rates_tensor);
    state.memory.blocks += 8 * items as u64;
    let apart = intake.every > 1 || intake.clip.is_some();
    let segments: Segments = match &group.method {
        Method::Sgd(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Adam(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::AdamW(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::EigenvalueCorrectedShampoo(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Soap(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Shampoo(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Foof(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::NaturalGradient(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Kfac(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
        Method::Muon(m) => record(m, r, &mut kept, stacks, rates, apart, prefix)?,
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
        settings,
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

fn block_row(group: &Group, trial: usize, loss_scale: f64) -> Row {
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
        Method::Soap(m) => m.fill(&mut row),
        Method::EigenvalueCorrectedShampoo(m) => m.fill(&mut row),
    }
    put(&mut row, block::GRADIENT_SCALE, 1.0 / loss_scale);
    put(&mut row, block::AVERAGE_DECAY, group.average.unwrap_or(0.0));
    if let Some(decay) = group.decay {
        put(&mut row, block::WEIGHT_DECAY, decay.amount());
    }
    if group.decay_form().1 {
        row.swap(block::WEIGHT_DECAY as usize, block::L2_DECAY as usize);
    }
    row
}

/// Checks a loss scale: also its inverse is what the device computes with.
pub(super) fn check_loss_scale(scale: f64) -> Result<()> {
    let check = Check("Optimizer");
    check.positive("loss_scale", scale)?;
    check.positive("loss_scale", 1.0 / scale)
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
