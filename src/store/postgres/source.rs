//! How Postgres gives an order's columns and children.

use rust_decimal::Decimal;
use sqlx::postgres::{PgRow, Postgres};
use sqlx::{Decode, Row, Type};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::rows::{Read, Source};

/// Everything about one order in one row: its own columns, and its children as JSON arrays of arrays.
///
/// One statement sees one state of the database, so an order is never put together from two of its versions, and a page
/// of orders costs one round trip. The fields of the arrays are in the order in which [`crate::store::rows`] reads them;
/// times are microseconds since 1970, which fit a double to the microsecond until the year 2106 and are rounded.
pub(super) fn columns() -> String {
    let micros = |column: &str| format!("round(date_part('epoch', {column}) * 1e6)::bigint");
    let (created, updated) = (micros("created_at"), micros("updated_at"));
    let children = |name: &str, table: &str, fields: &str| {
        format!(
            "coalesce((SELECT json_agg(json_build_array({fields})) FROM {table} WHERE order_id = o.id), '[]')::text \
             AS {name}"
        )
    };
    let all = [
        children(
            "items",
            "order_items",
            &format!(
                "position, id, product_id, variant_id, sku, name, tax_class, quantity, unit_price::text, \
                 subtotal::text, discount_amount::text, tax_amount::text, {created}, {updated}"
            ),
        ),
        children(
            "addresses",
            "order_addresses",
            "address_type, first_name, last_name, address_line1, address_line2, city, state, postal_code, country, \
             phone, email",
        ),
        children(
            "shipments",
            "shipments",
            &format!(
                "position, id, call_key, state, carrier, tracking_number, label_url, {created}, {updated}"
            ),
        ),
        children(
            "payments",
            "order_payment_transactions",
            &format!(
                "entry_no, id, kind, status, call_key, transaction_id, parent_transaction_id, payment_method, amount::text, code, \
                 gateway_response, {created}"
            ),
        ),
        children("requests", "order_requests", "version, request_id, encode(hash, 'hex'), saga_no"),
        children(
            "sagas",
            "sagas",
            &format!(
                "saga_no, kind, direction, step, tries, resend::int, turn::text, {}, {}, {}, attention, last_error, \
                 failure::text, settled::int, notes, principal, role, reason, request_id, trace_parent, payment_token, ahead::int",
                micros("next_at"),
                micros("started_at"),
                micros("sent_at")
            ),
        ),
    ];
    format!(
        "o.*, EXISTS (SELECT FROM order_quarantines AS q WHERE q.order_id = o.id) AS quarantined, {}",
        all.join(", ")
    )
}

impl Source for PgRow {
    fn text(&self, name: &str) -> Read<String> {
        column(self, name)
    }

    fn maybe_text(&self, name: &str) -> Read<Option<String>> {
        column(self, name)
    }

    fn json(&self, name: &str) -> Read<String> {
        self.maybe_json(name)?.ok_or_else(|| bad(name))
    }

    fn maybe_json(&self, name: &str) -> Read<Option<String>> {
        let value = self.try_get_raw(name).map_err(|_| bad(name))?;
        // The binary form of `json` is its text; only the type's name stands between.
        <Option<&str> as Decode<'_, Postgres>>::decode(value)
            .map(|text| text.map(str::to_owned))
            .map_err(|_| bad(name))
    }

    fn int(&self, name: &str) -> Read<i64> {
        column(self, name).or_else(|_| column::<i32>(self, name).map(i64::from))
    }

    fn id(&self, name: &str) -> Read<Uuid> {
        column(self, name)
    }

    fn bytes(&self, name: &str) -> Read<Vec<u8>> {
        column(self, name)
    }

    fn maybe_bytes(&self, name: &str) -> Read<Option<Vec<u8>>> {
        column(self, name)
    }

    fn amount(&self, name: &str) -> Read<Decimal> {
        column(self, name)
    }

    fn time(&self, name: &str) -> Read<Timestamp> {
        column(self, name)
    }

    fn maybe_time(&self, name: &str) -> Read<Option<Timestamp>> {
        column(self, name)
    }
}

fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, name: &str) -> Read<T> {
    row.try_get(name).map_err(|_| bad(name))
}

fn bad(name: &str) -> String {
    format!("column {name}")
}
