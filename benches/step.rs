//! Whole optimizer steps: `cargo bench --bench step`; `-- workloads` for those that other libraries are timed with. See `rig` for the devices, and `record`
//! for what recording costs.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;
#[path = "step/workloads.rs"]
mod workloads;

use std::time::Instant;

use criterion::Throughput;
use layerwise::optim::{AdamW, Group, Kfac, Method, Optimizer, Parameter, Sgd};
use layerwise::{Context, Shape, Tensor};

/// Samples in the taps.
const SAMPLES: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    if let Some(("workloads", only)) = arguments.split_first().map(|(first, only)| (first.as_str(), only)) {
        return workloads::run(only);
    }
    let mut criterion = rig::criterion();
    for device in rig::devices() {
        for (list, shapes) in [("64x(64x64)", vec![(64, 64); 64]), ("mixed", mixed())] {
            let mut group = criterion.benchmark_group(format!("step {list}"));
            let elements: usize = shapes.iter().map(|(m, n)| m * n).sum();
            for (name, method) in methods() {
                if !rig::wanted(&format!("step {list}/{}/{name}", device.label)) {
                    continue;
                }
                let mut optimizer = optimizer(&device.context, method, &shapes);
                group.throughput(Throughput::Elements(elements as u64));
                let run = |runs| {
                    let start = Instant::now();
                    (0..runs).for_each(|_| optimizer.step().expect("a step runs"));
                    device.context.wait().expect("the device is there");
                    start.elapsed()
                };
                if let Some(best) = device.measure(&mut group, name, run) {
                    let (time, each) = (best * 1e6, best * 1e9 / elements as f64);
                    println!("rate\t{}\tstep {list}\t{name}\t{time:.2}\t-\t{each:.2}\tns per weight\t-", device.label);
                }
            }
        }
    }
    criterion.final_summary();
}

fn methods() -> [(&'static str, Method); 4] {
    [
        ("sgd", Sgd { momentum: 0.9, ..Sgd::default() }.into()),
        ("adamw", AdamW::default().into()),
        ("kfac", Kfac::default().into()),
        ("kfac every 16", Kfac { precondition_every: 16, ..Kfac::default() }.into()),
    ]
}

/// A small network's layers: no two neighbours alike, so hardly a stack.
fn mixed() -> Vec<(usize, usize)> {
    [(256, 784), (256, 256), (128, 256), (128, 128), (128, 100), (64, 128), (32, 64), (15, 32), (8, 100), (15, 8)].repeat(2)
}

fn optimizer(context: &Context, method: Method, shapes: &[(usize, usize)]) -> Optimizer {
    let arena = |size: &dyn Fn(usize, usize) -> Shape, scale: f32| -> Vec<Tensor> {
        let tensors = context.arena(&shapes.iter().map(|&(m, n)| size(m, n)).collect::<Vec<_>>()).expect("room for the operands");
        for tensor in &tensors {
            let wave: Vec<f32> = (0..tensor.shape().elements()).map(|i| scale * (i as f32 * 0.37).sin()).collect();
            tensor.write(&wave).expect("a tensor takes its own size");
        }
        tensors
    };
    let (weights, gradients) = (arena(&Shape::matrix, 1.0), arena(&Shape::matrix, 1e-3));
    let (inputs, outputs) = (arena(&|_, n| Shape::matrix(SAMPLES, n), 1.0), arena(&|m, _| Shape::matrix(SAMPLES, m), 1.0));
    let layer = |i: usize| Parameter::new(format!("layer{i}"), &weights[i], &gradients[i]).samples(&inputs[i], &outputs[i]);
    let group = (0..shapes.len()).map(layer).fold(Group::new(method), Group::parameter);
    Optimizer::builder(context).group(group).build().expect("a valid group")
}
