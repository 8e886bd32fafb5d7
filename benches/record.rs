//! What it costs to record: a plan's dispatches, against a bare wgpu loop over the same pipelines and bind groups, in turns: `cargo bench --bench record`.
//!
//! Nothing is submitted. `LAYERWISE_DEVICE` names the adapter (default: any GPU, software included).
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[cfg(not(feature = "gpu"))]
fn main() {
    println!("there is nothing to record without feature `gpu`");
}

#[cfg(feature = "gpu")]
fn main() {
    gpu::run();
}

#[cfg(feature = "gpu")]
mod gpu {
    use std::time::Instant;

    use layerwise::gpu::Params;
    use layerwise::gpu::kernels::{Binding, Kernel};
    use layerwise::optim::{AdamW, Group, Kfac, Method, Muon, Optimizer, Parameter, Shampoo, Soap};
    use layerwise::plan::Axpby;
    use layerwise::{Bindings, Context, Recorder, Shape, Tensor, wgpu};

    /// Copies in the plan.
    const DISPATCHES: usize = 256;

    pub(super) fn run() {
        let smoke = !std::env::args().any(|a| a == "--bench") || std::env::args().any(|a| a == "--test");
        let wanted = std::env::var("LAYERWISE_DEVICE").unwrap_or_default();
        let context = Context::named(if wanted.is_empty() { "gpu" } else { &wanted }).expect("LAYERWISE_DEVICE names an adapter");
        let Some((device, _)) = context.wgpu() else {
            println!("{}: nothing is recorded there", context.describe());
            return;
        };
        println!("{}", context.describe());
        let turns = if smoke { 2 } else { 400 };
        let record = |f: &mut dyn FnMut(&mut wgpu::CommandEncoder)| {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let start = Instant::now();
            f(&mut encoder);
            let recorded = encoder.finish();
            let time = start.elapsed().as_secs_f64();
            drop(recorded);
            time
        };

        let tensors: Vec<[Tensor; 2]> =
            (0..DISPATCHES).map(|_| [(); 2].map(|()| context.zeros(Shape::matrix(16, 16)).expect("room"))).collect();
        let mut plan = copies(&context, &tensors);
        let bare = Bare::new(device, &tensors);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..turns {
            ours.push(record(&mut |encoder| plan.record(encoder, &[0]).expect("a GPU plan")));
            theirs.push(record(&mut |encoder| bare.record(encoder)));
        }
        let count = plan.dispatches().expect("a GPU plan").dispatches;
        let ([best, median], [bare_best, bare_median]) = (summary(&mut ours), summary(&mut theirs));
        println!(
            "{count} copies: plan {:.1} us (median {:.1}), bare loop {:.1} us (median {:.1})",
            best * 1e6,
            median * 1e6,
            bare_best * 1e6,
            bare_median * 1e6
        );
        println!("recording costs {:.2} times the bare loop (medians: {:.2})", best / bare_best, median / bare_median);

        println!(
            "\none step on 64 layers of 64 x 64\n{:>28} {:>10} {:>6} {:>10} {:>12}",
            "method", "dispatches", "waves", "best us", "us/dispatch"
        );
        for (name, method) in methods() {
            let mut optimizer = optimizer(&context, method);
            // The first step makes roots and bases; later ones are what is repeated.
            record(&mut |encoder| optimizer.record(encoder).expect("a GPU optimizer"));
            let counts = optimizer.next_dispatches().expect("a GPU optimizer");
            let mut times: Vec<f64> =
                (0..turns).map(|_| record(&mut |encoder| optimizer.record(encoder).expect("a GPU optimizer"))).collect();
            let [best, _] = summary(&mut times);
            println!(
                "{name:>28} {:>10} {:>6} {:>10.1} {:>12.2}",
                counts.dispatches,
                counts.waves,
                best * 1e6,
                best * 1e6 / counts.dispatches as f64
            );
        }
    }

    /// Smallest and median.
    fn summary(times: &mut [f64]) -> [f64; 2] {
        times.sort_by(f64::total_cmp);
        [times[0], times[times.len() / 2]]
    }

    fn methods() -> [(&'static str, Method); 5] {
        [
            ("AdamW", AdamW::default().into()),
            ("Muon", Muon::default().into()),
            ("Shampoo, no refresh", Shampoo { precondition_every: 1 << 20, ..Shampoo::default() }.into()),
            ("Soap, no refresh", Soap { precondition_every: 1 << 20, ..Soap::default() }.into()),
            ("Kfac, no refresh", Kfac { precondition_every: 1 << 20, ..Kfac::default() }.into()),
        ]
    }

    fn optimizer(context: &Context, method: Method) -> Optimizer {
        let arena = |rows| context.arena(&[Shape::matrix(rows, 64); 64]).expect("room for the operands");
        let [weights, gradients, inputs, outputs] = [64, 64, 16, 16].map(arena);
        let layer = |i: usize| Parameter::new(format!("layer{i}"), &weights[i], &gradients[i]).samples(&inputs[i], &outputs[i]);
        let group = (0..64).map(layer).fold(Group::new(method), Group::parameter);
        Optimizer::builder(context).group(group).build().expect("a valid group")
    }

    /// Independent small copies, each between two buffers of its own.
    fn copies(context: &Context, tensors: &[[Tensor; 2]]) -> layerwise::Prepared {
        let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
        for (i, pair) in tensors.iter().enumerate() {
            let values = ["x", "out"].map(|name| r.external(format!("{name}{i}"), pair[0].shape()).expect("a shape without zeros"));
            for (value, tensor) in values.iter().zip(pair) {
                bindings.bind(*value, tensor);
            }
            r.record(Axpby::copy(values[0], values[1])).expect("operands fit");
        }
        context.prepare(&r.finish(), &bindings).expect("every value is bound")
    }

    /// What a host would write by hand for the same copies: the same kernel, and bind groups alike.
    struct Bare {
        pipeline: wgpu::ComputePipeline,
        groups: Vec<wgpu::BindGroup>,
    }

    impl Bare {
        fn new(device: &wgpu::Device, tensors: &[[Tensor; 2]]) -> Bare {
            let kernel = Kernel::named("axpby").expect("a kernel of the table");
            let entry = |binding: u32, ty: wgpu::BufferBindingType, dynamic: bool| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
                count: None,
            };
            let storage = |(i, (_, access)): (u32, &(&str, Binding))| {
                entry(i, wgpu::BufferBindingType::Storage { read_only: *access == Binding::Read }, false)
            };
            let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
            entries.extend((1u32..).zip(kernel.bindings).map(storage));
            let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let source = wgpu::ShaderSource::Wgsl(kernel.plain().source().into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(kernel.name),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            });
            let buffer =
                |size: u64, usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
            let nothing = buffer(256, wgpu::BufferUsages::STORAGE);
            let parameters = buffer(256 * tensors.len() as u64, wgpu::BufferUsages::UNIFORM);
            let group = |pair: &[Tensor; 2]| {
                let own = |tensor: &Tensor| tensor.gpu_buffer().expect("a GPU tensor").0.clone();
                let buffers: Vec<wgpu::Buffer> = kernel
                    .bindings
                    .iter()
                    .map(|(name, _)| match *name {
                        "x" => own(&pair[0]),
                        "out" => own(&pair[1]),
                        _ => nothing.clone(),
                    })
                    .collect();
                let uniform =
                    wgpu::BufferBinding { buffer: &parameters, offset: 0, size: wgpu::BufferSize::new(size_of::<Params>() as u64) };
                let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) }];
                let storage = (1u32..).zip(&buffers);
                entries.extend(storage.map(|(binding, b)| wgpu::BindGroupEntry { binding, resource: b.as_entire_binding() }));
                device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
            };
            Bare { groups: tensors.iter().map(group).collect(), pipeline }
        }

        fn record(&self, encoder: &mut wgpu::CommandEncoder) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&self.pipeline);
            for (group, slot) in self.groups.iter().zip(0u32..) {
                pass.set_bind_group(0, group, &[256 * slot]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
    }
}
