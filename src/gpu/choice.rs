//! Which variant of a kernel serves an item's shape. Never the batch: results must not depend on how trials are grouped.

use super::kernels::{GEMM, KRON_FACTOR, Variant};
use crate::tensor::ElementType::{self, F16, F32};

/// Below this many elements on both sides of a result a 64 x 64 tile would be mostly padding.
const SMALL: usize = 48;

macro_rules! gemm_variants {
    ($(($small:literal, $a:ident, $b:ident) => [$($name:literal = $value:literal),*]),* $(,)?) => {
        /// The gemm variant for an `m x n` result, and its tile side.
        pub(crate) fn gemm(m: usize, n: usize, a: ElementType, b: ElementType) -> (Variant, usize) {
            let small = m.min(n) <= SMALL;
            let variant = match (small, a, b) {
                $(($small, $a, $b) => GEMM.with(&[$(($name, $value)),*]),)*
            };
            (variant, if small { 32 } else { 64 })
        }

        /// Every gemm variant, for tests and for `devices`.
        pub(crate) const GEMM_VARIANTS: &[Variant] = &[$(GEMM.with(&[$(($name, $value)),*])),*];
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

/// The `kron_factor` variant for a `q x q` factor, and its tile side.
pub(crate) fn kron_factor(q: usize) -> (Variant, usize) {
    if q <= SMALL { (SMALL_KRON, 32) } else { (KRON_FACTOR.plain(), 64) }
}

/// Every variant that a plan can need.
pub fn variants() -> Vec<Variant> {
    let others = super::kernels::KERNELS.iter().filter(|k| k.name != GEMM.name).map(super::kernels::Kernel::plain);
    GEMM_VARIANTS.iter().copied().chain(others).chain([SMALL_KRON]).collect()
}
