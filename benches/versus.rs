//! The workloads that others are timed on as well: `cargo bench --bench versus -- [PART..]` with parts of their names. See `rig` for the devices.
//!
//! `scripts/bench-peers` runs it in turn with `benches/peers` (burn, PyTorch), whose workloads have these names and this protocol: warm up, then repetitions of
//! as many runs as take 20 ms with one wait at the end. One line a workload, in tabs: `time`, `layerwise`, workload, median, minimum, repetitions;
//! times in microseconds for one run (of the study: for one trial and iteration).
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;

use std::time::{Duration, Instant};

use layerwise::feature_learning::{LinearRepresentation, Method as Scheme, experiment};
use layerwise::optim::{Accumulation, AdamW, EpsilonScale, Graft, Group, Method, Muon, Optimizer, Parameter, Sgd, Shampoo, Soap};
use layerwise::plan::Order;
use layerwise::{Context, Plan, Recorder, Shape, Tensor, linalg};

/// Repetitions go on for as long, after as long a warm-up: `PEERS_SPAN` seconds.
fn span() -> Duration {
    Duration::from_secs_f64(std::env::var("PEERS_SPAN").map_or(1.5, |text| text.parse().expect("PEERS_SPAN is a number of seconds")))
}

/// And repetitions at least as often.
const REPETITIONS: usize = 5;
/// Sets of gradients that take turns, so that statistics have something to gather.
const GRADIENTS: usize = 4;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wanted = |name: &str| parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()));
    for device in rig::contexts() {
        println!("info\tlayerwise\tdevice\t{}", device.describe());
        for (batch, n) in [(1, 256), (1, 512), (1, 1024), (64, 64)] {
            let name = format!("gemm {batch}x({n}x{n}x{n})");
            if wanted(&name) {
                plan(&device, &name, &rig::operands::product(batch, n, n, n));
            }
        }
        for (batch, n) in [(64, 64), (16, 128), (1, 512)] {
            let (eigh, cholesky) = (format!("eigh {batch}x({n}x{n})"), format!("cholesky {batch}x({n}x{n})"));
            if wanted(&eigh) {
                plan(&device, &eigh, &spectral(batch, n, |r, a| linalg::eigh(r, a, Order::Ascending).map(|_| ())));
            }
            if wanted(&cholesky) {
                plan(&device, &cholesky, &spectral(batch, n, |r, a| r.cholesky(a, 1e-3, None).map(|_| ())));
            }
        }
        for (list, shapes) in lists(device.is_gpu()) {
            for (method, cycle, config) in methods() {
                let name = format!("step {list} {method}");
                if wanted(&name) {
                    step(&device, &name, &shapes, cycle, config);
                }
            }
        }
        if wanted("study kfac") {
            study(&device);
        }
    }
}

fn spectral(batch: usize, n: usize, record: impl FnOnce(&mut Recorder, layerwise::Value) -> layerwise::Result<()>) -> Plan {
    let mut r = Recorder::new();
    let a = r.external("spd", Shape::new(batch, n, n)).expect("a shape without zeros");
    record(&mut r, a).expect("operands fit");
    r.finish()
}

/// Layers of a small network, few large ones, many small ones, tall ones.
fn lists(gpu: bool) -> Vec<(&'static str, Vec<(usize, usize)>)> {
    let mut lists = vec![
        ("mlp", vec![(128, 784), (128, 128), (10, 128)]),
        ("8x(512x512)", vec![(512, 512); 8]),
        ("64x(64x64)", vec![(64, 64); 64]),
        ("4x(1024x256)", vec![(1024, 256); 4]),
    ];
    if gpu && rig::largest() >= 2048 {
        lists.push(("4x(2048x2048)", vec![(2048, 2048); 4]));
    }
    lists
}

/// Names, steps in a run (a refresh every tenth step is a run of ten), and settings that do the same work as the peers' or more.
fn methods() -> [(&'static str, usize, Method); 8] {
    // torch.optim.Muon's, in f32 where it works in bf16.
    let muon = Muon { learning_rate: 1e-3, weight_decay: 0.1, ..Muon::default() };
    // pytorch-optimizer's SOAP keeps the first moment in the weight's coordinates and rotates it at each step; ours rotates it where the basis changes.
    let soap = |every| Soap { learning_rate: 1e-3, precondition_every: every, ..Soap::default() };
    // pytorch-optimizer's Shampoo: sums from 1e-6 I, whole sides, neither filter nor graft.
    let plain = Shampoo {
        learning_rate: 1e-3,
        beta1: 0.0,
        accumulation: Accumulation::Sum,
        epsilon: 1e-6,
        epsilon_scale: EpsilonScale::Absolute,
        ..Shampoo::default()
    };
    // Its ScalableShampoo: running averages without bias correction, blocks up to 512, ridge relative, SGD's norms, Nesterov momentum. Its iteration ends at a
    // residual of 1e-3, ours goes on to rounding.
    let grafted = |every| Shampoo {
        learning_rate: 1e-3,
        beta1: 0.0,
        accumulation: Accumulation::Ema,
        beta2: 0.999,
        bias_correction: false,
        epsilon_scale: EpsilonScale::Relative,
        graft: Graft::Sgd,
        momentum: 0.9,
        nesterov: true,
        block_size: 512,
        precondition_every: every,
        ..Shampoo::default()
    };
    [
        ("sgd", 1, Sgd { momentum: 0.9, ..Sgd::default() }.into()),
        ("adamw", 1, AdamW::default().into()),
        ("muon", 1, muon.into()),
        ("soap every step", 1, soap(1).into()),
        ("soap every 10", 10, soap(10).into()),
        ("shampoo every step", 1, plain.into()),
        ("shampoo grafted every step", 1, grafted(1).into()),
        ("shampoo grafted every 10", 10, grafted(10).into()),
    ]
}

/// One plan over and over.
fn plan(context: &Context, name: &str, plan: &Plan) {
    let mut prepared = rig::operands::bind(context, plan);
    measure(name, 1.0, &mut || (), &mut |runs| rig::time(context, &mut prepared, &[0], runs));
}

/// Steps over layers whose gradients are there.
fn step(context: &Context, name: &str, shapes: &[(usize, usize)], cycle: usize, config: Method) {
    let arena = || context.arena(&shapes.iter().map(|&(m, n)| Shape::matrix(m, n)).collect::<Vec<_>>()).expect("room for the layers");
    let (weights, gradients) = (arena(), arena());
    let mut uniform = rig::operands::uniform(1);
    let mut random = |tensor: &Tensor, scale: f32| -> Vec<f32> { (0..tensor.shape().elements()).map(|_| scale * uniform()).collect() };
    weights.iter().for_each(|w| w.write(&random(w, 0.1)).expect("a tensor takes its own size"));
    let sets: Vec<Vec<Vec<f32>>> = (0..GRADIENTS).map(|_| gradients.iter().map(|g| random(g, 1.0)).collect()).collect();
    let layer = |i: usize| Parameter::new(format!("layer{i}"), &weights[i], &gradients[i]);
    let group = (0..shapes.len()).map(layer).fold(Group::new(config), Group::parameter);
    let mut optimizer = Optimizer::builder(context).group(group).build().expect("a valid group");
    let before = weights.last().expect("a layer").read().expect("the device is there");
    let mut turn = 0;
    let mut renew = || {
        gradients.iter().zip(&sets[turn % GRADIENTS]).for_each(|(g, x)| g.write(x).expect("a tensor takes its own size"));
        turn += 1;
        context.wait().expect("the device is there");
    };
    measure(name, 1.0 / cycle as f64, &mut renew, &mut |runs| {
        let start = Instant::now();
        (0..runs * cycle as u64).for_each(|_| optimizer.step().expect("a step runs"));
        context.wait().expect("the device is there");
        start.elapsed()
    });
    let after = weights.last().expect("a layer").read().expect("the device is there");
    assert!(after.iter().all(|x| x.is_finite()) && after != before, "{name}: the weights did not move");
}

/// The study's KFAC from its start to its last metrics, every trial with data of its own.
fn study(context: &Context) {
    let (seeds, steps) = if rig::smoke() {
        (2, 2)
    } else if rig::quick() {
        (2, 20)
    } else {
        (16, 200)
    };
    let config = LinearRepresentation { seeds, steps, kappas: vec![1000.0], ..LinearRepresentation::default() };
    measure("study kfac", 1.0 / (seeds * steps) as f64, &mut || (), &mut |runs| {
        let start = Instant::now();
        for _ in 0..runs {
            let records = experiment::run(context, &config, Scheme::Kfac, &[1e-2], &mut |_| ()).expect("the study's settings are valid");
            assert!(records.iter().all(|r| r.measured.train_excess.is_finite()), "a trial diverged");
        }
        start.elapsed()
    });
}

/// Warms up, then prints the median and the minimum of one run times `scale`.
fn measure(name: &str, scale: f64, before: &mut dyn FnMut(), run: &mut dyn FnMut(u64) -> Duration) {
    if rig::smoke() {
        before();
        run(1);
        return;
    }
    let mut timed = |runs: u64| {
        before();
        run(runs).as_secs_f64() / runs as f64
    };
    let (warming, mut once, mut turns) = (Instant::now(), f64::INFINITY, 0);
    let least = if rig::quick() { 1 } else { 3 };
    while warming.elapsed() < span() || turns < least {
        once = once.min(timed(1));
        turns += 1;
    }
    let runs = rig::between_waits(once);
    if !rig::quick() {
        timed(runs);
    }
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < span() || times.len() < if rig::quick() { 1 } else { REPETITIONS } {
        times.push(timed(runs));
    }
    times.sort_by(f64::total_cmp);
    let (median, least) = (times[times.len() / 2] * scale * 1e6, times[0] * scale * 1e6);
    println!("time\tlayerwise\t{name}\t{median:.2}\t{least:.2}\t{}", times.len());
}
