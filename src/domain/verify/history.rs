//! The events: a legal walk, and one that leads to what is stored.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::{Entered, Findings};
use crate::domain::amend;
use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::evolve::evolve;
use crate::domain::order::{LabelState, Order, Reservation, StockState};
use crate::domain::payment::{EntryKind, money_may_be_here, settled};
use crate::domain::refund;
use crate::domain::saga::{SagaKind, SagaProgress};
use crate::domain::status::{OrderStatus, PaymentStatus};
use crate::domain::stock;

/// The status that an event brings.
pub(super) fn entered(event: &RecordedEvent) -> Option<Entered> {
    let status = match &event.event {
        OrderEvent::OrderCreated { .. } => OrderStatus::Pending,
        OrderEvent::StatusChanged { to, .. } => *to,
        _ => return None,
    };
    Some(Entered { seq: event.seq, status, at: event.at })
}

/// I7, I8, I9, I12, and that the events make the order.
pub(super) fn check(
    findings: &mut Findings,
    order: &Order,
    saga: Option<&SagaProgress>,
    events: &[RecordedEvent],
) {
    if !order_of(findings, order, events) {
        // Whatever is missing would be missed again by everything below.
        return;
    }
    let mut walk = Walk { order: blank(order, events), running: None };
    for event in events {
        walk.step(findings, order, event);
    }
    let running = saga.map(|saga| (saga.no, saga.kind));
    findings.expect(walk.running == running, "I9", || {
        format!("{} by history, {} by record", named(walk.running), named(running))
    });
    if let Some(saga) = saga.filter(|saga| saga.attention.is_some()) {
        let told = events.iter().any(
            |event| matches!(&event.event, OrderEvent::AttentionNeeded { saga: no, .. } if *no == saga.no),
        );
        findings.expect(told, "I9", || format!("saga {} is flagged and history does not say so", saga.no));
    }
    compare(findings, order, &walk.order);
}

/// Sequence, time and versions. Whether nothing is missing.
fn order_of(findings: &mut Findings, order: &Order, events: &[RecordedEvent]) -> bool {
    let gap = events.iter().zip(1i64..).find(|(event, expected)| event.seq != *expected);
    findings.expect(gap.is_none(), "I7", || {
        gap.map(|(event, expected)| format!("event {} stands where {expected} should", event.seq))
            .unwrap_or_default()
    });
    let last = events.last().map_or(0, |event| event.seq);
    findings.expect(last == order.event_seq, "I12", || {
        format!("the order is at event {} and history ends at {last}", order.event_seq)
    });
    let created = matches!(events.first().map(|event| &event.event), Some(OrderEvent::OrderCreated { .. }));
    findings.expect(created, "I7", || String::from("history does not begin with the creation"));
    for pair in events.windows(2) {
        let [before, after] = pair else { continue };
        findings.expect(after.at >= before.at, "I7", || format!("time goes back at event {}", after.seq));
        findings.expect(after.version >= before.version, "I12", || {
            format!("the version goes back at event {}", after.seq)
        });
    }
    if let (Some(first), Some(last)) = (events.first(), events.last()) {
        let highest = events.iter().map(|event| event.version).max().unwrap_or_default();
        findings.expect(first.version == 1 && highest <= order.version, "I12", || {
            format!("events of versions {} to {highest} for an order at {}", first.version, order.version)
        });
        findings.expect(order.created_at == first.at && last.at <= order.updated_at, "I7", || {
            String::from("the times of the order are not those of its history")
        });
    }
    gap.is_none() && created && last == order.event_seq
}

/// The order before its first event.
fn blank(order: &Order, events: &[RecordedEvent]) -> Order {
    let (mut items, mut totals) = (order.items.to_vec(), order.totals);
    for event in events.iter().rev() {
        if let OrderEvent::ItemsChanged { changes, before, .. } = &event.event {
            (items, totals) = (amend::undo(&items, changes), *before);
        }
    }
    Order {
        items: Arc::new(items),
        totals,
        status: OrderStatus::Pending,
        payment_status: PaymentStatus::Pending,
        reservation: Reservation::none(),
        additions: Arc::default(),
        amendment: None,
        shipments: Arc::default(),
        payments: Arc::default(),
        grants: Arc::default(),
        hold: None,
        failures: Arc::default(),
        cancel_reason: None,
        saga_no: 0,
        completed_at: None,
        cancelled_at: None,
        ..order.clone()
    }
}

/// History told so far.
struct Walk {
    order: Order,
    running: Option<(u32, SagaKind)>,
}

impl Walk {
    fn step(&mut self, findings: &mut Findings, stored: &Order, event: &RecordedEvent) {
        let seq = event.seq;
        match &event.event {
            OrderEvent::OrderCreated { order_number, currency, totals, lines } => {
                findings.expect(seq == 1, "I7", || format!("created once more by event {seq}"));
                let named =
                    *order_number == stored.order_number.as_str() && *currency == stored.currency.code();
                findings.expect(named, "I7", || {
                    String::from("number or currency is not what the order was created with")
                });
                let count = u32::try_from(self.order.items.len()).unwrap_or(u32::MAX);
                findings.expect(*totals == self.order.totals && *lines == count, "I10", || {
                    String::from("totals or lines are not what the order was created with")
                });
            }
            OrderEvent::StatusChanged { from, to, .. } => {
                let now = self.order.status;
                let invariant = if now.is_terminal() { "I8" } else { "I7" };
                findings.expect(now == *from && from.may_become(*to), invariant, || {
                    format!("event {seq} goes from {from} to {to} where the order is {now}")
                });
                // Sagas that are under way finish what they began.
                let forward = matches!(to, OrderStatus::Shipped | OrderStatus::Delivered);
                findings.expect(!(forward && self.is_held(event)), "I7", || {
                    format!("event {seq} goes to {to} while the order is on hold")
                });
            }
            OrderEvent::SagaStarted { saga, kind } => {
                findings.expect(*kind != SagaKind::Fulfil || !self.is_held(event), "I7", || {
                    format!("saga {saga} begins at event {seq} while the order is on hold")
                });
                let next = self.order.saga_no.saturating_add(1);
                findings.expect(self.running.is_none() && *saga == next, "I9", || {
                    format!("saga {saga} begins at event {seq} after {}", named(self.running))
                });
                self.running = Some((*saga, *kind));
            }
            OrderEvent::SagaSettled { saga, .. } => {
                findings.expect(self.running.is_some_and(|(no, _)| no == *saga), "I9", || {
                    format!("saga {saga} ends at event {seq} while there is {}", named(self.running))
                });
                self.running = None;
            }
            OrderEvent::RefundGranted { saga, amount, .. } => {
                let (left, status) = (refund::left(&self.order), self.order.status);
                findings.expect(*amount > Decimal::ZERO && *amount <= left, "I3", || {
                    format!("event {seq} grants a refund of {amount} where {left} is left")
                });
                let runs = self.running == Some((*saga, SagaKind::Refund));
                findings.expect(runs && status.can_refund(), "I3", || {
                    format!("event {seq} grants a refund to {status} with {}", named(self.running))
                });
            }
            OrderEvent::AmendmentBegun { saga, .. } => {
                let runs = self.running == Some((*saga, SagaKind::Amend));
                let status = self.order.status;
                findings.expect(
                    runs && status == OrderStatus::Confirmed && !self.is_held(event),
                    "I7",
                    || format!("event {seq} edits an order that is {status}, with {}", named(self.running)),
                );
            }
            OrderEvent::ItemsChanged { before, .. } => {
                let (status, amendment) = (self.order.status, self.order.amendment.is_some());
                let paid = !self.order.payments.is_empty();
                let may = match status {
                    OrderStatus::Pending => !paid,
                    OrderStatus::Confirmed => amendment,
                    _ => false,
                };
                findings.expect(may && *before == self.order.totals, "I7", || {
                    format!("event {seq} changes the items of an order that is {status}")
                });
            }
            _ => {}
        }
        evolve(&mut self.order, &event.event, event.at);
        if let OrderEvent::StatusChanged { to, .. } = &event.event {
            self.arrive(findings, *to, seq);
        }
    }

    fn is_held(&self, event: &RecordedEvent) -> bool {
        self.order.hold.as_ref().is_some_and(|hold| hold.is_on(event.at))
    }

    /// What must hold when a status is entered, even where later events have covered it up.
    fn arrive(&self, findings: &mut Findings, to: OrderStatus, seq: i64) {
        let order = &self.order;
        let stock = order.reservation.state;
        match to {
            OrderStatus::Confirmed => {
                let (paid, total) = (settled(&order.payments, EntryKind::Charge), order.totals.total);
                let held = |held: &Reservation| held.state == StockState::Held;
                let mut live = stock::reservations(order).filter(|held| held.is_live());
                let all = live.all(held) && stock::covers(order);
                findings.expect(all && paid == total, "I6", || {
                    format!("{to} at event {seq} with stock {stock} and {paid} of {total} paid")
                });
            }
            OrderStatus::Processing => {
                let label = order.shipments.iter().any(|shipment| shipment.state == LabelState::Created);
                findings.expect(label, "I7", || format!("{to} at event {seq} without a label"));
            }
            OrderStatus::Cancelled => {
                findings.expect(!money_may_be_here(&order.payments), "I3", || {
                    format!("{to} at event {seq} while money may be here")
                });
                let back = !stock::reservations(order).any(Reservation::is_live);
                findings.expect(back, "I5", || format!("{to} at event {seq} with stock {stock}"));
            }
            _ => {}
        }
    }
}

/// The events have to make the order that is stored.
fn compare(findings: &mut Findings, stored: &Order, told: &Order) {
    findings.expect(stored.status == told.status, "I7", || {
        format!("the order is {} and history leads to {}", stored.status, told.status)
    });
    findings.expect(stored.payments == told.payments, "I3", || {
        let same = stored.payments.iter().zip(told.payments.iter()).take_while(|(one, other)| one == other);
        format!(
            "the ledger has {} entries and history tells of {}; the first {} agree",
            stored.payments.len(),
            told.payments.len(),
            same.count()
        )
    });
    // Rows from before reservations were renewed do not say since when they are held.
    let since = stored.reservation.renewed_at.and(told.reservation.renewed_at);
    let told_stock = Reservation { renewed_at: since, ..told.reservation.clone() };
    findings.expect(stored.reservation == told_stock, "I5", || {
        format!(
            "the reservation ({}) is not history's ({})",
            stored.reservation.state, told.reservation.state
        )
    });
    let edits = (&stored.additions, &stored.amendment) == (&told.additions, &told.amendment);
    findings.expect(edits, "I5", || {
        format!(
            "{} reservations were added by edits, or an edit is under way, other than history says",
            stored.additions.len()
        )
    });
    findings.expect(stored.items == told.items && stored.totals == told.totals, "I10", || {
        String::from("the items or the amounts are not those of history")
    });
    findings.expect(stored.shipments == told.shipments, "I7", || {
        String::from("the shipments are not those of history")
    });
    findings.expect(stored.grants == told.grants, "I3", || {
        format!("{} refunds are granted and history tells of {}", stored.grants.len(), told.grants.len())
    });
    findings.expect(stored.hold == told.hold, "I7", || String::from("the hold is not that of history"));
    let ends = (stored.cancel_reason, stored.cancelled_at, stored.completed_at);
    findings.expect(ends == (told.cancel_reason, told.cancelled_at, told.completed_at), "I8", || {
        String::from("why or when the order ended is not what history says")
    });
    findings.expect(stored.saga_no == told.saga_no && stored.failures == told.failures, "I9", || {
        format!("saga {} or a failure is not what history says (saga {})", stored.saga_no, told.saga_no)
    });
}

fn named(saga: Option<(u32, SagaKind)>) -> String {
    saga.map_or_else(|| String::from("no saga"), |(no, kind)| format!("saga {no} ({kind})"))
}
