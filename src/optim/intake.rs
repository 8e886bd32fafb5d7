//! A gradient's way from the caller's tensor to what a method sees: widened, unscaled, summed, clipped, decayed.

use super::beats::{Keep, Kind};
use crate::error::Result;
use crate::plan::{Axpby, CheckFinite, Coef, Convert, NormClip, Recorder, Reduce, ReduceKind, Role, Value, block};
use crate::tensor::{ElementType, Shape};

/// What happens to the gradients of an optimizer.
#[derive(Clone, Copy)]
pub(crate) struct Intake {
    /// Times the block's `GRADIENT_SCALE`.
    pub(crate) scaled: bool,
    /// Gradients that make one step.
    pub(crate) every: u64,
    /// The clip's factor, `[trials, 1, 1]`.
    pub(crate) clip: Option<Value>,
    /// Plus the block's `L2_DECAY` times the weight.
    pub(crate) l2: bool,
}

/// The gradient of one stack.
pub(crate) struct Gradient {
    intake: Intake,
    /// The caller's.
    source: Value,
    /// In f32, unscaled, the mean of `every`. The source itself where nothing of that is asked.
    pub(crate) raw: Value,
    /// What methods see. `raw` itself without clip and decay.
    pub(crate) value: Value,
}

impl Gradient {
    /// `staged`: the source lies in the weight's buffer, which no dispatch may read and write.
    /// `arena` and the number after it are for scratch that shares buffers.
    pub(crate) fn declare(keep: &mut Keep<'_>, name: &str, source: Value, staged: bool, intake: Intake, arena: u32) -> Result<Gradient> {
        let shape = source.shape();
        let raw = if intake.every > 1 {
            keep.named(format!("{name}.gradient_sum"), shape, Kind::Copy)?
        } else if staged || intake.scaled || source.element == ElementType::F16 {
            keep.r.scratch_in(format!("{name}.gathered_gradient"), shape, arena)?
        } else {
            source
        };
        let shaped = intake.clip.is_some() || intake.l2;
        let value = if shaped { keep.r.scratch_in(format!("{name}.shaped_gradient"), shape, arena + 1)? } else { raw };
        Ok(Gradient { intake, source, raw, value })
    }

    /// Takes the caller's gradient in, the `first` of a step or a further one, and looks for what is not finite.
    pub(crate) fn gather(&self, r: &mut Recorder, row: Value, first: bool) -> Result<()> {
        let Intake { scaled, every, .. } = self.intake;
        let mut source = self.source;
        if source.element == ElementType::F16 {
            let wide = if scaled || every > 1 { r.scratch("wide_gradient", source.shape())? } else { self.raw };
            r.record(Convert { x: source, out: wide })?;
            source = wide;
        }
        if source != self.raw {
            let share = 1.0 / every as f32;
            let alpha = if scaled { Coef::Column { column: block::GRADIENT_SCALE, scale: share } } else { Coef::Const(share) };
            let y = (!first).then_some(self.raw);
            r.record(Axpby { alpha, y, block: scaled.then_some(row), ..Axpby::copy(source, self.raw) })?;
        }
        r.record(CheckFinite { x: self.raw, flag: flag(row)? })
    }

    /// Clips and decays.
    pub(crate) fn shape(&self, r: &mut Recorder, row: Value, weight: Value) -> Result<()> {
        let l2 = self.intake.l2;
        if let Some(clip) = self.intake.clip {
            let clip = clip.repeat(1, clip.items())?;
            r.record(Axpby { alpha: Coef::column(0), block: Some(clip), ..Axpby::copy(self.raw, self.value) })?;
        }
        let before = if self.intake.clip.is_some() { self.value } else { self.raw };
        if l2 {
            let (beta, x, y) = (Coef::column(block::L2_DECAY), weight, before);
            // The operand that may be the result comes second.
            r.record(Axpby { alpha: beta, block: Some(row), ..Axpby::add(x, y, self.value) })?;
        }
        Ok(())
    }
}

fn flag(row: Value) -> Result<Value> {
    row.col_range(block::FLAG as usize..block::FLAG as usize + 1)
}

/// Records the clip of all gradients (with their stacks' blocks) of an optimizer by their joint norm in each trial: the factor of [`Intake::clip`].
///
/// Refused gradients count for nothing. A norm that is not finite refuses all of its trial's.
pub(crate) fn clip(r: &mut Recorder, gradients: &[(Value, Value)], max: f32, out: Value) -> Result<()> {
    let items: usize = gradients.iter().map(|(_, row)| row.items()).sum();
    let scalar = |r: &mut Recorder, name: &str, items| r.scratch(name, Shape::new(items, 1, 1));
    let (raw, squares) = (scalar(r, "norms.raw", items)?, scalar(r, "norms", items)?);
    r.record(Axpby { alpha: Coef::Const(0.0), ..Axpby::copy(raw, squares) })?;
    let mut first = 0;
    for &(gradient, row) in gradients {
        let range = first..first + row.items();
        first = range.end;
        let (square, accepted) = (raw.item_range(range.clone())?, scalar(r, "norms.accepted", row.items())?);
        r.reduce_into(Reduce { kind: ReduceKind::SumSq, x: gradient, y: None, out: square, scale: 1.0 })?;
        r.record(Axpby { alpha: Coef::Const(-1.0), gamma: Coef::Const(1.0), ..Axpby::copy(flag(row)?, accepted) })?;
        r.record(Axpby { gate: Some(accepted), ..Axpby::copy(square, squares.item_range(range)?) })?;
    }
    r.record(NormClip { squares, max, out })?;
    for &(_, row) in gradients {
        r.record(CheckFinite { x: out.repeat(1, out.items())?, flag: flag(row)? })?;
    }
    Ok(())
}

/// A weight that the caller has in f16: the f32 master that methods update, and the way there and back.
#[derive(Clone, Copy)]
pub(crate) struct Master {
    /// The caller's.
    pub(crate) half: Value,
    /// Kept.
    pub(crate) value: Value,
}

impl Master {
    pub(crate) fn load(self, r: &mut Recorder) -> Result<()> {
        r.record(Convert { x: self.half, out: self.value })
    }

    pub(crate) fn store(self, r: &mut Recorder) -> Result<()> {
        r.record(Convert { x: self.value, out: self.half })
    }
}

/// Declares a tensor of the caller's.
pub(crate) fn external(r: &mut Recorder, name: String, shape: Shape, element: ElementType) -> Result<Value> {
    r.declare(name, shape, element, Role::External)
}
