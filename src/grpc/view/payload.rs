//! Who sees which part of an event's JSON: one row a key. A key without a row is seen by nobody of these.

use serde_json::{Map, Value};

use super::fields::{HOLD_REASON, MONEY};
use super::{Cells, See, Viewer, Whose};

use See::{Hidden as H, Mine as I, Whole as W};

const ALL: Cells = [W, W, W, W];
/// Names of stock that is held, and of calls about it.
const STOCK: Cells = [H, W, W, H];
/// Names of calls about money.
const LEDGER: Cells = [H, H, H, W];
/// What a caller has noted.
const NOTE: Cells = [I, W, W, H];
/// What another service, or an operator, has written about money, or may have.
const INNER: Cells = [H, W, H, W];

/// The keys of each event.
#[rustfmt::skip]
pub(super) const EVENTS: &[(&str, &[(&str, Cells)])] = &[
    ("order_created", &[("order_number", ALL), ("currency", MONEY), ("totals", MONEY), ("lines", ALL)]),
    ("status_changed", &[("from", ALL), ("to", ALL), ("notes", NOTE), ("reason", MONEY)]),
    ("order_held", &[("reason", HOLD_REASON), ("by", HOLD_REASON), ("until", ALL)]),
    ("order_released", &[("notes", NOTE)]),
    ("saga_started", &[("saga", ALL), ("kind", ALL)]),
    ("saga_turned", &[("saga", ALL), ("reason", MONEY)]),
    ("saga_settled", &[("saga", ALL), ("failure", MONEY)]),
    ("step_delayed", &[
        ("saga", ALL), ("step", ALL), ("direction", ALL), ("tries", ALL), ("error", INNER), ("next_at", ALL),
    ]),
    ("attention_needed", &[("saga", ALL), ("step", ALL), ("reason", INNER)]),
    ("amendment_begun", &[("saga", ALL), ("changes", ALL), ("totals", MONEY)]),
    ("items_changed", &[("changes", ALL), ("before", MONEY), ("totals", MONEY)]),
    ("repaired", &[
        ("repair", ALL), ("saga", ALL), ("step", ALL), ("direction", ALL), ("key", LEDGER), ("outcome", MONEY),
        ("reason", INNER), ("by", [H, W, H, H]),
    ]),
    ("stock_requested", &[("key", STOCK), ("lines", ALL)]),
    ("stock_unsent", &[("key", STOCK)]),
    ("stock_reserved", &[("reservation_id", STOCK), ("of", STOCK)]),
    ("stock_renewed", &[("reservation_id", STOCK), ("of", STOCK)]),
    ("stock_lapsed", &[("reservation_id", STOCK), ("of", STOCK)]),
    ("stock_refused", &[("shortages", ALL), ("of", STOCK)]),
    ("stock_commit_requested", &[("key", STOCK), ("of", STOCK)]),
    ("stock_committed", &[("reservation_id", STOCK), ("of", STOCK)]),
    ("stock_found_committed", &[("reservation_id", STOCK), ("of", STOCK)]),
    ("stock_returned", &[("key", STOCK), ("of", STOCK), ("lines", ALL)]),
    ("charge_requested", &[("key", LEDGER), ("amount", MONEY)]),
    ("charge_unsent", &[("key", LEDGER)]),
    ("charge_unknown", &[("key", LEDGER)]),
    ("charged", &[
        ("key", LEDGER), ("transaction_id", MONEY), ("amount", MONEY), ("gateway_response", [W, H, H, W]),
    ]),
    ("charge_failed", &[("key", LEDGER), ("code", MONEY)]),
    ("refund_granted", &[("saga", ALL), ("amount", MONEY), ("items", MONEY), ("reason", INNER)]),
    ("refund_requested", &[("key", LEDGER), ("transaction_id", MONEY), ("amount", MONEY)]),
    ("refunded", &[("key", LEDGER), ("refund_id", MONEY)]),
    ("refund_unknown", &[("key", LEDGER)]),
    ("refund_failed", &[("key", LEDGER), ("code", INNER)]),
    ("label_requested", &[("shipment_id", ALL), ("key", STOCK)]),
    ("label_created", &[
        ("shipment_id", ALL), ("carrier", ALL), ("tracking_number", [W, W, W, H]), ("label_url", [H, H, W, H]),
    ]),
    ("label_voided", &[("shipment_id", ALL)]),
    ("tracking_set", &[("shipment_id", ALL), ("carrier", ALL), ("tracking_number", [W, W, W, H])]),
];

/// The keys inside of what is shown of an event: lines, products, totals, failures.
#[rustfmt::skip]
pub(super) const INSIDE: &[(&str, Cells)] = &[
    ("type", ALL), ("place", ALL), ("before", ALL), ("after", ALL), ("id", ALL), ("item_id", ALL), ("product", ALL),
    ("product_id", ALL), ("variant_id", ALL), ("sku", ALL), ("name", ALL), ("quantity", ALL),
    ("requested_quantity", ALL), ("available_quantity", ALL), ("shortages", ALL), ("dependency", ALL),
    ("created_at", ALL), ("updated_at", ALL),
    ("unit_price", MONEY), ("subtotal", MONEY), ("discount", MONEY), ("discount_amount", MONEY), ("tax", MONEY),
    ("tax_amount", MONEY), ("tax_class", MONEY), ("shipping", MONEY), ("total", MONEY), ("amount", MONEY),
    ("code", MONEY), ("reason", INNER),
];

/// What `viewer` sees of an event's JSON.
pub(super) fn reduce(json: &str, viewer: &Viewer, whose: Whose) -> String {
    let Ok(Value::Object(mut event)) = serde_json::from_str::<Value>(json) else { return String::new() };
    let kind = event.get("type").and_then(Value::as_str).map(str::to_owned);
    let keys =
        kind.and_then(|kind| EVENTS.iter().find(|(name, _)| *name == kind)).map_or(&[][..], |row| row.1);
    let sees = |cells: &Cells| viewer.sees(cells, whose) == See::Whole;
    keep(&mut event, keys, &sees);
    Value::Object(event).to_string()
}

/// Removes the keys that are not seen, at every depth. That of the event's kind stays.
fn keep(object: &mut Map<String, Value>, keys: &[(&str, Cells)], sees: &impl Fn(&Cells) -> bool) {
    object.retain(|key, value| {
        let row = keys.iter().find(|(name, _)| *name == key.as_str());
        let is_seen = key == "type" || row.is_some_and(|(_, cells)| sees(cells));
        if is_seen {
            inside(value, sees);
        }
        is_seen
    });
}

fn inside(value: &mut Value, sees: &impl Fn(&Cells) -> bool) {
    match value {
        Value::Object(object) => keep(object, INSIDE, sees),
        Value::Array(values) => values.iter_mut().for_each(|value| inside(value, sees)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
