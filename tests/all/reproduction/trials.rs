//! Trials as a batch: independent of one another to the bit on the CPU path, in chunks as at once, and without transfers between log points.

use std::sync::Arc;

use layerwise::Context;
use layerwise::feature_learning::{Damping, Inputs, LinearRepresentation, LogPoints, Method, Record, Spectrum};

#[cfg(feature = "gpu")]
use super::at_most;
use super::online::{bits, run, small};
#[cfg(feature = "gpu")]
use crate::case::case_gpu;
use crate::case::{Case, Outcome, case_cpu};

fn ensure(condition: bool, message: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(message().into()) }
}

fn tiny() -> LinearRepresentation {
    LinearRepresentation { steps: 20, kappas: vec![1.0, 100.0], log_points: LogPoints::LogSpaced(3), ..small() }
}

/// Sizes around which products change their kernels: one hidden unit, few samples, inner sides of one vector's length and more.
fn shapes() -> Vec<LinearRepresentation> {
    let of = |d_x, d_y, k, batch| LinearRepresentation { d_x, d_y, k, batch, transfer_samples: 48, steps: 6, kappas: vec![10.0], ..tiny() };
    vec![of(5, 3, 1, 17), of(100, 15, 8, 160), of(70, 4, 1, 300), of(65, 6, 2, 16), of(100, 5, 5, 10), of(300, 3, 2, 7), of(513, 7, 3, 40)]
}

fn rates(method: Method) -> [f64; 4] {
    let first = if method.normalises_hidden() || method == Method::Sign { 3e-3 } else { 1e-2 };
    [1.0, 2.0, 0.5, 3.0].map(|x| x * first)
}

/// The records of one trial.
fn of(records: &[Record], kappa: f64, seed: u32, rate: f64) -> Vec<Record> {
    records.iter().filter(|r| (r.kappa, r.seed, r.learning_rate) == (kappa, seed, rate)).copied().collect()
}

/// Any trial of a batched run, run alone, has the same bits: every method, many shapes.
fn alone_as_together(context: &Context) -> Outcome {
    let mut settings =
        vec![tiny(), LinearRepresentation { inputs: Inputs::Gaussian, spectrum: Spectrum::TwoLevel, rotated: false, ..tiny() }];
    settings.extend(shapes());
    for (i, config) in settings.iter().enumerate() {
        // Shapes matter to the kernels that methods share; the first settings see all methods.
        let methods: &[Method] = if i < 2 { &Method::ALL } else { &[Method::Kfac, Method::Adam, Method::KfacLs, Method::BnHiddenSgd] };
        for &method in methods {
            let rates = rates(method);
            let together = run(context, config, method, &rates)?;
            for (j, &rate) in rates.iter().enumerate() {
                let (kappa, seed) = (config.kappas[j % config.kappas.len()], u32::try_from(j % config.seeds)?);
                let single = LinearRepresentation { kappas: vec![kappa], seeds: 1, first_seed: seed, ..config.clone() };
                let alone = run(context, &single, method, &[rate])?;
                let mine = of(&together, kappa, seed, rate);
                ensure(!alone.is_empty() && bits(&alone) == bits(&mine), || {
                    format!("{method}, {} x {} x {}: alone {alone:?}, together {mine:?}", config.d_x, config.k, config.batch)
                })?;
            }
        }
    }
    Ok(())
}

/// One thread or many, a pool of the host's or rayon's: the same bits. A chunk a thread where there are enough, threads within operations where not.
fn threads_change_nothing(context: &Context) -> Outcome {
    let config =
        LinearRepresentation { batch: 512, damping: Damping { decay: 0.9, ..Damping::default() }, precondition_every: 3, ..tiny() };
    for method in [Method::Kfac, Method::Shampoo, Method::NaturalEmpirical] {
        let rates = rates(method);
        let want = bits(&run(context, &config, method, &rates)?);
        for threads in [1, 3, 16] {
            let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?);
            let got = bits(&run(&Context::cpu_with_pool(pool), &config, method, &rates)?);
            ensure(got == want, || format!("{method}: other bits on {threads} threads"))?;
        }
    }
    Ok(())
}

/// On a GPU a trial alone, and trials in chunks, agree with all at once to 1e-3 where they have converged; the others in their verdict.
#[cfg(feature = "gpu")]
fn gpu_trials_agree(context: &Context) -> Outcome {
    let config = LinearRepresentation { steps: 60, ..tiny() };
    for method in [Method::Kfac, Method::Adam, Method::Amgd] {
        let rates = [3e-2, 1e-1, 5.0];
        let whole = run(context, &config, method, &rates)?;
        let alone = |kappa: f64, seed: u32, rate: f64| {
            let single = LinearRepresentation { kappas: vec![kappa], seeds: 1, first_seed: seed, ..config.clone() };
            run(context, &single, method, &[rate])
        };
        let trial = alone(100.0, 1, 3e-2)?;
        agree(&format!("{method} alone"), &of(&whole, 100.0, 1, 3e-2), &trial)?;
        // Room for one or two seeds and anisotropies at once.
        let mut compared = 0;
        let chunked = run(context, &LinearRepresentation { memory_limit: 3 << 20, ..config.clone() }, method, &rates)?;
        ensure(chunked.len() == whole.len(), || "records are missing".into())?;
        for &kappa in &config.kappas {
            for seed in 0..2 {
                for rate in rates {
                    let converged =
                        agree(&format!("{method} in chunks"), &of(&whole, kappa, seed, rate), &of(&chunked, kappa, seed, rate))?;
                    compared += usize::from(converged);
                }
            }
        }
        ensure(compared > 0, || format!("{method}: no trial converged, so nothing was compared"))?;
    }
    // Too little for a single trial: an error that says how much it takes.
    let refused = run(context, &LinearRepresentation { memory_limit: 1 << 10, ..config }, Method::Kfac, &[1e-2]);
    match refused {
        Err(layerwise::Error::Limit { needed, limit: 1024, .. }) if needed > 1024 => Ok(()),
        other => Err(format!("expected a limit, found {other:?}").into()),
    }
}

#[cfg(feature = "gpu")]
fn agree(what: &str, a: &[Record], b: &[Record]) -> Result<bool, libtest_mimic::Failed> {
    let (Some(first), Some(a), Some(b)) = (a.first(), a.last(), b.last()) else { return Err(format!("{what}: no records").into()) };
    let (first, a, b) = (first.measured, a.measured, b.measured);
    if a.train_excess < 0.01 * first.train_excess {
        for (x, y) in [(a.train_excess, b.train_excess), (a.subspace_distance, b.subspace_distance), (a.transfer_excess, b.transfer_excess)]
        {
            at_most(what, (x / y - 1.0).abs(), 1e-3)?;
        }
        return Ok(true);
    }
    ensure(a.is_sound() == b.is_sound(), || format!("{what}: verdicts differ: {a:?}, {b:?}"))?;
    Ok(false)
}

/// Between log points a run makes submissions and nothing else: no readback (which would be one more submission and a buffer), no wait for the latest ones.
#[cfg(feature = "gpu")]
fn no_transfers(_: &Context) -> Outcome {
    use crate::embed::{own_context, resources, submissions};
    use layerwise::feature_learning::{Progress, RateSchedule, experiment};
    let context = own_context()?;
    let Some((device, queue)) = context.wgpu() else { return Err("a GPU context".into()) };
    let config = LinearRepresentation { steps: 160, schedule: RateSchedule::Linear, log_points: LogPoints::Every(40), ..tiny() };
    let mut seen: Vec<(usize, u64, Vec<isize>, usize)> = Vec::new();
    let mut look = |p: Progress| seen.push((p.steps_done, submissions(queue).unwrap_or(0), resources(device).to_vec(), p.in_flight));
    experiment::run(&context, &config, Method::Adam, &[1e-2, 3e-2], &mut look)?;
    // 0, then 16, 32, 40 and so on: three submissions a log point.
    ensure(seen.len() == 13, || format!("{} submissions were reported", seen.len()))?;
    for (before, after) in seen.iter().zip(&seen[1..]) {
        // Looking is a submission, too.
        ensure(after.1 - before.1 == 2, || format!("steps {} to {}: {} submissions", before.0, after.0, after.1 - before.1 - 1))?;
        ensure(after.2 == before.2, || format!("steps {} to {}: resources {:?} became {:?}", before.0, after.0, before.2, after.2))?;
    }
    let most = seen.iter().map(|s| s.3).max();
    ensure(most == Some(4), || format!("{most:?} submissions in flight: the host waits for its latest, or runs ahead without bound"))
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        case_cpu("reproduction::trials::alone_as_together", alone_as_together),
        case_cpu("reproduction::trials::threads_change_nothing", threads_change_nothing),
        #[cfg(feature = "gpu")]
        case_gpu("reproduction::trials::gpu_trials_agree", gpu_trials_agree),
        #[cfg(feature = "gpu")]
        case_gpu("reproduction::trials::no_transfers", no_transfers),
    ]
}
