//! What a preconditioner's refresh costs, by batch and size: `cargo bench --bench refresh`. See `rig` for the devices, sizes and printed lines.
//! Where an operation iterates, flops are the textbook's, so that routes compare.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;

use layerwise::linalg::{InverseRootOptions, Method};
use layerwise::plan::Order;
use layerwise::{Plan, Recorder, Shape, Value, linalg};
use rig::Bound;

/// Batch and order. Of some orders one, and many: where the two ways to a root cross depends on both.
const SIZES: [(usize, usize); 12] =
    [(36, 8), (64, 32), (9, 100), (1, 64), (64, 64), (1, 96), (64, 96), (1, 128), (16, 128), (1, 256), (1, 512), (1, 1024)];

fn main() {
    let mut criterion = rig::criterion();
    for device in rig::devices() {
        for (name, cubes, record) in ROUTINES {
            let mut group = criterion.benchmark_group(name);
            for (batch, n) in SIZES.into_iter().filter(|size| size.1 <= rig::largest()) {
                let bound = cubes.map_or(Bound::Flops, |cubes| Bound::Nominal(cubes * (batch * n.pow(3)) as u64));
                device.bench(&mut group, name, &format!("{batch}x({n}x{n})"), &plan(batch, n, record), bound);
            }
        }
    }
    criterion.final_summary();
}

type Routine = fn(&mut Recorder, Value) -> layerwise::Result<()>;

/// Name; flops by `n^3` where the operation iterates; what is recorded.
const ROUTINES: [(&str, Option<u64>, Routine); 10] = [
    ("eigh", Some(9), |r, a| linalg::eigh(r, a, Order::Ascending).map(|_| ())),
    ("inverse_root 2", Some(10), |r, a| root(r, a, 2, Method::Auto)),
    ("inverse_root 4", Some(10), |r, a| root(r, a, 4, Method::Auto)),
    ("inverse_root 4 eigen", Some(10), |r, a| root(r, a, 4, Method::Eigen)),
    ("inverse_root 4 Newton", Some(10), |r, a| root(r, a, 4, Method::Newton)),
    ("cholesky", None, |r, a| r.cholesky(a, 1e-3, None).map(|_| ())),
    ("qr", None, |r, a| linalg::qr(r, a).map(|_| ())),
    ("spd_inverse", None, |r, a| linalg::spd_inverse(r, a, 1e-3, None).map(|_| ())),
    ("spd_solve", None, |r, a| {
        let b = r.external("b", Shape::new(a.items(), a.rows(), 16))?;
        linalg::spd_solve(r, a, b, 1e-3, None).map(|_| ())
    }),
    // Of the first rows, an eighth.
    ("orthonormalise", None, |r, a| linalg::orthonormalise(r, a.row_range(0..a.rows().div_ceil(8))?).map(|_| ())),
];

fn root(r: &mut Recorder, a: Value, p: u32, method: Method) -> layerwise::Result<()> {
    linalg::inverse_root(r, a, p, &InverseRootOptions { method, ..InverseRootOptions::default() }).map(|_| ())
}

fn plan(batch: usize, n: usize, record: Routine) -> Plan {
    let mut r = Recorder::new();
    let a = r.external("spd", Shape::new(batch, n, n)).expect("a shape without zeros");
    record(&mut r, a).expect("operands fit");
    r.finish()
}
