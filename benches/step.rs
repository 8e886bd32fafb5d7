//! Whole optimizer steps, and on a GPU what it costs to record one: `cargo bench --bench step`; `-- workloads` for those that other libraries are timed
//! with. See `rig` for the devices.
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
                let mut optimizer = optimizer(&device.context, method, &shapes);
                group.throughput(Throughput::Elements(elements as u64));
                let run = |runs| {
                    let start = Instant::now();
                    (0..runs).for_each(|_| optimizer.step().expect("a step runs"));
                    device.context.wait().expect("the device is there");
                    start.elapsed()
                };
                if let Some(best) = device.measure(&mut group, name, run) {
                    println!("    best: {:.2} us per step, {:.2} ns per weight", best * 1e6, best * 1e9 / elements as f64);
                }
            }
        }
        #[cfg(feature = "gpu")]
        recording::bench(&mut criterion, &device);
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

/// Recording without submitting, against a bare loop over as many dispatches with bind groups of their own.
#[cfg(feature = "gpu")]
mod recording {
    use std::time::Duration;

    use criterion::Criterion;
    use layerwise::plan::Axpby;
    use layerwise::{Bindings, Recorder, wgpu};

    use super::{Instant, Shape, methods, mixed, optimizer, rig};

    const DISPATCHES: usize = 64;

    pub(super) fn bench(criterion: &mut Criterion, device: &rig::Device) {
        let Some((gpu, _)) = device.context.wgpu() else { return };
        let mut group = criterion.benchmark_group("record");
        let recorded = |runs: u64, record: &mut dyn FnMut(&mut wgpu::CommandEncoder)| -> Duration {
            let start = Instant::now();
            for _ in 0..runs {
                let mut encoder = gpu.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                record(&mut encoder);
                encoder.finish();
            }
            start.elapsed()
        };
        let mut turn = |id: &str, record: &mut dyn FnMut(&mut wgpu::CommandEncoder)| {
            let best = device.measure(&mut group, id, |runs| recorded(runs, record));
            best.inspect(|best| println!("    best: {:.2} us", best * 1e6))
        };
        let mut plan = chain(&device.context);
        let dispatches = plan.dispatches().map_or(0, |count| count.dispatches);
        let ours = turn(&format!("plan of {dispatches} dispatches"), &mut |encoder| plan.record(encoder, &[0]).expect("a GPU plan"));
        let (pipeline, groups) = bare(gpu, dispatches);
        let theirs = turn(&format!("bare loop of {dispatches} dispatches"), &mut |encoder| {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline);
            for group in &groups {
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        });
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            println!("    recording costs {:.2} times the bare loop", ours / theirs);
        }
        for (name, method) in methods() {
            let mut optimizer = optimizer(&device.context, method, &mixed());
            turn(&format!("step mixed {name}"), &mut |encoder| optimizer.record(encoder).expect("a GPU optimizer"));
        }
    }

    /// Independent small copies, each between two buffers of its own.
    fn chain(context: &layerwise::Context) -> layerwise::Prepared {
        let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
        let shape = Shape::matrix(16, 16);
        for i in 0..DISPATCHES {
            let [x, out] = ["x", "out"].map(|name| r.external(format!("{name}{i}"), shape).expect("a shape without zeros"));
            for value in [x, out] {
                bindings.bind(value, &context.zeros(shape).expect("room for the operands"));
            }
            r.record(Axpby::copy(x, out)).expect("operands fit");
        }
        context.prepare(&r.finish(), &bindings).expect("every value is bound")
    }

    /// A copy's pipeline, and a bind group of two buffers for each dispatch.
    fn bare(gpu: &wgpu::Device, dispatches: usize) -> (wgpu::ComputePipeline, Vec<wgpu::BindGroup>) {
        let source = "@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { y[id.x] = x[id.x]; }";
        let module =
            gpu.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(source.into()) });
        let pipeline = gpu.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let layout = pipeline.get_bind_group_layout(0);
        let usage = wgpu::BufferUsages::STORAGE;
        let buffer = || gpu.create_buffer(&wgpu::BufferDescriptor { label: None, size: 1024, usage, mapped_at_creation: false });
        let group = |_| {
            let buffers = [buffer(), buffer()];
            let entries = [(0, &buffers[0]), (1, &buffers[1])]
                .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() });
            gpu.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        };
        (pipeline, (0..dispatches).map(group).collect())
    }
}
