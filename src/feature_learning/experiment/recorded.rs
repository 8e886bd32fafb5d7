//! The plan of a chunk of trials, and what has to be bound to it.

use super::LinearRepresentation;
use crate::error::Result;
use crate::feature_learning::data::{TRAIN, TRANSFER, Task};
use crate::feature_learning::method::Method;
use crate::feature_learning::metrics::{self, Judge};
use crate::feature_learning::scheme::{Scheme, Sizes};
use crate::feature_learning::teacher::Side;
use crate::plan::block::WIDTH;
use crate::plan::{Axpby, Coef, Plan, Recorder, Role, Value};
use crate::tensor::Shape;

/// Segment that draws the transfer samples, once.
pub(super) const SAMPLE: usize = 0;
/// Segment of one training step.
pub(super) const STEP: usize = 1;
/// Segment of one training step that leaves the inverses as they are.
pub(super) const STALE_STEP: usize = 2;
/// Segment that fills the log.
pub(super) const LOG: usize = 3;

/// A recorded run.
pub(super) struct Recorded {
    pub(super) plan: Plan,
    pub(super) scheme: Scheme,
    pub(super) inputs: Vec<(Value, Input)>,
    pub(super) log: Value,
    /// Blocks of the optimizer, in order of the weights that it trains.
    pub(super) reports: Vec<Value>,
}

/// What is bound beside the scheme's state.
#[derive(Clone, Copy)]
pub(super) enum Input {
    Root(Side),
    Target(Side),
    Keys(u32),
    Reference,
    Zeros,
}

/// Records `rates` trials for each seed and anisotropy of `config`.
pub(super) fn record(config: &LinearRepresentation, method: Method, rates: usize) -> Result<Recorded> {
    let sizes = Sizes { data: config.kappas.len() * config.seeds, sharing: rates, d_x: config.d_x, d_y: config.d_y, k: config.k };
    let (data, seeds, trials) = (sizes.data, config.seeds, sizes.trials());
    let mut r = Recorder::new();
    let mut inputs = Vec::new();
    let mut task = |r: &mut Recorder, side: Side, key: u32, name: &str| -> Result<Task> {
        let root = r.external(format!("{name}.root"), Shape::new(data, config.d_x, config.d_x))?;
        let target = r.external(format!("{name}.target"), Shape::new(seeds, config.d_y, config.d_x))?;
        let keys = r.external(format!("{name}.keys"), Shape::new(seeds, 1, 2))?;
        let step = r.state(format!("{name}.step"), Shape::new(1, 1, 1))?;
        inputs.extend([(root, Input::Root(side)), (target, Input::Target(side)), (keys, Input::Keys(key)), (step, Input::Zeros)]);
        #[allow(clippy::cast_possible_truncation, reason = "rounding to the device's element type is the purpose")]
        Ok(Task { root, target, keys, step, noise: config.noise as f32, inputs: config.inputs })
    };
    let train = task(&mut r, Side::Train, TRAIN, "train")?;
    let transfer = task(&mut r, Side::Transfer, TRANSFER, "transfer")?;
    let reference = r.external("reference", Shape::new(seeds, config.k, config.d_x))?;
    let log = r.state("log", Shape::new(trials, 1, metrics::COLUMNS))?;
    inputs.extend([(reference, Input::Reference), (log, Input::Zeros)]);
    let scheme = Scheme::declare(&mut r, method, sizes, config.damping)?;
    let report = |of: &str| r.external(format!("{of}.report"), Shape::new(trials, 1, WIDTH));
    let reports = scheme.trained().iter().map(|t| t.name).map(report).collect::<Result<Vec<_>>>()?;

    r.segment("sample");
    let samples = transfer.draw(&mut r, "transfer", config.transfer_samples, Role::State)?;
    inputs.extend([(samples.x, Input::Zeros), (samples.y.t(), Input::Zeros)]);
    for (name, refresh) in [("step", true), ("stale step", false)] {
        r.segment(name);
        if refresh || config.precondition_every > 1 {
            let batch = train.draw(&mut r, "train", config.batch, Role::Scratch)?;
            scheme.record(&mut r, &batch, refresh)?;
            let next = Axpby { x: None, y: Some(train.step), gamma: Coef::Const(1.0), ..Axpby::copy(train.step, train.step) };
            r.record(next)?;
        }
    }
    r.segment("log");
    let blocks: Vec<Value> = scheme.blocks().into_iter().chain(reports.iter().copied()).collect();
    let judge = Judge { train: &train, transfer: &transfer, samples: &samples, reference };
    metrics::record(&mut r, &scheme, &judge, &blocks, log)?;
    Ok(Recorded { plan: r.finish(), scheme, inputs, log, reports })
}
