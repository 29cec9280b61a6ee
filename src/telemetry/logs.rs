//! Log lines to standard error.
//!
//! Card numbers are masked in whole lines, as they are written: then no field, span or message can be forgotten. A line
//! with fewer than 13 digits costs no more than counting them.
//! A disabled log line costs one relaxed load: filters are settled per call site when it is first met, and again when they
//! are changed. A line that is written while a thread works for a call ends with that call's ids.

use std::borrow::Cow;
use std::fmt::{self as text, Write as _};
use std::io::{self, IsTerminal, Write};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

use super::TelemetryError;
use super::levels::Levels;
use crate::config::{LogConfig, LogFormat};
use crate::domain::card::masked;
use crate::trace::{self, Current};

/// Whether lines are JSON.
fn is_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Json => true,
        LogFormat::Pretty => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    }
}

/// Sets up log lines for this process.
///
/// # Errors
/// When the filter is malformed, or a logger that is not ours is in place.
pub(super) fn init(log: &LogConfig) -> Result<Levels, TelemetryError> {
    let lines = fmt::layer().with_writer(|| Masked(io::stderr()));
    let lines = if is_json(log.format) {
        let lines = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
        lines.map_event_format(|inner| OfCall { inner, is_json: true }).boxed()
    } else {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colors = io::stderr().is_terminal() && !no_color;
        let lines = lines.with_ansi(colors);
        lines.map_event_format(|inner| OfCall { inner: inner.with_ansi(colors), is_json: false }).boxed()
    };
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init()?;
    Ok(Levels::new(handle, &log.level))
}

/// Lines in a format that end with the ids of the call that is worked for.
struct OfCall<F> {
    inner: F,
    is_json: bool,
}

impl<S, N, F> FormatEvent<S, N> for OfCall<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> text::Result {
        let Some(current) = trace::current() else {
            return self.inner.format_event(context, writer, event);
        };
        let mut line = String::with_capacity(512);
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&with_ids(&line, &current, self.is_json))
    }
}

/// The line with the ids of a call at its end.
fn with_ids(line: &str, current: &Current, is_json: bool) -> String {
    let Current { request_id, trace, span } = current;
    let mut whole = String::with_capacity(line.len().saturating_add(160));
    let line = line.trim_end_matches('\n');
    // Writing to a text does not fail.
    let _ = match line.strip_suffix('}').filter(|_| is_json) {
        Some(open) => {
            let request_id = serde_json::Value::from(&**request_id);
            writeln!(whole, r#"{open},"request_id":{request_id},"trace_id":"{trace}","span_id":"{span}"}}"#)
        }
        None => writeln!(whole, "{line} request_id={request_id} trace_id={trace} span_id={span}"),
    };
    whole
}

/// Writes the last line of a node that cannot start, or ends by itself, whatever the level is: why, and what to do.
pub fn fatal(format: LogFormat, why: &str) {
    // Nobody is left to be told that this failed.
    let _ = Masked(io::stderr()).write_all(last_line(is_json(format), why).as_bytes());
}

fn last_line(is_json: bool, why: &str) -> String {
    let mut time = String::new();
    // Without the time it is told, too.
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    // One line, whatever the reason is made of.
    let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
    if is_json {
        let (time, why) = (serde_json::Value::from(time), serde_json::Value::from(why));
        return format!(
            r#"{{"timestamp":{time},"level":"FATAL","message":{why},"target":"order_service"}}{}"#,
            '\n'
        );
    }
    format!("{time} FATAL order_service: {why}\n")
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
    use crate::domain::trace::TraceContext;

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
                true => {
                    let lines = lines.json().flatten_event(true).with_current_span(true);
                    lines.map_event_format(|inner| OfCall { inner, is_json: true }).boxed()
                }
                false => lines
                    .map_event_format(|inner| OfCall { inner: inner.with_ansi(true), is_json: false })
                    .boxed(),
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
            assert!(!text.contains("trace_id"), "{text}");
            if json {
                let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
                assert_eq!(line["number"], "***************");
            }
        }
    }

    #[test]
    fn a_line_of_a_call_ends_with_its_ids() {
        let context = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let current = Current::new(&Arc::from(r#"a"b"#), context.as_ref()).unwrap();
        let line = with_ids("{\"level\":\"INFO\",\"message\":\"hello\"}\n", &current, true);
        let read: serde_json::Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!((read["message"].as_str(), read["request_id"].as_str()), (Some("hello"), Some("a\"b")));
        assert_eq!(read["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read["span_id"], "b7ad6b7169203331");
        let line = with_ids("INFO order_service: hello\n", &current, false);
        let expected = "INFO order_service: hello request_id=a\"b trace_id=0af7651916cd43dd8448eb211c80319c \
                        span_id=b7ad6b7169203331\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn last_words_are_one_line() {
        let line = last_line(true, "cannot \"listen\"\non it; free the port");
        let read: serde_json::Value = serde_json::from_str(line.strip_suffix('\n').unwrap()).unwrap();
        assert_eq!(
            (&read["level"], read["message"].as_str()),
            (&"FATAL".into(), Some("cannot \"listen\" on it; free the port"))
        );
        assert!(read["timestamp"].as_str().unwrap().ends_with('Z'));
        let line = last_line(false, "no store;\nmake one");
        assert!(line.contains("Z FATAL order_service: no store; make one\n"), "{line}");
    }
}
