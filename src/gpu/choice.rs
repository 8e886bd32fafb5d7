//! Which variant of a kernel serves an item's shape. Never the batch: results must not depend on how trials are grouped.

use super::facts::Facts;
use super::kernels::{EIGH_JACOBI, GEMM, KERNELS, KRON_FACTOR, Kernel, Variant};
use crate::tensor::ElementType::{self, F16, F32};

/// Below this many rows or columns of a result a 64 x 64 tile would be mostly padding.
const SMALL: usize = 48;

/// A chosen variant and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kernel with its tunables.
    pub variant: Variant,
    /// Rows and columns of the result that one workgroup computes.
    pub tile: usize,
    /// The reason, for people.
    pub reason: &'static str,
}

fn tile(smaller_side: usize) -> (usize, &'static str) {
    if smaller_side <= SMALL {
        (32, "a side of the result is at most 48: a 64 x 64 tile would be mostly padding")
    } else {
        (64, "both sides of the result exceed 48: the largest portable tile")
    }
}

macro_rules! gemm_variants {
    ($(($small:literal, $a:ident, $b:ident) => [$($name:literal = $value:literal),*]),* $(,)?) => {
        /// The gemm variant for an `m x n` result of operands with these element types.
        pub fn gemm(m: usize, n: usize, a: ElementType, b: ElementType) -> Choice {
            let (tile, reason) = tile(m.min(n));
            let variant = match (tile == 32, a, b) {
                $(($small, $a, $b) => GEMM.with(&[$(($name, $value)),*]),)*
            };
            Choice { variant, tile, reason }
        }

        const GEMM_VARIANTS: &[Variant] = &[$(GEMM.with(&[$(($name, $value)),*])),*];
    };
}

gemm_variants! {
    (false, F32, F32) => [],
    (false, F32, F16) => ["B_F16" = "true"],
    (false, F16, F32) => ["A_F16" = "true"],
    (false, F16, F16) => ["A_F16" = "true", "B_F16" = "true"],
    (true, F32, F32) => ["TX" = "8u", "TY" = "8u"],
    (true, F32, F16) => ["TX" = "8u", "TY" = "8u", "B_F16" = "true"],
    (true, F16, F32) => ["TX" = "8u", "TY" = "8u", "A_F16" = "true"],
    (true, F16, F16) => ["TX" = "8u", "TY" = "8u", "A_F16" = "true", "B_F16" = "true"],
}

const SMALL_KRON: Variant = KRON_FACTOR.with(&[("T", "8u")]);

/// The `kron_factor` variant for a `q x q` factor.
pub fn kron_factor(q: usize) -> Choice {
    let (tile, reason) = tile(q);
    Choice { variant: if tile == 32 { SMALL_KRON } else { KRON_FACTOR.plain() }, tile, reason }
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
    let others = KERNELS.iter().filter(|k| k.name != GEMM.name).map(Kernel::plain);
    let joint = KERNELS.iter().filter_map(|k| k.plain().joint());
    GEMM_VARIANTS.iter().copied().chain(others).chain([SMALL_KRON, LARGE_JACOBI]).chain(joint).collect()
}
