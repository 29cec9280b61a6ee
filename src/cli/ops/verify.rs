//! `ops verify`: whether what is stored can be true.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::printer::{Format, Printer};
use crate::app;
use crate::cli::{ConfigFiles, Failure, load_config, runtime, stop_asked};
use crate::config::parse_duration;
use crate::domain::ids::{OrderId, OrderNumber};
use crate::telemetry;
use crate::verify::{Finding, Options, Report, Which, Witness};

#[derive(Args, Debug)]
#[command(after_help = "\
Reads the store page by page, each order as of one moment. It locks nothing, changes nothing and asks no node, so it \
may run beside them. Orders in motion are asked only for what holds after every commit.

Checked: I2 request ids, I3 money kept is money owed, I4 one charge an intent (by our ledger), I5 and I6 stock and \
payment fit the status, I7 history is a legal walk without gaps that leads to what is stored, in an \
unbroken chain of hashes, I8 one end, I9 every \
saga moves or is flagged, I10 sums, I12 versions, I13 no payment token outlives its use; an order that cannot be \
read counts as I1.
Out of its reach: the books of the other services (I4 by the payment side's ledger, I5 by inventory's), whether every \
event was published (I11), and what was written to logs (I13).

Standard output: ORDER_ID ORDER_NUMBER INVARIANT TEXT, one violation a line, then a summary. Exit codes: 0 nothing \
found, 1 violations, stopped early or failed, 2 wrong usage.

Examples:
  order-service ops verify
  order-service ops verify --config production.yaml --pages-per-second 5 -o json
  order-service ops verify --order ORD-7K3M9Q2XYZ")]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    pub(super) files: ConfigFiles,
    /// Check this order only: its id or its number.
    #[arg(long, value_name = "ORDER", value_parser = which)]
    order: Option<Which>,
    /// How long a saga may stand still after its next call was due, unless it is flagged: 1s to 720h.
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = patience)]
    patience: Duration,
    /// Orders read at a time.
    #[arg(long, value_name = "ORDERS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    page_size: u32,
    /// Read at most so many pages a second.
    #[arg(long, value_name = "PAGES")]
    pages_per_second: Option<NonZeroU32>,
    /// Print at most so many violations; all are counted.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit_violations: u64,
    /// How results are printed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(super) fn which(text: &str) -> Result<Which, String> {
    if let Ok(id) = Uuid::try_parse(text.trim()) {
        return Ok(Which::Id(OrderId(id)));
    }
    OrderNumber::parse(text)
        .map(Which::Number)
        .ok_or_else(|| String::from("neither an order's id (a UUID) nor its number (ORD-7K3M9Q2XYZ)"))
}

fn patience(text: &str) -> Result<Duration, String> {
    let patience = parse_duration(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(720 * 3_600);
    if allowed.contains(&patience) { Ok(patience) } else { Err(String::from("not within 1s and 720h")) }
}

pub(super) fn run(files: &ConfigFiles, arguments: &VerifyArgs) -> Result<(), Failure> {
    let config = load_config(files)?;
    telemetry::init(&config.log).map_err(|error| Failure::Sentence(error.to_string()))?;
    let options = Options {
        page_size: arguments.page_size,
        pages_per_second: arguments.pages_per_second.map(NonZeroU32::get),
        patience: arguments.patience,
        only: arguments.order.clone(),
    };
    let printer = Printer::new(arguments.output);
    let mut findings = Findings { printer, limit: arguments.limit_violations, printed: 0 };
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    let ended = runtime.block_on(app::verify(&config, &options, &mut findings, stop_asked()));
    findings.printer.erase();
    let report = ended.map_err(|error| Failure::Sentence(format!("{error:#}")))?;
    findings.summary(&report);
    findings.printer.outcome(report.complete && report.violations == 0)
}

/// Prints what is found, up to a number of findings.
struct Findings {
    printer: Printer,
    limit: u64,
    printed: u64,
}

impl Findings {
    /// The last line.
    fn summary(&mut self, report: &Report) {
        let seconds = self.printer.elapsed().as_secs_f64();
        let text = if self.printer.format == Format::Json {
            json!({
                "summary": {
                    "orders": report.orders,
                    "violations": report.violations,
                    "violated_orders": report.violated_orders,
                    "unreadable_orders": report.unreadable,
                    "printed": self.printed,
                    "complete": report.complete,
                    "seconds": seconds,
                }
            })
            .to_string()
        } else {
            let Report { orders, violations, violated_orders, unreadable, complete } = report;
            let checked = if *complete { "checked" } else { "stopped early, checked" };
            let found = match violations {
                0 => String::from("no violation"),
                _ => format!("{violations} violations in {violated_orders} orders, {unreadable} unreadable"),
            };
            let hidden = if self.printed < *violations {
                format!(" (the first {} shown)", self.printed)
            } else {
                String::new()
            };
            format!("{checked} {orders} orders in {seconds:.1} s: {found}{hidden}")
        };
        let _ = self.printer.line(&text);
    }
}

impl Witness for Findings {
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()> {
        if self.printed >= self.limit {
            return ControlFlow::Continue(());
        }
        self.printed = self.printed.saturating_add(1);
        let Finding { order, number, violation } = finding;
        let number = number.as_ref().map(OrderNumber::as_str);
        let text = match self.printer.format {
            Format::Json => json!({
                "order_id": order.to_string(),
                "order_number": number,
                "invariant": violation.invariant,
                "violation": violation.what,
            })
            .to_string(),
            Format::Table => {
                format!("{order} {} {} {}", number.unwrap_or("-"), violation.invariant, violation.what)
            }
        };
        self.printer.line(&text)
    }

    fn progress(&mut self, so_far: &Report) {
        let Report { orders, violations, .. } = so_far;
        let millis = u64::try_from(self.printer.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = orders.saturating_mul(1_000).checked_div(millis).unwrap_or_default();
        self.printer.progress(
            || format!("{orders} orders checked, {violations} violations, {rate} orders/s"),
            || tracing::info!(orders, violations, orders_per_second = rate, "verifying"),
        );
    }
}
