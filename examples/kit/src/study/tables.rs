//! Table and data file.

use std::fmt::Write as _;

use layerwise::feature_learning::selection::Outcome;

use super::{Run, Study};
use crate::table::{Column, Table};

impl Study {
    /// One row per trial and log point; metrics of a trial that diverged or froze are `inf` from that point on.
    pub fn csv(&self) -> String {
        let mut out =
            String::from("setting,method,kappa,rotated,schedule,seed,learning_rate,step,train_excess,subspace_distance,transfer_excess\n");
        for run in &self.runs {
            let name = &run.setting.name;
            for r in &run.records {
                let m = r.measured;
                let [train, distance, transfer] = [m.train_excess, m.subspace_distance, m.transfer_excess]
                    .map(|x| if m.is_sound() { format!("{x:.6e}") } else { "inf".into() });
                let (method, kappa, rotated, schedule) = (r.method, r.kappa, r.rotated, r.schedule.name());
                let (seed, rate, step) = (r.seed, r.learning_rate, r.step);
                let _ = writeln!(out, "{name},{method},{kappa},{rotated},{schedule},{seed},{rate},{step},{train},{distance},{transfer}");
            }
        }
        out
    }
}

impl Run {
    /// Per anisotropy and method: geometric means over seeds at the selected learning rate, and the best transfer.
    pub fn table(&self) -> Table {
        let (seeds, steps) = (self.setting.config.seeds, self.setting.config.steps);
        let columns = [
            Column::number("kappa"),
            Column::text("method"),
            Column::number("lr"),
            Column::number("train excess"),
            Column::number("subspace distance"),
            Column::number("transfer excess"),
            Column::number("diverged"),
            Column::number("best transfer: lr"),
            Column::number("distance"),
            Column::number("transfer excess"),
        ];
        let mut table = Table::new(format!("{}: after {steps} steps", self.setting.name), columns);
        for &kappa in &self.setting.config.kappas {
            for method in self.methods() {
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
                let [best, best_distance, best_transfer] = match self.oracle(method, kappa) {
                    Some(o) => {
                        [o.learning_rate.to_string(), format!("{:.4}", o.subspace_distance()), format!("{:.2e}", o.transfer_excess())]
                    }
                    None => ["none", "-", "-"].map(str::to_owned),
                };
                let diverged = format!("{diverged}/{trials}");
                let name = method.to_string();
                table.row([kappa.to_string(), name, rate, train, distance, transfer, diverged, best, best_distance, best_transfer]);
            }
        }
        table.note = format!(
            "geometric means over {seeds} seeds; lr: lowest train excess among those that no seed diverged or froze at; best transfer: an oracle's choice"
        );
        table
    }
}
