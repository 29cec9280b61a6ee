//! What becomes of a call on its way, and of its answer.

use std::time::Duration;

use chrono::TimeDelta;
use order_service::domain::saga::{Direction, StepCall, StepResult};

use super::{Next, Run, seconds};
use crate::harness::laws::{Law, law};
use crate::harness::world::Mood;
use crate::harness::{CALL_TIMEOUT, Chance, PROVIDER_LAG, SEND_LAG};

fn long(time: Duration) -> i64 {
    time.as_micros() as i64
}

/// A time below `most`, often the shortest or the longest: trouble is at the edges.
fn some(chance: &mut Chance, most: i64) -> TimeDelta {
    TimeDelta::microseconds(match chance.below(6) {
        0 => 0,
        1 => most - 1,
        _ => chance.below(most),
    })
}

impl Run {
    /// Sends a call and decides what the network and the collaborator make of it.
    pub(super) fn send(&mut self, call: StepCall) -> Law {
        law!(self.flying.is_none(), "two calls at once: {:?} and {call:?}", self.flying);
        self.calls.send(&call)?;
        self.count += 1;
        let ticket = self.count;
        self.flying = Some((ticket, call.clone()));
        let stormy = self.stormy();
        let weather = &self.weather;
        let chance = &mut self.chance;
        let mut strikes = |percent: u32| chance.percent(if stormy { percent } else { 0 });
        let (unavailable, lost, late) =
            (strikes(weather.unavailable), strikes(weather.lost), strikes(weather.late));
        let (twice, refused, ponders) =
            (strikes(weather.twice), strikes(weather.refused), strikes(weather.ponders));
        let backward = self.store.saga.as_ref().is_some_and(|saga| saga.direction == Direction::Backward);
        let mood = Mood {
            refuses: refused || (weather.no_refunds && matches!(call, StepCall::Refund { .. })),
            ponders: ponders.then(|| TimeDelta::microseconds(chance.below(20_000_000))),
            expires: weather.expires.then(|| seconds(10 + chance.below(20))),
            closes: weather.closes && backward,
        };
        let dependency = "somebody";
        let sent = self.now + some(chance, long(SEND_LAG));
        let timeout = TimeDelta::from_std(CALL_TIMEOUT).unwrap();
        if unavailable {
            let answer = StepResult::Unavailable { dependency, error: "no connection".to_owned() };
            self.at(sent, Next::Answer { ticket, result: answer });
            return Ok(());
        }
        self.calls.may_arrive(&call);
        let unknown = Next::Answer {
            ticket,
            result: StepResult::Unknown { dependency, error: "no answer".to_owned() },
        };
        let bound = long(CALL_TIMEOUT) + if weather.closes { 600_000_000 } else { long(PROVIDER_LAG) };
        if late {
            let at = sent + some(chance, bound);
            self.at(at, Next::Execute { call, mood, ticket, answer_at: None });
            self.at(sent + timeout, unknown);
            return Ok(());
        }
        let arrives = sent + some(chance, if stormy { long(CALL_TIMEOUT) } else { 50_000 });
        if lost {
            if chance.percent(70) {
                self.at(arrives, Next::Execute { call, mood, ticket, answer_at: None });
            }
            self.at(sent + timeout, unknown);
            return Ok(());
        }
        let most = if stormy { (sent + timeout - arrives).num_microseconds().unwrap() } else { 50_000 };
        let answer_at = Some(arrives + some(chance, most));
        if twice {
            let at = arrives + some(chance, bound - long(CALL_TIMEOUT));
            let call = call.clone();
            self.at(at, Next::Execute { call, mood, ticket, answer_at: Some(at) });
        }
        self.at(arrives, Next::Execute { call, mood, ticket, answer_at });
        Ok(())
    }
}
