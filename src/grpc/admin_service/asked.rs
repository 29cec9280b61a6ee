//! How operators say which order, step and time they mean.

use std::time::Duration;

use crate::domain::ids::{OrderId, OrderNumber};
use crate::domain::repair::Seen;
use crate::domain::saga::{Direction, StepName};
use crate::grpc::validate::Checker;

/// Sagas that began longer ago than this count as stuck, where nothing else is asked for.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// The longest such time that may be asked for.
const STUCK_AFTER_MOST: Duration = Duration::from_secs(8_760 * 3_600);

/// How an operator names an order.
pub(super) enum Named {
    Id(OrderId),
    Number(OrderNumber),
}

pub(super) fn named(check: &mut Checker, order: &str) -> Named {
    match OrderNumber::parse(order) {
        Some(number) => Named::Number(number),
        None => Named::Id(check.order_id("order", order)),
    }
}

pub(super) fn seen(check: &mut Checker, step: &str, direction: &str) -> Seen {
    let found = Seen { step: StepName::parse(step), direction: Direction::parse(direction) };
    if found.step.is_none() && !step.is_empty() {
        let all: Vec<&str> = StepName::ALL.iter().map(|step| step.as_str()).collect();
        check.bad("step", format!("expected nothing or one of {}", all.join(", ")));
    }
    if found.direction.is_none() && !direction.is_empty() {
        check.bad("direction", "expected nothing, FORWARD or BACKWARD");
    }
    found
}

pub(super) fn older_than(check: &mut Checker, asked: Option<&prost_types::Duration>) -> Duration {
    let Some(asked) = asked else { return STUCK_AFTER };
    let valid = Duration::try_from(*asked).ok().filter(|asked| *asked <= STUCK_AFTER_MOST);
    valid.unwrap_or_else(|| {
        check.bad("older_than", "expected a time between 0s and 8760h");
        STUCK_AFTER
    })
}
