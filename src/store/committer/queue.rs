//! What waits to be written, shared by all lanes.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::{Job, JobResult};
use crate::domain::ids::OrderId;

/// A job, and who waits for it.
pub(super) struct Queued {
    pub(super) job: Job,
    pub(super) answer: oneshot::Sender<JobResult>,
    pub(super) since: Instant,
}

/// Why a job is not taken in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shut {
    Full,
    Closed,
}

/// The queue of all lanes.
///
/// A lane that has nothing to do takes what waits only if no other lane is at work, or enough waits for one more. So
/// changes travel in few large transactions as long as one lane keeps up, and side by side when it does not. The jobs of
/// an order are written in the order in which they came: while one is being written the next one stays here.
pub(super) struct Queue {
    state: Mutex<State>,
    news: Notify,
    /// Most jobs that may wait.
    room: usize,
    /// So many jobs have to wait for one more lane to begin.
    enough: usize,
}

struct State {
    waiting: VecDeque<Queued>,
    /// Orders in batches that are being written.
    busy: HashSet<OrderId>,
    /// Lanes at work: they write, or gather what they write next.
    working: usize,
    /// Lanes that have not ended.
    alive: usize,
    lanes: usize,
    /// An idle lane was told to look, and has not looked yet.
    told: bool,
    closed: bool,
}

impl State {
    fn may_begin(&self, enough: usize) -> bool {
        !self.waiting.is_empty() && (self.working == 0 || self.waiting.len() >= enough)
    }
}

impl Queue {
    /// An empty one. A further lane begins when `enough` jobs wait; at most `room` do.
    pub(super) fn new(lanes: usize, room: usize, enough: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            busy: HashSet::new(),
            working: 0,
            alive: lanes,
            lanes,
            told: false,
            closed: lanes == 0,
        };
        Self { state: Mutex::new(state), news: Notify::new(), room: room.max(1), enough: enough.max(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it can stop half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job in.
    pub(super) fn push(&self, queued: Queued) -> Result<(), Shut> {
        let mut state = self.state();
        if state.closed {
            return Err(Shut::Closed);
        }
        if state.waiting.len() >= self.room {
            return Err(Shut::Full);
        }
        state.waiting.push_back(queued);
        self.tell(state);
        Ok(())
    }

    /// Wakes one lane if there is enough for it; once, since whoever queues before it has looked adds to what it will find.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        if !state.told && state.working < state.alive && state.may_begin(self.enough) {
            state.told = true;
            drop(state);
            self.news.notify_one();
        }
    }

    /// How many jobs wait, how many may, how many lanes are at work, and how many there are.
    pub(super) fn usage(&self) -> (usize, usize, usize, usize) {
        let state = self.state();
        (state.waiting.len(), self.room, state.working, state.alive)
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Since when the job that has waited longest waits, until `now`.
    pub(super) fn oldest_wait(&self, now: Instant) -> Duration {
        let oldest = self.state().waiting.front().map(|queued| queued.since);
        oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Whether all lanes are there to write.
    pub(super) fn is_served(&self) -> bool {
        let state = self.state();
        // Without lanes nothing is written, and nothing is missing.
        state.lanes == 0 || (!state.closed && state.alive == state.lanes)
    }

    /// Takes no more jobs in. Those that wait are still written.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.news.notify_waiters();
    }
}

/// A lane's place at the queue. When it is dropped, the lane has ended.
pub(super) struct Place {
    queue: Arc<Queue>,
    working: bool,
    /// There was nothing for this lane when it last looked: all that waits has to wait for others.
    in_vain: bool,
    /// Orders of the batch that this lane has.
    taken: Vec<OrderId>,
}

impl Place {
    pub(super) fn at(queue: Arc<Queue>) -> Self {
        Self { queue, working: false, in_vain: false, taken: Vec::new() }
    }

    /// How many jobs wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Waits until this lane may begin. False when it is to end: the queue is closed, and nothing is left.
    pub(super) async fn begin(&mut self) -> bool {
        loop {
            let news = self.queue.news.notified();
            tokio::pin!(news);
            // Whatever is told from here on is heard, also before it is waited for.
            news.as_mut().enable();
            {
                let mut state = self.queue.state();
                state.told = false;
                if self.working {
                    return true;
                }
                // What this lane looked for in vain another one has; where none is at work any more, nobody has it.
                let in_vain = std::mem::take(&mut self.in_vain) && state.working > 0;
                if !in_vain && state.may_begin(self.queue.enough) {
                    state.working = state.working.saturating_add(1);
                    self.working = true;
                    return true;
                }
                if state.closed && state.waiting.is_empty() {
                    return false;
                }
            }
            news.await;
        }
    }

    /// Up to `most` of what waits, an order at most once, and none that another lane has. Empty when there is nothing for
    /// this lane; then it works no more until it has begun again.
    pub(super) fn take(&mut self, most: usize) -> Vec<Queued> {
        let mut state = self.queue.state();
        // Beside others this lane works only as long as there is enough for it, too.
        let goes_on = state.working <= 1 || state.waiting.len() >= self.queue.enough;
        let mut batch = Vec::new();
        if goes_on {
            batch.reserve(most.min(state.waiting.len()));
            // Those that have to wait for an earlier one of their order, and with it everything later of that order.
            let mut later = Vec::new();
            while batch.len() < most
                && later.len() < most
                && let Some(queued) = state.waiting.pop_front()
            {
                let order = queued.job.order();
                if state.busy.insert(order) {
                    self.taken.push(order);
                    batch.push(queued);
                } else {
                    later.push(queued);
                }
            }
            for queued in later.into_iter().rev() {
                state.waiting.push_front(queued);
            }
        }
        if batch.is_empty() {
            state.working = state.working.saturating_sub(1);
            self.working = false;
            self.in_vain = true;
        } else {
            // What is left may be enough for one more.
            self.queue.tell(state);
        }
        batch
    }

    /// The batch is written.
    pub(super) fn written(&mut self) {
        let mut state = self.queue.state();
        for order in self.taken.drain(..) {
            state.busy.remove(&order);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.written();
        let mut state = self.queue.state();
        if self.working {
            state.working = state.working.saturating_sub(1);
        }
        state.alive = state.alive.saturating_sub(1);
        let left = match state.alive {
            0 => {
                state.closed = true;
                std::mem::take(&mut state.waiting)
            }
            _ => VecDeque::new(),
        };
        drop(state);
        // Nobody is left to write them; whoever waits for them hears that.
        drop(left);
        // Others may have waited for what this lane had.
        self.queue.news.notify_waiters();
    }
}
