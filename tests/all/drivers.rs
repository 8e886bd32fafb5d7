//! The rows that every further driver has to pass: the kernel table, and one row a routine of `linalg` and a method of `optim`.
//!
//! `LAYERWISE_ROWS=drivers` runs these alone, on the GPU (`scripts/drivers`).

use std::collections::BTreeSet;

use libtest_mimic::Trial;

use crate::case::{Case, Outcome, case_host};
use crate::optimizers::methods;

/// What is tested, and the case that does it.
const ROWS: &[(&str, &str)] = &[
    ("eigh", "spectra::eigh"),
    ("inverse_root", "matrix_functions::order_64"),
    ("least_squares", "linalg::least_squares"),
    ("orthonormalise", "linalg::orthonormalise"),
    ("polar", "polar::exact"),
    ("polar", "polar::half"),
    ("qr", "linalg::qr"),
    ("spd_inverse", "linalg::spd_inverse"),
    ("spd_solve", "linalg::spd_solve"),
    ("spectral_norm", "spectra::spectral_norm"),
    ("Sgd", "golden::torch_sgd_nesterov"),
    ("Adam", "golden::torch_adam"),
    ("AdamW", "golden::torch_adamw"),
    ("Kfac", "golden::kfac_pytorch_inverse"),
    ("Foof", "optimizers::curvature::foof_direction"),
    ("NaturalGradient", "optimizers::curvature::natural_gradient_direction"),
    ("Shampoo", "golden::dshampoo_adamgraft"),
    ("EigenvalueCorrectedShampoo", "golden::dshampoo_eigcorrected_eigh"),
    ("Soap", "golden::soap_f1"),
    ("Muon", "golden::torch_muon_default"),
    ("Muon", "optimizers::muon::half"),
];

/// Rows of the kernel table that are about grids beyond 65535 workgroups: minutes where a workgroup is dear. They run where everything does.
const LARGE_GRIDS: &str = "::many_";

/// What a host gets that enables what we ask for.
const FEATURES: &str = "embed::hosts::cooperative_matrices";

fn wanted(name: &str) -> bool {
    let Some(name) = name.strip_suffix("::gpu") else { return false };
    // `kernels::operation::row`, and of each variant of the products a few rows.
    let mut parts = name.split("::").skip(2);
    let (row, variant) = (parts.next().unwrap_or_default(), parts.next());
    let table = variant.is_none() || matches!(row, "plain" | "symmetric" | "running_average");
    ROWS.iter().any(|(_, case)| *case == name)
        || name == FEATURES
        || (name.starts_with("kernels::") && table && !name.contains(LARGE_GRIDS))
}

/// All trials, or those that `LAYERWISE_ROWS` asks for; what can't be selected is a trial that fails.
pub(crate) fn select(trials: Vec<Trial>) -> Vec<Trial> {
    let refuse = |message: String| vec![Trial::test("drivers::select", move || Err::<(), _>(message.into()))];
    match std::env::var("LAYERWISE_ROWS").unwrap_or_default().as_str() {
        "" => trials,
        "drivers" => {
            let names: BTreeSet<&str> = trials.iter().map(Trial::name).collect();
            let cases = ROWS.iter().map(|row| row.1).chain([FEATURES]);
            let missing: Vec<&str> = cases.filter(|case| !names.contains(format!("{case}::gpu").as_str())).collect();
            if !missing.is_empty() {
                return refuse(format!("no such cases: {missing:?}"));
            }
            trials.into_iter().filter(|t| wanted(t.name())).collect()
        }
        other => refuse(format!("LAYERWISE_ROWS is `{other}`; it can be `drivers`, or nothing for everything")),
    }
}

/// Every routine and every method has a row.
fn complete() -> Outcome {
    let source = include_str!("../../src/linalg/mod.rs");
    let exported = source.lines().filter_map(|l| l.strip_prefix("pub use "));
    let names = exported.flat_map(|l| l.split(|c: char| !(c.is_alphanumeric() || c == '_')).skip(1));
    let routines = names.filter(|n| n.starts_with(|c: char| c.is_ascii_lowercase())).map(str::to_owned);
    let methods = methods().into_iter().map(|m| format!("{m:?}").split('(').next().unwrap_or_default().to_owned());
    let want: BTreeSet<String> = routines.chain(methods).collect();
    let have: BTreeSet<String> = ROWS.iter().map(|row| row.0.to_owned()).collect();
    if want == have { Ok(()) } else { Err(format!("rows differ: {:?}", want.symmetric_difference(&have)).into()) }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![case_host("drivers::every_routine_and_method_has_a_row", complete)]
}
