//! `random_fill`.

use layerwise::plan::{Distribution, RandomFill};
use layerwise::rng::Philox;
use layerwise::{Bindings, Context, Recorder, Shape};
use libtest_mimic::Failed;

use super::Row;
use crate::case::Outcome;
use crate::compare::{Tol, close};
use crate::oracle::philox;

pub(super) const ROWS: &[Row] = &[
    ("random_fill", "uniform", |context| sizes(context, Distribution::Uniform)),
    ("random_fill", "normal", |context| sizes(context, Distribution::Normal)),
    ("random_fill", "rademacher", |context| sizes(context, Distribution::Rademacher)),
    ("random_fill", "shared_keys_and_steps", shared),
    ("random_fill", "keys_in_a_column", keys_in_a_column),
    ("random_fill", "many_items", many_items),
    ("random_fill", "normals_of_two_devices", two_devices),
];

struct Draw {
    items: usize,
    rows: usize,
    cols: usize,
    distribution: Distribution,
    stream: u32,
}

fn bits(word: u32) -> f32 {
    f32::from_bits(word)
}

/// The key of an item: ordinary words, and ones whose bit patterns are NaN or infinity as f32.
fn key(item: usize) -> [u32; 2] {
    let item = u32::try_from(item).unwrap_or(0);
    [[7, 0x7FC0_1234, 0xFFFF_FFFF][item as usize % 3], item ^ 0x7F80_0000]
}

fn draw(context: &Context, d: &Draw, steps: &[f32]) -> Result<Vec<f32>, Failed> {
    let mut r = Recorder::new();
    let shape = Shape::new(d.items, d.rows, d.cols);
    let out = r.external("out", shape)?;
    let keys = r.external("keys", Shape::new(d.items, 1, 2))?;
    let step = r.external("step", Shape::new(steps.len(), 1, 1))?;
    let step_view = if steps.len() == d.items { step } else { step.repeat(1, steps.len())? };
    r.record(RandomFill { out, distribution: d.distribution, stream: d.stream, keys, step: step_view })?;
    let target = context.zeros(shape)?;
    let key_values: Vec<f32> = (0..d.items).flat_map(key).map(bits).collect();
    let mut bindings = Bindings::new();
    bindings.bind(out, &target);
    bindings.bind(keys, &context.upload(Shape::new(d.items, 1, 2), &key_values)?);
    bindings.bind(step, &context.upload(Shape::new(steps.len(), 1, 1), steps)?);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    Ok(target.read()?)
}

/// The documented layout, in f64.
fn expected(d: &Draw, item: usize, step: u32) -> Vec<f64> {
    let word = |block: usize, word: usize| philox(key(item), [u32::try_from(block).unwrap_or(0), step, d.stream, 0])[word];
    let element = |e: usize| match d.distribution {
        Distribution::Uniform => (f64::from(word(e / 4, e % 4) >> 9) + 0.5) / 2f64.powi(23),
        Distribution::Rademacher => f64::from((word(e / 128, e / 32 % 4) >> (e % 32)) & 1) * 2.0 - 1.0,
        Distribution::Normal => {
            let v = (word(e / 4, e % 4 / 2 * 2) >> 1).max(1);
            let u = f64::from(if v < 1 << 24 { v } else { v >> 7 << 7 }) / 2f64.powi(31);
            let turns = (f64::from(word(e / 4, e % 4 / 2 * 2 + 1) >> 6) + 0.5) / 2f64.powi(26);
            let (sin, cos) = (std::f64::consts::TAU * turns).sin_cos();
            (-2.0 * u.ln()).sqrt() * if e.is_multiple_of(2) { cos } else { sin }
        }
    };
    (0..d.rows * d.cols).map(element).collect()
}

fn check(context: &Context, d: &Draw, steps: &[u16]) -> Outcome {
    let as_f32: Vec<f32> = steps.iter().map(|&s| f32::from(s)).collect();
    let want: Vec<f64> = (0..d.items).flat_map(|b| expected(d, b, u32::from(steps[b % steps.len()]))).collect();
    // Our polynomials err by less than 1e-6 where |z| < 4, and by 3 units in the last place of r beyond.
    let tol = if d.distribution == Distribution::Normal { Tol { absolute: 1e-6, relative: 1.5e-7 } } else { Tol::EXACT };
    close(&draw(context, d, &as_f32)?, &want, tol).map_err(|e| format!("{} x {} x {}: {e}", d.items, d.rows, d.cols))?;
    Ok(())
}

fn sizes(context: &Context, distribution: Distribution) -> Outcome {
    let shapes =
        [(1, 1, 1), (3, 1, 3), (2, 7, 9), (3, 16, 16), (1, 127, 1), (2, 1, 129), (3, 31, 67), (1, 8191, 1), (1, 8193, 1), (2, 300, 101)];
    for (i, &(items, rows, cols)) in shapes.iter().enumerate() {
        let d = Draw { items, rows, cols, distribution, stream: u32::try_from(i).unwrap_or(0) * 1_000_003 };
        let steps: Vec<u16> = (0..items).map(|b| u16::try_from(b * 1000 + i).unwrap_or(0)).collect();
        check(context, &d, &steps)?;
    }
    Ok(())
}

fn shared(context: &Context) -> Outcome {
    check(context, &Draw { items: 6, rows: 5, cols: 31, distribution: Distribution::Uniform, stream: 3 }, &[4, 9])?;
    check(context, &Draw { items: 6, rows: 5, cols: 31, distribution: Distribution::Rademacher, stream: 3 }, &[65_535])
}

fn many_items(context: &Context) -> Outcome {
    check(context, &Draw { items: 70_000, rows: 1, cols: 5, distribution: Distribution::Uniform, stream: 0 }, &[1])
}

/// Device and host agree to 1e-6, over enough draws to meet the tails.
fn two_devices(context: &Context) -> Outcome {
    let d = Draw { items: 4, rows: 1000, cols: 250, distribution: Distribution::Normal, stream: 2 };
    let mut want = vec![0.0; 1_000_000];
    for (item, out) in want.chunks_mut(250_000).enumerate() {
        Philox { key: key(item) }.fill(d.distribution, 77, d.stream, out);
    }
    let want: Vec<f64> = want.into_iter().map(f64::from).collect();
    close(&draw(context, &d, &[77.0])?, &want, Tol::absolute(1e-6))?;
    Ok(())
}

/// Keys read as a transposed column of a larger table give the numbers of the same keys in a row.
fn keys_in_a_column(context: &Context) -> Outcome {
    let d = Draw { items: 1, rows: 3, cols: 5, distribution: Distribution::Normal, stream: 2 };
    let mut r = Recorder::new();
    let (out, table) = (r.external("out", Shape::matrix(3, 5))?, r.external("keys", Shape::matrix(2, 3))?);
    let step = r.external("step", Shape::matrix(1, 1))?;
    r.record(RandomFill { out, distribution: d.distribution, stream: d.stream, keys: table.col_range(1..2)?.t(), step })?;
    let [first, second] = key(0);
    let words = [9, first, 9, 9, second, 9].map(bits);
    let target = context.zeros(Shape::matrix(3, 5))?;
    let mut bindings = Bindings::new();
    bindings.bind(out, &target).bind(table, &context.upload(Shape::matrix(2, 3), &words)?);
    bindings.bind(step, &context.upload(Shape::matrix(1, 1), &[4.0])?);
    context.prepare(&r.finish(), &bindings)?.run(&[0])?;
    if target.read()? != draw(context, &d, &[4.0])? {
        return Err("keys in a column draw other numbers".into());
    }
    Ok(())
}
