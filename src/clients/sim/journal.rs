//! The simulator's memory beyond its process: an append-only file, one line of JSON an effect.
//!
//! A line is handed to the operating system in one piece, under the ledger's lock and before the effect is booked or
//! answered; so the order on disk is the order in memory, and what was answered survives the death of the process. It
//! is not synced: the death of the machine may take the last lines with it. For a simulator that is good enough, and
//! it costs microseconds where a sync costs milliseconds.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::effects::Entry;
use crate::domain::Timestamp;
use crate::file_lock;
use crate::ports::call::CallError;

const FORMAT: &str = "order-service simulator journal";
const VERSION: u32 = 1;
/// Longest line, in bytes, with its end. 200 products and every text at its longest take half of it.
const MAX_LINE: u64 = 64 * 1024;

/// Why a simulator cannot be opened with a journal.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The operating system refused.
    #[error(
        "the simulator's journal {} cannot be opened or read ({error}); check the path or set another simulator.journal",
        path.display()
    )]
    File {
        /// The journal.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// Somebody else writes to it.
    #[error(
        "the simulator's journal {} is in use by another process; stop that one or set another simulator.journal",
        path.display()
    )]
    InUse {
        /// The journal.
        path: PathBuf,
    },
    /// The file is something else; it was not touched.
    #[error(
        "{} is not a journal of the simulator; move it away or set another simulator.journal",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Another version of this program wrote it.
    #[error(
        "the simulator's journal {} has format {version}, this program knows {VERSION}; delete or move the file to begin with a full stock",
        path.display()
    )]
    Version {
        /// The journal.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
    /// A line is damaged, and not by a write that was cut off.
    #[error(
        "line {line} of the simulator's journal {} cannot be replayed ({problem}); delete or move the file to begin with a full stock",
        path.display()
    )]
    Line {
        /// The journal.
        path: PathBuf,
        /// Counted from 1, the header.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
}

/// A line after the first.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<E> {
    at: Timestamp,
    entry: E,
}

/// See the module. The file is locked while this lives.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    entries: usize,
    max_entries: usize,
    /// Part of a line that failed may stand behind `len`.
    torn: bool,
    /// Whether the last write failed: a full disk is told once, not with every call.
    failing: bool,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens or makes the journal at `path` and hands what it holds to `replay`, in order. It will not grow beyond
    /// `max_entries`.
    pub(super) fn open(
        path: PathBuf,
        max_entries: usize,
        replay: impl FnMut(Timestamp, Entry) -> Result<(), CallError>,
    ) -> Result<Self, SimError> {
        let file = open_locked(&path)?;
        let mut journal = Self {
            path,
            file,
            len: 0,
            entries: 0,
            max_entries,
            torn: false,
            failing: false,
            buffer: Vec::new(),
        };
        let size = journal.read(replay)?;
        if size > journal.len {
            tracing::warn!(
                journal = %journal.path.display(),
                bytes = size.saturating_sub(journal.len),
                "the simulator's journal ends in the middle of a line, as after a crash; the rest of that line is cut off"
            );
            journal.torn = true;
        }
        if journal.len == 0 {
            let header = Header { format: FORMAT.to_owned(), version: VERSION };
            journal.buffer.clear();
            let written = serde_json::to_writer(&mut journal.buffer, &header).map_err(io::Error::from);
            let written = written.and_then(|()| journal.write_buffer());
            written.map_err(|error| SimError::File { path: journal.path.clone(), error })?;
        }
        Ok(journal)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many effects it holds.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Writes an entry. When it fails, the journal is as it was.
    pub(super) fn append(&mut self, at: Timestamp, entry: &Entry) -> Result<(), CallError> {
        if self.entries >= self.max_entries {
            return Err(CallError::Unavailable("the simulator's journal is full".to_owned()));
        }
        self.buffer.clear();
        let made = serde_json::to_writer(&mut self.buffer, &Line { at, entry }).map_err(io::Error::from);
        match made.and_then(|()| self.write_buffer()) {
            Ok(()) => {
                self.entries = self.entries.saturating_add(1);
                self.failing = false;
                Ok(())
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        journal = %self.path.display(),
                        %error,
                        "the simulator's journal cannot be written; calls with an effect are refused until it can"
                    );
                }
                Err(CallError::Unavailable(format!("the simulator's journal cannot be written ({error})")))
            }
        }
    }

    /// Ends the line in the buffer and appends it.
    fn write_buffer(&mut self) -> io::Result<()> {
        self.buffer.push(b'\n');
        let size = self.buffer.len() as u64;
        if size > MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the line would be too long"));
        }
        if self.torn {
            self.file.set_len(self.len)?;
            self.torn = false;
        }
        let written = loop {
            match self.file.write(&self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        if written < self.buffer.len() {
            // What does not fit in one piece does not fit at all: the disk is full, or a limit is reached.
            self.torn = written > 0;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.len = self.len.saturating_add(size);
        Ok(())
    }

    /// Replays the whole lines, counts them, and tells how many bytes there are.
    fn read(
        &mut self,
        mut replay: impl FnMut(Timestamp, Entry) -> Result<(), CallError>,
    ) -> Result<u64, SimError> {
        let path = &self.path;
        let file = || SimError::Foreign { path: path.clone() };
        let mut reader = BufReader::with_capacity(1 << 16, &self.file);
        let mut text = Vec::new();
        for line in 1u64.. {
            text.clear();
            let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut text);
            let read = read.map_err(|error| SimError::File { path: path.clone(), error })?;
            let size = read as u64;
            let problem = |problem: String| SimError::Line { path: path.clone(), line, problem };
            match text.strip_suffix(b"\n") {
                None if size == 0 => return Ok(self.len),
                None if line == 1 && !is_begun_header(&text) => return Err(file()),
                None if size >= MAX_LINE => return Err(problem("it is too long".to_owned())),
                None => return Ok(self.len.saturating_add(size)),
                Some(header) if line == 1 => {
                    let header: Header = serde_json::from_slice(header).map_err(|_| file())?;
                    match header.version {
                        _ if header.format != FORMAT => return Err(file()),
                        VERSION => {}
                        version => return Err(SimError::Version { path: path.clone(), version }),
                    }
                }
                Some(entry) => {
                    let entry: Line<Entry> =
                        serde_json::from_slice(entry).map_err(|error| problem(error.to_string()))?;
                    replay(entry.at, entry.entry).map_err(|error| problem(error.to_string()))?;
                    self.entries = self.entries.saturating_add(1);
                }
            }
            self.len = self.len.saturating_add(size);
        }
        Ok(self.len)
    }

    /// Leaves the first half of a line behind, as a full disk would.
    #[cfg(test)]
    pub(super) fn tear(&mut self) {
        self.file.write_all(b"{\"at\":\"20").unwrap();
        self.torn = true;
    }

    /// Writes elsewhere from now on; gives back where it wrote to.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }
}

/// Whether a first line without an end is one of ours that was cut off: another file must not lose its content.
fn is_begun_header(text: &[u8]) -> bool {
    let header = Header { format: FORMAT.to_owned(), version: VERSION };
    serde_json::to_vec(&header).is_ok_and(|header| header.starts_with(text))
}

/// Opens or makes a file that nobody else has open as a journal.
fn open_locked(path: &Path) -> Result<File, SimError> {
    let failed = |error| SimError::File { path: path.to_path_buf(), error };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // As the store does: it may be the same folder, and whoever comes first makes it.
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let file = options.open(path).map_err(failed)?;
    // A device could be read for ever.
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(SimError::Foreign { path: path.to_path_buf() });
    }
    match file_lock::lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SimError::InUse { path: path.to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
