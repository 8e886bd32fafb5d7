//! Dispatches with buffers: prepared once, encoded any number of times.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::cost;
use super::device::{Device, Pipeline, buffer};
use super::facts::Facts;
use super::kernels::{Binding, Kernel};
use super::lowering::{Dispatch, lower};
use super::params::{Params, SLOT};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan, wave};
use crate::tensor::{ElementType, Storage, Tensor};

/// How much work a plan is for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchCount {
    /// Compute dispatches.
    pub dispatches: usize,
    /// Groups of dispatches without a barrier between them; at most one barrier a wave.
    pub waves: usize,
}

/// Dispatches and waves of one run of all segments, for a device that need not be there.
pub fn count(plan: &Plan, facts: &Facts) -> DispatchCount {
    let mut total = DispatchCount { dispatches: 0, waves: 0 };
    for segment in plan.segments() {
        let dispatches: Vec<Dispatch> = plan.ops()[segment.ops.clone()].iter().flat_map(|op| lower(op, facts)).collect();
        let touches: Vec<Vec<wave::Touch>> =
            dispatches.iter().map(|d| used(d).map(|(value, binding)| (value as usize, binding == Binding::Write)).collect()).collect();
        total.dispatches += dispatches.len();
        total.waves += wave::waves(touches.iter().map(Vec::as_slice)).into_iter().max().map_or(0, |w| w + 1);
    }
    total
}

/// The values that a dispatch binds, and how.
fn used(dispatch: &Dispatch) -> impl Iterator<Item = (u32, Binding)> {
    let bindings = Kernel::named(dispatch.variant.kernel).map_or(&[][..], |k| k.bindings);
    dispatch.values.iter().zip(bindings).filter_map(|(value, (_, binding))| value.map(|v| (v.id, *binding)))
}

#[derive(Debug)]
struct Step {
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

/// A plan with buffers, pipelines and bind groups.
#[derive(Debug)]
pub(crate) struct Prepared {
    device: Arc<Device>,
    plan: Plan,
    /// By segment.
    waves: Vec<Vec<Wave>>,
    /// By segment: flops of each dispatch, in the order in which they are encoded.
    units: Vec<Vec<u64>>,
}

/// Flops of each dispatch.
pub(crate) fn units(ops: &[Op], facts: &Facts) -> Vec<u64> {
    ops.iter().flat_map(|op| cost::flops(op, &lower(op, facts))).collect()
}

impl Prepared {
    pub(crate) fn new(device: Arc<Device>, plan: Plan, tensors: &[Tensor]) -> Result<Self> {
        let mut prepared = Prepared { device, plan, waves: Vec::new(), units: Vec::new() };
        prepared.bind(tensors)?;
        Ok(prepared)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn count(&self) -> DispatchCount {
        let waves = self.waves.iter().map(Vec::len).sum();
        DispatchCount { dispatches: self.waves.iter().flatten().map(|w| w.steps.len()).sum(), waves }
    }

    /// Makes parameters and bind groups for these tensors.
    pub(crate) fn bind(&mut self, tensors: &[Tensor]) -> Result<()> {
        let mut buffers: Vec<wgpu::Buffer> = Vec::new();
        let mut slots: Vec<Params> = Vec::new();
        let mut segments = Vec::new();
        for segment in &self.plan.segments {
            let mut swapped = Cow::Borrowed(tensors);
            for &(value, other) in &segment.stand_ins {
                swapped.to_mut()[value as usize] = tensors[other as usize].clone();
            }
            let ops = &self.plan.ops[segment.ops.clone()];
            let mut dispatches: Vec<Dispatch> = ops.iter().flat_map(|op| lower(op, &self.device.facts)).collect();
            for dispatch in &mut dispatches {
                self.place(dispatch, &swapped)?;
            }
            let first_slot = slots.len();
            slots.extend(dispatches.iter().map(|d| d.params));
            segments.push((first_slot, dispatches, units(ops, &self.device.facts), swapped));
        }
        let uniforms = self.device.uniforms(&slots, SLOT)?;
        let mut result = Vec::with_capacity(segments.len());
        let mut ordered = Vec::with_capacity(segments.len());
        for (first_slot, dispatches, flops, tensors) in &segments {
            let touches: Vec<Vec<wave::Touch>> = dispatches
                .iter()
                .map(|d| {
                    used(d)
                        .filter_map(|(value, binding)| match &tensors[value as usize].storage {
                            Storage::Gpu(buffer) => {
                                let index = buffers.iter().position(|b| b == buffer).unwrap_or_else(|| {
                                    buffers.push(buffer.clone());
                                    buffers.len() - 1
                                });
                                Some((index, binding == Binding::Write))
                            }
                            Storage::Cpu(_) => None,
                        })
                        .collect()
                })
                .collect();
            let order = wave::waves(touches.iter().map(Vec::as_slice));
            let count = order.iter().max().map_or(0, |w| w + 1);
            let mut waves: Vec<Wave> = (0..count).map(|_| Wave { reads: Vec::new(), steps: Vec::new() }).collect();
            let mut written = vec![false; buffers.len()];
            let mut by_wave: Vec<usize> = (0..dispatches.len()).collect();
            by_wave.sort_by_key(|&i| order[i]);
            ordered.push(by_wave.iter().map(|&i| flops[i]).collect());
            for i in by_wave {
                let wave = &mut waves[order[i]];
                for &(index, writes) in &touches[i] {
                    if writes {
                        written[index] = true;
                    } else if written[index] && !wave.reads.contains(&buffers[index]) {
                        wave.reads.push(buffers[index].clone());
                    }
                }
                wave.steps.push(self.step(&dispatches[i], first_slot + i, &uniforms, tensors)?);
            }
            result.push(waves);
        }
        (self.waves, self.units) = (result, ordered);
        Ok(())
    }

    /// Turns value-relative offsets into binding-relative ones, and checks the binding's size.
    fn place(&self, dispatch: &mut Dispatch, tensors: &[Tensor]) -> Result<()> {
        for (view, value) in dispatch.params.views.iter_mut().zip(&dispatch.values) {
            let Some(value) = value else { continue };
            let tensor = &tensors[value.id as usize];
            let (_, skipped, bytes) = self.range(tensor);
            if bytes > self.device.facts.max_binding_bytes {
                return Err(Error::Limit {
                    what: format!("`{}` in one binding (bytes)", self.plan.values[value.id as usize].name),
                    needed: bytes,
                    limit: self.device.facts.max_binding_bytes,
                    advice: "split the stack into tensors that fit a binding",
                });
            }
            let per_word = if tensor.element == ElementType::F16 { 2 } else { 1 };
            view.offset += u32::try_from(skipped).unwrap_or(u32::MAX) * per_word;
        }
        Ok(())
    }

    /// The binding of a tensor: (byte offset, words between it and the tensor, bytes).
    fn range(&self, tensor: &Tensor) -> (u64, u64, u64) {
        let start = 4 * tensor.offset as u64;
        let aligned = start - start % u64::from(self.device.facts.storage_alignment);
        (aligned, (start - aligned) / 4, start - aligned + 4 * tensor.words() as u64)
    }

    fn step(&self, dispatch: &Dispatch, slot: usize, uniforms: &wgpu::Buffer, tensors: &[Tensor]) -> Result<Step> {
        let pipeline = self.device.pipeline(dispatch.variant)?;
        let bindings = Kernel::named(dispatch.variant.kernel).map_or(&[][..], |k| k.bindings);
        let device = &self.device.device;
        let bind_group = self.device.scoped("create_bind_group", || {
            let mut resources = vec![(uniforms.clone(), 0, size_of::<Params>() as u64)];
            for (i, (_, binding)) in bindings.iter().enumerate() {
                let tensor = dispatch.values.get(i).copied().flatten().map(|v| &tensors[v.id as usize]);
                resources.push(match (tensor.map(|t| (t, &t.storage)), binding) {
                    (Some((tensor, Storage::Gpu(buffer))), _) => {
                        let (offset, _, bytes) = self.range(tensor);
                        (buffer.clone(), offset, bytes)
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
                label: Some(dispatch.variant.kernel),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        let offset = u32::try_from(slot * SLOT).map_err(|_| Error::Limit {
            what: "the plan's parameters (bytes)".into(),
            needed: (slot * SLOT) as u64,
            limit: u64::from(u32::MAX),
            advice: "record several smaller plans",
        })?;
        Ok(Step { pipeline, bind_group, offset, groups: dispatch.groups })
    }

    /// Records segments into a pass: no allocation, no queue access.
    ///
    /// Any cut between two dispatches keeps the order of waves, so a segment may stop there and go on in another pass.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, parts: impl Iterator<Item = (usize, Range<usize>)>) {
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
                    pass.set_pipeline(&step.pipeline.pipeline);
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
