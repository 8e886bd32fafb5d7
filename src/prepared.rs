//! Plans with memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::context::{Context, Inner};
use crate::error::{Error, Result};
use crate::plan::{Access, Plan, Role, Value, ValueInfo};
use crate::tensor::{ElementType, Tensor};

/// All parts of a segment.
pub(crate) const ALL: Range<usize> = 0..usize::MAX;

/// Which tensor stands behind which plan value.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    tensors: HashMap<u32, Tensor>,
}

impl Bindings {
    /// No bindings.
    pub fn new() -> Self {
        Bindings::default()
    }

    /// Binds `value` to `tensor`, replacing an earlier binding.
    pub fn bind(&mut self, value: Value, tensor: &Tensor) -> &mut Self {
        self.tensors.insert(value.id, tensor.clone());
        self
    }
}

/// A plan with memory and, on a GPU, pipelines and bind groups: ready to run any number of times.
#[derive(Debug)]
pub struct Prepared {
    context: Context,
    tensors: Vec<Tensor>,
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Cpu(crate::cpu::engine::Prepared),
    #[cfg(feature = "gpu")]
    Gpu(crate::gpu::Prepared),
}

impl Prepared {
    pub(crate) fn new(context: &Context, plan: &Plan, bindings: &Bindings) -> Result<Self> {
        Prepared::reusing(context, plan, bindings, &[], &[])
    }

    /// Another plan like this one, with this one's scratch wherever it has the same name and shape.
    pub(crate) fn again(&self, plan: &Plan, bindings: &Bindings) -> Result<Self> {
        Prepared::reusing(&self.context, plan, bindings, &self.plan().values, &self.tensors)
    }

    fn reusing(context: &Context, plan: &Plan, bindings: &Bindings, infos: &[ValueInfo], scratch: &[Tensor]) -> Result<Self> {
        let mut tensors = Vec::with_capacity(plan.values.len());
        let mut arenas = arenas(context, plan, infos, scratch)?;
        for (id, info) in (0u32..).zip(&plan.values) {
            let bound = bindings.tensors.get(&id);
            let tensor = match (info.role, bound) {
                (Role::Scratch, None) if arenas.contains_key(&id) => match arenas.remove(&id) {
                    Some(tensor) => tensor,
                    None => context.zeros_of(info.shape, info.element)?,
                },
                (Role::Scratch, None) => match infos.get(id as usize).filter(|old| *old == info).and(scratch.get(id as usize)) {
                    Some(tensor) => tensor.clone(),
                    None => context.zeros_of(info.shape, info.element)?,
                },
                (Role::Scratch, Some(_)) => return binding(&info.name, "it is scratch, which `prepare` allocates: leave it out".into()),
                (_, None) => return binding(&info.name, format!("no tensor was bound; bind a {} {} tensor", info.shape, info.element)),
                (_, Some(tensor)) => tensor.clone(),
            };
            check(context, plan, id, &tensor)?;
            tensors.push(tensor);
        }
        if let Some(id) = bindings.tensors.keys().find(|id| **id as usize >= plan.values.len()) {
            return binding(&format!("%{id}"), "the value belongs to another plan".into());
        }
        check_aliasing(plan, &tensors)?;
        let engine = match &context.inner {
            Inner::Cpu(_) => Engine::Cpu(crate::cpu::engine::Prepared::new(plan.clone(), &tensors)?),
            #[cfg(feature = "gpu")]
            Inner::Gpu(device) => Engine::Gpu(crate::gpu::Prepared::new(device.clone(), plan.clone(), &tensors)?),
        };
        Ok(Prepared { context: context.clone(), tensors, engine })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        match &self.engine {
            Engine::Cpu(engine) => engine.plan(),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.plan(),
        }
    }

    /// The tensor behind a value: also scratch, for looking at an intermediate result after a run.
    pub fn tensor(&self, value: Value) -> Option<&Tensor> {
        self.tensors.get(value.id as usize)
    }

    /// Flops of the parts that a segment can be run in: dispatches on a GPU, operations on the CPU path.
    pub(crate) fn units(&self, segment: usize) -> &[u64] {
        match &self.engine {
            Engine::Cpu(engine) => engine.units(segment),
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.units(segment),
        }
    }

    /// Runs segments (by index, in this order, repeats allowed). On a GPU: one encoder, one compute pass, one submit, no wait.
    ///
    /// # Errors
    /// [`Error::Binding`] for a segment that does not exist, [`Error::DeviceLost`], [`Error::Gpu`].
    pub fn run(&mut self, segments: &[usize]) -> Result<()> {
        self.check_segments(segments)?;
        self.run_parts(segments.iter().map(|&s| (s, ALL)))
    }

    /// Runs parts of segments that exist.
    pub(crate) fn run_parts(&mut self, parts: impl Iterator<Item = (usize, Range<usize>)> + Send) -> Result<()> {
        match &mut self.engine {
            Engine::Cpu(engine) => {
                let pool = match &self.context.inner {
                    Inner::Cpu(cpu) => cpu.pool.as_deref(),
                    #[cfg(feature = "gpu")]
                    Inner::Gpu(_) => None,
                };
                engine.run(parts, pool);
                Ok(())
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.run(parts),
        }
    }

    /// Records segments into the caller's encoder, in one compute pass. Submits nothing, allocates nothing, writes nothing to the queue.
    ///
    /// # Errors
    /// [`Error::WrongContext`] on the CPU path, [`Error::Binding`] for a segment that does not exist.
    #[cfg(feature = "gpu")]
    pub fn record(&mut self, encoder: &mut wgpu::CommandEncoder, segments: &[usize]) -> Result<()> {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: Some("layerwise"), timestamp_writes: None });
        self.record_into_pass(&mut pass, segments)
    }

    /// Records segments into an open compute pass.
    ///
    /// # Errors
    /// As [`record`](Self::record).
    #[cfg(feature = "gpu")]
    pub fn record_into_pass(&mut self, pass: &mut wgpu::ComputePass<'_>, segments: &[usize]) -> Result<()> {
        self.check_segments(segments)?;
        self.record_parts(pass, segments.iter().map(|&s| (s, ALL)))
    }

    /// Records parts of segments that exist.
    #[cfg(feature = "gpu")]
    pub(crate) fn record_parts(&self, pass: &mut wgpu::ComputePass<'_>, parts: impl Iterator<Item = (usize, Range<usize>)>) -> Result<()> {
        match &self.engine {
            Engine::Cpu(_) => Err(Error::WrongContext { call: "record", needs: "a GPU context", found: "the CPU path: call `run`" }),
            Engine::Gpu(engine) => {
                engine.encode(pass, parts);
                Ok(())
            }
        }
    }

    /// Dispatches and waves of one run of all segments; `None` on the CPU path.
    #[cfg(feature = "gpu")]
    pub fn dispatches(&self) -> Option<crate::gpu::DispatchCount> {
        match &self.engine {
            Engine::Cpu(_) => None,
            Engine::Gpu(engine) => Some(engine.count()),
        }
    }

    /// The kernel of each dispatch of a segment with its tunables and switches, in the order in which they are encoded: it follows from the device, from shapes and
    /// strides, and from where the bound tensors start. Empty on the CPU path, and of a segment that does not exist.
    #[cfg(feature = "gpu")]
    pub fn kernels(&self, segment: usize) -> Vec<crate::gpu::kernels::Variant> {
        match &self.engine {
            Engine::Cpu(_) => Vec::new(),
            Engine::Gpu(engine) => engine.kernels(segment),
        }
    }

    /// Dispatches and waves of parts of segments that exist.
    #[cfg(feature = "gpu")]
    pub(crate) fn count_parts(&self, parts: &[(usize, Range<usize>)]) -> Option<crate::gpu::DispatchCount> {
        match &self.engine {
            Engine::Cpu(_) => None,
            Engine::Gpu(engine) => Some(engine.count_parts(parts)),
        }
    }

    /// Binds another tensor of the same shape to an external or state value (double-buffered gradients). Makes new bind groups, so not for every step.
    ///
    /// # Errors
    /// As [`Context::prepare`]; the old binding stays in force then.
    pub fn rebind(&mut self, value: Value, tensor: &Tensor) -> Result<()> {
        let plan = self.plan().clone();
        let Some(info) = plan.values.get(value.id as usize) else {
            return binding(&format!("%{}", value.id), "the value belongs to another plan".into());
        };
        if info.role == Role::Scratch {
            return binding(&info.name, "it is scratch and can't be rebound".into());
        }
        check(&self.context, &plan, value.id, tensor)?;
        let mut tensors = self.tensors.clone();
        tensors[value.id as usize] = tensor.clone();
        check_aliasing(&plan, &tensors)?;
        match &mut self.engine {
            Engine::Cpu(engine) => engine.bind(&tensors)?,
            #[cfg(feature = "gpu")]
            Engine::Gpu(engine) => engine.bind(&tensors)?,
        }
        self.tensors = tensors;
        Ok(())
    }

    fn check_segments(&self, segments: &[usize]) -> Result<()> {
        let known = self.plan().segments.len();
        match segments.iter().find(|s| **s >= known) {
            Some(s) => binding(&format!("segment {s}"), format!("the plan has {known} segments")),
            None => Ok(()),
        }
    }
}

/// Scratch that lies in arenas, by value: the old one where all of an arena is as it was.
fn arenas(context: &Context, plan: &Plan, infos: &[ValueInfo], scratch: &[Tensor]) -> Result<HashMap<u32, Tensor>> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (id, info) in (0u32..).zip(&plan.values) {
        if let Some(arena) = info.arena.filter(|_| info.role == Role::Scratch && info.element == ElementType::F32) {
            members.entry(arena).or_default().push(id);
        }
    }
    let mut result = HashMap::new();
    for ids in members.into_values() {
        let old = |&id: &u32| infos.get(id as usize).filter(|old| **old == plan.values[id as usize]).and(scratch.get(id as usize)).cloned();
        let tensors = match ids.iter().map(old).collect::<Option<Vec<_>>>() {
            Some(old) => old,
            None => context.arena(&ids.iter().map(|&id| plan.values[id as usize].shape).collect::<Vec<_>>())?,
        };
        result.extend(ids.into_iter().zip(tensors));
    }
    Ok(result)
}

fn binding<T>(value: &str, reason: String) -> Result<T> {
    Err(Error::Binding { value: value.into(), reason })
}

fn check(context: &Context, plan: &Plan, id: u32, tensor: &Tensor) -> Result<()> {
    let info = &plan.values[id as usize];
    if tensor.context != *context {
        return Err(Error::ForeignContext { tensor: info.name.clone() });
    }
    if tensor.shape != info.shape || tensor.element != info.element {
        return binding(&info.name, format!("expected {} {}, found {} {}", info.shape, info.element, tensor.shape, tensor.element));
    }
    Ok(())
}

/// No operation may write a buffer that it also uses under another value: wgpu refuses it, and the CPU engine borrows by buffer.
fn check_aliasing(plan: &Plan, tensors: &[Tensor]) -> Result<()> {
    for (segment, op) in plan.segments.iter().flat_map(|s| plan.ops[s.ops.clone()].iter().map(move |op| (s, op))) {
        let stands = |v: &Value| segment.stand_ins.iter().find(|pair| pair.0 == v.id).map_or(v.id, |pair| pair.1) as usize;
        let operands = op.operands();
        for (i, &(_, a, access_a)) in operands.iter().enumerate() {
            for &(name, b, access_b) in &operands[i + 1..] {
                let written = access_a != Access::Read || access_b != Access::Read;
                if written && a.id != b.id && tensors[stands(&a)].shares_buffer(&tensors[stands(&b)]) {
                    let (a, b) = (&plan.values[a.id as usize].name, &plan.values[b.id as usize].name);
                    return Err(Error::Aliasing {
                        op: op.name(),
                        tensor: b.clone(),
                        reason: format!(
                            "`{name}` shares its buffer with `{a}` and one of them is written: give each role a buffer of its own"
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}
