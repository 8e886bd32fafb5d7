//! What we know of an adapter and device, as plain numbers.

use super::choice::GemmTable;
use crate::error::{Error, Result};

/// Facts that lowering and choice depend on. Plain data: counts can be computed for a device that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The adapter's name.
    pub name: String,
    /// Vulkan, Metal, Dx12, Gl or `BrowserWebGpu`.
    pub backend: String,
    /// Driver and version, as the driver tells them.
    pub driver: String,
    /// True for software rasterisers.
    pub software: bool,
    /// Workgroups in each dimension of a dispatch.
    pub max_workgroups: u32,
    /// Bytes that one binding can reach.
    pub max_binding_bytes: u64,
    /// Bytes of the largest buffer.
    pub max_buffer_bytes: u64,
    /// Alignment of storage binding offsets.
    pub storage_alignment: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_invocations: u32,
    /// The device was made with subgroup operations.
    pub subgroups: bool,
    /// Least and largest number of invocations of a subgroup; none without subgroup operations.
    pub subgroup_sizes: Option<(u32, u32)>,
    /// The device was made with f16 arithmetic.
    pub f16: bool,
    /// The device was made with cooperative matrices.
    pub cooperative_matrix: bool,
    /// What stands above the built-in choice of matrix-product variants.
    pub gemm: GemmTable,
}

impl Facts {
    /// A device at WebGPU's default limits, without optional features: the least that we support.
    pub fn webgpu_defaults() -> Facts {
        let limits = wgpu::Limits::default();
        Facts {
            name: "WebGPU defaults".into(),
            backend: "none".into(),
            driver: "none".into(),
            software: false,
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            subgroups: false,
            subgroup_sizes: None,
            f16: false,
            cooperative_matrix: false,
            gemm: GemmTable::default(),
        }
    }

    pub(crate) fn of(device: &wgpu::Device) -> Facts {
        let (limits, features, info) = (device.limits(), device.features(), device.adapter_info());
        Facts {
            software: is_software(&info),
            name: info.name,
            backend: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().into(),
            max_workgroups: limits.max_compute_workgroups_per_dimension,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            storage_alignment: limits.min_storage_buffer_offset_alignment,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            subgroups: features.contains(wgpu::Features::SUBGROUP),
            subgroup_sizes: features.contains(wgpu::Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size)),
            f16: features.contains(wgpu::Features::SHADER_F16),
            cooperative_matrix: features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
            gemm: GemmTable::default(),
        }
    }

    /// Refuses devices below what the portable kernels need.
    pub(crate) fn check(&self, storage_buffers: u32) -> Result<()> {
        let needs = [
            ("workgroup memory (bytes)", 16 * 1024, u64::from(self.workgroup_bytes)),
            ("invocations of a workgroup", 256, u64::from(self.workgroup_invocations)),
            ("storage buffers of a shader stage", 5, u64::from(storage_buffers)),
        ];
        match needs.iter().find(|(_, needed, limit)| needed > limit) {
            None => Ok(()),
            Some(&(what, needed, limit)) => Err(Error::Limit {
                what: what.into(),
                needed,
                limit,
                advice: "request the device with `layerwise::required_limits(&adapter)`",
            }),
        }
    }
}

/// Software rasterisers, by kind or by name: GL tells "other" for them.
pub(crate) fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    info.device_type == wgpu::DeviceType::Cpu || ["llvmpipe", "lavapipe", "swiftshader", "softpipe"].iter().any(|s| name.contains(s))
}

/// The features that the library uses where `adapter` has them. None is needed: portable kernels always exist.
///
/// `SUBGROUP`: products that broadcast between lanes.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features() & wgpu::Features::SUBGROUP
}

/// The limits to request a device with: WebGPU's defaults, with buffer and binding sizes raised to what `adapter` offers.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let offered = adapter.limits();
    wgpu::Limits {
        max_buffer_size: offered.max_buffer_size,
        max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
        ..wgpu::Limits::default().or_worse_values_from(&offered)
    }
}
