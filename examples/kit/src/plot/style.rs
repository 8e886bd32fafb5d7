//! Colours, markers and dashes: distinct for the colour-blind, and in black and white.

/// Shape of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A square on its corner.
    Diamond,
    /// A triangle, tip up.
    Up,
    /// A triangle, tip down.
    Down,
    /// A pentagon.
    Pentagon,
    /// A cross of two diagonals.
    Cross,
    /// A cross of a horizontal and a vertical line.
    Plus,
}

/// Dashes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dash {
    /// No gaps.
    Solid,
    /// Long dashes.
    Dashed,
    /// Short dashes.
    Dotted,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Red, green, blue.
    pub colour: (u8, u8, u8),
    /// Shape of its markers.
    pub marker: Marker,
    /// Markers filled with the colour, or white inside.
    pub filled: bool,
    /// Dashes of its line.
    pub dash: Dash,
}

const fn style(colour: (u8, u8, u8), marker: Marker, filled: bool, dash: Dash) -> Style {
    Style { colour, marker, filled, dash }
}

/// Okabe and Ito's palette without its yellow, which is too light for lines on white, and black last.
const PALETTE: [(u8, u8, u8); 7] =
    [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (40, 40, 40)];
const MARKERS: [Marker; 8] =
    [Marker::Diamond, Marker::Circle, Marker::Up, Marker::Square, Marker::Down, Marker::Pentagon, Marker::Cross, Marker::Plus];

/// Methods: name in tables and flags, label in plots, style; so that a method looks the same in every plot. Variants share the colour of what they vary.
#[rustfmt::skip]
const KNOWN: [(&str, &str, Style); 25] = [
    ("sgd", "SGD", style((213, 94, 0), Marker::Circle, true, Dash::Solid)),
    ("sign", "sign step", style((150, 60, 0), Marker::Cross, true, Dash::Dotted)),
    ("bn_in", "BN-input + SGD", style((110, 110, 110), Marker::Circle, false, Dash::Dashed)),
    ("bn_in_adam", "BN-input + Adam", style((110, 110, 110), Marker::Up, false, Dash::Dotted)),
    ("bn_hid", "BN-hidden + SGD", style((120, 90, 20), Marker::Circle, false, Dash::Dotted)),
    ("bn_hid_adam", "BN-hidden + Adam", style((120, 90, 20), Marker::Up, true, Dash::Dotted)),
    ("amgd", "AMGD", style((230, 159, 0), Marker::Square, true, Dash::Solid)),
    ("amgd_split", "AMGD, split batch", style((150, 110, 0), Marker::Square, false, Dash::Dashed)),
    ("dfw", "DFW", style((0, 158, 115), Marker::Down, true, Dash::Dashed)),
    ("adam", "Adam", style((204, 121, 167), Marker::Up, true, Dash::Solid)),
    ("adamw", "AdamW", style((150, 60, 110), Marker::Up, false, Dash::Dashed)),
    ("kfac", "KFAC", style((0, 114, 178), Marker::Diamond, true, Dash::Solid)),
    ("kfac_ema", "KFAC, EMA", style((0, 60, 100), Marker::Diamond, false, Dash::Dashed)),
    ("kfac_ls", "KFAC-LS", style((0, 60, 100), Marker::Diamond, true, Dash::Dotted)),
    ("kfac_emp", "KFAC, empirical", style((60, 60, 140), Marker::Diamond, false, Dash::Dotted)),
    ("foof", "FOOF", style((86, 180, 233), Marker::Down, true, Dash::Solid)),
    ("foof_ema", "FOOF, EMA", style((30, 120, 180), Marker::Down, false, Dash::Dashed)),
    ("shampoo", "Shampoo", style((0, 158, 115), Marker::Plus, true, Dash::Solid)),
    ("eigenvalue_corrected_shampoo", "Shampoo, eigenvalue-corrected", style((0, 120, 120), Marker::Plus, true, Dash::Dotted)),
    ("soap", "SOAP", style((0, 95, 70), Marker::Cross, true, Dash::Dashed)),
    ("muon", "Muon", style((40, 40, 40), Marker::Pentagon, true, Dash::Solid)),
    ("ngd_gn", "natural gradient", style((140, 20, 40), Marker::Pentagon, true, Dash::Dashed)),
    ("ngd_emp", "natural gradient, empirical", style((200, 80, 90), Marker::Pentagon, false, Dash::Dotted)),
    ("random_features", "random features", style((130, 130, 130), Marker::Plus, true, Dash::Dashed)),
    ("linear", "linear model", style((90, 90, 90), Marker::Cross, true, Dash::Solid)),
];

/// What plots call a method, by its name in tables and flags; another name is its own label.
pub fn label(name: &str) -> &str {
    KNOWN.iter().find(|(known, ..)| *known == name).map_or(name, |(_, label, _)| label)
}

impl Style {
    /// The style of a method, by its name in tables and flags; another name gets one of [`nth`](Self::nth), always the same for that name.
    pub fn of(name: &str) -> Style {
        match KNOWN.iter().find(|(known, ..)| *known == name) {
            Some((.., style)) => *style,
            None => Style::nth(name.bytes().fold(7usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte))) % 56),
        }
    }

    /// The i-th of 56 styles for things without a colour of their own: both colour and marker change from one to the next.
    pub fn nth(i: usize) -> Style {
        let dash = [Dash::Solid, Dash::Dashed, Dash::Dotted][i % 3];
        style(PALETTE[i % PALETTE.len()], MARKERS[i % MARKERS.len()], (i / MARKERS.len()).is_multiple_of(2), dash)
    }

    /// The same with a solid line.
    pub fn solid(self) -> Style {
        Style { dash: Dash::Solid, ..self }
    }

    /// The same with long dashes.
    pub fn dashed(self) -> Style {
        Style { dash: Dash::Dashed, ..self }
    }

    /// The same with short dashes.
    pub fn dotted(self) -> Style {
        Style { dash: Dash::Dotted, ..self }
    }

    /// The same with markers that are white inside.
    pub fn hollow(self) -> Style {
        Style { filled: false, ..self }
    }

    /// The same with another marker.
    pub fn marked(self, marker: Marker) -> Style {
        Style { marker, ..self }
    }
}
