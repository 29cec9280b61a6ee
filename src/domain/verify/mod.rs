//! What must hold of a stored order, judged by what is stored alone.
//!
//! The numbers are those of the invariants: I2 request ids, I3 money owed, I4 one charge an intent, I5 stock of what has
//! ended, I6 nothing confirmed without stock and money, I7 history, I8 one end, I9 nobody waits forgotten, I10 sums,
//! I12 one writer a version, I13 secrets. An order whose saga runs is in motion: of it only that is asked which holds
//! after every single commit. What only other services know (whether the payment side charged twice), what was
//! published and what was logged cannot be seen here.

mod history;
mod money;
mod standing;

use std::time::Duration;

use super::Timestamp;
use super::chain::Checked;
use super::event::RecordedEvent;
use super::order::Order;
use super::saga::SagaProgress;
use super::status::OrderStatus;

/// A row of status history: the order entered a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entered {
    /// The event that says so.
    pub seq: i64,
    /// The status.
    pub status: OrderStatus,
    /// When.
    pub at: Timestamp,
}

/// Something that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The invariant, such as `I3`.
    pub invariant: &'static str,
    /// What was found, on one line; never with personal data.
    pub what: String,
}

/// What was found so far.
struct Findings(Vec<Violation>);

impl Findings {
    /// Notes a violation of `invariant` unless the condition holds.
    fn expect(&mut self, holds: bool, invariant: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { invariant, what: what() });
        }
    }
}

/// Checks an order against its own rows, its saga that is not settled, and all of its events.
///
/// All of it has to be of one moment, `now` not after that moment. A saga that is not flagged for a person's attention
/// may stand still for `patience` after its next call was due; longer, and it counts as forgotten.
pub fn check(
    order: &Order,
    saga: Option<&SagaProgress>,
    events: &[RecordedEvent],
    now: Timestamp,
    patience: Duration,
) -> Vec<Violation> {
    let mut findings = Findings(Vec::new());
    let saga = saga.filter(|saga| !saga.settled);
    requests(&mut findings, order);
    money::sums(&mut findings, order);
    money::ledger(&mut findings, order, events);
    money::owed(&mut findings, order, saga);
    money::grants(&mut findings, order);
    standing::stock(&mut findings, order, saga);
    standing::labels(&mut findings, order, saga);
    standing::saga(&mut findings, order, saga, now, patience);
    history::check(&mut findings, order, saga, events);
    findings.0
}

/// Checks the rows of status history against the events they were made of.
pub fn check_history(events: &[RecordedEvent], rows: &[Entered]) -> Vec<Violation> {
    let mut findings = Findings(Vec::new());
    let told: Vec<Entered> = events.iter().filter_map(history::entered).collect();
    findings.expect(told == rows, "I7", || {
        let same = told.iter().zip(rows).take_while(|(event, row)| event == row).count();
        format!(
            "status history has {} rows and the events tell of {}; the first {same} agree",
            rows.len(),
            told.len()
        )
    });
    findings.0
}

/// Tells where the chain of the events does not hold.
pub fn check_chain(checked: &Checked) -> Vec<Violation> {
    let told = |broken: &super::chain::Break| Violation {
        invariant: "I7",
        what: format!("the chain of events is broken at {}: {}", broken.seq, broken.what),
    };
    checked.breaks.iter().map(told).collect()
}

/// I2: a request id answers one request.
fn requests(findings: &mut Findings, order: &Order) {
    const ABSENT: [u8; 16] = [0; 16];
    findings.expect(order.request_hash != ABSENT, "I2", || String::from("the creation has no request hash"));
    for (place, request) in order.requests.iter().enumerate() {
        let twice = order.requests.iter().take(place).any(|other| other.request_id == request.request_id);
        findings.expect(!twice, "I2", || format!("request {place} has the id of an earlier one"));
        findings.expect(!request.request_id.is_empty() && request.hash != ABSENT, "I2", || {
            format!("request {place} has no id or no hash")
        });
        findings.expect(request.saga_no.is_none_or(|no| (1..=order.saga_no).contains(&no)), "I2", || {
            format!("request {place} waits for a saga that never began")
        });
    }
}
