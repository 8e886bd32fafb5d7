//! Linear combinations and conversions.

use super::memory::{Input, Memory};
use crate::plan::{Axpby, Coef, Convert};
use crate::tensor::ElementType;

/// Resolves coefficients against the block.
pub(super) trait Coefficient {
    /// The coefficient of item `i`.
    fn at(self, block: Option<Input<'_>>, i: usize) -> f32;
}

impl Coefficient for Coef {
    fn at(self, block: Option<Input<'_>>, i: usize) -> f32 {
        match (self, block) {
            (Coef::Const(c), _) => c,
            (Coef::Column { column, scale }, Some(block)) => scale * block.scalar(i, column as usize),
            // Recording refuses a column without a block.
            (Coef::Column { .. }, None) => f32::NAN,
        }
    }
}

/// `out = alpha x + beta y + gamma I`.
pub(super) fn axpby(op: &Axpby, memory: &mut Memory<'_>) {
    let in_place = op.y == Some(op.out);
    let mut out = memory.take(op.out);
    // What a constant zero multiplies is not read: NaN there does no harm.
    let x = op.x.filter(|_| !op.alpha.is_zero()).map(|x| memory.input(x));
    let reads_y = !op.beta.is_zero();
    let y = op.y.filter(|_| !in_place && reads_y).map(|y| memory.input(y));
    let (block, gate) = (op.block.map(|v| memory.input(v)), op.gate.map(|v| memory.input(v)));
    let v = op.out;
    out.for_each(4 * v.rows * v.cols, |i, item| {
        if gate.is_some_and(|g| g.scalar(i, 0) == 0.0) {
            return;
        }
        let [alpha, beta, gamma] = [op.alpha, op.beta, op.gamma].map(|c| c.at(block, i));
        let (x_item, y_item) = (x.map(|x| (x.item(i), x.view)), y.map(|y| (y.item(i), y.view)));
        for r in 0..v.rows {
            for c in 0..v.cols {
                let at = r * v.row_stride + c * v.col_stride;
                let mut sum = x_item.map_or(0.0, |(x, view)| alpha * x[r * view.row_stride + c * view.col_stride]);
                if in_place && reads_y {
                    sum += beta * item[at];
                } else if let Some((y, view)) = y_item {
                    sum += beta * y[r * view.row_stride + c * view.col_stride];
                }
                item[at] = if r == c { sum + gamma } else { sum };
            }
        }
    });
    memory.put(out);
}

/// `out = x` in the other element type.
pub(super) fn convert(op: &Convert, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let x = memory.input(op.x);
    let elements = op.out.rows * op.out.cols;
    let v = out.view;
    for b in 0..v.items {
        let source = x.elements(b);
        let first = v.offset + b * v.item_stride;
        match v.element {
            ElementType::F32 => out.words_mut()[first..first + elements].copy_from_slice(&source[..elements]),
            ElementType::F16 => {
                for (i, pair) in source[..elements].chunks(2).enumerate() {
                    let low = u32::from(half::f16::from_f32(pair[0]).to_bits());
                    let high = pair.get(1).map_or(0, |&p| u32::from(half::f16::from_f32(p).to_bits()));
                    out.words_mut()[first / 2 + i] = f32::from_bits(low | high << 16);
                }
            }
        }
    }
    memory.put(out);
}
