//! Checks what must hold on a store that may be in use: page after page, reading only.
//!
//! Nothing is locked and no node is asked. A page is in memory at a time. Orders that are created behind the place that
//! is being read are not seen; a later run sees them.

mod audit;

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::domain::ids::{OrderId, OrderNumber};
use crate::domain::verify::{Violation, check, check_chain, check_history};
use crate::ports::clock::Clock;
use crate::ports::store::{OrderStore, Scanned, StoreError};

pub use audit::{AuditOptions, AuditReport, AuditWitness, Head, Noted, audit, heads};

/// How often a page that cannot be read is tried before the verification ends.
const TRIES: u32 = 3;
/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// One order, as people name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// By its id.
    Id(OrderId),
    /// By its number.
    Number(OrderNumber),
}

/// What to check, and how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// Orders a page, at least 1.
    pub page_size: u32,
    /// At most so many pages a second; none = as fast as the store answers.
    pub pages_per_second: Option<u32>,
    /// How long a saga that is not flagged may stand still after its next call was due.
    pub patience: Duration,
    /// Only this order.
    pub only: Option<Which>,
}

/// A violation, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The order.
    pub order: OrderId,
    /// Its number, where it can be read.
    pub number: Option<OrderNumber>,
    /// What does not hold.
    pub violation: Violation,
}

/// What was checked and found so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// Orders checked, with those that cannot be read.
    pub orders: u64,
    /// Violations found.
    pub violations: u64,
    /// Orders that have any.
    pub violated_orders: u64,
    /// Orders that cannot be read.
    pub unreadable: u64,
    /// Whether the last order was reached.
    pub complete: bool,
}

/// Who is told while it goes on.
pub trait Witness {
    /// Something does not hold. `Break` ends the verification.
    fn violation(&mut self, finding: &Finding) -> ControlFlow<()>;
    /// A page is done.
    fn progress(&mut self, so_far: &Report);
}

/// Why a verification could not go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no such order.
    #[error("the store has no order {0}; check its id or number")]
    NoSuchOrder(String),
    /// The store gave no page.
    #[error(
        "the store could not be read after {checked} orders ({error}); see that it is there and start again"
    )]
    Store {
        /// Orders checked until then.
        checked: u64,
        /// What the store says.
        error: StoreError,
    },
    /// An order has to be readable here.
    #[error("order {order} cannot be read: {what}; see what `order-service ops verify` says of it")]
    Unreadable {
        /// The order.
        order: OrderId,
        /// What is wrong, by table and column.
        what: String,
    },
    /// What was noted earlier cannot be used.
    #[error("line {line} of the noted heads cannot be used: {what}")]
    Noted {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// Checks every order, or the one named, until the last one or until `stop` is ready.
///
/// # Errors
/// When the store cannot be read any more, or does not have the order named.
pub async fn run(
    store: &dyn OrderStore,
    clock: &dyn Clock,
    options: &Options,
    witness: &mut impl Witness,
    stop: impl Future<Output = ()>,
) -> Result<Report, VerifyError> {
    let mut report = Report::default();
    let ended = {
        let work = walk(store, clock, options, witness, &mut report);
        tokio::select! {
            ended = work => Some(ended),
            () = stop => None,
        }
    };
    match ended {
        Some(Ok(())) | None => Ok(report),
        Some(Err(error)) => Err(error),
    }
}

async fn walk(
    store: &dyn OrderStore,
    clock: &dyn Clock,
    options: &Options,
    witness: &mut impl Witness,
    report: &mut Report,
) -> Result<(), VerifyError> {
    if let Some(which) = &options.only {
        let scanned = find(store, which).await?;
        report.complete = examine(scanned, clock, options, witness, report).is_continue();
        return Ok(());
    }
    let limit = options.page_size.max(1);
    let mut pace = options.pages_per_second.and_then(|pages| {
        let period = Duration::from_secs(1).checked_div(pages)?;
        let mut pace = interval(period);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Some(pace)
    });
    let mut after = None;
    loop {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let page = page(store, after, limit, report.orders).await?;
        let is_last = u32::try_from(page.len()).is_ok_and(|count| count < limit);
        after = page.last().map(|scanned| scanned.id).or(after);
        for scanned in page {
            if examine(scanned, clock, options, witness, report).is_break() {
                return Ok(());
            }
        }
        witness.progress(report);
        if is_last {
            report.complete = true;
            return Ok(());
        }
        // Reading may be so quick that nobody else gets a turn, such as whoever asks to stop.
        tokio::task::yield_now().await;
    }
}

async fn page(
    store: &dyn OrderStore,
    after: Option<OrderId>,
    limit: u32,
    checked: u64,
) -> Result<Vec<Scanned>, VerifyError> {
    let mut tries = 1u32;
    loop {
        match store.scan(after, limit).await {
            Ok(page) => return Ok(page),
            Err(error) if tries >= TRIES => return Err(VerifyError::Store { checked, error }),
            Err(error) => tracing::warn!(%error, "a page could not be read; it is tried again"),
        }
        tries = tries.saturating_add(1);
        sleep(PAUSE).await;
    }
}

/// The order named.
async fn find(store: &dyn OrderStore, which: &Which) -> Result<Scanned, VerifyError> {
    let (id, name) = named(store, which).await?;
    // A page of one behind the id before it.
    let before = id.0.as_u128().checked_sub(1).map(|before| OrderId(uuid::Uuid::from_u128(before)));
    let found = page(store, before, 1, 0).await?.into_iter().find(|scanned| scanned.id == id);
    found.ok_or(VerifyError::NoSuchOrder(name))
}

/// The id of the order named, and its name.
async fn named(store: &dyn OrderStore, which: &Which) -> Result<(OrderId, String), VerifyError> {
    let (id, name) = match which {
        Which::Id(id) => (Some(*id), id.to_string()),
        Which::Number(number) => {
            let found = store.find_by_number(number).await;
            (found.map_err(|error| VerifyError::Store { checked: 0, error })?, number.to_string())
        }
    };
    id.map(|id| (id, name.clone())).ok_or(VerifyError::NoSuchOrder(name))
}

fn examine(
    scanned: Scanned,
    clock: &dyn Clock,
    options: &Options,
    witness: &mut impl Witness,
    report: &mut Report,
) -> ControlFlow<()> {
    let Scanned { id, found } = scanned;
    report.orders = report.orders.saturating_add(1);
    let (number, violations) = match found {
        Ok(evidence) => {
            let (order, saga) = (&evidence.stored.order, evidence.stored.saga.as_ref());
            let mut found = check(order, saga, &evidence.events, clock.now(), options.patience);
            found.extend(check_history(&evidence.events, &evidence.history));
            found.extend(check_chain(&evidence.chain));
            (Some(order.order_number.clone()), found)
        }
        Err(what) => {
            report.unreadable = report.unreadable.saturating_add(1);
            // Nobody can be shown what was acknowledged.
            (None, vec![Violation { invariant: "I1", what: format!("unreadable: {what}") }])
        }
    };
    if !violations.is_empty() {
        report.violated_orders = report.violated_orders.saturating_add(1);
    }
    for violation in violations {
        report.violations = report.violations.saturating_add(1);
        witness.violation(&Finding { order: id, number: number.clone(), violation })?;
    }
    ControlFlow::Continue(())
}
