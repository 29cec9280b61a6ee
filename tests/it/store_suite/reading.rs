//! What comes back besides the order itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use order_service::domain::item::{ProductRef, Shortage};
use order_service::domain::order::{Hold, Order, RequestRecord, Reservation, StockState};
use order_service::domain::saga::{Failure, SagaProgress};
use order_service::domain::status::{OrderStatus, PaymentStatus};
use order_service::ports::store::{StoreError, Unfinished};
use order_service::ports::usage::Backlog;
use uuid::Uuid;

use super::StoreFactory;
use crate::harness::orders::{OWNER, at, busy_saga, creation, event, id, order, saga, update};

pub(super) async fn events_come_in_pages<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let mut expected = creation(order(1)).events;
    store.commit(creation(order(1))).await.unwrap();
    store.commit(creation(order(2))).await.unwrap();
    let mut last = Arc::new(order(1));
    for _ in 0..9 {
        let mut commit = update(&last, |_| {});
        let nobody = order_service::domain::event::RecordedEvent {
            request_id: None,
            ..event(commit.order.event_seq + 1, commit.order.version, commit.events[0].event.clone())
        };
        commit.events.push(nobody);
        Arc::make_mut(&mut commit.order).event_seq += 1;
        expected.extend(commit.events.clone());
        last = commit.order.clone();
        store.commit(commit).await.unwrap();
    }
    assert_eq!(store.events(id(1), 0, 1_000).await.unwrap(), expected);
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map_or(0, |event: &order_service::domain::event::RecordedEvent| event.seq);
        let page = store.events(id(1), after, 7).await.unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, expected);
    assert_eq!(store.events(id(3), 0, 9).await, Ok(Vec::new()));
    store.close().await;
}

pub(super) async fn requests_and_failures_come_back<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let mut commit = creation(order(1));
    let shortage = Shortage {
        product: ProductRef { product_id: Uuid::from_u128(5), variant_id: None },
        requested_quantity: 2,
        available_quantity: 1,
    };
    let failures = [
        Failure::OutOfStock { shortages: vec![shortage] },
        Failure::PaymentDeclined { code: String::from("NO_FUNDS") },
        Failure::DependencyUnavailable { dependency: String::from("payment") },
        Failure::Refused { dependency: String::from("shipping"), reason: String::from("ADDRESS") },
    ];
    let mut expected = BTreeMap::new();
    for (failure, no) in failures.into_iter().zip(1..) {
        let previous = commit.order.clone();
        store.commit(commit).await.unwrap();
        // Until the saga is settled, its failure is nobody's answer yet.
        let mut running = saga(previous.id);
        (running.no, running.failure) = (no, Some(failure.clone()));
        let mut unsettled = update(&previous, |_| {});
        unsettled.saga = Some(running.clone());
        let previous = unsettled.order.clone();
        store.commit(unsettled).await.unwrap();
        let found = store.load(previous.id).await.unwrap().unwrap();
        assert_eq!(found.order, previous);
        assert_eq!(found.saga, Some(running.clone()));

        expected.insert(no, failure);
        let record = RequestRecord {
            // Descending, so that the order of the rows' keys is not the order of the requests.
            request_id: format!("request {}", 9 - no),
            hash: [no as u8; 16],
            saga_no: (no % 2 == 0).then_some(no),
        };
        commit = update(&previous, |order| {
            Arc::make_mut(&mut order.requests).push(record.clone());
            order.failures = Arc::new(expected.clone());
            order.saga_no = no;
        });
        commit.request = Some(record);
        running.settled = true;
        running.token = None;
        commit.saga = Some(running);
    }
    let last = commit.order.clone();
    store.commit(commit).await.unwrap();
    let found = store.load(last.id).await.unwrap().unwrap();
    assert_eq!(found.order, last);
    assert_eq!(found.saga, None);
    store.close().await;
}

pub(super) async fn a_saga_comes_back_while_it_is_unsettled<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    store.commit(creation(order(1))).await.unwrap();
    let mut commit = update(&order(1), |_| {});
    commit.saga = Some(busy_saga(id(1)));
    store.commit(commit.clone()).await.unwrap();
    let found = store.load(id(1)).await.unwrap().unwrap();
    assert_eq!(found.saga, commit.saga);
    assert_eq!(found.order.attention, busy_saga(id(1)).attention, "the order says what its saga says");
    // A commit that says nothing of the saga leaves it alone.
    let silent = update(&commit.order, |_| {});
    store.commit(silent.clone()).await.unwrap();
    assert_eq!(store.load(id(1)).await.unwrap().unwrap().saga, commit.saga);
    assert_eq!(store.claim(id(1), OWNER).await.unwrap().unwrap().saga, commit.saga);

    let mut settled = update(&silent.order, |_| {});
    let mut done = saga(id(1));
    (done.settled, done.step, done.token) = (true, None, None);
    settled.saga = Some(done);
    store.commit(settled).await.unwrap();
    assert_eq!(store.load(id(1)).await.unwrap().unwrap().saga, None);
    store.close().await;
}

pub(super) async fn a_dropped_token_is_gone<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    store.commit(creation(order(1))).await.unwrap();
    let kept = store.load(id(1)).await.unwrap().unwrap().saga.unwrap();
    assert_eq!(kept.token.as_ref().map(|token| token.expose()), Some("tok_secret"));
    let mut commit = update(&order(1), |_| {});
    let mut without = saga(id(1));
    without.token = None;
    commit.saga = Some(without);
    store.commit(commit).await.unwrap();
    assert_eq!(store.load(id(1)).await.unwrap().unwrap().saga.unwrap().token, None);
    store.close().await;
}

pub(super) async fn unfinished_sagas_come_by_due_time<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    // Due times: 10 for those that wait for nothing, 500 for every third, later for every fifth; every fourth is settled.
    let commits = (1..=60).map(|n| {
        let mut commit = creation(order(n));
        let saga = commit.saga.as_mut().unwrap();
        saga.settled = n % 4 == 0;
        saga.next_at = match n {
            n if n % 5 == 0 => Some(at(1_000 + n as i64)),
            n if n % 3 == 0 => Some(at(500)),
            _ => None,
        };
        commit
    });
    let commits: Vec<_> = commits.collect();
    let results = join_all(commits.iter().map(|commit| store.commit(commit.clone()))).await;
    assert!(results.iter().all(Result::is_ok));
    let due = |until: i64| {
        let mut due: Vec<Unfinished> = commits
            .iter()
            .filter_map(|commit| commit.saga.as_ref().filter(|saga| !saga.settled))
            .map(|saga| Unfinished { order_id: saga.order_id, due_at: saga.next_at.unwrap_or(at(10)) })
            .filter(|saga| saga.due_at < at(until))
            .collect();
        due.sort_by_key(|saga| (saga.due_at, saga.order_id));
        due
    };
    for until in [10, 11, 500, 501, 1_030, 9_999] {
        let mut paged: Vec<Unfinished> = Vec::new();
        loop {
            let page = store.unfinished(at(until), paged.last().copied(), 7).await.unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= 7);
            paged.extend(page);
        }
        assert_eq!(paged, due(until), "due before {until}");
    }
    assert!(due(9_999).len() > 40 && due(10).is_empty());
    store.close().await;
}

pub(super) async fn timers_come_by_due_time_until_they_end<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let held = |before: &Order, until: Option<i64>| {
        let mut commit = update(before, |order| {
            order.hold = until.map(|until| Hold {
                reason: String::from("fraud?"),
                by: String::from("ops"),
                until: Some(at(until)),
                since: at(7),
            });
        });
        commit.touched.timer = true;
        commit
    };
    let due = |n: u64| if n.is_multiple_of(3) { 100 } else { 500 - n as i64 };
    for n in 1..=20 {
        store.commit(creation(order(n))).await.unwrap();
    }
    let commits: Vec<_> = (1..=18).map(|n| held(&order(n), Some(due(n)))).collect();
    let results = join_all(commits.iter().map(|commit| store.commit(commit.clone()))).await;
    assert!(results.iter().all(Result::is_ok));
    let all = async |until: i64| {
        let mut paged: Vec<Unfinished> = Vec::new();
        loop {
            let page = store.timers(at(until), paged.last().copied(), 4).await.unwrap();
            assert!(page.len() <= 4);
            if page.is_empty() {
                return paged;
            }
            paged.extend(page);
        }
    };
    let expected = |numbers: &[u64], until: i64| {
        let numbers = numbers.iter().filter(|n| due(**n) < until);
        let mut timers: Vec<_> =
            numbers.map(|n| Unfinished { order_id: id(*n), due_at: at(due(*n)) }).collect();
        timers.sort_by_key(|timer| (timer.due_at, timer.order_id));
        timers
    };
    let mut numbers: Vec<u64> = (1..=18).collect();
    for until in [100, 101, 490, 9_999] {
        assert_eq!(all(until).await, expected(&numbers, until), "due before {until}");
    }
    // One is over, one is put off.
    store.commit(held(&commits[1].order, None)).await.unwrap();
    store.commit(held(&commits[0].order, Some(700))).await.unwrap();
    numbers.retain(|n| *n > 2);
    let mut expected = expected(&numbers, 9_999);
    expected.push(Unfinished { order_id: id(1), due_at: at(700) });
    assert_eq!(all(9_999).await, expected);
    store.close().await;
}

pub(super) async fn orders_of_a_user_are_counted_up_to_a_limit<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    // Created at 1, 2, 3, ... by seven users in turn.
    for n in 1..=40 {
        store.commit(creation(order(n))).await.unwrap();
    }
    let user = order(3).user_id;
    let count = async |since, at_most| store.count_of_user(user, at(since), at_most).await.unwrap();
    assert_eq!((count(0, 100).await, count(3, 100).await), (6, 6));
    assert_eq!((count(4, 100).await, count(38, 100).await, count(39, 100).await), (5, 1, 0));
    assert_eq!((count(0, 2).await, count(38, 2).await), (2, 1));
    store.close().await;
}

pub(super) async fn open_orders_of_a_user_are_found<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    // Created at 1, 2, 3, ... by seven users in turn.
    for n in 1..=30 {
        store.commit(creation(order(n))).await.unwrap();
    }
    let user = order(3).user_id;
    let open = async |at_most| store.open_of_user(user, at_most).await.unwrap();
    assert_eq!(open(100).await, [id(24), id(17), id(10), id(3)]);
    assert_eq!(open(2).await, [id(24), id(17)]);
    store.commit(update(&order(17), |order| order.status = OrderStatus::Confirmed)).await.unwrap();
    assert_eq!(open(2).await, [id(24), id(10)]);
    store.close().await;
}

pub(super) async fn a_spoiled_order_spoils_nothing_else<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    for n in 1..=3 {
        store.commit(creation(order(n))).await.unwrap();
    }
    files.spoil(id(2)).await;
    let broken = store.load(id(2)).await;
    let Err(StoreError::Corrupt { order: named, what }) = broken else { panic!("{broken:?}") };
    assert_eq!(named, id(2));
    assert!(what.contains("status"), "{what}");
    assert!(store.claim(id(2), OWNER).await.is_err());
    for n in [1, 3] {
        assert_eq!(*store.load(id(n)).await.unwrap().unwrap().order, order(n));
        assert_eq!(store.commit(update(&order(n), |_| {})).await, Ok(()));
    }
    // Its history can still be looked at.
    assert_eq!(store.events(id(2), 0, 9).await.unwrap().len(), 2);
    store.close().await;
}

pub(super) async fn what_was_stored_outlives_the_process<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    store.commit(creation(order(1))).await.unwrap();
    let changed = update(&order(1), |order| order.notes = String::from("second"));
    store.commit(changed.clone()).await.unwrap();
    let events = store.events(id(1), 0, 99).await.unwrap();
    store.close().await;
    drop(store);

    let store = files.open().await;
    let found = store.load(id(1)).await.unwrap().unwrap();
    assert_eq!(found.order, changed.order);
    assert_eq!(found.saga, Some(saga(id(1))));
    assert_eq!(store.events(id(1), 0, 99).await.unwrap(), events);
    // The owner is remembered too: a life before this one is still shut out, and this one goes on.
    let next = order_service::ports::store::Owner { epoch: 2, incarnation: 8 };
    store.claim(id(1), next).await.unwrap().unwrap();
    assert!(store.commit(update(&changed.order, |_| {})).await.is_err());
    store.close().await;
}

pub(super) async fn what_is_stuck_comes_by_id_in_pages<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    // Number, when its saga began, whether that calls for a person, whether it has settled.
    let all = [(1, 10, false, false), (2, 90, false, false), (3, 90, true, false), (4, 10, true, true)];
    for (number, began, attention, settled) in all {
        let mut commit = creation(order(number));
        commit.saga = Some(SagaProgress {
            started_at: at(began),
            attention: attention.then(|| String::from("refused")),
            settled,
            ..saga(id(number))
        });
        store.commit(commit).await.unwrap();
    }
    // Creations that a hold keeps from being paid; one that goes on with its hold since it is paid, one the hold of which is
    // over for long, and one that is stuck before it, without stock.
    let held = [
        (6, PaymentStatus::Pending, None, StockState::Held),
        (7, PaymentStatus::Paid, None, StockState::Held),
        (8, PaymentStatus::Pending, Some(at(60)), StockState::Held),
        (9, PaymentStatus::Pending, Some(at(40)), StockState::Held),
        (10, PaymentStatus::Pending, None, StockState::None),
    ];
    for (number, payment_status, until, state) in held {
        let hold = Hold { reason: "look".into(), by: "ada".into(), until, since: at(10) };
        let reservation = Reservation { state, ..order(number).reservation };
        let mut held = creation(Order { hold: Some(hold), payment_status, reservation, ..order(number) });
        held.saga = Some(SagaProgress { started_at: at(10), ..saga(id(number)) });
        store.commit(held).await.unwrap();
    }
    // Nothing runs, and a refund was refused.
    let mut refused = creation(Order { payment_status: PaymentStatus::RefundFailed, ..order(5) });
    refused.saga = None;
    store.commit(refused).await.unwrap();
    let of = |numbers: &[u64]| {
        let mut ids: Vec<_> = numbers.iter().map(|number| id(*number)).collect();
        ids.sort();
        ids
    };
    assert_eq!(store.stuck(at(50), None, 9).await.unwrap(), of(&[1, 3, 5, 6, 7, 8, 9, 10]));
    assert_eq!(store.stuck(at(91), None, 9).await.unwrap(), of(&[1, 2, 3, 5, 6, 7, 8, 9, 10]));
    let mut paged = Vec::new();
    loop {
        let page = store.stuck(at(91), paged.last().copied(), 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, of(&[1, 2, 3, 5, 6, 7, 8, 9, 10]));
    let backlog = |unfinished, stuck, attention| Backlog { unfinished, stuck, attention, quarantined: 0 };
    assert_eq!(store.backlog(at(50), 9).await, Ok(backlog(8, 4, 2)));
    assert_eq!(store.backlog(at(91), 2).await, Ok(backlog(2, 2, 2)));
    assert!(store.usage().pools.iter().any(|pool| pool.name == "read" && pool.limit > 0));
    // Nothing is set aside, and to let go of that changes nothing.
    assert_eq!(store.quarantined(id(1)).await, Ok(None));
    assert_eq!(store.release(id(1)).await, Ok(()));
    store.close().await;
}
