//! Eigenpairs of small symmetric tridiagonal matrices.

use pulp::{Simd, WithSimd};

/// Sweeps an eigenvalue that are more than any matrix needs: two to three are usual.
const SWEEPS: usize = 60;

/// The implicitly shifted QR algorithm with Wilkinson's shifts [GVL13, 8.3]: `diagonal` becomes the eigenvalues, in no order, `below` is lost, and the rotations are
/// applied to the columns of `vectors`, `rows` long. About `n^2` rotations. False where they do not converge, which only numbers do that are not finite.
///
/// Entries come from f32, so that no square leaves the range of f64. A rotation has to wait for the one before it, and two columns turn meanwhile:
/// that took two thirds of the time of faer's at order 64, four fifths at 127, before operations were fused.
pub(super) fn eigenpairs(diagonal: &mut [f64], below: &mut [f64], vectors: &mut [f64], rows: usize) -> bool {
    pulp::Arch::new().dispatch(Sweeps { d: diagonal, e: below, vectors, rows })
}

struct Sweeps<'a> {
    d: &'a mut [f64],
    e: &'a mut [f64],
    vectors: &'a mut [f64],
    rows: usize,
}

impl WithSimd for Sweeps<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Sweeps { d, e, vectors, rows } = self;
        let negligible = |d: &[f64], e: &[f64], k: usize| e[k].abs() <= f64::EPSILON * (d[k].abs() + d[k + 1].abs());
        let (mut last, mut left) = (d.len() - 1, SWEEPS * d.len());
        while last > 0 {
            if negligible(d, e, last - 1) {
                last -= 1;
                continue;
            }
            if left == 0 {
                return false;
            }
            left -= 1;
            let first = (1..last).rev().find(|&k| negligible(d, e, k - 1)).unwrap_or(0);
            sweep(simd, &mut d[first..=last], &mut e[first..last], &mut vectors[first * rows..(last + 1) * rows], rows);
        }
        true
    }
}

/// `a b + c`, in one instruction where the vector unit has it.
#[inline(always)]
fn fused<S: Simd>(a: f64, b: f64, c: f64) -> f64 {
    let has_it = S::F64_LANES > 1 && cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    if has_it { a.mul_add(b, c) } else { a * b + c }
}

/// One sweep over an unreduced matrix of order 2 or more.
#[inline(always)]
fn sweep<S: Simd>(simd: S, d: &mut [f64], e: &mut [f64], vectors: &mut [f64], rows: usize) {
    let last = e.len();
    let (half, corner) = (0.5 * (d[last - 1] - d[last]), e[last - 1]);
    let shift = d[last] - corner * corner / (half + half.signum() * (half * half + corner * corner).sqrt());
    let (mut x, mut bulge) = (d[0] - shift, e[0]);
    let mut columns = vectors.chunks_exact_mut(rows);
    let (mut left, mut before) = (columns.next(), (1.0, 0.0));
    for k in 0..last {
        // Each rotation waits for the one before it: few operations in a row, the division beside the root, and columns turn one rotation late, while the next is computed.
        let square = fused::<S>(x, x, bulge * bulge);
        let norm = square.sqrt();
        let inverse = norm * (1.0 / square);
        let (c, s) = if square > 0.0 { (x * inverse, bulge * inverse) } else { (1.0, 0.0) };
        if k > 0 {
            e[k - 1] = norm;
        }
        let mixed = fused::<S>(s, d[k + 1] - d[k], c * (2.0 * e[k]));
        d[k] = fused::<S>(s, mixed, d[k]);
        d[k + 1] = fused::<S>(-s, mixed, d[k + 1]);
        e[k] = fused::<S>(c, mixed, -e[k]);
        if k + 1 < last {
            x = e[k];
            bulge = s * e[k + 1];
            e[k + 1] *= c;
        }
        if k > 0 {
            left = turned(simd, left, columns.next(), before);
        }
        before = (c, s);
    }
    turned(simd, left, columns.next(), before);
}

/// Rotates two columns; the second is the first of the next rotation.
#[inline(always)]
fn turned<'a, S: Simd>(simd: S, left: Option<&mut [f64]>, mut right: Option<&'a mut [f64]>, (c, s): (f64, f64)) -> Option<&'a mut [f64]> {
    if let (Some(left), Some(right)) = (left, right.as_deref_mut()) {
        rotate(simd, left, right, c, s);
    }
    right
}

/// `(a, b) <- (c a + s b, c b - s a)`.
#[inline(always)]
fn rotate<S: Simd>(simd: S, a: &mut [f64], b: &mut [f64], c: f64, s: f64) {
    let (cosine, sine) = (simd.splat_f64s(c), simd.splat_f64s(s));
    let ((a, a_rest), (b, b_rest)) = (S::as_mut_simd_f64s(a), S::as_mut_simd_f64s(b));
    for (a, b) in a.iter_mut().zip(b) {
        let (x, y) = (*a, *b);
        *a = simd.mul_add_e_f64s(cosine, x, simd.mul_f64s(sine, y));
        *b = simd.mul_add_e_f64s(cosine, y, simd.neg_f64s(simd.mul_f64s(sine, x)));
    }
    for (a, b) in a_rest.iter_mut().zip(b_rest) {
        (*a, *b) = (c * *a + s * *b, c * *b - s * *a);
    }
}
