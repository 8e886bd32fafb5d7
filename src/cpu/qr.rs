//! Householder QR, and columns in order.

use faer::linalg::matmul::matmul;
use faer::traits::RealField;
use faer::{Accum, MatMut, MatRef, Par};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{mat, mat_mut};
use super::memory::{CHUNK, Memory, worth_threads};
use super::product;
use super::reduce::is_finite;
use super::scratch::{self, Kept};
use crate::plan::{Qr, SortColumns};

/// Columns whose reflections are applied together.
pub(super) const PANEL: usize = 32;

/// Fewest flops of a product that are worth a thread: both of a reflection take 40 microseconds.
const PART: usize = 1 << 21;

/// Columns that meet a reflection at once.
const WIDTH: usize = 4;

/// Below this a column counts as zero: its reciprocal is not finite in f32.
const LEAST: f64 = 1e-37;

/// What one factorization needs besides its result; kept by each thread, so that steps allocate nothing.
#[derive(Default)]
struct Work {
    /// The matrix, its columns `pitch(n)` apart; in the end `R` above the diagonal.
    r: Vec<f32>,
    /// Panel after panel `[n - first, w]`, `H_1 ... H_w = I - Y V^T`.
    v: Vec<f32>,
    y: Vec<f32>,
    /// `Y = V T`, and `V^T V`.
    t: Vec<f32>,
    gram: Vec<f32>,
    /// `V^T` or `Y^T` times what is reflected.
    product: Vec<f32>,
}

thread_local! {
    static WORK: Kept<Work> = Kept::default();
}

impl Work {
    fn fit(&mut self, n: usize) {
        for (buffer, length) in [
            (&mut self.r, n * pitch(n)),
            (&mut self.v, n * (n + PANEL)),
            (&mut self.y, n * (n + PANEL)),
            (&mut self.t, PANEL * PANEL),
            (&mut self.gram, PANEL * PANEL),
            (&mut self.product, PANEL * n),
        ] {
            if buffer.len() < length {
                buffer.resize(length, 0.0);
            }
        }
    }
}

/// From column to column: not a power of two, whose columns would crowd few lines of the cache.
fn pitch(n: usize) -> usize {
    n + 16
}

pub(super) fn columns<T>(words: &[T], rows: usize, cols: usize) -> MatRef<'_, T> {
    MatRef::from_column_major_slice(&words[..rows * cols], rows, cols)
}

/// `out <- out - left (right^T out)`; some columns a thread.
pub(super) fn reflect<T: RealField + From<f32>>(out: MatMut<'_, T>, left: MatRef<'_, T>, right: MatRef<'_, T>, product: &mut [T]) {
    let most = (2 * left.nrows() * left.ncols() * out.ncols() / 8).max(PART);
    reflect_part(out, left, right, product, most);
}

fn reflect_part<T: RealField + From<f32>>(
    mut out: MatMut<'_, T>,
    left: MatRef<'_, T>,
    right: MatRef<'_, T>,
    product: &mut [T],
    most: usize,
) {
    let (inner, cols) = (right.ncols(), out.ncols());
    if cols == 0 {
        return;
    }
    if let Some(at) = product::middle(cols).filter(|_| 2 * left.nrows() * inner * cols > most) {
        let ((first, second), (before, after)) = (out.split_at_col_mut(at), product.split_at_mut(inner * at));
        return product::both(|| reflect_part(first, left, right, before, most), || reflect_part(second, left, right, after, most));
    }
    let mut product = MatMut::from_column_major_slice_mut(&mut product[..inner * cols], inner, cols);
    matmul(product.as_mut(), Accum::Replace, right.transpose(), out.as_ref(), T::from(1.0), Par::Seq);
    matmul(out.as_mut(), Accum::Add, left, product.as_ref(), T::from(-1.0), Par::Seq);
}

/// Makes `w` columns upper triangular from row 0 on; `v` gets the reflections `I - tau v v^T`, `tau` their factors.
struct Panel<'a> {
    /// From the panel's first row and column on.
    r: &'a mut [f32],
    pitch: usize,
    rows: usize,
    w: usize,
    v: &'a mut [f32],
    tau: &'a mut [f32; PANEL],
}

impl WithSimd for Panel<'_> {
    type Output = ();

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "scalars of a reflection are formed in f64 and rounded")]
    fn with_simd<S: Simd>(self, simd: S) {
        let Panel { r, pitch, rows, w, v, tau } = self;
        for k in 0..w {
            let (before, after) = r.split_at_mut(((k + 1) * pitch).min(r.len()));
            let x = &mut before[k * pitch + k..][..rows - k];
            let v = &mut v[k * rows..][..rows];
            v[..k].fill(0.0);
            v[k] = 1.0;
            tau[k] = 0.0;
            let below = squares(simd, &x[1..]);
            let alpha = f64::from(x[0]);
            let beta = -alpha.signum() * (alpha * alpha + below).sqrt();
            // Squares are in f64, where no f32 under- or overflows: a reflection stays orthogonal however small its column is.
            if below == 0.0 || beta.abs() < LEAST {
                continue;
            }
            let scale = 1.0 / (alpha - beta);
            for (v, x) in v[k + 1..].iter_mut().zip(&x[1..]) {
                *v = (scale * f64::from(*x)) as f32;
            }
            x[0] = beta as f32;
            tau[k] = ((beta - alpha) / beta) as f32;
            let v = &v[k..];
            let mut rest = after.chunks_mut(pitch).take(w - k - 1).map(|column| &mut column[k..rows]);
            loop {
                let group: [Option<&mut [f32]>; WIDTH] = std::array::from_fn(|_| rest.next());
                match group {
                    [Some(a), Some(b), Some(c), Some(d)] => turn(simd, v, tau[k], [a, b, c, d]),
                    [None, ..] => break,
                    some => some.into_iter().flatten().for_each(|a| turn(simd, v, tau[k], [a])),
                }
            }
        }
    }
}

/// `sum x^2`, in f64.
#[inline(always)]
fn squares<S: Simd>(_: S, x: &[f32]) -> f64 {
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0f64; 16];
    for chunk in chunks {
        for l in 0..16 {
            sums[l] += f64::from(chunk[l]) * f64::from(chunk[l]);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
}

/// `x <- x - tau v (v^T x)` for some columns.
#[inline(always)]
fn turn<S: Simd, const W: usize>(simd: S, v: &[f32], tau: f32, mut columns: [&mut [f32]; W]) {
    let (v, v_rest) = S::as_simd_f32s(v);
    let mut sums = [simd.splat_f32s(0.0); W];
    {
        let x: [_; W] = std::array::from_fn(|i| S::as_simd_f32s(&*columns[i]).0);
        for (j, v) in v.iter().enumerate() {
            for i in 0..W {
                sums[i] = simd.mul_add_e_f32s(*v, x[i][j], sums[i]);
            }
        }
    }
    for (column, sum) in columns.iter_mut().zip(sums) {
        let (x, x_rest) = S::as_mut_simd_f32s(column);
        let rest: f32 = v_rest.iter().zip(&*x_rest).map(|(v, x)| v * x).sum();
        let factor = -tau * (simd.reduce_sum_f32s(sum) + rest);
        let factors = simd.splat_f32s(factor);
        for (x, v) in x.iter_mut().zip(v) {
            *x = simd.mul_add_e_f32s(factors, *v, *x);
        }
        x_rest.iter_mut().zip(v_rest).for_each(|(x, v)| *x += factor * v);
    }
}

/// `y = v T` with the upper triangular `T` of `H_1 ... H_w = I - v T v^T`.
fn aggregate(v: MatRef<'_, f32>, tau: &[f32; PANEL], t: &mut [f32], gram: &mut [f32], y: &mut [f32]) {
    let (rows, w) = (v.nrows(), v.ncols());
    matmul(MatMut::from_column_major_slice_mut(&mut gram[..w * w], w, w), Accum::Replace, v.transpose(), v, 1.0, Par::Seq);
    let t = &mut t[..w * w];
    t.fill(0.0);
    for k in 0..w {
        t[k * w + k] = tau[k];
        for i in 0..k {
            t[k * w + i] = -tau[k] * (i..k).map(|l| t[l * w + i] * gram[k * w + l]).sum::<f32>();
        }
    }
    matmul(MatMut::from_column_major_slice_mut(&mut y[..rows * w], rows, w), Accum::Replace, v, columns(t, w, w), 1.0, Par::Seq);
}

/// Panels as (first column, width, place among the reflections).
fn panels(n: usize) -> impl DoubleEndedIterator<Item = (usize, usize, usize)> {
    (0..n.div_ceil(PANEL)).map(move |i| (i * PANEL, PANEL.min(n - i * PANEL), i * PANEL * n))
}

/// The orthonormal factor of the finite matrix in `work.r`.
fn orthonormal_factor(n: usize, work: &mut Work, mut q: MatMut<'_, f32>) {
    let pitch = pitch(n);
    let Work { r, v, y, t, gram, product } = work;
    let arch = pulp::Arch::new();
    for (first, w, place) in panels(n) {
        let (rows, next) = (n - first, first + w);
        let (v, y, mut tau) = (&mut v[place..][..rows * w], &mut y[place..][..rows * w], [0.0; PANEL]);
        arch.dispatch(Panel { r: &mut r[first * pitch + first..], pitch, rows, w, v, tau: &mut tau });
        aggregate(columns(v, rows, w), &tau, t, gram, y);
        if next < n {
            let rest = MatMut::from_column_major_slice_with_stride_mut(&mut r[next * pitch + first..], rows, n - next, pitch);
            reflect(rest, columns(v, rows, w), columns(y, rows, w), product);
        }
    }
    // From the signs that make R's diagonal positive.
    q.fill(0.0);
    for c in 0..n {
        q[(c, c)] = if r[c * pitch + c] < 0.0 { -1.0 } else { 1.0 };
    }
    for (first, w, place) in panels(n).rev() {
        let rows = n - first;
        let (v, y) = (columns(&v[place..], rows, w), columns(&y[place..], rows, w));
        reflect(q.as_mut().submatrix_mut(first, first, rows, rows), y, v, product);
    }
}

/// Orthonormal factors. NaN where the matrix is not finite.
pub(super) fn qr(op: &Qr, memory: &mut Memory<'_>) {
    let mut q = memory.take(op.q);
    let a = memory.input(op.a);
    let n = op.q.rows;
    let factor = |(i, item): (usize, &mut [f32])| {
        scratch::kept(&WORK, |work| {
            work.fit(n);
            let pitch = pitch(n);
            let (words, view) = a.matrix(i);
            let (columns, r) = (mat(&words, &view), &mut work.r[..n * pitch]);
            let mut copy = MatMut::from_column_major_slice_with_stride_mut(r, n, n, pitch);
            if columns.row_stride() == 1 {
                copy.copy_from(columns)
            } else {
                product::transpose(copy, columns.transpose())
            }
            if r.chunks(pitch).all(|column| is_finite(&column[..n])) {
                orthonormal_factor(n, work, mat_mut(item, &op.q));
            } else {
                mat_mut(item, &op.q).fill(f32::NAN);
            }
        });
    };
    if worth_threads(op.q.items, 3 * n * n * n) {
        q.items().enumerate().for_each(factor);
    } else {
        q.items_seq().enumerate().for_each(factor);
    }
    memory.put(q);
}

/// Columns by descending keys.
pub(super) fn sort_columns(op: &SortColumns, memory: &mut Memory<'_>) {
    thread_local! {
        static ORDERS: Kept<Vec<(f32, usize)>> = Kept::default();
    }
    let mut out = memory.take(op.out);
    let (keys, x) = (memory.input(op.keys), memory.input(op.x));
    let v = op.out;
    out.for_each(v.rows * v.cols, |i, item| {
        let words = x.item(i);
        // A NaN's sign is no order that devices share: all lie above infinity.
        let key = |c: usize| {
            let key = keys.scalar(i, c);
            if key.is_nan() { f32::NAN } else { key + 0.0 }
        };
        scratch::kept(&ORDERS, |order: &mut Vec<(f32, usize)>| {
            order.clear();
            order.extend((0..v.cols).map(|c| (key(c), c)));
            // By index where keys are equal, as a stable sort would: this one allocates nothing.
            order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            if v.row_stride == 1 && op.x.row_stride == 1 {
                for (to, (_, from)) in order.iter().enumerate() {
                    item[to * v.col_stride..][..v.rows].copy_from_slice(&words[from * op.x.col_stride..][..v.rows]);
                }
            } else {
                let pick = |(r, to): (usize, &mut [f32])| {
                    let from = &words[r * op.x.row_stride..];
                    for (c, (_, source)) in order.iter().enumerate() {
                        to[c * v.col_stride] = from[source * op.x.col_stride];
                    }
                };
                if v.col_stride == 1 && v.rows > 1 && v.rows * v.cols > CHUNK && !super::is_sequential() {
                    item.par_chunks_mut(v.row_stride).take(v.rows).with_min_len(CHUNK.div_ceil(v.cols)).enumerate().for_each(pick);
                } else {
                    (0..v.rows).for_each(|r| pick((r, &mut item[r * v.row_stride..])));
                }
            }
        });
    });
    memory.put(out);
}
