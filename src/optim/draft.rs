//! What an optimizer will be, before it has memory.

use std::borrow::Cow;
use std::collections::HashMap;

use super::beats::{Beats, Keep, Kept, Kind, Segments, Start, record};
use super::builder::Builder;
use super::config::{Method, Row, narrow, put};
use super::group::Group;
use super::intake::{self, Intake};
use super::memory::MemoryReport;
use super::optimizer::{Gathering, GroupState, StateTensor};
use super::parameter::Parameter;
use super::refresh::Refresh;
use super::stack::{Stack, Wishes, form_stacks};
use crate::context::Context;
use crate::error::Result;
use crate::plan::{Plan, Recorder, Value, block};
use crate::prepared::Bindings;
use crate::tensor::{Shape, Tensor};

/// An optimizer without its memory.
pub(super) struct Draft {
    pub(super) plan: Plan,
    /// The caller's tensors; after [`allocate`](Self::allocate) also ours.
    pub(super) bindings: Bindings,
    pub(super) groups: Vec<GroupDraft>,
    pub(super) memory: MemoryReport,
    pub(super) gathering: Gathering,
}

/// A group without its memory.
pub(super) struct GroupDraft {
    pub(super) segments: Segments,
    pub(super) trials: usize,
    pub(super) rates: Value,
    /// What it starts with.
    settings: Vec<f32>,
    /// The blocks first, then what the method keeps.
    pub(super) kept: Vec<Kept>,
    /// One a bucket.
    pub(super) refreshes: Vec<Refresh>,
    /// Copies of inputs of refreshes that a budget cuts.
    pub(super) snapshots: Vec<Kept>,
    /// What each of a stack's blocks starts with, stack by stack.
    blocks: Vec<Vec<f32>>,
    /// By stack, a number for what it shares its state's buffers with.
    arenas: Vec<usize>,
    /// (name, stack, layer) of each parameter.
    pub(super) parameters: Vec<(String, usize, usize)>,
    #[cfg(feature = "checkpoint")]
    method: Method,
}

impl Draft {
    pub(super) fn new(builder: &Builder) -> Result<Draft> {
        let groups = &builder.groups;
        let trials = builder.check()?;
        let (mut r, mut bindings) = (Recorder::on(builder.context.is_gpu()), Bindings::new());
        let mut drafts = Vec::with_capacity(groups.len());
        let clip = if builder.clip.is_some() { Some(r.scratch("global_clip", Shape::new(trials[0], 1, 1))?) } else { None };
        let (scale, mut gradients) = (builder.loss_scale.unwrap_or(1.0), Vec::new());
        let intake = Intake { scaled: builder.loss_scale.is_some(), every: builder.gather, clip, l2: false };
        for (i, group) in groups.iter().enumerate() {
            let prefix = if groups.len() == 1 { String::new() } else { format!("group {i} ") };
            let common = Common { trials: trials[i], intake, scale };
            drafts.push(add_group(&mut r, &mut bindings, group, common, &prefix, &mut gradients)?);
        }
        let clip = match (clip, builder.clip) {
            (Some(out), Some(max)) => {
                let segment = r.segment("clip by global norm");
                intake::clip(&mut r, &gradients, narrow(max), out)?;
                Some(segment)
            }
            _ => None,
        };
        let mut plan = r.finish();
        if let Some(budget) = builder.frame_budget {
            drafts.iter_mut().for_each(|group| group.cut(&builder.context, &mut plan, budget));
        }
        #[cfg(feature = "gpu")]
        let partials = builder.context.facts().map_or(0, |facts| crate::gpu::scratch_bytes(&plan, facts));
        #[cfg(not(feature = "gpu"))]
        let partials = 0;
        let mut memory = MemoryReport { scratch: plan.scratch_bytes() + partials, ..MemoryReport::default() };
        for group in &drafts {
            memory.add(Kind::Block, group.rates.shape());
            group.kept.iter().chain(&group.snapshots).for_each(|k| memory.add(k.kind, k.value.shape()));
        }
        let gathering = Gathering { every: builder.gather, taken: 0, clip, scaled: intake.scaled };
        Ok(Draft { plan, bindings, groups: drafts, memory, gathering })
    }

    /// Makes and binds what the optimizer owns.
    pub(super) fn allocate(&mut self, context: &Context) -> Result<Vec<GroupState>> {
        let mut states = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let rates = context.upload(group.rates.shape(), &group.settings)?;
            self.bindings.bind(group.rates, &rates);
            let tensors = group.state(context)?;
            for (k, tensor) in group.kept.iter().zip(&tensors) {
                self.bindings.bind(k.value, tensor);
            }
            let kept: Vec<StateTensor> =
                group.kept.iter().zip(&tensors).map(|(k, tensor)| state_tensor(k.name.clone(), k.stack, tensor)).collect();
            if let Some((_, loss)) = group.segments.observe {
                // Until the first loss is observed.
                self.bindings.bind(loss, &context.zeros(loss.shape())?);
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
                settings: group.settings.clone(),
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

/// What groups have in common.
struct Common {
    trials: usize,
    intake: Intake,
    scale: f64,
}

impl GroupDraft {
    /// Makes what is kept: one tensor each, those of one role and arena behind one another in one buffer.
    fn state(&self, context: &Context) -> Result<Vec<Tensor>> {
        let role = |k: &Kept| k.name.rsplit_once('.').map_or(String::new(), |(_, role)| role.to_owned());
        let mut places: Vec<Vec<usize>> = Vec::new();
        let mut arenas: HashMap<(String, usize), usize> = HashMap::new();
        for (i, k) in self.kept.iter().enumerate() {
            let place = *arenas.entry((role(k), self.arenas[k.stack])).or_insert(places.len());
            if place == places.len() {
                places.push(Vec::new());
            }
            places[place].push(i);
        }
        let mut tensors: Vec<(usize, Tensor)> = Vec::with_capacity(self.kept.len());
        for members in places {
            let shapes: Vec<Shape> = members.iter().map(|&i| self.kept[i].value.shape()).collect();
            let zeros = members.iter().all(|&i| i >= self.blocks.len() && self.kept[i].start == Start::Zeros);
            let parts = if zeros {
                context.arena(&shapes)?
            } else {
                context.filled_arena(&shapes, &members.iter().flat_map(|&i| self.start(i).into_owned()).collect::<Vec<f32>>())?
            };
            tensors.extend(members.into_iter().zip(parts));
        }
        tensors.sort_by_key(|t| t.0);
        Ok(tensors.into_iter().map(|t| t.1).collect())
    }

    /// What a kept tensor starts with.
    fn start(&self, i: usize) -> Cow<'_, [f32]> {
        let k = &self.kept[i];
        let shape = k.value.shape();
        match (self.blocks.get(i), k.start) {
            (Some(rows), _) => Cow::Borrowed(rows),
            (None, Start::Zeros) => Cow::Owned(vec![0.0; shape.elements()]),
            (None, Start::Identity) => Cow::Owned(identities(shape)),
            (None, Start::Ones) => Cow::Owned(vec![1.0; shape.elements()]),
        }
    }

    /// Cuts refreshes that the budget does not hold.
    fn cut(&mut self, context: &Context, plan: &mut Plan, budget: u64) {
        // What turns moments with the bases must not see them change on the way.
        if self.segments.schedule.is_some_and(|schedule| schedule.update_first) {
            return;
        }
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
            self.snapshots.push(Kept { name, stack, value, kind: Kind::Statistics, start: Start::Zeros });
        }
    }
}

fn add_group(
    r: &mut Recorder,
    bindings: &mut Bindings,
    group: &Group,
    common: Common,
    prefix: &str,
    gradients: &mut Vec<(Value, Value)>,
) -> Result<GroupDraft> {
    let Common { trials, mut intake, scale } = common;
    let members = form_stacks(&group.parameters, group.needs_taps());
    let rows: Vec<f32> = (0..trials).flat_map(|trial| block_row(group, trial, scale)).collect();
    let (decay, l2) = group.decay_form();
    intake.l2 = l2;
    let arenas = arenas(group, &members);
    // Every stack declares more than two values, so groups have numbers of their own.
    let first_arena = r.next_id();
    let (mut stacks, mut blocks, mut kept, mut methods) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (member, &arena) in members.iter().zip(&arenas) {
        let arena = first_arena + 2 * u32::try_from(arena).unwrap_or(u32::MAX / 4);
        let wishes = Wishes { taps: group.wants(), decay, intake, average: group.average.is_some(), tracks: group.tracks, arena };
        let parameters: Vec<&Parameter> = member.iter().map(|&i| &group.parameters[i]).collect();
        let stack = Stack::declare(&mut Keep { stack: stacks.len(), r, kept: &mut methods }, bindings, &parameters, wishes)?;
        gradients.push((stack.intake.raw, stack.block));
        let name = format!("{}.block", stack.name);
        kept.push(Kept { name, stack: stacks.len(), value: stack.block, kind: Kind::Block, start: Start::Zeros });
        blocks.push(rows.repeat(stack.layers));
        stacks.push(stack);
    }
    let items = stacks.iter().map(Stack::items).sum();
    let rates = r.state(format!("{prefix}learning_rates"), Shape::new(items, 1, 2))?;
    let setting = |row: &[f32]| [block::LEARNING_RATE, block::GRADIENT_SCALE].map(|column| row[column as usize]);
    let settings = blocks.iter().flat_map(|rows: &Vec<f32>| rows.chunks(block::WIDTH)).flat_map(setting).collect();
    let apart = intake.every > 1 || intake.clip.is_some();
    let segments: Segments = match &group.method {
        Method::Sgd(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Adam(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::AdamW(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Foof(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::NaturalGradient(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Shampoo(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::EigenvalueCorrectedShampoo(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Soap(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Kfac(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
        Method::Muon(m) => record(m, r, &mut methods, stacks, rates, apart, prefix)?,
    };
    kept.extend(methods);
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
        settings,
        kept,
        blocks,
        arenas,
        parameters,
        #[cfg(feature = "checkpoint")]
        method: group.method,
    })
}

/// For each stack, the first one whose weights and gradients lie in the same buffers, if the method works element by element: their steps then become
/// one dispatch, for which their state has to lie in common buffers too. Other methods run stacks beside one another, which a common buffer would put in a row.
fn arenas(group: &Group, members: &[Vec<usize>]) -> Vec<usize> {
    let elementwise = matches!(group.method, Method::Sgd(_) | Method::Adam(_) | Method::AdamW(_));
    let first = |stack: &[usize]| &group.parameters[stack[0]];
    let together = |a: &Parameter, b: &Parameter| {
        a.weight.shares_buffer(&b.weight) && a.gradient.shares_buffer(&b.gradient) && a.weight.element() == b.weight.element()
    };
    let mut result: Vec<usize> = Vec::with_capacity(members.len());
    for (s, stack) in members.iter().enumerate() {
        let same = |&other: &usize| result[other] == other && together(first(stack), first(&members[other]));
        let arena = if elementwise { (0..s).find(same) } else { None };
        result.push(arena.unwrap_or(s));
    }
    result
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
        Method::EigenvalueCorrectedShampoo(m) => m.fill(&mut row),
        Method::Soap(m) => m.fill(&mut row),
        Method::Muon(m) => m.fill(&mut row),
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

fn identities(shape: Shape) -> Vec<f32> {
    let mut values = vec![0.0; shape.elements()];
    for item in values.chunks_mut(shape.rows * shape.cols) {
        item.iter_mut().step_by(shape.cols + 1).for_each(|x| *x = 1.0);
    }
    values
}
