//! Few long dot products, where packing operands as a general product does costs more than the arithmetic. Written on pulp's vectors.
//!
//! Whether a product is thin depends on the item's shape and strides alone, and so does the order of its sums.

use pulp::{Simd, WithSimd};

use crate::plan::Value;

/// Largest number of results: beyond, packing pays.
const DOTS: usize = 256;
/// Shortest inner side: below, sums within a vector cost more than they bring.
const LENGTH: usize = 64;

/// Rows and columns of results that are in registers at once.
const HEIGHT: usize = 4;
const WIDTH: usize = 2;

/// `out = alpha a b + beta d` for one item.
pub(super) struct Thin<'a> {
    pub(super) alpha: f32,
    pub(super) a: (&'a [f32], Value),
    pub(super) b: (&'a [f32], Value),
    pub(super) beta: f32,
    pub(super) d: Addend<'a>,
    pub(super) out: (&'a mut [f32], Value),
}

/// The added operand.
#[derive(Clone, Copy)]
pub(super) enum Addend<'a> {
    /// Nothing is added.
    None,
    /// What `out` holds.
    InPlace,
    /// Another operand.
    Other(&'a [f32], Value),
}

/// Computes the product if it is thin: few results, long inner side, contiguous in both operands.
pub(super) fn multiply(product: &mut Thin<'_>) -> bool {
    let (a, b, out) = (&product.a.1, &product.b.1, &product.out.1);
    let thin = out.rows * out.cols <= DOTS && a.cols >= LENGTH && a.col_stride == 1 && b.row_stride == 1;
    if thin {
        pulp::Arch::new().dispatch(Dots(product));
    }
    thin
}

impl Thin<'_> {
    /// The result at `(r, c)` from its sum of products.
    fn finish(&mut self, r: usize, c: usize, sum: f32) {
        let at = |v: &Value| r * v.row_stride + c * v.col_stride;
        let to = &mut self.out.0[at(&self.out.1)];
        *to = match self.d {
            Addend::None => self.alpha * sum,
            Addend::InPlace => self.alpha * sum + self.beta * *to,
            Addend::Other(d, view) => self.alpha * sum + self.beta * d[at(&view)],
        };
    }
}

struct Dots<'a, 'b>(&'a mut Thin<'b>);

impl WithSimd for Dots<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let thin = self.0;
        let (rows, cols) = (thin.out.1.rows, thin.out.1.cols);
        for c in (0..cols).step_by(WIDTH) {
            for r in (0..rows).step_by(HEIGHT) {
                match (rows - r, cols - c) {
                    (1, 1) => dots::<S, 1, 1>(simd, thin, r, c),
                    (2, 1) => dots::<S, 2, 1>(simd, thin, r, c),
                    (3, 1) => dots::<S, 3, 1>(simd, thin, r, c),
                    (_, 1) => dots::<S, HEIGHT, 1>(simd, thin, r, c),
                    (1, _) => dots::<S, 1, WIDTH>(simd, thin, r, c),
                    (2, _) => dots::<S, 2, WIDTH>(simd, thin, r, c),
                    (3, _) => dots::<S, 3, WIDTH>(simd, thin, r, c),
                    _ => dots::<S, HEIGHT, WIDTH>(simd, thin, r, c),
                }
            }
        }
    }
}

/// `H` by `W` dot products of rows of `a` from `r` on and columns of `b` from `c` on.
#[inline(always)]
fn dots<S: Simd, const H: usize, const W: usize>(simd: S, thin: &mut Thin<'_>, r: usize, c: usize) {
    let ((a, a_view), (b, b_view)) = (thin.a, thin.b);
    let length = a_view.cols;
    let rows: [_; H] = std::array::from_fn(|h| S::as_simd_f32s(&a[(r + h) * a_view.row_stride..][..length]));
    let cols: [_; W] = std::array::from_fn(|w| S::as_simd_f32s(&b[(c + w) * b_view.col_stride..][..length]));
    let mut sums = [[simd.splat_f32s(0.0); W]; H];
    for v in 0..length / S::F32_LANES {
        let b: [S::f32s; W] = std::array::from_fn(|w| cols[w].0[v]);
        for h in 0..H {
            let a = rows[h].0[v];
            for w in 0..W {
                sums[h][w] = simd.mul_add_e_f32s(a, b[w], sums[h][w]);
            }
        }
    }
    for h in 0..H {
        for w in 0..W {
            let rest: f32 = rows[h].1.iter().zip(cols[w].1).map(|(a, b)| a * b).sum();
            thin.finish(r + h, c + w, simd.reduce_sum_f32s(sums[h][w]) + rest);
        }
    }
}
