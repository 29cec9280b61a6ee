//! Spans as lines in a file of bounded size, or on standard error.

use std::io::{self, Write};
use std::path::PathBuf;

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::{Line, Program, dropped, exported};
use crate::config::SpanLines;
use crate::domain::card::masked;
use crate::telemetry::TelemetryError;
use crate::trace::Record;

#[derive(Debug)]
pub(super) struct Printer {
    program: Program,
    to: To,
    /// The last lines could not be written.
    fails: bool,
}

#[derive(Debug)]
enum To {
    Stderr,
    File { path: PathBuf, file: File, size: u64, most: u64 },
}

impl Printer {
    pub(super) async fn open(to: &SpanLines, most: u64, program: Program) -> Result<Self, TelemetryError> {
        let to = match to {
            SpanLines::Stderr => To::Stderr,
            SpanLines::File(path) => {
                let opened = append(path.clone()).await;
                let (file, size) = opened.map_err(|error| {
                    TelemetryError::Spans(format!(
                        "cannot write {} ({error}); make its folder, or set another tracing.print",
                        path.display()
                    ))
                })?;
                To::File { path: path.clone(), file, size, most }
            }
        };
        Ok(Self { program, to, fails: false })
    }

    pub(super) async fn write(&mut self, spans: &[Record]) {
        let mut text = String::new();
        for span in spans {
            // A line of texts and numbers is always JSON.
            text.push_str(&masked(
                &serde_json::to_string(&Line::of(span, &self.program)).unwrap_or_default(),
            ));
            text.push('\n');
        }
        let written = self.to.write(&text).await;
        let has_failed = written.is_err();
        match written {
            Ok(()) => exported("print", spans.len()),
            Err(error) => {
                dropped("print", spans.len());
                if !self.fails {
                    tracing::warn!(%error, "spans cannot be written to tracing.print; they are dropped");
                }
            }
        }
        self.fails = has_failed;
    }
}

impl To {
    async fn write(&mut self, text: &str) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().write_all(text.as_bytes()),
            Self::File { path, file, size, most } => {
                let more = u64::try_from(text.len()).unwrap_or(u64::MAX);
                if *size > 0 && size.saturating_add(more) > *most {
                    let mut old = path.clone().into_os_string();
                    old.push(".1");
                    tokio::fs::rename(&*path, old).await?;
                    (*file, *size) = append(path.clone()).await?;
                }
                file.write_all(text.as_bytes()).await?;
                file.flush().await?;
                *size = size.saturating_add(more);
                Ok(())
            }
        }
    }
}

async fn append(path: PathBuf) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path).await?;
    let size = file.metadata().await?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_file_is_begun_anew_and_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spans.jsonl");
        let (file, size) = append(path.clone()).await.unwrap();
        let mut to = To::File { path: path.clone(), file, size, most: 10 };
        for text in ["one two\n", "three\n", "four\n", "a long line that never fits\n"] {
            to.write(text).await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a long line that never fits\n");
        let old = folder.path().join("spans.jsonl.1");
        assert_eq!(std::fs::read_to_string(old).unwrap(), "four\n");
        let missing = folder.path().join("no/such/spans.jsonl");
        let program = Program { service: "order-service", node: String::from("n") };
        let refused = Printer::open(&SpanLines::File(missing), 10, program).await.unwrap_err();
        assert!(refused.to_string().contains("set another tracing.print"), "{refused}");
    }
}
