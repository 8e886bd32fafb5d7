//! Executes plans on the host.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use super::memory::{Memory, WORTH_THREADS};
use super::{activation, cholesky, control, curvature, eigh, elementwise, gemm, network, polar, qr, random_fill, reduce, spectral, update};
use crate::error::{Error, Result};
use crate::plan::{Op, Plan};
use crate::tensor::{Storage, Tensor, lock};

/// A plan with memory.
#[derive(Debug)]
pub(crate) struct Prepared {
    plan: Plan,
    buffers: Vec<Arc<Mutex<Vec<f32>>>>,
    place: Vec<(usize, usize)>,
    /// By segment, where values stand in for others.
    places: Vec<Option<Vec<(usize, usize)>>>,
    /// By segment: flops of each operation.
    units: Vec<Vec<u64>>,
    /// True where some operation is large enough for threads.
    threads: bool,
    /// By buffer: the words while a run has them, nothing in between.
    words: Vec<Vec<f32>>,
}

impl Prepared {
    /// `tensors[id]` is the tensor bound to value `id`, scratch included; shapes and contexts are checked by the caller.
    pub(crate) fn new(plan: Plan, tensors: &[Tensor]) -> Result<Self> {
        let units: Vec<Vec<u64>> = plan.segments.iter().map(|s| units(&plan.ops[s.ops.clone()])).collect();
        let threads = units.iter().flatten().any(|&flops| flops >= WORTH_THREADS as u64);
        let mut prepared = Prepared { plan, buffers: Vec::new(), place: Vec::new(), places: Vec::new(), units, threads, words: Vec::new() };
        prepared.bind(tensors)?;
        Ok(prepared)
    }

    /// Replaces all bindings.
    pub(crate) fn bind(&mut self, tensors: &[Tensor]) -> Result<()> {
        let mut buffers: Vec<Arc<Mutex<Vec<f32>>>> = Vec::new();
        let mut place = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            #[cfg_attr(not(feature = "gpu"), allow(irrefutable_let_patterns, reason = "the GPU variant exists only with the feature"))]
            let Storage::Cpu(data) = &tensor.storage else {
                return Err(Error::ForeignContext { tensor: tensor.shape.to_string() });
            };
            let slot = buffers.iter().position(|b| Arc::ptr_eq(b, data)).unwrap_or_else(|| {
                buffers.push(data.clone());
                buffers.len() - 1
            });
            place.push((slot, tensor.offset));
        }
        // All locks are taken at once: an order that is the same for every run keeps two runs from waiting for each other.
        let mut order: Vec<usize> = (0..buffers.len()).collect();
        order.sort_by_key(|&i| Arc::as_ptr(&buffers[i]) as usize);
        let mut rank = vec![0; buffers.len()];
        for (new, &old) in order.iter().enumerate() {
            rank[old] = new;
        }
        self.buffers = order.iter().map(|&i| buffers[i].clone()).collect();
        self.words.resize_with(self.buffers.len(), Vec::new);
        self.place = place.into_iter().map(|(slot, first)| (rank[slot], first)).collect();
        let swapped = |pairs: &Vec<(u32, u32)>| {
            let mut place = self.place.clone();
            pairs.iter().for_each(|&(value, other)| place[value as usize] = self.place[other as usize]);
            place
        };
        let changed = self.plan.segments.iter().map(|s| Some(&s.stand_ins).filter(|pairs| !pairs.is_empty()).map(swapped));
        self.places = changed.collect();
        Ok(())
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Flops of each operation of a segment: the parts that it can run in.
    pub(crate) fn units(&self, segment: usize) -> &[u64] {
        &self.units[segment]
    }

    /// Executes operations of segments in the given order, as a whole on the given pool, or on rayon's where threads pay: a hand-over for each operation would cost more than
    /// small ones do.
    pub(crate) fn run(&mut self, parts: impl Iterator<Item = (usize, Range<usize>)> + Send, pool: Option<&rayon::ThreadPool>) {
        // Locked here, outside the pool: a pool's thread that waits may begin another run, and would then wait for what it has locked itself.
        let locked: Vec<_> = self.buffers.iter().map(|b| lock(b)).collect();
        let mut held = Held { locked, words: &mut self.words };
        held.swap();
        let mut memory = Memory { data: held.words, place: &self.place };
        let (plan, places, place) = (&self.plan, &self.places, &self.place);
        let work = || {
            for (segment, units) in parts {
                memory.place = places[segment].as_ref().unwrap_or(place);
                let ops = &plan.ops[plan.segments[segment].ops.clone()];
                for op in &ops[units.start.min(ops.len())..units.end.min(ops.len())] {
                    execute(op, &mut memory);
                }
            }
        };
        match pool {
            Some(pool) => pool.install(work),
            None if self.threads && !super::is_sequential() => rayon::scope(|_| work()),
            None => work(),
        }
    }
}

/// Locked buffers whose words are elsewhere during a run, where another thread may reach them, and come back at its end.
struct Held<'a> {
    locked: Vec<MutexGuard<'a, Vec<f32>>>,
    words: &'a mut Vec<Vec<f32>>,
}

impl Held<'_> {
    fn swap(&mut self) {
        self.locked.iter_mut().zip(&mut *self.words).for_each(|(buffer, words)| std::mem::swap(&mut **buffer, words));
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.swap();
    }
}

/// Flops of each operation.
pub(crate) fn units(ops: &[Op]) -> Vec<u64> {
    ops.iter().map(|op| op.cost().flops).collect()
}

fn execute(op: &Op, memory: &mut Memory<'_>) {
    match op {
        Op::Gemm(op) => gemm::gemm(op, memory),
        Op::KronFactor(op) => gemm::kron_factor(op, memory),
        Op::Axpby(op) => elementwise::axpby(op, memory),
        Op::Activation(op) => activation::activation(op, memory),
        Op::Convert(op) => elementwise::convert(op, memory),
        Op::Reduce(op) => reduce::reduce(op, memory),
        Op::ColumnMean(op) => reduce::column_mean(op, memory),
        Op::CheckFinite(op) => reduce::check_finite(op, memory),
        Op::Cholesky(op) => cholesky::cholesky(op, memory),
        Op::SolveTriangular(op) => cholesky::solve_triangular(op, memory),
        Op::OperatorNorm(op) => reduce::operator_norm(op, memory),
        Op::Eigh(op) => eigh::eigh(op, memory),
        Op::Qr(op) => qr::qr(op, memory),
        Op::SortColumns(op) => qr::sort_columns(op, memory),
        Op::SpectrumScale(op) => spectral::spectrum_scale(op, memory),
        Op::Quotient(op) => spectral::quotient(op, memory),
        Op::IterationControl(op) => spectral::iteration_control(op, memory),
        Op::RandomFill(op) => random_fill::random_fill(op, memory),
        Op::Advance(op) => control::advance(op, memory),
        Op::FactorDamping(op) => control::factor_damping(op, memory),
        Op::RootOutcome(op) => control::root_outcome(op, memory),
        Op::KlClip(op) => control::kl_clip(op, memory),
        Op::SpectralDivide(op) => curvature::spectral_divide(op, memory),
        Op::DirectionOutcome(op) => curvature::direction_outcome(op, memory),
        Op::DampingControl(op) => curvature::damping_control(op, memory),
        Op::NormClip(op) => control::norm_clip(op, memory),
        Op::GraftDirection(op) => update::graft_direction(op, memory),
        Op::NormRatio(op) => control::norm_ratio(op, memory),
        Op::GraftScale(op) => update::graft_scale(op, memory),
        Op::StepScale(op) => update::step_scale(op, memory),
        Op::Momentum(op) => polar::momentum(op, memory),
        Op::Normalise(op) => polar::normalise(op, memory),
        Op::PolarOutcome(op) => polar::polar_outcome(op, memory),
        Op::SgdUpdate(op) => update::sgd_update(op, memory),
        Op::AdamUpdate(op) => update::adam_update(op, memory),
        Op::Standardise(op) => network::standardise(op, memory),
        Op::StandardiseGradient(op) => network::standardise_gradient(op, memory),
        Op::SoftmaxCrossEntropy(op) => network::softmax_cross_entropy(op, memory),
    }
}
