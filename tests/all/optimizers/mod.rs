//! Optimizers: configuration, laws, trials, cadence, embedding, checkpoints.

mod budget;
mod cadence;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
mod embed;
mod gradients;
mod kfac;
mod laws;
mod muon;
mod rebind;
mod rig;
mod shampoo;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "feature checkpoint adds cases")]
    let mut cases = vec![
        budget::cases(),
        rebind::cases(),
        config::cases(),
        laws::cases(),
        kfac::cases(),
        shampoo::cases(),
        muon::cases(),
        gradients::cases(),
        cadence::cases(),
        embed::cases(),
    ];
    #[cfg(feature = "checkpoint")]
    cases.push(checkpoint::cases());
    cases.into_iter().flatten().collect()
}
