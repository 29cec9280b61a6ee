//! Spans on their way out: taken from a bounded queue, gathered, sent to a collector and written as lines. Nobody waits for
//! this; what does not get through is dropped and counted.

mod line;
mod otlp;
mod print;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::line::Line;
use self::otlp::Collector;
use self::print::Printer;
use super::TelemetryError;
use crate::config::TracingConfig;
use crate::ports::clock::Clock;
use crate::trace::{self, Record, Sampling};

/// Spans that are exported at once, at most.
const BATCH: usize = 512;
/// How long spans are gathered for a batch.
const GATHER: Duration = Duration::from_millis(200);

/// Whose spans they are.
#[derive(Clone, Debug)]
pub struct Program {
    /// What the program is, such as `order-service`.
    pub service: &'static str,
    /// The name of the node.
    pub node: String,
}

/// Exports spans until it is ended.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    task: JoinHandle<()>,
    patience: Duration,
}

impl Exporter {
    /// Begins to export the spans of this process, where the configuration says so. Only the first one of a process does.
    ///
    /// # Errors
    /// When the collector's URL makes no sense, or the file cannot be written.
    pub async fn start(
        config: &TracingConfig,
        program: Program,
        clock: Arc<dyn Clock>,
    ) -> Result<Option<Self>, TelemetryError> {
        if !config.is_on() {
            return Ok(None);
        }
        let (queue, spans) = mpsc::channel(config.queue);
        let printer = match &config.print {
            None => None,
            Some(to) => Some(Printer::open(to, config.print_max_bytes, program.clone()).await?),
        };
        let collector = match &config.otlp_endpoint {
            None => None,
            Some(url) => Some(Collector::new(url, config.timeout, program)?),
        };
        if !trace::install(queue, Sampling::of(config.sample_ratio), config.forced_per_second, clock) {
            return Ok(None);
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(spans, printer, collector, stop.clone()));
        Ok(Some(Self { stop, task, patience: config.timeout }))
    }

    /// Exports what is there, within the time that the collector has for it.
    pub async fn end(mut self) {
        self.stop.cancel();
        // Later ones would come too late for the collector as well.
        if tokio::time::timeout(self.patience, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn run(
    mut spans: mpsc::Receiver<Record>,
    mut printer: Option<Printer>,
    mut collector: Option<Collector>,
    stop: CancellationToken,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let is_stopping = tokio::select! {
            () = stop.cancelled() => true,
            received = spans.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
                // What belongs together comes within a moment.
                let room = BATCH.saturating_sub(batch.len());
                let gather = gather(&mut spans, &mut batch, room);
                tokio::select! {
                    () = stop.cancelled() => true,
                    _gathered = tokio::time::timeout(GATHER, gather) => false,
                }
            }
        };
        loop {
            if is_stopping {
                while batch.len() < BATCH
                    && let Ok(span) = spans.try_recv()
                {
                    batch.push(span);
                }
            }
            if batch.is_empty() {
                break;
            }
            if let Some(printer) = &mut printer {
                printer.write(&batch).await;
            }
            if let Some(collector) = &mut collector {
                collector.send(&batch).await;
            }
            batch.clear();
        }
        if is_stopping {
            return;
        }
    }
}

async fn gather(spans: &mut mpsc::Receiver<Record>, batch: &mut Vec<Record>, room: usize) {
    let end = batch.len().saturating_add(room);
    while batch.len() < end
        && let Some(span) = spans.recv().await
    {
        batch.push(span);
    }
}

/// Counts spans that were exported.
fn exported(to: &'static str, spans: usize) {
    metrics::counter!("order_trace_spans_exported_total", "to" => to)
        .increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

/// Counts spans that were dropped.
fn dropped(why: &'static str, spans: usize) {
    metrics::counter!("order_trace_spans_dropped_total", "why" => why)
        .increment(u64::try_from(spans).unwrap_or(u64::MAX));
}
