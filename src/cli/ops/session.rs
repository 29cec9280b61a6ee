//! What the commands for operators share: where the node is, how results are printed, how an order is named.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use uuid::Uuid;

use crate::cli::order::{AccessArgs, ClientFailure, Format, duration, ended, print, print_json};
use crate::cli::{Failure, runtime};
use crate::clients::admin::AdminClient;
use crate::clients::orders::{Access, ApiError};
use crate::domain::ids::OrderNumber;
use crate::proto::admin as pb;

use super::told;

#[derive(Args, Debug)]
pub(in crate::cli) struct ServerArgs {
    /// Where the node answers operators (its ops.listen): a URL, or HOST:PORT.
    #[arg(long, env = "ORDER_OPS_SERVER", value_name = "URL", default_value = "http://127.0.0.1:9464")]
    server: String,
    #[command(flatten)]
    access: AccessArgs,
    /// How long connecting and each call may take, such as 500ms, 15s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    timeout: Duration,
    /// How results are printed; the default is table on a terminal and json elsewhere.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Format>,
}

/// What is kept in the history of a repair, and guards it.
#[derive(Args, Debug)]
pub(super) struct AuditArgs {
    /// Who wants it, besides the principal of the call; up to 100 characters, kept in the history.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(super) by: String,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    pub(super) expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) request_id: String,
}

/// Where the operator saw the saga.
#[derive(Args, Debug)]
pub(super) struct SeenArgs {
    /// Refuse unless the saga is at this step: RESERVE, CHARGE, COMMIT_STOCK or LABEL.
    #[arg(long, value_name = "STEP", default_value = "", hide_default_value = true)]
    pub(super) step: String,
    /// Refuse unless the saga walks this way: FORWARD (doing) or BACKWARD (undoing).
    #[arg(long, value_name = "DIRECTION", default_value = "", hide_default_value = true)]
    pub(super) direction: String,
}

impl SeenArgs {
    /// As the service names them.
    pub(super) fn names(&self) -> (String, String) {
        let name = |text: &str| text.trim().to_ascii_uppercase().replace('-', "_");
        (name(&self.step), name(&self.direction))
    }
}

/// Connects, makes one call and shows its answer.
pub(in crate::cli) fn run<T>(
    server: &ServerArgs,
    call: impl AsyncFnOnce(&mut AdminClient) -> Result<T, ApiError>,
    show: impl FnOnce(T, bool) -> Result<(), ClientFailure>,
) -> Result<(), Failure> {
    run_for(server, Span::default(), call, show)
}

/// How long a command takes at the least and at the most, whatever comes of it.
#[derive(Clone, Copy, Default, Debug)]
pub(in crate::cli) struct Span {
    pub(in crate::cli) at_least: Duration,
    /// None = as long as its call does.
    pub(in crate::cli) at_most: Option<Duration>,
}

/// As [`run`], for so long.
pub(in crate::cli) fn run_for<T>(
    server: &ServerArgs,
    span: Span,
    call: impl AsyncFnOnce(&mut AdminClient) -> Result<T, ApiError>,
    show: impl FnOnce(T, bool) -> Result<(), ClientFailure>,
) -> Result<(), Failure> {
    let is_json = match server.output {
        Some(format) => format == Format::Json,
        None => !io::stdout().is_terminal(),
    };
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    runtime.block_on(async {
        let began = Instant::now();
        let made = match server.access.read() {
            Ok(access) => Ok(ask_within(server, access, span.at_most, call).await),
            Err(why) => Err(Failure::Sentence(why)),
        };
        tokio::time::sleep(span.at_least.saturating_sub(began.elapsed())).await;
        made.and_then(|answer| {
            let shown = answer.map_err(ClientFailure::from).and_then(|answer| show(answer, is_json));
            ended(shown, is_json)
        })
    })
}

async fn ask_within<T>(
    server: &ServerArgs,
    access: Access,
    at_most: Option<Duration>,
    call: impl AsyncFnOnce(&mut AdminClient) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let asking = async {
        let mut client = AdminClient::connect(&server.server, server.timeout, access).await?;
        call(&mut client).await
    };
    match at_most {
        None => asking.await,
        Some(most) => tokio::time::timeout(most, asking).await.unwrap_or_else(|_late| {
            let message = format!("{} has not done it within {most:?}", server.server);
            Err(ApiError::local("DEADLINE_EXCEEDED", message))
        }),
    }
}

/// Shows an order after a repair.
pub(super) fn show_repaired(order: pb::RepairedOrder, is_json: bool) -> Result<(), ClientFailure> {
    if is_json { print_json(&told::repaired_json(&order)) } else { print(&told::repaired(&order)) }
}

/// An order's id or number in its standard spelling.
pub(in crate::cli) fn order(text: &str) -> Result<String, String> {
    if let Ok(id) = Uuid::try_parse(text.trim()) {
        return Ok(id.to_string());
    }
    OrderNumber::parse(text).map(|number| number.as_str().to_owned()).ok_or_else(|| {
        "neither an order's id nor its number; write it like \
         01900000-0000-7000-8000-000000000001 or ORD-7K3M9Q2XYZ"
            .to_owned()
    })
}

/// An order's id.
pub(super) fn order_id(text: &str) -> Result<String, String> {
    Uuid::try_parse(text.trim())
        .map(|id| id.to_string())
        .map_err(|_| "no order's id; write it like 01900000-0000-7000-8000-000000000001".to_owned())
}

/// A line on standard error that is drawn over on a terminal; a line each time elsewhere.
pub(super) struct Progress {
    on_terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { on_terminal: io::stderr().is_terminal() }
    }

    pub(super) fn tell(&mut self, text: &str) {
        let mut out = io::stderr().lock();
        // Nobody to tell is no reason to stop.
        let _told = match self.on_terminal {
            true => write!(out, "\r\x1b[2K{text}").and_then(|()| out.flush()),
            false => writeln!(out, "{text}"),
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on_terminal {
            let _erased = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }
}
