//! Orders, events and payments as tables for people.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Row, Table, TableStyle};
use serde_json::Value;

use super::view::{AddressJson, EventJson, OrderJson, PaymentJson};

/// Longest summary of an event, in characters.
const SUMMARY_CHARS: usize = 120;

/// Nothing but a line below the header.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-'));

/// One order: facts, lines with their sums, addresses, parcels, and what can be done next.
pub(super) fn order(order: &OrderJson) -> String {
    let mut text = String::new();
    let number = clean(if order.order_number.is_empty() { "(not stored)" } else { &order.order_number });
    let _ = writeln!(
        text,
        "Order {number}  {}  payment {}\n",
        clean(&order.status),
        clean(&order.payment_status)
    );
    let _ = writeln!(text, "{}\n", facts(order).trim_fmt());
    let _ = writeln!(text, "{}\n", lines(order).trim_fmt());
    for line in addresses(&order.addresses) {
        let _ = writeln!(text, "{line}");
    }
    for shipment in &order.shipments {
        let parts =
            [&shipment.carrier, &shipment.tracking_number, &shipment.label_status, &shipment.label_url];
        let _ = writeln!(text, "Parcel:   {}", joined(parts, " "));
    }
    let hints = next_steps(order);
    if !hints.is_empty() {
        let _ = write!(text, "\nNext:");
        for hint in hints {
            let _ = write!(text, "\n  {hint}");
        }
    }
    text.trim_end().to_owned()
}

/// A page of orders, one a row.
pub(super) fn orders(orders: &[OrderJson]) -> String {
    if orders.is_empty() {
        return "No orders.".to_owned();
    }
    let mut table = table(["Number", "Status", "Payment", "Total", "", "Lines", "Created", "Id"]);
    for order in orders {
        table.add_row(Row::from([
            cell(&order.order_number),
            cell(&order.status),
            cell(&order.payment_status),
            right(&order.total_amount),
            cell(&order.currency),
            right(&order.items.len().to_string()),
            cell(order.created_at.as_deref().unwrap_or_default()),
            cell(&order.id),
        ]));
    }
    table.trim_fmt()
}

/// Events, one a row.
pub(super) fn events(events: &[EventJson]) -> String {
    if events.is_empty() {
        return "No events.".to_owned();
    }
    let mut table = table(["#", "At", "Event", "Facts", "By"]);
    for event in events {
        table.add_row(Row::from([
            right(&event.sequence.to_string()),
            cell(event.at.as_deref().unwrap_or_default()),
            cell(&event.r#type),
            cell(&summary(event)),
            cell(&by(event)),
        ]));
    }
    table.trim_fmt()
}

/// Who, as what and why.
fn by(event: &EventJson) -> String {
    let mut by = event.principal.clone();
    if !event.role.is_empty() && event.role != event.principal {
        by = format!("{by} ({})", event.role);
    }
    if event.reason.is_empty() { by } else { format!("{by}: {}", event.reason) }
}

/// One event as one line.
pub(super) fn event(event: &EventJson) -> String {
    let Some(at) = event.at.as_deref() else { return String::new() };
    let line = format!("#{:<3} {at}  {}  {}", event.sequence, event.r#type, summary(event));
    clean(line.trim_end())
}

/// Calls to the payment service, one a row.
pub(super) fn payments(payments: &[PaymentJson]) -> String {
    if payments.is_empty() {
        return "No payment transactions.".to_owned();
    }
    let mut table = table(["At", "Kind", "Status", "Amount", "", "Method", "Reference", "Decline"]);
    for payment in payments {
        table.add_row(Row::from([
            cell(payment.updated_at.as_deref().unwrap_or_default()),
            cell(&payment.kind),
            cell(&payment.status),
            right(&payment.amount),
            cell(&payment.currency),
            cell(&payment.payment_method),
            cell(&payment.transaction_id),
            cell(&payment.decline_code),
        ]));
    }
    table.trim_fmt()
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = plain();
    table.load_style(STYLE);
    table.set_header(header);
    table
}

/// A table of what operators are told: one row each, numbers to the right.
pub(in crate::cli) fn grid<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let mut table = table(header);
    for row in rows {
        let is_number = |text: &str| {
            text.starts_with(|first: char| first.is_ascii_digit()) && !text.contains([':', '.', '-'])
        };
        table.add_row(Row::from(row.map(|text| if is_number(&text) { right(&text) } else { cell(&text) })));
    }
    table.trim_fmt()
}

/// A table of cells and spaces, as wide as the terminal allows.
fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new());
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// An amount that there is nothing to say about.
fn is_zero(amount: &str) -> bool {
    amount.bytes().all(|byte| matches!(byte, b'0' | b'.' | b'-'))
}

/// Why personal data is not shown; nothing where it is, or an older server does not say.
fn missing(personal_data: &str) -> &str {
    match personal_data {
        "AVAILABLE" | "UNSPECIFIED" => "",
        why => why,
    }
}

fn facts(order: &OrderJson) -> Table {
    let mut table = plain();
    let hold = order.hold.as_ref().map(|hold| {
        let until = hold.until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
        format!("{} (by {}{until})", hold.reason, hold.by)
    });
    let metadata: Vec<String> =
        order.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let version = if order.version > 0 { order.version.to_string() } else { String::new() };
    for (name, value) in [
        ("Id", order.id.as_str()),
        ("User", &order.user_id),
        ("Version", &version),
        ("Cancelled for", &order.cancel_reason),
        ("Needs attention", &order.attention_reason),
        ("Balance", if is_zero(&order.balance) { "" } else { &order.balance }),
        ("On hold", hold.as_deref().unwrap_or_default()),
        ("Payment by", &order.payment_method),
        ("Shipping by", &order.shipping_method),
        ("Coupon", &order.coupon_code),
        ("Personal data", missing(&order.personal_data)),
        ("Notes", &order.notes),
        ("Metadata", &metadata.join(", ")),
        ("Created", order.created_at.as_deref().unwrap_or_default()),
        ("Updated", order.updated_at.as_deref().unwrap_or_default()),
        ("Delivered", order.completed_at.as_deref().unwrap_or_default()),
        ("Cancelled", order.cancelled_at.as_deref().unwrap_or_default()),
    ] {
        if !value.is_empty() {
            table.add_row([cell(name), cell(value)]);
        }
    }
    table
}

fn lines(order: &OrderJson) -> Table {
    let mut table = table(["Qty", "SKU", "Name", "Unit price", "Discount", "Tax", "Amount"]);
    for index in [0, 3, 4, 5, 6] {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for item in &order.items {
        table.add_row(Row::from([
            right(&item.quantity.to_string()),
            cell(&item.sku),
            cell(&item.name),
            right(&item.unit_price),
            right(&minus(&item.discount_amount)),
            right(&item.tax_amount),
            right(&item.subtotal),
        ]));
    }
    let total = format!("Total {}", order.currency);
    for (name, amount) in [
        ("Subtotal", &order.subtotal),
        ("Discount", &minus(&order.discount_amount)),
        ("Tax", &order.tax_amount),
        ("Shipping", &order.shipping_amount),
        (total.as_str(), &order.total_amount),
    ] {
        let blank = || cell("");
        table.add_row(Row::from([blank(), blank(), right(name), blank(), blank(), blank(), right(amount)]));
    }
    table
}

/// An amount that is taken off; nothing is taken off as it stands.
fn minus(amount: &str) -> String {
    let is_zero = amount.chars().all(|digit| matches!(digit, '0' | '.'));
    if is_zero { amount.to_owned() } else { format!("-{amount}") }
}

fn addresses(addresses: &[AddressJson]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::new();
    let mut seen: Option<String> = None;
    for address in addresses {
        let label = if address.address_type == "BILLING" { "Bill to:" } else { "Ship to:" };
        let name = joined([&address.first_name, &address.last_name], " ");
        let town = joined([&address.city, &address.state, &address.postal_code], " ");
        let line =
            joined([&name, &address.address_line1, &address.address_line2, &town, &address.country], ", ");
        let is_same = seen.as_ref() == Some(&line);
        shown.push(format!("{label}  {}", if is_same { "the same address" } else { &line }));
        seen = Some(line);
    }
    shown
}

/// What a person would type next.
fn next_steps(order: &OrderJson) -> Vec<String> {
    if order.version == 0 {
        return vec!["nothing was stored; create it without --validate-only".to_owned()];
    }
    let number = clean(&order.order_number);
    let mut hints = Vec::new();
    if matches!(order.status.as_str(), "PENDING" | "CANCELLING") {
        hints.push(format!("order-service order watch {number}"));
    }
    for status in &order.allowed_next_statuses {
        hints.push(match status.as_str() {
            "CANCELLED" => format!("order-service order cancel {number}"),
            other => format!("order-service order status {number} {}", clean(other)),
        });
    }
    hints
}

/// The facts of an event in one line: the status, what was noted, then the rest of the payload.
fn summary(event: &EventJson) -> String {
    let mut parts: Vec<String> = Vec::new();
    if let Some(status) = &event.status {
        parts.push(status.clone());
    }
    if !event.notes.is_empty() {
        parts.push(format!("\"{}\"", event.notes));
    }
    if let Value::Object(facts) = &event.payload {
        let told = ["type", "notes"];
        for (name, value) in facts.iter().filter(|(name, _)| !told.contains(&name.as_str())) {
            if event.status.is_some() && name == "to" {
                continue;
            }
            match value {
                Value::String(text) => parts.push(format!("{name}={text}")),
                other => parts.push(format!("{name}={other}")),
            }
        }
    }
    let text = parts.join(" ");
    if text.chars().count() <= SUMMARY_CHARS {
        return text;
    }
    text.chars().take(SUMMARY_CHARS).chain(['…']).collect()
}

fn joined<const N: usize>(parts: [&String; N], separator: &str) -> String {
    let parts: Vec<String> = parts.iter().filter(|part| !part.is_empty()).map(|part| clean(part)).collect();
    parts.join(separator)
}

fn cell(text: &str) -> Cell {
    Cell::new(clean(text))
}

fn right(text: &str) -> Cell {
    cell(text).set_alignment(CellAlignment::Right)
}

/// Text that cannot steer the terminal.
pub(in crate::cli) fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;

    #[test]
    fn an_order_reads_well() {
        let text = order(&OrderJson::from(sample()));
        for expected in [
            "Order ORD-7K3M9Q2XYZ  CONFIRMED  payment PAID",
            "SUMMER10",
            "PROD-001-VAR-002",
            "-9.00",
            "Total USD",
            "Ship to:  John Doe, 123 Main St, New York NY 10001, US",
            "Bill to:  John Doe, 1 Other St",
            "order-service order status ORD-7K3M9Q2XYZ PROCESSING",
            "order-service order cancel ORD-7K3M9Q2XYZ",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        assert!(!text.contains('\u{1b}'), "notes cannot steer the terminal");
        let amounts: Vec<usize> = text
            .lines()
            .filter(|line| {
                line.contains("Subtotal") || line.contains("Total USD") || line.contains("PROD-001")
            })
            .map(str::len)
            .collect();
        assert!(amounts.len() == 3 && amounts.windows(2).all(|pair| pair.first() == pair.last()), "{text}");
    }

    #[test]
    fn the_same_address_is_said_once() {
        let mut order = sample();
        let first = order.addresses.first().cloned().unwrap();
        if let Some(second) = order.addresses.last_mut() {
            second.address_line1 = first.address_line1;
        }
        assert!(super::order(&OrderJson::from(order)).contains("Bill to:  the same address"));
    }

    #[test]
    fn events_are_summed_up() {
        let json = EventJson {
            order_id: String::new(),
            sequence: 3,
            version: 2,
            r#type: "status_changed".into(),
            at: Some("2026-01-01T00:00:00Z".into()),
            principal: "dev".into(),
            role: "support".into(),
            reason: "ticket 7".into(),
            request_id: String::new(),
            payload: serde_json::json!({"type": "status_changed", "from": "PENDING", "to": "CONFIRMED"}),
            status: Some("CONFIRMED".into()),
            notes: String::new(),
        };
        assert_eq!(event(&json), "#3   2026-01-01T00:00:00Z  status_changed  CONFIRMED from=PENDING");
        let table = events(std::slice::from_ref(&json));
        assert!(
            table.contains("CONFIRMED from=PENDING") && table.contains("dev (support): ticket 7"),
            "{table}"
        );
        let plain = EventJson { role: String::new(), reason: String::new(), ..json };
        assert_eq!(by(&plain), "dev");
        assert_eq!(events(&[]), "No events.");
    }
}
