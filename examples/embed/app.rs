//! The application: its device, its buffers, its shaders, its frame. The library is a guest in all of them.

use layerwise::optim::{Group, Method, Optimizer, Parameter};
use layerwise::plan::{Distribution, Gemm};
use layerwise::rng::Philox;
use layerwise::{Bindings, Context, ElementType, Prepared, Recorder, Shape, Tensor, wgpu};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

const CHANNELS: usize = 3;

/// The device that the application made for itself, with what the library would like to find.
pub(crate) struct Host {
    pub(crate) adapter: wgpu::Adapter,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
}

impl Host {
    /// The first adapter whose description contains `wanted`; hardware before software where that is empty.
    pub(crate) fn open(wanted: &str) -> Result<Host, Failure> {
        let backends = if wanted.is_empty() { wgpu::Backends::PRIMARY } else { wgpu::Backends::all() };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
        let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
        adapters.sort_by_key(|adapter| adapter.get_info().device_type == wgpu::DeviceType::Cpu);
        let fits = |adapter: &wgpu::Adapter| format!("{:?}", adapter.get_info()).to_lowercase().contains(&wanted.to_lowercase());
        let adapter = adapters.into_iter().find(fits).ok_or("no such adapter: `cargo run --example devices` lists them")?;
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("embed"),
            required_features: layerwise::required_features(&adapter),
            required_limits: layerwise::required_limits(&adapter),
            ..wgpu::DeviceDescriptor::default()
        }))?;
        Ok(Host { adapter, device, queue })
    }
}

/// What to train.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Pixels of a side of the picture.
    pub(crate) side: u32,
    /// Waves of the Fourier front: each gives a sine and a cosine.
    pub(crate) waves: usize,
    /// Hidden units.
    pub(crate) hidden: usize,
    /// Screen pixels of a side of a picture's pixel.
    pub(crate) scale: u32,
}

/// One of the application's compute passes over its buffers.
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    bindings: wgpu::BindGroup,
    groups: u32,
}

/// A network that learns a picture while the picture is drawn.
pub(crate) struct App {
    host: Host,
    size: Size,
    /// The matrix products of forward and backward pass: segments 0 to 3.
    products: Prepared,
    /// In between: activation, errors, back through the activation.
    kernels: [Kernel; 3],
    optimizer: Optimizer,
    draw: wgpu::RenderPipeline,
    drawn: wgpu::BindGroup,
    screen: wgpu::Texture,
    output: Tensor,
    target: Vec<f32>,
}

/// The application's buffers, and the library's views of them.
struct Store<'a> {
    host: &'a Host,
    ctx: &'a Context,
}

impl Store<'_> {
    /// A buffer that holds matrices of these shapes one after another.
    fn matrices(&self, label: &str, shapes: &[Shape]) -> Result<(wgpu::Buffer, Vec<Tensor>), Failure> {
        let bytes: usize = shapes.iter().map(|shape| 4 * shape.elements()).sum();
        let buffer = self.host.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes as u64,
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let mut offset = 0;
        let mut tensors = Vec::new();
        for &shape in shapes {
            tensors.push(self.ctx.import(&buffer, offset, shape, ElementType::F32)?);
            offset += 4 * shape.elements() as u64;
        }
        Ok((buffer, tensors))
    }

    fn matrix(&self, label: &str, rows: usize, cols: usize) -> Result<(wgpu::Buffer, Tensor), Failure> {
        let (buffer, mut tensors) = self.matrices(label, &[Shape::matrix(rows, cols)])?;
        Ok((buffer, tensors.remove(0)))
    }
}

impl App {
    /// Makes everything that a frame needs; `target` is the picture, three numbers a pixel.
    pub(crate) fn new(host: Host, size: Size, method: Method, target: Vec<f32>) -> Result<App, Failure> {
        let ctx = Context::from_wgpu(host.device.clone(), host.queue.clone(), Some(&host.adapter))?;
        let store = Store { host: &host, ctx: &ctx };
        let pixels = (size.side * size.side) as usize;
        let (width, hidden) = (2 * size.waves + 1, size.hidden);

        // Both layers' weights share a buffer, their gradients another. The last column of each is the bias.
        let layers = [Shape::matrix(hidden, width), Shape::matrix(CHANNELS, hidden + 1)];
        let (_, weights) = store.matrices("weights", &layers)?;
        let (_, gradients) = store.matrices("gradients", &layers)?;
        let (_, features) = store.matrix("features", pixels, width)?;
        let (sums_buffer, sums) = store.matrix("hidden sums", pixels, hidden)?;
        let (units_buffer, units) = store.matrix("hidden units", pixels, hidden + 1)?;
        let (output_buffer, output) = store.matrix("output", pixels, CHANNELS)?;
        let (target_buffer, goal) = store.matrix("target", pixels, CHANNELS)?;
        let (errors_buffer, errors) = store.matrix("errors", pixels, CHANNELS)?;
        let (draws_buffer, draws) = store.matrix("sampled errors", pixels, CHANNELS)?;
        let (inner_buffer, inner) = store.matrix("hidden errors", pixels, hidden)?;
        let (inner_draws_buffer, inner_draws) = store.matrix("sampled hidden errors", pixels, hidden)?;
        goal.write(&target)?;
        features.write(&fourier(size, 3.0))?;
        for (i, weight) in (0u32..).zip(&weights) {
            let shape = weight.shape();
            let mut values = vec![0.0; shape.elements()];
            Philox { key: [1, i] }.fill(Distribution::Normal, 0, 0, &mut values);
            // Small outputs at first: a dark picture.
            let deviation = if i == 0 { 1.0 } else { 0.1 } / (shape.cols as f32).sqrt();
            weight.write(&values.iter().map(|x| deviation * x).collect::<Vec<f32>>())?;
        }

        let mut r = Recorder::new();
        let mut bindings = Bindings::new();
        let mut bind = |name: &str, tensor: &Tensor| -> layerwise::Result<layerwise::Value> {
            let value = r.external(name, tensor.shape())?;
            bindings.bind(value, tensor);
            Ok(value)
        };
        let (x, z, a, y) = (bind("x", &features)?, bind("z", &sums)?, bind("a", &units)?, bind("y", &output)?);
        let (e, s) = (bind("e", &errors)?, bind("s", &draws)?);
        let (inner_e, inner_s) = (bind("inner_e", &inner)?, bind("inner_s", &inner_draws)?);
        let (w1, w2) = (bind("w1", &weights[0])?, bind("w2", &weights[1])?);
        let (g1, g2) = (bind("g1", &gradients[0])?, bind("g2", &gradients[1])?);
        r.segment("hidden sums");
        r.record(Gemm::new(x, w1.t(), z))?;
        r.segment("output");
        r.record(Gemm::new(a, w2.t(), y))?;
        r.segment("backward");
        r.record(Gemm::new(e.t(), a, g2))?;
        r.record(Gemm::new(e, w2.col_range(0..hidden)?, inner_e))?;
        r.record(Gemm::new(s, w2.col_range(0..hidden)?, inner_s))?;
        r.segment("first gradient");
        r.record(Gemm::new(inner_e.t(), x, g1))?;
        let products = ctx.prepare(&r.finish(), &bindings)?;

        let parameter = |name: &str, i: usize| Parameter::new(name, &weights[i], &gradients[i]);
        let group = Group::new(method)
            .parameter(parameter("hidden", 0).samples(&features, &inner_draws))
            .parameter(parameter("output", 1).samples(&units, &draws));
        let optimizer = Optimizer::builder(&ctx).group(group).build()?;

        let module = host.device.create_shader_module(wgpu::include_wgsl!("network.wgsl"));
        let kernel = |entry: &str, elements: usize, buffers: &[(u32, &wgpu::Buffer)]| {
            let constants = [("pixels", pixels as f64), ("hidden", hidden as f64)];
            let pipeline = host.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: None,
                module: &module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
                cache: None,
            });
            let bindings = bind_group(&host.device, &pipeline.get_bind_group_layout(0), buffers);
            Kernel { pipeline, bindings, groups: u32::try_from(elements.div_ceil(64)).unwrap_or(u32::MAX).min(65535) }
        };
        let kernels = [
            kernel("activate", pixels * (hidden + 1), &[(0, &sums_buffer), (2, &units_buffer)]),
            kernel("compare", pixels * CHANNELS, &[(0, &output_buffer), (1, &target_buffer), (2, &errors_buffer), (3, &draws_buffer)]),
            kernel("retreat", pixels * hidden, &[(0, &units_buffer), (2, &inner_buffer), (3, &inner_draws_buffer)]),
        ];
        let (draw, screen) = screen(&host.device, size);
        let drawn = bind_group(&host.device, &draw.get_bind_group_layout(0), &[(0, &output_buffer)]);
        Ok(App { host, size, products, kernels, optimizer, draw, drawn, screen, output, target })
    }

    /// One frame: forward, backward, the optimizer's step and the drawing, in one encoder and one submit. Waits for nothing.
    pub(crate) fn frame(&mut self) -> Result<(), Failure> {
        let mut encoder = self.host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("frame") });
        {
            // The library's products and the application's kernels take turns in one open pass.
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("network"), timestamp_writes: None });
            for (segment, kernel) in self.kernels.iter().enumerate() {
                self.products.record_into_pass(&mut pass, &[segment])?;
                pass.set_pipeline(&kernel.pipeline);
                pass.set_bind_group(0, &kernel.bindings, &[]);
                pass.dispatch_workgroups(kernel.groups, 1, 1);
            }
            self.products.record_into_pass(&mut pass, &[self.kernels.len()])?;
        }
        self.optimizer.record(&mut encoder)?;
        {
            let view = self.screen.create_view(&wgpu::TextureViewDescriptor::default());
            let mut pass = encoder.begin_render_pass(&wgpu::RenderPassDescriptor {
                label: Some("picture"),
                color_attachments: &[Some(wgpu::RenderPassColorAttachment {
                    view: &view,
                    depth_slice: None,
                    resolve_target: None,
                    ops: wgpu::Operations { load: wgpu::LoadOp::Clear(wgpu::Color::BLACK), store: wgpu::StoreOp::Store },
                })],
                ..wgpu::RenderPassDescriptor::default()
            });
            pass.set_pipeline(&self.draw);
            pass.set_bind_group(0, &self.drawn, &[]);
            pass.draw(0..3, 0..1);
        }
        self.host.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Loss `sum |y - target|^2 / (2 pixels)` and PSNR in dB of the last frame. Reads back, so not for every frame.
    pub(crate) fn quality(&self) -> Result<(f64, f64), Failure> {
        let output = self.output().read()?;
        let squares: f64 = output.iter().zip(&self.target).map(|(y, t)| f64::from(y - t).powi(2)).sum();
        let pixels = self.target.len() as f64 / CHANNELS as f64;
        Ok((squares / (2.0 * pixels), -10.0 * (squares / self.target.len() as f64).log10()))
    }

    /// What the last frame drew: RGBA, row by row, and the pixels of a side.
    pub(crate) fn screenshot(&self) -> Result<(Vec<u8>, u32), Failure> {
        let side = self.size.side * self.size.scale;
        let (row, padded) = (4 * side, (4 * side).next_multiple_of(wgpu::COPY_BYTES_PER_ROW_ALIGNMENT));
        let staging = self.host.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("screenshot"),
            size: u64::from(padded * side),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        });
        let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(padded), rows_per_image: None };
        let mut encoder = self.host.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_texture_to_buffer(
            self.screen.as_image_copy(),
            wgpu::TexelCopyBufferInfo { buffer: &staging, layout },
            self.screen.size(),
        );
        self.host.queue.submit([encoder.finish()]);
        staging.map_async(wgpu::MapMode::Read, .., |_| {});
        self.host.device.poll(wgpu::PollType::wait_indefinitely())?;
        let bytes = staging.get_mapped_range(..)?.to_vec();
        Ok((bytes.chunks(padded as usize).flat_map(|line| line[..row as usize].to_vec()).collect(), side))
    }

    /// Device and queue, for whoever counts.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// What the network says, three numbers a pixel.
    pub(crate) fn output(&self) -> &Tensor {
        &self.output
    }

    /// The optimizer, to look at.
    pub(crate) fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }
}

fn bind_group(device: &wgpu::Device, layout: &wgpu::BindGroupLayout, buffers: &[(u32, &wgpu::Buffer)]) -> wgpu::BindGroup {
    let entries: Vec<_> =
        buffers.iter().map(|&(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() }).collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
}

/// The pipeline that draws, and what it draws on: a texture here, a window's surface elsewhere.
fn screen(device: &wgpu::Device, size: Size) -> (wgpu::RenderPipeline, wgpu::Texture) {
    let module = device.create_shader_module(wgpu::include_wgsl!("draw.wgsl"));
    let constants = [("side", f64::from(size.side)), ("scale", f64::from(size.scale))];
    let compilation_options = wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() };
    let format = wgpu::TextureFormat::Rgba8Unorm;
    let pipeline = device.create_render_pipeline(&wgpu::RenderPipelineDescriptor {
        label: Some("picture"),
        layout: None,
        vertex: wgpu::VertexState {
            module: &module,
            entry_point: Some("cover"),
            compilation_options: compilation_options.clone(),
            buffers: &[],
        },
        primitive: wgpu::PrimitiveState::default(),
        depth_stencil: None,
        multisample: wgpu::MultisampleState::default(),
        fragment: Some(wgpu::FragmentState {
            module: &module,
            entry_point: Some("shade"),
            compilation_options,
            targets: &[Some(format.into())],
        }),
        multiview_mask: None,
        cache: None,
    });
    let side = size.side * size.scale;
    let texture = device.create_texture(&wgpu::TextureDescriptor {
        label: Some("screen"),
        size: wgpu::Extent3d { width: side, height: side, depth_or_array_layers: 1 },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format,
        usage: wgpu::TextureUsages::RENDER_ATTACHMENT | wgpu::TextureUsages::COPY_SRC,
        view_formats: &[],
    });
    (pipeline, texture)
}

/// Rows `sin(b_i p), cos(b_i p), ..., 1` for every pixel `p` in `[-1, 1]^2`, `b_i` normal with deviation `bandwidth * pi`.
fn fourier(size: Size, bandwidth: f32) -> Vec<f32> {
    let mut waves = vec![0.0; 2 * size.waves];
    Philox { key: [0, 0] }.fill(Distribution::Normal, 0, 0, &mut waves);
    let at = |i: u32| 2.0 * (i as f32 + 0.5) / size.side as f32 - 1.0;
    let mut rows = Vec::new();
    for (row, col) in (0..size.side).flat_map(|row| (0..size.side).map(move |col| (row, col))) {
        for wave in waves.chunks(2) {
            let phase = std::f32::consts::PI * bandwidth * (wave[0] * at(col) + wave[1] * at(row));
            rows.extend([phase.sin(), phase.cos()]);
        }
        rows.push(1.0);
    }
    rows
}
