//! The clients against the simulator's server, over a socket.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::clients::sim::catalogue::{self, RARE_PRODUCT, product};
use crate::clients::sim::{FaultSpec, FaultTarget, SimConfig, Simulator, server};
use crate::domain::address::{Address, AddressKind, Country};
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::StockLine;
use crate::domain::money::Currency;
use crate::domain::trace::SpanId;
use crate::ports::Collaborators;
use crate::ports::inventory::{ReleaseOutcome, ReleaseTarget};
use crate::ports::payment::{PaymentToken, Payments, TransactionState};
use crate::proto::simulator as control;
use crate::proto::simulator::simulator_service_client::SimulatorServiceClient;

const TTL: Duration = Duration::from_secs(600);

struct Bed {
    simulator: Arc<Simulator>,
    clients: Collaborators,
    url: String,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    order: OrderId,
}

fn clients(config: &ClientConfig) -> Collaborators {
    Collaborators {
        inventory: Arc::new(InventoryClient::new(config).unwrap()),
        products: Arc::new(ProductClient::new(config).unwrap()),
        users: Arc::new(UserClient::new(config).unwrap()),
        payments: Arc::new(PaymentClient::new(config).unwrap()),
        shipping: Arc::new(ShippingClient::new(config).unwrap()),
    }
}

impl Bed {
    async fn start() -> Self {
        let clock = Arc::new(|| DateTime::<Utc>::UNIX_EPOCH);
        let simulator = Arc::new(Simulator::new(SimConfig::default(), clock));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = simulator.clone();
        let server = tokio::spawn(async move {
            server::serve(serving, listener, async move { drop(stopped.await) }).await
        });
        let clients = clients(&ClientConfig::new(&url));
        Self { simulator, clients, url, stop, server, order: OrderId(Uuid::from_u128(42)) }
    }

    async fn finish(self) {
        drop(self.clients);
        self.stop.send(()).unwrap();
        self.server.await.unwrap().unwrap();
    }

    fn key(&self, step: &str) -> CallKey {
        CallKey::new(self.order, 1, step, 1)
    }

    fn faults(&self, target: &str, spec: FaultSpec) {
        let target = FaultTarget::parse(target).unwrap();
        self.simulator.set_faults(true, vec![(target, spec)]).unwrap();
    }

    async fn charge(&self, step: &str, token: &str) -> Result<String, CallError> {
        let (key, token) = (self.key(step), PaymentToken::new(token));
        let (amount, usd) = usd("12.50");
        let ctx = ctx();
        let charge = self.clients.payments.charge(&ctx, &key, self.order, amount, usd, "CARD", Some(&token));
        Ok(charge.await?.transaction_id)
    }
}

fn ctx() -> CallContext {
    let trace = TraceContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let trace = trace.map(|trace| trace.with_state("a=1"));
    CallContext { request_id: "r-1".to_owned(), trace, caller: None, timeout: Duration::from_secs(4) }
}

fn usd(amount: &str) -> (Decimal, Currency) {
    (amount.parse().unwrap(), Currency::from_code("USD").unwrap())
}

fn rare(quantity: u32) -> StockLine {
    StockLine { product: product(RARE_PRODUCT), quantity }
}

fn address(postal_code: &str) -> Address {
    Address {
        kind: AddressKind::Shipping,
        first_name: "John".to_owned(),
        last_name: "Doe".to_owned(),
        address_line1: "123 Main St".to_owned(),
        address_line2: None,
        city: "New York".to_owned(),
        state: "NY".to_owned(),
        postal_code: postal_code.to_owned(),
        country: Country::parse("US").unwrap(),
        phone: None,
        email: None,
    }
}

fn reason<T: fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Refused(refusal)) => refusal.reason,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn inventory_over_the_wire() {
    let bed = Bed::start().await;
    let inventory = &bed.clients.inventory;
    assert!(inventory.check_availability(&ctx(), &[rare(3)]).await.unwrap().is_empty());
    let shortages = inventory.check_availability(&ctx(), &[rare(4)]).await.unwrap();
    assert_eq!(shortages[0].available_quantity, 3);
    let reserve = async |step: &str, quantity| {
        inventory.reserve(&ctx(), &bed.key(step), bed.order, &[rare(quantity)], TTL).await
    };
    let id = reserve("reserve", 2).await.unwrap();
    assert_eq!(reserve("reserve", 2).await.unwrap(), id);
    assert_eq!(reason(reserve("reserve", 1).await), "KEY_REUSED");
    let Err(CallError::Refused(refusal)) = reserve("more", 2).await else { panic!() };
    assert_eq!((refusal.reason.as_str(), refusal.shortages[0].available_quantity), ("OUT_OF_STOCK", 1));
    for _ in 0..2 {
        inventory.commit(&ctx(), &bed.key("commit"), &id).await.unwrap();
    }
    assert_eq!(reason(inventory.commit(&ctx(), &bed.key("c"), "rsv_x").await), "RESERVATION_NOT_FOUND");
    let release =
        async |step: &str, target| inventory.release(&ctx(), &bed.key(step), &target).await.unwrap();
    let committed = ReleaseOutcome::Committed { reservation_id: id.clone() };
    assert_eq!(release("release", ReleaseTarget::Reservation(id.clone())).await, committed);
    inventory.restock(&ctx(), &bed.key("restock"), &id, &[rare(2)]).await.unwrap();
    let tomb = ReleaseTarget::ReserveKey(bed.key("late"));
    assert_eq!(release("early", tomb).await, ReleaseOutcome::NothingHeld);
    assert_eq!(reason(reserve("late", 1).await), "RESERVATION_RELEASED");
    let held = ReleaseTarget::Reservation(reserve("held", 1).await.unwrap());
    assert_eq!(release("give back", held).await, ReleaseOutcome::Released);
    bed.finish().await;
}

#[tokio::test]
async fn products_users_and_labels_over_the_wire() {
    let bed = Bed::start().await;
    let Collaborators { products, users, shipping, .. } = &bed.clients;
    let refs: Vec<_> = bed.simulator.catalogue().iter().map(|entry| entry.product.product).collect();
    let found = products.batch_get(&ctx(), &refs).await.unwrap();
    let sold: Vec<_> = bed.simulator.catalogue().iter().map(|entry| entry.product.clone()).collect();
    assert_eq!(found, sold);
    assert!(users.get_user(&ctx(), catalogue::load_user(7)).await.unwrap().active);
    assert!(!users.get_user(&ctx(), catalogue::INACTIVE_USER).await.unwrap().active);
    assert_eq!(reason(users.get_user(&ctx(), catalogue::user(21)).await), "USER_NOT_FOUND");
    let user = catalogue::SAMPLE_USER;
    assert!(users.validate_address(&ctx(), user, &address("10001")).await.unwrap().is_empty());
    let problems = users.validate_address(&ctx(), user, &address("00000")).await.unwrap();
    assert_eq!(problems[0].field, "postal_code");
    let label = async |step: &str| {
        let (key, to) = (bed.key(step), address("10001"));
        shipping.create_label(&ctx(), &key, bed.order, "STANDARD", &to, &[rare(1)]).await
    };
    assert_eq!(label("label").await.unwrap(), label("label").await.unwrap());
    shipping.void_label(&ctx(), &bed.key("label")).await.unwrap();
    shipping.void_label(&ctx(), &bed.key("never")).await.unwrap();
    assert_eq!(reason(label("label").await), "LABEL_VOIDED");
    assert_eq!(reason(label("never").await), "LABEL_VOIDED");
    bed.finish().await;
}

#[tokio::test]
async fn payments_over_the_wire() {
    let bed = Bed::start().await;
    let payments = &bed.clients.payments;
    let id = bed.charge("charge", "tok_any").await.unwrap();
    assert_eq!(bed.charge("charge", "tok_any").await.unwrap(), id);
    assert_eq!(reason(bed.charge("no", catalogue::TOKEN_EXPIRED).await), "EXPIRED_CARD");
    let state = async |step: &str| payments.get_transaction(&ctx(), &bed.key(step)).await.unwrap();
    assert_eq!(state("no").await, TransactionState::Declined { code: "EXPIRED_CARD".to_owned() });
    assert_eq!(state("none").await, TransactionState::NotFound);

    let lost = bed.charge("lost", catalogue::TOKEN_LOST_REPLY).await;
    assert!(matches!(lost, Err(CallError::Unknown(_))), "{lost:?}");
    let TransactionState::Succeeded(found) = state("lost").await else { panic!() };
    assert_eq!(found.gateway.last4.as_deref(), Some("4242"));
    let again = bed.charge("lost", catalogue::TOKEN_LOST_REPLY).await.unwrap();
    assert_eq!(again, found.transaction_id);

    assert_eq!(
        payments.close_transaction(&ctx(), &bed.key("shut")).await.unwrap(),
        TransactionState::NotFound
    );
    assert_eq!(reason(bed.charge("shut", "tok_any").await), "TRANSACTION_CLOSED");

    let (amount, usd) = usd("12.50");
    let refund = async |step: &str| payments.refund(&ctx(), &bed.key(step), &id, amount, usd).await;
    assert_eq!(refund("refund").await.unwrap(), refund("refund").await.unwrap());
    assert_eq!(reason(refund("more").await), "REFUND_EXCEEDS_CHARGE");

    let down = bed.charge("down", catalogue::TOKEN_UNAVAILABLE).await;
    assert!(matches!(down, Err(CallError::Unavailable(_))), "{down:?}");
    assert_eq!(bed.simulator.order_ledger(bed.order).charges.len(), 3);
    bed.finish().await;
}

#[tokio::test]
async fn a_deadline_leaves_an_effect_in_doubt_and_the_effect_happens() {
    let bed = Bed::start().await;
    let delay = Duration::from_millis(300);
    bed.faults("inventory.Reserve", FaultSpec { delay, ..FaultSpec::default() });
    let hasty = CallContext { timeout: Duration::from_millis(50), ..ctx() };
    let key = bed.key("reserve");
    let outcome = bed.clients.inventory.reserve(&hasty, &key, bed.order, &[rare(1)], TTL).await;
    assert!(matches!(outcome, Err(CallError::Unknown(_))), "{outcome:?}");
    tokio::time::timeout(Duration::from_secs(10), async {
        while bed.simulator.order_ledger(bed.order).reservations.is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    bed.finish().await;
}

#[tokio::test]
async fn reads_are_repeated_and_effects_are_not() {
    let bed = Bed::start().await;
    let twice = FaultSpec { unavailable: true, max_count: Some(2), ..FaultSpec::default() };
    bed.faults("user.GetUser", twice.clone());
    assert!(bed.clients.users.get_user(&ctx(), catalogue::SAMPLE_USER).await.is_ok());
    bed.faults("payment.Charge", twice);
    assert!(matches!(bed.charge("charge", "t").await, Err(CallError::Unavailable(_))));
    let struck: Vec<_> = bed.simulator.faults().into_iter().map(|(_, _, struck)| struck).collect();
    assert_eq!(struck, [1]);
    bed.finish().await;
}

#[tokio::test]
async fn nobody_there_is_surely_not_executed_and_opens_the_breaker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = ClientConfig {
        breaker: BreakerConfig { failures_to_open: 2, open_for: Duration::from_secs(60) },
        read_retries: 0,
        ..ClientConfig::new(format!("http://{}", listener.local_addr().unwrap()))
    };
    drop(listener);
    let clients = clients(&config);
    for n in 0..3 {
        let (key, (amount, usd)) = (CallKey::from_text("k"), usd("1.00"));
        let order = OrderId(Uuid::nil());
        let outcome = clients.payments.charge(&ctx(), &key, order, amount, usd, "CARD", None).await;
        let Err(CallError::Unavailable(text)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(text.contains("not tried"), n == 2, "{text}");
    }
}

#[tokio::test]
async fn control_over_the_wire() {
    let bed = Bed::start().await;
    let mut control = SimulatorServiceClient::connect(bed.url.clone()).await.unwrap();
    bed.charge("charge", "tok_any").await.unwrap();
    let request = control::GetLedgerRequest { order_id: bed.order.to_string(), ..Default::default() };
    let ledger = control.get_ledger(request).await.unwrap().into_inner();
    assert_eq!((ledger.charges[0].amount.as_str(), ledger.charges[0].state.as_str()), ("12.50", "SUCCEEDED"));
    assert_eq!((ledger.keys[0].method.as_str(), ledger.keys[0].received), ("payment.Charge", 1));
    assert_eq!(ledger.stock.len(), bed.simulator.catalogue().len());
    let faults =
        control::Faults { method: "payment.Charge".to_owned(), error_rate: 1.0, ..Default::default() };
    let request = control::SetFaultsRequest { reset_all: true, faults: vec![faults.clone()] };
    control.set_faults(request).await.unwrap();
    assert!(matches!(bed.charge("second", "t").await, Err(CallError::Unknown(_))));
    let got = control.get_faults(control::GetFaultsRequest {}).await.unwrap().into_inner();
    assert_eq!((got.entries[0].faults.clone(), got.entries[0].struck), (Some(faults), 1));
    let product_id = product(RARE_PRODUCT).product_id.to_string();
    let request = control::SetStockRequest { product_id, variant_id: String::new(), available: 10 };
    let totals = control.set_stock(request).await.unwrap().into_inner().totals.unwrap();
    assert_eq!((totals.initial, totals.available), (10, 10));
    let bad = control::Faults { method: "payment.Steal".to_owned(), ..Default::default() };
    let request = control::SetFaultsRequest { reset_all: true, faults: vec![bad] };
    assert_eq!(control.set_faults(request).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let sold = control.get_catalogue(control::GetCatalogueRequest {}).await.unwrap().into_inner();
    assert_eq!(sold.products[0].unit_price, "44.99");
    drop(control);
    bed.finish().await;
}

#[tokio::test]
async fn urls_that_cannot_be_called_are_refused() {
    for url in ["", "nonsense", "ftp://host:1", "http://user:secret@host:1", "http://host:1/path", "host:1"] {
        let refused = UserClient::new(&ClientConfig::new(url));
        assert!(matches!(refused, Err(ClientError::Url(Collaborator::User))), "{url}");
    }
    assert!(!format!("{:?}", ClientConfig::new("http://a:secret@b")).contains("secret"));
}

#[test]
fn what_travels_with_a_call() {
    let asks = ctx().trace.unwrap().child(SpanId::of_random(1));
    let sent = request(&ctx(), Some(&asks), Duration::from_secs(2), ());
    let header = |name| sent.metadata().get(name).and_then(|value| value.to_str().ok());
    assert_eq!(header("x-request-id"), Some("r-1"));
    // The same trace, and the call's own span.
    assert_eq!(header("traceparent"), Some("00-0af7651916cd43dd8448eb211c80319c-a0000000a0000001-01"));
    assert_eq!(header("tracestate"), Some("a=1"));
    assert_eq!(header("grpc-timeout"), Some("2000000u"));
    let odd = CallContext { request_id: "two\nlines".to_owned(), trace: None, ..ctx() };
    assert!(request(&odd, None, Duration::from_secs(2), ()).metadata().get("x-request-id").is_none());
}

#[tokio::test]
async fn callers_with_no_time_left_do_not_open_the_breaker() {
    let bed = Bed::start().await;
    let delay = Duration::from_millis(200);
    bed.faults("user.GetUser", FaultSpec { delay, ..FaultSpec::default() });
    let hasty = CallContext { timeout: Duration::from_millis(1), ..ctx() };
    for _ in 0..10 {
        let outcome = bed.clients.users.get_user(&hasty, catalogue::SAMPLE_USER).await;
        assert!(matches!(outcome, Err(CallError::Unavailable(_))), "{outcome:?}");
    }
    assert!(bed.clients.users.get_user(&ctx(), catalogue::SAMPLE_USER).await.is_ok());
    bed.finish().await;
}

/// Accepts calls, then cuts the connection without an answer.
#[tokio::test]
async fn a_cut_connection_leaves_an_effect_in_doubt() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let cutter = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut bytes = [0u8; 1024];
        // The preface of HTTP/2 and whatever comes with it; then silence for good.
        while socket.try_read(&mut bytes).is_err() {
            socket.readable().await.unwrap();
        }
    });
    let payments = PaymentClient::new(&ClientConfig::new(url)).unwrap();
    let (key, (amount, usd)) = (CallKey::from_text("k"), usd("1.00"));
    let outcome = payments.charge(&ctx(), &key, OrderId(Uuid::nil()), amount, usd, "CARD", None).await;
    assert!(matches!(outcome, Err(CallError::Unknown(_))), "{outcome:?}");
    cutter.await.unwrap();
}
