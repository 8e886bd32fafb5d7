//! Shaders without a device: each against the Rust table, and through every writer that a driver's compiler stands behind.

use std::mem::{offset_of, size_of};

use layerwise::ElementType;
use layerwise::gpu::choice::gemm;
use layerwise::gpu::kernels::{Binding, KERNELS, Kernel, Variant};
use layerwise::gpu::{Facts, GemmShape, Job, Params, ViewParams, choice, variants};
use layerwise::plan::block::COLUMNS;
use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess, TypeInner};

use crate::case::{Case, Outcome, case_host};

/// A property of one shader.
type Check = fn(&Kernel) -> Outcome;

pub(crate) fn cases() -> Vec<Case> {
    let table: [(&str, Check); 5] = [
        ("interface", interface),
        ("parameters", parameters),
        ("block_columns", block_columns),
        ("webgpu_limits", webgpu_limits),
        ("header", header),
    ];
    let mut list = vec![case_host("shaders::table_is_complete", table_is_complete), case_host("shaders::tunables", tunables)];
    list.push(case_host("shaders::cooperative_choice", cooperative_choice));
    for (name, test) in table {
        list.push(case_host(format!("shaders::{name}"), move || {
            KERNELS.iter().try_for_each(|k| test(k).map_err(|e| format!("{}: {}", k.name, e.message().unwrap_or_default())))
        }));
    }
    list.push(case_host("shaders::spirv_msl_hlsl_glsl", written));
    list
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

/// Parses and validates with core WGSL alone (`unpack2x16float` belongs to it), which includes that barriers stand in uniform control flow.
/// What a source enables comes on top.
fn module(source: &str) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32 | Capabilities::SUBGROUP;
    capabilities.set(Capabilities::SHADER_FLOAT16, source.contains("\nenable f16;"));
    capabilities.set(Capabilities::COOPERATIVE_MATRIX, cooperative(source));
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    info.map(|info| (module, info)).map_err(|e| e.emit_to_string(source))
}

/// Needs cooperative matrices: Vulkan and Metal alone, and the workgroup memory that they are chosen for.
fn cooperative(source: &str) -> bool {
    source.contains("\nenable wgpu_cooperative_matrix;")
}

/// No file without a row, no row without a file.
fn table_is_complete() -> Outcome {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        files.extend(name.strip_suffix(".wgsl").map(str::to_owned));
    }
    files.sort();
    let mut rows: Vec<String> = KERNELS.iter().map(|k| k.name.to_owned()).collect();
    rows.sort();
    ensure(files == rows, || format!("files {files:?}, rows {rows:?}"))
}

/// Entry point, bindings with name, order and access.
fn interface(kernel: &Kernel) -> Outcome {
    let (module, _) = module(kernel.source)?;
    let entries: Vec<_> = module.entry_points.iter().map(|e| (e.name.as_str(), e.stage)).collect();
    ensure(entries == [(kernel.name, ShaderStage::Compute)], || format!("entry points {entries:?}"))?;
    let mut found: Vec<(u32, String, AddressSpace)> = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        if let Some(binding) = variable.binding {
            ensure(binding.group == 0, || format!("group {}", binding.group))?;
            found.push((binding.binding, variable.name.clone().unwrap_or_default(), variable.space));
        }
    }
    found.sort_by_key(|f| f.0);
    let mut want = vec![(0, if kernel.joins() { "own" } else { "p" }.to_owned(), AddressSpace::Uniform)];
    for (i, (name, access)) in (1..).zip(kernel.bindings) {
        let access = match access {
            Binding::Read => StorageAccess::LOAD,
            Binding::Write => StorageAccess::LOAD | StorageAccess::STORE,
        };
        want.push((i, (*name).to_owned(), AddressSpace::Storage { access }));
    }
    ensure(found == want, || format!("bindings {found:?}, the table says {want:?}"))
}

fn members(module: &Module, name: &str) -> Result<(u32, Vec<(String, u32)>), String> {
    for (_, kind) in module.types.iter() {
        if let (Some(found), TypeInner::Struct { members, span }) = (&kind.name, &kind.inner)
            && found == name
        {
            return Ok((*span, members.iter().map(|m| (m.name.clone().unwrap_or_default(), m.offset)).collect()));
        }
    }
    Err(format!("no struct {name}"))
}

/// `struct Params` and `struct View` lie in memory as their Rust twins do.
fn parameters(kernel: &Kernel) -> Outcome {
    let (module, _) = module(kernel.source)?;
    let check = |name: &str, size: usize, fields: &[(&str, usize)]| -> Outcome {
        let want: Vec<(String, u32)> =
            fields.iter().map(|(n, o)| Ok(((*n).to_owned(), u32::try_from(*o)?))).collect::<Result<_, std::num::TryFromIntError>>()?;
        let (span, found) = members(&module, name)?;
        ensure(found == want && span as usize == size, || format!("{name}: {found:?} of {span} bytes, in Rust {want:?} of {size}"))
    };
    macro_rules! fields {
        ($type:ty: $($field:ident)*) => { &[$((stringify!($field), offset_of!($type, $field))),*] };
    }
    check("Params", size_of::<Params>(), fields!(Params: views coef column n))?;
    if kernel.joins() {
        check("Job", size_of::<Job>(), fields!(Job: params span))?;
    }
    check("View", size_of::<ViewParams>(), fields!(ViewParams: offset item row col div modulo rows cols))
}

/// A `u32` constant that bears a column's name has its number; a shader that indexes its block by constants uses no others.
fn block_columns(kernel: &Kernel) -> Outcome {
    let (module, _) = module(kernel.source)?;
    for (_, constant) in module.constants.iter() {
        let name = constant.name.as_deref().unwrap_or_default();
        let value = match module.global_expressions[constant.init] {
            naga::Expression::Literal(naga::Literal::U32(value)) => Some(value),
            _ => None,
        };
        if let Some((_, column)) = COLUMNS.iter().find(|c| c.0 == name) {
            ensure(value == Some(*column), || format!("{name} is {value:?}, in Rust {column}"))?;
        } else {
            let used = kernel.source.contains(&format!("+ {name}]")) && kernel.source.contains("block[");
            ensure(!used, || format!("{name} indexes a block and is no column"))?;
        }
    }
    Ok(())
}

fn workgroup_bytes(module: &Module) -> u32 {
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum()
}

/// Cooperative matrices: for two f16 operands, where the device has the fragments, subgroups of a known size and memory for the tile, and both sides of the
/// result are worth a tile.
fn cooperative_choice() -> Outcome {
    let (full, half) = (ElementType::F32, ElementType::F16);
    let device =
        |side, lanes, bytes| Facts { cooperative_side: side, subgroup_lanes: lanes, workgroup_bytes: bytes, ..Facts::webgpu_defaults() };
    let chosen = |facts: &Facts, m: usize, n: usize, a: ElementType, b: ElementType| {
        let shape = GemmShape { m, k: 100, n, a, b };
        gemm(shape, facts).variant.rung(shape, facts, 0)
    };
    let is = |variant: &Variant, side: u32, lanes: u32| {
        let has = |name: &str, value: u32| variant.tunables.contains(&(name, &format!("{value}u")));
        variant.kernel == "gemm_coop" && has("SIDE", side) && has("LANES", lanes)
    };
    for (side, lanes) in [(8, 8), (8, 32), (16, 8), (16, 32)] {
        let facts = device(side, lanes, 32768);
        let (small, large) = (2 * side as usize, 1000);
        for (m, n, tile) in [(small, large, 4 * side), (large, small, 4 * side), (6 * side as usize, large, 8 * side)] {
            let choice = chosen(&facts, m, n, half, half);
            ensure(is(&choice.variant, side, lanes) && choice.rows == tile as usize, || format!("{m} x {n}, {side}, {lanes}: {choice:?}"))?;
        }
        for (m, n, a, b) in
            [(small - 1, large, half, half), (large, large, full, half), (large, large, half, full), (large, large, full, full)]
        {
            let choice = chosen(&facts, m, n, a, b);
            ensure(choice.variant.kernel != "gemm_coop", || format!("{m} x {n}, {a} {b}: {choice:?}"))?;
        }
        // The memory that the choice counts with is what the shader declares.
        let largest = chosen(&facts, large, large, half, half);
        let bytes = workgroup_bytes(&module(&largest.variant.source())?.0);
        let tiles = [bytes, bytes - 1].map(|bytes| chosen(&device(side, lanes, bytes), large, large, half, half).rows);
        ensure(tiles == [8 * side as usize, 4 * side as usize], || format!("{side}, {lanes}: {tiles:?} at {bytes} bytes"))?;
    }
    for facts in [device(0, 32, 32768), device(16, 0, 32768), device(16, 64, 32768)] {
        ensure(chosen(&facts, 1000, 1000, half, half).variant.kernel != "gemm_coop", || format!("{facts:?}"))?;
    }
    Ok(())
}

/// WebGPU's default limits; twice their workgroup memory for cooperative matrices.
fn webgpu_limits(kernel: &Kernel) -> Outcome {
    ensure(kernel.bindings.len() <= 8, || format!("{} storage bindings", kernel.bindings.len()))?;
    // What a device's facts allow beyond WebGPU's defaults is 32 KiB of workgroup memory.
    let large = choice::eigh(64, &Facts { workgroup_bytes: 32768, ..Facts::webgpu_defaults() });
    let listed =
        variants().into_iter().filter(|v| v.kernel == kernel.name).map(|v| (v.source(), if Some(v) == large { 32768 } else { 16384 }));
    ensure(choice::eigh(64, &Facts::webgpu_defaults()).is_none() && large.is_some(), || "memory that a device does not have".into())?;
    for (source, limit) in listed.chain([(kernel.source.to_owned(), 16384)]) {
        let (module, _) = module(&source)?;
        let size: u32 = module.entry_points[0].workgroup_size.iter().product();
        ensure(size <= 256, || format!("{size} invocations"))?;
        let bytes = workgroup_bytes(&module);
        ensure(bytes <= if cooperative(&source) { 32768 } else { limit }, || format!("{bytes} bytes of workgroup memory"))?;
    }
    Ok(())
}

/// Formula; shapes; mapping; preconditions; source. No more than 150 lines.
fn header(kernel: &Kernel) -> Outcome {
    let lines: Vec<&str> = kernel.source.lines().collect();
    let comments = lines.iter().take_while(|l| l.starts_with("// ")).count();
    ensure(comments == 5, || format!("a header of {comments} lines, not 5"))?;
    ensure(lines[3].starts_with("// Preconditions: ") && lines[4].starts_with("// Source: "), || {
        "preconditions and source end the header".into()
    })?;
    ensure(lines.len() <= 150, || format!("{} lines", lines.len()))
}

/// Every tunable of every variant replaces a line of its file.
fn tunables() -> Outcome {
    for variant in variants() {
        let source = variant.source();
        for (name, value) in variant.tunables.iter().copied().chain(variant.switches().map(|name| (name, "true"))) {
            let constant = |l: &str| l.starts_with(&format!("const {name}:")) && l.ends_with(&format!("= {value};"));
            let declared = source.lines().any(|l| constant(l) || l == format!("alias {name} = {value};"));
            ensure(declared, || format!("{variant}: {name} is no tunable"))?;
        }
        module(&source).map_err(|e| format!("{variant}: {e}"))?;
    }
    let named = |k: &Kernel| variants().iter().any(|v| v.kernel == k.name);
    ensure(KERNELS.iter().all(named), || "a kernel has no variant".into())
}

/// Asks the SPIR-V validator that `LAYERWISE_SPIRV_VAL` names (program and arguments, parted by blanks), where it names one.
fn validated(words: &[u32]) -> Result<(), String> {
    let command = std::env::var("LAYERWISE_SPIRV_VAL").unwrap_or_default();
    let mut parts = command.split_whitespace();
    let Some(program) = parts.next() else { return Ok(()) };
    let file = std::env::temp_dir().join(format!("layerwise-{}.spv", std::process::id()));
    std::fs::write(&file, bytemuck::cast_slice(words)).map_err(|e| e.to_string())?;
    let output = std::process::Command::new(program).args(parts).args(["--target-env", "spv1.6"]).arg(&file).output();
    let output = output.map_err(|e| format!("{program}: {e}"));
    std::fs::remove_file(&file).map_err(|e| e.to_string())?;
    let output = output?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// What Vulkan, Metal, DX12 and GL will be given; what cooperative matrices stand in, Vulkan and Metal alone.
fn written() -> Outcome {
    for variant in variants() {
        let source = variant.source();
        let ((module, info), fragments) = (module(&source)?, cooperative(&source));
        let context = |language: &str, error: &dyn std::fmt::Display| format!("{variant} as {language}: {error}");
        let stage = ShaderStage::Compute;
        let spirv = spv::PipelineOptions { shader_stage: stage, entry_point: variant.kernel.into() };
        let subgroups = Kernel::named(variant.kernel).is_some_and(Kernel::needs_subgroups);
        // There is a driver that falls over such a module.
        ensure(!(fragments && subgroups), || format!("{variant} has cooperative matrices and subgroup operations"))?;
        let version = match (fragments, subgroups) {
            (true, _) => (1, 6),
            (false, true) => (1, 3),
            (false, false) => (1, 0),
        };
        let of_version = spv::Options { lang_version: version, ..spv::Options::default() };
        let words = spv::write_vec(&module, &info, &of_version, Some(&spirv)).map_err(|e| context("SPIR-V", &e))?;
        ensure(words.first() == Some(&0x0723_0203), || context("SPIR-V", &"no magic number"))?;
        validated(&words).map_err(|e| context("SPIR-V", &e))?;

        let version = if fragments {
            (2, 3)
        } else if subgroups {
            (2, 1)
        } else {
            (2, 0)
        };
        let options = msl::Options { lang_version: version, ..msl::Options::default() };
        let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default()).map_err(|e| context("MSL", &e))?;
        ensure(text.contains("kernel void"), || context("MSL", &"no kernel"))?;
        if fragments {
            continue;
        }

        let (mut text, mut options, pipeline) = (String::new(), hlsl::Options::default(), hlsl::PipelineOptions::default());
        if subgroups {
            options.shader_model = hlsl::ShaderModel::V6_0;
        }
        hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None).map_err(|e| context("HLSL", &e))?;
        ensure(text.contains("numthreads"), || context("HLSL", &"no entry point"))?;

        if subgroups {
            // GL has none, and the choice goes by the device.
            continue;
        }
        let options = glsl::Options { version: glsl::Version::new_gles(310), ..glsl::Options::default() };
        let pipeline = glsl::PipelineOptions { shader_stage: stage, entry_point: variant.kernel.into(), multiview: None };
        let mut text = String::new();
        let policies = naga::proc::BoundsCheckPolicies::default();
        let mut writer = glsl::Writer::new(&mut text, &module, &info, &options, &pipeline, policies).map_err(|e| context("GLSL", &e))?;
        writer.write().map_err(|e| context("GLSL", &e))?;
        ensure(text.starts_with("#version 310 es"), || context("GLSL", &"no version"))?;
    }
    Ok(())
}
