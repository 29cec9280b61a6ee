//! Many watchers of one order, slow ones among them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use order_service::grpc::WatchLimits;
use order_service::proto::order as pb;
use order_service::proto::served::order_service_server::OrderService;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Request, Status};

use crate::harness::api::read_refusal;
use crate::harness::api_in_process::Service;
use crate::harness::node::sample_order;
use crate::harness::wait::{PATIENCE, eventually};

type Stream = <order_service::grpc::OrderApi as OrderService>::WatchOrderStream;

/// No test waits for so long.
const NEVER: Duration = Duration::from_secs(600);

/// A service with an order that has come to rest, and that order.
async fn with_order(max_watchers: usize, buffer: usize, slow_after: Duration) -> (Service, pb::Order) {
    let service = Service::start(max_watchers, WatchLimits { buffer, slow_after }).await;
    let order =
        service.api.create_order(Request::new(sample_order())).await.unwrap().into_inner().read().unwrap();
    assert_eq!(order.status(), pb::OrderStatus::Confirmed);
    (service, order)
}

async fn try_watch(service: &Service, order: &pb::Order, after_sequence: i64) -> Result<Stream, Status> {
    let request = pb::WatchOrderRequest { order_id: order.id.clone(), after_sequence };
    Ok(service.api.watch_order(Request::new(request)).await?.into_inner())
}

async fn watch(service: &Service, order: &pb::Order, after_sequence: i64) -> Stream {
    try_watch(service, order, after_sequence).await.unwrap()
}

/// Makes one more event.
async fn happen(service: &Service, order: &pb::Order) {
    let request = pb::HoldOrderRequest { id: order.id.clone(), reason: "again".into(), ..Default::default() };
    service.api.hold_order(Request::new(request)).await.unwrap();
}

/// The whole history's length.
async fn last_sequence(service: &Service, order: &pb::Order) -> i64 {
    let request = pb::ListOrderEventsRequest {
        order_id: order.id.clone(),
        after_sequence: 0,
        page_size: 200,
        page_token: String::new(),
    };
    let page = service.api.list_order_events(Request::new(request)).await.unwrap().into_inner();
    page.events.last().unwrap().sequence
}

/// The next event's sequence, or why there is none.
async fn next(stream: &mut Stream) -> Result<i64, Status> {
    let answer = timeout(PATIENCE, stream.next()).await.unwrap().unwrap()?;
    let (event, order) = (answer.event.unwrap(), answer.order.unwrap());
    assert!(order.version >= event.version && order.id == event.order_id);
    Ok(event.sequence)
}

/// Reads until the stream ends with a refusal.
async fn to_the_end(stream: &mut Stream) -> (Vec<i64>, Status) {
    let mut seen = Vec::new();
    loop {
        match next(stream).await {
            Ok(sequence) => seen.push(sequence),
            Err(status) => {
                assert!(timeout(PATIENCE, stream.next()).await.unwrap().is_none(), "after its end");
                return (seen, status);
            }
        }
    }
}

/// What a watcher that was dropped is told: behind which event to go on.
#[track_caller]
fn resume_after(status: &Status) -> i64 {
    let refusal = read_refusal(status, Code::ResourceExhausted, "OVERLOADED");
    assert!(refusal.retry);
    refusal.metadata["resume_after_sequence"].parse().unwrap()
}

#[tokio::test]
async fn many_watchers_of_one_order_cost_one_read() {
    let (service, order) = with_order(100, 16, NEVER).await;
    let last = last_sequence(&service, &order).await;
    let before = service.reads();
    let mut streams = Vec::new();
    for _ in 0..25 {
        streams.push(watch(&service, &order, last).await);
    }
    // The feed looks once by itself, for what came while it was begun.
    let one_more = (before.0 + 1, before.1);
    eventually("the feed's first read", async || (service.reads() == one_more).then_some(())).await;
    for count in 1..=10 {
        happen(&service, &order).await;
        for stream in &mut streams {
            assert_eq!(next(stream).await.unwrap(), last + count);
        }
        assert_eq!(service.reads(), (one_more.0 + count as usize, one_more.1), "event {count}");
    }
    // Whoever comes later reads by itself what it missed, and no more than that.
    let mut late = watch(&service, &order, 0).await;
    for sequence in 1..=last + 10 {
        assert_eq!(next(&mut late).await.unwrap(), sequence);
    }
    let reads = service.reads();
    assert_eq!(reads, (one_more.0 + 11, one_more.1));
    streams.push(late);
    happen(&service, &order).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.unwrap(), last + 11);
    }
    assert_eq!(service.reads(), (reads.0 + 1, reads.1));
    assert_eq!(service.orders.watched(), 1);
    drop(streams);
    eventually("the end of the feed", async || (service.orders.watched() == 0).then_some(())).await;
    happen(&service, &order).await;
    assert_eq!(service.reads(), (reads.0 + 1, reads.1), "nobody watches");
    service.stop().await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_and_can_resume() {
    let (service, order) = with_order(2, 4, Duration::from_millis(20)).await;
    let last = last_sequence(&service, &order).await;
    let mut lazy = watch(&service, &order, last).await;
    let mut keen = watch(&service, &order, last).await;
    assert!(try_watch(&service, &order, last).await.is_err(), "two places");
    for count in 1..=12 {
        happen(&service, &order).await;
        assert_eq!(next(&mut keen).await.unwrap(), last + count);
    }
    // Its place is free although its reader never reads.
    let third = eventually("a free place", async || try_watch(&service, &order, 0).await.ok()).await;
    let (seen, status) = to_the_end(&mut lazy).await;
    assert_eq!(seen, [last + 1, last + 2, last + 3, last + 4], "what its buffer held");
    assert_eq!(resume_after(&status), last + 4);
    drop(third);
    let mut resumed = eventually("a place", async || try_watch(&service, &order, last + 4).await.ok()).await;
    for count in 5..=12 {
        assert_eq!(next(&mut resumed).await.unwrap(), last + count);
    }
    happen(&service, &order).await;
    assert_eq!(next(&mut keen).await.unwrap(), last + 13, "the others never noticed");
    assert_eq!(next(&mut resumed).await.unwrap(), last + 13);
    service.stop().await;
}

#[tokio::test]
async fn a_watcher_that_has_got_nothing_resumes_where_it_began() {
    let (service, order) = with_order(1, 1, Duration::from_millis(20)).await;
    // The first event fills the buffer, the second never gets there.
    let mut stream = watch(&service, &order, 0).await;
    let again = eventually("a free place", async || try_watch(&service, &order, 0).await.ok()).await;
    let (seen, status) = to_the_end(&mut stream).await;
    assert_eq!((seen.as_slice(), resume_after(&status)), (&[1][..], 1));
    drop(again);
    service.stop().await;
}

#[tokio::test]
async fn a_watcher_that_is_left_behind_by_its_feed_is_dropped_and_can_resume() {
    let (service, order) = with_order(10, 1, NEVER).await;
    let last = last_sequence(&service, &order).await;
    let mut slow = watch(&service, &order, last).await;
    // One event that it has, so that it is not on its way to the feed any more.
    happen(&service, &order).await;
    assert_eq!(next(&mut slow).await.unwrap(), last + 1);
    for _ in 0..20 {
        happen(&service, &order).await;
    }
    let reads = eventually("the feed's last read", async || {
        let mut keen = watch(&service, &order, last + 20).await;
        (next(&mut keen).await.unwrap() == last + 21).then(|| service.reads())
    })
    .await;
    let (mut seen, status) = to_the_end(&mut slow).await;
    let resume = resume_after(&status);
    assert_eq!(seen, (last + 2..=resume).collect::<Vec<_>>());
    assert!(resume < last + 21);
    assert_eq!(service.reads(), reads, "who is slow has nothing read again");
    let mut resumed = watch(&service, &order, resume).await;
    while seen.last() != Some(&(last + 21)) {
        seen.push(next(&mut resumed).await.unwrap());
    }
    assert_eq!(seen, (last + 2..=last + 21).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test]
async fn whoever_reads_a_long_history_is_not_dropped_for_what_happens_meanwhile() {
    let (service, order) = with_order(10, 2, NEVER).await;
    for _ in 0..110 {
        happen(&service, &order).await;
    }
    // Reads the first event only; then more happens than the feed keeps.
    let mut stream = watch(&service, &order, 0).await;
    assert_eq!(next(&mut stream).await.unwrap(), 1);
    for _ in 0..10 {
        happen(&service, &order).await;
    }
    let last = last_sequence(&service, &order).await;
    for sequence in 2..=last {
        assert_eq!(next(&mut stream).await.unwrap(), sequence);
    }
    happen(&service, &order).await;
    assert_eq!(next(&mut stream).await.unwrap(), last + 1);
    // Whoever asks for what is not there yet gets it when it is, and nothing before.
    let mut ahead = watch(&service, &order, last + 3).await;
    for count in 2..=4 {
        happen(&service, &order).await;
        assert_eq!(next(&mut stream).await.unwrap(), last + count);
    }
    assert_eq!(next(&mut ahead).await.unwrap(), last + 4);
    service.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_ends_the_watchers_and_the_next_ones_see_all() {
    let (service, order) = with_order(10, 16, NEVER).await;
    let last = last_sequence(&service, &order).await;
    let mut streams = [watch(&service, &order, last).await, watch(&service, &order, last).await];
    happen(&service, &order).await;
    for stream in &mut streams {
        assert_eq!(next(stream).await.unwrap(), last + 1);
    }
    service.store.is_broken.store(true, Ordering::SeqCst);
    happen(&service, &order).await;
    for stream in &mut streams {
        let (seen, status) = to_the_end(stream).await;
        assert!(seen.is_empty(), "{seen:?}");
        assert!(read_refusal(&status, Code::Unavailable, "STORAGE_UNAVAILABLE").retry);
    }
    service.store.is_broken.store(false, Ordering::SeqCst);
    let mut again = watch(&service, &order, last + 1).await;
    assert_eq!(next(&mut again).await.unwrap(), last + 2);
    service.stop().await;
}

#[tokio::test]
async fn a_stopping_service_tells_also_those_who_do_not_read() {
    let (service, order) = with_order(10, 1, NEVER).await;
    let mut stream = watch(&service, &order, 0).await;
    assert_eq!(next(&mut stream).await.unwrap(), 1);
    service.stop().await;
    let (seen, status) = to_the_end(&mut stream).await;
    assert!(seen.len() <= 1, "{seen:?}");
    assert!(read_refusal(&status, Code::Unavailable, "SHUTTING_DOWN").retry);
}
