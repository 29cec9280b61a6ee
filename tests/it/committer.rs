//! Group commit against a writer that fails on command.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::wait::eventually;
use async_trait::async_trait;
use futures::future::join_all;
use order_service::domain::ids::OrderId;
use order_service::ports::store::CommitError;
use order_service::store::committer::{BatchError, BatchWriter, Committer, Done, Job, JobResult, Limits};
use tokio::sync::Semaphore;

use crate::harness::orders::{OWNER, id};

/// Takes one permit a batch, fails as told and notes what it was given.
struct Fake {
    /// Batches it was given, those that wait for a permit included.
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<Vec<OrderId>>>>,
    poison: HashSet<OrderId>,
    error: Option<BatchError>,
    closed: Arc<Mutex<bool>>,
}

#[async_trait]
impl BatchWriter for Fake {
    async fn write(&mut self, jobs: &[Job]) -> Result<Vec<JobResult>, BatchError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        let orders: Vec<OrderId> = jobs.iter().map(Job::order).collect();
        self.seen.lock().unwrap().push(orders.clone());
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        if orders.iter().any(|order| self.poison.contains(order)) {
            return Err(BatchError::Suspect(String::from("poison")));
        }
        Ok(jobs.iter().map(|_| Ok(Done::Claimed)).collect())
    }

    async fn close(&mut self) {
        *self.closed.lock().unwrap() = true;
    }
}

struct Rig {
    committer: Committer,
    begun: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<Vec<OrderId>>>>,
    closed: Arc<Mutex<bool>>,
}

impl Rig {
    fn new(permits: usize, limits: Limits, poison: &[u64], error: Option<BatchError>) -> Self {
        let (gate, seen) = (Arc::new(Semaphore::new(permits)), Arc::default());
        let closed = Arc::new(Mutex::new(false));
        let poison = poison.iter().map(|n| id(*n)).collect();
        let begun = Arc::new(AtomicUsize::new(0));
        let fake = Fake {
            begun: Arc::clone(&begun),
            gate: gate.clone(),
            seen: Arc::clone(&seen),
            poison,
            error,
            closed: closed.clone(),
        };
        Self { committer: Committer::start(vec![Box::new(fake)], limits), begun, gate, seen, closed }
    }

    fn seen(&self) -> Vec<Vec<OrderId>> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the writer has been given something.
    async fn busy(&self) {
        eventually("a busy writer", async || (self.begun.load(Ordering::SeqCst) > 0).then_some(())).await;
    }

    /// Queues all of them while the writer has its hands full, then lets it go on. What came of them, and in which
    /// batches.
    async fn together(&self, orders: impl IntoIterator<Item = u64>) -> (Vec<JobResult>, Vec<Vec<OrderId>>) {
        let mut ahead = Box::pin(self.committer.run(job(999)));
        assert!(futures::poll!(&mut ahead).is_pending());
        self.busy().await;
        let mut waiting: Vec<_> = orders.into_iter().map(|n| Box::pin(self.committer.run(job(n)))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        self.gate.add_permits(99);
        let (_ahead, results) = tokio::join!(ahead, join_all(waiting));
        (results, self.seen().split_off(1))
    }
}

const LIMITS: Limits = Limits { batch_max: 8, queue_max: 100, lane_jobs: 4, gather: Duration::ZERO };

fn job(n: u64) -> Job {
    Job::Claim { id: id(n), owner: OWNER }
}

#[tokio::test]
async fn what_waits_goes_together_up_to_the_limit() {
    let (results, seen) = Rig::new(0, LIMITS, &[], None).together(1..=20).await;
    assert!(results.iter().all(Result::is_ok));
    let sizes: Vec<usize> = seen.iter().map(Vec::len).collect();
    assert_eq!(sizes, [8, 8, 4]);
}

#[tokio::test]
async fn one_order_is_in_a_batch_once_and_in_its_order() {
    let (_, seen) = Rig::new(0, LIMITS, &[], None).together([1, 2, 1, 3, 1, 2, 4]).await;
    assert_eq!(seen, [vec![id(1), id(2), id(3), id(4)], vec![id(1), id(2)], vec![id(1)]]);
}

#[tokio::test]
async fn the_culprit_is_found_and_the_others_are_written() {
    let (results, _) = Rig::new(0, LIMITS, &[3, 4, 7], None).together(1..=8).await;
    for (result, n) in results.iter().zip(1..) {
        match n {
            3 | 4 | 7 => assert_eq!(*result, Err(CommitError::NotCommitted(String::from("poison")))),
            _ => assert_eq!(*result, Ok(Done::Claimed)),
        }
    }
}

#[tokio::test]
async fn an_error_of_the_database_is_not_tried_job_by_job() {
    for (error, expected) in [
        (BatchError::Refused(String::from("full")), CommitError::NotCommitted(String::from("full"))),
        (BatchError::Unknown(String::from("cut")), CommitError::Unknown(String::from("cut"))),
    ] {
        let (results, seen) = Rig::new(0, LIMITS, &[], Some(error)).together(1..=8).await;
        assert!(results.iter().all(|result| *result == Err(expected.clone())));
        assert_eq!(seen.len(), 1);
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let rig = Rig::new(0, Limits { batch_max: 1, queue_max: 3, ..LIMITS }, &[], None);
    // The writer has its hands full with one; three more wait.
    let mut waiting: Vec<_> = (0..=3).map(|n| Box::pin(rig.committer.run(job(n)))).collect();
    for (n, run) in waiting.iter_mut().enumerate() {
        assert!(futures::FutureExt::now_or_never(run).is_none());
        if n == 0 {
            rig.busy().await;
        }
    }
    let refused = rig.committer.run(job(9)).await;
    assert!(matches!(&refused, Err(CommitError::QueueFull)), "{refused:?}");
    rig.gate.add_permits(99);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    assert_eq!(rig.committer.run(job(9)).await, Ok(Done::Claimed));
}

#[tokio::test]
async fn how_long_the_oldest_waits_is_known_and_what_is_written_waits_no_more() {
    let rig = Rig::new(0, LIMITS, &[], None);
    assert_eq!(rig.committer.oldest_wait(), Duration::ZERO);
    let mut first = Box::pin(rig.committer.run(job(1)));
    assert!(futures::poll!(&mut first).is_pending());
    rig.busy().await;
    let mut waiting: Vec<_> = [2, 3, 3].map(|n| Box::pin(rig.committer.run(job(n)))).into();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    let long = Duration::from_millis(30);
    eventually("a long wait", async || (rig.committer.oldest_wait() > long).then_some(())).await;
    rig.gate.add_permits(1);
    first.await.unwrap();
    // The second one for the same order waits for its turn, and has done so all the time.
    eventually("the next batch", async || (rig.begun.load(Ordering::SeqCst) == 2).then_some(())).await;
    assert!(rig.committer.oldest_wait() > long);
    rig.gate.add_permits(99);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    assert_eq!(rig.committer.oldest_wait(), Duration::ZERO);
}

#[tokio::test]
async fn closing_writes_what_is_queued_and_nothing_else() {
    let rig = Rig::new(0, LIMITS, &[], None);
    for n in [1, 2, 2, 3] {
        // Queued and forgotten by whoever asked.
        assert!(futures::FutureExt::now_or_never(rig.committer.run(job(n))).is_none());
    }
    let closing = rig.committer.close();
    futures::pin_mut!(closing);
    assert!(futures::poll!(&mut closing).is_pending());
    rig.gate.add_permits(99);
    closing.await;
    // However the lane woke up meanwhile: all of them, and no order twice in a batch.
    let mut seen = rig.seen().concat();
    seen.sort();
    let mut expected = [id(1), id(2), id(2), id(3)];
    expected.sort();
    assert_eq!(seen, expected);
    assert!(rig.seen().iter().all(|batch| batch.iter().collect::<HashSet<_>>().len() == batch.len()));
    assert!(*rig.closed.lock().unwrap());
    assert!(matches!(rig.committer.run(job(4)).await, Err(CommitError::NotCommitted(_))));
    assert!(!rig.committer.is_running());
}

#[tokio::test]
async fn a_writer_that_dies_leaves_its_jobs_unknown() {
    let rig = Rig::new(0, LIMITS, &[], None);
    rig.gate.close();
    assert!(matches!(rig.committer.run(job(1)).await, Err(CommitError::Unknown(_))));
    // Its thread is still taking itself apart when the answer is heard.
    eventually("the end of the lane", async || (!rig.committer.is_running()).then_some(())).await;
    assert!(matches!(rig.committer.run(job(2)).await, Err(CommitError::NotCommitted(_))));
}

/// Two lanes that have their hands full until they get a permit each batch.
fn two_lanes(gate: &Arc<Semaphore>, seen: &Arc<Mutex<Vec<Vec<OrderId>>>>) -> (Committer, Arc<AtomicUsize>) {
    let begun = Arc::new(AtomicUsize::new(0));
    let lane = || {
        Box::new(Fake {
            begun: Arc::clone(&begun),
            gate: Arc::clone(gate),
            seen: Arc::clone(seen),
            poison: HashSet::new(),
            error: None,
            closed: Arc::default(),
        }) as Box<dyn BatchWriter>
    };
    (Committer::start(vec![lane(), lane()], LIMITS), begun)
}

#[tokio::test]
async fn another_lane_begins_when_enough_waits() {
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
    let (committer, begun) = two_lanes(&gate, &seen);
    let lanes = async |count: usize| {
        eventually("lanes at work", async || (begun.load(Ordering::SeqCst) >= count).then_some(())).await;
    };
    let mut waiting = vec![Box::pin(committer.run(job(0)))];
    assert!(futures::poll!(&mut waiting[0]).is_pending());
    lanes(1).await;
    for n in 1..LIMITS.lane_jobs as u64 {
        waiting.push(Box::pin(committer.run(job(n))));
        assert!(futures::poll!(waiting.last_mut().unwrap()).is_pending());
    }
    // One fewer than it takes: they wait for the lane that is at work. The next one calls for the other lane.
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    waiting.push(Box::pin(committer.run(job(9))));
    assert!(futures::poll!(waiting.last_mut().unwrap()).is_pending());
    lanes(2).await;
    gate.add_permits(99);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    let mut sizes: Vec<usize> = seen.lock().unwrap().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, LIMITS.lane_jobs]);
    committer.close().await;
}

#[tokio::test]
async fn what_one_lane_leaves_calls_for_another() {
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
    let (committer, begun) = two_lanes(&gate, &seen);
    // Queued at once, before any lane has looked: two batches, and nobody queues anything after.
    let mut waiting: Vec<_> = (0..16).map(|n| Box::pin(committer.run(job(n)))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    eventually("two lanes", async || (begun.load(Ordering::SeqCst) == 2).then_some(())).await;
    gate.add_permits(99);
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    committer.close().await;
}

#[tokio::test]
async fn an_order_that_is_being_written_waits_in_whichever_lane() {
    let (gate, seen) = (Arc::new(Semaphore::new(0)), Arc::default());
    let (committer, begun) = two_lanes(&gate, &seen);
    let mut ahead = Box::pin(committer.run(job(1)));
    assert!(futures::poll!(&mut ahead).is_pending());
    eventually("a busy lane", async || (begun.load(Ordering::SeqCst) > 0).then_some(())).await;
    // Enough for the other lane, and nothing in it that the other lane may take but one.
    let mut waiting: Vec<_> = [1, 1, 1, 2].into_iter().map(|n| Box::pin(committer.run(job(n)))).collect();
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    eventually("the other lane", async || (begun.load(Ordering::SeqCst) > 1).then_some(())).await;
    // Nothing is left for it: it does not take an order out of turn, and the first lane has no permit yet.
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    gate.add_permits(99);
    let (_ahead, results) = tokio::join!(ahead, join_all(waiting));
    assert!(results.iter().all(Result::is_ok));
    let seen = seen.lock().unwrap().concat();
    assert_eq!(seen.iter().filter(|order| **order == id(1)).count(), 4);
    committer.close().await;
}
