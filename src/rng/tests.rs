//! Known answers, layout, accuracy and statistics.

use super::*;
use rand::{Rng, RngExt};

const PHILOX: Philox = Philox { key: [7, 3] };

/// Random123's `kat_vectors`, lines `philox4x32 10`.
#[test]
fn known_answers() {
    let zeros = Philox { key: [0; 2] }.block([0; 4]);
    assert_eq!(zeros, [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]);
    let ones = Philox { key: [u32::MAX; 2] }.block([u32::MAX; 4]);
    assert_eq!(ones, [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]);
    let pi = Philox { key: [0xA409_3822, 0x299F_31D0] }.block([0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344]);
    assert_eq!(pi, [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1]);
}

fn drawn(distribution: Distribution, count: usize) -> Vec<f32> {
    let mut out = vec![0.0; count];
    PHILOX.fill(distribution, 5, 11, &mut out);
    out
}

fn word(block: usize, word: usize) -> u32 {
    PHILOX.block([u32::try_from(block).unwrap_or(0), 5, 11, 0])[word]
}

/// Box-Muller in f64 on the documented bits.
fn exact(radius: u32, angle: u32) -> (f64, f64) {
    let v = (radius >> 1).max(1);
    let u = f64::from(if v >> 24 == 0 { v } else { v >> 7 << 7 }) / 2f64.powi(31);
    let (r, turns) = ((-2.0 * u.ln()).sqrt(), (f64::from(angle >> 6) + 0.5) / 2f64.powi(26));
    (r * (std::f64::consts::TAU * turns).cos(), r * (std::f64::consts::TAU * turns).sin())
}

#[test]
fn layout_is_as_documented() {
    for count in [1, 3, 63, 64, 65, 1000] {
        for (e, z) in drawn(Distribution::Uniform, count).into_iter().enumerate() {
            assert_eq!(f64::from(z), (f64::from(word(e / 4, e % 4) >> 9) + 0.5) / 2f64.powi(23));
        }
        for (e, z) in drawn(Distribution::Normal, count).into_iter().enumerate() {
            let (block, pair) = (e / 4, (e % 4) & 2);
            let (x, y) = exact(word(block, pair), word(block, pair + 1));
            let want = if e % 2 == 0 { x } else { y };
            assert!((f64::from(z) - want).abs() < 1e-6, "element {e}: {z} for {want}");
        }
    }
    for count in [1, 33, 2047, 2049, 5000] {
        for (e, z) in drawn(Distribution::Rademacher, count).into_iter().enumerate() {
            assert_eq!(z, if word(e / 128, e / 32 % 4) >> (e % 32) & 1 == 1 { 1.0 } else { -1.0 }, "element {e}");
        }
    }
}

#[test]
fn normals_stay_accurate_at_the_edges() {
    for radius in [0, 1, 2, 3, 255, 256, 1 << 24, (1 << 25) - 1, 1 << 25, 1 << 31, u32::MAX - 256, u32::MAX - 1, u32::MAX] {
        for angle in (0..64u32).flat_map(|k| [k << 26, (k << 26).wrapping_sub(1), (k << 26) + 0x1234]) {
            let (x, y) = box_muller(radius, angle);
            let (want_x, want_y) = exact(radius, angle);
            let error = (f64::from(x) - want_x).abs().max((f64::from(y) - want_y).abs());
            assert!(error < 1e-6, "{radius:#x} {angle:#x}: {error:e}");
        }
    }
}

fn moment(sample: &[f32], power: i32) -> f64 {
    sample.iter().map(|&z| f64::from(z).powi(power)).sum::<f64>() / sample.len() as f64
}

/// Bounds are five standard errors of each sample moment.
#[test]
fn moments() {
    const N: usize = 1 << 20;
    let sigma = 5.0 / (N as f64).sqrt();
    let z = drawn(Distribution::Normal, N);
    for (power, want, variance) in [(1, 0.0, 1f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
        let found = moment(&z, power);
        assert!((found - want).abs() < sigma * variance.sqrt(), "normal moment {power}: {found}");
    }
    let pairs = z.chunks(2).map(|p| f64::from(p[0]) * f64::from(p[1])).sum::<f64>() / (N / 2) as f64;
    assert!(pairs.abs() < sigma * 2f64.sqrt(), "the two of a pair are correlated: {pairs}");
    let u = drawn(Distribution::Uniform, N);
    assert!(u.iter().all(|&u| 0.0 < u && u < 1.0));
    for power in 1..5 {
        let (want, variance) = (1.0 / f64::from(power + 1), 1.0 / f64::from(2 * power + 1));
        assert!((moment(&u, power) - want).abs() < sigma * variance.sqrt(), "uniform moment {power}");
    }
    let s = drawn(Distribution::Rademacher, N);
    assert!(s.iter().all(|s| s.abs() == 1.0));
    assert!(moment(&s, 1).abs() < sigma);
    let neighbours = s.windows(2).map(|p| f64::from(p[0] * p[1])).sum::<f64>() / N as f64;
    assert!(neighbours.abs() < sigma, "neighbouring signs are correlated: {neighbours}");
}

#[test]
fn every_bit_is_even() {
    const BLOCKS: u32 = 1 << 16;
    let mut ones = [[0u32; 32]; 4];
    for block in 0..BLOCKS {
        for (ones, word) in ones.iter_mut().zip(PHILOX.block([block, 0, 0, 0])) {
            for (bit, ones) in ones.iter_mut().enumerate() {
                *ones += word >> bit & 1;
            }
        }
    }
    // 128 counts of standard deviation sqrt(n)/2 = 128: five of them.
    assert!(ones.iter().flatten().all(|&n| n.abs_diff(BLOCKS / 2) < 640), "{ones:?}");
}

#[test]
fn key_step_and_stream_matter() {
    let draw = |key, step, stream| {
        let mut out = [0.0; 8];
        Philox { key }.fill(Distribution::Uniform, step, stream, &mut out);
        out
    };
    let base = draw([1, 2], 3, 4);
    assert_eq!(base, draw([1, 2], 3, 4));
    for other in [draw([2, 2], 3, 4), draw([1, 3], 3, 4), draw([1, 2], 4, 4), draw([1, 2], 3, 5)] {
        assert!(base.iter().zip(other).all(|(a, b)| *a != b));
    }
}

#[test]
fn host_side_draws() {
    let mut rng = PHILOX.rng(5, 11);
    let first = PHILOX.block([0, 5, 11, 1]);
    assert_eq!([rng.next_u32(), rng.next_u32()], first[..2]);
    assert_eq!(rng.next_u64(), u64::from(first[3]) << 32 | u64::from(first[2]));
    let mut bytes = [0; 6];
    rng.fill_bytes(&mut bytes);
    assert_eq!(bytes[..4], PHILOX.block([1, 5, 11, 1])[0].to_le_bytes());
    assert!((0.0..1.0).contains(&rng.random::<f64>()));
    let z = PHILOX.normals_f64(0, 0, 100_001);
    assert_eq!(z.len(), 100_001);
    let mean = |power| z.iter().map(|z| z.powi(power)).sum::<f64>() / z.len() as f64;
    assert!(mean(1).abs() < 0.016 && (mean(2) - 1.0).abs() < 0.023 && (mean(4) - 3.0).abs() < 0.16);
}
