//! How SQLite gives an order's columns and children.

use rust_decimal::Decimal;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, Type};
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::store::rows::{Read, Source, at, decimal};

/// Everything about one order in one row: its own columns, and its children as JSON arrays of arrays.
///
/// One statement sees one state of the database, so an order is never put together from two of its versions, and a page
/// of orders costs one round trip. The fields of the arrays are in the order of the structs below.
pub(super) const COLUMNS: &str = "o.*,
 (SELECT json_group_array(json_array(position, hex(id), hex(product_id), hex(variant_id), sku, name, tax_class,
    quantity, unit_price, subtotal, discount_amount, tax_amount, created_at, updated_at))
  FROM order_items WHERE order_id = o.id) AS items,
 (SELECT json_group_array(json_array(address_type, first_name, last_name, address_line1, address_line2, city, state,
    postal_code, country, phone, email))
  FROM order_addresses WHERE order_id = o.id) AS addresses,
 (SELECT json_group_array(json_array(position, hex(id), call_key, state, carrier, tracking_number, label_url,
    created_at, updated_at))
  FROM shipments WHERE order_id = o.id) AS shipments,
 (SELECT json_group_array(json_array(entry_no, hex(id), kind, status, call_key, transaction_id, parent_transaction_id, payment_method,
    amount, code, gateway_response, created_at))
  FROM order_payment_transactions WHERE order_id = o.id) AS payments,
 (SELECT json_group_array(json_array(version, request_id, hex(hash), saga_no))
  FROM order_requests WHERE order_id = o.id) AS requests,
 (SELECT json_group_array(json_array(saga_no, kind, direction, step, tries, resend, turn, next_at, started_at, sent_at,
    attention, last_error, failure, settled, notes, principal, role, reason, request_id, trace_parent, payment_token, ahead))
  FROM sagas WHERE order_id = o.id) AS sagas";

impl Source for SqliteRow {
    fn text(&self, name: &str) -> Read<String> {
        column(self, name)
    }

    fn maybe_text(&self, name: &str) -> Read<Option<String>> {
        column(self, name)
    }

    fn json(&self, name: &str) -> Read<String> {
        column(self, name)
    }

    fn maybe_json(&self, name: &str) -> Read<Option<String>> {
        column(self, name)
    }

    fn int(&self, name: &str) -> Read<i64> {
        column(self, name)
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
        decimal(column(self, name)?).ok_or_else(|| bad(name))
    }

    fn time(&self, name: &str) -> Read<Timestamp> {
        at(column(self, name)?).ok_or_else(|| bad(name))
    }

    fn maybe_time(&self, name: &str) -> Read<Option<Timestamp>> {
        let micros: Option<i64> = column(self, name)?;
        micros.map(|micros| at(micros).ok_or_else(|| bad(name))).transpose()
    }
}

fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(row: &'r SqliteRow, name: &str) -> Read<T> {
    row.try_get(name).map_err(|_| bad(name))
}

fn bad(name: &str) -> String {
    format!("column {name}")
}
