//! `tracing`: where spans go.

use std::path::PathBuf;
use std::time::Duration;

use super::read::{MINUTE, Reader, ms};

/// `tracing`.
#[derive(Clone, Debug)]
pub struct TracingConfig {
    /// `http://HOST:PORT` or `https://HOST:PORT` of an OTLP collector (gRPC); none = spans go to none.
    pub otlp_endpoint: Option<String>,
    /// Where spans are written as lines; none = nowhere.
    pub print: Option<SpanLines>,
    /// Size from which such a file is begun anew, in bytes; one older one is kept.
    pub print_max_bytes: u64,
    /// Share of the traces that begin here which is recorded, 0 to 1.
    pub sample_ratio: f64,
    /// Traces a second that are recorded because an outside caller says so.
    pub forced_per_second: u32,
    /// Spans that wait to be exported; more are dropped.
    pub queue: usize,
    /// How long the collector may take for some spans.
    pub timeout: Duration,
}

impl TracingConfig {
    /// Whether spans go anywhere.
    pub const fn is_on(&self) -> bool {
        self.otlp_endpoint.is_some() || self.print.is_some()
    }
}

/// Where spans are written as lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SpanLines {
    /// To standard error, between the log lines.
    Stderr,
    /// To this file.
    File(PathBuf),
}

pub(super) fn read(r: &mut Reader<'_>) -> TracingConfig {
    TracingConfig {
        otlp_endpoint: r.optional("tracing.otlp_endpoint", endpoint),
        print: r.optional("tracing.print", |text| {
            Ok(if text == "stderr" { SpanLines::Stderr } else { SpanLines::File(PathBuf::from(text)) })
        }),
        print_max_bytes: r.number("tracing.print_max_bytes", 65_536..=1_099_511_627_776),
        sample_ratio: r.parsed("tracing.sample_ratio", ratio, || 0.0),
        forced_per_second: r.number("tracing.forced_per_second", 0..=1_000_000),
        queue: r.number("tracing.queue", 1..=1_000_000),
        timeout: r.duration("tracing.timeout", ms(10)..=MINUTE),
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let fits = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '@', '?', '#', ' ']));
    let expected =
        "is not http://HOST:PORT or https://HOST:PORT without user name or path; write one, or \"\" for none";
    if fits { Ok(text.to_owned()) } else { Err(expected.to_owned()) }
}

fn ratio(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.trim().parse().ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "is not a share; write a number from 0 (none) to 1 (all), such as \"0.1\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_spans_go_and_how_many() {
        for good in ["http://collector:4317", "https://127.0.0.1:4317", "http://[::1]:4317"] {
            assert_eq!(endpoint(good).as_deref(), Ok(good));
        }
        for bad in ["collector:4317", "http://", "grpc://a:1", "http://a:1/v1/traces", "http://u:p@a:1"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        assert_eq!((ratio("0"), ratio("0.25"), ratio(" 1 ")), (Ok(0.0), Ok(0.25), Ok(1.0)));
        for bad in ["", "-0.1", "1.1", "NaN", "10%"] {
            assert!(ratio(bad).is_err(), "{bad}");
        }
    }
}
