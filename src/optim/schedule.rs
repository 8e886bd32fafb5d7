//! Which beats run at a step.

/// One beat of a step of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Beat {
    /// Look for non-finite taps (only where they are about to be used).
    CheckTaps,
    /// Look for non-finite gradients; advance step counters, learning rates, bias corrections.
    Begin,
    /// Take the taps into the statistics.
    Accumulate,
    /// Make new roots for one bucket of layers.
    Refresh(usize),
    /// Make the first bases for those of one bucket of layers that have none ([`Soap`](super::Soap)).
    Start(usize),
    /// Update the weights along the preconditioned direction.
    Apply,
    /// Update the weights along the plain gradient.
    ApplyPlain,
}

/// The cadence of a preconditioned group: a pure function from step to beats.
///
/// Statistics are taken at steps divisible by `statistics_every`. From `start_step` on updates are preconditioned. All buckets are refreshed at
/// `refresh_from`, mostly the same step, afterwards bucket `i` of `n` every `precondition_every` steps with offset `floor(i precondition_every / n)`, so that no step is much
/// slower than another. Buckets are made of whole layers, never of a part of the trials: how trials are grouped must not change results.
///
/// ```
/// use layerwise::optim::{Beat, Schedule};
/// let s = Schedule { statistics_every: 2, precondition_every: 4, start_step: 2, refresh_from: 2, buckets: 2, update_first: false };
/// let at = |step| s.segments(step).collect::<Vec<_>>();
/// assert_eq!(at(0), [Beat::CheckTaps, Beat::Begin, Beat::Accumulate, Beat::ApplyPlain]);
/// assert_eq!(at(1), [Beat::Begin, Beat::ApplyPlain]);
/// assert_eq!(at(2), [Beat::CheckTaps, Beat::Begin, Beat::Accumulate, Beat::Refresh(0), Beat::Refresh(1), Beat::Apply]);
/// assert_eq!(at(3), [Beat::Begin, Beat::Apply]);
/// assert_eq!(at(4), [Beat::CheckTaps, Beat::Begin, Beat::Accumulate, Beat::Refresh(1), Beat::Apply]);
/// assert_eq!(at(6), [Beat::CheckTaps, Beat::Begin, Beat::Accumulate, Beat::Refresh(0), Beat::Apply]);
/// ```
///
/// With `update_first` a step's gradient serves only later steps: the update comes before the statistics and the refresh. The first step has no update; all
/// buckets start there, and once more at their first refresh, for what had no gradient yet.
///
/// ```
/// use layerwise::optim::{Beat, Schedule};
/// let s = Schedule { statistics_every: 1, precondition_every: 4, start_step: 0, refresh_from: 0, buckets: 2, update_first: true };
/// let at = |step| s.segments(step).collect::<Vec<_>>();
/// assert_eq!(at(0), [Beat::Begin, Beat::Accumulate, Beat::Start(0), Beat::Start(1)]);
/// assert_eq!(at(1), [Beat::Begin, Beat::Apply, Beat::Accumulate]);
/// assert_eq!(at(4), [Beat::Begin, Beat::Apply, Beat::Accumulate, Beat::Start(0), Beat::Refresh(0)]);
/// assert_eq!(at(6), [Beat::Begin, Beat::Apply, Beat::Accumulate, Beat::Refresh(1)]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// Steps between two accumulations, at least 1.
    pub statistics_every: u64,
    /// Steps between two refreshes of one bucket, at least 1.
    pub precondition_every: u64,
    /// First step with a preconditioned update.
    pub start_step: u64,
    /// First step with a refresh.
    pub refresh_from: u64,
    /// Buckets of layers.
    pub buckets: usize,
    /// The update precedes statistics and refresh ([`Soap`](super::Soap)).
    pub update_first: bool,
}

impl Schedule {
    /// The beats of step `step` (counted from 0), in order.
    pub fn segments(&self, step: u64) -> impl Iterator<Item = Beat> + use<> {
        let schedule = *self;
        let statistics = step.is_multiple_of(self.statistics_every.max(1));
        let started = step >= self.start_step;
        let refresh = (0..self.buckets).filter(move |&i| schedule.refreshes(step, i));
        let update = if started { Beat::Apply } else { Beat::ApplyPlain };
        let (first, statistics) = (self.update_first, statistics.then_some(Beat::Accumulate));
        let renew = refresh.flat_map(move |i| {
            let start = schedule.starts(step).then_some(Beat::Start(i));
            start.into_iter().chain((!first || step > schedule.start_step).then_some(Beat::Refresh(i)))
        });
        statistics
            .filter(|_| !first)
            .map(|_| Beat::CheckTaps)
            .into_iter()
            .chain([Beat::Begin])
            .chain((first && step > 0).then_some(update))
            .chain(statistics)
            .chain(renew)
            .chain((!first).then_some(update))
    }

    /// True if buckets that are refreshed at this step look for layers without a basis.
    fn starts(&self, step: u64) -> bool {
        self.update_first && step.checked_sub(self.start_step).is_some_and(|since| since <= self.precondition_every)
    }

    fn refreshes(&self, step: u64, bucket: usize) -> bool {
        let Some(since) = step.checked_sub(self.refresh_from) else { return false };
        let every = self.precondition_every.max(1);
        let offset = (bucket as u64).saturating_mul(every) / self.buckets.max(1) as u64;
        since == 0 || since % every == offset
    }

    /// Cuts layers of these costs, in order, into at most `precondition_every` buckets of about equal cost: the bucket of each layer.
    pub(crate) fn cut(costs: &[u64], precondition_every: u64) -> Vec<usize> {
        let buckets = precondition_every.min(costs.len() as u64).max(1) as u128;
        let total = costs.iter().map(|&c| u128::from(c)).sum::<u128>().max(1);
        let mut before = 0;
        let mut used: Vec<u128> = Vec::new();
        costs
            .iter()
            .map(|&cost| {
                let middle = 2 * before + u128::from(cost);
                before += u128::from(cost);
                let slot = buckets * middle / (2 * total);
                // Slots that one large layer leaves empty are closed up.
                if used.last() != Some(&slot) {
                    used.push(slot);
                }
                used.len() - 1
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Beat, Schedule};

    #[test]
    fn every_bucket_is_refreshed_once_a_period() {
        for (every, buckets) in [(1, 1), (3, 3), (10, 4), (7, 2)] {
            let s =
                Schedule { statistics_every: 1, precondition_every: every, start_step: 5, refresh_from: 5, buckets, update_first: false };
            assert!((0..5).all(|t| s.segments(t).all(|b| !matches!(b, Beat::Refresh(_) | Beat::Apply))));
            assert_eq!(s.segments(5).filter(|b| matches!(b, Beat::Refresh(_))).count(), buckets);
            for bucket in 0..buckets {
                let times: Vec<u64> = (6..6 + 3 * every).filter(|&t| s.segments(t).any(|b| b == Beat::Refresh(bucket))).collect();
                assert_eq!(times.len(), 3, "{every} {buckets} {bucket}: {times:?}");
                assert!(times.windows(2).all(|w| w[1] - w[0] == every), "{times:?}");
            }
            let busiest = (6..6 + every).map(|t| s.segments(t).filter(|b| matches!(b, Beat::Refresh(_))).count()).max();
            assert_eq!(busiest, Some(1), "at most one bucket a step: {every} {buckets}");
        }
    }

    #[test]
    fn buckets_are_contiguous_and_balanced() {
        assert_eq!(Schedule::cut(&[5, 5, 5, 5], 2), [0, 0, 1, 1]);
        assert_eq!(Schedule::cut(&[5, 5, 5, 5], 100), [0, 1, 2, 3]);
        assert_eq!(Schedule::cut(&[5, 5, 5], 1), [0, 0, 0]);
        assert_eq!(Schedule::cut(&[1000, 1, 1, 1], 4), [0, 1, 1, 1]);
    }
}
