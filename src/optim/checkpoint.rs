//! State as bytes, in the safetensors format.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use safetensors::tensor::{Dtype, SafeTensors, View as _};

use super::bytes::{Facts, Values, checksum, words};
use super::config::{Accumulation, Method};
use super::graft::Graft;
use super::kfac::{KfacForm, OutputGradients, StatisticsStart};
use super::optimizer::{GroupState, Optimizer, StateTensor};
use super::refresh::Waiting;
use crate::error::{Error, Result};
use crate::plan::block;
use crate::tensor::Shape;

const FORMAT: &str = "layerwise optimizer state";
const VERSION: &str = "1";
/// Steps beyond this are no training run, and would overflow the host's arithmetic.
const MOST_STEPS: u64 = 1 << 53;

/// One parameter's part of a kept tensor.
pub(super) struct Part<'a> {
    parameter: &'a str,
    role: &'a str,
    /// Index of the tensor in [`Optimizer::kept`]'s order.
    tensor: usize,
    /// Elements of it.
    range: Range<usize>,
    pub(super) shape: Shape,
}

impl Part<'_> {
    pub(super) fn key(&self) -> String {
        format!("{}.{}", self.parameter, self.role)
    }
}

/// A state that fits: everything that is to be written.
struct Verified {
    steps: u64,
    gathered: u64,
    /// One a kept tensor.
    values: Vec<Vec<f32>>,
    /// Refreshes that wait, and the snapshots of the one that is half done.
    waiting: Waiting,
    snapshots: Vec<Vec<f32>>,
}

impl Optimizer {
    /// Everything that the optimizer remembers, as a safetensors file in memory, without blocking this thread.
    ///
    /// For each parameter `P` (not stack: how parameters lie in buffers does not matter) the file has tensors of element type F32, row-major,
    /// `[trials, rows, cols]`:
    /// ```text
    /// P.block                                         [trials, 1, 56]     columns of plan::block; health, counters, bias corrections
    /// P.momentum                                      [trials, out, in]   Muon; Sgd, Kfac, Foof, NaturalGradient, Shampoo with momentum; Kfac with adaptation
    /// P.neurons                                       [trials, out, 1]    Muon with neuron_decay
    /// P.first_moment, P.second_moment                 [trials, out, in]   Adam, AdamW, Soap, EigenvalueCorrectedShampoo; Shampoo with beta1, with a graft that has one
    /// P.unrotated_moment                              [trials, out, in]   Soap with bases that change at every step, in place of first_moment
    /// P.graft_momentum                                [trials, out, in]   Shampoo with graft_momentum and a start_step
    /// P.second_moment_maximum                         [trials, out, in]   Adam and AdamW with amsgrad
    /// P.master, P.average, P.gradient_sum             [trials, out, in]   of f16 weights; with Group::average; with accumulated gradients
    /// P.left_statistics, P.left_inverse               [trials, out, out]  Kfac; left_basis in its eigen form
    /// P.right_statistics, P.right_inverse             [trials, in, in]    Kfac, Foof; in counts the bias column; right_basis
    /// P.left_eigenvalues                              [trials, 1, out]    Kfac's eigen form
    /// P.right_eigenvalues                             [trials, 1, in]     Kfac's eigen form
    /// P.left_statistics, P.left_root                  [trials, out, out]  Shampoo; with blocks left_statistics_0, ... of their sizes
    /// P.right_statistics, P.right_root                [trials, in, in]    Shampoo
    /// P.left_statistics, P.left_basis                 [trials, out, out]  Soap, EigenvalueCorrectedShampoo; sides without a basis have none
    /// P.right_statistics, P.right_basis               [trials, in, in]    as the left ones
    /// __metadata__: format     "layerwise optimizer state"
    ///               version    "1"
    ///               steps      steps of the optimizer, which fix the cadence of statistics and refreshes
    ///               gathered   gradients taken in since the last step
    ///               refresh    with a frame budget, where refreshes wait: a number for its division of the work, units done of the first, and
    ///                          GROUP.BUCKET of each; while one is half done the file has tensors P.ROLE_snapshot
    ///               gemm       on a GPU whose table of matrix-product variants is not empty: the table as text, see `recorded_gemm_table`
    ///               method.P   Sgd, Adam, AdamW, Soap, EigenvalueCorrectedShampoo(accumulation), Muon(accumulation),
    ///                          Kfac(start of its statistics, scale of its output gradients[, Eigen]), Foof(start of its statistics), NaturalGradient,
    ///                          or Shampoo(accumulation, graft, root of matrices, root of vectors)
    ///               checksum   of all names, shapes and bits: finds damage, does not stop a forger
    /// ```
    /// *Weights are not in it*: they are the caller's, to be saved beside it. Call this between steps, when everything recorded has been submitted.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] or [`Error::Gpu`]; [`Error::Checkpoint`] where names need a header of more than 100 MB.
    pub async fn state_bytes(&self) -> Result<Vec<u8>> {
        let mut values = Vec::new();
        for kept in self.kept().chain(self.snapshots().filter(|_| self.waiting.done > 0)) {
            values.push(kept.tensor.read_async().await?);
        }
        self.encode(&values)
    }

    /// As [`state_bytes`](Self::state_bytes), blocking until the numbers are there.
    ///
    /// # Errors
    /// As [`state_bytes`](Self::state_bytes).
    pub fn state_bytes_blocking(&self) -> Result<Vec<u8>> {
        let saved = self.kept().chain(self.snapshots().filter(|_| self.waiting.done > 0));
        let values = saved.map(|kept| kept.tensor.read()).collect::<Result<Vec<_>>>()?;
        self.encode(&values)
    }

    /// Takes over the state in `bytes`, as [`state_bytes`](Self::state_bytes) made it, without blocking this thread.
    ///
    /// With the same weights, settings, stacks and table of matrix-product variants (another one is warned of in the log) the run goes on bit by bit as if it had not been interrupted. What the device owns (counters, bias
    /// corrections, raised ridges, health) comes from `bytes`; *hyper-parameters stay those of this optimizer*, also where
    /// [`set_learning_rate`](Self::set_learning_rate) changed them, so that a run can resume with other ones. (PyTorch's `load_state_dict` restores them
    /// instead.) Parameters may be grouped and stacked otherwise than in the saved run; their names, shapes and methods have to be the same. Buckets
    /// of staggered refreshes follow the new order.
    ///
    /// Call this between steps, when everything recorded has been submitted.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] listing everything that does not fit, or that the bytes are damaged; [`Error::DeviceLost`] or [`Error::Gpu`]. All is verified
    /// before anything is written: after an error the optimizer is as it was, unless the device is lost.
    pub async fn from_state_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let verified = self.verify(bytes)?;
        let mut blocks = Vec::new();
        for kept in self.kept().filter(|kept| kept.role() == "block") {
            blocks.push(kept.tensor.read_async().await?);
        }
        self.accept(verified, blocks)
    }

    /// As [`from_state_bytes`](Self::from_state_bytes), blocking until the state is there.
    ///
    /// # Errors
    /// As [`from_state_bytes`](Self::from_state_bytes).
    pub fn from_state_bytes_blocking(&mut self, bytes: &[u8]) -> Result<()> {
        let verified = self.verify(bytes)?;
        let blocks = self.kept().filter(|kept| kept.role() == "block").map(|kept| kept.tensor.read()).collect::<Result<Vec<_>>>()?;
        self.accept(verified, blocks)
    }

    /// Every kept tensor, group by group.
    fn kept(&self) -> impl Iterator<Item = &StateTensor> {
        self.groups.iter().flat_map(|g| &g.kept)
    }

    /// Bytes of all values.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept().chain(self.snapshots()).map(|kept| 4 * kept.tensor.words() as u64).sum()
    }

    /// Copies of what a half-done refresh started from, group by group.
    pub(super) fn snapshots(&self) -> impl Iterator<Item = &StateTensor> {
        self.groups.iter().flat_map(|g| &g.snapshots)
    }

    /// Every parameter's part of every kept tensor.
    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        Self::parts_of(self.groups.iter().flat_map(|group| group.kept.iter().map(move |kept| (group, kept))))
    }

    /// Every parameter's part of every snapshot.
    pub(super) fn snapshot_parts(&self) -> impl Iterator<Item = Part<'_>> {
        Self::parts_of(self.groups.iter().flat_map(|group| group.snapshots.iter().map(move |kept| (group, kept))))
    }

    fn parts_of<'a>(tensors: impl Iterator<Item = (&'a GroupState, &'a StateTensor)>) -> impl Iterator<Item = Part<'a>> {
        tensors.enumerate().flat_map(|(tensor, (group, kept))| {
            let layers = group.parameters.iter().filter(|p| p.1 == kept.stack).count();
            let whole = kept.tensor.shape();
            let shape = Shape { batch: whole.batch / layers.max(1), ..whole };
            let mine = group.parameters.iter().filter(|p| p.1 == kept.stack);
            mine.map(move |(parameter, _, layer)| {
                let range = layer * shape.elements()..(layer + 1) * shape.elements();
                Part { parameter, role: kept.role(), tensor, range, shape }
            })
        })
    }

    /// The method of each parameter.
    fn methods(&self) -> BTreeMap<&str, String> {
        self.groups.iter().flat_map(|g| g.parameters.iter().map(|p| (p.0.as_str(), kind(&g.method)))).collect()
    }

    fn encode(&self, values: &[Vec<f32>]) -> Result<Vec<u8>> {
        let view = |part: &Part<'_>| Values {
            shape: [part.shape.batch, part.shape.rows, part.shape.cols],
            values: &values[part.tensor][part.range.clone()],
        };
        let mut parts: BTreeMap<String, Values<'_>> = self.parts().map(|part| (part.key(), view(&part))).collect();
        if self.waiting.done > 0 {
            let kept = self.kept().count();
            parts.extend(self.snapshot_parts().map(|p| (p.key(), view(&Part { tensor: kept + p.tensor, ..p }))));
        }
        let mut facts: Facts = self.methods().into_iter().map(|(name, method)| (format!("method.{name}"), method)).collect();
        facts.extend([("format", FORMAT), ("version", VERSION)].map(|(key, value)| (key.into(), value.into())));
        facts.insert("steps".into(), self.step.to_string());
        facts.insert("gathered".into(), self.gathering.taken.to_string());
        #[cfg(feature = "gpu")]
        facts.extend(self.gemm_fact());
        facts.extend(self.refresh_fact().map(|fact| ("refresh".into(), fact)));
        let sum = checksum(&facts, parts.iter().map(|(key, part)| (key.as_str(), part.shape(), part.data())));
        facts.insert("checksum".into(), sum);
        safetensors::serialize(parts, Some(facts.into_iter().collect()))
            .map_err(|error| Error::Checkpoint { mismatches: vec![format!("it can't be written: {error}")] })
    }

    /// Holds `bytes` against this optimizer. Allocates no more than the bytes and the state take.
    fn verify(&self, bytes: &[u8]) -> Result<Verified> {
        let unreadable = |reason: String| Error::Checkpoint { mismatches: vec![reason] };
        let parse = |error| unreadable(format!("not a safetensors file, or cut off or damaged: {error}"));
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(parse)?;
        let file = SafeTensors::deserialize(bytes).map_err(parse)?;
        let facts: Facts = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let fact = |key: &str| facts.get(key).map_or("", String::as_str);
        Self::check_format(&facts).map_err(unreadable)?;
        let mut mismatches = Vec::new();
        if fact("version") != VERSION {
            mismatches.push(format!("`version` is `{}`, this release reads `{VERSION}`", fact("version")));
        } else {
            let names: BTreeSet<&str> = file.names().into_iter().collect();
            let tensors = names.into_iter().filter_map(|name| file.tensor(name).ok().map(|t| (name, t)));
            let shaped: Vec<_> = tensors.map(|(name, t)| (name, t.shape().to_vec(), t.data())).collect();
            let sum = checksum(&facts, shaped.iter().map(|(name, shape, data)| (*name, shape.as_slice(), Cow::Borrowed(*data))));
            if sum != fact("checksum") {
                mismatches.push("the checksum is wrong: the state is damaged".into());
            }
        }
        let steps = fact("steps").parse().ok().filter(|&steps| steps <= MOST_STEPS);
        if steps.is_none() {
            mismatches.push(format!("`steps` is `{}`, expected a number up to 2^53", fact("steps")));
        }
        let every = self.gathering.every;
        let gathered = fact("gathered").parse().ok().filter(|&gathered| gathered < every);
        if gathered.is_none() {
            mismatches.push(format!("`gathered` is `{}`, expected fewer than the {every} gradients of a step", fact("gathered")));
        }
        #[cfg(feature = "gpu")]
        self.compare_gemm(&facts, &mut mismatches);
        self.compare_methods(&facts, &mut mismatches);
        self.compare_tensors(&facts, &file, &mut mismatches);
        match (steps, gathered) {
            (Some(steps), Some(gathered)) if mismatches.is_empty() => {
                let waiting = self.waiting_of(&facts, &file, steps);
                let snapshots = if waiting.done > 0 { Self::collect(self.snapshots(), self.snapshot_parts(), &file) } else { Vec::new() };
                Ok(Verified { steps, gathered, values: Self::collect(self.kept(), self.parts(), &file), waiting, snapshots })
            }
            _ => Err(Error::Checkpoint { mismatches }),
        }
    }

    /// Tells a file of another kind.
    pub(super) fn check_format(facts: &Facts) -> std::result::Result<(), String> {
        let found = facts.get("format").map_or("", String::as_str);
        if found == FORMAT { Ok(()) } else { Err(format!("`format` is `{found}`, expected `{FORMAT}`")) }
    }

    /// Lists parameters that only one side has, and those with another method.
    fn compare_methods(&self, facts: &Facts, mismatches: &mut Vec<String>) {
        let mine = self.methods();
        for (name, method) in &mine {
            match facts.get(&format!("method.{name}")) {
                None => mismatches.push(format!("parameter `{name}` is missing")),
                Some(found) if found != method => mismatches.push(format!("parameter `{name}` was stepped by {found}, not {method}")),
                Some(_) => {}
            }
        }
        for name in facts.keys().filter_map(|key| key.strip_prefix("method.")).filter(|name| !mine.contains_key(name)) {
            mismatches.push(format!("parameter `{name}` is not one of this optimizer's"));
        }
    }

    /// Lists tensors that are missing, left over, or of another shape or type, for parameters that both sides have.
    fn compare_tensors(&self, facts: &Facts, file: &SafeTensors<'_>, mismatches: &mut Vec<String>) {
        let methods = self.methods();
        let found = |parameter: &str| facts.get(&format!("method.{parameter}"));
        let mut expected = BTreeSet::new();
        for part in self.parts() {
            let key = part.key();
            match file.tensor(&key) {
                // Another method keeps other tensors: that it is another one has been said.
                Err(_) if found(part.parameter) == methods.get(part.parameter) => mismatches.push(format!("`{key}` is missing")),
                Err(_) => {}
                Ok(t) if t.dtype() != Dtype::F32 => mismatches.push(format!("`{key}` has elements {}, expected F32", t.dtype())),
                Ok(t) if t.shape() != [part.shape.batch, part.shape.rows, part.shape.cols] => {
                    mismatches.push(format!("`{key}` has shape {:?}, expected {}", t.shape(), part.shape));
                }
                Ok(t) if part.role == "block" && !words(t.data()).enumerate().all(|(i, x)| allowed(i, x)) => {
                    mismatches.push(format!("`{key}` has counters that are negative or not finite"));
                }
                Ok(_) => {}
            }
            expected.insert(key);
        }
        let mut names = file.names();
        names.sort_unstable();
        // Snapshots that do not fit are not missed: what they were taken for starts again.
        for name in names.into_iter().filter(|&name| !expected.contains(name) && !name.ends_with("_snapshot")) {
            let parameter = name.rsplit_once('.').map_or(name, |(parameter, _)| parameter);
            let (theirs, ours) = (found(parameter), methods.get(parameter));
            // What belongs to a parameter of theirs alone has been said by the parameter's name.
            if theirs == ours {
                mismatches.push(format!("`{name}` is not part of this optimizer's state"));
            }
        }
    }

    /// The values of tensors, put together from a file that fits.
    fn collect<'a>(
        tensors: impl Iterator<Item = &'a StateTensor>,
        parts: impl Iterator<Item = Part<'a>>,
        file: &SafeTensors<'_>,
    ) -> Vec<Vec<f32>> {
        let mut values: Vec<Vec<f32>> = tensors.map(|kept| vec![0.0; kept.tensor.words()]).collect();
        for part in parts {
            let Ok(tensor) = file.tensor(&part.key()) else { continue };
            values[part.tensor][part.range].iter_mut().zip(words(tensor.data())).for_each(|(value, x)| *value = x);
        }
        values
    }

    /// Writes a verified state, keeping the user's part of the current `blocks`.
    fn accept(&mut self, verified: Verified, blocks: Vec<Vec<f32>>) -> Result<()> {
        let mut blocks = blocks.into_iter();
        for (kept, mut values) in self.kept().zip(verified.values) {
            if kept.role() == "block" {
                let current = blocks.next().unwrap_or_default();
                for (row, mine) in values.chunks_mut(block::WIDTH).zip(current.chunks(block::WIDTH)) {
                    row[..block::STEP as usize].copy_from_slice(&mine[..block::STEP as usize]);
                }
            }
            kept.tensor.write(&values)?;
        }
        self.step = verified.steps;
        self.gathering.taken = verified.gathered;
        // The masters are part of the state.
        self.load = false;
        self.resume(verified.waiting, &verified.snapshots)
    }
}

impl StateTensor {
    /// What it is to its stack.
    fn role(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, role)| role)
    }
}

fn start(start: StatisticsStart) -> &'static str {
    match start {
        StatisticsStart::Identity => "Identity",
        StatisticsStart::FirstBatch => "FirstBatch",
        StatisticsStart::BiasCorrected => "BiasCorrected",
    }
}

/// What state means depends on: the method, and the settings without which its numbers mean something else. Part of the format.
fn kind(method: &Method) -> String {
    match method {
        Method::Sgd(_) => "Sgd".into(),
        Method::Adam(_) => "Adam".into(),
        Method::AdamW(_) => "AdamW".into(),
        Method::Muon(m) => match m.accumulation {
            Accumulation::Ema => "Muon(Ema)".into(),
            Accumulation::Sum => "Muon(Sum)".into(),
        },
        Method::Soap(_) => "Soap".into(),
        Method::EigenvalueCorrectedShampoo(m) => format!("EigenvalueCorrectedShampoo({})", if m.beta2 == 1.0 { "Sum" } else { "Ema" }),
        Method::Kfac(m) => {
            let scale = match m.output_gradients {
                OutputGradients::MeanLoss => "MeanLoss",
                OutputGradients::BatchSum => "BatchSum",
                OutputGradients::PerSample => "PerSample",
            };
            let form = match m.form {
                KfacForm::Inverse => "",
                KfacForm::Eigen => ", Eigen",
            };
            format!("Kfac({}, {scale}{form})", start(m.statistics_start))
        }
        Method::Foof(m) => format!("Foof({})", start(m.statistics_start)),
        Method::NaturalGradient(_) => "NaturalGradient".into(),
        Method::Shampoo(m) => {
            let accumulation = match m.accumulation {
                Accumulation::Sum => "Sum",
                Accumulation::Ema => "Ema",
            };
            let graft = match m.graft {
                Graft::None => "None",
                Graft::Sgd => "Sgd",
                Graft::Adagrad { .. } => "Adagrad",
                Graft::RmsProp { .. } => "RmsProp",
                Graft::Adam { .. } => "Adam",
            };
            format!("Shampoo({accumulation}, {graft}, {}, {})", m.matrix_root, m.vector_root)
        }
    }
}

/// True if a device may have left `x` at element `i` of a block. The user's part is not taken over.
fn allowed(i: usize, x: f32) -> bool {
    let column = i % block::WIDTH;
    let signed = [block::LAST_LOSS, block::PREDICTED].iter().any(|&c| c as usize == column);
    column < block::STEP as usize || (x.is_finite() && (x >= 0.0 || signed))
}
