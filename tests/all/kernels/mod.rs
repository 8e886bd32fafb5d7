//! The kernel test table: every operation and variant, over shapes that hurt, against f64 oracles, on the CPU path, the GPU and the GL adapter.

mod activation;
mod control;
mod curvature;
mod elementwise;
mod factor;
mod gemm;
mod half;
mod network;
mod orthonormal;
mod polar;
mod random;
mod reduce;
mod spectral;
mod stage;
mod update;

pub(crate) use activation::erf;
use std::collections::BTreeSet;

use layerwise::Context;
use layerwise::plan::Op;

use crate::case::{Case, Outcome, case_host, case_kernel};

/// One row: operation, variant, test.
type Row = (&'static str, &'static str, fn(&Context) -> Outcome);

/// Shapes of one matrix: single elements, vectors, primes, a tile and its neighbours, tall, wide, larger than a workgroup's reach.
const SHAPES: [(usize, usize); 14] = [
    (1, 1),
    (1, 67),
    (67, 1),
    (2, 3),
    (31, 67),
    (67, 127),
    (63, 64),
    (64, 64),
    (65, 64),
    (64, 65),
    (300, 3),
    (3, 300),
    (127, 300),
    (257, 5),
];

/// The batch of the i-th shape.
fn batch(i: usize) -> usize {
    [1, 3, 7][i % 3]
}

fn rows() -> Vec<Row> {
    [
        gemm::ROWS,
        half::ROWS,
        factor::ROWS,
        elementwise::ROWS,
        activation::ROWS,
        reduce::ROWS,
        spectral::ROWS,
        orthonormal::ROWS,
        polar::ROWS,
        random::ROWS,
        control::ROWS,
        curvature::ROWS,
        network::ROWS,
        update::ROWS,
    ]
    .concat()
}

fn every_operation_has_a_row() -> Outcome {
    let named: BTreeSet<&str> = rows().iter().map(|row| row.0).collect();
    let wanted: BTreeSet<&str> = Op::NAMES.iter().copied().collect();
    if named == wanted {
        return Ok(());
    }
    Err(format!("rows differ from `Op::NAMES`: {:?}", named.symmetric_difference(&wanted)).into())
}

/// Every variant of the products, on every row; cooperative matrices have rows of their own.
#[cfg(feature = "gpu")]
pub(crate) fn variant_trials() -> Vec<libtest_mimic::Trial> {
    use layerwise::gpu::GemmVariant;
    let products = rows().into_iter().filter(|row| matches!(row.0, "gemm" | "kron_factor") && !row.1.starts_with("half_"));
    let trials = products.flat_map(|(op, name, test)| {
        let variants = GemmVariant::ALL.into_iter().filter(|v| *v != GemmVariant::Cooperative);
        variants.map(move |variant| crate::case::trial_variant(&format!("kernels::{op}::{name}"), variant, test))
    });
    trials.collect()
}

pub(crate) fn cases() -> Vec<Case> {
    let table = rows().into_iter().map(|(op, variant, test)| case_kernel(format!("kernels::{op}::{variant}"), test));
    table.chain([case_host("kernels::every_operation_has_a_row", every_operation_has_a_row)]).collect()
}
