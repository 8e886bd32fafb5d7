//! What each step runs.

use super::optimizer::{Gathering, Optimizer};
use super::refresh::{Bucket, Part, Waiting};
use super::schedule::{Beat, Schedule};
use crate::error::Result;
use crate::prepared::{ALL, Prepared};

/// What a step runs.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) parts: Vec<Part>,
    /// Refreshes' parts by group.
    taken: Vec<(usize, Part)>,
    /// What waits afterwards.
    waiting: Waiting,
}

impl Optimizer {
    /// The names of the segments that the next step runs, in order; with a [frame budget](super::Builder::frame_budget) some of them in part.
    pub fn next_segments(&self) -> Vec<&str> {
        let mut work = Work::default();
        self.collect_work(&mut work);
        let segments = self.plan().segments();
        work.parts.iter().filter_map(|part| segments.get(part.0)).map(|s| s.name.as_str()).collect()
    }

    /// Flops of the refresh work that the next step adds: what [`frame_budget`](super::Builder::frame_budget) limits.
    pub fn next_refresh_flops(&self) -> u64 {
        self.collect_work(&mut Work::default())
    }

    /// Dispatches and waves of the next step, without recording it; `None` on the CPU path. What a changed learning rate adds is in it, but for the copy.
    ///
    /// ```no_run
    /// # fn print(optimizer: &layerwise::optim::Optimizer) {
    /// if let Some(count) = optimizer.next_dispatches() {
    ///     println!("{} dispatches in {} waves, one submit", count.dispatches, count.waves);
    /// }
    /// # }
    /// ```
    #[cfg(feature = "gpu")]
    pub fn next_dispatches(&self) -> Option<crate::gpu::DispatchCount> {
        let mut work = Work::default();
        self.collect_work(&mut work);
        self.prepared.count_parts(&work.parts)
    }

    /// Starts a half-done refresh again from its beginning: to be called after a recorded step was dropped instead of submitted.
    ///
    /// Only with a [frame budget](super::Builder::frame_budget) is there such a refresh, and the dropped step may have held a part of it.
    pub fn restart_refresh(&mut self) {
        self.waiting.done = 0;
    }

    /// Does again what is done of the half-done refresh, but for its snapshot, in pieces that the budget holds.
    #[cfg(feature = "checkpoint")]
    pub(super) fn replay(&mut self) -> Result<()> {
        let Some(&bucket) = self.waiting.list.first() else { return Ok(()) };
        let Some(refresh) = self.groups.get(bucket.0).and_then(|g| g.refreshes.get(bucket.1)) else { return Ok(()) };
        let done = self.waiting.done.min(refresh.units.len());
        let mut again = Waiting { list: vec![bucket], done: 1 };
        while again.done > 0 && again.done < done {
            let mut parts = Vec::new();
            again.take(self.sources.frame_budget, |_| &refresh.units[..done], |_, range| parts.extend(refresh.parts(range)));
            self.prepared.run_parts(parts.into_iter())?;
        }
        Ok(())
    }

    /// What the next step runs, and the flops of its refresh work.
    fn collect_work(&self, work: &mut Work) -> u64 {
        let Work { parts, taken, waiting } = work;
        parts.clear();
        taken.clear();
        waiting.copy(&self.waiting);
        let Gathering { every, taken: gathered, clip, .. } = self.gathering;
        let completes = gathered + 1 == every;
        let whole = |segment: usize| (segment, ALL);
        for group in &self.groups {
            let s = &group.segments;
            if group.changed || group.upload.is_some() {
                parts.push(whole(s.rates));
            }
            parts.extend(s.load.filter(|_| self.load).map(whole));
            let checks = |schedule: Schedule| schedule.segments(self.step).any(|beat| beat == Beat::CheckTaps);
            if completes && s.schedule.is_some_and(checks) {
                parts.push(whole(s.check_taps));
            }
            parts.extend(s.gather.map(|[first, more]| whole(if gathered == 0 { first } else { more })));
        }
        if !completes {
            return 0;
        }
        parts.extend(clip.map(whole));
        for (g, group) in self.groups.iter().enumerate() {
            for beat in group.segments.schedule.iter().flat_map(|schedule| schedule.segments(self.step)) {
                if let Beat::Refresh(bucket) = beat {
                    waiting.due((g, bucket));
                }
            }
        }
        let refresh = |(group, bucket): Bucket| self.groups.get(group).and_then(|g| g.refreshes.get(bucket));
        let flops = waiting.take(
            self.sources.frame_budget,
            |bucket| refresh(bucket).map_or(&[], |r| &r.units),
            |bucket, range| taken.extend(refresh(bucket).into_iter().flat_map(|r| r.parts(range.clone())).map(|part| (bucket.0, part))),
        );
        for (g, group) in self.groups.iter().enumerate() {
            let s = &group.segments;
            let Some(schedule) = s.schedule else {
                parts.extend([s.begin, s.apply].map(whole));
                continue;
            };
            let refreshed = || taken.iter().filter(|t| t.0 == g).map(|t| t.1.clone());
            for beat in schedule.segments(self.step) {
                match beat {
                    Beat::Begin => parts.push(whole(s.begin)),
                    Beat::Accumulate => parts.push(whole(s.accumulate)),
                    // Taps are checked above. A refresh that is due now may wait, and one that has waited may run now: see below.
                    Beat::CheckTaps | Beat::Refresh(_) => {}
                    Beat::Start(bucket) => parts.extend(s.start.get(bucket).copied().map(whole)),
                    Beat::Apply | Beat::ApplyPlain => {
                        if !schedule.update_first {
                            parts.extend(refreshed());
                        }
                        parts.push(whole(if beat == Beat::Apply { s.apply } else { s.apply_plain }));
                    }
                }
            }
            if schedule.update_first {
                parts.extend(refreshed());
            }
        }
        flops
    }

    /// Runs or records this step's parts; the step counts if that succeeds.
    pub(super) fn with_work(&mut self, run: impl FnOnce(&mut Prepared, &[Part]) -> Result<()>) -> Result<()> {
        let mut work = std::mem::take(&mut self.work);
        self.collect_work(&mut work);
        let outcome = run(&mut self.prepared, &work.parts);
        if outcome.is_ok() {
            self.waiting.copy(&work.waiting);
            self.load = false;
            self.gathering.taken += 1;
            if self.gathering.taken == self.gathering.every {
                self.gathering.taken = 0;
                self.step += 1;
            }
            self.groups.iter_mut().for_each(|g| g.changed = false);
        }
        self.work = work;
        outcome
    }
}
