//! What goes into a polar factor, and what becomes of it.

use rayon::prelude::*;

use super::elementwise::Coefficient;
use super::memory::{Memory, runs, worth_threads};
use super::reduce::{LARGEST, dot, largest};
use crate::plan::block::{FAILED_ROOTS, GATE, WEIGHT1};
use crate::plan::{Momentum, MomentumForm, Normalise, PolarOutcome};

/// Item `i`'s coefficients of [`Momentum`].
#[derive(Clone, Copy)]
struct Mix {
    decay: f32,
    fresh: f32,
    /// `1 - beta1^t`, where that is to be divided by.
    weight: Option<f32>,
}

impl Mix {
    #[inline(always)]
    fn element(self, m: &mut f32, g: f32) -> f32 {
        *m = self.decay * *m + self.fresh * g;
        match self.weight {
            None => self.decay * *m + self.fresh * g,
            Some(weight) => {
                let corrected = *m / weight;
                if corrected.is_finite() { corrected } else { 0.0 }
            }
        }
    }
}

/// `m <- decay m + fresh g`, and what is made of it.
pub(super) fn momentum(op: &Momentum, memory: &mut Memory<'_>) {
    let mut m = memory.take(op.m);
    let mut out = op.out.map(|out| memory.take(out));
    let (g, block) = (memory.input(op.g), memory.input(op.block));
    let [m_view, g_view, out_view] = runs([op.m, op.g, op.out.unwrap_or(op.m)]);
    let update = |i: usize, m: &mut [f32], mut out: Option<&mut [f32]>| {
        if block.scalar(i, GATE as usize) == 0.0 {
            return;
        }
        let [decay, fresh] = [op.decay, op.fresh].map(|c| c.at(Some(block), i));
        let weight = (op.form == MomentumForm::Corrected).then(|| block.scalar(i, WEIGHT1 as usize));
        let (mix, g) = (Mix { decay, fresh, weight }, g.item(i));
        for r in 0..m_view.rows {
            let (m, g) = (&mut m[r * m_view.row_stride..], &g[r * g_view.row_stride..]);
            let mut out = out.as_deref_mut().map(|out| &mut out[r * out_view.row_stride..]);
            if m_view.col_stride == 1 && g_view.col_stride == 1 && out_view.col_stride == 1 {
                let elements = m[..m_view.cols].iter_mut().zip(&g[..m_view.cols]);
                match &mut out {
                    None => elements.for_each(|(m, g)| *m = decay * *m + fresh * g),
                    Some(out) => elements.zip(out.iter_mut()).for_each(|((m, g), out)| *out = mix.element(m, *g)),
                }
                continue;
            }
            for c in 0..m_view.cols {
                let next = mix.element(&mut m[c * m_view.col_stride], g[c * g_view.col_stride]);
                if let Some(out) = &mut out {
                    out[c * out_view.col_stride] = next;
                }
            }
        }
    };
    let threads = worth_threads(op.m.items, 4 * op.m.rows * op.m.cols);
    match &mut out {
        None => m.for_each(4 * op.m.rows * op.m.cols, |i, m| update(i, m, None)),
        Some(out) if threads => m.items().zip(out.items()).enumerate().for_each(|(i, (m, out))| update(i, m, Some(out))),
        Some(out) => m.items_seq().zip(out.items_seq()).enumerate().for_each(|(i, (m, out))| update(i, m, Some(out))),
    }
    memory.put(m);
    out.into_iter().for_each(|out| memory.put(out));
}

/// `out = x / (margin (|x| + epsilon))`; squares are summed in f64, in which none over- or underflows.
pub(super) fn normalise(op: &Normalise, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let x = memory.input(op.x);
    let [v, from] = runs([op.out, op.x]);
    out.for_each(6 * v.rows * v.cols, |i, item| {
        let size = largest(x, i, false);
        let norm = f64::from(op.margin) * (dot(x, x, i).sqrt() + f64::from(op.epsilon));
        // Of a number that is not finite nothing is left but NaN.
        let factor = if size > 0.0 && size.is_finite() { 1.0 / norm } else { 0.0 };
        let words = x.item(i);
        for r in 0..v.rows {
            for c in 0..v.cols {
                item[r * v.row_stride + c * v.col_stride] = narrow(f64::from(words[r * from.row_stride + c * from.col_stride]) * factor);
            }
        }
    });
    memory.put(out);
}

#[allow(clippy::cast_possible_truncation, reason = "results of at most 1 in magnitude are rounded to f32")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// Factors of directions, and the count of those that failed.
pub(super) fn polar_outcome(op: &PolarOutcome, memory: &mut Memory<'_>) {
    let (mut scale, mut ok, mut block) = (memory.take(op.scale), memory.take(op.ok), memory.take(op.block));
    let size = memory.input(op.size);
    let heads = op.size.items / op.block.items;
    let (scales, oks) = (scale.view, ok.view);
    for (i, row) in block.items_seq().enumerate() {
        let open = row[GATE as usize] != 0.0;
        let mut failed = false;
        for head in i * heads..(i + 1) * heads {
            // `<=` is false for NaN.
            let good = size.scalar(head, 0) <= LARGEST;
            failed |= !good;
            scale.words_mut()[scales.item_offset(head)] = if good { op.factor } else { 0.0 };
            ok.words_mut()[oks.item_offset(head)] = if good && open { 1.0 } else { 0.0 };
        }
        if failed && open {
            row[FAILED_ROOTS as usize] += 1.0;
        }
    }
    memory.put(scale);
    memory.put(ok);
    memory.put(block);
}
