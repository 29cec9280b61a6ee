//! What operators count of orders. Counters are looked up once each: most are counted with every order.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Counter, Histogram};
use rust_decimal::prelude::ToPrimitive;

use crate::domain::event::{OrderEvent, RecordedEvent};
use crate::domain::saga::{Direction, SagaKind, StepName, StepResult};
use crate::domain::status::{CancelReason, OrderStatus};
use crate::ports::store::Commit;

/// How a step's call may end.
const OUTCOMES: [&str; 6] = ["done", "refused", "unknown", "unavailable", "pending", "not_found"];

/// One counter each, made when it is first needed.
type Once<T, const N: usize> = [OnceLock<T>; N];

fn once<T, const N: usize>() -> Once<T, N> {
    [const { OnceLock::new() }; N]
}

/// See the module.
pub(super) struct Tally {
    pub(super) activations: Counter,
    pub(super) passivations: Counter,
    created: Counter,
    fulfilled: Counter,
    cancelled: Once<Counter, 5>,
    /// By status, and by reason with a first place for none.
    changes: [Once<Counter, 6>; 8],
    started: Once<Counter, 6>,
    /// By kind, done or failed.
    settled: [Once<Counter, 2>; 6],
    /// By step, direction and outcome.
    steps: [[Once<Histogram, 6>; 2]; 4],
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tally")
    }
}

/// Something to be counted, once the change is stored.
pub(super) enum Mark {
    One(Counter),
    Value(Histogram, f64),
}

impl Mark {
    pub(super) fn count(self) {
        match self {
            Self::One(counter) => counter.increment(1),
            Self::Value(histogram, value) => histogram.record(value),
        }
    }
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            activations: metrics::counter!("order_actor_activations_total"),
            passivations: metrics::counter!("order_actor_passivations_total"),
            created: metrics::counter!("orders_created_total"),
            fulfilled: metrics::counter!("orders_fulfilled_total"),
            cancelled: once(),
            changes: [(); 8].map(|()| once()),
            started: once(),
            settled: [(); 6].map(|()| once()),
            steps: [(); 4].map(|()| [(); 2].map(|()| once())),
        }
    }

    /// What there is to count of a change.
    pub(super) fn marks(&self, commit: &Commit) -> Vec<Mark> {
        let mut marks = Vec::new();
        for recorded in &commit.events {
            self.mark(commit, recorded, &mut marks);
        }
        marks
    }

    fn mark(&self, commit: &Commit, recorded: &RecordedEvent, marks: &mut Vec<Mark>) {
        match &recorded.event {
            OrderEvent::OrderCreated { currency, totals, .. } => {
                marks.push(Mark::One(self.created.clone()));
                // Exact up to here; a float is all that a metric can be.
                if let Some(value) = totals.total.to_f64() {
                    let values = metrics::histogram!("order_value", "currency" => currency.clone());
                    marks.push(Mark::Value(values, value));
                }
            }
            OrderEvent::Charged { .. } if is_late(commit, recorded) => {
                marks.push(Mark::One(metrics::counter!("order_late_charges_total")));
            }
            OrderEvent::AttentionNeeded { step, .. } => {
                let counter = metrics::counter!("orders_needing_attention_total", "step" => step.as_str());
                marks.push(Mark::One(counter));
            }
            OrderEvent::Repaired { repair, .. } => {
                let counter = metrics::counter!("order_repairs_total", "repair" => repair.as_str());
                marks.push(Mark::One(counter));
            }
            OrderEvent::StatusChanged { to, reason, .. } => {
                marks.extend(self.change(*to, *reason).map(Mark::One));
                match (to, reason) {
                    (OrderStatus::Delivered, _) => marks.push(Mark::One(self.fulfilled.clone())),
                    (OrderStatus::Cancelled, Some(reason)) => {
                        marks.extend(self.cancel(*reason).map(Mark::One));
                    }
                    _ => {}
                }
            }
            OrderEvent::SagaStarted { kind, .. } => marks.extend(self.start(*kind).map(Mark::One)),
            OrderEvent::SagaSettled { saga, failure } => {
                let kind = kind_of(commit, *saga);
                marks.extend(kind.and_then(|kind| self.settle(kind, failure.is_some())).map(Mark::One));
            }
            _ => {}
        }
    }

    fn change(&self, to: OrderStatus, reason: Option<CancelReason>) -> Option<Counter> {
        let place = reason.map_or(0, |reason| (reason as usize).saturating_add(1));
        let made = self.changes.get(to as usize)?.get(place)?.get_or_init(|| {
            let reason = reason.map_or("", |reason| reason.as_str());
            metrics::counter!("order_status_changes_total", "to" => to.as_str(), "reason" => reason)
        });
        Some(made.clone())
    }

    fn cancel(&self, reason: CancelReason) -> Option<Counter> {
        let made = self.cancelled.get(reason as usize)?;
        let counter = || metrics::counter!("orders_cancelled_total", "reason" => reason.as_str());
        Some(made.get_or_init(counter).clone())
    }

    fn start(&self, kind: SagaKind) -> Option<Counter> {
        let made = self.started.get(kind as usize)?;
        let counter = || metrics::counter!("order_sagas_started_total", "saga" => kind.as_str());
        Some(made.get_or_init(counter).clone())
    }

    fn settle(&self, kind: SagaKind, failed: bool) -> Option<Counter> {
        let made = self.settled.get(kind as usize)?.get(usize::from(failed))?;
        let outcome = if failed { "failed" } else { "done" };
        let counter =
            || metrics::counter!("order_sagas_settled_total", "saga" => kind.as_str(), "outcome" => outcome);
        Some(made.get_or_init(counter).clone())
    }

    /// Counts one try of a step.
    pub(super) fn step(&self, step: StepName, direction: Direction, result: &StepResult, took: Duration) {
        let outcome: usize = match result {
            StepResult::Refused { .. } => 1,
            StepResult::Unknown { .. } => 2,
            StepResult::Unavailable { .. } => 3,
            StepResult::ChargePending => 4,
            StepResult::ChargeNotFound => 5,
            _ => 0,
        };
        let made = self.steps.get(step as usize).and_then(|made| made.get(direction as usize));
        let (Some(made), Some(name)) = (made.and_then(|made| made.get(outcome)), OUTCOMES.get(outcome))
        else {
            return;
        };
        let histogram = || {
            let (step, direction) = (step.as_str(), direction.as_str());
            metrics::histogram!(
                "order_saga_step_seconds", "step" => step, "direction" => direction, "outcome" => *name
            )
        };
        made.get_or_init(histogram).record(took.as_secs_f64());
    }
}

/// What the saga of this number is for, as far as the change tells.
fn kind_of(commit: &Commit, no: u32) -> Option<SagaKind> {
    let last = commit.saga.as_ref().filter(|saga| saga.no == no).map(|saga| saga.kind);
    last.or_else(|| {
        commit.events.iter().find_map(|recorded| match &recorded.event {
            OrderEvent::SagaStarted { saga, kind } if *saga == no => Some(*kind),
            _ => None,
        })
    })
}

/// Whether a charge succeeded after the end of its order was wanted: its saga gives the money back.
fn is_late(commit: &Commit, charge: &RecordedEvent) -> bool {
    let ends_later = commit.events.iter().any(|recorded| {
        recorded.seq > charge.seq && matches!(&recorded.event, OrderEvent::StatusChanged { .. })
    });
    commit.order.status == OrderStatus::Cancelling && !ends_later
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_place_for_every_value() {
        let tally = Tally::new();
        for to in OrderStatus::ALL {
            assert!(tally.change(*to, None).is_some());
            for reason in CancelReason::ALL {
                assert!(tally.change(*to, Some(*reason)).is_some() && tally.cancel(*reason).is_some());
            }
        }
        for kind in SagaKind::ALL {
            assert!(tally.start(*kind).is_some());
            assert!(tally.settle(*kind, true).is_some() && tally.settle(*kind, false).is_some());
        }
        let places = |step: StepName| tally.steps.get(step as usize).map(|by| by.len());
        assert!(StepName::ALL.iter().all(|step| places(*step) == Some(Direction::ALL.len())));
    }
}
