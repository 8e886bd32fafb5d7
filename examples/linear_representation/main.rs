//! Linear representation learning: `y = F_* G_* x + noise` with anisotropic inputs, trained by SGD, AMGD, Adam, KFAC and FOOF.
//!
//! `cargo run --release --example linear_representation` trains every learning rate, seed and anisotropy of each method as one batched run, prints a table
//! and writes a CSV file and SVG plots. The settings are ours: those of arXiv 2502.01763 were not available.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod check;
mod plot;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use layerwise::Context;
use layerwise::feature_learning::experiment;
use layerwise::feature_learning::{LinearRepresentation, LogPoints, Method, RateSchedule, Record};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Schedule {
    Constant,
    Linear,
}

/// Subspace learning under anisotropic inputs: layer-wise preconditioning against its rivals.
#[derive(Debug, Parser)]
struct Arguments {
    /// Condition numbers of the input covariances [default: 1,100,1000]
    #[arg(long, value_delimiter = ',')]
    kappa: Option<Vec<f64>>,
    /// Training methods
    #[arg(
        long,
        help = "Methods: sgd, amgd, amgd_split, dfw, adam, kfac, kfac_ls, foof, bn_in",
        value_delimiter = ',',
        default_value = "sgd,amgd,adam,kfac,foof"
    )]
    methods: Vec<Method>,
    /// Learning rates for every method [default: each method's own grid]
    #[arg(long, value_delimiter = ',')]
    learning_rates: Option<Vec<f64>>,
    /// Learning-rate schedule
    #[arg(long, value_enum, default_value = "constant")]
    schedule: Schedule,
    /// Number of seeds [default: 3]
    #[arg(long)]
    seeds: Option<usize>,
    /// Training steps [default: 1000]
    #[arg(long)]
    steps: Option<usize>,
    /// Samples per step [default: 1024]
    #[arg(long)]
    batch: Option<usize>,
    /// Rotated covariances; `false` aligns them with the coordinate axes
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    rotated: bool,
    /// auto (a real GPU, otherwise the CPU), cpu, gpu (any GPU, software included), or a part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// A small problem: seconds on a software GPU
    #[arg(long)]
    smoke: bool,
    /// Where CSV and SVG files go
    #[arg(long, default_value = "target/results/linear_representation")]
    out: PathBuf,
    /// First seed; the others follow
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Exit with 1 where the acceptance thresholds fail, with 2 where they do not apply to these settings
    #[arg(long)]
    check: bool,
}

/// Wall-clock time by method.
type Seconds = Vec<(Method, f64)>;

/// The small problem of `--smoke`.
fn smoke() -> LinearRepresentation {
    LinearRepresentation {
        d_x: 24,
        d_y: 6,
        k: 3,
        batch: 128,
        transfer_samples: 256,
        steps: 150,
        kappas: vec![1.0, 100.0],
        seeds: 2,
        log_points: LogPoints::LogSpaced(12),
        ..LinearRepresentation::default()
    }
}

impl Arguments {
    fn config(&self) -> LinearRepresentation {
        let base = if self.smoke { smoke() } else { LinearRepresentation::default() };
        LinearRepresentation {
            kappas: self.kappa.clone().unwrap_or(base.kappas),
            seeds: self.seeds.unwrap_or(base.seeds),
            steps: self.steps.unwrap_or(base.steps),
            batch: self.batch.unwrap_or(base.batch),
            rotated: self.rotated,
            first_seed: self.seed,
            schedule: match self.schedule {
                Schedule::Constant => RateSchedule::Constant,
                Schedule::Linear => RateSchedule::Linear,
            },
            ..base
        }
    }

    fn context(&self) -> layerwise::Result<Context> {
        match self.device.as_str() {
            "auto" => Ok(Context::auto()),
            "cpu" => Ok(Context::cpu()),
            #[cfg(feature = "gpu")]
            "gpu" => Context::gpu().or_else(|_| Context::gpu_any()),
            #[cfg(feature = "gpu")]
            part => Context::gpu_named(part),
            #[cfg(not(feature = "gpu"))]
            other => Err(layerwise::Error::NoAdapter {
                wanted: other.into(),
                hint: "this program was built without feature `gpu`; use `--device cpu`".into(),
            }),
        }
    }
}

fn train(arguments: &Arguments, config: &LinearRepresentation, context: &Context) -> layerwise::Result<(Vec<Record>, Seconds)> {
    let rates = |method: Method| arguments.learning_rates.clone().unwrap_or_else(|| method.learning_rates().to_vec());
    let trials = |method: Method| config.kappas.len() * config.seeds * rates(method).len();
    let total: usize = arguments.methods.iter().map(|&m| config.steps * trials(m)).sum();
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) = ProgressStyle::with_template("{msg:>10} {wide_bar} {percent:>3}%  {per_sec} trial steps  {eta} left") {
        bar.set_style(style);
    }
    let (mut records, mut durations) = (Vec::new(), Vec::new());
    let mut before = 0;
    for &method in &arguments.methods {
        bar.set_message(method.name());
        let start = Instant::now();
        records.extend(experiment::run(context, config, method, &rates(method), &mut |p| {
            bar.set_position((before + p.steps_done * p.trials) as u64);
        })?);
        durations.push((method, start.elapsed().as_secs_f64()));
        before += config.steps * trials(method);
    }
    bar.finish_and_clear();
    Ok((records, durations))
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = arguments.config();
    config.validate()?;
    if arguments.check
        && let Err(reason) = check::applies(arguments, &config)
    {
        eprintln!("--check does not apply: {reason}");
        return Ok(ExitCode::from(2));
    }
    let context = arguments.context()?;
    println!("device: {}", context.describe());
    let start = Instant::now();
    let (records, durations) = train(arguments, &config, &context)?;
    let elapsed = start.elapsed().as_secs_f64();
    let study = report::Study::new(config, arguments.methods.clone(), records);
    std::fs::create_dir_all(&arguments.out)?;
    study.write_csv(&arguments.out.join("linear_representation.csv"))?;
    let mut written = vec!["linear_representation.csv".to_owned()];
    written.extend(plot::write_all(&study, &arguments.out)?);
    print!("{}", study.table());
    print!("{}", report::times(&study, &durations, elapsed));
    println!("wrote {} in {}", written.join(", "), arguments.out.display());
    if !arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    let verdicts = check::verdicts(arguments.smoke, &study);
    for verdict in &verdicts {
        println!("{verdict}");
    }
    let failed = verdicts.iter().filter(|v| !v.passed).count();
    println!("check: {} passed, {failed} failed", verdicts.len() - failed);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}
