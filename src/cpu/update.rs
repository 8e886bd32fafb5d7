//! Fused optimizer tails. Each element is by itself, so neither threads nor the runs in which elements are walked change a bit.

mod run;

use rayon::prelude::*;

use self::run::{Adam, Graft, Run, Sgd};
use super::memory::{Memory, runs, worth_threads};
use super::reduce::dot;
use crate::plan::block::{
    BETA1, BETA2, CURRENT_RATE, DAMPENING, EPSILON, GATE, MOMENTUM, ONE_MINUS_BETA1, ONE_MINUS_BETA2, STEP, WEIGHT_DECAY, WEIGHT1, WEIGHT2,
};
use crate::plan::{AdamUpdate, GraftDirection, GraftScale, SgdUpdate, StepScale, Value};

/// Length of each row's contiguous run, or `None` where some view has none.
fn contiguous(views: &[Value]) -> Option<usize> {
    views.iter().all(|v| v.col_stride == 1).then(|| views[0].cols)
}

fn at(v: &Value, r: usize, c: usize) -> usize {
    r * v.row_stride + c * v.col_stride
}

/// Weight decay, momentum with dampening, Nesterov, update: PyTorch's SGD.
pub(super) fn sgd_update(op: &SgdUpdate, memory: &mut Memory<'_>) {
    let mut w = memory.take(op.w);
    let mut m = op.m.map(|m| memory.take(m));
    let (g, block) = (memory.input(op.g), memory.input(op.block));
    let g_scale = op.g_scale.map(|s| memory.input(s));
    let views @ [w_view, m_view, g_view] = runs([op.w, op.m.unwrap_or(op.w), op.g]);
    let coefficients = |i: usize| {
        let row = |column: u32| block.scalar(i, column as usize);
        let first = row(STEP) <= 1.0;
        let coefficients = Sgd {
            rate: row(CURRENT_RATE),
            decay: row(WEIGHT_DECAY),
            momentum: row(MOMENTUM),
            fresh: 1.0 - row(DAMPENING),
            scale: g_scale.map_or(1.0, |s| s.scalar(i, 0)),
            first,
            nesterov: op.nesterov,
            form: op.decay,
        };
        (row(GATE) != 0.0).then_some(coefficients)
    };
    let plain = |(i, w): (usize, &mut [f32])| {
        let (Some(c), g) = (coefficients(i), g.item(i)) else { return };
        for r in 0..w_view.rows {
            if let Some(n) = contiguous(&views) {
                Run::Sgd(c, &mut w[at(&w_view, r, 0)..][..n], &g[at(&g_view, r, 0)..][..n]).go();
                continue;
            }
            (0..w_view.cols).for_each(|k| c.plain(&mut w[at(&w_view, r, k)], g[at(&g_view, r, k)]));
        }
    };
    let with_momentum = |(i, (w, m)): (usize, (&mut [f32], &mut [f32]))| {
        let (Some(c), g) = (coefficients(i), g.item(i)) else { return };
        for r in 0..w_view.rows {
            if let Some(n) = contiguous(&views) {
                Run::Momentum(c, &mut w[at(&w_view, r, 0)..][..n], &mut m[at(&m_view, r, 0)..][..n], &g[at(&g_view, r, 0)..][..n]).go();
                continue;
            }
            (0..w_view.cols).for_each(|k| c.with_momentum(&mut w[at(&w_view, r, k)], &mut m[at(&m_view, r, k)], g[at(&g_view, r, k)]));
        }
    };
    let threads = worth_threads(op.w.items, 2 * op.w.rows * op.w.cols);
    match &mut m {
        None if threads => w.items().enumerate().for_each(plain),
        None => w.items_seq().enumerate().for_each(plain),
        Some(m) if threads => w.items().zip(m.items()).enumerate().for_each(with_momentum),
        Some(m) => w.items_seq().zip(m.items_seq()).enumerate().for_each(with_momentum),
    }
    memory.put(w);
    m.into_iter().for_each(|m| memory.put(m));
}

/// PyTorch's Adam (L2) and `AdamW` (decoupled).
pub(super) fn adam_update(op: &AdamUpdate, memory: &mut Memory<'_>) {
    let (mut w, mut m, mut v) = (memory.take(op.w), memory.take(op.m), memory.take(op.v));
    let mut v_max = op.v_max.map(|v| memory.take(v));
    let (g, block) = (memory.input(op.g), memory.input(op.block));
    let views @ [w_view, m_view, v_view, g_view] = runs([op.w, op.m, op.v, op.g]);
    let coefficients = |i: usize| {
        let row = |column: u32| block.scalar(i, column as usize);
        let next = row(BETA1) * row(WEIGHT1) + row(ONE_MINUS_BETA1);
        let coefficients = Adam {
            rate: row(CURRENT_RATE),
            decay: row(WEIGHT_DECAY),
            epsilon: row(EPSILON),
            betas: [(row(BETA1), row(ONE_MINUS_BETA1)), (row(BETA2), row(ONE_MINUS_BETA2))],
            step: row(CURRENT_RATE) / row(WEIGHT1),
            root: row(WEIGHT2).sqrt(),
            look_ahead: op.nesterov.then_some((next, row(WEIGHT1))),
            form: op.decay,
        };
        (row(GATE) != 0.0).then_some(coefficients)
    };
    let update = |i: usize, w: &mut [f32], m: &mut [f32], v: &mut [f32]| {
        let (Some(c), g) = (coefficients(i), g.item(i)) else { return };
        for r in 0..w_view.rows {
            let [w_at, m_at, v_at, g_at] = views.map(|view| at(&view, r, 0));
            if let Some(n) = contiguous(&views) {
                Run::Adam(c, &mut w[w_at..][..n], [&mut m[m_at..][..n], &mut v[v_at..][..n]], &g[g_at..][..n]).go();
                continue;
            }
            for k in 0..w_view.cols {
                c.element(&mut w[at(&w_view, r, k)], &mut m[at(&m_view, r, k)], &mut v[at(&v_view, r, k)], g[at(&g_view, r, k)]);
            }
        }
    };
    let with_maximum = |i: usize, w: &mut [f32], m: &mut [f32], v: &mut [f32], x: &mut [f32]| {
        let (Some(c), g) = (coefficients(i), g.item(i)) else { return };
        let with_x @ [w_view, m_view, v_view, x_view, g_view] = runs([op.w, op.m, op.v, op.v_max.unwrap_or(op.v), op.g]);
        for r in 0..w_view.rows {
            if let Some(n) = contiguous(&with_x) {
                let [w_at, m_at, v_at, x_at, g_at] = with_x.map(|view| at(&view, r, 0));
                let kept = [&mut m[m_at..][..n], &mut v[v_at..][..n], &mut x[x_at..][..n]];
                Run::Maximum(c, &mut w[w_at..][..n], kept, &g[g_at..][..n]).go();
                continue;
            }
            for k in 0..w_view.cols {
                let (m, v, x) = (&mut m[at(&m_view, r, k)], &mut v[at(&v_view, r, k)], &mut x[at(&x_view, r, k)]);
                c.with_maximum(&mut w[at(&w_view, r, k)], m, v, x, g[at(&g_view, r, k)]);
            }
        }
    };
    if let Some(x) = &mut v_max {
        if worth_threads(op.w.items, 4 * op.w.rows * op.w.cols) {
            let items = w.items().zip(m.items()).zip(v.items()).zip(x.items()).enumerate();
            items.for_each(|(i, (((w, m), v), x))| with_maximum(i, w, m, v, x));
        } else {
            let items = w.items_seq().zip(m.items_seq()).zip(v.items_seq()).zip(x.items_seq()).enumerate();
            items.for_each(|(i, (((w, m), v), x))| with_maximum(i, w, m, v, x));
        }
    } else if worth_threads(op.w.items, 4 * op.w.rows * op.w.cols) {
        w.items().zip(m.items()).zip(v.items()).enumerate().for_each(|(i, ((w, m), v))| update(i, w, m, v));
    } else {
        w.items_seq().zip(m.items_seq()).zip(v.items_seq()).enumerate().for_each(|(i, ((w, m), v))| update(i, w, m, v));
    }
    memory.put(w);
    memory.put(m);
    memory.put(v);
    v_max.into_iter().for_each(|v| memory.put(v));
}

/// Second moment and direction of a grafted optimizer.
pub(super) fn graft_direction(op: &GraftDirection, memory: &mut Memory<'_>) {
    let (mut v, mut out) = (memory.take(op.v), memory.take(op.out));
    let (g, m, block) = (memory.input(op.g), memory.input(op.m), memory.input(op.block));
    let views @ [v_view, out_view, m_view, g_view] = runs([op.v, op.out, op.m, op.g]);
    let direct = |(i, (v, out)): (usize, (&mut [f32], &mut [f32]))| {
        let row = |column: u32| block.scalar(i, column as usize);
        if row(GATE) == 0.0 {
            return;
        }
        let correction = if op.corrected { row(WEIGHT2) } else { 1.0 };
        let c = Graft { beta2: row(BETA2), new: row(ONE_MINUS_BETA2), epsilon: row(EPSILON), correction };
        let (g, m) = (g.item(i), m.item(i));
        for r in 0..out_view.rows {
            if let Some(n) = contiguous(&views) {
                let [v_at, out_at, m_at, g_at] = views.map(|view| at(&view, r, 0));
                Run::Graft(c, [&mut v[v_at..][..n], &mut out[out_at..][..n]], [&m[m_at..][..n], &g[g_at..][..n]]).go();
                continue;
            }
            for k in 0..out_view.cols {
                out[at(&out_view, r, k)] = c.element(&mut v[at(&v_view, r, k)], m[at(&m_view, r, k)], g[at(&g_view, r, k)]);
            }
        }
    };
    if worth_threads(op.out.items, 8 * op.out.rows * op.out.cols) {
        v.items().zip(out.items()).enumerate().for_each(direct);
    } else {
        v.items_seq().zip(out.items_seq()).enumerate().for_each(direct);
    }
    memory.put(v);
    memory.put(out);
}

/// What takes one tensor to the norm of another.
pub(super) fn graft_scale(op: &GraftScale, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (x, donor) = (memory.input(op.x), op.donor.map(|d| memory.input(d)));
    out.for_each(4 * op.x.rows * op.x.cols, |i, item| {
        // Squares as f32 has them: what overflows there is refused on every device.
        let own = narrow(dot(x, x, i));
        let ratio = donor.map_or(1.0, |d| narrow(dot(d, d, i)).sqrt() / (own.sqrt() + 1e-16));
        item[0] = if own.is_finite() && ratio.is_finite() { ratio } else { 0.0 };
    });
    memory.put(out);
}

#[allow(clippy::cast_possible_truncation, reason = "rounding an f64 accumulation to f32 is the purpose")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// SOAP's factor of a direction.
pub(super) fn step_scale(op: &StepScale, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let block = memory.input(op.block);
    out.for_each(8, |i, item| {
        let row = |column: u32| block.scalar(i, column as usize);
        let decay = if op.decayed { 1.0 - row(CURRENT_RATE) * row(WEIGHT_DECAY) } else { 1.0 };
        let correction = if op.corrected { row(WEIGHT2).sqrt() / row(WEIGHT1) } else { 1.0 };
        item[0] = decay * if correction.is_finite() { correction } else { 0.0 };
    });
    memory.put(out);
}
