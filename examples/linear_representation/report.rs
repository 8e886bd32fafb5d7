//! Table and CSV.

use std::fmt::Write as _;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use layerwise::feature_learning::selection::{Criterion, Outcome, outcomes, select};
use layerwise::feature_learning::{LinearRepresentation, Method, Record};

/// Everything a study measured.
pub(crate) struct Study {
    pub(crate) config: LinearRepresentation,
    pub(crate) methods: Vec<Method>,
    pub(crate) records: Vec<Record>,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Study {
    pub(crate) fn new(config: LinearRepresentation, methods: Vec<Method>, records: Vec<Record>) -> Self {
        let outcomes = outcomes(&records);
        Study { config, methods, records, outcomes }
    }

    /// The outcome at the learning rate that the training loss selects.
    pub(crate) fn selected(&self, method: Method, kappa: f64) -> Option<&Outcome> {
        select(&self.outcomes, method, kappa, Criterion::TrainExcess)
    }

    /// One row per trial and log point; metrics of a trial that diverged or froze are `inf` from that point on.
    pub(crate) fn write_csv(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        writeln!(file, "method,kappa,rotated,schedule,seed,learning_rate,step,train_excess,subspace_distance,transfer_excess")?;
        for r in &self.records {
            let m = r.measured;
            let [train, distance, transfer] = [m.train_excess, m.subspace_distance, m.transfer_excess]
                .map(|x| if m.is_sound() { format!("{x:.6e}") } else { "inf".into() });
            let (method, kappa, rotated, schedule) = (r.method, r.kappa, r.rotated, r.schedule.name());
            let (seed, rate, step) = (r.seed, r.learning_rate, r.step);
            writeln!(file, "{method},{kappa},{rotated},{schedule},{seed},{rate},{step},{train},{distance},{transfer}")?;
        }
        file.flush()
    }

    /// Per anisotropy and method: geometric means over seeds at the selected learning rate.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "\n{:>6}  {:<10} {:>6} {:>13} {:>18} {:>16} {:>9}  {:>20}",
            "kappa", "method", "lr", "train excess", "subspace distance", "transfer excess", "diverged", "best transfer (lr)"
        );
        for &kappa in &self.config.kappas {
            for &method in &self.methods {
                let mine = || self.outcomes.iter().filter(|o| o.method == method && o.kappa == kappa);
                let (trials, diverged) = (mine().map(|o| o.finals.len()).sum::<usize>(), mine().map(Outcome::unsound).sum::<usize>());
                let _ = write!(out, "{kappa:>6}  {method:<10} ");
                let _ = match self.selected(method, kappa) {
                    Some(o) => {
                        let (train, distance, transfer) = (o.train_excess(), o.subspace_distance(), o.transfer_excess());
                        write!(out, "{:>6} {train:>13.2e} {distance:>18.4} {transfer:>16.2e}", o.learning_rate)
                    }
                    None => write!(out, "{:>6} {:>13} {:>18} {:>16}", "none", "-", "-", "-"),
                };
                let _ = write!(out, " {:>9}", format!("{diverged}/{trials}"));
                if let Some(o) = select(&self.outcomes, method, kappa, Criterion::TransferExcess) {
                    let _ = write!(out, "  {:>20}", format!("{:.2e} ({})", o.transfer_excess(), o.learning_rate));
                }
                out.push('\n');
            }
        }
        let (seeds, steps) = (self.config.seeds, self.config.steps);
        let _ = writeln!(
            out,
            "geometric means over {seeds} seeds after {steps} steps; lr: lowest train excess among those that no seed diverged or froze at"
        );
        out
    }
}

/// Wall-clock time of each method.
pub(crate) fn times(study: &Study, durations: &[(Method, f64)], elapsed: f64) -> String {
    let mut out = String::new();
    let mut trainings = 0;
    for &(method, seconds) in durations {
        let trials: usize = study.outcomes.iter().filter(|o| o.method == method).map(|o| o.finals.len()).sum();
        trainings += trials;
        let per_step = seconds * 1e6 / (trials * study.config.steps) as f64;
        let _ = writeln!(out, "{method:<10} {trials:>4} trainings in {seconds:6.1} s, {per_step:7.1} us per trial and step");
    }
    let _ = writeln!(out, "{trainings} trainings of {} steps in {elapsed:.1} s", study.config.steps);
    out
}
