//! Learned first-layer features as tiles of 8 x 8 pixels.

use std::fmt::Write as _;

use super::data::SIDE;

/// Grey levels.
const LEVELS: usize = 33;
/// Pixels of the picture for one of a tile, and between tiles.
const PIXEL: usize = 5;
const GAP: usize = 6;
/// Tiles in a row.
const ACROSS: usize = 8;
const TOP: usize = 74;
const MARGIN: usize = 20;

/// One panel of tiles: its title, and a row of weights for each unit.
pub(crate) type Tiles<'a> = (String, Vec<&'a [f32]>);

/// Panels side by side; grey is 0, black and white are the unit's largest magnitude.
pub(crate) fn svg(title: &str, subtitle: &str, panels: &[Tiles<'_>]) -> String {
    let tile = SIDE * PIXEL + GAP;
    let (wide, rows) = (ACROSS * tile, panels.iter().map(|p| p.1.len().div_ceil(ACROSS)).max().unwrap_or(0));
    let (width, height) = (MARGIN + panels.len() * (wide + MARGIN), TOP + 28 + rows * tile + MARGIN);
    let mut out =
        format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n");
    let _ = writeln!(
        out,
        "<rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n<g font-family=\"Helvetica, Arial, sans-serif\" fill=\"#2d2d2d\">"
    );
    let mut text = |x: usize, y: usize, size: usize, words: &str| {
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\">{}</text>", kit::escape(words));
    };
    text(MARGIN, 30, 20, title);
    text(MARGIN, 52, 13, subtitle);
    for (i, (name, _)) in panels.iter().enumerate() {
        text(MARGIN + i * (wide + MARGIN), TOP + 14, 15, name);
    }
    out.push_str("</g>\n");
    let mut paths = vec![String::new(); LEVELS];
    for (panel, (_, units)) in panels.iter().enumerate() {
        for (u, unit) in units.iter().enumerate() {
            let (left, top) = (MARGIN + panel * (wide + MARGIN) + u % ACROSS * tile, TOP + 28 + u / ACROSS * tile);
            let largest = unit.iter().fold(f32::MIN_POSITIVE, |m, w| m.max(w.abs()));
            for (i, w) in unit.iter().enumerate() {
                let _ =
                    write!(paths[level(w / largest)], "M{} {}h{PIXEL}v{PIXEL}h-{PIXEL}z", left + i % SIDE * PIXEL, top + i / SIDE * PIXEL);
            }
        }
    }
    for (i, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let grey = 255 * i / (LEVELS - 1);
        let _ = writeln!(out, "<path fill=\"#{grey:02x}{grey:02x}{grey:02x}\" d=\"{path}\"/>");
    }
    out.push_str("</svg>\n");
    out
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and LEVELS - 1")]
fn level(share: f32) -> usize {
    let middle = (LEVELS / 2) as f32;
    (middle + share.clamp(-1.0, 1.0) * middle).round() as usize
}
