//! `ops export`.

use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;

use chrono::NaiveDate;
use clap::{Args, ValueEnum};

use crate::app;
use crate::cli::{ConfigFiles, Failure, load_config, runtime, stop_asked};
use crate::privacy::{Days, Form, Sink};
use crate::telemetry;

#[derive(Args, Debug)]
#[command(after_help = "\
Reads the configured store, also while nodes use it, and writes to standard output: a page is in memory at a time. A line \
holds keyed pseudonyms of user and order, the day, the first three characters of the postal code, country, statuses, \
amounts and items. Whoever has privacy.export_secret can tell whose a line is; and days, places and items together may \
tell as well, so an export is still to be kept well.

Example:
  ORDER__PRIVACY__EXPORT_SECRET_FILE=/run/secrets/export order-service ops export --anonymized \\
    --since 2026-01-01 --until 2026-01-31 -o csv > january.csv")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Without who ordered: the only way there is.
    #[arg(long, required = true)]
    anonymized: bool,
    /// The first day, in UTC.
    #[arg(long, value_name = "DAY", value_parser = day)]
    since: NaiveDate,
    /// The last day, in UTC.
    #[arg(long, value_name = "DAY", value_parser = day)]
    until: NaiveDate,
    /// How orders are written.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "jsonl")]
    output: Format,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// One JSON object a line.
    Jsonl,
    /// One row an order, below a row of names.
    Csv,
}

fn day(text: &str) -> Result<NaiveDate, String> {
    text.parse().map_err(|_| String::from("not a day; write it like 2026-01-31"))
}

struct Printer {
    out: BufWriter<io::Stdout>,
    failed: Option<io::Error>,
}

impl Sink for Printer {
    fn line(&mut self, line: &str) -> ControlFlow<()> {
        match writeln!(self.out, "{line}") {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

pub(super) fn run(files: &ConfigFiles, arguments: &ExportArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    telemetry::init(&config.log).map_err(|error| Failure::Sentence(error.to_string()))?;
    let days = Days { since: arguments.since, until: arguments.until };
    let form = match arguments.output {
        Format::Jsonl => Form::Jsonl,
        Format::Csv => Form::Csv,
    };
    let mut printer = Printer { out: BufWriter::new(io::stdout()), failed: None };
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let ended = runtime.block_on(app::export(&config, days, form, &mut printer, stop_asked()));
    let exported = ended.map_err(|error| Failure::Sentence(format!("{error:#}")))?;
    let failed = printer.failed.or_else(|| printer.out.flush().err());
    tracing::info!(orders = exported.orders, complete = exported.complete, "exported");
    match failed {
        // Whoever closed the pipe has seen enough.
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Told),
        Some(error) => Err(Failure::Output(error)),
        None if exported.complete => Ok(()),
        None => Err(Failure::Sentence(String::from("the export was stopped before its end; start it again"))),
    }
}
