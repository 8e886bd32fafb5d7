//! Single operations: `cargo bench --bench kernels`. See `rig` for the devices, sizes and printed lines.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;

use criterion::Criterion;
use layerwise::Plan;
use layerwise::plan::block::WIDTH;
use layerwise::plan::{
    AdamUpdate, Axpby, CheckFinite, ColumnMean, DecayForm, Distribution, Gemm, KronFactor, OperatorNorm, RandomFill, Reduce, ReduceKind,
    SgdUpdate,
};
use rig::Bound;
use rig::operands::{half_product, plan_of, product};

fn main() {
    let mut criterion = rig::criterion();
    for device in rig::devices() {
        // Long: only when asked for by name.
        #[cfg(feature = "gpu")]
        if std::env::args().any(|a| a == "ladder") {
            ladder(&device);
            continue;
        }
        let mut run = |title: &str, bound: Bound, plans: Vec<(String, Plan)>| {
            let mut group = Criterion::benchmark_group(&mut criterion, title);
            for (id, plan) in plans {
                device.bench(&mut group, title, &id, &plan, bound);
            }
        };
        run("gemm", Bound::Flops, products(product));
        run("gemm f16", Bound::Flops, products(half_product));
        run("gram", Bound::Flops, grams());
        run("kron_factor", Bound::Flops, factors());
        run("operator_norm", Bound::Flops, norms());
        run("random_fill", Bound::Bytes, draws());
        run("axpby", Bound::Bytes, copies());
        run("reduce", Bound::Bytes, reductions());
        run("update", Bound::Bytes, updates());
    }
    criterion.final_summary();
}

/// Every variant of the products that a shape fits, side by side, in GFLOP/s: one line a shape in tabs, `ladder`, operands, shape, then the variants in the order of
/// the line that begins with `ladder\toperands`. The built-in choice (or what `LAYERWISE_GEMM` forces) bears a star; the last column is its part of the ceiling.
#[cfg(feature = "gpu")]
fn ladder(device: &rig::Device) {
    use layerwise::ElementType::{F16, F32};
    use layerwise::gpu::{GemmShape, GemmTable, GemmVariant, choice};
    let Some(facts) = device.context.facts() else { return };
    let names: Vec<&str> = GemmVariant::ALL.iter().map(|v| v.name()).collect();
    println!("ladder\toperands\tshape\t{}\tof the ceiling", names.join("\t"));
    for element in [F32, F16] {
        for (batch, m, k, n) in shapes() {
            let plan = if element == F32 { product(batch, m, k, n) } else { half_product(batch, m, k, n) };
            let shape = GemmShape { a: element, b: element, ..GemmShape::f32(m, k, n) };
            let (chosen, bindings) = (choice::gemm(shape, facts).variant, rig::operands::bindings(&device.context, &plan));
            let mut part = f64::NAN;
            let mut cell = |variant: GemmVariant| {
                if !variant.fits(shape, facts) {
                    return "-".to_owned();
                }
                let forced = device.context.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() });
                let mut prepared = forced.and_then(|c| c.prepare(&plan, &bindings)).expect("the variant fits");
                let wall = rig::glance(true, |runs| rig::time(&device.context, &mut prepared, &[0], runs));
                let best = device.gpu_time(&mut prepared, &[0]).map_or(wall, |gpu| gpu.min(wall));
                let (fraction, rate) = device.rate(plan.cost(None).flops, best);
                if variant == chosen {
                    part = fraction;
                }
                let digits = if rate < 10.0 { 3 } else { usize::from(rate < 1000.0) };
                format!("{rate:.digits$}{}", if variant == chosen { "*" } else { "" })
            };
            let cells: Vec<String> = GemmVariant::ALL.into_iter().map(&mut cell).collect();
            println!("ladder\t{element}\t{batch}x({m}x{k}x{n})\t{}\t{:.1} %", cells.join("\t"), 100.0 * part);
        }
    }
}

/// The side of the large operands of operations that are bound by bandwidth.
fn wide() -> usize {
    rig::largest().min(2048)
}

/// Plans of [`shapes`].
fn products(plan: fn(usize, usize, usize, usize) -> Plan) -> Vec<(String, Plan)> {
    shapes().map(|(batch, m, k, n)| (format!("{batch}x({m}x{k}x{n})"), plan(batch, m, k, n))).collect()
}

/// Square, batched small, skinny, of a long inner side, and the linear-representation study's shapes: 9 data items, 4 learning rates. Batch, m, k, n.
fn shapes() -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let squares = [64, 128, 256, 512, 1024, 2048, 4096, 8192].map(|n| (1, n, n, n));
    let small = [(1024, 8, 8, 8), (256, 32, 32, 32), (64, 64, 64, 64), (16, 128, 128, 128)];
    let skinny = [1, 4, 8].into_iter().flat_map(|thin| [(1, wide(), wide(), thin), (1, thin, wide(), wide())]);
    let tall = [(1, 64, 4096, 64), (1, 64, 8192, 64), (8, 32, 16384, 32), (1, 256, 4096, 256), (1, wide(), 64, wide()), (1, 1024, 100, 8)];
    let study = [(9, 1024, 100, 100), (9, 32, 100, 1024), (9, 32, 1024, 100), (36, 15, 8, 1024), (36, 15, 1024, 8)];
    let shapes = squares.into_iter().chain(small).chain(skinny).chain(tall).chain(study);
    shapes.filter(|&(_, m, k, n)| m.min(k).min(n) <= rig::largest() && m * k.max(n) <= 1 << 26)
}

/// `A A^T`, known to be symmetric.
fn grams() -> Vec<(String, Plan)> {
    let plan = |batch, m, k| {
        plan_of(|r| {
            let (a, out) = (r.value("a", [batch, m, k]), r.value("out", [batch, m, m]));
            Gemm { symmetric: true, ..Gemm::new(a, a.t(), out) }
        })
    };
    let shapes = [(1, 512, 512), (1, 1024, 1024), (1, 2048, 2048), (64, 64, 64), (1, 64, 4096), (1, 128, 784)];
    shapes.into_iter().filter(|&(_, m, _)| m <= rig::largest()).map(|(b, m, k)| (format!("{b}x({m}x{k})"), plan(b, m, k))).collect()
}

fn copies() -> Vec<(String, Plan)> {
    let plan = |shape: [usize; 3]| {
        plan_of(|r| Axpby { alpha: 0.5.into(), y: Some(r.value("y", shape)), ..Axpby::copy(r.value("x", shape), r.value("out", shape)) })
    };
    [[64, 64, 64], [1, wide(), wide()]].into_iter().map(|s| (format!("{}x({}x{})", s[0], s[1], s[2]), plan(s))).collect()
}

fn factors() -> Vec<(String, Plan)> {
    let plan = |batch, n, q| plan_of(|r| KronFactor::new(r.value("x", [batch, n, q]), r.value("out", [batch, q, q])));
    [(9, 1024, 100), (36, 1024, 8), (64, 64, 64), (1, 256, 256), (1, 1024, 512)]
        .into_iter()
        .map(|(batch, n, q)| (format!("{batch}x({n}x{q})"), plan(batch, n, q)))
        .collect()
}

fn norms() -> Vec<(String, Plan)> {
    let plan = |shape: [usize; 3]| plan_of(|r| OperatorNorm { x: r.value("x", shape), out: r.value("out", [shape[0], 1, 1]) });
    [[36, 8, 100], [64, 48, 48]].into_iter().map(|s| (format!("{}x({}x{})", s[0], s[1], s[2]), plan(s))).collect()
}

fn draws() -> Vec<(String, Plan)> {
    let plan = |distribution, shape: [usize; 3]| {
        plan_of(|r| RandomFill {
            out: r.value("out", shape),
            distribution,
            stream: 0,
            keys: r.value("keys", [shape[0], 1, 2]),
            step: r.value("step", [shape[0], 1, 1]),
        })
    };
    [Distribution::Rademacher, Distribution::Normal, Distribution::Uniform]
        .into_iter()
        .map(|d| (format!("{d:?} 3x(1024x100)").to_lowercase(), plan(d, [3, 1024, 100])))
        .collect()
}

fn reductions() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for shape @ [batch, m, n] in [[64, 64, 64], [1, wide(), wide()]] {
        let name = |what: &str| format!("{what} {batch}x({m}x{n})");
        let scalar = [batch, 1, 1];
        for kind in [ReduceKind::SumSq, ReduceKind::MaxAbs] {
            let plan = plan_of(|r| Reduce { kind, x: r.value("x", shape), y: None, out: r.value("out", scalar), scale: 1.0 });
            plans.push((name(&format!("{kind:?}").to_lowercase()), plan));
        }
        let dot = plan_of(|r| {
            let (x, y, out) = (r.value("x", shape), r.value("y", shape), r.value("out", scalar));
            Reduce { kind: ReduceKind::Dot, x, y: Some(y), out, scale: 1.0 }
        });
        let mean = plan_of(|r| ColumnMean { x: r.value("x", shape), y: None, out: r.value("out", [batch, 1, n]) });
        let check = plan_of(|r| CheckFinite { x: r.value("x", shape), flag: r.value("flag", scalar) });
        plans.extend([(name("dot"), dot), (name("column_mean"), mean), (name("check_finite"), check)]);
    }
    plans
}

fn updates() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for shape @ [batch, m, n] in [[64, 64, 64], [1, wide(), wide()]] {
        let name = |what: &str| format!("{what} {batch}x({m}x{n})");
        let rows = [batch, 1, WIDTH];
        let sgd = plan_of(|r| {
            let (w, g, m, block) = (r.value("w", shape), r.value("g", shape), r.value("m_w", shape), r.value("block", rows));
            SgdUpdate { w, g, m: Some(m), g_scale: None, nesterov: false, decay: DecayForm::Gradient, block }
        });
        let adam = plan_of(|r| {
            let (w, g, m, v) = (r.value("w", shape), r.value("g", shape), r.value("m_w", shape), r.value("v_w", shape));
            AdamUpdate { w, g, m, v, v_max: None, nesterov: false, decay: DecayForm::Decoupled, block: r.value("block", rows) }
        });
        plans.extend([(name("sgd momentum"), sgd), (name("adamw"), adam)]);
    }
    plans
}
