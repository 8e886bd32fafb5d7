//! Which group takes which parameter, and shapes of any rank.

use layerwise::optim::{AdamW, Group, Muon, Optimizer, Parameter, Sgd, Takes};
use layerwise::{Context, Error, Shape, Tensor};
use libtest_mimic::Failed;

use super::rig::{ensure, fill, same};
use crate::case::{Case, Outcome, case};

fn parameter(ctx: &Context, name: &str, shape: Shape) -> Result<Parameter, Failed> {
    let (weight, gradient) = (ctx.zeros(shape)?, ctx.zeros(shape)?);
    fill(&weight, 3, 0)?;
    fill(&gradient, 4, 0)?;
    Ok(Parameter::new(name, &weight, &gradient))
}

/// The parts of a small network: embedding, convolution, matrix, head, bias, gain, scalar.
fn network(ctx: &Context) -> Result<Vec<Parameter>, Failed> {
    Ok(vec![
        parameter(ctx, "embedding", Shape::matrix(11, 6))?,
        parameter(ctx, "conv", Shape::new(1, 1, 4 * 3 * 2 * 2))?.flattened(&[4, 3, 2, 2])?,
        parameter(ctx, "hidden", Shape::matrix(5, 7))?,
        parameter(ctx, "head", Shape::matrix(3, 5))?,
        parameter(ctx, "bias", Shape::matrix(5, 1))?,
        parameter(ctx, "gain", Shape::matrix(1, 7))?.flattened(&[7])?,
        parameter(ctx, "temperature", Shape::matrix(1, 1))?.flattened(&[])?,
    ])
}

/// Matrices to Muon, vectors and what is named to `AdamW`: each moves as it does in a group of its own.
fn routes(ctx: &Context) -> Outcome {
    let (pool, alone) = (network(ctx)?, network(ctx)?);
    let takers = [
        Group::new(Muon::default()).takes(Takes::Matrices),
        Group::new(AdamW::default()).takes(Takes::Vectors),
        Group::new(Sgd { learning_rate: 0.5, ..Sgd::default() }).takes(Takes::named(["embedding", "head"])),
    ];
    let builder = takers.iter().cloned().fold(Optimizer::builder(ctx), |b, g| b.group(g));
    let mut optimizer = builder.parameters(pool.iter().cloned()).build()?;
    (0..3).try_for_each(|_| optimizer.step())?;
    for (i, (routed, alone)) in pool.iter().zip(&alone).enumerate() {
        let own: Group = match i {
            0 | 3 => Group::new(Sgd { learning_rate: 0.5, ..Sgd::default() }),
            1 | 2 => Group::new(Muon::default()),
            _ => Group::new(AdamW::default()),
        };
        let mut optimizer = Optimizer::builder(ctx).group(own.parameter(alone.clone())).build()?;
        (0..3).try_for_each(|_| optimizer.step())?;
        same(&alone.name, &routed.weight.read()?, &alone.weight.read()?)?;
    }
    ensure(optimizer.health_blocking()?.parameters.len() == 7, || "a parameter is missing".into())
}

/// A kernel of four extents is the matrix `out x rest`, in the caller's memory.
fn flattens(ctx: &Context) -> Outcome {
    let kernel = parameter(ctx, "conv", Shape::new(2, 1, 24))?;
    let (before, flat) = (kernel.weight.read()?, kernel.clone().flattened(&[4, 3, 2, 1])?);
    ensure(flat.weight.shape() == Shape::new(2, 4, 6), || flat.weight.shape().to_string())?;
    let mut optimizer = Optimizer::builder(ctx).group(Group::new(Muon::default()).parameter(flat)).build()?;
    optimizer.step()?;
    let whole: Tensor = kernel.weight.clone();
    ensure(whole.read()?.iter().zip(&before).all(|(a, b)| a != b), || "the caller's kernel did not move".into())?;
    for bad in [&[4, 3, 3][..], &[5, 5], &[], &[usize::MAX, 2], &[0]] {
        let refused = kernel.clone().flattened(bad);
        ensure(matches!(refused, Err(Error::Shape { .. })), || format!("accepted {bad:?}"))?;
    }
    Ok(())
}

/// A parameter without a group, one with two, and a name without a parameter.
fn refusals(ctx: &Context) -> Outcome {
    let group = |takes: Takes| Group::new(AdamW::default()).takes(takes);
    let attempts: [(&str, Vec<Takes>); 5] = [
        ("`bias` [1, 5, 1], taken by no group", vec![Takes::Matrices]),
        ("`embedding` [1, 11, 6], taken by groups [0, 1]", vec![Takes::Matrices, Takes::All]),
        ("`head` [1, 3, 5], taken by groups [0, 2]", vec![Takes::named(["head"]), Takes::All, Takes::named(["head"])]),
        ("`tail`, no parameter", vec![Takes::All, Takes::named(["tail"])]),
        ("taken by no group", vec![Takes::Given]),
    ];
    for (says, takes) in attempts {
        let builder = takes.into_iter().fold(Optimizer::builder(ctx), |b, t| b.group(group(t)));
        match builder.parameters(network(ctx)?).build() {
            Err(error) if error.to_string().contains(says) => {}
            Err(error) => return Err(format!("`{says}` missing in: {error}").into()),
            Ok(_) => return Err(format!("built where `{says}`").into()),
        }
    }
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("optimizers::routing::routes", routes),
        case("optimizers::routing::flattens", flattens),
        case("optimizers::routing::refusals", refusals),
    ]
}
