//! What a node tells of itself: log lines, and metrics in the text form of Prometheus.

mod levels;
mod logs;
mod spans;

use std::sync::{Mutex, PoisonError};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

pub use self::levels::{Changed, Levels};
pub use self::logs::{fatal, log_panics};
pub use self::spans::{Exporter, Line, Program};
use crate::config::LogConfig;

/// Upper bounds of the buckets of every histogram, in seconds: from a cached read to the longest deadline.
const BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The recorder of this process, once there is one.
static INSTALLED: Mutex<Option<Telemetry>> = Mutex::new(None);

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is malformed.
    #[error("log.level is not a log level ({0}); write it like info or info,order_service=debug")]
    Level(#[from] ParseError),
    /// The filter is empty or too long.
    #[error("a filter has 1 to 1024 bytes; write it like info or info,order_service=debug")]
    NoLevel,
    /// Nothing logs any more.
    #[error("log lines are not written any more; start the node again")]
    Gone,
    /// Spans can go nowhere.
    #[error("{0}")]
    Spans(String),
    /// Somebody else set up logs first.
    #[error("logs cannot be set up ({0}); set them up once in a process")]
    Logs(#[from] TryInitError),
    /// Somebody else set up metrics first.
    #[error("metrics cannot be set up ({0}); set them up once in a process")]
    Metrics(#[from] BuildError),
}

/// The metrics of this process. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    metrics: PrometheusHandle,
    levels: Levels,
}

impl Telemetry {
    /// All metrics in the text form of Prometheus.
    pub fn render(&self) -> String {
        self.metrics.render()
    }

    /// The filter of the log lines.
    pub fn levels(&self) -> &Levels {
        &self.levels
    }

    /// Moves fresh samples of histograms into their buckets. To be called every few seconds, lest samples pile up
    /// while nobody renders.
    pub fn upkeep(&self) {
        self.metrics.run_upkeep();
    }
}

/// Sets up logs and metrics for this process. The first call decides; later ones answer what the first set up.
///
/// # Errors
/// When the filter is malformed, or a logger or recorder that is not ours is in place.
pub fn init(log: &LogConfig) -> Result<Telemetry, TelemetryError> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(telemetry) = installed.as_ref() {
        return Ok(telemetry.clone());
    }
    let levels = logs::init(log)?;
    let metrics = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;
    let telemetry = Telemetry { metrics, levels };
    *installed = Some(telemetry.clone());
    Ok(telemetry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn the_first_call_decides_and_metrics_render() {
        let log = LogConfig { level: "error".to_owned(), format: LogFormat::Json };
        let first = init(&log).unwrap();
        let second = init(&log).unwrap();
        metrics::counter!("telemetry_test_total").increment(2);
        metrics::histogram!("telemetry_test_seconds").record(0.003);
        second.upkeep();
        let text = first.render();
        assert!(text.contains("telemetry_test_total 2"), "{text}");
        assert!(text.contains("telemetry_test_seconds_bucket{le=\"0.005\"} 1"), "{text}");

        let levels = first.levels();
        let before = levels.filter();
        assert!(!tracing::enabled!(target: "telemetry_test", tracing::Level::DEBUG));
        let changed = levels.set("error,telemetry_test=debug").unwrap();
        assert_eq!(changed.before, before);
        assert!(tracing::enabled!(target: "telemetry_test", tracing::Level::DEBUG));
        for bad in ["", " ", "telemetry_test=loud", &"a,".repeat(600)] {
            assert!(levels.set(bad).is_err(), "{bad}");
        }
        assert_eq!(levels.filter(), "error,telemetry_test=debug");
        let again = levels.set("error,telemetry_test=trace").unwrap();
        assert!(!levels.set_back(&changed), "it was changed since");
        assert!(levels.set_back(&again) && levels.filter() == "error,telemetry_test=debug");
        levels.set(&before).unwrap();
    }
}
