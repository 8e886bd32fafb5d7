//! What the network has to learn: a smiling sun over hills and a lake, drawn in code.

/// Red, green and blue in `[0, 1]`, row by row from the top.
pub(crate) fn picture(side: u32) -> Vec<f32> {
    let at = |i: u32| (f64::from(i) + 0.5) / f64::from(side);
    (0..side).flat_map(|row| (0..side).map(move |col| (at(col), at(row)))).flat_map(|(x, y)| colour(x, y)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "colours from 0 to 1")]
fn colour(x: f64, y: f64) -> [f32; 3] {
    // From back to front; each layer covers the ones before by its share of the pixel.
    let mut c = mix([0.30, 0.55, 0.95], [0.80, 0.90, 1.00], y / 0.7);
    let (dx, dy) = (x - 0.5, y - 0.40);
    let distance = dx.hypot(dy);
    let rays = 0.345 + 0.045 * (12.0 * dy.atan2(dx)).cos();
    c = mix(c, [1.00, 0.75, 0.15], edge(rays - distance));
    c = mix(c, [1.00, 0.92, 0.30], edge(0.27 - distance));
    for side in [-0.095, 0.095] {
        c = mix(c, [0.15, 0.10, 0.10], edge(0.038 - (dx - side).hypot(0.75 * (dy + 0.07))));
    }
    let smile = (0.02 - (dx.hypot(dy - 0.01) - 0.15).abs()).min(dy - 0.05);
    c = mix(c, [0.75, 0.15, 0.10], edge(smile));
    c = mix(c, [0.20, 0.60, 0.25], edge(y - 0.80 - 0.06 * (5.0 * x + 0.8).sin()));
    c = mix(c, [0.10, 0.42, 0.18], edge(y - 0.88 - 0.05 * (7.0 * x + 2.5).sin()));
    c.map(|v| v as f32)
}

/// 0 outside, 1 inside, soft over a pixel or two; `inside` is the distance to the border.
fn edge(inside: f64) -> f64 {
    (inside / 0.012 + 0.5).clamp(0.0, 1.0)
}

fn mix(a: [f64; 3], b: [f64; 3], share: f64) -> [f64; 3] {
    let share = share.clamp(0.0, 1.0);
    [0, 1, 2].map(|i| a[i] + share * (b[i] - a[i]))
}
