//! What we know of an adapter and device, as plain numbers.

use super::choice::GemmTable;
use super::cooperative::largest_side;
use crate::error::{Error, Result};

/// What products on cooperative matrices need of a device.
const COOPERATIVE: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16);

/// Bytes of workgroup memory that the largest tiles take.
const LARGEST_TILES: u32 = 32 * 1024;

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
    /// The device was made with f16 arithmetic.
    pub f16: bool,
    /// Lanes of every subgroup; 0 where they differ or are not known.
    pub subgroup_lanes: u32,
    /// Side of the cooperative matrices that are multiplied from f16 into f32; 0 where there are none, or the device was made without them.
    pub cooperative_side: u32,
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
            f16: false,
            subgroup_lanes: 0,
            cooperative_side: 0,
            gemm: GemmTable::default(),
        }
    }

    pub(crate) fn of(device: &wgpu::Device, adapter: Option<&wgpu::Adapter>) -> Facts {
        let (limits, features, info) = (device.limits(), device.features(), device.adapter_info());
        let lanes = match (info.backend, info.subgroup_min_size, info.subgroup_max_size) {
            // Metal does not tell; every Apple GPU has 32.
            (wgpu::Backend::Metal, ..) => 32,
            (_, least, most) if least == most => least,
            _ => 0,
        };
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
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup_lanes: lanes,
            cooperative_side: adapter
                .filter(|_| features.contains(COOPERATIVE))
                .map_or(0, |a| largest_side(&a.cooperative_matrix_properties())),
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

/// The features that the library uses where `adapter` has them. None is needed: portable kernels always exist; none is experimental.
///
/// `SUBGROUP` for products that broadcast between lanes, `SHADER_F16` for products on cooperative matrices.
pub fn required_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    adapter.features() & (wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16)
}

/// The experimental features that the library uses where `adapter` has them: cooperative matrices, for products of two f16 tensors.
///
/// A device gets them only with `wgpu::ExperimentalFeatures::enabled()`, which is unsafe: what validates other shaders is not complete for them.
/// Devices that the library makes itself have them; a host decides for its own, adds them to [`required_features`], and passes its adapter to
/// [`Context::from_wgpu`](crate::Context::from_wgpu), since a device alone does not tell the shapes.
pub fn experimental_features(adapter: &wgpu::Adapter) -> wgpu::Features {
    let usable = adapter.features().contains(COOPERATIVE) && largest_side(&adapter.cooperative_matrix_properties()) > 0;
    if usable { wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX } else { wgpu::Features::empty() }
}

/// The limits to request a device with: WebGPU's defaults, with buffer and binding sizes raised to what `adapter` offers, and workgroup memory to
/// 32 KiB where it offers that.
pub fn required_limits(adapter: &wgpu::Adapter) -> wgpu::Limits {
    let offered = adapter.limits();
    wgpu::Limits {
        max_buffer_size: offered.max_buffer_size,
        max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
        max_compute_workgroup_storage_size: offered.max_compute_workgroup_storage_size.min(LARGEST_TILES),
        ..wgpu::Limits::default().or_worse_values_from(&offered)
    }
}
