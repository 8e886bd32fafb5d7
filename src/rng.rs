//! Counter-based random numbers: Philox4x32-10, the same 32-bit stream in Rust and in WGSL.
//!
//! A draw is a pure function of (key, step, stream, element), so that a CPU run, a GPU run and a run that groups its trials differently see the same data.
//! The layout, which `shaders/random_fill.wgsl` shares:
//!
//! - key = (seed, task), counter = (block, step, stream, 0); element `e = r * cols + c` of an item.
//! - [`Distribution::Uniform`] uses 32 bits an element: block `e / 4`, word `w = e % 4`; the value is `((word >> 9) + 1/2) 2^-23`, exact in f32 and inside (0, 1).
//! - [`Distribution::Normal`] uses 32 bits an element: elements `2j` and `2j + 1` of a block are `r cos` and `r sin` of its words `2j` and `2j + 1` (Box-Muller).
//!   `r = sqrt(-2 ln u)` with `u = v 2^-31`, `v = max(word >> 1, 1)`, its low 7 bits cleared where `v >= 2^24`: |z| <= 6.56. The angle is `(word >> 6) + 1/2` in
//!   units of 2^-26 turns.
//! - [`Distribution::Rademacher`] uses one bit an element: block `e / 128`, word `(e / 32) % 4`, bit `e % 32`; a set bit is +1.
//!
//! Normals go through polynomials of our own and exact integer range reduction, not through the shader language's `log`, `sin` and `cos`, whose error is not
//! bounded tightly enough. Their absolute error against exact Box-Muller is below 1e-6 (a test measures it), and so is the difference between devices.
//! Uniform and Rademacher elements agree in every bit.
//!
//! Host-side draws ([`Philox::rng`], [`Philox::normals_f64`]) set the counter's last word to 1: they never meet a device-side one.
//!
//! Reference: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

use std::convert::Infallible;

use crate::plan::Distribution;

/// Multipliers and key increments of Philox4x32, named as in Random123.
const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;
const ROUNDS: usize = 10;

/// Blocks made at once: enough lanes for any vector unit, few enough for its registers.
const LANES: usize = 16;
const STRIDE: u32 = 16;

/// The Philox4x32-10 function under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Philox {
    /// (seed, task).
    pub key: [u32; 2],
}

impl Philox {
    /// The four words of one counter.
    pub fn block(&self, counter: [u32; 4]) -> [u32; 4] {
        philox(self.key, counter)
    }

    /// A host-side generator for `rand`: counter (block, step, stream, 1), words in order.
    pub fn rng(&self, step: u32, stream: u32) -> PhiloxRng {
        PhiloxRng { philox: *self, counter: [0, step, stream, 1], words: [0; 4], used: 4 }
    }

    /// `count` standard normals in full f64 precision, for teachers and other host-side set-up.
    ///
    /// Each block makes two: Box-Muller with 53 bits for the radius and 53 for the angle.
    pub fn normals_f64(&self, step: u32, stream: u32, count: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(count + 1);
        for block in (0u32..).take(count.div_ceil(2)) {
            let w = self.block([block, step, stream, 1]).map(u64::from);
            let unit = |hi: u64, lo: u64| (((hi << 32 | lo) >> 11) as f64 + 0.5) * 2f64.powi(-53);
            let (radius, angle) = ((-2.0 * unit(w[0], w[1]).ln()).sqrt(), std::f64::consts::TAU * unit(w[2], w[3]));
            out.extend([radius * angle.cos(), radius * angle.sin()]);
        }
        out.truncate(count);
        out
    }

    /// Fills `out`, one item in the module's layout, with draws of (`step`, `stream`).
    pub fn fill(&self, distribution: Distribution, step: u32, stream: u32, out: &mut [f32]) {
        pulp::Arch::new().dispatch(Fill { key: self.key, distribution, step, stream, out });
    }
}

/// [`Philox::fill`], compiled once for each vector unit. A struct, since a closure would not be inlined into the version that may use the unit.
struct Fill<'a> {
    key: [u32; 2],
    distribution: Distribution,
    step: u32,
    stream: u32,
    out: &'a mut [f32],
}

impl pulp::WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Fill { key, distribution, step, stream, out } = self;
        match distribution {
            Distribution::Uniform => fill_batches::<{ 4 * LANES }>(key, step, stream, out, uniforms),
            Distribution::Normal => fill_batches::<{ 4 * LANES }>(key, step, stream, out, normals),
            Distribution::Rademacher => fill_batches::<{ 128 * LANES }>(key, step, stream, out, signs),
        }
    }
}

/// A sequential generator over one Philox stream, for `rand` and its distributions. From [`Philox::rng`].
#[derive(Debug)]
pub struct PhiloxRng {
    philox: Philox,
    counter: [u32; 4],
    words: [u32; 4],
    used: usize,
}

impl rand::TryRng for PhiloxRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        if self.used == 4 {
            self.words = self.philox.block(self.counter);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        Ok(self.words[self.used - 1])
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let low = u64::from(self.try_next_u32()?);
        Ok(u64::from(self.try_next_u32()?) << 32 | low)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(4) {
            chunk.copy_from_slice(&self.try_next_u32()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// One word of `LANES` counters.
type Lane = [u32; LANES];

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the two halves of a 64-bit product")]
fn multiply(a: u32, m: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(m);
    ((product >> 32) as u32, product as u32)
}

#[inline(always)]
fn philox(mut key: [u32; 2], mut c: [u32; 4]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let (high0, low0) = multiply(c[0], M0);
        let (high1, low1) = multiply(c[2], M1);
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0];
        key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
    }
    c
}

/// The words of `LANES` blocks from `first` on: a loop without dependences between its turns, which the compiler makes vectors of.
#[inline(always)]
fn words(key: [u32; 2], first: u32, step: u32, stream: u32) -> [Lane; 4] {
    let mut words = [[0; LANES]; 4];
    for (l, offset) in (0..LANES).zip(0u32..) {
        let block = philox(key, [first.wrapping_add(offset), step, stream, 0]);
        for (words, word) in words.iter_mut().zip(block) {
            words[l] = word;
        }
    }
    words
}

/// Runs `expand` over consecutive batches of `LANES` blocks, `N` elements each.
#[inline(always)]
fn fill_batches<const N: usize>(key: [u32; 2], step: u32, stream: u32, out: &mut [f32], expand: impl Fn(&[Lane; 4], &mut [f32; N])) {
    let mut first = 0u32;
    let mut next = || {
        let words = words(key, first, step, stream);
        first = first.wrapping_add(STRIDE);
        words
    };
    let (batches, rest) = out.as_chunks_mut::<N>();
    for batch in batches {
        expand(&next(), batch);
    }
    if !rest.is_empty() {
        let mut last = [0.0; N];
        expand(&next(), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[inline(always)]
fn uniforms(words: &[Lane; 4], out: &mut [f32; 4 * LANES]) {
    for l in 0..LANES {
        for w in 0..4 {
            out[4 * l + w] = uniform(words[w][l]);
        }
    }
}

#[inline(always)]
fn signs(words: &[Lane; 4], out: &mut [f32; 128 * LANES]) {
    for (e, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let word = words[e % 4][e / 4];
        for (bit, out) in out.iter_mut().enumerate() {
            *out = if word & (1 << bit) == 0 { -1.0 } else { 1.0 };
        }
    }
}

#[inline(always)]
fn normals(words: &[Lane; 4], out: &mut [f32; 4 * LANES]) {
    let mut z = [[0.0; LANES]; 4];
    for l in 0..LANES {
        (z[0][l], z[1][l]) = box_muller(words[0][l], words[1][l]);
    }
    for l in 0..LANES {
        (z[2][l], z[3][l]) = box_muller(words[2][l], words[3][l]);
    }
    for l in 0..LANES {
        for w in 0..4 {
            out[4 * l + w] = z[w][l];
        }
    }
}

#[inline(always)]
fn uniform(word: u32) -> f32 {
    (word >> 9) as f32 * (1.0 / 8_388_608.0) + (1.0 / 16_777_216.0)
}

/// ln(1 + f) = f - f^2/2 + f^3 P(f) on [1/sqrt 2 - 1, sqrt 2 - 1]: relative error 2e-8 before rounding. From interpolation at the Chebyshev nodes, as are the next two.
pub(crate) const LOG: [f32; 8] =
    [0.333_333_3, -0.250_003_07, 0.200_010_45, -0.166_412_82, 0.142_144_96, -0.129_981_83, 0.126_223_19, -0.079_027_44];
/// sin(pi/4 a) / a in a^2 on [0, 1]: error 3e-8.
#[allow(clippy::approx_constant, reason = "a fitted coefficient that happens to round to pi / 4")]
const SIN: [f32; 4] = [0.785_398_2, -0.080_745_436, 0.002_490_006_8, -3.595_429e-5];
/// cos(pi/4 a) in a^2 on [0, 1]: error 7e-9.
const COS: [f32; 5] = [1.0, -0.308_425_13, 0.015_854_325, -0.000_325_938_6, 3.529_797e-6];
/// ln 2 in two parts: the first has 15 bits, so that its product with an exponent is exact.
pub(crate) const LN2_HIGH: f32 = 0.693_145_75;
pub(crate) const LN2_LOW: f32 = 1.428_606_8e-6;

#[inline(always)]
pub(crate) fn horner<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum = coefficients[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + coefficients[i];
    }
    sum
}

/// `-2 ln(max(word >> 1, 1) 2^-31)`.
#[inline(always)]
#[allow(clippy::cast_possible_wrap, reason = "bit patterns: values below 2^31 and exponents")]
fn minus_two_log(word: u32) -> f32 {
    // 24 significant bits make the conversion exact in any rounding mode; small values keep all of theirs, for the tail.
    let v = (word >> 1).max(1);
    let v = if v < 0x0100_0000 { v } else { v & 0x7FFF_FF80 };
    let bits = (v as i32 as f32).to_bits();
    // Splits v = m 2^e with m in [1/sqrt 2, sqrt 2).
    let shifted = bits.wrapping_add(0x3F80_0000 - 0x3F35_04F3);
    let exponent = ((shifted >> 23) as i32 - (127 + 31)) as f32;
    let f = f32::from_bits((shifted & 0x007F_FFFF) + 0x3F35_04F3) - 1.0;
    let f2 = f * f;
    let log = exponent * LN2_HIGH + (f - (0.5 * f2 - (f * f2 * horner(LOG, f) + exponent * LN2_LOW)));
    -2.0 * log
}

/// (cos, sin) of `word 2^-32` turns.
#[inline(always)]
#[allow(clippy::cast_possible_wrap, reason = "bit patterns: the angle within its quadrant is signed")]
fn cos_sin(word: u32) -> (f32, f32) {
    // The nearest quarter turn, and what is left of it in units of an eighth of a turn: 24 bits and a half, exact.
    let quarter = word.wrapping_add(0x2000_0000) >> 30;
    let a = (((word << 2) as i32 >> 8) as f32 + 0.5) * (1.0 / 8_388_608.0);
    let a2 = a * a;
    let (sin, cos) = (a * horner(SIN, a2), horner(COS, a2));
    let swap = quarter & 1 == 1;
    let (x, y) = if swap { (sin, cos) } else { (cos, sin) };
    let negative = |v: f32, sign: u32| f32::from_bits(v.to_bits() ^ sign);
    (negative(x, ((quarter + 1) & 2) << 30), negative(y, (quarter & 2) << 30))
}

#[inline(always)]
fn box_muller(radius: u32, angle: u32) -> (f32, f32) {
    let r = minus_two_log(radius).sqrt();
    let (cos, sin) = cos_sin(angle);
    (r * cos, r * sin)
}

#[cfg(test)]
mod tests;
