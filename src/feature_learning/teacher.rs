//! The problem of one seed, drawn on the host in f64: targets, covariances, initial weights.

use faer::Mat;

use crate::rng::Philox;

/// Philox task number of teachers; data use others.
const TEACHER: u32 = 2;

/// One seed's problem. Every tensor has its own Philox stream, so it depends on the seed and the sizes alone: the same at every anisotropy.
#[derive(Clone, Debug)]
pub struct Teacher {
    representation: Mat<f64>,
    heads: [Mat<f64>; 2],
    bases: [Mat<f64>; 2],
    initial_head: Mat<f64>,
    initial_representation: Mat<f64>,
}

/// Which of the two tasks, in data and covariance. They share `G_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The training task.
    Train = 0,
    /// The transfer task.
    Transfer = 1,
}

fn gaussian(seed: u32, stream: u32, rows: usize, cols: usize) -> Mat<f64> {
    let values = Philox { key: [seed, TEACHER] }.normals_f64(0, stream, rows * cols);
    Mat::from_fn(rows, cols, |r, c| values[r * cols + c])
}

/// Rows orthonormalised in order by Gram-Schmidt, twice: the QR factor of `x^T` with positive diagonal R, Haar distributed for a Gaussian `x`.
fn orthonormal_rows(mut x: Mat<f64>) -> Mat<f64> {
    for r in 0..x.nrows() {
        for _ in 0..2 {
            for s in 0..r {
                let dot: f64 = (0..x.ncols()).map(|c| x[(r, c)] * x[(s, c)]).sum();
                for c in 0..x.ncols() {
                    x[(r, c)] -= dot * x[(s, c)];
                }
            }
        }
        let norm = (0..x.ncols()).map(|c| x[(r, c)].powi(2)).sum::<f64>().sqrt();
        for c in 0..x.ncols() {
            x[(r, c)] /= norm;
        }
    }
    x
}

/// How the eigenvalues of an input covariance lie between the largest and the smallest. Their sum is the dimension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spectrum {
    /// Each a fixed factor below the one before.
    #[default]
    LogSpaced,
    /// The first half (rounded up) equal, and the rest.
    TwoLevel,
    /// Proportional to `i^(-a)`, i from 1.
    PowerLaw,
}

impl Spectrum {
    /// The name in tables, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Spectrum::LogSpaced => "log_spaced",
            Spectrum::TwoLevel => "two_level",
            Spectrum::PowerLaw => "power_law",
        }
    }

    /// `d` eigenvalues with ratio `kappa` from largest to smallest and sum `d`.
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    pub fn eigenvalues(self, d: usize, kappa: f64) -> Vec<f64> {
        let below = |i: usize| match self {
            Spectrum::LogSpaced => i as f64 / (d.max(2) - 1) as f64,
            Spectrum::TwoLevel if i < d.div_ceil(2) => 0.0,
            Spectrum::TwoLevel => 1.0,
            Spectrum::PowerLaw => ((i + 1) as f64).ln() / (d.max(2) as f64).ln(),
        };
        let raw: Vec<f64> = (0..d).map(|i| kappa.powf(-below(i))).collect();
        let scale = d as f64 / raw.iter().sum::<f64>();
        raw.into_iter().map(|x| scale * x).collect()
    }
}

/// `d` eigenvalues, log-spaced with ratio `kappa` from largest to smallest, with sum `d`.
pub fn log_spaced_spectrum(d: usize, kappa: f64) -> Vec<f64> {
    Spectrum::LogSpaced.eigenvalues(d, kappa)
}

impl Teacher {
    /// Draws the problem of `seed`: `G_*` Haar, `F_*` iid N(0, 1) for each task, covariance bases `U` Haar for each task, `G_0` Haar, `F_0` iid N(0, 1/k).
    ///
    /// With `head_condition`, `F_*` has singular values log-spaced with that ratio, Haar singular vectors, and the Frobenius norm `sqrt(dY k)` of the Gaussian.
    #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
    pub fn draw(seed: u32, d_x: usize, d_y: usize, k: usize, head_condition: Option<f64>) -> Self {
        let haar = |stream, rows, cols| orthonormal_rows(gaussian(seed, stream, rows, cols));
        let head = |stream: u32| match head_condition {
            None => gaussian(seed, stream, d_y, k),
            Some(condition) => {
                let squares = log_spaced_spectrum(k, condition * condition);
                let (left, right) = (haar(stream, k, d_y), haar(stream + 16, k, k));
                Mat::from_fn(d_y, k, |r, c| (0..k).map(|i| left[(i, r)] * (d_y as f64 * squares[i]).sqrt() * right[(i, c)]).sum())
            }
        };
        Teacher {
            representation: haar(0, k, d_x),
            heads: [head(1), head(2)],
            bases: [haar(3, d_x, d_x), haar(4, d_x, d_x)],
            initial_representation: haar(5, k, d_x),
            initial_head: {
                let raw = gaussian(seed, 6, d_y, k);
                Mat::from_fn(d_y, k, |r, c| raw[(r, c)] / (k as f64).sqrt())
            },
        }
    }

    /// `G_*`, `[k, dX]`, orthonormal rows.
    pub fn representation(&self) -> Vec<f32> {
        row_major(&self.representation)
    }

    /// `F_*` of a task, `[dY, k]`.
    pub fn head(&self, side: Side) -> Vec<f32> {
        row_major(&self.heads[side as usize])
    }

    /// `M_* = F_* G_*` of a task, `[dY, dX]`.
    pub fn target(&self, side: Side) -> Vec<f32> {
        row_major(&(&self.heads[side as usize] * &self.representation))
    }

    /// `Sigma^{1/2}` of a task, `[dX, dX]`: `U diag(lambda)^{1/2} U^T` with a log-spaced spectrum of ratio `kappa` and trace dX; `U = I` unless `rotated`.
    pub fn covariance_root(&self, side: Side, kappa: f64, rotated: bool) -> Vec<f32> {
        row_major(&self.covariance_root_f64(side, kappa, rotated))
    }

    /// `Sigma^{1/2}` of a task with these eigenvalues, `[dX, dX]`: `U diag(eigenvalues)^{1/2} U^T`; `U = I` unless `rotated`.
    pub fn covariance_root_of(&self, side: Side, eigenvalues: &[f64], rotated: bool) -> Vec<f32> {
        row_major(&self.root_f64(side, eigenvalues, rotated))
    }

    pub(super) fn representation_f64(&self) -> &Mat<f64> {
        &self.representation
    }

    pub(super) fn head_f64(&self, side: Side) -> &Mat<f64> {
        &self.heads[side as usize]
    }

    pub(super) fn covariance_root_f64(&self, side: Side, kappa: f64, rotated: bool) -> Mat<f64> {
        self.root_f64(side, &log_spaced_spectrum(self.bases[0].nrows(), kappa), rotated)
    }

    fn root_f64(&self, side: Side, eigenvalues: &[f64], rotated: bool) -> Mat<f64> {
        let basis = &self.bases[side as usize];
        let d = basis.nrows();
        let roots: Vec<f64> = eigenvalues.iter().map(|x| x.sqrt()).collect();
        if !rotated {
            return Mat::from_fn(d, d, |r, c| if r == c { roots[r] } else { 0.0 });
        }
        let scaled = Mat::from_fn(d, d, |r, c| roots[r] * basis[(r, c)]);
        basis.transpose() * &scaled
    }

    /// `G_0`, `[k, dX]`, orthonormal rows.
    pub fn initial_representation(&self) -> Vec<f32> {
        row_major(&self.initial_representation)
    }

    /// `F_0`, `[dY, k]`.
    pub fn initial_head(&self) -> Vec<f32> {
        row_major(&self.initial_head)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
fn row_major(x: &Mat<f64>) -> Vec<f32> {
    (0..x.nrows()).flat_map(|r| (0..x.ncols()).map(move |c| x[(r, c)] as f32)).collect()
}
