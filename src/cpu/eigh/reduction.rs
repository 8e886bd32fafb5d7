//! Symmetric matrices to tridiagonal ones by Householder's reflections, panel by panel [GVL13, 8.3; LAPACK's `sytrd`].
//!
//! In f64, or errors would grow with the condition of what is made of the eigenpairs.
//!
//! Within a panel the matrix stays as it was, and a column is brought up to date where it is needed: half of the work are products with the lower triangle,
//! which is read once, the other half is one product a panel.

use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, Par};
use pulp::{Simd, WithSimd};

use super::super::qr::{PANEL, columns, reflect};

/// Columns of the lower triangle that a pass over a vector takes.
const WIDTH: usize = 4;

/// What a reduction leaves, and what it needs meanwhile; kept, so that steps allocate nothing.
#[derive(Default)]
pub(super) struct Reduction {
    /// Of the tridiagonal matrix; the last of `below` is 0.
    pub(super) diagonal: Vec<f64>,
    pub(super) below: Vec<f64>,
    /// Panel after panel `[n - first - 1, w]`, from the row below the panel's first on; `tau` their factors.
    v: Vec<f64>,
    tau: Vec<f64>,
    /// Of one panel, column by column: `V`, `W`, and `V` again; two columns.
    panel: Vec<f64>,
    pair: Vec<f64>,
    /// `Y = V T`, `T`, a column of `V^T V`, and `V^T` times what is reflected.
    y: Vec<f64>,
    t: Vec<f64>,
    gram: Vec<f64>,
    product: Vec<f64>,
}

/// From column to column: not a power of two, whose columns would crowd few lines of the cache.
pub(super) fn pitch(n: usize) -> usize {
    n + 16
}

/// Panels as (first column, width, rows of their reflections, place of these).
fn panels(n: usize) -> impl DoubleEndedIterator<Item = (usize, usize, usize, usize)> {
    (0..n.div_ceil(PANEL)).map(move |i| (i * PANEL, PANEL.min(n - i * PANEL), n - i * PANEL - 1, i * PANEL * n))
}

impl Reduction {
    fn fit(&mut self, n: usize) {
        for (buffer, length) in [
            (&mut self.v, n * (n + PANEL)),
            (&mut self.tau, n + PANEL),
            (&mut self.panel, 3 * n * PANEL),
            (&mut self.pair, 2 * n),
            (&mut self.y, n * PANEL),
            (&mut self.t, PANEL * PANEL),
            (&mut self.gram, PANEL),
            (&mut self.product, n * PANEL),
        ] {
            if buffer.len() < length {
                buffer.resize(length, 0.0);
            }
        }
        self.diagonal.resize(n, 0.0);
        self.below.resize(n, 0.0);
    }

    /// Reduces the matrix whose lower triangle is in `a`, columns `pitch(n)` apart; what is there is lost.
    pub(super) fn reduce(&mut self, n: usize, a: &mut [f64]) {
        self.fit(n);
        let (pitch, arch) = (pitch(n), pulp::Arch::new());
        for (first, w, rows, place) in panels(n) {
            let panel = &mut self.panel[..3 * rows * PANEL];
            for i in 0..w {
                let (diagonal, below, tau) = arch.dispatch(Column { a, pitch, n, first, i, panel, rows, pair: &mut self.pair });
                (self.diagonal[first + i], self.below[first + i], self.tau[first + i]) = (diagonal, below, tau);
            }
            self.v[place..][..rows * w].copy_from_slice(&panel[..rows * w]);
            let next = first + w;
            if next < n {
                let (v, rest) = panel.split_at_mut(rows * PANEL);
                rest[rows * PANEL..].copy_from_slice(v);
                let all = columns(panel, rows, 3 * PANEL).subrows(w - 1, n - next);
                // V W^T + W V^T = [V W] [W V]^T.
                let (left, right) = (all.subcols(0, 2 * PANEL), all.subcols(PANEL, 2 * PANEL).transpose());
                let out = MatMut::from_column_major_slice_with_stride_mut(&mut a[next * (pitch + 1)..], n - next, n - next, pitch);
                let (lower, whole) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
                triangular::matmul(out, lower, Accum::Add, left, whole, right, whole, -1.0, Par::Seq);
            }
        }
    }

    /// Eigenvectors of the matrix from those of the tridiagonal one, dense columns.
    pub(super) fn turn_back(&mut self, n: usize, vectors: &mut [f64]) {
        let arch = pulp::Arch::new();
        for (first, w, rows, place) in panels(n).rev().filter(|panel| panel.2 > 0) {
            let v = &self.v[place..][..rows * w];
            arch.dispatch(BlockFactor { v, rows, tau: &self.tau[first..][..w], gram: &mut self.gram, t: &mut self.t });
            let (v, t) = (columns(v, rows, w), columns(&self.t, w, w));
            let y = &mut self.y[..rows * w];
            matmul(MatMut::from_column_major_slice_mut(y, rows, w), Accum::Replace, v, t, 1.0, Par::Seq);
            let below = MatMut::from_column_major_slice_mut(vectors, n, n).subrows_mut(first + 1, rows);
            reflect(below, columns(y, rows, w), v, &mut self.product);
        }
    }
}

/// The upper triangular `T` of `H_1 ... H_w = I - V T V^T`.
struct BlockFactor<'a> {
    v: &'a [f64],
    rows: usize,
    tau: &'a [f64],
    gram: &'a mut [f64],
    t: &'a mut [f64],
}

impl WithSimd for BlockFactor<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let BlockFactor { v, rows, tau, gram, t } = self;
        let w = tau.len();
        for k in 0..w {
            // Above its own row column k is zero.
            let column = |l: usize| &v[l * rows + k..(l + 1) * rows];
            (0..k).for_each(|l| gram[l] = dot(simd, column(l), column(k)));
            for i in 0..w {
                let sum: f64 = (i..k).map(|l| t[l * w + i] * gram[l]).sum();
                t[k * w + i] = if i == k { tau[k] } else { -tau[k] * sum };
            }
        }
    }
}

/// Column `first + i`, brought up to date and reduced; its reflection and column of `W` go into the panel. Returns diagonal, subdiagonal and `tau`.
struct Column<'a> {
    a: &'a mut [f64],
    pitch: usize,
    n: usize,
    first: usize,
    i: usize,
    panel: &'a mut [f64],
    rows: usize,
    pair: &'a mut [f64],
}

impl WithSimd for Column<'_> {
    type Output = (f64, f64, f64);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Column { a, pitch, n, first, i, panel, rows, pair } = self;
        let j = first + i;
        let (v, w) = panel.split_at_mut(rows * PANEL);
        // Of an earlier column of the panel, what lies below row `from` of it.
        let part = |l: usize, from: usize| l * rows + from..(l + 1) * rows;
        let column = &mut a[j * pitch + j..j * pitch + n];
        for l in 0..i {
            let (v, w) = (&v[part(l, i - 1)], &w[part(l, i - 1)]);
            add_two(simd, column, (-w[0], v), (-v[0], w));
        }
        v[part(i, 0)].fill(0.0);
        w[part(i, 0)].fill(0.0);
        let diagonal = column[0];
        let Some((head, rest)) = column[1..].split_first() else { return (diagonal, 0.0, 0.0) };
        let (alpha, square) = (*head, dot(simd, rest, rest));
        let beta = -alpha.signum() * (alpha * alpha + square).sqrt();
        // Entries come from f32: no square under- or overflows.
        if square == 0.0 {
            return (diagonal, alpha, 0.0);
        }
        let (x, y) = pair.split_at_mut(n);
        let (x, y) = (&mut x[..=rest.len()], &mut y[..=rest.len()]);
        let scale = 1.0 / (alpha - beta);
        x[0] = 1.0;
        x[1..].iter_mut().zip(rest).for_each(|(x, a)| *x = scale * a);
        let tau = (beta - alpha) / beta;
        // W's column is tau (A - V W^T - W V^T) x, less its part along x.
        lower_times(simd, &a[(j + 1) * (pitch + 1)..], pitch, x, y);
        for l in 0..i {
            let (v, w) = (&v[part(l, i)], &w[part(l, i)]);
            let (along_w, along_v) = (dot(simd, w, x), dot(simd, v, x));
            add_two(simd, y, (-along_w, v), (-along_v, w));
        }
        y.iter_mut().for_each(|y| *y *= tau);
        let half = -0.5 * tau * dot(simd, y, x);
        y.iter_mut().zip(&*x).for_each(|(y, x)| *y += half * x);
        v[part(i, i)].copy_from_slice(x);
        w[part(i, i)].copy_from_slice(y);
        (diagonal, beta, tau)
    }
}

/// `sum a b`.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f64], b: &[f64]) -> f64 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f64s(a), S::as_simd_f64s(b));
    let mut sums = [simd.splat_f64s(0.0); WIDTH];
    let ((a, a_last), (b, b_last)) = (a.as_chunks::<WIDTH>(), b.as_chunks::<WIDTH>());
    for (a, b) in a.iter().zip(b) {
        for l in 0..WIDTH {
            sums[l] = simd.mul_add_e_f64s(a[l], b[l], sums[l]);
        }
    }
    for (a, b) in a_last.iter().zip(b_last) {
        sums[0] = simd.mul_add_e_f64s(*a, *b, sums[0]);
    }
    let sum = simd.add_f64s(simd.add_f64s(sums[0], sums[1]), simd.add_f64s(sums[2], sums[3]));
    simd.reduce_sum_f64s(sum) + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// `to <- to + a x + b z`.
#[inline(always)]
fn add_two<S: Simd>(simd: S, to: &mut [f64], (a, x): (f64, &[f64]), (b, z): (f64, &[f64])) {
    let ((to, to_rest), (x, x_rest), (z, z_rest)) = (S::as_mut_simd_f64s(to), S::as_simd_f64s(x), S::as_simd_f64s(z));
    let (many_a, many_b) = (simd.splat_f64s(a), simd.splat_f64s(b));
    for ((to, x), z) in to.iter_mut().zip(x).zip(z) {
        *to = simd.mul_add_e_f64s(many_a, *x, simd.mul_add_e_f64s(many_b, *z, *to));
    }
    for ((to, x), z) in to_rest.iter_mut().zip(x_rest).zip(z_rest) {
        *to += a * x + b * z;
    }
}

/// `y = A x` of the symmetric matrix whose lower triangle is in `a`, as long as `x`.
#[inline(always)]
fn lower_times<S: Simd>(simd: S, a: &[f64], pitch: usize, x: &[f64], y: &mut [f64]) {
    let n = x.len();
    y.fill(0.0);
    // An element below the diagonal counts at both of its places.
    let corner = |y: &mut [f64], c: usize, w: usize| {
        for j in c..c + w {
            y[j] += a[j * pitch + j] * x[j];
            for r in j + 1..c + w {
                y[r] += a[j * pitch + r] * x[j];
                y[j] += a[j * pitch + r] * x[r];
            }
        }
    };
    let whole = n - n % WIDTH;
    for c in (0..whole).step_by(WIDTH) {
        corner(y, c, WIDTH);
        let below = c + WIDTH..n;
        let factors: [f64; WIDTH] = std::array::from_fn(|l| x[c + l]);
        let many = factors.map(|f| simd.splat_f64s(f));
        let columns: [_; WIDTH] = std::array::from_fn(|l| S::as_simd_f64s(&a[(c + l) * pitch..][below.clone()]));
        let (above, y) = y.split_at_mut(below.start);
        let ((x, x_rest), (y, y_rest)) = (S::as_simd_f64s(&x[below]), S::as_mut_simd_f64s(y));
        let vectors = columns.map(|column| &column.0[..x.len()]);
        let mut sums = [simd.splat_f64s(0.0); WIDTH];
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            for l in 0..WIDTH {
                let a = vectors[l][i];
                *y = simd.mul_add_e_f64s(a, many[l], *y);
                sums[l] = simd.mul_add_e_f64s(a, *x, sums[l]);
            }
        }
        for l in 0..WIDTH {
            let rest = columns[l].1;
            above[c + l] += simd.reduce_sum_f64s(sums[l]) + rest.iter().zip(x_rest).map(|(a, x)| a * x).sum::<f64>();
            y_rest.iter_mut().zip(rest).for_each(|(y, a)| *y += a * factors[l]);
        }
    }
    corner(y, whole, n - whole);
}
