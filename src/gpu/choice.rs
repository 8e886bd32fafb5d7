//! Which variant of a kernel serves an item's shape. Never the batch: results must not depend on how trials are grouped.

use super::cooperative;
use super::facts::Facts;
use super::kernels::{GEMM, GEMM_COOP, KERNELS, KRON_FACTOR, Kernel, Variant};
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
        pub fn gemm(facts: &Facts, m: usize, n: usize, a: ElementType, b: ElementType) -> Choice {
            if let Some(choice) = cooperative::gemm(facts, m, n, a, b) {
                return choice;
            }
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

/// Every variant that a plan can need.
pub fn variants() -> Vec<Variant> {
    let others = KERNELS.iter().filter(|k| k.name != GEMM.name && k.name != GEMM_COOP.name).map(Kernel::plain);
    GEMM_VARIANTS.iter().copied().chain(cooperative::variants()).chain(others).chain([SMALL_KRON]).collect()
}
