//! What a long walk through a store prints: findings on standard output, and on standard error how far it is.

use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cli::Failure;

/// How often the line on a terminal is rewritten at most.
const REDRAW: Duration = Duration::from_millis(200);
/// How often a log line tells of progress where there is no terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// One JSON object a line.
    Json,
    /// Lines for people.
    Table,
}

/// Prints as it goes; holds nothing.
pub(super) struct Printer {
    pub(super) format: Format,
    started: Instant,
    told: Instant,
    on_terminal: bool,
    is_drawn: bool,
    failed: Option<io::Error>,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        let (now, on_terminal) = (Instant::now(), io::stderr().is_terminal());
        Self { format, started: now, told: now, on_terminal, is_drawn: false, failed: None }
    }

    /// Since it was made.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes a line to standard output. Each is flushed: whoever reads a pipe sees it when it is found. Nothing more is
    /// written once that failed.
    pub(super) fn line(&mut self, text: &str) -> ControlFlow<()> {
        self.erase();
        if self.failed.is_some() {
            return ControlFlow::Break(());
        }
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Takes the line of progress away.
    pub(super) fn erase(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _ = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }

    /// Tells how far it is, now and then: on a terminal as one line that changes, elsewhere by `log`.
    pub(super) fn progress(&mut self, drawn: impl FnOnce() -> String, log: impl FnOnce()) {
        if self.told.elapsed() < if self.on_terminal { REDRAW } else { LOG_EVERY } {
            return;
        }
        self.told = Instant::now();
        if self.on_terminal {
            let mut out = io::stderr().lock();
            let _ = write!(out, "\r\x1b[2K{}", drawn());
            let _ = out.flush();
            self.is_drawn = true;
        } else {
            log();
        }
    }

    /// What the command answers in the end.
    pub(super) fn outcome(self, is_good: bool) -> Result<(), Failure> {
        match self.failed {
            // Whoever closed the pipe has not seen everything, so this is not a yes.
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Told),
            Some(error) => Err(Failure::Output(error)),
            None if is_good => Ok(()),
            None => Err(Failure::Told),
        }
    }
}
