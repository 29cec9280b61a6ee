//! The simulator's promises, one by one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::DateTime;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::catalogue::{self, RARE_PRODUCT, product};
use super::*;
use crate::domain::ids::CallKey;
use crate::domain::item::StockLine;
use crate::domain::money::Currency;
use crate::ports::call::reason::{INVALID_REQUEST, KEY_REUSED};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget};
use crate::ports::payment::{PaymentToken, Payments, TransactionState};
use crate::ports::product::Products;
use crate::ports::shipping::Shipping;
use crate::ports::user::Users;

const TTL: Duration = Duration::from_secs(600);

/// A simulator whose time is set by hand, and an order.
struct Bed {
    simulator: Simulator,
    seconds: Arc<AtomicI64>,
    order: OrderId,
}

impl Bed {
    fn new() -> Self {
        Self::with(SimConfig::default())
    }

    fn with(config: SimConfig) -> Self {
        let seconds = Arc::new(AtomicI64::new(0));
        let hand = seconds.clone();
        let clock: Clock =
            Arc::new(move || DateTime::from_timestamp(hand.load(Ordering::SeqCst), 0).unwrap());
        Self { simulator: Simulator::new(config, clock), seconds, order: OrderId(Uuid::from_u128(42)) }
    }

    fn key(&self, step: &str) -> CallKey {
        CallKey::new(self.order, 1, step, 1)
    }

    fn ledger(&self) -> OrderLedger {
        self.simulator.order_ledger(self.order)
    }

    /// (on sale, held, sold) of the rare product.
    fn rare(&self) -> (u64, u64, u64) {
        let stock = self.simulator.stock();
        let rare = stock.iter().find(|totals| totals.product == product(RARE_PRODUCT)).unwrap();
        assert_eq!(rare.initial, [rare.available, rare.reserved, rare.committed].iter().sum::<u64>());
        (rare.available, rare.reserved, rare.committed)
    }

    async fn reserve(&self, step: &str, quantity: u32) -> Result<String, CallError> {
        let lines = [rare(quantity)];
        self.simulator.reserve(&ctx(), &self.key(step), self.order, &lines, TTL).await
    }

    async fn charge(&self, step: &str, token: &str) -> Result<crate::ports::payment::Charged, CallError> {
        let (amount, usd) = usd("12.50");
        let token = PaymentToken::new(token);
        self.simulator
            .charge(&ctx(), &self.key(step), self.order, amount, usd, "CREDIT_CARD", Some(&token))
            .await
    }

    async fn transaction(&self, step: &str) -> TransactionState {
        self.simulator.get_transaction(&ctx(), &self.key(step)).await.unwrap()
    }

    fn faults(&self, target: &str, spec: FaultSpec) {
        let target = FaultTarget::parse(target).unwrap();
        self.simulator.set_faults(false, vec![(target, spec)]).unwrap();
    }
}

fn ctx() -> CallContext {
    CallContext { request_id: "r".to_owned(), trace: None, caller: None, timeout: Duration::from_secs(5) }
}

fn rare(quantity: u32) -> StockLine {
    StockLine { product: product(RARE_PRODUCT), quantity }
}

fn usd(amount: &str) -> (Decimal, Currency) {
    (amount.parse().unwrap(), Currency::from_code("USD").unwrap())
}

fn reason<T: fmt::Debug>(outcome: Result<T, CallError>) -> String {
    match outcome {
        Err(CallError::Refused(refusal)) => refusal.reason,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn a_reservation_holds_all_or_nothing_and_once_per_key() {
    let bed = Bed::new();
    let id = bed.reserve("reserve", 2).await.unwrap();
    assert_eq!(bed.reserve("reserve", 2).await.unwrap(), id);
    assert_eq!(bed.rare(), (1, 2, 0));
    assert_eq!(reason(bed.reserve("reserve", 1).await), KEY_REUSED);

    let lines = [rare(1), StockLine { product: product(1), quantity: 1 }, rare(1)];
    let refused = bed.simulator.reserve(&ctx(), &bed.key("second"), bed.order, &lines, TTL).await;
    let Err(CallError::Refused(refusal)) = refused else { panic!("{refused:?}") };
    assert_eq!(refusal.reason, "OUT_OF_STOCK");
    let [short] = refusal.shortages[..] else { panic!("{refusal:?}") };
    assert_eq!((short.requested_quantity, short.available_quantity), (2, 1));
    assert_eq!(bed.simulator.check_availability(&ctx(), &lines).await.unwrap(), [short]);
    assert_eq!(bed.rare(), (1, 2, 0));
    let received: Vec<_> = bed.ledger().keys.iter().map(|calls| calls.received).collect();
    assert_eq!(received, [3, 1]);
}

#[tokio::test]
async fn time_gives_held_stock_back_but_not_sold_stock() {
    let bed = Bed::new();
    let sold = bed.reserve("a", 1).await.unwrap();
    let held = bed.reserve("b", 1).await.unwrap();
    bed.simulator.commit(&ctx(), &bed.key("commit"), &sold).await.unwrap();
    bed.seconds.store(599, Ordering::SeqCst);
    assert_eq!(bed.rare(), (1, 1, 1));
    bed.seconds.store(600, Ordering::SeqCst);
    assert_eq!(bed.rare(), (2, 0, 1));
    let late = bed.simulator.commit(&ctx(), &bed.key("late"), &held).await;
    assert_eq!(reason(late), "RESERVATION_EXPIRED");
    assert_eq!(reason(bed.reserve("b", 1).await), "RESERVATION_EXPIRED");
    bed.simulator.commit(&ctx(), &bed.key("commit"), &sold).await.unwrap();
    let states: Vec<_> = bed.ledger().reservations.iter().map(|one| one.state).collect();
    assert_eq!(states, [ReservationState::Committed, ReservationState::Expired]);
}

#[tokio::test]
async fn a_release_before_its_reserve_leaves_a_tombstone() {
    let bed = Bed::new();
    let target = ReleaseTarget::ReserveKey(bed.key("reserve"));
    for _ in 0..2 {
        let outcome = bed.simulator.release(&ctx(), &bed.key("release"), &target).await.unwrap();
        assert_eq!(outcome, ReleaseOutcome::NothingHeld);
    }
    assert_eq!(reason(bed.reserve("reserve", 1).await), "RESERVATION_RELEASED");
    assert_eq!(bed.rare(), (3, 0, 0));
    assert_eq!(bed.ledger().reservations.len(), 1);
}

#[tokio::test]
async fn a_release_says_what_it_found() {
    let bed = Bed::new();
    let id = bed.reserve("reserve", 2).await.unwrap();
    let by_key = ReleaseTarget::ReserveKey(bed.key("reserve"));
    for _ in 0..2 {
        let outcome = bed.simulator.release(&ctx(), &bed.key("release"), &by_key).await.unwrap();
        assert_eq!(outcome, ReleaseOutcome::Released);
    }
    let again = bed.simulator.release(&ctx(), &bed.key("other"), &ReleaseTarget::Reservation(id)).await;
    assert_eq!(again.unwrap(), ReleaseOutcome::NothingHeld);
    assert_eq!(bed.rare(), (3, 0, 0));

    let id = bed.reserve("second", 2).await.unwrap();
    bed.simulator.commit(&ctx(), &bed.key("commit"), &id).await.unwrap();
    let target = ReleaseTarget::ReserveKey(bed.key("second"));
    let outcome = bed.simulator.release(&ctx(), &bed.key("late"), &target).await.unwrap();
    assert_eq!(outcome, ReleaseOutcome::Committed { reservation_id: id });
    assert_eq!(bed.rare(), (1, 0, 2));
}

#[tokio::test]
async fn a_restock_brings_back_once_and_no_more_than_was_sold() {
    let bed = Bed::new();
    let id = bed.reserve("reserve", 3).await.unwrap();
    let restock = async |step: &str, quantity| {
        bed.simulator.restock(&ctx(), &bed.key(step), &id, &[rare(quantity)]).await
    };
    assert_eq!(reason(restock("early", 1).await), "RESERVATION_NOT_COMMITTED");
    bed.simulator.commit(&ctx(), &bed.key("commit"), &id).await.unwrap();
    restock("one", 1).await.unwrap();
    restock("one", 1).await.unwrap();
    assert_eq!(bed.rare(), (1, 0, 2));
    assert_eq!(reason(restock("one", 2).await), KEY_REUSED);
    assert_eq!(reason(restock("more", 3).await), "RESTOCK_EXCEEDS_COMMITTED");
    restock("rest", 2).await.unwrap();
    assert_eq!(bed.rare(), (3, 0, 0));
}

#[tokio::test]
async fn money_is_taken_once_per_key_and_never_given_back_twice() {
    let bed = Bed::new();
    let charged = bed.charge("charge", "tok_any").await.unwrap();
    assert_eq!(bed.charge("charge", "tok_any").await.unwrap(), charged);
    assert_eq!(charged.gateway.clone().bounded(), charged.gateway);
    assert_eq!(bed.transaction("charge").await, TransactionState::Succeeded(charged.clone()));
    let refund = async |step: &str, amount: &str| {
        let (amount, usd) = usd(amount);
        bed.simulator.refund(&ctx(), &bed.key(step), &charged.transaction_id, amount, usd).await
    };
    let first = refund("one", "10.00").await.unwrap();
    assert_eq!(refund("one", "10.00").await.unwrap(), first);
    assert_eq!(reason(refund("one", "9.00").await), KEY_REUSED);
    assert_eq!(reason(refund("two", "2.51").await), "REFUND_EXCEEDS_CHARGE");
    refund("two", "2.50").await.unwrap();
    assert_eq!(reason(refund("bad", "0.00").await), INVALID_REQUEST);
    let ledger = bed.ledger();
    assert_eq!((ledger.charges.len(), ledger.refunds.len()), (1, 2));
    assert_eq!(ledger.charges[0].refunded, usd("12.50").0);
}

#[tokio::test]
async fn a_decline_is_remembered() {
    let bed = Bed::new();
    assert_eq!(reason(bed.charge("charge", catalogue::TOKEN_INSUFFICIENT).await), "INSUFFICIENT_FUNDS");
    assert_eq!(reason(bed.charge("charge", "tok_good").await), "INSUFFICIENT_FUNDS");
    let declined = TransactionState::Declined { code: "INSUFFICIENT_FUNDS".to_owned() };
    assert_eq!(bed.transaction("charge").await, declined);
}

#[tokio::test]
async fn a_lost_reply_is_found_by_key() {
    let bed = Bed::new();
    let lost = bed.charge("charge", catalogue::TOKEN_LOST_REPLY).await;
    assert!(matches!(lost, Err(CallError::Unknown(_))));
    let TransactionState::Succeeded(charged) = bed.transaction("charge").await else { panic!() };
    assert_eq!(bed.charge("charge", catalogue::TOKEN_LOST_REPLY).await.unwrap(), charged);
    assert_eq!(bed.ledger().charges.len(), 1);
}

#[tokio::test]
async fn a_closed_key_takes_no_money() {
    let bed = Bed::new();
    let close = async || bed.simulator.close_transaction(&ctx(), &bed.key("charge")).await.unwrap();
    assert_eq!(close().await, TransactionState::NotFound);
    assert_eq!(close().await, TransactionState::NotFound);
    assert_eq!(reason(bed.charge("charge", "tok_any").await), "TRANSACTION_CLOSED");
    assert_eq!(bed.transaction("charge").await, TransactionState::NotFound);
    let ledger = bed.ledger();
    assert_eq!((ledger.charges.len(), ledger.closed_charges.len()), (0, 1));
}

#[tokio::test]
async fn a_slow_charge_is_pending_and_happens_though_its_caller_has_left() {
    let bed = Bed::new();
    let delay = Duration::from_millis(500);
    bed.faults("payment.Charge", FaultSpec { delay, max_count: Some(1), ..FaultSpec::default() });
    let impatient = CallContext { timeout: Duration::from_millis(10), ..ctx() };
    let (amount, usd) = usd("1.00");
    let key = bed.key("charge");
    let charge = bed.simulator.charge(&impatient, &key, bed.order, amount, usd, "CARD", None);
    assert!(matches!(charge.await, Err(CallError::Unknown(_))));
    assert_eq!(bed.transaction("charge").await, TransactionState::Pending);
    let close = bed.simulator.close_transaction(&ctx(), &key).await.unwrap();
    assert_eq!(close, TransactionState::Pending);
    while bed.transaction("charge").await == TransactionState::Pending {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(bed.transaction("charge").await, TransactionState::Succeeded(_)));
    assert_eq!(bed.simulator.core.delayed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_slow_charge_that_fails_leaves_nothing_pending() {
    let bed = Bed::new();
    let delay = Duration::from_millis(10);
    bed.faults("payment.Charge", FaultSpec { error_rate: 1.0, delay, ..FaultSpec::default() });
    assert!(matches!(bed.charge("charge", "tok_any").await, Err(CallError::Unknown(_))));
    assert_eq!(bed.transaction("charge").await, TransactionState::NotFound);
}

#[tokio::test]
async fn faults_do_what_they_say() {
    let bed = Bed::new();
    let certain = FaultSpec { max_count: Some(1), ..FaultSpec::default() };
    bed.faults("inventory.Reserve", FaultSpec { lose_reply_rate: 1.0, ..certain.clone() });
    assert!(matches!(bed.reserve("lost", 1).await, Err(CallError::Unknown(_))));
    assert_eq!(bed.rare(), (2, 1, 0));
    bed.faults("inventory.Reserve", FaultSpec { error_rate: 1.0, ..certain.clone() });
    assert!(matches!(bed.reserve("error", 1).await, Err(CallError::Unknown(_))));
    bed.faults("inventory.*", FaultSpec { unavailable: true, ..FaultSpec::default() });
    bed.faults("inventory.Reserve", FaultSpec { unavailable_rate: 1.0, ..certain.clone() });
    assert!(matches!(bed.reserve("down", 1).await, Err(CallError::Unavailable(_))));
    bed.faults("inventory.Reserve", FaultSpec { out_of_stock_rate: 1.0, ..certain.clone() });
    assert_eq!(reason(bed.reserve("short", 1).await), "OUT_OF_STOCK");
    assert_eq!(bed.rare(), (2, 1, 0));
    bed.faults("inventory.Reserve", FaultSpec { duplicate_rate: 1.0, ..certain.clone() });
    bed.reserve("twice", 1).await.unwrap();
    assert_eq!(bed.rare(), (1, 2, 0));
    assert_eq!(bed.ledger().keys.last().map(|calls| calls.received), Some(2));
    bed.faults("payment.Charge", FaultSpec { decline_rate: 1.0, ..certain });
    assert_eq!(reason(bed.charge("charge", "tok_any").await), "CARD_DECLINED");
    let unreachable = bed.charge("other", catalogue::TOKEN_UNAVAILABLE).await;
    assert!(matches!(unreachable, Err(CallError::Unavailable(_))));
    assert!(bed.simulator.set_faults(true, Vec::new()).is_ok());
    bed.reserve("free", 1).await.unwrap();
}

#[tokio::test]
async fn labels_are_made_and_voided_by_key() {
    let bed = Bed::new();
    let label = async |step: &str| {
        bed.simulator.label_for(&ctx(), &bed.key(step), bed.order, "STANDARD", &[rare(1)]).await
    };
    let first = label("label").await.unwrap();
    assert_eq!(label("label").await.unwrap(), first);
    bed.simulator.void_label(&ctx(), &bed.key("label")).await.unwrap();
    bed.simulator.void_label(&ctx(), &bed.key("label")).await.unwrap();
    assert_eq!(reason(label("label").await), "LABEL_VOIDED");
    bed.simulator.void_label(&ctx(), &bed.key("never")).await.unwrap();
    assert_eq!(reason(label("never").await), "LABEL_VOIDED");
    let states: Vec<_> = bed.ledger().labels.iter().map(|one| one.state).collect();
    assert_eq!(states, [LabelState::Voided, LabelState::Tombstone]);
}

#[tokio::test]
async fn products_and_users_are_those_of_the_catalogue() {
    let bed = Bed::new();
    let sample =
        ProductRef { product_id: catalogue::SAMPLE_PRODUCT, variant_id: Some(catalogue::SAMPLE_VARIANT) };
    let without = ProductRef { variant_id: None, ..sample };
    let wrong = ProductRef { variant_id: Some(catalogue::SAMPLE_VARIANT), ..product(1) };
    let refs = [sample, without, wrong, product(1), product(2)];
    let found = bed.simulator.batch_get(&ctx(), &refs).await.unwrap();
    let found: Vec<_> = found.iter().map(|product| product.sku.as_str()).collect();
    assert_eq!(found, ["PROD-001-VAR-002", "BOOK-001"]);
    assert!(bed.simulator.get_user(&ctx(), catalogue::SAMPLE_USER).await.unwrap().active);
    assert!(!bed.simulator.get_user(&ctx(), catalogue::INACTIVE_USER).await.unwrap().active);
    assert_eq!(reason(bed.simulator.get_user(&ctx(), catalogue::user(21)).await), "USER_NOT_FOUND");
    let validate =
        async |code| bed.simulator.validate_postal_code(&ctx(), catalogue::SAMPLE_USER, code).await.unwrap();
    assert!(validate("10001").await.is_empty());
    assert_eq!(validate("00000").await[0].message, "no such postal code");
}

#[tokio::test]
async fn a_full_ledger_refuses_new_records_but_serves_known_keys() {
    let bed = Bed::with(SimConfig { max_records: 2, ..SimConfig::default() });
    let id = bed.reserve("reserve", 1).await.unwrap();
    assert_eq!(bed.reserve("reserve", 1).await.unwrap(), id);
    assert!(matches!(bed.reserve("second", 1).await, Err(CallError::Unavailable(_))));
    assert_eq!(bed.rare(), (2, 1, 0));
}

#[tokio::test]
async fn pages_hold_every_order_once() {
    let bed = Bed::new();
    for n in 1..=25u128 {
        let order = OrderId(Uuid::from_u128(n << 64));
        let key = CallKey::new(order, 1, "reserve", 1);
        let lines = [StockLine { product: product(1), quantity: 1 }];
        bed.simulator.reserve(&ctx(), &key, order, &lines, TTL).await.unwrap();
    }
    let (mut from, mut seen) = (Some(0), 0);
    while let Some(start) = from {
        let page = bed.simulator.ledger_page(start, 10);
        seen += page.orders.len();
        from = page.next;
    }
    assert_eq!(seen, 25);
}

/// Whatever is asked in whatever order with whatever luck: every unit is in one place, and the reservations say where.
#[tokio::test]
async fn units_are_never_lost_nor_made() {
    for seed in 0..20u64 {
        let bed = Bed::new();
        let unlucky = FaultSpec {
            error_rate: 0.1,
            lose_reply_rate: 0.2,
            duplicate_rate: 0.2,
            unavailable_rate: 0.1,
            seed,
            ..FaultSpec::default()
        };
        bed.faults("inventory.*", unlucky);
        let mut dice = seed;
        let mut roll = move |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        for _ in 0..300 {
            let (step, other) = (format!("step{}", roll(8)), bed.key(&format!("other{}", roll(8))));
            let ids: Vec<_> = bed.ledger().reservations.iter().map(|one| one.id.clone()).collect();
            let id = ids.get(roll(8) as usize).cloned().unwrap_or_default();
            let _ = match roll(6) {
                0 | 1 => bed.reserve(&step, 1 + roll(2) as u32).await.map(drop),
                2 => bed.simulator.commit(&ctx(), &other, &id).await,
                3 => {
                    let target = ReleaseTarget::ReserveKey(bed.key(&step));
                    bed.simulator.release(&ctx(), &other, &target).await.map(drop)
                }
                4 => bed.simulator.restock(&ctx(), &other, &id, &[rare(1)]).await,
                _ => {
                    bed.seconds.fetch_add(roll(200) as i64, Ordering::SeqCst);
                    Ok(())
                }
            };
            let (available, reserved, committed) = bed.rare();
            assert_eq!(available + reserved + committed, 3, "seed {seed}");
            let ledger = bed.ledger();
            let sum = |state| {
                let with = ledger.reservations.iter().filter(|one| one.state == state);
                with.flat_map(|one| &one.lines).map(|line| line.quantity).sum::<u64>()
            };
            let restocked = ledger.restocks.iter().flat_map(|one| &one.lines).map(|line| line.quantity);
            assert_eq!(sum(ReservationState::Held), reserved, "seed {seed}");
            assert_eq!(sum(ReservationState::Committed), committed + restocked.sum::<u64>(), "seed {seed}");
        }
    }
}
