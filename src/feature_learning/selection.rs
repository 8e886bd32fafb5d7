//! How a learning rate is chosen, and what a study reports.

use super::experiment::Record;
use super::method::Method;

/// One learning rate of one method at one anisotropy: final metrics over seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The method.
    pub method: Method,
    /// Condition number of the covariances.
    pub kappa: f64,
    /// Base learning rate.
    pub learning_rate: f64,
    /// Final records, one a seed, in order of seeds.
    pub finals: Vec<Record>,
}

/// Geometric mean; NaN for no values.
#[allow(clippy::cast_precision_loss, reason = "seed counts are far below 2^52")]
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), x| (sum + x.ln(), count + 1));
    (sum / count as f64).exp()
}

impl Outcome {
    /// True where every seed ended sound: nothing refused, everything finite.
    pub fn is_sound(&self) -> bool {
        self.finals.iter().all(|f| f.measured.is_sound())
    }

    /// Seeds that diverged or froze.
    pub fn unsound(&self) -> usize {
        self.finals.iter().filter(|f| !f.measured.is_sound()).count()
    }

    /// Geometric mean of the final population train excess.
    pub fn train_excess(&self) -> f64 {
        geometric_mean(self.finals.iter().map(|f| f.measured.train_excess))
    }

    /// Geometric mean of the final subspace distance.
    pub fn subspace_distance(&self) -> f64 {
        geometric_mean(self.finals.iter().map(|f| f.measured.subspace_distance))
    }

    /// Geometric mean of the final transfer excess.
    pub fn transfer_excess(&self) -> f64 {
        geometric_mean(self.finals.iter().map(|f| f.measured.transfer_excess))
    }
}

/// Final outcomes of every (method, anisotropy, learning rate), in order of first appearance.
pub fn outcomes(records: &[Record]) -> Vec<Outcome> {
    let mut list: Vec<Outcome> = Vec::new();
    let last = records.iter().map(|r| r.step).max().unwrap_or(0);
    for record in records.iter().filter(|r| r.step == last) {
        let same = |o: &&mut Outcome| (o.method, o.kappa, o.learning_rate) == (record.method, record.kappa, record.learning_rate);
        match list.iter_mut().find(same) {
            Some(outcome) => outcome.finals.push(*record),
            None => {
                let Record { method, kappa, learning_rate, .. } = *record;
                list.push(Outcome { method, kappa, learning_rate, finals: vec![*record] });
            }
        }
    }
    list
}

/// By what a learning rate is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Criterion {
    /// The geometric mean over seeds of the final population train excess: what a practitioner could do.
    TrainExcess,
    /// The geometric mean of the final transfer excess: an oracle, to be reported separately.
    TransferExcess,
}

/// The best sound outcome of `method` at `kappa`; `None` where every learning rate has a seed that diverged or froze.
pub fn select(outcomes: &[Outcome], method: Method, kappa: f64, criterion: Criterion) -> Option<&Outcome> {
    let score = |o: &Outcome| match criterion {
        Criterion::TrainExcess => o.train_excess(),
        Criterion::TransferExcess => o.transfer_excess(),
    };
    outcomes.iter().filter(|o| o.method == method && o.kappa == kappa && o.is_sound()).min_by(|a, b| score(a).total_cmp(&score(b)))
}
