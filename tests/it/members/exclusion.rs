//! A node that has the database for itself, and a cluster: one or the other.

use order_service::domain::membership::{Change, NodeState};
use order_service::ports::members::{MemberError, MemberStore};
use order_service::ports::store::OrderStore;
use order_service::store::postgres::{OpenError, PostgresMembers, PostgresStore};
use tokio::sync::watch;

use super::{Database, LEASE, SLOTS, Stage, member_config, new, open};
use crate::harness::members::whole;
use crate::harness::pg_store::{config_of, value};
use crate::harness::postgres::shared;
use crate::harness::proxy::Proxy;
use crate::harness::wait::eventually;

const SHARERS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn members_share_a_database_and_keep_a_node_that_wants_it_for_itself_out() {
    let stage = Database::fresh().await;
    let config = member_config(&stage.url);
    let (one, other) = (open(&config).await, open(&config).await);
    assert_eq!(value(&stage.url, SHARERS).await, "2");
    let refused = PostgresStore::open(config_of(&stage.url)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("(127.0.0.1, since "), "{refused}");
    assert_eq!(whole(&one, SLOTS).await.version, 1, "whoever is refused changes nothing");
    one.close().await;
    let ending = async {
        let looked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND application_name LIKE '% owner' AND query LIKE '%pg_try_advisory_lock%'";
        eventually("a node to look", async || (value(&stage.url, looked).await == "1").then_some(())).await;
        other.close().await;
    };
    let (alone, ()) = tokio::join!(PostgresStore::open(config_of(&stage.url)), ending);
    alone.unwrap().close().await;
}

#[tokio::test]
async fn a_node_that_has_a_database_for_itself_keeps_members_out() {
    let stage = Database::fresh().await;
    let alone = PostgresStore::open(config_of(&stage.url)).await.unwrap();
    let refused = PostgresMembers::open(&member_config(&stage.url), watch::Sender::new(0)).await.unwrap_err();
    assert!(matches!(&refused, OpenError::InUse { .. }), "{refused}");
    assert!(refused.to_string().contains("(127.0.0.1, since "), "{refused}");
    alone.close().await;
    open(&member_config(&stage.url)).await.close().await;
}

#[tokio::test]
async fn a_member_that_was_away_finds_a_node_that_took_the_database() {
    let stage = Database::fresh().await;
    let proxy = Proxy::start(shared().await.address()).await;
    let member = open(&member_config(&proxy.url_of(&stage.url))).await;
    let joined = member.join(&new("a")).await.unwrap();
    assert!(member.renew(joined.incarnation, LEASE, 0).await.unwrap().is_member);
    proxy.refuse(true);
    proxy.cut_all();
    assert!(member.renew(joined.incarnation, LEASE, 0).await.is_err());
    let alone = PostgresStore::open(config_of(&stage.url)).await.unwrap();
    proxy.refuse(false);
    for _ in 0..2 {
        let told = member.renew(joined.incarnation, LEASE, 0).await;
        let is_told = matches!(&told, Err(MemberError::Unavailable(why))
            if why.contains("in use by a node that has it for itself"));
        assert!(is_told, "{told:?}");
    }
    alone.close().await;
    let renewal = member.renew(joined.incarnation, LEASE, 0).await.unwrap();
    assert!(!renewal.is_member);
    member.close().await;
}

#[tokio::test]
async fn epochs_grow_from_a_node_to_a_cluster_and_back() {
    let stage = Database::fresh().await;
    let epoch_alone = async || {
        let alone = PostgresStore::open(config_of(&stage.url)).await.unwrap();
        let epoch = alone.epoch().unwrap();
        alone.close().await;
        epoch
    };
    let first = epoch_alone().await;
    let second = epoch_alone().await;
    assert!(second > first && first > 1);
    let mut last = second;
    for name in ["a", "b"] {
        let member = open(&member_config(&stage.url)).await;
        let joined = member.join(&new(name)).await.unwrap();
        let take = Change::Take { by: joined.incarnation, slots: vec![0, 7, 4_095] };
        let taken = member.change(joined.version, &take).await.unwrap();
        let view = whole(&member, SLOTS).await;
        assert!(taken > last);
        assert_eq!(view.slots[7].epoch, taken);
        member.close().await;
        let shared = PostgresStore::open(member_config(&stage.url)).await.unwrap();
        assert_eq!(shared.epoch(), None);
        shared.close().await;

        let third = epoch_alone().await;
        let fourth = epoch_alone().await;
        assert!(third > taken && fourth > third);
        let member = open(&member_config(&stage.url)).await;
        let view = whole(&member, SLOTS).await;
        assert_eq!(view.version, fourth);
        // Freed once, when there was something to free.
        assert!(view.slots.iter().all(|slot| (slot.owner, slot.epoch) == (None, third)));
        let update = member.view(taken).await.unwrap();
        assert_eq!(update.slots.len(), SLOTS);
        let gone = &view.members[&joined.incarnation];
        assert_eq!(gone.state, NodeState::Dead);
        assert!(gone.silent_at.unwrap() <= update.now);
        assert!(!member.renew(joined.incarnation, LEASE, 0).await.unwrap().is_member);
        member.close().await;
        last = fourth;
    }
}
