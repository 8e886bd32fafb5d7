//! Which variant of a kernel serves an item's shape. Never the batch: results must not depend on how trials are grouped.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::Facts;
use super::kernels::{EIGH_JACOBI, GEMM, GEMM_LARGE, GEMM_WIDE, KERNELS, KRON_FACTOR, Kernel, Variant};
use super::ladder::{GemmShape, GemmVariant, flag};
use super::params::{Params, ViewParams};
use super::{quads, split};

/// Below this many rows or columns of a result a 64 x 64 tile would be mostly padding.
const SMALL: usize = 48;

/// From this on, 128 x 128 tiles fill a device: 64 of them.
const LARGE: usize = 1024;

/// A chosen variant and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The rung of the ladder.
    pub variant: GemmVariant,
    /// The reason, for people.
    pub reason: &'static str,
}

/// Shapes that are treated alike: sides rounded up to powers of two, and whether both operands are f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShapeClass {
    /// Rows of the result, at most 2 to this power.
    pub m: u8,
    /// Inner side, at most 2 to this power.
    pub k: u8,
    /// Columns of the result, at most 2 to this power.
    pub n: u8,
}

impl ShapeClass {
    /// The class of a shape.
    pub fn of(shape: GemmShape) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "an exponent is at most 64")]
        let power = |side: usize| side.next_power_of_two().trailing_zeros() as u8;
        ShapeClass { m: power(shape.m), k: power(shape.k), n: power(shape.n) }
    }
}

/// What stands above the built-in choice of matrix-product variants. Part of [`Facts`]; empty by default.
///
/// Made by [`Context::tune`](crate::Context::tune) and [`Context::check_gemm`](crate::Context::check_gemm), used by
/// [`Context::with_gemm_table`](crate::Context::with_gemm_table). As text it can be kept and read back (`Display` and `FromStr`, or feature `serde`), and checkpoints hold it; entries that the device can't run are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct GemmTable {
    /// Used wherever it fits, whatever the rest says: for benchmarks and tests.
    pub forced: Option<GemmVariant>,
    /// Never used: variants that failed the check.
    pub refused: BTreeSet<GemmVariant>,
    /// The fastest measured, by class; a list of pairs when written out.
    #[cfg_attr(feature = "serde", serde(with = "pairs"))]
    pub tuned: BTreeMap<ShapeClass, GemmVariant>,
}

/// Maps as lists of pairs: JSON has no keys but strings.
#[cfg(feature = "serde")]
mod pairs {
    use super::{BTreeMap, GemmVariant, ShapeClass};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<ShapeClass, GemmVariant>, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<ShapeClass, GemmVariant>, D::Error> {
        Ok(Vec::<(ShapeClass, GemmVariant)>::deserialize(from)?.into_iter().collect())
    }
}

/// The variants worth trying for a shape, the built-in choice first.
///
/// Software drivers run workgroups on a CPU's cores and emulate workgroup memory: there, registers. On a GPU, the largest tile of which there are enough.
pub fn candidates(shape: GemmShape, facts: &Facts) -> Vec<Choice> {
    let (small, large) = (shape.m.min(shape.n), shape.m.max(shape.n));
    let choice = |variant, reason| Choice { variant, reason };
    let mut list = Vec::with_capacity(4);
    if !facts.software && split::is_worth_it(shape) {
        list.push(choice(
            GemmVariant::SplitK,
            "an inner side of at least 2048 and fewer than 16 tiles: one workgroup a tile would leave the device idle",
        ));
    }
    list.push(choice(GemmVariant::Cooperative, "both operands are f16, and the device multiplies such fragments with f32 sums"));
    if facts.software {
        if small <= 8 {
            list.push(choice(GemmVariant::BroadcastFlat, "a software driver with subgroups of 8, a side of at most 8"));
        }
        list.push(choice(GemmVariant::Broadcast, "a software driver with subgroups of 8: no workgroup memory, operands broadcast"));
        list.push(choice(GemmVariant::Register, "a software driver: no workgroup memory"));
    } else {
        if large <= 16 {
            list.push(choice(GemmVariant::Small, "at most 16 x 16: four items a workgroup"));
        }
        if small <= 8 {
            list.push(choice(GemmVariant::Skinny, "a side of at most 8: bound by reading the larger operand"));
        }
        if small >= LARGE {
            list.push(choice(GemmVariant::Tile128, "both sides at least 1024: enough 128 x 128 tiles to fill a device"));
        }
    }
    let tiles = [
        choice(GemmVariant::Tile64, "both sides of the result exceed 48"),
        choice(GemmVariant::Tile32, "a side of the result is at most 48: a 64 x 64 tile would be mostly padding"),
    ];
    list.extend(if small <= SMALL { [tiles[1], tiles[0]] } else { tiles });
    if !facts.software && (128..LARGE).contains(&small) {
        list.push(choice(GemmVariant::Tile128, "tuned"));
    }
    list.retain(|c| c.variant.fits(shape, facts));
    list.truncate(4);
    list
}

/// The gemm variant for an item of this shape: forced, tuned, or the first candidate that was not refused.
pub fn gemm(shape: GemmShape, facts: &Facts) -> Choice {
    let table = &facts.gemm;
    let usable = |v: &GemmVariant| v.fits(shape, facts) && !table.refused.contains(v);
    if let Some(variant) = table.forced.filter(|v| v.fits(shape, facts)) {
        return Choice { variant, reason: "forced" };
    }
    if let Some(variant) = table.tuned.get(&ShapeClass::of(shape)).copied().filter(usable) {
        return Choice { variant, reason: "the fastest measured for this class" };
    }
    let portable = Choice { variant: GemmVariant::Tile64, reason: "all others were refused by the check" };
    candidates(shape, facts).into_iter().find(|c| usable(&c.variant)).unwrap_or(portable)
}

/// The variant for a dispatch whose place in its buffers is known: the product in 128 x 128 tiles reads four elements at once where both operands are f32, one side of
/// each has stride 1 and a length of whole fours, and everything else that an address is made of is whole fours. Sums and their order stay the same.
pub fn widened(variant: Variant, params: &Params) -> Variant {
    let fours = |n: u32| n.is_multiple_of(4);
    let side = |stride: u32, length: u32, other: u32| stride == 1 && fours(length) && fours(other);
    let wide = |v: &ViewParams| {
        let placed = fours(v.offset) && (fours(v.item) || v.modulo == 1);
        placed && (side(v.col, v.cols, v.row) || side(v.row, v.rows, v.col))
    };
    let f32s = variant.flags & (flag::A_F16 | flag::B_F16) == 0;
    if variant.kernel == GEMM_LARGE.name && f32s && params.views[..2].iter().all(wide) {
        return Variant { flags: variant.flags, ..GEMM_WIDE.plain() };
    }
    variant
}

const SMALL_KRON: Variant = KRON_FACTOR.with(&[("T", "8u")]);

/// The `kron_factor` variant for a `q x q` factor, and its tile.
pub(crate) fn kron_factor(q: usize) -> (Variant, usize) {
    if q <= SMALL { (SMALL_KRON, 32) } else { (KRON_FACTOR.plain(), 64) }
}

/// True where a `q x q` factor of `n` samples with a column of ones is a product in two stages.
pub(crate) fn splits_factor(q: usize, n: usize, facts: &Facts) -> bool {
    let (shape, table) = (GemmShape::f32(q, n, q), &facts.gemm);
    match table.forced {
        Some(variant) => variant == GemmVariant::SplitK && variant.fits(shape, facts),
        None => !facts.software && split::is_worth_it(shape) && !table.refused.contains(&GemmVariant::SplitK),
    }
}

/// Jacobi of a matrix of order 64 in one workgroup: one triangle of it, and its vectors.
const LARGE_JACOBI: Variant = EIGH_JACOBI.with(&[("LIMIT", "64u"), ("PAIRS", "32u"), ("CELLS", "2080u"), ("PACKED", "true")]);

/// Workgroup memory of it: the triangle, the vectors, and two numbers and a flag of each pair.
const LARGE_JACOBI_BYTES: u32 = 4 * (2080 + 64 * 64 + 3 * 32);

/// The `eigh_jacobi` variant that diagonalises a whole matrix of order `n` beyond [`EIGH_SINGLE_MAX`](crate::plan::EIGH_SINGLE_MAX) in one workgroup, where the
/// device has the memory for it.
pub fn eigh(n: usize, facts: &Facts) -> Option<Variant> {
    (n <= 64 && facts.workgroup_bytes >= LARGE_JACOBI_BYTES).then_some(LARGE_JACOBI)
}

/// Every variant that a plan can need.
pub fn variants() -> Vec<Variant> {
    let others = KERNELS.iter().filter(|k| !k.name.starts_with(GEMM.name)).map(Kernel::plain);
    let joint = KERNELS.iter().filter_map(|k| k.plain().joint());
    GemmVariant::variants().chain(others).chain([SMALL_KRON, LARGE_JACOBI]).chain(joint).chain(quads::runs()).collect()
}
