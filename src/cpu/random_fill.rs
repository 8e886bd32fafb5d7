//! Counter-based random numbers.

use super::memory::Memory;
use crate::plan::RandomFill;
use crate::rng::Philox;

/// Fills every item from its own key.
pub(super) fn random_fill(op: &RandomFill, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (keys, step) = (memory.input(op.keys), memory.input(op.step));
    let elements = op.out.rows * op.out.cols;
    out.for_each(16 * elements, |i, item| {
        let key = [keys.scalar(i, 0).to_bits(), keys.scalar(i, 1).to_bits()];
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the step is an integer below 2^24 held as f32")]
        let step = step.scalar(i, 0) as u32;
        Philox { key }.fill(op.distribution, step, op.stream, &mut item[..elements]);
    });
    memory.put(out);
}
