//! Walking through everything that is stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use order_service::domain::event::{OrderEvent, RecordedEvent};
use order_service::domain::ids::OrderId;
use order_service::domain::status::OrderStatus;
use order_service::domain::verify::Entered;
use order_service::ports::store::{Commit, OrderStore, Scanned};
use tokio::task::yield_now;

use super::StoreFactory;
use crate::harness::orders::{busy_saga, change_all, creation, event, id, order, update};

async fn all(store: &dyn OrderStore, limit: u32) -> Vec<Scanned> {
    let mut found: Vec<Scanned> = Vec::new();
    loop {
        let page = store.scan(found.last().map(|last| last.id), limit).await.unwrap();
        assert!(page.len() <= limit as usize);
        let is_last = page.len() < limit as usize;
        found.extend(page);
        if is_last {
            return found;
        }
    }
}

/// A change after which the order is CANCELLED.
fn cancelled(before: &Commit) -> Commit {
    let mut commit = update(&before.order, |order| order.status = OrderStatus::Cancelled);
    commit.events[0].event = OrderEvent::StatusChanged {
        from: OrderStatus::Pending,
        to: OrderStatus::Cancelled,
        notes: String::from("\"no\""),
        reason: None,
    };
    commit
}

pub(super) async fn a_scan_finds_every_order_with_all_that_is_stored<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    assert!(store.scan(None, 10).await.unwrap().is_empty());
    let mut expected: BTreeMap<OrderId, (Commit, Vec<RecordedEvent>)> = BTreeMap::new();
    for n in 1..=23 {
        let mut commits = vec![creation(order(n))];
        if n % 3 == 0 {
            let mut changed = update(&commits[0].order, change_all);
            changed.touched.items = true;
            changed.touched.addresses = true;
            changed.touched.shipments = true;
            changed.saga = Some(busy_saga(id(n)));
            commits.push(changed);
        } else if n % 3 == 1 {
            commits.push(cancelled(&commits[0]));
            let mut nameless = update(&commits[1].order, |_| {});
            nameless.events[0].request_id = None;
            commits.push(nameless);
        }
        let events = commits.iter().flat_map(|commit| commit.events.clone()).collect();
        let mut last = commits.last().unwrap().clone();
        last.saga = commits.iter().rev().find_map(|commit| commit.saga.clone());
        let attention = last.saga.as_ref().and_then(|saga| saga.attention.clone());
        Arc::make_mut(&mut last.order).attention = attention;
        expected.insert(id(n), (last, events));
        for commit in commits {
            store.commit(commit).await.unwrap();
        }
    }
    for limit in [1, 7, 23, 100] {
        let found = all(&*store, limit).await;
        let ids: Vec<OrderId> = found.iter().map(|scanned| scanned.id).collect();
        assert_eq!(ids, expected.keys().copied().collect::<Vec<_>>(), "by id, each once");
        for scanned in found {
            let (commit, events) = &expected[&scanned.id];
            let evidence = scanned.found.unwrap();
            assert_eq!(evidence.stored.order, commit.order);
            assert_eq!(evidence.stored.saga, commit.saga);
            assert_eq!(evidence.events, *events);
            let entered = events.iter().filter_map(|event| match &event.event {
                OrderEvent::OrderCreated { .. } => Some((event, OrderStatus::Pending)),
                OrderEvent::StatusChanged { to, .. } => Some((event, *to)),
                _ => None,
            });
            let rows: Vec<Entered> =
                entered.map(|(event, status)| Entered { seq: event.seq, status, at: event.at }).collect();
            assert_eq!(evidence.history, rows);
        }
    }
    store.close().await;
}

pub(super) async fn a_scan_names_what_cannot_be_read<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    for n in 1..=5 {
        store.commit(creation(order(n))).await.unwrap();
    }
    files.spoil(id(2)).await;
    let found = store.scan(None, 5).await.unwrap();
    assert_eq!(found.len(), 5, "it has its place on the page");
    for scanned in found {
        match scanned.found {
            Ok(_) => assert_ne!(scanned.id, id(2)),
            Err(what) => {
                assert_eq!(scanned.id, id(2));
                assert!(what.contains("status"), "{what}");
            }
        }
    }
    store.close().await;
}

pub(super) async fn a_scan_never_tears_an_order<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let mut last = Vec::new();
    for n in 1..=4 {
        let commit = creation(order(n));
        last.push(commit.order.clone());
        store.commit(commit).await.unwrap();
    }
    let writing = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..60 {
                for order in &mut last {
                    let mut commit = update(order, |order| order.notes = format!("round {round}"));
                    let further = event(
                        commit.order.event_seq + 1,
                        commit.order.version,
                        commit.events[0].event.clone(),
                    );
                    commit.events.push(further);
                    Arc::make_mut(&mut commit.order).event_seq += 1;
                    *order = commit.order.clone();
                    store.commit(commit).await.unwrap();
                }
            }
        })
    };
    let mut versions = Vec::new();
    while !writing.is_finished() {
        for scanned in store.scan(None, 9).await.unwrap() {
            let evidence = scanned.found.unwrap();
            let (order, end) = (&evidence.stored.order, evidence.events.last().unwrap());
            assert_eq!((end.seq, end.version), (order.event_seq, order.version));
            assert_eq!(evidence.events.len() as i64, order.event_seq);
            versions.push(order.version);
        }
        yield_now().await;
    }
    writing.await.unwrap();
    versions.sort_unstable();
    versions.dedup();
    assert!(versions.len() > 1, "nothing was read while it changed: {versions:?}");
    store.close().await;
}
