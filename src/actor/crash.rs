//! Named points at which a test may kill this process, to prove that nothing acknowledged is lost there.

use std::fmt;

use super::state::State;
use crate::domain::react::Change;
use crate::domain::saga::{Direction, SagaKind, SagaMove, StepName};
use crate::domain::status::names;

names! {
    /// Where in the life of a step.
    Moment {
        /// The call is decided on, not stored.
        BeforeIntent = "BEFORE_INTENT",
        /// The call is stored, or allowed for by what is stored, and not made.
        AfterIntent = "AFTER_INTENT",
        /// Right before the call.
        BeforeEffect = "BEFORE_EFFECT",
        /// The call was answered, nobody knows yet.
        AfterEffect = "AFTER_EFFECT",
        /// The answer is understood, not stored.
        BeforeOutcome = "BEFORE_OUTCOME",
        /// The answer is stored, or kept to be stored with the next one.
        AfterOutcome = "AFTER_OUTCOME",
    }
}

/// A point at which the process may be killed, written as `create.charge.forward.after_effect`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    pub(super) saga: SagaKind,
    pub(super) step: StepName,
    pub(super) direction: Direction,
    pub(super) moment: Moment,
}

impl CrashPoint {
    /// Every point there is: each moment of each station of each saga.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for saga in SagaKind::ALL {
            for (step, direction) in saga.stations() {
                for moment in Moment::ALL {
                    all.push(Self { saga: *saga, step, direction, moment: *moment });
                }
            }
        }
        all
    }

    /// Reads a name as `Display` writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::all().into_iter().find(|point| point.to_string() == text)
    }

    /// The saga this point belongs to.
    pub fn saga(&self) -> SagaKind {
        self.saga
    }

    /// The step this point belongs to, and whether it is done or undone.
    pub fn station(&self) -> (StepName, Direction) {
        (self.step, self.direction)
    }

    /// Where in the life of the step.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Kills this process if `armed` is this point, as `kill -9` would.
    pub(super) fn pass(self, armed: Option<Self>) {
        if armed == Some(self) {
            tracing::error!(point = %self, "crash point reached: this process kills itself");
            if let Err(error) =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            {
                tracing::error!(%error, "this process could not be killed");
            }
            // The signal arrives before the process gets anything else done.
            std::thread::park();
        }
    }
}

/// The points that storing a change comes by: of the call that came back, and of the call that is next.
pub(super) struct Points {
    outcome: Option<(SagaKind, StepName, Direction)>,
    intent: Option<(SagaKind, StepName, Direction)>,
}

impl Points {
    pub(super) fn of(state: &State, change: &Change, finished: Option<StepName>) -> Self {
        let saga = state.saga.as_deref();
        let outcome = finished.zip(saga).map(|(step, saga)| (saga.kind, step, saga.direction));
        let intent = match (&change.act, &change.saga) {
            (SagaMove::Run(call), Some(saga)) => Some((saga.kind, call.station().0, saga.direction)),
            _ => None,
        };
        Self { outcome, intent }
    }

    pub(super) fn pass(&self, armed: Option<CrashPoint>, outcome: Moment, intent: Moment) {
        for (station, moment) in [(self.outcome, outcome), (self.intent, intent)] {
            if let Some((saga, step, direction)) = station {
                CrashPoint { saga, step, direction, moment }.pass(armed);
            }
        }
    }
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{}.{}.{}.{}", self.saga, self.step, self.direction, self.moment);
        f.write_str(&name.to_lowercase())
    }
}
