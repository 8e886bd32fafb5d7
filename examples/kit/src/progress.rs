//! A progress bar on the terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// How far an experiment is. Draws on stderr where that is a terminal.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar that starts its lines with `prefix` (a programme's `3/10`; may be empty).
    pub fn new(prefix: impl Into<String>) -> Self {
        let bar = ProgressBar::new(0).with_prefix(prefix.into());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {msg:>10} {wide_bar} {percent:>3}%  {per_sec}  {eta} left") {
            bar.set_style(style);
        }
        Progress { bar }
    }

    /// Draws nothing.
    pub fn hidden() -> Self {
        Progress { bar: ProgressBar::hidden() }
    }

    /// The work that is to be done, in a unit of the experiment's choice: trial steps, seeds.
    pub fn begin(&self, total: usize) {
        self.bar.reset();
        self.bar.set_length(total as u64);
    }

    /// What is being done.
    pub fn describe(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// The work done so far.
    pub fn at(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// More work done.
    pub fn add(&self, more: usize) {
        self.bar.inc(more as u64);
    }

    /// Takes the bar off the terminal.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
