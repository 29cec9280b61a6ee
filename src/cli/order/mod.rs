//! `order`: a client for people.

mod cancel;
mod create;
mod edit;
mod get;
mod history;
mod hold;
mod list;
mod payments;
mod refund;
mod report;
mod request;
mod shipment;
mod status;
pub(super) mod table;
mod view;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use uuid::Uuid;

use super::{Failure, interrupted, runtime, tell};
use crate::clients::orders::{Access, ApiError, Bearer, OrdersClient, Reason};
use crate::config::parse_duration;
use crate::domain::ids::OrderNumber;
use crate::proto::order::{self, get_order_request};

#[derive(Args, Debug)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Wherever an order is named, its id (a UUID) or its number (ORD-...) will do.

Examples:
  order-service order create examples/create-order.json
  order-service order get ORD-7K3M9Q2XYZ
  order-service order list --status CONFIRMED --after 2026-01-31 -o json
  order-service order status ORD-7K3M9Q2XYZ PROCESSING"
)]
pub(super) struct OrderArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: OrderCommand,
}

/// By what a caller proves who it is, and a server.
#[derive(Args, Debug)]
pub(in crate::cli) struct AccessArgs {
    /// Proves who calls. Others can read it in the list of processes: better by variable, or by --token-file.
    #[arg(long, env = "ORDER_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    token: Option<String>,
    /// A file with the token; it wins over one given otherwise.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// A PEM file with the authority of an https server; without it those count that this machine trusts.
    #[arg(long, value_name = "FILE", global = true)]
    ca: Option<PathBuf>,
    /// The trace that the call belongs to, as a W3C traceparent; recorded by nodes that record traces if it ends with -01.
    #[arg(long, env = "TRACEPARENT", hide_env_values = true, value_name = "TRACEPARENT", global = true)]
    traceparent: Option<String>,
}

#[derive(Args, Debug)]
struct ClientArgs {
    /// Where the service is: a URL, or HOST:PORT; of several, with commas between, the first that answers.
    #[arg(
        long,
        env = "ORDER_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051",
        global = true
    )]
    server: String,
    #[command(flatten)]
    access: AccessArgs,
    /// Why you act for somebody else, up to 200 characters; kept with what is done.
    #[arg(long, value_name = "REASON", global = true)]
    on_behalf: Option<String>,
    /// How long connecting and each call may take, such as 500ms, 15s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration, global = true)]
    timeout: Duration,
    /// How results are printed; the default is table on a terminal and json elsewhere.
    #[arg(short, long, value_enum, value_name = "FORMAT", global = true)]
    output: Option<Format>,
}

/// How results are printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    /// JSON with the names of the API; errors too, on standard error.
    Json,
    /// Tables for people.
    Table,
}

#[derive(Subcommand, Debug)]
enum OrderCommand {
    /// Create an order from a JSON file.
    Create(create::CreateArgs),
    /// Show one order.
    Get(get::GetArgs),
    /// List orders, newest first.
    List(list::ListArgs),
    /// Cancel an order: refund, give the stock back.
    Cancel(cancel::CancelArgs),
    /// Give money back; the order goes on.
    Refund(refund::RefundArgs),
    /// Add an item, or more of one.
    AddItem(edit::AddArgs),
    /// Change how many of an item there are.
    UpdateItem(edit::UpdateArgs),
    /// Remove an item.
    RemoveItem(edit::RemoveArgs),
    /// Send an order in one parcel more.
    AddShipment(shipment::ShipmentArgs),
    /// Put an order on hold: stop its forward moves.
    Hold(hold::HoldArgs),
    /// End a hold.
    Release(hold::ReleaseArgs),
    /// Ask for a new status.
    Status(status::StatusArgs),
    /// Show everything that happened to an order, oldest first.
    History(history::HistoryArgs),
    /// Follow an order live until it is CANCELLED or RETURNED, or until Ctrl-C.
    Watch(watch::WatchArgs),
    /// Show the calls to the payment service for an order.
    Payments(payments::PaymentsArgs),
}

/// Why a call, or what is done with its answer, failed.
#[derive(Debug)]
pub(super) enum ClientFailure {
    /// The service refused or could not be reached, or the input is wrong.
    Api(ApiError),
    /// Standard output took no more.
    Output(io::Error),
}

impl ClientFailure {
    /// The input is wrong; one sentence.
    fn input(sentence: impl Into<String>) -> Self {
        Self::Api(ApiError::local("INVALID_ARGUMENT", sentence))
    }
}

impl From<ApiError> for ClientFailure {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<io::Error> for ClientFailure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What every subcommand works with.
struct Session {
    server: String,
    access: Access,
    timeout: Duration,
    format: Format,
}

impl Session {
    async fn connect(&self) -> Result<OrdersClient, ApiError> {
        OrdersClient::connect(&self.server, self.timeout, &self.access).await
    }

    fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints an order.
    fn show(&self, order: order::Order) -> Result<(), ClientFailure> {
        let order = view::OrderJson::from(order);
        if self.is_json() { print_json(&order) } else { print(&table::order(&order)) }
    }
}

/// An order's id or number.
#[derive(Clone, PartialEq, Eq, Debug)]
enum OrderKey {
    /// A UUID.
    Id(String),
    /// A number in its standard spelling.
    Number(String),
}

impl OrderKey {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(id) = Uuid::try_parse(text.trim()) {
            return Ok(Self::Id(id.to_string()));
        }
        OrderNumber::parse(text).map(|number| Self::Number(number.as_str().to_owned())).ok_or_else(|| {
            "neither an order's id nor its number; write it like \
             01900000-0000-7000-8000-000000000001 or ORD-7K3M9Q2XYZ"
                .to_owned()
        })
    }

    fn into_request(self) -> get_order_request::Key {
        match self {
            Self::Id(id) => get_order_request::Key::Id(id),
            Self::Number(number) => get_order_request::Key::OrderNumber(number),
        }
    }

    /// The id; asks the service when only the number is known.
    async fn resolve(self, client: &mut OrdersClient) -> Result<String, ApiError> {
        match self {
            Self::Id(id) => Ok(id),
            number @ Self::Number(_) => Ok(client.get(number.into_request()).await?.id),
        }
    }
}

pub(super) fn run(arguments: OrderArgs) -> Result<(), Failure> {
    let ClientArgs { server, access, on_behalf, timeout, output } = arguments.client;
    let reason = on_behalf.as_deref().map(Reason::new).transpose().map_err(Failure::Sentence)?;
    let access = Access { reason, ..access.read().map_err(Failure::Sentence)? };
    let is_terminal = io::stdout().is_terminal();
    let format = output.unwrap_or(if is_terminal { Format::Table } else { Format::Json });
    let session = Session { server, access, timeout, format };
    let runtime = runtime(&mut tokio::runtime::Builder::new_current_thread())?;
    ended(runtime.block_on(dispatch(&session, arguments.command)), session.is_json())
}

impl AccessArgs {
    /// What calls show, and see. No sentence holds a token.
    pub(in crate::cli) fn read(&self) -> Result<Access, String> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map_err(|error| format!("{} cannot be read ({error}); check the path", path.display()))
        };
        let from_file = self.token_file.as_ref().map(read).transpose()?;
        // An empty variable is none.
        let given = self.token.clone().filter(|token| !token.is_empty());
        let token = from_file.or(given).map(|token| Bearer::new(&token)).transpose()?;
        // One that no header can hold belongs to no trace: it may come from whatever runs this.
        let trace = self.traceparent.as_deref().and_then(|trace| trace.parse().ok());
        Ok(Access { token, reason: None, trace, ca: self.ca.as_ref().map(read).transpose()? })
    }
}

/// Tells how a call failed, if it did.
pub(super) fn ended(ended: Result<(), ClientFailure>, is_json: bool) -> Result<(), Failure> {
    match ended {
        Ok(()) => Ok(()),
        Err(ClientFailure::Output(error)) => Err(Failure::Output(error)),
        Err(ClientFailure::Api(error)) => {
            tell(&if is_json { report::json(&error) } else { report::lines(&error) });
            Err(Failure::Told)
        }
    }
}

async fn dispatch(session: &Session, command: OrderCommand) -> Result<(), ClientFailure> {
    match command {
        OrderCommand::Create(arguments) => create::run(session, arguments).await,
        OrderCommand::Get(arguments) => get::run(session, arguments).await,
        OrderCommand::List(arguments) => list::run(session, arguments).await,
        OrderCommand::Cancel(arguments) => cancel::run(session, arguments).await,
        OrderCommand::Refund(arguments) => refund::run(session, arguments).await,
        OrderCommand::AddItem(arguments) => edit::add(session, arguments).await,
        OrderCommand::UpdateItem(arguments) => edit::update(session, arguments).await,
        OrderCommand::RemoveItem(arguments) => edit::remove(session, arguments).await,
        OrderCommand::AddShipment(arguments) => shipment::run(session, arguments).await,
        OrderCommand::Hold(arguments) => hold::hold(session, arguments).await,
        OrderCommand::Release(arguments) => hold::release(session, arguments).await,
        OrderCommand::Status(arguments) => status::run(session, arguments).await,
        OrderCommand::History(arguments) => history::run(session, arguments).await,
        OrderCommand::Watch(arguments) => watch::run(session, arguments).await,
        OrderCommand::Payments(arguments) => payments::run(session, arguments).await,
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("no time at all; give it at least 1ms".to_owned()),
        duration => Ok(duration),
    }
}

/// Reads a status in any case, with or without the prefix of the API.
fn parse_status(text: &str) -> Result<order::OrderStatus, String> {
    let name = text.trim().to_ascii_uppercase().replace('-', "_");
    let name = name.strip_prefix("ORDER_STATUS_").unwrap_or(&name);
    order::OrderStatus::from_str_name(&format!("ORDER_STATUS_{name}"))
        .filter(|status| *status != order::OrderStatus::Unspecified)
        .ok_or_else(|| {
            "no status; use PENDING, CONFIRMED, PROCESSING, SHIPPED, DELIVERED, CANCELLING, CANCELLED or RETURNED"
                .to_owned()
        })
}

pub(super) fn print(text: &str) -> Result<(), ClientFailure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// Prints JSON on one line.
fn print_line(value: &impl serde::Serialize) -> Result<(), ClientFailure> {
    print(&serde_json::to_string(value).map_err(io::Error::from)?)
}

pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), ClientFailure> {
    print(&serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_named_by_id_or_number() {
        let id = "01900000-0000-7000-8000-000000000001";
        assert_eq!(OrderKey::parse(id), Ok(OrderKey::Id(id.into())));
        assert_eq!(OrderKey::parse(" ord-7k3m9q2xyo "), Ok(OrderKey::Number("ORD-7K3M9Q2XY0".into())));
        assert!(OrderKey::parse("ORD-1").is_err() && OrderKey::parse("").is_err());
    }

    #[test]
    fn statuses_are_read_generously() {
        for text in ["SHIPPED", "shipped", "ORDER_STATUS_SHIPPED"] {
            assert_eq!(parse_status(text), Ok(order::OrderStatus::Shipped));
        }
        for text in ["", "UNSPECIFIED", "SENT"] {
            assert!(parse_status(text).is_err(), "{text}");
        }
    }
}
