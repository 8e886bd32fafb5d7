//! Whole optimizer steps on the workloads, and with the settings, that other libraries' optimizers are timed with: the other side of `scripts/bench-peers`.
//!
//! `cargo bench --bench step -- workloads [PART OF A METHOD'S OR A WORKLOAD'S NAME ...]`. As there: made-up normal gradients, four sets in turn, copied in
//! outside of the timed part; a few steps before the first that counts; two threads on the CPU path. A line for each workload and method:
//!
//! ```text
//! DEVICE WORKLOAD METHOD median MILLISECONDS ms mean MILLISECONDS ms peer NAME
//! ```
//! The mean is over whole periods of `f` steps, the cadence of roots and bases: the number to compare where `f` is not 1.

use std::sync::Arc;
use std::time::{Duration, Instant};

use layerwise::optim::{Accumulation, AdamW, EpsilonScale, Graft, Group, Method, Muon, Optimizer, Parameter, Sgd, Shampoo, Soap};
use layerwise::plan::Distribution;
use layerwise::rng::Philox;
use layerwise::{Context, Shape, Tensor};

use super::rig;

/// Gradient sets that take turns.
const SETS: u32 = 4;
/// Steps before the first that counts.
const WARM: usize = 3;
/// Threads of the CPU path.
const THREADS: usize = 2;

/// Lists of `(rows, cols)`; the last needs a GPU.
fn workloads(gpu: bool) -> Vec<(&'static str, Vec<(usize, usize)>)> {
    let mut all = vec![
        ("mlp", vec![(128, 784), (128, 128), (10, 128)]),
        ("square8x512", vec![(512, 512); 8]),
        ("small64x64", vec![(64, 64); 64]),
        ("tall", vec![(1024, 256); 4]),
    ];
    if gpu {
        all.push(("big4x2048", vec![(2048, 2048); 4]));
    }
    all
}

/// A method of ours and what it is held against.
struct Rival {
    name: &'static str,
    /// The other library's, with its settings.
    peer: &'static str,
    /// Steps from one set of roots or bases to the next.
    period: usize,
    method: Method,
}

/// Each does the same work as its peer, or more.
fn rivals() -> Vec<Rival> {
    // PyTorch's SGD and AdamW: the same formulas.
    let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
    // PyTorch's Muon: the same five steps, in f32 where it works in bf16.
    let muon = Muon { learning_rate: 1e-3, weight_decay: 0.1, ..Muon::default() };
    // pytorch-optimizer's SOAP: the same statistics, projections, orthogonal iteration by QR and order of columns. It keeps the first moment in the weight's
    // coordinates and rotates it at each step, nikhilvyas' SOAP and this one rotate it where bases change: two products more there at each step, four here
    // at each refresh.
    let soap = |every| Soap { learning_rate: 1e-3, precondition_every: every, ..Soap::default() };
    // pytorch-optimizer's Shampoo: sums from 1e-6 I, roots by an f32 singular value decomposition of whole sides at each step, neither filter nor graft.
    let shampoo = Shampoo {
        learning_rate: 1e-3,
        beta1: 0.0,
        epsilon: 1e-6,
        epsilon_scale: EpsilonScale::Absolute,
        accumulation: Accumulation::Sum,
        ..Shampoo::default()
    };
    // pytorch-optimizer's ScalableShampoo (google-research's): running averages without bias correction in blocks up to 512, roots by coupled Newton with a
    // ridge of 1e-6 of the largest eigenvalue, grafted from SGD, Nesterov momentum. Its iteration ends at a residual of 1e-3, ours goes on to rounding.
    let scalable = |every| Shampoo {
        learning_rate: 1e-3,
        beta1: 0.0,
        accumulation: Accumulation::Ema,
        beta2: 0.999,
        bias_correction: false,
        block_size: 512,
        graft: Graft::Sgd,
        momentum: 0.9,
        nesterov: true,
        precondition_every: every,
        ..Shampoo::default()
    };
    let rival = |name, peer, period, method| Rival { name, peer, period, method };
    vec![
        rival("sgd", "torch.SGD", 1, sgd.into()),
        rival("adamw", "torch.AdamW", 1, AdamW::default().into()),
        rival("muon", "torch.Muon", 1, muon.into()),
        rival("soap f=10", "po.SOAP f=10", 10, soap(10).into()),
        rival("soap f=1", "po.SOAP f=1", 1, soap(1).into()),
        rival("shampoo f=1", "po.Shampoo f=1", 1, shampoo.into()),
        rival("scalable-shampoo f=1", "po.ScalableShampoo f=1", 1, scalable(1).into()),
        rival("scalable-shampoo f=10", "po.ScalableShampoo f=10", 10, scalable(10).into()),
    ]
}

/// Standard normals times `scale`.
fn normals(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut out = vec![0.0; count];
    Philox { key: [seed, 0] }.fill(Distribution::Normal, 0, 0, &mut out);
    out.iter_mut().for_each(|x| *x *= scale);
    out
}

/// One optimizer with its gradient sets.
struct Run {
    optimizer: Optimizer,
    gradients: Vec<Tensor>,
    sets: Vec<Vec<Vec<f32>>>,
    done: usize,
}

impl Run {
    fn new(context: &Context, method: Method, shapes: &[(usize, usize)]) -> Self {
        let sizes: Vec<Shape> = shapes.iter().map(|&(m, n)| Shape::matrix(m, n)).collect();
        let arena = || context.arena(&sizes).expect("room for the operands");
        let (weights, gradients) = (arena(), arena());
        for (seed, weight) in (1000..).zip(&weights) {
            weight.write(&normals(weight.shape().elements(), seed, 0.1)).expect("a tensor takes its own size");
        }
        let set = |s| (0..).zip(&sizes).map(|(i, size)| normals(size.elements(), SETS * i + s, 1.0)).collect();
        let layer = |i: usize| Parameter::new(format!("layer{i}"), &weights[i], &gradients[i]);
        let group = (0..shapes.len()).map(layer).fold(Group::new(method), Group::parameter);
        let optimizer = Optimizer::builder(context).group(group).build().expect("a valid group");
        Run { optimizer, gradients, sets: (0..SETS).map(set).collect(), done: 0 }
    }

    /// The time of one step, its gradient given.
    fn step(&mut self, context: &Context) -> Duration {
        let set = &self.sets[self.done % SETS as usize];
        self.gradients.iter().zip(set).for_each(|(gradient, values)| gradient.write(values).expect("a tensor takes its own size"));
        context.wait().expect("the device is there");
        let start = Instant::now();
        self.optimizer.step().expect("a step runs");
        context.wait().expect("the device is there");
        self.done += 1;
        start.elapsed()
    }
}

/// Times and prints all, but for those that `only` leaves out.
pub(super) fn run(only: &[String]) {
    let names = std::env::var("LAYERWISE_DEVICE").unwrap_or_default();
    for name in if names.is_empty() { "cpu" } else { &names }.split(',') {
        let context = if name == "cpu" {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().expect("two threads");
            Context::cpu_with_pool(Arc::new(pool))
        } else {
            rig::named(name)
        };
        for (workload, shapes) in workloads(context.is_gpu()) {
            for rival in rivals() {
                if only.is_empty() || only.iter().any(|part| rival.name.contains(part) || workload.contains(part)) {
                    let (median, mean) = times(&context, &rival, &shapes);
                    println!("{name} {workload:12} {:24} median {median:9.3} ms mean {mean:9.3} ms peer {}", rival.name, rival.peer);
                }
            }
        }
    }
}

/// Median and mean milliseconds of a step.
fn times(context: &Context, rival: &Rival, shapes: &[(usize, usize)]) -> (f64, f64) {
    let mut run = Run::new(context, rival.method, shapes);
    for _ in 0..WARM {
        run.step(context);
    }
    // Whole periods, at least as many steps as the peers are given, and for half a second.
    let (least, start) = (if rival.period > 1 { 2 * rival.period } else { 7 }, Instant::now());
    let mut times = Vec::new();
    while times.len() < least || (start.elapsed() < Duration::from_millis(500) && times.len() < 1000) || times.len() % rival.period != 0 {
        times.push(run.step(context).as_secs_f64() * 1e3);
        if rig::smoke() && times.len() == rival.period {
            break;
        }
    }
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], mean)
}
