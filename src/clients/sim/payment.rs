//! The simulated payment service.

use std::time::Duration;

use async_trait::async_trait;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::catalogue::{
    TOKEN_DECLINED, TOKEN_EXPIRED, TOKEN_INSUFFICIENT, TOKEN_LOST_REPLY, TOKEN_SLOW, TOKEN_UNAVAILABLE,
};
use super::effects::Effect;
use super::faults::{Method, Plan};
use super::ledger::{Ledger, check_key, invalid, order_named_by, reused};
use super::records::{Charge, ChargeState, derived};
use super::{Core, Simulator, lost_reply, parse_id};
use crate::domain::Timestamp;
use crate::domain::ids::{CallKey, OrderId};
use crate::domain::money::{Currency, is_amount};
use crate::ports::call::{CallContext, CallError};
use crate::ports::payment::{
    Charged, GatewayFacts, PaymentToken, Payments, Refunded, TransactionState, reason,
};

/// Delay of charges with [`TOKEN_SLOW`].
pub const SLOW: Duration = Duration::from_secs(2);
/// Longest name of a means of payment, in bytes.
const MAX_METHOD_LEN: usize = 50;
const ID_PREFIX: &str = "txn_";
/// Purpose of the name derived from a charge's key.
const CHARGE: &str = "charge";

/// What a charge asks for; a repeat must ask for the same.
#[derive(Clone, Debug)]
struct Asked {
    key: CallKey,
    order: OrderId,
    amount: Decimal,
    currency: Currency,
    method: String,
}

impl Asked {
    fn is_for(&self, charge: &Charge) -> bool {
        (charge.amount, charge.currency) == (self.amount, self.currency) && charge.method == self.method
    }

    fn check(&self) -> Result<(), CallError> {
        check_key(&self.key)?;
        if self.method.len() > MAX_METHOD_LEN {
            return Err(invalid("method must have at most 50 bytes"));
        }
        check_amount(self.amount, self.currency)
    }
}

fn check_amount(amount: Decimal, currency: Currency) -> Result<(), CallError> {
    if amount > Decimal::ZERO && is_amount(amount, currency) {
        Ok(())
    } else {
        Err(invalid("amount must be above zero, with no more digits than the currency has"))
    }
}

fn declined(code: &str) -> CallError {
    CallError::refused(code, "the payment was declined")
}

fn refused(reason: &str) -> CallError {
    let message = match reason {
        reason::TRANSACTION_CLOSED => "the key was closed before the charge arrived",
        reason::TRANSACTION_NOT_FOUND => "no such transaction",
        reason::CURRENCY_MISMATCH => "the charge has another currency",
        _ => "refunds would exceed the charge",
    };
    CallError::refused(reason, message)
}

/// A charge that has arrived, and nothing more.
pub(super) fn new_charge(
    name: Uuid,
    key: CallKey,
    amount: Decimal,
    currency: Currency,
    method: String,
    at: Timestamp,
) -> Charge {
    Charge {
        key,
        transaction_id: format!("{ID_PREFIX}{}", name.simple()),
        amount,
        currency,
        method,
        state: ChargeState::Pending,
        refunded: Decimal::ZERO,
        at,
        in_flight: 0,
    }
}

/// The id of the refund with a name.
pub(super) fn refund_id(name: Uuid) -> String {
    format!("ref_{}", name.simple())
}

fn charged(charge: &Charge) -> Charged {
    let approval = charge.transaction_id.get(4..10).map(str::to_ascii_uppercase);
    let some = |text: &str| Some(text.to_owned());
    let gateway = GatewayFacts {
        authorization_code: approval,
        card_brand: some("VISA"),
        last4: some("4242"),
        avs_result: some("Y"),
    };
    Charged { transaction_id: charge.transaction_id.clone(), gateway }
}

fn state_of(charge: &Charge) -> TransactionState {
    match &charge.state {
        ChargeState::Pending => TransactionState::Pending,
        ChargeState::Succeeded => TransactionState::Succeeded(charged(charge)),
        ChargeState::Declined(code) => TransactionState::Declined { code: code.clone() },
    }
}

impl Ledger {
    pub(super) fn charge_mut(
        &mut self,
        home: OrderId,
        key: &CallKey,
    ) -> Result<Option<&mut Charge>, CallError> {
        Ok(self.book(home)?.charges.iter_mut().find(|charge| charge.key == *key))
    }

    /// The charge with the key of `asked`, which must ask for the same and not be closed.
    fn charge_like(&mut self, name: Uuid, asked: &Asked) -> Result<Option<&mut Charge>, CallError> {
        let home = self.home(name).unwrap_or(asked.order);
        if self.book(home)?.closed_charges.iter().any(|closed| closed.key == asked.key) {
            return Err(refused(reason::TRANSACTION_CLOSED));
        }
        let found = self.charge_mut(home, &asked.key)?;
        match &found {
            Some(found) if !asked.is_for(found) || home != asked.order => Err(reused()),
            _ => Ok(found),
        }
    }

    /// Notes that a charge is on its way; a finished one stays as it is.
    fn open_charge(&mut self, asked: &Asked, now: Timestamp) -> Result<(), CallError> {
        let name = derived(CHARGE, &asked.key);
        if let Some(found) = self.charge_like(name, asked)? {
            found.in_flight = found.in_flight.saturating_add(1);
            return Ok(());
        }
        self.room()?;
        let Asked { key, order, amount, currency, method } = asked.clone();
        let mut charge = new_charge(name, key, amount, currency, method, now);
        charge.in_flight = 1;
        self.record(name, order)?.charges.push(charge);
        Ok(())
    }

    /// Ends what a delayed call began, when that call comes to nothing.
    fn drop_pending(&mut self, asked: &Asked) {
        let Some(book) = self.known_book(asked.order) else { return };
        let before = book.charges.len();
        book.charges.retain(|charge| {
            charge.key != asked.key || charge.state != ChargeState::Pending || charge.in_flight > 0
        });
        let dropped = before.saturating_sub(book.charges.len());
        self.discount_records(dropped);
    }

    /// Executes a charge. The flag tells whether this call took the money (and not an earlier one).
    fn charge(
        &mut self,
        plan: &Plan,
        asked: &Asked,
        delayed: bool,
        now: Timestamp,
    ) -> Result<(Charged, bool), CallError> {
        let name = derived(CHARGE, &asked.key);
        let home = self.home(name).unwrap_or(asked.order);
        if delayed && let Some(charge) = self.charge_mut(home, &asked.key)? {
            charge.in_flight = charge.in_flight.saturating_sub(1);
        }
        self.arrive(home, Method::Charge, &asked.key)?;
        if let Err(error) = plan.fail_here() {
            self.drop_pending(asked);
            return Err(error);
        }
        let fresh = match self.charge_like(name, asked)? {
            Some(found) => found.state == ChargeState::Pending,
            None => {
                self.room()?;
                true
            }
        };
        if fresh {
            let Asked { amount, currency, method, .. } = asked.clone();
            let declined = plan.decline.clone();
            let effect = Effect::Charge { name, amount, currency, method, declined };
            if let Err(error) = self.put(asked.order, &asked.key, effect, now) {
                self.drop_pending(asked);
                return Err(error);
            }
        }
        let missing = || CallError::Unknown("the charge is not booked".to_owned());
        let charge = self.charge_mut(asked.order, &asked.key)?.ok_or_else(missing)?;
        match &charge.state {
            ChargeState::Declined(code) => Err(declined(code)),
            ChargeState::Pending | ChargeState::Succeeded => Ok((charged(charge), fresh)),
        }
    }

    fn transaction(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        close: bool,
        now: Timestamp,
    ) -> Result<TransactionState, CallError> {
        let name = derived(CHARGE, key);
        let home = self.home(name).unwrap_or_else(|| order_named_by(key));
        self.arrive(home, Method::GetTransaction, key)?;
        plan.fail_here()?;
        if let Some(charge) = self.charge_mut(home, key)? {
            return Ok(state_of(charge));
        }
        if close && !self.book(home)?.closed_charges.iter().any(|closed| closed.key == *key) {
            self.room()?;
            self.put(home, key, Effect::Close { name }, now)?;
        }
        Ok(TransactionState::NotFound)
    }

    fn refund(
        &mut self,
        plan: &Plan,
        key: &CallKey,
        transaction_id: &str,
        (amount, currency): (Decimal, Currency),
        now: Timestamp,
    ) -> Result<Refunded, CallError> {
        let home = parse_id(ID_PREFIX, transaction_id).and_then(|id| self.home(id));
        let home = home.unwrap_or_else(|| order_named_by(key));
        self.arrive(home, Method::Refund, key)?;
        plan.fail_here()?;
        let book = self.book(home)?;
        if let Some(done) = book.refunds.iter().find(|done| done.key == *key) {
            let same =
                done.transaction_id == transaction_id && (done.amount, done.currency) == (amount, currency);
            return if same { Ok(Refunded { refund_id: done.refund_id.clone() }) } else { Err(reused()) };
        }
        let charge = book.charges.iter().find(|charge| charge.transaction_id == transaction_id);
        let Some(charge) = charge.filter(|charge| charge.state == ChargeState::Succeeded) else {
            return Err(refused(reason::TRANSACTION_NOT_FOUND));
        };
        if charge.currency != currency {
            return Err(refused(reason::CURRENCY_MISMATCH));
        }
        if charge.refunded.checked_add(amount).is_none_or(|sum| sum > charge.amount) {
            return Err(refused(reason::REFUND_EXCEEDS_CHARGE));
        }
        if let Some(code) = &plan.decline {
            return Err(CallError::refused(code.clone(), "the refund was declined"));
        }
        self.room()?;
        let name = derived("refund", key);
        let transaction_id = transaction_id.to_owned();
        self.put(home, key, Effect::Refund { name, transaction_id, amount, currency }, now)?;
        Ok(Refunded { refund_id: refund_id(name) })
    }
}

/// What a token adds to the faults of a charge.
fn bewitch(plan: &mut Plan, token: &str) {
    let code = match token {
        TOKEN_DECLINED => reason::CARD_DECLINED,
        TOKEN_INSUFFICIENT => reason::INSUFFICIENT_FUNDS,
        TOKEN_EXPIRED => reason::EXPIRED_CARD,
        TOKEN_SLOW => {
            plan.delay = plan.delay.max(SLOW);
            return;
        }
        TOKEN_UNAVAILABLE => {
            plan.unavailable = true;
            return;
        }
        _ => return,
    };
    plan.decline = Some(code.to_owned());
}

impl Simulator {
    async fn look_up(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        close: bool,
    ) -> Result<TransactionState, CallError> {
        let key = key.clone();
        self.call(ctx, Method::GetTransaction, move |core, plan| {
            check_key(&key)?;
            let (mut ledger, now) = core.ledger_now();
            ledger.transaction(plan, &key, close, now)
        })
        .await
    }
}

#[async_trait]
impl Payments for Simulator {
    async fn charge(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        amount: Decimal,
        currency: Currency,
        method: &str,
        token: Option<&PaymentToken>,
    ) -> Result<Charged, CallError> {
        let asked = Asked { key: key.clone(), order, amount, currency, method: method.to_owned() };
        let token = token.map_or("", PaymentToken::expose);
        if token.len() > PaymentToken::MAX_LEN {
            return Err(invalid("token must have at most 512 bytes"));
        }
        let mut plan = self.core.faults.draw(Method::Charge);
        bewitch(&mut plan, token);
        let lose_first = token == TOKEN_LOST_REPLY;
        let (opened, mut delayed) = (asked.clone(), plan.delay > Duration::ZERO);
        // The delay is the gateway's: whoever asks meanwhile learns that the charge is pending.
        let on_delay = move |core: &Core| {
            opened.check()?;
            let (mut ledger, now) = core.ledger_now();
            ledger.open_charge(&opened, now)
        };
        self.carry_out(ctx, Method::Charge, plan, on_delay, move |core, plan| {
            asked.check()?;
            let (mut ledger, now) = core.ledger_now();
            let (charged, fresh) = ledger.charge(plan, &asked, std::mem::take(&mut delayed), now)?;
            if fresh && lose_first { Err(lost_reply()) } else { Ok(charged) }
        })
        .await
    }

    async fn get_transaction(&self, ctx: &CallContext, key: &CallKey) -> Result<TransactionState, CallError> {
        self.look_up(ctx, key, false).await
    }

    async fn close_transaction(
        &self,
        ctx: &CallContext,
        key: &CallKey,
    ) -> Result<TransactionState, CallError> {
        self.look_up(ctx, key, true).await
    }

    async fn refund(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        transaction_id: &str,
        amount: Decimal,
        currency: Currency,
    ) -> Result<Refunded, CallError> {
        let (key, id) = (key.clone(), transaction_id.to_owned());
        self.call(ctx, Method::Refund, move |core, plan| {
            check_key(&key)?;
            check_amount(amount, currency)?;
            let (mut ledger, now) = core.ledger_now();
            ledger.refund(plan, &key, &id, (amount, currency), now)
        })
        .await
    }
}
