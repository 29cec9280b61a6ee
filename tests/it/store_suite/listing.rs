//! Pages of orders, checked against the same selection made in memory.

use std::sync::Arc;

use futures::future::join_all;
use order_service::domain::order::Order;
use order_service::domain::status::OrderStatus;
use order_service::ports::store::{ListCursor, ListQuery, OrderStore};

use super::StoreFactory;
use crate::harness::orders::{at, creation, id, order, user};

/// 90 orders of 7 users; three of them always have the same creation time, and statuses go round.
async fn filled<F: StoreFactory>() -> (F, Arc<dyn OrderStore>, Vec<Order>) {
    let files = F::fresh().await;
    let store = files.open().await;
    let orders: Vec<Order> = (1..=90u64)
        .map(|n| {
            let mut order = order(n);
            order.created_at = at((n / 3) as i64);
            order.status = OrderStatus::ALL[(n as usize * 5) % OrderStatus::ALL.len()];
            order
        })
        .collect();
    let results = join_all(orders.iter().map(|order| store.commit(creation(order.clone())))).await;
    assert!(results.iter().all(Result::is_ok));
    (files, store, orders)
}

const ALL: ListQuery = ListQuery {
    user_id: None,
    statuses: Vec::new(),
    created_after: None,
    created_before: None,
    oldest_first: false,
    after: None,
    limit: 4,
};

fn expected(orders: &[Order], query: &ListQuery) -> Vec<Order> {
    let mut found: Vec<Order> = orders
        .iter()
        .filter(|order| query.user_id.is_none_or(|user| order.user_id == user))
        .filter(|order| query.statuses.is_empty() || query.statuses.contains(&order.status))
        .filter(|order| query.created_after.is_none_or(|from| order.created_at >= from))
        .filter(|order| query.created_before.is_none_or(|until| order.created_at < until))
        .cloned()
        .collect();
    found.sort_by_key(|order| (order.created_at, order.id));
    if !query.oldest_first {
        found.reverse();
    }
    found
}

/// All pages, one after the other.
async fn walk(store: &Arc<dyn OrderStore>, query: &ListQuery) -> Vec<Order> {
    let mut query = query.clone();
    let mut all: Vec<Order> = Vec::new();
    loop {
        let page = store.list(&query).await.unwrap();
        assert!(page.len() <= query.limit as usize);
        let Some(last) = page.last() else { break };
        query.after = Some(ListCursor { created_at: last.created_at, id: last.id });
        let full = page.len() == query.limit as usize;
        all.extend(page.iter().map(|order| order.as_ref().clone()));
        if !full {
            break;
        }
    }
    all
}

pub(super) async fn pages_have_no_gap_and_no_double<F: StoreFactory>() {
    let (_files, store, orders) = filled::<F>().await;
    for oldest_first in [false, true] {
        for limit in [1, 4, 90, 200] {
            let query = ListQuery { oldest_first, limit, ..ALL };
            assert_eq!(walk(&store, &query).await, expected(&orders, &query), "{query:?}");
        }
    }
    store.close().await;
}

pub(super) async fn filters_can_be_combined<F: StoreFactory>() {
    use OrderStatus::{Confirmed, Pending, Shipped};
    let (_files, store, orders) = filled::<F>().await;
    let mut some = 0;
    for user_id in [None, Some(user(3)), Some(user(77))] {
        for statuses in [vec![], vec![Pending], vec![Shipped, Pending, Confirmed, Pending]] {
            for created_after in [None, Some(at(9))] {
                for created_before in [None, Some(at(21)), Some(at(9))] {
                    for oldest_first in [false, true] {
                        let statuses = statuses.clone();
                        let query =
                            ListQuery { user_id, statuses, created_after, created_before, oldest_first, ..ALL };
                        let want = expected(&orders, &query);
                        some += usize::from(want.len() > 4);
                        assert_eq!(walk(&store, &query).await, want, "{query:?}");
                    }
                }
            }
        }
    }
    assert!(some > 10, "too few of these have more than one page");
    // A cursor outside the range does not widen it.
    for (oldest_first, outside) in [(false, at(80)), (true, at(-80))] {
        let after = Some(ListCursor { created_at: outside, id: id(1) });
        let range = (Some(at(9)), Some(at(12)));
        let query =
            ListQuery { created_after: range.0, created_before: range.1, oldest_first, after, limit: 200, ..ALL };
        assert_eq!(walk(&store, &query).await, expected(&orders, &query));
    }
    store.close().await;
}

pub(super) async fn statuses_are_merged_in_order<F: StoreFactory>() {
    let (_files, store, orders) = filled::<F>().await;
    for oldest_first in [false, true] {
        let query = ListQuery { statuses: OrderStatus::ALL.to_vec(), oldest_first, ..ALL };
        assert_eq!(walk(&store, &query).await, expected(&orders, &query));
    }
    store.close().await;
}

pub(super) async fn a_spoiled_order_does_not_shorten_a_page<F: StoreFactory>() {
    let (files, store, mut orders) = filled::<F>().await;
    let spoiled = [id(90), id(88), id(87), id(86), id(41)];
    for order in spoiled {
        files.spoil(order).await;
    }
    orders.retain(|order| !spoiled.contains(&order.id));
    let query = ListQuery { limit: 4, ..ALL };
    assert_eq!(store.list(&query).await.unwrap().len(), 4);
    assert_eq!(walk(&store, &query).await, expected(&orders, &query));
    store.close().await;
}
