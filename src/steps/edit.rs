//! What is checked and priced before an order gets other items. Reads only: nothing is held, taken or stored.

use uuid::Uuid;

use super::prepare::{refuse_quote, unavailable};
use crate::domain::Timestamp;
use crate::domain::address::AddressKind;
use crate::domain::amend::Edit;
use crate::domain::error::OrderError;
use crate::domain::item::{OrderItem, ProductRef, StockLine};
use crate::domain::money;
use crate::domain::order::Order;
use crate::domain::pricing::{Pricing, QuoteLine, QuoteRequest};
use crate::domain::text::{Violation, ViolationReason};
use crate::ports::Collaborators;
use crate::ports::call::{CallContext, Collaborator};

/// What is wished for. Every field is checked by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EditWish {
    /// More of a product: of the line that it has, else as a new line.
    Add(StockLine),
    /// So many of a line.
    Set(Uuid, u32),
    /// None of a line.
    Remove(Uuid),
}

/// Limits of an order's lines.
#[derive(Clone, Copy, Debug)]
pub struct LineLimits {
    /// Lines of an order.
    pub lines: usize,
    /// Quantity of a line.
    pub quantity: u32,
}

/// Prices an order with other items. Its lines keep their unit price, a new line is priced now; coupon, taxes and shipping
/// are worked out for all lines by the price book as it is. The coupon counts as it did when the order was created, so it
/// does not expire; where the items no longer reach its minimum, the edit is refused.
///
/// # Errors
/// The contract's refusals; nothing has moved.
pub async fn prepare_edit(
    collaborators: &Collaborators,
    pricing: &dyn Pricing,
    context: &CallContext,
    limits: LineLimits,
    order: &Order,
    wish: EditWish,
    now: Timestamp,
) -> Result<Edit, OrderError> {
    let base = order.items.to_vec();
    let mut items = match wish {
        EditWish::Add(line) => add(collaborators, context, limits, order, line, now).await?,
        EditWish::Set(item, quantity) => {
            let mut items = base.clone();
            line_mut(&mut items, item)?.quantity = quantity;
            items
        }
        EditWish::Remove(item) => {
            let mut items = base.clone();
            line_mut(&mut items, item)?;
            items.retain(|line| line.id != item);
            if items.is_empty() {
                let why = "this is the last item; cancel the order instead";
                return Err(OrderError::NotEditable { status: order.status, why });
            }
            items
        }
    };
    let before = |item: &OrderItem| base.iter().find(|other| other.id == item.id);
    let more = items.iter().filter_map(|item| {
        let quantity = item.quantity.saturating_sub(before(item).map_or(0, |before| before.quantity));
        (quantity > 0).then_some(StockLine { product: item.product, quantity })
    });
    let more: Vec<StockLine> = more.collect();
    // Advice only: the reservation counts.
    if !more.is_empty() {
        let shortages = collaborators.inventory.check_availability(context, &more).await;
        let shortages = shortages.map_err(|error| unavailable(Collaborator::Inventory, &error))?;
        if !shortages.is_empty() {
            return Err(OrderError::InventoryUnavailable { shortages, order_id: None });
        }
    }
    let totals = {
        let lines: Vec<QuoteLine<'_>> = items
            .iter()
            .map(|item| QuoteLine {
                unit_price: item.unit_price,
                quantity: item.quantity,
                tax_class: &item.tax_class,
            })
            .collect();
        let Some(ship_to) = order.address(AddressKind::Shipping) else {
            let missing = Violation::invalid("shipping_address", "expected an order with an address");
            return Err(OrderError::Invalid(vec![missing]));
        };
        let request = QuoteRequest {
            currency: order.currency,
            lines: &lines,
            country: ship_to.country,
            state: &ship_to.state,
            shipping_method: &order.shipping_method,
            coupon: order.coupon_code.as_deref(),
            now: order.created_at,
        };
        let quote = pricing.quote(&request).map_err(|error| refuse_quote(&error))?;
        for (item, priced) in items.iter_mut().zip(&quote.lines) {
            let amounts = (priced.subtotal, priced.discount, priced.tax);
            let quantity = base.iter().find(|other| other.id == item.id).map(|other| other.quantity);
            if quantity != Some(item.quantity)
                || amounts != (item.subtotal, item.discount_amount, item.tax_amount)
            {
                (item.subtotal, item.discount_amount, item.tax_amount) = amounts;
                item.updated_at = now;
            }
        }
        quote.totals
    };
    Ok(Edit { base, items, totals })
}

fn line_mut(items: &mut [OrderItem], item: Uuid) -> Result<&mut OrderItem, OrderError> {
    let found = items.iter_mut().find(|line| line.id == item);
    found.ok_or_else(|| OrderError::ItemNotFound { item: item.to_string() })
}

async fn add(
    collaborators: &Collaborators,
    context: &CallContext,
    limits: LineLimits,
    order: &Order,
    line: StockLine,
    now: Timestamp,
) -> Result<Vec<OrderItem>, OrderError> {
    let refuse =
        |field: &str, expected: String| Err(OrderError::Invalid(vec![Violation::invalid(field, expected)]));
    let mut items = order.items.to_vec();
    if let Some(item) = items.iter_mut().find(|item| item.product == line.product) {
        let quantity = item.quantity.saturating_add(line.quantity);
        if quantity > limits.quantity {
            let most = limits.quantity.saturating_sub(item.quantity);
            return refuse(
                "item.quantity",
                format!("expected at most {most} more of this item, found {}", line.quantity),
            );
        }
        item.quantity = quantity;
        return Ok(items);
    }
    if items.len() >= limits.lines {
        return refuse("item", format!("expected at most {} items in an order", limits.lines));
    }
    let ProductRef { product_id, variant_id } = line.product;
    let products = collaborators.products.batch_get(context, &[line.product]).await;
    let products = products.map_err(|error| unavailable(Collaborator::Product, &error))?;
    let Some(product) = products.into_iter().find(|product| product.product == line.product) else {
        let variant = variant_id.map(|id| format!(" variant {id}")).unwrap_or_default();
        return Err(OrderError::ProductNotFound { product: format!("{product_id}{variant}") });
    };
    if !product.active {
        let expected = "expected a product that is on sale, found an inactive one";
        return refuse("item.product_id", expected.to_owned());
    }
    if product.currency != order.currency {
        let (field, reason) = ("item.product_id".to_owned(), ViolationReason::Currency);
        let (own, found) = (order.currency.code(), product.currency.code());
        let expected = format!("expected a product sold in {own}, found {found}");
        return Err(OrderError::Invalid(vec![Violation { field, reason, expected }]));
    }
    let zero = order.currency.zero();
    items.push(OrderItem {
        // Every change of the items brings an event, so this number never comes twice.
        id: order.id.part("item-added", order.event_seq.unsigned_abs()),
        product: line.product,
        sku: product.sku,
        name: product.name,
        tax_class: product.tax_class,
        quantity: line.quantity,
        unit_price: money::round_half_up(product.unit_price, order.currency),
        subtotal: zero,
        discount_amount: zero,
        tax_amount: zero,
        created_at: now,
        updated_at: now,
    });
    Ok(items)
}
