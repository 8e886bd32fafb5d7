//! One training step of the linear-representation study, in microseconds per trial: `cargo bench --bench sweep`. See `rig` for the devices and printed lines.
//!
//! `shared` has four learning rates on each of nine data items, as the study; `own` has 36 data items of one trial, as a framework's loop over runs.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;

use criterion::Throughput;
use layerwise::feature_learning::{LinearRepresentation, Method, experiment};
use rig::Bound;

fn main() {
    let mut criterion = rig::criterion();
    for device in rig::devices() {
        for method in [Method::Kfac, Method::Sgd] {
            let mut group = criterion.benchmark_group(format!("sweep {method}"));
            for (id, seeds, rates) in [("shared", 3, 4), ("own", 12, 1)] {
                let config = LinearRepresentation { seeds, ..LinearRepresentation::default() };
                let rates: Vec<f64> = (1..=rates).map(|i| 1e-3 * f64::from(i)).collect();
                let plan = experiment::plan(&config, method, &rates).expect("the study's defaults are valid");
                let step = plan.segments().iter().position(|s| s.name == "step").expect("the study has steps");
                let mut prepared = rig::operands::bind(&device.context, &plan);
                let trials = config.kappas.len() * seeds * rates.len();
                group.throughput(Throughput::Elements(trials as u64));
                let run = |runs| rig::time(&device.context, &mut prepared, &[step], runs);
                if let Some(wall) = device.measure(&mut group, &format!("{id} {trials} trials"), run) {
                    let gpu = device.gpu_time(&mut prepared, &[step]).map(|gpu| gpu / trials as f64);
                    let flops = prepared.plan().cost(Some(step)).flops as f64 / trials as f64;
                    device.print(
                        &format!("sweep {method}"),
                        &format!("{id} {trials} trials, of one"),
                        wall / trials as f64,
                        gpu,
                        flops,
                        Bound::Flops,
                    );
                }
            }
        }
    }
    criterion.final_summary();
}
