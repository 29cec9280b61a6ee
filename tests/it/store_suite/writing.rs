//! What is taken and what is refused.

use std::collections::HashSet;
use std::sync::Arc;

use futures::future::join_all;
use order_service::domain::ids::OrderNumber;
use order_service::domain::payment::EntryState;
use order_service::domain::status::OrderStatus;
use order_service::ports::store::{ClaimError, Commit, CommitError, Owner};

use super::{StoreFactory, not_committed};
use crate::harness::orders::{
    OWNER, at, change_all, claim_coupon, creation, entry, id, key, order, release_coupon, update,
};

pub(super) async fn a_creation_is_read_back_as_it_was<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let mut plain = order(1);
    plain.coupon_code = Some(String::from("TEA10"));
    let mut full = order(2);
    change_all(&mut full);
    // Nothing of a creation may be left out, whatever it says was touched.
    let mut second = creation(full.clone());
    second.touched.items = false;
    second.touched.addresses = false;
    second.touched.shipments = false;
    second.touched.payments_from = 3;
    assert_eq!(store.commit(creation(plain.clone())).await, Ok(()));
    assert_eq!(store.commit(second.clone()).await, Ok(()));
    for (before, saga) in [(&plain, creation(plain.clone()).saga), (&full, second.saga)] {
        let after = store.load(before.id).await.unwrap().unwrap();
        assert_eq!(*after.order, *before);
        assert_eq!(after.order.totals.subtotal.to_string(), before.totals.subtotal.to_string());
        assert_eq!(after.order.items[0].unit_price.to_string(), "10.50");
        assert_eq!(after.saga, saga);
        assert_eq!(store.find_by_number(&before.order_number).await, Ok(Some(before.id)));
    }
    assert_eq!(store.load(id(3)).await.map(|found| found.is_none()), Ok(true));
    assert_eq!(store.find_by_number(&OrderNumber::of(&key(), id(3), 0)).await, Ok(None));
    store.close().await;
}

pub(super) async fn a_change_is_read_back_as_it_was<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let first = order(1);
    store.commit(creation(first.clone())).await.unwrap();
    let mut commit = update(&first, change_all);
    commit.touched.items = true;
    commit.touched.addresses = true;
    commit.touched.shipments = true;
    commit.touched.payments_from = 0;
    store.commit(commit.clone()).await.unwrap();
    let second = store.load(first.id).await.unwrap().unwrap().order;
    assert_eq!(second, commit.order);
    assert_eq!(second.totals.total.to_string(), "12345678901234.5678");

    // A shipment that is there is changed, one that is not is added; the ledger only grows.
    let mut commit = update(&second, |order| {
        let mut shipments = order.shipments.as_ref().clone();
        shipments[1].tracking_number = String::from("1Z");
        shipments[1].updated_at = at(99);
        let mut another = shipments[2].clone();
        another.id = order.id.part("shipment", 77);
        shipments.push(another);
        order.shipments = Arc::new(shipments);
        let mut payments = order.payments.as_ref().clone();
        payments.push(entry(order.id, 4, EntryState::Unsent));
        order.payments = Arc::new(payments);
        (order.hold, order.cancel_reason, order.cancelled_at, order.completed_at) = (None, None, None, None);
        (order.reservation.id, order.reservation.key, order.coupon_code) = (None, None, None);
    });
    commit.touched.shipments = true;
    store.commit(commit.clone()).await.unwrap();
    let third = store.load(first.id).await.unwrap().unwrap().order;
    assert_eq!(third, commit.order);

    // Rows that were not touched stay as they were.
    let commit = update(&third, |order| order.status = OrderStatus::Returned);
    store.commit(commit.clone()).await.unwrap();
    assert_eq!(store.load(first.id).await.unwrap().unwrap().order, commit.order);
    store.close().await;
}

pub(super) async fn a_stale_version_is_refused<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let first = order(1);
    store.commit(creation(first.clone())).await.unwrap();
    let taken = update(&first, |order| order.notes = String::from("taken"));
    store.commit(taken.clone()).await.unwrap();
    let mut stale = update(&first, |order| order.notes = String::from("stale"));
    stale.touched.items = true;
    assert_eq!(store.commit(stale).await, Err(CommitError::Conflict));
    assert_eq!(store.load(first.id).await.unwrap().unwrap().order, taken.order);
    assert_eq!(store.events(first.id, 0, 99).await.unwrap().len(), 3);
    // Ahead of the row is as wrong as behind it, and so is a row that is not there.
    let ahead = update(&update(&taken.order, |_| {}).order, |_| {});
    let nowhere = update(&order(2), |_| {});
    assert_eq!(store.commit(ahead).await, Err(CommitError::Conflict));
    assert_eq!(store.commit(nowhere).await, Err(CommitError::Conflict));
    store.close().await;
}

pub(super) async fn another_owner_is_refused<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let first = order(1);
    store.commit(creation(first.clone())).await.unwrap();
    for owner in [
        Owner { epoch: OWNER.epoch - 1, ..OWNER },
        Owner { epoch: OWNER.epoch + 1, ..OWNER },
        Owner { incarnation: OWNER.incarnation + 1, ..OWNER },
    ] {
        let mut commit = update(&first, |_| {});
        commit.guard.owner = owner;
        assert_eq!(store.commit(commit).await, Err(CommitError::Conflict), "{owner:?}");
    }
    assert_eq!(store.load(first.id).await.unwrap().unwrap().order.version, 1);
    store.close().await;
}

pub(super) async fn a_claim_shuts_the_old_owner_out<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let first = order(1);
    store.commit(creation(first.clone())).await.unwrap();
    let next = Owner { epoch: OWNER.epoch, incarnation: OWNER.incarnation + 1 };
    let late = update(&first, |_| {});
    let claimed = store.claim(first.id, next).await.unwrap().unwrap();
    assert_eq!(*claimed.order, first);
    assert_eq!(claimed.saga, creation(first.clone()).saga);
    assert_eq!(store.commit(late).await, Err(CommitError::Conflict));
    let mut good = update(&first, |_| {});
    good.guard.owner = next;
    assert_eq!(store.commit(good.clone()).await, Ok(()));
    // Claiming what one has is fine and gives the newest state.
    assert_eq!(store.claim(first.id, next).await.unwrap().unwrap().order, good.order);
    store.close().await;
}

pub(super) async fn a_claim_never_goes_back_to_a_lower_epoch<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let first = order(1);
    store.commit(creation(first.clone())).await.unwrap();
    let high = Owner { epoch: OWNER.epoch + 5, incarnation: 1 };
    store.claim(first.id, high).await.unwrap().unwrap();
    let low = Owner { epoch: OWNER.epoch + 4, incarnation: 999 };
    assert_eq!(store.claim(first.id, low).await.map(|_| ()), Err(ClaimError::Deposed));
    let mut commit = update(&first, |_| {});
    commit.guard.owner = high;
    assert_eq!(store.commit(commit).await, Ok(()));
    store.close().await;
}

pub(super) async fn claiming_nothing_finds_nothing<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    assert!(store.claim(id(1), OWNER).await.unwrap().is_none());
    assert_eq!(store.commit(creation(order(1))).await, Ok(()));
    store.close().await;
}

pub(super) async fn creating_twice_is_refused<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let twice = [creation(order(1)), creation(order(1))];
    let results = join_all(twice.map(|commit| store.commit(commit))).await;
    assert_eq!(results, [Ok(()), Err(CommitError::Conflict)]);
    let mut renumbered = order(1);
    renumbered.order_number = OrderNumber::of(&key(), renumbered.id, 1);
    assert_eq!(store.commit(creation(renumbered)).await, Err(CommitError::Conflict));
    assert_eq!(*store.load(id(1)).await.unwrap().unwrap().order, order(1));
    store.close().await;
}

pub(super) async fn a_taken_number_is_told_from_a_conflict<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let numbered = |n: u64| {
        let mut order = order(n);
        order.order_number = OrderNumber::of(&key(), id(1), 0);
        creation(order)
    };
    let results = join_all([1, 2, 3].map(|n| store.commit(numbered(n)))).await;
    assert_eq!(results, [Ok(()), Err(CommitError::NumberTaken), Err(CommitError::NumberTaken)]);
    assert!(store.load(id(2)).await.unwrap().is_none());
    assert_eq!(store.events(id(2), 0, 9).await, Ok(Vec::new()));
    // With another number the same order is taken.
    assert_eq!(store.commit(creation(order(2))).await, Ok(()));
    store.close().await;
}

pub(super) async fn a_coupon_is_used_as_often_as_it_may<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let asking = (1..=60).map(|n| store.commit(claim_coupon(creation(order(n)), "TEA10", Some(7))));
    let results = join_all(asking).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 7);
    assert_eq!(results.iter().filter(|r| **r == Err(CommitError::CouponExhausted)).count(), 53);
    // Those that were refused left nothing, and can be created without the coupon.
    for (result, n) in results.iter().zip(1..) {
        assert_eq!(store.load(id(n)).await.unwrap().is_some(), result.is_ok());
        if result.is_err() {
            assert_eq!(store.find_by_number(&order(n).order_number).await, Ok(None));
            assert_eq!(store.events(id(n), 0, 9).await, Ok(Vec::new()));
            assert_eq!(store.commit(creation(order(n))).await, Ok(()));
        }
    }
    // Another coupon, and one without a limit, count for themselves.
    assert_eq!(store.commit(claim_coupon(creation(order(101)), "OTHER", Some(1))).await, Ok(()));
    for n in 102..110 {
        assert_eq!(store.commit(claim_coupon(creation(order(n)), "ENDLESS", None)).await, Ok(()));
    }
    store.close().await;
}

pub(super) async fn a_coupon_given_back_can_be_used_again<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let limit = Some(2);
    store.commit(claim_coupon(creation(order(1)), "TEA10", limit)).await.unwrap();
    // The same order claims once more: still one use.
    let again = claim_coupon(update(&order(1), |_| {}), "TEA10", limit);
    store.commit(again.clone()).await.unwrap();
    store.commit(claim_coupon(creation(order(2)), "TEA10", limit)).await.unwrap();
    let refused = claim_coupon(creation(order(3)), "TEA10", limit);
    assert_eq!(store.commit(refused.clone()).await, Err(CommitError::CouponExhausted));
    // A claim whose guard fails uses nothing up, a release by someone without a claim gives nothing back.
    let stale = claim_coupon(update(&order(2), |order| order.version = 9), "FREE", Some(1));
    assert!(store.commit(stale).await.is_err());
    store.commit(release_coupon(creation(order(4)), "TEA10")).await.unwrap();
    assert_eq!(store.commit(refused.clone()).await, Err(CommitError::CouponExhausted));

    let released = release_coupon(update(&again.order, |_| {}), "TEA10");
    store.commit(released.clone()).await.unwrap();
    let twice = release_coupon(update(&released.order, |_| {}), "TEA10");
    store.commit(twice).await.unwrap();
    assert_eq!(store.commit(refused).await, Ok(()));
    let last = claim_coupon(creation(order(5)), "TEA10", limit);
    assert_eq!(store.commit(last).await, Err(CommitError::CouponExhausted));
    store.close().await;
}

pub(super) async fn neighbors_of_a_failure_are_stored<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let there = order(900);
    store.commit(creation(there.clone())).await.unwrap();
    store.commit(claim_coupon(creation(order(901)), "GONE", Some(1))).await.unwrap();
    let changed = order(902);
    store.commit(creation(changed.clone())).await.unwrap();

    // The second event has the number of the first: the row is refused by the database, not by a guard.
    let mut poison = creation(order(50));
    poison.events[1].seq = 1;
    let mut poisoned_change = update(&changed, |order| order.notes = String::from("poisoned"));
    poisoned_change.events[0].seq = 2;
    let mut number_taken = order(60);
    number_taken.order_number = there.order_number.clone();
    let mut commits: Vec<Commit> = (1..=120).filter(|n| *n != 50 && *n != 60).map(|n| creation(order(n))).collect();
    let good = commits.len();
    commits.insert(40, poison);
    commits.insert(41, creation(there.clone()));
    commits.insert(80, creation(number_taken));
    commits.insert(81, claim_coupon(creation(order(200)), "GONE", Some(1)));
    commits.insert(100, poisoned_change);
    let results = join_all(commits.iter().map(|commit| store.commit(commit.clone()))).await;

    assert!(not_committed(&results[40]), "{:?}", results[40]);
    assert_eq!(results[41], Err(CommitError::Conflict));
    assert_eq!(results[80], Err(CommitError::NumberTaken));
    assert_eq!(results[81], Err(CommitError::CouponExhausted));
    assert!(not_committed(&results[100]), "{:?}", results[100]);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), good);
    for (commit, result) in commits.iter().zip(&results) {
        if result.is_ok() {
            assert_eq!(store.load(commit.order.id).await.unwrap().unwrap().order, commit.order);
        }
    }
    assert!(store.load(id(50)).await.unwrap().is_none());
    assert_eq!(*store.load(changed.id).await.unwrap().unwrap().order, changed);
    store.close().await;
}

pub(super) async fn changes_of_one_order_keep_their_order<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let mut commits = vec![creation(order(1))];
    for n in 0..30 {
        let last = commits.last().unwrap().order.clone();
        commits.push(update(&last, |order| order.notes = format!("change {n}")));
        commits.push(creation(order(100 + n)));
        commits.swap(2 * n as usize + 1, 2 * n as usize + 2);
    }
    let last = commits.last().unwrap().order.clone();
    let results = join_all(commits.into_iter().map(|commit| store.commit(commit))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(store.load(id(1)).await.unwrap().unwrap().order, last);
    let seqs: Vec<i64> = store.events(id(1), 0, 99).await.unwrap().iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=32).collect::<Vec<i64>>());
    store.close().await;
}

pub(super) async fn a_change_that_does_not_follow_its_version_is_refused<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    store.commit(creation(order(1))).await.unwrap();
    let skipping = update(&order(1), |order| order.version += 1);
    assert!(not_committed(&store.commit(skipping).await));
    assert_eq!(store.load(id(1)).await.unwrap().unwrap().order.version, 1);
    store.close().await;
}

pub(super) async fn nobody_needs_to_wait_for_a_change<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    for n in 1..=20 {
        let commit = store.commit(creation(order(n)));
        // Polled once, so it is queued, then dropped.
        assert!(futures::FutureExt::now_or_never(commit).is_none());
    }
    store.close().await;
    let store = files.open().await;
    for n in 1..=20 {
        assert!(store.load(id(n)).await.unwrap().is_some(), "order {n}");
    }
    store.close().await;
}

pub(super) async fn many_at_once_are_all_durable<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    let results = join_all((1..=500).map(|n| store.commit(creation(order(n))))).await;
    assert!(results.iter().all(Result::is_ok));
    let results = join_all((1..=500).map(|n| store.commit(update(&order(n), |_| {})))).await;
    assert!(results.iter().all(Result::is_ok));
    store.close().await;
    let store = files.open().await;
    let mut numbers = HashSet::new();
    for n in 1..=500 {
        let found = store.load(id(n)).await.unwrap().unwrap().order;
        assert_eq!(found, update(&order(n), |_| {}).order);
        assert!(numbers.insert(found.order_number.clone()));
    }
    store.close().await;
}

pub(super) async fn nothing_is_taken_after_closing<F: StoreFactory>() {
    let files = F::fresh().await;
    let store = files.open().await;
    assert_eq!(store.ping().await, Ok(()));
    store.close().await;
    store.close().await;
    assert!(not_committed(&store.commit(creation(order(1))).await));
    assert!(store.ping().await.is_err());
    assert!(store.load(id(1)).await.is_err());
}
