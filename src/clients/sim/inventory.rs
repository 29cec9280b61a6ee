//! The simulated inventory service.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use uuid::Uuid;

use super::effects::Effect;
use super::faults::{Method, Plan};
use super::ledger::{Ledger, check_key, invalid, order_named_by, reused, units_of};
use super::records::{Reservation, ReservationState, Units, derived};
use super::{Simulator, parse_id};
use crate::domain::Timestamp;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::item::{Shortage, StockLine};
use crate::ports::call::{CallContext, CallError, Refusal};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget, reason};

/// Shortest time a reservation can be asked for.
const MIN_TTL: Duration = Duration::from_secs(1);
/// Longest time a reservation can be asked for: 30 days.
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
const ID_PREFIX: &str = "rsv_";
/// Purpose of the name derived from a reserve's key.
const RESERVE: &str = "reserve";

/// The id of the reservation with a name.
pub(super) fn reservation_id(name: Uuid) -> String {
    format!("{ID_PREFIX}{}", name.simple())
}

fn refused(reason: &str) -> CallError {
    let message = match reason {
        reason::RESERVATION_NOT_FOUND => "no such reservation",
        reason::RESERVATION_EXPIRED => "the reservation has run out",
        reason::RESERVATION_RELEASED => "the reservation was released",
        reason::RESERVATION_NOT_COMMITTED => "the reservation is not committed",
        _ => "more than the reservation still has out",
    };
    CallError::refused(reason, message)
}

fn out_of_stock(shortages: Vec<Shortage>) -> CallError {
    let message = "stock does not suffice".to_owned();
    CallError::Refused(Refusal { reason: reason::OUT_OF_STOCK.to_owned(), message, shortages })
}

impl Ledger {
    /// The order and the reservation with an id.
    pub(super) fn reservation(&mut self, id: &str) -> Option<(OrderId, &mut Reservation)> {
        let order = self.home(parse_id(ID_PREFIX, id)?)?;
        let book = self.book(order).ok()?;
        Some((order, book.reservations.iter_mut().find(|reservation| reservation.id == id)?))
    }

    fn reserve(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        order: OrderId,
        lines: Vec<Units>,
        (now, expires_at): (Timestamp, Timestamp),
    ) -> Result<String, CallError> {
        let name = derived(RESERVE, key);
        let home = self.home(name).unwrap_or(order);
        self.arrive(home, Method::Reserve, key)?;
        plan.fail_here()?;
        let id = reservation_id(name);
        if let Some((booked, found)) = self.reservation(&id) {
            return match found.state {
                ReservationState::Tombstone => Err(refused(reason::RESERVATION_RELEASED)),
                _ if found.lines != lines || booked != order => Err(reused()),
                ReservationState::Held if found.expires_at < expires_at => {
                    let effect = Effect::Renew { reservation_id: id.clone(), expires_at };
                    self.put(order, key, effect, now)?;
                    Ok(id)
                }
                ReservationState::Held | ReservationState::Committed => Ok(id),
                ReservationState::Released => Err(refused(reason::RESERVATION_RELEASED)),
                ReservationState::Expired => Err(refused(reason::RESERVATION_EXPIRED)),
            };
        }
        let shortages = self.shortages(&lines, plan.out_of_stock);
        if !shortages.is_empty() {
            return Err(out_of_stock(shortages));
        }
        self.room()?;
        self.put(order, key, Effect::Reserve { name, lines, expires_at }, now)?;
        Ok(id)
    }

    fn commit(&mut self, plan: &Plan, key: &CallKey, id: &str, now: Timestamp) -> Result<(), CallError> {
        let order = self.reservation(id).map_or_else(|| order_named_by(key), |(order, _)| order);
        self.arrive(order, Method::Commit, key)?;
        plan.fail_here()?;
        let Some((_, found)) = self.reservation(id) else {
            return Err(refused(reason::RESERVATION_NOT_FOUND));
        };
        match found.state {
            ReservationState::Committed => return Ok(()),
            ReservationState::Expired => return Err(refused(reason::RESERVATION_EXPIRED)),
            ReservationState::Released => return Err(refused(reason::RESERVATION_RELEASED)),
            ReservationState::Tombstone => return Err(refused(reason::RESERVATION_NOT_FOUND)),
            ReservationState::Held => {}
        }
        self.put(order, key, Effect::Commit { reservation_id: id.to_owned() }, now)
    }

    fn release(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        target: &ReleaseTarget,
        now: Timestamp,
    ) -> Result<ReleaseOutcome, CallError> {
        let id = match target {
            ReleaseTarget::Reservation(id) => id.clone(),
            ReleaseTarget::ReserveKey(reserve_key) => reservation_id(derived(RESERVE, reserve_key)),
        };
        let order = self.reservation(&id).map_or_else(|| order_named_by(key), |(order, _)| order);
        self.arrive(order, Method::Release, key)?;
        plan.fail_here()?;
        if let Some((_, found)) = self.reservation(&id) {
            return match found.state {
                ReservationState::Committed => Ok(ReleaseOutcome::Committed { reservation_id: id }),
                ReservationState::Released if found.release_key.as_ref() == Some(key) => {
                    Ok(ReleaseOutcome::Released)
                }
                ReservationState::Released | ReservationState::Expired | ReservationState::Tombstone => {
                    Ok(ReleaseOutcome::NothingHeld)
                }
                ReservationState::Held => {
                    self.put(order, key, Effect::Release { reservation_id: id }, now)?;
                    Ok(ReleaseOutcome::Released)
                }
            };
        }
        if let ReleaseTarget::ReserveKey(reserve_key) = target {
            self.room()?;
            let name = derived(RESERVE, reserve_key);
            let reserve_key = reserve_key.clone();
            self.put(order, key, Effect::ReleaseAhead { name, reserve_key }, now)?;
        }
        Ok(ReleaseOutcome::NothingHeld)
    }

    fn restock(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        id: &str,
        lines: &[Units],
        now: Timestamp,
    ) -> Result<(), CallError> {
        let order = self.reservation(id).map_or_else(|| order_named_by(key), |(order, _)| order);
        self.arrive(order, Method::Restock, key)?;
        plan.fail_here()?;
        if let Some(done) = self.book(order)?.restocks.iter().find(|done| done.key == *key) {
            return if done.reservation_id == id && done.lines == lines { Ok(()) } else { Err(reused()) };
        }
        let Some((_, found)) = self.reservation(id) else {
            return Err(refused(reason::RESERVATION_NOT_FOUND));
        };
        if found.state != ReservationState::Committed {
            return Err(refused(reason::RESERVATION_NOT_COMMITTED));
        }
        for line in lines {
            let back = quantity_of(&found.restocked, line).saturating_add(line.quantity);
            if back > quantity_of(&found.lines, line) {
                return Err(refused(reason::RESTOCK_EXCEEDS_COMMITTED));
            }
        }
        self.room()?;
        let effect = Effect::Restock { reservation_id: id.to_owned(), lines: lines.to_vec() };
        self.put(order, key, effect, now)
    }
}

fn quantity_of(units: &[Units], line: &Units) -> u64 {
    units.iter().find(|other| other.product == line.product).map_or(0, |other| other.quantity)
}

#[async_trait]
impl Inventory for Simulator {
    async fn check_availability(
        &self,
        ctx: &CallContext,
        lines: &[StockLine],
    ) -> Result<Vec<Shortage>, CallError> {
        let lines = units_of(lines);
        self.call(ctx, Method::CheckAvailability, move |core, plan| {
            let lines = lines.clone()?;
            plan.fail_here()?;
            Ok(core.ledger_now().0.shortages(&lines, plan.out_of_stock))
        })
        .await
    }

    async fn reserve(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        lines: &[StockLine],
        ttl: Duration,
    ) -> Result<String, CallError> {
        let (lines, key) = (units_of(lines), key.clone());
        self.call(ctx, Method::Reserve, move |core, plan| {
            check_key(&key)?;
            let lines = lines.clone()?;
            if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
                return Err(invalid("ttl must be from 1 second to 30 days"));
            }
            let (mut ledger, now) = core.ledger_now();
            let expires_at = TimeDelta::from_std(ttl).ok().and_then(|ttl| now.checked_add_signed(ttl));
            let expires_at = expires_at.ok_or_else(|| invalid("ttl is out of range"))?;
            ledger.reserve(plan, &key, order, lines, (now, expires_at))
        })
        .await
    }

    async fn commit(&self, ctx: &CallContext, key: &CallKey, reservation_id: &str) -> Result<(), CallError> {
        let (key, id) = (key.clone(), reservation_id.to_owned());
        self.call(ctx, Method::Commit, move |core, plan| {
            check_key(&key)?;
            let (mut ledger, now) = core.ledger_now();
            ledger.commit(plan, &key, &id, now)
        })
        .await
    }

    async fn release(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        target: &ReleaseTarget,
    ) -> Result<ReleaseOutcome, CallError> {
        let (key, target) = (key.clone(), target.clone());
        self.call(ctx, Method::Release, move |core, plan| {
            check_key(&key)?;
            if let ReleaseTarget::ReserveKey(reserve_key) = &target {
                check_key(reserve_key)?;
            }
            let (mut ledger, now) = core.ledger_now();
            ledger.release(plan, &key, &target, now)
        })
        .await
    }

    async fn restock(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        reservation_id: &str,
        lines: &[StockLine],
    ) -> Result<(), CallError> {
        let (key, id, lines) = (key.clone(), reservation_id.to_owned(), units_of(lines));
        self.call(ctx, Method::Restock, move |core, plan| {
            check_key(&key)?;
            let lines = lines.clone()?;
            let (mut ledger, now) = core.ledger_now();
            ledger.restock(plan, &key, &id, &lines, now)
        })
        .await
    }
}
