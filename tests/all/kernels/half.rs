//! `gemm` of two f16 operands at sizes where cooperative matrices serve it, on devices that have them.

use layerwise::plan::Gemm;
use layerwise::{Coef, Context};

use super::Row;
use super::gemm::{Terms, expected, product};
use super::stage::{Layout, Stage, about};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::Mat;

pub(super) const ROWS: &[Row] = &[
    ("gemm", "half_tiles", tiles),
    ("gemm", "half_views", views),
    ("gemm", "half_epilogue", epilogue),
    ("gemm", "half_symmetric", symmetric),
    ("gemm", "half_gate", gate),
    ("gemm", "half_alone_equals_batch", alone),
];

/// Where the device multiplies f16 fragments into f32, this shape is served by them; where the caller demands such a device, it is one.
#[cfg(feature = "gpu")]
fn served(context: &Context, m: usize, n: usize) -> Outcome {
    use layerwise::ElementType::F16;
    let Some(facts) = context.facts() else { return Ok(()) };
    let has = facts.cooperative_side > 0;
    if !has && std::env::var("LAYERWISE_COOPERATIVE").is_ok_and(|v| v == "1") {
        return Err(format!("LAYERWISE_COOPERATIVE=1, and {} has no cooperative matrices that we can use", context.describe()).into());
    }
    let shape = layerwise::gpu::GemmShape { m, k: 100, n, a: F16, b: F16 };
    let kernel = layerwise::gpu::choice::gemm(shape, facts).variant.rung(shape, facts, 0).variant.kernel;
    let worth = m.min(n) >= 2 * facts.cooperative_side as usize;
    if (kernel == "gemm_coop") == (has && worth) { Ok(()) } else { Err(format!("{m} x {n} is served by {kernel}").into()) }
}

#[cfg(not(feature = "gpu"))]
fn served(_: &Context, _: usize, _: usize) -> Outcome {
    Ok(())
}

/// (m, k, n): one fragment, tiles of every variant, their neighbours, every remainder of the inner side, tall, wide.
const PRODUCTS: [(usize, usize, usize); 14] = [
    (16, 16, 16),
    (17, 1, 31),
    (32, 32, 32),
    (33, 31, 32),
    (64, 64, 64),
    (65, 33, 63),
    (48, 17, 300),
    (300, 5, 49),
    (97, 67, 100),
    (128, 96, 128),
    (127, 130, 129),
    (130, 300, 70),
    (16, 2000, 19),
    (257, 40, 131),
];

fn tiles(context: &Context) -> Outcome {
    for (i, &(m, k, n)) in PRODUCTS.iter().enumerate() {
        served(context, m, n)?;
        product(context, i, super::batch(i), (m, k, n), [Layout::Half, Layout::Half, Layout::Dense])?;
    }
    // Below: the plain kernel with f16 operands.
    served(context, 3, 200)
}

fn views(context: &Context) -> Outcome {
    use Layout::{Dense, Half, HalfInside, HalfInsideTransposed, HalfTransposed, Inside, InsideTransposed, Transposed};
    let outputs = [Dense, Transposed, Inside, InsideTransposed];
    for (i, &shape) in [(65, 33, 63), (40, 67, 97), (33, 30, 34)].iter().enumerate() {
        for (j, a) in [Half, HalfTransposed, HalfInside, HalfInsideTransposed].into_iter().enumerate() {
            for b in [Half, HalfTransposed, HalfInside, HalfInsideTransposed] {
                product(context, i, 3, shape, [a, b, outputs[(i + j) % 4]])?;
            }
        }
    }
    Ok(())
}

fn epilogue(context: &Context) -> Outcome {
    for (i, (m, k, n)) in [(64, 64, 64), (65, 33, 63), (130, 20, 131)].into_iter().enumerate() {
        for (in_place, layout) in [(false, Layout::Dense), (false, Layout::InsideTransposed), (true, Layout::Dense), (true, Layout::Inside)]
        {
            let mut s = Stage::new(context, i);
            let a = s.operand("a", [3, m, k], Layout::HalfTransposed)?;
            let b = s.operand("b", [3, k, n], Layout::Half)?;
            let d = s.operand("d", [3, m, n], layout)?;
            let block = s.operand("block", [3, 1, 4], Layout::Dense)?;
            let out = if in_place { s.updated("out", &d.items, layout)? } else { s.output("out", [3, m, n], layout)? };
            s.recorder.record(Gemm {
                d: Some(if in_place { out.view } else { d.view }),
                alpha: Coef::Const(-0.5),
                beta: Coef::Column { column: 1, scale: 2.0 },
                gamma: Coef::column(3),
                block: Some(block.view),
                ..Gemm::new(a.view, b.view, out.view)
            })?;
            let items = (0..3).map(|i| {
                let row = &block.items[i].data;
                expected(&a.items[i], &b.items[i], Some(&d.items[i]), &Terms { alpha: -0.5, beta: 2.0 * row[1], gamma: row[3] })
            });
            let (want, size): (Vec<_>, Vec<_>) = items.unzip();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, n, in_place, layout))?;
        }
    }
    Ok(())
}

/// Results that are known to be symmetric: exactly so, and nothing above the diagonal of what is updated is read.
fn symmetric(context: &Context) -> Outcome {
    use Layout::{Dense, Half, HalfInside, HalfInsideTransposed, Inside, InsideTransposed};
    for (i, (m, k)) in [(16, 40), (33, 7), (64, 64), (65, 31), (97, 33), (130, 70), (260, 20)].into_iter().enumerate() {
        served(context, m, m)?;
        for (from, to) in [(Half, Dense), (HalfInside, Inside), (HalfInsideTransposed, InsideTransposed)] {
            let mut s = Stage::new(context, i);
            let x = s.operand("x", [2, m, k], from)?;
            let entry = |r: usize, c: usize| if c > r { f64::NAN } else { ((3 * r + c) % 7) as f64 - 3.0 };
            let out = s.updated("out", &[Mat::from_fn(m, m, entry), Mat::from_fn(m, m, entry)], to)?;
            let (alpha, beta, gamma) = (Coef::Const(0.5), Coef::Const(-2.0), Coef::Const(0.25));
            s.recorder.record(Gemm { d: Some(out.view), alpha, beta, gamma, ..Gemm::symmetric(x.view, x.view.t(), out.view) })?;
            let lower = Mat::from_fn(m, m, |r, c| entry(r.max(c), r.min(c)));
            let terms = Terms { alpha: 0.5, beta: -2.0, gamma: 0.25 };
            let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| expected(x, &x.t(), Some(&lower), &terms)).unzip();
            let results = s.run(1)?;
            about(results.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, from, to))?;
            let found = results.items(&out)?;
            let mirrored = |i: usize| i / (m * m) * m * m + i % m * m + i / m % m;
            if let Some(i) = (0..found.len()).find(|&i| found[i].to_bits() != found[mirrored(i)].to_bits()) {
                return Err(format!("{m} x {k}, {from:?}: {} against {}", found[i], found[mirrored(i)]).into());
            }
        }
    }
    Ok(())
}

/// A closed item keeps what it had.
fn gate(context: &Context) -> Outcome {
    let (m, n, shut) = (70, 66, Mat::from_fn(70, 66, |r, c| (r * 66 + c) as f64));
    let mut s = Stage::new(context, 8);
    let a = s.operand("a", [3, m, 20], Layout::Half)?;
    let b = s.operand("b", [3, 20, n], Layout::Half)?;
    let gates = [1.0, 0.0, -2.0].map(|g| Mat::from_fn(1, 4, |_, c| if c == 2 { g } else { f64::NAN }));
    let block = s.given("block", 3, &gates, Layout::Inside)?;
    let out = s.updated("out", &[shut.clone(), shut.clone(), shut.clone()], Layout::Inside)?;
    s.recorder.record(Gemm { block: Some(block.view), gate: Some(2), ..Gemm::new(a.view, b.view, out.view) })?;
    let plain = Terms { alpha: 1.0, beta: 0.0, gamma: 0.0 };
    let items = (0..3).map(|i| if i == 1 { (shut.clone(), Mat::zeros(m, n)) } else { expected(&a.items[i], &b.items[i], None, &plain) });
    let (want, size): (Vec<_>, Vec<_>) = items.unzip();
    s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(20))
}

/// The bits of an item do not depend on how many others there are.
fn alone(context: &Context) -> Outcome {
    let items = |count: usize| -> Result<Vec<f32>, libtest_mimic::Failed> {
        let mut s = Stage::new(context, 5);
        let a = s.operand("a", [6, 65, 100], Layout::Half)?;
        let b = s.operand("b", [1, 100, 64], Layout::Half)?;
        let out = s.output("out", [count, 65, 64], Layout::Dense)?;
        s.recorder.record(Gemm::new(a.view.item_range(0..count)?, b.view.repeat(1, 1)?, out.view))?;
        s.run(1)?.items(&out)
    };
    let (one, six) = (items(1)?, items(6)?);
    if one.iter().zip(&six).all(|(a, b)| a.to_bits() == b.to_bits()) { Ok(()) } else { Err("item 0 differs".into()) }
}
