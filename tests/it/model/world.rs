//! One seed's world: real actors behind the real API, on the shared store, with collaborators and faults of its own.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use order_service::actor::{ActorConfig, Orders, Parts};
use order_service::cache::{MemoryCache, NoCache};
use order_service::clients::sim::{FaultSpec, FaultTarget, SimConfig, Simulator};
use order_service::domain::Timestamp;
use order_service::domain::ids::{IdKey, OrderId};
use order_service::domain::pricing::Pricing;
use order_service::domain::react::Policy;
use order_service::domain::risk::RiskRules;
use order_service::domain::status::OrderStatus;
use order_service::domain::verify;
use order_service::grpc::{OrderApi, OrderApiConfig, RequestLimits, WatchLimits};
use order_service::ports::cache::OrderCache;
use order_service::ports::clock::Clock;
use order_service::ports::placement::Alone;
use order_service::ports::store::{OrderStore, Owner, Stored};
use order_service::proto::order as pb;
use order_service::proto::served::order_service_server::OrderService;
use order_service::steps::StepLimits;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tonic_types::StatusExt;

use super::reference::{Act, Weather};
use super::store::Window;
use crate::harness::invariants::{Evidence, Truth};
use crate::harness::laws::{Law, law};
use crate::harness::{Chance, price_book};

/// What must come to rest does so within this.
const REST: Duration = Duration::from_secs(120);
/// How long a patient caller waits.
const PATIENT: Duration = Duration::from_secs(30);
/// How long a call to a collaborator is waited for.
const CALL_TIMEOUT: Duration = Duration::from_millis(150);
/// A delay that outlasts it.
const LATE: Duration = Duration::from_millis(180);

/// Process lives of all worlds.
static LIVES: AtomicI64 = AtomicI64::new(1);

#[derive(Debug)]
struct MachineClock;

impl Clock for MachineClock {
    #[expect(clippy::disallowed_methods, reason = "the worlds run in real time")]
    fn now(&self) -> Timestamp {
        use chrono::SubsecRound;
        chrono::Utc::now().trunc_subsecs(6)
    }
}

/// The time.
pub fn now() -> Timestamp {
    MachineClock.now()
}

/// What is drawn for a world once.
#[derive(Clone, Debug)]
pub struct Setup {
    pub weather: Weather,
    pub faults: Vec<(FaultTarget, FaultSpec)>,
    /// Commits of 100 that fail.
    pub store_faults: u32,
    /// How long callers wait for the end of what they asked for.
    pub patient: bool,
    run_ahead: Duration,
    cached: bool,
}

impl Setup {
    /// Nothing fails.
    pub fn calm() -> Self {
        let (weather, faults) = (Weather::default(), Vec::new());
        Self { weather, faults, store_faults: 0, patient: true, run_ahead: Duration::ZERO, cached: true }
    }

    /// One world in four has no faults at all.
    pub fn draw(chance: &mut Chance) -> Self {
        let mut weather = Weather::default();
        let (mut faults, mut store_faults) = (Vec::new(), 0);
        if !chance.percent(25) {
            let mut rate = |most: &[u32]| f64::from(chance.pick(most)) / 100.0;
            let base = FaultSpec {
                error_rate: rate(&[0, 0, 10, 25]),
                lose_reply_rate: rate(&[0, 0, 10, 30]),
                duplicate_rate: rate(&[0, 10, 30]),
                unavailable_rate: rate(&[0, 0, 10, 25]),
                ..FaultSpec::default()
            };
            let decline_rate = rate(&[0, 0, 15, 40]);
            let out_of_stock_rate = rate(&[0, 0, 0, 25]);
            weather.calls_fail = base.error_rate + base.lose_reply_rate + base.unavailable_rate > 0.0;
            weather.declines = decline_rate > 0.0;
            weather.out_of_stock = out_of_stock_rate > 0.0;
            let seeds = chance.bits();
            let mut set = |name: &str, spec: FaultSpec| {
                let seed = seeds.wrapping_add(faults.len() as u64);
                faults.push((FaultTarget::parse(name).unwrap(), FaultSpec { seed, ..spec }));
            };
            set("*", base.clone());
            // An order that does not come to be is a short story.
            if chance.percent(80) {
                for name in ["user.*", "product.*", "inventory.CheckAvailability"] {
                    set(name, FaultSpec::default());
                }
            }
            if weather.declines {
                set("payment.Charge", FaultSpec { decline_rate, ..base.clone() });
                set("payment.Refund", FaultSpec { decline_rate, ..base.clone() });
            }
            if weather.out_of_stock {
                set("inventory.Reserve", FaultSpec { out_of_stock_rate, ..base.clone() });
            }
            if chance.percent(10) {
                let late = ["inventory.Reserve", "payment.Charge", "payment.Refund", "inventory.Commit"];
                let method = FaultTarget::parse(chance.pick(&late)).unwrap();
                let spec = FaultSpec { delay: LATE, max_count: Some(1), ..FaultSpec::default() };
                faults.retain(|(target, _)| *target != method);
                faults.push((method, spec));
                weather.calls_fail = true;
            }
            store_faults = chance.pick(&[0, 0, 3, 10]);
            weather.store_fails = store_faults > 0;
        }
        let patient = chance.percent(60);
        let run_ahead = chance.pick(&[Duration::ZERO, Duration::from_millis(2), Duration::from_secs(2)]);
        let cached = chance.percent(50);
        Self { weather, faults, store_faults, patient, run_ahead, cached }
    }
}

/// A world.
pub struct World {
    pub simulator: Simulator,
    pub store: Arc<Window>,
    setup: Setup,
    life: Mutex<(Arc<OrderApi>, Arc<Orders>)>,
    trace: Mutex<Vec<String>>,
}

/// The key of all ids.
pub fn key() -> IdKey {
    IdKey(b"model".to_vec())
}

impl World {
    /// A world on this store.
    pub async fn new(store: Arc<dyn OrderStore>, setup: Setup, chance: Chance) -> Self {
        let simulator = Simulator::new(SimConfig::default(), Arc::new(now));
        simulator.set_faults(true, setup.faults.clone()).unwrap();
        let store = Arc::new(Window::new(store, chance, setup.store_faults));
        let owner = owner();
        store.only(owner);
        let life = Mutex::new(live(&store, &simulator, &setup, owner).await);
        Self { simulator, store, setup, life, trace: Mutex::default() }
    }

    /// Notes what happens.
    pub fn tell(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    /// All that was noted.
    pub fn story(&self) -> String {
        self.trace.lock().unwrap().join("\n")
    }

    fn api(&self) -> Arc<OrderApi> {
        Arc::clone(&self.life.lock().unwrap().0)
    }

    /// Ends this process life in the middle of whatever it does, and begins another.
    pub async fn restart(&self) {
        let owner = owner();
        self.store.only(owner);
        let old = Arc::clone(&self.life.lock().unwrap().1);
        old.stop(Duration::ZERO).await;
        while self.store.is_writing() {
            pass(Duration::from_millis(1)).await;
        }
        let next = live(&self.store, &self.simulator, &self.setup, owner).await;
        *self.life.lock().unwrap() = next;
    }

    /// From now on nothing fails.
    pub fn calm(&self) {
        self.simulator.set_faults(true, Vec::new()).unwrap();
        self.store.calm();
    }

    /// Ends it.
    pub async fn end(&self) {
        let orders = Arc::clone(&self.life.lock().unwrap().1);
        orders.stop(Duration::from_secs(5)).await;
    }

    /// Carries out an act; the answer, or the reason why there is none.
    pub async fn ask(
        &self,
        act: &Act,
        id: &str,
        request_id: &str,
        version: i64,
        new: &pb::CreateOrderRequest,
    ) -> Result<pb::Order, String> {
        let api = self.api();
        let (id, request_id, expected_version) = (id.to_owned(), request_id.to_owned(), version);
        let answer = match act {
            Act::Create { other_content } => {
                let mut request = new.clone();
                if *other_content {
                    request.notes.push_str(" and more");
                }
                api.create_order(Request::new(request)).await
            }
            Act::Cancel => {
                let request =
                    pb::CancelOrderRequest { id, expected_version, request_id, ..Default::default() };
                api.cancel_order(Request::new(request)).await
            }
            Act::Become(status) => {
                let status = (*status).into();
                let request = pb::UpdateOrderStatusRequest {
                    id,
                    status,
                    expected_version,
                    request_id,
                    ..Default::default()
                };
                api.update_order_status(Request::new(request)).await
            }
            Act::Add { product, quantity, preview, .. } => {
                let (product_id, variant_id) = product.split_once('/').unwrap();
                let item = Some(pb::NewOrderItem {
                    product_id: product_id.to_owned(),
                    variant_id: variant_id.to_owned(),
                    quantity: *quantity,
                });
                let request = pb::AddOrderItemRequest {
                    order_id: id,
                    item,
                    expected_version,
                    request_id,
                    validate_only: *preview,
                };
                api.add_order_item(Request::new(request)).await
            }
            Act::Set { item, quantity, .. } => {
                let request = pb::UpdateOrderItemRequest {
                    order_id: id,
                    item_id: item.clone(),
                    quantity: *quantity,
                    expected_version,
                    request_id,
                    ..Default::default()
                };
                api.update_order_item(Request::new(request)).await
            }
            Act::Remove { item, .. } => {
                let item_id = item.clone();
                let request = pb::RemoveOrderItemRequest {
                    order_id: id,
                    item_id,
                    expected_version,
                    request_id,
                    ..Default::default()
                };
                api.remove_order_item(Request::new(request)).await
            }
            Act::RefundAmount(_) | Act::RefundItems { .. } | Act::RefundRest => {
                let mut request =
                    pb::RefundOrderRequest { id, expected_version, request_id, ..Default::default() };
                match act {
                    Act::RefundAmount(amount) => request.amount = format!("{amount:.2}"),
                    Act::RefundItems { item, quantity, .. } => {
                        let (item_id, quantity) = (item.clone(), *quantity);
                        request.items.push(pb::RefundItem { item_id, quantity });
                    }
                    _ => {}
                }
                api.refund_order(Request::new(request)).await
            }
            Act::Hold => {
                let reason = String::from("looks odd");
                let request =
                    pb::HoldOrderRequest { id, reason, expected_version, request_id, ..Default::default() };
                api.hold_order(Request::new(request)).await
            }
            Act::Release => {
                let request =
                    pb::ReleaseOrderRequest { id, expected_version, request_id, ..Default::default() };
                api.release_order(Request::new(request)).await
            }
            Act::Read => {
                let key = Some(pb::get_order_request::Key::Id(id));
                api.get_order(Request::new(pb::GetOrderRequest { key, allow_stale: false })).await
            }
            Act::Restart => {
                self.restart().await;
                return Ok(pb::Order::default());
            }
        };
        answer.map(|answer| answer.into_inner().read().unwrap()).map_err(|status| reason_of(&status))
    }

    /// Waits until nothing moves, and tells what there is then.
    pub async fn at_rest(&self, id: OrderId) -> Result<Option<Evidence>, String> {
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(1);
        // A hold that came before the charge makes a creation wait for its release: somebody lets it go on, and puts the
        // order on hold again afterwards.
        let mut was_held = false;
        let stored = loop {
            let stored = self.store.load(id).await.map_err(|error| error.to_string())?;
            let moving = stored.as_ref().is_some_and(|stored| stored.saga.is_some());
            let waits =
                |stored: &Stored| stored.order.status == OrderStatus::Pending && stored.order.hold.is_some();
            if moving && stored.as_ref().is_some_and(waits) {
                let request = pb::ReleaseOrderRequest { id: id.to_string(), ..Default::default() };
                was_held |= self.api().release_order(Request::new(request)).await.is_ok();
            }
            let can_hold = stored.as_ref().is_some_and(|stored| stored.order.status.can_hold());
            if !moving && was_held && can_hold {
                let (id, reason) = (id.to_string(), "again".to_owned());
                let request = pb::HoldOrderRequest { id, reason, ..Default::default() };
                was_held = self.api().hold_order(Request::new(request)).await.is_err();
            } else if !moving && !self.store.is_writing() {
                break self.store.load(id).await.map_err(|error| error.to_string())?;
            }
            if begun.elapsed() > REST {
                return Err(format!("I9: not at rest after {REST:?}: {stored:?}"));
            }
            pass(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        };
        let Some(stored) = stored else { return Ok(None) };
        let events = self.store.events(id, 0, 10_000).await.map_err(|error| error.to_string())?;
        let found = verify::check(&stored.order, None, &events, now(), Duration::from_secs(30));
        if !found.is_empty() {
            return Err(format!("verify: {found:?}"));
        }
        let api = self.api();
        let key = Some(pb::get_order_request::Key::Id(id.to_string()));
        let why = |status: Status| format!("a read at rest: {status:?}");
        let order = api.get_order(Request::new(pb::GetOrderRequest { key, allow_stale: false })).await;
        let order = order.map_err(why)?.into_inner().read().unwrap();
        let order_id = id.to_string();
        let request = pb::ListOrderEventsRequest { order_id, page_size: 200, ..Default::default() };
        let told = api.list_order_events(Request::new(request)).await.map_err(why)?.into_inner().events;
        law!(told.len() == events.len().min(200), "{} events are told of {}", told.len(), events.len());
        let request = pb::ListPaymentTransactionsRequest { order_id: id.to_string() };
        let payments = api.list_payment_transactions(Request::new(request)).await.map_err(why)?;
        let payments = payments.into_inner().transactions;
        let truth = Truth::from(&self.simulator.order_ledger(id));
        Ok(Some(Evidence { order, events: told, payments, truth }))
    }

    /// Whatever is gone from the shelves was sold to, or is held for, one of these orders.
    pub fn shelves(&self, ids: &[OrderId]) -> Law {
        let mut out = 0u64;
        for id in ids {
            let truth = Truth::from(&self.simulator.order_ledger(*id));
            for (state, lines, back) in truth.reservations {
                if matches!(state.as_str(), "HELD" | "COMMITTED") {
                    out += lines.values().sum::<u64>() - back.values().sum::<u64>();
                }
            }
        }
        let start: u64 = self.simulator.catalogue().iter().map(|entry| entry.stock).sum();
        let left: u64 = self.simulator.stock().iter().map(|totals| totals.available).sum();
        law!(left + out == start, "I5: {start} at first, {left} on the shelves and {out} out");
        Ok(())
    }
}

fn owner() -> Owner {
    Owner { epoch: 1, incarnation: LIVES.fetch_add(1, Ordering::Relaxed) }
}

fn reason_of(status: &Status) -> String {
    let details = status.get_error_details();
    details.error_info().map_or_else(|| format!("{:?}", status.code()), |info| info.reason.clone())
}

/// Lets time pass: between two looks, or so that calls begin one after the other. No outcome is waited for by it.
pub async fn pass(time: Duration) {
    if !time.is_zero() {
        tokio::time::interval_at(tokio::time::Instant::now() + time, time).tick().await;
    }
}

/// The price book, made once.
fn pricing() -> Arc<dyn Pricing> {
    static BOOK: OnceLock<Arc<dyn Pricing>> = OnceLock::new();
    Arc::clone(BOOK.get_or_init(|| Arc::new(price_book().clone())))
}

/// Starts a process life.
async fn live(
    store: &Arc<Window>,
    simulator: &Simulator,
    setup: &Setup,
    owner: Owner,
) -> (Arc<OrderApi>, Arc<Orders>) {
    let clock: Arc<dyn Clock> = Arc::new(MachineClock);
    let cache: Arc<dyn OrderCache> =
        if setup.cached { Arc::new(MemoryCache::new(100)) } else { Arc::new(NoCache) };
    let ms = Duration::from_millis;
    let parts = Parts {
        store: Arc::clone(store) as Arc<dyn OrderStore>,
        cache,
        collaborators: simulator.collaborators(),
        clock: Arc::clone(&clock),
        key: key(),
        policy: Policy {
            retry_initial: ms(1),
            retry_max: ms(6),
            forward_tries: 4,
            attention_after_tries: 6,
            charge_settle_lag: CALL_TIMEOUT + ms(100),
            run_ahead: setup.run_ahead,
            expire_after: Duration::ZERO,
            reservation_ttl: Duration::from_secs(900),
            unknown_attention_after: Duration::from_secs(300),
        },
        limits: StepLimits { timeout: CALL_TIMEOUT, reservation_ttl: Duration::from_secs(900) },
        config: ActorConfig {
            max_live: 1_000,
            max_commands_per_order: 64,
            idle_after: ms(50),
            sweep_every: ms(100),
            max_failures: 1_000,
            failure_backoff: ms(1),
            failure_backoff_max: ms(2),
            quarantine_for: Duration::from_secs(1),
            resume_every: ms(700),
            resume_batch: 100,
            resume_concurrency: 8,
            timers_batch: 100,
            max_wait: PATIENT,
            warm_orders: 0,
            watch_buffer: 16,
        },
        placement: Arc::new(Alone(owner)),
        crash_at: None,
        skip_undo: None,
    };
    let orders = Orders::start(parts).await.unwrap();
    let api = OrderApi::new(
        Arc::clone(&orders),
        simulator.collaborators(),
        pricing(),
        Arc::new(RiskRules::default()),
        key(),
        OrderApiConfig {
            create_wait: if setup.patient { PATIENT } else { Duration::ZERO },
            default_deadline: PATIENT,
            max_deadline: PATIENT,
            call_timeout: CALL_TIMEOUT,
            max_concurrent_requests: 100,
            max_watchers: 10,
            watch: WatchLimits { buffer: 16, slow_after: PATIENT },
            limits: RequestLimits {
                items_per_order: 200,
                max_quantity: 9_999,
                notes_chars: 2_000,
                metadata_keys: 32,
                metadata_bytes: 256,
                page_size_default: 50,
                page_size_max: 200,
            },
        },
        CancellationToken::new(),
    );
    (Arc::new(api), orders)
}
