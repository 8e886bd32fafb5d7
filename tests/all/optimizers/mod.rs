//! Optimizers: configuration, laws, trials, cadence, embedding, checkpoints, configurations as text.

mod cadence;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
mod embed;
mod kfac;
mod laws;
mod muon;
mod rig;
#[cfg(feature = "serde")]
mod serde;
mod shampoo;

use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    #[allow(unused_mut, reason = "features add cases")]
    let mut cases = vec![config::cases(), laws::cases(), kfac::cases(), shampoo::cases(), muon::cases(), cadence::cases(), embed::cases()];
    #[cfg(feature = "checkpoint")]
    cases.push(checkpoint::cases());
    #[cfg(feature = "serde")]
    cases.push(serde::cases());
    cases.into_iter().flatten().collect()
}
