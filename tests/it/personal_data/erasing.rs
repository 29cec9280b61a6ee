//! Erasing a user: what is gone then, and what makes it incomplete.

use order_service::clients::sim::catalogue::load_user;
use order_service::proto::order as pb;
use order_service::proto::order::OrderStatus::{Cancelled, Confirmed, Delivered};
use order_service::proto::order::PersonalData;
use order_service::proto::simulator as sim;

use super::{
    ENCRYPT, NAMES, SAID, blob, cancel, create, found, get, in_file, live, ops, program, shown, wish, with,
};
use crate::harness::api::{by_id, eventually};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::postgres::{PgServer, query};
use crate::harness::process::{NodeProcess, Simulate};
use crate::harness::redis::RedisServer;
use crate::harness::stores::verified;

fn metadata() -> (String, String) {
    (String::from("gift-from"), String::from("Arthur Dentist"))
}

async fn erased(url: Option<String>) {
    let simulate = Simulate::start().await;
    let node = NodeProcess::start_on(url, &simulate, &with(&[]), &[]).await;
    let [one, other] = live(&node).await;
    let marked = pb::CreateOrderRequest { metadata: [metadata()].into(), ..wish() };
    let marked = node.client().create_order(marked).await.unwrap().into_inner();
    assert_eq!(get(&node, &marked.id).await.metadata.len(), 1);
    cancel(&node, &marked.id, "").await;
    let before = get(&node, &one).await;
    let neighbor = pb::CreateOrderRequest { user_id: load_user(1).0.to_string(), ..wish() };
    let neighbor = node.client().create_order(neighbor).await.unwrap().into_inner();
    let open = create(&node).await;
    let user = wish().user_id;
    let erase = ["erase-user", &user, "--reason", "request 4711", "--by", "ada", "--yes"];
    let (code, _) = ops(&node, &erase);
    assert_eq!(code, Some(1), "an order is not finished");
    assert_eq!(get(&node, &one).await.personal_data(), PersonalData::Available);
    cancel(&node, &open.id, "").await;

    let (code, proof) = ops(&node, &erase);
    assert_eq!((code, &proof["erased"], &proof["orders"]), (Some(0), &true.into(), &4.into()), "{proof}");
    assert_eq!(proof["destroyed_keys"].as_array().unwrap().len(), 1, "{proof}");
    assert_eq!(proof["encrypted_texts_readable"], 0, "{proof}");
    // Two addresses and the notes of each order, what was said of two of them, and twice of the one that was canceled.
    assert_eq!(proof["encrypted_texts_tried"], 16, "{proof}");
    for id in [&one, &other, &open.id, &marked.id] {
        let order = get(&node, id).await;
        assert!(order.metadata.is_empty(), "{order:?}");
        assert_eq!(order.personal_data(), PersonalData::Erased);
        let seen = shown(&node, id).await;
        assert!(!NAMES.iter().chain(&SAID).any(|text| seen.contains(text)), "{seen}");
        assert_eq!((order.addresses[0].city.as_str(), order.addresses[0].postal_code.as_str()), ("", "100"));
        assert_eq!(order.addresses[0].country, "US");
    }
    let after = get(&node, &one).await;
    assert_eq!((&after.total_amount, after.status()), (&before.total_amount, Delivered));
    assert_eq!((&after.items, &after.balance), (&before.items, &before.balance));
    assert_eq!(get(&node, &neighbor.id).await.personal_data(), PersonalData::Available);
    // Whoever orders again has a new key, and what happened before stays gone.
    let again = create(&node).await;
    assert_eq!(get(&node, &again.id).await.addresses[0].first_name, NAMES[0]);
    let node = node.restart(&[]).await;
    assert_eq!(get(&node, &one).await.personal_data(), PersonalData::Erased);
    assert!(get(&node, &marked.id).await.metadata.is_empty(), "not in the store either");
    assert_eq!(get(&node, &again.id).await.addresses[0].first_name, NAMES[0]);
    verified(&node, 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_erased_on_sqlite() {
    erased(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_erased_on_postgres() {
    let server = PgServer::start(&[]).await;
    let url = server.create_database().await;
    erased(Some(url.clone())).await;
    let row = "SELECT principal, wanted_by, reason, keys FROM erasures";
    assert_eq!(query(&url, row).await.unwrap(), [["dev", "ada", "request 4711", "1"]]);
}

/// Copies are replaced where an order changes, and the first of these does not change any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_erased_is_in_no_copy_in_redis() {
    let (redis, simulate) = (RedisServer::start().await, Simulate::start().await);
    let url = redis.url();
    let mut settings: Vec<(&str, &str)> = ENCRYPT.to_vec();
    settings.extend([("ORDER__CACHE__URL", url.as_str()), ("ORDER__CACHE__TIMEOUT", "1s")]);
    let mut node = NodeProcess::start(&simulate, &settings).await;
    let (names, mut ids) = (["Arthur Dentist", "Ford Perfect"], Vec::new());
    for name in names {
        let metadata = [(String::from("gift-from"), String::from(name))].into();
        let wish = pb::CreateOrderRequest { metadata, ..wish() };
        let order = node.client().create_order(wish).await.unwrap().into_inner();
        cancel(&node, &order.id, "").await;
        ids.push(order.id);
    }
    node.kill9().await;
    // As a change leaves it that is stored when the keys are gone.
    let without = "first_name = '', last_name = '', address_line1 = '', address_line2 = NULL, city = '', state = '', \
                   phone = NULL, email = NULL";
    let first = blob(&ids[0]);
    let sql = format!(
        "UPDATE order_addresses SET {without} WHERE order_id = {first}; UPDATE orders SET notes = '' WHERE id = {first}"
    );
    in_file(&node, &sql).await;
    let node = node.restart(&[]).await;
    let in_redis = async || {
        let saved = redis.save().await;
        names.map(|name| saved.windows(name.len()).any(|window| window == name.as_bytes()))
    };
    let user = wish().user_id;
    let listed = async |node: &NodeProcess| {
        let request = pb::ListOrdersRequest { user_id: user.clone(), ..Default::default() };
        node.client().list_orders(request).await.unwrap().into_inner().orders
    };
    let late = async |node: &NodeProcess, id: &str| {
        let request = pb::GetOrderRequest { allow_stale: true, ..by_id(id) };
        node.client().get_order(request).await.unwrap().into_inner()
    };
    let copied = async || {
        for id in &ids {
            assert_eq!(late(&node, id).await.metadata.len(), 1);
        }
        (in_redis().await == [true, true]).then_some(())
    };
    eventually("the metadata to be in Redis", copied).await;

    let (code, proof) = ops(&node, &["erase-user", &user, "--reason", "request 4711", "--yes"]);
    assert_eq!((code, &proof["erased"]), (Some(0), &true.into()), "{proof}");
    eventually("the metadata to be gone", async || (in_redis().await == [false, false]).then_some(())).await;
    let mut node = node;
    for _ in 0..2 {
        for id in &ids {
            for order in [get(&node, id).await, late(&node, id).await] {
                assert!(order.metadata.is_empty(), "{order:?}");
                assert_eq!(order.personal_data(), PersonalData::Erased);
            }
        }
        assert!(listed(&node).await.iter().all(|order| order.metadata.is_empty()));
        node.kill9().await;
        node = node.restart(&[]).await;
    }
    assert_eq!(in_redis().await, [false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_through_any_node_reaches_the_owner() {
    let cluster = Cluster::start(Plan { settings: ENCRYPT, ..Plan::of(2) }).await;
    let mut owned = [false, false];
    // Until each node has owned the orders of some user.
    for number in 1.. {
        let request = pb::CreateOrderRequest { user_id: load_user(number).0.to_string(), ..wish() };
        let user = request.user_id.clone();
        let order = cluster.client(0).create_order(request).await.unwrap().into_inner();
        owned[cluster.owners(std::slice::from_ref(&order.id)).await[0].unwrap()] = true;
        let cancel = pb::CancelOrderRequest { id: order.id.clone(), ..Default::default() };
        cluster.client(1).cancel_order(cancel).await.unwrap();
        for node in [0, 1] {
            let order = cluster.client(node).get_order(by_id(&order.id)).await.unwrap().into_inner();
            assert_eq!(order.addresses[0].first_name, NAMES[0], "through node {node}");
        }
        let server = cluster.ops_url(1);
        let words = ["ops", "erase-user", &user, "--reason", "r", "--yes", "--server", &server, "-o", "json"];
        let (code, proof) = program(&words, &[]);
        assert_eq!(code, Some(0), "{proof}");
        for node in [0, 1] {
            let order = cluster.client(node).get_order(by_id(&order.id)).await.unwrap().into_inner();
            assert_eq!(order.personal_data(), PersonalData::Erased, "through node {node}");
            assert!(!NAMES.iter().any(|text| format!("{order:?}{}", order.notes).contains(text)));
        }
        if owned == [true, true] {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_running_saga_was_told_does_not_come_back() {
    let simulate = Simulate::start().await;
    let hasty = [("ORDER__CREATE__WAIT", "200ms"), ("ORDER__SAGA__RETRY_MAX", "100ms")];
    let hasty: Vec<_> = hasty.into_iter().chain([("ORDER__SAGA__RETRY_INITIAL", "50ms")]).collect();
    let node = NodeProcess::start(&simulate, &with(&hasty)).await;
    let order = create(&node).await;
    // An order that is not charged yet is canceled without a refund.
    eventually("a confirmed order", async || {
        (get(&node, &order.id).await.status() == Confirmed).then_some(())
    })
    .await;
    let away = sim::Faults { method: "payment.Refund".into(), unavailable: true, ..Default::default() };
    simulate.set_faults(vec![away]).await;
    assert_ne!(cancel(&node, &order.id, SAID[2]).await.status(), Cancelled);
    assert!(shown(&node, &order.id).await.contains(SAID[2]));
    let user = wish().user_id;
    let (code, proof) = ops(&node, &["erase-user", &user, "--reason", "r", "--force", "--yes"]);
    assert_eq!((code, &proof["erased"]), (Some(0), &true.into()), "{proof}");
    // The user has a key again, by which the saga's note could be kept.
    let again = create(&node).await;
    assert_eq!(get(&node, &again.id).await.personal_data(), PersonalData::Available);
    simulate.set_faults(Vec::new()).await;
    eventually("the saga to end", async || (get(&node, &order.id).await.status() == Cancelled).then_some(()))
        .await;
    let seen = shown(&node, &order.id).await;
    assert!(!seen.contains(SAID[2]) && !NAMES.iter().any(|name| seen.contains(name)), "{seen}");
    verified(&node, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_plain_in_the_history_is_no_erasure() {
    let simulate = Simulate::start().await;
    let mut node = NodeProcess::start(&simulate, &[]).await;
    let order = create(&node).await;
    cancel(&node, &order.id, SAID[2]).await;
    node.kill9().await;
    let mut node = node.restart(ENCRYPT).await;
    let user = wish().user_id;
    let erase = ["erase-user", &user, "--reason", "request 4711", "--yes"];
    for _ in 0..2 {
        let (code, proof) = ops(&node, &erase);
        assert_eq!((code, &proof["erased"]), (Some(1), &false.into()), "{proof}");
        assert!(proof["plain_texts_in_history"].as_i64().unwrap() >= 1, "{proof}");
    }
    assert!(shown(&node, &order.id).await.contains(SAID[2]), "which is so");
    node.kill9().await;
    // The owner of the tables blanks them, past the triggers that keep them.
    for (table, blank) in [
        ("order_events", "payload = json_set(payload, '$.notes', '') WHERE payload ->> 'notes' <> ''"),
        ("order_status_history", "notes = ''"),
    ] {
        let blank = format!(
            "BEGIN; DROP TRIGGER {table}_keep; UPDATE {table} SET {blank}; \
             CREATE TRIGGER {table}_keep BEFORE UPDATE ON {table} \
             BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END; COMMIT"
        );
        in_file(&node, &blank).await;
    }
    let mut node = node.restart(ENCRYPT).await;
    let (code, proof) = ops(&node, &erase);
    assert_eq!((code, &proof["erased"]), (Some(0), &true.into()), "{proof}");
    assert!(!shown(&node, &order.id).await.contains(SAID[2]));
    node.kill9().await;
    let all: Vec<&str> = NAMES.iter().chain(&SAID).copied().collect();
    in_file(&node, "VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").await;
    assert_eq!(found(&node.folder(), &all), Vec::<String>::new());
}
