//! Compilation out of a host's frames: its pipeline cache, and preparation on another thread.

use std::future::Future;
use std::pin::pin;
use std::task::{Poll, Waker};

use layerwise::optim::{Group, Muon, Optimizer, Parameter};
use layerwise::{Bindings, Context, Error, Recorder, Shape, wgpu};
use libtest_mimic::Failed;

use super::{HostDevice, Outcome, ensure, host_device_with, own_context, values};
use crate::case::{Case, case_cpu, case_gpu};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_gpu("embed::ahead::build_async", build_async),
        case_cpu("embed::ahead::build_async", |ctx| same_bits(ctx, ctx).map(|_| ())),
        case_gpu("embed::ahead::errors", errors),
        case_cpu("embed::ahead::errors", errors),
        case_gpu("embed::ahead::pipeline_cache", pipeline_cache),
        case_gpu("embed::ahead::no_pipeline_cache_on_the_cpu_path", no_cache),
    ]
}

/// Polls once a "frame"; returns the result and the frames without one.
fn frames<T>(future: impl Future<Output = T>) -> (T, usize) {
    let mut future = pin!(future);
    let mut task = std::task::Context::from_waker(Waker::noop());
    for frame in 0.. {
        if let Poll::Ready(result) = future.as_mut().poll(&mut task) {
            return (result, frame);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    unreachable!("frames do not end")
}

fn muon(ctx: &Context) -> layerwise::Result<(layerwise::optim::Builder, layerwise::Tensor)> {
    let shape = Shape::matrix(7, 5);
    let (weight, gradient) = (ctx.upload(shape, &values(1, 35))?, ctx.upload(shape, &values(2, 35))?);
    let group = Group::new(Muon::default()).parameter(Parameter::new("w", &weight, &gradient));
    Ok((Optimizer::builder(ctx).group(group), weight))
}

/// Three steps of an optimizer that was built on another thread, and of one that was not. Returns the frames that went by.
fn same_bits(ctx: &Context, reference: &Context) -> layerwise::Result<usize> {
    let (builder, weight) = muon(ctx)?;
    let (optimizer, waited) = frames(builder.build_async());
    let mut optimizer = optimizer?;
    let (builder, want) = muon(reference)?;
    let mut other = builder.build()?;
    for _ in 0..3 {
        optimizer.step()?;
        other.step()?;
    }
    let (got, want) = (weight.read()?, want.read()?);
    assert_eq!(got, want, "an optimizer built on another thread steps otherwise");
    Ok(waited)
}

fn build_async(ctx: &Context) -> Outcome {
    // A device without a single pipeline yet: its compilation must not hold up the first frame.
    let waited = same_bits(&own_context()?, ctx)?;
    ensure(waited > 0, || "the first poll came back with an optimizer: it blocked".into())?;
    // A future that nobody waits for does no harm.
    let fresh = own_context()?;
    let (builder, _) = muon(&fresh)?;
    drop(builder.build_async());
    Ok(same_bits(&fresh, ctx).map(|_| ())?)
}

/// What would refuse a plan or an optimizer at once refuses it here.
fn errors(ctx: &Context) -> Outcome {
    let mut r = Recorder::new();
    let x = r.external("x", Shape::matrix(3, 3))?;
    let y = r.matmul(x, x)?;
    let plan = r.finish();
    let (refused, _) = frames(ctx.prepare_async(&plan, &Bindings::new()));
    ensure(matches!(refused, Err(Error::Binding { .. })), || format!("{refused:?}"))?;
    let mut bindings = Bindings::new();
    bindings.bind(x, &ctx.upload(Shape::matrix(3, 3), &[2.0; 9])?);
    let (prepared, _) = frames(ctx.prepare_async(&plan, &bindings));
    let mut prepared = prepared?;
    prepared.run(&[0])?;
    let got = prepared.tensor(y).ok_or("no tensor")?.read()?;
    ensure(got == [12.0; 9], || format!("{got:?}"))?;
    let (refused, _) = frames(Optimizer::builder(ctx).build_async());
    ensure(matches!(refused, Err(Error::Config { .. })), || format!("{refused:?}"))
}

/// Vulkan alone has pipeline caches: there their absence would leave these tests empty.
fn has_caches(host: &HostDevice) -> Result<bool, Failed> {
    let (vulkan, has) = (host.0.get_info().backend == wgpu::Backend::Vulkan, host.1.features().contains(wgpu::Features::PIPELINE_CACHE));
    ensure(has || !vulkan, || "a Vulkan device without pipeline caches: nothing is tested".into())?;
    Ok(has)
}

/// The host's cache is used: one of another device is refused by wgpu, which it would not be if nobody looked at it.
fn pipeline_cache(ctx: &Context) -> Outcome {
    let with_cache = |adapter: &wgpu::Adapter| {
        let features = adapter.features() & wgpu::Features::PIPELINE_CACHE;
        (features, adapter.limits())
    };
    let host = host_device_with(with_cache)?;
    if !has_caches(&host)? {
        return Ok(());
    }
    let descriptor = wgpu::DeviceDescriptor { required_features: wgpu::Features::PIPELINE_CACHE, ..wgpu::DeviceDescriptor::default() };
    let stranger = pollster::block_on(host.0.request_device(&descriptor)).map_err(|e| e.to_string())?;
    let cache = |device: &wgpu::Device| {
        #[allow(unsafe_code, reason = "an empty cache has no data that could be wrong")]
        // SAFETY: there is no data.
        unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label: None, data: None, fallback: true })
        }
    };
    let own = cache(&host.1);
    let guest = Context::from_wgpu(host.1.clone(), host.2.clone(), Some(&host.0))?.with_pipeline_cache(own.clone())?;
    same_bits(&guest, ctx)?;
    ensure(own.get_data().is_some_and(|data| !data.is_empty()), || "the cache has no data to save".into())?;
    let guest = Context::from_wgpu(host.1.clone(), host.2.clone(), None)?.with_pipeline_cache(cache(&stranger.0))?;
    let refused = muon(&guest)?.0.build();
    ensure(matches!(refused, Err(Error::Gpu { during: "create_compute_pipeline", .. })), || format!("{refused:?}"))?;
    let seen = host.3.load(std::sync::atomic::Ordering::SeqCst);
    ensure(seen == 0, || format!("{seen} errors reached the host's handler"))
}

fn no_cache(_: &Context) -> Outcome {
    let host = host_device_with(|adapter| (adapter.features() & wgpu::Features::PIPELINE_CACHE, adapter.limits()))?;
    if !has_caches(&host)? {
        return Ok(());
    }
    #[allow(unsafe_code, reason = "an empty cache has no data that could be wrong")]
    // SAFETY: there is no data.
    let cache = unsafe { host.1.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label: None, data: None, fallback: true }) };
    let refused = Context::cpu().with_pipeline_cache(cache);
    ensure(matches!(refused, Err(Error::WrongContext { .. })), || format!("{refused:?}"))
}
