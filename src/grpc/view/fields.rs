//! Who sees which field of an answer: one row a field. A field without a row is seen by nobody of these.

use super::masks::Mask;
use super::{Cells, See};

use See::{Hidden as H, Masked as M, Mine as I, Whole as W};

/// A message of an answer.
#[derive(Debug)]
pub(super) struct Message {
    /// Its full name.
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and for the test that compares it"))]
    pub(super) name: &'static str,
    /// The field that holds the user whose order it tells of.
    pub(super) owner: Option<u32>,
    /// The field that holds the principal who has caused what it tells.
    pub(super) author: Option<u32>,
    pub(super) fields: &'static [Field],
}

/// A field and who sees it.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) tag: u32,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and for the test that compares it"))]
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) see: Cells,
}

/// What a field holds, as far as that matters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Something that is shown whole or not at all.
    Plain,
    /// A text, and how it is shown in part.
    Text(Mask),
    /// A message, or several, with rows of its own.
    Message(&'static Message),
}

const PLAIN: Kind = Kind::Plain;

const fn field(tag: u32, name: &'static str, kind: Kind, see: Cells) -> Field {
    Field { tag, name, kind, see }
}

/// Amounts, and what else tells of money: not for the warehouse.
pub(super) const MONEY: Cells = [W, W, H, W];
/// Why an order is on hold. What the check before payment writes tells customers how to get round it, and holds amounts.
pub(super) const HOLD_REASON: Cells = [H, W, I, H];
/// Everybody.
const ALL: Cells = [W, W, W, W];

#[rustfmt::skip]
pub(super) static ORDER: Message = Message {
    name: "order.v1.Order",
    owner: Some(2),
    author: None,
    fields: &[
        //                                                            customer, support, warehouse, finance
        field(1, "id", PLAIN,                                         ALL),
        field(2, "user_id", PLAIN,                                    ALL),
        field(3, "order_number", PLAIN,                               ALL),
        field(4, "status", PLAIN,                                     ALL),
        field(5, "total_amount", PLAIN,                               MONEY),
        field(6, "subtotal", PLAIN,                                   MONEY),
        field(7, "tax_amount", PLAIN,                                 MONEY),
        field(8, "shipping_amount", PLAIN,                            MONEY),
        field(9, "discount_amount", PLAIN,                            MONEY),
        field(10, "currency", PLAIN,                                  MONEY),
        field(11, "payment_method", PLAIN,                            MONEY),
        field(12, "payment_status", PLAIN,                            MONEY),
        field(13, "shipping_method", PLAIN,                           ALL),
        // What the customer wants to be heeded on delivery.
        field(14, "notes", PLAIN,                                     [W, W, W, H]),
        field(15, "created_at", PLAIN,                                ALL),
        field(16, "updated_at", PLAIN,                                ALL),
        field(17, "completed_at", PLAIN,                              ALL),
        field(18, "cancelled_at", PLAIN,                              ALL),
        field(19, "items", Kind::Message(&ITEM),                      ALL),
        field(20, "addresses", Kind::Message(&ADDRESS),               ALL),
        field(21, "version", PLAIN,                                   ALL),
        field(22, "cancel_reason", PLAIN,                             MONEY),
        field(23, "allowed_next_statuses", PLAIN,                     ALL),
        field(24, "shipments", Kind::Message(&SHIPMENT),              ALL),
        field(25, "hold", Kind::Message(&HOLD),                       ALL),
        field(26, "coupon_code", PLAIN,                               MONEY),
        // Nobody knows what is in it but who wrote it.
        field(27, "metadata", PLAIN,                                  [W, H, H, H]),
        field(28, "inventory_reservation_id", PLAIN,                  [H, W, W, H]),
        field(29, "attention_reason", PLAIN,                          [H, W, H, W]),
        field(30, "balance", PLAIN,                                   MONEY),
        field(31, "personal_data", PLAIN,                             ALL),
    ],
};

#[rustfmt::skip]
static ITEM: Message = Message {
    name: "order.v1.OrderItem",
    owner: None,
    author: None,
    fields: &[
        field(1, "id", PLAIN,                                         ALL),
        field(2, "order_id", PLAIN,                                   ALL),
        field(3, "product_id", PLAIN,                                 ALL),
        field(4, "variant_id", PLAIN,                                 ALL),
        field(5, "sku", PLAIN,                                        ALL),
        field(6, "name", PLAIN,                                       ALL),
        field(7, "quantity", PLAIN,                                   ALL),
        field(8, "unit_price", PLAIN,                                 MONEY),
        field(9, "subtotal", PLAIN,                                   MONEY),
        field(10, "discount_amount", PLAIN,                           MONEY),
        field(11, "tax_amount", PLAIN,                                MONEY),
    ],
};

#[rustfmt::skip]
static ADDRESS: Message = Message {
    name: "order.v1.OrderAddress",
    owner: None,
    author: None,
    fields: &[
        field(1, "id", PLAIN,                                         ALL),
        field(2, "order_id", PLAIN,                                   ALL),
        field(3, "address_type", PLAIN,                               ALL),
        field(4, "first_name", PLAIN,                                 [W, W, W, H]),
        field(5, "last_name", PLAIN,                                  [W, W, W, H]),
        field(6, "address_line1", Kind::Text(Mask::Line),             [W, M, W, H]),
        field(7, "address_line2", Kind::Text(Mask::Line),             [W, M, W, H]),
        field(8, "city", PLAIN,                                       [W, W, W, H]),
        field(9, "state", PLAIN,                                      [W, W, W, H]),
        field(10, "postal_code", Kind::Text(Mask::PostalCode),        [W, M, W, W]),
        field(11, "country", PLAIN,                                   ALL),
        // For the carrier.
        field(12, "phone", Kind::Text(Mask::Phone),                   [W, M, W, H]),
        field(13, "email", Kind::Text(Mask::Email),                   [W, M, H, H]),
    ],
};

#[rustfmt::skip]
static SHIPMENT: Message = Message {
    name: "order.v1.Shipment",
    owner: None,
    author: None,
    fields: &[
        field(1, "id", PLAIN,                                         ALL),
        field(2, "carrier", PLAIN,                                    ALL),
        // Carriers tell where a parcel went.
        field(3, "tracking_number", PLAIN,                            [W, W, W, H]),
        // A label is an address.
        field(4, "label_url", PLAIN,                                  [H, H, W, H]),
        field(5, "label_status", PLAIN,                               ALL),
        field(6, "created_at", PLAIN,                                 ALL),
        field(7, "updated_at", PLAIN,                                 ALL),
    ],
};

#[rustfmt::skip]
static HOLD: Message = Message {
    name: "order.v1.Hold",
    owner: None,
    author: Some(2),
    fields: &[
        field(1, "reason", PLAIN,                                     HOLD_REASON),
        field(2, "by", PLAIN,                                         HOLD_REASON),
        field(3, "until", PLAIN,                                      ALL),
        field(4, "since", PLAIN,                                      ALL),
    ],
};

#[rustfmt::skip]
static EVENT: Message = Message {
    name: "order.v1.OrderEvent",
    owner: None,
    author: Some(6),
    fields: &[
        field(1, "order_id", PLAIN,                                   ALL),
        field(2, "sequence", PLAIN,                                   ALL),
        field(3, "version", PLAIN,                                    ALL),
        field(4, "type", PLAIN,                                       ALL),
        field(5, "at", PLAIN,                                         ALL),
        field(6, "principal", Kind::Text(Mask::Author),               [M, W, M, W]),
        field(7, "request_id", PLAIN,                                 [I, W, W, W]),
        field(8, "payload_json", Kind::Text(Mask::Payload),           [M, M, M, M]),
        field(9, "status", PLAIN,                                     ALL),
        field(10, "notes", PLAIN,                                     [I, W, W, H]),
        field(11, "role", PLAIN,                                      [I, W, W, W]),
        // What staff write for staff.
        field(12, "reason", PLAIN,                                    [I, W, W, W]),
    ],
};

#[rustfmt::skip]
static TRANSACTION: Message = Message {
    name: "order.v1.PaymentTransaction",
    owner: None,
    author: None,
    fields: &[
        field(1, "id", PLAIN,                                         MONEY),
        field(2, "order_id", PLAIN,                                   MONEY),
        field(3, "transaction_id", PLAIN,                             MONEY),
        field(4, "kind", PLAIN,                                       MONEY),
        field(5, "status", PLAIN,                                     MONEY),
        field(6, "payment_method", PLAIN,                             MONEY),
        field(7, "amount", PLAIN,                                     MONEY),
        field(8, "currency", PLAIN,                                   MONEY),
        field(9, "decline_code", PLAIN,                               MONEY),
        // Of the customer's card.
        field(10, "gateway_response", PLAIN,                          [W, H, H, W]),
        field(11, "key", PLAIN,                                       [H, H, H, W]),
        field(12, "created_at", PLAIN,                                MONEY),
        field(13, "updated_at", PLAIN,                                MONEY),
        field(14, "parent_transaction_id", PLAIN,                     MONEY),
    ],
};

#[rustfmt::skip]
pub(super) static STATUS: Message = Message {
    name: "order.v1.GetOrderStatusResponse",
    owner: None,
    author: None,
    fields: &[
        field(1, "id", PLAIN,                                         ALL),
        field(2, "order_number", PLAIN,                               ALL),
        field(3, "status", PLAIN,                                     ALL),
        field(4, "payment_status", PLAIN,                             MONEY),
        field(5, "version", PLAIN,                                    ALL),
        field(6, "updated_at", PLAIN,                                 ALL),
    ],
};

#[rustfmt::skip]
pub(super) static ORDERS: Message = Message {
    name: "order.v1.ListOrdersResponse",
    owner: None,
    author: None,
    fields: &[
        field(1, "orders", Kind::Message(&ORDER),                     ALL),
        field(2, "next_page_token", PLAIN,                            ALL),
    ],
};

#[rustfmt::skip]
pub(super) static EVENTS: Message = Message {
    name: "order.v1.ListOrderEventsResponse",
    owner: None,
    author: None,
    fields: &[
        field(1, "events", Kind::Message(&EVENT),                     ALL),
        field(2, "next_page_token", PLAIN,                            ALL),
    ],
};

#[rustfmt::skip]
pub(super) static TRANSACTIONS: Message = Message {
    name: "order.v1.ListPaymentTransactionsResponse",
    owner: None,
    author: None,
    fields: &[
        field(1, "transactions", Kind::Message(&TRANSACTION),         ALL),
    ],
};

#[rustfmt::skip]
pub(super) static WATCHED: Message = Message {
    name: "order.v1.WatchOrderResponse",
    owner: None,
    author: None,
    fields: &[
        field(1, "event", Kind::Message(&EVENT),                      ALL),
        field(2, "order", Kind::Message(&ORDER),                      ALL),
    ],
};
