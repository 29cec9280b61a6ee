//! The five collaborators in one process: for development, tests and load tests.
//!
//! It keeps every promise that the ports ask for (idempotency by key, tombstones, reservations that expire,
//! refunds that never exceed the charge), remembers everything it did, and fails on order. With a journal
//! ([`Simulator::open`]) it remembers beyond the end of its process.

pub mod catalogue;
mod directory;
mod effects;
mod faults;
mod inventory;
mod journal;
#[cfg(test)]
mod journal_tests;
mod ledger;
mod payment;
mod records;
pub mod server;
mod shipping;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uuid::Uuid;

pub use self::faults::{FaultSpec, FaultTarget, MAX_DELAY, Method};
pub use self::journal::SimError;
pub use self::ledger::MAX_LINES;
pub use self::payment::SLOW;
pub use self::records::{
    Charge, ChargeState, ClosedCharge, KeyCalls, LabelRecord, LabelState, LedgerPage, OrderLedger, Refund,
    Reservation, ReservationState, Restock, StockTotals, Units,
};

use self::catalogue::CatalogueEntry;
use self::faults::{Faults, Plan};
use self::journal::Journal;
use self::ledger::Ledger;
use crate::domain::Timestamp;
use crate::domain::ids::OrderId;
use crate::domain::item::ProductRef;
use crate::ports::Collaborators;
use crate::ports::call::{CallContext, CallError};
use crate::ports::product::Product;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Limits of a simulator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SimConfig {
    /// Most records of the ledger (effects, tombstones and keys; about five an order, some 200 bytes each). Beyond
    /// it, calls that need another one are [`CallError::Unavailable`]. A journal holds as many effects at most, some
    /// 300 bytes each.
    pub max_records: usize,
    /// Most calls that are delayed at a time. Beyond it, calls are [`CallError::Unavailable`].
    pub max_delayed: usize,
}

impl Default for SimConfig {
    fn default() -> Self {
        Self { max_records: 10_000_000, max_delayed: 100_000 }
    }
}

/// The simulated collaborators. Clones are handles to the same one.
#[derive(Clone)]
pub struct Simulator {
    core: Arc<Core>,
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

/// What delayed calls keep alive.
struct Core {
    clock: Clock,
    faults: Faults,
    catalogue: Vec<CatalogueEntry>,
    products: HashMap<ProductRef, Product>,
    ledger: Mutex<Ledger>,
    delayed: AtomicUsize,
    max_delayed: usize,
}

impl Core {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger with everything expired that has run out, and what time it is.
    fn ledger_now(&self) -> (MutexGuard<'_, Ledger>, Timestamp) {
        let mut ledger = self.ledger();
        let now = ledger.advance((self.clock)());
        (ledger, now)
    }
}

/// The answer that the caller never got.
fn lost_reply() -> CallError {
    CallError::Unknown("simulated loss of the reply".to_owned())
}

/// Reads an id made of a prefix and a UUID.
fn parse_id(prefix: &str, id: &str) -> Option<Uuid> {
    Uuid::try_parse(id.strip_prefix(prefix)?).ok()
}

/// Executes a call that has arrived.
fn execute<T>(
    core: &Core,
    plan: &Plan,
    mut work: impl FnMut(&Core, &Plan) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let answer = work(core, plan);
    if plan.duplicate {
        // What becomes of the second one is nobody's business: its answer has no one to go to.
        drop(work(core, plan));
    }
    if plan.lose_reply { Err(lost_reply()) } else { answer }
}

impl Simulator {
    /// A simulator with the full catalogue, nothing done yet and no faults. What it will do is forgotten when the
    /// last handle is gone.
    pub fn new(config: SimConfig, clock: Clock) -> Self {
        let catalogue = catalogue::entries();
        let ledger = Ledger::new(&catalogue, config.max_records);
        Self::with(config, clock, catalogue, ledger)
    }

    /// A simulator that goes on where the journal at this path ends; a missing file is made. `None`: as [`Self::new`].
    ///
    /// Every effect is in the file before its answer leaves, so it survives the death of the process, though not
    /// surely that of the machine: nothing is synced. Ids, answers to repeated keys, expiry and totals come back
    /// exactly. How often a key was received does not: it is known when its call had an effect, as received once.
    /// Faults are not journaled, nor are charges that are pending. When an effect cannot be written, the call is
    /// [`CallError::Unavailable`] and nothing has happened.
    ///
    /// The file is read and replayed here and now: about a second for every 300000 effects.
    ///
    /// # Errors
    /// The file cannot be opened, is not a journal, is damaged, or another process has it open. A last line that was
    /// cut off by a crash is no error: its call was never answered.
    pub fn open(config: SimConfig, clock: Clock, journal: Option<PathBuf>) -> Result<Self, SimError> {
        let Some(path) = journal else { return Ok(Self::new(config, clock)) };
        let catalogue = catalogue::entries();
        // What is in the journal is kept even when the limit was lowered since.
        let mut ledger = Ledger::new(&catalogue, usize::MAX);
        let journal = Journal::open(path, config.max_records, |at, entry| ledger.replay(at, entry))?;
        tracing::info!(
            journal = %journal.path().display(),
            effects = journal.entries(),
            "the simulator keeps stock, money and labels in its journal"
        );
        ledger.limit_records(config.max_records);
        ledger.keep(journal);
        Ok(Self::with(config, clock, catalogue, ledger))
    }

    fn with(config: SimConfig, clock: Clock, catalogue: Vec<CatalogueEntry>, ledger: Ledger) -> Self {
        let products = catalogue.iter().map(|entry| (entry.product.product, entry.product.clone()));
        let core = Core {
            clock,
            faults: Faults::default(),
            products: products.collect(),
            ledger: Mutex::new(ledger),
            catalogue,
            delayed: AtomicUsize::new(0),
            max_delayed: config.max_delayed,
        };
        Self { core: Arc::new(core) }
    }

    /// Gives the journal up, so that it can be opened again while handles to this simulator are still around. From
    /// then on its effects are [`CallError::Unavailable`]. Without a journal this does nothing.
    pub fn close(&self) {
        self.core.ledger().close();
    }

    /// This simulator as all five collaborators.
    pub fn collaborators(&self) -> Collaborators {
        let simulator = Arc::new(self.clone());
        Collaborators {
            inventory: simulator.clone(),
            products: simulator.clone(),
            users: simulator.clone(),
            payments: simulator.clone(),
            shipping: simulator,
        }
    }

    /// Replaces the faults of each target named; `reset_all` clears those of the others first.
    ///
    /// # Errors
    /// What is out of range, as one sentence; then nothing was changed.
    pub fn set_faults(
        &self,
        reset_all: bool,
        faults: Vec<(FaultTarget, FaultSpec)>,
    ) -> Result<(), &'static str> {
        self.core.faults.set(reset_all, faults)
    }

    /// The faults that are set, each with the number of calls it struck.
    pub fn faults(&self) -> Vec<(FaultTarget, FaultSpec, u64)> {
        self.core.faults.get()
    }

    /// Everything that was done for one order.
    pub fn order_ledger(&self, order: OrderId) -> OrderLedger {
        self.core.ledger_now().0.of_order(order)
    }

    /// Up to `size` orders, from the `from`-th on in the order in which they were first seen.
    pub fn ledger_page(&self, from: usize, size: usize) -> LedgerPage {
        self.core.ledger_now().0.page(from, size)
    }

    /// Where the units of every product are, sorted by product.
    pub fn stock(&self) -> Vec<StockTotals> {
        self.core.ledger_now().0.totals()
    }

    /// Sets how many units of a product are on sale; `None` when it is unknown.
    ///
    /// # Errors
    /// Unavailable when it cannot be journaled; then nothing was changed.
    pub fn set_stock(&self, product: ProductRef, available: u64) -> Result<Option<StockTotals>, CallError> {
        let (mut ledger, now) = self.core.ledger_now();
        ledger.set_stock(product, available, now)
    }

    /// Everything that is sold.
    pub fn catalogue(&self) -> &[CatalogueEntry] {
        &self.core.catalogue
    }

    /// Lets a call happen, with the faults that are due.
    async fn call<T, F>(&self, ctx: &CallContext, method: Method, work: F) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnMut(&Core, &Plan) -> Result<T, CallError> + Send + 'static,
    {
        let plan = self.core.faults.draw(method);
        self.carry_out(ctx, method, plan, |_| Ok(()), work).await
    }

    /// Lets a call happen as planned. A delayed one no longer depends on its caller: it happens even when the
    /// caller has stopped waiting, as it would on a network. `on_delay` runs at once when there is a delay.
    async fn carry_out<T, F>(
        &self,
        ctx: &CallContext,
        method: Method,
        plan: Plan,
        on_delay: impl FnOnce(&Core) -> Result<(), CallError> + Send,
        work: F,
    ) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: FnMut(&Core, &Plan) -> Result<T, CallError> + Send + 'static,
    {
        if plan.unavailable {
            return Err(CallError::Unavailable(format!("{} is unavailable (simulated)", method.as_str())));
        }
        if plan.delay == Duration::ZERO {
            return execute(&self.core, &plan, work);
        }
        let ticket = Delayed::begin(&self.core)?;
        on_delay(&self.core)?;
        let core = self.core.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(plan.delay).await;
            drop(ticket);
            execute(&core, &plan, work)
        });
        match tokio::time::timeout(ctx.timeout, task).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Unknown(format!("{} was aborted", method.as_str()))),
            Err(_) => Err(CallError::Unknown(format!("{} timed out", method.as_str()))),
        }
    }
}

/// Counts one delayed call while it lives.
struct Delayed(Arc<Core>);

impl Delayed {
    fn begin(core: &Arc<Core>) -> Result<Self, CallError> {
        let ticket = Self(core.clone());
        if core.delayed.fetch_add(1, Ordering::AcqRel) >= core.max_delayed {
            return Err(CallError::Unavailable("too many delayed calls (simulated)".to_owned()));
        }
        Ok(ticket)
    }
}

impl Drop for Delayed {
    fn drop(&mut self) {
        self.0.delayed.fetch_sub(1, Ordering::AcqRel);
    }
}
