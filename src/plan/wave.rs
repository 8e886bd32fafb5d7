//! Waves: which steps are independent of each other.
//!
//! wgpu puts a barrier wherever a buffer is written and then used. Steps of one wave share none, so a list sorted by wave needs one barrier a wave
//! instead of one a step.

use std::collections::HashMap;
use std::ops::Range;

/// One access of a step: a buffer, the part of it, and whether it is written.
pub(crate) type Touch = (usize, Range<u64>, bool);

/// All of a buffer.
pub(crate) const WHOLE: Range<u64> = 0..u64::MAX;

/// What became of one buffer so far: the parts that were touched, and the latest wave that did.
#[derive(Default)]
struct History {
    reads: Vec<(Range<u64>, usize)>,
    writes: Vec<(Range<u64>, usize)>,
}

/// The wave after all of these that overlap.
fn after(list: &[(Range<u64>, usize)], range: &Range<u64>) -> usize {
    let overlapping = list.iter().filter(|(other, _)| other.start < range.end && range.start < other.end);
    overlapping.map(|(_, wave)| wave + 1).max().unwrap_or(0)
}

fn note(list: &mut Vec<(Range<u64>, usize)>, range: &Range<u64>, wave: usize) {
    match list.iter_mut().find(|(other, _)| other == range) {
        Some((_, latest)) => *latest = (*latest).max(wave),
        None => list.push((range.clone(), wave)),
    }
}

/// The wave of each step: one more than the latest wave among earlier steps that it must follow (read after write, write after read, write after write).
pub(crate) fn waves<'a>(steps: impl IntoIterator<Item = &'a [Touch]>) -> Vec<usize> {
    let mut buffers: HashMap<usize, History> = HashMap::new();
    let mut result = Vec::new();
    for touches in steps {
        let mut wave = 0;
        for (buffer, range, writes) in touches {
            let Some(history) = buffers.get(buffer) else { continue };
            wave = wave.max(after(&history.writes, range));
            if *writes {
                wave = wave.max(after(&history.reads, range));
            }
        }
        for (buffer, range, writes) in touches {
            let history = buffers.entry(*buffer).or_default();
            note(if *writes { &mut history.writes } else { &mut history.reads }, range, wave);
        }
        result.push(wave);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::{Touch, WHOLE, waves};

    fn all(list: &[(usize, bool)]) -> Vec<Touch> {
        list.iter().map(|&(buffer, writes)| (buffer, WHOLE, writes)).collect()
    }

    #[test]
    fn chains_and_independent_work() {
        let steps = [
            all(&[(0, false), (1, true)]), // 1 <- 0
            all(&[(0, false), (2, true)]), // 2 <- 0: independent
            all(&[(1, false), (2, false), (3, true)]),
            all(&[(1, true)]), // overwrites 1 after its reader
            all(&[(4, true)]),
        ];
        assert_eq!(waves(steps.iter().map(Vec::as_slice)), [0, 0, 1, 2, 0]);
    }

    #[test]
    fn parts_of_one_buffer() {
        let steps: [&[Touch]; 5] = [
            &[(0, 0..4, true)],
            &[(0, 4..8, true)],  // beside it
            &[(0, 3..5, false)], // across both
            &[(0, 0..4, true)],  // after that reader
            &[(0, 8..9, true)],
        ];
        assert_eq!(waves(steps), [0, 0, 1, 2, 0]);
    }
}
