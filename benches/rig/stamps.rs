//! Times by the GPU's own clock.

use layerwise::{Context, Prepared, wgpu};

/// Two time stamps and where they are read.
pub(crate) struct Stamps<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    read: wgpu::Buffer,
}

const BYTES: u64 = 16;

impl<'a> Stamps<'a> {
    /// None where the device has no clock.
    pub(crate) fn new(context: &'a Context) -> Option<Self> {
        let (device, queue) = context.wgpu()?;
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let buffer = |usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size: BYTES, usage, mapped_at_creation: false });
        let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
        let read = buffer(wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ);
        let set = device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: 2 });
        Some(Stamps { device, queue, set, resolved, read })
    }

    /// Seconds from the start to the end of a pass with these segments.
    pub(crate) fn time(&self, prepared: &mut Prepared, segments: &[usize]) -> f64 {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let writes = wgpu::ComputePassTimestampWrites {
                query_set: &self.set,
                beginning_of_pass_write_index: Some(0),
                end_of_pass_write_index: Some(1),
            };
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(writes) });
            prepared.record_into_pass(&mut pass, segments).expect("the plan runs");
        }
        encoder.resolve_query_set(&self.set, 0..2, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.read, 0, BYTES);
        self.queue.submit([encoder.finish()]);
        self.read.slice(..).map_async(wgpu::MapMode::Read, |_| ());
        self.device.poll(wgpu::PollType::Wait { submission_index: None, timeout: None }).expect("the device is there");
        let stamps: Vec<u64> = {
            let view = self.read.slice(..).get_mapped_range().expect("mapped");
            view.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect()
        };
        self.read.unmap();
        stamps[1].saturating_sub(stamps[0]) as f64 * f64::from(self.queue.get_timestamp_period()) * 1e-9
    }
}
