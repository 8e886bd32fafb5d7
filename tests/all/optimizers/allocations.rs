//! What a steady-state step on the CPU path allocates.

use allocation_counter::measure;
use layerwise::optim::{Group, Optimizer};

use super::rig::{Layer, ensure, methods};
use crate::case::{Case, Outcome, case_host};

pub(super) fn cases() -> Vec<Case> {
    vec![case_host("optimizers::allocations::counter", counter), case_host("optimizers::allocations::steady_state", steady_state)]
}

/// A step makes one list: of the buffers that it has locked.
const ALLOWED: u64 = 1;

/// The counter sees what is allocated, also by a vector that grows.
fn counter() -> Outcome {
    let (none, one) = (measure(|| {}).count_total, measure(|| drop(std::hint::black_box(vec![0u8; 100]))).count_total);
    ensure((none, one) == (0, 1), || format!("{none} and {one} allocations instead of 0 and 1"))
}

/// Every method, with refreshes and without, on a thread of a pool: handing work to a pool from outside allocates now and then.
fn steady_state() -> Outcome {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| {
        let ctx = layerwise::Context::cpu();
        for method in methods() {
            for (out, inn) in [(5, 6), (48, 69)] {
                let layers = Layer::stack(&ctx, 3, 2, out, inn, 7)?;
                layers.iter().zip(0..).try_for_each(|(layer, i)| layer.feed(40 + i, 1))?;
                let parameters = layers.iter().enumerate().map(|(i, layer)| layer.parameter(&format!("w{i}")));
                let mut optimizer = Optimizer::builder(&ctx).group(parameters.fold(Group::new(method), Group::parameter)).build()?;
                let mut step = || -> Result<u64, layerwise::Error> {
                    let mut result = Ok(());
                    let count = measure(|| result = optimizer.step()).count_total;
                    result.map(|()| count)
                };
                // Past every refresh: buffers have their size then.
                for _ in 0..25 {
                    step()?;
                }
                for turn in 0..20 {
                    let count = step()?;
                    ensure(count <= ALLOWED, || format!("{method:?} on {out} x {}: {count} allocations in step {turn}", inn + 1))?;
                }
            }
        }
        Ok(())
    })
}
