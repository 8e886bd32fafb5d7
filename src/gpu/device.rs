//! The device: adapters, buffers, pipelines, readback.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures::channel::oneshot;

use super::facts::{Facts, experimental_features, is_software, required_features, required_limits};
use super::joint::Job;
use super::kernels::{Binding, Kernel, Variant};
use super::params::Params;
use crate::error::{Error, Result};

/// What to say where there is no adapter.
const HINT: &str =
    "install a Vulkan driver (Debian, Ubuntu: `apt-get install mesa-vulkan-drivers` brings a software one), or use the CPU path";

/// A compute pipeline and the layout of its only bind group.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
}

/// A wgpu device with what we keep beside it.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) facts: Facts,
    pipelines: Arc<Mutex<HashMap<Variant, Arc<Pipeline>>>>,
    /// The host's, for pipelines that are still to be compiled.
    pipeline_cache: Arc<Mutex<Option<wgpu::PipelineCache>>>,
    /// Bound where a kernel does not use a read binding.
    pub(crate) nothing: wgpu::Buffer,
    /// Why the device was lost. Only a device that we made ourselves tells us: on a host's, the callback is the host's.
    lost: Arc<OnceLock<String>>,
    /// We made the device, so callbacks that fire while we poll are ours.
    own: bool,
}

/// Which adapter to take.
pub(crate) enum Wanted<'a> {
    /// Never a software one.
    RealGpu,
    /// The first whose name, driver or backend contains this.
    Named(&'a str),
    /// The best of these backends.
    Backends(wgpu::Backends),
}

fn rank(info: &wgpu::AdapterInfo) -> u32 {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        // GL tells "other" for many real devices.
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    }
}

fn matches(info: &wgpu::AdapterInfo, part: &str) -> bool {
    let text = format!("{} {} {} {:?}", info.name, info.driver, info.driver_info, info.backend).to_lowercase();
    text.contains(&part.to_lowercase())
}

/// Every adapter of these backends, best first: discrete, integrated, virtual, unknown, software; GL last among equals.
pub async fn adapters(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let descriptor = wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() };
    let mut list = wgpu::Instance::new(descriptor).enumerate_adapters(backends).await;
    list.sort_by_key(|a| (rank(&a.get_info()), a.get_info().backend == wgpu::Backend::Gl));
    list
}

impl Device {
    pub(crate) async fn choose(wanted: Wanted<'_>) -> Result<Device> {
        let backends = match wanted {
            Wanted::Backends(backends) => backends,
            // GL is for those who ask for it: on a headless machine its mere presence makes the driver complain on the terminal.
            Wanted::RealGpu => wgpu::Backends::PRIMARY,
            Wanted::Named(_) => wgpu::Backends::PRIMARY | wgpu::Backends::GL,
        };
        let list = adapters(backends).await;
        let found = list.iter().find(|a| match wanted {
            Wanted::RealGpu => !is_software(&a.get_info()),
            Wanted::Named(part) => matches(&a.get_info(), part),
            Wanted::Backends(_) => true,
        });
        let Some(adapter) = found else {
            let known: Vec<String> = list.iter().map(|a| format!("`{}` ({:?})", a.get_info().name, a.get_info().backend)).collect();
            let wanted = match wanted {
                Wanted::RealGpu => "a real GPU".to_owned(),
                Wanted::Named(part) => part.to_owned(),
                Wanted::Backends(backends) => format!("{backends:?}"),
            };
            let hint = if known.is_empty() { HINT.to_owned() } else { format!("there is {}", known.join(", ")) };
            return Err(Error::NoAdapter { wanted, hint });
        };
        let experimental = experimental_features(adapter);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("layerwise"),
            // The clock is for the one who measures; the library itself does not use it.
            required_features: required_features(adapter) | experimental | (adapter.features() & wgpu::Features::TIMESTAMP_QUERY),
            experimental_features: permit(experimental),
            required_limits: required_limits(adapter),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) =
            adapter.request_device(&descriptor).await.map_err(|e| Error::Gpu { during: "request_device", message: e.to_string() })?;
        let lost = Arc::new(OnceLock::new());
        let reason = lost.clone();
        device.set_device_lost_callback(move |why, message| {
            let _ = reason.set(format!("{why:?}: {message}"));
        });
        Ok(Device { lost, own: true, ..Device::from_wgpu(device, queue, Some(adapter))? })
    }

    pub(crate) fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Result<Device> {
        let mut facts = Facts::of(&device, adapter);
        if let Ok(name) = std::env::var("LAYERWISE_GEMM") {
            facts.gemm.forced = Some(name.parse()?);
        }
        facts.check(device.limits().max_storage_buffers_per_shader_stage)?;
        let nothing = in_scopes(&device, "create_buffer", || buffer(&device, "layerwise nothing", 256, false))?;
        Ok(Device {
            device,
            queue,
            facts,
            pipelines: Arc::default(),
            pipeline_cache: Arc::default(),
            nothing,
            lost: Arc::default(),
            own: false,
        })
    }

    pub(crate) fn describe(&self) -> String {
        format!("{} ({}, {})", self.facts.name, self.facts.backend, self.facts.driver)
    }

    /// Runs `f` inside error scopes of ours, unless the device is known to be lost: wgpu takes work for a lost device without a word.
    pub(crate) fn scoped<T>(&self, during: &'static str, f: impl FnOnce() -> T) -> Result<T> {
        let value = match self.lost.get() {
            None => in_scopes(&self.device, during, f)?,
            Some(reason) => return Err(Error::DeviceLost { reason: reason.clone() }),
        };
        match self.lost.get() {
            None => Ok(value),
            Some(reason) => Err(Error::DeviceLost { reason: reason.clone() }),
        }
    }

    /// Lets finished work report back, without waiting; only on a device of our own.
    pub(crate) fn notice(&self) {
        if self.own {
            // What a poll can find wrong, the next call that needs the device reports.
            let _ = self.device.poll(wgpu::PollType::Poll);
        }
    }

    /// A zeroed or filled storage buffer.
    pub(crate) fn allocate(&self, words: usize, values: Option<&[f32]>) -> Result<wgpu::Buffer> {
        let bytes = 4 * words as u64;
        if bytes > self.facts.max_buffer_bytes {
            return Err(Error::Limit {
                what: "a buffer (bytes)".into(),
                needed: bytes,
                limit: self.facts.max_buffer_bytes,
                advice: "split the stack, or request the device with `layerwise::required_limits(&adapter)`",
            });
        }
        self.scoped("create_buffer", || {
            let buffer = buffer(&self.device, "layerwise tensor", bytes, values.is_some());
            if let Some(values) = values {
                fill(&buffer, bytemuck::cast_slice(values));
            }
            buffer
        })
    }

    pub(crate) fn write(&self, buffer: &wgpu::Buffer, word: usize, words: &[f32]) -> Result<()> {
        self.scoped("write", || self.queue.write_buffer(buffer, 4 * word as u64, bytemuck::cast_slice(words)))
    }

    /// Starts a read; the receiver fires once the device is polled after the copy is done.
    fn start_read(&self, buffer: &wgpu::Buffer, word: usize, words: usize) -> Result<(wgpu::Buffer, oneshot::Receiver<Result<()>>)> {
        let bytes = 4 * words as u64;
        self.scoped("read", || {
            let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("layerwise readback"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("layerwise readback") });
            encoder.copy_buffer_to_buffer(buffer, 4 * word as u64, &staging, 0, bytes);
            self.queue.submit([encoder.finish()]);
            let (sender, receiver) = oneshot::channel();
            staging.slice(..).map_async(wgpu::MapMode::Read, move |result| {
                // The reader may have gone away; nobody is left to tell.
                let _ = sender.send(result.map_err(|e| Error::Gpu { during: "read", message: e.to_string() }));
            });
            (staging, receiver)
        })
    }

    pub(crate) async fn read(&self, buffer: &wgpu::Buffer, word: usize, words: usize) -> Result<Vec<f32>> {
        let (staging, receiver) = self.start_read(buffer, word, words)?;
        finish_read(&staging, receiver).await
    }

    pub(crate) fn read_blocking(&self, buffer: &wgpu::Buffer, word: usize, words: usize) -> Result<Vec<f32>> {
        let (staging, receiver) = self.start_read(buffer, word, words)?;
        self.wait()?;
        pollster::block_on(finish_read(&staging, receiver))
    }

    pub(crate) fn wait(&self) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: None, timeout: None };
        match self.scoped("wait", || self.device.poll(wait))? {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::DeviceLost { reason: e.to_string() }),
        }
    }

    /// One encoder, filled by `f`, and one submit.
    pub(crate) fn submit(
        &self,
        during: &'static str,
        f: impl FnOnce(&mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<wgpu::SubmissionIndex> {
        self.notice();
        self.scoped(during, || {
            let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("layerwise") });
            f(&mut encoder)?;
            Ok(self.queue.submit([encoder.finish()]))
        })?
    }

    /// Waits until a submission and all before it are done.
    pub(crate) fn wait_for(&self, index: wgpu::SubmissionIndex) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: Some(index), timeout: None };
        match self.scoped("wait", || self.device.poll(wait))? {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::DeviceLost { reason: e.to_string() }),
        }
    }

    /// Takes a cache for all pipelines from now on.
    pub(crate) fn set_pipeline_cache(&self, cache: wgpu::PipelineCache) {
        *self.pipeline_cache.lock().unwrap_or_else(PoisonError::into_inner) = Some(cache);
    }

    /// Compiles what is missing of these: several at once, where there are threads.
    pub(crate) fn pipelines(&self, variants: impl Iterator<Item = Variant>) -> Result<()> {
        let wanted: HashSet<Variant> = variants.collect();
        let missing: Vec<Variant> = {
            let known = self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.into_iter().filter(|variant| !known.contains_key(variant)).collect()
        };
        let compile = |list: &[Variant]| list.iter().try_for_each(|&variant| self.pipeline(variant).map(|_| ()));
        #[cfg(not(target_arch = "wasm32"))]
        // A GL device is one context, whose threads would only wait for each other.
        if missing.len() > 1 && self.facts.backend != "Gl" {
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
            let share = missing.len().div_ceil(threads);
            // Threads of our own: a caller's thread pool may be waiting for us.
            return std::thread::scope(|scope| {
                let workers: Vec<_> = missing.chunks(share).map(|list| scope.spawn(move || compile(list))).collect();
                let died = |_| Err(Error::Gpu { during: "create_compute_pipeline", message: "a thread that compiled ended early".into() });
                workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(died))
            });
        }
        compile(&missing)
    }

    /// The pipeline of a variant, compiled at its first use.
    pub(crate) fn pipeline(&self, variant: Variant) -> Result<Arc<Pipeline>> {
        let known = || self.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = known().get(&variant) {
            return Ok(pipeline.clone());
        }
        // Not under the lock: others compile meanwhile. Of two that compile the same one the first stays.
        let pipeline = Arc::new(self.scoped("create_compute_pipeline", || self.compile(variant))?);
        Ok(known().entry(variant).or_insert(pipeline).clone())
    }

    fn compile(&self, variant: Variant) -> Pipeline {
        let cache = self.pipeline_cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bindings = Kernel::named(variant.kernel).map_or(&[][..], |k| k.bindings);
        let entry = |binding: u32, ty: wgpu::BufferBindingType, dynamic: bool| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform, true)];
        entries.extend(
            (1u32..)
                .zip(bindings)
                .map(|(i, (_, access))| entry(i, wgpu::BufferBindingType::Storage { read_only: *access == Binding::Read }, false)),
        );
        let label = Some(variant.kernel);
        let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let descriptor = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(variant.source().into()) };
        // Loop counters and clamps of workgroup arrays cost: products by broadcast on lavapipe took 1.2 times as long. Debug builds keep them.
        #[allow(
            unsafe_code,
            reason = "the shaders are our own: every loop ends, and indices stay inside their arrays (tests run them on every shape)"
        )]
        let module = if cfg!(debug_assertions) {
            self.device.create_shader_module(descriptor)
        } else {
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(variant.kernel),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &[], zero_initialize_workgroup_memory: false },
            cache: cache.as_ref(),
        });
        Pipeline { pipeline, layout }
    }

    /// A storage buffer of the tables of joint dispatches, written once.
    pub(crate) fn table(&self, jobs: &[Job]) -> Result<wgpu::Buffer> {
        let bytes: &[u8] = bytemuck::cast_slice(jobs);
        self.scoped("create_buffer", || {
            let buffer = buffer(&self.device, "layerwise jobs", (bytes.len() as u64).max(256), !bytes.is_empty());
            if !bytes.is_empty() {
                fill(&buffer, bytes);
            }
            buffer
        })
    }

    /// A uniform buffer of parameter slots, written once.
    pub(crate) fn uniforms(&self, slots: &[Params], slot_bytes: usize) -> Result<wgpu::Buffer> {
        let mut bytes = vec![0u8; slots.len().max(1) * slot_bytes];
        for (slot, params) in bytes.chunks_mut(slot_bytes).zip(slots) {
            slot[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(params));
        }
        self.scoped("create_buffer", || {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("layerwise parameters"),
                size: bytes.len() as u64,
                usage: wgpu::BufferUsages::UNIFORM,
                mapped_at_creation: true,
            });
            fill(&buffer, &bytes);
            buffer
        })
    }
}

/// Lets a device have these experimental features, if there are any.
fn permit(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if features.is_empty() {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: the only such feature is cooperative matrices, and the only modules that use it are our own, whose loads and stores stay inside their
    // workgroup arrays for every value of their parameters.
    #[allow(
        unsafe_code,
        reason = "wgpu asks for this acknowledgement of experimental features; shaders of others never reach this device through us"
    )]
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

async fn finish_read(staging: &wgpu::Buffer, receiver: oneshot::Receiver<Result<()>>) -> Result<Vec<f32>> {
    receiver.await.map_err(|_| Error::DeviceLost { reason: "a readback was dropped".into() })??;
    let view = staging.slice(..).get_mapped_range().map_err(|e| Error::Gpu { during: "read", message: e.to_string() })?;
    let values = bytemuck::pod_collect_to_vec(&view);
    drop(view);
    staging.unmap();
    Ok(values)
}

pub(crate) fn buffer(device: &wgpu::Device, label: &str, bytes: u64, mapped: bool) -> wgpu::Buffer {
    device.create_buffer(&wgpu::BufferDescriptor {
        label: Some(label),
        size: bytes,
        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
        mapped_at_creation: mapped,
    })
}

/// Fills a buffer that was created mapped, and unmaps it.
fn fill(buffer: &wgpu::Buffer, bytes: &[u8]) {
    // Mapping fails only where creation failed, which the surrounding error scope reports.
    if let Ok(mut view) = buffer.slice(..).get_mapped_range_mut() {
        view.copy_from_slice(bytes);
    }
    buffer.unmap();
}

/// Runs `f` inside error scopes of ours, so that nothing of ours reaches the host's uncaptured-error handler.
fn in_scopes<T>(device: &wgpu::Device, during: &'static str, f: impl FnOnce() -> T) -> Result<T> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let value = f();
    let errors = [validation.pop(), memory.pop()].map(settle);
    match errors.into_iter().flatten().next() {
        None => Ok(value),
        Some(error) => {
            let message = error.to_string();
            let lost = ["lost", "destroyed", "invalid device"].iter().any(|w| message.to_lowercase().contains(w));
            Err(if lost { Error::DeviceLost { reason: message } } else { Error::Gpu { during, message } })
        }
    }
}

/// On native backends an error scope's answer is there at once; a browser's comes later and is left to its console.
fn settle(scope: impl Future<Output = Option<wgpu::Error>>) -> Option<wgpu::Error> {
    #[cfg(not(target_arch = "wasm32"))]
    return pollster::block_on(scope);
    #[cfg(target_arch = "wasm32")]
    {
        drop(scope);
        None
    }
}
