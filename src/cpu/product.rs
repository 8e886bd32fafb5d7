//! Products whose work is divided among threads. The item's shape alone says into which parts, so no number of threads changes a bit.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use super::elementwise::combine;
use super::memory::CHUNK;

/// Fewest and most flops of a part: from about 10 microseconds to 0.6 milliseconds of a core.
const LEAST: usize = 1 << 20;
const MOST: usize = 1 << 26;

/// Sides are cut at multiples of this, and no further: a kernel of faer's has so many rows at most.
const GRAIN: usize = 32;

/// Width of the panels of a symmetric product: one AVX-512 vector, two of AVX2. Of 16 to 96 the fastest at orders 64 to 512 (measured on a Zen 4).
const PANEL: usize = 16;

/// Both, on two threads where there are.
pub(super) fn both(first: impl FnOnce() + Send, second: impl FnOnce() + Send) {
    if super::is_sequential() {
        first();
        second();
    } else {
        rayon::join(first, second);
    }
}

/// Flops of a part of so many: an eighth within bounds.
fn part(flops: usize) -> usize {
    (flops / 8).clamp(LEAST, MOST)
}

/// About the middle of a side that can be cut.
pub(super) fn middle(n: usize) -> Option<usize> {
    (n >= 2 * GRAIN).then(|| (n / 2).next_multiple_of(GRAIN))
}

/// `out = alpha a b`, or `out = beta out + alpha a b`.
pub(super) fn multiply(out: MatMut<'_, f32>, beta: Option<f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, alpha: f32) {
    let most = part(2 * a.nrows() * a.ncols() * b.ncols());
    rectangle(out, beta, a, b, alpha, most);
}

fn rectangle(out: MatMut<'_, f32>, beta: Option<f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, alpha: f32, most: usize) {
    let (m, n) = (out.nrows(), out.ncols());
    let cut = if 2 * m * n * a.ncols() > most { middle(m.max(n)) } else { None };
    match cut {
        None => leaf(out, beta, |out, accumulate| matmul(out, accumulate, a, b, alpha, Par::Seq)),
        Some(at) if m >= n => {
            let ((top, bottom), (a_top, a_bottom)) = (out.split_at_row_mut(at), a.split_at_row(at));
            both(|| rectangle(top, beta, a_top, b, alpha, most), || rectangle(bottom, beta, a_bottom, b, alpha, most));
        }
        Some(at) => {
            let ((left, right), (b_left, b_right)) = (out.split_at_col_mut(at), b.split_at_col(at));
            both(|| rectangle(left, beta, a, b_left, alpha, most), || rectangle(right, beta, a, b_right, alpha, most));
        }
    }
}

/// A part by itself, scaled first where the sum goes on.
fn leaf(mut out: MatMut<'_, f32>, beta: Option<f32>, multiply: impl FnOnce(MatMut<'_, f32>, Accum)) {
    if let Some(beta) = beta.filter(|beta| *beta != 1.0) {
        scale(out.as_mut(), beta);
    }
    multiply(out, if beta.is_some() { Accum::Add } else { Accum::Replace });
}

/// Columns as slices, of the transpose where rows are contiguous.
fn upright(x: MatMut<'_, f32>) -> MatMut<'_, f32> {
    if x.row_stride() == 1 { x } else { x.transpose_mut() }
}

fn scale(out: MatMut<'_, f32>, beta: f32) {
    for column in upright(out).col_iter_mut() {
        // One of a view's strides is 1.
        if let Some(column) = column.try_as_col_major_mut() {
            combine(column.as_slice_mut(), 0.0, None, beta, None, true);
        }
    }
}

/// As [`multiply`] where the result is known to be symmetric: the lower triangle is computed and mirrored.
pub(super) fn symmetric(out: MatMut<'_, f32>, beta: Option<f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, alpha: f32) {
    let most = part(a.nrows() * a.ncols() * b.ncols());
    triangle(out, beta, a, b, alpha, most);
}

fn triangle(mut out: MatMut<'_, f32>, beta: Option<f32>, a: MatRef<'_, f32>, b: MatRef<'_, f32>, alpha: f32, most: usize) {
    let n = out.nrows();
    let Some(at) = middle(n).filter(|_| n * n * a.ncols() > most) else {
        leaf(out.as_mut(), beta, |out, accumulate| staircase(out, accumulate, a, b, alpha));
        return mirror(out);
    };
    let (first, above, mut below, last) = out.split_at_mut(at, at);
    let ((a_top, a_bottom), (b_left, b_right)) = (a.split_at_row(at), b.split_at_col(at));
    let corners = || {
        both(|| triangle(first, beta, a_top, b_left, alpha, most), || triangle(last, beta, a_bottom, b_right, alpha, most));
    };
    both(corners, || {
        rectangle(below.as_mut(), beta, a_bottom, b_left, alpha, most);
        transpose(above, below.as_ref());
    });
}

/// The lower triangle and, in blocks along the diagonal, some of the upper one: panels as wide as a kernel is along the side that has neighbours in memory.
fn staircase(mut out: MatMut<'_, f32>, accumulate: Accum, a: MatRef<'_, f32>, b: MatRef<'_, f32>, alpha: f32) {
    let n = out.nrows();
    let by_rows = out.row_stride() == 1;
    for start in (0..n).step_by(PANEL) {
        let end = n.min(start + PANEL);
        let (rows, cols) = if by_rows { (start..end, 0..end) } else { (start..n, start..end) };
        let panel = out.as_mut().submatrix_mut(rows.start, cols.start, rows.len(), cols.len());
        matmul(panel, accumulate, a.subrows(rows.start, rows.len()), b.subcols(cols.start, cols.len()), alpha, Par::Seq);
    }
}

/// Rows and columns of a tile of a transposition: a cache line.
const TILE: usize = 16;

/// Writes the lower triangle above the diagonal.
pub(super) fn mirror(mut x: MatMut<'_, f32>) {
    let n = x.nrows();
    if n > TILE {
        let at = (n / 2).next_multiple_of(TILE);
        let (first, above, below, last) = x.split_at_mut(at, at);
        transpose(above, below.as_ref());
        mirror(first);
        mirror(last);
    } else {
        for c in 1..n {
            for r in 0..c {
                x[(r, c)] = x[(c, r)];
            }
        }
    }
}

/// `out = x^T`, tile by tile; strides are alike.
pub(super) fn transpose(mut out: MatMut<'_, f32>, x: MatRef<'_, f32>) {
    if out.row_stride() != 1 {
        return transpose(out.transpose_mut(), x.transpose());
    }
    let (m, n) = (out.nrows(), out.ncols());
    if let Some(at) = middle(n).filter(|_| m * n > CHUNK) {
        let ((left, right), (top, bottom)) = (out.split_at_col_mut(at), x.split_at_row(at));
        return both(|| transpose(left, top), || transpose(right, bottom));
    }
    let mut tile = [[0.0f32; TILE]; TILE];
    for r in (0..m).step_by(TILE) {
        for c in (0..n).step_by(TILE) {
            let (height, width) = (TILE.min(m - r), TILE.min(n - c));
            for i in 0..height {
                if let Some(column) = x.col(r + i).try_as_col_major() {
                    column.as_slice()[c..c + width].iter().zip(&mut tile).for_each(|(x, row)| row[i] = *x);
                }
            }
            for (j, row) in tile.iter().enumerate().take(width) {
                if let Some(column) = out.as_mut().col_mut(c + j).try_as_col_major_mut() {
                    column.as_slice_mut()[r..r + height].copy_from_slice(&row[..height]);
                }
            }
        }
    }
}
