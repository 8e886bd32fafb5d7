//! Steps in the host's encoders and passes.

use crate::case::Case;

#[cfg(not(feature = "gpu"))]
pub(crate) fn cases() -> Vec<Case> {
    Vec::new()
}

#[cfg(feature = "gpu")]
pub(crate) use recorded::cases;

#[cfg(feature = "gpu")]
mod recorded {
    use layerwise::optim::{Method, Sgd};
    use layerwise::{Context, Error, wgpu};
    use libtest_mimic::Failed;

    use super::Case;
    use crate::case::{Outcome, case_cpu, case_gpu};
    use crate::optimizers::rig::{Layer, ensure, methods, optimizer, same, single};

    fn encoder(ctx: &Context) -> Result<(wgpu::CommandEncoder, &wgpu::Queue), Failed> {
        let (device, queue) = ctx.wgpu().ok_or("not a GPU context")?;
        Ok((device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()), queue))
    }

    /// How three steps are submitted, with a change of the learning rate before the second.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Form {
        Submits,
        Encoder,
        Passes,
    }

    fn run(ctx: &Context, method: Method, form: Form) -> Result<Vec<f32>, Failed> {
        let layer = Layer::new(ctx, 2, 5, 7, 3)?;
        layer.feed(1, 0)?;
        let mut optimizer = optimizer(ctx, single(method, &layer))?;
        let rates = [0.03, 0.04];
        match form {
            Form::Submits => {
                optimizer.step()?;
                optimizer.set_learning_rate(0, &rates)?;
                optimizer.step()?;
                optimizer.step()?;
            }
            Form::Encoder => {
                let (mut encoder, queue) = encoder(ctx)?;
                optimizer.record(&mut encoder)?;
                optimizer.set_learning_rate(0, &rates)?;
                optimizer.record(&mut encoder)?;
                optimizer.record(&mut encoder)?;
                queue.submit([encoder.finish()]);
            }
            Form::Passes => {
                let (mut encoder, queue) = encoder(ctx)?;
                optimizer.record_into_pass(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()))?;
                optimizer.set_learning_rate(0, &rates)?;
                optimizer.flush(&mut encoder)?;
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                optimizer.record_into_pass(&mut pass)?;
                optimizer.record_into_pass(&mut pass)?;
                drop(pass);
                queue.submit([encoder.finish()]);
            }
        }
        Ok(layer.weight.read()?)
    }

    /// Three steps recorded into one encoder, or into passes, equal three steps submitted one by one.
    fn forms_agree(ctx: &Context) -> Outcome {
        for method in methods() {
            let want = run(ctx, method, Form::Submits)?;
            for form in [Form::Encoder, Form::Passes] {
                same(&format!("{method:?}, {form:?}"), &run(ctx, method, form)?, &want)?;
            }
        }
        Ok(())
    }

    /// A waiting change can't be copied inside a pass: the error says what to call, and nothing is lost.
    fn pass_with_waiting_change(ctx: &Context) -> Outcome {
        let layer = Layer::new(ctx, 1, 5, 7, 3)?;
        let mut optimizer = optimizer(ctx, single(Sgd::default(), &layer))?;
        optimizer.set_learning_rate(0, &[0.25])?;
        let (mut encoder, queue) = encoder(ctx)?;
        match optimizer.record_into_pass(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default())) {
            Err(error @ Error::Config { .. }) if error.to_string().contains("flush(&mut encoder)") => {}
            other => return Err(format!("{other:?}").into()),
        }
        ensure(optimizer.steps() == 0, || "the refused step counts".into())?;
        optimizer.flush(&mut encoder)?;
        optimizer.record_into_pass(&mut encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default()))?;
        queue.submit([encoder.finish()]);
        let health = optimizer.health_blocking()?;
        ensure(health.parameters[0].trials[0].learning_rate == 0.25, || health.to_string())
    }

    /// A device lost while a change waits: an error, no panic, and the step does not count.
    fn lost_with_waiting_change(_: &Context) -> Outcome {
        let ctx = Context::gpu_backend(wgpu::Backends::PRIMARY)?;
        let layer = Layer::new(&ctx, 1, 5, 7, 3)?;
        let mut optimizer = optimizer(&ctx, single(Sgd::default(), &layer))?;
        optimizer.step()?;
        ctx.wgpu().ok_or("not a GPU context")?.0.destroy();
        ctx.wait().err().ok_or("the loss went unnoticed")?;
        for change in [0.25, 0.5] {
            optimizer.set_learning_rate(0, &[change])?;
            match optimizer.step() {
                Err(Error::DeviceLost { .. }) => ensure(optimizer.steps() == 1, || "the failed step counts".into())?,
                other => return Err(format!("{other:?}").into()),
            }
        }
        Ok(())
    }

    /// An encoder cannot hold a step of the CPU path. The types alone keep most hosts from trying.
    fn cpu_has_no_encoder(ctx: &Context) -> Outcome {
        let layer = Layer::new(ctx, 1, 3, 4, 1)?;
        let mut optimizer = optimizer(ctx, single(Sgd::default(), &layer))?;
        let Ok(gpu) = crate::case::gpu::shared() else { return Ok(()) };
        let (mut encoder, _) = encoder(gpu)?;
        match optimizer.record(&mut encoder) {
            Err(Error::WrongContext { .. }) => ensure(optimizer.steps() == 0, || "the refused step counts".into()),
            other => Err(format!("{other:?}").into()),
        }
    }

    pub(crate) fn cases() -> Vec<Case> {
        vec![
            case_gpu("optimizers::embed::forms_agree", forms_agree),
            case_gpu("optimizers::embed::pass_with_waiting_change", pass_with_waiting_change),
            case_gpu("optimizers::embed::lost_with_waiting_change", lost_with_waiting_change),
            case_cpu("optimizers::embed::cpu_has_no_encoder", cpu_has_no_encoder),
        ]
    }
}
