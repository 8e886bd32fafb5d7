//! Waves: which steps are independent of each other.
//!
//! wgpu puts a barrier wherever a buffer is written and then used. Steps of one wave share none, so a list sorted by wave needs one barrier a wave
//! instead of one a step.

use std::collections::HashMap;

/// One access of a step: a buffer and whether it is written.
pub(crate) type Touch = (usize, bool);

/// The wave of each step: one more than the latest wave among earlier steps that it must follow (read after write, write after read, write after write).
pub(crate) fn waves<'a>(steps: impl IntoIterator<Item = &'a [Touch]>) -> Vec<usize> {
    let mut last_write: HashMap<usize, usize> = HashMap::new();
    let mut last_read: HashMap<usize, usize> = HashMap::new();
    let mut result = Vec::new();
    for touches in steps {
        let mut wave = 0;
        for &(buffer, writes) in touches {
            let after = |map: &HashMap<usize, usize>| map.get(&buffer).map_or(0, |w| w + 1);
            wave = wave.max(after(&last_write));
            if writes {
                wave = wave.max(after(&last_read));
            }
        }
        for &(buffer, writes) in touches {
            let map = if writes { &mut last_write } else { &mut last_read };
            let entry = map.entry(buffer).or_insert(wave);
            *entry = (*entry).max(wave);
        }
        result.push(wave);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::waves;

    #[test]
    fn chains_and_independent_work() {
        let steps: [&[(usize, bool)]; 5] = [
            &[(0, false), (1, true)], // 1 <- 0
            &[(0, false), (2, true)], // 2 <- 0: independent
            &[(1, false), (2, false), (3, true)],
            &[(1, true)], // overwrites 1 after its reader
            &[(4, true)],
        ];
        assert_eq!(waves(steps), [0, 0, 1, 2, 0]);
    }
}
