//! A saga that runs ahead of what is stored: changes that may wait are kept here until the next one is stored.

use std::time::Duration;

use super::crash::{Moment, Points};
use super::order_actor::OrderActor;
use super::state::State;
use crate::domain::react::{Change, Input, Reaction, react};
use crate::domain::saga::{SagaMove, SagaProgress, StepName};
use crate::ports::store::CommitError;

impl OrderActor {
    /// Keeps a change that may wait, to be stored with the one after it.
    pub(super) fn hold(&self, state: &mut State, change: Change, finished: Option<StepName>) -> SagaMove {
        let points = Points::of(state, &change, finished);
        points.pass(self.0.crash_at, Moment::BeforeOutcome, Moment::BeforeIntent);
        let act = change.act.clone();
        let change = change.unstored();
        state.ahead = Some(Box::new(match state.ahead.take() {
            Some(earlier) => change.after(*earlier),
            None => change,
        }));
        points.pass(self.0.crash_at, Moment::AfterOutcome, Moment::AfterIntent);
        act
    }

    /// Stores what was kept, if anything was. The call under way goes on.
    pub(super) async fn catch_up(&self, state: &mut State) -> Result<(), CommitError> {
        let Some(SagaMove::Run(running)) = state.ahead.as_ref().map(|change| change.act.clone()) else {
            return Ok(());
        };
        let (order, saga) = state.head();
        let input = Input::CatchUp { running };
        let now = self.0.clock.now();
        let Ok(Reaction::Commit(change)) = react(order, saga, input, now, &self.0.policy) else {
            return Ok(());
        };
        let kept = state.ahead.clone();
        let stored = self.commit(state, change, None).await;
        if stored == Err(CommitError::QueueFull) {
            // Nothing was tried.
            state.ahead = kept;
        }
        stored.map(drop)
    }

    /// What is left of the time in which a saga may run ahead.
    pub(super) fn runs_ahead_for(&self, saga: &SagaProgress) -> Duration {
        let passed = self.0.clock.now().signed_duration_since(saga.started_at).to_std().unwrap_or_default();
        self.0.policy.run_ahead.saturating_sub(passed)
    }
}
