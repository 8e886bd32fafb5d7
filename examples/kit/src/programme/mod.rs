//! Several experiments in order, resumed where a run was stopped, with one page for all of them.
//!
//! Each part has a folder below `--out`. Its last file is `done.txt`, written when all others are there, by renaming: it names the settings and every file
//! with size and hash. A part whose mark is whole, has these settings, and whose files are as it says is not run again; any other is, from its beginning. What a
//! part writes does not depend on when it runs, so a run that was killed at any moment and started again ends with the files of one that was not.
//!
//! Settings are the program itself (by its hash: after a rebuild that changed it, every part is run again), the device and the flags.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod mark;
mod page;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use layerwise::Context;

use crate::common::Common;
use crate::experiment::{Experiment, default_arguments, perform};
use crate::progress::Progress;
use crate::report::write_file;
use crate::{Performed, Result};
use mark::Mark;

/// Name of a part's section of the page, in its folder.
const SECTION: &str = "section.html";

/// An experiment with the arguments that it has without flags.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    name: &'static str,
    title: &'static str,
    run: fn(&Common, &Context, &Progress) -> Result<Performed>,
}

impl Part {
    /// The part that runs `E`.
    pub fn of<E: Experiment>() -> Self {
        let run =
            |common: &Common, context: &Context, progress: &Progress| perform::<E>(common, &default_arguments::<E>()?, context, progress);
        Part { name: E::NAME, title: E::TITLE, run }
    }
}

/// Flags of a programme.
#[derive(Clone, Debug, Default, Parser)]
#[command(about = "Every experiment in order; resumes where it was stopped, and writes one page with all plots and tables")]
pub struct Flags {
    /// The flags of every experiment, handed on to each.
    #[command(flatten)]
    pub common: Common,
    /// Run only these parts
    #[arg(long, value_delimiter = ',')]
    pub only: Option<Vec<String>>,
    /// Run every part again, finished or not
    #[arg(long)]
    pub fresh: bool,
}

/// How a programme ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Parts that were run now.
    pub ran: Vec<&'static str>,
    /// Parts that were finished already.
    pub kept: Vec<&'static str>,
    /// Parts that stopped with an error.
    pub broken: Vec<&'static str>,
    /// Parts that missed thresholds.
    pub failed: Vec<&'static str>,
    /// Parts of which no threshold applies to the settings.
    pub unjudged: Vec<&'static str>,
}

/// Runs what is not finished below `folder` and writes `index.html` after each part.
///
/// # Errors
/// An unknown name in `--only`, no such device, or what the file system says about the page; a part that fails stops only itself.
pub fn run(parts: &[Part], flags: &Flags, folder: &Path) -> Result<Summary> {
    if let Some(unknown) = flags.only.iter().flatten().find(|name| !parts.iter().any(|p| p.name == **name)) {
        return Err(
            format!("no part is named `{unknown}`; there are {}", parts.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")).into()
        );
    }
    let wanted = |part: &&Part| flags.only.as_ref().is_none_or(|only| only.iter().any(|name| name == part.name));
    let parts: Vec<&Part> = parts.iter().filter(wanted).collect();
    let context = flags.common.context()?;
    let device = context.describe();
    println!("device: {device}");
    std::fs::create_dir_all(folder)?;
    let settings = settings(&flags.common, &device)?;
    let mut summary = Summary::default();
    let mut sections = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let place = folder.join(part.name);
        let at = format!("{}/{}", i + 1, parts.len());
        let found = if flags.fresh { None } else { Mark::verified(&place, part.name, &settings) };
        let mark = match found {
            Some(mark) => {
                println!("{at} {}: finished before, in {:.1} s", part.name, mark.seconds);
                summary.kept.push(part.name);
                mark
            }
            None => {
                let start = Instant::now();
                match finish(part, &flags.common, &context, &settings, &place, &Progress::new(format!("{at} {}", part.name))) {
                    Ok(mark) => {
                        println!("{at} {}: {:.1} s", part.name, start.elapsed().as_secs_f64());
                        summary.ran.push(part.name);
                        mark
                    }
                    Err(error) => {
                        eprintln!("{at} {}: error: {error}", part.name);
                        summary.broken.push(part.name);
                        continue;
                    }
                }
            }
        };
        if mark.failed > 0 {
            summary.failed.push(part.name);
        }
        if mark.thresholds == 0 {
            summary.unjudged.push(part.name);
        }
        sections.push(page::Section { part: **part, text: std::fs::read_to_string(place.join(SECTION))?, mark });
        write_file(&folder.join("index.html"), &page::page(&sections, parts.len(), &settings))?;
    }
    Ok(summary)
}

/// What the bytes of a part depend on, on one line.
fn settings(common: &Common, device: &str) -> std::io::Result<String> {
    let program = mark::hash(&std::fs::read(std::env::current_exe()?)?);
    let seeds = common.seeds.map_or_else(|| "default".into(), |n| n.to_string());
    let size = if common.smoke { "smoke" } else { "full" };
    Ok(format!("program {program:016x}, {size}, seed {}, seeds {seeds}, device {device}", common.seed))
}

/// Runs a part and writes its files, its mark last.
fn finish(part: &Part, common: &Common, context: &Context, settings: &str, place: &Path, progress: &Progress) -> Result<Mark> {
    Mark::clear(place)?;
    let done = (part.run)(common, context, progress)?;
    std::fs::create_dir_all(place)?;
    let mut contents = done.report.contents(part.name, part.title);
    contents.push((SECTION.into(), done.report.html(part.name, part.title, &done.device, done.seconds)));
    for (name, text) in &contents {
        write_file(&place.join(name), text)?;
    }
    let mark = Mark::new(part.name, settings, &done, &contents);
    mark.write(place)?;
    for verdict in done.report.verdicts.iter().filter(|v| !v.passed()) {
        println!("{}: {verdict}", part.name);
    }
    Ok(mark)
}

/// The `main` of a programme. Exit codes: 0; 1 a part missed a threshold (with `--check`); 2 no threshold of a part applies (with `--check`), or the flags are
/// wrong; 3 an error.
pub fn main(name: &str, parts: &[Part]) -> ExitCode {
    env_logger::init();
    let flags = Flags::parse();
    let folder = flags.common.folder(name);
    match run(parts, &flags, &folder) {
        Ok(summary) => {
            println!("{}", folder.join("index.html").display());
            let say = |what: &str, list: &[&str]| {
                if !list.is_empty() {
                    println!("{what}: {}", list.join(", "));
                }
            };
            say("stopped with an error", &summary.broken);
            say("missed thresholds", &summary.failed);
            say("no threshold applies", &summary.unjudged);
            code(&summary, flags.common.check)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(3)
        }
    }
}

fn code(summary: &Summary, check: bool) -> ExitCode {
    ExitCode::from(match summary {
        s if !s.broken.is_empty() => 3,
        s if check && !s.failed.is_empty() => 1,
        s if check && !s.unjudged.is_empty() => 2,
        _ => 0,
    })
}
