//! Products of a long inner side and few results, in two stages: partial products of runs of the inner side, then their sum with all else that a product does.
//!
//! One workgroup a tile would leave most of a GPU idle. Runs go by the item's shape alone, and their sum has one order: results do not depend on the batch.

use super::kernels::{GEMM_MERGE, GEMM_SPLIT, Variant};
use super::ladder::{GemmShape, flag};
use crate::plan::Value;
use crate::tensor::{ElementType, Shape};

/// The value that stands for the partial products in a dispatch: scratch that a prepared plan has beside its values, one buffer a segment.
pub(crate) const PARTIAL: u32 = u32::MAX;

/// Floats of that scratch, 16 MiB: stacks that would need more go through it in parts.
const MOST: usize = 1 << 22;

/// From this inner side on a product of few tiles is split.
const LONG: usize = 2048;

/// Fewer tiles of 64 x 64 leave a device idle, more fill it.
const FEW: usize = 16;

/// Terms of a run at least, where the inner side is long: the partial products are written and read once for as many.
const RUN: usize = 512;

/// Runs at most.
const RUNS: usize = 16;

/// The shader's `TILE_K`: runs are whole multiples of it.
const DEPTH: usize = 16;

/// Below this many rows or columns a tile of 64 x 64 would be mostly padding.
const SMALL: usize = 48;

/// Terms of each run but the last. An inner side that is not long, where the variant was asked for, makes two runs.
pub(crate) fn terms(k: usize) -> usize {
    k.div_ceil((k / RUN).clamp(2, RUNS)).next_multiple_of(DEPTH)
}

fn runs(k: usize) -> usize {
    k.div_ceil(terms(k))
}

/// True where one item's partial products fit the scratch.
pub(super) fn fits(shape: GemmShape) -> bool {
    shape.m.checked_mul(shape.n).and_then(|mn| mn.checked_mul(runs(shape.k))).is_some_and(|floats| floats <= MOST)
}

/// True where the inner side is long and the tiles are few.
pub(super) fn is_worth_it(shape: GemmShape) -> bool {
    shape.k >= LONG && shape.m.div_ceil(64) * shape.n.div_ceil(64) < FEW && fits(shape)
}

/// A product in two stages.
pub(super) struct Split {
    /// Terms of a run.
    pub(super) terms: usize,
    /// Runs of an item.
    pub(super) runs: usize,
    /// Items that go through the scratch at once.
    pub(super) items: usize,
    /// The partial products of so many.
    pub(super) partial: Value,
    pub(super) first: Variant,
    /// Tiles of one run.
    pub(super) tiles: usize,
    pub(super) second: Variant,
}

impl Split {
    /// Of `batch` results `out` of inner side `k`, with these switches of the product and its operands' types; `ones` appends a one to each sample.
    pub(super) fn new(batch: usize, out: Value, k: usize, (flags, halves): (u16, u16), ones: bool) -> Split {
        let runs = runs(k);
        let items = (MOST / (runs * out.rows * out.cols)).clamp(1, batch);
        let partial = Value::dense(PARTIAL, Shape::new(items * runs, out.rows, out.cols), ElementType::F32);
        let (first, side) = first(out.rows.min(out.cols), ones);
        Split {
            terms: terms(k),
            runs,
            items,
            partial,
            first: Variant { flags: flags & FIRST | halves, ..first },
            tiles: out.rows.div_ceil(side) * out.cols.div_ceil(side),
            second: Variant { flags, ..GEMM_MERGE.plain() },
        }
    }
}

/// Switches that the first stage has beside those of the operands' types.
const FIRST: u16 = flag::SYMMETRIC | flag::GATED | flag::GATE_IN_D;

/// The kernel of the first stage and its tile.
fn first(smaller_side: usize, ones: bool) -> (Variant, usize) {
    match (smaller_side <= SMALL, ones) {
        (true, false) => (GEMM_SPLIT.with(&[("TX", "8u"), ("TY", "8u")]), 32),
        (true, true) => (GEMM_SPLIT.with(&[("TX", "8u"), ("TY", "8u"), ("ONES", "true")]), 32),
        (false, false) => (GEMM_SPLIT.plain(), 64),
        (false, true) => (GEMM_SPLIT.with(&[("ONES", "true")]), 64),
    }
}

/// The first stage of a shape alone, and its tile.
pub(super) fn rung(shape: GemmShape, flags: u16) -> (Variant, usize) {
    let (variant, side) = first(shape.m.min(shape.n), false);
    (Variant { flags: flags & (FIRST | flag::A_F16 | flag::B_F16), ..variant }, side)
}

/// Every variant, with these switches of the second stage.
pub(super) fn variants(epilogues: &[u16]) -> Vec<Variant> {
    let halves = [0, flag::A_F16, flag::B_F16, flag::A_F16 | flag::B_F16];
    let gates = [0, flag::SYMMETRIC, flag::GATED, flag::SYMMETRIC | flag::GATED, flag::SYMMETRIC | flag::GATE_IN_D];
    let products = [1, 64].into_iter().flat_map(|side| {
        let typed = move |flags: u16| halves.map(|bits| Variant { flags: flags | bits, ..first(side, false).0 });
        gates.into_iter().flat_map(typed)
    });
    let factors = [1, 64].into_iter().flat_map(|side| [gates[1], gates[4]].map(|flags| Variant { flags, ..first(side, true).0 }));
    let second = epilogues.iter().map(|&flags| Variant { flags, ..GEMM_MERGE.plain() });
    products.chain(factors).chain(second).collect()
}
