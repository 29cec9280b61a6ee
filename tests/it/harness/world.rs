//! A pure model of inventory, payments and shipping, as their contracts describe them: every call with a key has one
//! effect and one answer, undoing what never came leaves a tombstone, and everything can be read back.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::ids::CallKey;
use order_service::domain::item::{ProductRef, Shortage, StockLine};
use order_service::domain::saga::{StepCall, StepResult};
use rust_decimal::Decimal;

/// What became of a charge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Charge {
    /// Money was taken.
    Taken(Decimal),
    /// Being worked on until that moment; then money is taken, or not.
    Pending(Timestamp, Option<Decimal>),
    /// The gateway said no.
    Declined,
    /// Closed before it came.
    Closed,
}

/// What became of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// Held until then.
    Held(Option<Timestamp>),
    /// Sold.
    Committed,
    /// Given back while held.
    Released,
    /// Ran out.
    Expired,
    /// Brought back after it was sold.
    Restocked,
}

/// What became of a reserve call.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Reserve {
    Made(usize),
    Short(Vec<Shortage>),
    Tombstone,
}

/// How a collaborator is disposed at the moment a call first arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mood {
    /// It says no, where it may.
    pub refuses: bool,
    /// A charge is worked on for so long.
    pub ponders: Option<TimeDelta>,
    /// Reservations made now run out after so long.
    pub expires: Option<TimeDelta>,
    /// A charge that is not known is closed by the question.
    pub closes: bool,
}

/// The collaborators of one order.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The payment side's ledger.
    pub charges: BTreeMap<CallKey, Charge>,
    /// Refunds by key; none = refused.
    pub refunds: BTreeMap<CallKey, Option<Decimal>>,
    /// Reservations in the order they were made.
    pub holds: Vec<Hold>,
    /// What each of them has set aside, or has sold, and did not get back.
    pub out: Vec<Vec<StockLine>>,
    reserves: BTreeMap<CallKey, Reserve>,
    /// Labels by key: live, or void.
    pub labels: BTreeMap<CallKey, bool>,
    restocks: BTreeSet<CallKey>,
    /// On sale at first.
    pub initial: BTreeMap<ProductRef, i64>,
    /// On sale now.
    pub available: BTreeMap<ProductRef, i64>,
}

fn refused(dependency: &'static str, reason: &str, shortages: Vec<Shortage>) -> StepResult {
    StepResult::Refused { dependency, reason: reason.to_owned(), shortages }
}

impl World {
    /// So many of each product as the lines say and `spare` more, or one of the first product too few for the lines.
    pub fn new(lines: &[StockLine], enough: bool, spare: u32) -> Self {
        let mut initial = BTreeMap::new();
        for line in lines {
            *initial.entry(line.product).or_insert_with(|| i64::from(spare)) += i64::from(line.quantity);
        }
        if let (false, Some(line)) = (enough, lines.first()) {
            *initial.entry(line.product).or_default() -= 1 + i64::from(spare);
        }
        Self { available: initial.clone(), initial, ..Self::default() }
    }

    /// More that is on sale.
    pub fn stock(&mut self, product: ProductRef, quantity: u32) {
        self.initial.insert(product, i64::from(quantity));
        self.available.insert(product, i64::from(quantity));
    }

    /// Carries out `call` and gives the answer that should travel back.
    pub fn execute(&mut self, call: &StepCall, mood: Mood, now: Timestamp) -> StepResult {
        self.pass(now);
        match call {
            StepCall::Reserve { key, lines, .. } => self.reserve(key, lines, mood, now),
            StepCall::CommitStock { reservation_id, .. } => {
                let place = place(reservation_id);
                match self.holds[place] {
                    Hold::Held(_) if mood.refuses => {
                        self.give_back(place, Hold::Expired);
                        refused("inventory", "RESERVATION_EXPIRED", Vec::new())
                    }
                    Hold::Held(_) => {
                        self.holds[place] = Hold::Committed;
                        StepResult::Committed
                    }
                    Hold::Committed | Hold::Restocked => StepResult::Committed,
                    Hold::Released => refused("inventory", "RESERVATION_RELEASED", Vec::new()),
                    Hold::Expired => refused("inventory", "RESERVATION_EXPIRED", Vec::new()),
                }
            }
            StepCall::Release { reservation_id, reserve_key, .. } => {
                let place = match (reservation_id, self.reserves.get(reserve_key)) {
                    (Some(id), _) => Some(place(id)),
                    (None, Some(Reserve::Made(place))) => Some(*place),
                    (None, Some(_)) => None,
                    (None, None) => {
                        self.reserves.insert(reserve_key.clone(), Reserve::Tombstone);
                        None
                    }
                };
                match place.map(|place| (place, self.holds[place])) {
                    Some((place, Hold::Held(_))) => self.give_back(place, Hold::Released),
                    Some((place, Hold::Committed)) => {
                        return StepResult::FoundCommitted { reservation_id: format!("res-{place}") };
                    }
                    _ => {}
                }
                StepResult::Released
            }
            StepCall::Restock { key, reservation_id, lines } => {
                let place = place(reservation_id);
                if self.restocks.contains(key) {
                    return StepResult::Restocked;
                }
                if self.holds[place] != Hold::Committed {
                    return refused("inventory", "RESERVATION_NOT_COMMITTED", Vec::new());
                }
                let mut left = self.out[place].clone();
                for line in lines {
                    let found = left.iter_mut().find(|out| out.product == line.product);
                    match found.filter(|out| out.quantity >= line.quantity) {
                        Some(out) => out.quantity -= line.quantity,
                        None => return refused("inventory", "RESTOCK_EXCEEDS_COMMITTED", Vec::new()),
                    }
                }
                self.restocks.insert(key.clone());
                for line in lines {
                    *self.available.get_mut(&line.product).unwrap() += i64::from(line.quantity);
                }
                left.retain(|line| line.quantity > 0);
                if left.is_empty() {
                    self.holds[place] = Hold::Restocked;
                }
                self.out[place] = left;
                StepResult::Restocked
            }
            StepCall::Charge { key, amount, .. } => self.charge(key, *amount, mood, now),
            StepCall::QueryCharge { key } => match self.charges.get(key) {
                None => {
                    if mood.closes {
                        self.charges.insert(key.clone(), Charge::Closed);
                    }
                    StepResult::ChargeNotFound
                }
                Some(Charge::Closed) => StepResult::ChargeNotFound,
                Some(Charge::Pending(..)) => StepResult::ChargePending,
                Some(Charge::Taken(_)) => charged(key),
                Some(Charge::Declined) => refused("payment", "CARD_DECLINED", Vec::new()),
            },
            StepCall::Refund { key, amount, .. } => self.refund(key, *amount, mood),
            StepCall::CreateLabel { key } => match self.labels.get(key) {
                None if mood.refuses => {
                    self.labels.insert(key.clone(), false);
                    refused("shipping", "NO_SERVICE", Vec::new())
                }
                Some(false) => refused("shipping", "LABEL_VOIDED", Vec::new()),
                None | Some(true) => {
                    self.labels.insert(key.clone(), true);
                    StepResult::LabelCreated {
                        carrier: "DHL".to_owned(),
                        tracking_number: format!("T-{}", self.labels.len()),
                        label_url: "https://labels.example/1".to_owned(),
                    }
                }
            },
            StepCall::VoidLabel { key } => {
                self.labels.insert(key.clone(), false);
                StepResult::LabelVoided
            }
        }
    }

    /// Does by hand what a call is for that undoes a label or a sale.
    pub fn by_hand(&mut self, call: &StepCall) {
        match call {
            StepCall::VoidLabel { key } => {
                self.labels.insert(key.clone(), false);
            }
            StepCall::Restock { key, .. } => {
                if !self.restocks.contains(key) {
                    self.execute(call, Mood::default(), Timestamp::MIN_UTC);
                }
            }
            other => panic!("nobody does {other:?} by hand"),
        }
    }

    fn reserve(&mut self, key: &CallKey, lines: &[StockLine], mood: Mood, now: Timestamp) -> StepResult {
        if !self.reserves.contains_key(key) {
            let mut needs: BTreeMap<ProductRef, i64> = BTreeMap::new();
            for line in lines {
                *needs.entry(line.product).or_default() += i64::from(line.quantity);
            }
            let short = needs.iter().filter(|(product, need)| {
                mood.refuses || self.available.get(product).is_none_or(|there| there < need)
            });
            let short: Vec<_> = short
                .map(|(product, need)| Shortage {
                    product: *product,
                    requested_quantity: *need as u32,
                    available_quantity: 0,
                })
                .collect();
            let outcome = if short.is_empty() {
                for (product, need) in needs {
                    *self.available.get_mut(&product).unwrap() -= need;
                }
                self.out.push(lines.to_vec());
                self.holds.push(Hold::Held(mood.expires.map(|after| now + after)));
                Reserve::Made(self.holds.len() - 1)
            } else {
                Reserve::Short(short)
            };
            self.reserves.insert(key.clone(), outcome);
        }
        match &self.reserves[key] {
            Reserve::Short(shortages) => refused("inventory", "OUT_OF_STOCK", shortages.clone()),
            Reserve::Tombstone => refused("inventory", "RESERVATION_RELEASED", Vec::new()),
            Reserve::Made(place) => match self.holds[*place] {
                Hold::Held(_) | Hold::Committed | Hold::Restocked => {
                    StepResult::Reserved { reservation_id: format!("res-{place}") }
                }
                Hold::Released => refused("inventory", "RESERVATION_RELEASED", Vec::new()),
                Hold::Expired => refused("inventory", "RESERVATION_EXPIRED", Vec::new()),
            },
        }
    }

    fn charge(&mut self, key: &CallKey, amount: Decimal, mood: Mood, now: Timestamp) -> StepResult {
        if !self.charges.contains_key(key) {
            let taken = (!mood.refuses).then_some(amount);
            let charge = match (mood.ponders, taken) {
                (Some(time), taken) => Charge::Pending(now + time, taken),
                (None, Some(amount)) => Charge::Taken(amount),
                (None, None) => Charge::Declined,
            };
            self.charges.insert(key.clone(), charge);
        }
        match &self.charges[key] {
            Charge::Taken(_) => charged(key),
            Charge::Declined => refused("payment", "CARD_DECLINED", Vec::new()),
            Charge::Closed => refused("payment", "TRANSACTION_CLOSED", Vec::new()),
            Charge::Pending(..) => {
                StepResult::Unknown { dependency: "payment", error: "still running".to_owned() }
            }
        }
    }

    fn refund(&mut self, key: &CallKey, amount: Decimal, mood: Mood) -> StepResult {
        if !self.refunds.contains_key(key) {
            let fits = self.refunded() + amount <= self.captured();
            self.refunds.insert(key.clone(), (fits && !mood.refuses).then_some(amount));
        }
        match self.refunds[key] {
            Some(_) => StepResult::Refunded { refund_id: format!("re-{key}") },
            None => refused("payment", "MERCHANT_ACCOUNT_EMPTY", Vec::new()),
        }
    }

    /// Lets time pass: pending charges are decided, reservations run out.
    pub fn pass(&mut self, now: Timestamp) {
        for charge in self.charges.values_mut() {
            if let Charge::Pending(until, taken) = *charge
                && until <= now
            {
                *charge = taken.map_or(Charge::Declined, Charge::Taken);
            }
        }
        for place in 0..self.holds.len() {
            if let Hold::Held(Some(until)) = self.holds[place]
                && until <= now
            {
                self.give_back(place, Hold::Expired);
            }
        }
    }

    fn give_back(&mut self, place: usize, end: Hold) {
        self.holds[place] = end;
        for line in std::mem::take(&mut self.out[place]) {
            *self.available.get_mut(&line.product).unwrap() += i64::from(line.quantity);
        }
    }

    /// Money taken.
    pub fn captured(&self) -> Decimal {
        self.charges
            .values()
            .map(|charge| if let Charge::Taken(amount) = charge { *amount } else { Decimal::ZERO })
            .sum()
    }

    /// Money given back.
    pub fn refunded(&self) -> Decimal {
        self.refunds.values().flatten().sum()
    }

    /// How often money was taken for each intent.
    pub fn takings(&self) -> BTreeMap<String, usize> {
        let mut takings = BTreeMap::new();
        for (key, charge) in &self.charges {
            if matches!(charge, Charge::Taken(_)) {
                *takings.entry(key.intent().to_owned()).or_default() += 1;
            }
        }
        takings
    }

    /// What is sold of each product.
    pub fn sold(&self) -> BTreeMap<ProductRef, u32> {
        let sold = self.holds.iter().zip(&self.out).filter(|(hold, _)| **hold == Hold::Committed);
        let lines: Vec<StockLine> = sold.flat_map(|(_, lines)| lines.clone()).collect();
        order_service::domain::stock::units(&lines)
    }
}

fn charged(key: &CallKey) -> StepResult {
    StepResult::Charged { transaction_id: format!("tx-{key}"), gateway_response: None }
}

fn place(id: &str) -> usize {
    id.strip_prefix("res-").unwrap().parse().unwrap()
}
