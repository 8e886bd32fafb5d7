//! What the examples share, and nothing about any one experiment: flags, devices, tables, verdicts, plots, files, exit codes.
//!
//! An example is a type that implements [`Experiment`] in `examples/NAME/part.rs`, and a `main.rs` that calls [`main`]:
//!
//! ```no_run
//! use kit::{Column, Common, Experiment, Progress, Report, Table, Verdict};
//!
//! struct Halving;
//!
//! /// The example's own flags.
//! #[derive(clap::Args)]
//! struct Arguments {
//!     /// Number of steps
//!     #[arg(long, default_value_t = 10)]
//!     steps: usize,
//! }
//!
//! impl Experiment for Halving {
//!     const NAME: &'static str = "halving";
//!     const TITLE: &'static str = "How fast one half to the n goes to zero";
//!     type Arguments = Arguments;
//!
//!     fn applies(_: &Common, arguments: &Arguments) -> Result<(), String> {
//!         if arguments.steps == 10 { Ok(()) } else { Err(format!("--steps is {}, the default is 10", arguments.steps)) }
//!     }
//!
//!     fn run(_: &Common, arguments: &Arguments, context: &layerwise::Context, progress: &Progress) -> kit::Result<Report> {
//!         let one = context.upload(layerwise::Shape::matrix(1, 1), &[1.0])?.read()?[0];
//!         let mut report = Report::default();
//!         report.setting("steps", arguments.steps);
//!         let mut table = Table::new("Values", [Column::number("step"), Column::number("value")]);
//!         let mut value = f64::from(one);
//!         progress.begin(arguments.steps);
//!         for step in 1..=arguments.steps {
//!             value /= 2.0;
//!             table.row([step.to_string(), format!("{value:.3e}")]);
//!             progress.at(step);
//!         }
//!         report.tables.push(table);
//!         report.verdicts.push(Verdict::at_most("the last value", value, 1e-3));
//!         Ok(report)
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     kit::main::<Halving>()
//! }
//! ```
//!
//! Everything in a [`Report`] but its durations is the same, byte for byte, at every run with the same settings on the same device: no times, no unordered maps.

mod common;
mod experiment;
pub mod plot;
pub mod programme;
mod progress;
mod report;
pub mod study;
mod table;
mod verdict;

pub use common::Common;
pub use experiment::{Experiment, NoArguments, Performed, default_arguments, judge, main, perform};
pub use plot::{Axis, Figure, Level, Panel, Series, Style, label};
pub use progress::Progress;
pub use report::{Report, write_file};
pub use table::{Column, Table, escape};
pub use verdict::Verdict;

/// Any error at all: examples report it and end with exit code 3.
pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;
