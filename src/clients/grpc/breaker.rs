//! A circuit breaker: after enough failures in a row, calls are spared the waiting.
//!
//! Time comes in as an argument, so that tests need not wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BreakerConfig {
    /// Failures in a row that open it; at least 1.
    pub failures_to_open: u32,
    /// How long it stays open before one call may probe.
    pub open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures_to_open: 5, open_for: Duration::from_secs(5) }
    }
}

/// How a breaker stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// Calls fail at once.
    Open,
    /// One call probes, the others fail at once.
    HalfOpen,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probing: bool },
}

/// See the module.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
}

/// The right to make one call. Settle it with [`Permit::succeeded`] or [`Permit::failed`]; one that is dropped (the
/// caller went away) says nothing about the service and only gives a probe's place free.
#[derive(Debug)]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    fn state_mut(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub fn state(&self) -> BreakerState {
        match *self.state_mut() {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// The right to make a call at `now`; `None` when it must fail at once.
    pub fn admit(&self, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.state_mut();
        match *state {
            State::Closed { .. } => Some(Permit { breaker: self, probe: false }),
            State::Open { until } if now < until => None,
            State::HalfOpen { probing: true } => None,
            State::Open { .. } | State::HalfOpen { probing: false } => {
                *state = State::HalfOpen { probing: true };
                Some(Permit { breaker: self, probe: true })
            }
        }
    }

    /// Open from `now` on.
    fn opened(&self, now: Instant) -> State {
        State::Open { until: now.checked_add(self.config.open_for).unwrap_or(now) }
    }
}

impl Permit<'_> {
    /// The service answered, be it with a refusal. Whether this closed the breaker.
    pub fn succeeded(mut self) -> bool {
        let probe = std::mem::take(&mut self.probe);
        let mut state = self.breaker.state_mut();
        match *state {
            State::Closed { .. } => *state = State::Closed { failures: 0 },
            State::HalfOpen { .. } if probe => *state = State::Closed { failures: 0 },
            // A call from before the breaker opened proves little.
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
        probe
    }

    /// The service did not answer, or with a failure. Whether this opened the breaker.
    pub fn failed(mut self, now: Instant) -> bool {
        let probe = std::mem::take(&mut self.probe);
        let mut state = self.breaker.state_mut();
        match *state {
            State::Closed { failures } => {
                let failures = failures.saturating_add(1);
                let open = failures >= self.breaker.config.failures_to_open;
                *state = if open { self.breaker.opened(now) } else { State::Closed { failures } };
                open
            }
            State::HalfOpen { .. } if probe => {
                *state = self.breaker.opened(now);
                true
            }
            State::Open { .. } | State::HalfOpen { .. } => false,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe {
            let mut state = self.breaker.state_mut();
            if *state == (State::HalfOpen { probing: true }) {
                *state = State::HalfOpen { probing: false };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(5);

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(BreakerConfig { failures_to_open: 3, open_for: OPEN_FOR }), Instant::now())
    }

    fn fail(breaker: &Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            breaker.admit(now).unwrap().failed(now);
        }
    }

    #[test]
    fn failures_in_a_row_open_it() {
        let (breaker, now) = breaker();
        fail(&breaker, now, 2);
        breaker.admit(now).unwrap().succeeded();
        fail(&breaker, now, 2);
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&breaker, now, 1);
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(breaker.admit(now + OPEN_FOR - Duration::from_nanos(1)).is_none());
    }

    #[test]
    fn one_probe_at_a_time_decides() {
        let (breaker, now) = breaker();
        fail(&breaker, now, 3);
        let later = now + OPEN_FOR;
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_none());
        assert!(probe.failed(later));
        assert!(breaker.admit(later).is_none());
        let probe = breaker.admit(later + OPEN_FOR).unwrap();
        assert!(probe.succeeded());
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_probe_whose_caller_went_away_gives_its_place_free() {
        let (breaker, now) = breaker();
        fail(&breaker, now, 3);
        drop(breaker.admit(now + OPEN_FOR).unwrap());
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert!(breaker.admit(now + OPEN_FOR).is_some());
    }

    #[test]
    fn late_answers_do_not_move_an_open_breaker() {
        let (breaker, now) = breaker();
        let early = breaker.admit(now).unwrap();
        fail(&breaker, now, 3);
        assert!(!early.succeeded());
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
