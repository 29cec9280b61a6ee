//! The simulated inventory service.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;

use super::faults::{Method, Plan};
use super::ledger::{Ledger, check_key, invalid, order_named_by, reused, units_of};
use super::records::{Reservation, ReservationState, Restock, Units, derived};
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
    fn reservation(&mut self, id: &str) -> Option<(OrderId, &mut Reservation)> {
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
        let derived = derived(RESERVE, key);
        let home = self.home(derived).unwrap_or(order);
        self.arrive(home, Method::Reserve, key)?;
        plan.fail_here()?;
        let id = format!("{ID_PREFIX}{}", derived.simple());
        if let Some((booked, found)) = self.reservation(&id) {
            return match found.state {
                ReservationState::Tombstone => Err(refused(reason::RESERVATION_RELEASED)),
                _ if found.lines != lines || booked != order => Err(reused()),
                ReservationState::Held | ReservationState::Committed => Ok(id),
                ReservationState::Released => Err(refused(reason::RESERVATION_RELEASED)),
                ReservationState::Expired => Err(refused(reason::RESERVATION_EXPIRED)),
            };
        }
        let shortages = self.shortages(&lines, plan.out_of_stock);
        if !shortages.is_empty() {
            return Err(out_of_stock(shortages));
        }
        self.count_record()?;
        self.hold(&lines);
        self.settle(derived, order);
        let book = self.book(order)?;
        let index = book.reservations.len();
        book.reservations.push(Reservation {
            key: key.clone(),
            id: id.clone(),
            lines,
            restocked: Vec::new(),
            state: ReservationState::Held,
            created_at: now,
            changed_at: now,
            expires_at,
            commit_key: None,
            release_key: None,
        });
        self.expire_at(expires_at, order, index);
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
        found.state = ReservationState::Committed;
        found.changed_at = now;
        found.commit_key = Some(key.clone());
        let lines = found.lines.clone();
        self.sell(&lines);
        Ok(())
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
            ReleaseTarget::ReserveKey(reserve_key) => {
                format!("{ID_PREFIX}{}", derived(RESERVE, reserve_key).simple())
            }
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
                    found.state = ReservationState::Released;
                    found.changed_at = now;
                    found.release_key = Some(key.clone());
                    let lines = found.lines.clone();
                    self.give_back(&lines);
                    Ok(ReleaseOutcome::Released)
                }
            };
        }
        if let ReleaseTarget::ReserveKey(reserve_key) = target {
            self.count_record()?;
            let order = order_named_by(reserve_key);
            self.settle(derived(RESERVE, reserve_key), order);
            self.book(order)?.reservations.push(Reservation {
                key: reserve_key.clone(),
                id,
                lines: Vec::new(),
                restocked: Vec::new(),
                state: ReservationState::Tombstone,
                created_at: now,
                changed_at: now,
                expires_at: now,
                commit_key: None,
                release_key: Some(key.clone()),
            });
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
        let mut restocked = found.restocked.clone();
        for line in lines {
            let taken = quantity_of(&found.lines, line);
            let back = quantity_of(&restocked, line).saturating_add(line.quantity);
            if back > taken {
                return Err(refused(reason::RESTOCK_EXCEEDS_COMMITTED));
            }
            restocked.retain(|other| other.product != line.product);
            restocked.push(Units { product: line.product, quantity: back });
        }
        self.count_record()?;
        if let Some((_, found)) = self.reservation(id) {
            found.restocked = restocked;
        }
        self.bring_back(lines);
        let reservation_id = id.to_owned();
        let restock = Restock { key: key.clone(), reservation_id, lines: lines.to_vec(), at: now };
        self.book(order)?.restocks.push(restock);
        Ok(())
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
