//! Sweepers: one lets idle orders leave memory, two bring back orders whose saga nobody drives.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::hot;
use super::message::Message;
use super::orders::Orders;
use super::regression;
use crate::domain::ids::OrderId;
use crate::ports::store::Unfinished;

/// A saga whose last change is younger than this is most likely driven by a live actor.
const FRESH: chrono::Duration = chrono::Duration::seconds(2);

/// Orphans taken at a time.
const PAGE: usize = 500;

/// Farther than any retry is put off.
const FAR: chrono::Duration = chrono::Duration::days(365);

/// How long further slots are waited for that come from other owners.
pub(super) const GATHER: Duration = Duration::from_millis(50);
/// As soon as [`Pass::Due`] may find them.
const SOON: chrono::Duration = chrono::Duration::seconds(5);

/// How long an order whose actor failed is left alone; whoever waits for it asks sooner.
const REST: Duration = Duration::from_millis(100);

/// Slots that have become this process's own, until the sweeper looks at them.
#[derive(Debug, Default)]
pub(super) struct Gained {
    slots: Mutex<BTreeSet<u16>>,
    pub(super) some: Notify,
}

impl Gained {
    pub(super) fn add(&self, slots: impl IntoIterator<Item = u16>) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).extend(slots);
        self.some.notify_one();
    }

    pub(super) fn take(&self) -> BTreeSet<u16> {
        std::mem::take(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a pass is for.
#[derive(Clone, Copy, Debug)]
enum Pass<'a> {
    /// Everything that is there, at the start: nobody drives it.
    First,
    /// What is due and seems to be left alone.
    Due,
    /// Orders of slots that came from another owner.
    Gained(&'a BTreeSet<u16>),
}

/// Starts all; they end with `stop`.
pub(super) fn start(orders: &Arc<Orders>, orphans: mpsc::Receiver<OrderId>, stop: &CancellationToken) {
    let [one, two, three, four, five] = [(); 5].map(|()| Arc::clone(orders));
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move { passivate(&one).await }));
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move { resume(&two).await }));
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move { adopt(&three, orphans).await }));
    tokio::spawn(
        stop.clone().run_until_cancelled_owned(async move { regression::watch(four.shared()).await }),
    );
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move { hot::warm(&five).await }));
}

/// Wakes orders whose actor failed in the middle of a saga, once. Whoever fails again is found by [`resume`].
async fn adopt(orders: &Orders, mut orphans: mpsc::Receiver<OrderId>) {
    let mut batch = Vec::new();
    while orphans.recv_many(&mut batch, PAGE).await > 0 {
        tokio::time::sleep(REST).await;
        for id in batch.drain(..) {
            if orders.shared().registry.get(id).is_some() {
                continue;
            }
            let Ok(place) = Arc::clone(&orders.shared().resuming).acquire_owned().await else { return };
            if let Err(error) = orders.wake(id, place) {
                tracing::debug!(order_id = %id, %error, "an order was not resumed yet");
            }
        }
    }
}

async fn passivate(orders: &Orders) {
    let shared = orders.shared();
    let mut tick = tokio::time::interval(shared.config.sweep_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let idle = i64::try_from(shared.config.idle_after.as_millis()).unwrap_or(i64::MAX);
    loop {
        tick.tick().await;
        shared.forget_troubles();
        let before = shared.now_millis().saturating_sub(idle);
        let mut leaving = Vec::new();
        shared.registry.each(|_, entry| {
            if entry.is_idle(before) {
                leaving.push(entry.actor().clone());
            }
        });
        for actor in leaving {
            // One that ended meanwhile is gone already.
            let _gone = actor.cast(Message::Passivate);
        }
    }
}

async fn resume(orders: &Orders) {
    let shared = orders.shared();
    let mut tick = tokio::time::interval(shared.config.resume_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Nothing found by the first pass is driven by anybody: it was left by a former life of this node. In a cluster it
    // comes with the slots that this node gets.
    let is_shared = shared.placement.is_shared();
    let mut first = !is_shared;
    let mut last_timer = None;
    let mut ticks = 0u32;
    loop {
        let gained = tokio::select! {
            _ = tick.tick() => BTreeSet::new(),
            () = shared.gained.some.notified() => {
                // They come a few at a time, and all unfinished sagas are gone through for them.
                tokio::time::sleep(GATHER).await;
                shared.gained.take()
            }
        };
        let woken = if gained.is_empty() {
            ticks = ticks.wrapping_add(1);
            // The other nodes look as well, and the database has better things to do: each looks for one of the two.
            let (looks_for_timers, looks_for_sagas) = match is_shared {
                false => (true, true),
                true => (ticks.is_multiple_of(2), !ticks.is_multiple_of(2)),
            };
            if !is_shared {
                shared.clock.set_by(&*shared.store).await;
            }
            if looks_for_timers {
                last_timer = timers(orders, last_timer).await;
            }
            match looks_for_sagas {
                true => pass(orders, if first { Pass::First } else { Pass::Due }).await,
                false => 0,
            }
        } else {
            pass(orders, Pass::Gained(&gained)).await
        };
        if woken > 0 {
            let count = u64::try_from(woken).unwrap_or(u64::MAX);
            metrics::counter!("order_sagas_resumed_total").increment(count);
            tracing::info!(sagas = woken, "unfinished sagas resumed");
        }
        first = false;
    }
}

/// Goes through all unfinished sagas that are due, page by page, and wakes those that are not live.
async fn pass(orders: &Orders, what: Pass<'_>) -> usize {
    let shared = orders.shared();
    let now = shared.clock.now();
    // The first pass takes all, also those whose time has not come by a clock that was set back.
    let due_before = match what {
        Pass::First => now.checked_add_signed(FAR).unwrap_or(now),
        Pass::Due => now.checked_sub_signed(FRESH).unwrap_or(now),
        // Those whose time comes soon wait for it in memory.
        Pass::Gained(_) => now.checked_add_signed(SOON).unwrap_or(now),
    };
    let first = matches!(what, Pass::First);
    let (mut after, mut woken): (Option<Unfinished>, usize) = (None, 0);
    loop {
        let page = match shared.store.unfinished(due_before, after, shared.config.resume_batch).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "unfinished sagas could not be read; trying again later");
                return woken;
            }
        };
        after = page.last().copied();
        for unfinished in &page {
            let slot = unfinished.order_id.slot();
            // Others look after theirs.
            if shared.placement.owner(slot).is_none()
                || matches!(what, Pass::Gained(slots) if !slots.contains(&slot))
            {
                continue;
            }
            // A live one drives itself. One that is overdue and idle waits by a clock that was wrong, or stood still with
            // this machine: it is told to look.
            if shared.registry.get(unfinished.order_id).is_some_and(|entry| first || entry.is_busy()) {
                continue;
            }
            // Not too many at once: a cold start must not become a stampede on the collaborators.
            let Ok(place) = Arc::clone(&shared.resuming).acquire_owned().await else { return woken };
            match orders.wake(unfinished.order_id, place) {
                Ok(()) => woken = woken.saturating_add(1),
                Err(error) => {
                    let order_id = unfinished.order_id;
                    tracing::debug!(%order_id, %error, "an unfinished saga was not resumed yet");
                }
            }
        }
        if page.len() < usize::try_from(shared.config.resume_batch).unwrap_or(usize::MAX) {
            return woken;
        }
    }
}

/// Wakes the orders whose timer is due, at most a batch of them, behind the one that was taken last: after a long time of
/// nothing, all are due at once, and some may be in a state in which they cannot be woken.
async fn timers(orders: &Orders, after: Option<Unfinished>) -> Option<Unfinished> {
    let shared = orders.shared();
    let limit = shared.config.timers_batch;
    let due = match shared.store.timers(shared.clock.now(), after, limit).await {
        Ok(due) => due,
        Err(error) => {
            tracing::warn!(%error, "due timers could not be read; trying again later");
            return after;
        }
    };
    for timer in due.iter().filter(|timer| shared.placement.owner(timer.order_id.slot()).is_some()) {
        let Ok(place) = Arc::clone(&shared.resuming).acquire_owned().await else { return after };
        if let Err(error) = orders.wake(timer.order_id, place) {
            tracing::debug!(order_id = %timer.order_id, %error, "an order was not woken by its timer yet");
        }
    }
    let is_last = due.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    due.last().copied().filter(|_| !is_last)
}
