//! Table and CSV.

use std::fmt::Write as _;

use kit::{Column, Table};
use layerwise::feature_learning::selection::{Criterion, Outcome, outcomes, select};
use layerwise::feature_learning::{LinearRepresentation, Method, Record};

/// Everything a study measured.
pub(super) struct Study {
    pub(super) config: LinearRepresentation,
    pub(super) methods: Vec<Method>,
    pub(super) records: Vec<Record>,
    pub(super) outcomes: Vec<Outcome>,
}

impl Study {
    pub(super) fn new(config: LinearRepresentation, methods: Vec<Method>, records: Vec<Record>) -> Self {
        let outcomes = outcomes(&records);
        Study { config, methods, records, outcomes }
    }

    /// The outcome at the learning rate that the training loss selects.
    pub(super) fn selected(&self, method: Method, kappa: f64) -> Option<&Outcome> {
        select(&self.outcomes, method, kappa, Criterion::TrainExcess)
    }

    /// One row per trial and log point; metrics of a trial that diverged or froze are `inf` from that point on.
    pub(super) fn csv(&self) -> String {
        let mut out =
            String::from("method,kappa,rotated,schedule,seed,learning_rate,step,train_excess,subspace_distance,transfer_excess\n");
        for r in &self.records {
            let m = r.measured;
            let [train, distance, transfer] = [m.train_excess, m.subspace_distance, m.transfer_excess]
                .map(|x| if m.is_sound() { format!("{x:.6e}") } else { "inf".into() });
            let (method, kappa, rotated, schedule) = (r.method, r.kappa, r.rotated, r.schedule.name());
            let (seed, rate, step) = (r.seed, r.learning_rate, r.step);
            let _ = writeln!(out, "{method},{kappa},{rotated},{schedule},{seed},{rate},{step},{train},{distance},{transfer}");
        }
        out
    }

    /// Per anisotropy and method: geometric means over seeds at the selected learning rate.
    pub(super) fn table(&self) -> Table {
        let (seeds, steps) = (self.config.seeds, self.config.steps);
        let columns = [
            Column::number("kappa"),
            Column::text("method"),
            Column::number("lr"),
            Column::number("train excess"),
            Column::number("subspace distance"),
            Column::number("transfer excess"),
            Column::number("diverged"),
            Column::number("best transfer (lr)"),
        ];
        let mut table = Table::new(format!("After {steps} steps, at the learning rate that the train excess selects"), columns);
        for &kappa in &self.config.kappas {
            for &method in &self.methods {
                let mine = || self.outcomes.iter().filter(|o| o.method == method && o.kappa == kappa);
                let (trials, diverged) = (mine().map(|o| o.finals.len()).sum::<usize>(), mine().map(Outcome::unsound).sum::<usize>());
                let [rate, train, distance, transfer] = match self.selected(method, kappa) {
                    Some(o) => [
                        o.learning_rate.to_string(),
                        format!("{:.2e}", o.train_excess()),
                        format!("{:.4}", o.subspace_distance()),
                        format!("{:.2e}", o.transfer_excess()),
                    ],
                    None => ["none", "-", "-", "-"].map(str::to_owned),
                };
                let best = select(&self.outcomes, method, kappa, Criterion::TransferExcess)
                    .map_or_else(String::new, |o| format!("{:.2e} ({})", o.transfer_excess(), o.learning_rate));
                let diverged = format!("{diverged}/{trials}");
                table.row([kappa.to_string(), method.to_string(), rate, train, distance, transfer, diverged, best]);
            }
        }
        table.note = format!("geometric means over {seeds} seeds; lr: lowest train excess among those that no seed diverged or froze at");
        table
    }
}
