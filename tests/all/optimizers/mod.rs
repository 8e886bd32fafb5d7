//! Optimizers: configuration, laws, trials, cadence, embedding.

mod cadence;
mod config;
mod embed;
mod kfac;
mod laws;
mod rig;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    [config::cases(), laws::cases(), kfac::cases(), cadence::cases(), embed::cases()].into_iter().flatten().collect()
}
