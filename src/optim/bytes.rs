//! Values as bytes, and a sum over them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, View};

/// Entries of `__metadata__`, sorted.
pub(super) type Facts = BTreeMap<String, String>;

/// A part's values on their way out.
pub(super) struct Values<'a> {
    pub(super) shape: [usize; 3],
    pub(super) values: &'a [f32],
}

impl View for Values<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if cfg!(target_endian = "little") {
            return Cow::Borrowed(bytemuck::cast_slice(self.values));
        }
        self.values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        4 * self.values.len()
    }
}

/// Little-endian f32.
pub(super) fn words(data: &[u8]) -> impl Iterator<Item = f32> {
    data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

/// 64 bits over names, shapes and contents, all in sorted order. Each step is a bijection of the sum, so no change of a single word goes unseen.
pub(super) fn checksum<'a>(facts: &Facts, tensors: impl Iterator<Item = (&'a str, &'a [usize], Cow<'a, [u8]>)>) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut mix = |word: u64| {
        sum = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sum ^= sum >> 32;
    };
    let mut add = |bytes: &[u8]| {
        mix(bytes.len() as u64);
        let (chunks, rest) = bytes.as_chunks();
        chunks.iter().for_each(|&chunk| mix(u64::from_le_bytes(chunk)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        mix(u64::from_le_bytes(last));
    };
    for (key, value) in facts.iter().filter(|(key, _)| *key != "checksum") {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    for (name, shape, data) in tensors {
        add(name.as_bytes());
        shape.iter().for_each(|&n| add(&(n as u64).to_le_bytes()));
        add(&data);
    }
    format!("{sum:016x}")
}
