//! The digits, split and shuffled by seed.

use std::ops::Range;

use layerwise::rng::Philox;

/// Pixels and classes: see README.md for source and licence.
const TEXT: &str = include_str!("digits.csv");

/// Side of an image.
pub(crate) const SIDE: usize = 8;
/// Pixels, and the 1 that makes the bias a column of the weight.
pub(crate) const INPUTS: usize = SIDE * SIDE + 1;
/// Classes.
pub(crate) const CLASSES: usize = 10;
/// Rows for training, for the choice of the learning rate, and for the final judgement.
pub(crate) const PARTS: [(&str, Range<usize>); 3] = [("train", 0..TRAIN), ("validation", TRAIN..TRAIN + 217), ("test", TRAIN + 217..ROWS)];
/// Training samples.
pub(crate) const TRAIN: usize = 1280;
/// All samples.
pub(crate) const ROWS: usize = 1797;

/// Stream of the shuffle, among those of a seed.
const SHUFFLE: u32 = 1;

/// All samples in the order of one seed.
pub(crate) struct Samples {
    /// `[ROWS, INPUTS]`: pixels over 16, and 1.
    pub(crate) x: Vec<f32>,
    /// `[ROWS, 1]`.
    pub(crate) labels: Vec<f32>,
}

/// Rows of the file as numbers.
fn rows() -> Result<Vec<Vec<f32>>, String> {
    let rows: Result<Vec<Vec<f32>>, _> = TEXT.lines().map(|line| line.split(',').map(str::parse).collect()).collect();
    let rows = rows.map_err(|error| format!("digits.csv: {error}"))?;
    if rows.len() == ROWS && rows.iter().all(|row| row.len() == INPUTS) { Ok(rows) } else { Err("digits.csv is not complete".into()) }
}

impl Samples {
    /// Shuffles by `seed`: parts and batches are consecutive rows from here on.
    ///
    /// # Errors
    /// A file that is not as it was committed.
    pub(crate) fn load(seed: u32) -> Result<Samples, String> {
        let mut rows = rows()?;
        let philox = Philox { key: [seed, SHUFFLE] };
        // Forward Fisher-Yates: every prefix is a uniform draw.
        for (i, counter) in (0..ROWS).zip(0u32..) {
            let word = u64::from(philox.block([counter, 0, 0, 1])[0]);
            let j = usize::try_from((word * (ROWS - i) as u64) >> 32).map_err(|error| error.to_string())?;
            rows.swap(i, i + j);
        }
        let labels = rows.iter().map(|row| row[INPUTS - 1]).collect();
        let x = rows.iter().flat_map(|row| row[..INPUTS - 1].iter().map(|pixel| pixel / 16.0).chain([1.0])).collect();
        Ok(Samples { x, labels })
    }
}
