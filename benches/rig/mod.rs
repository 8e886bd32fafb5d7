//! What the benches share: devices, ceilings, made-up operands, one timing loop.
//!
//! `LAYERWISE_DEVICE` chooses: `cpu` (the default), `gpu` (any GPU, software included) or a part of an adapter's name; several by comma.
//! `LAYERWISE_BENCH_MAX` bounds the sides of matrices; default 1024.
//!
//! `LAYERWISE_BENCH_QUICK=1` finds each best time in a moment, without criterion: for tables of many benches, and where time is dear.
//!
//! Beside criterion's lines each bench prints one in tabs: `rate`, device, group, bench, best wall time in microseconds, best time on the GPU by its own clock
//! (`-` where it has none), rate by the smaller of them, unit, and what part of the device's ceiling that is (`-` where it has none).

pub(crate) mod operands;
#[cfg(feature = "gpu")]
mod stamps;

use std::cell::Cell;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use layerwise::plan::Axpby;
use layerwise::{Context, Plan, Prepared};

use operands::{bind, plan_of, product};

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
    /// As many flops, against the product.
    Nominal(u64),
}

/// True if each bench runs once to show that it works.
pub(crate) fn smoke() -> bool {
    !std::env::args().any(|a| a == "--bench") || std::env::args().any(|a| a == "--test")
}

/// True where the command line names no bench or a part of this one's name: criterion skips the others too, but only once they are made.
pub(crate) fn wanted(name: &str) -> bool {
    let mut parts = std::env::args().skip(1).filter(|a| !a.starts_with('-')).peekable();
    parts.peek().is_none() || parts.any(|part| name.contains(&part))
}

/// True where a moment has to be enough for each bench.
pub(crate) fn quick() -> bool {
    std::env::var("LAYERWISE_BENCH_QUICK").is_ok_and(|text| text == "1")
}

/// Criterion with short times: a bench is run before and after a change, in turn, rather than once for long.
pub(crate) fn criterion() -> Criterion {
    let short = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(400));
    short.without_plots().configure_from_args()
}

/// The largest side of a matrix.
pub(crate) fn largest() -> usize {
    std::env::var("LAYERWISE_BENCH_MAX").map_or(1024, |text| text.parse().expect("LAYERWISE_BENCH_MAX is a number"))
}

/// The chosen devices, with their ceilings.
pub(crate) fn devices() -> Vec<Device> {
    chosen().into_iter().map(|(name, context)| Device::new(&name, context)).collect()
}

/// The chosen devices alone.
pub(crate) fn contexts() -> Vec<Context> {
    chosen().into_iter().map(|named| named.1).collect()
}

fn chosen() -> Vec<(String, Context)> {
    let wanted = std::env::var("LAYERWISE_DEVICE").unwrap_or_default();
    let wanted = if wanted.is_empty() { "cpu".into() } else { wanted };
    wanted.split(',').map(|name| (name.into(), named(name))).collect()
}

/// Runs between two waits, where one takes `once` seconds: the next power of two within 20 ms, since what counts is the work, not how long the host takes to
/// notice its end.
pub(crate) fn between_waits(once: f64) -> u64 {
    (0..7).map(|i| 1u64 << i).find(|&runs| runs as f64 * once > 0.02).unwrap_or(64)
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
        let side = if smoke() { 32 } else { largest().clamp(32, if device.context.is_gpu() { 4096 } else { 1024 }) };
        // Sixteen matrices of that side, at most 64 MiB: well beyond caches where the side is.
        let rows = (16 * side).min((1 << 24) / side);
        let best = |plan: &Plan| {
            let mut bound = bind(&device.context, plan);
            let once = |bound: &mut Prepared| time(&device.context, bound, &[0], 1).as_secs_f64();
            once(&mut bound);
            let wall = (0..5).map(|_| once(&mut bound)).fold(f64::INFINITY, f64::min);
            device.gpu_time(&mut bound, &[0]).map_or(wall, |gpu| gpu.min(wall))
        };
        let product = product(1, side, side, side);
        let copy = plan_of(|r| Axpby::copy(r.value("x", [1, rows, side]), r.value("out", [1, rows, side])));
        let rates = (product.cost(None).flops as f64 / best(&product), copy.cost(None).bytes as f64 / best(&copy));
        (device.gemm, device.copy) = rates;
        if !smoke() {
            println!("ceiling\t{name}\t{}\tgemm f32 n = {side}\t{:.1} GFLOP/s", device.context.describe(), rates.0 * 1e-9);
            println!("ceiling\t{name}\t{}\tcopy of {} MiB\t{:.1} GB/s", device.context.describe(), (rows * side) >> 18, rates.1 * 1e-9);
        }
        device
    }

    /// One bench of a plan; prints its best rate and what part of the ceiling that is.
    pub(crate) fn bench(&self, group: &mut BenchmarkGroup<'_, WallTime>, title: &str, id: &str, plan: &Plan, bound: Bound) {
        if !wanted(&format!("{title}/{}/{id}", self.label)) {
            return;
        }
        let (prepared, segments, cost) = (&mut bind(&self.context, plan), &[0], plan.cost(None));
        let (work, throughput) = match bound {
            Bound::Flops => (cost.flops, Throughput::Elements(cost.flops)),
            Bound::Bytes => (cost.bytes, Throughput::BytesDecimal(cost.bytes)),
            Bound::Nominal(flops) => (flops, Throughput::Elements(flops)),
        };
        group.throughput(throughput);
        if let Some(wall) = self.measure(group, id, |runs| time(&self.context, prepared, segments, runs)) {
            let gpu = self.gpu_time(prepared, segments);
            self.print(title, id, wall, gpu, work as f64, bound);
        }
    }

    /// The line of a bench: seconds on the wall and on the GPU's clock, flops or bytes.
    pub(crate) fn print(&self, title: &str, id: &str, wall: f64, gpu: Option<f64>, work: f64, bound: Bound) {
        let (ceiling, unit) = if bound == Bound::Bytes { (self.copy, "GB/s") } else { (self.gemm, "GFLOP/s") };
        let rate = work / gpu.map_or(wall, |gpu| gpu.min(wall));
        let gpu = gpu.map_or("-".into(), |gpu| format!("{:.2}", gpu * 1e6));
        let (wall, part) = (wall * 1e6, 100.0 * rate / ceiling);
        let rate = rate * 1e-9;
        let digits = if rate < 0.1 { 5 } else { 2 };
        println!("rate\t{}\t{title}\t{id}\t{wall:.2}\t{gpu}\t{rate:.digits$}\t{unit}\t{part:.1} %", self.label);
    }

    /// What part of the ceiling so many flops in this time are, and their rate in GFLOP/s.
    #[cfg(feature = "gpu")]
    pub(crate) fn rate(&self, flops: u64, seconds: f64) -> (f64, f64) {
        let rate = flops as f64 / seconds;
        (rate / self.gemm, rate * 1e-9)
    }

    /// The best of a few runs by the GPU's clock.
    #[cfg(feature = "gpu")]
    pub(crate) fn gpu_time(&self, prepared: &mut Prepared, segments: &[usize]) -> Option<f64> {
        let stamps = stamps::Stamps::new(&self.context)?;
        // A clock that stands still, as some drivers' do, is none.
        let mut best = stamps.time(prepared, segments);
        // What is long is measured well enough by one run.
        for _ in 0..if best > 0.2 { 0 } else { 4 } {
            best = best.min(stamps.time(prepared, segments));
        }
        Some(best).filter(|&best| best > 0.0)
    }

    #[cfg(not(feature = "gpu"))]
    pub(crate) fn gpu_time(&self, _prepared: &mut Prepared, _segments: &[usize]) -> Option<f64> {
        None
    }

    /// One bench of anything that does `runs` turns and says how long they took. Returns the best turn's seconds.
    pub(crate) fn measure(&self, group: &mut BenchmarkGroup<'_, WallTime>, id: &str, mut run: impl FnMut(u64) -> Duration) -> Option<f64> {
        if quick() && !smoke() {
            return Some(glance(self.context.is_gpu(), run));
        }
        let best = Cell::new(f64::INFINITY);
        // On a GPU each turn is the mean of a batch with one wait at its end.
        let batch = if !self.context.is_gpu() || smoke() {
            1
        } else {
            run(1);
            between_waits(run(1).as_secs_f64())
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

/// The best time of a run in seconds, found in a moment: the first is for compilation and caches, one that is long is enough by itself.
pub(crate) fn glance(gpu: bool, mut run: impl FnMut(u64) -> Duration) -> f64 {
    run(1);
    let once = run(1).as_secs_f64();
    if once > 0.2 {
        return once;
    }
    let runs = if gpu { between_waits(once) } else { 1 };
    (0..5).map(|_| run(runs).as_secs_f64() / runs as f64).fold(once, f64::min)
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
