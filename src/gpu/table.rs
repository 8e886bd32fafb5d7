//! A table of matrix-product variants as one line of text.

use std::fmt;
use std::str::FromStr;

use super::choice::{GemmTable, ShapeClass};
use super::ladder::GemmVariant;
use crate::error::{Error, Result};

/// What the text looks like.
const FORM: &str =
    "`forced VARIANT; refused VARIANT, ..; tuned MxKxN VARIANT, ..`, each part at most once, M, K and N exponents of 2 up to 63";

/// `forced tile32; refused register, tile128; tuned 6x12x6 split_k, 7x7x7 tile64`: parts that are empty are left out, so the empty table is the empty text. The numbers
/// are those of [`ShapeClass`].
impl fmt::Display for GemmTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forced = self.forced.iter().map(|v| format!("forced {v}"));
        let list = |name: &str, entries: Vec<String>| Some(format!("{name} {}", entries.join(", "))).filter(|_| !entries.is_empty());
        let refused = list("refused", self.refused.iter().map(GemmVariant::to_string).collect());
        let tuned = list("tuned", self.tuned.iter().map(|(c, v)| format!("{}x{}x{} {v}", c.m, c.k, c.n)).collect());
        f.write_str(&forced.chain(refused).chain(tuned).collect::<Vec<_>>().join("; "))
    }
}

/// What [`Display`](fmt::Display) writes.
impl FromStr for GemmTable {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut table, mut seen) = (GemmTable::default(), Vec::new());
        for part in text.split(';').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (name, entries) = part.split_once(' ').unwrap_or((part, ""));
            let mut entries = entries.split(',').map(str::trim);
            match name {
                _ if seen.contains(&name) => return Err(refuse("table", part)),
                "forced" => {
                    table.forced = Some(variant("forced", entries.next().filter(|_| entries.next().is_none()).unwrap_or_default())?)
                }
                "refused" => table.refused = entries.map(|entry| variant("refused", entry)).collect::<Result<_>>()?,
                "tuned" => table.tuned = entries.map(measured).collect::<Result<_>>()?,
                _ => return Err(refuse("table", part)),
            }
            seen.push(name);
        }
        Ok(table)
    }
}

fn refuse(field: &'static str, found: &str) -> Error {
    Error::Config { method: "GemmTable", field, found: format!("`{found}`"), allowed: FORM }
}

fn variant(field: &'static str, text: &str) -> Result<GemmVariant> {
    text.parse().map_err(|_| refuse(field, text))
}

/// `MxKxN VARIANT`.
fn measured(entry: &str) -> Result<(ShapeClass, GemmVariant)> {
    let wrong = || refuse("tuned", entry);
    let (class, name) = entry.split_once(' ').ok_or_else(wrong)?;
    let sides: Vec<u8> = class.split('x').filter_map(|side| side.parse().ok().filter(|&power| power < 64)).collect();
    match sides[..] {
        [m, k, n] if class.matches('x').count() == 2 => Ok((ShapeClass { m, k, n }, name.parse().map_err(|_| wrong())?)),
        _ => Err(wrong()),
    }
}
