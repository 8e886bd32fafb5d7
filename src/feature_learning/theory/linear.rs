//! Population rates and noise floors of the linear model.
//!
//! Population means infinite batches: `dL/dG = F^T (F G - M_*) Sigma`. Let `P_perp = I - G_*^T G_*`, so that `M_* P_perp = 0`.

use faer::{Mat, Side as Triangle};

use super::super::teacher::{Side, Teacher};
use crate::error::{Error, Result};

/// Factor by which one population step of KFAC multiplies `G P_perp`, for every covariance and every head of full column rank: `1 - learning_rate`.
///
/// Undamped, `G_+ = (1 - eta) G + eta F^+ M_*`. No condition number appears.
pub fn kfac_contraction(learning_rate: f64) -> f64 {
    1.0 - learning_rate
}

/// Expected loss of the target itself: `dY sigma^2/2`.
#[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
pub fn noise_floor(d_y: usize, noise: f64) -> f64 {
    0.5 * d_y as f64 * noise * noise
}

/// Transfer excess of the true representation with a least-squares head on `samples` samples, to leading order: `1/2 sigma^2 dY k / n`.
#[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
pub fn transfer_floor(d_y: usize, k: usize, noise: f64, samples: usize) -> f64 {
    noise_floor(d_y, noise) * k as f64 / samples as f64
}

/// Scale of KFAC's stationary subspace distance: `sqrt(eta/(2 - eta)) sigma / (sigma_min(F_*) lambda_min^{1/2}) sqrt(dX/n)`.
///
/// An order of magnitude, not a constant: conditioning enters the floor and never the rate, and the floor is linear in the noise.
#[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
pub fn kfac_floor_scale(learning_rate: f64, noise: f64, smallest_head: f64, smallest_covariance: f64, d_x: usize, samples: usize) -> f64 {
    let averaging = (learning_rate / (2.0 - learning_rate)).sqrt();
    averaging * noise / (smallest_head * smallest_covariance.sqrt()) * (d_x as f64 / samples as f64).sqrt()
}

/// The modes of population AMGD near the target.
///
/// With `G = G_* + E`, `E = E P_perp` small and the head optimal, one step is `E_+ = E - eta (F^T F) E Sigma_c`, where
/// `Sigma_c = P_perp [Sigma - Sigma G_*^T (G_* Sigma G_*^T)^{-1} G_* Sigma] P_perp` is the covariance of the off-subspace part of `x` given `G_* x`.
/// So the mode of the i-th eigenvector of `F^T F` and the j-th of `Sigma_c` contracts by `1 - eta s_i lambda_j`.
#[derive(Clone, Debug)]
pub struct AmgdModes {
    /// Eigenvalues of `F^T F`, ascending.
    pub head: Vec<f64>,
    /// The `dX - k` eigenvalues of `Sigma_c` off the subspace, ascending.
    pub covariance: Vec<f64>,
    /// Unit eigenvector of `F^T F` for its smallest eigenvalue.
    pub weakest_head: Vec<f64>,
    /// Unit eigenvector of `Sigma_c` for the smallest of [`covariance`](Self::covariance).
    pub weakest_input: Vec<f64>,
}

impl AmgdModes {
    /// Modes around the target of `teacher` on one task.
    ///
    /// # Errors
    /// [`Error::Config`] where `dX = k` (there is nothing off the subspace) or an eigendecomposition does not converge.
    pub fn new(teacher: &Teacher, side: Side, kappa: f64, rotated: bool) -> Result<Self> {
        let (g, f) = (teacher.representation_f64(), teacher.head_f64(side));
        let root = teacher.covariance_root_f64(side, kappa, rotated);
        let sigma = &root * &root;
        let (k, d) = (g.nrows(), g.ncols());
        if d == k {
            return Err(config("d_x", d.to_string(), "above k"));
        }
        let project = |x: &Mat<f64>| x - &(&(x * g.transpose()) * g);
        let cross = g * &sigma;
        // Sigma - Sigma G^T (G Sigma G^T)^{-1} G Sigma, by the Cholesky factor of the k x k block.
        let inner = &cross * g.transpose();
        let (values, vectors) = eigen(&inner)?;
        let scaled = Mat::from_fn(k, d, |r, c| (0..k).map(|i| vectors[(i, r)] * cross[(i, c)]).sum::<f64>() / values[r].sqrt());
        let conditional = &sigma - &(scaled.transpose() * &scaled);
        let half = project(&conditional);
        let sigma_c = project(&half.transpose().to_owned());
        let (covariance, inputs) = eigen(&sigma_c)?;
        let (head, heads) = eigen(&(f.transpose() * f))?;
        // The subspace itself gives k zeros, the smallest eigenvalues of a positive semi-definite matrix.
        Ok(AmgdModes {
            weakest_head: (0..k).map(|i| heads[(i, 0)]).collect(),
            weakest_input: (0..d).map(|i| inputs[(i, k)]).collect(),
            head,
            covariance: covariance[k..].to_vec(),
        })
    }

    fn extremes(values: &[f64]) -> (f64, f64) {
        (values.first().copied().unwrap_or(f64::NAN), values.last().copied().unwrap_or(f64::NAN))
    }

    /// `cond(F^T F) cond(Sigma_c)`.
    pub fn condition(&self) -> f64 {
        let ((s0, s1), (l0, l1)) = (Self::extremes(&self.head), Self::extremes(&self.covariance));
        s1 / s0 * (l1 / l0)
    }

    /// `2 / (s_1 lambda_1)`: constant steps above it diverge.
    pub fn largest_stable_rate(&self) -> f64 {
        2.0 / (Self::extremes(&self.head).1 * Self::extremes(&self.covariance).1)
    }

    /// Contraction of the weakest mode, `1 - eta s_k lambda_min`.
    pub fn weakest_contraction(&self, learning_rate: f64) -> f64 {
        1.0 - learning_rate * Self::extremes(&self.head).0 * Self::extremes(&self.covariance).0
    }

    /// Largest `|1 - eta s_i lambda_j|`: the asymptotic rate from a general start.
    pub fn contraction(&self, learning_rate: f64) -> f64 {
        let strongest = 1.0 - learning_rate * Self::extremes(&self.head).1 * Self::extremes(&self.covariance).1;
        self.weakest_contraction(learning_rate).abs().max(strongest.abs())
    }

    /// `(kappa - 1)/(kappa + 1)` with [`condition`](Self::condition): no constant step does better.
    pub fn best_contraction(&self) -> f64 {
        let kappa = self.condition();
        (kappa - 1.0) / (kappa + 1.0)
    }
}

/// Eigenvalues, ascending, and eigenvectors in columns of a symmetric matrix.
fn eigen(a: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let decomposition =
        a.self_adjoint_eigen(Triangle::Lower).map_err(|e| config("covariance", format!("{e:?}"), "a matrix with an eigendecomposition"))?;
    let values = decomposition.S().column_vector();
    Ok(((0..a.nrows()).map(|i| values[i]).collect(), decomposition.U().to_owned()))
}

fn config(field: &'static str, found: String, allowed: &'static str) -> Error {
    Error::Config { method: "AmgdModes", field, found, allowed }
}
