//! Log lines to standard error.
//!
//! Card numbers are masked in whole lines, as they are written: then no field, span or message can be forgotten. A line
//! with fewer than 13 digits costs no more than counting them.
//! A disabled log line costs one relaxed load: filters are settled per call site when it is first met.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::TelemetryError;
use crate::config::{LogConfig, LogFormat};
use crate::domain::card::masked;

/// Sets up log lines for this process.
///
/// # Errors
/// When the filter is malformed, or a logger that is not ours is in place.
pub(super) fn init(log: &LogConfig) -> Result<(), TelemetryError> {
    let is_terminal = io::stderr().is_terminal();
    let is_json = match log.format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !is_terminal,
    };
    let lines = fmt::layer().with_writer(|| Masked(io::stderr()));
    let lines = if is_json {
        lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
    } else {
        let colors = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        lines.with_ansi(colors).boxed()
    };
    let filter = EnvFilter::try_new(&log.level)?;
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(())
}

/// A writer of whole lines in which no card number stands.
struct Masked<W>(W);

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Whatever is no text is written as if it were: a replaced byte harms a log less than a card number does.
        let text = String::from_utf8_lossy(line);
        match masked(&text) {
            Cow::Borrowed(text) => self.0.write_all(text.as_bytes())?,
            Cow::Owned(text) => self.0.write_all(quoted(&text).as_bytes())?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The line with quotes around what was a bare number in JSON and is masked now, so that it is JSON still.
fn quoted(line: &str) -> String {
    let mut whole = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\":*") {
        let stars = after.find(|other| other != '*').unwrap_or(after.len());
        let (masked, behind) = after.split_at(stars);
        whole.push_str(before);
        // A quote that is escaped stands within a text.
        let (open, close) = if before.ends_with('\\') { ("\":*", "") } else { ("\":\"*", "\"") };
        whole.extend([open, masked, close]);
        rest = behind;
    }
    whole.push_str(rest);
    whole
}

/// From now on a panic of this process is a log line like any other, or a line on standard error where nothing is
/// logged; its message is made of whatever the code was working with.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let what = panic.to_string();
        if tracing::enabled!(tracing::Level::ERROR) {
            let backtrace = std::backtrace::Backtrace::capture();
            tracing::error!(thread, %backtrace, "{what}");
        } else {
            // Nobody is left to be told that this failed.
            let _ = writeln!(Masked(io::stderr()), "{what}");
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What is written, by all who have a clone.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_part_of_a_line_holds_a_card_number() {
        for json in [false, true] {
            let page = Page::default();
            let copy = page.clone();
            let lines = fmt::layer().with_writer(move || Masked(copy.clone()));
            let lines = match json {
                true => lines.json().flatten_event(true).with_current_span(true).boxed(),
                false => lines.with_ansi(true).boxed(),
            };
            tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
                let card = "4111\u{a0}1111\u{a0}1111\u{a0}1111";
                let span = tracing::info_span!("call", key = "5555555555554444");
                let _entered = span.enter();
                tracing::info!(text = card, debug = ?card, number = 378_282_246_310_005_u64, "paid by {card}");
            });
            let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("paid by") && text.contains("****"), "{text}");
            for part in ["1111", "4444", "3782"] {
                assert!(!text.contains(part), "{part}: {text}");
            }
            if json {
                let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
                assert_eq!(line["number"], "***************");
            }
        }
    }
}
