//! Half-done refreshes in saved state.

use safetensors::tensor::{Dtype, SafeTensors};

use super::bytes::{Facts, checksum};
use super::optimizer::Optimizer;
use super::refresh::{Bucket, Waiting};
use crate::error::Result;

impl Optimizer {
    /// What makes a position among refreshes mean the same: budget, parameters in their places, and how the work is divided.
    fn division(&self) -> String {
        let groups = self.groups.iter().enumerate().map(|(g, group)| {
            let units: Vec<&[u64]> = group.refreshes.iter().map(|r| r.units.as_slice()).collect();
            (format!("{g:09}"), format!("{:?} {units:?}", group.parameters))
        });
        let mut facts: Facts = groups.collect();
        facts.insert("budget".into(), format!("{:?}", self.sources.frame_budget));
        checksum(&facts, std::iter::empty())
    }

    /// Where refreshes wait; `None` where none does.
    pub(super) fn refresh_fact(&self) -> Option<String> {
        if self.waiting.list.is_empty() {
            return None;
        }
        let list: Vec<String> = self.waiting.list.iter().map(|(group, bucket)| format!("{group}.{bucket}")).collect();
        Some(format!("{} {} {}", self.division(), self.waiting.done, list.join(" ")))
    }

    /// What waits after loading: the saved queue where this optimizer divides its work in the same way, otherwise everything that has started.
    pub(super) fn waiting_of(&self, facts: &Facts, file: &SafeTensors<'_>, steps: u64) -> Waiting {
        let Some(fact) = facts.get("refresh") else { return Waiting::default() };
        self.parse(fact).filter(|waiting| waiting.done == 0 || self.has_snapshots(file)).unwrap_or_else(|| {
            let started = |g: &usize| self.groups[*g].segments.schedule.is_some_and(|s| steps > s.start_step);
            let buckets = (0..self.groups.len()).filter(started).flat_map(|g| (0..self.groups[g].refreshes.len()).map(move |b| (g, b)));
            Waiting { list: buckets.collect(), done: 0 }
        })
    }

    fn parse(&self, fact: &str) -> Option<Waiting> {
        let mut words = fact.split(' ');
        if words.next()? != self.division() {
            return None;
        }
        let done: usize = words.next()?.parse().ok()?;
        let mut waiting = Waiting::default();
        for word in words {
            let (group, bucket) = word.split_once('.')?;
            let bucket: Bucket = (group.parse().ok()?, bucket.parse().ok()?);
            let units = self.groups.get(bucket.0)?.refreshes.get(bucket.1)?.units.len();
            // Only the first is half done, and it comes up once more at most.
            let again = waiting.list.iter().filter(|b| **b == bucket).count();
            let half = waiting.list.first() == Some(&bucket) && done > 0;
            if again > usize::from(half) || (waiting.list.is_empty() && done >= units) {
                return None;
            }
            waiting.list.push(bucket);
        }
        waiting.done = done;
        Some(waiting).filter(|w| !w.list.is_empty())
    }

    fn has_snapshots(&self, file: &SafeTensors<'_>) -> bool {
        self.snapshot_parts().all(|part| {
            let shape = [part.shape.batch, part.shape.rows, part.shape.cols];
            file.tensor(&part.key()).is_ok_and(|t| t.dtype() == Dtype::F32 && t.shape() == shape)
        })
    }

    /// Puts the queue in place, and does again what was done of its first refresh since the snapshot.
    pub(super) fn resume(&mut self, waiting: Waiting, snapshots: &[Vec<f32>]) -> Result<()> {
        self.waiting = waiting;
        if self.waiting.done == 0 {
            return Ok(());
        }
        for (kept, values) in self.groups.iter().flat_map(|g| &g.snapshots).zip(snapshots) {
            kept.tensor.write(values)?;
        }
        self.replay()
    }
}
