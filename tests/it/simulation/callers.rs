//! What callers want, when they ask for it, and what they must hear.

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::amend::Edit;
use order_service::domain::command::OrderCommand;
use order_service::domain::error::OrderError;
use order_service::domain::money::format_amount;
use order_service::domain::order::Order;
use order_service::domain::react::Input;
use order_service::domain::refund;
use order_service::domain::status::{OrderStatus, PaymentStatus, Rule};
use rust_decimal::Decimal;

use super::{Heard, Next, Run};
use crate::harness::laws::{Law, law};
use crate::harness::{NOVELTY, ask, dawn, edited, set_status};

/// A command that somebody will give.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// None = other items, whatever the order has then.
    pub(super) command: Option<OrderCommand>,
    pub(super) request: Option<(String, u8)>,
    pub(super) stale: bool,
}

impl Run {
    /// What callers will want, and when the process dies by itself.
    pub(super) fn plan(&mut self) {
        let eager = self.chance.percent(60);
        let wishes = if eager { 8 + self.chance.below(10) } else { self.chance.below(6) };
        let cancels = if self.chance.percent(50) { 25 } else { 3 };
        let edits = if self.chance.percent(40) { 50 } else { 4 };
        for n in 0..wishes {
            let command = if self.chance.percent(cancels) {
                Some(OrderCommand::Cancel { notes: "changed my mind".to_owned() })
            } else if self.chance.percent(edits) {
                None
            } else if self.chance.percent(5) {
                Some(OrderCommand::AddShipment { tracking: None })
            } else if self.chance.percent(25) {
                Some(self.noted())
            } else if self.chance.percent(20) {
                Some(self.money_back())
            } else {
                Some(set_status(self.chance.pick(&[
                    OrderStatus::Processing,
                    OrderStatus::Processing,
                    OrderStatus::Shipped,
                    OrderStatus::Shipped,
                    OrderStatus::Delivered,
                    OrderStatus::Returned,
                    OrderStatus::Confirmed,
                ])))
            };
            let request = self.chance.percent(50).then(|| (format!("request-{n}"), 2));
            let wanted = Wanted { command, request, stale: self.chance.percent(5) };
            let at = if self.chance.percent(50) {
                // While the first calls are under way.
                dawn() + TimeDelta::milliseconds(self.chance.below(5_000))
            } else {
                dawn() + TimeDelta::milliseconds(self.chance.below(240_000))
            };
            for again in 0..=i64::from(wanted.request.is_some()) * self.chance.below(3) {
                let mut wanted = wanted.clone();
                if let Some((_, content)) = &mut wanted.request
                    && again > 0
                    && self.chance.percent(20)
                {
                    *content = 3;
                }
                self.wanted.push(wanted);
                let later = TimeDelta::milliseconds(again * self.chance.below(20_000));
                self.at(at + later, Next::Command(self.wanted.len() - 1));
            }
        }
        if self.chance.percent(30) {
            let at = dawn() + TimeDelta::milliseconds(self.chance.below(3_000));
            self.at(at, Next::Create);
        }
        for _ in 0..self.weather.crash / 8 {
            let at = dawn() + TimeDelta::milliseconds(self.chance.below(20_000));
            self.at(at, Next::Crash);
        }
    }

    /// A refund, now and then of more than there is.
    fn money_back(&mut self) -> OrderCommand {
        let wish = match self.chance.below(6) {
            0 => refund::Wish::Rest,
            1 | 2 => {
                let part = self.draft.totals.total / Decimal::from(1 + self.chance.below(4));
                refund::Wish::Amount(format_amount(part, self.draft.currency))
            }
            _ => {
                let count = self.draft.items.len() as i64;
                let item = &self.draft.items[self.chance.below(count) as usize];
                refund::Wish::Items(vec![(item.id, 1 + self.chance.below(3) as u32)])
            }
        };
        OrderCommand::Refund { wish, reason: "broken".to_owned() }
    }

    /// Other items for the order as it stands, now and then as it does not.
    fn other_items(&mut self, order: &Order) -> Option<OrderCommand> {
        let item = &order.items[self.chance.below(order.items.len() as i64) as usize];
        let quantity = match self.chance.below(4) {
            0 if order.items.len() > 1 => 0,
            0 | 1 => item.quantity.saturating_sub(1).max(1),
            _ => item.quantity + 1 + self.chance.below(3) as u32,
        };
        let change = if self.chance.percent(25) {
            (NOVELTY, 1 + self.chance.below(2) as u32)
        } else {
            (item.product, quantity)
        };
        let mut edit = edited(order, &[change])?;
        if self.chance.percent(5) {
            edit.base.pop();
        }
        Some(OrderCommand::Edit(Box::new(edit)))
    }

    /// A hold, or its end.
    fn noted(&mut self) -> OrderCommand {
        if self.chance.percent(40) {
            return OrderCommand::Release { notes: "looked at it".to_owned() };
        }
        let until = dawn() + TimeDelta::milliseconds(self.chance.below(240_000));
        OrderCommand::Hold { reason: "fraud?".to_owned(), until: self.chance.percent(60).then_some(until) }
    }

    pub(super) fn command(&mut self, number: usize) -> Law {
        if !self.up || self.store.order.is_none() || !self.catch_up()? {
            return Ok(());
        }
        let wanted = self.wanted[number].clone();
        if let Some(OrderCommand::Repair(repair)) = &wanted.command {
            return self.operate(repair);
        }
        let order = self.store.order.clone().unwrap();
        let version = wanted.stale.then(|| order.version - self.chance.below(2));
        let request = wanted.request.as_ref().map(|(id, content)| (id.as_str(), *content));
        let known = request.and_then(|(id, content)| {
            let record = order.requests.iter().find(|record| record.request_id == id)?;
            Some(record.hash == [content; 16])
        });
        let running = self.store.saga.as_ref().is_some_and(|saga| !saga.settled);
        let calling = self.flying.is_some();
        let command = match wanted.command.clone() {
            Some(command) => command,
            None => match self.other_items(&order) {
                Some(command) => command,
                None => return Ok(()),
            },
        };
        let asked = ask(command.clone(), request, version);
        let heard = self.input(Input::Command { ask: asked, calling })?;
        self.note(|| format!("  heard {heard:?}"));
        let stale = version.is_some_and(|seen| seen != order.version);
        let repeatable = request.is_some();
        let seen = Seen { order: &order, running, known, stale, repeatable, now: self.now };
        law!(
            seen.fits(&command, &heard),
            "I2: {wanted:?} of an order that is {} was answered {heard:?}",
            order.status
        );
        let cancel = matches!(command, OrderCommand::Cancel { .. });
        // Of what changes nothing, only the request's id is kept.
        let is_idle = match &command {
            OrderCommand::Release { .. } => order.hold.is_none(),
            OrderCommand::Edit(edit) => edit.base == edit.items,
            _ => false,
        };
        if matches!(heard, Heard::Done) && !is_idle {
            self.acknowledged.push(order.version + 1);
            // Some think better of an edit before it is made.
            if matches!(command, OrderCommand::Edit(_)) && self.chance.percent(15) {
                let command = Some(OrderCommand::Cancel { notes: "not at all".to_owned() });
                self.wanted.push(Wanted { command, request: None, stale: false });
                let soon = self.now + TimeDelta::milliseconds(self.chance.below(3_000));
                self.at(soon, Next::Command(self.wanted.len() - 1));
            }
        }
        if cancel && matches!(heard, Heard::Done | Heard::Join | Heard::Unchanged) {
            self.cancel_acknowledged = true;
        }
        Ok(())
    }
}

/// What a command met.
struct Seen<'a> {
    order: &'a Order,
    running: bool,
    /// Its request id changed the order before, by the same content or by other.
    known: Option<bool>,
    stale: bool,
    /// It has a request id.
    repeatable: bool,
    now: Timestamp,
}

impl Seen<'_> {
    /// Whether the contract allows this answer.
    fn fits(&self, command: &OrderCommand, heard: &Heard) -> bool {
        match command {
            OrderCommand::Hold { until, .. } => self.fits_note(heard, Some(*until)),
            OrderCommand::Release { .. } => self.fits_note(heard, None),
            OrderCommand::Refund { wish, .. } => self.fits_refund(heard, wish),
            OrderCommand::Edit(edit) => self.fits_edit(heard, edit),
            OrderCommand::AddShipment { .. } => self.fits_parcel(heard),
            _ => self.fits_move(command, heard),
        }
    }

    /// A hold until then, or a release.
    fn fits_note(&self, heard: &Heard, hold: Option<Option<Timestamp>>) -> bool {
        use OrderError::{Invalid, NotAllowed, RequestIdReused, VersionMismatch};
        let can_hold = self.order.status.can_hold();
        let over = hold.flatten().is_some_and(|until| until <= self.now);
        match heard {
            Heard::Died => true,
            Heard::No(RequestIdReused) => self.known == Some(false),
            Heard::Unchanged if self.known.is_some() => self.known == Some(true),
            Heard::No(VersionMismatch { .. }) => self.known.is_none() && self.stale,
            _ if self.known.is_some() || self.stale => false,
            Heard::Done if hold.is_some() => can_hold && !over,
            // The id of a request that changes nothing is kept.
            Heard::Done => self.order.hold.is_some() || self.repeatable,
            Heard::Unchanged => hold.is_none() && self.order.hold.is_none() && !self.repeatable,
            Heard::No(NotAllowed { .. }) => hold.is_some() && !can_hold,
            Heard::No(Invalid(_)) => over,
            _ => false,
        }
    }

    fn fits_parcel(&self, heard: &Heard) -> bool {
        use OrderError::{Busy, NotAllowed, OnHold, RequestIdReused, VersionMismatch};
        let may = self.order.status == OrderStatus::Processing;
        let held = self.order.hold.as_ref().is_some_and(|hold| hold.is_on(self.now));
        match heard {
            Heard::Died => true,
            Heard::No(RequestIdReused) => self.known == Some(false),
            Heard::Repeat(_) => self.known == Some(true),
            Heard::No(VersionMismatch { .. }) => self.known.is_none() && self.stale,
            _ if self.known.is_some() || self.stale => false,
            Heard::No(NotAllowed { .. }) => !may,
            Heard::No(OnHold { .. }) => may && held,
            Heard::No(Busy { .. }) => may && !held && self.running,
            Heard::Done => may && !held && !self.running,
            _ => false,
        }
    }

    fn fits_edit(&self, heard: &Heard, edit: &Edit) -> bool {
        use OrderError::{Busy, NotEditable, OnHold, RequestIdReused, VersionMismatch};
        let order = self.order;
        let (pending, confirmed) =
            (order.status == OrderStatus::Pending, order.status == OrderStatus::Confirmed);
        let held = confirmed && order.hold.as_ref().is_some_and(|hold| hold.is_on(self.now));
        let given = order.grants.iter().any(|grant| refund::stands(order, grant));
        let moved = *order.items != edit.base;
        match heard {
            Heard::Died => true,
            Heard::No(RequestIdReused) => self.known == Some(false),
            Heard::Repeat(_) => self.known == Some(true),
            Heard::Unchanged if self.known.is_some() => self.known == Some(true),
            Heard::No(VersionMismatch { .. }) => self.known.is_none() && self.stale,
            _ if self.known.is_some() || self.stale => false,
            Heard::Unchanged => edit.base == edit.items && !self.repeatable,
            Heard::Done if edit.base == edit.items => self.repeatable,
            Heard::No(OnHold { .. }) => held,
            Heard::No(NotEditable { .. }) => pending || !confirmed || given,
            Heard::No(Busy { .. }) => pending || (confirmed && (self.running || moved)),
            Heard::Done if pending => order.payments.is_empty() && !moved,
            Heard::Done => confirmed && !held && !self.running && !given && !moved,
            _ => false,
        }
    }

    fn fits_refund(&self, heard: &Heard, wish: &refund::Wish) -> bool {
        use OrderError::{Busy, Invalid, ItemNotFound, NotAllowed, RequestIdReused, VersionMismatch};
        let (order, can) = (self.order, self.order.status.can_refund());
        let left = refund::left(order);
        let fits = match wish {
            refund::Wish::Rest => left > Decimal::ZERO,
            refund::Wish::Amount(text) => {
                let amount: Decimal = text.parse().unwrap();
                amount > Decimal::ZERO && amount <= left
            }
            refund::Wish::Items(items) => {
                let mut worth = Decimal::ZERO;
                let fits = items.iter().all(|(id, count)| {
                    // An edit may have removed it.
                    let Some(item) = order.items.iter().find(|item| item.id == *id) else { return false };
                    let (before, paid) = refund::of_line(order, *id);
                    worth += refund::worth(item, before + count, order.currency).unwrap() - paid;
                    before + count <= item.quantity
                });
                fits && worth > Decimal::ZERO && worth <= left
            }
        };
        match heard {
            Heard::Died => true,
            Heard::No(RequestIdReused) => self.known == Some(false),
            Heard::Repeat(_) => self.known == Some(true),
            Heard::No(VersionMismatch { .. }) => self.known.is_none() && self.stale,
            _ if self.known.is_some() || self.stale => false,
            Heard::No(NotAllowed { .. }) => !can,
            Heard::No(Busy { .. }) => can && self.running,
            Heard::No(Invalid(_) | ItemNotFound { .. }) => can && !self.running && !fits,
            Heard::Done => can && !self.running && fits,
            _ => false,
        }
    }

    fn fits_move(&self, command: &OrderCommand, heard: &Heard) -> bool {
        use OrderError::{
            Busy, IllegalTransition, OnHold, RequestIdReused, StatusManagedBySaga, VersionMismatch,
        };
        let (cancel, to) = match command {
            OrderCommand::SetStatus { to, .. } => (false, *to),
            _ => (true, OrderStatus::Cancelled),
        };
        let status = self.order.status;
        let held = self.order.hold.as_ref().is_some_and(|hold| hold.is_on(self.now));
        let stopped = held && to != OrderStatus::Returned;
        let by_rule = match heard {
            Heard::Died => return true,
            Heard::No(RequestIdReused) => return self.known == Some(false),
            Heard::Repeat(_) => return self.known == Some(true) && !(cancel && self.running),
            Heard::Join if self.known == Some(true) => return cancel && self.running,
            Heard::No(VersionMismatch { .. }) => return self.known.is_none() && self.stale,
            Heard::Done if cancel => status.can_cancel(),
            Heard::Join => cancel && self.running && status.can_cancel(),
            Heard::No(IllegalTransition { .. }) if cancel => {
                !status.can_cancel() && status != OrderStatus::Cancelled
            }
            Heard::Unchanged => status.rule(to) == Rule::Same,
            Heard::No(OnHold { .. }) => status.rule(to) == Rule::Request && stopped,
            Heard::Done => status.rule(to) == Rule::Request && !self.running && !stopped,
            Heard::No(Busy { .. }) => status.rule(to) == Rule::Request && self.running && !stopped,
            Heard::No(StatusManagedBySaga { .. }) => to == OrderStatus::Confirmed,
            // Nothing is packed for an order whose money went back.
            Heard::No(IllegalTransition { missing: Some(_), .. }) => {
                to == OrderStatus::Processing && self.order.payment_status == PaymentStatus::Refunded
            }
            Heard::No(IllegalTransition { .. }) => status.rule(to) != Rule::Request,
            Heard::No(_) => false,
        };
        by_rule && self.known.is_none() && !self.stale
    }
}
