//! The cluster's records on Postgres: renewals that are under way, connections that are lost, and time limits.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use order_service::domain::membership::{Change, NewMember, NodeState};
use order_service::ports::members::{ChangeError, MemberError, MemberStore};
use order_service::ports::store::OrderStore;
use order_service::store::postgres::PostgresStore;
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    Database, LEASE, PostgresMembers, SLOTS, Stage, Strict, Way, member_config, new, open, races, run,
};
use crate::harness::members::whole;
use crate::harness::pg_store::{ms, value};
use crate::harness::postgres::{query, shared};
use crate::harness::proxy::Proxy;
use crate::harness::wait::eventually;

/// Waits until a statement of a node's waits for a row.
async fn blocked(url: &str, role: &str) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
         AND application_name LIKE '% {role}'"
    );
    eventually("a statement to wait", async || (value(url, &sql).await == "1").then_some(())).await;
}

/// A transaction of somebody else that has done `sql` and not ended.
async fn under_way(url: &str, sql: &str) -> PgConnection {
    let mut connection = PgConnection::connect(url).await.unwrap();
    run(&mut connection, &format!("BEGIN; {sql}")).await;
    connection
}

/// Ends it.
async fn ended(mut connection: PgConnection, how: &str) {
    run(&mut connection, how).await;
    connection.close().await.unwrap();
}

const RENEWED: &str =
    "UPDATE cluster_nodes SET lease_until = clock_timestamp() + interval '1 hour' WHERE name = 'late'";

#[tokio::test]
async fn a_renewal_that_is_under_way_saves_a_node_from_expiry() {
    let stage = Database::fresh().await;
    let (way, url) = (Way::of(&stage).await, stage.url.as_str());
    let by = way.join("judge").await;
    let node = way.0.join(&NewMember { lease: Duration::ZERO, ..new("late") }).await.unwrap().incarnation;
    let before = way.whole().await;
    let expire = Change::Expire { node, by };
    for how in ["COMMIT", "ROLLBACK"] {
        let renewal = under_way(url, RENEWED).await;
        let end = async {
            blocked(url, "members").await;
            ended(renewal, how).await;
        };
        if how == "COMMIT" {
            let (expired, ()) = tokio::join!(way.0.change(before.version, &expire), end);
            assert_eq!(expired, Err(ChangeError::Refused));
            let view = way.whole().await;
            assert_eq!((view.version, view.members[&node].state), (before.version, NodeState::Active));
            run(
                &mut PgConnection::connect(url).await.unwrap(),
                "UPDATE cluster_nodes SET lease_until = now() - interval '1 s' WHERE name = 'late'",
            )
            .await;
        } else {
            // One that came to nothing saves nobody.
            let (expired, ()) = tokio::join!(way.0.change(before.version, &expire), end);
            assert_eq!(expired, Ok(before.version + 1));
            assert_eq!(way.state(node).await, NodeState::Dead);
        }
    }
}

#[tokio::test]
async fn a_renewal_that_is_under_way_keeps_a_name() {
    let stage = Database::fresh().await;
    let (way, url) = (Way::of(&stage).await, stage.url.as_str());
    way.0.join(&NewMember { lease: Duration::ZERO, ..new("late") }).await.unwrap();
    let before = way.whole().await;
    let renewal = under_way(url, RENEWED).await;
    let end = async {
        blocked(url, "members").await;
        ended(renewal, "COMMIT").await;
    };
    let elsewhere = NewMember { address: "elsewhere:1".into(), ..new("late") };
    let (rival, ()) = tokio::join!(way.rival(&elsewhere), end);
    assert_eq!(rival, "late.example:7000");
    assert_eq!(way.version().await, before.version);
}

#[tokio::test]
async fn a_renewal_waits_for_the_verdict_on_its_node() {
    let stage = Database::fresh().await;
    let (way, url) = (Way::of(&stage).await, stage.url.as_str());
    let node = way.join("a").await;
    let verdict = "UPDATE cluster_view SET version = version + 1; \
                   UPDATE cluster_nodes SET state = 'DEAD', silent_at = now() WHERE name = 'a'";
    let verdict = under_way(url, verdict).await;
    let end = async {
        blocked(url, "renew").await;
        ended(verdict, "COMMIT").await;
    };
    let (renewal, ()) = tokio::join!(way.renew(node), end);
    assert!(!renewal.is_member);
}

#[tokio::test]
async fn a_change_that_is_overtaken_does_nothing() {
    let stage = Database::fresh().await;
    let (way, url) = (Way::of(&stage).await, stage.url.as_str());
    let (a, b) = (way.join("a").await, way.join("b").await);
    let version = way.version().await;
    let rival = format!(
        "UPDATE cluster_view SET version = version + 1; \
         UPDATE slot_owner SET owner = {a}, epoch = {} WHERE slot = 1",
        version + 1
    );
    for (how, expected) in [("ROLLBACK", Ok(version + 1)), ("COMMIT", Err(ChangeError::Refused))] {
        let now = way.version().await;
        let rival = under_way(url, &rival).await;
        let end = async {
            blocked(url, "members").await;
            ended(rival, how).await;
        };
        let take = Change::Take { by: b, slots: vec![if how == "COMMIT" { 1 } else { 2 }] };
        let (made, ()) = tokio::join!(way.0.change(now, &take), end);
        assert_eq!(made, expected);
    }
    let view = way.whole().await;
    assert_eq!([1, 2].map(|slot| view.slots[slot].owner), [Some(a), Some(b)]);
    assert_eq!(view.version, version + 2);
}

#[tokio::test]
async fn nothing_delays_a_renewal_and_nothing_takes_longer_than_it_may() {
    let stage = Database::fresh().await;
    let mut config = member_config(&stage.url);
    config.lock_timeout = ms(300);
    let way = Way(Arc::new(open(&config).await));
    let node = way.join("a").await;
    let version = way.version().await;
    let busy = under_way(&stage.url, "SELECT FROM cluster_view FOR UPDATE").await;
    let renewals = async {
        blocked(&stage.url, "members").await;
        for _ in 0..3 {
            assert!(way.renew(node).await.is_member);
        }
    };
    let (made, ()) = tokio::join!(way.0.change(version, &Change::Touch), renewals);
    assert!(matches!(made, Err(ChangeError::NotMade(_))), "{made:?}");
    ended(busy, "ROLLBACK").await;
    assert_eq!(way.0.change(version, &Change::Touch).await, Ok(version + 1));

    config.lock_timeout = Duration::from_secs(60);
    let way = Way(Arc::new(open(&config).await));
    let busy = under_way(&stage.url, "SELECT FROM cluster_nodes FOR UPDATE").await;
    let started = Instant::now();
    let late = way.0.renew(node, ms(600), 0).await;
    assert!(matches!(late, Err(MemberError::Unavailable(_))), "{late:?}");
    assert!(started.elapsed() >= ms(200) && started.elapsed() < Duration::from_secs(20));
    ended(busy, "ROLLBACK").await;
    assert!(way.renew(node).await.is_member);
}

#[tokio::test]
async fn a_change_without_an_answer_is_unknown_and_a_renewal_is_sent_again() {
    let stage = Database::fresh().await;
    let proxy = Proxy::start(shared().await.address()).await;
    let config = member_config(&proxy.url_of(&stage.url));
    let store = PostgresStore::open(config.clone()).await.unwrap();
    let reconnects = store.reconnects();
    let way = Way(Arc::new(store.members(&config).await.unwrap()));
    let node = way.join("a").await;
    let before = way.version().await;
    let unknown = |made: &Result<i64, ChangeError>| matches!(made, Err(ChangeError::Unknown(_)));
    let trap = proxy.cut_after_request(|request| request.runs("UPDATE cluster_view"));
    let made = way.0.change(before, &Change::Touch).await;
    assert!(unknown(&made) && trap.fired() == 1, "{made:?}");
    assert_eq!(way.version().await, before + 1);
    let trap = proxy.cut_before_request(|request| request.runs("UPDATE cluster_view"));
    let made = way.0.change(before + 1, &Change::Touch).await;
    assert!(unknown(&made) && trap.fired() == 1, "{made:?}");
    assert_eq!(way.version().await, before + 1);
    assert!(!reconnects.has_changed().unwrap(), "only renewals tell of a server that was away");

    // A question is asked once more, and a renewal says that the server may be another one now.
    assert!(way.renew(node).await.is_member);
    for count in 1..3 {
        proxy.cut_all();
        assert!(way.renew(node).await.is_member);
        assert_eq!(way.version().await, before + 1);
        assert_eq!(*reconnects.borrow(), count);
    }

    // Not even connected: nothing was sent.
    proxy.refuse(true);
    proxy.cut_all();
    assert!(way.0.view(0).await.is_err());
    let made = way.0.change(before + 1, &Change::Touch).await;
    assert!(matches!(made, Err(ChangeError::NotMade(_))), "{made:?}");
    let late = way.0.renew(node, LEASE, 0).await;
    assert!(matches!(late, Err(MemberError::Unavailable(_))), "{late:?}");
    proxy.refuse(false);
    assert_eq!(way.0.change(before + 1, &Change::Touch).await, Ok(before + 2));
    assert!(way.renew(node).await.is_member);
    way.0.close().await;
    assert!(way.0.renew(node, LEASE, 0).await.is_err());
    store.close().await;
}

#[tokio::test]
async fn a_stricter_isolation_costs_tries_and_nothing_else() {
    races::changes_of_many_have_one_order::<Strict>().await;
    races::a_renewal_and_an_expiry_do_not_both_succeed::<Strict>().await;
    races::a_name_has_one_bearer::<Strict>().await;
    let stage = Strict::fresh().await;
    let ways = [Way::of(&stage).await, Way::of(&stage).await, Way::of(&stage).await];
    let renewing = ways.iter().zip(["a", "b", "c"]).map(|(way, name)| async move {
        let node = way.join(name).await;
        for _ in 0..50 {
            assert!(way.renew(node).await.is_member);
        }
    });
    join_all(renewing).await;
}

#[tokio::test]
async fn what_was_changed_outlives_the_connection_that_changed_it() {
    let stage = Database::fresh().await;
    let members = PostgresMembers::open(&member_config(&stage.url), watch::Sender::new(0)).await.unwrap();
    let joined = members.join(&new("a")).await.unwrap();
    let take = Change::Take { by: joined.incarnation, slots: (0..4_096).collect() };
    members.change(joined.version, &take).await.unwrap();
    members.close().await;
    let again = open(&member_config(&stage.url)).await;
    let view = whole(&again, SLOTS).await;
    assert_eq!(view.slots_of(joined.incarnation), SLOTS);
    again.close().await;
    let settings = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND (application_name LIKE '% renew' OR application_name LIKE '% members')";
    let gone = async || (query(&stage.url, settings).await.unwrap() == [["0"]]).then_some(());
    eventually("its connections to be closed", gone).await;
}
