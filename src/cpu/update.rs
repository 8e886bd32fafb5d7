//! Fused optimizer tails.

use super::memory::Memory;
use crate::plan::block::{
    BETA1, BETA2, CURRENT_RATE, DAMPENING, EPSILON, GATE, MOMENTUM, ONE_MINUS_BETA1, ONE_MINUS_BETA2, STEP, WEIGHT_DECAY, WEIGHT1, WEIGHT2,
};
use crate::plan::{AdamUpdate, SgdUpdate, Value};

/// Offsets of every element of an item, row by row.
fn positions(v: Value) -> impl Iterator<Item = usize> {
    (0..v.rows).flat_map(move |r| (0..v.cols).map(move |c| r * v.row_stride + c * v.col_stride))
}

/// Weight decay, momentum with dampening, Nesterov, update: PyTorch's SGD.
pub(super) fn sgd_update(op: &SgdUpdate, memory: &mut Memory<'_>) {
    let mut w = memory.take(op.w);
    let mut m = op.m.map(|m| memory.take(m));
    let (g, block) = (memory.input(op.g), memory.input(op.block));
    let g_scale = op.g_scale.map(|s| memory.input(s));
    let mut m_items = m.as_mut().map(|m| m.items_seq());
    for (i, w_item) in w.items_seq().enumerate() {
        let mut m_item = m_items.as_mut().and_then(Iterator::next);
        let row = |column: u32| block.scalar(i, column as usize);
        if row(GATE) == 0.0 {
            continue;
        }
        let (rate, decay, momentum, dampening) = (row(CURRENT_RATE), row(WEIGHT_DECAY), row(MOMENTUM), row(DAMPENING));
        let fresh = if row(STEP) <= 1.0 { 1.0 } else { 1.0 - dampening };
        let scale = g_scale.map_or(1.0, |s| s.scalar(i, 0));
        let m_view = op.m.unwrap_or(op.w);
        for ((at, g), m_at) in positions(op.w).zip(g.iter(i)).zip(positions(m_view)) {
            // A scale of 0 is a refusal, also of a direction that overflowed.
            let mut g = if scale == 0.0 { 0.0 } else { scale * g };
            let mut weight = w_item[at];
            if op.decoupled {
                weight *= 1.0 - rate * decay;
            } else {
                g += decay * weight;
            }
            let direction = match &mut m_item {
                None => g,
                Some(m) => {
                    let b = if row(STEP) <= 1.0 { g } else { momentum * m[m_at] + fresh * g };
                    m[m_at] = b;
                    if op.nesterov { g + momentum * b } else { b }
                }
            };
            w_item[at] = weight - rate * direction;
        }
    }
    drop(m_items);
    memory.put(w);
    if let Some(m) = m {
        memory.put(m);
    }
}

/// PyTorch's Adam (L2) and `AdamW` (decoupled).
pub(super) fn adam_update(op: &AdamUpdate, memory: &mut Memory<'_>) {
    let (mut w, mut m, mut v) = (memory.take(op.w), memory.take(op.m), memory.take(op.v));
    let (g, block) = (memory.input(op.g), memory.input(op.block));
    for (i, ((w_item, m_item), v_item)) in w.items_seq().zip(m.items_seq()).zip(v.items_seq()).enumerate() {
        let row = |column: u32| block.scalar(i, column as usize);
        if row(GATE) == 0.0 {
            continue;
        }
        let (rate, decay, epsilon) = (row(CURRENT_RATE), row(WEIGHT_DECAY), row(EPSILON));
        let (beta1, new1, beta2, new2) = (row(BETA1), row(ONE_MINUS_BETA1), row(BETA2), row(ONE_MINUS_BETA2));
        let (step, root) = (rate / row(WEIGHT1), row(WEIGHT2).sqrt());
        for (((at, g), m_at), v_at) in positions(op.w).zip(g.iter(i)).zip(positions(op.m)).zip(positions(op.v)) {
            let mut weight = w_item[at];
            let mut g = g;
            if op.decoupled {
                weight *= 1.0 - rate * decay;
            } else {
                g += decay * weight;
            }
            let first = beta1 * m_item[m_at] + new1 * g;
            let second = beta2 * v_item[v_at] + new2 * g * g;
            m_item[m_at] = first;
            v_item[v_at] = second;
            w_item[at] = weight - step * first / (second.sqrt() / root + epsilon);
        }
    }
    memory.put(w);
    memory.put(m);
    memory.put(v);
}
