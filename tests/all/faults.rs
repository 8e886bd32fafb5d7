//! Bad input: an error that says what to do, and nothing changed.

use layerwise::optim::{Group, Optimizer, Parameter, Sgd};
use layerwise::plan::{Axpby, Gemm};
use layerwise::{Bindings, Context, Error, Recorder, Shape};
use libtest_mimic::Failed;

use crate::case::{Case, case, case_host};

type Outcome = Result<(), Failed>;

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "the GPU half adds cases")]
    let mut list = vec![
        case("faults::tensors", tensors),
        case("faults::bindings", bindings),
        case("faults::aliasing_by_buffer", aliasing),
        case("faults::tensor_of_another_context", foreign),
        case_host("faults::context_by_name", by_name),
    ];
    #[cfg(feature = "gpu")]
    list.extend(gpu::cases());
    list
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

fn tensors(ctx: &Context) -> Outcome {
    for shape in [Shape::new(0, 1, 1), Shape::matrix(0, 3), Shape::matrix(3, 0), Shape::matrix(1 << 20, 1 << 20)] {
        let error = ctx.zeros(shape);
        ensure(matches!(error, Err(Error::Shape { .. })), || format!("zeros {shape}: {error:?}"))?;
        ensure(ctx.arena(&[Shape::vector(1), shape]).is_err(), || format!("arena {shape}"))?;
    }
    let wrong = ctx.upload(Shape::matrix(2, 2), &[1.0; 3]);
    ensure(matches!(wrong, Err(Error::Shape { .. })), || format!("{wrong:?}"))?;
    let t = ctx.upload(Shape::matrix(2, 2), &[1.0, 2.0, 3.0, 4.0])?;
    ensure(t.write(&[0.0; 5]).is_err() && t.read()? == [1.0, 2.0, 3.0, 4.0], || "a refused write changed the tensor".into())?;
    ensure(t.items(0..2).is_err() && t.items(1..1).is_err(), || "items beyond the batch".into())?;
    ensure(t.reshape(Shape::vector(5)).is_err(), || "reshape to another size".into())
}

/// What a `--device` flag may say, with and without feature `gpu`; the examples are run with `--device gpu` by the checks of each change.
fn by_name() -> Outcome {
    ensure(!Context::named("cpu")?.is_gpu(), || "`cpu` is not the CPU path".into())?;
    let unknown = Context::named("no such adapter on earth");
    ensure(matches!(unknown, Err(Error::NoAdapter { .. })), || format!("an unknown device: {unknown:?}"))?;
    Context::named("auto")?;
    #[cfg(not(feature = "gpu"))]
    ensure(Context::named("gpu").is_err(), || "a GPU without feature `gpu`".into())?;
    Ok(())
}

fn bindings(ctx: &Context) -> Outcome {
    let mut r = Recorder::new();
    let (a, out) = (r.external("left operand", Shape::matrix(2, 3))?, r.state("result", Shape::matrix(2, 2))?);
    r.record(Gemm::new(a, a.t(), out))?;
    let plan = r.finish();
    let (good, result) = (ctx.upload(Shape::matrix(2, 3), &[1.0; 6])?, ctx.zeros(Shape::matrix(2, 2))?);
    let message = |bindings: &Bindings| ctx.prepare(&plan, bindings).err().map(|e| e.to_string()).unwrap_or_default();
    let mut b = Bindings::new();
    b.bind(a, &good);
    ensure(message(&b).contains("`result`"), || format!("missing binding: {}", message(&b)))?;
    b.bind(out, &ctx.zeros(Shape::matrix(2, 3))?);
    ensure(message(&b).contains("[1, 2, 2]"), || format!("wrong shape: {}", message(&b)))?;
    let mut prepared = ctx.prepare(&plan, b.bind(out, &result))?;
    ensure(prepared.run(&[1]).is_err(), || "a segment that does not exist".into())?;
    ensure(result.read()? == [0.0; 4], || "a refused run changed the result".into())?;
    prepared.run(&[0])?;
    ensure(result.read()? == [3.0; 4], || "the run after a refused one".into())
}

fn aliasing(ctx: &Context) -> Outcome {
    let both = ctx.arena(&[Shape::vector(4), Shape::vector(4)])?;
    let mut r = Recorder::new();
    let (x, y) = (r.external("x", Shape::vector(4))?, r.external("y", Shape::vector(4))?);
    r.record(Axpby { y: Some(y), ..Axpby::copy(x, y) })?;
    let plan = r.finish();
    let mut b = Bindings::new();
    b.bind(x, &both[0]).bind(y, &both[1]);
    let refused = ctx.prepare(&plan, &b);
    ensure(matches!(refused, Err(Error::Aliasing { .. })), || format!("read and written views of one buffer: {:?}", refused.err()))
}

fn foreign(ctx: &Context) -> Outcome {
    let other = Context::cpu().zeros(Shape::matrix(2, 2))?;
    let mine = ctx.zeros(Shape::matrix(2, 2))?;
    let group = |g| Group::new(Sgd::default()).parameter(Parameter::new("w", &mine, g));
    let refused = Optimizer::builder(ctx).group(group(&other)).build().err();
    ensure(matches!(refused, Some(Error::ForeignContext { .. })), || format!("{refused:?}"))
}

#[cfg(feature = "gpu")]
mod gpu {
    use super::{Outcome, ensure};
    use crate::case::{Case, case_gpu, case_host};
    use layerwise::optim::{Adam, Group, Optimizer, Parameter};
    use layerwise::{Context, Error, Shape};

    pub(super) fn cases() -> Vec<Case> {
        vec![
            case_host("faults::no_adapter", no_adapter),
            case_gpu("faults::over_the_limits", over_the_limits),
            case_gpu("faults::device_lost", device_lost),
        ]
    }

    fn no_adapter() -> Outcome {
        match Context::gpu_named("no such adapter on earth") {
            Err(Error::NoAdapter { wanted, hint }) => {
                ensure(wanted.contains("no such") && !hint.is_empty(), || format!("{wanted}: {hint}"))
            }
            other => Err(format!("{other:?}").into()),
        }
    }

    fn over_the_limits(ctx: &Context) -> Outcome {
        let facts = ctx.facts().ok_or("no facts")?;
        let words = usize::try_from(facts.max_buffer_bytes / 4 + 1).map_err(|e| e.to_string())?;
        // Where a buffer may have 2^32 words and more, the shape is refused first.
        let refused = ctx.zeros(Shape::vector(words));
        ensure(matches!(refused, Err(Error::Limit { .. } | Error::Shape { .. })), || format!("{refused:?}"))?;
        let words = usize::try_from(facts.max_binding_bytes / 4 + 1024).map_err(|e| e.to_string())?;
        if facts.max_binding_bytes < facts.max_buffer_bytes && words < 1 << 28 {
            let big = Shape::vector(words);
            let (w, g) = (ctx.zeros(big)?, ctx.zeros(big)?);
            let group = Group::new(layerwise::optim::Sgd::default()).parameter(Parameter::new("large", &w, &g));
            let refused = Optimizer::builder(ctx).group(group).build().err();
            ensure(matches!(refused, Some(Error::Limit { .. })), || format!("{refused:?}"))?;
        }
        Ok(())
    }

    /// After the device is gone every call says so; nothing panics, also not in wgpu's default handler.
    fn device_lost(_: &Context) -> Outcome {
        let name = std::env::var("LAYERWISE_ADAPTER").unwrap_or_default();
        let ctx = if name.is_empty() { Context::gpu_backend(wgpu::Backends::PRIMARY)? } else { Context::gpu_named(&name)? };
        let (w, g) = (ctx.zeros(Shape::matrix(4, 4))?, ctx.zeros(Shape::matrix(4, 4))?);
        let build = || Optimizer::builder(&ctx).group(Group::new(Adam::default()).parameter(Parameter::new("w", &w, &g))).build();
        let mut optimizer = build()?;
        optimizer.step()?;
        let (device, _) = ctx.wgpu().ok_or("not a GPU")?;
        device.destroy();
        let lost = |what: &str, error: Option<Error>| match error {
            Some(Error::DeviceLost { .. }) => Ok(()),
            other => Err(format!("{what}: {other:?}")),
        };
        // wgpu tells of a destroyed device once the work in flight is done.
        lost("wait", ctx.wait().err())?;
        lost("step", optimizer.step().err())?;
        lost("read", w.read().err())?;
        lost("write", w.write(&[0.0; 16]).err())?;
        lost("zeros", ctx.zeros(Shape::vector(3)).err())?;
        lost("build", build().err())?;
        ensure(optimizer.steps() == 1, || "a step that failed was counted".into())
    }
}
