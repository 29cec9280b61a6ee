//! What a simulator with a journal remembers, and what it does when the journal fails it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::DateTime;
use rust_decimal::Decimal;
use tempfile::TempDir;

use super::catalogue::{RARE_PRODUCT, product};
use super::*;
use crate::domain::ids::CallKey;
use crate::domain::item::StockLine;
use crate::domain::money::Currency;
use crate::ports::inventory::{Inventory, ReleaseTarget};
use crate::ports::payment::{PaymentToken, Payments};

/// A folder for a journal, and a clock that is set by hand.
struct Desk {
    folder: TempDir,
    seconds: Arc<AtomicI64>,
}

impl Desk {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), seconds: Arc::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("made/orders.db.simulator.jsonl")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    fn clock(&self) -> Clock {
        let hand = self.seconds.clone();
        Arc::new(move || DateTime::from_timestamp(hand.load(Ordering::SeqCst), 0).unwrap())
    }

    fn try_open(&self, config: SimConfig) -> Result<Simulator, SimError> {
        Simulator::open(config, self.clock(), Some(self.path()))
    }

    fn open(&self) -> Simulator {
        self.try_open(SimConfig::default()).unwrap()
    }

    /// What opening says is wrong with a file of this content; the file must stay as it is.
    fn refusal(&self, content: &str) -> String {
        std::fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        std::fs::write(self.path(), content).unwrap();
        let error = self.try_open(SimConfig::default()).unwrap_err().to_string();
        assert_eq!(self.text(), content);
        error
    }
}

fn ctx() -> CallContext {
    CallContext { request_id: "r".to_owned(), trace: None, caller: None, timeout: Duration::from_secs(5) }
}

/// One call, by numbers: what, for which order, with which key, aimed at what.
#[derive(Clone, Copy, Debug)]
struct Act {
    what: u64,
    order: u64,
    step: u64,
    target: u64,
}

impl Act {
    /// Every kind of effect once, none in the way of another.
    fn each() -> Vec<Self> {
        let act = |what, order, step, target| Self { what, order, step, target };
        vec![
            act(0, 1, 1, 0), // reserve
            act(2, 1, 2, 1), // commit it
            act(4, 1, 3, 1), // restock of it
            act(0, 2, 1, 0),
            act(3, 2, 2, 1),  // release of it
            act(3, 3, 1, 2),  // release of what never came
            act(5, 1, 1, 0),  // charge
            act(8, 1, 2, 1),  // refund of it
            act(6, 2, 1, 0),  // declined charge
            act(7, 3, 1, 0),  // close
            act(9, 1, 1, 0),  // label
            act(10, 1, 1, 0), // void it
            act(10, 2, 1, 0), // void of what never came
            act(11, 0, 5, 0), // set stock
        ]
    }

    fn key(order: OrderId, step: u64) -> CallKey {
        CallKey::new(order, 1, "step", u32::try_from(step).unwrap())
    }

    /// Calls, and tells the answer as text.
    async fn on(self, sim: &Simulator) -> String {
        let order = OrderId(Uuid::from_u128(u128::from(self.order) << 70 | 7));
        let (key, target) = (Self::key(order, self.step), Self::key(order, self.target));
        let id =
            |prefix: &str, purpose: &str| format!("{prefix}{}", records::derived(purpose, &target).simple());
        let (reservation, transaction) = (id("rsv_", "reserve"), id("txn_", "charge"));
        let line = StockLine { product: product(RARE_PRODUCT), quantity: 1 };
        let other = StockLine { product: product(1), quantity: 5 };
        let (amount, usd) = (Decimal::new(1250, 2), Currency::from_code("USD").unwrap());
        let ctx = ctx();
        match self.what {
            0 | 1 => {
                let ttl = Duration::from_secs(60);
                format!("{:?}", sim.reserve(&ctx, &key, order, &[line, other], ttl).await)
            }
            2 => format!("{:?}", sim.commit(&ctx, &key, &reservation).await),
            3 => {
                let target = match self.target % 2 {
                    0 => ReleaseTarget::ReserveKey(target.clone()),
                    _ => ReleaseTarget::Reservation(reservation),
                };
                format!("{:?}", sim.release(&ctx, &key, &target).await)
            }
            4 => format!("{:?}", sim.restock(&ctx, &key, &reservation, &[line]).await),
            5 | 6 => {
                let token = PaymentToken::new(if self.what == 5 { "tok" } else { "tok_declined" });
                format!("{:?}", sim.charge(&ctx, &key, order, amount, usd, "CARD", Some(&token)).await)
            }
            7 => format!("{:?}", sim.close_transaction(&ctx, &key).await),
            8 => format!("{:?}", sim.refund(&ctx, &key, &transaction, Decimal::new(501, 2), usd).await),
            9 => format!("{:?}", sim.label_for(&ctx, &key, order, "EXPRESS", &[line]).await),
            10 => {
                let voided = crate::ports::shipping::Shipping::void_label(sim, &ctx, &key).await;
                format!("{voided:?}")
            }
            _ => format!("{:?}", sim.set_stock(product(RARE_PRODUCT), self.step)),
        }
    }
}

/// All orders in full; without keys when they are not to be compared, and then without orders that have nothing else.
fn everything(sim: &Simulator, with_keys: bool) -> (Vec<OrderLedger>, Vec<StockTotals>) {
    let (mut orders, mut from) = (Vec::new(), Some(0));
    while let Some(start) = from {
        let page = sim.ledger_page(start, 1000);
        orders.extend(page.orders);
        from = page.next;
    }
    if !with_keys {
        orders.iter_mut().for_each(|order| order.keys.clear());
        orders.retain(|order| !order.is_empty());
    }
    orders.sort_by_key(|order| order.order);
    (orders, sim.stock())
}

/// A simulator that is opened again and again cannot be told from one that never was, whatever happens to both.
#[tokio::test]
async fn a_reopened_simulator_is_the_one_that_was_closed() {
    for seed in 0..6u64 {
        let desk = Desk::new();
        let twin = Simulator::new(SimConfig::default(), desk.clock());
        let mut dice = seed;
        let mut roll = move |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        let (mut effects, mut latest) = (0, 0);
        for life in 0..10u64 {
            // Set back within a life only: the journal knows what time it was at the last effect, not after it.
            desk.seconds.store(latest, Ordering::SeqCst);
            let sim = desk.open();
            assert!(everything(&sim, false) == everything(&twin, false), "seed {seed}, life {life}");
            let unlucky = FaultSpec {
                error_rate: 0.1,
                lose_reply_rate: 0.1,
                duplicate_rate: 0.1,
                seed: roll(1_000),
                ..FaultSpec::default()
            };
            for one in [&sim, &twin] {
                one.set_faults(true, vec![(FaultTarget::All, unlucky.clone())]).unwrap();
            }
            for _ in 0..150 {
                let act = Act { what: roll(12), order: roll(4), step: roll(12), target: roll(12) };
                assert_eq!(act.on(&sim).await, act.on(&twin).await, "seed {seed}, life {life}: {act:?}");
                // Mostly forward; now and then the clock is set back.
                desk.seconds.fetch_add([0, 1, 5, 15, -20][roll(5) as usize], Ordering::SeqCst);
                latest = latest.max(desk.seconds.load(Ordering::SeqCst));
            }
            assert!(everything(&sim, false) == everything(&twin, false), "seed {seed}, life {life}");
            let lines = desk.text().lines().count();
            assert!(lines > effects, "nothing happened in life {life} of seed {seed}");
            effects = lines;
        }
    }
}

#[tokio::test]
async fn every_effect_is_one_line_and_repeats_are_none() {
    let desk = Desk::new();
    let sim = desk.open();
    let mut answers = Vec::new();
    for (index, act) in Act::each().into_iter().enumerate() {
        answers.push(act.on(&sim).await);
        assert_eq!(desk.text().lines().count(), index + 2, "{act:?}: {answers:?}");
    }
    let (text, before) = (desk.text(), everything(&sim, true));
    drop(sim);
    let sim = desk.open();
    // Each key was received once, so here even the keys come back.
    assert_eq!(everything(&sim, true), before);
    // What was taken back since answers so.
    let changed = |act: &Act| matches!((act.what, act.order), (0, 2) | (9, 1)) || act.what == 11;
    for (act, answer) in Act::each().into_iter().zip(answers).filter(|(act, _)| !changed(act)) {
        assert_eq!(act.on(&sim).await, answer, "{act:?}");
    }
    assert_eq!(desk.text(), text);
}

/// Journals outlive the build that wrote them: what is written today is what was written when the format was set.
#[tokio::test]
async fn the_format_is_kept() {
    let desk = Desk::new();
    let sim = desk.open();
    for act in Act::each() {
        act.on(&sim).await;
    }
    assert_eq!(desk.text(), include_str!("journal_v1.jsonl"));
}

#[tokio::test]
async fn what_runs_out_while_nobody_is_there_is_on_sale_again() {
    let desk = Desk::new();
    let sim = desk.open();
    let full = sim.stock();
    let reserve = Act { what: 0, order: 1, step: 1, target: 0 };
    assert!(reserve.on(&sim).await.starts_with("Ok"));
    drop(sim);
    desk.seconds.store(59, Ordering::SeqCst);
    assert_ne!(desk.open().stock(), full);
    desk.seconds.store(60, Ordering::SeqCst);
    let sim = desk.open();
    assert_eq!(sim.stock(), full);
    assert!(reserve.on(&sim).await.contains("RESERVATION_EXPIRED"));
}

#[tokio::test]
async fn a_repeat_renews_what_is_held_and_nothing_else() {
    let desk = Desk::new();
    let mut sim = desk.open();
    let full = sim.stock();
    let reserve = Act { what: 0, order: 1, step: 1, target: 0 };
    // Held for a minute each time; reopened in between, so the journal tells it too.
    let first = reserve.on(&sim).await;
    for seconds in [40, 80, 120] {
        drop(sim);
        desk.seconds.store(seconds, Ordering::SeqCst);
        sim = desk.open();
        let lines = desk.text().lines().count();
        for _ in 0..2 {
            assert_eq!(reserve.on(&sim).await, first);
        }
        assert_eq!(desk.text().lines().count(), lines + 1, "once a second at most");
    }
    assert_eq!(sim.ledger_page(0, 9).orders[0].reservations.len(), 1);
    desk.seconds.store(179, Ordering::SeqCst);
    assert_ne!(sim.stock(), full);
    desk.seconds.store(180, Ordering::SeqCst);
    assert_eq!(sim.stock(), full);
    assert!(reserve.on(&sim).await.contains("RESERVATION_EXPIRED"));
    // What is sold is answered as it stands.
    let (again, sell) = (Act { step: 4, ..reserve }, Act { what: 2, step: 5, target: 4, ..reserve });
    let second = again.on(&sim).await;
    sell.on(&sim).await;
    let lines = desk.text();
    desk.seconds.store(999, Ordering::SeqCst);
    assert_eq!((again.on(&sim).await, desk.text()), (second, lines));
}

#[tokio::test]
async fn a_line_that_was_cut_off_is_cut_away() {
    let desk = Desk::new();
    let sim = desk.open();
    Act::each()[0].on(&sim).await;
    let before = everything(&sim, true);
    drop(sim);
    let whole = desk.text();
    let append = |text: &str| {
        OpenOptions::new().append(true).open(desk.path()).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append("{\"at\":\"1970-01-01T00:00:00Z\",\"entry\":{\"call\":");
    let sim = desk.open();
    assert_eq!(everything(&sim, true), before);
    Act::each()[1].on(&sim).await;
    let after = everything(&sim, true);
    sim.core.ledger().journal_mut().tear();
    assert!(!desk.text().ends_with('\n'));
    Act::each()[2].on(&sim).await;
    assert_ne!(everything(&sim, true), after);
    let after = everything(&sim, true);
    drop(sim);
    assert!(desk.text().starts_with(&whole) && desk.text().lines().count() == 4);
    assert_eq!(everything(&desk.open(), true), after);
    // A crash during the very first write.
    std::fs::write(desk.path(), &whole[..10]).unwrap();
    drop(desk.open());
    assert_eq!(desk.text().lines().next(), whole.lines().next());
    assert_eq!(desk.text().lines().count(), 1);
}

#[test]
fn files_that_are_not_a_whole_journal_are_refused_and_left_alone() {
    let desk = Desk::new();
    for foreign in ["hello", "hello\nworld\n", "{\"format\":\"x\",\"version\":1}\n", "{}\n", "\n", "{\"forms"]
    {
        let error = desk.refusal(foreign);
        assert!(error.contains("is not a journal of the simulator; move it away"), "{error}");
    }
    let header = include_str!("journal_v1.jsonl").lines().next().unwrap();
    let error = desk.refusal(&format!("{}\n", header.replace(":1}", ":2}")));
    assert!(error.contains("has format 2, this program knows 1; delete or move"), "{error}");
    let unfit = r#"{"at":"1970-01-01T00:00:00Z","entry":{"call":{"order":"00000000-0000-0000-0000-000000000001","key":"k","effect":{"commit":{"reservation_id":"rsv_1"}}}}}"#;
    let unknown = r#"{"at":"1970-01-01T00:00:00Z","entry":{"else":{}}}"#;
    for line in ["", "{}", "nonsense", unfit, unknown, &"x".repeat(70_000)] {
        let error = desk.refusal(&format!("{header}\n{line}\n"));
        assert!(error.starts_with("line 2 of the simulator's journal"), "{error}");
        assert!(error.ends_with("delete or move the file to begin with a full stock"), "{error}");
    }
    let device = Simulator::open(SimConfig::default(), desk.clock(), Some("/dev/zero".into()));
    assert!(matches!(device, Err(SimError::Foreign { .. })));
}

#[tokio::test]
async fn a_journal_has_one_writer() {
    let desk = Desk::new();
    let first = desk.open();
    let error = desk.try_open(SimConfig::default()).unwrap_err();
    assert!(error.to_string().contains("is in use by another process; stop that one"), "{error}");
    first.close();
    let second = desk.open();
    let act = Act::each()[0];
    assert!(act.on(&first).await.contains("Unavailable(\"the simulator was closed\")"));
    assert!(act.on(&second).await.starts_with("Ok"));
}

#[tokio::test]
async fn when_the_disk_is_full_nothing_happens() {
    let desk = Desk::new();
    let sim = desk.open();
    for act in Act::each() {
        let before = everything(&sim, true);
        let full = OpenOptions::new().write(true).open(Path::new("/dev/full")).unwrap();
        let disk: File = sim.core.ledger().journal_mut().redirect(full);
        for _ in 0..2 {
            let answer = act.on(&sim).await;
            assert!(
                answer.contains("Unavailable") && answer.contains("cannot be written"),
                "{act:?}: {answer}"
            );
            assert_eq!(everything(&sim, true), before, "{act:?}");
        }
        sim.core.ledger().journal_mut().redirect(disk);
        let answer = act.on(&sim).await;
        assert!(!answer.contains("Unavailable"), "{act:?}: {answer}");
    }
    let before = everything(&sim, true);
    drop(sim);
    assert_eq!(everything(&desk.open(), true), before);
}

#[tokio::test]
async fn a_delayed_charge_that_cannot_be_written_is_no_longer_pending() {
    let desk = Desk::new();
    let sim = desk.open();
    let full = OpenOptions::new().write(true).open(Path::new("/dev/full")).unwrap();
    let slow = FaultSpec { delay: Duration::from_millis(10), ..FaultSpec::default() };
    sim.set_faults(true, vec![(FaultTarget::Method(Method::Charge), slow)]).unwrap();
    let charge = Act { what: 5, order: 1, step: 1, target: 0 };
    let disk = sim.core.ledger().journal_mut().redirect(full);
    assert!(charge.on(&sim).await.contains("Unavailable"));
    assert!(everything(&sim, false).0.is_empty());
    sim.core.ledger().journal_mut().redirect(disk);
    assert!(charge.on(&sim).await.starts_with("Ok"));
    let before = everything(&sim, true);
    drop(sim);
    assert_eq!(everything(&desk.open(), true), before);
}

#[tokio::test]
async fn a_journal_is_bounded_but_never_cut() {
    let desk = Desk::new();
    let small = SimConfig { max_records: 3, ..SimConfig::default() };
    let set = |step| Act { what: 11, order: 0, step, target: 0 };
    let sim = desk.try_open(small).unwrap();
    for step in 1..=3 {
        assert!(set(step).on(&sim).await.starts_with("Ok"));
    }
    assert!(set(4).on(&sim).await.contains("journal is full"));
    drop(sim);
    let smaller = SimConfig { max_records: 1, ..SimConfig::default() };
    let sim = desk.try_open(smaller).unwrap();
    assert!(set(5).on(&sim).await.contains("journal is full"));
    drop(sim);
    assert!(set(5).on(&desk.open()).await.starts_with("Ok"));
    assert_eq!(desk.text().lines().count(), 5);
}
