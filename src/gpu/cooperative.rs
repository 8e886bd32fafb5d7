//! Products of f16 operands on cooperative matrices: which devices, which variant.

use super::facts::Facts;
use super::kernels::{GEMM_COOP, Variant};
use super::ladder::GemmShape;
use crate::tensor::ElementType;

/// One variant and what it needs.
struct Row {
    /// Side of a fragment.
    side: usize,
    /// Lanes of a subgroup.
    lanes: u32,
    /// Rows and columns of a workgroup's tile.
    tile: usize,
    variant: Variant,
}

macro_rules! rows {
    ($(($side:literal, $lanes:literal, $rows:literal x $cols:literal) => $tile:literal),* $(,)?) => {
        const ROWS: &[Row] = &[$(Row {
            side: $side,
            lanes: $lanes,
            tile: $tile,
            variant: GEMM_COOP.with(&[
                ("SIDE", concat!($side, "u")),
                ("Left", concat!("coop_mat", $side, "x", $side, "<f16, A>")),
                ("Right", concat!("coop_mat", $side, "x", $side, "<f16, B>")),
                ("Sum", concat!("coop_mat", $side, "x", $side, "<f32, C>")),
                ("LANES", concat!($lanes, "u")),
                ("SUB_ROWS", concat!($rows, "u")),
                ("SUB_COLS", concat!($cols, "u")),
            ]),
        }),*];
    };
}

// Larger tiles first. 8 lanes: llvmpipe. 32: NVIDIA, Apple.
rows! {
    (16, 8, 4 x 2) => 128,
    (16, 32, 4 x 2) => 128,
    (16, 8, 2 x 1) => 64,
    (16, 32, 2 x 1) => 64,
    (8, 8, 4 x 2) => 64,
    (8, 32, 4 x 2) => 64,
    (8, 8, 2 x 1) => 32,
    (8, 32, 2 x 1) => 32,
}

impl Row {
    /// Bytes of workgroup memory: the shader's `halves` and `sums`.
    fn workgroup_bytes(&self) -> usize {
        let subgroups = self.tile * self.tile / (8 * self.side * self.side);
        2 * (self.tile * (32 + 8) + 32 * (self.tile + 8)) + 4 * subgroups * self.side * self.side
    }

    /// A larger tile that would be mostly padding makes way for the smaller one.
    fn fits(&self, facts: &Facts, smaller_side: usize) -> bool {
        let least = if self.tile == 8 * self.side { 3 * self.tile / 4 } else { self.tile / 2 };
        self.side == facts.cooperative_side as usize
            && self.lanes == facts.subgroup_lanes
            && self.workgroup_bytes() <= facts.workgroup_bytes as usize
            && smaller_side >= least
    }
}

/// The kernel on cooperative matrices and its tile, where the device has them for f16 operands and both sides of the result are worth a tile.
pub(super) fn kernel(shape: GemmShape, facts: &Facts) -> Option<(Variant, usize)> {
    let halves = (shape.a, shape.b) == (ElementType::F16, ElementType::F16);
    let row = ROWS.iter().find(|row| halves && row.fits(facts, shape.m.min(shape.n)))?;
    Some((row.variant, row.tile))
}

/// Every variant.
pub(super) fn variants() -> impl Iterator<Item = Variant> {
    ROWS.iter().map(|row| row.variant)
}

/// The side of the largest square fragments that are multiplied from f16 into f32; 0 where there are none.
pub(super) fn largest_side(configurations: &[wgpu::CooperativeMatrixProperties]) -> u32 {
    let usable = |c: &&wgpu::CooperativeMatrixProperties| {
        let square = c.m_size == c.n_size && c.n_size == c.k_size && matches!(c.m_size, 8 | 16);
        let mixed = c.ab_type == wgpu::CooperativeScalarType::F16 && c.cr_type == wgpu::CooperativeScalarType::F32;
        square && mixed && !c.saturating_accumulation
    };
    configurations.iter().filter(usable).map(|c| c.m_size).max().unwrap_or(0)
}
