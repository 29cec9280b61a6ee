//! Where time goes: the parts alone, and one create or get through gRPC at a time: `cargo bench --bench orders`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

mod support;

use std::hint::black_box;
use std::time::Duration;

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use order_service::cluster::Ring;
use order_service::domain::command::OrderCommand;
use order_service::domain::react::{Input, Reaction, react};
use order_service::ports::store::Owner;
use order_service::proto::answer;
use order_service::proto::order as pb;
use order_service::store::committer::{BatchError, BatchWriter, Committer, Done, Job, JobResult, Limits};
use prost::Message;
use support::harness::node::{TestNode, sample_order};
use support::harness::{Wish, ask, dawn, policy};

/// Writes nothing.
struct Nowhere;

#[async_trait]
impl BatchWriter for Nowhere {
    async fn write(&mut self, jobs: &[Job]) -> Result<Vec<JobResult>, BatchError> {
        Ok(jobs.iter().map(|_| Ok(Done::Claimed)).collect())
    }

    async fn close(&mut self) {}
}

/// Parts that need no node.
fn parts(criterion: &mut Criterion) {
    for nodes in [5, 64] {
        let names: Vec<String> = (1..=nodes).map(|number| format!("node-{number}")).collect();
        criterion.bench_function(&format!("ring: of {nodes} nodes, and a place for each slot"), |bench| {
            bench.iter(|| Ring::new(names.iter().enumerate().map(|(index, name)| (name.as_str(), 1, index))));
        });
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let limits = Limits { batch_max: 256, queue_max: 16_384, lane_jobs: 64, gather: Duration::ZERO };
    let committer = runtime.block_on(async { Committer::start(vec![Box::new(Nowhere)], limits) });
    let jobs: Vec<Job> = (0..64)
        .map(|_| Job::Claim {
            id: uuid::Uuid::now_v7().to_string().parse().unwrap(),
            owner: Owner { epoch: 1, incarnation: 1 },
        })
        .collect();
    criterion.bench_function("committer: 64 changes at once, written nowhere", |bench| {
        bench.to_async(&runtime).iter(|| {
            let waiting: Vec<_> = jobs.iter().map(|job| committer.run(job.clone())).collect();
            async move { futures::future::join_all(waiting).await }
        });
    });
    runtime.block_on(committer.close());
}

/// An answer as a message, and as what it is sent as.
fn conversion(criterion: &mut Criterion, order: &pb::Order) {
    let answer = answer::Order::from(order.clone());
    criterion.bench_function("conversion: an order to bytes", |bench| {
        bench.iter(|| black_box(&answer).encode_to_vec());
    });
    let bytes = order.encode_to_vec();
    criterion.bench_function("conversion: an order from bytes", |bench| {
        bench.iter(|| pb::Order::decode(black_box(&*bytes)).unwrap());
    });
}

fn benches(criterion: &mut Criterion) {
    let draft = Wish::plain().draft(1);
    criterion.bench_function("react: a new order to its first call", |bench| {
        bench.iter(|| {
            let command = OrderCommand::Create(Box::new(draft.clone()));
            let input = Input::Command { ask: ask(command, None, None), calling: false };
            match react(None, None, black_box(input), dawn(), &policy()) {
                Ok(Reaction::Commit(change)) => change,
                other => panic!("{other:?}"),
            }
        });
    });

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let node = runtime.block_on(TestNode::start());
    let client = node.client();
    criterion.bench_function("create: gRPC to settled, one at a time", |bench| {
        bench.to_async(&runtime).iter(|| {
            let mut client = client.clone();
            async move { client.create_order(sample_order()).await.unwrap() }
        });
    });
    let order = runtime.block_on(client.clone().create_order(sample_order())).unwrap().into_inner();
    conversion(criterion, &order);
    criterion.bench_function("get: a live order, one at a time", |bench| {
        bench.to_async(&runtime).iter(|| {
            let (mut client, key) = (client.clone(), Some(pb::get_order_request::Key::Id(order.id.clone())));
            async move { client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await.unwrap() }
        });
    });
    runtime.block_on(node.stop());
}

criterion_group!(all, parts, benches);
criterion_main!(all);
