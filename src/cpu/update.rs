//! Fused optimizer tails. Each element is by itself, so neither threads nor the runs in which elements are walked change a bit.

use rayon::prelude::*;

use super::memory::{CHUNK, Memory, runs, worth_threads};
use super::reduce::dot;
use crate::plan::block::{
    BETA1, BETA2, CURRENT_RATE, DAMPENING, EPSILON, GATE, MOMENTUM, ONE_MINUS_BETA1, ONE_MINUS_BETA2, STEP, WEIGHT_DECAY, WEIGHT1, WEIGHT2,
};
use crate::plan::{AdamUpdate, DecayForm, GraftDirection, GraftScale, SgdUpdate, StepScale, Value};

/// A weight that would overflow stays.
#[inline(always)]
fn finite(next: f32, w: f32) -> f32 {
    if next.is_finite() { next } else { w }
}

/// The weight after a decay of `shrink` beside an update along `direction`.
#[inline(always)]
fn shrunk(w: f32, direction: f32, shrink: f32, form: DecayForm) -> f32 {
    match form {
        DecayForm::Gradient => w,
        DecayForm::Decoupled => w * (1.0 - shrink),
        DecayForm::Cautious => w * (1.0 - if direction * w >= 0.0 { shrink } else { 0.0 }),
    }
}

/// Item `i`'s coefficients of [`SgdUpdate`].
#[derive(Clone, Copy)]
struct Sgd {
    rate: f32,
    decay: f32,
    momentum: f32,
    fresh: f32,
    scale: f32,
    first: bool,
    nesterov: bool,
    form: DecayForm,
}

impl Sgd {
    #[inline(always)]
    fn decayed(self, w: f32, g: f32) -> f32 {
        // A scale of 0 is a refusal, also of a direction that overflowed.
        let g = if self.scale == 0.0 { 0.0 } else { self.scale * g };
        if self.form == DecayForm::Gradient { g + self.decay * w } else { g }
    }

    #[inline(always)]
    fn stepped(self, w: f32, direction: f32) -> f32 {
        finite(shrunk(w, direction, self.rate * self.decay, self.form) - self.rate * direction, w)
    }

    #[inline(always)]
    fn plain(self, w: &mut f32, g: f32) {
        *w = self.stepped(*w, self.decayed(*w, g));
    }

    #[inline(always)]
    fn with_momentum(self, w: &mut f32, m: &mut f32, g: f32) {
        let g = self.decayed(*w, g);
        *m = if self.first { g } else { self.momentum * *m + self.fresh * g };
        *w = self.stepped(*w, if self.nesterov { g + self.momentum * *m } else { *m });
    }
}

/// Item `i`'s coefficients of [`AdamUpdate`].
#[derive(Clone, Copy)]
struct Adam {
    rate: f32,
    decay: f32,
    epsilon: f32,
    betas: [(f32, f32); 2],
    step: f32,
    root: f32,
    /// `(1 - beta1^(t+1), 1 - beta1^t)` with the look-ahead.
    look_ahead: Option<(f32, f32)>,
    form: DecayForm,
}

impl Adam {
    /// Takes the gradient into both moments; returns it as it entered, with its decay.
    #[inline(always)]
    fn moments(self, w: f32, m: &mut f32, v: &mut f32, g: f32) -> f32 {
        let g = if self.form == DecayForm::Gradient { g + self.decay * w } else { g };
        let [(beta1, new1), (beta2, new2)] = self.betas;
        *m = beta1 * *m + new1 * g;
        *v = beta2 * *v + new2 * g * g;
        g
    }

    /// The weight after a step from a first moment, what divides it, and the gradient.
    #[inline(always)]
    fn stepped(self, w: f32, m: f32, v: f32, g: f32) -> f32 {
        let (beta1, new1) = self.betas[0];
        let step = match self.look_ahead {
            None => self.step * m,
            Some((next, now)) => self.rate * (beta1 * m / next + new1 * g / now),
        };
        finite(shrunk(w, step, self.rate * self.decay, self.form) - step / (v.sqrt() / self.root + self.epsilon), w)
    }

    #[inline(always)]
    fn element(self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = self.moments(*w, m, v, g);
        *w = self.stepped(*w, *m, *v, g);
    }
}

/// Equally long contiguous runs of all operands, compiled once for each vector unit. A struct, since a closure would not be inlined into such a version.
enum Run<'a> {
    Sgd(Sgd, &'a mut [f32], &'a [f32]),
    Momentum(Sgd, &'a mut [f32], &'a mut [f32], &'a [f32]),
    Adam(Adam, &'a mut [f32], &'a mut [f32], &'a mut [f32], &'a [f32]),
}

impl pulp::WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        match self {
            Run::Sgd(c, w, g) => w.iter_mut().zip(g).for_each(|(w, g)| c.plain(w, *g)),
            Run::Momentum(c, w, m, g) => w.iter_mut().zip(m).zip(g).for_each(|((w, m), g)| c.with_momentum(w, m, *g)),
            Run::Adam(c, w, m, v, g) => w.iter_mut().zip(m).zip(v).zip(g).for_each(|(((w, m), v), g)| c.element(w, m, v, *g)),
        }
    }
}

impl Run<'_> {
    /// Runs it, a long one in chunks on threads.
    fn go(self) {
        let (arch, threads) = (pulp::Arch::new(), !super::is_sequential());
        match self {
            Run::Sgd(c, w, g) if w.len() > CHUNK && threads => {
                w.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(w, g)| arch.dispatch(Run::Sgd(c, w, g)));
            }
            Run::Momentum(c, w, m, g) if w.len() > CHUNK && threads => {
                let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(g.par_chunks(CHUNK));
                chunks.for_each(|((w, m), g)| arch.dispatch(Run::Momentum(c, w, m, g)));
            }
            Run::Adam(c, w, m, v, g) if w.len() > CHUNK && threads => {
                let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
                let chunks = w.par_chunks_mut(CHUNK).zip(moments).zip(g.par_chunks(CHUNK));
                chunks.for_each(|((w, (m, v)), g)| arch.dispatch(Run::Adam(c, w, m, v, g)));
            }
            short => arch.dispatch(short),
        }
    }
}

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
                Run::Adam(c, &mut w[w_at..][..n], &mut m[m_at..][..n], &mut v[v_at..][..n], &g[g_at..][..n]).go();
                continue;
            }
            for k in 0..w_view.cols {
                c.element(&mut w[at(&w_view, r, k)], &mut m[at(&m_view, r, k)], &mut v[at(&v_view, r, k)], g[at(&g_view, r, k)]);
            }
        }
    };
    let with_maximum = |i: usize, w: &mut [f32], m: &mut [f32], v: &mut [f32], x: &mut [f32]| {
        let (Some(c), g, x_view) = (coefficients(i), g.item(i), op.v_max.unwrap_or(op.v)) else { return };
        for r in 0..op.w.rows {
            for k in 0..op.w.cols {
                let (w, m, v) = (&mut w[at(&op.w, r, k)], &mut m[at(&op.m, r, k)], &mut v[at(&op.v, r, k)]);
                let (x, g) = (&mut x[at(&x_view, r, k)], c.moments(*w, m, v, g[at(&op.g, r, k)]));
                *x = x.max(*v);
                *w = c.stepped(*w, *m, *x, g);
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
    for (i, (v_item, out_item)) in v.items_seq().zip(out.items_seq()).enumerate() {
        let row = |column: u32| block.scalar(i, column as usize);
        if row(GATE) == 0.0 {
            continue;
        }
        let (beta2, new, epsilon) = (row(BETA2), row(ONE_MINUS_BETA2), row(EPSILON));
        let correction = if op.corrected { row(WEIGHT2) } else { 1.0 };
        let (g, m) = (g.item(i), m.item(i));
        for r in 0..op.out.rows {
            for k in 0..op.out.cols {
                let (g, second) = (g[at(&op.g, r, k)], &mut v_item[at(&op.v, r, k)]);
                *second = beta2 * *second + new * g * g;
                out_item[at(&op.out, r, k)] = m[at(&op.m, r, k)] / ((*second / correction).sqrt() + epsilon);
            }
        }
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
