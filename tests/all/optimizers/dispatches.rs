//! What a step is to the driver: dispatches, waves, and joint dispatches that change no bit.

use layerwise::optim::{
    Adam, AdamW, EigenvalueCorrectedShampoo, Graft, Group, Kfac, Method, Muon, Optimizer, Parameter, Sgd, Shampoo, Soap, WeightDecay,
};
use layerwise::{Context, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{ensure, fill, same, state};
use crate::case::{Case, Outcome, case, case_gpu};

/// Every shape that a network has, none twice in a row.
const MIXED: [(usize, usize); 12] =
    [(64, 49), (1, 64), (32, 64), (64, 49), (1, 1), (17, 31), (5, 300), (300, 5), (128, 64), (3, 3), (1, 7), (257, 1)];

/// Weights and gradients, each role in one buffer, or each tensor in its own.
fn tensors(ctx: &Context, trials: usize, shapes: &[(usize, usize)], arenas: bool) -> Result<[Vec<Tensor>; 2], Failed> {
    let shapes: Vec<Shape> = shapes.iter().map(|&(m, n)| Shape::new(trials, m, n)).collect();
    let make = |seed: u64| {
        let list = if arenas { ctx.arena(&shapes)? } else { shapes.iter().map(|&s| ctx.zeros(s)).collect::<Result<_, _>>()? };
        list.iter().zip(0..).try_for_each(|(tensor, i)| fill(tensor, seed + 10 * i, 3))?;
        Ok::<Vec<Tensor>, Failed>(list)
    };
    Ok([make(1)?, make(2)?])
}

fn group(method: impl Into<Method>, [weights, gradients]: &[Vec<Tensor>; 2]) -> Group {
    let layers = weights.iter().zip(gradients).enumerate();
    layers.fold(Group::new(method), |group, (i, (w, g))| group.parameter(Parameter::new(format!("p{i}"), w, g)))
}

fn build(ctx: &Context, group: Group) -> Result<Optimizer, Failed> {
    Ok(Optimizer::builder(ctx).group(group).build()?)
}

/// Dispatches of the next step.
fn count(optimizer: &Optimizer) -> Result<usize, Failed> {
    Ok(optimizer.next_dispatches().ok_or("no counts")?.dispatches)
}

/// The bound is 25.
fn muon(ctx: &Context) -> Outcome {
    let optimizer = build(ctx, group(Muon::default(), &tensors(ctx, 1, &[(64, 64); 64], true)?))?;
    let found = optimizer.next_dispatches().ok_or("no counts")?;
    ensure(found.dispatches <= 22 && found.waves <= 22, || format!("Muon on 64 layers of 64 x 64: {found:?}\n{}", optimizer.plan()))
}

/// The update of any list of tensors is one dispatch, and so are the check of the gradients and the clock.
fn elementwise(ctx: &Context) -> Outcome {
    let methods: [Method; 4] = [
        Sgd::default().into(),
        Sgd { momentum: 0.9, ..Sgd::default() }.into(),
        Adam { amsgrad: true, ..Adam::default() }.into(),
        AdamW::default().into(),
    ];
    for method in methods {
        for shapes in [&MIXED[..1], &MIXED[..], &MIXED.repeat(30)] {
            let mut optimizer = build(ctx, group(method, &tensors(ctx, 2, shapes, true)?))?;
            let found = optimizer.next_dispatches().ok_or("no counts")?;
            ensure((found.dispatches, found.waves) == (3, 3), || format!("{method:?} on {} tensors: {found:?}", shapes.len()))?;
            optimizer.step()?;
        }
        // Nothing in common: an update each.
        let optimizer = build(ctx, group(method, &tensors(ctx, 2, &MIXED, false)?))?;
        let found = optimizer.next_dispatches().ok_or("no counts")?;
        ensure((found.dispatches, found.waves) == (3 * MIXED.len(), 3), || format!("{method:?} on apart tensors: {found:?}"))?;
    }
    Ok(())
}

/// A loss scale and a decay of the gradient are one more dispatch each, whatever the number of tensors.
fn shaped(ctx: &Context) -> Outcome {
    for shapes in [&MIXED[..1], &MIXED[..], &MIXED.repeat(9)] {
        let group = group(AdamW::default(), &tensors(ctx, 1, shapes, true)?).weight_decay(WeightDecay::L2(0.1));
        let mut optimizer = Optimizer::builder(ctx).group(group).loss_scale(1024.0).build()?;
        let found = optimizer.next_dispatches().ok_or("no counts")?;
        ensure((found.dispatches, found.waves) == (5, 5), || format!("{} tensors: {found:?}", shapes.len()))?;
        optimizer.step()?;
    }
    Ok(())
}

/// Tensors of one arena step as they would alone: weights, state, health; also where one gradient is refused.
fn joint_is_alone(ctx: &Context) -> Outcome {
    let methods: [Method; 3] = [
        Sgd { momentum: 0.9, weight_decay: 0.1, ..Sgd::default() }.into(),
        Adam { amsgrad: true, weight_decay: 0.1, ..Adam::default() }.into(),
        AdamW { nesterov: true, ..AdamW::default() }.into(),
    ];
    for method in methods {
        let sets = [tensors(ctx, 3, &MIXED, true)?, tensors(ctx, 3, &MIXED, false)?];
        let decorate = |g: Group| g.average(0.5).weight_decay(WeightDecay::L2(0.01)).learning_rates(&[0.1, 0.01, 0.03]);
        let mut optimizers = Vec::new();
        for set in &sets {
            optimizers.push(Optimizer::builder(ctx).group(decorate(group(method, set))).accumulate_gradients(2).build()?);
        }
        for step in 0..6 {
            for (set, optimizer) in sets.iter().zip(&mut optimizers) {
                for (i, gradient) in set[1].iter().enumerate() {
                    fill(gradient, 40 + i as u64, step)?;
                }
                if step == 3 {
                    // The second trial of one parameter.
                    let size = set[1][5].shape().elements() / 3;
                    let mut values = set[1][5].read()?;
                    values[size] = f32::NAN;
                    set[1][5].write(&values)?;
                }
                optimizer.step()?;
            }
        }
        let [joint, alone] = [&optimizers[0], &optimizers[1]];
        for (i, (a, b)) in sets[0][0].iter().zip(&sets[1][0]).enumerate() {
            same(&format!("{method:?} weight {i}"), &a.read()?, &b.read()?)?;
        }
        let names: Vec<String> = alone.state().map(|(name, _)| name.to_owned()).collect();
        ensure(joint.state().map(|s| s.0).eq(names.iter().map(String::as_str)), || "states of other names".into())?;
        for name in names {
            same(&format!("{method:?} {name}"), &state(joint, &name)?, &state(alone, &name)?)?;
        }
        let (a, b) = (joint.health_blocking()?, alone.health_blocking()?);
        ensure(format!("{a:?}") == format!("{b:?}"), || format!("{method:?}: {a:?}\nalone {b:?}"))?;
        ensure(a.parameters[5].trials[1].skipped == 1 && a.parameters[5].trials[0].skipped == 0, || format!("{:?}", a.parameters[5]))?;
    }
    Ok(())
}

/// A step's apply and bookkeeping on one stack; the bound of each is what it is.
fn preconditioned(ctx: &Context) -> Outcome {
    let adam = Graft::Adam { beta2: 0.99, epsilon: 1e-8 };
    let table: [(&str, Method, usize); 6] = [
        // The bound for the apply alone.
        ("Shampoo with graft", Shampoo { graft: adam, beta1: 0.0, ..Shampoo::default() }.into(), 5),
        ("Shampoo with filter and graft", Shampoo { graft: adam, beta1: 0.9, momentum: 0.9, ..Shampoo::default() }.into(), 6),
        ("Shampoo with SGD's graft", Shampoo { graft: Graft::Sgd, ..Shampoo::default() }.into(), 5),
        ("Soap", Soap::default().into(), 8),
        ("EigenvalueCorrectedShampoo", EigenvalueCorrectedShampoo::default().into(), 9),
        ("Kfac", Kfac::default().into(), 8),
    ];
    for (name, method, bound) in table {
        let set = tensors(ctx, 1, &[(24, 24); 4], true)?;
        let [inputs, outputs] = tensors(ctx, 1, &[(16, 24); 4], true)?;
        let layer = |i: usize| Parameter::new(format!("p{i}"), &set[0][i], &set[1][i]).samples(&inputs[i], &outputs[i]);
        let optimizer = build(ctx, (0..4).map(layer).fold(Group::new(method), Group::parameter))?;
        let segment = optimizer.plan().segments().iter().find(|s| s.name == "apply").ok_or("no apply")?.ops.clone();
        let facts = ctx.facts().ok_or("no facts")?;
        let found: usize = optimizer.plan().ops()[segment].iter().map(|op| layerwise::gpu::dispatches(op, facts)).sum();
        ensure(found <= bound, || format!("{name} applies in {found} dispatches, not {bound}\n{}", optimizer.plan()))?;
    }
    Ok(())
}

/// A step is one submission, whatever is in it.
fn counts_of_a_step(ctx: &Context) -> Outcome {
    let set = tensors(ctx, 1, &MIXED, true)?;
    let matrices = [set[0][..1].to_vec(), set[1][..1].to_vec()];
    let rest = [set[0][1..].to_vec(), set[1][1..].to_vec()];
    let named = |g: Group, prefix: &str, set: &[Vec<Tensor>; 2]| {
        let layers = set[0].iter().zip(&set[1]).enumerate();
        layers.fold(g, |g, (i, (w, d))| g.parameter(Parameter::new(format!("{prefix}{i}"), w, d)))
    };
    let builder = Optimizer::builder(ctx).group(named(Group::new(Muon::default()), "m", &matrices));
    let mut optimizer = builder.group(named(Group::new(AdamW::default()), "a", &rest)).build()?;
    let alone = count(&build(ctx, group(Muon::default(), &matrices))?)?;
    let found = count(&optimizer)?;
    ensure(found == alone + 3, || format!("{found} dispatches, {alone} without the vectors"))?;
    optimizer.set_learning_rate(1, &[0.5])?;
    let changed = count(&optimizer)?;
    // Before the copy has been recorded the rates wait for their encoder, and are counted.
    ensure(changed > found, || format!("{changed} dispatches with a new rate, {found} without"))?;
    optimizer.step()?;
    ensure(count(&optimizer)? == found, || "the rate is still counted".into())
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_gpu("optimizers::dispatches::muon", muon),
        case_gpu("optimizers::dispatches::elementwise", elementwise),
        case_gpu("optimizers::dispatches::shaped", shaped),
        case("optimizers::dispatches::joint_is_alone", joint_is_alone),
        case_gpu("optimizers::dispatches::preconditioned", preconditioned),
        case_gpu("optimizers::dispatches::of_a_step", counts_of_a_step),
    ]
}
