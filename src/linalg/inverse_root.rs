//! Inverse p-th roots of symmetric positive semidefinite matrices.

use super::normalise::{self, column, finish, largest_eigenvalue, normalise};
use crate::error::{Error, Result};
use crate::plan::control::{ACTIVE, COMMIT, LAMBDA, MEASURE, NORMAL, ROOT, SCALE, SHIFT, STEPS, UNSCALE};
use crate::plan::{Axpby, Coef, EIGH_SINGLE_MAX, Gemm, KronFactor, Order, Recorder, Reduce, ReduceKind, SpectrumScale, Stage, Value};
use crate::tensor::Shape;

/// What is added to the diagonal before the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ridge {
    /// This much.
    Absolute(Coef),
    /// This much times the item's largest eigenvalue.
    Relative(Coef),
}

/// How the root is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Method {
    /// [`Eigen`](Method::Eigen) where one workgroup holds a matrix (n up to 44), [`Newton`](Method::Newton) beyond. A function of the shape alone, but
    /// in an [`Optimizer`](crate::optim::Optimizer) on the CPU path, which takes eigenvalues at every order: from n = 100 on they take less time than
    /// Newton on well-conditioned matrices and a fraction of it on others (docs/accuracy.md in the repository). A plan knows no device, and results must not depend on
    /// the batch: so the bound is a constant, whatever a device's workgroup holds. `cargo bench --bench refresh -- 'inverse_root 4'` times both ways by batch and order
    /// on one's own device; whoever finds the other one faster there asks for it by name.
    #[default]
    Auto,
    /// Eigenvalues, clamped at 0 before the ridge is added. f64 inside on the CPU path.
    Eigen,
    /// Coupled Newton: products alone.
    Newton,
}

/// Options of [`inverse_root`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InverseRootOptions {
    /// Default: 1e-6 relative, the reference's (google-research/precondition).
    pub ridge: Ridge,
    /// Read by a column ridge, `[batch, 1, H]`. Default: none.
    pub block: Option<Value>,
    /// Default: [`Method::Auto`].
    pub method: Method,
    /// Bound on Newton's iterations, default 26: a condition of 1e6 takes 20 to 25 for p = 1, fewer for larger p; well-conditioned items leave after a few.
    pub iterations: usize,
}

impl Default for InverseRootOptions {
    fn default() -> Self {
        InverseRootOptions { ridge: Ridge::Relative(Coef::Const(1e-6)), block: None, method: Method::Auto, iterations: 26 }
    }
}

/// `(a + ridge I)^(-1/p)` of symmetric positive semidefinite items `[n, n]`, p from 1 to 8; returns `(root, ok)`.
///
/// The symmetric part counts. The matrix is scaled by an exact power of two, so that only its shape matters, from 1e-37 to 1e37.
///
/// **Newton** (matmul only, the coupled form): `M = z (a + ridge I)`, `X = z^(1/p) I` with `z` just below `(p + 1) / (2 lambda_max)`, then
/// `B = (1 + 1/p) I - M / p`, `X <- X B`, `M <- B^p M`, both kept symmetric by averaging. An item leaves when `max |M - I|` is below 3e-7 or stalls; a step that
/// makes it grow by more than a fifth is dropped; `ok` asks for at most 0.1 in the end, and a finite root. Each iteration costs `(4 to 7) n^3` flops.
///
/// **Eigen**: [`Eigh`](crate::plan::Eigh), then `V diag((max(lambda, 0) + ridge)^(-1/p)) V^T`, one triangle computed.
///
/// In f32 the relative error (Frobenius) is at most `4 u kappa / p`, `kappa` the condition after the ridge and `u = 2^-24`, and no less than 16 u
/// (p = 1, 2, 4 and n up to 1024; docs/accuracy.md in the repository has what was measured).
/// `ok` is 0 for a matrix that is not finite, zero without an absolute ridge, or clearly indefinite (Newton); the root of such an item is meaningless.
///
/// ```
/// use layerwise::linalg::{InverseRootOptions, Ridge, inverse_root};
/// use layerwise::{Coef, Recorder, Shape};
/// let mut r = Recorder::new();
/// let a = r.external("a", Shape::new(3, 64, 64))?;
/// let options = InverseRootOptions { ridge: Ridge::Relative(Coef::Const(1e-4)), ..Default::default() };
/// let (root, ok) = inverse_root(&mut r, a, 4, &options)?;
/// assert_eq!((root.shape(), ok.shape()), (Shape::new(3, 64, 64), Shape::new(3, 1, 1)));
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] where `a` is not square, [`Error::Config`] for a p or a number of iterations out of range, or a constant ridge that is negative.
pub fn inverse_root(r: &mut Recorder, a: Value, p: u32, options: &InverseRootOptions) -> Result<(Value, Value)> {
    let found = find(r, a, p, options)?;
    Ok((found.root, found.ok))
}

/// As [`inverse_root`], and a report of each item, `[batch, 1, 3]`: residual `max |M - I|` and kept iterations (Newton; 0 by eigenvalues), and the largest
/// eigenvalue before the ridge (0 where that is not finite).
pub(crate) fn inverse_root_reported(r: &mut Recorder, a: Value, p: u32, options: &InverseRootOptions) -> Result<(Value, Value, Value)> {
    let found = find(r, a, p, options)?;
    let report = r.scratch("inverse_root.report", Shape::new(found.control.items(), 1, 3))?;
    let weight = Coef::Const(if found.newton { 1.0 } else { 0.0 });
    for (i, measured) in [MEASURE, STEPS].into_iter().enumerate() {
        r.record(Axpby { alpha: weight, ..Axpby::copy(column(found.control, measured)?, report.col_range(i..i + 1)?) })?;
    }
    let largest = r.quotient(1.0, Some(found.top), column(found.control, NORMAL)?, false)?;
    r.copy(largest, report.col_range(2..3)?)?;
    Ok((found.root, found.ok, report))
}

/// A root with what was learned on the way.
struct Found {
    root: Value,
    ok: Value,
    control: Value,
    /// Largest eigenvalue of the normalised matrix.
    top: Value,
    newton: bool,
}

fn find(r: &mut Recorder, a: Value, p: u32, options: &InverseRootOptions) -> Result<Found> {
    let refuse = |field, allowed, found| Error::Config { method: "inverse_root", field, found, allowed };
    if !(1..=8).contains(&p) {
        return Err(refuse("p", "1 to 8", p.to_string()));
    }
    if !(1..=100).contains(&options.iterations) {
        return Err(refuse("iterations", "1 to 100", options.iterations.to_string()));
    }
    let (coef, relative) = match options.ridge {
        Ridge::Absolute(coef) => (coef, false),
        Ridge::Relative(coef) => (coef, true),
    };
    if let Coef::Const(c) = coef
        && !(c >= 0.0 && c.is_finite())
    {
        return Err(refuse("ridge", "0 or more", c.to_string()));
    }
    let ridge = normalise::Ridge { coef, relative, block: options.block };
    let (scaled, control) = normalise(r, a, p, &ridge)?;
    let eigen = match options.method {
        Method::Auto => r.is_for_host() || a.rows() <= EIGH_SINGLE_MAX,
        Method::Eigen => true,
        Method::Newton => false,
    };
    if eigen { by_eigenvalues(r, scaled, p, &ridge, control) } else { by_newton(r, scaled, p, &ridge, control, options.iterations) }
}

fn by_eigenvalues(r: &mut Recorder, a: Value, p: u32, ridge: &normalise::Ridge, control: Value) -> Result<Found> {
    let n = a.rows();
    let shape = Shape::new(a.items(), n, n);
    let (values, vectors) = r.eigh(a, Order::Ascending)?;
    // A GPU's thousands of rotations round; the CPU path's vectors were rounded once.
    let vectors = if r.is_for_host() { vectors } else { normalise::reorthogonalise(r, vectors)? };
    let top = values.col_range(n - 1..n)?;
    r.record(ridge.control(Stage::Start, p, top, control))?;
    let half = r.scratch("inverse_root.half", shape)?;
    let (shift, block) = (Coef::column(LAMBDA), Some(control));
    r.record(SpectrumScale { x: vectors, values, shift, exponent: 2 * p, out: half, block })?;
    let (product, root) = (r.scratch("inverse_root.product", shape)?, r.scratch("inverse_root", shape)?);
    r.record(KronFactor { scale: n as f32, ..KronFactor::new(half.t(), product) })?;
    r.record(Axpby { alpha: Coef::column(UNSCALE), block, ..Axpby::copy(product, root) })?;
    let ok = finish(r, control, root, f32::MAX)?;
    Ok(Found { root, ok, control, top, newton: false })
}

fn by_newton(r: &mut Recorder, a: Value, p: u32, ridge: &normalise::Ridge, control: Value, iterations: usize) -> Result<Found> {
    let n = a.rows();
    let shape = Shape::new(a.items(), n, n);
    let top = largest_eigenvalue(r, a, control)?;
    r.record(ridge.control(Stage::Start, p, top, control))?;
    let block = Some(control);
    let [m, root, b, next_m, next_root] =
        ["m", "root", "b", "next_m", "next_root"].map(|name| r.scratch(format!("inverse_root.{name}"), shape));
    let (m, root, b, next_m, next_root) = (m?, root?, b?, next_m?, next_root?);
    let spare = [r.scratch("inverse_root.power", shape)?, r.scratch("inverse_root.product", shape)?];
    let gap = r.scratch("inverse_root.gap", Shape::new(a.items(), 1, 1))?;
    r.record(Axpby { alpha: Coef::column(SCALE), gamma: Coef::column(SHIFT), block, ..Axpby::copy(a, m) })?;
    // What a constant zero multiplies is not read: this is ROOT I.
    r.record(Axpby { alpha: Coef::Const(0.0), gamma: Coef::column(ROOT), block, ..Axpby::copy(a, root) })?;
    let (active, commit) = (Some(column(control, ACTIVE)?), Some(column(control, COMMIT)?));
    let gated = |a: Value, b: Value, out: Value| Gemm { block, gate: Some(ACTIVE), ..Gemm::new(a, b, out) };
    let square = |x: Value, out: Value| KronFactor { scale: n as f32, gate: active, ..KronFactor::new(x, out) };
    let inverse = 1.0 / p as f32;
    let half = Coef::Const(0.5);
    for _ in 0..iterations {
        let (alpha, gamma) = (Coef::Const(-inverse), Coef::Const(1.0 + inverse));
        r.record(Axpby { alpha, gamma, gate: active, ..Axpby::copy(m, b) })?;
        r.record(gated(root, b, next_root))?;
        // power = b^(p / 2) from either side of m keeps the product near symmetric; an odd p needs one more b.
        let power = match p / 2 {
            0 => None,
            1 => Some(b),
            h => {
                r.record(square(b, spare[0]))?;
                match h {
                    2 => Some(spare[0]),
                    3 => {
                        r.record(gated(spare[0], b, spare[1]))?;
                        Some(spare[1])
                    }
                    _ => {
                        r.record(square(spare[0], spare[1]))?;
                        Some(spare[1])
                    }
                }
            }
        };
        // The buffers that hold neither operand.
        let other = if power == Some(spare[0]) { spare[1] } else { spare[0] };
        match power {
            None => r.record(gated(m, b, next_m))?,
            Some(power) if p.is_multiple_of(2) => {
                r.record(gated(power, m, other))?;
                r.record(gated(other, power, next_m))?;
            }
            Some(power) => {
                r.record(gated(power, m, next_m))?;
                r.record(gated(next_m, power, other))?;
                r.record(gated(other, b, next_m))?;
            }
        }
        r.reduce_into(Reduce { kind: ReduceKind::IdentityGap, x: next_m, y: None, out: gap, scale: 1.0 })?;
        r.record(ridge.control(Stage::Newton, p, gap, control))?;
        r.record(Axpby { alpha: half, beta: half, gate: commit, ..Axpby::add(next_m, next_m.t(), m) })?;
        r.record(Axpby { alpha: half, beta: half, gate: commit, ..Axpby::add(next_root, next_root.t(), root) })?;
    }
    let ok = finish(r, control, root, 0.1)?;
    Ok(Found { root, ok, control, top, newton: true })
}
