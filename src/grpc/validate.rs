//! Requests become wishes and commands here. Every bad field is found before anything is refused.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::domain::Timestamp;
use crate::domain::address::{Address, AddressKind, RawAddress};
use crate::domain::command::{Repeatable, Tracking};
use crate::domain::error::OrderError;
use crate::domain::ids::{OrderId, OrderNumber, UserId};
use crate::domain::item::{ProductRef, StockLine};
use crate::domain::money::{self, Currency, MoneyError};
use crate::domain::payment::PaymentToken;
use crate::domain::pricing::Pricing;
use crate::domain::refund;
use crate::domain::status::OrderStatus;
use crate::domain::text::{self, FieldRule, Violation, ViolationReason};
use crate::proto::order as pb;
use crate::steps::prepare::Wish;

/// Longest request id, in characters.
const REQUEST_ID_CHARS: usize = 64;
/// Longest coupon code, payment or shipping method, in characters.
const NAME_CHARS: usize = 50;
/// Longest carrier or tracking number, in characters.
const TRACKING_CHARS: usize = 100;

/// Longest reason of a hold, in characters.
const HOLD_REASON_CHARS: usize = 200;

/// Limits of a request's content.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// Lines of an order.
    pub items_per_order: usize,
    /// Quantity of a line, duplicates merged.
    pub max_quantity: u32,
    /// Characters of a note.
    pub notes_chars: usize,
    /// Metadata keys.
    pub metadata_keys: usize,
    /// Bytes of a metadata key, and of a value.
    pub metadata_bytes: usize,
    /// Page size when none is asked for.
    pub page_size_default: u32,
    /// Largest page.
    pub page_size_max: u32,
}

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) violations: Vec<Violation>,
}

impl Checker {
    pub(super) fn bad(&mut self, field: impl Into<String>, expected: impl std::fmt::Display) {
        self.violations.push(Violation::invalid(field, expected));
    }

    /// Ok when nothing was wrong.
    pub(super) fn finish(self) -> Result<(), OrderError> {
        if self.violations.is_empty() { Ok(()) } else { Err(OrderError::Invalid(self.violations)) }
    }

    pub(super) fn uuid(&mut self, field: &str, text: &str) -> Option<Uuid> {
        let id = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        if id.is_none() {
            let found = if text.is_empty() { "nothing" } else { "something else" };
            self.bad(
                field,
                format!("expected a UUID such as 123e4567-e89b-12d3-a456-426614174000, found {found}"),
            );
        }
        id
    }

    pub(super) fn order_id(&mut self, field: &str, text: &str) -> OrderId {
        OrderId(self.uuid(field, text).unwrap_or_default())
    }

    pub(super) fn user_id(&mut self, field: &str, text: &str) -> UserId {
        UserId(self.uuid(field, text).unwrap_or_default())
    }

    pub(super) fn line(&mut self, field: &str, text: &str, required: bool, max_chars: usize) -> String {
        let rule = FieldRule { required, max_chars };
        text::clean_field(field, text, rule, &mut self.violations).unwrap_or_default()
    }

    pub(super) fn note(&mut self, field: &str, text: &str, max_chars: usize) -> String {
        self.line(field, text, false, max_chars)
    }

    pub(super) fn hold_reason(&mut self, field: &str, text: &str) -> String {
        self.line(field, text, true, HOLD_REASON_CHARS)
    }

    /// A request id, and the hash of what it stands for.
    pub(super) fn repeatable(&mut self, request_id: &str, hash: [u8; 16]) -> Option<Repeatable> {
        let request_id = self.line("request_id", request_id, false, REQUEST_ID_CHARS);
        (!request_id.is_empty()).then_some(Repeatable { request_id, hash })
    }

    pub(super) fn expected_version(&mut self, version: i64) -> Option<i64> {
        if version < 0 {
            self.bad("expected_version", format!("expected 0 (any) or a version from 1 on, found {version}"));
        }
        (version > 0).then_some(version)
    }

    /// A quantity of one line.
    pub(super) fn quantity(&mut self, field: &str, quantity: i32, limits: &RequestLimits) -> Option<u32> {
        let most = limits.max_quantity;
        let valid = u32::try_from(quantity).ok().filter(|quantity| (1..=most).contains(quantity));
        if valid.is_none() {
            self.bad(field, format!("expected 1..={most}, found {quantity}"));
        }
        valid
    }

    pub(super) fn page_size(&mut self, size: i32, limits: &RequestLimits) -> u32 {
        match u32::try_from(size) {
            Ok(0) => limits.page_size_default,
            Ok(size) => size.min(limits.page_size_max),
            Err(_) => {
                let most = limits.page_size_max;
                self.bad("page_size", format!("expected 0 (the default) or 1..={most}, found {size}"));
                limits.page_size_default
            }
        }
    }

    pub(super) fn time(&mut self, field: &str, time: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let valid = nanos
            .and_then(|nanos| Timestamp::from_timestamp(time.seconds, nanos))
            // The range of google.protobuf.Timestamp.
            .filter(|_| (-62_135_596_800..=253_402_300_799).contains(&time.seconds));
        if valid.is_none() {
            self.bad(field, "expected a time between the years 1 and 9999");
        }
        valid
    }

    /// A status that a caller may name.
    pub(super) fn status(&mut self, field: &str, number: i32) -> Option<OrderStatus> {
        let status = super::convert::status_from_pb(number);
        if status.is_none() {
            self.bad(field, format!("expected one of the OrderStatus values, found {number}"));
        }
        status
    }

    pub(super) fn target_status(&mut self, number: i32) -> Option<OrderStatus> {
        match self.status("status", number) {
            Some(status @ (OrderStatus::Pending | OrderStatus::Cancelling)) => {
                let expected = "expected PROCESSING, SHIPPED, DELIVERED, CANCELLED or RETURNED";
                self.bad("status", format!("{expected}, found {status}, which only the order itself sets"));
                None
            }
            status => status,
        }
    }

    pub(super) fn tracking(
        &mut self,
        tracking: Option<&pb::Tracking>,
        to: Option<OrderStatus>,
    ) -> Option<Tracking> {
        let tracking = tracking?;
        if to.is_some_and(|to| to != OrderStatus::Shipped) {
            self.bad("tracking", "expected no tracking, unless status is SHIPPED");
        }
        let number = &tracking.tracking_number;
        Some(Tracking {
            carrier: self.line("tracking.carrier", &tracking.carrier, false, TRACKING_CHARS),
            tracking_number: self.line("tracking.tracking_number", number, true, TRACKING_CHARS),
        })
    }

    /// An order by id or by number.
    pub(super) fn key(&mut self, id: Option<&String>, number: Option<&String>) -> OrderKey {
        match (id, number) {
            (Some(id), _) => OrderKey::Id(self.order_id("id", id)),
            (None, Some(number)) => match OrderNumber::parse(number) {
                Some(number) => OrderKey::Number(number),
                None => {
                    self.bad("order_number", "expected ORD- and ten digits of Crockford's base 32");
                    OrderKey::Id(OrderId(Uuid::nil()))
                }
            },
            (None, None) => {
                self.bad("key", "expected id or order_number");
                OrderKey::Id(OrderId(Uuid::nil()))
            }
        }
    }
}

/// How an order is named.
#[derive(Debug)]
pub(super) enum OrderKey {
    Id(OrderId),
    Number(OrderNumber),
}

/// The checked content of a creation; its id is set by the caller.
pub(super) fn wish(
    check: &mut Checker,
    request: &pb::CreateOrderRequest,
    limits: &RequestLimits,
    pricing: &dyn Pricing,
) -> Wish {
    let currency = currency(check, &request.currency);
    let shipping = address(check, AddressKind::Shipping, request.shipping_address.as_ref());
    let billing = match &request.billing_address {
        Some(billing) => address(check, AddressKind::Billing, Some(billing)),
        // Left out: the goods and the bill go to the same place.
        None => shipping.clone().map(|address| Address { kind: AddressKind::Billing, ..address }),
    };
    let token = check.line("payment_token", &request.payment_token, false, PaymentToken::MAX_LEN);
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        check.bad("payment_token", "expected printable ASCII without blanks");
    }
    let expected_total = request.expected_total.trim();
    check_amount(check, "expected_total", expected_total, currency);
    let coupon = check.line("coupon_code", &request.coupon_code, false, NAME_CHARS).to_uppercase();
    Wish {
        id: OrderId(Uuid::nil()),
        user_id: check.user_id("user_id", &request.user_id),
        lines: lines(check, &request.items, limits),
        addresses: shipping.into_iter().chain(billing).collect(),
        payment_method: known(check, "payment_method", &request.payment_method, pricing.payment_methods()),
        payment_token: (!token.is_empty()).then(|| PaymentToken::new(token)),
        shipping_method: known(
            check,
            "shipping_method",
            &request.shipping_method,
            &pricing.shipping_methods(),
        ),
        notes: check.note("notes", &request.notes, limits.notes_chars),
        coupon: (!coupon.is_empty()).then_some(coupon),
        currency,
        expected_total: (!expected_total.is_empty()).then(|| expected_total.to_owned()),
        metadata: metadata(check, request, limits),
        request_hash: [0; 16],
    }
}

/// What a refund is to give back: everything that is left, unless amount or items say less.
pub(super) fn refund_wish(
    check: &mut Checker,
    request: &pb::RefundOrderRequest,
    limits: &RequestLimits,
) -> refund::Wish {
    let amount = request.amount.trim();
    check_amount(check, "amount", amount, None);
    if request.items.is_empty() {
        return if amount.is_empty() { refund::Wish::Rest } else { refund::Wish::Amount(amount.to_owned()) };
    }
    if !amount.is_empty() {
        check.bad("amount", "expected amount or items, not both");
    }
    let (most, found) = (limits.items_per_order, request.items.len());
    if found > most {
        check.bad("items", format!("expected at most {most} items, found {found}"));
        return refund::Wish::Rest;
    }
    let mut named: BTreeSet<Uuid> = BTreeSet::new();
    let mut items = Vec::with_capacity(found);
    for (index, item) in request.items.iter().enumerate() {
        let field = format!("items[{index}].item_id");
        let id = check.uuid(&field, &item.item_id);
        let quantity = check.quantity(&format!("items[{index}].quantity"), item.quantity, limits);
        let (Some(id), Some(quantity)) = (id, quantity) else { continue };
        if !named.insert(id) {
            check.bad(field, "expected each item once");
        }
        items.push((id, quantity));
    }
    refund::Wish::Items(items)
}

/// As far as it can be checked before the currency is certain: it is measured again once that is known.
fn check_amount(check: &mut Checker, field: &str, text: &str, currency: Option<Currency>) {
    if text.is_empty() {
        return;
    }
    let parsed = match (currency, text.split_once('.')) {
        (Some(currency), _) => money::parse_amount(text, currency),
        // No currency has more than four digits.
        (None, Some((whole, fraction))) if (1..=4).contains(&fraction.len()) => {
            let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
            if digits { money::parse_amount(whole, Currency::USD) } else { Err(MoneyError::NotPlain) }
        }
        (None, Some(_)) => Err(MoneyError::NotPlain),
        (None, None) => money::parse_amount(text, Currency::USD),
    };
    if let Err(error) = parsed {
        check.bad(field, error);
    }
}

fn currency(check: &mut Checker, text: &str) -> Option<Currency> {
    let code = text.trim().to_ascii_uppercase();
    if code.is_empty() {
        return None;
    }
    if text::contains_card_number(&code) {
        check.violations.push(Violation::card_number("currency"));
        return None;
    }
    let currency = Currency::from_code(&code);
    if currency.is_none() {
        let (field, reason) = ("currency".to_owned(), ViolationReason::Currency);
        let expected = "expected the ISO 4217 code of an active currency, such as USD".to_owned();
        check.violations.push(Violation { field, reason, expected });
    }
    currency
}

fn known(check: &mut Checker, field: &str, text: &str, names: &[String]) -> String {
    let name = check.line(field, text, false, NAME_CHARS).to_uppercase();
    if !names.contains(&name) && !check.violations.iter().any(|violation| violation.field == field) {
        check.bad(field, format!("expected one of {}", names.join(", ")));
    }
    name
}

fn address(check: &mut Checker, kind: AddressKind, address: Option<&pb::OrderAddress>) -> Option<Address> {
    let field = format!("{}_address", kind.as_str().to_lowercase());
    let Some(address) = address else {
        check.bad(field, "expected an address");
        return None;
    };
    let address_kind = match pb::AddressType::try_from(address.address_type) {
        Ok(pb::AddressType::Unspecified) => "",
        Ok(pb::AddressType::Shipping) => AddressKind::Shipping.as_str(),
        Ok(pb::AddressType::Billing) => AddressKind::Billing.as_str(),
        Err(_) => {
            let found = address.address_type;
            check.bad(
                format!("{field}.address_type"),
                format!("expected one of the AddressType values, found {found}"),
            );
            ""
        }
    };
    let raw = RawAddress {
        kind: address_kind.to_owned(),
        first_name: address.first_name.clone(),
        last_name: address.last_name.clone(),
        address_line1: address.address_line1.clone(),
        address_line2: address.address_line2.clone(),
        city: address.city.clone(),
        state: address.state.clone(),
        postal_code: address.postal_code.clone(),
        country: address.country.clone(),
        phone: address.phone.clone(),
        email: address.email.clone(),
    };
    Address::parse(kind, &raw, &field, &mut check.violations)
}

/// The lines, those of one product merged.
fn lines(check: &mut Checker, items: &[pb::NewOrderItem], limits: &RequestLimits) -> Vec<(usize, StockLine)> {
    let most = limits.items_per_order;
    if items.is_empty() || items.len() > most {
        check.bad("items", format!("expected 1..={most} lines, found {}", items.len()));
        return Vec::new();
    }
    let mut merged: BTreeMap<ProductRef, usize> = BTreeMap::new();
    let mut lines: Vec<(usize, StockLine)> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(StockLine { product, quantity }) = line(check, &format!("items[{index}]"), item, limits)
        else {
            continue;
        };
        let field = format!("items[{index}].quantity");
        match merged.entry(product) {
            Entry::Vacant(slot) => {
                slot.insert(lines.len());
                lines.push((index, StockLine { product, quantity }));
            }
            Entry::Occupied(slot) => {
                let Some((_, line)) = lines.get_mut(*slot.get()) else { continue };
                line.quantity = line.quantity.saturating_add(quantity);
                if line.quantity > limits.max_quantity {
                    let (most, found) = (limits.max_quantity, line.quantity);
                    check.bad(
                        field,
                        format!("expected 1..={most} over all lines of this product, found {found}"),
                    );
                }
            }
        }
    }
    lines
}

/// What is asked for of one product.
pub(super) fn line(
    check: &mut Checker,
    field: &str,
    item: &pb::NewOrderItem,
    limits: &RequestLimits,
) -> Option<StockLine> {
    let product_id = check.uuid(&format!("{field}.product_id"), &item.product_id);
    let variant = item.variant_id.as_str();
    let variant_id = if variant.is_empty() {
        Some(None)
    } else {
        check.uuid(&format!("{field}.variant_id"), variant).map(Some)
    };
    let quantity = check.quantity(&format!("{field}.quantity"), item.quantity, limits);
    let product = ProductRef { product_id: product_id?, variant_id: variant_id? };
    Some(StockLine { product, quantity: quantity? })
}

fn metadata(
    check: &mut Checker,
    request: &pb::CreateOrderRequest,
    limits: &RequestLimits,
) -> BTreeMap<String, String> {
    let most = limits.metadata_keys;
    if request.metadata.len() > most {
        let found = request.metadata.len();
        check.bad("metadata", format!("expected at most {most} keys, found {found}"));
        return BTreeMap::new();
    }
    let mut clean = BTreeMap::new();
    let pairs: BTreeMap<&String, &String> = request.metadata.iter().collect();
    for (index, (key, value)) in pairs.into_iter().enumerate() {
        // Keys are not echoed: they are free text as well.
        let field = format!("metadata[{index}]");
        for (what, text) in [("key", key), ("value", value)] {
            if text.len() > limits.metadata_bytes {
                let (most, found) = (limits.metadata_bytes, text.len());
                check.bad(&field, format!("expected a {what} of at most {most} bytes, found {found}"));
            }
        }
        let key = check.line(&field, key, true, limits.metadata_bytes);
        let value = check.note(&field, value, limits.metadata_bytes);
        if clean.insert(key, value).is_some() {
            check.bad(&field, "expected a key that differs from the others by more than blanks");
        }
    }
    clean
}

/// Which order is asked for.
pub(super) fn order_key(check: &mut Checker, request: &pb::GetOrderRequest) -> OrderKey {
    use pb::get_order_request::Key;
    match &request.key {
        Some(Key::Id(id)) => check.key(Some(id), None),
        Some(Key::OrderNumber(number)) => check.key(None, Some(number)),
        None => check.key(None, None),
    }
}

/// Which order's status is asked for.
pub(super) fn status_key(check: &mut Checker, request: &pb::GetOrderStatusRequest) -> OrderKey {
    use pb::get_order_status_request::Key;
    match &request.key {
        Some(Key::Id(id)) => check.key(Some(id), None),
        Some(Key::OrderNumber(number)) => check.key(None, Some(number)),
        None => check.key(None, None),
    }
}
