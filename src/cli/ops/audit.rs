//! `ops audit`: whether the events of the orders are those that were recorded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use serde_json::json;

use super::printer::{Format, Printer};
use super::verify::which;
use crate::app;
use crate::cli::{ConfigFiles, Failure, load_config, runtime, stop_asked};
use crate::domain::Timestamp;
use crate::domain::chain::Break;
use crate::domain::ids::OrderId;
use crate::telemetry;
use crate::verify::{AuditOptions, AuditReport, AuditWitness, Head, Noted, Which};

#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand, Debug)]
enum AuditCommand {
    /// Follow the chain of every order's events and tell where it does not hold.
    Verify(VerifyArgs),
    /// Print the last event of every order, to be noted where nobody who can write the store can write.
    Heads(HeadsArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Each event holds a SHA-256 of itself and of the event before it; the order's row holds the last one. An event that was \
altered, removed, inserted or moved is named by its order and sequence. Events from before there was a chain are \
counted as unchained and not checked. Reads only, and may run beside nodes.

Somebody who can write the whole store can also compute a chain anew. Against that, note heads outside (`ops audit \
heads`) and compare with them: an order, or the end of its history, that is gone or another one is found.

Standard output: ORDER_ID SEQUENCE TEXT, one break a line (sequence 0: the order cannot be read), then a summary. Exit \
codes: 0 nothing found, 1 breaks, stopped early or failed, 2 wrong usage.

Examples:
  order-service ops audit verify
  order-service ops audit verify --order ORD-7K3M9Q2XYZ
  order-service ops audit verify --against heads-2026-11-01.txt -o json")]
struct VerifyArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Follow this order only: its id or its number.
    #[arg(long, value_name = "ORDER", value_parser = which, conflicts_with = "since")]
    order: Option<Which>,
    /// Only orders that changed at this time or later, by their own word: RFC 3339, or a date in UTC.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Compare with heads that were noted earlier.
    #[arg(long, value_name = "FILE", conflicts_with = "since")]
    against: Option<PathBuf>,
    /// Orders read at a time.
    #[arg(long, value_name = "ORDERS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    page_size: u32,
    /// Read at most so many pages a second.
    #[arg(long, value_name = "PAGES")]
    pages_per_second: Option<NonZeroU32>,
    /// How results are printed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Standard output: ORDER_ID SEQUENCE HASH, one order a line, by id; `-` stands for an event from before there was a \
chain. To note little, note the digest of the file: `order-service ops audit heads | tee heads.txt | sha256sum`. Exit \
codes: 0 all orders printed, 1 stopped early or failed, 2 wrong usage.

Examples:
  order-service ops audit heads > heads-2026-11-01.txt")]
struct HeadsArgs {
    #[command(flatten)]
    files: ConfigFiles,
    /// Orders read at a time.
    #[arg(long, value_name = "ORDERS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    page_size: u32,
    /// Read at most so many pages a second.
    #[arg(long, value_name = "PAGES")]
    pages_per_second: Option<NonZeroU32>,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let whole = if text.len() == "2026-11-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    DateTime::parse_from_rfc3339(&whole)
        .map(|time| time.with_timezone(&Utc))
        .map_err(|_| String::from("neither a time like 2026-11-01T08:00:00Z nor a date like 2026-11-01"))
}

pub(super) fn run(files: &ConfigFiles, arguments: &AuditArgs) -> Result<(), Failure> {
    let files = files.and(&arguments.files);
    match &arguments.command {
        AuditCommand::Verify(arguments) => verify(&files.and(&arguments.files), arguments),
        AuditCommand::Heads(arguments) => heads(&files.and(&arguments.files), arguments),
    }
}

fn verify(files: &ConfigFiles, arguments: &VerifyArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    telemetry::init(&config.log).map_err(|error| Failure::Sentence(error.to_string()))?;
    let options = AuditOptions {
        page_size: arguments.page_size,
        pages_per_second: arguments.pages_per_second.map(NonZeroU32::get),
        only: arguments.order.clone(),
        since: arguments.since,
    };
    let noted = arguments.against.as_deref().map(noted).transpose()?;
    let mut printer = Printer::new(arguments.output);
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let ended = runtime.block_on(app::audit(&config, &options, noted, &mut printer, stop_asked()));
    printer.erase();
    let report = ended.map_err(|error| Failure::Sentence(format!("{error:#}")))?;
    summary(&mut printer, &report);
    printer.outcome(report.complete && report.breaks == 0)
}

/// The lines of a file of heads; empty ones say nothing.
fn noted(path: &Path) -> Result<Noted, Failure> {
    let cannot = |error: io::Error| {
        Failure::Sentence(format!("the noted heads in {} cannot be read: {error}", path.display()))
    };
    let lines = BufReader::new(File::open(path).map_err(cannot)?).lines();
    let heads = lines.filter(|line| !line.as_ref().is_ok_and(|line| line.trim().is_empty())).map(|line| {
        let line = line.map_err(|error| error.to_string())?;
        line.parse::<Head>().map_err(str::to_owned)
    });
    Ok(Box::new(heads))
}

fn heads(files: &ConfigFiles, arguments: &HeadsArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    telemetry::init(&config.log).map_err(|error| Failure::Sentence(error.to_string()))?;
    let options = AuditOptions {
        page_size: arguments.page_size,
        pages_per_second: arguments.pages_per_second.map(NonZeroU32::get),
        only: None,
        since: None,
    };
    let mut out = BufWriter::new(io::stdout());
    let mut failed = None;
    let told = |head: &Head| match writeln!(out, "{head}") {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    };
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let complete = runtime
        .block_on(app::event_heads(&config, &options, told, stop_asked()))
        .map_err(|error| Failure::Sentence(format!("{error:#}")))?;
    match failed.map_or_else(|| out.flush(), Err) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Told),
        Err(error) => Err(Failure::Output(error)),
        Ok(()) if complete => Ok(()),
        Ok(()) => {
            Err(Failure::Sentence(String::from("stopped early; what was printed is not all, start again")))
        }
    }
}

/// The last line.
fn summary(printer: &mut Printer, report: &AuditReport) {
    let seconds = printer.elapsed().as_secs_f64();
    let AuditReport { orders, chained, unchained, compared, breaks, broken_orders, complete } = report;
    let text = if printer.format == Format::Json {
        json!({
            "summary": {
                "orders": orders,
                "chained_events": chained,
                "unchained_events": unchained,
                "compared_heads": compared,
                "breaks": breaks,
                "broken_orders": broken_orders,
                "complete": complete,
                "seconds": seconds,
            }
        })
        .to_string()
    } else {
        let followed = if *complete { "followed" } else { "stopped early, followed" };
        let found = match breaks {
            0 => String::from("no break"),
            _ => format!("{breaks} breaks in {broken_orders} orders"),
        };
        format!(
            "{followed} {chained} events of {orders} orders in {seconds:.1} s ({unchained} unchained, {compared} \
                 heads compared): {found}"
        )
    };
    let _ = printer.line(&text);
}

impl AuditWitness for Printer {
    fn broken(&mut self, order: OrderId, broken: &Break) -> ControlFlow<()> {
        let text = match self.format {
            Format::Json => {
                json!({ "order_id": order.to_string(), "sequence": broken.seq, "break": broken.what })
                    .to_string()
            }
            Format::Table => format!("{order} {} {}", broken.seq, broken.what),
        };
        self.line(&text)
    }

    fn progress(&mut self, so_far: &AuditReport) {
        let AuditReport { orders, breaks, .. } = so_far;
        Printer::progress(
            self,
            || format!("{orders} orders followed, {breaks} breaks"),
            || tracing::info!(orders, breaks, "auditing"),
        );
    }
}
