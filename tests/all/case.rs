//! Cases, and the devices that they run on. Each device is made once per process.

use layerwise::Context;
use libtest_mimic::{Failed, Trial};

/// What a case returns; `?` takes every error that can be printed.
pub(crate) type Outcome = Result<(), Failed>;

type Run = std::sync::Arc<dyn Fn(&Context) -> Outcome + Send + Sync>;

/// A named test and where it runs.
pub(crate) struct Case {
    name: String,
    devices: &'static [Device],
    run: Run,
}

#[derive(Clone, Copy, PartialEq)]
enum Device {
    /// No device: the case ignores its context.
    Host,
    Cpu,
    #[cfg(feature = "gpu")]
    Gpu,
    /// The portable tier: no subgroups, no f16.
    #[cfg(feature = "gpu")]
    Gl,
}

#[cfg(feature = "gpu")]
const GPU: &[Device] = &[Device::Gpu];
#[cfg(feature = "gpu")]
const BOTH: &[Device] = &[Device::Cpu, Device::Gpu];
#[cfg(not(feature = "gpu"))]
const BOTH: &[Device] = &[Device::Cpu];
#[cfg(feature = "gpu")]
const ALL: &[Device] = &[Device::Cpu, Device::Gpu, Device::Gl];
#[cfg(not(feature = "gpu"))]
const ALL: &[Device] = &[Device::Cpu];

fn build<E: Into<Failed>>(
    name: impl Into<String>,
    devices: &'static [Device],
    run: impl Fn(&Context) -> Result<(), E> + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), devices, run: std::sync::Arc::new(move |context| run(context).map_err(Into::into)) }
}

/// Runs on the CPU path and on the GPU: `name::cpu`, `name::gpu`.
pub(crate) fn case<E: Into<Failed>>(name: impl Into<String>, run: impl Fn(&Context) -> Result<(), E> + Send + Sync + 'static) -> Case {
    build(name, BOTH, run)
}

/// As [`case`], and on the GL adapter: `name::gl`.
pub(crate) fn case_kernel<E: Into<Failed>>(
    name: impl Into<String>,
    run: impl Fn(&Context) -> Result<(), E> + Send + Sync + 'static,
) -> Case {
    build(name, ALL, run)
}

/// Runs on the CPU path alone.
pub(crate) fn case_cpu<E: Into<Failed>>(name: impl Into<String>, run: impl Fn(&Context) -> Result<(), E> + Send + Sync + 'static) -> Case {
    build(name, &[Device::Cpu], run)
}

/// Runs on the GPU alone.
#[cfg(feature = "gpu")]
pub(crate) fn case_gpu<E: Into<Failed>>(name: impl Into<String>, run: impl Fn(&Context) -> Result<(), E> + Send + Sync + 'static) -> Case {
    build(name, GPU, run)
}

/// Runs on the GPU with one variant of the product kernels wherever it fits: `name::variant::gpu`. Ignored, with the reason, where the device can't run the variant.
#[cfg(feature = "gpu")]
pub(crate) fn trial_variant(name: &str, variant: layerwise::gpu::GemmVariant, run: fn(&Context) -> Outcome) -> Trial {
    use layerwise::gpu::{GemmShape, GemmTable};
    let test = move || {
        let context = gpu::shared()?;
        // Covers every special shape: what does not fit here is not for this device.
        let able = context.facts().is_some_and(|facts| variant.fits(GemmShape::f32(8, 8, 8), facts));
        if !able {
            return Ok(libtest_mimic::Completion::ignored_with(format!("this device can't run `{variant}`")));
        }
        run(&context.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() })?)?;
        Ok(libtest_mimic::Completion::Completed)
    };
    Trial::ignorable_test(format!("{name}::{variant}::gpu"), test).with_ignored_flag(gpu::off())
}

/// Needs no device.
pub(crate) fn case_host<E: Into<Failed>>(name: impl Into<String>, run: impl Fn() -> Result<(), E> + Send + Sync + 'static) -> Case {
    build(name, &[Device::Host], move |_| run())
}

impl Case {
    /// One trial per device.
    pub(crate) fn trials(self) -> Vec<Trial> {
        self.devices.iter().map(|&device| device.trial(&self.name, self.run.clone())).collect()
    }
}

impl Device {
    #[cfg(not(feature = "gpu"))]
    fn trial(self, name: &str, run: Run) -> Trial {
        let name = if self == Device::Host { name.into() } else { format!("{name}::cpu") };
        Trial::test(name, move || run(&Context::cpu()))
    }

    #[cfg(feature = "gpu")]
    fn trial(self, name: &str, run: Run) -> Trial {
        match self {
            Device::Host => Trial::test(name, move || run(&Context::cpu())),
            Device::Cpu => Trial::test(format!("{name}::cpu"), move || run(&Context::cpu())),
            Device::Gpu => Trial::test(format!("{name}::gpu"), move || run(gpu::shared()?)).with_ignored_flag(gpu::off()),
            Device::Gl => {
                let run = move || match gpu::shared_gl() {
                    Ok(context) => {
                        let _turn = gpu::gl_turn();
                        run(context).map(|()| libtest_mimic::Completion::Completed)
                    }
                    Err(reason) if gpu::gl_demanded() => Err(reason.into()),
                    Err(reason) => Ok(libtest_mimic::Completion::ignored_with(reason)),
                };
                Trial::ignorable_test(format!("{name}::gl"), run).with_ignored_flag(gpu::off())
            }
        }
    }
}

#[cfg(feature = "gpu")]
pub(crate) mod gpu {
    //! The shared GPU contexts.

    use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

    use layerwise::{Context, wgpu};

    fn variable(name: &str) -> String {
        std::env::var(name).unwrap_or_default()
    }

    /// The user said that there is no GPU to test.
    pub(super) fn off() -> bool {
        variable("LAYERWISE_GPU") == "off"
    }

    pub(super) fn gl_demanded() -> bool {
        variable("LAYERWISE_GL") == "1"
    }

    /// The GPU under test.
    pub(crate) fn shared() -> Result<&'static Context, String> {
        static GPU: OnceLock<Result<Context, String>> = OnceLock::new();
        let make = || {
            let wanted = variable("LAYERWISE_ADAPTER");
            let context = if wanted.is_empty() { Context::gpu_backend(wgpu::Backends::PRIMARY) } else { Context::gpu_named(&wanted) };
            context.map_err(|error| {
                format!("{error}\n`scripts/test --setup` installs a software driver where it can; LAYERWISE_GPU=off ignores the GPU half of the tests")
            })
        };
        GPU.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// The GL adapter.
    pub(super) fn shared_gl() -> Result<&'static Context, String> {
        static GL: OnceLock<Result<Context, String>> = OnceLock::new();
        GL.get_or_init(|| Context::gpu_backend(wgpu::Backends::GL).map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
    }

    /// A GL adapter is one context: wgpu gives up where a thread waits for another's long submission.
    pub(super) fn gl_turn() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
