//! Collaborators whose calls are timed, whatever stands behind them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use metrics::Histogram;
use rust_decimal::Decimal;
use tokio::time::Instant;

use crate::domain::address::Address;
use crate::domain::ids::{CallKey, OrderId, UserId};
use crate::domain::item::{ProductRef, Shortage, StockLine};
use crate::domain::money::Currency;
use crate::ports::Collaborators;
use crate::ports::call::{CallContext, CallError, Collaborator};
use crate::ports::inventory::{Inventory, ReleaseOutcome, ReleaseTarget};
use crate::ports::payment::{Charged, PaymentToken, Payments, Refunded, TransactionState};
use crate::ports::product::{Product, Products};
use crate::ports::shipping::{Label, Shipping};
use crate::ports::user::{AddressProblem, User, Users};

/// These collaborators, timed.
pub fn measured(all: Collaborators) -> Collaborators {
    let Collaborators { inventory, products, users, payments, shipping } = all;
    Collaborators {
        inventory: Arc::new(Measured { inner: inventory, times: Times::default() }),
        products: Arc::new(Measured { inner: products, times: Times::default() }),
        users: Arc::new(Measured { inner: users, times: Times::default() }),
        payments: Arc::new(Measured { inner: payments, times: Times::default() }),
        shipping: Arc::new(Measured { inner: shipping, times: Times::default() }),
    }
}

#[derive(Debug)]
struct Measured<T: ?Sized> {
    times: Times,
    inner: Arc<T>,
}

/// How a call may end; the last is that nobody waited for its end.
const OUTCOMES: [&str; 5] = ["ok", "refused", "unknown", "unavailable", "dropped"];

/// The histograms of one collaborator: by the place of the method among its methods, and by outcome. Looked up once each.
#[derive(Default)]
struct Times([[OnceLock<Histogram>; 5]; 5]);

impl std::fmt::Debug for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Times")
    }
}

/// A method: of whom, its place among its methods, and its name.
type Method = (Collaborator, usize, &'static str);

impl Times {
    async fn of<T>(
        &self,
        method: Method,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let mut timed = Timed { times: self, method, since: Instant::now(), outcome: 4 };
        let answer = call.await;
        timed.outcome = match &answer {
            Ok(_) => 0,
            Err(CallError::Refused(_)) => 1,
            Err(CallError::Unknown(_)) => 2,
            Err(CallError::Unavailable(_)) => 3,
        };
        answer
    }

    fn record(&self, (service, place, method): Method, outcome: usize, took: Duration) {
        let made = self.0.get(place).and_then(|made| made.get(outcome));
        let (Some(made), Some(outcome)) = (made, OUTCOMES.get(outcome)) else { return };
        let histogram = || {
            let service = service.as_str();
            metrics::histogram!(
                "order_collaborator_seconds", "service" => service, "method" => method, "outcome" => *outcome
            )
        };
        made.get_or_init(histogram).record(took.as_secs_f64());
    }
}

/// A call that is under way; recorded when dropped.
struct Timed<'a> {
    times: &'a Times,
    method: Method,
    since: Instant,
    outcome: usize,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.times.record(self.method, self.outcome, self.since.elapsed());
    }
}

#[async_trait]
impl Inventory for Measured<dyn Inventory> {
    async fn check_availability(
        &self,
        ctx: &CallContext,
        lines: &[StockLine],
    ) -> Result<Vec<Shortage>, CallError> {
        let method = (Collaborator::Inventory, 0, "CheckAvailability");
        self.times.of(method, self.inner.check_availability(ctx, lines)).await
    }

    async fn reserve(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        lines: &[StockLine],
        ttl: Duration,
    ) -> Result<String, CallError> {
        let method = (Collaborator::Inventory, 1, "Reserve");
        self.times.of(method, self.inner.reserve(ctx, key, order, lines, ttl)).await
    }

    async fn commit(&self, ctx: &CallContext, key: &CallKey, reservation_id: &str) -> Result<(), CallError> {
        let method = (Collaborator::Inventory, 2, "Commit");
        self.times.of(method, self.inner.commit(ctx, key, reservation_id)).await
    }

    async fn release(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        target: &ReleaseTarget,
    ) -> Result<ReleaseOutcome, CallError> {
        let method = (Collaborator::Inventory, 3, "Release");
        self.times.of(method, self.inner.release(ctx, key, target)).await
    }

    async fn restock(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        reservation_id: &str,
        lines: &[StockLine],
    ) -> Result<(), CallError> {
        let method = (Collaborator::Inventory, 4, "Restock");
        self.times.of(method, self.inner.restock(ctx, key, reservation_id, lines)).await
    }
}

#[async_trait]
impl Products for Measured<dyn Products> {
    async fn batch_get(&self, ctx: &CallContext, refs: &[ProductRef]) -> Result<Vec<Product>, CallError> {
        let method = (Collaborator::Product, 0, "BatchGet");
        self.times.of(method, self.inner.batch_get(ctx, refs)).await
    }
}

#[async_trait]
impl Users for Measured<dyn Users> {
    async fn get_user(&self, ctx: &CallContext, user: UserId) -> Result<User, CallError> {
        self.times.of((Collaborator::User, 0, "GetUser"), self.inner.get_user(ctx, user)).await
    }

    async fn validate_address(
        &self,
        ctx: &CallContext,
        user: UserId,
        address: &Address,
    ) -> Result<Vec<AddressProblem>, CallError> {
        let method = (Collaborator::User, 1, "ValidateAddress");
        self.times.of(method, self.inner.validate_address(ctx, user, address)).await
    }
}

#[async_trait]
impl Payments for Measured<dyn Payments> {
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
        let charge = self.inner.charge(ctx, key, order, amount, currency, method, token);
        self.times.of((Collaborator::Payment, 0, "Charge"), charge).await
    }

    async fn get_transaction(&self, ctx: &CallContext, key: &CallKey) -> Result<TransactionState, CallError> {
        let method = (Collaborator::Payment, 1, "GetTransaction");
        self.times.of(method, self.inner.get_transaction(ctx, key)).await
    }

    async fn close_transaction(
        &self,
        ctx: &CallContext,
        key: &CallKey,
    ) -> Result<TransactionState, CallError> {
        let method = (Collaborator::Payment, 2, "CloseTransaction");
        self.times.of(method, self.inner.close_transaction(ctx, key)).await
    }

    async fn refund(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        transaction_id: &str,
        amount: Decimal,
        currency: Currency,
    ) -> Result<Refunded, CallError> {
        let refund = self.inner.refund(ctx, key, transaction_id, amount, currency);
        self.times.of((Collaborator::Payment, 3, "Refund"), refund).await
    }
}

#[async_trait]
impl Shipping for Measured<dyn Shipping> {
    async fn create_label(
        &self,
        ctx: &CallContext,
        key: &CallKey,
        order: OrderId,
        method: &str,
        to: &Address,
        lines: &[StockLine],
    ) -> Result<Label, CallError> {
        let create = self.inner.create_label(ctx, key, order, method, to, lines);
        self.times.of((Collaborator::Shipping, 0, "CreateLabel"), create).await
    }

    async fn void_label(&self, ctx: &CallContext, key: &CallKey) -> Result<(), CallError> {
        let method = (Collaborator::Shipping, 1, "VoidLabel");
        self.times.of(method, self.inner.void_label(ctx, key)).await
    }
}
