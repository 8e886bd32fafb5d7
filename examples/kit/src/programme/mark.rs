//! `done.txt`: what a finished part consists of.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;

use crate::Performed;
use crate::report::write_file;

/// Its name in a part's folder.
pub(super) const NAME: &str = "done.txt";
const FORM: &str = "finished part, form 1";
const END: &str = "end";

/// A part that came to its end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    part: String,
    settings: String,
    pub(super) seconds: f64,
    /// Missed thresholds.
    pub(super) failed: usize,
    /// Thresholds in all.
    pub(super) thresholds: usize,
    /// Name, size and hash of every file.
    files: Vec<(String, usize, u64)>,
}

/// 64-bit FNV-1a: finds torn and changed files; it is no defence against forgery.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Mark {
    pub(super) fn new(part: &str, settings: &str, done: &Performed, contents: &[(String, String)]) -> Self {
        Mark {
            part: part.into(),
            settings: settings.into(),
            seconds: done.seconds,
            failed: done.report.failed(),
            thresholds: done.report.verdicts.len(),
            files: contents.iter().map(|(name, text)| (name.clone(), text.len(), hash(text.as_bytes()))).collect(),
        }
    }

    fn text(&self) -> String {
        let mut out = format!("{FORM}\npart {}\nsettings {}\n", self.part, self.settings);
        let _ = writeln!(out, "seconds {}\nmissed {} of {}", self.seconds, self.failed, self.thresholds);
        for (name, size, hash) in &self.files {
            let _ = writeln!(out, "file {size} {hash:016x} {name}");
        }
        let _ = writeln!(out, "{END}");
        out
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        let form = field("finished")?;
        if format!("finished {form}") != FORM {
            return None;
        }
        let (part, settings, seconds, missed) = (field("part")?, field("settings")?, field("seconds")?, field("missed")?);
        let (failed, thresholds) = missed.split_once(" of ")?;
        let mut files = Vec::new();
        loop {
            let line = lines.next()?;
            if line == END {
                break;
            }
            let mut words = line.strip_prefix("file ")?.splitn(3, ' ');
            let (size, hash, name) = (words.next()?.parse().ok()?, u64::from_str_radix(words.next()?, 16).ok()?, words.next()?);
            files.push((name.to_owned(), size, hash));
        }
        let (seconds, failed, thresholds) = (seconds.parse().ok()?, failed.parse().ok()?, thresholds.parse().ok()?);
        Some(Mark { part, settings, seconds, failed, thresholds, files })
    }

    /// The mark in `place`, if it is whole, belongs to this part with these settings, and every file is as it says.
    pub(super) fn verified(place: &Path, part: &str, settings: &str) -> Option<Self> {
        let mark = Mark::parse(&std::fs::read_to_string(place.join(NAME)).ok()?)?;
        let intact = |(name, size, want): &(String, usize, u64)| {
            std::fs::read(place.join(name)).is_ok_and(|bytes| bytes.len() == *size && hash(&bytes) == *want)
        };
        (mark.part == part && mark.settings == settings && !mark.files.is_empty() && mark.files.iter().all(intact)).then_some(mark)
    }

    /// Writes it: from then on the part is finished.
    pub(super) fn write(&self, place: &Path) -> std::io::Result<()> {
        write_file(&place.join(NAME), &self.text())
    }

    /// Takes back an earlier mark, and removes what a killed run left half written.
    pub(super) fn clear(place: &Path) -> std::io::Result<()> {
        let gone = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(&place.join(NAME))?;
        let Ok(entries) = std::fs::read_dir(place) else { return Ok(()) };
        for path in entries.filter_map(|entry| entry.ok().map(|e| e.path())) {
            if path.extension().is_some_and(|extension| extension == "partial") {
                gone(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_mark_is_none() {
        let mark = Mark {
            part: "p".into(),
            settings: "version 1, full, device CPU, 2 threads".into(),
            seconds: 1.25,
            failed: 1,
            thresholds: 7,
            files: vec![("a b.csv".into(), 3, hash(b"abc")), ("b.svg".into(), 0, hash(b""))],
        };
        let text = mark.text();
        assert_eq!(Mark::parse(&text), Some(mark));
        for end in 0..text.len() - 1 {
            assert_eq!(Mark::parse(&text[..end]), None, "the first {end} bytes");
        }
    }

    #[test]
    fn hash_of_known_words() {
        // Test vectors of the hash's authors.
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
