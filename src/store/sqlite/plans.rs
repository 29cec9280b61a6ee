//! How SQLite carries the statements out: by which index, and never by reading or sorting a whole table.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::str::FromStr;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row, SqlSafeStr};
use uuid::Uuid;

use super::coupons::Coupons;
use super::guard::Guard;
use super::read::{
    COUNT_OF_USER, EVENTS, Key, STUCK, load_statement, statement, timers_statement, unfinished_statement,
};
use super::scan;
use crate::domain::ids::UserId;
use crate::domain::status::OrderStatus;
use crate::ports::store::ListQuery;

async fn empty() -> SqliteConnection {
    let mut connection = SqliteConnectOptions::from_str("sqlite::memory:").unwrap().connect().await.unwrap();
    sqlx::migrate!("migrations/sqlite").run(&mut connection).await.unwrap();
    connection
}

/// The lines of the plan.
async fn explain(connection: &mut SqliteConnection, sql: impl SqlSafeStr) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {}", sql.into_sql_str().as_str());
    let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>("detail")).collect()
}

/// The lines of the plan; fails when one reads or sorts more than it should.
async fn plan(connection: &mut SqliteConnection, sql: impl SqlSafeStr) -> String {
    let sql = sql.into_sql_str();
    let lines = explain(connection, sql.clone()).await;
    for line in &lines {
        assert!(!line.contains("TEMP B-TREE"), "{lines:#?}\n{}", sql.as_str());
        // What is given with the statement, or was picked by an index, may be walked through; a table may not.
        let walked = line.strip_prefix("SCAN ").map(|rest| rest.split(' ').next().unwrap());
        let in_order = line.contains("USING COVERING INDEX orders_by_time");
        let given = walked.is_none_or(|name| ["v", "k"].contains(&name)) || line.contains("-ROW VALUES");
        assert!(given || in_order, "{line}\n{lines:#?}\n{}", sql.as_str());
    }
    lines.join("\n")
}

#[tokio::test]
async fn lists_walk_one_index_from_where_the_last_page_ended() {
    let mut connection = empty().await;
    let key = Key { at: 5, id: Uuid::from_u128(5) };
    let time = crate::domain::Timestamp::from_timestamp_micros(3);
    let mut shapes = 0;
    for (user_id, index, own) in [
        (Some(UserId(Uuid::from_u128(1))), "orders_by_user", "(user_id=?"),
        (None, "orders_by_status", "(status=?"),
        (None, "orders_by_time", ""),
    ] {
        for count in [0, 1, 3] {
            if user_id.is_none() && (index == "orders_by_status") != (count > 0) {
                continue;
            }
            for oldest_first in [false, true] {
                for (after, from) in [(None, None), (Some(key), None), (None, time), (Some(key), time)] {
                    let asked = ListQuery {
                        user_id,
                        statuses: OrderStatus::ALL[..count].to_vec(),
                        created_after: from,
                        created_before: from.map(|from| from + chrono::Duration::seconds(9)),
                        oldest_first,
                        after: None,
                        limit: 50,
                    };
                    let (sql, _) = statement(&asked, after, 50).unwrap();
                    let plan = plan(&mut connection, AssertSqlSafe(sql)).await;
                    let walks = plan.lines().filter(|line| line.contains(index)).count();
                    assert_eq!(walks, if user_id.is_some() { 1 } else { count.max(1) }, "{plan}");
                    assert!(plan.contains(own), "{plan}");
                    // The cursor is an end of the range, not a filter over everything before it.
                    if after.is_some() {
                        let sign = if oldest_first { '>' } else { '<' };
                        let range = format!("(created_at,id){sign}(?,?)");
                        let walk = |line: &&str| line.contains(index);
                        assert!(
                            plan.lines().filter(walk).all(|line| line.contains(&range)),
                            "{range}:\n{plan}"
                        );
                    }
                    if from.is_some() && after.is_none() {
                        assert!(plan.contains("created_at>? AND created_at<?"), "{plan}");
                    }
                    assert!(plan.contains("SEARCH o USING INDEX sqlite_autoindex_orders_1 (id=?)"), "{plan}");
                    shapes += 1;
                }
            }
        }
    }
    assert_eq!(shapes, 48);
}

#[tokio::test]
async fn an_order_and_its_rows_are_looked_up_by_key() {
    let mut connection = empty().await;
    let plan_of_load = plan(&mut connection, AssertSqlSafe(load_statement())).await;
    for table in ["order_items", "order_addresses", "shipments", "order_requests", "sagas"] {
        let by_key = format!("SEARCH {table} USING PRIMARY KEY (order_id=?)");
        assert!(plan_of_load.contains(&by_key), "{plan_of_load}");
    }
    let plan_of_events = plan(&mut connection, EVENTS).await;
    assert!(plan_of_events.contains("USING PRIMARY KEY (order_id=? AND seq>?)"), "{plan_of_events}");
}

#[tokio::test]
async fn a_scan_walks_the_keys_and_looks_the_rest_up() {
    let mut connection = empty().await;
    let plan = plan(&mut connection, AssertSqlSafe(scan::statement(true))).await;
    assert!(plan.contains("SEARCH orders USING COVERING INDEX sqlite_autoindex_orders_1 (id>?)"), "{plan}");
    for table in ["order_events", "order_status_history", "order_items", "sagas"] {
        assert!(plan.contains(&format!("SEARCH {table} USING PRIMARY KEY (order_id=?)")), "{plan}");
    }
}

#[tokio::test]
async fn the_chains_are_walked_by_key() {
    let mut connection = empty().await;
    let plan = plan(&mut connection, AssertSqlSafe(scan::trails_statement())).await;
    assert!(plan.contains("SEARCH orders USING INDEX sqlite_autoindex_orders_1 (id>?)"), "{plan}");
    assert!(plan.contains("SEARCH order_events USING PRIMARY KEY (order_id=?)"), "{plan}");
}

#[tokio::test]
async fn unfinished_sagas_are_a_range_of_their_index() {
    let mut connection = empty().await;
    for (has_after, range) in [(false, "(due_at<?)"), (true, "((due_at,order_id)>(?,?) AND due_at<?)")] {
        let plan = plan(&mut connection, AssertSqlSafe(unfinished_statement(has_after))).await;
        assert!(plan.contains("USING COVERING INDEX sagas_due"), "{plan}");
        assert!(plan.contains(range), "{plan}");
    }
}

#[tokio::test]
async fn what_is_stuck_is_found_by_two_small_indexes() {
    let mut connection = empty().await;
    let plan = explain(&mut connection, STUCK).await.join("\n");
    // The first holds the sagas that are not settled, and is read as a whole.
    assert!(plan.contains("SCAN sagas USING INDEX sagas_due"), "{plan}");
    assert!(plan.contains("SEARCH orders USING COVERING INDEX orders_refund_failed (id>?)"), "{plan}");
}

#[tokio::test]
async fn due_timers_are_a_range_of_their_index() {
    let mut connection = empty().await;
    for (has_after, range) in [(false, "due_at<?"), (true, "((due_at,order_id)>(?,?) AND due_at<?)")] {
        let plan = plan(&mut connection, AssertSqlSafe(timers_statement(has_after))).await;
        assert!(plan.contains("INDEX order_timers_due"), "{plan}");
        assert!(plan.contains(range), "{plan}");
    }
}

#[tokio::test]
async fn a_users_orders_are_counted_along_their_index() {
    let mut connection = empty().await;
    let plan = plan(&mut connection, COUNT_OF_USER).await;
    assert!(plan.contains("INDEX orders_by_user (user_id=? AND created_at>?)"), "{plan}");
}

#[tokio::test]
async fn batches_look_their_rows_up_by_key() {
    let mut connection = empty().await;
    let (guard, coupons) = (Guard::new(), Coupons::new());
    for statement in [&guard.update, &guard.existing, &guard.owners, &guard.set_owner] {
        let plan = plan(&mut connection, statement.widest()).await;
        assert!(plan.contains("(id=?)"), "{plan}");
    }
    for statement in [&coupons.claims, &coupons.release] {
        let plan = plan(&mut connection, statement.widest()).await;
        assert!(plan.contains("PRIMARY KEY (code=? AND order_id=?)"), "{plan}");
    }
}
