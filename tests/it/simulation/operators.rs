//! Operators who repair at any moment: what they say is true, and what they skip they have done.

use chrono::TimeDelta;
use order_service::domain::Timestamp;
use order_service::domain::command::OrderCommand;
use order_service::domain::error::OrderError;
use order_service::domain::payment::{EntryKind, EntryState, stories};
use order_service::domain::react::Input;
use order_service::domain::repair::{Outcome, Repair, RepairOrder, Seen, explain};
use order_service::domain::saga::{Direction, StepCall, StepName};

use super::callers::Wanted;
use super::{Heard, Next, Run};
use crate::harness::ask;
use crate::harness::laws::{Law, law};
use crate::harness::world::Charge;

/// Nobody is asked for more in one run: retries of what is refused for good would never end.
const MOST_WANTED: usize = 40;

impl Run {
    /// While a saga waits until then, somebody may come and repair.
    pub(super) fn look_after(&mut self, until: Timestamp) {
        if !self.chance.percent(self.weather.operators) || self.wanted.len() > MOST_WANTED {
            return;
        }
        let saga = self.store.saga.as_ref();
        let undoes_label = saga
            .is_some_and(|saga| (saga.step, saga.direction) == (Some(StepName::Label), Direction::Backward));
        let command = self.repair(undoes_label);
        self.wanted.push(Wanted { command: Some(command), request: None, stale: false });
        let wait = (until - self.now).num_milliseconds();
        let at = self.now + TimeDelta::milliseconds(self.chance.below(wait));
        self.at(at, Next::Command(self.wanted.len() - 1));
    }

    /// A repair that somebody will ask for; what became of a payment is looked up when it is asked.
    fn repair(&mut self, undoes_label: bool) -> OrderCommand {
        let repair = match self.chance.below(5) {
            _ if undoes_label => Repair::Skip(Seen::default()),
            0 | 1 => Repair::Retry(Seen::default()),
            2 => Repair::Skip(Seen::default()),
            _ => Repair::Settle { outcome: Outcome::Charged, reference: None, key: None },
        };
        OrderCommand::Repair(RepairOrder { repair, reason: "looked at it".to_owned(), by: "ada".to_owned() })
    }

    /// Asks for it.
    pub(super) fn operate(&mut self, wanted: &RepairOrder) -> Law {
        let order = self.store.order.clone().unwrap();
        let saga = self.store.saga.clone().filter(|saga| !saga.settled);
        let running = self.flying.as_ref().map(|(_, call)| call);
        let calling = running.is_some();
        let why = explain(&order, saga.as_ref(), &self.store.events, running, self.now, &self.policy);
        let says =
            |what: &str| why.choices.iter().any(|choice| choice.what == what && choice.refused.is_none());
        let (repair, expected) = match &wanted.repair {
            Repair::Settle { .. } => match self.evidence() {
                Some(Repair::Settle { outcome, reference, key }) => {
                    let name = outcome.as_str().to_lowercase().replace('_', "-");
                    let expected = says(&format!("resolve-payment {name}"));
                    (Repair::Settle { outcome, reference, key }, expected)
                }
                _ => return Ok(()),
            },
            Repair::Skip(seen) => {
                let expected = says("skip-step");
                if let (true, Some(call)) = (expected, &why.call) {
                    law!(
                        matches!(call, StepCall::VoidLabel { .. } | StepCall::Restock { .. }),
                        "I5: {call:?} may be skipped"
                    );
                    self.world.by_hand(call);
                }
                (Repair::Skip(*seen), expected)
            }
            other => (other.clone(), says("retry-step")),
        };
        let command = OrderCommand::Repair(RepairOrder { repair: repair.clone(), ..wanted.clone() });
        let heard = self.input(Input::Command { ask: ask(command, None, None), calling })?;
        self.note(|| format!("  {repair:?} heard {heard:?}"));
        match heard {
            Heard::Died => return Ok(()),
            Heard::Done => {
                law!(expected, "{repair:?} was taken and explained as refused");
                law!(saga.is_some() && !calling, "{repair:?} of a saga that does not wait");
                self.acknowledged.push(order.version + 1);
                *self.repairs.entry(repair.kind().as_str().to_lowercase()).or_default() += 1;
            }
            Heard::No(OrderError::RepairRefused { .. } | OrderError::Busy { .. }) => {
                law!(!expected, "{repair:?} was refused and explained as allowed");
                let idle = saga.is_none() || calling;
                law!(idle || !matches!(repair, Repair::Retry(_)), "a saga that waits is not retried");
                law!(self.store.order.as_ref() == Some(&order), "a refusal changed something");
            }
            heard => return Err(format!("{repair:?} heard {heard:?}")),
        }
        let turned = self.store.saga.as_ref().zip(saga.as_ref()).is_some_and(|(now, before)| {
            now.no == before.no
                && before.direction == Direction::Backward
                && now.direction == Direction::Forward
        });
        law!(!turned, "a repair turned a saga forward again");
        Ok(())
    }

    /// The truth about the payment in doubt, where somebody can know it.
    fn evidence(&mut self) -> Option<Repair> {
        let order = self.store.order.as_ref()?;
        let doubt = stories(&order.payments)
            .into_iter()
            .map(|story| story.last)
            .find(|last| matches!(last.state, EntryState::Requested | EntryState::Unknown))?;
        let (kind, key) = (doubt.kind, doubt.key.clone());
        let closes = self.weather.closes;
        let (outcome, reference) = match kind {
            EntryKind::Charge => match self.world.charges.get(&key) {
                Some(Charge::Taken(_)) => (Outcome::Charged, Some(format!("tx-{key}"))),
                Some(Charge::Declined | Charge::Closed) => (Outcome::NotCharged, None),
                Some(Charge::Pending(..)) => return None,
                None => {
                    // Where calls may be later than any bound, only closing the key makes it certain.
                    if closes {
                        self.world.charges.insert(key.clone(), Charge::Closed);
                    }
                    (Outcome::NotCharged, None)
                }
            },
            EntryKind::Refund => match self.world.refunds.get(&key) {
                Some(Some(_)) => (Outcome::Refunded, Some(format!("re-{key}"))),
                Some(None) => (Outcome::NotRefunded, None),
                None if closes => return None,
                None => (Outcome::NotRefunded, None),
            },
        };
        Some(Repair::Settle { outcome, reference, key: Some(key) })
    }
}
