//! How an event changes an order: the only place where an order is modified.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::Timestamp;
use super::address::Address;
use super::amend::{self, Amendment};
use super::command::Draft;
use super::event::OrderEvent;
use super::ids::CallKey;
use super::order::{Hold, LabelState, Order, Reservation, Shipment, StockState};
use super::payment::{EntryKind, EntryState, LedgerEntry, payment_status};
use super::refund::Grant;
use super::repair::RepairKind;
use super::status::{OrderStatus, PaymentStatus};
use super::stock;

/// The order a draft becomes, before its first event.
pub(super) fn open(draft: &Draft, now: Timestamp) -> Order {
    Order {
        id: draft.id,
        user_id: draft.user_id,
        order_number: draft.order_number.clone(),
        status: OrderStatus::Pending,
        currency: draft.currency,
        totals: draft.totals,
        payment_method: draft.payment_method.clone(),
        payment_status: PaymentStatus::Pending,
        shipping_method: draft.shipping_method.clone(),
        notes: draft.notes.clone(),
        coupon_code: draft.coupon.as_ref().map(|coupon| coupon.code.clone()),
        metadata: Arc::new(draft.metadata.clone()),
        reservation: Reservation::none(),
        additions: Arc::default(),
        amendment: None,
        items: Arc::new(draft.items.clone()),
        addresses: Arc::new(draft.addresses.clone()),
        shipments: Arc::default(),
        payments: Arc::default(),
        grants: Arc::default(),
        hold: None,
        cancel_reason: None,
        request_hash: draft.request_hash,
        requests: Arc::default(),
        failures: Arc::default(),
        saga_no: 0,
        version: 0,
        event_seq: 0,
        created_at: now,
        updated_at: now,
        completed_at: None,
        cancelled_at: None,
        attention: None,
    }
}

/// What a new ledger entry says.
struct Booking<'a> {
    kind: EntryKind,
    state: EntryState,
    key: &'a CallKey,
    /// None = as the first entry of this key says.
    amount: Option<Decimal>,
    transaction_id: Option<&'a str>,
    /// None = as the first entry of this key says.
    parent: Option<&'a str>,
    code: Option<&'a str>,
    gateway_response: Option<&'a String>,
}

impl<'a> Booking<'a> {
    fn of(kind: EntryKind, state: EntryState, key: &'a CallKey) -> Self {
        Self {
            kind,
            state,
            key,
            amount: None,
            transaction_id: None,
            parent: None,
            code: None,
            gateway_response: None,
        }
    }
}

fn book(order: &mut Order, booking: Booking<'_>, at: Timestamp) {
    let first = order.payments.iter().find(|entry| entry.key == *booking.key);
    let amount = booking.amount.or_else(|| first.map(|entry| entry.amount)).unwrap_or_default();
    let parent = booking.parent.map(str::to_owned).or_else(|| first.and_then(|entry| entry.parent.clone()));
    let entry = LedgerEntry {
        id: order.id.part("payment", order.payments.len() as u64),
        kind: booking.kind,
        state: booking.state,
        key: booking.key.clone(),
        transaction_id: booking.transaction_id.unwrap_or_default().to_owned(),
        parent,
        method: order.payment_method.clone(),
        amount,
        code: booking.code.map(str::to_owned),
        gateway_response: booking.gateway_response.cloned(),
        created_at: at,
    };
    Arc::make_mut(&mut order.payments).push(entry);
}

fn shipment(order: &mut Order, id: uuid::Uuid, at: Timestamp) -> &mut Shipment {
    let shipments = Arc::make_mut(&mut order.shipments);
    let place = shipments.iter().position(|shipment| shipment.id == id).unwrap_or_else(|| {
        shipments.push(Shipment {
            id,
            key: None,
            state: LabelState::Requested,
            carrier: String::new(),
            tracking_number: String::new(),
            label_url: String::new(),
            created_at: at,
            updated_at: at,
        });
        shipments.len().saturating_sub(1)
    });
    // The place was found or made right above.
    #[expect(clippy::indexing_slicing)]
    let shipment = &mut shipments[place];
    shipment.updated_at = at;
    shipment
}

/// The reservation with that name; the first one where there is none.
fn reservation<'a>(order: &'a mut Order, of: Option<&CallKey>) -> &'a mut Reservation {
    let place =
        of.and_then(|key| order.additions.iter().position(|addition| addition.key.as_ref() == Some(key)));
    match place {
        Some(place) => {
            let additions = Arc::make_mut(&mut order.additions);
            // The place was found right above.
            #[expect(clippy::indexing_slicing)]
            &mut additions[place]
        }
        None => &mut order.reservation,
    }
}

/// What two of the repairs do to names, addresses, notes and metadata. A new list of addresses is one that is written again.
fn personal(order: &mut Order, repair: RepairKind) {
    match repair {
        RepairKind::ErasePersonalData => {
            order.notes = String::new();
            order.metadata = Arc::default();
            order.addresses = Arc::new(order.addresses.iter().map(Address::erased).collect());
        }
        RepairKind::EncryptPersonalData => order.addresses = Arc::new(order.addresses.to_vec()),
        _ => {}
    }
}

/// Applies one event that happened at `at`.
pub fn evolve(order: &mut Order, event: &OrderEvent, at: Timestamp) {
    use {EntryKind as Kind, EntryState as State};
    match event {
        OrderEvent::OrderCreated { .. }
        | OrderEvent::StepDelayed { .. }
        | OrderEvent::AttentionNeeded { .. } => {}
        OrderEvent::Repaired { repair, .. } => personal(order, *repair),
        OrderEvent::StatusChanged { to, reason, .. } => {
            order.status = *to;
            if order.cancel_reason.is_none() {
                order.cancel_reason = *reason;
            }
            match to {
                OrderStatus::Cancelled => order.cancelled_at = Some(at),
                OrderStatus::Delivered => order.completed_at = Some(at),
                _ => {}
            }
        }
        OrderEvent::OrderHeld { reason, by, until } => {
            order.hold = Some(Hold { reason: reason.clone(), by: by.clone(), until: *until, since: at });
        }
        OrderEvent::OrderReleased { .. } => order.hold = None,
        OrderEvent::SagaStarted { saga, .. } => order.saga_no = *saga,
        OrderEvent::SagaTurned { reason, .. } => {
            if order.cancel_reason.is_none() {
                order.cancel_reason = Some(*reason);
            }
        }
        OrderEvent::SagaSettled { saga, failure } => {
            order.amendment = None;
            if order.additions.iter().any(|addition| !addition.is_live()) {
                Arc::make_mut(&mut order.additions).retain(Reservation::is_live);
            }
            if let Some(failure) = failure {
                Arc::make_mut(&mut order.failures).insert(*saga, failure.clone());
            }
        }
        OrderEvent::AmendmentBegun { saga, changes, totals } => {
            let items = amend::apply(&order.items, changes);
            let amendment = Amendment { saga: *saga, items, totals: *totals, applied: false };
            order.amendment = Some(Arc::new(amendment));
        }
        OrderEvent::ItemsChanged { changes, totals, .. } => {
            if order.reservation.is_live() && order.reservation.lines.is_none() {
                order.reservation.lines = Some(order.stock_lines());
            }
            order.items = Arc::new(amend::apply(&order.items, changes));
            order.totals = *totals;
            if let Some(amendment) = &mut order.amendment {
                Arc::make_mut(amendment).applied = true;
            }
        }
        OrderEvent::StockRenewed { of, .. } => reservation(order, of.as_ref()).renewed_at = Some(at),
        // What it was about is missing now, and is asked for as such.
        OrderEvent::StockLapsed { of: Some(key), .. } => {
            reservation(order, Some(key)).state = StockState::Returned;
        }
        OrderEvent::StockLapsed { of: None, .. } => {
            (order.reservation.state, order.reservation.id) = (StockState::None, None);
        }
        OrderEvent::StockRequested { key, lines: None } => {
            order.reservation.state = StockState::Requested;
            (order.reservation.id, order.reservation.key) = (None, Some(key.clone()));
            order.reservation.renewed_at = None;
        }
        OrderEvent::StockRequested { key, lines } => {
            let additions = Arc::make_mut(&mut order.additions);
            match additions.iter_mut().find(|addition| addition.key.as_ref() == Some(key)) {
                Some(addition) => addition.state = StockState::Requested,
                None => {
                    let (state, key) = (StockState::Requested, Some(key.clone()));
                    let lines = lines.clone();
                    additions.push(Reservation { state, id: None, key, lines, renewed_at: None });
                }
            }
        }
        OrderEvent::StockUnsent { key } => {
            let of = stock::name_of(order, key);
            reservation(order, of.as_ref()).state = StockState::None;
        }
        OrderEvent::StockRefused { of, .. } => reservation(order, of.as_ref()).state = StockState::None,
        OrderEvent::StockReserved { reservation_id, of } => {
            let reservation = reservation(order, of.as_ref());
            reservation.state = StockState::Held;
            reservation.id = Some(reservation_id.clone());
            reservation.renewed_at = Some(at);
        }
        OrderEvent::StockCommitRequested { of, .. } => {
            reservation(order, of.as_ref()).state = StockState::Committing;
        }
        OrderEvent::StockCommitted { of, .. } => {
            reservation(order, of.as_ref()).state = StockState::Committed;
        }
        OrderEvent::StockFoundCommitted { reservation_id, of } => {
            let reservation = reservation(order, of.as_ref());
            reservation.state = StockState::Committed;
            reservation.id = Some(reservation_id.clone());
        }
        OrderEvent::StockReturned { of, lines: None, .. } => {
            reservation(order, of.as_ref()).state = StockState::Returned;
        }
        OrderEvent::StockReturned { of, lines: Some(back), .. } => {
            let all = order.stock_lines();
            let reservation = reservation(order, of.as_ref());
            let rest = stock::without(reservation.lines.as_deref().unwrap_or(&all), back);
            if rest.is_empty() {
                reservation.state = StockState::Returned;
            }
            reservation.lines = Some(rest);
        }
        OrderEvent::ChargeRequested { key, amount } => {
            let booking = Booking::of(Kind::Charge, State::Requested, key);
            book(order, Booking { amount: Some(*amount), ..booking }, at);
        }
        OrderEvent::ChargeUnsent { key } => book(order, Booking::of(Kind::Charge, State::Unsent, key), at),
        OrderEvent::ChargeUnknown { key } => book(order, Booking::of(Kind::Charge, State::Unknown, key), at),
        OrderEvent::Charged { key, transaction_id, amount, gateway_response } => {
            let booking = Booking::of(Kind::Charge, State::Succeeded, key);
            let (transaction_id, gateway_response) =
                (Some(transaction_id.as_str()), gateway_response.as_ref());
            book(order, Booking { amount: *amount, transaction_id, gateway_response, ..booking }, at);
        }
        OrderEvent::ChargeFailed { key, code } => {
            let booking = Booking::of(Kind::Charge, State::Failed, key);
            book(order, Booking { code: Some(code), ..booking }, at);
        }
        OrderEvent::RefundGranted { saga, amount, items, .. } => {
            let grant = Grant { saga: *saga, amount: *amount, items: items.clone() };
            Arc::make_mut(&mut order.grants).push(grant);
        }
        OrderEvent::RefundRequested { key, transaction_id, amount } => {
            let booking = Booking::of(Kind::Refund, State::Requested, key);
            let parent = Some(transaction_id.as_str());
            book(order, Booking { amount: Some(*amount), parent, ..booking }, at);
        }
        OrderEvent::RefundUnknown { key } => book(order, Booking::of(Kind::Refund, State::Unknown, key), at),
        OrderEvent::Refunded { key, refund_id } => {
            let booking = Booking::of(Kind::Refund, State::Succeeded, key);
            book(order, Booking { transaction_id: Some(refund_id), ..booking }, at);
        }
        OrderEvent::RefundFailed { key, code } => {
            let booking = Booking::of(Kind::Refund, State::Failed, key);
            book(order, Booking { code: Some(code), ..booking }, at);
        }
        OrderEvent::LabelRequested { shipment_id, key } => {
            shipment(order, *shipment_id, at).key = Some(key.clone());
        }
        OrderEvent::LabelCreated { shipment_id, carrier, tracking_number, label_url } => {
            let shipment = shipment(order, *shipment_id, at);
            shipment.state = LabelState::Created;
            shipment.carrier.clone_from(carrier);
            shipment.tracking_number.clone_from(tracking_number);
            shipment.label_url.clone_from(label_url);
        }
        OrderEvent::LabelVoided { shipment_id } => {
            shipment(order, *shipment_id, at).state = LabelState::Voided;
        }
        OrderEvent::TrackingSet { shipment_id, carrier, tracking_number } => {
            let shipment = shipment(order, *shipment_id, at);
            shipment.state = LabelState::Created;
            if !carrier.is_empty() {
                shipment.carrier.clone_from(carrier);
            }
            shipment.tracking_number.clone_from(tracking_number);
        }
    }
    order.payment_status = payment_status(&order.payments, order.totals.total, order.status);
}
