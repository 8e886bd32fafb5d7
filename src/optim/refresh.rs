//! Refreshes in parts: what each costs, and which of them wait.

use std::ops::Range;

use crate::plan::cut::Cut;
use crate::prepared::{ALL, Prepared};

/// A bucket of a group.
pub(crate) type Bucket = (usize, usize);

/// A part of a segment, to be run.
pub(crate) type Part = (usize, Range<usize>);

/// The refresh of one bucket: one segment, or three that a frame budget made of it.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    segment: usize,
    cut: Option<Cut>,
    /// Flops of what can't be divided. Uncut: the whole. Cut: the snapshot, each unit of the computation, the commit.
    pub(crate) units: Vec<u64>,
}

impl Refresh {
    pub(crate) fn new(segment: usize, cut: Option<Cut>) -> Refresh {
        Refresh { segment, cut, units: Vec::new() }
    }

    /// Looks up what it costs.
    pub(crate) fn measure(&mut self, prepared: &Prepared) {
        let sum = |segment: usize| prepared.units(segment).iter().fold(0, |a: u64, b| a.saturating_add(*b));
        self.units = match self.cut {
            None => vec![sum(self.segment)],
            Some(cut) => {
                let compute = prepared.units(cut.compute).iter().copied();
                [sum(cut.snapshot)].into_iter().chain(compute).chain([sum(cut.commit)]).collect()
            }
        };
    }

    /// The segments' parts that units `range` are.
    pub(crate) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = Part> + use<> {
        let last = self.units.len().saturating_sub(1);
        let (whole, first, middle, end) = match self.cut {
            None => (Some((self.segment, ALL)).filter(|_| !range.is_empty()), None, None, None),
            Some(cut) => {
                let inner = range.start.max(1)..range.end.min(last);
                let middle = Some((cut.compute, inner.start - 1..inner.end.saturating_sub(1))).filter(|_| !inner.is_empty());
                let all = |segment: usize, unit: usize| Some((segment, ALL)).filter(|_| range.contains(&unit));
                (None, all(cut.snapshot, 0), middle, all(cut.commit, last))
            }
        };
        [whole, first, middle, end].into_iter().flatten()
    }
}

/// Refreshes that are due, first come first served. Only the first can be half done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) list: Vec<Bucket>,
    /// Units of the first that are done.
    pub(crate) done: usize,
}

impl Waiting {
    /// Takes over another's content; allocates only where it never held as much.
    pub(crate) fn copy(&mut self, other: &Waiting) {
        self.list.clone_from(&other.list);
        self.done = other.done;
    }

    /// A bucket is due. One that waits already has nothing to gain; one that is half done goes to the end to be done again.
    pub(crate) fn due(&mut self, bucket: Bucket) {
        let begun = usize::from(self.done > 0);
        if !self.list.iter().skip(begun).any(|b| *b == bucket) {
            self.list.push(bucket);
        }
    }

    /// Takes units from the front as long as the budget lasts, at least one; returns their flops.
    pub(crate) fn take<'a>(
        &mut self,
        budget: Option<u64>,
        units: impl Fn(Bucket) -> &'a [u64],
        mut taken: impl FnMut(Bucket, Range<usize>),
    ) -> u64 {
        let mut spent = 0_u64;
        while let Some(&bucket) = self.list.first() {
            let units = units(bucket);
            let start = self.done;
            while let Some(&flops) = units.get(self.done) {
                let sum = spent.saturating_add(flops);
                if spent > 0 && budget.is_some_and(|most| sum > most) {
                    break;
                }
                spent = sum;
                self.done += 1;
            }
            if self.done > start {
                taken(bucket, start..self.done);
            }
            if self.done < units.len() {
                break;
            }
            self.list.remove(0);
            self.done = 0;
        }
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::{Bucket, Waiting};

    /// (bucket, first unit, end) of each piece of a step, and the flops.
    type Taken = (Vec<(Bucket, usize, usize)>, u64);

    /// What each step takes.
    fn steps(waiting: &mut Waiting, budget: Option<u64>, costs: &[&[u64]], count: usize) -> Vec<Taken> {
        (0..count)
            .map(|_| {
                let mut list = Vec::new();
                let flops = waiting.take(budget, |b| costs[b.1], |b, r| list.push((b, r.start, r.end)));
                (list, flops)
            })
            .collect()
    }

    #[test]
    fn no_step_takes_more_than_the_budget_or_a_single_unit() {
        let costs: [&[u64]; 3] = [&[1, 4, 4, 1], &[2, 30, 2], &[3, 3, 3]];
        for budget in [1, 5, 7, 10, 29, 40, 1000] {
            let mut waiting = Waiting::default();
            (0..3).for_each(|b| waiting.due((0, b)));
            let mut total = 0;
            let mut next = [0; 3];
            while !waiting.list.is_empty() {
                for (taken, flops) in steps(&mut waiting, Some(budget), &costs, 1) {
                    let units: usize = taken.iter().map(|t| t.2 - t.1).sum();
                    assert!(flops <= budget || units == 1, "{budget}: {flops} flops in {units} units");
                    assert!(units > 0, "{budget}: a step without progress");
                    total += flops;
                    for ((_, bucket), start, end) in taken {
                        assert_eq!(next[bucket], start, "units run in order, each once");
                        next[bucket] = end;
                    }
                }
            }
            assert_eq!((total, next), (53, [4, 3, 3]), "{budget}");
        }
    }

    #[test]
    fn without_a_budget_everything_runs_when_it_is_due() {
        let mut waiting = Waiting::default();
        waiting.due((0, 1));
        waiting.due((0, 0));
        let got = steps(&mut waiting, None, &[&[5], &[7]], 2);
        assert_eq!(got, [(vec![((0, 1), 0, 1), ((0, 0), 0, 1)], 12), (vec![], 0)]);
    }

    #[test]
    fn a_bucket_waits_once_and_once_more_behind_its_unfinished_self() {
        let mut waiting = Waiting::default();
        (0..3).for_each(|_| waiting.due((0, 0)));
        waiting.due((0, 1));
        assert_eq!(waiting.list, [(0, 0), (0, 1)]);
        steps(&mut waiting, Some(1), &[&[1, 1], &[1]], 1);
        (0..3).for_each(|_| waiting.due((0, 0)));
        assert_eq!((waiting.list.as_slice(), waiting.done), ([(0, 0), (0, 1), (0, 0)].as_slice(), 1));
    }
}
