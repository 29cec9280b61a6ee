//! A node that runs as a database role which may add events, and neither change nor delete them.

use std::process::Command;

use order_service::proto::order as pb;
use tempfile::TempDir;
use tokio::task::block_in_place;
use uuid::Uuid;

use crate::harness::edits::{added, quantity, removed};
use crate::harness::node::TestNode;
use crate::harness::postgres::{USER, query, shared, shared_database};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::tokens::Issuer;

/// What `migrate --grant-to ROLE` says; none when it did it.
fn grant(url: &str, role: &str) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.args(["migrate", "--grant-to", role]).env_clear().env("ORDER__STORE__URL", url);
    command.env("ORDER__LOG__FORMAT", "json");
    let output = block_in_place(|| command.output().unwrap());
    let err = String::from_utf8(output.stderr).unwrap();
    (!output.status.success()).then_some(err)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_as_a_role_that_cannot_change_events() {
    use pb::OrderStatus::{Cancelled, Delivered};
    let url = shared_database().await;
    let role = format!("Node of {}", Uuid::now_v7());
    let said = grant(&url, &role).unwrap();
    assert!(said.contains(&format!("make it with CREATE ROLE \\\"{role}\\\" LOGIN")), "{said}");
    shared().await.admin(&format!("CREATE ROLE \"{role}\" LOGIN")).await;
    assert_eq!(grant(&url, &role), None);
    assert_eq!(grant(&url, &role), None, "once more, as after the next migration");
    let said = grant(&url, USER).unwrap();
    assert!(said.contains("is a superuser"), "{said}");
    let member = format!("member_{}", Uuid::now_v7().simple());
    let owner = format!("owner_{}", Uuid::now_v7().simple());
    shared().await.admin(&format!("CREATE ROLE {owner}; CREATE ROLE {member} LOGIN IN ROLE {owner}")).await;
    let owned = shared_database().await;
    assert_eq!(grant(&owned, &role), None);
    query(&owned, &format!("ALTER TABLE order_events OWNER TO {owner}")).await.unwrap();
    let said = grant(&owned, &member).unwrap();
    assert!(said.contains("owns the tables, or is a member of their owner"), "{said}");

    // By whatever way a role comes to it.
    let mighty = format!("mighty_{}", Uuid::now_v7().simple());
    shared().await.admin(&format!("CREATE ROLE {mighty} SUPERUSER")).await;
    for (right, how) in [
        ("pg_write_all_data", "is a member of pg_write_all_data, which may change or delete".to_owned()),
        (mighty.as_str(), format!("is a member of {mighty}, which is a superuser")),
    ] {
        let other = shared_database().await;
        let member = format!("member_{}", Uuid::now_v7().simple());
        shared().await.admin(&format!("CREATE ROLE {member} LOGIN NOINHERIT IN ROLE {right}")).await;
        let said = grant(&other, &member).unwrap();
        assert!(said.contains(&how), "{said}");
        let as_member = other.replace(&format!("//{USER}@"), &format!("//{member}@"));
        assert!(query(&as_member, "SELECT * FROM orders").await.is_err(), "nothing was granted");
    }
    let open = shared_database().await;
    assert_eq!(grant(&open, &role), None);
    query(&open, "GRANT UPDATE (payload) ON order_events TO PUBLIC").await.unwrap();
    let said = grant(&open, &role).unwrap();
    assert!(said.contains("may change or delete what happened"), "{said}");

    let name = role.replace(' ', "%20");
    let as_node = url.replace(&format!("//{USER}@"), &format!("//{name}@"));
    let settings = [
        ("ORDER__STORE__URL", as_node.as_str()),
        ("ORDER__STORE__MIGRATE", "false"),
        ("ORDER__SIMULATOR__JOURNAL", ""),
    ];
    let node = TestNode::start_with(&settings).await;
    let order = node.order_at(Delivered).await;
    node.refund(&order.id, "1.00").await.unwrap();
    node.order_at(Cancelled).await;
    let order = node.create(crate::harness::api::order_of(&[(1, 2), (4, 1)])).await;
    let order = quantity(&node, &order, 1, 3).await.unwrap();
    let order = added(&node, &order, 3, 1).await.unwrap();
    let order = removed(&node, &order, 4).await.unwrap();
    node.hold(&order.id, "a look").await.unwrap();
    node.release(&order.id).await.unwrap();
    assert_eq!(node.orders().await.len(), 3);

    for table in ["order_events", "order_status_history", "order_payment_transactions", "order_requests"] {
        for sql in [
            format!("DELETE FROM {table}"),
            format!("UPDATE {table} SET order_id = order_id"),
            format!("TRUNCATE {table}"),
            format!("ALTER TABLE {table} DISABLE TRIGGER ALL"),
            format!("DROP TABLE {table}"),
        ] {
            let refused = query(&as_node, &sql).await.unwrap_err().to_string();
            assert!(
                refused.contains("permission denied") || refused.contains("must be owner"),
                "{sql}: {refused}"
            );
        }
    }
    for sql in [
        "DELETE FROM orders",
        "DELETE FROM sagas",
        "UPDATE _sqlx_migrations SET success = false",
        "CREATE TABLE mine ()",
    ] {
        let refused = query(&as_node, sql).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied"), "{sql}: {refused}");
    }
    node.stop().await;

    // A cluster of two, one of which leaves: members, votes, slots and handover.
    let cluster = |name| {
        let more = [
            ("ORDER__CLUSTER__ENABLED", "true"),
            ("ORDER__CLUSTER__NAME", name),
            ("ORDER__PEER__LISTEN", "127.0.0.1:0"),
        ];
        let settings = [settings.as_slice(), &more].concat();
        async move { TestNode::start_in(TempDir::new().unwrap(), &settings).await }
    };
    let first = cluster("first").await;
    first.order_at(Delivered).await;
    let second = cluster("second").await;
    second.order_at(Cancelled).await;
    first.stop().await;
    second.order_at(Delivered).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_in_production_says_when_its_role_could_change_the_history() {
    let (simulate, issuer) = (Simulate::start().await, Issuer::new());
    let mut settings = issuer.settings();
    settings.extend(
        [
            ("ORDER__PROFILE", "production"),
            ("ORDER__IDS__KEY", "a secret of our own"),
            ("ORDER__STORE__ALLOW_UNSAFE", "fsync, full_page_writes, synchronous_commit"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut node = NodeProcess::start_on(Some(shared_database().await), &simulate, &settings, &[]).await;
    let log = node.process().log();
    assert!(log.contains("could change the history") && log.contains("is a superuser"), "{log}");
}
