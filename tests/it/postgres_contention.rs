//! Commits on Postgres that others get in the way of: locks, isolation, deadlocks, several lanes, a full queue.

use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use order_service::domain::order::Order;
use order_service::ports::store::{ClaimError, Commit, CommitError, OrderStore, Owner, StoreError};
use order_service::store::postgres::{PostgresStore, migrate};

use crate::harness::orders::{OWNER, claim_coupon, creation, id, order, release_coupon, update};
use crate::harness::pg_store::{Proxied, Squatter, ms, value, waits_anew, waits_for, whole};
use crate::harness::postgres::{query, shared, shared_database};
use crate::harness::wait::{eventually, within};
use crate::store_suite::postgres::config_of;

fn renote(before: &Order, notes: &str) -> Commit {
    update(before, |order| order.notes = notes.to_owned())
}

#[tokio::test]
async fn a_row_that_others_hold_keeps_its_batch_waiting_and_harms_nobody() {
    let it = Proxied::start(|config| {
        config.lock_timeout = ms(50);
        config.outage_patience = ms(1_000);
    })
    .await;
    let there: Vec<Commit> = [1, 2].map(|n| creation(order(n))).into();
    for commit in &there {
        it.store.commit(commit.clone()).await.unwrap();
    }
    let mut before = [there[0].order.clone(), there[1].order.clone()];
    for patient in [true, false] {
        let one = Squatter::take(&it.url, &[id(1)]).await;
        let other = Squatter::take(&it.url, &[id(2)]).await;
        // Behind the first commit, which waits, the others become one batch; then that one waits.
        let ahead = renote(&before[0], "ahead");
        let new = if patient { 0..0 } else { 20..30 };
        let mut commits: Vec<Commit> = new.map(|n| creation(order(n))).collect();
        commits.push(renote(&before[1], "held"));
        let batch = async {
            waits_for(&it.url, "Lock").await;
            let all = join_all(commits.iter().map(|commit| it.store.commit(commit.clone())));
            let release = async {
                one.leave().await;
                let taken = "SELECT count(*) FROM orders WHERE id = $1 AND notes = 'ahead'";
                let taken = taken.replace("$1", &format!("'{}'", id(1)));
                eventually("the first commit", async || (value(&it.url, &taken).await == "1").then_some(()))
                    .await;
                if patient {
                    // One that has no neighbors is tried again and again.
                    waits_anew(&it.url).await;
                    other.leave().await;
                    None
                } else {
                    Some(other)
                }
            };
            tokio::join!(all, release)
        };
        let (first, (results, other)) = tokio::join!(it.store.commit(ahead.clone()), batch);
        assert_eq!(first, Ok(()));
        before[0] = ahead.order.clone();
        if let Some(other) = other {
            other.leave().await;
        }
        for (commit, result) in commits.iter().zip(&results) {
            // The neighbors are not refused for the sake of the one that is held.
            if patient || commit.guard.version == 0 {
                assert_eq!(*result, Ok(()));
                it.has_once(commit).await;
            } else {
                assert!(matches!(result, Err(CommitError::NotCommitted(_))), "{result:?}");
            }
        }
        let held = commits.last().unwrap();
        if !patient {
            assert_eq!(it.store.load(id(2)).await.unwrap().unwrap().order, before[1]);
            whole(&it.url).await;
            // Nothing is left of it: the same goes well now.
            assert_eq!(it.store.commit(held.clone()).await, Ok(()));
        }
        before[1] = held.order.clone();
    }
    whole(&it.url).await;
    it.store.close().await;
}

#[tokio::test]
async fn a_claim_of_a_row_that_others_hold_harms_nobody() {
    let it = Proxied::start(|config| {
        (config.lanes, config.lock_timeout, config.outage_patience) = (1, ms(50), ms(500));
    })
    .await;
    for n in 1..=3 {
        it.store.commit(creation(order(n))).await.unwrap();
    }
    let next = Owner { incarnation: OWNER.incarnation + 1, ..OWNER };
    let one = Squatter::take(&it.url, &[id(3)]).await;
    let other = Squatter::take(&it.url, &[id(2)]).await;
    // Behind the first, which waits, the others become one batch.
    let rest = async {
        waits_for(&it.url, "Lock").await;
        let both = async { tokio::join!(it.store.claim(id(1), next), it.store.claim(id(2), next)) };
        tokio::join!(both, one.leave()).0
    };
    let (first, (free, held)) = tokio::join!(it.store.claim(id(3), next), rest);
    assert_eq!(first.unwrap().unwrap().order.id, id(3));
    assert_eq!(free.unwrap().unwrap().order.id, id(1));
    assert!(matches!(held, Err(ClaimError::Store(StoreError::Unavailable(_)))), "{held:?}");
    other.leave().await;
    assert_eq!(it.store.claim(id(2), next).await.unwrap().unwrap().order.id, id(2));
    it.store.close().await;
}

#[tokio::test]
async fn a_deadlock_ends_well() {
    let it = Proxied::start(|config| config.lock_timeout = Duration::from_secs(8)).await;
    let there: Vec<Commit> = (1..=3).map(|n| creation(order(n))).collect();
    for commit in &there {
        it.store.commit(commit.clone()).await.unwrap();
    }
    // A session looks for a deadlock once, so long after it began to wait. The store's are the first to wait, and the
    // other one never looks: so it is the store that has to give way.
    let name = value(&it.url, "SELECT current_database()").await;
    query(&it.url, &format!("ALTER DATABASE {name} SET deadlock_timeout = '2s'")).await.unwrap();
    it.proxy.cut_all();
    it.store.commit(creation(order(9))).await.unwrap();

    // Both orders in one batch, behind one that waits.
    let ahead = Squatter::take(&it.url, &[id(3)]).await;
    let mut other = Squatter::take(&it.url, &[id(2)]).await;
    let first = it.store.commit(renote(&there[2].order, "ahead"));
    let both = [renote(&there[0].order, "one"), renote(&there[1].order, "two")];
    let rest = async {
        let writer = waits_for(&it.url, "Lock").await;
        let all = join_all(both.iter().map(|commit| it.store.commit(commit.clone())));
        let cross = async {
            ahead.leave().await;
            // The batch holds the first row as soon as it waits for the second.
            let free = format!("SELECT FROM orders WHERE id = '{}' FOR UPDATE SKIP LOCKED", id(1));
            eventually("a half taken batch", async || {
                query(&it.url, &free).await.unwrap().is_empty().then_some(())
            })
            .await;
            // Had as soon as the store has given way.
            other.also(id(1)).await;
            other.leave().await;
        };
        (tokio::join!(all, cross).0, writer)
    };
    let (first, (results, writer)) = tokio::join!(first, rest);
    assert_eq!((first, results), (Ok(()), vec![Ok(()), Ok(())]));
    let found = format!("[{writer}] ERROR:  deadlock detected");
    assert!(shared().await.log().contains(&found), "there was no deadlock");
    for commit in &both {
        it.has_once(commit).await;
    }
    it.store.close().await;
}

#[tokio::test]
async fn strict_isolation_makes_nothing_wrong() {
    const LIMIT: usize = 7;
    for isolation in ["repeatable read", "serializable"] {
        let url = shared_database().await;
        migrate(&config_of(&url)).await.unwrap();
        let name = value(&url, "SELECT current_database()").await;
        query(&url, &format!("ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"))
            .await
            .unwrap();
        let mut config = config_of(&url);
        (config.exclusive, config.lanes) = (false, 2);
        let stores =
            [PostgresStore::open(config.clone()).await.unwrap(), PostgresStore::open(config).await.unwrap()];
        // Orders of all lanes of both stores want the same few uses; each lane has several batches.
        let buy = async |n: u64| {
            let store = &stores[(n % 2) as usize];
            let bought = claim_coupon(creation(order(n)), "TEA10", Some(LIMIT as u32));
            let result = store.commit(bought.clone()).await;
            if result.is_ok() && n.is_multiple_of(3) {
                // Some give it back.
                store.commit(release_coupon(renote(&bought.order, "back"), "TEA10")).await.unwrap();
                return (n, Err(CommitError::CouponExhausted));
            }
            (n, result)
        };
        let results = join_all((1..=80).map(buy)).await;
        for (n, result) in &results {
            let ends = matches!(result, Ok(()) | Err(CommitError::CouponExhausted));
            assert!(ends, "{isolation}, order {n}: {result:?}");
        }
        let kept = results.iter().filter(|(_, result)| result.is_ok()).count();
        let used = value(&url, "SELECT used FROM coupon_counters").await;
        assert_eq!(used, kept.to_string());
        assert!(kept <= LIMIT, "{kept}");
        whole(&url).await;
        for store in stores {
            store.close().await;
        }
    }
}

#[tokio::test]
async fn lanes_keep_the_order_of_each_order() {
    // No multiple of the lanes, lest taking turns look right.
    const ORDERS: usize = 23;
    let url = shared_database().await;
    migrate(&config_of(&url)).await.unwrap();
    let mut config = config_of(&url);
    (config.lanes, config.lane_jobs, config.batch_max) = (4, 1, 16);
    let store = PostgresStore::open(config).await.unwrap();
    // All versions of all orders are queued at once, nobody waits for an answer.
    let mut commits: Vec<Commit> = (1..=ORDERS as u64).map(|n| creation(order(n))).collect();
    for step in 0..20 {
        for n in 0..ORDERS {
            let last = &commits[step * ORDERS + n];
            commits.push(renote(&last.order, &format!("change {step}")));
        }
    }
    let results = join_all(commits.iter().map(|commit| store.commit(commit.clone()))).await;
    assert!(results.iter().all(Result::is_ok));
    for commit in commits.iter().rev().take(ORDERS) {
        assert_eq!(store.load(commit.order.id).await.unwrap().unwrap().order, commit.order);
    }
    let lanes = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND application_name LIKE '% commit %'";
    assert_eq!(value(&url, lanes).await, "4");
    whole(&url).await;
    store.close().await;
}

#[tokio::test]
async fn a_stuck_server_makes_back_pressure() {
    let it = Proxied::start(|config| {
        (config.batch_max, config.queue_max) = (4, 8);
        // A busy machine has to get by with these while nothing is stuck.
        (config.commit_timeout, config.connect_timeout) = (ms(1_000), ms(1_000));
        (config.read_timeout, config.outage_patience) = (ms(1_500), ms(200));
    })
    .await;
    it.store.commit(creation(order(900))).await.unwrap();
    it.store.load(id(900)).await.unwrap();

    // Stuck for a moment: those who have no place hear so at once, the others are done when it is over.
    it.proxy.hang(true);
    let mut waiting: Vec<_> = (1..=40).map(|n| Box::pin(it.store.commit(creation(order(n))))).collect();
    let answers: Vec<_> = waiting.iter_mut().map(|commit| commit.now_or_never()).collect();
    let full = answers.iter().filter(|answer| **answer == Some(Err(CommitError::QueueFull))).count();
    let taken = answers.iter().filter(|answer| answer.is_none()).count();
    assert_eq!(full + taken, 40, "{answers:?}");
    // A queue, and what the writer took from it while it was filled.
    assert!((8..=8 + 4 + 4).contains(&taken), "{taken} were taken");
    it.proxy.hang(false);
    for (commit, answer) in waiting.into_iter().zip(&answers) {
        if answer.is_none() {
            assert_eq!(commit.await, Ok(()));
        }
    }
    assert_eq!(value(&it.url, "SELECT count(*) FROM orders").await, (1 + taken).to_string());

    // Stuck for good: whoever waits is told, readers as well.
    it.proxy.hang(true);
    let all = async {
        let commits = join_all((101..=112).map(|n| it.store.commit(creation(order(n)))));
        tokio::join!(commits, it.store.load(id(900)), it.store.ping(), it.store.load(id(1)))
    };
    let told = async || Some(all.await);
    let (results, read, ping, other) = within_once(told).await;
    for result in &results {
        let told = matches!(
            result,
            Err(CommitError::Unknown(_) | CommitError::NotCommitted(_) | CommitError::QueueFull)
        );
        assert!(told, "{result:?}");
    }
    for result in [read.map(drop), ping, other.map(drop)] {
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{result:?}");
    }
    it.proxy.hang(false);
    let back = async || it.store.commit(creation(order(200))).await.ok();
    eventually("a commit after it", back).await;
    let back = async || it.store.load(id(200)).await.ok();
    assert!(eventually("a read after it", back).await.is_some());
    whole(&it.url).await;
    it.store.close().await;
}

/// Everything has a time limit of a second or two; a busy machine may take longer, not for ever.
async fn within_once<T>(work: impl AsyncFnOnce() -> Option<T>) -> T {
    let mut work = Some(work);
    within(Duration::from_secs(20), "answers", async || work.take().unwrap()().await).await
}
