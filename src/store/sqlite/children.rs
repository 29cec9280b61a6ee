//! The rows that belong to an order: lines, addresses, history, ledger, shipments, requests, events and sagas.

use sqlx::sqlite::{SqliteArguments, SqliteConnection};

use super::bind::{Bind, Bound};
use super::statement::Statement;
use crate::domain::address::Address;
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::ids::OrderId;
use crate::domain::item::OrderItem;
use crate::domain::order::{Order, RequestRecord, Shipment};
use crate::domain::payment::LedgerEntry;
use crate::domain::saga::SagaProgress;
use crate::domain::status::OrderStatus;
use crate::ports::store::Commit;

pub(super) struct Children {
    drop_items: Statement,
    items: Statement,
    drop_addresses: Statement,
    addresses: Statement,
    history: Statement,
    ledger: Statement,
    shipments: Statement,
    requests: Statement,
    events: Statement,
    sagas: Statement,
}

impl Children {
    pub(super) fn new() -> Self {
        let items = "order_id id position product_id variant_id sku name tax_class quantity unit_price subtotal \
                     discount_amount tax_amount created_at updated_at";
        let addresses = "order_id id address_type first_name last_name address_line1 address_line2 city state \
                         postal_code country phone email created_at updated_at";
        let history = "order_id id seq status notes created_by created_at";
        let ledger = "order_id id entry_no kind status call_key transaction_id payment_method amount currency code \
                      gateway_response created_at updated_at";
        let shipments = "order_id id position call_key state carrier tracking_number label_url created_at updated_at";
        let sagas = "order_id saga_no kind direction step tries resend turn next_at due_at started_at sent_at \
                     attention last_error failure settled notes principal request_id trace_parent payment_token";
        Self {
            drop_items: Statement::new("DELETE FROM order_items WHERE order_id IN (", "?", ")"),
            items: insert("order_items", items, ""),
            drop_addresses: Statement::new("DELETE FROM order_addresses WHERE order_id IN (", "?", ")"),
            addresses: insert("order_addresses", addresses, ""),
            history: insert("order_status_history", history, ""),
            ledger: insert("order_payment_transactions", ledger, ""),
            shipments: insert("shipments", shipments, &upsert("order_id, id", shipments)),
            requests: insert("order_requests", "order_id request_id hash saga_no version", ""),
            events: insert("order_events", "order_id seq version type payload principal request_id at", ""),
            sagas: insert("sagas", sagas, &upsert("order_id, saga_no", sagas)),
        }
    }

    /// Writes what `commits` bring besides the order's own row.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        commits: &[&Commit],
    ) -> Result<(), sqlx::Error> {
        let orders = |touched: fn(&Commit) -> bool| {
            commits.iter().filter(move |commit| is_new(commit) || touched(commit)).map(|commit| &*commit.order)
        };
        let replaced = |touched: fn(&Commit) -> bool| -> Vec<OrderId> {
            let known = commits.iter().filter(|commit| !is_new(commit) && touched(commit));
            known.map(|commit| commit.order.id).collect()
        };

        let dropped = replaced(|commit| commit.touched.items);
        self.drop_items.run(connection, &dropped, |args, id| args.id(id.0)).await?;
        let items: Vec<_> =
            orders(|commit| commit.touched.items).flat_map(|order| numbered(order, &order.items)).collect();
        self.items.run(connection, &items, bind_item).await?;

        let dropped = replaced(|commit| commit.touched.addresses);
        self.drop_addresses.run(connection, &dropped, |args, id| args.id(id.0)).await?;
        let addresses: Vec<_> =
            orders(|commit| commit.touched.addresses).flat_map(|order| numbered(order, &order.addresses)).collect();
        self.addresses.run(connection, &addresses, bind_address).await?;

        let shipments: Vec<_> =
            orders(|commit| commit.touched.shipments).flat_map(|order| numbered(order, &order.shipments)).collect();
        self.shipments.run(connection, &shipments, bind_shipment).await?;

        let entries: Vec<_> = commits
            .iter()
            .flat_map(|commit| {
                let from = if is_new(commit) { 0 } else { commit.touched.payments_from };
                numbered(&commit.order, &commit.order.payments).skip(from)
            })
            .collect();
        self.ledger.run(connection, &entries, bind_entry).await?;

        let requests: Vec<_> = commits
            .iter()
            .filter_map(|commit| commit.request.as_ref().map(|request| (&*commit.order, request)))
            .collect();
        self.requests.run(connection, &requests, bind_request).await?;

        let events: Vec<_> = commits
            .iter()
            .flat_map(|commit| commit.events.iter().map(|event| (commit.order.id, event)))
            .collect();
        self.events.run(connection, &events, bind_event).await?;
        let history: Vec<_> = events
            .iter()
            .filter_map(|(order, event)| entered(&event.event).map(|(to, notes)| (*order, *event, to, notes)))
            .collect();
        self.history.run(connection, &history, bind_history).await?;

        let sagas: Vec<_> = commits.iter().filter_map(|commit| commit.saga.as_ref()).collect();
        self.sagas.run(connection, &sagas, |args, saga| bind_saga(args, saga)).await
    }
}

fn is_new(commit: &Commit) -> bool {
    commit.guard.version == 0
}

fn insert(table: &str, columns: &str, tail: &str) -> Statement {
    let columns: Vec<&str> = columns.split_whitespace().collect();
    Statement::insert(table, &columns, tail)
}

fn upsert(key: &str, columns: &str) -> String {
    let keys: Vec<&str> = key.split(", ").collect();
    let set: Vec<String> = columns
        .split_whitespace()
        .filter(|column| !keys.contains(column))
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    format!("ON CONFLICT ({key}) DO UPDATE SET {}", set.join(", "))
}

type Numbered<'a, T> = (&'a Order, usize, &'a T);

fn numbered<'a, T>(order: &'a Order, rows: &'a [T]) -> impl Iterator<Item = Numbered<'a, T>> {
    rows.iter().enumerate().map(move |(place, row)| (order, place, row))
}

/// The status that an event brings, and the caller's note.
fn entered(event: &OrderEvent) -> Option<(OrderStatus, &str)> {
    match event {
        OrderEvent::OrderCreated { .. } => Some((OrderStatus::Pending, "")),
        OrderEvent::StatusChanged { to, notes, .. } => Some((*to, notes)),
        _ => None,
    }
}

fn bind_item(args: &mut SqliteArguments, (order, place, item): &Numbered<'_, OrderItem>) -> Bound {
    args.id(order.id.0)?;
    args.id(item.id)?;
    args.int(*place)?;
    args.id(item.product.product_id)?;
    args.maybe_id(item.product.variant_id)?;
    args.text(&item.sku)?;
    args.text(&item.name)?;
    args.text(&item.tax_class)?;
    args.int(item.quantity)?;
    args.amount(item.unit_price)?;
    args.amount(item.subtotal)?;
    args.amount(item.discount_amount)?;
    args.amount(item.tax_amount)?;
    args.time(item.created_at)?;
    args.time(item.updated_at)
}

fn bind_address(args: &mut SqliteArguments, (order, _, address): &Numbered<'_, Address>) -> Bound {
    let kind = address.kind.as_str();
    args.id(order.id.0)?;
    args.id(order.id.part(kind, 0))?;
    args.text(kind)?;
    args.text(&address.first_name)?;
    args.text(&address.last_name)?;
    args.text(&address.address_line1)?;
    args.maybe_text(address.address_line2.as_deref())?;
    args.text(&address.city)?;
    args.text(&address.state)?;
    args.text(&address.postal_code)?;
    args.text(address.country.code())?;
    args.maybe_text(address.phone.as_deref())?;
    args.maybe_text(address.email.as_deref())?;
    args.time(order.created_at)?;
    args.time(order.updated_at)
}

fn bind_shipment(args: &mut SqliteArguments, (order, place, shipment): &Numbered<'_, Shipment>) -> Bound {
    args.id(order.id.0)?;
    args.id(shipment.id)?;
    args.int(*place)?;
    args.maybe_text(shipment.key.as_ref().map(|key| key.as_str()))?;
    args.text(shipment.state.as_str())?;
    args.text(&shipment.carrier)?;
    args.text(&shipment.tracking_number)?;
    args.text(&shipment.label_url)?;
    args.time(shipment.created_at)?;
    args.time(shipment.updated_at)
}

fn bind_entry(args: &mut SqliteArguments, (order, place, entry): &Numbered<'_, LedgerEntry>) -> Bound {
    args.id(order.id.0)?;
    args.id(entry.id)?;
    args.int(*place)?;
    args.text(entry.kind.as_str())?;
    args.text(entry.state.as_str())?;
    args.text(entry.key.as_str())?;
    args.text(&entry.transaction_id)?;
    args.text(&entry.method)?;
    args.amount(entry.amount)?;
    args.text(order.currency.code())?;
    args.maybe_text(entry.code.as_deref())?;
    args.maybe_text(entry.gateway_response.as_deref())?;
    args.time(entry.created_at)?;
    args.time(entry.created_at)
}

fn bind_request(args: &mut SqliteArguments, (order, request): &(&Order, &RequestRecord)) -> Bound {
    args.id(order.id.0)?;
    args.text(&request.request_id)?;
    args.bytes(&request.hash)?;
    args.maybe_int(request.saga_no.map(i64::from))?;
    args.int(order.version)
}

fn bind_event(args: &mut SqliteArguments, (order, event): &(OrderId, &RecordedEvent)) -> Bound {
    args.id(order.0)?;
    args.int(event.seq)?;
    args.int(event.version)?;
    args.text(event.event.kind())?;
    args.json(&event.event)?;
    args.text(&event.principal)?;
    args.maybe_text(event.request_id.as_deref())?;
    args.time(event.at)
}

fn bind_history(
    args: &mut SqliteArguments,
    (order, event, status, notes): &(OrderId, &RecordedEvent, OrderStatus, &str),
) -> Bound {
    args.id(order.0)?;
    args.id(order.part("history", event.seq.unsigned_abs()))?;
    args.int(event.seq)?;
    args.text(status.as_str())?;
    args.text(notes)?;
    args.text(&event.principal)?;
    args.time(event.at)
}

fn bind_saga(args: &mut SqliteArguments, saga: &SagaProgress) -> Bound {
    args.id(saga.order_id.0)?;
    args.int(saga.no)?;
    args.text(saga.kind.as_str())?;
    args.text(saga.direction.as_str())?;
    args.maybe_text(saga.step.map(|step| step.as_str()))?;
    args.int(saga.tries)?;
    args.int(saga.resend)?;
    args.maybe_json(saga.turn.as_ref())?;
    args.maybe_time(saga.next_at)?;
    // A saga that waits for nothing is overdue since it began, so it is found first.
    args.time(saga.next_at.unwrap_or(saga.started_at))?;
    args.time(saga.started_at)?;
    args.maybe_time(saga.sent_at)?;
    args.maybe_text(saga.attention.as_deref())?;
    args.maybe_text(saga.last_error.as_deref())?;
    args.maybe_json(saga.failure.as_ref())?;
    args.int(saga.settled)?;
    args.text(&saga.notes)?;
    args.text(&saga.principal)?;
    args.text(&saga.request_id)?;
    args.maybe_text(saga.trace_parent.as_deref())?;
    args.maybe_text(saga.token.as_ref().map(|token| token.expose()))
}
