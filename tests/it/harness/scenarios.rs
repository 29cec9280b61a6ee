//! The lives an order can lead, as a table: what is asked of it, one request after the other.

use order_service::clients::sim::catalogue::{TOKEN_DECLINED, load_user, product};
use order_service::domain::ids::OrderId;
use order_service::domain::saga::{Direction, SagaKind, StepName};
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{self, Cancelled, Confirmed, Processing, Returned, Shipped};
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use super::invariants::{history, settled};
use super::node::sample_order;
use super::wait::eventually;

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// A new order.
    Create,
    /// A new order that is declined.
    CreateDeclined,
    /// A cancel.
    Cancel,
    /// An update of the status.
    Become(OrderStatus),
    /// A part of the money is wished back.
    Refund,
    /// One parcel more.
    Parcel,
    /// So many of the first line are wished for.
    Quantity(i32),
    /// So many of a product that the order does not have.
    Add(i32),
}

/// A life. The last of its acts starts the saga that it is about.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// The saga that it is about.
    pub saga: SagaKind,
    /// Where that saga comes by.
    pub stations: &'static [(StepName, Direction)],
    /// What is asked, each once the one before is answered.
    pub acts: &'static [Act],
    /// This method has to be slow, so that there is time to cancel while ...
    pub slow: Option<&'static str>,
    /// ... the last act is under way: as soon as this event stands in the history.
    pub cancel_at: Option<&'static str>,
    /// How it ends when nothing is in the way.
    pub ends: OrderStatus,
}

/// Every saga, forward and back, whichever way it is turned.
pub const SCENARIOS: &[Scenario] = {
    use Act::{Add, Become, Cancel, Create, CreateDeclined, Parcel, Quantity, Refund};
    use Direction::{Backward, Forward};
    use StepName::{Charge, CommitStock, Label, Reserve};
    const PLAIN: Scenario = Scenario {
        name: "create",
        saga: SagaKind::Create,
        stations: &[(Reserve, Forward), (Charge, Forward), (CommitStock, Forward)],
        acts: &[Create],
        slow: None,
        cancel_at: None,
        ends: Confirmed,
    };
    &[
        PLAIN,
        Scenario {
            name: "create, declined",
            stations: &[(Reserve, Backward)],
            acts: &[CreateDeclined],
            ends: Cancelled,
            ..PLAIN
        },
        Scenario {
            name: "create, cancelled while the charge runs",
            stations: &[(Charge, Backward), (Reserve, Backward)],
            slow: Some("payment.Charge"),
            cancel_at: Some("charge_requested"),
            ends: Cancelled,
            ..PLAIN
        },
        Scenario {
            name: "create, cancelled while the stock is committed",
            stations: &[(Charge, Backward), (Reserve, Backward)],
            slow: Some("inventory.Commit"),
            cancel_at: Some("stock_commit_requested"),
            ends: Cancelled,
            ..PLAIN
        },
        Scenario {
            name: "cancel when confirmed",
            saga: SagaKind::Cancel,
            stations: &[(Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Cancel],
            ends: Cancelled,
            ..PLAIN
        },
        Scenario {
            name: "cancel when processing",
            saga: SagaKind::Cancel,
            stations: &[(Label, Backward), (Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Become(Processing), Cancel],
            ends: Cancelled,
            ..PLAIN
        },
        Scenario {
            name: "fulfil",
            saga: SagaKind::Fulfil,
            stations: &[(Label, Forward)],
            acts: &[Create, Become(Processing)],
            ends: Processing,
            ..PLAIN
        },
        Scenario {
            name: "fulfil, cancelled while the label is made",
            saga: SagaKind::Fulfil,
            stations: &[(Label, Backward), (Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Become(Processing)],
            slow: Some("shipping.CreateLabel"),
            cancel_at: Some("label_requested"),
            ends: Cancelled,
        },
        Scenario {
            name: "fulfil in two parcels",
            saga: SagaKind::Fulfil,
            stations: &[(Label, Forward)],
            acts: &[Create, Become(Processing), Parcel],
            ends: Processing,
            ..PLAIN
        },
        Scenario {
            name: "return",
            saga: SagaKind::Return,
            stations: &[(Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Become(Processing), Become(Shipped), Become(Returned)],
            ends: Returned,
            ..PLAIN
        },
        Scenario {
            name: "refund",
            saga: SagaKind::Refund,
            stations: &[(Charge, Backward)],
            acts: &[Create, Refund],
            ends: Confirmed,
            ..PLAIN
        },
        Scenario {
            name: "refund, cancelled while the money goes back",
            saga: SagaKind::Refund,
            stations: &[(Label, Backward), (Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Become(Processing), Refund],
            slow: Some("payment.Refund"),
            cancel_at: Some("refund_requested"),
            ends: Cancelled,
        },
        Scenario {
            name: "edit, dearer",
            saga: SagaKind::Amend,
            stations: &[(Reserve, Forward), (Charge, Forward), (CommitStock, Forward)],
            acts: &[Create, Add(2)],
            ends: Confirmed,
            ..PLAIN
        },
        Scenario {
            name: "edit, cheaper",
            saga: SagaKind::Amend,
            stations: &[(Charge, Forward), (Reserve, Forward)],
            acts: &[Create, Quantity(1)],
            ends: Confirmed,
            ..PLAIN
        },
        Scenario {
            name: "edit, cancelled while the difference is charged",
            saga: SagaKind::Amend,
            stations: &[(Charge, Backward), (Reserve, Backward)],
            acts: &[Create, Quantity(3)],
            slow: Some("payment.Charge"),
            cancel_at: Some("amendment_begun"),
            ends: Cancelled,
        },
    ]
};

/// What somebody hears: the order, or the code and reason of a refusal.
pub type Heard = Result<pb::Order, (Code, String)>;

#[derive(Clone, Debug)]
enum Request {
    Create(pb::CreateOrderRequest),
    Cancel(pb::CancelOrderRequest),
    Update(pb::UpdateOrderStatusRequest),
    Refund(pb::RefundOrderRequest),
    Parcel(pb::AddShipmentRequest),
    /// Of the first line.
    Quantity(pb::UpdateOrderItemRequest),
    Add(pb::AddOrderItemRequest),
}

/// One user who lives through a scenario with one order, and remembers what was asked and heard.
#[derive(Clone, Debug)]
pub struct Customer {
    scenario: Scenario,
    user_id: String,
    requests: Vec<Request>,
    /// The order, once known.
    pub order_id: Option<String>,
    /// What was acknowledged, in order.
    pub acknowledged: Vec<pb::Order>,
}

impl Customer {
    /// A customer of their own for every `number`.
    pub fn new(scenario: Scenario, number: u64) -> Self {
        let user_id = load_user(number).0.to_string();
        let request_id = || uuid::Uuid::now_v7().to_string();
        let cancel = || {
            Request::Cancel(pb::CancelOrderRequest {
                request_id: request_id(),
                reason: "changed my mind".into(),
                ..Default::default()
            })
        };
        let request = |act: &Act| match act {
            Act::Create | Act::CreateDeclined => Request::Create(pb::CreateOrderRequest {
                user_id: user_id.clone(),
                payment_token: if *act == Act::Create { "tok_ok" } else { TOKEN_DECLINED }.into(),
                ..sample_order()
            }),
            Act::Cancel => cancel(),
            Act::Refund => Request::Refund(pb::RefundOrderRequest {
                amount: "7.01".into(),
                request_id: request_id(),
                ..Default::default()
            }),
            Act::Parcel => {
                Request::Parcel(pb::AddShipmentRequest { request_id: request_id(), ..Default::default() })
            }
            Act::Quantity(quantity) => Request::Quantity(pb::UpdateOrderItemRequest {
                quantity: *quantity,
                request_id: request_id(),
                ..Default::default()
            }),
            Act::Add(quantity) => Request::Add(pb::AddOrderItemRequest {
                item: Some(pb::NewOrderItem {
                    product_id: product(3).product_id.to_string(),
                    quantity: *quantity,
                    ..Default::default()
                }),
                request_id: request_id(),
                ..Default::default()
            }),
            Act::Become(to) => Request::Update(pb::UpdateOrderStatusRequest {
                status: (*to).into(),
                request_id: request_id(),
                ..Default::default()
            }),
        };
        let mut requests: Vec<_> = scenario.acts.iter().map(request).collect();
        requests.extend(scenario.cancel_at.map(|_| cancel()));
        Self { scenario, user_id, requests, order_id: None, acknowledged: Vec::new() }
    }

    /// Lives through all of it. What the service does not answer any more is not asked again.
    pub async fn live(&mut self, client: &OrderServiceClient<Channel>) {
        self.live_on(client).await;
        if self.order_id.is_none() {
            self.find(client).await;
        }
    }

    async fn live_on(&mut self, client: &OrderServiceClient<Channel>) {
        let last = self.scenario.acts.len() - 1;
        for act in 0..last {
            // Whatever was heard, the next one may be asked: a refusal is an answer too.
            let _heard = self.ask(client, act).await;
        }
        let Some(kind) = self.scenario.cancel_at else {
            let _heard = self.ask(client, last).await;
            return;
        };
        let mut other = self.clone();
        let cancel = async {
            other.seen(client, kind).await;
            other.ask(client, last + 1).await
        };
        let (_heard, cancelled) = tokio::join!(self.ask(client, last), cancel);
        self.order_id = other.order_id.or(self.order_id.take());
        self.acknowledged.extend(cancelled.ok());
    }

    /// Lives through it, and cancels as soon as the history is this long, or else at the end.
    pub async fn live_and_cancel(&mut self, client: &OrderServiceClient<Channel>, events: usize) -> Heard {
        let mut other = self.clone();
        other.requests.push(Request::Cancel(pb::CancelOrderRequest::default()));
        let over = CancellationToken::new();
        let cancel = async {
            let order_id = other.found(client).await;
            let long = async || (history(client, &order_id).await.len() >= events).then_some(());
            tokio::select! {
                () = eventually("the next event", long) => {}
                () = over.cancelled() => {}
            }
            let last = other.requests.len() - 1;
            other.ask(client, last).await
        };
        let live = async {
            self.live(client).await;
            over.cancel();
        };
        tokio::join!(live, cancel).1
    }

    /// Asks everything once more, in the same order.
    pub async fn repeat(&mut self, client: &OrderServiceClient<Channel>) -> Vec<Heard> {
        let mut heard = Vec::new();
        for act in 0..self.requests.len() {
            heard.push(self.ask(client, act).await);
        }
        heard
    }

    /// Asks the last thing once more, with other words.
    pub async fn misuse(&self, client: &OrderServiceClient<Channel>) -> Heard {
        let mut other = self.clone();
        match other.requests.last_mut().unwrap() {
            Request::Create(request) => request.notes.push('!'),
            Request::Cancel(request) => request.reason.push('!'),
            Request::Update(request) => request.notes.push('!'),
            Request::Refund(request) => request.reason.push('!'),
            Request::Parcel(request) => {
                request.tracking = Some(pb::Tracking { carrier: String::new(), tracking_number: "1Z".into() })
            }
            Request::Quantity(request) => request.quantity += 1,
            Request::Add(request) => request.item.as_mut().unwrap().quantity += 1,
        }
        other.ask(client, other.requests.len() - 1).await
    }

    async fn ask(&mut self, client: &OrderServiceClient<Channel>, number: usize) -> Heard {
        let mut client = client.clone();
        let request = self.requests[number].clone();
        if self.order_id.is_none() && !matches!(request, Request::Create(_)) {
            self.find(&client).await;
        }
        let id = self.order_id.clone().unwrap_or_default();
        let answer = match request {
            Request::Create(request) => client.create_order(request).await,
            Request::Refund(request) => client.refund_order(pb::RefundOrderRequest { id, ..request }).await,
            Request::Cancel(request) => client.cancel_order(pb::CancelOrderRequest { id, ..request }).await,
            Request::Parcel(request) => client.add_shipment(pb::AddShipmentRequest { id, ..request }).await,
            Request::Add(request) => {
                client.add_order_item(pb::AddOrderItemRequest { order_id: id, ..request }).await
            }
            Request::Quantity(request) => {
                let first = id.parse::<OrderId>().map(|order| order.part("item", 0).to_string());
                let item_id = first.unwrap_or_default();
                let request = pb::UpdateOrderItemRequest { order_id: id, item_id, ..request };
                client.update_order_item(request).await
            }
            Request::Update(request) => {
                client.update_order_status(pb::UpdateOrderStatusRequest { id, ..request }).await
            }
        };
        let heard = answer.map(tonic::Response::into_inner).map_err(|status| {
            let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
            (status.code(), reason.unwrap_or_default())
        });
        if let Ok(order) = &heard {
            self.order_id = Some(order.id.clone());
            self.acknowledged.push(order.clone());
        }
        heard
    }

    /// The customer's order as it stands, if there is one. There must never be two.
    pub async fn order(&self, client: &OrderServiceClient<Channel>) -> Option<pb::Order> {
        let request = pb::ListOrdersRequest { user_id: self.user_id.clone(), ..Default::default() };
        // A service that is just being killed has no answer.
        let mut orders = client.clone().list_orders(request).await.ok()?.into_inner().orders;
        assert!(orders.len() <= 1, "I2: one request made {} orders", orders.len());
        orders.pop()
    }

    async fn find(&mut self, client: &OrderServiceClient<Channel>) {
        self.order_id = self.order(client).await.map(|order| order.id).or(self.order_id.take());
    }

    async fn found(&mut self, client: &OrderServiceClient<Channel>) -> String {
        let order = eventually("the order", async || self.order(client).await).await;
        self.order_id = Some(order.id.clone());
        order.id
    }

    /// Waits until this event stands in the history.
    async fn seen(&mut self, client: &OrderServiceClient<Channel>, kind: &str) {
        let order_id = self.found(client).await;
        let look = async || {
            let events = maybe_history(client, &order_id).await?;
            events.iter().any(|event| event.r#type == kind).then_some(())
        };
        eventually(kind, look).await;
    }

    /// Waits until every saga of the order has ended.
    pub async fn settled(&self, client: &OrderServiceClient<Channel>) {
        let order_id = self.order_id.clone().unwrap();
        let look = async || {
            let events = maybe_history(client, &order_id).await?;
            settled(&events).then_some(())
        };
        eventually(&format!("the end of the sagas of {order_id}"), look).await;
    }
}

/// The first 200 events; none from a service that is just being killed.
async fn maybe_history(client: &OrderServiceClient<Channel>, order_id: &str) -> Option<Vec<pb::OrderEvent>> {
    let order_id = order_id.to_owned();
    let request = pb::ListOrderEventsRequest { order_id, page_size: 200, ..Default::default() };
    client.clone().list_order_events(request).await.ok().map(|page| page.into_inner().events)
}
