//! Where tensors live and plans run.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::prepared::{Bindings, Prepared};
use crate::tensor::{ElementType, Shape, Storage, Tensor, pack_f16};

/// The CPU path or one GPU device. Clones are cheap and mean the same context.
#[derive(Clone)]
pub struct Context {
    pub(crate) inner: Inner,
}

#[derive(Clone)]
pub(crate) enum Inner {
    Cpu(Arc<CpuContext>),
    #[cfg(feature = "gpu")]
    Gpu(Arc<crate::gpu::Device>),
}

/// What the CPU path shares between its tensors and plans.
pub(crate) struct CpuContext {
    /// The host's pool; `None` is rayon's global one.
    pub(crate) pool: Option<Arc<rayon::ThreadPool>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.describe())
    }
}

impl PartialEq for Context {
    fn eq(&self, other: &Self) -> bool {
        match (&self.inner, &other.inner) {
            (Inner::Cpu(a), Inner::Cpu(b)) => Arc::ptr_eq(a, b),
            #[cfg(feature = "gpu")]
            // With another table of variants it is the same device.
            (Inner::Gpu(a), Inner::Gpu(b)) => a.device == b.device,
            #[cfg(feature = "gpu")]
            _ => false,
        }
    }
}

impl Context {
    /// The CPU path on rayon's global thread pool.
    pub fn cpu() -> Context {
        Context { inner: Inner::Cpu(Arc::new(CpuContext { pool: None })) }
    }

    /// The CPU path on the caller's thread pool.
    pub fn cpu_with_pool(pool: Arc<rayon::ThreadPool>) -> Context {
        Context { inner: Inner::Cpu(Arc::new(CpuContext { pool: Some(pool) })) }
    }

    /// A real GPU if there is one, otherwise the CPU path; never a software GPU. Without feature `gpu`, the CPU path.
    pub fn auto() -> Context {
        #[cfg(feature = "gpu")]
        match Context::gpu() {
            Ok(context) => return context,
            Err(error) => log::info!("no GPU, using the CPU path: {error}"),
        }
        Context::cpu()
    }

    /// The context that a `--device` flag asks for: `auto` ([`auto`](Self::auto)), `cpu`, `gpu` (the fastest real GPU, otherwise any, software included), or a
    /// part of an adapter's name, driver or backend. Exists with and without feature `gpu`, so that a program need not ask which it was built with.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where nothing matches, and for every GPU without feature `gpu`; [`Error::Gpu`].
    pub fn named(device: &str) -> Result<Context> {
        match device {
            "auto" => Ok(Context::auto()),
            "cpu" => Ok(Context::cpu()),
            #[cfg(feature = "gpu")]
            "gpu" => Context::gpu().or_else(|_| Context::gpu_any()),
            #[cfg(feature = "gpu")]
            part => Context::gpu_named(part),
            #[cfg(not(feature = "gpu"))]
            other => Err(Error::NoAdapter {
                wanted: other.into(),
                hint: "this program was built without feature `gpu`; ask for `cpu`, or build it with that feature".into(),
            }),
        }
    }

    /// True on a GPU.
    pub fn is_gpu(&self) -> bool {
        !matches!(self.inner, Inner::Cpu(_))
    }

    /// One line for people: `CPU, 2 threads`, or adapter, backend and driver.
    pub fn describe(&self) -> String {
        match &self.inner {
            Inner::Cpu(cpu) => {
                let threads = cpu.pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads());
                format!("CPU, {threads} threads")
            }
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => device.describe(),
        }
    }

    /// A zeroed f32 tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] for a zero dimension, [`Error::Limit`] where the device can't hold it.
    pub fn zeros(&self, shape: Shape) -> Result<Tensor> {
        self.zeros_of(shape, ElementType::F32)
    }

    /// A zeroed tensor of any element type.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn zeros_of(&self, shape: Shape, element: ElementType) -> Result<Tensor> {
        shape.check("zeros", "tensor")?;
        let storage = self.allocate(element.words(shape), None)?;
        Ok(Tensor { context: self.clone(), storage, offset: 0, shape, element })
    }

    /// An f32 tensor with these values, row-major.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros), and [`Error::Shape`] where the number of values is wrong.
    pub fn upload(&self, shape: Shape, values: &[f32]) -> Result<Tensor> {
        self.upload_of(shape, ElementType::F32, values)
    }

    /// A tensor of any element type with these values (f16: rounded to nearest even).
    ///
    /// # Errors
    /// As [`upload`](Self::upload).
    pub fn upload_of(&self, shape: Shape, element: ElementType, values: &[f32]) -> Result<Tensor> {
        shape.check("upload", "tensor")?;
        if values.len() != shape.elements() {
            return Err(Error::Shape {
                op: "upload",
                tensor: shape.to_string(),
                expected: format!("{} values", shape.elements()),
                found: format!("{} values", values.len()),
            });
        }
        let storage = match element {
            ElementType::F32 => self.allocate(values.len(), Some(values))?,
            ElementType::F16 => {
                let words = pack_f16(values, shape);
                self.allocate(words.len(), Some(&words))?
            }
        };
        Ok(Tensor { context: self.clone(), storage, offset: 0, shape, element })
    }

    /// Several zeroed f32 tensors, one after another in one buffer: a role arena.
    ///
    /// Weights of equal shape that follow one another, with gradients that do the same, become one stack: they share dispatches.
    /// Weights and gradients belong into two arenas, since one buffer can't be read and written in the same dispatch.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn arena(&self, shapes: &[Shape]) -> Result<Vec<Tensor>> {
        self.arena_of(shapes, None)
    }

    /// As [`arena`](Self::arena), with these values, tensor by tensor.
    pub(crate) fn filled_arena(&self, shapes: &[Shape], values: &[f32]) -> Result<Vec<Tensor>> {
        self.arena_of(shapes, Some(values))
    }

    fn arena_of(&self, shapes: &[Shape], values: Option<&[f32]>) -> Result<Vec<Tensor>> {
        for shape in shapes {
            shape.check("arena", "tensor")?;
        }
        let storage = self.allocate(shapes.iter().map(Shape::elements).sum(), values)?;
        let mut offset = 0;
        Ok(shapes
            .iter()
            .map(|&shape| {
                let tensor = Tensor { context: self.clone(), storage: storage.clone(), offset, shape, element: ElementType::F32 };
                offset += shape.elements();
                tensor
            })
            .collect())
    }

    fn allocate(&self, words: usize, values: Option<&[f32]>) -> Result<Storage> {
        match &self.inner {
            Inner::Cpu(_) => {
                let data = values.map_or_else(|| vec![0.0; words], <[f32]>::to_vec);
                Ok(Storage::Cpu(Arc::new(std::sync::Mutex::new(data))))
            }
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => device.allocate(words, values).map(Storage::Gpu),
        }
    }

    /// Gives a plan memory: checks the bindings, allocates scratch, and on a GPU makes pipelines and bind groups. Everything that costs is here, not in a run.
    ///
    /// # Errors
    /// [`Error::Binding`] for a value that is missing, unknown, or of another shape; [`Error::ForeignContext`]; [`Error::Aliasing`] where an operation
    /// would read and write one buffer; [`Error::Limit`].
    pub fn prepare(&self, plan: &Plan, bindings: &Bindings) -> Result<Prepared> {
        Prepared::new(self, plan, bindings)
    }

    /// As [`prepare`](Self::prepare), without blocking this thread: the work is done on another one, which compiles missing pipelines on all processors.
    ///
    /// Nothing but the future's completion is waited for, so that a host may poll it once a frame until the optimizer or plan is there. On the web, which
    /// has no threads, it is `prepare`; browsers compile pipelines behind the scenes.
    ///
    /// ```
    /// use std::future::Future;
    /// use layerwise::{Bindings, Context, Recorder, Shape};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let context = Context::cpu();
    /// let mut r = Recorder::new();
    /// let x = r.external("x", Shape::matrix(3, 3))?;
    /// r.matmul(x, x)?;
    /// let (plan, mut bindings) = (r.finish(), Bindings::new());
    /// bindings.bind(x, &context.zeros(Shape::matrix(3, 3))?);
    /// let mut future = Box::pin(context.prepare_async(&plan, &bindings));
    /// let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    /// let mut prepared = loop {
    ///     // One frame of the host's.
    ///     if let std::task::Poll::Ready(prepared) = future.as_mut().poll(&mut task) {
    ///         break prepared?;
    ///     }
    /// #   std::thread::yield_now();
    /// };
    /// prepared.run(&[0])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub async fn prepare_async(&self, plan: &Plan, bindings: &Bindings) -> Result<Prepared> {
        let (context, plan, bindings) = (self.clone(), plan.clone(), bindings.clone());
        elsewhere(move || context.prepare(&plan, &bindings)).await
    }

    /// Flops of what operations can be divided into: dispatches on a GPU, themselves on the CPU path.
    pub(crate) fn units(&self, ops: &[crate::plan::Op]) -> Vec<u64> {
        match &self.inner {
            Inner::Cpu(_) => crate::cpu::engine::units(ops),
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => crate::gpu::units(ops, &device.facts),
        }
    }

    /// Blocks until everything submitted so far is done. Returns at once on the CPU path.
    ///
    /// # Errors
    /// [`Error::DeviceLost`].
    pub fn wait(&self) -> Result<()> {
        match &self.inner {
            Inner::Cpu(_) => Ok(()),
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => device.wait(),
        }
    }

    /// The CPU path or the GPU, for [`Error::WrongContext`].
    #[cfg(feature = "gpu")]
    pub(crate) fn gpu_device(&self, call: &'static str) -> Result<&Arc<crate::gpu::Device>> {
        match &self.inner {
            Inner::Cpu(_) => Err(Error::WrongContext { call, needs: "a GPU context", found: "the CPU path" }),
            Inner::Gpu(device) => Ok(device),
        }
    }
}

#[cfg(feature = "gpu")]
impl Context {
    /// The fastest real GPU of Vulkan, Metal or DX12: discrete before integrated before virtual. Blocks while the device is made.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where there is none (a software GPU does not count: ask for it by name), [`Error::Gpu`].
    pub fn gpu() -> Result<Context> {
        pollster::block_on(crate::gpu::Device::choose(crate::gpu::Wanted::RealGpu)).map(Context::from_device)
    }

    /// The first adapter whose name, driver or backend contains `part` (without regard to case), software adapters included: `lavapipe`, `llvmpipe`, `NVIDIA`, `gl`.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] listing what there is, [`Error::Gpu`].
    pub fn gpu_named(part: &str) -> Result<Context> {
        pollster::block_on(crate::gpu::Device::choose(crate::gpu::Wanted::Named(part))).map(Context::from_device)
    }

    /// The best adapter of these backends, software adapters included.
    ///
    /// # Errors
    /// As [`gpu_named`](Self::gpu_named).
    pub fn gpu_backend(backends: wgpu::Backends) -> Result<Context> {
        pollster::block_on(crate::gpu::Device::choose(crate::gpu::Wanted::Backends(backends))).map(Context::from_device)
    }

    /// The best adapter of any kind, software adapters included: what tests use.
    ///
    /// # Errors
    /// As [`gpu_named`](Self::gpu_named).
    pub fn gpu_any() -> Result<Context> {
        Context::gpu_backend(wgpu::Backends::PRIMARY | wgpu::Backends::GL)
    }

    /// Works on the caller's device and queue, within its limits and features. Installs no handlers, never polls except in blocking calls.
    ///
    /// `adapter` adds facts that a device does not tell (cooperative-matrix shapes); without it portable kernels are used.
    /// See [`required_limits`](crate::required_limits) for what to ask of the adapter. The environment variable `LAYERWISE_GEMM`, for benchmarks, names a
    /// [variant](crate::gpu::GemmVariant) of the matrix products that every context then uses wherever it fits.
    ///
    /// # Errors
    /// [`Error::Limit`] where the device's limits are below WebGPU's defaults for compute; [`Error::Config`] where `LAYERWISE_GEMM` names no variant.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue, adapter: Option<&wgpu::Adapter>) -> Result<Context> {
        crate::gpu::Device::from_wgpu(device, queue, adapter).map(Context::from_device)
    }

    /// The same context, whose pipelines from now on are looked up in, and added to, the host's cache. To be called before anything is prepared.
    ///
    /// Only Vulkan devices with [`wgpu::Features::PIPELINE_CACHE`] have such a cache; making one is the host's business, as is saving what
    /// [`get_data`](wgpu::PipelineCache::get_data) gives.
    ///
    /// ```no_run
    /// # use layerwise::{Context, wgpu};
    /// # fn embed(device: wgpu::Device, queue: wgpu::Queue, cache: wgpu::PipelineCache) -> layerwise::Result<()> {
    /// let context = Context::from_wgpu(device, queue, None)?.with_pipeline_cache(cache)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::WrongContext`] on the CPU path.
    pub fn with_pipeline_cache(self, cache: wgpu::PipelineCache) -> Result<Context> {
        self.gpu_device("with_pipeline_cache")?.set_pipeline_cache(cache);
        Ok(self)
    }

    pub(crate) fn from_device(device: crate::gpu::Device) -> Context {
        Context { inner: Inner::Gpu(Arc::new(device)) }
    }

    /// A view of the caller's buffer from `byte_offset` on. No copy; the buffer stays the caller's.
    ///
    /// The buffer needs `STORAGE` usage, and `COPY_SRC` / `COPY_DST` for [`Tensor::read`] / [`Tensor::write`].
    ///
    /// # Errors
    /// [`Error::Buffer`] for missing usage, an offset that is not a multiple of 4, or a buffer that ends too early; [`Error::Shape`]; [`Error::WrongContext`].
    pub fn import(&self, buffer: &wgpu::Buffer, byte_offset: u64, shape: Shape, element: ElementType) -> Result<Tensor> {
        shape.check("import", "tensor")?;
        self.gpu_device("import")?;
        let refuse = |reason: String| Err(Error::Buffer { buffer: format!("{} bytes", buffer.size()), reason });
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return refuse(format!("its usage is {:?}; create it with STORAGE", buffer.usage()));
        }
        if !byte_offset.is_multiple_of(4) {
            return refuse(format!("offset {byte_offset} is not a multiple of 4"));
        }
        let bytes = 4 * element.words(shape) as u64;
        if byte_offset.checked_add(bytes).is_none_or(|end| end > buffer.size()) {
            return refuse(format!(
                "{shape} {element} needs {bytes} bytes from offset {byte_offset} on; make it larger, or import less of it"
            ));
        }
        let offset = usize::try_from(byte_offset / 4).map_err(|_| Error::Buffer {
            buffer: format!("{} bytes", buffer.size()),
            reason: format!("offset {byte_offset} is beyond this machine's address range"),
        })?;
        Ok(Tensor { context: self.clone(), storage: Storage::Gpu(buffer.clone()), offset, shape, element })
    }

    /// The wgpu device and queue of a GPU context.
    pub fn wgpu(&self) -> Option<(&wgpu::Device, &wgpu::Queue)> {
        match &self.inner {
            Inner::Cpu(_) => None,
            Inner::Gpu(device) => Some((&device.device, &device.queue)),
        }
    }

    /// Adapter facts of a GPU context.
    pub fn facts(&self) -> Option<&crate::gpu::Facts> {
        match &self.inner {
            Inner::Cpu(_) => None,
            Inner::Gpu(device) => Some(&device.facts),
        }
    }

    pub(crate) fn gpu_write(&self, buffer: &wgpu::Buffer, word: usize, words: &[f32]) -> Result<()> {
        check_usage(buffer, wgpu::BufferUsages::COPY_DST, "`write`")?;
        self.gpu_device("write")?.write(buffer, word, words)
    }

    pub(crate) async fn gpu_read(&self, buffer: &wgpu::Buffer, word: usize, words: usize) -> Result<Vec<f32>> {
        check_usage(buffer, wgpu::BufferUsages::COPY_SRC, "`read`")?;
        self.gpu_device("read")?.read(buffer, word, words).await
    }

    pub(crate) fn gpu_read_blocking(&self, buffer: &wgpu::Buffer, word: usize, words: usize) -> Result<Vec<f32>> {
        check_usage(buffer, wgpu::BufferUsages::COPY_SRC, "`read`")?;
        self.gpu_device("read")?.read_blocking(buffer, word, words)
    }
}

/// Our own buffers have every usage; an imported one may lack what a copy needs.
#[cfg(feature = "gpu")]
fn check_usage(buffer: &wgpu::Buffer, needed: wgpu::BufferUsages, call: &str) -> Result<()> {
    if buffer.usage().contains(needed) {
        return Ok(());
    }
    let reason = format!("its usage is {:?}; {call} needs {needed:?}", buffer.usage());
    Err(Error::Buffer { buffer: format!("{} bytes", buffer.size()), reason })
}

/// Runs `f` on a thread of its own where there are threads.
pub(crate) async fn elsewhere<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    #[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
    {
        let (sender, receiver) = futures::channel::oneshot::channel();
        let work = move || {
            // The caller may have dropped the future; nobody is left to tell.
            let _ = sender.send(f());
        };
        let started = std::thread::Builder::new().name("layerwise prepare".into()).spawn(work);
        let ended = |message: String| Error::Gpu { during: "prepare", message };
        started.map_err(|error| ended(error.to_string()))?;
        receiver.await.map_err(|_| ended("the thread that prepared ended early".into()))?
    }
    #[cfg(not(all(feature = "gpu", not(target_arch = "wasm32"))))]
    f()
}
