//! Steps to the target without sampling noise: KFAC needs the same number whatever the conditioning, AMGD as many as its weakest mode demands.

mod check;
mod plot;

use std::fmt::Write as _;
use std::time::Instant;

use kit::{Column, Common, Progress, Report, Result, Table};
use layerwise::Context;
use layerwise::feature_learning::population::{self, Problem, Start};
use layerwise::feature_learning::{Method, Population, Trajectory};

/// AMGD's learning rates, in units of `1/(s_1 lambda_1)`; above 2 it diverges.
const AMGD_SHARES: [f64; 4] = [0.5, 1.0, 1.5, 1.9];
/// KFAC's learning rate.
const KFAC_RATE: f64 = 0.5;

/// Condition number of the head that A3 is tried with.
const GENERAL_CONDITION: f64 = 3.0;

/// The flags beside the common ones.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Condition numbers of the input covariance [default: 1,10,100]
    #[arg(long, value_delimiter = ',')]
    kappa: Option<Vec<f64>>,
    /// Condition numbers of the target's head [default: 1,3,10]
    #[arg(long, value_delimiter = ',')]
    head_condition: Option<Vec<f64>>,
}

fn config(common: &Common, arguments: &Arguments) -> Population {
    let full = Population { seed: common.seed, ..Population::default() };
    let base = if common.smoke {
        Population { d_x: 20, d_y: 6, k: 3, kappas: vec![1.0, 10.0], head_conditions: vec![1.0, 3.0], max_steps: 3000, ..full }
    } else {
        full
    };
    Population {
        kappas: arguments.kappa.clone().unwrap_or(base.kappas),
        head_conditions: arguments.head_condition.clone().unwrap_or(base.head_conditions),
        ..base
    }
}

/// What was measured of one problem.
struct Row {
    problem: Problem,
    /// AMGD at the learning rate that arrived first.
    amgd: Trajectory,
    /// That learning rate in units of `1/(s_1 lambda_1)`.
    share: f64,
    kfac: Trajectory,
}

impl Row {
    /// AMGD's predicted factor a step on the weakest mode.
    fn predicted(&self) -> f64 {
        self.problem.modes.weakest_contraction(self.amgd.learning_rate)
    }

    /// Mean factor a step from distance `0.02` (where the linearisation holds) to `threshold`; NaN where fewer than 40 steps lie between: what is left of the nonlinear
    /// part weighs too much then.
    fn tail(trajectory: &Trajectory, threshold: f64) -> f64 {
        match (trajectory.arrival(0.02), trajectory.arrival(threshold)) {
            (Some(first), Some(last)) if last >= first + 40 => trajectory.mean_rate(first, last),
            _ => f64::NAN,
        }
    }
}

/// A4 on one problem: mean and predicted rate of AMGD from distance 1e-2 to 1e-4.
struct Near {
    kappa: f64,
    head_condition: f64,
    measured: f64,
    predicted: f64,
}

/// Everything that was measured.
struct Study {
    config: Population,
    rows: Vec<Row>,
    /// A3: kappa and error of one KFAC step from a general start.
    step_errors: Vec<(f64, f64)>,
    near: Vec<Near>,
}

/// The example.
#[derive(Debug)]
pub(crate) struct PopulationStudy;

impl kit::Experiment for PopulationStudy {
    const NAME: &'static str = "population";
    const TITLE: &'static str = "Population dynamics: steps without sampling noise against covariance and head";
    type Arguments = Arguments;

    fn applies(common: &Common, arguments: &Arguments) -> std::result::Result<(), String> {
        if common.seeds.is_some_and(|n| n != 1) {
            return Err("--seeds is given, one target is drawn".into());
        }
        if arguments.kappa.is_some() || arguments.head_condition.is_some() {
            return Err("--kappa or --head-condition is given, the thresholds are for the default ones".into());
        }
        Ok(())
    }

    fn run(common: &Common, arguments: &Arguments, context: &Context, progress: &Progress) -> Result<Report> {
        let config = config(common, arguments);
        let problems = config.problems()?;
        let mut report = Report::default();
        report.setting("inputs, hidden units, outputs", format!("{}, {}, {}", config.d_x, config.k, config.d_y));
        report.setting("condition numbers of the covariance", format!("{:?}, rotated", config.kappas));
        report.setting("condition numbers of the head", format!("{:?}", config.head_conditions));
        report.setting("start", "weakest mode at distance 0.5");
        report.setting("arrived", format!("distance {}", config.threshold));
        report.setting("learning rates", format!("AMGD {AMGD_SHARES:?} / (s_1 lambda_1), the fastest; KFAC {KFAC_RATE}"));
        report.setting("seed", config.seed);

        let start = Instant::now();
        progress.begin(2 * config.max_steps);
        progress.describe("amgd");
        let unit = |p: &Problem| p.modes.largest_stable_rate() / 2.0;
        let rates: Vec<Vec<f64>> = problems.iter().map(|p| AMGD_SHARES.map(|share| share * unit(p)).into()).collect();
        let amgd = population::run(context, &config, Method::Amgd, &rates, &mut |steps| progress.at(steps))?;
        let steps = amgd.first().map_or(0, |t| t.distances.len() - 1);
        report.durations.push((format!("amgd: {} trials of {steps} steps", amgd.len()), start.elapsed().as_secs_f64()));
        let start = Instant::now();
        progress.describe("kfac");
        let kfac = population::run(context, &config, Method::Kfac, &vec![vec![KFAC_RATE]; problems.len()], &mut |_| {})?;
        report.durations.push((format!("kfac: {} trials", kfac.len()), start.elapsed().as_secs_f64()));

        let mut rows = Vec::new();
        for ((problem, group), kfac) in problems.into_iter().zip(amgd.chunks(AMGD_SHARES.len())).zip(kfac) {
            // Where none arrives, the one that came nearest.
            let score = |i: usize| (group[i].arrival(config.threshold).unwrap_or(usize::MAX), group[i].distances.last().copied());
            let order = |a: &usize, b: &usize| score(*a).partial_cmp(&score(*b)).unwrap_or(std::cmp::Ordering::Equal);
            let best = (0..group.len()).min_by(order).unwrap_or(0);
            rows.push(Row { share: AMGD_SHARES[best], amgd: group[best].clone(), problem, kfac });
        }
        progress.describe("a3, a4");
        let near = near(context, &config, progress)?;
        let general =
            Population { start: Start::Drawn, kappas: vec![1.0, 100.0, 1e4], head_conditions: vec![GENERAL_CONDITION], ..config.clone() };
        let errors = population::kfac_step_error(context, &general, 0.3)?;
        let step_errors = general.kappas.iter().copied().zip(errors).collect();
        let study = Study { config, rows, step_errors, near };
        report.tables.push(study.table());
        report.tables.push(study.identities());
        report.files.push(("population.csv".into(), study.csv()));
        report.plots = plot::all(&study)?;
        report.verdicts = check::verdicts(common.smoke, &study);
        Ok(report)
    }
}

/// A4: AMGD from `G_* + 1e-2 u v^T` until distance 1e-4, at half the largest stable rate.
fn near(context: &Context, config: &Population, progress: &Progress) -> Result<Vec<Near>> {
    let near = Population {
        start: Start::WeakestMode(1e-2),
        threshold: 1e-4,
        kappas: vec![3.0, 10.0],
        head_conditions: vec![2.0, 3.0],
        ..config.clone()
    };
    let problems = near.problems()?;
    let rates: Vec<Vec<f64>> = problems.iter().map(|p| vec![0.5 * p.modes.largest_stable_rate()]).collect();
    let list = population::run(context, &near, Method::Amgd, &rates, &mut |steps| progress.at(config.max_steps + steps))?;
    let measured = |t: &Trajectory| t.arrival(1e-4).map_or(f64::NAN, |arrival| t.mean_rate(0, arrival));
    Ok(problems
        .iter()
        .zip(&list)
        .map(|(p, t)| Near {
            kappa: p.kappa,
            head_condition: p.head_condition,
            measured: measured(t),
            predicted: p.modes.weakest_contraction(t.learning_rate),
        })
        .collect())
}

/// Steps that are logged: all up to 16, then 24 a decade, the arrival, and the last.
#[allow(clippy::cast_possible_truncation, reason = "step counts are far below 2^52")]
fn log_steps(last: usize) -> Vec<usize> {
    let mut steps: Vec<usize> = (0..=last.min(16)).collect();
    let mut next = 16.0f64;
    while (next as usize) < last {
        next *= 10f64.powf(1.0 / 24.0);
        let step = next.round() as usize;
        if step < last && steps.last() != Some(&step) {
            steps.push(step);
        }
    }
    if steps.last() != Some(&last) {
        steps.push(last);
    }
    steps
}

impl Study {
    fn arrival(&self, trajectory: &Trajectory) -> Option<usize> {
        trajectory.arrival(self.config.threshold)
    }

    /// Steps up to the arrival, or all.
    fn logged(&self, trajectory: &Trajectory) -> Vec<usize> {
        log_steps(self.arrival(trajectory).unwrap_or(trajectory.distances.len() - 1))
    }

    /// One row a trial and logged step, with the distance that the linearised dynamics predict from the start.
    fn csv(&self) -> String {
        let mut out = String::from("kappa,head_condition,method,learning_rate,step,subspace_distance\n");
        for row in &self.rows {
            for (method, t) in [(Method::Amgd, &row.amgd), (Method::Kfac, &row.kfac)] {
                for step in self.logged(t) {
                    let (kappa, condition) = (row.problem.kappa, row.problem.head_condition);
                    let _ = writeln!(out, "{kappa},{condition},{method},{:.6e},{step},{:.6e}", t.learning_rate, t.distances[step]);
                }
            }
        }
        out
    }

    fn table(&self) -> Table {
        let columns =
            ["kappa", "cond(F)", "AMGD steps", "KFAC steps", "AMGD lr s_1 lambda_1", "AMGD tail rate", "predicted", "KFAC tail rate"];
        let mut table = Table::new(format!("Steps from distance 0.5 to {}", self.config.threshold), columns.map(Column::number));
        let steps = |t: &Trajectory| self.arrival(t).map_or_else(|| "never".to_owned(), |n| n.to_string());
        let rate = |x: f64| if x.is_nan() { "-".to_owned() } else { format!("{x:.6}") };
        for row in &self.rows {
            let kfac = row.kfac.arrival(self.config.threshold).map_or(f64::NAN, |n| row.kfac.mean_rate(1, n));
            table.row([
                row.problem.kappa.to_string(),
                row.problem.head_condition.to_string(),
                steps(&row.amgd),
                steps(&row.kfac),
                row.share.to_string(),
                rate(Row::tail(&row.amgd, self.config.threshold)),
                rate(row.predicted()),
                rate(kfac),
            ]);
        }
        table.note = "all of the error on the weakest mode; AMGD at the fastest of four learning rates; tail: from distance 0.02 on".into();
        table
    }

    fn identities(&self) -> Table {
        let columns = [
            Column::text("identity"),
            Column::number("kappa"),
            Column::number("cond(F)"),
            Column::number("measured"),
            Column::number("predicted"),
        ];
        let mut table = Table::new("Closed forms", columns);
        for (kappa, error) in &self.step_errors {
            table.row([
                "A3: error of KFAC's contraction".into(),
                kappa.to_string(),
                GENERAL_CONDITION.to_string(),
                format!("{error:.1e}"),
                "0".into(),
            ]);
        }
        for n in &self.near {
            let cells = [n.kappa.to_string(), n.head_condition.to_string(), format!("{:.6}", n.measured), format!("{:.6}", n.predicted)];
            table.row(std::iter::once("A4: AMGD's mean rate from 1e-2 to 1e-4".to_owned()).chain(cells));
        }
        table
    }
}
