//! Lists the adapters of this machine: limits, features, whether the portable kernels run there, and which variants would be chosen and why.
//!
//! ```text
//! cargo run --release --example devices
//! ```

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::error::Error;

use clap::Parser;
use layerwise::gpu::{Facts, GemmShape, adapters, choice, variants};
use layerwise::{Bindings, Context, Recorder, Shape, required_features, required_limits, wgpu};

/// Lists adapters and what the library would do on them.
#[derive(Parser)]
struct Arguments {
    /// Only adapters whose name, driver or backend contains this.
    #[arg(long, default_value = "")]
    device: String,
    /// Accepted like in the other examples; this one always takes a moment.
    #[arg(long)]
    smoke: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    env_logger::init();
    let arguments = Arguments::parse();
    println!("{}", Context::cpu().describe());
    println!("`Context::auto()` takes: {}\n", Context::auto().describe());
    let mut shown = 0;
    for adapter in pollster::block_on(adapters(wgpu::Backends::PRIMARY | wgpu::Backends::GL)) {
        let info = adapter.get_info();
        let title = format!("{} ({:?}, {:?}, {} {})", info.name, info.backend, info.device_type, info.driver, info.driver_info);
        if title.to_lowercase().contains(&arguments.device.to_lowercase()) {
            shown += 1;
            println!("{title}");
            describe(&adapter);
        }
    }
    if shown == 0 {
        println!("no adapter; a Vulkan driver is needed (Debian, Ubuntu: mesa-vulkan-drivers brings a software one)\n");
    }
    println!("{} pipelines in all", variants().len());
    Ok(())
}

fn describe(adapter: &wgpu::Adapter) {
    let (has, used) = (adapter.features(), required_features(adapter));
    println!("  features used: {}", if used.is_empty() { "none (portable kernels)".to_owned() } else { format!("{used:?}") });
    let optional = [
        ("subgroups", wgpu::Features::SUBGROUP),
        ("f16", wgpu::Features::SHADER_F16),
        ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
        ("cooperative matrices", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ];
    let offered: Vec<&str> = optional.iter().filter(|(_, f)| has.contains(*f)).map(|(name, _)| *name).collect();
    println!(
        "  features offered: {}",
        if offered.is_empty() { "none that a later kernel could use".to_owned() } else { offered.join(", ") }
    );
    let descriptor =
        wgpu::DeviceDescriptor { required_features: used, required_limits: required_limits(adapter), ..wgpu::DeviceDescriptor::default() };
    let context = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|e| e.to_string())
        .and_then(|(device, queue)| Context::from_wgpu(device, queue, Some(adapter)).map_err(|e| e.to_string()));
    match context {
        Ok(context) => {
            context.facts().into_iter().for_each(limits);
            context.facts().into_iter().for_each(choices);
            match check(&context) {
                Ok(true) => println!("  usable: a 70 x 50 x 70 product is exact\n"),
                Ok(false) => println!("  NOT usable: a 70 x 50 x 70 product is wrong; please report this driver\n"),
                Err(reason) => println!("  NOT usable: {reason}\n"),
            }
        }
        Err(reason) => println!("  NOT usable: {reason}\n"),
    }
}

fn limits(facts: &Facts) {
    println!(
        "  binding {} MiB (a {1} x {1} f32 matrix), buffer {2} MiB, {3} invocations and {4} KiB a workgroup{5}",
        facts.max_binding_bytes >> 20,
        (facts.max_binding_bytes / 4).isqrt(),
        facts.max_buffer_bytes >> 20,
        facts.workgroup_invocations,
        facts.workgroup_bytes >> 10,
        if facts.software { "; software: taken only when asked for by name" } else { "" }
    );
}

/// Which kernels serve which products.
fn choices(facts: &Facts) {
    for (m, k, n) in [(8, 1024, 8), (64, 64, 64), (100, 1024, 100), (512, 512, 512), (2048, 2048, 2048), (1, 4096, 300)] {
        let chosen = choice::gemm(GemmShape::f32(m, k, n), facts);
        println!("  product {m} x {k} x {n}: {} ({})", chosen.variant, chosen.reason);
    }
}

/// One product with a known result.
fn check(context: &Context) -> layerwise::Result<bool> {
    let mut r = Recorder::new();
    let a = r.external("a", Shape::matrix(70, 50))?;
    let product = r.matmul(a, a.t())?;
    let mut bindings = Bindings::new();
    bindings.bind(a, &context.upload(Shape::matrix(70, 50), &[0.5; 3500])?);
    let mut prepared = context.prepare(&r.finish(), &bindings)?;
    prepared.run(&[0])?;
    prepared.tensor(product).map_or(Ok(false), |tensor| Ok(tensor.read()?.iter().all(|&x| x == 12.5)))
}
