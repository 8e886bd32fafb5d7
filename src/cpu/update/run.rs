//! Optimizer tails along equally long contiguous runs, element by element.

use crate::cpu::memory::CHUNK;
use crate::plan::DecayForm;

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
pub(super) struct Sgd {
    pub(super) rate: f32,
    pub(super) decay: f32,
    pub(super) momentum: f32,
    pub(super) fresh: f32,
    pub(super) scale: f32,
    pub(super) first: bool,
    pub(super) nesterov: bool,
    pub(super) form: DecayForm,
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
    pub(super) fn plain(self, w: &mut f32, g: f32) {
        *w = self.stepped(*w, self.decayed(*w, g));
    }

    #[inline(always)]
    pub(super) fn with_momentum(self, w: &mut f32, m: &mut f32, g: f32) {
        let g = self.decayed(*w, g);
        *m = if self.first { g } else { self.momentum * *m + self.fresh * g };
        *w = self.stepped(*w, if self.nesterov { g + self.momentum * *m } else { *m });
    }
}

/// Item `i`'s coefficients of [`AdamUpdate`].
#[derive(Clone, Copy)]
pub(super) struct Adam {
    pub(super) rate: f32,
    pub(super) decay: f32,
    pub(super) epsilon: f32,
    pub(super) betas: [(f32, f32); 2],
    pub(super) step: f32,
    pub(super) root: f32,
    /// `(1 - beta1^(t+1), 1 - beta1^t)` with the look-ahead.
    pub(super) look_ahead: Option<(f32, f32)>,
    pub(super) form: DecayForm,
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
    pub(super) fn element(self, w: &mut f32, m: &mut f32, v: &mut f32, g: f32) {
        let g = self.moments(*w, m, v, g);
        *w = self.stepped(*w, *m, *v, g);
    }

    /// `AMSGrad`: the largest second moment divides.
    #[inline(always)]
    pub(super) fn with_maximum(self, w: &mut f32, m: &mut f32, v: &mut f32, x: &mut f32, g: f32) {
        let g = self.moments(*w, m, v, g);
        *x = x.max(*v);
        *w = self.stepped(*w, *m, *x, g);
    }
}

/// Item `i`'s coefficients of [`GraftDirection`].
#[derive(Clone, Copy)]
pub(super) struct Graft {
    pub(super) beta2: f32,
    pub(super) new: f32,
    pub(super) epsilon: f32,
    pub(super) correction: f32,
}

impl Graft {
    /// Takes the gradient into the second moment; returns the direction.
    #[inline(always)]
    pub(super) fn element(self, v: &mut f32, m: f32, g: f32) -> f32 {
        *v = self.beta2 * *v + self.new * g * g;
        m / ((*v / self.correction).sqrt() + self.epsilon)
    }
}

/// Equally long contiguous runs of all operands, compiled once for each vector unit. A struct, since a closure would not be inlined into such a version.
pub(super) enum Run<'a> {
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
    pub(super) fn go(self) {
        if self.length() <= CHUNK || crate::cpu::is_sequential() {
            return pulp::Arch::new().dispatch(self);
        }
        let half = self.length() / 2;
        let (first, second) = self.split(half);
        rayon::join(|| first.go(), || second.go());
    }
}
