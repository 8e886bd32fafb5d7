//! What became of each layer and trial.

use crate::plan::block;

/// A report on every parameter, read when the user asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// One entry a parameter, group by group, in the order in which they were added.
    pub parameters: Vec<ParameterHealth>,
}

/// A report on one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterHealth {
    /// The parameter's name.
    pub name: String,
    /// One entry a trial.
    pub trials: Vec<TrialHealth>,
}

/// A report on one trial of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrialHealth {
    /// Steps applied.
    pub steps: u64,
    /// Gradients (or taps) refused because they were not finite, or above 1e18 in magnitude.
    pub skipped: u64,
    /// Refreshes whose factorization failed; with [`Muon`](super::Muon), directions left out because they were not finite.
    pub failed_roots: u64,
    /// Directions dropped because they overflowed; the layer moved by momentum and decay alone.
    pub failed_directions: u64,
    /// Current multiplier of the damping: 1, or more after failures (tenfold each, at most 1e8; a success takes a factor of ten back).
    pub ridge: f32,
    /// Current damping: the setting times `ridge` and, with [`Kfac::adaptation`](super::Kfac::adaptation), what that has found; 0 for methods without.
    pub damping: f32,
    /// Learning rate of the last step, schedule included.
    pub learning_rate: f32,
    /// Residual `max |M - I|` of the roots in force, the largest of the layer's; [`Shampoo`](super::Shampoo) by Newton's iteration, else 0.
    pub root_residual: f32,
    /// Iterations that these roots took, the most of the layer's; as `root_residual`.
    pub root_iterations: u64,
    /// Largest eigenvalue of the statistics under the roots in force, the largest of the layer's; [`Shampoo`](super::Shampoo), else 0.
    pub largest_eigenvalue: f32,
    /// `|W_new - W| / |W|` (Frobenius) of the last step, 0 if it was refused; in groups with [`Group::track_updates`](super::Group::track_updates), else 0.
    pub update_ratio: f32,
}

impl Health {
    /// True if no gradient was refused, no factorization failed and no direction was dropped.
    pub fn is_good(&self) -> bool {
        self.parameters.iter().flat_map(|p| &p.trials).all(|t| t.skipped == 0 && t.failed_roots == 0 && t.failed_directions == 0)
    }

    /// The report on the parameter of this name.
    pub fn parameter(&self, name: &str) -> Option<&ParameterHealth> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

impl TrialHealth {
    /// From a block row.
    pub(crate) fn of(row: &[f32]) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters: whole numbers from 0 to 2^24")]
        let count = |column: u32| row[column as usize] as u64;
        TrialHealth {
            steps: count(block::STEP),
            skipped: count(block::SKIPPED),
            failed_roots: count(block::FAILED_ROOTS),
            failed_directions: count(block::FAILED_DIRECTIONS),
            ridge: row[block::RIDGE as usize],
            damping: row[block::DAMPING as usize] * row[block::RIDGE as usize] * row[block::DAMPING_SCALE as usize],
            learning_rate: row[block::CURRENT_RATE as usize],
            root_residual: row[block::RESIDUAL as usize],
            root_iterations: count(block::ITERATIONS),
            largest_eigenvalue: row[block::LARGEST_EIGENVALUE as usize],
            update_ratio: row[block::UPDATE_RATIO as usize],
        }
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for parameter in &self.parameters {
            for (trial, t) in parameter.trials.iter().enumerate() {
                writeln!(
                    f,
                    "{}[{trial}]: {} steps, {} refused gradients, {} failed roots, {} dropped directions, ridge {}, damping {}, learning rate {}",
                    parameter.name, t.steps, t.skipped, t.failed_roots, t.failed_directions, t.ridge, t.damping, t.learning_rate
                )?;
            }
        }
        Ok(())
    }
}
