//! Dispatches with buffers: prepared once, encoded any number of times.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::choice;
use super::cost;
use super::device::{Device, Pipeline, buffer};
use super::facts::Facts;
use super::joint::{self, Job, Placed, Reach};
use super::kernels::{Binding, Kernel, Variant};
use super::lowering::{Dispatch, lower};
use super::params::{Params, SLOT};
use super::quads;
use super::split::PARTIAL;
use crate::error::{Error, Result};
use crate::plan::{Op, Plan, Segment, wave};
use crate::tensor::{ElementType, Storage, Tensor};

/// How much work a plan is for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchCount {
    /// Compute dispatches.
    pub dispatches: usize,
    /// Groups of dispatches that are independent of each other. Between two groups the driver gets one barrier, or two where the later one has several dispatches
    /// and writes what was read or written before.
    pub waves: usize,
}

/// Dispatches and waves of one run of all segments, for a device that need not be there and values with buffers of their own: where values share buffers,
/// dispatches of one kernel over parts of them become one.
pub fn count(plan: &Plan, facts: &Facts) -> DispatchCount {
    let mut total = DispatchCount { dispatches: 0, waves: 0 };
    for segment in plan.segments() {
        let dispatches: Vec<Dispatch> = plan.ops()[segment.ops.clone()].iter().flat_map(|op| lower(op, facts)).collect();
        let touches: Vec<Vec<wave::Touch>> = dispatches
            .iter()
            .map(|d| used(d).map(|(value, binding)| (value as usize, wave::WHOLE, binding == Binding::Write)).collect())
            .collect();
        total.dispatches += dispatches.len();
        total.waves += wave::waves(touches.iter().map(Vec::as_slice)).into_iter().max().map_or(0, |w| w + 1);
    }
    total
}

/// Dispatches of one operation by itself, on a device that need not be there.
pub fn dispatches(op: &Op, facts: &Facts) -> usize {
    lower(op, facts).len()
}

/// Bytes of scratch that `prepare` allocates beside [`Plan::scratch_bytes`], for operations that take several dispatches on a device of these facts: partial products.
/// At most 16 MiB a segment.
pub fn scratch_bytes(plan: &Plan, facts: &Facts) -> u64 {
    let of =
        |segment: &Segment| partials(plan.ops()[segment.ops.clone()].iter().flat_map(|op| lower(op, facts)).collect::<Vec<_>>().iter());
    plan.segments().iter().map(|segment| 4 * of(segment) as u64).sum()
}

/// Words of the partial products of these dispatches, which take turns.
fn partials<'a>(dispatches: impl Iterator<Item = &'a Dispatch>) -> usize {
    let values = dispatches.flat_map(|d| d.values.iter().flatten()).filter(|v| v.id == PARTIAL);
    values.map(|v| v.items * v.item_stride).max().unwrap_or(0)
}

/// The values that a dispatch binds, and how.
fn used(dispatch: &Dispatch) -> impl Iterator<Item = (u32, Binding)> {
    let bindings = Kernel::named(dispatch.variant.kernel).map_or(&[][..], |k| k.bindings);
    dispatch.values.iter().zip(bindings).filter_map(|(value, (_, binding))| value.map(|v| (v.id, *binding)))
}

#[derive(Debug)]
struct Step {
    variant: Variant,
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    offset: u32,
    groups: [u32; 3],
}

/// Steps without a barrier between them.
#[derive(Debug)]
struct Wave {
    /// Buffers that earlier waves wrote and this one reads: one transition for all.
    reads: Vec<wgpu::Buffer>,
    steps: Vec<Step>,
}

/// One dispatch, of one operation or of several, before it has a bind group.
struct Unit {
    variant: Variant,
    /// By binding: buffer and bytes.
    reach: Vec<Option<(usize, Range<u64>)>>,
    slot: usize,
    /// Its jobs, where it has several.
    table: Range<usize>,
    groups: [u32; 3],
    flops: u64,
}

impl Unit {
    fn bindings(&self) -> &'static [(&'static str, Binding)] {
        Kernel::named(self.variant.kernel).map_or(&[], |k| k.bindings)
    }

    fn used(&self) -> impl Iterator<Item = (usize, Binding)> {
        self.reach.iter().zip(self.bindings()).filter_map(|(reach, (_, binding))| reach.as_ref().map(|r| (r.0, *binding)))
    }
}

/// The distinct buffers of a plan.
#[derive(Default)]
struct Buffers {
    list: Vec<wgpu::Buffer>,
    index: HashMap<wgpu::Buffer, usize>,
}

impl Buffers {
    fn index(&mut self, buffer: &wgpu::Buffer) -> usize {
        *self.index.entry(buffer.clone()).or_insert_with(|| {
            self.list.push(buffer.clone());
            self.list.len() - 1
        })
    }
}

/// Parameters of all dispatches.
struct Tables {
    uniforms: wgpu::Buffer,
    jobs: wgpu::Buffer,
}

/// Elements in a word.
fn per_word(element: ElementType) -> u64 {
    if element == ElementType::F16 { 2 } else { 1 }
}

/// A plan with buffers, pipelines and bind groups.
#[derive(Debug)]
pub(crate) struct Prepared {
    device: Arc<Device>,
    plan: Plan,
    /// By segment.
    waves: Vec<Vec<Wave>>,
    /// By segment: partial products, and how many words.
    partials: Vec<Option<(wgpu::Buffer, usize)>>,
    /// By segment: flops of each dispatch, in the order in which they are encoded.
    units: Vec<Vec<u64>>,
}

/// Flops of each dispatch.
pub(crate) fn units(ops: &[Op], facts: &Facts) -> Vec<u64> {
    ops.iter().flat_map(|op| cost::flops(op, &lower(op, facts))).collect()
}

impl Prepared {
    pub(crate) fn new(device: Arc<Device>, plan: Plan, tensors: &[Tensor]) -> Result<Self> {
        let mut prepared = Prepared { device, plan, waves: Vec::new(), partials: Vec::new(), units: Vec::new() };
        prepared.bind(tensors)?;
        Ok(prepared)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Dispatches and waves of parts of segments.
    pub(crate) fn count_parts(&self, parts: &[(usize, Range<usize>)]) -> DispatchCount {
        let mut total = DispatchCount { dispatches: 0, waves: 0 };
        for (segment, units) in parts {
            let mut before = 0;
            for wave in &self.waves[*segment] {
                let all = before..before + wave.steps.len();
                let taken =
                    units.end.clamp(all.start, all.end) - units.start.clamp(all.start, all.end).min(units.end.clamp(all.start, all.end));
                total.dispatches += taken;
                total.waves += usize::from(taken > 0);
                before = all.end;
            }
        }
        total
    }

    pub(crate) fn count(&self) -> DispatchCount {
        let waves = self.waves.iter().map(Vec::len).sum();
        DispatchCount { dispatches: self.waves.iter().flatten().map(|w| w.steps.len()).sum(), waves }
    }

    /// The kernel of each dispatch of a segment, in the order in which they are encoded.
    pub(crate) fn kernels(&self, segment: usize) -> Vec<Variant> {
        self.waves.get(segment).into_iter().flatten().flat_map(|wave| &wave.steps).map(|step| step.variant).collect()
    }

    /// Makes parameters and bind groups for these tensors.
    pub(crate) fn bind(&mut self, tensors: &[Tensor]) -> Result<()> {
        let mut buffers = Buffers::default();
        let (mut slots, mut jobs) = (Vec::new(), Vec::new());
        let mut segments: Vec<Vec<Vec<Unit>>> = Vec::with_capacity(self.plan.segments.len());
        for (index, segment) in self.plan.segments.iter().enumerate() {
            let mut swapped = Cow::Borrowed(tensors);
            for &(value, other) in &segment.stand_ins {
                swapped.to_mut()[value as usize] = tensors[other as usize].clone();
            }
            let (mut dispatches, mut flops) = (Vec::new(), Vec::new());
            for op in &self.plan.ops[segment.ops.clone()] {
                let list = lower(op, &self.device.facts);
                flops.extend(cost::flops(op, &list));
                dispatches.extend(list);
            }
            if self.partials.len() == index {
                // The same for all tensors, so that binding others allocates none. A buffer of its own for each segment: one that runs in parts has others in between.
                let words = partials(dispatches.iter());
                let buffer = if words > 0 { Some((self.device.allocate(words, None)?, words)) } else { None };
                self.partials.push(buffer);
            }
            let mut placed = Vec::with_capacity(dispatches.len());
            for (dispatch, flops) in dispatches.into_iter().zip(flops) {
                placed.push(self.place(dispatch, flops, &swapped, index, &mut buffers)?);
            }
            let waves = joint::join(&placed, self.device.facts.max_binding_bytes);
            let mut unit = |members: &Vec<usize>| self.unit(&placed, members, &mut slots, &mut jobs);
            segments.push(waves.iter().map(|wave| wave.iter().map(&mut unit).collect()).collect());
        }
        let tables = Tables { uniforms: self.device.uniforms(&slots, SLOT)?, jobs: self.device.table(&jobs)? };
        self.device.pipelines(segments.iter().flatten().flatten().map(|unit| unit.variant))?;
        let (mut all_waves, mut all_units) = (Vec::with_capacity(segments.len()), Vec::with_capacity(segments.len()));
        for segment in &segments {
            let mut written = vec![false; buffers.list.len()];
            let mut waves = Vec::with_capacity(segment.len());
            for units in segment {
                let mut wave = Wave { reads: Vec::new(), steps: Vec::with_capacity(units.len()) };
                for unit in units {
                    for (index, binding) in unit.used() {
                        // Once moved to read-only it stays so until somebody writes it again. A dispatch alone moves what it reads together with
                        // what it writes: a move before it would be a second barrier.
                        if binding == Binding::Read && std::mem::take(&mut written[index]) && units.len() > 1 {
                            wave.reads.push(buffers.list[index].clone());
                        }
                    }
                    wave.steps.push(self.step(unit, &buffers, &tables)?);
                }
                for (index, _) in units.iter().flat_map(Unit::used).filter(|u| u.1 == Binding::Write) {
                    written[index] = true;
                }
                waves.push(wave);
            }
            all_units.push(segment.iter().flatten().map(|unit| unit.flops).collect());
            all_waves.push(waves);
        }
        (self.waves, self.units) = (all_waves, all_units);
        Ok(())
    }

    /// Finds out what a dispatch reaches, and checks that it may.
    fn place(&self, dispatch: Dispatch, flops: u64, tensors: &[Tensor], segment: usize, buffers: &mut Buffers) -> Result<Placed> {
        let mut reach = Vec::with_capacity(dispatch.values.len());
        for value in &dispatch.values {
            let Some(value) = value else {
                reach.push(None);
                continue;
            };
            if value.id == PARTIAL {
                let buffer = self.partials[segment].as_ref();
                reach.push(buffer.map(|(buffer, words)| {
                    let bytes = 0..4 * *words as u64;
                    Reach { buffer: buffers.index(buffer), touched: bytes.clone(), bytes }
                }));
                continue;
            }
            let tensor = &tensors[value.id as usize];
            let start = 4 * tensor.offset as u64;
            let bytes = start..start + 4 * tensor.words() as u64;
            let length = bytes.end - self.aligned(bytes.start);
            if length > self.device.facts.max_binding_bytes {
                return Err(Error::Limit {
                    what: format!("`{}` in one binding (bytes)", self.plan.values[value.id as usize].name),
                    needed: length,
                    limit: self.device.facts.max_binding_bytes,
                    advice: "split the stack into tensors that fit a binding",
                });
            }
            let per_word = per_word(tensor.element);
            let first = value.offset as u64;
            let end = first + ((value.modulo - 1) * value.item_stride + value.extent()) as u64;
            let touched = start + 4 * (first / per_word)..start + 4 * end.div_ceil(per_word);
            reach.push(match &tensor.storage {
                Storage::Gpu(buffer) => Some(Reach { buffer: buffers.index(buffer), bytes, touched }),
                Storage::Cpu(_) => None,
            });
        }
        Ok(Placed { dispatch, reach, flops })
    }

    /// The start of a binding that holds this byte.
    fn aligned(&self, byte: u64) -> u64 {
        byte - byte % u64::from(self.device.facts.storage_alignment)
    }

    /// Gives dispatches that are to be one their parameters.
    fn unit(&self, placed: &[Placed], members: &[usize], slots: &mut Vec<Params>, jobs: &mut Vec<Job>) -> Unit {
        let first = &placed[members[0]];
        let reach: Vec<Option<(usize, Range<u64>)>> = (0..first.reach.len())
            .map(|b| joint::span(placed, members, b).map(|r| (r.buffer, self.aligned(r.bytes.start)..r.bytes.end)))
            .collect();
        // Offsets of views count from the start of the tensor so far, and of the binding from here on.
        let params = |one: &Placed| {
            let mut params = one.dispatch.params;
            let views = params.views.iter_mut().zip(&one.dispatch.values).zip(&one.reach).zip(&reach);
            for (((view, value), mine), all) in views {
                let (Some(value), Some(mine), Some((_, all))) = (value, mine, all) else { continue };
                let skipped = (mine.bytes.start - all.start) / 4 * per_word(value.element);
                view.offset = view.offset.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX));
            }
            params
        };
        let flops = members.iter().map(|&i| placed[i].flops).fold(0, u64::saturating_add);
        let all: Vec<Params> = members.iter().map(|&i| params(&placed[i])).collect();
        let common = members.iter().map(|&i| placed[i].dispatch.variant).fold(first.dispatch.variant, quads::meet);
        let fours = quads::bindings(common);
        let by_fours = reach.iter().enumerate().filter(|(b, _)| fours >> b & 1 == 1).all(|(b, reach)| {
            reach.as_ref().is_none_or(|(_, bytes)| bytes.end - bytes.start >= 16) && all.iter().all(|p| p.views[b].offset.is_multiple_of(4))
        });
        let variant = if by_fours { common } else { quads::by_element(common) };
        match variant.joint().filter(|_| members.len() > 1) {
            None => {
                let variant = choice::widened(variant, &all[0]);
                slots.extend(all);
                Unit { variant, reach, slot: slots.len() - 1, table: 0..0, groups: first.dispatch.groups, flops }
            }
            Some(variant) => {
                let (spans, groups) = joint::grid(placed, members, self.device.facts.max_workgroups);
                let start = jobs.len();
                jobs.extend(all.into_iter().zip(spans).map(|(params, span)| Job { params, span }));
                Unit { variant, reach, slot: 0, table: start..jobs.len(), groups, flops }
            }
        }
    }

    fn step(&self, unit: &Unit, buffers: &Buffers, tables: &Tables) -> Result<Step> {
        let pipeline = self.device.pipeline(unit.variant)?;
        let device = &self.device.device;
        let bind_group = self.device.scoped("create_bind_group", || {
            let mut resources = vec![(tables.uniforms.clone(), 0, size_of::<Params>() as u64)];
            for (i, (name, binding)) in unit.bindings().iter().enumerate() {
                resources.push(match (unit.reach.get(i).and_then(Option::as_ref), binding) {
                    (Some((buffer, bytes)), _) => (buffers.list[*buffer].clone(), bytes.start, bytes.end - bytes.start),
                    _ if *name == "jobs" && !unit.table.is_empty() => {
                        let job = size_of::<Job>() as u64;
                        (tables.jobs.clone(), job * unit.table.start as u64, job * unit.table.len() as u64)
                    }
                    // One buffer of its own each: sharing a written one would order steps that are independent.
                    (_, Binding::Write) => (buffer(device, "layerwise unused", 256, false), 0, 256),
                    (_, Binding::Read) => (self.device.nothing.clone(), 0, 256),
                });
            }
            let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
                .zip(&resources)
                .map(|(binding, (buffer, offset, size))| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer,
                        offset: *offset,
                        size: std::num::NonZeroU64::new(*size),
                    }),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(unit.variant.kernel),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        let offset = u32::try_from(unit.slot * SLOT).map_err(|_| Error::Limit {
            what: "the plan's parameters (bytes)".into(),
            needed: (unit.slot * SLOT) as u64,
            limit: u64::from(u32::MAX),
            advice: "record several smaller plans",
        })?;
        Ok(Step { variant: unit.variant, pipeline, bind_group, offset, groups: unit.groups })
    }

    /// Records segments into a pass: no allocation, no queue access.
    ///
    /// Any cut between two dispatches keeps the order of waves, so a segment may stop there and go on in another pass.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, parts: impl Iterator<Item = (usize, Range<usize>)>) {
        let mut pipeline: Option<&Arc<Pipeline>> = None;
        for (segment, units) in parts {
            let mut before = 0;
            for wave in &self.waves[segment] {
                let first = units.start.clamp(before, before + wave.steps.len()) - before;
                let end = units.end.clamp(before, before + wave.steps.len()) - before;
                before += wave.steps.len();
                if first >= end {
                    continue;
                }
                if !wave.reads.is_empty() {
                    let reads =
                        wave.reads.iter().map(|buffer| wgpu::BufferTransition { buffer, state: wgpu::BufferUses::STORAGE_READ_ONLY });
                    pass.transition_resources(reads, std::iter::empty());
                }
                for step in &wave.steps[first..end] {
                    if pipeline.is_none_or(|set| !Arc::ptr_eq(set, &step.pipeline)) {
                        pass.set_pipeline(&step.pipeline.pipeline);
                        pipeline = Some(&step.pipeline);
                    }
                    pass.set_bind_group(0, &step.bind_group, &[step.offset]);
                    pass.dispatch_workgroups(step.groups[0], step.groups[1], step.groups[2]);
                }
            }
        }
    }

    /// Flops of each dispatch of a segment: the parts that it can run in.
    pub(crate) fn units(&self, segment: usize) -> &[u64] {
        &self.units[segment]
    }

    /// One encoder, one pass, one submit.
    pub(crate) fn run(&self, parts: impl Iterator<Item = (usize, Range<usize>)>) -> Result<()> {
        self.device.notice();
        let device = &self.device.device;
        self.device.scoped("submit", || {
            let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("layerwise") });
            {
                let mut pass =
                    encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("layerwise"), timestamp_writes: None });
                self.encode(&mut pass, parts);
            }
            self.device.queue.submit([encoder.finish()]);
        })
    }
}
