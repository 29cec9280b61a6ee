//! What operators look at, and letting go of what was set aside.

use std::sync::Arc;
use std::time::Duration;

use super::message::Answer;
use super::orders::Orders;
use crate::domain::Timestamp;
use crate::domain::command::Ask;
use crate::domain::error::OrderError;
use crate::domain::event::RecordedEvent;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::react::Policy;
use crate::domain::repair::{Explanation, explain};
use crate::domain::saga::SagaProgress;
use crate::ports::store::{Quarantine, StoreError};

/// Newest events that an explanation looks at.
const EVENTS: u32 = 500;

/// An order whose actor keeps failing on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failing {
    /// How often in a row.
    pub failures: u32,
    /// Nobody gets in before this.
    pub until: Timestamp,
}

/// All that this node can tell about why an order is where it is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The order as stored, its saga that is not settled, and why it waits; none while it is quarantined.
    pub explained: Option<(Arc<Order>, Option<SagaProgress>, Explanation)>,
    /// It is set aside, since the store has lost changes of it.
    pub quarantine: Option<Quarantine>,
    /// Its actor keeps failing.
    pub failing: Option<Failing>,
    /// Its actor lives on this node.
    pub is_live: bool,
    /// This process life.
    pub incarnation: i64,
}

/// An order that somebody should look at.
#[derive(Clone, Debug)]
pub struct Stuck {
    /// Its id.
    pub id: OrderId,
    /// The order, and its saga that is not settled; none when it cannot be read.
    pub found: Option<(Arc<Order>, Option<SagaProgress>)>,
    /// It is set aside, since the store has lost changes of it.
    pub quarantine: Option<Quarantine>,
}

impl Orders {
    /// How patient sagas are.
    pub fn policy(&self) -> &Policy {
        &self.shared().policy
    }

    /// Why the order is where it is, by what is stored and what this node does; none when there is no such order. Starts
    /// no actor.
    ///
    /// # Errors
    /// `StorageUnavailable`; `Quarantined` when its rows make no sense.
    pub async fn inspect(&self, id: OrderId) -> Result<Option<Inspection>, OrderError> {
        let shared = self.shared();
        let quarantine = shared.store.quarantined(id).await.map_err(refuse)?;
        let entry = shared.registry.get(id);
        let explained = match quarantine {
            Some(_) => None,
            None => {
                let Some(stored) = shared.store.load(id).await.map_err(refuse)? else { return Ok(None) };
                let (order, saga) = (stored.order, stored.saga);
                let events = self.newest(&order).await?;
                let running = entry.as_ref().and_then(|entry| entry.running());
                let now = shared.clock.now();
                let why = explain(&order, saga.as_ref(), &events, running.as_deref(), now, &shared.policy);
                Some((order, saga, why))
            }
        };
        let failing = shared.failing(id);
        let (is_live, incarnation) =
            (entry.is_some(), shared.placement.owner(id.slot()).map_or(0, |owner| owner.incarnation));
        Ok(Some(Inspection { explained, quarantine, failing, is_live, incarnation }))
    }

    async fn newest(&self, order: &Order) -> Result<Vec<RecordedEvent>, OrderError> {
        let after = order.event_seq.saturating_sub(i64::from(EVENTS)).max(0);
        self.shared().store.events(order.id, after, EVENTS).await.map_err(refuse)
    }

    /// Orders that call for a person, are quarantined, or have a saga that began before `started_before` and has not
    /// settled: by id, behind `after`, at most `limit`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stuck(
        &self,
        started_before: Timestamp,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<Stuck>, OrderError> {
        let store = &self.shared().store;
        let ids = store.stuck(started_before, after, limit).await.map_err(refuse)?;
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let (found, quarantine) = match store.load(id).await {
                // One that has settled meanwhile still belongs to its page.
                Ok(stored) => (stored.map(|stored| (stored.order, stored.saga)), None),
                Err(StoreError::Corrupt { .. }) => (None, store.quarantined(id).await.map_err(refuse)?),
                Err(error) => return Err(refuse(error)),
            };
            all.push(Stuck { id, found, quarantine });
        }
        Ok(all)
    }

    /// Lets an order that was set aside be used again, and has `ask` record who wanted it so.
    ///
    /// # Errors
    /// `RepairRefused` when it is not set aside; those of [`Self::ask`], when it is let go and that could not be recorded:
    /// `OrderNotFound` where nothing at all is stored of it.
    pub async fn unquarantine(&self, id: OrderId, ask: Ask, wait: Duration) -> Answer {
        let shared = self.shared();
        let noted = shared.store.quarantined(id).await.map_err(refuse)?;
        let failing = shared.failing(id);
        if noted.is_none() && failing.is_none() {
            let Some(order) = self.view(id).await? else {
                return Err(OrderError::OrderNotFound { order: id.to_string() });
            };
            let what = String::from("the order is not quarantined");
            return Err(OrderError::RepairRefused { status: Some(order.status), what });
        }
        if noted.is_some() {
            shared.store.release(id).await.map_err(refuse)?;
        }
        shared.forgive(id);
        // Also where nothing is left that could record it.
        tracing::warn!(
            order_id = %id,
            principal = %ask.caller.principal,
            acknowledged = noted.map(|noted| noted.regression.known),
            stored = noted.map(|noted| noted.regression.stored),
            failures = failing.map(|failing| failing.failures),
            "a quarantined order was released"
        );
        self.ask(id, ask, wait, false).await
    }
}

fn refuse(error: StoreError) -> OrderError {
    tracing::warn!(%error, "a read for an operator failed");
    match error {
        StoreError::Unavailable(_) => OrderError::StorageUnavailable,
        StoreError::Corrupt { .. } => OrderError::Quarantined,
    }
}
