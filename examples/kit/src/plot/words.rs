//! How much room words take. Browsers choose the font, so these are estimates from above for Helvetica and Arial.

/// plotters draws text of size s at s / 1.24 pixels.
const SHRINK: f64 = 1.24;

/// Width in pixels of text of this size.
#[allow(clippy::cast_possible_truncation, reason = "pixels")]
pub(super) fn width(text: &str, size: i32) -> i32 {
    let em: f64 = text.chars().map(character).sum();
    (1.05 * em * f64::from(size) / SHRINK).ceil() as i32
}

fn character(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | 't' | 'f' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | '[' | ']' | '/' | ' ' => 0.3,
        'r' | '-' | '"' => 0.36,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.92,
        'A'..='Z' | '&' => 0.73,
        '⁰' | '¹' | '²' | '³' | '⁴' | '⁵' | '⁶' | '⁷' | '⁸' | '⁹' | '⁻' => 0.36,
        _ if c.is_ascii() => 0.59,
        _ => 0.7,
    }
}

/// Text in lines no wider than `room`; a word that is too long has a line of its own.
pub(super) fn wrap(text: &str, size: i32, room: i32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
