//! Random methods, settings, shapes and gradients: nothing panics, no weight is ever not finite, and every refusal is counted.

use layerwise::linalg::{self, NewtonSchulz};
use layerwise::optim::{
    Accumulation, Adam, AdamW, DampingSplit, EigenvalueCorrectedShampoo, EpsilonScale, Foof, Graft, Group, Kfac, KfacForm,
    LearningRateSchedule, LevenbergMarquardt, Method, Muon, MuonScale, NaturalGradient, Optimizer, OutputGradients, Parameter, Sgd,
    Shampoo, Soap, StatisticsStart, WeightDecay,
};
use layerwise::{Context, ElementType, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::ensure;
use crate::case::{Case, Outcome, case_cpu};
use crate::oracle::data;

/// Steps of each configuration.
const STEPS: u64 = 50;

/// A stream of choices: splitmix64.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// 10 to some power between these.
    fn power(&mut self, least: f64, most: f64) -> f64 {
        10f64.powf(least + (most - least) * (self.next() % 1000) as f64 / 999.0)
    }
}

fn method(c: &mut Choices, index: usize) -> Method {
    let (rate, decay) = (c.power(-4.0, 0.0), c.of(&[0.0, 0.01, 0.3]));
    let (statistics_every, precondition_every, start_step) = (c.of(&[1, 1, 3]), c.of(&[1, 2, 7, 10]), c.of(&[0, 0, 4]));
    let (momentum, nesterov) = c.of(&[(0.0, false), (0.9, false), (0.5, true)]);
    let start = c.of(&[StatisticsStart::Identity, StatisticsStart::FirstBatch, StatisticsStart::BiasCorrected]);
    let samples = c.of(&[OutputGradients::MeanLoss, OutputGradients::PerSample]);
    let accumulation = c.of(&[Accumulation::Ema, Accumulation::Sum]);
    match index % 10 {
        0 => Sgd { learning_rate: rate, momentum, nesterov, weight_decay: decay, ..Sgd::default() }.into(),
        1 => {
            let (beta1, beta2, epsilon) = (c.of(&[0.0, 0.9]), c.of(&[0.0, 0.999]), c.power(-30.0, -2.0));
            Adam { learning_rate: rate, beta1, beta2, epsilon, weight_decay: decay, amsgrad: c.coin(), nesterov: c.coin() }.into()
        }
        2 => AdamW { learning_rate: rate, weight_decay: decay, amsgrad: c.coin(), nesterov: c.coin(), ..AdamW::default() }.into(),
        3 => {
            let (kl_clip, norm_constraint) = c.of(&[(None, None), (Some(1e-3), None), (None, Some(1e-3))]);
            let form = c.of(&[KfacForm::Inverse, KfacForm::Eigen]);
            let split = if form == KfacForm::Eigen { DampingSplit::Plain } else { c.of(&[DampingSplit::Plain, DampingSplit::Pi]) };
            let adaptation = c.of(&[None, Some(LevenbergMarquardt::default())]);
            Kfac {
                learning_rate: rate,
                momentum,
                form,
                damping: c.power(-8.0, 0.0),
                damping_split: split,
                decay: c.of(&[0.0, 0.95]),
                statistics_start: start,
                output_gradients: samples,
                kl_clip,
                norm_constraint,
                adaptation,
                statistics_every,
                precondition_every,
                start_step,
                weight_decay: decay,
            }
            .into()
        }
        4 => Foof {
            learning_rate: rate,
            momentum,
            damping: c.power(-8.0, 0.0),
            statistics_start: start,
            statistics_every,
            precondition_every,
            start_step,
            weight_decay: decay,
            ..Foof::default()
        }
        .into(),
        5 => NaturalGradient { learning_rate: rate, momentum, damping: c.power(-8.0, 0.0), output_gradients: samples, weight_decay: decay }
            .into(),
        6 => Shampoo {
            learning_rate: rate,
            beta1: c.of(&[0.0, 0.9]),
            accumulation,
            beta2: c.of(&[0.0, 0.9]),
            bias_correction: c.coin(),
            epsilon: c.power(-12.0, -1.0),
            epsilon_scale: c.of(&[EpsilonScale::Absolute, EpsilonScale::Relative, EpsilonScale::RelativeToMean]),
            matrix_root: c.of(&[1, 2, 4, 5]),
            root_method: c.of(&[linalg::Method::Auto, linalg::Method::Eigen, linalg::Method::Newton]),
            statistics_every,
            precondition_every,
            start_step,
            graft: c.of(&[
                Graft::None,
                Graft::Sgd,
                Graft::Adagrad { epsilon: 1e-10 },
                Graft::RmsProp { beta2: 0.99, epsilon: 1e-8 },
                Graft::Adam { beta2: 0.99, epsilon: 1e-8 },
            ]),
            weight_decay: c.of(&[WeightDecay::L2(0.01), WeightDecay::Decoupled(0.01), WeightDecay::Cautious(0.01)]),
            momentum,
            nesterov,
            block_size: c.of(&[5, 40, 1024]),
            ..Shampoo::default()
        }
        .into(),
        7 => EigenvalueCorrectedShampoo { learning_rate: rate, precondition_every, start_step, ..EigenvalueCorrectedShampoo::default() }
            .into(),
        8 => Soap {
            learning_rate: rate,
            weight_decay: decay,
            precondition_every,
            max_precondition_dim: c.of(&[0, 20, 10_000]),
            bias_correction: c.coin(),
            normalise: c.coin(),
            ..Soap::default()
        }
        .into(),
        _ => Muon {
            learning_rate: rate,
            momentum,
            accumulation,
            nesterov,
            weight_decay: decay,
            newton_schulz: c.of(&[NewtonSchulz::Keller, NewtonSchulz::You, NewtonSchulz::PolarExpress5, NewtonSchulz::PolarExpress8]),
            scale: c.of(&[MuonScale::Original, MuonScale::MatchRmsAdamW, MuonScale::Spectral]),
            neuron_decay: c.of(&[None, Some(0.9)]),
            epsilon: c.of(&[0.0, 1e-7]),
            ..Muon::default()
        }
        .into(),
    }
}

/// Values of one kind: ordinary, zero, denormal, tiny, huge, around the limit, of rank one, or spoilt by one element.
fn values(c: &mut Choices, trials: usize, rows: usize, cols: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for _ in 0..trials {
        let mut x = data(c.next(), rows * cols);
        let factor = match c.below(14) {
            0 => 0.0,
            1 => 1e-41,
            2 => 1e-20,
            3 => 1e10,
            4 => 9.9e17,
            5 => 3e-38,
            _ => 1.0,
        };
        x.iter_mut().for_each(|x| *x *= factor);
        let at = c.below(rows * cols);
        match c.below(14) {
            0 => x[at] = f32::NAN,
            1 => x[at] = f32::INFINITY,
            2 => x[at] = -2e18,
            3 => (0..rows * cols).for_each(|i| x[i] = x[i / cols * cols] * x[i % cols]),
            4 => (0..rows * cols).for_each(|i| x[i] = if i / cols == 0 { x[i] } else { 0.0 }),
            _ => {}
        }
        all.extend(x);
    }
    all
}

struct Layer {
    tensors: [Tensor; 4],
}

fn run(ctx: &Context, index: usize) -> Outcome {
    let mut c = Choices(1000 + index as u64);
    let method = method(&mut c, index);
    let (trials, layers) = (1 + c.below(3), 1 + c.below(2));
    let most = if matches!(method, Method::NaturalGradient(_)) { 6 } else { 96 };
    let side = |c: &mut Choices| if c.below(6) == 0 { 1 } else { 1 + c.below(most) };
    let (out, mut inn, n) = (side(&mut c), side(&mut c), 1 + c.below(40));
    if matches!(method, Method::Muon(_)) {
        inn = inn.max(2);
    }
    let mut group = Group::new(method);
    group = match c.below(4) {
        0 => group.weight_decay(c.of(&[WeightDecay::L2(0.1), WeightDecay::Decoupled(0.1), WeightDecay::Cautious(0.1)])),
        1 => group.average(0.9),
        2 => group.schedule(LearningRateSchedule::Cosine { warm_up: 5, steps: 30, final_fraction: 0.1 }),
        _ => group,
    };
    let mut made = Vec::new();
    for layer in 0..layers {
        let shape = Shape::new(trials, out, inn);
        let half = !matches!(method, Method::Kfac(_) | Method::Foof(_) | Method::NaturalGradient(_)) && c.below(5) == 0;
        let weight = ctx.zeros_of(shape, if half { ElementType::F16 } else { ElementType::F32 })?;
        weight.write(&data(c.next(), shape.elements()))?;
        let tensors = [weight, ctx.zeros(shape)?, ctx.zeros(Shape::new(trials, n, inn))?, ctx.zeros(Shape::new(trials, n, out))?];
        let parameter = Parameter::new(format!("layer{layer}"), &tensors[0], &tensors[1]).samples(&tensors[2], &tensors[3]);
        group = group.parameter(parameter);
        made.push(Layer { tensors });
    }
    let every = c.of(&[1, 1, 1, 3]);
    let (clips, scaled) = (c.below(4) == 0, c.below(4) == 0);
    let mut builder = Optimizer::builder(ctx).group(group).accumulate_gradients(every);
    builder = if clips { builder.clip_global_norm(c.power(-3.0, 3.0)) } else { builder };
    builder = if scaled { builder.loss_scale(c.of(&[0.5, 1024.0])) } else { builder };
    let mut optimizer = builder.build()?;
    let case =
        || format!("configuration {index}, {layers} layers [{trials}, {out}, {inn}], {n} samples, {every}, {clips}, {scaled}, {method:?}");
    let mut expected = vec![vec![0u64; trials]; layers];
    let mut bad = vec![vec![false; trials]; layers];
    for step in 0..STEPS {
        for (l, layer) in made.iter().enumerate() {
            for (role, tensor) in layer.tensors.iter().enumerate().skip(1) {
                let shape = tensor.shape();
                let x = values(&mut c, trials, shape.rows, shape.cols);
                tensor.write(&x)?;
                if role == 1 {
                    let area = shape.rows * shape.cols;
                    // Unscaled, or in a mean, what is out of range may come within it.
                    let refused = |x: &f32| if every == 1 && !scaled { x.is_nan() || x.abs() > 1e18 } else { !x.is_finite() };
                    (0..trials).for_each(|t| bad[l][t] |= x[t * area..(t + 1) * area].iter().any(refused));
                }
            }
        }
        optimizer.step()?;
        if optimizer.steps() * every == step + 1 {
            for (counts, bad) in expected.iter_mut().zip(&mut bad) {
                counts.iter_mut().zip(bad).for_each(|(count, bad)| *count += u64::from(std::mem::take(bad)));
            }
        }
        for layer in &made {
            let weight = layer.tensors[0].read()?;
            ensure(weight.iter().all(|w| w.is_finite()), || format!("{}: step {step}: a weight is not finite", case()))?;
        }
    }
    for (name, tensor) in optimizer.state() {
        let finite = tensor.read()?.iter().all(|x| x.is_finite());
        ensure(finite || name.ends_with(".gradient_sum"), || format!("{}: `{name}` is not finite", case()))?;
    }
    let health = optimizer.health_blocking()?;
    for (parameter, expected) in health.parameters.iter().zip(&expected) {
        for (trial, &expected) in parameter.trials.iter().zip(expected) {
            // Taps, infinite norms and sums of gradients are refused, too.
            let more =
                clips || every > 1 || scaled || !matches!(method, Method::Sgd(_) | Method::Adam(_) | Method::AdamW(_) | Method::Muon(_));
            let seen = if more { trial.skipped >= expected } else { trial.skipped == expected };
            // SOAP's first gradient makes no step.
            let silent = u64::from(matches!(method, Method::Soap(_)));
            ensure(seen && (optimizer.steps() - silent..=optimizer.steps()).contains(&(trial.steps + trial.skipped)), || {
                format!("{}: {expected} refusals: {health}", case())
            })?;
        }
    }
    Ok(())
}

/// Configurations of one method: 20 of each on the CPU make 10,000 steps.
fn all(ctx: &Context, method: usize, count: usize) -> Outcome {
    let failure = |i: usize| run(ctx, i).err().map(|e: Failed| format!("{i}: {}", e.message().unwrap_or("")));
    let failures: Vec<String> = (0..count).filter_map(|i| failure(10 * i + method)).collect();
    ensure(failures.is_empty(), || failures.join("\n"))
}

pub(crate) fn cases() -> Vec<Case> {
    let on_cpu = |method| case_cpu(format!("optimizers::fuzz::{method}"), move |ctx| all(ctx, method, 20));
    #[allow(unused_mut, reason = "feature gpu adds cases")]
    let mut cases: Vec<Case> = (0..10).map(on_cpu).collect();
    #[cfg(feature = "gpu")]
    cases.extend((0..10).map(|method| crate::case::case_gpu(format!("optimizers::fuzz::{method}"), move |ctx| all(ctx, method, 5))));
    cases
}
