//! Acceptance thresholds and what was measured.

use std::fmt;

/// What a number has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Within(f64, f64),
}

/// One threshold and what was measured. Passed or not follows from the numbers alone; a missing number (NaN) fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What was measured, with the name of the criterion that it belongs to: `A6 kappa 1000: KFAC's distance, worst seed`.
    pub what: String,
    /// The number.
    pub measured: f64,
    limit: Limit,
}

impl Verdict {
    /// `measured <= limit`.
    pub fn at_most(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        Verdict { what: what.into(), measured, limit: Limit::AtMost(limit) }
    }

    /// `measured >= limit`.
    pub fn at_least(what: impl Into<String>, measured: f64, limit: f64) -> Self {
        Verdict { what: what.into(), measured, limit: Limit::AtLeast(limit) }
    }

    /// `|measured - wanted| <= tolerance`.
    pub fn within(what: impl Into<String>, measured: f64, wanted: f64, tolerance: f64) -> Self {
        Verdict { what: what.into(), measured, limit: Limit::Within(wanted, tolerance) }
    }

    /// Whether the number is what it has to be. NaN never is.
    pub fn passed(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.measured <= limit,
            Limit::AtLeast(limit) => self.measured >= limit,
            Limit::Within(wanted, tolerance) => (self.measured - wanted).abs() <= tolerance,
        }
    }

    /// The condition in words: `<= 0.03`.
    pub fn condition(&self) -> String {
        match self.limit {
            Limit::AtMost(limit) => format!("<= {}", short(limit)),
            Limit::AtLeast(limit) => format!(">= {}", short(limit)),
            Limit::Within(wanted, tolerance) => format!("= {} +- {}", number(wanted), short(tolerance)),
        }
    }

    /// The measured number as it is printed.
    pub fn number(&self) -> String {
        number(self.measured)
    }
}

/// Four places where that says something, otherwise in powers of ten.
fn number(x: f64) -> String {
    let size = x.abs();
    if size == 0.0 || (0.01..1e5).contains(&size) || !x.is_finite() { format!("{x:.4}") } else { format!("{x:.3e}") }
}

/// A limit as it was written, unless arithmetic has left it with many digits.
fn short(x: f64) -> String {
    let written = x.to_string();
    if written.len() <= 8 { written } else { number(x) }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "ok    " } else { "FAILED" };
        write!(f, "{verdict} {}: {} {}", self.what, self.number(), self.condition())
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    #[test]
    fn numbers_decide() {
        assert!(Verdict::at_most("x", 1.0, 1.0).passed());
        assert!(!Verdict::at_most("x", 1.0 + 1e-12, 1.0).passed());
        assert!(Verdict::at_least("x", 1.0, 1.0).passed());
        assert!(!Verdict::at_least("x", 1.0 - 1e-12, 1.0).passed());
        assert!(Verdict::within("x", 0.75, 1.0, 0.25).passed());
        assert!(Verdict::within("x", 1.25, 1.0, 0.25).passed());
        assert!(!Verdict::within("x", 0.7, 1.0, 0.25).passed());
        assert!(!Verdict::within("x", 1.3, 1.0, 0.25).passed());
    }

    #[test]
    fn a_corrupted_number_fails() {
        let mut verdict = Verdict::at_most("x", 0.5, 1.0);
        assert!(verdict.passed() && verdict.to_string().starts_with("ok"));
        verdict.measured = 2.0;
        assert!(!verdict.passed() && verdict.to_string().starts_with("FAILED"));
    }

    #[test]
    fn a_missing_number_fails() {
        for verdict in
            [Verdict::at_most("x", f64::NAN, 1.0), Verdict::at_least("x", f64::NAN, 1.0), Verdict::within("x", f64::NAN, 1.0, 9.0)]
        {
            assert!(!verdict.passed(), "{verdict}");
        }
        assert!(!Verdict::at_most("x", f64::INFINITY, 1.0).passed());
        assert!(!Verdict::within("x", f64::INFINITY, 1.0, 9.0).passed());
    }

    #[test]
    fn small_numbers_are_legible() {
        assert_eq!(Verdict::at_most("x", 0.0123, 0.03).to_string(), "ok     x: 0.0123 <= 0.03");
        assert_eq!(Verdict::at_most("x", 1.5e-5, 1e-4).to_string(), "ok     x: 1.500e-5 <= 0.0001");
    }
}
