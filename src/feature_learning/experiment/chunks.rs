//! Which trials run at once.

use std::ops::Range;

use super::LinearRepresentation;

/// Trials that run at once: ranges of anisotropies, seeds and learning rates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) kappas: Range<usize>,
    pub(super) seeds: Range<usize>,
    pub(super) rates: Range<usize>,
}

impl Chunk {
    pub(super) fn all(config: &LinearRepresentation, rates: usize) -> Chunk {
        Chunk { kappas: 0..config.kappas.len(), seeds: 0..config.seeds, rates: 0..rates }
    }

    /// The study of these trials alone.
    pub(super) fn config(&self, of: &LinearRepresentation) -> LinearRepresentation {
        let first_seed = of.first_seed + u32::try_from(self.seeds.start).unwrap_or(u32::MAX);
        LinearRepresentation { kappas: of.kappas[self.kappas.clone()].to_vec(), seeds: self.seeds.len(), first_seed, ..of.clone() }
    }

    pub(super) fn trials(&self) -> usize {
        self.kappas.len() * self.seeds.len() * self.rates.len()
    }
}

/// One seed and anisotropy each, with all its learning rates: what the CPU path hands to a thread.
pub(super) fn one_by_one(config: &LinearRepresentation, rates: usize) -> Vec<Chunk> {
    let of = |k: usize, s: usize| Chunk { kappas: k..k + 1, seeds: s..s + 1, rates: 0..rates };
    (0..config.kappas.len()).flat_map(|k| (0..config.seeds).map(move |s| of(k, s))).collect()
}
