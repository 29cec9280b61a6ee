//! `order watch`.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::view::{EventJson, OrderJson};
use super::{ClientFailure, OrderKey, Session, history, interrupted, print, print_line, table, tell};
use crate::clients::orders::{ApiError, OrdersClient};
use crate::proto::order::{Order, OrderEvent, OrderStatus};

/// How often in a row a broken stream is taken up again.
const MAX_RECONNECTS: u32 = 10;
/// Pause before the first reconnect; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause before a reconnect.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Args, Debug)]
#[command(after_help = "\
With -o json every line is one JSON object {\"event\", \"order\"}. A broken connection is taken up again \
behind the last event that was shown.

Examples:
  order-service order watch ORD-7K3M9Q2XYZ
  order-service order watch ORD-7K3M9Q2XYZ --after-sequence 12 -o json")]
pub(super) struct WatchArgs {
    /// The order's id or number.
    #[arg(value_name = "ORDER", value_parser = OrderKey::parse)]
    order: OrderKey,
    /// Only events behind this sequence.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    after_sequence: i64,
}

pub(super) async fn run(session: &Session, arguments: WatchArgs) -> Result<(), ClientFailure> {
    tokio::select! {
        outcome = follow(session, arguments) => outcome,
        () = interrupted() => Ok(()),
    }
}

async fn follow(session: &Session, arguments: WatchArgs) -> Result<(), ClientFailure> {
    let mut client = session.connect().await?;
    let order = client.get(arguments.order.into_request()).await?;
    let mut watcher =
        Watcher { session, id: order.id.clone(), last: arguments.after_sequence, reconnects: 0 };
    if is_terminal(&order) {
        return watcher.show_rest(&mut client, &order).await;
    }
    loop {
        let error = match watcher.stream(&mut client).await {
            Ok(None) => ApiError::local("UNAVAILABLE", "the service ended the stream; watch again later"),
            Ok(Some(order)) => return watcher.show_rest(&mut client, &order).await,
            // Also when what reads our output was too slow for it: nothing is lost.
            Err(ClientFailure::Api(error)) if error.is_unavailable() || error.is_overloaded() => error,
            Err(failure) => return Err(failure),
        };
        client = watcher.reconnect(error).await?;
    }
}

/// One line of JSON.
#[derive(Serialize)]
struct Line {
    event: EventJson,
    order: OrderJson,
}

struct Watcher<'a> {
    session: &'a Session,
    id: String,
    /// The last sequence shown.
    last: i64,
    /// Reconnects since then.
    reconnects: u32,
}

impl Watcher<'_> {
    /// Shows events until the order is at its end, which is answered, or the stream is.
    async fn stream(&mut self, client: &mut OrdersClient) -> Result<Option<Order>, ClientFailure> {
        let mut watch = client.watch(self.id.clone(), self.last).await?;
        while let Some(answer) = watch.next().await? {
            let (Some(event), Some(order)) = (answer.event, answer.order) else { continue };
            let at_end = is_terminal(&order);
            self.show(event, &order)?;
            if at_end {
                return Ok(Some(order));
            }
        }
        Ok(None)
    }

    /// Shows what is stored behind the last event shown, of an order to which nothing more will happen.
    async fn show_rest(&mut self, client: &mut OrdersClient, order: &Order) -> Result<(), ClientFailure> {
        for event in history::all_after(client, &self.id, self.last).await? {
            self.show(event, order)?;
        }
        Ok(())
    }

    fn show(&mut self, event: OrderEvent, order: &Order) -> Result<(), ClientFailure> {
        if event.sequence <= self.last {
            return Ok(());
        }
        self.last = event.sequence;
        self.reconnects = 0;
        let event = EventJson::from(event);
        if self.session.is_json() {
            print_line(&Line { event, order: OrderJson::from(order.clone()) })
        } else {
            print(&table::event(&event))
        }
    }

    /// Connects again after a pause, as often as is allowed; `error` is what is told in the end.
    async fn reconnect(&mut self, mut error: ApiError) -> Result<OrdersClient, ClientFailure> {
        while self.reconnects < MAX_RECONNECTS {
            let pause = pause_before(self.reconnects).max(error.details.retry_after.unwrap_or_default());
            self.reconnects = self.reconnects.saturating_add(1);
            if !self.session.is_json() {
                tell(&format!("connection lost; trying again ({} of {MAX_RECONNECTS})", self.reconnects));
            }
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
            match self.session.connect().await {
                Ok(client) => return Ok(client),
                Err(failure) if failure.is_unavailable() => error = failure,
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(error.into())
    }
}

fn pause_before(reconnects: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2u32.saturating_pow(reconnects)).min(LONGEST_PAUSE)
}

/// Whether nothing more will happen to the order's status.
fn is_terminal(order: &Order) -> bool {
    matches!(order.status(), OrderStatus::Cancelled | OrderStatus::Returned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u128> = (0..MAX_RECONNECTS).map(|n| pause_before(n).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000, 5_000]);
    }

    #[test]
    fn delivered_is_not_the_end() {
        let order = |status: OrderStatus| Order { status: status.into(), ..Default::default() };
        assert!(is_terminal(&order(OrderStatus::Cancelled)) && is_terminal(&order(OrderStatus::Returned)));
        assert!(!is_terminal(&order(OrderStatus::Delivered)) && !is_terminal(&order(OrderStatus::Pending)));
    }
}
