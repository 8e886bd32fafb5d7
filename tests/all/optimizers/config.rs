//! What `build` refuses, and that it says why.

use layerwise::optim::{
    Adam, AdamW, DampingSplit, EigenvalueCorrectedShampoo, Foof, Graft, Group, Kfac, KfacForm, LearningRateSchedule, LevenbergMarquardt,
    Method, Muon, NaturalGradient, Optimizer, Parameter, Sgd, Shampoo, Soap, WeightDecay,
};
use layerwise::{Context, ElementType, Error, Shape};

use super::rig::{Layer, ensure, optimizer, single};
use crate::case::{Case, Outcome, case, case_host};

/// Every numeric field of every method, at values that it must refuse.
fn fields(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 1, 3, 4, 1)?;
    let mut bad: Vec<(&str, Method)> = Vec::new();
    let not_positive = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60, 1e-40, 1e60];
    let negative = [-1e-9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e60];
    let not_decay = [-0.1, 1.0, 2.0, f64::NAN, f64::INFINITY, 1.0 - 1e-12];
    let not_fraction = [-0.1, 1.1, f64::NAN];
    macro_rules! refuse {
        ($values:expr, $name:ident, $field:ident) => {
            bad.extend($values.map(|x| (stringify!($field), $name { $field: x, ..$name::default() }.into())))
        };
    }
    refuse!(negative, Sgd, learning_rate);
    refuse!(not_decay, Sgd, momentum);
    refuse!(not_fraction, Sgd, dampening);
    refuse!(negative, Sgd, weight_decay);
    refuse!([true], Sgd, nesterov);
    bad.push(("nesterov", Sgd { nesterov: true, momentum: 0.9, dampening: 0.1, ..Sgd::default() }.into()));
    refuse!(negative, Adam, learning_rate);
    refuse!(not_decay, Adam, beta1);
    refuse!(not_decay, Adam, beta2);
    refuse!(not_positive, Adam, epsilon);
    refuse!(negative, Adam, weight_decay);
    refuse!(negative, AdamW, learning_rate);
    refuse!(not_decay, AdamW, beta1);
    refuse!(not_decay, AdamW, beta2);
    refuse!(not_positive, AdamW, epsilon);
    refuse!(negative, AdamW, weight_decay);
    refuse!(negative, Kfac, learning_rate);
    refuse!(not_decay, Kfac, momentum);
    refuse!(negative, Kfac, damping);
    refuse!(not_decay, Kfac, decay);
    refuse!(not_positive.map(Some), Kfac, kl_clip);
    refuse!([0], Kfac, statistics_every);
    bad.extend(not_positive.map(|x| ("norm_constraint", Kfac { kl_clip: None, norm_constraint: Some(x), ..Kfac::default() }.into())));
    bad.push(("norm_constraint", Kfac { norm_constraint: Some(1e-3), ..Kfac::default() }.into()));
    bad.push(("damping_split", Kfac { form: KfacForm::Eigen, damping_split: DampingSplit::Pi, ..Kfac::default() }.into()));
    let adapting = |adaptation| Kfac { adaptation: Some(adaptation), ..Kfac::default() };
    bad.push(("damping", Kfac { damping: 0.0, ..adapting(LevenbergMarquardt::default()) }.into()));
    for omega in [0.0, -0.5, 1.0, f64::NAN] {
        bad.push(("omega", adapting(LevenbergMarquardt { omega, ..LevenbergMarquardt::default() }).into()));
    }
    bad.push(("every", adapting(LevenbergMarquardt { every: 0, ..LevenbergMarquardt::default() }).into()));
    bad.push(("least", adapting(LevenbergMarquardt { least: 0.0, ..LevenbergMarquardt::default() }).into()));
    refuse!(negative, Foof, learning_rate);
    refuse!(not_decay, Foof, momentum);
    refuse!(negative, Foof, damping);
    refuse!(not_decay, Foof, decay);
    refuse!([0], Foof, statistics_every);
    refuse!([0], Foof, precondition_every);
    refuse!(negative, Foof, weight_decay);
    refuse!(negative, NaturalGradient, learning_rate);
    refuse!(not_decay, NaturalGradient, momentum);
    refuse!(negative, NaturalGradient, damping);
    refuse!(negative, NaturalGradient, weight_decay);
    refuse!([0], Kfac, precondition_every);
    refuse!(negative, Kfac, weight_decay);
    refuse!(negative, Shampoo, learning_rate);
    refuse!(not_decay, Shampoo, beta1);
    refuse!(not_positive, Shampoo, epsilon);
    refuse!([0, 9], Shampoo, matrix_root);
    refuse!([0, 9], Shampoo, vector_root);
    refuse!([0], Shampoo, statistics_every);
    refuse!([0], Shampoo, precondition_every);
    refuse!(negative.map(WeightDecay::L2), Shampoo, weight_decay);
    refuse!(negative.map(WeightDecay::Decoupled), Shampoo, weight_decay);
    refuse!(not_decay, Shampoo, momentum);
    refuse!([true], Shampoo, nesterov);
    refuse!([true], Shampoo, graft_momentum);
    refuse!([0], Shampoo, block_size);
    let shampoo = Shampoo::default();
    for beta2 in not_decay {
        bad.push(("beta2", Shampoo { beta2, ..shampoo }.into()));
        bad.push(("graft.beta2", Shampoo { graft: Graft::Adam { beta2, epsilon: 1e-8 }, ..shampoo }.into()));
        bad.push(("graft.beta2", Shampoo { graft: Graft::RmsProp { beta2, epsilon: 1e-8 }, ..shampoo }.into()));
    }
    for epsilon in not_positive {
        bad.push(("graft.epsilon", Shampoo { graft: Graft::Adagrad { epsilon }, ..shampoo }.into()));
        bad.push(("graft.epsilon", Shampoo { graft: Graft::RmsProp { beta2: 0.9, epsilon }, ..shampoo }.into()));
        bad.push(("graft.epsilon", Shampoo { graft: Graft::Adam { beta2: 0.9, epsilon }, ..shampoo }.into()));
    }
    refuse!(negative, EigenvalueCorrectedShampoo, learning_rate);
    refuse!(not_decay, EigenvalueCorrectedShampoo, beta1);
    refuse!(not_fraction, EigenvalueCorrectedShampoo, beta2);
    refuse!(not_positive, EigenvalueCorrectedShampoo, epsilon);
    refuse!(negative, EigenvalueCorrectedShampoo, weight_decay);
    refuse!([0], EigenvalueCorrectedShampoo, precondition_every);
    refuse!(negative, Soap, learning_rate);
    refuse!(not_decay, Soap, beta1);
    refuse!(not_decay, Soap, beta2);
    refuse!(not_decay.map(Some), Soap, statistics_decay);
    refuse!(not_positive, Soap, epsilon);
    refuse!(negative, Soap, weight_decay);
    refuse!([0], Soap, precondition_every);
    refuse!([-1e-9, 0.126, f64::NAN].map(Some), Soap, null_space_floor);
    refuse!(negative, Muon, learning_rate);
    refuse!(not_decay, Muon, momentum);
    refuse!(negative, Muon, weight_decay);
    refuse!(negative, Muon, epsilon);
    refuse!([Some(0), Some(101)], Muon, steps);
    refuse!([Some(0)], Muon, fan_out);
    refuse!([Some(0)], Muon, fan_in);
    refuse!([0], Muon, heads);
    refuse!(not_decay.map(Some), Muon, neuron_decay);
    for (name, method) in bad {
        match Optimizer::builder(ctx).group(single(method, &layer)).build() {
            Err(Error::Config { field, .. }) if field == name => {}
            Err(other) => return Err(format!("{method:?}: {other}").into()),
            Ok(_) => return Err(format!("took {method:?} with a bad `{name}`").into()),
        }
    }
    Ok(())
}

fn schedules(ctx: &Context) -> Outcome {
    use LearningRateSchedule::{Cosine, Linear, Step};
    let layer = Layer::new(ctx, 1, 3, 4, 1)?;
    let (warm_up, steps, final_fraction) = (0, 10, 0.0);
    let bad = [
        ("steps", Linear { warm_up, steps: 0, final_fraction }),
        ("steps", Cosine { warm_up, steps: 1 << 25, final_fraction }),
        ("warm_up", Linear { warm_up: 1 << 25, steps, final_fraction }),
        ("final_fraction", Linear { warm_up, steps, final_fraction: -0.1 }),
        ("final_fraction", Cosine { warm_up, steps, final_fraction: f64::NAN }),
        ("period", Step { warm_up, period: 0, factor: 0.5 }),
        ("factor", Step { warm_up, period: 5, factor: 0.0 }),
        ("factor", Step { warm_up, period: 5, factor: 1.5 }),
    ];
    for (name, schedule) in bad {
        match Optimizer::builder(ctx).group(single(Sgd::default(), &layer).schedule(schedule)).build() {
            Err(Error::Config { method: "LearningRateSchedule", field, .. }) if field == name => {}
            other => return Err(format!("{schedule:?}: {other:?}").into()),
        }
    }
    Ok(())
}

/// Groups that make no sense.
fn groups(ctx: &Context) -> Outcome {
    let (a, b) = (Layer::new(ctx, 2, 3, 4, 1)?, Layer::new(ctx, 2, 3, 4, 2)?);
    let three = Layer::new(ctx, 3, 3, 4, 2)?;
    let build = |groups: Vec<Group>| groups.into_iter().fold(Optimizer::builder(ctx), |builder, g| builder.group(g)).build();
    let sgd = || Group::new(Sgd::default());
    let half = ctx.zeros_of(a.inputs.shape(), ElementType::F16)?;
    let untapped = Parameter::new("w", &a.weight, &a.gradient);
    let config = |group: Vec<Group>, wanted: &str, says: &str| match build(group) {
        Err(error @ Error::Config { field, .. }) if field == wanted && error.to_string().contains(says) => Ok(()),
        other => Err(format!("{wanted}: {other:?}")),
    };
    config(vec![], "groups", "none")?;
    config(vec![sgd()], "parameters", "empty")?;
    config(vec![sgd().parameter(a.parameter("w")).parameter(b.parameter("w"))], "parameter", "`w` twice")?;
    config(vec![sgd().parameter(a.parameter("a")), sgd().parameter(a.parameter("b"))], "weight", "`a` and `b`")?;
    let mut part = a.clone();
    (part.weight, part.gradient) = (a.weight.items(1..2)?, a.gradient.items(1..2)?);
    config(vec![sgd().parameter(a.parameter("a")), sgd().parameter(part.parameter("b"))], "weight", "`a` and `b`")?;
    config(vec![Group::new(Kfac::default()).parameter(untapped.clone())], "parameter", "`w`")?;
    config(vec![sgd().parameter(a.parameter("w")).learning_rates(&[0.1])], "learning_rates", "1 values for 2 trials")?;
    config(vec![sgd().parameter(a.parameter("w")).learning_rates(&[0.1, -0.1])], "learning_rate", "-0.1")?;
    config(vec![sgd().parameter(a.parameter("w")).dampings(&[0.1, 0.2])], "dampings", "NaturalGradient")?;
    let kfac = || Group::new(Kfac::default());
    config(vec![kfac().parameter(a.parameter("w")).dampings(&[0.1, f64::NAN])], "damping", "NaN")?;

    let shape = |group: Group, wanted: &str| match build(vec![group]) {
        Err(Error::Shape { tensor, .. }) if tensor == wanted => Ok(()),
        other => Err(format!("{wanted}: {other:?}")),
    };
    shape(sgd().parameter(Parameter::new("w", &a.weight, &a.inputs)), "w.gradient")?;
    shape(kfac().parameter(untapped.clone().samples(&half, &a.output_gradients)), "w.inputs")?;
    shape(sgd().parameter(a.parameter("a")).parameter(three.parameter("b")), "b.weight")?;
    shape(kfac().parameter(untapped.clone().samples(&a.output_gradients, &a.output_gradients)), "w.inputs")?;
    shape(kfac().parameter(untapped.clone().samples(&a.inputs, &a.inputs)), "w.output_gradients")?;
    shape(kfac().parameter(untapped.clone().samples(&three.inputs, &a.output_gradients)), "w.inputs")?;
    let fewer = ctx.zeros(Shape::new(2, 5, 3))?;
    shape(kfac().parameter(untapped.clone().samples(&a.inputs, &fewer)), "w.output_gradients")?;
    let (left, right) = (ctx.zeros(Shape::new(2, 3, 3))?, ctx.zeros(Shape::new(2, 5, 5))?);
    shape(kfac().parameter(untapped.clone().factors(&right, &right)), "w.left")?;
    shape(kfac().parameter(untapped.clone().factors(&left, &left)), "w.right")?;
    optimizer(ctx, kfac().parameter(untapped.factors(&left, &right)))?;

    let elsewhere = Layer::new(&Context::cpu(), 2, 3, 4, 1)?;
    for foreign in [elsewhere.parameter("w"), Parameter::new("w", &a.weight, &elsewhere.gradient)] {
        match build(vec![sgd().parameter(foreign)]) {
            Err(Error::ForeignContext { .. }) => {}
            other => return Err(format!("foreign: {other:?}").into()),
        }
    }
    Ok(())
}

/// Nothing changes where a call is refused.
fn refused_rates(ctx: &Context) -> Outcome {
    let layer = Layer::new(ctx, 2, 3, 4, 1)?;
    let mut optimizer = optimizer(ctx, single(Sgd { learning_rate: 0.5, ..Sgd::default() }, &layer))?;
    let bad: [(usize, &[f64]); 5] = [(1, &[0.1]), (0, &[0.1, 0.1, 0.1]), (0, &[]), (0, &[f64::NAN]), (0, &[0.1, -1.0])];
    for (group, rates) in bad {
        let refused = matches!(optimizer.set_learning_rate(group, rates), Err(Error::Config { .. }));
        ensure(refused, || format!("took {rates:?} for group {group}"))?;
    }
    optimizer.step()?;
    let health = optimizer.health_blocking()?;
    ensure(health.parameters[0].trials.iter().all(|t| t.learning_rate == 0.5), || health.to_string())
}

/// The documented defaults, which are other people's: a change must be seen.
fn defaults() -> Outcome {
    let (sgd, adam, adamw, kfac) = (Sgd::default(), Adam::default(), AdamW::default(), Kfac::default());
    ensure((sgd.learning_rate, sgd.momentum, sgd.dampening, sgd.weight_decay) == (1e-3, 0.0, 0.0, 0.0), || format!("{sgd:?}"))?;
    ensure((adam.learning_rate, adam.beta1, adam.beta2, adam.epsilon) == (1e-3, 0.9, 0.999, 1e-8), || format!("{adam:?}"))?;
    ensure((adam.weight_decay, adamw.weight_decay) == (0.0, 0.01), || format!("{adamw:?}"))?;
    ensure((adamw.learning_rate, adamw.beta1, adamw.beta2, adamw.epsilon) == (1e-3, 0.9, 0.999, 1e-8), || format!("{adamw:?}"))?;
    let kfac_pytorch = (kfac.learning_rate, kfac.damping, kfac.decay, kfac.kl_clip) == (0.1, 1e-3, 0.95, Some(1e-3));
    ensure(kfac_pytorch && (kfac.statistics_every, kfac.precondition_every, kfac.start_step) == (1, 1, 0), || format!("{kfac:?}"))?;
    let muon = Muon::default();
    let keller = (muon.learning_rate, muon.momentum, muon.weight_decay, muon.epsilon, muon.nesterov) == (0.02, 0.95, 0.0, 1e-7, true);
    ensure(keller, || format!("{muon:?}"))
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::config::fields", fields),
        case("optimizers::config::schedules", schedules),
        case("optimizers::config::groups", groups),
        case("optimizers::config::refused_rates", refused_rates),
        case_host("optimizers::config::defaults", defaults),
    ]
}
