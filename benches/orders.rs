//! Where time goes: `react` alone, and one create or get through gRPC at a time.
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

use criterion::{Criterion, criterion_group, criterion_main};
use order_service::domain::command::OrderCommand;
use order_service::domain::react::{Input, Reaction, react};
use order_service::proto::order as pb;
use support::harness::node::{TestNode, sample_order};
use support::harness::{Wish, ask, dawn, policy};

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
    criterion.bench_function("get: a live order, one at a time", |bench| {
        bench.to_async(&runtime).iter(|| {
            let (mut client, key) = (client.clone(), Some(pb::get_order_request::Key::Id(order.id.clone())));
            async move { client.get_order(pb::GetOrderRequest { key, allow_stale: false }).await.unwrap() }
        });
    });
    runtime.block_on(node.stop());
}

criterion_group!(all, benches);
criterion_main!(all);
