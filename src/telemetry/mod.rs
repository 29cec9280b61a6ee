//! What a node tells of itself: log lines, and metrics in the text form of Prometheus.

pub mod catalog;
mod levels;
mod logs;
mod process;
mod spans;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::util::TryInitError;

pub use self::levels::{Changed, Levels};
pub use self::logs::{fatal, log_panics};
pub use self::spans::{Exporter, Line, Program};
use crate::config::LogConfig;

/// Quantiles of summaries.
const QUANTILES: [f64; 2] = [0.5, 0.95];

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
    /// Counters of time: what counts the others knows whole numbers only.
    times: Arc<Mutex<BTreeMap<&'static str, Duration>>>,
}

impl Telemetry {
    /// All metrics in the text form of Prometheus.
    pub fn render(&self) -> String {
        let process = process::Process::now();
        for (name, value) in [
            ("process_resident_memory_bytes", process.resident),
            ("process_virtual_memory_bytes", process.virtual_size),
            ("process_threads", process.threads),
            ("process_open_fds", process.open_files),
            ("process_max_fds", process.most_files),
        ] {
            value.into_iter().for_each(|value| metrics::gauge!(name).set(value as f64));
        }
        process
            .started
            .into_iter()
            .for_each(|at| metrics::gauge!("process_start_time_seconds").set(at.as_secs_f64()));
        process.cpu.into_iter().for_each(|time| self.count_time("process_cpu_seconds_total", time));
        let mut page = self.metrics.render();
        for (name, time) in &*self.times.lock().unwrap_or_else(PoisonError::into_inner) {
            let means = catalog::all().find(|metric| metric.name == *name).map_or("", |metric| metric.means);
            // Writing to a String does not fail.
            let _ = writeln!(
                page,
                "# HELP {name} {means}\n# TYPE {name} counter\n{name} {}\n",
                time.as_secs_f64()
            );
        }
        page
    }

    /// Sets a counter of the catalog that is a time without labels to how much that is by now.
    pub fn count_time(&self, name: &'static str, time: Duration) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).insert(name, time);
    }

    /// Begins the metrics of a part that this process has, so that each is there with 0 before anything happens.
    pub fn begin(&self, part: catalog::Of) {
        catalog::all().filter(|metric| metric.of == part).for_each(catalog::Metric::begin);
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
    let mut builder = PrometheusBuilder::new().set_quantiles(&QUANTILES)?;
    for metric in catalog::all() {
        if let catalog::Kind::Histogram(buckets) = metric.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    let telemetry = Telemetry { metrics: builder.install_recorder()?, times: Arc::default(), levels };
    catalog::all().for_each(catalog::Metric::describe);
    telemetry.begin(catalog::Of::Node);
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
        metrics::histogram!("order_store_batch_seconds").record(0.003);
        second.upkeep();
        let text = first.render();
        assert!(text.contains("telemetry_test_total 2"), "{text}");
        assert!(text.contains("order_store_batch_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(text.contains("order_shed_total 0"), "{text}");
        assert!(text.contains("# HELP order_shed_total Changes refused"), "{text}");

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
