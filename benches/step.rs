//! Optimizer steps on 64 layers of 64 x 64, and training iterations of the experiment: `cargo bench --bench step`.
#![allow(
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark stops at the first error; criterion's macros make undocumented items"
)]

mod device;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method as Scheme, experiment};
use layerwise::optim::{Adam, AdamW, Group, Kfac, Method, Optimizer, Parameter, Sgd};
use layerwise::{Context, Result, Shape};

const LAYERS: usize = 64;

fn optimizer(context: &Context, method: Method) -> Result<Optimizer> {
    let shapes = [Shape::matrix(64, 64); LAYERS];
    let taps = [Shape::matrix(256, 64); LAYERS];
    let (weights, gradients) = (context.arena(&shapes)?, context.arena(&shapes)?);
    let (inputs, outputs) = (context.arena(&taps)?, context.arena(&taps)?);
    let mut group = Group::new(method);
    for layer in 0..LAYERS {
        #[allow(clippy::cast_precision_loss, reason = "small numbers")]
        let values: Vec<f32> = (0..256 * 64).map(|i| ((i * 7919 + layer * 31) % 1021) as f32 / 1021.0 - 0.5).collect();
        weights[layer].write(&values[..64 * 64])?;
        gradients[layer].write(&values[..64 * 64])?;
        inputs[layer].write(&values)?;
        outputs[layer].write(&values)?;
        let parameter = Parameter::new(format!("layer{layer}"), &weights[layer], &gradients[layer]);
        group = group.parameter(parameter.samples(&inputs[layer], &outputs[layer]));
    }
    Optimizer::builder(context).group(group).build()
}

/// Throughput counts weights: criterion's `elem/s` are weights updated per second.
fn steps(c: &mut Criterion) {
    let methods: [(&str, Method); 5] = [
        ("sgd", Sgd { momentum: 0.9, ..Sgd::default() }.into()),
        ("adam", Adam::default().into()),
        ("adamw", AdamW::default().into()),
        ("kfac", Kfac::default().into()),
        ("kfac every 16", Kfac { precondition_every: 16, ..Kfac::default() }.into()),
    ];
    for context in device::contexts() {
        let mut group = c.benchmark_group("64 layers of 64 x 64");
        group.throughput(Throughput::Elements((LAYERS * 64 * 64) as u64));
        for (name, method) in &methods {
            let mut optimizer = optimizer(&context, *method).expect("build");
            group.bench_function(BenchmarkId::new(*name, device::label(&context)), |b| {
                b.iter_custom(|iterations| device::timed(&context, iterations, || optimizer.step().expect("step")));
            });
        }
    }
}

/// Throughput counts trials times steps.
fn sweep(c: &mut Criterion) {
    let config = LinearRepresentation { steps: 20, log_points: LogPoints::Every(20), ..LinearRepresentation::default() };
    for context in device::contexts() {
        let mut group = c.benchmark_group("linear representation, 20 steps");
        for method in [Scheme::Sgd, Scheme::Kfac] {
            let rates = method.learning_rates();
            let trials = rates.len() * config.kappas.len() * config.seeds;
            group.throughput(Throughput::Elements((trials * config.steps) as u64));
            group.bench_function(BenchmarkId::new(method.name(), device::label(&context)), |b| {
                b.iter(|| experiment::run(&context, &config, method, rates, &mut |_| ()).expect("run"));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = steps, sweep
}
criterion_main!(benches);
