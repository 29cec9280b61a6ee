//! Which orders are live on this node, and how much is asked of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use dashmap::{DashMap, Entry as Slot};
use ractor::ActorRef;

use super::message::Message;
use crate::domain::ids::OrderId;
use crate::domain::order::Order;
use crate::domain::saga::StepCall;
use crate::ports::store::Owner;

/// Set in a gate when its actor takes no more messages.
const CLOSED: u32 = 1 << 31;

/// The longest encoded order that is kept beside an order, in bytes.
const SHOWN_BYTES: usize = 8 << 10;

/// A state of an order, and what callers get for it.
#[derive(Debug)]
struct Shown {
    order: Arc<Order>,
    bytes: Bytes,
}

/// A live order: its actor, its last committed state and its admission gate.
#[derive(Debug)]
pub(super) struct Entry {
    actor: ActorRef<Message>,
    /// As whom the actor writes.
    owner: Owner,
    /// What reads see. Only ever a committed version.
    published: ArcSwapOption<Order>,
    /// How a published state is shown to callers, worked out for the first of them.
    shown: ArcSwapOption<Shown>,
    /// Commands in flight, and the `CLOSED` bit.
    gate: AtomicU32,
    /// Milliseconds since the epoch of the last command.
    touched_at: AtomicI64,
    /// Nothing is left to do, or a hold stops it.
    settled: AtomicBool,
    /// A call is under way, or a message is being handled.
    busy: AtomicBool,
    /// A change is being stored: it may be stored already although it is not published.
    committing: AtomicBool,
    /// The call that is under way, for those who ask why the order waits.
    running: ArcSwapOption<StepCall>,
}

impl Entry {
    pub(super) fn new(actor: ActorRef<Message>, owner: Owner, now_millis: i64) -> Arc<Self> {
        Arc::new(Self {
            actor,
            owner,
            published: ArcSwapOption::empty(),
            shown: ArcSwapOption::empty(),
            gate: AtomicU32::new(0),
            touched_at: AtomicI64::new(now_millis),
            settled: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            committing: AtomicBool::new(false),
            running: ArcSwapOption::empty(),
        })
    }

    pub(super) fn actor(&self) -> &ActorRef<Message> {
        &self.actor
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn published(&self) -> Option<Arc<Order>> {
        self.published.load_full()
    }

    /// The last committed state, unless the store may show a newer one already.
    pub(super) fn newest(&self) -> Option<Arc<Order>> {
        // In this order: whoever sees no commit under way sees what the last one published.
        let committing = self.committing.load(Ordering::SeqCst);
        self.published.load_full().filter(|_| !committing)
    }

    pub(super) fn set_committing(&self, committing: bool) {
        self.committing.store(committing, Ordering::SeqCst);
    }

    pub(super) fn publish(&self, order: &Arc<Order>) {
        self.published.store(Some(Arc::clone(order)));
        self.shown.store(None);
    }

    /// `order`, a state that was published, as `encode` makes it; remembered for the next one who asks for the same state.
    pub(super) fn show(&self, order: &Arc<Order>, encode: impl FnOnce(&Order) -> Bytes) -> Bytes {
        let shown = self.shown.load();
        if let Some(shown) = shown.as_ref().filter(|shown| Arc::ptr_eq(&shown.order, order)) {
            return shown.bytes.clone();
        }
        let bytes = encode(order);
        if bytes.len() <= SHOWN_BYTES {
            self.shown.store(Some(Arc::new(Shown { order: Arc::clone(order), bytes: bytes.clone() })));
            // It may be an older state by now, which nobody asks for any more.
            if !self.published.load().as_ref().is_some_and(|newest| Arc::ptr_eq(newest, order)) {
                self.shown.store(None);
            }
        }
        bytes
    }

    pub(super) fn set_settled(&self, settled: bool) {
        self.settled.store(settled, Ordering::Relaxed);
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Release);
    }

    /// The call that is under way.
    pub(super) fn running(&self) -> Option<Arc<StepCall>> {
        self.running.load_full()
    }

    pub(super) fn set_running(&self, call: Option<&StepCall>) {
        self.running.store(call.map(|call| Arc::new(call.clone())));
    }

    /// What operators see of it: commands in flight, when the last one came in milliseconds since the epoch, and whether it
    /// is settled, busy, and being stored.
    pub(super) fn look(&self) -> (u32, i64, [bool; 3]) {
        let is = [&self.settled, &self.busy, &self.committing].map(|flag| flag.load(Ordering::Relaxed));
        (self.gate.load(Ordering::Relaxed) & !CLOSED, self.touched_at.load(Ordering::Relaxed), is)
    }

    /// Whether stopping now would interrupt something.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) || self.gate.load(Ordering::Acquire) & !CLOSED != 0
    }

    /// Whether it is settled, unasked and untouched since `before_millis`.
    pub(super) fn is_idle(&self, before_millis: i64) -> bool {
        self.settled.load(Ordering::Relaxed)
            && self.gate.load(Ordering::Relaxed) == 0
            && self.touched_at.load(Ordering::Relaxed) < before_millis
    }

    /// Counts a command in.
    pub(super) fn admit(self: &Arc<Self>, limit: u32, now_millis: i64) -> Admission {
        let mut gate = self.gate.load(Ordering::Acquire);
        loop {
            if gate & CLOSED != 0 {
                return Admission::Closed;
            }
            if gate >= limit {
                return Admission::Full;
            }
            let more = gate.saturating_add(1);
            match self.gate.compare_exchange_weak(gate, more, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.touched_at.store(now_millis, Ordering::Relaxed);
                    return Admission::Granted(Permit(Arc::clone(self)));
                }
                Err(seen) => gate = seen,
            }
        }
    }

    /// Closes the gate if nothing is in flight: then no command is, or will be, in the mailbox.
    pub(super) fn close_if_idle(&self) -> bool {
        self.gate.compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Closes the gate, whatever is in flight.
    pub(super) fn close(&self) {
        self.gate.fetch_or(CLOSED, Ordering::AcqRel);
    }
}

/// Whether a command may be sent.
#[derive(Debug)]
pub(super) enum Admission {
    /// Send it with this.
    Granted(Permit),
    /// This order has too many.
    Full,
    /// This actor is leaving; ask a fresh one.
    Closed,
}

/// A command in flight; counted out when dropped.
#[derive(Debug)]
pub(super) struct Permit(Arc<Entry>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.gate.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many orders are live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Actors.
    pub live: usize,
}

/// The live orders of this node.
#[derive(Debug, Default)]
pub(super) struct Registry {
    entries: DashMap<OrderId, Arc<Entry>>,
    live: AtomicUsize,
}

impl Registry {
    pub(super) fn get(&self, id: OrderId) -> Option<Arc<Entry>> {
        self.entries.get(&id).map(|entry| Arc::clone(&entry))
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { live: self.live.load(Ordering::Relaxed) }
    }

    /// The entry of `id`, made by `spawn` if there is none. None when there are `max_live` already, or `spawn` fails.
    pub(super) fn get_or_spawn(
        &self,
        id: OrderId,
        max_live: usize,
        spawn: impl FnOnce() -> Option<Arc<Entry>>,
    ) -> Option<Arc<Entry>> {
        if let Some(entry) = self.get(id) {
            return Some(entry);
        }
        match self.entries.entry(id) {
            Slot::Occupied(entry) => Some(Arc::clone(entry.get())),
            Slot::Vacant(slot) => {
                if self.live.load(Ordering::Relaxed) >= max_live {
                    return None;
                }
                let entry = spawn()?;
                self.live.fetch_add(1, Ordering::Relaxed);
                slot.insert(Arc::clone(&entry));
                Some(entry)
            }
        }
    }

    /// Removes this very entry, if it is still the one.
    pub(super) fn remove(&self, id: OrderId, actor: &ActorRef<Message>) {
        let same = |entry: &Arc<Entry>| entry.actor.get_id() == actor.get_id();
        if self.entries.remove_if(&id, |_, entry| same(entry)).is_some() {
            self.live.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Visits every live order. Holds a shard's lock meanwhile: `visit` must be short and must not come back here.
    pub(super) fn each(&self, mut visit: impl FnMut(OrderId, &Arc<Entry>)) {
        for entry in &self.entries {
            visit(*entry.key(), entry.value());
        }
    }
}
