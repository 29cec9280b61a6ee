//! A deliberate fault: the undo of one station counts as done though nobody was called. It shows whether a check from
//! outside would notice a saga that undoes nothing.

use crate::domain::saga::{Direction, SagaKind, StepCall, StepName, StepResult};

/// The station of a saga whose undo is not carried out, written as `create.reserve`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SkippedUndo {
    saga: SagaKind,
    step: StepName,
}

impl SkippedUndo {
    /// Reads a name such as `create.reserve`; none when that saga undoes no such step.
    pub fn parse(text: &str) -> Option<Self> {
        let (saga, step) = text.split_once('.')?;
        let saga = SagaKind::parse(&saga.to_uppercase())?;
        let step = StepName::parse(&step.to_uppercase())?;
        saga.stations().contains(&(step, Direction::Backward)).then_some(Self { saga, step })
    }

    /// The answer that is made up for a call of this saga; none when the call is to be made.
    pub(super) fn made_up(self, saga: SagaKind, call: &StepCall) -> Option<StepResult> {
        if (saga, call.station()) != (self.saga, (self.step, Direction::Backward)) {
            return None;
        }
        match call {
            StepCall::Release { .. } => Some(StepResult::Released),
            StepCall::Restock { .. } => Some(StepResult::Restocked),
            StepCall::Refund { .. } => Some(StepResult::Refunded { refund_id: "skipped".to_owned() }),
            StepCall::VoidLabel { .. } => Some(StepResult::LabelVoided),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SkippedUndo;

    #[test]
    fn only_what_is_undone_has_a_name() {
        for name in ["create.reserve", "create.charge", "cancel.label", "refund.charge", "amend.reserve"] {
            assert!(SkippedUndo::parse(name).is_some(), "{name}");
        }
        for name in
            ["", "create", "create.label", "create.commit_stock", "reserve.create", "create.reserve.x"]
        {
            assert_eq!(SkippedUndo::parse(name), None, "{name}");
        }
    }
}
