//! `advance`, `factor_damping`, `root_outcome`, `kl_clip`: a few numbers per item.

use layerwise::Context;
use layerwise::plan::block::{self, WIDTH};
use layerwise::plan::{Advance, Clock, FactorDamping, KlClip, NormClip, NormRatio, RootOutcome};

use super::Row;
use super::stage::{Layout, Stage, about};
use crate::case::Outcome;
use crate::compare::Tol;
use crate::oracle::Mat;

pub(super) const ROWS: &[Row] = &[
    ("advance", "schedules", schedules),
    ("advance", "refused_gradient", refused),
    ("advance", "statistics_clocks", statistics),
    ("advance", "after_the_first", after_the_first),
    ("advance", "many_items", many_clocks),
    ("factor_damping", "plain", |context| damping(context, false)),
    ("factor_damping", "split", |context| damping(context, true)),
    ("root_outcome", "ridge_and_count", outcomes),
    ("kl_clip", "factors", clips),
    ("kl_clip", "many_items", many_clips),
    ("norm_clip", "factors", norm_clips),
    ("norm_ratio", "grafted", |context| ratios(context, true)),
    ("norm_ratio", "own", |context| ratios(context, false)),
];

/// A block row with these columns set and a distinct number in every other.
pub(super) fn row(columns: &[(u32, f64)]) -> Mat {
    let mut row = Mat::from_fn(1, WIDTH, |_, c| 100.0 + c as f64);
    for &(column, value) in columns {
        row.data[column as usize] = value;
    }
    row
}

fn at(row: &mut Mat, column: u32) -> &mut f64 {
    &mut row.data[column as usize]
}

/// The factor of the learning rate before step `t`, from the documentation of the columns.
fn factor(row: &Mat, t: f64) -> f64 {
    let get = |column: u32| row.data[column as usize];
    let warmup = get(block::WARMUP_STEPS);
    if t < warmup {
        return (t + 1.0) / warmup;
    }
    let (t, end) = (t - warmup, get(block::FINAL_FRACTION));
    let progress = if get(block::DECAY_STEPS) > 0.0 { (t / get(block::DECAY_STEPS)).min(1.0) } else { 0.0 };
    let schedule = get(block::SCHEDULE);
    if schedule == 1.0 {
        1.0 + (end - 1.0) * progress
    } else if schedule == 2.0 {
        end + (1.0 - end) * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
    } else if schedule == 3.0 {
        get(block::STEP_FACTOR).powf((t / get(block::STEP_PERIOD)).floor())
    } else {
        1.0
    }
}

fn step(row: &Mat) -> Mat {
    let mut new = row.clone();
    let get = |column: u32| row.data[column as usize];
    // The rate is that of the step at hand, whether it is refused or not.
    *at(&mut new, block::CURRENT_RATE) = get(block::LEARNING_RATE) * factor(row, get(block::STEP));
    if row.data[block::FLAG as usize] != 0.0 {
        *at(&mut new, block::FLAG) = 0.0;
        *at(&mut new, block::GATE) = 0.0;
        *at(&mut new, block::SKIPPED) += 1.0;
        return new;
    }
    let t = get(block::STEP) + 1.0;
    *at(&mut new, block::GATE) = 1.0;
    *at(&mut new, block::AVERAGE) = if t == 1.0 { 0.0 } else { get(block::AVERAGE_DECAY) };
    *at(&mut new, block::STEP) = t;
    // From weight 0: the closed form, not the recurrence under test.
    *at(&mut new, block::WEIGHT1) = 1.0 - get(block::BETA1).powf(t);
    *at(&mut new, block::WEIGHT2) = 1.0 - get(block::BETA2).powf(t);
    new
}

fn fresh(schedule: f64, warmup: f64, decay: f64, beta2: f64) -> Mat {
    // As f32 rounds them: 1 - beta is exact for the beta that is stored.
    let stored = |x: f32| f64::from(x);
    let (beta1, beta2) = (stored(0.9), if beta2 == 0.0 { 0.0 } else { stored(0.999) });
    row(&[
        (block::LEARNING_RATE, stored(0.3)),
        (block::SCHEDULE, schedule),
        (block::WARMUP_STEPS, warmup),
        (block::DECAY_STEPS, decay),
        (block::FINAL_FRACTION, 0.125),
        (block::STEP_PERIOD, 7.0),
        (block::STEP_FACTOR, 0.5),
        (block::BETA1, beta1),
        (block::ONE_MINUS_BETA1, 1.0 - beta1),
        (block::BETA2, beta2),
        (block::ONE_MINUS_BETA2, 1.0 - beta2),
        (block::STEP, 0.0),
        (block::WEIGHT1, 0.0),
        (block::WEIGHT2, 0.0),
        (block::FLAG, 0.0),
    ])
}

fn advanced(context: &Context, rows: &[Mat], clock: Clock, times: usize, next: impl Fn(&Mat) -> Mat, tol: Tol) -> Outcome {
    let mut s = Stage::new(context, 1);
    let block = s.updated("block", rows, Layout::Dense)?;
    s.recorder.record(Advance { block: block.view, clock })?;
    let want: Vec<Mat> = block.items.iter().map(|row| (0..times).fold(row.clone(), |row, _| next(&row))).collect();
    about(s.run(times)?.expect(&block, &want, tol), (clock, times))
}

/// Every schedule, with and without warm-up, past its end. The cosine's argument is rounded to f32 first.
fn schedules(context: &Context) -> Outcome {
    let mut rows = vec![fresh(0.0, 0.0, 0.0, 0.0)];
    for schedule in [0.0, 1.0, 2.0, 3.0] {
        rows.extend([(0.0, 0.0), (0.0, 20.0), (5.0, 20.0), (1.0, 1.0)].map(|(warmup, decay)| fresh(schedule, warmup, decay, 0.999)));
    }
    [1, 2, 5, 6, 13, 25, 40].into_iter().try_for_each(|times| advanced(context, &rows, Clock::Step, times, step, Tol::relative(3e-6)))
}

/// A raised flag closes the gate for one step, is consumed and counted, and stops the item's clock alone.
fn refused(context: &Context) -> Outcome {
    let mut rows: Vec<Mat> = (0..5).map(|_| fresh(1.0, 2.0, 10.0, 0.999)).collect();
    for i in [1, 3] {
        *at(&mut rows[i], block::FLAG) = 1.0;
    }
    [1, 2, 3].into_iter().try_for_each(|times| advanced(context, &rows, Clock::Step, times, step, Tol::relative(1e-6)))
}

fn statistics(context: &Context) -> Outcome {
    let decay = f64::from(0.95f32);
    let item = |gate: f64, weight: f64| {
        row(&[(block::DECAY, decay), (block::GATE, gate), (block::STATISTICS_WEIGHT, weight), (block::STATISTICS_DECAY, 0.5)])
    };
    let rows = [item(1.0, 0.0), item(0.0, 0.0), item(1.0, 1.0), item(0.0, 1.0)];
    let open = |row: &Mat| row.data[block::GATE as usize] != 0.0;
    let weight = |row: &Mat| row.data[block::STATISTICS_WEIGHT as usize];
    let with = |row: &Mat, weight: f64, decay: f64| {
        let mut new = row.clone();
        *at(&mut new, block::STATISTICS_WEIGHT) = weight;
        *at(&mut new, block::STATISTICS_DECAY) = decay;
        new
    };
    let from_identity = |row: &Mat| with(row, weight(row), decay);
    let from_first = |row: &Mat| if open(row) { with(row, 1.0, if weight(row) == 0.0 { 0.0 } else { decay }) } else { row.clone() };
    let corrected = |row: &Mat| {
        let next = decay * weight(row) + 1.0;
        if open(row) { with(row, next, 1.0 - 1.0 / next) } else { row.clone() }
    };
    for times in [1, 2, 10] {
        advanced(context, &rows, Clock::StatisticsFromIdentity, times, from_identity, Tol::EXACT)?;
        advanced(context, &rows, Clock::StatisticsFromFirst, times, from_first, Tol::EXACT)?;
        // 1 - 1/w cancels while w is near 1.
        advanced(context, &rows, Clock::StatisticsBiasCorrected, times, corrected, Tol { relative: 1e-6, absolute: 2e-7 })?;
    }
    Ok(())
}

/// The first good gradient shuts the gate, moves no counter and marks the item; a refused one before it changes nothing but its own count.
fn after_the_first(context: &Context) -> Outcome {
    let mut rows: Vec<Mat> = (0..4).map(|_| fresh(1.0, 2.0, 10.0, 0.999)).collect();
    for (i, row) in rows.iter_mut().enumerate() {
        *at(row, block::STATISTICS_WEIGHT) = f64::from(u8::from(i >= 2));
        *at(row, block::FLAG) = f64::from(u8::from(i % 2 == 1));
        *at(row, block::FRESH) = 0.0;
    }
    let next = |row: &Mat| {
        let (bad, before) = (row.data[block::FLAG as usize] != 0.0, row.data[block::STATISTICS_WEIGHT as usize]);
        let mut new = step(row);
        if !bad && before == 0.0 {
            for column in [block::STEP, block::WEIGHT1, block::WEIGHT2, block::AVERAGE] {
                *at(&mut new, column) = row.data[column as usize];
            }
            *at(&mut new, block::GATE) = 0.0;
            *at(&mut new, block::STATISTICS_WEIGHT) = 1.0;
            *at(&mut new, block::FRESH) = 1.0;
        }
        *at(&mut new, block::STATISTICS_DECAY) = if bad { 1.0 } else { row.data[block::DECAY as usize] };
        new
    };
    [1, 2, 3, 5].into_iter().try_for_each(|times| advanced(context, &rows, Clock::StepAfterFirst, times, next, Tol::relative(1e-6)))
}

/// Blocks of 32 columns: 70 000 items still fit one grid dimension, so that the clocks of items beyond it need more.
fn many_clocks(context: &Context) -> Outcome {
    let rows = vec![fresh(1.0, 3.0, 10.0, 0.999); 70_000];
    advanced(context, &rows, Clock::Step, 2, step, Tol::relative(1e-6))
}

fn damping(context: &Context, split: bool) -> Outcome {
    // damping, ridge, mean trace left, mean trace right; a factor without trace has no scale.
    let items = [[0.01, 1.0, 2.0, 8.0], [0.5, 100.0, 1e-6, 3e4], [1e-3, 10.0, 0.0, 2.0], [1e-3, 1.0, 5.0, 0.0], [0.0, 1.0, 2.0, 3.0]];
    let mut s = Stage::new(context, 1);
    let rows = items.map(|i| row(&[(block::DAMPING, i[0]), (block::RIDGE, i[1] / 4.0), (block::DAMPING_SCALE, 4.0)]));
    let block = s.given("block", items.len(), &rows, Layout::Dense)?;
    let left = s.scalars("left_mean", &items.map(|i| i[2]))?;
    let right = s.scalars("right_mean", &items.map(|i| i[3]))?;
    let out = s.output("out", [items.len(), 1, 2], Layout::Inside)?;
    s.recorder.record(FactorDamping {
        left_mean: split.then_some(left.view),
        right_mean: split.then_some(right.view),
        block: block.view,
        out: out.view,
    })?;
    let want = items.map(|[damping, ridge, left, right]| {
        let total = damping * ridge;
        let pi = if left > 0.0 && right > 0.0 { (right / left).sqrt() } else { 1.0 };
        let both = if split { [total.sqrt() / pi, total.sqrt() * pi] } else { [total; 2] };
        Mat { rows: 1, cols: 2, data: both.to_vec() }
    });
    s.run(1)?.expect(&out, &want, Tol::roundings(16))
}

/// x10 up to 1e8 at a failure, /10 down to 1 at a success; nothing at all before there are statistics.
fn outcomes(context: &Context) -> Outcome {
    // left ok, right ok, carried weight, ridge, failures so far.
    let items = [
        [1.0, 1.0, 1.0, 1.0, 0.0],
        [1.0, 0.0, 1.0, 1.0, 0.0],
        [0.0, 1.0, 2.5, 100.0, 3.0],
        [0.0, 0.0, 1.0, 5e7, 1.0],
        [1.0, 1.0, 1.0, 1000.0, 7.0],
        [1.0, 1.0, 0.0, 10.0, 2.0],
        [0.0, 1.0, 0.0, 10.0, 2.0],
    ];
    let item = |weight, ridge, failed| row(&[(block::STATISTICS_WEIGHT, weight), (block::RIDGE, ridge), (block::FAILED_ROOTS, failed)]);
    let mut s = Stage::new(context, 1);
    let left = s.scalars("left_ok", &items.map(|i| i[0]))?;
    let right = s.scalars("right_ok", &items.map(|i| i[1]))?;
    let block = s.updated("block", &items.map(|i| item(i[2], i[3], i[4])), Layout::Dense)?;
    let ok = s.output("ok", [items.len(), 1, 1], Layout::Dense)?;
    s.recorder.record(RootOutcome { left_ok: left.view, right_ok: right.view, ok: ok.view, block: block.view })?;
    let done = s.run(2)?;
    let good = |i: &[f64; 5]| i[0] * i[1] != 0.0;
    let want = items.map(|i| {
        let (mut ridge, mut failed) = (i[3], i[4]);
        for _ in 0..if i[2] == 0.0 { 0 } else { 2 } {
            (ridge, failed) = if good(&i) { ((ridge / 10.0f64).max(1.0), failed) } else { ((ridge * 10.0).min(1e8), failed + 1.0) };
        }
        item(i[2], ridge, failed)
    });
    done.expect(&block, &want, Tol::roundings(8))?;
    done.expect(&ok, &items.map(|i| Mat::from_fn(1, 1, |_, _| f64::from(u8::from(good(&i) && i[2] != 0.0)))), Tol::EXACT)
}

fn clip(context: &Context, trials: &[(f64, f64)], dots: impl Fn(usize, usize) -> f64, layers: usize) -> Outcome {
    [false, true].into_iter().try_for_each(|signed| clip_form(context, trials, &dots, layers, signed))
}

fn clip_form(context: &Context, trials: &[(f64, f64)], dots: impl Fn(usize, usize) -> f64, layers: usize, signed: bool) -> Outcome {
    let mut s = Stage::new(context, 1);
    let values: Vec<f64> = (0..layers * trials.len()).map(|i| dots(i / trials.len(), i % trials.len())).collect();
    let dots = s.scalars("dots", &values)?;
    let rows: Vec<Mat> = trials.iter().map(|&(rate, clip)| row(&[(block::CURRENT_RATE, rate), (block::KL_CLIP, clip)])).collect();
    let block = s.given("block", trials.len(), &rows, Layout::Dense)?;
    let out = s.output("out", [trials.len(), 1, 1], Layout::Dense)?;
    s.recorder.record(KlClip { dots: dots.view, block: block.view, out: out.view, signed })?;
    let want = trials.iter().enumerate().map(|(t, &(rate, clip))| {
        let sum: f64 = (0..layers).map(|l| dots.items[l * trials.len() + t].data[0]).sum();
        let quadratic = (rate * rate * sum).abs();
        let factor = if !quadratic.is_finite() {
            0.0
        } else if clip == 0.0 || quadratic == 0.0 || (signed && sum < 0.0) {
            1.0
        } else {
            (clip / quadratic).sqrt().min(1.0)
        };
        Mat::from_fn(1, 1, |_, _| factor)
    });
    about(s.run(1)?.expect(&out, &want.collect::<Vec<_>>(), Tol::roundings(32)), (trials.len(), layers))
}

/// Clipped, not clipped, negative sum, zero sum, clip off, NaN in one layer, infinity.
fn clips(context: &Context) -> Outcome {
    let trials = [(0.5, 1e-3), (0.01, 1e-3), (0.5, 1e-3), (0.5, 1e-3), (0.5, 0.0), (0.5, 1e-3), (0.5, 1e-3), (0.5, 0.0)];
    let dots = |layer: usize, trial: usize| match trial {
        2 => -3.0 - layer as f64,
        3 => 0.0,
        5 if layer == 1 => f64::NAN,
        6 if layer == 0 => f64::INFINITY,
        7 if layer == 0 => f64::NAN,
        _ => 1.0 + 0.25 * layer as f64,
    };
    [2, 3, 17].into_iter().try_for_each(|layers| clip(context, &trials, dots, layers))?;
    clip(context, &trials[..5], dots, 1)
}

fn many_clips(context: &Context) -> Outcome {
    clip(context, &vec![(0.5, 1e-3); 70_000], |layer, trial| 1.0 + layer as f64 + (trial % 5) as f64, 2)
}

/// Above, at and below the norm, zero, and sums that are not finite, which stay.
fn norm_clips(context: &Context) -> Outcome {
    for layers in [1, 2, 3, 17] {
        let square = |layer: usize, trial: usize| match trial {
            0 => 0.0,
            1 => 1e-3,
            2 if layer == 0 => f64::NAN,
            3 if layer == 0 => f64::INFINITY,
            4 => 1e37,
            _ => (1 + layer) as f64 * 2f64.powi(i32::try_from(trial % 60).unwrap_or(0) - 20),
        };
        let trials = 300;
        let squares: Vec<f64> = (0..layers * trials).map(|i| square(i / trials, i % trials)).collect();
        let mut s = Stage::new(context, 1);
        let operand = s.scalars("squares", &squares)?;
        let out = s.output("out", [trials, 1, 1], Layout::Dense)?;
        s.recorder.record(NormClip { squares: operand.view, max: 2.5, out: out.view })?;
        let factor = |trial: usize| {
            let sum: f64 = (0..layers).map(|layer| square(layer, trial)).sum();
            if sum == 0.0 {
                1.0
            } else if sum.is_finite() {
                (2.5 / sum.sqrt()).min(1.0)
            } else {
                sum
            }
        };
        about(s.run(1)?.expect(&out, &(0..trials).map(factor).map(scalar).collect::<Vec<_>>(), Tol::roundings(16)), layers)?;
    }
    Ok(())
}

/// Also of zero norms (0, not NaN) and of squares that overflowed (0, a refusal).
fn ratios(context: &Context, grafted: bool) -> Outcome {
    let infinity = f64::INFINITY;
    let edges =
        [(4.0, 0.0), (0.0, 4.0), (0.0, 0.0), (1.0, infinity), (infinity, 1.0), (infinity, infinity), (1.0, f64::NAN), (1e36, 1e-30)];
    let many = (0..300).map(|i| (0.5 + f64::from(i), 3.0 + f64::from(i % 7)));
    let pairs: Vec<(f64, f64)> = edges.into_iter().chain(many).collect();
    let mut s = Stage::new(context, 1);
    let donor = s.scalars("donor", &pairs.iter().map(|p| p.0).collect::<Vec<_>>())?;
    let own = s.scalars("own", &pairs.iter().map(|p| p.1).collect::<Vec<_>>())?;
    let out = s.output("out", [pairs.len(), 1, 1], Layout::Dense)?;
    s.recorder.record(NormRatio { donor: grafted.then_some(donor.view), own: own.view, out: out.view })?;
    let ratio = |(donor, own): (f64, f64)| if grafted { donor.sqrt() / (own.sqrt() + 1e-16) } else { 1.0 };
    let want: Vec<Mat> = pairs.iter().map(|&p| if p.1.is_finite() && ratio(p).is_finite() { ratio(p) } else { 0.0 }).map(scalar).collect();
    about(s.run(1)?.expect(&out, &want, Tol::roundings(16)), grafted)
}

fn scalar(x: f64) -> Mat {
    Mat::from_fn(1, 1, |_, _| x)
}
