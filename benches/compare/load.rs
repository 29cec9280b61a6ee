//! The service under load: a node in this process on a database of a private server, and clients beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use order_service::proto::order as pb;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::transport::Channel;

use crate::support::harness::node::{TestNode, sample_order};
use crate::support::{Run, drive};

/// Connections of the clients to the node.
const CONNECTIONS: usize = 4;

/// Settings that the environment has for the node, so that a run can try others.
pub fn told() -> Vec<(String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with("ORDER__")).collect()
}

/// A node and clients of it.
pub struct Load {
    pub node: TestNode,
    clients: Vec<OrderServiceClient<Channel>>,
    /// Where its simulator keeps its journal.
    _folder: TempDir,
}

impl Load {
    /// On the database at `url`, with defaults but for `settings` and what the environment says.
    pub async fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let journal = folder.path().join("simulator.jsonl").display().to_string();
        let own = [("ORDER__STORE__URL", url), ("ORDER__SIMULATOR__JOURNAL", &journal)];
        let told = told();
        let told: Vec<(&str, &str)> = told.iter().map(|(name, value)| (&**name, &**value)).collect();
        let node = TestNode::start_with(&[&own, settings, &told].concat()).await;
        let address = format!("http://{}", node.node().grpc_address());
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(OrderServiceClient::connect(address.clone()).await.unwrap());
        }
        Self { node, clients, _folder: folder }
    }

    /// Orders that settle, `in_flight` at once.
    pub async fn create(&self, in_flight: usize, total: usize) -> Run {
        drive(&self.clients, in_flight, total, |mut client, _| async move {
            let order = client.create_order(sample_order()).await.unwrap().into_inner();
            assert_eq!(order.status(), pb::OrderStatus::Confirmed);
        })
        .await
    }

    /// Has every server process of this node work once more, a second later: only then have they counted all before.
    /// Returns the number of orders this took.
    pub async fn nudge(&self) -> usize {
        const NUDGES: usize = 16;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.create(NUDGES, NUDGES).await.done
    }

    /// Creates orders until `orders` of them are known by id.
    pub async fn ids(&self, orders: usize) -> Vec<String> {
        let mut ids = Vec::new();
        for _ in 0..orders {
            ids.push(self.node.client().create_order(sample_order()).await.unwrap().into_inner().id);
        }
        ids
    }

    /// Waits until no order is live.
    pub async fn passive(&self) {
        let start = Instant::now();
        while self.node.node().orders().counts().live > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(start.elapsed() < Duration::from_secs(60), "actors are left behind");
        }
    }

    /// Reads orders, `in_flight` at once.
    pub async fn get(&self, ids: &Arc<Vec<String>>, in_flight: usize, total: usize) -> Run {
        let ids = Arc::clone(ids);
        drive(&self.clients, in_flight, total, move |mut client, number| {
            let key = Some(pb::get_order_request::Key::Id(ids[number % ids.len()].clone()));
            async move {
                client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await.unwrap();
            }
        })
        .await
    }

    /// First pages of all orders, `in_flight` at once.
    pub async fn list(&self, in_flight: usize, total: usize) -> Run {
        drive(&self.clients, in_flight, total, |mut client, _| async move {
            let page = client.list_orders(pb::ListOrdersRequest::default()).await.unwrap().into_inner();
            assert!(!page.orders.is_empty() && !page.next_page_token.is_empty());
        })
        .await
    }

    /// Orders without an end, `in_flight` at once, for `time`; calls that fail are repeated. When each of them was
    /// settled, and the number of calls that failed.
    pub async fn create_for(&self, in_flight: usize, time: Duration) -> (Vec<Instant>, usize) {
        let until = Instant::now() + time;
        let failed = Arc::new(AtomicUsize::new(0));
        let mut workers = Vec::new();
        for worker in 0..in_flight {
            let mut client = self.clients[worker % self.clients.len()].clone();
            let failed = Arc::clone(&failed);
            workers.push(tokio::spawn(async move {
                let mut settled = Vec::new();
                while Instant::now() < until {
                    let order = sample_order();
                    // A repeat is the same order.
                    while Instant::now() < until {
                        match client.create_order(order.clone()).await {
                            Ok(answer) if answer.get_ref().status() == pb::OrderStatus::Confirmed => {
                                settled.push(Instant::now());
                                break;
                            }
                            Ok(_) => {}
                            Err(_) => {
                                failed.fetch_add(1, Ordering::Relaxed);
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                        }
                    }
                }
                settled
            }));
        }
        let mut settled = Vec::new();
        for worker in workers {
            settled.extend(worker.await.unwrap());
        }
        settled.sort_unstable();
        (settled, failed.load(Ordering::Relaxed))
    }

    /// The store's batches so far: how many, how many changes in them, and how many seconds they took.
    pub async fn batches(&self) -> Batches {
        let mut stream = tokio::net::TcpStream::connect(self.node.node().ops_address()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let figure = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        Batches {
            count: figure("order_store_batch_size_count"),
            changes: figure("order_store_batch_size_sum"),
            seconds: figure("order_store_batch_seconds_sum"),
        }
    }

    pub async fn stop(self) {
        drop(self.clients);
        self.node.stop().await;
    }
}

/// What a store has written.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    count: f64,
    changes: f64,
    seconds: f64,
}

impl Batches {
    pub fn until(&self, later: &Self) -> String {
        let count = later.count - self.count;
        format!(
            "{count:.0} batches of {:.1} changes, {:.2} ms each",
            (later.changes - self.changes) / count,
            (later.seconds - self.seconds) / count * 1e3
        )
    }
}
