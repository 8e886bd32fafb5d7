//! What is logged: population train excess, subspace distance, transfer excess. Computed on the device, read once per log point.

use super::data::Task;
use super::scheme::{Scheme, least_squares_head};
use super::two_layer::{Batch, TwoLayer};
use crate::error::Result;
use crate::linalg::orthonormalise;
use crate::plan::block::{FAILED_ROOTS, SKIPPED};
use crate::plan::{Axpby, Coef, Gemm, OperatorNorm, Recorder, Reduce, ReduceKind, Value};
use crate::tensor::Shape;

/// Columns of a log row.
pub const COLUMNS: usize = 12;

/// First column of the counts of refused steps.
const REFUSED: usize = 5;

/// One trial at one log point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measurement {
    /// `1/2 ||(F G - M_*) Sigma^{1/2}||_F^2` under the training covariance: the loss above its noise floor `dY sigma^2/2`.
    pub train_excess: f64,
    /// `||Q - Q G_*^T G_*||_op`, `Q` the orthonormalised rows of `G`: the sine of the largest principal angle between both row spaces, in [0, 1].
    pub subspace_distance: f64,
    /// Excess risk under the transfer covariance of `F_hat Q`, `F_hat` the unregularised least-squares head on the transfer samples.
    pub transfer_excess: f64,
    /// Steps of this trial that were refused so far (non-finite gradient, failed factorization).
    pub refused: u32,
}

impl Measurement {
    /// Reads a log row. Metrics that rest on a failed factorization are NaN.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small non-negative integers")]
    pub fn from_row(row: &[f32]) -> Self {
        let [train, distance, transfer, basis_ok, head_ok] = std::array::from_fn(|i| row.get(i).copied().unwrap_or(f32::NAN));
        let valid = |x: f32, ok: bool| if ok { f64::from(x) } else { f64::NAN };
        Measurement {
            train_excess: f64::from(train),
            subspace_distance: valid(distance, basis_ok == 1.0),
            transfer_excess: valid(transfer, basis_ok == 1.0 && head_ok == 1.0),
            refused: row.iter().skip(REFUSED).sum::<f32>() as u32,
        }
    }

    /// True where no step was refused and every metric is finite.
    pub fn is_sound(&self) -> bool {
        self.refused == 0 && self.train_excess.is_finite() && self.subspace_distance.is_finite() && self.transfer_excess.is_finite()
    }
}

/// `distance = ||Q - Q G_*^T G_*||_op` where `basis` (`Q`) has orthonormal rows: the difference itself is formed, so that small distances keep their digits.
///
/// `reference` is `G_*` with orthonormal rows, repeated to the trials. Returns `[trials, 1, 1]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit.
pub fn subspace_distance(r: &mut Recorder, basis: Value, reference: Value, out: Value) -> Result<()> {
    let overlap = r.matmul(basis, reference.t())?;
    let off = r.scratch("off_subspace", Shape::new(basis.items(), basis.rows(), basis.cols()))?;
    r.record(Gemm { alpha: Coef::Const(-1.0), d: Some(basis), ..Gemm::new(overlap, reference, off) })?;
    r.record(OperatorNorm { x: off, out })
}

/// `out = 1/2 ||(F G - M_*) Sigma^{1/2}||_F^2`, the excess risk of `F G` on a task.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit.
pub fn excess_risk(r: &mut Recorder, model: &TwoLayer, head: Value, representation: Value, task: &Task, out: Value) -> Result<()> {
    let error = r.scratch("map_error", Shape::new(model.trials(), head.rows(), representation.cols()))?;
    let target = task.target.repeat(model.sharing(), task.target.items())?;
    r.record(Gemm { d: Some(target), beta: Coef::Const(-1.0), ..Gemm::new(head, representation, error) })?;
    let weighted = model.times_shared(r, error, task.root, Coef::Const(1.0))?;
    r.record(Reduce { kind: ReduceKind::SumSq, x: weighted, y: None, out, scale: 0.5 })
}

/// What trials are judged on.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The training task.
    pub train: &'a Task,
    /// The transfer task.
    pub transfer: &'a Task,
    /// Transfer samples, the same for all trials of a seed and anisotropy.
    pub samples: &'a Batch,
    /// `G_*`, `[seeds, k, dX]`.
    pub reference: Value,
}

/// Records the log row `[trials, 1, COLUMNS]` of every trial. `blocks`, at most three, are those that count refused steps.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) where the operands do not fit.
pub fn record(r: &mut Recorder, scheme: &Scheme, judge: &Judge<'_>, blocks: &[Value], log: Value) -> Result<()> {
    let Judge { train, transfer, samples, reference } = *judge;
    let model = &scheme.model;
    let cell = |column: usize| log.col_range(column..column + 1);
    let evaluated = scheme.evaluated(r)?;
    let representation = evaluated.representation;
    excess_risk(r, model, evaluated.head, representation, train, cell(0)?)?;
    if let Some(offset) = evaluated.offset {
        // Inputs have mean zero, so the offset's part adds up.
        let part = r.reduce(ReduceKind::SumSq, 0.5, offset)?;
        r.record(Axpby { y: Some(cell(0)?), ..Axpby::copy(part, cell(0)?) })?;
    }

    let (basis, basis_ok) = orthonormalise(r, representation)?;
    subspace_distance(r, basis, reference.repeat(model.sharing(), reference.items())?, cell(1)?)?;

    let z = model.hidden(r, basis, samples.x)?;
    let (head, head_ok) = least_squares_head(r, model, z, samples.y)?;
    excess_risk(r, model, head, basis, transfer, cell(2)?)?;

    r.record(Axpby::copy(basis_ok, cell(3)?))?;
    r.record(Axpby::copy(head_ok, cell(4)?))?;
    let counts = blocks.iter().flat_map(|&block| [(block, SKIPPED as usize), (block, FAILED_ROOTS as usize)]);
    for (column, (block, count)) in (REFUSED..COLUMNS).zip(counts) {
        r.record(Axpby::copy(block.col_range(count..count + 1)?, cell(column)?))?;
    }
    Ok(())
}
