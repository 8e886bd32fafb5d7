//! Chunks of trials that fit a device.

use std::ops::Range;

use super::LinearRepresentation;
use super::chunks::Chunk;
use super::recorded::{Recorded, record};
use crate::error::{Error, Result};
use crate::feature_learning::method::Method;
use crate::feature_learning::metrics::COLUMNS;

impl Chunk {
    /// Both halves; seeds are divided before anisotropies, and those before learning rates, which share their data. `None` for a single trial.
    fn halves(&self) -> Option<[Chunk; 2]> {
        let cut = |range: &Range<usize>| {
            let middle = range.start + range.len() / 2;
            [range.start..middle, middle..range.end]
        };
        let with = |f: &dyn Fn(&mut Chunk, Range<usize>), range: &Range<usize>| {
            Some(cut(range).map(|half| {
                let mut chunk = self.clone();
                f(&mut chunk, half);
                chunk
            }))
        };
        match (self.seeds.len(), self.kappas.len(), self.rates.len()) {
            (2.., _, _) => with(&|c, r| c.seeds = r, &self.seeds),
            (_, 2.., _) => with(&|c, r| c.kappas = r, &self.kappas),
            (_, _, 2..) => with(&|c, r| c.rates = r, &self.rates),
            _ => None,
        }
    }
}

/// Bytes of everything that a chunk holds on the device, and of its largest tensor.
fn bytes(recorded: &Recorded, config: &LinearRepresentation, trials: usize) -> (u64, u64) {
    let sizes = || recorded.plan.values().iter().map(|v| 4 * v.shape.elements() as u64);
    let history = 4 * (config.log_steps().len() * trials * COLUMNS) as u64;
    // What the library's optimizers keep: at most two factors and four matrices of each side for every weight, twice for their scratch.
    let (f, g) = (recorded.scheme.model.f, recorded.scheme.model.g);
    let optimizer = [f, g].iter().map(|w| 4 * (trials * 12 * (w.rows() + w.cols()).pow(2)) as u64).sum::<u64>();
    let trained = if recorded.scheme.trained().is_empty() { 0 } else { optimizer };
    (sizes().sum::<u64>() + history + trained, sizes().max().unwrap_or(0).max(history))
}

/// The fewest chunks of which each stays within `total` bytes and has no tensor above `single`.
///
/// # Errors
/// [`Error::Limit`] where a single trial does not.
pub(super) fn that_fit(config: &LinearRepresentation, method: Method, rates: usize, total: u64, single: u64) -> Result<Vec<Chunk>> {
    let mut waiting = vec![Chunk::all(config, rates)];
    let mut chunks = Vec::new();
    while let Some(chunk) = waiting.pop() {
        let part = chunk.config(config);
        let (all, largest) = bytes(&record(&part, method, chunk.rates.len())?, &part, chunk.trials());
        if all <= total && largest <= single {
            chunks.push(chunk);
            continue;
        }
        let Some([first, second]) = chunk.halves() else {
            let (what, needed, limit) = if all > total {
                ("memory_limit for a single trial (bytes)", all, total)
            } else {
                ("the largest tensor of a single trial (bytes)", largest, single)
            };
            return Err(Error::Limit {
                what: what.into(),
                needed,
                limit,
                advice: "raise `memory_limit`, or take fewer samples or dimensions",
            });
        };
        waiting.extend([second, first]);
    }
    Ok(chunks)
}
