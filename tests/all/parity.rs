//! Twenty training steps on the CPU path and on the GPU, operation by operation: the first one that leaves the allowed band is named.

use layerwise::linalg::{orthonormalise, spd_inverse};
use layerwise::plan::{
    Access, Advance, CheckFinite, Clock, ColumnMean, DecayForm, Distribution, Gemm, KronFactor, RandomFill, ReduceKind, SgdUpdate, block,
};
use layerwise::{Bindings, Coef, Context, Plan, Prepared, Recorder, Shape, Value};
use libtest_mimic::Failed;

use crate::case::{Case, case_gpu};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_gpu("parity::twenty_steps", |gpu| run(gpu, None).map_err(Failed::from)),
        case_gpu("parity::names_the_operation_that_diverges", |gpu| match run(gpu, Some(7)) {
            // The corrupted tensor is the first layer's weight, which the forward product reads first.
            Err(message) if message.contains("step 7") && message.contains("gemm") && message.contains("hidden") => Ok(()),
            other => Err(format!("a corrupted weight was reported as {other:?}")),
        }),
    ]
}

const TRIALS: usize = 3;
const STEPS: usize = 20;

/// Relative band of the first step, and how much it may widen a step: rounding differs between devices and feeds back through the weights.
const BAND: f64 = 2e-5;
const GROWTH: f64 = 1.15;

/// A two-layer linear network on its own data with KFAC on the first layer and SGD on the second: most operations, one plan.
struct Model {
    plan: Plan,
    /// Values that the caller binds, with what they start from.
    bound: Vec<(Value, Shape, Vec<f32>)>,
}

fn model() -> layerwise::Result<Model> {
    let (n, d, k, m) = (40, 12, 5, 7);
    let mut r = Recorder::new();
    let mut bound = Vec::new();
    let mut bind = |r: &mut Recorder, name: &str, shape: Shape, start: Vec<f32>| -> layerwise::Result<Value> {
        let value = r.state(name, shape)?;
        bound.push((value, shape, start));
        Ok(value)
    };
    let normal = |seed: u32, count: usize| -> Vec<f32> {
        #[allow(clippy::cast_possible_truncation, reason = "test data")]
        layerwise::rng::Philox { key: [seed, 1] }.normals_f64(0, 0, count).into_iter().map(|x| 0.4 * x as f32).collect()
    };
    let key = |t: u32| [f32::from_bits(t), f32::from_bits(9)];
    let keys = bind(&mut r, "keys", Shape::new(TRIALS, 1, 2), (0..3).flat_map(key).collect())?;
    let mut row = [0.0; block::WIDTH];
    row[block::LEARNING_RATE as usize] = 0.05;
    row[block::MOMENTUM as usize] = 0.5;
    row[block::SCHEDULE as usize] = 2.0;
    row[block::DECAY_STEPS as usize] = 30.0;
    row[block::DAMPING as usize] = 0.05;
    row[block::DECAY as usize] = 0.9;
    let hyper = bind(&mut r, "hyper", Shape::new(TRIALS, 1, block::WIDTH), row.repeat(TRIALS))?;
    let g = bind(&mut r, "first", Shape::new(TRIALS, k, d), normal(1, TRIALS * k * d))?;
    let f = bind(&mut r, "second", Shape::new(TRIALS, m, k), normal(2, TRIALS * m * k))?;
    let target = bind(&mut r, "target", Shape::new(TRIALS, m, d), normal(3, TRIALS * m * d))?;
    let momentum = bind(&mut r, "momentum", Shape::new(TRIALS, m, k), vec![0.0; TRIALS * m * k])?;
    let statistics = bind(&mut r, "statistics", Shape::new(TRIALS, d, d), vec![0.0; TRIALS * d * d])?;

    let step = hyper.col_range(block::STEP as usize..block::STEP as usize + 1)?;
    let gate = hyper.col_range(block::GATE as usize..block::GATE as usize + 1)?;
    let x = r.scratch("x", Shape::new(TRIALS, n, d))?;
    r.record(RandomFill { out: x, distribution: Distribution::Normal, stream: 0, keys, step })?;
    let hidden = r.scratch("hidden", Shape::new(TRIALS, n, k))?;
    r.record(Gemm::new(x, g.t(), hidden))?;
    let y = r.matmul(x, target.t())?;
    let residual = r.scratch("residual", Shape::new(TRIALS, n, m))?;
    r.record(Gemm { d: Some(y), beta: Coef::Const(-1.0), ..Gemm::new(hidden, f.t(), residual) })?;
    let back = r.matmul(residual, f)?;
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    let mean = Coef::Const(1.0 / n as f32);
    let (gg, gf) = (r.scratch("gradient 1", Shape::new(TRIALS, k, d))?, r.scratch("gradient 2", Shape::new(TRIALS, m, k))?);
    r.record(Gemm { alpha: mean, ..Gemm::new(back.t(), x, gg) })?;
    r.record(Gemm { alpha: mean, ..Gemm::new(residual.t(), hidden, gf) })?;
    let flag = hyper.col_range(block::FLAG as usize..block::FLAG as usize + 1)?;
    r.record(CheckFinite { x: gg, flag })?;
    r.record(Advance { block: hyper, clock: Clock::Step })?;
    r.record(Advance { block: hyper, clock: Clock::StatisticsBiasCorrected })?;
    let decay = Coef::column(block::STATISTICS_DECAY);
    r.record(KronFactor { decay, block: Some(hyper), gate: Some(gate), ..KronFactor::new(x, statistics) })?;
    let (inverse, _) = spd_inverse(&mut r, statistics, Coef::column(block::DAMPING), Some(hyper))?;
    let direction = r.matmul(gg, inverse)?;
    r.record(SgdUpdate { w: g, g: direction, m: None, g_scale: None, nesterov: false, decay: DecayForm::Gradient, block: hyper })?;
    r.record(SgdUpdate { w: f, g: gf, m: Some(momentum), g_scale: None, nesterov: true, decay: DecayForm::Cautious, block: hyper })?;
    let (q, _) = orthonormalise(&mut r, g)?;
    r.operator_norm(q)?;
    r.reduce(ReduceKind::SumSq, 0.5, residual)?;
    let mean = r.scratch("column means", Shape::new(TRIALS, 1, m))?;
    r.record(ColumnMean { x: residual, y: None, out: mean })?;
    Ok(Model { plan: r.finish().by_operation(), bound })
}

fn prepare(ctx: &Context, model: &Model) -> layerwise::Result<Prepared> {
    let mut bindings = Bindings::new();
    for (value, shape, start) in &model.bound {
        bindings.bind(*value, &ctx.upload(*shape, start)?);
    }
    ctx.prepare(&model.plan, &bindings)
}

fn run(gpu: &Context, corrupt_at: Option<usize>) -> Result<(), String> {
    let text = |e: layerwise::Error| e.to_string();
    let model = model().map_err(text)?;
    let (mut cpu, mut gpu) = (prepare(&Context::cpu(), &model).map_err(text)?, prepare(gpu, &model).map_err(text)?);
    for step in 0..STEPS {
        if corrupt_at == Some(step) {
            let (first, ..) = model.bound[2];
            let tensor = gpu.tensor(first).ok_or("no tensor")?;
            let mut values = tensor.read().map_err(text)?;
            values[17] += 0.01;
            tensor.write(&values).map_err(text)?;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a small count")]
        let band = BAND * GROWTH.powi(step as i32);
        for (i, op) in model.plan.ops().iter().enumerate() {
            cpu.run(&[i]).map_err(text)?;
            gpu.run(&[i]).map_err(text)?;
            for (name, value, _) in op.operands().into_iter().filter(|o| o.2 != Access::Read) {
                let read = |p: &Prepared| p.tensor(value).ok_or("no tensor".to_owned())?.read().map_err(text);
                let (want, got) = (read(&cpu)?, read(&gpu)?);
                let scale = want.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
                let (at, worst) = want
                    .iter()
                    .zip(&got)
                    .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
                    .enumerate()
                    .fold((0, 0.0), |m, d| if d.1 > m.1 || d.1.is_nan() { d } else { m });
                if worst.is_nan() || worst > band * scale {
                    let info = model.plan.info(value).map(|i| i.name.clone()).unwrap_or_default();
                    return Err(format!(
                        "step {step}, operation {i} {}: {name} = {info} [{at}]: cpu {} gpu {}, difference {worst:e} above {:e}",
                        op.name(),
                        want[at],
                        got[at],
                        band * scale
                    ));
                }
            }
        }
    }
    Ok(())
}
