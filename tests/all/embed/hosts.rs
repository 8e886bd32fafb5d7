//! Hosts whose devices, buffers and fates are unlike ours.

use std::sync::atomic::Ordering;

use layerwise::optim::{AdamW, Group, Kfac, Optimizer, Parameter};
use layerwise::{Context, ElementType, Error, Shape, Tensor, wgpu};

use super::{HostDevice, Outcome, STEPS, Training, ensure, host_device, host_device_with, stepped, values};
use crate::case::{Case, case_gpu};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_gpu("embed::hosts::webgpu_limits_without_features", |ctx| {
            unlike_ours(ctx, |_| (wgpu::Features::empty(), wgpu::Limits::default()))
        }),
        case_gpu("embed::hosts::every_feature_and_limit", |ctx| {
            unlike_ours(ctx, |adapter| (adapter.features() - wgpu::Features::all_experimental_mask(), adapter.limits()))
        }),
        case_gpu("embed::hosts::cooperative_matrices", cooperative_matrices),
        case_gpu("embed::hosts::too_small", too_small),
        case_gpu("embed::hosts::everything_in_one_buffer", one_buffer),
        case_gpu("embed::hosts::lost", lost),
    ]
}

fn silent(host: &HostDevice) -> Outcome {
    let seen = host.3.load(Ordering::SeqCst);
    ensure(seen == 0, || format!("{seen} errors reached the host's handler"))
}

/// The same bits as on a device that we ask for ourselves.
fn unlike_ours(ctx: &Context, choose: impl Fn(&wgpu::Adapter) -> (wgpu::Features, wgpu::Limits)) -> Outcome {
    let want = stepped(ctx)?;
    let host = host_device_with(choose)?;
    let guest = Context::from_wgpu(host.1.clone(), host.2.clone(), None)?;
    let mut training = Training::new(&guest)?;
    for _ in 0..STEPS {
        let mut encoder = host.1.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        training.optimizer.record(&mut encoder)?;
        host.2.submit([encoder.finish()]);
    }
    ensure(training.read()? == want, || "the weights differ".into())?;
    drop((training, guest));
    silent(&host)
}

/// A host that enables cooperative matrices and passes its adapter gets them, as we do on a device of our own; without the adapter nobody knows their shape.
fn cooperative_matrices(ctx: &Context) -> Outcome {
    let adapter = super::adapter()?;
    let experimental = layerwise::experimental_features(&adapter);
    let permit = if experimental.is_empty() {
        wgpu::ExperimentalFeatures::disabled()
    } else {
        // SAFETY: the shaders that use the feature are the library's.
        #[allow(unsafe_code, reason = "what a host has to write")]
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    };
    let descriptor = wgpu::DeviceDescriptor {
        required_features: layerwise::required_features(&adapter) | experimental,
        required_limits: layerwise::required_limits(&adapter),
        experimental_features: permit,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| e.to_string())?;
    let side = |ctx: &Context| ctx.facts().map_or(0, |facts| facts.cooperative_side);
    let guests = [Context::from_wgpu(device.clone(), queue.clone(), Some(&adapter))?, Context::from_wgpu(device, queue, None)?];
    let sides = [side(ctx), side(&guests[0]), side(&guests[1])];
    ensure(sides[0] == sides[1] && sides[2] == 0 && (sides[0] == 0) == experimental.is_empty(), || format!("{sides:?}"))
}

/// Below what the portable kernels need: an error that says what to ask for.
fn too_small(_: &Context) -> Outcome {
    let host = host_device_with(|_| (wgpu::Features::empty(), wgpu::Limits::downlevel_defaults()))?;
    match Context::from_wgpu(host.1.clone(), host.2.clone(), Some(&host.0)) {
        Err(error @ Error::Limit { .. }) => {
            ensure(error.to_string().contains("required_limits") && error.to_string().contains('5'), || error.to_string())?;
        }
        other => return Err(format!("{other:?}").into()),
    }
    silent(&host)
}

/// Weights and gradients of three layers, mixed in one buffer of the host's: what separate buffers give.
fn one_buffer(ctx: &Context) -> Outcome {
    let shapes = [Shape::matrix(6, 5), Shape::matrix(3, 6), Shape::vector(7)];
    let train = |ctx: &Context, pairs: &[(Tensor, Tensor)]| -> Result<Vec<Vec<f32>>, libtest_mimic::Failed> {
        for (i, (weight, gradient)) in (0u32..).zip(pairs) {
            weight.write(&values(i, weight.shape().elements()))?;
            gradient.write(&values(10 + i, weight.shape().elements()))?;
        }
        let taps = [(16, 5), (16, 6), (16, 6), (16, 3)].map(|(n, cols)| ctx.upload(Shape::matrix(n, cols), &values(20, n * cols)));
        let [x0, g0, x1, g1] = taps;
        let layer = |i: usize| Parameter::new(format!("w{i}"), &pairs[i].0, &pairs[i].1);
        let kfac = Group::new(Kfac::default()).parameter(layer(0).samples(&x0?, &g0?)).parameter(layer(1).samples(&x1?, &g1?));
        let mut optimizer = Optimizer::builder(ctx).group(kfac).group(Group::new(AdamW::default()).parameter(layer(2))).build()?;
        for _ in 0..5 {
            optimizer.step()?;
        }
        Ok(pairs.iter().flat_map(|(w, g)| [w.read(), g.read()]).collect::<Result<_, _>>()?)
    };
    let apart: Vec<(Tensor, Tensor)> = shapes.iter().map(|&s| Ok((ctx.zeros(s)?, ctx.zeros(s)?))).collect::<Result<_, Error>>()?;
    let want = train(ctx, &apart)?;
    let host = host_device()?;
    let guest = Context::from_wgpu(host.1.clone(), host.2.clone(), Some(&host.0))?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let buffer = host.1.create_buffer(&wgpu::BufferDescriptor { label: None, size: 4 * 400, usage, mapped_at_creation: false });
    host.2.write_buffer(&buffer, 0, bytemuck::cast_slice(&[0.5_f32; 400]));
    // Words 3.., each tensor a few words behind the last, gradients before weights in one of them.
    let places = [(3, 40), (121, 75), (160, 190)];
    let mut mixed = Vec::new();
    for (shape, (weight, gradient)) in shapes.into_iter().zip(places) {
        let view = |word: u64| guest.import(&buffer, 4 * word, shape, ElementType::F32);
        mixed.push((view(weight)?, view(gradient)?));
    }
    ensure(train(&guest, &mixed)? == want, || "one buffer gives other bits than six".into())?;
    // Nothing else was written.
    let all = guest.import(&buffer, 0, Shape::vector(400), ElementType::F32)?.read()?;
    let ours = |i: usize| {
        shapes.iter().zip(places).any(|(s, (w, g))| [w, g].iter().any(|&at| (at..at + s.elements() as u64).contains(&(i as u64))))
    };
    let stray = all.iter().enumerate().find(|&(i, &x)| !ours(i) && x != 0.5);
    ensure(stray.is_none(), || format!("word {stray:?} of the host was changed"))?;
    drop((mixed, guest));
    silent(&host)
}

/// The host's device goes away between two frames: errors, no panic, nothing in the host's handler from our calls.
fn lost(_: &Context) -> Outcome {
    let host = host_device()?;
    let guest = Context::from_wgpu(host.1.clone(), host.2.clone(), Some(&host.0))?;
    let mut training = Training::with_budget(&guest, 500)?;
    training.optimizer.step()?;
    host.1.destroy();
    // A host's device tells its host alone that it is gone. What we call, we hear about.
    for outcome in [training.optimizer.step(), training.optimizer.health_blocking().map(drop), guest.zeros(Shape::vector(3)).map(drop)] {
        ensure(!matches!(outcome, Err(Error::Shape { .. } | Error::Config { .. })), || format!("{outcome:?}"))?;
    }
    let read = training.weights[0].read();
    ensure(matches!(read, Err(Error::DeviceLost { .. } | Error::Gpu { .. })), || format!("a lost device answers {read:?}"))?;
    silent(&host)
}
