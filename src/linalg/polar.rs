//! The orthogonal polar factor by Newton-Schulz iterations.

use crate::error::{Error, Result};
use crate::plan::{Axpby, Coef, Convert, Gemm, Normalise, Recorder, ReduceKind, Role, Value};
use crate::tensor::{ElementType, Shape};

/// Triples `(a, b, c)` of `X <- a X + (b A + c A^2) X`, `A = X X^T`; the last one repeats where more steps are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum NewtonSchulz {
    /// (3.4445, -4.7750, 2.0315), 5 steps: singular values to about \[0.68, 1.13\]. KellerJordan/Muon.
    #[default]
    Keller,
    /// Five triples: \[0.978, 1.03\]. Jiacheng You's, in microsoft/dion as `dion` and optax as `quintic`.
    You,
    /// Five triples for a matrix divided by 1.02 of its norm: \[0.87, 1.12\]. Amsel and others 2025, as in microsoft/dion.
    PolarExpress5,
    /// Eight triples with the safety factor 1.01 folded into all but the last: 1 to rounding where `sigma_min / ||x||_F` is above 1e-3.
    PolarExpress8,
    /// Five triples of Grishina, Smirnov and Rakhuba 2025.
    Cans,
    /// Any list but the empty one (`Vec::leak` makes one at run time).
    #[cfg_attr(feature = "serde", serde(skip))]
    Custom(&'static [[f64; 3]]),
}

const KELLER: [f64; 3] = [3.4445, -4.7750, 2.0315];
const YOU: [[f64; 3]; 5] =
    [[4.0848, -6.8946, 2.9270], [3.9505, -6.3029, 2.6377], [3.7418, -5.5913, 2.3037], [2.8769, -3.1427, 1.2046], [2.8366, -3.0525, 1.2012]];
const POLAR_EXPRESS_5: [[f64; 3]; 5] = [
    [8.156554524902461, -22.48329292557795, 15.878769915207462],
    [4.042929935166739, -2.808917465908714, 0.5000178451051316],
    [3.8916678022926607, -2.772484153217685, 0.5060648178503393],
    [3.285753657755655, -2.3681294933425376, 0.46449024233003106],
    [2.3465413258596377, -1.7097828382687081, 0.42323551169305323],
];
const POLAR_EXPRESS_8: [[f64; 3]; 7] = [
    [8.28721201814563, -23.595886519098837, 17.300387312530933],
    [4.107059111542203, -2.9478499167379106, 0.5448431082926601],
    [3.9486908534822946, -2.908902115962949, 0.5518191394370137],
    [3.3184196573706015, -2.488488024314874, 0.51004894012372],
    [2.300652019954817, -1.6689039845747493, 0.4188073119525673],
    [1.891301407787398, -1.2679958271945868, 0.37680408948524835],
    [1.8750014808534479, -1.2500016453999487, 0.3750001645474248],
];
const CANS: [[f64; 3]; 5] = [
    [8.4703, -25.1081, 18.6293],
    [4.1828, -3.1087, 0.5806],
    [3.9619, -2.9541, 0.5630],
    [3.2866, -2.4647, 0.5074],
    [2.2737, -1.6447, 0.4162],
];
/// Elements of an item that one workgroup divides by their norm in one dispatch; larger items take several, of many workgroups.
const WHOLE: usize = 1 << 16;
/// Longer sides that are so many times the shorter one: several steps between two products of them.
const WIDE: usize = 2;
/// Bounds of the growth of rounding between two such products: on spectra from Gaussian to 1e-6 and with spikes errors stay within about three times those of single steps. All five
/// of Keller's steps in one phase have 40 to 180 times those. The first `A` has a norm well below 1, later ones have about 1.
const FIRST_GROWTH: f64 = 150.0;
const LATER_GROWTH: f64 = 70.0;
/// A step that grows it by more goes alone: the first of Polar Express and of Cans.
const ALONE: f64 = 20.0;
/// Converges from (0, 1] to 1 with order three.
const SAFE: [f64; 3] = [1.875, -1.25, 0.375];

impl NewtonSchulz {
    /// The triples, and the factor of the norm that the matrix is divided by.
    pub fn triples(&self) -> (Vec<[f64; 3]>, f64) {
        match self {
            NewtonSchulz::Keller => (vec![KELLER; 5], 1.0),
            NewtonSchulz::You => (YOU.to_vec(), 1.0),
            NewtonSchulz::PolarExpress5 => (POLAR_EXPRESS_5.to_vec(), 1.02),
            NewtonSchulz::PolarExpress8 => {
                let s: f64 = 1.01;
                let folded = POLAR_EXPRESS_8.iter().map(|[a, b, c]| [a / s, b / s.powi(3), c / s.powi(5)]);
                (folded.chain([SAFE]).collect(), 1.0)
            }
            NewtonSchulz::Cans => (CANS.to_vec(), 1.0),
            NewtonSchulz::Custom(list) => (list.to_vec(), 1.0),
        }
    }
}

/// What the products of an iteration take. The user's choice alone: nothing in this crate picks it by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Precision {
    /// Operands and sums in f32.
    #[default]
    F32,
    /// Operands rounded to f16 (at most 65504 in magnitude, 11 bits), sums in f32. An orthogonal factor's error is about 2e-3 to 3e-2 instead of 1e-6 to 1e-5.
    /// Pays where a GPU multiplies halves faster; the CPU path widens them, so there it only costs.
    F16,
}

/// Options of [`polar`]. The default is Muon's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PolarOptions {
    /// Default: [`NewtonSchulz::Keller`].
    pub coefficients: NewtonSchulz,
    /// Number of steps; default: as many as there are triples.
    pub steps: Option<usize>,
    /// Steps of the convergent (15/8, -5/4, 3/8) after those; default 0.
    pub safe_steps: usize,
    /// Default: [`Precision::F32`].
    pub precision: Precision,
    /// Added to the norm, at least 0: a matrix far below it becomes 0. Default: 0, no matrix is too small.
    pub epsilon: f64,
}

impl PolarOptions {
    /// The polar factor itself: Polar Express 8, then three convergent steps. Error below 3e-5 where `sigma_min / ||x||_F` is at least 1e-3.
    pub fn exact() -> Self {
        PolarOptions { coefficients: NewtonSchulz::PolarExpress8, safe_steps: 3, ..PolarOptions::default() }
    }
}

/// The orthogonal polar factor of each item, `U V^T` of its singular value decomposition, as closely as the coefficients give it; same shape as `x`.
///
/// The matrix is divided by its largest element and then by its Frobenius norm (plus `epsilon`), so that no square over- or underflows; it is zero where `x` is, NaN where `x`
/// is not finite. `A` is of the smaller side, `X^T X` where that is the columns, and `X` then multiplied from the right. Singular values that are zero stay so.
///
/// A step is `X <- P X`, `P = a I + b A + c A^2`. Where one side is at least twice the other (and operands are f32), several steps go between two products of the longer side:
/// `Q <- P Q`, `A <- P (P A)`, then `X <- Q X`. All of these but `Q X` are symmetric: half of each is computed. Between two such products rounding of `A` grows at its small
/// eigenvalues, by `a^2` a step; the number of steps is bounded by that growth (3 and 2 of Keller's five), and errors stay below 3e-5 where `sigma_min / ||x||_F` is above 1e-3 (not for
/// Cans, which single steps of do not keep either).
///
/// Costs `3 m^2 n + (4 j - 3) m^3` flops for `j` steps together, `m <= n` the sides; `j` is 1 for sides that are nearer to each other.
///
/// ```
/// use layerwise::linalg::{PolarOptions, polar};
/// use layerwise::{Recorder, Shape};
/// let mut r = Recorder::new();
/// let x = r.external("x", Shape::new(3, 100, 30))?;
/// assert_eq!(polar(&mut r, x, &PolarOptions::exact())?.shape(), Shape::new(3, 100, 30));
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Config`] for an empty or non-finite coefficient list, more than 100 steps, or an `epsilon` that is negative or not finite.
pub fn polar(r: &mut Recorder, x: Value, options: &PolarOptions) -> Result<Value> {
    let (triples, margin) = options.coefficients.triples();
    let steps = options.steps.unwrap_or(triples.len());
    let refuse = |field, allowed, found| Error::Config { method: "polar", field, found, allowed };
    if triples.is_empty() || !triples.iter().flatten().all(|c| c.is_finite()) {
        return Err(refuse("coefficients", "at least one triple of finite numbers", format!("{triples:?}")));
    }
    if steps + options.safe_steps > 100 {
        return Err(refuse("steps", "at most 100 in all", (steps + options.safe_steps).to_string()));
    }
    if !(options.epsilon >= 0.0 && narrow(options.epsilon).is_finite()) {
        return Err(refuse("epsilon", "a finite number >= 0", options.epsilon.to_string()));
    }
    let list = (0..steps).map(|i| triples[i.min(triples.len() - 1)]).chain(std::iter::repeat_n(SAFE, options.safe_steps));
    let list: Vec<[f64; 3]> = list.collect();

    let shape = Shape::new(Recorder::batch_of(&[x]), x.rows(), x.cols());
    let (from, to) = (r.scratch("polar.x", shape)?, r.scratch("polar.next", shape)?);
    unit_norm(r, x, from, to, narrow(margin), narrow(options.epsilon))?;
    if options.precision == Precision::F16 { in_halves(r, from, to, &list) } else { by_phases(r, from, to, &list) }
}

/// `from = x / (margin ||x||_F + epsilon)`; `to` is overwritten.
fn unit_norm(r: &mut Recorder, x: Value, from: Value, to: Value, margin: f32, epsilon: f32) -> Result<()> {
    if x.rows() * x.cols() <= WHOLE {
        return r.record(Normalise { x, out: from, margin, epsilon });
    }
    let size = r.reduce(ReduceKind::MaxAbs, 1.0, x)?;
    let unit = r.quotient(1.0, None, size, false)?;
    r.record(Axpby { alpha: Coef::column(0), block: Some(unit), ..Axpby::copy(x, to) })?;
    let square = r.reduce(ReduceKind::SumSq, 1.0, to)?;
    let norm = r.quotient(1.0, Some(square), square, true)?;
    let norm = r.axpby(1.0, norm, epsilon, unit)?;
    let inverse = r.quotient(1.0 / margin, None, norm, false)?;
    r.record(Axpby { alpha: Coef::column(0), block: Some(inverse), ..Axpby::copy(to, from) })
}

/// Scratch of the order of the smaller side.
fn square(r: &mut Recorder, name: &str, x: Value) -> Result<Value> {
    let order = x.rows().min(x.cols());
    r.scratch(name, Shape::new(x.items(), order, order))
}

/// `A`: the product of `x` with its transpose that is of the smaller side's order.
fn gram_of(x: Value, out: Value) -> Gemm {
    if x.rows() > x.cols() { Gemm::symmetric(x.t(), x, out) } else { Gemm::symmetric(x, x.t(), out) }
}

/// `out = q x`, or `x q` where the columns are fewer; `q` is symmetric.
fn applied(q: Value, x: Value, out: Value) -> Gemm {
    if x.rows() > x.cols() { Gemm::new(x, q, out) } else { Gemm::new(q, x, out) }
}

/// `out = b A + c A^2`; `operand` is `gram`, or `gram` rounded to halves.
fn quadratic(operand: Value, gram: Value, [_, b, c]: [f32; 3], out: Value) -> Gemm {
    Gemm { alpha: Coef::Const(c), beta: Coef::Const(b), d: Some(gram), ..Gemm::symmetric(operand, operand, out) }
}

/// With operands rounded to halves: `X <- a X + (b A + c A^2) X`, so that the largest term is not.
fn in_halves(r: &mut Recorder, mut from: Value, mut to: Value, list: &[[f64; 3]]) -> Result<Value> {
    let (gram, polynomial) = (square(r, "polar.gram", from)?, square(r, "polar.polynomial", from)?);
    let mut half = |name: &str, like: Value| r.declare(name.into(), like.shape(), ElementType::F16, Role::Scratch);
    let (x16, gram16, polynomial16) = (half("polar.x16", from)?, half("polar.gram16", gram)?, half("polar.polynomial16", gram)?);
    for triple in list.iter().map(|triple| triple.map(narrow)) {
        r.record(Convert { x: from, out: x16 })?;
        r.record(gram_of(x16, gram))?;
        r.record(Convert { x: gram, out: gram16 })?;
        r.record(quadratic(gram16, gram, triple, polynomial))?;
        r.record(Convert { x: polynomial, out: polynomial16 })?;
        r.record(Gemm { d: Some(from), beta: Coef::Const(triple[0]), ..applied(polynomial16, x16, to) })?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(from)
}

/// Several steps between two products of the longer side, or one; everything in between is a polynomial of the first `A`, hence symmetric.
fn by_phases(r: &mut Recorder, mut from: Value, mut to: Value, list: &[[f64; 3]]) -> Result<Value> {
    let phases = phases(list, from);
    let (gram, mut q) = (square(r, "polar.gram", from)?, square(r, "polar.transform", from)?);
    let (mut spare, mut product, mut polynomial) = (q, q, q);
    if phases.iter().any(|phase| phase.len() > 1) {
        spare = square(r, "polar.next_transform", from)?;
        (product, polynomial) = (square(r, "polar.product", from)?, square(r, "polar.polynomial", from)?);
    }
    for phase in phases {
        r.record(gram_of(from, gram))?;
        for (i, triple) in phase.iter().map(|triple| triple.map(narrow)).enumerate() {
            let p = if i == 0 { q } else { polynomial };
            r.record(Gemm { gamma: Coef::Const(triple[0]), ..quadratic(gram, gram, triple, p) })?;
            if i > 0 {
                r.record(Gemm::symmetric(p, q, spare))?;
                std::mem::swap(&mut q, &mut spare);
            }
            if i + 1 < phase.len() {
                r.record(Gemm::symmetric(p, gram, product))?;
                r.record(Gemm::symmetric(p, product, gram))?;
            }
        }
        r.record(applied(q, from, to))?;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(from)
}

/// The steps that go together for a matrix like `x`: rounding of `A` at its small eigenvalues, which a step multiplies by `a^2`, grows by no more than the bounds before the last.
fn phases(list: &[[f64; 3]], x: Value) -> Vec<&[[f64; 3]]> {
    let (small, large) = (x.rows().min(x.cols()), x.rows().max(x.cols()));
    if large < WIDE * small {
        return list.chunks(1).collect();
    }
    let (mut phases, mut start, mut growth, mut most) = (Vec::new(), 0, 1.0, FIRST_GROWTH);
    for (i, [a, ..]) in list.iter().enumerate() {
        let own = (a * a).max(1.0);
        if i > start && (growth > most || own > ALONE) {
            phases.push(&list[start..i]);
            (start, growth, most) = (i, 1.0, LATER_GROWTH);
        }
        growth *= if own > ALONE { f64::INFINITY } else { own };
    }
    if start < list.len() {
        phases.push(&list[start..]);
    }
    phases
}

#[allow(clippy::cast_possible_truncation, reason = "coefficients are rounded to the precision of the arithmetic")]
fn narrow(x: f64) -> f32 {
    x as f32
}
