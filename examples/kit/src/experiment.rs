//! The trait of an example, and the program around it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "programs for a terminal")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use layerwise::Context;

use crate::Result;
use crate::common::Common;
use crate::progress::Progress;
use crate::report::{Report, write_file};

/// One question, answered by running something.
pub trait Experiment {
    /// The example's name: of its folder, its files, its flag in the programme.
    const NAME: &'static str;
    /// The question, for people.
    const TITLE: &'static str;
    /// Flags beside [`Common`]; [`NoArguments`] for none.
    type Arguments: Args;

    /// Whether the thresholds of `--check` were made for these settings.
    ///
    /// # Errors
    /// The setting that they were not made for.
    fn applies(common: &Common, arguments: &Self::Arguments) -> Result<(), String>;

    /// Runs it. [`Report::verdicts`] are filled in whether or not they apply: [`perform`] drops them where they don't.
    ///
    /// # Errors
    /// Whatever stops it; a missed threshold is not an error.
    fn run(common: &Common, arguments: &Self::Arguments, context: &Context, progress: &Progress) -> Result<Report>;
}

/// For an experiment without flags of its own.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct NoArguments {}

#[derive(Debug, Parser)]
struct Flags<A: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    arguments: A,
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Performed {
    /// What was found; verdicts only where they apply to the settings.
    pub report: Report,
    /// The device, for people.
    pub device: String,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl Performed {
    /// Writes data, plots and `NAME.md` into `folder`, which is made where it is missing. Returns the names.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write<E: Experiment>(&self, folder: &Path) -> std::io::Result<Vec<String>> {
        std::fs::create_dir_all(folder)?;
        let contents = self.report.contents(E::NAME, E::TITLE);
        contents.iter().try_for_each(|(name, text)| write_file(&folder.join(name), text))?;
        Ok(contents.into_iter().map(|(name, _)| name).collect())
    }
}

/// Runs an experiment on the device that `common` names.
///
/// # Errors
/// What the device or the experiment reports.
pub fn perform<E: Experiment>(common: &Common, arguments: &E::Arguments, context: &Context, progress: &Progress) -> Result<Performed> {
    let start = Instant::now();
    let report = E::run(common, arguments, context, progress);
    progress.finish();
    let mut report = report?;
    if E::applies(common, arguments).is_err() {
        report.verdicts.clear();
    }
    Ok(Performed { report, device: context.describe(), seconds: start.elapsed().as_secs_f64() })
}

/// The arguments of an experiment as they are without flags.
///
/// # Errors
/// Where a flag has no default.
pub fn default_arguments<E: Experiment>() -> Result<E::Arguments> {
    Ok(Flags::<E::Arguments>::try_parse_from([E::NAME])?.arguments)
}

/// Whether thresholds apply, without running anything.
fn unfit<E: Experiment>(common: &Common, arguments: &E::Arguments) -> Option<String> {
    common.check.then(|| E::applies(common, arguments).err()).flatten()
}

fn program<E: Experiment>(common: &Common, arguments: &E::Arguments) -> Result<ExitCode> {
    if let Some(reason) = unfit::<E>(common, arguments) {
        eprintln!("--check does not apply: {reason}");
        return Ok(ExitCode::from(2));
    }
    let context = common.context()?;
    println!("device: {}", context.describe());
    let done = perform::<E>(common, arguments, &context, &Progress::new(""))?;
    let folder = common.folder(E::NAME);
    let written = done.write::<E>(&folder)?;
    for table in &done.report.tables {
        println!("\n{}", table.text());
    }
    for (what, seconds) in &done.report.durations {
        println!("{what}: {seconds:.2} s");
    }
    println!("{}: {:.1} s in all", E::NAME, done.seconds);
    println!("wrote {} in {}", written.join(", "), folder.display());
    if !common.check {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(judge(&done.report))
}

/// Prints every verdict: 0 where all passed, 1 where one failed or there is none.
pub fn judge(report: &Report) -> ExitCode {
    for verdict in &report.verdicts {
        println!("{verdict}");
    }
    let (all, failed) = (report.verdicts.len(), report.failed());
    println!("check: {} passed, {failed} failed", all - failed);
    // No threshold at all would be a check that can't fail.
    ExitCode::from(u8::from(failed > 0 || all == 0))
}

/// The `main` of an example. Exit codes: 0; 1 a threshold failed; 2 the thresholds do not apply to these settings, or the flags are wrong; 3 an error.
pub fn main<E: Experiment>() -> ExitCode {
    env_logger::init();
    let command = Flags::<E::Arguments>::command().name(E::NAME).about(E::TITLE);
    let flags = match Flags::<E::Arguments>::from_arg_matches(&command.get_matches()) {
        Ok(flags) => flags,
        Err(error) => error.exit(),
    };
    match program::<E>(&flags.common, &flags.arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    struct Answer;

    #[derive(Args)]
    struct Own {
        #[arg(long, default_value_t = 42.0)]
        answer: f64,
    }

    impl Experiment for Answer {
        const NAME: &'static str = "answer";
        const TITLE: &'static str = "The answer";
        type Arguments = Own;

        fn applies(common: &Common, _: &Own) -> Result<(), String> {
            if common.seed == 0 { Ok(()) } else { Err("--seed".into()) }
        }

        fn run(_: &Common, own: &Own, _: &Context, _: &Progress) -> Result<Report> {
            let mut report = Report::default();
            report.verdicts.push(Verdict::within("the answer", own.answer, 42.0, 0.5));
            Ok(report)
        }
    }

    fn code(line: &[&str]) -> ExitCode {
        let flags = Flags::<Own>::try_parse_from(["answer"].iter().chain(line)).unwrap();
        let mut common = flags.common;
        let folder = std::env::temp_dir().join(format!("layerwise-kit-answer-{}", std::process::id()));
        common.out = Some(folder.clone());
        common.device = "cpu".into();
        let code = program::<Answer>(&common, &flags.arguments).unwrap();
        let _ = std::fs::remove_dir_all(folder);
        code
    }

    #[test]
    fn exit_codes() {
        let same = |a: ExitCode, b: u8| assert_eq!(format!("{a:?}"), format!("{:?}", ExitCode::from(b)));
        same(code(&[]), 0);
        same(code(&["--check"]), 0);
        same(code(&["--answer", "41"]), 0);
        same(code(&["--check", "--answer", "41"]), 1);
        same(code(&["--check", "--answer", "NaN"]), 1);
        same(code(&["--check", "--seed", "1"]), 2);
        same(judge(&Report::default()), 1);
    }

    #[test]
    fn verdicts_that_do_not_apply_are_dropped() {
        let context = Context::cpu();
        let run = |seed| {
            let common = Common { seed, ..Common::default() };
            perform::<Answer>(&common, &default_arguments::<Answer>().unwrap(), &context, &Progress::hidden()).unwrap()
        };
        assert_eq!(run(0).report.verdicts.len(), 1);
        assert!(run(1).report.verdicts.is_empty());
    }
}
