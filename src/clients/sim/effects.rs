//! What calls bring about: decided by the services, journaled, and only then booked here.
//!
//! A journal is replayed through the same code, so a ledger read back is the ledger that was lost. Two things are not
//! journaled, because nothing depends on them: arrivals of calls that brought nothing about (after a replay a key is
//! known when it had an effect, received once), and charges that are pending (their delayed call ends with the
//! process, so they will never come to be).

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::faults::Method;
use super::inventory::reservation_id;
use super::ledger::{Ledger, order_named_by};
use super::payment::{new_charge, refund_id};
use super::records::{
    ChargeState, ClosedCharge, LabelRecord, LabelState, Refund, Reservation, ReservationState, Restock, Units,
};
use super::shipping::label_named;
use crate::domain::Timestamp;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::ProductRef;
use crate::domain::money::Currency;
use crate::ports::call::CallError;

/// One change of the ledger, as it stands in a journal. Changing what serde makes of it needs a new format version.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Entry {
    /// A call with a key, booked under an order, had an effect.
    Call { order: OrderId, key: CallKey, effect: Effect },
    /// What is on sale of a product was set.
    Stock { product: ProductRef, available: u64 },
}

/// What a call with a key brought about. `name` is what ids are made of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Effect {
    /// Stock is held.
    Reserve { name: Uuid, lines: Vec<Units>, expires_at: Timestamp },
    /// Held stock is held for longer.
    Renew { reservation_id: String, expires_at: Timestamp },
    /// Held stock is sold.
    Commit { reservation_id: String },
    /// Held stock is on sale again.
    Release { reservation_id: String },
    /// A release came before its reserve.
    ReleaseAhead { name: Uuid, reserve_key: CallKey },
    /// Sold stock is on sale again.
    Restock { reservation_id: String, lines: Vec<Units> },
    /// Money was taken, or not with a code.
    Charge { name: Uuid, amount: Decimal, currency: Currency, method: String, declined: Option<String> },
    /// No charge can be made with this key any more.
    Close { name: Uuid },
    /// Money was given back.
    Refund { name: Uuid, transaction_id: String, amount: Decimal, currency: Currency },
    /// A label was made.
    CreateLabel { name: Uuid, method: String, lines: Vec<Units> },
    /// The label of this key was voided, made or not.
    VoidLabel { name: Uuid },
}

impl Effect {
    /// Of which method it is the effect.
    const fn method(&self) -> Method {
        match self {
            Self::Reserve { .. } | Self::Renew { .. } => Method::Reserve,
            Self::Commit { .. } => Method::Commit,
            Self::Release { .. } | Self::ReleaseAhead { .. } => Method::Release,
            Self::Restock { .. } => Method::Restock,
            Self::Charge { .. } => Method::Charge,
            Self::Close { .. } => Method::GetTransaction,
            Self::Refund { .. } => Method::Refund,
            Self::CreateLabel { .. } => Method::CreateLabel,
            Self::VoidLabel { .. } => Method::VoidLabel,
        }
    }
}

/// Where an effect does not fit what is booked. Cannot be live, as the services have looked under the same lock.
fn misfit(message: &str) -> CallError {
    CallError::Unknown(message.to_owned())
}

const NO_RESERVATION: &str = "there is no such reservation in this state";

impl Ledger {
    /// Journals and books the effect of a call that has arrived. When it cannot be journaled, the ledger is as it
    /// was before the call arrived.
    pub(super) fn put(
        &mut self,
        order: OrderId,
        key: &CallKey,
        effect: Effect,
        at: Timestamp,
    ) -> Result<(), CallError> {
        let method = effect.method();
        let entry = Entry::Call { order, key: key.clone(), effect };
        if let Err(error) = self.write(at, &entry) {
            self.take_arrival_back(order, method, key);
            return Err(error);
        }
        self.apply(entry, at)
    }

    /// Books an entry of a journal again.
    pub(super) fn replay(&mut self, at: Timestamp, entry: Entry) -> Result<(), CallError> {
        let at = self.advance(at);
        if let Entry::Call { order, key, effect } = &entry {
            self.arrive(*order, effect.method(), key)?;
            if let Effect::Reserve { lines, .. } = effect
                && !self.shortages(lines, false).is_empty()
            {
                return Err(misfit("stock does not suffice"));
            }
        }
        self.apply(entry, at)
    }

    /// Books an entry. Whether it may be, was decided before.
    pub(super) fn apply(&mut self, entry: Entry, at: Timestamp) -> Result<(), CallError> {
        let (order, key, effect) = match entry {
            Entry::Call { order, key, effect } => (order, key, effect),
            Entry::Stock { product, available } => {
                return self.set_available(product, available).ok_or_else(|| misfit("no such product"));
            }
        };
        match effect {
            Effect::Reserve { name, lines, expires_at } => {
                self.hold(&lines);
                let held = Reservation {
                    lines,
                    state: ReservationState::Held,
                    expires_at,
                    ..tombstone(name, key, None, at)
                };
                let index = self.book_reservation(order, name, held)?;
                self.expire_at(expires_at, order, index);
            }
            Effect::Renew { reservation_id, expires_at } => {
                self.held(&reservation_id)?.expires_at = expires_at;
                let index =
                    self.book(order)?.reservations.iter().position(|found| found.id == reservation_id);
                self.expire_at(expires_at, order, index.ok_or_else(|| misfit(NO_RESERVATION))?);
            }
            Effect::Commit { reservation_id } => {
                let found = self.held(&reservation_id)?;
                found.state = ReservationState::Committed;
                found.changed_at = at;
                found.commit_key = Some(key);
                let lines = found.lines.clone();
                self.sell(&lines);
            }
            Effect::Release { reservation_id } => {
                let found = self.held(&reservation_id)?;
                found.state = ReservationState::Released;
                found.changed_at = at;
                found.release_key = Some(key);
                let lines = found.lines.clone();
                self.give_back(&lines);
            }
            Effect::ReleaseAhead { name, reserve_key } => {
                let order = order_named_by(&reserve_key);
                self.book_reservation(order, name, tombstone(name, reserve_key, Some(key), at))?;
            }
            Effect::Restock { reservation_id, lines } => {
                self.apply_restock(order, Restock { key, reservation_id, lines, at })?;
            }
            Effect::Charge { name, amount, currency, method, declined } => {
                let state = declined.map_or(ChargeState::Succeeded, ChargeState::Declined);
                if let Some(pending) = self.charge_mut(order, &key)? {
                    if pending.state != ChargeState::Pending {
                        return Err(misfit("the charge was made before"));
                    }
                    (pending.state, pending.at) = (state, at);
                } else {
                    let mut charge = new_charge(name, key, amount, currency, method, at);
                    charge.state = state;
                    self.record(name, order)?.charges.push(charge);
                }
            }
            Effect::Close { name } => {
                self.record(name, order)?.closed_charges.push(ClosedCharge { key, at });
            }
            Effect::Refund { name, transaction_id, amount, currency } => {
                let refund = Refund { key, refund_id: refund_id(name), transaction_id, amount, currency, at };
                self.apply_refund(order, refund)?;
            }
            Effect::CreateLabel { name, method, lines } => {
                let (state, label) = (LabelState::Created, Some(label_named(name)));
                let label = LabelRecord { key, state, label, method, lines, at };
                self.record(name, order)?.labels.push(label);
            }
            Effect::VoidLabel { name } => {
                if let Some(found) = self.label_mut(order, &key)? {
                    (found.state, found.at) = (LabelState::Voided, at);
                } else {
                    let (state, lines) = (LabelState::Tombstone, Vec::new());
                    let label = LabelRecord { key, state, label: None, method: String::new(), lines, at };
                    self.record(name, order)?.labels.push(label);
                }
            }
        }
        Ok(())
    }

    fn held(&mut self, id: &str) -> Result<&mut Reservation, CallError> {
        match self.reservation(id) {
            Some((_, found)) if found.state == ReservationState::Held => Ok(found),
            _ => Err(misfit(NO_RESERVATION)),
        }
    }

    /// Adds a reservation and tells its place among those of its order.
    fn book_reservation(
        &mut self,
        order: OrderId,
        name: Uuid,
        reservation: Reservation,
    ) -> Result<usize, CallError> {
        let reservations = &mut self.record(name, order)?.reservations;
        let index = reservations.len();
        reservations.push(reservation);
        Ok(index)
    }

    fn apply_restock(&mut self, order: OrderId, restock: Restock) -> Result<(), CallError> {
        let Some((_, found)) = self.reservation(&restock.reservation_id) else {
            return Err(misfit(NO_RESERVATION));
        };
        for line in &restock.lines {
            match found.restocked.iter_mut().find(|sum| sum.product == line.product) {
                Some(sum) => sum.quantity = sum.quantity.saturating_add(line.quantity),
                None => found.restocked.push(*line),
            }
        }
        self.bring_back(&restock.lines);
        self.count_record();
        self.book(order)?.restocks.push(restock);
        Ok(())
    }

    fn apply_refund(&mut self, order: OrderId, refund: Refund) -> Result<(), CallError> {
        let book = self.book(order)?;
        let charge = book.charges.iter_mut().find(|charge| charge.transaction_id == refund.transaction_id);
        let charge = charge.ok_or_else(|| misfit("there is no such charge"))?;
        let refunded = charge.refunded.checked_add(refund.amount).filter(|sum| *sum <= charge.amount);
        charge.refunded = refunded.ok_or_else(|| misfit("refunds would exceed the charge"))?;
        book.refunds.push(refund);
        self.count_record();
        Ok(())
    }
}

/// A reservation that never was.
fn tombstone(name: Uuid, key: CallKey, release_key: Option<CallKey>, at: Timestamp) -> Reservation {
    Reservation {
        key,
        id: reservation_id(name),
        lines: Vec::new(),
        restocked: Vec::new(),
        state: ReservationState::Tombstone,
        created_at: at,
        changed_at: at,
        expires_at: at,
        commit_key: None,
        release_key,
    }
}
