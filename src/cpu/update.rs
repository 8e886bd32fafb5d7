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

    /// `AMSGrad`: the largest second moment divides.
    #[inline(always)]
    fn with_maximum(self, w: &mut f32, m: &mut f32, v: &mut f32, x: &mut f32, g: f32) {
        let g = self.moments(*w, m, v, g);
        *x = x.max(*v);
        *w = self.stepped(*w, *m, *x, g);
    }
}

/// Item `i`'s coefficients of [`GraftDirection`].
#[derive(Clone, Copy)]
struct Graft {
    beta2: f32,
    new: f32,
    epsilon: f32,
    correction: f32,
}

impl Graft {
    /// Takes the gradient into the second moment; returns the direction.
    #[inline(always)]
    fn element(self, v: &mut f32, m: f32, g: f32) -> f32 {
        *v = self.beta2 * *v + self.new * g * g;
        m / ((*v / self.correction).sqrt() + self.epsilon)
    }
}

/// Equally long contiguous runs of all operands, compiled once for each vector unit. A struct, since a closure would not be inlined into such a version.
enum Run<'a> {
    Sgd(Sgd, &'a mut [f32], &'a [f32]),
    Momentum(Sgd, &'a mut [f32], &'a mut [f32], &'a [f32]),
    Adam(Adam, &'a mut [f32], [&'a mut [f32]; 2], &'a [f32]),
    Maximum(Adam, &'a mut [f32], [&'a mut [f32]; 3], &'a [f32]),
    Graft(Graft, [&'a mut [f32]; 2], [&'a [f32]; 2]),
}

impl pulp::WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        use DecayForm::{Cautious, Decoupled, Gradient};
        // What does not change along a run as constants: a loop without choices in it becomes vectors.
        match self {
            Run::Sgd(c, w, g) => match c.form {
                Gradient => plain_run(Sgd { form: Gradient, ..c }, w, g),
                Decoupled => plain_run(Sgd { form: Decoupled, ..c }, w, g),
                Cautious => plain_run(Sgd { form: Cautious, ..c }, w, g),
            },
            Run::Momentum(c, w, m, g) => match (c.form, c.nesterov, c.first) {
                (Gradient, false, false) => momentum_run(Sgd { form: Gradient, nesterov: false, first: false, ..c }, w, m, g),
                (Gradient, true, false) => momentum_run(Sgd { form: Gradient, nesterov: true, first: false, ..c }, w, m, g),
                (Decoupled, false, false) => momentum_run(Sgd { form: Decoupled, nesterov: false, first: false, ..c }, w, m, g),
                _ => momentum_run(c, w, m, g),
            },
            Run::Adam(c, w, [m, v], g) => match (c.form, c.look_ahead) {
                (Gradient, None) => adam_run(Adam { form: Gradient, look_ahead: None, ..c }, w, m, v, g),
                (Decoupled, None) => adam_run(Adam { form: Decoupled, look_ahead: None, ..c }, w, m, v, g),
                (Gradient, Some(a)) => adam_run(Adam { form: Gradient, look_ahead: Some(a), ..c }, w, m, v, g),
                (Decoupled, Some(a)) => adam_run(Adam { form: Decoupled, look_ahead: Some(a), ..c }, w, m, v, g),
                (Cautious, _) => adam_run(Adam { form: Cautious, ..c }, w, m, v, g),
            },
            Run::Maximum(c, w, [m, v, x], g) => match (c.form, c.look_ahead) {
                (Gradient, None) => maximum_run(Adam { form: Gradient, look_ahead: None, ..c }, w, m, v, x, g),
                (Decoupled, None) => maximum_run(Adam { form: Decoupled, look_ahead: None, ..c }, w, m, v, x, g),
                _ => maximum_run(c, w, m, v, x, g),
            },
            Run::Graft(c, [v, out], [m, g]) => graft_run(c, v, out, m, g),
        }
    }
}

// Slices as parameters, which the compiler knows to be apart, cut to one length; loops without closures, which it might not inline here.

#[inline(always)]
fn plain_run(c: Sgd, w: &mut [f32], g: &[f32]) {
    let n = w.len();
    let g = &g[..n];
    for i in 0..n {
        c.plain(&mut w[i], g[i]);
    }
}

#[inline(always)]
fn momentum_run(c: Sgd, w: &mut [f32], m: &mut [f32], g: &[f32]) {
    let n = w.len();
    let (m, g) = (&mut m[..n], &g[..n]);
    for i in 0..n {
        c.with_momentum(&mut w[i], &mut m[i], g[i]);
    }
}

#[inline(always)]
fn adam_run(c: Adam, w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
    let n = w.len();
    let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
    for i in 0..n {
        c.element(&mut w[i], &mut m[i], &mut v[i], g[i]);
    }
}

#[inline(always)]
fn maximum_run(c: Adam, w: &mut [f32], m: &mut [f32], v: &mut [f32], x: &mut [f32], g: &[f32]) {
    let n = w.len();
    let (m, v, x, g) = (&mut m[..n], &mut v[..n], &mut x[..n], &g[..n]);
    for i in 0..n {
        c.with_maximum(&mut w[i], &mut m[i], &mut v[i], &mut x[i], g[i]);
    }
}

#[inline(always)]
fn graft_run(c: Graft, v: &mut [f32], out: &mut [f32], m: &[f32], g: &[f32]) {
    let n = out.len();
    let (v, m, g) = (&mut v[..n], &m[..n], &g[..n]);
    for i in 0..n {
        out[i] = c.element(&mut v[i], m[i], g[i]);
    }
}

impl<'a> Run<'a> {
    fn length(&self) -> usize {
        match self {
            Run::Sgd(_, w, _) | Run::Momentum(_, w, ..) | Run::Adam(_, w, ..) | Run::Maximum(_, w, ..) => w.len(),
            Run::Graft(_, [v, _], _) => v.len(),
        }
    }

    /// The first `n` elements and the rest.
    fn split(self, n: usize) -> (Run<'a>, Run<'a>) {
        let read = |x: &'a [f32]| x.split_at(n);
        match self {
            Run::Sgd(c, w, g) => {
                let ((w, w2), (g, g2)) = (w.split_at_mut(n), read(g));
                (Run::Sgd(c, w, g), Run::Sgd(c, w2, g2))
            }
            Run::Momentum(c, w, m, g) => {
                let ((w, w2), (m, m2), (g, g2)) = (w.split_at_mut(n), m.split_at_mut(n), read(g));
                (Run::Momentum(c, w, m, g), Run::Momentum(c, w2, m2, g2))
            }
            Run::Adam(c, w, kept, g) => {
                let ((w, w2), [(m, m2), (v, v2)], (g, g2)) = (w.split_at_mut(n), kept.map(|x| x.split_at_mut(n)), read(g));
                (Run::Adam(c, w, [m, v], g), Run::Adam(c, w2, [m2, v2], g2))
            }
            Run::Maximum(c, w, kept, g) => {
                let ((w, w2), [(m, m2), (v, v2), (x, x2)], (g, g2)) = (w.split_at_mut(n), kept.map(|x| x.split_at_mut(n)), read(g));
                (Run::Maximum(c, w, [m, v, x], g), Run::Maximum(c, w2, [m2, v2, x2], g2))
            }
            Run::Graft(c, written, given) => {
                let ([(v, v2), (out, out2)], [(m, m2), (g, g2)]) = (written.map(|x| x.split_at_mut(n)), given.map(read));
                (Run::Graft(c, [v, out], [m, g]), Run::Graft(c, [v2, out2], [m2, g2]))
            }
        }
    }

    /// Runs it, a long one in halves on threads.
    fn go(self) {
        if self.length() <= CHUNK || super::is_sequential() {
            return pulp::Arch::new().dispatch(self);
        }
        let half = self.length() / 2;
        let (first, second) = self.split(half);
        rayon::join(|| first.go(), || second.go());
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
