//! What a run got to: a simulation that never gets anywhere finds nothing.

use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::order::Order;
use order_service::domain::refund;
use order_service::domain::saga::Failure;
use order_service::domain::status::CancelReason;
use rust_decimal::Decimal;

use super::Run;

impl Run {
    /// What the run got to.
    pub(super) fn marks(&self) -> Vec<String> {
        let mut marks: Vec<String> =
            self.store.order.iter().map(|order| order.status.as_str().to_owned()).collect();
        if self.store.events.iter().any(|event| event.event.kind() == "attention_needed") {
            marks.push("attention".to_owned());
        }
        if self.store.events.iter().any(|event| event.event.kind() == "order_held") {
            marks.push("held".to_owned());
        }
        for kind in ["order_released", "stock_renewed", "stock_lapsed"] {
            if self.store.events.iter().any(|event| event.event.kind() == kind) {
                marks.push(kind.to_owned());
            }
        }
        let reason = self.store.order.as_ref().and_then(|order| order.cancel_reason);
        marks.extend(reason.filter(|reason| *reason == CancelReason::Expired).map(|_| "EXPIRED".to_owned()));
        let grants = self.store.order.as_ref().map_or(0, |order| order.grants.len());
        for (mark, holds) in [
            ("refund_granted", grants > 0),
            ("refund_twice", grants > 1),
            (
                "refund_cancelled",
                self.store.wished_back() > Decimal::ZERO && marks.contains(&"CANCELLED".to_owned()),
            ),
        ] {
            marks.extend(holds.then(|| mark.to_owned()));
        }
        let count = |kind: &str| self.store.events.iter().filter(|event| event.event.kind() == kind).count();
        let failed = |cancelled: bool| {
            self.store.events.iter().any(|event| match &event.event {
                OrderEvent::SagaSettled { saga, failure: Some(failure) } => {
                    let amends = |event: &RecordedEvent| {
                        matches!(&event.event, OrderEvent::AmendmentBegun { saga: no, .. } if no == saga)
                    };
                    self.store.events.iter().any(amends) && cancelled == (*failure == Failure::Cancelled)
                }
                _ => false,
            })
        };
        let several = |order: &Order| order.grants.iter().any(|grant| refund::parts(order, grant).len() > 1);
        for (mark, holds) in [
            ("edited", count("items_changed") > 0),
            ("edited_in_place", count("items_changed") > 0 && count("amendment_begun") == 0),
            ("edited_twice", count("items_changed") > 1),
            ("edit_failed", failed(false)),
            ("edit_cancelled", failed(true)),
            ("refund_of_several_charges", self.store.order.as_ref().is_some_and(several)),
        ] {
            marks.extend(holds.then(|| mark.to_owned()));
        }
        if self.runs_ahead > 1 {
            marks.push("ahead".to_owned());
        }
        marks.extend(self.repairs.keys().cloned());
        if self.crashes > 0 {
            marks.push("crash".to_owned());
        }
        marks
    }
}
