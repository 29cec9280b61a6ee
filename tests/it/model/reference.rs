//! The reference model: what an order is to a caller, and what each call may answer and do. It knows nothing of sagas.

use std::collections::BTreeMap;

use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{
    self, Cancelled, Confirmed, Delivered, Processing, Returned, Shipped,
};
use rust_decimal::{Decimal, RoundingStrategy};

/// What went back by wish.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Back {
    /// So much.
    Exactly(Decimal),
    /// From the first to the second: a refund of which it is not known how far it came.
    Between(Decimal, Decimal),
    /// Anything: it depends on an amount that is not known.
    Any,
}

/// A line as it was last seen.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    /// How many.
    pub quantity: i32,
    /// What all of them cost, with discount and tax.
    pub cost: Decimal,
    /// How many were given back by wish.
    pub returned: i32,
}

/// An order at rest.
#[derive(Clone, PartialEq, Debug)]
pub struct Life {
    pub status: OrderStatus,
    /// By product and variant.
    pub lines: BTreeMap<String, Line>,
    /// None while an edit has changed it and it was not looked at since.
    pub total: Option<Decimal>,
    pub back: Back,
    pub held: bool,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Act {
    Create { other_content: bool },
    Cancel,
    Become(OrderStatus),
    Add { product: String, quantity: i32, scarce: bool, preview: bool },
    Set { item: String, product: String, quantity: i32, scarce: bool },
    Remove { item: String, product: String },
    RefundAmount(Decimal),
    RefundItems { item: String, product: String, quantity: i32 },
    RefundRest,
    Hold,
    Release,
    Read,
    Restart,
}

/// What may go wrong in this world, beyond what the rules refuse.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    pub calls_fail: bool,
    pub declines: bool,
    pub out_of_stock: bool,
    pub store_fails: bool,
    /// A coupon that may be used up, or need more than the order has.
    pub coupon: bool,
    /// Of scarce goods there may be none left.
    pub scarce: bool,
}

/// The circumstances of a call.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    pub weather: Weather,
    /// Others ran at the same time.
    pub overlap: bool,
    /// One of them created the order.
    pub creating: bool,
    /// One of them held it: what is under way goes on, and others are refused.
    pub holding: bool,
    /// The process may have died meanwhile.
    pub dying: bool,
    /// The caller waited for the end.
    pub patient: bool,
    /// The version that was named is not the order's.
    pub stale: bool,
    /// The same request was carried out before.
    pub repeat: Option<bool>,
}

type State = Option<Life>;
type Answer<'a> = Result<&'a pb::Order, &'a str>;

enum Rule {
    /// One of these reasons.
    Refuse(&'static [&'static str]),
    /// Nothing changes.
    Nothing,
    /// The order becomes this, or stays as it was when it fails.
    Effect(Life),
    /// A refund of so much.
    Refund(Life, Option<Decimal>),
    /// It depends.
    Either(Life, &'static [&'static str]),
}

/// The contract's table, once more.
fn follows(from: OrderStatus, to: OrderStatus) -> bool {
    matches!(
        (from, to),
        (Confirmed, Processing)
            | (Processing, Shipped)
            | (Shipped, Delivered | Returned)
            | (Delivered, Returned)
    )
}

const ILLEGAL: &[&str] = &["ILLEGAL_TRANSITION"];
const FIXED: &[&str] = &["ORDER_NOT_EDITABLE"];
const INVALID: &[&str] = &["INVALID_FIELD"];

impl Life {
    fn is_live(&self) -> bool {
        !matches!(self.status, Cancelled | Returned)
    }

    /// What can be given back, where that is known.
    fn left(&self) -> Option<Decimal> {
        match (self.is_live(), self.total, self.back) {
            (false, ..) => Some(Decimal::ZERO),
            (true, Some(total), Back::Exactly(back)) => Some(total - back),
            _ => None,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut life = self.clone();
        change(&mut life);
        life
    }

    fn refund(&self, amount: Option<Decimal>) -> Rule {
        let mut life = self.clone();
        life.back = match (self.back, amount) {
            (Back::Exactly(back), Some(amount)) => Back::Exactly(back + amount),
            _ => Back::Any,
        };
        match (self.left(), amount) {
            (Some(left), Some(amount)) if amount <= Decimal::ZERO || amount > left => Rule::Refuse(INVALID),
            (Some(left), None) if left <= Decimal::ZERO => Rule::Refuse(INVALID),
            (None, _) => Rule::Either(life, INVALID),
            (Some(_), amount) => Rule::Refund(life, amount),
        }
    }

    fn edit(&self, lines: Option<BTreeMap<String, Line>>) -> Rule {
        if self.status != Confirmed {
            return Rule::Refuse(FIXED);
        }
        if self.held {
            return Rule::Refuse(&["ORDER_ON_HOLD"]);
        }
        match self.back {
            Back::Exactly(back) if back.is_zero() => {}
            Back::Exactly(_) => return Rule::Refuse(FIXED),
            _ => {
                let life = self.with(|life| life.total = None);
                return Rule::Either(life, FIXED);
            }
        }
        match lines {
            None => Rule::Refuse(&["ITEM_NOT_FOUND"]),
            Some(lines) if lines.is_empty() => Rule::Refuse(FIXED),
            Some(lines) => {
                let same = |(now, before): (&Line, &Line)| now.quantity == before.quantity;
                let unchanged =
                    lines.keys().eq(self.lines.keys()) && lines.values().zip(self.lines.values()).all(same);
                if unchanged {
                    return Rule::Nothing;
                }
                Rule::Effect(self.with(|life| (life.lines, life.total) = (lines, None)))
            }
        }
    }

    fn rule(&self, act: &Act) -> Rule {
        let lines = || self.lines.clone();
        match act {
            Act::Create { other_content: true } => Rule::Refuse(&["REQUEST_ID_REUSED"]),
            Act::Create { other_content: false } | Act::Read | Act::Restart => Rule::Nothing,
            Act::Cancel | Act::Become(Cancelled) => match self.status {
                Cancelled => Rule::Nothing,
                Confirmed | Processing => Rule::Effect(self.with(|life| life.status = Cancelled)),
                _ => Rule::Refuse(ILLEGAL),
            },
            Act::Become(to) if *to == self.status => Rule::Nothing,
            Act::Become(Confirmed) => Rule::Refuse(&["STATUS_MANAGED_BY_SAGA"]),
            Act::Become(to) if !follows(self.status, *to) => Rule::Refuse(ILLEGAL),
            Act::Become(to) if self.held && *to != Returned => Rule::Refuse(&["ORDER_ON_HOLD"]),
            Act::Become(to) => {
                let life = self.with(|life| life.status = *to);
                let nothing_kept = self.left().is_none_or(|left| left.is_zero());
                let took = self.total != Some(Decimal::ZERO);
                if *to == Processing && nothing_kept && took {
                    return Rule::Either(life, ILLEGAL);
                }
                Rule::Effect(life)
            }
            Act::Add { product, quantity, preview, .. } => {
                let mut lines = lines();
                let line = Line { quantity: 0, cost: Decimal::ZERO, returned: 0 };
                lines.entry(product.clone()).or_insert(line).quantity += quantity;
                match self.edit(Some(lines)) {
                    Rule::Effect(_) if *preview => Rule::Nothing,
                    Rule::Either(_, reasons) if *preview => Rule::Either(self.clone(), reasons),
                    rule => rule,
                }
            }
            Act::Set { product, quantity, .. } => {
                let mut lines = lines();
                let found = lines.get_mut(product).map(|line| line.quantity = *quantity);
                self.edit(found.map(|()| lines))
            }
            Act::Remove { product, .. } => {
                let mut lines = lines();
                self.edit(lines.remove(product).map(|_| lines))
            }
            Act::RefundAmount(_) | Act::RefundItems { .. } | Act::RefundRest if self.status == Cancelled => {
                Rule::Refuse(ILLEGAL)
            }
            Act::RefundAmount(amount) => self.refund(Some(*amount)),
            Act::RefundRest => self.refund(self.left().filter(|left| *left > Decimal::ZERO)),
            Act::RefundItems { product, quantity, .. } => {
                let Some(line) = self.lines.get(product) else { return Rule::Refuse(&["ITEM_NOT_FOUND"]) };
                let count = line.returned + quantity;
                if count > line.quantity {
                    return Rule::Refuse(INVALID);
                }
                let share = |count: i32| {
                    let share = line.cost * Decimal::from(count) / Decimal::from(line.quantity);
                    share.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero)
                };
                let amount = share(count) - share(line.returned);
                match self.refund(Some(amount)) {
                    Rule::Refund(mut life, amount) => {
                        if let Some(line) = life.lines.get_mut(product) {
                            line.returned = count;
                        }
                        Rule::Refund(life, amount)
                    }
                    other => other,
                }
            }
            Act::Hold => match self.status {
                Confirmed | Processing | Shipped => Rule::Effect(self.with(|life| life.held = true)),
                _ => Rule::Refuse(ILLEGAL),
            },
            Act::Release => Rule::Effect(self.with(|life| life.held = false)),
        }
    }
}

impl Act {
    fn is_edit(&self) -> bool {
        matches!(self, Self::Add { .. } | Self::Set { .. } | Self::Remove { .. })
    }

    fn is_refund(&self) -> bool {
        matches!(self, Self::RefundAmount(_) | Self::RefundItems { .. } | Self::RefundRest)
    }

    /// Whether it can fail after it was taken.
    fn may_fail(&self, weather: Weather) -> bool {
        let fails = weather.calls_fail || weather.declines || weather.out_of_stock;
        match self {
            Self::Create { .. } | Self::Add { .. } | Self::Set { .. } => fails || weather.scarce,
            Self::Remove { .. } | Self::Become(Processing) => fails,
            act => act.is_refund() && fails,
        }
    }

    /// Whether the weather explains this refusal.
    fn excuses(&self, reason: &str, weather: Weather) -> bool {
        let takes = matches!(self, Self::Create { .. } | Self::Add { .. } | Self::Set { .. });
        let scarce = match self {
            Self::Create { .. } => weather.scarce,
            Self::Add { scarce, .. } | Self::Set { scarce, .. } => *scarce,
            _ => false,
        };
        match reason {
            // A refused refund is told as one that could not be made.
            "DEPENDENCY_UNAVAILABLE" => {
                (takes || self.may_fail(weather)) && (weather.calls_fail || weather.declines)
            }
            "PAYMENT_DECLINED" => weather.declines && (takes || self.is_edit()),
            "INVENTORY_UNAVAILABLE" => takes && (weather.out_of_stock || scarce),
            "COUPON_INVALID" => weather.coupon && (takes || self.is_edit()),
            _ => false,
        }
    }
}

/// What is left of a life whose creation failed: its beginning and its end.
fn stillborn(state: &State, wish: &Life) -> Vec<State> {
    match state {
        None => vec![None, Some(wish.with(|life| life.status = Cancelled))],
        Some(_) => vec![state.clone()],
    }
}

/// What the order may be after this answer to this act; nothing when there may be no such answer. `wish` is what a
/// creation makes.
pub fn outcomes(state: &State, act: &Act, answer: Answer<'_>, wish: &Life, c: Circumstances) -> Vec<State> {
    let stay = vec![state.clone()];
    if let Err(reason) = answer {
        let died = c.dying && matches!(reason, "SHUTTING_DOWN" | "STORAGE_UNAVAILABLE" | "OVERLOADED");
        if died || (c.weather.store_fails && reason == "STORAGE_UNAVAILABLE") {
            let mut all = effect(state, act, wish, false, c);
            all.extend(stay);
            return all;
        }
        if act.excuses(reason, c.weather) {
            return match (state, act) {
                (None, Act::Create { .. }) => stillborn(state, wish),
                (Some(life), act) if act.is_refund() => partly(life, act),
                _ => stay,
            };
        }
        if c.stale && reason == "VERSION_MISMATCH" {
            return stay;
        }
        let crossed: &[&str] = match act {
            Act::Become(Processing) => &["ORDER_BUSY", "ILLEGAL_TRANSITION"],
            act if act.is_edit() => &["ORDER_BUSY", "ORDER_NOT_EDITABLE"],
            _ => &["ORDER_BUSY"],
        };
        let early = [
            "ORDER_NOT_FOUND",
            "ORDER_NOT_EDITABLE",
            "ILLEGAL_TRANSITION",
            "STATUS_MANAGED_BY_SAGA",
            "ITEM_NOT_FOUND",
        ];
        if c.holding && reason == "ORDER_ON_HOLD" {
            return stay;
        }
        if c.overlap && (crossed.contains(&reason) || (c.creating && early.contains(&reason))) {
            return stay;
        }
    }
    match c.repeat {
        // Carried out before: nothing happens, whatever became of it since.
        Some(true) => match answer {
            Ok(_) => return stay,
            Err(reason) => {
                let overtaken = matches!(act, Act::Become(Processing)) && reason == "ILLEGAL_TRANSITION";
                return if overtaken { stay } else { Vec::new() };
            }
        },
        // It may have been carried out, with an end that is told again.
        Some(false) => {
            let mut all = if c.stale && !c.overlap { Vec::new() } else { judge(state, act, answer, wish, c) };
            let told = |reason| act.excuses(reason, c.weather) || reason == "ORDER_NOT_EDITABLE";
            if answer.is_ok() || answer.is_err_and(told) {
                all.extend(stay);
            }
            return all;
        }
        None => {}
    }
    if c.stale && !c.overlap && !matches!(act, Act::Create { .. } | Act::Read | Act::Restart) {
        return if state.is_none() && answer == Err("ORDER_NOT_FOUND") { stay } else { Vec::new() };
    }
    judge(state, act, answer, wish, c)
}

fn judge(state: &State, act: &Act, answer: Answer<'_>, wish: &Life, c: Circumstances) -> Vec<State> {
    let stay = vec![state.clone()];
    let Some(life) = state else {
        return match (act, answer) {
            (Act::Create { .. }, Ok(_)) => effect(state, act, wish, c.patient, c),
            (Act::Restart, _) => stay,
            (_, Err("ORDER_NOT_FOUND")) => stay,
            (_, Ok(_)) if c.creating => stay,
            _ => Vec::new(),
        };
    };
    match (life.rule(act), answer) {
        (Rule::Refuse(reasons) | Rule::Either(_, reasons), Err(reason)) if reasons.contains(&reason) => stay,
        // Of a creation that failed the failure is told again.
        (Rule::Nothing, Err(reason))
            if matches!(act, Act::Create { .. }) && act.excuses(reason, c.weather) =>
        {
            stay
        }
        (Rule::Refuse(_), Ok(_)) if c.creating => stay,
        (Rule::Refuse(_), Ok(_)) | (_, Err(_)) => Vec::new(),
        (Rule::Nothing, Ok(_)) => stay,
        (Rule::Effect(_) | Rule::Refund(..) | Rule::Either(..), Ok(order)) => {
            let declined = order.payment_status() == pb::PaymentStatus::RefundFailed;
            let mut all = effect(state, act, wish, c.patient, c);
            // A refund that was declined is told by the order.
            if act.is_refund() && declined && c.weather.declines {
                all = if c.overlap { all } else { Vec::new() };
                all.extend(partly(life, act));
            }
            if c.creating {
                all.extend(stay);
            }
            all
        }
    }
}

/// What comes of an act that was taken.
fn effect(state: &State, act: &Act, wish: &Life, certain: bool, c: Circumstances) -> Vec<State> {
    let fails = !certain && act.may_fail(c.weather);
    let Some(life) = state else {
        if !matches!(act, Act::Create { .. }) {
            return Vec::new();
        }
        let mut all = vec![Some(wish.clone())];
        // The answer to a creation is its failure, unless nobody waited for that.
        if fails || c.overlap {
            all.push(Some(wish.with(|life| life.status = Cancelled)));
        }
        return all;
    };
    let mut all = match life.rule(act) {
        Rule::Effect(after) | Rule::Refund(after, _) | Rule::Either(after, _) => vec![Some(after)],
        Rule::Refuse(_) | Rule::Nothing => vec![state.clone()],
    };
    // A cancel that overtakes it takes all that is left.
    if fails || (c.overlap && !certain) {
        all.extend(if act.is_refund() { partly(life, act) } else { vec![state.clone()] });
    }
    all
}

/// What a refund may come to that was refused: a part may have gone back, where there were several charges.
fn partly(life: &Life, act: &Act) -> Vec<State> {
    let Rule::Refund(after, _) = life.rule(act) else { return vec![Some(life.clone())] };
    let back = match (life.back, after.back) {
        (Back::Exactly(low), Back::Exactly(high)) => Back::Between(low, high),
        _ => Back::Any,
    };
    vec![Some(life.with(|life| life.back = back))]
}

/// Whether this is the order that the model has in mind.
pub fn fits(state: &State, seen: &State) -> bool {
    let (Some(life), Some(seen)) = (state, seen) else { return state.is_none() && seen.is_none() };
    if life.status != seen.status {
        return false;
    }
    if !life.is_live() {
        return true;
    }
    let Back::Exactly(back) = seen.back else { return false };
    let lines = |life: &Life| -> Vec<(String, i32)> {
        life.lines.iter().map(|(name, line)| (name.clone(), line.quantity)).collect()
    };
    let money = match life.back {
        Back::Exactly(due) => due == back,
        Back::Between(low, high) => (low..=high).contains(&back),
        Back::Any => true,
    };
    // What is delivered can be held no more, and nobody looks.
    let held = life.held == seen.held || life.status == Delivered;
    let total = life.total.is_none_or(|total| Some(total) == seen.total);
    lines(life) == lines(seen) && money && held && total
}
