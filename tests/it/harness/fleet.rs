//! A client of several nodes, as a good gRPC client is one: it uses those that serve, in turn, and sends a call that
//! surely never reached one of them to another.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use order_service::clients::orders::Access;
use order_service::proto::order::order_service_client::OrderServiceClient;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// How often a node that is not there is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a connection may say nothing; so long again, and it is given up.
const SILENCE: Duration = Duration::from_secs(1);

/// A client of one of the nodes, which shows who calls.
pub type Client = OrderServiceClient<InterceptedService<Channel, Access>>;

/// The nodes. Clones share the connections.
#[derive(Clone)]
pub struct Fleet {
    places: Arc<[Place]>,
    turn: Arc<AtomicUsize>,
    _ends: Arc<DropGuard>,
}

struct Place {
    url: String,
    /// The connection, while there is one, and which of them it is.
    ready: watch::Sender<Option<Connection>>,
}

#[derive(Clone)]
struct Connection {
    number: u64,
    client: Client,
}

/// What became of a call.
#[derive(Debug)]
pub struct Sent<T> {
    /// The answer.
    pub answer: Result<T, Status>,
    /// The node that gave it; none when there is none that could be asked.
    pub node: Option<usize>,
    /// How often it went to another node because it surely had not reached the one before.
    pub moved: u32,
}

impl Fleet {
    /// The nodes at these URLs, whether they run or not.
    pub fn of(urls: impl Iterator<Item = String>) -> Self {
        Self::showing(urls, &Access::default())
    }

    /// As [`Self::of`], of callers that show this.
    pub fn showing(urls: impl Iterator<Item = String>, access: &Access) -> Self {
        let places: Arc<[Place]> = urls.map(|url| Place { url, ready: watch::Sender::new(None) }).collect();
        let ends = CancellationToken::new();
        for number in 0..places.len() {
            let (places, access) = (Arc::clone(&places), access.clone());
            let keeping = async move { places[number].keep(&access).await };
            tokio::spawn(ends.clone().run_until_cancelled_owned(keeping));
        }
        Self { places, turn: Arc::default(), _ends: Arc::new(ends.drop_guard()) }
    }

    /// Sends a call to one of the nodes that serve; waits for one until `deadline`.
    pub async fn send<T, F: Future<Output = Result<T, Status>>>(
        &self,
        deadline: Instant,
        call: impl Fn(Client) -> F,
    ) -> Sent<T> {
        let mut moved = 0;
        loop {
            let Ok((node, connection)) = timeout_at(deadline, self.next()).await else {
                let answer = Err(Status::unavailable("no node serves"));
                return Sent { answer, node: None, moved };
            };
            let answer = match timeout_at(deadline, call(connection.client.clone())).await {
                Ok(answer) => answer,
                Err(_) => Err(Status::deadline_exceeded("no answer in time")),
            };
            if let Err(status) = &answer {
                if is_broken(status) {
                    self.places[node].gave_up(connection.number);
                }
                if never_arrived(status) && Instant::now() < deadline {
                    moved += 1;
                    continue;
                }
            }
            return Sent { answer, node: Some(node), moved };
        }
    }

    /// As [`Self::send`], again and again until `deadline`, as long as the answer is none. The call has to be harmless
    /// when it is repeated.
    pub async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &self,
        deadline: Instant,
        patience: Duration,
        call: impl Fn(Client) -> F,
    ) -> (Sent<T>, u32) {
        let mut repeats = 0;
        let mut tick = interval(Duration::from_millis(20));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let sent = self.send(deadline.min(Instant::now() + patience), &call).await;
            let is_none = sent.answer.as_ref().err().is_some_and(is_no_answer);
            if !is_none || Instant::now() >= deadline {
                return (sent, repeats);
            }
            repeats += 1;
        }
    }

    /// Waits until each of these nodes serves this client.
    pub async fn reaches(&self, nodes: &[usize]) {
        for node in nodes {
            let mut ready = self.places[*node].ready.subscribe();
            let seen = timeout(Duration::from_secs(30), ready.wait_for(Option::is_some)).await;
            assert!(seen.is_ok_and(|seen| seen.is_ok()), "{} is not reached", self.places[*node].url);
        }
    }

    /// The next one in turn that serves.
    async fn next(&self) -> (usize, Connection) {
        // Even a timer that is due already costs a millisecond.
        if let Some(found) = self.ready() {
            return found;
        }
        let mut tick = interval(Duration::from_millis(5));
        loop {
            tick.tick().await;
            if let Some(found) = self.ready() {
                return found;
            }
        }
    }

    /// The next one in turn that serves now.
    fn ready(&self) -> Option<(usize, Connection)> {
        (0..self.places.len()).find_map(|_| {
            let node = self.turn.fetch_add(1, Ordering::Relaxed) % self.places.len();
            let connection = self.places[node].ready.borrow().clone()?;
            Some((node, connection))
        })
    }
}

impl Place {
    /// Keeps a connection to a node that serves.
    async fn keep(&self, access: &Access) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0.. {
            let client = loop {
                tick.tick().await;
                if let Ok(Some(client)) = timeout(SILENCE, connect(&self.url, access)).await {
                    break client;
                }
            };
            self.ready.send_replace(Some(Connection { number, client }));
            let mut ready = self.ready.subscribe();
            let _gone = ready.wait_for(Option::is_none).await;
        }
    }

    /// This connection is used no more.
    fn gave_up(&self, number: u64) {
        self.ready.send_if_modified(|ready| {
            let is_it = ready.as_ref().is_some_and(|connection| connection.number == number);
            if is_it {
                *ready = None;
            }
            is_it
        });
    }
}

/// A connection to a node that says it serves.
async fn connect(url: &str, access: &Access) -> Option<Client> {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    let endpoint = endpoint.connect_timeout(SILENCE).http2_keep_alive_interval(SILENCE);
    let channel = endpoint.keep_alive_timeout(SILENCE).keep_alive_while_idle(true).connect().await.ok()?;
    let health = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.ok()?;
    let client = || OrderServiceClient::with_interceptor(channel, access.clone());
    (health.into_inner().status() == ServingStatus::Serving).then(client)
}

/// Whether there is an error of this kind among the causes.
fn caused<E: Error + 'static>(status: &Status, is_it: impl Fn(&E) -> bool) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.downcast_ref::<E>().is_some_and(&is_it) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Whether a call surely reached no service: the connection was refused, was at its end before the call was sent, or
/// the node said that it will not look at it.
pub fn never_arrived(status: &Status) -> bool {
    caused::<tonic::ConnectError>(status, |_| true)
        // It was still in the queue when the connection ended.
        || caused::<hyper::Error>(status, hyper::Error::is_canceled)
        || caused::<h2::Error>(status, |error| {
            let graceful = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            error.is_remote() && (graceful || error.reason() == Some(h2::Reason::REFUSED_STREAM))
        })
}

/// Whether it is our side that says so, because of the connection.
fn is_broken(status: &Status) -> bool {
    status.source().is_some() || (status.code() == Code::DeadlineExceeded && status.details().is_empty())
}

/// Whether this tells nothing of what became of the call, or that it can be sent again.
pub fn is_no_answer(status: &Status) -> bool {
    let code = status.code();
    is_broken(status)
        || matches!(
            code,
            Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::DeadlineExceeded
        )
}
