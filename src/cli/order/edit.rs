//! `order add-item`, `order update-item` and `order remove-item`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session};
use crate::proto::order::{
    AddOrderItemRequest, NewOrderItem, RemoveOrderItemRequest, UpdateOrderItemRequest,
};

/// What every edit may be given.
#[derive(Args, Debug)]
pub(super) struct EditOptions {
    /// Only show the order as it would be; its balance is what would be charged (below zero) or refunded.
    #[arg(long)]
    validate_only: bool,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

#[derive(Args, Debug)]
#[command(after_help = "\
A product that the order has already is added to its line, at that line's price. Items can be changed until the \
order is PROCESSING; once it is paid, the difference is charged or refunded.

Example:
  order-service order add-item ORD-7K3M9Q2XYZ 123e4567-e89b-12d3-a456-426614174003 --quantity 2")]
pub(super) struct AddArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// The product's id.
    #[arg(value_name = "PRODUCT")]
    product: String,
    /// The variant's id, for a product that has variants.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    variant: String,
    /// How many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    quantity: i32,
    #[command(flatten)]
    options: EditOptions,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Items can be changed until the order is PROCESSING; once it is paid, the difference is charged or refunded.

Example:
  order-service order update-item ORD-7K3M9Q2XYZ 01900000-0000-8000-8000-000000000002 --quantity 3")]
pub(super) struct UpdateArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// The item's id, as `order get -o json` shows it.
    #[arg(value_name = "ITEM")]
    item: String,
    /// How many there are to be.
    #[arg(long, value_name = "N")]
    quantity: i32,
    #[command(flatten)]
    options: EditOptions,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The last item cannot be removed; cancel the order instead.

Example:
  order-service order remove-item ORD-7K3M9Q2XYZ 01900000-0000-8000-8000-000000000002")]
pub(super) struct RemoveArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// The item's id, as `order get -o json` shows it.
    #[arg(value_name = "ITEM")]
    item: String,
    #[command(flatten)]
    options: EditOptions,
}

pub(super) async fn add(session: &Session, arguments: AddArgs) -> Result<(), ClientFailure> {
    let AddArgs { order, product: product_id, variant: variant_id, quantity, options } = arguments;
    let mut client = session.connect().await?;
    let content = AddOrderItemRequest {
        order_id: order.resolve(&mut client).await?,
        item: Some(NewOrderItem { product_id, variant_id, quantity }),
        expected_version: options.expected_version.unwrap_or_default(),
        request_id: options.request_id,
        validate_only: options.validate_only,
    };
    session.show(client.add_item(content).await?)
}

pub(super) async fn update(session: &Session, arguments: UpdateArgs) -> Result<(), ClientFailure> {
    let UpdateArgs { order, item: item_id, quantity, options } = arguments;
    let mut client = session.connect().await?;
    let content = UpdateOrderItemRequest {
        order_id: order.resolve(&mut client).await?,
        item_id,
        quantity,
        expected_version: options.expected_version.unwrap_or_default(),
        request_id: options.request_id,
        validate_only: options.validate_only,
    };
    session.show(client.update_item(content).await?)
}

pub(super) async fn remove(session: &Session, arguments: RemoveArgs) -> Result<(), ClientFailure> {
    let RemoveArgs { order, item: item_id, options } = arguments;
    let mut client = session.connect().await?;
    let content = RemoveOrderItemRequest {
        order_id: order.resolve(&mut client).await?,
        item_id,
        expected_version: options.expected_version.unwrap_or_default(),
        request_id: options.request_id,
        validate_only: options.validate_only,
    };
    session.show(client.remove_item(content).await?)
}
