//! `gemm` and `kron_factor`.

use layerwise::plan::{Gemm, KronFactor};
use layerwise::{Bindings, Coef, Context, Recorder, Shape};

use super::stage::{Layout, Stage, about};
use super::{Row, SHAPES, batch};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::{Mat, data, gram, matmul};

pub(super) const ROWS: &[Row] = &[
    ("gemm", "plain", plain),
    ("gemm", "views", views),
    ("gemm", "long_inner_side", long_inner_side),
    ("gemm", "fours", fours),
    ("gemm", "many_terms", many_terms),
    ("gemm", "large_stack", large_stack),
    ("gemm", "repeats", repeats),
    ("gemm", "broadcast_rows", broadcast_rows),
    ("gemm", "half", half),
    ("gemm", "epilogue", epilogue),
    ("gemm", "symmetric", known_symmetric),
    ("gemm", "block_coefficients", block_coefficients),
    ("gemm", "gate", gated),
    ("gemm", "by_fours", by_fours),
    ("gemm", "by_fours_symmetric", by_fours_symmetric),
    ("gemm", "starts_do_not_matter", starts),
    ("gemm", "many_items", many_items),
    ("gemm", "item_alone_equals_item_in_batch", alone),
    ("gemm", "ignores_d_at_beta_zero", ignores_d),
    ("kron_factor", "fresh", fresh),
    ("kron_factor", "running_average", running_average),
    ("kron_factor", "views", factor_views),
    ("kron_factor", "broadcast_row", factor_of_a_broadcast_row),
    ("kron_factor", "gate", gate),
    ("kron_factor", "by_fours", factor_by_fours),
    ("kron_factor", "many_items", many_factors),
];

/// (m, k, n)
const PRODUCTS: [(usize, usize, usize); 15] = [
    (1, 1, 1),
    (1, 7, 31),
    (31, 1, 1),
    (1, 300, 1),
    (31, 67, 127),
    (63, 64, 65),
    (64, 64, 64),
    (65, 63, 64),
    (127, 31, 67),
    (300, 5, 3),
    (3, 5, 300),
    (2, 1000, 3),
    (130, 300, 70),
    (16, 16, 16),
    (17, 15, 4),
];

pub(super) struct Terms {
    pub(super) alpha: f64,
    pub(super) beta: f64,
    pub(super) gamma: f64,
}

/// `alpha a b + beta d + gamma I` with the sum of its absolute terms.
pub(super) fn expected(a: &Mat, b: &Mat, d: Option<&Mat>, t: &Terms) -> (Mat, Mat) {
    let zero = Mat::zeros(a.rows, b.cols);
    let (d, eye) = (d.unwrap_or(&zero), Mat::from_fn(a.rows, b.cols, |r, c| f64::from(u8::from(r == c))));
    let want = matmul(a, b).map(|x| t.alpha * x).plus(t.beta, d).plus(t.gamma, &eye);
    let product = matmul(&a.map(f64::abs), &b.map(f64::abs)).map(|x| t.alpha.abs() * x);
    (want, product.plus(t.beta.abs(), &d.map(f64::abs)).plus(t.gamma.abs(), &eye))
}

pub(super) fn product(context: &Context, seed: usize, batch: usize, (m, k, n): (usize, usize, usize), layouts: [Layout; 3]) -> Outcome {
    let mut s = Stage::new(context, seed);
    let a = s.operand("a", [batch, m, k], layouts[0])?;
    let b = s.operand("b", [batch, k, n], layouts[1])?;
    let out = s.output("out", [batch, m, n], layouts[2])?;
    s.recorder.record(Gemm::new(a.view, b.view, out.view))?;
    let terms = Terms { alpha: 1.0, beta: 0.0, gamma: 0.0 };
    let (want, size): (Vec<_>, Vec<_>) = a.items.iter().zip(&b.items).map(|(a, b)| expected(a, b, None, &terms)).unzip();
    about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k)), (batch, m, k, n, layouts))
}

fn plain(context: &Context) -> Outcome {
    (0..PRODUCTS.len()).try_for_each(|i| product(context, i, batch(i), PRODUCTS[i], [Layout::Dense; 3]))
}

fn views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Transposed};
    let layouts = [Transposed, Inside, InsideTransposed, Dense];
    for (i, &shape) in [(1, 1, 1), (5, 3, 7), (31, 67, 127), (65, 64, 63), (64, 17, 130)].iter().enumerate() {
        for a in layouts {
            for b in layouts {
                product(context, i, 3, shape, [a, b, layouts[(i + 1) % 4]])?;
            }
            product(context, i, 2, shape, [Dense, Dense, a])?;
        }
    }
    Ok(())
}

/// Few results of many products each, every remainder of a register tile.
fn long_inner_side(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Transposed};
    for (i, shape) in [(15, 1030, 8), (1, 64, 1), (5, 67, 3), (2, 300, 127), (16, 129, 16), (3, 2000, 2)].into_iter().enumerate() {
        for layouts in [[Dense, Transposed, Dense], [Inside, InsideTransposed, Transposed], [Dense, InsideTransposed, Inside]] {
            product(context, i, 3, shape, layouts)?;
        }
    }
    Ok(())
}

/// Sides of whole fours, along either of which elements may be neighbours, and some that only look like it.
fn fours(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Transposed};
    for (i, shape) in
        [(4, 4, 4), (128, 16, 128), (132, 20, 196), (64, 260, 36), (260, 64, 132), (130, 20, 136), (136, 18, 132)].into_iter().enumerate()
    {
        for layouts in [
            [Dense; 3],
            [Transposed, Transposed, Dense],
            [Dense, Transposed, Transposed],
            [Transposed, Dense, Inside],
            [Inside, InsideTransposed, Dense],
        ] {
            product(context, i, 3, shape, layouts)?;
        }
        product(context, i, 6, shape, [Layout::Repeat(3, 2), Layout::Repeat(1, 3), Dense])?;
        product(context, i, 3, shape, [Layout::Half, Dense, Dense])?;
    }
    Ok(())
}

/// Inner sides of up to sixteen runs, the last one short or whole.
fn many_terms(context: &Context) -> Outcome {
    use Layout::{Dense, Half, Inside, InsideTransposed, Transposed};
    for (i, shape) in [(33, 5000, 17), (1, 4097, 1), (70, 2100, 50), (3, 20000, 65), (64, 2048, 1)].into_iter().enumerate() {
        for layouts in [[Dense; 3], [Transposed, Inside, InsideTransposed], [Half, Half, Dense]] {
            product(context, i, 2, shape, layouts)?;
        }
    }
    Ok(())
}

/// Results that are more than one scratch of partial products: each item finds its own operands, coefficients and gate.
fn large_stack(context: &Context) -> Outcome {
    let (batch, m, k) = (40, 256, 20);
    let mut s = Stage::new(context, 3);
    let a = s.operand("a", [batch, m, k], Layout::Dense)?;
    let b = s.operand("b", [batch, k, m], Layout::Repeat(2, batch / 8))?;
    let rows: Vec<Mat> = (0..batch).map(|i| Mat::from_fn(1, 2, |_, c| [i as f64 - 20.0, f64::from(u8::from(i % 3 != 1))][c])).collect();
    let block = s.given("block", batch, &rows, Layout::Dense)?;
    let old: Vec<Mat> = (0..batch).map(|i| Mat::from_fn(m, m, |r, c| ((i + r + 3 * c) % 11) as f64 - 5.0)).collect();
    let out = s.updated("out", &old, Layout::Dense)?;
    s.recorder.record(Gemm {
        d: Some(out.view),
        alpha: Coef::column(0),
        beta: Coef::Const(0.5),
        block: Some(block.view),
        gate: Some(1),
        ..Gemm::new(a.view, b.view, out.view)
    })?;
    let item = |i: usize| {
        let terms = Terms { alpha: rows[i].data[0], beta: 0.5, gamma: 0.0 };
        if i % 3 == 1 { (old[i].clone(), Mat::zeros(m, m)) } else { expected(&a.items[i], &b.items[i], Some(&old[i]), &terms) }
    };
    let (want, size): (Vec<_>, Vec<_>) = (0..batch).map(item).unzip();
    s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k))
}

fn repeats(context: &Context) -> Outcome {
    use Layout::{Dense, InsideTransposed, Repeat};
    for (i, &shape) in [(1, 1, 1), (7, 5, 3), (33, 65, 31)].iter().enumerate() {
        // Six items: two data items of three trials, three trial items, one for all.
        for layouts in [[Repeat(3, 2), Dense], [Dense, Repeat(1, 3)], [Repeat(1, 1), Repeat(3, 2)], [Repeat(2, 3), InsideTransposed]] {
            product(context, i, 6, shape, [layouts[0], layouts[1], Dense])?;
        }
    }
    Ok(())
}

/// f16 operands in f32 arithmetic: no looser than f32 ones.
fn half(context: &Context) -> Outcome {
    use Layout::{Dense, Half, HalfTransposed, Inside};
    for (i, &shape) in PRODUCTS.iter().enumerate() {
        product(context, i, batch(i), shape, [Half, Half, Dense])?;
    }
    for layouts in [[Half, Dense], [Dense, Half], [HalfTransposed, Half], [Half, HalfTransposed], [HalfTransposed, Inside]] {
        product(context, 3, 3, (31, 35, 67), [layouts[0], layouts[1], Dense])?;
    }
    Ok(())
}

fn epilogue(context: &Context) -> Outcome {
    for (i, &(m, k, n)) in PRODUCTS.iter().enumerate() {
        for (in_place, layout) in [(false, Layout::Dense), (false, Layout::InsideTransposed), (true, Layout::Dense), (true, Layout::Inside)]
        {
            let terms = Terms { alpha: -0.5, beta: 1.75, gamma: [0.0, 3.0][i % 2] };
            let mut s = Stage::new(context, i);
            let a = s.operand("a", [3, m, k], Layout::Dense)?;
            let b = s.operand("b", [3, k, n], Layout::Dense)?;
            let d = s.operand("d", [3, m, n], layout)?;
            let out = if in_place { s.updated("out", &d.items, layout)? } else { s.output("out", [3, m, n], layout)? };
            s.recorder.record(Gemm {
                d: Some(if in_place { out.view } else { d.view }),
                alpha: Coef::Const(-0.5),
                beta: Coef::Const(1.75),
                gamma: Coef::Const([0.0, 3.0][i % 2]),
                ..Gemm::new(a.view, b.view, out.view)
            })?;
            let items = (0..3).map(|i| expected(&a.items[i], &b.items[i], Some(&d.items[i]), &terms));
            let (want, size): (Vec<_>, Vec<_>) = items.unzip();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, n, in_place, layout))?;
        }
    }
    Ok(())
}

/// Results that are known to be symmetric: exactly so, and nothing above the diagonal of `d` is read.
fn known_symmetric(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed};
    let shapes =
        [(1, 1), (1, 70), (2, 3), (7, 100), (16, 5), (31, 64), (32, 1), (33, 7), (63, 65), (64, 64), (65, 31), (129, 40), (200, 300)];
    symmetric_products(context, &shapes, &[(Dense, false), (Inside, true), (InsideTransposed, true), (InsideTransposed, false)])
}

fn symmetric_products(context: &Context, shapes: &[(usize, usize)], layouts: &[(Layout, bool)]) -> Outcome {
    for (i, &(m, k)) in shapes.iter().enumerate() {
        for &(layout, in_place) in layouts {
            let mut s = Stage::new(context, i);
            let x = s.operand("x", [2, m, k], layout)?;
            let old = |upper: f64| -> Vec<Mat> {
                let entry = |r: usize, c: usize| if c > r { upper } else { ((3 * r + c) % 7) as f64 - 3.0 };
                (0..2).map(|_| Mat::from_fn(m, m, entry)).collect()
            };
            let d = s.given("d", 2, &old(f64::NAN), layout)?;
            let out = if in_place { s.updated("out", &old(f64::NAN), layout)? } else { s.output("out", [2, m, m], layout)? };
            s.recorder.record(Gemm {
                d: Some(if in_place { out.view } else { d.view }),
                alpha: Coef::Const(0.5),
                beta: Coef::Const(-2.0),
                gamma: Coef::Const(0.25),
                ..Gemm::symmetric(x.view, x.view.t(), out.view)
            })?;
            let lower = Mat::from_fn(m, m, |r, c| ((3 * r.max(c) + r.min(c)) % 7) as f64 - 3.0);
            let terms = Terms { alpha: 0.5, beta: -2.0, gamma: 0.25 };
            let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| expected(x, &x.t(), Some(&lower), &terms)).unzip();
            let results = s.run(1)?;
            about(results.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, layout, in_place))?;
            let found = results.items(&out)?;
            let mirrored = |i: usize| i / (m * m) * m * m + i % m * m + i / m % m;
            if let Some(i) = (0..found.len()).find(|&i| found[i].to_bits() != found[mirrored(i)].to_bits()) {
                return Err(format!("{m} x {k}, {layout:?}: {} against {}", found[i], found[mirrored(i)]).into());
            }
        }
    }
    Ok(())
}

/// Closed items keep what they had, NaN in their operands or not.
fn gated(context: &Context) -> Outcome {
    for n in [5, 70] {
        let mut s = Stage::new(context, n);
        let a = s.operand("a", [3, n, n], Layout::Dense)?;
        let gates = [1.0, 0.0, -2.0];
        let block = s.given("block", 3, &gates.map(|g| Mat::from_fn(1, 4, |_, c| if c == 2 { g } else { f64::NAN })), Layout::Inside)?;
        let old: Vec<Mat> = (0..3u8).map(|b| Mat::from_fn(n, n, |r, c| f64::from(b) + (r * n + c) as f64)).collect();
        let out = s.updated("out", &old, Layout::Inside)?;
        s.recorder.record(Gemm { block: Some(block.view), gate: Some(2), ..Gemm::new(a.view, a.view.t(), out.view) })?;
        let product = |b: usize| matmul(&a.items[b], &a.items[b].t());
        let size = |b: usize| matmul(&a.items[b].map(f64::abs), &a.items[b].t().map(f64::abs));
        let want = [product(0), old[1].clone(), product(2)];
        let sizes = [size(0), Mat::zeros(n, n), size(2)];
        about(s.run(1)?.expect_within(&out, &want, &sizes, Tol::gemm(n)), n)?;
    }
    Ok(())
}

fn block_coefficients(context: &Context) -> Outcome {
    for layout in [Layout::Dense, Layout::Repeat(1, 2), Layout::Repeat(2, 2), Layout::Inside] {
        let mut s = Stage::new(context, 1);
        let a = s.operand("a", [4, 9, 33], Layout::Dense)?;
        let b = s.operand("b", [4, 33, 17], Layout::Dense)?;
        let d = s.operand("d", [4, 9, 17], Layout::Repeat(1, 1))?;
        let block = s.operand("block", [4, 1, 7], layout)?;
        let out = s.output("out", [4, 9, 17], Layout::Dense)?;
        s.recorder.record(Gemm {
            d: Some(d.view),
            alpha: Coef::column(5),
            beta: Coef::Column { column: 0, scale: -2.0 },
            gamma: Coef::Column { column: 3, scale: 0.5 },
            block: Some(block.view),
            ..Gemm::new(a.view, b.view, out.view)
        })?;
        let items = (0..4).map(|i| {
            let row = &block.items[i].data;
            expected(&a.items[i], &b.items[i], Some(&d.items[i]), &Terms { alpha: row[5], beta: -2.0 * row[0], gamma: 0.5 * row[3] })
        });
        let (want, size): (Vec<_>, Vec<_>) = items.unzip();
        about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(33)), layout)?;
    }
    Ok(())
}

/// More items than one grid dimension holds.
fn many_items(context: &Context) -> Outcome {
    product(context, 1, 70_000, (4, 4, 4), [Layout::Dense; 3])?;
    product(context, 3, 70_000, (4, 16, 4), [Layout::Dense; 3])?;
    product(context, 2, 140_000, (1, 1, 3), [Layout::Repeat(70_000, 2), Layout::Dense, Layout::Dense])
}

/// Sides, strides and starts that are multiples of four: every layout of each operand, and an added operand or an average in place.
fn by_fours(context: &Context) -> Outcome {
    use Layout::{Dense, InsideByFours, InsideByFoursTransposed, Transposed};
    let layouts = [Dense, InsideByFours, Transposed, InsideByFoursTransposed];
    for (i, &(m, k, n)) in
        [(4, 4, 4), (36, 20, 68), (64, 64, 64), (100, 12, 36), (8, 100, 132), (7, 8, 64), (40, 31, 32), (132, 63, 32), (68, 48, 100)]
            .iter()
            .enumerate()
    {
        for a in layouts {
            for b in layouts {
                product(context, i, 3, (m, k, n), [a, b, layouts[i % 4]])?;
            }
            for in_place in [false, true] {
                let mut s = Stage::new(context, i);
                let x = s.operand("a", [3, m, k], a)?;
                let y = s.operand("b", [3, k, n], layouts[(i + 1) % 4])?;
                let d = s.operand("d", [3, m, n], a)?;
                let out = if in_place { s.updated("out", &d.items, a)? } else { s.output("out", [3, m, n], a)? };
                let (alpha, beta, gamma) = (Coef::Const(-0.5), Coef::Const(1.75), Coef::Const(3.0));
                let d_view = if in_place { out.view } else { d.view };
                s.recorder.record(Gemm { d: Some(d_view), alpha, beta, gamma, ..Gemm::new(x.view, y.view, out.view) })?;
                let terms = Terms { alpha: -0.5, beta: 1.75, gamma: 3.0 };
                let items = (0..3).map(|i| expected(&x.items[i], &y.items[i], Some(&d.items[i]), &terms));
                let (want, size): (Vec<_>, Vec<_>) = items.unzip();
                about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, n, in_place, a))?;
            }
        }
    }
    Ok(())
}

fn by_fours_symmetric(context: &Context) -> Outcome {
    use Layout::{Dense, InsideByFours, InsideByFoursTransposed, Transposed};
    symmetric_products(
        context,
        &[(4, 4), (8, 20), (36, 64), (64, 12), (68, 100), (288, 8), (132, 40), (260, 64)],
        &[(Dense, false), (Dense, true), (Transposed, false), (InsideByFours, true), (InsideByFoursTransposed, true)],
    )
}

/// A tensor anywhere in a buffer: the same bits, whether it starts at a multiple of four elements or not.
fn starts(context: &Context) -> Outcome {
    let (m, k, n) = (36, 20, 68);
    let mut results = Vec::new();
    for before in [4, 1, 2, 7] {
        let mut s = Recorder::new();
        let mut bindings = Bindings::new();
        let mut tensors = Vec::new();
        for (name, seed, shape) in [("a", 1, Shape::new(3, m, k)), ("b", 2, Shape::new(3, k, n)), ("out", 3, Shape::new(3, m, n))] {
            let tensor = context.arena(&[Shape::matrix(1, before), shape])?.remove(1);
            tensor.write(&data(seed, shape.elements()))?;
            let value = s.external(name, shape)?;
            bindings.bind(value, &tensor);
            tensors.push((value, tensor));
        }
        s.record(Gemm::new(tensors[0].0, tensors[1].0, tensors[2].0))?;
        context.prepare(&s.finish(), &bindings)?.run(&[0])?;
        results.push(tensors[2].1.read()?);
    }
    let same = |other: &Vec<f32>| other.iter().zip(&results[0]).all(|(a, b)| a.to_bits() == b.to_bits());
    if results.iter().all(same) { Ok(()) } else { Err("results depend on where tensors start".into()) }
}

/// Averages of samples whose sides are multiples of four, some items behind closed gates.
fn factor_by_fours(context: &Context) -> Outcome {
    use Layout::{Dense, InsideByFours, InsideByFoursTransposed, Transposed};
    for (n, q) in [(12, 4), (8, 36), (64, 64), (20, 132)] {
        for layout in [Dense, Transposed, InsideByFours, InsideByFoursTransposed] {
            let mut s = Stage::new(context, q);
            let x = s.operand("x", [3, n, q], layout)?;
            let old: Vec<Mat> = (0..3).map(|i| Mat::from_fn(q, q, |r, c| (i + r + c) as f64 / 7.0)).collect();
            let out = s.updated("out", &old, layout)?;
            let gate = s.scalars("gate", &[1.0, 0.0, 1.0])?;
            let factor = KronFactor { decay: Coef::Const(0.75), gate: Some(gate.view), scale: 1.5, ..KronFactor::new(x.view, out.view) };
            s.recorder.record(factor)?;
            let (mut want, mut size): (Vec<_>, Vec<_>) =
                x.items.iter().zip(&out.items).map(|(x, old)| average(Some(old), x, false, 0.75, 1.5)).unzip();
            (want[1], size[1]) = (out.items[1].clone(), out.items[1].clone());
            let done = s.run(1)?;
            about(done.expect_within(&out, &want, &size, Tol::gemm(n)), (n, q, layout))?;
            about(symmetric(&done.items(&out)?, q), (n, q, layout))?;
        }
    }
    Ok(())
}

/// The bits of an item do not depend on how many others there are.
fn alone(context: &Context) -> Outcome {
    for (m, k, n) in [(5, 7, 3), (65, 130, 64), (1, 700, 40), (64, 68, 64)] {
        let items = |count: usize| -> Result<Vec<f32>, libtest_mimic::Failed> {
            let mut s = Stage::new(context, 5);
            let a = s.operand("a", [6, m, k], Layout::Dense)?;
            let b = s.operand("b", [1, k, n], Layout::Dense)?;
            let out = s.output("out", [count, m, n], Layout::Dense)?;
            s.recorder.record(Gemm::new(a.view.item_range(0..count)?, b.view.repeat(1, 1)?, out.view))?;
            s.run(1)?.items(&out)
        };
        let (one, six) = (items(1)?, items(6)?);
        if one.iter().zip(&six).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Err(format!("{m} x {k} x {n}: item 0 differs between a batch of 1 and of 6").into());
        }
    }
    Ok(())
}

/// `rows` copies of the only row of each item.
fn spread(items: &[Mat], rows: usize) -> Vec<Mat> {
    items.iter().map(|item| Mat::from_fn(rows, item.cols, |_, c| item[(0, c)])).collect()
}

/// One stored row as left operand, transposed as right operand, and as added operand of a result in either layout.
fn broadcast_rows(context: &Context) -> Outcome {
    for (m, k, n) in [(5, 3, 7), (1, 4, 1), (67, 33, 5)] {
        for out_layout in [Layout::Dense, Layout::Transposed] {
            let mut s = Stage::new(context, m);
            let a = s.operand("a", [3, 1, k], Layout::Dense)?;
            let b = s.operand("b", [3, 1, k], Layout::Inside)?;
            let d = s.operand("d", [3, 1, n], Layout::Dense)?;
            let out = s.output("out", [3, m, n], out_layout)?;
            let (left, right, added) = (a.view.broadcast_row(m)?, b.view.broadcast_row(n)?.t(), d.view.broadcast_row(m)?);
            s.recorder.record(Gemm { d: Some(added), ..Gemm::new(left, right, out.view) })?;
            let terms = Terms { alpha: 1.0, beta: 1.0, gamma: 0.0 };
            let (left, right, added) = (spread(&a.items, m), spread(&b.items, n), spread(&d.items, m));
            let items = (0..3).map(|i| expected(&left[i], &right[i].t(), Some(&added[i]), &terms));
            let (want, size): (Vec<_>, Vec<_>) = items.unzip();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(k)), (m, k, n, out_layout))?;
        }
    }
    Ok(())
}

fn ignores_d(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 1);
    let a = s.operand("a", [2, 5, 6], Layout::Dense)?;
    let b = s.operand("b", [2, 6, 7], Layout::Dense)?;
    let poison = s.given("d", 2, &vec![Mat::from_fn(5, 7, |_, _| f64::NAN); 2], Layout::Dense)?;
    let out = s.output("out", [2, 5, 7], Layout::Dense)?;
    s.recorder.record(Gemm { d: Some(poison.view), beta: Coef::Const(0.0), ..Gemm::new(a.view, b.view, out.view) })?;
    let terms = Terms { alpha: 1.0, beta: 0.0, gamma: 0.0 };
    let (want, size): (Vec<_>, Vec<_>) = a.items.iter().zip(&b.items).map(|(a, b)| expected(a, b, None, &terms)).unzip();
    s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(6))
}

/// `decay old + (1 - decay) scale x^T x / n` with the sum of its absolute terms.
fn average(old: Option<&Mat>, x: &Mat, ones: bool, decay: f64, scale: f64) -> (Mat, Mat) {
    let part = |x: &Mat, old: Option<&Mat>| {
        let new = gram(x, ones).map(|s| (1.0 - decay) * scale * s);
        old.map_or(new.clone(), |old| new.plus(decay, old))
    };
    (part(x, old), part(&x.map(f64::abs), old.map(|m| m.map(f64::abs)).as_ref()))
}

fn symmetric(items: &[f32], q: usize) -> Outcome {
    for item in items.chunks(q * q) {
        if (0..q * q).any(|i| item[i].to_bits() != item[i % q * q + i / q].to_bits()) {
            return Err("the result is not symmetric in every bit".into());
        }
    }
    Ok(())
}

fn fresh(context: &Context) -> Outcome {
    for (i, &(n, q)) in SHAPES.iter().enumerate() {
        for ones in [false, true] {
            let mut s = Stage::new(context, i);
            let x = s.operand("x", [batch(i), n, q], Layout::Dense)?;
            let side = q + usize::from(ones);
            let out = s.output("out", [batch(i), side, side], Layout::Dense)?;
            s.recorder.record(KronFactor { ones, scale: 2.5, ..KronFactor::new(x.view, out.view) })?;
            let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| average(None, x, ones, 0.0, 2.5)).unzip();
            let done = s.run(1)?;
            about(done.expect_within(&out, &want, &size, Tol::gemm(n)), (n, q, ones))?;
            about(symmetric(&done.items(&out)?, side), (n, q, ones))?;
        }
    }
    Ok(())
}

fn running_average(context: &Context) -> Outcome {
    for (n, q, ones, layout) in [
        (1, 1, false, Layout::Dense),
        (40, 65, false, Layout::Dense),
        (33, 31, true, Layout::Dense),
        (7, 64, true, Layout::Dense),
        (130, 9, false, Layout::Transposed),
        (67, 7, true, Layout::InsideTransposed),
        (20, 300, false, Layout::Dense),
        (2500, 9, true, Layout::Dense),
        (2049, 70, true, Layout::InsideTransposed),
    ] {
        for column in [false, true] {
            let mut s = Stage::new(context, n);
            let x = s.operand("x", [3, n, q], layout)?;
            let side = q + usize::from(ones);
            let old: Vec<Mat> = vec![gram(&crate::oracle::random(9, 2 * side, side), false); 3];
            let out = s.updated("out", &old, Layout::Dense)?;
            let block = s.operand("block", [3, 1, 4], Layout::Dense)?;
            let (decay, block_view) = if column { (Coef::column(2), Some(block.view)) } else { (Coef::Const(0.9), None) };
            s.recorder.record(KronFactor { ones, decay, block: block_view, ..KronFactor::new(x.view, out.view) })?;
            let decays = |i: usize| if column { block.items[i].data[2] } else { f64::from(0.9f32) };
            let items = (0..3).map(|i| {
                let once = average(Some(&out.items[i]), &x.items[i], ones, decays(i), 1.0);
                let twice = average(Some(&once.0), &x.items[i], ones, decays(i), 1.0);
                (twice.0, once.1.plus(1.0, &twice.1))
            });
            let (want, size): (Vec<_>, Vec<_>) = items.unzip();
            let done = s.run(2)?;
            about(done.expect_within(&out, &want, &size, Tol::gemm(n)), (n, q, ones, column))?;
            about(symmetric(&done.items(&out)?, side), (n, q, ones, column))?;
        }
    }
    Ok(())
}

fn factor_views(context: &Context) -> Outcome {
    use Layout::{Dense, Inside, InsideTransposed, Repeat, Transposed};
    for (x_layout, out_layout) in [(Transposed, Dense), (Inside, Inside), (InsideTransposed, Transposed), (Repeat(2, 3), InsideTransposed)]
    {
        for (n, q, ones) in [(65, 3, false), (5, 67, true), (20, 64, false)] {
            let mut s = Stage::new(context, n);
            let x = s.operand("x", [6, n, q], x_layout)?;
            let side = q + usize::from(ones);
            let out = s.output("out", [6, side, side], out_layout)?;
            s.recorder.record(KronFactor { ones, ..KronFactor::new(x.view, out.view) })?;
            let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| average(None, x, ones, 0.0, 1.0)).unzip();
            about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(n)), (n, q, ones, x_layout, out_layout))?;
        }
    }
    Ok(())
}

fn factor_of_a_broadcast_row(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 7);
    let x = s.operand("x", [2, 1, 40], Layout::Dense)?;
    let out = s.output("out", [2, 41, 41], Layout::Dense)?;
    s.recorder.record(KronFactor { ones: true, ..KronFactor::new(x.view.broadcast_row(9)?, out.view) })?;
    let (want, size): (Vec<_>, Vec<_>) = spread(&x.items, 9).iter().map(|x| average(None, x, true, 0.0, 1.0)).unzip();
    s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(9))
}

fn gate(context: &Context) -> Outcome {
    for decay in [0.0, 0.5] {
        let mut s = Stage::new(context, 4);
        let x = s.operand("x", [4, 6, 5], Layout::Dense)?;
        let old = vec![Mat::identity(5); 4];
        let out = s.updated("out", &old, Layout::Dense)?;
        let open = [1.0, 0.0, 0.0, 1.0];
        let gate = s.scalars("gate", &open)?;
        s.recorder.record(KronFactor { decay: Coef::Const(decay), gate: Some(gate.view), ..KronFactor::new(x.view, out.view) })?;
        let kept = |i: usize| open[i] == 0.0;
        let items = (0..4).map(|i| {
            if kept(i) { (old[i].clone(), old[i].clone()) } else { average(Some(&old[i]), &x.items[i], false, f64::from(decay), 1.0) }
        });
        let (want, size): (Vec<_>, Vec<_>) = items.unzip();
        about(s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(6)), decay)?;
    }
    Ok(())
}

fn many_factors(context: &Context) -> Outcome {
    let mut s = Stage::new(context, 2);
    let x = s.operand("x", [70_000, 3, 2], Layout::Dense)?;
    let out = s.output("out", [70_000, 2, 2], Layout::Dense)?;
    s.recorder.record(KronFactor::new(x.view, out.view))?;
    let (want, size): (Vec<_>, Vec<_>) = x.items.iter().map(|x| average(None, x, false, 0.0, 1.0)).unzip();
    s.run(1)?.expect_within(&out, &want, &size, Tol::gemm(3))
}
