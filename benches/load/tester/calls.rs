//! Calls to the service: what they ask for, and what their answers mean.

use std::error::Error;
use std::time::Duration;

use order_service::clients::code_name;
use order_service::clients::sim::catalogue::{self, TOKEN_DECLINED, load_user};
use order_service::proto::order as pb;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::mix::Kind;
use crate::harness::Chance;
use crate::harness::fleet::{Client, is_no_answer};
use crate::harness::node::sample_order;

/// Products without variants in the currency of the sample, from the catalogue of the simulator.
const GOODS: [u32; 6] = [1, 3, 4, 5, 16, 40];

/// A new order, in so few words that all that are in doubt can be kept: sending it again asks for the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewOrder {
    /// Number of the load user.
    pub user: u64,
    /// Makes it repeatable.
    pub request_id: Uuid,
    /// What the lines are drawn from.
    pub lines: u64,
    /// Whether the payment is declined.
    pub declined: bool,
}

impl NewOrder {
    /// The request, the same each time.
    pub fn request(&self) -> pb::CreateOrderRequest {
        let mut chance = Chance::new(self.lines);
        let mut items =
            vec![pb::NewOrderItem { quantity: 1 + chance.below(3) as i32, ..sample_order().items.remove(0) }];
        for _ in 0..chance.below(3) {
            items.push(some_of(chance.pick(&GOODS), 1 + chance.below(2) as i32));
        }
        pb::CreateOrderRequest {
            request_id: self.request_id.to_string(),
            user_id: load_user(self.user).0.to_string(),
            items,
            coupon_code: String::new(),
            payment_token: if self.declined { TOKEN_DECLINED } else { "tok_ok" }.to_owned(),
            ..sample_order()
        }
    }
}

fn some_of(number: u32, quantity: i32) -> pb::NewOrderItem {
    let product_id = catalogue::product(number).product_id.to_string();
    pb::NewOrderItem { product_id, variant_id: String::new(), quantity }
}

/// One call. Whatever changes something can be repeated.
#[derive(Clone, Debug)]
pub enum Call {
    /// CreateOrder.
    Create(NewOrder),
    /// GetOrder, not from a cache that may lag.
    Get(Uuid),
    /// GetOrderStatus.
    GetStatus(Uuid),
    /// ListOrders of this load user.
    List(u64),
    /// CancelOrder.
    Cancel(Uuid, Uuid),
    /// UpdateOrderItem: order, line, quantity, request.
    UpdateItem(Uuid, Uuid, i32, Uuid),
    /// AddOrderItem: order, number of the product, request.
    AddItem(Uuid, u32, Uuid),
    /// UpdateOrderStatus: order, where to, request.
    SetStatus(Uuid, Kind, Uuid),
    /// RefundOrder of a part: order, request.
    Refund(Uuid, Uuid),
}

/// What an answer brings.
#[derive(Debug)]
pub enum Answer {
    /// The order as it stands.
    Order(Box<pb::Order>),
    /// Its status and version.
    Status(pb::GetOrderStatusResponse),
    /// Less than that.
    Other,
}

impl Call {
    /// A product to add, by chance.
    pub fn add(order: Uuid, chance: &mut Chance) -> Self {
        Self::AddItem(order, chance.pick(&GOODS), Uuid::now_v7())
    }

    /// The order that it is about.
    pub fn order(&self) -> Option<Uuid> {
        match self {
            Self::Create(_) | Self::List(_) => None,
            Self::Get(id)
            | Self::GetStatus(id)
            | Self::Cancel(id, _)
            | Self::UpdateItem(id, ..)
            | Self::AddItem(id, ..)
            | Self::SetStatus(id, ..)
            | Self::Refund(id, _) => Some(*id),
        }
    }

    /// How it is counted.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Create(_) => Kind::Create,
            Self::Get(_) => Kind::Get,
            Self::GetStatus(_) => Kind::GetStatus,
            Self::List(_) => Kind::List,
            Self::Cancel(..) => Kind::Cancel,
            Self::UpdateItem(..) => Kind::UpdateItem,
            Self::AddItem(..) => Kind::AddItem,
            Self::SetStatus(_, to, _) => *to,
            Self::Refund(..) => Kind::Refund,
        }
    }

    /// Makes it, with this much time.
    pub async fn make(&self, mut client: Client, time: Duration) -> Result<Answer, Status> {
        fn timed<T>(message: T, time: Duration) -> Request<T> {
            let mut request = Request::new(message);
            request.set_timeout(time);
            request
        }
        let answered = match self {
            Self::Create(order) => client.create_order(timed(order.request(), time)).await?,
            Self::Get(id) => {
                let key = Some(pb::get_order_request::Key::Id(id.to_string()));
                client.get_order(timed(pb::GetOrderRequest { key, allow_stale: false }, time)).await?
            }
            Self::GetStatus(id) => {
                let key = Some(pb::get_order_status_request::Key::Id(id.to_string()));
                let answer = client.get_order_status(timed(pb::GetOrderStatusRequest { key }, time)).await?;
                return Ok(Answer::Status(answer.into_inner()));
            }
            Self::List(user) => {
                let user_id = load_user(*user).0.to_string();
                let request = pb::ListOrdersRequest { user_id, page_size: 20, ..Default::default() };
                client.list_orders(timed(request, time)).await?;
                return Ok(Answer::Other);
            }
            Self::Cancel(id, request_id) => {
                let (id, request_id) = (id.to_string(), request_id.to_string());
                let request = pb::CancelOrderRequest { id, request_id, ..Default::default() };
                client.cancel_order(timed(request, time)).await?
            }
            Self::UpdateItem(id, item, quantity, request_id) => {
                let request = pb::UpdateOrderItemRequest {
                    order_id: id.to_string(),
                    item_id: item.to_string(),
                    quantity: *quantity,
                    request_id: request_id.to_string(),
                    ..Default::default()
                };
                client.update_order_item(timed(request, time)).await?
            }
            Self::AddItem(id, product, request_id) => {
                let request = pb::AddOrderItemRequest {
                    order_id: id.to_string(),
                    item: Some(some_of(*product, 1)),
                    request_id: request_id.to_string(),
                    ..Default::default()
                };
                client.add_order_item(timed(request, time)).await?
            }
            Self::SetStatus(id, to, request_id) => {
                let status = match to {
                    Kind::Process => pb::OrderStatus::Processing,
                    Kind::Ship => pb::OrderStatus::Shipped,
                    Kind::Deliver => pb::OrderStatus::Delivered,
                    _ => pb::OrderStatus::Returned,
                };
                let request = pb::UpdateOrderStatusRequest {
                    id: id.to_string(),
                    status: status.into(),
                    request_id: request_id.to_string(),
                    ..Default::default()
                };
                client.update_order_status(timed(request, time)).await?
            }
            Self::Refund(id, request_id) => {
                let request = pb::RefundOrderRequest {
                    id: id.to_string(),
                    amount: "1.00".to_owned(),
                    request_id: request_id.to_string(),
                    ..Default::default()
                };
                client.refund_order(timed(request, time)).await?
            }
        };
        Ok(Answer::Order(Box::new(answered.into_inner())))
    }
}

/// What became of a call in the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// It was done.
    Done,
    /// The service said no, as it may: a declined payment, an order that may not be changed now.
    Refused,
    /// The service could not, or nobody answered.
    Failed,
}

/// Whether a call that ended so was done, refused, or failed.
pub fn class(status: &Status) -> Class {
    match status.code() {
        Code::FailedPrecondition | Code::Aborted if status.source().is_none() => Class::Refused,
        _ => Class::Failed,
    }
}

/// Whether nobody knows what became of the call, or it was not looked at, and sending it again may help.
pub fn unanswered(status: &Status) -> bool {
    is_no_answer(status) && !matches!(status.code(), Code::Aborted | Code::ResourceExhausted)
}

/// Whether an answer says that there is no such order.
pub fn is_missing(status: &Status) -> bool {
    let of_it =
        |status: &Status| status.get_details_error_info().is_none_or(|info| info.reason == "ORDER_NOT_FOUND");
    status.code() == Code::NotFound && status.source().is_none() && of_it(status)
}

/// Whether the service itself says, with a reason of its own, that a new order was refused and never will be there.
pub fn is_not_made(status: &Status) -> bool {
    let is_refusal =
        matches!(status.code(), Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition);
    // An id that was used for something else may well have made an order.
    let says_so = |status: &Status| {
        status.get_details_error_info().is_some_and(|info| info.reason != "REQUEST_ID_REUSED")
    };
    is_refusal && status.source().is_none() && says_so(status)
}

/// gRPC code and reason: the same for all that fail alike.
pub fn reason(status: &Status) -> String {
    let code = code_name(status.code());
    match status.get_details_error_info() {
        Some(info) => format!("{code} {}", info.reason),
        None if status.source().is_some() => format!("{code} (connection lost)"),
        // Ours, or those of a library: they hold no ids.
        None => format!("{code} ({})", status.message().chars().take(60).collect::<String>()),
    }
}

/// The order that a refusal is about, where it says so.
pub fn named(status: &Status) -> Option<Uuid> {
    status.get_details_error_info()?.metadata.get("order_id")?.parse().ok()
}
