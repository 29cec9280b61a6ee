//! What must never break, judged from outside: by what the service answers, and by the books of the simulated
//! collaborators, which are believed where the two disagree.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use order_service::clients::sim::{self as simulator, ChargeState, OrderLedger};
use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use order_service::proto::simulator as wire;
use prost::Message;
use rust_decimal::Decimal;
use tonic::Status;
use tonic::client::GrpcService;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::transport::Channel;

use super::laws::{Law, law};

/// A number of units of each product and variant.
pub type Goods = BTreeMap<String, u64>;

/// What the collaborators did for one order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Truth {
    /// State, amount and what was refunded of it, of each charge.
    pub charges: Vec<(String, Decimal, Decimal)>,
    /// Amount of each refund.
    pub refunds: Vec<Decimal>,
    /// State, goods, and what was brought back of them, of each reservation.
    pub reservations: Vec<(String, Goods, Goods)>,
    /// State of each label.
    pub labels: Vec<String>,
}

fn amount(text: &str) -> Decimal {
    if text.is_empty() { Decimal::ZERO } else { text.parse().unwrap() }
}

impl From<&wire::GetLedgerResponse> for Truth {
    fn from(page: &wire::GetLedgerResponse) -> Self {
        let goods = |lines: &[wire::Line]| -> Goods {
            lines
                .iter()
                .map(|line| (format!("{}/{}", line.product_id, line.variant_id), line.quantity))
                .collect()
        };
        Self {
            charges: page
                .charges
                .iter()
                .map(|charge| (charge.state.clone(), amount(&charge.amount), amount(&charge.refunded)))
                .collect(),
            refunds: page.refunds.iter().map(|refund| amount(&refund.amount)).collect(),
            reservations: page
                .reservations
                .iter()
                .map(|one| (one.state.clone(), goods(&one.lines), goods(&one.restocked)))
                .collect(),
            labels: page.labels.iter().map(|label| label.state.clone()).collect(),
        }
    }
}

impl From<&OrderLedger> for Truth {
    fn from(ledger: &OrderLedger) -> Self {
        let goods = |lines: &[simulator::Units]| -> Goods {
            let name = |line: &simulator::Units| {
                let variant = line.product.variant_id.map(|id| id.to_string()).unwrap_or_default();
                format!("{}/{variant}", line.product.product_id)
            };
            lines.iter().map(|line| (name(line), line.quantity)).collect()
        };
        let state = |state: &ChargeState| match state {
            ChargeState::Pending => "PENDING",
            ChargeState::Succeeded => "SUCCEEDED",
            ChargeState::Declined(_) => "DECLINED",
        };
        let upper = |state: &dyn std::fmt::Debug| format!("{state:?}").to_uppercase();
        Self {
            charges: ledger
                .charges
                .iter()
                .map(|charge| (state(&charge.state).to_owned(), charge.amount, charge.refunded))
                .collect(),
            refunds: ledger.refunds.iter().map(|refund| refund.amount).collect(),
            reservations: ledger
                .reservations
                .iter()
                .map(|one| (upper(&one.state), goods(&one.lines), goods(&one.restocked)))
                .collect(),
            labels: ledger.labels.iter().map(|label| upper(&label.state)).collect(),
        }
    }
}

/// Everything that can be seen of one order.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// The order.
    pub order: pb::Order,
    /// Its whole history.
    pub events: Vec<pb::OrderEvent>,
    /// Its payments, as the service tells them.
    pub payments: Vec<pb::PaymentTransaction>,
    /// What the collaborators did.
    pub truth: Truth,
}

/// An order's whole history.
pub async fn history(client: &OrderServiceClient<Channel>, order_id: &str) -> Vec<pb::OrderEvent> {
    try_history(client, order_id).await.unwrap()
}

/// What a client calls by: a connection, or one that shows who calls.
pub trait Calls:
    GrpcService<
        tonic::body::Body,
        Error: Into<StdError>,
        ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
    > + Clone
{
}

impl<T> Calls for T where
    T: GrpcService<
            tonic::body::Body,
            Error: Into<StdError>,
            ResponseBody: Body<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static,
        > + Clone
{
}

async fn try_history<T: Calls>(
    client: &OrderServiceClient<T>,
    order_id: &str,
) -> Result<Vec<pb::OrderEvent>, Status> {
    let (mut events, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = pb::ListOrderEventsRequest {
            order_id: order_id.to_owned(),
            page_size: 200,
            page_token,
            ..Default::default()
        };
        let page = client.clone().list_order_events(request).await?.into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(events);
        }
    }
}

/// Asks the service for everything it knows of an order.
pub async fn gather(client: &OrderServiceClient<Channel>, order_id: &str, truth: Truth) -> Evidence {
    try_gather(client, order_id, truth).await.unwrap()
}

/// As [`gather`], of a service that may fail.
pub async fn try_gather<T: Calls>(
    client: &OrderServiceClient<T>,
    order_id: &str,
    truth: Truth,
) -> Result<Evidence, Status> {
    let mut client = client.clone();
    let key = Some(pb::get_order_request::Key::Id(order_id.to_owned()));
    let order = client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await?.into_inner();
    let events = try_history(&client, order_id).await?;
    let request = pb::ListPaymentTransactionsRequest { order_id: order_id.to_owned() };
    let payments = client.list_payment_transactions(request).await?.into_inner().transactions;
    Ok(Evidence { order, events, payments, truth })
}

/// Whether every saga of this history has ended.
pub fn settled(events: &[pb::OrderEvent]) -> bool {
    let count = |kind: &str| events.iter().filter(|event| event.r#type == kind).count();
    count("saga_started") > 0 && count("saga_started") == count("saga_settled")
}

/// Checks an order that has come to rest.
pub fn check(evidence: &Evidence) -> Law {
    law!(settled(&evidence.events), "I9: a saga neither ends nor waits for anybody: {}", kinds(evidence));
    sums(&evidence.order)?;
    walk(evidence)?;
    money(evidence)?;
    stock(evidence)?;
    labels(evidence)
}

/// I13: nothing of the customers of these tests stands in a log.
pub fn discreet(log: &str) -> Law {
    let private = ["tok_", "John", "Doe", "123 Main St", "Apt 4B", "10001", "555-123-4567", "example.com"];
    for line in log.lines() {
        // A postal code within a longer number, or within a random id, is none.
        let stands = |text: &str| {
            line.match_indices(text).any(|(at, _)| {
                let within =
                    |near: Option<char>| near.is_some_and(|near| near.is_ascii_alphanumeric() || near == '.');
                let after = line[at + text.len()..].chars().next();
                !text.bytes().all(|byte| byte.is_ascii_digit())
                    || !(within(line[..at].chars().next_back()) || within(after))
            })
        };
        let told = private.iter().find(|text| stands(text));
        law!(told.is_none(), "I13: {told:?} stands in a log line: {line}");
    }
    Ok(())
}

/// The history as a line of text.
pub fn kinds(evidence: &Evidence) -> String {
    evidence.events.iter().map(|event| event.r#type.as_str()).collect::<Vec<_>>().join(" ")
}

/// What was acknowledged of one order so far, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heard {
    /// The highest version of which all was told.
    pub version: i64,
    /// The highest version that was told at all.
    pub shown: i64,
    /// Stands for the order's number.
    number: u64,
    /// Stands for total and items at that version.
    content: u64,
    /// One bit for every status that was told.
    statuses: u32,
}

impl Heard {
    /// What one answer says.
    pub fn of(answer: &pb::Order) -> Self {
        let mut number = DefaultHasher::new();
        answer.order_number.hash(&mut number);
        let mut content = DefaultHasher::new();
        answer.total_amount.hash(&mut content);
        answer.items.iter().for_each(|item| item.encode_to_vec().hash(&mut content));
        Self {
            version: answer.version,
            shown: answer.version,
            number: number.finish(),
            content: content.finish(),
            statuses: 1 << answer.status,
        }
    }

    /// Whether another answer says something else of the same version.
    pub fn contradicts(&self, other: &Self) -> bool {
        let same = self.number == other.number && self.content == other.content;
        self.version == other.version && !same
    }

    /// This, and an answer that tells status and version only.
    pub fn with_status(self, status: i32, version: i64) -> Self {
        Self { statuses: self.statuses | 1 << status, shown: self.shown.max(version), ..self }
    }

    /// This and another answer.
    pub fn and(self, other: Self) -> Self {
        let newer = if other.version > self.version { other } else { self };
        Self { statuses: self.statuses | other.statuses, shown: self.shown.max(other.shown), ..newer }
    }
}

/// I1: what was acknowledged is still there, and is what it was.
pub fn acknowledged(answer: &pb::Order, evidence: &Evidence) -> Law {
    heard(&Heard::of(answer), evidence).map_err(|broken| format!("{broken}; acknowledged {answer:?}"))
}

/// As [`acknowledged`], of all answers together.
pub fn heard(heard: &Heard, evidence: &Evidence) -> Law {
    let Evidence { order: now, events, .. } = evidence;
    law!(heard.shown <= now.version, "I1: version {} was acknowledged, found {}", heard.shown, now.version);
    let edited = events.iter().any(|event| event.r#type == "items_changed" && event.version > heard.version);
    let found = Heard::of(now);
    law!(heard.number == found.number, "I1: another number was acknowledged");
    law!(edited || heard.content == found.content, "I1: other items or another total were acknowledged");
    for status in (0..u32::BITS).filter(|bit| heard.statuses & (1 << bit) != 0) {
        let status = pb::OrderStatus::try_from(status.cast_signed()).unwrap_or_default();
        let was = status == pb::OrderStatus::Pending
            || events.iter().any(|event| event.r#type == "status_changed" && event.status() == status);
        law!(was, "I1: {status:?} was acknowledged and never was: {}", kinds(evidence));
    }
    Ok(())
}

/// I10: lines and columns add up to the last digit.
pub fn sums(order: &pb::Order) -> Law {
    let of = |part: fn(&pb::OrderItem) -> &String| {
        order.items.iter().map(|item| amount(part(item))).sum::<Decimal>()
    };
    for item in &order.items {
        let line = amount(&item.unit_price) * Decimal::from(item.quantity);
        law!(line == amount(&item.subtotal), "I10: a line of {} is not {line}", item.subtotal);
    }
    let (subtotal, tax) = (amount(&order.subtotal), amount(&order.tax_amount));
    let (discount, shipping) = (amount(&order.discount_amount), amount(&order.shipping_amount));
    let total = amount(&order.total_amount);
    law!(of(|item| &item.subtotal) == subtotal, "I10: the lines do not make {subtotal}");
    law!(of(|item| &item.discount_amount) == discount, "I10: the lines do not make -{discount}");
    law!(of(|item| &item.tax_amount) == tax, "I10: the lines do not make tax {tax}");
    law!(subtotal - discount + tax + shipping == total, "I10: the parts do not make {total}");
    law!(total >= Decimal::ZERO, "I10: a total of {total}");
    Ok(())
}

/// The contract's table of statuses, written down once more.
fn may_follow(from: pb::OrderStatus, to: pb::OrderStatus) -> bool {
    use pb::OrderStatus::{
        Cancelled, Cancelling, Confirmed, Delivered, Pending, Processing, Returned, Shipped,
    };
    match from {
        Pending => matches!(to, Confirmed | Cancelling | Cancelled),
        Confirmed => matches!(to, Processing | Cancelling),
        Processing => matches!(to, Shipped | Cancelling),
        Shipped => matches!(to, Delivered | Returned),
        Delivered => to == Returned,
        Cancelling => to == Cancelled,
        _ => false,
    }
}

/// I7, I8, I12: history is a legal walk without gaps that leads to where the order is.
pub fn walk(evidence: &Evidence) -> Law {
    let Evidence { order, events, .. } = evidence;
    law!(events.first().is_some_and(|first| first.r#type == "order_created"), "I7: history begins elsewhere");
    let time = |event: &pb::OrderEvent| event.at.as_ref().map(|at| (at.seconds, at.nanos));
    let mut status = pb::OrderStatus::Pending;
    for (event, sequence) in events.iter().zip(1..) {
        law!(event.sequence == sequence, "I7: event {} stands at {sequence}", event.sequence);
        law!(event.order_id == order.id, "I7: an event of {} in {}", event.order_id, order.id);
        if event.r#type == "status_changed" {
            law!(may_follow(status, event.status()), "I7: {status:?} -> {:?}", event.status());
            status = event.status();
        }
    }
    for pair in events.windows(2) {
        law!(time(&pair[0]) <= time(&pair[1]), "I7: time goes back at event {}", pair[1].sequence);
        law!(pair[0].version <= pair[1].version, "I12: versions go back at event {}", pair[1].sequence);
    }
    law!(status == order.status(), "I7: history leads to {status:?}, the order is {:?}", order.status());
    let last = events.last().map_or(0, |event| event.version);
    law!(last <= order.version, "I12: events at version {last} of an order at {}", order.version);
    let created = events.iter().filter(|event| event.r#type == "order_created").count();
    law!(created == 1, "I2: created {created} times");
    Ok(())
}

/// Whether nothing of the order's money and goods may be left with us.
fn ended(order: &pb::Order) -> bool {
    matches!(order.status(), pb::OrderStatus::Cancelled | pb::OrderStatus::Returned)
}

/// What went back because somebody wished so, as the history tells.
fn wished_back(evidence: &Evidence) -> Decimal {
    let payload =
        |event: &pb::OrderEvent| -> serde_json::Value { serde_json::from_str(&event.payload_json).unwrap() };
    let of = |kind: &str| -> Vec<serde_json::Value> {
        evidence.events.iter().filter(|event| event.r#type == kind).map(payload).collect()
    };
    let made: Vec<String> =
        of("refunded").iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect();
    let granted: Vec<String> = of("refund_granted")
        .iter()
        .map(|grant| format!("{}/{}/refund", evidence.order.id, grant["saga"]))
        .collect();
    // One call a charge: refund, refund2 ...
    let of_wish = |key: &str| {
        let (step, attempt) = key.rsplit_once('/').unwrap();
        let step = step.trim_end_matches(|c: char| c.is_ascii_digit());
        attempt == "1" && granted.iter().any(|granted| granted == step)
    };
    of("refund_requested")
        .iter()
        .filter(|asked| {
            let key = asked["key"].as_str().unwrap();
            of_wish(key) && made.iter().any(|made| made == key)
        })
        .map(|asked| amount(asked["amount"].as_str().unwrap()))
        .sum()
}

/// I3, I4, I6: charged once at most for each intent, kept exactly what is owed, and the service's own books say so.
pub fn money(evidence: &Evidence) -> Law {
    let Evidence { order, truth, payments, .. } = evidence;
    let total = amount(&order.total_amount);
    let taken: Vec<_> = truth.charges.iter().filter(|(state, ..)| state == "SUCCEEDED").collect();
    let edits = evidence.events.iter().filter(|event| event.r#type == "amendment_begun").count();
    law!(taken.len() <= 1 + edits, "I4: {} charges took money, {edits} edits", taken.len());
    law!(!truth.charges.iter().any(|(state, ..)| state == "PENDING"), "I4: a charge is still under way");
    let captured: Decimal = taken.iter().map(|(_, amount, _)| amount).sum();
    let refunded: Decimal = truth.refunds.iter().sum();
    law!(edits > 0 || captured.is_zero() || captured == total, "I3: took {captured} for {total}");
    law!(refunded <= captured, "I3: refunded {refunded} of {captured}");
    let counted: Decimal = taken.iter().map(|(_, _, back)| back).sum();
    law!(counted == refunded, "the simulator refunded {refunded} and counts {counted}");
    let owed = if ended(order) { Decimal::ZERO } else { total - wished_back(evidence) };
    law!(captured - refunded == owed, "I3: {:?} keeps {} of {total}", order.status(), captured - refunded);

    let booked = |kind: &str| -> Decimal {
        let done = payments.iter().filter(|one| one.kind == kind && one.status == "SUCCEEDED");
        done.map(|one| amount(&one.amount)).sum()
    };
    law!(booked("CHARGE") == captured, "I4: our books say {}, took {captured}", booked("CHARGE"));
    law!(booked("REFUND") == refunded, "I3: our books say {} went back, not {refunded}", booked("REFUND"));
    let open = payments.iter().find(|one| matches!(one.status.as_str(), "REQUESTED" | "UNKNOWN"));
    law!(open.is_none(), "I3: a payment is in doubt: {open:?}");
    let status = order.payment_status();
    // A refused refund of an edit is the edit's end, and nothing is owed any more.
    let last_refund = payments.iter().rfind(|one| one.kind == "REFUND" && !one.key.contains("/refund_delta"));
    let owes_nothing = !ended(order) && captured - refunded == total;
    let fits = if captured > Decimal::ZERO {
        let due = if owes_nothing && last_refund.is_none_or(|one| one.status != "FAILED") {
            pb::PaymentStatus::Paid
        } else if refunded == captured {
            pb::PaymentStatus::Refunded
        } else if last_refund.is_some_and(|one| one.status == "FAILED") {
            pb::PaymentStatus::RefundFailed
        } else if refunded > Decimal::ZERO {
            pb::PaymentStatus::PartiallyRefunded
        } else {
            pb::PaymentStatus::Paid
        };
        let flagged = !order.attention_reason.is_empty();
        status == due && flagged == (due == pb::PaymentStatus::RefundFailed)
    } else if ended(order) {
        matches!(status, pb::PaymentStatus::Pending | pb::PaymentStatus::Failed)
    } else {
        status == pb::PaymentStatus::Paid
    };
    law!(fits, "payment status {status:?} with {captured} taken and {refunded} given back");
    Ok(())
}

/// I5, I6: all of it is sold to a live order, none of it is kept for an ended one.
pub fn stock(evidence: &Evidence) -> Law {
    let Evidence { order, truth, .. } = evidence;
    let sold: Vec<_> = truth.reservations.iter().filter(|(state, ..)| state == "COMMITTED").collect();
    let held = truth.reservations.iter().any(|(state, ..)| state == "HELD");
    law!(!held, "I5: stock is held for an order that is {:?}", order.status());
    let mut left = Goods::new();
    for (_, lines, back) in &sold {
        for (product, quantity) in lines {
            *left.entry(product.clone()).or_default() += quantity - back.get(product).copied().unwrap_or(0);
        }
    }
    left.retain(|_, quantity| *quantity > 0);
    law!(!ended(order) || left.is_empty(), "I5: {:?} keeps {left:?}", order.status());
    if !ended(order) {
        let mut items = Goods::new();
        for item in &order.items {
            let quantity = u64::try_from(item.quantity).unwrap();
            *items.entry(format!("{}/{}", item.product_id, item.variant_id)).or_default() += quantity;
        }
        law!(left == items, "I6: {:?} without {items:?}: {:?}", order.status(), truth.reservations);
    }
    Ok(())
}

/// An order that is, or was, on its way has a label for each of its parcels; no other has any.
pub fn labels(evidence: &Evidence) -> Law {
    use pb::OrderStatus::{Delivered, Processing, Returned, Shipped};
    let live = evidence.truth.labels.iter().filter(|state| *state == "CREATED").count();
    let status = evidence.order.status();
    let due = matches!(status, Processing | Shipped | Delivered | Returned);
    law!((live > 0) == due, "{status:?} with {live} labels");
    let made = evidence.order.shipments.iter().filter(|shipment| !shipment.label_url.is_empty());
    let told = made.filter(|shipment| shipment.label_status == "CREATED").count();
    law!(told == live, "{status:?} tells of {told} labels and has {live}");
    Ok(())
}
