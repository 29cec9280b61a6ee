//! Orders for analytics, without who ordered them: read page by page from a store that may be in use.
//!
//! A line tells one order: keyed pseudonyms of user and order, the day, the first characters of the postal code, country,
//! statuses, amounts and items. No names, address lines, notes, metadata, request ids or principals.

use std::future::Future;
use std::ops::ControlFlow;

use aws_lc_rs::hmac;
use chrono::{NaiveDate, NaiveTime};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::address::AddressKind;
use crate::domain::money::format_amount;
use crate::domain::order::Order;
use crate::ports::store::{ListCursor, ListQuery, OrderStore, StoreError};
use crate::ports::vault::KeyBytes;

/// Orders read at a time.
const PAGE: u32 = 200;
/// Characters of a postal code that are told.
const POSTAL_PREFIX: usize = 3;

/// Which days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Days {
    /// The first one, in UTC.
    pub since: NaiveDate,
    /// The last one.
    pub until: NaiveDate,
}

/// How an order is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// One JSON object a line.
    Jsonl,
    /// Values with commas between, below a line of names.
    Csv,
}

/// Who takes the lines.
pub trait Sink {
    /// One line, without its end. `Break` ends the export.
    fn line(&mut self, line: &str) -> ControlFlow<()>;
}

/// How far an export came.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Exported {
    /// Orders told.
    pub orders: u64,
    /// Whether the last one was reached.
    pub complete: bool,
}

/// Makes pseudonyms: the same for the same id and secret, and nobody without the secret can tell whose they are.
pub struct Pseudonyms(hmac::Key);

impl Pseudonyms {
    /// By this secret.
    pub fn new(secret: &KeyBytes) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret.0))
    }

    /// 128 bits in hex; `kind` keeps users and orders apart.
    fn of(&self, kind: &str, id: Uuid) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(kind.as_bytes());
        context.update(&[0]);
        context.update(id.as_bytes());
        let tag = context.sign();
        tag.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[derive(Serialize)]
struct Item {
    product_id: String,
    variant_id: Option<String>,
    quantity: u32,
    unit_price: String,
    subtotal: String,
}

#[derive(Serialize)]
struct Told {
    order: String,
    user: String,
    day: String,
    status: &'static str,
    payment_status: &'static str,
    cancel_reason: Option<&'static str>,
    country: &'static str,
    postal_prefix: String,
    payment_method: String,
    shipping_method: String,
    currency: &'static str,
    subtotal: String,
    discount: String,
    tax: String,
    shipping: String,
    total: String,
    items: Vec<Item>,
}

const COLUMNS: &str = "order,user,day,status,payment_status,cancel_reason,country,postal_prefix,payment_method,\
                       shipping_method,currency,subtotal,discount,tax,shipping,total,items";

fn told(order: &Order, names: &Pseudonyms) -> Told {
    let money = |amount| format_amount(amount, order.currency);
    let address = order.address(AddressKind::Shipping);
    let prefix = address.map(|address| {
        // Letters and digits only: what stands here comes from a person, and is read by programs.
        let plain = address.postal_code.chars().filter(char::is_ascii_alphanumeric);
        plain.take(POSTAL_PREFIX).collect::<String>().to_ascii_uppercase()
    });
    let item = |item: &crate::domain::item::OrderItem| Item {
        product_id: item.product.product_id.to_string(),
        variant_id: item.product.variant_id.map(|id| id.to_string()),
        quantity: item.quantity,
        unit_price: money(item.unit_price),
        subtotal: money(item.subtotal),
    };
    Told {
        order: names.of("order", order.id.0),
        user: names.of("user", order.user_id.0),
        day: order.created_at.date_naive().to_string(),
        status: order.status.as_str(),
        payment_status: order.payment_status.as_str(),
        cancel_reason: order.cancel_reason.map(|reason| reason.as_str()),
        country: address.map_or("", |address| address.country.code()),
        postal_prefix: prefix.unwrap_or_default(),
        payment_method: order.payment_method.clone(),
        shipping_method: order.shipping_method.clone(),
        currency: order.currency.code(),
        subtotal: money(order.totals.subtotal),
        discount: money(order.totals.discount),
        tax: money(order.totals.tax),
        shipping: money(order.totals.shipping),
        total: money(order.totals.total),
        items: order.items.iter().map(item).collect(),
    }
}

fn csv(told: &Told) -> String {
    let item = |item: &Item| {
        let variant = item.variant_id.as_deref().unwrap_or_default();
        format!("{}/{variant}*{}@{}", item.product_id, item.quantity, item.unit_price)
    };
    let items: Vec<String> = told.items.iter().map(item).collect();
    let items = items.join(" ");
    let values = [
        told.order.as_str(),
        &told.user,
        &told.day,
        told.status,
        told.payment_status,
        told.cancel_reason.unwrap_or_default(),
        told.country,
        &told.postal_prefix,
        &told.payment_method,
        &told.shipping_method,
        told.currency,
        &told.subtotal,
        &told.discount,
        &told.tax,
        &told.shipping,
        &told.total,
        &items,
    ];
    values.join(",")
}

/// Tells every order that was created on these days, oldest first, until the last one or until `stop` is ready. A page is in
/// memory at a time.
///
/// # Errors
/// When the store cannot be read.
pub async fn export(
    store: &dyn OrderStore,
    days: Days,
    form: Form,
    names: &Pseudonyms,
    sink: &mut impl Sink,
    stop: impl Future<Output = ()>,
) -> Result<Exported, StoreError> {
    let mut exported = Exported::default();
    let ended = {
        let work = walk(store, days, form, names, sink, &mut exported);
        tokio::select! {
            ended = work => Some(ended),
            () = stop => None,
        }
    };
    ended.unwrap_or(Ok(())).map(|()| exported)
}

async fn walk(
    store: &dyn OrderStore,
    days: Days,
    form: Form,
    names: &Pseudonyms,
    sink: &mut impl Sink,
    exported: &mut Exported,
) -> Result<(), StoreError> {
    let midnight =
        |day: NaiveDate| Timestamp::from_naive_utc_and_offset(day.and_time(NaiveTime::MIN), chrono::Utc);
    let mut query = ListQuery {
        user_id: None,
        statuses: Vec::new(),
        created_after: Some(midnight(days.since)),
        created_before: days.until.succ_opt().map(midnight),
        oldest_first: true,
        after: None,
        limit: PAGE,
    };
    if form == Form::Csv && sink.line(COLUMNS).is_break() {
        return Ok(());
    }
    loop {
        let page = store.list(&query).await?;
        for order in &page {
            let told = told(order, names);
            let line = match form {
                // Texts and numbers always become JSON.
                Form::Jsonl => serde_json::to_string(&told).unwrap_or_default(),
                Form::Csv => csv(&told),
            };
            if sink.line(&line).is_break() {
                return Ok(());
            }
            exported.orders = exported.orders.saturating_add(1);
        }
        let is_last = u32::try_from(page.len()).is_ok_and(|count| count < PAGE);
        query.after =
            page.last().map(|last| ListCursor { created_at: last.created_at, id: last.id }).or(query.after);
        if is_last {
            exported.complete = true;
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudonyms_are_stable_and_keyed() {
        let (one, other) = (Pseudonyms::new(&KeyBytes([1; 32])), Pseudonyms::new(&KeyBytes([2; 32])));
        let id = Uuid::from_u128(7);
        assert_eq!(one.of("user", id), one.of("user", id));
        assert_eq!(one.of("user", id).len(), 32);
        assert_ne!(one.of("user", id), one.of("order", id));
        assert_ne!(one.of("user", id), other.of("user", id));
        assert_ne!(one.of("user", id), one.of("user", Uuid::from_u128(8)));
    }

    #[test]
    fn a_row_has_a_value_for_each_name() {
        let told = Told {
            order: String::new(),
            user: String::new(),
            day: String::new(),
            status: "",
            payment_status: "",
            cancel_reason: None,
            country: "",
            postal_prefix: String::new(),
            payment_method: String::new(),
            shipping_method: String::new(),
            currency: "",
            subtotal: String::new(),
            discount: String::new(),
            tax: String::new(),
            shipping: String::new(),
            total: String::new(),
            items: Vec::new(),
        };
        assert_eq!(csv(&told).matches(',').count(), COLUMNS.matches(',').count());
    }
}
