//! Commits on Postgres whose answer is lost, that never arrive, or that arrive when nobody expects them any more.

use std::time::Duration;

use futures::future::join_all;
use order_service::domain::ids::OrderNumber;
use order_service::domain::order::Order;
use order_service::ports::store::{ClaimError, Commit, CommitError, OrderStore, Owner};

use crate::harness::orders::{OWNER, claim_coupon, creation, id, key, order, update};
use crate::harness::pg_store::{CLAIM, Proxied, STRICT, Squatter, everything, ms, value, waits_for};
use crate::harness::postgres::query;
use crate::harness::wait::PATIENCE;

const USED: &str = "SELECT used FROM coupon_counters WHERE code = 'TEA10'";

fn renote(before: &Order, notes: &str) -> Commit {
    update(before, |order| order.notes = notes.to_owned())
}

/// An order with the number of another one.
fn numbered_as(n: u64, other: u64) -> Commit {
    let mut order = order(n);
    order.order_number = OrderNumber::of(&key(), id(other), 0);
    creation(order)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_done_once() {
    let it = Proxied::start(|_| {}).await;
    let created = creation(order(1));
    let trap = it.proxy.cut_after_request(|request| request.runs(STRICT));
    assert_eq!(it.store.commit(created.clone()).await, Ok(()));
    assert_eq!(trap.fired(), 1);
    it.has_once(&created).await;

    let changed = renote(&created.order, "changed");
    let trap = it.proxy.cut_after_request(|request| request.runs(STRICT));
    assert_eq!(it.store.commit(changed.clone()).await, Ok(()));
    assert_eq!(trap.fired(), 1);
    it.has_once(&changed).await;

    // A limited coupon takes several statements; it is counted once.
    let bought = claim_coupon(creation(order(2)), "TEA10", Some(5));
    let trap = it.proxy.cut_after_request(|request| request.statements() == ["COMMIT"]);
    assert_eq!(it.store.commit(bought.clone()).await, Ok(()));
    assert_eq!(trap.fired(), 1);
    it.has_once(&bought).await;
    assert_eq!(value(&it.url, USED).await, "1");

    let next = Owner { incarnation: OWNER.incarnation + 1, ..OWNER };
    let trap = it.proxy.cut_after_request(|request| request.runs(CLAIM));
    let claimed = it.store.claim(id(1), next).await.unwrap().unwrap();
    assert_eq!((trap.fired(), &claimed.order), (1, &changed.order));
    assert_eq!(it.store.commit(renote(&changed.order, "deposed")).await, Err(CommitError::Conflict));
    it.has_once(&changed).await;
    it.store.close().await;
}

#[tokio::test]
async fn a_batch_whose_answer_is_lost_tells_each_member_its_own() {
    let it = Proxied::start(|_| {}).await;
    let first = creation(order(900));
    it.store.commit(first.clone()).await.unwrap();
    let there = creation(order(901));
    it.store.commit(there.clone()).await.unwrap();
    let changed: Vec<Commit> = (1..=10).map(|n| creation(order(n))).collect();
    for commit in &changed {
        it.store.commit(commit.clone()).await.unwrap();
    }
    it.store.commit(claim_coupon(creation(order(902)), "GONE", Some(1))).await.unwrap();

    // While one commit waits for a row, the others gather behind it and become one batch.
    let squatter = Squatter::take(&it.url, &[id(900)]).await;
    let ahead = it.store.commit(renote(&first.order, "ahead"));
    let mut commits: Vec<Commit> = changed.iter().map(|one| renote(&one.order, "changed")).collect();
    commits.extend((11..=45).map(|n| creation(order(n))));
    commits.extend((46..=47).map(|n| claim_coupon(creation(order(n)), "TEA10", Some(2))));
    let good = commits.len();
    let stale = update(&renote(&there.order, "never").order, |_| {});
    commits.extend([stale, numbered_as(48, 900), claim_coupon(creation(order(49)), "GONE", Some(1))]);
    let rest = async {
        waits_for(&it.url, "Lock").await;
        let trap = it.proxy.cut_after_request(|request| request.statements() == ["COMMIT"]);
        let all = join_all(commits.iter().map(|commit| it.store.commit(commit.clone())));
        let release = async {
            squatter.leave().await;
            trap.sprung().await;
        };
        tokio::join!(all, release).0
    };
    let (ahead, results) = tokio::join!(ahead, rest);
    assert_eq!(ahead, Ok(()));
    for (commit, result) in commits.iter().zip(&results).take(good) {
        assert_eq!(*result, Ok(()), "{}", commit.order.id);
        it.has_once(commit).await;
    }
    let refused = [CommitError::Conflict, CommitError::NumberTaken, CommitError::CouponExhausted];
    assert_eq!(results[good..], refused.map(Err));
    it.has_once(&there).await;
    it.has_nothing_of(id(48)).await;
    it.has_nothing_of(id(49)).await;
    assert_eq!(value(&it.url, USED).await, "2");
    it.store.close().await;
}

#[tokio::test]
async fn a_commit_that_never_arrives_is_written_again() {
    let it = Proxied::start(|_| {}).await;
    let created = creation(order(1));
    let changed = renote(&created.order, "changed");
    for commit in [created, changed] {
        let trap = it.proxy.cut_before_request(|request| request.runs(STRICT));
        assert_eq!(it.store.commit(commit.clone()).await, Ok(()));
        assert_eq!(trap.fired(), 1);
        it.has_once(&commit).await;
    }
    // At any statement of a transaction of several.
    for (n, text) in
        [(2, "BEGIN"), (3, "INSERT INTO orders"), (4, "coupon_counters"), (5, "events"), (6, "COMMIT")]
    {
        let bought = claim_coupon(creation(order(n)), "TEA10", Some(100));
        let trap = it.proxy.cut_before_request(move |request| request.runs(text));
        assert_eq!(it.store.commit(bought.clone()).await, Ok(()));
        assert_eq!(trap.fired(), 1, "{text}");
        it.has_once(&bought).await;
    }
    assert_eq!(value(&it.url, USED).await, "5");
    it.store.close().await;
}

#[tokio::test]
async fn a_write_that_arrives_late_changes_nothing() {
    let it = Proxied::start(|_| {}).await;
    let created = creation(order(1));
    let changed = renote(&created.order, "changed");
    for commit in [created, changed.clone()] {
        let held = it.proxy.hold_request(|request| request.runs(STRICT));
        assert_eq!(it.store.commit(commit.clone()).await, Ok(()));
        let before = everything(&it.url).await;
        let reply = held.deliver().await.unwrap();
        assert!(reply.error.is_some(), "{reply:?}");
        assert_eq!(everything(&it.url).await, before);
        it.has_once(&commit).await;
    }
    // The same when the order has gone on meanwhile.
    let second = renote(&changed.order, "second");
    let held = it.proxy.hold_request(|request| request.runs(STRICT));
    assert_eq!(it.store.commit(second.clone()).await, Ok(()));
    let third = renote(&second.order, "third");
    assert_eq!(it.store.commit(third.clone()).await, Ok(()));
    let before = everything(&it.url).await;
    assert!(held.deliver().await.unwrap().error.is_some());
    assert_eq!(everything(&it.url).await, before);
    it.has_once(&third).await;
    it.store.close().await;
}

#[tokio::test]
async fn a_commit_that_arrives_late_or_never_after_its_rows_were_written_counts_once() {
    let it = Proxied::start(|config| config.lock_timeout = ms(50)).await;
    for (n, delivered) in [(1, true), (2, false)] {
        let bought = claim_coupon(creation(order(n)), "TEA10", Some(5));
        let held = it.proxy.hold_request(|request| request.statements() == ["COMMIT"]);
        let late = async {
            held.sprung().await;
            // The rows are locked by whoever may still commit them.
            waits_for(&it.url, "Lock").await;
            if delivered {
                assert_eq!(held.deliver().await.unwrap().error, None);
            } else {
                drop(held);
            }
        };
        let (result, ()) = tokio::join!(it.store.commit(bought.clone()), late);
        assert_eq!(result, Ok(()));
        it.has_once(&bought).await;
        assert_eq!(value(&it.url, USED).await, n.to_string());
    }
    it.store.close().await;
}

#[tokio::test]
async fn what_cannot_be_settled_in_time_is_unknown_until_it_is_claimed() {
    let it = Proxied::start(|config| config.outage_patience = Duration::ZERO).await;
    let first = creation(order(1));
    it.store.commit(first.clone()).await.unwrap();

    it.proxy.refuse(true);
    let held = it.proxy.hold_request(|request| request.runs(STRICT));
    let lost = it.store.commit(renote(&first.order, "lost")).await;
    assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
    // Nothing of this one can have been sent.
    let refused = it.store.commit(creation(order(2))).await;
    assert!(matches!(refused, Err(CommitError::NotCommitted(_))), "{refused:?}");
    let claim = it.store.claim(id(1), OWNER).await;
    assert!(matches!(claim, Err(ClaimError::Store(_))), "{claim:?}");

    it.proxy.refuse(false);
    let claimed = claim_until_reached(&it).await;
    assert_eq!(claimed.version, first.order.version + 1, "the version is raised");
    assert_eq!(claimed.notes, first.order.notes);
    let before = everything(&it.url).await;
    assert!(held.deliver().await.unwrap().error.is_some());
    assert_eq!(everything(&it.url).await, before);
    // Claimed once more it is settled, and not raised again.
    assert_eq!(claim_until_reached(&it).await.version, claimed.version);
    let next = renote(&claimed, "next");
    assert_eq!(it.store.commit(next.clone()).await, Ok(()));
    it.has_once(&next).await;
    it.has_nothing_of(id(2)).await;
    it.store.close().await;
}

/// Claims until the store is connected again, which an outage makes it try less and less often.
async fn claim_until_reached(it: &Proxied) -> Order {
    let claim = async || it.store.claim(id(1), OWNER).await.ok();
    let claimed = crate::harness::wait::within(PATIENCE, "a claim", claim).await;
    claimed.unwrap().order.as_ref().clone()
}

#[tokio::test]
async fn an_unknown_creation_is_created_once_whichever_comes_first() {
    for late_first in [false, true] {
        let it = Proxied::start(|config| config.outage_patience = ms(100)).await;
        it.store.commit(creation(order(9))).await.unwrap();
        it.proxy.refuse(true);
        let held = it.proxy.hold_request(|request| request.runs(STRICT));
        let created = creation(order(1));
        let lost = it.store.commit(created.clone()).await;
        assert!(matches!(lost, Err(CommitError::Unknown(_))), "{lost:?}");
        it.proxy.refuse(false);
        let claim = async || it.store.claim(id(1), OWNER).await.ok();
        let claimed = crate::harness::wait::within(PATIENCE, "a claim", claim).await;
        assert!(claimed.is_none());
        // A new attempt is priced anew, so it is not the same.
        let mut other = order(1);
        other.notes = String::from("another attempt");
        other.updated_at += chrono::Duration::seconds(1);
        let other = creation(other);
        if late_first {
            assert_eq!(held.deliver().await.unwrap().error, None);
            // In doubt itself, it must not take the other for its own.
            let trap = it.proxy.cut_before_request(|request| request.runs(STRICT));
            assert_eq!(it.store.commit(other).await, Err(CommitError::Conflict));
            assert_eq!(trap.fired(), 1);
            it.has_once(&created).await;
        } else {
            assert_eq!(it.store.commit(other.clone()).await, Ok(()));
            let before = everything(&it.url).await;
            assert!(held.deliver().await.unwrap().error.is_some());
            assert_eq!(everything(&it.url).await, before);
            it.has_once(&other).await;
        }
        it.store.close().await;
    }
}

#[tokio::test]
async fn a_version_that_a_claim_raised_is_not_taken_for_a_commit() {
    let it = Proxied::start(|_| {}).await;
    let first = creation(order(1));
    it.store.commit(first.clone()).await.unwrap();
    let trap = it.proxy.cut_before_request(|request| request.runs(STRICT));
    it.proxy.refuse(true);
    let late_claim = async {
        trap.sprung().await;
        // What a claim in doubt does when it arrives late.
        query(&it.url, "UPDATE orders SET version = version + 1").await.unwrap();
        it.proxy.refuse(false);
    };
    let (result, ()) = tokio::join!(it.store.commit(renote(&first.order, "not there")), late_claim);
    assert_eq!(result, Err(CommitError::Conflict));
    assert_eq!(it.store.load(id(1)).await.unwrap().unwrap().order.notes, first.order.notes);
    it.store.close().await;
}
