//! What an optimizer holds.

use super::beats::Kind;
use crate::tensor::Shape;

/// Bytes that an optimizer holds, beside the caller's weights, gradients and taps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Hyper-parameters, counters and health flags.
    pub blocks: u64,
    /// Momentum and moments.
    pub moments: u64,
    /// Running averages of factors, and their copies with a [frame budget](super::Builder::frame_budget).
    pub statistics: u64,
    /// Inverses.
    pub roots: u64,
    /// Master weights, averages of weights, sums of gradients.
    pub copies: u64,
    /// Intermediate results, without meaning between two steps.
    pub scratch: u64,
}

impl MemoryReport {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blocks + self.moments + self.statistics + self.roots + self.copies + self.scratch
    }

    /// Counts an f32 tensor.
    pub(super) fn add(&mut self, kind: Kind, shape: Shape) {
        let bytes = match kind {
            Kind::Block => &mut self.blocks,
            Kind::Moment => &mut self.moments,
            Kind::Statistics => &mut self.statistics,
            Kind::Root => &mut self.roots,
            Kind::Copy => &mut self.copies,
        };
        *bytes += 4 * shape.elements() as u64;
    }
}
