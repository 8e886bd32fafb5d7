//! What a method records, beat by beat.

use std::ops::Range;

use super::config::Row;
use super::schedule::Schedule;
use super::stack::Stack;
use crate::error::Result;
use crate::plan::{Axpby, Recorder, Value, block};
use crate::tensor::Shape;

/// The three beats of a method, and what it keeps.
pub(crate) trait Beats {
    /// Values that it keeps between steps, for one stack.
    type State;

    /// Checks every field.
    fn validate(&self) -> Result<()>;

    /// Writes its settings into a block row.
    fn fill(&self, row: &mut Row);

    /// Declares what it keeps for a stack.
    fn declare(&self, stack: &Stack, keep: &mut Keep<'_>) -> Result<Self::State>;

    /// (statistics every, precondition every, start step) of a preconditioned method.
    fn cadence(&self) -> Option<(u64, u64, u64)> {
        None
    }

    /// Refreshes from the first step on, although updates are preconditioned later.
    fn refreshes_early(&self) -> bool {
        false
    }

    /// Steps with the bases of earlier steps, then takes this step's gradient into the statistics; the first gradient goes into the statistics alone.
    fn update_first(&self) -> bool {
        false
    }

    /// Refuses gradients whose squared norm comes near the end of f32's range: rotated, an element may be as large as the norm.
    fn refuses_large_norms(&self) -> bool {
        self.update_first()
    }

    /// Makes the first bases of some layers of a stack, where [`update_first`](Self::update_first).
    fn start(&self, _r: &mut Recorder, _stack: &Stack, _state: &Self::State, _layers: Range<usize>) -> Result<()> {
        Ok(())
    }

    /// What the mean of the output gradients' squares over so many samples is multiplied by in its statistics.
    fn largest_scale(&self, _samples: usize) -> f32 {
        1.0
    }

    /// Takes taps into statistics.
    fn accumulate(&self, _r: &mut Recorder, _stack: &Stack, _state: &Self::State) -> Result<()> {
        Ok(())
    }

    /// Makes roots of the statistics of some layers of a stack.
    fn refresh(&self, _r: &mut Recorder, _stack: &Stack, _state: &Self::State, _layers: Range<usize>) -> Result<()> {
        Ok(())
    }

    /// True if it uses observed losses.
    fn observes(&self) -> bool {
        false
    }

    /// Uses an observed loss, `[trials, 1, 1]`.
    fn observe(&self, _r: &mut Recorder, _stacks: &[(Stack, Self::State)], _loss: Value) -> Result<()> {
        Ok(())
    }

    /// Updates the weights of all stacks of a group.
    fn apply(&self, r: &mut Recorder, stacks: &[(Stack, Self::State)], preconditioned: bool) -> Result<()>;
}

/// What a kept tensor is for, in the memory report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Block,
    Moment,
    Statistics,
    Root,
    /// Of weights and gradients.
    Copy,
}

/// What a kept tensor starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Zeros,
    Identity,
    Ones,
}

/// A kept value and how it starts.
pub(crate) struct Kept {
    pub(crate) name: String,
    /// Index of its stack in the group.
    pub(crate) stack: usize,
    pub(crate) value: Value,
    pub(crate) kind: Kind,
    pub(crate) start: Start,
}

/// Declares kept values.
pub(crate) struct Keep<'a> {
    pub(crate) stack: usize,
    pub(crate) r: &'a mut Recorder,
    pub(crate) kept: &'a mut Vec<Kept>,
}

impl Keep<'_> {
    /// A zeroed tensor of the weight's shape.
    pub(crate) fn moment(&mut self, stack: &Stack, name: &str) -> Result<Value> {
        self.add(stack, name, stack.weight.shape(), Kind::Moment, Start::Zeros)
    }

    /// A zeroed number a row of the weight, `[items, out, 1]`.
    pub(crate) fn rows(&mut self, stack: &Stack, name: &str) -> Result<Value> {
        self.add(stack, name, Shape { cols: 1, ..stack.weight.shape() }, Kind::Moment, Start::Zeros)
    }

    /// `[items, n, n]`.
    pub(crate) fn square(&mut self, stack: &Stack, name: &str, n: usize, kind: Kind, identity: bool) -> Result<Value> {
        let start = if identity { Start::Identity } else { Start::Zeros };
        self.add(stack, name, Shape::new(stack.items(), n, n), kind, start)
    }

    /// Eigenvalues, `[items, 1, n]`, all 1 at first.
    pub(crate) fn spectrum(&mut self, stack: &Stack, name: &str, n: usize) -> Result<Value> {
        self.add(stack, name, Shape::new(stack.items(), 1, n), Kind::Root, Start::Ones)
    }

    /// A zeroed tensor by its whole name.
    pub(crate) fn named(&mut self, name: String, shape: Shape, kind: Kind) -> Result<Value> {
        self.put(name, shape, kind, Start::Zeros)
    }

    fn add(&mut self, stack: &Stack, name: &str, shape: Shape, kind: Kind, start: Start) -> Result<Value> {
        self.put(format!("{}.{name}", stack.name), shape, kind, start)
    }

    fn put(&mut self, name: String, shape: Shape, kind: Kind, start: Start) -> Result<Value> {
        let value = self.r.state(name.clone(), shape)?;
        self.kept.push(Kept { name, stack: self.stack, value, kind, start });
        Ok(value)
    }
}

/// Indices of a group's segments.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    /// Copies changed learning rates and loss scales into the blocks.
    pub(crate) rates: usize,
    /// Widens weights that the caller has in f16.
    pub(crate) load: Option<usize>,
    /// Takes gradients in, the first of a step and further ones, where `begin` does not.
    pub(crate) gather: Option<[usize; 2]>,
    pub(crate) check_taps: usize,
    pub(crate) begin: usize,
    pub(crate) accumulate: usize,
    pub(crate) refresh: Vec<usize>,
    /// First bases, one a bucket; empty but for methods that update first.
    pub(crate) start: Vec<usize>,
    pub(crate) apply: usize,
    pub(crate) apply_plain: usize,
    /// The segment that uses an observed loss, and the loss.
    pub(crate) observe: Option<(usize, Value)>,
    /// `None`: every step is begin and apply.
    pub(crate) schedule: Option<Schedule>,
}

/// Records all segments of a group; with `apart` gradients are taken in by segments of their own.
pub(crate) fn record<B: Beats>(
    method: &B,
    r: &mut Recorder,
    kept: &mut Vec<Kept>,
    stacks: Vec<Stack>,
    rates: Value,
    apart: bool,
    prefix: &str,
) -> Result<Segments> {
    let mut pairs = Vec::with_capacity(stacks.len());
    for (i, stack) in stacks.into_iter().enumerate() {
        let state = method.declare(&stack, &mut Keep { stack: i, r: &mut *r, kept: &mut *kept })?;
        pairs.push((stack, state));
    }
    let rates_segment = r.segment(format!("{prefix}learning rates"));
    let mut first = 0;
    for (stack, _) in &pairs {
        let part = rates.item_range(first..first + stack.items())?;
        r.record(Axpby::copy(part.col_range(0..1)?, stack.column(block::LEARNING_RATE)?))?;
        r.record(Axpby::copy(part.col_range(1..2)?, stack.column(block::GRADIENT_SCALE)?))?;
        first += stack.items();
    }
    let masters: Vec<_> = pairs.iter().filter_map(|(stack, _)| stack.master).collect();
    let load = (!masters.is_empty()).then(|| r.segment(format!("{prefix}load weights")));
    masters.into_iter().try_for_each(|master| master.load(r))?;
    let mut gather = None;
    if apart {
        let [mut first, mut more] = [0; 2];
        for (segment, name, is_first) in [(&mut first, "gather", true), (&mut more, "gather more", false)] {
            *segment = r.segment(format!("{prefix}{name}"));
            pairs.iter().try_for_each(|(stack, _)| stack.intake.gather(r, stack.block, is_first))?;
        }
        gather = Some([first, more]);
    }
    let cadence = method.cadence();
    let check_taps = r.segment(format!("{prefix}check taps"));
    if cadence.is_some() {
        pairs.iter().try_for_each(|(stack, _)| stack.check_taps(r, |n| method.largest_scale(n)))?;
    }
    let begin = r.segment(format!("{prefix}begin"));
    for (stack, _) in &pairs {
        if !apart {
            stack.intake.gather(r, stack.block, true)?;
        }
        stack.begin(r, method.update_first(), method.refuses_large_norms())?;
    }
    let accumulate = r.segment(format!("{prefix}accumulate"));
    if cadence.is_some() {
        pairs.iter().try_for_each(|(stack, state)| method.accumulate(r, stack, state))?;
    }
    let (mut refresh, mut start, mut schedule) = (Vec::new(), Vec::new(), None);
    if let Some((statistics_every, precondition_every, start_step)) = cadence {
        let buckets = buckets(&pairs, precondition_every);
        let update_first = method.update_first();
        for (i, bucket) in buckets.iter().enumerate().filter(|_| update_first) {
            start.push(r.segment(format!("{prefix}start {}/{}", i + 1, buckets.len())));
            for (s, layers) in bucket {
                method.start(r, &pairs[*s].0, &pairs[*s].1, layers.clone())?;
            }
        }
        for (i, bucket) in buckets.iter().enumerate() {
            refresh.push(r.segment(format!("{prefix}refresh {}/{}", i + 1, buckets.len())));
            for (s, layers) in bucket {
                method.refresh(r, &pairs[*s].0, &pairs[*s].1, layers.clone())?;
            }
        }
        let refresh_from = if method.refreshes_early() { 0 } else { start_step };
        schedule = Some(Schedule { statistics_every, precondition_every, start_step, refresh_from, buckets: buckets.len(), update_first });
    }
    let apply = r.segment(format!("{prefix}apply"));
    method.apply(r, &pairs, cadence.is_some())?;
    pairs.iter().try_for_each(|(stack, _)| stack.finish(r))?;
    let apply_plain = r.segment(format!("{prefix}apply plain"));
    if cadence.is_some_and(|c| c.2 > 0) {
        method.apply(r, &pairs, false)?;
        pairs.iter().try_for_each(|(stack, _)| stack.finish(r))?;
    }
    let mut observe = None;
    if let Some((stack, _)) = pairs.first()
        && method.observes()
    {
        let loss = r.external(format!("{prefix}loss"), Shape::new(stack.trials, 1, 1))?;
        observe = Some((r.segment(format!("{prefix}observe loss")), loss));
        method.observe(r, &pairs, loss)?;
    }
    Ok(Segments {
        rates: rates_segment,
        load,
        gather,
        check_taps,
        begin,
        accumulate,
        refresh,
        start,
        apply,
        apply_plain,
        observe,
        schedule,
    })
}

/// For each bucket, which layers of which stacks it refreshes.
fn buckets<S>(pairs: &[(Stack, S)], precondition_every: u64) -> Vec<Vec<(usize, Range<usize>)>> {
    let cube = |n: usize| (n as u64).saturating_pow(3);
    let costs = |stack: &Stack| vec![cube(stack.weight.rows()).saturating_add(cube(stack.weight.cols())); stack.layers];
    let all: Vec<u64> = pairs.iter().flat_map(|(stack, _)| costs(stack)).collect();
    let of = Schedule::cut(&all, precondition_every);
    let mut result: Vec<Vec<(usize, Range<usize>)>> = vec![Vec::new(); of.last().map_or(0, |b| b + 1)];
    let mut layer = 0;
    for (s, (stack, _)) in pairs.iter().enumerate() {
        for l in 0..stack.layers {
            let pieces = &mut result[of[layer]];
            match pieces.last_mut() {
                Some((last, range)) if *last == s => range.end = l + 1,
                _ => pieces.push((s, l..l + 1)),
            }
            layer += 1;
        }
    }
    result
}
