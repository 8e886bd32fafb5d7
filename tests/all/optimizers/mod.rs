//! Optimizers: configuration, laws, trials, cadence, embedding, checkpoints, configurations as text.

mod adaptation;
mod allocations;
mod budget;
mod cadence;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
mod curvature;
mod diagnostics;
#[cfg(feature = "gpu")]
mod dispatches;
mod embed;
mod fuzz;
mod gradients;
mod kfac;
mod laws;
mod muon;
mod rebind;
mod rig;
mod routing;
#[cfg(feature = "serde")]
mod serde;
mod shampoo;
mod soap;

#[cfg(feature = "gpu")]
pub(crate) use rig::methods;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "features add cases")]
    let mut cases = vec![
        budget::cases(),
        rebind::cases(),
        config::cases(),
        laws::cases(),
        kfac::cases(),
        adaptation::cases(),
        allocations::cases(),
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
    #[cfg(feature = "gpu")]
    cases.push(dispatches::cases());
    #[cfg(feature = "checkpoint")]
    cases.push(checkpoint::cases());
    #[cfg(feature = "serde")]
    cases.push(serde::cases());
    cases.into_iter().flatten().collect()
}
