//! What the benches share: devices, ceilings, made-up operands, one timing loop.
//!
//! `LAYERWISE_DEVICE` chooses: `cpu` (the default), `gpu` (any GPU, software included) or a part of an adapter's name; several by comma.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use layerwise::feature_learning::experiment::{RateSchedule, block_row};
use layerwise::plan::{Axpby, Cost, Gemm, Op, Role, block};
use layerwise::{Bindings, Context, Plan, Prepared, Recorder, Shape, Value};

/// A device and what it reaches at best, measured in this run.
pub(crate) struct Device {
    pub(crate) context: Context,
    /// The name in bench ids.
    pub(crate) label: String,
    /// Flop/s of a large matrix product.
    gemm: f64,
    /// Bytes/s of a large copy.
    copy: f64,
}

/// Which ceiling a bench is held against.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    /// Flops, against the product.
    Flops,
    /// Bytes, against the copy.
    Bytes,
}

/// True if each bench runs once to show that it works.
pub(crate) fn smoke() -> bool {
    !std::env::args().any(|a| a == "--bench") || std::env::args().any(|a| a == "--test")
}

/// Criterion with short times: a bench is run before and after a change, in turn, rather than once for long.
pub(crate) fn criterion() -> Criterion {
    let short = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    short.without_plots().configure_from_args()
}

/// The chosen devices, with their ceilings.
pub(crate) fn devices() -> Vec<Device> {
    let wanted = std::env::var("LAYERWISE_DEVICE").unwrap_or_default();
    let wanted = if wanted.is_empty() { "cpu".into() } else { wanted };
    wanted.split(',').map(|name| Device::new(name, named(name))).collect()
}

#[cfg(feature = "gpu")]
pub(crate) fn named(name: &str) -> Context {
    match name {
        "cpu" => Context::cpu(),
        "gpu" => Context::gpu_any().expect("LAYERWISE_DEVICE=gpu needs an adapter"),
        part => Context::gpu_named(part).expect("LAYERWISE_DEVICE is `cpu`, `gpu` or a part of an adapter's name"),
    }
}

#[cfg(not(feature = "gpu"))]
pub(crate) fn named(name: &str) -> Context {
    assert_eq!(name, "cpu", "LAYERWISE_DEVICE: without feature gpu there is only the CPU path");
    Context::cpu()
}

impl Device {
    fn new(name: &str, context: Context) -> Self {
        let mut device = Device { context, label: name.into(), gemm: f64::NAN, copy: f64::NAN };
        let (side, words) = if smoke() { (32, 1024) } else { (1024, 1 << 24) };
        let best = |plan: &Plan| {
            let mut bound = bind(&device.context, plan);
            let once = |bound: &mut Prepared| time(&device.context, bound, &[0], 1).as_secs_f64();
            once(&mut bound);
            (0..5).map(|_| once(&mut bound)).fold(f64::INFINITY, f64::min)
        };
        let product = product(1, side, side, side);
        let copy = plan_of(|r| Axpby::copy(r.value("x", [1, 1024, words / 1024]), r.value("out", [1, 1024, words / 1024])));
        let rates = (product.cost(None).flops as f64 / best(&product), copy.cost(None).bytes as f64 / best(&copy));
        (device.gemm, device.copy) = rates;
        let ceilings = format!("gemm n = {side} {:.1} GFLOP/s, copy of {} MiB {:.1} GB/s", rates.0 * 1e-9, words >> 18, rates.1 * 1e-9);
        if !smoke() {
            println!("{name}: {}; {ceilings}", device.context.describe());
        }
        device
    }

    /// One bench of `segments` of a prepared plan; prints its best rate and what part of the ceiling that is.
    pub(crate) fn bench(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        id: &str,
        prepared: &mut Prepared,
        segments: &[usize],
        bound: Bound,
    ) {
        let cost: Cost = segments.iter().map(|&s| prepared.plan().cost(Some(s))).sum();
        let (work, ceiling, unit) = match bound {
            Bound::Flops => (cost.flops, self.gemm, "GFLOP/s"),
            Bound::Bytes => (cost.bytes, self.copy, "GB/s"),
        };
        group.throughput(if bound == Bound::Flops { Throughput::Elements(work) } else { Throughput::BytesDecimal(work) });
        if let Some(best) = self.measure(group, id, |runs| time(&self.context, prepared, segments, runs)) {
            let rate = work as f64 / best;
            println!("    best: {:.2} us, {:.2} {unit}, {:.1} % of the ceiling", best * 1e6, rate * 1e-9, 100.0 * rate / ceiling);
        }
    }

    /// One bench of anything that does `runs` turns and says how long they took. Returns the best turn's seconds.
    pub(crate) fn measure(&self, group: &mut BenchmarkGroup<'_, WallTime>, id: &str, mut run: impl FnMut(u64) -> Duration) -> Option<f64> {
        let best = Cell::new(f64::INFINITY);
        // On a GPU each turn is the mean of a batch with one wait at its end: what counts is the work, not how long the host takes to notice.
        let batch = if !self.context.is_gpu() || smoke() {
            1
        } else {
            run(1);
            let once = run(1).as_secs_f64();
            // The next power of two within 20 ms.
            (0..7).map(|i| 1u64 << i).find(|&runs| runs as f64 * once > 0.02).unwrap_or(64)
        };
        group.bench_function(format!("{}/{id}", self.label), |b| {
            b.iter_custom(|iterations| {
                let total = (0..iterations).map(|_| run(batch)).sum::<Duration>().div_f64(batch as f64);
                best.set(best.get().min(total.as_secs_f64() / iterations as f64));
                total
            });
        });
        (best.get().is_finite() && !smoke()).then_some(best.get())
    }
}

/// The time of `runs` runs, with one wait at the end.
pub(crate) fn time(context: &Context, prepared: &mut Prepared, segments: &[usize], runs: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..runs {
        prepared.run(segments).expect("the plan runs");
    }
    context.wait().expect("the device is there");
    start.elapsed()
}

/// Records a plan whose operands are all external, so that [`bind`] fills them.
pub(crate) struct Values<'a>(&'a mut Recorder);

impl Values<'_> {
    pub(crate) fn value(&mut self, name: &str, [batch, rows, cols]: [usize; 3]) -> Value {
        self.0.external(name, Shape::new(batch, rows, cols)).expect("a shape without zeros")
    }
}

/// A plan of one operation.
pub(crate) fn plan_of<O: Into<Op>>(op: impl FnOnce(&mut Values<'_>) -> O) -> Plan {
    let mut recorder = Recorder::new();
    let op = op(&mut Values(&mut recorder)).into();
    recorder.record(op).expect("operands fit");
    recorder.finish()
}

/// A batch of products.
pub(crate) fn product(batch: usize, m: usize, k: usize, n: usize) -> Plan {
    plan_of(|r| Gemm::new(r.value("a", [batch, m, k]), r.value("b", [batch, k, n]), r.value("out", [batch, m, n])))
}

/// Binds every external and state value to made-up numbers, by its name: `block`s are hyper-parameters, a square `..root` or `..spd` is near the identity,
/// `..keys` are bit patterns, `..step` and Adam's moments are 0, and the rest is uniform in (-1, 1).
pub(crate) fn bind(context: &Context, plan: &Plan) -> Prepared {
    let (mut bindings, mut seen, mut seed) = (Bindings::new(), HashSet::new(), 0x9E37_79B9_7F4A_7C15u64);
    let mut uniform = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut row = block_row(1e-3, RateSchedule::Constant, 1000);
    (row[block::MOMENTUM as usize], row[block::WEIGHT1 as usize], row[block::WEIGHT2 as usize]) = (0.9, 1.0, 1.0);
    row[block::GATE as usize] = 1.0;
    for value in plan.ops().iter().flat_map(Op::operands).map(|operand| operand.1) {
        let info = plan.info(value).expect("a value of the plan");
        if info.role == Role::Scratch || !seen.insert(info.name.clone()) {
            continue;
        }
        let (name, shape) = (info.name.as_str(), info.shape);
        let number = |i: usize| {
            if name.contains("block") {
                row[i % row.len()]
            } else if (name.ends_with("root") || name.ends_with("spd")) && shape.rows == shape.cols {
                let on_diagonal = (i % (shape.rows * shape.cols)).is_multiple_of(shape.cols + 1);
                if on_diagonal { 1.0 } else { 0.1 * uniform() / shape.cols as f32 }
            } else if name.ends_with("step") || name.starts_with("m_") || name.starts_with("v_") {
                0.0
            } else if name.ends_with("keys") {
                f32::from_bits(u32::try_from(i).unwrap_or(0))
            } else {
                uniform()
            }
        };
        let numbers: Vec<f32> = (0..shape.elements()).map(number).collect();
        bindings.bind(value, &context.upload(shape, &numbers).expect("room for the operands"));
    }
    context.prepare(plan, &bindings).expect("every value is bound")
}
