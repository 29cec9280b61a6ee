//! Group commit: changes of many orders travel to the database as one transaction.
//!
//! One task, a *lane*, owns the writing connection. It takes whatever is queued, hands it to the [`BatchWriter`] and
//! answers everyone; meanwhile the next batch gathers. An idle lane adds no delay, and a busy one spreads the cost of
//! making a transaction durable over as many changes as wait for it.
//!
//! Callers only hold a receipt. Dropping it neither stops nor harms the write, and no database call ever runs in a
//! request's own future.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::ids::OrderId;
use crate::ports::store::{Commit, CommitError, Owner};

/// One thing to write.
#[derive(Clone, Debug)]
pub enum Job {
    /// A change of one order.
    Commit(Box<Commit>),
    /// A change of one order's owner.
    Claim {
        /// The order.
        id: OrderId,
        /// Its owner from now on.
        owner: Owner,
    },
}

impl Job {
    /// The order it is about.
    pub fn order(&self) -> OrderId {
        match self {
            Self::Commit(commit) => commit.order.id,
            Self::Claim { id, .. } => *id,
        }
    }
}

/// What became of a job.
pub type JobResult = Result<Done, CommitError>;

/// A job that is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// The change is durable.
    Committed,
    /// The order has the owner that the claim named.
    Claimed,
    /// There is no order to claim.
    NoSuchOrder,
}

/// Why a batch as a whole has no results.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BatchError {
    /// Nothing was written, and one of the jobs may be to blame: the lane finds out which.
    Suspect(String),
    /// Nothing was written, and no job is to blame: full disk, lost connection.
    Refused(String),
    /// The transaction was sent, and what became of it is not known.
    Unknown(String),
}

/// Writes batches into one database.
#[async_trait]
pub trait BatchWriter: Send {
    /// Writes `jobs`, each about another order, as one transaction; durable when it returns.
    ///
    /// The answer has one result for each job, in their order. A job that the data refuse (another version, a number
    /// that is taken, a coupon without uses left) has its error there and leaves nothing behind; the others are written.
    async fn write(&mut self, jobs: &[Job]) -> Result<Vec<JobResult>, BatchError>;

    /// Lets go of the database. Nothing is written after this.
    async fn close(&mut self);
}

/// Limits of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// At most this many jobs in one transaction.
    pub batch_max: usize,
    /// At most this many jobs waiting; more are refused.
    pub queue_max: usize,
    /// How long a busy lane waits for more jobs when there are fewer than last time; an idle one never waits.
    pub gather: Duration,
}

/// A lane whose last batch had fewer jobs than this is not busy.
const BUSY: usize = 8;

/// How often a gathering lane looks whether there are enough; the runtime's timer is not finer.
const LOOK: Duration = Duration::from_millis(1);

/// The way into the lanes. An order is always in the same one.
pub struct Committer {
    queues: Vec<mpsc::Sender<Queued>>,
    /// For each lane, since when something waits in its queue.
    waits: Vec<Arc<Waiting>>,
    closing: CancellationToken,
    lanes: TaskTracker,
}

struct Queued {
    job: Job,
    answer: oneshot::Sender<JobResult>,
    since: Instant,
}

/// Since when the oldest job of a queue waits, at the latest; what is being written waits no more.
struct Waiting {
    started: Instant,
    /// Microseconds from the start, never 0; 0 = nothing waits.
    since: AtomicU64,
}

impl Waiting {
    fn new() -> Self {
        Self { started: Instant::now(), since: AtomicU64::new(0) }
    }

    fn at(&self, moment: Instant) -> u64 {
        let passed = moment.saturating_duration_since(self.started).as_micros();
        u64::try_from(passed).unwrap_or(u64::MAX).max(1)
    }

    /// A job was queued.
    fn queued(&self, at: Instant) {
        // All but the first find that somebody waits already.
        if self.since.load(Ordering::Relaxed) == 0 {
            let _other = self.since.compare_exchange(0, self.at(at), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// What is left waits since this moment, or there is nothing left.
    fn left(&self, since: Option<Instant>) {
        self.since.store(since.map_or(0, |since| self.at(since)), Ordering::Relaxed);
    }

    fn age(&self, now: Instant) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(self.at(now).saturating_sub(since)),
        }
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let free: Vec<usize> = self.queues.iter().map(mpsc::Sender::capacity).collect();
        f.debug_struct("Committer").field("free", &free).finish_non_exhaustive()
    }
}

impl Committer {
    /// Starts a lane over each of `writers`. They end after [`Self::close`], or when the `Committer` is dropped; both
    /// write what is queued first.
    pub fn start(writers: Vec<Box<dyn BatchWriter>>, limits: Limits) -> Self {
        let (closing, lanes) = (CancellationToken::new(), TaskTracker::new());
        let each = limits.queue_max.div_ceil(writers.len().max(1));
        let mut queues = Vec::with_capacity(writers.len());
        let waits: Vec<Arc<Waiting>> = writers.iter().map(|_| Arc::new(Waiting::new())).collect();
        for (number, (writer, waiting)) in writers.into_iter().zip(&waits).enumerate() {
            let (queue, jobs) = mpsc::channel(each.max(1));
            let lane = Lane {
                writer,
                jobs,
                batch_max: limits.batch_max.max(1),
                gather: limits.gather,
                last: 0,
                deferred: VecDeque::new(),
                waiting: Arc::clone(waiting),
                number,
            };
            start_lane(&lanes, number, lane.run(closing.clone()));
            queues.push(queue);
        }
        lanes.close();
        Self { queues, waits, closing, lanes }
    }

    /// The lane of an order.
    fn queue(&self, order: OrderId) -> Option<(&mpsc::Sender<Queued>, &Waiting)> {
        // The last bits of an id are random or a hash.
        let lane =
            u64::try_from(self.queues.len()).ok().and_then(|lanes| order.low_bits().checked_rem(lanes))?;
        let lane = usize::try_from(lane).ok()?;
        Some((self.queues.get(lane)?, self.waits.get(lane)?))
    }

    /// How long the job that has waited longest has waited by now; zero when none waits.
    pub fn oldest_wait(&self) -> Duration {
        let now = Instant::now();
        self.waits.iter().map(|waiting| waiting.age(now)).max().unwrap_or_default()
    }

    /// Has `job` written and tells what became of it. Jobs of one order are written in the order of these calls.
    pub async fn run(&self, job: Job) -> JobResult {
        let (answer, answered) = oneshot::channel();
        let closed = || CommitError::NotCommitted(String::from("the store is closed"));
        let (queue, waiting) = self.queue(job.order()).ok_or_else(closed)?;
        let since = Instant::now();
        // Before it is queued: afterwards the lane may have taken it already.
        waiting.queued(since);
        queue.try_send(Queued { job, answer, since }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommitError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        // The lane answers every job it took; without an answer it died while it had this one.
        answered.await.unwrap_or_else(|_| Err(CommitError::Unknown(String::from("the writer has stopped"))))
    }

    /// Whether all lanes are there to write.
    pub fn is_running(&self) -> bool {
        !self.queues.iter().any(mpsc::Sender::is_closed)
    }

    /// Refuses new jobs, waits until every job queued before is written, then has the writer let go of the database.
    pub async fn close(&self) {
        self.closing.cancel();
        self.lanes.wait().await;
    }
}

/// Runs a lane on a thread of its own: each of its many short waits for the database would otherwise end with a place
/// at the end of a busy runtime's queue. Where no thread can be had, it runs among the other tasks.
fn start_lane(lane: &TaskTracker, number: usize, work: impl Future<Output = ()> + Send + 'static) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let tracked = lane.track_future(work);
            let thread = std::thread::Builder::new().name(format!("orders-commit-{number}"));
            // Without a thread the work is dropped with its queue, and every commit is refused as closed.
            if let Err(error) = thread.spawn(move || runtime.block_on(tracked)) {
                tracing::error!(%error, "the order store has no thread to write with");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "the order store writes among other tasks");
            lane.spawn(work);
        }
    }
}

struct Lane {
    writer: Box<dyn BatchWriter>,
    jobs: mpsc::Receiver<Queued>,
    batch_max: usize,
    gather: Duration,
    /// How many jobs the last batch had.
    last: usize,
    /// Jobs whose order stood in the batch already; they are first in the next one.
    deferred: VecDeque<Queued>,
    waiting: Arc<Waiting>,
    number: usize,
}

impl Lane {
    async fn run(mut self, closing: CancellationToken) {
        loop {
            let batch = self.gather(&closing).await;
            if batch.is_empty() {
                break;
            }
            self.serve(batch).await;
        }
        self.writer.close().await;
    }

    /// Everything that waits, up to the limit, one job an order; empty when the lane is to end.
    async fn gather(&mut self, closing: &CancellationToken) -> Vec<Queued> {
        let mut arrived = Vec::new();
        if self.deferred.is_empty() {
            let received = tokio::select! {
                received = self.jobs.recv_many(&mut arrived, self.batch_max) => received,
                () = closing.cancelled(), if !self.jobs.is_closed() => {
                    self.jobs.close();
                    self.jobs.recv_many(&mut arrived, self.batch_max).await
                }
            };
            if received == 0 {
                return Vec::new();
            }
            // Those whose last change was just answered come back in a moment: together they cost one transaction.
            if self.last >= BUSY {
                self.wait_for(self.last.saturating_sub(received)).await;
            }
        }
        let mut batch =
            Vec::with_capacity(self.batch_max.min(arrived.len().saturating_add(self.deferred.len())));
        let mut orders = HashSet::new();
        // What was deferred is older than what arrives, so it is looked at first. A job whose order is in the batch
        // already is deferred (again), and with it every later job of that order.
        let mut waiting = std::mem::take(&mut self.deferred);
        waiting.extend(arrived);
        while let Some(queued) = waiting.pop_front().or_else(|| self.jobs.try_recv().ok()) {
            if orders.insert(queued.job.order()) {
                batch.push(queued);
            } else {
                self.deferred.push_back(queued);
            }
            if batch.len() >= self.batch_max || self.deferred.len() >= self.batch_max {
                break;
            }
        }
        self.deferred.extend(waiting);
        self.last = batch.len();
        self.note_age(&batch);
        metrics::gauge!("order_store_queue_depth", "lane" => self.number.to_string())
            .set(self.jobs.len() as f64);
        batch
    }

    /// Notes since when what is not in this batch waits.
    fn note_age(&self, batch: &[Queued]) {
        let deferred = self.deferred.front().map(|queued| queued.since);
        // What is in the queue came after what was taken from it.
        let queued = || batch.last().filter(|_| !self.jobs.is_empty()).map(|queued| queued.since);
        self.waiting.left(deferred.or_else(queued));
        // Whoever queued meanwhile may have found the old time.
        if deferred.is_none() && !self.jobs.is_empty() {
            self.waiting.queued(Instant::now());
        }
    }

    /// Waits until `more` jobs are queued, at most as long as gathering may take.
    async fn wait_for(&mut self, more: usize) {
        let mut left = self.gather;
        while self.jobs.len() < more && !left.is_zero() {
            // Looked at now and then: to be woken by each of them would cost more than it saves.
            let pause = left.min(LOOK);
            tokio::time::sleep(pause).await;
            left = left.saturating_sub(pause);
        }
    }

    async fn serve(&mut self, batch: Vec<Queued>) {
        let started = Instant::now();
        let (jobs, answers): (Vec<Job>, Vec<_>) =
            batch.into_iter().map(|queued| (queued.job, queued.answer)).unzip();
        metrics::histogram!("order_store_batch_size").record(jobs.len() as f64);
        let results = self.write(&jobs).await;
        metrics::histogram!("order_store_batch_seconds").record(started.elapsed().as_secs_f64());
        for (answer, result) in answers.into_iter().zip(results) {
            metrics::counter!("order_store_jobs_total", "outcome" => outcome(&result)).increment(1);
            // Nobody waiting any more is fine: what was asked for is done.
            let _ = answer.send(result);
        }
    }

    /// One result for each job. A batch that fails because of one of its members is split in halves until the culprit
    /// stands alone, so the others are written all the same.
    async fn write(&mut self, jobs: &[Job]) -> Vec<JobResult> {
        let mut results = Vec::with_capacity(jobs.len());
        let mut parts = vec![jobs];
        while let Some(part) = parts.pop() {
            match self.writer.write(part).await {
                Ok(written) => {
                    let missing = part.len().saturating_sub(written.len());
                    results.extend(written.into_iter().take(part.len()));
                    // A writer that breaks its promise must not shift the answers of others.
                    results.extend((0..missing).map(|_| Err(unanswered())));
                }
                Err(BatchError::Suspect(error)) if part.len() > 1 => {
                    tracing::debug!(jobs = part.len(), error, "a batch failed; trying its halves");
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push(second);
                    parts.push(first);
                }
                Err(error) => results.extend(part.iter().map(|_| Err(error.clone().into()))),
            }
        }
        results
    }
}

impl From<BatchError> for CommitError {
    /// What the end of a batch means to each of its jobs.
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Suspect(error) | BatchError::Refused(error) => Self::NotCommitted(error),
            BatchError::Unknown(error) => Self::Unknown(error),
        }
    }
}

fn unanswered() -> CommitError {
    CommitError::Unknown(String::from("the writer gave no result"))
}

fn outcome(result: &JobResult) -> &'static str {
    match result {
        Ok(Done::Committed) => "committed",
        Ok(Done::Claimed) => "claimed",
        Ok(Done::NoSuchOrder) => "no_such_order",
        Err(CommitError::Conflict) => "conflict",
        Err(CommitError::NumberTaken) => "number_taken",
        Err(CommitError::CouponExhausted) => "coupon_exhausted",
        Err(CommitError::QueueFull) => "queue_full",
        Err(CommitError::Quarantined) => "quarantined",
        Err(CommitError::NotCommitted(_)) => "not_committed",
        Err(CommitError::Unknown(_)) => "unknown",
    }
}
