//! Customers who order without a pause while a test does harm, and what has to be true afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use order_service::proto::order::OrderStatus;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use super::invariants::{acknowledged, check, gather};
use super::process::{NodeProcess, Simulate};
use super::scenarios::{Customer, SCENARIOS};
use super::wait::eventually;

/// Customers who order at the same time.
const CUSTOMERS: u64 = 32;

/// Settings of a node that tries again soon.
pub const QUICK: &[(&str, &str)] = &[
    ("ORDER__GRPC__DEFAULT_DEADLINE", "20s"),
    ("ORDER__SAGA__RETRY_INITIAL", "10ms"),
    ("ORDER__SAGA__RETRY_MAX", "200ms"),
    ("ORDER__SAGA__FORWARD_TRIES", "1000"),
    ("ORDER__SAGA__CHARGE_SETTLE_LAG", "3s"),
    ("ORDER__COLLABORATORS__BREAKER_OPEN_FOR", "100ms"),
];

/// Customers who order one thing after the other, from whichever node is there, and repeat what is not answered.
pub struct Load {
    node: watch::Receiver<OrderServiceClient<Channel>>,
    numbers: AtomicU64,
    answered: AtomicU64,
    enough: AtomicBool,
}

impl Load {
    /// Customers of the node that is in here.
    pub fn new(node: watch::Receiver<OrderServiceClient<Channel>>) -> Self {
        Self { node, numbers: AtomicU64::new(1), answered: AtomicU64::new(0), enough: AtomicBool::new(false) }
    }

    /// Orders until there is enough; every order is answered in the end.
    pub async fn run(&self) -> Vec<Customer> {
        let customers = (0..CUSTOMERS).map(|_| async {
            let mut all = Vec::new();
            while !self.enough.load(Ordering::Relaxed) {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                let mut customer = Customer::new(SCENARIOS[0], number);
                eventually("an answer", async || {
                    let client = self.node.borrow().clone();
                    match customer.repeat(&client).await.remove(0) {
                        Ok(_) => Some(()),
                        // The connection broke, or the node is on its way out: that is no answer.
                        Err((Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal, _)) => {
                            None
                        }
                        Err(refusal) => panic!("refused: {refusal:?}"),
                    }
                })
                .await;
                self.answered.fetch_add(1, Ordering::Relaxed);
                all.push(customer);
            }
            all
        });
        join_all(customers).await.into_iter().flatten().collect()
    }

    /// Lets everyone finish what they have begun, and order no more.
    pub fn enough(&self) {
        self.enough.store(true, Ordering::Relaxed);
    }

    /// Waits for this many more answers.
    pub async fn more(&self, answers: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + answers;
        eventually("more answers", async || (self.answered.load(Ordering::Relaxed) >= goal).then_some(()))
            .await;
    }
}

/// Everything that was answered is there once, has come to rest, and keeps every law.
pub async fn audit(node: &NodeProcess, simulate: &Simulate, customers: &[Customer]) {
    let client = node.client();
    let one = async |customer: &Customer| {
        let id = customer.order_id.clone().unwrap();
        let order = customer.order(&client).await;
        assert_eq!(order.map(|order| order.id).as_ref(), Some(&id), "I1: an acknowledged order is gone");
        customer.settled(&client).await;
        let evidence = gather(&client, &id, (&simulate.ledger(&id).await).into()).await;
        let law = customer
            .acknowledged
            .iter()
            .fold(check(&evidence), |law, order| law.and_then(|()| acknowledged(order, &evidence)));
        assert_eq!(law, Ok(()), "{evidence:#?}");
        assert_eq!(evidence.order.status(), OrderStatus::Confirmed, "{evidence:#?}");
    };
    stream::iter(customers).for_each_concurrent(8, one).await;
}
