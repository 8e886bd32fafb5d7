//! The ladder of product kernels: the choice among them, its table, the measurement and the check. That each variant is right, `kernels` tests.

use std::cell::Cell;
use std::time::Duration;

use layerwise::gpu::choice::{candidates, gemm};
use layerwise::gpu::{Facts, GemmShape, GemmTable, GemmVariant, ShapeClass, disagreement, scratch_bytes};
use layerwise::plan::{Gemm, KronFactor};
use layerwise::{Bindings, Context, Recorder, Shape};

use crate::case::{Case, Outcome, case_cpu, case_gpu, case_host};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_host("ladder::choice", choice),
        case_host("ladder::split_choice", split_choice),
        case_host("ladder::split_scratch", split_scratch),
        case_host("ladder::wide", wide),
        case_host("ladder::table", table),
        case_host("ladder::names", names),
        case_host("ladder::table_as_text", text),
        case_host("ladder::disagreement", disagreements),
        #[cfg(feature = "serde")]
        case_host("ladder::table_as_json", json),
        case_gpu("ladder::check_refuses_nothing", check),
        case_gpu("ladder::tune", tune),
        case_gpu("ladder::split_is_in_the_memory_report", split_memory),
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
    Facts { software: true, subgroups: true, subgroup_lanes: 8, ..Facts::webgpu_defaults() }
}

/// What each kind of device takes for each shape; every choice can run there.
fn choice() -> Outcome {
    use GemmVariant::{Broadcast, BroadcastFlat, Register, Skinny, Small, SplitK, Tile32, Tile64, Tile128};
    let gl = Facts { software: true, ..Facts::webgpu_defaults() };
    let wide = Facts { subgroups: true, subgroup_lanes: 32, ..Facts::webgpu_defaults() };
    let expected: [(Facts, [GemmVariant; 9]); 4] = [
        (Facts::webgpu_defaults(), [Small, Small, Small, Skinny, Tile64, Tile64, SplitK, Tile64, Tile128]),
        (wide, [Small, Small, Small, Skinny, Tile64, Tile64, SplitK, Tile64, Tile128]),
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

/// Two stages where the inner side is long and fewer than 16 tiles of 64 x 64 cover the result, on no software driver, whatever the operands' type.
fn split_choice() -> Outcome {
    let real = Facts { cooperative_side: 16, subgroup_lanes: 32, workgroup_bytes: 32768, ..Facts::webgpu_defaults() };
    for ((m, k, n), split) in [
        ((64, 2048, 64), true),
        ((64, 2047, 64), false),
        ((8, 4096, 8), true),
        ((1, 1 << 20, 1), true),
        ((192, 3000, 256), true),
        ((256, 3000, 256), false),
        ((960, 8192, 64), true),
        ((961, 8192, 64), false),
    ] {
        for element in [layerwise::ElementType::F32, layerwise::ElementType::F16] {
            let shape = GemmShape { a: element, b: element, ..GemmShape::f32(m, k, n) };
            let found = gemm(shape, &real).variant;
            ensure((found == GemmVariant::SplitK) == split, || format!("{shape:?}: {found}"))?;
            let soft = gemm(shape, &lavapipe()).variant;
            ensure(soft != GemmVariant::SplitK, || format!("{shape:?} on a software driver"))?;
            let refused = Facts { gemm: GemmTable { refused: [GemmVariant::SplitK].into(), ..GemmTable::default() }, ..real.clone() };
            ensure(gemm(shape, &refused).variant != GemmVariant::SplitK, || "refused, and chosen".into())?;
        }
    }
    // One item's partial products must fit.
    ensure(!GemmVariant::SplitK.fits(GemmShape::f32(4096, 64, 4096), &real), || "more than the scratch".into())
}

/// A plan of one product or one factor with a column of ones.
fn long_plan(batch: usize, m: usize, k: usize, ones: bool) -> Result<layerwise::Plan, libtest_mimic::Failed> {
    let mut r = Recorder::new();
    let x = r.external("x", Shape::new(batch, k, m))?;
    let side = m + usize::from(ones);
    let out = r.external("out", Shape::new(batch, side, side))?;
    r.record(KronFactor { ones, ..KronFactor::new(x, out) })?;
    Ok(r.finish())
}

/// Scratch by item shape, bounded by 16 MiB, and two dispatches for each part of the stack that goes through it.
fn split_scratch() -> Outcome {
    let (real, soft) = (Facts::webgpu_defaults(), lavapipe());
    for (batch, m, k, ones, words, dispatches) in [
        (1, 64, 2048, false, 4 * 64 * 64, 2),
        (3, 64, 8192, false, 3 * 16 * 64 * 64, 2),
        (3, 63, 8192, true, 3 * 16 * 64 * 64, 2),
        (1, 64, 1 << 20, false, 16 * 64 * 64, 2),
        (65, 64, 8192, true, 62 * 16 * 65 * 65, 4),
        (64, 64, 1024, true, 0, 1),
    ] {
        let plan = long_plan(batch, m, k, ones)?;
        let (bytes, count) = (scratch_bytes(&plan, &real), layerwise::gpu::count(&plan, &real));
        ensure(bytes == 4 * words && (count.dispatches, count.waves) == (dispatches, dispatches), || {
            format!("{batch} x ({k} x {m}), ones {ones}: {bytes} bytes, {count:?}")
        })?;
        ensure(bytes <= 16 << 20 && scratch_bytes(&plan, &soft) == 0, || format!("{bytes} bytes"))?;
    }
    Ok(())
}

/// What an optimizer says that it holds counts partial products in.
fn split_memory(context: &Context) -> Outcome {
    use layerwise::optim::{Group, Kfac, Optimizer, Parameter};
    let scratch = |variant: GemmVariant| -> Result<u64, libtest_mimic::Failed> {
        let context = context.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() })?;
        let [w, g] = [context.zeros(Shape::matrix(5, 8))?, context.zeros(Shape::matrix(5, 8))?];
        let [inputs, outputs] = [context.zeros(Shape::matrix(100, 8))?, context.zeros(Shape::matrix(100, 5))?];
        let builder = Optimizer::builder(&context)
            .group(Group::new(Kfac::default()).parameter(Parameter::new("w", &w, &g).samples(&inputs, &outputs)));
        let planned = builder.memory()?;
        let optimizer = builder.build()?;
        let plan = optimizer.plan();
        let extra = scratch_bytes(plan, context.facts().ok_or("no facts")?);
        ensure(optimizer.memory() == planned && planned.scratch == plan.scratch_bytes() + extra, || format!("{planned:?}"))?;
        Ok(extra)
    };
    let (without, with) = (scratch(GemmVariant::Tile64)?, scratch(GemmVariant::SplitK)?);
    ensure(without == 0 && with > 0, || format!("{without}, {with}"))
}

/// Four elements at once only where every address is a whole four.
fn wide() -> Outcome {
    use layerwise::gpu::choice::widened;
    use layerwise::gpu::{Params, ViewParams};
    let large = |flags| GemmVariant::Tile128.rung(GemmShape::f32(8, 8, 8), &Facts::webgpu_defaults(), flags).variant;
    let view = ViewParams { offset: 8, item: 4800, row: 60, col: 1, div: 2, modulo: 3, rows: 80, cols: 60 };
    let taken = |a: ViewParams, b: ViewParams, flags: u16| {
        let mut params = Params::default();
        params.views[..2].copy_from_slice(&[a, b]);
        let found = widened(large(flags), &params);
        found.kernel == "gemm_wide" && found.flags == flags
    };
    let transposed = ViewParams { row: 1, col: 80, ..view };
    let broadcast = ViewParams { row: 0, ..view };
    let alone = ViewParams { item: 3, modulo: 1, ..view };
    for good in [view, transposed, broadcast, alone] {
        ensure(taken(good, view, 0) && taken(view, good, 4 | 128), || format!("{good:?} was not taken"))?;
        ensure(!taken(good, view, 1) && !taken(good, view, 2), || "f16 operands were taken".into())?;
    }
    for bad in [
        ViewParams { offset: 9, ..view },
        ViewParams { item: 4801, ..view },
        ViewParams { row: 61, ..view },
        ViewParams { col: 2, ..view },
        ViewParams { cols: 59, ..view },
        ViewParams { rows: 81, ..transposed },
        ViewParams { col: 81, ..transposed },
        ViewParams { offset: 2, ..transposed },
    ] {
        ensure(!taken(bad, view, 0) && !taken(view, bad, 0), || format!("{bad:?} was taken"))?;
    }
    let mut params = Params::default();
    params.views[..2].copy_from_slice(&[view, view]);
    let other = GemmVariant::Tile64.rung(GemmShape::f32(8, 8, 8), &Facts::webgpu_defaults(), 0).variant;
    ensure(widened(other, &params) == other, || "another kernel was replaced".into())
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

/// Tables as text come back; what is no table is refused by the name of the part.
fn text() -> Outcome {
    let class = |m, k, n| ShapeClass::of(GemmShape::f32(m, k, n));
    let tuned: std::collections::BTreeMap<_, _> =
        [(class(64, 4096, 64), GemmVariant::SplitK), (class(100, 1, 7), GemmVariant::Tile64)].into();
    let refused: std::collections::BTreeSet<_> = [GemmVariant::Register, GemmVariant::Tile128].into();
    for (table, want) in [
        (GemmTable::default(), ""),
        (GemmTable { forced: Some(GemmVariant::Cooperative), ..GemmTable::default() }, "forced cooperative"),
        (GemmTable { tuned: tuned.clone(), ..GemmTable::default() }, "tuned 6x12x6 split_k, 7x0x3 tile64"),
        (
            GemmTable { forced: Some(GemmVariant::Small), refused, tuned },
            "forced small; refused tile128, register; tuned 6x12x6 split_k, 7x0x3 tile64",
        ),
    ] {
        ensure(table.to_string() == want, || format!("{table}, expected {want}"))?;
        ensure(want.parse::<GemmTable>()? == table, || format!("{want} is read as {:?}", want.parse::<GemmTable>()))?;
    }
    let all = GemmTable { refused: GemmVariant::ALL.into(), ..GemmTable::default() };
    ensure(all.to_string().parse::<GemmTable>()? == all, || all.to_string())?;
    for (wrong, field) in [
        ("forced", "forced"),
        ("forced tile65", "forced"),
        ("forced small, small", "forced"),
        ("refused ", "refused"),
        ("refused small,", "refused"),
        ("tuned 6x12 small", "tuned"),
        ("tuned 6x12x64 small", "tuned"),
        ("tuned 6x12x-1 small", "tuned"),
        ("tuned 1x2x3x4 small", "tuned"),
        ("tuned 6xAx6x6 small", "tuned"),
        ("tuned 6x12x6", "tuned"),
        ("fastest small", "table"),
        ("forced small; forced small", "table"),
        ("forced small;", "table"),
        (";", "table"),
    ] {
        let found = wrong.parse::<GemmTable>();
        let named = matches!(&found, Err(layerwise::Error::Config { field: f, .. }) if *f == field);
        ensure(named, || format!("`{wrong}`: {found:?}"))?;
    }
    Ok(())
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
