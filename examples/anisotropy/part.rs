//! How much anisotropy of inputs and targets costs each method: condition number, shape and orientation of the input spectrum, distribution of the inputs,
//! condition number of the targets.

use kit::study::{Metric, Setting, Study, against, smoke};
use kit::{Axis, Common, Experiment, Figure, NoArguments, Panel, Progress, Report, Result, Verdict};
use layerwise::Context;
use layerwise::feature_learning::{Inputs, LinearRepresentation, LogPoints, Method, Spectrum};

const METHODS: [Method; 6] = [Method::Sgd, Method::Amgd, Method::Adam, Method::BnInSgd, Method::Muon, Method::Kfac];

/// Names of the settings.
const ROTATED: &str = "rotated";
const ALIGNED: &str = "axis-aligned";
const RATE: &str = "KFAC's rate, cond(F)";

/// Condition numbers of the heads.
const HEADS: [f64; 3] = [1.0, 3.0, 10.0];
/// Condition numbers of the heads of the settings that measure KFAC's rate.
const RATE_HEADS: [f64; 2] = [1.0, 5.0];
/// Noise levels of the settings that measure KFAC's floor.
const NOISES: [f64; 2] = [0.05, 0.2];

/// The example.
#[derive(Debug)]
pub(crate) struct Anisotropy;

fn head_name(condition: f64) -> String {
    format!("heads of condition {condition}")
}

fn floor_name(noise: f64) -> String {
    format!("KFAC's floor, noise {noise}")
}

fn settings(common: &Common) -> Vec<Setting> {
    let base = if common.smoke { smoke() } else { LinearRepresentation::default() };
    let base = LinearRepresentation { seeds: common.seeds.unwrap_or(base.seeds), first_seed: common.seed, ..base };
    let strong = if common.smoke { 100.0 } else { 1000.0 };
    let kappas = if common.smoke { vec![1.0, 100.0] } else { vec![1.0, 10.0, 100.0, 1000.0, 10_000.0] };
    let methods: &[Method] = if common.smoke { &[Method::Sgd, Method::BnInSgd, Method::Kfac] } else { &METHODS };
    let at = |name: &str, config: LinearRepresentation| Setting::new(name, config, methods.iter().copied());
    let one = LinearRepresentation { kappas: vec![strong], ..base.clone() };
    let mut list = vec![
        at(ROTATED, LinearRepresentation { kappas, ..base.clone() }),
        at(ALIGNED, LinearRepresentation { rotated: false, ..one.clone() }),
    ];
    let heads: &[f64] = if common.smoke { &HEADS[2..] } else { &HEADS };
    list.extend(heads.iter().map(|&condition| {
        let kappas = vec![if common.smoke { 10.0 } else { 100.0 }];
        at(&head_name(condition), LinearRepresentation { head_condition: Some(condition), kappas, ..base.clone() })
    }));
    if common.smoke {
        return list;
    }
    list.extend([
        at("Gaussian inputs", LinearRepresentation { inputs: Inputs::Gaussian, ..one.clone() }),
        at("two-level spectrum", LinearRepresentation { spectrum: Spectrum::TwoLevel, ..one.clone() }),
        at("power-law spectrum", LinearRepresentation { spectrum: Spectrum::PowerLaw, ..one }),
    ]);
    let small = LinearRepresentation { d_x: 50, d_y: 10, k: 5, ..base };
    let kfac = |name: String, config, rate: f64| Setting { methods: vec![(Method::Kfac, vec![rate])], ..Setting::new(name, config, []) };
    list.extend(RATE_HEADS.map(|condition| {
        let config = LinearRepresentation {
            batch: 2048,
            noise: 0.02,
            steps: 60,
            kappas: vec![1.0, 10.0, 100.0, 1000.0],
            head_condition: Some(condition),
            log_points: LogPoints::Every(1),
            ..small.clone()
        };
        kfac(format!("{RATE} = {condition}"), config, 0.1)
    }));
    list.extend(NOISES.map(|noise| {
        let config = LinearRepresentation { noise, steps: 400, kappas: vec![10.0], head_condition: Some(1.0), ..small.clone() };
        kfac(floor_name(noise), config, 0.1)
    }));
    list
}

impl Experiment for Anisotropy {
    const NAME: &'static str = "anisotropy";
    const TITLE: &'static str = "Anisotropy: condition number, shape and orientation of the inputs, condition number of the targets";
    type Arguments = NoArguments;

    fn applies(common: &Common, _: &NoArguments) -> std::result::Result<(), String> {
        if common.seeds.is_some() { Err("--seeds is given, the thresholds belong to the example's own number".into()) } else { Ok(()) }
    }

    fn run(common: &Common, _: &NoArguments, context: &Context, progress: &Progress) -> Result<Report> {
        let mut report = Report::default();
        let study = Study::train(settings(common), context, progress, &mut report)?;
        report.tables = study.runs.iter().filter(|r| r.setting.methods.len() > 1).map(kit::study::Run::table).collect();
        report.files.push(("anisotropy.csv".into(), study.csv()));
        report.plots.push(("distance_vs_kappa.svg".into(), against_kappa(&study).svg()?));
        report.plots.push(("heads.svg".into(), against_heads(&study).svg()?));
        report.plots.push(("controls.svg".into(), controls(&study).svg()?));
        report.verdicts = if common.smoke { smoke_verdicts(&study) } else { verdicts(&study) };
        Ok(report)
    }
}

fn against_kappa(study: &Study) -> Figure {
    let panel = |metric: Metric| {
        let run = study.run(ROTATED);
        let series = METHODS.map(|m| {
            let points =
                run.into_iter().flat_map(|run| run.setting.config.kappas.iter().map(move |&kappa| (kappa, run.selected(m, kappa))));
            against(m, metric, points)
        });
        Panel::new(metric.label(), Axis::log("condition number of the input covariance"), Axis::log(""), series.into())
    };
    let title = "Final metrics against the condition number of rotated inputs";
    Figure::new(
        title,
        "learning rate selected by train excess; point: geometric mean over seeds, bar: smallest to largest",
        Metric::ALL.map(panel).into(),
    )
}

fn against_heads(study: &Study) -> Figure {
    let panel = |metric: Metric| {
        let series = METHODS.map(|m| {
            let points = HEADS.iter().filter_map(|&condition| {
                let run = study.run(&head_name(condition))?;
                Some((condition, run.selected(m, run.setting.config.kappas[0])))
            });
            against(m, metric, points.collect::<Vec<_>>())
        });
        let x = Axis::log("condition number of the heads F").ticks(HEADS.map(|c| (c, c.to_string())));
        Panel::new(metric.label(), x, Axis::log(""), series.into())
    };
    let kappa = study.run(&head_name(10.0)).map_or(f64::NAN, |r| r.setting.config.kappas[0]);
    let title = format!("Final metrics against the condition number of the target heads, inputs of condition {kappa}");
    Figure::new(
        title,
        "learning rate selected by train excess; point: geometric mean over seeds, bar: smallest to largest",
        Metric::ALL.map(panel).into(),
    )
}

/// One mark a setting.
fn controls(study: &Study) -> Figure {
    let names = [ROTATED, ALIGNED, "Gaussian inputs", "two-level spectrum", "power-law spectrum"];
    let strong = study.run(ALIGNED).map_or(f64::NAN, |r| r.setting.config.kappas[0]);
    // Side by side, or equal results would hide one another.
    let aside = |m: Method| 0.08 * (METHODS.iter().position(|other| *other == m).unwrap_or(0) as f64 - 2.5);
    let series = METHODS.map(|m| {
        let points =
            names.iter().enumerate().filter_map(|(i, name)| Some((i as f64 + 1.0 + aside(m), study.run(name)?.selected(m, strong))));
        let with_line = against(m, Metric::Distance, points.collect::<Vec<_>>());
        kit::Series { line: Vec::new(), ..with_line }
    });
    let ticks = names.iter().enumerate().map(|(i, name)| (i as f64 + 1.0, (*name).to_owned()));
    let x = Axis::linear("").range(0.5, names.len() as f64 + 0.5).ticks(ticks);
    let panel = Panel::new("", x, Axis::log("subspace distance"), series.into());
    let title = format!("Subspace distance at condition number {strong}: orientation, distribution and spectrum of the inputs");
    Figure::new(title, "learning rate selected by train excess; point: geometric mean over seeds, bar: smallest to largest", vec![panel])
}

/// A7, A8 (axis-aligned) and A13.
fn verdicts(study: &Study) -> Vec<Verdict> {
    let distance = |name: &str, method, kappa| study.run(name).map_or(f64::NAN, |r| r.distance(method, kappa));
    let mut list = vec![
        Verdict::at_most(
            "A8 kappa 1000, axis-aligned: BN-input + SGD's distance over SGD's",
            distance(ALIGNED, Method::BnInSgd, 1000.0) / distance(ALIGNED, Method::Sgd, 1000.0),
            0.125,
        ),
        Verdict::at_most("A6 kappa 1000, rotated: KFAC's distance", distance(ROTATED, Method::Kfac, 1000.0), 0.03),
        Verdict::at_least(
            "A6 kappa 1000, rotated: SGD's distance over KFAC's",
            distance(ROTATED, Method::Sgd, 1000.0) / distance(ROTATED, Method::Kfac, 1000.0),
            8.0,
        ),
    ];
    let mut all = Vec::new();
    for condition in RATE_HEADS {
        let Some(run) = study.run(&format!("{RATE} = {condition}")) else { continue };
        let first = |&kappa: &f64| run.first_below(Method::Kfac, kappa, 0.1, Metric::Distance, 0.05).map_or(f64::NAN, |t| t as f64);
        let steps: Vec<f64> = run.setting.config.kappas.iter().map(first).collect();
        list.push(Verdict::at_most(
            format!("A7 cond(F) = {condition}: spread over kappa of the step with distance < .05, {steps:?}"),
            spread(&steps),
            0.12,
        ));
        all.extend(steps);
    }
    list.push(Verdict::at_most("A7 spread of that step over all condition numbers", spread(&all), 0.35));
    let floor = |noise: f64| distance(&floor_name(noise), Method::Kfac, 10.0) / noise;
    list.push(Verdict::within("A13 KFAC's floor over noise at noise .2 over that at .05", floor(0.2) / floor(0.05), 1.0, 0.01));
    list
}

/// Largest over smallest, less 1.
fn spread(steps: &[f64]) -> f64 {
    if steps.iter().any(|s| s.is_nan()) {
        return f64::NAN;
    }
    let (low, high) = steps.iter().fold((f64::INFINITY, 0.0f64), |(low, high), &s| (low.min(s), high.max(s)));
    high / low - 1.0
}

fn smoke_verdicts(study: &Study) -> Vec<Verdict> {
    let distance = |name: &str, method, kappa| study.run(name).map_or(f64::NAN, |r| r.distance(method, kappa));
    let ratio = |name: &str, a, b| distance(name, a, 100.0) / distance(name, b, 100.0);
    vec![
        Verdict::at_most("smoke, kappa 100, rotated: KFAC's distance", distance(ROTATED, Method::Kfac, 100.0), 0.1),
        Verdict::at_least("smoke, kappa 100, rotated: SGD's distance over KFAC's", ratio(ROTATED, Method::Sgd, Method::Kfac), 5.0),
        Verdict::at_most(
            "smoke, kappa 100, axis-aligned: BN-input + SGD's distance over SGD's",
            ratio(ALIGNED, Method::BnInSgd, Method::Sgd),
            0.5,
        ),
    ]
}
