//! `order list`.

use std::io::{self, Write};

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Args;
use prost_types::Timestamp;

use super::view::OrderJson;
use super::{ClientFailure, Session, parse_status, print, table};
use crate::proto::order::{ListOrdersRequest, OrderStatus};

/// Orders asked for at a time, at most.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
#[command(after_help = "\
Times are RFC 3339 (2026-01-31T12:00:00Z) or a date (2026-01-31, its first moment in UTC).

Examples:
  order-service order list
  order-service order list --user 123e4567-e89b-12d3-a456-426614174000 --status PENDING --status CANCELLING
  order-service order list --after 2026-01-01 --before 2026-02-01 --all -o json | jq -r '.orders[].id'")]
pub(super) struct ListArgs {
    /// Only this user's orders.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    user: String,
    /// Only orders with this status; may be repeated.
    #[arg(long, value_name = "STATUS", value_parser = parse_status)]
    status: Vec<OrderStatus>,
    /// Only orders created at this time or later.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    after: Option<DateTime<Utc>>,
    /// Only orders created before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    before: Option<DateTime<Utc>>,
    /// How many orders at most.
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Go on where an earlier list ended; give it the same filters.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
    /// Every order, however many.
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Oldest first.
    #[arg(long)]
    oldest_first: bool,
}

pub(super) async fn run(session: &Session, arguments: ListArgs) -> Result<(), ClientFailure> {
    let mut left = if arguments.all { u32::MAX } else { arguments.limit };
    let mut request = ListOrdersRequest {
        user_id: arguments.user,
        statuses: arguments.status.into_iter().map(i32::from).collect(),
        created_after: arguments.after.map(timestamp),
        created_before: arguments.before.map(timestamp),
        page_size: 0,
        page_token: arguments.page_token,
        order_by: if arguments.oldest_first { "created_at asc".to_owned() } else { String::new() },
    };
    let mut client = session.connect().await?;
    // JSON is written page by page, so that a list of any length needs little memory.
    let mut array = JsonArray::default();
    let mut shown: Vec<OrderJson> = Vec::new();
    loop {
        request.page_size = i32::try_from(left.min(PAGE)).unwrap_or(i32::MAX);
        let page = client.list(request.clone()).await?;
        if !arguments.all {
            left = left.saturating_sub(u32::try_from(page.orders.len()).unwrap_or(u32::MAX));
        }
        let orders = page.orders.into_iter().map(OrderJson::from);
        if session.is_json() {
            array.push_all(orders)?;
        } else if arguments.all {
            shown = orders.collect();
            print(&table::orders(&shown))?;
        } else {
            shown.extend(orders);
        }
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || left == 0 {
            break;
        }
    }
    if session.is_json() {
        return array.finish(&request.page_token);
    }
    if !arguments.all {
        print(&table::orders(&shown))?;
        if !request.page_token.is_empty() {
            print(&format!("\nThere are more: add --page-token {} or --all.", request.page_token))?;
        }
    }
    Ok(())
}

/// `{"orders": [...], "next_page_token": "..."}`, written bit by bit.
#[derive(Default)]
struct JsonArray {
    is_open: bool,
}

impl JsonArray {
    fn push_all(&mut self, orders: impl Iterator<Item = OrderJson>) -> Result<(), ClientFailure> {
        let mut out = io::stdout().lock();
        for order in orders {
            let start = if self.is_open { ",\n    " } else { "{\n  \"orders\": [\n    " };
            self.is_open = true;
            // Strings in JSON hold no line breaks, so every one is layout.
            let text = serde_json::to_string_pretty(&order).map_err(io::Error::from)?.replace('\n', "\n    ");
            write!(out, "{start}{text}")?;
        }
        out.flush()?;
        Ok(())
    }

    fn finish(self, next_page_token: &str) -> Result<(), ClientFailure> {
        let start = if self.is_open { "\n  ]" } else { "{\n  \"orders\": []" };
        print(&format!("{start},\n  \"next_page_token\": {}\n}}", serde_json::Value::from(next_page_token)))
    }
}

fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

fn parse_time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    text.parse::<NaiveDate>()
        .map(|date| date.and_time(NaiveTime::MIN).and_utc())
        .map_err(|_| "no time; write it like 2026-01-31 or 2026-01-31T12:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_rfc_3339() {
        assert_eq!(parse_time("2026-01-31").unwrap().to_rfc3339(), "2026-01-31T00:00:00+00:00");
        assert_eq!(
            parse_time("2026-01-31T12:00:00+02:00").unwrap().to_rfc3339(),
            "2026-01-31T10:00:00+00:00"
        );
        assert!(parse_time("yesterday").is_err());
        assert_eq!(timestamp(parse_time("1970-01-02").unwrap()).seconds, 86_400);
    }
}
