//! Every integration test, in one binary: the same cases on the CPU path, on a GPU and, for kernels, on the GL adapter.
//!
//! `LAYERWISE_ADAPTER=part` picks the GPU by a part of its name; otherwise it is the best one, software included. Without an adapter the GPU cases fail;
//! `LAYERWISE_GPU=off` shows them as ignored instead. Cases on the GL adapter are ignored where there is none, unless `LAYERWISE_GL=1` demands it.
//! `LAYERWISE_ROWS=drivers` runs what every further driver has to pass; `LAYERWISE_COOPERATIVE=1` demands cooperative matrices of the GPU.

mod batch_norm;
mod case;
mod compare;
mod docs;
#[cfg(feature = "gpu")]
mod drivers;
#[cfg(feature = "gpu")]
mod embed;
mod faults;
#[cfg(feature = "gpu")]
mod fours;
mod golden;
mod kernels;
#[cfg(feature = "gpu")]
mod ladder;
mod linalg;
mod matrix_functions;
mod optimizers;
mod oracle;
#[cfg(feature = "gpu")]
mod parity;
mod plans;
#[cfg(feature = "serde")]
mod replay;
mod reproduction;
mod second_order;
#[cfg(feature = "gpu")]
mod shaders;
mod single_index;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let mut cases = compare::cases();
    cases.extend(oracle::cases());
    cases.extend(plans::cases());
    cases.extend(kernels::cases());
    cases.extend(faults::cases());
    cases.extend(docs::cases());
    cases.extend(linalg::cases());
    cases.extend(matrix_functions::cases());
    cases.extend(golden::cases());
    cases.extend(optimizers::cases());
    cases.extend(reproduction::cases());
    cases.extend(batch_norm::cases());
    cases.extend(second_order::cases());
    cases.extend(single_index::cases());
    #[cfg(feature = "serde")]
    cases.extend(replay::cases());
    #[cfg(feature = "gpu")]
    cases.extend(embed::cases());
    #[cfg(feature = "gpu")]
    cases.extend(drivers::cases());
    #[cfg(feature = "gpu")]
    cases.extend(fours::cases());
    #[cfg(feature = "gpu")]
    cases.extend(parity::cases());
    #[cfg(feature = "gpu")]
    cases.extend(shaders::cases());
    #[cfg(feature = "gpu")]
    cases.extend(ladder::cases());
    #[allow(unused_mut, reason = "without GPU there are no variants")]
    let mut trials: Vec<_> = cases.into_iter().flat_map(case::Case::trials).collect();
    #[cfg(feature = "gpu")]
    trials.extend(kernels::variant_trials());
    #[cfg(feature = "gpu")]
    let trials = drivers::select(trials);
    libtest_mimic::run(&arguments, trials).exit_code()
}
