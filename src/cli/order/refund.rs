//! `order refund`.

use clap::Args;

use super::{ClientFailure, OrderKey, Session};
use crate::proto::order::{RefundItem, RefundOrderRequest};

#[derive(Args, Debug)]
#[command(after_help = "\
Without --amount and --item everything that is left goes back. The order's status does not change; to end an \
order that is not shipped yet, cancel it.

Examples:
  order-service order refund ORD-7K3M9Q2XYZ --amount 5.00 --reason 'late delivery'
  order-service order refund ORD-7K3M9Q2XYZ --item 01900000-0000-8000-8000-000000000002:1")]
pub(super) struct RefundArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// How much, in the order's currency.
    #[arg(long, value_name = "AMOUNT", conflicts_with = "item")]
    amount: Option<String>,
    /// A line's id and how many of it, at what they cost; repeatable.
    #[arg(long, value_name = "ID:QUANTITY", value_parser = item)]
    item: Vec<RefundItem>,
    /// Free text, kept in the history.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Refuse unless the order is at this version.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(i64).range(1..))]
    expected_version: Option<i64>,
    /// Makes a repeat harmless.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    request_id: String,
}

pub(super) async fn run(session: &Session, arguments: RefundArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let content = RefundOrderRequest {
        id: arguments.order.resolve(&mut client).await?,
        amount: arguments.amount.unwrap_or_default(),
        items: arguments.item,
        reason: arguments.reason,
        expected_version: arguments.expected_version.unwrap_or_default(),
        request_id: arguments.request_id,
    };
    session.show(client.refund(content).await?)
}

fn item(text: &str) -> Result<RefundItem, String> {
    let parsed = text.trim().rsplit_once(':').and_then(|(id, quantity)| {
        let quantity: i32 = quantity.parse().ok().filter(|quantity| *quantity > 0)?;
        (!id.is_empty()).then(|| RefundItem { item_id: id.to_owned(), quantity })
    });
    parsed.ok_or_else(|| {
        "not an item's id and a quantity; write it like 01900000-0000-8000-8000-000000000002:1".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_an_id_and_a_quantity() {
        assert_eq!(item("a-b:2"), Ok(RefundItem { item_id: "a-b".into(), quantity: 2 }));
        for text in ["", "a", "a:", ":1", "a:0", "a:-1", "a:b", "a:99999999999"] {
            assert!(item(text).is_err(), "{text}");
        }
    }
}
