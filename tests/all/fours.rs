//! Kernels that take four neighbours at a time serve where shapes and starts allow it, and nowhere else. That both give the same bits, `kernels` tests.

use layerwise::gpu::{GemmShape, GemmTable, GemmVariant};
use layerwise::plan::{AdamUpdate, Axpby, CheckFinite, DecayForm, Gemm, Momentum, MomentumForm, Op, SgdUpdate, block};
use layerwise::{Bindings, Coef, Context, Recorder, Shape, Value};

use crate::case::{Case, Outcome, case_gpu};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_gpu("fours::products_by_broadcast", by_broadcast),
        case_gpu("fours::products_in_large_tiles", in_large_tiles),
        case_gpu("fours::element_wise", element_wise),
    ]
}

type Text = Result<String, libtest_mimic::Failed>;

/// The kernel that one operation over tensors of these shapes gets, each so many elements behind the start of its buffer.
fn kernel(context: &Context, tensors: &[(Shape, usize)], op: impl FnOnce(&[Value]) -> Op) -> Text {
    let (mut r, mut bindings) = (Recorder::new(), Bindings::new());
    let mut values = Vec::with_capacity(tensors.len());
    for (i, &(shape, start)) in tensors.iter().enumerate() {
        let value = r.external(format!("t{i}"), shape)?;
        let tensor = if start == 0 { context.zeros(shape)? } else { context.arena(&[Shape::matrix(1, start), shape])?.remove(1) };
        bindings.bind(value, &tensor);
        values.push(value);
    }
    r.record(op(&values))?;
    let found = context.prepare(&r.finish(), &bindings)?.kernels(0);
    match found.as_slice() {
        [one] => Ok(one.to_string()),
        _ => Err(format!("{} dispatches", found.len()).into()),
    }
}

/// The kernel of a product of this shape, its operands and result starting there.
fn product(context: &Context, (m, k, n): (usize, usize, usize), starts: [usize; 3]) -> Text {
    let shapes = [Shape::new(2, m, k), Shape::new(2, k, n), Shape::new(2, m, n)];
    let tensors: Vec<_> = shapes.into_iter().zip(starts).collect();
    kernel(context, &tensors, |v| Gemm::new(v[0], v[1], v[2]).into())
}

fn expect(found: &str, wanted: &str, what: impl std::fmt::Debug) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("{what:?}: `{found}`, not `{wanted}`").into()) }
}

fn forced(context: &Context, variant: GemmVariant) -> Result<Context, libtest_mimic::Failed> {
    Ok(context.with_gemm_table(GemmTable { forced: Some(variant), ..GemmTable::default() })?)
}

/// By the item's shape; and with one operand that starts elsewhere, or one side that is no multiple of four, by single elements.
fn by_broadcast(context: &Context) -> Outcome {
    let fits = |v: GemmVariant| context.facts().is_some_and(|facts| v.fits(GemmShape::f32(8, 8, 8), facts));
    let tall = forced(context, GemmVariant::Broadcast)?;
    if !fits(GemmVariant::Broadcast) {
        let found = product(&tall, (64, 64, 64), [0; 3])?;
        let bound_to_subgroups = ["gemm_broadcast", "gemm_quads", "gemm_resident"].iter().any(|name| found.starts_with(name));
        return if bound_to_subgroups { Err(format!("`{found}` on a device without subgroups of 8").into()) } else { Ok(()) };
    }
    for (shape, wanted) in [
        ((64, 64, 64), "gemm_resident"),
        ((100, 33, 36), "gemm_broadcast"),
        ((100, 36, 36), "gemm_resident"),
        ((64, 64, 32), "gemm_resident QUADS=1u"),
        ((12, 32, 64), "gemm_resident DEPTH=32u"),
        ((32, 16, 32), "gemm_resident DEPTH=32u QUADS=1u"),
        ((64, 12, 64), "gemm_quads QUADS=2u"),
        ((64, 68, 64), "gemm_quads QUADS=2u"),
        ((64, 68, 32), "gemm_quads"),
        ((62, 64, 64), "gemm_broadcast"),
        ((64, 62, 64), "gemm_broadcast"),
        ((64, 64, 62), "gemm_broadcast"),
        ((1, 1, 1), "gemm_broadcast"),
    ] {
        expect(&product(&tall, shape, [0; 3])?, wanted, shape)?;
        expect(&product(&tall, shape, [4, 8, 12])?, wanted, shape)?;
        for operand in 0..3 {
            for start in [1, 2, 3, 5] {
                let starts: [usize; 3] = std::array::from_fn(|i| if i == operand { start } else { 0 });
                expect(&product(&tall, shape, starts)?, "gemm_broadcast", (shape, starts))?;
            }
        }
    }
    let flat = forced(context, GemmVariant::BroadcastFlat)?;
    expect(&product(&flat, (8, 64, 64), [0; 3])?, "gemm_quads ROWS=8u QUADS=2u", "flat")?;
    expect(&product(&flat, (8, 64, 64), [0, 1, 0])?, "gemm_broadcast ROWS=8u", "flat, b at 1")
}

/// Only the operands are read by fours there; the result may start anywhere.
fn in_large_tiles(context: &Context) -> Outcome {
    let large = forced(context, GemmVariant::Tile128)?;
    for (shape, starts, wanted) in [
        ((128, 64, 128), [0, 0, 0], "gemm_wide"),
        ((128, 64, 128), [4, 8, 12], "gemm_wide"),
        ((128, 64, 128), [0, 0, 1], "gemm_wide"),
        ((128, 64, 128), [1, 0, 0], "gemm_large"),
        ((128, 64, 128), [0, 2, 0], "gemm_large"),
        ((128, 62, 128), [0, 0, 0], "gemm_large"),
        ((128, 64, 130), [0, 0, 0], "gemm_large"),
    ] {
        expect(&product(&large, shape, starts)?, wanted, (shape, starts))?;
    }
    Ok(())
}

/// An operation over tensors of one shape and a block or flag, and how many tensors.
type Tail = (&'static str, usize, fn(&[Value], Value) -> Op);

const TAILS: [Tail; 5] = [
    ("axpby", 2, |v, _| Axpby::copy(v[0], v[1]).into()),
    ("check_finite", 1, |v, flag| CheckFinite { x: v[0], flag }.into()),
    ("momentum", 3, |v, block| {
        let (decay, fresh) = (Coef::Const(0.5), Coef::Const(1.0));
        Momentum { g: v[0], m: v[1], out: Some(v[2]), form: MomentumForm::LookAhead, decay, fresh, block }.into()
    }),
    ("sgd_update", 3, |v, block| {
        SgdUpdate { w: v[0], g: v[1], m: Some(v[2]), g_scale: None, nesterov: false, decay: DecayForm::Gradient, block }.into()
    }),
    ("adam_update", 4, |v, block| {
        AdamUpdate { w: v[0], g: v[1], m: v[2], v: v[3], v_max: None, nesterov: false, decay: DecayForm::Gradient, block }.into()
    }),
];

/// With one tensor that starts elsewhere, or items of an odd number of elements, by single elements.
fn element_wise(context: &Context) -> Outcome {
    for (name, count, op) in TAILS {
        let width = if name == "check_finite" { 1 } else { block::WIDTH };
        let found = |shape: Shape, odd: Option<usize>| {
            let starts = (0..count).map(|i| (shape, if odd == Some(i) { 3 } else { 8 }));
            let tensors: Vec<_> = starts.chain([(Shape::new(2, 1, width), 0)]).collect();
            kernel(context, &tensors, |v| op(&v[..count], v[count]))
        };
        let by_fours = |text: &str| text.starts_with(name) && text.contains("QUAD=4u");
        let (whole, odd) = (Shape::new(2, 3, 8), Shape::new(2, 3, 5));
        let text = found(whole, None)?;
        if !by_fours(&text) {
            return Err(format!("{name} of {whole:?}: `{text}`").into());
        }
        for (shape, odd) in (0..count).map(|i| (whole, Some(i))).chain([(odd, None)]) {
            let text = found(shape, odd)?;
            if by_fours(&text) || !text.starts_with(name) {
                return Err(format!("{name} of {shape:?}, {odd:?} starting elsewhere: `{text}`").into());
            }
        }
    }
    Ok(())
}
