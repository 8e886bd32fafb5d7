//! The wgpu application author's view: his device, his buffers, his encoder; nothing hidden.

mod ahead;
mod hosts;
mod picture;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use layerwise::optim::{AdamW, Group, Kfac, Optimizer, Parameter, Sgd, Soap};
use layerwise::plan::Gemm;
use layerwise::wgpu;
use layerwise::{Bindings, Context, ElementType, Recorder, Shape, Tensor};
use libtest_mimic::Failed;

use crate::case::{Case, case_gpu};

type Outcome = Result<(), Failed>;

pub(crate) fn cases() -> Vec<Case> {
    let mut list = picture::cases();
    list.extend(hosts::cases());
    list.extend(ahead::cases());
    list.extend([
        case_gpu("embed::steady_state_creates_nothing", steady_state_creates_nothing),
        case_gpu("embed::a_step_is_one_submit_and_record_is_none", submits),
        case_gpu("embed::two_steps_in_one_encoder_equal_two_submits", two_steps_in_one_encoder),
        case_gpu("embed::two_steps_in_one_pass_equal_two_submits", two_steps_in_one_pass),
        case_gpu("embed::a_rate_change_travels_with_the_encoder", rate_change),
        case_gpu("embed::imported_buffers_at_odd_offsets", imported_buffers),
        case_gpu("embed::double_buffered_gradients", double_buffered),
        case_gpu("embed::waves_keep_the_result_and_cut_barriers", waves),
    ]);
    list
}

fn values(seed: u32, count: usize) -> Vec<f32> {
    let rng = layerwise::rng::Philox { key: [seed, 7] };
    #[allow(clippy::cast_possible_truncation, reason = "test data")]
    rng.normals_f64(0, 0, count).into_iter().map(|x| x as f32).collect()
}

/// Four layers under KFAC with staggered refreshes, two under `AdamW`, one under SGD, two under SOAP.
struct Training {
    optimizer: Optimizer,
    weights: Vec<Tensor>,
}

impl Training {
    fn new(ctx: &Context) -> layerwise::Result<Training> {
        Training::with_budget(ctx, u64::MAX)
    }

    fn with_budget(ctx: &Context, flops: u64) -> layerwise::Result<Training> {
        let kfac = Kfac { precondition_every: 3, statistics_every: 2, ..Kfac::default() };
        let shapes = [Shape::matrix(6, 5); 4];
        let (weights, gradients) = (ctx.arena(&shapes)?, ctx.arena(&shapes)?);
        let inputs = ctx.arena(&[Shape::matrix(16, 5); 4])?;
        let outputs = ctx.arena(&[Shape::matrix(16, 6); 4])?;
        let mut group = Group::new(kfac);
        for layer in 0..4usize {
            let seed = 10 * u32::try_from(layer).unwrap_or(0);
            weights[layer].write(&values(seed, 30))?;
            gradients[layer].write(&values(seed + 1, 30))?;
            inputs[layer].write(&values(seed + 2, 80))?;
            outputs[layer].write(&values(seed + 3, 96))?;
            let parameter = Parameter::new(format!("layer{layer}"), &weights[layer], &gradients[layer]);
            group = group.parameter(parameter.samples(&inputs[layer], &outputs[layer]));
        }
        let others = [Shape::matrix(9, 4), Shape::matrix(9, 4), Shape::vector(11), Shape::matrix(5, 6), Shape::matrix(5, 6)];
        let (more, more_gradients) = (ctx.arena(&others)?, ctx.arena(&others)?);
        for (i, (w, g)) in (100u32..).zip(more.iter().zip(&more_gradients)) {
            w.write(&values(i, w.shape().elements()))?;
            g.write(&values(i + 50, g.shape().elements()))?;
        }
        let parameter = |i: usize| Parameter::new(format!("other{i}"), &more[i], &more_gradients[i]);
        let optimizer = Optimizer::builder(ctx)
            .frame_budget(flops)
            .group(group)
            .group(Group::new(AdamW::default()).parameter(parameter(0)).parameter(parameter(1)))
            .group(Group::new(Sgd { momentum: 0.9, ..Sgd::default() }).parameter(parameter(2)))
            .group(Group::new(Soap { precondition_every: 2, ..Soap::default() }).parameter(parameter(3)).parameter(parameter(4)))
            .build()?;
        Ok(Training { optimizer, weights: weights.into_iter().chain(more).collect() })
    }

    fn read(&self) -> layerwise::Result<Vec<u32>> {
        let mut all = Vec::new();
        for w in &self.weights {
            all.extend(w.read()?.iter().map(|x| x.to_bits()));
        }
        Ok(all)
    }
}

fn gpu(ctx: &Context) -> Result<(&wgpu::Device, &wgpu::Queue), Failed> {
    ctx.wgpu().ok_or_else(|| "not a GPU context".into())
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

/// Buffers, bind groups, pipelines and the like alive on the device.
pub(crate) fn resources(device: &wgpu::Device) -> [isize; 6] {
    let hal = device.get_internal_counters().hal;
    [
        hal.buffers.read(),
        hal.bind_groups.read(),
        hal.bind_group_layouts.read(),
        hal.compute_pipelines.read(),
        hal.pipeline_layouts.read(),
        hal.shader_modules.read(),
    ]
}

/// A device of its own: other cases run beside this one on the shared device and would disturb the counters.
pub(crate) fn own_context() -> Result<Context, Failed> {
    let name = std::env::var("LAYERWISE_ADAPTER").unwrap_or_default();
    let context = if name.is_empty() { Context::gpu_backend(wgpu::Backends::PRIMARY) } else { Context::gpu_named(&name) };
    context.map_err(Into::into)
}

fn steady_state_creates_nothing(_: &Context) -> Outcome {
    [u64::MAX, 500].into_iter().try_for_each(steady_state_with)
}

fn steady_state_with(budget: u64) -> Outcome {
    let ctx = own_context()?;
    let mut training = Training::with_budget(&ctx, budget)?;
    let (device, queue) = gpu(&ctx)?;
    let start = resources(device);
    ensure(start[0] > 0 && start[1] > 0 && start[3] > 0, || format!("the counters do not count: {start:?}"))?;
    let mut turn = |rate: f64| -> Outcome {
        for _ in 0..7 {
            training.optimizer.step()?;
        }
        training.optimizer.set_learning_rate(1, &[rate])?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        training.optimizer.record(&mut encoder)?;
        queue.submit([encoder.finish()]);
        ctx.wait().map_err(Into::into)
    };
    // The first changes make the staging ring.
    turn(1e-3)?;
    turn(2e-3)?;
    let before = resources(device);
    for i in 0..5 {
        turn(1e-3 / f64::from(i + 1))?;
        let after = resources(device);
        ensure(after == before, || format!("turn {i}: [buffers, bind groups, layouts, pipelines, ...] {before:?} became {after:?}"))?;
    }
    let _more = ctx.zeros(Shape::vector(4))?;
    ensure(resources(device) != before, || "a new buffer did not change the counters, so this test can't fail".into())
}

/// Submits so far, from the index of an empty one. (Mapping a buffer takes an index too, so a step after a rate change, which maps its ring, is not counted here.)
pub(crate) fn submissions(queue: &wgpu::Queue) -> Result<u64, Failed> {
    let text = format!("{:?}", queue.submit([]));
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| format!("no index in `{text}`").into())
}

fn submits(_: &Context) -> Outcome {
    let ctx = own_context()?;
    let mut training = Training::with_budget(&ctx, 500)?;
    let (device, queue) = gpu(&ctx)?;
    for step in 0..8 {
        let before = submissions(queue)?;
        training.optimizer.step()?;
        let made = submissions(queue)? - before - 1;
        ensure(made == 1, || format!("step {step} made {made} submits"))?;
    }
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    training.optimizer.set_learning_rate(0, &[0.01])?;
    let before = submissions(queue)?;
    training.optimizer.record(&mut encoder)?;
    let made = submissions(queue)? - before - 1;
    ensure(made == 0, || format!("record made {made} submits"))?;
    queue.submit([encoder.finish()]);
    ctx.wait().map_err(Into::into)
}

const STEPS: usize = 8;

fn stepped(ctx: &Context) -> Result<Vec<u32>, Failed> {
    let mut training = Training::new(ctx)?;
    let before = training.read()?;
    for _ in 0..STEPS {
        training.optimizer.step()?;
    }
    let after = training.read()?;
    ensure(before != after, || "the weights did not move".into())?;
    Ok(after)
}

fn two_steps_in_one_encoder(ctx: &Context) -> Outcome {
    let want = stepped(ctx)?;
    let mut training = Training::new(ctx)?;
    let (device, queue) = gpu(ctx)?;
    for _ in 0..STEPS / 2 {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        training.optimizer.record(&mut encoder)?;
        training.optimizer.record(&mut encoder)?;
        queue.submit([encoder.finish()]);
    }
    ensure(training.read()? == want, || "the weights differ".into())
}

fn two_steps_in_one_pass(ctx: &Context) -> Outcome {
    let want = stepped(ctx)?;
    let mut training = Training::new(ctx)?;
    let (device, queue) = gpu(ctx)?;
    for _ in 0..STEPS / 2 {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            training.optimizer.record_into_pass(&mut pass)?;
            training.optimizer.record_into_pass(&mut pass)?;
        }
        queue.submit([encoder.finish()]);
    }
    ensure(training.read()? == want, || "the weights differ".into())
}

fn rate_change(ctx: &Context) -> Outcome {
    let (device, queue) = gpu(ctx)?;
    let weight = ctx.upload(Shape::matrix(1, 2), &[1.0, 2.0])?;
    let gradient = ctx.upload(Shape::matrix(1, 2), &[1.0, 1.0])?;
    let sgd = Sgd { learning_rate: 0.5, ..Sgd::default() };
    let group = Group::new(sgd).parameter(Parameter::new("w", &weight, &gradient));
    let mut optimizer = Optimizer::builder(ctx).group(group).build()?;
    let mut first = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    optimizer.record(&mut first)?;
    optimizer.set_learning_rate(0, &[0.25])?;
    let mut second = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = second.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        let refused = optimizer.record_into_pass(&mut pass);
        ensure(refused.is_err(), || "a pass can't hold the copy, yet it was accepted".into())?;
    }
    optimizer.record(&mut second)?;
    // The first step keeps the rate that held when it was recorded, although both are submitted after the change.
    queue.submit([first.finish(), second.finish()]);
    let got = weight.read()?;
    ensure(got == [0.25, 1.25], || format!("{got:?}, expected [0.25, 1.25]"))
}

/// The host's own device, with a handler that counts what reaches it.
fn host_device() -> Result<HostDevice, Failed> {
    host_device_with(|adapter| (layerwise::required_features(adapter), layerwise::required_limits(adapter)))
}

/// Adapter, device, queue, and how many errors reached the handler.
type HostDevice = (wgpu::Adapter, wgpu::Device, wgpu::Queue, Arc<AtomicUsize>);

/// As [`host_device`], with features and limits of the host's choice.
fn host_device_with(choose: impl Fn(&wgpu::Adapter) -> (wgpu::Features, wgpu::Limits)) -> Result<HostDevice, Failed> {
    let adapter = adapter()?;
    let (required_features, required_limits) = choose(&adapter);
    let descriptor = wgpu::DeviceDescriptor { required_features, required_limits, ..wgpu::DeviceDescriptor::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| e.to_string())?;
    let errors = Arc::new(AtomicUsize::new(0));
    let counter = errors.clone();
    device.on_uncaptured_error(Arc::new(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
    }));
    Ok((adapter, device, queue, errors))
}

/// The adapter under test.
fn adapter() -> Result<wgpu::Adapter, Failed> {
    let wanted = std::env::var("LAYERWISE_ADAPTER").unwrap_or_default().to_lowercase();
    let backends = if wanted.is_empty() { wgpu::Backends::PRIMARY } else { wgpu::Backends::all() };
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let matches = |a: &wgpu::Adapter| format!("{:?}", a.get_info()).to_lowercase().contains(&wanted);
    Ok(adapters.into_iter().find(matches).ok_or("no adapter: `scripts/test --setup`")?)
}

fn imported_buffers(_: &Context) -> Outcome {
    let (adapter, device, queue, errors) = host_device()?;
    let ctx = Context::from_wgpu(device.clone(), queue.clone(), Some(&adapter))?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let make =
        |words: u64| device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 4 * words, usage, mapped_at_creation: false });
    // Two weights at offsets that no binding alignment likes, among words that must survive.
    let (weights, gradients) = (make(200), make(200));
    let ones: Vec<f32> = vec![1.0; 200];
    queue.write_buffer(&weights, 0, bytemuck::cast_slice(&ones));
    queue.write_buffer(&gradients, 0, bytemuck::cast_slice(&ones));
    let (a, b) = (Shape::matrix(3, 7), Shape::matrix(5, 2));
    let (wa, wb) = (ctx.import(&weights, 4 * 13, a, ElementType::F32)?, ctx.import(&weights, 4 * 111, b, ElementType::F32)?);
    let (ga, gb) = (ctx.import(&gradients, 4 * 71, a, ElementType::F32)?, ctx.import(&gradients, 4, b, ElementType::F32)?);
    let group = Group::new(Sgd { learning_rate: 0.5, ..Sgd::default() })
        .parameter(Parameter::new("a", &wa, &ga))
        .parameter(Parameter::new("b", &wb, &gb));
    let mut optimizer = Optimizer::builder(&ctx).group(group).build()?;
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    optimizer.record(&mut encoder)?;
    queue.submit([encoder.finish()]);
    let all = ctx.import(&weights, 0, Shape::vector(200), ElementType::F32)?.read()?;
    for (i, &w) in all.iter().enumerate() {
        let want = if (13..13 + 21).contains(&i) || (111..111 + 10).contains(&i) { 0.5 } else { 1.0 };
        ensure(w == want, || format!("word {i} is {w}, expected {want}"))?;
    }
    // What we refuse must be refused by us, not by the host's handler.
    let uniform = wgpu::BufferDescriptor { label: None, size: 64, usage: wgpu::BufferUsages::UNIFORM, mapped_at_creation: false };
    let unusable = device.create_buffer(&uniform);
    for (buffer, offset) in [(&unusable, 0), (&weights, 2), (&weights, 4 * 199), (&weights, u64::MAX - 3)] {
        let refused = ctx.import(buffer, offset, a, ElementType::F32);
        ensure(matches!(refused, Err(layerwise::Error::Buffer { .. })), || format!("offset {offset}: {refused:?}"))?;
    }
    let storage = wgpu::BufferDescriptor { label: None, size: 64, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false };
    let closed = ctx.import(&device.create_buffer(&storage), 0, Shape::vector(16), ElementType::F32)?;
    for (wanted, outcome) in [("COPY_SRC", closed.read().map(drop)), ("COPY_DST", closed.write(&[0.0; 16]))] {
        let says = matches!(&outcome, Err(error @ layerwise::Error::Buffer { .. }) if error.to_string().contains(wanted));
        ensure(says, || format!("without {wanted}: {outcome:?}"))?;
    }
    drop((optimizer, ctx));
    let seen = errors.load(Ordering::SeqCst);
    ensure(seen == 0, || format!("{seen} errors reached the host's handler"))
}

fn double_buffered(ctx: &Context) -> Outcome {
    let mut r = Recorder::new();
    let (a, out) = (r.external("a", Shape::matrix(3, 3))?, r.state("out", Shape::matrix(3, 3))?);
    r.record(Gemm::new(a, a, out))?;
    let (one, two) = (ctx.upload(Shape::matrix(3, 3), &[1.0; 9])?, ctx.upload(Shape::matrix(3, 3), &[2.0; 9])?);
    let result = ctx.zeros(Shape::matrix(3, 3))?;
    let mut bindings = Bindings::new();
    bindings.bind(a, &one).bind(out, &result);
    let mut prepared = ctx.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    ensure(result.read()? == [3.0; 9], || "first binding".into())?;
    prepared.rebind(a, &two)?;
    prepared.run(&[0])?;
    ensure(result.read()? == [12.0; 9], || "second binding".into())?;
    ensure(prepared.rebind(a, &result).is_err(), || "an operand that is also the result was accepted".into())?;
    ensure(prepared.rebind(a, &ctx.zeros(Shape::matrix(2, 3))?).is_err(), || "another shape was accepted".into())?;
    prepared.run(&[0])?;
    ensure(result.read()? == [12.0; 9], || "a refused binding changed the old one".into())
}

/// Eight independent chains of five products: five waves, whatever the order of recording.
fn waves(ctx: &Context) -> Outcome {
    let mut r = Recorder::new();
    let x = r.external("x", Shape::matrix(4, 4))?;
    let mut ends = Vec::new();
    for _ in 0..8 {
        let mut y = x;
        for _ in 0..5 {
            y = r.matmul(y, x)?;
        }
        ends.push(y);
    }
    let plan = r.finish();
    let half = [0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5];
    let mut bindings = Bindings::new();
    bindings.bind(x, &ctx.upload(Shape::matrix(4, 4), &half)?);
    let mut prepared = ctx.prepare(&plan, &bindings)?;
    let count = prepared.dispatches().ok_or("no counts")?;
    ensure((count.dispatches, count.waves) == (40, 5), || format!("{count:?}"))?;
    ensure(layerwise::gpu::count(&plan, &layerwise::gpu::Facts::webgpu_defaults()) == count, || {
        "planned and prepared counts differ".into()
    })?;
    prepared.run(&[0])?;
    for y in ends {
        let got = prepared.tensor(y).ok_or("no tensor")?.read()?;
        ensure(got[0] == 0.5f32.powi(6) && got[1] == 0.0, || format!("{got:?}"))?;
    }
    Ok(())
}
