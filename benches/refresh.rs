//! What a preconditioner's refresh costs, by batch and size: `cargo bench --bench refresh`. See `rig` for the devices.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a program for a terminal, which stops where it can't run")]

#[allow(dead_code, reason = "each bench uses its part")]
mod rig;

use layerwise::{Plan, Recorder, Shape, Value, linalg};
use rig::Bound;

const SIZES: [(usize, usize); 7] = [(36, 8), (9, 100), (64, 64), (16, 128), (1, 256), (1, 512), (1, 1024)];

fn main() {
    let mut criterion = rig::criterion();
    for device in rig::devices() {
        for (name, record) in ROUTINES {
            let mut group = criterion.benchmark_group(name);
            for (batch, n) in SIZES {
                let mut prepared = rig::bind(&device.context, &plan(batch, n, record));
                device.bench(&mut group, &format!("{batch}x({n}x{n})"), &mut prepared, &[0], Bound::Flops);
            }
        }
    }
    criterion.final_summary();
}

type Routine = fn(&mut Recorder, Value) -> layerwise::Result<()>;

const ROUTINES: [(&str, Routine); 5] = [
    ("cholesky", |r, a| r.cholesky(a, 1e-3, None).map(|_| ())),
    ("qr", |r, a| linalg::qr(r, a).map(|_| ())),
    ("spd_inverse", |r, a| linalg::spd_inverse(r, a, 1e-3, None).map(|_| ())),
    ("spd_solve", |r, a| {
        let b = r.external("b", Shape::new(a.items(), a.rows(), 16))?;
        linalg::spd_solve(r, a, b, 1e-3, None).map(|_| ())
    }),
    // Of the first rows, an eighth.
    ("orthonormalise", |r, a| linalg::orthonormalise(r, a.row_range(0..a.rows().div_ceil(8))?).map(|_| ())),
];

fn plan(batch: usize, n: usize, record: Routine) -> Plan {
    let mut r = Recorder::new();
    let a = r.external("spd", Shape::new(batch, n, n)).expect("a shape without zeros");
    record(&mut r, a).expect("operands fit");
    r.finish()
}
