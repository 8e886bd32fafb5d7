//! The optimizers, each with six learning rates half a decade apart.

use layerwise::optim::{
    Accumulation, Adam, AdamW, DampingSplit, Foof, Kfac, Method, Muon, NaturalGradient, OutputGradients, Sgd, Shampoo, Soap,
    StatisticsStart,
};

/// Learning rates of each: the whole tuning budget.
pub(crate) const RATES: usize = 6;

/// An optimizer with its largest learning rate.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// In files and flags.
    pub(crate) name: &'static str,
    /// In legends.
    pub(crate) label: &'static str,
    pub(crate) method: Method,
    /// Uses layers' inputs or output gradients.
    pub(crate) taps: bool,
    largest: f64,
}

impl Contender {
    /// `count` learning rates, half a decade apart, the middle ones of all where they are fewer.
    pub(crate) fn rates(&self, count: usize) -> Vec<f64> {
        let skipped = (RATES - count.min(RATES)) / 2;
        let digit = |i: usize| if i.is_multiple_of(2) { 1.0 } else { 1.0 / 3.0 };
        let all = (0..RATES).map(|i| self.largest * digit(i) * 10f64.powf(-((i / 2) as f64)));
        // To one digit, as a person writes them: 1 and 3 in turn.
        all.skip(skipped).take(count).map(|rate| format!("{rate:.0e}").parse().unwrap_or(rate)).collect()
    }
}

fn contender(name: &'static str, label: &'static str, method: impl Into<Method>, taps: bool, largest: f64) -> Contender {
    Contender { name, label, method: method.into(), taps, largest }
}

/// Every optimizer. What differs from the library's defaults is here.
pub(crate) fn all() -> Vec<Contender> {
    let kfac = Kfac {
        damping: 1e-2,
        damping_split: DampingSplit::Pi,
        statistics_start: StatisticsStart::BiasCorrected,
        output_gradients: OutputGradients::PerSample,
        kl_clip: None,
        ..Kfac::default()
    };
    let shampoo = Shampoo { accumulation: Accumulation::Ema, precondition_every: 10, ..Shampoo::default() };
    vec![
        contender("sgd", "SGD, momentum 0.9", Sgd { momentum: 0.9, ..Sgd::default() }, false, 3.0),
        contender("adam", "Adam", Adam::default(), false, 3e-1),
        contender("adamw", "AdamW", AdamW::default(), false, 3e-1),
        contender("muon", "Muon", Muon::default(), false, 3e-1),
        contender("shampoo", "Shampoo", shampoo, false, 3e-1),
        contender("soap", "SOAP", Soap::default(), false, 1e-1),
        contender("kfac", "KFAC", kfac, true, 3e-1),
        contender("foof", "FOOF", Foof::default(), true, 1.0),
        contender(
            "ngd_emp",
            "natural gradient, empirical",
            NaturalGradient { momentum: 0.9, damping: 1e-1, ..NaturalGradient::default() },
            true,
            3e-1,
        ),
    ]
}
