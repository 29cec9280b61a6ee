//! The store of one order as a model, and what must hold after every commit and at the end of every run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use order_service::domain::Timestamp;
use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::evolve::evolve;
use order_service::domain::ids::CallKey;
use order_service::domain::order::{LabelState, Order, Reservation};
use order_service::domain::payment::{EntryKind, in_doubt, money_may_be_here, payment_status, settled};
use order_service::domain::react::{Change, CouponChange};
use order_service::domain::saga::{Direction, SagaMove, SagaProgress, StepCall};
use order_service::domain::status::{CancelReason, OrderStatus};
use order_service::domain::stock;
use order_service::domain::verify;
use rust_decimal::Decimal;

use super::world::{Hold, World};
use super::{dawn, policy};

/// No saga stands still for longer: calls are waited for, and a process that died is back, within seconds. It may die
/// several times before it gets to store anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says which law is broken, and how.
pub type Law = Result<(), String>;

/// Fails with the text unless the condition holds.
macro_rules! law {
    ($holds:expr, $($what:tt)+) => {
        if !$holds { return Err(format!($($what)+)); }
    };
}
pub(crate) use law;

/// What is durable: the last committed order and saga, and every event.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The order.
    pub order: Option<Order>,
    /// Its saga.
    pub saga: Option<SagaProgress>,
    /// Its history.
    pub events: Vec<RecordedEvent>,
    /// Uses of the coupon that are counted.
    pub coupon_uses: i32,
}

impl Store {
    /// Stores a change, if it keeps every law that one commit can break.
    pub fn commit(&mut self, change: &Change, world: &World, now: Timestamp) -> Law {
        self.check(change, world, now)?;
        match change.coupon {
            Some(CouponChange::Claim(_)) => self.coupon_uses += 1,
            Some(CouponChange::Release(_)) => self.coupon_uses -= 1,
            None => {}
        }
        self.order = Some(change.order.clone());
        self.saga.clone_from(&change.saga);
        self.events.extend(change.events.iter().cloned());
        self.verify(now)
    }

    /// What the production check says of what is stored: it must never raise a false alarm.
    pub fn verify(&self, now: Timestamp) -> Law {
        let Some(order) = &self.order else { return Ok(()) };
        let found = verify::check(order, self.saga.as_ref(), &self.events, now, PATIENCE);
        law!(found.is_empty(), "ops verify: {found:?}");
        Ok(())
    }

    fn check(&self, change: &Change, world: &World, now: Timestamp) -> Law {
        let order = &change.order;
        let before = self.order.as_ref();
        let version = before.map_or(0, |order| order.version);
        law!(order.version == version + 1, "I12: version {} after {version}", order.version);
        law!(
            !change.events.is_empty() || change.saga != self.saga || change.request.is_some(),
            "a commit of nothing"
        );
        let mut last = self.events.last().map_or((0, dawn()), |event| (event.seq, event.at));
        for event in &change.events {
            law!(event.seq == last.0 + 1, "I7: event {} after {}", event.seq, last.0);
            law!(event.at >= last.1, "I7: time goes back at event {}", event.seq);
            law!(event.version == order.version, "I7: version {} in commit {}", event.version, order.version);
            last = (event.seq, event.at);
        }
        law!(
            order.event_seq == last.0,
            "I7: the order is at event {}, history at {}",
            order.event_seq,
            last.0
        );
        let mut status = before.map(|order| order.status);
        for event in &change.events {
            match &event.event {
                OrderEvent::OrderCreated { .. } => status = Some(OrderStatus::Pending),
                OrderEvent::StatusChanged { from, to, .. } => {
                    law!(status == Some(*from), "I7: {from} -> {to} from {status:?}");
                    law!(from.may_become(*to), "I7: {from} -> {to} is not in the table");
                    law!(from.is_terminal() == (*to == *from), "I8: {from} -> {to} leaves an end");
                    status = Some(*to);
                    self.check_arrival(*to, order, world)?;
                }
                _ => {}
            }
        }
        law!(status == Some(order.status), "I7: status {} is not its history's", order.status);
        law!(order.adds_up(), "I10: {:?}", order.totals);
        law!(
            order.payment_status == payment_status(&order.payments, order.totals.total, order.status),
            "payment status {} is not the ledger's",
            order.payment_status
        );
        if let Some(before) = before {
            law!(order.payments.starts_with(&before.payments), "the ledger is not append-only");
            law!(order.requests.starts_with(&before.requests), "I1: a request id is forgotten");
            let mut replayed = before.clone();
            for event in &change.events {
                evolve(&mut replayed, &event.event, event.at);
            }
            replayed.version = order.version;
            replayed.event_seq = order.event_seq;
            replayed.updated_at = order.updated_at;
            replayed.requests = order.requests.clone();
            replayed.attention = replayed.calls_for_a_person(change.saga.as_ref());
            law!(replayed == *order, "the events do not make the order");
        }
        self.check_saga(change, now)
    }

    /// What must be true at the moment a status is reached.
    fn check_arrival(&self, to: OrderStatus, order: &Order, world: &World) -> Law {
        match to {
            OrderStatus::Confirmed => {
                // A reservation may have run out; nothing but the commit of the stock can find that out.
                // A saga that ran ahead has committed it by the time this is stored.
                let full = world
                    .holds
                    .iter()
                    .any(|hold| matches!(hold, Hold::Held(_) | Hold::Expired | Hold::Committed));
                law!(full, "I6: CONFIRMED without a reservation: {:?}", world.holds);
                law!(world.captured() == order.totals.total, "I6: CONFIRMED and paid {}", world.captured());
            }
            OrderStatus::Cancelled => {
                law!(!money_may_be_here(&order.payments), "I3: CANCELLED while money may be here");
                law!(world.captured() == world.refunded(), "I3: CANCELLED with money kept");
                let back = !stock::reservations(order).any(Reservation::is_live);
                law!(back, "I5: CANCELLED with stock {}", order.reservation.state);
            }
            _ => {}
        }
        Ok(())
    }

    fn check_saga(&self, change: &Change, now: Timestamp) -> Law {
        let running = change.saga.as_ref().filter(|saga| !saga.settled);
        let Some(saga) = running else {
            law!(change.act == SagaMove::Settled, "no saga runs, but {:?}", change.act);
            law!(change.saga.as_ref().is_none_or(|saga| saga.token.is_none()), "a token outlives its saga");
            return Ok(());
        };
        law!(change.act != SagaMove::Settled, "saga {} runs and does nothing", saga.no);
        law!(saga.no == change.order.saga_no, "saga {} of {}", saga.no, change.order.saga_no);
        let money = settled(&change.order.payments, EntryKind::Charge) > Decimal::ZERO;
        let needs_token = saga.direction == Direction::Forward && !money;
        law!(needs_token || saga.token.is_none(), "a token is kept for nothing");
        if let Some(at) = saga.next_at {
            law!(at.timestamp_subsec_nanos() % 1000 == 0, "{at} is not in microseconds");
            let most = policy().retry_max * 60;
            law!(at <= now + chrono::TimeDelta::from_std(most).unwrap(), "a wait until {at}");
        }
        let doubt = in_doubt(&change.order.payments, EntryKind::Charge).is_some();
        for event in &change.events {
            if let OrderEvent::SagaTurned { reason: CancelReason::DependencyUnavailable, .. } = event.event {
                law!(!doubt, "a charge in doubt is given up because tries ran out");
            }
        }
        let pending = change.order.status == OrderStatus::Pending;
        law!(
            !(pending && saga.turn.is_some() && money_may_be_here(&change.order.payments)),
            "a cancel is taken while money may be here, and the order looks untouched"
        );
        let patience = policy().attention_after_tries;
        law!(
            saga.attention.is_some() || saga.direction == Direction::Forward || saga.tries < patience,
            "I9: {} tries and nobody is called",
            saga.tries
        );
        let told = self.events.iter().chain(&change.events).any(
            |event| matches!(&event.event, OrderEvent::AttentionNeeded { saga: no, .. } if *no == saga.no),
        );
        law!(saga.attention.is_none() || told, "I9: a flag without an event");
        Ok(())
    }

    /// What went back by wish, told by the history alone.
    pub fn wished_back(&self) -> Decimal {
        let Some(order) = &self.order else { return Decimal::ZERO };
        let granted: BTreeSet<u32> = self
            .events
            .iter()
            .filter_map(|event| match &event.event {
                OrderEvent::RefundGranted { saga, .. } => Some(*saga),
                _ => None,
            })
            .collect();
        // A wish is carried out by the first attempts of its saga's refunds; what else that saga gives back is the rest.
        let of_wish = |key: &CallKey| {
            let text = key.as_str().strip_prefix(&format!("{}/", order.id)).unwrap_or_default();
            let mut parts = text.split('/');
            let saga = parts.next().and_then(|saga| saga.parse().ok());
            let step = parts.next().unwrap_or_default().trim_end_matches(|c: char| c.is_ascii_digit());
            saga.is_some_and(|saga| granted.contains(&saga)) && step == "refund"
        };
        let mut asked: BTreeMap<&CallKey, Decimal> = BTreeMap::new();
        let mut back = Decimal::ZERO;
        for event in &self.events {
            match &event.event {
                OrderEvent::RefundRequested { key, amount, .. } => drop(asked.insert(key, *amount)),
                OrderEvent::Refunded { key, .. } if of_wish(key) => back += asked[key],
                _ => {}
            }
        }
        back
    }

    /// What must hold when nothing moves any more.
    pub fn at_rest(&self, world: &World, cancelled: bool) -> Law {
        let Some(order) = &self.order else { return Ok(()) };
        let running = self.saga.as_ref().filter(|saga| !saga.settled);
        let twice = world.takings().into_iter().find(|(_, count)| *count > 1);
        law!(twice.is_none(), "I4: more than one charge took money: {twice:?}");
        law!(
            world.refunded() <= world.captured(),
            "I3: refunded {} of {}",
            world.refunded(),
            world.captured()
        );
        for (product, initial) in &world.initial {
            let out = world.holds.iter().zip(&world.out);
            let out = out.filter(|(hold, _)| matches!(hold, Hold::Held(_) | Hold::Committed));
            let out = out.flat_map(|(_, lines)| lines).filter(|line| line.product == *product);
            let out: i64 = out.map(|line| i64::from(line.quantity)).sum();
            law!(world.available[product] + out == *initial, "I5: stock does not add up");
        }
        let ends = self
            .events
            .iter()
            .filter(|event| matches!(&event.event, OrderEvent::StatusChanged { to, .. } if to.is_terminal()));
        law!(ends.count() <= 1, "I8: more than one end");
        if let Some(saga) = running {
            law!(saga.attention.is_some(), "I9: saga {} neither ends nor asks for help: {saga:?}", saga.no);
            return Ok(());
        }
        law!(!cancelled || order.status == OrderStatus::Cancelled, "I1: cancelled, yet {}", order.status);
        let ended = matches!(order.status, OrderStatus::Cancelled | OrderStatus::Returned);
        let owed = if ended { Decimal::ZERO } else { order.totals.total - self.wished_back() };
        let kept = world.captured() - world.refunded();
        law!(kept == owed, "I3: {} keeps {kept} of {}", order.status, order.totals.total);
        let books = settled(&order.payments, EntryKind::Charge) - settled(&order.payments, EntryKind::Refund);
        law!(books == kept, "I3: the books say {books}, the payment side {kept}");
        let held = world.holds.iter().filter(|hold| matches!(hold, Hold::Held(_))).count();
        law!(held == 0, "I5: stock is held for an order that is {}", order.status);
        let (sold, needs) = (world.sold(), stock::needs(&order.items));
        let due = if ended { stock::Units::new() } else { needs };
        law!(sold == due, "I5: {} sold {sold:?} for {due:?}", order.status);
        let labels = world.labels.values().filter(|live| **live).count();
        let made = matches!(
            order.status,
            OrderStatus::Processing | OrderStatus::Shipped | OrderStatus::Delivered | OrderStatus::Returned
        );
        law!((labels > 0) == made, "{} with {labels} labels", order.status);
        let live = order
            .shipments
            .iter()
            .filter(|shipment| shipment.state == LabelState::Created && shipment.key.is_some());
        law!(live.count() == labels, "{labels} labels, and the order tells of others");
        let uses = i32::from(order.coupon_code.is_some() && order.status != OrderStatus::Cancelled);
        law!(self.coupon_uses == uses, "the coupon counts {} uses", self.coupon_uses);
        Ok(())
    }
}

/// The calls that were sent: keys name one call each, and `fresh` says the truth.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    by_key: BTreeMap<CallKey, StepCall>,
    arrived: BTreeSet<CallKey>,
    /// How many were sent.
    pub sent: usize,
}

impl Calls {
    /// A call is about to be sent.
    pub fn send(&mut self, call: &StepCall) -> Law {
        self.sent += 1;
        // Asking about a charge and voiding a label carry the key of the call they are about.
        if matches!(call, StepCall::QueryCharge { .. } | StepCall::VoidLabel { .. }) {
            return Ok(());
        }
        if let StepCall::Reserve { key, fresh: true, .. } | StepCall::Charge { key, fresh: true, .. } = call {
            law!(!self.arrived.contains(key), "{key} was sent before, yet counts as fresh");
        }
        let plain = plain(call);
        // What surely never came may be something else the next time: an edit may lie between.
        if !self.arrived.contains(call.key()) {
            self.by_key.remove(call.key());
        }
        let first = self.by_key.entry(call.key().clone()).or_insert_with(|| plain.clone());
        law!(*first == plain, "I2: one key for {first:?} and {plain:?}");
        Ok(())
    }

    /// A call may have arrived.
    pub fn may_arrive(&mut self, call: &StepCall) {
        self.arrived.insert(call.key().clone());
    }
}

/// The call without what may differ from try to try.
fn plain(call: &StepCall) -> StepCall {
    match call.clone() {
        StepCall::Reserve { key, lines, .. } => StepCall::Reserve { key, lines, fresh: false },
        StepCall::Charge { key, amount, .. } => StepCall::Charge { key, amount, fresh: false },
        other => other,
    }
}
