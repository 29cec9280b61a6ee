//! Group commit: changes of many orders travel to the database as one transaction.
//!
//! A few tasks, the *lanes*, own a writing connection each. One takes whatever is queued, hands it to its [`BatchWriter`]
//! and answers everyone; meanwhile the next batch gathers. An idle lane adds no delay, and a busy one spreads the cost of
//! making a transaction durable over as many changes as wait for it. Further lanes begin when more waits than one lane
//! keeps up with.
//!
//! Callers only hold a receipt. Dropping it neither stops nor harms the write, and no database call ever runs in a
//! request's own future.

mod queue;
mod tally;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use self::queue::{Place, Queue, Queued, Shut};
use self::tally::Tally;
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

/// Why a new order is refused whose texts nobody could ever read.
pub(super) const KEY_DESTROYED: &str = "the key of its personal data was destroyed meanwhile; try again";

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

/// Limits of the lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// At most this many jobs in one transaction.
    pub batch_max: usize,
    /// At most this many jobs waiting; more are refused.
    pub queue_max: usize,
    /// So many jobs have to wait for one more lane to begin.
    pub lane_jobs: usize,
    /// How long a busy lane waits for more jobs when there are fewer than last time; an idle one never waits.
    pub gather: Duration,
}

/// A lane whose last batch had fewer jobs than this is not busy.
const BUSY: usize = 8;

/// How often a gathering lane looks whether there are enough; the runtime's timer is not finer.
const LOOK: Duration = Duration::from_millis(1);

/// The way into the lanes.
pub struct Committer {
    queue: Arc<Queue>,
    lanes: TaskTracker,
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer").field("waiting", &self.queue.len()).finish_non_exhaustive()
    }
}

impl Committer {
    /// Starts a lane over each of `writers`. They end after [`Self::close`], or when the `Committer` is dropped; both
    /// write what is queued first.
    pub fn start(writers: Vec<Box<dyn BatchWriter>>, limits: Limits) -> Self {
        let lanes = TaskTracker::new();
        let queue = Arc::new(Queue::new(writers.len(), limits.queue_max, limits.lane_jobs));
        for (number, writer) in writers.into_iter().enumerate() {
            let lane = Lane { writer, limits, last: 0, tally: Tally::new() };
            // Also where the lane cannot be started its place is given up, and the queue is closed with the last one.
            start_lane(&lanes, number, lane.run(Place::at(Arc::clone(&queue))));
        }
        lanes.close();
        Self { queue, lanes }
    }

    /// Has `job` written and tells what became of it. Jobs of one order are written in the order of these calls.
    pub async fn run(&self, job: Job) -> JobResult {
        let (answer, answered) = oneshot::channel();
        let since = Instant::now();
        self.queue.push(Queued { job, answer, since }).map_err(|shut| match shut {
            Shut::Full => {
                metrics::counter!("order_store_jobs_total", "outcome" => "queue_full").increment(1);
                CommitError::QueueFull
            }
            Shut::Closed => CommitError::NotCommitted(String::from("the store is closed")),
        })?;
        // The lane answers every job it took; without an answer it died while it had this one.
        answered.await.unwrap_or_else(|_| Err(CommitError::Unknown(String::from("the writer has stopped"))))
    }

    /// How long the job that has waited longest has waited by now; zero when none waits.
    pub fn oldest_wait(&self) -> Duration {
        self.queue.oldest_wait(Instant::now())
    }

    /// How many jobs wait, how many may, how many lanes write, and how many there are.
    pub fn usage(&self) -> (usize, usize, usize, usize) {
        self.queue.usage()
    }

    /// Whether all lanes are there to write.
    pub fn is_running(&self) -> bool {
        self.queue.is_served()
    }

    /// Refuses new jobs, waits until every job queued before is written, then has the writers let go of the database.
    pub async fn close(&self) {
        self.queue.close();
        self.lanes.wait().await;
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue.close();
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

/// Waits until `enough` jobs are queued, but not longer than `left`.
async fn gather(place: &Place, enough: usize, mut left: Duration) {
    while place.waiting() < enough && !left.is_zero() {
        // Looked at now and then: to be woken by each of them would cost more than it saves.
        let pause = left.min(LOOK);
        tokio::time::sleep(pause).await;
        left = left.saturating_sub(pause);
    }
}

struct Lane {
    writer: Box<dyn BatchWriter>,
    limits: Limits,
    /// How many jobs the last batch had.
    last: usize,
    tally: Tally,
}

impl Lane {
    async fn run(mut self, mut place: Place) {
        while place.begin().await {
            // Those whose last change was just answered come back in a moment: together they cost one transaction.
            if self.last >= BUSY {
                gather(&place, self.last, self.limits.gather).await;
            }
            let batch = place.take(self.limits.batch_max.max(1));
            self.last = batch.len();
            if !batch.is_empty() {
                let answers = self.serve(batch).await;
                place.written();
                for (answer, result) in answers {
                    // Nobody waiting any more is fine: what was asked for is done.
                    let _ = answer.send(result);
                }
            }
        }
        self.writer.close().await;
    }

    async fn serve(&mut self, batch: Vec<Queued>) -> Vec<(oneshot::Sender<JobResult>, JobResult)> {
        let started = Instant::now();
        let (jobs, answers): (Vec<Job>, Vec<_>) =
            batch.into_iter().map(|queued| (queued.job, queued.answer)).unzip();
        self.tally.size.record(jobs.len() as f64);
        let results = self.write(&jobs).await;
        self.tally.seconds.record(started.elapsed().as_secs_f64());
        for result in &results {
            self.tally.ended(result);
        }
        answers.into_iter().zip(results).collect()
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
