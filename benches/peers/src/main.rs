//! Times burn on the workloads that the bench `versus` of layerwise times: `layerwise-peers [PART..]` with parts of the workloads' names.
//!
//! The adapter is burn's default, or the one of `CUBECL_WGPU_DEFAULT_DEVICE` (`Cpu`, `DiscreteGpu(0)`, ..). Burn's own tuner is on and done before the clock
//! starts. One line a workload, in tabs: `time`, `burn`, workload, median, minimum, repetitions; times in microseconds for one run of the workload.

use std::time::{Duration, Instant};

use burn::optim::{AdamWConfig, MuonConfig, Optimizer};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};

/// Repetitions go on for as long, after as long a warm-up: `PEERS_SPAN` seconds.
fn span() -> Duration {
    Duration::from_secs_f64(std::env::var("PEERS_SPAN").map_or(1.5, |text| text.parse().expect("PEERS_SPAN is a number of seconds")))
}

/// And repetitions at least as often.
const REPETITIONS: usize = 5;
/// Runs between two waits: a power of two that takes about as long, but no more than 64.
const BETWEEN_WAITS: f64 = 0.02;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    let device = Device::wgpu(DeviceKind::DefaultDevice);
    let identity = device.identity();
    println!("info\tburn\tversion\t0.22.1, features wgpu{}, fusion, autotune", if cfg!(feature = "spirv") { ", vulkan" } else { "" });
    println!("info\tburn\tadapter\t{}", identity.map_or("unknown".into(), |i| format!("{} ({})", i.name, i.fingerprint)));
    for (batch, n) in [(1, 256), (1, 512), (1, 1024), (64, 64)] {
        let name = format!("gemm {batch}x({n}x{n}x{n})");
        if wanted(&name) {
            gemm(&device, &name, batch, n);
        }
    }
    if wanted("step 64x(64x64) muon") {
        step(&device, "step 64x(64x64) muon", MuonConfig::new().build());
    }
    if wanted("step 64x(64x64) adamw") {
        step(&device, "step 64x(64x64) adamw", AdamWConfig::new().build());
    }
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// A batch of square products, with one element of the last result held against its sum.
fn gemm(device: &Device, name: &str, batch: usize, n: usize) {
    let (a, b) = (random([batch, n, n], device), random([batch, n, n], device));
    let mut last = None;
    measure(device, name, |runs| last = (0..runs).map(|_| a.clone().matmul(b.clone())).last());
    let row = a.slice([0..1, n - 1..n, 0..n]).into_data().to_vec::<f32>().expect("f32");
    let column = b.slice([0..1, 0..n, 0..1]).into_data().to_vec::<f32>().expect("f32");
    let expected: f64 = row.iter().zip(&column).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    let found = last.expect("a run").slice([0..1, n - 1..n, 0..1]).into_data().to_vec::<f32>().expect("f32")[0];
    assert!((f64::from(found) - expected).abs() < 1e-3 * (n as f64).sqrt(), "{name}: {found} instead of {expected}");
}

/// One step over 64 layers, each with its own weight, gradient and state, as burn's adaptor for modules does it.
fn step<O: Optimizer>(device: &Device, name: &str, optimizer: O) {
    let mut layers: Vec<_> = (0..64).map(|_| (random([64, 64], device), random([64, 64], device), None)).collect();
    let before = layers[63].0.clone().into_data().to_vec::<f32>().expect("f32");
    measure(device, name, |runs| {
        for _ in 0..runs {
            for (weight, gradient, state) in &mut layers {
                let (next, kept) = optimizer.step(1e-3, weight.clone(), gradient.clone(), state.take());
                (*weight, *state) = (next, kept);
            }
        }
    });
    let after = layers[63].0.clone().into_data().to_vec::<f32>().expect("f32");
    assert!(after.iter().all(|x| x.is_finite()) && after != before, "{name}: the weights did not move");
}

/// Warms up, then prints the median and the minimum of one run.
fn measure(device: &Device, name: &str, mut run: impl FnMut(usize)) {
    let mut timed = |runs: usize| {
        let start = Instant::now();
        run(runs);
        // Burn is lazy: this hands over what is pending and waits for it.
        device.sync().expect("the device is there");
        start.elapsed().as_secs_f64() / runs as f64
    };
    let (warming, mut once, mut turns) = (Instant::now(), f64::INFINITY, 0);
    while warming.elapsed() < span() || turns < 3 {
        once = once.min(timed(1));
        turns += 1;
    }
    let runs = (0..7).map(|i| 1usize << i).find(|&runs| runs as f64 * once > BETWEEN_WAITS).unwrap_or(64);
    timed(runs);
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < span() || times.len() < REPETITIONS {
        times.push(timed(runs));
    }
    times.sort_by(f64::total_cmp);
    println!("time\tburn\t{name}\t{:.1}\t{:.1}\t{}", times[times.len() / 2] * 1e6, times[0] * 1e6, times.len());
}
