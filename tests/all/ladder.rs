//! The ladder of product kernels: the choice among them, its table, the measurement and the check. That each variant is right, `kernels` tests.

use std::cell::Cell;
use std::time::Duration;

use layerwise::gpu::choice::{candidates, gemm};
use layerwise::gpu::{Facts, GemmShape, GemmTable, GemmVariant, ShapeClass, disagreement};
use layerwise::plan::Gemm;
use layerwise::{Bindings, Context, Recorder, Shape};

use crate::case::{Case, Outcome, case_cpu, case_gpu, case_host};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_host("ladder::choice", choice),
        case_host("ladder::table", table),
        case_host("ladder::names", names),
        case_host("ladder::disagreement", disagreements),
        #[cfg(feature = "serde")]
        case_host("ladder::table_as_json", json),
        case_gpu("ladder::check_refuses_nothing", check),
        case_gpu("ladder::tune", tune),
        case_gpu("ladder::tensors_serve_both_tables", shared_tensors),
        case_cpu("ladder::cpu_has_none", cpu),
    ]
}

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

const SHAPES: [(usize, usize, usize); 9] =
    [(1, 1, 1), (8, 1024, 8), (16, 16, 16), (17, 3, 5), (64, 64, 64), (100, 1024, 100), (1, 4096, 300), (512, 512, 512), (4096, 64, 2000)];

fn lavapipe() -> Facts {
    Facts { software: true, subgroups: true, subgroup_sizes: Some((8, 8)), ..Facts::webgpu_defaults() }
}

/// What each kind of device takes for each shape; every choice can run there.
fn choice() -> Outcome {
    use GemmVariant::{Broadcast, BroadcastFlat, Register, Skinny, Small, Tile32, Tile64, Tile128};
    let gl = Facts { software: true, ..Facts::webgpu_defaults() };
    let wide = Facts { subgroups: true, subgroup_sizes: Some((32, 32)), ..Facts::webgpu_defaults() };
    let expected: [(Facts, [GemmVariant; 9]); 4] = [
        (Facts::webgpu_defaults(), [Small, Small, Small, Skinny, Tile64, Tile64, Skinny, Tile64, Tile128]),
        (wide, [Small, Small, Small, Skinny, Tile64, Tile64, Skinny, Tile64, Tile128]),
        (gl, [Register; 9]),
        (lavapipe(), [BroadcastFlat, BroadcastFlat, Broadcast, BroadcastFlat, Broadcast, Broadcast, BroadcastFlat, Broadcast, Broadcast]),
    ];
    for (facts, wanted) in expected {
        for ((m, k, n), want) in SHAPES.into_iter().zip(wanted) {
            let shape = GemmShape::f32(m, k, n);
            let found = gemm(shape, &facts).variant;
            ensure(found == want, || format!("{m} x {k} x {n}, {facts:?}: {found}, expected {want}"))?;
            let list = candidates(shape, &facts);
            ensure((2..=4).contains(&list.len()), || format!("{} candidates", list.len()))?;
            ensure(list.iter().all(|c| c.variant.fits(shape, &facts)), || format!("{list:?} on {facts:?}"))?;
            ensure(list.iter().any(|c| matches!(c.variant, Tile32 | Tile64)), || "no portable candidate".into())?;
        }
    }
    Ok(())
}

/// Forced before tuned before built-in; refused never; what does not fit is passed over.
fn table() -> Outcome {
    use GemmVariant::{Broadcast, Register, Small, Tile32, Tile64, Tile128};
    let shape = GemmShape::f32(100, 70, 120);
    let with = |table: GemmTable| gemm(shape, &Facts { gemm: table, ..lavapipe() }).variant;
    let refused = [Broadcast].into();
    let tuned: std::collections::BTreeMap<_, _> = [(ShapeClass::of(shape), Tile32)].into();
    let all = GemmVariant::ALL.into_iter().collect();
    let seen = [
        with(GemmTable::default()),
        with(GemmTable { forced: Some(Tile128), tuned: tuned.clone(), ..GemmTable::default() }),
        with(GemmTable { forced: Some(Small), ..GemmTable::default() }),
        with(GemmTable { tuned: tuned.clone(), ..GemmTable::default() }),
        with(GemmTable { tuned, refused: [Tile32].into(), ..GemmTable::default() }),
        with(GemmTable { refused, ..GemmTable::default() }),
        with(GemmTable { refused: all, ..GemmTable::default() }),
    ];
    ensure(seen == [Broadcast, Tile128, Broadcast, Tile32, Broadcast, Register, Tile64], || format!("{seen:?}"))?;
    let (a, b) = (ShapeClass::of(shape), ShapeClass::of(GemmShape::f32(65, 128, 128)));
    ensure(a == b && a != ShapeClass::of(GemmShape::f32(64, 128, 128)), || format!("{a:?}, {b:?}"))
}

fn names() -> Outcome {
    for variant in GemmVariant::ALL {
        ensure(variant.to_string().parse::<GemmVariant>()? == variant, || variant.to_string())?;
    }
    let refused = "tile65".parse::<GemmVariant>();
    ensure(refused.as_ref().is_err_and(|e| e.to_string().contains("tile65") && e.to_string().contains("tile64")), || format!("{refused:?}"))
}

/// The comparator of the check sees a wrong element, a missing one and a NaN.
fn disagreements() -> Outcome {
    let right = [0.5, -1.0, 8.0];
    ensure(disagreement(&right, &right, 1).is_none(), || "equal".into())?;
    ensure(disagreement(&[0.5, -1.0, 8.0 + 1e-5], &right, 40).is_none(), || "rounding".into())?;
    for (wrong, k) in [([0.5, -1.0, 8.001], 40), ([0.5, f32::NAN, 8.0], 40), ([0.5, -1.0, 8.0 + 1e-5], 1), ([0.5, 1.0, 8.0], 1000)] {
        ensure(disagreement(&wrong, &right, k).is_some(), || format!("{wrong:?} passed"))?;
    }
    ensure(disagreement(&right[..2], &right, 40).is_some(), || "a missing element passed".into())
}

#[cfg(feature = "serde")]
fn json() -> Outcome {
    let tuned = SHAPES.iter().map(|&(m, k, n)| (ShapeClass::of(GemmShape::f32(m, k, n)), GemmVariant::Skinny)).collect();
    let table = GemmTable { forced: None, refused: [GemmVariant::Register, GemmVariant::Tile128].into(), tuned };
    let text = serde_json::to_string(&table)?;
    ensure(text.contains("\"tile128\"") && text.contains("\"skinny\""), || text.clone())?;
    ensure(serde_json::from_str::<GemmTable>(&text)? == table, || text)?;
    ensure(serde_json::from_str::<GemmTable>("{}")? == GemmTable::default(), || "an empty object".into())
}

/// On this driver every variant agrees with the portable one.
fn check(context: &Context) -> Outcome {
    let table = context.check_gemm_blocking()?;
    ensure(table == GemmTable::default(), || format!("{table:?}"))
}

/// The shortest time wins, by whatever clock; what was refused before stays so.
fn tune(context: &Context) -> Outcome {
    let shapes = [GemmShape::f32(40, 30, 50), GemmShape::f32(3, 500, 9)];
    let facts = context.facts().ok_or("no facts")?;
    let refused = GemmTable { refused: [candidates(shapes[0], facts)[0].variant].into(), ..GemmTable::default() };
    let context = context.with_gemm_table(refused.clone())?;
    // A clock that runs slower and slower: later candidates look faster.
    let (calls, time) = (Cell::new(0u32), Cell::new(Duration::ZERO));
    let clock = || {
        calls.set(calls.get() + 1);
        time.set(time.get() + Duration::from_millis(10_000 / u64::from(calls.get())));
        time.get()
    };
    let table = context.tune_blocking(&shapes, clock)?;
    ensure(table.refused == refused.refused && table.forced.is_none(), || format!("{table:?}"))?;
    let context = context.with_gemm_table(table)?;
    let facts = context.facts().ok_or("no facts")?;
    for shape in shapes {
        let usable: Vec<_> = candidates(shape, facts).into_iter().filter(|c| !refused.refused.contains(&c.variant)).collect();
        let (chosen, last) = (gemm(shape, facts), usable.last().map(|c| c.variant));
        ensure(Some(chosen.variant) == last, || format!("{shape:?}: {chosen:?} of {usable:?}"))?;
    }
    Ok(())
}

/// A tensor of one table's context is bound in a plan of another's.
fn shared_tensors(context: &Context) -> Outcome {
    let other = context.with_gemm_table(GemmTable { forced: Some(GemmVariant::Tile32), ..GemmTable::default() })?;
    let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
    let shape = Shape::matrix(3, 3);
    let (x, out) = (r.external("x", shape)?, r.external("out", shape)?);
    r.record(Gemm::new(x, x, out))?;
    let result = other.zeros(shape)?;
    bindings.bind(x, &context.upload(shape, &[1.0; 9])?);
    bindings.bind(out, &result);
    other.prepare(&r.finish(), &bindings)?.run(&[0])?;
    ensure(result.read()? == [3.0; 9], || "the product is wrong".into())
}

fn cpu(context: &Context) -> Outcome {
    let refused = context.with_gemm_table(GemmTable::default());
    ensure(refused.as_ref().is_err_and(|e| e.to_string().contains("with_gemm_table")), || format!("{refused:?}"))
}
