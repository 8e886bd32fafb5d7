//! Optimizers: configuration, laws, trials, cadence, embedding, checkpoints.

mod adaptation;
mod budget;
mod cadence;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
mod curvature;
mod diagnostics;
mod embed;
mod fuzz;
mod gradients;
mod kfac;
mod laws;
mod muon;
mod rebind;
mod rig;
mod routing;
mod shampoo;
mod soap;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "feature checkpoint adds cases")]
    let mut cases = vec![
        budget::cases(),
        rebind::cases(),
        config::cases(),
        laws::cases(),
        kfac::cases(),
        adaptation::cases(),
        curvature::cases(),
        shampoo::cases(),
        soap::cases(),
        muon::cases(),
        gradients::cases(),
        routing::cases(),
        diagnostics::cases(),
        fuzz::cases(),
        cadence::cases(),
        embed::cases(),
    ];
    #[cfg(feature = "checkpoint")]
    cases.push(checkpoint::cases());
    cases.into_iter().flatten().collect()
}
