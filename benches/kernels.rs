//! Single operations: `cargo bench --bench kernels`, with `LAYERWISE_DEVICE=cpu,gpu` side by side in one run.
//!
//! `ceiling` holds what the same run reaches at best: a large product (flops) and a large copy (4 bytes are read and 4 written an element).
#![allow(
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark stops at the first error; criterion's macros make undocumented items"
)]

mod device;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layerwise::plan::{Axpby, Distribution, RandomFill, ReduceKind};
use layerwise::{Bindings, Context, Recorder, Result, Shape, Value, linalg};

/// Records with one bound operand of this shape, filled with small numbers.
fn prepare(context: &Context, shape: Shape, record: impl Fn(&mut Recorder, Value) -> Result<()>) -> Result<layerwise::Prepared> {
    let mut r = Recorder::new();
    let x = r.external("x", shape)?;
    record(&mut r, x)?;
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let values: Vec<f32> = (0..shape.elements()).map(|i| ((i * 7919 + i / 31) % 1021) as f32 / 1021.0 - 0.5).collect();
    let mut bindings = Bindings::new();
    bindings.bind(x, &context.upload(shape, &values)?);
    context.prepare(&r.finish(), &bindings)
}

/// Times runs of all segments; on a GPU many are in flight before the one wait. Throughput is flops: criterion's `Gelem/s` are GFLOP/s.
fn run(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, context: &Context, prepared: &mut layerwise::Prepared) {
    group.throughput(Throughput::Elements(prepared.plan().cost(None).flops.max(1)));
    let segments: Vec<usize> = (0..prepared.plan().segments().len()).collect();
    group.bench_function(BenchmarkId::new(name, device::label(context)), |b| {
        b.iter_custom(|iterations| device::timed(context, iterations, || prepared.run(&segments).expect("run")));
    });
}

type Record = fn(&mut Recorder, Value) -> Result<()>;

fn square(r: &mut Recorder, x: Value) -> Result<()> {
    r.matmul(x, x).map(|_| ())
}

fn kernels(c: &mut Criterion) {
    let rows: [(&str, &str, Shape, Record); 12] = [
        ("ceiling", "product 1024", Shape::matrix(1024, 1024), square),
        ("ceiling", "copy 16M", Shape::matrix(4096, 4096), |r, x| {
            let out = r.scratch("out", Shape::matrix(4096, 4096))?;
            r.record(Axpby::copy(x, out))
        }),
        ("gemm", "256", Shape::matrix(256, 256), square),
        ("gemm", "64 x (64)", Shape::new(64, 64, 64), square),
        ("gemm", "skinny 1024x100 by 100x8", Shape::matrix(1024, 100), |r, x| r.matmul(x, x.row_range(0..8)?.t()).map(|_| ())),
        ("kron_factor", "9 x (1024, 100)", Shape::new(9, 1024, 100), |r, x| r.kron_factor(x).map(|_| ())),
        ("spd_inverse", "9 x 100", Shape::new(9, 1024, 100), |r, x| {
            let factor = r.kron_factor(x)?;
            linalg::spd_inverse(r, factor, 1e-2, None).map(|_| ())
        }),
        ("orthonormalise", "36 x (8, 100)", Shape::new(36, 8, 100), |r, x| linalg::orthonormalise(r, x).map(|_| ())),
        ("operator_norm", "36 x (8, 100)", Shape::new(36, 8, 100), |r, x| r.operator_norm(x).map(|_| ())),
        ("reduce", "sum_sq 36 x 100k", Shape::new(36, 1024, 100), |r, x| r.reduce(ReduceKind::SumSq, 1.0, x).map(|_| ())),
        ("random_fill", "signs 9 x 100k", Shape::new(9, 1, 2), |r, keys| fill(r, keys, Distribution::Rademacher)),
        ("random_fill", "normals 9 x 100k", Shape::new(9, 1, 2), |r, keys| fill(r, keys, Distribution::Normal)),
    ];
    for context in device::contexts() {
        for (group, name, shape, record) in &rows {
            let mut group = c.benchmark_group(*group);
            let mut prepared = prepare(&context, *shape, record).expect("prepare");
            run(&mut group, name, &context, &mut prepared);
        }
    }
}

fn fill(r: &mut Recorder, keys: Value, distribution: Distribution) -> Result<()> {
    let out = r.scratch("out", Shape::new(9, 1024, 100))?;
    let step = r.scratch("step", Shape::new(9, 1, 1))?;
    r.record(RandomFill { out, distribution, stream: 0, keys, step })
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = kernels
}
criterion_main!(benches);
