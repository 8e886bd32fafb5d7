//! Element-wise non-linearities, on polynomials that `shaders/activation.wgsl` shares.

use rayon::prelude::*;

use super::memory::{CHUNK, Memory, runs};
use crate::plan::{Activation, LinkForm};

/// `(e^r - 1 - r) / r^2` on `|r| <= ln 2 / 2`: relative error of `e^r - 1` 6e-10. From interpolation at the Chebyshev nodes, as are the next two.
const EXP: [f32; 6] = [0.5, 0.166_666_67, 0.041_666_456, 0.008_333_31, 0.001_393_454_1, 0.000_198_919_8];
/// `erf(x / sqrt 2) / x` in `x^2` on [0, 1]: relative error 2e-11.
const ERF: [f32; 7] = [0.797_884_6, -0.132_980_76, 0.019_947_1, -0.002_374_577_5, 0.000_230_641_5, -1.854_880_2e-5, 1.074_528_7e-6];
/// `e^{x^2/2} erfc(x / sqrt 2)` in `1/(1 + 0.35 x)` on [1, 6]: error 2e-10 after multiplication by `e^{-x^2/2}`.
const ERFC: [f32; 8] = [-0.000_189_527_87, 0.282_630_1, 0.253_205_9, 0.359_053_76, -0.129_907_73, 0.594_939_2, -0.477_05, 0.117_357_34];
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
/// ln 2 in two parts: the first has 15 bits, so that its product with an exponent is exact.
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;
/// Beyond these, tanh and erf are 1 to f32's rounding and everything below is still a normal number.
const TANH_END: f32 = 40.0;
const ERF_END: f32 = 13.0;

#[inline(always)]
fn horner<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + coefficients[i];
    }
    sum
}

/// `(s, p)` with `e^y = s + s p`, `s` a power of two and `|p| < 1/2`, for `-87 <= y <= 0`; `p` is NaN where `y` is.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an exponent between -126 and 0")]
fn exponential(y: f32) -> (f32, f32) {
    let k = (y * std::f32::consts::LOG2_E - 0.5) as i32;
    let r = (y - k as f32 * LN2_HIGH) - k as f32 * LN2_LOW;
    (f32::from_bits(((k + 127) as u32) << 23), r + r * r * horner(EXP, r))
}

/// `min(|x|, end)`. Not `f32::min`, which would lose a NaN.
#[inline(always)]
fn magnitude(x: f32, end: f32) -> f32 {
    if x.abs() > end { end } else { x.abs() }
}

/// A function of one element.
trait Scalar: Copy + Sync + Send {
    fn at(self, x: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Tanh;

impl Scalar for Tanh {
    /// `(1 - e^{-2|x|}) / (1 + e^{-2|x|})`, the numerator without cancellation.
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let (s, p) = exponential(-2.0 * magnitude(x, TANH_END));
        let m = s * p + (s - 1.0);
        (-m / (2.0 + m)).copysign(x)
    }
}

#[derive(Clone, Copy)]
struct TanhSlope;

impl Scalar for TanhSlope {
    /// `4 e^{-2|x|} / (1 + e^{-2|x|})^2`.
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let (s, p) = exponential(-2.0 * magnitude(x, TANH_END));
        let e = s + s * p;
        4.0 * e / ((1.0 + e) * (1.0 + e))
    }
}

#[derive(Clone, Copy)]
struct Erf;

impl Scalar for Erf {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let a = magnitude(x, ERF_END);
        let small = a * horner(ERF, a * a);
        let (s, p) = exponential(-0.5 * a * a);
        let large = 1.0 - (s + s * p) * horner(ERFC, 1.0 / (1.0 + 0.35 * a));
        (if a < 1.0 { small } else { large }).copysign(x)
    }
}

#[derive(Clone, Copy)]
struct ErfSlope;

impl Scalar for ErfSlope {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let a = magnitude(x, ERF_END);
        let (s, p) = exponential(-0.5 * a * a);
        SQRT_2_OVER_PI * (s + s * p)
    }
}

#[derive(Clone, Copy)]
struct Relu {
    offset: f32,
}

impl Scalar for Relu {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        (if x < 0.0 { 0.0 } else { x }) - self.offset
    }
}

#[derive(Clone, Copy)]
struct ReluSlope;

impl Scalar for ReluSlope {
    /// NaN at NaN.
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        let step = if x > 0.0 { 1.0 } else { 0.0 };
        if x.is_nan() { x } else { step }
    }
}

#[derive(Clone, Copy)]
struct Cubic([f32; 4]);

impl Scalar for Cubic {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        horner(self.0, x)
    }
}

/// One row of elements.
struct Row<'a, F> {
    f: F,
    to: &'a mut [f32],
    /// `None`: `to` itself.
    x: Option<&'a [f32]>,
    times: Times<'a>,
}

#[derive(Clone, Copy)]
enum Times<'a> {
    One,
    Itself,
    Other(&'a [f32]),
}

impl<F: Scalar> pulp::WithSimd for Row<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Row { f, to, x, times } = self;
        match (x, times) {
            (None, _) => to.iter_mut().for_each(|to| *to = f.at(*to)),
            (Some(x), Times::One) => to.iter_mut().zip(x).for_each(|(to, x)| *to = f.at(*x)),
            (Some(x), Times::Itself) => to.iter_mut().zip(x).for_each(|(to, x)| *to *= f.at(*x)),
            (Some(x), Times::Other(t)) => to.iter_mut().zip(x).zip(t).for_each(|((to, x), t)| *to = t * f.at(*x)),
        }
    }
}

/// A contiguous run, in chunks on threads where it is long.
fn apply<F: Scalar>(row: Row<'_, F>) {
    let Row { f, to, x, times } = row;
    if to.len() <= CHUNK {
        return pulp::Arch::new().dispatch(Row { f, to, x, times });
    }
    to.par_chunks_mut(CHUNK).enumerate().for_each(|(i, to)| {
        let part = i * CHUNK..i * CHUNK + to.len();
        let times = if let Times::Other(t) = times { Times::Other(&t[part.clone()]) } else { times };
        pulp::Arch::new().dispatch(Row { f, to, x: x.map(|x| &x[part]), times });
    });
}

fn run<F: Scalar>(op: &Activation, f: F, memory: &mut Memory<'_>) {
    let mut out = memory.take(op.out);
    let (in_place, v) = (op.in_place(), op.out);
    let x = if op.times.is_none() && in_place { None } else { Some(memory.input(op.x)) };
    let times = op.times.filter(|_| !in_place).map(|t| memory.input(t));
    let [v_run, x_run, t_run] = runs([v, op.x, op.times.unwrap_or(v)]);
    let contiguous = [v_run, x_run, t_run].iter().all(|v| v.col_stride == 1);
    out.for_each(16 * v.rows * v.cols, |i, item| {
        let (x_item, t_item) = (x.map(|x| x.item(i)), times.map(|t| t.item(i)));
        for r in 0..v_run.rows {
            let to = &mut item[r * v_run.row_stride..];
            let (x_row, t_row) = (x_item.map(|x| &x[r * x_run.row_stride..]), t_item.map(|t| &t[r * t_run.row_stride..]));
            if contiguous {
                let n = v_run.cols;
                let times = t_row.map_or(if op.times.is_some() { Times::Itself } else { Times::One }, |t| Times::Other(&t[..n]));
                apply(Row { f, to: &mut to[..n], x: x_row.map(|x| &x[..n]), times });
                continue;
            }
            for c in 0..v_run.cols {
                let to = &mut to[c * v_run.col_stride];
                let value = f.at(x_row.map_or(*to, |x| x[c * x_run.col_stride]));
                *to = match t_row {
                    Some(t) => t[c * t_run.col_stride] * value,
                    None if op.times.is_some() => *to * value,
                    None => value,
                };
            }
        }
    });
    memory.put(out);
}

/// `out = sigma(x)` or `out = times sigma'(x)`.
pub(super) fn activation(op: &Activation, memory: &mut Memory<'_>) {
    match (op.link.form(), op.times.is_some()) {
        (LinkForm::Tanh, false) => run(op, Tanh, memory),
        (LinkForm::Tanh, true) => run(op, TanhSlope, memory),
        (LinkForm::Relu { offset }, false) => run(op, Relu { offset }, memory),
        (LinkForm::Relu { .. }, true) => run(op, ReluSlope, memory),
        (LinkForm::Erf, false) => run(op, Erf, memory),
        (LinkForm::Erf, true) => run(op, ErfSlope, memory),
        (LinkForm::Cubic(c), false) => run(op, Cubic(c), memory),
        (LinkForm::Cubic([_, c1, c2, c3]), true) => run(op, Cubic([c1, 2.0 * c2, 3.0 * c3, 0.0]), memory),
    }
}
