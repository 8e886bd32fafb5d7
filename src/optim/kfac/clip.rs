//! The factor of all directions of a trial.

use crate::error::Result;
use crate::optim::stack::Stack;
use crate::plan::{Axpby, Coef, DirectionOutcome, KlClip, Recorder, Reduce, ReduceKind, Value, block};
use crate::tensor::Shape;

/// The factor of each stack's directions, one a trial, repeated over the layers: the clip of the blocks, 1 without, 0 where a direction of the trial overflowed
/// (which is counted).
pub(in crate::optim) fn factors<S>(r: &mut Recorder, stacks: &[(Stack, S)], directions: &[Value], signed: bool) -> Result<Vec<Value>> {
    let items = stacks.iter().map(|(stack, _)| stack.items()).sum();
    let dots = Slots::new(r, "dots", items)?;
    let mut first = 0;
    for ((stack, _), direction) in stacks.iter().zip(directions) {
        dots.fill(r, stack, first, Reduce { kind: ReduceKind::Dot, x: *direction, y: Some(stack.gradient), out: dots.raw, scale: 1.0 })?;
        first += stack.items();
    }
    // The learning rate and the clip are those of the first layer; all layers of a trial share them.
    let first = &stacks[0].0;
    let clip = r.scratch("kl_clip", Shape::new(first.trials, 1, 1))?;
    r.record(KlClip { dots: dots.sums, block: first.block.item_range(0..first.trials)?, out: clip, signed })?;
    let factor = clip.repeat(1, first.trials)?;
    for (stack, _) in stacks {
        r.record(DirectionOutcome { factor, block: stack.block })?;
    }
    Ok(vec![factor; stacks.len()])
}

/// Scalars, one an item of several stacks, 0 where the item's gradient was refused: what was computed from it has no meaning.
pub(super) struct Slots {
    pub(super) raw: Value,
    pub(super) sums: Value,
}

impl Slots {
    pub(super) fn new(r: &mut Recorder, name: &str, items: usize) -> Result<Slots> {
        let raw = r.scratch(format!("{name}.raw"), Shape::new(items, 1, 1))?;
        let sums = r.scratch(name, Shape::new(items, 1, 1))?;
        r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(raw, sums) })?;
        Ok(Slots { raw, sums })
    }

    /// Reduces into the stack's items from slot `first` on.
    pub(super) fn fill(&self, r: &mut Recorder, stack: &Stack, first: usize, reduce: Reduce) -> Result<()> {
        let range = first..first + stack.items();
        let out = self.raw.item_range(range.clone())?;
        r.reduce_into(Reduce { out, ..reduce })?;
        r.record(Axpby { gate: Some(stack.column(block::GATE)?), ..Axpby::copy(out, self.sums.item_range(range)?) })
    }
}
