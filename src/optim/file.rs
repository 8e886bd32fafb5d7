//! State in files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::optimizer::Optimizer;
use crate::error::{Error, Result};

/// The longest header of a safetensors file.
const LONGEST_HEADER: u64 = 100_000_000;

impl Optimizer {
    /// Writes [`state_bytes`](Self::state_bytes) to a file, blocking. Weights are not in it.
    ///
    /// The bytes go to a new file in the same directory, to the disk, and then under the name `path`: whatever happens, `path` is the old file or
    /// the whole new one.
    ///
    /// # Errors
    /// [`Error::File`], and those of [`state_bytes`](Self::state_bytes).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.state_bytes_blocking()?;
        replace(path, &bytes).map_err(|error| file_error("writing", path, &error))
    }

    /// Takes over the state in a file that [`save`](Self::save) wrote, as [`from_state_bytes`](Self::from_state_bytes) does, blocking.
    ///
    /// # Errors
    /// [`Error::File`], and those of [`from_state_bytes`](Self::from_state_bytes).
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        // Nothing longer can fit this optimizer; a wrong file does not fill the memory.
        let most = self.kept_bytes().saturating_add(LONGEST_HEADER + 8);
        let bytes = read_at_most(path, most).map_err(|error| file_error("reading", path, &error))?;
        let Some(bytes) = bytes else {
            let reason = format!("`{}` is longer than {most} bytes, the most that this optimizer's state takes", path.display());
            return Err(Error::Checkpoint { mismatches: vec![reason] });
        };
        self.from_state_bytes_blocking(&bytes)
    }
}

fn file_error(doing: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::File { doing, path: path.display().to_string(), reason: error.to_string() }
}

/// The file's bytes; `None` where there are more. What is no regular file may have more than its length says.
fn read_at_most(path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > most {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= most))
}

/// Puts `bytes` under the name `path` at once.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path)?;
    let outcome = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = outcome.and_then(|()| fs::rename(&temporary, path)) {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    // The new name, too, has to reach the disk; only Unix lets one ask for it.
    #[cfg(unix)]
    File::open(directory(path))?.sync_all()?;
    Ok(())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A new file in the directory of `path`, under a name that nobody has.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a file name"))?;
    loop {
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", COUNT.fetch_add(1, Ordering::Relaxed)));
        let temporary = directory(path).join(temporary);
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (temporary, file)),
        }
    }
}
