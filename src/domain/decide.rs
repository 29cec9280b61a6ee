//! Whether a command is taken, and what it begins.

use super::Timestamp;
use super::advance::{advance, change_status, doubt};
use super::cause::Cause;
use super::command::{Ask, Draft, OrderCommand, Tracking};
use super::error::OrderError;
use super::event::OrderEvent;
use super::evolve;
use super::order::{LabelState, Order, RequestRecord, Reservation, StockState};
use super::payment::money_may_be_here;
use super::react::{CouponChange, Policy, Reaction, Work};
use super::refund::{Grant, Wish, grant};
use super::repair;
use super::saga::{Direction, SagaKind, SagaMove, SagaProgress, Turn};
use super::status::{CancelReason, OrderStatus, PaymentStatus, Rule};
use super::stock;
use super::text::Violation;
use super::{risk, waiting};

/// Most sagas of an order before refunds, edits and further parcels are refused: reading an order takes longer with each.
/// What ends an order is never refused for it.
pub const MAX_SAGAS: u32 = 250;

/// Whether an order takes another change that a saga carries out.
///
/// # Errors
/// `Overloaded` when it has had too many.
pub(super) fn takes_more(order: &Order) -> Result<(), OrderError> {
    if order.saga_no >= MAX_SAGAS {
        return Err(OrderError::Overloaded { what: "this order was changed as often as it may be" });
    }
    Ok(())
}

/// Most shipments of an order, void ones included.
const MAX_SHIPMENTS: usize = 100;

/// A new order: stored as PENDING with the intent of its first call.
pub(super) fn create(draft: &Draft, ask: &Ask, now: Timestamp, policy: &Policy) -> Reaction {
    let mut work = begin(&evolve::open(draft, now), None, ask, now, policy);
    work.emit(OrderEvent::OrderCreated {
        order_number: draft.order_number.to_string(),
        currency: draft.currency.code().to_owned(),
        totals: draft.totals,
        lines: u32::try_from(draft.items.len()).unwrap_or(u32::MAX),
    });
    if let Some(reason) = &draft.risk {
        let (reason, by) = (reason.clone(), risk::PRINCIPAL.to_owned());
        work.emit_as(risk::PRINCIPAL, OrderEvent::OrderHeld { reason, by, until: None });
    }
    work.start(SagaKind::Create, ask, "");
    if let Some(saga) = &mut work.saga {
        // Also of a free order: an edit before it is confirmed may make it dearer.
        saga.token.clone_from(&draft.payment_token);
    }
    let act = advance(&mut work);
    work.ahead = !policy.run_ahead.is_zero() && draft.risk.is_none();
    let request = record(ask, Some(1));
    work.commit(request, draft.coupon.clone().map(CouponChange::Claim), act)
}

/// A command to an order that exists.
pub(super) fn decide(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    let creation = match &ask.command {
        OrderCommand::Create(draft) => Some((draft.user_id, draft.request_hash)),
        OrderCommand::Rejoin { user_id, request_hash } => Some((*user_id, *request_hash)),
        OrderCommand::Cancel { .. }
        | OrderCommand::SetStatus { .. }
        | OrderCommand::Refund { .. }
        | OrderCommand::Edit(_)
        | OrderCommand::AddShipment { .. }
        | OrderCommand::Hold { .. }
        | OrderCommand::Release { .. }
        | OrderCommand::Repair(_) => None,
    };
    if let Some(creation) = creation {
        // The id is a hash of user and request id, so this is a repeat, or a request id with other content.
        let same = creation == (order.user_id, order.request_hash);
        return if same { Ok(Reaction::Repeat(Some(1))) } else { Err(OrderError::RequestIdReused) };
    }
    if let Some(repeatable) = &ask.repeatable
        && let Some(known) = order.requests.iter().find(|known| known.request_id == repeatable.request_id)
    {
        if known.hash != repeatable.hash {
            return Err(OrderError::RequestIdReused);
        }
        // Their answer waited for no saga, so that of a repeat does not either.
        let in_place = matches!(ask.command, OrderCommand::Edit(_)) && known.saga_no.is_none();
        if ask.command.is_noted() || in_place {
            return Ok(Reaction::Unchanged);
        }
        // Once a cancel is taken, the saga that runs is the one that carries it out: wait for the first's answer.
        let cancels = matches!(
            ask.command,
            OrderCommand::Cancel { .. } | OrderCommand::SetStatus { to: OrderStatus::Cancelled, .. }
        );
        return Ok(if cancels && saga.is_some() { Reaction::Join } else { Reaction::Repeat(known.saga_no) });
    }
    if let Some(expected) = ask.expected_version
        && expected != order.version
    {
        return Err(OrderError::VersionMismatch { expected, current: order.version });
    }
    match &ask.command {
        OrderCommand::Create(_) | OrderCommand::Rejoin { .. } => Err(OrderError::RequestIdReused),
        OrderCommand::Cancel { notes } => cancel(order, saga, ask, notes, calling, now, policy),
        OrderCommand::SetStatus { to: OrderStatus::Cancelled, notes, .. } => {
            cancel(order, saga, ask, notes, calling, now, policy)
        }
        OrderCommand::SetStatus { to, notes, tracking } => {
            set_status(order, saga, ask, (*to, notes, tracking.as_ref()), now, policy)
        }
        OrderCommand::Refund { wish, reason } => refund(order, saga, ask, (wish, reason), now, policy),
        OrderCommand::Edit(edit) => super::amend::edit(order, saga, ask, edit, calling, now, policy),
        OrderCommand::AddShipment { tracking } => {
            add_shipment(order, saga, ask, tracking.as_ref(), now, policy)
        }
        OrderCommand::Hold { reason, until } => {
            if !order.status.can_hold() {
                return Err(OrderError::NotAllowed { status: order.status, what: "put on hold" });
            }
            // Not checked before: a repeat that comes after that moment is still a repeat.
            if until.is_some_and(|until| until <= now) {
                let violation = Violation::invalid("until", "expected a time in the future");
                return Err(OrderError::Invalid(vec![violation]));
            }
            let (reason, by) = (reason.clone(), ask.caller.principal.to_string());
            let event = OrderEvent::OrderHeld { reason, by, until: *until };
            Ok(note(order, saga, ask, event, calling, now, policy))
        }
        OrderCommand::Release { notes } => {
            if order.hold.is_none() {
                return Ok(unchanged(order, saga, ask, calling, now, policy));
            }
            let event = OrderEvent::OrderReleased { notes: notes.clone() };
            Ok(note(order, saga, ask, event, calling, now, policy))
        }
        OrderCommand::Repair(wanted) => repair::decide(order, saga, ask, wanted, calling, now, policy),
    }
}

/// Gives money back and leaves the order as it is.
fn refund(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    (wish, reason): (&Wish, &str),
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    let status = order.status;
    if !status.can_refund() {
        return Err(OrderError::NotAllowed { status, what: "refunded" });
    }
    if saga.is_some() {
        return Err(OrderError::Busy { status });
    }
    takes_more(order)?;
    let mut work = begin(order, None, ask, now, policy);
    let Grant { saga: no, amount, items } = grant(order, wish, order.saga_no.saturating_add(1))?;
    work.start(SagaKind::Refund, ask, "");
    work.emit(OrderEvent::RefundGranted { saga: no, amount, items, reason: reason.to_owned() });
    let act = advance(&mut work);
    let request = record(ask, Some(no));
    Ok(work.commit(request, None, act))
}

/// Nothing is to be done. The request's id is kept all the same: when it comes again later it still changes nothing.
pub(super) fn unchanged(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Reaction {
    let Some(request) = record(ask, None) else { return Reaction::Unchanged };
    let mut work = begin(order, saga, ask, now, policy);
    if !calling {
        doubt(&mut work);
    }
    let act = match saga {
        None => SagaMove::Settled,
        Some(_) if calling => SagaMove::Keep,
        Some(_) => advance(&mut work),
    };
    work.commit(Some(request), None, act)
}

/// Records what no saga has to do anything for. Whatever is under way goes on.
fn note(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    event: OrderEvent,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Reaction {
    let mut work = begin(order, saga, ask, now, policy);
    if !calling {
        doubt(&mut work);
    }
    work.emit(event);
    if !calling {
        waiting::look_again(&mut work);
    }
    let act = match saga {
        None => SagaMove::Settled,
        Some(_) if calling => SagaMove::Keep,
        Some(_) => advance(&mut work),
    };
    let request = record(ask, None);
    work.commit(request, None, act)
}

fn cancel(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    notes: &str,
    calling: bool,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    match order.status {
        OrderStatus::Cancelled => return Ok(Reaction::Unchanged),
        OrderStatus::Cancelling => return Ok(Reaction::Join),
        status if !status.can_cancel() => {
            let (from, to) = (status, OrderStatus::Cancelled);
            return Err(OrderError::IllegalTransition { from, to, missing: None });
        }
        _ => {}
    }
    let mut work = begin(order, saga, ask, now, policy);
    if !calling {
        doubt(&mut work);
    }
    let act = match saga {
        None => {
            work.start(SagaKind::Cancel, ask, notes);
            change_status(&mut work, OrderStatus::Cancelling, notes, Some(CancelReason::CustomerRequest));
            advance(&mut work)
        }
        // It already unwinds, or is about to: it ends where the caller wants it.
        Some(saga) if saga.turn.is_some() => return Ok(Reaction::Join),
        Some(saga) if saga.kind == SagaKind::Create && saga.direction == Direction::Backward => {
            return Ok(Reaction::Join);
        }
        Some(_) => {
            let reason = CancelReason::CustomerRequest;
            if let Some(running) = &mut work.saga {
                running.turn = Some(Turn { reason, notes: notes.to_owned() });
                let saga = running.no;
                work.emit(OrderEvent::SagaTurned { saga, reason });
            }
            if order.status != OrderStatus::Pending || money_may_be_here(&work.order.payments) {
                change_status(&mut work, OrderStatus::Cancelling, notes, Some(reason));
            }
            // The call that is under way is booked first; its answer meets the wish to turn.
            if calling { SagaMove::Keep } else { advance(&mut work) }
        }
    };
    let request = record(ask, None);
    Ok(work.commit(request, None, act))
}

fn set_status(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    (to, notes, tracking): (OrderStatus, &str, Option<&Tracking>),
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    let from = order.status;
    match from.rule(to) {
        Rule::Same => return Ok(Reaction::Unchanged),
        _ if to == OrderStatus::Confirmed => return Err(OrderError::StatusManagedBySaga { from, to }),
        Rule::Request => {}
        Rule::Saga | Rule::Cancel | Rule::Illegal => {
            return Err(OrderError::IllegalTransition { from, to, missing: None });
        }
    }
    if let Some(hold) = &order.hold
        && hold.is_on(now)
        && to != OrderStatus::Returned
    {
        return Err(OrderError::OnHold { status: from, reason: hold.reason.clone() });
    }
    if saga.is_some() {
        return Err(OrderError::Busy { status: from });
    }
    let missing = |what| Err(OrderError::IllegalTransition { from, to, missing: Some(what) });
    let mut work = begin(order, None, ask, now, policy);
    let mut saga_no = None;
    let act = match to {
        OrderStatus::Processing => {
            // A part that went back, or did not, changes nothing about the rest.
            let paid = matches!(
                order.payment_status,
                PaymentStatus::Paid | PaymentStatus::PartiallyRefunded | PaymentStatus::RefundFailed
            );
            if !paid {
                return missing("the order is not paid");
            }
            let committed = |held: &Reservation| !held.is_live() || held.state == StockState::Committed;
            if !stock::reservations(order).all(committed) || !stock::covers(order) {
                return missing("the stock reservation is not committed");
            }
            work.start(SagaKind::Fulfil, ask, notes);
            saga_no = Some(work.order.saga_no);
            advance(&mut work)
        }
        OrderStatus::Shipped => {
            if let Some(tracking) = tracking {
                set_tracking(&mut work, tracking);
            }
            let tracked = work.order.shipments.iter().any(|shipment| {
                shipment.state == LabelState::Created && !shipment.tracking_number.is_empty()
            });
            if !tracked {
                return missing("no shipment has a tracking number; give one as tracking");
            }
            change_status(&mut work, to, notes, None);
            SagaMove::Settled
        }
        OrderStatus::Returned => {
            change_status(&mut work, to, notes, None);
            work.start(SagaKind::Return, ask, notes);
            advance(&mut work)
        }
        _ => {
            change_status(&mut work, to, notes, None);
            SagaMove::Settled
        }
    };
    let request = record(ask, saga_no);
    Ok(work.commit(request, None, act))
}

/// One parcel more: its label is made by a Fulfil saga that leaves the order where it is.
fn add_shipment(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    tracking: Option<&Tracking>,
    now: Timestamp,
    policy: &Policy,
) -> Result<Reaction, OrderError> {
    let status = order.status;
    if status != OrderStatus::Processing {
        return Err(OrderError::NotAllowed { status, what: "given another shipment" });
    }
    if let Some(hold) = order.hold.as_ref().filter(|hold| hold.is_on(now)) {
        return Err(OrderError::OnHold { status, reason: hold.reason.clone() });
    }
    if saga.is_some() {
        return Err(OrderError::Busy { status });
    }
    takes_more(order)?;
    if order.shipments.len() >= MAX_SHIPMENTS {
        return Err(OrderError::Overloaded { what: "this order has as many shipments as it may have" });
    }
    let mut work = begin(order, None, ask, now, policy);
    let (saga_no, act) = match tracking {
        Some(tracking) => {
            let shipment_id = order.id.part("shipment", order.shipments.len() as u64);
            let (carrier, tracking_number) = (tracking.carrier.clone(), tracking.tracking_number.clone());
            work.emit(OrderEvent::TrackingSet { shipment_id, carrier, tracking_number });
            (None, SagaMove::Settled)
        }
        None => {
            work.start(SagaKind::Fulfil, ask, "");
            (Some(work.order.saga_no), advance(&mut work))
        }
    };
    let request = record(ask, saga_no);
    Ok(work.commit(request, None, act))
}

/// Tells the first live shipment its tracking, or makes one where the label came from elsewhere.
fn set_tracking(work: &mut Work<'_>, tracking: &Tracking) {
    let live = work.order.shipments.iter().find(|shipment| shipment.state != LabelState::Voided);
    let shipment_id = live.map_or_else(
        || work.order.id.part("shipment", work.order.shipments.len() as u64),
        |shipment| shipment.id,
    );
    work.emit(OrderEvent::TrackingSet {
        shipment_id,
        carrier: tracking.carrier.clone(),
        tracking_number: tracking.tracking_number.clone(),
    });
}

pub(super) fn begin<'a>(
    order: &Order,
    saga: Option<&SagaProgress>,
    ask: &Ask,
    now: Timestamp,
    policy: &'a Policy,
) -> Work<'a> {
    Work::on(order, saga, Cause::of(ask), now, policy)
}

pub(super) fn record(ask: &Ask, saga_no: Option<u32>) -> Option<RequestRecord> {
    ask.repeatable.as_ref().map(|repeatable| RequestRecord {
        request_id: repeatable.request_id.clone(),
        hash: repeatable.hash,
        saga_no,
    })
}
