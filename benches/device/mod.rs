//! The devices that a benchmark runs on, and how work is timed there.

use std::time::{Duration, Instant};

use layerwise::Context;

/// The contexts that `LAYERWISE_DEVICE` names, by comma: `cpu` (the default), `gpu` (a real one), or a part of an adapter's name.
pub(crate) fn contexts() -> Vec<Context> {
    let wanted = std::env::var("LAYERWISE_DEVICE").unwrap_or_else(|_| "cpu".into());
    wanted.split(',').map(|name| context(name.trim())).collect()
}

fn context(name: &str) -> Context {
    match name {
        "cpu" => Context::cpu(),
        #[cfg(feature = "gpu")]
        "gpu" => Context::gpu().expect("LAYERWISE_DEVICE=gpu"),
        #[cfg(feature = "gpu")]
        part => Context::gpu_named(part).expect("LAYERWISE_DEVICE"),
        #[cfg(not(feature = "gpu"))]
        other => panic!("LAYERWISE_DEVICE={other}: this build has the CPU path alone"),
    }
}

/// Short and unambiguous in criterion's output.
pub(crate) fn label(context: &Context) -> &'static str {
    if context.is_gpu() { "gpu" } else { "cpu" }
}

/// The time of `iterations` calls and one wait at the end.
pub(crate) fn timed(context: &Context, iterations: u64, mut call: impl FnMut()) -> Duration {
    context.wait().expect("wait");
    let start = Instant::now();
    for _ in 0..iterations {
        call();
    }
    context.wait().expect("wait");
    start.elapsed()
}
