//! What is checked and priced before an order exists. Reads only: nothing is held, taken or stored.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;

use crate::domain::Timestamp;
use crate::domain::address::Address;
use crate::domain::command::Draft;
use crate::domain::error::OrderError;
use crate::domain::ids::{IdKey, OrderId, OrderNumber, UserId};
use crate::domain::item::{OrderItem, ProductRef, StockLine};
use crate::domain::money::{self, Currency};
use crate::domain::payment::PaymentToken;
use crate::domain::pricing::{Pricing, PricingError, Quote, QuoteLine, QuoteRequest};
use crate::domain::text::{Violation, ViolationReason};
use crate::ports::Collaborators;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::product::Product;
use crate::ports::user;

/// An order as asked for: every field checked by itself, nothing looked up yet.
#[derive(Clone)]
pub struct Wish {
    /// Its id.
    pub id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Merged lines, 1..=200, with the index of the request's first line for each.
    pub lines: Vec<(usize, StockLine)>,
    /// Shipping, then billing.
    pub addresses: Vec<Address>,
    /// Upper-cased.
    pub payment_method: String,
    /// Secret.
    pub payment_token: Option<PaymentToken>,
    /// Upper-cased.
    pub shipping_method: String,
    /// Free text.
    pub notes: String,
    /// Upper-cased.
    pub coupon: Option<String>,
    /// None = the products' currency.
    pub currency: Option<Currency>,
    /// The total the caller expects, as it was written.
    pub expected_total: Option<String>,
    /// Free pairs.
    pub metadata: BTreeMap<String, String>,
    /// Hash of the request.
    pub request_hash: [u8; 16],
}

/// Checks user, addresses, products, price and availability.
///
/// # Errors
/// The contract's refusals; nothing has moved.
pub async fn prepare(
    collaborators: &Collaborators,
    pricing: &dyn Pricing,
    key: &IdKey,
    context: &CallContext,
    wish: Wish,
    now: Timestamp,
) -> Result<Draft, OrderError> {
    let refs: Vec<ProductRef> = wish.lines.iter().map(|(_, line)| line.product).collect();
    let stock: Vec<StockLine> = wish.lines.iter().map(|(_, line)| *line).collect();
    // The questions do not depend on each other. Availability is advisory: only the reservation counts.
    let (user, addresses, products, shortages) = futures::future::join4(
        collaborators.users.get_user(context, wish.user_id),
        check_addresses(collaborators, context, &wish),
        collaborators.products.batch_get(context, &refs),
        collaborators.inventory.check_availability(context, &stock),
    )
    .await;
    let no_user = || OrderError::UserNotFound { user: wish.user_id.to_string() };
    match user {
        Ok(user) if user.active => {}
        Ok(_) => return Err(no_user()),
        Err(CallError::Refused(refusal)) if refusal.reason == user::reason::USER_NOT_FOUND => {
            return Err(no_user());
        }
        Err(error) => return Err(unavailable(Collaborator::User, &error)),
    }
    let mut violations = addresses?;
    let products = products.map_err(|error| unavailable(Collaborator::Product, &error))?;
    let found = match_products(&wish, &products, &mut violations)?;
    if !violations.is_empty() {
        return Err(OrderError::Invalid(violations));
    }
    let currency = common_currency(&wish, &found)?;
    let quote = quote(pricing, &wish, &found, currency, now)?;
    check_expected(&wish, &quote, currency)?;
    let shortages = shortages.map_err(|error| unavailable(Collaborator::Inventory, &error))?;
    if !shortages.is_empty() {
        return Err(OrderError::InventoryUnavailable { shortages, order_id: None });
    }
    Ok(draft(key, wish, &found, quote, currency, now))
}

pub(super) fn unavailable(collaborator: Collaborator, error: &CallError) -> OrderError {
    tracing::warn!(dependency = collaborator.as_str(), %error, "a check before a change could not be made");
    OrderError::DependencyUnavailable { dependency: collaborator.as_str().to_owned(), order_id: None }
}

async fn check_addresses(
    collaborators: &Collaborators,
    context: &CallContext,
    wish: &Wish,
) -> Result<Vec<Violation>, OrderError> {
    let mut violations = Vec::new();
    // A billing address that repeats the shipping address needs no second question.
    let mut seen: Option<&Address> = None;
    for address in &wish.addresses {
        if seen.is_some_and(|seen| same_place(seen, address)) {
            continue;
        }
        seen = Some(address);
        let problems = collaborators.users.validate_address(context, wish.user_id, address).await;
        let problems = match problems {
            Ok(problems) => problems,
            // An unknown user is reported as such by the other question.
            Err(CallError::Refused(_)) => Vec::new(),
            Err(error) => return Err(unavailable(Collaborator::User, &error)),
        };
        let field = format!("{}_address", address.kind.as_str().to_lowercase());
        violations.extend(
            problems
                .into_iter()
                .map(|problem| Violation::invalid(format!("{field}.{}", problem.field), problem.message)),
        );
    }
    Ok(violations)
}

fn same_place(one: &Address, other: &Address) -> bool {
    Address { kind: other.kind, ..one.clone() } == *other
}

/// The products in the order of the lines.
fn match_products<'a>(
    wish: &Wish,
    products: &'a [Product],
    violations: &mut Vec<Violation>,
) -> Result<Vec<&'a Product>, OrderError> {
    let mut found = Vec::with_capacity(wish.lines.len());
    for (index, line) in &wish.lines {
        let wanted = line.product;
        let Some(product) = products.iter().find(|product| product.product == wanted) else {
            let variant = wanted.variant_id.map(|id| format!(" variant {id}")).unwrap_or_default();
            return Err(OrderError::ProductNotFound { product: format!("{}{variant}", wanted.product_id) });
        };
        if !product.active {
            let what = "expected a product that is on sale, found an inactive one";
            violations.push(Violation::invalid(format!("items[{index}].product_id"), what));
        }
        found.push(product);
    }
    Ok(found)
}

fn common_currency(wish: &Wish, products: &[&Product]) -> Result<Currency, OrderError> {
    let currencies: BTreeSet<Currency> = products.iter().map(|product| product.currency).collect();
    let sold_in = || currencies.iter().map(|currency| currency.code()).collect::<Vec<_>>().join(", ");
    let refuse = |field: &str, expected: String| {
        let reason = ViolationReason::Currency;
        Err(OrderError::Invalid(vec![Violation { field: field.to_owned(), reason, expected }]))
    };
    match (currencies.iter().next(), currencies.len(), wish.currency) {
        (Some(only), 1, None) => Ok(*only),
        (Some(only), 1, Some(asked)) if asked == *only => Ok(asked),
        (_, 1, Some(_)) => refuse("currency", format!("expected {}, the currency of the items", sold_in())),
        _ => refuse("items", format!("expected items of one currency, found {}", sold_in())),
    }
}

fn quote(
    pricing: &dyn Pricing,
    wish: &Wish,
    products: &[&Product],
    currency: Currency,
    now: Timestamp,
) -> Result<Quote, OrderError> {
    let lines: Vec<QuoteLine<'_>> = wish
        .lines
        .iter()
        .zip(products)
        .map(|((_, line), product)| QuoteLine {
            unit_price: product.unit_price,
            quantity: line.quantity,
            tax_class: &product.tax_class,
        })
        .collect();
    let Some(ship_to) = wish.addresses.first() else {
        let missing = Violation::invalid("shipping_address", "expected an address");
        return Err(OrderError::Invalid(vec![missing]));
    };
    let request = QuoteRequest {
        currency,
        lines: &lines,
        country: ship_to.country,
        state: &ship_to.state,
        shipping_method: &wish.shipping_method,
        coupon: wish.coupon.as_deref(),
        now,
    };
    pricing.quote(&request).map_err(|error| refuse_quote(&error))
}

/// Why it cannot be priced, as a refusal.
pub(super) fn refuse_quote(error: &PricingError) -> OrderError {
    let reason = if error.is_coupon() { ViolationReason::Coupon } else { ViolationReason::InvalidField };
    let (field, expected) = (error.field().to_owned(), error.to_string());
    OrderError::Invalid(vec![Violation { field, reason, expected }])
}

fn check_expected(wish: &Wish, quote: &Quote, currency: Currency) -> Result<(), OrderError> {
    let Some(text) = &wish.expected_total else { return Ok(()) };
    let expected = money::parse_amount(text, currency)
        .map_err(|error| OrderError::Invalid(vec![Violation::invalid("expected_total", error)]))?;
    if expected == quote.totals.total {
        return Ok(());
    }
    Err(OrderError::PriceChanged {
        expected: money::format_amount(expected, currency),
        actual: money::format_amount(quote.totals.total, currency),
        currency: currency.code().to_owned(),
    })
}

fn draft(
    key: &IdKey,
    wish: Wish,
    products: &[&Product],
    quote: Quote,
    currency: Currency,
    now: Timestamp,
) -> Draft {
    let items = wish
        .lines
        .iter()
        .zip(products)
        .zip(&quote.lines)
        .enumerate()
        .map(|(n, (((_, line), product), priced))| OrderItem {
            id: wish.id.part("item", n as u64),
            product: line.product,
            sku: product.sku.clone(),
            name: product.name.clone(),
            tax_class: product.tax_class.clone(),
            quantity: line.quantity,
            unit_price: money::round_half_up(product.unit_price, currency),
            subtotal: priced.subtotal,
            discount_amount: priced.discount,
            tax_amount: priced.tax,
            created_at: now,
            updated_at: now,
        })
        .collect();
    debug_assert!(quote.totals.total >= Decimal::ZERO);
    Draft {
        id: wish.id,
        order_number: OrderNumber::of(key, wish.id, 0),
        user_id: wish.user_id,
        currency,
        totals: quote.totals,
        items,
        addresses: wish.addresses,
        payment_method: wish.payment_method,
        payment_token: wish.payment_token,
        shipping_method: wish.shipping_method,
        notes: wish.notes,
        coupon: quote.coupon,
        metadata: wish.metadata,
        request_hash: wish.request_hash,
        risk: None,
    }
}
